"""A web server on this machine that misbehaves when told to.

`server.files` maps a path to its bytes; `server.plan[path]` is a list of behaviours, used up one a request, and
after them the server behaves: it knows Range, If-Range and ETag. `server.seen` lists what was asked.
"""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Seen:
    """One request."""

    path: str
    headers: Mapping[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class BadServer:
    files: dict[str, bytes]
    url: str = ""
    plan: dict[str, list[Behaviour]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_behaviour(self, path: str) -> Behaviour:
        with self.lock:
            planned = self.plan.get(path)
            return planned.pop(0) if planned else well


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind: BadServer

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.behind.lock:
            self.behind.seen.append(Seen(self.path, headers))
        path = re.sub(r"^http://[^/]*", "", self.path)  # a proxy is asked for whole addresses
        self.close_connection = True
        self.behind.next_behaviour(path)(self, self.behind.files.get(path))

    def head(self, status: int, length: int | None, **more: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


Behaviour = Callable[[Handler, bytes | None], None]


def etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


def part_asked(handler: Handler, content: bytes) -> int | None:
    """First byte asked for, if the condition holds."""
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    condition = handler.headers.get("If-Range")
    return int(asked[1]) if asked and condition in (None, etag(content)) else None


def well(handler: Handler, content: bytes | None) -> None:
    """As RFC 9110 wants it."""
    if content is None:
        return handler.head(404, 0)
    start = part_asked(handler, content)
    if start is None:
        handler.head(200, len(content), ETag=etag(content), Accept_Ranges="bytes")
        handler.wfile.write(content)
    elif start >= len(content):
        handler.head(416, 0, Content_Range=f"bytes */{len(content)}")
    else:
        place = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.head(206, len(content) - start, Content_Range=place, ETag=etag(content))
        handler.wfile.write(content[start:])


def cut(after: int, *, rudely: bool = True, **headers: str) -> Behaviour:
    """Announce everything, send `after` bytes, go: with a reset, or as if that was all."""

    def behave(handler: Handler, content: bytes | None) -> None:
        assert content is not None
        start = part_asked(handler, content) or 0
        more = headers or {"ETag": etag(content)}
        if start:
            more["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.head(206 if start else 200, len(content) - start, **more)
        handler.wfile.write(content[start : start + after])
        handler.wfile.flush()
        if rudely:
            time.sleep(0.05)  # let the bytes arrive: a reset throws away what is under way
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()

    return behave


def status(code: int, **headers: str) -> Behaviour:
    """Answer a number."""
    return lambda handler, content: handler.head(code, 0, **headers)


def whole(other: bytes | None = None, **headers: str) -> Behaviour:
    """200 and everything, whatever was asked; or something else than the file."""

    def behave(handler: Handler, content: bytes | None) -> None:
        sent = content if other is None else other
        assert sent is not None
        handler.head(200, len(sent), **headers)
        handler.wfile.write(sent)

    return behave


def wrong_place(handler: Handler, content: bytes | None) -> None:
    """206, but not from the byte that was asked for."""
    assert content is not None
    handler.head(206, len(content), Content_Range=f"bytes 0-{len(content) - 1}/{len(content)}")
    handler.wfile.write(content)


def no_length(after: int | None = None) -> Behaviour:
    """200 without saying how much will come, and then all of it or the first bytes."""

    def behave(handler: Handler, content: bytes | None) -> None:
        assert content is not None
        handler.head(200, None)
        handler.wfile.write(content[:after])

    return behave


def stall(after: int, until: threading.Event) -> Behaviour:
    """Announce everything, send `after` bytes, then nothing until the event."""

    def behave(handler: Handler, content: bytes | None) -> None:
        assert content is not None
        handler.head(200, len(content), ETag=etag(content))
        handler.wfile.write(content[:after])
        handler.wfile.flush()
        until.wait(20)

    return behave


def drip(pause: float, until: threading.Event) -> Behaviour:
    """A byte at a time: never silent, never done."""

    def behave(handler: Handler, content: bytes | None) -> None:
        assert content is not None
        handler.head(200, len(content), ETag=etag(content))
        for byte in content:
            if until.wait(pause):
                return
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()

    return behave


def hold(until: threading.Event) -> Behaviour:
    """Answer well, but only after the event."""

    def behave(handler: Handler, content: bytes | None) -> None:
        until.wait(20)
        well(handler, content)

    return behave


@contextmanager
def running(files: dict[str, bytes]) -> Iterator[BadServer]:
    """The server at `server.url`, until the block ends."""
    behind = BadServer(files)
    handler = type("BoundHandler", (Handler,), {"behind": behind})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        httpd.daemon_threads = True
        httpd.handle_error = lambda *words: None  # clients that go are what is tested
        httpd.block_on_close = False
        behind.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield behind
        finally:
            httpd.shutdown()
            thread.join()
