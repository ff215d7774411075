"""The face of a widget: a control for each knob, the pictures, progress, and errors in words.

Every control is a plain ipywidget and so can be reached by tab and moved by arrow keys; pictures carry their alt text;
what happens is said in a status line that screen readers announce. Nothing here knows what is computed.
"""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import ipywidgets

from visdec_lite.plotting import LIGHT
from visdec_lite.widgets.base import Explorer, Picture, image_html, words_for
from visdec_lite.widgets.knobs import Knob, State

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOW_EVERY = 0.2  # seconds between two pictures of work in progress
WIDTH = "310px"  # of a control
STALE = "visdec-stale"  # class of pictures that an error has left behind


class Face:
    """Controls and pictures of an explorer.

    Attributes:
        controls: name of a knob (or `knob.key`) -> ipywidget.
        buttons: words on it -> button.
        box: everything; display this.
    """

    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer
        self._quiet = False
        self._shown_at = 0.0
        self._old: set[str] = set()  # panes that do not show the state asked for
        self.controls: dict[str, ipywidgets.Widget] = dict(self._make_controls())
        self.buttons = {words: self._button(words, getattr(explorer, n)) for words, n in explorer.actions.items()}
        self.images = {name: ipywidgets.HTML() for name in explorer.panes}
        self.status = ipywidgets.HTML()
        self.progress = ipywidgets.IntProgress(
            min=0, max=1, description="computing", layout={"width": WIDTH, "visibility": "hidden"}
        )
        self.stop = self._button("Stop", explorer.stop)
        self.stop.disabled = True
        rows = [*self.controls.values(), *self.buttons.values(), self.progress, self.stop, *self._brain()]
        left = ipywidgets.VBox(rows, layout={"width": "340px", "flex": "0 0 auto"})
        right = ipywidgets.VBox([self.status, *self.images.values()], layout={"flex": "1 1 480px", "min_width": "0"})
        style = f".{explorer.static_class} {{ display: none }} .{STALE} {{ opacity: 0.35 }}"
        heading = ipywidgets.HTML(f"<style>{style}</style><h3>{html.escape(explorer.title)}</h3>")
        # side by side, tops in line; where that is too wide, the pictures above the controls
        both = ipywidgets.HBox([left, right], layout={"flex_flow": "row wrap-reverse", "align_items": "flex-end"})
        self.box = ipywidgets.VBox([heading, both])
        self.box.add_class("visdec-widget")

    # --- controls ---

    def _make_controls(self) -> Iterator[tuple[str, ipywidgets.Widget]]:
        for name, knob in self._explorer.knobs.items():
            value = getattr(self._explorer.state, name)
            if isinstance(value, Mapping):
                for key, words in knob.options.items():
                    part = f"{name}.{key}"
                    yield part, self._control(part, f"{knob.label} {words}", knob, value.get(key, 1.0), None)
            elif (knob.options is not None and len(knob.options) < 2) or (
                knob.low is not None and knob.low == knob.high
            ):
                continue  # nothing to choose
            else:
                yield name, self._control(name, knob.label, knob, value, knob.options)

    def _control(
        self, name: str, label: str, knob: Knob, value: Any, options: Mapping[Any, str] | None
    ) -> ipywidgets.Widget:
        shared = {
            "value": value, "description": label, "description_allow_html": False, "tooltip": knob.help or label,
            "style": {"description_width": "130px"}, "layout": {"width": WIDTH},
        }  # fmt: skip
        slider = {**shared, "continuous_update": not self._explorer.slow}
        if options is not None:
            control = ipywidgets.Dropdown(options=[(words, option) for option, words in options.items()], **shared)
        elif isinstance(value, bool):
            control = ipywidgets.Checkbox(**shared)
        elif isinstance(value, int):
            control = ipywidgets.IntSlider(min=int(knob.low), max=int(knob.high), step=int(knob.step or 1), **slider)
        elif knob.log:
            low, high = math.log10(knob.low), math.log10(knob.high)
            control = ipywidgets.FloatLogSlider(min=low, max=high, step=knob.step, **slider)
        else:
            control = ipywidgets.FloatSlider(min=knob.low, max=knob.high, step=knob.step, **slider)
        control.observe(lambda change: self._moved(name, change["new"]), names="value")
        return control

    def _moved(self, name: str, value: Any) -> None:
        """A control was moved. All others stand where the state says, or will at once."""
        with self._explorer.moving:
            quiet = self._quiet  # of another thread that puts the controls in their places, wait for the end
        if quiet:
            return
        field, _, key = name.partition(".")
        if key:
            self._explorer.set_part(field, key, value)
        else:
            self._explorer.set(**{field: value})

    def show_state(self, state: State) -> None:
        """Put the controls where the state says; the pictures are those of the state before. With `moving` held."""
        self._old = set(self.images)
        self._quiet = True
        try:
            for name, control in self.controls.items():
                field, _, key = name.partition(".")
                value = getattr(state, field).get(key, 1.0) if key else getattr(state, field)
                if control.value != value:
                    control.value = value
        finally:
            self._quiet = False

    def _button(self, words: str, action: Callable[[], Any]) -> ipywidgets.Button:
        button = ipywidgets.Button(description=words, tooltip=action.__doc__.splitlines()[0], layout={"width": WIDTH})
        button.on_click(lambda _: action())
        return button

    # --- pictures ---

    def show_result(self, pictures: Mapping[str, Picture], result: Any) -> None:
        self.show_pictures(pictures)
        self.status.value = ""
        if self._turned is not None:
            self._turn(result)

    def show_pictures(self, pictures: Mapping[str, Picture]) -> None:
        for name, picture in pictures.items():
            self.images[name].value = image_html(picture)
            self.images[name].remove_class(STALE)
            self._old.discard(name)
        self._shown_at = time.monotonic()

    def wants_more(self) -> bool:
        """Whether the last picture has been up long enough for the next."""
        return time.monotonic() - self._shown_at > SHOW_EVERY

    def show_progress(self, done: int, total: int) -> None:
        self.progress.max, self.progress.value = total, done

    def show_work(self, going_on: bool) -> None:
        self.progress.layout.visibility = "visible" if going_on else "hidden"
        self.stop.disabled = not going_on

    def show_error(self, error: BaseException) -> None:
        """Say it, and fade the pictures that belong to another state than the controls."""
        self._fade()
        self.status.value = error_html(error)

    def show_stopped(self) -> None:
        """Fade the pictures that belong to another state than the controls, and say why."""
        if self._old:
            self._fade()
            self.status.value = "Stopped. What is faded belongs to the knobs as they stood before."

    def _fade(self) -> None:
        for name in self._old:
            self.images[name].add_class(STALE)

    # --- the brain that can be turned, made when it is asked for: plotly's script weighs 5 MB ---

    def _brain(self) -> list[ipywidgets.Widget]:
        self._turned: Any = None
        if type(self._explorer).cortex is Explorer.cortex:
            return []
        self.turn = ipywidgets.ToggleButton(
            value=False,
            description="Turn the brain (3-D)",
            layout={"width": WIDTH},
            tooltip="a brain that can be turned",
        )
        self.turn.observe(self._toggled, names="value")
        self._stage = ipywidgets.VBox()
        return [self.turn, self._stage]

    def _toggled(self, change: Any) -> None:
        wanted = change["new"] and self._explorer.result is not None
        with self._explorer.moving:
            self._turned = None
            self._stage.children = ()
            if wanted:
                self._turn(self._explorer.result)

    def _turn(self, result: Any) -> None:
        figure = self._explorer.cortex(result)
        if figure is None:
            self._stage.children = (ipywidgets.HTML("No position in the brain is known for these voxels."),)
            return
        if self._turned is None:
            self._turned = _figure_widget(figure)
            self._stage.children = (self._turned or ipywidgets.HTML("This needs anywidget: pip install anywidget"),)
        else:  # new colours, same point of view
            self._turned.update(data=[{"marker": {"color": list(t.marker.color)}} for t in figure.data])


def error_html(error: BaseException) -> str:
    """An error in words, which screen readers announce."""
    return (
        f'<div role="alert" style="border-left:4px solid {LIGHT.warning};padding:6px 10px;color:{LIGHT.ink}">'
        f"{html.escape(words_for(error))}</div>"
    )


def _figure_widget(figure: Any) -> Any:
    """The figure as a widget whose colours can change; None where plotly cannot make one."""
    from plotly.graph_objects import FigureWidget

    figure.update_layout(width=320, height=320)
    try:
        return FigureWidget(figure)
    except ImportError:
        return None
