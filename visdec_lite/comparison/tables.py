"""From cells to a table: means with intervals, tests against the method, relative gains.

In: `Unit`s, the scores of one method, subject and seed, one value a stimulus. Out: a `Row` for every method, condition
and metric. Seeds are averaged first, stimulus by stimulus, then stimuli, then subjects:

    one subject       bootstrap over stimuli
    several           bootstrap over subjects, then over stimuli (the same ones for all, where all saw the same)
    a against b       sign flips of the differences, Holm's correction over all tests of the page (`statistics`)
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from visdec_lite.files import atomic_path
from visdec_lite.metrics import BOUNDS
from visdec_lite.statistics import bootstrap_interval, hierarchical_interval, holm, paired_test

OURS = "visdec"
TESTED = ("n_way_top1", "pairwise_pcc")
# Relative gains in 50-way top-1 as Sun et al. (2023) state them for GOD; their Fig. 3 has about 25 against 18 and 6 %.
PAPER_GAINS = {"dc_ldm": 0.39, "ic_gan": 0.67}
RESAMPLES = 2000


@dataclass(frozen=True)
class Unit:
    """Scores of one method on one subject with one seed: condition -> metric -> {"chance", "values"}."""

    method: str
    subject: int
    seed: int
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]]
    truth: Mapping[str, str]  # condition -> hash of the pictures that were seen


@dataclass(frozen=True)
class Row:
    """One number of the comparison.

    Attributes:
        low, high: 95 % interval of the value.
        chance: None for distances between sets of pictures, which have none.
        n: stimuli of one subject.
        seeds: trainings averaged; 1 for a method whose training draws nothing at random.
        seed_sd: standard deviation of a subject's score over seeds, averaged over subjects; None of one seed.
        by_subject: the value of every subject.
    """

    method: str
    condition: str
    metric: str
    value: float
    low: float
    high: float
    chance: float | None
    n: int
    subjects: int
    seeds: int
    seed_sd: float | None
    by_subject: tuple[float, ...]

    def as_score(self) -> dict[str, Any]:
        """As in metrics.json."""
        return {"value": self.value, "ci95": [self.low, self.high], "chance": self.chance}


def aggregate(units: Sequence[Unit]) -> list[Row]:
    """A row for every method, condition and metric, in the order of the units."""
    found: dict[tuple[str, str, str], dict[int, list[tuple[str, Mapping[str, Any]]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for unit in units:
        for condition, scores in unit.scores.items():
            for metric, score in scores.items():
                seen = unit.truth.get(_scans_of(condition), "")
                found[unit.method, condition, metric][unit.subject].append((seen, score))
    return [_row(*key, subjects) for key, subjects in found.items()]


def _row(
    method: str, condition: str, metric: str, subjects: Mapping[int, Sequence[tuple[str, Mapping[str, Any]]]]
) -> Row:
    subjects = dict(sorted(subjects.items()))
    scores = {subject: [score for _, score in seeds] for subject, seeds in subjects.items()}
    everything = [score for seeds in scores.values() for score in seeds]
    chances = [score["chance"] for score in everything]
    spreads = [np.std([_mean(score) for score in seeds], ddof=1) for seeds in scores.values() if len(seeds) > 1]
    by_subject = tuple(float(np.mean([_mean(score) for score in seeds])) for seeds in scores.values())
    value = float(np.mean(by_subject))
    if "values" in everything[0]:
        values = np.stack([np.mean([score["values"] for score in seeds], axis=0) for seeds in scores.values()])
        low, high = interval_over(values, _shared(subjects.values()), BOUNDS.get(metric, (0.0, 1.0)))
        n = values.shape[1]
    else:  # a distance between sets: the jackknife's error of one cell, and how far subjects differ
        n, error = everything[0]["n"], float(np.mean([score["error"] for score in everything]))
        if len(by_subject) > 1:
            error = float(np.sqrt((error**2 + np.var(by_subject, ddof=1)) / len(by_subject)))
        low, high = value - 1.96 * error, value + 1.96 * error
    return Row(
        method, condition, metric, value, low, high,
        chance=None if None in chances else float(np.mean(chances)),
        n=n, subjects=len(scores), seeds=min(map(len, scores.values())),
        seed_sd=float(np.mean(spreads)) if spreads else None, by_subject=by_subject,
    )  # fmt: skip


def _mean(score: Mapping[str, Any]) -> float:
    return float(score["value"] if "value" in score else np.mean(score["values"]))


def _scans_of(condition: str) -> str:
    """Curves and controls show the pictures of `test`."""
    return condition if condition in ("single_trial", "test_seen") else "test"


def _shared(subjects: Iterable[Sequence[tuple[str, Any]]]) -> bool:
    """Whether all subjects saw the same pictures in the same order."""
    seen = {truth for seeds in subjects for truth, _ in seeds}
    return len(seen) == 1 and "" not in seen


def interval_over(values: np.ndarray, shared: bool, bounds: tuple[float, float]) -> tuple[float, float]:
    """95 % interval of scores (subjects, stimuli): over stimuli, and where there are several subjects over both."""
    generator = np.random.default_rng(0)  # the same draws for every row
    if len(values) == 1:
        return bootstrap_interval(values[0], generator, resamples=RESAMPLES, bounds=bounds)
    return hierarchical_interval(values, generator, shared_stimuli=shared, resamples=RESAMPLES, bounds=bounds)


@dataclass(frozen=True)
class Versus:
    """`OURS` against another method on test pictures, repeats averaged.

    Attributes:
        difference: ours minus theirs.
        p_value, p_holm: two-sided; as it is, and corrected for the number of tests.
        n: differences tested: stimuli, of each subject where subjects saw different ones.
    """

    method: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float
    n: int


def versus(units: Sequence[Unit], metrics: Sequence[str] = TESTED) -> list[Versus]:
    """Paired tests of `OURS` against every other method; [] if ours is not among them.

    Scores are averaged over seeds; over subjects too where all saw the same pictures. Where each saw others, every
    subject's stimuli count, and the test speaks of these subjects alone.
    """
    methods = [method for method in dict.fromkeys(unit.method for unit in units) if method != OURS]
    tests = []
    for method in methods:
        for metric in metrics:
            pair = paired_values(units, OURS, method, metric)
            if pair is not None:
                ours, theirs, shared = pair
                a, b = (v.mean(axis=0) if shared else v.ravel() for v in (ours, theirs))
                bounds = BOUNDS.get(metric, (0.0, 1.0))
                tests.append((method, metric, paired_test(a, b, np.random.default_rng(0), bounds=bounds)))
    corrected = holm([test.p_value for *_, test in tests]) if tests else []
    return [
        Versus(method, metric, test.difference, *test.ci95, test.p_value, float(p), test.n)
        for (method, metric, test), p in zip(tests, corrected, strict=True)
    ]


def paired_values(
    units: Sequence[Unit], first: str, second: str, metric: str, condition: str = "test"
) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """Both methods' scores of the subjects that both have, averaged over seeds: two arrays (subjects, stimuli).

    The third is whether all subjects saw the same pictures. None: no subject in common.
    """
    found: dict[str, dict[int, list[Any]]] = {first: defaultdict(list), second: defaultdict(list)}
    truths: dict[int, str] = {}
    for unit in units:
        score = unit.scores.get(condition, {}).get(metric)
        if unit.method in found and score is not None:
            found[unit.method][unit.subject].append(score["values"])
            seen = unit.truth.get(condition, "")
            if truths.setdefault(unit.subject, seen) != seen:
                raise ValueError(
                    f"{unit.method}, subject {unit.subject}, seed {unit.seed} was scored on other test pictures than "
                    "another cell of this subject; expected the same: delete its folder and run it again"
                )
    common = [subject for subject in found[first] if subject in found[second]]
    if not common:
        return None
    a, b = (np.stack([np.mean(found[name][subject], axis=0) for subject in common]) for name in (first, second))
    seen_by = {truths[subject] for subject in common}
    return a, b, len(seen_by) == 1 and "" not in seen_by


@dataclass(frozen=True)
class Gain:
    """Relative gain of `OURS` over a method in n-way top-1, with the paper's.

    Attributes:
        gain: ours / theirs - 1; None where theirs is 0.
        low, high: 95 % bootstrap interval over stimuli (and over subjects, of several); high is None where it has no
            bound, as theirs may be 0.
    """

    over: str
    ours: float
    theirs: float
    gain: float | None
    low: float | None
    high: float | None
    paper: float


def relative_gains(units: Sequence[Unit]) -> list[Gain]:
    """Over the methods of `PAPER_GAINS` that were compared."""
    gains = []
    for over, paper in PAPER_GAINS.items():
        pair = paired_values(units, OURS, over, "n_way_top1")
        if pair is None:
            continue
        ours, theirs, shared = pair
        gain = low = high = None
        if theirs.mean() > 0:
            gain = float(ours.mean() / theirs.mean() - 1)
            low, high = _gain_interval(ours, theirs, shared)
        gains.append(Gain(over, float(ours.mean()), float(theirs.mean()), gain, low, high, paper))
    return gains


def _gain_interval(ours: np.ndarray, theirs: np.ndarray, shared: bool) -> tuple[float, float | None]:
    generator, (subjects, stimuli) = np.random.default_rng(0), ours.shape
    gains = np.empty(RESAMPLES)
    for draw in range(RESAMPLES):
        who = generator.integers(subjects, size=(subjects, 1))
        what = generator.integers(stimuli, size=(1 if shared else subjects, stimuli))
        a, b = ours[who, what].mean(), theirs[who, what].mean()
        gains[draw] = a / b - 1 if b > 0 else (np.inf if a > 0 else 0.0)
    low, high = np.quantile(gains, [0.025, 0.975], method="inverted_cdf")  # which never subtracts two infinities
    return float(low), float(high) if np.isfinite(high) else None


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """results.csv: a line a row; what is not known is empty, subjects are parted by semicolons."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow([column.name for column in fields(Row)])
        for row in rows:
            lines.writerow(_written(value) for value in vars(row).values())


def _written(value: Any) -> Any:
    if isinstance(value, tuple):
        return ";".join(map(repr, value))
    return "" if value is None else value


def read_csv(path: Path) -> list[Row]:
    """The rows of a results.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(
                line["method"], line["condition"], line["metric"],
                *(float(line[name]) for name in ("value", "low", "high")),
                chance=float(line["chance"]) if line["chance"] else None,
                n=int(line["n"]), subjects=int(line["subjects"]), seeds=int(line["seeds"]),
                seed_sd=float(line["seed_sd"]) if line["seed_sd"] else None,
                by_subject=tuple(map(float, line["by_subject"].split(";"))),
            )
            for line in csv.DictReader(file)
        ]  # fmt: skip
