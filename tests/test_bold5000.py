"""BOLD5000, on small files in the published layout; the fixtures below say what that layout is."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visdec_lite.datasets import bold5000
from visdec_lite.datasets.bold5000 import load
from visdec_lite.preprocessing import ZScore

VOXELS = {"EarlyVis": (3, 4), "LOC": (2, 2), "OPA": (1, 2), "PPA": (2, 1), "RSC": (1, 1)}  # left, right; 19 in all
ONCE = [f"COCO_train2014_{i:012d}.jpg" for i in range(9)] + [f"n0153028{i}_{i}.JPEG" for i in range(7)]
ONCE += [f"homeoffice{i}.jpg" for i in range(7)] + ["n1.jpg"]  # a scene whose name looks like ImageNet's
REPEATED = ["COCO_train2014_000000000999.jpg", "n04252225_12.JPEG", "badlands7.jpg"]


def presentations(runs: int = 12, seed: int = 0) -> list[list[str]]:
    """Names by run: three a run, each of ONCE once and each of REPEATED four times (13 runs: five times)."""
    generator = np.random.default_rng(seed)
    pool = list(ONCE) + [f"rep_{name}" for name in REPEATED * 5][: 3 * runs - len(ONCE)]
    order = generator.permutation(len(pool))
    return [[pool[i] for i in order[3 * run : 3 * run + 3]] for run in range(runs)]


def write_lists(root: Path, runs: list[list[str]], subject: str = "CSI1", padded: bool = True) -> Path:
    """CSI1/CSI1_sess01/CSI_sess01_run01.txt: the pictures of a run, one a line; twelve runs to a session.

    The folders also hold files that are no lists (.mat). padded: numbers with leading zeros, as published.
    """
    folder = root / "BOLD5000_Stimuli" / "Stimuli_Presentation_Lists" / subject
    for number, names in enumerate(runs):
        session, run = (f"{i + 1:02d}" if padded else str(i + 1) for i in divmod(number, 12))
        (folder / f"{subject}_sess{session}").mkdir(parents=True, exist_ok=True)
        stem = folder / f"{subject}_sess{session}" / f"CSI_sess{session}_run{run}"
        stem.with_suffix(".txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        stem.with_suffix(".mat").write_bytes(b"MATLAB 5.0")
    return folder


def write_betas(root: Path, trials: int, subject: str = "CSI1") -> np.ndarray:
    """BOLD5000_GLMsingle_ROI_betas/py/CSI1_GLMbetas-..._LHEarlyVis.npy, ...: float (trials, voxels) of a region.

    Value = trial + voxel / 100 + noise, so that rows and columns can be told from it. Returns all side by side.
    """
    generator = np.random.default_rng(1)
    folder = root / "BOLD5000_GLMsingle_ROI_betas" / "py"
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for region, counts in VOXELS.items():
        for side, count in zip(("LH", "RH"), counts, strict=True):
            values = np.arange(trials)[:, None] + np.arange(count) / 100 + generator.uniform(0, 0.001, (trials, count))
            np.save(folder / f"{subject}_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_{side}{region}.npy", values)
            parts.append(values)
    return np.concatenate(parts, axis=1)


def beta_file(root: Path, part: str = "LHLOC") -> Path:
    return next(root.rglob(f"CSI1_*_allses_{part}.npy"))


@pytest.fixture
def runs() -> list[list[str]]:
    return presentations()


@pytest.fixture
def root(tmp_path: Path, runs: list[list[str]]) -> Path:
    write_lists(tmp_path, runs)
    write_betas(tmp_path, sum(map(len, runs)))
    return tmp_path


def test_contract(root, runs):
    dataset = load(root, val_fraction=0)
    names = [name for run in runs for name in run]
    train, test = dataset["train"], dataset["test"]
    assert sorted(dataset.splits) == ["test", "train"] and len(train) + len(test) == len(names) == 36
    assert dataset.num_voxels == 19 and dataset.name == "bold5000" and not dataset.simulated
    in_test = np.array([name.startswith("rep_") for name in names])
    assert np.array_equal(test.trial, np.flatnonzero(in_test)) and np.array_equal(train.trial, np.flatnonzero(~in_test))
    assert not np.intersect1d(train.stimulus, test.stimulus).size
    assert len(set(train.stimulus)) == len(ONCE) == len(train) and len(set(test.stimulus)) == 3
    ordered = sorted(ONCE + REPEATED)
    for split in (train, test):
        assert [ordered[i] for i in split.stimulus] == [names[t].removeprefix("rep_") for t in split.trial]
    assert np.array_equal(train.run, train.trial // 3) and set(train.subject) == {1} and train.images is None
    assert "CC0" in dataset.licence and "Chang" in dataset.citation


def test_voxels_are_scored_by_train(root, runs):
    values = write_betas(root, 36)
    dataset = load(root, val_fraction=0)
    train, test = dataset["train"], dataset["test"]
    scale = ZScore.fit(values[train.trial])
    assert np.allclose(train.voxels, scale.apply(values[train.trial]), atol=1e-3)
    assert np.allclose(test.voxels, scale.apply(values[test.trial]), atol=1e-3)


def test_labels_are_the_collections(root, runs):
    dataset = load(root, val_fraction=0)
    assert dataset.category_names == ("COCO", "ImageNet", "Scene")
    assert np.bincount(dataset["train"].labels).tolist() == [9, 7, 8]
    assert set(dataset["test"].labels) == {0, 1, 2}


def test_regions_joined_and_by_hemisphere(root):
    dataset = load(root)
    sizes = {name: int(mask.sum()) for name, mask in dataset.rois.items()}
    assert sizes == {r: sum(n) for r, n in VOXELS.items()} | {
        s + r: n[i] for r, n in VOXELS.items() for i, s in enumerate(("LH", "RH"))
    }
    assert np.array_equal(dataset.rois["LOC"], dataset.rois["LHLOC"] | dataset.rois["RHLOC"])
    assert not (dataset.rois["LHLOC"] & dataset.rois["RHLOC"]).any()
    everything = dataset["test"].voxels
    joined = load(root, roi="LOC")
    assert sorted(joined.rois) == ["LHLOC", "LOC", "RHLOC"]
    assert np.array_equal(joined["test"].voxels, everything[:, dataset.rois["LOC"]])
    both = load(root, roi=["RHPPA", "EarlyVis"])  # in the order of the files
    assert np.array_equal(both["test"].voxels, everything[:, dataset.rois["EarlyVis"] | dataset.rois["RHPPA"]])
    for wrong in ("FFA", ["LOC", "FFA"], "LH"):
        with pytest.raises(ValueError, match=r"no region \['\w+'\]; BOLD5000 has \('EarlyVis', 'LOC'.*LH or RH"):
            load(root, roi=wrong)
    with pytest.raises(ValueError, match=r"no region \[\]"):
        load(root, roi=[])


def test_only_the_files_of_a_region_are_needed(root):
    beta_file(root, "RHRSC").unlink()
    assert load(root, roi="PPA").num_voxels == 3
    with pytest.raises(
        FileNotFoundError, match=r"no CSI1_GLMbetas-.*_RHRSC\.npy below .*download get bold5000, or give"
    ):
        load(root)


def test_runs_are_in_order_of_time_with_and_without_leading_zeros(tmp_path):
    """13 runs: the alphabet alone would put run 10 before run 2, and session 2 last all the same."""
    runs = presentations(13)
    loaded = []
    for padded in (True, False):
        folder = tmp_path / str(padded)
        write_lists(folder, runs, padded=padded)
        write_betas(folder, 39)
        loaded.append(load(folder, val_fraction=0))
    names = [name.removeprefix("rep_") for run in runs for name in run]
    for dataset in loaded:
        ordered = sorted(set(names))
        assert [ordered[i] for i in dataset["train"].stimulus] == [names[t] for t in dataset["train"].trial]
        assert np.array_equal(dataset["test"].run, dataset["test"].trial // 3)


def test_one_list_of_all_names_does_as_well(root, runs):
    by_run = load(root)
    names = [
        name.removeprefix("rep_") for run in runs for name in run
    ]  # what is seen twice is repeated, mark or no mark
    lists = root / "BOLD5000_Stimuli" / "Stimuli_Presentation_Lists"
    lists.rename(root / "away")
    for path in (root / "away").rglob("*.txt"):
        path.unlink()
    (root / "CSI1_imgnames.txt").write_text("\n".join(names), encoding="utf-8")
    dataset = load(root)
    assert np.array_equal(dataset["test"].stimulus, by_run["test"].stimulus)
    assert np.array_equal(dataset["test"].voxels, by_run["test"].voxels) and set(dataset["test"].run) == {0}


def test_averages_on_request(root):
    trials, mean = load(root)["test"], load(root, average_test=True)["test"]
    assert len(mean) == 3 and np.array_equal(mean.voxels, trials.average_repeats().voxels)
    assert len(load(root, average_test=True)["train"]) == len(load(root)["train"])


def test_val_is_taken_from_train(root):
    dataset = load(root, val_fraction=0.25)
    assert len(dataset["val"]) == round(0.25 * 24) and len(dataset["train"]) == 24 - len(dataset["val"])
    other = load(root, val_fraction=0.25, split_seed=1)["val"]
    assert not np.array_equal(other.trial, dataset["val"].trial)


def test_what_a_shorter_recording_lacks_is_logged(tmp_path, caplog):
    """CSI4 left early: one repeated picture was never shown, one only once, and only the list of 113 knows it."""
    kept = [name for name in ONCE] + [f"rep_{REPEATED[0]}"] * 3 + [REPEATED[1]] * 1
    runs = [kept[i : i + 4] for i in range(0, len(kept), 4)]
    write_lists(tmp_path, runs, subject="CSI4")
    write_betas(tmp_path, len(kept), subject="CSI4")
    (tmp_path / bold5000.REPEATED_LIST).write_text("\n".join(REPEATED), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        dataset = load(tmp_path, subject="CSI4", val_fraction=0)
    assert "CSI4: 28 trials; 2 of 113 repeated pictures are there (111 missing, 1 seen only once)" in caplog.text
    assert len(dataset["test"]) == 4 and len(dataset["train"]) == 24 and set(dataset["test"].subject) == {4}
    assert len(load(tmp_path, subject="CSI4", average_test=True)["test"]) == 2


def test_pictures_go_with_their_trials(root, runs, tmp_path_factory, caplog):
    with caplog.at_level(logging.WARNING):
        load(root)
    assert "without photographs: pre-training, phase 1 and category decoding work" in caplog.text
    assert "Presented_Stimuli" in caplog.text
    folder = tmp_path_factory.mktemp("Presented_Stimuli")
    for grey, name in enumerate(sorted(ONCE + REPEATED)):
        home = folder / bold5000.COLLECTIONS[bold5000._collection(name)]
        home.mkdir(exist_ok=True)
        Image.fromarray(np.full((30, 30), 8 * grey, dtype=np.uint8)).save(home / name)
    dataset = load(root, stimuli=folder, image_size=6, val_fraction=0)
    for split in (dataset["train"], dataset["test"]):
        assert split.images.shape[1:] == (6, 6, 3)
        assert np.array_equal(split.images[:, 3, 3, 0], 8 * split.stimulus)
    assert dataset.fingerprint != load(root).fingerprint
    (folder / "Scene" / "badlands7.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 27 photographs are not in .*missing: badlands7\.jpg; complete"):
        load(root, stimuli=folder)


def test_fingerprint_is_of_responses_and_lists(root):
    before = load(root).fingerprint
    assert load(root).fingerprint == before
    path = next(root.rglob("CSI_sess01_run01.txt"))
    path.write_text(path.read_text() + "\n")
    changed = load(root).fingerprint
    values = np.load(beta_file(root))
    np.save(beta_file(root), values + 1)
    assert len({before, changed, load(root).fingerprint}) == 3


def test_files_are_found_at_any_depth(root, monkeypatch, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("VISDEC_DATA", str(home))
    assert bold5000.found() == []
    with pytest.raises(FileNotFoundError, match=r"no CSI1_GLMbetas-.*LHEarlyVis\.npy below .*bold5000; get it: visdec"):
        load()
    root.rename(home / "bold5000")
    shadow = home / "bold5000" / "__MACOSX" / f"._{beta_file(home).name}"  # what macOS leaves in archives
    shadow.parent.mkdir()
    shadow.write_bytes(b"shadow")
    assert len(bold5000.found()) == 10 + 12 and load().num_voxels == 19
    with pytest.raises(ValueError, match=r"subject is 'CSI5', expected one of \('CSI1'"):
        load(subject="CSI5")
    with pytest.raises(FileNotFoundError, match="no CSI2_GLMbetas"):
        load(subject="CSI2")
    copy = home / "bold5000" / "copy" / beta_file(home).name
    copy.parent.mkdir()
    copy.write_bytes(beta_file(home).read_bytes())
    with pytest.raises(ValueError, match=r"2 files are called CSI1_.*LHLOC\.npy below .*expected 1: give root=FOLDER"):
        load()


# Files that lie


def test_numbers_of_names_and_trials_must_agree(root):
    next(root.rglob("CSI_sess01_run12.txt")).unlink()
    with pytest.raises(
        ValueError, match=r"11 lists of CSI1 .*name 33 pictures, the responses have 36 trials, expected"
    ):
        load(root)
    for path in root.rglob("*.txt"):
        path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no presentation lists CSI1/\*/\*\.txt and no CSI1_imgnames\.txt below"
    ):
        load(root)


def test_lists_in_two_places_are_refused(root, runs):
    write_lists(root / "again", runs)
    with pytest.raises(ValueError, match=r"presentation lists of CSI1 are in 2 folders, expected 1: .*again"):
        load(root)


def test_without_repeated_pictures_there_is_no_test(tmp_path):
    write_lists(tmp_path, [ONCE[i : i + 2] for i in range(0, len(ONCE), 2)])
    write_betas(tmp_path, len(ONCE))
    with pytest.raises(ValueError, match=r"none of the 24 pictures of CSI1 is repeated, expected 113; .*rep_"):
        load(tmp_path)


def test_damaged_responses_are_refused(root):
    path = beta_file(root)
    good = np.load(path)
    np.save(path, np.array([{"run": "anything"}], dtype=object))
    with pytest.raises(ValueError, match=r"LHLOC\.npy cannot be read as \.npy .*pickled objects are refused"):
        load(root)
    path.write_bytes(b"\x80\x04K\x01.")  # a bare pickle
    with pytest.raises(ValueError, match=r"cannot be read as \.npy .*pickled objects are refused"):
        load(root)
    np.save(path, good)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"LHLOC\.npy cannot be read as \.npy .*get it anew"):
        load(root)
    for wrong, shape in ((good[1:], r"\(35, 2\)"), (good.T, r"\(2, 36\)"), (good[:, 0], r"\(36,\)")):
        np.save(path, wrong)
        with pytest.raises(ValueError, match=rf"is float64 {shape}, expected floats \(36, voxels\)"):
            load(root)


def test_copied_rows_are_refused(root):
    for path in root.rglob("*.npy"):
        values = np.load(path)
        values[30] = values[4]
        np.save(path, values)
    with pytest.raises(ValueError, match=r"1 of 36 rows of .*py are exact copies .*: 4 = 30\)"):
        load(root)


def test_voxels_without_signal_are_left_out_and_counted(root, caplog):
    values = np.load(beta_file(root))
    values[:, 1] = np.nan
    np.save(beta_file(root), values)
    with caplog.at_level(logging.WARNING):
        dataset = load(root)
    assert "left out 1 of 19 voxels" in caplog.text
    assert dataset.num_voxels == 18 and dataset.rois["LOC"].sum() == 3


# Lists and numbers of other machines


def test_big_endian_responses_give_the_same(root):
    expected = load(root)
    for file in root.rglob("*.npy"):
        np.save(file, np.load(file).astype(">f8"))
    assert np.array_equal(load(root)["test"].voxels, expected["test"].voxels)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a.jpg\nb\xe9.jpg\nc.jpg\n", r"run02\.txt, line 2, column 2: byte 0xe9 is not UTF-8"),
        (b"\xff\xfea\0.\0j\0p\0g\0", r"run02\.txt, line 1, column 1: byte 0xff is not UTF-8 \(UTF-16\)"),
        (b"a.jpg\nb\x00.jpg\nc.jpg\n", r"run02\.txt, line 2, column 2: U\+0000"),
        (b"a.jpg\nb 2.jpg\nc.jpg\n", r"run02\.txt, line 2: 'b 2\.jpg' is no name of one picture"),
        (b"", r"run02\.txt is empty \(0 bytes\)"),
    ],
)
def test_damaged_lists_are_named_with_line_and_column(root, raw, message):
    next(root.rglob("CSI_sess01_run02.txt")).write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        load(root)


def test_a_mark_at_the_start_and_foreign_line_ends_are_no_part_of_a_name(root):
    expected = load(root)
    file = next(root.rglob("CSI_sess01_run02.txt"))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    found = load(root)
    assert np.array_equal(found["train"].stimulus, expected["train"].stimulus)


def test_responses_longer_than_their_header_says_are_refused(root):
    file = beta_file(root)
    file.write_bytes(file.read_bytes() + b"12345678")
    with pytest.raises(
        ValueError, match=r"LHLOC\.npy cannot be read as \.npy \(its header says .* 8 bytes more follow\)"
    ):
        load(root)


def test_a_response_no_brain_gives_is_refused(root):
    values = np.load(beta_file(root))
    values[3, 1] *= 2.0**64
    np.save(beta_file(root), values)
    with pytest.raises(ValueError, match=r"1 of 72 values of .*LHLOC\.npy are beyond 1e\+06 \(first: .* at \(3, 1\)"):
        load(root)
