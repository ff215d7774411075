"""Intervals and tests: closed forms, scipy, coverage in simulations, p-values worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest, norm, permutation_test, t, ttest_1samp

from visdec_lite import statistics
from visdec_lite.statistics import bootstrap_interval, holm, paired_test, ratio_interval, subject_interval


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Intervals over stimuli


def hits(p: float) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda generator: (generator.random(50) < p).astype(float)


@pytest.mark.parametrize(
    ("draw", "mean", "bounds", "band"),
    [
        (hits(0.02), 0.02, (0.0, 1.0), (0.95, 1.0)),  # the exact bound of 0 hits is on the safe side
        (hits(0.1), 0.1, (0.0, 1.0), (0.935, 0.98)),
        (hits(0.5), 0.5, (0.0, 1.0), (0.935, 0.985)),
        (lambda g: g.exponential(size=50), 1.0, None, (0.915, 0.965)),  # skewed: percentile intervals fall short
        (lambda g: g.normal(3.0, 2.0, size=50), 3.0, None, (0.92, 0.975)),
    ],
    ids=["rare hits", "some hits", "half hits", "skewed", "normal"],
)
def test_bootstrap_covers_the_true_mean_at_about_the_nominal_rate(draw, mean, bounds, band):
    """Bands are 3 standard errors of 1000 simulations around what 4000 others gave: 1.00, .959, .958, .940, .949."""
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
    assert width == pytest.approx(2 * t.ppf(0.975, 79) * 2.0 / math.sqrt(80), rel=0.05)


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


# Intervals over categories

CATEGORIES, PICTURES = 10, 5
KINDS = np.repeat(np.arange(CATEGORIES), PICTURES)
SHARE = 0.71  # of the variance of top-1 that lies between categories, as measured on the shipped stages


def normal_categories(generator: np.random.Generator, share: float = SHARE) -> np.ndarray:
    """Scores with mean 0 and variance 1 of 5 pictures each of 10 categories, `share` of it between categories."""
    between, within = generator.normal(size=CATEGORIES), generator.normal(size=CATEGORIES * PICTURES)
    return math.sqrt(share) * between[KINDS] + math.sqrt(1 - share) * within


def rates(mean: float, spread: float) -> Callable[[np.random.Generator], np.ndarray]:
    """Hits of 5 samples a picture; rates of categories are beta distributed, `spread` 0 all alike, 1 all or nothing."""

    def draw(generator: np.random.Generator) -> np.ndarray:
        of_category = generator.beta(mean * (1 / spread - 1), (1 - mean) * (1 / spread - 1), CATEGORIES)
        return generator.binomial(5, of_category[KINDS]) / 5

    return draw


PLANTED = {  # scores, their true mean, bounds, coverage of the nominal 95 % in 4000 other simulations
    "categories alike": (lambda g: normal_categories(g, 0.0), 0.0, None, 0.941),
    "categories differ": (normal_categories, 0.0, None, 0.939),
    "rates around a half": (rates(0.5, 0.3), 0.5, (0.0, 1.0), 0.950),
    "rates as shipped": (rates(0.72, 0.4), 0.72, (0.0, 1.0), 0.927),
    "skewed": (lambda g: g.exponential(size=CATEGORIES)[KINDS] + g.normal(0, 0.5, 50), 1.0, None, 0.906),
    "rare": (rates(0.1, 0.5), 0.1, (0.0, 1.0), 0.819),
}


def coverage(kind: str, count: int, clusters: np.ndarray | None = KINDS) -> float:
    draw, mean, bounds, _ = PLANTED[kind]
    generator, covered = rng(7), []
    for _ in range(count):
        low, high = bootstrap_interval(draw(generator), generator, resamples=400, clusters=clusters, bounds=bounds)
        covered.append(low - 1e-12 <= mean <= high + 1e-12)
    return float(np.mean(covered))


@pytest.mark.parametrize("count", [400, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", PLANTED)
def test_intervals_over_categories_cover_about_what_they_say(kind, count):
    """Within 3 standard errors; 92 to 97 % unless few categories hide a long tail, which the docstring says."""
    expected = PLANTED[kind][-1]
    errors = 3 * math.sqrt(expected * (1 - expected) * (1 / count + 1 / 4000))
    assert coverage(kind, count) == pytest.approx(expected, abs=errors)


@pytest.mark.parametrize(("kind", "rate"), [("categories alike", 0.94), ("categories differ", 0.652)])
def test_intervals_over_stimuli_cover_too_rarely_where_categories_differ(kind, rate):
    assert coverage(kind, 400, clusters=None) == pytest.approx(rate, abs=3 * math.sqrt(rate * (1 - rate) / 400))


def test_an_interval_over_clusters_is_that_of_their_means_where_they_are_equally_large():
    values = normal_categories(rng(2))
    means = values.reshape(CATEGORIES, PICTURES).mean(axis=1)
    whole = bootstrap_interval(values, rng(1), clusters=KINDS)
    assert whole == pytest.approx(bootstrap_interval(means, rng(1)))
    order, names = rng(3).permutation(50), np.array(list("abcdefghij"))
    assert bootstrap_interval(values[order], rng(1), clusters=names[KINDS][order]) == pytest.approx(whole)
    alone = bootstrap_interval(values, rng(1), clusters=np.arange(50))
    assert alone == bootstrap_interval(values, rng(1)) and whole[1] - whole[0] > 1.5 * (alone[1] - alone[0])


def test_percentiles_reach_as_far_as_students_t():
    """Of normal means with variance k - 1 over k, the bootstrap's own, the percentiles are where t ends."""
    for units in (3, 10, 50):
        low, high = statistics.percentiles(0.95, units)
        assert low == pytest.approx(1 - high)
        reach = norm.ppf(high) * math.sqrt((units - 1) / units)
        assert reach == pytest.approx(t.ppf(0.975, units - 1)), units
    assert statistics.percentiles(0.95, 10**7) == pytest.approx((0.025, 0.975), rel=1e-5)


def test_a_cluster_counts_by_its_stimuli():
    """1 of 4 stimuli is a hit, alone in its cluster: drawn means are 0, 1/4 and 1, by 0, 1 and 2 of 2 draws."""
    low, high = bootstrap_interval(np.array([1.0, 0, 0, 0]), rng(), 0.5, clusters=np.array([1, 2, 2, 2]))
    assert (low, high) == (0.0, 1.0)
    low, high = bootstrap_interval(np.array([1.0, 0, 0, 0]), rng(), 0.1, clusters=np.array([1, 2, 2, 2]))
    assert (low, high) == (0.25, 0.25)


def test_equal_scores_of_ten_categories_are_ten_equal_units():
    exact = binomtest(10, 10).proportion_ci(0.95, "exact")
    found = bootstrap_interval(np.ones(50), rng(), bounds=(0.0, 1.0), clusters=KINDS)
    assert found == pytest.approx((exact.low, 1.0))


# Intervals over subjects


def test_one_formula_is_that_of_a_t_test_where_only_one_thing_differs():
    """Subjects alike: the t interval of the categories' means. Stimuli alike: that of the subjects' means."""
    of_categories = rng(1).normal(size=CATEGORIES)
    found = subject_interval(np.tile(of_categories[KINDS], (3, 1)), clusters=np.tile(KINDS, (3, 1)))
    expected = ttest_1samp(of_categories, 0).confidence_interval(0.95)
    assert found == pytest.approx((expected.low, expected.high))
    of_subjects = rng(2).normal(size=(4, 1))
    found = subject_interval(np.tile(of_subjects, (1, 50)), level=0.9)
    expected = ttest_1samp(of_subjects[:, 0], 0).confidence_interval(0.9)
    assert found == pytest.approx((expected.low, expected.high))


def test_the_width_over_subjects_is_the_sum_of_its_variances():
    generator = rng(2)
    values = generator.normal(0, 1, (40, 1)) + generator.normal(0, 2, (40, 60))
    low, high = subject_interval(values)
    variance = values.mean(axis=1).var(ddof=1) / 40 + values.var(axis=1).mean() / (40 * 60)
    assert (high - low) / 2 == pytest.approx(1.99 * math.sqrt(variance), rel=0.03)


def brains(generator: np.random.Generator, subjects: int, differ: float, kind: str) -> tuple[np.ndarray, np.ndarray]:
    values = differ * generator.normal(size=(subjects, 1)) + generator.normal(size=(subjects, 50))
    if kind == "categories":  # the same for all subjects, every picture another
        return values + 1.5 * generator.normal(size=CATEGORIES)[KINDS], np.tile(KINDS, (subjects, 1))
    if kind == "shared":
        return values + generator.normal(size=50), np.tile(np.arange(50), (subjects, 1))
    return values, np.arange(50 * subjects).reshape(subjects, 50)


@pytest.mark.parametrize("count", [400, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["categories", "shared", "own stimuli"])
@pytest.mark.parametrize("differ", [0.0, 0.2, 1.0, 3.0])
@pytest.mark.parametrize("subjects", [3, 10])
def test_intervals_over_subjects_cover_about_what_they_say(subjects, differ, kind, count):
    """92 to 99 % of 3 subjects, 94 to 99 % of 10, less 3 standard errors; drawing subjects anew covers 70 % of 3."""
    generator, covered = rng(3), []
    for _ in range(count):
        values, clusters = brains(generator, subjects, differ, kind)
        low, high = subject_interval(values, clusters=clusters)
        covered.append(low <= 0 <= high)
    least = 0.92 if subjects == 3 else 0.94
    assert np.mean(covered) >= least - 3 * math.sqrt(least * (1 - least) / count)
    if kind == "categories":
        assert np.mean(covered) <= 0.965 + 3 * math.sqrt(0.965 * 0.035 / count)


def test_subjects_who_share_categories_are_told_so():
    """Common luck of the categories, taken for everybody's own, is averaged away and the interval is far too narrow."""
    generator, covered = rng(4), []
    for _ in range(300):
        values, _ = brains(generator, 10, 0.0, "categories")
        low, high = subject_interval(values)
        covered.append(low <= 0 <= high)
    assert np.mean(covered) < 0.7


def test_subject_interval_of_equal_scores_and_its_knobs():
    share = 1 - 0.025 ** (1 / 60)
    assert subject_interval(np.zeros((3, 20)), bounds=(0.0, 1.0)) == pytest.approx((0.0, share))
    kinds = np.tile(np.arange(20) // 2, (3, 1))
    ten = subject_interval(np.zeros((3, 20)), clusters=kinds, bounds=(0.0, 1.0))
    assert ten == pytest.approx((0.0, 1 - 0.025 ** (1 / 10)))
    assert subject_interval(np.zeros((3, 20))) == (0.0, 0.0)
    values = rng(1).random((3, 20))
    low, high = subject_interval(values)
    inner = subject_interval(values, level=0.5)
    assert low < inner[0] < values.mean() < inner[1] < high
    assert subject_interval(values > 0.05, bounds=(0.0, 1.0))[1] == 1.0, "cut off at the bounds"


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


@pytest.mark.parametrize("count", [400, pytest.param(5000, marks=pytest.mark.slow)])
def test_categories_flipped_together_raise_false_alarms_at_the_nominal_rate(count):
    """Differences of which 71 % lie between categories. Of 1024 patterns 51 give p <= .05: the rate is 50 / 1024."""
    generator, nothing = rng(8), np.zeros(50)
    tests = [
        (
            paired_test(d, nothing, generator, clusters=KINDS, resamples=1).p_value,
            paired_test(d, nothing, generator, flips=200, resamples=1).p_value,
        )
        for d in (normal_categories(generator) for _ in range(count))
    ]
    together, alone = np.mean(np.array(tests) <= 0.05, axis=0)
    assert together == pytest.approx(50 / 1024, abs=3 * math.sqrt(0.05 * 0.95 / count))
    assert alone == pytest.approx(0.32, abs=3.5 * math.sqrt(0.32 * 0.68 / count)), "stimulus by stimulus"


def test_flipped_clusters_worked_out_by_hand():
    """Ten categories of one sign: 2 of 1024 patterns are as far from 0, and no p can be smaller."""
    better = paired_test(np.ones(50), np.zeros(50), rng(), clusters=KINDS)
    assert better.p_value == better.least_p == 2 / 1024 and (better.n, better.units) == (50, 10)
    values = rng(1).normal(0.3, 1, 50)
    means = values.reshape(CATEGORIES, PICTURES).mean(axis=1)
    found = paired_test(values, np.zeros(50), rng(), clusters=KINDS)
    of_means = paired_test(means, np.zeros(CATEGORIES), rng())
    assert found.p_value == of_means.p_value and found.ci95 == pytest.approx(of_means.ci95)
    assert found.difference == pytest.approx(of_means.difference)
    alone = paired_test(values, np.zeros(50), rng(), flips=999)
    assert alone.units == 50 and alone.least_p == 1 / 1000
    level = np.tile([0.1, 0.2, -0.3, 0.0, 0.0], CATEGORIES)  # every category is a tie but for rounding
    assert paired_test(level, np.zeros(50), rng(), clusters=KINDS).p_value == 1.0


def test_ratio_interval():
    a, b = rng(1).random(50), rng(2).random(50) + 0.5
    low, high = ratio_interval(3 * b, b, rng())
    assert (low, high) == pytest.approx((3, 3)), "what numerator and denominator share moves no ratio"
    low, high = ratio_interval(a, b, rng())
    assert low < a.mean() / b.mean() < high
    wide = ratio_interval(a + 2 * np.repeat(rng(3).random(10), 5), b, rng(), clusters=KINDS)
    assert wide[1] - wide[0] > 2 * (high - low)
    assert ratio_interval(np.full(4, 0.5), np.array([0.0, 0.0, 0.0, 1.0]), rng())[1] == np.inf
    for above, below in ((a, np.zeros(50)), (-a, b), (a[1:], b)):
        with pytest.raises(ValueError, match="expected as many, none below 0"):
            ratio_interval(above, below, rng())


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
    with pytest.raises(ValueError, match=r"0\.\.2 with bounds \(0\.0, 1\.0\)"):
        bootstrap_interval(np.array([0.0, 2.0]), rng(), bounds=(0.0, 1.0))
    with pytest.raises(ValueError, match="1 subject says nothing"):
        subject_interval(np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"shape \(subjects, stimuli\)"):
        subject_interval(np.ones(3))
    with pytest.raises(ValueError, match=r"level=1\.0"):
        subject_interval(np.ones((3, 3)), level=1.0)
    for clusters, message in ((np.zeros(4), "are of 1 cluster"), (np.zeros(3), r"shape \(3,\) for scores \(4,\)")):
        with pytest.raises(ValueError, match=message):
            bootstrap_interval(np.ones(4), rng(), clusters=clusters)
        with pytest.raises(ValueError, match=message):
            paired_test(np.ones(4), np.zeros(4), rng(), clusters=clusters)
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
