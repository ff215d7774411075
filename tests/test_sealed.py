"""Damage is seen: whatever is done to a file of ours, it is refused in words or gives what was written."""

from __future__ import annotations

import json
import logging
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from visdec_lite.checkpoints import previous_path, read_checkpoint, write_checkpoint
from visdec_lite.datasets import simulated
from visdec_lite.files import read_json, write_json
from visdec_lite.sealed import cached, open_tensors, write_tensors
from visdec_lite.weights import load_weights, save_weights

FUZZ = settings(max_examples=300, derandomize=True, deadline=None, database=None)


def model(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def damaged(whole: bytes, kind: str, place: float, bit: int) -> bytes:
    """One bit flipped, the end cut off, or a byte put in."""
    at = int(place * len(whole))
    if kind == "flip":
        return whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :]
    return whole[:at] if kind == "cut" else whole[:at] + b"\0" + whole[at:]


DAMAGE = {
    "kind": st.sampled_from(["flip", "flip", "flip", "cut", "insert"]),
    "place": st.floats(0, 0.999999), "bit": st.integers(0, 7),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sealed")
    save_weights(folder / "weights", model(0), "toy", {"width": 3}, card={"note": "é"}, identity={"a": 1})
    write_checkpoint({"step": 3, "weights": model(0).state_dict(), "history": [{"loss": 0.1}]}, folder / "state")
    write_json(folder / "note.json", {"a": 1, "b": [1.5, "x"], "c": {"d": None}})
    return folder


def test_the_same_values_come_back_with_any_reader(folder):
    assert all(torch.equal(v, load_file(folder / "weights")[n]) for n, v in model(0).state_dict().items())
    with open_tensors(folder / "weights") as file:
        assert len(file.metadata()["sha256"]) == 64


@FUZZ
@given(**DAMAGE)
def test_no_damage_to_weights_gives_other_weights(folder, kind, place, bit):
    path = folder / "weights_damaged"
    path.write_bytes(damaged((folder / "weights").read_bytes(), kind, place, bit))
    loaded = model(1)
    with pytest.raises(ValueError, match=r"is damaged|carries no SHA-256|was not written by"):
        load_weights(path, loaded, "toy", {"width": 3})
    assert all(torch.equal(v, model(1).state_dict()[n]) for n, v in loaded.state_dict().items())


@FUZZ
@given(**DAMAGE)
def test_no_damage_to_a_checkpoint_goes_unseen_and_the_one_before_is_tried(folder, kind, place, bit):
    path = folder / "damaged.safetensors"
    write_bytes = (folder / "state").read_bytes()
    previous_path(path).write_bytes(write_bytes)
    path.write_bytes(damaged(write_bytes, kind, place, bit))
    state = read_checkpoint(path)
    assert state["step"] == 3 and torch.equal(state["weights"]["0.weight"], model(0)[0].weight)
    assert not path.exists()  # it was set aside, and nothing else was read from it


@FUZZ
@given(**DAMAGE)
def test_no_damage_to_a_note_goes_unseen(folder, kind, place, bit):
    path = folder / "damaged.json"
    path.write_bytes(damaged((folder / "note.json").read_bytes(), kind, place, bit))
    try:
        assert read_json(path, "a") == read_json(folder / "note.json")  # white space
    except ValueError as error:
        assert str(path) in str(error) and "run the command again" in str(error)


NO_NOTES = ["", "[]", "null", "{}", "3", '{"a": 1}', "[" * 100_000, '{"sha256": 7, "a": 1}', "\x00"]


@pytest.mark.parametrize("content", NO_NOTES)
def test_a_note_that_is_none_is_named(tmp_path, content):
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(ValueError, match=r"settings\.json is damaged.*; delete it \(or .*\) and run the command again"):
        read_json(tmp_path / "settings.json", "a")


def test_a_note_keeps_numbers_and_the_order_of_its_names(tmp_path):
    content = {"z": 0.1 + 0.2, "a": [1, {"ü": -1e-300}], "n": None}
    write_json(tmp_path / "note.json", content)
    assert read_json(tmp_path / "note.json") == content
    assert list(json.loads((tmp_path / "note.json").read_text())) == ["z", "a", "n", "sha256"]
    with pytest.raises(ValueError, match="it lacks b, c"):
        read_json(tmp_path / "note.json", "a", "b", "c")


# --- what is not finite ---


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path, value):
    broken = model(0)
    with torch.no_grad():
        broken[1].bias[1] = value
    with pytest.raises(ValueError, match=r"1\.bias of Sequential holds 1 values of NaN.*nothing was written"):
        save_weights(tmp_path / "w", broken, "toy", {})
    assert not (tmp_path / "w").exists()
    words = {"format": "visdec_lite", "kind": "toy", "config": "{}", "card": "{}", "identity": "{}"}
    write_tensors(tmp_path / "w", broken.state_dict(), words)
    loaded = model(1)
    with pytest.raises(ValueError, match=r"w: 1\.bias holds 1 values of NaN or infinity, expected none"):
        load_weights(tmp_path / "w", loaded, "toy", {})
    assert torch.equal(loaded[0].weight, model(1)[0].weight)


def test_weights_beyond_float16_are_refused_at_half_size(tmp_path):
    large = model(0)
    with torch.no_grad():
        large[0].weight[0, 0] = 70_000
    with pytest.raises(ValueError, match="holds 1 values of NaN or infinity"):
        save_weights(tmp_path / "w", large, "toy", {}, half=True)
    save_weights(tmp_path / "w", large, "toy", {})


ODD_HEADERS = [b"", b"{}", b'{"__metadata__":{}}', b'{"__metadata__":{"sha256":"00"}}', b"[]", b"\xff\xfe"]


@pytest.mark.parametrize("header", ODD_HEADERS)
def test_odd_headers_are_refused(tmp_path, header):
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match=r"is damaged|carries no SHA-256"), open_tensors(tmp_path / "w"):
        pass


def test_another_programs_file_is_refused_for_what_it_is(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "w", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="carries no SHA-256: it was not written by this version of visdec_lite"), \
            open_tensors(tmp_path / "w"):  # fmt: skip
        pass


# --- checkpoints ---


def test_any_nesting_comes_back(tmp_path):
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3)}, 1: {"step": torch.tensor(4.0)}}
    state = {
        "optimizers": [{"state": moments, "param_groups": [{"lr": 1e-3, "params": [0, 1], "eps": 1e-8}]}],
        "ema": [], "best_weights": None, "scaler": {}, "best_value": math.inf, "bf16": torch.ones(3).bfloat16(),
        "history": [{"step": 1, "loss": 0.1 + 0.2}],
    }  # fmt: skip
    write_checkpoint(state, tmp_path / "c.safetensors")
    back = read_checkpoint(tmp_path / "c.safetensors")
    assert back["optimizers"][0]["state"].keys() == {0, 1}
    assert torch.equal(back["optimizers"][0]["state"][0]["exp_avg"], torch.ones(2, 3))
    assert back["bf16"].dtype is torch.bfloat16 and back["best_value"] == math.inf
    for name in ("ema", "best_weights", "scaler", "history"):
        assert back[name] == state[name]


# --- caches ---

TINY = simulated.SimulationConfig(
    voxels=(("V1", 32), ("V4", 32)), num_train=40, num_val=10, num_pretrain=20, num_test=10, num_test_seen=10,
    test_repeats=2, pool_subjects=1,
)  # fmt: skip


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(**DAMAGE)
def test_a_damaged_cache_is_made_anew_with_one_warning(tmp_path_factory, kind, place, bit):
    path = tmp_path_factory.mktemp("cache") / "a.safetensors"
    arrays = {"x": np.arange(60.0).reshape(6, 10), "labels": np.arange(6), "images": np.ones((2, 2), np.uint8)}
    made = []

    def make() -> dict[str, np.ndarray]:
        made.append(1)
        return arrays

    cached(path, make)
    path.write_bytes(damaged(path.read_bytes(), kind, place, bit))
    for _ in range(2):
        back = cached(path, make)
        assert {name: (a.dtype, a.tolist()) for name, a in back.items()} == {
            name: (a.dtype, a.tolist()) for name, a in arrays.items()}  # fmt: skip
    assert len(made) == 2


def test_a_simulation_outlives_its_cache(tmp_path, caplog):
    first = simulated.load(TINY, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        again = simulated.load(TINY, cache=tmp_path)
    assert caplog.text.count("the cache is made anew") == 1 and "is damaged" in caplog.text
    for split in first.splits:
        np.testing.assert_array_equal(first[split].voxels, again[split].voxels)
    caplog.clear()
    simulated.load(TINY, cache=tmp_path)
    assert not caplog.text


def test_a_cache_that_cannot_be_written_costs_its_time_only(tmp_path, caplog):
    place = tmp_path / "a file, where a folder is wanted"
    place.write_text("")
    with caplog.at_level(logging.WARNING):
        data = [simulated.load(TINY, cache=place) for _ in range(2)]
    np.testing.assert_array_equal(data[0]["test"].voxels, data[1]["test"].voxels)
    assert caplog.text.count("going on without a cache") == 1 and "VISDEC_CACHE" in caplog.text
