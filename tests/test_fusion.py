"""Phase 2: cross-attention by hand, who sees what, what learns, and that the brain does help the picture."""

from dataclasses import replace

import pytest
import torch

from visdec_lite.fusion import (
    CrossAttentionStack,
    CrossModalFusion,
    FusionConfig,
    ImageAutoencoderConfig,
    ImageMaskedAutoencoder,
)
from visdec_lite.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from visdec_lite.patches import patchify_image, patchify_voxels, random_mask

FMRI = MaskedAutoencoderConfig(
    num_voxels=64, patch_size=8, embed_dim=16, depth=2, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
    decoder_num_heads=2,
)  # fmt: skip
IMAGE = ImageAutoencoderConfig(
    image_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2.0, decoder_embed_dim=16,
    decoder_depth=1, decoder_num_heads=2,
)  # fmt: skip
FUSION = FusionConfig(cross_layers=2, cross_heads=2)
FROZEN = ("image.patch_embed.", "image.blocks.", "image.norm.", "image.cls_token")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: FusionConfig = FUSION, fmri: MaskedAutoencoderConfig = FMRI) -> CrossModalFusion:
    torch.manual_seed(0)
    return CrossModalFusion(MaskedAutoencoder(fmri), ImageMaskedAutoencoder(IMAGE), config)


def build_image() -> ImageMaskedAutoencoder:
    torch.manual_seed(0)
    return ImageMaskedAutoencoder(IMAGE)


@pytest.fixture
def voxels() -> torch.Tensor:
    return torch.randn(3, 64, generator=seeded(1))


@pytest.fixture
def images() -> torch.Tensor:
    return 2 * torch.rand(3, 3, 16, 16, generator=seeded(2)) - 1


# --- the image autoencoder ---


def test_image_autoencoder_shapes(images):
    model, mask = build_image(), random_mask(3, 16, 0.75, seeded())
    assert IMAGE.num_patches == 16
    assert model.encode(images).shape == (3, 1 + 16, 24)
    tokens = model.encode(images, mask)
    assert tokens.shape == (3, 1 + 4, 24)
    assert model.reconstruct(tokens, mask).shape == (3, 16, 3 * 4 * 4)
    assert model(images, seeded()).shape == ()


@pytest.mark.parametrize("junk", [1e6, float("nan")])
def test_image_encoder_never_sees_hidden_patches(images, junk):
    model, mask = build_image(), random_mask(3, 16, 0.75, seeded())
    hidden = mask.reshape(3, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(model.encode(images, mask), model.encode(torch.where(hidden, junk, images), mask))


def test_image_encoder_sees_every_kept_pixel(images):
    model, mask = build_image(), random_mask(3, 16, 0.75, seeded())
    images.requires_grad_()
    model.encode(images, mask)[..., 0].sum().backward()
    hidden = mask.reshape(3, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).expand_as(images)
    assert (images.grad[hidden] == 0).all() and (images.grad[~hidden] != 0).all()


def test_image_autoencoder_loss_by_brute_force(images):
    """The mean over the pixels of hidden squares, taken one by one."""
    model = build_image()
    loss, mask = model(images, seeded(3)), random_mask(3, 16, IMAGE.mask_ratio, seeded(3))
    rebuilt = model.reconstruct(model.encode(images, mask), mask)
    errors = []
    for row in range(3):
        for square in mask[row].nonzero()[:, 0].tolist():
            top, left = 4 * (square // 4), 4 * (square % 4)
            truth = images[row, :, top : top + 4, left : left + 4].permute(1, 2, 0).flatten()
            errors.append((rebuilt[row, square] - truth).square().mean())
    assert len(errors) == 3 * 12
    torch.testing.assert_close(loss, torch.stack(errors).mean())


def test_position_matters_to_the_image_encoder(images):
    """Without positions, tokens of exchanged squares would merely be exchanged."""
    model = build_image()
    rolled = torch.roll(images, 4, dims=3)
    one, two = model.encode(images)[:, 1:], model.encode(rolled)[:, 1:]
    order = torch.arange(16).reshape(4, 4).roll(1, dims=1).flatten()
    assert not torch.allclose(one[:, order], two, atol=1e-3)


def test_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"3, 32, 32.*takes \(batch, 3, 16, 16\).*resize_images"):
        build_image().encode(torch.zeros(1, 3, 32, 32))


# --- cross-attention ---


def test_cross_attention_is_the_formula(voxels):
    """CA(q, kv) = softmax((q W_Q + b_Q)(kv W_K + b_K)^T / sqrt(d)) (kv W_V + b_V), added to the query."""
    torch.manual_seed(0)
    stack = CrossAttentionStack(dim=6, support_dim=5, heads=1, depth=1).double()
    for parameter in stack.parameters():  # biases start at zero, norms at one: nothing may hide behind that
        torch.nn.init.normal_(parameter)
    query, support = (torch.randn(2, n, d, generator=seeded(), dtype=torch.float64) for n, d in ((4, 6), (3, 5)))
    norm, layer = stack.norms[0], stack.layers[0]
    centred = query - query.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias
    q = normed @ layer.q.weight.T + layer.q.bias
    k = support @ layer.kv.weight[:6].T + layer.kv.bias[:6]
    v = support @ layer.kv.weight[6:].T + layer.kv.bias[6:]
    scores = (q @ k.transpose(1, 2) / 6**0.5).exp()
    weights = scores / scores.sum(-1, keepdim=True)
    expected = query + weights @ v @ layer.proj.weight.T + layer.proj.bias
    torch.testing.assert_close(stack(query, support), expected)
    guided, (shown,) = stack(query, support, need_weights=True)
    torch.testing.assert_close(guided, expected)
    torch.testing.assert_close(shown[:, 0], weights)


def test_cross_attention_weights_of_every_layer_sum_to_one():
    torch.manual_seed(0)
    stack = CrossAttentionStack(dim=8, support_dim=6, heads=2, depth=3)
    _, maps = stack(torch.randn(2, 5, 8), torch.randn(2, 7, 6), need_weights=True)
    assert [tuple(weights.shape) for weights in maps] == [(2, 2, 5, 7)] * 3
    for weights in maps:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 5))


def test_deaf_cross_attention_leaves_the_query_alone():
    stack = CrossAttentionStack(dim=8, support_dim=6, heads=2, depth=2)
    for layer in stack.layers:
        torch.nn.init.zeros_(layer.proj.weight)
    query = torch.randn(2, 5, 8)
    assert torch.equal(stack(query, torch.randn(2, 7, 6)), query)


# --- the fused model ---


def test_fusion_shapes_and_weighted_sum(voxels, images):
    output = build()(voxels, images, seeded())
    assert output.images.shape == images.shape and set(output.terms) == {"fmri", "image"}
    torch.testing.assert_close(output.loss, 0.25 * output.terms["fmri"] + 1.5 * output.terms["image"])


def test_terms_are_errors_on_hidden_patches(voxels, images):
    """The masks are the first draws of the generator; the targets are whole and clean."""
    model = build().eval()
    output = model(voxels, images, seeded(4))
    generator = seeded(4)
    fmri_mask, image_mask = random_mask(3, 8, 0.75, generator), random_mask(3, 16, 0.5, generator)
    rebuilt = model.rebuild_fmri(voxels, images, fmri_mask, generator)
    expected = (rebuilt - patchify_voxels(voxels, 8))[fmri_mask].square().mean()
    torch.testing.assert_close(output.terms["fmri"], expected)
    expected = (patchify_image(output.images, 4) - patchify_image(images, 4))[image_mask].square().mean()
    torch.testing.assert_close(output.terms["image"], expected)


@pytest.mark.parametrize("term", ["image", "fmri"])
def test_guidance_arrives_from_the_other_modality(voxels, images, term):
    """Each loss reaches, through cross-attention, every voxel and pixel of the (unmasked) support."""
    model = build().eval()
    fmri_mask, image_mask = random_mask(3, 8, 0.75, seeded()), random_mask(3, 16, 0.5, seeded())
    helper = (voxels if term == "image" else images).requires_grad_()
    if term == "image":
        rebuilt = model.rebuild_image(voxels, images, image_mask, seeded())
    else:
        rebuilt = model.rebuild_fmri(voxels, images, fmri_mask, seeded())
    rebuilt[..., 0].sum().backward()
    assert helper.grad.isfinite().all() and (helper.grad != 0).all()


def test_no_guidance_without_cross_attention(voxels, images):
    """The control of the test above: deaf cross-attention, and the scan tells the picture nothing."""
    model = build().eval()
    for layer in (*model.fmri_cross.layers, *model.image_cross.layers):
        torch.nn.init.zeros_(layer.proj.weight)
    mask = random_mask(3, 16, 0.5, seeded())
    one, other = (model.rebuild_image(v, images, mask, seeded()) for v in (voxels, -voxels))
    assert torch.equal(one, other)
    assert torch.equal(one, model.image.reconstruct(model.image.encode(images, mask), mask))


def step(model: CrossModalFusion, voxels: torch.Tensor, images: torch.Tensor) -> dict[str, bool]:
    """One update without weight decay; name of each parameter -> whether it changed."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    model(voxels, images, seeded()).loss.backward()
    optimizer.step()
    return {name: not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters()}


def test_frozen_image_encoder_stays_bit_for_bit_and_all_else_learns(voxels, images):
    changed = step(build(), voxels, images)
    assert {name for name in changed if not changed[name]} == {n for n in changed if n.startswith(FROZEN)}


def test_image_encoder_learns_if_it_is_not_frozen(voxels, images):
    assert all(step(build(replace(FUSION, freeze_image_encoder=False)), voxels, images).values())


def test_choosing_again_undoes_what_another_stage_froze():
    model = build()
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    model.choose_trainable()
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wanted


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("weight_fmri", 1.0),
        ("weight_image", 0.5),
        ("fmri_mask_ratio", 0.5),
        ("image_mask_ratio", 0.75),
        ("support_mask_ratio", 0.75),
        ("cross_layers", 3),
        ("cross_heads", 4),
    ],
)
def test_every_knob_changes_the_loss(voxels, images, knob, value):
    assert getattr(FUSION, knob) != value
    losses = [build(config)(voxels, images, seeded()).loss for config in (FUSION, replace(FUSION, **{knob: value}))]
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize(("ratio", "fmri_kept", "image_kept"), [(0.0, 8, 16), (0.75, 2, 4)])
def test_support_mask_ratio_is_the_share_of_the_helper_hidden(voxels, images, ratio, fmri_kept, image_kept):
    """An unseen patch of the support has no gradient: count those that have one."""
    model = build(replace(FUSION, support_mask_ratio=ratio)).eval()
    voxels.requires_grad_()
    images.requires_grad_()
    model.rebuild_image(voxels, images.detach(), random_mask(3, 16, 0.5, seeded()), seeded())[..., 0].sum().backward()
    model.rebuild_fmri(voxels.detach(), images, random_mask(3, 8, 0.5, seeded()), seeded())[..., 0].sum().backward()
    seen = (patchify_voxels(voxels.grad, 8) != 0).any(-1).sum(1), (patchify_image(images.grad, 4) != 0).any(-1).sum(1)
    assert seen[0].tolist() == [fmri_kept] * 3 and seen[1].tolist() == [image_kept] * 3


def test_masks_are_of_the_ratios_asked_for(voxels, images, monkeypatch):
    model, seen = build(replace(FUSION, fmri_mask_ratio=0.5, image_mask_ratio=0.75)), []
    monkeypatch.setattr(model.fmri, "encode", lambda v, mask: seen.append(mask) or model.fmri.encoder(v, mask))
    model(voxels, images, seeded())
    support, own = seen
    assert support is None and own.sum(1).tolist() == [4] * 3


def test_voxel_dropout_only_while_training_and_never_in_the_target(voxels, images):
    """Dropping nearly all voxels blinds the input; the target stays, so the error of predicting zero stays."""
    model = build(fmri=replace(FMRI, voxel_dropout=0.99))
    torch.nn.init.zeros_(model.fmri.decoder_pred.weight)  # predicts zero whatever it sees
    generator = seeded(5)
    model.fmri.drop_voxels(voxels, generator)
    mask = random_mask(3, 8, 0.75, generator)
    expected = patchify_voxels(voxels, 8)[mask].square().mean()
    torch.testing.assert_close(model(voxels, images, seeded(5)).terms["fmri"], expected)
    seen = build(fmri=replace(FMRI, voxel_dropout=0.99))
    blind = build(fmri=replace(FMRI, voxel_dropout=0.0))
    assert not torch.equal(seen(voxels, images, seeded()).images, blind(voxels, images, seeded()).images)
    ours, theirs = (m.eval()(voxels, images, seeded()) for m in (seen, blind))
    assert torch.equal(ours.loss, theirs.loss)


def test_seed_decides_everything(voxels, images):
    model = build()
    one, same, other = (model(voxels, images, seeded(seed)).loss for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_one_pair_is_learnt_by_heart():
    model = build(replace(FUSION, freeze_image_encoder=False), fmri=replace(FMRI, voxel_dropout=0.0))
    voxels = torch.randn(1, 64, generator=seeded(1)).expand(8, -1)
    images = (2 * torch.rand(1, 3, 16, 16, generator=seeded(2)) - 1).expand(8, -1, -1, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    generator, losses = seeded(), []
    for _ in range(300):
        terms = model(voxels, images, generator).terms
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        losses.append({name: float(term.detach()) for name, term in terms.items()})
    for name in ("fmri", "image"):
        assert losses[-1][name] < 0.05 * losses[0][name], name


def test_a_scan_that_tells_the_picture_lowers_its_error():
    """Four independent grey squares, each told by a quarter of the voxels; one of them can be seen.

    Without the scan a hidden square of +1 or -1 can only be guessed: error 1. With another picture's scan it is
    wrong half of the time.
    """
    fmri = replace(FMRI, num_voxels=32, voxel_dropout=0.0)
    image = replace(IMAGE, image_size=8, embed_dim=16)
    config = replace(FUSION, weight_fmri=0.0, image_mask_ratio=0.75, cross_layers=1, freeze_image_encoder=False)
    torch.manual_seed(0)
    model = CrossModalFusion(MaskedAutoencoder(fmri), ImageMaskedAutoencoder(image), config)
    grey = 2.0 * torch.randint(0, 2, (256, 4), generator=seeded(7)) - 1
    voxels = grey.repeat_interleave(8, 1) + 0.3 * torch.randn(256, 32, generator=seeded(8))
    images = grey.reshape(-1, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    generator = seeded()
    for _ in range(300):
        rows = torch.randint(0, 192, (32,), generator=generator)
        optimizer.zero_grad()
        model(voxels[rows], images[rows], generator).loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():  # on 64 pairs never trained on
        told = model(voxels[192:], images[192:], seeded(9)).terms["image"]
        misled = model(voxels[192:].roll(1, 0), images[192:], seeded(9)).terms["image"]
    assert told < 0.8 and misled > 1.2
