"""One way to write the exercises of lesson 01, and the mistakes that are made most."""

from __future__ import annotations

from typing import Any

import numpy as np

averaging = 35**0.5


def convolve(shown: np.ndarray, h: np.ndarray) -> np.ndarray:
    """x(t) = sum over u <= t of shown(u) h(t - u), as long as `shown`."""
    answer = np.zeros(len(shown) + len(h))
    for u, height in enumerate(shown):
        answer[u : u + len(h)] += height * h
    return answer[: len(shown)]


def betas(design: np.ndarray, series: np.ndarray) -> np.ndarray:
    """(X'X)^-1 X'S: (volumes, columns), (volumes, voxels) -> (columns, voxels)."""
    return np.linalg.solve(design.T @ design, design.T @ series)


def zscores(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of train, applied to both."""
    mean, std = train.mean(axis=0), train.std(axis=0)
    return (train - mean) / std, (test - mean) / std


def _own(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(axis=0)) / values.std(axis=0)


def _all(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = _own(np.concatenate([train, test]))
    return both[: len(train)], both[len(train) :]


MISTAKES: dict[str, list[tuple[str, Any]]] = {
    "convolve": [
        ("centres the response on the picture", lambda shown, h: np.convolve(shown, h, mode="same")),
        ("does not cut the end", lambda shown, h: np.convolve(shown, h)),
        ("runs the response backwards", lambda shown, h: np.convolve(shown, h[::-1])[: len(shown)]),
        ("multiplies instead", lambda shown, h: shown * np.resize(h, len(shown))),
    ],
    "betas": [
        ("forgets the inverse", lambda design, series: design.T @ series),
        ("treats columns one by one", lambda X, S: (X.T @ S) / (X**2).sum(axis=0)[:, None]),
        ("gives the fitted series", lambda X, S: X @ np.linalg.lstsq(X, S, rcond=None)[0]),
        ("swaps design and series", lambda X, S: np.linalg.lstsq(S, X, rcond=None)[0]),
    ],
    "averaging": [("forgets the root", 35), ("gives the share left", 1 / 35**0.5), ("halves", 17.5)],
    "zscores": [
        ("uses statistics of everything", _all),
        ("gives test its own statistics", lambda train, test: (_own(train), _own(test))),
        (
            "z-scores each trial over its voxels",
            lambda train, test: (_own(train.T).T, _own(test.T).T),
        ),
        (
            "divides by the variance",
            lambda train, test: tuple((x - train.mean(axis=0)) / train.var(axis=0) for x in (train, test)),
        ),
        ("forgets the spread", lambda train, test: (train - train.mean(axis=0), test - train.mean(axis=0))),
    ],
}
