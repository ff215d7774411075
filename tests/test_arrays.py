"""Arrays in, sample contract out: what is dropped, z-scored, set aside and warned about."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from visdec_lite.datasets.arrays import from_arrays
from visdec_lite.datasets.leaks import find_leaks, thumbnails
from visdec_lite.preprocessing import resize_images


def pictures(rng: np.random.Generator, n: int, side: int = 32) -> np.ndarray:
    """Coarse random patterns, so that thumbnails keep something of them."""
    coarse = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(side // 8, axis=1).repeat(side // 8, axis=2)


@pytest.fixture
def columns(rng):
    def make(n: int, **more: np.ndarray) -> dict[str, np.ndarray]:
        return {"voxels": rng.normal(5.0, 3.0, (n, 6)), "images": pictures(rng, n), **more}

    return make


def test_statistics_come_from_the_training_rows_alone(columns):
    train, test = columns(40), columns(10)
    data = from_arrays(train, test, val_fraction=0.25)
    assert len(data["train"]) == 30 and len(data["val"]) == 10
    np.testing.assert_allclose(data["train"].voxels.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(data["train"].voxels.std(0), 1, atol=1e-6)
    shifted = from_arrays(train, {**test, "voxels": test["voxels"] + 100}, val_fraction=0.25)
    np.testing.assert_array_equal(shifted["train"].voxels, data["train"].voxels)  # test moved, train did not


def test_runs_are_zscored_by_themselves_and_subjects_kept_apart(columns, rng):
    run = np.repeat([1, 2], 20)
    train = columns(40, run=run)
    train["voxels"] = train["voxels"] + 1000 * run[:, None]
    data = from_arrays(train, columns(10, run=np.full(10, 9)), zscore="runs", val_fraction=0)
    for number in (1, 2):
        rows = data["train"].voxels[data["train"].run == number]
        np.testing.assert_allclose(rows.mean(0), 0, atol=1e-5)
    two_people = columns(40, run=np.ones(40, int), subject=np.repeat([1, 2], 20))
    two_people["voxels"][:20] += 1000
    data = from_arrays(two_people, columns(10, run=np.full(10, 9)), zscore="runs", val_fraction=0)
    np.testing.assert_allclose(data["train"].voxels[:20].mean(0), 0, atol=1e-5)


def test_a_run_in_train_and_test_cannot_be_zscored_by_itself(columns):
    with pytest.raises(ValueError, match=r"1 runs are in both train and test.*zscore='train'"):
        from_arrays(columns(10), columns(5), zscore="runs")


def test_repeats_are_set_aside_together_and_evenly_over_labels(rng):
    stimulus = np.repeat(np.arange(20), 3)
    train = {"voxels": rng.normal(size=(60, 4)), "stimulus": stimulus, "labels": stimulus % 2}
    data = from_arrays(train, {"voxels": rng.normal(size=(5, 4))}, val_fraction=0.2)
    val = data["val"]
    assert len(val) == 12 and not np.isin(data["train"].stimulus, val.stimulus).any()
    assert (val.labels == 0).sum() == 6
    other = from_arrays(train, {"voxels": rng.normal(size=(5, 4))}, val_fraction=0.2, split_seed=1)["val"]
    assert set(other.stimulus) != set(val.stimulus)


def test_a_given_val_is_kept(columns):
    data = from_arrays(
        columns(20), columns(5), others={"val": columns(7), "pretrain": {"voxels": np.random.rand(9, 6)}}
    )
    assert len(data["train"]) == 20 and len(data["val"]) == 7
    assert data["pretrain"].images is None and data["pretrain"].labels is None


def test_silent_voxels_go_with_their_places_in_the_regions(columns, caplog):
    train, test = columns(20), columns(5)
    train["voxels"][:, 1] = 7.0
    train["voxels"][3, 4] = np.nan
    rois = {"V1": np.array([1, 1, 1, 0, 0, 0], bool), "V4": ~np.array([1, 1, 1, 0, 0, 0], bool)}
    with caplog.at_level(logging.WARNING):
        data = from_arrays(train, test, rois=rois)
    assert "left out 2 of 6 voxels" in caplog.text
    assert data.num_voxels == 4 and data.rois["V1"].sum() == 2 and data.rois["V4"].sum() == 2
    v4 = from_arrays(train, test, rois=rois, roi="V4")
    assert v4.num_voxels == 2 and set(v4.rois) == {"V4"}


def test_equal_images_are_one_stimulus_across_splits(columns, rng):
    images = pictures(rng, 3)
    test = {"voxels": rng.normal(size=(6, 6)), "images": images[[0, 1, 2, 0, 1, 2]]}
    data = from_arrays(columns(10), test)
    assert len(data["test"].average_repeats()) == 3
    assert not np.isin(data["test"].stimulus, data["train"].stimulus).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(3, int)}, "3 labels of 'train' for 10 rows of voxels"),
        ({"labels": np.full(10, 0.5)}, "labels of 'train' are float64, expected whole numbers"),
        ({"labels": np.full(10, -1)}, "a label of 'train' is below 0"),
        ({"voxels": np.zeros((0, 6))}, r"voxels of 'train' are float64 \(0, 6\)"),
        ({"voxels": np.ones((10, 6))}, "all 6 voxels are constant"),
        ({"voxels": np.random.rand(10, 5)}, "different numbers of voxels: {'train': 5, 'test': 6}"),
        ({"colour": np.zeros(10)}, r"unknown columns \['colour'\]"),
    ],
)
def test_bad_columns_are_named(columns, change, message):
    with pytest.raises(ValueError, match=message):
        from_arrays({**columns(10), **change}, columns(5))


def test_other_bad_requests(columns):
    train, test = columns(10), columns(5)
    with pytest.raises(ValueError, match=r"val_fraction is 1\.0"):
        from_arrays(train, test, val_fraction=1.0)
    with pytest.raises(ValueError, match="zscore is 'all', expected 'train' or 'runs'"):
        from_arrays(train, test, zscore="all")
    with pytest.raises(ValueError, match=r"ROI 'V1' is bool \(5,\), expected a boolean mask of shape \(6,\)"):
        from_arrays(train, test, rois={"V1": np.ones(5, bool)})
    with pytest.raises(ValueError, match=r"label 3 of 'train' has no name: 2 category_names"):
        from_arrays({**train, "labels": np.full(10, 3)}, test, category_names=("a", "b"))
    with pytest.raises(ValueError, match="1 training stimuli are too few to set 1 aside"):
        from_arrays({"voxels": np.random.rand(4, 6), "stimulus": np.zeros(4, int)}, test)
    test["voxels"][0, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 6 voxels of 'test' hold NaN"):
        from_arrays(train, test)


def test_leaks_are_counted(columns, rng, caplog):
    train, test = columns(30), columns(10)
    test["images"][4] = train["images"][7]
    softer = train["images"][8].astype(float) * 0.8 + 20  # the same picture saved with less contrast
    test["images"][5] = softer.astype(np.uint8)
    with caplog.at_level(logging.WARNING):
        from_arrays(train, test)
    assert "of 10 test pictures, 1 exact and 1 near copies stand in train" in caplog.text


def test_a_leak_into_val_counts_as_well(columns, caplog):
    train, test = columns(40), columns(10)
    test["images"][:] = train["images"][:10]
    with caplog.at_level(logging.WARNING):
        data = from_arrays(train, test, val_fraction=0.5)
    assert np.isin(data["val"].stimulus, data["test"].stimulus).any()
    assert "of 10 test pictures, 10 exact and 0 near copies" in caplog.text


def test_no_leak_no_warning(columns, caplog):
    with caplog.at_level(logging.WARNING):
        from_arrays(columns(30), columns(10))
    assert not caplog.records


def test_a_copy_at_another_size_is_near_and_a_neighbour_is_not(rng):
    train = pictures(rng, 50, side=64)
    found = find_leaks(resize_images(train[:3], 32), train)
    assert found.near.tolist() == [0, 1, 2] and len(found.exact) == 0
    assert len(find_leaks(pictures(rng, 50, side=64), train)) == 0


def test_flat_pictures_are_told_apart_by_colour():
    red, blue = np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    assert len(find_leaks(red, blue)) == 0
    grey = np.full((1, 10, 10, 3), 90, np.uint8)
    assert np.isfinite(thumbnails(grey, side=10)).all()


def test_fingerprint_follows_the_numbers(columns):
    train, test = columns(10), columns(5)
    mark = from_arrays(train, test).fingerprint
    assert from_arrays(train, test).fingerprint == mark
    assert from_arrays({**train, "voxels": train["voxels"] * 2}, test).fingerprint != mark
    assert from_arrays(train, test, fingerprint="file").fingerprint == "file"
