"""The tables of README.md from the cells of a comparison on the simulated data set, without training or painting.

    python benchmarks/comparison_rows.py runs/compare-simulated-class --seeds 0

Prints one row a method (averaged test scans, seen categories beside them), the paired tests and gains, and what their
intervals are over. Cells that are not finished are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from visdec_lite.comparison.cells import ComparisonSettings
from visdec_lite.comparison.methods import METHODS
from visdec_lite.comparison.page import collect
from visdec_lite.comparison.tables import Row, aggregate, relative_gains, versus
from visdec_lite.comparison.words import intervals_over

COLUMNS = (("test", "n_way_top1"), ("test_seen", "n_way_top1"), ("test", "pairwise_pcc"), ("test", "pcc"),
           ("test", "ssim"))  # fmt: skip


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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--subjects", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", default=["paper"])
    options = parser.parse_args()
    settings = ComparisonSettings(
        methods=tuple(options.methods), subjects=tuple(options.subjects), seeds=tuple(options.seeds)
    )
    found = collect(settings, options.folder)
    rows = aggregate(found.units)
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
    tests = versus(found.units)
    print(f"\n{len(tests)} paired tests of these subjects, Holm-corrected")
    for test in tests:
        print(
            f"{METHODS[test.method].title:24s} {test.metric:13s} {test.difference:+.3f} [{test.low:+.3f}, "
            f"{test.high:+.3f}], p = {test.p_value:.4f}, corrected {test.p_holm:.4f}, over {test.over}, "
            f"no p below {test.least_p:.4f}"
        )
    for gain in relative_gains(found.units):
        told = "none" if gain.gain is None else f"{gain.gain:+.0%} [{gain.low:+.0%}, {gain.high or float('inf'):+.0%}]"
        print(f"gain over {METHODS[gain.over].title}: {told}, the paper's {gain.paper:+.0%}")
    for cell in found.missing:
        print("not finished:", cell.name)


if __name__ == "__main__":
    main()
