"""Exercises of lesson 02: known answers against what a student wrote."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visdec_lite.teaching.verdicts import Wrong, call, close, expect, shape_of


def patchify(attempt: Any) -> str:
    """`attempt(voxels, patch_size)`: (b, n * p) -> (b, n, p)."""
    voxels = torch.arange(24.0).reshape(2, 12)  # two scans of 12 voxels: 0..11 and 12..23
    found = _tensor(call(attempt, voxels.clone(), 4, given="two scans of 12 voxels and a patch size of 4"))
    shape = tuple(found.shape)
    expect(
        shape != (6, 4),
        "You give 6 patches in one heap: the two scans have run together. Keep the batch in front: (2, 3, 4).",
    )
    if shape == (2, 4, 3):
        expect(
            not close(found, voxels.reshape(2, 4, 3)),
            "You cut each scan into 4 patches of 3 voxels. patch_size is how many voxels are *in* a patch: p, not n.",
        )
        raise Wrong(
            "You give shape (2, 4, 3): the patches lie on their side. The 4 voxels of a patch come last: (2, 3, 4)."
        )
    expect(shape == (2, 3, 4), f"2 scans of 12 voxels make (2, 3, 4) with patches of 4; yours has {shape_of(found)}.")
    dealt = torch.stack([voxels[:, i::3] for i in range(3)], dim=1)
    expect(
        not close(found, dealt),
        "Your first patch holds the voxels 0, 3, 6, 9, dealt out like cards. A patch is made of neighbours: 0, 1, 2, "
        "3. In the pattern, which of n and p should move slowly?",
    )
    right = torch.stack([voxels[:, i : i + 4] for i in (0, 4, 8)], dim=1)
    expect(
        close(found, right), f"The first patch of the first scan should be 0, 1, 2, 3; yours is {_row(found[0, 0])}."
    )
    return "Three patches of 4 neighbours for each scan, and put side by side again they are the scan."


def random_mask(attempt: Any) -> str:
    """`attempt(batch, length, ratio, generator)` -> bool (batch, length), True = hidden."""
    given = "4000 scans of 20 patches, ratio 0.75 and a generator"
    found = _tensor(call(attempt, 4000, 20, 0.75, _generator(), given=given))
    shape = tuple(found.shape)
    expect(
        shape == (4000, 20), f"4000 scans of 20 patches need a mask of shape (4000, 20); yours has {shape_of(found)}."
    )
    zeros_and_ones = bool(((found == 0) | (found == 1)).all())
    expect(
        zeros_and_ones,
        f"A mask is true or false; yours has values up to {float(found.max()):.3g}. Compare the ranks with the "
        "number to hide: that makes it a mask.",
    )
    mask = found.bool()
    counts = mask.sum(dim=1)
    expect(
        not bool((counts == 5).all()),
        "You mark 5 of 20 patches. 1 means hidden here, and three quarters are to be hidden: 15.",
    )
    expect(
        bool((counts == 15).all()),
        f"Every scan should hide 15 of 20 patches; yours hide between {int(counts.min())} and {int(counts.max())}. "
        "A coin for each patch hides 75 % only on average, and then the rows do not stack.",
    )
    expect(
        len(torch.unique(mask, dim=0)) > 1,
        "All 4000 scans got one and the same mask. Each scan draws its own: draw batch x length numbers.",
    )
    share = mask.float().mean(dim=0)
    expect(
        bool((share - 0.75).abs().max() < 0.04),
        f"Over 4000 draws a patch should be hidden in 75 % of them; yours go from {100 * float(share.min()):.0f} to "
        f"{100 * float(share.max()):.0f} %. Some places are favoured.",
    )
    both = (mask[:, :-1] & mask[:, 1:]).float().mean()
    expect(
        bool((both - 15 / 20 * 14 / 19).abs() < 0.02),
        f"Two neighbours are hidden together in {100 * float(both):.0f} % of your draws; were every set equally "
        "likely, it would be 15/20 * 14/19 = 55 %. Do you hide blocks? A set should not know where its members are.",
    )
    again = _tensor(call(attempt, 4000, 20, 0.75, _generator(), given=given))
    expect(
        bool((again == found).all()),
        "Two generators with seed 0 gave two different masks. Hand the generator on: torch.rand(..., generator=...), "
        "else nobody can repeat your run.",
    )
    return "Exactly 15 of 20 in each of 4000 scans, every place equally often, and the same seed gives the same masks."


def tokens_seen(attempt: Any) -> str:
    """How many tokens enter the encoder: 50 patches, 38 hidden."""
    found = _number(attempt)
    expect(found != 12, "12 patches are kept, yes. And one token more stands in front of them, which is no patch: CLS.")
    expect(
        found not in (38, 39),
        f"{found:.0f} counts the 38 that are hidden. They are dropped before anything is computed.",
    )
    expect(
        found != 51,
        "51 = 50 + CLS is what the *decoder* sees: there, mask tokens stand for the hidden. The encoder gets none.",
    )
    expect(found != 50, "50 is all patches. 38 of them are hidden, and the hidden ones are dropped, not blanked.")
    expect(found == 13, f"You say {found:g}. Count: 50 patches, 38 hidden, and one CLS token is added.")
    return "12 kept patches and CLS: 13 tokens. Attention compares 13 * 13 = 169 pairs and not 51 * 51 = 2601."


def masked_mse(attempt: Any) -> str:
    """`attempt(prediction, target, mask)` -> mean squared error of the hidden patches, shape ()."""
    generator = _generator()
    target = torch.randn(2, 4, 5, generator=generator)
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]], dtype=torch.bool)
    prediction = torch.where(mask[..., None], target + 2, target + 10)  # off by 2 where hidden, by 10 where visible
    found = _tensor(call(attempt, prediction, target, mask, given="patches (2, 4, 5), mask (2, 4), 6 of 8 hidden"))
    expect(
        found.shape == (),
        f"A loss is one number; yours has {shape_of(found)}. Average over everything that is hidden.",
    )
    value = float(found)
    expect(
        not close(value, 28.0),
        "Hidden patches are off by 2, visible ones by 10, and you get 28: all 8 patches are averaged. Only the hidden "
        "count; the visible could simply be copied.",
    )
    expect(
        not close(value, 100.0),
        "You get 100 = 10^2, the error of the *visible* patches. 1 means hidden: is the mask upside down?",
    )
    expect(
        not close(value, 3.0),
        "You get 3 = 4 * 6/8: visible errors became zeros and were then averaged in. Divide by the number of hidden "
        "patches, 6.",
    )
    expect(
        not close(value, 120.0),
        "You get 120: the sum over 30 hidden voxels. The mean is 4, whatever the batch and the mask ratio.",
    )
    expect(not close(value, 2.0), "You get 2, the plain distance. Squared, it is 4.")
    expect(close(value, 4.0), f"Hidden patches are off by 2 everywhere, so the loss is 4; yours is {value:.4g}.")
    return "4 = 2^2: only the hidden patches count, and how many there are makes no difference."


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _number(attempt: Any) -> float:
    try:
        return float(attempt)
    except (TypeError, ValueError):
        raise Wrong(f"Give 1 number; this is {attempt!r}.") from None


def _tensor(value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"Expected 1 tensor, this is {type(value).__name__}.") from None


def _row(numbers: Tensor) -> str:
    return ", ".join(f"{x:.3g}" for x in numbers.tolist())
