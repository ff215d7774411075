"""Lessons without a hand on them: executed, timed, weighed, searched for errors that would stay unseen.

In: notebooks and their parameters. Out, in one folder: each lesson executed (.ipynb) and as a page (.html), what the
kernel of a failed one wrote besides (.log), the artefacts that lessons hand on (`runs/lessons`), and timing.json.

Each lesson has a process of its own (`worker`), which executes it with papermill.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import joblib

from visdec_lite.files import atomic_path, data_home
from visdec_lite.own_python import environment, python_module
from visdec_lite.teaching import executed
from visdec_lite.teaching.executed import LessonRun
from visdec_lite.teaching.notebooks import CORES, LessonFile, find_lessons, read_lesson

logger = logging.getLogger(__name__)

TIMEOUT = 600  # seconds a cell may take: three times the training that a lesson may ask for
PATIENCE = 15.0  # seconds in which a stopped lesson must have ended its kernel
ARTEFACTS = Path("runs") / "lessons"  # where `Lesson` keeps them, below the folder that its kernel works in


def run_lessons(
    lessons: Sequence[str] = (),
    *,
    folder: Path | str | None = None,
    preset: str = "class",
    parameters: Mapping[str, Any] | None = None,
    out: Path | str,
    workers: int = 1,
    timeout: int = TIMEOUT,
    html: bool = True,
    write_times: bool = False,
    again: bool = False,
    say: Callable[[str], None] = lambda words: None,
) -> list[LessonRun]:
    """Execute lessons; one that fails does not keep the others from running.

    Args:
        lessons: numbers or names, see `find_lessons`; empty: all.
        folder: of the notebooks; None: those of the clone.
        preset: the parameter PRESET.
        parameters: others, name -> value; text is read as the type of the default.
        out: folder of the results, and where kernels work. A lesson that is finished there with the same cells,
            parameters and artefacts is kept.
        workers: lessons at once. One that loads an artefact waits for the one that makes it.
        timeout: seconds a cell may take.
        html: write a page of each lesson.
        write_times: measure on two cores, and write the minutes into the notebooks, with the outputs to commit.
        again: keep nothing.
        say: told what happens, a line at a time.

    Returns:
        One run a lesson, in order.

    Raises:
        FileNotFoundError, ValueError: no such lesson or parameter, or `write_times` where times would mislead.
        KeyboardInterrupt: Ctrl-C, when every kernel has ended.
    """
    chosen = find_lessons(lessons, folder)
    asked = {"PRESET": preset, **(parameters or {})}
    given = {lesson.name: lesson.read_parameters(asked) for lesson in chosen}
    if write_times:
        _check_measurable(preset, parameters or {}, workers)
    out = Path(out).resolve()
    _check_words([str(out), *(str(lesson.path) for lesson in chosen), *(str(value) for value in asked.values())])
    out.mkdir(parents=True, exist_ok=True)
    if write_times and hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) - CORES + 1:
        say(f"note: this machine is busy (load {os.getloadavg()[0]:.1f}), and the measured times will be too long")
    timing = _Timing(out / "timing.json")
    cores = CORES if write_times else None
    threads = max(1, joblib.cpu_count() // workers) if workers > 1 else None

    waiting, running, runs = list(chosen), {}, {}
    try:
        while waiting or running:
            for lesson in ready(waiting, [job.lesson for job in running.values()])[: workers - len(running)]:
                waiting.remove(lesson)
                key = _key(lesson, given[lesson.name], out)
                runs[lesson.name] = kept = None if again or write_times else timing.finished(lesson.name, key, out)
                if kept:
                    say(f"{lesson.name}  kept: finished before with the same cells and parameters (--again runs it)")
                    if html:
                        executed.write_page(out / lesson.path.name, lesson.path.parent)
                    continue
                say(f"{lesson.name}  runs")
                timing.forget(lesson.name)
                running[lesson.name] = _Job(lesson, given[lesson.name], key, out, timeout, threads, cores)
            for name in [name for name, job in running.items() if job.ended]:
                job = running.pop(name)
                runs[name] = run = job.result()
                if write_times and run.passed:
                    for path in (job.lesson.path, job.output):
                        executed.write_times(path, run.sections)
                    executed.write_outputs(job.lesson.path, read_lesson(job.output))
                timing.keep(run)
                say(f"{name}  {_outcome(run)}")
                if html:
                    executed.write_page(job.output, job.lesson.path.parent)
            time.sleep(0.05 if running else 0)
    except KeyboardInterrupt:
        done = sum(run is not None for run in runs.values())
        raise KeyboardInterrupt(
            f"stopped; {done} of {len(chosen)} lessons are done in {out}, the same command goes on"
        ) from None
    finally:
        for job in running.values():
            job.let_go()
        for job in running.values():
            job.wait()
    return [runs[lesson.name] for lesson in chosen]


def ready(waiting: Sequence[LessonFile], running: Sequence[LessonFile]) -> list[LessonFile]:
    """Those of `waiting` whose artefacts no unfinished earlier lesson will make."""
    unfinished = [*waiting, *running]
    return [
        lesson
        for lesson in waiting
        if not any(other.number < lesson.number and other.saves & lesson.takes for other in unfinished)
    ]


class _Timing:
    """timing.json: what every lesson in a folder took. A record is there only for a lesson that ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        try:
            self.records = {name: {**record} for name, record in json.loads(path.read_bytes())["lessons"].items()}
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be read (%s): every lesson runs anew", path, error)

    def finished(self, name: str, key: str, out: Path) -> LessonRun | None:
        record = self.records.get(name, {})
        if record.get("key") != key or record.get("error") is not None or not (out / f"{name}.ipynb").exists():
            return None
        try:
            return LessonRun(**{**record, "name": name, "kept": True})
        except TypeError:  # written by another version
            return None

    def keep(self, run: LessonRun) -> None:
        record = asdict(run)
        del record["name"], record["kept"]
        self.records[run.name] = record
        self._write()

    def forget(self, name: str) -> None:
        if self.records.pop(name, None):
            self._write()

    def _write(self) -> None:
        content = {"lessons": dict(sorted(self.records.items()))}
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class _Job:
    """A lesson in a process of its own, which stops when its standard input is closed, whatever became of us."""

    def __init__(
        self,
        lesson: LessonFile,
        parameters: dict[str, Any],
        key: str,
        out: Path,
        timeout: int,
        threads: int | None,
        cores: int | None,
    ) -> None:
        self.lesson, self.parameters, self.key, self.timeout = lesson, parameters, key, timeout
        self.output = out / lesson.path.name
        self.log, self.report = self.output.with_suffix(".log"), out / f".{lesson.name}.report.json"
        for old in (self.output, self.output.with_suffix(".html"), self.report):
            old.unlink(missing_ok=True)
        variables = environment(VISDEC_DATA=str(data_home().resolve()))
        if cores:
            variables["OMP_NUM_THREADS"] = str(cores)
        elif threads:
            variables.setdefault("OMP_NUM_THREADS", str(threads))
        order = {
            "source": str(lesson.path.resolve()),
            "output": str(self.output),
            "report": str(self.report),
            "parameters": parameters,
            "timeout": timeout,
            "cores": cores,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                python_module("visdec_lite.teaching.worker"),
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=variables,
                start_new_session=True,  # Ctrl-C is heard here only, and passed on through `let_go`
            )  # fmt: skip
        assert self.process.stdin
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def let_go(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()

    def wait(self) -> None:
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def result(self) -> LessonRun:
        self.let_go()
        notebook = read_lesson(self.output) if self.output.exists() else None
        errors = executed.errors_in(notebook) if notebook else []
        memory = None
        if self.report.exists():
            report = json.loads(self.report.read_text(encoding="utf-8"))
            memory = report["memory_mb"]
            errors = errors or ([report["error"]] if report["error"] else [])
            self.report.unlink()
        else:
            errors.append(f"its process ended with exit status {self.process.returncode}; see {self.log}")
        sections = executed.section_seconds(notebook) if notebook else {}
        if not errors:
            self.log.unlink()
        return LessonRun(
            name=self.lesson.name,
            error="\n".join(errors) or None,
            seconds=round(sum(sections.values()), 2),
            sections={name: round(value, 2) for name, value in sections.items()},
            memory_mb=memory,
            parameters=self.parameters,
            key=self.key,
        )


def _check_words(words: Sequence[str]) -> None:
    """Refuse what no notebook can hold: file names in another encoding come as lone surrogates."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{word!r} is no Unicode text ({error.reason}); rename it or choose another") from None


def _check_measurable(preset: str, parameters: Mapping[str, Any], workers: int) -> None:
    others = sorted(set(parameters) - {"USE_SOLUTIONS"})
    cores = joblib.cpu_count()
    if preset != "class" or others or workers != 1 or cores < CORES:
        raise ValueError(
            f"the times in the cards are those of preset class, one lesson at a time, on {CORES} cores, with no "
            f"parameter changed but USE_SOLUTIONS; here: preset {preset}, {workers} at a time, {cores} cores, "
            f"changed: {', '.join(others) or 'none'}. Drop --write-times or those options"
        )


def _key(lesson: LessonFile, parameters: Mapping[str, Any], out: Path) -> str:
    """Hash of all that goes into a run."""
    stages = [path for stage in lesson.takes for path in (out / ARTEFACTS).glob(f"*/{stage}.safetensors")]
    files = sorted(path for path in stages if path.parent.name < lesson.number)
    artefacts = {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return hashlib.sha256(json.dumps([lesson.hash, dict(parameters), artefacts]).encode()).hexdigest()[:16]


def _outcome(run: LessonRun) -> str:
    memory = "" if run.memory_mb is None else f"  {run.memory_mb:.0f} MiB"
    return f"passed  {run.seconds:.1f} s{memory}" if run.passed else f"FAILED  {run.error}"
