"""Brain in, image out: the trained parts as one diffusers pipeline.

In: z-scored voxels of one or more scans. Out: pictures. Nothing here has ever seen the stimulus: the module
may import neither the data sets nor phase 2, and a test holds it to that.

    pipe = FMRIToImagePipeline.from_pretrained("runs/subject1")
    pictures = pipe(voxels, num_samples=5, generator=torch.Generator().manual_seed(0)).images

Source: Sun et al., NeurIPS 2023, sections 3.3 and 4; five samples a scan and 250 PLMS steps in the paper,
20 steps of DPM-Solver++ here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel, VQModel
from diffusers.utils import BaseOutput
from einops import rearrange, repeat
from torch import Tensor

from visdec_lite.conditioning import FMRIConditioner
from visdec_lite.latent_diffusion import LatentDiffusion, denoise, generators_of, make_scheduler, set_out
from visdec_lite.manifest import verify, whole_folder
from visdec_lite.preprocessing import to_uint8
from visdec_lite.progress import Bar
from visdec_lite.validation import as_array

SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")  # the same for every scheduler
MOST_SAMPLES = 10_000  # pictures a scan; more is a slip of the keyboard

# Beside a saved pipeline: tells diffusers' own loader where the class is.
PIPELINE_CODE = '''"""Read by diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)."""

from visdec_lite.pipeline import FMRIToImagePipeline  # noqa: F401
'''


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
        scheduler: one of `latent_diffusion.SCHEDULERS` with the betas of training.
        schedule: those betas, as diffusers names them; None: as `scheduler` has them. Kept in the pipeline's config,
            so that a scheduler put in later is held to them.
    """

    model_cpu_offload_seq = "conditioner->unet->vqvae"

    def __init__(
        self,
        conditioner: FMRIConditioner,
        unet: UNet2DConditionModel,
        vqvae: VQModel,
        scheduler: SchedulerMixin,
        schedule: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(conditioner=conditioner, unet=unet, vqvae=vqvae, scheduler=scheduler)
        self.register_to_config(schedule=dict(schedule or {name: scheduler.config.get(name) for name in SCHEDULE}))
        self.made_by: dict[str, Any] = {}

    @classmethod
    def from_parts(
        cls, conditioner: FMRIConditioner, diffusion: LatentDiffusion, sampler: str = "dpm++"
    ) -> FMRIToImagePipeline:
        """The pipeline of freshly trained parts; it shares their weights."""
        diffusion.vq.register_to_config(scaling_factor=1 / float(diffusion.latent_scale))
        return cls(conditioner, diffusion.unet, diffusion.vq, make_scheduler(diffusion.config, sampler)).eval()

    # --- disk ---

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, made_by: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Write the pipeline into a folder, whole or not at all, with the SHA-256 of every file in manifest.json.

        Args:
            save_directory: the folder; what diffusers wrote there before is replaced.
            made_by: what shaped the weights (configs, seeds, hashes), plain values; kept in the manifest, and found in
                `made_by` of a loaded pipeline. None: what it was loaded with.
            options: of `DiffusionPipeline.save_pretrained`, except pushing to a hub.

        Raises:
            CannotWrite: a file of that name, no permission, no room.
            ValueError: weights that are not finite, or an option that would pickle or push.
        """
        if options.get("push_to_hub") or not options.get("safe_serialization", True):
            raise ValueError("save_pretrained writes safetensors into a folder; push that with huggingface_hub instead")
        self._refuse_broken_weights("this pipeline")
        tensors = [t for part in (self.conditioner, self.unet, self.vqvae) for t in part.state_dict().values()]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        with whole_folder(save_directory, self.made_by if made_by is None else made_by, size) as folder:
            super().save_pretrained(folder, **options)
            (folder / "pipeline.py").write_text(PIPELINE_CODE, encoding="utf-8")
            index = folder / self.config_name
            content = json.loads(index.read_text(encoding="utf-8"))
            content["_class_name"] = ["pipeline", type(self).__name__]  # diffusers: the class is in pipeline.py
            index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any
    ) -> FMRIToImagePipeline:
        """A saved pipeline, every file of it verified; no code from the folder runs.

        `diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` gives the same object: it runs
        the folder's pipeline.py (one import of this class) and verifies nothing.

        Args:
            pretrained_model_name_or_path: folder of `save_pretrained`. One without manifest.json (older, or made by
                hand) is taken unverified, and the log says so.
            options: of `DiffusionPipeline.from_pretrained`: parts of one's own, `dtype`, ...

        Raises:
            FileNotFoundError: no such folder, or no pipeline in it.
            ValueError: files that differ from what was saved, weights that are not finite.
        """
        folder = Path(pretrained_model_name_or_path)
        if not (folder / cls.config_name).is_file():
            what = "is a file" if folder.is_file() else "holds no pipeline" if folder.is_dir() else "is not there"
            raise FileNotFoundError(
                f"{folder} {what}; give a folder with a {cls.config_name}, as visdec-lite train finetune leaves in "
                "OUT/pipeline or pipe.save_pretrained(folder) writes"
            )
        with ThreadPoolExecutor(1) as beside:  # sums are formed while diffusers builds the parts
            verdict = beside.submit(verify, folder)
            try:
                _check_notes(folder)
                pipe = super().from_pretrained(folder, **{"local_files_only": True, **options})
            except (ImportError, MemoryError):
                raise
            except Exception as error:  # other people's files may raise anything
                verdict.result()  # damage, where it is known, is the reason to give
                words = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise ValueError(f"{folder} cannot be loaded ({words}); save it again or take another copy") from error
        pipe.made_by = verdict.result() or {}
        pipe._refuse_broken_weights(str(folder))
        return pipe

    @classmethod
    def load_config(cls, *arguments: Any, **options: Any) -> Any:
        """As in diffusers, but the class is this one, and not what code in the folder says."""
        found = super().load_config(*arguments, **options)
        config = found[0] if isinstance(found, tuple) else found
        config["_class_name"] = cls.__name__
        return found

    def _refuse_broken_weights(self, where: str) -> None:
        for name in ("conditioner", "unet", "vqvae"):
            state = {key: t for key, t in getattr(self, name).state_dict().items() if t.is_floating_point()}
            if missing := [key for key, tensor in state.items() if tensor.is_meta]:  # named in no file
                raise ValueError(f"{where} lacks {len(missing)} of {name}'s tensors: {', '.join(missing[:3])}")
            if torch.stack([tensor.sum().float().cpu() for tensor in state.values()]).isfinite().all():
                continue  # a sum is finite if all it adds is, short of an overflow
            broken = [key for key, tensor in state.items() if not tensor.isfinite().all()]
            if broken:
                raise ValueError(
                    f"{where} holds NaN or infinity in {name}: {', '.join(broken[:3])} ({len(broken)} of {len(state)} "
                    "tensors); its training failed or the file is damaged, train it again or take another copy"
                )

    # --- painting ---

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
            num_inference_steps: denoising steps, at most the timesteps of the schedule; a scheduler of second order
                (Heun, KDPM2) asks the UNet about twice as often.
            guidance_scale: how far to follow the scan, see `latent_diffusion.denoise`; 1 is no guidance.
            generator: on the CPU; the same one state gives the same pictures, whatever `batch_size`, with stochastic
                schedulers as well: each picture has a noise of its own.
            batch_size: pictures painted at once.

        Returns:
            `images`: uint8, shape (n, num_samples, height, width, 3).

        Raises:
            ValueError: voxels of another number or not finite, a number below 1, a scheduler that does not walk the
                schedule of training (`latent_diffusion.set_out`).
            FloatingPointError: the pictures ended in NaN.
        """
        voxels = self.check_inputs(voxels, num_samples, num_inference_steps, batch_size, guidance_scale, generator)
        calls = len(self.scheduler.timesteps)  # of the UNet a batch; PLMS takes one more than it is asked for
        context, time_condition = self.conditioner(voxels.to(self.conditioner.device, self.conditioner.dtype))
        context, time_condition = (repeat(c, "n ... -> (n s) ...", s=num_samples) for c in (context, time_condition))
        size, channels = self.unet.config.sample_size, self.unet.config.in_channels
        generators = generators_of(generator, len(context))
        noise = torch.randn(len(context), channels, size, size, generator=generator).to(context)
        pictures = []
        with self.progress_bar(total=-(-len(noise) // batch_size) * calls) as bar:
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
                    generators[rows],
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
        self,
        voxels: Tensor | np.ndarray,
        num_samples: int,
        num_inference_steps: int,
        batch_size: int,
        guidance_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Voxels as a float tensor (n, num_voxels), the scheduler at its first step; or an error: what is wrong."""
        if not isinstance(voxels, Tensor):
            voxels = as_array(voxels, "voxels")
            if voxels.dtype.kind == "f":
                voxels = torch.from_numpy(voxels.astype(np.float64))
        if not isinstance(voxels, Tensor) or not voxels.is_floating_point():
            raise ValueError(f"voxels are {voxels.dtype}, expected z-scored floats; see preprocessing.ZScore")
        voxels = voxels.float()
        voxels = voxels[None] if voxels.ndim == 1 else voxels
        config = self.conditioner.encoder.config
        if voxels.ndim != 2 or voxels.shape[1] != config.num_voxels or not len(voxels):
            raise ValueError(
                f"voxels have shape {tuple(voxels.shape)}, this pipeline reads (scans, {config.num_voxels}), one scan "
                "or more; use the subject, regions and padding it was trained with "
                f"(preprocessing.pad_voxels(voxels, multiple={config.patch_size}))"
            )
        broken = int((~voxels.isfinite()).any(0).sum())
        if broken:
            raise ValueError(
                f"{broken} of {voxels.shape[1]} voxels hold NaN or infinity; set them to 0, the mean of "
                "z-scored voxels, or leave those scans out"
            )
        for name, number, most in (("num_samples", num_samples, MOST_SAMPLES), ("batch_size", batch_size, None)):
            whole = isinstance(number, Integral) and not isinstance(number, bool)
            if not whole or number < 1 or (most and number > most):
                span = f"from 1 to {most}" if most else "1 or more"
                raise ValueError(f"{name} is {number!r}, expected a whole number, {span}")
        if generator is not None and not (isinstance(generator, torch.Generator) and generator.device.type == "cpu"):
            raise ValueError(f"generator is {generator!r}, expected one on the CPU: torch.Generator().manual_seed(0)")
        set_out(self.scheduler, num_inference_steps, guidance_scale)
        theirs, ours = self.scheduler.alphas_cumprod.cpu().float(), DDPMScheduler(**self.config.schedule).alphas_cumprod
        if theirs.shape != ours.shape or not torch.allclose(theirs, ours, rtol=1e-4):
            name = type(self.scheduler).__name__
            trained = ", ".join(f"{key} {value}" for key, value in self.config.schedule.items())
            raise ValueError(
                f"{name} has another noise schedule than this model was trained on ({trained}); while pipe.scheduler "
                f"is the one it came with: pipe.scheduler = {name}.from_config(pipe.scheduler.config)"
            )
        return voxels


def _check_notes(folder: Path) -> None:
    """Every JSON file of a saved pipeline holds names and values; diffusers would ask the network for another one."""
    for path in sorted(folder.rglob("*.json")):
        try:
            sound = isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
        except ValueError:
            sound = False
        if not sound:
            raise ValueError(f"{path.relative_to(folder).as_posix()} is damaged, it holds no JSON object")
