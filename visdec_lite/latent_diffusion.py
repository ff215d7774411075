"""The latent diffusion model (LDM): from noise to a picture, told what to paint.

In: images in [-1, 1] and a condition. Out: predicted noise, or images. Three frozen or trained parts:

* `vq`, a VQGAN's autoencoder: picture u -> latents x_0 = E_VQ(u), a fourth of the width and height;
* `unet`, which predicts the noise in x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) epsilon;
* `label_embedding`, the condition of the pre-trained label-to-image prior: one context token a class.

A condition enters the UNet twice (Sun et al., 2023, section 3.3): as key and value of every cross-attention
(`context`), and added to the time embedding (`time_condition`, diffusers' `class_embed_type="identity"`).
The prior is trained on labels; fine-tuning to fMRI then touches the cross-attention and its norms only.
LDM: Rombach et al., CVPR 2022; classifier-free guidance: Ho and Salimans, 2021.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
    VQModel,
)
from einops import reduce
from torch import Tensor, nn

from visdec_lite.fields import COUNT, INSIDE, SIZE, SWITCH, check_fields, several, whole

SAMPLERS = {"ddim": DDIMScheduler, "pndm": PNDMScheduler, "dpm++": DPMSolverMultistepScheduler}

# Those of diffusers 0.42 that walk this schedule back: benchmarks/schedulers.py scores each. SASolver takes no word of
# a saved DPM-Solver++: give it algorithm_type="data_prediction".
SCHEDULERS = (
    "DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler", "LMSDiscreteScheduler",
    "PNDMScheduler", "SASolverScheduler", "TCDScheduler", "UniPCMultistepScheduler",
)  # fmt: skip

# What schedulers other than ours ask for; kept in the config of ours, so that `Any.from_config(scheduler.config)` walks
# back rightly. diffusers' own defaults cut x_0 to [-1, 1], and latents reach beyond.
FOR_ANY_SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,  # DDIM, DDPM
    "thresholding": False,
    "set_alpha_to_one": True,  # the last step ends at x_0 itself
    "timestep_spacing": "trailing",  # the first step starts at pure noise
    "steps_offset": 0,
    "skip_prk_steps": True,  # PNDM without the Runge-Kutta start, as the paper's PLMS
    "rescale_betas_zero_snr": False,
}


@dataclass(frozen=True)
class LatentDiffusionConfig:
    """Defaults are CompVis cin256-v2, the paper's label-to-image model."""

    image_size: int = 256  # pixels a side
    num_classes: int = 1000  # labels of the prior; one more embedding stands for "no label"
    latent_channels: int = 3
    codebook_size: int = 8192  # vectors of the VQ codebook
    vq_channels: tuple[int, ...] = (128, 256, 512)  # three levels: a latent pixel is 4 x 4 image pixels
    vq_layers: int = 2  # residual blocks a level
    unet_channels: tuple[int, ...] = (192, 384, 576, 960)
    unet_attention: tuple[bool, ...] = (False, True, True, True)  # levels with cross-attention
    unet_layers: int = 2  # residual blocks a level
    attention_heads: int = 1
    context_dim: int = 512  # width of a context token
    norm_groups: int = 32  # must divide every width above
    beta_start: float = 0.0015  # noise variance of the first step ...
    beta_end: float = 0.0195  # ... and of the last; the square roots lie on a line ("scaled linear")
    num_timesteps: int = 1000

    def __post_init__(self) -> None:
        sizes = ("image_size", "latent_channels", "vq_layers", "unet_layers", "attention_heads", "context_dim")
        check_fields(self, {
            **dict.fromkeys((*sizes, "norm_groups"), SIZE), "num_classes": COUNT, "codebook_size": COUNT,
            "num_timesteps": whole(1, 10**6), "vq_channels": several(SIZE), "unet_channels": several(SIZE),
            "unet_attention": several(SWITCH), "beta_start": INSIDE, "beta_end": INSIDE,
        })  # fmt: skip
        if self.beta_end <= self.beta_start:
            raise ValueError(
                f"LatentDiffusionConfig.beta_end is {self.beta_end}; expected a number in (beta_start, 1), beta_start "
                f"being {self.beta_start}"
            )
        if len(self.unet_channels) != len(self.unet_attention):
            raise ValueError(
                f"unet_channels names {len(self.unet_channels)} levels and unet_attention "
                f"{len(self.unet_attention)}; give one of each a level"
            )
        divisor = self.downsampling * 2 ** (len(self.unet_channels) - 1)
        if self.image_size % divisor:
            raise ValueError(
                f"image_size {self.image_size} cannot be halved down to the UNet's deepest level; "
                f"use a multiple of {divisor} or fewer levels"
            )
        for width in (*self.vq_channels, *self.unet_channels):
            if width % self.norm_groups:
                raise ValueError(f"norm_groups {self.norm_groups} does not divide the width {width}")
        attention = (*self.unet_attention[:-1], True)  # below the deepest level the UNet always attends
        for width, attends in zip(self.unet_channels, attention, strict=True):
            if attends and width % self.attention_heads:
                raise ValueError(f"attention_heads {self.attention_heads} does not divide the width {width}")

    @property
    def downsampling(self) -> int:
        """Image pixels along the side of one latent pixel."""
        return 2 ** (len(self.vq_channels) - 1)

    @property
    def latent_size(self) -> int:
        return self.image_size // self.downsampling

    @property
    def time_dim(self) -> int:
        """Width of the UNet's time embedding, and so of a time condition."""
        return 4 * self.unet_channels[0]


class LatentDiffusion(nn.Module):
    """VQ autoencoder, conditioned UNet and label embedding."""

    def __init__(self, config: LatentDiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.vq = VQModel(
            down_block_types=("DownEncoderBlock2D",) * len(config.vq_channels),
            up_block_types=("UpDecoderBlock2D",) * len(config.vq_channels),
            block_out_channels=config.vq_channels,
            layers_per_block=config.vq_layers,
            latent_channels=config.latent_channels,
            num_vq_embeddings=config.codebook_size,
            vq_embed_dim=config.latent_channels,
            norm_num_groups=config.norm_groups,
            sample_size=config.image_size,
            scaling_factor=1.0,
        )
        attention = config.unet_attention
        self.unet = UNet2DConditionModel(
            sample_size=config.latent_size,
            in_channels=config.latent_channels,
            out_channels=config.latent_channels,
            block_out_channels=config.unet_channels,
            layers_per_block=config.unet_layers,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
            cross_attention_dim=config.context_dim,
            attention_head_dim=config.attention_heads,  # diffusers reads this as the number of heads
            norm_num_groups=config.norm_groups,
            class_embed_type="identity",
        )
        self.label_embedding = nn.Embedding(config.num_classes + 1, config.context_dim)
        # Latents are divided by their spread before noise is added; a buffer, because it is measured, not
        # chosen (`measure_latent_scale`). cin256 uses 1.
        self.register_buffer("latent_scale", torch.ones(()))
        betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_timesteps) ** 2
        self.register_buffer("alphas_cumprod", torch.cumprod(1 - betas, 0), persistent=False)

    # --- first stage ---

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (b, 3, h, w) in [-1, 1] -> latents (b, c, h / 4, w / 4) of about unit spread."""
        expected = (3, self.config.image_size, self.config.image_size)
        if images.shape[1:] != expected:
            size = self.config.image_size
            raise ValueError(
                f"images have shape {tuple(images.shape)}, the first stage takes (batch, 3, {size}, {size}); "
                f"resize them first: preprocessing.resize_images(images, {size})"
            )
        return self.vq.encode(images).latents / self.latent_scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> images (b, 3, h, w) in [-1, 1]: nearest codebook vectors, then the decoder."""
        return self.vq.decode(latents * self.latent_scale).sample.clamp(-1, 1)

    @torch.no_grad()
    def measure_latent_scale(self, images: Tensor) -> None:
        """Set `latent_scale` to the standard deviation of the latents of `images`."""
        self.latent_scale.fill_(self.vq.encode(images).latents.std())

    # --- diffusion ---

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) epsilon, for one timestep (0 = least noise) a row."""
        abar = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return abar.sqrt() * latents + (1 - abar).sqrt() * noise

    def predict_noise(
        self, noisy: Tensor, timesteps: Tensor, context: Tensor, time_condition: Tensor | None = None
    ) -> Tensor:
        """The UNet: epsilon_theta(x_t, t, condition).

        Args:
            noisy: x_t, shape (b, c, h, w).
            timesteps: shape (b,) or (), in [0, num_timesteps).
            context: condition tokens for every cross-attention, shape (b, tokens, context_dim).
            time_condition: added to the time embedding, shape (b, time_dim); None adds nothing.
        """
        if time_condition is None:
            time_condition = noisy.new_zeros(len(noisy), self.config.time_dim)
        return self.unet(noisy, timesteps, context, class_labels=time_condition).sample

    def loss(
        self,
        latents: Tensor,
        context: Tensor,
        time_condition: Tensor | None,
        generator: torch.Generator,
        timestep_bias: float = 0.0,
        max_weight: float = 1.0,
    ) -> Tensor:
        """|| epsilon - epsilon_theta(x_t, t, condition) ||^2, averaged; shape (). Zero prediction scores 1.

        Args:
            latents: x_0, shape (b, c, h, w).
            context, time_condition: as in `predict_noise`.
            generator: on the CPU; draws timesteps and noise.
            timestep_bias: p(t) grows as t ** timestep_bias. 0 is the paper's uniform draw; 1 dwells on high
                noise, where the condition is all there is to go by.
            max_weight: each error counts min(1 / abar_t, max_weight) times. 1 is the paper's plain loss. More makes
                it the error in v = sqrt(abar_t) epsilon - sqrt(1 - abar_t) x_0 (Salimans and Ho, 2022), up to that
                bound: in pure noise epsilon is easily told without knowing the picture, v is not.
        """
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        uniform = torch.rand(len(latents), generator=generator, dtype=torch.float64)
        timesteps = (self.config.num_timesteps * uniform ** (1 / (1 + timestep_bias))).long()
        timesteps = timesteps.clamp(max=self.config.num_timesteps - 1).to(latents.device)
        noisy = self.add_noise(latents, noise, timesteps)
        error = (self.predict_noise(noisy, timesteps, context, time_condition) - noise) ** 2
        weight = (1 / self.alphas_cumprod[timesteps]).clamp(max=max_weight)
        return (reduce(error, "b c h w -> b", "mean") * weight).mean()

    def label_context(self, labels: Tensor) -> Tensor:
        """Labels (b,) -> one context token each, (b, 1, context_dim); label num_classes means none."""
        return self.label_embedding(labels)[:, None]

    # --- what learns when ---

    def train_prior_only(self) -> None:
        """Label-to-image training: UNet and label embedding learn, the first stage is frozen."""
        self.requires_grad_(False)
        self.unet.requires_grad_(True)
        self.label_embedding.requires_grad_(True)

    def train_condition_only(self) -> None:
        """Fine-tuning to fMRI: cross-attentions and their norms learn, everything else is frozen."""
        self.requires_grad_(False)
        for parameter in self.condition_parameters():
            parameter.requires_grad_(True)

    def condition_parameters(self) -> Iterator[nn.Parameter]:
        """Cross-attentions (diffusers: attn2) and the norms before them (norm2): 27 M of cin256's 401 M."""
        for name, module in self.unet.named_modules():
            if name.endswith((".attn2", ".norm2")) and ".transformer_blocks." in name:
                yield from module.parameters()


def make_scheduler(config: LatentDiffusionConfig, sampler: str = "dpm++") -> SchedulerMixin:
    """The noise schedule with a way to walk it back; its config serves every other scheduler of diffusers as well.

    Args:
        config: whose betas.
        sampler: "ddim" (Song et al., 2021), "pndm" (PLMS, as the paper: 250 steps) or "dpm++" (DPM-Solver++ of
            order 2, Lu et al., 2022; as good in about 20 steps).
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"no sampler is called {sampler!r}; there are {', '.join(SAMPLERS)}")
    settings = {
        **FOR_ANY_SCHEDULER,
        "num_train_timesteps": config.num_timesteps,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
    }
    if sampler == "pndm":  # as released
        settings |= {"timestep_spacing": "leading", "set_alpha_to_one": False}
    own = inspect.signature(SAMPLERS[sampler].__init__).parameters
    scheduler = SAMPLERS[sampler](**{name: value for name, value in settings.items() if name in own})
    scheduler.register_to_config(**{name: value for name, value in settings.items() if name not in own})
    return scheduler


def set_out(
    scheduler: SchedulerMixin,
    num_inference_steps: int,
    guidance_scale: float,
    device: torch.device | str | None = None,
) -> Tensor:
    """The timesteps of a walk back, most noise first, one a call of the model; `scheduler` stands at the first.

    Raises:
        ValueError: a scheduler of another kind (flow matching, EDM, consistency, inverse), one that would cut latents
            to [-1, 1], more steps than timesteps, or a guidance that is no finite number.
    """
    name, config = type(scheduler).__name__, getattr(scheduler, "config", {})
    others = f"take one of {', '.join(SCHEDULERS)}, made by from_config(scheduler.config) of the one before"
    asked = inspect.signature(scheduler.step).parameters.values() if hasattr(scheduler, "step") else ()
    asked = [each.name for each in asked if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    needed = ("alphas_cumprod", "init_noise_sigma", "scale_model_input", "set_timesteps")
    if not all(hasattr(scheduler, each) for each in needed) or asked != ["model_output", "timestep", "sample"]:
        raise ValueError(f"{name} does not walk back a schedule of betas as this model was trained on; {others}")
    if config.get("prediction_type", "epsilon") != "epsilon":
        raise ValueError(f"{name} expects {config.prediction_type!r}, and this model predicts 'epsilon'; {others}")
    cutting = [option for option in ("clip_sample", "thresholding", "use_flow_sigmas") if config.get(option)]
    if cutting:
        raise ValueError(
            f"{name} has {' and '.join(cutting)} on, for pixels or other models, and latents reach beyond [-1, 1]; "
            f"{name}.from_config(scheduler.config, {', '.join(f'{option}=False' for option in cutting)})"
        )
    total = len(scheduler.alphas_cumprod)
    counted = isinstance(num_inference_steps, Integral) and not isinstance(num_inference_steps, bool)
    if not counted or not 1 <= num_inference_steps <= total:
        raise ValueError(
            f"num_inference_steps is {num_inference_steps!r}, expected a whole number from 1 to {total}, the timesteps "
            "of the schedule"
        )
    real = isinstance(guidance_scale, Real) and not isinstance(guidance_scale, bool)
    if not real or not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale is {guidance_scale!r}, expected a finite number; 1 is no guidance")
    scheduler.set_timesteps(int(num_inference_steps), device=device)
    if scheduler.timesteps[0] < scheduler.timesteps[-1]:
        raise ValueError(f"{name} walks from a picture to noise; {others}")
    return scheduler.timesteps


@torch.no_grad()
def denoise(
    predict_noise: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
    scheduler: SchedulerMixin,
    noise: Tensor,
    condition: tuple[Tensor, Tensor | None],
    null_condition: tuple[Tensor, Tensor | None],
    num_inference_steps: int,
    guidance_scale: float,
    generator: torch.Generator | list[torch.Generator] | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """From pure noise to latents, shape as `noise`.

    Guidance takes the step from "no condition" to "condition" `guidance_scale` times:
    epsilon = eps_null + g (eps_cond - eps_null). 1 is no guidance and costs half; 0 ignores the condition.

    Args:
        predict_noise: `LatentDiffusion.predict_noise`, or the UNet behind another face.
        noise: standard normal, shape (b, c, h, w).
        condition: (context, time_condition), a row each sample; null_condition: what says "nothing".
        num_inference_steps: steps of the walk back, at most the scheduler's training steps.
        generator: of the noise that stochastic schedulers add on the way, on the CPU. One for all rows, or a list of
            one each: a picture is then the same whatever others are painted beside it.
        on_step: called after every call of the model with its number and the latents.

    Raises:
        ValueError: see `set_out`.
        FloatingPointError: the latents ended in NaN or infinity.
    """
    timesteps = set_out(scheduler, num_inference_steps, guidance_scale, noise.device)
    latents = noise * scheduler.init_noise_sigma
    guided = guidance_scale != 1.0
    context, time_condition = _stack(condition, null_condition) if guided else condition
    stochastic = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": generator} if stochastic else {}
    if hasattr(scheduler, "noise_sampler_seed"):  # DPMSolverSDE takes seeds instead, a row each
        scheduler.noise_sampler_seed = _seeds(generator, len(noise))
    for number, timestep in enumerate(timesteps):
        noisy = scheduler.scale_model_input(latents, timestep)
        if guided:
            both = predict_noise(torch.cat([noisy, noisy]), timestep, context, time_condition)
            with_condition, without = both.chunk(2)
            epsilon = without + guidance_scale * (with_condition - without)
        else:
            epsilon = predict_noise(noisy, timestep, context, time_condition)
        latents = scheduler.step(epsilon, timestep, latents, **extra).prev_sample
        if on_step:
            on_step(number, latents)
    if not latents.isfinite().all():
        raise FloatingPointError(
            f"{type(scheduler).__name__} ended in NaN or infinity after {num_inference_steps} steps with "
            f"guidance_scale {guidance_scale:g}; less guidance, another scheduler, or weights in float32"
        )
    return latents


def generators_of(generator: torch.Generator | None, count: int) -> list[torch.Generator]:
    """A generator a picture: a function of the state of `generator` (None: torch's own) and the picture's number.

    `generator` itself is not moved on.
    """
    source = torch.Generator().set_state((generator or torch.default_generator).get_state())
    return [torch.Generator().manual_seed(seed) for seed in _seeds(source, count)]


def _seeds(generator: torch.Generator | list[torch.Generator] | None, count: int) -> list[int]:
    if isinstance(generator, list):
        return [each.initial_seed() for each in generator]
    return torch.randint(2**63 - 1, (count,), generator=generator).tolist()


def _stack(condition: tuple[Tensor, Tensor | None], null: tuple[Tensor, Tensor | None]) -> tuple:
    return tuple(None if a is None else torch.cat([a, b.expand_as(a)]) for a, b in zip(condition, null, strict=True))


@torch.no_grad()
def sample_labels(
    model: LatentDiffusion,
    labels: Tensor,
    generator: torch.Generator,
    num_inference_steps: int = 20,
    guidance_scale: float = 1.5,
    sampler: str = "dpm++",
) -> Tensor:
    """Pictures of the label-told prior, shape (len(labels), 3, h, w) in [-1, 1]."""
    side, channels = model.config.latent_size, model.config.latent_channels
    noise = torch.randn(len(labels), channels, side, side, generator=generator).to(labels.device)
    told = model.label_context(labels)
    untold = model.label_context(torch.full_like(labels, model.config.num_classes))
    scheduler = make_scheduler(model.config, sampler)
    latents = denoise(
        model.predict_noise, scheduler, noise, (told, None), (untold, None), num_inference_steps, guidance_scale
    )
    return model.decode(latents)
