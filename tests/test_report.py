"""The report: one file that fetches nothing, says all scores with their chance, and says when data is simulated."""

from __future__ import annotations

import base64
import copy
import math
import re
from functools import partial
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from visdec_lite import plotting
from visdec_lite.report import write_report

VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """Tags with their attributes, and the visible words; fails where a tag is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self.words, self.open = text, [], "", []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += " ".join(data.split()) + " "

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def score(value: float, chance: float, half: float = 0.03) -> dict:
    return {"value": value, "ci95": [value - half, value + half], "chance": chance}


def make_metrics(**changes: object) -> dict:
    metrics = {
        "dataset": "little world",
        "simulated": True,
        "preset": "smoke",
        "seed": 7,
        "n_test": 40,
        "repeats_averaged": True,
        "methods": {
            "visdec": {"n_way_top1": score(0.171, 0.02), "pcc": score(0.312, 0.05), "mse": score(0.0411, 0.09)},
            "visdec_single_trial": {"n_way_top1": score(0.063, 0.02), "pcc": score(0.123, 0.05)},
            "ridge": {"n_way_top1": score(0.094, 0.02), "pcc": score(0.456, 0.11)},
            "visdec_shuffled": {"n_way_top1": score(0.021, 0.02)},
        },
        "seconds": {"pretrain": 12.34, "finetune": 783.0, "total": 795.3},
        "versions": {"torch": "2.13.0"},
    }
    return {**metrics, **changes}


HISTORIES = {
    "pretrain": [{"step": s, "split": split, "loss": 2.0 - 0.1 * s} for s in range(9) for split in ("train", "val")]
}


BARE = {"simulated": True}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(plotting, "DPI", 40)  # coarse pictures are drawn sooner

    def run(**options: object) -> Page:
        options.setdefault("metrics", make_metrics())
        write_report(tmp_path / "report.html", **options)
        assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    return run


def draw_gallery(simulated: bool = True) -> partial[Figure]:
    truth = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    return partial(plotting.gallery, truth, {"ridge": truth[:, None]}, simulated=simulated, title="pictures")


def test_page_fetches_nothing(write):
    page = write(gallery=draw_gallery(), histories=HISTORIES, figures={"more": draw_gallery()()})
    for tag, attributes in page.tags:
        for name in ("src", "srcset", "data", "poster", "action"):
            assert attributes.get(name, "data:").startswith("data:"), f"{tag} {name}"
        if "href" in attributes:
            assert tag == "a", "only links that a reader clicks"
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert "@import" not in page.text and "url(" not in page.text
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy


def test_every_picture_is_a_png_with_words_and_a_size(write):
    page = write(gallery=draw_gallery(), histories=HISTORIES)
    images = page.all("img")
    assert len(images) == 3
    for image in images:
        assert len(image["alt"]) > 30 and image["alt"].startswith("Simulated data. ")
        assert int(image["width"]) > 100 and int(image["height"]) > 100
        assert base64.b64decode(image["src"].partition(",")[2]).startswith(b"\x89PNG")
    media = [source["media"] for source in page.all("source")]
    assert len(media) == 9 and sum("dark" in words for words in media) == 6, "wide and narrow, light and dark"


def test_badge_and_word_exactly_when_simulated(write):
    page = write(gallery=draw_gallery(), histories=HISTORIES)
    assert {"class": "badge"} in page.all("span") and "no human lay in a scanner" in page.words
    assert "(simulated data)" in page.words  # title
    page = write(metrics=make_metrics(simulated=False), gallery=draw_gallery(simulated=False), histories=HISTORIES)
    assert {"class": "badge"} not in page.all("span")
    assert "simulated no" in page.words and page.text.lower().count("simulated") == 1  # only in the settings


def test_report_draws_badges_into_its_figures_exactly_when_simulated(write, monkeypatch):
    drawn = []
    draw = plotting.figure_png

    def spy(figure: Figure, **options: bool) -> bytes:
        drawn.append(plotting.BADGE in [text.get_text() for text in figure.axes[0].texts])
        return draw(figure, **options)

    monkeypatch.setattr(plotting, "figure_png", spy)
    write(histories=HISTORIES)
    assert len(drawn) == 8 and all(drawn)
    drawn.clear()
    write(metrics=make_metrics(simulated=False), histories=HISTORIES)
    assert len(drawn) == 8 and not any(drawn)


def test_table_holds_every_method_with_value_interval_and_chance(write):
    page = write()
    for words in (
        "17.1 %", "14.1 to 20.1 %", "6.3 %", "9.4 %", "0.312", "0.282 to 0.342", "0.456", "0.123", "0.0411",
        "chance 2.0 %", "chance 0.110", "visdec, single trials", "ridge", "visdec, shuffled voxels", "50-way top-1",
        "lower is better", "40 test stimuli", "repeats averaged", "single trials, not averaged",
    ):  # fmt: skip
        assert words in page.words, words
    assert page.words.count("includes chance") == 2, "shuffled top-1 and, with its wide interval, nothing else"


def test_table_has_headers_for_readers_that_cannot_see_it(write):
    page = write()
    scopes = [head.get("scope") for head in page.all("th")]
    assert None not in scopes
    groups = [int(head["colspan"]) for head in page.all("th") if head.get("scope") == "colgroup"]
    assert groups == [3, 1], "averaged methods first, single trials beside them"
    assert page.all("html") == [{"lang": "en"}]
    (region,) = [div for div in page.all("div") if div.get("role") == "region"]
    assert region["aria-label"] and region["tabindex"] == "0"
    assert page.words.count("Mean over 40 test stimuli") == 1


def test_what_comes_from_outside_is_escaped(write):
    evil = '<script>alert("x")</script>'
    methods = {evil: {evil: score(0.5, 0.1), "pcc": score(0.1, 0.0)}}
    page = write(
        metrics=make_metrics(
            dataset=evil, preset=evil, methods=methods, versions={evil: evil}, seconds={evil: 1.0}, repeats_averaged=2
        ),
        gallery=draw_gallery(),
        figures={evil: draw_gallery()()},
        histories={evil: HISTORIES["pretrain"]},
        settings={evil: {evil: evil}},
        notes=[evil],
        title=evil,
    )
    assert not page.all("script") and "<script" not in page.text
    assert page.text.count("&lt;script&gt;") >= 10


def test_dollar_signs_are_no_placeholders(write):
    assert "$body and ${style}" in write(metrics=BARE, notes=["$body and ${style}"]).words


def test_settings_versions_times_and_notes_are_told(write):
    metrics = make_metrics(fingerprint="abc123")
    page = write(metrics=metrics, settings={"seed": 7, "finetune": {"steps": 5}}, notes=["one seed only"])
    assert page.words.count("seed 7") == 1
    for words in (
        "little world", "smoke", "seed 7", "fingerprint abc123", "finetune.steps 5", "torch 2.13.0", "12.3 s",
        "13 min 03 s", "one seed only", "phase 1: masked fMRI",
    ):  # fmt: skip
        assert words in page.words, words


def test_what_is_missing_is_said_or_left_out(write):
    page = write(metrics={"simulated": False})
    assert "No scores were computed" in page.words and not page.all("img") and not page.all("table")
    page = write(metrics={"simulated": True, "methods": {"ridge": {"pcc": {"value": 0.2}}}})
    for words in (
        "unrecorded number of stimuli",
        "averaging of repeats not recorded",
        "no interval",
        "chance not known",
    ):
        assert words in page.words, words
    nan = {"value": float("nan"), "ci95": None, "chance": None}
    page = write(metrics=make_metrics(methods={"visdec": {"pcc": nan, "mse": score(0.1, 0.2)}, "ridge": {}}))
    assert "nan" not in page.words.lower() and page.words.count(plotting.MISSING) == 3


def test_stage_without_losses_is_left_out_of_the_curves(write):
    (image,) = write(metrics=BARE, histories={"fuse": [], **HISTORIES}).all("img")
    assert "phase 1" in image["alt"] and "phase 2" not in image["alt"]
    assert not write(metrics=BARE, histories={"fuse": []}).all("img")


@pytest.mark.parametrize("metrics", [{}, {"simulated": None}, {"simulated": "no"}])
def test_report_never_guesses_whether_data_are_simulated(write, metrics):
    with pytest.raises(ValueError, match="expected true or false"):
        write(metrics=metrics)


def test_gallery_may_be_a_function_a_figure_or_png(write):
    draw = draw_gallery()
    assert len(write(metrics=BARE, gallery=draw).all("source")) == 3
    as_figure = write(metrics=BARE, gallery=draw())
    as_png = write(metrics=BARE, gallery=plotting.figure_png(draw()))
    assert as_figure.text == as_png.text and {"class": "light"} in as_png.all("figure")
    with pytest.raises(ValueError, match="expected a PNG"):
        write(metrics=BARE, gallery=b"JFIF and so on")


def test_same_input_gives_the_same_file(write):
    options = {"gallery": draw_gallery()}
    assert write(**options).text == write(**options).text


def test_numbers_beside_a_headline_are_those_of_our_method(write):
    page = write()
    tiles = re.findall(r"<li>(.*?)</li>", page.text.partition('class="tiles"')[2].partition("</ul>")[0], re.S)
    assert len(tiles) == 2 and all("visdec<" in tile for tile in tiles)
    for tile in tiles:
        for words in ("95 % interval", "chance", "40 test stimuli", "repeats averaged"):
            assert words in tile


def test_page_is_written_into_a_new_folder(tmp_path: Path):
    write_report(tmp_path / "out" / "report.html", metrics=BARE)
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_further_tables_stand_as_they_are_and_are_escaped(write):
    page = write(tables={"Seconds <each>": (("method", "a & b"), [("ridge", 1.5), ("<b>", "x")])})
    assert "Simulated data. Seconds <each>." in page.words, "escaped in the source, whole for the reader"
    assert "<each>" not in page.text and "a & b" in page.words and "1.5" in page.words
    headings = [attributes["scope"] for attributes in page.all("th") if attributes.get("scope")]
    assert headings.count("row") >= 2
    assert "Simulated data. Seconds" not in write(metrics=make_metrics(simulated=False), tables=None).words


def test_a_row_of_another_length_is_an_error(write):
    with pytest.raises(ValueError, match="table 'costs': a row has 1 values, expected 2"):
        write(tables={"costs": (("method", "seconds"), [("ridge",)])})


ODD = (None, "<script>", [], [1, 2], [math.nan, 1], math.nan, -1, True, 10**400)
FULL = {
    "simulated": True, "dataset": "d", "preset": "smoke", "seed": 0, "n_test": 5, "n_way": 50, "repeats_averaged": 3,
    "methods": {"visdec": {"n_way_top1": {"value": 0.2, "ci95": [0.1, 0.3], "chance": 0.02}}},
    "seconds": {"total": 1.0}, "versions": {"torch": "2"}, "fingerprint": "f",
}  # fmt: skip


def places(content: dict, above: tuple = ()) -> list[tuple]:
    """Every key of a nested dict, as the way to it."""
    inner = [way for key, value in content.items() if isinstance(value, dict) for way in places(value, (*above, key))]
    return [(*above, key) for key in content] + inner


def test_whatever_stands_in_metrics_there_is_a_page_or_a_sentence(tmp_path, monkeypatch):
    """An odd value in the place of each number, name and table: a whole page that runs nothing, or a ValueError."""
    dot = plotting.figure_png(Figure((0.1, 0.1)))
    monkeypatch.setattr(plotting, "figure_png", lambda figure, margin=True: dot)  # figures are made, and not rendered
    pages, refused = 0, 0
    for way, odd in product(places(FULL), ODD):
        metrics = copy.deepcopy(FULL)
        place = metrics
        for key in way[:-1]:
            place = place[key]
        place[way[-1]] = odd
        path = tmp_path / f"{pages}.html"
        try:
            write_report(path, metrics=metrics)
        except ValueError as error:
            refused += 1
            assert way[-1] in str(error) or "scores" in str(error), (way, odd, error)
            assert not path.exists()
        else:
            pages += 1
            assert "<script" not in path.read_text()
    assert pages > 40 and refused > 50, (pages, refused)
