"""What `visdec-lite compare` does with its words: settings, cells, results.

In: settings; lists as text. Out: a folder of results, and whether a cell failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib

from visdec_lite import chain
from visdec_lite.comparison.cells import ComparisonSettings, plan
from visdec_lite.comparison.methods import choose_methods, trained_for
from visdec_lite.comparison.page import write_results
from visdec_lite.comparison.runner import describe, run_cells
from visdec_lite.comparison.tables import Row
from visdec_lite.comparison.words import intervals_over, tables
from visdec_lite.devices import check_device
from visdec_lite.processes import locked


def run_comparison(
    settings: ComparisonSettings, out: Path, *, workers: int | None = None, say: Callable[[str], None]
) -> bool:
    """Run or finish a comparison; returns whether a cell failed.

    Args:
        workers: see `runner.run_cells`.
        say: told what happens, a line at a time.

    Raises:
        ValueError: no such method, data or device, settings that do not fit what `out` holds, another process at it,
            or not one cell finished.
        CannotWrite: `out` cannot be made or written.
    """
    started = time.perf_counter()
    chosen = choose_methods(settings.methods)
    check_cells(settings)
    if workers is not None and workers > (cores := joblib.cpu_count()):
        say(f"workers {cores}, not {workers}: each has one thread, and this machine has {cores} cores")
        workers = cores
    with locked(out):
        say(f"methods {', '.join(method.name for method in chosen)}")
        errors = run_cells(settings, out, workers=workers, say=say)
        say("results intervals, tests, figures")
        results = write_results(settings, out, errors)
    say(summary(results))
    for cell, error in errors.items():
        say(f"FAILED  {describe(cell)}: {error}")
    say(f"done    {out / 'report.html'} ({(time.perf_counter() - started) / 60:.1f} min)")
    return bool(errors)


def check_cells(settings: ComparisonSettings) -> None:
    """What every cell would stumble over, said once and before the first: device, data, trials, sizes.

    Raises:
        ValueError, FileNotFoundError: no such device or data, fewer trials than asked, or a preset that does not fit.
    """
    for method in trained_for(choose_methods(settings.methods)):
        preset = settings.preset_of(method, settings.seeds[0])
        check_device(settings.device, preset.trainings().values())
    first = plan(settings)[0]
    data = settings.load(replace(first, trials=max(settings.trials, default=None)))
    chain.check_sizes(preset, chain.ready_for(data, preset).num_voxels)


def summary(results: dict[str, Any]) -> str:
    """The leaderboard as text."""
    rows = [Row(**{**row, "by_subject": tuple(row["by_subject"])}) for row in results["rows"]]
    header, lines = next(iter(tables(results, rows).values()))
    said = "SIMULATED data, " if results["simulated"] else ""
    text = [f"{said}{results['n_test']} test stimuli a subject; score [95 % interval over {intervals_over(rows)}]"]
    columns = [(line[0], line[2], line[5]) for line in (("", *header[1:]), *lines)]
    widths = [2 + max(map(len, column)) for column in zip(*columns, strict=True)]
    text += ["".join(f"{word:{width}}" for word, width in zip(c, widths, strict=True)).rstrip() for c in columns]
    return "\n".join(text)


def split_list(words: str) -> list[str]:
    """Words parted by commas or spaces."""
    return words.replace(",", " ").split()


def whole_numbers(words: str, option: str) -> tuple[int, ...]:
    """Numbers parted by commas or spaces.

    Raises:
        ValueError: a word is no whole number.
    """
    try:
        return tuple(int(word) for word in split_list(words))
    except ValueError as error:
        raise ValueError(f"{option} {words!r}: expected whole numbers parted by commas, as {option} 0,1,2") from error
