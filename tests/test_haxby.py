"""Haxby 2001, on small files in both published forms and on one slice of the recording where it is at hand."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import RidgeClassifier

from visdec_lite.datasets.base import BrainDataset
from visdec_lite.datasets.haxby import MASKS, TR, found, load
from visdec_lite.datasets.nifti import events_from_labels, from_nifti, read_series

CATEGORIES = ("bottle", "cat", "chair", "face", "house", "scissors", "scrambledpix", "shoe")
SHAPE, RUNS = (4, 3, 2), 4
AFFINE = np.diag([3.5, 3.75, 3.75, 1.0])


def labels_of_runs() -> tuple[np.ndarray, np.ndarray]:
    """As in labels.txt: 121 volumes a run, of which 49 are rest and 9 of each category, in one block."""
    generator = np.random.default_rng(0)
    label, run = [], []
    for number in range(RUNS):
        one = ["rest"] * 6
        for category in generator.permutation(CATEGORIES):
            one += [category] * 9 + ["rest"] * 5
        label += (one + ["rest"] * 9)[:121]
        run += [number] * 121
    return np.array(label), np.array(run)


def recording() -> np.ndarray:
    """Voxel i answers to category i at once, on a baseline that differs from run to run and drifts."""
    label, run = labels_of_runs()
    data = np.random.default_rng(1).normal(0, 1.0, (len(label), 24))
    data += 1000 + 50 * run[:, None] + 0.3 * np.arange(len(label))[:, None]
    data[:, :8] += 10.0 * (label[:, None] == np.array(CATEGORIES))
    return data


def save(path: Path, values: np.ndarray) -> None:
    image = nibabel.Nifti1Image(values, AFFINE)
    if values.ndim == 4:
        image.header.set_zooms((3.5, 3.75, 3.75, TR))
    nibabel.save(image, path)


@pytest.fixture
def one_slice(tmp_path: Path) -> Path:
    """bold.nii.gz, mask.nii.gz and labels.csv (label,run; a row a volume) in one folder."""
    label, run = labels_of_runs()
    save(tmp_path / "bold.nii.gz", np.rint(recording()).astype(np.int16).T.reshape(*SHAPE, -1))
    save(tmp_path / "mask.nii.gz", np.ones(SHAPE, np.int16))
    pd.DataFrame({"label": label, "run": run}).to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path


@pytest.fixture
def nilearn_home(tmp_path: Path) -> Path:
    """What `nilearn.datasets.fetch_haxby` leaves: haxby2001/mask.nii.gz and haxby2001/subj2/ with bold.nii.gz,
    labels.txt ("labels chunks", separated by spaces) and the masks of the authors."""
    return write_nilearn(tmp_path / "home")


def write_nilearn(home: Path) -> Path:
    folder = home / "haxby2001" / "subj2"
    folder.mkdir(parents=True)
    label, run = labels_of_runs()
    save(folder / "bold.nii.gz", np.rint(recording()).astype(np.int16).T.reshape(*SHAPE, -1))
    pd.DataFrame({"labels": label, "chunks": run}).to_csv(folder / "labels.txt", sep=" ", index=False)
    save(folder.parent / "mask.nii.gz", np.ones(SHAPE, np.uint8))
    for place, file in enumerate(MASKS.values()):
        mask = np.zeros(24, np.uint8)
        mask[: 12 if file == MASKS["vt"] else 4 + place] = 1
        save(folder / file, mask.reshape(SHAPE))
    return home


def assert_reads_the_category(dataset: BrainDataset, voxels: int) -> None:
    """Voxel i stands for category i: in its own volumes it is the highest."""
    assert dataset.category_names == CATEGORIES and dataset.num_voxels == voxels
    for split in dataset.splits.values():
        assert split.images is None
        assert (split.voxels[:, :8].argmax(axis=1) == split.labels).mean() > 0.99


@pytest.mark.parametrize("deep", [False, True])
def test_nilearns_files_are_read(nilearn_home, deep):
    dataset = load(nilearn_home / "haxby2001" if deep else nilearn_home, test_runs=[3], val_fraction=0.25)
    assert_reads_the_category(dataset, voxels=12)
    assert not dataset.simulated and "Share Alike" in dataset.licence
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 162, "val": 54, "test": 72}
    assert set(dataset["test"].run) == {3} and set(dataset["train"].subject) == {2}
    assert len(found(nilearn_home)) == 8


def test_the_slice_is_read(one_slice):
    dataset = load(one_slice, test_runs=[0, 1], val_fraction=0)
    assert_reads_the_category(dataset, voxels=24)
    assert set(dataset["test"].run) == {0, 1} and set(dataset["train"].subject) == {1}
    assert list(dataset.rois) == ["all"] and len(found(one_slice)) == 3


def test_volumes_of_a_block_are_one_stimulus(one_slice):
    dataset = load(one_slice, test_runs=[3], val_fraction=0.25)
    blocks = dataset["test"].average_repeats()
    assert len(blocks) == 8 and sorted(blocks.labels) == list(range(8))
    assert np.bincount(np.unique(dataset["test"].stimulus, return_inverse=True)[1]).tolist() == [9] * 8
    assert not set(dataset["val"].stimulus) & set(dataset["train"].stimulus), "a block is not cut by val"
    label, _ = labels_of_runs()
    for split in dataset.splits.values():
        assert [dataset.category_names[i] for i in split.labels] == label[split.trial].tolist()


def test_regions_are_the_authors_masks(nilearn_home):
    assert load(nilearn_home, test_runs=[3], roi="face").num_voxels == 5
    assert load(nilearn_home, test_runs=[3], roi="brain").num_voxels == 24
    both = load(nilearn_home, test_runs=[3], roi=["face", "house_little"])
    assert both.num_voxels == 8 and both.rois["face"].sum() == 5
    with pytest.raises(ValueError, match=r"no masks of the regions \['V1'\] here; there are \['brain', 'face'"):
        load(nilearn_home, test_runs=[3], roi="V1")
    with pytest.raises(ValueError, match=r"no masks of the regions \[\]"):
        load(nilearn_home, test_runs=[3], roi=[])


def test_lag_pairs_labels_with_later_volumes(one_slice):
    late = load(one_slice, test_runs=[3], lag=4, val_fraction=0)["test"]
    hit = late.voxels[:, :8].argmax(axis=1) == late.labels
    assert len(late) == 72 and 0.5 < hit.mean() < 0.75, "of 9 volumes 5 are still in the block, others hit by chance"


def test_a_run_without_labels_is_left_out(one_slice, caplog):
    table = pd.read_csv(one_slice / "labels.csv")
    table.loc[table["run"] == 2, "label"] = "rest"
    table.to_csv(one_slice / "labels.csv", index=False)
    with caplog.at_level(logging.WARNING):
        dataset = load(one_slice, test_runs=[3], val_fraction=0)
    assert set(dataset["train"].run) == {0, 1} and "run 2 has no labels but rest" in caplog.text


def test_fetch_asks_nilearn(tmp_path, monkeypatch):
    calls = []

    def fetch_haxby(**options: object) -> None:
        calls.append(options)
        write_nilearn(Path(options["data_dir"]))

    monkeypatch.setattr("nilearn.datasets.fetch_haxby", fetch_haxby)
    monkeypatch.setenv("VISDEC_DATA", str(tmp_path / "data"))
    assert_reads_the_category(load(test_runs=[3], fetch=True), voxels=12)
    assert calls == [{"data_dir": str(tmp_path / "data"), "subjects": [2], "verbose": 0}]
    assert_reads_the_category(load(test_runs=[3]), voxels=12)
    assert len(found()) == 8


def test_missing_files_say_how_to_get_them(tmp_path, nilearn_home, monkeypatch):
    monkeypatch.setenv("VISDEC_DATA", str(tmp_path / "empty"))
    assert found() == [] and found(tmp_path / "nowhere") == []
    with pytest.raises(
        FileNotFoundError, match=r"empty.haxby2001.subj2.*get haxby --subject 2 .*fetch=True.*or give root"
    ):
        load()
    with pytest.raises(FileNotFoundError, match=r"subj5.*get haxby --subject 5"):
        load(nilearn_home, subject=5)


@pytest.mark.parametrize("runs", [[], [0, 1, 2, 3], [7]])
def test_runs_must_make_two_splits(one_slice, runs):
    with pytest.raises(ValueError, match=r"expected some, but not all, of the runs \[0, 1, 2, 3\]"):
        load(one_slice, test_runs=runs)


def test_labels_must_match_the_volumes(one_slice):
    lines = (one_slice / "labels.csv").read_text().splitlines()
    (one_slice / "labels.csv").write_text("\n".join(lines[:-5]))
    with pytest.raises(ValueError, match=r"479 rows with columns \['label', 'run'\], BOLD has 484 volumes"):
        load(one_slice, test_runs=[3])
    (one_slice / "labels.csv").write_text("\n".join(["category,run", *lines[1:]]))
    with pytest.raises(ValueError, match=r"\['category', 'run'\].*expected a label and a run"):
        load(one_slice, test_runs=[3])


# ---- the recording: 530 voxels of one slice, 12 runs ----


@pytest.fixture
def recorded(shared_data: Path) -> Path:
    folder = shared_data / "haxby2001"
    if not (folder / "bold.nii.gz").is_file():
        pytest.skip(f"no recording at {folder}")
    return folder


def test_recording_keeps_the_contract(recorded):
    dataset = load(recorded)
    assert dataset.category_names == CATEGORIES and dataset.num_voxels == 530
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 648, "val": 72, "test": 144}
    assert np.bincount(dataset["test"].labels).tolist() == [18] * 8


def test_recording_tells_eight_categories_apart(recorded):
    """Leave one run out, ridge classifier, chance 12.5 %: measured 69 % of single volumes and 85 % of blocks."""
    hits: dict[str, list[float]] = {"volumes": [], "blocks": [], "shuffled": []}
    shuffle = np.random.default_rng(0)
    for run in range(12):
        dataset = load(recorded, test_runs=[run], val_fraction=0)
        train, test = dataset["train"], dataset["test"]
        model = RidgeClassifier(alpha=1000).fit(train.voxels, train.labels)
        hits["volumes"].append(model.score(test.voxels, test.labels))
        train, test = train.average_repeats(), test.average_repeats()
        hits["blocks"].append(
            RidgeClassifier(alpha=100).fit(train.voxels, train.labels).score(test.voxels, test.labels)
        )
        wrong = shuffle.permutation(train.labels)
        hits["shuffled"].append(RidgeClassifier(alpha=100).fit(train.voxels, wrong).score(test.voxels, test.labels))
    mean = {name: np.mean(values) for name, values in hits.items()}
    error = {name: np.std(values, ddof=1) / np.sqrt(12) for name, values in hits.items()}
    assert mean["volumes"] - 4 * error["volumes"] > 0.5, (mean, error)
    assert mean["blocks"] - 4 * error["blocks"] > 0.6, (mean, error)
    assert abs(mean["shuffled"] - 0.125) < 0.1, "96 blocks by chance: 12.5 % with a standard error of 3.4 %"


def test_labels_of_the_recording_stand_late(recorded):
    """The answer is under way at the first labelled volume and over at the first one after the block: lag is 0."""
    table = pd.read_csv(recorded / "labels.csv")
    bold, mask = (nibabel.load(recorded / name) for name in ("bold.nii.gz", "mask.nii.gz"))
    answers = []
    for run in range(12):
        rows = np.flatnonzero(table["run"] == run)
        image = nibabel.Nifti1Image(np.asarray(bold.dataobj)[..., rows], bold.affine)
        series = read_series(image, mask, detrend=True, standardize="zscore_sample", t_r=TR)
        events = events_from_labels(table["label"].to_numpy(str)[rows], TR)
        onset = (events["onset"][events["trial_type"] != "rest"] / TR).astype(int)
        answers.append(np.mean([series[i - 6 : i + 14] for i in onset if i + 14 <= len(series)], axis=0))
    choose, look = np.mean(answers[:6], axis=0), np.mean(answers[6:], axis=0)
    strongest = np.argsort(choose[7:15].mean(axis=0) - choose[1:5].mean(axis=0))[-40:]  # chosen on other runs
    course = look[:, strongest].mean(axis=1)
    rise = (course - course[1:5].mean()) / (course[7:15].max() - course[1:5].mean())
    assert rise[6] > 0.5, "half of the peak at the first labelled volume"
    assert rise[15] < 0.5, "less than half of it at the first volume after the block"


def test_recording_through_from_nifti(recorded):
    """Blocks as events: the protocol is 12 s of rest, then 24 s of pictures every 36 s (Haxby et al., 2001)."""
    table = pd.read_csv(recorded / "labels.csv")
    events = []
    for run in range(12):
        found_events = events_from_labels(table["label"][table["run"] == run].to_numpy(str), TR)
        blocks = found_events[found_events["trial_type"] != "rest"]
        events.append(blocks.assign(onset=12.0 + 36.0 * np.arange(8), duration=24.0))
    for model, least in (("lsa", 0.55), ("lagged", 0.6)):
        dataset = from_nifti(
            recorded / "bold.nii.gz", events, runs=table["run"].to_numpy(), mask=recorded / "mask.nii.gz",
            test_runs=range(0, 12, 3), model=model, lag=1, val_fraction=0,
        )  # fmt: skip
        train, test = dataset["train"], dataset["test"]
        assert len(train) == 64 and len(test) == 32 and dataset.category_names == CATEGORIES
        score = RidgeClassifier(alpha=100).fit(train.voxels, train.labels).score(test.voxels, test.labels)
        assert score > least, f"{model}: {score:.2f} of 32 blocks; chance 0.125, standard error 0.06"


def rewrite(file: Path, row: int, line: str) -> None:
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:row], line, *lines[row + 1 :]]) + "\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("None,0", None),
        ("n/a,0", r"labels\.csv, line 8: a volume has no label; expected one, such as rest"),
        ("cat,3", r"labels\.csv, line 9: run 0 goes on, after another"),
        ("cat", r"labels\.csv, line 8: 1 cells, expected 2 as in line 1"),
        ("cat,0.5", r"labels\.csv, line 8, column 'run': '0\.5' is not a whole number"),
        ("c\x00at,0", r"labels\.csv, line 8, column 2: U\+0000"),
        (",0", r"labels\.csv, line 8, column 'label': an empty cell"),
    ],
)
def test_labels_are_words_and_runs_numbers(one_slice, line, message):
    rewrite(one_slice / "labels.csv", 7, line)
    if message is None:  # a word as any other, not a missing value
        assert "None" in load(one_slice, test_runs=[3], val_fraction=0).category_names
        return
    with pytest.raises(ValueError, match=message):
        load(one_slice, test_runs=[3])
