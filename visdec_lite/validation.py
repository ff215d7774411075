"""What may come in: lists, tensors and arrays, as arrays of the kind that is meant, or a sentence with what is wrong.

Enters: what a caller gave, and what it is called in messages. Leaves: the same values as numpy arrays in this machine's
byte order, copied only where they must be. Nothing is rounded, cut or lost on the way: complex numbers, truth values
where numbers are meant, masked entries and fractions where whole numbers are meant are refused, each with its way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

LARGEST = float(np.finfo(np.float32).max)  # 3.4e38; data sets hold float32
LARGEST_NUMBER = 2**62  # of a label, stimulus, run, ...; int64 with room to count on


def as_array(values: Any, what: str) -> np.ndarray:
    """A list, tensor (of any device, with or without gradient) or array as an array, of whatever kind it is.

    Raises:
        ValueError: rows of different lengths, masked entries, or nothing an array can be made of.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.dtype.itemsize < 4:  # numpy has no bfloat16
            values = values.float()
    if np.ma.is_masked(values):
        raise ValueError(
            f"{np.ma.count_masked(values)} of {values.size} entries of {what} are masked, expected none; "
            "leave them out, or mark them: values.filled(np.nan)"
        )
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} cannot be taken as an array ({error}); give an array, tensor or list") from error
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def voxel_table(voxels: Any, what: str = "voxels") -> np.ndarray:
    """Real numbers within the range of float32, shape (trials, voxels); NaN and infinity may be among them."""
    table = as_array(voxels, what)
    if table.ndim != 2:
        raise ValueError(f"{what} have shape {table.shape}, expected (trials, voxels)")
    if table.dtype.kind not in "fiu":
        raise ValueError(f"{what} are {table.dtype}, expected real numbers, such as float32")
    if table.dtype.kind == "f" and table.itemsize > 4:
        beyond = np.isfinite(table) & (np.abs(table) > LARGEST)
        if beyond.any():
            raise ValueError(
                f"{beyond.sum()} of {table.size} numbers in {what} are beyond float32 ({table[beyond][0]:.3g}, "
                f"expected at most {LARGEST:.3g}); no scan has such: look for a wrong byte order or a damaged file"
            )
    return table


def expect_finite(table: np.ndarray, what: str = "voxels") -> None:
    """No NaN and no infinity in a table (trials, voxels)."""
    bad = np.flatnonzero(~np.isfinite(table).all(axis=0))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {table.shape[1]} {what} hold NaN or infinity (first: column {bad[0]}); "
            "drop them in every split: voxels[:, preprocessing.valid_voxels(voxels)]"
        )


def one_a_trial(values: Any, trials: int, what: str) -> np.ndarray:
    """Whole numbers, one a trial, int64, shape (trials,).

    A single row or column of numbers kept as floats, as MATLAB does, is taken; fractions and NaN are not.
    """
    numbers = as_array(values, what)
    if numbers.ndim == 2 and 1 in numbers.shape:
        numbers = numbers.ravel()
    if numbers.ndim != 1:
        raise ValueError(
            f"{what} have shape {numbers.shape}, expected ({trials},), one whole number a trial; "
            "of a table with a single 1 a row (one-hot) take values.argmax(axis=1)"
        )
    if len(numbers) != trials:
        raise ValueError(f"{len(numbers)} {what} for {trials} rows of voxels; every trial needs exactly one")
    whole = numbers.dtype.kind in "iu" or (numbers.dtype.kind == "f" and bool((numbers == np.rint(numbers)).all()))
    if not whole:
        raise ValueError(
            f"{what} are {numbers.dtype}, expected whole numbers; of names take "
            "numpy.unique(values, return_inverse=True)[1]"
        )
    if trials and not -LARGEST_NUMBER <= float(numbers.min()) <= float(numbers.max()) <= LARGEST_NUMBER:
        raise ValueError(f"{what} span {numbers.min()} to {numbers.max()}, expected at most 2**62 in size")
    return numbers.astype(np.int64, copy=False)


def rgb_images(images: Any, what: str = "images") -> np.ndarray:
    """Pictures at rest: uint8 in 0..255, shape (n, height, width, 3), height and width at least 1."""
    pictures = as_array(images, what)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3 or 0 in pictures.shape[1:]:
        raise ValueError(
            f"{what} are {pictures.dtype} {pictures.shape}, expected uint8 (n, height, width, 3); "
            "for other ranges or grey images: preprocessing.as_uint8_rgb(images, value_range=(0, 1))"
        )
    return pictures


def region_masks(rois: Mapping[str, Any], num_voxels: int) -> dict[str, np.ndarray]:
    """Region -> boolean mask, shape (num_voxels,)."""
    masks = {region: as_array(mask, f"ROI {region!r}") for region, mask in rois.items()}
    for region, mask in masks.items():
        if mask.dtype != bool or mask.shape != (num_voxels,):
            raise ValueError(
                f"ROI {region!r} is {mask.dtype} {mask.shape}, expected a boolean mask of shape ({num_voxels},)"
            )
    return masks
