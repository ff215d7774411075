"""Room on the disk, and the two ways a download can fail.

In: how many bytes are needed where. Out: nothing, or a sentence with the number needed, the number there and
the way out.
"""

from __future__ import annotations

import shutil
from pathlib import Path

ELSEWHERE = "choose another disk with --to or VISDEC_DATA"


class DownloadError(RuntimeError):
    """A file could not be had; the message says why and what to do."""


class DiskFull(DownloadError):
    """Too little room; no other address will help."""


def room_for(folder: Path, needed: float | None, what: str) -> None:
    """Check that so many bytes fit into the folder's disk; None: not known, nothing is checked.

    Raises:
        DiskFull: with both numbers and the way out.
    """
    free = shutil.disk_usage(folder).free
    if needed is not None and needed > free:
        raise DiskFull(f"{what} needs {size(needed)}, {size(free)} are free in {folder}; make room, or {ELSEWHERE}")


def full(error: OSError, folder: Path, what: str) -> DiskFull:
    """What to say when the disk takes no more while writing."""
    free = size(shutil.disk_usage(folder).free)
    return DiskFull(
        f"the disk takes no more ({error.strerror}): {what}, {free} are free in {folder}. Make room and give the same "
        f"command again, or {ELSEWHERE}"
    )


def size(count: float) -> str:
    """Bytes for people: 2.4 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.{1 if count < 100 * scale else 0}f} {unit}"
    return f"{count:.0f} bytes"
