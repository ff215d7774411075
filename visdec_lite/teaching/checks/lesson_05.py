"""Checks of lesson 05: forward noise, signal against noise, the way back, guidance."""

from __future__ import annotations

from typing import Any

import torch

from visdec_lite.latent_diffusion import LatentDiffusionConfig
from visdec_lite.teaching.verdicts import Wrong, call, close, expect, shape_of


def add_noise(attempt: Any) -> str:
    """`attempt(x_0, epsilon, abar)` -> x_t."""
    x_0, epsilon = torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), 4.0)
    given = "x_0 = 2 and epsilon = 4 everywhere, abar = 0.25"
    found = call(attempt, x_0, epsilon, torch.tensor(0.25), given=given)
    expect(
        getattr(found, "shape", None) == x_0.shape,
        f"x_t has the shape of x_0, here (1, 1, 2, 2); yours has {shape_of(found)}.",
    )
    value = float(found[0, 0, 0, 0])
    says = f"For {given} you give {value:.3f}: "
    expect(
        not close(value, 3.5),
        says + "no square roots. Variances are to add up to abar + (1 - abar) = 1, so the factors are their roots.",
    )
    expect(not close(value, 3.0), says + "the noise has 1 - sqrt(abar) = 0.5; it should have sqrt(1 - abar) = 0.866.")
    expect(
        not close(value, 3.732, 1e-3),
        says + "abar and 1 - abar are swapped. abar is what is left of the picture: near 1 at the start, 0 at the end.",
    )
    expect(not close(value, 3.464 + 2, 1e-3), says + "x_0 came through whole; it fades by sqrt(abar) = 0.5.")
    expect(close(value, 1 + 3.4641, 1e-3), says + "sqrt(0.25) * 2 + sqrt(0.75) * 4 is 4.464.")

    generator = torch.Generator().manual_seed(0)
    x_0, epsilon = (torch.randn(3, 2, 4, 4, generator=generator) for _ in range(2))
    abar = torch.tensor([1.0, 0.5, 0.0]).view(-1, 1, 1, 1)
    found = call(attempt, x_0, epsilon, abar, given="three latents with an abar each, shape (3, 1, 1, 1)")
    expect(close(found[0], x_0[0]), "With abar = 1 nothing has happened yet: x_t should be x_0.")
    expect(close(found[2], epsilon[2]), "With abar = 0 nothing is left of the picture: x_t should be epsilon.")
    expect(
        close(found, abar.sqrt() * x_0 + (1 - abar).sqrt() * epsilon), "With an abar a row you are off at abar = 0.5."
    )
    return "Signal fades by sqrt(abar), noise grows by sqrt(1 - abar), and the variances add up to 1."


def even_timestep(attempt: Any) -> str:
    """The first timestep at which noise has as much power as signal."""
    config = LatentDiffusionConfig()
    betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_timesteps) ** 2
    abar = torch.cumprod(1 - betas, 0)
    right, quarter = (int((abar < share).nonzero()[0]) for share in (0.5, 0.25))
    try:
        found = float(attempt)
    except (TypeError, ValueError):
        raise Wrong(f"Give one timestep, a number from 0 to 999; this is {attempt!r}.") from None
    expect(
        abs(found - 500) > 1,
        f"500 is half of the way and not half of the power: there abar is {abar[500]:.2f}, eight times less signal "
        "than noise. Look for abar = 0.5.",
    )
    expect(
        abs(found - quarter) > 1,
        f"At {quarter} sqrt(abar) is 0.5, so abar is 0.25. Power goes with the square: look for abar = 0.5.",
    )
    expect(
        0 <= found < config.num_timesteps,
        f"{found:g} is no timestep; they run from 0 to {config.num_timesteps - 1}.",
    )
    expect(
        abs(found - right) <= 1,
        f"At t = {found:g} abar is {abar[int(found)]:.2f}, so signal to noise is "
        f"{abar[int(found)] / (1 - abar[int(found)]):.2f}. You want 1.",
    )
    return f"t = {right}: a quarter of the way, and noise has caught up. Three quarters are spent where it leads."


def x0_from_epsilon(attempt: Any) -> str:
    """`attempt(x_t, epsilon, abar)` -> x_0."""
    x_t, epsilon = torch.full((1, 1, 2, 2), 5.0), torch.full((1, 1, 2, 2), 1.0)
    given = "x_t = 5 and epsilon = 1 everywhere, abar = 0.36"
    found = call(attempt, x_t, epsilon, torch.tensor(0.36), given=given)
    expect(
        getattr(found, "shape", None) == x_t.shape,
        f"x_0 has the shape of x_t, here (1, 1, 2, 2); yours has {shape_of(found)}.",
    )
    value = float(found[0, 0, 0, 0])
    says = f"For {given} you give {value:.3f}: "
    expect(
        not close(value, 4.2), says + "the noise is off, and the picture is still faded. Divide by sqrt(abar) = 0.6."
    )
    expect(not close(value, 4.0), says + "you take epsilon off whole; only sqrt(1 - abar) = 0.8 of it was added.")
    expect(
        not close(value, 4 / 0.6, 1e-3), says + "you take epsilon off whole; 0.8 of it was added. The / 0.6 is right."
    )
    expect(
        not close(value, 4.2 / 0.36, 1e-3), says + "you divide by abar = 0.36; it was its root, 0.6, that x_0 faded by."
    )
    expect(not close(value, 5.8 / 0.6, 1e-3), says + "you add the noise once more. Solve for x_0: it changes sides.")
    expect(close(value, 7.0, 1e-3), says + "(5 - 0.8 * 1) / 0.6 is 7.")

    generator = torch.Generator().manual_seed(0)
    x_0, epsilon = (torch.randn(3, 2, 4, 4, generator=generator) for _ in range(2))
    abar = torch.tensor([0.99, 0.5, 0.01]).view(-1, 1, 1, 1)
    noisy = abar.sqrt() * x_0 + (1 - abar).sqrt() * epsilon
    found = call(attempt, noisy, epsilon, abar, given="three noisy latents with an abar each, shape (3, 1, 1, 1)")
    expect(close(found, x_0, 1e-3), "Noised and guessed back with the true epsilon, 3 latents should be themselves.")
    return "With the true epsilon you get the picture back. The network's epsilon is a guess, so this is a guess too."


def guidance(attempt: Any) -> str:
    """`attempt(eps_without, eps_with, w)` -> epsilon."""
    without, told = torch.full((2, 2), 1.0), torch.full((2, 2), 2.0)
    given = "1 without, 2 with the condition, w = 3"
    found = call(attempt, without, told, 3.0, given=given)
    expect(
        getattr(found, "shape", None) == without.shape,
        f"Guidance keeps the shape, here (2, 2); yours has {shape_of(found)}.",
    )
    value = float(found[0, 0])
    says = f"Given {given} you say {value:g}: "
    expect(not close(value, 3.0), says + "the way from without to with, three times; but it starts at 1, not at 0.")
    expect(
        not close(value, 5.0),
        says + "that is (1 + w) with - w without, the convention of Ho and Salimans. Here w = 1 is no guidance: 4.",
    )
    expect(not close(value, -1.0), says + "you go away from the condition. From without, 1, towards with, 2: 4.")
    expect(close(value, 4.0), says + "1 + 3 * (2 - 1) is 4.")
    expect(close(call(attempt, without, told, 0.0), without), "w = 0 should ignore the condition: 1 here.")
    expect(close(call(attempt, without, told, 1.0), told), "w = 1 should be the plain conditioned prediction: 2 here.")
    return (
        "w = 0 ignores the condition, 1 obeys it, and more goes on in the same direction, past what was ever predicted."
    )
