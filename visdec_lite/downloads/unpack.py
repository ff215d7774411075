"""Archives, without trust in what they say.

Enters: a tar or zip file and a folder. Leaves: the archive's plain files below that folder; or, if a single member
would leave the folder or is no plain file (link, device), a refusal with nothing extracted. Only bytes are
taken over: no owners, no modes, no links.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from visdec_lite.downloads.room import DownloadError, full, room_for
from visdec_lite.files import FULL

UNREADABLE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # zipfile: encrypted
    NotImplementedError,  # zipfile: an unknown compression
    FileExistsError,  # a name that is a file and a folder
    NotADirectoryError,
    IsADirectoryError,
)
JUNK = ("__MACOSX", ".DS_Store")  # what macOS adds to archives


@dataclass(frozen=True)
class Member:
    """A plain file in an archive."""

    place: PurePosixPath  # below the folder
    bytes: int
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Place the files of `archive` below `folder`.

    Args:
        archive: .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz, told by its content.
        folder: made if missing. What is there under a member's name is replaced, anything else stays.

    Returns:
        The files, in the archive's order. Files that macOS adds (`__MACOSX`, `.DS_Store`) are left out.

    Raises:
        DownloadError: not an archive, broken, or with a member that is refused: an absolute path, one with `..`, a
            link, a device. Nothing was extracted then. DiskFull: no room for what it holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{archive.name}.unpacking"
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                return _place(_zip_members(content, archive), folder, aside)
        with tarfile.open(archive) as content:
            return _place(_tar_members(content, archive), folder, aside)
    except DownloadError:
        raise
    except UNREADABLE as error:
        raise DownloadError(
            f"{archive} cannot be unpacked ({error}); delete it and download it again, "
            f"or unpack it by hand into {folder}"
        ) from error
    except OSError as error:
        if error.errno in FULL:
            raise full(error, folder, f"{archive.name} could not be unpacked") from None
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _zip_members(content: zipfile.ZipFile, archive: Path) -> list[Member]:
    members = []
    for info in content.infolist():
        place = _place_of(info.filename, archive)
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0: written on a system without such kinds
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(archive, info.filename, "is a link or a device")
        if not info.is_dir():
            members.append(Member(place, info.file_size, lambda info=info: content.open(info)))
    return members


def _tar_members(content: tarfile.TarFile, archive: Path) -> list[Member]:
    members = []
    for info in content.getmembers():
        place = _place_of(info.name, archive)
        if not (info.isreg() or info.isdir()):
            raise _refused(archive, info.name, "is a link or a device")
        if info.isreg():
            members.append(Member(place, info.size, lambda info=info: content.extractfile(info)))
    return members


def _place_of(name: str, archive: Path) -> PurePosixPath:
    """The member's path below the folder; Windows' separators and drives count, wherever this runs."""
    place = PurePosixPath(name.replace("\\", "/"))
    if place.is_absolute() or re.match("[A-Za-z]:", name):
        raise _refused(archive, name, "has an absolute path")
    if ".." in place.parts:
        raise _refused(archive, name, "would leave the folder")
    return place


def _refused(archive: Path, name: str, why: str) -> DownloadError:
    return DownloadError(
        f"{archive} is refused: its member {name!r} {why}, expected plain files below the folder. Nothing was "
        "extracted; tell whoever publishes it, and look into the archive before unpacking it by hand"
    )


def _place(members: list[Member], folder: Path, aside: Path) -> list[Path]:
    """Write all members aside, then move them: a failure leaves the folder as it was."""
    members = [member for member in members if not set(JUNK) & set(member.place.parts)]
    twice = [name for name, times in Counter(str(member.place).lower() for member in members).items() if times > 1]
    if twice:
        raise DownloadError(
            f"{aside.name[1:-10]} is refused: it holds {twice[0]!r} more than once; nothing was extracted"
        )
    room_for(folder, sum(member.bytes for member in members), "what is in the archive")
    for member in members:
        beside = aside / member.place
        beside.parent.mkdir(parents=True, exist_ok=True)
        source = member.open()
        if source is None:
            raise tarfile.ReadError(f"member {member.place} cannot be read")
        with source, beside.open("xb") as target:
            shutil.copyfileobj(source, target)
    placed = []
    for member in members:
        target = folder / member.place
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside / member.place, target)
        placed.append(target)
    return placed
