"""Scores in feature space: closed forms, torchmetrics, brute force, and the bias of the Frechet distance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from visdec_lite.metrics import feature_identification, identification
from visdec_lite.perceptual import (
    feature_matrices,
    feature_vectors,
    frechet_distance,
    kernel_distance,
    kernel_distance_error,
    perceptual_distance,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def two_maps(images: np.ndarray) -> list[torch.Tensor]:
    """Colours, and the mean colours of 2 x 2 blocks beside a constant."""
    x = torch.tensor(images).permute(0, 3, 1, 2).float()
    half = torch.nn.functional.avg_pool2d(x, 2)
    return [x.requires_grad_(), torch.cat([half, torch.full_like(half[:, :1], 50.0)], dim=1)]


def mean_colour(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=(1, 2))


# The perceptual distance


def test_perceptual_distance_is_the_formula_written_out():
    truth, made = noise(3, 4, 6), noise(3, 2, 4, 6, seed=1)
    found = perceptual_distance(made, truth, two_maps)
    for i in range(3):
        distances = []
        for s in range(2):
            layers = []
            for a, b in zip(two_maps(made[i, s : s + 1]), two_maps(truth[i : i + 1]), strict=True):
                a, b = a[0].detach().double().numpy(), b[0].detach().double().numpy()
                positions = [
                    np.sum((a[:, y, x] / np.linalg.norm(a[:, y, x]) - b[:, y, x] / np.linalg.norm(b[:, y, x])) ** 2)
                    for y, x in itertools.product(range(a.shape[1]), range(a.shape[2]))
                ]
                layers.append(np.mean(positions))
            distances.append(np.mean(layers))
        assert found[i] == pytest.approx(np.mean(distances), rel=1e-5)


def test_perceptual_distance_of_known_vectors():
    """Equal directions 0 whatever their length, orthogonal ones 2, opposite ones 4, nothing against something 1."""
    table = {0: [1.0, 0.0], 1: [5.0, 0.0], 2: [0.0, 3.0], 3: [-2.0, 0.0], 4: [0.0, 0.0]}

    def look_up(images: np.ndarray) -> np.ndarray:
        return np.array([table[int(image[0, 0, 0])] for image in images])

    pictures = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    first = np.repeat(pictures[:1], 5, axis=0)
    np.testing.assert_allclose(perceptual_distance(pictures, first, look_up), [0, 0, 2, 4, 1], atol=1e-9)
    as_map = perceptual_distance(pictures, first, lambda images: look_up(images)[:, :, None, None])
    np.testing.assert_allclose(as_map, [0, 0, 2, 4, 1], atol=1e-9)


def test_vectors_beside_maps_do_not_enter_the_distance_and_the_last_layer_is_the_vector():
    truth, made = noise(4, 4, 4), noise(4, 4, 4, seed=1)
    maps = perceptual_distance(made, truth, two_maps)
    both = feature_matrices(made, truth, lambda images: [*two_maps(images), mean_colour(images)])
    np.testing.assert_array_equal(np.einsum("isi->is", both["lpips"])[:, 0], maps)
    for i, j in itertools.product(range(4), repeat=2):
        r = np.corrcoef(mean_colour(made)[i], mean_colour(truth)[j])[0, 1]
        assert both["features"][i, 0, j] == pytest.approx(r, abs=1e-12)
    averaged = feature_vectors(two_maps, truth)
    np.testing.assert_allclose(averaged, np.column_stack([mean_colour(truth), np.full(4, 50.0)]), rtol=1e-6)


def test_a_constant_vector_correlates_with_nothing():
    truth = noise(3, 4, 4)
    flat = feature_matrices(truth, truth, lambda images: np.full((len(images), 7), 0.1))
    assert (flat["features"] == 0).all() and (flat["lpips"] == 0).all()


def test_equal_images_tie_exactly_and_are_looked_at_once():
    """Rounding that depends on the place in the batch, as on a GPU, must not break ties."""
    seen = []

    def wobbly(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return images.reshape(len(images), -1) * (1 + 1e-7 * rng(9).random((len(images), 1)))

    truth = np.repeat(noise(1, 6, 6), 9, axis=0)
    made = noise(9, 3, 6, 6, seed=1)
    matrices = feature_matrices(made, truth, wobbly)
    assert seen == [28]
    for name, higher in (("features", True), ("lpips", False)):
        assert (identification(matrices[name], higher_is_better=higher) == 0.5).all()


def test_feature_identification_is_brute_force():
    truth, made = noise(6, 4, 4), noise(6, 2, 4, 4, seed=1)

    def flat(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(float)

    found = feature_identification(made, truth, flat)
    for i in range(6):
        shares = []
        for s in range(2):
            r = [np.corrcoef(made[i, s].ravel(), image.ravel())[0, 1] for image in truth]
            shares.append(np.mean([r[i] > r[j] for j in range(6) if j != i]))
        assert found[i] == pytest.approx(np.mean(shares))


# Distances between sets


class AsTheyAre(torch.nn.Module):
    """Features for torchmetrics: what it is given."""

    num_features = 5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(len(x), -1).float()


@pytest.mark.parametrize("sizes", [(40, 60), (4, 3)])
def test_frechet_distance_is_torchmetrics_and_the_textbooks(sizes):
    """Also with fewer images than features, where the covariances are singular."""
    x, y = rng(0).normal(size=(sizes[0], 5)), 0.7 * rng(1).normal(size=(sizes[1], 5)) + 0.5
    found = frechet_distance(x, y)
    root = sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    formula = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert found == pytest.approx(formula, abs=1e-5)
    theirs = FrechetInceptionDistance(feature=AsTheyAre(), input_img_size=(5, 1, 1), normalize=True)
    theirs.update(torch.tensor(x).float()[:, :, None, None], real=True)
    theirs.update(torch.tensor(y).float()[:, :, None, None], real=False)
    assert found == pytest.approx(theirs.compute().item(), abs=2e-2)


def test_frechet_distance_in_closed_form():
    x = rng().normal(size=(50, 6))
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(x, x + 3.0) == pytest.approx(6 * 9.0)  # moved: the squared distance of the means
    stretched = x.mean(0) + 2.0 * (x - x.mean(0))  # deviations sigma and 2 sigma: sum of (2 sigma - sigma)^2
    assert frechet_distance(x, stretched) == pytest.approx(x.var(axis=0, ddof=1).sum())
    assert frechet_distance(x, stretched) == pytest.approx(frechet_distance(stretched, x))


def test_kernel_distance_is_torchmetrics_and_brute_force():
    x, y = rng(0).normal(size=(12, 5)), 0.8 * rng(1).normal(size=(12, 5)) + 0.4

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (a @ b / 5 + 1) ** 3

    within = [np.mean([k(a, b) for a, b in itertools.permutations(z, 2)]) for z in (x, y)]
    across = np.mean([k(a, b) for a, b in itertools.product(x, y)])
    assert kernel_distance(x, y) == pytest.approx(sum(within) - 2 * across)
    assert kernel_distance(x, y[:7]) == pytest.approx(
        within[0] + np.mean([k(a, b) for a, b in itertools.permutations(y[:7], 2)])
        - 2 * np.mean([k(a, b) for a, b in itertools.product(x, y[:7])])
    )  # fmt: skip
    theirs = KernelInceptionDistance(feature=AsTheyAre(), subsets=1, subset_size=12, normalize=True)
    theirs.update(torch.tensor(x).float()[:, :, None, None], real=True)
    theirs.update(torch.tensor(y).float()[:, :, None, None], real=False)
    assert kernel_distance(x, y) == pytest.approx(theirs.compute()[0].item(), abs=1e-3)


def test_of_50_images_frechet_is_biased_and_kernel_is_not():
    generator = rng(3)
    pairs = [(generator.normal(size=(50, 64)), generator.normal(size=(50, 64))) for _ in range(60)]
    frechet = [frechet_distance(x, y) for x, y in pairs]
    kernel = [kernel_distance(x, y) for x, y in pairs]
    assert min(frechet) > 20  # although the truth is 0
    assert abs(np.mean(kernel)) < 3 * np.std(kernel) / math.sqrt(60)
    many = frechet_distance(generator.normal(size=(5000, 64)), generator.normal(size=(5000, 64)))
    assert many < 0.05 * np.mean(frechet)
    moved = [kernel_distance(x, y + 0.3) for x, y in pairs]
    assert min(moved) > max(kernel)  # and it does see a difference


def test_kernel_distance_error_is_the_jackknife_and_about_the_spread_of_repetitions():
    x, y = rng(0).normal(size=(6, 4)), rng(1).normal(size=(5, 4)) + 0.5
    of_x = [kernel_distance(np.delete(x, i, axis=0), y) for i in range(6)]
    of_y = [kernel_distance(x, np.delete(y, i, axis=0)) for i in range(5)]
    assert kernel_distance_error(x, y) == pytest.approx(math.sqrt(5 * np.var(of_x) + 4 * np.var(of_y)))
    generator, found, errors = rng(4), [], []
    for _ in range(200):
        x, y = generator.normal(size=(50, 8)), generator.normal(size=(50, 8)) + 0.5
        found.append(kernel_distance(x, y))
        errors.append(kernel_distance_error(x, y))
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.2)


# Errors


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (lambda images: np.zeros(len(images)), r"layer 0 .* shape \(8,\) for 8 images"),
        (lambda images: np.zeros((3, 5)), r"shape \(3, 5\) for 8 images"),
        (lambda images: [mean_colour(images), np.zeros((len(images), 2, 2))], "layer 1 of the features"),
        (lambda images: np.full((len(images), 2), np.nan), "16 of 16 features of layer 0 are not finite"),
        (lambda images: [], "0 layers"),
    ],
)
def test_feature_errors(features, words):
    with pytest.raises(ValueError, match=words):
        perceptual_distance(noise(4, 4, 4), noise(4, 4, 4, seed=1), features)


def test_set_errors():
    x = np.zeros((4, 3))
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\)"):
            distance(x, np.zeros((4, 2)))
        with pytest.raises(ValueError, match="2 or more each"):
            distance(x, x[:1])
        with pytest.raises(ValueError, match="3 feature values are not finite"):
            distance(np.concatenate([x, np.full((1, 3), np.inf)]), x)
    with pytest.raises(ValueError, match="3 or more each"):
        kernel_distance_error(x[:2], x)
