"""One file from a server that misbehaves: what arrives is the file, or nothing, and a sentence that helps."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import bad_server
import numpy as np
import pooch
import pytest
import requests
from bad_server import BadServer, cut, drip, hold, no_length, stall, status, whole, wrong_place
from hypothesis import given, settings
from hypothesis import strategies as st

from visdec_lite.downloads import fetch as fetching
from visdec_lite.downloads.fetch import fetch
from visdec_lite.downloads.ledger import Ledger, Record
from visdec_lite.downloads.registry import File
from visdec_lite.downloads.resume import Patience, ResumingDownloader
from visdec_lite.downloads.room import DiskFull, DownloadError

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PAGE = "https://example.org/by-hand"


@pytest.fixture(autouse=True)
def no_proxy_here(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with bad_server.running({"/a.bin": CONTENT, "/b.bin": CONTENT, "/other.bin": OTHER}) as running:
        yield running


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def impatient(slept) -> Patience:
    """Waits are written down, not waited for."""
    return Patience(timeout=5, retries=3, backoff=1, longest_wait=60, sleep=slept.append)


def get(server: BadServer, home: Path, patience: Patience, *paths: str, **known: object) -> Path:
    """Fetch /a.bin, or the mirrors named, to home/set/a.bin; its hash is known unless told otherwise."""
    urls = tuple(server.url + path for path in paths or ("/a.bin",))
    file = File(path="a.bin", urls=urls, **({"sha256": SHA256} | known))
    return fetch(file, home / "set" / "a.bin", Ledger(home), page=PAGE, patience=patience, progress=False)


def left(home: Path) -> list[str]:
    """Visible files of the data set's folder."""
    folder = home / "set"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def ranges(server: BadServer) -> list[str | None]:
    return [seen.range for seen in server.seen]


# what goes well


def test_a_file_arrives_whole_and_is_recorded(server, home, impatient, slept):
    path = get(server, home, impatient)
    assert path.read_bytes() == CONTENT
    assert left(home) == ["a.bin"] and slept == []
    record = Ledger(home).records()["set/a.bin"]
    assert (record.sha256, record.bytes, record.trust) == (SHA256, len(CONTENT), "published")
    assert record.url == f"{server.url}/a.bin"
    assert datetime.now(UTC) - datetime.fromisoformat(record.date) < timedelta(minutes=5)
    (home / "plain").touch()
    assert path.stat().st_mode == (home / "plain").stat().st_mode, "as any file, not private"


def test_a_data_home_of_any_name_is_taken_as_it_stands(server, tmp_path, impatient):
    home = tmp_path.joinpath("{course}", "{0} 100% $HOME ~ #1 ;é☂", "'quoted\"\n<b>&amp;")
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert list(Ledger(home).records()) == ["set/a.bin"] and [path.name for path in tmp_path.iterdir()] == ["{course}"]


def test_what_is_there_and_good_is_not_downloaded_again(server, home, impatient):
    get(server, home, impatient)
    get(server, home, impatient)
    assert len(server.seen) == 1


def test_a_damaged_file_is_replaced_only_by_a_good_one(server, home, impatient):
    path = get(server, home, impatient)
    path.write_bytes(b"damaged")
    server.plan["/a.bin"] = [status(404)]
    with pytest.raises(DownloadError):
        get(server, home, impatient)
    assert path.read_bytes() == b"damaged", "the old file stays until a good one is there"
    assert get(server, home, impatient).read_bytes() == CONTENT


def test_pooch_takes_the_downloader_as_one_of_its_own(server, tmp_path):
    downloader = ResumingDownloader(tmp_path / "a.bin.part", known=True, progress=False)
    path = pooch.retrieve(
        f"{server.url}/a.bin", f"sha256:{SHA256}", path=tmp_path, fname="a.bin", downloader=downloader
    )
    assert Path(path).read_bytes() == CONTENT


def test_a_bar_counts_the_bytes_and_starts_where_the_file_was_cut(server, home, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, **options):
            self.options, self.n, self.total, self.starts = options, options["initial"], None, []
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def refresh(self):
            self.starts.append((self.n, self.total))

        def update(self, count):
            self.n += count

    monkeypatch.setattr("visdec_lite.progress.Bar", Bar)
    server.plan["/a.bin"] = [cut(100_000, rudely=False)]
    file = File(path="a.bin", urls=(f"{server.url}/a.bin",), sha256=SHA256)
    patience = Patience(sleep=lambda seconds: None)
    fetch(file, home / "set/a.bin", Ledger(home), page=PAGE, patience=patience)
    (bar,) = bars
    assert bar.n == len(CONTENT) and bar.options["desc"] == "a.bin"
    assert bar.starts == [(0, 300_000), (100_000, 300_000)]
    assert bar.options["disable"] is False


# a connection that breaks


@pytest.mark.parametrize("rudely", [True, False], ids=["reset", "closed"])
def test_a_cut_connection_is_resumed(server, home, impatient, rudely):
    server.plan["/a.bin"] = [cut(100_000, rudely=rudely)]
    assert hashlib.sha256(get(server, home, impatient).read_bytes()).hexdigest() == SHA256
    assert ranges(server) == [None, "bytes=100000-"]
    assert server.seen[1].headers["if-range"] == bad_server.etag(CONTENT)


def test_fewer_bytes_than_announced_again_and_again_is_an_error_that_keeps_them(server, home, impatient, slept):
    server.plan["/a.bin"] = [cut(100_000, rudely=False)] + 3 * [cut(0, rudely=False)]
    with pytest.raises(
        DownloadError, match=r"broke at byte 100000 of 300000 .*; gave up after 3 retries; 100000 bytes"
    ):
        get(server, home, impatient)
    assert left(home) == ["a.bin.part", "a.bin.part.json"]
    assert slept == [1, 2, 4], "each wait twice the one before"
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert ranges(server)[-1] == "bytes=100000-" and left(home) == ["a.bin"]


def test_a_connection_cut_often_is_no_failure_while_bytes_come(home, impatient, monkeypatch):
    monkeypatch.setattr("visdec_lite.downloads.resume.PROGRESS", 10_000)
    with bad_server.running({"/a.bin": CONTENT}) as server:
        server.plan["/a.bin"] = 10 * [cut(20_000, rudely=False)]  # ten cuts, three retries in a row allowed
        assert get(server, home, impatient).read_bytes() == CONTENT
    assert ranges(server)[1:] == [f"bytes={20_000 * turn}-" for turn in range(1, 11)]


def test_no_server_there_names_every_mirror_and_the_page(home, impatient, slept):
    with bad_server.running({}) as gone:
        pass
    with pytest.raises(DownloadError, match=r"no connection \(Connection refused\); gave up after 3 ret") as error:
        get(gone, home, impatient, "/a.bin", "/b.bin")
    assert all(words in str(error.value) for words in (f"{gone.url}/a.bin", f"{gone.url}/b.bin", PAGE))
    assert left(home) == [] and len(slept) == 6


def test_a_part_of_an_earlier_process_is_continued(server, home, impatient):
    (home / "set").mkdir(parents=True)
    (home / "set/a.bin.part").write_bytes(CONTENT[:1234])
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=1234-"]


def test_a_part_that_is_whole_already_is_only_checked(server, home, impatient):
    (home / "set").mkdir(parents=True)
    (home / "set/a.bin.part").write_bytes(CONTENT)
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=300000-"]


def test_a_part_that_is_too_long_is_begun_anew(server, home, impatient):
    (home / "set").mkdir(parents=True)
    (home / "set/a.bin.part").write_bytes(CONTENT + b"more")
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=300004-", None]


# a server that does not do what was asked


def test_a_server_that_ignores_range_sends_everything_and_nothing_is_doubled(server, home, impatient):
    server.plan["/a.bin"] = [cut(100_000, rudely=False), whole()]
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-"]


def test_a_server_that_continues_elsewhere_is_asked_anew(server, home, impatient):
    server.plan["/a.bin"] = [cut(100_000, rudely=False), wrong_place]
    assert get(server, home, impatient, sha256=None).read_bytes() == CONTENT, "no hash is needed to see that"
    assert ranges(server) == [None, "bytes=100000-", None]


def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one(server, home, impatient):
    server.plan["/a.bin"] = [cut(100_000, rudely=False)]
    server.files["/a.bin"] = OTHER
    with pytest.raises(DownloadError):
        get(server, home, Patience(retries=0), sha256=None)
    server.files["/a.bin"] = CONTENT  # If-Range no longer holds: the server sends all of it
    assert get(server, home, impatient, sha256=None).read_bytes() == CONTENT


def test_a_file_that_changed_its_length_is_begun_anew_though_the_server_gave_no_etag(server, home):
    server.plan["/a.bin"] = [cut(100_000, rudely=False, Server="old")]
    patience = Patience(sleep=lambda seconds: server.files.update({"/a.bin": OTHER[:200_000]}))
    assert get(server, home, patience, sha256=None).read_bytes() == OTHER[:200_000]
    assert ranges(server) == [None, "bytes=100000-", None]


def test_a_weak_etag_is_no_promise_of_the_same_bytes(server, home, impatient):
    date = "Mon, 01 Jan 2024 00:00:00 GMT"
    server.plan["/a.bin"] = [cut(100_000, rudely=False, ETag='W/"x"', Last_Modified=date)]
    get(server, home, impatient)
    assert server.seen[1].headers["if-range"] == date


def test_without_a_hash_bytes_of_one_mirror_are_not_continued_by_another(server, home, impatient):
    server.plan["/other.bin"] = [cut(100_000, rudely=False)] + 3 * [cut(0, rudely=False)]
    assert get(server, home, impatient, "/other.bin", "/b.bin", sha256=None).read_bytes() == CONTENT
    assert server.seen[-1].path == "/b.bin" and server.seen[-1].range is None


def test_with_a_hash_another_mirror_continues(server, home, impatient):
    server.plan["/a.bin"] = [cut(100_000, rudely=False)] + 3 * [cut(0, rudely=False)]
    assert get(server, home, impatient, "/a.bin", "/b.bin").read_bytes() == CONTENT
    assert server.seen[-1].path == "/b.bin" and server.seen[-1].range == "bytes=100000-"


def test_parts_that_do_not_fit_together_are_thrown_away_once(server, home, impatient, caplog):
    (home / "set").mkdir(parents=True)
    (home / "set/a.bin.part").write_bytes(OTHER[:1000])
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=1000-", None]
    assert "does not fit together from its parts" in caplog.text


def test_a_wrong_file_that_is_always_cut_ends_too(server, home, impatient):
    server.files["/a.bin"] = OTHER
    server.plan["/a.bin"] = [behave for _ in range(9) for behave in (cut(100_000, rudely=False), bad_server.well)]
    with pytest.raises(DownloadError, match="refused, SHA256"):
        get(server, home, impatient)
    assert ranges(server) == 2 * [None, "bytes=100000-"] and left(home) == []


def test_a_length_that_is_not_announced_is_taken_and_checked_by_hash(server, home, impatient):
    server.plan["/a.bin"] = [no_length()]
    assert get(server, home, impatient).read_bytes() == CONTENT


def test_a_cut_is_seen_without_an_announcement_if_the_size_is_known(server, home, impatient, slept):
    server.plan["/a.bin"] = [no_length(100_000)]
    assert get(server, home, impatient, sha256=None, size=300_000).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-"] and slept == [1]


# a wrong file


def test_a_wrong_file_is_refused_and_nothing_is_left(server, home, impatient):
    server.plan["/a.bin"] = [whole(OTHER)]
    found = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(DownloadError, match=rf"refused, .*expected sha256:{SHA256} but got {found}"):
        get(server, home, impatient)
    assert left(home) == [] and Ledger(home).records() == {}


def test_a_wrong_file_on_one_mirror_does_not_matter_if_the_next_is_right(server, home, impatient, caplog):
    assert get(server, home, impatient, "/other.bin", "/b.bin").read_bytes() == CONTENT
    assert "trying the next mirror" in caplog.text


LOGIN = b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>...</body></html>"
XHTML = b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">\n<html/>'
EXPIRED = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
INSTEAD = {  # body, Content-Type, what it is called
    "login page": (LOGIN, "text/html; charset=utf-8", "a web page"),
    "login page in capitals": (LOGIN.upper(), "Text/HTML", "a web page"),
    "login page as XHTML": (XHTML, "application/xhtml+xml", "a web page"),
    "login page as text": (b"\r\n  " + LOGIN, "text/plain", "a web page"),
    "login page as data": (b"\xef\xbb\xbf" + LOGIN, "application/octet-stream", "a web page"),
    "login page of no type": (LOGIN, "", "a web page"),
    "login page in UTF-16": (LOGIN.decode().encode("utf-16"), "text/html", "a web page"),
    "login page in Latin-1": (LOGIN.replace(b"...", b"caf\xe9"), "text/html", "a web page"),
    "login page, compressed": (gzip.compress(LOGIN), "text/html", "gzip-compressed"),
    "JSON": (b'{"message": "not found"}', "application/json", "a JSON message"),
    "JSON list": (b' [{"error": 401}]', "text/plain", "a JSON message"),
    "XML of a storage": (EXPIRED, "application/xml", "an XML message"),
    "XML without a head": (b"<Error><Code>SignatureDoesNotMatch</Code></Error>", "", "an XML message"),
    "a sentence": (b"Please log in to the network of this hotel.\n", "text/plain", "plain text"),
    "pointer of git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "", "plain text"),
    "nothing": (b"", "application/octet-stream", "empty"),
    "nothing of no type": (b"", "", "empty"),
}


@pytest.mark.parametrize("what", INSTEAD)
def test_what_is_plainly_not_the_file_is_neither_placed_nor_recorded(server, home, impatient, what):
    body, kind, words = INSTEAD[what]
    headers = {"Content_Type": kind} if kind else {}
    server.plan["/a.bin"] = [whole(body, **headers)]
    with pytest.raises(DownloadError, match=rf"what came is {words}, expected was the file; open the address in a br"):
        get(server, home, impatient, sha256=None)
    assert left(home) == [] and Ledger(home).records() == {}
    assert get(server, home, impatient, sha256=None).read_bytes() == CONTENT, "the right file is taken later"
    server.plan["/b.bin"] = [whole(body, **headers)]
    with pytest.raises(DownloadError, match=rf"refused, what came is {words}"):  # a known hash decides, the same words
        fetch_b(server, home, impatient, SHA256)
    assert left(home) == ["a.bin"]


def fetch_b(server: BadServer, home: Path, patience: Patience, sha256: str | None, name: str = "b.bin") -> Path:
    """Fetch /b.bin under another name."""
    file = File(path=name, urls=(f"{server.url}/b.bin",), sha256=sha256)
    return fetch(file, home / "set" / name, Ledger(home), page=PAGE, patience=patience, progress=False)


@pytest.mark.parametrize("sha256", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("kind", ["text/html", "application/json", "text/plain", "nonsense"])
def test_the_bytes_count_not_what_they_are_called(server, home, impatient, sha256, kind):
    server.plan["/a.bin"] = [whole(Content_Type=kind)]
    assert get(server, home, impatient, sha256=SHA256 if sha256 else None).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("config.json", b'{"hidden_size": 768}', None),
        ("config.json", LOGIN, "a web page"),
        ("config.json", b"Entry not found", "plain text"),
        ("config.json", CONTENT, "binary"),
        ("labels.txt", b"face\nhouse\n", None),
        ("labels.txt", LOGIN, "a web page"),
        ("surface.gii", EXPIRED.replace(b"Error", b"GIFTI"), None),
        ("bold.nii.gz", gzip.compress(CONTENT), None),
        ("bold.nii.gz", CONTENT, "binary"),
        ("weights.safetensors", b"\x40\0\0\0\0\0\0\0" + b'{"weight": 0}', None),
        ("README", b"read me", None),
    ],
)
def test_what_a_file_may_be_depends_on_its_name(server, home, impatient, name, body, words):
    server.files["/b.bin"] = body
    if words is None:
        assert fetch_b(server, home, impatient, None, name).read_bytes() == body
        return
    with pytest.raises(DownloadError, match=f"what came is {words}, expected was the file"):
        fetch_b(server, home, impatient, None, name)


def test_a_page_placed_by_hand_or_recorded_long_ago_is_not_taken_for_the_file(server, home, impatient):
    (home / "set").mkdir(parents=True)
    (home / "set/a.bin").write_bytes(LOGIN)
    with pytest.raises(DownloadError, match=r"a.bin is a web page, not the file; delete it, and the same command gets"):
        get(server, home, impatient, sha256=None)
    record = Record("", hashlib.sha256(LOGIN).hexdigest(), len(LOGIN), "2020", "first use")
    Ledger(home).record({"set/a.bin": record})
    with pytest.raises(DownloadError, match=r"is a web page, .*delete it, take 'set/a.bin' out of .*lock.json"):
        get(server, home, impatient, sha256=None)
    assert (home / "set/a.bin").read_bytes() == LOGIN, "what a person placed is not thrown away"


def test_a_known_length_is_checked_before_anything_is_written(server, home, impatient):
    with pytest.raises(DownloadError, match="announces 300000 bytes, expected 299999: another file"):
        get(server, home, impatient, size=299_999)
    assert left(home) == []


@pytest.mark.parametrize("coding", ["", "Identity", "aws-chunked", "x-gzip", "gzip", "br", "aws-chunked, gzip", ","])
def test_what_a_server_calls_good_bytes_does_not_matter_to_a_known_hash(server, home, impatient, coding):
    server.plan["/a.bin"] = [whole(Content_Encoding=coding)]
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert server.seen[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["", "Identity", "aws-chunked", "x-gzip"])
def test_without_a_hash_the_bytes_tell_whether_an_answer_is_compressed(server, home, impatient, coding):
    server.plan["/a.bin"] = [whole(gzip.compress(CONTENT), Content_Encoding=coding)]
    with pytest.raises(DownloadError, match="what came is gzip-compressed"):
        get(server, home, impatient, sha256=None)
    server.plan["/a.bin"] = [whole(Content_Encoding=coding)]
    assert get(server, home, impatient, sha256=None).read_bytes() == CONTENT


def test_a_coding_that_the_bytes_do_not_show_is_refused_without_a_hash(server, home, impatient):
    server.plan["/a.bin"] = [whole(Content_Encoding="aws-chunked, BR")]
    with pytest.raises(DownloadError, match="sent the file as br, asked for was identity"):
        get(server, home, impatient, sha256=None)


def test_a_safe_address_that_sends_on_to_an_unsafe_one_is_refused(home):
    answer = SimpleNamespace(url="http://example.org/a.bin", headers={})
    with pytest.raises(DownloadError, match=r"sent on to http://example.org/a.bin, which is not https; refused"):
        ResumingDownloader(home / "a.bin.part")._check(answer, "https://example.org/a.bin", None)


# trust on first use


def test_an_unknown_hash_is_recorded_and_later_downloads_must_have_it(server, home, impatient, caplog):
    caplog.set_level(logging.INFO)
    path = get(server, home, impatient, sha256=None)
    record = Ledger(home).records()["set/a.bin"]
    assert (record.trust, record.sha256) == ("first use", SHA256)
    assert "no published hash is known" in caplog.text and SHA256 in caplog.text
    path.unlink()
    server.files["/a.bin"] = OTHER
    with pytest.raises(DownloadError, match=r"recorded on 20.*take 'set/a.bin' out of .*downloads.lock.json to trust"):
        get(server, home, impatient, sha256=None)
    assert left(home) == []
    content = json.loads(Ledger(home).path.read_text())
    del content["files"]["set/a.bin"]  # what the message says
    Ledger(home).path.write_text(json.dumps(content))
    assert get(server, home, impatient, sha256=None).read_bytes() == OTHER


def test_a_file_placed_by_hand_is_kept_and_recorded(server, home, impatient):
    (home / "set").mkdir(parents=True)
    (home / "set/a.bin").write_bytes(OTHER)
    assert get(server, home, impatient, sha256=None).read_bytes() == OTHER
    assert server.seen == [] and Ledger(home).records()["set/a.bin"].trust == "found"


def test_a_lock_file_that_cannot_be_read_is_an_error_with_a_way_out(server, home, impatient):
    home.mkdir()
    for words in ("{", "[]", '{"files": {"a": {"colour": 1}}}', '{"files": 3}'):
        Ledger(home).path.write_text(words)
        with pytest.raises(ValueError, match=r"downloads.lock.json cannot be read .*repair it, or delete it"):
            get(server, home, impatient)


@pytest.mark.parametrize("md5", ["right", "wrong", "none"])
def test_figshare_is_asked_for_address_size_and_md5(server, home, impatient, monkeypatch, md5):
    stated = {"right": hashlib.md5(CONTENT).hexdigest(), "wrong": "0" * 32, "none": ""}[md5]
    listed = [
        {"name": "b.bin", "download_url": f"{server.url}/other.bin", "size": 1, "computed_md5": ""},
        {"name": "a.bin", "download_url": f"{server.url}/b.bin", "size": 300_000, "computed_md5": stated},
    ]
    server.files["/articles/7"] = json.dumps(listed).encode()
    server.plan["/articles/7"] = [status(429)]
    monkeypatch.setattr(fetching, "FIGSHARE", server.url + "/articles/{article}")
    if md5 == "wrong":
        with pytest.raises(DownloadError, match=r"MD5 hash .* does not match the known hash: expected md5:0000"):
            get(server, home, impatient, sha256=None, article=7)
        assert left(home) == []
        return
    path = get(server, home, impatient, sha256=None, article=7)
    assert path.read_bytes() == CONTENT and server.seen[-1].path == "/b.bin"
    assert Ledger(home).records()["set/a.bin"].trust == {"right": "stated", "none": "first use"}[md5]


def test_a_file_that_figshare_does_not_list_and_no_mirror_has(server, home, impatient, monkeypatch):
    server.files["/articles/7"] = b"[]"
    monkeypatch.setattr(fetching, "FIGSHARE", server.url + "/articles/{article}")
    with pytest.raises(DownloadError, match=r"no single file a.bin in figshare's answer(.|\n)*/gone: .* answers 404"):
        get(server, home, impatient, "/gone", article=7)


# a server that says no


def test_404_is_not_asked_again(server, home, impatient, slept):
    with pytest.raises(
        DownloadError, match=rf"/gone: the server answers 404 (.|\n)*By hand: {PAGE}, then place .*a.bin"
    ):
        get(server, home, impatient, "/gone")
    assert len(server.seen) == 1 and slept == []


def test_404_on_one_mirror_goes_to_the_next(server, home, impatient):
    assert get(server, home, impatient, "/gone", "/b.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_after_a_while(server, home, impatient, slept, code):
    server.plan["/a.bin"] = [status(code), status(code)]
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert slept == [1, 2]


def test_busy_to_the_end_tells_the_number(server, home, impatient):
    server.plan["/a.bin"] = 9 * [status(503)]
    with pytest.raises(DownloadError, match=r"answers 503 .*gave up after 3 retries"):
        get(server, home, impatient)
    assert len(server.seen) == 4


def test_retry_after_is_kept_to(server, home, impatient, slept):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    server.plan["/a.bin"] = [status(429, Retry_After="17"), status(503, Retry_After=date), status(503, Retry_After="x")]
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert slept[0] == 17 and 35 < slept[1] <= 40 and slept[2] == 4


def test_a_retry_after_beyond_patience_is_told_not_waited_for(server, home, impatient, slept):
    server.plan["/a.bin"] = [status(429, Retry_After="3600")]
    with pytest.raises(DownloadError, match=r"429 .*asks to come back in 3600 s, longer than 60 s; try again then"):
        get(server, home, impatient)
    assert slept == []


def test_an_address_that_is_none_is_told(home, impatient):
    file = File(path="a.bin", urls=("nonsense",))
    with pytest.raises(DownloadError, match="nonsense: Invalid URL"):
        fetch(file, home / "set/a.bin", Ledger(home), page=PAGE, patience=impatient, progress=False)


# a slow server


def test_silence_is_a_time_out_with_a_way_out(server, home, slept):
    done = threading.Event()
    server.plan["/a.bin"] = 2 * [stall(50_000, done)]
    patience = Patience(timeout=0.3, retries=1, sleep=slept.append)
    with pytest.raises(DownloadError, match=r"nothing came within 0.3 s; .* --timeout 120.*; 50000 bytes are kept"):
        get(server, home, patience)
    done.set()
    assert get(server, home, patience).read_bytes() == CONTENT


def test_no_answer_at_all_is_a_time_out(server, home, slept):
    done = threading.Event()
    server.plan["/a.bin"] = 2 * [hold(done)]
    with pytest.raises(DownloadError, match=r"no answer within 0.3 s; a slow network may need --timeout 120"):
        get(server, home, Patience(timeout=0.3, retries=1, sleep=slept.append))
    done.set()


def test_a_byte_now_and_then_is_a_time_out_too(server, home, slept):
    done = threading.Event()
    server.plan["/a.bin"] = [drip(0.01, done)]
    with pytest.raises(DownloadError, match=r"\d+ bytes came within 0.4 s"):
        get(server, home, Patience(timeout=0.4, retries=0, sleep=slept.append))
    done.set()


# a full disk


def test_too_little_room_is_told_before_the_start(server, home, impatient, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=12_345))
    with pytest.raises(DiskFull, match=r"a.bin needs 300 kB, 12.3 kB are free in .*set; make room, or .*--to or VISD"):
        get(server, home, impatient, "/a.bin", "/b.bin")
    assert left(home) == [] and len(server.seen) == 1, "no other mirror is asked"


def test_only_the_rest_has_to_fit(server, home, impatient, monkeypatch):
    (home / "set").mkdir(parents=True)
    (home / "set/a.bin.part").write_bytes(CONTENT[:290_000])
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=12_345))
    assert get(server, home, impatient).read_bytes() == CONTENT


def test_a_disk_that_fills_up_midway_keeps_what_came(server, home, impatient, monkeypatch):
    original = Path.open

    class Full:
        """A file on a disk with room for 100 kB."""

        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, chunk):
            if self.file.tell() + len(chunk) > 100_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(chunk)

    def opened(self, mode="r", **options):
        file = original(self, mode, **options)
        return Full(file) if self.suffix == ".part" else file

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(DiskFull, match=r"takes no more \(No space left on device\): a.bin stopped at .* same command"):
        get(server, home, impatient)
    kept = (home / "set/a.bin.part").stat().st_size
    assert 0 < kept <= 100_000 and left(home) == ["a.bin.part", "a.bin.part.json"]
    monkeypatch.setattr(Path, "open", original)
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert ranges(server)[-1] == f"bytes={kept}-"


FETCH = """
import sys
from pathlib import Path
from visdec_lite.downloads.fetch import fetch
from visdec_lite.downloads.ledger import Ledger, Record
from visdec_lite.downloads.registry import File
url, home, sha256 = sys.argv[1:]
fetch(File(path="a.bin", urls=(url,), sha256=sha256), Path(home) / "set/a.bin", Ledger(Path(home)), page="")
"""


def process(server: BadServer, home: Path, code: str = FETCH) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", code, f"{server.url}/a.bin", str(home), SHA256]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_limit_of_the_system_midway_is_told_and_the_rest_comes_later(server, home, impatient):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    limited = process(server, home, FETCH.replace("url, home", f"{limit}url, home"))
    error = limited.communicate(timeout=30)[1]
    assert limited.returncode == 1 and "the disk takes no more (File too large): a.bin stopped at" in error
    assert left(home) == ["a.bin.part", "a.bin.part.json"]
    kept = (home / "set/a.bin.part").stat().st_size
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert ranges(server) == [None, f"bytes={kept}-"] and 0 < kept <= 100_000


# processes


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of POSIX")
def test_a_process_killed_midway_leaves_a_part_that_the_next_one_continues(server, home, impatient):
    done = threading.Event()
    server.plan["/a.bin"] = [stall(120_000, done)]
    part = home / "set/a.bin.part"
    killed = process(server, home)
    wait_for(lambda: part.exists() and part.stat().st_size == 120_000)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=10)
    done.set()
    assert killed.returncode == -signal.SIGKILL
    assert left(home) == ["a.bin.part", "a.bin.part.json"], "no half file under the final name, no other litter"
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=120000-"] and left(home) == ["a.bin"]


def test_what_a_kill_while_checking_leaves_is_used_and_swept(server, home, impatient):
    (home / "set").mkdir(parents=True)
    (home / "set/a.bin.part").write_bytes(CONTENT)
    (home / "set/tmpabc").hardlink_to(home / "set/a.bin.part")
    (home / "set/tmp_of_others").write_bytes(CONTENT)
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=300000-"] and left(home) == ["a.bin", "tmp_of_others"]


def test_what_a_kill_at_the_very_end_leaves_is_swept(server, home, impatient):
    (home / "set").mkdir(parents=True)
    (home / "set/a.bin").write_bytes(CONTENT)
    (home / "set/a.bin.part").hardlink_to(home / "set/a.bin")
    (home / "set/a.bin.part.json").write_text("{}")
    assert get(server, home, impatient).read_bytes() == CONTENT
    assert server.seen == [] and left(home) == ["a.bin"]


def test_two_processes_at_once_download_once(server, home):
    go = threading.Event()
    server.plan["/a.bin"] = [hold(go)]
    two = [process(server, home), process(server, home)]
    wait_for(lambda: len(server.seen) == 1)
    time.sleep(0.3)  # time for the other to come, and to wait
    go.set()
    errors = [one.communicate(timeout=30)[1] for one in two]
    assert [one.returncode for one in two] == [0, 0], errors
    assert len(server.seen) == 1, "the second found the file of the first"
    assert (home / "set/a.bin").read_bytes() == CONTENT and left(home) == ["a.bin"]


def test_threads_at_once_download_once_and_all_get_the_file(server, home, impatient, caplog):
    caplog.set_level(logging.INFO)
    server.plan["/a.bin"] = [cut(100_000, rudely=False)]
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(get(server, home, impatient))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 4 and (home / "set/a.bin").read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-"]
    assert "another process downloads set/a.bin; waiting for it" in caplog.text


def test_different_files_at_once_are_all_recorded(home, impatient):
    files = {f"/{number}.bin": bytes([number]) * 1000 for number in range(8)}
    with bad_server.running(files) as server:

        def one(name: str) -> None:
            file = File(path=name[1:], urls=(server.url + name,))
            fetch(file, home / "set" / name[1:], Ledger(home), page=PAGE, patience=impatient, progress=False)

        threads = [threading.Thread(target=one, args=(name,)) for name in files]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert len(Ledger(home).records()) == 8


# passwords and proxies


def test_no_password_of_netrc_is_sent_to_a_mirror_nor_where_it_sends_on_to(server, home, impatient, monkeypatch):
    (home.parent / ".netrc").write_text("default login student password secret\n")
    (home.parent / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(home.parent))
    monkeypatch.delenv("NETRC", raising=False)
    with bad_server.running({"/signed": CONTENT}) as storage:
        assert requests.get(f"{storage.url}/signed").request.headers["Authorization"], "requests itself would"
        server.plan["/a.bin"] = [status(302, Location=storage.url.replace("127.0.0.1", "localhost") + "/signed?key=1")]
        storage.files["/signed?key=1"] = CONTENT
        assert get(server, home, impatient).read_bytes() == CONTENT
        assert [seen.path for seen in storage.seen][1:] == ["/signed?key=1"]
        assert not any("authorization" in seen.headers for seen in [*server.seen, *storage.seen[1:]])


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_dead_proxy_is_named_as_such_without_its_password(home, impatient, monkeypatch, scheme):
    with bad_server.running({}) as gone:
        pass
    monkeypatch.setenv(f"{scheme}_proxy", gone.url.replace("//", "//student:secret@"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    file = File(path="a.bin", urls=(f"{scheme}://nowhere.invalid/a.bin",), sha256=SHA256)
    found = rf"no connection to the proxy {gone.url} \({scheme}_proxy\): Connection refused; correct it or unset it"
    with pytest.raises(DownloadError, match=found) as error:
        fetch(file, home / "set/a.bin", Ledger(home), page=PAGE, patience=impatient, progress=False)
    assert "secret" not in str(error.value)


def test_a_proxy_that_wants_a_password_is_told(server, home, impatient, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    server.plan["/a.bin"] = [status(407)]
    file = File(path="a.bin", urls=("http://nowhere.invalid/a.bin",), sha256=SHA256)
    with pytest.raises(DownloadError, match="the proxy wants a name and a password"):
        fetch(file, home / "set/a.bin", Ledger(home), page=PAGE, patience=impatient, progress=False)


def test_a_proxy_named_in_the_environment_is_used(server, home, impatient, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    file = File(path="a.bin", urls=("http://nowhere.invalid/a.bin",), sha256=SHA256)
    fetch(file, home / "set/a.bin", Ledger(home), page=PAGE, patience=impatient, progress=False)
    assert [seen.path for seen in server.seen] == ["http://nowhere.invalid/a.bin"]
    assert server.seen[0].headers["user-agent"].startswith("visdec_lite/")


# whatever a server says

SMALL = CONTENT[:3000]
odd_words = st.sampled_from(["", "²", "-1", "9" * 30, "9" * 5000, "1, 2", '"x', "W/", "bytes */*", "bytes ²-3/4"])
words = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40)
odd_headers = st.dictionaries(
    st.sampled_from(["Content_Type", "Content_Encoding", "ETag", "Last_Modified", "Content_Range", "Retry_After"]),
    odd_words | words,
)
bodies = st.sampled_from([body for body, _, _ in INSTEAD.values()]) | st.text("<>{}[] abc\n\té", max_size=99).map(
    str.encode
)


@pytest.mark.parametrize("known", [True, False])
def test_whatever_a_server_says_the_file_or_a_sentence_comes(tmp_path_factory, known):
    """Bad headers, a wrong body and cuts in any order: the file is in place, or nothing is, and nothing is recorded."""
    patience = Patience(timeout=5, retries=1, sleep=lambda seconds: None)
    sha256 = hashlib.sha256(SMALL).hexdigest()

    @settings(derandomize=True, deadline=None, max_examples=60)
    @given(headers=odd_headers, body=bodies | st.none(), cuts=st.integers(0, 2))
    def fetched(headers, body, cuts) -> None:
        home = tmp_path_factory.mktemp("data")
        server.plan["/a.bin"] = [*cuts * [cut(1000, rudely=False, **headers)], *2 * [whole(body, **headers)]]
        try:
            found = get(server, home, patience, sha256=sha256 if known else None)
        except DownloadError:
            assert not (home / "set/a.bin").exists() and Ledger(home).records() == {}
            server.plan.clear()  # the same command, on a good day
            found = get(server, home, patience, sha256=sha256 if known else None)
        assert found.read_bytes() == SMALL and Ledger(home).records()["set/a.bin"].sha256 == sha256

    with bad_server.running({"/a.bin": SMALL}) as server:
        fetched()
