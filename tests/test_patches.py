"""Patches, positions and masks: round trips, known places, counts and chance."""

import pytest
import torch
from diffusers.models.embeddings import get_1d_sincos_pos_embed_from_grid, get_2d_sincos_pos_embed

from visdec_lite import patches as P


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_voxel_lands_in_its_patch_and_comes_back():
    voxels = torch.arange(2 * 24.0).reshape(2, 24)
    patches = P.patchify_voxels(voxels, 8)
    assert patches.shape == (2, 3, 8)
    for row in range(2):
        for patch in range(3):
            for place in range(8):
                assert patches[row, patch, place] == voxels[row, patch * 8 + place]
    assert torch.equal(P.unpatchify_voxels(patches), voxels)


def test_every_pixel_lands_in_its_square_and_comes_back():
    images = torch.randn(2, 3, 8, 8, generator=seeded())
    patches = P.patchify_image(images, 4)
    assert patches.shape == (2, 4, 3 * 4 * 4)
    assert torch.equal(patches[:, 1], images[:, :, :4, 4:].permute(0, 2, 3, 1).flatten(1))  # top right
    assert torch.equal(patches[:, 2], images[:, :, 4:, :4].permute(0, 2, 3, 1).flatten(1))  # bottom left
    assert torch.equal(P.unpatchify_image(patches, 4), images)
    grey = images[:, :1]
    assert torch.equal(P.unpatchify_image(P.patchify_image(grey, 2), 2, channels=1), grey)


def test_positions_agree_with_diffusers():
    ours, theirs = P.sincos_positions_1d(50, 32), get_1d_sincos_pos_embed_from_grid(32, torch.arange(50))
    torch.testing.assert_close(ours, theirs.float())
    ours, theirs = P.sincos_positions_2d(7, 32), get_2d_sincos_pos_embed(32, 7, base_size=7, output_type="pt")
    torch.testing.assert_close(ours, theirs.float())


@pytest.mark.parametrize("codes", [P.sincos_positions_1d(291, 64), P.sincos_positions_2d(14, 64)])
def test_positions_are_distinct_and_of_equal_length(codes):
    assert codes.dtype == torch.float32
    distance = torch.cdist(codes, codes) + 10 * torch.eye(len(codes))
    assert distance.min() > 0.5  # place i is never mistaken for place j
    torch.testing.assert_close(codes.norm(dim=1), torch.full((len(codes),), 32**0.5))  # sin^2 + cos^2 = 1


@pytest.mark.parametrize(("length", "ratio"), [(100, 0.75), (16, 0.5), (7, 0.3), (291, 0.75)])
def test_mask_hides_exactly_the_share_asked_for(length, ratio):
    mask = P.random_mask(50, length, ratio, seeded())
    assert mask.shape == (50, length)
    assert mask.dtype == torch.bool
    assert (mask.sum(dim=1) == round(ratio * length)).all()


def test_mask_is_uniform_over_sets():
    """Each patch is hidden with probability 15/20, each pair together with 15/20 * 14/19."""
    mask = P.random_mask(8000, 20, 0.75, seeded()).double()
    together = mask.T @ mask / len(mask)
    expected = torch.full((20, 20), 15 * 14 / (20 * 19), dtype=torch.float64).fill_diagonal_(15 / 20)
    assert (together - expected).abs().max() < 5 * 0.5 / 8000**0.5  # five standard errors


def test_mask_comes_from_the_generator_alone():
    torch.manual_seed(1)
    first = P.random_mask(4, 40, 0.75, seeded(3))
    torch.manual_seed(2)
    assert torch.equal(first, P.random_mask(4, 40, 0.75, seeded(3)))
    assert not torch.equal(first, P.random_mask(4, 40, 0.75, seeded(4)))
    generator = seeded(3)
    P.random_mask(4, 40, 0.75, generator)
    assert not torch.equal(first, P.random_mask(4, 40, 0.75, generator))


def test_kept_and_hidden_are_everything():
    mask = P.random_mask(6, 20, 0.6, seeded())
    index = P.kept_indices(mask)
    assert index.shape == (6, 8)
    assert (index.diff(dim=1) > 0).all()
    assert torch.equal(torch.ones_like(mask).scatter(1, index, False), mask)


def test_keep_then_restore_puts_every_patch_back():
    tokens = torch.randn(6, 20, 5, generator=seeded(), requires_grad=True)
    filler = torch.randn(5, generator=seeded(1), requires_grad=True)
    mask = P.random_mask(6, 20, 0.6, seeded())
    kept = P.keep_patches(tokens, mask)
    assert torch.equal(kept.flatten(0, 1), tokens[~mask])
    restored = P.restore_patches(kept, mask, filler)
    assert torch.equal(restored, torch.where(mask.unsqueeze(-1), filler, tokens))
    restored.sum().backward()
    assert torch.equal(tokens.grad, (~mask).float().unsqueeze(-1).expand_as(tokens))
    assert torch.equal(filler.grad, mask.sum().float().expand(5))


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.01, 0.99, -0.5, 1.5])
def test_masks_that_leave_nothing_are_refused(ratio):
    with pytest.raises(ValueError, match=r"of 10 patches; at least 1 must be hidden and 1 kept"):
        P.random_mask(2, 10, ratio, seeded())


def test_wrong_shapes_say_what_to_do():
    with pytest.raises(ValueError, match=r"25 voxels .* patches of 8; pad first: preprocessing\.pad_voxels"):
        P.patchify_voxels(torch.zeros(2, 25), 8)
    with pytest.raises(ValueError, match="30 x 32 pixels does not split into squares of 4"):
        P.patchify_image(torch.zeros(2, 3, 30, 32), 4)
    with pytest.raises(ValueError, match="5 patches of 48 values do not form a square image"):
        P.unpatchify_image(torch.zeros(2, 5, 48), 4)
    with pytest.raises(ValueError, match=r"3 \* 4 \* 4 = 48 values"):
        P.unpatchify_image(torch.zeros(2, 4, 16), 4)
    with pytest.raises(ValueError, match="even width, got 7; try 8"):
        P.sincos_positions_1d(10, 7)
    with pytest.raises(ValueError, match="multiple of 4 as width, got 6; try 8"):
        P.sincos_positions_2d(10, 6)
    uneven = torch.tensor([[True, False, False], [True, True, False]])
    with pytest.raises(ValueError, match="rows keep between 1 and 2 patches"):
        P.kept_indices(uneven)
    mask = P.random_mask(2, 10, 0.5, seeded())
    with pytest.raises(ValueError, match=r"\(2, 10\) does not fit \(2, 12\)"):
        P.keep_patches(torch.zeros(2, 12, 3), mask)
    with pytest.raises(ValueError, match=r"got \(2, 10\).* but the mask keeps \(2, 5\)"):
        P.restore_patches(torch.zeros(2, 10, 3), mask, torch.zeros(3))
