"""The main job: brain to images, from data to a page that shows and scores them.

In: a data set, a preset, a seed. Out, in one folder: metrics.json, gallery.png, report.html.

    world    what is known of pictures: first stage, prior, referee          shipped, or trained live
    brain    phase 1, phase 2, fine-tuning on one subject                    shipped, or trained live
    rivals   ridge regression on the same scans, scored by the same code     always fitted live
    test     opened once: sample, score, shuffle and score again
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visdec_lite import chain, plotting
from visdec_lite.baselines.ridge import RidgeToImages
from visdec_lite.chain import Brain, Run, World
from visdec_lite.datasets import BrainDataset, Split, load_dataset
from visdec_lite.files import read_json, write_json
from visdec_lite.identity import differences
from visdec_lite.latent_diffusion import LatentDiffusion
from visdec_lite.metrics import Score, evaluate
from visdec_lite.pipeline import FMRIToImagePipeline
from visdec_lite.presets import Preset, preset_for
from visdec_lite.report import write_report
from visdec_lite.stages import decode_latents, encode_images

LIMITS = (
    "A picture here is a guess that fits the scan and the prior's idea of pictures; what the scan does not tell, "
    "the prior makes up.",
    "The intervals say how sure the mean over these stimuli is; they say nothing about another subject.",
)


@dataclass(frozen=True)
class DemoSettings:
    """What to run. The same settings in the same folder go on where they stopped."""

    dataset: str = "simulated"
    path: str | None = None  # of the data set's file, where it needs one
    preset: str = "class"
    seed: int = 0
    train: bool = False  # train the brain stages live even where trained ones are shipped
    overrides: dict[str, Any] = field(default_factory=dict)  # preset fields by dotted path

    @property
    def trains_brain(self) -> bool:
        return self.train or self.preset == "smoke" or self.dataset != "simulated"


def run_demo(
    settings: DemoSettings,
    out: Path,
    *,
    say: Callable[[str], None] = lambda words: None,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Run it all; returns what metrics.json holds.

    Args:
        settings: what to run.
        out: folder for results, and for checkpoints while training.
        say: told what happens, a line at a time.
        device: where to train; None lets accelerate choose. Shipped parts are sampled there as well.
        progress: progress bars.

    Raises:
        ValueError: the folder holds a run of other settings.
    """
    started = time.perf_counter()
    finished = _claim(out, settings)
    if finished is not None:
        say(f"{out} holds this run already, finished; delete the folder to run it again")
        return finished
    say(f"data    {settings.dataset}")
    options = {} if settings.path is None else {"root": settings.path}
    dataset = load_dataset(settings.dataset, **options)
    chosen = preset_for(settings.dataset, settings.preset, **settings.overrides).with_seed(settings.seed)
    chosen = chosen.with_categories(len(dataset.category_names))
    dataset = chain.ready_for(dataset, chosen)
    training = {"device": device, "progress": progress}

    world, world_run = _world(settings, chosen, out, training, say)
    brain, brain_run = _brain(settings, chosen, dataset, world, out, training, say)
    say("rivals  ridge regression to pixels and to latents, penalties chosen on validation")
    rivals = fit_rivals(dataset, world)

    say("test    sampling and scoring")
    sampling_started = time.perf_counter()
    pipe = brain.pipeline(chosen)
    pipe.set_progress_bar_config(disable=not progress, desc="sampling", leave=False)
    painted = paint_test(dataset, pipe, rivals, chosen, settings.seed)
    sampling = time.perf_counter() - sampling_started
    methods = score_all(painted, world, chosen, settings.seed)

    repeats = round(len(dataset["test"]) / len(painted["visdec"].truth))
    seconds = {**world_run.seconds, **brain_run.seconds, "sample": sampling}
    metrics = {
        "dataset": dataset.name,
        "simulated": dataset.simulated,
        "preset": settings.preset,
        "seed": settings.seed,
        "trained_live": settings.trains_brain,
        "n_test": len(painted["visdec"].truth),
        "repeats_averaged": repeats,
        "n_way": len(dataset.category_names),
        "num_samples": chosen.sampling.num_samples,
        "methods": {name: {m: s.as_dict() for m, s in scores.items()} for name, scores in methods.items()},
        "seconds": {name: round(value, 2) for name, value in seconds.items()}
        | {"total": round(time.perf_counter() - started, 2)},
        "fingerprint": dataset.fingerprint,
        "versions": versions(),
    }
    write_results(out, metrics, painted, {**world_run.histories, **brain_run.histories}, settings)
    say(f"done    {out / 'report.html'}")
    return metrics


def _claim(out: Path, settings: DemoSettings) -> dict[str, Any] | None:
    """Make the folder this run's own; returns its metrics if it is finished."""
    asked = json.loads(json.dumps(vars(settings)))
    note = out / "settings.json"
    if note.exists():
        if words := differences(read_json(note), asked):
            raise ValueError(f"{out} holds another run: {words}; choose another --out or delete it")
        if (out / "metrics.json").exists() and (out / "report.html").exists():
            return read_json(out / "metrics.json", "methods", "seconds")
    write_json(note, asked)
    return None


def _world(
    settings: DemoSettings, chosen: Preset, out: Path, training: dict[str, Any], say: Callable[[str], None]
) -> tuple[World, Run]:
    if settings.preset == "smoke" or not chain.shipped(settings.dataset).is_dir():
        say("world   training first stage, prior, referee and image autoencoder")
        run = Run(out / "world", options=training)
        return chain.train_world(settings.dataset, chosen, settings.seed, run), run
    say("world   shipped first stage, prior, referee and image autoencoder")
    return chain.load_world(chain.shipped(settings.dataset), chosen), Run()


def _brain(
    settings: DemoSettings,
    chosen: Preset,
    dataset: BrainDataset,
    world: World,
    out: Path,
    training: dict[str, Any],
    say: Callable[[str], None],
) -> tuple[Brain, Run]:
    if settings.trains_brain:
        say("brain   training phase 1, phase 2 and fine-tuning")
        run = Run(out / "brain", options=training)
        return chain.train_brain(dataset, world, chosen, settings.seed, run), run
    say("brain   shipped phase 1, phase 2 and fine-tuning of simulated subject 1")
    return chain.load_brain(chain.shipped(settings.dataset), dataset, world, chosen), Run()


def fit_rivals(dataset: BrainDataset, world: World) -> dict[str, RidgeToImages]:
    """Ridge to pixels ("ridge") and to the first stage's latents ("ridge_latents"), penalties chosen on validation."""
    rivals = {"ridge": RidgeToImages(), "ridge_latents": ridge_to_latents(world.diffusion)}
    return {name: rival.fit(dataset) for name, rival in rivals.items()}


def ridge_to_latents(diffusion: LatentDiffusion) -> RidgeToImages:
    """Ridge to the latents of a frozen first stage, whose decoder paints; to be fitted."""
    return RidgeToImages(
        encode=lambda images: encode_images(diffusion, images).numpy(),
        decode=lambda latents: decode_latents(diffusion, torch.as_tensor(latents, dtype=torch.float32)),
    )


@dataclass(frozen=True)
class Painted:
    """Reconstructions beside what was seen: uint8 (n, samples, h, w, 3) and (n, h, w, 3)."""

    images: np.ndarray
    truth: np.ndarray


def first_trials(split: Split) -> Split:
    """The first trial of every stimulus, unaveraged, in order of stimulus number."""
    return split.rows(np.unique(split.stimulus, return_index=True)[1])


def paint(
    scan: Split, pipe: FMRIToImagePipeline, rivals: dict[str, RidgeToImages], chosen: Preset, seed: int
) -> dict[str, Painted]:
    """Pictures for some scans: our samples, their mean ("visdec_mean"), and every rival's."""
    sampling = chosen.sampling
    images = pipe(
        scan.voxels,
        num_samples=sampling.num_samples,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        generator=torch.Generator().manual_seed(seed),
    ).images
    mean = np.rint(images.mean(axis=1, keepdims=True)).astype(np.uint8)
    painted = {"visdec": Painted(images, scan.images), "visdec_mean": Painted(mean, scan.images)}
    for name, rival in rivals.items():
        painted[name] = Painted(rival.reconstruct(scan.voxels)[:, None], scan.images)
    return painted


def paint_test(
    dataset: BrainDataset, pipe: FMRIToImagePipeline, rivals: dict[str, RidgeToImages], chosen: Preset, seed: int
) -> dict[str, Painted]:
    """Test pictures by every method: repeats averaged, and single trials where there are repeats."""
    test = dataset["test"]
    scans = {"": test.average_repeats()}
    if len(scans[""]) < len(test):
        scans["_single_trial"] = first_trials(test)
    if "test_seen" in dataset.splits:
        scans["_seen_categories"] = dataset["test_seen"].average_repeats()
    return {
        f"{name}{ending}": result
        for ending, scan in scans.items()
        for name, result in paint(scan, pipe, rivals, chosen, seed).items()
    }


def score_all(painted: dict[str, Painted], world: World, chosen: Preset, seed: int) -> dict[str, dict[str, Score]]:
    """Every method under the same metrics, and our own pictures once more against the wrong stimuli."""
    shuffled = painted["visdec"]
    order = np.random.default_rng(seed).permutation(len(shuffled.truth))
    wrong = np.empty_like(order)
    wrong[order] = np.roll(order, 1)  # one round of everybody: nobody keeps the own scan
    everything = {**painted, "visdec_shuffled": Painted(shuffled.images[wrong], shuffled.truth)}
    return {
        name: evaluate(
            result.images,
            result.truth,
            classify=world.classifier.classify,
            generator=np.random.default_rng(seed),
            n_way=chosen.classifier.num_classes,
        )
        for name, result in everything.items()
    }


def write_results(
    out: Path,
    metrics: dict[str, Any],
    painted: dict[str, Painted],
    histories: dict[str, list[dict[str, Any]]],
    settings: DemoSettings,
) -> None:
    """gallery.png, report.html and, last, metrics.json: its presence says the run is finished."""
    ours, ridge = painted["visdec"], painted["ridge"]
    averaged = metrics["repeats_averaged"]
    title = f"{metrics['dataset']}: seen and reconstructed" + (
        f" ({averaged} repeats averaged)" if averaged > 1 else ""
    )
    draw = partial(
        plotting.gallery,
        ours.truth,
        {"visdec": ours.images, "ridge": ridge.images},
        simulated=metrics["simulated"],
        title=title,
    )
    plotting.save_figure(draw(), out / "gallery.png")
    write_report(
        out / "report.html",
        metrics=metrics,
        gallery=draw,
        histories=histories or None,
        settings=vars(settings),
        notes=LIMITS,
    )
    write_json(out / "metrics.json", metrics)


def versions() -> dict[str, str]:
    """Of what the numbers may depend on."""
    names = ("visdec-lite", "torch", "diffusers", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
