"""Text files as they stand: tables and lists of names, in which no word is taken for anything else.

Enters: a file in UTF-8. Leaves: its cells as text, or numbers where numbers are asked for, each known by file, line
and column when it is not what it should be. `None`, `NA`, `null`, `true` and `001` are words; only `n/a` is missing, as
BIDS says. Nothing is guessed: pandas, left to itself, takes `1` for 1.0 where another row is empty, and a tab at the
end of a line for a column of row names.
"""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MISSING = "n/a"
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")  # control characters; a mark amid the file


@dataclass(frozen=True)
class Table:
    """Cells as text, stripped, by rows.

    Attributes:
        columns: their names, or "1", "2", ... where the file has no line of names.
        rows: a tuple a row, one cell a column.
        places: where each row stands, for messages: "labels.csv, line 7".
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    places: tuple[str, ...]

    def cells(self, column: str) -> list[str]:
        """One column, as it stands."""
        number = self.columns.index(column)
        return [row[number] for row in self.rows]


def read_table(file: str | os.PathLike[str], separator: str | None, names: bool = True) -> Table:
    """A table, a row a line; lines with nothing in them are passed over, and so are separators at the end of a line.

    Args:
        file: text in UTF-8.
        separator: between cells, such as a tab; cells may be quoted where they hold it. None: white space.
        names: whether the first line names the columns.

    Raises:
        ValueError: not text in UTF-8, nothing in it, rows of different lengths, or a quote that does not close.
    """
    lines = [(number, _split(line, separator, f"{file}, line {number}")) for number, line in read_lines(file)]
    first, head = lines[0]
    while len(head) > 1 and not head[-1]:
        head.pop()
    columns = tuple(head) if names else tuple(str(i) for i in range(1, len(head) + 1))
    doubled = sorted({name for name in columns if columns.count(name) > 1})
    if doubled:
        raise ValueError(f"{file}, line {first}: columns {doubled} are there twice; expected each name once")
    rows, places = [], []
    for number, cells in lines[1 if names else 0 :]:
        whole = [*cells[: len(head)], *filter(None, cells[len(head) :])]
        if len(whole) != len(head):
            raise ValueError(
                f"{file}, line {number}: {len(whole)} cells, expected {len(head)} as in line {first}; complete the "
                "line, or get the file anew"
            )
        rows.append(tuple(whole))
        places.append(f"{file}, line {number}")
    return Table(columns, tuple(rows), tuple(places))


def read_lines(file: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """The lines of a text that hold something, each with its number, counted from 1.

    Raises:
        ValueError: nothing in it, or not text in UTF-8: line and column say where.
    """
    raw = Path(file).read_bytes()
    if not raw.strip():
        raise ValueError(f"{file} is empty ({len(raw)} bytes), expected text; get the file anew")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw
        known = "UTF-16" if wide else "Latin-1, say, or damaged"
        before = error.object[: error.start].decode("utf-8")
        raise ValueError(
            f"{file}, {_place(before)}: byte {error.object[error.start]:#04x} is not UTF-8 ({known}); save the file "
            "as UTF-8, or get it anew"
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    odd = NO_TEXT.search(text)
    if odd:
        raise ValueError(
            f"{file}, {_place(text[: odd.start()])}: U+{ord(odd[0]):04X} is no character of a text (UTF-16, or "
            "damaged); save the file as UTF-8, or get it anew"
        )
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def words(values: Iterable[object], column: str, places: Sequence[str]) -> list[str | None]:
    """Values that are names, as text; None where one is missing.

    Args:
        values: text; or whole numbers, which are written out; or None for what is missing.
        column: its name, for messages.
        places: where each value stands.

    Raises:
        ValueError: an empty cell, one with a quotation mark, or a value that may have been another word.
    """
    found: list[str | None] = []
    for value, place in zip(values, places, strict=True):
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, bool) or not isinstance(value, str | os.PathLike | int | None):
            raise ValueError(
                f"{place}, column {column!r}: {value!r} is no name, and how it was written is not known; give the path "
                "of the file, or read it as text: pandas.read_csv(..., dtype=str, keep_default_na=False)"
            )
        word = MISSING if value is None else str(value).strip()
        if not word or '"' in word:
            what = f"a stray quote in {word}" if word else "an empty cell"
            raise ValueError(
                f"{place}, column {column!r}: {what}, expected a name; write {MISSING} for what is missing"
            )
        found.append(None if word == MISSING else word)
    return found


def numbers(values: Iterable[object], column: str, places: Sequence[str], whole: bool = False) -> np.ndarray:
    """Values that are numbers, float64; NaN where one is missing.

    Args:
        values, column, places: as of `words`; text, numbers, or None for what is missing.
        whole: only whole numbers will do, and none may be missing; int64 is returned.

    Raises:
        ValueError: a value that is no number as it stands.
    """
    found = []
    for value, place in zip(values, places, strict=True):
        text = value.strip() if isinstance(value, str) else value
        missing = text is None or text == MISSING
        number = float("nan") if missing else _number(text)
        if number is None or (whole and not (number.is_integer() and abs(number) < 2**53)):
            kind = "a whole number" if whole else "a number"
            hint = "; decimals stand after a point, as in 1.5" if isinstance(text, str) and "," in text else ""
            raise ValueError(f"{place}, column {column!r}: {text!r} is not {kind}{hint}; put the file right")
        found.append(number)
    return np.array(found, dtype=np.int64 if whole else np.float64)


def _number(value: object) -> float | None:
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value) else None
    return float(value) if isinstance(value, int | float | np.number) and not isinstance(value, bool) else None


def _split(line: str, separator: str | None, place: str) -> list[str]:
    """Cells of a line, stripped."""
    try:
        cells = line.split() if separator is None else next(csv.reader([line], delimiter=separator, strict=True))
    except csv.Error as error:
        column = line.index('"') + 1
        raise ValueError(
            f"{place}, column {column}: a quote that does not enclose its cell ({error}); take it out, or close it"
        ) from error
    return [cell.strip() for cell in cells]


def _place(before: str) -> str:
    """Line and column of what comes after a text, counted from 1."""
    lines = before.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return f"line {len(lines)}, column {len(lines[-1]) + 1}"
