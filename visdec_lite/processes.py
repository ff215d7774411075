"""One process at a time in a folder, and signals that end a process only between two steps.

In: a folder, or a block of work. Out: the work done by this process alone, or a sentence that says who is at it; and a
`KeyboardInterrupt` for every polite way of ending a process, raised where the work allows it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from visdec_lite.files import atomic_path, make_folder, sweep

ENDINGS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end; treated as Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


def exit_status(interrupt: BaseException) -> int:
    """128 + the signal behind an interrupt, as a shell counts: 130 after Ctrl-C, 143 after SIGTERM."""
    cause: BaseException | None = interrupt
    while cause is not None:
        if isinstance(cause, Stopped):
            return 128 + cause.signal
        cause = cause.__cause__ or cause.__context__
    return 128 + signal.SIGINT


@contextmanager
def endings_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Stopped` in the block, where nobody else has an answer to them (nohup's stays)."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python hears signals in its main thread only
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    taken = [n for n in ENDINGS if n != signal.SIGINT and signal.getsignal(n) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C and its like back until the block is done, so that no checkpoint can show half an update."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    answers = {n: answer for n in ENDINGS if callable(answer := signal.getsignal(n))}
    heard: list[int] = []
    for number in answers:
        signal.signal(number, lambda number, frame: heard.append(number))
    try:
        yield
    finally:
        for number, answer in answers.items():
            signal.signal(number, answer)
    if heard:
        answers[heard[0]](heard[0], None)


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """The folder for this process alone: made if missing, known to be writable, swept of what killed writers left.

    The system gives the lock back when a process dies, however it dies, so no lock is ever stale.

    Raises:
        ValueError: another process (or another container on the same disk) is at it; the message says who.
        CannotWrite: the folder cannot be made or written.
    """
    folder = make_folder(folder)
    lock, who = FileLock(folder / ".lock", timeout=0), folder / ".in_use_by"
    try:
        lock.acquire()
    except Timeout:
        told = who.read_text(encoding="utf-8", errors="replace").strip() if who.is_file() else "another process"
        raise ValueError(f"{folder} is in use by {told}; wait until it ends, or choose another folder") from None
    try:
        sweep(folder)
        with atomic_path(who) as temporary:
            command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            words = f"process {os.getpid()} on {socket.gethostname()} since {since} ({command})"
            temporary.write_text(words, encoding="utf-8")
        yield folder
    finally:
        who.unlink(missing_ok=True)
        lock.release()
