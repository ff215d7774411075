"""What a lesson stands on: verdicts in sentences, artefacts handed on, figures in words, terms."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from visdec_lite import chain, teaching
from visdec_lite.datasets import BrainDataset
from visdec_lite.teaching import GLOSSARY, Lesson, define, show
from visdec_lite.teaching.lesson import MADE_IN
from visdec_lite.teaching.notebooks import OPENING
from visdec_lite.teaching.plan import EXERCISE_MINUTES, POLL_MINUTES, clock, sections_of, teaching_plan
from visdec_lite.teaching.verdicts import NotTried, Verdict, Wrong, call, close, expect, judge, shape_of
from visdec_lite.weights import read_metadata


def double_is_checked(attempt) -> str:
    found = call(attempt, 3, given="the number 3")
    expect(found == 6, f"Twice 3 is 6; yours is {found}.")
    return "Twice as much, as it should be."


# --- verdicts ---


@pytest.mark.parametrize("stub", [None, ..., lambda x: None, lambda x: ...])
def test_a_stub_is_not_tried(stub):
    verdict = judge("double", double_is_checked, stub)
    assert verdict.passed is None and "Replace the `...`" in verdict.message
    assert repr(verdict).startswith("double: Not tried yet.")


def test_a_stub_that_raises_not_implemented_is_not_tried():
    def stub(x):
        raise NotImplementedError

    assert judge("double", double_is_checked, stub).passed is None


def test_right_and_wrong_answers_get_the_words_of_the_check():
    assert judge("double", double_is_checked, lambda x: 2 * x) == Verdict(
        "double", True, "Twice as much, as it should be."
    )
    wrong = judge("double", double_is_checked, lambda x: x * x)
    assert wrong.passed is False and wrong.message == "Twice 3 is 6; yours is 9."
    assert repr(wrong) == "double: Not yet. Twice 3 is 6; yours is 9."


def test_a_crash_becomes_a_sentence_that_says_what_was_given():
    verdict = judge("double", double_is_checked, lambda x: x.double())
    assert verdict.passed is False
    assert verdict.message == (
        "Your function stopped with AttributeError when given the number 3: 'int' object has no attribute 'double'"
    )


def test_what_cannot_be_called_is_told():
    with pytest.raises(Wrong, match=r"should be a function, and it is 6\. Did the cell assign"):
        call(6, 3)


def test_call_hands_on_arguments_and_options_and_returns_zero_and_empty_answers():
    assert call(lambda x, y=0: x - y, 3, y=3) == 0
    assert call(lambda: []) == []
    with pytest.raises(NotTried):
        call(lambda: None)


def test_an_answer_that_the_check_cannot_read_is_told_so():
    verdict = judge("double", lambda attempt: attempt.shape, [6])
    assert verdict.passed is False
    assert verdict.message.startswith("The check could not read your answer, AttributeError: 'list' object has no")


def test_expect_goes_on_or_says():
    expect(True, "never said")
    with pytest.raises(Wrong, match=r"^2 is not 3$"):
        expect(False, "2 is not 3")


@pytest.mark.parametrize(
    ("found", "wanted", "agree"),
    [
        (1.00005, 1.0, True),
        (1.001, 1.0, False),
        (100.005, 100.0, True),  # relative to the largest
        (torch.tensor([1.0, 2.0], requires_grad=True), np.array([1.0, 2.0]), True),
        ([1, 2], (1, 2), True),
        (torch.ones(2, 1), torch.ones(2), False),  # another shape, although it would broadcast
        (np.nan, 1.0, False),
        (torch.empty(0), np.empty(0), True),
        (torch.ones(2, dtype=torch.bfloat16), [1.0, 1.0], True),
    ],
)
def test_close_compares_shape_and_value(found, wanted, agree):
    assert close(found, wanted) is agree


def test_close_takes_what_is_no_number_for_another_answer():
    assert close("a word", 1.0) is False
    assert close([[1, 2], [3]], 1.0) is False


def test_shapes_in_words():
    assert shape_of(np.zeros((2, 3))) == "shape (2, 3)"
    assert shape_of(torch.zeros(4)) == "shape (4,)"
    assert shape_of("x") == "str 'x'"


def test_a_verdict_in_a_notebook_is_escaped_and_read_by_screen_readers():
    page = Verdict("double", False, "x < 3 & y\nthen")._repr_html_()
    assert 'role="status"' in page and "x &lt; 3 &amp; y<br>then" in page and "<b>Not yet.</b>" in page


# --- Lesson ---


@pytest.fixture
def parts(monkeypatch) -> tuple[ModuleType, ModuleType]:
    """checks and solutions of a lesson 99 that is there for a test."""
    checks, solutions = (ModuleType(f"visdec_lite.teaching.{part}.lesson_99") for part in ("checks", "solutions"))
    checks.double, solutions.double = double_is_checked, lambda x: x + x
    for module in (checks, solutions):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return checks, solutions


@pytest.fixture(scope="module")
def dataset() -> BrainDataset:
    """Simulated once: preset smoke and class read the same scans."""
    return Lesson("99", "smoke").dataset


@pytest.fixture
def lesson(tmp_path, parts, dataset) -> Lesson:
    lesson = Lesson("99", "smoke", folder=tmp_path / "artefacts")
    lesson.__dict__["dataset"] = dataset
    return lesson


def test_a_lesson_counts_its_exercises(lesson):
    assert lesson.check("double", lambda x: ...).passed is None
    assert lesson.recap() == "Lesson 99: 0 of 1 exercises right, 0 not yet, 1 not tried."
    assert lesson.check("double", lambda x: x).passed is False
    assert lesson.recap() == "Lesson 99: 0 of 1 exercises right, 1 not yet, 0 not tried."
    assert lesson.check("double", lambda x: 2 * x).passed is True
    assert lesson.recap() == "Lesson 99: 1 of 1 exercises right, 0 not yet, 0 not tried."


def test_with_solutions_the_solution_is_judged_and_a_wrong_one_stops_the_lesson(tmp_path, parts):
    lesson = Lesson("99", "smoke", use_solutions=True, folder=tmp_path)
    assert lesson.check("double", ...).passed is True
    assert lesson.solution("double")(4) == 8
    parts[1].double = lambda x: 7
    with pytest.raises(AssertionError, match=r"the solution of 99 double: Not yet\. Twice 3 is 6; yours is 7"):
        lesson.check("double", lambda x: 2 * x)
    parts[1].double = ...
    with pytest.raises(AssertionError, match="Not tried yet"):
        lesson.check("double", lambda x: 2 * x)


def test_seed_and_overrides_reach_the_preset(tmp_path):
    lesson = Lesson("99", "class", seed=5, folder=tmp_path, **{"pretraining.steps": 7})
    assert lesson.preset.name == "class" and lesson.preset.pretraining.steps == 7
    assert {lesson.preset.pretraining.seed, lesson.preset.finetuning.seed} == {5}
    with pytest.raises(ValueError, match="did you mean 'class'"):
        Lesson("99", "clas")


PARTS = {"pretrain": "autoencoder", "fuse": "fusion", "finetune": "conditioned"}


def numbers(brain: chain.Brain, stage: str) -> dict[str, torch.Tensor]:
    """Every weight that the stage keeps."""
    kept = {"finetune": chain.finetuned_names(brain.conditioned), "fuse": chain.fused_names(brain.fusion)}.get(stage)
    state = getattr(brain, PARTS[stage]).state_dict()
    return {name: value.clone() for name, value in state.items() if kept is None or kept(name)}


@pytest.mark.parametrize("stage", list(MADE_IN))
def test_what_a_lesson_saves_is_what_a_later_one_gets_before_what_is_shipped(lesson, stage, tmp_path):
    shipped = lesson.checkpoint(stage)
    before = numbers(shipped, stage)
    learnt = [p for p in getattr(shipped, PARTS[stage]).parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in learnt:
            parameter.add_(1.0)
    mine = numbers(shipped, stage)
    path = lesson.save(stage, shipped, note="shifted by 1")
    assert path == tmp_path / "artefacts" / MADE_IN[stage] / f"{stage}.safetensors"
    assert read_metadata(path)["card"] == {"lesson": "99", "note": "shifted by 1"}

    later = Lesson("98", lesson.preset.name, folder=tmp_path / "artefacts")
    later.__dict__["dataset"] = lesson.dataset
    own, original = numbers(later.checkpoint(stage), stage), numbers(later.checkpoint(stage, shipped=True), stage)
    assert own.keys() == mine.keys() == original.keys()
    assert all(torch.equal(own[name], mine[name]) for name in own)
    assert all(torch.equal(original[name], before[name]) for name in own)
    assert any(not torch.equal(own[name], original[name]) for name in own)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"preset_name": "class"}, "because yours is of preset smoke"),
        ({"seed": 3}, "because yours is of seed 0"),
        ({"autoencoder.mask_ratio": 0.25}, "because yours is of another run: model.mask_ratio was 0.75, now 0.25"),
    ],
)
def test_an_artefact_of_something_else_is_not_taken_for_ones_own(lesson, asked, words, tmp_path, caplog):
    brain = lesson.new_brain()
    original = numbers(brain, "pretrain")
    lesson.save("pretrain", brain)
    options = {"preset_name": "smoke", "seed": 0, **asked}
    later = Lesson("98", folder=tmp_path / "artefacts", **options)
    later.__dict__["dataset"] = lesson.dataset
    if "autoencoder.mask_ratio" in asked:  # what is shipped is of another config too, and says so itself
        with pytest.raises(ValueError, match=r"mask_ratio was 0\.75, now 0\.25"):
            later.checkpoint("pretrain")
        assert words.removeprefix("because yours ") in later._differs(
            later._artefact("pretrain"), later._identity("pretrain", later.new_brain()))  # fmt: skip
        return
    with caplog.at_level("INFO"):
        taken = numbers(later.checkpoint("pretrain"), "pretrain")
    assert f"pretrain: as shipped, {words}" in caplog.text
    assert any(not torch.equal(taken[name], original[name]) for name in original)
    with caplog.at_level("INFO"):
        own = lesson.checkpoint("pretrain")
    assert "pretrain: yours, from lesson 03 (smoke, seed 0)" in caplog.text
    assert all(torch.equal(value, original[name]) for name, value in numbers(own, "pretrain").items())


def test_two_brains_share_nothing(lesson):
    one, two = lesson.new_brain(), lesson.new_brain()
    first, second = next(one.conditioned.diffusion.parameters()), next(two.conditioned.diffusion.parameters())
    assert torch.equal(first, second) and first.data_ptr() != second.data_ptr()


def test_an_unknown_stage_is_refused_with_those_there_are(lesson):
    brain = lesson.new_brain()
    for ask in (lambda: lesson.checkpoint("fusion"), lambda: lesson.save("fusion", brain)):
        with pytest.raises(ValueError, match=r"no stage 'fusion'; there are pretrain, fuse, finetune"):
            ask()


def test_the_package_imports_torch_only_for_a_lesson():
    assert teaching.Lesson is Lesson
    with pytest.raises(AttributeError, match=r"no attribute 'Lessons'; it has .*Lesson"):
        _ = teaching.Lessons


# --- show ---


@pytest.fixture
def displayed(monkeypatch) -> list[str]:
    """The HTML of everything displayed."""
    display = pytest.importorskip("IPython.display", reason="figures are shown in notebooks")
    seen: list[str] = []
    monkeypatch.setattr(display, "display", lambda thing: seen.append(getattr(thing, "data", thing)))
    return seen


ALT = 'Loss over steps, in nats: it falls "fast", then < 1.'


def test_a_figure_is_shown_with_its_words_and_closed(displayed):
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(2, 1))
    axes.plot([1, 0])
    show(figure, alt=ALT)
    (page,) = displayed
    assert 'alt="Loss over steps, in nats: it falls &quot;fast&quot;, then &lt; 1."' in page
    assert 'src="data:image/png;base64,iVBORw0' in page
    assert figure.number not in plt.get_fignums()


def test_a_plotly_figure_stays_live_and_has_its_words_beneath(displayed):
    class Turned:
        def to_plotly_json(self):
            return {}

    turned = Turned()
    show(turned, alt=ALT)
    assert displayed[0] is turned and "Loss over steps, in nats" in displayed[1]


@pytest.mark.parametrize("alt", ["", "loss.png", "a loss curve"])
def test_too_few_words_are_refused(displayed, alt):
    with pytest.raises(ValueError, match=rf"alt text is {alt!r}; say in a sentence"):
        show(object(), alt=alt)
    assert not displayed


# --- glossary ---


@pytest.mark.parametrize("term", GLOSSARY)
def test_every_term_is_defined_in_a_sentence_or_more(term):
    words = define(term.upper())
    assert words == GLOSSARY[term] and words.endswith(".") and len(words.split()) >= 5


def test_terms_differ_by_more_than_capitals():
    assert len({term.lower() for term in GLOSSARY}) == len(GLOSSARY)


def test_an_unknown_term_names_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'voxel'"):
        define("voxels")
    with pytest.raises(KeyError, match=r"no term 'Schnitzel' in the glossary"):
        define("Schnitzel")


# --- the instructor's plan ---


@pytest.fixture
def planned(tmp_path, parts):
    """A folder with one lesson: 300 words of prose, one poll, one exercise, 90 measured seconds."""
    import json

    parts[1].MISTAKES = {"double": [("squares it", lambda x: x * x)]}
    card = "# 99 · Twice\n\n| | |\n|---|---|\n| **You will** | double |\n| **You need** | two hands |"
    cells = [
        ("markdown", card, []),
        ("markdown", "## Words\n\n" + "word " * 299, []),
        ("code", "1 + 1", []),
        ("markdown", "## Doing\n\nNow you.", []),
        ("markdown", "**Predict, then run.** More or less?\n\n* more\n* less", ["predict"]),
        ("code", "def double(x):\n    return ...", ["exercise"]),
        ("code", 'lesson.check("double", double)', ["check"]),
    ]
    content = {
        "metadata": {"visdec_lite": {"minutes": 1.5, "cores": 2, "preset": "class", "seconds": {"Doing": 90.0}}},
        "cells": [
            {"cell_type": k, "source": s, "metadata": {"tags": t}, "id": str(n)} for n, (k, s, t) in enumerate(cells)
        ],
    }
    (tmp_path / "99_twice.ipynb").write_text(json.dumps(content))
    return tmp_path


def test_a_section_costs_words_cells_polls_and_exercises(planned):
    from visdec_lite.teaching.notebooks import find_lessons

    opening, words, doing = sections_of(find_lessons(folder=planned)[0])
    assert opening.title == OPENING and words.talking == pytest.approx(2.0) and words.minutes == words.talking
    assert (doing.polls, doing.exercises, doing.running) == (1, 1, 1.5)
    assert doing.minutes == pytest.approx(doing.talking + 1.5 + POLL_MINUTES + EXERCISE_MINUTES)


def test_the_plan_holds_clock_polls_and_what_the_check_says_to_a_wrong_answer(planned):
    plan = teaching_plan(folder=planned)
    assert "| 99 · Twice | 0:12 | 1.5 min | 1 | 1 |" in plan
    assert "* **You need** two hands" in plan
    assert re.search(r"^\| 0:00 \| Words \| 2 min \| 0 s \|", plan, flags=re.MULTILINE)
    assert re.search(r"^\| 0:02 \| Doing \| 0 min \| 90 s \| 1 \| 1 \|", plan, flags=re.MULTILINE)
    assert "**Poll 1** (Doing)\n\n> More or less?\n>\n> * more\n> * less" in plan
    assert "* `double`: squares it. The check says:\n\n  > Twice 3 is 6; yours is 9." in plan


def test_a_lesson_that_was_not_measured_says_how(planned):
    path = planned / "99_twice.ipynb"
    path.write_text(path.read_text().replace("visdec_lite", "other"))
    assert "not measured (visdec-lite run 99 --write-times)" in teaching_plan(["99"], planned)


@pytest.mark.parametrize(("minutes", "wanted"), [(0, "0:00"), (59.6, "1:00"), (75.2, "1:15")])
def test_clock(minutes, wanted):
    assert clock(minutes) == wanted
