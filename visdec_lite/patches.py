"""From a vector of voxels to a sequence of patches, and back.

A transformer reads a sequence of tokens. The voxel vector is cut into patches of neighbouring voxels, as an
image is cut into squares. Each patch becomes one token, a sine-cosine code tells its place, and most
patches are hidden, so that the model must infer them from the rest.

Enters: voxels ``(b, num_voxels)`` or images ``(b, 3, height, width)``.
Leaves: patches ``(b, num_patches, values)``.
Masks are boolean, ``(b, num_patches)``; True (1) means *hidden*.

Sources: Sun et al., "Contrast, Attend and Diffuse", NeurIPS 2023, section 3; He et al., "Masked autoencoders
are scalable vision learners", CVPR 2022 (masking); Vaswani et al., NeurIPS 2017 (positions).
"""

import torch
from einops import rearrange, repeat
from torch import Tensor

from visdec_lite.fields import check_hides


def patchify_voxels(voxels: Tensor, patch_size: int) -> Tensor:
    """Cut each voxel vector into patches of neighbouring voxels.

    Args:
        voxels: shape (b, num_voxels); num_voxels is a multiple of patch_size.
        patch_size: voxels per patch.

    Returns:
        Patches, shape (b, num_voxels // patch_size, patch_size).

    Raises:
        ValueError: the voxels do not split evenly.
    """
    if voxels.shape[-1] % patch_size:
        raise ValueError(
            f"{voxels.shape[-1]} voxels do not split into patches of {patch_size}; "
            f"pad first: preprocessing.pad_voxels(voxels, multiple={patch_size})"
        )
    return rearrange(voxels, "b (n p) -> b n p", p=patch_size)


def unpatchify_voxels(patches: Tensor) -> Tensor:
    """Put patches (b, n, patch_size) back into voxel vectors (b, n * patch_size)."""
    return rearrange(patches, "b n p -> b (n p)")


def patchify_image(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into squares, row by row from the top left.

    Args:
        images: shape (b, channels, height, width); both sides are multiples of patch_size.
        patch_size: side of a square in pixels.

    Returns:
        Patches, shape (b, rows * columns, channels * patch_size**2); a patch lists its pixels row by row,
        the channels of a pixel side by side.

    Raises:
        ValueError: the image does not split evenly.
    """
    height, width = images.shape[-2:]
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"an image of {height} x {width} pixels does not split into squares of {patch_size}; "
            f"resize it to a multiple of {patch_size} or choose another patch size"
        )
    return rearrange(images, "b c (row p) (col q) -> b (row col) (p q c)", p=patch_size, q=patch_size)


def unpatchify_image(patches: Tensor, patch_size: int, channels: int = 3) -> Tensor:
    """Put the squares back in their places: the inverse of `patchify_image`, for square images.

    Args:
        patches: shape (b, side * side, channels * patch_size**2).
        patch_size: side of a square in pixels.
        channels: of the image.

    Returns:
        Images, shape (b, channels, side * patch_size, side * patch_size).

    Raises:
        ValueError: the patches have another size, or do not form a square.
    """
    number, values = patches.shape[1:]
    side = round(number**0.5)
    if side**2 != number or values != channels * patch_size**2:
        raise ValueError(
            f"{number} patches of {values} values do not form a square image; expected for example {side**2} "
            f"patches of {channels} * {patch_size} * {patch_size} = {channels * patch_size**2} values"
        )
    return rearrange(patches, "b (row col) (p q c) -> b c (row p) (col q)", row=side, p=patch_size, q=patch_size)


def sincos_positions_1d(length: int, dim: int) -> Tensor:
    """A distinct, fixed code for every place in a sequence: sines and cosines from fast to slow.

    Args:
        length: number of places.
        dim: width of the code, even; half sines, half cosines.

    Returns:
        Codes in [-1, 1], float32, shape (length, dim). Wavelengths grow from 2 pi to 10000 * 2 pi places.

    Raises:
        ValueError: dim is odd.
    """
    if dim % 2:
        raise ValueError(f"sine-cosine positions need an even width, got {dim}; try {dim + 1}")
    frequency = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def sincos_positions_2d(side: int, dim: int) -> Tensor:
    """The same for the squares of an image, row by row: half of the code tells the column, half the row.

    Args:
        side: squares along one side.
        dim: width of the code, a multiple of 4.

    Returns:
        Codes in [-1, 1], float32, shape (side * side, dim).

    Raises:
        ValueError: dim is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"2-D positions need a multiple of 4 as width, got {dim}; try {dim + 4 - dim % 4}")
    place = sincos_positions_1d(side, dim // 2)
    column = repeat(place, "col d -> (row col) d", row=side)
    row = repeat(place, "row d -> (row col) d", col=side)
    return torch.cat([column, row], dim=1)


def random_mask(
    batch: int, length: int, ratio: float, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Choose at random which patches to hide: every set of the right size is equally likely.

    Args:
        batch: number of rows, masked independently.
        length: patches a row.
        ratio: share of patches to hide, in (0, 1); exactly round(ratio * length) are hidden in each row.
        generator: on the CPU, so that the same seed gives the same masks on every device.
        device: where the mask is needed.

    Returns:
        Mask, bool, shape (batch, length), True = hidden.

    Raises:
        ValueError: nothing would be hidden, or nothing kept.
    """
    hidden = check_hides(ratio, length)
    permutation = torch.rand(batch, length, generator=generator).argsort(dim=1)
    return (permutation < hidden).to(device)


def kept_indices(mask: Tensor) -> Tensor:
    """Where the kept patches are, in order.

    Args:
        mask: bool, shape (b, num_patches), True = hidden; every row keeps the same number.

    Returns:
        Indices, int64, shape (b, num_kept), ascending.

    Raises:
        ValueError: rows keep different numbers of patches.
    """
    kept = (~mask).sum(dim=1)
    if (kept != kept[0]).any():
        raise ValueError(
            f"rows keep between {int(kept.min())} and {int(kept.max())} patches, expected the same number in "
            "each; draw masks with random_mask"
        )
    return rearrange((~mask).nonzero()[:, 1], "(b k) -> b k", b=len(mask))


def keep_patches(patches: Tensor, mask: Tensor) -> Tensor:
    """Drop the hidden patches.

    Args:
        patches: shape (b, num_patches, d).
        mask: bool, shape (b, num_patches), True = hidden.

    Returns:
        The kept patches in order, shape (b, num_kept, d).

    Raises:
        ValueError: patches and mask do not match.
    """
    if mask.shape != patches.shape[:2]:
        raise ValueError(f"a mask of {tuple(mask.shape)} does not fit {tuple(patches.shape[:2])} (rows, patches)")
    index = repeat(kept_indices(mask), "b k -> b k d", d=patches.shape[-1])
    return patches.gather(1, index)


def restore_patches(kept: Tensor, mask: Tensor, filler: Tensor) -> Tensor:
    """Put kept patches back in their places and a filler in the hidden ones: the inverse of `keep_patches`.

    Args:
        kept: shape (b, num_kept, d).
        mask: bool, shape (b, num_patches), the mask they were kept by.
        filler: shape (d,) or (1, 1, d), stands in every hidden place.

    Returns:
        Shape (b, num_patches, d).

    Raises:
        ValueError: the mask keeps another number of patches than there are.
    """
    index = repeat(kept_indices(mask), "b k -> b k d", d=kept.shape[-1])
    if index.shape != kept.shape:
        raise ValueError(
            f"got {tuple(kept.shape[:2])} (rows, kept patches), but the mask keeps {tuple(index.shape[:2])}; "
            "pass the mask that the patches were kept by"
        )
    return filler.to(kept.dtype).expand(*mask.shape, -1).scatter(1, index, kept)
