"""Figures of a comparison: all methods side by side on stimuli chosen by rank, and curves.

In: kept pictures, rows of the table. Out: matplotlib figures in the colours and markers of `plotting`, which the
leaderboard has too; chance dashed, and a badge where no human lay in a scanner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from visdec_lite import plotting
from visdec_lite.comparison.cells import FEW_REPEATS, NOISE
from visdec_lite.comparison.methods import METHODS
from visdec_lite.comparison.tables import Row

DODGE = 0.08  # of the distance between two points of a curve, so that intervals do not hide each other
PLOT_WIDTH, PLOT_HEIGHT, GAP, ROW_GAP, LABELS = 2.7, 1.9, 0.25, 0.75, 0.65  # inches


def shown_name(method: str) -> str:
    """A method as figures call it: its own name where `plotting` knows a style for that, else its title."""
    return method if method in plotting.METHOD_STYLES or method not in METHODS else METHODS[method].title


def rank_chosen(values: np.ndarray, each: int = 3) -> list[tuple[int, str]]:
    """The best, the middle and the worst stimuli by a score, with their rank in words; each stimulus once.

    Args:
        values: one score a stimulus, higher is better, shape (n,). Of equal ones the first counts as better.
        each: stimuli of each kind, if there are as many.
    """
    order = np.argsort(-np.asarray(values, dtype=np.float64), kind="stable")
    n = len(order)
    middle = max(0, (n - each) // 2)
    kinds = {"best": range(each), "middle": range(middle, middle + each), "worst": range(n - each, n)}
    chosen: dict[int, str] = {}
    for kind, ranks in kinds.items():
        for rank in ranks:
            if 0 <= rank < n:
                chosen.setdefault(int(order[rank]), f"{kind}, {rank + 1} of {n}")
    return list(chosen.items())


@dataclass(frozen=True)
class Curve:
    """One axis along which scans get better or worse: label of a point -> condition."""

    title: str
    axis: str
    points: Mapping[str, str]


def curves_of(rows: Sequence[Row], repeats: int, training_trials: int) -> list[Curve]:
    """The curves of which there are at least two points."""
    there = {row.condition for row in rows}
    fewer = sorted(int(name.removeprefix("trials_")) for name in there if name.startswith("trials_"))
    every = (
        Curve(
            "training trials",
            "trials learnt from",
            {**{str(count): f"trials_{count}" for count in fewer}, str(training_trials): "test"},
        ),
        Curve(
            "repeats averaged",
            "trials averaged",
            {"1": "single_trial", str(FEW_REPEATS): f"repeats_{FEW_REPEATS}", str(repeats): "test"},
        ),
        Curve(
            "noise added to averaged scans" if repeats > 1 else "noise added to the scans",
            "standard deviations",
            {"0": "test", **{str(level): f"noise_{level}" for level in NOISE}},
        ),
    )
    kept = [Curve(c.title, c.axis, {label: name for label, name in c.points.items() if name in there}) for c in every]
    return [curve for curve in kept if len(curve.points) > 1]


@plotting.own_parameters()
def draw_curves(
    rows: Sequence[Row],
    curves: Sequence[Curve],
    methods: Sequence[str],
    styles: Mapping[str, tuple[str, str]],
    *,
    simulated: bool,
    metrics: Sequence[str] = ("n_way_top1", "pairwise_pcc"),
    dark: bool = False,
) -> Figure:
    """A panel for each curve and metric, a line a method, bars for 95 % intervals.

    Args:
        methods: which ones, in order.
        styles: shown name -> colour and marker.
    """
    theme = plotting.DARK if dark else plotting.LIGHT
    found = {(row.method, row.condition, row.metric): row for row in rows}
    metrics = [name for name in metrics if any(row.metric == name for row in rows)]
    width = 2 * plotting.MARGIN + len(curves) * (LABELS + PLOT_WIDTH) + (len(curves) - 1) * GAP
    legend_columns = max(1, min(len(methods), int((width - 2 * plotting.MARGIN) / 1.75)))
    head = 0.95 + (0.4 if simulated else 0.0) + 0.24 * math.ceil(len(methods) / legend_columns)
    height = head + len(metrics) * (PLOT_HEIGHT + ROW_GAP) + plotting.MARGIN
    figure = Figure(figsize=(width, height), facecolor=theme.paper)
    top = _heading(figure, simulated, theme)

    handles = {}
    for line, metric in enumerate(metrics):
        chances = [row.chance for row in rows if row.metric == metric and row.chance is not None]
        info = plotting.metric_info(metric, round(1 / chances[0]) if metric.startswith("n_way_top1") else None)
        scale = 100 if info.percent else 1
        row_of_axes = []
        for column, curve in enumerate(curves):
            left = plotting.MARGIN + LABELS + column * (LABELS + PLOT_WIDTH + GAP)
            bottom = height - head - line * (PLOT_HEIGHT + ROW_GAP) - PLOT_HEIGHT
            axes = figure.add_axes(
                (left / width, bottom / height, PLOT_WIDTH / width, PLOT_HEIGHT / height), facecolor="none"
            )
            row_of_axes.append(axes)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.spines["bottom"].set(color=theme.muted, linewidth=0.8)
            axes.tick_params(colors=theme.muted, labelsize=plotting.SMALL, length=0)
            axes.grid(axis="y", color=theme.line, linewidth=0.6)
            axes.axhline(scale * float(np.mean(chances)), color=theme.muted, linewidth=1.2, dashes=(2.2, 1.6))
            for number, method in enumerate(methods):
                points = [found.get((method, condition, metric)) for condition in curve.points.values()]
                there = [(x, point) for x, point in enumerate(points) if point is not None]
                if not there:
                    continue
                colour, marker = styles[shown_name(method)]
                offset = DODGE * (number - (len(methods) - 1) / 2)
                xs, values = [x + offset for x, _ in there], [scale * point.value for _, point in there]
                for x, (_, point) in zip(xs, there, strict=True):
                    axes.plot([x, x], [scale * point.low, scale * point.high], color=colour, linewidth=1.4, alpha=0.8)
                (handles[method],) = axes.plot(
                    xs, values, color=colour, marker=marker, linewidth=1.6, markersize=6.5,
                    markeredgecolor=theme.paper, markeredgewidth=0.8,
                )  # fmt: skip
            axes.set_xticks(range(len(curve.points)), list(curve.points))
            axes.set_xlim(-0.5, len(curve.points) - 0.5)
            axes.set_xlabel(curve.axis, color=theme.muted, fontsize=plotting.SMALL, loc="left")
            if column == 0:
                axes.set_ylabel(f"{info.label.split('(')[0].strip()}\n{info.unit}", color=theme.ink, fontsize=9)
            if line == 0:
                axes.set_title(curve.title, color=theme.ink, fontsize=plotting.BODY, weight="bold", loc="left", pad=8)
        low, high = min(axes.get_ylim()[0] for axes in row_of_axes), max(axes.get_ylim()[1] for axes in row_of_axes)
        for axes in row_of_axes:  # one scale for one score
            axes.set_ylim(low, high)
            axes.locator_params(axis="y", nbins=5)
    figure.legend(
        handles.values(), [plotting.method_label(shown_name(name)) for name in handles], loc="upper left",
        bbox_to_anchor=(plotting.MARGIN / width, 1 - top / height), ncols=legend_columns, frameon=False,
        fontsize=plotting.SMALL, labelcolor=theme.ink, borderpad=0, borderaxespad=0, columnspacing=1.6,
    )  # fmt: skip
    return figure


def _heading(figure: Figure, simulated: bool, theme: plotting.Theme) -> float:
    """Badge and title; returns where the next line starts, in inches from the top."""
    width, height = figure.get_size_inches()
    x, y = plotting.MARGIN / width, plotting.MARGIN
    if simulated:
        box = {"boxstyle": "round,pad=0.45", "facecolor": "none", "edgecolor": theme.warning, "linewidth": 1.2}
        figure.text(
            x + 0.06 / width, 1 - (y + 0.13) / height, plotting.BADGE, color=theme.warning, fontsize=8,
            weight="bold", va="center", bbox=box,
        )  # fmt: skip
        y += 0.42
    title = "What better scans buy"
    figure.text(x, 1 - y / height, title, color=theme.ink, fontsize=plotting.TITLE, weight="bold", va="top")
    return y + 0.38
