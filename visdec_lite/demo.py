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
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visdec_lite import chain, plotting
from visdec_lite.baselines.ridge import RidgeToImages
from visdec_lite.chain import Run, World
from visdec_lite.datasets import BrainDataset, Split, load_dataset
from visdec_lite.devices import check_device
from visdec_lite.fields import SEED, SWITCH, WORD, Rule, check_fields
from visdec_lite.files import read_json, write_json
from visdec_lite.identity import differences, flat
from visdec_lite.latent_diffusion import LatentDiffusion
from visdec_lite.metrics import Score, evaluate
from visdec_lite.pipeline import FMRIToImagePipeline
from visdec_lite.presets import Preset, preset_for
from visdec_lite.processes import locked
from visdec_lite.report import write_report
from visdec_lite.stages import decode_latents, encode_images
from visdec_lite.weights import read_metadata

LIMITS = (
    "A picture here is a guess that fits the scan and the prior's idea of pictures; what the scan does not tell, "
    "the prior makes up.",
    "An interval says how sure the mean is, over what stands beside it: categories where they are new to the decoder, "
    "as another ten would score otherwise, else stimuli. It says nothing about another subject.",
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

    def __post_init__(self) -> None:
        path = Rule("a path or None", lambda value: value is None or isinstance(value, str))
        overrides = Rule("names and values", lambda value: isinstance(value, dict))
        check_fields(self, {
            "dataset": WORD, "path": path, "preset": WORD, "seed": SEED, "train": SWITCH, "overrides": overrides,
        })  # fmt: skip

    @property
    def trains_world(self) -> bool:
        return self.preset == "smoke" or not chain.shipped(self.dataset).is_dir()

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
        ValueError: the folder holds a run of other settings, data or weights, or another process is at it; a setting
            means nothing; there is no such device.
        CannotWrite: the folder cannot be made or written.
    """
    chosen = preset_for(settings.dataset, settings.preset, **settings.overrides).with_seed(settings.seed)
    check_device(device, chosen.trainings().values())
    with locked(out):
        return _run_demo(settings, chosen, out, say, device, progress)


def _run_demo(
    settings: DemoSettings, chosen: Preset, out: Path, say: Callable[[str], None], device: str | None, progress: bool
) -> dict[str, Any]:
    started = time.perf_counter()
    say(f"data    {settings.dataset}")
    options = {} if settings.path is None else {"root": settings.path}
    dataset = load_dataset(settings.dataset, **options)
    chosen = chosen.with_categories(len(dataset.category_names))
    dataset = chain.ready_for(dataset, chosen)
    if settings.trains_world:
        chain.check_world(settings.dataset, chosen)
    if settings.trains_brain:
        chain.check_brain(dataset, chosen)
    shipped = _shipped_identities(settings)
    asked = _note(settings, chosen, dataset, shipped)
    finished = _finished(out, asked)
    if finished is not None:
        say(f"{out} holds this run already, finished; delete the folder to run it again")
        return finished

    # What is shipped is loaded before the folder becomes this run's, so that a word mistyped does not claim it.
    folder, world, brain = chain.shipped(settings.dataset), None, None
    if not settings.trains_world:
        say("world   shipped first stage, prior, referee and image autoencoder")
        world = chain.load_world(folder, chosen)
    if world is not None and not settings.trains_brain:
        say("brain   shipped phase 1, phase 2 and fine-tuning of simulated subject 1")
        brain = chain.load_brain(folder, dataset, world, chosen)
    write_json(out / "settings.json", asked)

    training = {"device": device, "progress": progress}
    world_run, brain_run = Run(out / "world", options=training), Run(out / "brain", options=training)
    if world is None:
        say("world   training first stage, prior, referee and image autoencoder")
        world = chain.train_world(settings.dataset, chosen, settings.seed, world_run)
    if brain is None:
        say("brain   training phase 1, phase 2 and fine-tuning")
        brain = chain.train_brain(dataset, world, chosen, settings.seed, brain_run)
    if device is not None:
        brain.conditioned.to(device)
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
        "identity": {**shipped, **world_run.identities, **brain_run.identities},
        "versions": versions(),
    }
    write_results(out, metrics, painted, {**world_run.histories, **brain_run.histories}, settings)
    say(f"done    {out / 'report.html'}")
    return metrics


def _shipped_identities(settings: DemoSettings) -> dict[str, dict[str, Any]]:
    """Stage -> all that shaped the weights that come with the package, and their hash; of the stages used."""
    folder = chain.shipped(settings.dataset)
    names = () if settings.trains_world else chain.WORLD_STAGES
    names += () if settings.trains_brain else chain.BRAIN_STAGES
    found = {name: read_metadata(folder / f"{name}.safetensors") for name in names}
    return {name: {**told["identity"], "sha256": told["sha256"]} for name, told in found.items()}


def _note(
    settings: DemoSettings, chosen: Preset, dataset: BrainDataset, shipped: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """All that shapes the run, flat: what was asked for, every number of it, the data and the shipped weights.

    Not the path, which may be written in many ways: the fingerprint tells what lay there.
    """
    asked = {name: getattr(settings, name) for name in ("dataset", "preset", "seed", "train")}
    numbers = {name: value for name, value in flat(chosen.as_dict()).items() if not name.endswith(".seed")}
    weights = {f"weights {name}": told["sha256"] for name, told in shipped.items()}
    return json.loads(json.dumps({**asked, "data": dataset.fingerprint, **numbers, **weights}))


def _finished(out: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """Metrics of the run that the folder holds; None if it holds none, or this one unfinished.

    Raises:
        ValueError: it holds another run, or a damaged note.
    """
    note, metrics = out / "settings.json", out / "metrics.json"
    if not note.exists():
        return None
    if words := differences(read_json(note), asked):
        raise ValueError(f"{out} holds another run: {words}; choose another --out or delete it")
    if not (metrics.exists() and (out / "report.html").exists()):
        return None
    return read_json(metrics, "methods", "simulated", "n_test")


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
    """Reconstructions beside what was seen: uint8 (n, samples, h, w, 3) and (n, h, w, 3).

    `categories` are those of the stimuli, (n,), where the decoder has not learnt them; see `metrics.evaluate`.
    """

    images: np.ndarray
    truth: np.ndarray
    categories: np.ndarray | None = None


def first_trials(split: Split) -> Split:
    """The first trial of every stimulus, unaveraged, in order of stimulus number."""
    return split.rows(np.unique(split.stimulus, return_index=True)[1])


def paint(
    scan: Split,
    pipe: FMRIToImagePipeline,
    rivals: dict[str, RidgeToImages],
    chosen: Preset,
    seed: int,
    categories: np.ndarray | None = None,
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
    made = {"visdec": images, "visdec_mean": mean}
    made |= {name: rival.reconstruct(scan.voxels)[:, None] for name, rival in rivals.items()}
    return {name: Painted(pictures, scan.images, categories) for name, pictures in made.items()}


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
        for name, result in paint(scan, pipe, rivals, chosen, seed, dataset.new_categories(scan)).items()
    }


def score_all(painted: dict[str, Painted], world: World, chosen: Preset, seed: int) -> dict[str, dict[str, Score]]:
    """Every method under the same metrics, and our own pictures once more against the wrong stimuli."""
    shuffled = painted["visdec"]
    order = np.random.default_rng(seed).permutation(len(shuffled.truth))
    wrong = np.empty_like(order)
    wrong[order] = np.roll(order, 1)  # one round of everybody: nobody keeps the own scan
    everything = {**painted, "visdec_shuffled": replace(shuffled, images=shuffled.images[wrong])}
    return {
        name: evaluate(
            result.images,
            result.truth,
            classify=world.classifier.classify,
            generator=np.random.default_rng(seed),
            n_way=chosen.classifier.num_classes,
            categories=result.categories,
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


BLOCKS = {"": "test scans", "_single_trial": "single trials", "_seen_categories": "seen categories"}
# metric -> head of its column, its width, and whether it is written in per cent
COLUMNS = {
    "n_way_top1": ("top-1 %", 14, True),
    "pairwise_pcc": ("pairwise %", 14, True),
    "pcc": ("PCC", 18, False),
    "ssim": ("SSIM", 18, False),
}


def score_table(metrics: dict[str, Any]) -> str:
    """The main scores as text of at most 80 columns: a block for each kind of test scan, a line for each method."""
    methods, repeats = metrics["methods"], metrics["repeats_averaged"]
    simulated = "SIMULATED data; " if metrics["simulated"] else ""
    lines = [f"{simulated}{metrics['n_test']} test stimuli; score [95 % interval]; the rest: report.html"]
    taken = {ending: [name for name in methods if ending and name.endswith(ending)] for ending in BLOCKS}
    taken[""] = [name for name in methods if not any(name in names for names in taken.values())]
    for ending, names in taken.items():
        if not names:
            continue
        title = f"{BLOCKS[ending]}, {repeats} repeats averaged" if repeats > 1 and not ending else BLOCKS[ending]
        first = methods[names[0]]
        shown = [name for name in COLUMNS if name in first]
        over = first[shown[0]].get("over")
        title += f"; intervals over {over}" if over else ""
        lines += ["", title, " " * 16 + "".join(COLUMNS[m][0].rjust(COLUMNS[m][1]) for m in shown)]
        for name in names:
            cells = (_in_cell(methods[name][metric], *COLUMNS[metric][1:]) for metric in shown)
            lines.append(f" {name.removesuffix(ending):15s}" + "".join(cells))
        chances = (_plain(first[m]["chance"], COLUMNS[m][2]).rjust(COLUMNS[m][1]) for m in shown)
        lines.append(f" {'chance (visdec)':15s}" + "".join(chances))
    return "\n".join(lines)


def _in_cell(score: dict[str, Any], width: int, per_cent: bool) -> str:
    value, low, high = (_plain(number, per_cent) for number in (score["value"], *score["ci95"]))
    return f"{value} [{low}, {high}]".rjust(width)


def _plain(value: float, per_cent: bool) -> str:
    """0.723 -> "72" per cent, or ".72"."""
    return f"{100 * value:z.0f}" if per_cent else f"{value:z.2f}".replace("0.", ".", 1)


def versions() -> dict[str, str]:
    """Of what the numbers may depend on."""
    names = ("visdec-lite", "torch", "diffusers", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
