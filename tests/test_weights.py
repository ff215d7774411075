"""Weights files: what is written comes back, and what does not fit is named and leaves the model alone."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from visdec_lite import sealed
from visdec_lite.sealed import write_tensors
from visdec_lite.weights import load_weights, read_metadata, save_weights


@dataclass(frozen=True)
class Config:
    width: int = 6
    rate: float = 0.1
    channels: tuple[int, ...] = (2, 3)  # JSON knows lists only


class Model(nn.Module):
    def __init__(self, seed: int, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(4, width), nn.Linear(width, 2)
        self.register_buffer("count", torch.tensor(seed))


CONFIG = asdict(Config())


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of Model(seed=1)."""
    save_weights(tmp_path / "weights.safetensors", Model(1), "toy", CONFIG, card={"seed": 1, "seconds": 2.5},
                 identity={"training.steps": 7})  # fmt: skip
    return tmp_path / "weights.safetensors"


def refused(path: Path, match: str, kind: str = "toy", config: dict | None = None, model: nn.Module | None = None):
    """Loading fails with these words, and no weight has moved."""
    model = model or Model(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=match):
        load_weights(path, model, kind, config or CONFIG)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# --- there and back ---


def test_float32_comes_back_exactly(path):
    model = Model(2)
    assert not same(model, Model(1))
    assert load_weights(path, model, "toy", CONFIG) == {"seed": 1, "seconds": 2.5}
    assert same(model, Model(1))
    assert model.first.weight.requires_grad and model.first.weight.dtype == torch.float32


def test_half_is_half_the_size_rounds_and_gives_float32_again(tmp_path):
    big = nn.Linear(200, 200)
    for half in (False, True):
        save_weights(tmp_path / f"{half}.safetensors", big, "toy", CONFIG, half=half)
    sizes = [(tmp_path / f"{half}.safetensors").stat().st_size for half in (True, False)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.02)
    loaded = nn.Linear(200, 200)
    load_weights(tmp_path / "True.safetensors", loaded, "toy", CONFIG)
    assert loaded.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.weight, big.weight, rtol=2**-11, atol=1e-7)
    assert not torch.equal(loaded.weight, big.weight)


def test_half_keeps_whole_numbers_whole(tmp_path):
    model = Model(123456789)  # a float16 ends at 65504
    save_weights(tmp_path / "w", model, "toy", CONFIG, half=True)
    loaded = Model(0)
    load_weights(tmp_path / "w", loaded, "toy", CONFIG)
    assert loaded.count == 123456789


def test_the_file_says_what_it_is(path):
    seal = read_metadata(path)["sha256"]
    assert read_metadata(path) == {
        "kind": "toy",
        "config": {"width": 6, "rate": 0.1, "channels": [2, 3]},
        "card": {"seed": 1, "seconds": 2.5},
        "identity": {"training.steps": 7},
        "sha256": hashlib.sha256(path.read_bytes().replace(seal.encode(), b"0" * 64)).hexdigest(),
    }


def test_no_card_is_an_empty_card(tmp_path):
    save_weights(tmp_path / "w", Model(1), "toy", CONFIG)
    assert read_metadata(tmp_path / "w")["card"] == {}


def test_anyone_can_open_it(path):
    assert set(load_file(path)) == set(Model(0).state_dict())


def test_only_keeps_and_asks_for_these_names(tmp_path):
    def second(name: str) -> bool:
        return name.startswith("second.")

    save_weights(tmp_path / "w", Model(1), "toy", CONFIG, only=second)
    assert set(load_file(tmp_path / "w")) == {"second.weight", "second.bias"}
    model = Model(2)
    load_weights(tmp_path / "w", model, "toy", CONFIG, only=second)
    assert torch.equal(model.second.weight, Model(1).second.weight)
    assert torch.equal(model.first.weight, Model(2).first.weight)
    refused(tmp_path / "w", "3 names missing")  # without the filter, the rest is wanted too


# --- what does not fit ---


def test_another_kind_is_an_error(path):
    refused(path, "holds 'toy' weights, expected 'fused'", kind="fused")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"rate": 0.2}, r"rate was 0\.1, now 0\.2"),
        ({"channels": (2, 4)}, r"channels was \[2, 3\], now \[2, 4\]"),
        ({"depth": 3}, "depth was absent, now 3"),
    ],
)
def test_another_config_is_named_field_by_field(path, change, words):
    refused(path, f"another config: {words}", config={**CONFIG, **change})


def test_a_field_that_is_gone_is_named_too(path):
    refused(path, r"rate was 0\.1, now absent", config={k: v for k, v in CONFIG.items() if k != "rate"})


def test_missing_and_unexpected_names_are_counted_and_named(path):
    model = Model(2)
    model.third, model.second = nn.Linear(1, 1), nn.Identity()
    refused(
        path, r"2 names missing \(third.bias, third.weight\), 2 unexpected \(second.bias, second.weight\)", model=model
    )


def test_other_shapes_are_named_and_nothing_is_loaded_as_far_as_it_fits(path):
    model = Model(2)
    model.second = nn.Linear(6, 3)  # the first layer would fit
    refused(path, r"second.(weight|bias) is \(.*\), expected \(.*3.*\)", model=model)


# --- what is no such file ---


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nowhere"):
        load_weights(tmp_path / "nowhere", Model(1), "toy", CONFIG)


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_a_cut_file_is_damaged(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, "is damaged or no safetensors file .*delete it")


@pytest.mark.parametrize("content", [b"PK\x03\x04 a pickle, perhaps" * 20, struct.pack("<Q", 2**60) + b"{}"])
def test_another_format_is_never_unpickled(path, content):
    path.write_bytes(content)
    refused(path, "is damaged or no safetensors file")


def test_someone_elses_safetensors_is_an_error(path):
    save_file(Model(1).state_dict(), path)
    refused(path, "carries no SHA-256: it was not written by this version of visdec_lite")
    write_tensors(path, Model(1).state_dict(), {"format": "pt"})
    refused(path, "its format is 'pt'")


# --- written whole or not at all ---


def test_a_failing_save_leaves_the_old_file(path, monkeypatch):
    def fails(state: dict, target: Path, metadata: dict) -> None:
        Path(target).write_bytes(b"half a file")
        raise OSError("no space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(sealed, "save_file", fails)
    with pytest.raises(OSError, match="no space left"):
        save_weights(path, Model(3), "toy", CONFIG)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_save_replaces_the_old_file_and_makes_its_folder(path):
    save_weights(path, Model(3), "toy", CONFIG)
    model = Model(2)
    load_weights(path, model, "toy", CONFIG)
    assert same(model, Model(3))
    save_weights(path.parent / "a" / "b" / "w", Model(3), "toy", CONFIG)
    assert (path.parent / "a" / "b" / "w").is_file()


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = Model(1)
    save_weights(tmp_path / "w", model, "toy", CONFIG, half=True)
    assert same(model, Model(1)) and model.first.weight.dtype == torch.float32
