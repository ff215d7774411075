"""Scores in the feature space of a network: closer to what people see than pixels are, if the features are.

What enters: uint8 images and `features`, any callable from uint8 images (m, height, width, 3) to features. What
leaves: a distance for each stimulus, or one between two sets of pictures. No such score means anything without the
name of its features: say which network, which layers, trained on what.

    perceptual distance    unit-normalised maps, squared difference        Zhang et al. 2018, arXiv 1801.03924
    feature correlation    Pearson r of feature vectors, for identification
    Frechet distance       two Gaussians fitted to feature vectors (FID)   Heusel et al. 2017, arXiv 1706.08500
    kernel distance        unbiased squared MMD, cubic kernel (KID)        Binkowski et al. 2018, arXiv 1801.01401

The two set distances compare how sets of pictures look, not whether picture i is the right one: shuffling either
set changes nothing, and a decoder that knows nothing may score well. So they have no chance level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from einops import rearrange

Features: TypeAlias = Callable[[np.ndarray], Any]
"""uint8 images (m, height, width, 3) -> one layer or a sequence of layers, numpy or torch, batched at its own pace.

A layer is a map (m, channels, height, width) or a vector (m, d). The perceptual distance uses all maps (the vectors,
if there are none); correlation and set distances use the last layer, a map averaged over its positions.
"""

SMALL = 1e-10  # keeps a position without any feature from being divided by 0


def perceptual_distance(reconstructions: np.ndarray, truth: np.ndarray, features: Features) -> np.ndarray:
    """LPIPS-like distance, averaged over samples: shape (n,), 0 is perfect.

    At each position of each map the vector over channels is scaled to length 1; the squared distance of the two
    vectors is averaged over positions and over layers: 0..4, and 0..2 for features that are never negative. This is
    eq. 1 of Zhang et al. (2018) with all linear weights 1 ("twice the cosine distance") and an average over layers
    instead of a sum. The published LPIPS learns these weights from human judgements and is not comparable.

    Args:
        reconstructions, truth: uint8 (n, samples, height, width, 3) or without samples, and (n, height, width, 3).
        features: see `Features`.
    """
    return np.einsum("isi->is", perceptual_matrix(reconstructions, truth, features)).mean(axis=1)


def perceptual_matrix(reconstructions: np.ndarray, truth: np.ndarray, features: Features) -> np.ndarray:
    """Every reconstruction against every true image: [i, s, j] is the distance of sample s of i to image j."""
    return feature_matrices(reconstructions, truth, features)["lpips"]


def feature_matrices(reconstructions: np.ndarray, truth: np.ndarray, features: Features) -> dict[str, np.ndarray]:
    """ "lpips", the perceptual distance, and "features", the correlation of feature vectors, of all pairs.

    Each has shape (n, samples, n), [i, s, j] comparing sample s of i with true image j. `features` is called once
    for all images that differ; equal images share one row, so that they tie exactly whatever the rounding.
    """
    if reconstructions.ndim == truth.ndim:
        reconstructions = reconstructions[:, None]
    made, shape = rearrange(reconstructions, "n s h w c -> (n s) h w c"), reconstructions.shape[:2]
    images, row = _distinct(np.concatenate([made, truth]))
    layers = feature_layers(features, images)
    of_made, of_truth = row[: len(made)], row[len(made) :]
    rows, back = np.unique(of_made, return_inverse=True)
    columns, across = np.unique(of_truth, return_inverse=True)

    maps = [layer for layer in layers if layer.ndim == 4] or [layer[:, :, None, None] for layer in layers]
    distance = np.mean([_map_distance(layer[rows], layer[columns]) for layer in maps], axis=0)
    vectors = summary(layers)
    correlation = _correlation(vectors[rows], vectors[columns])
    return {
        name: matrix[np.ix_(back, across)].reshape(*shape, len(truth))
        for name, matrix in {"lpips": distance, "features": correlation}.items()
    }


def feature_layers(features: Features, images: np.ndarray) -> list[np.ndarray]:
    """What `features` says about the images, checked: maps (m, c, h, w) and vectors (m, d), float32 or float64."""
    answer = features(images)
    layers = list(answer) if isinstance(answer, Sequence) else [answer]
    if not layers:
        raise ValueError("features gave 0 layers, at least 1 is needed")
    checked = []
    for number, layer in enumerate(layers):
        if hasattr(layer, "detach"):  # a torch tensor, perhaps on a GPU or with a gradient
            layer = layer.detach().cpu().float().numpy() if layer.is_floating_point() else layer.detach().cpu().numpy()
        layer = np.asarray(layer)
        layer = layer if layer.dtype == np.float32 else layer.astype(np.float64)
        if layer.ndim not in (2, 4) or len(layer) != len(images) or layer.size == 0:
            raise ValueError(
                f"layer {number} of the features has shape {layer.shape} for {len(images)} images, expected "
                "(images, channels, height, width) or (images, d)"
            )
        if not np.isfinite(layer).all():
            raise ValueError(
                f"{np.sum(~np.isfinite(layer))} of {layer.size} features of layer {number} are not finite, expected "
                "none; the network is given uint8 in 0..255"
            )
        checked.append(layer)
    return checked


def summary(layers: Sequence[np.ndarray]) -> np.ndarray:
    """The feature vector of each image, shape (m, d), float64: the last layer, a map averaged over positions."""
    last = layers[-1]
    return (last.mean(axis=(2, 3), dtype=np.float64) if last.ndim == 4 else last).astype(np.float64)


def feature_vectors(features: Features, images: np.ndarray) -> np.ndarray:
    """uint8 images (m, height, width, 3) -> feature vectors (m, d), for the two set distances below."""
    return summary(feature_layers(features, images))


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance of two Gaussians fitted to two sets of feature vectors (Heusel et al., 2017).

    |mean_x - mean_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)), 0 or more, 0 for equal sets. With 2048 features of an
    Inception network this is the FID; with others it is not comparable to it.

    It is biased upwards, and much so where there are fewer images than features: two sets of 50 drawn from the same
    64-dimensional Gaussian are tens apart, not 0. For 50 stimuli use `kernel_distance`.

    Args:
        x, y: feature vectors, shape (m, d) and (n, d), at least 2 each.
    """
    x, y = _check_vectors(x, y)
    mean_gap = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    # With C = A'A the trace of the root is the nuclear norm of A_x A_y', also where C is singular.
    roots = [np.linalg.qr((z - z.mean(axis=0)) / np.sqrt(len(z) - 1), mode="r") for z in (x, y)]
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum(np.sum(root**2) for root in roots)
    return float(max(mean_gap + spread - 2 * cross, 0.0))


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Kernel distance of two sets of feature vectors: unbiased squared MMD (Binkowski et al., 2018).

    With the kernel k(a, b) = (a.b / d + 1)^3: mean k within x + mean k within y - 2 mean k across, an image never
    compared with itself. Unbiased at any number of images: 0 on average for sets from one distribution, so it may
    be negative. With 2048 Inception features, averaged over subsets of 1000, it is the published KID.

    Args:
        x, y: feature vectors, shape (m, d) and (n, d), at least 2 each.
    """
    x, y = _check_vectors(x, y)
    within_x, within_y, across = _cubic(x, x), _cubic(y, y), _cubic(x, y)
    return float(_off_diagonal_mean(within_x) + _off_diagonal_mean(within_y) - 2 * across.mean())


def kernel_distance_error(x: np.ndarray, y: np.ndarray) -> float:
    """Standard error of `kernel_distance` by the jackknife: each image left out once (Efron and Stein, 1981).

    The images of each set must be independent: one sample a stimulus, repeats averaged. It errs on the large side,
    and most so where both sets come from one distribution.

    Args:
        x, y: as there, at least 3 each.
    """
    x, y = _check_vectors(x, y, least=3)
    across = _cubic(x, y)
    variance = 0.0
    for set_, between in ((x, across), (y, across.T)):
        within, n = _cubic(set_, set_), len(set_)
        np.fill_diagonal(within, 0.0)
        inner = (within.sum() - 2 * within.sum(axis=1)) / ((n - 1) * (n - 2))  # mean within, i left out
        outer = (between.sum() - between.sum(axis=1)) / ((n - 1) * between.shape[1])
        variance += (n - 1) * (inner - 2 * outer).var()
    return float(np.sqrt(variance))


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _off_diagonal_mean(kernel: np.ndarray) -> float:
    n = len(kernel)
    return (kernel.sum() - np.trace(kernel)) / (n * (n - 1))


def _distinct(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images that differ, in order of appearance, and for every image its row among them."""
    seen: dict[bytes, int] = {}
    row = np.array([seen.setdefault(image.tobytes(), len(seen)) for image in images])
    return images[np.unique(row, return_index=True)[1]], row


def _map_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """All of x (s, c, h, w) with all of y (t, c, h, w): mean squared distance of unit vectors, shape (s, t)."""
    positions = x.shape[2] * x.shape[3]
    units = [layer / (np.sqrt((layer**2).sum(axis=1, keepdims=True)) + SMALL) for layer in (x, y)]
    a, b = (rearrange(unit, "m c h w -> m (c h w)").astype(np.float64) for unit in units)
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
    return np.maximum(squares - 2 * (a @ b.T), 0.0) / positions


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson r of all of x (s, d) with all of y (t, d), shape (s, t); a constant vector counts as 0."""
    units = []
    for vectors in (x, y):
        centred = vectors - vectors.mean(axis=1, keepdims=True)
        length = np.sqrt((centred**2).sum(axis=1, keepdims=True))
        flat = length <= 1e-12 * np.sqrt((vectors**2).sum(axis=1, keepdims=True))
        units.append(np.where(flat, 0.0, centred / np.where(flat, 1.0, length)))
    return units[0] @ units[1].T


def _check_vectors(x: np.ndarray, y: np.ndarray, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < least:
        raise ValueError(
            f"feature vectors have shapes {x.shape} and {y.shape}, expected (m, d) and (n, d), {least} or more each"
        )
    broken = int(np.sum(~np.isfinite(x)) + np.sum(~np.isfinite(y)))
    if broken:
        raise ValueError(f"{broken} feature values are not finite, expected none")
    return x, y
