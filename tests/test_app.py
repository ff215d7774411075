"""`visdec-lite app`: what the page is made of, who may see it, what else can be reached, and how it ends."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from page_process import COMMAND_LINE, Server, children, free_port, running
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect
from typer.testing import CliRunner

from visdec_lite import chain, cli
from visdec_lite.datasets import load_dataset
from visdec_lite.presets import preset_for
from visdec_lite.widgets import app as page
from visdec_lite.widgets.brain import BrainToImageDemo
from visdec_lite.widgets.brain_state import BrainState

TOKEN = "a token + signs"
IN_URL = "a%20token%20%2B%20signs"
SHIPPED = chain.shipped("simulated")


def code_of(notebook: Path) -> str:
    return "\n".join(c["source"] for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code")


# --- the notebook ---


def test_the_notebook_says_simulated_and_holds_no_output(tmp_path):
    import nbformat

    file = page.write_notebook(tmp_path / "page.ipynb")
    nbformat.validate(nbformat.read(file, as_version=4))
    cells = json.loads(file.read_text())["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code"] and cells[1]["outputs"] == []
    assert "**simulated**" in cells[0]["source"] and "nobody was scanned" in cells[0]["source"]
    assert code_of(file) == "from visdec_lite.widgets.app import show_demo\n\nshow_demo(dataset='simulated')"
    assert list(tmp_path.iterdir()) == [file]


def test_a_page_of_recordings_does_not_say_simulated(tmp_path):
    file = page.write_notebook(tmp_path / "page.ipynb", "digits69", path="/some/where", pipeline="/it's here")
    words = json.loads(file.read_text())["cells"][0]["source"]
    assert "simulated" not in words and "person" in words and "digits69" in words
    assert code_of(file).endswith("""show_demo(dataset='digits69', path='/some/where', pipeline="/it's here")""")
    compile(code_of(file), "page", "exec")


def test_the_page_shows_the_demo_and_leaves_its_pictures(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append(a[0]))
    page.show_demo(dataset="simulated", path=None, pipeline=None)
    (demo,) = shown
    assert isinstance(demo, BrainToImageDemo) and demo.dataset.simulated
    assert "nobody was scanned" in demo.title


def test_an_error_is_said_on_the_page_before_it_is_raised(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append(a[0].data))
    with pytest.raises(ValueError, match="no brain is shipped trained for digits<b>"):
        page.show_demo(dataset="digits<b>")
    assert 'role="alert"' in shown[0] and "This did not work: no brain is shipped" in shown[0]
    assert "<b>" not in shown[0], "words are not escaped"


# --- what it shows ---


def test_a_saved_pipeline_is_shown_with_the_referee_of_its_data(tmp_path):
    demo = BrainToImageDemo.simulated()
    demo.pipe.save_pretrained(tmp_path / "mine")
    own = page.make_demo("simulated", pipeline=str(tmp_path / "mine"))
    small = BrainState(steps=2, samples=1)
    painted, expected = (one.paint(one.scan(small), small, lambda step: None) for one in (own, demo))
    np.testing.assert_array_equal(painted, expected)
    np.testing.assert_array_equal(own._classify(painted), demo._classify(painted))


def test_trained_stages_are_shown_as_the_train_command_writes_them(tmp_path):
    for stage in chain.BRAIN_STAGES:
        (tmp_path / f"{stage}.safetensors").symlink_to(SHIPPED / f"{stage}.safetensors")
    demo = page.make_demo("simulated", pipeline=str(tmp_path))
    expected = BrainToImageDemo.simulated()
    assert demo.dataset.num_voxels == expected.dataset.num_voxels
    for name, weight in expected.pipe.unet.state_dict().items():
        assert weight.equal(demo.pipe.unet.state_dict()[name]), name


def test_recordings_are_shown_with_a_pipeline_of_their_own(shared_data, tmp_path):
    path = shared_data / "digits69" / "digits69_dev.mat"
    chosen = preset_for("digits69", "class").with_categories(2)
    data = chain.ready_for(load_dataset("digits69", root=path), chosen)
    world = chain.load_world(chain.shipped("digits69"), chosen)
    chain.new_brain(chosen, data.num_voxels, world, seed=0).pipeline(chosen).save_pretrained(tmp_path)
    demo = page.make_demo("digits69", path=str(path), pipeline=str(tmp_path))
    assert not demo.dataset.simulated and demo.title == f"From brain to image: {data.name}"
    demo.set(steps=1, samples=1)
    assert demo.result.categories == 2 and {name for name, _ in demo.result.top} == {"six", "nine"}


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ({"dataset": "simulated", "path": "/nowhere"}, ValueError, "--path is /nowhere; leave it out"),
        ({"dataset": "digits69"}, ValueError, "visdec-lite train finetune --dataset digits69 --out FOLDER"),
        ({"dataset": "digits69", "pipeline": "/nowhere"}, FileNotFoundError, r"/nowhere holds no pipeline \(model_in"),
        ({"dataset": "simulatd", "pipeline": str(SHIPPED)}, ValueError, "did you mean 'simulated'"),
        ({"dataset": "digits69", "path": "/nowhere", "pipeline": str(SHIPPED)}, FileNotFoundError, "nowhere"),
    ],
)
def test_what_cannot_be_shown_is_said_with_the_way_out(what, error, words):
    with pytest.raises(error, match=words):
        page.make_demo(**what)


# --- the command ---


@pytest.fixture
def served(monkeypatch) -> dict:
    """What the command asks the server for, instead of a server."""
    asked = {}

    def listening(ip, port):
        asked.update(ip=ip, port=port)
        return ["sockets"]

    def serve(notebook, sockets, token, *, tell, **options):
        assert sockets == ["sockets"]
        asked.update(code=code_of(notebook), mode=notebook.parent.stat().st_mode & 0o777, folder=notebook.parent)
        asked.update(options, token=token)
        tell(f"http://{asked['ip']}:{asked['port']}{options['base_url']}?token={token}")

    monkeypatch.setattr("visdec_lite.widgets.page_server.serve", serve)
    monkeypatch.setattr("visdec_lite.widgets.page_server.listening", listening)
    monkeypatch.setattr("visdec_lite.widgets.page_places.free_memory", lambda: 9 * 2**30)
    monkeypatch.setattr("visdec_lite.widgets.page_places.place_here", lambda: 3 * 2**30)
    for name in ("VISDEC_DATA", "OMP_WAIT_POLICY", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "set by a test")  # so that what the command sets is taken back
    return asked


def test_only_this_machine_and_a_random_token_unless_told_otherwise(served, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    first = CliRunner().invoke(cli.app, ["app"])
    assert first.exit_code == 0 and (served["ip"], served["port"]) == ("127.0.0.1", None)
    assert (served["base_url"], served["names"], served["places"]) == ("/", [], 7)
    assert served["open_browser"] and "network" not in first.output and "encrypted" not in first.output
    token = served["token"]
    assert len(token) >= 40 and CliRunner().invoke(cli.app, ["app"]).exit_code == 0
    assert served["token"] != token, "the token is not random"
    assert served["mode"] == 0o700 and not served["folder"].exists()
    import os

    assert (os.environ["OMP_WAIT_POLICY"], os.environ["HF_HUB_OFFLINE"]) == ("PASSIVE", "1")
    assert Path(os.environ["VISDEC_DATA"]).is_absolute()


def test_options_reach_the_server_and_the_page(served, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(page, "make_demo", lambda **what: asked.append(what))
    monkeypatch.chdir(tmp_path)
    words = "app --ip 0.0.0.0 --port 9000 --token secret --no-browser --dataset digits69 --path a.mat --pipeline p"
    done = CliRunner().invoke(cli.app, words.split())
    assert done.exit_code == 0, done.output
    assert (served["ip"], served["port"], served["token"], served["open_browser"]) == ("0.0.0.0", 9000, "secret", False)
    what = {"dataset": "digits69", "path": str(tmp_path / "a.mat"), "pipeline": str(tmp_path / "p")}
    assert asked == [what], "what is wrong must be found before the page is opened"
    assert "for 3 at a time" in done.output and "Behind a proxy" not in done.output
    assert all(f"{name}={value!r}" in served["code"] for name, value in what.items())
    assert "not encrypted" in done.output


def test_a_proxy_and_visitors_reach_the_server_and_are_told(served):
    words = "app --base-url brain --allow-host Lab.example.org --allow-host b --visitors 9 --token t"
    done = CliRunner().invoke(cli.app, words.split())
    assert done.exit_code == 0, done.output
    assert (served["base_url"], served["names"], served["places"]) == ("/brain/", ["lab.example.org", "b"], 9)
    assert "Behind a proxy: lab.example.org/brain/?token=t\n" in done.output
    assert "for 9 at a time" in done.output and "need 12 GB of memory; there is room for 7" in done.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "--ip nonsense.invalid",
            r"error: --ip nonsense\.invalid is no address of this machine \(.+\); leave it out .*",
        ),
        ("--ip 192.0.2.1", r"error: --ip 192\.0\.2\.1 is no address of this machine .*"),
        ("--base-url http://x/", r"error: --base-url is 'http://x/', expected a path such as /brain/, .*"),
        ("--allow-host http://x/", r"error: --allow-host is 'http://x/', expected a name: .*"),
        ("--pipeline nowhere", r"error: \S+nowhere holds no pipeline \(model_index\.json\) .*"),
    ],
)
def test_what_is_wrong_is_one_sentence_before_the_work(monkeypatch, capsys, words, sentence):
    monkeypatch.setattr("visdec_lite.widgets.page_server.serve", lambda *a, **k: pytest.fail("a page was served"))
    if "--pipeline" not in words:
        monkeypatch.setattr(page, "make_demo", lambda **what: pytest.fail("work was done"))
    for name in ("VISDEC_DATA", "OMP_WAIT_POLICY", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "set by a test")
    what = "" if "--pipeline" in words else " --dataset digits69 --path x --pipeline y"
    monkeypatch.setattr(sys, "argv", ["visdec-lite", "app", *(words + what).split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 1 and out == ""
    assert re.fullmatch(sentence + r"\n", err), err


def test_a_port_that_is_taken_is_one_sentence_before_the_work(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = f"error: port {port} is taken; choose another, or leave --port out for a free one"
        test_what_is_wrong_is_one_sentence_before_the_work(monkeypatch, capsys, f"--port {port}", sentence)


@pytest.mark.parametrize("words", ["--port 0", "--port 70000", "--port x", "--visitors 0"])
def test_what_is_no_number_of_its_kind_is_a_usage_error(served, words):
    done = CliRunner().invoke(cli.app, ["app", *words.split()])
    assert done.exit_code == 2 and f"Invalid value for '{words.split()[0]}'" in done.output and not served


def test_an_empty_token_is_refused(served):
    done = CliRunner().invoke(cli.app, ["app", "--token", ""])
    assert isinstance(done.exception, ValueError) and "let everybody in" in str(done.exception) and not served


def test_without_voila_the_way_out_is_said(served, monkeypatch):
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "voila" else object())
    done = CliRunner().invoke(cli.app, ["app"])
    assert isinstance(done.exception, ImportError) and not served
    assert str(done.exception) == 'voila missing; install the notebook tools: pip install -e ".[notebooks]"'


def test_the_command_line_does_not_wait_for_voila():
    heavy = "{'voila', 'torch', 'ipywidgets', 'tornado', 'numpy'}"
    asks = f"import sys, visdec_lite.widgets.app; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_ctrl_c_before_the_page_is_up_is_status_130(served, monkeypatch):
    def interrupted(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr("visdec_lite.widgets.page_server.serve", interrupted)
    assert CliRunner().invoke(cli.app, ["app"]).exit_code == 130


@pytest.mark.parametrize(
    ("ip", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.7", False)]
)
def test_which_addresses_only_this_machine_reaches(ip, local):
    from visdec_lite.widgets.page_server import is_local

    assert is_local(ip) is local


@pytest.mark.parametrize(
    ("ip", "host"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("0.0.0.0", socket.gethostname())]
)
def test_the_address_can_be_opened(ip, host):
    from visdec_lite.widgets.page_server import PageServer

    assert PageServer(ip=ip, port=9000, token=TOKEN).url == f"http://{host}:9000/?token={IN_URL}"


def test_style_sheets_and_scripts_of_other_machines_are_taken_out():
    from visdec_lite.widgets.page_server import OTHER_MACHINES

    own = '<script src="/voila/static/voila.js"></script><link rel="icon" href="data:;base64,="><a href="https://x.org">x</a>'
    others = '<link rel="stylesheet" href="https://x.org/a.css" /><script src=\'//x.org/a.js\'></script>'
    assert OTHER_MACHINES.sub("", own + others) == own


# --- the server ---


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    command = [*COMMAND_LINE, "app", "--no-browser", "--port", str(free_port()), "--token", TOKEN]
    with running(command, tmp_path_factory.mktemp("app")) as started:
        yield started


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    """The answer as it is, redirections not followed."""
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)
    connection.request(method, path, headers=headers)
    return connection.getresponse()


WITH_TOKEN = {"Authorization": f"token {TOKEN}"}
A_KERNEL = str(uuid.UUID(int=1))


def test_the_address_carries_the_token_and_is_local(server):
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/\?token={re.escape(IN_URL)}", server.url)
    addresses = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in addresses - {"127.0.0.1"}:
        if address.startswith("127."):
            continue
        with socket.socket() as probe:
            assert probe.connect_ex((address, urlsplit(server.url).port)) != 0, f"answers on {address}"


@pytest.mark.parametrize("path", ["/", "/?token=wrong", "/?token="])
def test_without_the_token_the_page_is_not_shown(server, path):
    answer = ask(server, path)
    assert answer.status == 302 and answer.getheader("Location").startswith("/login?next=")
    assert not children(server.process.pid), "a kernel was started for nobody"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/api/kernels/{A_KERNEL}"),
        ("DELETE", f"/api/kernels/{A_KERNEL}"),
        ("GET", f"/api/kernels/{A_KERNEL}/channels"),
        ("POST", f"/voila/api/shutdown/{A_KERNEL}"),
    ],
)
def test_kernels_ask_for_the_token(server, method, path):
    assert ask(server, path, method).status == 403
    assert ask(server, path, method, **WITH_TOKEN).status == 404  # there is no such kernel


@pytest.mark.parametrize("headers", [{}, WITH_TOKEN], ids=["without token", "with token"])
@pytest.mark.parametrize(
    "path",
    [
        "/brain-to-image.ipynb", "/voila/files/brain-to-image.ipynb", "/voila/files/open.html", "/voila/tree", "/tree",
        "/lab", "/voila/render/brain-to-image.ipynb", "/api/contents", "/voila/api/contents", "/api/kernels",
        "/api/sessions", "/api/terminals", "/terminals/1", "/files/brain-to-image.ipynb", "/nbconvert/html/x.ipynb",
        "/voila/static/../../../../../../etc/passwd", "/voila/templates/lab/static/../../../../../etc/passwd",
        "/voila/execution/" + A_KERNEL,
    ],
)  # fmt: skip
def test_nothing_else_is_reachable(server, path, headers):
    assert ask(server, path, **headers).status in (403, 404)


def test_kernels_cannot_be_started_by_asking(server):
    assert ask(server, "/api/kernels", "POST", **WITH_TOKEN).status == 404
    assert not children(server.process.pid)


def test_another_name_for_this_machine_is_refused(server):
    assert ask(server, f"/?token={IN_URL}", Host="elsewhere.example").status == 403


async def send(server: Server, kernel: str, **messages: str) -> set[str]:
    """Send messages of these kinds to a kernel, in this order; kinds of its answers, up to that to the last one."""
    address = f"ws://{urlsplit(server.url).netloc}/api/kernels/{kernel}/channels?session_id=a-test"
    channel = await websocket_connect(HTTPRequest(address, headers=WITH_TOKEN))
    for kind, code in messages.items():
        header = {"msg_id": kind, "msg_type": kind, "username": "", "session": "a-test", "version": "5.3"}
        content = {"code": code, "silent": False} if code else {}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        await channel.write_message(json.dumps(message))
    answers: dict[str, str] = {}
    while kind not in answers:
        answer = json.loads(await asyncio.wait_for(channel.read_message(), 60))
        if answer["channel"] == "shell" and answer["parent_header"].get("msg_id") in messages:
            answers[answer["parent_header"]["msg_id"]] = answer["msg_type"]
    channel.close()
    return set(answers.values())


@pytest.mark.slow
def test_the_page_runs_shows_no_code_and_its_kernel_ends_with_it(server, tmp_path):
    answer = ask(server, f"/?token={IN_URL}")
    body = answer.read().decode("utf-8")
    assert answer.status == 200
    assert "show_demo" not in body and "import " not in re.sub(r"<script.*?</script>", "", body, flags=re.S)
    assert "<strong>simulated</strong>" in body and "The picture seen (" in body and "data:image/png;base64," in body
    assert "Traceback" not in body and "Traceback" not in server.log
    assert not re.search(r"""<(?:link|script)[^>]*(?:href|src)=["']https?:""", body)
    (kernel,) = set(re.findall(r'"kernelId":\s*"([^"]+)"', body))
    assert ask(server, f"/api/kernels/{kernel}", **WITH_TOKEN).status == 200
    file = tmp_path / "made by code"
    assert asyncio.run(send(server, kernel, execute_request=f"open({str(file)!r}, 'w')", kernel_info_request="")) == {
        "kernel_info_reply"
    }
    assert not file.exists()
    cookie = answer.getheader("Set-Cookie").partition(";")[0]
    assert ask(server, f"/voila/api/shutdown/{kernel}", "POST", Cookie=cookie).status == 204
    assert ask(server, f"/api/kernels/{kernel}", **WITH_TOKEN).status == 404


def test_ctrl_c_ends_it_and_leaves_nothing(tmp_path):
    command = [*COMMAND_LINE, "app", "--no-browser", "--port", str(free_port())]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with running(command, tmp_path / "words", TMPDIR=str(temporary)) as started:
        assert len(started.url.partition("token=")[2]) >= 40 and any(temporary.iterdir())
        assert started.stop() == 0
        assert "Traceback" not in started.log and not list(temporary.iterdir())
