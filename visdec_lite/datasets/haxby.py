"""Haxby 2001: six people looked at faces, houses, cats and five kinds of things (Haxby et al., 2001, Science 293).

Enters: the files that nilearn's `fetch_haxby` keeps, or a folder with bold.nii.gz, mask.nii.gz and labels.csv (columns
label and run, a row a volume). Leaves: the sample contract of `base`, a row a volume without rest, detrended and
z-scored within its run by nilearn's masker. Which picture was on is not recorded, so there are no images; volumes of
one block (22.5 s of one category) share a stimulus number, and `average_repeats` gives one row a block.

The labels of this distribution already stand late, for the blood: in the mean over blocks, responsive voxels are past
half their peak at the first labelled volume, and back below it at the first one after the block (measured on the one
slice; tests/test_haxby.py). So the lag is 0 unless asked for. Pictures came 12 s after the start of a run, for 24 s
every 36 s; a linear model needs those onsets, not the labels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from visdec_lite.datasets.arrays import from_arrays
from visdec_lite.datasets.base import BrainDataset, fingerprint
from visdec_lite.datasets.nifti import choose_runs, choose_voxels, open_image, read_series
from visdec_lite.datasets.recordings import verified
from visdec_lite.datasets.responses import block_numbers
from visdec_lite.datasets.tables import numbers, read_table, words
from visdec_lite.files import data_home, nilearn_folders
from visdec_lite.preprocessing import shift_lag

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

logger = logging.getLogger(__name__)

TITLE = "Haxby 2001: 6 people, 8 categories of objects, 12 runs; no images"
MEGABYTES = 300.0  # one subject, nearly
LICENCE = (
    "Creative Commons Attribution-Share Alike 3.0, copyright with the authors, as its distributor states "
    "(http://www.pymvpa.org/datadb/haxby2001.html)"
)
CITATION = (
    "Haxby, J. V., Gobbini, M. I., Furey, M. L., Ishai, A., Schouten, J. L., & Pietrini, P. (2001). Distributed and "
    "overlapping representations of faces and objects in ventral temporal cortex. Science, 293(5539), 2425-2430."
)
FOLDER = "haxby2001"  # as nilearn names it
TR = 2.5  # seconds
MASKS = {  # region -> file in the subject's folder
    "vt": "mask4_vt.nii.gz",  # ventral temporal cortex, the voxels of the paper
    "face": "mask8b_face_vt.nii.gz",
    "house": "mask8b_house_vt.nii.gz",
    "face_little": "mask8_face_vt.nii.gz",
    "house_little": "mask8_house_vt.nii.gz",
}


def found(root: Path | str | None = None) -> list[Path]:
    """Files of this data set on disk, any subject's."""
    names = ["mask.nii.gz", "bold.nii.gz", "labels.csv"]
    names += [f"subj*/{name}" for name in ("bold.nii.gz", "labels.txt", *MASKS.values())]
    return sorted({file for folder in nilearn_folders(FOLDER, root) for name in names for file in folder.glob(name)})


def load(
    root: Path | str | None = None,
    *,
    subject: int = 2,
    roi: str | Sequence[str] | None = None,
    test_runs: Sequence[int] = (10, 11),
    lag: int = 0,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    fetch: bool = False,
) -> BrainDataset:
    """Read one subject.

    Args:
        root: folder of the files, or the one that nilearn's `haxby2001` lies in; None takes VISDEC_DATA, else `data`.
        subject: 1 to 6, where the folder has several; a folder with bold.nii.gz itself has one, who becomes number 1.
        roi: regions to keep. A subject of nilearn's has "vt" (also None), its parts "face", "house", "face_little"
            and "house_little", and "brain", the mask nilearn delivers with subject 2; other folders have "all".
        test_runs: runs, counted from 0, that make `test`.
        lag: whole volumes (2.5 s) from label to volume, on top of the shift that the labels have.
        val_fraction, split_seed: share of the training blocks set aside as `val`, and which.
        fetch: let nilearn download what is missing, nearly 300 MB a subject.

    Returns:
        `train`, `val` and `test`; 8 categories in alphabetical order; no images.

    Raises:
        FileNotFoundError: files are missing; the message says how to get them.
        ValueError: labels that do not match the volumes, unknown runs or regions.
    """
    if fetch:
        from nilearn.datasets import fetch_haxby

        fetch_haxby(data_dir=str(data_home() if root is None else root), subjects=[subject], verbose=0)
    folder, labels_file = _find(root, subject)
    masks = _masks(folder, labels_file)
    masks = {name: masks[name] for name in _asked(masks, roi)}
    marks = verified([folder / "bold.nii.gz", labels_file, *masks.values()], f"haxby --subject {subject}")
    bold = open_image(folder / "bold.nii.gz")
    label, run = _read_labels(labels_file, bold.shape)
    test_runs = choose_runs(test_runs, np.unique(run).tolist())
    mask, regions = choose_voxels(bold, None, {name: open_image(file) for name, file in masks.items()})
    columns, names = _volumes(bold, mask, label, run, lag)
    columns["subject"] = np.full(len(columns["run"]), subject if folder.name == f"subj{subject}" else 1)
    in_test = np.isin(columns["run"], test_runs)
    return from_arrays(
        {name: column[~in_test] for name, column in columns.items()},
        {name: column[in_test] for name, column in columns.items()},
        name="haxby",
        category_names=names,
        rois=regions,
        val_fraction=val_fraction,
        split_seed=split_seed,
        licence=LICENCE,
        citation=CITATION,
        fingerprint=fingerprint(*marks),
    )


def _find(root: Path | str | None, subject: int) -> tuple[Path, Path]:
    """Folder of one subject's files, and its labels."""
    places = [(f / f"subj{subject}", "labels.txt") for f in nilearn_folders(FOLDER, root)] + [
        (f, "labels.csv") for f in nilearn_folders(FOLDER, root)
    ]
    for folder, labels in places:
        if (folder / "bold.nii.gz").is_file() and (folder / labels).is_file():
            return folder, folder / labels
    raise FileNotFoundError(
        f"no bold.nii.gz with its labels in {' or '.join(str(folder) for folder, _ in places)}; "
        f"get them: visdec-lite download get haxby --subject {subject} (nearly {MEGABYTES:.0f} MB, by nilearn's "
        "fetcher; or let load do it: fetch=True), or give root=..."
    )


def _read_labels(file: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Label and run of each volume of a scan of that shape."""
    table = read_table(file, "," if file.suffix == ".csv" else None)
    names = [{"labels": "label", "chunks": "run"}.get(name, name) for name in table.columns]
    if not {"label", "run"} <= set(names) or len(table.rows) != shape[-1]:
        raise ValueError(
            f"{file} has {len(table.rows)} rows with columns {names}, BOLD has {shape[-1]} volumes; expected a label "
            "and a run for each; get the files anew"
        )
    cells = {name: table.cells(column) for name, column in zip(names, table.columns, strict=True)}
    label = words(cells["label"], "label", table.places)
    if None in label:
        raise ValueError(f"{table.places[label.index(None)]}: a volume has no label; expected one, such as rest")
    run = numbers(cells["run"], "run", table.places, whole=True)
    starts = np.flatnonzero(np.diff(run, prepend=run[0] - 1))
    again = np.flatnonzero([run[start] in run[:start] for start in starts])
    if len(again):
        row = starts[again[0]]
        raise ValueError(
            f"{table.places[row]}: run {run[row]} goes on, after another; expected the volumes of a run together"
        )
    return np.array(label), run


def _masks(folder: Path, labels_file: Path) -> dict[str, Path]:
    """Region -> file, of those on disk."""
    if labels_file.suffix == ".csv":
        return {"all": folder / "mask.nii.gz"}
    masks = {name: folder / file for name, file in MASKS.items()} | {"brain": folder.parent / "mask.nii.gz"}
    return {name: file for name, file in masks.items() if file.is_file()}


def _asked(masks: dict[str, Path], roi: str | Sequence[str] | None) -> list[str]:
    default = "all" if "all" in masks else "vt"
    asked = [default] if roi is None else [roi] if isinstance(roi, str) else list(roi)
    unknown = [name for name in asked if name not in masks]
    if unknown or not asked:
        raise ValueError(f"no masks of the regions {unknown or asked} here; there are {sorted(masks)}")
    return asked


def _volumes(
    bold: SpatialImage, mask: SpatialImage, labels: np.ndarray, runs: np.ndarray, lag: int
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Volumes of all runs without rest, with label, run and block (as `stimulus`); and the category names."""
    from nilearn.image import index_img

    parts: dict[str, list[np.ndarray]] = {"voxels": [], "label": [], "run": [], "stimulus": [], "trial": []}
    for run in np.unique(runs).tolist():
        rows = np.flatnonzero(runs == run)
        label = labels[rows]
        series = read_series(index_img(bold, rows), mask, detrend=True, standardize="zscore_sample", t_r=TR)
        series, shown = shift_lag(series, np.arange(len(rows)), lag)
        shown = shown[label[shown] != "rest"]
        if not len(shown):
            logger.warning("run %d has no labels but rest (as run 8 of subject 5, which is corrupt): left out", run)
        parts["voxels"].append(series[shown])
        parts["label"].append(label[shown])
        parts["run"].append(np.full(len(shown), run))
        parts["stimulus"].append(block_numbers(label)[shown] + rows[0])  # blocks of a run are fewer than its volumes
        parts["trial"].append(rows[shown])
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    names, columns["labels"] = np.unique(columns.pop("label"), return_inverse=True)
    return columns, tuple(names.tolist())
