"""A small instance-conditioned GAN: the prior of the IC-GAN comparator, trained on pictures before any brain.

In: pictures of a world, with labels. Out: a generator G(z, h) that paints pictures *like* one given picture, whose
features are h, and a different one for each noise z. After Casanova et al., NeurIPS 2021 (arXiv 2109.05070): a real
example of instance i is any of its k nearest neighbours in feature space, so that G learns the density around i:

    of D:  max(0, 1 - D(x_j, h_i)) + max(0, 1 + D(G(z, h_i), h_i)),   x_j any neighbour of x_i
    of G:  -D(G(z, h_i), h_i)

(the hinge loss). D ends in a projection, D(x, h) = w f(x) + h V f(x) (Miyato & Koyama, 2018), its layers spectrally
normalised (Miyato et al., 2018). Differences: the authors take SwAV's features, learnt without labels, or those of a
ResNet-50 learnt with labels, and a BigGAN. Here a network of this module learns the features, by default with labels,
which makes the comparator stronger; all is sized for 32 pixels and one core. The referee that scores has no part in it.

Ozcelik et al. (IJCNN 2022, arXiv 2202.12692) also need the noise z of a picture, which they search by optimisation.
Here a network learns to read it off G's own pictures: one pass a picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from visdec_lite.baselines.base import check_images
from visdec_lite.fields import COUNT, SIZE, check_fields
from visdec_lite.preprocessing import to_model_range, to_uint8


@dataclass(frozen=True)
class InstanceGANConfig:
    """Sizes of the networks."""

    image_size: int = 32  # pixels a side, 4 x a power of two
    num_classes: int = 50  # categories that the features learn to tell
    feature_dim: int = 64  # of h
    noise_dim: int = 32  # of z
    eye_width: int = 24  # channels of the feature network at full size; doubled at each of two halvings
    generator_width: int = 96  # channels at 4 and 8 pixels; halved at each doubling beyond
    reader_width: int = 16  # of the network that reads the noise, as eye_width

    def __post_init__(self) -> None:
        check_fields(self, {"num_classes": COUNT, **{name: SIZE for name in vars(self) if name != "num_classes"}})
        for name in ("eye_width", "generator_width", "reader_width"):
            width = getattr(self, name)
            if width > 8 and width % 8:
                raise ValueError(f"{name} is {width}, expected at most 8 or a multiple of 8 (eight channels a norm)")
        levels = math.log2(self.image_size / 4) if self.image_size >= 8 else 0.5
        if levels != int(levels):
            raise ValueError(f"image_size is {self.image_size}, expected 4 x a power of two: 8, 16, 32, ...")


class _Trunk(nn.Module):
    """Picture -> maps at 1/1, 1/2, 1/4 and 1/8 of its size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 4 * width]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=1 if before == 3 else 2, padding=1),
                nn.GroupNorm(max(1, after // 8), after),
                nn.ReLU(),
            )
            for before, after in pairwise(channels)
        )
        self.width = channels[-1]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps


class FeatureNetwork(nn.Module):
    """Picture -> instance features; the eye that an ImageNet network is in the paper.

    Not the referee: other layers, another task beside the labels, another random start.
    """

    def __init__(self, config: InstanceGANConfig) -> None:
        super().__init__()
        self.trunk = _Trunk(config.eye_width)
        inside = self.trunk.width * (-(-config.image_size // 8)) ** 2
        self.head = nn.Sequential(nn.Linear(inside, 128), nn.ReLU(), nn.Linear(128, config.feature_dim))
        self.logits = nn.Linear(config.feature_dim, config.num_classes)
        self.register_buffer("mean", torch.zeros(config.feature_dim))  # of the training pictures' features

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images (b, 3, s, s) in [-1, 1] -> maps of four sizes, for perceptual losses."""
        return self.trunk(images)

    def features(self, images: Tensor) -> Tensor:
        """As learnt, shape (b, feature_dim)."""
        return self.head(self.maps(images)[-1].flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        """h: features about their mean, scaled to length 1 as in IC-GAN; shape (b, feature_dim)."""
        return F.normalize(self.features(images) - self.mean, dim=-1)


class _Conditioned(nn.Module):
    """Group normalisation whose scale and shift follow from the condition."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(max(1, channels // 8), channels, affine=False)
        self.affine = nn.Linear(condition, 2 * channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = rearrange(self.affine(condition), "b (two c) -> two b c 1 1", two=2)
        return F.silu(self.norm(x) * (1 + scale) + shift)


class _Doubling(nn.Module):
    """Residual block that doubles the side of its maps."""

    def __init__(self, before: int, after: int, condition: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([_Conditioned(before, condition), _Conditioned(after, condition)])
        self.convs = nn.ModuleList([nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)])
        self.skip = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        new = F.interpolate(self.convs[0](self.norms[0](x, condition)), scale_factor=2.0)
        return F.interpolate(self.skip(x), scale_factor=2.0) + self.convs[1](self.norms[1](new, condition))


class Generator(nn.Module):
    """G: noise and instance -> picture."""

    def __init__(self, config: InstanceGANConfig) -> None:
        super().__init__()
        sides = [4 * 2**level for level in range(int(math.log2(config.image_size / 4)) + 1)]
        channels = [max(8, min(config.generator_width, config.generator_width * 8 // side)) for side in sides]
        condition = config.noise_dim + config.feature_dim
        self.start = nn.Linear(condition, channels[0] * 16)
        self.blocks = nn.ModuleList(_Doubling(before, after, condition) for before, after in pairwise(channels))
        self.paint = nn.Sequential(nn.GroupNorm(1, channels[-1]), nn.SiLU(), nn.Conv2d(channels[-1], 3, 3, padding=1))

    def forward(self, noise: Tensor, instance: Tensor) -> Tensor:
        """z (b, noise_dim), standard normal, and h (b, feature_dim), of length 1 -> images (b, 3, s, s) in [-1, 1]."""
        condition = torch.cat([noise, instance * instance.shape[-1] ** 0.5], dim=-1)  # both of unit variance
        x = rearrange(self.start(condition), "b (c h w) -> b c h w", h=4, w=4)
        for block in self.blocks:
            x = block(x, condition)
        return torch.tanh(self.paint(x))


class Discriminator(nn.Module):
    """D: real for this instance (high) or painted (low)? Needed for training only."""

    def __init__(self, config: InstanceGANConfig, width: int) -> None:
        super().__init__()
        halvings = int(math.log2(config.image_size / 4))
        channels = [width * min(2**level, 4) for level in range(halvings + 1)]
        layers: list[nn.Module] = [spectral_norm(nn.Conv2d(3, width, 3, padding=1)), nn.LeakyReLU(0.2)]
        for before, after in pairwise(channels):
            layers += [spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        self.trunk = nn.Sequential(*layers)
        self.real = spectral_norm(nn.Linear(channels[-1], 1))
        self.project = spectral_norm(nn.Linear(config.feature_dim, channels[-1], bias=False))  # V

    def forward(self, images: Tensor, instance: Tensor) -> Tensor:
        """Images (b, 3, s, s) in [-1, 1] and h (b, feature_dim) -> scores (b,)."""
        f = self.trunk(images).sum((2, 3))
        return self.real(f).squeeze(-1) + (self.project(instance * instance.shape[-1] ** 0.5) * f).sum(-1)


class NoiseReader(nn.Module):
    """Picture and its instance -> the noise that paints it."""

    def __init__(self, config: InstanceGANConfig) -> None:
        super().__init__()
        self.trunk = _Trunk(config.reader_width)
        side = -(-config.image_size // 8)
        inside = self.trunk.width * side * side + config.feature_dim
        self.head = nn.Sequential(nn.Linear(inside, 128), nn.SiLU(), nn.Linear(128, config.noise_dim))

    def forward(self, images: Tensor, instance: Tensor) -> Tensor:
        """Images (b, 3, s, s) in [-1, 1] and h (b, feature_dim) -> z (b, noise_dim)."""
        seen = self.trunk(images)[-1].flatten(1)
        return self.head(torch.cat([seen, instance * instance.shape[-1] ** 0.5], dim=-1))


class InstanceGAN(nn.Module):
    """Feature network, generator and noise reader: what is kept and shipped."""

    def __init__(self, config: InstanceGANConfig) -> None:
        super().__init__()
        self.config = config
        self.eye, self.generator, self.reader = FeatureNetwork(config), Generator(config), NoiseReader(config)

    @property
    def device(self) -> torch.device:
        return self.eye.mean.device

    @torch.no_grad()
    def instances(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """h of uint8 images (n, s, s, 3): float32, shape (n, feature_dim)."""
        self._check_size(images)
        return np.concatenate([self.eye(x).cpu().numpy() for x in self._batches(images, batch_size)])

    @torch.no_grad()
    def noises(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """z of uint8 images (n, s, s, 3): float32, shape (n, noise_dim)."""
        self._check_size(images)
        return np.concatenate([self.reader(x, self.eye(x)).cpu().numpy() for x in self._batches(images, batch_size)])

    @torch.no_grad()
    def paint(self, noise: Tensor, instance: Tensor, batch_size: int = 256) -> np.ndarray:
        """z (n, noise_dim) and h (n, feature_dim) -> pictures, uint8 (n, s, s, 3)."""
        parts = zip(noise.split(batch_size), instance.split(batch_size), strict=True)
        return np.concatenate([to_uint8(self.generator(z.to(self.device), h.to(self.device))) for z, h in parts])

    def _batches(self, images: np.ndarray, batch_size: int) -> Iterator[Tensor]:
        for start in range(0, len(images), batch_size):
            yield to_model_range(images[start : start + batch_size]).to(self.device)

    def _check_size(self, images: np.ndarray) -> None:
        check_images(images, "images")
        if images.shape[1:3] != (self.config.image_size, self.config.image_size):
            raise ValueError(
                f"pictures of {images.shape[1:3]} pixels, this GAN paints {self.config.image_size}; "
                "resize first: preprocessing.resize_images"
            )
