"""The lessons on the command line: `run`, `lab`, and `teach plan | site | covers`.

In: words. Out: executed lessons and their pages, JupyterLab, or the instructor's plan. `mount` adds them to an app.
"""

from __future__ import annotations

import subprocess
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated
from urllib.parse import quote

import typer

from visdec_lite.files import data_home
from visdec_lite.own_python import can_write, elsewhere, environment, python_module, user_home
from visdec_lite.teaching.executed import table
from visdec_lite.teaching.notebooks import find_lessons
from visdec_lite.teaching.runner import TIMEOUT, run_lessons

teach = typer.Typer(no_args_is_help=True)


class PresetName(StrEnum):
    smoke = "smoke"
    klass = "class"
    paper = "paper"


def mount(app: typer.Typer) -> None:
    """Add `run`, `lab` and `teach` to a command line."""
    app.command()(run)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(lab)
    app.add_typer(teach, name="teach")


Lessons = Annotated[list[str] | None, typer.Argument(help="numbers or names: 3 04 05_cond; default: all")]
Folder = Annotated[Path | None, typer.Option(help="folder of the notebooks; default: those of the clone")]


def run(
    lessons: Lessons = None,
    preset: Annotated[PresetName, typer.Option(help="the lessons' parameter PRESET")] = PresetName.klass,
    parameters: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="another parameter: -p USE_SOLUTIONS=True")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the results; default runs/lessons-PRESET")] = None,
    workers: Annotated[int, typer.Option(min=1, help="lessons at once")] = 1,
    timeout: Annotated[int, typer.Option(min=1, help="seconds that a cell may take")] = TIMEOUT,
    html: Annotated[bool, typer.Option(help="write a page of each lesson")] = True,
    write_times: Annotated[
        bool,
        typer.Option("--write-times", help="measure on two cores; minutes and tagged outputs go into the notebooks"),
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="run what OUT already holds, too")] = False,
    folder: Folder = None,
) -> None:
    """Run lessons without a hand on them: executed notebooks, pages, seconds and memory in OUT.

    Exit status 1 if any lesson has an error, be it inside a widget. Ctrl-C stops; the same command goes on.
    """
    _need("papermill", "nbconvert", "ipykernel")
    out = out or Path("runs") / f"lessons-{preset.value}"
    try:
        runs = run_lessons(
            lessons or (),
            folder=folder,
            preset=preset.value,
            parameters=_pairs(parameters or ()),
            out=out,
            workers=workers,
            timeout=timeout,
            html=html,
            write_times=write_times,
            again=again,
            say=typer.echo,
        )
    except KeyboardInterrupt as interrupt:
        typer.echo(f"\n{interrupt or 'interrupted'}", err=True)
        raise typer.Exit(130) from interrupt
    typer.echo(table(runs))
    typer.echo(f"done    {out}")
    if not all(run.passed for run in runs):
        raise typer.Exit(1)


def lab(context: typer.Context, folder: Folder = None) -> None:
    """Open JupyterLab at lesson 00. Further options go to JupyterLab: visdec-lite lab --no-browser --port 8889."""
    _need("jupyterlab")
    # kernels work where the notebook lies; data sets stay where this command was given
    variables = environment(VISDEC_DATA=str(data_home().resolve()))
    command = lab_command(folder, context.args)
    with TemporaryDirectory(prefix="visdec-lab-") as scratch:
        if not can_write(user_home()):
            typer.echo(f"{user_home()} cannot be written: what JupyterLab keeps for you is kept for this session only")
            variables |= elsewhere(scratch)
        process = subprocess.Popen(command, env=variables)
        while True:
            try:
                raise typer.Exit(process.wait())
            except KeyboardInterrupt:  # JupyterLab hears it too, and asks whether it is meant
                continue


@teach.callback()
def _teach() -> None:
    """For who gives the course."""


@teach.command()
def plan(lessons: Lessons = None, folder: Folder = None) -> None:
    """Print the plan as markdown: minute by minute, questions to the class, wrong answers to expect."""
    from visdec_lite.teaching.plan import teaching_plan

    typer.echo(teaching_plan(lessons or (), folder), nl=False)


@teach.command()
def site(
    out: Annotated[Path, typer.Option(help="folder of the pages")] = Path("runs") / "site",
    executed: Annotated[
        Path | None, typer.Option(help="folder that `run` wrote: lessons with their figures; default: without")
    ] = None,
    folder: Folder = None,
) -> None:
    """The course as web pages: lessons, glossary, plan, data sets. Opens from disk, fetches nothing."""
    from visdec_lite.teaching.site import write_site

    _need("nbconvert")
    pages = write_site(out, folder=folder, executed=executed)
    typer.echo(f"done    {pages[0]} and {len(pages) - 1} more pages")


@teach.command()
def covers(
    executed: Annotated[Path, typer.Argument(help="folder that `run` wrote")],
    folder: Folder = None,
) -> None:
    """Renew the picture of each lesson in docs/pictures, from what it drew."""
    from visdec_lite.teaching.site import write_covers

    for path in write_covers(executed, folder):
        typer.echo(path)


def lab_command(folder: Path | None = None, further: list[str] | None = None) -> list[str]:
    """The words that start JupyterLab at lesson 00, where the notebooks lie.

    Raises:
        FileNotFoundError: there are no lessons.
        ValueError: there is no lesson 00.
    """
    (first,) = find_lessons(["00"], folder)
    return [
        *python_module("jupyterlab"),
        "--ServerApp.kernel_spec_manager_class=visdec_lite.kernels.ThisPython",
        f"--ServerApp.root_dir={first.path.resolve().parent}",
        f"--LabApp.default_url=/lab/tree/{quote(first.path.name)}",
        *(further or ()),
    ]  # fmt: skip


def _pairs(words: list[str] | tuple[()]) -> dict[str, str]:
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ValueError(f"-p {word!r} is not NAME=VALUE; write -p SEED=1")
        if name == "PRESET":
            raise ValueError(f"-p {word!r} is said with --preset {value}")
        pairs[name] = value
    return pairs


def _need(*modules: str) -> None:
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ImportError(f'{", ".join(missing)} missing; install the notebook tools: pip install -e ".[notebooks]"')
