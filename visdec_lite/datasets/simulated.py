"""A simulated visual cortex: the embedded data set, in which everything is known.

In: scenes (datasets.stimuli). Out: voxels, in the sample contract of `base`. Each region sees what its namesake is
known for:

* V1, V2, V3: oriented contrast energy (of lightness and of colour edges) and lightness inside population receptive
  fields that grow with eccentricity and from area to area, compressed as in Kay et al. (2013). They know where, and
  how bright.
* V4: opponent colour in wide fields, normalised by the colour energy there. It knows which colour.
* LOC: tuning to shape and colour wherever the object stands (Grill-Spector et al., 2001), graded by how alike two
  shapes look. It knows what.
* other: voxels that respond to nothing seen.

To the noiseless response each trial adds noise: independent, shared by many voxels (arousal, vessels), a slow drift
in each run, and what is left of the response to the picture before. A voxel's noise ceiling is the correlation of
one trial with its noiseless response. Design as in GOD (Horikawa & Kamitani, 2017): training images seen once, test
images of *other* categories seen 35 times. Nobody was scanned for this: whatever is made from it must be called
simulated.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter

from visdec_lite.datasets.base import BrainDataset, Split, fingerprint, trial_columns
from visdec_lite.datasets.stimuli import (
    CATEGORY_NAMES,
    COLOURS,
    SHAPES,
    Scenes,
    coverage,
    draw_scenes,
    render,
)
from visdec_lite.files import cache_home
from visdec_lite.preprocessing import ZScore
from visdec_lite.sealed import cached

# What the data are made by, read when it is imported: an edited simulation never meets an old cache.
_SOURCES = tuple(Path(__file__).with_name(name).read_bytes() for name in ("simulated.py", "stimuli.py"))
TITLE = "a simulated visual cortex: 1600 voxels, 4800 training pictures, 50 test pictures x 35"
MEGABYTES = 0.0  # built on this machine
LICENCE = "MIT, as the code that made it"
CITATION = "simulated by visdec_lite; design after Horikawa & Kamitani (2017), Nature Communications 8:15037"
RETINA = 32  # pixels a side that the cortex sees, whatever the size of the picture
TEST_CATEGORIES = np.array([shape * len(COLOURS) + shape % len(COLOURS) for shape in range(len(SHAPES))])
TRAIN_CATEGORIES = np.setdiff1d(np.arange(len(CATEGORY_NAMES)), TEST_CATEGORIES)


@dataclass(frozen=True)
class SimulationConfig:
    """The world and the experiment."""

    subject: int = 1  # 1.. ; layout, tuning and noise are the subject's own
    seed: int = 0  # of the experiment: which scenes, which noise
    image_size: int = 32  # pixels a side of the pictures handed to the models
    voxels: tuple[tuple[str, int], ...] = (  # multiples of 32, so that no patch straddles two regions
        ("V1", 384), ("V2", 320), ("V3", 256), ("V4", 256), ("LOC", 256), ("other", 128),
    )  # fmt: skip
    num_train: int = 4800  # single trials, 120 of each training category, as in BOLD5000; GOD has 1200
    num_val: int = 400  # single trials of new pictures of the training categories
    num_pretrain: int = 8000  # unlabelled scans: half this subject's, half of `pool_subjects` others
    pool_subjects: int = 3  # other people in the unlabelled pool
    num_test: int = 50  # pictures of the 10 test categories, which occur nowhere else
    num_test_seen: int = 50  # new pictures of training categories
    test_repeats: int = 35  # trials of each test picture, as in GOD
    ceiling: float = 0.80  # noise ceiling r of the best voxels; the median comes out near 0.37
    shared_noise: float = 0.25  # share of the noise variance that many voxels have in common
    drift: float = 0.10  # share of the noise variance that wanders slowly within a run
    carry_over: float = 0.05  # share that answers another picture: no number of voxels averages it away
    run_length: int = 60  # trials a run

    def __post_init__(self) -> None:
        counts = ("subject", "num_train", "num_val", "num_pretrain", "num_test", "num_test_seen", "test_repeats")
        lowest = {**dict.fromkeys(counts, 1), "run_length": 1, "pool_subjects": 0, "seed": 0}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise ValueError(f"SimulationConfig.{name} is {getattr(self, name)}, expected {least} or more")
        if not 0 < self.ceiling <= 1:
            raise ValueError(f"SimulationConfig.ceiling is {self.ceiling}, expected a correlation in (0, 1]")
        shares = (self.shared_noise, self.drift, self.carry_over)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(
                f"shared_noise, drift and carry_over are {shares}; they are shares of one variance: "
                "each at least 0, together at most 1"
            )


def region_masks(config: SimulationConfig) -> dict[str, np.ndarray]:
    """Region -> boolean mask over all voxels: the regions lie one after another."""
    region_of = np.repeat([name for name, _ in config.voxels], [count for _, count in config.voxels])
    return {name: region_of == name for name, _ in config.voxels}


class VisualCortex:
    """One simulated subject: layout and tuning of every voxel, then pictures in, responses out.

    Attributes:
        rois: region -> boolean mask over voxels.
        noise_ceiling: correlation of a single trial with the noiseless response, shape (num_voxels,).
    """

    def __init__(self, config: SimulationConfig) -> None:
        self.config = config
        rng = np.random.default_rng([2023, config.subject])
        self.rois = region_masks(config)
        total = sum(count for _, count in config.voxels)
        self._respond = {region: self._tune(region, count, rng) for region, count in config.voxels}
        self.noise_ceiling = config.ceiling * rng.beta(2.3, 2.6, total)
        self.noise_ceiling[self._silent] = 0.0
        shared = rng.standard_normal((12, total))  # 12 common sources of noise, felt with unit variance
        self._shared = shared / np.linalg.norm(shared, axis=0)
        self._calibrate()

    @property
    def num_voxels(self) -> int:
        return len(self.noise_ceiling)

    @property
    def _silent(self) -> np.ndarray:
        """Voxels that respond to nothing; none, if the config leaves them out."""
        return self.rois.get("other", np.zeros(sum(count for _, count in self.config.voxels), dtype=bool))

    def respond(self, scenes: Scenes) -> np.ndarray:
        """Noiseless responses, float32, shape (n, num_voxels): unit variance over the training categories."""
        return ((self._raw(scenes) - self._mean) / self._std).astype(np.float32)

    def measure(self, signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One noisy trial for each row of noiseless responses; same shape, unit variance a voxel."""
        n, config = len(signal), self.config
        private = rng.standard_normal(signal.shape, dtype=np.float32)
        shared = rng.standard_normal((n, len(self._shared))) @ self._shared
        phase = rng.uniform(0, 2 * np.pi, (2, -(-n // config.run_length), self.num_voxels))
        run, within = np.divmod(np.arange(n), config.run_length)
        drift = sum(
            np.sin(2 * np.pi * cycles * within[:, None] / config.run_length + phase[k, run])
            for k, cycles in enumerate((0.5, 1.0))
        )
        noise = np.sqrt(1 - config.shared_noise - config.drift - config.carry_over) * private
        noise += np.sqrt(config.shared_noise) * shared + np.sqrt(config.drift) * drift
        noise += np.sqrt(config.carry_over) * np.roll(signal, 1, axis=0)  # the trial before
        r = self.noise_ceiling
        return (r * signal + np.sqrt(1 - r**2) * noise).astype(np.float32)

    def _tune(self, region: str, count: int, rng: np.random.Generator) -> Callable[[_Seen], np.ndarray]:
        if region in ("V1", "V2", "V3"):
            return _EarlyArea(count, *{"V1": (0.07, 0.10), "V2": (0.09, 0.16), "V3": (0.12, 0.22)}[region], rng)
        if region == "V4":
            return _ColourArea(count, rng)
        if region == "LOC":
            return _ObjectArea(count, rng)
        if region == "other":
            return lambda seen: np.zeros((len(seen.scenes), count))
        raise ValueError(f"no region is called {region!r}; there are V1, V2, V3, V4, LOC and other")

    def _raw(self, scenes: Scenes) -> np.ndarray:
        parts = []
        for start in range(0, len(scenes), 1000):  # bounds the memory of the energy maps
            seen = _Seen(scenes.rows(slice(start, start + 1000)))
            parts.append(np.concatenate([respond(seen) for respond in self._respond.values()], axis=1))
        return np.concatenate(parts)

    def _calibrate(self) -> None:
        rng = np.random.default_rng([2023, self.config.subject, 1])
        raw = self._raw(draw_scenes(rng.choice(TRAIN_CATEGORIES, 1000), rng))
        self._mean, self._std = raw.mean(0), np.where(self._silent, 1.0, raw.std(0))


class _Seen:
    """What reaches the cortex: scenes, their pictures in [0, 1], and the contrast energy all early areas share."""

    CHANNELS = tuple((f, o * np.pi / 4) for f in (3.0, 6.0) for o in range(4))  # cycles an image, orientation

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes
        self.picture = render(scenes, RETINA).astype(np.float32) / 255
        self.grey = self.picture @ np.array([0.30, 0.59, 0.11], dtype=np.float32) - 0.45

    @cached_property
    def energy(self) -> np.ndarray:
        """Phase-invariant Gabor energy, summed over lightness and two opponent colours, at half resolution.

        V1 has cells for colour edges too: a shape as bright as its background is still somewhere. Shape
        (n, channels, (RETINA / 2) ** 2).
        """
        red, green, blue = np.moveaxis(self.picture, -1, 0)
        signals = np.stack([self.grey, 0.7 * (red - green), 0.7 * (blue - (red + green) / 2)], axis=1)
        spectrum = scipy.fft.fft2(signals - signals.mean((2, 3), keepdims=True))
        maps = [self._energy_at(spectrum, f * np.cos(o), f * np.sin(o), 0.35 * f) for f, o in self.CHANNELS]
        return np.stack(maps, axis=1).reshape(len(self.grey), len(maps), -1)

    @staticmethod
    def _energy_at(spectrum: np.ndarray, fx: float, fy: float, spread: float) -> np.ndarray:
        """Energy of Gabors at one frequency (cycles an image), shape (n, RETINA / 2, RETINA / 2).

        A one-sided Gaussian in the frequency plane is an analytic Gabor, and its modulus the energy. Only the part of
        the spectrum around its centre matters, so the inverse transform is a small one.
        """
        half = RETINA // 2
        x, y = (round(f) - half // 2 + np.arange(half) for f in (fx, fy))
        gabor = np.exp(-((x[None, :] - fx) ** 2 + (y[:, None] - fy) ** 2) / (2 * spread**2)).astype(np.float32)
        around = spectrum[:, :, y[:, None] % RETINA, x[None, :] % RETINA]
        return (np.abs(scipy.fft.ifft2(around * gabor)) ** 2).sum(1) / 16


class _EarlyArea:
    """Contrast energy and lightness in receptive fields of radius offset + slope * eccentricity."""

    def __init__(self, count: int, offset: float, slope: float, rng: np.random.Generator) -> None:
        # Cortical magnification: equal steps of cortex are equal steps of log eccentricity (Schwartz, 1980).
        eccentricity = 0.15 * (np.exp(rng.uniform(0, np.log(1.05 / 0.15 + 1), count)) - 1)
        angle = rng.uniform(-np.pi, np.pi, count)
        # Neighbours in the vector are neighbours on the cortex: sweep the angle, fold the eccentricity.
        ray = np.digitize(angle, np.linspace(-np.pi, np.pi, 17))
        order = np.lexsort((np.where(ray % 2, eccentricity, -eccentricity), ray))
        self.x = (eccentricity * np.cos(angle))[order]
        self.y = (eccentricity * np.sin(angle))[order]
        self.radius = offset + slope * eccentricity[order]
        weights = rng.dirichlet(np.full(len(_Seen.CHANNELS), 1.5), count)  # every voxel mixes orientation columns
        self.weights = weights.astype(np.float32)
        self.lightness = rng.normal(0, 1.0, count).astype(np.float32)
        self.fields = _gaussian_fields(self.x, self.y, self.radius, RETINA)
        self.coarse_fields = _gaussian_fields(self.x, self.y, self.radius, RETINA // 2)

    def __call__(self, seen: _Seen) -> np.ndarray:
        pooled = np.einsum("ncp,vp,vc->nv", seen.energy, self.coarse_fields, self.weights, optimize="greedy")
        light = seen.grey.reshape(len(seen.grey), -1) @ self.fields.T
        return np.sqrt(np.maximum(pooled, 0)) + 0.25 * self.lightness * light


class _ColourArea:
    """Opponent colour in wide fields, normalised by the colour energy there: the hue, not the amount."""

    OPPONENT = np.array([[1, -1, 0], [-0.5, -0.5, 1]], dtype=np.float32)  # red - green, blue - yellow

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        x, y = rng.normal(0, 0.25, (2, count))
        order = np.argsort(np.arctan2(y, x))
        self.fields = _gaussian_fields(x[order], y[order], rng.uniform(0.55, 0.9, count), RETINA)
        preferred = rng.uniform(-np.pi, np.pi, count)
        self.direction = np.stack([np.cos(preferred), np.sin(preferred)])

    def __call__(self, seen: _Seen) -> np.ndarray:
        opponent = seen.picture @ self.OPPONENT.T
        strength = np.sqrt((opponent**2).sum(-1, keepdims=True))
        opponent = opponent * strength  # saturated paint counts, pale texture hardly
        pooled = np.einsum("npc,vp->nvc", opponent.reshape(len(opponent), -1, 2), self.fields, optimize=True)
        projected = np.einsum("nvc,cv->nv", pooled, self.direction)
        return np.maximum(projected, 0) / (np.sqrt((pooled**2).sum(-1)) + 1e-3)


class _ObjectArea:
    """Tuning to shape (graded) and hue, tolerant of place."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self.embedding = _shape_embedding()
        home = rng.integers(len(SHAPES), size=count)
        preferred = self.embedding[home] + 0.35 * rng.standard_normal((count, self.embedding.shape[1]))
        self.preferred = (preferred / np.linalg.norm(preferred, axis=1, keepdims=True)).T
        self.hue = rng.uniform(-np.pi, np.pi, count)
        self.hue_gain = rng.uniform(0.05, 0.3, count)
        order = np.argsort(home, kind="stable")  # like prefers like, as in columns of inferotemporal cortex
        self.preferred, self.hue, self.hue_gain = (
            self.preferred[:, order],
            self.hue[order],
            self.hue_gain[order],
        )

    def __call__(self, seen: _Seen) -> np.ndarray:
        scenes = seen.scenes
        shape = np.exp(2.0 * (self.embedding[scenes.shape] @ self.preferred - 1))
        hue = np.cos(2 * np.pi * scenes.colour[:, None] / len(COLOURS) - self.hue)
        tolerance = np.exp(-(scenes.x**2 + scenes.y**2) / (2 * 0.7**2))[:, None]
        return (shape + self.hue_gain * hue) * tolerance


def _shape_embedding() -> np.ndarray:
    """A unit vector for each shape, shape (10, 10); their products are graded by how alike the shapes look."""
    n = len(SHAPES)
    zero = np.zeros(n)
    scenes = Scenes(np.arange(n), zero.astype(int), zero, zero, np.full(n, 0.45), zero, zero.astype(int))
    looks = np.stack([gaussian_filter(mask, 1.5) for mask in coverage(scenes, RETINA)]).reshape(n, -1)
    similarity = 0.5 * np.eye(n) + 0.5 * np.corrcoef(looks)
    values, vectors = np.linalg.eigh(similarity)
    return vectors * np.sqrt(np.maximum(values, 0))


def _gaussian_fields(x: np.ndarray, y: np.ndarray, radius: np.ndarray, size: int) -> np.ndarray:
    """Receptive fields that sum to 1, float32, shape (voxels, size * size)."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    gx = np.exp(-((axis[None] - x[:, None]) ** 2) / (2 * radius[:, None] ** 2))
    gy = np.exp(-((-axis[None] - y[:, None]) ** 2) / (2 * radius[:, None] ** 2))
    fields = gy[:, :, None] * gx[:, None, :]
    return (fields / fields.sum((1, 2), keepdims=True)).reshape(len(x), -1).astype(np.float32)


def labelled_pictures(
    count: int, seed: int, image_size: int = 32, part: Literal["train", "val"] = "train"
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of all 50 categories with their labels, seen by no brain: what the prior and the referee learn from.

    Args:
        part: `train` and `val` draw from streams of their own, whatever the seeds.

    Returns:
        images uint8 (count, size, size, 3) and labels int64 (count,), every category equally often (+-1).
    """
    streams = {"train": 1, "val": 2}
    if part not in streams:
        raise ValueError(f"part is {part!r}, expected 'train' or 'val'")
    rng = np.random.default_rng([streams[part], seed])
    labels = rng.permutation(np.resize(np.arange(len(CATEGORY_NAMES)), count))
    return render(draw_scenes(labels, rng), image_size), labels


def found(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Nothing has to be on disk."""
    return []


def load(
    config: SimulationConfig | None = None, cache: str | os.PathLike[str] | None = None, **overrides: object
) -> BrainDataset:
    """The simulated data set; built in seconds, then read from the cache.

    Args:
        config: the world; None for the default one.
        cache: folder to keep it in; None takes `files.cache_home()`. What cannot be kept is built every time.
        overrides: fields of SimulationConfig, when no config is passed.

    Returns:
        Splits pretrain (no images), train, val, test and test_seen; the same for the same config, cached or not.
    """
    if config is not None and overrides:
        raise ValueError(f"pass a config or single fields, not both; got a config and {sorted(overrides)}")
    known = {field.name for field in fields(SimulationConfig)}
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"the simulation has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    config = config or SimulationConfig(**overrides)
    mark = fingerprint(repr(sorted(asdict(config).items())), *_SOURCES)
    path = Path(cache or cache_home()) / f"simulated-{mark[:16]}.safetensors"
    return _assemble(config, cached(path, lambda: _simulate(config)), mark)


def _simulate(config: SimulationConfig) -> dict[str, np.ndarray]:
    """Every array of every split under the name split/column, voxels not yet z-scored."""
    cortex = VisualCortex(config)
    seeds = np.random.SeedSequence([config.seed, config.subject]).spawn(5)
    rngs = dict(zip(("pretrain", "train", "val", "test", "test_seen"), map(np.random.default_rng, seeds), strict=True))
    columns: dict[str, np.ndarray] = {}
    for split in ("train", "val", "test", "test_seen"):
        rng = rngs[split]
        categories = TEST_CATEGORIES if split == "test" else TRAIN_CATEGORIES
        labels = rng.permutation(np.resize(categories, getattr(config, f"num_{split}")))
        scenes, repeats = draw_scenes(labels, rng), config.test_repeats if split.startswith("test") else 1
        # Every picture once before any a second time, each round in a new order, as in a scanner.
        order = np.concatenate([rng.permutation(len(scenes)) for _ in range(repeats)])
        columns[f"{split}/voxels"] = cortex.measure(cortex.respond(scenes)[order], rng)
        columns[f"{split}/images"] = render(scenes, config.image_size)[order]
        columns[f"{split}/labels"] = labels[order]
        columns[f"{split}/stimulus"] = order.astype(np.int64)
    columns.update(_simulate_pool(config, cortex, rngs["pretrain"]))
    columns["noise_ceiling"] = cortex.noise_ceiling
    return columns


def _simulate_pool(config: SimulationConfig, own: VisualCortex, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Unlabelled scans of this subject and of others; each person is z-scored alone, as one would."""
    others = [s for s in range(1, config.pool_subjects + 2) if s != config.subject][: config.pool_subjects]
    share = config.num_pretrain // 2 // max(len(others), 1)
    counts = {config.subject: config.num_pretrain - share * len(others), **dict.fromkeys(others, share)}
    voxels, subject = [], []
    for person, count in counts.items():
        if count:
            cortex = own if person == config.subject else VisualCortex(replace(config, subject=person))
            measured = cortex.measure(cortex.respond(draw_scenes(rng.choice(TRAIN_CATEGORIES, count), rng)), rng)
            voxels.append(ZScore.fit(measured).apply(measured) if count > 1 else measured)
            subject.append(np.full(count, person, dtype=np.int64))
    return {"pretrain/voxels": np.concatenate(voxels), "pretrain/subject": np.concatenate(subject)}


def _assemble(config: SimulationConfig, columns: dict[str, np.ndarray], mark: str) -> BrainDataset:
    zscore = ZScore.fit(columns["train/voxels"])
    splits = {}
    for name in ("train", "val", "test", "test_seen"):
        splits[name] = Split(
            voxels=zscore.apply(columns[f"{name}/voxels"]),
            images=columns[f"{name}/images"],
            labels=columns[f"{name}/labels"],
            stimulus=columns[f"{name}/stimulus"],
            **trial_columns(len(columns[f"{name}/labels"]), config.subject, config.run_length),
        )
    pool, subject = columns["pretrain/voxels"], columns["pretrain/subject"]
    meta = trial_columns(len(pool), config.subject, config.run_length)
    splits["pretrain"] = Split(pool, None, None, stimulus=meta["trial"], **{**meta, "subject": subject})
    return BrainDataset(
        name="simulated",
        splits=splits,
        category_names=CATEGORY_NAMES,
        rois=region_masks(config),
        simulated=True,
        licence=LICENCE,
        citation=CITATION,
        fingerprint=mark,
    )
