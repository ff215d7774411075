"""Figures of a run: pictures side by side, scores with their uncertainty, loss curves.

In: pictures, uint8; scores as they stand in metrics.json; histories of training. Out: a matplotlib `Figure`
that belongs to no window and no global state, or its PNG bytes, the same bytes for the same input, whatever the user's
matplotlibrc says: all is drawn and saved within `own_parameters`. Colours are
those of Okabe and Ito (2008, *Color Universal Design*), which colour-blind people can tell apart; methods also
differ by marker. A figure made from simulated data says so in a badge above its title. Positions are inches
from the top left corner.
"""

from __future__ import annotations

import io
import math
import numbers
import os
import reprlib
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context as style_context
from matplotlib.transforms import Bbox

from visdec_lite.files import atomic_path

DPI = 160  # a gallery cell of 0.8 inches is 128 pixels: 4 for each of a 32-pixel picture, 2 of 64
CELL = 0.8  # inches, width of one picture in the gallery
MARGIN = 0.2  # inches around everything
BADGE = "SIMULATED DATA"
SMALL, BODY, TITLE = 9, 10, 14  # points

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = OKABE_ITO = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY = "#8A8F98"
MISSING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
METHOD_STYLES = {  # method -> colour, marker; other methods take turns in _SPARE
    "visdec": (BLUE, "o"),
    "visdec_single_trial": (SKY, "o"),
    "visdec_mean": (GREEN, "o"),
    "ridge": (ORANGE, "s"),
    "ridge_single_trial": (VERMILLION, "s"),
    "ridge_latents": (PURPLE, "D"),
    "visdec_shuffled": (GREY, "X"),
}
_SPARE = ((GREEN, "D"), (PURPLE, "^"), (VERMILLION, "v"), (BLUE, "P"), (ORANGE, "<"), (SKY, ">"))
SINGLE_TRIAL = "_single_trial"  # ends the name of a method whose scans were not averaged
METHOD_ENDINGS = {
    SINGLE_TRIAL: ", single trials",
    "_seen_categories": ", seen categories",
    "_shuffled": ", shuffled voxels",
    "_mean": ", mean of samples",
}
STAGE_LABELS = {
    "classifier": "category classifier",
    "image_autoencoder": "image autoencoder",
    "first_stage": "first stage: pictures to latents",
    "diffusion": "diffusion prior",
    "pretrain": "phase 1: masked fMRI",
    "fuse": "phase 2: fMRI with images",
    "finetune": "fine-tuning the diffusion model",
}


@dataclass(frozen=True)
class Theme:
    ink: str
    muted: str
    line: str
    paper: str
    warning: str  # of the badge; at least 4.5 : 1 against paper


LIGHT = Theme(ink="#1B1F24", muted="#59626D", line="#D8DDE3", paper="#FFFFFF", warning="#A94600")
DARK = Theme(ink="#ECEEF0", muted="#A9B1BB", line="#3B434C", paper="#171A1E", warning="#FF9A57")


@dataclass(frozen=True)
class Metric:
    """How a score is written: its name, the label of its axis, and which way is up."""

    label: str
    unit: str
    percent: bool = False  # 0..1, written as 0..100 %
    digits: int = 3
    higher_is_better: bool | None = True  # None: not known here

    def write(self, value: float | None) -> str:
        """The number with its unit, or a dash where there is none."""
        if value is None or not math.isfinite(value):
            return MISSING
        text = f"{100 * value:.1f} %" if self.percent else f"{value:.{self.digits}f}"
        return text.replace("-", MINUS)

    @property
    def direction(self) -> str:
        if self.higher_is_better is None:
            return ""
        return "higher is better" if self.higher_is_better else "lower is better"


_METRICS = {
    "n_way_top1": Metric("{n}-way top-1", "accuracy (%)", percent=True),
    "n_way_top5": Metric("{n}-way top-5", "accuracy (%)", percent=True),
    "pairwise_pcc": Metric("pairwise identification (PCC)", "accuracy (%)", percent=True),
    "pairwise_ssim": Metric("pairwise identification (SSIM)", "accuracy (%)", percent=True),
    "pairwise_mse": Metric("pairwise identification (MSE)", "accuracy (%)", percent=True),
    "pairwise_lpips": Metric("pairwise identification (LPIPS-like)", "accuracy (%)", percent=True),
    "pairwise_features": Metric("pairwise identification (features)", "accuracy (%)", percent=True),
    "pcc": Metric("pixel correlation (PCC)", "Pearson r"),
    "ssim": Metric("structural similarity (SSIM)", "SSIM"),
    "mse": Metric("mean squared error (MSE)", "MSE (pixels 0..1)", digits=4, higher_is_better=False),
    "lpips": Metric("perceptual distance (LPIPS-like)", "distance (0..4)", higher_is_better=False),
    "kid": Metric("kernel distance (KID)", "squared MMD", digits=4, higher_is_better=False),
    "fid": Metric("Fréchet distance (FID)", "distance", digits=1, higher_is_better=False),
}


def metric_info(name: str, n_way: int | None = None) -> Metric:
    """How the metric `name` of metrics.json is written; an unknown one keeps its name."""
    metric = _METRICS.get(name, Metric(name.replace("_", " "), name, higher_is_better=None))
    return replace(metric, label=metric.label.replace("{n}", "n" if n_way is None else str(n_way)))


def method_label(name: str) -> str:
    """Words for the name of a method; ridge_single_trial -> ridge, single trials."""
    for ending, words in METHOD_ENDINGS.items():
        if name.endswith(ending):
            return method_label(name.removesuffix(ending)) + words
    return name.replace("_", " ")


def stage_label(name: str) -> str:
    return STAGE_LABELS.get(name, name.replace("_", " "))


def metric_names(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Every metric that some method has, the known ones first and in their order."""
    found = {name: None for scores in methods.values() for name in scores}
    return [name for name in _METRICS if name in found] + [name for name in found if name not in _METRICS]


def contest_size(metrics: Mapping[str, Any]) -> int | None:
    """n of the n-way scores: as recorded, or from the chance level of top-1, which is 1 / n."""
    if metrics.get("n_way"):
        return int(metrics["n_way"])
    chances = [
        scores["n_way_top1"].get("chance") for scores in metrics.get("methods", {}).values() if scores.get("n_way_top1")
    ]
    return round(1 / chances[0]) if chances and chances[0] else None


def averaging(repeats_averaged: bool | int | None, method: str = "") -> str:
    """Words for `repeats_averaged` of metrics.json: yes or no, or how many; `*_single_trial` never averages."""
    if method.endswith(SINGLE_TRIAL):
        return "single trials, not averaged"
    if repeats_averaged is None:
        return "averaging of repeats not recorded"
    if repeats_averaged is True:
        return "repeats averaged"
    return f"{repeats_averaged} repeats averaged" if repeats_averaged > 1 else "single trials, not averaged"


_drawing = threading.RLock()  # matplotlib's parameters are those of all threads


@contextmanager
def own_parameters() -> Iterator[None]:
    """Matplotlib's parameters as they are out of the box, the user's afterwards; also a decorator.

    A user's `image.origin: lower` would turn every picture upside down. Figures are drawn when they are saved, so that
    is done inside, too. One thread at a time.
    """
    with _drawing, style_context("default"):
        yield


@own_parameters()
def gallery(
    truth: np.ndarray,
    columns: Mapping[str, np.ndarray],
    *,
    simulated: bool,
    title: str,
    captions: Sequence[str] | None = None,
    rows: int = 12,
    blocks: int | None = None,
    dark: bool = False,
) -> Figure:
    """Seen pictures and their reconstructions side by side, every pixel a crisp square.

    Args:
        truth: pictures that were seen, uint8, shape (n, height, width, 3); the first `rows` are shown.
        columns: method -> its reconstructions, uint8, shape (n, samples, height, width, 3).
        simulated: True when no human lay in a scanner; shown as a badge.
        captions: words under each row, at least as many as rows shown.
        rows: at most so many stimuli.
        blocks: side-by-side halves (thirds, ...) of the rows; None: 2 from 7 stimuli on.
        dark: light text on dark paper.

    Raises:
        TypeError: pictures are not uint8.
        ValueError: shapes do not fit each other.
    """
    _check_pictures(truth, columns)
    if rows < 1 or (blocks is not None and blocks < 1):
        raise ValueError(f"rows={rows}, blocks={blocks}; at least 1 each is needed")
    rows = min(rows, len(truth))
    if captions is not None and len(captions) < rows:
        raise ValueError(f"{len(captions)} captions for {rows} rows shown; give one a row, or None")
    blocks = min(blocks or (2 if rows > 6 else 1), rows)
    rows_a_block = math.ceil(rows / blocks)

    theme = DARK if dark else LIGHT
    groups = [("seen", truth[:, None])]
    for name, pictures in columns.items():
        samples = f", {pictures.shape[1]} samples" if pictures.shape[1] > 1 else ""
        groups.append((method_label(name) + samples, pictures))
    colours = [theme.ink, *(colour for colour, _ in method_styles(columns).values())]
    gap, group_gap, block_gap = 0.05, 0.2, 0.6
    widths = [pictures.shape[1] * (CELL + gap) - gap for _, pictures in groups]
    words = [_wrap(name, width + 0.05, BODY) for (name, _), width in zip(groups, widths, strict=True)]
    head = 0.17 * max(text.count("\n") + 1 for text in words) + 0.14
    height = CELL * truth.shape[1] / truth.shape[2]
    pitch = height + (0.28 if captions is not None else gap)
    block_width = sum(widths) + group_gap * (len(groups) - 1)
    width = max(3.0, 2 * MARGIN + blocks * block_width + (blocks - 1) * block_gap)  # the badge needs room too
    subtitle = f"The first {rows} of {len(truth)} test stimuli." if rows < len(truth) else ""
    figure, page, top = _page(width, head + rows_a_block * pitch, title, subtitle, simulated, theme)

    for block in range(blocks):
        left = MARGIN + block * (block_width + block_gap)
        shown = range(block * rows_a_block, min((block + 1) * rows_a_block, rows))
        for (_, pictures), name, colour, span in zip(groups, words, colours, widths, strict=True):
            _text(page, left, top + head - 0.13, name, theme.ink, BODY, va="bottom")
            page.plot(
                [left, left + span],
                [top + head - 0.08] * 2,
                color=colour,
                linewidth=2.5,
                solid_capstyle="butt",
            )
            for line, row in enumerate(shown):
                for sample, picture in enumerate(pictures[row]):
                    x, y = left + sample * (CELL + gap), top + head + line * pitch
                    _picture(page, picture, (x, x + CELL, y + height, y))
            left += span + group_gap
        for line, row in enumerate(shown if captions is not None else ()):
            left = MARGIN + block * (block_width + block_gap)
            y = top + head + line * pitch + height + 0.04
            _text(page, left, y, captions[row], theme.muted, SMALL, va="top")
    return figure


@own_parameters()
def score_chart(
    methods: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    simulated: bool,
    n_test: int | None = None,
    repeats_averaged: bool | int | None = None,
    n_way: int | None = None,
    title: str = "Scores on test stimuli",
    panel_columns: int = 4,
    dark: bool = False,
) -> Figure:
    """One panel a metric: a dot for each method, its 95 % interval, a dashed mark at its chance level.

    Args:
        methods: method -> metric -> {"value", "ci95": [low, high], "over", "chance"}, as in metrics.json. A metric
            that a method lacks leaves its row empty.
        n_test, repeats_averaged: number of test stimuli, and what became of their repeats; None says nothing of them.
        n_way: classes in the n-way contest; None: from its chance level.
        panel_columns: panels side by side; 1 or 2 suit a phone.
    """
    check_scores(methods)
    names = metric_names(methods)
    if not names:
        raise ValueError(f"{len(methods)} methods hold 0 scores; at least 1 score is needed, see metrics.evaluate")
    n_way = contest_size({"n_way": n_way, "methods": methods})
    theme = DARK if dark else LIGHT
    panel_columns = min(panel_columns, len(names))
    plot_width = 1.3 if panel_columns > 1 else 2.1
    value_width, panel_gap, panel_foot = 0.75, 0.2, 0.5
    panel_width = plot_width + value_width + panel_gap
    heads = {
        name: _wrap(metric_info(name, n_way).label, panel_width - 2 * panel_gap, BODY, bold=True) for name in names
    }
    labels = [_wrap(method_label(name), 1.25, BODY) for name in methods]
    label_width = max(_width(line, BODY) for label in labels for line in label.split("\n")) + 0.22
    row_height = 0.17 * max(label.count("\n") + 1 for label in labels) + 0.11
    panel_head = 0.17 * max(head.count("\n") + 1 for head in heads.values()) + 0.32
    plot_height = row_height * len(methods)
    pitch = panel_head + plot_height + panel_foot + 0.25
    width = 2 * MARGIN + label_width + panel_columns * panel_width - panel_gap
    count = "number of stimuli not recorded" if n_test is None else f"{n_test} test stimuli"
    exception = " (but for single-trial methods)" if any(name.endswith(SINGLE_TRIAL) for name in methods) else ""
    averaged = "" if repeats_averaged is None else f", {averaging(repeats_averaged)}{exception}"
    over = intervals_over(methods)
    subtitle = f"{count}{averaged}. Marker: mean; bar: 95 % interval over {over}; dashed: chance."
    body = math.ceil(len(names) / panel_columns) * pitch - 0.25
    figure, page, top = _page(width, body, title, subtitle, simulated, theme)
    styles = method_styles(methods)

    for index, name in enumerate(names):
        info, line, column = metric_info(name, n_way), index // panel_columns, index % panel_columns
        left, y = MARGIN + label_width + column * panel_width, top + line * pitch
        chances = {scores[name].get("chance") for scores in methods.values() if scores.get(name)} - {None}
        chance = f"chance {info.write(*chances)}" if len(chances) == 1 else "chance differs by method"
        _text(page, left, y + panel_head - 0.32, heads[name], theme.ink, BODY, weight="bold", va="bottom")
        _text(page, left, y + panel_head - 0.12, chance if chances else "no chance level", theme.muted, SMALL)
        axes = _panel(figure, theme, left, y + panel_head, plot_width, plot_height)
        unit = info.unit + (", low is good" if info.higher_is_better is False else "")
        _text(page, left, y + panel_head + plot_height + 0.42, unit, theme.muted, SMALL)
        scale, drawn = (100 if info.percent else 1), []
        for row, (method, scores) in enumerate(methods.items()):
            row_y = y + panel_head + (row + 0.5) * row_height
            if column == 0:
                _text(page, left - 0.15, row_y, labels[row], theme.ink, BODY, ha="right", va="center")
            score = scores.get(name)
            value = score_value(score, f"{method}/{name}")
            _text(page, left + plot_width + 0.1, row_y, info.write(value), theme.ink, BODY, va="center")
            if score and score.get("chance") is not None:
                drawn.append(scale * score["chance"])
                axes.plot([drawn[-1]] * 2, [row, row + 1], color=theme.muted, linewidth=1.2, dashes=(2.2, 1.6))
            if value is None:
                continue
            colour, marker = styles[method]
            low, high = score.get("ci95") or (value, value)
            drawn += [scale * low, scale * high, scale * value]
            axes.plot(drawn[-3:-1], [row + 0.5] * 2, color=colour, linewidth=2.6, solid_capstyle="round")
            axes.plot(
                drawn[-1], row + 0.5, marker, color=colour, markersize=7.5, clip_on=False,
                markeredgecolor=theme.paper, markeredgewidth=0.8,
            )  # fmt: skip
        low, high = (min(drawn), max(drawn)) if drawn else (0.0, 1.0)
        pad = 0.09 * (high - low) or 0.1
        axes.set_xlim(low - pad, high + pad)
        axes.set_ylim(len(methods), 0)
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=3 if info.digits > 3 else 4, min_n_ticks=2 if info.digits > 3 else 3)
    return figure


def intervals_over(methods: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """What the intervals of these scores are over, such as "10 categories or 50 stimuli"; "stimuli" if none says."""
    said = (score.get("over") for scores in methods.values() for score in scores.values() if score)
    return " or ".join(dict.fromkeys(filter(None, said))) or "stimuli"


@own_parameters()
def loss_curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    simulated: bool,
    title: str = "Losses during training",
    panel_columns: int = 3,
    dark: bool = False,
) -> Figure:
    """One panel a stage: training loss (thin: as logged, thick: running mean) and validation loss.

    Args:
        histories: stage -> rows {"step", "split": "train" or "val", "loss"}; rows without a loss are
            skipped. A stage whose losses span more than a factor of 20 gets a logarithmic axis.
        panel_columns: panels side by side.

    Raises:
        ValueError: no stage, or a stage without a single finite loss.
    """
    if not histories:
        raise ValueError("0 stages to draw, at least 1 is needed; a run that trained nothing has no loss curves")
    theme = DARK if dark else LIGHT
    panel_columns = min(panel_columns, len(histories))
    plot_width, plot_height, axis_width, pitch = 2.75 if panel_columns > 1 else 3.5, 1.75, 0.7, 2.7
    width = 2 * MARGIN + panel_columns * (axis_width + plot_width + 0.15) - 0.15
    body = math.ceil(len(histories) / panel_columns) * pitch - 0.1
    subtitle = "Blue: training (thin: as logged, thick: running mean). Orange squares: validation."
    figure, page, top = _page(width, body, title, subtitle, simulated, theme)
    for index, (stage, history) in enumerate(histories.items()):
        left = MARGIN + (index % panel_columns) * (axis_width + plot_width + 0.15) + axis_width
        y = top + (index // panel_columns) * pitch
        _text(page, left, y + 0.2, stage_label(stage), theme.ink, BODY, weight="bold")
        axes = _panel(figure, theme, left, y + 0.35, plot_width, plot_height)
        curves = {split: loss_of(history, split) for split in ("train", "val")}
        (steps, losses), (val_steps, val_losses) = curves["train"], curves["val"]
        if len(losses) + len(val_losses) == 0:
            raise ValueError(
                f"stage {stage!r} has {len(history)} rows and 0 finite losses; expected rows like "
                "{'step': 10, 'split': 'train', 'loss': 0.5}, or leave the stage out"
            )
        smooth = running_mean(losses)
        axes.plot(steps, losses, color=SKY, linewidth=0.8, alpha=0.75)
        axes.plot(steps, smooth, color=BLUE, linewidth=2.2)
        axes.plot(
            val_steps, val_losses, color=ORANGE, marker="s", markersize=4.5, linewidth=1.6,
            markeredgecolor=theme.paper, markeredgewidth=0.5, markevery=max(1, len(val_steps) // 12),
        )  # fmt: skip
        drawn = np.concatenate([losses, val_losses])
        if drawn.min() > 0 and drawn.max() > 20 * drawn.min():
            axes.set_yscale("log")
        else:
            axes.locator_params(axis="y", nbins=4, min_n_ticks=3)
        axes.locator_params(axis="x", nbins=4, min_n_ticks=3)
        axes.grid(axis="y", color=theme.line, linewidth=0.6)
        axes.set_xlabel("step", color=theme.muted, fontsize=SMALL, loc="left")
        axes.set_ylabel("loss", color=theme.muted, fontsize=SMALL)
    return figure


@own_parameters()
def figure_png(figure: Figure, *, margin: bool = True) -> bytes:
    """The figure as PNG, 160 dots an inch; the same figure gives the same bytes.

    Args:
        margin: False cuts `MARGIN` off all sides, for a page that has margins of its own.
    """
    width, height = figure.get_size_inches()
    part = None if margin else Bbox.from_extents(MARGIN, MARGIN, width - MARGIN, height - MARGIN)
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=DPI, facecolor=figure.get_facecolor(), bbox_inches=part, metadata={"Software": None}
    )
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write the figure as PNG; a half-written file never stands at `path`."""
    content = figure_png(figure)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def method_styles(methods: Sequence[str] | Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method: a known method always looks the same."""
    unknown = [name for name in methods if name not in METHOD_STYLES]
    spare = {name: _SPARE[index % len(_SPARE)] for index, name in enumerate(unknown)}
    return {name: METHOD_STYLES.get(name) or spare[name] for name in methods}


def check_scores(methods: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Refuse what are no scores as in metrics.json, before anything is drawn.

    Raises:
        ValueError: with the name of the first that is none, what stands there and what should.
    """

    def expect(name: str, found: Any, right: bool, wanted: str) -> None:
        if not right:
            raise ValueError(f"{name} is {reprlib.repr(found)}, expected {wanted}; see metrics.evaluate")

    expect("methods", methods, isinstance(methods, Mapping), "method -> metric -> score")
    for method, scores in methods.items():
        expect(method, scores, isinstance(scores, Mapping), "metric -> score")
        for metric, score in scores.items():
            name = f"{method}/{metric}"
            expect(name, score, score is None or isinstance(score, Mapping), '{"value", "ci95", "chance"}')
            value, interval, chance = ((score or {}).get(part) for part in ("value", "ci95", "chance"))
            expect(f"value of {name}", value, value is None or is_number(value), "a number or None")
            expect(f"chance of {name}", chance, chance is None or is_finite(chance), "a finite number or None")
            pair = isinstance(interval, Sequence) and len(interval) == 2 and all(map(is_finite, interval))
            right = interval is None or (pair and interval[0] <= interval[1])
            expect(f"ci95 of {name}", interval, right, "[low, high], finite, or None")


def is_number(value: Any) -> bool:
    """A real number, NaN and infinity too; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    return is_number(value) and abs(value) <= sys.float_info.max


def score_value(score: Mapping[str, Any] | None, name: str) -> float | None:
    """The value of a score, None where it is missing or not a finite number."""
    if not score:
        return None
    if "value" not in score:
        raise ValueError(f'{name} has {sorted(score)}, expected {{"value", "ci95", "over", "chance"}}: Score.as_dict()')
    return score["value"] if is_finite(score["value"]) else None


def loss_of(history: Sequence[Mapping[str, Any]], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite losses of one split, each shape (points,)."""
    rows = [(row["step"], row["loss"]) for row in history if row.get("split") == split and "loss" in row]
    steps, losses = np.array(rows, dtype=np.float64).reshape(-1, 2).T
    return steps[np.isfinite(losses)], losses[np.isfinite(losses)]


def running_mean(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Centred mean over about `share` of the values, fewer at the ends; same shape (n,)."""
    half = int(len(values) * share / 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    before = np.minimum(half, index)
    after = np.minimum(before, len(values) - 1 - index)  # symmetric where the loss falls steeply
    return (total[index + after + 1] - total[index - before]) / (before + after + 1)


def _check_pictures(truth: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
    for name, pictures in {"truth": truth, **columns}.items():
        if not isinstance(pictures, np.ndarray) or pictures.dtype != np.uint8:
            kind = getattr(pictures, "dtype", type(pictures).__name__)
            raise TypeError(f"{name} is {kind}, expected uint8 in 0..255; see preprocessing.to_uint8")
    if truth.ndim != 4 or truth.shape[-1] != 3 or 0 in truth.shape:
        raise ValueError(f"truth has shape {truth.shape}, expected (n, height, width, 3), nothing empty")
    for name, pictures in columns.items():
        if pictures.ndim != 5 or pictures.shape[1] == 0:
            raise ValueError(
                f"{name} has shape {pictures.shape}, expected (n, samples, height, width, 3), samples >= 1; "
                "one sample a stimulus: pictures[:, None]"
            )
        if len(pictures) != len(truth):
            raise ValueError(f"{len(pictures)} rows of {name} for {len(truth)} seen pictures, expected as many")
        if pictures.shape[2:] != truth.shape[1:]:
            raise ValueError(
                f"{name} measures {pictures.shape[2:]}, truth {truth.shape[1:]}; expected the same, resize one of them"
            )


def _page(
    width: float, body: float, title: str, subtitle: str, simulated: bool, theme: Theme
) -> tuple[Figure, Axes, float]:
    """A figure with badge, title and subtitle; the axes to write on it; where its body starts."""
    title, subtitle = (
        _wrap(title, width - 2 * MARGIN, TITLE, bold=True),
        _wrap(subtitle, width - 2 * MARGIN, SMALL),
    )
    badge_height = 0.42 if simulated else 0.0
    title_height = 0.25 * (title.count("\n") + 1)
    subtitle_height = 0.17 * (subtitle.count("\n") + 1) + 0.05 if subtitle else 0.0
    top = MARGIN + badge_height + title_height + subtitle_height + 0.18
    height = top + body + MARGIN
    figure = Figure(figsize=(width, height), facecolor=theme.paper)
    page = figure.add_axes((0, 0, 1, 1), label="page")
    page.set(xlim=(0, width), ylim=(height, 0))
    page.set_axis_off()
    if simulated:
        box = {"boxstyle": "round,pad=0.45", "facecolor": "none", "edgecolor": theme.warning, "linewidth": 1.2}
        x, y = MARGIN + 0.06, MARGIN + 0.13
        _text(page, x, y, BADGE, theme.warning, 8, weight="bold", va="center", bbox=box)
    y = MARGIN + badge_height
    _text(page, MARGIN, y, title, theme.ink, TITLE, weight="bold", va="top")
    _text(page, MARGIN, y + title_height + 0.05, subtitle, theme.muted, SMALL, va="top", linespacing=1.35)
    return figure, page, top


def _panel(figure: Figure, theme: Theme, left: float, top: float, width: float, height: float) -> Axes:
    """Axes with a baseline only; lengths in inches."""
    full_width, full_height = figure.get_size_inches()
    bottom = full_height - top - height
    axes = figure.add_axes(
        (left / full_width, bottom / full_height, width / full_width, height / full_height), facecolor="none"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set(color=theme.muted, linewidth=0.8)
    axes.tick_params(colors=theme.muted, labelsize=SMALL, length=3, which="both")
    axes.tick_params(axis="y", length=0, which="both")
    return axes


def _text(page: Axes, x: float, y: float, words: str, colour: str, size: float, **options: Any) -> None:
    """Text as it stands: a dollar sign in a data set's name is no formula."""
    page.text(x, y, words, color=colour, fontsize=size, fontfamily="DejaVu Sans", parse_math=False, **options)


def _picture(page: Axes, picture: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """Small pictures keep their square pixels; those larger than their cell are averaged down."""
    limits = page.get_xlim(), page.get_ylim()
    interpolation = "nearest" if picture.shape[1] <= CELL * DPI else "antialiased"
    page.imshow(picture, extent=extent, origin="upper", interpolation=interpolation, aspect="auto", zorder=2)
    page.set(xlim=limits[0], ylim=limits[1])


def _width(words: str, size: float, bold: bool = False) -> float:
    """About how wide a line stands, in inches: DejaVu Sans takes 0.52 of its size a letter, bold 0.58."""
    return len(words) * size / 72 * (0.58 if bold else 0.52)


def _wrap(words: str, width: float, size: float, bold: bool = False) -> str:
    letters = max(6, int(width / _width("x", size, bold)))
    return textwrap.fill(words, letters, break_long_words=False)
