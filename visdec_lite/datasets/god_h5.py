"""GOD as its authors publish it: SubjectN.h5, a table that bdpy wrote.

Enters: the file. Leaves: a `Recording`, columns of each split and masks of the regions. The table has a row a trial;
which of its columns are voxels, of which region, and which say what was shown, is marked in rows of metadata.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from visdec_lite.datasets.arrays import refuse_copies
from visdec_lite.datasets.recordings import reading, refuse_absurd
from visdec_lite.preprocessing import roi_mask

if TYPE_CHECKING:
    import h5py

SPLITS = {1: "train", 2: "test", 3: "test_imagery"}  # DataType of the table
NUMBERS = 1_000_000  # an id has six decimals: the number of the image within its category
TOLERANCE = 1e-7  # of an id: a tenth of its last decimal; float64 is good to 1e-9 here, float32 only to 0.25
BLOCK = 2**25  # bytes of the table read at once
Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Recording:
    """What was read, as recorded; `tables` are filled up by `god.load`."""

    tables: dict[str, Columns]  # split -> columns
    rois: dict[str, np.ndarray]  # masks over the voxels read
    named: bool  # stimulus numbers are wnid * NUMBERS + image, not just places in a list


def read_h5(file: Path, regions: list[str] | None) -> Recording:
    """The trials of a table, in its order.

    Args:
        file: SubjectN.h5.
        regions: whose voxels are read, without ROI_; None: of all regions, and those that are in none.

    Returns:
        Splits `train`, `test` and `test_imagery`, as many as there are; columns `voxels`, `stimulus`, `run`, `trial`.

    Raises:
        ImportError: h5py is not installed.
        ValueError: the file is damaged, or is not laid out as published; a region is not in it; rows are copies.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{file} needs the package h5py, which is not installed: pip install h5py") from error
    with reading(file, "HDF5", anew(file)), h5py.File(file, "r") as h5:
        table, marks = _layout(h5, file)
        rois = {key.removeprefix("ROI_"): mark for key, mark in marks.items() if key.startswith("ROI_")}
        if not any(mask.any() for mask in rois.values()):
            raise ValueError(
                f"{file} has no metadata row ROI_* that marks a column; it has {sorted(marks)}; {anew(file)}"
            )
        everywhere = np.any([*rois.values(), *(marks[key] for key in ("VoxelData",) if key in marks)], axis=0)
        id_key = "stimulus_id" if "stimulus_id" in marks else "Label"
        about = {key: _one_column(table, marks, key, file) for key in ("DataType", "Run", id_key)}
        about["Session"] = _one_column(table, marks, "Session", file) if "Session" in marks else about["Run"]
    keep = everywhere if regions is None else roi_mask(rois, regions)
    with reading(file, "HDF5", anew(file)), h5py.File(file, "r") as h5:
        voxels = _columns(_layout(h5, file)[0], np.flatnonzero(keep), file)
    refuse_copies(voxels, file)
    kind = about["DataType"]
    unknown = np.unique(kind[~np.isin(kind, list(SPLITS))])
    if len(unknown):
        raise ValueError(
            f"DataType of {file} holds {unknown.tolist()} in {int((~np.isin(kind, list(SPLITS))).sum())} of "
            f"{len(kind)} rows, expected {SPLITS}; {anew(file)}"
        )
    # Training, test and imagery are counted from run 1 each, so what was done is part of what names a run.
    _, run = np.unique(np.stack([kind, about["Session"], about["Run"]]), axis=1, return_inverse=True)
    with reading(file, "the published table", anew(file)):
        stimulus = stimulus_numbers(about[id_key], pictured=kind != 3)
    rows = {split: np.flatnonzero(kind == number) for number, split in SPLITS.items()}
    counts = {split: len(index) for split, index in rows.items()}
    if not (counts["train"] and counts["test"]):
        raise ValueError(f"{file} has {counts} trials, expected some of train and test; {anew(file)}")
    tables = {
        split: {"voxels": voxels[index], "stimulus": stimulus[index], "run": run.ravel()[index], "trial": index}
        for split, index in rows.items()
        if len(index)
    }
    return Recording(tables, {name: m[keep] for name, m in rois.items() if m[keep].any()}, True)


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


def anew(file: Path) -> str:
    """The way out of a damaged file, for messages."""
    return f"get it anew: visdec-lite download get god --subject {''.join(re.findall('[0-9]+', file.stem))}"


def _layout(h5: h5py.File, file: Path) -> tuple[h5py.Dataset, dict[str, np.ndarray]]:
    """The table, and for each row of metadata the columns it marks with 1 (elsewhere it says NaN)."""
    table = h5.get("dataset", h5.get("dataSet"))
    metadata = h5.get("metadata", h5.get("metaData"))
    if table is None or metadata is None or not {"key", "value"} <= set(metadata):
        raise ValueError(
            f"{file} holds {sorted(h5)}, expected dataset and metadata with key, description and value; {anew(file)}"
        )
    keys = [key.decode() if isinstance(key, bytes) else str(key) for key in metadata["key"][()].ravel()]
    values = metadata["value"][()]
    if table.ndim != 2 or values.shape != (len(keys), table.shape[1]):
        raise ValueError(
            f"{file} has a table of {table.shape} and metadata of {values.shape} for {len(keys)} keys, expected "
            f"trials x columns and keys x columns; {anew(file)}"
        )
    return table, {key.strip(): row == 1 for key, row in zip(keys, values, strict=True)}


def _one_column(table: h5py.Dataset, marks: dict[str, np.ndarray], key: str, file: Path) -> np.ndarray:
    """The column of the table that a row of metadata names, finite float64."""
    columns = np.flatnonzero(marks.get(key, []))
    if len(columns) != 1:
        raise ValueError(
            f"{file} has {len(columns)} columns {key!r}, expected 1; metadata has the rows {sorted(marks)}; "
            f"{anew(file)}"
        )
    values = table[:, columns[0]].astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"{key} of {file} is missing in {len(bad)} rows (first: {bad[0]}), expected 0; {anew(file)}")
    return values


def _columns(table: h5py.Dataset, columns: np.ndarray, file: Path) -> np.ndarray:
    """Some columns of a table, float32. HDF5 picks columns one by one, so whole pieces are read and cut here."""
    low, high = columns[0], columns[-1] + 1
    picked = np.empty((table.shape[0], len(columns)), dtype=np.float32)
    step = max(1, BLOCK // int((high - low) * table.dtype.itemsize))
    for start in range(0, len(picked), step):
        block = table[start : start + step, low:high][:, columns - low]
        refuse_absurd(block, file)
        picked[start : start + step] = block
    return picked
