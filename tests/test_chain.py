"""Which stage gets which data: unlabelled pools, and what cannot be learnt from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from visdec_lite import chain
from visdec_lite.cli import app
from visdec_lite.datasets.arrays import from_arrays
from visdec_lite.datasets.base import BrainDataset, Split, trial_columns
from visdec_lite.datasets.shards import write_shards
from visdec_lite.presets import preset

CARD = {"name": "rest", "licence": "none", "citation": "none"}
TINY = {"pretraining.steps": 3, "pretraining.batch_size": 8, "pretraining.validate_every": 3}


@pytest.fixture
def unlabelled(tmp_path, rng) -> BrainDataset:
    """70 voxels, which patches of 32 do not fill, on disk."""

    def split(name: str, n: int) -> Split:
        pool = write_shards([rng.normal(size=(n, 70)).astype(np.float32)], tmp_path / name, fingerprint=name, **CARD)
        columns = trial_columns(n, subject=1, run_length=n)
        return Split(voxels=pool, images=None, labels=None, stimulus=np.arange(n), **columns)

    splits = {"pretrain": split("pretrain", 40), "val": split("val", 16)}
    return BrainDataset("rest", splits, (), {"all": np.ones(70, bool)}, True, "none", "none", "0")


def test_a_pool_on_disk_is_padded_where_it_is_read_and_phase_1_learns_from_it(unlabelled, tmp_path):
    chosen = preset("smoke", **TINY)
    ready = chain.ready_for(unlabelled, chosen)
    assert ready.num_voxels == 96 and ready.rois["all"].sum() == 70
    np.testing.assert_array_equal(ready["val"].voxels[:3][:, 70:], unlabelled["val"].voxels[:3][:, :26])
    run = chain.Run(tmp_path / "run", options={"progress": False})
    world = chain.new_world(chosen, seed=0)
    before = chain.new_brain(chosen, 96, world, seed=0).autoencoder.state_dict()
    brain = chain.train_brain(ready, world, chosen, 0, run, until="pretrain")
    after = brain.autoencoder.state_dict()
    assert any(not after[name].equal(before[name]) for name in after)
    assert (tmp_path / "run" / "pretrain.safetensors").exists()


def test_later_stages_need_pictures(unlabelled):
    chosen = preset("smoke", **TINY)
    ready = chain.ready_for(unlabelled, chosen)
    with pytest.raises(ValueError, match=r"rest comes without pictures: only phase 1 .* visdec-lite train pretrain"):
        chain.train_brain(ready, chain.new_world(chosen, 0), chosen, 0, chain.Run(), until="fuse")


def test_without_val_nothing_can_be_chosen(rng):
    data = from_arrays({"voxels": rng.normal(size=(9, 32))}, {"voxels": rng.normal(size=(4, 32))}, val_fraction=0)
    chosen = preset("smoke", **TINY)
    with pytest.raises(ValueError, match=r"mine has no split 'val' to choose by; load it with val_fraction above 0"):
        chain.train_brain(data, chain.new_world(chosen, 0), chosen, 0, chain.Run(), until="pretrain")


def test_a_stage_begun_on_kept_ones_ends_as_the_whole_chain(rng, tmp_path):
    def rows(n: int) -> dict[str, np.ndarray]:
        pictures = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        return {"voxels": rng.normal(size=(n, 256)).astype(np.float32), "images": pictures}

    data = from_arrays(rows(40), rows(8), val_fraction=0.2)
    short = {f"{stage}.steps": 2 for stage in ("pretraining", "fusing", "finetuning")}
    chosen = preset("smoke", **{f"{stage}.batch_size": 8 for stage in ("pretraining", "fusing", "finetuning")}, **short)

    def tuned(folder: Path, **options: object) -> dict[str, torch.Tensor]:
        run = chain.Run(folder, options={"progress": False})
        brain = chain.train_brain(data, chain.new_world(chosen, 0), chosen, 0, run, **options)
        return {name: weight.clone() for name, weight in brain.conditioned.state_dict().items()}

    whole, before = tuned(tmp_path / "whole"), ("pretrain", "fuse")
    later = tuned(tmp_path / "later", skip=before, start=tmp_path / "whole")
    untrained = tuned(tmp_path / "untrained", skip=before)
    assert all(whole[name].equal(later[name]) for name in whole)
    assert not all(whole[name].equal(untrained[name]) for name in whole)
    assert sorted(p.name for p in (tmp_path / "later").glob("*.safetensors")) == ["finetune.safetensors"]


def test_commands_are_there():
    from typer.main import get_command

    assert {"demo", "train", "datasets", "doctor", "run", "lab", "download", "teach"} <= set(get_command(app).commands)
