"""The face that every comparator shows: fit on a data set, reconstruct from voxels, say how it was tuned.

In: a data set (or its arrays). Out: pictures, by the same two calls whatever the method, so that a comparison
can loop over methods. Training rows teach, validation rows choose, and the test split is never opened here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from visdec_lite.datasets.base import BrainDataset, Split
from visdec_lite.validation import as_array


@dataclass(frozen=True)
class Tuning:
    """One choice that was made on validation, for a page that says how each method was tuned.

    Attributes:
        knob: what was chosen, in words.
        measure: by which number; smaller is better.
        rows: validation rows that the number is a mean over.
        tried: (setting, its number), in the order tried.
        chosen: the setting taken; the best of `tried`, but for choices made target by target.
        score: the number of what was taken.
    """

    knob: str
    measure: str
    rows: int
    tried: tuple[tuple[Any, float], ...]
    chosen: Any
    score: float

    def __str__(self) -> str:
        chosen = f"{self.chosen:g}" if isinstance(self.chosen, float) else self.chosen
        among = f"the best of {len(self.tried)}" if len(self.tried) > 1 else "nothing else was tried; judged"
        return f"{self.knob}: {chosen}, {among} by {self.measure} ({self.score:.4g}) on {self.rows} validation rows"


class Baseline(ABC):
    """A method that turns voxels into pictures.

    Attributes:
        stochastic: whether `reconstruct` draws samples.
        tuning: after fitting, every choice made on validation; empty where there was nothing to choose.
    """

    stochastic: bool = False
    tuning: tuple[Tuning, ...] = ()

    def fit(self, dataset: BrainDataset) -> Self:
        """Learn from `train`, choose on `val`; nothing else of the data set is looked at.

        Raises:
            ValueError: there is no `val`, or there are no pictures.
        """
        train, val = paired_splits(dataset)
        return self.fit_images(train.voxels, train.images, val.voxels, val.images)

    @abstractmethod
    def fit_images(
        self, voxels: np.ndarray, images: np.ndarray, voxels_val: np.ndarray, images_val: np.ndarray
    ) -> Self:
        """`fit` on arrays.

        Args:
            voxels, voxels_val: z-scored, shapes (n, V) and (m, V).
            images, images_val: uint8, shapes (n, h, w, 3) and (m, h, w, 3).
        """

    @abstractmethod
    def reconstruct(
        self, voxels: np.ndarray, num_samples: int = 1, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Pictures for voxels (n, V), uint8.

        Args:
            num_samples: pictures a scan. A deterministic method has one to give and gives one.
            generator: of the samples, on the CPU; None starts one of seed 0. A deterministic method needs none.

        Returns:
            Shape (n, num_samples, h, w, 3) if `stochastic`, else (n, h, w, 3). The metrics read both.
        """

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """Numbers that fitting set, here or in a prior beforehand; 0 before."""


def paired_splits(dataset: BrainDataset) -> tuple[Split, Split]:
    """`train` and `val` of a data set, both with pictures."""
    missing = [name for name in ("train", "val") if name not in dataset.splits]
    if missing:
        raise ValueError(
            f"{dataset.name} has no split {' and no split '.join(missing)}; a comparator learns from 'train' and "
            "chooses on 'val': load the data with val_fraction above 0"
        )
    train, val = dataset["train"], dataset["val"]
    if train.images is None or val.images is None:
        raise ValueError(f"{dataset.name} comes with 0 pictures; a comparator needs them for 'train' and 'val'")
    return train, val


def check_matrix(values: np.ndarray, name: str) -> np.ndarray:
    """A finite table as float64, shape (rows, columns)."""
    matrix = as_array(values, name)
    if matrix.ndim != 2 or 0 in matrix.shape or matrix.dtype.kind not in "fiu":
        raise ValueError(f"{name} are {matrix.dtype} {matrix.shape}, expected (trials, columns), nothing empty")
    matrix = matrix.astype(np.float64, copy=False)
    finite = np.isfinite(matrix)
    if not finite.all():
        raise ValueError(
            f"{name} hold {np.sum(~finite)} NaN or infinite values in {np.sum(~finite.all(axis=0))} of "
            f"{matrix.shape[1]} columns, expected none; drop those columns in train and validation alike"
        )
    return matrix


def check_images(images: np.ndarray, name: str) -> None:
    """uint8 (n, height, width, 3), or an error that says what came instead."""
    shape, dtype = getattr(images, "shape", ()), getattr(images, "dtype", type(images).__name__)
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3:
        raise ValueError(f"{name}: {dtype} {shape}, expected uint8 (n, height, width, 3) in 0..255")


def check_pairs(voxels: np.ndarray, images: np.ndarray, voxels_val: np.ndarray, images_val: np.ndarray) -> None:
    """Voxels and pictures of train and validation that belong together."""
    check_images(images, "images")
    check_images(images_val, "images_val")
    for split, scans, pictures in (("train", voxels, images), ("validation", voxels_val, images_val)):
        if len(check_matrix(scans, f"{split} voxels")) != len(pictures):
            raise ValueError(f"{split} has {len(scans)} scans and {len(pictures)} pictures, expected as many")
    if voxels.shape[1] != voxels_val.shape[1] or images.shape[1:] != images_val.shape[1:]:
        raise ValueError(
            f"train has {voxels.shape[1]} voxels and pictures of {images.shape[1:3]}, validation {voxels_val.shape[1]} "
            f"and {images_val.shape[1:3]}; expected the same"
        )


def check_scans(voxels: np.ndarray, fitted: int | None) -> np.ndarray:
    """Scans for a method fitted on so many voxels; None: not fitted yet."""
    if fitted is None:
        raise RuntimeError("this method knows 0 pictures so far; call fit or fit_images first")
    scans = check_matrix(voxels, "voxels")
    if scans.shape[1] != fitted:
        raise ValueError(f"{scans.shape[1]} voxels, the method was fitted on {fitted}; same ROI?")
    return scans


def sample_generator(num_samples: int, generator: torch.Generator | None) -> torch.Generator:
    """The generator to draw with; None starts one of seed 0."""
    if num_samples < 1:
        raise ValueError(f"{num_samples} samples asked, expected 1 or more")
    return torch.Generator().manual_seed(0) if generator is None else generator


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Modules built inside start from `seed`; the caller's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
