"""Exercises of lesson 08: known answers against what a student wrote."""

from __future__ import annotations

from collections.abc import Iterable
from math import comb
from typing import Any

import numpy as np

from visdec_lite.teaching.verdicts import Wrong, call, close, expect, shape_of

ANALYSES = frozenset("ABCDEF")


def upright(attempt: Any) -> str:
    """`attempt(rows)` -> pictures (n, 28, 28) from rows stored column after column."""
    letter = np.zeros((28, 28), dtype=np.uint8)  # an L: a stroke on the left, a foot at the bottom
    letter[4:24, 6:9], letter[21:24, 6:18] = 255, 255
    pictures = np.stack([letter, letter[::-1], letter])
    rows = pictures.transpose(0, 2, 1).reshape(3, 784)
    found = call(attempt, rows.copy(), given="3 rows of 784 numbers")
    shape = getattr(found, "shape", None)
    expect(
        shape != (28, 28, 3),
        "You give (28, 28, 3): the transpose took the trials along. Swap axes 1 and 2, leave axis 0: (3, 28, 28).",
    )
    expect(shape == (3, 28, 28), f"3 rows make pictures of shape (3, 28, 28); yours has {shape_of(found)}.")
    expect(
        not close(found, pictures.transpose(0, 2, 1)),
        "I stored an L and see it lying on its side: 28 x 28 was filled row by row, and the file goes by columns. "
        "Swap height and width.",
    )
    expect(
        not any(close(found, np.rot90(pictures.transpose(0, 2, 1), turns, axes=(1, 2))) for turns in (1, 2, 3)),
        "I stored an L and see it mirrored or turned: a turn by 90 degrees is not a swap of rows and columns. Which "
        "swap makes [i, j] out of [j, i]?",
    )
    expect(
        not any(close(found, np.flip(pictures.transpose(0, 2, 1), axis)) for axis in (1, 2)),
        "I stored an L, and after folding you have mirrored it along 1 axis. Mirrors do not swap rows and columns.",
    )
    expect(
        close(found, pictures),
        f"Of 3 stored letters {sum(close(a, p) for a, p in zip(found, pictures, strict=True))} come out right. Is each "
        "row of the table folded by itself, 28 x 28, with height and width swapped?",
    )
    return "Three letters L, and 28 x 28 pixels of each are where they belong."


def luck(attempt: Any) -> str:
    """`attempt(right, n, chance)` -> P(at least `right` of n by guessing)."""

    def tail(right: int, n: int, chance: float) -> float:
        return sum(comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(right, n + 1))

    found = call(attempt, 8, 10, 0.5, given="right=8, n=10, chance=0.5")
    expect(np.ndim(found) == 0, f"Give 1 probability; yours has {shape_of(found)}.")
    expect(
        not close(found, comb(10, 8) / 2**10),
        "0.044 is the probability of exactly 8 of 10. Somebody with 9 or 10 did at least as well: add theirs.",
    )
    expect(
        not close(found, tail(9, 10, 0.5)),
        "0.011 is the probability of more than 8 of 10. At least 8 includes 8: with range, start at `right`.",
    )
    expect(
        not close(found, 0.5**8),
        "0.0039 is the probability that 8 given guesses are right. Any 8 of the 10 will do: there are 45 such choices.",
    )
    expect(
        not close(found, 1 - tail(9, 10, 0.5)),
        "0.99 is the probability of at most 8 of 10. We ask who does as well or better.",
    )
    expect(
        close(found, tail(8, 10, 0.5)),
        f"(45 + 10 + 1) / 1024 = 0.0547 for at least 8 of 10 at chance 0.5; yours is {float(found):.4g}.",
    )
    found = call(attempt, 1, 2, 0.1, given="right=1, n=2, chance=0.1")
    expect(
        close(found, 0.19),
        f"With chance 0.1, at least 1 of 2 has probability 1 - 0.9^2 = 0.19; yours is {float(found):.4g}. A miss has "
        "probability 1 - chance.",
    )
    expect(close(call(attempt, 0, 5, 0.3), 1.0), "At least 0 of 5 is certain: the probability should be 1.")
    return "0.0547: who guesses gets 8 or more of 10 in one case of eighteen. Not below 5 %."


def leaking(attempt: Any) -> str:
    """A set of letters out of A to F."""
    if not isinstance(attempt, Iterable):
        raise Wrong(f"Give a set of letters out of 6, such as {{'A', 'D'}}; this is {attempt!r}.")
    found = {str(letter).strip().upper() for letter in attempt}
    unknown = found - ANALYSES
    expect(not unknown, f"{sorted(unknown)} is none of the 6 letters A to F.")
    expect(
        "A" not in found,
        "A is how it should be: the training trials alone say what mean 0 and spread 1 are, and test is only measured "
        "by them.",
    )
    expect(
        "D" not in found,
        "D is clean: both repeats of a picture, all 2 of them, are on one side before anything is averaged.",
    )
    expect(
        "B" in found,
        "One is missing: in B test labels helped to choose the 500 voxels. In pure noise such voxels decode well above "
        "chance (lesson 01).",
    )
    expect(
        "C" in found,
        "One is missing: in C about half of the test trials have the other of their 2 repeats in train. The picture is "
        "known already.",
    )
    expect(
        "E" in found,
        "One is missing: in E the best of 10 looks at the test set is reported. The largest of 10 noisy numbers is too "
        "large. Choose the step on val.",
    )
    expect(
        "F" in found,
        "One is missing: in F the prior can paint 5 test pictures by heart. A prior's training set is train, too.",
    )
    return (
        "B, C, E and F: a choice, a shared picture, a look at the test set, a prior that knows the answers. Four doors."
    )
