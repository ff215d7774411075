"""The knobs of the BrainToImageDemo, and what it answers.

In: a position of the knobs; reconstructions and the pictures they might be of. Out: the arrays of one answer, the place
of the true picture among others, and how colourful a picture is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from einops import rearrange

from visdec_lite.widgets.knobs import State, knob

SCANS = {
    "own": "its own",
    "shuffled": "its own, voxels shuffled",
    "another": "of another picture",
    "none": "none: the prior alone",
}


@dataclass(frozen=True)
class BrainState(State):
    """Knobs of the BrainToImageDemo; a region that `gains` does not name keeps its gain of 1."""

    stimulus: int = knob(0, "picture seen", low=0)
    scan: str = knob("own", "scan", options=SCANS, help="whose scan the decoder is given")
    gains: Mapping[str, float] = knob(
        dict, "gain of", low=0.0, high=2.0, step=0.1, help="0 is a lesion, 1 leaves it, 2 doubles"
    )
    noise: float = knob(0.0, "noise added", low=0.0, high=4.0, step=0.1, help="in standard deviations of one trial")
    trials: int = knob(1, "trials averaged", low=1, help="repeats of the same picture")
    subject: int = knob(0, "subject", help="0 averages over all")
    guidance: float = knob(3.0, "guidance", low=0.0, high=8.0, step=0.5, help="how far to follow the scan")
    steps: int = knob(10, "denoising steps", low=1, high=50)
    samples: int = knob(4, "pictures painted", low=1, high=8, help="they differ where the scan does not tell")
    seed: int = knob(0, "seed", low=0, high=99, help="of the noise that the pictures start from")


@dataclass(frozen=True)
class BrainResult:
    """Arrays of one answer.

    Attributes:
        seen: the true picture, uint8 (h, w, 3), at the size that is painted; category: its name.
        voxels: what the decoder is given, (V,); intact: the same scan untouched.
        activity, activity_intact: region -> root mean square of its voxels, z-score units.
        images: reconstructions, uint8 (samples, h, w, 3); before the last step what they will be, as believed so far.
        done, total: denoising steps.
        changes: what was done to the scan, in words.
        ridge: picture of ridge regression, uint8 (h, w, 3); None: not there, or not yet.
        top: the referee's best (up to five) categories with probabilities averaged over samples; None: no referee.
        takes_seen_for: the category that the referee takes the true picture for.
        place: that category's place in the referee's list, from 1; categories: how many there are.
        rank, ridge_rank: place of the true picture among `candidates` by pixel correlation, 1 is best; equal ones
            share; guessing scores (candidates + 1) / 2.
        colourfulness: mean difference of the largest and smallest channel, 0..1: of images, their mean, seen and ridge.
    """

    seen: np.ndarray
    category: str
    scan: str
    voxels: np.ndarray
    intact: np.ndarray
    activity: Mapping[str, float]
    activity_intact: Mapping[str, float]
    images: np.ndarray
    done: int
    total: int
    positions: np.ndarray | None
    region_of: tuple[str, ...]
    simulated: bool
    changes: tuple[str, ...]
    ridge: np.ndarray | None = None
    top: tuple[tuple[str, float], ...] | None = None
    takes_seen_for: str = ""
    place: int = 0
    categories: int = 0
    rank: float | None = None
    ridge_rank: float | None = None
    candidates: int = 0

    @property
    def finished(self) -> bool:
        return self.rank is not None

    @property
    def mean(self) -> np.ndarray:
        """All reconstructions averaged, uint8 (h, w, 3): what they do not agree on fades."""
        return np.rint(self.images.mean(axis=0)).astype(np.uint8)

    @property
    def colourfulness(self) -> dict[str, float]:
        found = {"images": self.images, "mean": self.mean, "seen": self.seen, "ridge": self.ridge}
        return {name: colourfulness(pictures) for name, pictures in found.items() if pictures is not None}


def in_words(state: BrainState) -> tuple[str, ...]:
    """What is done to the scan: "V4 silenced"."""
    gains = [(region, gain) for region, gain in state.gains.items() if gain != 1]
    words = [f"{region} silenced" if gain == 0 else f"{region} x {gain:g}" for region, gain in gains]
    return (*words, f"noise {state.noise:g}") if state.noise else tuple(words)


def colourfulness(pictures: np.ndarray) -> float:
    """Largest less smallest channel of a pixel, averaged; uint8 (..., 3) -> 0 (grey) to 1."""
    return float((pictures.max(-1).astype(float) - pictures.min(-1)).mean() / 255)


def identification_rank(reconstructions: np.ndarray, candidates: np.ndarray) -> float:
    """Place of the true picture, `candidates[0]`, by pixel correlation averaged over samples.

    Args:
        reconstructions: uint8 (samples, h, w, 3).
        candidates: uint8 (n, h, w, 3), the true one first.

    Returns:
        1 is best, n is worst; equal ones share their places, so a flat picture gets (n + 1) / 2, as guessing does.
    """
    scores = (_standard(reconstructions) @ _standard(candidates).T).mean(axis=0).round(9)
    return 1.0 + float((scores[1:] > scores[0]).sum()) + 0.5 * float((scores[1:] == scores[0]).sum())


def _standard(pictures: np.ndarray) -> np.ndarray:
    """Flat, mean 0, length 1; a flat picture stays 0."""
    flat = rearrange(pictures, "n h w c -> n (h w c)").astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
