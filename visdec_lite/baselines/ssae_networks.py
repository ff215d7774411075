"""The two networks of SS-AE, sized for 32 pixels by default and for any size by their arguments.

In: a picture, out: a scan (`Encoder`); or the other way round (`Decoder`). Where maps meet voxels, each voxel has a
place and a feature of its own: x_v = sum over places p and channels c of place[v, p] feature[v, c] map[c, p]. So a
voxel looks somewhere, for something, with P + C numbers in place of P x C (Klindt et al., NeurIPS 2017; Gaziv et al.
have such space-feature layers too).
"""

from __future__ import annotations

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

COARSE = 4  # maps that meet voxels have a quarter of the picture's side


class _VoxelsAndMaps(nn.Module):
    """For each voxel a place and a feature: the readout of E and, turned round, the first layer of D."""

    def __init__(self, num_voxels: int, channels: int, places: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(num_voxels, places) / places**0.5)
        self.feature = nn.Parameter(torch.randn(num_voxels, channels) / channels**0.5)

    def read(self, maps: Tensor) -> Tensor:
        """Maps (b, c, h, w) -> voxels (b, V)."""
        seen = rearrange(maps, "b c h w -> (b c) (h w)") @ self.place.T  # one product of two matrices is fastest
        return einsum(rearrange(seen, "(b c) v -> b c v", b=len(maps)), self.feature, "b c v, v c -> b v")

    def write(self, voxels: Tensor) -> Tensor:
        """Voxels (b, V) -> maps (b, c, places), about unit variance for z-scored voxels."""
        scale = (self.place.shape[1] * self.feature.shape[1] / len(self.place)) ** 0.5
        asked = rearrange(einsum(scale * voxels, self.feature, "b v, v c -> b c v"), "b c v -> (b c) v")
        return rearrange(asked @ self.place, "(b c) p -> b c p", b=len(voxels))


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // 4, channels)


class Encoder(nn.Module):
    """E: picture -> scan."""

    def __init__(self, num_voxels: int, image_size: int, width: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2), _norm(width), nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), _norm(2 * width), nn.SiLU(),
            nn.Conv2d(2 * width, width, 3, padding=1), _norm(width), nn.SiLU(),
        )  # fmt: skip
        self.voxels = _VoxelsAndMaps(num_voxels, width, (image_size // COARSE) ** 2)
        self.bias = nn.Parameter(torch.zeros(num_voxels))

    def forward(self, images: Tensor) -> Tensor:
        """Images (b, 3, s, s) in [-1, 1] -> z-scored voxels (b, V)."""
        return self.voxels.read(self.trunk(images)) + self.bias


class Decoder(nn.Module):
    """D: scan -> picture."""

    def __init__(self, num_voxels: int, image_size: int, width: int) -> None:
        super().__init__()
        self.side = image_size // COARSE
        self.voxels = _VoxelsAndMaps(num_voxels, width, self.side**2)
        double = nn.Upsample(scale_factor=2)
        self.trunk = nn.Sequential(
            _norm(width), nn.SiLU(), nn.Conv2d(width, 2 * width, 3, padding=1),
            _norm(2 * width), nn.SiLU(), double, nn.Conv2d(2 * width, width, 3, padding=1),
            _norm(width), nn.SiLU(), double, nn.Conv2d(width, width // 2, 3, padding=1),
            nn.SiLU(), nn.Conv2d(width // 2, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, voxels: Tensor) -> Tensor:
        """z-scored voxels (b, V) -> images (b, 3, s, s) in [-1, 1]."""
        maps = rearrange(self.voxels.write(voxels), "b c (h w) -> b c h w", h=self.side)
        return torch.tanh(self.trunk(maps))
