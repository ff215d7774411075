"""One way to do the exercises of lesson 00, and the mistakes that are made most."""

from __future__ import annotations

from typing import Any

zscored = (0.0, 1.0)


def chance_level(n_way: int, top_k: int) -> float:
    """Share of right answers when guessing: k different names out of n, one of which is right."""
    return top_k / n_way


MISTAKES: dict[str, list[tuple[str, Any]]] = {
    "chance_level": [
        ("takes right and wrong for equally likely", lambda n, k: 0.5),
        ("answers in per cent", lambda n, k: 100 * k / n),
        ("forgets that k names may be given", lambda n, k: 1 / n),
        ("draws the k names with replacement", lambda n, k: 1 - (1 - 1 / n) ** k),
        ("turns the fraction round", lambda n, k: n / k),
    ],
    "zscored": [
        ("swaps the two", (1.0, 0.0)),
        ("thinks that everything vanishes", (0.0, 0.0)),
        ("thinks of a mean of 100, as in per cent signal", (100.0, 1.0)),
    ],
}
