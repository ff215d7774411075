"""Intervals and tests: closed forms, scipy, coverage in simulations, p-values worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from visdec_lite import statistics
from visdec_lite.statistics import bootstrap_interval, hierarchical_interval, holm, paired_test


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Intervals over stimuli


def hits(p: float) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda generator: (generator.random(50) < p).astype(float)


@pytest.mark.parametrize(
    ("draw", "mean", "bounds", "band"),
    [
        (hits(0.02), 0.02, (0.0, 1.0), (0.95, 1.0)),  # the exact bound of 0 hits is on the safe side
        (hits(0.1), 0.1, (0.0, 1.0), (0.92, 0.98)),
        (hits(0.5), 0.5, (0.0, 1.0), (0.93, 0.99)),
        (lambda g: g.exponential(size=50), 1.0, None, (0.89, 0.955)),  # skewed: percentile intervals fall short
        (lambda g: g.normal(3.0, 2.0, size=50), 3.0, None, (0.92, 0.975)),
    ],
    ids=["rare hits", "some hits", "half hits", "skewed", "normal"],
)
def test_bootstrap_covers_the_true_mean_at_about_the_nominal_rate(draw, mean, bounds, band):
    """Bands are 3 standard errors of 1000 simulations around what 1500 others gave: 1.00, .951, .965, .923, .946."""
    generator = rng()
    covered = [
        low - 1e-12 <= mean <= high + 1e-12
        for low, high in (bootstrap_interval(draw(generator), generator, resamples=500, bounds=bounds)
                          for _ in range(1000))
    ]  # fmt: skip
    assert band[0] <= np.mean(covered) <= band[1]


def test_bootstrap_has_the_width_of_the_central_limit():
    generator = rng()
    intervals = [bootstrap_interval(generator.normal(3.0, 2.0, 80), generator, resamples=500) for _ in range(200)]
    width = np.mean([high - low for low, high in intervals])
    assert width == pytest.approx(2 * 1.96 * 2.0 / math.sqrt(80), rel=0.05)


def test_bootstrap_knobs():
    values = rng().random(30)
    base = bootstrap_interval(values, rng(1))
    assert base == bootstrap_interval(values, rng(1)) != bootstrap_interval(values, rng(2))
    assert base != bootstrap_interval(values, rng(1), resamples=100)
    assert base == bootstrap_interval(values, rng(1), bounds=(0.0, 1.0))  # bounds matter to equal values only
    low, high = bootstrap_interval(values, rng(1), level=0.5)
    assert base[0] < low < values.mean() < high < base[1]
    assert bootstrap_interval(np.full(4, 0.25), rng()) == (0.25, 0.25)


@pytest.mark.parametrize("n", [1, 10, 50])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_nothing_but_hits_or_misses_gives_the_interval_of_clopper_and_pearson(n, level):
    for value in (0.0, 1.0):
        exact = binomtest(round(value * n), n).proportion_ci(level, "exact")
        found = bootstrap_interval(np.full(n, value), rng(), level, bounds=(0.0, 1.0))
        assert found == pytest.approx((exact.low, exact.high), abs=1e-12)
    low, high = bootstrap_interval(np.zeros(1000), rng(), 0.9, bounds=(0.0, 1.0))
    assert (low, high) == pytest.approx((0.0, 3 / 1000), rel=5e-3)  # the rule of three


def test_equal_values_inside_their_bounds_and_up_to_rounding():
    share = 1 - 0.025 ** (1 / 20)
    found = bootstrap_interval(np.full(20, -0.5), rng(), bounds=(-1.0, 1.0))
    assert found == pytest.approx((-0.5 - 0.5 * share, -0.5 + 1.5 * share))
    nearly = np.ones(20) + 1e-15 * np.arange(20)
    assert bootstrap_interval(nearly, rng(), bounds=(0.0, 1.0)) == pytest.approx((1 - share, 1.0))


# Intervals over subjects


def test_hierarchical_interval_is_the_definition_drawn_by_hand():
    values = rng(5).random((4, 6))
    generator, means = rng(1), []
    for _ in range(300):
        who = generator.integers(4, size=(4, 1))
        what = generator.integers(6, size=(4, 6))
        means.append(np.mean([[values[who[i, 0], j] for j in what[i]] for i in range(4)]))
    expected = np.quantile(means, [0.025, 0.975])
    assert hierarchical_interval(values, rng(1), shared_stimuli=False, resamples=300) == pytest.approx(expected)


def test_hierarchical_width_is_the_sum_of_its_variances():
    """Between 40 subjects and 60 stimuli: the variance is that of subject means plus that within, over the counts."""
    generator = rng(2)
    between, within = generator.normal(0, 1, (40, 1)), generator.normal(0, 2, (40, 60))
    low, high = hierarchical_interval(between + within, generator, shared_stimuli=False, resamples=1000)
    values = between + within
    variance = values.mean(axis=1).var() / 40 + values.var(axis=1).mean() / (40 * 60)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.1)


@pytest.mark.parametrize(
    ("shared", "common", "band"),
    [(True, 1.0, (0.89, 0.99)), (False, 1.0, (0.4, 0.75)), (False, 0.0, (0.9, 1.0))],
    ids=["shared, drawn together", "shared, drawn apart", "not shared"],
)
def test_stimuli_that_subjects_share_are_drawn_together(shared, common, band):
    """Drawn apart, the luck of the common stimuli is averaged away and the interval is far too narrow."""
    generator, covered = rng(3), []
    for _ in range(150):
        values = common * generator.normal(size=(1, 50)) + 0.5 * generator.normal(size=(10, 50))
        low, high = hierarchical_interval(values, generator, shared_stimuli=shared, resamples=200)
        covered.append(low <= 0 <= high)
    assert band[0] <= np.mean(covered) <= band[1]


def test_three_subjects_that_differ_are_covered_too_rarely_and_ten_less_so():
    def coverage(subjects: int) -> float:
        generator, covered = rng(4), []
        for _ in range(150):
            values = generator.normal(size=(subjects, 1)) + generator.normal(size=(subjects, 30))
            low, high = hierarchical_interval(values, generator, shared_stimuli=False, resamples=200)
            covered.append(low <= 0 <= high)
        return float(np.mean(covered))

    assert 0.6 < coverage(3) < 0.8 < coverage(10)


def test_hierarchical_interval_of_equal_scores_and_its_knobs():
    share = 1 - 0.025 ** (1 / 20)
    zeros = np.zeros((3, 20))
    found = hierarchical_interval(zeros, rng(), shared_stimuli=True, bounds=(0.0, 1.0))
    assert found == pytest.approx((0.0, share))
    assert hierarchical_interval(zeros, rng(), shared_stimuli=True) == (0.0, 0.0)
    values = rng(1).random((3, 20))
    base = hierarchical_interval(values, rng(), shared_stimuli=True)
    assert base == hierarchical_interval(values, rng(), shared_stimuli=True)
    assert base != hierarchical_interval(values, rng(1), shared_stimuli=True)
    low, high = hierarchical_interval(values, rng(), shared_stimuli=True, level=0.5)
    assert base[0] < low < high < base[1]


# Tests


@pytest.mark.parametrize("seed", range(3))
def test_paired_test_counts_all_sign_patterns(seed):
    a, b = rng(seed).normal(0.4, 1, 9), rng(seed + 50).normal(0, 1, 9)
    found = paired_test(a, b, rng())
    d = a - b
    means = [abs(np.mean(d * signs)) for signs in itertools.product((-1, 1), repeat=9)]
    assert found.p_value == pytest.approx(np.mean(np.array(means) >= abs(d.mean()) - 1e-12))
    theirs = permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert found.difference == pytest.approx(d.mean()) and found.n == 9
    assert found.ci95[0] < found.difference < found.ci95[1]


def test_paired_test_worked_out_by_hand():
    """Six differences of one sign: 2 of 64 patterns are as far from 0. Ties have no sign and leave p as it is."""
    better = paired_test(np.ones(6), np.zeros(6), rng())
    assert better.p_value == 2 / 64 and better.difference == 1.0
    with_ties = paired_test(np.append(np.ones(6), np.zeros(30)), np.zeros(36), rng())
    assert with_ties.p_value == 2 / 64 and with_ties.n == 36
    same = paired_test(np.ones(6), np.ones(6), rng())
    assert same.p_value == 1.0 and same.ci95 == (0.0, 0.0)
    share = 1 - 0.025 ** (1 / 6)
    assert paired_test(np.ones(6), np.ones(6), rng(), bounds=(0.0, 1.0)).ci95 == pytest.approx((-share, share))


def test_drawn_flips_agree_with_all_of_them(monkeypatch):
    a, b = rng(1).normal(0.5, 1, 14), rng(2).normal(0, 1, 14)
    exact = paired_test(a, b, rng()).p_value
    monkeypatch.setattr(statistics, "EXACT_FLIPS", 5)
    drawn = paired_test(a, b, rng()).p_value
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / 10_000)) and drawn != exact
    assert paired_test(a, b, rng(), flips=99).p_value >= 1 / 100
    assert paired_test(np.full(14, 9.0), np.zeros(14), rng(), flips=99).p_value <= 3 / 100


def test_paired_test_is_right_about_nothing_and_finds_a_planted_difference():
    generator = rng(6)
    shared = generator.normal(size=(400, 30))  # the same stimuli: what they share is no evidence
    noise = generator.normal(size=(2, 400, 30))
    p = np.array([paired_test(s + x, s + y, generator, flips=200, resamples=1).p_value
                  for s, x, y in zip(shared, *noise, strict=True)])  # fmt: skip
    assert 0.02 < (p <= 0.05).mean() < 0.085  # 3 standard errors around 0.05
    found = paired_test(shared[0] + 1 + 0.1 * noise[0, 0], shared[0], generator)
    assert found.p_value < 0.001 and found.ci95[0] > 0.9


def test_paired_test_does_not_mind_which_is_first():
    a, b = rng(1).random(12), rng(2).random(12)
    one, other = paired_test(a, b, rng()), paired_test(b, a, rng())
    assert one.p_value == other.p_value and one.difference == pytest.approx(-other.difference)


def test_holm_worked_out_by_hand():
    # 4 x .005 = .02; 3 x .01 = .03; 2 x .03 = .06; 1 x .04 = .04 may not fall below .06
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.5, 0.02]), [1.0, 1.0, 0.06])
    assert holm([0.2]).tolist() == [0.2]


def test_holm_keeps_false_alarms_below_the_level():
    p = rng().random((2000, 8))
    alarms = np.mean([(holm(row) < 0.05).any() for row in p])
    assert alarms == pytest.approx(1 - (1 - 0.05 / 8) ** 8, abs=3 * math.sqrt(0.05 * 0.95 / 2000))
    assert (p < 0.05).any(axis=1).mean() > 0.3  # uncorrected


# Errors


def test_errors():
    with pytest.raises(ValueError, match="1 not finite"):
        bootstrap_interval(np.array([1.0, np.nan]), rng())
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        bootstrap_interval(np.ones((2, 3)), rng())
    for knobs in ({"level": 1.0}, {"resamples": 0}):
        with pytest.raises(ValueError, match="expected 0 < level < 1"):
            bootstrap_interval(np.ones(3), rng(), **knobs)
        with pytest.raises(ValueError, match="expected 0 < level < 1"):
            hierarchical_interval(np.ones((3, 3)), rng(), shared_stimuli=True, **knobs)
    with pytest.raises(ValueError, match=r"0\.\.2 with bounds \(0\.0, 1\.0\)"):
        bootstrap_interval(np.array([0.0, 2.0]), rng(), bounds=(0.0, 1.0))
    with pytest.raises(ValueError, match="1 subject says nothing"):
        hierarchical_interval(np.ones((1, 3)), rng(), shared_stimuli=True)
    with pytest.raises(ValueError, match=r"shape \(subjects, stimuli\)"):
        hierarchical_interval(np.ones(3), rng(), shared_stimuli=True)
    with pytest.raises(ValueError, match="3 scores against 4"):
        paired_test(np.ones(3), np.ones(4), rng())
    with pytest.raises(ValueError, match="flips=0"):
        paired_test(np.ones(3), np.ones(3), rng(), flips=0)
    for wrong in ([], [0.5, 1.5], [np.nan]):
        with pytest.raises(ValueError, match=r"not in 0\.\.1"):
            holm(wrong)


def test_what_rounding_leaves_is_no_difference():
    once, thrice = np.full(50, 0.1), np.mean([np.full(50, 0.1)] * 3, axis=0)
    assert (once != thrice).any(), "or there is nothing to test"
    test = paired_test(thrice, once, np.random.default_rng(0), bounds=(0, 1))
    assert test.p_value == 1.0 and test.difference == 0.0
