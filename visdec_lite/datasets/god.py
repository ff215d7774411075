"""GOD, Generic Object Decoding: five people saw photographs of 200 kinds of things (Horikawa and Kamitani, 2017).

Enters, whichever is there (the first wins):
    SubjectN.h5   the authors' table (bdpy): a row a trial; every column is explained by rows of metadata
    sbj_N.npz     the same trials as MinD-Vis and others use them: z-scored by run, sorted into train and test
Leaves: the sample contract of `base`. `train` has 1200 photographs of 150 categories, each seen once, `test` 50 of 50
other categories, each seen 35 times, and `test_imagery` (h5 only) the 50 categories imagined, without a picture.

The h5 is z-scored run by run, each with its own mean and spread; the npz, which says nothing of runs (all rows have
run 0), by the statistics of train. A stimulus is numbered wnid * 1,000,000 + image: 1518878010042 is
n01518878_10042.JPEG; image 0 is no picture. `trial` is the row in the file (npz: training rows first). The noise
ceiling and SNR of each voxel, arr_5 and arr_6 of the npz, are left alone.

Written from the documented layout and from code that reads these files (bdpy; the repositories GenericObjectDecoding,
ssfmri2im, SelfSuperReconst and mind-vis); no published file was at hand to try it on.
"""

from __future__ import annotations

import hashlib
import logging
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from visdec_lite.datasets.arrays import from_arrays
from visdec_lite.datasets.base import BrainDataset, fingerprint
from visdec_lite.datasets.photographs import PICKLED, find_photographs, read_photographs, read_picture_array
from visdec_lite.files import data_home
from visdec_lite.preprocessing import roi_mask

if TYPE_CHECKING:
    import h5py

logger = logging.getLogger(__name__)

TITLE = "GOD: 1200 + 50 photographs of 200 categories, 5 people (Horikawa and Kamitani, 2017)"
MEGABYTES = 124.0  # a subject as h5, reckoned from 3450 trials x 4500 columns x 8 bytes
REQUEST_FORM = "https://forms.gle/ujvA34948Xg49jdn9"
LICENCE = (
    "as stated with figshare article 7387130, not read here; the photographs only through the authors' request form, "
    f"{REQUEST_FORM}, never to be redistributed"
)
CITATION = (
    "Horikawa, T., & Kamitani, Y. (2017). Generic decoding of seen and imagined objects using hierarchical visual "
    "features. Nature Communications, 8, 15037."
)
SPLITS = {1: "train", 2: "test", 3: "test_imagery"}  # DataType of the table
NUMBERS = 1_000_000  # an id has six decimals: the number of the image within its category
TOLERANCE = 1e-7  # of an id: a tenth of its last decimal; float64 is good to 1e-9 here, float32 only to 0.25
NAME_LISTS = (  # file names of the pictures, in the order of the npz: MinD-Vis' copies, the authors' own
    ("imagenet_training_label.csv", "imagenet_testing_label.csv"),
    ("imageID_training.csv", "imageID_test.csv"),
)
BLOCK = 2**25  # bytes of the table read at once
Columns = dict[str, np.ndarray]


def found(root: Path | str | None = None) -> list[Path]:
    """Files of this data set in its folder."""
    patterns = ("Subject*.h5", "sbj_*.npz", "images_*.npz", *(name for pair in NAME_LISTS for name in pair))
    with suppress(OSError, RuntimeError):
        return sorted(path for pattern in patterns for path in _folder(root).glob(pattern) if path.is_file())
    return []


def load(
    root: Path | str | None = None,
    *,
    subject: int = 3,
    roi: str | Sequence[str] | None = "VC",
    average_test: bool = False,
    stimuli: Path | str | None = None,
    image_size: int = 32,
    val_fraction: float = 0.1,
    split_seed: int = 0,
) -> BrainDataset:
    """Read one person's recording.

    Args:
        root: folder of the files; None is `god` in the folder named by VISDEC_DATA, else in `data`.
        subject: 1 to 5.
        roi: regions by name (V1 to V4, LOC, FFA, PPA, LVC, HVC, VC); None takes every voxel of the file.
        average_test: one row a test picture, the mean over its 35 repeats (`Split.average_repeats`).
        stimuli: folder with the photographs, under their ImageNet names, at any depth. None goes without, unless an
            `images_*.npz` lies beside the npz.
        image_size: side of the pictures in pixels: 32 for the preset "class", 256 for "paper".
        val_fraction, split_seed: training pictures set aside as `val`, see `from_arrays`.

    Returns:
        Splits `train`, `val`, `test` and, from the h5, `test_imagery`. Categories are WordNet ids such as n01518878.
        Without photographs `images` is None. An npz without a list of its picture names has no labels either.

    Raises:
        FileNotFoundError: no recording there, or photographs missing.
        ValueError: the file is damaged, or is not laid out as published; a region is not in it; rows are copies.
    """
    file = _find(_folder(root), subject)
    regions = [roi] if isinstance(roi, str) else roi
    regions = None if regions is None else [name.removeprefix("ROI_") for name in regions]
    recording = _read_h5(file, regions) if file.suffix == ".h5" else _read_npz(file, regions)
    tables, files = recording.tables, list(recording.files)
    for table in tables.values():
        table["subject"] = np.full(len(table["voxels"]), subject)
    if stimuli is not None:
        files += _add_photographs(recording, stimuli, image_size)
    elif file.suffix == ".npz":
        files += _add_picture_arrays(tables, file, image_size)
    if "images" not in tables["train"]:
        logger.warning(
            "GOD subject %s is without photographs: pre-training, phase 1 and category decoding work; phase 2, "
            "fine-tuning and scores of pictures do not. Ask for the photographs at %s, then give stimuli=FOLDER",
            subject,
            REQUEST_FORM,
        )
    names = _label(tables) if recording.named else None
    for table in tables.values():
        table.pop("place", None)
    dataset = from_arrays(
        tables.pop("train"),
        tables.pop("test"),
        others=tables,
        name="god",
        category_names=names,
        rois=recording.rois,
        zscore="runs" if file.suffix == ".h5" else "train",
        val_fraction=val_fraction,
        split_seed=split_seed,
        licence=LICENCE,
        citation=CITATION,
        fingerprint=fingerprint(*map(sha256_of, files)),
    )
    averaged = {"test": dataset["test"].average_repeats()} if average_test else {}
    return replace(dataset, splits=dataset.splits | averaged)


def photograph_name(stimulus: int) -> str:
    """File name of a stimulus number: 1518878010042 -> n01518878_10042.JPEG."""
    wnid, image = divmod(int(stimulus), NUMBERS)
    return f"n{wnid:08d}_{image}.JPEG"


def stimulus_numbers(ids: np.ndarray, pictured: np.ndarray) -> np.ndarray:
    """Ids of the table as stimulus numbers.

    Args:
        ids: wnid.image as floats, shape (n,): 1518878.010042, give or take the rounding of float64.
        pictured: whether a picture was shown, boolean, shape (n,); where not, the image counts as 0.

    Returns:
        int64, shape (n,).

    Raises:
        ValueError: ids that are not of that kind, such as those that went through float32.
    """
    wnid = np.floor(ids + TOLERANCE)
    image = np.rint((ids - wnid) * NUMBERS)
    fits = (np.abs(ids - wnid - image / NUMBERS) < TOLERANCE) & (wnid >= 1) & (wnid < 10**8)
    bad = np.flatnonzero(~fits | (pictured & (image < 1)))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(ids)} stimulus ids are no picture (first: row {bad[0]}, {ids[bad[0]]}), expected "
            "wnid.image like 1518878.010042; float32 cannot hold them: read the table in float64"
        )
    return wnid.astype(np.int64) * NUMBERS + np.where(pictured, image, 0).astype(np.int64)


def refuse_copies(voxels: np.ndarray, file: Path) -> None:
    """No two trials of a brain are equal in every voxel: such rows were copied, and may stand in train and test.

    Args:
        voxels: shape (trials, voxels).
        file: where they are from, for the message.
    """
    first: dict[int, int] = {}
    pairs = []
    for row, trial in enumerate(np.ascontiguousarray(voxels)):
        other = first.setdefault(hash(trial.tobytes()), row)
        if other != row and np.array_equal(trial, voxels[other], equal_nan=True):
            pairs.append((other, row))
    if pairs:
        shown = ", ".join(f"{a} = {b}" for a, b in pairs[:5]) + (", ..." if len(pairs) > 5 else "")
        raise ValueError(
            f"{len(pairs)} of {len(voxels)} rows of {file} are exact copies of others, expected 0 (rows counted from "
            f"0: {shown}); get the file anew, or leave the copies out"
        )


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, read piece by piece."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class _Recording:
    """What was read, as recorded; `tables` are filled up by `load`."""

    tables: dict[str, Columns]  # split -> columns
    rois: dict[str, np.ndarray]  # masks over the voxels read
    named: bool  # stimulus numbers are wnid * NUMBERS + image, not just places in a list
    files: tuple[Path, ...]


def _folder(root: Path | str | None) -> Path:
    return data_home() / "god" if root is None else Path(root).expanduser()


def _find(folder: Path, subject: int) -> Path:
    names = (f"Subject{subject}.h5", f"sbj_{subject}.npz")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"no {' or '.join(names)} in {folder} ({len(found(folder))} files of GOD there); get it: "
        f"visdec-lite download get god --subject {subject}, or give root=FOLDER"
    )


def _again(file: Path) -> str:
    return f"get it anew: visdec-lite download get god --subject {''.join(re.findall('[0-9]+', file.stem))}"


def _read_h5(file: Path, regions: list[str] | None) -> _Recording:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{file} needs the package h5py, which is not installed: pip install h5py") from error
    try:
        with h5py.File(file, "r") as h5:
            table, marks = _layout(h5, file)
            rois = {key.removeprefix("ROI_"): mark for key, mark in marks.items() if key.startswith("ROI_")}
            if not any(mask.any() for mask in rois.values()):
                raise ValueError(
                    f"{file} has no metadata row ROI_* that marks a column; it has {sorted(marks)}; {_again(file)}"
                )
            everywhere = np.any([*rois.values(), *(marks[key] for key in ("VoxelData",) if key in marks)], axis=0)
            keep = everywhere if regions is None else roi_mask(rois, regions)
            id_key = "stimulus_id" if "stimulus_id" in marks else "Label"
            about = {key: _one_column(table, marks, key, file) for key in ("DataType", "Run", id_key)}
            about["Session"] = _one_column(table, marks, "Session", file) if "Session" in marks else about["Run"]
            voxels = _columns(table, np.flatnonzero(keep))
    except (OSError, KeyError, RuntimeError) as error:  # h5py's answers to a damaged file
        raise ValueError(f"{file} cannot be read as HDF5 ({error}); {_again(file)}") from error
    refuse_copies(voxels, file)
    kind = about["DataType"]
    unknown = np.unique(kind[~np.isin(kind, list(SPLITS))])
    if len(unknown):
        raise ValueError(
            f"DataType of {file} holds {unknown.tolist()} in {int((~np.isin(kind, list(SPLITS))).sum())} of "
            f"{len(kind)} rows, expected {SPLITS}; {_again(file)}"
        )
    # Training, test and imagery are counted from run 1 each, so what was done is part of what names a run.
    _, run = np.unique(np.stack([kind, about["Session"], about["Run"]]), axis=1, return_inverse=True)
    stimulus = stimulus_numbers(about[id_key], pictured=kind != 3)
    rows = {split: np.flatnonzero(kind == number) for number, split in SPLITS.items()}
    counts = {split: len(index) for split, index in rows.items()}
    if not (counts["train"] and counts["test"]):
        raise ValueError(f"{file} has {counts} trials, expected some of train and test; {_again(file)}")
    tables = {
        split: {"voxels": voxels[index], "stimulus": stimulus[index], "run": run.ravel()[index], "trial": index}
        for split, index in rows.items()
        if len(index)
    }
    return _Recording(tables, {name: m[keep] for name, m in rois.items() if m[keep].any()}, True, (file,))


def _layout(h5: h5py.File, file: Path) -> tuple[h5py.Dataset, dict[str, np.ndarray]]:
    """The table, and for each row of metadata the columns it marks with 1 (elsewhere it says NaN)."""
    table = h5.get("dataset", h5.get("dataSet"))
    metadata = h5.get("metadata", h5.get("metaData"))
    if table is None or metadata is None or not {"key", "value"} <= set(metadata):
        raise ValueError(
            f"{file} holds {sorted(h5)}, expected dataset and metadata with key, description and value; {_again(file)}"
        )
    keys = [key.decode() if isinstance(key, bytes) else str(key) for key in metadata["key"][()].ravel()]
    values = metadata["value"][()]
    if table.ndim != 2 or values.shape != (len(keys), table.shape[1]):
        raise ValueError(
            f"{file} has a table of {table.shape} and metadata of {values.shape} for {len(keys)} keys, expected "
            f"trials x columns and keys x columns; {_again(file)}"
        )
    return table, {key.strip(): row == 1 for key, row in zip(keys, values, strict=True)}


def _one_column(table: h5py.Dataset, marks: dict[str, np.ndarray], key: str, file: Path) -> np.ndarray:
    """The column of the table that a row of metadata names, finite float64."""
    columns = np.flatnonzero(marks.get(key, []))
    if len(columns) != 1:
        raise ValueError(
            f"{file} has {len(columns)} columns {key!r}, expected 1; metadata has the rows {sorted(marks)}; "
            f"{_again(file)}"
        )
    values = table[:, columns[0]].astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"{key} of {file} is missing in {len(bad)} rows (first: {bad[0]}), expected 0; {_again(file)}")
    return values


def _columns(table: h5py.Dataset, columns: np.ndarray) -> np.ndarray:
    """Some columns of a table, float32. HDF5 picks columns one by one, so whole pieces are read and cut here."""
    low, high = columns[0], columns[-1] + 1
    picked = np.empty((table.shape[0], len(columns)), dtype=np.float32)
    step = max(1, BLOCK // int((high - low) * table.dtype.itemsize))
    for start in range(0, len(picked), step):
        picked[start : start + step] = table[start : start + step, low:high][:, columns - low]
    return picked


def _read_npz(file: Path, regions: list[str] | None) -> _Recording:
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {key: content[key] for key in content.files if key not in ("arr_5", "arr_6")}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} cannot be read as .npz ({error}); {PICKLED}; {_again(file)}") from error
    missing = [f"arr_{i}" for i in range(5) if f"arr_{i}" not in arrays]
    if missing:
        raise ValueError(f"{file} holds {sorted(arrays)}, but no {missing}; {_again(file)}")
    train, test, mean, *labels = (arrays.pop(f"arr_{i}") for i in range(5))
    if {train.ndim, test.ndim, mean.ndim} != {2} or len({train.shape[1], test.shape[1], mean.shape[1]}) > 1:
        raise ValueError(
            f"arr_0, arr_1 and arr_2 of {file} are {train.shape}, {test.shape} and {mean.shape}, expected (trials, "
            f"voxels) with as many voxels; {_again(file)}"
        )
    rois = {key.removeprefix("ROI_"): m for key, m in arrays.items() if m.dtype == bool and m.shape == train.shape[1:]}
    keep = np.ones(train.shape[1], dtype=bool) if regions is None else roi_mask(rois, regions)
    tables: dict[str, Columns] = {}
    for split, voxels, place in (("train", train, labels[0]), ("test", test, labels[1])):
        if place.shape != (len(voxels),) or place.dtype.kind not in "iu" or place.min(initial=0) < 0:
            raise ValueError(
                f"{file} has labels {place.dtype} {place.shape} for {len(voxels)} rows of {split}, expected one place "
                f"in the list of pictures a row, counted from 0; {_again(file)}"
            )
        trial = np.arange(len(voxels)) + sum(len(table["trial"]) for table in tables.values())
        tables[split] = {"voxels": voxels[:, keep].astype(np.float32), "place": place.astype(np.int64), "trial": trial}
    _expect_means(tables["test"], mean[:, keep], file)
    refuse_copies(np.concatenate([table["voxels"] for table in tables.values()]), file)
    lists = _name_lists(file.parent)
    offset = 0
    for split, path in zip(tables, lists or (None, None), strict=True):
        place = tables[split]["place"]
        names = None if path is None else _read_names(path)
        if names is not None and place.max() >= len(names):
            raise ValueError(
                f"{file} shows picture {place.max()} in {split}, {path} lists {len(names)}, counted from 0"
            )
        tables[split]["stimulus"] = offset + place if names is None else names[place]
        offset = int(place.max()) + 1
    if not lists:
        logger.warning("%s has no list of picture names beside it, so no categories; %s", file, _way_to_names(file))
    return _Recording(tables, {name: m[keep] for name, m in rois.items() if m[keep].any()}, bool(lists), (file, *lists))


def _expect_means(test: Columns, mean: np.ndarray, file: Path) -> None:
    """arr_2 is arr_1 averaged over repeats: if it is not, the labels belong to other rows."""
    places = np.unique(test["place"])
    if len(places) != len(mean):
        raise ValueError(f"arr_4 of {file} names {len(places)} pictures, arr_2 has {len(mean)} rows; {_again(file)}")
    own = np.stack([test["voxels"][test["place"] == place].mean(axis=0) for place in places])
    both = np.isfinite(own) & np.isfinite(mean)
    fit = np.corrcoef(own[both], mean[both])[0, 1] if both.any() else 0.0
    if fit < 0.5:
        raise ValueError(
            f"arr_4 of {file} does not fit its rows: trials averaged by it correlate {fit:.2f} with arr_2, expected 1; "
            f"{_again(file)}"
        )


def _name_lists(folder: Path) -> tuple[Path, ...]:
    """The lists of training and test picture names in a folder, or nothing."""
    for pair in NAME_LISTS:
        paths = tuple(folder / name for name in pair)
        if all(path.is_file() for path in paths):
            return paths
    return ()


def _read_names(path: Path) -> np.ndarray:
    """Stimulus numbers in the order of a list whose rows are like 1518878.010042,"n01518878_10042.JPEG"."""
    lines = path.read_text(encoding="utf-8").split()
    names = [re.search(r"n(\d{8})_(\d+)", line) for line in lines]
    if not lines or None in names:
        row = names.index(None) if lines else 0
        raise ValueError(
            f"row {row} of {path} names no picture, {len(lines)} rows expected to be like "
            f'1518878.010042,"n01518878_10042.JPEG"; {_way_to_names(path)}'
        )
    return np.array([int(name[1]) * NUMBERS + int(name[2]) for name in names if name], dtype=np.int64)


def _way_to_names(file: Path) -> str:
    return (
        f"put {' and '.join(NAME_LISTS[1])} of github.com/KamitaniLab/GenericObjectDecoding, folder data, "
        f"into {file.parent}"
    )


def _add_photographs(recording: _Recording, folder: Path | str, image_size: int) -> list[Path]:
    """Give train and test their pictures, each read once; returns the files."""
    if not recording.named:
        raise ValueError(
            f"{recording.files[0]} does not say which photograph is which; {_way_to_names(recording.files[0])}, or "
            "give stimuli=None"
        )
    shown = [recording.tables[split] for split in ("train", "test")]
    numbers = np.unique(np.concatenate([table["stimulus"] for table in shown]))
    paths = find_photographs(folder, [photograph_name(number) for number in numbers])
    pictures = read_photographs(paths, image_size)
    for table in shown:
        table["images"] = pictures[np.searchsorted(numbers, table["stimulus"])]
    return paths


def _add_picture_arrays(tables: Mapping[str, Columns], file: Path, image_size: int) -> list[Path]:
    """The same from an images_*.npz beside the recording: the smallest that is large enough, if there is any."""
    sizes = {int(path.stem.removeprefix("images_")): path for path in file.parent.glob("images_[0-9]*.npz")}
    if not sizes:
        return []
    path = sizes[min((size for size in sizes if size >= image_size), default=max(sizes))]
    for split in ("train", "test"):
        pictures = read_picture_array(path, f"{split}_images", image_size)
        place = tables[split]["place"]
        if place.max() >= len(pictures):
            raise ValueError(
                f"{file} shows picture {place.max()} in {split}, {path} holds {len(pictures)}, counted from 0; they "
                "belong to different releases: get both from one"
            )
        tables[split]["images"] = pictures[place]
    return [path]


def _label(tables: Mapping[str, Columns]) -> list[str]:
    """Number the categories of all splits in order of their WordNet ids, which are returned."""
    wnids = np.unique(np.concatenate([table["stimulus"] for table in tables.values()]) // NUMBERS)
    for table in tables.values():
        table["labels"] = np.searchsorted(wnids, table["stimulus"] // NUMBERS)
    return [f"n{wnid:08d}" for wnid in wnids]
