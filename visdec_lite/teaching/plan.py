"""The instructor's plan, made from the lessons themselves and never kept by hand.

In: notebooks with measured times, checks and the mistakes that are made most. Out: markdown: a plan minute by minute,
the questions to put to the class, the wrong answers to expect and what the check says to them.

A section of a lesson costs the seconds that its cells took, the time to say its words, and time for each question and
each exercise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from visdec_lite.teaching.notebooks import LessonFile, count_words, find_lessons
from visdec_lite.teaching.verdicts import judge

WORDS_A_MINUTE = 150  # of a lecturer who lets the class think
POLL_MINUTES = 2.0  # ask, wait, count hands; the answer comes with the run
EXERCISE_MINUTES = 6.0  # alone or in pairs, and one solution shown
QUESTION = re.compile(r"^\*\*Predict, then run\.\*\*\s*")


@dataclass(frozen=True)
class Section:
    """What a section of a lesson asks of a class, in minutes where nothing else is said.

    Attributes:
        title: its heading.
        talking: to say its words.
        running: of its cells, measured; 0 if not yet.
        polls, exercises: how many.
    """

    title: str
    talking: float
    running: float
    polls: int
    exercises: int

    @property
    def minutes(self) -> float:
        return self.talking + self.running + POLL_MINUTES * self.polls + EXERCISE_MINUTES * self.exercises


def sections_of(lesson: LessonFile) -> list[Section]:
    """The sections of a lesson, in order."""
    measured = lesson.measured.get("seconds", {})
    found = []
    for title in lesson.sections:
        cells = [cell for cell in lesson.cells if cell.section == title]
        words = sum(count_words(cell.source) for cell in cells if cell.kind == "markdown")
        polls, exercises = (sum(tag in cell.tags for cell in cells) for tag in ("predict", "exercise"))
        found.append(Section(title, words / WORDS_A_MINUTE, measured.get(title, 0.0) / 60, polls, exercises))
    return found


def teaching_plan(lessons: Sequence[str] = (), folder: Path | str | None = None) -> str:
    """The plan as markdown.

    Args:
        lessons, folder: see `notebooks.find_lessons`.

    Raises:
        FileNotFoundError, ValueError: no such lessons.
    """
    chosen = find_lessons(lessons, folder)
    totals = {lesson.name: sum(section.minutes for section in sections_of(lesson)) for lesson in chosen}
    lines = [
        "# Teaching plan",
        "",
        f"Counted: {WORDS_A_MINUTE} words a minute, {POLL_MINUTES:g} minutes a poll, {EXERCISE_MINUTES:g} minutes an "
        "exercise, and the cells as measured on two CPU cores at preset class.",
        "",
        "| lesson | in class | cells run | polls | exercises |",
        "|---|---|---|---|---|",
    ]
    for lesson in chosen:
        polls, exercises = len(lesson.tagged("predict")), len(lesson.tagged("exercise"))
        lines.append(f"| {lesson.title} | {clock(totals[lesson.name])} | {_running(lesson)} | {polls} | {exercises} |")
    lines.append(f"| in all | {clock(sum(totals.values()))} | | | |")
    for lesson in chosen:
        lines += ["", *_lesson(lesson)]
    return "\n".join(lines) + "\n"


def clock(minutes: float) -> str:
    """Hours and minutes: 75.2 -> "1:15"."""
    whole = round(minutes)
    return f"{whole // 60}:{whole % 60:02d}"


def wrong_answers(lesson: LessonFile) -> list[tuple[str, str, str]]:
    """(exercise, what goes wrong, what the check says) for every common mistake; empty if it checks nothing."""
    if not lesson.checks:
        return []
    modules = [f"visdec_lite.teaching.{part}.lesson_{lesson.number}" for part in ("checks", "solutions")]
    checks, solutions = map(import_module, modules)
    return [
        (exercise, mistake, judge(exercise, getattr(checks, exercise), attempt).message)
        for exercise in lesson.checks
        for mistake, attempt in solutions.MISTAKES.get(exercise, ())
    ]


def _running(lesson: LessonFile) -> str:
    measured = lesson.measured.get("minutes")
    return f"{measured:g} min" if measured else f"not measured (visdec-lite run {lesson.number} --write-times)"


def _lesson(lesson: LessonFile) -> list[str]:
    lines = [f"## {lesson.title}", ""]
    lines += [f"* **{row}** {words}" for row, words in lesson.card.items() if row != "Runs in"]
    lines += ["", "| from | section | talk | cells run | polls | exercises |", "|---|---|---|---|---|---|"]
    start = 0.0
    for section in sections_of(lesson):
        counts = " | ".join(str(count or "") for count in (section.polls, section.exercises))
        talk, running = f"{section.talking:.0f} min", f"{section.running * 60:.0f} s"
        lines.append(f"| {clock(start)} | {section.title} | {talk} | {running} | {counts} |")
        start += section.minutes
    lines.append(f"| {clock(start)} | end | | | | |")
    polls = lesson.tagged("predict")
    if polls:
        lines += ["", "### To predict before running"]
    for number, cell in enumerate(polls, start=1):
        lines += ["", f"**Poll {number}** ({cell.section})", "", *_quoted(QUESTION.sub("", cell.source.strip()))]
    answers = wrong_answers(lesson)
    if answers:
        lines += ["", "### Wrong answers to expect"]
    for exercise, mistake, message in answers:
        lines += ["", f"* `{exercise}`: {mistake}. The check says:", "", *(f"  {line}" for line in _quoted(message))]
    return lines


def _quoted(text: str) -> list[str]:
    return [f"> {line}".rstrip() for line in text.splitlines()]
