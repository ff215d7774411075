"""Noise in, noise out: what a diffusion model believes at every step.

In: a `LatentDiffusion` and pictures. Out, forward: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) epsilon of a real picture,
and the model's one-step estimate of x_0 from it; reverse: the walk from pure noise, with x_t and the estimate of x_0 at
every step. The model is told the picture's category, or what a scan says, if a conditioner is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from visdec_lite.conditioning import FMRIConditioner
from visdec_lite.datasets import BrainDataset
from visdec_lite.latent_diffusion import SAMPLERS, LatentDiffusion, make_scheduler
from visdec_lite.plotting import BLUE, ORANGE, SMALL, VERMILLION
from visdec_lite.preprocessing import to_model_range, to_uint8
from visdec_lite.widgets.base import Explorer, Pane, Report, no_report
from visdec_lite.widgets.drawing import WIDTH, page, panel, picture_rows, write
from visdec_lite.widgets.knobs import Knob, State, knob
from visdec_lite.widgets.scans import device_of, fitted
from visdec_lite.widgets.walk import Condition, Step, estimate_of_x0, watched_walk

STRIP = 6  # estimates shown of a walk


@dataclass(frozen=True)
class DiffusionState(State):
    """Knobs of the DiffusionExplorer."""

    picture: int = knob(0, "picture", low=0)
    time: int = knob(500, "time t", low=0, high=999, help="0 is the picture, the other end is noise")
    sampler: str = knob("dpm++", "sampler", options={name: name for name in SAMPLERS}, help="how noise is walked back")
    steps: int = knob(10, "steps", low=1, high=50, help="of the walk back")
    guidance: float = knob(
        2.0, "guidance", low=0.0, high=8.0, step=0.5, help="0 is told nothing, 1 takes it at its word"
    )
    seed: int = knob(0, "seed", low=0, high=99, help="of the noise")


@dataclass(frozen=True)
class DiffusionResult:
    """Arrays of one answer; pictures are uint8 (h, w, 3), latents float32 (c, h', w'); s steps.

    Attributes:
        seen: the picture; first_stage: it through encoder and decoder, with no noise.
        noisy: x_t at `time`, decoded; guess: the one-step estimate from it, decoded.
        x0, x_t, x0_guess: their latents.
        timesteps: of the walk back, (s,), falling.
        walk: x_t before each step, decoded, (s, h, w, 3); estimates: of x_0 at each step, decoded.
        walk_latents, estimate_latents: (s, c, h', w').
        painted: where the walk ends. With fewer than `total` steps done, where it is.
        signal, noise_share: sqrt(abar) and sqrt(1 - abar) at every time.
    """

    seen: np.ndarray
    first_stage: np.ndarray
    noisy: np.ndarray
    guess: np.ndarray
    x0: np.ndarray
    x_t: np.ndarray
    x0_guess: np.ndarray
    timesteps: np.ndarray
    walk: np.ndarray
    estimates: np.ndarray
    walk_latents: np.ndarray
    estimate_latents: np.ndarray
    painted: np.ndarray
    total: int
    time: int
    signal: np.ndarray
    noise_share: np.ndarray
    told: str
    simulated: bool

    @property
    def nearest(self) -> int:
        """The step whose time is nearest to `time`."""
        return int(np.abs(self.timesteps - self.time).argmin())


class DiffusionExplorer(Explorer[DiffusionState, DiffusionResult]):
    """Forward noise and reverse denoising.

    Args:
        diffusion: the prior, or fine-tuned to fMRI.
        dataset: its pictures and labels.
        split: whose pictures are shown; of repeats, one.
        conditioner: reads the scan that goes with the picture, repeats averaged; None: the model is told the category.
        options: `state`, `live`, `strict` of `Explorer`.
    """

    title = "Noise in, noise out"
    State = DiffusionState
    slow = True

    def __init__(
        self,
        diffusion: LatentDiffusion,
        dataset: BrainDataset,
        split: str = "val",
        conditioner: FMRIConditioner | None = None,
        **options: Any,
    ) -> None:
        self._diffusion, self._conditioner = diffusion.eval(), conditioner and conditioner.eval()
        self._scans, self._dataset = dataset[split].average_repeats(), dataset
        if self._scans.images is None:
            raise ValueError(f"split {split!r} of {dataset.name} has no pictures; choose a split with pictures")
        names = [dataset.category_names[label] for label in self._scans.labels]
        knobs = {
            "picture": Knob("picture", options={row: f"{row}: {name}" for row, name in enumerate(names)}),
            "time": Knob("time t", low=0, high=diffusion.config.num_timesteps - 1, help="0 is the picture"),
        }
        self._names = names
        self.one_thread = diffusion.config.image_size <= 64  # pixels
        self._last_walk: tuple[DiffusionState, tuple[list[Step], Tensor]] | None = None
        super().__init__(knobs=knobs, **options)

    @torch.no_grad()
    def compute(self, state: DiffusionState, report: Report = no_report) -> DiffusionResult:
        diffusion, device = self._diffusion, device_of(self._diffusion)
        picture = self._scans.images[state.picture : state.picture + 1]
        x0 = diffusion.encode(to_model_range(picture).to(device))
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(state.seed)).to(device)
        time = torch.tensor([state.time], device=device)
        x_t = diffusion.add_noise(x0, noise, time)
        condition, null = self._condition(state.picture)
        epsilon = self._guided(x_t, time, condition, null, state.guidance)
        guess = estimate_of_x0(x_t, epsilon, diffusion.alphas_cumprod[state.time])
        decoded = to_uint8(diffusion.decode(torch.cat([x0, x_t, guess])))

        def result(steps: list[Step], latents: Tensor) -> DiffusionResult:
            walk = torch.cat([step.noisy for step in steps])
            estimates = torch.cat([step.estimate for step in steps])
            pictures = to_uint8(diffusion.decode(torch.cat([walk, estimates, latents])))
            abar = diffusion.alphas_cumprod
            return DiffusionResult(
                seen=picture[0], first_stage=decoded[0], noisy=decoded[1], guess=decoded[2],
                x0=x0[0].cpu().numpy(), x_t=x_t[0].cpu().numpy(), x0_guess=guess[0].cpu().numpy(),
                timesteps=np.array([step.timestep for step in steps]),
                walk=pictures[: len(steps)], estimates=pictures[len(steps) : -1], painted=pictures[-1],
                walk_latents=walk.cpu().numpy(), estimate_latents=estimates.cpu().numpy(),
                total=steps[0].total, time=state.time,
                signal=abar.sqrt().cpu().numpy(), noise_share=(1 - abar).sqrt().cpu().numpy(),
                told="its scan" if self._conditioner else f"category {self._names[state.picture]!r}",
                simulated=self._dataset.simulated,
            )  # fmt: skip

        return result(*self._walk(state, noise, condition, null, report, result))

    def _walk(
        self, state: DiffusionState, noise: Tensor, condition: Condition, null: Condition, report: Report, partial: Any
    ) -> tuple[list[Step], Tensor]:
        """The walk back; moving in time does not walk again."""
        key, remembered = replace(state, time=0), self._last_walk
        if remembered and remembered[0] == key:
            return remembered[1]
        steps: list[Step] = []

        def on_step(step: Step) -> None:
            steps.append(step)
            report(step.number + 1, step.total, lambda: partial(steps, step.estimate), ("pictures",))

        scheduler = make_scheduler(self._diffusion.config, state.sampler)
        latents = watched_walk(
            self._diffusion.predict_noise, scheduler, noise, condition, null, state.steps, state.guidance, on_step
        )
        self._last_walk = key, (steps, latents)
        return steps, latents

    def _condition(self, row: int) -> tuple[Condition, Condition]:
        if self._conditioner is None:
            label = torch.as_tensor(self._scans.labels[row : row + 1]).to(device_of(self._diffusion))
            none = torch.full_like(label, self._diffusion.config.num_classes)
            return (self._diffusion.label_context(label), None), (self._diffusion.label_context(none), None)
        config = self._conditioner.encoder.config
        voxels = fitted(self._scans.voxels[row : row + 1], config.num_voxels, config.patch_size)
        given = torch.as_tensor(voxels).float().to(device_of(self._conditioner))
        return self._conditioner(given), self._conditioner.null(1)

    def _guided(self, x_t: Tensor, time: Tensor, condition: Condition, null: Condition, guidance: float) -> Tensor:
        with_condition = self._diffusion.predict_noise(x_t, time, *condition)
        without = self._diffusion.predict_noise(x_t, time, *null)
        return without + guidance * (with_condition - without)

    panes: ClassVar[Mapping[str, Pane]]


def draw_pictures(result: DiffusionResult) -> Figure:
    """Forward, and the walk back: x_t and the estimate of x_0 at some steps."""
    done, near = len(result.timesteps), result.nearest
    shown = np.unique(np.linspace(0, done - 1, min(STRIP, done)).round().astype(int))
    shown[np.abs(shown - near).argmin()] = near  # the step at the time chosen is always there
    end = "painted" if done == result.total else "so far"
    rows = [
        ("forward:\nnoise in", [
            ("picture", result.seen), ("first stage", result.first_stage), (f"x_t, t = {result.time}", result.noisy),
            ("x_0, guessed\nin one step", result.guess)]),
        ("back:\nx_t", [(f"t = {result.timesteps[i]}", result.walk[i]) for i in shown]),
        ("back:\nestimate\nof x_0", [
            *((f"step {i + 1}", result.estimates[i]) for i in shown),
            (f"{end}: {done} of {result.total}", result.painted)]),
    ]  # fmt: skip
    column = int(np.flatnonzero(shown == near)[0])
    frames = [(0, 2, ORANGE), (1, column, ORANGE), (2, column, ORANGE)]
    return picture_rows(rows, f"Told {result.told}", result.simulated, frames)


def say_pictures(result: DiffusionResult) -> str:
    """What is to be seen."""
    return (
        f"A picture with noise at time {result.time} and the model's guess of the picture beneath it; then the walk "
        f"from noise to a picture in {result.total} steps, with the guess sharpening from step to step. The model is "
        f"told {result.told}."
    )


def draw_schedule(result: DiffusionResult) -> Figure:
    """How much signal and noise there is at every time, and how far each estimate is from the end."""
    figure, axes = page(2.75, "How much of it is picture, how much noise", result.simulated)
    part = panel(figure, 0.6, 0.75, 3.4, 1.45, xlabel="time t", ylabel="factor")
    time = np.arange(len(result.signal))
    part.plot(time, result.signal, color=BLUE, label="picture: sqrt(abar)")
    part.plot(time, result.noise_share, color=ORANGE, linestyle="--", label="noise: sqrt(1 - abar)")
    part.axvline(result.time, color=VERMILLION, linewidth=1.2)
    part.legend(fontsize=7, frameon=False)
    part = panel(figure, 4.9, 0.75, WIDTH - 5.1, 1.45, xlabel="step of the walk back", ylabel="squared difference")
    distance = ((result.estimate_latents - result.estimate_latents[-1]) ** 2).mean((1, 2, 3))
    part.plot(np.arange(1, len(distance) + 1), distance, color=BLUE, marker="o", markersize=4)
    write(axes, 4.9, 0.68, "estimate of x_0: how far from the last one", size=SMALL)
    return figure


def say_schedule(result: DiffusionResult) -> str:
    """The two factors at the chosen time."""
    return (
        f"At time {result.time} the picture has factor {result.signal[result.time]:.2f} and the noise "
        f"{result.noise_share[result.time]:.2f}; the estimates of the walk approach the last one."
    )


DiffusionExplorer.panes = {
    "pictures": Pane(draw_pictures, say_pictures),
    "schedule": Pane(draw_schedule, say_schedule),
}
