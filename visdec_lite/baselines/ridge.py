"""Ridge regression from voxels to image features: the decoder every other one has to beat.

What enters: voxels (n, V) and targets (n, T), pixels or any latents, of train and of validation. What leaves:
linear predictions (n, T), or pictures. With X and Y centred on their training means, ridge minimises

    ||Y - X W||^2 + alpha ||W||^2,   so   W = (X'X + alpha)^-1 X'Y = X' (XX' + alpha)^-1 Y

(Hoerl & Kennard, 1970). One eigendecomposition of the smaller of X'X and XX' serves every alpha; the alpha
with the least squared error on validation is kept: one for all targets, or one for each, since a column of W
depends on no other. Sun et al., NeurIPS 2023 (arXiv 2305.17214), name this regression among their comparators;
its blurred pictures show what a linear read-out can and cannot say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from einops import rearrange

from visdec_lite.baselines.base import Baseline, Tuning, check_images, check_matrix
from visdec_lite.fields import POSITIVE, SWITCH, check_fields, several

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RidgeConfig:
    """Which penalties are tried and what the final weights are fitted on."""

    alphas: tuple[float, ...] = tuple(float(alpha) for alpha in np.logspace(0, 6, 13))
    # the eigenvalues of X'X add up to n V for z-scored voxels: 1 is hardly a penalty, 1e6 a strong one
    per_target: bool = False  # True: each target has its own alpha; see below
    # Judged on validation rows that chose no alpha, pixels' squared error against one alpha for all: -0.2 % on the
    # simulated cortex (400 validation rows), +5 % on digits69 (8 rows are too few to choose 3072 penalties on).
    refit: bool = False  # True: fit once more on train and validation together, with the alpha chosen

    def __post_init__(self) -> None:
        check_fields(self, {"alphas": several(POSITIVE), "per_target": SWITCH, "refit": SWITCH})


class RidgeDecoder:
    """Linear map from voxels to targets, its penalty chosen on validation.

    Attributes (after `fit`):
        alpha_: the penalty chosen; with `per_target` one for each target, shape (T,).
        validation_curve_: mean squared validation error at each of `config.alphas`, same order; the mean over
            trials and targets. Predicting the training mean scores about the targets' variance.
        validation_error_: the same number for the penalty (or the penalties) chosen.
        coef_: weights, float64, shape (V, T).
        intercept_: float64, shape (T,).
    """

    alpha_: float | np.ndarray
    validation_curve_: np.ndarray
    validation_error_: float
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
        alphas = np.array(self.config.alphas)
        errors = np.stack([np.mean((made - y_val) ** 2, axis=0) for made in path.predictions(x_val, alphas)])
        self.validation_curve_ = errors.mean(axis=1)  # errors: (alphas, targets)
        if self.config.per_target:
            own, common = errors.argmin(axis=0), self.validation_curve_.argmin()
            own = np.where(errors[common] == errors.min(axis=0), common, own)  # a constant target prefers none
            self.alpha_ = alphas[own]
            self.validation_error_ = float(errors.min(axis=0).mean())
        else:
            self.alpha_ = float(alphas[self.validation_curve_.argmin()])
            self.validation_error_ = float(self.validation_curve_.min())
        self._warn_at_the_edge()
        if self.config.refit:
            path = _RidgePath(np.concatenate([x, x_val]), np.concatenate([y, y_val]))
        self.coef_ = path.weights(self.alpha_)
        self.intercept_ = path.y_mean - path.x_mean @ self.coef_
        return self

    def predict(self, voxels: np.ndarray) -> np.ndarray:
        """Targets for voxels (n, V): float64, shape (n, T), not clipped to any range."""
        if not hasattr(self, "coef_"):
            raise RuntimeError("this decoder is not fitted yet, 0 weights; call fit first")
        x = check_matrix(voxels, "voxels")
        if x.shape[1] != len(self.coef_):
            raise ValueError(f"{x.shape[1]} voxels, the decoder was fitted on {len(self.coef_)}; same ROI?")
        return x @ self.coef_ + self.intercept_

    @property
    def num_parameters(self) -> int:
        """Weights and intercepts; 0 before fitting."""
        return self.coef_.size + self.intercept_.size if hasattr(self, "coef_") else 0

    def tuning(self, what: str, rows: int) -> Tuning:
        """How the penalty was chosen."""
        alpha = self.alpha_
        return Tuning(
            knob=f"ridge penalty, voxels to {what}",
            measure="mean squared error",
            rows=rows,
            tried=tuple(zip(self.config.alphas, self.validation_curve_.tolist(), strict=True)),
            chosen=alpha if isinstance(alpha, float) else f"{alpha.min():g} to {alpha.max():g}, target by target",
            score=self.validation_error_,
        )

    def _warn_at_the_edge(self) -> None:
        low, high = min(self.config.alphas), max(self.config.alphas)
        if low == high:
            return
        for edge, meaning in (
            (high, "if a larger one always wins, the voxels say nothing about the targets"),
            (low, "the targets follow from the voxels with hardly a penalty"),
        ):
            share = np.mean(np.asarray(self.alpha_) == edge)
            if share > 0.5:  # target by target, some always have nothing to be predicted
                logger.warning(
                    f"best alpha {edge:g} ({share:.0%} of the targets) stands at the edge of the grid "
                    f"{low:g}..{high:g}: widen RidgeConfig.alphas; {meaning}"
                )


def pixels_from_images(images: np.ndarray) -> np.ndarray:
    """uint8 (n, H, W, 3) in 0..255 -> float64 in [0, 1]."""
    return images / 255.0


def images_from_pixels(pixels: np.ndarray) -> np.ndarray:
    """Floats (n, H, W, 3) -> uint8; what lies outside [0, 1] is clipped, as a linear map knows no range."""
    return np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)


class RidgeToImages(Baseline):
    """Ridge regression to pictures: images -> features by `encode`, predicted features -> images by `decode`.

    By default the features are pixels in [0, 1], and predictions are clipped to that range. For latents pass
    both: a frozen first stage's encoder and decoder, say.

    Args:
        encode: uint8 (n, H, W, 3) -> floats (n, ...).
        decode: floats (n, ...), the shape encode gave -> uint8 (n, H, W, 3); clipping is its business.

    Attributes:
        ridge: the `RidgeDecoder` from voxels to flattened features.
    """

    def __init__(
        self,
        config: RidgeConfig | None = None,
        encode: Callable[[np.ndarray], np.ndarray] | None = None,
        decode: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        if (encode is None) != (decode is None):
            raise ValueError("got 1 of encode and decode, expected both (latents) or neither (pixels)")
        self.ridge = RidgeDecoder(config)
        self.encode = encode or pixels_from_images
        self.decode = decode or images_from_pixels

    def fit_images(
        self, voxels: np.ndarray, images: np.ndarray, voxels_val: np.ndarray, images_val: np.ndarray
    ) -> Self:
        """Ridge from voxels to the features of images; see `Baseline.fit_images`."""
        check_images(images, "images")
        check_images(images_val, "images_val")
        features, features_val = np.asarray(self.encode(images)), np.asarray(self.encode(images_val))
        self.ridge.fit(voxels, _flat(features), voxels_val, _flat(features_val))
        self.feature_shape_ = features.shape[1:]
        what = "pixels" if self.encode is pixels_from_images else "latents"
        self.tuning = (self.ridge.tuning(what, len(voxels_val)),)
        return self

    def reconstruct(
        self, voxels: np.ndarray, num_samples: int = 1, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Pictures for voxels (n, V): uint8, shape (n, H, W, 3), one a scan."""
        if not hasattr(self, "feature_shape_"):
            raise RuntimeError("this decoder knows 0 images; fit it with fit or fit_images")
        features = self.ridge.predict(voxels)
        images = np.asarray(self.decode(features.reshape(len(features), *self.feature_shape_)))
        check_images(images, "what decode returned")
        return images

    @property
    def num_parameters(self) -> int:
        return self.ridge.num_parameters


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

    def weights(self, alpha: float | np.ndarray) -> np.ndarray:
        """W for one alpha, or for one a target, shape (V, T)."""
        return self.basis @ (self.coordinates / (self.eigenvalues[:, None] + alpha))

    def predictions(self, x: np.ndarray, alphas: np.ndarray) -> Iterator[np.ndarray]:
        """X W at one alpha after the other, each shape (n, T)."""
        projected = (x - self.x_mean) @ self.basis
        for alpha in alphas:
            yield (projected / (self.eigenvalues + alpha)) @ self.coordinates + self.y_mean


def _check_pair(voxels: np.ndarray, targets: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = check_matrix(voxels, f"{split} voxels"), check_matrix(targets, f"{split} targets")
    if len(x) != len(y):
        raise ValueError(f"{split} has {len(x)} voxel rows, {len(y)} target rows, expected as many")
    if split == "train" and len(x) < 2:
        raise ValueError(f"{len(x)} training trial, expected at least 2: centring leaves nothing of one")
    return x, y
