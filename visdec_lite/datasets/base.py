"""The sample contract: what every data set gives, whoever recorded it.

A data set is a handful of named splits (`pretrain`, `train`, `val`, `test`, ...), each a table of scans:
one row a trial, one column a voxel. Voxels arrive z-scored with the statistics of the training split, so
that a model trained on one data set can be pointed at another without touching a line. Statistics come
from `train`, every choice is made on `val`, `test` is opened once. Unlabelled scans have only `pretrain` and `val`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from visdec_lite.datasets.shards import Shards


@dataclass(frozen=True)
class Split:
    """Trials of one split; every array has the same number of rows.

    Attributes:
        voxels: z-scored responses, float32, shape (n, num_voxels); an array, or a pool on disk (`shards.Shards`).
        images: what was seen, uint8 in 0..255, shape (n, height, width, 3), or None for unlabelled fMRI.
        labels: category of each image, int64, shape (n,), or None for unlabelled fMRI.
        stimulus: which picture, int64, shape (n,); rows that share a number are repeats of one stimulus.
        subject, run, trial: where each row was recorded, int64, shape (n,).
    """

    voxels: np.ndarray | Shards
    images: np.ndarray | None
    labels: np.ndarray | None
    stimulus: np.ndarray
    subject: np.ndarray
    run: np.ndarray
    trial: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.voxels)
        if n == 0:
            raise ValueError("a split has 0 trials, at least 1 is needed; leave an empty split out of `splits`")
        if self.voxels.ndim != 2:
            raise ValueError(f"voxels have shape {self.voxels.shape}, expected (trials, voxels)")
        for name in ("images", "labels", "stimulus", "subject", "run", "trial"):
            column = getattr(self, name)
            if column is not None and len(column) != n:
                raise ValueError(f"{len(column)} {name} for {n} rows of voxels; every trial needs exactly one")
        if isinstance(self.voxels, np.ndarray):  # a pool on disk was checked when it was written
            bad = np.flatnonzero(~np.isfinite(self.voxels).all(axis=0))
            if len(bad):
                raise ValueError(
                    f"{len(bad)} of {self.voxels.shape[1]} voxels hold NaN or infinity (first: column {bad[0]}); "
                    "drop them before building the data set: preprocessing.valid_voxels(voxels)"
                )
        if self.images is not None and (self.images.dtype != np.uint8 or self.images.shape[3:] != (3,)):
            raise ValueError(
                f"images are {self.images.dtype} {self.images.shape}, expected uint8 (n, height, width, 3); "
                "for images in [0, 1] or grey ones: preprocessing.as_uint8_rgb(images, value_range=(0, 1))"
            )

    def __len__(self) -> int:
        return len(self.voxels)

    def rows(self, index: np.ndarray) -> Split:
        """The trials at `index` (integers or a boolean mask), in that order; rows of a pool are read into memory."""
        pick = {name: None if column is None else column[index] for name, column in vars(self).items()}
        return Split(**pick)

    def average_repeats(self) -> Split:
        """One row a stimulus: the mean over its repeats, in order of stimulus number.

        Averaging r repeats divides the variance of independent trial noise by r; the result is *not*
        z-scored again, so a voxel's spread says how much of it was signal.
        """
        _, first, inverse = np.unique(self.stimulus, return_index=True, return_inverse=True)
        total = np.zeros((len(first), self.voxels.shape[1]), dtype=np.float64)
        np.add.at(total, inverse, self.voxels)
        mean = total / np.bincount(inverse)[:, None]
        kept = self.rows(first)
        return Split(**{**vars(kept), "voxels": mean.astype(np.float32)})


@dataclass(frozen=True)
class BrainDataset:
    """Scans with what is known of them.

    Attributes:
        splits: name -> Split. `train` and `test` are there, or else `pretrain` and perhaps `val` and no other.
        category_names: names of the labels, label i is `category_names[i]`.
        rois: region name -> boolean mask over voxels, shape (num_voxels,).
        simulated: True when no human lay in a scanner; every figure and file made from it says so.
        licence, citation: what must be kept to and cited.
        fingerprint: hash of what the data were made from (files or simulation config).
    """

    name: str
    splits: dict[str, Split]
    category_names: tuple[str, ...]
    rois: dict[str, np.ndarray]
    simulated: bool
    licence: str
    citation: str
    fingerprint: str = field(repr=False)

    def __post_init__(self) -> None:
        unlabelled = "pretrain" in self.splits and self.splits.keys() <= {"pretrain", "val"}
        for required in () if unlabelled else ("train", "test"):
            if required not in self.splits:
                raise ValueError(
                    f"data set {self.name!r} has splits {sorted(self.splits)}, but no {required!r}; expected train "
                    "and test, or of unlabelled scans pretrain and perhaps val"
                )
        for name, split in self.splits.items():
            if split.voxels.shape[1] != self.num_voxels:
                raise ValueError(
                    f"split {name!r} has {split.voxels.shape[1]} voxels, {self._main} has {self.num_voxels}"
                )
        for name, mask in self.rois.items():
            if mask.shape != (self.num_voxels,) or mask.dtype != bool:
                raise ValueError(
                    f"ROI {name!r} is {mask.dtype} {mask.shape}, expected a boolean mask of shape ({self.num_voxels},)"
                )

    def __getitem__(self, split: str) -> Split:
        if split not in self.splits:
            raise KeyError(f"data set {self.name!r} has no split {split!r}; it has {sorted(self.splits)}")
        return self.splits[split]

    @property
    def _main(self) -> str:
        return "train" if "train" in self.splits else "pretrain"

    @property
    def num_voxels(self) -> int:
        return self.splits[self._main].voxels.shape[1]

    @property
    def image_size(self) -> int:
        """Side of the square stimuli in pixels."""
        images = self.splits[self._main].images
        if images is None:
            raise ValueError(f"data set {self.name!r} comes without stimulus images")
        return images.shape[1]


def trial_columns(n: int, subject: int, run_length: int) -> dict[str, np.ndarray]:
    """`subject`, `run` and `trial` columns of `n` trials recorded in order, `run_length` to a run."""
    trial = np.arange(n, dtype=np.int64)
    return {"subject": np.full(n, subject, dtype=np.int64), "run": trial // run_length, "trial": trial}


def fingerprint(*parts: bytes | str) -> str:
    """SHA-256 over the parts, in order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()
