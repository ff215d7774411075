"""Checks of lesson 04: attention, why it is scaled, what the joint loss counts, what is frozen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from visdec_lite.layers import attend
from visdec_lite.teaching.verdicts import Wrong, call, close, expect, shape_of

PARTS = {  # name -> parameters at class size
    "E_F": 402_944, "D_F": 60_960, "CA_F": 132_608, "E_I": 404_096, "D_I": 288_048, "CA_I": 132_608,
}  # fmt: skip


def cross_attention(attempt: Any) -> str:
    """`attempt(query, key, value)` of (n, d), (m, d), (m, w) -> (n, w)."""
    value = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    given = "2 queries and 3 keys of width 4, values of width 2"
    found = call(attempt, torch.ones(2, 4), torch.ones(3, 4), value, given=given)
    expect(
        tuple(getattr(found, "shape", ())) != (2, 3),
        "You return one number for each of 2 queries and 3 keys: those are the weights. Multiply them by the values.",
    )
    expect(
        tuple(getattr(found, "shape", ())) == (2, 2),
        f"2 queries and values of width 2 should give shape (2, 2), yours gives {shape_of(found)}.",
    )
    expect(
        not close(found, torch.full((2, 2), 1.5)),
        "Each query's weights over 3 equal keys should be 1/3, yours are 1/2. Does your softmax run over the 2 "
        "queries? It belongs over the keys, the last axis.",
    )
    expect(
        close(found, torch.ones(2, 2)),
        "With 3 equal keys nothing tells the values apart, so every query should take their mean, (1, 1). "
        f"Yours takes {_numbers(found[0])}.",
    )

    query, keys = torch.zeros(1, 16), torch.zeros(2, 16)
    query[0, 0], keys[0, 0] = 4.0, 4.0
    first = float(call(attempt, query, keys, torch.eye(2), given="1 query and 2 keys of width 16")[0, 0])
    expect(
        not close(first, _share(16)),
        f"A key with q.k = 16 beside one with 0 gets {first:.4f} of the weight: no scale. With d = 16 the score is "
        f"16 / sqrt(16) = 4, and the weight {_share(4):.4f}.",
    )
    expect(
        not close(first, _share(1)),
        f"A key with q.k = 16 beside one with 0 gets {first:.4f}: you divide by d = 16. Divide by sqrt(16) = 4, "
        f"and it gets {_share(4):.4f}.",
    )
    expect(
        close(first, _share(4)),
        f"A key with q.k = 16 beside one with 0, at d = 16, should get {_share(4):.4f} of the weight; "
        f"yours gets {first:.4f}.",
    )

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(rows, 8, generator=generator) for rows in (5, 7, 7))
    expected = attend(q[None, None], k[None, None], v[None, None])[0][0, 0]
    found = call(attempt, q, k, v, given="5 queries and 7 keys of width 8")
    expect(close(found, expected), f"On random tokens you are off by up to {_gap(found, expected)} from the library.")
    return "The mean where nothing differs, 0.982 of the weight where one key fits, and the library's numbers on noise."


def softmax_scale(attempt: Any) -> str:
    """The standard deviation of q.k for d = 128 independent standard normal entries."""
    try:
        found = float(attempt)
    except (TypeError, ValueError):
        raise Wrong(f"Give one number for d = 128, this is {attempt!r}.") from None
    expect(not close(found, 128.0), "128 is the variance: 128 products of variance 1 are added. Take its root.")
    expect(
        not close(found, 1.0),
        "1 is the spread of one product q_i k_i. Here 128 of them are added, and variances add.",
    )
    expect(
        abs(found - math.sqrt(128)) < 0.06,
        f"You say {found:.4g}. Each of the 128 products has mean 0 and variance 1; variances add; take the root.",
    )
    return "sqrt(128) = 11.3. Divided by it, scores have spread 1 at any width, and the softmax starts out undecided."


def joint_loss(attempt: Any) -> str:
    """`attempt(v, v_d, fmri_mask, u, u_d, image_mask, g_F, g_I)` -> a number."""
    fmri_mask = torch.tensor([[True, True, True, False], [True, False, True, True]])
    image_mask = torch.tensor([[True, False, False, False, True], [False, True, True, False, False]])
    v, u = torch.zeros(2, 4, 3), torch.zeros(2, 5, 2)
    v_d = torch.where(fmri_mask[..., None], 1.0, 10.0).expand_as(v)  # hidden voxels are 1 off, hidden pixels 2,
    u_d = torch.where(image_mask[..., None], 2.0, 10.0).expand_as(u)  # and what is visible 10
    given = "voxel patches (2, 4, 3), image patches (2, 5, 2)"

    def loss(g_fmri: float, g_image: float) -> float:
        found = call(attempt, v, v_d, fmri_mask, u, u_d, image_mask, g_fmri, g_image, given=given)
        expect(
            getattr(found, "ndim", 0) == 0,
            f"A loss is 1 number; yours has {shape_of(found)}. Average over all hidden patches.",
        )
        return float(found)

    found = loss(0.25, 1.5)
    everywhere = 0.25 * float((v_d**2).mean()) + 1.5 * float((u_d**2).mean())
    visible = 0.25 * 100 + 1.5 * 100
    expect(
        not close(found, everywhere),
        f"You get {found:.2f}: you average over all patches. The visible ones, 10 off here, could simply be copied; "
        "count the hidden ones alone, and it is 6.25.",
    )
    expect(
        not close(found, visible),
        f"You get {found:.2f}, the error of the visible patches. True means hidden: 6.25 is the error of those.",
    )
    diluted = 0.25 * 6 / 8 + 1.5 * 4 * 4 / 10
    expect(
        not close(found, diluted),
        f"You get {found:.4g}: errors of visible patches are zeroed, and still counted in the mean. Divide by the "
        "number of hidden ones, 6 and 4, not by 8 and 10: then it is 6.25.",
    )
    expect(not close(found, 5.0), "You get 5: the two errors are 1 and 4, but g_F = 0.25 and g_I = 1.5 were not used.")
    expect(
        not close(found, 0.25 * 4 + 1.5 * 1),
        "You get 2.5: the weights are swapped. g_F = 0.25 goes with the voxels, whose error is 1, g_I with pixels.",
    )
    expect(
        close(found, 6.25),
        f"Hidden voxels are 1 off and hidden pixels 2, so with g_F = 0.25 and g_I = 1.5 it should be "
        f"0.25 * 1 + 1.5 * 4 = 6.25; yours is {found:.4g}.",
    )
    expect(close(loss(1.0, 0.0), 1.0), "With g_I = 0 only the voxels' error, 1, should be left.")
    return "0.25 * 1 + 1.5 * 4 = 6.25, and what is visible does not count."


def frozen(attempt: Any) -> str:
    """A set of names of PARTS."""
    if isinstance(attempt, str):
        attempt = {attempt}
    if not isinstance(attempt, Iterable):
        raise Wrong(f"Give a set of names out of 6, such as {{'D_F', 'CA_F'}}; this is {attempt!r}.")
    found = set(attempt)
    unknown = found - PARTS.keys()
    expect(not unknown, f"{sorted(map(str, unknown))} is none of the 6 parts: {', '.join(PARTS)}.")
    expect(
        "E_F" not in found,
        f"E_F, with {PARTS['E_F']:,} numbers, is what phase 2 is for: frozen, it could not learn from the picture "
        "what matters.",
    )
    expect(
        not found & {"CA_I", "CA_F"},
        f"Both cross-attentions start from noise, {PARTS['CA_I']:,} numbers each. Frozen, they would stay noise.",
    )
    expect(
        "D_I" not in found,
        f"D_I ({PARTS['D_I']:,} numbers) has only ever read plain picture tokens; it must learn to read them with "
        "brain added. E_I sees pictures alone, as it always did.",
    )
    expect("D_F" not in found, f"D_F ({PARTS['D_F']:,} numbers) must learn to read voxel tokens with picture added.")
    expect(found == {"E_I"}, "1 part stays as it is: the one that meets nothing new. Which input has not changed?")
    return "Only E_I: it knows pictures, and pictures have not changed. All else meets something new."


def _share(score: float) -> float:
    """Weight of a key with this score beside a key with 0."""
    return 1 / (1 + math.exp(-score))


def _numbers(row: torch.Tensor) -> str:
    return "(" + ", ".join(f"{float(x):.3g}" for x in row) + ")"


def _gap(found: Any, expected: torch.Tensor) -> str:
    if getattr(found, "shape", None) != expected.shape:
        return f"a whole shape ({shape_of(found)})"
    return f"{float((found - expected).abs().max()):.3g}"
