"""What all widgets have in common: a state goes in, arrays come out, pictures of them are shown.

    state --compute--> result --panes--> figures with alt text --> controls and pictures (face), or PNG and HTML

`compute` and the drawings are pure: the same state gives the same pictures, with or without a front end. Who moved a
knob decides when the answer comes. A person at a control gets it from a thread, the newest position wins, and what is
under way can be stopped. A line of code gets it before it returns, so that a headless run is deterministic; and there
an error is raised, after it was put into words in the widget and into `widget.error`.
"""

from __future__ import annotations

import base64
import html
import io
import sys
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from matplotlib.figure import Figure

from visdec_lite.datasets.pictures import read_picture
from visdec_lite.plotting import own_parameters
from visdec_lite.widgets.knobs import Knob, State, check, knobs_of
from visdec_lite.widgets.worker import Cancelled, LatestWins

if TYPE_CHECKING:
    from visdec_lite.widgets.face import Face

DPI = 100
S = TypeVar("S", bound=State)
R = TypeVar("R")
# How far a computation is: steps done, steps in all, and on request what can be shown by now, in which panes.
Report = Callable[..., None]


class Pane(NamedTuple):
    """A picture of a result, and the words for who cannot see it."""

    draw: Callable[[Any], Figure]
    say: Callable[[Any], str]


class Picture(NamedTuple):
    png: bytes
    alt: str


def no_report(done: int, total: int, partial: Callable[[], Any] | None = None, panes: tuple[str, ...] = ()) -> None:
    """Nobody wants to know."""


class Explorer(ABC, Generic[S, R]):
    """A widget. One that is shown has `controls`; one that is not works as well, without ipywidgets.

    Args:
        state: knobs to start from; None: the defaults.
        knobs: replaces knobs of the state whose range depends on the data.
        live: True answers in a thread, False before the call returns; None decides by who asks (see above).
        strict: True raises every error (of a thread: in `wait`), False none; None raises what code asked for.

    Attributes:
        error: what went wrong with the last state, None if nothing did.
    """

    title: str
    State: ClassVar[type[State]]
    panes: ClassVar[Mapping[str, Pane]]
    actions: ClassVar[Mapping[str, str]] = {}  # words on a button -> name of the method it calls
    slow: ClassVar[bool] = False  # True: sliders ask when they are let go
    # Models as small as those of a class spend their time handing work to threads, and on a busy machine waiting for
    # them: 27 s instead of 0.5 s were seen for ten denoising steps.
    one_thread: bool = True

    def __init__(
        self,
        state: S | None = None,
        *,
        knobs: Mapping[str, Knob] | None = None,
        live: bool | None = None,
        strict: bool | None = None,
    ) -> None:
        self.knobs: dict[str, Knob] = {**knobs_of(self.State), **(knobs or {})}
        self.live, self.strict = live, strict
        self.error: Exception | None = None
        self._state: S = state or self.State()
        self._result: R | None = None
        self._pictures: dict[str, Picture] = {}
        self._face: Face | None = None
        self._static: str | None = None  # display id of the static copy that a notebook holds
        # The class of static copies: the face brings a style that hides those of its own widget, so that they show
        # where no face does.
        self.static_class = f"visdec-static-{uuid.uuid4().hex[:12]}"
        self._shows = threading.Lock()
        self._worker: LatestWins[S] = LatestWins(self._answer_in_thread)
        check(self._state, self.knobs)

    # --- what a widget is ---

    @abstractmethod
    def compute(self, state: S, report: Report = no_report) -> R:
        """Arrays for a state; depends on nothing else.

        Args:
            report: called between steps with (done, total, partial, panes): `partial()` is a result that can be shown
                in these panes already. It raises `Cancelled` when the answer is no longer wanted.
        """

    def cortex(self, result: R) -> Any:
        """A plotly figure of the brain that can be turned, or None."""
        return None

    def draw(self, result: R) -> bytes:
        """All panes of a result beneath one another, PNG."""
        return _stack([picture.png for picture in self._draw_panes(result, self.panes).values()])

    def describe(self, result: R) -> str:
        """All panes of a result in words."""
        return " ".join(pane.say(result) for pane in self.panes.values())

    # --- moving it ---

    @property
    def state(self) -> S:
        """Where the knobs stand."""
        return self._state

    @property
    def result(self) -> R | None:
        """Of the last state that was answered; computed now if none was."""
        if self._result is None and self.error is None and not self._worker.busy:
            self._answer_now(self._state)
        return self._result

    def set(self, **changes: Any) -> None:
        """Turn knobs: `widget.set(mask_ratio=0.5)`.

        Raises:
            TypeError: no knob of that name.
            ValueError: a value out of range.
        """
        unknown = sorted(set(changes) - set(self.knobs))
        if unknown:
            raise TypeError(f"no knob is called {', '.join(unknown)}; there are {', '.join(self.knobs)}")
        state = replace(self._state, **changes)
        check(state, self.knobs)
        self.request(state)

    def request(self, state: S) -> None:
        """Answer this state, now or in the thread, whichever the caller wants."""
        self._state = state
        if self._face:
            self._face.show_state(state)
        if moved_by_hand() if self.live is None else self.live:
            self._worker.submit(state)
        else:
            self._answer_now(state)

    def stop(self) -> None:
        """Give up what is being computed; what was shown last stays."""
        self._worker.cancel()

    def wait(self, timeout: float | None = None) -> bool:
        """Until the thread is done; with `strict` its error is raised here. False: it took longer."""
        finished = self._worker.wait(timeout)
        if finished and self.strict and self.error:
            raise self.error
        return finished

    # --- answering ---

    def _answer_now(self, state: S) -> None:
        self._worker.cancel()
        self._answer(state, threading.Event(), in_thread=False)
        if self.error and self.strict is not False:
            raise self.error

    def _answer_in_thread(self, state: S, stop: threading.Event) -> None:
        self._answer(state, stop, in_thread=True)

    def _answer(self, state: S, stop: threading.Event, in_thread: bool) -> None:
        face = self._face

        def report(done: int, total: int, partial: Callable[[], R] | None = None, panes: tuple[str, ...] = ()) -> None:
            if stop.is_set():
                raise Cancelled
            if face and in_thread:
                face.show_progress(done, total)
                if partial and face.wants_more():
                    face.show_pictures(self._draw_panes(partial(), panes))

        try:
            with self._at_work(face if in_thread else None), torch_threads(1 if self.one_thread else None):
                check(state, self.knobs)
                result = self.compute(state, report)
                pictures = self._draw_panes(result, self.panes)
                report(1, 1)
        except Cancelled:
            return
        except Exception as error:
            with self._shows:
                if not stop.is_set():
                    self.error = error
                    if face:
                        face.show_error(error)
            return
        with self._shows:  # an answer that nobody wants any more must not replace a newer one
            if not stop.is_set():
                self.error, self._result, self._pictures = None, result, pictures
                self._publish()

    @contextmanager
    def _at_work(self, face: Face | None) -> Iterator[None]:
        if face:
            face.show_work(True)
        try:
            yield
        finally:
            if face:
                face.show_work(False)

    def _publish(self) -> None:
        if self._face:
            self._face.show_result(self._pictures, self._result)
        if self._static:
            from IPython.display import update_display

            update_display(self._static_copy(), raw=True, display_id=self._static)

    def _draw_panes(self, result: R, names: Any) -> dict[str, Picture]:
        with own_parameters():
            return {name: Picture(png(self.panes[name].draw(result)), self.panes[name].say(result)) for name in names}

    # --- showing it ---

    @property
    def face(self) -> Face:
        """Controls and pictures; needs ipywidgets."""
        if self._face is None:
            from visdec_lite.widgets.face import Face

            self._face = Face(self)
            if self._pictures:
                self._face.show_result(self._pictures, self._result)
            if self.error:
                self._face.show_error(self.error)
        return self._face

    @property
    def controls(self) -> dict[str, Any]:
        """Name of a knob -> its ipywidget; the sliders of a mapping are called like `gains.V4`."""
        return self.face.controls

    def _ipython_display_(self) -> None:
        """The face, and beneath it the static copy, which the face hides as long as it is alive."""
        from IPython.display import display

        _ = self.result
        display(self.face.box)
        self._static = uuid.uuid4().hex
        display(self._static_copy(), raw=True, display_id=self._static)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The pictures as they are now, for viewers without a kernel."""
        if self.result is None:
            return {"text/plain": f"{self.title}: {words_for(self.error)}" if self.error else self.title}
        image = base64.b64encode(_stack([picture.png for picture in self._pictures.values()])).decode("ascii")
        return {**self._static_copy(), "image/png": image}

    def _static_copy(self) -> dict[str, str]:
        body = "".join(image_html(picture) for picture in self._pictures.values())
        alt = " ".join(picture.alt for picture in self._pictures.values())
        return {"text/plain": f"{self.title}. {alt}", "text/html": f'<div class="{self.static_class}">{body}</div>'}


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """So many threads for torch, if it is there; None changes nothing."""
    torch = sys.modules.get("torch")
    if torch is None or count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def moved_by_hand() -> bool:
    """Whether this code runs because a front end sent a message, and not because a cell or a script runs."""
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython.get_ipython(), "kernel", None) if ipython else None
    parent = kernel.get_parent() if hasattr(kernel, "get_parent") else {}
    return parent.get("header", {}).get("msg_type") == "comm_msg"


def words_for(error: BaseException) -> str:
    """An error as a sentence for the widget."""
    words = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return f"This did not work: {words or type(error).__name__}"


def png(figure: Figure) -> bytes:
    """A figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def image_html(picture: Picture) -> str:
    """An `<img>` that carries its picture and its alt text."""
    data = base64.b64encode(picture.png).decode("ascii")
    alt = html.escape(picture.alt, quote=True)
    return f'<img alt="{alt}" style="display:block;max-width:100%" src="data:image/png;base64,{data}">'


def _stack(pngs: list[bytes]) -> bytes:
    """Pictures beneath one another on white."""
    from PIL import Image

    images = [read_picture(one, background=255) for one in pngs]
    width = max(image.shape[1] for image in images)
    padded = [np.pad(i, ((0, 0), (0, width - i.shape[1]), (0, 0)), constant_values=255) for i in images]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(padded)).save(buffer, format="PNG")
    return buffer.getvalue()
