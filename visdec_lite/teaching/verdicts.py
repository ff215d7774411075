"""How a check answers: right, wrong, or not tried yet, always in a sentence that helps.

A check is a function `name(attempt) -> str` that returns what to say when all is right. It calls the attempt through
`call`, which turns a stub into "not tried yet" and a crash into a sentence, and states what it expects with `expect`.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


class Wrong(Exception):
    """The attempt gives a wrong answer; the message says which, what was expected, and where to look."""


class NotTried(Exception):
    """The attempt is still the stub."""


@dataclass(frozen=True)
class Verdict:
    """What came of an exercise.

    Attributes:
        exercise: its name.
        passed: True, False, or None when it was not tried.
        message: one or two sentences to the student.
    """

    exercise: str
    passed: bool | None
    message: str

    @property
    def mark(self) -> str:
        return {True: "Right.", False: "Not yet.", None: "Not tried yet."}[self.passed]

    def __repr__(self) -> str:
        return f"{self.exercise}: {self.mark} {self.message}"

    def _repr_html_(self) -> str:
        colour = {True: "#009E73", False: "#D55E00", None: "#8A8F98"}[self.passed]
        words = html.escape(self.message).replace("\n", "<br>")
        return (
            f'<div role="status" style="border-left:4px solid {colour};padding:.4em .8em;margin:.4em 0">'
            f"<b>{self.mark}</b> <code>{html.escape(self.exercise)}</code><br>{words}</div>"
        )


def judge(exercise: str, check: Callable[[Any], str], attempt: Any) -> Verdict:
    """Run a check on an attempt."""
    try:
        if attempt is None or attempt is ...:
            raise NotTried
        return Verdict(exercise, True, check(attempt))
    except NotTried:
        return Verdict(exercise, None, "Replace the `...` in the cell above, run it, then run this cell again.")
    except Wrong as wrong:
        return Verdict(exercise, False, str(wrong))
    except Exception as error:  # the check expected a tensor, say, and was given a list
        words = f"The check could not read your answer, {type(error).__name__}: {error}."
        return Verdict(exercise, False, f"{words} Is it of the type and the shape that the text above asks for?")


def call(attempt: Callable[..., Any], *args: Any, given: str = "", **options: Any) -> Any:
    """What the attempt returns.

    Args:
        given: words for the arguments, for the sentence about a crash: "two batches of shape (8, 4)".

    Raises:
        NotTried: it returns None or ..., or raises NotImplementedError.
        Wrong: it raises anything else, or cannot be called.
    """
    if not callable(attempt):
        raise Wrong(f"This should be a function, and it is {attempt!r}. Did the cell assign to its name afterwards?")
    try:
        answer = attempt(*args, **options)
    except NotImplementedError:
        raise NotTried from None
    except Exception as error:
        where = f" when given {given}" if given else ""
        raise Wrong(f"Your function stopped with {type(error).__name__}{where}: {error}") from error
    if answer is None or answer is ...:
        raise NotTried
    return answer


def expect(condition: bool, otherwise: str) -> None:
    """Go on if the condition holds; else say `otherwise`."""
    if not condition:
        raise Wrong(otherwise)


def close(found: Any, wanted: Any, tolerance: float = 1e-4) -> bool:
    """Whether numbers, arrays or tensors agree in shape and value, relative to the largest wanted one.

    What is no number at all, such as a word or rows of unequal length, agrees with nothing.
    """
    try:
        found, wanted = (np.asarray(_on_cpu(x), dtype=float) for x in (found, wanted))
    except (TypeError, ValueError):
        return False
    if found.shape != wanted.shape:
        return False
    return bool(np.allclose(found, wanted, rtol=0, atol=tolerance * max(1.0, np.abs(wanted).max(initial=0.0))))


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu().double() if hasattr(value, "detach") else value


def shape_of(value: Any) -> str:
    """Its shape in words, or what it is instead."""
    return f"shape {tuple(value.shape)}" if hasattr(value, "shape") else f"{type(value).__name__} {value!r}"
