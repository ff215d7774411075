"""One way to write the exercises of lesson 08, and the mistakes that are made most."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np

leaking = {"B", "C", "E", "F"}


def upright(rows: np.ndarray) -> np.ndarray:
    """(n, 784) stored column after column -> (n, 28, 28)."""
    return rows.reshape(-1, 28, 28).transpose(0, 2, 1)


def luck(right: int, n: int, chance: float) -> float:
    """Probability of at least `right` hits in n guesses."""
    return sum(comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(right, n + 1))


MISTAKES: dict[str, list[tuple[str, Any]]] = {
    "upright": [
        ("folds row by row", lambda rows: rows.reshape(-1, 28, 28)),
        ("turns by a quarter", lambda rows: np.rot90(rows.reshape(-1, 28, 28), axes=(1, 2))),
        ("transposes everything", lambda rows: rows.reshape(-1, 28, 28).T),
        ("mirrors", lambda rows: rows.reshape(-1, 28, 28)[:, :, ::-1]),
    ],
    "luck": [
        ("exactly that many", lambda right, n, chance: comb(n, right) * chance**right * (1 - chance) ** (n - right)),
        ("more than that many", lambda right, n, chance: luck(right + 1, n, chance)),
        ("takes chance for a half", lambda right, n, chance: luck(right, n, 0.5)),
        ("forgets the number of ways", lambda right, n, chance: chance**right),
        ("at most that many", lambda right, n, chance: 1 - luck(right + 1, n, chance)),
    ],
    "leaking": [
        ("suspects the z-score of train", {"A", "B", "C", "E", "F"}),
        ("suspects the averaging", {"B", "C", "D", "E", "F"}),
        ("thinks choosing voxels is harmless", {"C", "E", "F"}),
        ("splits trials, not pictures", {"B", "E", "F"}),
        ("picks the best step", {"B", "C", "F"}),
        ("forgets the prior", {"B", "C", "E"}),
    ],
}
