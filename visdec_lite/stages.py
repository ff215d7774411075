"""The stages of training, in order; each is a model, a loss and the loop of `training.fit`.

    train_first_stage, train_prior, train_classifier    the world before any brain: pictures and labels
    pretrain     phase 1: masked fMRI, contrasted (no labels, no pictures)
    fuse         phase 2: fMRI and picture explain each other
    finetune     the fused fMRI encoder learns to steer the frozen prior

In: a model and the rows it learns from. Out: the trained model, in place, and a `TrainingResult`. Model selection
looks at a validation split, never at test. Options after the config go to `training.fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn

from visdec_lite.classifier import CategoryClassifier
from visdec_lite.conditioning import FMRIConditioner
from visdec_lite.fields import COUNT, POSITIVE, SHARE, SWITCH, WEIGHT, check_fields
from visdec_lite.fusion import CrossModalFusion, ImageMaskedAutoencoder
from visdec_lite.identity import fingerprint_of, fingerprint_of_weights
from visdec_lite.latent_diffusion import LatentDiffusion
from visdec_lite.masked_autoencoder import MaskedAutoencoder, drop_voxels
from visdec_lite.preprocessing import to_model_range, to_uint8
from visdec_lite.training import START, LossFunction, Rows, TrainingConfig, TrainingResult, ValidateFunction, fit

VALIDATION_SEED = 20230512  # the same masks and noise at every validation, so that its curve is comparable


def train_first_stage(
    model: LatentDiffusion,
    images: np.ndarray,
    images_val: np.ndarray,
    config: TrainingConfig,
    **options: Any,
) -> TrainingResult:
    """VQ autoencoder: picture -> latents -> nearest codebook vectors -> picture (van den Oord et al., 2017).

    The codebook starts from latents of real pictures, so that few of its vectors are never used. Without the
    adversarial and perceptual terms of VQGAN: at 32 pixels the absolute error is sharp enough.

    Args:
        model: its `vq` is trained and its `latent_scale` measured.
        images, images_val: uint8, shape (n, size, size, 3).
    """
    model.requires_grad_(False)
    model.vq.requires_grad_(True)
    start = _start_of(model)
    _start_codebook(model, images, config.seed)

    def loss_fn(model: LatentDiffusion, batch: dict[str, Tensor], _: torch.Generator) -> dict[str, Tensor]:
        picture = to_model_range(batch["images"])
        latents = model.vq.encode(picture).latents
        quantised, commitment, _ = model.vq.quantize(latents)
        error = (model.vq.decode(quantised, force_not_quantize=True).sample - picture).abs().mean()
        return {"loss": error + commitment, "reconstruction": error, "commitment": commitment}

    result = _fit(model, loss_fn, {"images": images}, {"images": images_val}, config, settings=start, **options)
    model.measure_latent_scale(to_model_range(images[:1000]).to(model.latent_scale.device))
    return result


@torch.no_grad()
def _start_codebook(model: LatentDiffusion, images: np.ndarray, seed: int) -> None:
    codebook = model.vq.quantize.embedding.weight
    latents = model.vq.encode(to_model_range(images[:256]).to(codebook.device)).latents
    vectors = latents.permute(0, 2, 3, 1).flatten(0, 2)
    generator = torch.Generator().manual_seed(seed)
    codebook.copy_(vectors[torch.randint(len(vectors), (len(codebook),), generator=generator)])


def train_prior(
    model: LatentDiffusion,
    images: np.ndarray,
    labels: np.ndarray,
    images_val: np.ndarray,
    labels_val: np.ndarray,
    config: TrainingConfig,
    label_dropout: float = 0.1,
    **options: Any,
) -> TrainingResult:
    """The label-to-image prior: UNet and label embedding, in the latents of a trained first stage.

    Args:
        images, images_val: uint8, shape (n, size, size, 3).
        labels, labels_val: int64 in [0, num_classes), shape (n,).
        label_dropout: share of labels replaced by "none", which classifier-free guidance needs.
    """
    model.train_prior_only()
    data = {"latents": encode_images(model, images), "labels": torch.as_tensor(labels)}
    data_val = {"latents": encode_images(model, images_val), "labels": torch.as_tensor(labels_val)}

    def loss_fn(model: LatentDiffusion, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        dropped = torch.rand(len(batch["labels"]), generator=generator) < (label_dropout if model.training else 0.0)
        labels = batch["labels"].masked_fill(dropped.to(batch["labels"].device), model.config.num_classes)
        return {"loss": model.loss(batch["latents"], model.label_context(labels), None, generator)}

    settings = {"label_dropout": label_dropout, **_latents_of(images, images_val)}
    return _fit(model, loss_fn, data, data_val, config, settings=settings, **options)


def train_classifier(
    model: CategoryClassifier,
    images: np.ndarray,
    labels: np.ndarray,
    images_val: np.ndarray,
    labels_val: np.ndarray,
    config: TrainingConfig,
    **options: Any,
) -> TrainingResult:
    """The referee: cross-entropy on pictures, shifted by up to two pixels so that it learns shapes, not pixels.

    Args:
        images, images_val: uint8, shape (n, size, size, 3).
        labels, labels_val: int64, shape (n,).
    """

    def loss_fn(model: CategoryClassifier, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        picture = to_model_range(batch["images"])
        if model.training:
            down, right = torch.randint(-2, 3, (2,), generator=generator).tolist()
            picture = torch.roll(picture, (down, right), dims=(2, 3))
            # Decoded and sampled pictures are a little noisy or soft; the referee must not mind.
            picture = picture + 0.05 * torch.randn(picture.shape, generator=generator).to(picture)
        logits = model(picture)
        accuracy = (logits.argmax(-1) == batch["labels"]).float().mean()
        return {"loss": F.cross_entropy(logits, batch["labels"]), "accuracy": accuracy}

    data, data_val = {"images": images, "labels": labels}, {"images": images_val, "labels": labels_val}
    return _fit(model, loss_fn, data, data_val, config, **options)


def pretrain_images(
    model: ImageMaskedAutoencoder,
    images: np.ndarray,
    images_val: np.ndarray,
    config: TrainingConfig,
    **options: Any,
) -> TrainingResult:
    """The image masked autoencoder that phase 2 starts from (the paper takes facebook/vit-mae-base).

    Args:
        images, images_val: uint8, shape (n, size, size, 3).
    """

    def loss_fn(
        model: ImageMaskedAutoencoder, batch: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        return {"loss": model(to_model_range(batch["images"]), generator)}

    return _fit(model, loss_fn, {"images": images}, {"images": images_val}, config, **options)


def pretrain(
    model: MaskedAutoencoder,
    voxels: Rows,
    voxels_val: Rows,
    config: TrainingConfig,
    **options: Any,
) -> TrainingResult:
    """Phase 1: DC-MAE on unlabelled scans.

    Args:
        voxels, voxels_val: z-scored float32, shape (n, num_voxels); a pool on disk is read batch by batch.
    """

    def loss_fn(model: MaskedAutoencoder, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        output = model(batch["voxels"], generator)
        return {"loss": output.loss, **output.terms}

    return _fit(model, loss_fn, {"voxels": voxels}, {"voxels": voxels_val}, config, **options)


def fuse(
    model: CrossModalFusion,
    voxels: np.ndarray,
    images: np.ndarray,
    voxels_val: np.ndarray,
    images_val: np.ndarray,
    config: TrainingConfig,
    **options: Any,
) -> TrainingResult:
    """Phase 2: cross-modal guidance on pairs of scan and picture.

    Args:
        voxels, voxels_val: z-scored float32, shape (n, num_voxels).
        images, images_val: uint8, shape (n, size, size, 3).
    """
    model.choose_trainable()

    def loss_fn(model: CrossModalFusion, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        output = model(batch["voxels"], to_model_range(batch["images"]), generator)
        return {"loss": output.loss, **output.terms}

    data, data_val = {"voxels": voxels, "images": images}, {"voxels": voxels_val, "images": images_val}
    return _fit(model, loss_fn, data, data_val, config, **options)


@dataclass(frozen=True)
class FinetuneConfig:
    """How the condition is learnt, besides the numbers of the loop."""

    condition_dropout: float = 0.1  # share of scans replaced by "no scan", which guidance needs
    voxel_dropout: float = 0.2  # share of input voxels set to zero
    timestep_bias: float = 0.0  # p(t) ~ t ** bias; 0 as in the paper, 1 dwells on high noise
    max_loss_weight: float = 1.0  # an error counts min(1 / abar_t, this) times; 1 as in the paper
    encoder_learning_rate_scale: float = 1.0  # the encoder has learnt already, the mapper starts from nothing
    start_from_labels: bool = False  # begin as the prior that was told nothing; False as in the paper
    noise_draws: int = 1  # noisy versions of its picture that each encoded scan must explain at a step

    def __post_init__(self) -> None:
        check_fields(self, {
            "condition_dropout": SHARE, "voxel_dropout": SHARE, "timestep_bias": WEIGHT, "max_loss_weight": POSITIVE,
            "encoder_learning_rate_scale": WEIGHT, "start_from_labels": SWITCH, "noise_draws": COUNT,
        })  # fmt: skip


class ConditionedDiffusion(nn.Module):
    """phi and the latent diffusion model it steers, as one trainable thing."""

    def __init__(self, conditioner: FMRIConditioner, diffusion: LatentDiffusion) -> None:
        super().__init__()
        self.conditioner, self.diffusion = conditioner, diffusion
        diffusion.train_condition_only()
        conditioner.requires_grad_(True)


def finetune(
    model: ConditionedDiffusion,
    voxels: np.ndarray,
    images: np.ndarray,
    voxels_val: np.ndarray,
    images_val: np.ndarray,
    config: TrainingConfig,
    how: FinetuneConfig = FinetuneConfig(),
    **options: Any,
) -> TrainingResult:
    """Fine-tuning: phi, the cross-attentions and their norms learn to paint what was seen; the rest is frozen.

    Args:
        voxels, voxels_val: z-scored float32, shape (n, num_voxels).
        images, images_val: uint8, shape (n, size, size, 3).
    """
    diffusion = model.diffusion
    data = {"voxels": voxels, "latents": encode_images(diffusion, images)}
    data_val = {"voxels": voxels_val, "latents": encode_images(diffusion, images_val)}
    settings = {**asdict(how), **_latents_of(images, images_val), **_start_of(model)}
    if how.start_from_labels:
        labels = diffusion.label_embedding.weight
        model.conditioner.start_from_labels(labels, torch.as_tensor(voxels[:256]).to(labels.device))

    def loss_fn(model: ConditionedDiffusion, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        voxels, latents = batch["voxels"], batch["latents"]
        if model.training:
            voxels = drop_voxels(voxels, how.voxel_dropout, generator)
        context = model.conditioner.context(voxels)
        context = repeat(context, "b n d -> (draw b) n d", draw=how.noise_draws)
        latents = repeat(latents, "b c h w -> (draw b) c h w", draw=how.noise_draws)
        drop = torch.rand(len(context), generator=generator) < (how.condition_dropout if model.training else 0.0)
        condition = model.conditioner.dropped(context, drop.to(context.device))
        return {"loss": model.diffusion.loss(latents, *condition, generator, how.timestep_bias, how.max_loss_weight)}

    encoder = list(model.conditioner.encoder.parameters())
    known = {id(parameter) for parameter in encoder}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": encoder, "learning_rate_scale": how.encoder_learning_rate_scale},
        {"params": rest},
    ]
    return _fit(model, loss_fn, data, data_val, config, settings=settings, parameter_groups=groups, **options)


def encode_images(model: LatentDiffusion, images: np.ndarray, batch_size: int = 128) -> Tensor:
    """Latents of uint8 images, shape (n, c, h / 4, w / 4), on the CPU: computed once, not at every step."""
    device = model.latent_scale.device
    parts = [
        model.encode(to_model_range(images[start : start + batch_size]).to(device)).cpu()
        for start in range(0, len(images), batch_size)
    ]
    return torch.cat(parts)


@torch.no_grad()
def decode_latents(model: LatentDiffusion, latents: Tensor, batch_size: int = 128) -> np.ndarray:
    """Pictures of latents (n, c, h / 4, w / 4), uint8 (n, h, w, 3)."""
    device = model.latent_scale.device
    return np.concatenate([to_uint8(model.decode(part.to(device))) for part in latents.split(batch_size)])


def _fit(
    model: nn.Module,
    loss_fn: LossFunction,
    data: dict[str, Rows],
    data_val: dict[str, Rows],
    config: TrainingConfig,
    *,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> TrainingResult:
    """`training.fit`, told by the loss over all rows of `data_val`, which become part of the run's identity."""
    told = {f"validation.{name}": fingerprint_of(rows) for name, rows in data_val.items()} | dict(settings or {})
    return fit(model, loss_fn, data, config, validate_fn=_validator(loss_fn, data_val), settings=told, **options)


def _start_of(model: nn.Module) -> dict[str, str]:
    """Identity of the weights before a first guess is computed from data, whose last digits depend on the machine."""
    return {START: fingerprint_of_weights((n, w) for n, w in model.named_parameters() if w.requires_grad)}


def _latents_of(images: np.ndarray, images_val: np.ndarray) -> dict[str, str]:
    """Identity of latents: the pictures they are of; the first stage that made them is among the frozen weights."""
    return {"data.latents": fingerprint_of(images), "validation.latents": fingerprint_of(images_val)}


def _validator(loss_fn: LossFunction, data: dict[str, Rows]) -> ValidateFunction:
    """The loss over all rows of `data`, under the same masks and noise every time."""

    def validate(model: nn.Module) -> dict[str, float]:
        generator = torch.Generator().manual_seed(VALIDATION_SEED)
        device = next(model.parameters()).device
        return _mean_over_batches(lambda batch: loss_fn(model, batch, generator), data, device)

    return validate


def _mean_over_batches(
    terms_of: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    data: dict[str, Rows],
    device: torch.device,
    batch_size: int = 128,
) -> dict[str, float]:
    """Terms averaged over all rows, so that the value does not depend on how they are cut into batches."""
    totals: dict[str, float] = {}
    num_rows = len(next(iter(data.values())))
    for start in range(0, num_rows, batch_size):
        batch = {name: torch.as_tensor(rows[start : start + batch_size]).to(device) for name, rows in data.items()}
        size = len(next(iter(batch.values())))
        for name, term in terms_of(batch).items():
            totals[name] = totals.get(name, 0.0) + float(term) * size / num_rows
    return totals
