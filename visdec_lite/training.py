"""One training loop that knows no model: rows in, weights out, and a run that can be cut anywhere.

In: a model, aligned rows (voxels, images, labels, ...) and a loss. Out: the trained model and its history.

**Randomness belongs to the step.** Whatever is random at step s (its rows, its masks, its dropout) is a pure
function of (seed, s). So a resumed run needs no saved random state, and on one CPU it repeats the
uninterrupted run bit for bit. The learning rate warms up along a line and follows half a cosine down
(Loshchilov and Hutter, 2017); `optimizers` says by which rule a weight learns; accelerate adds mixed
precision and many devices.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, patch_environment
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from visdec_lite.checkpoints import NAME, HistoryFile, read_checkpoint, write_checkpoint
from visdec_lite.fields import (
    BELOW_ONE,
    COUNT,
    POSITIVE,
    SEED,
    SHARE,
    WEIGHT,
    WHOLE,
    check_fields,
    number,
    one_of,
    several,
)
from visdec_lite.files import CannotWrite
from visdec_lite.identity import configs_of, differences, fingerprint_of, fingerprint_of_weights
from visdec_lite.optimizers import Rule, make_optimizers
from visdec_lite.processes import endings_interrupt, interrupts_wait, locked
from visdec_lite.progress import Bar

logger = logging.getLogger(__name__)


class RowsOnDisk(Protocol):
    """What rows may be read from besides tensors and arrays; `datasets.shards.Shards` is one."""

    content: str  # hash of these rows as they are read

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray) -> np.ndarray: ...


Rows = Tensor | np.ndarray | RowsOnDisk
Terms = dict[str, Tensor]
LossFunction = Callable[[nn.Module, dict[str, Tensor], torch.Generator], Terms]
ValidateFunction = Callable[[nn.Module], Mapping[str, float]]
ROWS, STEP, DROPOUT, VALIDATION = range(4)  # the random streams of a run; see `random_seed`
START, FROZEN = "weights it starts from", "frozen weights"  # their names in the identity of a run


@dataclass(frozen=True)
class TrainingConfig:
    """The numbers of one run; a checkpoint continues only under the same ones."""

    steps: int  # updates of the weights
    batch_size: int  # rows a forward pass, over all devices together
    learning_rate: float  # at its highest, after the warm-up
    optimizer: Rule = "adamw"  # how matrices learn: "adamw", or "muon", see `optimizers`; AdamW has the rest
    weight_decay: float = 0.05  # as in masked autoencoders; biases and norms (fewer than 2 axes) are spared
    betas: tuple[float, float] = (0.9, 0.95)  # memory of Adam; 0.95 forgets sooner than the usual 0.999
    warmup_fraction: float = 0.05  # share of the steps in which the learning rate grows from zero
    min_learning_rate_fraction: float = 0.0  # where the cosine ends, as a share of learning_rate
    gradient_clip: float = 0.8  # longest gradient that passes unshortened; inf leaves all as they are
    accumulate: int = 1  # forward passes a step: a step sees accumulate x batch_size rows
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    ema_decay: float = 0.0  # of the averaged weights that validation and the result use; 0 = no averaging
    validate_every: int = 0  # steps; 0 = only after the last
    checkpoint_every: int = 0  # steps; 0 = only after the last and when interrupted
    seed: int = 0
    log: Literal["csv", "tensorboard", "none"] = "csv"  # written to out_dir, if there is one

    def __post_init__(self) -> None:
        check_fields(self, {
            "steps": COUNT, "batch_size": COUNT, "accumulate": COUNT, "learning_rate": POSITIVE,
            "gradient_clip": number("a number > 0", lambda value: value > 0), "weight_decay": WEIGHT,
            "warmup_fraction": BELOW_ONE, "ema_decay": BELOW_ONE, "min_learning_rate_fraction": SHARE,
            "betas": several(BELOW_ONE, 2), "validate_every": WHOLE, "checkpoint_every": WHOLE, "seed": SEED,
            "optimizer": one_of("adamw", "muon"), "mixed_precision": one_of("no", "fp16", "bf16"),
            "log": one_of("csv", "tensorboard", "none"),
        })  # fmt: skip
        if self.optimizer == "muon" and self.mixed_precision == "fp16":
            raise ValueError(
                "optimizer='muon' with mixed_precision='fp16' makes two optimizers share one gradient scaler, which "
                "accelerate does not do; use 'bf16' or 'no', or optimizer='adamw'"
            )


@dataclass
class TrainingResult:
    """What a run leaves besides the weights.

    Attributes:
        history: in order, one dict a training step and one a validation: `step` (1 = after the first update),
            `split` ("train" or "val") and the terms; "train" adds `learning_rate` and the unclipped
            `gradient_norm`.
        best_step: the validated step whose monitored value was smallest; None without validation.
        best_value: that value.
        seconds: wall-clock time of the run, all its parts together.
        identity: all that shaped the run, see `identity`; what is made from its weights carries it on.
        steps_run: steps made by this call; 0 if the run was already finished.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best_step: int | None = None
    best_value: float = math.inf
    seconds: float = 0.0
    identity: dict[str, Any] = field(default_factory=dict)
    steps_run: int = 0


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C reached a run; the message says where the run is kept and how to go on."""


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Learning rate of the update after `step` updates: up a line, down half a cosine."""
    warmup = round(config.warmup_fraction * config.steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (config.steps - warmup)))
    lowest = config.min_learning_rate_fraction
    return config.learning_rate * (lowest + (1 - lowest) * cosine)


def ema_decay_at(step: int, config: TrainingConfig) -> float:
    """Decay of the averaged weights after `step` updates; small at first, to forget the random start."""
    return min(config.ema_decay, (1 + step) / (10 + step))


def random_seed(stream: int, seed: int, index: int, process: int = 0) -> int:
    """The seed of one purpose (`stream`) at one step or epoch (`index`), unrelated to every other one."""
    return int(np.random.SeedSequence((stream, seed, index, process)).generate_state(1, np.uint64)[0]) >> 1


@lru_cache(maxsize=2)  # a step may take the end of one epoch and the start of the next
def epoch_order(seed: int, epoch: int, num_rows: int) -> np.ndarray:
    """The order of the rows in one epoch, int64, shape (num_rows,)."""
    return np.random.default_rng(random_seed(ROWS, seed, epoch)).permutation(num_rows)


def rows_at(step: int, rows_per_step: int, num_rows: int, seed: int) -> np.ndarray:
    """Rows of one step, int64, shape (rows_per_step,): the next piece of one epoch's order after another."""
    epochs, places = np.divmod(np.arange(step * rows_per_step, (step + 1) * rows_per_step), num_rows)
    pieces = [epoch_order(seed, int(epoch), num_rows)[places[epochs == epoch]] for epoch in np.unique(epochs)]
    return np.concatenate(pieces)


def fit(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Mapping[str, Rows],
    config: TrainingConfig,
    *,
    out_dir: str | os.PathLike[str] | None = None,
    validate_fn: ValidateFunction | None = None,
    parameter_groups: Sequence[Mapping[str, Any]] | None = None,
    select: Literal["best", "last"] = "best",
    monitor: str = "loss",
    description: str = "",
    device: str | torch.device | None = None,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train what requires gradients in `model`, in place; go on from `out_dir` if a run is kept there.

    Args:
        model: any module. It moves to `device`; train / eval modes come back as they were. All of it is in
            train mode while training: a frozen part that must not be overrides `train()`. Frozen weights are
            neither changed nor kept in checkpoints: load them before resuming.
        loss_fn: `loss_fn(model, batch, generator)` -> terms, each of shape (); "loss" is minimised, the
            others are logged. `generator` lives on the CPU and is new at every step.
        data: name -> array, tensor, memory map or `RowsOnDisk`, shape (num_rows, ...); row i of all belongs
            together. A batch has the same names: tensors of shape (batch_size / processes, ...) on the device.
        config: the numbers of the run.
        out_dir: folder for checkpoint.safetensors, the one before it, and the log (history.csv: step, split, term,
            value). One process at a time.
        validate_fn: `validate_fn(model)` -> named numbers, where smaller `monitor` is better; called every
            `validate_every` steps and after the last, in eval mode, without gradients, with averaged weights.
        parameter_groups: dicts of "params" and "learning_rate_scale" (1 if missing) that cover all trainable
            parameters.
        select: which weights to leave in the model: those of the smallest `monitor`, or the last (averaged,
            if ema_decay is on). Without validate_fn it is the last.
        monitor: the number of validate_fn that "best" means.
        description: name on the progress bar.
        device: where to train; None lets accelerate choose.
        progress: show a progress bar; in a log file it is one line.
        settings: what else shapes the run and cannot be seen from here: numbers inside loss_fn, rows of validation.
            A name that the identity has anyway replaces what is found there: rows that were computed from others are
            better known by those.

    A checkpoint continues only the run that it is of: the same config, settings, model and numbers that built it,
    the same rows (by their bytes), the same weights to start from, frozen ones too.

    Returns:
        The history, the timings and the identity; `model` carries the weights.

    Raises:
        ValueError: data, parameter groups or the kept run do not fit; the message names each difference. Or another
            process is at out_dir.
        FloatingPointError: loss, gradient or validation is not finite; the model has the weights of the step before.
        CannotWrite: no room for a checkpoint; the one before it is still there.
        TrainingInterrupted: Ctrl-C, SIGTERM or SIGHUP; the run was written to out_dir first.
    """
    if select not in ("best", "last"):
        raise ValueError(f"select is {select!r}; expected 'best' or 'last'")
    run = _Run(model, loss_fn, data, config, validate_fn, parameter_groups, monitor, device, out_dir, settings)
    with locked(out_dir) if out_dir is not None and run.is_main else nullcontext(), endings_interrupt():
        return _fit(run, select, description, progress)


def _fit(run: _Run, select: str, description: str, progress: bool) -> TrainingResult:
    model, config = run.model, run.config
    modes = [(module, module.training) for module in model.modules()]
    first_step = run.load()
    hidden = not (progress and run.is_main)
    bar = Bar(total=config.steps, initial=first_step, desc=description, disable=hidden)
    out_dir = run.checkpoint.parent if run.checkpoint and run.is_main else None
    log = HistoryFile(out_dir, config.log, run.result.history)
    cuda = [run.device] if run.device.type == "cuda" else []
    started = time.perf_counter() - run.result.seconds
    model.train()
    try:
        with bar, log, torch.random.fork_rng(devices=cuda):  # the caller's random state stays as it was
            while not run.finished:
                row = run.validate() if run.validation_due else run.train_step()
                log.write(row)
                if row["split"] == "train":
                    bar.update()
                    bar.set_postfix(loss=f"{run.running_loss:.4g}", refresh=False)
                run.result.seconds = time.perf_counter() - started
                if run.checkpoint_due and not run.validation_due:
                    run.save()
    except KeyboardInterrupt as interrupt:
        run.save()
        kept = "nothing was kept; pass out_dir to be able to go on"
        if run.checkpoint:
            kept = f"kept in {run.checkpoint}; call fit again with the same arguments to go on"
        raise TrainingInterrupted(f"stopped after step {run.step} of {config.steps}; {kept}") from interrupt
    except CannotWrite as error:
        raise CannotWrite(error.errno, f"{error} (it was at step {run.step} of {config.steps})") from error
    finally:
        run.forget_gradients()
        for module, mode in modes:
            module.training = mode
    run.load_result(select)
    run.result.steps_run, run.result.identity = run.step - first_step, run.identity
    return run.result


class _Objective(nn.Module):
    """Model and loss as one module. Accelerate wraps this, so the loss sees the model itself, unwrapped."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> Terms:
        terms = self.loss_fn(self.model, batch, generator)
        if "loss" not in terms:
            raise KeyError(f"loss_fn returned the terms {sorted(terms)}; one must be called 'loss'")
        return {name: term if name == "loss" else term.detach() for name, term in terms.items()}


class _Run:
    """What changes from step to step, and the few things one can do with it."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        data: Mapping[str, Rows],
        config: TrainingConfig,
        validate_fn: ValidateFunction | None,
        parameter_groups: Sequence[Mapping[str, Any]] | None,
        monitor: str,
        device: str | torch.device | None,
        out_dir: str | os.PathLike[str] | None,
        settings: Mapping[str, Any] | None,
    ) -> None:
        self.settings = settings or {}
        self.accelerator = _accelerator(config, device)
        self.device, self.is_main = self.accelerator.device, self.accelerator.is_main_process
        self.model, self.data, self.config = model.to(self.device), data, config
        self.validate_fn, self.monitor = validate_fn, monitor
        self.num_rows = _count_rows(data, config.batch_size, self.accelerator.num_processes)
        self.trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.frozen = {name: weight for name, weight in model.named_parameters() if not weight.requires_grad}
        self.optimizers = make_optimizers(
            model, parameter_groups, config.optimizer, config.learning_rate, config.weight_decay, config.betas
        )
        self.forget_gradients()
        # accelerate's faces of the same optimizers: they step when a gradient is whole
        self.objective, *self.steppers = self.accelerator.prepare(_Objective(model, loss_fn), *self.optimizers)
        self.ema = [weight.detach().clone() for weight in self.trainable.values()] if config.ema_decay else []
        self.ema_is_in_model = False
        self.step, self.running_loss = 0, math.nan
        self.result, self.best_weights = TrainingResult(), None
        self.checkpoint = None if out_dir is None else Path(out_dir) / NAME
        self.identity = self.identify()

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups of all optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def forget_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    @property
    def validation_due(self) -> bool:
        every, history = self.config.validate_every, self.result.history
        at_this_step = self.step == self.config.steps or (self.step > 0 and every and self.step % every == 0)
        return bool(self.validate_fn and at_this_step and history[-1]["split"] == "train")

    @property
    def checkpoint_due(self) -> bool:
        every = self.config.checkpoint_every
        return self.step == self.config.steps or bool(every and self.step % every == 0)

    @property
    def finished(self) -> bool:
        return self.step >= self.config.steps and not self.validation_due

    @interrupts_wait()  # a step is made whole or not at all
    def train_step(self) -> dict[str, Any]:
        """One update from accumulate x batch_size rows; returns the row of the history."""
        config, accelerator, step = self.config, self.accelerator, self.step
        rank, processes = accelerator.process_index, accelerator.num_processes
        rows = rows_at(step, config.accumulate * config.batch_size, self.num_rows, config.seed)
        generator = torch.Generator().manual_seed(random_seed(STEP, config.seed, step, rank))
        torch.manual_seed(random_seed(DROPOUT, config.seed, step, rank))
        rate = learning_rate_at(step, config)
        for group in self.groups:
            group["lr"] = rate * group["learning_rate_scale"]

        sums: Tensor | float = 0.0
        for piece in rows.reshape(config.accumulate, processes, -1)[:, rank]:
            with accelerator.accumulate(self.objective):
                terms = self.objective(self.batch(piece), generator)
                accelerator.backward(terms["loss"])  # divides by accumulate
            sums = sums + torch.stack([term.detach().float() for term in terms.values()])
        norm = accelerator.clip_grad_norm_(list(self.trainable.values()), config.gradient_clip)
        means = accelerator.reduce(sums / config.accumulate, reduction="mean")
        *means, norm = torch.cat([means, norm.detach().float().reshape(1)]).tolist()  # waits for the device once
        values = dict(zip(terms, means, strict=True))
        if not math.isfinite(values["loss"]) or not (math.isfinite(norm) or accelerator.scaler):
            raise FloatingPointError(
                f"step {step + 1} is not finite: terms {values}, gradient norm {norm}; the weights of step "
                f"{step} are kept. Look for nan in the data, or lower learning_rate (here {rate:g})"
            )
        row = {"step": step + 1, "split": "train", **values, "learning_rate": rate, "gradient_norm": norm}
        for stepper in self.steppers:
            stepper.step()
        self.forget_gradients()
        if self.ema:
            update = get_ema_multi_avg_fn(ema_decay_at(step, config))
            update(self.ema, [weight.detach() for weight in self.trainable.values()], None)
        self.step += 1
        self.result.history.append(row)
        before = row["loss"] if math.isnan(self.running_loss) else self.running_loss
        self.running_loss = 0.98 * before + 0.02 * row["loss"]
        return row

    def batch(self, rows: np.ndarray) -> dict[str, Tensor]:
        """These rows of every array, on the device."""
        parts = {}
        for name, array in self.data.items():
            if isinstance(array, Tensor):
                part = array[torch.from_numpy(rows).to(array.device)]
            else:
                part = torch.from_numpy(array[rows])  # of a memory map or a pool on disk it reads only these
            parts[name] = part.to(self.device)
        return parts

    def validate(self) -> dict[str, Any]:
        """Look at the (averaged) weights; returns the row of the history."""
        torch.manual_seed(random_seed(VALIDATION, self.config.seed, self.step))
        self.model.eval()
        try:
            self.put_ema_into_model(True)
            with torch.no_grad():
                values = {name: float(value) for name, value in self.validate_fn(self.model).items()}
            if self.monitor not in values:
                raise KeyError(f"validate_fn returned {sorted(values)} and not {self.monitor!r}; set monitor")
            if not math.isfinite(values[self.monitor]):
                raise FloatingPointError(
                    f"validation after step {self.step} is not finite: {values}. Look for nan in the validation data, "
                    f"or lower learning_rate (here {self.config.learning_rate:g})"
                )
            row = {"step": self.step, "split": "val", **values}
            self.remember(row)
        finally:
            self.put_ema_into_model(False)
            self.model.train()
        return row

    @interrupts_wait()
    def remember(self, row: dict[str, Any]) -> None:
        """Add a validation to the history, and keep the weights if they are the best so far."""
        self.result.history.append(row)
        if row[self.monitor] < self.result.best_value:
            self.result.best_step, self.result.best_value = self.step, row[self.monitor]
            self.best_weights = {name: w.detach().to("cpu", copy=True) for name, w in self.weights().items()}

    @interrupts_wait()
    def put_ema_into_model(self, wanted: bool) -> None:
        """Exchange the trained and the averaged weights, if they are not yet where they are wanted."""
        if self.ema and wanted != self.ema_is_in_model:
            for weight, average in zip(self.trainable.values(), self.ema, strict=True):
                weight.data, average.data = average.data, weight.data
            self.ema_is_in_model = wanted

    def weights(self) -> dict[str, Tensor]:
        """All that training may change: trainable parameters, and buffers such as running means."""
        return {**self.trainable, **dict(self.model.named_buffers())}

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.weights().items():
                tensor.copy_(weights[name])

    def identify(self) -> dict[str, Any]:
        """Everything that shapes the run, as JSON keeps it."""
        scales = {id(weight): group["learning_rate_scale"] for group in self.groups for weight in group["params"]}
        learns = {name: f"{tuple(w.shape)} at rate x {scales[id(w)]}" for name, w in self.trainable.items()}
        facts = {
            **{f"training.{name}": value for name, value in asdict(self.config).items()},
            **{f"model.{name}": value for name, value in configs_of(self.model).items()},
            "monitor": self.monitor,
            **{f"data.{name}": fingerprint_of(array) for name, array in self.data.items()},
            **{f"parameter {name}": words for name, words in learns.items()},
            FROZEN: fingerprint_of_weights(self.frozen.items()),
            START: fingerprint_of_weights(self.trainable.items()),
            **self.settings,
        }
        return json.loads(json.dumps(facts, default=repr))

    def save(self) -> None:
        """Write the checkpoint, if there is a folder for it."""
        self.put_ema_into_model(False)
        if self.checkpoint is None or not self.is_main:
            return
        scaler = self.accelerator.scaler
        state = {
            "identity": self.identity,
            "step": self.step,
            "weights": {name: weight.detach() for name, weight in self.weights().items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": scaler.state_dict() if scaler else {},
            "ema": self.ema,
            "best_weights": self.best_weights,
            "result": {name: value for name, value in vars(self.result).items() if name != "identity"},
        }
        write_checkpoint(state, self.checkpoint)

    def load(self) -> int:
        """Go on from the checkpoint, if there is one; returns the step to go on from."""
        state = read_checkpoint(self.checkpoint) if self.checkpoint else None
        if state is None:
            return 0
        self.expect_own(state)
        self.set_weights(state["weights"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        for average, saved in zip(self.ema, state["ema"], strict=True):
            average.copy_(saved)
        self.step, self.best_weights = state["step"], state["best_weights"]
        self.result = TrainingResult(**state["result"])
        return self.step

    def expect_own(self, state: Mapping[str, Any]) -> None:
        """The checkpoint is of this run, and of no more steps than it has.

        A model that this very run has left (cut or finished) is as good a start as the one it began with: so a
        notebook's cell that was interrupted can be run again.
        """
        kept = state["identity"]
        averaged = dict(zip(self.trainable, state["ema"], strict=True)) if self.ema and state["ema"] else {}
        left = [{n: w for n, w in (part or {}).items() if n in self.trainable}
                for part in (state["weights"], averaged, state["best_weights"])]  # fmt: skip
        if self.identity[START] in {fingerprint_of_weights(weights.items()) for weights in left}:
            self.identity[START] = kept.get(START)
        if words := differences(kept, self.identity):
            raise ValueError(
                f"{self.checkpoint} is of another run: {words}. "
                "Go back to its settings, delete the checkpoints or choose another folder"
            )
        if not 0 <= state["step"] <= self.config.steps:
            raise ValueError(
                f"{self.checkpoint} is at step {state['step']}, of a run of {self.config.steps} steps; delete it"
            )

    def load_result(self, select: str) -> None:
        """Leave the weights in the model that the caller asked for."""
        if select == "best" and self.best_weights is not None:
            self.set_weights(self.best_weights)
        else:
            self.put_ema_into_model(True)


def _accelerator(config: TrainingConfig, device: str | torch.device | None) -> Accelerator:
    """A fresh accelerator: accelerate itself keeps the precision and device of the first one in a process.

    What an `accelerate config` of the user's says of torch.compile is left out: it would change the weights.
    """
    if (backend := os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()) != "no":
        logger.warning("ACCELERATE_DYNAMO_BACKEND=%s is ignored: runs here are not compiled", backend)
    AcceleratorState._reset_state(reset_partial_state=True)
    wanted = {} if device is None else {"ACCELERATE_TORCH_DEVICE": str(device)}
    with patch_environment(**wanted, ACCELERATE_DYNAMO_BACKEND="no"):
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=config.accumulate),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
    check_precision(config, accelerator.device.type)
    return accelerator


def check_precision(config: TrainingConfig, device_type: str) -> None:
    """Raise ValueError if a device ("cpu", "cuda", ...) cannot train at the precision of a config."""
    if config.mixed_precision == "fp16" and device_type == "cpu":
        raise ValueError("mixed_precision='fp16' needs a GPU and this run is on the CPU; use 'bf16' or 'no'")


def _count_rows(data: Mapping[str, Rows], batch_size: int, num_processes: int) -> int:
    """Rows that every array has."""
    lengths = {name: len(array) for name, array in data.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"data must be arrays of equally many rows, at least one array; got {lengths}")
    num_rows = next(iter(lengths.values()))
    if batch_size > num_rows:
        raise ValueError(f"batch_size is {batch_size}, the data have {num_rows} rows; lower batch_size")
    if batch_size % num_processes:
        raise ValueError(f"batch_size {batch_size} does not split among {num_processes} processes")
    return num_rows
