"""GOD, on small files in both published layouts; the fixtures below say what those layouts are."""

from __future__ import annotations

import logging
import sys
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from visdec_lite.datasets import god
from visdec_lite.datasets.god import load, photograph_name, stimulus_numbers
from visdec_lite.datasets.photographs import find_photographs, read_photographs, read_picture_array
from visdec_lite.preprocessing import ZScore, zscore_runs

TRAIN_WNIDS = [1518878, 1639765, 2084071, 2998003, 4572940, 12345678]  # 7 and 8 digits
TEST_WNIDS = [1443537, 1621127, 3767745, 3954393, 4572121]
TEST_IMAGES = [22563, 19020, 109, 10038, 3262]  # five, three and four digits
TRAIN = [(wnid, image) for wnid in TRAIN_WNIDS for image in (10042, 12028, 65, 99999)]  # 24 pictures, seen once
TEST = list(zip(TEST_WNIDS, TEST_IMAGES, strict=True))  # 5 pictures, seen 6 times
IN_VC, OUTSIDE = 12, 4  # voxels; V1 is the first 5 of VC, FFA the last 3

Table = dict[str, np.ndarray]


def recording(seed: int = 0) -> Table:
    """Rows as recorded, in order of time: 4 training runs of 6 trials, 6 test runs of 5, 2 imagery runs of 5.

    Runs count from 1 in each part, as in the published file. Voxels drift from run to run.
    """
    generator = np.random.default_rng(seed)
    train = generator.permutation(len(TRAIN))
    test = np.concatenate([generator.permutation(len(TEST)) for _ in range(6)])
    imagery = np.concatenate([generator.permutation(len(TEST)) for _ in range(2)])
    ids = [float(f"{wnid}.{image:06d}") for wnid, image in [TRAIN[i] for i in train] + [TEST[i] for i in test]]
    kind = np.repeat([1, 2, 3], [len(train), len(test), len(imagery)])
    run = np.concatenate([np.repeat(np.arange(parts) + 1, length) for parts, length in ((4, 6), (6, 5), (2, 5))])
    voxels = generator.normal(100.0, 2.0, (len(kind), IN_VC + OUTSIDE)) + 10 * run[:, None]
    return {
        "DataType": kind.astype(float),
        "Run": run.astype(float),
        "stimulus_id": np.array(ids + [float(f"{TEST[i][0]}.{TEST[i][1]:06d}") for i in imagery]),
        "voxels": voxels,
    }


def write_h5(path: Path, rows: Table, *, old: bool = False, order: np.ndarray | None = None, skip: str = "") -> Path:
    """A bdpy table: /dataset (trials x columns, float64); /metadata/key, /metadata/description and /metadata/value
    (keys x columns), whose rows are 1 on the columns a key stands for and NaN elsewhere. Rows voxel_x hold numbers.

    old: the first release's names, /dataSet, /metaData and Label. order: of columns. skip: a key to leave out.
    """
    names = [name for name in rows if name not in ("voxels", skip)]
    regions = {"VoxelData": slice(None), "ROI_VC": slice(IN_VC), "ROI_V1": slice(5), "ROI_FFA": slice(IN_VC - 3, IN_VC)}
    table = np.column_stack([*(rows[name] for name in names), rows["voxels"]])
    value = np.full((len(names) + len(regions) + 1, table.shape[1]), np.nan)
    value[np.arange(len(names)), np.arange(len(names))] = 1
    for row, columns in enumerate(regions.values(), start=len(names)):
        value[row, len(names) :][columns] = 1
    value[-1, len(names) :] = np.linspace(-1, 1, rows["voxels"].shape[1])
    order = np.arange(table.shape[1]) if order is None else order
    keys = ["Label" if old and name == "stimulus_id" else name for name in names] + [*regions, "voxel_x"]
    kept = [i for i, key in enumerate(keys) if key != skip]
    with h5py.File(path, "w") as h5:
        h5["dataSet" if old else "dataset"] = table[:, order]
        group = h5.create_group("metaData" if old else "metadata")
        group["key"] = np.array([keys[i] for i in kept], dtype="S") if old else [keys[i] for i in kept]
        group["description"] = ["1 = " + keys[i] for i in kept]
        group["value"] = value[np.ix_(kept, order)]
    return path


def write_npz(folder: Path, rows: Table, names: bool = True, **changed: np.ndarray) -> Path:
    """sbj_N.npz: arr_0 train and arr_1 test trials, z-scored by run; arr_2 the mean over repeats of each test picture;
    arr_3 and arr_4 the place of each row's picture in the lists of names; arr_5 noise ceiling and arr_6 SNR of each
    voxel; a boolean mask for each region. names: write the two lists of names (number, file name; no header) too.
    """
    kind = rows["DataType"]
    part = {split: kind == number for split, number in (("train", 1), ("test", 2))}
    voxels = {s: zscore_runs(rows["voxels"][m], rows["Run"][m]).astype(float) for s, m in part.items()}
    lists = {"train": TRAIN, "test": TEST}
    ids = {s: np.array([float(f"{wnid}.{image:06d}") for wnid, image in pictures]) for s, pictures in lists.items()}
    place = {s: np.abs(rows["stimulus_id"][m, None] - ids[s]).argmin(axis=1) for s, m in part.items()}
    masks = {name: np.zeros(IN_VC + OUTSIDE, dtype=bool) for name in ("VC", "V1")}
    masks["VC"][:IN_VC] = masks["V1"][:5] = True
    content = {
        "arr_0": voxels["train"],
        "arr_1": voxels["test"],
        "arr_2": np.stack([voxels["test"][place["test"] == i].mean(axis=0) for i in range(len(TEST))]),
        "arr_3": place["train"],
        "arr_4": place["test"],
        "arr_5": np.ones(IN_VC + OUTSIDE),
        "arr_6": np.ones(IN_VC + OUTSIDE),
        **masks,
    }
    content = {name: array for name, array in {**content, **changed}.items() if array is not None}
    np.savez(folder / "sbj_3.npz", **content)
    if names:
        for file, pictures in zip(god.NAME_LISTS[1], lists.values(), strict=True):
            lines = [f'{wnid}.{image:06d},"n{wnid:08d}_{image}.JPEG"\n' for wnid, image in pictures]
            (folder / file).write_text("".join(lines), encoding="utf-8")
    return folder / "sbj_3.npz"


def write_photographs(folder: Path, leave_out: int = 0) -> Path:
    """The folder of the request form: ImageNet names, in folders for training and test. Grey level = place in list."""
    for split, pictures in (("training", TRAIN), ("test", TEST)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for place, (wnid, image) in enumerate(pictures[leave_out:], start=leave_out):
            grey = np.full((40, 40), 4 * place + (100 if split == "test" else 0), dtype=np.uint8)
            Image.fromarray(grey).save(folder / split / f"n{wnid:08d}_{image}.JPEG")
    return folder


@pytest.fixture
def rows() -> Table:
    return recording()


@pytest.fixture
def h5(tmp_path, rows) -> Path:
    return write_h5(tmp_path / "Subject3.h5", rows)


# The table of the authors


def test_contract_of_the_table(h5, rows):
    dataset = load(h5.parent, val_fraction=0)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 24, "test": 30, "test_imagery": 10}
    assert dataset.num_voxels == IN_VC and dataset.name == "god" and not dataset.simulated
    assert {name: int(mask.sum()) for name, mask in dataset.rois.items()} == {"VC": 12, "V1": 5, "FFA": 3}
    assert dataset.category_names == tuple(sorted(f"n{wnid:08d}" for wnid in TRAIN_WNIDS + TEST_WNIDS))
    train, test, imagery = (dataset[name] for name in ("train", "test", "test_imagery"))
    assert not np.intersect1d(train.labels, test.labels).size and set(imagery.labels) == set(test.labels)
    first = int(rows["stimulus_id"][0])
    assert dataset.category_names[train.labels[0]] == f"n{first:08d}"
    assert sorted(train.stimulus) == sorted(wnid * 10**6 + image for wnid, image in TRAIN)
    assert np.unique(test.stimulus, return_counts=True)[1].tolist() == [6] * 5
    assert sorted(set(imagery.stimulus)) == [wnid * 10**6 for wnid in TEST_WNIDS]  # image 0: nothing was shown
    assert train.voxels.dtype == np.float32 and train.images is None
    assert set(train.subject) == {3} and np.array_equal(test.trial, np.arange(24, 54))
    runs = [set(split.run) for split in (train, test, imagery)]
    assert [len(run) for run in runs] == [4, 6, 2] and len(set.union(*runs)) == 12
    assert "Horikawa" in dataset.citation and "request form" in dataset.licence


def test_every_run_is_scored_by_itself(h5, rows):
    dataset = load(h5.parent, val_fraction=0)
    for number, split in ((1, "train"), (2, "test"), (3, "test_imagery")):
        here = rows["DataType"] == number
        expected = zscore_runs(rows["voxels"][here, :IN_VC], rows["Run"][here])
        assert np.allclose(dataset[split].voxels, expected, atol=1e-4)


def test_columns_are_found_by_metadata_whatever_their_order(h5, rows, tmp_path, rng):
    expected = load(h5.parent)
    (tmp_path / "shuffled").mkdir()
    order = rng.permutation(3 + IN_VC + OUTSIDE)
    write_h5(tmp_path / "shuffled" / "Subject3.h5", rows, order=order)
    shuffled = load(tmp_path / "shuffled")
    assert np.array_equal(shuffled["train"].stimulus, expected["train"].stimulus)
    voxel = [column - 3 for column in order if 3 <= column < 3 + IN_VC]  # which voxel each kept column was
    assert np.array_equal(shuffled["train"].voxels, expected["train"].voxels[:, voxel])
    assert np.array_equal(shuffled.rois["V1"], np.array(voxel) < 5)


def test_first_release_reads_the_same(h5, rows, tmp_path):
    (tmp_path / "old").mkdir()
    write_h5(tmp_path / "old" / "Subject3.h5", rows, old=True)
    old, new = load(tmp_path / "old"), load(h5.parent)
    assert np.array_equal(old["test"].voxels, new["test"].voxels)
    assert np.array_equal(old["test"].stimulus, new["test"].stimulus)


def test_sessions_tell_runs_of_one_number_apart(rows, tmp_path):
    """Two sessions, each of which counts its runs from 1, are as many runs as one session that counts on."""
    session = np.where(rows["Run"] > 2, 2.0, 1.0)
    counted_anew = np.where(rows["Run"] > 2, rows["Run"] - 2, rows["Run"])
    write_h5(tmp_path / "Subject1.h5", {**rows, "Session": session, "Run": counted_anew})
    write_h5(tmp_path / "Subject2.h5", rows)
    sessions, plain = (load(tmp_path, subject=subject)["train"] for subject in (1, 2))
    assert np.array_equal(np.unique(sessions.run, return_inverse=True)[1], np.unique(plain.run, return_inverse=True)[1])
    assert np.array_equal(sessions.voxels, plain.voxels) and set(sessions.subject) == {1}


def test_regions_by_name(h5):
    v1 = load(h5.parent, roi="V1")
    assert v1.num_voxels == 5 and sorted(v1.rois) == ["V1", "VC"] and v1.rois["VC"].all()
    assert np.array_equal(v1["train"].voxels, load(h5.parent)["train"].voxels[:, :5])
    assert np.array_equal(load(h5.parent, roi="ROI_V1")["train"].voxels, v1["train"].voxels)
    assert load(h5.parent, roi=["FFA", "V1"]).num_voxels == 8
    assert load(h5.parent, roi=None).num_voxels == IN_VC + OUTSIDE
    with pytest.raises(ValueError, match=r"no region \['V9'\]; this data set has \['FFA', 'V1', 'VC'\]"):
        load(h5.parent, roi="V9")


def test_val_and_averages_on_request(h5):
    dataset = load(h5.parent, val_fraction=0.25, average_test=True)
    assert len(dataset["val"]) == 6 and len(dataset["train"]) == 18
    assert not np.intersect1d(dataset["val"].stimulus, dataset["train"].stimulus).size
    trials, mean = load(h5.parent)["test"], dataset["test"]
    assert len(mean) == 5 and np.array_equal(mean.voxels, trials.average_repeats().voxels)
    other = load(h5.parent, val_fraction=0.25, split_seed=1)["val"]
    assert not np.array_equal(np.sort(other.stimulus), np.sort(dataset["val"].stimulus))


def test_fingerprint_is_of_the_file(h5, rows):
    before = load(h5.parent).fingerprint
    assert load(h5.parent, roi="V1").fingerprint == before
    rows["voxels"][0, -1] += 1
    write_h5(h5, rows)
    assert load(h5.parent).fingerprint != before


def test_files_are_found_in_the_folder_of_data(h5, tmp_path, monkeypatch):
    monkeypatch.setenv("VISDEC_DATA", str(tmp_path))
    assert god.found() == []
    with pytest.raises(FileNotFoundError, match=r"no Subject3\.h5 or sbj_3\.npz in .*god .*get god --subject 3, or"):
        load()
    (tmp_path / "god").mkdir()
    h5.rename(tmp_path / "god" / h5.name)
    assert god.found() == [tmp_path / "god" / "Subject3.h5"] and len(load()["test"]) == 30
    with pytest.raises(FileNotFoundError, match=r"Subject1\.h5.*\(1 files of GOD there\).*--subject 1"):
        load(subject=1)


def test_without_h5py_the_way_to_it_is_said(h5, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        load(h5.parent)


# Stimulus ids


def test_ids_name_imagenet_files():
    published = [("1518878.010042", "n01518878_10042.JPEG"), ("3767745.000109", "n03767745_109.JPEG")]
    published += [("2437971.005013", "n02437971_5013.JPEG"), ("1621127.01902", "n01621127_19020.JPEG")]
    ids = np.array([float(text) for text, _ in published])
    for noise in (0, 4e-9, -4e-9):
        numbers = stimulus_numbers(ids + noise, np.ones(4, dtype=bool))
        assert [photograph_name(number) for number in numbers] == [name for _, name in published]
    assert stimulus_numbers(ids, np.zeros(4, dtype=bool)).tolist() == [int(i) * 10**6 for i in ids]
    assert stimulus_numbers(np.array([1443537.0]), np.zeros(1, dtype=bool)).tolist() == [1443537 * 10**6]


@pytest.mark.parametrize("wrong", [np.float32(4572121.003262), 7.5e-8, 1518878.0100424, -3.000001, 123456789.000001])
def test_other_numbers_are_no_ids(wrong):
    ids = np.array([1518878.010042, wrong])
    with pytest.raises(ValueError, match=r"1 of 2 stimulus ids are no picture \(first: row 1.*float64"):
        stimulus_numbers(ids.astype(np.float64), np.ones(2, dtype=bool))


# Photographs


def test_without_photographs_what_still_works_is_said(h5, caplog):
    with caplog.at_level(logging.WARNING):
        load(h5.parent)
    assert "without photographs: pre-training, phase 1 and category decoding work" in caplog.text
    assert god.REQUEST_FORM in caplog.text and "stimuli=FOLDER" in caplog.text


def test_photographs_go_with_their_trials(h5, tmp_path, caplog):
    folder = write_photographs(tmp_path / "images")
    with caplog.at_level(logging.WARNING):
        dataset = load(h5.parent, stimuli=folder, image_size=8, val_fraction=0)
    assert "without photographs" not in caplog.text
    for split, pictures, base in (("train", TRAIN, 0), ("test", TEST, 100)):
        greys = {wnid * 10**6 + image: 4 * place + base for place, (wnid, image) in enumerate(pictures)}
        images = dataset[split].images
        assert images.shape[1:] == (8, 8, 3) and images.dtype == np.uint8
        assert np.array_equal(images[:, 4, 4, 1], [greys[number] for number in dataset[split].stimulus])
    assert dataset["test_imagery"].images is None
    plain = load(h5.parent)
    assert dataset.fingerprint != plain.fingerprint
    Image.fromarray(np.zeros((40, 40), dtype=np.uint8)).save(folder / "test" / "n03767745_109.JPEG")
    assert load(h5.parent, stimuli=folder, image_size=8).fingerprint != dataset.fingerprint


def test_missing_photographs_are_counted(h5, tmp_path):
    folder = write_photographs(tmp_path / "images", leave_out=3)
    with pytest.raises(
        FileNotFoundError, match=r"6 of 29 photographs are not in .*\(23 pictures there\); missing: n0.*stimuli=None"
    ):
        load(h5.parent, stimuli=folder)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; give stimuli=FOLDER"):
        load(h5.parent, stimuli=tmp_path / "nowhere")


def test_names_match_without_ending_or_case(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    picture = Image.fromarray(np.zeros((4, 4), dtype=np.uint8))
    picture.save(tmp_path / "deep" / "er" / "N01443537_22563.png")
    (tmp_path / "deep" / "._n01443537_22563.JPEG").write_bytes(b"shadow")  # what macOS leaves in archives
    assert [path.name for path in find_photographs(tmp_path, ["n01443537_22563.JPEG"])] == ["N01443537_22563.png"]
    picture.save(tmp_path / "n01443537_22563.jpg")
    with pytest.raises(ValueError, match=r"1 photographs are more than once below .*give the folder"):
        find_photographs(tmp_path, ["n01443537_22563.JPEG"])


def test_a_photograph_becomes_its_centred_square_by_area(tmp_path):
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, :2] = pixels[:, 6:] = 255  # cut off
    pixels[0, 2] = [40, 80, 120]  # one of four pixels of the upper left cell
    pixels[2:, 4:6] = [7, 8, 9]
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    wide, tall = read_photographs([tmp_path / "wide.png", tmp_path / "tall.png"], image_size=2)
    assert wide.tolist() == [[[10, 20, 30], [0, 0, 0]], [[0, 0, 0], [7, 8, 9]]]
    assert np.array_equal(tall, wide.transpose(1, 0, 2))
    (tmp_path / "tall.png").write_bytes((tmp_path / "tall.png").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"tall\.png cannot be read as a picture .*whole copy"):
        read_photographs([tmp_path / "tall.png"], image_size=2)


# Tables that lie


def test_a_cut_table_is_refused(h5):
    h5.write_bytes(h5.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"Subject3\.h5 cannot be read as HDF5 .*truncated.*get god --subject 3"):
        load(h5.parent)
    h5.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=r"cannot be read as HDF5 .*get it anew"):
        load(h5.parent)


@pytest.mark.parametrize("missing", ["DataType", "Run", "stimulus_id"])
def test_a_missing_column_is_named(tmp_path, rows, missing):
    write_h5(tmp_path / "Subject3.h5", rows, skip=missing)
    name = "Label" if missing == "stimulus_id" else missing
    with pytest.raises(ValueError, match=rf"has 0 columns '{name}', expected 1; metadata has the rows \[.*'ROI_VC'"):
        load(tmp_path)


def test_a_missing_region_or_layout_is_named(h5, tmp_path, rows):
    write_h5(h5, rows, skip="ROI_VC")
    with pytest.raises(ValueError, match=r"no region \['VC'\]; this data set has \['FFA', 'V1'\]"):
        load(tmp_path)
    with h5py.File(h5, "a") as content:
        keys = [key.decode().replace("ROI_", "") for key in content["metadata/key"][()]]
        del content["metadata/key"]
        content["metadata/key"] = keys
    with pytest.raises(ValueError, match=r"has no metadata row ROI_\* that marks a column; it has \['DataType', 'FFA'"):
        load(tmp_path)
    with h5py.File(h5, "a") as content:
        value = content["metadata/value"][()]
        del content["metadata/value"]
        content["metadata/value"] = value[:, 1:]
    with pytest.raises(ValueError, match=r"a table of \(64, 19\) and metadata of \(7, 18\) for 7 keys, expected"):
        load(tmp_path)
    with h5py.File(h5, "a") as content:
        del content["metadata"]
    with pytest.raises(ValueError, match=r"holds \['dataset'\], expected dataset and metadata with key"):
        load(tmp_path)


def test_unknown_data_types_are_refused(tmp_path, rows):
    rows["DataType"][[3, 4]] = 7
    write_h5(tmp_path / "Subject3.h5", rows)
    with pytest.raises(ValueError, match=r"DataType of .* holds \[7\.0\] in 2 of 64 rows, expected \{1: 'train'"):
        load(tmp_path)
    write_h5(tmp_path / "Subject3.h5", {name: values[24:] for name, values in recording().items()})
    with pytest.raises(ValueError, match=r"has \{'train': 0, 'test': 30, 'test_imagery': 10\} trials, expected some"):
        load(tmp_path)


@pytest.mark.parametrize("column", ["DataType", "Run", "stimulus_id"])
def test_rows_without_a_label_are_refused(tmp_path, rows, column):
    rows[column][[5, 9]] = np.nan
    write_h5(tmp_path / "Subject3.h5", rows)
    with pytest.raises(ValueError, match=rf"{column} of .* is missing in 2 rows \(first: 5\), expected 0"):
        load(tmp_path)


def test_copied_rows_are_refused(tmp_path, rows):
    rows["voxels"][40] = rows["voxels"][2]  # a training trial among the test trials
    rows["voxels"][41] = rows["voxels"][2]
    write_h5(tmp_path / "Subject3.h5", rows)
    with pytest.raises(ValueError, match=r"2 of 64 rows of .* are exact copies .*expected 0 .*: 2 = 40, 2 = 41\)"):
        load(tmp_path)


def test_voxels_without_signal_are_left_out_and_counted(tmp_path, rows, caplog):
    rows["voxels"][7, 1] = np.nan  # in one training run
    rows["voxels"][:, 6] = 3.0
    write_h5(tmp_path / "Subject3.h5", rows)
    with caplog.at_level(logging.WARNING):
        dataset = load(tmp_path)
    assert dataset.num_voxels == IN_VC - 2 and dataset.rois["V1"].sum() == 4
    assert "left out 2 of 12 voxels" in caplog.text


# The npz of MinD-Vis


def test_contract_of_the_npz(tmp_path, rows, h5):
    table = load(tmp_path, val_fraction=0)
    h5.unlink()
    write_npz(tmp_path, rows)
    dataset = load(tmp_path, val_fraction=0)
    assert sorted(dataset.splits) == ["test", "train"] and dataset.num_voxels == IN_VC
    assert {name: int(mask.sum()) for name, mask in dataset.rois.items()} == {"VC": 12, "V1": 5}
    for split in ("train", "test"):  # the same trials as in the table, row by row, under the same names
        assert np.array_equal(dataset[split].stimulus, table[split].stimulus)
        ours = [dataset.category_names[label] for label in dataset[split].labels]
        assert ours == [table.category_names[label] for label in table[split].labels]
    scale = ZScore.fit(table["train"].voxels)
    assert np.allclose(dataset["test"].voxels, scale.apply(table["test"].voxels), atol=1e-4)
    assert set(dataset["train"].run) == {0} and dataset["test"].trial.tolist() == list(range(24, 54))
    assert len(load(tmp_path, average_test=True)["test"]) == 5
    assert load(tmp_path, roi="ROI_V1").num_voxels == 5 and load(tmp_path, roi=None).num_voxels == IN_VC + OUTSIDE
    with pytest.raises(ValueError, match=r"no region \['V9'\]; this data set has \['V1', 'VC'\]"):
        load(tmp_path, roi="V9")
    assert len(god.found(tmp_path)) == 3


def test_npz_without_names_has_stimuli_but_no_categories(tmp_path, rows, caplog):
    write_npz(tmp_path, rows, names=False)
    with caplog.at_level(logging.WARNING):
        dataset = load(tmp_path)
    assert dataset["train"].labels is None and dataset.category_names == ()
    assert len(set(dataset["test"].stimulus)) == 5
    assert not np.intersect1d(dataset["test"].stimulus, dataset["train"].stimulus).size
    assert "no categories; put imageID_training.csv and imageID_test.csv" in caplog.text
    with pytest.raises(ValueError, match=r"does not say which photograph is which; put imageID_training\.csv"):
        load(tmp_path, stimuli=write_photographs(tmp_path / "images"))


def test_npz_takes_its_pictures_from_a_folder(tmp_path, rows):
    write_npz(tmp_path, rows)
    dataset = load(tmp_path, stimuli=write_photographs(tmp_path / "images"), image_size=4, val_fraction=0)
    greys = {wnid * 10**6 + image: 4 * place for place, (wnid, image) in enumerate(TRAIN)}
    assert dataset["train"].images[:, 0, 0, 0].tolist() == [greys[number] for number in dataset["train"].stimulus]


def write_picture_arrays(path: Path, side: int, kind: type = np.float64, brighter: int = 0) -> None:
    """images_SIZE.npz: train_images and test_images, (n, SIZE, SIZE, 3), floats in [0, 1] or uint8, in list order."""
    content = {}
    for key, pictures, base in (("train_images", TRAIN, 0), ("test_images", TEST, 100)):
        grey = (base + brighter + 4 * np.arange(len(pictures))) / (1 if kind is np.uint8 else 255.0)
        content[key] = np.tile(grey.astype(kind)[:, None, None, None], (side, side, 3))
    np.savez(path, **content)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.uint8])
def test_npz_takes_its_pictures_from_the_arrays_beside_it(tmp_path, rows, kind, monkeypatch):
    monkeypatch.setattr("visdec_lite.datasets.photographs.BLOCK", 3000)  # several reads
    path = write_npz(tmp_path, rows, names=False)
    write_picture_arrays(tmp_path / "images_8.npz", 8, kind)
    write_picture_arrays(tmp_path / "images_16.npz", 16, kind, brighter=1)
    place = np.load(path)["arr_3"]
    for size, brighter in ((8, 0), (12, 1), (16, 1), (20, 1)):  # 16 is reduced to 12, rather than 8 blown up
        images = load(tmp_path, image_size=size, val_fraction=0)["train"].images
        assert images.shape == (24, size, size, 3)
        assert np.array_equal(images[:, 5, 5, 2], 4 * place + brighter)


def test_picture_arrays_that_lie_are_refused(tmp_path, rows):
    write_npz(tmp_path, rows)
    path = tmp_path / "images_8.npz"
    good = np.zeros((24, 8, 8, 3))
    cases: list[tuple[dict[str, np.ndarray], str]] = [
        ({"train_images": good, "test_images": good[:2]}, "shows picture 4 in test, .* holds 2, counted from 0"),
        ({"train_images": good}, "has no array 'test_images'"),
        ({"train_images": good + 200, "test_images": good}, "span 200.0 to 200.0, the stated range is 0 to 1"),
        ({"train_images": good[..., 0], "test_images": good}, r"train_images is float64 \(24, 8, 8\), expected"),
        ({"train_images": np.array([{}]), "test_images": good}, "pickled objects are refused"),
    ]
    for content, message in cases:
        np.savez(path, **content)
        with pytest.raises(ValueError, match=message):
            load(tmp_path, image_size=8)
    write_picture_arrays(path, 8)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"images_8\.npz cannot be read as pictures .*download it anew"):
        read_picture_array(path, "train_images", 8)


def test_pickled_and_cut_npz_are_refused(tmp_path, rows):
    write_npz(tmp_path, rows, arr_3=np.array([{"run": "anything"}], dtype=object))
    with pytest.raises(ValueError, match=r"pickled objects are refused, as reading them can run any code.*anew"):
        load(tmp_path)
    path = write_npz(tmp_path, rows)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(ValueError, match=r"sbj_3\.npz cannot be read as a \.npz file .*get god --subject 3"):
        load(tmp_path)


def test_npz_whose_labels_do_not_fit_its_rows_are_refused(tmp_path, rows, rng):
    whole = dict(np.load(write_npz(tmp_path, rows)))
    cases: list[tuple[dict[str, np.ndarray | None], str]] = [
        ({"arr_3": whole["arr_3"][1:]}, r"labels int64 \(23,\) for 24 rows of train, expected one place"),
        ({"arr_4": whole["arr_4"] * 1.5}, r"labels float64 \(30,\) for 30 rows of test, expected one place"),
        ({"arr_4": whole["arr_4"] - 1}, "labels int64 .* counted from 0"),
        ({"arr_4": rng.permutation(whole["arr_4"])}, r"does not fit its rows: .* correlate -?0\.\d\d with arr_2"),
        ({"arr_4": np.minimum(whole["arr_4"], 3)}, "arr_4 of .* names 4 pictures, arr_2 has 5 rows"),
        ({"arr_3": whole["arr_3"] + 1}, r"shows picture 24 in train, .*imageID_training\.csv lists 24, counted from 0"),
        ({"arr_2": None}, r"but no \['arr_2'\]"),
        ({"arr_1": whole["arr_1"][:, 1:]}, r"\(24, 16\), \(30, 15\) and \(5, 16\), expected .* as many voxels"),
        ({"arr_0": np.tile(whole["arr_0"][:12], (2, 1))}, "12 of 54 rows of .* are exact copies"),
    ]
    for changed, message in cases:
        write_npz(tmp_path, rows, **changed)
        with pytest.raises(ValueError, match=message):
            load(tmp_path)
    write_npz(tmp_path, rows)
    (tmp_path / god.NAME_LISTS[1][0]).write_text('1518878.010042,"n01518878_10042.JPEG"\nnumber,name\n')
    with pytest.raises(ValueError, match=r"imageID_training\.csv, line 2: .* names no picture; 2 rows expected"):
        load(tmp_path)


@pytest.mark.slow
def test_a_whole_subject_loads_in_two_seconds_and_a_gigabyte(tmp_path, rng):
    """1200 training, 1750 test and 500 imagery trials x 4500 voxels, float64, as large as a published file."""
    kind = np.repeat([1.0, 2.0, 3.0], [1200, 1750, 500])
    run = np.concatenate([np.repeat(np.arange(parts), length) for parts, length in ((24, 50), (35, 50), (20, 25))])
    wnids = 1_500_000 + np.arange(200)
    train = (wnids[:150, None] + 1e-6 * np.arange(1, 9)).ravel()
    ids = np.concatenate([train, np.tile(wnids[150:] + 1e-6, 45)])
    table = np.column_stack([kind, run, ids, rng.standard_normal((3450, 4500))])
    value = np.full((4, 4503), np.nan)
    value[[0, 1, 2], [0, 1, 2]] = value[3, 3:] = 1
    with h5py.File(tmp_path / "Subject3.h5", "w") as content:
        content["dataset"], content["metadata/value"] = table, value
        content["metadata/key"] = ["DataType", "Run", "stimulus_id", "ROI_VC"]
    del table
    start = time.process_time()  # of this process alone, so that a busy machine does not count
    dataset = load(tmp_path)
    assert time.process_time() - start < 2.0
    assert dataset.num_voxels == 4500 and len(dataset["test"]) == 1750
    tracemalloc.start()
    load(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 1e9
    tracemalloc.stop()


# Numbers and lists of other machines


def test_big_endian_tables_give_the_same(tmp_path, rows):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    path = write_npz(tmp_path / "a", rows)
    with np.load(path) as content:
        turned = {name: a.astype(a.dtype.newbyteorder(">")) for name, a in content.items()}
    write_npz(tmp_path / "b", rows, **turned)
    for name in ("test", "train"):
        little, big = (load(tmp_path / folder)[name] for folder in "ab")
        assert np.array_equal(little.voxels, big.voxels) and np.array_equal(little.stimulus, big.stimulus)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1518878.012028,", "1518878.012029,", r"line 2: .* has 1518878\.012029 for n01518878_12028;"),
        ("n01518878_12028", "n01518878_1202\u00b2", r"line 2: .* has 1518878\.012028 for n01518878_1202;"),
        ("n01518878_12028", "n01518878-12028", r"line 2: .* names no picture;"),
        ("n01518878_12028", "n01518878_12\x00028", r"line 2, column 29: U\+0000"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(tmp_path, rows, old, new, message):
    write_npz(tmp_path, rows)
    file = tmp_path / god.NAME_LISTS[1][0]
    file.write_text(file.read_text().replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=r"imageID_training\.csv, " + message):
        load(tmp_path)
