"""The panes of the BrainToImageDemo: pictures, activity, scores.

In: a `BrainResult`. Out: figures, and the same in words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from visdec_lite.plotting import BLUE, GREEN, GREY, LIGHT, ORANGE, SMALL
from visdec_lite.widgets.drawing import (
    SIGNED,
    WIDTH,
    brain_views,
    chance_line,
    page,
    panel,
    picture_rows,
    region_bars,
    write,
)

if TYPE_CHECKING:
    from visdec_lite.widgets.brain_state import BrainResult

GIVEN = {
    "own": "its own scan",
    "shuffled": "its own scan with the voxels shuffled",
    "another": "the scan of another picture",
    "none": "no scan: the prior alone",
}
COLOURED = {"seen": "seen", "ridge": "ridge", "images": "painted", "mean": "their mean"}


def given(result: BrainResult) -> str:
    """Which scan, and what was done to it."""
    return "; ".join([GIVEN[result.scan], *result.changes])


def draw_pictures(result: BrainResult) -> Figure:
    """Seen, ridge, reconstructions."""
    pictures = [("seen", result.seen)]
    if result.ridge is not None:
        pictures.append(("ridge", result.ridge))
    elif not result.finished:  # its place is kept, so that nothing jumps
        pictures.append(("ridge: to come", np.full_like(result.seen, 236)))
    pictures += [(f"painted {i + 1}", picture) for i, picture in enumerate(result.images)]
    if len(result.images) > 1:
        pictures.append(("mean of these", result.mean))
    steps = "" if result.done == result.total else f", step {result.done} of {result.total}"
    title = f"Seen: {result.category}. Painted from {given(result)}{steps}"
    return picture_rows([("", pictures)], title, result.simulated, frames=[(0, 0, LIGHT.ink)])


def say_pictures(result: BrainResult) -> str:
    """What was seen and what was painted."""
    beside = " and the picture of ridge regression" if result.ridge is not None else ""
    colour = result.colourfulness
    return (
        f"The picture seen ({result.category}){beside}, beside {len(result.images)} pictures painted from "
        f"{given(result)} after {result.done} of {result.total} steps. Colourfulness {colour['images']:.2f}, that "
        f"of the picture seen {colour['seen']:.2f}."
    )


def draw_activity(result: BrainResult) -> Figure:
    """Activity of each region, and the brain from three sides (or the voxels in a row, where places are unknown)."""
    names = list(result.activity)
    height = max(2.6, 0.2 * len(names) + 1.2)
    figure, axes = page(height, "Brain activity that the decoder is given", result.simulated)
    part = panel(figure, 0.75, 0.72, 1.75, height - 1.25, title="root mean square", xlabel="z-score  | untouched")
    region_bars(part, names, list(result.activity.values()), BLUE, list(result.activity_intact.values()))
    if result.positions is not None:
        brain_views(figure, 0.72, height - 1.0, result.positions, result.voxels, left=2.6)
        write(
            axes,
            2.7,
            height - 0.12,
            "orange: above the mean of the voxel, purple: below (to 2 deviations)",
            size=SMALL - 1,
        )
    else:
        rows = 16
        strip = np.pad(result.voxels, (0, -len(result.voxels) % rows), constant_values=np.nan).reshape(rows, -1)
        part = panel(figure, 2.9, 0.72, WIDTH - 3.1, height - 1.25, title="voxels, in the order of the data set")
        part.imshow(strip, origin="upper", cmap=SIGNED, vmin=-2, vmax=2, aspect="auto", interpolation="nearest")
        part.set(xticks=[], yticks=[])
        write(
            axes,
            2.9,
            height - 0.2,
            "orange: above the mean, purple: below; places in the brain unknown",
            size=SMALL - 1,
        )
    return figure


def say_activity(result: BrainResult) -> str:
    """The regions whose activity was changed."""
    changed = [
        f"{name} {result.activity[name]:.2f} (untouched {result.activity_intact[name]:.2f})"
        for name in result.activity
        if abs(result.activity[name] - result.activity_intact[name]) > 0.005
    ]
    return (
        "Root mean square activity of each region and of each voxel. Changed: " + (", ".join(changed) or "none") + "."
    )


def draw_scores(result: BrainResult) -> Figure:
    """The referee's best categories, and the place of the true picture among the others."""
    figure, axes = page(2.5, "How good is it?", result.simulated)
    if not result.finished:
        write(axes, 0.1, 0.7, "not painted yet", GREY, SMALL)
        return figure
    if result.top is None:
        write(axes, 0.1, 0.8, "no referee for these pictures", GREY, SMALL)
    else:
        words = f"the referee's first {len(result.top)} of {result.categories} (green: right)"
        part = panel(figure, 1.5, 0.72, 3.0, 1.2, title=words, xlabel="probability")
        names, values = [name for name, _ in result.top], [value for _, value in result.top]
        region_bars(part, names, values, BLUE)
        for bar, name in zip(part.patches, names, strict=True):
            bar.set_color(GREEN if name == result.takes_seen_for else BLUE)
        part.set_xlim(0, 1)
        chance_line(part, 1 / result.categories, f"guessing: {1 / result.categories:.2f}")
    n = result.candidates
    part = panel(
        figure, 5.4, 0.8, WIDTH - 5.7, 0.5, title=f"place of the true picture among {n}",
        xlabel="place by pixel correlation (1 is best)",
    )  # fmt: skip
    part.axvline((n + 1) / 2, color=GREY, linewidth=1.2, dashes=(3, 2), label=f"guessing: {(n + 1) / 2:g}")
    part.plot(result.rank, 0.0, "o", color=BLUE, markersize=9, label=f"painted: {result.rank:g}")
    if result.ridge_rank is not None:
        part.plot(result.ridge_rank, 1.0, "s", color=ORANGE, markersize=8, label=f"ridge: {result.ridge_rank:g}")
    part.set(xlim=(0, n + 1), ylim=(-0.7, 1.7), yticks=[])
    part.legend(fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0, -1.75), ncols=3)
    colour = result.colourfulness
    parts = ", ".join(f"{name} {colour[key]:.2f}" for key, name in COLOURED.items() if key in colour)
    words = f"colourfulness: {parts}"
    write(axes, 2.2, 0.22, words, LIGHT.muted, SMALL - 1, va="center")
    return figure


def say_scores(result: BrainResult) -> str:
    """The scores with their chance levels."""
    if not result.finished:
        return "Not painted yet."
    words = ""
    if result.top is not None:
        first = ", ".join(f"{name} {value:.2f}" for name, value in result.top)
        words = (
            f"The referee's first {len(result.top)} of {result.categories} categories: {first}; what it takes the "
            f"picture seen for, {result.takes_seen_for}, stands at place {result.place} (a guess is right with "
            f"probability {1 / result.categories:.2f}). "
        )
    ridge = "" if result.ridge_rank is None else f", with ridge {result.ridge_rank:g}"
    guessing = (result.candidates + 1) / 2
    return (
        f"{words}The true picture has place {result.rank:g} of {result.candidates}{ridge}; guessing gives {guessing:g}."
    )
