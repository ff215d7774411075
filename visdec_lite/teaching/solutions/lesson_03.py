"""One way to write the exercises of lesson 03, and the mistakes that are made most."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Pairs = list[tuple[Tensor, Tensor]]

temperature = math.log(1 + 63 * math.exp(-0.5 / 0.1))


def info_nce(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """-mean_i log softmax_j(cos(q_i, k_j) / tau) at j = i."""
    similarity = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).T
    return -(similarity / temperature).log_softmax(dim=1).diagonal().mean()


def pairs(first: Tensor, second: Tensor, original: Tensor) -> tuple[Pairs, Pairs]:
    """(query, key) of the cross-contrast, and of the self-contrast."""
    return [(first, second)], [(first, original), (second, original)]


def joint_loss(L_M: float, L_C: float, L_S1: float, L_S2: float, w_M: float, w_C: float, w_S: float) -> float:
    """w_M L_M + w_C L_C + w_S L_S, with L_S the mean over the two views."""
    return w_M * L_M + w_C * L_C + w_S * (L_S1 + L_S2) / 2


def _logits(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    return F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).T / temperature


def _only_negatives(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    logits = _logits(query, key, temperature)
    others = logits.masked_fill(torch.eye(len(query), dtype=torch.bool), -torch.inf)
    return (others.logsumexp(dim=1) - logits.diagonal()).mean()


MISTAKES: dict[str, list[tuple[str, Any]]] = {
    "info_nce": [
        ("does not normalise", lambda q, k, t: -(q @ k.T / t).log_softmax(1).diagonal().mean()),
        ("forgets the temperature", lambda q, k, t: info_nce(q, k, 1.0)),
        ("multiplies by the temperature", lambda q, k, t: info_nce(q, k, 1 / t)),
        ("leaves the own key out of the denominator", _only_negatives),
        ("adds up over the batch", lambda q, k, t: len(q) * info_nce(q, k, t)),
        ("averages the whole matrix", lambda q, k, t: -_logits(q, k, t).log_softmax(1).mean()),
        ("lets keys choose queries", lambda q, k, t: -_logits(q, k, t).log_softmax(0).diagonal().mean()),
        ("has no negatives", lambda q, k, t: 1 - F.cosine_similarity(q, k).mean()),
        ("forgets the minus", lambda q, k, t: -info_nce(q, k, t)),
    ],
    "temperature": [
        ("forgets the temperature", math.log(1 + 63 * math.exp(-0.5))),
        ("guesses", math.log(64)),
        ("leaves the own key out of the denominator", math.log(63 * math.exp(-5))),
        ("gives the probability", 1 / (1 + 63 * math.exp(-5))),
        ("takes the logarithm to base 2", math.log2(1 + 63 * math.exp(-5))),
    ],
    "pairs": [
        ("swaps the two contrasts", lambda f, s, o: ([(f, o), (s, o)], [(f, s)])),
        ("uses one view in the self-contrast", lambda f, s, o: ([(f, s)], [(f, o)])),
        ("lets originals look for reconstructions", lambda f, s, o: ([(f, s)], [(o, f), (o, s)])),
        ("contrasts a view with itself", lambda f, s, o: ([(f, s)], [(f, f), (s, s)])),
        ("stacks the two views", lambda f, s, o: ([(f, s)], [(torch.cat([f, s]), torch.cat([o, o]))])),
    ],
    "joint_loss": [
        ("adds the two views up", lambda M, C, a, b, m, c, s: m * M + c * C + s * (a + b)),
        ("takes one view", lambda M, C, a, b, m, c, s: m * M + c * C + s * a),
        ("swaps the weights", lambda M, C, a, b, m, c, s: m * M + s * C + c * (a + b) / 2),
        ("forgets the weights", lambda M, C, a, b, m, c, s: M + C + (a + b) / 2),
        ("writes the default weights into the function", lambda M, C, a, b, m, c, s: M + 0.5 * C + (a + b) / 2),
    ],
}
