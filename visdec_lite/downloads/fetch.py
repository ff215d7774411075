"""One file of the registry: from its mirrors to its place, checked, or not there at all.

Enters: a `File` and the lock file. Leaves: the file in its place, with a record. pooch decides whether it is
needed, checks the hash and moves it into place; what this module adds are mirrors, a lock so that two downloads of
one file wait for each other, and trust on first use where no hash is known.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from visdec_lite.downloads.ledger import Ledger, Record, today
from visdec_lite.downloads.look import mistaken
from visdec_lite.downloads.registry import File
from visdec_lite.downloads.resume import INSTEAD, Patience, ResumingDownloader
from visdec_lite.downloads.room import DiskFull, DownloadError
from visdec_lite.files import sha256_of

logger = logging.getLogger(__name__)

FIGSHARE = "https://api.figshare.com/v2/articles/{article}/files?page_size=1000"


@dataclass(frozen=True)
class Known:
    """What a download has to agree with: a hash as pooch writes it (`sha256:...`), and who says so."""

    hash: str | None
    trust: str  # as in Record
    date: str = ""  # of the first use


def fetch(
    file: File,
    target: Path,
    ledger: Ledger,
    *,
    page: str,
    patience: Patience | None = None,
    progress: bool = True,
) -> Path:
    """Have `file` at `target`.

    Args:
        file: what, and from where.
        target: its final name, below the data home of `ledger`. The file is whole there or not there; what has come
            of it meanwhile is kept as `<name>.part`.
        ledger: the lock file; the download is recorded in it.
        page: where a person can get the file by hand, for the error message.
        patience, progress: as in `ResumingDownloader`.

    Returns:
        `target`.

    Raises:
        DownloadError: every mirror failed (the message tells each one's reason), or another file came than the one
            known; then nothing is left in place. DiskFull: no room.
    """
    key = ledger.key(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with ledger.locked(key):
        record = ledger.records().get(key) or (ledger.unpacked(key) or (None,))[0]
        part = target.with_name(f"{target.name}.part")
        if target.exists() and _is_good(file, target, ledger, record):
            ResumingDownloader(part).discard()  # of a process that was killed at the very end
            return target
        failures: list[str] = []
        try:
            source = _ask_figshare(file, patience or Patience()) if file.article is not None else file
        except DownloadError as error:
            failures, source = [str(error)], file
        known = _known(file, record, source)
        downloader = ResumingDownloader(
            part,
            known=known.hash is not None,
            size=source.size,
            patience=patience,
            progress=progress,
        )
        for url in source.urls:
            try:
                _fetch_from(url, key, known, downloader, ledger)
                return target
            except DiskFull:
                raise
            except DownloadError as error:
                failures.append(str(error))
                if url != source.urls[-1]:
                    logger.warning("%s; trying the next mirror", error)
    reasons = "".join(f"\n  {failure}" for failure in failures)
    raise DownloadError(
        f"{key} could not be downloaded; tried:{reasons}\n"
        f"The same command tries again. By hand: {page}, then place the file as {target}"
    )


def _is_good(file: File, target: Path, ledger: Ledger, record: Record | None) -> bool:
    """Is what lies there the file? One nothing is known of is taken as it is, if it may be the file, and recorded."""
    other = None if file.sha256 or (record and record.trust in ("published", "stated")) else mistaken(target)
    if other:
        again = f", take {ledger.key(target)!r} out of {ledger.path}" if record else ""
        raise DownloadError(f"{target} is {other}, not the file; delete it{again}, and the same command gets it")
    found = sha256_of(target)
    expected = file.sha256 or (record.sha256 if record else None)
    if expected not in (None, found):
        logger.warning("%s has sha256 %s, expected %s: downloading it anew", target, found, expected)
        return False
    if record is None:
        trust = "published" if file.sha256 else "found"
        ledger.record({ledger.key(target): Record("", found, target.stat().st_size, today(), trust)})
    logger.info("%s is there already", target)
    return True


def _known(file: File, record: Record | None, source: File) -> Known:
    if file.sha256:
        return Known(f"sha256:{file.sha256}", "published")
    if record is not None:
        return Known(f"sha256:{record.sha256}", record.trust, record.date)
    md5 = getattr(source, "md5", None)
    return Known(f"md5:{md5}", "stated") if md5 else Known(None, "first use")


def _fetch_from(url: str, key: str, known: Known, downloader: ResumingDownloader, ledger: Ledger) -> None:
    """One mirror. A wrong hash gets a second chance if the bytes came in more than one answer."""
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)  # says more than is asked here
    target = ledger.home / key
    manager = pooch.Pooch(path=ledger.home, base_url="", registry={key: known.hash}, urls={key: url})
    for last_chance in (False, True):
        try:
            manager.fetch(key, downloader=downloader)
            break
        except ValueError as error:  # pooch: not the hash it should have; nothing was put in place
            other = mistaken(downloader.part, key) if downloader.part.exists() else None
            downloader.discard()
            if last_chance or not downloader.resumed:
                raise DownloadError(_wrong(url, key, known, error, ledger, other)) from None
            logger.warning("%s does not fit together from its parts; starting anew", key)
    downloader.discard()
    digest = known.hash.removeprefix("sha256:") if known.hash and known.hash.startswith("sha256:") else None
    digest = digest or sha256_of(target)
    ledger.record({key: Record(url, digest, target.stat().st_size, today(), known.trust)})
    if known.trust in ("first use", "stated"):
        whose = "no published hash is known" if known.trust == "first use" else "its md5 fits the one figshare states"
        logger.info("%s: %s; sha256 %s is recorded, later downloads must have it too", key, whose, digest)


def _wrong(url: str, key: str, known: Known, error: ValueError, ledger: Ledger, other: str | None) -> str:
    if other:
        return f"{url}: refused, {INSTEAD.format(other)}"
    reason = str(error).split(". Deleted")[0]
    if known.date:
        return (
            f"{url}: refused, {reason} (the one recorded on {known.date}). If the publisher has replaced the file, "
            f"take {key!r} out of {ledger.path} to trust the new one"
        )
    return f"{url}: refused, {reason}; nothing was left in place"


@dataclass(frozen=True)
class _Stated(File):
    """A file as figshare's interface states it."""

    md5: str | None = None


def _ask_figshare(file: File, patience: Patience) -> _Stated:
    """Address, size and md5 of a file of a public article, by its name."""
    url = FIGSHARE.format(article=file.article)
    with TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        ResumingDownloader(Path(scratch) / "files.json.part", patience=patience, progress=False)(url, str(answer), None)
        try:
            (one,) = [one for one in json.loads(answer.read_bytes()) if one["name"] == file.path]
            return _Stated(
                path=file.path,
                urls=(str(one["download_url"]), *file.urls),
                size=int(one["size"]),
                md5=one.get("computed_md5") or one.get("supplied_md5") or None,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DownloadError(f"{url}: no single file {file.path} in figshare's answer ({error})") from None
