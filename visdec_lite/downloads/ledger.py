"""The lock file: what was downloaded, from where, with which hash, and which licences were accepted.

In: the data home. Out: `downloads.lock.json` in it, written whole or not at all, by one process at a time. A file
without a published hash is trusted on first use: its SHA-256 is recorded here, and whatever comes later under
the same name must have it too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from visdec_lite.files import LEDGER, atomic_path

logger = logging.getLogger(__name__)

LOCKS = ".locks"  # folder of the data home; the locks in it are free when their process ends, however it ends


@dataclass(frozen=True)
class Record:
    """One file on disk.

    Attributes:
        url: where it came from; empty if it was found on disk.
        sha256: of its bytes.
        bytes: how many.
        date: of the download, ISO, UTC.
        trust: `published`: the hash was known beforehand. `stated`: the publisher's own interface gave an md5, which
            fitted. `first use`: this was the first download, and nothing was known to compare it with. `found`: it lay
            there already. `unpacked`: it came out of an archive that was checked in one of these ways.
    """

    url: str
    sha256: str
    bytes: int
    date: str
    trust: str


class Ledger:
    """Reads and writes the lock file of one data home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / LEDGER

    def key(self, path: Path) -> str:
        """Name of a file in the lock file: its place below the data home, with slashes."""
        return path.relative_to(self.home).as_posix()

    def records(self) -> dict[str, Record]:
        """Place below the data home -> what is known of the file."""
        try:
            return {key: Record(**values) for key, values in self._read()["files"].items()}
        except (TypeError, AttributeError) as error:
            raise ValueError(self._broken(error)) from error

    def record(self, found: dict[str, Record]) -> None:
        """Add records, replacing those of the same name."""
        with self._changing() as content:
            content["files"] |= {key: asdict(one) for key, one in found.items()}

    def unpacked(self, archive: str) -> tuple[Record, list[str]] | None:
        """What is known of an archive that is gone since, and its members; None if it was never unpacked."""
        found = self._read()["unpacked"].get(archive)
        try:
            return None if found is None else (Record(**found["record"]), list(found["members"]))
        except (TypeError, KeyError) as error:
            raise ValueError(self._broken(error)) from error

    def record_unpacked(self, archive: str, members: dict[str, Record]) -> None:
        """The archive is gone; its members are there."""
        with self._changing() as content:
            record = content["files"].pop(archive)
            content["files"] |= {key: asdict(one) for key, one in members.items()}
            content["unpacked"][archive] = {"record": record, "members": sorted(members)}

    def accepted(self, name: str, licence: str) -> bool:
        """Whether this very text was accepted before."""
        return self._read()["accepted"].get(name, {}).get("text_sha256") == _hash(licence)

    def accept(self, name: str, licence: str) -> None:
        """Remember that this text was accepted."""
        with self._changing() as content:
            content["accepted"][name] = {"date": today(), "text_sha256": _hash(licence), "text": licence}

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock of that name; another process or thread waits until it is free.

        The lock is the operating system's: it is free at once when its holder is killed.
        """
        from filelock import FileLock, Timeout

        path = self.home / LOCKS / f"{name.replace('/', '--')}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if name != LEDGER:
                logger.info("another process downloads %s; waiting for it", name)
            lock.acquire(poll_interval=0.05)
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        with self.locked(LEDGER):
            content = self._read()
            yield content
            with atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def _read(self) -> dict[str, dict[str, Any]]:
        empty: dict[str, dict[str, Any]] = {"files": {}, "unpacked": {}, "accepted": {}}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return empty
        except (ValueError, OSError) as error:
            raise ValueError(self._broken(error)) from error
        if not isinstance(content, dict) or not all(isinstance(content.get(name, {}), dict) for name in empty):
            raise ValueError(self._broken("not as this program writes it"))
        return empty | content

    def _broken(self, error: object) -> str:
        return (
            f"{self.path} cannot be read ({error}); repair it, or delete it: "
            "then what is downloaded next is trusted anew and licences are asked again"
        )


def today() -> str:
    """The moment, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()
