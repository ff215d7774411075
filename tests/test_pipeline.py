"""Brain in, image out: what the pipeline promises about shapes, seeds, disks and errors."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from safetensors.torch import load_file, save_file

import visdec_lite
from visdec_lite import reconstruct
from visdec_lite.conditioning import FMRIConditioner
from visdec_lite.datasets import load_dataset
from visdec_lite.latent_diffusion import SCHEDULERS, LatentDiffusion, LatentDiffusionConfig, denoise, make_scheduler
from visdec_lite.manifest import MANIFEST
from visdec_lite.masked_autoencoder import MaskedAutoencoderConfig
from visdec_lite.metrics import pcc
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


# --- schedulers ---


def installed(name: str) -> type:
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde", reason="DPMSolverSDEScheduler needs the package torchsde")
    return getattr(diffusers, name)


STOCHASTIC = (
    "DDPMScheduler", "DPMSolverSDEScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
    "LCMScheduler", "SASolverScheduler", "TCDScheduler",
)  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_scheduler_paints_the_same_pictures_whatever_the_batch(name):
    """Stochastic ones as well: a picture's noise is its own."""
    pipe = build()
    before = paint(pipe)
    pipe.scheduler = installed(name).from_config(pipe.scheduler.config)
    whole = paint(pipe)
    assert whole.shape == before.shape
    np.testing.assert_array_equal(whole, paint(pipe))
    difference = np.abs(whole.astype(int) - paint(pipe, batch_size=4))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_noise_of_a_picture_is_that_of_the_generator_and_its_number(name):
    """Fewer scans, another call, torch's own generator: pictures before stay; two pictures never share their noise."""
    pipe = build()
    pipe.scheduler = installed(name).from_config(pipe.scheduler.config)
    whole, first = paint(pipe), paint(pipe, VOXELS[:1])
    assert np.abs(whole[:1].astype(int) - first).max() <= 1
    assert (whole != paint(pipe, seed=1)).any()
    alike = paint(pipe, VOXELS[[0, 0]])
    assert len(np.unique(alike.reshape(4, -1), axis=0)) == 4
    generator = torch.Generator().manual_seed(0)
    twice = [pipe(VOXELS, 2, 4, generator=generator).images for _ in range(2)]
    np.testing.assert_array_equal(twice[0], pipe(VOXELS, 2, 4, generator=torch.Generator().manual_seed(0)).images)
    assert (twice[0] != twice[1]).any()
    state = torch.get_rng_state()
    paint(pipe)
    assert torch.equal(torch.get_rng_state(), state), "the global random state is not touched"


@pytest.fixture(scope="module")
def shipped() -> tuple:
    """The shipped pipeline, ten test stimuli, and how well ours paints them."""
    pipe, test = reconstruct.shipped_pipeline(), load_dataset("simulated")["test"].average_repeats()
    pipe.set_progress_bar_config(disable=True)
    voxels = test.voxels[:10]

    def score(scheduler, steps: int = 20) -> float:
        own, pipe.scheduler = pipe.scheduler, scheduler or pipe.scheduler
        try:
            images = pipe(voxels, 1, steps, 3.0, torch.Generator().manual_seed(0)).images
        finally:
            pipe.scheduler = own
        return float(pcc(images, test.images[:10]).mean())

    return pipe.scheduler, score, score(None)


def other_scheduler(name: str, config, **options):
    if name == "SASolverScheduler":
        options["algorithm_type"] = "data_prediction"  # it does not take a saved DPM-Solver++'s word
    return installed(name).from_config(config, **options)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler"])
def test_a_scheduler_put_in_as_users_do_scores_as_ours(shipped, name):
    """The config as it comes from disk; clipping gave DDIM 0.04 and DDPM 0.25."""
    scheduler, score, ours = shipped
    assert ours == pytest.approx(0.59, abs=0.08)
    assert score(other_scheduler(name, json.loads(scheduler.to_json_string()))) > ours - 0.06


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_scores_as_ours(shipped, name):
    scheduler, score, ours = shipped
    steps = 50 if name == "PNDMScheduler" else 20  # PLMS extrapolates, and is off in few steps: 0.46 in 20
    for config in (scheduler.config, json.loads(scheduler.to_json_string())):
        assert score(other_scheduler(name, config), steps) > ours - 0.06


def test_a_second_order_scheduler_asks_twice_and_the_bar_knows(tmp_path):
    pipe, bars, calls = build(), [], []
    pipe.scheduler = diffusers.HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    original, unet = pipe.progress_bar, pipe.unet.forward
    pipe.progress_bar = lambda **options: bars.append(original(**options)) or bars[-1]
    pipe.unet.forward = lambda *a, **o: calls.append(1) or unet(*a, **o)
    with open(tmp_path / "bar", "w") as file:
        pipe.set_progress_bar_config(disable=False, file=file)
        paint(pipe)
    assert [(bar.n, bar.total) for bar in bars] == [(7, 7)] and len(calls) == 7


def test_another_schedule_of_noise_is_refused():
    pipe = build()
    pipe.scheduler = DDIMScheduler(clip_sample=False)
    with pytest.raises(ValueError, match=r"DDIMScheduler has another noise schedule .*beta_end 0\.0195.*from_config"):
        paint(pipe)


def test_a_scheduler_that_clips_is_refused_with_the_way_out():
    pipe = build()
    config = {k: v for k, v in pipe.scheduler.config.items() if k != "clip_sample"}  # as an older version saved it
    pipe.scheduler = DDIMScheduler.from_config(config)
    with pytest.raises(ValueError, match=r"DDIMScheduler has clip_sample on.*from_config\(.*clip_sample=False\)"):
        paint(pipe)


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
    beside = {"model_index.json", "scheduler/scheduler_config.json", "pipeline.py", MANIFEST}
    assert names == weights | configs | beside
    assert set(json.loads((saved / MANIFEST).read_text())["files"]) == names - {MANIFEST}
    index = json.loads((saved / "model_index.json").read_text())
    assert index["conditioner"] == ["visdec_lite.conditioning", "FMRIConditioner"]


def test_loaded_pipeline_paints_the_same_pictures(pipe, saved):
    loaded = FMRIToImagePipeline.from_pretrained(saved)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.conditioner) is FMRIConditioner and loaded.conditioner.encoder.config == ENCODER
    assert loaded.vqvae.config.scaling_factor == pytest.approx(1 / 2.5)
    np.testing.assert_array_equal(paint(loaded), paint(pipe))


def test_diffusers_itself_loads_the_folder_if_trusted_and_says_so_if_not(pipe, saved, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"contains custom code.*\s.*trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(saved)
    loaded = DiffusionPipeline.from_pretrained(saved, trust_remote_code=True)
    assert type(loaded) is FMRIToImagePipeline
    loaded.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(paint(loaded), paint(pipe))


def test_code_in_a_folder_never_runs_by_our_loader(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "planted")
    (folder / MANIFEST).unlink()
    (folder / "pipeline.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\nclass FMRIToImagePipeline: ...\n")
    (folder / "None.py").write_text((folder / "pipeline.py").read_text())
    with pytest.raises(ValueError, match=r"cannot be loaded .*custom code"):
        FMRIToImagePipeline.from_pretrained(folder)
    (folder / "None.py").unlink()
    FMRIToImagePipeline.from_pretrained(folder)
    assert not (tmp_path / "it ran").exists()


def test_what_made_it_travels_with_it(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "one", made_by={"seed": 3, "config": {"steps": 20}})
    loaded = FMRIToImagePipeline.from_pretrained(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "two")
    assert FMRIToImagePipeline.from_pretrained(tmp_path / "two").made_by == {"seed": 3, "config": {"steps": 20}}


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors", "conditioner/config.json", "model_index.json", "pipeline.py"]
)
@pytest.mark.parametrize("cut", [True, False])
def test_a_flipped_bit_and_a_cut_are_refused_and_named(saved, tmp_path, name, cut):
    """At a seeded place; `test_manifest` tries hundreds."""
    folder = shutil.copytree(saved, tmp_path / "damaged")
    content = bytearray((folder / name).read_bytes())
    place = int(np.random.default_rng(0).integers(len(content)))
    content[place] ^= 4
    (folder / name).write_bytes(content[:place] if cut else content)
    with pytest.raises(ValueError, match=f"damaged is not as it was saved: {name} holds other bytes"):
        FMRIToImagePipeline.from_pretrained(folder)


def test_a_folder_without_manifest_loads_and_says_so(pipe, saved, tmp_path, caplog):
    folder = shutil.copytree(saved, tmp_path / "older")
    (folder / MANIFEST).unlink()
    loaded = FMRIToImagePipeline.from_pretrained(folder)
    assert "has no manifest.json: its files are taken as they are, unverified" in caplog.text
    loaded.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(paint(loaded), paint(pipe))


@pytest.mark.parametrize("content", ["[]", "null", "", "{", "3"])
@pytest.mark.parametrize("name", ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"])
def test_damaged_notes_of_an_unverified_folder_are_named(saved, tmp_path, name, content):
    folder = shutil.copytree(saved, tmp_path / "older")
    (folder / MANIFEST).unlink()
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=rf"older cannot be loaded \({name} is damaged, it holds no JSON object\)"):
        FMRIToImagePipeline.from_pretrained(folder)


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path):
    pipe = build()
    pipe.save_pretrained(tmp_path / "good")
    with torch.no_grad():
        pipe.unet.conv_in.bias[2] = torch.nan
    with pytest.raises(ValueError, match=r"this pipeline holds NaN or infinity in unet: conv_in.bias \(1 of "):
        pipe.save_pretrained(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    pipe.unet.save_pretrained(tmp_path / "good" / "unet")
    (tmp_path / "good" / MANIFEST).unlink()
    with pytest.raises(ValueError, match=r"good holds NaN or infinity in unet: conv_in.bias"):
        FMRIToImagePipeline.from_pretrained(tmp_path / "good")


def test_weights_that_a_file_lacks_are_named(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "older")
    (folder / MANIFEST).unlink()
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_in.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"older lacks 1 of unet's tensors: conv_in\.weight"):
        FMRIToImagePipeline.from_pretrained(folder)


def test_nowhere_nothing_and_a_file_are_one_sentence(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, words in [("nowhere", "is not there"), ("a/b", "is not there"), ("empty", "holds no"), ("file", "is a")]:
        with pytest.raises(FileNotFoundError, match=f"{name} {words}.*folder with a model_index.json"):
            FMRIToImagePipeline.from_pretrained(name)


def test_saving_onto_a_file_or_as_pickle_is_refused(pipe, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="is a file, and a folder is needed there; choose another place"):
        pipe.save_pretrained(tmp_path / "file")
    with pytest.raises(ValueError, match="writes safetensors into a folder"):
        pipe.save_pretrained(tmp_path / "pickle", safe_serialization=False)


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
        (torch.zeros(0, 128), r"\(0, 128\).*one scan or more"),
        (np.zeros((1, 128), complex), r"voxels are complex128, expected z-scored floats"),
        (torch.zeros(1, 128, dtype=torch.bool), r"voxels are torch.bool, expected z-scored floats"),
        (np.zeros((1, 128), int), r"voxels are int64, expected z-scored floats"),
        ([["a"] * 128], r"voxels are <U1, expected z-scored floats"),
        (np.full((1, 128), 1e300), r"128 of 128 voxels hold NaN or infinity"),
        (torch.zeros(3, 2, 128), r"\(3, 2, 128\).*\(scans, 128\)"),
        (torch.zeros(3, 128).index_fill_(1, torch.tensor([4, 9]), torch.nan), r"2 of 128 voxels hold NaN"),
        (torch.zeros(3, 128).index_fill_(1, torch.tensor([7]), torch.inf), r"1 of 128 voxels hold NaN or infinity"),
    ],
)
def test_voxels_that_do_not_fit_are_refused(pipe, voxels, message):
    with pytest.raises(ValueError, match=message):
        paint(pipe, voxels)


@pytest.mark.parametrize("name", ["num_samples", "num_inference_steps", "batch_size"])
@pytest.mark.parametrize("number", [0, -1, 2.0, 2.5, True, "2", None, float("nan")])
def test_numbers_that_are_no_count_are_refused(pipe, name, number):
    with pytest.raises(ValueError, match=f"{name} is {number!r}, expected a whole number"):
        paint(pipe, **{name: number})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 1001}, "num_inference_steps is 1001, expected a whole number from 1 to 1000"),
        ({"num_inference_steps": 10**9}, "expected a whole number from 1 to 1000"),
        ({"num_samples": 10**9}, "num_samples is 1000000000, expected a whole number, from 1 to 10000"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan, expected a finite number"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf, expected a finite number"),
        ({"guidance_scale": "3"}, "guidance_scale is '3', expected a finite number"),
    ],
)
def test_absurd_numbers_are_refused_before_the_work(pipe, monkeypatch, options, message):
    monkeypatch.setattr(pipe.conditioner, "forward", lambda *_: pytest.fail("it was at work"))
    with pytest.raises(ValueError, match=message):
        paint(pipe, **options)


@pytest.mark.parametrize("generator", [3, [torch.Generator()], torch.Generator])
def test_what_is_no_generator_is_refused(pipe, generator):
    with pytest.raises(ValueError, match=r"generator is .*expected one on the CPU: torch\.Generator\(\)"):
        pipe(VOXELS, generator=generator)


def test_numpy_numbers_are_numbers(pipe):
    options = {"num_samples": np.int64(2), "num_inference_steps": np.int32(4), "guidance_scale": np.float32(2)}
    np.testing.assert_array_equal(paint(pipe, **options), paint(pipe))


def test_floats_of_any_byte_order_and_stride_are_read_rightly(pipe):
    expected = paint(pipe)
    for voxels in (VOXELS.numpy().astype(">f8"), VOXELS.numpy()[::-1].copy()[::-1], VOXELS.tolist()):
        np.testing.assert_array_equal(paint(pipe, voxels), expected)
