"""Files that are whole or absent, notes that know when they are damaged, and where things lie on disk.

In: a path, and what to write there. Out: the file, written beside its place under a random name, forced to the disk
and then renamed, so that neither a kill nor a power cut leaves half of it; or a `CannotWrite` that says why.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

LEDGER = "downloads.lock.json"  # in the data home: what was downloaded, with its SHA-256
LEFT_OVER = 3600.0  # seconds after which a temporary file is no longer anybody's
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space, quota used up, too large for this file system
LOCKED_UP = {errno.EACCES, errno.EPERM, errno.EROFS}


class CannotWrite(OSError):
    """A file that could not be written; the message is a sentence with the path, the reason and the way out."""

    def __str__(self) -> str:
        return str(self.args[-1])


# --- where things lie ---


def data_home() -> Path:
    """Folder of the data sets, a folder each: the environment's VISDEC_DATA, else `data`."""
    return Path(os.environ.get("VISDEC_DATA", "data")).expanduser()


def cache_home() -> Path:
    """Folder of what can be made anew: the environment's VISDEC_CACHE, else visdec_lite in the user's cache."""
    if named := os.environ.get("VISDEC_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "visdec_lite"


def data_folder(name: str, root: str | os.PathLike[str] | None = None) -> Path:
    """Folder of one data set: `root`, or where that is None, `name` in the data home."""
    return data_home() / name if root is None else Path(root).expanduser()


def nilearn_folders(name: str, root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Where a data set of nilearn's may lie: its folder `name` in the data home or in `root`, or `root` itself."""
    folder = data_folder(name, root)
    return [folder] if root is None else [folder, folder / name]


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file in hexadecimal digits, read piece by piece."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- writing ---


@contextmanager
def atomic_path(path: str | os.PathLike[str], size: int = 0, previous: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path; on success it becomes `path`, on an error it goes and `path` stays as it was.

    Args:
        path: the file to write; its folder is made if missing. The temporary file lies in the same folder (a rename
            is atomic only within one file system) under a name that nobody can guess, and is made anew, never
            followed. File and folder are forced to the disk. What a killed writer left is swept after an hour.
        size: bytes that will be written, where they are known: less room than that is told before any is used.
        previous: another name, under which the file that was at `path` stays.

    Yields:
        Where to write.

    Raises:
        CannotWrite: no such folder can be made, no permission, no room.
    """
    path = Path(path)
    with _in_words(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder of this name is there")
        path.parent.mkdir(parents=True, exist_ok=True)
        make_way(path, size)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with _in_words(path, only=FULL):
            yield temporary
        with _in_words(path):
            to_disk(temporary)
            if previous is not None and path.exists():
                _also_named(path, previous)
            os.replace(temporary, path)
            to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _also_named(path: Path, second: Path) -> None:
    """A second name for a file, so that at no moment neither name has one; without hard links, its only name."""
    fresh = second.with_name(f".{second.name}.{secrets.token_hex(8)}.tmp")
    try:
        os.link(path, fresh)
    except OSError:
        fresh = path
    os.replace(fresh, second)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made if missing, and known to take a file: asked before long work.

    Raises:
        CannotWrite: it cannot be made or written.
    """
    path = Path(path)
    with _in_words(path):
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{secrets.token_hex(8)}.tmp"
        try:
            os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        finally:
            probe.unlink(missing_ok=True)
    return path


def check_writable(path: str | os.PathLike[str], size: int = 0) -> None:
    """A file of so many bytes can be written at `path`: asked before long work. What is there stays as it is.

    Raises:
        CannotWrite: see `atomic_path`.
    """
    with suppress(_Asked), atomic_path(path, size):
        raise _Asked


class _Asked(Exception):
    """Nothing is to be written."""


def make_way(path: Path, size: int) -> None:
    """Before `path` is written beside its place: what killed writers left there goes after an hour, and there is room.

    Raises:
        OSError: less room than `size` bytes.
    """
    _sweep(path.parent, f".{escape(path.name)}.*.tmp")
    if size > (free := shutil.disk_usage(path.parent).free):
        raise OSError(errno.ENOSPC, f"{size / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free")


def sweep(folder: Path) -> None:
    """Remove what killed writers left below a folder that is locked, so that nobody else can be writing there."""
    _sweep(folder, "**/.*.tmp", age=0.0)


def _sweep(folder: Path, pattern: str, age: float = LEFT_OVER) -> None:
    for left in list(folder.glob(pattern)):
        with suppress(OSError):  # somebody else swept it
            if time.time() - left.lstat().st_mtime > age:
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def to_disk(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk, where the system can tell."""
    if path.is_dir():
        if os.name != "posix":
            return
        handle = os.open(path, os.O_RDONLY)
    else:
        handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@contextmanager
def _in_words(path: Path, only: set[int] | None = None) -> Iterator[None]:
    """Errors of the system about `path` as one sentence; with `only`, no others than these."""
    try:
        yield
    except CannotWrite:
        raise
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> CannotWrite:
    """What the system said, with the path, the numbers and the way out."""
    code = error.errno or 0
    reason = error.strerror or str(error)
    way_out = "choose another place"
    if code in FULL:
        where = path.parent
        while not where.exists():
            where = where.parent
        reason = f"no room ({reason}; {shutil.disk_usage(where).free / 1e6:.1f} MB free on that disk)"
        kept = "what was there before is kept" if path.exists() else "nothing was left there"
        way_out = f"{kept}; make room and run the same command again"
    elif code in LOCKED_UP:
        reason = f"this place cannot be written ({reason})"
    elif code == errno.ENAMETOOLONG:
        reason, way_out = f"the name is too long ({len(path.name)} characters)", "choose a shorter one"
    elif code in (errno.ENOTDIR, errno.EEXIST):
        in_the_way = next((p for p in (path, *path.parents) if p.exists() and not p.is_dir()), path)
        reason = f"{in_the_way} is a file, and a folder is needed there"
    return CannotWrite(code, f"{path} cannot be written: {reason}; {way_out}")


# --- notes ---


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Keep a note, with the SHA-256 of its content beside it under the name "sha256"."""
    content = json.loads(json.dumps(content))
    text = json.dumps({**content, "sha256": digest_of(content)}, indent=2, ensure_ascii=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str], *names: str) -> dict[str, Any]:
    """A note of `write_json`, without its hash.

    Args:
        names: what it must have.

    Raises:
        ValueError: it is no such note, lacks a name, or was changed since it was written.
    """
    path = Path(path)
    anew = f"delete it (or {path.parent}) and run the command again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: no JSON ({error}); {anew}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds {type(content).__name__}, expected names and values; {anew}")
    if missing := [name for name in ("sha256", *names) if name not in content]:
        raise ValueError(f"{path} is damaged or of another version: it lacks {', '.join(missing)}; {anew}")
    if content.pop("sha256") != digest_of(content):
        raise ValueError(f"{path} is damaged or was edited: its content does not fit its sha256; {anew}")
    return content


def digest_of(content: Any) -> str:
    """SHA-256 of plain values, whatever the order of names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
