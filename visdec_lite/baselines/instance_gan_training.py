"""Training of the instance-conditioned GAN: first the eye, then the game, then the noise reader.

In: pictures of a world with their labels, seen by no brain. Out: a trained `InstanceGAN`. The game of G against D is
played in the one training loop: both losses make one sum, in which G's part takes D's weights as constants and D's
part takes G's pictures as constants. So one update moves both players, each along its own gradient.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from visdec_lite.baselines.base import check_images, seeded
from visdec_lite.baselines.instance_gan import Discriminator, FeatureNetwork, Generator, InstanceGAN, NoiseReader
from visdec_lite.fields import COUNT, SIZE, WEIGHT, check_fields, of
from visdec_lite.identity import fingerprint_of, fingerprint_of_weights
from visdec_lite.perceptual import frechet_distance
from visdec_lite.preprocessing import to_model_range
from visdec_lite.training import TrainingConfig, TrainingResult, fit

VALIDATION_SEED = 20211111  # the same noise at every validation


def _short(steps: int) -> TrainingConfig:
    return TrainingConfig(steps=steps, batch_size=64, learning_rate=2e-3, weight_decay=0.01)


@dataclass(frozen=True)
class InstanceGANTraining:
    """How the networks are trained, one after the other."""

    eye: TrainingConfig = field(default_factory=lambda: _short(1000))
    game: TrainingConfig = field(default_factory=lambda: TrainingConfig(
        steps=2000, batch_size=64, learning_rate=5e-4, weight_decay=0.0, betas=(0.0, 0.99), gradient_clip=math.inf,
        ema_decay=0.995, validate_every=250, checkpoint_every=250, min_learning_rate_fraction=0.1,
    ))  # fmt: skip
    reader: TrainingConfig = field(default_factory=lambda: _short(500))
    label_weight: float = 1.0  # of telling categories; 0: features from pictures alone, as the authors' SwAV
    contrast_weight: float = 0.1  # of telling pictures apart; 0.5 costs accuracy on new pictures (0.47 against 0.70)
    neighbours: int = 20  # pictures that count as real examples of an instance, itself among them
    discriminator_width: int = 24  # channels at full size; doubled at each halving up to four times
    discriminator_learning_rate_scale: float = 2.0  # D has to be ahead of G (Heusel et al., 2017)

    def __post_init__(self) -> None:
        trainings = {name: of(TrainingConfig) for name in ("eye", "game", "reader")}
        weights = {name: WEIGHT for name in vars(self) if name.endswith(("_weight", "_scale"))}
        check_fields(self, {**trainings, **weights, "neighbours": COUNT, "discriminator_width": SIZE})
        if self.label_weight + self.contrast_weight == 0:
            raise ValueError("label_weight and contrast_weight are both 0, so nothing is learnt; expected one above 0")

    def with_seed(self, seed: int) -> InstanceGANTraining:
        """The same numbers, all three trainings seeded by `seed`."""
        parts = {name: replace(getattr(self, name), seed=seed) for name in ("eye", "game", "reader")}
        return replace(self, **parts)


def train_instance_gan(
    model: InstanceGAN,
    images: np.ndarray,
    labels: np.ndarray,
    images_val: np.ndarray,
    labels_val: np.ndarray,
    how: InstanceGANTraining = InstanceGANTraining(),
    *,
    out_dir: str | os.PathLike[str] | None = None,
    **options: object,
) -> dict[str, TrainingResult]:
    """Train all of `model`, in place.

    Args:
        images, images_val: uint8, shape (n, s, s, 3).
        labels, labels_val: int64 in [0, num_classes), shape (n,).
        out_dir: checkpoints of the three trainings, from which an interrupted run goes on.
        options: handed to `training.fit` (device, progress).

    Returns:
        Results of "eye", "game" and "reader". The game keeps the step whose pictures lie nearest to the validation
        pictures by the Frechet distance of their features.
    """
    for pictures, kinds in ((images, labels), (images_val, labels_val)):
        check_images(pictures, "images")
        if len(pictures) != len(kinds):
            raise ValueError(f"{len(pictures)} pictures with {len(kinds)} labels, expected as many")
    if how.neighbours > len(images):
        raise ValueError(f"{how.neighbours} neighbours wanted of {len(images)} pictures; lower neighbours")

    def folder(stage: str) -> Path | None:
        return None if out_dir is None else Path(out_dir) / stage

    model.requires_grad_(False)
    results = {}
    results["eye"] = _train_eye(
        model.eye, images, labels, images_val, labels_val, how, out_dir=folder("eye"), **options
    )
    h, h_val = (torch.from_numpy(model.instances(pictures)) for pictures in (images, images_val))
    results["game"] = _play(model, images, h, images_val, h_val, how, out_dir=folder("game"), **options)
    results["reader"] = _train_reader(model, h, h_val, how, out_dir=folder("reader"), **options)
    model.requires_grad_(False)
    return results


def _train_eye(
    eye: FeatureNetwork,
    images: np.ndarray,
    labels: np.ndarray,
    images_val: np.ndarray,
    labels_val: np.ndarray,
    how: InstanceGANTraining,
    **options: object,
) -> TrainingResult:
    """Cross-entropy on labels, and InfoNCE between two views of a picture (temperature 0.1; Chen et al., 2020)."""
    eye.requires_grad_(True)

    def loss_fn(eye: FeatureNetwork, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        picture = to_model_range(batch["images"])
        first = eye.features(_view(picture, generator))
        labelled = F.cross_entropy(eye.logits(first), batch["labels"])
        second = eye.features(_view(picture, generator))
        similar = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / 0.1
        apart = F.cross_entropy(similar, torch.arange(len(similar), device=similar.device))
        loss = how.label_weight * labelled + how.contrast_weight * apart
        return {"loss": loss, "labels": labelled, "contrast": apart}

    def validate(eye: FeatureNetwork) -> dict[str, float]:
        logits = torch.cat([eye.logits(eye.features(x)) for x in _pieces(images_val, eye.mean.device)]).cpu()
        kinds = torch.from_numpy(labels_val)
        accuracy = (logits.argmax(-1) == kinds).float().mean()
        return {"loss": float(F.cross_entropy(logits, kinds)), "accuracy": float(accuracy)}

    data = {"images": images, "labels": labels}
    settings = {
        "label_weight": how.label_weight, "contrast_weight": how.contrast_weight,
        "validation.images": fingerprint_of(images_val), "validation.labels": fingerprint_of(labels_val),
    }  # fmt: skip
    result = fit(eye, loss_fn, data, how.eye, validate_fn=validate, settings=settings, description="eye", **options)
    eye.requires_grad_(False)
    with torch.no_grad():
        eye.mean.copy_(torch.cat([eye.features(x) for x in _pieces(images, eye.mean.device)]).mean(0))
    return result


def _view(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (b, 3, s, s) shifted by up to an eighth, each in a light of its own, a little noisy."""
    b, _, size, _ = pictures.shape
    down, right = torch.randint(-size // 8, size // 8 + 1, (2, b, 1), generator=generator)
    rows, columns = ((torch.arange(size) + shift) % size for shift in (down, right))
    shifted = pictures[torch.arange(b)[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # b h w c
    contrast = 1 + 0.2 * torch.randn((b, 1, 1, 1), generator=generator)
    tint = 0.15 * torch.randn((b, 3, 1, 1), generator=generator)
    noise = 0.05 * torch.randn(pictures.shape, generator=generator)
    return shifted.movedim(-1, 1) * contrast.to(pictures) + (tint + noise).to(pictures)


class _Game(nn.Module):
    """Both players as one trainable thing."""

    def __init__(self, generator: Generator, discriminator: Discriminator) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator


def game_losses(
    generator: Generator, discriminator: Discriminator, real: Tensor, noise: Tensor, instance: Tensor
) -> tuple[Tensor, Tensor]:
    """Hinge losses of D and of G, each a function of its own player's weights only.

    Args:
        real: pictures (b, 3, s, s) in [-1, 1] that count as real for `instance` (b, feature_dim).
        noise: standard normal, shape (b, noise_dim).

    Returns:
        Two of shape (). A D that cannot tell scores 2, one that is always sure 0.
    """
    fake = generator(noise, instance)
    of_real, of_fake = discriminator(real, instance), discriminator(fake.detach(), instance)
    loss = F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean()
    constants = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    return loss, -functional_call(discriminator, constants, (fake, instance)).mean()


def _play(
    model: InstanceGAN,
    images: np.ndarray,
    h: Tensor,
    images_val: np.ndarray,
    h_val: Tensor,
    how: InstanceGANTraining,
    **options: object,
) -> TrainingResult:
    with seeded(how.game.seed):
        discriminator = Discriminator(model.config, how.discriminator_width).to(model.device)
    game = _Game(model.generator.requires_grad_(True), discriminator)
    dim = model.config.noise_dim

    def loss_fn(game: _Game, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        near, instance = batch["neighbours"], batch["instance"]
        which = torch.randint(near.shape[1], (len(near), 1), generator=generator)
        real = to_model_range(images[near.cpu().gather(1, which).squeeze(1).numpy()]).to(instance.device)
        noise = torch.randn((len(near), dim), generator=generator).to(instance)
        of_d, of_g = game_losses(game.generator, game.discriminator, real, noise, instance)
        return {"loss": of_d + of_g, "discriminator": of_d, "generator": of_g}

    def seen_by_eye(pictures: Iterable[Tensor]) -> np.ndarray:
        return torch.cat([model.eye.features(x) for x in pictures]).double().cpu().numpy()

    with torch.no_grad():
        wanted = seen_by_eye(_pieces(images_val, model.device))

    def validate(game: _Game) -> dict[str, float]:
        noise = torch.randn((len(h_val), dim), generator=torch.Generator().manual_seed(VALIDATION_SEED))
        parts = zip(noise.split(256), h_val.split(256), strict=True)
        painted = (game.generator(z.to(model.device), h.to(model.device)) for z, h in parts)
        return {"frechet": frechet_distance(wanted, seen_by_eye(painted))}

    groups = [
        {"params": list(game.generator.parameters())},
        {"params": list(discriminator.parameters()), "learning_rate_scale": how.discriminator_learning_rate_scale},
    ]
    data = {"instance": h, "neighbours": nearest_neighbours(h, how.neighbours)}
    result = fit(
        game, loss_fn, data, how.game, validate_fn=validate, monitor="frechet", parameter_groups=groups,
        settings={"discriminator_width": how.discriminator_width, "validation.instance": fingerprint_of(h_val)},
        description="game", **options,
    )  # fmt: skip
    model.generator.requires_grad_(False)
    return result


def nearest_neighbours(h: Tensor, count: int, rows_at_once: int = 1000) -> Tensor:
    """Rows of the `count` nearest by cosine, the row itself first: int64, shape (n, count); h (n, dim) of length 1."""
    return torch.cat([(part @ h.T).topk(count, dim=1).indices for part in h.split(rows_at_once)])


def _train_reader(
    model: InstanceGAN, h: Tensor, h_val: Tensor, how: InstanceGANTraining, **options: object
) -> TrainingResult:
    """Squared error on the noise of G's own pictures; reading nothing scores 1, the variance of the noise."""
    model.reader.requires_grad_(True)
    dim = model.config.noise_dim

    def error(reader: NoiseReader, instance: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn((len(instance), dim), generator=generator).to(instance)
        with torch.no_grad():
            picture = model.generator(noise, instance)
            seen = model.eye(picture)  # h of what was painted, which is what is known of a real picture
        return F.mse_loss(reader(picture, seen), noise)

    def loss_fn(reader: NoiseReader, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": error(reader, batch["instance"], generator)}

    def validate(reader: NoiseReader) -> dict[str, float]:
        return {"loss": float(error(reader, h_val.to(model.device), torch.Generator().manual_seed(VALIDATION_SEED)))}

    told = {name: fingerprint_of_weights(getattr(model, name).state_dict().items()) for name in ("generator", "eye")}
    told["validation.instance"] = fingerprint_of(h_val)
    result = fit(
        model.reader, loss_fn, {"instance": h}, how.reader, validate_fn=validate, settings=told,
        description="reader", **options,
    )  # fmt: skip
    model.reader.requires_grad_(False)
    return result


def _pieces(images: np.ndarray, device: torch.device, batch_size: int = 256) -> Iterator[Tensor]:
    for start in range(0, len(images), batch_size):
        yield to_model_range(images[start : start + batch_size]).to(device)
