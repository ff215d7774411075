"""Checks of lesson 07: identify in pairs, tell who is honest, count shuffles, shuffle so that nobody keeps the own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from visdec_lite.teaching.verdicts import Wrong, call, close, expect, shape_of


def pairwise(attempt: Any) -> str:
    """`attempt(closeness)` of (n, n), [i, j] reconstruction i against picture j -> (n,)."""
    closeness = np.array([[0.5, 0.9, 0.1], [0.2, 0.8, 0.3], [0.4, 0.4, 0.0]])
    found = call(attempt, closeness.copy(), given="a 3 x 3 matrix")
    expect(
        getattr(found, "shape", ()) == (3,),
        f"3 reconstructions should give 3 shares, yours gives {shape_of(found)}. The mean over stimuli comes later: "
        "the bootstrap wants one number a stimulus.",
    )
    wanted = np.array([0.5, 1.0, 0.0])
    down = np.array([1.0, 0.5, 0.0])
    expect(
        not close(found, down),
        "Reconstruction 0 scores 0.5 with its own picture, 0.9 and 0.1 with the others: it beats 1 of 2; you say 1. "
        "Do you compare down the column? Row i holds what reconstruction i scores with every picture.",
    )
    expect(
        not close(found, wanted * 2 / 3),
        "You say 0.667 for reconstruction 1, which beats both others: you divide by 3. Its own picture is no rival; "
        "there are 2.",
    )
    expect(
        not close(found, [0.0, 1.0, 0.0]),
        "Reconstruction 0 beats 1 of 2 others, and you say 0. You count only those that beat everybody: that is 3-way "
        "top-1, not pairwise.",
    )
    expect(
        not close(found, [1.0, 1.5, 0.5]),
        "You say 1.5 for reconstruction 1: a share above 1. Its own picture ties with itself and is counted.",
    )
    expect(close(found, wanted), f"The three shares should be 0.5, 1 and 0; yours are {np.round(found, 3).tolist()}.")
    tied = np.asarray(call(attempt, np.zeros((4, 4)), given="a 4 x 4 matrix of zeros"), dtype=float)
    expect(
        close(tied, np.full(4, 0.5)),
        f"Where all 4 pictures are equally close, nothing is known, and the share should be 0.5; yours is "
        f"{tied.flat[0]:.2f}. A tie counts half, and the own picture is no rival.",
    )
    return "Rows, 2 rivals out of 3, ties a half: a decoder that knows nothing gets 0.5."


def honest(attempt: Any) -> str:
    """A set of letters A to F."""
    if not isinstance(attempt, Iterable):
        raise Wrong(f"Give a set of letters out of 6, such as {{'A', 'C'}}; this is {attempt!r}.")
    found = {str(letter).strip().upper() for letter in attempt}
    unknown = found - set("ABCDEF")
    expect(not unknown, f"{sorted(unknown)} is none of the 6 cases A to F.")
    expect(
        len(found) < 6,
        "You believe all 6. Look at the chance marks: whose interval holds its chance level in every panel?",
    )
    expect("A" not in found, "A: top-1 lies among the scores of 999 wrong pairings, and pairwise at about 0.5.")
    expect(
        not found & {"C", "F"},
        f"{' and '.join(sorted(found & {'C', 'F'}))}: pairwise identification is about 0.5, its chance level, and the "
        "interval holds it.",
    )
    expect(
        "D" not in found,
        "D: 50-way top-1 is at 2 %, or as near as so few stimuli can tell. That the pictures are crisp is no score.",
    )
    missing = {"B", "E"} - found
    expect(
        not missing,
        f"{' and '.join(sorted(missing))} is missing: its 50-way top-1 is many times its chance of 2 %, and the "
        "interval clear of it. A lower score than another's is no fraud; single trials are noisier.",
    )
    return "B and E: both clear of chance in naming and in pairs. E is lower since it decodes single trials."


def p_value(attempt: Any) -> str:
    """`attempt(observed, shuffled)` -> (1 + number as high) / (1 + number of shuffles)."""
    below = np.linspace(0.0, 0.1, 99)

    def p(observed: float, shuffled: np.ndarray, given: str) -> float:
        found = call(attempt, observed, shuffled, given=given)
        expect(getattr(found, "ndim", 0) == 0, f"A p-value is 1 number; yours has {shape_of(found)}.")
        return float(found)

    found = p(0.44, below, "0.44 and 99 shuffles")
    expect(
        found != 0,
        "p = 0 says that this can never happen by chance, and 99 shuffles cannot show that. Count the true order as "
        "one more: (0 + 1) / (99 + 1) = 0.01.",
    )
    expect(
        not close(found, 1.0),
        "0.44 is above all 99 shuffles, and you say p = 1. Count the shuffles at least as high, not the lower.",
    )
    expect(
        not close(found, 1 / 99, 1e-6),
        "You say 1/99: the true order is counted above and not below the line. It is 1 of 100 orders: 0.01.",
    )
    expect(close(found, 0.01), f"With 0.44 above all 99 shuffles p should be 1/100; yours is {found:.4g}.")
    found = p(0.5, np.array([0.5, 0.5, 0.2, 0.9]), "0.5 and shuffles 0.5, 0.5, 0.2, 0.9")
    expect(
        not close(found, 0.4),
        "Shuffles 0.5, 0.5, 0.2, 0.9 and 0.5 observed: you say 2/5. The two ties are as high as what you saw, so they "
        "count: 4/5. Scores out of few stimuli tie often.",
    )
    expect(close(found, 0.8), f"Shuffles 0.5, 0.5, 0.2, 0.9 and 0.5 observed should give 4/5; yours is {found:.4g}.")
    return "1 of 100, and ties count. The smallest p you can report is 1 / (1 + shuffles)."


def derangement(attempt: Any) -> str:
    """`attempt(n, rng)` -> a random permutation of 0..n-1 without fixed points."""
    orders = []
    for seed in range(100):
        order = np.asarray(call(attempt, 6, np.random.default_rng(seed), given="n = 6 and a generator"))
        expect(order.shape == (6,), f"n = 6 should give 6 places, yours gives {shape_of(order)}.")
        orders.append(order)
    orders = np.stack(orders)
    strange = int((np.sort(orders, axis=1) != np.arange(6)).any(axis=1).sum())
    expect(
        strange == 0,
        f"{strange} of 100 orders miss a number and hold another twice. Every scan should be given away exactly once, "
        "or the control has other scans than the experiment.",
    )
    fixed = (orders == np.arange(6)).sum(axis=1)
    expect(
        not fixed.any(),
        f"In {int((fixed > 0).sum())} of 100 orders somebody keeps the own scan, {fixed.mean():.2f} of 6 on average. "
        "A plain permutation keeps one on average, whatever n.",
    )
    distinct = len(np.unique(orders, axis=0))
    expect(
        distinct > 20,
        f"100 generators gave only {distinct} different order(s). Neighbours in time share drift, so a fixed shift is "
        "a special case; draw the order from rng.",
    )
    again = np.asarray(call(attempt, 6, np.random.default_rng(7)))
    expect(
        np.array_equal(again, orders[7]),
        "Seed 7 gave two different orders. Draw from the rng that you are given, or nobody can repeat your control.",
    )
    return "Nobody keeps the own scan, everybody's is used once, and the seed tells the order."
