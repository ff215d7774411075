"""A result is of what its file says: whatever shaped a run, a change of it is refused and named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from visdec_lite import chain
from visdec_lite.datasets.arrays import from_arrays
from visdec_lite.datasets.base import BrainDataset
from visdec_lite.identity import configs_of, differences, fingerprint_of, fingerprint_of_weights, flat
from visdec_lite.presets import Preset, preset
from visdec_lite.weights import read_metadata

STEPS = {"pretrain": "pretraining", "fuse": "fusing", "finetune": "finetuning"}
SHORT = {f"{name}.{field}": value for name in STEPS.values() for field, value in (("steps", 2), ("batch_size", 8))}


def data_of(seed: int = 0) -> BrainDataset:
    rng = np.random.default_rng(seed)

    def rows(n: int) -> dict[str, np.ndarray]:
        pictures = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        return {"voxels": rng.normal(size=(n, 256)).astype(np.float32), "images": pictures}

    return from_arrays(rows(40), rows(8), val_fraction=0.2)


def with_rows(data: BrainDataset, split: str, **columns: np.ndarray) -> BrainDataset:
    return replace(data, splits={**data.splits, split: replace(data[split], **columns)})


def train(folder: Path, data: BrainDataset, chosen: Preset, stage: str, seed: int = 0, world: int = 0) -> chain.Run:
    run = chain.Run(folder, options={"progress": False, "device": "cpu"})
    chain.train_brain(data, chain.new_world(chosen, world), chosen, seed, run, until=stage)
    return run


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A finished run of all stages; the tests only ask whether something else is taken for it."""
    folder = tmp_path_factory.mktemp("kept")
    train(folder, data_of(), preset("smoke", **SHORT), "finetune")
    return folder


CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("pretrain", {"autoencoder.mask_ratio": 0.25, "autoencoder.voxel_dropout": 0.9},
     r"config\.mask_ratio was 0\.75, now 0\.25; .*voxel_dropout was .*, now 0\.9"),
    ("pretrain", {"autoencoder.temperature": 0.5}, r"config\.temperature was 0\.1, now 0\.5"),
    ("pretrain", {"autoencoder.weight_cross": 0.0}, r"config\.weight_cross was 0\.5, now 0\.0"),
    ("pretrain", {"autoencoder.num_heads": 2}, r"config\.num_heads was 4, now 2"),
    ("pretrain", {"pretraining.learning_rate": 0.5}, r"training\.learning_rate was 0\.001, now 0\.5"),
    ("fuse", {"fusion.image_mask_ratio": 0.5}, r"config\.image_mask_ratio was 0\.9, now 0\.5"),
    ("fuse", {"fusion.weight_image": 0.1}, r"config\.weight_image was .*, now 0\.1"),
    ("finetune", {"diffusion.beta_end": 0.03}, r"config\.beta_end was .*, now 0\.03"),
    ("finetune", {"tuning.timestep_bias": 2.0}, r"timestep_bias was 0\.5, now 2\.0"),
    ("finetune", {"tuning.condition_dropout": 0.5}, r"condition_dropout was 0\.1, now 0\.5"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "change", "words"), CHANGES, ids=lambda value: str(value)[:40])
def test_other_numbers_are_refused_and_named(kept, stage, change, words):
    with pytest.raises(ValueError, match=rf"is of another run: .*{words}") as caught:
        train(kept, data_of(), preset("smoke", **SHORT, **change), stage)
    assert "choose another folder" in str(caught.value)


def reordered(data: BrainDataset) -> BrainDataset:
    return replace(data, splits={n: replace(s, voxels=s.voxels[:, ::-1].copy()) for n, s in data.splits.items()})


OTHER_DATA = {
    "another seed of the data": (data_of(1), r"data\.voxels was .*, now"),
    "voxels in another order": (reordered(data_of()), r"data\.voxels was"),
    "one value of one voxel": (
        with_rows(data_of(), "train", voxels=data_of()["train"].voxels + np.eye(1, 256, dtype=np.float32)[0] * 1e-3),
        r"data\.voxels was",
    ),
    "other validation rows": (
        with_rows(data_of(), "val", voxels=data_of()["val"].voxels[::-1].copy()), r"validation\.voxels was",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_DATA)
def test_other_rows_are_refused(kept, name):
    data, words = OTHER_DATA[name]
    with pytest.raises(ValueError, match=words):
        train(kept, data, preset("smoke", **SHORT), "pretrain")


def test_other_pictures_are_refused_where_pictures_are_seen(kept):
    data = data_of()
    other = with_rows(data, "train", images=data["train"].images[::-1].copy())
    train(kept, other, preset("smoke", **SHORT), "pretrain")  # phase 1 sees none
    with pytest.raises(ValueError, match=r"stages/fuse/.* data\.images was"):
        train(kept, other, preset("smoke", **SHORT), "fuse")


def test_another_frozen_world_is_refused(kept):
    chosen = preset("smoke", **SHORT)
    train(kept, data_of(), chosen, "pretrain", world=7)
    with pytest.raises(ValueError, match=r"stages/fuse/.* frozen weights was '\w{16}', now '\w{16}'"):
        train(kept, data_of(), chosen, "fuse", world=7)


def test_another_start_is_refused_and_the_same_run_is_taken(kept):
    chosen = preset("smoke", **SHORT)
    with pytest.raises(ValueError, match=r"weights it starts from was '\w{16}', now"):
        train(kept, data_of(), chosen, "pretrain", seed=1)
    again = train(kept, data_of(), chosen, "finetune")
    for stage in STEPS:  # the same identity stands in the weights
        assert read_metadata(kept / f"{stage}.safetensors")["identity"] == again.identities[stage]
        assert again.identities[stage][f"training.{'steps'}"] == 2


def test_a_model_that_the_run_has_left_may_go_on(tmp_path):
    """As in a notebook: the same cell again, whose model has learnt in place."""
    from visdec_lite import stages

    chosen, data = preset("smoke", **SHORT), data_of()
    brain = chain.new_brain(chosen, 256, chain.new_world(chosen, 0), 0)
    rows = data["train"].voxels, data["train"].images, data["val"].voxels, data["val"].images

    def cell(how: Preset) -> dict[str, torch.Tensor]:
        stages.finetune(
            brain.conditioned, *rows, how.finetuning, how.tuning, out_dir=tmp_path, progress=False, device="cpu"
        )
        return {name: weights.clone() for name, weights in brain.conditioned.state_dict().items()}

    first, again = cell(chosen), cell(chosen)
    assert all(first[name].equal(again[name]) for name in first)
    with pytest.raises(ValueError, match="weights it starts from"):
        brain = chain.new_brain(chosen, 256, chain.new_world(chosen, 0), 5)
        cell(chosen)


# --- the words ---


def test_fingerprints_know_values_types_and_shapes():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert fingerprint_of(values) == fingerprint_of(torch.from_numpy(values)) == fingerprint_of(values.copy())
    others = [values.T.copy(), values.astype(np.float64), values.reshape(4, 3), values + 1, values[:2], values[::-1]]
    assert len({fingerprint_of(v) for v in (values, *others)}) == 7
    assert fingerprint_of(values[:, ::2]) == fingerprint_of(values[:, ::2].copy())
    assert fingerprint_of(torch.tensor(3)).startswith("() ")
    assert fingerprint_of(np.zeros((0, 4))).startswith("(0, 4) ")


def test_fingerprints_of_a_memory_map_are_those_of_its_values(tmp_path, monkeypatch):
    from visdec_lite import identity

    monkeypatch.setattr(identity, "BLOCK", 64)
    values = np.random.default_rng(0).normal(size=(50, 3))
    np.save(tmp_path / "a.npy", values)
    whole = fingerprint_of(values)
    monkeypatch.setattr(identity, "BLOCK", 1 << 26)
    assert fingerprint_of(np.load(tmp_path / "a.npy", mmap_mode="r")) == whole == fingerprint_of(values)


def test_weights_are_known_by_name_and_value():
    one = {"a": torch.ones(2), "b": torch.zeros(2)}
    swapped = {"a": torch.zeros(2), "b": torch.ones(2)}
    assert fingerprint_of_weights(one.items()) == fingerprint_of_weights(reversed(one.items()))
    assert fingerprint_of_weights(one.items()) != fingerprint_of_weights(swapped.items())


def test_a_plain_modules_dropout_is_part_of_what_it_is():
    one, two = (nn.Sequential(nn.Linear(2, 2), nn.Dropout(p)) for p in (0.1, 0.2))
    assert configs_of(one) != configs_of(two) and configs_of(one) == configs_of(one)


def test_differences_are_named_and_counted():
    found = {"a": 1, "b": "x", **{f"c{i}": i for i in range(9)}}
    assert differences(found, found) == ""
    asked = {"a": 1, "b": "y", "d": None}
    assert differences({"a": 1, "b": "x"}, asked) == "b was 'x', now 'y'; d was absent, now None"
    assert differences(found, {}, most=2) == "a was 1, now absent; b was 'x', now absent; and 9 more"
    assert flat({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}
