"""From pictures to one number a stimulus: the same metric code for every method and condition.

In: what was painted and what was seen, uint8. Out: plain numbers, as scores.json keeps them:

    {"scores": {method: {condition: {metric: {"chance", "values"}}}}, "truth": {condition: hash of the seen pictures}}

with one value a stimulus, averaged over samples. KID is a distance between sets of pictures: it has one "value", an
"error" (jackknife) and no chance level. `shuffled` is the control: test pictures against other stimuli's pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from visdec_lite.metrics import evaluate
from visdec_lite.perceptual import feature_vectors, kernel_distance, kernel_distance_error

CURVES = ("repeats_", "noise_")  # conditions that are points of a curve: no score in feature space
MEAN_OF_SAMPLES = {"visdec": "visdec_mean"}  # method -> the one that averages its samples


class Referee(Protocol):
    """What `CategoryClassifier` offers a judge."""

    def classify(self, images: np.ndarray) -> np.ndarray: ...

    def feature_layers(self, images: np.ndarray) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class Pictures:
    """What was painted, uint8 (n, samples, h, w, 3), what was seen, (n, h, w, 3), and its stimulus numbers, (n,)."""

    images: np.ndarray
    truth: np.ndarray
    stimulus: np.ndarray


def score_pictures(method: str, pictures: Mapping[str, Pictures], referee: Referee, seed: int) -> dict[str, Any]:
    """All scores of a method's pictures, and of the mean of its samples where that is a method of its own."""
    found = {method: {name: score_condition(name, kept, referee, seed) for name, kept in pictures.items()}}
    found[method]["shuffled"] = score_condition("shuffled", shuffled(pictures["test"], seed), referee, seed)
    if derived := MEAN_OF_SAMPLES.get(method):
        mean = mean_of_samples(pictures["test"])  # elsewhere there are too few samples to average
        found[derived] = {
            "test": score_condition("test", mean, referee, seed),
            "shuffled": score_condition("shuffled", shuffled(mean, seed), referee, seed),
        }
    return {"scores": found, "truth": {name: hash_of(kept.truth) for name, kept in pictures.items()}}


def score_condition(name: str, kept: Pictures, referee: Referee, seed: int) -> dict[str, dict[str, Any]]:
    """metric -> {"chance", "values"}; n-way contests are among all categories that the referee knows."""
    curve = name.startswith(CURVES)
    scores = evaluate(
        kept.images,
        kept.truth,
        classify=referee.classify,
        generator=np.random.default_rng(seed),
        n_way=10**9,  # lowered to what the referee knows
        resamples=1,  # intervals are made later, over seeds, stimuli and subjects
        features=None if curve else referee.feature_layers,
    )
    found: dict[str, dict[str, Any]] = {
        metric: {"chance": score.chance, "values": list(score.values)} for metric, score in scores.items()
    }
    if not curve and name != "shuffled" and len(kept.truth) > 2:  # shuffling leaves a set as it is
        found["kid"] = _kid(kept, referee)
    return found


def _kid(kept: Pictures, referee: Referee) -> dict[str, Any]:
    """One sample a stimulus at a time, as the images of a set must be independent; averaged over samples.

    Features are divided by their root mean square over the true pictures, so that the kernel's 1 has a meaning.
    """
    seen = feature_vectors(referee.feature_layers, kept.truth)
    scale = np.sqrt((seen**2).mean()) or 1.0
    seen = seen / scale
    made = [feature_vectors(referee.feature_layers, kept.images[:, s]) / scale for s in range(kept.images.shape[1])]
    return {
        "chance": None,
        "value": float(np.mean([kernel_distance(vectors, seen) for vectors in made])),
        "error": float(np.mean([kernel_distance_error(vectors, seen) for vectors in made])),
        "n": len(seen),
    }


def shuffled(kept: Pictures, seed: int) -> Pictures:
    """Everybody gets the pictures painted for another stimulus, in one round: nobody keeps the own."""
    order = np.random.default_rng(seed).permutation(len(kept.truth))
    wrong = np.empty_like(order)
    wrong[order] = np.roll(order, 1)
    return Pictures(kept.images[wrong], kept.truth, kept.stimulus)


def mean_of_samples(kept: Pictures) -> Pictures:
    mean = np.rint(kept.images.mean(axis=1, keepdims=True)).astype(np.uint8)
    return Pictures(mean, kept.truth, kept.stimulus)


def pooled(parts: Sequence[Mapping[str, Pictures]]) -> dict[str, Pictures]:
    """The test pictures of all folds together, in order of stimulus number; conditions that all of them have."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    together = {}
    for name in names:
        stimulus = np.concatenate([part[name].stimulus for part in parts])
        if len(np.unique(stimulus)) < len(stimulus):
            raise ValueError(
                f"{len(stimulus)} pictures of {len(np.unique(stimulus))} stimuli in condition {name!r}; expected every "
                "stimulus in the test part of one fold"
            )
        order = np.argsort(stimulus, kind="stable")
        together[name] = Pictures(
            np.concatenate([part[name].images for part in parts])[order],
            np.concatenate([part[name].truth for part in parts])[order],
            stimulus[order],
        )
    return together


def hash_of(pictures: np.ndarray) -> str:
    """Of what was seen: equal for the same pictures in the same order."""
    return hashlib.sha256(np.ascontiguousarray(pictures).tobytes()).hexdigest()[:16]
