"""The sample contract: what it accepts, what it averages, and what its errors say."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from visdec_lite.datasets import load_dataset
from visdec_lite.datasets.base import BrainDataset, Split, fingerprint, trial_columns


def make_split(rng: np.random.Generator, n: int = 6, voxels: int = 5) -> Split:
    return Split(
        voxels=rng.standard_normal((n, voxels)).astype(np.float32),
        images=rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8),
        labels=np.arange(n) % 2,
        stimulus=np.arange(n) // 2,
        **trial_columns(n, subject=1, run_length=3),
    )


def make_dataset(rng: np.random.Generator, **changes: object) -> BrainDataset:
    fields = {
        "name": "made up",
        "splits": {"train": make_split(rng), "test": make_split(rng)},
        "category_names": ("a", "b"),
        "rois": {"V1": np.array([True, False, False, True, False])},
        "simulated": True,
        "licence": "MIT",
        "citation": "none",
        "fingerprint": "0",
    }
    return BrainDataset(**{**fields, **changes})


def test_rows_picks_by_number_and_by_mask(rng):
    split = make_split(rng)
    picked = split.rows(np.array([4, 1]))
    assert len(picked) == 2
    assert np.array_equal(picked.voxels, split.voxels[[4, 1]])
    assert np.array_equal(picked.trial, [4, 1])
    assert len(split.rows(split.run == 1)) == 3


def test_rows_keeps_missing_columns_missing(rng):
    unlabelled = replace(make_split(rng), images=None, labels=None)
    picked = unlabelled.rows(np.array([0]))
    assert picked.images is None and picked.labels is None


def test_average_repeats_is_the_mean_per_stimulus(rng):
    split = make_split(rng)
    mean = split.average_repeats()
    assert np.allclose(mean.voxels, split.voxels.reshape(3, 2, 5).mean(axis=1), atol=1e-6)
    assert mean.voxels.dtype == np.float32
    assert np.array_equal(mean.stimulus, [0, 1, 2])
    assert np.array_equal(mean.images, split.images[::2])


def test_average_repeats_divides_noise_variance_by_their_number(rng):
    repeats, stimuli = 35, 400
    n = repeats * stimuli
    noise = Split(
        voxels=rng.standard_normal((n, 4)).astype(np.float32),
        images=None,
        labels=None,
        stimulus=rng.permutation(n) % stimuli,
        **trial_columns(n, subject=1, run_length=n),
    )
    assert noise.average_repeats().voxels.var() == pytest.approx(1 / repeats, rel=0.15)


def test_averaging_without_repeats_changes_nothing_but_the_order(rng):
    split = replace(make_split(rng), stimulus=np.array([5, 4, 3, 2, 1, 0]))
    assert np.allclose(split.average_repeats().voxels, split.voxels[::-1])


def test_split_is_frozen(rng):
    with pytest.raises(FrozenInstanceError):
        make_split(rng).voxels = None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voxels": np.zeros((0, 5), np.float32)}, "0 trials and 5 voxels, expected at least 1 of each"),
        ({"voxels": np.zeros(6, np.float32)}, r"\(trials, voxels\)"),
        ({"labels": np.arange(4)}, "4 labels for 6 rows"),
        ({"run": np.arange(7)}, "7 run for 6 rows"),
        ({"voxels": np.full((6, 5), np.nan, np.float32)}, "5 of 5 voxels hold NaN.*column 0.*valid_voxels"),
        ({"images": np.zeros((6, 8, 8, 3), np.float32)}, "float32.*expected uint8.*as_uint8_rgb"),
        ({"images": np.zeros((6, 8, 8), np.uint8)}, "expected uint8"),
    ],
)
def test_split_errors_name_number_and_expectation(rng, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(make_split(rng), **changes)


def test_dataset_knows_its_sizes(rng):
    dataset = make_dataset(rng)
    assert dataset.num_voxels == 5
    assert dataset.image_size == 8
    assert dataset["train"] is dataset.splits["train"]


def test_missing_split_is_named(rng):
    with pytest.raises(KeyError, match=r"no split 'val'.*train"):
        make_dataset(rng)["val"]


def test_images_missing_is_said(rng):
    train = replace(make_split(rng), images=None)
    with pytest.raises(ValueError, match="without stimulus images"):
        _ = make_dataset(rng, splits={"train": train, "test": make_split(rng)}).image_size


def test_dataset_errors(rng):
    with pytest.raises(ValueError, match="no 'test'"):
        make_dataset(rng, splits={"train": make_split(rng)})
    with pytest.raises(ValueError, match="'test' has 4 voxels, train has 5"):
        make_dataset(rng, splits={"train": make_split(rng), "test": make_split(rng, voxels=4)})
    with pytest.raises(ValueError, match=r"ROI 'V1' is int64 \(5,\), expected a boolean mask"):
        make_dataset(rng, rois={"V1": np.arange(5)})


def test_trial_columns_count_runs():
    columns = trial_columns(5, subject=3, run_length=2)
    assert columns["subject"].tolist() == [3] * 5
    assert columns["run"].tolist() == [0, 0, 1, 1, 2]
    assert columns["trial"].tolist() == [0, 1, 2, 3, 4]


def test_fingerprint_is_sha256_and_sees_every_part():
    # the digest of "abc" in FIPS 180-2, appendix B.1
    assert fingerprint("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fingerprint(b"a", "bc") == fingerprint("abc") != fingerprint("abd")


def test_unknown_dataset_names_the_known_and_the_nearest():
    with pytest.raises(ValueError, match=r"'digit69'.*\['bold5000', 'digits69', .*did you mean 'digits69'"):
        load_dataset("digit69")
    with pytest.raises(ValueError, match=r"no data set is called 'xyz'; there are \[[^\]]*\]$"):
        load_dataset("xyz")
