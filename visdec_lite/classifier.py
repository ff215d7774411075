"""A small classifier of pictures: the referee of n-way top-k accuracy.

In: pictures. Out: a probability for each category, or the features behind it. It never sees fMRI and is trained
on rendered pictures only, so it judges every method alike. For photographs its place is taken by a classifier of
ImageNet, see `photograph_classifier`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from visdec_lite.fields import COUNT, SIZE, check_fields
from visdec_lite.preprocessing import to_model_range

GROUPS = 8  # of channels, normalised together


@dataclass(frozen=True)
class ClassifierConfig:
    """Sizes of the referee."""

    num_classes: int  # categories told apart
    image_size: int = 32  # pixels a side
    width: int = 32  # channels of the first layer, a multiple of 8; doubled at each halving of the picture

    def __post_init__(self) -> None:
        check_fields(self, {"num_classes": COUNT, "image_size": SIZE, "width": SIZE})
        if self.width % GROUPS:
            raise ValueError(f"ClassifierConfig.width is {self.width}; expected a multiple of {GROUPS}")


class CategoryClassifier(nn.Module):
    """Three halvings by convolution, then two dense layers."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        widths = [3, config.width, 2 * config.width, 4 * config.width]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(GROUPS, after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, stride=2, padding=1), nn.GroupNorm(GROUPS, after), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        side = -(-config.image_size // 8)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1] * side * side, 256), nn.SiLU())
        self.logits = nn.Linear(256, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (b, 3, h, w) in [-1, 1] -> logits (b, num_classes)."""
        return self.logits(self._layers(images)[-1])

    def _layers(self, images: Tensor) -> list[Tensor]:
        """Images (b, 3, h, w) -> the map after each halving, then the head's 256 features."""
        expected = (3, self.config.image_size, self.config.image_size)
        if images.shape[1:] != expected:
            raise ValueError(f"images have shape {tuple(images.shape)}, expected (batch, {expected})")
        maps, per_halving = [images], 6  # modules of a halving in self.features
        for start in range(0, len(self.features), per_halving):
            maps.append(self.features[start : start + per_halving](maps[-1]))
        return [*maps[1:], self.head(maps[-1])]

    @torch.no_grad()
    def classify(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """uint8 images (n, h, w, 3) -> probabilities (n, num_classes), float64."""
        device = next(self.parameters()).device
        parts = [
            self(to_model_range(images[start : start + batch_size]).to(device)).double().softmax(-1).cpu().numpy()
            for start in range(0, len(images), batch_size)
        ]
        return np.concatenate(parts)

    @torch.no_grad()
    def feature_layers(self, images: np.ndarray, batch_size: int = 256) -> list[np.ndarray]:
        """uint8 images (n, h, w, 3) -> maps after each halving (n, channels, h', w'), then 256 features (n, 256).

        These are `features` for `perceptual`. They come from the judge of n-way accuracy itself and know only its
        categories: agreement between the two is no second opinion.
        """
        device = next(self.parameters()).device
        batches = [
            self._layers(to_model_range(images[start : start + batch_size]).to(device))
            for start in range(0, len(images), batch_size)
        ]
        return [torch.cat(layer).cpu().numpy() for layer in zip(*batches, strict=True)]
