"""NIfTI: responses known beforehand come back from a scan, and files that do not fit are refused with their numbers."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel, run_glm
from nilearn.maskers import NiftiMasker
from PIL import Image

from visdec_lite.datasets.nifti import (
    block_numbers,
    choose_voxels,
    events_from_labels,
    from_nifti,
    read_events,
    read_series,
    repetition_time,
    trial_design,
    trial_responses,
)

TR, VOLUMES, TRIALS = 2.0, 120, 10
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
SHAPE = (4, 3, 2)
CATEGORIES = ("cat", "face")


def trials(spacing: float = 20.0, duration: float = 4.0) -> pd.DataFrame:
    onset = 6.0 + spacing * np.arange(TRIALS)
    return pd.DataFrame(
        {"onset": onset, "duration": duration, "trial_type": [CATEGORIES[i % 2] for i in range(TRIALS)]}
    )


@pytest.fixture
def planted(rng: np.random.Generator) -> np.ndarray:
    """A response a trial and voxel, in the unit of the signal."""
    return rng.standard_normal((TRIALS, SHAPE[0] * SHAPE[1] * SHAPE[2])) + 2.0


def noiseless(planted: np.ndarray, events: pd.DataFrame, volumes: int = VOLUMES) -> np.ndarray:
    return 500.0 + trial_design(events, volumes, TR).to_numpy()[:, : len(events)] @ planted


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Over trials, one a voxel."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


# ---- trial_responses ----


def test_betas_are_the_planted_responses(planted):
    events = trials()
    found = trial_responses(noiseless(planted, events), events, TR, "lsa", standardise=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, planted, atol=1e-3)


@pytest.mark.parametrize(("model", "spacing", "least"), [("lss", 20, 0.98), ("lss", 8, 0.85), ("lagged", 20, 0.94)])
def test_other_models_follow_the_planted_responses(planted, model, spacing, least):
    events = trials(spacing)
    found = trial_responses(noiseless(planted, events), events, TR, model)
    assert correlations(found, planted).mean() > least
    assert correlations(found, np.roll(planted, 1, axis=0)).mean() < 0.5


@pytest.mark.parametrize("model", ["lsa", "lss", "lagged"])
def test_a_ramp_and_slow_waves_change_nothing(planted, model):
    events = trials()
    clean = noiseless(planted, events)
    time = np.arange(VOLUMES)[:, None]
    ramp = clean - 3.0 * time
    wave = clean + 50.0 * np.cos(np.pi * 2 * (time + 0.5) / VOLUMES)  # a cycle of 240 s, slower than 1 / 128 Hz
    expected = trial_responses(clean, events, TR, model, standardise=False)
    for drifting in (ramp, wave):
        found = trial_responses(drifting, events, TR, model, standardise=False)
        np.testing.assert_allclose(found, expected, atol=2e-3)
    without = trial_responses(wave, events, TR, model, high_pass=None, standardise=False)
    assert np.abs(without - expected).max() > 1.0


def test_betas_agree_with_nilearns_first_level_model(planted):
    events = trials(10)
    series = noiseless(planted, events) + np.random.default_rng(1).standard_normal((VOLUMES, planted.shape[1]))
    design = trial_design(events, VOLUMES, TR)
    image = nibabel.Nifti1Image(series.T.reshape(*SHAPE, VOLUMES), AFFINE)
    model = FirstLevelModel(t_r=TR, noise_model="ols", mask_img=full_mask(), signal_scaling=False)
    model.fit(image, design_matrices=design)
    found = trial_responses(series, events, TR, standardise=False)
    for trial in (0, TRIALS - 1):
        effect = model.compute_contrast(np.eye(design.shape[1])[trial], output_type="effect_size")
        np.testing.assert_allclose(found[trial], effect.get_fdata().ravel(), rtol=1e-3, atol=1e-3)


def test_separate_models_agree_with_nilearn_one_by_one(planted):
    events = trials(6)
    series = noiseless(planted, events) + np.random.default_rng(1).standard_normal((VOLUMES, planted.shape[1]))
    design = trial_design(events, VOLUMES, TR).to_numpy()
    found = trial_responses(series, events, TR, "lss", standardise=False)
    for trial in (0, 4):
        others = np.delete(design[:, :TRIALS], trial, axis=1).sum(axis=1)
        one = np.column_stack([design[:, trial], others, design[:, TRIALS:]])
        fit = next(iter(run_glm(series, one, noise_model="ols")[1].values()))
        np.testing.assert_allclose(found[trial], fit.theta[0], rtol=1e-3, atol=1e-3)


def test_lagged_is_the_mean_of_later_volumes():
    """Without drift to remove, a boxcar two volumes late comes back as it went in."""
    events = pd.DataFrame({"onset": [10.0, 30.0, 50.0, 70.0], "duration": 6.0})
    series = np.zeros((50, 1))
    for onset, height in zip((5, 15, 25, 35), (1.0, 2.0, 2.0, 1.0), strict=True):
        series[onset + 2 : onset + 5] = height
    found = trial_responses(series, events, TR, "lagged", lag=2, high_pass=None, standardise=False)
    np.testing.assert_allclose(np.diff(found[:, 0]), [1, 0, -1], atol=0.1)
    late = trial_responses(series, events, TR, "lagged", lag=6, high_pass=None, standardise=False)
    assert np.ptp(late) < 0.1


def test_every_option_changes_something(planted):
    events = trials(8)
    series = noiseless(planted, events) + np.random.default_rng(1).standard_normal((VOLUMES, planted.shape[1]))
    base = trial_responses(series, events, TR)
    for option in ({"hrf": "glover"}, {"high_pass": 1 / 60}, {"standardise": False}, {"model": "lss"}):
        assert np.abs(trial_responses(series, events, TR, **option) - base).max() > 1e-3, option
    np.testing.assert_allclose(trial_responses(1e3 * series, events, TR), base, atol=1e-4)  # z-scored: no unit is left


def test_broken_voxels_are_nan_and_the_others_as_without_them(planted):
    events, series = trials(), noiseless(planted, trials())
    expected = trial_responses(series, events, TR)
    series[7, 3] = np.nan
    found = trial_responses(series, events, TR)
    assert np.isnan(found[:, 3]).all()
    np.testing.assert_array_equal(np.delete(found, 3, axis=1), np.delete(expected, 3, axis=1))


@pytest.mark.parametrize(
    ("events", "options", "message"),
    [
        (
            {"onset": [0.0, 238.0], "duration": 8.0},
            {},
            r"1 of 2 events .*event 1, 238 to 246 s; 120 volumes .*last 240 s",
        ),
        ({"onset": [-4.0, 8.0], "duration": 1.0}, {}, r"event 0, -4 to -3 s.*wrong tr="),
        ({"onset": [4.0, np.nan], "duration": 1.0}, {}, "an onset or a duration is missing"),
        ({"onset": [4.0, 8.0], "duration": -1.0}, {}, "below 0; BIDS"),
        ({"onset": [4.0, 4.0], "duration": 2.0}, {}, r"2 trials and \d drift terms have rank \d.*model='lss'"),
        (
            {"onset": [4.0, 238.0], "duration": 2.0},
            {"model": "lagged"},
            "event 1 is averaged up to volume 122.*has 120",
        ),
        (
            {"onset": [4.0, 239.9], "duration": 0.1},
            {"model": "lss"},
            "1 of 2 trials are answered after the last of 120",
        ),
        ({"onset": [4.0], "duration": 2.0}, {"model": "lagged", "lag": -1}, "expected a lag of 0 or more"),
        ({"onset": [4.0], "duration": 2.0}, {"model": "glm"}, "model is 'glm', expected 'lsa', 'lss' or 'lagged'"),
    ],
)
def test_events_that_do_not_fit_are_refused(events, options, message):
    series = np.random.default_rng(0).standard_normal((VOLUMES, 3))
    with pytest.raises(ValueError, match=message):
        trial_responses(series, pd.DataFrame(events), TR, **options)


def test_labels_become_events_and_blocks():
    labels = np.array(["rest", "rest", "cat", "cat", "cat", "rest", "face"])
    events = events_from_labels(labels, 2.5)
    assert events["onset"].tolist() == [0.0, 5.0, 12.5, 15.0]
    assert events["duration"].tolist() == [5.0, 7.5, 2.5, 2.5]
    assert events["trial_type"].tolist() == ["rest", "cat", "rest", "face"]
    assert block_numbers(labels).tolist() == [0, 0, 1, 1, 1, 2, 3]
    assert block_numbers(np.array([[1, 1], [1, 2], [1, 2]])).tolist() == [0, 1, 1]


# ---- files ----


def full_mask() -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE)


def half_mask(axis: int, side: int) -> nibabel.Nifti1Image:
    inside = np.zeros(SHAPE, np.uint8)
    half = SHAPE[axis] // 2
    np.moveaxis(inside, axis, 0)[:half] = side == 0
    np.moveaxis(inside, axis, 0)[half:] = side == 1
    return nibabel.Nifti1Image(inside, AFFINE)


def as_image(series: np.ndarray, tr: float = TR) -> nibabel.Nifti1Image:
    image = nibabel.Nifti1Image(series.T.reshape(*SHAPE, len(series)).astype(np.float32), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((3, 3, 3, tr))
    return image


@pytest.fixture
def session(tmp_path: Path) -> dict[str, list]:
    """Three runs in BIDS form: sub-01_task-view_run-N_bold.nii.gz and _events.tsv, with rest among the events."""
    generator = np.random.default_rng(5)
    runs: dict[str, list] = {"bold": [], "events": [], "planted": []}
    for run in (1, 2, 3):
        planted = generator.standard_normal((TRIALS, 24))
        events = trials()
        events["stim_file"] = [f"picture-{i % 5}.png" for i in range(TRIALS)]
        pauses = pd.DataFrame({"onset": events["onset"] + 10, "duration": 8.0, "trial_type": "rest"})
        bold, table = (tmp_path / f"sub-01_task-view_run-{run}_{kind}" for kind in ("bold.nii.gz", "events.tsv"))
        nibabel.save(as_image(noiseless(planted, events)), bold)
        everything = pd.concat([events, pauses]).sort_values("onset")
        everything.to_csv(table, sep="\t", index=False, na_rep="n/a")
        for name, value in (("bold", bold), ("events", table), ("planted", planted)):
            runs[name].append(value)
    return runs


def test_a_session_keeps_the_contract(session, tmp_path):
    nibabel.save(full_mask(), tmp_path / "mask.nii.gz")
    rois = {"left": half_mask(0, 0), "right": half_mask(0, 1)}
    dataset = from_nifti(
        session["bold"], session["events"], test_runs=[1], mask=tmp_path / "mask.nii.gz", rois=rois, val_fraction=0,
        subject=4, name="me", licence="mine", simulated=True,
    )  # fmt: skip
    train, test = dataset["train"], dataset["test"]
    assert dataset.name == "me" and dataset.licence == "mine" and dataset.simulated
    assert dataset.category_names == CATEGORIES and test.labels.tolist() == [0, 1] * 5
    assert set(train.run) == {0, 2} and set(test.run) == {1}
    assert train.voxels.shape == (20, 24) and train.images is None and set(train.subject) == {4}
    assert train.stimulus.tolist() == [0, 1, 2, 3, 4] * 4
    assert dataset.rois["left"].tolist() == [True] * 12 + [False] * 12  # x is the slowest axis
    assert correlations(test.voxels, session["planted"][1]).min() > 0.999
    planted = np.concatenate([session["planted"][run] for run in (0, 2)])
    assert correlations(train.voxels, planted).mean() > 0.97


def test_ways_to_say_the_same(session):
    """Paths, loaded images, one image with a run number a volume, a mask or its two halves."""
    halves = {"left": half_mask(0, 0), "right": half_mask(0, 1)}
    base = from_nifti(session["bold"], session["events"], test_runs=[2], rois=halves)
    images = [nibabel.load(path) for path in session["bold"]]
    tables = [pd.read_csv(path, sep="\t") for path in session["events"]]
    whole = as_image(np.concatenate([image.get_fdata().reshape(24, -1).T for image in images]))
    runs = np.repeat([1, 2, 3], VOLUMES)
    for other in (
        from_nifti(images, tables, test_runs=[2], mask=full_mask()),
        from_nifti(whole, tables, test_runs=[3], mask=full_mask(), runs=runs),
        from_nifti(session["bold"], session["events"], test_runs=[2], mask=full_mask(), tr=TR),
    ):
        for split in ("train", "val", "test"):
            np.testing.assert_allclose(other[split].voxels, base[split].voxels, atol=1e-4)
            np.testing.assert_array_equal(other[split].labels, base[split].labels)
    left = from_nifti(images, tables, test_runs=[2], rois=halves, roi="left")
    assert left.num_voxels == 12 and list(left.rois) == ["left"]


def test_fingerprint_is_of_the_files(session):
    options = {"test_runs": [2], "rois": {"all": full_mask()}}
    first = from_nifti(session["bold"], session["events"], **options).fingerprint
    paths = {"bold": session["bold"], "events": session["events"]}
    mask = session["bold"][0].parent / "mask.nii"
    nibabel.save(full_mask(), mask)
    marks = [from_nifti(**paths, test_runs=[2], rois={"all": mask}, model=m).fingerprint for m in ("lsa", "lagged")]
    assert marks[0] == marks[1] != first
    table = session["events"][0]
    table.write_text(table.read_text().replace("face", "shoe"))
    assert from_nifti(**paths, test_runs=[2], rois={"all": mask}).fingerprint != marks[0]


def test_pictures_come_with_their_trials(session, tmp_path):
    pictures = {f"picture-{i}.png": np.full((8, 8, 3), 10 * i, np.uint8) for i in range(5)}
    for name, picture in pictures.items():
        Image.fromarray(picture).save(tmp_path / name)
    options = {"test_runs": [0], "mask": full_mask(), "val_fraction": 0}
    for stimuli in (tmp_path, pictures):
        dataset = from_nifti(session["bold"], session["events"], stimuli=stimuli, **options)
        assert dataset["test"].images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40] * 2
        assert len(set(dataset["train"].stimulus)) == 5 and len(dataset["test"].average_repeats()) == 5
    assert from_nifti(session["bold"], session["events"], stimuli=pictures, image_size=4, **options).image_size == 4
    with pytest.raises(FileNotFoundError, match=r"no stimulus at .*nowhere.*picture-0.png; give the folder"):
        from_nifti(session["bold"], session["events"], stimuli=tmp_path / "nowhere", **options)
    with pytest.raises(ValueError, match=r"no stimulus 'picture-0.png' among the 0 given"):
        from_nifti(session["bold"], session["events"], stimuli={}, **options)
    odd = {**pictures, "picture-3.png": np.zeros((6, 6, 3), np.uint8)}
    with pytest.raises(ValueError, match=r"2 shapes.*give image_size="):
        from_nifti(session["bold"], session["events"], stimuli=odd, **options)
    table = pd.read_csv(session["events"][0], sep="\t")
    table.loc[table["trial_type"] == "cat", "stim_file"] = np.nan
    with pytest.raises(ValueError, match="5 of 30 trials have no stim_file"):
        from_nifti(session["bold"], [table, *session["events"][1:]], **options)


@pytest.mark.parametrize("run", [0, 2])
def test_nan_in_any_run_leaves_the_voxel_out_of_all(session, caplog, run):
    images = [nibabel.load(path) for path in session["bold"]]
    data = images[run].get_fdata()
    data[0, 1, 0, 17], data[3, 2, 1, 0] = np.nan, np.inf
    images[run] = nibabel.Nifti1Image(data, AFFINE, images[run].header)
    with caplog.at_level(logging.WARNING):
        dataset = from_nifti(
            images, session["events"], test_runs=[2], rois={"left": half_mask(0, 0), "all": full_mask()}
        )
    assert dataset.num_voxels == 22 and dataset.rois["left"].sum() == 11
    assert "left out 2 of 24 voxels" in caplog.text


def test_series_are_those_of_nilearns_masker(session):
    mask = half_mask(1, 1)
    options = {"detrend": True, "standardize": "zscore_sample", "high_pass": 0.01, "t_r": TR}
    expected = NiftiMasker(mask_img=mask, reports=False, **options).fit_transform(session["bold"][0])
    np.testing.assert_allclose(read_series(session["bold"][0], mask, **options), expected, atol=1e-5)


@pytest.mark.parametrize(("unit", "stored"), [("sec", 2.5), ("msec", 2500.0), ("usec", 2.5e6), ("unknown", 2.5)])
def test_repetition_time_comes_from_the_header(unit, stored):
    image = as_image(np.zeros((3, 24)), stored)
    image.header.set_xyzt_units("mm", unit)
    assert repetition_time(image) == pytest.approx(2.5)
    assert repetition_time(image, 1.5) == 1.5


def test_repetition_time_missing_or_absurd_is_refused():
    with pytest.raises(ValueError, match=r"header says a repetition time of 0 s.*give tr= in seconds"):
        repetition_time(as_image(np.zeros((3, 24)), 0.0))
    with pytest.raises(ValueError, match="given is a repetition time of 2500 s"):
        repetition_time(as_image(np.zeros((3, 24))), 2500)


def test_no_repetition_time_anywhere(session):
    images = [as_image(nibabel.load(path).get_fdata().reshape(24, -1).T, 0.0) for path in session["bold"]]
    with pytest.raises(ValueError, match="give tr="):
        from_nifti(images, session["events"], test_runs=[0], mask=full_mask())
    from_nifti(images, session["events"], test_runs=[0], mask=full_mask(), tr=TR)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"events": 2}, "2 tables of events for 3 runs of BOLD"),
        ({"test_runs": []}, r"test_runs is \[\]; expected some, but not all, of the runs \[0, 1, 2\]"),
        ({"test_runs": [0, 1, 2]}, "train and test need at least one run each"),
        ({"test_runs": [3]}, r"test_runs is \[3\]"),
        ({"mask": None}, r"0 masks given.*compute_epi_mask\(bold\), or rois="),
        ({"runs": np.zeros(VOLUMES)}, "3 images are given; leave runs= out"),
        ({"mask": "nowhere.nii.gz"}, "no mask at nowhere.nii.gz"),
        ({"ignore": ("rest", "cat", "face")}, "0 of 20 rows .* are trials.*leave that run out"),
        ({"tr": 1.0}, r"run 0: 4 of 10 events lie outside the run .*120 volumes at TR 1 s last 120 s"),
    ],
)
def test_a_session_that_does_not_fit_is_refused(session, changes, message):
    options = {"test_runs": [0], "mask": full_mask(), **changes}
    events = session["events"][: options.pop("events", 3)]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        from_nifti(session["bold"], events, **options)


def test_masks_that_do_not_fit_are_refused(caplog):
    bold = as_image(np.zeros((3, 24)))
    small = nibabel.Nifti1Image(np.ones((4, 3, 1), np.uint8), AFFINE)
    shifted = nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE + np.eye(4)[:, [3, 0, 1, 2]] * 1.5)
    grey = nibabel.Nifti1Image(np.full(SHAPE, 0.3, np.float32), AFFINE)
    empty = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE)
    for mask, message in (
        (
            small,
            r"mask has shape \(4, 3, 1\), BOLD \(4, 3, 2\).*resample_to_img\(mask, bold, interpolation='nearest'\)",
        ),
        (shifted, r"affines of mask and BOLD differ by up to 1.5.*resample_to_img"),
        (grey, "mask holds 1 values up to 0.3, expected 0 and 1; threshold"),
        (empty, "mask has 0 voxels"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_voxels(bold, mask, None)
    with pytest.raises(ValueError, match="0 of 12 voxels of ROI 'right' lie in the mask"):
        choose_voxels(bold, half_mask(0, 0), {"right": half_mask(0, 1)})
    with caplog.at_level(logging.WARNING):
        _, regions = choose_voxels(bold, half_mask(0, 0), {"top": half_mask(2, 1)})
    assert regions["top"].sum() == 6 and "6 of 12 voxels of ROI 'top' lie outside the mask" in caplog.text
    with pytest.raises(ValueError, match=r"affines of mask and BOLD differ"):
        read_series(bold, shifted)
    with pytest.raises(ValueError, match=r"BOLD has shape \(4, 3, 2\), expected 4 dimensions"):
        read_series(full_mask(), full_mask())


def test_files_that_lie_are_refused(session, tmp_path):
    options = {"test_runs": [0], "mask": full_mask()}
    raw = session["bold"][1].read_bytes()
    session["bold"][1].write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match=r"run-2_bold.nii.gz cannot be read as a .gz file .*ended before.*get it anew"):
        from_nifti(session["bold"], session["events"], **options)
    session["bold"][1].write_bytes(gzip.compress(b"no image at all"))
    with pytest.raises(ValueError, match=r"run-2_bold.nii.gz cannot be read as an image"):
        from_nifti(session["bold"], session["events"], **options)
    with pytest.raises(FileNotFoundError, match="no BOLD at"):
        from_nifti([tmp_path / "a.nii", tmp_path / "b.nii"], session["events"][:2], **options)
    with pytest.raises(ValueError, match=r"2 run numbers for BOLD of shape \(4, 3, 2, 120\)"):
        from_nifti(session["bold"][0], session["events"][:2], runs=[0, 1], **options)
    with pytest.raises(FileNotFoundError, match=r"no events at .*one events.tsv a run"):
        read_events(tmp_path / "events.tsv")
    (tmp_path / "events.tsv").write_text("onset,duration,trial_type\n0,1,cat\n")
    with pytest.raises(ValueError, match=r"no \['onset', 'duration', 'trial_type'\]; BIDS events .* separated by tabs"):
        read_events(tmp_path / "events.tsv")
    with pytest.raises(ValueError, match=r"no \['trial_type'\]"):
        read_events(pd.DataFrame({"onset": [1.0], "duration": [1.0]}))


# ---- what other people's files are like ----


def test_a_mask_of_one_volume_is_taken(session):
    """As nilearn takes it: some programs write masks of shape (x, y, z, 1)."""
    thick = nibabel.Nifti1Image(np.ones((*SHAPE, 1), np.uint8), AFFINE)
    expected = from_nifti(session["bold"], session["events"], test_runs=[1], mask=full_mask())
    for masks in ({"mask": thick}, {"rois": {"all": thick}}):
        found = from_nifti(session["bold"], session["events"], test_runs=[1], **masks)
        np.testing.assert_array_equal(found["test"].voxels, expected["test"].voxels)
    np.testing.assert_array_equal(read_series(session["bold"][0], thick), read_series(session["bold"][0], full_mask()))
    two = nibabel.Nifti1Image(np.ones((*SHAPE, 2), np.uint8), AFFINE)
    with pytest.raises(ValueError, match=r"mask has shape \(4, 3, 2, 2\)"):
        choose_voxels(as_image(np.zeros((3, 24))), two, None)


@pytest.mark.parametrize("kind", ["f4", "f8", "i2"])
def test_big_endian_scans_give_the_same(session, tmp_path, kind):
    def session_of(order: str) -> list[Path]:
        paths = []
        for run, path in enumerate(session["bold"]):
            header = nibabel.Nifti1Header(endianness=order)
            header.set_data_dtype(f"{order}{kind}")
            header.set_xyzt_units("mm", "sec")
            data = np.rint(100 * nibabel.load(path).get_fdata() - 49000).astype(f"{order}{kind}")
            image = nibabel.Nifti1Image(data, AFFINE, header)
            image.header.set_zooms((3, 3, 3, TR))
            paths.append(tmp_path / f"{'big' if order == '>' else 'little'}-{run}.nii.gz")
            nibabel.save(image, paths[-1])
            assert nibabel.load(paths[-1]).header.endianness == order
        return paths

    little, big = (from_nifti(session_of(o), session["events"], test_runs=[1], mask=full_mask()) for o in "<>")
    np.testing.assert_array_equal(little["test"].voxels, big["test"].voxels)
    series = np.random.default_rng(0).normal(0, 1, (VOLUMES, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        trial_responses(series.astype(">f4"), trials(), TR), trial_responses(series, trials(), TR)
    )


@pytest.mark.parametrize(
    "runs", [["run-01"] * VOLUMES, np.full(VOLUMES, 1.5), np.full(VOLUMES, np.inf), [None] * VOLUMES, ["run-01"]]
)
def test_runs_are_whole_numbers(session, runs):
    with pytest.raises(ValueError, match=r"runs is \S+ \[.*expected whole numbers, one a volume"):
        from_nifti(session["bold"][0], session["events"], test_runs=[0], mask=full_mask(), runs=runs)


@pytest.mark.parametrize("test_runs", [["run-01"], "run-01", ["run-01", 7], [1.5], [[1]], None, 7])
def test_runs_that_are_not_there_are_refused(session, test_runs):
    with pytest.raises(ValueError, match=r"test_runs is .*; expected some, but not all, of the runs \[0, 1, 2\]"):
        from_nifti(session["bold"], session["events"], test_runs=test_runs, mask=full_mask())


def test_a_run_of_one_trial_has_no_zscore_of_its_own(session):
    lone = pd.read_csv(session["events"][0], sep="\t").iloc[:1]
    tables = [lone, *session["events"][1:]]
    with pytest.raises(ValueError, match=r"run 0 of subject 1 has 1 trial.*leave that run out, or use zscore='train'"):
        from_nifti(session["bold"], tables, test_runs=[1], mask=full_mask(), zscore="runs")
    assert len(from_nifti(session["bold"], tables, test_runs=[1], mask=full_mask(), val_fraction=0)["train"]) == 11


def test_nothing_to_read_is_refused(session):
    empty = nibabel.Nifti1Image(np.zeros((*SHAPE, 0), np.float32), AFFINE)
    for bold, tables, message in (
        ([], [], "0 images of BOLD given, expected one a run"),
        (session["bold"], [], "0 tables of events for 3 runs"),
        (
            [empty, empty],
            session["events"][:2],
            r"BOLD has shape \(4, 3, 2, 0\), expected 4 dimensions, each 1 or more",
        ),
        ([as_image(np.ones((1, 24)))] * 2, session["events"][:2], "run 0: 1 volumes and 10 events, expected 2 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            from_nifti(bold, tables, test_runs=[1], mask=full_mask(), tr=TR)
    series = np.zeros((VOLUMES, 2))
    with pytest.raises(ValueError, match="120 volumes and 0 events"):
        trial_responses(series, trials()[:0], TR)
    with pytest.raises(ValueError, match="0 labels given, expected one a volume"):
        events_from_labels([], TR)
    with pytest.raises(ValueError, match="BOLD has 1 volume, 2 or more are needed to detrend"):
        read_series(as_image(np.ones((1, 24))), full_mask(), detrend=True)
    assert block_numbers(np.array([])).shape == (0,)


def test_a_duration_of_nothing_is_an_impulse(planted):
    """The limit of ever shorter pictures; nilearn's warning of it is no news."""
    events = trials()
    shapes = [trial_design(events.assign(duration=d), VOLUMES, TR)["trial 00000"].to_numpy() for d in (0.0, 0.1)]
    assert np.corrcoef(*shapes)[0, 1] > 0.99
