"""Calibration, noise ceilings and lesions: planted truths come out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from visdec_lite.diagnostics import (
    ceiling_of_mean,
    noise_ceiling,
    reliability,
    roi_lesions,
    sample_agreement,
    sample_calibration,
    voxel_scores,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def drawn(generator: np.random.Generator, n: int, samples: int, spread: np.ndarray | float) -> np.ndarray:
    """Pictures around grey 128 with a given standard deviation for each stimulus, uint8 (n, samples, 12, 12, 3)."""
    spread = np.broadcast_to(spread, n)[:, None, None, None, None]
    return np.clip(128 + spread * generator.normal(size=(n, samples, 12, 12, 3)), 0, 255).round().astype(np.uint8)


# Samples


def test_samples_of_the_same_distribution_as_the_truth_are_calibrated():
    together = drawn(rng(), 60, 5, 25.0)
    found = sample_calibration(together[:, 1:], together[:, 0], rng())
    pixels = 60 * 12 * 12 * 3
    np.testing.assert_allclose(found.ranks, 1 / 5, atol=4 * math.sqrt(0.2 * 0.8 / pixels))
    assert found.nominal == 3 / 5 == pytest.approx(found.inside, abs=0.01)
    assert found.inside_ci95[0] < 3 / 5 < found.inside_ci95[1]
    assert found.ratio == pytest.approx(1.0, abs=0.01)


def test_samples_that_agree_too_much_are_overconfident():
    truth, samples = drawn(rng(), 30, 1, 25.0)[:, 0], drawn(rng(1), 30, 4, 5.0)
    found = sample_calibration(samples, truth, rng())
    assert found.ranks[0] > 0.3 < found.ranks[-1] and found.ranks[1:-1].max() < 0.15  # a U
    assert found.inside < 0.3 and found.inside_ci95[1] < found.nominal
    expected = math.sqrt(5 / 4 * 25 / (25 + 25**2 * 4)) * 2  # spread 5; error^2 = 25^2 + 5^2 / 4
    assert found.ratio == pytest.approx(expected, rel=0.03)


def test_spread_that_follows_the_error_is_found_and_only_then():
    generator = rng(2)
    honest = np.linspace(5, 40, 40)
    truth = drawn(generator, 40, 1, honest)[:, 0]
    found = sample_calibration(drawn(generator, 40, 4, honest), truth, generator)
    assert found.correlation > 0.9 and found.ratio == pytest.approx(1.0, abs=0.05)
    assert found.correlation == pytest.approx(spearmanr(found.spread, found.error).statistic)
    unrelated = sample_calibration(drawn(generator, 40, 4, generator.permutation(honest)), truth, generator)
    assert abs(unrelated.correlation) < 3 / math.sqrt(39)


def test_ranks_worked_out_by_hand():
    """Samples 10 and 20; the truth 5, 15, 25 has rank 0, 1, 2; the truth 10 shares ranks 0 and 1."""
    samples = np.array([10, 20], np.uint8)[None, :, None, None, None] * np.ones((1, 1, 1, 4, 3), np.uint8)
    truth = np.array([5, 15, 25, 10], np.uint8)[None, None, :, None] * np.ones((1, 1, 1, 3), np.uint8)
    found = sample_calibration(samples, truth, rng())
    np.testing.assert_allclose(found.ranks, [1.5 / 4, 1.5 / 4, 1 / 4])
    assert found.inside == pytest.approx(1.5 / 4) and found.nominal == 1 / 3
    assert found.spread[0] == pytest.approx(math.sqrt(50) / 255)
    assert found.error[0] == pytest.approx(math.sqrt((100 + 0 + 100 + 25) / 4) / 255)
    assert found.ratio == pytest.approx(math.sqrt(1.5 * 50 / 56.25)) and math.isnan(found.correlation)


def test_samples_that_are_all_the_truth():
    truth = drawn(rng(), 5, 1, 25.0)[:, 0]
    found = sample_calibration(np.repeat(truth[:, None], 3, axis=1), truth, rng())
    np.testing.assert_allclose(found.ranks, 0.25)
    assert math.isnan(found.ratio) and math.isnan(found.correlation) and (found.error == 0).all()


def test_calibration_of_new_categories_is_over_categories():
    """Half of the categories calibrated, half overconfident: ten of them tell less than fifty stimuli would."""
    spread = np.repeat(np.tile([25.0, 2.0], 5), 5)
    truth, samples = drawn(rng(), 50, 1, 25.0)[:, 0], drawn(rng(1), 50, 4, spread)
    kinds = np.repeat(np.arange(10), 5)
    over_stimuli, over_categories = (sample_calibration(samples, truth, rng(2), c) for c in (None, kinds))
    assert over_stimuli.inside == over_categories.inside
    few, many = (np.diff(found.inside_ci95)[0] for found in (over_categories, over_stimuli))
    assert few > 1.8 * many


# Confidence


def test_agreement_counts_votes_and_breaks_ties_by_probability():
    says = {"a": [0.6, 0.4, 0.0], "b": [0.3, 0.7, 0.0], "c": [0.1, 0.1, 0.8]}
    probabilities = np.array([[says[w] for w in word] for word in ("aab", "abc", "bbb")])
    confidence, hits = sample_agreement(probabilities, np.array([0, 1, 0]))
    np.testing.assert_allclose(confidence, [2 / 3, 1 / 3, 1])
    assert hits.tolist() == [1.0, 1.0, 0.0]  # "abc": one vote each; summed probabilities 1.0, 1.2, 0.8


def test_calibration_error_in_closed_form():
    """Bins [0, .5) and [.5, 1]: gaps |.25 - .5| and |.9 - .75|, four stimuli each."""
    found = reliability(np.array([0.2, 0.3, 0.2, 0.3, 0.8, 1.0, 0.8, 1.0]), np.array([1, 0, 1, 0, 1, 1, 1, 0]), bins=2)
    np.testing.assert_allclose(found.confidence, [0.25, 0.9])
    np.testing.assert_allclose(found.accuracy, [0.5, 0.75])
    assert found.count.tolist() == [4, 4]
    assert found.error == pytest.approx((0.25 + 0.15) / 2) and found.bias == pytest.approx(0.575 - 0.625)
    with_empty = reliability(np.array([0.05, 1.0]), np.array([0, 1]))
    assert np.isnan(with_empty.accuracy[1:-1]).all() and with_empty.error == pytest.approx(0.025)
    assert reliability(np.ones(9), np.zeros(9)).error == 1.0


def test_a_calibrated_decoder_has_no_calibration_error_and_a_boaster_does():
    confidence = rng().random(20_000)
    hits = (rng(1).random(20_000) < confidence).astype(float)
    assert reliability(confidence, hits).error < 0.015
    boasting = reliability(np.sqrt(confidence), hits)
    assert boasting.error == pytest.approx(2 / 3 - 1 / 2, abs=0.01) == pytest.approx(boasting.bias, abs=0.01)


# Voxels


def test_noise_ceiling_is_the_correlation_of_the_truth_with_the_measured_mean():
    generator = rng(3)
    signal = generator.normal(size=(8000, 1, 4))
    noise = np.array([0.0, 1.0, 2.0, 3.0])
    repeats = signal + noise * generator.normal(size=(8000, 5, 4))
    found = noise_ceiling(repeats)
    expected = 1 / np.sqrt(1 + noise**2 / 5)
    np.testing.assert_allclose(found, expected, atol=0.03)
    np.testing.assert_allclose(ceiling_of_mean(1 / np.sqrt(1 + noise**2), 5), expected)
    np.testing.assert_allclose(ceiling_of_mean([0.0, 0.3, 1.0], 1), [0.0, 0.3, 1.0])
    reached = [np.corrcoef(signal[:, 0, v], repeats[:, :, v].mean(axis=1))[0, 1] for v in range(4)]
    np.testing.assert_allclose(found, reached, atol=0.04)
    silent = noise_ceiling(generator.normal(size=(300, 5, 200)))
    assert (silent == 0).mean() > 0.3 and silent.max() < 0.6


def test_a_perfect_prediction_of_noisy_voxels_scores_one():
    generator = rng(4)
    signal = generator.normal(size=(3000, 6))
    noise = np.array([0.5, 1.0, 2.0, 1.0, 1.0, 60.0])
    measured = signal + noise * generator.normal(size=signal.shape)
    ceiling = 1 / np.sqrt(1 + noise**2)
    found = voxel_scores(signal, measured, ceiling, floor=0.1)
    np.testing.assert_allclose(found.normalised[:5], 1.0, atol=0.08)
    assert np.isnan(found.normalised[5]) and found.excluded == 1
    assert found.mean == pytest.approx(np.mean(found.normalised[:5]))
    for v in range(6):
        assert found.correlation[v] == pytest.approx(np.corrcoef(signal[:, v], measured[:, v])[0, 1])
    half = voxel_scores(signal + generator.normal(size=signal.shape), measured, ceiling)
    np.testing.assert_allclose(half.normalised[:5], 1 / math.sqrt(2), atol=0.08)
    shuffled = voxel_scores(generator.permutation(signal), measured, ceiling)
    assert np.abs(shuffled.normalised[:5]).max() < 5 / math.sqrt(3000) / ceiling[:5].min()


def test_voxels_below_the_floor_are_counted_and_flat_ones_score_nothing():
    x = rng().normal(size=(10, 3))
    x[:, 0] = 1.0
    found = voxel_scores(x, x, np.array([0.9, 0.05, 0.5]))
    assert found.correlation.tolist() == pytest.approx([0.0, 1.0, 1.0]) and found.excluded == 1
    assert found.normalised[[0, 2]].tolist() == pytest.approx([0.0, 2.0])  # nothing is cut off
    assert voxel_scores(x, x, np.array([0.9, 0.05, 0.5]), floor=0.01).excluded == 0
    none = voxel_scores(x, x, np.zeros(3))
    assert none.excluded == 3 and math.isnan(none.mean)


# Regions


def test_the_region_that_carries_the_signal_is_found():
    """The score is the sum of region "loud" and half of region "soft"; "mute" is not read; each drop is known."""
    generator = rng(5)
    voxels = generator.normal(1.0, 0.3, size=(40, 9)).astype(np.float32)
    loud, soft, mute = np.eye(3, dtype=bool).repeat(3, axis=1)
    before = voxels.copy()

    def reconstruct(x: np.ndarray) -> np.ndarray:
        return x @ np.repeat([1.0, 0.5, 0.0], 3)

    found = roi_lesions(reconstruct, voxels, {"loud": loud, "soft": soft, "mute": mute}, lambda made: made, rng())
    assert list(found) == ["loud", "soft", "mute"]
    assert found["loud"].difference == pytest.approx(voxels[:, loud].sum(axis=1).mean(), rel=1e-5)
    assert found["soft"].difference == pytest.approx(voxels[:, soft].sum(axis=1).mean() / 2, rel=1e-5)
    assert found["loud"].ci95[0] > found["soft"].ci95[1] > found["soft"].ci95[0] > 0
    assert found["loud"].p_value < 0.001
    assert found["mute"].difference == 0.0 and found["mute"].p_value == 1.0
    kinds = np.arange(len(voxels)) % 10
    over = roi_lesions(reconstruct, voxels, {"loud": loud}, lambda made: made, rng(), categories=kinds)["loud"]
    assert over.units == 10 and over.p_value == over.least_p == 2 / 1024 and over.difference == found["loud"].difference
    np.testing.assert_array_equal(voxels, before)


def test_a_lesion_of_equal_scores_gets_an_honest_interval():
    voxels, mask = np.ones((20, 4)), np.array([True, False, False, False])
    found = roi_lesions(lambda x: x, voxels, {"V1": mask}, lambda x: np.ones(len(x)), rng(), bounds=(0.0, 1.0))
    assert found["V1"].ci95 == pytest.approx((-(1 - 0.025 ** (1 / 20)), 1 - 0.025 ** (1 / 20)))


# Errors


def test_errors():
    samples = drawn(rng(), 3, 2, 5.0)
    with pytest.raises(ValueError, match="2 samples or more"):
        sample_calibration(samples[:, :1], samples[:, 0], rng())
    with pytest.raises(ValueError, match=r"truth \(2, 12, 12, 3\)"):
        sample_calibration(samples, samples[:2, 0], rng())
    with pytest.raises(TypeError, match="float64"):
        sample_calibration(samples / 255, samples[:, 0], rng())
    with pytest.raises(ValueError, match=r"\(3, 2\) for classes \(3,\)"):
        sample_agreement(np.zeros((3, 2)), np.zeros(3, int))
    with pytest.raises(ValueError, match=r"1 not in 0\.\.1"):
        reliability(np.array([1.2, 0.5]), np.ones(2))
    with pytest.raises(ValueError, match="bins=0"):
        reliability(np.ones(2), np.ones(2), bins=0)
    with pytest.raises(ValueError, match="2 repeats or more"):
        noise_ceiling(np.zeros((5, 1, 3)))
    with pytest.raises(ValueError, match=r"0 repeats of a ceiling up to 0\.5"):
        ceiling_of_mean(np.array([0.5]), 0)
    table = np.zeros((5, 3))
    with pytest.raises(ValueError, match=r"ceiling \(2,\)"):
        voxel_scores(table, table, np.ones(2))
    with pytest.raises(ValueError, match="floor is 0"):
        voxel_scores(table, table, np.ones(3), floor=0)
    with pytest.raises(ValueError, match=r"1\.\.2, floor"):
        voxel_scores(table, table, np.array([1.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match="2 stimuli"):
        voxel_scores(table[:2], table[:2], np.ones(3))


@pytest.mark.parametrize(
    ("rois", "score", "words"),
    [
        ({}, len, "0 regions"),
        ({"V1": np.ones(3, int)}, len, "region 'V1' is int64"),
        ({"V1": np.zeros(3, bool)}, len, "with 0 voxels"),
        ({"V1": np.ones(4, bool)}, len, "over 3 voxels"),
        ({"V1": np.ones(3, bool)}, np.mean, r"score gave \(\) for 5 stimuli"),
    ],
)
def test_lesion_errors(rois, score, words):
    with pytest.raises(ValueError, match=words):
        roi_lesions(lambda x: x, np.zeros((5, 3)), rois, score, rng())
