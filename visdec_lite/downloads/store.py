"""What is on disk: get an entry of the registry, look what is there, check it again.

Enters: a name of the registry and the data home. Leaves: the files of that entry where its loader looks for them,
`<data home>/<folder>/...`, each with a record in the lock file; or a `DownloadError` with the way out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visdec_lite.downloads.fetch import fetch
from visdec_lite.downloads.ledger import LEDGER, Ledger, Record, today
from visdec_lite.downloads.look import NEVER_TEXT, mistaken
from visdec_lite.downloads.registry import REGISTRY, Entry, File, entry
from visdec_lite.downloads.resume import Patience
from visdec_lite.downloads.room import DownloadError, room_for
from visdec_lite.downloads.unpack import unpack
from visdec_lite.files import data_home, sha256_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OnDisk:
    """What there is of an entry."""

    files: int  # whole ones
    of: int  # how many there should be; 0: not known
    bytes: int  # of the whole ones
    half: int  # bytes of broken downloads


@dataclass(frozen=True)
class Check:
    """One file, hashed again."""

    path: str  # below the data home
    verdict: Literal["good", "changed", "missing", "unknown"]
    detail: str


def get(
    name: str,
    *,
    subjects: Sequence[int] | None = None,
    home: Path | None = None,
    accept_licence: bool = False,
    patience: Patience | None = None,
    progress: bool = True,
) -> list[Path]:
    """Download an entry of the registry, or what is missing of it.

    Args:
        name: a key of `REGISTRY`.
        subjects: only these; None: all.
        home: the data home; None: VISDEC_DATA, else `data`.
        accept_licence: the user has read the licence and accepts it. Needed once for entries that ask for it.
        patience: time-outs and retries.
        progress: show bars on a terminal.

    Returns:
        The files, of an archive its members.

    Raises:
        ValueError: no such name or subject.
        DownloadError: not downloadable by a program, licence not accepted, no room, or every mirror failed.
        ImportError: a fetcher of nilearn is needed and nilearn is not installed.
    """
    what = entry(name)
    files = what.chosen(subjects)
    home = _absolute(home)
    folder = home / what.folder
    if what.kind == "page":
        note = f" ({what.note})" if what.note else ""
        raise DownloadError(
            f"{name} cannot be downloaded by a program: {what.title}. Ask for it or download it at {what.page}{note}; "
            f"place the files in {folder}. Licence: {what.licence}"
        )
    ledger = Ledger(home)
    _settle_licence(what, ledger, accept_licence)
    folder.mkdir(parents=True, exist_ok=True)
    if what.kind == "nilearn":
        return _by_nilearn(what, subjects, ledger, progress)
    wanted = [file for file in files if not (folder / file.path).exists() and _members(file, what, ledger) is None]
    needed = sum((file.size or (file.megabytes or 0) * 1e6) - _half(what, file, home) for file in wanted)
    room_for(folder, needed, name)
    placed: list[Path] = []
    for file in files:
        members = _members(file, what, ledger)
        if members is not None:
            logger.info("%s was unpacked already: %d files", file.path, len(members))
            placed += members
            continue
        path = fetch(file, folder / file.path, ledger, page=what.page, patience=patience, progress=progress)
        placed += _unpacked(path, ledger) if file.unpack else [path]
    return placed


def on_disk(what: Entry, home: Path | None = None) -> OnDisk:
    """What there is of an entry on disk: counted, not hashed."""
    home = _absolute(home)
    folder = home / what.folder
    everything = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    half = [path for path in everything if path.name.endswith(".part")]
    if what.kind == "http":
        ledger = Ledger(home)
        whole = []
        for file in what.files:
            whole += _members(file, what, ledger) or [folder / file.path]
        expected = len(whole)
        whole = [path for path in whole if path.is_file()]
        half = [path for path in half if path in {folder / f"{file.path}.part" for file in what.files}]
    else:
        expected = 0
        whole = [path for path in everything if not path.name.endswith((".part", ".part.json"))]
    sizes = [sum(path.stat().st_size for path in paths) for paths in (whole, half)]
    return OnDisk(len(whole), expected, *sizes)


def verify(name: str | None = None, home: Path | None = None) -> list[Check]:
    """Hash what is on disk again and compare it with the registry and the lock file.

    Args:
        name: one entry; None: all of them.
        home: the data home; None: VISDEC_DATA, else `data`.

    Returns:
        A check for every file that is recorded in the lock file or that the registry names and that is there.
    """
    home = _absolute(home)
    ledger = Ledger(home)
    records = ledger.records()
    checks: dict[str, Check] = {}
    for what in [entry(name)] if name else REGISTRY.values():
        published = {f"{what.folder}/{file.path}": file.sha256 for file in what.files}
        own = [key for key in records if _belongs(key, what, published, ledger)]
        there = [key for key in published if (home / key).is_file()]
        for key in sorted({*own, *there}):
            checks[key] = _check(home / key, key, published.get(key), records.get(key))
    return list(checks.values())


def _settle_licence(what: Entry, ledger: Ledger, accept: bool) -> None:
    accepted = what.must_accept and ledger.accepted(what.name, what.licence)
    if accept or not what.must_accept:
        logger.info("licence of %s: %s", what.name, what.licence)
    if accept and not accepted:
        ledger.accept(what.name, what.licence)
    elif what.must_accept and not accepted:
        raise DownloadError(
            f"{what.name} may be used only under its licence:\n\n  {what.licence}\n  {what.page}\n\n"
            f"If you accept it, say so once: get {what.name} --accept-licence"
        )


def _by_nilearn(what: Entry, subjects: Sequence[int] | None, ledger: Ledger, progress: bool) -> list[Path]:
    """Let nilearn fetch into the data home, then record what it left there."""
    try:
        from nilearn import datasets
    except ImportError as error:
        raise ImportError(
            f"{what.name} is fetched by nilearn, which is not installed: pip install nilearn, "
            "or the extra visdec-lite[notebooks]"
        ) from error
    what.chosen(subjects)
    chosen = list(subjects or what.subjects)
    if what.megabytes and not on_disk(what, ledger.home).files:
        share = len(chosen) / len(what.subjects) if what.subjects else 1
        room_for(ledger.home, what.megabytes * 1e6 * share, what.name)
    options = {"subjects": chosen} if what.subjects else {}
    with ledger.locked(what.folder):
        try:
            with _no_netrc():
                getattr(datasets, what.fetcher)(data_dir=str(ledger.home), verbose=int(progress), **options)
        except Exception as error:  # whatever its many layers raise
            raise DownloadError(
                f"nilearn could not fetch {what.name} ({type(error).__name__}: {error}); "
                f"the same command tries again. By hand: {what.page}"
            ) from error
        folder = ledger.home / what.folder
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(".part")]
        records = ledger.records()
        new = [path for path in paths if ledger.key(path) not in records]
        others = {path: mistaken(path) for path in new if path.suffix in NEVER_TEXT}
        for path, other in others.items():
            if other:
                raise DownloadError(
                    f"{path} is {other}, not a file of {what.name}; delete it, and the same command tries again. "
                    f"By hand: {what.page}"
                )
        ledger.record(_described(new, ledger, what.page, "first use"))
    return paths


@contextmanager
def _no_netrc() -> Iterator[None]:
    """Nilearn's requests, too, send no password of `.netrc` along; see `session`."""
    before = os.environ.get("NETRC")
    os.environ["NETRC"] = os.devnull
    try:
        yield
    finally:
        os.environ.pop("NETRC")
        os.environ |= {} if before is None else {"NETRC": before}


def _unpacked(archive: Path, ledger: Ledger) -> list[Path]:
    """Unpack beside the archive, record the members, delete the archive."""
    key = ledger.key(archive)
    with ledger.locked(key):
        if not archive.exists():  # another process was faster
            done = ledger.unpacked(key)
            return [ledger.home / member for member in done[1]] if done else []
        url = ledger.records()[key].url
        members = unpack(archive, archive.parent)
        ledger.record_unpacked(key, _described(members, ledger, url, "unpacked"))
        archive.unlink()
    return members


def _described(paths: Sequence[Path], ledger: Ledger, url: str, trust: str) -> dict[str, Record]:
    return {ledger.key(path): Record(url, sha256_of(path), path.stat().st_size, today(), trust) for path in paths}


def _members(file: File, what: Entry, ledger: Ledger) -> list[Path] | None:
    """The members of an archive that was unpacked and of which all are there; None otherwise."""
    done = ledger.unpacked(f"{what.folder}/{file.path}") if file.unpack else None
    members = [ledger.home / member for member in done[1]] if done else []
    return members if members and all(member.is_file() for member in members) else None


def _belongs(key: str, what: Entry, published: dict[str, str | None], ledger: Ledger) -> bool:
    """Folders may be shared (god, god-features): a record is of the entry that names it or its archive."""
    if what.kind != "http":
        return key.startswith(f"{what.folder}/")
    return key in published or any(key in done[1] for done in map(ledger.unpacked, published) if done)


def _check(path: Path, key: str, published: str | None, record: Record | None) -> Check:
    expected = published or (record.sha256 if record else None)
    if not path.is_file():
        return Check(key, "missing", f"recorded on {record.date if record else '?'}; get it again")
    if expected is None:
        return Check(key, "unknown", f"no hash of it is known; get records it in {LEDGER}")
    found = sha256_of(path)
    if found != expected:
        whose = "published" if published else f"recorded on {record.date if record else '?'}"
        return Check(key, "changed", f"sha256 {found}, {whose} is {expected}; delete it and get it again")
    if published:
        return Check(key, "good", "as published")
    words = {"found": "it was found on disk", "stated": "its md5 was the publisher's", "unpacked": "it was unpacked"}
    said = words.get(record.trust if record else "", "it was first downloaded; no published hash is known")
    return Check(key, "good", f"as on {record.date if record else '?'}, when {said}")


def _half(what: Entry, file: File, home: Path) -> int:
    part = home / what.folder / f"{file.path}.part"
    return part.stat().st_size if part.is_file() else 0


def _absolute(home: Path | None) -> Path:
    return (data_home() if home is None else home).expanduser().absolute()
