"""Is a recording still what was recorded? The one door through which the files of every loader go.

Enters: the files. Leaves: their SHA-256, which make the fingerprint of a data set, after all that can show damage was
looked at: the check sums that compressed streams carry (gzip, bzip2, zip, the elements of a .mat), which the libraries
that read them need not look at, and the hash that the downloader recorded. Plain formats (.npy, HDF5, .nii, text) have
no check sums: without a recorded hash a flipped bit in them is just another number, and this is said.
"""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from visdec_lite.files import LEDGER, sha256_of

logger = logging.getLogger(__name__)

ABSURD = 1e6  # scanners count to 32767, responses are a few percent, HCP's grand mean is 10000
PIECE = 2**20  # bytes read at once
MATLAB_HEADER, MATLAB_MATRIX, MATLAB_COMPRESSED = 128, 14, 15  # bytes; types of what follows, in version 5
MATLAB_PARTS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14, 16, 17, 18}  # numbers, matrices in matrices, texts
MATLAB_NUMBERS = range(6, 16)  # classes of matrices: float64 to uint64


def verified(files: Sequence[str | os.PathLike[str]], name: str | None = None) -> list[str]:
    """SHA-256 of each file, once it is known to be whole as far as that can be known.

    Args:
        files: of a recording, with their lists and masks, in an order that stays.
        name: what `visdec-lite download get` gets them by, such as `god --subject 3`; None: the user's own files.

    Returns:
        Hexadecimal digits, one string a file. How many files could not be checked at all is logged.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a check sum or a recorded hash says otherwise.
    """
    marks, bare = [], []
    way_out = "get it anew" + (f": visdec-lite download get {name}" if name else "")
    records: dict[Path, tuple[Path, dict[str, str]] | None] = {}
    for file in map(Path, files):
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}; its data set is not complete without it")
        summed = expect_whole(file, way_out)
        mark, recorded = sha256_of(file), _recorded(file, records)
        if recorded is not None and mark != recorded:
            raise ValueError(
                f"{file} has sha256 {mark}, recorded when it came was {recorded}: it has changed since; delete it and "
                f"{way_out}"
            )
        marks.append(mark)
        bare += [] if summed or recorded is not None else [file]
    if bare:
        logger.log(
            logging.INFO if name is None else logging.WARNING,
            "%d of %d files have no check sum of their own and no recorded hash (first: %s): damage in them cannot be "
            "seen%s",
            len(bare),
            len(marks),
            bare[0],
            "" if name is None else f"; visdec-lite download get {name} records one",
        )
    return marks


def expect_whole(file: Path, way_out: str) -> bool:
    """Read a file's compressed streams to their ends, where the check sums are; False if it has none.

    Args:
        file: of any kind.
        way_out: what to do about a damaged one, for the message.

    Raises:
        ValueError: a check sum does not fit, or the file ends early.
    """
    ending = file.suffix.lower()
    if ending not in CHECKS:
        return False
    with reading(file, f"a {ending} file", way_out):
        return CHECKS[ending](file)


@contextmanager
def reading(file: str | os.PathLike[str], form: str, way_out: str = "get the file anew") -> Iterator[None]:
    """Whatever a library raises inside, where a damaged file may make it raise anything, becomes one named error.

    Args:
        file: what is read; errors that name it already pass as they are.
        form: what it should be, for "cannot be read as ...".
        way_out: what to do.
    """
    try:
        yield
    except Exception as error:
        if type(error) in (ValueError, FileNotFoundError, ImportError) and str(file) in str(error):
            raise
        words = f"{error}" or type(error).__name__
        if "allow_pickle" in words or "Python objects" in words:  # numpy's advice would run whatever is in there
            words = "pickled objects are refused, as reading them can run any code"
        raise ValueError(f"{file} cannot be read as {form} ({words}); {way_out}") from error


def refuse_absurd(values: np.ndarray, file: Path) -> None:
    """No scanner gives such numbers: what a flipped bit of an exponent makes. NaN and infinity are left to the caller.

    Args:
        values: as recorded, any shape.
        file: where they are from, for the message.
    """
    if values.dtype.kind != "f":
        return
    odd = np.isfinite(values) & (np.abs(values) > ABSURD)
    if odd.any():
        place = tuple(int(i) for i in np.argwhere(odd)[0])
        raise ValueError(
            f"{int(odd.sum())} of {odd.size} values of {file} are beyond {ABSURD:g} (first: {values[place]:g} at "
            f"{place}, counted from 0), which no scanner gives: it is damaged, get it anew"
        )


def _recorded(file: Path, known: dict[Path, tuple[Path, dict[str, str]] | None]) -> str | None:
    """The hash in the lock file of the data home that the file lies in; None if there is none."""
    place = file.absolute()
    if place.parent not in known:
        homes = [folder for folder in place.parents if (folder / LEDGER).is_file()]
        known[place.parent] = (homes[0], _hashes(homes[0] / LEDGER)) if homes else None
    found = known[place.parent]
    return found and found[1].get(place.relative_to(found[0]).as_posix())


def _hashes(ledger: Path) -> dict[str, str]:
    """Place below the data home -> SHA-256, as the downloader recorded it."""
    with reading(ledger, "the downloader's lock file", "repair it, or delete it: then what is on disk is trusted anew"):
        content = json.loads(ledger.read_text(encoding="utf-8"))
        return {key: str(record["sha256"]) for key, record in content.get("files", {}).items()}


def _whole_stream(opened: Callable[..., BinaryIO]) -> Callable[[Path], bool]:
    def check(file: Path) -> bool:
        with opened(file, "rb") as stream:
            while stream.read(PIECE):
                pass
        return True

    return check


def _whole_zip(file: Path) -> bool:
    with zipfile.ZipFile(file) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"the check sum of {broken} does not fit")
    return True


def _whole_matlab(file: Path) -> bool:
    """Version 5: a header, then elements, each with its type and length; those of type 15 are zlib streams."""
    raw, place, summed = file.read_bytes(), MATLAB_HEADER, True
    order = {b"\x00\x01IM": "little", b"\x01\x00MI": "big"}.get(raw[:place][-4:])
    if order is None:  # version 4 and 7.3 (HDF5) are laid out otherwise
        return False
    while place < len(raw):
        kind, length = (int.from_bytes(raw[place + i : place + i + 4], order) for i in (0, 4))
        body = raw[place + 8 : place + 8 + length]
        if kind not in (MATLAB_MATRIX, MATLAB_COMPRESSED) or len(body) < length:
            raise ValueError(f"an element of type {kind} and {length} bytes, expected type 14 or 15 to its end")
        if kind == MATLAB_COMPRESSED:
            unpacker = zlib.decompressobj()
            body = unpacker.decompress(body)[8:]
            if not unpacker.eof:
                raise ValueError("a compressed element ends early")
        _expect_sound(body, order)
        summed &= kind == MATLAB_COMPRESSED
        place += 8 + length
    return summed


def _expect_sound(matrix: bytes, order: str) -> None:
    """Of a matrix in a .mat: parts of known types, as many as it should have. On others scipy crashes Python."""
    place, parts = 0, 0
    while place < len(matrix):
        kind, length = (int.from_bytes(matrix[place + i : place + i + 4], order) for i in (0, 4))
        small = kind >> 16  # bytes of a part that fits into its own tag
        kind, end = (kind & 0xFFFF, place + 8) if small else (kind, place + 8 + length)
        if kind not in MATLAB_PARTS or small > 4 or end > len(matrix):
            raise ValueError(f"a part of type {kind} and {small or length} bytes in a matrix of {len(matrix)}")
        place, parts = -(-end // 8) * 8, parts + 1
    flags = int.from_bytes(matrix[8:12], order)
    if flags & 0xFF in MATLAB_NUMBERS and parts != 4 + bool(flags & 0x800):  # flags, size, name, values, imaginary ones
        raise ValueError(f"a matrix of numbers of {parts} parts, expected {4 + bool(flags & 0x800)}")


CHECKS: dict[str, Callable[[Path], bool]] = {  # ending of a file's name -> reads it to its check sums
    ".gz": _whole_stream(gzip.open),
    ".mgz": _whole_stream(gzip.open),
    ".bz2": _whole_stream(bz2.open),
    ".npz": _whole_zip,
    ".mat": _whole_matlab,
}
