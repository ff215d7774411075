"""The training loop against closed forms, and against itself after every kind of accident."""

import csv
import logging
import math
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from visdec_lite import sealed, training
from visdec_lite.checkpoints import NAME, read_checkpoint, write_checkpoint
from visdec_lite.training import (
    TrainingConfig,
    TrainingInterrupted,
    TrainingResult,
    ema_decay_at,
    fit,
    learning_rate_at,
    rows_at,
)

CONFIG = TrainingConfig(steps=12, batch_size=4, learning_rate=0.05, warmup_fraction=0.25)


def linear_data(num_rows: int = 30, noise: float = 0.1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_rows, 3, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.3 + noise * torch.randn(num_rows, 1, generator=generator)
    return {"x": x, "y": y}


def small_model(dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(dropout), nn.Linear(8, 1))


def squared_error(model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    error = (model(batch["x"]) - batch["y"]).square().mean()
    return {"loss": error, "half": error / 2}


def noisy_error(model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    noise = 0.1 * torch.randn(batch["x"].shape, generator=generator)
    return squared_error(model, {**batch, "x": batch["x"] + noise}, generator)


def validation(model: nn.Module) -> dict[str, float]:
    data = linear_data()
    return {"loss": float((model(data["x"]) - data["y"]).square().mean())}


def run(model: nn.Module, config: TrainingConfig, loss_fn=squared_error, data=None, **options) -> TrainingResult:
    data = linear_data() if data is None else data
    return fit(model, loss_fn, data, config, progress=False, device="cpu", **options)


def weights_after(config: TrainingConfig, model: nn.Module | None = None, **options) -> dict[str, Tensor]:
    model = small_model() if model is None else model
    run(model, config, **options)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_identical(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def is_identical(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def listing(folder: Path) -> list[str]:
    """What lies in a folder, without the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


class Accident(Exception):
    """Stands for a killed process: nothing is written on the way out."""


def failing_at(call: int, error: BaseException, loss_fn=noisy_error):
    """A loss that raises `error` in its `call`-th call, counted from 1."""
    calls = iter(range(1, 10**6))

    def loss(model, batch, generator):
        if next(calls) == call:
            raise error
        return loss_fn(model, batch, generator)

    return loss


# --- learning ---------------------------------------------------------------------------------------------


def test_linear_regression_reaches_the_closed_form():
    data = linear_data()
    model = nn.Linear(3, 1)
    config = TrainingConfig(400, 30, 0.1, weight_decay=0.0, gradient_clip=math.inf)
    result = run(model, config, data=data)
    design = torch.cat([data["x"], torch.ones(30, 1)], dim=1)
    solution = torch.linalg.lstsq(design, data["y"]).solution[:, 0]
    found = torch.cat([model.weight[0], model.bias]).detach()
    torch.testing.assert_close(found, solution, atol=1e-4, rtol=0)
    assert result.steps_run == 400
    assert result.history[-1]["loss"] < result.history[0]["loss"] / 10


def test_learning_rate_follows_line_and_cosine():
    config = TrainingConfig(120, 4, 0.2, warmup_fraction=1 / 6, min_learning_rate_fraction=0.1)
    assert learning_rate_at(0, config) == pytest.approx(0.2 / 20)
    assert learning_rate_at(9, config) == pytest.approx(0.1)
    assert learning_rate_at(19, config) == learning_rate_at(20, config) == pytest.approx(0.2)
    assert learning_rate_at(70, config) == pytest.approx(0.2 * 0.55)  # half way down from 1 to 0.1
    assert learning_rate_at(120, config) == pytest.approx(0.02)
    flat = TrainingConfig(10, 4, 0.2, warmup_fraction=0, min_learning_rate_fraction=1)
    assert {learning_rate_at(step, flat) for step in range(10)} == {0.2}


def test_each_epoch_sees_each_row_once():
    stream = np.concatenate([rows_at(step, 4, num_rows=10, seed=3) for step in range(5)])
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert list(stream[:10]) != list(stream[10:])
    assert list(rows_at(2, 4, 10, seed=3)) == list(stream[8:12])  # one step reaches into the next epoch
    assert sorted(rows_at(0, 30, 10, seed=3)) == sorted([*range(10)] * 3)


def test_accumulation_equals_the_larger_batch():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = weights_after(replace(CONFIG, batch_size=8), model)
    model.load_state_dict(start)
    parts = weights_after(replace(CONFIG, batch_size=4, accumulate=2), model)
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], atol=1e-6, rtol=1e-5)


def test_gradient_clip_bounds_the_gradient(monkeypatch):
    lengths = []
    step = torch.optim.AdamW.step

    def recording(self, closure=None):
        grads = [weight.grad.flatten() for group in self.param_groups for weight in group["params"]]
        lengths.append(float(torch.cat(grads).norm()))
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", recording)
    result = run(small_model(), replace(CONFIG, gradient_clip=0.1))
    unclipped = [row["gradient_norm"] for row in result.history]
    assert len(lengths) == 12 and min(unclipped) > 0.1
    assert lengths == pytest.approx([0.1] * 12, rel=1e-4)


def test_one_adam_step_at_its_closed_form():
    """From zero moments Adam's first step is -rate * sign(gradient); decay shrinks the matrix alone."""
    model = nn.Linear(3, 1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run(model, TrainingConfig(1, 4, 0.01, weight_decay=0.5, warmup_fraction=0), data={"x": torch.ones(4, 3)},
        loss_fn=lambda model, batch, generator: {"loss": 100 + model(batch["x"]).mean()})  # fmt: skip
    torch.testing.assert_close(model.weight.detach(), before["weight"] * (1 - 0.01 * 0.5) - 0.01)
    torch.testing.assert_close(model.bias.detach(), before["bias"] - 0.01)


def test_parameter_groups_scale_the_learning_rate():
    model = nn.ModuleDict({"encoder": nn.Linear(1, 1, bias=False), "head": nn.Linear(1, 1, bias=False)})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    groups = [
        {"params": model["encoder"].parameters(), "learning_rate_scale": 0.1},
        {"params": model["head"].parameters()},
    ]

    def loss(model, batch, generator):
        return {"loss": (model["encoder"](batch["x"]) + model["head"](batch["x"])).mean()}

    config = TrainingConfig(1, 4, 0.01, weight_decay=0, warmup_fraction=0)
    run(model, config, loss, {"x": torch.ones(4, 1)}, parameter_groups=groups)
    torch.testing.assert_close(model["encoder"].weight.detach(), before["encoder.weight"] - 0.001)
    torch.testing.assert_close(model["head"].weight.detach(), before["head.weight"] - 0.01)


def test_averaged_weights_at_their_closed_form():
    seen = []

    def loss(model, batch, generator):
        seen.append(model.weight.detach().clone())
        return squared_error(model, batch, generator)

    config = replace(CONFIG, ema_decay=0.5)
    assert [ema_decay_at(step, config) for step in (0, 1, 100)] == [0.1, 2 / 11, 0.5]
    model = nn.Linear(3, 1)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run(model, replace(config, ema_decay=0.0), loss)
    expected, trajectory = seen[0], [*seen[1:], model.weight.detach().clone()]  # after each of the 12 updates
    for step, weight in enumerate(trajectory):
        decay = ema_decay_at(step, config)
        expected = decay * expected + (1 - decay) * weight
    model.load_state_dict(start)
    run(model, config)
    torch.testing.assert_close(model.weight.detach(), expected)


def test_validation_sees_averaged_weights_in_eval_mode_without_gradients():
    seen = []

    def look(model):
        seen.append((model.training, torch.is_grad_enabled(), model[3].weight.detach().clone()))
        return {"loss": -float(len(seen))}  # always better, so the last is the best

    model = small_model()
    run(model, replace(CONFIG, ema_decay=0.9, validate_every=5), validate_fn=look)
    assert [entry[:2] for entry in seen] == [(False, False)] * 3  # steps 5, 10 and 12
    assert torch.equal(seen[-1][2], model[3].weight)
    trained = small_model()
    run(trained, CONFIG)
    assert not torch.equal(trained[3].weight, model[3].weight)


# --- what must stay as it was -----------------------------------------------------------------------------


def test_frozen_weights_stay_bit_for_bit():
    model = small_model()
    model[0].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model[0].state_dict().items()}
    run(model, replace(CONFIG, weight_decay=0.9, ema_decay=0.5))
    assert_identical(before, model[0].state_dict())
    assert all(weight.grad is None for weight in model.parameters())


def test_modes_and_random_state_come_back():
    model = small_model(dropout=0.5)
    model.train()
    model[2].eval()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(model, CONFIG, noisy_error, validate_fn=validation)
    assert torch.equal(torch.rand(3), expected)
    assert [part.training for part in model] == [True, True, False, True]
    model.eval()
    run(model, CONFIG)
    assert not any(part.training for part in model.modules())


def test_a_memory_map_trains_like_a_tensor(tmp_path):
    data = linear_data()
    np.save(tmp_path / "x.npy", data["x"].numpy())
    mapped = {"x": np.load(tmp_path / "x.npy", mmap_mode="r"), "y": data["y"].numpy()}
    assert isinstance(mapped["x"], np.memmap)
    assert_identical(weights_after(CONFIG, data=mapped), weights_after(CONFIG))


# --- accidents --------------------------------------------------------------------------------------------

VARIANTS = {
    "plain": CONFIG,
    "ema": replace(CONFIG, ema_decay=0.8),
    "accumulate": replace(CONFIG, accumulate=3),
    "best": replace(CONFIG, validate_every=2, ema_decay=0.5),
    "bf16": replace(CONFIG, mixed_precision="bf16"),
    "muon": replace(CONFIG, optimizer="muon", accumulate=2),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), Accident()], ids=["interrupted", "killed"])
def test_resumed_run_is_the_uninterrupted_run(name, error, tmp_path):
    """Bit for bit: weights, the optimizers' moments, history; a kill loses the steps since the checkpoint."""
    config = replace(VARIANTS[name], checkpoint_every=3)
    if isinstance(error, KeyboardInterrupt):
        config = replace(config, checkpoint_every=0)
    model, options = small_model(0.3), {"validate_fn": validation if config.validate_every else None}
    model[1] = nn.Identity()  # an error raised amid a step would leave half a step in running means
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = run(model, config, noisy_error, out_dir=tmp_path / "whole", **options)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    model.load_state_dict(start)
    raised = TrainingInterrupted if isinstance(error, KeyboardInterrupt) else Accident
    with pytest.raises(raised):
        run(model, config, failing_at(8 * config.accumulate, error), out_dir=tmp_path / "cut", **options)
    model = small_model(0.3)
    model[1] = nn.Identity()
    resumed = run(model, config, noisy_error, out_dir=tmp_path / "cut", **options)

    assert resumed.steps_run == (12 - 7 if raised is TrainingInterrupted else 12 - 6)
    assert_identical(expected, model.state_dict())
    assert resumed.history == whole.history
    assert (resumed.best_step, resumed.best_value) == (whole.best_step, whole.best_value)
    kept = [read_checkpoint(tmp_path / part / NAME) for part in ("whole", "cut")]
    for pair in zip(*(state["optimizers"] for state in kept), strict=True):
        for one, two in zip(*(optimizer["state"].values() for optimizer in pair), strict=True):
            assert_identical(one, two)
    assert (tmp_path / "whole" / "history.csv").read_text() == (tmp_path / "cut" / "history.csv").read_text()


def test_ctrl_c_waits_for_the_end_of_the_step(tmp_path):
    """A real signal amid a step: the step is finished, kept, and running means are whole."""
    calls = []

    def pressing(model, batch, generator):
        calls.append(1)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        return noisy_error(model, batch, generator)

    handler = signal.getsignal(signal.SIGINT)
    model = small_model(0.3)
    with pytest.raises(TrainingInterrupted, match=r"after step 5 of 12; kept in .*\.safetensors; call fit again"):
        run(model, CONFIG, pressing, out_dir=tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert run(model, CONFIG, noisy_error, out_dir=tmp_path).steps_run == 7
    assert_identical(model.state_dict(), weights_after(CONFIG, small_model(0.3), loss_fn=noisy_error))


def test_interrupted_validation_is_made_up_for(tmp_path):
    config = replace(CONFIG, validate_every=4, ema_decay=0.5)

    def impatient(model):
        raise KeyboardInterrupt

    model = small_model()
    with pytest.raises(TrainingInterrupted, match="after step 4 of 12"):
        run(model, config, out_dir=tmp_path, validate_fn=impatient)
    result = run(model, config, out_dir=tmp_path, validate_fn=validation)
    whole = small_model()
    assert run(whole, config, validate_fn=validation).history == result.history
    assert_identical(whole.state_dict(), model.state_dict())


def test_interrupt_without_a_folder_says_that_nothing_is_kept():
    with pytest.raises(TrainingInterrupted, match="after step 2 of 12; nothing was kept; pass out_dir"):
        run(small_model(), CONFIG, failing_at(3, KeyboardInterrupt()))


def test_kill_amid_writing_loses_that_checkpoint_only(tmp_path, monkeypatch):
    config = replace(CONFIG, checkpoint_every=3)
    save, calls = sealed.save_file, []

    def half(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 3:  # step 9
            Path(path).write_bytes(b"half a file")
            raise Accident
        save(tensors, path, metadata)

    monkeypatch.setattr(sealed, "save_file", half)
    with pytest.raises(Accident):
        run(small_model(), config, noisy_error, out_dir=tmp_path)
    monkeypatch.undo()
    assert listing(tmp_path) == ["checkpoint.previous.safetensors", "checkpoint.safetensors", "history.csv"]
    model = small_model()
    assert run(model, config, noisy_error, out_dir=tmp_path).steps_run == 6
    assert_identical(model.state_dict(), weights_after(config, loss_fn=noisy_error))


@pytest.mark.parametrize("damage", ["cut", "empty", "other bytes", "gone"])
def test_unreadable_checkpoint_falls_back_to_the_one_before(damage, tmp_path, caplog):
    config = replace(CONFIG, checkpoint_every=5)  # checkpoints at 5, 10 and 12
    run(small_model(), config, noisy_error, out_dir=tmp_path)
    last = tmp_path / "checkpoint.safetensors"
    whole = last.read_bytes()
    if damage == "gone":
        last.unlink()
    else:
        damaged = {"cut": whole[: len(whole) // 2], "empty": b"", "other bytes": b"not a checkpoint"}
        last.write_bytes(damaged[damage])
    model = small_model()
    with caplog.at_level(logging.WARNING):
        assert run(model, config, noisy_error, out_dir=tmp_path).steps_run == 2
    assert ("is damaged" in caplog.text) == (damage != "gone")
    assert (tmp_path / "checkpoint.broken.safetensors").exists() == (damage != "gone")
    assert_identical(model.state_dict(), weights_after(config, loss_fn=noisy_error))


def test_no_readable_checkpoint_is_an_error(tmp_path):
    for name in ("checkpoint.safetensors", "checkpoint.previous.safetensors"):
        (tmp_path / name).write_bytes(b"?")
    with pytest.raises(ValueError, match=r"no checkpoint can be read: .*delete them to start anew"):
        run(small_model(), CONFIG, out_dir=tmp_path)


def test_finished_run_returns_at_once_with_its_weights(tmp_path):
    model = small_model()
    config = replace(CONFIG, validate_every=3)
    first = run(model, config, out_dir=tmp_path, validate_fn=validation)
    other = small_model()
    again = run(other, config, failing_at(1, Accident()), out_dir=tmp_path, validate_fn=validation)
    assert again.steps_run == 0 and again.history == first.history
    assert again.seconds == first.seconds > 0
    assert_identical(model.state_dict(), other.state_dict())


def test_checkpoint_of_another_run_names_each_difference(tmp_path):
    run(small_model(), CONFIG, out_dir=tmp_path)
    other = replace(CONFIG, learning_rate=0.01, seed=7)
    with pytest.raises(ValueError) as caught:
        run(small_model(), other, out_dir=tmp_path)
    for words in ("learning_rate was 0.05, now 0.01", "seed was 0, now 7", "choose another folder"):
        assert words in str(caught.value)
    assert "batch_size" not in str(caught.value)
    wide = nn.Sequential(nn.Linear(3, 9), nn.Linear(9, 1))
    with pytest.raises(ValueError, match=r"parameter 0.weight was '\(8, 3\) at rate x 1.0', now '\(9, 3\)"):
        run(wide, CONFIG, out_dir=tmp_path)
    with pytest.raises(ValueError, match=r"data.x was '\(30, 3\) \w{16}', now '\(20, 3\) \w{16}'"):
        run(small_model(), CONFIG, data=linear_data(20), out_dir=tmp_path)


def test_not_finite_loss_stops_before_the_update():
    model = small_model()
    model[1] = nn.Identity()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = linear_data()
    data["x"][:] = math.nan
    with pytest.raises(FloatingPointError, match=r"step 1 is not finite: terms {'loss': nan.*lower learning_rate"):
        run(model, CONFIG, data=data)
    assert_identical(before, model.state_dict())


def test_not_finite_validation_is_an_error_as_in_training(tmp_path):
    looks = iter([0.5, math.nan])
    config = replace(CONFIG, validate_every=4, checkpoint_every=4)
    with pytest.raises(FloatingPointError, match=r"validation after step 8 is not finite: {'loss': nan}"):
        run(small_model(), config, out_dir=tmp_path, validate_fn=lambda model: {"loss": next(looks)})
    assert read_checkpoint(tmp_path / NAME)["step"] == 4


def test_a_checkpoint_beyond_the_last_step_is_refused(tmp_path):
    """It would train for ever: a step that is never equal to the number of steps."""
    run(small_model(), CONFIG, out_dir=tmp_path)
    state = read_checkpoint(tmp_path / NAME)
    for step in (13, -1):
        write_checkpoint({**state, "step": step}, tmp_path / NAME)
        with pytest.raises(ValueError, match=rf"is at step {step}, of a run of 12 steps; delete it"):
            run(small_model(), CONFIG, out_dir=tmp_path)


def test_what_accelerate_was_configured_to_compile_changes_nothing(monkeypatch, caplog):
    plain = weights_after(CONFIG)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "AOT_EAGER")
    assert_identical(plain, weights_after(CONFIG))
    assert "ACCELERATE_DYNAMO_BACKEND=aot_eager is ignored" in caplog.text


# --- choices ----------------------------------------------------------------------------------------------


def test_best_and_last():
    values, seen = iter([3.0, 1.0, 2.0]), []

    def scripted(model):
        seen.append(model[3].weight.detach().clone())
        return {"error": next(values)}

    model, config = small_model(), replace(CONFIG, validate_every=4)
    result = run(model, config, validate_fn=scripted, monitor="error")
    assert (result.best_step, result.best_value) == (8, 1.0)
    assert torch.equal(model[3].weight, seen[1])
    values = iter([3.0, 1.0, 2.0])
    last = small_model()
    run(last, config, validate_fn=scripted, monitor="error", select="last")
    assert torch.equal(last[3].weight, seen[2])
    assert [row["step"] for row in result.history if row["split"] == "val"] == [4, 8, 12]


def test_history_file_holds_the_history(tmp_path):
    result = run(small_model(), replace(CONFIG, validate_every=6), out_dir=tmp_path, validate_fn=validation)
    with (tmp_path / "history.csv").open() as file:
        found = {(int(r["step"]), r["split"], r["term"]): float(r["value"]) for r in csv.DictReader(file)}
    expected = {
        (row["step"], row["split"], name): value
        for row in result.history
        for name, value in row.items()
        if name not in ("step", "split")
    }
    assert found == expected
    assert {term for _, split, term in found if split == "train"} == {
        "loss", "half", "learning_rate", "gradient_norm"}  # fmt: skip
    assert len(found) == 12 * 4 + 2
    assert found[1, "train", "half"] == pytest.approx(found[1, "train", "loss"] / 2)


KNOBS = {
    "steps": 13, "batch_size": 5, "learning_rate": 0.06, "weight_decay": 0.5, "betas": (0.8, 0.9),
    "warmup_fraction": 0.5, "min_learning_rate_fraction": 0.5, "gradient_clip": 0.1, "accumulate": 2,
    "mixed_precision": "bf16", "ema_decay": 0.9, "seed": 1, "validate_every": 3, "optimizer": "muon",
}  # fmt: skip


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_changes_the_weights(name):
    looks = iter(range(100))  # each look is worse than the one before, so the first is the best
    other = replace(CONFIG, **{name: KNOBS[name]})
    options = {"validate_fn": lambda model: {"loss": next(looks)}} if name == "validate_every" else {}
    assert not is_identical(weights_after(CONFIG, **options), weights_after(other, **options))


def test_the_remaining_knobs_change_the_files(tmp_path):
    run(small_model(), replace(CONFIG, checkpoint_every=5), out_dir=tmp_path / "often")
    run(small_model(), CONFIG, out_dir=tmp_path / "once")
    run(small_model(), replace(CONFIG, log="none"), out_dir=tmp_path / "none")
    names = {folder.name: listing(folder) for folder in tmp_path.iterdir()}
    assert names["often"] == ["checkpoint.previous.safetensors", "checkpoint.safetensors", "history.csv"]
    assert names["once"] == ["checkpoint.safetensors", "history.csv"]
    assert names["none"] == ["checkpoint.safetensors"]
    assert {*KNOBS, "checkpoint_every", "log"} == set(TrainingConfig.__dataclass_fields__)


def test_tensorboard_events_are_written(tmp_path):
    pytest.importorskip("tensorboard")
    run(small_model(), replace(CONFIG, log="tensorboard"), out_dir=tmp_path)
    assert list(tmp_path.glob("events.out.tfevents.*")) and not (tmp_path / "history.csv").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0}, {"batch_size": 2.5}, {"learning_rate": 0}, {"learning_rate": math.nan},
        {"weight_decay": -1}, {"betas": (0.9, 1.0)}, {"warmup_fraction": 1.0}, {"gradient_clip": 0},
        {"min_learning_rate_fraction": 1.1}, {"accumulate": 0}, {"mixed_precision": "fp8"},
        {"ema_decay": 1.0}, {"validate_every": -1}, {"checkpoint_every": -1}, {"seed": -1}, {"log": "wandb"},
        {"optimizer": "sgd"},
    ],
)  # fmt: skip
def test_config_rejects_what_means_nothing(values):
    with pytest.raises(ValueError, match=f"TrainingConfig.{next(iter(values))} is .*; expected"):
        replace(CONFIG, **values)


def test_muon_and_a_gradient_scaler_are_refused_together():
    with pytest.raises(ValueError, match=r"optimizer='muon' with mixed_precision='fp16'.*use 'bf16'"):
        replace(CONFIG, optimizer="muon", mixed_precision="fp16")


def test_errors_name_the_way_out():
    data = linear_data()
    with pytest.raises(ValueError, match=r"equally many rows.*'x': 30, 'y': 29"):
        run(small_model(), CONFIG, data={"x": data["x"], "y": data["y"][:29]})
    with pytest.raises(ValueError, match=r"batch_size is 31, the data have 30 rows; lower batch_size"):
        run(small_model(), replace(CONFIG, batch_size=31))
    with pytest.raises(ValueError, match=r"0 parameters require gradients; unfreeze"):
        run(small_model().requires_grad_(False), CONFIG)
    model = small_model()
    with pytest.raises(ValueError, match=r"4 trainable parameters are in no parameter group \(1\.weight"):
        run(model, CONFIG, parameter_groups=[{"params": model[0].parameters()}])
    with pytest.raises(ValueError, match=r"0\.weight occurs twice"):
        run(model, CONFIG, parameter_groups=[{"params": model.parameters()}, {"params": model.parameters()}])
    with pytest.raises(ValueError, match=r"\(1, 2\) is not part of the model"):
        run(model, CONFIG, parameter_groups=[{"params": nn.Linear(2, 1).parameters()}])
    with pytest.raises(ValueError, match=r"fp16.*needs a GPU.*bf16"):
        run(model, replace(CONFIG, mixed_precision="fp16"))
    with pytest.raises(KeyError, match=r"one must be called 'loss'"):
        run(model, CONFIG, lambda model, batch, generator: {"error": model(batch["x"]).sum()})
    with pytest.raises(KeyError, match=r"validate_fn returned \['error'\] and not 'loss'"):
        run(model, CONFIG, validate_fn=lambda model: {"error": 1.0})
    with pytest.raises(ValueError, match=r"select is 'first'"):
        run(model, CONFIG, select="first")


def test_each_step_draws_its_own_noise_and_draws_it_again():
    def draws():
        seen = []

        def loss(model, batch, generator):
            seen.append((float(torch.rand(1, generator=generator)), float(torch.rand(1))))  # masks, dropout
            return squared_error(model, batch, generator)

        run(small_model(), CONFIG, loss)
        return seen

    first = draws()
    assert len({number for pair in first for number in pair}) == 2 * 12
    assert draws() == first


def test_seeds_of_different_purposes_differ():
    seeds = [
        training.random_seed(*key)
        for key in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 2**40, 0, 0)]
    ]
    assert len(set(seeds)) == 6 and all(0 <= seed < 2**63 for seed in seeds)
