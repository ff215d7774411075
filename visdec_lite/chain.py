"""The whole chain for one data set: which stage gets which data, and where its result is kept.

In: a data set and a preset. Out: trained parts, kept as one safetensors file a stage:

    world/   diffusion, classifier, image_autoencoder    pictures and labels only, before any brain
    brain/   pretrain, fuse, finetune                      one subject's fMRI, phase after phase

Each stage starts from the file of the one before it, so a late student can join anywhere, and a stage whose
file is there is not trained again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from visdec_lite import stages
from visdec_lite.baselines.instance_gan import InstanceGAN, InstanceGANConfig
from visdec_lite.classifier import CategoryClassifier
from visdec_lite.conditioning import FMRIConditioner
from visdec_lite.datasets import BrainDataset, digits69, simulated, stimuli
from visdec_lite.datasets.shards import Shards
from visdec_lite.fields import check_hides
from visdec_lite.fusion import CrossModalFusion, ImageMaskedAutoencoder
from visdec_lite.latent_diffusion import LatentDiffusion
from visdec_lite.masked_autoencoder import MaskedAutoencoder
from visdec_lite.pipeline import FMRIToImagePipeline
from visdec_lite.preprocessing import pad_voxels, resize_images
from visdec_lite.presets import Preset
from visdec_lite.stages import ConditionedDiffusion
from visdec_lite.training import TrainingConfig, TrainingResult
from visdec_lite.weights import load_weights, read_metadata, save_weights

logger = logging.getLogger(__name__)

# the pictures of a data set's world, drawn without any brain; and the names of their labels
PICTURES: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "simulated": simulated.labelled_pictures,
    "digits69": digits69.labelled_pictures,
}
CATEGORIES = {"simulated": stimuli.CATEGORY_NAMES, "digits69": digits69.CATEGORY_NAMES}
WORLD_STAGES = ("diffusion", "classifier", "image_autoencoder")
BRAIN_STAGES = ("pretrain", "fuse", "finetune")


def shipped(dataset: str) -> Path:
    """Folder of the weights that come with the package for a data set's kind of pictures."""
    return Path(str(files("visdec_lite"))) / "assets" / dataset


@dataclass
class Run:
    """Where a chain keeps its files, and what its stages took.

    Attributes:
        folder: checkpoints and weights; None keeps nothing.
        seconds: stage -> wall-clock seconds.
        histories: stage -> rows of `TrainingResult.history`.
        identities: stage -> all that shaped it, `TrainingResult.identity`; it stands in the weights as well.
        half: keep weights as float16.
        options: handed to `training.fit` (device, progress).
    """

    folder: Path | None = None
    half: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    histories: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    identities: dict[str, dict[str, Any]] = field(default_factory=dict)

    def stage(
        self,
        name: str,
        model: nn.Module,
        config: dict[str, Any],
        train: Callable[..., TrainingResult],
        training: TrainingConfig,
        *,
        only: Callable[[str], bool] | None = None,
    ) -> None:
        """Train `model`, or load what an earlier run left."""
        started = time.perf_counter()
        result = train(out_dir=self.folder and self.folder / "stages" / name, description=name, **self.options)
        self.seconds[name] = result.seconds or time.perf_counter() - started
        self.histories[name], self.identities[name] = result.history, result.identity
        if self.folder:
            card = {
                "steps": training.steps, "batch_size": training.batch_size, "seed": training.seed,
                "seconds": round(result.seconds, 1), "best_step": result.best_step, "best_value": result.best_value,
            }  # fmt: skip
            path = self.folder / f"{name}.safetensors"
            save_weights(
                path, model, name, config, only=only, half=self.half, card=card, identity=result.identity
            )


@dataclass
class World:
    """What is known of pictures before any brain is measured."""

    diffusion: LatentDiffusion  # first stage and label-to-image prior
    classifier: CategoryClassifier  # the referee
    image_autoencoder: ImageMaskedAutoencoder  # E_I, D_I of phase 2

    def parts(self) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
        """File name -> part and the config it depends on."""
        return {name: (part, asdict(part.config)) for name, part in vars(self).items()}


def seeded(seed: int, build: Callable[[], nn.Module]) -> Any:
    """A module with the random start of `seed`; the caller's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def new_world(preset: Preset, seed: int) -> World:
    """Untrained parts."""
    return World(
        diffusion=seeded(seed, lambda: LatentDiffusion(preset.diffusion)),
        classifier=seeded(seed + 1, lambda: CategoryClassifier(preset.classifier)),
        image_autoencoder=seeded(seed + 2, lambda: ImageMaskedAutoencoder(preset.image_autoencoder)),
    )


def train_world(dataset: str, preset: Preset, seed: int, run: Run) -> World:
    """First stage, prior, referee and image autoencoder, from pictures of a data set's world.

    Args:
        dataset: "simulated" (rendered scenes) or "digits69" (handwritten digits, without its stimuli).

    Raises:
        ValueError: there are no pictures of that name.
    """
    check_world(dataset, preset)
    world, size = new_world(preset, seed), preset.diffusion.image_size
    draw, count = PICTURES[dataset], preset.prior_pictures
    images, labels = draw(count, seed=seed, image_size=size, part="train")
    images_val, labels_val = draw(max(200, count // 20), seed=seed, image_size=size, part="val")
    classifier = world.classifier
    run.stage("classifier", classifier, asdict(classifier.config), lambda **o: stages.train_classifier(
        classifier, images, labels, images_val, labels_val, preset.refereeing, **o), preset.refereeing)  # fmt: skip
    eye = world.image_autoencoder
    run.stage("image_autoencoder", eye, asdict(eye.config), lambda **o: stages.pretrain_images(
        eye, for_eye(images, eye), for_eye(images_val, eye), preset.image_pretraining, **o),
        preset.image_pretraining)  # fmt: skip
    diffusion = world.diffusion
    run.stage("first_stage", diffusion, asdict(diffusion.config), lambda **o: stages.train_first_stage(
        diffusion, images, images_val, preset.first_stage, **o), preset.first_stage)  # fmt: skip
    run.stage("diffusion", diffusion, asdict(diffusion.config), lambda **o: stages.train_prior(
        diffusion, images, labels, images_val, labels_val, preset.prior, **o), preset.prior)  # fmt: skip
    return world


def check_world(dataset: str, preset: Preset) -> None:
    """What `train_world` needs, before anything is drawn or trained.

    Raises:
        ValueError: no pictures of that name, or fewer than a stage takes at once.
    """
    if dataset not in PICTURES:
        raise ValueError(f"no pictures to learn a prior from for {dataset!r}; there are {', '.join(PICTURES)}")
    for stage in ("refereeing", "image_pretraining", "first_stage", "prior"):
        _check_rows(stage, getattr(preset, stage), preset.prior_pictures, "prior_pictures")


def _check_rows(stage: str, training: TrainingConfig, rows: int, what: str) -> None:
    if training.batch_size > rows:
        raise ValueError(f"{stage}.batch_size is {training.batch_size}, there are {rows} {what}; lower batch_size")


def for_eye(images: np.ndarray, eye: ImageMaskedAutoencoder) -> np.ndarray:
    """Images at the size of the image autoencoder: at paper scale 224 pixels, where the diffusion model paints 256."""
    return images if images.shape[1] == eye.config.image_size else resize_images(images, eye.config.image_size)


def load_world(folder: Path, preset: Preset) -> World:
    """Trained parts from a folder of `train_world`, or a shipped one."""
    world = new_world(preset, seed=0)
    for name, (part, config) in world.parts().items():
        load_weights(folder / f"{name}.safetensors", part, name, config)
        part.eval()
    return world


def load_instance_gan(folder: Path) -> InstanceGAN:
    """The GAN of the comparator IC-GAN, from a shipped folder; it has its sizes in its file."""
    path = folder / "icgan.safetensors"
    config = InstanceGANConfig(**read_metadata(path)["config"])
    gan = InstanceGAN(config)
    load_weights(path, gan, "icgan", asdict(config))
    return gan.eval()


# --- one subject's brain ---


def ready_for(dataset: BrainDataset, preset: Preset) -> BrainDataset:
    """The data set with voxels padded to whole patches (said in the log) and images checked.

    Raises:
        ValueError: the images have another size than the preset paints.
    """
    if any(split.images is not None for split in dataset.splits.values()) and (
        dataset.image_size != preset.diffusion.image_size
    ):
        raise ValueError(
            f"{dataset.name} has images of {dataset.image_size} pixels, preset {preset.name!r} paints "
            f"{preset.diffusion.image_size}; load the data at that size, or override diffusion.image_size"
        )
    multiple = preset.autoencoder.patch_size
    padding = -dataset.num_voxels % multiple
    if not padding:
        return dataset
    logger.info("padding %d voxels by %d to fill the last patch of %d", dataset.num_voxels, padding, multiple)
    splits = {n: replace(s, voxels=_padded(s.voxels, multiple)) for n, s in dataset.splits.items()}
    rois = {name: np.pad(mask, (0, padding)) for name, mask in dataset.rois.items()}
    return replace(dataset, splits=splits, rois=rois)


def _padded(voxels: np.ndarray | Shards, multiple: int) -> np.ndarray | Shards:
    """A pool on disk is padded where it is read."""
    return pad_voxels(voxels, multiple)[0] if isinstance(voxels, np.ndarray) else voxels.padded(multiple)


@dataclass
class Brain:
    """The trained parts of one subject, and the pipeline made of them."""

    autoencoder: MaskedAutoencoder
    fusion: CrossModalFusion
    conditioned: ConditionedDiffusion

    def pipeline(self, preset: Preset) -> FMRIToImagePipeline:
        return FMRIToImagePipeline.from_parts(
            self.conditioned.conditioner, self.conditioned.diffusion, preset.sampling.sampler
        )


def new_brain(preset: Preset, num_voxels: int, world: World, seed: int) -> Brain:
    """Untrained parts on a trained world (whose diffusion model and image autoencoder are taken, not copied)."""
    config = preset.with_voxels(num_voxels)
    autoencoder = seeded(seed, lambda: MaskedAutoencoder(config))
    fusion = seeded(seed + 1, lambda: CrossModalFusion(autoencoder, world.image_autoencoder, preset.fusion))
    diffusion = preset.diffusion
    conditioner = seeded(seed + 2, lambda: FMRIConditioner(
        asdict(config), preset.context_tokens, diffusion.context_dim, diffusion.time_dim))  # fmt: skip
    return Brain(autoencoder, fusion, ConditionedDiffusion(conditioner, world.diffusion))


def train_brain(
    dataset: BrainDataset,
    world: World,
    preset: Preset,
    seed: int,
    run: Run,
    *,
    skip: tuple[str, ...] = (),
    start: Path | None = None,
    until: str = "finetune",
) -> Brain:
    """Phase 1, phase 2 and fine-tuning.

    Args:
        dataset: of `ready_for`.
        skip: stages left out ("pretrain", "fuse"): what is each of them worth?
        start: folder of `train_brain`, or a shipped one, that has the stages left out; None leaves them untrained.
        until: the last stage to train.

    Raises:
        ValueError: a stage after phase 1 is wanted of scans without pictures, or there is no validation split.
    """
    check_brain(dataset, preset, until)
    wanted = BRAIN_STAGES[: BRAIN_STAGES.index(until) + 1]
    train, val = dataset.splits.get("train"), dataset["val"]
    brain = new_brain(preset, dataset.num_voxels, world, seed)
    configs = brain_configs(brain, preset)
    for stage in BRAIN_STAGES:
        if start and stage in skip:
            load_stage(start / f"{stage}.safetensors", brain, stage, preset)
    if "pretrain" in wanted and "pretrain" not in skip:
        pool = dataset.splits.get("pretrain", train).voxels
        run.stage("pretrain", brain.autoencoder, configs["pretrain"], lambda **o: stages.pretrain(
            brain.autoencoder, pool, val.voxels, preset.pretraining, **o), preset.pretraining)  # fmt: skip
    if "fuse" in wanted and "fuse" not in skip:
        run.stage("fuse", brain.fusion, configs["fuse"], lambda **o: stages.fuse(
            brain.fusion, train.voxels, for_eye(train.images, brain.fusion.image),
            val.voxels, for_eye(val.images, brain.fusion.image), preset.fusing, **o),
            preset.fusing, only=fused_names(brain.fusion))  # fmt: skip
    if "finetune" in wanted:
        conditioned = brain.conditioned
        conditioned.conditioner.encoder.load_state_dict(brain.autoencoder.encoder.state_dict())
        run.stage("finetune", conditioned, configs["finetune"], lambda **o: stages.finetune(
            conditioned, train.voxels, train.images, val.voxels, val.images, preset.finetuning, preset.tuning, **o),
            preset.finetuning, only=finetuned_names(conditioned))  # fmt: skip
    return brain


def check_brain(dataset: BrainDataset, preset: Preset, until: str = "finetune") -> None:
    """What `train_brain` needs, before anything is trained; the parts are built without memory.

    Raises:
        ValueError: no validation split, a stage after phase 1 of scans without pictures, fewer scans than a stage
            takes at once, or parts that do not fit each other or the number of voxels.
    """
    if "val" not in dataset.splits:
        raise ValueError(f"{dataset.name} has no split 'val' to choose by; load it with val_fraction above 0")
    train = dataset.splits.get("train")
    if until != "pretrain" and (train is None or train.images is None):
        raise ValueError(
            f"{dataset.name} comes without pictures: only phase 1 can learn from it (until='pretrain'; "
            "visdec-lite train pretrain)"
        )
    stages_of = {"pretrain": "pretraining", "fuse": "fusing", "finetune": "finetuning"}
    wanted = BRAIN_STAGES[: BRAIN_STAGES.index(until) + 1]
    for stage in wanted:
        split = dataset.splits.get("pretrain", train) if stage == "pretrain" else train
        _check_rows(stages_of[stage], getattr(preset, stages_of[stage]), len(split.voxels), "scans to learn from")
    check_sizes(preset, dataset.num_voxels)
    patches, squares = dataset.num_voxels // preset.autoencoder.patch_size, preset.image_autoencoder.num_patches
    check_hides(preset.autoencoder.mask_ratio, patches, "autoencoder.mask_ratio")
    if "fuse" in wanted:
        fusion = preset.fusion
        check_hides(fusion.fmri_mask_ratio, patches, "fusion.fmri_mask_ratio")
        check_hides(fusion.image_mask_ratio, squares, "fusion.image_mask_ratio")
        for count in (patches, squares) if fusion.support_mask_ratio else ():
            check_hides(fusion.support_mask_ratio, count, "fusion.support_mask_ratio")


def check_sizes(preset: Preset, num_voxels: int) -> None:
    """Every part built once without memory, so that what does not fit is said before anything is trained.

    Raises:
        ValueError: parts do not fit each other or the number of voxels.
    """
    with torch.device("meta"):
        new_brain(preset, num_voxels, new_world(preset, seed=0), seed=0)


def brain_configs(brain: Brain, preset: Preset) -> dict[str, dict[str, Any]]:
    """What a reader of each stage's weights must agree on."""
    autoencoder, diffusion = asdict(brain.autoencoder.config), asdict(preset.diffusion)
    return {
        "pretrain": autoencoder,
        "fuse": {**autoencoder, **{f"fusion.{k}": v for k, v in asdict(preset.fusion).items()},
                  **{f"image.{k}": v for k, v in asdict(preset.image_autoencoder).items()}},
        "finetune": {**autoencoder, "context_tokens": preset.context_tokens,
                      **{f"diffusion.{k}": v for k, v in diffusion.items()}},
    }  # fmt: skip


def fused_names(fusion: CrossModalFusion) -> Callable[[str], bool]:
    """Which weights phase 2 changes: all but a frozen image encoder's, which the world keeps."""
    learnt = {name for name, parameter in fusion.named_parameters() if parameter.requires_grad}
    return lambda name: name in learnt or name.startswith("fmri.")


def finetuned_names(conditioned: ConditionedDiffusion) -> Callable[[str], bool]:
    """Which weights fine-tuning changes: phi, the cross-attentions and their norms."""
    learnt = {name for name, parameter in conditioned.named_parameters() if parameter.requires_grad}
    return lambda name: name in learnt or name.startswith("conditioner.")


def stage_part(brain: Brain, stage: str) -> tuple[nn.Module, Callable[[str], bool] | None]:
    """What a stage trains, and which of its weights a file of that stage holds (None: all)."""
    if stage == "pretrain":
        return brain.autoencoder, None
    if stage == "fuse":
        return brain.fusion, fused_names(brain.fusion)
    return brain.conditioned, finetuned_names(brain.conditioned)


def load_stage(path: Path, brain: Brain, stage: str, preset: Preset) -> None:
    """The weights of one stage, from its file."""
    part, only = stage_part(brain, stage)
    load_weights(path, part, stage, brain_configs(brain, preset)[stage], only=only)


def load_brain(folder: Path, dataset: BrainDataset, world: World, preset: Preset) -> Brain:
    """Trained parts from a folder of `train_brain`, or a shipped one."""
    brain = new_brain(preset, dataset.num_voxels, world, seed=0)
    for stage in BRAIN_STAGES:
        load_stage(folder / f"{stage}.safetensors", brain, stage, preset)
    return brain
