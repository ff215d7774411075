"""One way to write the exercises of lesson 07, the mistakes that are made most, and the envelope with the six cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

honest = {"B", "E"}


def six_cases(
    paint: Callable[..., np.ndarray], averaged: np.ndarray, single: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Pictures (n, 2, h, w, 3) of six cases, from scans (n, V): averaged over repeats, and single trials."""
    five = paint(averaged, samples=4)
    return {
        "A": np.roll(five[:, 2:], 1, axis=0),  # the right pictures, one stimulus late
        "B": five[:, :2],  # honest, repeats averaged
        "C": paint(averaged, guidance=0.0),  # the prior alone
        "D": paint(averaged[:, rng.permutation(averaged.shape[1])]),  # all scans, their voxels in one wrong order
        "E": paint(single),  # honest, single trials
        "F": paint(np.zeros_like(averaged)),  # a scan that says nothing
    }


def pairwise(closeness: np.ndarray) -> np.ndarray:
    """Share of the others that are less close than the own: (n, n) -> (n,); ties count half."""
    own = closeness.diagonal()[:, None]
    beaten, tied = (closeness < own).sum(axis=1), (closeness == own).sum(axis=1) - 1
    return (beaten + tied / 2) / (len(closeness) - 1)


def p_value(observed: float, shuffled: np.ndarray) -> float:
    """Share of pairings, the true one among them, that score as high."""
    return float((1 + np.sum(np.asarray(shuffled) >= observed)) / (1 + len(shuffled)))


def derangement(n: int, rng: np.random.Generator) -> np.ndarray:
    """Everybody in one round, each given the next one's place: nobody keeps the own."""
    round_ = rng.permutation(n)
    given = np.empty(n, dtype=int)
    given[round_] = np.roll(round_, 1)
    return given


def _beaten(closeness: np.ndarray) -> np.ndarray:
    return (closeness < closeness.diagonal()[:, None]).sum(axis=1)


MISTAKES: dict[str, list[tuple[str, Any]]] = {
    "pairwise": [
        ("compares down the columns", lambda closeness: pairwise(closeness.T)),
        ("divides by n", lambda closeness: pairwise(closeness) * (len(closeness) - 1) / len(closeness)),
        ("a tie counts nothing", lambda closeness: _beaten(closeness) / (len(closeness) - 1)),
        ("a tie counts in full, its own picture too", lambda c: (c <= c.diagonal()[:, None]).sum(1) / (len(c) - 1)),
        ("counts only the winner", lambda closeness: (_beaten(closeness) == len(closeness) - 1).astype(float)),
        ("averages over stimuli", lambda closeness: pairwise(closeness).mean()),
    ],
    "honest": [
        ("trusts averaged scans alone", {"B"}),
        ("believes the lag", {"A", "B", "E"}),
        ("believes the prior", {"B", "C", "E"}),
        ("believes shuffled voxels", {"B", "D", "E"}),
        ("believes everything", set("ABCDEF")),
    ],
    "p_value": [
        ("forgets the +1", lambda observed, shuffled: np.mean(np.asarray(shuffled) >= observed)),
        ("counts ties as lower", lambda observed, shuffled: (1 + np.sum(shuffled > observed)) / (1 + len(shuffled))),
        ("counts the wrong side", lambda observed, shuffled: (1 + np.sum(shuffled <= observed)) / (1 + len(shuffled))),
        ("adds 1 only above", lambda observed, shuffled: (1 + np.sum(shuffled >= observed)) / len(shuffled)),
    ],
    "derangement": [
        ("a plain permutation", lambda n, rng: rng.permutation(n)),
        ("always a shift by one", lambda n, rng: np.roll(np.arange(n), 1)),
        ("draws with replacement", lambda n, rng: (np.arange(n) + rng.integers(1, n, size=n)) % n),
        ("a generator of its own", lambda n, rng: derangement(n, np.random.default_rng())),
    ],
}
