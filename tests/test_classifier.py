"""The referee: logits, probabilities, and that it can learn."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from visdec_lite.classifier import CategoryClassifier, ClassifierConfig
from visdec_lite.preprocessing import to_model_range
from visdec_lite.stages import train_classifier
from visdec_lite.training import TrainingConfig

TINY = ClassifierConfig(num_classes=3, image_size=16, width=8)


def build(config: ClassifierConfig = TINY) -> CategoryClassifier:
    torch.manual_seed(0)
    return CategoryClassifier(config)


def primaries(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Noise in which one channel is brighter; its number is the label."""
    labels = rng.integers(0, 3, n)
    images = rng.integers(0, 120, (n, 16, 16, 3))
    images[np.arange(n), :, :, labels] += 120
    return images.astype(np.uint8), labels


def test_it_learns_what_is_obvious(rng):
    model, (images, labels), (unseen, truth) = build(), primaries(200, rng), primaries(100, rng)
    config = TrainingConfig(steps=15, batch_size=32, learning_rate=1e-2, log="none")
    result = train_classifier(model, images, labels, unseen, truth, config, progress=False, device="cpu")
    assert (model.classify(unseen).argmax(1) == truth).mean() == 1.0
    validated = [row for row in result.history if row["split"] == "val"][-1]
    assert validated["accuracy"] == pytest.approx(1.0)


def test_labels_that_have_nothing_to_do_with_the_pictures_stay_at_chance(rng):
    model, (images, labels), (unseen, truth) = build(), primaries(200, rng), primaries(300, rng)
    config = TrainingConfig(steps=10, batch_size=32, learning_rate=3e-3, log="none")
    train_classifier(model, images, rng.permutation(labels), unseen, truth, config, progress=False, device="cpu")
    log_loss = -np.log(model.classify(unseen)[np.arange(300), truth]).mean()
    assert log_loss > 0.8 * np.log(3)  # guessing scores log(3)


def test_classify_is_the_softmax_of_forward_in_any_batches(rng):
    model = build()
    images, _ = primaries(7, rng)
    with torch.no_grad():
        expected = model(to_model_range(images)).double().softmax(-1).numpy()
    probabilities = model.classify(images)
    assert probabilities.shape == (7, 3) and probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(model.classify(images, batch_size=2), expected, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(1), 1.0, atol=1e-12)


def test_classify_leaves_no_gradient(rng):
    model = build()
    model.classify(primaries(2, rng)[0])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_reach_every_weight(rng):
    model = build()
    model(to_model_range(primaries(4, rng)[0])).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 16, 16), (2, 16, 16, 3), (3, 16, 16)])
def test_pictures_of_another_size_are_an_error(shape):
    with pytest.raises(ValueError, match=r"images have shape .*expected .*3, 16, 16"):
        build()(torch.zeros(shape))


@pytest.mark.parametrize("size", [16, 20, 28, 32])
def test_sizes_that_do_not_halve_three_times_work_too(size):
    model = build(replace(TINY, image_size=size))
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 3)


@pytest.mark.parametrize("field, value", [("num_classes", 4), ("image_size", 32), ("width", 16)])
def test_every_field_of_the_config_changes_the_model(field, value):
    assert field in {f.name for f in fields(ClassifierConfig)}
    before, after = (
        {name: tuple(weight.shape) for name, weight in build(config).state_dict().items()}
        for config in (TINY, replace(TINY, **{field: value}))
    )
    assert before != after


def test_the_fields_tested_above_are_all_there_are():
    assert {f.name for f in fields(ClassifierConfig)} == {"num_classes", "image_size", "width"}


def test_feature_layers_are_what_the_logits_are_made_of(rng):
    model = build()
    images, _ = primaries(7, rng)
    layers = model.feature_layers(images)
    assert [layer.shape for layer in layers] == [(7, 8, 8, 8), (7, 16, 4, 4), (7, 32, 2, 2), (7, 256)]
    with torch.no_grad():
        logits = model.logits(torch.tensor(layers[-1])).double()
        from_last_map = model.head(torch.tensor(layers[-2])).numpy()
    np.testing.assert_allclose(logits.softmax(-1).numpy(), model.classify(images), atol=1e-6)
    np.testing.assert_allclose(from_last_map, layers[-1], atol=1e-6)
    for whole, parts in zip(layers, model.feature_layers(images, batch_size=2), strict=True):
        np.testing.assert_allclose(parts, whole, atol=1e-5)
