"""The DC-MAE: what the encoder may see, what the loss adds up to, what published checkpoints expect."""

import math
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from visdec_lite.contrastive import info_nce
from visdec_lite.masked_autoencoder import (
    FMRIEncoder,
    MaskedAutoencoder,
    MaskedAutoencoderConfig,
    masked_mse,
)
from visdec_lite.patches import patchify_voxels, random_mask, sincos_positions_1d

TINY = MaskedAutoencoderConfig(
    num_voxels=96,
    patch_size=8,
    embed_dim=32,
    depth=2,
    num_heads=4,
    decoder_embed_dim=16,
    decoder_depth=1,
    decoder_num_heads=2,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: MaskedAutoencoderConfig = TINY) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(config)


@pytest.fixture
def voxels() -> torch.Tensor:
    return torch.randn(5, 96, generator=seeded())


@pytest.fixture
def mask() -> torch.Tensor:
    return random_mask(5, 12, 0.75, seeded(1))


def test_shapes(voxels, mask):
    model = build()
    assert model.encode(voxels, mask).shape == (5, 1 + 3, 32)
    assert model.encode(voxels).shape == (5, 1 + 12, 32)
    assert model.encoder.tokens(voxels).shape == (5, 12, 32)
    assert model.reconstruct(model.encode(voxels, mask), mask).shape == (5, 12, 8)
    output = model(voxels, seeded())
    assert output.loss.shape == ()
    assert output.reconstructions.shape == (2, 5, 96)
    assert output.masks.shape == (2, 5, 12)
    assert (output.masks.sum(dim=-1) == 9).all()
    assert not torch.equal(output.masks[0], output.masks[1])


@pytest.mark.parametrize("junk", [1e6, float("nan")])
def test_encoder_never_sees_hidden_patches(voxels, mask, junk):
    """Bit for bit, in the encoding and in the gradients."""
    encoder = build().encoder
    spoiled = torch.where(mask.repeat_interleave(8, dim=1), junk, voxels)
    answers = []
    for inputs in (voxels, spoiled):
        encoder.zero_grad()
        tokens = encoder(inputs, mask)
        tokens[..., 0].sum().backward()
        answers.append([tokens.detach(), *(p.grad.clone() for p in encoder.parameters())])
    assert all(torch.equal(clean, dirty) for clean, dirty in zip(*answers, strict=True))


def test_encoder_sees_every_kept_patch(voxels, mask):
    encoder = build().encoder
    voxels.requires_grad_()
    encoder(voxels, mask)[:, 0, 0].sum().backward()  # CLS listens to all
    seen = patchify_voxels(voxels.grad, 8).abs().sum(dim=-1) > 0
    assert torch.equal(seen, ~mask)


def test_patches_are_embedded_by_the_strided_convolution_at_their_own_place(voxels, mask):
    config = replace(TINY, depth=0)
    encoder = build(config).encoder
    encoder.norm = torch.nn.Identity()
    everywhere = encoder.patch_embed.proj(voxels.unsqueeze(1)).transpose(1, 2) + sincos_positions_1d(12, 32)
    torch.testing.assert_close(encoder.tokens(voxels), everywhere)
    torch.testing.assert_close(encoder(voxels, mask)[:, 1:].flatten(0, 1), everywhere[~mask])
    torch.testing.assert_close(encoder(voxels, mask)[:, :1], encoder.cls_token.expand(5, -1, -1))


def test_decoder_gets_tokens_where_kept_and_mask_tokens_where_hidden(voxels, mask):
    model = build(replace(TINY, decoder_depth=0))
    tokens = model.encode(voxels, mask)
    kept = iter(model.decoder_embed(tokens[:, 1:]).flatten(0, 1))
    slots = [model.mask_token.flatten() if hidden else next(kept) for hidden in mask.flatten()]
    sequence = torch.stack(slots).reshape(5, 12, 16) + sincos_positions_1d(12, 16)
    expected = model.decoder_pred(model.decoder_norm(sequence))
    torch.testing.assert_close(model.reconstruct(tokens, mask), expected)


def test_decoder_listens_to_cls(voxels, mask):
    model = build()
    tokens = model.encode(voxels, mask)
    other = torch.cat([-tokens[:, :1], tokens[:, 1:]], dim=1)
    assert not torch.allclose(model.reconstruct(other, mask), model.reconstruct(tokens, mask), atol=1e-3)


def test_two_views_in_one_batch_equal_two_passes(voxels):
    model = build().eval()
    output = model(voxels, seeded())
    for reconstruction, mask in zip(output.reconstructions, output.masks, strict=True):
        alone = model.reconstruct(model.encode(voxels, mask), mask).flatten(1)
        torch.testing.assert_close(reconstruction, alone, atol=1e-5, rtol=1e-5)


def test_masked_mse_by_hand(voxels, mask):
    target, prediction = patchify_voxels(voxels, 8), torch.randn(5, 12, 8, generator=seeded(2))
    total, count = 0.0, 0
    for row in range(5):
        for patch in range(12):
            if mask[row, patch]:
                total += sum((prediction[row, patch, p] - target[row, patch, p]).item() ** 2 for p in range(8))
                count += 8
    assert masked_mse(prediction, target, mask).item() == pytest.approx(total / count, rel=1e-5)
    copied = torch.where(mask.unsqueeze(-1), target, prediction)  # wrong only where it was not asked
    assert masked_mse(copied, target, mask) == 0


@pytest.mark.parametrize("training", [True, False])
def test_terms_are_what_the_paper_says(voxels, training):
    output = build(replace(TINY, temperature=0.3)).train(training)(voxels, seeded())
    first, second = output.reconstructions
    squares = [
        (r - voxels)[m.repeat_interleave(8, dim=1)].square().mean()
        for r, m in zip(output.reconstructions, output.masks, strict=True)
    ]
    torch.testing.assert_close(output.terms["reconstruction"], (squares[0] + squares[1]) / 2)
    torch.testing.assert_close(output.terms["cross"], info_nce(first, second, 0.3))
    both = info_nce(first, voxels, 0.3) + info_nce(second, voxels, 0.3)
    torch.testing.assert_close(output.terms["self"], both / 2)


@pytest.mark.parametrize("name", ["reconstruction", "cross", "self"])
@pytest.mark.parametrize("weight", [0.0, 0.25, 3.0])
def test_every_weight_weighs_its_term(voxels, name, weight):
    base = build()(voxels, seeded())
    other = build(replace(TINY, **{f"weight_{name}": weight}))(voxels, seeded())
    assert set(other.terms) == {"reconstruction", "cross", "self"}
    moved = (weight - getattr(TINY, f"weight_{name}")) * base.terms[name]
    torch.testing.assert_close(other.loss - base.loss, moved, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(other.terms, base.terms)


def test_voxel_dropout_blanks_inputs_only_while_training(voxels):
    model = build()
    many = torch.ones(100, 96)
    share = (model.drop_voxels(many, seeded()) == 0).float().mean().item()
    assert share == pytest.approx(0.2, abs=5 * (0.2 * 0.8 / 9600) ** 0.5)
    assert (many == 1).all()
    whole = build(replace(TINY, voxel_dropout=0.0))
    dropped, kept = model(voxels, seeded()), whole(voxels, seeded())
    assert torch.equal(dropped.masks, kept.masks)
    assert not torch.allclose(dropped.reconstructions, kept.reconstructions)
    torch.testing.assert_close(model.eval()(voxels, seeded()), whole.eval()(voxels, seeded()))


def test_all_randomness_comes_from_the_generator(voxels):
    model = build()
    torch.manual_seed(1)
    first = model(voxels, seeded(7)).loss
    torch.manual_seed(2)
    assert model(voxels, seeded(7)).loss == first
    assert model(voxels, seeded(8)).loss != first


def test_gradients_reach_every_parameter(voxels):
    model = build()
    model(voxels, seeded()).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_bfloat16_autocast_trains(voxels):
    model = build()
    exact = model(voxels, seeded()).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(voxels, seeded()).loss
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_one_sample_is_learnt_by_heart():
    model = build(replace(TINY, voxel_dropout=0.0, mask_ratio=0.5))
    sample, generator = torch.randn(1, 96, generator=seeded()), seeded()
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=600)
    losses = []
    for _ in range(600):
        loss = model(sample, generator).terms["reconstruction"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.01 * losses[0]


def test_contrast_learns_to_tell_samples_apart():
    """From near chance, log(16), to well below it: kept patches name their sample."""
    model = build(replace(TINY, voxel_dropout=0.0, mask_ratio=0.5, weight_reconstruction=0.0))
    samples, generator = torch.randn(16, 96, generator=seeded()), seeded()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        output = model(samples, generator)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert output.terms["cross"] < 0.5 * math.log(16)
    assert output.terms["self"] < 0.5 * math.log(16)


def test_attention_maps_on_request(voxels, mask):
    encoder = build().encoder
    tokens, maps = encoder(voxels, mask, need_weights=True)
    torch.testing.assert_close(tokens, encoder(voxels, mask), atol=1e-5, rtol=0)
    assert [m.shape for m in maps] == [(5, 4, 4, 4)] * 2
    for weights in maps:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(5, 4, 4))


def contrast_on_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model, own = build(), torch.randn(4, 96, generator=seeded(rank))
    outputs = {mode: model.train(mode == "train")(own, seeded(10 + rank)) for mode in ("train", "validate")}
    saved = {
        mode: (own, out.reconstructions.detach(), out.terms["cross"].item(), out.terms["self"].item())
        for mode, out in outputs.items()
    }
    torch.save(saved, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_negatives_come_from_all_processes_while_training(tmp_path):
    torch.multiprocessing.spawn(contrast_on_two, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    originals = torch.cat([rank["train"][0] for rank in ranks])
    first, second = torch.cat([rank["train"][1] for rank in ranks], dim=1)
    own = (info_nce(first, originals) + info_nce(second, originals)) / 2
    for rank in ranks:
        assert rank["train"][2:] == pytest.approx((info_nce(first, second).item(), own.item()), rel=1e-5)
        _, views, cross, _ = rank["validate"]  # a process may validate while the others do not
        assert cross == pytest.approx(info_nce(*views).item(), rel=1e-5)


def test_state_dict_has_the_published_names():
    block = [
        f"{layer}.{kind}"
        for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    ]
    expected = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "mask_token"}
    expected |= {"decoder_pos_embed"} | {f"blocks.{i}.{name}" for i in range(2) for name in block}
    expected |= {f"decoder_blocks.0.{name}" for name in block}
    expected |= {
        f"{layer}.{kind}"
        for layer in ("norm", "decoder_embed", "decoder_norm", "decoder_pred")
        for kind in ("weight", "bias")
    }
    state = {name.removeprefix("encoder."): value for name, value in build().state_dict().items()}
    assert set(state) == expected
    assert state["pos_embed"].shape == (1, 13, 32)
    assert state["decoder_pos_embed"].shape == (1, 13, 16)
    assert state["patch_embed.proj.weight"].shape == (32, 1, 8)
    assert (state["pos_embed"][0, 0] == 0).all()  # CLS stands nowhere
    assert not any(name.endswith("pos_embed") for name, _ in build().named_parameters())  # fixed, not learnt


def test_save_and_load(voxels, tmp_path):
    model = build().eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.manual_seed(99)
    other = MaskedAutoencoder(TINY).eval()
    assert other(voxels, seeded()).loss != model(voxels, seeded()).loss
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert other(voxels, seeded()).loss == model(voxels, seeded()).loss


def test_defaults_are_the_papers_size():
    with torch.device("meta"):
        model = MaskedAutoencoder(MaskedAutoencoderConfig(num_voxels=4656))
    encoder = sum(p.numel() for p in model.encoder.parameters())
    total = sum(p.numel() for p in model.parameters())
    assert encoder == pytest.approx(151e6, rel=0.015)
    assert total == pytest.approx(164e6, rel=0.015)


def test_misuse_is_explained(voxels):
    with pytest.raises(ValueError, match=r"num_voxels=100 is not a multiple of patch_size=8; pad first"):
        replace(TINY, num_voxels=100)
    with pytest.raises(ValueError, match=r"voxel_dropout is 1\.2; expected a number in \[0, 1\)"):
        replace(TINY, voxel_dropout=1.2)
    wrong = r"got 90 voxels, but the encoder was built for 96; pad first: preprocessing\.pad_voxels"
    with pytest.raises(ValueError, match=wrong):
        FMRIEncoder(TINY)(voxels[:, :90])
    with pytest.raises(ValueError, match=wrong):
        build()(voxels[:, :90], seeded())
    with pytest.raises(ValueError, match=r"mask_ratio is 1\.0; expected a number in \(0, 1\)"):
        replace(TINY, mask_ratio=1.0)
    with pytest.raises(ValueError, match="hides 12 of 12 patches"):
        build(replace(TINY, mask_ratio=0.99))(voxels, seeded())
    model = build()
    with pytest.raises(ValueError, match=r"got \(5, 12\).* but the mask keeps \(5, 3\)"):
        model.reconstruct(model.encode(voxels), random_mask(5, 12, 0.75, seeded()))
