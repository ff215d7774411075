"""Between the scanner and the model: each step has a name, does one thing and returns what it did.

Enters: voxels as recorded, float (trials, voxels), and images as stored. Leaves: voxels z-scored with the
statistics of the training split, with the lag, the regions and the length a model needs, and images as
uint8 RGB at rest or float32 in [-1, 1] in a model. Nothing is padded, cut or re-scaled on the quiet: a
loader or a stage calls the step, and the array that comes back differs in that one respect. Every step takes arrays,
lists and tensors and gives arrays, unless its text says otherwise; NaN and infinity end in an error, not in the result.

Sources: z-scoring and wrap padding as in Sun et al. (2023), arXiv:2305.17214; the lag by whole volumes as
in Miyawaki et al. (2008), Neuron 60.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from visdec_lite.validation import as_array, expect_finite, one_a_trial, region_masks, rgb_images, voxel_table

if TYPE_CHECKING:  # torch is imported where images meet a model, so that reading data does not need it
    from torch import Tensor

ROUNDING = 1e-6  # float32 carries about 7 digits: a relative spread below this is rounding, not signal
SMALLEST = float(np.finfo(np.float32).tiny)  # and numbers down to 1e-38


def valid_voxels(voxels: np.ndarray) -> np.ndarray:
    """Which voxels carry a signal: finite in every trial and not constant.

    Args:
        voxels: responses, shape (trials, voxels).

    Returns:
        Boolean mask, shape (voxels,). Fit it on train and use the same columns everywhere.
    """
    voxels = voxel_table(voxels)
    finite = np.isfinite(voxels).all(axis=0)
    spread = np.zeros(voxels.shape[1])
    largest = np.zeros(voxels.shape[1])
    kept = voxels[:, finite].astype(np.float64)
    spread[finite] = np.ptp(kept, axis=0) if len(kept) else 0.0
    largest[finite] = np.abs(kept).max(axis=0, initial=0.0)
    return finite & (spread > np.maximum(ROUNDING * largest, SMALLEST))


@dataclass(frozen=True, eq=False)
class ZScore:
    """Mean and standard deviation of every voxel, fitted on the training split only.

    Statistics that have seen the test trials leak them into the model; so `fit` takes train, and `apply`
    takes whichever split comes next.

    Attributes:
        mean, std: in the units of the voxels fitted on, float64, shape (voxels,).
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, voxels: np.ndarray) -> ZScore:
        """Statistics of training voxels, shape (trials, voxels), at least 2 trials.

        Raises:
            ValueError: a voxel is NaN, infinite or constant. Its z-score does not exist; drop it first.
        """
        voxels = voxel_table(voxels)
        if len(voxels) < 2:
            raise ValueError(f"{len(voxels)} trials to fit z-scores on, at least 2 are needed for a spread")
        _expect_valid(voxels, where="the training voxels")
        exact = voxels.astype(np.float64)
        return cls(mean=exact.mean(axis=0), std=exact.std(axis=0))

    def apply(self, voxels: np.ndarray) -> np.ndarray:
        """Z-scores in units of the training spread, float32, same shape (trials, voxels)."""
        voxels = self._columns(voxels)
        with np.errstate(all="ignore"):  # what comes of it is looked at next
            scores = ((voxels - self.mean) / self.std).astype(np.float32)
        expect_finite(scores, "z-scored voxels")
        return scores

    def invert(self, voxels: np.ndarray) -> np.ndarray:
        """Z-scores back to the units of the scanner, float32, same shape (trials, voxels)."""
        voxels = self._columns(voxels)
        with np.errstate(all="ignore"):
            signal = (voxels * self.std + self.mean).astype(np.float32)
        expect_finite(signal)
        return signal

    def _columns(self, voxels: np.ndarray) -> np.ndarray:
        voxels = voxel_table(voxels)
        if voxels.shape[1] != len(self.mean):
            raise ValueError(
                f"{voxels.shape[1]} voxels, but the z-scores were fitted on {len(self.mean)}; "
                "take the same columns of every split before fitting"
            )
        return voxels


def zscore_runs(voxels: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Z-score each run with its own mean and spread, which removes drift and gain from run to run.

    Every run uses only itself, so no statistic crosses from train to test while no run is shared by both.

    Args:
        voxels: responses, shape (trials, voxels).
        run: run number of each trial, integers, shape (trials,).

    Returns:
        float32, same shape; mean 0 and standard deviation 1 for every voxel within every run.
    """
    voxels = voxel_table(voxels)
    run = one_a_trial(run, len(voxels), "run numbers")
    out = np.empty(voxels.shape, dtype=np.float32)
    for number in np.unique(run):
        rows = run == number
        if rows.sum() < 2:
            raise ValueError(f"run {number} has 1 trial, at least 2 are needed; leave the run out")
        _expect_valid(voxels[rows], where=f"run {number}")
        out[rows] = ZScore.fit(voxels[rows]).apply(voxels[rows])
    return out


def pad_voxels(voxels: np.ndarray, multiple: int, mode: Literal["wrap", "zero"] = "wrap") -> tuple[np.ndarray, int]:
    """Lengthen each scan to the next multiple of the patch size.

    Args:
        voxels: shape (trials, voxels).
        multiple: patch size of the model, at least 1.
        mode: "wrap" goes on with the scan's own first voxels, as the paper does, so that the last patch
            looks like fMRI; "zero" goes on with zeros, the mean of z-scored voxels.

    Returns:
        Padded voxels, shape (trials, next multiple), and the original count that `unpad` takes.
    """
    voxels = voxel_table(voxels)
    expect_finite(voxels)
    if multiple < 1:
        raise ValueError(f"multiple is {multiple}, expected the patch size, 1 or more")
    if mode not in ("wrap", "zero"):
        raise ValueError(f"mode is {mode!r}, expected 'wrap' or 'zero'")
    count = voxels.shape[1]
    if count == 0:
        raise ValueError("scans of 0 voxels, expected at least 1; there is nothing to go on with")
    width = ((0, 0), (0, -count % multiple))
    padded = np.pad(voxels, width, mode="wrap") if mode == "wrap" else np.pad(voxels, width)
    return padded, count


def unpad(voxels: np.ndarray, count: int) -> np.ndarray:
    """The first `count` voxels of padded scans, shape (..., count); a tensor stays one, with its gradient."""
    voxels = voxels if hasattr(voxels, "detach") else as_array(voxels, "voxels")
    length = voxels.shape[-1] if voxels.ndim else 0
    if not 0 < count <= length:
        raise ValueError(f"{count} voxels asked of {length}; give the count pad_voxels returned")
    return voxels[..., :count]


def roi_mask(rois: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Voxels that lie in any of the named regions, boolean, shape (voxels,)."""
    if isinstance(names, str):
        names = [names]
    unknown = [name for name in names if name not in rois]
    if unknown or not names:
        asked = f"no region {unknown}" if unknown else "0 regions named, at least 1 is needed"
        raise ValueError(f"{asked}; this data set has {sorted(rois)}")
    masks = region_masks(rois, as_array(rois[names[0]], names[0]).size)
    mask = np.any([masks[name] for name in names], axis=0)
    if not mask.any():
        sizes = {name: int(voxels.sum()) for name, voxels in masks.items()}
        raise ValueError(f"0 voxels in {list(names)}, at least 1 is needed; sizes: {sizes}")
    return mask


def select_rois(voxels: np.ndarray, rois: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Columns of `voxels` (trials, voxels) that lie in any named region, in their old order, each once."""
    voxels = voxel_table(voxels)
    mask = roi_mask(rois, names)
    if mask.shape != voxels.shape[1:]:
        raise ValueError(
            f"ROI masks cover {mask.size} voxels, the scans have {voxels.shape[1]}; select regions before padding"
        )
    return voxels[:, mask]


def shift_lag(volumes: np.ndarray, labels: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Pair each label with the volume `lag` TRs later, when the blood has answered (it peaks after 4 to 6 s).

    Call it once a run: across a border between runs the pairs would mean nothing.

    Args:
        volumes: one run in order of time, shape (volumes, ...).
        labels: what was shown during each volume, shape (volumes, ...).
        lag: whole volumes, 0 or more; at TR 2 s a lag of 2 is 4 s.

    Returns:
        `volumes[lag:]` and `labels[:-lag]`: `lag` fewer rows of both.
    """
    volumes, labels = np.atleast_1d(as_array(volumes, "volumes")), np.atleast_1d(as_array(labels, "labels"))
    if len(volumes) != len(labels):
        raise ValueError(f"{len(volumes)} volumes and {len(labels)} labels; every volume needs exactly one")
    if not 0 <= lag < len(volumes):
        raise ValueError(f"lag is {lag} volumes, expected 0 to {len(volumes) - 1} in a run of {len(volumes)}")
    return volumes[lag:], labels[: len(labels) - lag]


def as_uint8_rgb(images: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Images of any stated range as uint8 RGB; grey ones get three equal channels.

    Args:
        images: shape (n, height, width), (n, height, width, 1) or (n, height, width, 3).
        value_range: what black and white are in `images`, such as (0, 1) or (0, 255). Stated, never
            guessed: a dark image in 0..255 may hold no value above 1.

    Returns:
        uint8 in 0..255, shape (n, height, width, 3).
    """
    low, high = value_range
    if not low < high:
        raise ValueError(f"value_range is {value_range}, expected (black, white) with black < white")
    images = as_array(images, "images")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape or images.dtype.kind not in "fiub":
        raise ValueError(
            f"images are {images.dtype} {images.shape}, expected real numbers (n, height, width[, 1 or 3]), none empty"
        )
    if not (images.min() >= low and images.max() <= high):  # written so that NaN fails too
        raise ValueError(
            f"images span {images.min()} to {images.max()}, the stated range is {low} to {high}; "
            "state the range they are stored in"
        )
    scaled = np.rint((images.astype(np.float64) - low) * (255.0 / (high - low))).astype(np.uint8)
    return np.repeat(scaled, 3, axis=3) if images.shape[3] == 1 else scaled


def to_model_range(images: np.ndarray | Tensor) -> Tensor:
    """Images at rest, uint8 (n, height, width, 3), as float32 in [-1, 1], shape (n, 3, height, width)."""
    import torch
    from einops import rearrange

    if not torch.is_tensor(images):
        images = torch.tensor(rgb_images(images))
    elif images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        rgb_images(images)  # says so; a tensor that is right stays on its device
    return rearrange(images, "n h w c -> n c h w").contiguous().float() / 127.5 - 1.0


def to_uint8(images: Tensor) -> np.ndarray:
    """Images from a model, float in [-1, 1] (n, 3, height, width), as uint8 (n, height, width, 3).

    Samplers overshoot a little: values beyond [-1, 1] are clipped to black and white. NaN is an error, and infinity.
    """
    import torch
    from einops import rearrange

    images = images if torch.is_tensor(images) else torch.tensor(as_array(images, "images"))
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype} {tuple(images.shape)}, expected floats (n, 3, height, width) in [-1, 1]"
        )
    broken = int((~images.isfinite()).sum())
    if broken:
        raise ValueError(
            f"{broken} of {images.numel()} pixel values are NaN or infinite, none can be shown; "
            "sample in float32, or look for a diverged training"
        )
    scaled = ((images.detach().float() + 1.0) * 127.5).round().clamp(0, 255)
    return rearrange(scaled.byte().cpu(), "n c h w -> n h w c").contiguous().numpy()


def resize_images(images: np.ndarray, size: int) -> np.ndarray:
    """Square uint8 images (n, side, side, 3) at another side: area average downwards, bicubic upwards."""
    import torch
    from torch.nn.functional import interpolate

    images = rgb_images(images)
    height, width = images.shape[1:3]
    if height != width:
        raise ValueError(
            f"images are {height} x {width}, expected square ones; "
            f"pad first: pad_images(images, size={max(height, width)})"
        )
    if size < 1:
        raise ValueError(f"size is {size}, expected 1 pixel or more")
    if size == height:
        return images.copy()
    pixels = torch.tensor(images).permute(0, 3, 1, 2).float()
    resized = interpolate(pixels, size=size, mode="area" if size < height else "bicubic")
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def pad_images(images: np.ndarray, size: int, value: int = 0) -> np.ndarray:
    """Centre uint8 images (n, height, width, 3) on a square of `size`; an odd rest goes right and below.

    Args:
        value: grey level of the border, 0 (black) to 255 (white).
    """
    images = rgb_images(images)
    height, width = images.shape[1:3]
    if max(height, width) > size:
        raise ValueError(f"images are {height} x {width}, larger than the {size} to pad to; first: resize_images")
    if not 0 <= value <= 255:
        raise ValueError(f"border value is {value}, expected a grey level from 0 to 255")
    top, left = (size - height) // 2, (size - width) // 2
    border = ((0, 0), (top, size - height - top), (left, size - width - left), (0, 0))
    return np.pad(images, border, constant_values=value)


def _expect_valid(voxels: np.ndarray, where: str) -> None:
    bad = np.flatnonzero(~valid_voxels(voxels))
    if len(bad):
        broken = int((~np.isfinite(voxels).all(axis=0)).sum())
        raise ValueError(
            f"{len(bad)} of {voxels.shape[1]} voxels in {where} have no z-score: {broken} hold NaN or "
            f"infinity, {len(bad) - broken} are constant (first: column {bad[0]}); "
            "drop them in every split: voxels[:, valid_voxels(train)]"
        )
