"""IC-GAN: two ridge regressions from a scan into a generator's inputs.

In: scans and pictures of one subject, and a trained `InstanceGAN`. Out: crisp samples. After Ozcelik et al., IJCNN 2022
(arXiv 2202.12692), who put an instance-conditioned GAN (Casanova et al., 2021) behind linear decoders:

    h = normalised(ridge_h(v))        what kind of picture: instance features, of length 1 as the GAN knows them
    z = ridge_z(v) + s sigma epsilon  the rest (place, size, background): the noise of the picture
    picture = G(z, h)

Both penalties are chosen on validation. sigma^2 = 1 - var(ridge_z(v)), component by component, over validation scans:
with s = 1 the z of all scans together have unit variance, which is what G was trained on, and a z of which the scan
says nothing is drawn from the prior. A smaller s stays nearer to the middle, where G paints best. (The authors predict
the output of G's first layer as well, and paint from the predictions as they are, s = 0.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat

from visdec_lite.baselines.base import Baseline, Tuning, check_pairs, check_scans, sample_generator
from visdec_lite.baselines.instance_gan import InstanceGAN
from visdec_lite.baselines.ridge import RidgeConfig, RidgeDecoder
from visdec_lite.fields import SHARE, SWITCH, check_fields, of


@dataclass(frozen=True)
class ICGANConfig:
    """How the GAN is read from a scan."""

    ridge: RidgeConfig = field(default_factory=RidgeConfig)
    read_noise: bool = True  # False: z is drawn, and the scan chooses h alone
    spread: float = 0.5  # s: 1 paints all that the scan leaves open, 0 one picture a scan;
    # 50-way top-1 on 400 simulated validation scans at 0, 0.5 and 1: 0.435, 0.447, 0.439

    def __post_init__(self) -> None:
        check_fields(self, {"ridge": of(RidgeConfig), "read_noise": SWITCH, "spread": SHARE})


class ICGAN(Baseline):
    """Ridge to the inputs of an instance-conditioned GAN.

    Args:
        prior: trained by `instance_gan_training.train_instance_gan`; it stays as it is.

    Attributes:
        to_instance, to_noise: the two `RidgeDecoder`s.
        sigma_: of z around its prediction, float64, shape (noise_dim,).
    """

    stochastic = True

    def __init__(self, prior: InstanceGAN, config: ICGANConfig | None = None) -> None:
        self.prior, self.config = prior.eval(), config or ICGANConfig()
        self.to_instance, self.to_noise = RidgeDecoder(self.config.ridge), RidgeDecoder(self.config.ridge)
        self._num_voxels: int | None = None

    def fit_images(
        self, voxels: np.ndarray, images: np.ndarray, voxels_val: np.ndarray, images_val: np.ndarray
    ) -> Self:
        """Ridge from voxels to the instance features and the noise of the pictures; see `Baseline.fit_images`."""
        check_pairs(voxels, images, voxels_val, images_val)
        prior, rows = self.prior, len(voxels_val)
        self.to_instance.fit(voxels, prior.instances(images), voxels_val, prior.instances(images_val))
        tuning: list[Tuning] = [self.to_instance.tuning("instance features", rows)]
        self.sigma_ = np.ones(prior.config.noise_dim)
        if self.config.read_noise:
            self.to_noise.fit(voxels, prior.noises(images), voxels_val, prior.noises(images_val))
            tuning.append(self.to_noise.tuning("noise", rows))
            self.sigma_ = np.sqrt(np.maximum(1 - self.to_noise.predict(voxels_val).var(axis=0), 0.0))
        self.tuning, self._num_voxels = tuple(tuning), voxels.shape[1]
        return self

    def reconstruct(
        self, voxels: np.ndarray, num_samples: int = 1, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Samples for voxels (n, V): uint8, shape (n, num_samples, s, s, 3)."""
        scans = check_scans(voxels, self._num_voxels)
        generator = sample_generator(num_samples, generator)
        instance = F.normalize(torch.as_tensor(self.to_instance.predict(scans), dtype=torch.float32), dim=-1)
        epsilon = torch.randn((len(scans), num_samples, len(self.sigma_)), generator=generator)
        noise = epsilon * torch.as_tensor(self.sigma_ * self.config.spread, dtype=torch.float32)
        if self.config.read_noise:
            noise = noise + torch.as_tensor(self.to_noise.predict(scans), dtype=torch.float32)[:, None]
        painted = self.prior.paint(
            rearrange(noise, "n s d -> (n s) d"), repeat(instance, "n d -> (n s) d", s=num_samples)
        )
        return rearrange(painted, "(n s) h w c -> n s h w c", s=num_samples)

    @property
    def num_parameters(self) -> int:
        if self._num_voxels is None:
            return 0
        prior = sum(weight.numel() for weight in self.prior.parameters())
        return prior + self.to_instance.num_parameters + self.to_noise.num_parameters
