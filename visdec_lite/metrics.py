"""How good is a reconstruction? Scores with their chance level and their confidence interval.

What enters: reconstructions, uint8 (n, samples, height, width, 3) or (n, height, width, 3), and the images
that were really seen, uint8 (n, height, width, 3). What leaves: one number a stimulus for each score, or,
from `evaluate`, a `Score` with value, 95 % interval over stimuli and chance level. The scores are those of
Sun et al., NeurIPS 2023 (arXiv 2305.17214):

    n-way top-k      is the true class among the k best of n classes?      chance k / n
    identification   is the true image closer than a distractor?           chance 1 / 2
    PCC, SSIM, MSE   how close are the pixels?                             chance: see `evaluate`
    LPIPS-like       how close are a network's features?                   chance: see `evaluate`

Distances between whole sets of pictures (FID, KID) are in `perceptual`, tests of one method against another in
`statistics`, what lies behind a score in `diagnostics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from einops import rearrange

from visdec_lite.perceptual import Features, feature_matrices
from visdec_lite.pixels import Measure, compare
from visdec_lite.statistics import bootstrap_interval
from visdec_lite.validation import as_array

DISTANCES = ("mse", "lpips")  # lower is better
BOUNDS = {"pcc": (-1.0, 1.0), "ssim": (-1.0, 1.0), "lpips": (0.0, 4.0)}  # least and greatest; (0, 1) for the others


@dataclass(frozen=True)
class Score:
    """A mean over stimuli that says how sure it is and what guessing would score.

    Attributes:
        value: mean over stimuli.
        ci95: 95 % bootstrap interval over stimuli, (low, high).
        chance: what an uninformed decoder scores.
        n: number of stimuli.
        values: the score of each stimulus, shape (n,), for paired tests and for intervals over subjects.
    """

    value: float
    ci95: tuple[float, float]
    chance: float
    n: int
    values: tuple[float, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in metrics.json: `{"value", "ci95": [low, high], "chance"}`."""
        return {"value": self.value, "ci95": list(self.ci95), "chance": self.chance}


def n_way_top_k(
    probabilities: np.ndarray,
    true_class: np.ndarray,
    n_way: int = 50,
    top_k: int = 1,
    trials: int | None = None,
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """n-way top-k accuracy: the true class among the k best of itself and n-1 classes drawn at random.

    Of the C-1 other classes let g score higher than the true one. The number of those among the n-1 drawn is
    hypergeometric, so the accuracy expected over all draws is known, P(fewer than k drawn), and is the
    default; drawing `trials` times, as papers do, adds only noise. A tie is broken at random: a classifier
    that answers the same to everything scores k / n, not 1.

    Args:
        probabilities: the classifier's answers to the reconstructions, shape (n, samples, classes) or
            (n, classes); any score where higher is better.
        true_class: integers, shape (n,): the classifier's argmax on the image that was seen.
        n_way: classes in the contest, the true one included; 2..classes.
        top_k: places that count; 1..n_way.
        trials: draws for each reconstruction; None for the exact expectation. With n_way == classes nothing
            is left to draw and the expectation is given in any case.
        generator: needed for trials.

    Returns:
        Accuracy in 0..1, averaged over samples (and trials), float64, shape (n,). Guessing scores k / n.
    """
    scores = _real(probabilities, "probabilities")
    scores = scores[:, None] if scores.ndim == 2 else scores
    _check_scores(scores, true_class, n_way, top_k)
    classes = scores.shape[-1]
    true = np.take_along_axis(scores, np.asarray(true_class)[:, None, None], axis=-1)
    better = (scores > true).sum(axis=-1)  # (n, samples), g of the text
    equal = (scores == true).sum(axis=-1) - 1  # a tie puts g anywhere in better .. better + equal

    if trials is None or n_way == classes:
        chance_at = np.array([_top_k_chance(g, classes, n_way, top_k) for g in range(classes)])
        upto = np.concatenate([[0.0], np.cumsum(chance_at)])
        return ((upto[better + equal + 1] - upto[better]) / (equal + 1)).mean(axis=1)
    if trials < 1 or generator is None:
        raise ValueError(
            f"trials={trials} with generator={generator}; draws need at least 1 trial and a "
            "numpy.random.Generator, or leave trials=None for the exact expectation"
        )
    hits = np.zeros(better.shape)
    for _ in range(trials):
        ahead = better + generator.integers(0, equal + 1)
        hits += generator.hypergeometric(ahead, classes - 1 - ahead, n_way - 1) < top_k
    return (hits / trials).mean(axis=1)


def _top_k_chance(better: int, classes: int, n_way: int, top_k: int) -> float:
    """P(fewer than top_k of `better` classes are among n_way-1 drawn from classes-1), whole-number exact."""
    worse, drawn = classes - 1 - better, n_way - 1
    ways = sum(math.comb(better, j) * math.comb(worse, drawn - j) for j in range(min(top_k, n_way)))
    return ways / math.comb(classes - 1, drawn)


def score_matrix(reconstructions: np.ndarray, truth: np.ndarray, measure: Measure) -> np.ndarray:
    """Every reconstruction against every true image: [i, s, j] scores sample s of i against image j.

    Shape (n, samples, n). The diagonal i = j is the score itself, the rest says what a wrong image would have
    scored. Units as in `pcc`, `mse`, `ssim`.
    """
    reconstructions, truth = _check_images(reconstructions, truth)
    flat = rearrange(reconstructions, "n s h w c -> 1 (n s) h w c")
    scores = compare(flat, truth[None], measure)
    return rearrange(scores, "1 (n s) t -> n s t", n=len(truth))


def pairwise_identification(reconstructions: np.ndarray, truth: np.ndarray, measure: Measure = "pcc") -> np.ndarray:
    """Share of the n-1 other true images that are further from a reconstruction than its own true image.

    Ties count half. Rows of `truth` that show the same picture tie too: average repeats first.

    Returns:
        Shape (n,), in 0..1, averaged over samples. A reconstruction that knows nothing scores 0.5.
    """
    return identification(score_matrix(reconstructions, truth, measure), higher_is_better=measure != "mse")


def feature_identification(reconstructions: np.ndarray, truth: np.ndarray, features: Features) -> np.ndarray:
    """As `pairwise_identification`, by the correlation of feature vectors; see `perceptual.Features`."""
    reconstructions, truth = _check_images(reconstructions, truth)
    return identification(feature_matrices(reconstructions, truth, features)["features"])


def identification(scores: np.ndarray, *, higher_is_better: bool = True) -> np.ndarray:
    """Identification from a matrix (n, samples, n) as `score_matrix` gives it: shape (n,), 0..1, chance 0.5."""
    scores = _real(scores, "scores")
    if scores.ndim != 3 or scores.shape[0] != scores.shape[2]:
        raise ValueError(f"scores have shape {scores.shape}, expected (n, samples, n): every sample, every true image")
    n = len(scores)
    if n < 2:
        raise ValueError(f"{n} stimulus leaves no distractor; identification needs at least 2")
    closeness = scores if higher_is_better else -scores
    own = rearrange(np.einsum("isi->is", closeness), "n s -> n s 1")
    beaten = (closeness < own).sum(axis=-1)
    tied = (closeness == own).sum(axis=-1) - 1  # the true image ties with itself
    return ((beaten + 0.5 * tied) / (n - 1)).mean(axis=1)


def pcc(reconstructions: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pearson correlation over all pixels and channels, averaged over samples: shape (n,), -1..1.

    A flat image has no correlation with anything; it counts as 0.
    """
    return _matched(reconstructions, truth, "pcc")


def mse(reconstructions: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean squared error with pixels on a [0, 1] scale, averaged over samples: shape (n,), 0 is perfect."""
    return _matched(reconstructions, truth, "mse")


def ssim(reconstructions: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al., 2004), averaged over samples: shape (n,), 1 is perfect.

    As scikit-image computes it by default for uint8 colour images (data_range=255, channel_axis=-1): flat
    7 x 7 window, sample covariance, mean over windows inside the image and over channels. Grey images
    stored as three equal channels score what they score as one. Papers that use the 11 x 11 Gaussian
    window get slightly different numbers.
    """
    return _matched(reconstructions, truth, "ssim")


def _matched(reconstructions: np.ndarray, truth: np.ndarray, measure: Measure) -> np.ndarray:
    reconstructions, truth = _check_images(reconstructions, truth)
    return compare(reconstructions, truth[:, None], measure).mean(axis=(1, 2))


def evaluate(
    reconstructions: np.ndarray,
    truth: np.ndarray,
    *,
    classify: Callable[[np.ndarray], np.ndarray] | None,
    generator: np.random.Generator,
    n_way: int = 50,
    trials: int | None = None,
    resamples: int = 2000,
    features: Features | None = None,
) -> dict[str, Score]:
    """All scores of one method on one test set.

    `pairwise_pcc`, `pairwise_mse`, `pairwise_ssim` (chance 0.5), `pcc`, `ssim`, `mse`, and with a classifier
    `n_way_top1`, `n_way_top5` (chance k / n), and with features `pairwise_features`, `pairwise_lpips` (chance 0.5)
    and `lpips`. Chance for pcc, ssim, mse and lpips is measured with the very same reconstructions: their mean
    score against the *other* stimuli, over all n (n - 1) mismatched pairs. So it already contains what any blurred
    picture of the right kind gets for free.

    Where all stimuli score alike, the interval is the exact bound; see `statistics.bootstrap_interval`.

    Args:
        reconstructions, truth: as in the module text, at least 2 stimuli.
        classify: uint8 images (m, height, width, 3) -> scores (m, classes), numpy or torch; called once for
            the true images and once for all reconstructions, batching is its own business. None leaves
            n-way out.
        generator: for the bootstrap and the trials. Every score sees the same resampled stimuli, so leaving
            one out does not move the interval of another.
        n_way: classes in the contest, lowered to what the classifier knows; the score's chance tells.
            Top-5 is left out where 5 places would be all of them.
        trials: see `n_way_top_k`; None is exact.
        resamples: see `bootstrap_interval`.
        features: see `perceptual.Features`; say in the report which. None leaves these scores out.
    """
    reconstructions, truth = _check_images(reconstructions, truth)
    bootstrap_seed = int(generator.integers(2**63))
    found: dict[str, tuple[np.ndarray, float]] = {}  # name -> (score of each stimulus, chance)

    if classify is not None:
        true_class = _classify(classify, truth).argmax(axis=-1)
        scores = _classify(classify, rearrange(reconstructions, "n s h w c -> (n s) h w c"))
        scores = rearrange(scores, "(n s) k -> n s k", n=len(truth))
        ways = min(n_way, scores.shape[-1])
        for top_k in (k for k in (1, 5) if k < max(ways, 2)):
            accuracy = n_way_top_k(scores, true_class, ways, top_k, trials, generator)
            found[f"n_way_top{top_k}"] = (accuracy, top_k / ways)

    matrices = {measure: score_matrix(reconstructions, truth, measure) for measure in get_args(Measure)}
    if features is not None:
        matrices |= feature_matrices(reconstructions, truth, features)
    for name, matrix in matrices.items():
        found[f"pairwise_{name}"] = (identification(matrix, higher_is_better=name not in DISTANCES), 0.5)
    for name in [name for name in matrices if name != "features"]:
        matrix = matrices[name]
        matched = np.einsum("isi->is", matrix)
        mismatched = (matrix.sum() - matched.sum()) / (matrix.size - matched.size)
        found[name] = (matched.mean(axis=1), float(mismatched))

    return {
        name: Score(
            value=float(values.mean()),
            ci95=bootstrap_interval(
                values, np.random.default_rng(bootstrap_seed), resamples=resamples, bounds=BOUNDS.get(name, (0.0, 1.0))
            ),
            chance=chance,
            n=len(values),
            values=tuple(values.tolist()),
        )
        for name, (values, chance) in found.items()
    }


def _classify(classify: Callable[[np.ndarray], Any], images: np.ndarray) -> np.ndarray:
    scores = _real(classify(images), "scores of classify, which is given uint8 in 0..255,")
    if scores.ndim != 2 or len(scores) != len(images):
        raise ValueError(f"classify gave {scores.shape} for {len(images)} images, expected (images, classes)")
    return scores


def _real(values: Any, what: str) -> np.ndarray:
    """Scores in an array, list or tensor as float64, none NaN: compared with NaN, everything would be worse."""
    array = as_array(values, what)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{what} are {array.dtype}, expected real numbers")
    if np.isnan(array).any():
        raise ValueError(f"{np.isnan(array).sum()} of {array.size} {what} are NaN, expected none")
    return array.astype(np.float64, copy=False)


def _check_scores(scores: np.ndarray, true_class: np.ndarray, n_way: int, top_k: int) -> None:
    true_class = np.asarray(true_class)
    if scores.ndim != 3:
        raise ValueError(f"probabilities are {scores.shape}, expected (n, samples, classes) or (n, classes)")
    n, _, classes = scores.shape
    if true_class.shape != (n,) or true_class.dtype.kind not in "iu":
        raise ValueError(
            f"true_class is {true_class.dtype} {true_class.shape} for {n} stimuli, expected {n} integers; "
            "take the argmax of the classifier on the true images"
        )
    if n and not 0 <= true_class.min() <= true_class.max() < classes:
        raise ValueError(f"true_class runs {true_class.min()}..{true_class.max()}, expected 0..{classes - 1}")
    if not 2 <= n_way <= classes:
        raise ValueError(f"{n_way}-way needs 2..{classes} of {classes} classes; pass n_way={classes} or less")
    if not 1 <= top_k <= n_way:
        raise ValueError(f"top_k={top_k}, expected 1..{n_way} for a {n_way}-way contest")


def _check_images(reconstructions: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as uint8, reconstructions with their samples axis: (n, s, h, w, 3) and (n, h, w, 3)."""
    for name, images in (("reconstructions", reconstructions), ("truth", truth)):
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            kind = getattr(images, "dtype", type(images).__name__)
            raise ValueError(
                f"{name} are {kind}, expected uint8 in 0..255; state what black and white are in them: "
                "preprocessing.as_uint8_rgb(images, value_range=(0, 1)); of a model's: preprocessing.to_uint8"
            )
    if truth.ndim != 4 or truth.shape[-1] != 3 or 0 in truth.shape:
        raise ValueError(f"truth has shape {truth.shape}, expected (n, height, width, 3), nothing empty")
    if reconstructions.ndim == 4:
        reconstructions = reconstructions[:, None]
    if reconstructions.ndim != 5 or reconstructions.shape[-1] != 3 or reconstructions.shape[1] == 0:
        raise ValueError(
            f"reconstructions have shape {reconstructions.shape}, expected (n, samples, height, width, 3) "
            "or (n, height, width, 3), samples >= 1"
        )
    if len(reconstructions) != len(truth):
        raise ValueError(f"{len(reconstructions)} reconstructions for {len(truth)} stimuli, expected as many")
    if reconstructions.shape[2:] != truth.shape[1:]:
        sizes = f"{reconstructions.shape[2:4]} and truth {truth.shape[1:3]}"
        raise ValueError(f"reconstructions measure {sizes} pixels, expected the same; resize one of them")
    return reconstructions, truth
