"""A user's matplotlibrc changes no picture: the same pixels under hostile parameters as out of the box."""

from __future__ import annotations

import ast
import io
import json
import threading
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from visdec_lite import plotting
from visdec_lite.comparison.figures import curves_of, draw_curves
from visdec_lite.comparison.tables import Row
from visdec_lite.datasets.stimuli import draw_scenes, render
from visdec_lite.teaching import show
from visdec_lite.widgets.base import Explorer, Pane
from visdec_lite.widgets.drawing import (
    HEAD,
    brain_views,
    chance_line,
    page,
    panel,
    picture_rows,
    region_bars,
)
from visdec_lite.widgets.knobs import State, knob

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = {
    "pictures upside down": {
        "image.origin": "lower", "image.cmap": "jet", "image.interpolation": "bicubic", "image.aspect": "auto",
    },
    "TeX that is not there": {"text.usetex": True},
    "dark": {**matplotlib.style.library["dark_background"], "figure.edgecolor": "white"},
    "other files and layout": {
        "savefig.dpi": 17, "savefig.bbox": "tight", "savefig.transparent": True, "savefig.facecolor": "red",
        "savefig.format": "svg", "savefig.pad_inches": 2, "figure.dpi": 31, "figure.autolayout": True,
        "figure.figsize": (2, 30), "axes.grid": True, "grid.color": "red", "axes.axisbelow": False,
    },
    "other letters and lines": {
        "font.size": 40, "font.family": "monospace", "axes.titlesize": 50, "font.weight": "bold", "lines.linewidth": 9,
        "lines.marker": "x", "lines.antialiased": False, "axes.xmargin": 0.4, "axes.spines.left": False,
        "xtick.direction": "in", "xtick.minor.visible": True, "path.sketch": (5, 100, 2), "axes.unicode_minus": False,
        "text.antialiased": False, "axes.formatter.limits": (0, 0), "axes.autolimit_mode": "round_numbers",
    },
}  # fmt: skip
TRUTH = render(draw_scenes(np.arange(2), np.random.default_rng(0)))
SCORES = {
    "visdec": {"n_way_top1": {"value": 0.4, "ci95": [0.3, 0.5], "chance": 0.02}, "pcc": {"value": -0.1}},
    "ridge": {"n_way_top1": {"value": 0.1, "ci95": [0.0, 0.2], "chance": 0.02}},
}
HISTORY = {"pretrain": [{"step": n, "split": s, "loss": 5 / (1 + n)} for n, s in product(range(9), ("train", "val"))]}
ROWS = [
    Row(method, condition, "n_way_top1", 0.4, 0.3, 0.5, 0.02, 8, 1, 1, None, (0.4,), "8 stimuli")
    for method, condition in product(("visdec", "ridge"), ("test", "single_trial"))
]


@dataclass(frozen=True)
class NoState(State):
    seed: int = knob(0, "seed", low=0, high=1)


def drawn(_: int) -> Figure:
    """Everything that the drawings of widgets share."""
    figure, _ = page(7.0, "a $ title", simulated=True)
    rng = np.random.default_rng(0)
    brain_views(figure, HEAD, 2.0, rng.normal(0, 30, (40, 3)), rng.normal(size=40))
    bars = panel(figure, 1.0, 3.2, 3.0, 1.5, title="bars", xlabel="share", ylabel="region")
    region_bars(bars, ["V1", "V4"], [0.2, -0.7], plotting.BLUE, [0.1, 0.4])
    chance_line(bars, 0.1, "chance")
    image = panel(figure, 5.0, 3.2, 2.0, 1.5).imshow(rng.normal(size=(3, 5)), origin="upper", cmap="cividis")
    figure.colorbar(image)
    return figure


class Drawings(Explorer[NoState, int]):
    title = "All drawings"
    State = NoState
    panes: ClassVar = {
        "rows": Pane(
            lambda _: picture_rows([("seen", [("one", TRUTH[0]), ("", TRUTH[1])])], "t", True, [(0, 1, "red")]),
            lambda _: "Two pictures side by side.",
        ),
        "others": Pane(drawn, lambda _: "Brain, bars and an image."),
    }

    def compute(self, state: NoState, report: Any = None) -> int:
        return 0


def everything() -> dict[str, bytes]:
    """Each figure that this package draws, as PNG."""
    styles = plotting.method_styles(["visdec", "ridge"])
    widget = Drawings()
    return {
        "gallery": plotting.figure_png(
            plotting.gallery(TRUTH, {"ridge": TRUTH[:, None]}, simulated=True, title="$t", captions=["c $x"] * 2)
        ),
        "score_chart": plotting.figure_png(plotting.score_chart(SCORES, simulated=True, n_test=8), margin=False),
        "loss_curves": plotting.figure_png(plotting.loss_curves(HISTORY, simulated=True, dark=True)),
        "curves": plotting.figure_png(
            draw_curves(ROWS, curves_of(ROWS, 4, 9), ["visdec", "ridge"], styles, simulated=True)
        ),
        **{name: picture.png for name, picture in widget._draw_panes(0, Drawings.panes).items()},
    }


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        return {name: pixels(png) for name, png in everything().items()}


@pytest.mark.parametrize("what", HOSTILE)
def test_every_figure_has_the_same_pixels_whatever_matplotlibrc_says(expected, what):
    with matplotlib.rc_context(HOSTILE[what]):
        before = dict(matplotlib.rcParams)
        found = everything()
        assert dict(matplotlib.rcParams) == before, "the user's parameters are back"
    for name, picture in expected.items():
        np.testing.assert_array_equal(pixels(found[name]), picture, err_msg=f"{name}, {what}")


def test_the_parameters_are_back_after_an_error_and_one_thread_draws_at_a_time():
    inside, most = [], []

    @plotting.own_parameters()
    def draw() -> None:
        inside.append(1)
        most.append((len(inside), matplotlib.rcParams["image.origin"]))
        plotting.score_chart(SCORES, simulated=False)
        inside.pop()

    with matplotlib.rc_context({"image.origin": "lower"}):
        threads = [threading.Thread(target=draw) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with pytest.raises(ValueError, match="0 scores"):
            plotting.score_chart({}, simulated=True)
        assert matplotlib.rcParams["image.origin"] == "lower"
    assert most == 4 * [(1, "upper")]


def test_a_figure_of_a_lesson_is_saved_alike(monkeypatch):
    def shown() -> str:
        figure, axes = plt.subplots(figsize=(3, 2))
        axes.imshow(TRUTH[0], origin="upper")
        pages = []
        monkeypatch.setattr("IPython.display.display", lambda page: pages.append(page.data))
        with matplotlib.rc_context(HOSTILE["other files and layout"]):
            show(figure, alt="A picture with a shape in the middle.")
        return pages[0]

    with matplotlib.rc_context({"savefig.dpi": "figure"}):
        found = shown()
    monkeypatch.setitem(HOSTILE, "other files and layout", {})
    assert found == shown()


def test_every_image_says_which_way_is_up():
    """In the package and in the lessons, whose cells draw with the user's parameters."""
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "visdec_lite").rglob("*.py")}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources[path] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    silent, count = [], 0
    for path, source in ((path, source) for path, source in sources.items() if "show(" in source):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".imshow", ".matshow", ".figimage")):
                if ast.unparse(node.func) == "px.imshow":  # plotly's, which reads no matplotlibrc
                    continue
                count += 1
                if "origin" not in [keyword.arg for keyword in node.keywords] and "**look" not in ast.unparse(node):
                    silent.append(f"{path.name}: {ast.unparse(node)}")
    assert silent == [] and count >= 15
