"""A denoising walk that can be watched and stopped.

At every step the UNet says which noise it believes is in x_t. Taking that noise away at once gives its estimate of the
end of the walk, blurred at first and sharp at last:

    x_0 = (x_t - sqrt(1 - abar_t) epsilon) / sqrt(abar_t)

with epsilon after guidance. The walk itself is `latent_diffusion.denoise`, so the last picture is the one that the
pipeline paints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from visdec_lite.latent_diffusion import denoise

PredictNoise = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
Condition = tuple[Tensor, Tensor | None]


class Step(NamedTuple):
    """What is known after a step."""

    number: int  # from 0
    total: int
    timestep: int  # t of x_t
    noisy: Tensor  # x_t, before the step, (b, c, h, w)
    estimate: Tensor  # x_0 as believed at x_t, same shape


def estimate_of_x0(noisy: Tensor, epsilon: Tensor, abar: Tensor) -> Tensor:
    """x_0 = (x_t - sqrt(1 - abar_t) epsilon) / sqrt(abar_t)."""
    return (noisy - (1 - abar).sqrt() * epsilon) / abar.sqrt()


def watched_walk(
    predict_noise: PredictNoise,
    scheduler: SchedulerMixin,
    noise: Tensor,
    condition: Condition,
    null_condition: Condition,
    steps: int,
    guidance: float,
    on_step: Callable[[Step], None],
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> Tensor:
    """`denoise`, telling after every step what it believes the end to be.

    Args:
        scheduler: taken as a pattern; the walk has one of its own, so that two walks do not disturb each other.
        on_step: an exception raised here ends the walk.

    Returns:
        Latents, shape as `noise`.
    """
    scheduler = type(scheduler).from_config(scheduler.config)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def watching(noisy: Tensor, timestep: Tensor, context: Tensor, time_condition: Tensor | None) -> Tensor:
        epsilon = predict_noise(noisy, timestep, context, time_condition)
        told, noisy = epsilon, noisy[: len(noise)]
        if guidance != 1.0:
            with_condition, without = epsilon.chunk(2)
            told = without + guidance * (with_condition - without)
        seen[:] = [(timestep, noisy, told)]
        return epsilon

    def after(number: int, latents: Tensor) -> None:
        ((timestep, noisy, told),) = seen
        abar = scheduler.alphas_cumprod[int(timestep)].to(noisy)
        total = len(scheduler.timesteps)  # PLMS takes one more than it is asked for
        on_step(Step(number, total, int(timestep), noisy, estimate_of_x0(noisy, told, abar)))

    return denoise(watching, scheduler, noise, condition, null_condition, steps, guidance, generator, after)
