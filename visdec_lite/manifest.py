"""A folder that knows its own bytes: manifest.json with the SHA-256 of every file, written last.

In: a folder and who made it. Out: the same folder with a manifest; and later a verdict, file by file. A folder is
written beside its place and moved there, so that a place holds a whole folder or one whose damage is seen.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visdec_lite.files import cannot_write, digest_of, make_way, read_json, sha256_of, to_disk, write_json

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = "visdec_lite folder 1"


@contextmanager
def whole_folder(folder: str | os.PathLike[str], made_by: Mapping[str, Any], size: int = 0) -> Iterator[Path]:
    """Yield an empty folder to write into; on success its files stand in `folder` with a manifest, written last.

    A new folder appears at once. Into an old one the files move one by one and the manifest last, so that a cut
    between two of them is seen by `verify`; other files in it stay.

    Args:
        folder: where; its parents are made if missing. What a killed writer left beside it is swept after an hour.
        made_by: what shaped the files, plain values; comes back from `verify`.
        size: bytes that will be written, where they are known: less room than that is told before any is used.

    Raises:
        CannotWrite: a file of that name, no permission, no room.
        TypeError: `made_by` holds what JSON cannot.
    """
    folder = Path(folder)
    digest_of(dict(made_by))  # can it be written? Asked before the work
    try:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file of this name is there")
        folder.parent.mkdir(parents=True, exist_ok=True)
        make_way(folder, size)
        beside = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp")
    except OSError as error:
        raise cannot_write(folder, error) from error
    with beside:
        new = Path(beside.name) / "new"
        new.mkdir()
        yield new
        sums = {path.relative_to(new).as_posix(): sha256_of(path) for path in sorted(new.rglob("*")) if path.is_file()}
        for name in sums:
            to_disk(new / name)
        write_json(new / MANIFEST, {"format": FORMAT, "made_by": dict(made_by), "files": sums})
        if not folder.exists():
            os.rename(new, folder)
            return
        for name in (*sums, MANIFEST):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(new / name, folder / name)


def verify(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Compare every file that the manifest names; returns its `made_by`, or None where there is no manifest (logged).

    Raises:
        ValueError: a file differs, is missing, or lies in a subfolder of the manifest's without standing in it; the
            manifest itself is damaged.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        logger.warning("%s has no %s: its files are taken as they are, unverified; save it again", folder, MANIFEST)
        return None
    content = read_json(folder / MANIFEST, "format", "made_by", "files")
    sums = content["files"]
    wrong = []
    for name, digest in sums.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif sha256_of(path) != digest:
            wrong.append(f"{name} holds other bytes than were saved")
    ours = {name.split("/")[0] for name in sums if "/" in name}
    there = [path for each in sorted(ours) for path in sorted((folder / each).rglob("*")) if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in there]
    wrong += [f"{name} was not saved with it" for name in names if name not in sums]
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"{folder} is not as it was saved: {'; '.join(wrong[:5])}{more}. Copy or save it again; if you changed it "
            f"yourself, delete {MANIFEST}"
        )
    return content["made_by"]
