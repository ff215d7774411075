"""The course as web pages: whole, linked, and asking no other server for anything."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from visdec_lite.teaching.notebooks import find_lessons, read_lesson
from visdec_lite.teaching.site import COVER_SIZE, cover_of, write_covers, write_site

pytest.importorskip("nbconvert")
pytest.importorskip("latex2mathml")

ALT = 'Two bars, the left one is higher than "chance"'


def png(width: int = 1200, height: int = 500) -> bytes:
    buffer = io.BytesIO()
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    Image.fromarray(ramp).save(buffer, "PNG")
    return buffer.getvalue()


def shown(data: bytes, alt: str = ALT) -> dict:
    """What `teaching.show` leaves in a notebook."""
    words = alt.replace('"', "&quot;")
    source = f'<img alt="{words}" style="max-width:100%" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
    return {"output_type": "display_data", "metadata": {}, "data": {"text/html": source, "text/plain": "<HTML>"}}


CARD = """# {number} · {title}

| | |
|---|---|
| **You will** | see |
| **You need** | nothing |
| **Runs in** | 1.5 minutes on two CPU cores, preset class (measured) |
| **You end with** | a *picture* |"""


def lesson(number: str, title: str, outputs: list[dict], words: str = "Hello.", tags: tuple[str, ...] = ("cover",)):
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": CARD.format(number=number, title=title)},
        {"cell_type": "markdown", "id": "b", "metadata": {}, "source": words},
        {"cell_type": "code", "id": "c", "metadata": {"tags": list(tags)}, "source": "draw()", "outputs": outputs,
         "execution_count": 1},
    ]  # fmt: skip
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "visdec_lite": {"minutes": 1.5}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def course(tmp_path) -> tuple[Path, Path]:
    """Folder of two lessons, and folder of the first one executed."""
    folder, executed = tmp_path / "notebooks", tmp_path / "run"
    folder.mkdir(), executed.mkdir()
    words = "By $\\sqrt{a^2}$ and\n\n$$\\frac{1}{n} \\sum_i x_i \\tag{1}$$\n\nsee [the next](01_next.ipynb), and `$5`."
    plotly = {"data": [{"type": "bar", "x": ["a"], "y": [7531]}], "layout": {"title": {"text": "to be turned"}}}
    outputs = [
        {"output_type": "display_data", "metadata": {}, "data": {"application/vnd.plotly.v1+json": plotly}},
        {"output_type": "display_data", "metadata": {}, "data": {
            "application/vnd.jupyter.widget-view+json": {"model_id": "m", "version_major": 2, "version_minor": 0},
            "text/plain": "VBox(children=())"}},
        {"output_type": "display_data", "metadata": {},
         "data": {"text/html": '<div class="visdec-static-1">kept</div>'}},
        shown(png()),
    ]  # fmt: skip
    first = lesson("00", "The first", outputs, words)
    (folder / "00_first.ipynb").write_text(json.dumps({**first, "cells": [
        {**cell, "outputs": [], "execution_count": None} if cell["cell_type"] == "code" else cell
        for cell in first["cells"]]}))  # fmt: skip
    first["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2,
                                                                                  "version_minor": 0}}  # fmt: skip
    (executed / "00_first.ipynb").write_text(json.dumps(first))
    (folder / "01_next.ipynb").write_text(json.dumps(lesson("01", "The next", [])))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "datasets.md").write_text("# Data sets\n\nSee [lesson 0](../notebooks/00_first.ipynb).\n")
    return folder, executed


class Links(HTMLParser):
    """Addresses that a page names, and elements that were opened and not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        self.fetched += [found["src"]] if "src" in found else []
        self.fetched += [found["href"]] if tag == "link" and "href" in found else []
        if tag.startswith("m"):  # MathML
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag.startswith("m") and tag in self.open:
            self.open.remove(tag)


def test_every_page_is_there_and_every_link_leads_somewhere(course, tmp_path):
    folder, executed = course
    pages = write_site(tmp_path / "site", folder=folder, executed=executed)
    names = [page.name for page in pages]
    assert names == ["index.html", "glossary.html", "plan.html", "datasets.html", "00_first.html", "01_next.html"]
    assert not list((tmp_path / "site").glob("*.ipynb"))
    for page in pages:
        for link in Links(page.read_text()).links:
            local = link.split("#")[0]
            if local and not local.startswith("http"):
                assert (tmp_path / "site" / local).exists(), f"{page.name} links to {link}"
    index = (tmp_path / "site" / "index.html").read_text()
    assert "00 · The first" in index and "a <em>picture</em>" in index and "1.5 minutes" in index


def test_no_page_fetches_anything(course, tmp_path):
    folder, executed = course
    for page in write_site(tmp_path / "site", folder=folder, executed=executed):
        for address in Links(page.read_text()).fetched:
            assert address.startswith("data:"), f"{page.name} fetches {address!r}"


def test_a_lesson_page_keeps_formulas_figures_and_static_copies_and_leaves_live_widgets_out(course, tmp_path):
    folder, executed = course
    write_site(tmp_path / "site", folder=folder, executed=executed)
    text = (tmp_path / "site" / "00_first.html").read_text()
    assert text.count("<math") == 2 and text.count("</math>") == 2
    for formula in re.findall(r"<math.*?</math>", text, flags=re.DOTALL):
        ElementTree.fromstring(formula)  # well-formed: no tag closed where it opens
    assert re.search(r"<msqrt>.*<mi>a</mi>.*</msqrt>", text, flags=re.DOTALL)
    assert not Links(text).open
    assert not re.search(r"EQUATION\d+END", text)
    assert "<code>$5</code>" in text
    assert "7531" in text and "to be turned" in text and "Plotly.newPlot" in text
    assert "visdec-static-1" in text and "VBox(" not in text and "widget-view" not in text
    assert base64.b64encode(png()).decode() in text


def test_a_lesson_that_was_not_run_is_shown_without_figures(course, tmp_path):
    folder, _ = course
    write_site(tmp_path / "site", folder=folder)
    text = (tmp_path / "site" / "00_first.html").read_text()
    assert "draw" in text and "7531" not in text


def test_a_folder_without_executed_lessons_is_no_site_without_figures(course, tmp_path):
    folder, _ = course
    with pytest.raises(FileNotFoundError, match=r"0 executed lessons in .*nowhere; make them: visdec-lite run --out"):
        write_site(tmp_path / "site", folder=folder, executed=tmp_path / "nowhere")
    assert not (tmp_path / "site").exists()


def test_the_cover_is_the_first_picture_of_its_cell(course):
    _, executed = course
    cover = cover_of(read_lesson(executed / "00_first.ipynb"))
    assert cover.png == png() and cover.alt == ALT


def test_covers_are_small_and_show_the_same(course):
    folder, executed = course
    (path,) = write_covers(executed, folder)
    assert path == folder.parent / "docs" / "pictures" / "lesson_00.png"
    small, whole = Image.open(path), Image.open(io.BytesIO(png()))
    assert small.width <= COVER_SIZE[0] and small.height <= COVER_SIZE[1]
    assert small.width / small.height == pytest.approx(1200 / 500, rel=0.01)
    gap = np.asarray(small.convert("RGB"), float) - np.asarray(whole.resize(small.size), float)
    assert np.abs(gap).mean() < 8  # of 255, by 256 colours


@pytest.mark.parametrize(
    ("tags", "outputs", "words"),
    [((), [shown(png())], "0 cells tagged 'cover', expected 1"), (("cover",), [], "shows no picture")],
)
def test_a_lesson_without_a_cover_is_named(tmp_path, tags, outputs, words):
    path = tmp_path / "00_first.ipynb"
    path.write_text(json.dumps(lesson("00", "The first", outputs, tags=tags)))
    with pytest.raises(ValueError, match=words):
        cover_of(read_lesson(path))


def test_no_executed_lesson_no_cover(course, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"0 executed lessons.*visdec-lite run --out"):
        write_covers(tmp_path / "nowhere", course[0])


def test_the_real_course_becomes_a_site(tmp_path):
    try:
        lessons = find_lessons()
    except FileNotFoundError:
        pytest.skip("no lessons in notebooks/ (a package without its repository)")
    pages = write_site(tmp_path / "site")
    assert {f"{lesson.name}.html" for lesson in lessons} <= {page.name for page in pages}
    for page in pages:
        found = Links(page.read_text())
        outside = [a for a in found.fetched if not a.startswith("data:") and not (tmp_path / "site" / a).exists()]
        assert not outside, f"{page.name} fetches {outside}"
        missing = [a for a in found.links if re.fullmatch(r"\w+\.html", a) and not (tmp_path / "site" / a).exists()]
        assert not missing, f"{page.name} links to {missing}"
