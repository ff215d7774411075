"""Voxels as a model wants them, the regions they belong to, and where they lie.

In: a data set, as loaded or padded to whole patches. Out: one scan of a length that the model reads, the regions that
are there, and positions in mm of MNI space where they are known.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import nn

from visdec_lite.datasets import BrainDataset
from visdec_lite.preprocessing import pad_voxels


def fitted(voxels: np.ndarray, num_voxels: int, patch_size: int) -> np.ndarray:
    """Scans (n, V) padded to the whole patches of a model, as `chain.ready_for` pads; untouched if they fit.

    Raises:
        ValueError: they belong to another model.
    """
    if voxels.shape[1] + (-voxels.shape[1] % patch_size) != num_voxels:
        raise ValueError(
            f"the scans have {voxels.shape[1]} voxels, the model reads {num_voxels}; "
            "use the data set and the regions it was trained with"
        )
    return voxels if voxels.shape[1] == num_voxels else pad_voxels(voxels, patch_size)[0]


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes; what it is given goes there, what is shown comes back."""
    return next(model.parameters()).device


def region_masks(dataset: BrainDataset, num_voxels: int) -> dict[str, np.ndarray]:
    """Region -> bool (num_voxels,); voxels of padding are in none."""
    return {name: np.pad(mask, (0, num_voxels - len(mask))) for name, mask in dataset.rois.items()}


def known_positions(dataset: BrainDataset, positions: np.ndarray | None = None) -> np.ndarray | None:
    """Where each voxel of the data set lies, mm in MNI space, (num_voxels, 3); None if nobody knows.

    Args:
        positions: of real voxels, from their mask and affine; the simulated cortex has places of its own.

    Raises:
        ValueError: positions of another shape.
    """
    from visdec_lite.datasets.scanner import CENTRES, voxel_positions

    if positions is not None:
        if positions.shape != (dataset.num_voxels, 3):
            raise ValueError(
                f"positions have shape {positions.shape}, expected ({dataset.num_voxels}, 3): x, y and z in mm for "
                "every voxel of the data set"
            )
        return positions
    members = np.sum([mask for mask in dataset.rois.values()], axis=0)
    if not dataset.simulated or not set(dataset.rois) <= set(CENTRES) or (members != 1).any():
        return None
    return voxel_positions(dataset.rois)


VOXEL = 3  # mm a side of what is drawn
VIEWS = (("from the right", 1, 2), ("from behind", 0, 2), ("from above", 0, 1))  # axes of MNI space: across, up
Extent = tuple[float, float, float, float]


@cache
def silhouettes() -> list[tuple[str, int, int, np.ndarray, Extent]]:
    """The MNI brain from three sides: view, axis across, axis up, filled shape (bool, 3 mm a pixel, bottom row first),
    and its left, right, bottom and top edge in mm."""
    from nilearn.datasets import load_mni152_brain_mask

    mask = load_mni152_brain_mask(resolution=VOXEL)
    inside, affine = np.asarray(mask.dataobj) > 0, mask.affine
    filled = np.argwhere(inside)
    first, last = filled.min(axis=0), filled.max(axis=0) + 1
    low, high = (affine[:3, :3] @ (cell - 0.5) + affine[:3, 3] for cell in (first, last))
    inside = inside[tuple(map(slice, first, last))]
    found = []
    for name, across, up in VIEWS:
        (away,) = {0, 1, 2} - {across, up}
        found.append((name, across, up, inside.any(axis=away).T, (low[across], high[across], low[up], high[up])))
    return found
