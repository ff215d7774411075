"""Figures: as many pictures as asked for, a badge exactly when simulated, the same bytes twice."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from visdec_lite import plotting
from visdec_lite.datasets.stimuli import draw_scenes, render


@pytest.fixture
def truth(rng) -> np.ndarray:
    return render(draw_scenes(np.arange(10), rng))


def score(value: float, chance: float) -> dict:
    return {"value": value, "ci95": [value - 0.05, value + 0.05], "chance": chance}


METHODS = {
    "visdec": {"n_way_top1": score(0.2, 0.02), "pcc": score(0.3, 0.1)},
    "ridge": {"n_way_top1": score(0.1, 0.02)},
}
HISTORIES = {
    "pretrain": [{"step": step, "split": "train", "loss": 5.0 / (1 + step)} for step in range(50)],
    "fuse": [
        *[{"step": step, "split": "train", "loss": 1.0, "lr": 0.1} for step in range(10)],
        {"step": 9, "split": "val", "loss": 1.5},
    ],
}


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def panels(figure: Figure) -> list:
    return [axes for axes in figure.axes if axes.get_label() != "page"]


def pictures(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.images]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def figures(simulated: bool, truth: np.ndarray, dark: bool = False) -> list[Figure]:
    return [
        plotting.gallery(truth, {"ridge": truth[:, None]}, simulated=simulated, title="t", rows=2, dark=dark),
        plotting.score_chart(METHODS, simulated=simulated, dark=dark),
        plotting.loss_curves(HISTORIES, simulated=simulated, dark=dark),
    ]


def test_badge_stands_in_every_figure_exactly_when_simulated(truth):
    assert all(plotting.BADGE in words(figure) for figure in figures(True, truth))
    assert not any("simulated" in words(figure).lower() for figure in figures(False, truth))


@pytest.mark.parametrize(("rows", "blocks", "shown", "columns"), [(12, None, 10, 2), (4, None, 4, 1), (10, 1, 10, 1)])
def test_gallery_shows_every_picture_of_its_grid(truth, rows, blocks, shown, columns):
    ours = np.repeat(truth[:, None], 3, axis=1)
    figure = plotting.gallery(
        truth, {"visdec": ours, "ridge": truth[:, None]}, simulated=True, title="t", rows=rows, blocks=blocks
    )
    images = pictures(figure)
    assert len(images) == shown * (1 + 3 + 1)
    assert all(any(np.array_equal(image, seen) for image in images) for seen in truth[:shown])
    assert words(figure).count("visdec, 3 samples") == columns


def test_gallery_says_that_it_shows_only_some(truth):
    few = plotting.gallery(truth, {}, simulated=False, title="t", rows=4)
    assert "first 4 of 10" in words(few).replace("\n", " ")
    assert "first" not in words(plotting.gallery(truth, {}, simulated=False, title="t", rows=10))


def test_gallery_pixels_are_whole_squares(truth):
    """32 pixels on 128 dots: the PNG holds no colour that the picture does not hold, each about 4 x 4 times."""
    figure = plotting.gallery(truth, {}, simulated=False, title="t", rows=1)
    left, right, bottom, top = (round(inches * plotting.DPI) for inches in figure.axes[0].images[0].get_extent())
    cell = pixels(plotting.figure_png(figure))[top + 1 : bottom - 1, left + 1 : right - 1]
    assert {tuple(dot) for dot in cell.reshape(-1, 3)} <= {tuple(dot) for dot in truth[0].reshape(-1, 3)}
    enlarged = truth[0].repeat(4, axis=0).repeat(4, axis=1)[1:-1, 1:-1]
    assert np.abs(cell.astype(int) - enlarged).mean() < 6  # of 255; a shift by one dot is allowed


def test_captions_and_titles_are_shown_as_they_stand(truth):
    figure = plotting.gallery(truth, {}, simulated=True, title="$x^2", captions=["a $ b $"] * 10, rows=3)
    plotting.figure_png(figure)  # a formula would not parse
    assert words(figure).count("a $ b $") == 3 and "$x^2" in words(figure)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: (t[0], {}), ValueError, r"truth has shape \(32, 32, 3\), expected \(n, height, width, 3\)"),
        (lambda t: (t / 255, {}), TypeError, "truth is float64, expected uint8"),
        (lambda t: (t, {"ridge": t}), ValueError, r"ridge has shape .* samples >= 1; one .*pictures\[:, None\]"),
        (lambda t: (t, {"ridge": t[:7, None]}), ValueError, "7 rows of ridge.* 10 "),
        (lambda t: (t, {"ridge": t[:, None, :16]}), ValueError, r"ridge measures \(16, 32, 3\), truth \(32, 32, 3\)"),
    ],
)
def test_wrong_pictures_are_named(truth, change, error, message):
    seen, columns = change(truth)
    with pytest.raises(error, match=message):
        plotting.gallery(seen, columns, simulated=True, title="t")


def test_gallery_refuses_too_few_captions_and_no_rows(truth):
    with pytest.raises(ValueError, match="2 captions for 10 rows"):
        plotting.gallery(truth, {}, simulated=True, title="t", captions=["a", "b"])
    with pytest.raises(ValueError, match="rows=0"):
        plotting.gallery(truth, {}, simulated=True, title="t", rows=0)


def test_score_chart_has_a_panel_a_metric_and_says_what_was_measured():
    figure = plotting.score_chart(METHODS, simulated=False, n_test=50, repeats_averaged=35)
    text = words(figure)
    assert len(panels(figure)) == 2
    for expected in ("50-way top-1", "20.0 %", "10.0 %", "chance 2.0 %", "0.300", "50 test stimuli", "35 repeats"):
        assert expected in text
    assert plotting.MISSING in text.split("\n")  # ridge has no PCC
    lines = [line.get_xdata() for line in panels(figure)[0].lines]
    assert any(np.allclose(xs, [15.0, 25.0]) for xs in lines), "the 95 % interval, in per cent"
    assert sum(np.allclose(xs, [2.0, 2.0]) for xs in lines) == 2, "chance, once a method"


def test_score_chart_says_when_nothing_was_recorded():
    text = words(plotting.score_chart(METHODS, simulated=False))
    assert "number of stimuli not recorded" in text.replace("\n", " ")
    assert "not recorded" in plotting.averaging(None)


def test_chance_of_each_method_has_its_own_mark():
    methods = {"a": {"pcc": score(0.3, 0.1)}, "b": {"pcc": score(0.3, 0.2)}}
    figure = plotting.score_chart(methods, simulated=False)
    assert "chance differs by method" in words(figure)
    starts = [line.get_xdata()[0] for line in panels(figure)[0].lines]
    assert {0.1, 0.2} <= set(starts)


def test_scores_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="2 methods hold 0 scores"):
        plotting.score_chart({"a": {}, "b": {}}, simulated=True)
    with pytest.raises(ValueError, match=r"ridge/pcc has \['mean'\], expected .*value"):
        plotting.score_chart({"ridge": {"pcc": {"mean": 0.1}}}, simulated=True)


def test_loss_curves_draw_every_stage_and_split():
    figure = plotting.loss_curves(HISTORIES, simulated=False)
    first, second = panels(figure)
    assert first.get_yscale() == "log" and second.get_yscale() == "linear"
    assert any(list(line.get_ydata()) == [1.5] for line in second.lines), "validation"
    assert first.get_xlabel() == "step" and first.get_ylabel() == "loss"
    assert len(panels(plotting.loss_curves(HISTORIES, simulated=False, panel_columns=1))) == 2


@pytest.mark.parametrize("history", [[], [{"step": 0, "split": "train", "loss": float("nan")}]])
def test_loss_curves_refuse_a_stage_without_losses(history):
    with pytest.raises(ValueError, match=r"stage 'fuse' has \d rows and 0 finite losses"):
        plotting.loss_curves({"fuse": history}, simulated=True)
    with pytest.raises(ValueError, match="0 stages"):
        plotting.loss_curves({}, simulated=True)


def test_running_mean_keeps_a_constant_and_a_line(rng):
    assert np.allclose(plotting.running_mean(np.full(100, 3.0)), 3)
    line = np.arange(100.0)
    assert np.allclose(plotting.running_mean(line)[:90], line[:90])  # symmetric window
    noise = rng.standard_normal(2000)
    assert plotting.running_mean(noise, share=0.05).std() < 0.2 < noise.std()  # 1 / sqrt(101) is 0.1
    assert plotting.running_mean(np.array([])).shape == (0,)


def test_png_is_the_same_twice_and_touches_no_global_state(truth):
    before = dict(matplotlib.rcParams)
    first, second = (
        [plotting.figure_png(figure) for figure in figures(True, truth)],
        [plotting.figure_png(figure) for figure in figures(True, truth)],
    )
    assert first == second and all(png.startswith(b"\x89PNG") for png in first)
    assert dict(matplotlib.rcParams) == before


def test_dark_and_light_differ_and_margins_can_go(truth):
    for light, dark in zip(figures(True, truth), figures(True, truth, dark=True), strict=True):
        assert pixels(plotting.figure_png(light))[0, 0].min() > 250
        assert pixels(plotting.figure_png(dark))[0, 0].max() < 60
        whole = pixels(plotting.figure_png(light))
        cut = pixels(plotting.figure_png(light, margin=False))
        assert whole.shape[1] - cut.shape[1] == pytest.approx(2 * plotting.MARGIN * plotting.DPI, abs=2)


def test_save_figure_writes_whole_files_only(truth, tmp_path):
    figure = figures(True, truth)[0]
    plotting.save_figure(figure, tmp_path / "new" / "gallery.png")
    assert (tmp_path / "new" / "gallery.png").read_bytes() == plotting.figure_png(figure)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["gallery.png"]


def test_methods_keep_their_colour_and_marker():
    alone, beside = plotting.method_styles(["ridge"]), plotting.method_styles(["visdec", "other", "ridge"])
    assert alone["ridge"] == beside["ridge"]
    assert len(set(beside.values())) == 3
    assert all(colour in (*plotting.OKABE_ITO, plotting.GREY) for colour, _ in beside.values())


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("visdec", "visdec"),
        ("ridge_single_trial", "ridge, single trials"),
        ("visdec_shuffled", "visdec, shuffled voxels"),
        ("visdec_mean_seen_categories", "visdec, mean of samples, seen categories"),
        ("dc_ldm", "dc ldm"),
    ],
)
def test_method_labels(name, label):
    assert plotting.method_label(name) == label


@pytest.mark.parametrize(
    ("repeats", "method", "expected"),
    [
        (True, "visdec", "repeats averaged"),
        (35, "visdec", "35 repeats averaged"),
        (False, "visdec", "single trials, not averaged"),
        (1, "visdec", "single trials, not averaged"),
        (True, "visdec_single_trial", "single trials, not averaged"),
    ],
)
def test_averaging_in_words(repeats, method, expected):
    assert plotting.averaging(repeats, method) == expected


def test_numbers_are_written_with_their_unit():
    assert plotting.metric_info("n_way_top1", 50).label == "50-way top-1"
    assert plotting.metric_info("n_way_top1").write(0.1234) == "12.3 %"
    assert plotting.metric_info("pcc").write(-0.5) == f"{plotting.MINUS}0.500"
    assert plotting.metric_info("mse").direction == "lower is better"
    assert plotting.metric_info("kid").direction == plotting.metric_info("lpips").direction == "lower is better"
    assert plotting.metric_info("pairwise_features").write(0.5) == "50.0 %"
    assert plotting.metric_info("my_score").direction == "" and plotting.metric_info("my_score").label == "my score"
    assert plotting.metric_info("pcc").write(float("nan")) == plotting.MISSING


def test_contest_size_is_recorded_or_follows_from_chance():
    assert plotting.contest_size({"n_way": 50}) == 50
    assert plotting.contest_size({"methods": {"a": {}, "b": {"n_way_top1": score(0.2, 0.1)}}}) == 10
    assert plotting.contest_size({}) is None


@pytest.mark.parametrize("theme", [plotting.LIGHT, plotting.DARK])
def test_text_can_be_read(theme):
    """WCAG contrast: 4.5 : 1 for text."""

    def luminance(colour: str) -> float:
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in matplotlib.colors.to_rgb(colour)]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    for colour in (theme.ink, theme.muted, theme.warning):
        bright, dim = sorted((luminance(colour), luminance(theme.paper)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5
