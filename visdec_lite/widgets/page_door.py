"""The door of the page: what visitors send is looked at before anything is made of it.

In: a request for an address, or a message to a kernel. Out: the same, or a refusal in one line:

    400    the address or a header is no text, such as %00 or %ff
    403    the page is asked for by a name that is not its own: another site's name was pointed at this machine
    closed a message is too large, comes too fast, or is not what it says it is

What the page answers to lies below its base address. A proxy may hand requests on with it or without it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, ClassVar
from urllib.parse import unquote_to_bytes, urlsplit
from weakref import WeakKeyDictionary

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.routing import Router
from tornado.web import Application, ErrorHandler

BODY = 64 * 1024  # bytes of a request beside its address; the largest is the token somebody types
MESSAGE = 1024 * 1024  # bytes to a kernel; the page's own have 400
PARTS = 64  # of a message
FIELDS = ("header", "parent_header", "metadata", "content")
SPEED, AT_ONCE = MESSAGE // 4, 4 * MESSAGE  # bytes a second that a kernel's visitors may send, and on top of it
LEAST = 1024  # bytes that a message counts for, however small
V1 = "v1.kernel.websocket.jupyter.org"
CONTROLS = re.compile(rb"[\x00-\x1f\x7f]")


class Door(Router):
    """What stands before all routes.

    Args:
        app: the routes, all of them below `base_url`.
        names: what the page may be called; None: anything.
    """

    def __init__(self, app: Application, base_url: str, names: Iterable[str] | None) -> None:
        self._app, self._base = app, base_url
        self._names = None if names is None else {"localhost", *names}

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> HTTPMessageDelegate | None:
        if not is_text(request):
            return self._refuse(request, 400)
        if self._names is not None and not self._is_own(request.host_name):
            return self._refuse(request, 403)
        if not request.path.startswith(self._base):
            request.path, request.uri = self._base[:-1] + request.path, self._base[:-1] + request.uri
        return self._app.find_handler(request, **kwargs)

    def _is_own(self, name: str) -> bool:
        try:
            return name.strip("[]") in self._names or ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return False

    def _refuse(self, request: HTTPServerRequest, status: int) -> HTTPMessageDelegate:
        return self._app.get_handler_delegate(request, ErrorHandler, {"status_code": status})


def is_text(request: HTTPServerRequest) -> bool:
    """Whether address and headers are UTF-8 without control characters, and what should be an address is one."""
    try:
        address = unquote_to_bytes(request.uri.encode("latin-1"))
        address.decode("utf-8")
        for name in ("Origin", "Sec-Websocket-Origin", "Referer"):
            _ = urlsplit(request.headers.get(name, "")).port
        for words in request.query_arguments.get("next", []):
            _ = urlsplit(words.decode("utf-8")).port
    except ValueError:
        return False
    return request.uri.startswith("/") and not CONTROLS.search(address)


class Channel(ZMQChannelsWebsocketConnection):
    """From a page to its kernel: messages that are whole, small and not too many; any other ends the connection."""

    _sent: ClassVar[WeakKeyDictionary[Any, tuple[float, float]]] = WeakKeyDictionary()  # kernel -> bytes, when
    _refused = False

    def handle_incoming_message(self, incoming_msg: str | bytes) -> None:
        if self._refused:
            return
        try:
            self._weigh(len(incoming_msg))
            channel = check_message(incoming_msg, self.subprotocol == V1)
            if channel not in ("shell", "control"):
                raise ValueError(f"a page has nothing to say on channel {channel!r:.40}")
            super().handle_incoming_message(incoming_msg)
        except Exception as error:
            self._refused = True
            self.log.error("a message to a kernel was refused: %s", str(error)[:200])
            self.websocket_handler.close(1008, "refused")

    def _weigh(self, size: int) -> None:
        now = time.monotonic()
        before, then = self._sent.get(self.kernel_manager, (0.0, now))
        sent = max(0.0, before - SPEED * (now - then)) + max(size, LEAST)
        if sent > AT_ONCE:
            raise ValueError(f"{sent:.0f} bytes at once, expected at most {AT_ONCE} and {SPEED} a second")
        self._sent[self.kernel_manager] = sent, now


def check_message(message: str | bytes, v1: bool) -> str:
    """The channel that a message is for.

    Args:
        message: of Jupyter's protocol: text, binary with 4-byte offsets, or with `v1` with 8-byte offsets.

    Raises:
        ValueError: it is none. Nothing is unpacked before its offsets are found to lie within it.
    """
    try:
        if v1:
            place, *parts = split(message, 8, "little", least=6)
            channel, fields = place.decode("utf-8"), [_read(part) for part in parts[: len(FIELDS)]]
        else:
            whole = _object(_read(message if isinstance(message, str) else split(message, 4, "big", least=1)[0]))
            channel, fields = whole.get("channel"), [whole.get(name) for name in FIELDS]
    except RecursionError:
        raise ValueError("a message too deep to be one") from None
    header, *_ = map(_object, fields)
    if not isinstance(channel, str) or not isinstance(header.get("msg_type"), str):
        raise ValueError("a message without channel or type")
    return channel


def split(message: bytes, width: int, order: str, least: int) -> list[bytes]:
    """Parts of a message that begins with their number and offsets, each `width` bytes; with 8, the end is one too.

    Raises:
        ValueError: fewer than `least`, more than 64, or an offset before the one before it or beyond the end.
    """
    if not isinstance(message, bytes):
        raise ValueError("text where bytes were agreed on")
    count = int.from_bytes(message[:width], order)
    if not least <= count <= PARTS or len(message) < width * (count + 1):
        raise ValueError(f"{count} offsets in {len(message)} bytes, expected {least} to {PARTS}")
    starts = range(width, width * (count + 1), width)
    offsets = [int.from_bytes(message[start : start + width], order) for start in starts]
    ends = offsets[1:] if width == 8 else [*offsets[1:], len(message)]
    if offsets[0] != width * (count + 1) or ends[-1] != len(message) or any(map(int.__gt__, offsets, ends)):
        raise ValueError(f"offsets {offsets[:4]} ... do not divide {len(message)} bytes")
    return [message[start:end] for start, end in zip(offsets, ends, strict=False)]


def _read(part: str | bytes) -> Any:
    return json.loads(part if isinstance(part, str) else part.decode("utf-8"))


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"a message part is {type(value).__name__}, expected an object")
    return value
