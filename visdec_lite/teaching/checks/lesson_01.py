"""Exercises of lesson 01: known answers against what a student wrote."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from visdec_lite.teaching.verdicts import Wrong, call, close, expect, shape_of


def convolve(attempt: Any) -> str:
    """`attempt(shown, h)` -> the summed copies of h, as long as `shown`."""
    flash, h = np.zeros(8), np.array([0.0, 2.0, 1.0])
    flash[3] = 1.0
    found = _array(call(attempt, flash.copy(), h.copy(), given="8 moments of which one is 1, and a response of 3"))
    expect(
        found.shape == (8,),
        f"Give as many samples as `shown` has, 8; yours has {shape_of(found)}. What comes after the end of the run is "
        "cut off.",
    )
    expect(
        not close(found, np.convolve(flash, h, mode="same")),
        f"A flash at sample 3 is answered at sample {int(np.argmax(found))}, before h says so: h is 0, 2, 1, so the "
        "peak belongs at 4. Was h centred on the flash (mode='same')? Blood comes after.",
    )
    expect(
        not close(found, np.convolve(flash, h[::-1])[:8]),
        "A flash at sample 3 gives 1, 2, 0 from there, which is h = 0, 2, 1 backwards. A copy runs forwards in time.",
    )
    expect(
        close(found, [0, 0, 0, 0, 2, 1, 0, 0]),
        f"One flash at sample 3 should give one copy of h = 0, 2, 1 that begins there: 0 0 0 0 2 1 0 0. Yours is "
        f"{_row(found)}.",
    )
    found = call(attempt, np.array([1.0, 1.0, 0.0, 0.5]), h.copy(), given="4 moments, two of them in a row")
    expect(
        close(found, [0, 2, 3, 1]),
        f"Two flashes in a row add up: 0 2 3 1. Yours is {found}; is a later copy overwriting an earlier one?",
    )
    return (
        "One copy of h for each moment, each beginning at its moment, all added: peaks pile up to 3 where two overlap."
    )


def betas(attempt: Any) -> str:
    """`attempt(design, series)` -> weights (columns, voxels)."""
    design = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    weights = np.array([[2.0, -1.0], [3.0, 0.5], [10.0, 20.0]])
    series = design @ weights
    given = "a design of shape (5, 3) and a series of shape (5, 2)"
    found = call(attempt, design.copy(), series.copy(), given=given)
    shape = getattr(found, "shape", None)
    expect(
        shape != (5, 2),
        "You give 5 rows, one a volume: that is the fitted series X B. The betas are B, a row for each of 3 columns.",
    )
    expect(
        shape != (2, 3),
        "You give shape (2, 3): the series is explained by the design, not the design by the series. Swap them.",
    )
    expect(shape == (3, 2), f"3 columns and 2 voxels make betas of shape (3, 2); yours has {shape_of(found)}.")
    expect(
        not close(found, design.T @ series),
        f"You get {found[0, 0]:.3g} for the first weight, which is X'S alone; it should be 2. The inverse of X'X "
        "is what takes overlapping columns apart.",
    )
    alone = (design.T @ series) / (design**2).sum(axis=0)[:, None]
    expect(
        not close(found, alone),
        f"You get {found[0, 0]:.3g} and not 2 for the first weight: each column was fitted alone, so it takes what "
        "belongs to its neighbours. All columns at once: the full matrix X'X.",
    )
    expect(
        close(found, weights),
        f"The series was made with weights 2, 3, 10 for the first voxel; you get {_row(found[:, 0])}.",
    )
    rng = np.random.default_rng(0)
    design, series = rng.standard_normal((30, 4)), rng.standard_normal((30, 5))
    found = call(attempt, design.copy(), series.copy(), given="a noisy series of shape (30, 5)")
    off = np.linalg.lstsq(design, series, rcond=None)[0] - _array(found)
    expect(np.abs(off).max() < 1e-6, f"With noise you are off from least squares by up to {np.abs(off).max():.3g}.")
    return (
        "Weights 2, 3 and 10 are found again exactly, although the columns overlap, and with noise it is least squares."
    )


def averaging(attempt: Any) -> str:
    """By which factor 35 repeats shrink the standard deviation of independent noise."""
    try:
        found = float(attempt)
    except (TypeError, ValueError):
        raise Wrong(f"Give one number for 35 repeats; this is {attempt!r}.") from None
    expect(
        not close(found, 35.0, 1e-3),
        "35 is by how much the *variance* shrinks. The standard deviation is its root.",
    )
    expect(
        not close(found, 1 / math.sqrt(35), 1e-2),
        f"{found:.3g} is the share that is left. By which factor did it shrink? 1 divided by that.",
    )
    expect(
        abs(found - math.sqrt(35)) < 0.06,
        f"You say {found:.4g}. Variances of 35 independent trials add, the sum is divided by 35, so the variance of "
        "the mean is sigma^2 / 35. And its root?",
    )
    return "sqrt(35) = 5.9: a voxel with as much as 5.9 times more noise than signal comes out even."


def zscores(attempt: Any) -> str:
    """`attempt(train, test)` -> both, with the statistics of train."""
    rng = np.random.default_rng(0)
    train = 100 + np.array([1.0, 5.0, 20.0]) * rng.standard_normal((40, 3))
    test = 103 + np.array([1.0, 5.0, 20.0]) * rng.standard_normal((20, 3))
    pair = call(attempt, train.copy(), test.copy(), given="train (40, 3) and test (20, 3)")
    expect(
        isinstance(pair, tuple | list) and len(pair) == 2,
        f"Give back 2 arrays: return train, test. This is {type(pair).__name__}.",
    )
    found, found_test = (_array(x) for x in pair)
    expect(
        found.shape == (40, 3) and found_test.shape == (20, 3),
        f"The shapes should stay (40, 3) and (20, 3); yours are {found.shape} and {found_test.shape}.",
    )
    rows = np.abs(found.mean(axis=1)).max() < 1e-6
    expect(
        not rows,
        "Every trial has mean 0 over its 3 voxels. We want every voxel to have mean 0 over its trials: axis=0.",
    )
    mean, std = train.mean(axis=0), train.std(axis=0)
    both = np.concatenate([train, test])
    expect(
        not close(found, (train - both.mean(axis=0)) / both.std(axis=0), 1e-3),
        f"Your training z-scores have mean {found.mean():.2f}: the statistics are those of all 60 trials. Test has "
        "leaked into what is trained on. Take the 40 of train.",
    )
    expect(
        not close(found, train - mean, 1e-3),
        f"The mean is gone, but the spreads are still {_row(found.std(axis=0))}; divide by the "
        "standard deviation of train.",
    )
    expect(
        not close(found, (train - mean) / std**2, 1e-3),
        f"The spreads are {_row(found.std(axis=0))} and not 1: divided by the variance? Take its root.",
    )
    unbiased = train.std(axis=0, ddof=1)
    expect(
        close(found, (train - mean) / std, 1e-3) or close(found, (train - mean) / unbiased, 1e-3),
        f"Training z-scores should have mean 0 and spread 1 in each voxel; yours have mean {found.mean():.2f} and "
        f"spread {found.std(axis=0).mean():.2f}.",
    )
    expect(
        not close(found_test.mean(axis=0), np.zeros(3), 1e-6),
        "Your test z-scores have mean 0: test was given statistics of its own. Then a difference between train and "
        "test, here 3 units, is wiped out, and one test trial alone could not be z-scored at all.",
    )
    expect(
        close(found_test, (test - mean) / std, 1e-2) or close(found_test, (test - mean) / unbiased, 1e-2),
        f"Test should get mean and spread of train: its first voxel then averages "
        f"{((test - mean) / std)[:, 0].mean():.2f}; yours averages {found_test[:, 0].mean():.2f}.",
    )
    return "Mean 0 and spread 1 in train, and test keeps its difference from it: nothing of test reached train."


def _row(numbers: np.ndarray) -> str:
    return ", ".join(f"{x:.3g}" for x in numbers)


def _array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise Wrong(f"Expected 1 array of numbers, this is {type(value).__name__}.") from None
