"""The registry, the archives, the licence, what is on disk, and the words of the command line."""

from __future__ import annotations

import gzip
import hashlib
import inspect
import io
import json
import logging
import os
import re
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import bad_server
import pytest
from bad_server import BadServer, cut, status
from typer.testing import CliRunner, Result

from visdec_lite.datasets import digits69
from visdec_lite.downloads import store
from visdec_lite.downloads.commands import app
from visdec_lite.downloads.ledger import Ledger
from visdec_lite.downloads.registry import REGISTRY, Entry, File, entry
from visdec_lite.downloads.room import DiskFull, DownloadError, size
from visdec_lite.downloads.unpack import unpack

ROOT = Path(__file__).resolve().parent.parent
LICENCE = "only for people who like bytes"
ONE, TWO = b"\x00ne" * 1000, b"\x00wo" * 2000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty data home, named as users name it."""
    monkeypatch.setenv("VISDEC_DATA", str(tmp_path / "data"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "data"


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def server():
    members = {"lists/CSI1/run01.txt": b"rep_a.jpg\n", "betas/LH.npy": ONE, "__MACOSX/lists/._x": b"junk"}
    files = {"/1.h5": ONE, "/2.h5": TWO, "/all.zip": zipped(members), "/bad.zip": zipped({"../out": b"bad"})}
    with bad_server.running(files) as running:
        yield running


@pytest.fixture
def entries(server, monkeypatch) -> dict[str, Entry]:
    """Entries that point at the local server: `small` by subjects, `strict` with a licence, `packed`, `evil`."""
    common = {"title": "bytes", "kind": "http", "citation": "Byte (1956)", "page": "https://example.org"}
    files = tuple(
        File(path=f"S{number}.h5", urls=(f"{server.url}/{number}.h5",), subject=number, megabytes=0.003)
        for number in (1, 2)
    )
    known = File(path="S1.h5", urls=(f"{server.url}/1.h5",), sha256=sha256(ONE))
    made = {
        "small": Entry(name="small", folder="small", licence=LICENCE, files=files, subjects=(1, 2), **common),
        "strict": Entry(
            name="strict",
            folder="strict",
            licence=LICENCE,
            files=(known,),
            must_accept=True,
            verified_here=True,
            **common,
        ),
        "packed": Entry(name="packed", folder="packed", licence="CC0", files=(archive(server, "all"),), **common),
        "evil": Entry(name="evil", folder="evil", licence="CC0", files=(archive(server, "bad"),), **common),
    }
    for name, one in made.items():
        monkeypatch.setitem(REGISTRY, name, one)
    return made


def archive(server: BadServer, name: str) -> File:
    return File(path=f"{name}.zip", urls=(f"{server.url}/{name}.zip",), unpack=True)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def everything(folder: Path) -> list[str]:
    """All files below, with the hidden ones."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


# registry


def test_every_entry_says_what_a_user_must_know():
    assert list(REGISTRY) == [one.name for one in REGISTRY.values()]
    for one in REGISTRY.values():
        assert one.title and one.licence and one.citation and one.page.startswith("https://"), one.name
        assert all(url.startswith("https://") for file in one.files for url in file.urls), one.name
        assert one.verified_here == (one.name == "digits69"), "no other was ever downloaded and hashed by us"


def test_files_lie_where_their_loaders_look():
    places = {one.name: [f"{one.folder}/{file.path}" for file in one.files] for one in REGISTRY.values()}
    assert places["digits69"] == ["digits69/digit69_28x28.mat"]
    assert places["god"] == [f"god/Subject{number}.h5" for number in range(1, 6)]
    assert places["god-features"] == ["god/ImageFeatures.h5"]
    assert {Path(place).parent.name for place in places["bold5000"]} == {"bold5000"}
    assert REGISTRY["miyawaki"].folder == "miyawaki2008" and REGISTRY["haxby"].folder == "haxby2001"
    assert REGISTRY["hcp"].folder == "hcp"


def test_addresses_and_hash_are_those_of_the_method():
    (digits,) = entry("digits69").files
    assert digits.sha256 == digits69.SHA256 and entry("digits69").must_accept
    numbers = (24080120, 24080123, 24080126, 24080129, 24080132)
    for number, file in zip(numbers, entry("god").files, strict=True):
        assert file.urls[0] == f"https://ndownloader.figshare.com/files/{number}"
    assert entry("god-features").files[0].urls[0].endswith("/15015971")
    assert entry("cin256-v2").files[0].urls == ("https://ommer-lab.com/files/latent-diffusion/nitro/cin/model.ckpt",)
    assert all(len(file.urls) >= 2 for name in ("digits69", "god") for file in entry(name).files), "mirrors"


def test_subjects_choose_files():
    assert [file.path for file in entry("god").chosen([3])] == ["Subject3.h5"]
    assert len(entry("god").chosen(None)) == 5
    with pytest.raises(ValueError, match="god has no subject 6; it has 1 to 5"):
        entry("god").chosen([1, 6])
    with pytest.raises(ValueError, match="digits69 comes in one piece, not by subject; leave --subject 1 out"):
        entry("digits69").chosen([1])


def test_an_unknown_name_is_told_with_those_there_are():
    with pytest.raises(ValueError, match=r"called 'godd'; there are digits69, god, .*; did you mean 'god'\?"):
        entry("godd")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", ""])
def test_a_file_of_the_registry_stays_in_its_folder(path):
    with pytest.raises(ValueError, match="expected one that stays below its folder"):
        File(path=path, urls=("https://example.org/x",))


def test_entries_that_contradict_themselves_are_refused():
    common = {"name": "x", "title": "x", "folder": "x", "licence": "x", "citation": "x", "page": "x"}
    with pytest.raises(ValueError, match="a has 0 addresses, expected at least one url"):
        File(path="a")
    with pytest.raises(ValueError, match="of kind nilearn and names no fetcher"):
        Entry(kind="nilearn", **common)
    with pytest.raises(ValueError, match="of kind http with 0 files"):
        Entry(kind="http", **common)
    with pytest.raises(ValueError, match="called verified, but not every file has a sha256"):
        Entry(kind="http", files=(File(path="a", urls=("https://example.org",)),), verified_here=True, **common)


@pytest.mark.parametrize(
    ("count", "words"),
    [(217, "217 bytes"), (2_400_000, "2.4 MB"), (153e6, "153 MB"), (1.8e9, "1.8 GB"), (12_345, "12.3 kB")],
)
def test_sizes_for_people(count, words):
    assert size(count) == words


# get


def test_get_takes_one_subject_or_all(server, entries, home):
    assert store.get("small", subjects=[2]) == [home / "small/S2.h5"]
    assert store.on_disk(entries["small"]) == store.OnDisk(files=1, of=2, bytes=len(TWO), half=0)
    assert [path.read_bytes() for path in store.get("small")] == [ONE, TWO]
    assert [seen.path for seen in server.seen] == ["/2.h5", "/1.h5"], "what is there is not asked for again"


def test_another_place_may_be_given(entries, home, tmp_path):
    assert store.get("small", subjects=[1], home=tmp_path / "else") == [tmp_path / "else/small/S1.h5"]
    assert (tmp_path / "else/downloads.lock.json").is_file() and not home.exists()


def test_room_for_everything_is_asked_before_the_first_byte(server, entries, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=5_000))
    with pytest.raises(DiskFull, match=r"small needs 6.0 kB, 5.0 kB are free in .*; make room, or choose another disk"):
        store.get("small")
    assert server.seen == []


def test_the_licence_is_shown_and_accepted_once(server, entries, home, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(DownloadError, match=rf"only under its licence:\n\n  {LICENCE}\n(.|\n)*strict --accept-licence"):
        store.get("strict")
    assert server.seen == [] and not home.exists()
    store.get("strict", accept_licence=True)
    assert LICENCE in caplog.text, "shown also to those who accept at once"
    (home / "strict/S1.h5").unlink()
    store.get("strict")
    accepted = json.loads((home / "downloads.lock.json").read_text())["accepted"]["strict"]
    assert accepted["text"] == LICENCE and accepted["date"].startswith("20")


def test_another_licence_is_asked_for_again(entries, monkeypatch):
    store.get("strict", accept_licence=True)
    changed = Entry(**{**vars(entries["strict"]), "licence": "now only on Sundays"})
    monkeypatch.setitem(REGISTRY, "strict", changed)
    with pytest.raises(DownloadError, match="now only on Sundays"):
        store.get("strict")


@pytest.mark.parametrize("name", [one.name for one in REGISTRY.values() if one.kind == "page"])
def test_what_no_program_can_download_comes_with_the_page_and_the_folder(name, home):
    what = entry(name)
    with pytest.raises(DownloadError, match="cannot be downloaded by a program") as error:
        store.get(name)
    assert what.page in str(error.value) and str(home / what.folder) in str(error.value)
    assert what.licence in str(error.value)


def fake_nilearn(monkeypatch, fetcher) -> None:
    datasets = SimpleNamespace(fetch_miyawaki2008=fetcher, fetch_haxby=fetcher)
    monkeypatch.setitem(sys.modules, "nilearn", SimpleNamespace(datasets=datasets))


def test_nilearn_fetches_into_the_data_home_and_its_files_are_recorded(home, monkeypatch):
    calls = []

    def fetch_haxby(**options):
        calls.append(options)
        assert os.environ["NETRC"] == os.devnull, "no password of .netrc goes to presigned addresses"
        (home / "haxby2001/subj2").mkdir(parents=True)
        (home / "haxby2001/subj2/bold.nii.gz").write_bytes(sent)

    sent = gzip.compress(ONE)
    monkeypatch.setenv("NETRC", "as it was")
    fake_nilearn(monkeypatch, fetch_haxby)
    assert store.get("haxby", subjects=[2]) == [home / "haxby2001/subj2/bold.nii.gz"]
    assert calls == [{"data_dir": str(home), "verbose": 1, "subjects": [2]}]
    record = Ledger(home).records()["haxby2001/subj2/bold.nii.gz"]
    assert (record.sha256, record.trust) == (sha256(sent), "first use")
    assert [check.verdict for check in store.verify("haxby")] == ["good"]
    with pytest.raises(ValueError, match="haxby has no subject 7"):
        store.get("haxby", subjects=[7])
    assert os.environ["NETRC"] == "as it was"


def test_a_web_page_that_nilearn_took_for_a_file_is_not_recorded(home, monkeypatch):
    def fetch_haxby(**options):
        (home / "haxby2001").mkdir(parents=True, exist_ok=True)
        (home / "haxby2001/mask.nii.gz").write_bytes(b"<html>log in</html>")
        (home / "haxby2001/README").write_bytes(b"")

    fake_nilearn(monkeypatch, fetch_haxby)
    with pytest.raises(DownloadError, match=r"mask.nii.gz is a web page, not a file of haxby; delete it, and the same"):
        store.get("haxby", subjects=[1])
    assert Ledger(home).records() == {}


@pytest.mark.slow
def test_the_fetchers_of_nilearn_take_what_they_are_given():
    datasets = pytest.importorskip("nilearn.datasets")
    for name in ("miyawaki", "haxby"):
        parameters = inspect.signature(getattr(datasets, entry(name).fetcher)).parameters
        assert {"data_dir", "verbose"} <= set(parameters) and ("subjects" in parameters) == (name == "haxby")


def test_room_is_asked_for_the_subjects_chosen(monkeypatch):
    fake_nilearn(monkeypatch, lambda **options: None)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=700e6))
    store.get("haxby", subjects=[1, 2])
    with pytest.raises(DiskFull, match=r"haxby needs 1.8 GB, 700 MB are free"):
        store.get("haxby")


def test_trouble_inside_nilearn_is_one_sentence(monkeypatch):
    def fetch_miyawaki2008(**options):
        raise TimeoutError("nitrc is asleep")

    fake_nilearn(monkeypatch, fetch_miyawaki2008)
    with pytest.raises(DownloadError, match=r"could not fetch miyawaki \(TimeoutError: nitrc is asleep\); .*By hand: "):
        store.get("miyawaki")


def test_without_nilearn_the_way_to_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(ImportError, match="pip install nilearn, or the extra visdec-lite"):
        store.get("miyawaki")


# archives


def test_an_archive_is_unpacked_beside_it_and_goes(server, entries, home):
    placed = store.get("packed")
    assert [path.relative_to(home).as_posix() for path in placed] == [
        "packed/lists/CSI1/run01.txt",
        "packed/betas/LH.npy",
    ]
    assert everything(home / "packed") == ["betas/LH.npy", "lists/CSI1/run01.txt"], "nor junk, nor the archive"
    assert store.on_disk(entries["packed"]) == store.OnDisk(files=2, of=2, bytes=len(ONE) + 10, half=0)
    assert sorted(store.get("packed")) == sorted(placed) and len(server.seen) == 1
    assert {check.verdict for check in store.verify("packed")} == {"good"}


def test_a_missing_member_brings_the_archive_back_which_must_be_the_same(server, entries, home):
    store.get("packed")
    original = server.files["/all.zip"]
    (home / "packed/betas/LH.npy").unlink()
    assert [check.verdict for check in store.verify("packed")] == ["missing", "good"]
    server.files["/all.zip"] = zipped({"betas/LH.npy": b"another"})
    with pytest.raises(DownloadError, match=r"refused, SHA256 .*does not match"):
        store.get("packed")
    server.files["/all.zip"] = original
    store.get("packed")
    assert (home / "packed/betas/LH.npy").read_bytes() == ONE


def test_an_archive_that_would_leave_the_folder_leaves_nothing(entries, home):
    with pytest.raises(DownloadError, match=r"bad.zip is refused: its member '../out' would leave the folder"):
        store.get("evil")
    assert not (home / "out").exists() and everything(home / "evil") == ["bad.zip"]


def tarred(path: Path, members: list[tarfile.TarInfo], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as content:
        for member in members:
            content.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 3 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (member("../out"), "would leave the folder"),
        (member("a/../../out"), "would leave the folder"),
        (member("..\\out"), "would leave the folder"),
        (member("/out"), "absolute path"),
        (member("C:\\out"), "absolute path"),
        (member("link", tarfile.SYMTYPE, "/etc"), "link or a device"),
        (member("hard", tarfile.LNKTYPE, "good.txt"), "link or a device"),
        (member("device", tarfile.CHRTYPE), "link or a device"),
        (member("pipe", tarfile.FIFOTYPE), "link or a device"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else "",
)
def test_a_tar_with_one_bad_member_is_refused_as_a_whole(tmp_path, bad, why):
    path = tarred(tmp_path / "x.tar.gz", [member("good.txt"), bad])
    with pytest.raises(DownloadError, match=rf"is refused: its member .* {why}.* Nothing was extracted"):
        unpack(path, tmp_path / "there")
    assert everything(tmp_path) == ["x.tar.gz"]


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "..\\out", "C:/out"])
def test_a_zip_with_one_bad_member_is_refused_as_a_whole(tmp_path, name):
    path = tmp_path / "x.zip"
    path.write_bytes(zipped({"good.txt": b"good", name: b"bad"}))
    with pytest.raises(DownloadError, match=r"is refused: its member .* Nothing was extracted"):
        unpack(path, tmp_path / "there")
    assert everything(tmp_path) == ["x.zip"]


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as content:
        content.writestr(info, "/etc/passwd")
    with pytest.raises(DownloadError, match="'link' is a link or a device"):
        unpack(tmp_path / "x.zip", tmp_path / "there")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_good_archives_are_unpacked_whatever_their_name(tmp_path, mode):
    folder = member("a", tarfile.DIRTYPE)
    path = tarred(tmp_path / "x", [folder, member("a/b.txt"), member("./c.txt")], mode)
    placed = unpack(path, tmp_path / "there")
    assert placed == [tmp_path / "there/a/b.txt", tmp_path / "there/c.txt"]
    assert all(one.read_bytes() == b"xxx" for one in placed)


def test_no_modes_come_out_of_an_archive(tmp_path):
    info = member("run.sh")
    info.mode = 0o4777
    (placed,) = unpack(tarred(tmp_path / "x.tar", [info], "w"), tmp_path / "there")
    assert not placed.stat().st_mode & (stat.S_IXUSR | stat.S_ISUID)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_broken_archive_leaves_the_folder_as_it_was(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        content = bytearray(zipped({"a.txt": b"first", "b.txt": bytes(range(256)) * 40}))
        content[content.index(b"b.txt") + 40] ^= 0xFF
        path.write_bytes(content)
    else:
        tarred(path, [member(f"{number}.txt") for number in range(200)])
        path.write_bytes(path.read_bytes()[:-60])
    (tmp_path / "there").mkdir()
    (tmp_path / "there/old.txt").write_text("old")
    with pytest.raises(DownloadError, match=r"cannot be unpacked \(.*\); delete it and download it again"):
        unpack(path, tmp_path / "there")
    assert everything(tmp_path / "there") == ["old.txt"]


def test_what_is_no_archive_is_told(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"hello")
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        unpack(tmp_path / "x.zip", tmp_path / "there")


def test_a_name_that_comes_twice_is_refused_also_where_case_does_not_count(tmp_path):
    path = tarred(tmp_path / "x.tar", [member("a.txt"), member("A.txt")], "w")
    with pytest.raises(DownloadError, match=r"x.tar is refused: it holds 'a.txt' more than once"):
        unpack(path, tmp_path / "there")


def test_room_for_the_members_is_asked_first(tmp_path, monkeypatch):
    path = tarred(tmp_path / "x.tar", [member("a.txt"), member("b.txt")], "w")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=5))
    with pytest.raises(DiskFull, match="what is in the archive needs 6 bytes, 5 bytes are free"):
        unpack(path, tmp_path / "there")
    assert everything(tmp_path) == ["x.tar"]


# verify


def test_verify_finds_a_flipped_byte(entries, home):
    store.get("strict", accept_licence=True)
    store.get("small")
    assert {check.verdict for check in store.verify()} == {"good"}
    for path in (home / "strict/S1.h5", home / "small/S2.h5"):
        content = bytearray(path.read_bytes())
        content[1234] ^= 1
        path.write_bytes(content)
    verdicts = {check.path: (check.verdict, check.detail) for check in store.verify()}
    assert verdicts["strict/S1.h5"][0] == "changed" and f"published is {sha256(ONE)}" in verdicts["strict/S1.h5"][1]
    assert verdicts["small/S2.h5"][0] == "changed" and "recorded on 20" in verdicts["small/S2.h5"][1]
    assert verdicts["small/S1.h5"][0] == "good" and "no published hash is known" in verdicts["small/S1.h5"][1]


def test_verify_tells_missing_and_unknown_files(entries, home):
    store.get("small", subjects=[1])
    (home / "small/S1.h5").unlink()
    (home / "small/S2.h5").write_bytes(b"by hand")
    assert [(check.path, check.verdict) for check in store.verify("small")] == [
        ("small/S1.h5", "missing"),
        ("small/S2.h5", "unknown"),
    ]


# the words


def test_list_tells_everything_about_every_entry(entries, home):
    store.get("small", subjects=[1])
    result = run("list")
    assert result.exit_code == 0, result.output
    for one in REGISTRY.values():
        block = re.search(rf"^{one.name} (.|\n)*?\n\n", result.output, re.MULTILINE)
        assert block, one.name
        assert all(words in block[0] for words in (one.title, one.licence, one.page, one.note))
        assert ("not verified here" in block[0]) != one.verified_here
    assert re.search(r"^digits69 +about 2.4 MB +on disk: nothing  \(hash known\)$", result.output, re.MULTILINE)
    assert re.search(r"^small .* on disk: 1 of 2 files, 3.0 kB", result.output, re.MULTILINE)
    assert re.search(r"^hcp .*\(by hand; not verified here\)$", result.output, re.MULTILINE)
    assert f"data home: {home}" in result.output


def test_list_shows_a_broken_download(server, entries, home):
    server.plan["/1.h5"] = [cut(1000, rudely=False)]
    assert run("get", "small", "--subject", "1", "--retries", "0").exit_code == 1
    assert re.search(r"^small .* on disk: nothing, and 1.0 kB of a broken download", run("list").output, re.MULTILINE)


def test_get_prints_the_files_and_verify_counts_them(entries, home):
    result = run("get", "small", "--subject", "1", "--subject", "2")
    assert result.exit_code == 0 and result.stdout.split() == [str(home / "small/S1.h5"), str(home / "small/S2.h5")]
    result = run("verify", "small")
    assert result.exit_code == 0 and "2 files, 0 of them not as they should be" in result.output
    (home / "small/S1.h5").write_bytes(b"")
    result = run("verify")
    assert result.exit_code == 1 and "changed  small/S1.h5" in result.output and "1 of them" in result.output


def test_verify_of_an_empty_data_home():
    result = run("verify")
    assert result.exit_code == 0 and result.output == "nothing on disk to check\n"


def test_many_files_are_not_all_printed(entries, server):
    server.files["/all.zip"] = zipped({f"{number}.txt": b"x" for number in range(20)})
    assert run("get", "packed").stdout.splitlines()[-1] == "... 17 more files"


def test_the_licence_on_the_command_line(entries):
    result = run("get", "strict")
    assert result.exit_code == 1 and LICENCE in result.stderr and "--accept-licence" in result.stderr
    assert run("get", "strict", "--accept-licence").exit_code == 0
    assert run("get", "strict").exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("get", "godd"), "did you mean 'god'?"),
        (("get", "god-images"), "https://forms.gle/ujvA34948Xg49jdn9"),
        (("get", "small", "--subject", "9"), "small has no subject 9"),
        (("verify", "nothing"), "nothing to download is called 'nothing'"),
        (("prepare", "god", "a.h5"), "'god' needs no preparing; only hcp does"),
    ],
)
def test_errors_are_one_sentence_and_status_1(entries, words, said):
    result = run(*words)
    assert result.exit_code == 1 and result.stderr.startswith("error: ") and said in result.stderr
    assert "Traceback" not in result.output


def test_a_dead_server_is_told_on_the_command_line(server, entries):
    server.plan["/1.h5"] = [status(503)]
    result = run("get", "small", "--subject", "1", "--retries", "0")
    assert result.exit_code == 1 and "503" in result.stderr and "https://example.org" in result.stderr


def test_ctrl_c_says_that_the_same_command_goes_on(entries, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "fetch", interrupted)
    result = run("get", "small")
    assert result.exit_code == 130 and "the same command goes on from there" in result.stderr


def test_prepare_hands_files_labels_and_folder_to_hcp(home, monkeypatch):
    calls = []

    def prepare(files, out, **options):
        calls.append((files, out, options))
        return [out / "100307/HCP_visual_voxel.npz"]

    monkeypatch.setattr("visdec_lite.datasets.hcp.prepare", prepare)
    result = run("prepare", "hcp", "a.dtseries.nii", "b.dtseries.nii", "--labels", "glasser.dlabel.nii")
    assert result.exit_code == 0, result.output
    files = [Path("a.dtseries.nii"), Path("b.dtseries.nii")]
    assert calls == [(files, home / "hcp", {"labels": Path("glasser.dlabel.nii")})]
    assert result.stdout.strip().endswith("HCP_visual_voxel.npz")
    run("prepare", "hcp", "a.dtseries.nii", "--out", "elsewhere")
    assert calls[1][1:] == (Path("elsewhere"), {"labels": None})


def test_help_names_every_command_and_option():
    def text_of(*words: str) -> str:
        return re.sub(r"\x1b\[[\d;]*m", "", run(*words, "--help").output)  # a CI may ask for colours

    text = text_of()
    assert all(word in text for word in ("list", "get", "verify", "prepare"))
    text = text_of("get")
    assert all(word in text for word in ("--subject", "--to", "--accept-licence", "--timeout", "--retries"))
    assert "VISDEC_DATA" in text_of("list") and "--labels" in text_of("prepare")


def test_the_script_lists_without_torch_and_without_the_network():
    code = (
        "import runpy, sys; sys.argv = ['data_download.py', 'list']\n"
        "try: runpy.run_path('data_download.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    *lines, modules = result.stdout.splitlines()
    assert any(line.startswith("cin256-v2") for line in lines)
    assert not {"torch", "diffusers", "nilearn", "requests", "pooch", "sklearn", "matplotlib"} & set(modules.split())
