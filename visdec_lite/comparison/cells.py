"""One cell of the comparison: a method, a brain, a seed. Trained, painted, scored and kept, or found as it was kept.

In: settings, a cell of `plan`. Out, in OUT/cells/<method>/<brain and seed>/:

    pictures.npz    what was painted under every condition, beside what was seen
    scores.json     one number a stimulus for every condition and metric (not for a fold: folds are pooled first)
    cell.json       seconds, parameters, tuning, versions, fingerprint; its presence says that the cell is finished

The same pictures are painted for every method: with the same scans, the same added noise and the same seed, which
differs from brain to brain and from fold to fold.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visdec_lite import chain
from visdec_lite.comparison.fitting import Fitted, Job
from visdec_lite.comparison.methods import Method, choose_methods, trained_for
from visdec_lite.comparison.scores import Pictures, score_pictures
from visdec_lite.datasets import BrainDataset, Split, load_dataset
from visdec_lite.datasets.recordings import reading
from visdec_lite.demo import first_trials, versions
from visdec_lite.fields import COUNT, SEED, whole
from visdec_lite.files import atomic_path, digest_of, read_json, sha256_of, write_json
from visdec_lite.identity import differences, flat
from visdec_lite.presets import Preset, override, preset_for_comparison

NOISE = (1, 2)  # standard deviations added to averaged, z-scored test scans
FEW_REPEATS = 5  # repeats averaged, between one and all
FEW_SAMPLES = 2  # pictures a scan under all conditions but the main one
SUBJECT = whole(1)
WORLD_FILES = ("diffusion", "classifier", "image_autoencoder", "icgan")


@dataclass(frozen=True)
class Cell:
    """What is trained at once.

    Attributes:
        fold: test part i of k, where brains are few and trials are dealt; else None.
        trials: training trials, so many at random, the same for every method; fewer are part of more. None: all.
    """

    method: str
    subject: int
    seed: int
    fold: tuple[int, int] | None = None
    trials: int | None = None

    @property
    def name(self) -> str:
        fold = "" if self.fold is None else f"-fold{self.fold[0]}of{self.fold[1]}"
        trials = "" if self.trials is None else f"-trials{self.trials}"
        return f"{self.method}/subject{self.subject}-seed{self.seed}{fold}{trials}"


@dataclass(frozen=True)
class ComparisonSettings:
    """What to compare. More methods, subjects, seeds or trials may be asked for later in the same folder."""

    dataset: str = "simulated"
    path: str | None = None  # of the data set's file, where it needs one
    methods: tuple[str, ...] = ("paper",)
    subjects: tuple[int, ...] = (1, 2, 3)  # of the simulated data set
    seeds: tuple[int, ...] = (0, 1, 2)  # of training and painting; the data stay the same
    preset: str = "class"
    overrides: dict[str, Any] = field(default_factory=dict)  # preset fields by dotted path
    trials: tuple[int, ...] = ()  # further cells that learn from so many training trials, drawn
    folds: int = 10  # of digits69, which has one subject and few trials
    device: str | None = None

    def __post_init__(self) -> None:
        if self.dataset not in chain.PICTURES:
            raise ValueError(
                f"no prior is shipped for {self.dataset!r}, and all methods must share one; "
                f"a comparison knows {', '.join(chain.PICTURES)}"
            )
        for name, rule in (("subjects", SUBJECT), ("seeds", SEED), ("trials", COUNT), ("folds", whole(2, 1000))):
            values = (self.folds,) if name == "folds" else getattr(self, name)
            if (not values and name != "trials") or not all(map(rule.holds, values)):
                raise ValueError(f"{name} are {list(values)}, expected {rule.words}")
            if len(set(values)) < len(values):
                raise ValueError(f"{name} are {list(values)}, expected each once")
        for method in trained_for(choose_methods(self.methods)):
            self.preset_of(method, self.seeds[0])

    @property
    def folded(self) -> bool:
        return self.dataset == "digits69"

    def preset_of(self, method: Method, seed: int) -> Preset:
        """Every number of a cell, the method's own changes last."""
        chosen = preset_for_comparison(self.dataset, self.preset, **self.overrides)
        chosen = chosen.with_categories(len(chain.CATEGORIES[self.dataset]))
        return override(chosen, method.overrides).with_seed(seed)

    def load(self, cell: Cell) -> BrainDataset:
        """The data of a cell: its subject or its fold, its training trials."""
        options: dict[str, Any] = {} if self.path is None else {"root": self.path}
        options |= {"fold": cell.fold} if self.folded else {"subject": cell.subject}
        dataset = load_dataset(self.dataset, **options)
        if cell.trials is None:
            return dataset
        train = dataset["train"]
        if cell.trials > len(train):
            raise ValueError(f"{cell.trials} training trials asked, {dataset.name} has {len(train)}; ask for fewer")
        fewer = train.rows(np.random.default_rng(0).permutation(len(train))[: cell.trials])  # files may be sorted
        return replace(dataset, splits={**dataset.splits, "train": fewer})


def plan(settings: ComparisonSettings) -> list[Cell]:
    """Every cell there is to train, the short ones last, so that no process waits long for another."""
    methods = trained_for(choose_methods(settings.methods))
    folds = [(i, settings.folds) for i in range(settings.folds)] if settings.folded else [None]
    subjects = (1,) if settings.folded else settings.subjects
    cells = []
    for trials in (None, *settings.trials):
        for seed in settings.seeds:
            for subject in subjects:
                for fold in folds:
                    cells += [
                        Cell(method.name, subject, seed, fold, trials)
                        for method in methods
                        if (method.seeded or seed == settings.seeds[0]) and (trials is None or method.reads_scans)
                    ]
    seeded = {method.name: method.seeded for method in methods}
    return sorted(cells, key=lambda cell: not seeded[cell.method])


def settings_of(settings: ComparisonSettings, cell: Cell) -> dict[str, Any]:
    """All that shapes a cell, flat, as JSON keeps it."""
    (method,) = choose_methods([cell.method])
    chosen = settings.preset_of(method, cell.seed).as_dict()
    world = dict(_world_marks(settings.dataset))
    if cell.method not in ("ic_gan", "ss_ae"):
        world.pop("weights icgan", None)
    own = flat(asdict(method.numbers), f"{method.name}.") if method.numbers else {}
    data = {"fingerprint": _fingerprint(settings.dataset, settings.path, cell.subject, cell.fold)}
    facts = {"dataset": settings.dataset, **data, **asdict(cell), **flat(chosen), **own, **world}
    return json.loads(json.dumps(facts))


@cache
def _fingerprint(dataset: str, path: str | None, subject: int, fold: tuple[int, int] | None) -> str:
    """Of the data of a brain: another file under the same path is another brain."""
    options: dict[str, Any] = {} if path is None else {"root": path}
    return load_dataset(dataset, **options, **({"subject": subject} if fold is None else {"fold": fold})).fingerprint


def identity_of(settings: ComparisonSettings, cell: Cell) -> str:
    """16 digits for all that shapes a cell: two rows with the same are of the same."""
    return digest_of(settings_of(settings, cell))[:16]


@cache  # asked for every cell, and shipped weights do not change while a command runs
def _world_marks(dataset: str) -> dict[str, str]:
    """The beginning of the hash of every shipped file that a cell starts from."""
    paths = {name: chain.shipped(dataset) / f"{name}.safetensors" for name in WORLD_FILES}
    return {f"weights {name}": sha256_of(path)[:16] for name, path in paths.items() if path.exists()}


def folder_of(out: Path, cell: Cell) -> Path:
    return out / "cells" / cell.name


def is_finished(out: Path, cell: Cell) -> bool:
    return (folder_of(out, cell) / "cell.json").exists()


def check_kept(settings: ComparisonSettings, cells: Iterable[Cell], out: Path) -> None:
    """What stands in OUT was made with the same settings.

    Raises:
        ValueError: it was not; each difference is named.
    """
    for cell in cells:
        note = folder_of(out, cell) / "settings.json"
        if note.exists() and (words := differences(read_json(note), settings_of(settings, cell), most=6)):
            raise ValueError(
                f"{note.parent} was made with other settings: {words}. Go back to those settings, choose another "
                "--out or delete that folder"
            )


def run_cell(settings: ComparisonSettings, cell: Cell, out: Path, *, progress: bool = False) -> None:
    """Train, paint, score, keep. A cell that was cut goes on from its checkpoints."""
    (method,) = choose_methods([cell.method])
    check_kept(settings, [cell], out)
    folder = folder_of(out, cell)
    write_json(folder / "settings.json", settings_of(settings, cell))
    chosen = settings.preset_of(method, cell.seed)
    dataset = chain.ready_for(settings.load(cell), chosen)
    options = {"progress": progress} | ({} if settings.device is None else {"device": settings.device})
    job = Job(settings.dataset, dataset, chosen, cell.seed, folder, out / "phase1", options)
    assert method.fit is not None, f"{method.name} is derived, not trained"
    fitted = method.fit(job)
    started = time.perf_counter()
    pictures = paint_conditions(dataset, method, fitted, cell, chosen.sampling.num_samples)
    seconds = {**fitted.seconds, "paint": time.perf_counter() - started}
    keep_pictures(folder / "pictures.npz", pictures)
    if cell.fold is None:
        scores = score_pictures(method.name, pictures, job.world().classifier, cell.seed)
        write_json(folder / "scores.json", scores)
    write_json(
        folder / "cell.json",
        {
            "cell": asdict(cell),
            "preset": settings.preset,
            "overrides": {**settings.overrides, **method.overrides},
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            "num_parameters": int(fitted.num_parameters),
            "tuning": list(fitted.tuning),
            "training_trials": len(dataset["train"]),
            "repeats_averaged": round(len(dataset["test"]) / len(pictures["test"].truth)),
            "simulated": dataset.simulated,
            "fingerprint": dataset.fingerprint,
            "identity": identity_of(settings, cell),
            "versions": versions(),
        },
    )
    shutil.rmtree(folder / "stages", ignore_errors=True)  # checkpoints; the weights beside them stay


def paint_conditions(
    dataset: BrainDataset, method: Method, fitted: Fitted, cell: Cell, num_samples: int
) -> dict[str, Pictures]:
    """Pictures under every condition, each painted with the cell's seed anew.

    A cell of fewer training trials paints `test` alone, and so does a method that reads no scans (`test_seen` too).
    """
    painted, seed = {}, noise_seed(cell)
    for name, split in conditions(dataset, seed).items():
        wanted = ("test",) if cell.trials is not None else ("test", "test_seen") if not method.reads_scans else (name,)
        if name not in wanted:
            continue
        samples = num_samples if name == "test" else min(num_samples, FEW_SAMPLES)
        made = np.asarray(fitted.paint(split, samples, torch.Generator().manual_seed(seed)))
        made = made[:, None] if made.ndim == 4 else made
        painted[name] = Pictures(made, split.images, split.stimulus)
    return painted


def noise_seed(cell: Cell) -> int:
    """Of the noise that pictures start from and that is added to scans: one a seed, brain and fold, for all methods."""
    fold = 0 if cell.fold is None else cell.fold[0] + 1
    return int(np.random.SeedSequence([cell.seed, cell.subject, fold]).generate_state(1)[0])


def conditions(dataset: BrainDataset, seed: int) -> dict[str, Split]:
    """Name -> test scans: repeats averaged, single trials, seen categories; fewer repeats and more noise."""
    test = dataset["test"]
    averaged = test.average_repeats()
    scans = {"test": averaged}
    if len(averaged) < len(test):
        scans["single_trial"] = first_trials(test)
    if "test_seen" in dataset.splits:
        scans["test_seen"] = dataset["test_seen"].average_repeats()
    if len(test) > FEW_REPEATS * len(averaged):
        scans[f"repeats_{FEW_REPEATS}"] = first_repeats(test, FEW_REPEATS).average_repeats()
    noise = np.random.default_rng([seed, 1]).standard_normal(averaged.voxels.shape, dtype=np.float32)
    for level in NOISE:
        scans[f"noise_{level}"] = replace(averaged, voxels=averaged.voxels + level * noise)
    return scans


def first_repeats(split: Split, count: int) -> Split:
    """The first `count` trials of every stimulus."""
    order = np.argsort(split.stimulus, kind="stable")
    numbers, first = np.unique(split.stimulus[order], return_index=True)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - first[np.searchsorted(numbers, split.stimulus[order])]
    return split.rows(rank < count)


def keep_pictures(path: Path, pictures: Mapping[str, Pictures]) -> None:
    """Arrays under the name condition/column."""
    arrays = {f"{name}/{column}": value for name, kept in pictures.items() for column, value in vars(kept).items()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def kept_pictures(path: Path) -> dict[str, Pictures]:
    """What `keep_pictures` kept.

    Raises:
        ValueError: the file is damaged.
    """
    anew = f"delete {path.parent} and run the command again"
    with reading(path, "kept pictures", anew), np.load(path, allow_pickle=False) as file:
        names = list(dict.fromkeys(name.split("/")[0] for name in file.files))
        return {
            name: Pictures(file[f"{name}/images"], file[f"{name}/truth"], file[f"{name}/stimulus"]) for name in names
        }


def kept_record(out: Path, cell: Cell) -> dict[str, Any]:
    """cell.json of a finished cell."""
    return read_json(folder_of(out, cell) / "cell.json", "seconds", "tuning", "identity")
