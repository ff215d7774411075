"""The widgets in a real browser: the page of `visdec-lite app`, and a lesson in JupyterLab.

Needs Playwright for Python and a Chromium that is installed already; nothing is downloaded. Screenshots are kept in the
folder that VISDEC_ARTEFACTS names.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from page_process import COMMAND_LINE, HEARS_CTRL_C, Server, children, free_port, proxy, running
from PIL import Image

from visdec_lite.widgets import drawing
from visdec_lite.widgets.base import DPI
from visdec_lite.widgets.brain_state import colourfulness

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright for Python: pip install playwright")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason=f"needs a browser: none of {', '.join(BROWSERS)} is installed"),
]

ROOT = Path(__file__).resolve().parent.parent
PAINTED = ".visdec-widget img[alt^='The picture seen']"
HOURGLASS = 3  # a test stimulus, "blue hourglass"
TILES = ("seen", "ridge", "painted 1", "painted 2", "painted 3", "painted 4", "mean")
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
SECONDS = 10.0  # in which pictures must be there, on a machine that has nothing else to do
PATIENCE = 300_000.0  # ms for what no claim is made about
LESSON = 900_000.0  # ms; a lesson takes minutes, beside other work many


@dataclass
class Watched:
    """A page, and what went wrong in it."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)  # what other machines were asked for

    def __post_init__(self) -> None:
        self.page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", lambda r: r.status >= 400 and self.complaints.append(f"{r.status} {r.url}"))
        self.page.on("request", lambda r: self._outside(r.url) and self.elsewhere.append(r.url))

    @staticmethod
    def _outside(url: str) -> bool:
        return not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:", "about:"))

    # --- the demo ---

    def picture(self) -> tuple[str, str]:
        """Source and alt text of the row of pictures."""
        image = self.page.locator(PAINTED)
        return image.get_attribute("src"), image.get_attribute("alt")

    def answered(self, *words: str, timeout: float = PATIENCE) -> dict[str, np.ndarray]:
        """The tiles once the row of pictures is finished and its alt text has these words.

        Ridge regression's picture comes with the last answer, never with one in between.
        """
        said = ["picture of ridge regression", "after 10 of 10 steps", *words]
        self.page.wait_for_function(
            "([image, said]) => said.every(words => document.querySelector(image)?.alt.includes(words))",
            arg=[PAINTED, said],
            timeout=timeout,
        )
        return tiles(self.picture()[0])

    def choose(self, stimulus: int) -> None:
        self.page.locator(".visdec-widget").get_by_label("picture seen").select_option(index=stimulus)

    def handle(self, label: str) -> Any:
        """What moves a slider."""
        slider = self.page.locator(".visdec-widget .widget-slider").filter(has=self.page.get_by_text(label, exact=True))
        return slider.locator(".noUi-handle")

    def press(self, words: str) -> None:
        self.page.locator(".visdec-widget").get_by_role("button", name=words).click()


def tiles(source: str) -> dict[str, np.ndarray]:
    """The pictures of a row, uint8 (h, w, 3), cut out of the PNG that the browser shows."""
    row = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))).convert("RGB"))
    side = min(drawing.CELL, (drawing.WIDTH - 0.1) / len(TILES) - drawing.GAP)  # inches, as in picture_rows
    top, left, margin = drawing.HEAD + drawing.CAPTION, 0.1, 0.05  # the margin leaves out the frame
    found = {}
    for column, name in enumerate(TILES):
        x, y = left + column * (side + drawing.GAP), top
        edges = np.rint(DPI * np.array([y + margin, y + side - margin, x + margin, x + side - margin])).astype(int)
        found[name] = row[edges[0] : edges[1], edges[2] : edges[3]]
    return found


def hue(picture: np.ndarray) -> np.ndarray:
    """Direction of a picture's colour, its most saturated parts counting most; length 1, (3,)."""
    pixels = picture.reshape(-1, 3).astype(float)
    weights = (pixels.max(1) - pixels.min(1)) ** 2
    mean = weights @ (pixels - pixels.mean(1, keepdims=True))
    return mean / np.linalg.norm(mean)


def likeness_of_hue(shown: dict[str, np.ndarray]) -> float:
    """Cosine between the colour of the picture seen and those of the four painted, averaged: 1 is the same."""
    return float(np.mean([hue(shown["seen"]) @ hue(shown[f"painted {i}"]) for i in range(1, 5)]))


def busy() -> float:
    """How many times as long as on an idle machine something may take: waiting processes a core, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory) -> Path:
    folder = Path(os.environ.get("VISDEC_ARTEFACTS") or tmp_path_factory.mktemp("artefacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if as_root else [])
        yield browser
        browser.close()


def opened(chromium, address: str) -> Watched:
    page = chromium.new_context(viewport={"width": 1400, "height": 1000}).new_page()
    page.set_default_timeout(PATIENCE)
    watched = Watched(page)
    page.goto(address)
    return watched


# --- the page of `visdec-lite app` ---


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Iterator[Server]:
    command = [*COMMAND_LINE, "app", "--no-browser", "--port", str(free_port())]
    with running(command, tmp_path_factory.mktemp("app")) as server:
        yield server


@pytest.fixture(scope="module")
def shown(app, chromium) -> Iterator[Watched]:
    watched = opened(chromium, app.url)
    watched.answered()
    yield watched
    watched.page.context.close()


def assert_all_is_well(watched: Watched, server: Server) -> None:
    assert watched.complaints == []
    assert watched.page.get_by_role("alert").count() == 0
    for word in ("Traceback", "Error", "Exception"):
        assert word not in server.log


def test_the_page_says_simulated_and_shows_no_code(app, shown):
    words = shown.page.locator("body").inner_text()
    assert "nobody was scanned" in words and "simulated" in words
    assert "import" not in words and "show_demo" not in words
    assert shown.page.locator("pre, .highlight, .cm-editor, .jp-InputPrompt").count() == 0
    assert shown.elsewhere == [], "the page asked other machines"
    assert shown.page.locator(f"{PAINTED}:visible").count() == 1
    assert shown.page.locator("img[alt^='The picture seen']:visible").count() == 1, "the static copy shows as well"
    assert_all_is_well(shown, app)


def test_a_picture_that_is_chosen_is_painted_within_ten_seconds(app, shown, artefacts):
    shown.choose(0)
    shown.answered("blue triangle")
    before = busy()
    started = time.perf_counter()
    shown.choose(HOURGLASS)
    found = shown.answered("blue hourglass")
    took = time.perf_counter() - started
    assert took < SECONDS * max(before, busy())
    assert likeness_of_hue(found) > 0.9 and found["painted 1"].std() > 5
    shown.page.screenshot(path=artefacts / "app.png", full_page=True)
    assert_all_is_well(shown, app)


def test_a_slider_is_reached_by_tab_and_moved_by_arrow_keys(app, shown):
    page = shown.page
    page.locator(".visdec-widget").get_by_label("scan", exact=True).focus()
    for _ in range(2 * 4):  # V1, V2, V3, V4, each with a number beside it that can be typed
        focused = page.evaluate("document.activeElement.closest('.widget-slider')?.innerText ?? ''")
        if focused.startswith("gain of V4"):
            break
        page.keyboard.press("Tab")
    assert focused.split("\n")[0] == "gain of V4", "four sliders on is not that of V4"
    assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"
    page.keyboard.press("ArrowLeft")
    shown.answered("V4 x 0.9")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"!document.querySelector(\"{PAINTED}\").alt.includes('V4')")
    shown.answered()
    page.keyboard.press("Home")
    shown.answered("V4 silenced")
    page.locator(".visdec-widget").get_by_role("button", name="Heal the brain").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"!document.querySelector(\"{PAINTED}\").alt.includes('V4')")
    shown.answered()
    assert_all_is_well(shown, app)


def test_the_brain_can_be_turned(app, shown, artefacts):
    shown.press("Turn the brain (3-D)")
    shown.page.locator(".visdec-widget .js-plotly-plot .gl-container").first.scroll_into_view_if_needed()
    shown.page.screenshot(path=artefacts / "app_turned.png", full_page=True)
    shown.press("Turn the brain (3-D)")
    shown.page.locator(".visdec-widget .js-plotly-plot").first.wait_for(state="detached")
    assert shown.elsewhere == []
    assert_all_is_well(shown, app)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="counts processes as Linux does")
def test_a_page_that_is_closed_ends_its_kernel(app, chromium):
    others = children(app.process.pid)
    second = opened(chromium, app.url)
    second.answered()
    own = children(app.process.pid) - others
    assert len(own) == 1
    second.page.goto("about:blank")
    deadline = time.monotonic() + 60
    while own & children(app.process.pid):
        assert time.monotonic() < deadline, f"its kernel is still there: {app.log}"
        time.sleep(0.2)
    assert_all_is_well(second, app)
    second.page.context.close()


def test_behind_a_proxy_one_waits_until_the_other_has_gone(tmp_path, chromium, artefacts):
    name = "lab.localhost"  # browsers ask this machine for it
    command = [*COMMAND_LINE, "app", "--no-browser", "--port", str(free_port()), "--token", "t", "--visitors", "1"]
    command += ["--base-url", "/brain/", "--allow-host", name]
    with running(command, tmp_path) as server, proxy(urlsplit(server.url).port, "/brain/", True, None) as port:
        address = f"http://{name}:{port}/brain/?token=t"
        first = opened(chromium, address)
        first.answered()
        first.choose(HOURGLASS)
        first.answered("blue hourglass")
        assert first.complaints == []
        second = opened(chromium, address)
        second.page.get_by_role("status").wait_for()
        assert "The only place is taken" in second.page.locator("body").inner_text()
        second.page.screenshot(path=artefacts / "app_full.png")
        kernel = first.page.evaluate('JSON.parse(document.getElementById("jupyter-config-data").textContent).kernelId')
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(server.url).port)
        connection.request("POST", f"/brain/voila/api/shutdown/{kernel}", headers={"Authorization": "token t"})
        assert connection.getresponse().status == 204
        first.page.get_by_role("alert").wait_for()
        assert "The decoder of this page has ended" in first.page.get_by_role("alert").inner_text()
        first.page.screenshot(path=artefacts / "app_gone.png")
        second.answered()  # without anybody's doing
        for one in (first, second):
            assert all(f"//{name}:" in other for other in one.elsewhere)
            one.page.context.close()


SERVE = HEARS_CTRL_C + (
    "import sys; from pathlib import Path; from visdec_lite.widgets.page_server import listening, serve; "
    "serve(Path(sys.argv[1]), listening('127.0.0.1', int(sys.argv[2])), 'token', open_browser=False, "
    "tell=lambda url: print(url, flush=True))"
)
FAULTY = """\
import numpy as np
from visdec_lite.widgets import BrainToImageDemo

whole, asked = BrainToImageDemo.simulated(), []


def referee(images):
    asked.append(len(images))
    if len(asked) == 2:
        raise ValueError("the referee <has left> after game 1; ask again")
    return np.full((len(images), 50), 0.02)


BrainToImageDemo(whole.pipe, whole.dataset, classifier=referee)"""


def test_an_error_in_a_callback_is_said_in_words_until_the_next_answer(tmp_path, chromium, artefacts):
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(FAULTY)])
    folder = tmp_path / "page"
    folder.mkdir()
    nbformat.write(notebook, folder / "faulty.ipynb")
    command = [sys.executable, "-c", SERVE, str(folder / "faulty.ipynb"), str(free_port())]
    with running(command, tmp_path / "words", **ENVIRONMENT) as server:
        watched = opened(chromium, server.url)
        watched.answered("blue triangle")
        watched.choose(HOURGLASS)
        alert = watched.page.get_by_role("alert")
        alert.wait_for()
        assert alert.inner_text() == "This did not work: the referee <has left> after game 1; ask again"
        panes = watched.page.locator(".visdec-widget .widget-html:has(img)")
        faded = panes.evaluate_all("all => all.map(one => getComputedStyle(one).opacity < 1)")
        assert faded == [False, False, True], "only the scores are still those of the picture before"
        watched.page.screenshot(path=artefacts / "app_error.png", full_page=True)
        watched.choose(4)
        watched.answered("green heart")
        alert.wait_for(state="detached")
        assert panes.evaluate_all("all => all.every(one => getComputedStyle(one).opacity == 1)")
        assert watched.complaints == []
        watched.page.context.close()


# --- JupyterLab ---


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Server]:
    """JupyterLab as `visdec-lite lab` starts it, on a copy of the lessons, with settings of its own."""
    from visdec_lite.teaching.commands import lab_command

    base = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", base / "notebooks", ignore=shutil.ignore_patterns(".*", "runs", "data"))
    settings = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        # all cells in the page, not only those in view, so that a test finds them
        "notebook-extension/tracker": {"windowingMode": "none"},
    }
    for name, content in settings.items():
        file = base / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={free_port()}", "--port-retries=0"]
    command = lab_command(base / "notebooks", [*options, "--IdentityProvider.token=a-token"])
    places = {
        "JUPYTER_CONFIG_DIR": base / "config",
        "JUPYTERLAB_SETTINGS_DIR": base / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": base / "workspaces",
        "JUPYTER_DATA_DIR": base / "share",
        "JUPYTER_RUNTIME_DIR": base / "runtime",
    }
    environment = {name: str(place) for name, place in places.items()}
    with running(
        command, base / "words", r"http://127\.0\.0\.1:\d+/lab", signal.SIGTERM, **environment, **ENVIRONMENT
    ) as server:
        yield server


def test_a_lesion_of_v4_takes_the_colour_in_jupyterlab(lab, chromium, artefacts):
    """Lesson 06, Run All, then V4 silenced by keyboard: colour goes, as physiology has it (achromatopsia).

    It does not go by fading. What the scan does not tell, the prior makes up, and its pictures are colourful: each of
    the four painted ones stays about as saturated as before and takes a colour, often a wrong one (the mean of the
    four fades only where they disagree). So what is asked of the pixels that the browser shows is what follows from
    losing the information: the painted hues no longer agree with that of the picture seen, while ridge regression,
    which averages over possibilities, turns grey. Silencing LOC, which knows shapes, does neither.
    """
    watched = opened(chromium, f"{lab.url}/tree/06_brain_to_image.ipynb?token=a-token")
    page = watched.page
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    for attempt in range(1, 4):  # asked for before the kernel answers, JupyterLab may forget it
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        try:
            page.locator(".jp-CodeCell .jp-InputPrompt", has_text=re.compile(r"\[(\*|1)\]")).first.wait_for(
                timeout=30_000
            )
            break
        except playwright.TimeoutError:
            page.screenshot(path=artefacts / f"lab_not_run_{attempt}.png")
    page.wait_for_function(
        """() => {
            const prompts = [...document.querySelectorAll(".jp-Notebook .jp-CodeCell .jp-InputPrompt")];
            return prompts.length > 10 && prompts.every(prompt => /\\[\\d+\\]/.test(prompt.textContent));
        }""",
        timeout=LESSON,
    )
    assert page.locator(".jp-Notebook [data-mime-type='application/vnd.jupyter.error']").count() == 0

    watched.press("Heal the brain")
    watched.choose(HOURGLASS)
    page.wait_for_function(f"!document.querySelector(\"{PAINTED}\").alt.includes('silenced')")
    whole = watched.answered("blue hourglass")
    pictures = {"whole": whole}
    for region in ("LOC", "V4"):
        watched.handle(f"gain of {region}").focus()
        page.keyboard.press("Home")
        pictures[region] = watched.answered("blue hourglass", f"{region} silenced")
        if region == "V4":
            break
        watched.press("Heal the brain")
        page.wait_for_function(f"!document.querySelector(\"{PAINTED}\").alt.includes('silenced')")
        watched.answered("blue hourglass")
    page.keyboard.press("Control+b")  # the list of files away
    page.locator("#jp-left-stack").wait_for(state="hidden")
    page.locator(".visdec-widget h3").first.evaluate("heading => heading.scrollIntoView()")
    page.screenshot(path=artefacts / "lab.png")
    for name, found in pictures.items():
        for tile, pixels in found.items():
            Image.fromarray(pixels).save(artefacts / f"lab_{name}_{tile.replace(' ', '_')}.png")

    likeness = {name: likeness_of_hue(found) for name, found in pictures.items()}
    assert likeness["whole"] > 0.9 and likeness["LOC"] > 0.9 and likeness["V4"] < 0.6
    left = {name: colourfulness(found["ridge"]) for name, found in pictures.items()}
    assert left["V4"] < 0.6 * left["whole"] and left["LOC"] > 0.75 * left["whole"], left
    painted = {
        name: np.mean([colourfulness(found[f"painted {i}"]) for i in range(1, 5)]) for name, found in pictures.items()
    }
    assert min(painted["V4"], painted["LOC"]) > 0.65 * painted["whole"], painted
    same = np.abs(pictures["V4"]["seen"].astype(int) - whole["seen"])
    assert same.max() == 0, "the picture seen has changed"
    assert watched.complaints == []
    assert "Traceback" not in lab.log
    page.context.close()
