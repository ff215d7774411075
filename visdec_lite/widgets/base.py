"""What all widgets have in common: a state goes in, arrays come out, pictures of them are shown.

    state --compute--> result --panes--> figures with alt text --> controls and pictures (face), or PNG and HTML

`compute` and the drawings are pure: the same state gives the same pictures, with or without a front end. Who moved a
knob decides when the answer comes. A person at a control gets it from a thread, the newest position wins, and what is
under way can be stopped. A line of code gets it before it returns, so that a headless run is deterministic; and there
an error is raised, after it was put into words in the widget and into `widget.error`.

Both may happen at once, for kernels hear controls while a cell runs. So every answer is of a request, the newest
request makes the others void, whoever made them, and nothing is shown of a void one: knobs, result and pictures end up
at one state. A line of code whose request was made void waits for the answer that replaced it.
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
from contextlib import contextmanager, suppress
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


class Request(NamedTuple):
    """A state to be answered; void once a newer one is asked for or somebody pressed stop."""

    state: Any
    void: threading.Event


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
        # Held while knobs are moved and while something is shown, never while something is computed.
        self.moving = threading.RLock()
        self._asked = Request(self._state, threading.Event())
        self._worker: LatestWins[Request] = LatestWins(self._answer_in_thread)
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
            with self.moving:
                request = self._ask(self._state)
            self._answer_now(request)
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
        self._move(lambda state: replace(state, **changes))

    def set_part(self, name: str, key: str, value: Any) -> None:
        """Turn one knob of a mapping: `widget.set_part("gains", "V4", 0.0)`; the others stay where they are.

        Raises:
            ValueError: a value out of range.
        """
        self._move(lambda state: replace(state, **{name: {**getattr(state, name), key: value}}))

    def _move(self, change: Callable[[S], S]) -> None:
        """Answer the present state changed, now or in the thread, whichever the caller wants."""
        with self.moving:
            state = change(self._state)
            check(state, self.knobs)
            request = self._ask(state)
            if self._face:
                self._face.show_state(state)
            if moved_by_hand() if self.live is None else self.live:
                self._worker.submit(request)
                return
        self._answer_now(request)

    def _ask(self, state: S) -> Request:
        """The request that makes all before it void; with `moving` held."""
        self._asked.void.set()
        self._state, self._asked = state, Request(state, threading.Event())
        return self._asked

    def stop(self) -> None:
        """Give up what is being computed; what was shown last stays, faded where it is of another state."""
        with self.moving:
            self._asked.void.set()
            if self._face:
                self._face.show_stopped()

    def wait(self, timeout: float | None = None) -> bool:
        """Until the thread is done; with `strict` its error is raised here. False: it took longer."""
        finished = self._worker.wait(timeout)
        if finished and self.strict and self.error:
            raise self.error
        return finished

    # --- answering ---

    def _answer_now(self, request: Request) -> None:
        try:
            error = self._answer(request, in_thread=False)
        except BaseException:  # Ctrl-C
            self.stop()
            raise
        if request.void.is_set():
            self._worker.wait()  # for the answer to whoever moved a knob meanwhile
        elif error and self.strict is not False:
            raise error

    def _answer_in_thread(self, request: Request) -> None:
        self._answer(request, in_thread=True)

    def _answer(self, request: Request, in_thread: bool) -> Exception | None:
        """Compute and show; returns what went wrong."""
        if request.void.is_set():
            return None
        face = self._face

        def report(done: int, total: int, partial: Callable[[], R] | None = None, panes: tuple[str, ...] = ()) -> None:
            if request.void.is_set():
                raise Cancelled
            if face and in_thread:
                face.show_progress(done, total)
                if partial and face.wants_more():
                    pictures = self._draw_panes(partial(), panes)
                    with self._shown(request):
                        face.show_pictures(pictures)

        try:
            with self._at_work(face if in_thread else None), torch_threads(1 if self.one_thread else None):
                result = self.compute(request.state, report)
                pictures = self._draw_panes(result, self.panes)
                report(1, 1)
            with self._shown(request):
                self.error, self._result, self._pictures = None, result, pictures
                self._publish()
        except Cancelled:
            return None
        except Exception as error:
            with suppress(Cancelled), self._shown(request):
                self.error = error
                if self._face:
                    self._face.show_error(error)
            return error
        return None

    @contextmanager
    def _shown(self, request: Request) -> Iterator[None]:
        """Showing something of a request, which no other can make void meanwhile; `Cancelled` if one has before."""
        with self.moving:
            if request.void.is_set():
                raise Cancelled
            yield

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
        with self.moving:
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
        with self.moving:
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


class _Threads:
    """Torch's number of threads while at least one widget computes with its own: who comes first notes what it was."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._users, self._before = 0, 0

    @contextmanager
    def __call__(self, count: int | None) -> Iterator[None]:
        """So many threads for torch, if it is there; None changes nothing."""
        torch = sys.modules.get("torch")
        if torch is None or count is None:
            yield
            return
        with self._changing:
            if not self._users:
                self._before = torch.get_num_threads()
            self._users += 1
            torch.set_num_threads(count)
        try:
            yield
        finally:
            with self._changing:
                self._users -= 1
                torch.set_num_threads(self._before)


torch_threads = _Threads()


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
