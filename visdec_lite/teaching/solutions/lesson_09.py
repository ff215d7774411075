"""One way to write the exercises of lesson 09, and the mistakes that are made most."""

from __future__ import annotations

import math
from typing import Any


def training_bytes(weights: int, trained: int) -> int:
    """Bytes in float32: every weight itself; for those that learn a gradient and Adam's two running means."""
    return 4 * weights + (4 + 8) * trained


def negatives(batch_size: int, devices: int, accumulate: int, gather: bool) -> int:
    """Keys in a query's softmax, less its own; passes that are accumulated never meet."""
    together = batch_size if gather else batch_size // devices
    return together - 1


def learning_rate(step: int, steps: int, warmup: int, highest: float) -> float:
    """Up a line, down half a cosine."""
    if step < warmup:
        return highest * (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    return highest * (1 + math.cos(math.pi * done)) / 2


def _cosine_from_the_start(step: int, steps: int, warmup: int, highest: float) -> float:
    return highest * min((step + 1) / warmup, 1 if step <= warmup else (1 + math.cos(math.pi * step / steps)) / 2)


def _bare_cosine(step: int, steps: int, warmup: int, highest: float) -> float:
    return (
        learning_rate(step, steps, warmup, highest)
        if step <= warmup
        else 2 * learning_rate(step, steps, warmup, highest) - 1
    )


def _line_down(step: int, steps: int, warmup: int, highest: float) -> float:
    return highest * min((step + 1) / warmup, (steps - step) / (steps - warmup))


MISTAKES: dict[str, list[tuple[str, Any]]] = {
    "training_bytes": [
        ("counts the weights alone", lambda weights, trained: 4 * weights),
        ("forgets Adam", lambda weights, trained: 4 * weights + 4 * trained),
        ("gives Adam one number a weight", lambda weights, trained: 4 * weights + 8 * trained),
        ("gives frozen weights gradients and Adam states", lambda weights, trained: 16 * weights),
        ("forgets that frozen weights are there", lambda weights, trained: 16 * trained),
    ],
    "negatives": [
        ("counts the positive as well", lambda batch, devices, accumulate, gather: batch),
        ("adds up the accumulated passes", lambda batch, devices, accumulate, gather: batch * accumulate - 1),
        ("cuts the batch into the passes", lambda batch, devices, accumulate, gather: batch // accumulate - 1),
        ("forgets that devices are apart", lambda batch, devices, accumulate, gather: batch - 1),
        ("forgets what gather does", lambda batch, devices, accumulate, gather: batch // devices - 1),
    ],
    "learning_rate": [
        ("starts at zero", lambda s, n, w, top: top * s / w if s < w else learning_rate(s, n, w, top)),
        ("has no warm-up", lambda s, n, w, top: top * (1 + math.cos(math.pi * s / n)) / 2),
        ("lets the cosine begin at step 0", _cosine_from_the_start),
        ("goes down a straight line", _line_down),
        ("takes the cosine as it is", _bare_cosine),
    ],
}
