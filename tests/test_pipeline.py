"""Brain in, image out: what the pipeline promises about shapes, seeds, disks and errors."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

import visdec_lite
from visdec_lite.conditioning import FMRIConditioner
from visdec_lite.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, denoise, make_scheduler
from visdec_lite.masked_autoencoder import MaskedAutoencoderConfig
from visdec_lite.pipeline import FMRIToImagePipeline
from visdec_lite.preprocessing import to_uint8

ROOT = Path(__file__).resolve().parent.parent
DIFFUSION = LatentDiffusionConfig(
    image_size=16, num_classes=4, codebook_size=16, vq_channels=(8, 8, 16), vq_layers=1, unet_channels=(8, 16),
    unet_attention=(True, True), unet_layers=1, attention_heads=2, context_dim=16, norm_groups=4,
)  # fmt: skip
ENCODER = MaskedAutoencoderConfig(
    num_voxels=128, patch_size=8, embed_dim=16, depth=2, num_heads=2, decoder_embed_dim=8, decoder_depth=1,
    decoder_num_heads=2,
)  # fmt: skip


def parts() -> tuple[FMRIConditioner, LatentDiffusion]:
    """Untrained, but with a spread of the latents that is not 1 and a condition that is loud."""
    torch.manual_seed(0)
    conditioner = FMRIConditioner(asdict(ENCODER), 6, DIFFUSION.context_dim, DIFFUSION.time_dim)
    diffusion = LatentDiffusion(DIFFUSION)
    torch.nn.init.normal_(conditioner.to_time.weight)
    torch.nn.init.normal_(diffusion.vq.quantize.embedding.weight)
    diffusion.latent_scale.fill_(2.5)
    return conditioner, diffusion


def build(sampler: str = "dpm++") -> FMRIToImagePipeline:
    pipe = FMRIToImagePipeline.from_parts(*parts(), sampler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> FMRIToImagePipeline:
    """For tests that change nothing in it."""
    return build()


VOXELS = torch.randn(3, 128, generator=torch.Generator().manual_seed(5))


def paint(pipe: FMRIToImagePipeline, voxels=VOXELS, seed: int = 0, **options) -> np.ndarray:
    options = {"num_samples": 2, "num_inference_steps": 4, **options}
    return pipe(voxels, generator=torch.Generator().manual_seed(seed), **options).images


# --- pictures ---


def test_pictures_are_uint8_rows_of_samples(pipe):
    images = paint(pipe)
    assert images.shape == (3, 2, 16, 16, 3) and images.dtype == np.uint8
    assert images.std() > 1


def test_one_scan_and_numpy_are_welcome(pipe):
    one = paint(pipe, VOXELS[0])
    assert one.shape == (1, 2, 16, 16, 3)
    np.testing.assert_array_equal(one, paint(pipe, VOXELS[:1]))
    np.testing.assert_array_equal(one, paint(pipe, VOXELS[0].double().numpy()))


def test_pictures_are_those_of_the_parts_by_hand():
    """Condition, noise, guided walk and decoder, called one by one on the parts that were trained."""
    conditioner, diffusion = parts()
    pipe = FMRIToImagePipeline.from_parts(conditioner, diffusion, "ddim")
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        condition = tuple(part.repeat_interleave(2, 0) for part in conditioner(VOXELS))
        noise = torch.randn(6, 3, 4, 4, generator=generator)
        latents = denoise(
            diffusion.predict_noise, make_scheduler(DIFFUSION, "ddim"), noise, condition, conditioner.null(6), 4, 3.0
        )
        expected = to_uint8(diffusion.decode(latents)).reshape(3, 2, 16, 16, 3)
    np.testing.assert_array_equal(paint(pipe, guidance_scale=3.0), expected)


@pytest.mark.parametrize("sampler", ["dpm++", "pndm"])
@pytest.mark.parametrize("batch_size", [1, 4, 5])
def test_same_generator_same_pictures_whatever_the_batch(sampler, batch_size):
    """Sums of another length may round the last bit of a pixel otherwise."""
    pipe = build(sampler)
    whole, pieces = paint(pipe), paint(pipe, batch_size=batch_size)
    difference = np.abs(whole.astype(int) - pieces)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_seed_decides(pipe):
    np.testing.assert_array_equal(paint(pipe), paint(pipe))
    assert (paint(pipe) != paint(pipe, seed=1)).any()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    paint(pipe)
    assert torch.equal(torch.get_rng_state(), state), "the global random state is not touched"


def test_samples_of_a_scan_differ_and_scans_differ(pipe):
    images = paint(pipe, VOXELS[[0, 0, 1]], num_samples=3)
    assert len(np.unique(images.reshape(9, -1), axis=0)) == 9


@pytest.mark.parametrize(
    "change",
    [{"num_inference_steps": 6}, {"guidance_scale": 1.0}, {"guidance_scale": 6.0}, {"voxels": -VOXELS}],
)
def test_every_knob_changes_the_pictures(pipe, change):
    assert (paint(pipe) != paint(pipe, **change)).any()


@pytest.mark.parametrize("number", [1, 4])
def test_num_samples_is_a_number_of_pictures(pipe, number):
    assert paint(pipe, num_samples=number).shape[:2] == (3, number)


def test_guidance_of_zero_ignores_the_scan(pipe):
    one, other = (paint(pipe, v, guidance_scale=0.0) for v in (VOXELS, -VOXELS))
    np.testing.assert_array_equal(one, other)


def test_any_scheduler_will_do():
    pipe = build()
    before = paint(pipe)
    for scheduler in (DDIMScheduler, EulerDiscreteScheduler):
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
        images = paint(pipe)
        assert images.shape == before.shape and (images != before).any()


def test_fresh_pipeline_is_in_evaluation_mode_and_shares_the_weights():
    conditioner, diffusion = parts()
    pipe = FMRIToImagePipeline.from_parts(conditioner.train(), diffusion.train())
    assert not any(part.training for part in (pipe.conditioner, pipe.unet, pipe.vqvae))
    assert pipe.unet is diffusion.unet and pipe.vqvae is diffusion.vq and pipe.conditioner is conditioner


def test_no_gradients_are_kept(pipe):
    assert not any(part.grad is not None for part in pipe.unet.parameters())


# --- disk ---


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    pipe.save_pretrained(folder)
    return folder


def test_saved_as_safetensors_and_plain_json(saved):
    names = {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}
    weights = {f"{part}/diffusion_pytorch_model.safetensors" for part in ("conditioner", "unet", "vqvae")}
    configs = {f"{part}/config.json" for part in ("conditioner", "unet", "vqvae")}
    assert names == weights | configs | {"model_index.json", "scheduler/scheduler_config.json"}
    index = json.loads((saved / "model_index.json").read_text())
    assert index["conditioner"] == ["visdec_lite.conditioning", "FMRIConditioner"]


def test_loaded_pipeline_paints_the_same_pictures(pipe, saved):
    loaded = FMRIToImagePipeline.from_pretrained(saved)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.conditioner) is FMRIConditioner and loaded.conditioner.encoder.config == ENCODER
    assert loaded.vqvae.config.scaling_factor == pytest.approx(1 / 2.5)
    np.testing.assert_array_equal(paint(loaded), paint(pipe))


def test_loading_accepts_parts_of_ones_own(saved):
    conditioner, _ = parts()
    scheduler = make_scheduler(DIFFUSION, "ddim")
    loaded = FMRIToImagePipeline.from_pretrained(saved, conditioner=conditioner, scheduler=scheduler)
    assert loaded.conditioner is conditioner and isinstance(loaded.scheduler, DDIMScheduler)


@pytest.fixture(scope="module")
def elsewhere(saved) -> dict:
    """The same in a fresh process that knows nothing but the folder."""
    code = f"""
import json, sys, torch
torch.set_num_threads(1)
import visdec_lite.pipeline
modules = sorted(name for name in sys.modules if name.startswith("visdec_lite"))
pipe = visdec_lite.FMRIToImagePipeline.from_pretrained({str(saved)!r})
pipe.set_progress_bar_config(disable=True)
voxels = torch.randn(3, 128, generator=torch.Generator().manual_seed(5))
images = pipe(voxels, num_samples=2, num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images
print(json.dumps({{"modules": modules, "images": images.tolist()}}))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return {**json.loads(result.stdout), "stderr": result.stderr}


def test_another_process_paints_the_same_pictures_without_complaint(pipe, elsewhere):
    np.testing.assert_array_equal(np.array(elsewhere["images"]), paint(pipe))
    said = [line for line in elsewhere["stderr"].replace("\r", "\n").splitlines() if "Loading" not in line]
    assert not any(said), said


def test_inference_never_sees_a_stimulus(elsewhere):
    """Neither phase 2 nor any data set is imported on the way to a picture."""
    forbidden = ("visdec_lite.fusion", "visdec_lite.datasets", "visdec_lite.stages")
    assert "visdec_lite.pipeline" in elsewhere["modules"]
    assert not [name for name in elsewhere["modules"] if name.startswith(forbidden)]


def test_is_a_public_name():
    assert visdec_lite.FMRIToImagePipeline is FMRIToImagePipeline


# --- progress ---


@pytest.mark.parametrize(
    ("sampler", "batch_size", "steps"), [("dpm++", 64, 4), ("dpm++", 4, 8), ("ddim", 6, 4), ("pndm", 64, 5)]
)
def test_progress_counts_every_step_of_every_batch(sampler, batch_size, steps):
    """PLMS asks the UNet once more: its second step is made twice."""
    pipe, bars = build(sampler), []
    original = pipe.progress_bar
    pipe.progress_bar = lambda **options: bars.append(original(**options)) or bars[-1]
    pipe.set_progress_bar_config(disable=False, file=open("/dev/null", "w"))  # noqa: SIM115
    paint(pipe, batch_size=batch_size)
    assert [(bar.n, bar.total) for bar in bars] == [(steps, steps)]


def test_progress_bar_can_be_switched_off(capsys):
    pipe = build()
    paint(pipe)
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config(disable=False)
    paint(pipe)
    assert "4/4" in capsys.readouterr().err


# --- errors ---


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (torch.zeros(3, 127), r"\(3, 127\).*\(scans, 128\).*pad_voxels\(voxels, multiple=8\)"),
        (torch.zeros(127), r"\(1, 127\).*\(scans, 128\)"),
        (torch.zeros(3, 2, 128), r"\(3, 2, 128\).*\(scans, 128\)"),
        (torch.zeros(3, 128).index_fill_(1, torch.tensor([4, 9]), torch.nan), r"2 of 128 voxels hold NaN"),
        (torch.zeros(3, 128).index_fill_(1, torch.tensor([7]), torch.inf), r"1 of 128 voxels hold NaN or infinity"),
    ],
)
def test_voxels_that_do_not_fit_are_refused(pipe, voxels, message):
    with pytest.raises(ValueError, match=message):
        paint(pipe, voxels)


@pytest.mark.parametrize("name", ["num_samples", "num_inference_steps", "batch_size"])
@pytest.mark.parametrize("number", [0, -1])
def test_numbers_below_one_are_refused(pipe, name, number):
    with pytest.raises(ValueError, match=f"{name} is {number}, expected 1 or more"):
        paint(pipe, **{name: number})
