"""Servers that tests start: a process, the address it prints, what it says of itself, and an end it cannot refuse."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 120  # seconds until a server answers; a busy machine is no error
# Ctrl-C is heard even where these tests run in a shell's background, which would have it ignored.
HEARS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
COMMAND_LINE = [sys.executable, "-c", HEARS_CTRL_C + "from visdec_lite.cli import main; main()"]


@dataclass
class Server:
    """A process, and the files it writes its words to."""

    process: subprocess.Popen[bytes]
    folder: Path
    url: str = ""

    @property
    def said(self) -> str:
        """Standard output so far."""
        return (self.folder / "stdout.txt").read_text(encoding="utf-8")

    @property
    def log(self) -> str:
        """Standard error so far: of the server, and of its kernels."""
        return (self.folder / "stderr.txt").read_text(encoding="utf-8")

    def stop(self, how: int = signal.SIGINT) -> int:
        """End it; returns its status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(PATIENCE)


@contextmanager
def running(
    command: Sequence[str], folder: Path, address: str = r"http://\S+", how: int = signal.SIGINT, **environment: str
) -> Iterator[Server]:
    """A server once it has said its address.

    Args:
        command: its words.
        folder: where its words go; made if missing.
        address: what the address looks like.
        how: the signal that ends it.
        environment: added to this process's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stdout.txt").open("wb") as out, (folder / "stderr.txt").open("wb") as err:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder, env={**os.environ, **environment}
        )
    server = Server(process, folder)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(address, server.said + server.log)):
            assert process.poll() is None, f"ended with {process.returncode}: {server.log}"
            assert time.monotonic() < deadline, f"no address after {PATIENCE} s: {server.said} {server.log}"
            time.sleep(0.2)
        server.url = found[0]
        yield server
    finally:
        try:
            server.stop(how)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def proxy(to: int, prefix: str, strip: bool, host: str | None) -> Iterator[int]:
    """A proxy on this machine, as small as can be: one request a connection, then bytes both ways.

    Args:
        to: port that requests go on to.
        prefix: what it answers to, such as /brain/; anything else is its own 404.
        strip: whether it takes the prefix away, as jupyter-server-proxy does, or leaves it, as nginx does.
        host: name it puts in the place of the one that was asked for; None leaves that.

    Yields:
        Its port.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # either has gone

    def serve(visitor: socket.socket) -> None:
        with visitor, socket.create_connection(("127.0.0.1", to), timeout=PATIENCE) as server:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = visitor.recv(65536)
                if not piece:
                    return
                head += piece
            head, _, rest = head.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            method, path, version = first.split(" ")
            if not path.startswith(prefix):
                visitor.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            path = path[len(prefix) - 1 :] if strip else path
            upgrade = any(line.lower().startswith("upgrade:") for line in lines)
            drop = ("host:",) * (host is not None) + ("connection:",) * (not upgrade)
            lines = [line for line in lines if not line.lower().startswith(drop)] if drop else lines
            lines += [f"Host: {host}"] * (host is not None) + ["Connection: close"] * (not upgrade)
            server.sendall("\r\n".join([f"{method} {path} {version}", *lines, "", ""]).encode("latin-1") + rest)
            back = threading.Thread(target=pump, args=(server, visitor), daemon=True)
            back.start()
            pump(visitor, server)
            back.join()

    def accept() -> None:
        while True:
            try:
                visitor, _ = listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=serve, args=(visitor,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def memory(pid: int) -> int:
    """Bytes of a process and all that it started; what they share is counted once."""
    total = 0
    for one in {pid, *children(pid)}:
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has ended
        total += 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def children(pid: int) -> set[int]:
    """Processes that a process has started and that are still there; Linux only."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            found.add(int(status.parent.name))
    return found
