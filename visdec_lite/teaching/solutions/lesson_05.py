"""One way to write the exercises of lesson 05, and the mistakes that are made most."""

from __future__ import annotations

from typing import Any

from torch import Tensor

even_timestep = 255  # the first t with abar below one half: int((abar < 0.5).nonzero()[0])


def add_noise(x_0: Tensor, epsilon: Tensor, abar: Tensor) -> Tensor:
    """x_t = sqrt(abar) x_0 + sqrt(1 - abar) epsilon."""
    return abar.sqrt() * x_0 + (1 - abar).sqrt() * epsilon


def x0_from_epsilon(x_t: Tensor, epsilon: Tensor, abar: Tensor) -> Tensor:
    """`add_noise` solved for x_0."""
    return (x_t - (1 - abar).sqrt() * epsilon) / abar.sqrt()


def guidance(eps_without: Tensor, eps_with: Tensor, w: float) -> Tensor:
    """epsilon = eps_without + w (eps_with - eps_without)."""
    return eps_without + w * (eps_with - eps_without)


MISTAKES: dict[str, list[tuple[str, Any]]] = {
    "add_noise": [
        ("forgets the square roots", lambda x_0, e, abar: abar * x_0 + (1 - abar) * e),
        ("1 - sqrt(abar) for the noise", lambda x_0, e, abar: abar.sqrt() * x_0 + (1 - abar.sqrt()) * e),
        ("swaps signal and noise", lambda x_0, e, abar: (1 - abar).sqrt() * x_0 + abar.sqrt() * e),
        ("adds noise to an unfaded picture", lambda x_0, e, abar: x_0 + (1 - abar).sqrt() * e),
    ],
    "even_timestep": [
        ("half of the way", 500),
        ("amplitude for power: sqrt(abar) = 0.5", 390),
        ("reads it off the wrong end", 745),
    ],
    "x0_from_epsilon": [
        ("forgets to undo the fading", lambda x_t, e, abar: x_t - (1 - abar).sqrt() * e),
        ("takes off all of epsilon", lambda x_t, e, abar: (x_t - e) / abar.sqrt()),
        ("only subtracts", lambda x_t, e, abar: x_t - e),
        ("divides by abar", lambda x_t, e, abar: (x_t - (1 - abar).sqrt() * e) / abar),
        ("adds the noise again", lambda x_t, e, abar: (x_t + (1 - abar).sqrt() * e) / abar.sqrt()),
    ],
    "guidance": [
        ("starts from nothing", lambda without, told, w: w * (told - without)),
        ("the other convention", lambda without, told, w: (1 + w) * told - w * without),
        ("swaps with and without", lambda without, told, w: told + w * (without - told)),
    ],
}
