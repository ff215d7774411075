"""The sample contract: what every data set gives, whoever recorded it.

A data set is a handful of named splits (`pretrain`, `train`, `val`, `test`, ...), each a table of scans:
one row a trial, one column a voxel. Voxels arrive z-scored with the statistics of the training split, so
that a model trained on one data set can be pointed at another without touching a line. Statistics come
from `train`, every choice is made on `val`, `test` is opened once. Unlabelled scans have only `pretrain` and `val`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from visdec_lite.datasets.shards import Shards
from visdec_lite.validation import expect_finite, one_a_trial, region_masks, rgb_images, voxel_table


@dataclass(frozen=True)
class Split:
    """Trials of one split; every array has the same number of rows.

    Lists, tensors and other real numbers become what stands here; what cannot is refused, see `validation`.

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
        if not isinstance(self.voxels, Shards):  # a pool on disk was checked when it was written
            voxels = voxel_table(self.voxels)
            expect_finite(voxels)
            object.__setattr__(self, "voxels", voxels.astype(np.float32, copy=False))
        n = len(self.voxels)
        if 0 in self.voxels.shape:
            raise ValueError(
                f"a split of {n} trials and {self.voxels.shape[1]} voxels, expected at least 1 of each; leave an empty "
                "split out of `splits`"
            )
        for name in ("labels", "stimulus", "subject", "run", "trial"):
            column = getattr(self, name)
            if column is not None or name != "labels":
                object.__setattr__(self, name, one_a_trial(column, n, name))
        if self.images is not None:
            object.__setattr__(self, "images", rgb_images(self.images))
            if len(self.images) != n:
                raise ValueError(f"{len(self.images)} images for {n} rows of voxels; every trial needs exactly one")

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
        names = self.category_names
        listed = tuple(names) if np.iterable(names) and not isinstance(names, str) else (None,)
        if not all(isinstance(name, str) for name in listed):
            raise ValueError(f"category_names is {names!r}, expected several names, one a label: ('face', 'house')")
        object.__setattr__(self, "category_names", listed)
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
            if split.labels is not None:
                self._expect_named(name, split.labels)
        sizes = {name: split.images.shape[1:3] for name, split in self.splits.items() if split.images is not None}
        if any(height != width for height, width in sizes.values()) or len(set(sizes.values())) > 1:
            raise ValueError(
                f"images measure {sizes} pixels, expected squares of one size; see preprocessing.pad_images and "
                "preprocessing.resize_images"
            )
        object.__setattr__(self, "rois", region_masks(self.rois, self.num_voxels))

    def _expect_named(self, split: str, labels: np.ndarray) -> None:
        if labels.min() < 0:
            raise ValueError(
                f"a label of {split!r} is below 0; labels count from 0, and rows without a category belong in a split "
                "without labels"
            )
        if labels.max() >= len(self.category_names):
            raise ValueError(
                f"label {labels.max()} of {split!r} has no name: {len(self.category_names)} category_names, counted "
                "from 0"
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
