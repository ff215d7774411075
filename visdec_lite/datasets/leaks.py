"""Does a picture of the test set also stand in the training set?

Enters: the pictures of two splits. Leaves: how many of the one are in the other, exactly or nearly. A decoder that
has seen its test pictures scores well and has read no mind; some repackaged data sets on the web are like that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from einops import rearrange

SIDE = 16  # pixels of the thumbnails compared; smaller pictures are compared as small as the smallest
NEAR = 0.05  # root mean squared difference of standardised thumbnails; copies saved anew, at another size, stay below
BLOCK = 2**24  # pixels shrunk at once, so that memory does not grow with the training set


@dataclass(frozen=True)
class Leak:
    """Rows of the test split whose picture is also in train.

    Attributes:
        exact: every pixel the same, int64, in order.
        near: the same but for size, contrast or compression; without the exact ones.
    """

    exact: np.ndarray
    near: np.ndarray

    def __len__(self) -> int:
        return len(self.exact) + len(self.near)

    def __str__(self) -> str:
        return f"{len(self.exact)} exact and {len(self.near)} near copies"


def find_leaks(test: np.ndarray, train: np.ndarray) -> Leak:
    """Test pictures that also stand in train.

    Args:
        test, train: uint8, shapes (n, height, width, 3) and (m, height, width, 3); sizes may differ.
    """
    known = {image_key(image) for image in train}
    exact = np.array([image_key(image) in known for image in test], dtype=bool)
    side = min(SIDE, *test.shape[1:3], *train.shape[1:3])
    probes, others = thumbnails(test, side), thumbnails(train, side)
    squared = (probes**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2.0 * probes @ others.T
    distance = np.sqrt(np.maximum(squared.min(axis=1), 0.0))
    near = ~exact & (distance < NEAR)
    return Leak(np.flatnonzero(exact), np.flatnonzero(near))


def image_key(image: np.ndarray) -> bytes:
    """What two pictures share exactly when every pixel is the same."""
    return repr(image.shape).encode() + image.tobytes()


def thumbnails(images: np.ndarray, side: int) -> np.ndarray:
    """Small standardised copies, float32 (n, side * side * 3), length 1: contrast and brightness do not count.

    A flat picture has no contrast to standardise; what is left of it is its colour.
    """
    down, across = _cells(images.shape[1], side), _cells(images.shape[2], side)
    block = max(1, BLOCK // images[0].size)
    small = np.concatenate(
        [_shrink(images[start : start + block], down, across) for start in range(0, len(images), block)]
    )
    flat = rearrange(small, "n h w c -> n (h w c)")
    centred = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    plain = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1.0)
    return np.where(length > 1.0, centred / np.maximum(length, 1.0), plain).astype(np.float32)


def _shrink(images: np.ndarray, down: tuple[np.ndarray, ...], across: tuple[np.ndarray, ...]) -> np.ndarray:
    """Means over cells, float32 (n, cells down, cells across, 3)."""
    rows = np.add.reduceat(images.astype(np.float32), down[0], axis=1) / down[1][None, :, None, None]
    return np.add.reduceat(rows, across[0], axis=2) / across[1][None, None, :, None]


def _cells(length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """First pixel and width of each of `count` cells, at most `length`, along a side."""
    starts = np.linspace(0, length, count + 1).astype(int)[:-1]
    return starts, np.diff(np.append(starts, length)).astype(np.float32)
