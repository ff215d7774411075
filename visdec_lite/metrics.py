"""How good is a reconstruction? Scores with their chance level and their confidence interval.

What enters: reconstructions, uint8 (n, samples, height, width, 3) or (n, height, width, 3), and the images
that were really seen, uint8 (n, height, width, 3). What leaves: one number a stimulus for each score, or,
from `evaluate`, a `Score` with value, 95 % interval over stimuli and chance level. The scores are those of
Sun et al., NeurIPS 2023 (arXiv 2305.17214):

    n-way top-k      is the true class among the k best of n classes?      chance k / n
    identification   is the true image closer than a distractor?           chance 1 / 2
    PCC, SSIM, MSE   how close are the pixels?                             chance: see `evaluate`

Every pixel score is built from window sums of x, y, x^2, y^2 and xy. Pixels are whole numbers, so these sums
are exact in float64 and two equal images always tie exactly, which identification relies on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from einops import rearrange
from numpy.lib.stride_tricks import sliding_window_view

Measure = Literal["pcc", "mse", "ssim"]
SSIM_WINDOW = 7  # pixels; scikit-image's default, a flat window
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # Wang et al. 2004, data range 255
BLOCK = 2**17  # numbers held at once while comparing windows: stays in the processor's cache


@dataclass(frozen=True)
class Score:
    """A mean over stimuli that says how sure it is and what guessing would score.

    Attributes:
        value: mean over stimuli.
        ci95: 95 % bootstrap interval over stimuli, (low, high).
        chance: what an uninformed decoder scores.
        n: number of stimuli.
    """

    value: float
    ci95: tuple[float, float]
    chance: float
    n: int

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
    scores = np.asarray(probabilities, dtype=np.float64)
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
    scores = _kernel(measure)(flat, truth[None])
    return rearrange(scores, "1 (n s) t -> n s t", n=len(truth))


def pairwise_identification(reconstructions: np.ndarray, truth: np.ndarray, measure: Measure = "pcc") -> np.ndarray:
    """Share of the n-1 other true images that are further from a reconstruction than its own true image.

    Ties count half. Rows of `truth` that show the same picture tie too: average repeats first.

    Returns:
        Shape (n,), in 0..1, averaged over samples. A reconstruction that knows nothing scores 0.5.
    """
    return _identification(score_matrix(reconstructions, truth, measure), measure)


def _identification(scores: np.ndarray, measure: Measure) -> np.ndarray:
    n = len(scores)
    if n < 2:
        raise ValueError(f"{n} stimulus leaves no distractor; identification needs at least 2")
    closeness = -scores if measure == "mse" else scores
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
    return _kernel(measure)(reconstructions, truth[:, None]).mean(axis=(1, 2))


# The kernels compare all of x (b, s, h, w, c) with all of y (b, t, h, w, c) within each b: (b, s, t).


def _kernel(measure: Measure) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    if measure not in get_args(Measure):
        raise ValueError(f"measure is {measure!r}, expected one of {get_args(Measure)}")
    return {"pcc": _pcc, "mse": _mse, "ssim": _ssim}[measure]


def _sums(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sums of x, y, xx, yy, xy over the last axis of x (..., s, p) and y (..., t, p), to fit (..., s, t)."""
    sum_x, sum_xx = x.sum(-1)[..., None], np.einsum("...p,...p->...", x, x)[..., None]
    sum_y, sum_yy = y.sum(-1)[..., None, :], np.einsum("...p,...p->...", y, y)[..., None, :]
    return sum_x, sum_y, sum_xx, sum_yy, x @ y.swapaxes(-1, -2)


def _image_sums(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """`_sums` over whole images, one image row at a time so that no float copy of all images is made."""
    totals = [np.float64(0)] * 5
    for row in range(x.shape[2]):
        strips = [rearrange(images[:, :, row], "b s w c -> b s (w c)") for images in (x, y)]
        sums = _sums(*(strip.astype(np.float64) for strip in strips))
        totals = [total + part for total, part in zip(totals, sums, strict=True)]
    return totals


def _pcc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    n = math.prod(x.shape[2:])
    sum_x, sum_y, sum_xx, sum_yy, sum_xy = _image_sums(x, y)
    scale = np.sqrt((n * sum_xx - sum_x**2) * (n * sum_yy - sum_y**2))
    return np.where(scale > 0, (n * sum_xy - sum_x * sum_y) / np.where(scale > 0, scale, 1.0), 0.0)


def _mse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    _, _, sum_xx, sum_yy, sum_xy = _image_sums(x, y)
    return (sum_xx + sum_yy - 2 * sum_xy) / (255**2 * math.prod(x.shape[2:]))


def _ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    (b, s, height, width, channels), t = x.shape, y.shape[1]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"images are {height} x {width} pixels, SSIM's window is {SSIM_WINDOW} x {SSIM_WINDOW}; enlarge "
            "reconstructions and truth alike, or score them by PCC and MSE"
        )
    n = SSIM_WINDOW**2
    positions = width - SSIM_WINDOW + 1
    step = max(1, BLOCK // (b * positions * channels * t))
    total = np.zeros((b, s, t))

    def windows(images: np.ndarray, row: int) -> np.ndarray:
        view = sliding_window_view(images[:, :, row : row + SSIM_WINDOW], SSIM_WINDOW, axis=3)
        return rearrange(view, "b s i w c j -> b (w c) s (i j)").astype(np.float64)

    rows = height - SSIM_WINDOW + 1
    for row in range(rows):
        of_y = windows(y, row)
        for start in range(0, s, step):
            sum_x, sum_y, sum_xx, sum_yy, sum_xy = _sums(windows(x[:, start : start + step], row), of_y)
            means = (sum_x / n) * (sum_y / n)
            covariance = (sum_xy - n * means) / (n - 1)
            mean_squares = (sum_x / n) ** 2 + (sum_y / n) ** 2
            variances = (sum_xx - sum_x**2 / n) / (n - 1) + (sum_yy - sum_y**2 / n) / (n - 1)
            similarity = (2 * means + SSIM_C1) * (2 * covariance + SSIM_C2)
            similarity /= (mean_squares + SSIM_C1) * (variances + SSIM_C2)
            total[:, start : start + step] += similarity.sum(axis=1)
    return total / (rows * positions * channels)


def bootstrap_interval(
    values: np.ndarray, generator: np.random.Generator, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean: stimuli drawn with replacement (Efron, 1979).

    Args:
        values: one score a stimulus, shape (n,). Average over samples first: samples of one stimulus are
            not independent.
        level: wanted coverage, between 0 and 1. With few stimuli the true coverage is a little lower.
        resamples: 2000 settle each end to about 2 % of the interval's width.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(
            f"values have shape {values.shape}, {np.sum(~np.isfinite(values))} not finite; expected one "
            "finite score a stimulus, shape (n,); average over samples first"
        )
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level={level}, resamples={resamples}; expected 0 < level < 1 and resamples >= 1")
    means = values[generator.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def evaluate(
    reconstructions: np.ndarray,
    truth: np.ndarray,
    *,
    classify: Callable[[np.ndarray], np.ndarray] | None,
    generator: np.random.Generator,
    n_way: int = 50,
    trials: int | None = None,
    resamples: int = 2000,
) -> dict[str, Score]:
    """All scores of one method on one test set.

    `pairwise_pcc`, `pairwise_mse`, `pairwise_ssim` (chance 0.5), `pcc`, `ssim`, `mse`, and with a classifier
    `n_way_top1`, `n_way_top5` (chance k / n). Chance for pcc, ssim and mse is measured with the very same
    reconstructions: their mean score against the *other* stimuli, over all n (n - 1) mismatched pairs.
    So it already contains what any blurred picture of the right kind gets for free.

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
    for measure, matrix in matrices.items():
        found[f"pairwise_{measure}"] = (_identification(matrix, measure), 0.5)
    for measure, matrix in matrices.items():
        matched = np.einsum("isi->is", matrix)
        mismatched = (matrix.sum() - matched.sum()) / (matrix.size - matched.size)
        found[measure] = (matched.mean(axis=1), float(mismatched))

    return {
        name: Score(
            value=float(values.mean()),
            ci95=bootstrap_interval(values, np.random.default_rng(bootstrap_seed), resamples=resamples),
            chance=chance,
            n=len(values),
        )
        for name, (values, chance) in found.items()
    }


def _classify(classify: Callable[[np.ndarray], Any], images: np.ndarray) -> np.ndarray:
    answer = classify(images)
    if hasattr(answer, "detach"):  # a torch tensor, perhaps on a GPU or with a gradient
        answer = answer.detach().cpu().double()
    scores = np.asarray(answer, dtype=np.float64)
    if scores.ndim != 2 or len(scores) != len(images):
        raise ValueError(f"classify gave {scores.shape} for {len(images)} images, expected (images, classes)")
    if np.isnan(scores).any():
        raise ValueError(f"classify gave {np.isnan(scores).sum()} NaN; it is given uint8 in 0..255")
    return scores


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
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {scores.size} probabilities are NaN, expected none")
    if not 2 <= n_way <= classes:
        raise ValueError(f"{n_way}-way needs 2..{classes} of {classes} classes; pass n_way={classes} or less")
    if not 1 <= top_k <= n_way:
        raise ValueError(f"top_k={top_k}, expected 1..{n_way} for a {n_way}-way contest")


def _check_images(reconstructions: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as uint8, reconstructions with their samples axis: (n, s, h, w, 3) and (n, h, w, 3)."""
    for name, images in (("reconstructions", reconstructions), ("truth", truth)):
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            kind = getattr(images, "dtype", type(images).__name__)
            raise TypeError(f"{name} are {kind}, expected uint8 in 0..255; see preprocessing.to_uint8")
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
