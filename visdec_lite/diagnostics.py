"""What lies behind a score: do the samples know how unsure they are, how good are the voxels, which region counts?

What enters: samples, uint8 (n, samples, height, width, 3), and the true images; predicted and measured voxels; or a
function that reconstructs. What leaves: numbers with their ideal value beside them.

    samples       rank of the truth among the samples          Hamill, Mon. Weather Rev. 129, 2001
                  spread against error                         Fortin et al., J. Hydrometeorol. 15, 2014
    confidence    expected calibration error                   Naeini et al., AAAI 2015
    voxels        correlation over its noise ceiling           Schoppe et al., Front. Comput. Neurosci. 10, 2016
    regions       score lost when a region is silenced         lesion: voxels set to 0, the training mean
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from visdec_lite.statistics import Bounds, PairedTest, bootstrap_interval, paired_test


@dataclass(frozen=True)
class SampleCalibration:
    """Does the spread of the samples tell their error?

    Attributes:
        ranks: share of pixels whose truth has 0, 1, .. samples below it, shape (samples + 1,). Flat if calibrated;
            a U says that the samples agree too much with each other.
        inside: share of true pixels between the lowest and the highest sample.
        inside_ci95: 95 % interval of it, over stimuli or their categories.
        nominal: what calibrated samples score there, (samples - 1) / (samples + 1).
        spread: root mean square standard deviation of a pixel over samples, for each stimulus, pixels 0..1, (n,).
        error: root mean square error of the samples' mean, likewise, (n,).
        ratio: sqrt((samples + 1) / samples) spread / error over everything; 1 if calibrated, below 1 overconfident.
        correlation: Spearman's, of spread and error over stimuli; above 0 if the unsure ones are the bad ones. NaN
            where either is the same for all stimuli.
    """

    ranks: np.ndarray
    inside: float
    inside_ci95: tuple[float, float]
    nominal: float
    spread: np.ndarray
    error: np.ndarray
    ratio: float
    correlation: float


def sample_calibration(
    samples: np.ndarray, truth: np.ndarray, generator: np.random.Generator, categories: np.ndarray | None = None
) -> SampleCalibration:
    """Compares the truth with the samples' own idea of their uncertainty, pixel by pixel.

    If the samples and the truth come from one distribution, the truth is just one more sample: its rank among them
    is anywhere with the same probability. Where the truth equals some samples, its rank is shared evenly.

    Args:
        samples: uint8 (n, samples, height, width, 3), at least 2 samples.
        truth: uint8 (n, height, width, 3).
        generator: for the interval.
        categories: see `metrics.evaluate`.
    """
    _check_samples(samples, truth)
    s = samples.shape[1]
    parts = [_calibration_of_one(*one) for one in zip(samples, truth, strict=True)]
    shares, variance, squared_error = (np.array(part) for part in zip(*parts, strict=True))
    inside = shares[:, 1:-1].sum(axis=1)
    total = squared_error.mean()
    return SampleCalibration(
        ranks=shares.mean(axis=0),
        inside=float(inside.mean()),
        inside_ci95=bootstrap_interval(inside, generator, bounds=(0.0, 1.0), clusters=categories),
        nominal=(s - 1) / (s + 1),
        spread=np.sqrt(variance),
        error=np.sqrt(squared_error),
        ratio=float(np.sqrt((s + 1) / s * variance.mean() / total)) if total > 0 else np.nan,
        correlation=float(_spearman(variance, squared_error)),
    )


def _calibration_of_one(samples: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Of one stimulus: shares of the ranks, mean variance over samples, mean squared error of their mean.

    Sums of whole numbers are exact: samples that are all the truth have no error at all.
    """
    s, pixels = len(samples), samples.astype(np.int64)
    below, equal = (samples < truth).sum(axis=0), (samples == truth).sum(axis=0)
    shares = [(((below <= rank) & (rank <= below + equal)) / (equal + 1)).mean() for rank in range(s + 1)]
    total = pixels.sum(axis=0)
    variance = (s * (pixels**2).sum(axis=0) - total**2).mean() / (s * (s - 1) * 255**2)
    squared_error = ((total - s * truth.astype(np.int64)) ** 2).mean() / (s * 255) ** 2
    return np.array(shares), float(variance), float(squared_error)


def sample_agreement(probabilities: np.ndarray, true_class: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many samples agree on a class, and whether that class is right: for `reliability`.

    Args:
        probabilities: the classifier's answers to the reconstructions, shape (n, samples, classes).
        true_class: integers, shape (n,).

    Returns:
        Confidence, the share of samples of the most frequent class, 1 / samples..1, and hits, 0 or 1, each (n,).
        Of equally frequent classes the one with the greater mean probability is taken.
    """
    probabilities, true_class = np.asarray(probabilities, dtype=np.float64), np.asarray(true_class)
    if probabilities.ndim != 3 or true_class.shape != probabilities.shape[:1] or np.isnan(probabilities).any():
        raise ValueError(
            f"probabilities are {probabilities.shape} for classes {true_class.shape}, {np.isnan(probabilities).sum()} "
            "NaN; expected (n, samples, classes) for (n,), none NaN"
        )
    classes = probabilities.shape[2]
    votes = (probabilities.argmax(axis=2)[:, :, None] == np.arange(classes)).mean(axis=1)
    favoured = np.where(votes == votes.max(axis=1, keepdims=True), probabilities.mean(axis=1), -np.inf).argmax(axis=1)
    return votes.max(axis=1), (favoured == true_class).astype(np.float64)


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy, in bins of equal width over 0..1.

    Attributes:
        confidence, accuracy: mean of each bin, NaN where it is empty, shape (bins,).
        count: stimuli in each bin, shape (bins,).
        error: expected calibration error, the mean gap weighted by count: 0 is calibrated, 1 the worst.
        bias: mean confidence - mean accuracy; above 0 is overconfident.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray
    error: float
    bias: float


def reliability(confidence: np.ndarray, hits: np.ndarray, bins: int = 10) -> Reliability:
    """Of the answers given with 70 % confidence, are 70 % right? (Naeini et al., 2015.)

    The error is biased upwards where bins hold few stimuli: even a calibrated decoder does not score 0.

    Args:
        confidence: 0..1, shape (n,).
        hits: 0 or 1, or an accuracy between them, shape (n,).
        bins: the last one holds confidence 1 as well.
    """
    confidence, hits = np.asarray(confidence, dtype=np.float64), np.asarray(hits, dtype=np.float64)
    both = np.concatenate([confidence.ravel(), hits.ravel()])
    if confidence.ndim != 1 or confidence.shape != hits.shape or not len(both) or not ((both >= 0) & (both <= 1)).all():
        raise ValueError(
            f"confidence {confidence.shape} and hits {hits.shape}, {np.sum(~((both >= 0) & (both <= 1)))} not in 0..1; "
            "expected both (n,), n >= 1, in 0..1"
        )
    if bins < 1:
        raise ValueError(f"bins={bins}, expected 1 or more")
    chosen = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(chosen, minlength=bins)
    filled = np.where(count > 0, count, np.nan)
    mean_confidence = np.bincount(chosen, weights=confidence, minlength=bins) / filled
    accuracy = np.bincount(chosen, weights=hits, minlength=bins) / filled
    return Reliability(
        confidence=mean_confidence,
        accuracy=accuracy,
        count=count,
        error=float(np.nansum(count * np.abs(mean_confidence - accuracy)) / len(confidence)),
        bias=float(confidence.mean() - hits.mean()),
    )


def noise_ceiling(repeats: np.ndarray) -> np.ndarray:
    """The correlation that a perfect prediction would reach with the mean over repeats, for each voxel.

    One-way analysis of variance: of the variance of the means over stimuli, the part that repeats share is signal.
    Ceiling = sqrt(signal / (signal + noise / repeats)), 0 where no signal is found.

    Args:
        repeats: shape (stimuli, repeats, voxels), at least 2 stimuli and 2 repeats.

    Returns:
        Shape (voxels,), 0..1.
    """
    repeats = np.asarray(repeats, dtype=np.float64)
    if repeats.ndim != 3 or min(repeats.shape[:2]) < 2 or not np.isfinite(repeats).all():
        raise ValueError(
            f"repeats have shape {repeats.shape}, {np.sum(~np.isfinite(repeats))} not finite; expected finite "
            "(stimuli, repeats, voxels), 2 stimuli and 2 repeats or more"
        )
    of_means = repeats.mean(axis=1).var(axis=0, ddof=1)  # signal + noise / repeats
    noise = repeats.var(axis=1, ddof=1).mean(axis=0) / repeats.shape[1]
    signal = np.maximum(of_means - noise, 0.0)
    return np.sqrt(signal / np.where(of_means > 0, of_means, 1.0))


def ceiling_of_mean(ceiling: np.ndarray, repeats: int) -> np.ndarray:
    """The ceiling for the mean of several repeats, from that of a single trial: sqrt(k c^2 / (1 + (k - 1) c^2)).

    Spearman and Brown (1910), for noise that is independent from repeat to repeat; c in 0..1, any shape.
    """
    squared = np.asarray(ceiling, dtype=np.float64) ** 2
    if repeats < 1 or not (squared <= 1).all():
        raise ValueError(f"{repeats} repeats of a ceiling up to {np.sqrt(squared.max()):g}, expected >= 1 and 0..1")
    return np.sqrt(repeats * squared / (1 + (repeats - 1) * squared))


@dataclass(frozen=True)
class VoxelScores:
    """Prediction of voxels, raw and as a share of what could be reached.

    Attributes:
        correlation: predicted with measured, over stimuli, shape (voxels,); 0 where either is constant.
        normalised: correlation / ceiling, NaN where the ceiling is below the floor, shape (voxels,). About 1 for a
            perfect prediction, and above it by chance for some voxels: nothing is cut off.
        excluded: voxels below the floor.
        mean: of the others; NaN if there are none.
    """

    correlation: np.ndarray
    normalised: np.ndarray
    excluded: int
    mean: float


def voxel_scores(predicted: np.ndarray, measured: np.ndarray, ceiling: np.ndarray, floor: float = 0.1) -> VoxelScores:
    """Correlation of predicted and measured voxels over the noise ceiling (encoding models, re-synthesis).

    Args:
        predicted, measured: shape (stimuli, voxels), at least 3 stimuli. What is measured must be averaged as the
            ceiling supposes; see `ceiling_of_mean`.
        ceiling: of the correlation, 0..1, shape (voxels,); see `noise_ceiling`, or the simulated cortex's own.
        floor: voxels with a lower ceiling are noise divided by almost 0; they are left out, and counted.
    """
    predicted, measured = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    ceiling = np.asarray(ceiling, dtype=np.float64)
    if predicted.ndim != 2 or predicted.shape != measured.shape or ceiling.shape != predicted.shape[1:]:
        raise ValueError(
            f"predicted {predicted.shape}, measured {measured.shape}, ceiling {ceiling.shape}; expected "
            "(stimuli, voxels) twice and (voxels,)"
        )
    if len(predicted) < 3 or not (np.isfinite(predicted).all() and np.isfinite(measured).all()):
        raise ValueError(f"{len(predicted)} stimuli, expected 3 or more with finite voxels")
    if not ((ceiling >= 0) & (ceiling <= 1)).all() or not 0 < floor <= 1:
        raise ValueError(
            f"ceiling runs {ceiling.min():g}..{ceiling.max():g}, floor is {floor}; expected a correlation in 0..1 for "
            "each voxel and 0 < floor <= 1"
        )
    x, y = (table - table.mean(axis=0) for table in (predicted, measured))
    scale = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    r = np.where(scale > 0, (x * y).sum(axis=0) / np.where(scale > 0, scale, 1.0), 0.0)
    kept = ceiling >= floor
    normalised = np.where(kept, r / np.where(kept, ceiling, 1.0), np.nan)
    return VoxelScores(
        correlation=r,
        normalised=normalised,
        excluded=int((~kept).sum()),
        mean=float(normalised[kept].mean()) if kept.any() else np.nan,
    )


def roi_lesions(
    reconstruct: Callable[[np.ndarray], np.ndarray],
    voxels: np.ndarray,
    rois: Mapping[str, np.ndarray],
    score: Callable[[np.ndarray], np.ndarray],
    generator: np.random.Generator,
    *,
    bounds: Bounds | None = None,
    categories: np.ndarray | None = None,
) -> dict[str, PairedTest]:
    """What each region contributes: the score with all voxels minus the score with the region silenced.

    Silenced voxels are set to 0, which is the training mean of z-scored voxels: nothing to say. A drop of 0 does
    not mean that a region knows nothing, as another region may know the same. Greater regions cost more merely by
    size: put random masks of equal size among `rois` for comparison. Correct the p-values with `statistics.holm`.

    Args:
        reconstruct: voxels (n, voxels) -> reconstructions. Must give the same answer to the same voxels: fix the
            sampler's seed inside, or noise is mistaken for a contribution.
        voxels: z-scored with the training set's mean, shape (n, voxels).
        rois: region name -> boolean mask, shape (voxels,).
        score: reconstructions -> a score for each stimulus, shape (n,), greater is better; for instance
            `lambda made: n_way_top_k(...)` or `lambda made: -mse(made, truth)`.
        generator: for intervals and tests.
        bounds: of the score; see `statistics.paired_test`.
        categories: see `metrics.evaluate`.

    Returns:
        Region name -> drop, its interval and its p-value, in the order of `rois`.
    """
    if voxels.ndim != 2 or not rois:
        raise ValueError(f"voxels {voxels.shape} and {len(rois)} regions, expected (n, voxels) and at least 1 region")
    for name, mask in rois.items():
        if mask.dtype != bool or mask.shape != voxels.shape[1:] or not mask.any():
            raise ValueError(
                f"region {name!r} is {mask.dtype} {mask.shape} with {np.count_nonzero(mask)} voxels, expected a "
                f"boolean mask over {voxels.shape[1]} voxels with at least 1; select regions before padding"
            )
    intact = np.asarray(score(reconstruct(voxels)), dtype=np.float64)
    if intact.shape != (len(voxels),):
        raise ValueError(f"score gave {intact.shape} for {len(voxels)} stimuli, expected one score a stimulus")
    return {
        name: paired_test(
            intact,
            score(reconstruct(np.where(mask, voxels.dtype.type(0), voxels))),
            generator,
            bounds=bounds,
            clusters=categories,
        )
        for name, mask in rois.items()
    }


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return np.corrcoef(rankdata(x), rankdata(y))[0, 1]


def _check_samples(samples: np.ndarray, truth: np.ndarray) -> None:
    if samples.dtype != np.uint8 or truth.dtype != np.uint8:
        raise TypeError(f"samples are {samples.dtype} and truth {truth.dtype}, expected uint8 in 0..255")
    if samples.ndim != 5 or samples.shape[1] < 2 or truth.shape != samples.shape[:1] + samples.shape[2:]:
        raise ValueError(
            f"samples have shape {samples.shape} and truth {truth.shape}, expected (n, samples, height, width, 3) with "
            "2 samples or more, and (n, height, width, 3)"
        )
