"""Brain in, image out, with a hand on every knob.

In: a pipeline, a data set, and if there is one the referee. Out, for one stimulus: the activity the decoder is given,
pictures painted from it step by step, ridge regression's picture of the same activity, what the referee takes them for,
and the place of the true picture among others; each beside what guessing scores. What is done to the scan, in order:

    trials averaged -> voxels shuffled, another scan or none at all -> noise added -> gain of each region

A gain of 0 is a lesion: the region sits at the mean of every voxel, which says nothing. A picture is a guess that fits
the scan and the prior's idea of pictures; with no scan at all, what is left is the prior alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from einops import repeat

from visdec_lite.baselines.ridge import RidgeToImages
from visdec_lite.datasets import BrainDataset, Split
from visdec_lite.latent_diffusion import generators_of
from visdec_lite.pipeline import FMRIToImagePipeline
from visdec_lite.preprocessing import resize_images, to_uint8
from visdec_lite.widgets import brain_panes
from visdec_lite.widgets.base import Explorer, Pane, Report, no_report
from visdec_lite.widgets.brain_state import BrainResult, BrainState, identification_rank, in_words
from visdec_lite.widgets.drawing import turnable_brain
from visdec_lite.widgets.fusion import region_names
from visdec_lite.widgets.knobs import Knob
from visdec_lite.widgets.scans import fitted, known_positions
from visdec_lite.widgets.walk import Step, watched_walk

if TYPE_CHECKING:
    from visdec_lite.classifier import CategoryClassifier

CANDIDATES = 50  # pictures among which the true one is looked for, at most
MOST_REGIONS = 12  # that get a slider if none are named


class BrainToImageDemo(Explorer[BrainState, BrainResult]):
    """The whole chain with knobs: `BrainToImageDemo(pipe, dataset)`.

    Args:
        pipe: a trained pipeline, or the folder one was saved to.
        dataset: what it was trained on, z-scored; padded to whole patches or not.
        split: whose stimuli are shown; needs pictures.
        classifier: the referee, a `CategoryClassifier` or a function from uint8 images (n, h, w, 3) to probabilities
            (n, categories); None leaves its verdict out.
        ridge: fitted already; True fits one on `train` when it is first needed (seconds); False leaves it out.
        regions: those that get a slider; None: all, but not more than 12.
        positions: of the data set's voxels, mm in MNI space, (num_voxels, 3); None: known for the simulated
            cortex only.
        options: `state`, `live`, `strict` of `Explorer`.

    Raises:
        ValueError: the split has no pictures, a region is not there, or the pipeline reads other voxels.
    """

    title = "From brain to image"
    State = BrainState
    slow = True
    actions: ClassVar[Mapping[str, str]] = {
        "Surprise me": "surprise", "Shuffle the brain": "shuffle", "Heal the brain": "heal",
    }  # fmt: skip
    panes: ClassVar[Mapping[str, Pane]] = {
        "pictures": Pane(brain_panes.draw_pictures, brain_panes.say_pictures),
        "activity": Pane(brain_panes.draw_activity, brain_panes.say_activity),
        "scores": Pane(brain_panes.draw_scores, brain_panes.say_scores),
    }

    def __init__(
        self,
        pipe: FMRIToImagePipeline | str | os.PathLike[str],
        dataset: BrainDataset,
        split: str = "test",
        *,
        classifier: CategoryClassifier | Callable[[np.ndarray], np.ndarray] | None = None,
        ridge: RidgeToImages | bool = True,
        regions: Sequence[str] | None = None,
        positions: np.ndarray | None = None,
        state: BrainState | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(pipe, FMRIToImagePipeline):
            pipe = FMRIToImagePipeline.from_pretrained(pipe)
        self.pipe, self.dataset, self._split = pipe.eval(), dataset, dataset[split]
        if self._split.images is None:
            raise ValueError(f"split {split!r} of {dataset.name} has no pictures; choose a split with pictures")
        if missing := [name for name in regions or () if name not in dataset.rois]:
            raise ValueError(f"{dataset.name} has no region {', '.join(missing)}; it has {', '.join(dataset.rois)}")
        config = pipe.conditioner.encoder.config
        fitted(self._split.voxels[:1], config.num_voxels, config.patch_size)
        self._classify = getattr(classifier, "classify", classifier)
        self._ridge, self._positions = ridge, positions
        self._stimuli, first, counts = np.unique(self._split.stimulus, return_index=True, return_counts=True)
        self._first = first
        labels = self._split.labels
        names = ["a picture"] * len(first) if labels is None else [dataset.category_names[i] for i in labels[first]]
        self._names = names
        subjects = np.unique(self._split.subject)
        whose = {0: "all of them"} | ({int(s): f"subject {s}" for s in subjects} if len(subjects) > 1 else {})
        sliders = list(regions if regions is not None else list(dataset.rois)[:MOST_REGIONS])
        of_state = BrainState.__dataclass_fields__
        knobs = {
            "stimulus": Knob("picture seen", options={i: f"{i}: {name}" for i, name in enumerate(names)}),
            "gains": replace(of_state["gains"].metadata["knob"], options={name: name for name in sliders}),
            "trials": Knob("trials averaged", low=1, high=int(counts.max()), help="repeats of the same picture"),
            "subject": Knob("subject", options=whose),
        }
        super().__init__(state or BrainState(trials=int(counts.max())), knobs=knobs, **options)
        self.one_thread = self._size <= 64  # pixels
        if not dataset.simulated:
            self.title = f"{self.title}: {dataset.name}"
        else:
            self.title = f"{self.title}: simulated data, nobody was scanned"

    @classmethod
    def simulated(cls, split: str = "test", **options: Any) -> Self:
        """The shipped stages of the class preset on simulated subject 1, with the shipped referee."""
        from visdec_lite import chain
        from visdec_lite.datasets import load_dataset
        from visdec_lite.presets import preset

        chosen, folder = preset("class"), chain.shipped("simulated")
        dataset = chain.ready_for(load_dataset("simulated"), chosen)
        world = chain.load_world(folder, chosen)
        pipe = chain.load_brain(folder, dataset, world, chosen).pipeline(chosen)
        return cls(pipe, dataset, split, classifier=world.classifier, **options)

    # --- buttons ---

    def surprise(self) -> None:
        """Another picture: each once, in a random order, before any comes again."""
        order = np.random.default_rng(0).permutation(len(self._stimuli)).tolist()
        following = order[(order.index(self.state.stimulus) + 1) % len(order)]
        self.set(stimulus=following)

    def shuffle(self) -> None:
        """Shuffle the voxels, or put them back: the same activity, but nobody knows where."""
        self.set(scan="own" if self.state.scan == "shuffled" else "shuffled")

    def heal(self) -> None:
        """The scan as it was: no lesion, no noise, all trials."""
        self.set(gains={}, noise=0.0, scan="own", trials=int(self.knobs["trials"].high))

    # --- what the decoder is given ---

    def scan(self, state: BrainState) -> np.ndarray:
        """The voxels after all that the knobs do to them, float32 (num_voxels of the data set,)."""
        rng = np.random.default_rng(state.seed)
        stimulus = state.stimulus
        if state.scan == "another":
            stimulus = (stimulus + len(self._stimuli) // 2) % len(self._stimuli)
        voxels = self._averaged(stimulus, state)
        if state.scan == "shuffled":
            voxels = voxels[rng.permutation(len(voxels))]
        if state.scan == "none":
            voxels = np.zeros_like(voxels)
        if state.noise:
            voxels = voxels + state.noise * rng.standard_normal(len(voxels), dtype=np.float32)
        for region, gain in state.gains.items():
            voxels = np.where(self.dataset.rois[region], np.float32(gain) * voxels, voxels)
        return voxels.astype(np.float32)

    def _averaged(self, stimulus: int, state: BrainState) -> np.ndarray:
        rows = self._split.stimulus == self._stimuli[stimulus]
        if state.subject:
            rows &= self._split.subject == state.subject
        rows = np.flatnonzero(rows)[: state.trials]
        if not len(rows):
            raise ValueError(f"subject {state.subject} never saw picture {stimulus}; choose another of the two")
        return self._split.rows(rows).average_repeats().voxels[0]

    # --- the answer ---

    def compute(self, state: BrainState, report: Report = no_report) -> BrainResult:
        voxels, intact = self.scan(state), self._averaged(state.stimulus, state)
        size = self._size
        row = self._first[state.stimulus]
        started = BrainResult(
            seen=_sized(self._split.images[row : row + 1], size)[0],
            category=self._names[state.stimulus],
            scan=state.scan,
            voxels=voxels,
            intact=intact,
            activity=self._activity(voxels),
            activity_intact=self._activity(intact),
            images=np.full((state.samples, size, size, 3), 128, dtype=np.uint8),
            done=0,
            total=state.steps,
            positions=self._places,
            region_of=region_names(self.dataset.rois),
            simulated=self.dataset.simulated,
            changes=in_words(state),
        )
        report(0, state.steps + 1, lambda: started, ("activity",))

        def on_step(step: Step) -> None:
            def so_far() -> BrainResult:
                images = to_uint8(self.pipe.decode(step.estimate))
                return replace(started, images=images, done=step.number + 1, total=step.total)

            report(step.number + 1, step.total + 1, so_far, ("pictures",))

        painted = replace(started, images=self.paint(voxels, state, on_step), done=state.steps)
        report(state.steps, state.steps + 1, lambda: painted, ("pictures",))
        decoder = self.ridge
        ridge = None if decoder is None else _sized(decoder.reconstruct(voxels[None]), size)[0]
        return replace(painted, ridge=ridge, **self._verdict(painted), **self._ranks(painted, ridge, state.stimulus))

    @torch.no_grad()
    def paint(self, voxels: np.ndarray, state: BrainState, on_step: Callable[[Step], None]) -> np.ndarray:
        """`pipe(voxels, ...)` that can be watched; uint8 (samples, h, w, 3).

        With `scan="none"` the condition is the pipeline's own for "no scan", whatever the voxels.
        """
        pipe, config = self.pipe, self.pipe.conditioner.encoder.config
        fed = pipe.check_inputs(
            fitted(voxels[None], config.num_voxels, config.patch_size), state.samples, state.steps, 1
        )
        null = pipe.conditioner.null(state.samples)
        condition = tuple(
            repeat(c, "1 ... -> s ...", s=state.samples)
            for c in pipe.conditioner(fed.to(pipe.conditioner.device, pipe.conditioner.dtype))
        )
        side, channels = pipe.unet.config.sample_size, pipe.unet.config.in_channels
        generator = torch.Generator().manual_seed(state.seed)
        generators = generators_of(generator, state.samples)
        noise = torch.randn(state.samples, channels, side, side, generator=generator).to(condition[0])
        untold = state.scan == "none"
        latents = watched_walk(
            pipe.predict_noise, pipe.scheduler, noise, null if untold else condition, null, state.steps,
            1.0 if untold else state.guidance, on_step, generators,
        )  # fmt: skip
        return to_uint8(pipe.decode(latents))

    def _activity(self, voxels: np.ndarray) -> dict[str, float]:
        return {name: float(np.sqrt((voxels[mask] ** 2).mean())) for name, mask in self.dataset.rois.items()}

    def _verdict(self, painted: BrainResult) -> dict[str, Any]:
        """What the referee says of the pictures, beside what it says of the true one."""
        if self._classify is None:
            return {}
        answers = np.asarray(self._classify(np.concatenate([painted.seen[None], painted.images])), dtype=np.float64)
        truth, mean = int(answers[0].argmax()), answers[1:].mean(axis=0)
        count, names = len(mean), self.dataset.category_names
        names = names if len(names) == count else [f"category {index}" for index in range(count)]
        best = np.argsort(-mean, kind="stable")
        return {
            "top": tuple((names[index], float(mean[index])) for index in best[: min(5, count)]),
            "takes_seen_for": names[truth],
            "place": int(np.flatnonzero(best == truth)[0]) + 1,
            "categories": count,
        }

    def _ranks(self, painted: BrainResult, ridge: np.ndarray | None, stimulus: int) -> dict[str, Any]:
        others = np.delete(np.arange(len(self._stimuli)), stimulus)[: CANDIDATES - 1]
        size = painted.seen.shape[0]
        pictures = _sized(self._split.images[self._first[np.concatenate([[stimulus], others])]], size)
        return {
            "rank": identification_rank(painted.images, pictures),
            "ridge_rank": None if ridge is None else identification_rank(ridge[None], pictures),
            "candidates": len(pictures),
        }

    @cached_property
    def ridge(self) -> RidgeToImages | None:
        """The linear decoder beside ours; None if it was not wanted, or there is nothing to choose its penalty on."""
        if isinstance(self._ridge, RidgeToImages) or not self._ridge:
            return self._ridge or None
        train, val = (self.dataset.splits.get(name) for name in ("train", "val"))
        if not (_has_pictures(train) and _has_pictures(val)):
            return None
        return RidgeToImages().fit_images(train.voxels, train.images, val.voxels, val.images)

    @cached_property
    def _size(self) -> int:
        """Side of a painted picture in pixels."""
        return self.pipe.unet.config.sample_size * 2 ** (len(self.pipe.vqvae.config.block_out_channels) - 1)

    @cached_property
    def _places(self) -> np.ndarray | None:
        return known_positions(self.dataset, self._positions)

    def cortex(self, result: BrainResult) -> Any:
        """The voxels that the decoder is given, as a plotly figure; None where no positions are known."""
        if result.positions is None:
            return None
        return turnable_brain(result.positions, result.voxels, result.region_of, "z-score", signed=True)


def _sized(pictures: np.ndarray, size: int) -> np.ndarray:
    return pictures if pictures.shape[1] == size else resize_images(pictures, size)


def _has_pictures(split: Split | None) -> bool:
    return split is not None and split.images is not None
