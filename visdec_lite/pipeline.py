"""Brain in, image out: the trained parts as one diffusers pipeline.

In: z-scored voxels of one or more scans. Out: pictures. Nothing here has ever seen the stimulus: the module
may import neither the data sets nor phase 2, and a test holds it to that.

    pipe = FMRIToImagePipeline.from_pretrained("runs/subject1")
    pictures = pipe(voxels, num_samples=5, generator=torch.Generator().manual_seed(0)).images

Source: Sun et al., NeurIPS 2023, sections 3.3 and 4; five samples a scan and 250 PLMS steps in the paper,
20 steps of DPM-Solver++ here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin, UNet2DConditionModel, VQModel
from diffusers.utils import BaseOutput
from einops import rearrange, repeat
from torch import Tensor

from visdec_lite.conditioning import FMRIConditioner
from visdec_lite.latent_diffusion import LatentDiffusion, denoise, make_scheduler
from visdec_lite.preprocessing import to_uint8
from visdec_lite.progress import Bar


@dataclass
class FMRIToImageOutput(BaseOutput):
    """images: uint8, shape (n, num_samples, height, width, 3)."""

    images: np.ndarray


class FMRIToImagePipeline(DiffusionPipeline):
    """fMRI -> condition -> guided denoising -> VQ decoder -> pictures.

    Args:
        conditioner: phi, trained for one subject's voxels.
        unet: noise predictor with fine-tuned cross-attentions.
        vqvae: first stage; its `scaling_factor` multiplies latents on their way in.
        scheduler: any diffusers scheduler with the betas of training.
    """

    model_cpu_offload_seq = "conditioner->unet->vqvae"

    def __init__(
        self,
        conditioner: FMRIConditioner,
        unet: UNet2DConditionModel,
        vqvae: VQModel,
        scheduler: SchedulerMixin,
    ) -> None:
        super().__init__()
        self.register_modules(conditioner=conditioner, unet=unet, vqvae=vqvae, scheduler=scheduler)

    @classmethod
    def from_parts(
        cls, conditioner: FMRIConditioner, diffusion: LatentDiffusion, sampler: str = "dpm++"
    ) -> FMRIToImagePipeline:
        """The pipeline of freshly trained parts; it shares their weights."""
        diffusion.vq.register_to_config(scaling_factor=1 / float(diffusion.latent_scale))
        return cls(conditioner, diffusion.unet, diffusion.vq, make_scheduler(diffusion.config, sampler)).eval()

    def eval(self) -> FMRIToImagePipeline:
        """Every part in evaluation mode."""
        for part in (self.conditioner, self.unet, self.vqvae):
            part.eval()
        return self

    @torch.no_grad()
    def __call__(
        self,
        voxels: Tensor | np.ndarray,
        num_samples: int = 5,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        generator: torch.Generator | None = None,
        batch_size: int = 64,
    ) -> FMRIToImageOutput:
        """Paint what each scan saw.

        Args:
            voxels: z-scored as the training data, shape (n, num_voxels) or (num_voxels,) for one scan.
            num_samples: pictures a scan; they differ where the scan does not tell.
            num_inference_steps: denoising steps.
            guidance_scale: how far to follow the scan, see `latent_diffusion.denoise`; 1 is no guidance.
            generator: on the CPU; the same one state gives the same pictures, whatever `batch_size`.
            batch_size: pictures painted at once.

        Returns:
            `images`: uint8, shape (n, num_samples, height, width, 3).

        Raises:
            ValueError: voxels of another number or not finite, or a number below 1.
        """
        voxels = self.check_inputs(voxels, num_samples, num_inference_steps, batch_size)
        context, time_condition = self.conditioner(voxels.to(self.conditioner.device, self.conditioner.dtype))
        context, time_condition = (repeat(c, "n ... -> (n s) ...", s=num_samples) for c in (context, time_condition))
        size, channels = self.unet.config.sample_size, self.unet.config.in_channels
        noise = torch.randn(len(context), channels, size, size, generator=generator).to(context)

        self.scheduler.set_timesteps(num_inference_steps)
        steps = len(self.scheduler.timesteps)  # PLMS takes one more than it is asked for
        pictures = []
        with self.progress_bar(total=-(-len(noise) // batch_size) * steps) as bar:
            for start in range(0, len(noise), batch_size):
                rows = slice(start, start + batch_size)
                latents = denoise(
                    self.predict_noise,
                    self.scheduler,
                    noise[rows],
                    (context[rows], time_condition[rows]),
                    self.conditioner.null(len(noise[rows])),
                    num_inference_steps,
                    guidance_scale,
                    generator,
                    on_step=lambda *_: bar.update(),
                )
                pictures.append(to_uint8(self.decode(latents)))
        images = rearrange(np.concatenate(pictures), "(n s) h w c -> n s h w c", s=num_samples)
        return FMRIToImageOutput(images=images)

    def progress_bar(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> Bar:
        """Diffusers' bar, which `set_progress_bar_config` sets up; in a log file it is one line."""
        return Bar(iterable, total=total, **getattr(self, "_progress_bar_config", {}))

    def predict_noise(self, noisy: Tensor, timestep: Tensor, context: Tensor, time_condition: Tensor | None) -> Tensor:
        """epsilon_theta(x_t, t, condition)."""
        return self.unet(noisy, timestep, context, class_labels=time_condition).sample

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> images (b, 3, h, w), about [-1, 1]."""
        return self.vqvae.decode(latents / self.vqvae.config.scaling_factor).sample

    def check_inputs(
        self, voxels: Tensor | np.ndarray, num_samples: int, num_inference_steps: int, batch_size: int
    ) -> Tensor:
        """Voxels as a float tensor (n, num_voxels), or an error that says what is wrong."""
        voxels = torch.as_tensor(voxels).float()
        voxels = voxels[None] if voxels.ndim == 1 else voxels
        config = self.conditioner.encoder.config
        if voxels.ndim != 2 or voxels.shape[1] != config.num_voxels:
            raise ValueError(
                f"voxels have shape {tuple(voxels.shape)}, this pipeline reads (scans, {config.num_voxels}); "
                "use the subject, regions and padding it was trained with "
                f"(preprocessing.pad_voxels(voxels, multiple={config.patch_size}))"
            )
        broken = int((~voxels.isfinite()).any(0).sum())
        if broken:
            raise ValueError(
                f"{broken} of {voxels.shape[1]} voxels hold NaN or infinity; set them to 0, the mean of "
                "z-scored voxels, or leave those scans out"
            )
        numbers = {
            "num_samples": num_samples, "num_inference_steps": num_inference_steps, "batch_size": batch_size,
        }  # fmt: skip
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f"{name} is {number}, expected 1 or more")
        return voxels
