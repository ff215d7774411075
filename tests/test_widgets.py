"""Widgets without a browser: every knob moved, every answer held against the library, errors and haste survived."""

from __future__ import annotations

import base64
import io
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import ipywidgets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image

from visdec_lite import chain, widgets
from visdec_lite.contrastive import info_nce
from visdec_lite.datasets import load_dataset
from visdec_lite.datasets.arrays import from_arrays
from visdec_lite.latent_diffusion import LatentDiffusion, make_scheduler, sample_labels
from visdec_lite.metrics import pcc, score_matrix
from visdec_lite.pipeline import FMRIToImagePipeline
from visdec_lite.preprocessing import to_model_range, to_uint8
from visdec_lite.presets import preset, preset_for
from visdec_lite.widgets.base import Explorer, Pane
from visdec_lite.widgets.brain import BrainToImageDemo
from visdec_lite.widgets.brain_state import BrainState, colourfulness, identification_rank
from visdec_lite.widgets.contrast import ContrastExplorer, ContrastState
from visdec_lite.widgets.diffusion import DiffusionExplorer, DiffusionState
from visdec_lite.widgets.fusion import FusionExplorer, FusionState
from visdec_lite.widgets.knobs import State, knob
from visdec_lite.widgets.mask import MaskExplorer, MaskState
from visdec_lite.widgets.walk import Step, watched_walk

CLASS = preset("class")
SHIPPED = chain.shipped("simulated")
SHAPES, COLOURS = 10, 5  # of the simulated categories: shape x colour


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("simulated")


@pytest.fixture(scope="module")
def world():
    return chain.load_world(SHIPPED, CLASS)


@pytest.fixture(scope="module")
def brain(dataset, world) -> chain.Brain:
    return chain.load_brain(SHIPPED, dataset, world, CLASS)


@pytest.fixture(scope="module")
def prior() -> LatentDiffusion:
    """Not fine-tuned: it is told categories."""
    return chain.load_world(SHIPPED, CLASS).diffusion


@pytest.fixture(scope="module")
def demo(dataset, world, brain) -> BrainToImageDemo:
    return BrainToImageDemo(brain.pipeline(CLASS), dataset, classifier=world.classifier)


@pytest.fixture(scope="module")
def every(dataset, world, brain, prior, demo) -> dict[str, Explorer]:
    return {
        "mask": MaskExplorer(brain.autoencoder, dataset),
        "contrast": ContrastExplorer(brain.autoencoder, dataset),
        "fusion": FusionExplorer(brain.fusion, dataset),
        "diffusion": DiffusionExplorer(prior, dataset, state=DiffusionState(steps=3)),
        "demo": BrainToImageDemo(
            demo.pipe, dataset, classifier=world.classifier, ridge=demo.ridge, state=BrainState(steps=2, samples=2)
        ),
    }  # fmt: skip


NAMES = ["mask", "contrast", "fusion", "diffusion", "demo"]


# --- all widgets ---


def another_value(control: ipywidgets.Widget):
    """One step further, or back from the end."""
    if isinstance(control, ipywidgets.Dropdown):
        return next(value for _, value in control.options if value != control.value)
    if isinstance(control, ipywidgets.FloatLogSlider):
        return 10**control.max
    return control.value + (control.step if control.value < control.max else -control.step)


@pytest.mark.parametrize("name", NAMES)
def test_every_control_moves_the_state_and_the_pictures(every, name, capsys):
    widget = every[name]
    assert widget.controls and set(widget.face.images) == set(widget.panes)
    for control_name, control in widget.controls.items():
        before = [image.value for image in widget.face.images.values()]
        control.value = another_value(control)
        field, _, key = control_name.partition(".")
        value = getattr(widget.state, field)
        assert (value[key] if key else value) == control.value
        changed = before != [image.value for image in widget.face.images.values()]
        assert changed or control_name == "image_patch", f"{control_name} changes nothing"  # here the brain asks
        assert widget.error is None
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", NAMES)
def test_controls_have_words_and_pictures_have_alt_text(every, name):
    widget = every[name]
    for control in widget.controls.values():
        assert control.description and control.tooltip
    bundle = widget._repr_mimebundle_()
    image = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert image.width > 700 and np.asarray(image.convert("L")).std() > 5
    assert bundle["text/html"].count('<img alt="') == len(widget.panes)
    for pane in widget.panes.values():
        words = pane.say(widget.result)
        assert len(words.split()) > 5 and words in bundle["text/plain"]
    for name_of_pane, shown in widget.face.images.items():
        assert shown.value in bundle["text/html"], f"{name_of_pane}: the static copy shows something else"


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_depends_on_the_state_only(every, name):
    widget = every[name]
    first, again = widget.compute(widget.state), widget.compute(widget.state)
    for field, value in vars(first).items():
        np.testing.assert_equal(getattr(again, field), value)
    drawn = widget.draw(first)
    assert drawn[:4] == b"\x89PNG" and widget.draw(again) == drawn


@pytest.mark.parametrize("name", NAMES)
def test_simulated_data_are_called_so_in_every_pane(every, name):
    widget = every[name]
    for pane in widget.panes.values():
        for simulated in (True, False):
            figure = pane.draw(replace(widget.result, simulated=simulated))
            words = [text.get_text() for axes in figure.axes for text in axes.texts]
            assert ("SIMULATED DATA" in words) is simulated


def test_the_package_is_light_and_says_what_it_has():
    assert sorted(widgets.__all__) == sorted(widgets._MODULES)
    assert widgets.MaskExplorer is MaskExplorer
    with pytest.raises(AttributeError, match=r"no attribute 'Slider'; it has BrainToImageDemo"):
        _ = widgets.Slider


# --- the machinery, on a widget that takes its time ---


@dataclass(frozen=True)
class PatientState(State):
    number: int = knob(1, "number", low=0, high=100)


class Patient(Explorer[PatientState, int]):
    """Ten steps of 5 ms; 13 brings bad luck."""

    title = "Patience"
    State = PatientState
    panes: ClassVar = {
        "number": Pane(lambda n: Figure((2, 1 + n / 100)), lambda n: f"The number is {n}, drawn as a white page.")
    }

    def __init__(self, **options):
        self.started, self.finished, self.steps = [], [], 0
        super().__init__(**options)

    def compute(self, state, report=lambda *_: None):
        self.started.append(state.number)
        for step in range(10):
            report(step, 10, lambda: state.number, ("number",))
            self.steps += 1
            time.sleep(0.005)
        if state.number == 13:
            raise ValueError("13 brings bad luck, expected another number")
        self.finished.append(state.number)
        return state.number


def test_of_twenty_quick_requests_the_last_is_shown_and_few_are_computed():
    widget = Patient(live=True)
    face = widget.face
    for number in range(20):
        widget.controls["number"].value = number + 20
    assert widget.wait(10)
    assert widget.result == 39 and "The number is 39" in face.images["number"].value
    assert len(widget.started) <= 3 and widget.finished[-1:] == [39]


def test_work_can_be_stopped_between_steps_and_what_was_shown_stays():
    widget = Patient(live=True)
    widget.set(number=5)
    assert widget.wait(10) and widget.result == 5
    widget.set(number=6)
    while widget.started[-1] != 6:
        time.sleep(0.001)
    assert not widget.face.stop.disabled or widget.steps < 20
    widget.face.stop.click()
    assert widget.wait(10)
    assert widget.result == 5 and widget.finished == [5] and widget.error is None
    assert widget.face.stop.disabled and widget.face.progress.layout.visibility == "hidden"


def test_progress_is_shown_while_a_thread_works():
    widget, seen = Patient(live=True), []
    widget.face.progress.observe(lambda change: seen.append(change["new"]), names="value")
    widget.set(number=7)
    assert widget.wait(10)
    assert len(seen) > 5 and seen[-1] == widget.face.progress.max


def test_the_face_hides_the_static_copies_of_its_own_widget_only():
    one, other = Patient(), Patient()
    hidden = f".{one.static_class} {{ display: none }}"
    assert hidden in one.face.box.children[0].value and hidden not in other.face.box.children[0].value
    assert f'<div class="{one.static_class}">' in one._repr_mimebundle_()["text/html"]


def test_by_default_code_gets_its_answer_at_once():
    widget, threads = Patient(), threading.active_count()
    widget.set(number=8)
    assert widget.result == 8 and threading.active_count() == threads
    widget.controls["number"].value = 9
    assert widget.result == 9 and not widget._worker.busy


def test_small_models_are_computed_in_one_thread_and_the_setting_is_put_back():
    seen = []

    class Counting(Patient):
        def compute(self, state, report=lambda *_: None):
            seen.append(torch.get_num_threads())
            return 1

    torch.set_num_threads(3)
    try:
        for one_thread in (True, False):
            widget = Counting()
            widget.one_thread = one_thread
            assert widget.result == 1 and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert seen == [1, 3]


def test_an_error_is_put_into_words_recorded_and_raised():
    widget = Patient()
    assert widget.result == 1
    with pytest.raises(ValueError, match="13 brings bad luck, expected another number"):
        widget.controls["number"].value = 13
    assert "13 brings bad luck" in widget.face.status.value and 'role="alert"' in widget.face.status.value
    assert isinstance(widget.error, ValueError)
    widget.set(number=14)
    assert widget.error is None and widget.face.status.value == "" and widget.result == 14


def test_an_error_is_only_shown_where_that_is_wanted():
    widget = Patient(strict=False)
    widget.set(number=13)
    assert isinstance(widget.error, ValueError) and "bad luck" in widget.face.status.value
    assert "bad luck" in widget._repr_mimebundle_()["text/plain"]


def test_an_error_in_the_thread_is_raised_by_wait_when_strict():
    widget = Patient(live=True, strict=True)
    widget.set(number=13)
    with pytest.raises(ValueError, match="bad luck"):
        widget.wait(10)
    assert "bad luck" in widget.face.status.value


def test_knobs_that_are_not_there_or_out_of_range_are_errors():
    widget = Patient()
    with pytest.raises(TypeError, match=r"no knob is called size; there are number"):
        widget.set(size=3)
    with pytest.raises(ValueError, match=r"number is 101, expected 0 to 100"):
        widget.set(number=101)
    with pytest.raises(ValueError, match=r"asks has no 'nobody'; there are image, brain"):
        FusionState(asks="nobody")
    with pytest.raises(ValueError, match=r"gains\['V4'\] is -1, expected 0 to 2"):
        BrainState(gains={"V4": -1})


# --- a cell runs, and a person moves a control meanwhile: kernels hear both at once ---


class Gated(Patient):
    """Says when it starts on a number, and waits there until it may go on."""

    def __init__(self, **options):
        self.begun = {n: threading.Event() for n in range(101)}
        self.may_go_on = {n: threading.Event() for n in range(101)}
        super().__init__(**options)
        for number in range(101):
            if number not in (50, 60):
                self.may_go_on[number].set()

    def compute(self, state, report=lambda *_: None):
        self.begun[state.number].set()
        assert self.may_go_on[state.number].wait(20)
        return super().compute(state, lambda *_: None)  # as most widgets, it never looks whether it is still wanted


@pytest.fixture
def cell(monkeypatch):
    """Runs code as a cell does, in a thread; all that other threads do is a person's doing."""
    cells, errors = [], []
    monkeypatch.setattr("visdec_lite.widgets.base.moved_by_hand", lambda: threading.current_thread() not in cells)

    def run(code):
        def body():
            try:
                code()
            except Exception as error:
                errors.append(error)

        cells.append(threading.Thread(target=body, daemon=True))
        cells[-1].start()
        return cells[-1]

    run.errors = errors
    return run


def assert_all_is_of(widget: Patient, number: int) -> None:
    assert (widget.state.number, widget.controls["number"].value, widget.result) == (number, number, number)
    assert f"The number is {number}," in widget.face.images["number"].value
    assert f"The number is {number}," in widget._repr_mimebundle_()["text/html"]
    assert "visdec-stale" not in widget.face.images["number"]._dom_classes
    assert widget.error is None and widget.face.status.value == ""


def test_a_control_moved_while_a_cell_computes_is_the_end_of_it(cell):
    widget = Gated()
    _ = widget.face
    running = cell(lambda: widget.set(number=50))
    assert widget.begun[50].wait(10)
    assert widget.controls["number"].value == 50, "the cell's knob is not shown while it computes"
    widget.controls["number"].value = 1
    assert widget.wait(10)
    assert_all_is_of(widget, 1)  # though the cell is not done
    widget.may_go_on[50].set()
    running.join(10)
    assert not running.is_alive() and widget.started == [1, 50]
    assert_all_is_of(widget, 1)


def test_a_cell_that_is_overtaken_returns_with_the_answer_that_counts(cell):
    widget, seen = Gated(), []
    running = cell(lambda: (widget.set(number=50), seen.append((widget.state.number, widget.result))))
    assert widget.begun[50].wait(10)
    widget.set(number=60)
    widget.may_go_on[50].set()
    running.join(0.2)
    assert running.is_alive() and seen == [], "it did not wait for the answer that replaces its own"
    widget.may_go_on[60].set()
    running.join(10)
    assert seen == [(60, 60)] and not cell.errors
    assert_all_is_of(widget, 60)


def test_a_cell_overtakes_a_thread_at_work(cell):
    widget = Gated()
    _ = widget.face
    widget.controls["number"].value = 50
    assert widget.begun[50].wait(10)
    running = cell(lambda: widget.set(number=2))
    running.join(10)
    assert_all_is_of(widget, 2)
    widget.may_go_on[50].set()
    assert widget.wait(10) and widget.started == [2, 50]
    assert_all_is_of(widget, 2)


def test_an_error_of_an_overtaken_cell_is_nobodys(cell):
    widget = Gated()
    widget.may_go_on[13].clear()
    running = cell(lambda: widget.set(number=13))
    assert widget.begun[13].wait(10)
    widget.set(number=3)
    assert widget.wait(10)
    widget.may_go_on[13].set()
    running.join(10)
    assert not cell.errors
    assert_all_is_of(widget, 3)


def test_a_partial_picture_that_was_drawn_too_late_is_not_shown(cell):
    class Partly(Gated):
        def compute(self, state, report=lambda *_: None):
            if state.number == 50:
                report(1, 2, lambda: self.slowly(state.number), ("number",))
            return super().compute(state, report)

        def slowly(self, number):
            self.begun[number].set()
            assert self.may_go_on[number].wait(20)
            return number

    widget, shown = Partly(), []
    widget.face.images["number"].observe(lambda change: shown.append(change["new"]), names="value")
    widget.face._shown_at = -1e9
    widget.controls["number"].value = 50
    assert widget.begun[50].wait(10)
    cell(lambda: widget.set(number=4)).join(10)
    widget.may_go_on[50].set()
    assert widget.wait(10)
    assert len(shown) == 1 and "The number is 4," in shown[0]
    assert_all_is_of(widget, 4)


def test_another_knob_moved_meanwhile_keeps_what_the_cell_has_set(cell):
    @dataclass(frozen=True)
    class Two(State):
        number: int = knob(1, "number", low=0, high=100)
        gains: Mapping = knob(dict, "gain of", low=0.0, high=2.0, options={"V1": "V1", "V4": "V4"})

    class Both(Gated):
        State = Two

    widget = Both()
    _ = widget.face
    running = cell(lambda: widget.set(number=50))
    assert widget.begun[50].wait(10)
    widget.may_go_on[50].set()
    widget.controls["gains.V4"].value = 0.0
    running.join(10)
    assert widget.wait(10)
    assert widget.state == Two(50, {"V4": 0.0}) and widget.controls["gains.V1"].value == 1.0
    assert_all_is_of(widget, 50)


def test_stop_ends_a_cells_work_and_fades_what_is_of_another_state(cell):
    widget = Gated()
    assert widget.result == 1
    _ = widget.face
    running = cell(lambda: widget.set(number=50))
    assert widget.begun[50].wait(10)
    widget.face.stop._click_handlers(widget.face.stop)
    widget.may_go_on[50].set()
    running.join(10)
    assert widget.result == 1 and not cell.errors
    assert "visdec-stale" in widget.face.images["number"]._dom_classes and "Stopped" in widget.face.status.value
    widget.set(number=5)
    assert widget.wait(10)
    assert_all_is_of(widget, 5)


@pytest.mark.parametrize("round_", range(5))
def test_whoever_comes_last_knobs_result_and_pictures_agree(cell, round_):
    widget, rng = Patient(), np.random.default_rng(round_)
    _ = widget.face
    numbers = [n for n in range(1, 101) if n != 13]

    def code():
        for number in rng.choice(numbers, 3):
            widget.set(number=int(number))

    running = cell(code)
    for number in np.random.default_rng(100 + round_).choice(numbers, 12):
        widget.controls["number"].value = int(number)
        time.sleep(0.005)
    running.join(20)
    assert widget.wait(20)
    assert_all_is_of(widget, widget.state.number)


def test_the_number_of_threads_is_put_back_however_two_widgets_overlap():
    inside, leave = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)]

    class Counting(Patient):
        def compute(self, state, report=lambda *_: None):
            inside[state.number].set()
            assert leave[state.number].wait(20)
            return state.number

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        widgets_ = [Counting(live=True), Counting(live=True)]
        for number, widget in enumerate(widgets_):
            widget.set(number=number)
            assert inside[number].wait(10)
        for event, widget in zip(leave, widgets_, strict=True):
            event.set()
            assert widget.wait(10)
        seen = []
        fresh = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        fresh.start()
        fresh.join()
        assert seen == [3] == [torch.get_num_threads()]
    finally:
        torch.set_num_threads(before)


KERNEL = """
from dataclasses import dataclass
from matplotlib.figure import Figure
from visdec_lite.widgets.base import Explorer, Pane, moved_by_hand
from visdec_lite.widgets.knobs import State, knob
import threading
@dataclass(frozen=True)
class Number(State):
    number: int = knob(1, "number", low=0, high=100)
class Show(Explorer):
    title = "A number"
    State = Number
    panes = {"number": Pane(lambda n: Figure((2, 1)), lambda n: f"This is number {n[0]}, found by {n[1]}.")}
    def compute(self, state, report=None):
        return state.number, threading.current_thread().name
show = Show()
show
"""


@pytest.fixture
def kernel():
    """A kernel's client, and `listen(until)`, which keeps what the kernel says in `heard`."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    client.heard = []

    def listen(until, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            message = client.get_iopub_msg(timeout=seconds)
            client.heard.append(message)
            if until(message):
                return message
        raise AssertionError(f"nothing of the kind in {len(client.heard)} messages")

    client.listen = listen
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def executed(kernel, code):
    """Run code to its end."""
    request = kernel.execute(code)
    kernel.listen(lambda m: m["msg_type"] == "status" and m["content"]["execution_state"] == "idle"
                  and m["parent_header"].get("msg_id") == request)  # fmt: skip
    assert not [m for m in kernel.heard if m["msg_type"] in ("error", "stream")]


def move_slider(kernel, value, which=0, **header):
    """What a front end does to a slider, by the message it sends."""
    slider = [
        m["content"] for m in kernel.heard
        if m["msg_type"] == "comm_open" and m["content"]["data"]["state"].get("_model_name") == "IntSliderModel"
    ][which]  # fmt: skip
    content = {
        "comm_id": slider["comm_id"],
        "data": {"method": "update", "state": {"value": value}, "buffer_paths": []},
    }
    message = kernel.session.msg("comm_msg", content)
    message["header"].update(header)
    kernel.shell_channel.send(message)


def test_in_a_kernel_a_person_is_answered_by_a_thread_and_the_static_copy_follows(kernel):
    executed(kernel, KERNEL)
    shown = [m["content"] for m in kernel.heard if m["msg_type"] == "display_data"]
    assert "application/vnd.jupyter.widget-view+json" in shown[0]["data"]
    assert "This is number 1, found by MainThread." in shown[1]["data"]["text/html"]
    move_slider(kernel, 42)
    update = kernel.listen(lambda m: m["msg_type"] == "update_display_data")["content"]
    assert update["transient"]["display_id"] == shown[1]["transient"]["display_id"]
    assert "This is number 42, found by visdec-widget." in update["data"]["text/html"]
    sent = [str(m["content"]["data"].get("state")) for m in kernel.heard if m["msg_type"] == "comm_msg"]
    assert any("found by visdec-widget" in state for state in sent), "the picture of the face"
    assert not [m for m in kernel.heard if m["msg_type"] in ("error", "stream")]


TWO_KNOBS = KERNEL.replace(
    '    number: int = knob(1, "number", low=0, high=100)\n',
    '    number: int = knob(1, "number", low=0, high=100)\n    other: int = knob(1, "other", low=0, high=100)\n',
).replace("return state.number,", "return (state.number, state.other),")
BESIDE = """
import time
def compute(state, report=None):
    if state.other != 7:
        print("begun", flush=True)
        end = time.monotonic() + 30
        while show.result[0][1] != 7 and time.monotonic() < end:
            time.sleep(0.01)
    return (state.number, state.other), threading.current_thread().name
show.compute = compute
show.set(number=50)
print(show.state, *show.result, "|", show._repr_mimebundle_()["text/html"].partition('src="')[0])
"""


def test_a_slider_moved_while_a_cell_runs_is_the_end_of_it_in_a_kernel_that_hears_both(kernel):
    kernel.kernel_info()
    info = kernel.get_shell_msg(timeout=60)["content"]
    if "kernel subshells" not in info.get("supported_features", []):
        pytest.skip(f"ipykernel {info['implementation_version']} hears a control only when its cell has ended")
    executed(kernel, TWO_KNOBS)
    kernel.control_channel.send(kernel.session.msg("create_subshell_request", {}))
    subshell = kernel.get_control_msg(timeout=60)["content"]["subshell_id"]
    move_slider(kernel, 2, 1, subshell_id=subshell)  # a kernel may answer from where it heard last
    kernel.listen(lambda m: m["msg_type"] == "update_display_data")
    kernel.execute(BESIDE)
    said = lambda m: m["content"]["text"].strip() if m["msg_type"] == "stream" else ""  # noqa: E731
    kernel.listen(lambda m: said(m) == "begun")
    move_slider(kernel, 7, 1, subshell_id=subshell)
    words = said(kernel.listen(lambda m: said(m) not in ("", "begun")))
    assert words.startswith("Number(number=50, other=7) (50, 7) visdec-widget | ")
    assert 'alt="This is number (50, 7), found by visdec-widget."' in words
    assert not [m for m in kernel.heard if m["msg_type"] == "error"]


# --- masks ---


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75, 0.9])
def test_exactly_the_share_asked_for_is_hidden_and_the_error_is_that_of_the_hidden(every, brain, ratio):
    widget = every["mask"]
    result = widget.compute(MaskState(mask_ratio=ratio, scan=3))
    assert result.mask.sum() == round(ratio * 50) and result.hidden.sum() == 32 * round(ratio * 50)
    expected = ((result.reconstruction - result.voxels) ** 2)[result.hidden].mean()
    assert result.error == pytest.approx(expected, rel=1e-4)
    assert result.error_zero == pytest.approx((result.voxels[result.hidden] ** 2).mean(), rel=1e-4)
    with torch.no_grad():
        mask, scan = torch.as_tensor(result.mask)[None], torch.as_tensor(result.voxels)[None]
        patches = brain.autoencoder.reconstruct(brain.autoencoder.encode(scan, mask), mask)
    np.testing.assert_allclose(result.reconstruction, patches.flatten().numpy(), atol=1e-5)


def test_what_stands_in_hidden_patches_changes_nothing(every, dataset, brain):
    result = every["mask"].compute(MaskState())
    other = replace(dataset["val"], voxels=dataset["val"].voxels.copy())
    other.voxels[0, result.hidden] = 5.0
    changed = MaskExplorer(brain.autoencoder, replace(dataset, splits={**dataset.splits, "val": other}))
    np.testing.assert_allclose(changed.compute(MaskState()).reconstruction, result.reconstruction, atol=1e-5)


def test_wider_patches_hide_neighbours_together(every):
    sizes = list(every["mask"].knobs["patch_size"].options)
    assert sizes == [0, 64, 160]  # whole multiples of 32 that leave 10 patches or more
    result = every["mask"].compute(MaskState(patch_size=160, mask_ratio=0.5))
    assert result.mask.sum() == 5 and result.hidden.reshape(10, 160).all(1).sum() == 5
    with pytest.raises(ValueError, match=r"patch_size has no 48; there are 0, 64, 160"):
        every["mask"].set(patch_size=48)


def test_the_trained_model_beats_zero_over_many_scans(every):
    result = every["mask"].compute(MaskState())
    assert result.others == 64 and result.error_all < result.error_all_zero


# --- contrast ---


def test_the_loss_is_the_librarys_and_the_gradient_is_autograds(every):
    result = every["contrast"].compute(ContrastState(temperature=0.2, batch_size=12, noise=1.0))
    views = torch.as_tensor(result.first), torch.as_tensor(result.second)
    assert result.loss == pytest.approx(float(info_nce(*views, 0.2)), rel=1e-6)
    similarity = torch.as_tensor(result.similarity).requires_grad_()
    F.cross_entropy(similarity / 0.2, torch.arange(12)).backward()
    np.testing.assert_allclose(result.gradient, similarity.grad.numpy(), atol=1e-6)
    np.testing.assert_allclose(result.probabilities.sum(1), 1, atol=1e-5)
    assert result.guessing == pytest.approx(math.log(12))


def test_without_a_model_equal_views_are_told_apart_and_drowned_ones_are_guessed(dataset):
    widget = ContrastExplorer(None, dataset)
    clear = widget.compute(ContrastState(noise=0.0, batch_size=32))
    np.testing.assert_allclose(np.diag(clear.similarity), 1, atol=1e-5)
    assert clear.accuracy == 1 and clear.loss < 0.1
    drowned = ContrastExplorer(None, blank(dataset)).compute(ContrastState(noise=4.0, batch_size=32, temperature=1.0))
    assert drowned.loss == pytest.approx(math.log(32), abs=0.02)


def blank(dataset):
    """Nothing but zeros."""
    val = replace(dataset["val"], voxels=np.zeros_like(dataset["val"].voxels))
    return replace(dataset, splits={**dataset.splits, "val": val})


# --- fusion ---


@pytest.mark.parametrize("asks", ["image", "brain"])
def test_the_weights_are_those_of_the_module(every, dataset, brain, asks):
    state = FusionState(scan=2, asks=asks, layer=2, head=3)
    result = every["fusion"].compute(state)
    fusion, scan = brain.fusion, dataset["val"].average_repeats().rows(np.array([2]))
    with torch.no_grad():
        seen = {"brain": fusion.fmri.encode(torch.as_tensor(scan.voxels)),
                "image": fusion.image.encode(to_model_range(scan.images))}  # fmt: skip
        stack, other = (fusion.image_cross, "brain") if asks == "image" else (fusion.fmri_cross, "image")
        _, maps = stack(seen[asks], seen[other], need_weights=True)
    expected = maps[1][0, 2, 1:].numpy()
    np.testing.assert_allclose(result.weights, expected[:, 1:], atol=1e-6)
    np.testing.assert_allclose(result.weights.sum(1) + result.cls_share, 1, atol=1e-5)
    mean = every["fusion"].compute(replace(state, head=0)).weights
    np.testing.assert_allclose(mean, maps[1][0].mean(0)[1:, 1:].numpy(), atol=1e-6)


def test_a_look_is_drawn_where_the_patches_lie(every):
    result = every["fusion"].compute(FusionState(asks="image", image_patch=5))
    assert result.image_map.sum() == 1 and result.image_map[0, 4] == 1
    np.testing.assert_allclose(result.voxel_map[::32], result.looked_at)
    assert result.looked_at.mean() == pytest.approx(1)
    assert sum(result.region_shares.values()) == pytest.approx(1)
    figure = every["fusion"].cortex(result)
    np.testing.assert_allclose(figure.data[0].marker.color, result.voxel_map.round(3))
    assert figure.data[0].text[0] == "V1, patch 1" and len(figure.data[0].x) == 1600
    asked = every["fusion"].compute(FusionState(asks="brain", brain_patch=2))
    assert np.flatnonzero(asked.voxel_map).tolist() == list(range(32, 64))


# --- diffusion ---


def test_forward_noise_and_the_walk_back_are_the_librarys(every, prior, dataset):
    state = DiffusionState(picture=4, time=300, sampler="ddim", steps=3, guidance=2.0, seed=1)
    result = every["diffusion"].compute(state)
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    scan = dataset["val"].average_repeats().rows(np.array([4]))
    with torch.no_grad():
        x0 = prior.encode(to_model_range(scan.images))
        x_t = prior.add_noise(x0, noise, torch.tensor([300]))
        np.testing.assert_allclose(result.x_t, x_t[0].numpy(), atol=1e-5)
        painted = sample_labels(prior, torch.as_tensor(scan.labels), torch.Generator().manual_seed(1), 3, 2.0, "ddim")
    np.testing.assert_array_equal(result.painted, to_uint8(painted)[0])
    scheduler = make_scheduler(prior.config, "ddim")
    scheduler.set_timesteps(3)
    assert result.timesteps.tolist() == scheduler.timesteps.tolist()
    latents = torch.as_tensor(result.walk_latents)
    for step, timestep in enumerate(scheduler.timesteps):  # the scheduler's own idea of x_0, from the noise it implies
        estimate = torch.as_tensor(result.estimate_latents[step])
        abar = scheduler.alphas_cumprod[timestep]
        epsilon = (latents[step] - abar.sqrt() * estimate) / (1 - abar).sqrt()
        told = scheduler.step(epsilon, timestep, latents[step])
        np.testing.assert_allclose(told.pred_original_sample.numpy(), estimate.numpy(), atol=1e-4)
        if step < 2:
            np.testing.assert_allclose(told.prev_sample.numpy(), latents[step + 1].numpy(), atol=1e-4)


def test_time_moves_without_walking_again_and_ends_in_noise(every, monkeypatch):
    widget = every["diffusion"]
    first = widget.compute(DiffusionState(steps=2, time=0))
    np.testing.assert_array_less(np.abs(first.x_t - first.x0).mean(), 0.1)
    monkeypatch.setattr("visdec_lite.widgets.diffusion.watched_walk", None)
    last = widget.compute(DiffusionState(steps=2, time=999))
    assert last.signal[999] < 0.1 and last.nearest == 0 and first.nearest == 1
    np.testing.assert_array_equal(last.painted, first.painted)


def test_a_conditioner_makes_it_paint_what_the_pipeline_paints(brain, dataset, demo):
    widget = DiffusionExplorer(brain.conditioned.diffusion, dataset, "test", conditioner=brain.conditioned.conditioner)
    result = widget.compute(DiffusionState(picture=1, steps=2, guidance=3.0))
    images = demo.pipe(
        dataset["test"].average_repeats().voxels[1], num_samples=1, num_inference_steps=2, guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    np.testing.assert_allclose(result.painted.astype(int), images[0, 0], atol=1)
    assert "scan" in result.told


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "dpm++"])
def test_a_walk_can_be_left_at_any_step(prior, sampler):
    seen: list[Step] = []

    def leave(step: Step) -> None:
        seen.append(step)
        if step.number == 1:
            raise RuntimeError("enough")

    told = prior.label_context(torch.tensor([3])), None
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="enough"):
        watched_walk(prior.predict_noise, make_scheduler(prior.config, sampler), noise, told, told, 5, 1.0, leave)
    assert [step.number for step in seen] == [0, 1] and seen[0].total == (6 if sampler == "pndm" else 5)


# --- brain to image ---


def paint(demo: BrainToImageDemo, state: BrainState) -> np.ndarray:
    return demo.paint(demo.scan(state), state, lambda step: None)


def test_with_every_knob_at_rest_it_is_the_pipeline(demo, dataset):
    state = BrainState(stimulus=7, trials=35, steps=3, samples=2, guidance=2.5, seed=4)
    direct = demo.pipe(
        dataset["test"].average_repeats().voxels[7], num_samples=2, num_inference_steps=3, guidance_scale=2.5,
        generator=torch.Generator().manual_seed(4),
    ).images[0]  # fmt: skip
    result = demo.compute(state)
    np.testing.assert_array_equal(result.images, direct)
    np.testing.assert_array_equal(result.voxels, result.intact)
    np.testing.assert_array_equal(result.ridge, demo.ridge.reconstruct(result.voxels[None])[0])


def test_knobs_do_to_the_scan_what_they_say(demo, dataset):
    base = BrainState(stimulus=5, trials=35)
    scan, rois = demo.scan(base), dataset.rois
    changed = demo.scan(replace(base, gains={"V4": 0.0, "V1": 2.0}))
    assert (changed[rois["V4"]] == 0).all()
    np.testing.assert_allclose(changed[rois["V1"]], 2 * scan[rois["V1"]])
    np.testing.assert_array_equal(changed[rois["LOC"]], scan[rois["LOC"]])
    assert (demo.scan(replace(base, noise=2.0)) - scan).std() == pytest.approx(2.0, rel=0.1)
    np.testing.assert_array_equal(np.sort(demo.scan(replace(base, scan="shuffled"))), np.sort(scan))
    np.testing.assert_array_equal(demo.scan(replace(base, scan="another")), demo.scan(replace(base, stimulus=30)))
    assert not demo.scan(replace(base, scan="none")).any()
    test = dataset["test"]
    one = test.voxels[np.flatnonzero(test.stimulus == 5)[0]]
    np.testing.assert_allclose(demo.scan(replace(base, trials=1)), one, atol=1e-6)


def test_the_prior_alone_knows_no_stimulus_and_says_so(demo):
    first, other = (demo.compute(BrainState(stimulus=s, scan="none", steps=2, samples=2)) for s in (0, 9))
    np.testing.assert_array_equal(first.images, other.images)
    assert "the prior alone" in demo.describe(first)


def test_a_lesion_takes_what_the_region_knows(demo, dataset):
    """V4 takes the colour and leaves the shape, LOC the other way round; ridge fades, the prior makes up a colour."""
    stimuli, test = range(0, 21, 3), dataset["test"].average_repeats()
    right, faded = {}, {}
    for region in ("none", "V4", "LOC"):
        hits, chroma = [], []
        for stimulus in stimuli:
            state = BrainState(stimulus=stimulus, trials=35, samples=2, gains={} if region == "none" else {region: 0.0})
            chances = demo._classify(paint(demo, state)).reshape(-1, SHAPES, COLOURS)
            shape, colour = divmod(test.labels[stimulus], COLOURS)
            hits.append((chances.sum(1).argmax(1) == colour, chances.sum(2).argmax(1) == shape))
            chroma.append(colourfulness(demo.ridge.reconstruct(demo.scan(state)[None])))
        right[region], faded[region] = np.mean(hits, axis=(0, 2)), np.array(chroma)
    assert right["none"][0] > 0.85 and right["V4"][0] < right["none"][0] - 0.2, "colour"
    assert right["LOC"][0] > 0.8 and right["LOC"][1] < right["none"][1] - 0.2, "shape"
    assert right["V4"][1] > right["LOC"][1] + 0.2
    assert (faded["V4"] < faded["none"]).all() and faded["V4"].mean() < 0.75 * faded["none"].mean()
    assert faded["LOC"].mean() > faded["V4"].mean()


def test_verdict_and_rank_are_those_of_the_metrics(demo, dataset):
    result = demo.compute(BrainState(stimulus=3, trials=35, steps=4, samples=3))
    probabilities = demo._classify(result.images).mean(0)
    names = [dataset.category_names[i] for i in np.argsort(-probabilities)[:5]]
    assert [name for name, _ in result.top] == names and result.categories == 50
    assert result.takes_seen_for == result.category  # the referee knows the rendered pictures
    pictures = dataset["test"].average_repeats().images
    repeated = np.broadcast_to(result.images, (50, *result.images.shape)).copy()
    scores = score_matrix(repeated, pictures, "pcc")[3].mean(0)
    assert result.rank == 1 + (scores > scores[3]).sum() and result.candidates == 50
    assert pcc(result.images[None], result.seen[None])[0] == pytest.approx(scores[3])


def test_rank_of_the_picture_itself_is_1_and_of_nothing_is_the_middle(rng):
    pictures = rng.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    assert identification_rank(pictures[:1], pictures) == 1
    assert identification_rank(255 - pictures[:1], pictures) == 9
    assert identification_rank(np.full((2, 8, 8, 3), 7, dtype=np.uint8), pictures) == 5
    assert colourfulness(np.full((2, 2, 3), 9, dtype=np.uint8)) == 0
    assert colourfulness(np.array([[[255, 0, 0]]], dtype=np.uint8)) == 1


def test_buttons(every, dataset):
    widget = every["demo"]
    widget.set(stimulus=0, scan="own")
    widget.face.buttons["Surprise me"].click()
    assert widget.state.stimulus != 0 and widget.controls["stimulus"].value == widget.state.stimulus
    widget.face.buttons["Shuffle the brain"].click()
    assert widget.state.scan == "shuffled" and "shuffled" in widget.face.images["pictures"].value
    widget.face.buttons["Shuffle the brain"].click()
    assert widget.state.scan == "own"
    widget.set(gains={"V4": 0.0}, noise=1.0, trials=2)
    assert "V4 silenced; noise 1" in widget.face.images["pictures"].value
    assert widget.controls["gains.V4"].value == 0
    widget.face.buttons["Heal the brain"].click()
    np.testing.assert_array_equal(widget.result.voxels, widget.result.intact)
    assert widget.controls["gains.V4"].value == 1 and widget.controls["trials"].value == 35


def test_pictures_arrive_step_by_step_in_a_thread(demo, world):
    widget = BrainToImageDemo(
        demo.pipe, demo.dataset, classifier=world.classifier, ridge=demo.ridge, live=True, strict=True
    )
    seen = []
    widget.face.images["pictures"].observe(lambda change: seen.append(change["new"]), names="value")
    widget.face.wants_more = lambda: True
    widget.set(steps=4, samples=1)
    assert widget.wait(60)
    assert [f"after {n} of 4 steps" in html for n, html in zip((1, 2, 3, 4), seen, strict=False)] == [True] * 4
    assert widget.result.finished and widget.result.done == 4


def test_turning_the_brain_keeps_the_figure_and_changes_its_colours(every):
    widget = every["demo"]
    widget.heal()
    widget.face.turn.value = True
    figure = widget.face._turned
    np.testing.assert_allclose(figure.data[0].marker.color, widget.result.voxels.round(3), atol=1e-3)
    widget.set(gains={"V1": 0.0})
    assert widget.face._turned is figure
    assert not np.any(np.array(figure.data[0].marker.color)[widget.dataset.rois["V1"]])
    widget.face.turn.value = False
    assert widget.face._stage.children == ()


def test_the_shipped_demo_is_one_line(every):
    shipped = BrainToImageDemo.simulated(ridge=False, state=BrainState(steps=2, samples=2, trials=35))
    assert "simulated" in shipped.title
    np.testing.assert_array_equal(shipped.result.images, every["demo"].compute(shipped.state).images)
    assert shipped.result.ridge is None and shipped.result.ridge_rank is None


# --- somebody else's data ---


@pytest.fixture(scope="module")
def own_data():
    """20 pictures seen by two people, 60 voxels in overlapping regions, 8 test pictures; nothing is padded."""
    rng = np.random.default_rng(0)
    columns = {
        part: {
            "voxels": rng.standard_normal((rows, 60)).astype(np.float32),
            "images": rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8),
            "labels": np.arange(rows) % 3,
            "subject": 1 + np.arange(rows) % 2,
        }
        for part, rows in (("train", 40), ("test", 16))
    }
    columns["test"]["images"][1::2] = columns["test"]["images"][::2]  # each picture is seen by both
    rois = {"early": np.arange(60) < 40, "late": np.arange(60) >= 30}
    return from_arrays(columns["train"], columns["test"], rois=rois, name="mine")


@pytest.fixture(scope="module")
def own_pipe(own_data) -> FMRIToImagePipeline:
    chosen = preset("smoke", **{"autoencoder.patch_size": 8})
    padded = chain.ready_for(own_data, chosen)
    return chain.new_brain(chosen, padded.num_voxels, chain.new_world(chosen, 0), 0).pipeline(chosen)


def test_own_data_a_saved_pipeline_no_referee_no_places(own_data, own_pipe, tmp_path):
    own_pipe.save_pretrained(tmp_path / "pipe")
    widget = BrainToImageDemo(tmp_path / "pipe", own_data, state=BrainState(steps=2, samples=2, trials=2))
    assert widget.pipe.conditioner.encoder.config.num_voxels == 64 and own_data.num_voxels == 60
    assert {"gains.early", "gains.late", "subject", "trials"} <= set(widget.controls)
    result = widget.result
    assert result.images.shape == (2, 32, 32, 3) and result.top is None and result.positions is None
    assert result.candidates == 8 and result.ridge is not None and not result.simulated
    words = widget._repr_mimebundle_()["text/html"]
    assert "SIMULATED" not in words and "referee" not in words
    assert "mine" in widget.title
    both = widget.scan(widget.state)
    one, two = (widget.scan(replace(widget.state, subject=s)) for s in (1, 2))
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-6)
    lesioned = widget.scan(replace(widget.state, gains={"early": 0.0, "late": 2.0}))
    assert not lesioned[:40].any()
    np.testing.assert_allclose(lesioned[40:], 2 * both[40:], rtol=1e-5)
    widget.face.turn.value = True
    assert "No position" in widget.face._stage.children[0].value
    with pytest.raises(ValueError, match=r"gains has no 'V4'; there are early, late"):
        widget.set(gains={"V4": 0.0})


def test_positions_of_ones_own_voxels_are_drawn(own_data, own_pipe):
    places = np.random.default_rng(1).uniform(-40, 40, (60, 3))
    widget = BrainToImageDemo(
        own_pipe, own_data, positions=places, regions=["late"], ridge=False, state=BrainState(steps=1, samples=1)
    )
    np.testing.assert_array_equal(widget.result.positions, places)
    assert "gains.early" not in widget.controls and "from behind" in [
        axes.get_title(loc="left") for axes in widget.panes["activity"].draw(widget.result).axes
    ]
    with pytest.raises(ValueError, match=r"positions have shape \(59, 3\), expected \(60, 3\)"):
        BrainToImageDemo(own_pipe, own_data, positions=places[1:], ridge=False).compute(BrainState(steps=1))


def test_a_pipeline_of_other_voxels_and_unknown_regions_are_refused(demo, own_data, own_pipe):
    with pytest.raises(ValueError, match=r"60 voxels, the model reads 1600; use the data set"):
        BrainToImageDemo(demo.pipe, own_data)
    with pytest.raises(ValueError, match=r"mine has no region V9; it has early, late"):
        BrainToImageDemo(own_pipe, own_data, regions=["V9"])
    with pytest.raises(ValueError, match=r"split 'pretrain' of simulated has no pictures"):
        BrainToImageDemo(demo.pipe, demo.dataset, "pretrain")


def test_digits69_if_it_is_here(shared_data):
    dataset = load_dataset("digits69", root=str(shared_data / "digits69" / "digits69_dev.mat"))
    chosen = preset_for("digits69", "class").with_categories(2)
    world = chain.load_world(chain.shipped("digits69"), chosen)
    padded = chain.ready_for(dataset, chosen)
    pipe = chain.new_brain(chosen, padded.num_voxels, world, 0).pipeline(chosen)
    for data in (dataset, padded):
        widget = BrainToImageDemo(
            pipe, data, classifier=world.classifier, ridge=False, state=BrainState(steps=2, samples=2)
        )
        assert widget.result.categories == 2 and len(widget.result.top) == 2
        assert set(widget.result.activity) == {"all"} and not widget.result.simulated
        assert "trials" not in widget.controls and "gains.all" in widget.controls
