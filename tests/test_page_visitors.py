"""Visitors of the page, friendly and hostile: what they send, how many they are, and the way by a proxy."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import struct
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jupyter_server.services.kernels.connection import base as jupyter
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager, utcnow
from page_process import COMMAND_LINE, HEARS_CTRL_C, Server, children, free_port, memory, proxy, running
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from visdec_lite.widgets import page_door, page_places, page_server
from visdec_lite.widgets.page_door import check_message

NAME = "lab.example.org"
SERVE = HEARS_CTRL_C + (
    "import sys; from pathlib import Path; from visdec_lite.widgets.page_server import listening, serve; "
    "serve(Path(sys.argv[1]), listening('127.0.0.1', int(sys.argv[2])), 'token', base_url='/brain/', "
    f"names=['{NAME}'], places=2, open_browser=False, tell=lambda url: print(url, flush=True))"
)
TOKEN = {"Authorization": "token token"}
A_KERNEL = "00000000-0000-0000-0000-000000000001"
MESSAGE = {
    "header": {"msg_id": "1", "msg_type": "kernel_info_request", "username": "", "session": "s", "version": "5.3"},
    "parent_header": {}, "metadata": {}, "content": {}, "channel": "shell", "buffers": [],
}  # fmt: skip


def pack(value) -> bytes:
    return json.dumps(value).encode()


def fresh(**content) -> dict:
    """A kernel hears no message twice."""
    return {**MESSAGE, "header": {**MESSAGE["header"], "msg_id": uuid.uuid4().hex}, "content": content}


def v1(message=MESSAGE, channel="shell", buffers=()) -> bytes:
    """As JupyterLab writes it."""
    parts = [pack(message[name]) for name in ("header", "parent_header", "metadata", "content")]
    return jupyter.serialize_msg_to_ws_v1([*parts, *buffers], channel)


def words(count: int, *offsets: int, width=8, order="little", tail=b"") -> bytes:
    return b"".join(number.to_bytes(width, order) for number in (count, *offsets)) + tail


# --- messages ---


def test_what_a_front_end_sends_is_a_message_in_all_three_forms():
    text = json.dumps({**MESSAGE, "buffers": []})
    assert check_message(text, False) == "shell"
    for buffers in ([], [b"a"], [b"", b"abc", b"\x00" * 1000]):
        assert check_message(v1(channel="control", buffers=buffers), True) == "control"
        assert check_message(jupyter.serialize_binary_message({**MESSAGE, "buffers": buffers}), False) == "shell"


FREEZES = b"\x7f\xff\xff\xff" + bytes(8)  # took 4 GB and all visitors' time
DEEP = "[" * 100_000
NO_MESSAGES = {
    "the one that froze": (FREEZES, False),
    "a negative number of parts": (b"\xff\xff\xff\xff" + bytes(8), False),
    "nothing": (b"", False),
    "nothing as text": ("", False),
    "half a number": (b"\x00\x00", False),
    "no parts": (bytes(12), False),
    "65 parts": (struct.pack("!66I", 65, *range(264, 264 + 65)) + bytes(65), False),
    "a part beyond the end": (struct.pack("!II", 1, 1 << 31) + b"{}", False),
    "a part in the offsets": (struct.pack("!II", 1, 0) + b"{}", False),
    "parts that go back": (struct.pack("!III", 2, 12, 4) + b"{}", False),
    "no JSON": (struct.pack("!II", 1, 8) + b"\xff\xfe", False),
    "deep JSON": (DEEP, False),
    "a number of a million digits": ('{"header": {"msg_type": ' + "1" * 1_000_000 + "}}", False),
    "a list": ("[]", False),
    "null": ("null", False),
    "no header": ('{"channel": "shell"}', False),
    "a header that is a word": ('{"channel": "shell", "header": "x"}', False),
    "a type that is a list": ('{"channel": "shell", "header": {"msg_type": []}}', False),
    "no parent": (json.dumps({name: MESSAGE[name] for name in MESSAGE if name != "parent_header"}), False),
    "UTF-16": (struct.pack("!II", 1, 8) + json.dumps(MESSAGE).encode("utf-16"), False),
    "no channel": (json.dumps({**MESSAGE, "channel": None}), False),
    "v1: a number that no memory holds": (b"\xff" * 8 + bytes(8), True),
    "v1: nothing": (b"", True),
    "v1: text": (json.dumps(MESSAGE), True),
    "v1: too few parts": (words(2, 24, 24), True),
    "v1: parts that go back": (words(6, 56, 61, 60, 61, 61, 61, tail=b"shell"), True),
    "v1: a part beyond the end": (words(6, 56, 61, 61, 61, 61, 1 << 60, tail=b"shell"), True),
    "v1: more than its parts": (v1() + b"x", True),
    "v1: lists": (v1().replace(b"{}", b"[]"), True),
    "v1: header no JSON": (words(6, 56, 61, 62, 63, 64, 65, tail=b"shell{{{{"), True),
}


@pytest.mark.parametrize("name", NO_MESSAGES)
def test_what_is_no_message_is_refused_at_once(name):
    message, is_v1 = NO_MESSAGES[name]
    started = time.perf_counter()
    with pytest.raises(ValueError, match=r"."):
        check_message(message, is_v1)
    assert time.perf_counter() - started < 1


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    is_v1=st.booleans(),
    buffers=st.lists(st.binary(max_size=20), max_size=3),
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    end=st.integers(0, 400),
)
def test_a_damaged_message_is_refused_or_read_as_jupyter_reads_it(is_v1, buffers, changes, end):
    whole = v1(buffers=buffers) if is_v1 else jupyter.serialize_binary_message({**MESSAGE, "buffers": buffers})
    damaged = bytearray(whole[:end])
    for place, value in changes:
        if place < len(damaged):
            damaged[place] = value
    try:
        channel = check_message(bytes(damaged), is_v1)
    except ValueError:
        return
    if is_v1:
        expected, parts = jupyter.deserialize_msg_from_ws_v1(bytes(damaged))
        assert b"".join(parts) in bytes(damaged) and len(parts) <= page_door.PARTS
    else:
        expected = jupyter.deserialize_binary_message(bytes(damaged))["channel"]
    assert channel == expected


# --- places ---


class Kernel:
    """What `Places` looks at."""

    def __init__(self, state="busy", rest=0):
        self.execution_state, self.last_activity = state, utcnow() - timedelta(seconds=rest)


@pytest.fixture
def places(monkeypatch) -> page_places.Places:
    """Three places; kernels take a moment to come and to go, and are counted at their most."""
    manager = page_places.Places(most=3)
    manager.at_most, here = 0, manager._kernels

    async def start(self, *, kernel_id, **options):
        await asyncio.sleep(0.01)
        here[kernel_id] = Kernel()
        manager.at_most = max(manager.at_most, len(here))
        return kernel_id

    async def shutdown(self, kernel_id):
        await asyncio.sleep(0.01)
        del here[kernel_id]

    monkeypatch.setattr(AsyncMappingKernelManager, "start_kernel", start)
    monkeypatch.setattr(AsyncMappingKernelManager, "shutdown_kernel", shutdown)
    monkeypatch.setattr(page_places.Places, "list_kernel_ids", lambda self: list(here))
    monkeypatch.setattr(page_places.Places, "get_kernel", lambda self, name: here[name])
    return manager


async def come(places: page_places.Places, visitors: int) -> list:
    return await asyncio.gather(*(places.start_kernel() for _ in range(visitors)), return_exceptions=True)


def test_of_twenty_at_once_three_find_a_place(places):
    found = asyncio.run(come(places, 20))
    refused = [one for one in found if isinstance(one, page_places.NoPlace)]
    assert len(refused) == 17 and refused[0].status_code == 503 and places.at_most == 3
    assert {one for one in found if isinstance(one, str)} == set(places._kernels)


@pytest.mark.parametrize(
    ("state", "rest", "connected", "gives_way"),
    [
        ("idle", 601, 1, True), ("idle", 599, 1, False), ("busy", 9999, 1, False), ("starting", 9999, 0, False),
        ("idle", 61, 0, True), ("idle", 59, 0, False),
    ],
)  # fmt: skip
def test_a_page_that_rests_gives_way_when_a_visitor_waits_and_only_then(places, state, rest, connected, gives_way):
    async def scene():
        places._kernels.update(a=Kernel("idle", 10), b=Kernel("busy"), rests=Kernel(state, rest))
        places._kernel_connections = {"a": 1, "b": 1, "rests": connected}
        (found,) = await come(places, 1)
        assert ("rests" not in places._kernels) is gives_way and {"a", "b"} <= set(places._kernels)
        assert isinstance(found, str if gives_way else page_places.NoPlace)
        assert places.at_most <= 3 and not places._coming | places._going - {None}

    asyncio.run(scene())


def test_two_who_wait_get_two_places_the_longest_at_rest_first(places):
    async def scene():
        places._kernels.update({name: Kernel("idle", 1000 + rest) for rest, name in enumerate("abc")})
        places._kernel_connections = dict.fromkeys("abc", 1)
        found = await come(places, 2)
        assert all(isinstance(one, str) for one in found) and set(places._kernels) == {"a", *found}
        assert places.at_most <= 3

    asyncio.run(scene())


def test_a_kernel_that_does_not_start_leaves_its_place(places, monkeypatch):
    async def fails(self, **options):
        raise RuntimeError("no")

    monkeypatch.setattr(AsyncMappingKernelManager, "start_kernel", fails)
    assert [str(one) for one in asyncio.run(come(places, 4))[:3]] == ["no"] * 3
    assert not places._coming


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8_000), ({"memory.max": "max", "memory.current": "5"}, 8_000),
        ({"memory.max": "3000", "memory.current": "1000", "memory.stat": "anon 1\ninactive_file 500\nx 1"}, 2_500),
        ({"memory.max": "3000", "memory.current": "9000", "memory.stat": "anon 1"}, 0),
    ],
)  # fmt: skip
def test_free_memory_is_that_of_the_container_where_there_is_a_limit(monkeypatch, tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(page_places, "Path", lambda group: tmp_path / str(group).removeprefix("/sys/fs/cgroup")[1:])
    monkeypatch.setattr(page_places.psutil, "virtual_memory", lambda: type("", (), {"available": 8_000}))
    assert page_places.free_memory() == expected


# --- addresses ---


def test_an_address_that_is_not_ours_is_a_sentence():
    with pytest.raises(ValueError, match=r"--ip nonsense\.invalid is no address of this machine \(.+\); leave it out"):
        page_server.listening("nonsense.invalid", free_port())
    with pytest.raises(ValueError, match=r"--ip 192\.0\.2\.1 is no address of this machine"):
        page_server.listening("192.0.2.1")
    with pytest.raises(ValueError, match=r"--ip 300\.1\.1\.1 is no address of this machine"):
        page_server.listening("300.1.1.1", free_port())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_port_asked_for_is_that_port_or_an_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} is taken; choose another, or leave --port out"):
            page_server.listening("127.0.0.1", port)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tornado leaves what it did not bind
def test_no_port_asked_for_is_the_first_that_is_free(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(page_server, "PORT", taken.getsockname()[1])
        sockets = page_server.listening("127.0.0.1")
        assert page_server.PORT < sockets[0].getsockname()[1] < page_server.PORT + 50
        for one in sockets:
            one.close()


def test_ports_that_are_not_ours(monkeypatch):
    def denied(port, ip):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(page_server, "bind_sockets", denied)
    with pytest.raises(ValueError, match="port 80 is not ours to take; choose one from 1024 on"):
        page_server.listening("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("given_", "path"),
    [("/", "/"), ("", "/"), ("brain", "/brain/"), ("/a/b", "/a/b/"), ("/user/j.doe@x/proxy/8866/", None)],
)
def test_a_base_address_is_a_path(given_, path):
    assert page_server.base_address(given_) == (path or given_)


@pytest.mark.parametrize("given_", ["http://x/brain/", "/a?b", "/a b/", "/a//b/", "/a/../b/", "/a#b", "/ä/", "/(.*)/"])
def test_what_is_no_base_address_is_an_error(given_):
    with pytest.raises(ValueError, match=r"--base-url is '.*', expected a path such as /brain/"):
        page_server.base_address(given_)


@pytest.mark.parametrize("given_", ["http://x", "x:80", "", "*", "a b", "x/y"])
def test_what_is_no_name_is_an_error(given_):
    with pytest.raises(ValueError, match=r"--allow-host is '.*', expected a name: lab\.example\.org"):
        page_server.host_name(given_)


# --- a server with two places, below /brain/ and by the name lab.example.org ---


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    import nbformat

    folder = tmp_path_factory.mktemp("page")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print('at', 'work')")])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "page.ipynb")
    command = [sys.executable, "-c", SERVE, str(folder / "page.ipynb"), str(free_port())]
    with running(command, tmp_path_factory.mktemp("words")) as started:
        yield started
        assert "Traceback" not in started.log, started.log


def port_of(server: Server) -> int:
    return urlsplit(server.url).port


def ask(port: int, path: str, method="GET", body=None, **headers) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    answer.body = answer.read().decode("utf-8", "replace")
    return answer


def raw(port: int, request: bytes) -> bytes:
    """What comes back for these bytes, until the server hangs up."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection, suppress(ConnectionError):
        connection.sendall(request)
        while piece := connection.recv(65536):
            answer += piece
    return answer


BAD = ["%00", "a%00b", "%ff", "%C3%28", "%0d%0aX:%20y", "%1b[2J", "%7f", "%ed%a0%80"]
PLACES = [
    "/{}", "/brain/{}", "/brain/?token={}", "/brain/voila/static/{}", "/brain/static/{}", "/brain/login?next={}",
    "/brain/voila/templates/lab/static/{}", "/brain/voila/labextensions/{}", "/brain/voila/api/themes/{}",
    "/brain/voila/api/shutdown/{}", "/brain/api/kernels/{}", "/voila/files/{}",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_an_address_that_is_no_text_is_400_and_one_line(server, place):
    for bad in BAD:
        for headers in ({}, TOKEN):
            assert ask(port_of(server), place.format(bad), **headers).status == 400, bad
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    "line", [b"/\xff", b"/\xc3(", b"/brain/?x=\xe9", b"*", b"http://elsewhere.example/", b"brain", b"/%", b"/%zz"]
)
def test_raw_bytes_and_odd_targets_are_answered_without_a_traceback(server, line):
    answer = raw(port_of(server), b"GET " + line + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer == b"" or 300 <= int(answer.split()[1]) < 500
    assert "Traceback" not in server.log


@pytest.mark.parametrize("name", ["Origin", "Referer", "Host", "Cookie", "Authorization", "X-XSRFToken", "Range"])
@pytest.mark.parametrize("value", ["http://[", "[::1", "\xff", "http://x:port", "a" * 3000, "token \xff", "bytes=9-1"])
def test_odd_headers_are_answered_without_a_traceback(server, name, value):
    for method, path in (("GET", "/brain/"), ("GET", f"/brain/api/kernels/{A_KERNEL}"), ("POST", "/brain/login"),
                         ("GET", "/brain/voila/static/voila.js"), ("GET", f"/brain/api/kernels/{A_KERNEL}/channels"),
                         ("POST", f"/brain/voila/api/shutdown/{A_KERNEL}")):  # fmt: skip
        assert ask(port_of(server), path, method, **{name: value}).status < 500
    assert "Traceback" not in server.log


def test_what_is_too_large_is_not_taken_in(server):
    port, before = port_of(server), memory(server.process.pid)
    answer = raw(port, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 300_000 + b"\r\n\r\n")
    assert answer == b"" or answer.split()[1] in (b"400", b"431")
    head = b"POST /brain/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    answer = raw(port, head % 10**12)
    assert answer == b"" or answer.split()[1] in (b"400", b"413")
    assert ask(port, "/brain/login").status == 200
    assert memory(server.process.pid) - before < 20e6


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 302), ("127.0.0.1:80", 302), ("[::1]:5", 302), (NAME, 302), (f"{NAME.upper()}:8443", 302),
        ("elsewhere.example", 403), (f"x.{NAME}", 403), (f"{NAME}.example", 403), ("10.0.0.7", 403), ("", 403),
    ],
)  # fmt: skip
def test_it_answers_to_the_names_it_was_told(server, host, status):
    for path in ("/", "/brain/"):
        assert ask(port_of(server), path, Host=host).status == status
    if status == 403:
        assert ask(port_of(server), "/brain/voila/static/voila.js", Host=host).status == 403


# --- by a proxy ---


def kernel_of(page: str) -> str:
    (kernel,) = set(re.findall(r'"kernelId":\s*"([^"]+)"', page))
    return kernel


@contextmanager
def seated(port: int) -> Iterator[str]:
    """A visitor's kernel, who leaves at the end."""
    page = ask(port, "/brain/?token=token")
    assert page.status == 200 and "at work" in page.body and page.body.count(page_places.GONE) == 1
    kernel = kernel_of(page.body)
    try:
        yield kernel
    finally:
        leave(port, kernel)


def leave(port: int, kernel: str) -> None:
    assert ask(port, f"/brain/voila/api/shutdown/{kernel}", "POST", **TOKEN).status == 204


async def say(port: int, kernel: str, message, protocol=True, **headers):
    """Send a message; what the kernel replies, or the code that the connection is closed with."""
    address = f"ws://127.0.0.1:{port}/brain/api/kernels/{kernel}/channels?session_id=s"
    request = HTTPRequest(address, headers=headers or TOKEN)
    channel = await websocket_connect(request, subprotocols=[page_door.V1] if protocol else None)
    try:
        await channel.write_message(message, binary=isinstance(message, bytes))
        while True:
            answer = await asyncio.wait_for(channel.read_message(), 30)
            if answer is None:
                return channel.close_code
            if b"kernel_info_reply" in (answer if isinstance(answer, bytes) else answer.encode()):
                return "kernel_info_reply"
    finally:
        channel.close()


@pytest.mark.parametrize(
    ("strip", "host"),
    [
        pytest.param(False, "127.0.0.1:8866", id="nginx"),
        pytest.param(False, None, id="nginx, the visitor's host", marks=pytest.mark.slow),
        pytest.param(True, None, id="jupyter-server-proxy"),
        pytest.param(True, "localhost", id="without prefix, its own host", marks=pytest.mark.slow),
    ],
)
def test_the_page_works_behind_a_proxy(server, strip, host):
    asked_for = {"Host": f"{NAME}:8443"}
    with proxy(port_of(server), "/brain/", strip, host) as port:
        assert ask(port, "/", **asked_for).status == 404, "the proxy has more than the page"
        login = ask(port, "/brain/", **asked_for)
        assert login.status == 302 and login.getheader("Location") == "/brain/login?next=%2Fbrain%2F"
        form = ask(port, login.getheader("Location"), **asked_for)
        assert form.status == 200 and 'name="password"' in form.body
        page = ask(port, "/brain/?token=token", **asked_for)
        assert page.status == 200 and "at work" in page.body
        kernel = kernel_of(page.body)
        try:
            cookie = page.getheader("Set-Cookie").partition(";")
            assert "Path=/brain/" in cookie[2]
            found = re.findall(r"""<(?:link|script)[^>]*(?:href|src)=["']([^"']+)""", form.body + page.body)
            own = {urljoin("/brain/login", address) for address in found if not address.startswith("data:")}
            assert len(own) > 4 and all(address.startswith("/brain/") for address in own), own
            for address in own:
                assert ask(port, address, **asked_for).status == 200, address
            login = {"Cookie": cookie[0], **asked_for}  # who brings the token itself may come from anywhere
            origin = {"Origin": f"https://{NAME}:8443", **login}
            assert asyncio.run(say(port, kernel, v1(fresh()), **origin)) == "kernel_info_reply"
            for other in ("https://elsewhere.example", f"https://{NAME}.example", "null"):
                with pytest.raises(HTTPClientError, match="403"):
                    asyncio.run(say(port, kernel, v1(fresh()), **{**login, "Origin": other}))
            farewell = ask(port, f"/brain/voila/api/shutdown/{kernel}", "POST", **origin)
            assert farewell.status == 204
        finally:
            ask(port, f"/brain/voila/api/shutdown/{kernel}", "POST", **TOKEN)


# --- hostile messages, and more visitors than places ---


def test_no_message_ends_anything_but_its_own_connection(server):
    port = port_of(server)
    with seated(port) as kernel, seated(port) as other:
        before = memory(server.process.pid)
        for name, (message, is_v1) in NO_MESSAGES.items():
            started = time.perf_counter()
            assert asyncio.run(say(port, kernel, message, is_v1)) == 1008, name
            assert time.perf_counter() - started < 10, name
        for channel in ("iopub", "stdin", "nowhere"):
            assert asyncio.run(say(port, kernel, v1(channel=channel), True)) == 1008
        assert asyncio.run(say(port, kernel, bytes(page_door.MESSAGE + 1), False)) in (None, 1009)
        for one in (kernel, other):
            assert asyncio.run(say(port, one, v1(fresh()))) == "kernel_info_reply"
            assert asyncio.run(say(port, one, json.dumps(fresh()), False)) == "kernel_info_reply"
        assert memory(server.process.pid) - before < 50e6
    assert "Traceback" not in server.log and "a message to a kernel was refused" in server.log


def test_a_flood_is_stopped_and_its_kernel_can_be_spoken_to_again(server):
    port = port_of(server)

    def large() -> bytes:
        return v1(fresh(x="a" * (page_door.MESSAGE // 2)))

    async def flood() -> int:
        address = f"ws://127.0.0.1:{port}/brain/api/kernels/{kernel}/channels?session_id=f"
        channel = await websocket_connect(HTTPRequest(address, headers=TOKEN), subprotocols=[page_door.V1])
        for _ in range(12):
            await channel.write_message(large(), binary=True)
        while await asyncio.wait_for(channel.read_message(), 30) is not None:
            pass
        return channel.close_code

    with seated(port) as kernel:
        assert asyncio.run(flood()) == 1008
        assert asyncio.run(say(port, kernel, large())) == 1008  # a new connection is no new allowance
        assert asyncio.run(say(port, kernel, v1(fresh()))) == "kernel_info_reply"


def test_who_finds_no_place_is_told_so_and_asked_to_wait(server):
    port = port_of(server)
    with ThreadPoolExecutor(6) as visitors:
        found = list(visitors.map(lambda _: ask(port, "/brain/?token=token"), range(6)))
    served = [page for page in found if page.status == 200]
    refused = [page for page in found if page.status == 503]
    assert len(served) == 2 and len(refused) == 4 and len(children(server.process.pid)) == 2
    for page in refused:
        assert page.getheader("Retry-After") == "20" and "All 2 places are taken" in page.body
        assert '<meta http-equiv="refresh" content="20">' in page.body and "<script" not in page.body
    assert ask(port, "/brain/voila/static/voila.js").status == 200
    leave(port, kernel_of(served[0].body))
    again = ask(port, "/brain/?token=token")
    assert again.status == 200 and "at work" in again.body
    for page in (served[1], again):
        leave(port, kernel_of(page.body))
    assert "Traceback" not in server.log


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds a kernel's process as Linux does")
def test_a_kernel_that_is_killed_gives_its_place_back(server):
    port = port_of(server)
    page = ask(port, "/brain/?token=token")
    (process,) = children(server.process.pid)
    os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while ask(port, f"/brain/api/kernels/{kernel_of(page.body)}", **TOKEN).status != 404:
        assert time.monotonic() < deadline and time.sleep(0.2) is None
    while children(server.process.pid):
        assert time.monotonic() < deadline and time.sleep(0.2) is None
    assert "Traceback" not in server.log


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="measures memory as Linux does")
def test_twenty_pages_at_once_take_no_more_memory_than_their_places(tmp_path):
    """With the demo itself; `benchmarks/visitors.py` measures the same with as many places as one likes."""
    command = [*COMMAND_LINE, "app", "--no-browser", "--port", str(free_port()), "--token", "t", "--visitors", "2"]
    with running(command, tmp_path) as server:
        alone = memory(server.process.pid)
        with ThreadPoolExecutor(20) as visitors:
            pages = list(visitors.map(lambda _: ask(port_of(server), "/?token=t").status, range(20)))
        assert sorted(pages) == [200] * 2 + [503] * 18
        assert memory(server.process.pid) - alone < 2 * page_places.PLACE
        assert "Traceback" not in server.log
