"""SS-AE: an encoder and a decoder that check each other on data without partners.

In: pairs of picture u and scan v, pictures without scans, scans without pictures. Out: one picture a scan. After Beliy
et al., NeurIPS 2019 (arXiv 1907.02431), and Gaziv et al., NeuroImage 2022: E predicts the scan of a picture, D paints
the picture of a scan, both small convolutional networks. First E learns from pairs; then D learns, E held fixed, from

    supervised     L_u(D(v), u)          pairs
    image cycle    L_u(D(E(u')), u')     any picture u' of the world: D learns what pictures look like
    scan cycle     L_v(E(D(v')), v')     any scan v': D adapts to scans whose picture is unknown

    L_v(a, b) = mean (a - b)^2 - c cos(a, b)
    L_u(a, b) = mean (a - b)^2 + p sum_l mean |f_l(a) - f_l(b)| + t TV(a)

with f_l the maps of a network trained on pictures (theirs: AlexNet, VGG; here: handed in, the eye of the IC-GAN's
prior), and TV the mean absolute difference of neighbouring pixels. Among the scans v' the authors have those of the
test stimuli, without their pictures. Here v' are the unlabelled scans of `pretrain` of the same subject, or the
training scans where a data set has none: test scans are never used.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visdec_lite.baselines.base import Baseline, Tuning, check_images, check_pairs, check_scans, paired_splits, seeded
from visdec_lite.baselines.ssae_networks import COARSE, Decoder, Encoder
from visdec_lite.datasets.base import BrainDataset
from visdec_lite.fields import SIZE, WEIGHT, check_fields, of
from visdec_lite.identity import fingerprint_of, fingerprint_of_weights
from visdec_lite.preprocessing import to_model_range, to_uint8
from visdec_lite.training import LossFunction, Rows, TrainingConfig, TrainingResult, ValidateFunction, fit


def _encoder_training() -> TrainingConfig:
    return TrainingConfig(steps=400, batch_size=32, learning_rate=3e-3, weight_decay=0.05, validate_every=50)


def _decoder_training() -> TrainingConfig:
    return TrainingConfig(
        steps=320, batch_size=32, learning_rate=2e-3, weight_decay=0.05, ema_decay=0.98, validate_every=40
    )


@dataclass(frozen=True)
class SSAEConfig:
    """Networks, weights of the losses, and the two trainings."""

    width: int = 32  # channels at half the size of the picture, and where maps meet voxels; between them twice as many
    image_cycle_weight: float = 1.0  # of L_u(D(E(u')), u')
    scan_cycle_weight: float = 0.3  # of L_v(E(D(v')), v')
    cosine_weight: float = 0.1  # c
    feature_weight: float = 0.1  # p; counts where a feature network is handed in
    variation_weight: float = 0.02  # t
    encoder_learning_rate_scale: float = 0.0  # of E in the second training; 0 holds it fixed, as in the paper
    encoder: TrainingConfig = field(default_factory=_encoder_training)
    decoder: TrainingConfig = field(default_factory=_decoder_training)

    def __post_init__(self) -> None:
        weights = {name: WEIGHT for name in vars(self) if name.endswith(("_weight", "_scale"))}
        trainings = {"encoder": of(TrainingConfig), "decoder": of(TrainingConfig)}
        check_fields(self, {"width": SIZE, **weights, **trainings})
        if self.width % 4:
            raise ValueError(f"width is {self.width}, expected a multiple of 4 (groups of channels are normalised)")


class SSAE(Baseline):
    """Encoder and decoder with cycles through data without partners.

    Args:
        images: pictures of the world that no scan belongs to, uint8 (m, s, s, 3); None: the training pictures.
        features: a trained network with `maps(images in [-1, 1])` -> list of maps, held fixed; None: no such loss.
        out_dir: checkpoints of both trainings, from which an interrupted fit goes on.
        options: handed to `training.fit` (device, progress).

    Attributes:
        encoder_, decoder_: the networks.
        results_: "encoder" and "decoder" -> `TrainingResult`.
    """

    def __init__(
        self,
        config: SSAEConfig | None = None,
        images: np.ndarray | None = None,
        features: nn.Module | None = None,
        out_dir: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        self.config, self.images, self.features = config or SSAEConfig(), images, features
        self.out_dir, self.options = None if out_dir is None else Path(out_dir), options
        if images is not None:
            check_images(images, "pictures without scans")
        self._num_voxels: int | None = None

    def fit(self, dataset: BrainDataset) -> Self:
        """Learn from `train`, and from scans of `pretrain` of the same subject; choose on `val`."""
        train, val = paired_splits(dataset)
        pool = dataset.splits.get("pretrain")
        own = None if pool is None else np.flatnonzero(np.isin(pool.subject, train.subject))
        alone = None if own is None or not len(own) else pool.rows(own).voxels
        return self.fit_images(train.voxels, train.images, val.voxels, val.images, unpaired_voxels=alone)

    def fit_images(
        self,
        voxels: np.ndarray,
        images: np.ndarray,
        voxels_val: np.ndarray,
        images_val: np.ndarray,
        unpaired_voxels: Rows | None = None,
    ) -> Self:
        """See `Baseline.fit_images`.

        Args:
            unpaired_voxels: scans without pictures, z-scored, shape (k, V); None: the training scans.
        """
        check_pairs(voxels, images, voxels_val, images_val)
        pictures = images if self.images is None else self.images
        scans = voxels if unpaired_voxels is None else unpaired_voxels
        size = images.shape[1]
        if images.shape[1] != images.shape[2] or size % COARSE:
            raise ValueError(
                f"pictures of {images.shape[1:3]} pixels, expected squares with a side divisible by {COARSE}"
            )
        if pictures.shape[1:] != images.shape[1:] or scans.shape[1] != voxels.shape[1]:
            raise ValueError(
                f"without partners: pictures {pictures.shape[1:3]} and {scans.shape[1]} voxels, in pairs: "
                f"{images.shape[1:3]} and {voxels.shape[1]}; expected the same"
            )
        with seeded(self.config.decoder.seed):
            self.encoder_ = Encoder(voxels.shape[1], size, self.config.width)
            self.decoder_ = Decoder(voxels.shape[1], size, self.config.width)
        pairs = {"voxels": np.asarray(voxels, dtype=np.float32), "images": images}
        held_out = {"voxels": np.asarray(voxels_val, dtype=np.float32), "images": images_val}
        first = self._train_encoder(pairs, held_out)
        second = self._train_decoder(pairs, held_out, pictures, scans)
        self.results_ = {"encoder": first, "decoder": second}
        self.tuning = tuple(
            _stopping(words, measure, result, len(voxels_val))
            for words, measure, result in (
                ("step at which E stops", "L_v on pairs", first), ("step at which D stops", "L_u on pairs", second),
            )
        )  # fmt: skip
        self._num_voxels = voxels.shape[1]
        return self

    def _options(self, stage: str) -> dict[str, Any]:
        out_dir = None if self.out_dir is None else self.out_dir / stage
        return {**self.options, "description": stage, "out_dir": out_dir}

    def _train_encoder(self, pairs: dict[str, np.ndarray], held_out: dict[str, np.ndarray]) -> TrainingResult:
        def loss_fn(encoder: nn.Module, batch: dict[str, Tensor], _: torch.Generator) -> dict[str, Tensor]:
            return {"loss": self.scan_loss(encoder(to_model_range(batch["images"])), batch["voxels"])}

        settings = {"cosine_weight": self.config.cosine_weight, **_validation_rows(held_out)}
        return fit(
            self.encoder_, loss_fn, pairs, self.config.encoder, validate_fn=_validator(loss_fn, held_out),
            settings=settings, **self._options("encoder"),
        )  # fmt: skip

    def _train_decoder(
        self, pairs: dict[str, np.ndarray], held_out: dict[str, np.ndarray], pictures: np.ndarray, scans: Rows
    ) -> TrainingResult:
        config, scale = self.config, self.config.encoder_learning_rate_scale
        both = nn.ModuleDict({"encoder": self.encoder_.requires_grad_(scale > 0), "decoder": self.decoder_})
        if self.features is not None:
            self.features.to(next(self.encoder_.parameters()).device).requires_grad_(False).eval()

        def loss_fn(both: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
            count = len(batch["voxels"])
            alone = to_model_range(_draw(pictures, count, generator)).to(batch["voxels"].device)
            silent = torch.as_tensor(_draw(scans, count, generator)).to(batch["voxels"])
            return self.decoder_losses(both["encoder"], both["decoder"], batch, alone, silent)

        def supervised(both: nn.Module, batch: dict[str, Tensor], _: torch.Generator) -> dict[str, Tensor]:
            return {"loss": self.image_loss(both["decoder"](batch["voxels"]), to_model_range(batch["images"]))}

        groups = [{"params": list(self.decoder_.parameters())}]
        if scale > 0:
            groups.append({"params": list(self.encoder_.parameters()), "learning_rate_scale": scale})
        settings = {name: value for name, value in asdict(config).items() if name not in ("encoder", "decoder")}
        settings |= {"images alone": fingerprint_of(pictures), "scans alone": fingerprint_of(scans)}
        settings |= {"features": self.features and fingerprint_of_weights(self.features.state_dict().items())}
        settings |= _validation_rows(held_out)
        return fit(
            both, loss_fn, pairs, config.decoder, validate_fn=_validator(supervised, held_out),
            parameter_groups=groups, settings=settings, **self._options("decoder"),
        )  # fmt: skip

    def decoder_losses(
        self, encoder: nn.Module, decoder: nn.Module, pairs: dict[str, Tensor], images: Tensor, voxels: Tensor
    ) -> dict[str, Tensor]:
        """The three sums of the second training, and "loss", their weighted sum; each of shape ().

        Args:
            pairs: "voxels" (b, V) and "images", uint8 (b, s, s, 3).
            images: without scans, (b, 3, s, s) in [-1, 1].
            voxels: without pictures, (b, V).
        """
        config = self.config
        painted = decoder(torch.cat([pairs["voxels"], voxels, encoder(images)]))
        seen, unseen, again = painted.chunk(3)
        terms = {
            "supervised": self.image_loss(seen, to_model_range(pairs["images"])),
            "image_cycle": self.image_loss(again, images),
            "scan_cycle": self.scan_loss(encoder(unseen), voxels),
        }
        loss = terms["supervised"] + config.image_cycle_weight * terms["image_cycle"]
        return {"loss": loss + config.scan_cycle_weight * terms["scan_cycle"], **terms}

    def scan_loss(self, made: Tensor, true: Tensor) -> Tensor:
        """L_v of scans (b, V): predicting zeros scores about 1."""
        return F.mse_loss(made, true) - self.config.cosine_weight * F.cosine_similarity(made, true, dim=-1).mean()

    def image_loss(self, made: Tensor, true: Tensor) -> Tensor:
        """L_u of images (b, 3, s, s) in [-1, 1]; the same picture scores its own total variation alone."""
        loss = F.mse_loss(made, true)  # not |a - b|, which a black picture minimises where most is black
        across, down = (made.diff(dim=axis).abs().mean() for axis in (2, 3))
        loss = loss + self.config.variation_weight * (across + down)
        if self.features is not None and self.config.feature_weight:
            pairs = zip(self.features.maps(made), self.features.maps(true), strict=True)
            loss = loss + self.config.feature_weight * sum((a - b).abs().mean() for a, b in pairs)
        return loss

    @torch.no_grad()
    def reconstruct(
        self, voxels: np.ndarray, num_samples: int = 1, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Pictures for voxels (n, V): uint8, shape (n, s, s, 3), one a scan."""
        scans = torch.as_tensor(check_scans(voxels, self._num_voxels), dtype=torch.float32)
        device = next(self.decoder_.parameters()).device
        return np.concatenate([to_uint8(self.decoder_(part.to(device))) for part in scans.split(256)])

    @property
    def num_parameters(self) -> int:
        """Of E and D."""
        if self._num_voxels is None:
            return 0
        return sum(weight.numel() for net in (self.encoder_, self.decoder_) for weight in net.parameters())


def _draw(rows: Rows, count: int, generator: torch.Generator) -> np.ndarray:
    """`count` rows at random, with replacement."""
    return np.asarray(rows[torch.randint(len(rows), (count,), generator=generator).numpy()])


def _validation_rows(held_out: dict[str, np.ndarray]) -> dict[str, str]:
    return {f"validation.{name}": fingerprint_of(rows) for name, rows in held_out.items()}


def _validator(loss_fn: LossFunction, data: dict[str, np.ndarray], batch_size: int = 128) -> ValidateFunction:
    """The loss over all rows of `data`; nothing in it is random."""

    def validate(model: nn.Module) -> dict[str, float]:
        device, rows = next(model.parameters()).device, len(data["voxels"])
        total = 0.0
        for start in range(0, rows, batch_size):
            batch = {name: torch.as_tensor(part[start : start + batch_size]).to(device) for name, part in data.items()}
            total += float(loss_fn(model, batch, torch.Generator())["loss"]) * len(batch["voxels"]) / rows
        return {"loss": total}

    return validate


def _stopping(knob: str, measure: str, result: TrainingResult, rows: int) -> Tuning:
    tried = tuple((row["step"], row["loss"]) for row in result.history if row["split"] == "val")
    return Tuning(knob, measure, rows, tried, result.best_step, result.best_value)
