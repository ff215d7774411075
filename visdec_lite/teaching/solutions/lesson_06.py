"""One way to write the exercises of lesson 06, and the mistakes that are made most."""

from __future__ import annotations

from typing import Any

import numpy as np

region = "LOC"
guided_epsilon = 0.20 + 3 * (0.26 - 0.20)


def lesion(voxels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Scans (n, V) with the region `mask` (V,) at 0, its mean."""
    silenced = voxels.copy()
    silenced[..., mask] = 0
    return silenced


def average_repeats(voxels: np.ndarray, stimulus: np.ndarray) -> np.ndarray:
    """Trials (n, V) -> one mean a stimulus, in order of stimulus number."""
    return np.stack([voxels[stimulus == number].mean(axis=0) for number in np.unique(stimulus)])


def _lesion_in_place(voxels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    voxels[:, mask] = 0
    return voxels


def _sums(voxels: np.ndarray, stimulus: np.ndarray) -> np.ndarray:
    return np.stack([voxels[stimulus == number].sum(axis=0) for number in np.unique(stimulus)])


MISTAKES: dict[str, list[tuple[str, Any]]] = {
    "lesion": [
        ("writes into the scans", _lesion_in_place),
        ("keeps the region and silences the rest", lambda voxels, mask: voxels * mask),
        ("cuts the region out", lambda voxels, mask: voxels[:, ~mask]),
        ("sets NaN", lambda voxels, mask: np.where(mask, np.nan, voxels)),
        ("takes the mean of these few scans", lambda voxels, mask: np.where(mask, voxels.mean(axis=0), voxels)),
        ("silences everything", lambda voxels, mask: np.zeros_like(voxels)),
    ],
    "region": [("takes the colour area for the shape area", "V4"), ("blames the early cortex", "V1")],
    "average_repeats": [
        ("adds and does not divide", _sums),
        ("divides by all trials", lambda voxels, stimulus: _sums(voxels, stimulus) / len(stimulus)),
        ("keeps the order of showing", lambda voxels, stimulus: average_repeats(voxels, stimulus)[::-1]),
        ("averages all trials together", lambda voxels, stimulus: voxels.mean(axis=0, keepdims=True)),
        ("averages over voxels too", lambda voxels, stimulus: average_repeats(voxels, stimulus).mean(axis=1)),
    ],
    "guided_epsilon": [
        ("multiplies the prediction", 0.78),
        ("forgets where to start", 0.18),
        ("starts from the answer with the scan", 0.44),
        ("goes the wrong way", 0.08),
    ],
}
