"""Floors and ceilings: what a method scores that reads no scan, and one that is told the answer.

In: a data set's training pictures, or a callable that paints. Out: pictures. A method is worth as much as it
rises above the floors; how far it could rise, the ceilings say. Nothing of the method is imported: a prior or a
first stage is handed in as a function.

    floors     mean training picture; picture of the nearest training scan; the prior without any condition
    ceilings   the first stage's copy of the true picture; the prior told the true label
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from einops import rearrange, repeat

from visdec_lite.baselines.base import Baseline, check_images, check_pairs, check_scans, sample_generator


class MeanImage(Baseline):
    """The mean of the training pictures, whatever the scan: what a score gives for free."""

    def __init__(self) -> None:
        self._mean: np.ndarray | None = None
        self._num_voxels: int | None = None

    def fit_images(
        self, voxels: np.ndarray, images: np.ndarray, voxels_val: np.ndarray, images_val: np.ndarray
    ) -> Self:
        """Takes the mean picture; the scans are only counted."""
        check_pairs(voxels, images, voxels_val, images_val)
        self._mean = np.rint(images.mean(axis=0)).astype(np.uint8)
        self._num_voxels = voxels.shape[1]
        return self

    def reconstruct(
        self, voxels: np.ndarray, num_samples: int = 1, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """The same picture n times: uint8, shape (n, h, w, 3)."""
        scans = check_scans(voxels, self._num_voxels)
        return repeat(self._mean, "h w c -> n h w c", n=len(scans)).copy()

    @property
    def num_parameters(self) -> int:
        return 0 if self._mean is None else self._mean.size


class NearestTrainingNeighbour(Baseline):
    """The picture of the training scan that correlates best with the scan: a look-up, and a detector of leaks.

    It can only hand out training pictures. On categories that training lacks it names none; where test pictures
    stand in training too, it scores far too well.
    """

    def __init__(self) -> None:
        self._scans: np.ndarray | None = None
        self._images: np.ndarray | None = None

    def fit_images(
        self, voxels: np.ndarray, images: np.ndarray, voxels_val: np.ndarray, images_val: np.ndarray
    ) -> Self:
        """Keeps the training rows."""
        check_pairs(voxels, images, voxels_val, images_val)
        self._scans, self._images = _unit_rows(np.asarray(voxels, dtype=np.float64)), images.copy()
        return self

    def reconstruct(
        self, voxels: np.ndarray, num_samples: int = 1, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Training pictures: uint8, shape (n, h, w, 3). Of equally near ones the first."""
        scans = check_scans(voxels, None if self._scans is None else self._scans.shape[1])
        return self._images[(_unit_rows(scans) @ self._scans.T).argmax(axis=1)]

    @property
    def num_parameters(self) -> int:
        return 0 if self._scans is None else self._scans.size


def _unit_rows(scans: np.ndarray) -> np.ndarray:
    """Rows centred and of length 1, so that a product of two is their correlation; a flat row becomes 0."""
    centred = scans - scans.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.where(length > 0, length, 1.0)


class PriorSamples(Baseline):
    """Pictures of the prior without any condition: crisp, of the right world, and blind.

    Args:
        sample: `sample(count, generator)` -> uint8 (count, h, w, 3).
        num_parameters: of the prior.
    """

    stochastic = True

    def __init__(self, sample: Callable[[int, torch.Generator], np.ndarray], num_parameters: int = 0) -> None:
        self.sample, self._num_parameters = sample, num_parameters

    def fit_images(
        self, voxels: np.ndarray, images: np.ndarray, voxels_val: np.ndarray, images_val: np.ndarray
    ) -> Self:
        """Nothing to learn; the rows are checked."""
        check_pairs(voxels, images, voxels_val, images_val)
        return self

    def reconstruct(
        self, voxels: np.ndarray, num_samples: int = 1, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Samples that know nothing of the voxels but their number: uint8, shape (n, samples, h, w, 3)."""
        generator = sample_generator(num_samples, generator)
        return _by_stimulus(self.sample(len(voxels) * num_samples, generator), len(voxels), num_samples)

    @property
    def num_parameters(self) -> int:
        return self._num_parameters


class Ceiling(ABC):
    """What paints with the truth in hand. Its face differs, so that nobody takes it for a decoder."""

    @abstractmethod
    def reconstruct(
        self, images: np.ndarray, labels: np.ndarray, num_samples: int = 1, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Pictures for the *true* pictures and labels, shapes as of `Baseline.reconstruct`.

        Args:
            images: what was seen, uint8 (n, h, w, 3).
            labels: their categories, int64 (n,).
        """


class FirstStageCeiling(Ceiling):
    """The first stage's copy of the true picture: no latent diffusion model paints better than its decoder.

    Args:
        rebuild: uint8 (n, h, w, 3) -> the same, through latents and back.
    """

    def __init__(self, rebuild: Callable[[np.ndarray], np.ndarray]) -> None:
        self.rebuild = rebuild

    def reconstruct(
        self, images: np.ndarray, labels: np.ndarray, num_samples: int = 1, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """One copy a picture: uint8, shape (n, h, w, 3); the labels are not needed."""
        check_images(images, "images")
        rebuilt = self.rebuild(images)
        check_images(rebuilt, "what rebuild returned")
        return rebuilt


class LabelToldPrior(Ceiling):
    """The prior told the true label: perfect semantics, and no idea of place, size or background.

    Args:
        sample: `sample(labels, generator)` with labels int64 (count,) -> uint8 (count, h, w, 3).
    """

    def __init__(self, sample: Callable[[np.ndarray, torch.Generator], np.ndarray]) -> None:
        self.sample = sample

    def reconstruct(
        self, images: np.ndarray, labels: np.ndarray, num_samples: int = 1, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Samples of the true category: uint8, shape (n, samples, h, w, 3); the pictures are only counted."""
        if len(labels) != len(images):
            raise ValueError(f"{len(labels)} labels for {len(images)} pictures, expected as many")
        generator = sample_generator(num_samples, generator)
        return _by_stimulus(self.sample(np.repeat(labels, num_samples), generator), len(labels), num_samples)


def _by_stimulus(pictures: np.ndarray, n: int, num_samples: int) -> np.ndarray:
    check_images(pictures, "what the prior painted")
    if len(pictures) != n * num_samples:
        raise ValueError(f"the prior painted {len(pictures)} pictures, expected {n} x {num_samples}")
    return rearrange(pictures, "(n s) h w c -> n s h w c", n=n)
