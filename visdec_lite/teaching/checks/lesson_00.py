"""Checks of lesson 00: what guessing scores, and what z-scoring leaves."""

from __future__ import annotations

from typing import Any

from visdec_lite.teaching.verdicts import Wrong, call, close, expect


def chance_level(attempt: Any) -> str:
    """`attempt(n_way, top_k)` -> share of right answers when guessing."""

    def chance(n_way: int, top_k: int) -> float:
        found = call(attempt, n_way, top_k, given=f"n_way={n_way}, top_k={top_k}")
        try:
            return float(found)
        except (TypeError, ValueError):
            raise Wrong(f"For n_way={n_way} a single share is expected, such as 0.5; yours is {found!r}.") from None

    single = chance(50, 1)
    expect(
        not close(single, 2.0),
        "2 is in per cent. Give a share between 0 and 1: one of 50 is right, so 1/50 = 0.02.",
    )
    expect(
        not close(single, 0.5),
        "You say 0.5 for 50 names: right or wrong are two outcomes, but not equally likely. 1 name of 50 is right.",
    )
    expect(
        close(single, 0.02),
        f"One name is right among 50, and a guess hits it once in 50 times: 0.02. Yours gives {single:.4g}.",
    )
    five = chance(50, 5)
    expect(
        not close(five, 0.02),
        "With 5 names allowed your chance is still 0.02. Five different names among 50 hold the right one 5 times as "
        "often: 0.1.",
    )
    expect(
        not close(five, 1 - (1 - 1 / 50) ** 5),
        f"For 5 names of 50 you get {five:.4f}: that is five draws that may repeat themselves. The five names are "
        "different ones, so it is 5/50 = 0.1.",
    )
    expect(close(five, 0.1), f"Five different names among 50 hold the right one in 5/50 = 0.1; yours gives {five:.4g}.")
    expect(close(chance(2, 1), 0.5), f"With 2 names it is a coin: 0.5. Yours gives {chance(2, 1):.4g}.")
    return "k/n: 2 % for one name of fifty, 10 % for five. Whoever reports a score owes you this number beside it."


def zscored(attempt: Any) -> str:
    """The pair (mean, standard deviation) of one z-scored voxel over the training scans."""
    try:
        mean, spread = (float(number) for number in attempt)
    except (TypeError, ValueError):
        raise Wrong(f"Two numbers are expected, (mean, spread); this is {attempt!r}.") from None
    expect(
        not (close(mean, 1.0) and close(spread, 0.0)),
        "You say mean 1, spread 0: the other way round. Subtracting the mean leaves 0, dividing by the spread 1.",
    )
    expect(
        close(mean, 0.0),
        f"You say the mean is {mean:g}. The mean is subtracted from every scan, so what is left averages 0.",
    )
    expect(
        close(spread, 1.0),
        f"You say the spread is {spread:g}. Every scan is divided by the spread, so 1 is left: a voxel that "
        "does not vary at all has no z-score.",
    )
    return "Mean 0, spread 1, for every voxel: loud ones do not drown the quiet. The next cell looks it up."
