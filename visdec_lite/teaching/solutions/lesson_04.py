"""One way to write the exercises of lesson 04, and the mistakes that are made most."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

softmax_scale = 128**0.5
frozen = {"E_I"}


def cross_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: (n, d), (m, d), (m, w) -> (n, w)."""
    d = query.shape[-1]
    weights = torch.softmax(query @ key.T / d**0.5, dim=-1)
    return weights @ value


def joint_loss(
    v: Tensor, v_d: Tensor, fmri_mask: Tensor, u: Tensor, u_d: Tensor, image_mask: Tensor, g_F: float, g_I: float
) -> Tensor:
    """g_F ||v - v^d||^2 + g_I ||u - u^d||^2 over hidden patches."""
    return g_F * ((v - v_d) ** 2)[fmri_mask].mean() + g_I * ((u - u_d) ** 2)[image_mask].mean()


MISTAKES: dict[str, list[tuple[str, Any]]] = {
    "cross_attention": [
        ("forgets to divide by sqrt(d)", lambda q, k, v: torch.softmax(q @ k.T, dim=-1) @ v),
        ("divides by d", lambda q, k, v: torch.softmax(q @ k.T / q.shape[-1], dim=-1) @ v),
        ("softmax over the queries", lambda q, k, v: torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=0) @ v),
        ("returns the weights", lambda q, k, v: torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1)),
        ("no softmax", lambda q, k, v: (q @ k.T / q.shape[-1] ** 0.5) @ v),
    ],
    "softmax_scale": [("gives the variance", 128), ("thinks of a single product", 1.0), ("halves it", 64)],
    "joint_loss": [
        (
            "averages over visible patches too",
            lambda v, v_d, fm, u, u_d, im, g_F, g_I: g_F * ((v - v_d) ** 2).mean() + g_I * ((u - u_d) ** 2).mean(),
        ),
        (
            "counts what is visible",
            lambda v, v_d, fm, u, u_d, im, g_F, g_I: joint_loss(v, v_d, ~fm, u, u_d, ~im, g_F, g_I),
        ),
        (
            "divides by the number of all patches",
            lambda v, v_d, fm, u, u_d, im, g_F, g_I: (
                g_F * (((v - v_d) ** 2).mean(-1) * fm).mean() + g_I * (((u - u_d) ** 2).mean(-1) * im).mean()
            ),
        ),
        ("forgets the weights", lambda v, v_d, fm, u, u_d, im, g_F, g_I: joint_loss(v, v_d, fm, u, u_d, im, 1.0, 1.0)),
        ("swaps the weights", lambda v, v_d, fm, u, u_d, im, g_F, g_I: joint_loss(v, v_d, fm, u, u_d, im, g_I, g_F)),
    ],
    "frozen": [
        ("freezes the fMRI encoder", {"E_F", "E_I"}),
        ("freezes what is new", {"E_I", "CA_F", "CA_I"}),
        ("freezes the image decoder too", {"E_I", "D_I"}),
        ("nothing is frozen", set()),
    ],
}
