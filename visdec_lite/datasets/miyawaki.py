"""Miyawaki 2008: one person looked at flickering patterns of 10 x 10 black and white squares (Neuron 60, 915-929).

Enters: the files that nilearn's `fetch_miyawaki2008` keeps: 20 runs of random patterns, each seen once, and 12 runs of
figures (simple shapes and letters), each seen several times. Leaves: the sample contract of `base`: random patterns
are `train`, figures `test`. nilearn's masker detrends every run and z-scores it by itself; volumes are paired with the
pattern shown `lag` volumes before (TR 2 s), and rest goes. The patterns become RGB images in which each square is
repeated, pixel by pixel, as often as fits, with a black border where the rest does not: 32 = 10 x 3 + 2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from visdec_lite.datasets.arrays import from_arrays
from visdec_lite.datasets.base import BrainDataset, fingerprint
from visdec_lite.datasets.nifti import choose_voxels, open_image, read_series
from visdec_lite.datasets.recordings import verified
from visdec_lite.datasets.responses import block_numbers
from visdec_lite.datasets.tables import numbers, read_table
from visdec_lite.files import data_home, nilearn_folders
from visdec_lite.preprocessing import as_uint8_rgb, pad_images, shift_lag

TITLE = "Miyawaki 2008: 1 person, 10 x 10 patterns, random ones to learn from, figures to read"
MEGABYTES = 161.0  # 161,069,109 bytes, or 153 MiB
LICENCE = "not stated (nilearn: unknown); its hosts ask to agree to their terms: study it, do not redistribute it"
CITATION = (
    "Miyawaki, Y., Uchida, H., Yamashita, O., Sato, M., Morito, Y., Tanabe, H. C., Sadato, N., & Kamitani, Y. (2008). "
    "Visual image reconstruction from human brain activity using a combination of multiscale local image decoders. "
    "Neuron, 60(5), 915-929."
)
FOLDER = "miyawaki2008"  # as nilearn names it
FIGURE_RUNS, RANDOM_RUNS = 12, 20
SIDE = 10  # squares of a pattern
IMAGE_SIZE = 32  # pixels: halves down to 1, which image models need
TR = 2.0  # seconds
REST = -1  # in all 100 squares
RUNS = [f"figure_run{i:02d}" for i in range(1, FIGURE_RUNS + 1)] + [
    f"random_run{i:02d}" for i in range(1, RANDOM_RUNS + 1)
]


def found(root: Path | str | None = None) -> list[Path]:
    """Files of this data set on disk."""
    names = ("func/data_*_run??.nii.gz", "label/data_*_run??_label.csv", "mask/*.nii.gz")
    return sorted(file for folder in nilearn_folders(FOLDER, root) for name in names for file in folder.glob(name))


def load(
    root: Path | str | None = None,
    *,
    roi: str | Sequence[str] | None = None,
    image_size: int = IMAGE_SIZE,
    average_blocks: bool = False,
    lag: int = 2,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    fetch: bool = False,
) -> BrainDataset:
    """Read the recording.

    Args:
        root: folder `miyawaki2008`, or the one it lies in; None takes VISDEC_DATA, else `data`.
        roi: regions to keep, of "V1", "V2", "V3", "V3A", "V4" and "VP" where their masks are on disk: both
            hemispheres, dorsal and ventral parts together. None: the whole mask.
        image_size: pixels a side, 10 or more.
        average_blocks: one row a presentation, the mean of its volumes (3 of a random pattern, 6 of a figure), in
            train and test; False: one row a volume.
        lag: whole volumes from pattern to volume.
        val_fraction, split_seed: share of the random patterns set aside as `val`, and which.
        fetch: let nilearn download what is missing, 161 MB.

    Returns:
        `train`, `val` and `test`; label 0 is "random", the figures count from 1 in the order they are first seen;
        `run` counts the figure runs from 0 and the random runs from 12; `trial` counts presentations.

    Raises:
        FileNotFoundError: files are missing; the message says how to get them.
        ValueError: label rows that do not match the volumes, or hold anything but 0, 1 and rest.
    """
    if image_size < SIDE:
        raise ValueError(f"image_size is {image_size}, expected {SIDE} pixels or more, one a square")
    if fetch:
        from nilearn.datasets import fetch_miyawaki2008

        fetch_miyawaki2008(data_dir=str(data_home() if root is None else root), verbose=0)
    folder = _find(root)
    masks = [folder / "mask" / "mask.nii.gz", *sorted((folder / "mask").glob("?HV*.nii.gz"))]
    files = [file(folder, run) for run in RUNS for file in (_bold_file, _label_file)]
    marks = verified([*files, *masks], "miyawaki")
    first = open_image(_bold_file(folder, RUNS[0]))
    mask, _ = choose_voxels(first, open_image(masks[0]), None)
    regions = _regions(masks[1:], mask)
    parts = [_read_run(folder, number, mask, lag, average_blocks) for number in range(len(RUNS))]
    blocks = np.cumsum([0] + [int(part["trial"].max()) + 1 for part in parts])
    for part, before in zip(parts, blocks[:-1], strict=True):
        part["trial"] += before
    test, train = (
        {name: np.concatenate([part[name] for part in some]) for name in parts[0]}
        for some in (parts[:FIGURE_RUNS], parts[FIGURE_RUNS:])
    )
    lost = ~(np.isfinite(train["voxels"]).all(axis=0) & np.isfinite(test["voxels"]).all(axis=0))
    for split in (train, test):
        split["voxels"][:, lost] = np.nan  # broken in one run is broken in all
    train["labels"] = np.zeros(len(train["voxels"]), dtype=np.int64)
    test["labels"] = 1 + _by_first_sight(test["images"])
    for split in (train, test):
        split["images"] = enlarge(split["images"], image_size)
    return from_arrays(
        train,
        test,
        name="miyawaki",
        category_names=["random"] + [f"figure {i}" for i in range(1, test["labels"].max() + 1)],
        rois=regions,
        roi=roi,
        val_fraction=val_fraction,
        split_seed=split_seed,
        licence=LICENCE,
        citation=CITATION,
        fingerprint=fingerprint(*marks),
    )


def enlarge(patterns: np.ndarray, size: int) -> np.ndarray:
    """Patterns of 0 and 1, (n, 10, 10), as uint8 RGB (n, size, size, 3): squares of size // 10 pixels, black border."""
    pixels = np.repeat(np.repeat(patterns, size // SIDE, axis=1), size // SIDE, axis=2)
    return pad_images(as_uint8_rgb(pixels, value_range=(0, 1)), size)


def _find(root: Path | str | None) -> Path:
    """The folder, if all that is needed lies in it."""
    missing = {}
    for folder in nilearn_folders(FOLDER, root):
        needed = [file(folder, run) for run in RUNS for file in (_bold_file, _label_file)]
        needed.append(folder / "mask" / "mask.nii.gz")
        missing[folder] = [file for file in needed if not file.is_file()]
        if not missing[folder]:
            return folder
    folder = min(missing, key=lambda place: len(missing[place]))
    raise FileNotFoundError(
        f"{len(missing[folder])} of {2 * len(RUNS) + 1} files are missing (first: {missing[folder][0]}); "
        f"get them: visdec-lite download get miyawaki ({MEGABYTES:.0f} MB, by nilearn's fetcher; or let load do it: "
        "fetch=True), or give root=..."
    )


def _bold_file(folder: Path, run: str) -> Path:
    return folder / "func" / f"data_{run}.nii.gz"


def _label_file(folder: Path, run: str) -> Path:
    return folder / "label" / f"data_{run}_label.csv"


def _regions(masks: Sequence[Path], mask: object) -> dict[str, np.ndarray]:
    """The whole mask as "all", and areas over its voxels: LHV1d, LHV1v, RHV1d and RHV1v are V1."""
    files: dict[str, list[Path]] = {}
    for file in masks:
        area = re.fullmatch(r"[LR]H(V(?:\d+A?|P))[dv]?\.nii\.gz", file.name)
        if area:
            files.setdefault(area[1], []).append(file)
    regions = {"all": np.ones(int(np.asarray(mask.dataobj).sum()), dtype=bool)}
    for name, parts in files.items():
        _, inside = choose_voxels(mask, mask, {part.name: open_image(part) for part in parts})
        regions[name] = np.any(list(inside.values()), axis=0)
    return regions


def _read_run(folder: Path, number: int, mask: object, lag: int, average: bool) -> dict[str, np.ndarray]:
    """Voxels, patterns (as `images`, 0 and 1), run and presentation (as `trial`) of one run, without rest."""
    file = _label_file(folder, RUNS[number])
    patterns = _read_patterns(file)
    bold = open_image(_bold_file(folder, RUNS[number]))
    series = read_series(bold, mask, detrend=True, standardize="zscore_sample", t_r=TR)
    if len(series) != len(patterns):
        raise ValueError(f"{file} has {len(patterns)} rows for {len(series)} volumes; get the files anew")
    series, shown = shift_lag(series, np.arange(len(patterns)), lag)
    shown = shown[patterns[shown, 0, 0] != REST]
    voxels, block = series[shown], block_numbers(patterns)[shown]
    _, first, trial = np.unique(block, return_index=True, return_inverse=True)
    if average:
        voxels = np.stack([voxels[trial == i].mean(axis=0) for i in range(len(first))])
        shown, trial = shown[first], np.arange(len(first))
    return {
        "voxels": voxels,
        "images": patterns[shown],
        "run": np.full(len(shown), number),
        "trial": trial.astype(np.int64),
    }


def _read_patterns(file: Path) -> np.ndarray:
    """Patterns of a run, int (volumes, 10, 10): 100 integers a row, columns of the pattern one after another."""
    table = read_table(file, ",", names=False)
    rows = np.stack([numbers(table.cells(name), name, table.places, whole=True) for name in table.columns], axis=1)
    resting = (rows == REST).any(axis=1)
    if rows.shape[1] != SIDE**2 or not np.isin(rows, (REST, 0, 1)).all() or (rows[resting] != REST).any():
        raise ValueError(
            f"{file} has rows of {rows.shape[1]} integers from {rows.min()} to {rows.max()}, expected {SIDE**2}: "
            "0 and 1, or -1 throughout for rest; get it anew"
        )
    return rows.reshape(-1, SIDE, SIDE, order="F")


def _by_first_sight(images: np.ndarray) -> np.ndarray:
    """Number of the distinct image in each row, counted in the order of first appearance."""
    _, first, number = np.unique(images, axis=0, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[number.ravel()]
