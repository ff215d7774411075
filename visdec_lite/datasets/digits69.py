"""digits69: one person looked at 100 handwritten sixes and nines (van Gerven, de Lange and Heskes, 2010).

Enters: `digit69_28x28.mat`, to be downloaded by whoever uses it. Leaves: the sample contract of `base`, with
3092 z-scored voxels a trial and the digits as 32 x 32 RGB images (28 x 28 with a black border of 2 pixels).
The file says nothing of runs or of the order in time, and its rows are sorted by digit: every trial has
run 0, and `trial` is its row in the file, training rows first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from einops import rearrange
from scipy.io import loadmat

from visdec_lite.datasets.base import BrainDataset, Split, fingerprint, trial_columns
from visdec_lite.preprocessing import ZScore, as_uint8_rgb, pad_images, valid_voxels

FILE = "digit69_28x28.mat"
SHA256 = "44513e09ad2398566aedd550088b817a3c0bf9cd7873f87078ecd7fdf170b22d"
SOURCE = f"{FILE} (2.4 MB, sha256 {SHA256}) from https://github.com/ChangdeDu/DGMM"
LICENCE = (
    "Donders Institute data-use agreement: download the file yourself and never redistribute it, "
    "nor anything the recordings could be restored from"
)
CITATION = (
    "van Gerven, M. A. J., de Lange, F. P., & Heskes, T. (2010). Neural decoding with hierarchical "
    "generative models. Neural Computation, 22(12), 3127-3142."
)
SIDE = 28  # pixels of a stored digit
IMAGE_SIZE = 32  # with border: halves down to 1, which image models need


def load(
    path: str | Path | None = None,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    fold: tuple[int, int] | None = None,
) -> BrainDataset:
    """Read digits69; voxels are z-scored with the mean and spread of `train`.

    Args:
        path: the .mat file or the folder it lies in; otherwise the folder named by VISDEC_DATA, else `data`.
        val_fraction: share of each digit's training trials set aside as `val`, from 0 (no `val`) to below 1.
        split_seed: which trials are set aside, and how the folds are dealt.
        fold: None keeps the file's own test trials. (i, k) makes part i of k, counted from 0, the test
            split and trains on the rest of all trials in the file; the k parts hold each trial once.

    Returns:
        Splits `train`, `val` and `test`; label 0 is a six, 1 a nine; one region, `all`.

    Raises:
        FileNotFoundError: no file there; the message says where to get it.
        ValueError: the file is not digits69, or a test image also stands in its training set.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction}, expected a share from 0 to below 1")
    file = _find(path)
    everything, in_test = _read(file)
    if fold is None:
        leaked = np.intersect1d(everything.stimulus[in_test], everything.stimulus[~in_test])
        if len(leaked):
            raise ValueError(
                f"{len(leaked)} images of the test set also stand in the training set of {file}, expected 0; "
                "fold=(0, 10) splits by image instead"
            )
    else:
        in_test = _fold_rows(everything, fold, split_seed)
    in_val = _val_rows(everything, ~in_test, val_fraction, split_seed)
    zscore = ZScore.fit(everything.voxels[~in_test & ~in_val])
    scaled = Split(**{**vars(everything), "voxels": zscore.apply(everything.voxels)})
    rows = {"train": ~in_test & ~in_val, "val": in_val, "test": in_test}
    return BrainDataset(
        name="digits69",
        splits={name: scaled.rows(mask) for name, mask in rows.items() if mask.any()},
        category_names=("six", "nine"),
        rois={"all": np.ones(scaled.voxels.shape[1], dtype=bool)},
        simulated=False,
        licence=LICENCE,
        citation=CITATION,
        fingerprint=fingerprint(file.read_bytes()),
    )


def _find(path: str | Path | None) -> Path:
    place = Path(os.environ.get("VISDEC_DATA", "data") if path is None else path).expanduser()
    candidates = [place / FILE, place / "digits69" / FILE] if place.is_dir() or path is None else [place]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"no digits69 at {' or '.join(map(str, candidates))}; download {SOURCE}, "
        "then give path=..., or set VISDEC_DATA to its folder"
    )


def _read(file: Path) -> tuple[Split, np.ndarray]:
    """All trials of the file with voxels as stored (not z-scored), and a mask of its own test trials."""
    try:
        content = loadmat(file)
    except Exception as error:  # a broken file makes scipy raise nearly anything
        raise ValueError(f"{file} cannot be read as a .mat file ({error}); download {SOURCE} anew") from error
    train, test = _read_part(content, "Trn", file), _read_part(content, "Test", file)
    if train[0].shape[1] != test[0].shape[1]:
        raise ValueError(
            f"fmriTrn has {train[0].shape[1]} voxels, fmriTest {test[0].shape[1]}, expected the same; "
            f"download {SOURCE} anew"
        )
    voxels, pixels, labels = (np.concatenate(pair) for pair in zip(train, test, strict=True))
    bad = np.flatnonzero(~valid_voxels(voxels))
    if len(bad):  # the published recording has none, so nothing is dropped on the quiet
        raise ValueError(
            f"{len(bad)} of {voxels.shape[1]} voxels in {file} are constant, NaN or infinite (first: column "
            f"{bad[0]}), expected 0 as published; download {SOURCE} anew"
        )
    _, stimulus = np.unique(pixels, axis=0, return_inverse=True)
    digits = rearrange(pixels, "n (w h) -> n h w", h=SIDE)  # column-major, as MATLAB stores an image
    everything = Split(
        voxels=voxels,
        images=pad_images(as_uint8_rgb(digits, value_range=(0, 255)), size=IMAGE_SIZE),
        labels=labels,
        stimulus=stimulus.astype(np.int64),
        **trial_columns(len(voxels), subject=1, run_length=len(voxels)),
    )
    return everything, np.arange(len(voxels)) >= len(train[0])


def _read_part(content: Mapping[str, np.ndarray], part: str, file: Path) -> tuple[np.ndarray, ...]:
    """Voxels (n, V), pixels (n, 784) and labels (n,) of one part of the file, "Trn" or "Test"."""
    names = [kind + part for kind in ("fmri", "stim", "label")]
    missing = [name for name in names if name not in content]
    if missing:
        found = sorted(name for name in content if not name.startswith("__"))
        raise ValueError(f"{file} holds {found}, but no {missing}; digits69 is {SOURCE}")
    voxels, pixels, labels = (np.asarray(content[name]) for name in names)
    labels = labels.ravel()
    if voxels.ndim != 2 or len(voxels) != len(labels) or pixels.shape != (len(labels), SIDE**2):
        raise ValueError(
            f"{names} in {file} have shapes {voxels.shape}, {pixels.shape} and {labels.shape}, "
            f"expected (n, voxels), (n, {SIDE**2}) and n labels; digits69 is {SOURCE}"
        )
    if not np.isin(labels, (1, 2)).all():
        raise ValueError(
            f"labels in {file} are {np.unique(labels)}, expected 1 (six) and 2 (nine); digits69 is {SOURCE}"
        )
    return voxels.astype(np.float64), pixels, labels.astype(np.int64) - 1


def _fold_rows(everything: Split, fold: tuple[int, int], seed: int) -> np.ndarray:
    """Test trials of one fold. Images are dealt like cards, digit by digit, so repeats stay together."""
    index, parts = fold
    stimuli, first = np.unique(everything.stimulus, return_index=True)
    if not 2 <= parts <= len(stimuli):
        raise ValueError(f"{parts} folds asked, expected 2 to {len(stimuli)}, the number of images")
    if not 0 <= index < parts:
        raise ValueError(f"fold {index} of {parts} asked, expected 0 to {parts - 1}")
    order = _shuffled_by_label(everything.labels[first], np.random.default_rng(seed))
    return np.isin(everything.stimulus, stimuli[order[index::parts]])


def _val_rows(everything: Split, available: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """A share of each digit's available images, at least one of each, repeats kept together."""
    if fraction == 0:
        return np.zeros(len(everything), dtype=bool)
    stimuli, first = np.unique(everything.stimulus[available], return_index=True)
    labels = everything.labels[available][first]
    order = _shuffled_by_label(labels, np.random.default_rng((seed, 1)))  # 1: not the stream of the folds
    chosen = np.concatenate(
        [
            order[labels[order] == label][: max(1, round(fraction * (labels == label).sum()))]
            for label in np.unique(labels)
        ]
    )
    return available & np.isin(everything.stimulus, stimuli[chosen])


def _shuffled_by_label(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Row numbers, label after label, shuffled within each."""
    return np.concatenate([generator.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)])
