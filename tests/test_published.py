"""Published encoders: the layout of METHOD section 7, the same encodings, and nothing in the file is run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from visdec_lite import chain
from visdec_lite.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from visdec_lite.published import load_published, open_safely, stretch_positions

SMALL = MaskedAutoencoderConfig(
    num_voxels=64, patch_size=8, embed_dim=16, depth=2, num_heads=2, decoder_embed_dim=8, decoder_depth=3,
    decoder_num_heads=2,
)  # fmt: skip
NAMES = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "decoder_embed_dim", "decoder_num_heads")


@pytest.fixture
def config_class(monkeypatch) -> type:
    """A class in a module named `config`, as the authors have; gone before anything is loaded."""
    module = ModuleType("config")
    exec("class Config_MBM_fMRI: ...", module.__dict__)
    module.Config_MBM_fMRI.__module__ = "config"
    monkeypatch.setitem(sys.modules, "config", module)
    return module.Config_MBM_fMRI


@pytest.fixture
def model() -> MaskedAutoencoder:
    return chain.seeded(0, lambda: MaskedAutoencoder(SMALL)).eval()


def published(path: Path, autoencoder: MaskedAutoencoder, config_class: type, **changes) -> Path:
    """The file that a stranger with the authors' code would have saved."""
    config = config_class()
    vars(config).update({name: getattr(autoencoder.config, name) for name in NAMES}, roi="VC", lr=2.5e-4)
    tensors = {name.removeprefix("encoder."): tensor for name, tensor in autoencoder.state_dict().items()}
    content = {"model": tensors, "optimizer": {"state": {}}, "epoch": 140, "scaler": {"scale": 1.0}, "config": config}
    torch.save({**content, **changes}, path)
    sys.modules.pop("config")  # whoever loads it does not have the class
    return path


@pytest.fixture
def file(tmp_path, model, config_class) -> Path:
    return published(tmp_path / "published.pth", model, config_class)


def test_the_same_encoder_and_decoder_come_out(file, model):
    found = load_published(file)
    assert found.config == SMALL and not found.training
    voxels = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 8, dtype=torch.bool)
    mask[:, 2:] = True
    assert torch.equal(found.encode(voxels, mask), model.encode(voxels, mask))
    assert torch.equal(
        found.reconstruct(found.encode(voxels, mask), mask), model.reconstruct(model.encode(voxels, mask), mask)
    )


def test_the_cross_attention_of_phase_2_is_left_out_and_said_so(tmp_path, model, config_class, caplog):
    tensors = {name.removeprefix("encoder."): tensor for name, tensor in model.state_dict().items()}
    more = {"cross_blocks.0.norm1.weight": torch.ones(16), "cross_map_in.weight": torch.ones(2, 2)}
    path = published(tmp_path / "two.pth", model, config_class, model={**tensors, **more})
    with caplog.at_level(logging.INFO, logger="visdec_lite"):
        found = load_published(path)
    assert "2 tensors of phase 2's cross-attention are left out" in caplog.text
    assert torch.equal(found.encoder.cls_token, model.encoder.cls_token)


def test_positions_are_stretched_for_another_number_of_voxels(file, model):
    found = load_published(file, num_voxels=128)
    assert found.config.num_voxels == 128
    assert found.encoder.pos_embed.shape == (1, 17, 16) and found.decoder_pos_embed.shape == (1, 17, 8)
    assert torch.equal(found.encoder.pos_embed[:, 0], model.encoder.pos_embed[:, 0])
    assert found.encode(torch.zeros(1, 128)).shape == (1, 17, 16)
    assert torch.equal(found.encoder.patch_embed.proj.weight, model.encoder.patch_embed.proj.weight)


def test_stretching_a_straight_line_gives_the_line_between_its_ends():
    line = torch.arange(4.0).view(1, 4, 1)  # patch centres 0.5, 1.5, 2.5, 3.5 of 4 carry 0, 1, 2, 3
    stretched = stretch_positions(torch.cat([torch.full((1, 1, 1), 9.0), line], dim=1), 8)
    expected = [9.0, 0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]  # centres 0.25, 0.75, ... of 4; the ends stay
    torch.testing.assert_close(stretched.flatten(), torch.tensor(expected))
    same = torch.randn(1, 5, 3)
    torch.testing.assert_close(stretch_positions(same, 4), same)


class Planted:
    def __reduce__(self):
        return Path.touch, (Path(Planted.mark),)


def test_a_program_in_the_file_is_refused_and_does_not_run(tmp_path, model, config_class):
    Planted.mark = str(tmp_path / "it ran")
    path = published(tmp_path / "evil.pth", model, config_class, scaler=Planted())
    with pytest.raises(ValueError, match=r"wants to run .*Path.*nothing was run"):
        load_published(path)
    assert not (tmp_path / "it ran").exists()


def test_a_program_hidden_under_the_allowed_name_does_nothing(tmp_path, model, config_class):
    """Whatever the class `config.*` is elsewhere, here it is an empty one."""
    opened = open_safely(published(tmp_path / "published.pth", model, config_class))
    assert vars(opened["config"])["roi"] == "VC" and type(opened["config"]).__name__ == "_Stub"
    assert "config" not in sys.modules


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {}}, "does not say encoder.pos_embed, decoder_pos_embed"),
        ({"config": {"patch_size": 8}}, "does not say embed_dim, depth, num_heads"),
    ],
)
def test_an_incomplete_file_is_named(tmp_path, model, config_class, changes, words):
    with pytest.raises(ValueError, match=words):
        load_published(published(tmp_path / "published.pth", model, config_class, **changes))


def test_tensors_that_do_not_fit_are_counted(tmp_path, model, config_class):
    tensors = {name.removeprefix("encoder."): tensor for name, tensor in model.state_dict().items()}
    del tensors["norm.weight"]
    tensors["norm.bias"] = torch.zeros(3)
    tensors["surprise"] = torch.zeros(1)
    path = published(tmp_path / "published.pth", model, config_class, model=tensors)
    with pytest.raises(ValueError) as caught:
        load_published(path)
    for words in ("encoder.norm.weight is missing", "encoder.surprise has no place", "(3,), expected (16,)"):
        assert words in str(caught.value)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_the_name_of_a_wrapper_is_taken_off_and_said(tmp_path, model, config_class, caplog, wrapper):
    """As DataParallel and torch.compile save."""
    tensors = {wrapper + name.removeprefix("encoder."): tensor for name, tensor in model.state_dict().items()}
    with caplog.at_level(logging.INFO, logger="visdec_lite"):
        found = load_published(published(tmp_path / "wrapped.pth", model, config_class, model=tensors))
    assert "which is taken off" in caplog.text
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_a_wrapper_before_some_names_only_is_named(tmp_path, model, config_class):
    tensors = {name.removeprefix("encoder."): tensor for name, tensor in model.state_dict().items()}
    tensors["module.norm.weight"] = tensors.pop("norm.weight")
    with pytest.raises(ValueError, match=r"norm\.weight is missing; encoder\.module\.norm\.weight has no place"):
        load_published(published(tmp_path / "half.pth", model, config_class, model=tensors))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_says_so(file, share):
    """torch alone: `OSError: [Errno 22] Invalid argument`."""
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"or is damaged or cut short \(.*\); compare its \d+ bytes .*fetch it again"):
        load_published(file)


@settings(
    derandomize=True, deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_by_the_sums_or_changes_nothing(file, model, place, bit):
    """torch does not look at the sums of its archives, and would load other weights."""
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    damaged = file.with_stem("damaged")
    damaged.write_bytes(content)
    try:
        found = load_published(damaged)
    except ValueError:
        return
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_a_file_of_the_oldest_kind_is_refused_with_its_reason(file):
    content = open_safely(file)
    content["config"] = vars(content["config"])
    torch.save(content, file, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"does not end as what torch\.save writes since 1\.6"):
        load_published(file)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(tmp_path, model, config_class, value):
    tensors = {name.removeprefix("encoder."): tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["norm.bias"][3] = value
    with pytest.raises(ValueError, match=r"NaN, infinity or no real numbers in 1 of \d+ tensors \(norm\.bias\)"):
        load_published(published(tmp_path / "published.pth", model, config_class, model=tensors))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": [1, 2]}, "'model' is no dict of named tensors"),
        ({"model": {"norm.bias": 3}}, "'model' is no dict of named tensors"),
        ({"model": {3: torch.zeros(1)}}, "'model' is no dict of named tensors"),
        ({"config": 7}, "does not say patch_size, embed_dim"),
        ({"config": None}, "does not say patch_size, embed_dim"),
    ],
)
def test_content_of_other_types_is_named(tmp_path, model, config_class, changes, words):
    with pytest.raises(ValueError, match=words):
        load_published(published(tmp_path / "published.pth", model, config_class, **changes))


@pytest.mark.parametrize(
    ("name", "value"),
    [("patch_size", 0), ("patch_size", "8"), ("embed_dim", -16), ("depth", 10**12), ("depth", 3), ("num_heads", True),
     ("mlp_ratio", float("nan")), ("embed_dim", 2**19), ("decoder_num_heads", 0)],
)  # fmt: skip
def test_sizes_that_no_file_can_have_are_named_without_memory_or_time(tmp_path, model, config_class, name, value):
    config = {**{each: getattr(SMALL, each) for each in NAMES}, name: value}
    with pytest.raises(ValueError, match=rf"its config says {name} |does not fit its own config"):
        load_published(published(tmp_path / "published.pth", model, config_class, config=config))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is a folder; give the \.pth file"):
        load_published(tmp_path)


def test_other_errors_say_what_to_do(file, tmp_path):
    with pytest.raises(ValueError, match=r"100 voxels are no whole number of patches of 8; .*pad_voxels"):
        load_published(file, num_voxels=100)
    with pytest.raises(FileNotFoundError, match=r"is not there; give the \.pth file"):
        load_published(tmp_path / "nothing.pth")
    (tmp_path / "noise.pth").write_bytes(b"no checkpoint at all")
    with pytest.raises(ValueError, match="no checkpoint that can be opened safely"):
        load_published(tmp_path / "noise.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list, expected a dict with 'model' and 'config'"):
        load_published(tmp_path / "list.pth")
    torch.save({"weights": {}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="lacks config and model: it holds weights"):
        load_published(tmp_path / "other.pth")
