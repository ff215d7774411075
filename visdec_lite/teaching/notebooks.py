"""A lesson as a file: what its card promises, which parameters it takes, what it asks, what it hands on.

In: a notebook, read as JSON. Out: a `LessonFile`; nothing is executed or changed here.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

OPENING = "Opening"  # what stands before the first `##` heading
COMPARED = "nbval-check-output"  # tag of cells whose outputs are committed and compared
CORES = 2  # on which the minutes in the cards are measured
RUNS_IN = re.compile(r"(?<=\| \*\*Runs in\*\* \| )[\d.]+(?= minutes on two CPU cores, preset class \(measured\) \|)")


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        kind: "code" or "markdown".
        source: its text.
        section: the `##` heading that it stands under.
        metadata: as in the file; `tags` are in it.
        outputs: of a code cell, as in the file.
        id: unique in the notebook.
    """

    kind: str
    source: str
    section: str
    metadata: Mapping[str, Any]
    outputs: Sequence[Mapping[str, Any]] = ()
    id: str = ""

    @property
    def tags(self) -> list[str]:
        return list(self.metadata.get("tags", ()))


@dataclass(frozen=True)
class LessonFile:
    """A notebook of the course.

    Attributes:
        path: "NN_name.ipynb".
        cells: in order.
        metadata: of the notebook.
    """

    path: Path
    cells: tuple[Cell, ...]
    metadata: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def number(self) -> str:
        return self.name[:2]

    @property
    def title(self) -> str:
        """The `#` heading: "03 · Two contrastive losses"."""
        found = re.search(r"^# (.+)$", self.cells[0].source if self.cells else "", flags=re.MULTILINE)
        return found[1].strip() if found else self.name

    @cached_property
    def card(self) -> dict[str, str]:
        """The rows of the first cell's table: "You will" -> its words."""
        return dict(re.findall(r"^\| \*\*(.+?)\*\* \| (.*?) *\|$", self.cells[0].source, flags=re.MULTILINE))

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Name -> default, of the cell tagged `parameters`; empty without such a cell."""
        values = {}
        for cell in self.tagged("parameters"):
            for line in tree_of(cell, self.name).body:
                if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                    try:
                        values[line.targets[0].id] = ast.literal_eval(line.value)
                    except ValueError:
                        words = f"{self.path.name}: parameter {ast.unparse(line)!r}"
                        raise ValueError(f"{words} is no plain value, as in 'SEED = 0'") from None
        return values

    @property
    def measured(self) -> Mapping[str, Any]:
        """What `write_times` wrote: minutes, cores, preset, seconds of each section; empty before that."""
        return self.metadata.get("visdec_lite", {})

    @property
    def sections(self) -> list[str]:
        """The `##` headings in order, after `OPENING`."""
        return list(dict.fromkeys(cell.section for cell in self.cells))

    @property
    def code_lines(self) -> int:
        """Lines of code that are neither empty nor only a comment."""
        lines = [line.strip() for cell in self.cells if cell.kind == "code" for line in cell.source.splitlines()]
        return sum(bool(line) and not line.startswith("#") for line in lines)

    @cached_property
    def checks(self) -> list[str]:
        """Names of the exercises that are checked, in order."""
        return list(self._lesson_calls("check"))

    @cached_property
    def takes(self) -> set[str]:
        """Stages that it loads with `lesson.checkpoint`."""
        return set(self._lesson_calls("checkpoint"))

    @cached_property
    def saves(self) -> set[str]:
        """Stages that it hands on with `lesson.save`."""
        return set(self._lesson_calls("save"))

    @property
    def hash(self) -> str:
        """Of the cells: sources and tags, but not the measured minutes, outputs and cell ids."""
        cells = [(cell.kind, RUNS_IN.sub("0", cell.source), cell.tags) for cell in self.cells]
        return hashlib.sha256(json.dumps(cells).encode()).hexdigest()

    def tagged(self, tag: str) -> list[Cell]:
        return [cell for cell in self.cells if tag in cell.tags]

    def read_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters as the notebook's own types: text is read as the type of the default.

        Raises:
            ValueError: the parameters cell has no such name, or the value is of another type.
        """
        values = {}
        for name, value in given.items():
            if name not in self.parameters:
                close = get_close_matches(name, self.parameters, n=1)
                has = f"has {', '.join(self.parameters)}" if self.parameters else "is missing"
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"{self.path.name} has no parameter {name!r}: its parameters cell {has}{hint}")
            default = self.parameters[name]
            try:
                values[name] = _read(value, default)
            except ValueError:
                kind = type(default).__name__
                raise ValueError(f"{name} of {self.path.name} is {kind}, as {default!r}; got {value!r}") from None
        return values

    def _lesson_calls(self, method: str) -> Iterator[str]:
        """First arguments of every `lesson.<method>("...")`."""
        for cell in self.cells:
            for call in calls_in(cell, self.name):
                function = call.func
                if isinstance(function, ast.Attribute) and function.attr == method and call.args:
                    first = call.args[0]
                    if ast.unparse(function.value) == "lesson" and isinstance(first, ast.Constant):
                        yield first.value


def read_lesson(path: Path | str) -> LessonFile:
    """A notebook as it lies on disk, executed or not.

    Raises:
        ValueError: it is no notebook.
    """
    path, cells, section = Path(path), [], OPENING
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not content["cells"]:
            raise ValueError("0 cells")
        for cell in content["cells"]:
            kind, source = cell["cell_type"], "".join(cell["source"])
            if kind == "markdown":
                section = next(iter(re.findall(r"^## +(.+?) *$", _without_fences(source), re.MULTILINE)), section)
            outputs, metadata = tuple(cell.get("outputs", ())), {**cell.get("metadata", {})}
            cells.append(Cell(kind, source, section, metadata, outputs, cell.get("id", "")))
        return LessonFile(path, tuple(cells), {**content["metadata"]})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no notebook ({type(error).__name__}: {error}); get it anew") from error


def lessons_folder(folder: Path | str | None = None) -> Path:
    """Where the lessons lie: `folder`, else `notebooks` beside the package, as in a clone.

    Raises:
        FileNotFoundError: no lessons there.
    """
    place = Path(folder) if folder else Path(__file__).resolve().parents[2] / "notebooks"
    if not any(place.glob("[0-9][0-9]_*.ipynb")):
        raise FileNotFoundError(
            f"no lessons (NN_name.ipynb) in {place}; they come with a clone of the repository, not with the package: "
            'clone it and pip install -e ".[notebooks]", or give --folder'
        )
    return place


def find_lessons(wanted: Sequence[str] = (), folder: Path | str | None = None) -> list[LessonFile]:
    """Lessons in order.

    Args:
        wanted: numbers ("3", "03") or beginnings of names ("03_dual"); empty: all.
        folder: of `lessons_folder`.

    Raises:
        FileNotFoundError: no lessons there.
        ValueError: no such lesson, or no notebook.
    """
    there = sorted(lessons_folder(folder).glob("[0-9][0-9]_*.ipynb"))
    chosen: set[Path] = set()
    for word in wanted:
        start = f"{int(word):02d}_" if word.isdecimal() and len(word) <= 2 else word.removesuffix(".ipynb")
        fitting = {path for path in there if path.stem.startswith(start)}
        if not start or not fitting:
            raise ValueError(f"no lesson {word!r}; there are {', '.join(path.stem for path in there)}")
        chosen |= fitting
    return [read_lesson(path) for path in there if not wanted or path in chosen]


def count_words(markdown: str) -> int:
    """Words that are spoken: without code blocks, addresses of links, HTML tags and the insides of formulas."""
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", " x ", _without_fences(markdown), flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)|<[^>]+>", " ", text)
    return len(re.findall(r"\w[\w'.,-]*", text))


def tree_of(cell: Cell, name: str) -> ast.Module:
    """The syntax tree of a code cell.

    Raises:
        ValueError: it is not plain Python.
    """
    try:
        return ast.parse(cell.source)
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise ValueError(f"{name}, cell {cell.id}: {line!r} is not plain Python; lessons use no magics") from error


def calls_in(cell: Cell, name: str) -> list[ast.Call]:
    """Every call in a code cell; none in a markdown cell."""
    if cell.kind != "code":
        return []
    calls = [node for node in ast.walk(tree_of(cell, name)) if isinstance(node, ast.Call)]
    return sorted(calls, key=lambda call: (call.lineno, call.col_offset))


def _without_fences(markdown: str) -> str:
    return re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)


def _read(value: Any, like: Any) -> Any:
    """`value` as the type of `like`."""
    if isinstance(value, str) and isinstance(like, bool):
        if value.strip().lower() not in ("true", "false"):
            raise ValueError
        return value.strip().lower() == "true"
    if isinstance(value, str) and isinstance(like, (int, float)):
        return type(like)(value)
    if like is None or type(value) is type(like):
        return value
    if type(like) is float and type(value) is int:
        return float(value)
    raise ValueError
