"""Lessons executed headless: what fails, also where papermill sees nothing; what is kept, timed and written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from page_process import HEARS_CTRL_C
from typer.testing import CliRunner

from visdec_lite.teaching import commands, runner
from visdec_lite.teaching.executed import (
    LessonRun,
    errors_in,
    table,
    two_digits,
    with_mathml,
    write_outputs,
    write_times,
)
from visdec_lite.teaching.lesson import FOLDER
from visdec_lite.teaching.notebooks import OPENING, count_words, find_lessons, read_lesson
from visdec_lite.teaching.runner import ready, run_lessons

PARAMETERS = 'PRESET = "class"  # smoke | class | paper\nSEED = 0\nDEVICE = "cpu"\nUSE_SOLUTIONS = False'
CARD = """# {number} · {title}

| | |
|---|---|
| **You will** | look |
| **Runs in** | 0.0 minutes on two CPU cores, preset class (measured) |"""
TIMEOUT = 8  # seconds a cell; a busy machine needs some for an import
DOT = bytes.fromhex(  # a PNG of one pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)
HANGS = "import time\ntime.sleep(600)"

BODIES = {
    "00_passes": [
        "## First half",
        'from pathlib import Path\nimport os\nprint("seed", SEED, PRESET, USE_SOLUTIONS)\n'
        'place = Path("runs/lessons/00/note.txt")\nplace.parent.mkdir(parents=True)\n'
        'print(place.write_text("kept"), os.environ.get("MPLBACKEND"))',
        "## Second half\n\n[next](01_raises.ipynb#Why), ![dot](dot.png)",
        "import time\nblock = bytearray(300 * 2**20)\ntime.sleep(0.5)",
    ],
    "01_raises": ["1 / 0"],
    "02_widget": [
        "import ipywidgets\nfrom threading import Thread",
        'box = ipywidgets.Output()\nwith box:\n    raise ValueError("hidden in a box")\nbox',
        'def turn(size):\n    raise LookupError("hidden in a callback")\n\nipywidgets.interact(turn, size=(1, 5));',
        "thread = Thread(target=lambda: {}[3])\nthread.start()\nthread.join()",
    ],
    "03_hangs": [HANGS],
}


def write_lesson(folder: Path, name: str, cells: list[str], parameters: str = PARAMETERS) -> Path:
    """A notebook with card and parameters; cells that begin with # or [ are text."""
    from nbformat import v4, write

    text = CARD.format(number=name[:2], title=name[3:])
    parts = [v4.new_markdown_cell(text), v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    parts += [(v4.new_markdown_cell if cell[0] in "#[" else v4.new_code_cell)(cell) for cell in cells]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / f"{name}.ipynb"
    folder.mkdir(exist_ok=True)
    write(v4.new_notebook(cells=parts, metadata={"kernelspec": spec}), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    pytest.importorskip("papermill", reason="running lessons needs the extra notebooks")
    place = tmp_path_factory.mktemp("notebooks")
    for name, cells in BODIES.items():
        write_lesson(place, name, cells)
    (place / "dot.png").write_bytes(DOT)
    return place


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def runs(folder, out) -> dict[str, LessonRun]:
    """All of them, two at once."""
    given = {"SEED": "7", "USE_SOLUTIONS": "true"}
    found = run_lessons(folder=folder, preset="smoke", parameters=given, out=out, workers=2, timeout=TIMEOUT)
    return {run.name: run for run in found}


def outputs(path: Path) -> str:
    return "".join("".join(o.get("text", "")) for cell in read_lesson(path).cells for o in cell.outputs)


# --- what comes of them ---


def test_a_lesson_gets_its_parameters_and_works_in_the_folder_of_the_results(runs, out):
    assert runs["00_passes"].passed and not runs["00_passes"].kept
    assert runs["00_passes"].parameters == {"PRESET": "smoke", "SEED": 7, "USE_SOLUTIONS": True}
    assert "seed 7 smoke True\n4 module://matplotlib_inline" in outputs(out / "00_passes.ipynb")
    assert (out / FOLDER / "00" / "note.txt").read_text() == "kept"
    assert runner.ARTEFACTS == FOLDER


def test_sections_and_memory_are_measured(runs):
    run = runs["00_passes"]
    assert list(run.sections) == [OPENING, "First half", "Second half"]
    assert 0.5 <= run.sections["Second half"] <= run.seconds
    assert run.seconds == pytest.approx(sum(run.sections.values()), abs=0.02)
    assert 300 < run.memory_mb < 900  # the block of 300 MiB and a kernel without torch


def test_an_error_in_a_cell_fails_the_lesson_and_no_other(runs):
    assert runs["01_raises"].error == "In [3]: ZeroDivisionError: division by zero"


def test_errors_inside_widgets_and_threads_fail_a_lesson_that_papermill_passes(runs, out):
    lines = runs["02_widget"].error.splitlines()
    assert sorted(lines[1:]) == [
        "inside a widget: LookupError: hidden in a callback",
        "inside a widget: ValueError: hidden in a box",
    ]
    assert lines[0] == "In [6]: a traceback on stderr, ending with 'KeyError: 3'"
    metadata = read_lesson(out / "02_widget.ipynb").metadata["papermill"]
    assert metadata["exception"] is None  # so much for papermill


def test_a_cell_that_hangs_is_stopped_and_named(runs):
    assert runs["03_hangs"].error == f"In [3] ('import time') took longer than {TIMEOUT} s (--timeout)"


def test_every_lesson_has_a_page_with_its_pictures_inside(runs, out):
    for name in BODIES:
        assert (out / f"{name}.html").exists()
    page = (out / "00_passes.html").read_text()
    assert 'href="01_raises.html#Why"' in page and "data:image/png;base64," in page and 'src="dot.png"' not in page
    assert "division by zero" in (out / "01_raises.html").read_text()


def test_timing_json_and_table_hold_every_lesson(runs, out):
    records = json.loads((out / "timing.json").read_text())["lessons"]
    assert list(records) == list(BODIES)
    assert records["00_passes"]["seconds"] == runs["00_passes"].seconds
    lines = table(list(runs.values())).splitlines()
    assert len(lines) == 1 + len(BODIES) + 2 and lines[-1] == "3 of 4 failed"
    assert "FAILED" in lines[2] and "FAILED" not in lines[1]
    assert not list(out.glob(".*"))  # nothing half written
    assert [log.stem for log in sorted(out.glob("*.log"))] == ["01_raises", "02_widget", "03_hangs"]


def test_the_sources_stay_as_they_were(runs, folder):
    assert not any(cell.outputs for lesson in find_lessons(folder=folder) for cell in lesson.cells)


# --- again, in the same folder ---


def test_what_is_finished_is_kept_until_asked_anew_or_given_other_parameters(runs, folder, out, monkeypatch, caplog):
    started = []

    class Told:
        def __init__(self, lesson, *others):
            started.append(lesson.name)
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_Job", Told)
    words = {"folder": folder, "preset": "smoke", "out": out}
    given = {"SEED": 7, "USE_SOLUTIONS": True}
    (run,) = run_lessons(["0"], parameters=given, **words)
    assert run.kept and run.seconds == runs["00_passes"].seconds and not started
    assert json.loads((out / "timing.json").read_text())["lessons"]["00_passes"]["error"] is None
    before = (out / "timing.json").read_bytes()
    changes = ({"again": True}, {"parameters": {**given, "SEED": 8}})
    for change in changes:
        with pytest.raises(KeyboardInterrupt, match=r"0 of 1 lessons are done in .*the same command goes on"):
            run_lessons(["0"], **{"parameters": given, **words, **change})
        (out / "timing.json").write_bytes(before)
    with pytest.raises(KeyboardInterrupt):  # a failed one is not kept
        run_lessons(["1"], parameters=given, **words)
    content = json.loads(before)
    del content["lessons"]["00_passes"]["memory_mb"]  # a record of another version
    (out / "timing.json").write_text(json.dumps(content))
    with pytest.raises(KeyboardInterrupt):
        run_lessons(["0"], parameters=given, **words)
    assert started == ["00_passes", "00_passes", "01_raises", "00_passes"]
    for damaged in (b"", b"[]", b"null", b'{"lessons": []}', b'{"lessons": {"00_passes": 1}}', b"\xff", b"{}"):
        caplog.clear()
        (out / "timing.json").write_bytes(damaged)
        with pytest.raises(KeyboardInterrupt):
            run_lessons(["0"], parameters=given, **words)
        assert "timing.json cannot be read" in caplog.text and started[-1] == "00_passes"
    (out / "timing.json").write_bytes(before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_kernel_outlives_the_command_and_ctrl_c_says_how_to_go_on(folder, tmp_path, number, status):
    code = "import typer; from visdec_lite.teaching import commands; a = typer.Typer(); commands.mount(a); a()"
    code = f"{HEARS_CTRL_C}{code}"  # which a process started in the background does not by itself
    mark = tmp_path / "pid"
    write_lesson(tmp_path / "own", "00_long", [f"import os\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\n{HANGS}"])
    words = [sys.executable, "-c", code, "run", "--folder", str(tmp_path / "own"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(600):
        if mark.exists() and mark.read_text():
            break
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == status and "Traceback" not in said
    assert ("stopped; 0 of 1 lessons are done" in said) == (number == signal.SIGINT)
    for _ in range(100):
        if not Path(f"/proc/{mark.read_text()}").exists() or sys.platform != "linux":
            break
        time.sleep(0.1)
    else:
        pytest.fail("the kernel is still there")


def test_what_goes_into_a_run_is_its_cells_parameters_and_the_artefacts_of_earlier_lessons(tmp_path):
    def key(cell: str, **parameters) -> str:
        lesson = read_lesson(write_lesson(tmp_path / "notebooks", "04_fuses", [cell]))
        return runner._key(lesson, parameters, tmp_path)

    takes = 'brain = lesson.checkpoint("pretrain")'
    first = key(takes, SEED=0)
    assert key(takes, SEED=0) == first  # although cell ids are new
    assert len({first, key(takes, SEED=1), key(takes + "  # now", SEED=0)}) == 3
    for number, name, counts in [("05", "pretrain", False), ("03", "fuse", False), ("03", "pretrain", True)]:
        artefact = tmp_path / FOLDER / number / f"{name}.safetensors"
        artefact.parent.mkdir(parents=True, exist_ok=True)
        artefact.write_bytes(b"weights")
        assert (key(takes, SEED=0) != first) is counts


# --- before anything is run ---


def test_a_parameter_that_a_lesson_lacks_is_refused_with_the_names_there(folder, tmp_path):
    with pytest.raises(ValueError, match=r"00_passes\.ipynb has no parameter 'SEEDS': .*PRESET, SEED, .*mean SEED\?"):
        run_lessons(folder=folder, parameters={"SEEDS": 1}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [("SEED", "12", 12), ("USE_SOLUTIONS", "True", True), ("USE_SOLUTIONS", "false", False), ("DEVICE", "1", "1")],
)
def test_words_become_the_type_of_the_default(folder, name, value, wanted):
    (lesson,) = find_lessons(["0"], folder)
    read = lesson.read_parameters({name: value})
    assert read == {name: wanted} and type(read[name]) is type(wanted)


@pytest.mark.parametrize(("name", "value"), [("SEED", "one"), ("SEED", True), ("USE_SOLUTIONS", "1"), ("DEVICE", 0)])
def test_a_value_of_another_type_is_refused(folder, name, value):
    (lesson,) = find_lessons(["0"], folder)
    with pytest.raises(ValueError, match=rf"{name} of 00_passes\.ipynb is .*, as .*; got {value!r}"):
        lesson.read_parameters({name: value})


def test_a_notebook_without_parameters_cell_says_so(tmp_path):
    write_lesson(tmp_path, "00_bare", ["1"], parameters="")
    with pytest.raises(ValueError, match="no parameter 'PRESET': its parameters cell is missing"):
        run_lessons(folder=tmp_path, out=tmp_path / "out")


def test_lessons_are_found_by_number_or_name(folder, tmp_path):
    assert [lesson.name for lesson in find_lessons(["2", "00", "02_widget"], folder)] == ["00_passes", "02_widget"]
    with pytest.raises(ValueError, match=r"no lesson '7'; there are 00_passes, 01_raises"):
        find_lessons(["7"], folder)
    with pytest.raises(FileNotFoundError, match=r"no lessons .*clone it and pip install .*--folder"):
        find_lessons(folder=tmp_path)


@pytest.mark.parametrize("word", ["", "\0", "²", "9" * 5000, "../00", "é", " 0", "0.5", "00_passes\n", "{0}", "%s"])
def test_odd_words_name_no_lesson(folder, word):
    with pytest.raises(ValueError, match=r"^no lesson '.*; there are 00_passes, 01_raises"):
        find_lessons([word], folder)


@pytest.mark.parametrize("content", [b"{", b"", b"[]", b"\xff", b'{"cells": []}', b'{"cells": ["x"]}'])
def test_what_is_no_notebook_is_named(tmp_path, content):
    (tmp_path / "00_broken.ipynb").write_bytes(content)
    with pytest.raises(ValueError, match=r"00_broken\.ipynb is no notebook \(\w+: .*; get it anew"):
        find_lessons(folder=tmp_path)


def test_a_parameter_that_is_no_plain_value_is_named(tmp_path):
    write_lesson(tmp_path, "00_odd", [], parameters="PRESET = choose()")
    with pytest.raises(ValueError, match=r"00_odd\.ipynb: parameter 'PRESET = choose\(\)' is no plain value"):
        run_lessons(folder=tmp_path, out=tmp_path / "out")


def test_who_loads_an_artefact_waits_for_who_makes_it(tmp_path):
    for name, cell in {
        "03_one": 'lesson.save("pretrain", brain)',
        "04_two": 'brain = lesson.checkpoint("pretrain")\nlesson.save("fuse", brain)',
        "05_three": 'brain = lesson.checkpoint("fuse", shipped=True)',
        "06_four": 'other.save("x")\nplt.imshow(1)',
    }.items():
        write_lesson(tmp_path, name, [cell])
    one, two, three, four = find_lessons(folder=tmp_path)
    assert two.takes == {"pretrain"} and two.saves == {"fuse"} and not four.saves
    assert ready([one, two, three, four], []) == [one, four]
    assert ready([two, three], [one]) == []
    assert ready([two, three], []) == [two]
    assert ready([three], [two]) == []


# --- measured times ---


def test_times_go_into_card_and_metadata_and_nothing_else_changes(folder, tmp_path):
    path = write_lesson(tmp_path, "00_passes", BODIES["00_passes"])
    before, hashed = json.loads(path.read_text()), read_lesson(path).hash
    assert write_times(path, {"First half": 40.04, "Second half": 33.0}) == 1.2
    lesson = read_lesson(path)
    assert lesson.card["Runs in"] == "1.2 minutes on two CPU cores, preset class (measured)"
    assert lesson.measured == {
        "minutes": 1.2, "cores": 2, "preset": "class", "seconds": {"First half": 40.0, "Second half": 33.0},
    }  # fmt: skip
    assert lesson.hash == hashed, "a measured lesson is not another lesson"
    after = json.loads(path.read_text())
    assert after["cells"][1:] == before["cells"][1:] and len(after["cells"]) == len(before["cells"])
    write_times(path, {"First half": 3.0})
    assert read_lesson(path).card["Runs in"].startswith("0.050 minutes")


def test_a_card_without_room_for_the_time_is_an_error(tmp_path):
    path = write_lesson(tmp_path, "00_bare", [])
    path.write_text(path.read_text().replace("Runs in", "Takes"))
    with pytest.raises(ValueError, match=r"00_bare\.ipynb has 0 rows for the time .*Runs in\*\* \| 0\.0 minutes"):
        write_times(path, {"Opening": 3.0})


def test_tagged_outputs_are_renewed_as_text_and_no_others(tmp_path):
    path = write_lesson(tmp_path, "00_passes", ["1 + 1", "print(2)", "print(3)"])
    content = json.loads(path.read_text())
    for cell in content["cells"][2:4]:
        cell["metadata"]["tags"] = ["nbval-check-output"]
    path.write_text(json.dumps(content))
    two = {"text/plain": ["2"], "text/html": ["<b>2</b>"]}
    content["cells"][2]["outputs"] = [
        {"output_type": "execute_result", "execution_count": 9, "data": two, "metadata": {"x": 1}}
    ]
    for cell, name in zip(content["cells"][3:], ("stdout", "stdout"), strict=True):
        cell["outputs"] = [
            {"output_type": "stream", "name": "stderr", "text": ["a warning"]},
            {"output_type": "stream", "name": name, "text": ["2\n"]},
        ]
    other = tmp_path / "executed.ipynb"
    other.write_text(json.dumps(content))
    write_outputs(path, read_lesson(other))
    cells = json.loads(path.read_text())["cells"]
    assert [cell.get("execution_count") for cell in cells] == [None, None, 2, 3, None]
    assert cells[2]["outputs"] == [
        {"output_type": "execute_result", "execution_count": 2, "data": {"text/plain": ["2"]}, "metadata": {}}
    ]
    assert cells[3]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": ["2\n"]}]
    assert cells[4]["outputs"] == []


@pytest.mark.parametrize(
    "change", [{"preset": "smoke"}, {"parameters": {"SEED": 3}}, {"workers": 2}, {"parameters": {"DEVICE": "cuda"}}]
)
def test_times_that_would_mislead_are_not_measured(folder, tmp_path, change):
    with pytest.raises(ValueError, match=r"times in the cards are those of preset class.*Drop --write-times"):
        run_lessons(["0"], folder=folder, out=tmp_path, write_times=True, **change)


@pytest.mark.parametrize(
    ("number", "wanted"), [(0.0518, "0.052"), (0.0999, "0.10"), (1, "1.0"), (9.96, "10"), (12.4, "12"), (0, "0.0")]
)
def test_two_digits(number, wanted):
    assert two_digits(number) == wanted


# --- the command ---


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    commands.mount(app)
    return app


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="times are measured on two cores")
def test_the_command_writes_times_and_its_exit_status_tells(app, folder, tmp_path):
    own = tmp_path / "own"
    write_lesson(own, "00_passes", BODIES["00_passes"])
    (own / "dot.png").write_bytes(DOT)
    words = ["run", "--folder", str(own), "--out", str(tmp_path / "out"), "-p", "USE_SOLUTIONS=True"]
    done = CliRunner().invoke(app, [*words, "--write-times"])
    assert done.exit_code == 0, done.output
    assert re.search(r"00_passes  passed  \d+\.\d s  \d+ MiB", done.output) and "memory MiB" in done.output
    measured = find_lessons(folder=own)[0].measured
    assert measured["minutes"] > 0 and measured["seconds"]["Second half"] >= 0.5
    assert f"{two_digits(measured['minutes'])} minutes" in (tmp_path / "out" / "00_passes.html").read_text()
    kept = CliRunner().invoke(app, words)  # although the card now says another time
    assert kept.exit_code == 0 and "kept" in kept.output


def test_the_exit_status_is_one_after_an_error(app, folder, out, runs, monkeypatch):
    monkeypatch.setattr(commands, "run_lessons", lambda *a, **k: list(runs.values()))
    done = CliRunner().invoke(app, ["run", "--out", str(out)])
    assert done.exit_code == 1 and "3 of 4 failed" in done.output


@pytest.mark.parametrize("word", ["SEED", "=3", "PRESET=smoke"])
def test_a_parameter_that_is_not_name_and_value_is_refused(app, word):
    done = CliRunner().invoke(app, ["run", "-p", word])
    assert isinstance(done.exception, ValueError) and repr(word) in str(done.exception)


def test_presets_of_the_command_are_those_of_the_library():
    from visdec_lite.presets import preset

    assert [preset(name.value).name for name in commands.PresetName] == ["smoke", "class", "paper"]


def test_lab_opens_lesson_00_and_hands_options_on(app, folder, monkeypatch):
    asked = []

    class Started:
        def __init__(self, command, env):
            asked.append((command, env["VISDEC_DATA"]))

        def wait(self):
            return 3

    monkeypatch.setattr(subprocess, "Popen", Started)
    done = CliRunner().invoke(app, ["lab", "--folder", str(folder), "--no-browser", "--port", "8889"])
    assert done.exit_code == 3
    command, data = asked[0]
    assert command[1:4] == ["-P", "-m", "jupyterlab"] and command[-3:] == ["--no-browser", "--port", "8889"]
    assert "--LabApp.default_url=/lab/tree/00_passes.ipynb" in command
    assert "--ServerApp.kernel_spec_manager_class=visdec_lite.kernels.ThisPython" in command
    assert f"--ServerApp.root_dir={folder}" in command and Path(data).is_absolute()
    assert "cannot be written" not in done.output


def test_lab_does_without_a_home_folder(app, folder, monkeypatch):
    seen = []

    class Started:
        def __init__(self, command, env):
            places = {env[name] for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "MPLCONFIGDIR")}
            seen.extend([*places, *map(os.path.isdir, places)])

        def wait(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Started)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    done = CliRunner().invoke(app, ["lab", "--folder", str(folder)])
    assert done.exit_code == 0 and "/proc/nowhere cannot be written: what JupyterLab keeps for you" in done.output
    (place, was_there) = seen
    assert was_there and not os.path.exists(place), "gone afterwards"


def test_without_the_notebook_tools_the_way_out_is_said(app, folder, monkeypatch):
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["lab", "--folder", str(folder)])
    assert isinstance(done.exception, ImportError) and 'pip install -e ".[notebooks]"' in str(done.exception)


# --- reading ---


def test_words_that_are_spoken_are_counted():
    assert count_words("Two words, $x = y$ [and a link](http://x.y/z).") == 6
    assert count_words("```python\nnot this\n```\nbut this\n\n$$\\sum_i x_i$$") == 3


def test_errors_in_an_empty_notebook_are_none(tmp_path):
    assert errors_in(read_lesson(write_lesson(tmp_path, "00_bare", []))) == []


def test_equations_need_no_network():
    page = with_mathml("Loss $\\log(n)$ and\n\n$$\\frac{1}{n} \\sum_i x_i$$\n\nbut `$HOME` and\n```\n$x$\n```\n")
    assert page.count("<math") == 2 and 'display="block"' in page and "<mfrac>" in page
    assert "`$HOME`" in page and "```\n$x$\n```" in page
