"""What a lesson needs besides the library: exercises that answer in sentences, artefacts handed on, figures in words.

    lesson       `Lesson`: data, trained parts and exercises of one notebook
    verdicts     how a check says right, wrong, or not tried yet
    checks       one module a lesson: known answers against what a student wrote
    solutions    one module a lesson: one way to write it, and the mistakes that are made most
    show         a figure with the words for who cannot see it
    glossary     every term once

and what runs and plans the lessons:

    notebooks    a lesson as a file: card, parameters, questions, exercises
    runner       lessons executed one after another or side by side; `worker` is the process of one
    executed     what came of it: errors that nobody saw, seconds, memory, pages
    plan         the instructor's plan
    commands     the command line of all this

`Lesson` brings torch with it and is fetched on first use, so that the command line starts at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from visdec_lite.teaching.glossary import GLOSSARY, define
from visdec_lite.teaching.show import show

if TYPE_CHECKING:
    from visdec_lite.teaching.lesson import Lesson

__all__ = ["GLOSSARY", "Lesson", "define", "show"]


def __getattr__(name: str) -> object:
    if name != "Lesson":
        raise AttributeError(f"module 'visdec_lite.teaching' has no attribute {name!r}; it has {', '.join(__all__)}")
    from visdec_lite.teaching.lesson import Lesson

    return Lesson
