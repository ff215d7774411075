"""The tables and sentences of a comparison's page.

In: what results.json holds and the rows of results.csv. Out: caption -> (header, rows) for `report.write_report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visdec_lite import plotting
from visdec_lite.comparison.methods import METHODS, PHASE_1, PHASES, TABLE_2
from visdec_lite.comparison.tables import OURS, TESTED, Row

SPACE = "\N{NO-BREAK SPACE}"
Table = tuple[Sequence[str], Sequence[Sequence[Any]]]
GROUPS = {"ours": "this method", "comparator": "comparator", "floor": "floor", "ceiling": "ceiling",
          "ablation": "ablation"}  # fmt: skip
CONDITIONS = {
    "test": "averaged scans",
    "single_trial": "single trials",
    "test_seen": "seen categories",
    "shuffled": "shuffled scans",
}


def how_many(results: Mapping[str, Any]) -> str:
    """Subjects, folds and seeds in words."""
    subjects, seeds = len(results["subjects"]), len(results["seeds"])
    brains = f"{results['folds']} folds" if results["folds"] else f"{subjects} subject{'s' * (subjects > 1)}"
    return f"{brains}, {seeds} seed{'s' * (seeds > 1)}"


def intervals_over(rows: Sequence[Row], condition: str = "test") -> str:
    """What the intervals of accuracies are over, such as "3 subjects, 10 categories"; "" if there are none."""
    return " or ".join(dict.fromkeys(row.over for row in rows if row.condition == condition and row.metric in TESTED))


def answers(results: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """Whether ours or a comparator leads on new pictures, a sentence for each score that is tested."""
    said = []
    tests = {(test["method"], test["metric"]): test for test in results["tests"]}
    for metric in TESTED:
        info = plotting.metric_info(metric, results["n_way"])
        rivals = [row for row in rows if row.condition == "test" and row.metric == metric
                  and (row.method == OURS or METHODS[row.method].group == "comparator")]  # fmt: skip
        if len(rivals) < 2:
            continue
        first, second, *_ = sorted(rivals, key=lambda row: -row.value)
        ours = next((row for row in rivals if row.method == OURS), second)
        other = second if first.method == OURS else ours  # the best of theirs, or the one of ours
        chance = "" if first.chance is None else f"; chance is {info.write(first.chance)}"
        sentence = (
            f"By {info.label}, {METHODS[first.method].title} leads with "
            f"{_with_interval(info, first.value, first.low, first.high)}; {METHODS[other.method].title} has "
            f"{_with_interval(info, other.value, other.low, other.high)}"
        )
        rival = other if first.method == OURS else first
        if test := tests.get((rival.method, metric)):  # tests are against ours, so there are none without it
            told = "a difference" if test["p_holm"] < 0.05 else "too little to tell them apart"
            sentence += f", {told} (corrected p {_p(test['p_holm'], equals='= ')})"
        said.append(f"{sentence}{chance}.")
    return said


def tables(results: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Table]:
    """Every table of the page, those without rows left out."""
    found = {(row.method, row.condition, row.metric): row for row in rows}
    writer = _Writer(results, found)
    scans = "repeats averaged" if results["repeats_averaged"] > 1 else "single trials"
    made = {
        f"Leaderboard: new pictures, {scans}. In brackets the 95 % interval, over {intervals_over(rows)}"
        f"{_tested(results)}": writer.leaderboard(),
        "Relative gains in top-1 accuracy, beside those that the paper states for a human brain (GOD, subject 3)": (
            writer.gains()
        ),
        "The same under other conditions. Shuffled: each picture is judged against another stimulus": (
            writer.conditions()
        ),
        "The shuffled control under every score that has a chance level of its own": writer.shuffled(),
        "Phase 2, in the shape of the paper's Table 2 (the paper's numbers: GOD subject 3)": writer.table_2(),
        "Phase 1, each term of its loss on and off, phase 2 always on": writer.phase_1(),
        "With and without phases 1 and 2": writer.phases(),
        "Every subject, and how much the seed matters": writer.by_subject(),
        "Seconds and parameters, means over cells; cells ran side by side, one thread each": writer.costs(),
        "How each method was tuned: on validation rows only (of the first cell; the others are in cell.json)": (
            writer.tuning()
        ),
        "Cells that are missing here": (("cell", "why"), list(results["missing"].items())),
    }
    return {caption: table for caption, table in made.items() if table[1]}


def _tested(results: Mapping[str, Any]) -> str:
    """What the p-values of the leaderboard are, and how small they could be."""
    tests = results["tests"]
    if not tests:
        return ""
    over = " or ".join(dict.fromkeys(test["over"] for test in tests))
    least = max(test["least_p"] for test in tests)
    return (
        f". p: paired test against visdec, over {over} of these subjects, corrected after Holm for {len(tests)} tests; "
        f"the smallest p of one test is {least:.2g}, of all corrected ones {min(1.0, least * len(tests)):.2g}"
    )


def _with_interval(info: plotting.Metric, value: float, low: float, high: float) -> str:
    """A number and its interval; a line breaks between the two only."""
    ends = f",{SPACE}".join(info.write(bound).removesuffix(" %") for bound in (low, high))
    return f"{info.write(value).replace(' ', SPACE)} [{ends}]"


def _p(value: float, equals: str = "") -> str:
    """A p-value in three digits."""
    return "< 0.001" if value < 0.001 else f"{equals}{value:.3f}"


def _signed(share: float) -> str:
    """A share in whole percent, with its sign."""
    return f"{100 * share:+.0f}".replace("-", plotting.MINUS)


class _Writer:
    def __init__(self, results: Mapping[str, Any], found: Mapping[tuple[str, str, str], Row]) -> None:
        self.results, self.found = results, found
        self.names = list(results["methods"])

    def info(self, metric: str) -> plotting.Metric:
        return plotting.metric_info(metric, self.results["n_way"])

    def head(self, metric: str) -> str:
        rows = [row for (_, condition, name), row in self.found.items() if (condition, name) == ("test", metric)]
        chances = {row.chance for row in rows}
        chance = f", chance {self.info(metric).write(*chances)}" if len(chances) == 1 and None not in chances else ""
        return f"{self.info(metric).label}{chance}"

    def value(self, method: str, condition: str, metric: str) -> str:
        row = self.found.get((method, condition, metric))
        if row is None:
            return plotting.MISSING
        info = self.info(metric)
        return _with_interval(info, row.value, row.low, row.high)

    def title(self, method: str) -> str:
        return METHODS[method].title

    def leaderboard(self) -> Table:
        tests = {(test["method"], test["metric"]): test for test in self.results["tests"]}
        header = ["method", "what it is"]
        for metric in TESTED:
            header += [self.head(metric), "visdec minus it", "p"]
        order = list(GROUPS)

        def rank(method: str) -> tuple[int, float]:
            group = METHODS[method].group
            row = self.found.get((method, "test", TESTED[0]))
            return max(0, order.index(group) - 1), -(row.value if row else 0.0)  # ours among the comparators

        lines = []
        for method in sorted(self.names, key=rank):
            paper = METHODS[method].paper
            what = {"ours": f"this method: {paper}", "ablation": "this method, changed"}
            line = [self.title(method), what.get(METHODS[method].group, paper)]
            for metric in TESTED:
                test = tests.get((method, metric))
                line += [self.value(method, "test", metric), *self._test(test, metric)]
            lines.append(line)
        return header, lines

    def _test(self, test: Mapping[str, Any] | None, metric: str) -> tuple[str, str]:
        if test is None:
            return plotting.MISSING, plotting.MISSING
        info = self.info(metric)
        return _with_interval(info, test["difference"], test["low"], test["high"]), _p(test["p_holm"])

    def gains(self) -> Table:
        lines = []
        for gain in self.results["gains"]:
            chance = self.found[gain["over"], "test", "n_way_top1"]
            ours = "none: it scores 0"
            if gain["gain"] is not None:
                high = "no bound" if gain["high"] is None else _signed(gain["high"])
                ours = f"{_signed(gain['gain'])}{SPACE}% [{_signed(gain['low'])},{SPACE}{high}]"
            doubt = ""
            if chance.chance is not None and chance.low <= chance.chance:
                doubt = "its interval includes chance: a ratio to it says little"
            lines.append((f"visdec over {self.title(gain['over'])}", ours, f"+{100 * gain['paper']:.0f} %", doubt))
        over = " or ".join(dict.fromkeys(gain["units"] for gain in self.results["gains"]))
        here = f"here [95 % interval over {over} of these subjects]"
        return ("gain", here, "stated in the paper", "note"), lines

    def conditions(self) -> Table:
        there = [name for name in CONDITIONS if any(key[1] == name for key in self.found)]
        names = {c: f"{CONDITIONS[c]} (over {intervals_over(list(self.found.values()), c)})" for c in there}
        header = ["method", *(f"{names[c]}, {self.info(m).label}" for c in there[1:] for m in TESTED)]
        return header, [
            [self.title(name), *(self.value(name, c, m) for c in there[1:] for m in TESTED)] for name in self.names
        ]

    def shuffled(self) -> Table:
        metrics = [m for m in plotting.metric_names({"": {key[2]: 0 for key in self.found}})
                   if m.startswith(("n_way", "pairwise"))]  # fmt: skip
        return ["method", *map(self.head, metrics)], [
            [self.title(name), *(self.value(name, "shuffled", metric) for metric in metrics)] for name in self.names
        ]

    def table_2(self) -> Table:
        lines = [
            (*(f"{number:g}" for number in TABLE_2[name][1]), self.value(name, "test", "n_way_top1"),
             self.value(name, "test", "pairwise_pcc"), f"{TABLE_2[name][2]} %")
            for name in self.names if name in TABLE_2
        ]  # fmt: skip
        header = ("g_F", "g_I", "fMRI mask", "image mask", *map(self.head, TESTED), "the paper's 50-way top-1")
        ours = [f"{number:g}" for number in self.results["fusion"].values()]
        return header, [*lines, *self._full(ours, ("(as visdec is here)",))] if lines else []

    def phase_1(self) -> Table:
        lines = [
            (*("on" if on else "off" for on in PHASE_1[name]), *(self.value(name, "test", m) for m in TESTED))
            for name in self.names if name in PHASE_1
        ]  # fmt: skip
        header = ("reconstruction", "cross-contrast", "self-contrast", *map(self.head, TESTED))
        return header, [*self._full(["on"] * 3), *lines] if lines else []

    def phases(self) -> Table:
        lines = [
            (*("without" if stage in PHASES[name] else "with" for stage in ("pretrain", "fuse")),
             *(self.value(name, "test", m) for m in TESTED))
            for name in self.names if name in PHASES
        ]  # fmt: skip
        return ("phase 1", "phase 2", *map(self.head, TESTED)), [*self._full(["with"] * 2), *lines] if lines else []

    def _full(self, words: Sequence[str], more: Sequence[str] = ()) -> list[tuple[str, ...]]:
        """The full method's line of an ablation table, its scores between `words` and `more`."""
        if OURS not in self.names:
            return []
        return [(*words, *(self.value(OURS, "test", metric) for metric in TESTED), *more)]

    def by_subject(self) -> Table:
        metric = TESTED[0]
        brains = [] if self.results["folds"] else [f"subject {number}" for number in sorted(self.results["subjects"])]
        lines = []
        for name in self.names:
            row = self.found.get((name, "test", metric))
            if row is not None and (len(row.by_subject) == len(brains) or not brains):
                spread = plotting.MISSING if row.seed_sd is None else f"{100 * row.seed_sd:.1f}"
                each = map(self.info(metric).write, row.by_subject if brains else ())
                lines.append((self.title(name), *each, row.seeds, spread))
        return ("method", *brains, "seeds", f"standard deviation over seeds ({self.info(metric).label}, %)"), lines

    def costs(self) -> Table:
        lines = []
        for name in self.names:
            about = self.results["methods"][name]
            stages = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in about["seconds_by_stage"].items())
            derived = METHODS[name].derived_from
            seconds = f"those of {derived}" if derived else f"{about['seconds']:.0f}"
            lines.append((self.title(name), f"{about['num_parameters']:,}", seconds, "" if derived else stages,
                          about["cells"]))  # fmt: skip
        return ("method", "parameters", "seconds a cell", "of which", "cells"), lines

    def tuning(self) -> Table:
        lines = []
        for name in self.names:
            about = self.results["methods"][name]
            how = "; ".join(about["tuning"]) or "nothing to choose"
            if METHODS[name].derived_from:
                how = f"as {METHODS[name].derived_from}"
            changes = ", ".join(f"{field} {value:g}" for field, value in about["overrides"].items()) or "none"
            lines.append((self.title(name), how, changes))
        return ("method", "chosen on validation", "preset fields changed by definition"), lines


def _why(results: Mapping[str, Any], rows: Sequence[Row]) -> str:
    if results["folds"]:
        return (
            "every category was learnt, so the claim is about other trials of them. Folds share training trials, "
            "which no interval here knows."
        )
    if "categories" not in intervals_over(rows):
        return "every category was learnt, so the claim is about other pictures of them."
    return (
        "the test pictures are of categories without a training scan, the claim is about other such categories, and "
        "all pictures of one stand or fall together. Scores of seen categories are over stimuli: other pictures of the "
        "same categories."
    )


def notes(results: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """Limits of this comparison, a sentence each."""
    said = [
        "Every method saw the same scans, the same split and the same seeds, and every score comes from the same code; "
        "floors read no scan (or only look them up), ceilings know the answer.",
        "The diffusion models share one shipped prior, one number of fine-tuning steps and one guidance, chosen for "
        "the full method; DC-LDM is this method's own stages with the reconstruction term alone and no phase 2, not "
        "its authors' code. The steps of phase 2 come on top.",
        "Feature scores (LPIPS-like, features, KID) use the network of the referee itself: they are no second opinion "
        "on the n-way accuracies. KID's features are divided by their root mean square over the true pictures; its "
        "interval is the jackknife's of one cell, over stimuli, and, of several subjects, how far they differ: for new "
        "categories it is too narrow. Near-copies of the true pictures fall below 0: the two sets are then no "
        "independent draws.",
        "The pictures of the leaderboard are painted with all samples, those of every other condition with two a scan.",
        "The gallery shows stimuli chosen by the rank of visdec's own score, every method's first sample.",
    ]
    if results["folds"]:
        said.append(
            "The diffusion models' settings were chosen on validation trials of three folds, which are test trials of "
            "others, and the moments at which training is looked at after all folds had been scored once "
            "(benchmarks/RESULTS.md): their scores may be a little too kind."
        )
    said.append(f"Intervals are over {intervals_over(rows)}, seeds averaged: {_why(results, rows)}")
    if len(results["subjects"]) > 1 and not results["folds"]:
        said.append(
            f"Over subjects, that is for other brains of this kind, an interval of {len(results['subjects'])} covers "
            "about what it says (in simulations of 3 subjects 92 to 99 % of 95 %; drawing subjects with replacement "
            "would cover 70 %), and is as wide as that needs. The paired tests speak of these subjects alone."
        )
    if len(results["seeds"]) == 1:
        said.append(
            "One training a method and brain: intervals and tests do not know how much a training differs from the "
            "next, and trained anew with another seed a method may stand higher or lower than they say."
        )
    shuffled = {row.method: row for row in rows if row.condition == "shuffled" and row.metric == "n_way_top1"}
    told = shuffled.get("label_told")
    if told is not None and told.chance is not None:
        said.append(
            f"Shuffled, the prior told the label scores {100 * told.value:.1f} % top-1, not {100 * told.chance:.1f} %: "
            "several test pictures share a category, and another stimulus may be of the right one."
        )
    if any(row.method == "ic_gan" for row in rows):
        said.append(
            "The paper states +67 % over IC-GAN; its Fig. 3, read off, has 25 % against 6 %, which is +317 %. Both "
            "are of another brain and other pictures: compare orders, not numbers."
        )
    return said
