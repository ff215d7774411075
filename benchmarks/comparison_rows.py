"""The tables of README.md from the cells of a comparison on the simulated data set, without training or painting.

    python benchmarks/comparison_rows.py runs/compare-simulated-class

Prints one row a method (averaged test scans, seen categories beside them), the paired tests and gains, and what their
intervals are over. Reads nothing but the scores.json of every finished cell of all training trials, of this version or
an earlier one; categories come from the data set, whose test pictures must be those that were scored.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from visdec_lite.comparison.cells import Cell, ComparisonSettings
from visdec_lite.comparison.methods import METHODS
from visdec_lite.comparison.page import labels_of_test, new_categories
from visdec_lite.comparison.tables import Row, Unit, aggregate, relative_gains, versus
from visdec_lite.comparison.words import intervals_over

COLUMNS = (("test", "n_way_top1"), ("test_seen", "n_way_top1"), ("test", "pairwise_pcc"), ("test", "pcc"),
           ("test", "ssim"))  # fmt: skip


def units_of(folder: Path) -> list[Unit]:
    units, labels = [], {}
    for path in sorted(folder.glob("cells/*/subject*-seed*/scores.json")):
        subject, seed, *fewer = path.parent.name.removeprefix("subject").replace("seed", "").split("-")
        if fewer:
            continue
        cell = Cell(path.parent.parent.name, int(subject), int(seed))
        if cell.subject not in labels:
            labels[cell.subject] = labels_of_test(ComparisonSettings(), cell)
        kept = json.loads(path.read_text(encoding="utf-8"))
        categories = new_categories(labels[cell.subject], kept["truth"])
        units += [Unit(m, cell.subject, cell.seed, s, kept["truth"], categories) for m, s in kept["scores"].items()]
    order = list(METHODS)
    return sorted(units, key=lambda unit: order.index(unit.method))


def written(row: Row | None) -> str:
    if row is None:
        return ""
    if row.metric == "n_way_top1":
        return f"{100 * row.value:.0f} % [{100 * row.low:.0f}, {100 * row.high:.0f}]"
    return f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]"


def of_condition(rows: Sequence[Row], method: str, condition: str) -> str:
    found = next((r for r in rows if (r.method, r.condition, r.metric) == (method, condition, "n_way_top1")), None)
    return "-" if found is None else ", ".join(f"{100 * value:.0f}" for value in found.by_subject)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    units = units_of(parser.parse_args().folder)
    rows = aggregate(units)
    cells = {(row.method, row.condition, row.metric): row for row in rows}
    methods = list(dict.fromkeys(row.method for row in rows))
    print("SIMULATED data\n")
    print(
        "| | 50-way top-1 (chance 2 %) | seen categories | pairwise, PCC (chance 0.5) | PCC | SSIM |\n"
        + "|---" * 6
        + "|"
    )
    for method in methods:
        print(f"| {METHODS[method].title} |", " | ".join(written(cells.get((method, *key))) for key in COLUMNS), "|")
    for condition in ("test", "test_seen"):
        print(f"\nintervals of {condition}: over {intervals_over(rows, condition)}")
    print("\ntop-1 by subject, %: averaged; single trials; shuffled; noise of two standard deviations")
    for method in methods:
        words = (of_condition(rows, method, name) for name in ("test", "single_trial", "shuffled", "noise_2"))
        print(f"{METHODS[method].title:24s}", "; ".join(words))
    tests = versus(units)
    print(f"\n{len(tests)} paired tests of these subjects, Holm-corrected")
    for test in tests:
        print(
            f"{METHODS[test.method].title:24s} {test.metric:13s} {test.difference:+.3f} [{test.low:+.3f}, "
            f"{test.high:+.3f}], p = {test.p_value:.4f}, corrected {test.p_holm:.4f}, over {test.over}, "
            f"no p below {test.least_p:.4f}"
        )
    for gain in relative_gains(units):
        told = "none" if gain.gain is None else f"{gain.gain:+.0%} [{gain.low:+.0%}, {gain.high or float('inf'):+.0%}]"
        print(f"gain over {METHODS[gain.over].title}: {told}, the paper's {gain.paper:+.0%}")


if __name__ == "__main__":
    main()
