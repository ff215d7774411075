"""One file over HTTP, patiently: what has come is kept, and the next try asks for the rest.

Enters: a URL. Leaves: all bytes the server announced, in `<name>.part` beside the target until pooch has checked
them. A cut connection, a killed process and a busy server (429, 5xx) cost only time; a server that says
something else than before costs a new start. `ResumingDownloader` is a downloader in the sense of pooch.

Source: RFC 9110, sections 10.2.3 (Retry-After), 13.1.5 (If-Range) and 14 (Range).
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visdec_lite import __version__
from visdec_lite.downloads.look import mistaken
from visdec_lite.downloads.room import DownloadError, full, room_for, size
from visdec_lite.files import FULL, atomic_path

if TYPE_CHECKING:
    import requests
    from pooch import Pooch

logger = logging.getLogger(__name__)

CHUNK = 1 << 16  # bytes read at once, at most
PROGRESS = 1 << 20  # so many new bytes and the failures are counted from 0 again
SLOWEST = 1024  # bytes a second; slower than this for a whole time-out counts as no answer
INSTEAD = (
    "what came is {}, expected was the file; open the address in a browser: perhaps the file has moved, or a network "
    "login is in the way"
)
SEEN = {"", "identity", "aws-chunked", "gzip", "x-gzip"}  # codings that change nothing, or that the bytes show
_NUMBER, _ETAG = r"[0-9]{1,18}", r'"[\x21\x23-\x7e]*"'
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that may be another one later


@dataclass(frozen=True)
class Patience:
    """How long to wait for what."""

    timeout: float = 30.0  # seconds: to connect, and without news from the server
    retries: int = 4  # in a row without progress, at one address
    backoff: float = 1.0  # seconds before the first retry; doubles
    longest_wait: float = 120.0  # seconds; a server that asks for more is given up
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


class _Again(Exception):
    """Worth another try, after `wait` seconds if the server said so."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class ResumingDownloader:
    """Bring a URL to `part`, resuming what is there, and hand it over as pooch's temporary file.

    Args:
        part: where the bytes are kept until all are there, also after a crash; beside it lies `<part>.json` with
            what the server said of the file, so that old and new bytes are never mixed.
        known: a hash will be checked afterwards: it decides alone whether this is the file, and bytes of another
            mirror may be continued. Otherwise what is plainly another thing (a web page, nothing) is refused.
        size: bytes, if known beforehand; another length is refused before anything is written.
        patience: time-out, retries and waiting.
        progress: show a bar; in a log file it is one line.

    Raises (when called):
        DownloadError: given up; DiskFull: no room.
    """

    def __init__(
        self,
        part: Path,
        *,
        known: bool = False,
        size: int | None = None,
        patience: Patience | None = None,
        progress: bool = True,
    ) -> None:
        self.part, self.known, self.size = part, known, size
        self.patience = patience or Patience()
        self.progress = progress
        self.notes = part.with_name(f"{part.name}.json")
        self.name = part.name.removesuffix(".part")
        self.resumed = False  # did the last call continue bytes of an earlier answer?

    def __call__(self, url: str, output_file: str, pooch: Pooch | None) -> None:
        """Download `url` to `output_file`, as pooch asks."""
        from visdec_lite.downloads.session import Session
        from visdec_lite.progress import Bar

        Path(output_file).unlink(missing_ok=True)  # pooch made it; a kill from here on leaves only `part`
        self._sweep()
        self.resumed = False
        options = {"unit": "B", "unit_scale": True, "desc": self.name, "disable": not self.progress}
        with Session() as session, Bar(initial=self.have, **options) as bar:
            self._try_until_whole(session, url, bar)
        found = None if self.known else mistaken(self.part, self.name)
        if found:
            self.discard()
            raise DownloadError(f"{url}: {INSTEAD.format(found)}")
        try:  # under both names until pooch has checked and moved one: a kill meanwhile costs nothing
            os.link(self.part, output_file)
        except OSError:
            os.replace(self.part, output_file)

    @property
    def have(self) -> int:
        """Bytes in `part`."""
        return self.part.stat().st_size if self.part.exists() else 0

    def discard(self) -> None:
        """Forget what has come."""
        self.part.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove pooch's name for `part`, left by a process that was killed between download and check."""
        if self.part.exists() and self.part.stat().st_nlink > 1:
            for twin in self.part.parent.glob("tmp*"):
                if twin.samefile(self.part):
                    twin.unlink()

    def _try_until_whole(self, session: requests.Session, url: str, bar: Any) -> None:
        failures, best, patience = 0, self.have, self.patience
        while True:
            try:
                return self._receive(session, url, bar)
            except _Again as trouble:
                failures = 0 if self.have >= best + PROGRESS else failures + 1
                best = max(best, self.have)
                kept = f"; {self.have} bytes are kept, the same command goes on from there" if self.have else ""
                if failures > patience.retries:
                    raise DownloadError(f"{url}: {trouble}; gave up after {patience.retries} retries{kept}") from None
                wait = min(patience.backoff * 2 ** max(failures - 1, 0), patience.longest_wait)
                if trouble.wait is not None:
                    wait = trouble.wait
                if wait > patience.longest_wait:
                    raise DownloadError(
                        f"{url}: {trouble}, and the server asks to come back in {wait:.0f} s, longer than "
                        f"{patience.longest_wait:.0f} s; try again then{kept}"
                    ) from None
                logger.info("%s: %s; trying again in %.0f s", self.name, trouble, wait)
                patience.sleep(wait)

    def _receive(self, session: requests.Session, url: str, bar: Any) -> None:
        """One request: append what comes; return when the file is whole."""
        import requests

        from visdec_lite.downloads.session import proxy_in_words

        headers = {"Accept-Encoding": "identity", "User-Agent": f"visdec_lite/{__version__}"} | self._range(url)
        timeout = self.patience.timeout
        try:
            response = session.get(url, headers=headers, stream=True, timeout=timeout)
        except requests.exceptions.SSLError as error:
            raise DownloadError(f"{url}: the connection is not safe ({error}); check date and certificates") from None
        except requests.exceptions.ProxyError as error:
            proxy = proxy_in_words(error.request.url if error.request else url)
            raise _Again(f"no connection to the {proxy}: {_short(error)}; correct it or unset it") from None
        except requests.exceptions.Timeout:
            through = proxy_in_words(url)
            raise _Again(self._too_slow(f"no answer through the {through}" if through else "no answer")) from None
        except requests.exceptions.ConnectionError as error:
            raise _Again(f"no connection ({_short(error)})") from None
        except requests.exceptions.RequestException as error:
            raise DownloadError(f"{url}: {_short(error)}") from None
        with response:
            start = self._start(response, url, headers)
            if start is None:
                return
            total = self._announced(response, start)
            self._check(response, url, total)
            room_for(self.part.parent, None if total is None else total - start, self.name)
            self._note(response, url, total)
            bar.total, bar.n = total, start
            bar.refresh()
            try:
                self._append(response, start, total, bar)
            except OSError as error:
                if error.errno in FULL:
                    what = f"{self.name} stopped at {size(self.have)}, which are kept"
                    raise full(error, self.part.parent, what) from None
                raise
        expected = self.size if total is None else total
        if expected is not None and self.have != expected:
            raise _Again(f"{self.have} of {expected} bytes came")

    def _range(self, url: str) -> dict[str, str]:
        """Headers that ask for the rest, if there is a beginning that may be continued."""
        if not self.have:
            return {}
        said = self._said()
        if said.get("url") == url:
            same = said.get("etag") or said.get("modified")
            return {"Range": f"bytes={self.have}-"} | ({"If-Range": same} if same else {})
        if self.known:
            return {"Range": f"bytes={self.have}-"}
        self.discard()
        return {}

    def _start(self, response: requests.Response, url: str, asked: dict[str, str]) -> int | None:
        """At which byte the answer begins; None: everything is there already."""
        status, place = response.status_code, response.headers.get("Content-Range", "")
        if status in BUSY:
            raise _Again(f"the server answers {status} ({response.reason})", _retry_after(response))
        if status == 416 and "Range" in asked:
            whole = re.fullmatch(rf"bytes \*/({_NUMBER})", place)
            if whole and int(whole[1]) == self.have:
                self.resumed = True
                return None
            self.discard()
            raise _Again("the file there is another than before", 0)
        if status == 206 and "Range" in asked:
            found = re.fullmatch(rf"bytes ({_NUMBER})-{_NUMBER}/({_NUMBER}|\*)", place)
            total = self._said().get("total")
            if found and int(found[1]) == self.have and (total is None or found[2] in (str(total), "*")):
                self.resumed = True
                return self.have
            self.discard()
            raise _Again(f"the server continues at {place!r}, expected byte {asked['Range'][6:-1]}", 0)
        if status == 407:
            raise DownloadError(f"{url}: the proxy wants a name and a password, as in http_proxy=http://NAME:WORD@HOST")
        if status != 200:
            raise DownloadError(f"{url}: the server answers {status} ({response.reason})")
        if "Range" in asked:
            logger.info("%s: the server does not continue what is there; starting anew", self.name)
        self.discard()
        self.resumed = False
        return 0

    def _announced(self, response: requests.Response, start: int) -> int | None:
        """Bytes of the whole file, as this answer says."""
        length = response.headers.get("Content-Length", "")
        if re.fullmatch(_NUMBER, length):
            return start + int(length)
        return self._said().get("total") if start else None

    def _check(self, response: requests.Response, url: str, total: int | None) -> None:
        """Refuse what cannot be the file, before a byte is written."""
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise DownloadError(f"{url}: sent on to {response.url}, which is not https; refused")
        codings = {word.strip().lower() for word in response.headers.get("Content-Encoding", "").split(",")}
        if not self.known and codings - SEEN:
            raise DownloadError(f"{url}: the server sent the file as {min(codings - SEEN)}, asked for was identity")
        if self.size is not None and total not in (None, self.size):
            raise DownloadError(f"{url}: the server announces {total} bytes, expected {self.size}: another file")

    def _append(self, response: requests.Response, start: int, total: int | None, bar: Any) -> None:
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        patience = self.patience
        since, lately = patience.clock(), 0
        with self.part.open("ab" if start else "wb") as file:
            while True:
                try:
                    chunk = response.raw.read1(CHUNK, decode_content=False)
                except ReadTimeoutError:
                    raise _Again(self._too_slow("nothing came")) from None
                except (HTTPError, HTTPException, OSError) as error:
                    of = "" if total is None else f" of {total}"
                    raise _Again(f"the connection broke at byte {file.tell()}{of} ({type(error).__name__})") from None
                if not chunk:
                    break
                file.write(chunk)
                file.flush()
                bar.update(len(chunk))
                lately += len(chunk)
                if patience.clock() - since >= patience.timeout:
                    if lately < SLOWEST * patience.timeout:
                        raise _Again(self._too_slow(f"{lately} bytes came"))
                    since, lately = patience.clock(), 0
            os.fsync(file.fileno())

    def _too_slow(self, what: str) -> str:
        return f"{what} within {self.patience.timeout:g} s; a slow network may need --timeout 120, or try again later"

    def _said(self) -> dict[str, Any]:
        """What the server said of the file when `part` was begun; nothing where the notes are damaged."""
        try:
            said = json.loads(self.notes.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        kinds = {"url": str, "etag": str, "modified": str, "total": int | None}
        right = isinstance(said, dict) and all(isinstance(said.get(name), kind) for name, kind in kinds.items())
        return said if right else {}

    def _note(self, response: requests.Response, url: str, total: int | None) -> None:
        etag, modified = (response.headers.get(name, "") for name in ("ETag", "Last-Modified"))
        said = {
            "url": url,
            "etag": etag if re.fullmatch(_ETAG, etag) else "",  # a weak one does not promise the same bytes
            "modified": modified if re.fullmatch(r"[\w ,:+-]+", modified, re.ASCII) else "",
            "total": total,
        }
        with atomic_path(self.notes) as temporary:
            temporary.write_text(json.dumps(said), encoding="utf-8")


def _retry_after(response: requests.Response) -> float | None:
    """Seconds the server asks to wait: a number or a date."""
    said = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(_NUMBER, said):
        return float(said)
    try:
        return max((parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def _short(error: Exception) -> str:
    """The innermost reason in a chain of them."""
    reasons = re.findall(r"(?:\[Errno -?\d+\] |Tunnel connection failed: )([^'\")]+)", str(error))
    return reasons[-1] if reasons else str(error)
