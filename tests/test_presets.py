"""Presets: METHOD's numbers where they are promised, and a path to change every other one."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import nn

from visdec_lite.chain import new_brain, new_world
from visdec_lite.conditioning import FMRIConditioner
from visdec_lite.fusion import FusionConfig, ImageMaskedAutoencoder
from visdec_lite.identity import flat
from visdec_lite.latent_diffusion import LatentDiffusion, make_scheduler
from visdec_lite.masked_autoencoder import MaskedAutoencoder
from visdec_lite.presets import FOR_DATASET, Preset, override, preset, preset_for
from visdec_lite.training import TrainingConfig

NAMES = ("smoke", "class", "paper")
STAGES = ("first_stage", "prior", "refereeing", "image_pretraining", "pretraining", "fusing", "finetuning")


def at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- names and fields ---


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_knows_its_name_and_repeats(name):
    assert preset(name).name == name
    assert preset(name) == preset(name)


@pytest.mark.parametrize("name, hint", [("clas", "'class'"), ("papers", "'paper'"), ("Smoke", "'smoke'")])
def test_an_unknown_preset_is_an_error_with_a_suggestion(name, hint):
    with pytest.raises(ValueError, match=rf"no preset is called '{name}'; there are smoke, class, paper.*mean {hint}"):
        preset(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_number_can_be_set_to_what_it_is_from_text(name):
    """Read back as the field's type: a command line and a papermill parameter can say everything."""
    plain = preset(name)
    said = {path: str(at(plain, path)) for path in flat(plain.as_dict()) if path != "name"}
    assert len(said) > 100
    assert preset(name, **said) == plain


@pytest.mark.parametrize(
    "path, value, expected",
    [
        ("finetuning.steps", 200, 200),
        ("finetuning.steps", "200", 200),
        ("sampling.guidance_scale", 3.5, 3.5),
        ("sampling.guidance_scale", 3, 3.0),
        ("sampling.guidance_scale", "3", 3.0),
        ("pretraining.learning_rate", "2e-4", 2e-4),
        ("sampling.sampler", "ddim", "ddim"),
        ("finetuning.mixed_precision", "bf16", "bf16"),
        ("context_tokens", "16", 16),
        ("fusion.freeze_image_encoder", False, False),
        ("fusion.freeze_image_encoder", "False", False),
        ("fusion.freeze_image_encoder", "true", True),
        ("pretraining.betas", "0.9, 0.99", (0.9, 0.99)),
        ("pretraining.betas", (0.9, 0.99), (0.9, 0.99)),
        ("pretraining.betas", [0.9, 0.99], (0.9, 0.99)),
        ("diffusion.vq_channels", "(16, 32, 48)", (16, 32, 48)),
        ("diffusion.unet_attention", "True,False", (True, False)),
        ("diffusion.unet_attention", "false,true", (False, True)),
    ],
)
def test_a_field_is_set_by_its_path(path, value, expected):
    changed = preset("class", **{path: value})
    assert at(changed, path) == expected and type(at(changed, path)) is type(expected)
    others = [other for other in flat(changed.as_dict()) if other != path]
    assert all(at(changed, other) == at(preset("class"), other) for other in others)


def test_a_whole_group_can_be_replaced_and_refined():
    fusion = FusionConfig(cross_layers=5)
    changed = preset("class", **{"fusion": fusion, "fusion.cross_heads": 2})
    assert changed.fusion == replace(fusion, cross_heads=2)


def test_fields_that_must_fit_each_other_change_together():
    changed = preset("class", **{"diffusion.unet_channels": "64,96,128", "diffusion.unet_attention": "false,true,true"})
    assert changed.diffusion.unet_channels == (64, 96, 128)
    assert changed.diffusion.unet_attention == (False, True, True)


def test_overriding_leaves_the_original_as_it_was():
    plain = preset("smoke")
    assert override(plain, {"fusing.steps": 3}).fusing.steps == 3
    assert plain == preset("smoke")
    assert override(plain, {}) == plain


@pytest.mark.parametrize(
    "path, words",
    [
        ("finetune.steps", "no field 'finetune.steps': Preset has .*did you mean 'finetuning'"),
        ("finetuning.step", "no field 'finetuning.step': TrainingConfig has .*did you mean 'finetuning.steps'"),
        ("fusion.weight.fmri", r"no field 'fusion.weight.fmri': FusionConfig has weight_fmri"),
        ("context_tokens.length", "no field 'context_tokens.length': int has no fields"),
        ("", "no field '': Preset has name"),
    ],
)
def test_an_unknown_field_is_an_error_that_names_the_known_ones(path, words):
    with pytest.raises(ValueError, match=words):
        preset("class", **{path: 1})


@pytest.mark.parametrize(
    "path, value, words",
    [
        ("finetuning.steps", "many", "finetuning.steps takes int, as 1000; got 'many'"),
        ("finetuning.steps", 2.5, r"finetuning.steps takes int, as 1000; got 2\.5"),
        ("finetuning.steps", "2.5", r"finetuning.steps takes int, as 1000; got '2\.5'"),
        ("finetuning.steps", True, "finetuning.steps takes int, as 1000; got True"),
        ("finetuning.steps", None, "finetuning.steps takes int, as 1000; got None"),
        ("sampling.guidance_scale", "strong", r"takes float, as 3\.0; got 'strong'"),
        ("sampling.guidance_scale", True, r"takes float, as 3\.0; got True"),
        ("sampling.sampler", 3, "sampling.sampler takes str, as 'dpm\\+\\+'; got 3"),
        ("fusion.freeze_image_encoder", "yes", "freeze_image_encoder takes bool, as True; got 'yes'"),
        ("fusion.freeze_image_encoder", 0, "freeze_image_encoder takes bool, as True; got 0"),
        ("diffusion.vq_channels", "32,wide", r"takes tuple\[int, ...\].*got '32,wide'"),
        ("diffusion.vq_channels", 32, r"takes tuple\[int, ...\].*got 32"),
        ("diffusion.vq_channels", ("a",), r"takes tuple\[int, ...\].*got \('a',\)"),
        ("fusion", 3, "'fusion' is a group of fields; set one of them: fusion.weight_fmri"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error(path, value, words):
    with pytest.raises(ValueError, match=words):
        preset("class", **{path: value})


@pytest.mark.parametrize(
    "path, value, words",
    [
        ("autoencoder.patch_size", 33, "num_voxels=1600 is not a multiple of patch_size=33"),
        ("autoencoder.voxel_dropout", 1.0, "voxel_dropout"),
        ("diffusion.norm_groups", 7, "norm_groups 7 does not divide the width 32"),
        ("diffusion.image_size", 30, "image_size 30 cannot be halved"),
        ("fusing.steps", 0, r"TrainingConfig.steps is 0"),
        ("fusing.mixed_precision", "int8", "TrainingConfig.mixed_precision is 'int8'"),
    ],
)
def test_the_configs_own_checks_run_again(path, value, words):
    with pytest.raises(ValueError, match=words):
        preset("class", **{path: value})


def test_the_parts_of_each_preset_fit_each_other():
    for name in NAMES:
        p = preset(name)
        assert {f.name for f in fields(p) if isinstance(getattr(p, f.name), TrainingConfig)} == set(STAGES)
        assert p.autoencoder.embed_dim % p.fusion.cross_heads == 0
        assert p.image_autoencoder.embed_dim % p.fusion.cross_heads == 0
        assert p.image_autoencoder.image_size % p.image_autoencoder.patch_size == 0
        assert p.classifier.num_classes == p.diffusion.num_classes
        assert p.classifier.image_size == p.diffusion.image_size
        make_scheduler(p.diffusion, p.sampling.sampler).set_timesteps(p.sampling.num_inference_steps)


def test_with_seed_seeds_every_stage_and_changes_nothing_else():
    plain, seeded = preset("paper"), preset("paper").with_seed(7)
    assert [at(seeded, stage).seed for stage in STAGES] == [7] * len(STAGES)
    for path in flat(plain.as_dict()):
        assert path.endswith(".seed") or at(seeded, path) == at(plain, path), path


def test_with_voxels_is_the_autoencoder_of_a_data_set():
    p = preset("class")
    assert p.with_voxels(3104) == replace(p.autoencoder, num_voxels=3104)
    with pytest.raises(ValueError, match="3092 is not a multiple of patch_size=32"):
        p.with_voxels(3092)


def test_as_dict_is_plain_and_whole():
    p = preset("smoke")
    plain = p.as_dict()
    assert set(plain) == {f.name for f in fields(Preset)}
    assert plain["fusion"]["weight_image"] == p.fusion.weight_image


# --- smoke and class run here ---


@pytest.mark.parametrize("name", ["smoke", "class"])
def test_small_presets_build_and_a_scan_passes_through(name):
    p = preset(name)
    world = new_world(p, seed=0)
    brain = new_brain(p, 96, world, seed=0)
    generator = torch.Generator().manual_seed(0)
    voxels = torch.randn(2, 96, generator=generator)
    pictures = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    assert brain.fusion(voxels, pictures, generator).loss.isfinite()
    context, time_condition = brain.conditioned.conditioner(voxels)
    assert context.shape == (2, p.context_tokens, p.diffusion.context_dim)
    latents = world.diffusion.encode(pictures)
    assert world.diffusion.loss(latents, context, time_condition, generator).isfinite()
    assert world.classifier(pictures).shape == (2, 50)


def test_smoke_is_class_in_less_time():
    smoke, large = preset("smoke"), preset("class")
    assert (smoke.autoencoder, smoke.diffusion, smoke.fusion) == (large.autoencoder, large.diffusion, large.fusion)
    for stage in STAGES:
        assert at(smoke, stage).steps < at(large, stage).steps / 10, stage


# --- paper: METHOD's numbers ---

METHOD = {
    # section 2, phase 1
    "autoencoder.patch_size": 16,
    "autoencoder.embed_dim": 1024,
    "autoencoder.depth": 24,
    "autoencoder.num_heads": 16,
    "autoencoder.mlp_ratio": 1.0,
    "autoencoder.decoder_embed_dim": 512,
    "autoencoder.decoder_depth": 8,
    "autoencoder.decoder_num_heads": 16,
    "autoencoder.mask_ratio": 0.75,
    "autoencoder.temperature": 0.1,
    "autoencoder.weight_self": 1.0,
    "autoencoder.weight_cross": 0.5,
    "autoencoder.voxel_dropout": 0.2,
    "pretraining.betas": (0.9, 0.95),
    "pretraining.learning_rate": 2.5e-4,
    "pretraining.weight_decay": 0.05,
    "pretraining.gradient_clip": 0.8,
    "pretraining.batch_size": 250,
    "pretraining.warmup_fraction": pytest.approx(40 / 140),
    "pretraining.seed": 2022,
    # section 3, phase 2: the row of Table 2 that scores 25.08
    "fusion.weight_fmri": 0.25,
    "fusion.weight_image": 1.5,
    "fusion.fmri_mask_ratio": 0.75,
    "fusion.image_mask_ratio": 0.5,
    "fusion.support_mask_ratio": 0.0,
    "fusion.cross_layers": 3,
    "fusion.freeze_image_encoder": True,
    "fusing.learning_rate": 5.3e-5,
    "fusing.warmup_fraction": pytest.approx(2 / 60),
    # section 4, diffusion
    "context_tokens": 77,
    "diffusion.image_size": 256,
    "diffusion.context_dim": 512,
    "diffusion.unet_channels": (192, 384, 576, 960),
    "diffusion.unet_attention": (False, True, True, True),
    "diffusion.vq_channels": (128, 256, 512),
    "diffusion.codebook_size": 8192,
    "diffusion.beta_start": 0.0015,
    "diffusion.beta_end": 0.0195,
    "diffusion.num_timesteps": 1000,
    "finetuning.learning_rate": 5.3e-5,
    "sampling.num_samples": 5,
    "sampling.num_inference_steps": 250,
    "sampling.sampler": "pndm",
}


@pytest.mark.parametrize("path, value", METHOD.items())
def test_paper_has_the_published_numbers(path, value):
    assert at(preset("paper"), path) == value


def test_paper_phase_2_is_60_epochs_of_god():
    fusing = preset("paper").fusing
    assert fusing.steps * fusing.batch_size * fusing.accumulate == 60 * 1200


def test_paper_autoencoder_has_the_published_size():
    with torch.device("meta"):
        model = MaskedAutoencoder(preset("paper").autoencoder)
    assert count(model.encoder) == pytest.approx(151e6, rel=0.01)
    assert count(model) == pytest.approx(164e6, rel=0.01)


def test_paper_diffusion_has_the_published_size():
    p = preset("paper").diffusion
    with torch.device("meta"):
        model = LatentDiffusion(p)
    assert count(model.unet) == 400_920_579
    assert count(model.vq) == pytest.approx(55.3e6, rel=0.005)
    assert model.label_embedding.weight.shape == (1001, 512)
    # a cross-attention of width d: q and out d x d, k and v 512 x d, a bias, and the norm before it
    expected = sum(blocks * (2 * d * d + 2 * 512 * d + d + 2 * d) for d, blocks in {384: 5, 576: 5, 960: 6}.items())
    condition = sum(parameter.numel() for parameter in model.condition_parameters())
    assert condition == expected == pytest.approx(27e6, rel=0.02)
    assert (p.latent_size, p.downsampling, p.time_dim) == (64, 4, 768)


def test_paper_condition_and_image_autoencoder_have_the_published_shapes():
    p = preset("paper")
    with torch.device("meta"):
        image = ImageMaskedAutoencoder(p.image_autoencoder)
        phi = FMRIConditioner(vars(p.autoencoder), p.context_tokens, p.diffusion.context_dim, p.diffusion.time_dim)
    assert count(image) == pytest.approx(112e6, rel=0.01)  # facebook/vit-mae-base: 111.9 M
    first, second = phi.token_mapper
    assert (first.in_channels, first.out_channels, second.out_channels) == (291, 145, 77)
    first, second = phi.time_mapper
    assert (first.in_channels, first.out_channels, second.out_channels) == (77, 38, 1)
    assert (phi.to_context.out_features, phi.to_time.out_features) == (512, 768)


def test_a_data_set_changes_the_class_preset_alone_and_overrides_win():
    digits = preset_for("digits69", "class")
    for path, value in FOR_DATASET["digits69"].items():
        found = digits
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value
    assert digits != preset("class") == preset_for("simulated", "class")
    assert preset_for("digits69", "smoke") == preset("smoke")
    assert preset_for("digits69", "class", **{"prior.steps": 7}).prior.steps == 7
