"""The simulated scanner: whatever is planted has to come back, as exactly as the noise allows."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from nilearn.datasets import load_mni152_brain_mask
from nilearn.maskers import NiftiMasker

from visdec_lite.datasets.arrays import from_arrays
from visdec_lite.datasets.base import BrainDataset
from visdec_lite.datasets.nifti import choose_voxels, from_nifti, read_series, trial_design, trial_responses
from visdec_lite.datasets.scanner import (
    BASELINE,
    CENTRES,
    VOXEL,
    region_images,
    scan,
    schedule,
    voxel_positions,
    write_nifti,
)

SIZES = {"V1": 60, "V2": 48, "V3": 40, "V4": 33, "LOC": 32, "other": 16}
COUNT = sum(SIZES.values())


@pytest.fixture
def rois() -> dict[str, np.ndarray]:
    region = np.repeat(list(SIZES), list(SIZES.values()))
    return {name: region == name for name in SIZES}


@pytest.fixture
def planted(rng: np.random.Generator) -> np.ndarray:
    """Percent signal change, 20 trials."""
    return 2.0 + rng.standard_normal((20, COUNT))


def recovered(image: nibabel.Nifti1Image, events: pd.DataFrame, rois: dict[str, np.ndarray], **options) -> np.ndarray:
    """Betas in percent, in the order of the data set: each region's voxels under its mask."""
    mask, regions = choose_voxels(image, None, region_images(rois)[1])
    betas = trial_responses(read_series(image, mask), events, 2.0, standardise=False, **options) / BASELINE * 100
    ordered = np.empty_like(betas)
    for name, mask in rois.items():
        ordered[:, mask] = betas[:, regions[name]]
    return ordered


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over voxels of the correlation over trials."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return float(((a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))).mean())


# ---- places ----


def test_voxels_lie_where_their_regions_do(rois):
    position = voxel_positions(rois)
    assert position.shape == (COUNT, 3) and len(np.unique(position, axis=0)) == COUNT
    np.testing.assert_array_equal(position, voxel_positions(rois))
    brain = load_mni152_brain_mask(resolution=VOXEL)
    cells = np.rint(np.linalg.inv(brain.affine)[:3] @ np.c_[position, np.ones(COUNT)].T).astype(int)
    assert (brain.get_fdata()[tuple(cells)] > 0).all()
    for name, mask in rois.items():
        own, middle = position[mask], np.array(CENTRES[name])
        left, right = own[own[:, 0] < 0], own[own[:, 0] > 0]
        assert len(right) == SIZES[name] // 2 and len(left) == SIZES[name] - len(right)
        for side, half in ((-1, left), (1, right)):
            assert np.linalg.norm(half.mean(axis=0) - middle * [side, 1, 1]) < 8
            assert np.linalg.norm(half - middle * [side, 1, 1], axis=1).max() < 16, "a region is compact"

    def away(region: str) -> float:
        pole = np.array(CENTRES["V1"])
        return np.linalg.norm(np.abs(position[rois[region]]) * [1, 1, 1] - np.abs(pole), axis=1).mean()

    assert away("V1") < away("V2") < away("V3"), "V2 and V3 are shells around V1"
    assert position[rois["V4"], 2].max() < position[rois["V1"], 2].mean() < 10, "V4 is ventral"


def test_voxels_come_back_under_their_mask_in_order(rois):
    """Voxel i of a region is the i-th that nilearn reads under its mask; so are the positions."""
    events = schedule(1)
    image = scan(np.arange(COUNT)[None] / 10, rois, events, rng=np.random.default_rng(0), noise=0, drift=0)
    brain, masks = region_images(rois)
    position = voxel_positions(rois)
    assert image.shape[:3] == brain.shape and np.array_equal(image.affine, brain.affine)
    for name, mask in masks.items():
        peaks = NiftiMasker(mask_img=mask, standardize=None, reports=False).fit_transform(image).max(axis=0)
        assert np.array_equal(np.argsort(peaks, kind="stable"), np.arange(SIZES[name]))
        cells = np.argwhere(mask.get_fdata() > 0)
        np.testing.assert_allclose(nibabel.affines.apply_affine(mask.affine, cells), position[rois[name]])
        assert (brain.get_fdata()[mask.get_fdata() > 0] == 1).all()


def test_order_of_voxels_in_the_data_set_is_free():
    """Regions may be interleaved; a voxel moves with its region."""
    region = np.resize(["V1", "LOC"], 24)
    rois = {name: region == name for name in ("V1", "LOC")}
    sorted_rois = {"V1": np.arange(24) < 12, "LOC": np.arange(24) >= 12}
    for name in rois:
        np.testing.assert_array_equal(
            voxel_positions(rois)[rois[name]], voxel_positions(sorted_rois)[sorted_rois[name]]
        )


@pytest.mark.parametrize(
    ("rois", "message"),
    [
        ({"V1": np.array([True, False]), "V2": np.array([False, False])}, "1 voxels are in none or several"),
        ({"V1": np.array([True, True]), "V2": np.array([False, True])}, "1 voxels are in none or several"),
        ({"FFA": np.array([True, True])}, r"no place is known for the regions \['FFA'\]; there are \['V1'"),
        ({"V1": np.ones(80_000, bool)}, r"80000 voxels of V1 do not fit into a brain with \d+ free"),
        ({}, "expected each in exactly one"),
    ],
)
def test_regions_without_a_place_are_refused(rois, message):
    with pytest.raises(ValueError, match=message):
        voxel_positions(rois)


# ---- signal ----


def test_image_is_a_brain_in_mni_space(rois, planted):
    image = scan(planted, rois, schedule(20), rng=np.random.default_rng(0))
    data, brain = image.get_fdata(), region_images(rois)[0].get_fdata() > 0
    assert image.get_data_dtype() == np.int16 and image.header.get_zooms() == (3, 3, 3, 2)
    assert (data[~brain] == 0).all() and abs(data[brain].mean() / BASELINE - 1) < 0.02
    assert data.shape[3] == (8 + 19 * 8 + 4 + 16) / 2
    corner = nibabel.affines.apply_affine(image.affine, [[0, 0, 0], np.array(data.shape[:3]) - 1])
    assert (np.abs(corner) < 115).all() and corner[0, 0] < 0 < corner[1, 0] and corner[0, 1] < -90


def test_without_noise_betas_are_what_was_planted(rois, planted):
    events = schedule(20, spacing=16)
    image = scan(planted, rois, events, rng=np.random.default_rng(0), noise=0, drift=0)
    betas = recovered(image, events, rois)
    np.testing.assert_allclose(betas, planted, atol=0.05)  # what rounding to int16 leaves
    assert correlation(betas, planted) > 0.999
    assert correlation(betas, np.roll(planted, 1, axis=0)) < 0.2
    other = recovered(image, events, rois, hrf="glover")
    assert correlation(other, planted) > 0.99, "the wrong haemodynamic response costs little for trials far apart"
    drifting = scan(planted, rois, events, rng=np.random.default_rng(0), noise=0, drift=1)
    assert correlation(recovered(drifting, events, rois), planted) > 0.98, "slow drift is filtered out"
    assert correlation(recovered(drifting, events, rois, high_pass=None), planted) < 0.97


@pytest.mark.parametrize(("spacing", "noise"), [(16, 0.5), (8, 0.5), (8, 1.0)])
def test_with_noise_betas_are_as_good_as_the_design_allows(rois, planted, spacing, noise):
    """Least squares has error variance noise^2 (X'X)^-1; that and the planted variance give the correlation."""
    events = schedule(20, spacing)
    image = scan(planted, rois, events, rng=np.random.default_rng(3), noise=noise, drift=0)
    error = recovered(image, events, rois) - planted
    design = trial_design(events, image.shape[3], 2.0).to_numpy()
    covariance = noise**2 * np.linalg.inv(design.T @ design)[:20, :20]
    assert (error.std(axis=1) / np.sqrt(np.diag(covariance))).mean() == pytest.approx(1, abs=0.03)
    about_mean = (np.trace(covariance) - covariance.sum() / 20) / 20  # what all trials share does not matter
    signal, measured = (values - values.mean(axis=0) for values in (planted, planted + error))
    allowed = np.sqrt(signal.var() / (signal.var() + about_mean))
    assert np.corrcoef(signal.ravel(), measured.ravel())[0, 1] == pytest.approx(allowed, abs=0.02)


def test_every_option_changes_the_scan(rois, planted):
    def data(seed: int = 0, **options) -> np.ndarray:
        return scan(planted, rois, schedule(20), rng=np.random.default_rng(seed), **options).get_fdata()

    base = data()
    np.testing.assert_array_equal(data(), base)
    for options in ({"seed": 1}, {"noise": 0.6}, {"drift": 0.9}, {"hrf": "glover"}):
        assert not np.array_equal(data(**options), base), options
    assert data(tr=1.0).shape[3] == 2 * base.shape[3]
    longer = schedule(20, spacing=10, duration=2, start=0)
    assert longer["onset"].tolist() == [10.0 * i for i in range(20)] and set(longer["duration"]) == {2}


def test_wrong_shapes_are_refused(rois, planted):
    with pytest.raises(ValueError, match=rf"\(20, {COUNT}\), expected \(7 events, {COUNT} voxels\)"):
        scan(planted, rois, schedule(7), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="pictures of 9 s every 8 s"):
        schedule(3, duration=9)


# ---- files ----


@pytest.fixture
def dataset(rois: dict[str, np.ndarray], rng: np.random.Generator) -> BrainDataset:
    """The shape of the simulated data set: runs of 16 trials, test pictures repeated."""

    def part(n: int, pictures: int) -> dict[str, np.ndarray]:
        which = np.resize(np.arange(pictures), n)
        images = rng.integers(0, 256, (pictures, 32, 32, 3), dtype=np.uint8)
        columns = {"images": images[which], "labels": which % 3, "run": np.arange(n) // 16}
        return {"voxels": rng.standard_normal((n, COUNT)), **columns}

    names = ("red disc", "blue ring", "green star")
    return from_arrays(part(48, 48), part(32, 8), rois=rois, category_names=names, val_fraction=0, simulated=True)


def test_the_circle_closes(dataset, tmp_path):
    """Data set -> files -> data set: pictures, names and regions as they were, voxels nearly."""
    runs = {"train": (0, 2), "test": (1,)}
    generator = np.random.default_rng(0)
    files = write_nifti(dataset, tmp_path, runs=runs, rng=generator, spacing=16, noise=0, drift=0)
    assert files["test_runs"] == [2] and files["simulated"]
    back = from_nifti(**files, val_fraction=0)
    assert back.simulated and back.num_voxels == COUNT
    assert {name: int(mask.sum()) for name, mask in back.rois.items()} == SIZES
    for split, numbers in runs.items():
        rows = dataset[split].rows(np.isin(dataset[split].run, numbers))
        assert np.array_equal(back[split].images, rows.images)
        named = [[d.category_names[i] for i in s.labels] for d, s in ((dataset, rows), (back, back[split]))]
        assert named[0] == named[1]
        for run in np.unique(back[split].run):
            here = back[split].run == run
            for name in SIZES:
                want, got = rows.voxels[here][:, dataset.rois[name]], back[split].voxels[here][:, back.rois[name]]
                assert correlation(got, want) > 0.999, (split, run, name)
    noisy = from_nifti(**write_nifti(dataset, tmp_path, runs=runs, rng=generator, spacing=16), val_fraction=0)
    want = dataset["test"].rows(dataset["test"].run == 1).voxels[:, dataset.rois["V1"]]
    assert correlation(noisy["test"].voxels[:, noisy.rois["V1"]], want) > 0.9


def test_files_are_named_as_in_bids_and_say_simulated(dataset, tmp_path):
    write_nifti(dataset, tmp_path, runs={"train": [1], "test": [0]}, rng=np.random.default_rng(0))
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"README", "mask.nii.gz", "stimuli", "roi-V1_mask.nii.gz", "roi-other_mask.nii.gz"}
    assert {n for n in names if n.startswith("sub")} == {
        f"sub-01_task-view_run-{i}_{kind}" for i in (1, 2) for kind in ("bold.nii.gz", "events.tsv")
    }
    assert (tmp_path / "README").read_text().startswith("SIMULATED")
    events = pd.read_csv(tmp_path / "sub-01_task-view_run-2_events.tsv", sep="\t")
    assert list(events.columns) == ["onset", "duration", "trial_type", "stim_file"] and len(events) == 16
    assert events["stim_file"].nunique() == 8 and (tmp_path / "stimuli" / events["stim_file"][0]).is_file()
    brain = nibabel.load(tmp_path / "mask.nii.gz").get_fdata()
    assert brain.sum() > 2 * COUNT
    whole = NiftiMasker(mask_img=tmp_path / "mask.nii.gz", standardize=None, reports=False)
    assert whole.fit_transform(tmp_path / "sub-01_task-view_run-1_bold.nii.gz").shape[1] == brain.sum()


def test_visual_regions_answer_and_the_other_does_not(dataset, tmp_path):
    files = write_nifti(dataset, tmp_path, runs={"train": [0]}, rng=np.random.default_rng(0), noise=0, drift=0)
    assert files["test_runs"] == []
    mean = {}
    for name in ("V1", "other"):
        series = read_series(files["bold"][0], nibabel.load(files["rois"][name]))
        mean[name] = series.mean() / BASELINE - 1
    assert mean["V1"] > 0.01 > 0.003 > abs(mean["other"])


def test_pictures_are_not_needed(rois, rng, tmp_path):
    bare = {"voxels": rng.standard_normal((16, COUNT))}
    dataset = from_arrays(bare, bare, rois=rois, simulated=True, val_fraction=0)
    files = write_nifti(dataset, tmp_path, runs={"train": [0], "test": [0]}, rng=rng)
    assert files["stimuli"] is None and from_nifti(**files, val_fraction=0).category_names == ("picture",)


def test_no_scan_is_made_up(dataset, rois, rng, tmp_path):
    with pytest.raises(ValueError, match=r"split 'train' has no run 9; it has 3: 0 to 2"):
        write_nifti(dataset, tmp_path, runs={"train": [9]}, rng=rng)
    bare = {"voxels": rng.standard_normal((16, COUNT))}
    real = from_arrays(bare, bare, name="god", rois=rois, val_fraction=0)
    with pytest.raises(ValueError, match="data set 'god' is of real people"):
        write_nifti(real, Path(tmp_path / "new"), runs={"train": [0]}, rng=rng)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("runs", [["run-01"], {}, None])
def test_runs_to_write_are_named_by_split(dataset, tmp_path, runs):
    with pytest.raises(ValueError, match=r"runs is .*, expected split -> numbers of its runs, such as"):
        write_nifti(dataset, tmp_path, runs=runs, rng=np.random.default_rng(0))


def test_runs_to_write_are_numbers(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"split 'train' has no run 'run-01'; it has"):
        write_nifti(dataset, tmp_path, runs={"train": ["run-01"]}, rng=np.random.default_rng(0))


def test_a_run_of_no_events_is_refused():
    with pytest.raises(ValueError, match="0 events to scan, expected 1 or more"):
        scan(np.zeros((0, 4)), {"V1": np.ones(4, bool)}, schedule(0), rng=np.random.default_rng(0))
