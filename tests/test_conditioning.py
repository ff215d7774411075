"""phi: shapes, the computation step by step, "no scan", and a round trip to disk."""

from dataclasses import asdict

import pytest
import torch
from torch.nn.functional import linear

import visdec_lite
from visdec_lite.conditioning import FMRIConditioner
from visdec_lite.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from visdec_lite.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig

ENCODER = MaskedAutoencoderConfig(
    num_voxels=128, patch_size=8, embed_dim=16, depth=2, num_heads=2, decoder_embed_dim=8, decoder_depth=1,
    decoder_num_heads=2,
)  # fmt: skip
TOKENS, WIDTH, TIME = 6, 12, 32


def build(seed: int = 0) -> FMRIConditioner:
    torch.manual_seed(seed)
    model = FMRIConditioner(asdict(ENCODER), context_tokens=TOKENS, context_dim=WIDTH, time_dim=TIME)
    torch.nn.init.normal_(model.null_context)  # starts at zero, as if it had been learnt
    return model.eval()


@pytest.fixture
def voxels() -> torch.Tensor:
    return torch.randn(5, 128, generator=torch.Generator().manual_seed(0))


def test_shapes(voxels):
    model = build()
    context, time_condition = model(voxels)
    assert context.shape == (5, TOKENS, WIDTH) and time_condition.shape == (5, TIME)
    null, null_time = model.null(5)
    assert null.shape == context.shape and null_time.shape == time_condition.shape


def test_paper_scale_has_the_papers_shapes():
    """77 tokens of 512 for cin256's UNet, whose time embedding is 4 x 192 wide (built without memory)."""
    with torch.device("meta"):
        model = FMRIConditioner(asdict(MaskedAutoencoderConfig(num_voxels=4656)))
    assert model.null_context.shape == (1, 77, 512)
    assert [layer.weight.shape[:2] for layer in model.token_mapper] == [(145, 291), (77, 145)]
    assert [layer.weight.shape[:2] for layer in model.time_mapper] == [(38, 77), (1, 38)]
    assert model.to_context.weight.shape == (512, 1024) and model.to_time.weight.shape == (768, 512)


def test_condition_step_by_step_from_the_encoders_tokens(voxels):
    """A 1x1 convolution over the sequence axis mixes tokens, the same way in every dimension."""
    model = build()
    tokens = model.encoder(voxels)[:, 1:]  # no mask, no CLS
    assert torch.equal(tokens, model.encoder.tokens(voxels))

    def mix(layer: torch.nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("mn,bnd->bmd", layer.weight[..., 0], x) + layer.bias[:, None]

    few = mix(model.token_mapper[1], mix(model.token_mapper[0], tokens))
    expected = linear(few, model.to_context.weight, model.to_context.bias)
    one = mix(model.time_mapper[1], mix(model.time_mapper[0], expected))
    assert one.shape == (5, 1, WIDTH)
    context, time_condition = model(voxels)
    torch.testing.assert_close(context, expected)
    torch.testing.assert_close(time_condition, linear(one[:, 0], model.to_time.weight, model.to_time.bias))


def test_encoder_is_the_one_of_the_autoencoder(voxels):
    """Weights of phases 1 and 2 fit without renaming, and the tokens are the same."""
    torch.manual_seed(1)
    autoencoder, model = MaskedAutoencoder(ENCODER).eval(), build()
    model.encoder.load_state_dict(autoencoder.encoder.state_dict())
    assert torch.equal(model.encoder.tokens(voxels), autoencoder.encode(voxels)[:, 1:])


def test_every_voxel_is_heard_in_both_conditions(voxels):
    for number in (0, 1):
        inputs = voxels.clone().requires_grad_()
        build()(inputs)[number].square().sum().backward()
        assert (inputs.grad != 0).all()


def test_null_is_one_learnt_context_for_all_rows():
    model = build()
    context, time_condition = model.null(3)
    assert torch.equal(context, model.null_context.expand(3, -1, -1))
    assert torch.equal(time_condition, model.time_condition(context))
    context.sum().backward()
    assert (model.null_context.grad == 3).all()


def test_new_null_context_is_zero():
    assert (FMRIConditioner(asdict(ENCODER), TOKENS, WIDTH, TIME).null_context == 0).all()


def test_dropped_replaces_exactly_the_rows(voxels):
    model, drop = build(), torch.tensor([True, False, True, False, False])
    whole, whole_time = model(voxels)
    null, null_time = model.null(5)
    context, time_condition = model.dropped(whole, drop)
    assert torch.equal(context[drop], null[drop]) and torch.equal(context[~drop], whole[~drop])
    torch.testing.assert_close(time_condition[drop], null_time[drop])
    torch.testing.assert_close(time_condition[~drop], whole_time[~drop])
    assert torch.equal(model.dropped(whole, ~drop | drop)[0], null)
    assert torch.equal(model.dropped(whole, ~drop & drop)[0], whole)


def test_dropped_rows_teach_the_null_context_and_no_encoder(voxels):
    model = build()
    inputs = voxels.clone().requires_grad_()
    drop = torch.tensor([True, False, False, False, False])
    sum(part.sum() for part in model.dropped(model(inputs)[0], drop)).backward()
    assert (inputs.grad[0] == 0).all() and (inputs.grad[1:] != 0).any(1).all()
    assert (model.null_context.grad != 0).all()


def test_saved_and_loaded_bit_for_bit(tmp_path, voxels):
    model = build()
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    loaded = FMRIConditioner.from_pretrained(tmp_path)
    assert loaded.encoder.config == ENCODER and not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    for ours, theirs in zip(model(voxels), loaded(voxels), strict=True):
        assert torch.equal(ours, theirs)


def test_config_and_parts_do_not_share_a_name():
    """diffusers answers `model.name` from the config first, and would hide a part of that name."""
    model = build()
    assert not set(model.config) & {name for name, _ in model.named_children()}
    assert isinstance(model.encoder, torch.nn.Module)


def test_is_a_public_name():
    assert visdec_lite.FMRIConditioner is FMRIConditioner


def test_wrong_number_of_voxels_is_refused(voxels):
    with pytest.raises(ValueError, match=r"got 120 voxels.*built for 128.*pad_voxels"):
        build()(voxels[:, :120])


def test_unknown_field_of_the_encoder_is_refused():
    with pytest.raises(TypeError, match="num_layers"):
        FMRIConditioner({**asdict(ENCODER), "num_layers": 3})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_tokens": 1}, r"FMRIConditioner\.context_tokens is 1; expected a whole number >= 2"),
        ({"context_tokens": 6.0}, r"context_tokens is 6\.0; expected a whole number >= 2"),
        ({"context_dim": 0}, r"context_dim is 0; expected a whole number >= 1"),
        ({"time_dim": True}, r"time_dim is True; expected a whole number >= 1"),
        ({"encoder_config": {**asdict(ENCODER), "num_voxels": 8}}, r"patches is 1; expected a whole number >= 2"),
    ],
)
def test_sizes_without_a_token_are_refused(options, message):
    """Half of one token is none: a mapper that hears nothing."""
    with pytest.raises(ValueError, match=message):
        FMRIConditioner(**{"encoder_config": asdict(ENCODER), "context_tokens": TOKENS, **options})


# --- a start that the prior understands ---


def test_started_from_labels_scans_differ_as_labels_do_and_mean_none_of_them(voxels):
    model, labels = build(), 3 * torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(1)) + 1
    model.start_from_labels(labels, voxels)
    context, time_condition = model(voxels)
    assert torch.allclose(context.mean(dim=(0, 1)), labels[-1], atol=1e-5)
    spread = labels[:-1].std(dim=0, correction=0).mean()
    assert torch.allclose(context.std(dim=0, correction=0).mean(), spread, rtol=1e-5)
    assert (time_condition == 0).all()
    null, null_time = model.null(2)
    assert torch.equal(null, labels[-1].expand_as(null)) and (null_time == 0).all()


def test_started_from_labels_a_prior_that_is_told_nothing_paints_as_before(voxels):
    """Identical tokens answer every query alike, so "no scan" does to the UNet exactly what "no label" does."""
    config = LatentDiffusionConfig(
        image_size=16, num_classes=4, codebook_size=16, vq_channels=(16, 16, 16), vq_layers=1, unet_channels=(16, 32),
        unet_attention=(True, True), unet_layers=1, attention_heads=2, context_dim=WIDTH, norm_groups=8,
    )  # fmt: skip
    torch.manual_seed(0)
    prior = LatentDiffusion(config).eval()
    model = FMRIConditioner(asdict(ENCODER), TOKENS, WIDTH, config.time_dim).eval()
    model.start_from_labels(prior.label_embedding.weight, voxels)
    noisy, steps = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([1, 500, 900])
    none = prior.label_context(torch.full((3,), config.num_classes))
    with torch.no_grad():
        before, after = prior.predict_noise(noisy, steps, none), prior.predict_noise(noisy, steps, *model.null(3))
    assert torch.allclose(before, after, atol=1e-5)


def test_scans_that_are_all_alike_cannot_be_measured_by(voxels):
    with pytest.raises(ValueError, match="1 scans give tokens of spread 0; expected two or more unlike scans"):
        build().start_from_labels(torch.randn(5, WIDTH), voxels[:1])
