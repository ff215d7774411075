"""Every config checks every field before anything is built: the values that bug reports named, and every other."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pytest

from visdec_lite.baselines.icgan import ICGANConfig
from visdec_lite.baselines.instance_gan import InstanceGANConfig
from visdec_lite.baselines.instance_gan_training import InstanceGANTraining
from visdec_lite.baselines.ridge import RidgeConfig
from visdec_lite.baselines.ssae import SSAEConfig
from visdec_lite.demo import DemoSettings
from visdec_lite.devices import check_device
from visdec_lite.fields import COUNT, SEED, check_fields, check_hides, is_number, is_whole, one_of, several, whole
from visdec_lite.identity import flat
from visdec_lite.masked_autoencoder import MaskedAutoencoderConfig
from visdec_lite.presets import override, preset
from visdec_lite.training import TrainingConfig

CONFIGS = (preset("class"), ICGANConfig(), InstanceGANConfig(), InstanceGANTraining(), RidgeConfig(), SSAEConfig())


def senseless(value: Any) -> list[Any]:
    """Values of the same type that no field of this package has a use for."""
    if isinstance(value, bool):
        return []
    if isinstance(value, int):
        return [-1, -(2**70), 10**400]
    if isinstance(value, float):
        return [-1.0, math.nan, -math.inf]
    if isinstance(value, str):
        return ["", "nonsense "]
    return [(), *((*value[:-1], bad) for bad in senseless(value[0]))]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_every_field_refuses_what_means_nothing(config):
    taken = []
    for path, value in flat(asdict(config)).items():
        for bad in senseless(value):
            if path == "name" and bad:
                continue  # a preset may be called anything
            try:
                override(config, {path: bad})
            except ValueError as error:
                assert len(str(error)) < 300 and path.rpartition(".")[2] in str(error), (path, bad, error)
            else:
                taken.append((path, bad))
    assert not taken


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_truth_value_is_no_number_and_no_number_a_truth_value(config):
    for f in fields(config):
        value = getattr(config, f.name)
        if isinstance(value, bool | int | float):
            wrong = 1 if isinstance(value, bool) else True
            with pytest.raises(ValueError, match=f.name):
                type(config)(**{**{g.name: getattr(config, g.name) for g in fields(config)}, f.name: wrong})


# What was trained, or found only after all training, before there was a table for every config.
@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("sampling.sampler", "foo", r"sampling: SamplingConfig.sampler is 'foo'; expected one of 'ddim', 'pndm', 'dpm"),
        ("tuning.condition_dropout", "5", r"condition_dropout is 5\.0; expected a number in \[0, 1\]"),
        ("autoencoder.voxel_dropout", "-1", r"voxel_dropout is -1\.0; expected a number in \[0, 1\)"),
        ("autoencoder.depth", "-1", "depth is -1; expected a whole number from 0 to 1024"),
        ("sampling.num_samples", "-1", "num_samples is -1; expected a whole number from 1"),
        ("sampling.guidance_scale", "inf", "guidance_scale is inf; expected a finite number >= 0"),
        ("sampling.guidance_scale", "nan", "guidance_scale is nan; expected a finite number >= 0"),
        ("sampling.num_inference_steps", "0", "num_inference_steps is 0; expected a whole number from 1"),
        ("sampling.num_inference_steps", "1001", "is 1001, more than the diffusion.num_timesteps 1000"),
        ("autoencoder.num_heads", "3", "embed_dim is 128, which does not split into 3 attention heads"),
        ("image_autoencoder.mask_ratio", "0.001", "mask_ratio 0.001 hides 0 of 64 patches; at least 1"),
        ("autoencoder.mlp_ratio", "0.001", "leaves an MLP of width 0"),
        ("image_autoencoder.image_size", "30", "image_size 30 is not a multiple of patch_size 4"),
        ("image_autoencoder.embed_dim", "132", "cross_heads|"),
        ("image_autoencoder.decoder_num_heads", "7", "decoder_embed_dim is 128, which does not split into 7"),
        ("fusion.cross_heads", "3", r"autoencoder.embed_dim 128 does not split into fusion.cross_heads 3"),
        ("classifier.width", "12", "width is 12; expected a multiple of 8"),
        ("classifier.image_size", "64", "diffusion.image_size is 32 and classifier.image_size is 64.*set both"),
        ("context_tokens", "1", "context_tokens is 1; expected a whole number from 2"),
        ("finetuning.seed", "-1", "seed is -1; expected a whole number from 0"),
    ],
)
def test_values_that_used_to_be_trained_are_refused(path, value, words):
    if path == "image_autoencoder.embed_dim":
        preset("class", **{path: value})  # 132 = 4 x 33 fits: a rule must not refuse what works
        return
    with pytest.raises(ValueError, match=words):
        preset("class", **{path: value})


def test_what_works_is_taken():
    for path, value in {
        "tuning.condition_dropout": "1", "tuning.voxel_dropout": "1", "fusion.support_mask_ratio": "0",
        "autoencoder.depth": "0", "sampling.guidance_scale": "0", "prior.gradient_clip": "inf",
        "prior.min_learning_rate_fraction": "1", "prior.ema_decay": "0", "fusion.weight_fmri": "0",
    }.items():  # fmt: skip
        assert flat(preset("class", **{path: value}).as_dict())[path] == float(value)


def test_both_weights_of_phase_2_cannot_be_zero():
    with pytest.raises(ValueError, match="both 0: nothing would be learnt"):
        preset("class", **{"fusion.weight_fmri": 0.0, "fusion.weight_image": 0.0})


def test_whole_and_number_are_what_python_counts_with():
    assert is_whole(3) and not is_whole(True) and not is_whole(3.0) and not is_whole("3")
    assert not is_whole(np.int64(3)), "a config has to be written as JSON"
    assert is_number(3) and is_number(0.5) and not is_number(False) and not is_number("0.5")
    assert COUNT.holds(1) and not COUNT.holds(0) and whole(2, 3).holds(3) and not whole(2, 3).holds(4)
    assert SEED.holds(0) and SEED.holds(2**32 - 1) and not SEED.holds(2**32)
    assert several(COUNT).holds((1, 2)) and not several(COUNT).holds(()) and not several(COUNT, 2).holds((1,))
    assert not several(COUNT).holds([1, 2]), "a list can be changed behind a frozen config's back"
    assert one_of("a", "b").words == "'a' or 'b'" and not one_of("a", "b").holds(None)


def test_a_field_without_a_rule_is_a_fault_of_the_class():
    @dataclass(frozen=True)
    class Config:
        size: int = 1
        forgotten: int = 1

        def __post_init__(self) -> None:
            check_fields(self, {"size": COUNT})

    with pytest.raises(TypeError, match=r"Config: fields and rules differ in \['forgotten'\]"):
        Config()


@pytest.mark.parametrize(("ratio", "length", "hidden"), [(0.75, 4, 3), (0.5, 2, 1), (0.99, 4, None), (0.1, 4, None)])
def test_a_mask_hides_some_and_keeps_some(ratio, length, hidden):
    if hidden is None:
        with pytest.raises(ValueError, match=f"mask ratio {ratio} hides"):
            check_hides(ratio, length)
    else:
        assert check_hides(ratio, length) == hidden


def test_numbers_of_a_run_are_checked_with_their_type():
    wrong = {"steps": True, "batch_size": 2.0, "betas": [0.9, 0.95], "learning_rate": "0.1", "seed": 2**40}
    for bad in ({name: value} for name, value in wrong.items()):
        with pytest.raises(ValueError, match=f"TrainingConfig.{next(iter(bad))} is .*; expected"):
            TrainingConfig(**{"steps": 1, "batch_size": 1, "learning_rate": 0.1, **bad})
    with pytest.raises(ValueError, match=r"MaskedAutoencoderConfig.num_voxels is '64'"):
        MaskedAutoencoderConfig(num_voxels="64")
    with pytest.raises(ValueError, match=r"DemoSettings.seed is -1"):
        DemoSettings(seed=-1)


@pytest.mark.parametrize("device", ["gpu", "nonsense", "cuda:99", "", "cpu:1", "CUDA"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(device):
    with pytest.raises(ValueError, match=rf"no device '{device}' here; there are cpu"):
        check_device(device)


def test_a_device_must_have_the_precision_and_the_log_its_package(monkeypatch):
    half = TrainingConfig(1, 1, 0.1, mixed_precision="fp16")
    with pytest.raises(ValueError, match="'fp16' needs a GPU and this run is on the CPU; use 'bf16'"):
        check_device("cpu", [half])
    check_device("cpu", [TrainingConfig(1, 1, 0.1, mixed_precision="bf16")])
    check_device(None)
    monkeypatch.setattr("visdec_lite.devices.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        check_device("cpu", [TrainingConfig(1, 1, 0.1, log="tensorboard")])
