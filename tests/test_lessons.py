"""Every lesson that is there: its form, its exercises, and that it runs, solved and unsolved.

What takes seconds or more is marked slow: each lesson at preset smoke, and its committed outputs.

With `VISDEC_CHECK_TIMES=03,04` (or `all`) these lessons also run at class preset on two cores, and their minutes must
be right within a factor of two. This has to be asked for: a card is measured on one machine, and tests run on many.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import safetensors.numpy

from visdec_lite.teaching.executed import LessonRun, two_digits
from visdec_lite.teaching.lesson import MADE_IN
from visdec_lite.teaching.notebooks import COMPARED, Cell, LessonFile, calls_in, find_lessons, tree_of
from visdec_lite.teaching.plan import teaching_plan
from visdec_lite.teaching.runner import run_lessons
from visdec_lite.teaching.site import COVER, cover_path
from visdec_lite.teaching.verdicts import judge

PARAMETERS = {"PRESET": "class", "SEED": 0, "DEVICE": "cpu", "USE_SOLUTIONS": False}
ROWS = ["You will", "You need", "Runs in", "You end with"]
LINES = (80, 150)  # of code in a lesson that teaches a method: what we aim at
BOUNDS = (60, 170)  # and what is too little or too much
SHORT = 400  # characters of a committed output
TOTAL_MINUTES = 25  # of all lessons at class preset
SMOKE_SECONDS = 120  # at smoke preset; 40 is the aim on a machine that does nothing else
CELL_TIMEOUT = 300
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")

try:
    LESSONS = find_lessons()
except FileNotFoundError:
    LESSONS = []
NUMBERS = [lesson.number for lesson in LESSONS]
pytestmark = pytest.mark.skipif(not LESSONS, reason="no lessons in notebooks/ (a package without its repository)")
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.name for lesson in LESSONS])


def python_cells(lesson: LessonFile) -> Iterator[tuple[Cell, ast.Module]]:
    for cell in lesson.cells:
        if cell.kind == "code":
            yield cell, tree_of(cell, lesson.name)


# --- form ---


def test_lessons_are_numbered_from_00_without_a_gap():
    assert [int(number) for number in NUMBERS] == list(range(len(LESSONS)))


@each_lesson
def test_it_is_a_notebook_of_today_with_a_kernel_that_everybody_has(lesson):
    nbformat = pytest.importorskip("nbformat")
    content = json.loads(lesson.path.read_text(encoding="utf-8"))
    nbformat.validate(content)
    assert (content["nbformat"], content["nbformat_minor"]) >= (4, 5)
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell.id for cell in lesson.cells]
    assert all(ids) and len(set(ids)) == len(ids), [name for name, count in Counter(ids).items() if count > 1]
    assert not any(cell["source"] == [] for cell in content["cells"]), "an empty cell"


@each_lesson
def test_its_card_promises_what_it_keeps(lesson):
    assert re.fullmatch(rf"{lesson.number} · \S.+", lesson.title), f"{lesson.title!r} is not '{lesson.number} · Title'"
    assert list(lesson.card) == ROWS
    assert all(lesson.card.values())


@each_lesson
def test_the_parameters_cell_has_the_four_names_and_perhaps_more(lesson):
    (cell,) = lesson.tagged("parameters")
    assert lesson.cells[1] is cell, "right after the card"
    assert PARAMETERS.items() <= lesson.parameters.items()


@each_lesson
def test_the_lesson_object_gets_every_parameter(lesson):
    made = [
        ast.unparse(node)
        for _, tree in python_cells(lesson)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "lesson"
    ]
    (line,) = made
    assert line.startswith(f"lesson = Lesson('{lesson.number}', PRESET, SEED, DEVICE, USE_SOLUTIONS")


@each_lesson
def test_only_short_text_that_nbval_compares_is_committed_as_output(lesson):
    for cell in lesson.cells:
        for output in cell.outputs:
            assert COMPARED in cell.tags, f"cell {cell.id} has outputs: clear them, or tag the cell"
            assert output["output_type"] in ("stream", "execute_result"), f"cell {cell.id}: {output['output_type']}"
            assert set(output.get("data", {})) <= {"text/plain"}, f"cell {cell.id}: {list(output['data'])}"
            text = "".join(output.get("text") or output["data"]["text/plain"])
            assert len(text) <= SHORT, f"cell {cell.id}: {len(text)} characters of output"
            assert output.get("name") != "stderr", f"cell {cell.id}: warnings or progress are no answer"
    for cell in json.loads(lesson.path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":  # nbval takes outputs without a count for an error
            assert bool(cell["execution_count"]) == bool(cell["outputs"]), f"execution_count of cell {cell['id']}"
    assert "widgets" not in lesson.metadata


@each_lesson
def test_tagged_outputs_are_there_to_be_compared(lesson):
    missing = [cell.id for cell in lesson.tagged(COMPARED) if not cell.outputs]
    assert not missing, f"cells {missing} are tagged {COMPARED} and have no output; --write-times renews them"


@each_lesson
def test_one_cell_draws_the_picture_that_stands_for_it(lesson):
    (cell,) = lesson.tagged(COVER)
    assert "show(figure, alt=" in cell.source


@each_lesson
def test_the_readme_shows_it_with_a_small_picture(lesson):
    picture, readme = cover_path(lesson), lesson.path.resolve().parent.parent / "README.md"
    row = re.search(rf'<img src="docs/pictures/{picture.name}" width="\d+" alt="([^"]+)">', readme.read_text("utf-8"))
    assert row and len(row[1].split()) >= 4, f"no row of README.md shows {picture.name} with a text"
    assert picture.stat().st_size < 120_000, "renew it: visdec-lite teach covers runs/lessons-class"


@each_lesson
def test_it_has_code_for_one_lesson_and_not_for_two(lesson):
    if lesson.number in ("00", "09"):
        assert lesson.code_lines <= BOUNDS[1]
        return
    assert BOUNDS[0] <= lesson.code_lines <= BOUNDS[1], f"{lesson.code_lines} lines of code"
    if not LINES[0] <= lesson.code_lines <= LINES[1]:
        warnings.warn(
            f"{lesson.name} has {lesson.code_lines} lines of code, aim at {LINES[0]}-{LINES[1]}", stacklevel=1
        )


@each_lesson
def test_every_figure_has_words_and_none_is_shown_past_them(lesson):
    for cell in lesson.cells:
        for call in calls_in(cell, lesson.name):
            name = ast.unparse(call.func)
            assert not name.endswith(".show"), f"cell {cell.id}: {name}(); use show(figure, alt=...)"
            if name == "show":
                alt = next((k.value for k in call.keywords if k.arg == "alt"), None)
                assert alt is not None, f"cell {cell.id}: {ast.unparse(call)} has no alt="
                if isinstance(alt, ast.Constant):
                    assert len(alt.value.split()) >= 8, f"cell {cell.id}: {alt.value!r} tells too little"


@each_lesson
def test_it_is_plain_python_that_needs_no_shell_and_no_network(lesson):
    for cell, tree in python_cells(lesson):
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names]
                wrong = {n.partition(".")[0] for n in names} & {"subprocess", "urllib", "requests", "pip", "socket"}
                assert not wrong, f"cell {cell.id} imports {wrong}"
            if isinstance(node, ast.Name):
                assert node.id not in ("get_ipython", "input"), f"cell {cell.id} uses {node.id}"


@each_lesson
def test_it_asks_before_it_runs_and_ends_with_a_recap(lesson):
    polls = lesson.tagged("predict")
    assert polls or lesson.number == "00", "no cell is tagged predict"
    for cell in polls:
        assert cell.kind == "markdown" and cell.source.startswith("**Predict, then run.**"), f"cell {cell.id}"
        after = lesson.cells[lesson.cells.index(cell) + 1]
        assert after.kind == "code", f"cell {cell.id} asks, and what comes next does not run"
    assert lesson.cells[-1].source.strip() == "print(lesson.recap())"
    text = "\n".join(cell.source for cell in lesson.cells if cell.kind == "markdown").lower()
    assert "three things to read" in text


@each_lesson
def test_links_and_pictures_lead_somewhere(lesson):
    for cell in lesson.cells:
        if cell.kind != "markdown":
            continue
        for picture, words, target in LINK.findall(cell.source):
            where = f"cell {cell.id}: {target}"
            if picture:
                assert len(words.split()) >= 4, f"{where} is a picture without alt text"
            if target.startswith("http"):
                assert target.startswith("https://"), where
                continue
            file, _, anchor = unquote(target).partition("#")
            path = lesson.path.parent / file if file else lesson.path
            assert path.exists(), f"{where} is not there"
            if anchor and path.suffix == ".ipynb":
                (other,) = [found for found in LESSONS if found.path == path]
                text = "\n".join(part.source for part in other.cells if part.kind == "markdown")
                headings = re.findall(r"^#+ (.+?) *$", text, flags=re.MULTILINE)
                assert anchor in {heading.replace(" ", "-") for heading in headings}, f"{where}: no such heading"
        for tag in re.findall(r"<img[^>]*>", cell.source):
            assert re.search(r'alt="[^"]{20,}"', tag), f"cell {cell.id}: {tag} has no alt text"


@each_lesson
def test_other_lessons_are_called_by_a_number_that_exists(lesson):
    text = "\n".join(cell.source for cell in lesson.cells if cell.kind == "markdown")
    missing = set(re.findall(r"[Ll]esson (\d\d)\b", text)) - set(NUMBERS)
    assert not missing, f"there is no lesson {', '.join(sorted(missing))}"


@each_lesson
def test_artefacts_are_made_where_the_library_looks_for_them(lesson):
    assert lesson.saves == {stage for stage, number in MADE_IN.items() if number == lesson.number}
    assert lesson.takes <= set(MADE_IN)
    calls = [call for cell in lesson.cells for call in calls_in(cell, lesson.name)]
    for call in calls:
        if ast.unparse(call.func) in ("lesson.save", "lesson.checkpoint"):
            assert call.args and isinstance(call.args[0], ast.Constant), f"{ast.unparse(call)}: name the stage first"


# --- measured times ---


@each_lesson
def test_its_minutes_are_measured(lesson):
    measured = lesson.measured
    command = f"visdec-lite run {lesson.number} --write-times"
    assert measured.get("minutes", 0) > 0, f"not measured yet: {command}"
    assert (measured["cores"], measured["preset"]) == (2, "class")
    card = f"{two_digits(measured['minutes'])} minutes on two CPU cores, preset class (measured)"
    assert lesson.card["Runs in"] == card
    assert list(measured["seconds"]) == lesson.sections, f"the sections changed since: {command}"


def test_all_lessons_together_fit_into_a_morning():
    assert sum(lesson.measured.get("minutes", 0) for lesson in LESSONS) <= TOTAL_MINUTES


def test_the_plan_has_every_lesson_poll_and_mistake():
    plan = teaching_plan()
    assert [line[3:] for line in plan.splitlines() if line.startswith("## ")] == [lesson.title for lesson in LESSONS]
    assert plan.count("**Poll ") == sum(len(lesson.tagged("predict")) for lesson in LESSONS)
    mistakes = sum(len(found) for lesson in LESSONS for found in parts_of(lesson)[1].MISTAKES.values())
    assert plan.count("The check says:") == mistakes


# --- exercises ---


def parts_of(lesson: LessonFile) -> tuple[ModuleType, ModuleType]:
    """checks and solutions of a lesson; empty modules for a lesson without exercises."""
    if not lesson.checks:
        empty = ModuleType("none")
        empty.MISTAKES = {}
        return empty, empty
    checks, solutions = (
        import_module(f"visdec_lite.teaching.{part}.lesson_{lesson.number}") for part in ("checks", "solutions")
    )
    return checks, solutions


def public_functions(module: ModuleType) -> set[str]:
    found = inspect.getmembers(module, inspect.isfunction)
    return {name for name, function in found if function.__module__ == module.__name__ and not name.startswith("_")}


EXERCISES = [(lesson, name) for lesson in LESSONS for name in lesson.checks]
each_exercise = pytest.mark.parametrize(
    ("lesson", "exercise"), EXERCISES, ids=[f"{lesson.number}-{name}" for lesson, name in EXERCISES]
)


def judged(lesson: LessonFile, exercise: str, attempt: Any) -> Any:
    check: Callable[[Any], str] = getattr(parts_of(lesson)[0], exercise)
    return judge(exercise, check, attempt)


@each_lesson
def test_every_exercise_is_followed_by_its_check(lesson):
    checked = []
    for cell, after in zip(lesson.cells, [*lesson.cells[1:], None], strict=True):
        if "exercise" in cell.tags:
            assert after is not None and "check" in after.tags, f"no check right after exercise {cell.id}"
            checked.append(after.id)
        calls = [call for call in calls_in(cell, lesson.name) if ast.unparse(call.func) == "lesson.check"]
        assert bool(calls) == ("check" in cell.tags), f"cell {cell.id}: tag check and lesson.check(...) go together"
    assert checked == [cell.id for cell in lesson.tagged("check")]
    assert len(set(lesson.checks)) == len(lesson.checks) == len(checked)
    if 1 <= int(lesson.number) <= 8:
        assert 2 <= len(checked) <= 4, f"{len(checked)} exercises"


@each_lesson
def test_every_check_has_a_solution_and_common_mistakes_and_is_used(lesson):
    checks, solutions = parts_of(lesson)
    asked = set(lesson.checks)
    assert public_functions(checks) == asked
    assert asked <= set(vars(solutions)), f"no solution of {asked - set(vars(solutions))}"
    assert set(solutions.MISTAKES) == asked
    assert all(solutions.MISTAKES.values())
    used = {
        call.args[0].value
        for cell in lesson.cells
        for call in calls_in(cell, lesson.name)
        if ast.unparse(call.func) == "lesson.solution"
    }
    assert used <= set(vars(solutions))


@each_exercise
def test_the_solution_passes(lesson, exercise):
    verdict = judged(lesson, exercise, getattr(parts_of(lesson)[1], exercise))
    assert verdict.passed is True, verdict.message
    assert len(verdict.message.split()) >= 4, f"{verdict.message!r} says little to somebody who was right"


@each_exercise
def test_the_stub_is_not_tried(lesson, exercise):
    """The exercise cell runs on the imports of the lesson alone, and what it leaves counts as not tried."""
    ((place, call),) = [
        (place, call)
        for place, cell in enumerate(lesson.cells)
        for call in calls_in(cell, lesson.name)
        if ast.unparse(call.func) == "lesson.check" and ast.literal_eval(call.args[0]) == exercise
    ]
    names: dict[str, Any] = {}
    for cell in lesson.cells[:place]:
        if cell.kind == "code":
            body = [n for n in tree_of(cell, lesson.name).body if isinstance(n, (ast.Import, ast.ImportFrom))]
            exec(compile(ast.Module(body, []), cell.id, "exec"), names)
    exec(compile(lesson.cells[place - 1].source, lesson.cells[place - 1].id, "exec"), names)
    verdict = judged(lesson, exercise, eval(ast.unparse(call.args[1]), names))
    assert verdict.passed is None, f"{verdict!r}"
    for stub in (None, ..., lambda *a, **k: None, lambda *a, **k: ...):
        if callable(stub) == callable(getattr(parts_of(lesson)[1], exercise)):
            assert judged(lesson, exercise, stub).passed is None


@each_exercise
def test_common_mistakes_are_caught_with_a_number_and_words_of_their_own(lesson, exercise):
    said = {}
    for mistake, attempt in parts_of(lesson)[1].MISTAKES[exercise]:
        verdict = judged(lesson, exercise, attempt)
        assert verdict.passed is False, f"{mistake}: {verdict!r}"
        assert re.search(r"\d", verdict.message), f"{mistake}: no number in {verdict.message!r}"
        assert verdict.message not in said, f"{mistake} is told the same as {said[verdict.message]}"
        said[verdict.message] = mistake


@each_lesson
def test_no_two_exercises_say_the_same(lesson):
    messages = [
        judged(lesson, exercise, attempt).message
        for exercise in lesson.checks
        for _, attempt in parts_of(lesson)[1].MISTAKES[exercise]
    ]
    assert len(set(messages)) == len(messages)


# --- execution ---


class Executed:
    """Lessons run once for all tests that ask: those that pytest selected, two at a time."""

    def __init__(self, out: Path, wanted: list[str]) -> None:
        self.out, self.wanted = out, wanted
        self.runs: dict[tuple[bool, str], LessonRun] = {}

    def run(self, name: str, solved: bool) -> LessonRun:
        if (solved, name) not in self.runs:
            found = run_lessons(
                self.wanted, preset="smoke", parameters={"USE_SOLUTIONS": solved}, out=self.folder(solved),
                workers=min(2, os.cpu_count() or 1), timeout=CELL_TIMEOUT, html=solved,
            )  # fmt: skip
            self.runs |= {(solved, run.name): run for run in found}
        return self.runs[solved, name]

    def folder(self, solved: bool) -> Path:
        return self.out / ("solved" if solved else "unsolved")


@pytest.fixture(scope="module")
def executed(request, tmp_path_factory) -> Executed:
    pytest.importorskip("papermill", reason="running lessons needs the extra notebooks")
    mine = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    wanted = {item.callspec.params["lesson"].name for item in mine if "executed" in item.fixturenames}
    return Executed(tmp_path_factory.mktemp("lessons"), sorted(wanted))


def outputs_of(path: Path) -> list[dict]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return [output for cell in content["cells"] for output in cell.get("outputs", ())]


@pytest.mark.slow
@pytest.mark.parametrize("solved", [True, False], ids=["solved", "unsolved"])
@each_lesson
def test_it_runs_to_its_end(lesson, solved, executed):
    run = executed.run(lesson.name, solved)
    assert run.passed, run.error
    assert run.seconds <= SMOKE_SECONDS
    outputs = outputs_of(executed.folder(solved) / lesson.path.name)
    bare = [output for output in outputs if {"image/png", "image/svg+xml"} & set(output.get("data", {}))]
    assert not bare, f"{len(bare)} figures without words: use show(figure, alt=...)"
    recap = "".join(part for output in outputs[-2:] for part in output.get("text", ()))  # it may come in two pieces
    right, wrong, open_ = (len(lesson.checks), 0, 0) if solved else (0, 0, len(lesson.checks))
    assert f"{right} of {len(lesson.checks)} exercises right, {wrong} not yet, {open_} not tried" in recap
    assert (executed.folder(solved) / f"{lesson.name}.html").exists() == solved


@pytest.mark.slow
@each_lesson
def test_two_runs_with_one_seed_hand_on_the_same_weights(lesson, executed):
    """Whether exercises are solved changes no training, so the two runs must agree to the last bit."""
    if not lesson.saves:
        pytest.skip("it hands nothing on")
    assert all(executed.run(lesson.name, solved).passed for solved in (True, False))
    for stage in lesson.saves:
        solved, unsolved = (
            safetensors.numpy.load_file(
                executed.folder(solved) / "runs" / "lessons" / lesson.number / f"{stage}.safetensors"
            )
            for solved in (True, False)
        )
        assert solved and solved.keys() == unsolved.keys()
        for name, values in solved.items():
            np.testing.assert_array_equal(values, unsolved[name], err_msg=f"{stage}: {name}")


@pytest.mark.slow
@each_lesson
def test_its_committed_outputs_come_again(lesson, tmp_path):
    """nbval, with the parameters of the preset that is quick: what is tagged must not depend on it."""
    pytest.importorskip("nbval", reason="committed outputs are compared by nbval")
    if not lesson.tagged(COMPARED):
        pytest.skip("no output is committed")
    content = json.loads(lesson.path.read_text(encoding="utf-8"))
    (cell,) = [c for c in content["cells"] if "parameters" in c["metadata"].get("tags", ())]
    cell["source"] = "".join(cell["source"]).replace('PRESET = "class"', 'PRESET = "smoke"')
    copy = tmp_path / lesson.path.name
    copy.write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    words = ["--nbval-lax", f"--nbval-cell-timeout={CELL_TIMEOUT}", "-q", "-p", "no:cacheprovider", "-c", "pytest.ini"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, copy.name], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]


TIMED = os.environ.get("VISDEC_CHECK_TIMES", "")
TO_TIME = [lesson for lesson in LESSONS if TIMED == "all" or lesson.number in TIMED.split(",")]


@pytest.mark.slow
@pytest.mark.skipif(not TO_TIME, reason="set VISDEC_CHECK_TIMES=03,04 or all, on the machine that measured")
@pytest.mark.parametrize("timed", TO_TIME, ids=[lesson.name for lesson in TO_TIME])
def test_the_minutes_in_the_card_are_right_within_a_factor_of_two(timed, tmp_path):
    own = shutil.copytree(timed.path.parent, tmp_path / "notebooks")  # the minutes are written into a copy
    (run,) = run_lessons([timed.name], folder=own, out=tmp_path / "out", html=False, write_times=True)
    assert run.passed, run.error
    (again,) = find_lessons([timed.name], own)
    found, promised = again.measured["minutes"], timed.measured["minutes"]
    assert 0.5 <= found / promised <= 2, f"{found} minutes, the card says {promised}"
