"""How each kind of method is trained for one brain: latent diffusion, comparators, floors and ceilings.

In: a `Job`, one brain's data with a preset and a seed. Out: `Fitted`, which paints uint8 pictures for scans. All
diffusion models share one shipped prior, one budget of fine-tuning steps and one sampler (Sun et al., NeurIPS 2023,
arXiv 2305.17214, compare so); phase 1 of the same brain, seed and config is trained once for all that start from it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import nn

from visdec_lite import chain, plotting
from visdec_lite.baselines import floors
from visdec_lite.baselines.base import Baseline, Tuning
from visdec_lite.baselines.instance_gan import InstanceGAN
from visdec_lite.baselines.ssae import SSAE, SSAEConfig
from visdec_lite.datasets import BrainDataset, Split
from visdec_lite.latent_diffusion import sample_labels
from visdec_lite.preprocessing import to_uint8
from visdec_lite.presets import Preset, override
from visdec_lite.stages import decode_latents, encode_images

Paint = Callable[[Split, int, torch.Generator], np.ndarray]
"""(scans, samples, generator) -> uint8 (n, samples, h, w, 3), or (n, h, w, 3) where a method has one picture a scan."""


@dataclass(frozen=True)
class Job:
    """What a method is given to learn from.

    Attributes:
        kind: name of the data set whose pictures' world is shipped.
        dataset: of `chain.ready_for`.
        preset: with the method's own changes, the seed and the number of categories.
        folder: of checkpoints and weights.
        shared: of phase-1 weights that several methods start from.
        options: handed to `training.fit` (device, progress).
    """

    kind: str
    dataset: BrainDataset
    preset: Preset
    seed: int
    folder: Path
    shared: Path
    options: dict[str, Any] = field(default_factory=dict)

    def world(self) -> chain.World:
        """The shipped prior, referee and image autoencoder, anew at each call: fine-tuning changes the prior."""
        return chain.load_world(chain.shipped(self.kind), self.preset)

    def prior(self) -> nn.Module:
        """First stage and label-to-image prior, where the job is to run."""
        device = self.options.get("device")
        return self.world().diffusion if device is None else self.world().diffusion.to(device)

    def instance_gan(self) -> InstanceGAN:
        """The shipped prior of IC-GAN."""
        return chain.load_instance_gan(chain.shipped(self.kind))


@dataclass(frozen=True)
class Fitted:
    """A trained method.

    Attributes:
        paint: see `Paint`.
        num_parameters: numbers that painting needs, set here or in a prior beforehand.
        tuning: every choice that was made on validation, a sentence each.
        seconds: stage -> wall-clock seconds.
    """

    paint: Paint
    num_parameters: int
    tuning: tuple[str, ...]
    seconds: dict[str, float]


def parameters_of(*modules: nn.Module) -> int:
    """Weights of several modules together."""
    return sum(weight.numel() for module in modules for weight in module.parameters())


# --- latent diffusion: ours, DC-LDM, and every ablation ---


def diffusion_method(skip: tuple[str, ...] = ()) -> Callable[[Job], Fitted]:
    """Our stages; `skip` as in `chain.train_brain`."""

    def fit(job: Job) -> Fitted:
        world, sampling = job.world(), job.preset.sampling
        if "pretrain" not in skip:
            share_phase_1(job, world)
        run = chain.Run(job.folder, options=job.options)
        brain = chain.train_brain(job.dataset, world, job.preset, job.seed, run, skip=skip)
        pipe = brain.pipeline(job.preset)
        pipe.set_progress_bar_config(disable=True)

        def paint(split: Split, num_samples: int, generator: torch.Generator) -> np.ndarray:
            return pipe(
                split.voxels, num_samples, sampling.num_inference_steps, sampling.guidance_scale, generator
            ).images

        told = (
            f"guidance {sampling.guidance_scale:g}, patch size, batches, learning rates and lengths of the stages: as "
            "in the preset, chosen on validation scans of the full method on the first brain or folds with seed 0 "
            "(benchmarks/RESULTS.md); the same for every diffusion model"
        )
        tuning = (*_kept_steps(run, len(job.dataset["val"])), told)
        count = parameters_of(brain.conditioned.conditioner, world.diffusion)
        return Fitted(paint, count, tuning, dict(run.seconds))

    return fit


def share_phase_1(job: Job, world: chain.World) -> None:
    """Phase 1 of this brain, seed and config is trained once; its checkpoint becomes this job's own."""
    own = job.folder / "stages" / "pretrain"
    if own.exists():
        return
    pool = job.dataset.splits.get("pretrain", job.dataset["train"]).voxels
    settings = [asdict(job.preset.with_voxels(job.dataset.num_voxels)), asdict(job.preset.pretraining), job.seed]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for rows in (pool, job.dataset["val"].voxels):
        digest.update(np.ascontiguousarray(rows))
    folder = job.shared / digest.hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # another process may want the same
        run = chain.Run(folder, options=job.options)
        chain.train_brain(job.dataset, world, job.preset, job.seed, run, until="pretrain")
    half_copied = own.with_name(".pretrain")
    shutil.rmtree(half_copied, ignore_errors=True)
    shutil.copytree(folder / "stages" / "pretrain", half_copied)
    half_copied.replace(own)


def _kept_steps(run: chain.Run, rows: int) -> tuple[str, ...]:
    sentences = []
    for stage, history in run.histories.items():
        tried = tuple((row["step"], row["loss"]) for row in history if row["split"] == "val")
        if tried:
            step, loss = min(tried, key=lambda pair: pair[1])
            knob = f"{plotting.stage_label(stage)}, step kept"
            sentences.append(str(Tuning(knob, "validation loss", rows, tried, step, loss)))
    return tuple(sentences)


# --- comparators, floors, ceilings ---


def baseline_method(build: Callable[[Job], Baseline]) -> Callable[[Job], Fitted]:
    """A comparator or a floor of `baselines`."""

    def fit(job: Job) -> Fitted:
        started = time.perf_counter()
        baseline = build(job).fit(job.dataset)
        seconds = {"fit": time.perf_counter() - started}

        def paint(split: Split, num_samples: int, generator: torch.Generator) -> np.ndarray:
            return baseline.reconstruct(split.voxels, num_samples, generator)

        return Fitted(paint, baseline.num_parameters, tuple(map(str, baseline.tuning)), seconds)

    return fit


def ceiling_method(build: Callable[[nn.Module, Preset], floors.Ceiling]) -> Callable[[Job], Fitted]:
    """What paints with the truth in hand, from the shipped prior."""

    def fit(job: Job) -> Fitted:
        diffusion = job.prior()
        ceiling = build(diffusion, job.preset)

        def paint(split: Split, num_samples: int, generator: torch.Generator) -> np.ndarray:
            return ceiling.reconstruct(split.images, split.labels, num_samples, generator)

        return Fitted(paint, parameters_of(diffusion), (), {})

    return fit


def ss_ae(job: Job) -> SSAE:
    """SS-AE with the prior's own pictures as those without scans, and the eye of IC-GAN as its feature network."""
    size, count = job.preset.diffusion.image_size, job.preset.prior_pictures
    pictures, _ = chain.PICTURES[job.kind](count, seed=0, image_size=size, part="train")  # those the prior knows
    shorter = {"encoder.steps": 10, "decoder.steps": 10} if job.preset.name == "smoke" else {}
    seeds = {"encoder.seed": job.seed, "decoder.seed": job.seed}
    config = override(SSAEConfig(), {**shorter, **seeds})
    eye = job.instance_gan().eye
    return SSAE(config, pictures, eye, out_dir=job.folder / "stages", **job.options)


def prior_samples(job: Job) -> floors.PriorSamples:
    """The shipped prior without a condition."""
    diffusion = job.prior()
    untold = diffusion.config.num_classes

    def sample(count: int, generator: torch.Generator) -> np.ndarray:
        return _sampled(diffusion, np.full(count, untold), generator, job.preset, guidance_scale=1.0)

    return floors.PriorSamples(sample, parameters_of(diffusion))


def label_told(diffusion: nn.Module, preset: Preset) -> floors.LabelToldPrior:
    """The shipped prior told the true category."""
    return floors.LabelToldPrior(lambda labels, generator: _sampled(diffusion, labels, generator, preset))


def _sampled(
    diffusion: nn.Module, labels: np.ndarray, generator: torch.Generator, preset: Preset, **options: float
) -> np.ndarray:
    steps, sampler = preset.sampling.num_inference_steps, preset.sampling.sampler
    told = torch.as_tensor(labels, device=diffusion.latent_scale.device)
    parts = [
        to_uint8(sample_labels(diffusion, part, generator, steps, sampler=sampler, **options))
        for part in told.split(64)
    ]
    return np.concatenate(parts)


def first_stage(diffusion: nn.Module, preset: Preset) -> floors.FirstStageCeiling:
    """The true picture through the shipped first stage and back."""
    return floors.FirstStageCeiling(lambda images: decode_latents(diffusion, encode_images(diffusion, images)))
