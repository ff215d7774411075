"""Ridge regression from voxels to image features: the decoder every other one has to beat.

What enters: voxels (n, V) and targets (n, T), pixels or any latents, of train and of validation. What leaves:
linear predictions (n, T), or pictures. With X and Y centred on their training means, ridge minimises

    ||Y - X W||^2 + alpha ||W||^2,   so   W = (X'X + alpha)^-1 X'Y = X' (XX' + alpha)^-1 Y

(Hoerl & Kennard, 1970). One eigendecomposition of the smaller of X'X and XX' serves every alpha; the alpha
with the least squared error on validation is kept, one for all targets. Sun et al., NeurIPS 2023 (arXiv
2305.17214), name this regression among their comparators; its blurred pictures show what a linear read-out
can and cannot say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from einops import rearrange

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RidgeConfig:
    """Which penalties are tried and what the final weights are fitted on."""

    alphas: tuple[float, ...] = tuple(float(alpha) for alpha in np.logspace(0, 6, 13))
    # the eigenvalues of X'X add up to n V for z-scored voxels: 1 is hardly a penalty, 1e6 a strong one
    refit: bool = False  # True: fit once more on train and validation together, with the alpha chosen

    def __post_init__(self) -> None:
        bad = [alpha for alpha in self.alphas if not (np.isfinite(alpha) and alpha > 0)]
        if not self.alphas or bad:
            raise ValueError(f"{len(self.alphas)} alphas, unusable: {bad}; expected at least 1, all above 0")


class RidgeDecoder:
    """Linear map from voxels to targets, its penalty chosen on validation.

    Attributes (after `fit`):
        alpha_: the penalty chosen.
        validation_curve_: mean squared validation error at each of `config.alphas`, same order; the mean over
            trials and targets. Predicting the training mean scores about the targets' variance.
        coef_: weights, float64, shape (V, T).
        intercept_: float64, shape (T,).
    """

    alpha_: float
    validation_curve_: np.ndarray
    coef_: np.ndarray
    intercept_: np.ndarray

    def __init__(self, config: RidgeConfig | None = None) -> None:
        self.config = config or RidgeConfig()

    def fit(self, voxels: np.ndarray, targets: np.ndarray, voxels_val: np.ndarray, targets_val: np.ndarray) -> Self:
        """Fit on train, choose alpha on validation; a best alpha at the edge of the grid logs a warning.

        Args:
            voxels: training responses, shape (n, V), n >= 2; z-scored, since one penalty serves all voxels.
            targets: what to predict, shape (n, T), any range.
            voxels_val, targets_val: other trials, shapes (m, V) and (m, T).
        """
        x, y = _check_pair(voxels, targets, "train")
        x_val, y_val = _check_pair(voxels_val, targets_val, "validation")
        for what, train, val in (("voxels", x, x_val), ("targets", y, y_val)):
            if train.shape[1] != val.shape[1]:
                raise ValueError(f"train {train.shape[1]} {what}; validation {val.shape[1]}; expected the same")
        path = _RidgePath(x, y)
        self.validation_curve_ = np.array(
            [np.mean((prediction - y_val) ** 2) for prediction in path.predictions(x_val, self.config.alphas)]
        )
        best = int(np.argmin(self.validation_curve_))
        self.alpha_ = self.config.alphas[best]
        low, high = min(self.config.alphas), max(self.config.alphas)
        if low < high and self.alpha_ in (low, high):
            meaning = (
                "if a larger one always wins, the voxels say nothing about the targets"
                if self.alpha_ == high
                else "the targets follow from the voxels with hardly a penalty"
            )
            logger.warning(
                f"best alpha {self.alpha_:g} stands at the edge of the grid {low:g}..{high:g}: widen "
                f"RidgeConfig.alphas; {meaning}"
            )
        if self.config.refit:
            path = _RidgePath(np.concatenate([x, x_val]), np.concatenate([y, y_val]))
        self.coef_ = path.weights(self.alpha_)
        self.intercept_ = path.y_mean - path.x_mean @ self.coef_
        return self

    def predict(self, voxels: np.ndarray) -> np.ndarray:
        """Targets for voxels (n, V): float64, shape (n, T), not clipped to any range."""
        if not hasattr(self, "coef_"):
            raise RuntimeError("this decoder is not fitted yet, 0 weights; call fit first")
        x = _check_matrix(voxels, "voxels")
        if x.shape[1] != len(self.coef_):
            raise ValueError(f"{x.shape[1]} voxels, the decoder was fitted on {len(self.coef_)}; same ROI?")
        return x @ self.coef_ + self.intercept_


def pixels_from_images(images: np.ndarray) -> np.ndarray:
    """uint8 (n, H, W, 3) in 0..255 -> float64 in [0, 1]."""
    return images / 255.0


def images_from_pixels(pixels: np.ndarray) -> np.ndarray:
    """Floats (n, H, W, 3) -> uint8; what lies outside [0, 1] is clipped, as a linear map knows no range."""
    return np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)


class RidgeToImages(RidgeDecoder):
    """Ridge regression to pictures: images -> features by `encode`, predicted features -> images by `decode`.

    By default the features are pixels in [0, 1], and predictions are clipped to that range. For latents pass
    both: a frozen first stage's encoder and decoder, say.

    Args:
        encode: uint8 (n, H, W, 3) -> floats (n, ...).
        decode: floats (n, ...), the shape encode gave -> uint8 (n, H, W, 3); clipping is its business.
    """

    def __init__(
        self,
        config: RidgeConfig | None = None,
        encode: Callable[[np.ndarray], np.ndarray] | None = None,
        decode: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        super().__init__(config)
        if (encode is None) != (decode is None):
            raise ValueError("got 1 of encode and decode, expected both (latents) or neither (pixels)")
        self.encode = encode or pixels_from_images
        self.decode = decode or images_from_pixels

    def fit_images(
        self, voxels: np.ndarray, images: np.ndarray, voxels_val: np.ndarray, images_val: np.ndarray
    ) -> Self:
        """`fit` on the features of images, uint8 (n, H, W, 3)."""
        _check_images(images, "images")
        _check_images(images_val, "images_val")
        features, features_val = np.asarray(self.encode(images)), np.asarray(self.encode(images_val))
        self.fit(voxels, _flat(features), voxels_val, _flat(features_val))
        self.feature_shape_ = features.shape[1:]
        return self

    def reconstruct(self, voxels: np.ndarray) -> np.ndarray:
        """Pictures for voxels (n, V): uint8, shape (n, H, W, 3)."""
        if not hasattr(self, "feature_shape_"):
            raise RuntimeError("this decoder knows 0 images; fit it with fit_images")
        features = self.predict(voxels)
        images = np.asarray(self.decode(features.reshape(len(features), *self.feature_shape_)))
        _check_images(images, "what decode returned")
        return images


def _flat(features: np.ndarray) -> np.ndarray:
    return rearrange(features, "n ... -> n (...)")


class _RidgePath:
    """Ridge solutions at every alpha from one eigendecomposition of the smaller Gram matrix."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x_mean, self.y_mean = x.mean(axis=0), y.mean(axis=0)
        x, y = x - self.x_mean, y - self.y_mean
        if x.shape[1] <= x.shape[0]:  # primal: X'X = Q S Q',  W = Q (S + alpha)^-1 Q'X'Y
            eigenvalues, self.basis = np.linalg.eigh(x.T @ x)
            self.coordinates = self.basis.T @ (x.T @ y)
        else:  # dual: XX' = U S U',  W = X'U (S + alpha)^-1 U'Y
            eigenvalues, u = np.linalg.eigh(x @ x.T)
            self.basis = x.T @ u
            self.coordinates = u.T @ y
        self.eigenvalues = np.maximum(eigenvalues, 0.0)  # a Gram matrix has none below 0; rounding may

    def weights(self, alpha: float) -> np.ndarray:
        return (self.basis / (self.eigenvalues + alpha)) @ self.coordinates

    def predictions(self, x: np.ndarray, alphas: tuple[float, ...]) -> Iterator[np.ndarray]:
        projected = (x - self.x_mean) @ self.basis
        for alpha in alphas:
            yield (projected / (self.eigenvalues + alpha)) @ self.coordinates + self.y_mean


def _check_matrix(values: np.ndarray, name: str) -> np.ndarray:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} have shape {matrix.shape}, expected (trials, columns), nothing empty")
    finite = np.isfinite(matrix)
    if not finite.all():
        raise ValueError(
            f"{name} hold {np.sum(~finite)} NaN or infinite values in {np.sum(~finite.all(axis=0))} of "
            f"{matrix.shape[1]} columns, expected none; drop those columns in train and validation alike"
        )
    return matrix


def _check_pair(voxels: np.ndarray, targets: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = _check_matrix(voxels, f"{split} voxels"), _check_matrix(targets, f"{split} targets")
    if len(x) != len(y):
        raise ValueError(f"{split} has {len(x)} voxel rows, {len(y)} target rows, expected as many")
    if split == "train" and len(x) < 2:
        raise ValueError(f"{len(x)} training trial, expected at least 2: centring leaves nothing of one")
    return x, y


def _check_images(images: np.ndarray, name: str) -> None:
    shape, dtype = getattr(images, "shape", ()), getattr(images, "dtype", type(images).__name__)
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3:
        raise ValueError(f"{name}: {dtype} {shape}, expected uint8 (n, height, width, 3) in 0..255")
