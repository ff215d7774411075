"""Pixel scores of many pictures against many: correlation, squared error and structural similarity.

What enters: uint8 images x (b, s, height, width, channels) and y (b, t, height, width, channels). What leaves: a
score for each pair within each b, float64, shape (b, s, t).

Every score is built from window sums of x, y, x^2, y^2 and xy. Pixels are whole numbers, so these sums are exact in
float64 and two equal images always tie exactly, which identification relies on.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from einops import rearrange
from numpy.lib.stride_tricks import sliding_window_view

Measure = Literal["pcc", "mse", "ssim"]
SSIM_WINDOW = 7  # pixels; scikit-image's default, a flat window
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # Wang et al. 2004, data range 255
BLOCK = 2**17  # numbers held at once while comparing windows: stays in the processor's cache


def compare(x: np.ndarray, y: np.ndarray, measure: Measure) -> np.ndarray:
    """All of x (b, s, h, w, c) with all of y (b, t, h, w, c) within each b, uint8: scores (b, s, t).

    pcc: Pearson r over pixels and channels, 0 where an image is flat. mse: of pixels on a [0, 1] scale. ssim: as in
    `metrics.ssim`.
    """
    if measure not in get_args(Measure):
        raise ValueError(f"measure is {measure!r}, expected one of {get_args(Measure)}")
    return {"pcc": _pcc, "mse": _mse, "ssim": _ssim}[measure](x, y)


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
