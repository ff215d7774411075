"""From cells to a table: means with intervals, tests against the method, relative gains.

In: `Unit`s, the scores of one method, subject and seed, one value a stimulus. Out: a `Row` for every method, condition
and metric. Seeds are averaged first, stimulus by stimulus, then stimuli, then subjects:

    one subject       bootstrap over what repeats
    several           the variance over subjects and that over what repeats, Student's t
    a against b       sign flips of the differences of what repeats, Holm's correction over all tests of the page

What repeats are categories where the decoder has not learnt them, else stimuli (`statistics`). Every comparator and
ablation is tested. Floors and ceilings are not: they read no scan or know the answer, so nobody claims to beat them
by decoding, and each test more makes the correction of all others harsher; of 10 categories no p is below 0.002.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from visdec_lite.comparison.methods import METHODS
from visdec_lite.files import atomic_path
from visdec_lite.metrics import BOUNDS
from visdec_lite.statistics import bootstrap_interval, holm, paired_test, ratio_interval, subject_interval

OURS = "visdec"
TESTED = ("n_way_top1", "pairwise_pcc")
TESTED_GROUPS = ("comparator", "ablation")
# Relative gains in 50-way top-1 as Sun et al. (2023) state them for GOD; their Fig. 3 has about 25 against 18 and 6 %.
PAPER_GAINS = {"dc_ldm": 0.39, "ic_gan": 0.67}
RESAMPLES = 2000


@dataclass(frozen=True)
class Unit:
    """Scores of one method on one subject with one seed: condition -> metric -> {"chance", "values"}.

    `truth` is the hash of the pictures that were seen, `categories` the category of each where they are new to the
    decoder; both by condition.
    """

    method: str
    subject: int
    seed: int
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]]
    truth: Mapping[str, str]
    categories: Mapping[str, Sequence[int]] = field(default_factory=dict)


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
        over: what the interval is over, such as "3 subjects, 10 categories".
        identity: 16 digits for all that shaped the cells behind it, see `cells.identity_of`.
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
    over: str
    identity: str = ""

    def as_score(self) -> dict[str, Any]:
        """As in metrics.json."""
        return {"value": self.value, "ci95": [self.low, self.high], "over": self.over, "chance": self.chance}


def aggregate(units: Sequence[Unit]) -> list[Row]:
    """A row for every method, condition and metric, in the order of the units."""
    found: dict[tuple[str, str, str], dict[int, list[Unit]]] = defaultdict(lambda: defaultdict(list))
    for unit in units:
        for condition, scores in unit.scores.items():
            for metric in scores:
                found[unit.method, condition, metric][unit.subject].append(unit)
    return [_row(*key, subjects) for key, subjects in found.items()]


def _row(method: str, condition: str, metric: str, subjects: Mapping[int, Sequence[Unit]]) -> Row:
    subjects = dict(sorted(subjects.items()))
    scores = {name: [unit.scores[condition][metric] for unit in seeds] for name, seeds in subjects.items()}
    everything = [score for seeds in scores.values() for score in seeds]
    chances = [score["chance"] for score in everything]
    spreads = [np.std([_mean(score) for score in seeds], ddof=1) for seeds in scores.values() if len(seeds) > 1]
    by_subject = tuple(float(np.mean([_mean(score) for score in seeds])) for seeds in scores.values())
    value = float(np.mean(by_subject))
    if "values" in everything[0]:
        values = np.stack([np.mean([score["values"] for score in seeds], axis=0) for seeds in scores.values()])
        n = values.shape[1]
        clusters, over = clusters_of([seeds[0] for seeds in subjects.values()], condition, n)
        low, high = interval_over(values, clusters, BOUNDS.get(metric, (0.0, 1.0)))
    else:  # a distance between sets: the jackknife's error of one cell, and how far subjects differ
        n, error = everything[0]["n"], float(np.mean([score["error"] for score in everything]))
        over, reach = f"{n} stimuli", stdtrit(n - 1, 0.975) * error
        if len(by_subject) > 1:
            within, between = error**2 / len(by_subject), np.var(by_subject, ddof=1) / len(by_subject)
            freedom = (within + between) ** 2 / (within**2 / (n - 1) + between**2 / (len(by_subject) - 1))
            reach = stdtrit(freedom, 0.975) * np.sqrt(within + between)
        low, high = value - float(reach), value + float(reach)
    return Row(
        method, condition, metric, value, low, high,
        chance=None if None in chances else float(np.mean(chances)),
        n=n, subjects=len(scores), seeds=min(map(len, scores.values())),
        seed_sd=float(np.mean(spreads)) if spreads else None, by_subject=by_subject,
        over=f"{len(scores)} subjects, {over}" if len(scores) > 1 else over,
    )  # fmt: skip


def _mean(score: Mapping[str, Any]) -> float:
    return float(score["value"] if "value" in score else np.mean(score["values"]))


def interval_over(values: np.ndarray, clusters: np.ndarray, bounds: tuple[float, float]) -> tuple[float, float]:
    """95 % interval of scores (subjects, stimuli), over their `clusters`, and over subjects where there are several."""
    if len(values) > 1:
        return subject_interval(values, clusters=clusters, bounds=bounds)
    generator = np.random.default_rng(0)  # the same draws for every row
    return bootstrap_interval(values[0], generator, resamples=RESAMPLES, bounds=bounds, clusters=clusters[0])


def clusters_of(units: Sequence[Unit], condition: str, stimuli: int) -> tuple[np.ndarray, str]:
    """What an interval over these subjects, a unit of each, draws again, and that in words.

    Categories where they are new to the decoder; else stimuli, those that all subjects saw being the same.

    Returns:
        Labels (subjects, stimuli), equal ones are one unit; such as "10 categories".
    """
    scans = _scans_of(condition)
    categories = [unit.categories.get(scans) for unit in units]
    shape = (len(units), stimuli)
    if all(found is not None for found in categories):
        labels = np.array(categories).reshape(shape)
        return labels, f"{len(np.unique(labels))} categories"
    seen = {unit.truth.get(scans, "") for unit in units}
    if len(seen) == 1 and "" not in seen:
        return np.tile(np.arange(stimuli), (len(units), 1)), f"{stimuli} stimuli"
    return np.arange(np.prod(shape)).reshape(shape), f"{len(units) * stimuli} stimuli"


def _scans_of(condition: str) -> str:
    """Curves and controls show the pictures of `test`."""
    return condition if condition in ("single_trial", "test_seen") else "test"


@dataclass(frozen=True)
class Versus:
    """`OURS` against another method on test pictures, repeats averaged.

    Attributes:
        difference: ours minus theirs.
        p_value, p_holm: two-sided; as it is, and corrected for the number of tests.
        over: whose differences changed their signs, such as "10 categories".
        least_p: the smallest p_value that so many can give.
    """

    method: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float
    over: str
    least_p: float


def versus(units: Sequence[Unit], metrics: Sequence[str] = TESTED) -> list[Versus]:
    """Paired tests of `OURS` against every comparator and ablation; [] if ours is not among them.

    Scores are averaged over seeds. The test speaks of these subjects alone: what is flipped are their common
    categories, stimuli that all of them saw, or else every stimulus.
    """
    methods = [name for name in dict.fromkeys(unit.method for unit in units) if METHODS[name].group in TESTED_GROUPS]
    tests = []
    for method in methods:
        for metric in metrics:
            pair = paired_values(units, OURS, method, metric)
            if pair is not None:
                test = paired_test(
                    pair.ours.ravel(), pair.theirs.ravel(), np.random.default_rng(0), clusters=pair.clusters.ravel(),
                    bounds=BOUNDS.get(metric, (0.0, 1.0)),
                )  # fmt: skip
                tests.append((method, metric, pair.over, test))
    corrected = holm([test.p_value for *_, test in tests]) if tests else []
    return [
        Versus(method, metric, test.difference, *test.ci95, test.p_value, float(p), over, test.least_p)
        for (method, metric, over, test), p in zip(tests, corrected, strict=True)
    ]


@dataclass(frozen=True)
class Pair:
    """Scores of two methods on the same stimuli, averaged over seeds: each (subjects, stimuli); see `clusters_of`."""

    ours: np.ndarray
    theirs: np.ndarray
    clusters: np.ndarray
    over: str


def paired_values(units: Sequence[Unit], first: str, second: str, metric: str, condition: str = "test") -> Pair | None:
    """Both methods' scores of the subjects that both have; None: no subject in common."""
    found: dict[str, dict[int, list[Any]]] = {first: defaultdict(list), second: defaultdict(list)}
    firsts: dict[int, Unit] = {}
    for unit in units:
        score = unit.scores.get(condition, {}).get(metric)
        if unit.method in found and score is not None:
            found[unit.method][unit.subject].append(score["values"])
            if firsts.setdefault(unit.subject, unit).truth.get(condition, "") != unit.truth.get(condition, ""):
                raise ValueError(
                    f"{unit.method}, subject {unit.subject}, seed {unit.seed} was scored on other test pictures than "
                    "another cell of this subject; expected the same: delete its folder and run it again"
                )
    common = [subject for subject in found[first] if subject in found[second]]
    if not common:
        return None
    a, b = (np.stack([np.mean(found[name][subject], axis=0) for subject in common]) for name in (first, second))
    return Pair(a, b, *clusters_of([firsts[subject] for subject in common], condition, a.shape[1]))


@dataclass(frozen=True)
class Gain:
    """Relative gain of `OURS` over a method in n-way top-1, with the paper's.

    Attributes:
        gain: ours / theirs - 1; None where theirs is 0.
        low, high: 95 % bootstrap interval over what the paired test flips, of these subjects alone; high is None where
            it has no bound, as theirs may be 0.
        units: what that is, in words.
    """

    over: str
    ours: float
    theirs: float
    gain: float | None
    low: float | None
    high: float | None
    paper: float
    units: str


def relative_gains(units: Sequence[Unit]) -> list[Gain]:
    """Over the methods of `PAPER_GAINS` that were compared."""
    gains = []
    for over, paper in PAPER_GAINS.items():
        pair = paired_values(units, OURS, over, "n_way_top1")
        if pair is None:
            continue
        ours, theirs = float(pair.ours.mean()), float(pair.theirs.mean())
        gain = low = high = None
        if theirs > 0:
            low, high = ratio_interval(
                pair.ours.ravel(), pair.theirs.ravel(), np.random.default_rng(0), clusters=pair.clusters.ravel()
            )
            gain, low, high = ours / theirs - 1, low - 1, high - 1 if np.isfinite(high) else None
        gains.append(Gain(over, ours, theirs, gain, low, high, paper, pair.over))
    return gains


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
                over=line["over"], identity=line["identity"],
            )
            for line in csv.DictReader(file)
        ]  # fmt: skip
