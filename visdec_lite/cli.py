"""The command line: `visdec-lite demo | train | compare | reconstruct | evaluate | ... | lab | app`.

In: words. Out: folders with results, and an exit status. An error is one sentence, not a traceback; Ctrl-C, SIGTERM
and SIGHUP leave a run that goes on when asked again. What can be known before the work is checked before the work:
data, numbers, device, and that the results can be written.
"""

from __future__ import annotations

import linecache
import logging
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup

from visdec_lite.downloads.commands import app as downloads
from visdec_lite.processes import endings_interrupt, exit_status
from visdec_lite.teaching import commands as teaching
from visdec_lite.widgets import app as page

INTERNAL = 70  # exit status of an error that is ours, as sysexits.h has it (EX_SOFTWARE)


class _Commands(TyperGroup):
    """An end of file where none is expected is an error like others; click takes it for Ctrl-D."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except EOFError as error:
            raise RuntimeError(f"a file ended too early: {error}") from error


app = typer.Typer(
    cls=_Commands,
    help="Brain to image: masked fMRI, contrast, fusion, diffusion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Stage(StrEnum):
    prior = "prior"
    pretrain = "pretrain"
    fuse = "fuse"
    finetune = "finetune"


Dataset = Annotated[str, typer.Option(help="see: visdec-lite datasets")]
DataPath = Annotated[Path | None, typer.Option("--path", help="file or folder of the data set, where it needs one")]
PresetName = Annotated[str, typer.Option("--preset", help="smoke | class | paper")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="of everything random")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="a preset field: --set finetuning.steps=200")]
Device = Annotated[str | None, typer.Option(help="cpu | cuda | mps; default: the best there is")]


@app.callback()
def _setup() -> None:
    """Brain to image: masked fMRI, contrast, fusion, diffusion."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "matplotlib", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here asks the network
    # Threads that wait for each other without burning their core: beside other work, on two cores, sampling is six
    # times as fast. Read once, when torch is loaded; lessons and JupyterLab started from here inherit it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@app.command()
def demo(
    train: Annotated[bool, typer.Option("--train", help="train every brain stage live first")] = False,
    dataset: Dataset = "simulated",
    path: DataPath = None,
    preset: PresetName = "class",
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="folder of the results; default runs/DATASET-PRESET")] = None,
    overrides: Overrides = None,
    device: Device = None,
) -> None:
    """Brain to images, scored and shown: metrics.json, gallery.png and report.html in OUT."""
    from visdec_lite.demo import DemoSettings, run_demo, score_table

    settings = DemoSettings(dataset, None if path is None else str(path), preset, seed, train, _pairs(overrides))
    out = out or Path("runs") / f"{dataset}-{preset}{'-train' if train else ''}"
    with _interruptible():
        metrics = run_demo(settings, out, say=typer.echo, device=device)
    typer.echo(f"\n{score_table(metrics)}\n")
    typer.echo("\n".join(f"{out / name}" for name in ("report.html", "gallery.png", "metrics.json")))


@app.command()
def train(
    stage: Annotated[Stage, typer.Argument(help="the last stage to train; the ones before it run first")],
    dataset: Dataset = "simulated",
    path: DataPath = None,
    preset: PresetName = "class",
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="folder of weights and checkpoints")] = None,
    overrides: Overrides = None,
    device: Device = None,
    half: Annotated[bool, typer.Option("--half", help="keep weights as float16")] = False,
) -> None:
    """Train one stage (and those before it), resumable: weights in OUT, a safetensors file a stage.

    `finetune` leaves OUT/pipeline as well, which `reconstruct`, `app` and diffusers read.

    `prior` learns from pictures alone: first stage, label-to-image prior, referee, image autoencoder. The
    others learn one subject's brain, on the prior in OUT if there is one, else on the shipped one.
    """
    from visdec_lite import chain
    from visdec_lite.datasets import load_dataset
    from visdec_lite.devices import check_device
    from visdec_lite.presets import preset_for
    from visdec_lite.processes import locked

    chosen = preset_for(dataset, preset, **_pairs(overrides)).with_seed(seed)
    if dataset in chain.CATEGORIES:
        chosen = chosen.with_categories(len(chain.CATEGORIES[dataset]))
    check_device(device, chosen.trainings().values())
    out = out or Path("runs") / f"train-{dataset}-{preset}"
    run = chain.Run(out, half=half, options={"device": device})
    if stage is Stage.prior:
        chain.check_world(dataset, chosen)
        with _interruptible(), locked(out):
            chain.train_world(dataset, chosen, seed, run)
    else:
        options = {} if path is None else {"root": path}
        data = chain.ready_for(load_dataset(dataset, **options), chosen)
        chain.check_brain(data, chosen, until=stage.value)
        with _interruptible(), locked(out):
            own = (out / "diffusion.safetensors").exists()
            if not own and stage is Stage.pretrain:
                world = chain.new_world(chosen, seed)  # phase 1 sees no picture
            else:
                world = chain.load_world(out if own else chain.shipped(dataset), chosen)
            brain = chain.train_brain(data, world, chosen, seed, run, until=stage.value)
            if stage is Stage.finetune:
                brain.pipeline(chosen).save_pretrained(out / "pipeline", made_by=run.identities["finetune"])
    typer.echo(f"done    {out}")


@app.command()
def reconstruct(
    voxels: Annotated[Path, typer.Argument(help="z-scored scans (n, V): .npy, or .npz with an array 'voxels'")],
    pipeline: Annotated[
        Path | None, typer.Option(help="folder of a saved pipeline; default: the shipped one, simulated subject 1")
    ] = None,
    samples: Annotated[int, typer.Option(help="pictures a scan")] = 5,
    steps: Annotated[int, typer.Option(help="denoising steps")] = 20,
    guidance: Annotated[float, typer.Option(help="how far to follow the scan")] = 3.0,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="folder of the pictures")] = Path("runs") / "reconstruct",
) -> None:
    """Paint what scans saw, by a trained pipeline: reconstructions.npz and pictures.png in OUT."""
    from visdec_lite import reconstruct as files
    from visdec_lite.pipeline import FMRIToImagePipeline
    from visdec_lite.presets import SamplingConfig

    sampling = SamplingConfig(samples, steps, guidance)
    pipe = files.shipped_pipeline() if pipeline is None else FMRIToImagePipeline.from_pretrained(pipeline)
    with _interruptible():
        typer.echo(f"done    {files.paint_file(voxels, out, pipe, sampling, seed)}")


@app.command()
def evaluate(
    reconstructions: Annotated[Path, typer.Argument(help="uint8 pictures: .npz with 'images', or .npy")],
    truth: Annotated[Path, typer.Argument(help="what was seen, uint8 (n, h, w, 3), same order")],
    referee: Annotated[str, typer.Option(help="simulated | digits69 | none: who names the pictures")] = "none",
    categories: Annotated[
        Path | None, typer.Option(help="of the stimuli, where new to the decoder: intervals are then over categories")
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="file for the scores as JSON")] = None,
) -> None:
    """Score reconstructions against what was seen: each with chance and 95 % interval."""
    from visdec_lite import reconstruct as files
    from visdec_lite.files import check_writable, write_json

    if out:
        check_writable(out)
    classify = None if referee == "none" else files.shipped_referee(referee)
    with _interruptible():
        found = files.score_file(reconstructions, truth, classify, seed, categories)
    scores = {name: score.as_dict() for name, score in found.items()}
    typer.echo(f"score [95 % interval over {next(iter(found.values())).over}] (chance)")
    typer.echo("\n".join(_lines(scores)))
    if out:
        write_json(out, scores)


class _WithLists(TyperCommand):
    """A list may go on over several words: `--seeds 0 1 2` is `--seeds "0 1 2"`."""

    lists = ("--methods", "--seeds", "--subjects", "--trials")

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        joined: list[str] = []
        for word in args:
            if joined[1:] and joined[-2] in self.lists and not word.startswith("-"):
                joined[-1] += f" {word}"
            else:
                joined.append(word)
        return super().parse_args(ctx, joined)


@app.command(cls=_WithLists)
def compare(
    dataset: Annotated[str, typer.Option(help="simulated | digits69 (cross-validated)")] = "simulated",
    path: DataPath = None,
    methods: Annotated[str, typer.Option(help="paper, ablation, or names: visdec,dc_ldm,ridge")] = "paper",
    seeds: Annotated[str, typer.Option(help="of training and painting: 0,1,2")] = "0,1,2",
    subjects: Annotated[str, typer.Option(help="of the simulated data set: 1,2,3")] = "1,2,3",
    preset: PresetName = "class",
    overrides: Overrides = None,
    trials: Annotated[str, typer.Option(help="learn from so many training trials as well: 300,1200")] = "",
    folds: Annotated[int, typer.Option(min=2, max=1000, help="of digits69")] = 10,
    workers: Annotated[int | None, typer.Option(min=0, help="processes; default: one a core; 0: none")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the results; default runs/compare-DATASET-PRESET")] = None,
    device: Device = None,
) -> None:
    """Train and score every method on the same data: results.csv, figures and report.html in OUT.

    Lists are written with commas or spaces: --seeds 0,1,2 or --seeds 0 1 2. The same command goes on where it stopped;
    more methods, seeds or subjects may be asked for in the same OUT. Exit status 1 if a cell failed, 130 after Ctrl-C.
    """
    from visdec_lite.comparison.cells import ComparisonSettings
    from visdec_lite.comparison.commands import run_comparison, split_list, whole_numbers

    settings = ComparisonSettings(
        dataset, None if path is None else str(path), tuple(split_list(methods)),
        whole_numbers(subjects, "--subjects"), whole_numbers(seeds, "--seeds"), preset, _pairs(overrides),
        whole_numbers(trials, "--trials"), folds, device,
    )  # fmt: skip
    out = out or Path("runs") / f"compare-{dataset}-{preset}"
    with _interruptible():
        failed = run_comparison(settings, out, workers=workers, say=typer.echo)
    if failed:
        raise typer.Exit(1)


@app.command()
def datasets() -> None:
    """Every data set: what it is, size, licence, what is on disk."""
    from visdec_lite.doctor import dataset_table

    typer.echo("\n".join(dataset_table()))


@app.command()
def doctor() -> None:
    """What is installed and at hand, and what to do about what is missing. Changes nothing."""
    from visdec_lite.doctor import examine

    typer.echo("\n".join(map(str, examine())))


app.command("app")(page.app)
app.add_typer(downloads, name="download")
teaching.mount(app)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the command with what was kept and how to go on; status 128 + signal."""
    try:
        with endings_interrupt():
            yield
    except KeyboardInterrupt as interrupt:
        typer.echo(f"\n{interrupt or 'interrupted'}", err=True)
        raise typer.Exit(exit_status(interrupt)) from interrupt


def _pairs(words: list[str] | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--set {word!r} has no '='; write --set finetuning.steps=200")
        if name.endswith(".seed"):
            raise ValueError(f"--set {word!r}: every stage is seeded by --seed; say --seed {value}")
        if name in pairs:
            raise ValueError(f"--set {name} is said twice, {pairs[name]!r} and {value!r}; say it once")
        pairs[name] = value
    return pairs


def _lines(scores: Mapping[str, dict]) -> list[str]:
    """Scores as text: value [95 % interval] (chance)."""
    lines = []
    for name, score in scores.items():
        low, high = score["ci95"]
        lines.append(f"    {name:14s} {score['value']:.3f} [{low:.3f}, {high:.3f}] ({score['chance']:.3f})")
    return lines


def main() -> None:
    """Entry point: an error is one sentence. Exit status 1 if it is of use, 70 if it is ours, 2 if of the words.

    Of our own errors the traceback is kept in a file, and the sentence says where.
    """
    try:
        app()
    except Exception as error:
        sentence, status = _told(error)
        typer.echo(f"error: {sentence}", err=True)
        sys.exit(status)


def _told(error: Exception) -> tuple[str, int]:
    """An error in one sentence, and the exit status."""
    words = error.args[0] if isinstance(error, KeyError) and error.args else error
    said = " ".join(str(words).split()) or f"{type(error).__name__} without a word"
    if isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said:
        return f"not enough memory ({said}); take a smaller preset, batch_size or num_samples", 1
    if isinstance(error, ValueError | OSError | FloatingPointError | ImportError) or _is_ours_to_say(error):
        return said, 1
    place = _keep_traceback(error)
    return f"{type(error).__name__}: {said}. This is a fault of visdec-lite; {place}", INTERNAL


def _is_ours_to_say(error: Exception) -> bool:
    """Whether a `raise` of this package made the error, in words meant for the user."""
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(__file__).resolve().parent)
    return bool(frames) and (
        str(Path(frames[-1].filename).resolve()).startswith(package)
        and linecache.getline(frames[-1].filename, frames[-1].lineno or 0).lstrip().startswith("raise ")
    )


def _keep_traceback(error: Exception) -> str:
    try:
        handle, name = tempfile.mkstemp(prefix="visdec-lite-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"visdec-lite {shlex.join(sys.argv[1:])}\n\n")
            file.write("".join(traceback.format_exception(error)))
    except OSError as reason:
        return f"its traceback could not be kept ({reason})"
    return f"its traceback is in {name}"
