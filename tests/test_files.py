"""Files that are whole or absent, folders for one process, signals that wait for the end of a step."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from visdec_lite import files
from visdec_lite.files import CannotWrite, atomic_path, cache_home, make_folder, write_json
from visdec_lite.processes import Stopped, endings_interrupt, exit_status, interrupts_wait, locked

ROOT = os.name == "posix" and os.geteuid() == 0


class Accident(Exception):
    pass


@pytest.fixture
def python():
    """Starts a Python with some code; whatever still runs after the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *words: str, **options) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, "-c", code, *words], **pipes, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()


# --- whole or absent ---


def test_a_file_is_whole_or_absent(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with pytest.raises(Accident), atomic_path(target) as path:
        path.write_text("half")
        raise Accident
    assert list(target.parent.iterdir()) == []
    with atomic_path(target) as path:
        path.write_text("whole")
        assert not target.exists() and path.parent == target.parent
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]
    assert target.read_text() == "whole"


def test_temporary_names_cannot_be_guessed_and_links_are_not_followed(tmp_path):
    target, victim = tmp_path / "file.txt", tmp_path / "victim.txt"
    victim.write_text("keep me")
    names = set()
    for _ in range(3):
        with atomic_path(target) as path:
            names.add(path.name)
            assert path.exists() and not path.is_symlink()
            path.write_text("new")
    assert len(names) == 3 and all(str(os.getpid()) + ".tmp" != name.split(".", 3)[-1] for name in names)
    planted = tmp_path / ".file.txt.0123.tmp"
    planted.symlink_to(victim)
    target.unlink()
    target.symlink_to(victim)  # a link in place of the target is replaced, not written through
    with atomic_path(target) as path:
        path.write_text("new")
    assert victim.read_text() == "keep me" and target.read_text() == "new" and not target.is_symlink()


def test_files_have_the_permissions_of_any_other_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_path(tmp_path / "ours") as path:
        path.write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_killed_writers_left_is_swept_when_it_is_old(tmp_path):
    old, fresh, other = (tmp_path / name for name in (".a.txt.77.tmp", ".a.txt.78.tmp", ".b.txt.77.tmp"))
    for left in (old, fresh, other):
        left.write_text("half")
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    with atomic_path(tmp_path / "a.txt") as path:
        path.write_text("")
    assert not old.exists() and fresh.exists() and other.exists()


def test_the_file_before_keeps_a_second_name(tmp_path):
    path, previous = tmp_path / "a", tmp_path / "a.previous"
    for words in ("one", "two", "three"):
        with atomic_path(path, previous=previous) as temporary:
            temporary.write_text(words)
    assert (path.read_text(), previous.read_text()) == ("three", "two")
    with pytest.raises(Accident), atomic_path(path, previous=previous) as temporary:
        raise Accident
    assert (path.read_text(), previous.read_text()) == ("three", "two")


def test_without_hard_links_the_file_before_is_kept_too(tmp_path, monkeypatch):
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "not here")

    monkeypatch.setattr(os, "link", no_links)
    test_the_file_before_keeps_a_second_name(tmp_path)


# --- what cannot be written ---


def test_a_folder_in_the_way_a_file_in_the_way_and_a_long_name_are_told_before_the_work(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for path, words in (
        (tmp_path / "folder", r"folder cannot be written: a folder of this name is there; choose another place"),
        (tmp_path / "file" / "x" / "y", r"y cannot be written: .*file is a file, and a folder is needed there"),
        (tmp_path / ("n" * 300), r"the name is too long \(300 characters\); choose a shorter one"),
    ):
        with pytest.raises(CannotWrite, match=words), atomic_path(path):
            pytest.fail("the work began")
    with pytest.raises(CannotWrite, match="is a file, and a folder is needed there"):
        make_folder(tmp_path / "file")
    with pytest.raises(CannotWrite, match="is a file, and a folder is needed there"), locked(tmp_path / "file"):
        pytest.fail("the work began")


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_a_read_only_place_is_told_before_the_work(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(CannotWrite, match="this place cannot be written"), atomic_path(tmp_path / "a"):
        pytest.fail("the work began")


def test_more_than_there_is_room_for_is_told_before_the_first_byte(tmp_path):
    with pytest.raises(CannotWrite, match=r"a cannot be written: no room \(1000000000000\.0 MB are needed, .* MB are "
                       r"free.*nothing was left there; make room and run"), atomic_path(tmp_path / "a", size=10**18):
        pytest.fail("the work began")  # fmt: skip
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, signal, sys, torch
from torch import nn
from visdec_lite.training import TrainingConfig, fit
from visdec_lite.weights import save_weights
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
torch.manual_seed(0)
def loss(model, batch, generator):
    if not torch.is_grad_enabled(): return
    steps.append(1)
    if len(steps) == 5: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # a disk that is full from here on
    return {"loss": model(batch["x"]).square().mean()}
steps = []
config = TrainingConfig(steps=8, batch_size=4, learning_rate=0.01, checkpoint_every=3, log="none")
fit(nn.Linear(60, 60), loss, {"x": torch.randn(8, 60)}, config, out_dir=sys.argv[1], progress=False, device="cpu")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit of file sizes here")
def test_a_disk_that_fills_during_training_is_told_and_the_last_checkpoint_stays(python, tmp_path):
    _, errors = (process := python(FULL_DISK, str(tmp_path))).communicate(timeout=120)
    assert process.returncode == 1
    assert "CannotWrite" in errors and "checkpoint.safetensors cannot be written: no room" in errors
    assert "what was there before is kept; make room and run the same command again (it was at step 6 of 8)" in errors
    from visdec_lite.checkpoints import NAME, read_checkpoint

    assert read_checkpoint(tmp_path / NAME)["step"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", NAME]


def test_homes_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("VISDEC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_home() == tmp_path / "xdg" / "visdec_lite"
    monkeypatch.setenv("VISDEC_CACHE", str(tmp_path / "own"))
    assert cache_home() == tmp_path / "own"


# --- one process at a time ---

HOLD = """
import sys, time
from visdec_lite.processes import locked
with locked(sys.argv[1]):
    print("in", flush=True)
    sys.stdin.readline() if len(sys.argv) < 3 else time.sleep(60)
"""


def test_a_folder_is_for_one_process_and_says_who_is_in_it(python, tmp_path):
    holder = python(HOLD, str(tmp_path / "out"), stdin=subprocess.PIPE)
    assert holder.stdout.readline() == "in\n"
    words = rf"out is in use by process {holder.pid} on .* since 20.*; wait until it ends"
    with pytest.raises(ValueError, match=words), locked(tmp_path / "out"):
        pytest.fail("both are in")
    holder.communicate("\n", timeout=30)
    with locked(tmp_path / "out"):
        pass


def test_a_killed_holder_leaves_no_lock_and_its_half_files_are_swept(python, tmp_path):
    holder = python(HOLD, str(tmp_path), "sleep")
    assert holder.stdout.readline() == "in\n"
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".a.bin.77.tmp").write_text("half")
    holder.kill()
    holder.communicate()
    with locked(tmp_path):
        assert not (tmp_path / "deep" / ".a.bin.77.tmp").exists()
        assert str(os.getpid()) in (tmp_path / ".in_use_by").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "deep"]


def test_two_trainings_do_not_share_a_folder(tmp_path):
    import torch
    from torch import nn

    from visdec_lite.training import TrainingConfig, fit

    config = TrainingConfig(steps=2, batch_size=2, learning_rate=0.1)
    with locked(tmp_path), pytest.raises(ValueError, match=f"in use by process {os.getpid()}"):
        fit(nn.Linear(2, 1), lambda m, b, g: {"loss": m(b["x"]).mean()}, {"x": torch.ones(4, 2)}, config,
            out_dir=tmp_path, progress=False)  # fmt: skip


# --- signals ---


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_polite_endings_are_interrupts(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"stopped by {name}") as caught, endings_interrupt():
        signal.raise_signal(number)
        time.sleep(5)
    assert signal.getsignal(number) is before and exit_status(caught.value) == 128 + number
    assert exit_status(KeyboardInterrupt()) == 130


def test_somebody_elses_answer_to_a_signal_stays(monkeypatch):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with endings_interrupt():
            signal.raise_signal(signal.SIGTERM)
        assert heard == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signals_wait_for_the_end_of_a_step():
    done = []
    with pytest.raises(Stopped), endings_interrupt(), interrupts_wait():
        signal.raise_signal(signal.SIGTERM)
        done.append(1)
    assert done == [1]


TRAIN = """
import sys, time, torch
from torch import nn
from visdec_lite.training import TrainingConfig, fit
def loss(model, batch, generator):
    print("step", flush=True)
    time.sleep(0.05)
    return {"loss": model(batch["x"]).square().mean()}
torch.manual_seed(0)
config = TrainingConfig(steps=400, batch_size=2, learning_rate=0.1)
fit(nn.Linear(2, 1), loss, {"x": torch.ones(4, 2)}, config, out_dir=sys.argv[1], progress=False, device="cpu")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_training_that_is_asked_to_end_writes_its_checkpoint(python, name, tmp_path):
    """`checkpoint_every` is 0: only an interrupt writes one."""
    from visdec_lite.checkpoints import NAME, read_checkpoint

    process = python(TRAIN, str(tmp_path))
    for _ in range(3):
        assert process.stdout.readline() == "step\n"
    process.send_signal(getattr(signal, name))
    said, errors = process.communicate(timeout=60)
    kept = read_checkpoint(tmp_path / NAME)["step"]
    assert 3 <= kept < 400 and kept == 3 + said.count("step")
    assert f"stopped after step {kept} of 400; kept in" in errors


def test_a_note_is_forced_to_the_disk_before_and_after_the_rename(tmp_path, monkeypatch):
    happened = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (happened.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (happened.append("rename"), replace(*paths))[1])
    write_json(tmp_path / "note.json", {"a": 1})
    assert happened == ["fsync", "rename", "fsync"]


def test_modules_logger_is_quiet(caplog, tmp_path):
    with caplog.at_level(logging.INFO), locked(tmp_path):
        write_json(tmp_path / "a.json", {})
    assert not caplog.text and files.sha256_of(tmp_path / "a.json")
