"""One way to write the exercises of lesson 02, and the mistakes that are made most."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

tokens_seen = 13


def patchify(voxels: Tensor, patch_size: int) -> Tensor:
    """(b, n * p) -> (b, n, p): neighbours stay together."""
    return rearrange(voxels, "b (n p) -> b n p", p=patch_size)


def random_mask(batch: int, length: int, ratio: float, generator: torch.Generator) -> Tensor:
    """bool (batch, length), True = hidden; the patches that drew the smallest numbers are hidden."""
    rank = torch.rand(batch, length, generator=generator).argsort(dim=1)
    return rank < round(ratio * length)


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of the hidden patches."""
    return ((prediction - target) ** 2)[mask].mean()


def _same_for_all(batch: int, length: int, ratio: float, generator: torch.Generator) -> Tensor:
    return random_mask(1, length, ratio, generator).expand(batch, -1)


def _block(batch: int, length: int, ratio: float, generator: torch.Generator) -> Tensor:
    start = torch.randint(length, (batch, 1), generator=generator)
    return (torch.arange(length) - start) % length < round(ratio * length)


MISTAKES: dict[str, list[tuple[str, Any]]] = {
    "patchify": [
        ("deals voxels out like cards", lambda v, p: rearrange(v, "b (p n) -> b n p", p=p)),
        ("turns patches on their side", lambda v, p: rearrange(v, "b (n p) -> b p n", p=p)),
        ("forgets the batch", lambda v, p: v.reshape(-1, p)),
        ("takes the size for the number", lambda v, p: rearrange(v, "b (n p) -> b n p", n=p)),
    ],
    "random_mask": [
        ("throws a coin for each patch", lambda b, n, ratio, g: torch.rand(b, n, generator=g) < ratio),
        ("1 means kept", lambda b, n, ratio, g: ~random_mask(b, n, ratio, g)),
        ("one mask for the whole batch", _same_for_all),
        ("hides one long block", _block),
        ("ignores the generator", lambda b, n, ratio, g: torch.rand(b, n).argsort(dim=1) < round(ratio * n)),
        ("gives places, not a mask", lambda b, n, ratio, g: torch.rand(b, n, generator=g).argsort(dim=1)),
    ],
    "tokens_seen": [
        ("forgets CLS", 12),
        ("counts what is hidden", 38),
        ("thinks that mask tokens enter", 51),
        ("forgets to hide", 50),
    ],
    "masked_mse": [
        ("averages over all patches", lambda p, t, m: ((p - t) ** 2).mean()),
        ("takes 1 for visible", lambda p, t, m: ((p - t) ** 2)[~m].mean()),
        ("divides by the number of all patches", lambda p, t, m: (((p - t) ** 2).mean(-1) * m).mean()),
        ("adds up", lambda p, t, m: ((p - t) ** 2)[m].sum()),
        ("does not square", lambda p, t, m: (p - t).abs()[m].mean()),
    ],
}
