"""What a comparison found: results.csv, results.json, figures, and a page for a sceptic.

In: the finished cells of a folder. Out, beside them: results.csv (a row a method, condition and metric), results.json
(the same with tests, gains, tuning), leaderboard.png, gallery.png, curves.png, report.html. What is not there (a cell
that failed or was cut) is left out and named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from visdec_lite import chain, plotting
from visdec_lite.comparison import figures, words
from visdec_lite.comparison.cells import (
    Cell,
    ComparisonSettings,
    folder_of,
    is_finished,
    kept_pictures,
    kept_record,
    plan,
)
from visdec_lite.comparison.figures import shown_name
from visdec_lite.comparison.methods import FUSION_FIELDS, METHODS, choose_methods
from visdec_lite.comparison.runner import describe
from visdec_lite.comparison.scores import MEAN_OF_SAMPLES, Pictures, mean_of_samples, pooled, score_pictures
from visdec_lite.comparison.tables import OURS, Row, Unit, aggregate, relative_gains, versus, write_csv
from visdec_lite.demo import LIMITS, versions
from visdec_lite.files import read_json, write_json
from visdec_lite.report import write_report

HEADLINES = ("n_way_top1", "n_way_top5", "pairwise_pcc", "pcc", "ssim", "mse")  # of leaderboard.png
CURVED = ("ours", "comparator")  # groups whose curves are drawn
CHOSEN_BY = "pairwise_pcc"


@dataclass
class Found:
    """What the cells of a folder hold.

    Attributes:
        units: scores, for `tables`.
        records: method -> cell.json of its cells, those of all training trials first.
        shown: method -> test pictures of the first subject and seed.
        missing: cells that are not finished.
    """

    units: list[Unit]
    records: dict[str, list[dict[str, Any]]]
    shown: dict[str, Pictures]
    missing: list[Cell]


def collect(settings: ComparisonSettings, out: Path) -> Found:
    """Read every finished cell; the folds of a data set are pooled, then scored."""
    cells = plan(settings)
    missing = [cell for cell in cells if not is_finished(out, cell)]
    groups: dict[tuple[str, int, int, int | None], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.method, cell.subject, cell.seed, cell.trials].append(cell)
    units, records, shown, whole = [], defaultdict(list), {}, []
    for (method, subject, seed, trials), members in groups.items():
        if any(cell in missing for cell in members):
            continue
        records[method] += [kept_record(out, cell) for cell in members]
        kept = _scores_of(settings, out, method, seed, members)
        for name, scores in kept["scores"].items():
            if trials is not None:
                scores = {f"trials_{trials}": scores["test"]}
            units.append(Unit(name, subject, seed, scores, kept["truth"]))
        if trials is None:
            whole.append((method, subject, seed))
    _check_same_data(records)
    for method, subject, seed in _of_one_brain(whole):
        shown[method] = _pictures_of(out, groups[method, subject, seed, None])["test"]
        if derived := MEAN_OF_SAMPLES.get(method):
            shown[derived] = mean_of_samples(shown[method])
    order = [method.name for method in choose_methods(settings.methods)]
    order = [name for name in METHODS if name in order or name == OURS]
    units = sorted((unit for unit in units if unit.method in order), key=lambda unit: order.index(unit.method))
    return Found(units, dict(records), {name: shown[name] for name in order if name in shown}, missing)


def _check_same_data(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Cells of one brain and fold have learnt from the same data.

    Raises:
        ValueError: fingerprints differ.
    """
    found: dict[tuple[int, str], str] = {}
    for record in (record for of_method in records.values() for record in of_method):
        cell, mark = record["cell"], record["fingerprint"]
        before = found.setdefault((cell["subject"], str(cell["fold"])), mark)
        if mark != before:
            raise ValueError(
                f"{cell['method']}, subject {cell['subject']}, fold {cell['fold']} learnt from data {mark[:12]}, other "
                f"methods from {before[:12]}; use another --out for other data"
            )


def _of_one_brain(finished: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Of each method the (method, subject, seed) that goes with the first of ours; without ours the first."""
    ours = next((key for key in finished if key[0] == OURS), None)
    chosen: dict[str, tuple[str, int, int]] = {}
    for method, subject, seed in finished:
        fits = ours is None or (subject == ours[1] and (seed == ours[2] or not METHODS[method].seeded))
        if fits:
            chosen.setdefault(method, (method, subject, seed))
    return list(chosen.values())


def _scores_of(
    settings: ComparisonSettings, out: Path, method: str, seed: int, members: Sequence[Cell]
) -> dict[str, Any]:
    kept = folder_of(out, members[0]) / "scores.json"
    if members[0].fold is None and kept.exists():
        return read_json(kept)
    preset = settings.preset_of(METHODS[method], seed)
    referee = chain.load_world(chain.shipped(settings.dataset), preset).classifier
    return score_pictures(method, _pictures_of(out, members), referee, seed)


def _pictures_of(out: Path, members: Sequence[Cell]) -> dict[str, Pictures]:
    parts = [kept_pictures(folder_of(out, cell) / "pictures.npz") for cell in members]
    return parts[0] if len(parts) == 1 else pooled(parts)


def write_results(settings: ComparisonSettings, out: Path, errors: Mapping[Cell, str]) -> dict[str, Any]:
    """Every file of the module text; returns what results.json holds.

    Raises:
        ValueError: not one cell is finished.
    """
    found = collect(settings, out)
    if not found.units:
        failed = "; ".join(f"{describe(cell)}: {error}" for cell, error in list(errors.items())[:3])
        raise ValueError(f"0 of {len(plan(settings))} cells are finished in {out}, at least 1 is needed. {failed}")
    rows = aggregate(found.units)
    results = _results(settings, found, rows, errors)
    styles = plotting.method_styles([shown_name(name) for name in dict.fromkeys(row.method for row in rows)])
    scores = _scores(rows)
    leaderboard = partial(
        plotting.score_chart,
        {name: {m: s for m, s in found_scores.items() if m in HEADLINES} for name, found_scores in scores.items()},
        simulated=results["simulated"], n_test=results["n_test"], repeats_averaged=results["repeats_averaged"],
        n_way=results["n_way"], title=f"Leaderboard: {words.how_many(results)}", over=words.intervals_over(results),
        panel_columns=3,
    )  # fmt: skip
    gallery = _gallery(found, results)
    curves = _curves(rows, found, results, styles)
    plotting.save_figure(leaderboard(), out / "leaderboard.png")
    if gallery:
        plotting.save_figure(gallery(), out / "gallery.png")
    if curves:
        plotting.save_figure(curves(), out / "curves.png")
    write_csv(out / "results.csv", rows)
    _write_page(settings, out, results, rows, scores, gallery, curves)
    write_json(out / "results.json", results)
    return results


def _results(
    settings: ComparisonSettings, found: Found, rows: Sequence[Row], errors: Mapping[Cell, str]
) -> dict[str, Any]:
    records = [record for of_method in found.records.values() for record in of_method]
    top1 = [row for row in rows if row.metric == "n_way_top1" and row.condition == "test"]
    shown = dict.fromkeys(row.method for row in rows)
    return {
        "dataset": settings.dataset,
        "simulated": records[0]["simulated"],
        "preset": settings.preset,
        "overrides": settings.overrides,
        "subjects": [1] if settings.folded else list(settings.subjects),
        "seeds": list(settings.seeds),
        "folds": settings.folds if settings.folded else None,
        "n_test": max((row.n for row in rows if row.condition == "test"), default=0),
        "repeats_averaged": records[0]["repeats_averaged"],
        "training_trials": max(record["training_trials"] for record in records),
        "n_way": round(1 / top1[0].chance) if top1 and top1[0].chance else None,
        "fusion": {name: getattr(settings.preset_of(METHODS[OURS], 0).fusion, name) for name in FUSION_FIELDS},
        "methods": {name: _method(name, found) for name in shown},
        "tests": [asdict(test) for test in versus(found.units)],
        "gains": [asdict(gain) for gain in relative_gains(found.units)],
        "rows": [asdict(row) for row in rows],
        "missing": {describe(cell): errors.get(cell, "not run") for cell in found.missing},
        "fingerprints": sorted({record["fingerprint"] for record in records}),
        "versions": versions(),
    }


def _method(name: str, found: Found) -> dict[str, Any]:
    method = METHODS[name]
    every = found.records[method.derived_from or name]
    records = [record for record in every if record["cell"]["trials"] is None] or every
    seconds = [sum(record["seconds"].values()) for record in records]
    return {
        "title": method.title,
        "paper": method.paper,
        "group": method.group,
        "overrides": dict(method.overrides),
        "cells": len(records),
        "num_parameters": records[0]["num_parameters"],
        "seconds": round(float(np.mean(seconds)), 1),
        "seconds_by_stage": {
            stage: round(float(np.mean([r["seconds"].get(stage, 0.0) for r in records])), 1)
            for stage in records[0]["seconds"]
        },
        "tuning": records[0]["tuning"],
    }


def _scores(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Shown name -> metric -> score of averaged test scans, as in metrics.json."""
    scores: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.condition == "test":
            scores.setdefault(shown_name(row.method), {})[row.metric] = row.as_score()
    return scores


def _gallery(found: Found, results: Mapping[str, Any]) -> Any:
    """Stimuli chosen by the rank of our own score, every method's first sample; None without our own method."""
    if OURS not in found.shown:
        return None
    unit = next(unit for unit in found.units if unit.method == OURS and "test" in unit.scores)
    chosen = figures.rank_chosen(np.array(unit.scores["test"][CHOSEN_BY]["values"]))
    index = [number for number, _ in chosen]
    truth = found.shown[OURS].truth
    same = {name: kept for name, kept in found.shown.items() if np.array_equal(kept.truth, truth)}
    where = "all folds" if results["folds"] else f"subject {unit.subject}"
    draw = partial(
        plotting.gallery,
        truth[index],
        {shown_name(name): kept.images[index][:, :1] for name, kept in same.items()},
        simulated=results["simulated"],
        title=f"Best, middle and worst by visdec's pairwise identification (PCC): {where}, seed {unit.seed}, "
        "first samples",
        captions=[rank for _, rank in chosen],
    )
    return lambda dark=False, blocks=1: draw(dark=dark, blocks=1)  # a row of all methods is as wide as a page


def _curves(
    rows: Sequence[Row], found: Found, results: Mapping[str, Any], styles: Mapping[str, tuple[str, str]]
) -> Any:
    curves = figures.curves_of(rows, results["repeats_averaged"], results["training_trials"])
    methods = [
        name
        for name in dict.fromkeys(row.method for row in rows)
        if METHODS[name].group in CURVED and name not in (*MEAN_OF_SAMPLES.values(), "ridge_latents")
    ]
    if not curves or not methods:
        return None
    return partial(figures.draw_curves, rows, curves, methods, styles, simulated=results["simulated"])


def _write_page(
    settings: ComparisonSettings,
    out: Path,
    results: Mapping[str, Any],
    rows: Sequence[Row],
    scores: Mapping[str, Any],
    gallery: Any,
    curves: Any,
) -> None:
    drawn = {}
    if curves:
        caption = (
            "Accuracy against the number of training trials (where asked for), the repeats averaged and the noise "
            "added. Bars: 95 % intervals; dashed: chance."
        )
        drawn[caption] = curves
    write_report(
        out / "report.html",
        metrics={
            **{name: results[name] for name in ("dataset", "simulated", "preset", "n_test", "repeats_averaged")},
            "n_way": results["n_way"],
            "methods": scores,
            "versions": results["versions"],
        },
        gallery=gallery,
        figures=drawn,
        tables=words.tables(results, rows),
        settings={**asdict(settings), "fingerprints": ", ".join(results["fingerprints"])},
        notes=(*words.notes(results, rows), *LIMITS[:1]),
        title="Which method reads pictures best?",
        answers=words.answers(results, rows),
    )
