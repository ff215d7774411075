"""Pictures side by side, the brain from three sides, heat maps: the drawings that widgets share.

In: arrays. Out: matplotlib figures of no window, in the colours of `plotting`; what is simulated says so in a corner.
Lengths are inches from the top left corner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visdec_lite.plotting import BADGE, BODY, GREY, LIGHT, SMALL
from visdec_lite.widgets.scans import VOXEL, silhouettes

WIDTH = 8.6  # inches, of every pane
HEAD = 0.42  # inches for the title
CELL, GAP, CAPTION = 1.25, 0.12, 0.34  # inches: side of a picture, space between two, words above it
HEAT = "cividis"  # for shares: dark is little, and the same to every eye
SIGNED = "PuOr_r"  # for what has a sign: purple below, orange above zero


def page(height: float, title: str, simulated: bool) -> tuple[Figure, Axes]:
    """A figure with its title, and axes in inches to write and paste on."""
    figure = Figure(figsize=(WIDTH, height), facecolor=LIGHT.paper)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    write(axes, 0.1, 0.22, title, size=BODY + 1, weight="bold", va="center")
    if simulated:
        write(axes, WIDTH - 0.1, 0.22, BADGE, LIGHT.warning, SMALL, weight="bold", ha="right", va="center")
    return figure, axes


def write(axes: Axes, x: float, y: float, words: str, colour: str = LIGHT.ink, size: float = BODY, **how: Any) -> None:
    """Words as they stand: a dollar sign is no formula."""
    axes.text(x, y, words, color=colour, fontsize=size, parse_math=False, **how)


def paste(axes: Axes, picture: np.ndarray, x: float, y: float, side: float = CELL, frame: str | None = None) -> None:
    """A picture, uint8 (h, w, 3), with its top left corner at x, y; small ones keep their square pixels."""
    extent = (x, x + side, y + side, y)
    axes.imshow(picture, extent=extent, origin="upper", interpolation="nearest", aspect="auto", zorder=2)
    axes.set(xlim=(0, WIDTH), ylim=(axes.figure.get_figheight(), 0))
    if frame:
        axes.plot([x, x + side, x + side, x, x], [y, y, y + side, y + side, y], color=frame, linewidth=2.5, zorder=3)


def picture_rows(
    rows: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]],
    title: str,
    simulated: bool,
    frames: Sequence[tuple[int, int, str]] = (),
) -> Figure:
    """Rows of pictures.

    Args:
        rows: words of the row, and its pictures with the words above each; nine fit.
        frames: (row, column, colour) of pictures to set off.
    """
    left = 1.15 if any(words for words, _ in rows) else 0.1
    marked = {(row, column): colour for row, column, colour in frames}
    longest = max(len(pictures) for _, pictures in rows)
    side = min(CELL, (WIDTH - left) / longest - GAP)
    pitch = CAPTION + side + GAP
    figure, axes = page(HEAD + pitch * len(rows), title, simulated)
    for r, (words, pictures) in enumerate(rows):
        y = HEAD + r * pitch + CAPTION
        write(axes, 0.1, y + side / 2, words, size=SMALL, va="center", linespacing=1.3)
        for c, (caption, picture) in enumerate(pictures):
            x = left + c * (side + GAP)
            write(axes, x, y - 0.05, caption, LIGHT.muted, SMALL - 1.5, va="bottom", linespacing=1.1)
            paste(axes, picture, x, y, side, marked.get((r, c)))
    return figure


def panel(figure: Figure, x: float, y: float, width: float, height: float, **labels: str) -> Axes:
    """Plain axes with their top left corner at x, y; labels: title, xlabel, ylabel."""
    full_width, full_height = figure.get_size_inches()
    place = (x / full_width, 1 - (y + height) / full_height, width / full_width, height / full_height)
    axes = figure.add_axes(place)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL - 1, colors=LIGHT.muted)
    axes.set_title(labels.pop("title", ""), fontsize=SMALL, loc="left", color=LIGHT.ink)
    for name, words in labels.items():
        getattr(axes, f"set_{name}")(words, fontsize=SMALL - 0.5, color=LIGHT.muted)
    return axes


def brain_views(
    figure: Figure,
    y: float,
    height: float,
    positions: np.ndarray,
    values: np.ndarray,
    signed: bool = True,
    left: float = 0.0,
) -> None:
    """Voxels inside the outline of the MNI brain from three sides; each place shows its most extreme voxel.

    Args:
        positions: mm, (voxels, 3).
        values: (voxels,); signed ones in purple and orange up to 2, others dark to bright, from 0.
        left: where the first view begins.
    """
    order = np.argsort(np.abs(values), kind="stable")  # the extreme ones on top
    low, high = (-2.0, 2.0) if signed else (0.0, max(float(values.max()), 1e-12))
    width = (WIDTH - left) / 3
    for column, (name, across, up, shape, extent) in enumerate(silhouettes()):
        axes = panel(figure, left + column * width + 0.1, y, width - 0.2, height, title=name)
        scale = min((width - 0.2) / (extent[1] - extent[0]), height / (extent[3] - extent[2]))  # inches a mm
        backdrop = np.where(shape[..., None], 236, 255).astype(np.uint8).repeat(3, axis=-1)
        axes.imshow(backdrop, extent=extent, origin="lower", interpolation="nearest")
        axes.scatter(
            positions[order, across], positions[order, up], c=values[order], s=(72 * scale * VOXEL) ** 2, marker="s",
            linewidths=0, cmap=SIGNED if signed else HEAT, vmin=low, vmax=high,
        )  # fmt: skip
        axes.set_axis_off()
        axes.set_anchor("N")  # titles in one line


def turnable_brain(positions: np.ndarray, values: np.ndarray, words: Sequence[str], label: str, signed: bool) -> Any:
    """Voxels as a plotly figure that can be turned.

    Args:
        positions: mm, (voxels, 3).
        values: (voxels,), as in `brain_views`.
        words: shown on hovering over each voxel.
        label: of the colour bar.
    """
    import plotly.graph_objects as go

    scale = "PuOr_r" if signed else "Cividis"
    low, high = (-2.0, 2.0) if signed else (0.0, max(float(values.max()), 1e-12))
    x, y, z = positions.T.round(1)
    points = go.Scatter3d(
        x=x, y=y, z=z, mode="markers", text=list(words), hovertemplate="%{text}<br>%{marker.color:.2f}<extra></extra>",
        marker={
            "size": 3, "color": values.round(3), "colorscale": scale, "cmin": low, "cmax": high,
            "colorbar": {"title": label, "thickness": 12},
        },
    )  # fmt: skip
    axes = {f"{axis}axis": {"title": f"{axis} (mm)"} for axis in "xyz"}
    layout = {
        "scene": {**axes, "aspectmode": "data"},
        "margin": {"l": 0, "r": 0, "t": 10, "b": 0},
        "uirevision": "kept",
    }
    return go.Figure(points, layout=layout)


def region_bars(
    axes: Axes, names: Sequence[str], values: Sequence[float], colour: str, reference: Sequence[float] | None = None
) -> None:
    """A bar a region, with a mark where it would stand otherwise."""
    places = np.arange(len(names))
    axes.barh(places, values, color=colour, height=0.65)
    if reference is not None:
        axes.plot(reference, places, "|", color=LIGHT.ink, markersize=11, markeredgewidth=1.8, linestyle="none")
    axes.set_yticks(places, names, fontsize=SMALL - 1, color=LIGHT.ink)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def chance_line(axes: Axes, value: float, words: str) -> None:
    """A dashed line at the level of guessing."""
    axes.axvline(value, color=GREY, linewidth=1.2, dashes=(3, 2), label=words)
    axes.legend(fontsize=SMALL - 2, frameon=False, loc="lower right")
