"""The forward process against its closed form, samplers against a perfect oracle, and what learns when."""

import json
from dataclasses import fields, replace
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from visdec_lite.latent_diffusion import (
    SAMPLERS,
    SCHEDULERS,
    LatentDiffusion,
    LatentDiffusionConfig,
    denoise,
    generators_of,
    make_scheduler,
    sample_labels,
)
from visdec_lite.preprocessing import to_model_range

TINY = LatentDiffusionConfig(
    image_size=16, num_classes=4, codebook_size=16, vq_channels=(8, 8, 16), vq_layers=1, unet_channels=(8, 16),
    unet_attention=(True, True), unet_layers=1, attention_heads=2, context_dim=16, norm_groups=4,
)  # fmt: skip
SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: LatentDiffusionConfig = TINY) -> LatentDiffusion:
    torch.manual_seed(0)
    return LatentDiffusion(config).eval()


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    """For tests that change nothing in it."""
    return build()


def noisy_batch(size: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_t, t and a context."""
    generator = seeded(1)
    return (
        torch.randn(size, 3, 4, 4, generator=generator),
        torch.randint(0, 1000, (size,), generator=generator),
        torch.randn(size, 5, 16, generator=generator),
    )


# --- sizes ---


def test_sizes_follow_from_the_config(model):
    assert (TINY.downsampling, TINY.latent_size, TINY.time_dim) == (4, 4, 32)
    paper = LatentDiffusionConfig()
    assert (paper.downsampling, paper.latent_size, paper.time_dim) == (4, 64, 768)
    assert model.unet.config.time_embedding_dim is None and model.unet.time_embedding.linear_2.out_features == 32


def test_paper_scale_has_the_published_number_of_weights():
    """CompVis cin256-v2: 400.9 M in the UNet; 27 M of them are the condition's (built without memory)."""
    with torch.device("meta"):
        paper = LatentDiffusion(LatentDiffusionConfig())
    assert sum(p.numel() for p in paper.unet.parameters()) == 400_920_579
    assert 26e6 < sum(p.numel() for p in paper.condition_parameters()) < 28e6
    assert paper.label_embedding.weight.shape == (1001, 512)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_groups": 3}, r"norm_groups 3 does not divide the width 8"),
        ({"vq_channels": (8, 8, 18)}, r"norm_groups 4 does not divide the width 18"),
        ({"image_size": 20}, r"image_size 20 .*multiple of 8"),
        ({"unet_attention": (True,)}, r"names 2 levels and unet_attention 1"),
        ({"attention_heads": 3}, r"attention_heads 3 does not divide the width 8"),
        ({"beta_end": 0.0015}, r"Config\.beta_end is 0\.0015; expected a number in \(beta_start, 1\), .* 0\.0015"),
        ({"beta_end": 1.0}, r"Config\.beta_end is 1\.0; expected a number in \(0, 1\)"),
        ({"beta_start": 0.0}, r"Config\.beta_start is 0\.0; expected a number in \(0, 1\)"),
        ({"beta_start": float("nan")}, r"Config\.beta_start is nan; expected a number in \(0, 1\)"),
        ({"beta_start": "small"}, r"Config\.beta_start is 'small'; expected a number in \(0, 1\)"),
        ({"vq_channels": ()}, r"Config\.vq_channels is \(\); expected one or more of: a whole number from 1"),
        ({"unet_channels": (8, 0)}, r"Config\.unet_channels is \(8, 0\); expected one or more of: a whole number"),
        ({"unet_attention": (1, 0)}, r"Config\.unet_attention is \(1, 0\); expected one or more of: True or False"),
    ],
)
def test_config_that_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


@pytest.mark.parametrize("name", [f.name for f in fields(TINY) if f.type == "int"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "8", None])
def test_every_count_is_a_count(name, value):
    with pytest.raises(ValueError, match=rf"LatentDiffusionConfig\.{name} is {value!r}; expected a whole number"):
        replace(TINY, **{name: value})


# --- first stage ---


def test_first_stage_shapes_and_range(model):
    images = torch.rand(2, 3, 16, 16, generator=seeded()) * 2 - 1
    latents = model.encode(images)
    assert latents.shape == (2, 3, 4, 4)
    pictures = model.decode(100 * latents)
    assert pictures.shape == (2, 3, 16, 16) and pictures.abs().max() <= 1


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 16, 16), (3, 16, 16)])
def test_first_stage_refuses_other_images(model, shape):
    with pytest.raises(ValueError, match=r"stage takes \(batch, .*3, 16, 16\).*resize_images\(images, 16\)"):
        model.encode(torch.zeros(shape))


def test_measured_scale_makes_latents_of_unit_spread_and_leaves_decoding_alone():
    model, images = build(), to_model_range(np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8))
    latents, before = model.encode(images), model.decode(model.encode(images))
    model.measure_latent_scale(images)
    torch.testing.assert_close(model.latent_scale, latents.std())
    torch.testing.assert_close(model.encode(images).std(), torch.ones(()))
    torch.testing.assert_close(model.decode(model.encode(images)), before)
    loaded = build()
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded.latent_scale, model.latent_scale)


def test_decoding_takes_the_nearest_codebook_vectors(model):
    codebook = model.vq.quantize.embedding.weight.detach()
    index = torch.randint(0, 16, (2, 4, 4), generator=seeded())
    exact = codebook[index].permute(0, 3, 1, 2)
    smallest = torch.cdist(codebook, codebook).fill_diagonal_(9).min()
    near = exact + 0.2 * smallest * torch.nn.functional.normalize(torch.randn(exact.shape, generator=seeded()), dim=1)
    torch.testing.assert_close(model.decode(near), model.decode(exact))
    direct = model.vq.decode(exact, force_not_quantize=True).sample.clamp(-1, 1)
    torch.testing.assert_close(model.decode(exact), direct)


# --- the forward process ---


def test_abar_by_hand_and_as_diffusers(model):
    betas = [(0.0015**0.5 + i / 999 * (0.0195**0.5 - 0.0015**0.5)) ** 2 for i in range(1000)]
    by_hand = torch.tensor(np.cumprod(1 - np.array(betas)), dtype=torch.float32)
    torch.testing.assert_close(model.alphas_cumprod, by_hand)
    torch.testing.assert_close(model.alphas_cumprod, DDPMScheduler(**SCHEDULE).alphas_cumprod)
    assert "alphas_cumprod" not in model.state_dict()


def test_noise_is_added_as_diffusers_adds_it(model):
    generator = seeded(2)
    latents, noise = torch.randn(2, 6, 3, 4, 4, generator=generator)
    timesteps = torch.tensor([0, 1, 250, 500, 998, 999])
    expected = DDPMScheduler(**SCHEDULE).add_noise(latents, noise, timesteps)
    torch.testing.assert_close(model.add_noise(latents, noise, timesteps), expected)


@pytest.mark.parametrize("timestep", [0, 300, 999])
def test_moments_of_the_forward_process(model, timestep):
    """q(x_t | x_0) has mean sqrt(abar_t) x_0 and variance 1 - abar_t; 40,000 draws of a latent of three values."""
    latents = torch.tensor([-2.0, 0.5, 3.0]).reshape(1, 3, 1, 1).expand(40_000, -1, -1, -1)
    noise = torch.randn(latents.shape, generator=seeded(3))
    noisy = model.add_noise(latents, noise, torch.full((40_000,), timestep))
    abar = float(model.alphas_cumprod[timestep])
    spread = (1 - abar) ** 0.5
    off = (noisy.mean(0).flatten() - abar**0.5 * latents[0].flatten()).abs() / (spread / 200)
    assert (off < 4).all()  # standard errors
    torch.testing.assert_close(noisy.var(0).flatten(), torch.full((3,), 1 - abar), rtol=0.03, atol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_walk_the_schedule_of_training(model, sampler):
    scheduler = make_scheduler(TINY, sampler)
    torch.testing.assert_close(scheduler.betas, DDPMScheduler(**SCHEDULE).betas)
    torch.testing.assert_close(scheduler.alphas_cumprod, model.alphas_cumprod)
    assert scheduler.config.prediction_type == "epsilon" and not scheduler.config.get("clip_sample", False)


def test_schedule_follows_the_config():
    other = replace(TINY, beta_start=0.001, beta_end=0.01, num_timesteps=50)
    torch.testing.assert_close(make_scheduler(other).alphas_cumprod, build(other).alphas_cumprod)
    assert build(other).alphas_cumprod.shape == (50,)


def test_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match=r"'euler'; there are ddim, pndm, dpm\+\+"):
        make_scheduler(TINY, "euler")


# --- the walk back ---


def scheduler_of(name: str, sampler: str, from_disk: bool):
    """Made as users do, from the config of ours."""
    config, options = make_scheduler(TINY, sampler).config, {}
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde", reason="DPMSolverSDEScheduler needs the package torchsde")
    if name == "SASolverScheduler":
        options["algorithm_type"] = "data_prediction"  # it does not take a saved DPM-Solver++'s word
    if from_disk:
        config = json.loads(make_scheduler(TINY, sampler).to_json_string())
    return getattr(diffusers, name).from_config(config, **options)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_perfect_noise_prediction_recovers_the_latents_by_any_scheduler(model, name, sampler):
    """Stochastic or not: told the noise rightly, the walk ends at x_0, or (DEIS, PNDM, SASolver, TCD) at the least
    noise of the schedule. A scheduler that clips ends more than 1 away, one that mistakes the noise anywhere."""
    latents, start = torch.randn(2, 2, 3, 4, 4, generator=seeded(4))
    assert latents.abs().max() > 2, "to be cut by clipping"
    log_sigmas = (1 / model.alphas_cumprod - 1).sqrt().log().numpy()

    def oracle(noisy, timestep, context, time_condition):
        sigma = np.exp(np.interp(float(timestep), np.arange(1000), log_sigmas))  # KDPM2 walks between the timesteps
        return (noisy * (1 + sigma**2) ** 0.5 - latents) / sigma

    told = torch.zeros(2, 1, 16), None
    for from_disk in (False, True):
        scheduler = scheduler_of(name, sampler, from_disk)
        generators = generators_of(seeded(), 2)
        found = denoise(oracle, scheduler, start, told, told, 20, 1.0, generators)
        least = float((1 - model.alphas_cumprod[0]).sqrt())
        assert (found - latents).abs().max() < 4 * least, "four standard deviations of the least noise"


def test_list_is_of_all_that_diffusers_counts_as_compatible():
    """EDM alone is none of betas; it is refused."""
    compatible = {each.__name__ for each in make_scheduler(TINY).compatibles}
    karras = {each.name for each in diffusers.schedulers.KarrasDiffusionSchedulers}
    assert (compatible | karras) - set(SCHEDULERS) == {"EDMEulerScheduler"}


@pytest.mark.parametrize(
    "name",
    ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "IPNDMScheduler",
     "CMStochasticIterativeScheduler", "RePaintScheduler", "DDIMInverseScheduler",
     "DPMSolverMultistepInverseScheduler", "CogVideoXDPMScheduler", "SCMScheduler", "DDPMWuerstchenScheduler"],
)  # fmt: skip
def test_schedulers_of_other_models_are_refused_and_those_that_can_are_named(name):
    scheduler = getattr(diffusers, name).from_config(make_scheduler(TINY).config)
    told = torch.zeros(1, 1, 16), None
    with pytest.raises(ValueError, match=rf"^{name} .*take one of DDIMScheduler, .*UniPCMultistepScheduler"):
        denoise(toy_noise, scheduler, torch.zeros(1, 3, 4, 4), told, told, 2, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_sample": True}, r"clip_sample on.*DDIMScheduler\.from_config\(scheduler\.config, clip_sample=False\)"),
        ({"thresholding": True}, r"has thresholding on.*thresholding=False"),
        ({"prediction_type": "v_prediction"}, r"expects 'v_prediction', and this model predicts 'epsilon'"),
    ],
)
def test_options_for_other_models_are_refused(options, message):
    scheduler = diffusers.DDIMScheduler.from_config(make_scheduler(TINY).config, **options)
    told = torch.zeros(1, 1, 16), None
    with pytest.raises(ValueError, match=message):
        denoise(toy_noise, scheduler, torch.zeros(1, 3, 4, 4), told, told, 2, 1.0)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [0, -1, 51, 10**9, 2.5, True, None])
def test_steps_are_whole_and_no_more_than_timesteps(sampler, steps):
    scheduler, told = make_scheduler(replace(TINY, num_timesteps=50), sampler), (torch.zeros(1, 1, 16), None)
    with pytest.raises(ValueError, match=f"num_inference_steps is {steps!r}, expected a whole number from 1 to 50"):
        denoise(toy_noise, scheduler, torch.zeros(1, 3, 4, 4), told, told, steps, 1.0)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_as_many_steps_as_timesteps_visit_each_once(sampler):
    scheduler = make_scheduler(replace(TINY, num_timesteps=50), sampler)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == list(range(49, -1, -1))


@pytest.mark.parametrize("guidance", [float("nan"), float("inf"), "2", None, True])
def test_guidance_is_a_finite_number(guidance):
    told = torch.zeros(1, 1, 16), None
    with pytest.raises(ValueError, match=f"guidance_scale is {guidance!r}, expected a finite number"):
        denoise(toy_noise, make_scheduler(TINY), torch.zeros(1, 3, 4, 4), told, told, 2, guidance)


def test_generators_of_pictures_are_a_function_of_state_and_number():
    source = seeded(5)
    state = source.get_state()
    draws = [torch.rand(1, generator=each).item() for each in generators_of(source, 50)]
    assert torch.equal(source.get_state(), state) and len(set(draws)) == 50
    assert [torch.rand(1, generator=each).item() for each in generators_of(seeded(5), 3)] == draws[:3]
    torch.rand(1, generator=source)
    assert torch.rand(1, generator=generators_of(source, 1)[0]).item() not in draws
    torch.manual_seed(5)
    assert [torch.rand(1, generator=each).item() for each in generators_of(None, 3)] == draws[:3]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [5, 20])
def test_perfect_noise_prediction_recovers_the_latents(model, sampler, steps):
    """If epsilon is always told right, every deterministic sampler ends at x_0.

    PLMS, as released, stops at the least noise instead: sqrt(abar_0) x_0 + sqrt(1 - abar_0) epsilon.
    """
    latents, start = torch.randn(2, 2, 3, 4, 4, generator=seeded(4))
    first, calls = {}, []

    def oracle(noisy, timestep, context, time_condition):
        abar = model.alphas_cumprod[timestep]
        epsilon = (noisy - abar.sqrt() * latents) / (1 - abar).sqrt()
        first.setdefault("epsilon", epsilon)
        return epsilon

    found = denoise(
        oracle, make_scheduler(TINY, sampler), start, (torch.zeros(2, 1, 16), None), (torch.zeros(2, 1, 16), None),
        num_inference_steps=steps, guidance_scale=1.0, on_step=lambda number, _: calls.append(number),
    )  # fmt: skip
    expected = latents
    if sampler == "pndm":
        abar = model.alphas_cumprod[0]
        expected = abar.sqrt() * latents + (1 - abar).sqrt() * first["epsilon"]
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    assert calls == list(range(len(make_scheduler_timesteps(sampler, steps))))


def make_scheduler_timesteps(sampler: str, steps: int) -> torch.Tensor:
    scheduler = make_scheduler(TINY, sampler)
    scheduler.set_timesteps(steps)
    return scheduler.timesteps


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_walk_starts_where_there_is_only_noise(sampler):
    assert make_scheduler_timesteps(sampler, 10)[0] == 999 and len(make_scheduler_timesteps(sampler, 10)) == 10


def one_step() -> SimpleNamespace:
    """A scheduler whose one step returns the predicted noise."""
    return SimpleNamespace(
        config={},
        alphas_cumprod=torch.ones(1),
        set_timesteps=lambda number, device: None,
        timesteps=[torch.tensor(0)],
        init_noise_sigma=1.0,
        scale_model_input=lambda latents, timestep: latents,
        step=lambda model_output, timestep, sample: SimpleNamespace(prev_sample=model_output),
    )


def toy_noise(noisy, timestep, context, time_condition):
    """Noise that is the sum of what it is told."""
    told = context.mean((1, 2)) + (0 if time_condition is None else time_condition.mean(1))
    return torch.zeros_like(noisy) + told[:, None, None, None]


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("with_time", [False, True])
def test_guidance_is_the_formula(scale, with_time):
    """epsilon = eps_null + g (eps_cond - eps_null): with 5 and 2 told, 2 + 3 g."""
    context, null = torch.full((4, 1, 16), 5.0), torch.full((1, 1, 16), 2.0)
    condition, nothing = (context, None), (null, None)
    if with_time:  # 1 and -1 more
        condition, nothing = (context, torch.full((4, 32), 1.0)), (null, torch.full((1, 32), -1.0))
    found = denoise(toy_noise, one_step(), torch.randn(4, 3, 4, 4), condition, nothing, 1, scale)
    expected = 1 + scale * 5.0 if with_time else 2 + scale * 3.0
    torch.testing.assert_close(found, torch.full((4, 3, 4, 4), expected))


def test_guidance_one_costs_half_and_never_asks_for_nothing():
    sizes = []

    def counting(noisy, timestep, context, time_condition):
        sizes.append(len(noisy))
        return toy_noise(noisy, timestep, context, time_condition)

    for scale in (1.0, 2.0):
        arguments = (torch.zeros(4, 3, 4, 4), (torch.ones(4, 1, 16), None), (torch.full((1, 1, 16), torch.nan), None))
        if scale == 1.0:
            assert denoise(counting, one_step(), *arguments, 1, scale).isfinite().all()
            continue
        with pytest.raises(FloatingPointError, match=r"ended in NaN or infinity after 1 steps with guidance_scale 2"):
            denoise(counting, one_step(), *arguments, 1, scale)
    assert sizes == [4, 8]


def test_guidance_just_off_one_is_unguided_in_the_limit(model):
    """Two code paths, one answer."""
    condition = torch.randn(2, 5, 16, generator=seeded(5)), torch.randn(2, 32, generator=seeded(6))
    null, noise = (torch.zeros(1, 5, 16), torch.zeros(1, 32)), torch.randn(2, 3, 4, 4, generator=seeded(7))
    scheduler = make_scheduler(TINY, "ddim")
    one, near = (denoise(model.predict_noise, scheduler, noise, condition, null, 4, g) for g in (1.0, 1.0 + 1e-6))
    torch.testing.assert_close(one, near, atol=1e-4, rtol=0)


def test_labels_become_pictures_and_seeds_decide(model):
    labels = torch.tensor([0, 1, 3])
    draw = lambda seed, **o: sample_labels(model, labels, seeded(seed), num_inference_steps=3, **o)  # noqa: E731
    pictures = draw(0)
    assert pictures.shape == (3, 3, 16, 16) and pictures.abs().max() <= 1
    assert torch.equal(pictures, draw(0)) and not torch.equal(pictures, draw(1))
    assert not torch.equal(pictures, draw(0, guidance_scale=5.0))
    assert not torch.equal(pictures, draw(0, sampler="ddim"))


# --- what the UNet is told ---


def test_prediction_has_the_shape_of_the_noise_and_one_timestep_serves_all(model):
    noisy, _, context = noisy_batch()
    with torch.no_grad():
        one, many = (model.predict_noise(noisy, t, context) for t in (torch.tensor(7), torch.full((3,), 7)))
    assert one.shape == noisy.shape
    torch.testing.assert_close(one, many)


def test_no_time_condition_is_a_zero_one_and_another_is_heard(model):
    noisy, timesteps, context = noisy_batch()
    with torch.no_grad():
        none, zero, one = (
            model.predict_noise(noisy, timesteps, context, time)
            for time in (None, torch.zeros(3, 32), torch.randn(3, 32, generator=seeded()))
        )
    assert torch.equal(none, zero) and not torch.allclose(none, one, atol=1e-3)


def test_time_condition_is_added_to_the_time_embedding(model):
    """Two conditions reach the UNet as one sum: moving the time's embedding by c is the same as telling c."""
    noisy, timesteps, context = noisy_batch()
    told = torch.randn(3, 32, generator=seeded())
    handle = model.unet.time_embedding.register_forward_hook(lambda module, inputs, output: output + told)
    with torch.no_grad():
        moved = model.predict_noise(noisy, timesteps, context)
        handle.remove()
        torch.testing.assert_close(model.predict_noise(noisy, timesteps, context, told), moved)


def test_context_is_heard_by_its_own_row_only(model):
    noisy, timesteps, context = noisy_batch()
    other = context.clone()
    other[1] += 1
    with torch.no_grad():
        changed = (model.predict_noise(noisy, timesteps, context) - model.predict_noise(noisy, timesteps, other)).abs()
    assert changed[1].max() > 1e-3 and changed[[0, 2]].max() < 1e-5


def test_a_label_is_one_token_and_none_is_the_last(model):
    context = model.label_context(torch.tensor([2, TINY.num_classes]))
    assert context.shape == (2, 1, 16)
    assert torch.equal(context[:, 0], model.label_embedding.weight[[2, 4]])


# --- the loss ---


def test_predicting_zero_scores_one(model, monkeypatch):
    monkeypatch.setattr(model, "predict_noise", lambda noisy, *_: torch.zeros_like(noisy))
    loss = model.loss(torch.zeros(4000, 3, 4, 4), torch.zeros(4000, 1, 16), None, seeded())
    assert abs(float(loss) - 1) < 4 * (2 / (4000 * 48)) ** 0.5  # four standard errors of a mean square


def test_predicting_the_noise_scores_zero(model, monkeypatch):
    latents = torch.randn(64, 3, 4, 4, generator=seeded(1))

    def oracle(noisy, timesteps, *_):
        abar = model.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        return (noisy - abar.sqrt() * latents) / (1 - abar).sqrt()

    monkeypatch.setattr(model, "predict_noise", oracle)
    assert model.loss(latents, torch.zeros(64, 1, 16), None, seeded()) < 1e-8


@pytest.mark.parametrize("bias", [0.0, 1.0, 3.0])
def test_timestep_bias_is_the_exponent_of_the_density(model, monkeypatch, bias):
    """p(t) ~ t ** b on [0, T]: the mean is T (1 + b) / (2 + b), and t <= x has probability (x / T) ** (1 + b)."""
    seen = []
    monkeypatch.setattr(model, "predict_noise", lambda noisy, t, *_: seen.append(t) or torch.zeros_like(noisy))
    model.loss(torch.zeros(50_000, 3, 1, 1), torch.zeros(50_000, 1, 16), None, seeded(), timestep_bias=bias)
    (timesteps,) = seen
    assert timesteps.dtype == torch.int64 and timesteps.min() >= 0 and timesteps.max() <= 999
    assert abs(timesteps.double().mean() + 0.5 - 1000 * (1 + bias) / (2 + bias)) < 4 * 289 / 50_000**0.5
    for share in (0.25, 0.5, 0.9):
        assert abs((timesteps < 1000 * share).double().mean() - share ** (1 + bias)) < 4 * 0.5 / 50_000**0.5


def test_loss_is_a_function_of_the_generator(model):
    latents, context = torch.randn(2, 3, 4, 4), torch.randn(2, 1, 16)
    with torch.no_grad():
        losses = [model.loss(latents, context, None, seeded(seed)) for seed in (0, 0, 1)]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


# --- what learns when ---


def learning(model: LatentDiffusion) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_fine_tuning_trains_the_cross_attentions_and_their_norms_only():
    model = build()
    model.train_condition_only()
    wanted = {name for name, _ in model.named_parameters() if ".attn2." in name or ".norm2." in name}
    wanted = {name for name in wanted if ".transformer_blocks." in name}  # a residual block has a norm2 too
    assert learning(model) == wanted
    # one transformer block in each of 2 + 1 + 4 places: q, k, v, out with bias, and the norm's two
    assert len(wanted) == (2 + 1 + 4) * (5 + 2)
    numbers = [sum(p.numel() for n, p in model.named_parameters() if n in wanted)]
    assert numbers == [sum(p.numel() for p in model.condition_parameters())]


def test_prior_trains_unet_and_labels_only():
    model = build()
    model.train_condition_only()
    model.train_prior_only()
    assert learning(model) == {n for n, _ in model.named_parameters() if n.startswith(("unet.", "label_embedding."))}


def test_gradients_stay_finite_and_reach_every_trained_weight():
    model = build()
    model.train_condition_only()
    context = torch.randn(4, 5, 16, requires_grad=True)
    time_condition = torch.randn(4, 32, requires_grad=True)
    model.loss(torch.randn(4, 3, 4, 4), context, time_condition, seeded()).backward()
    for tensor in (context, time_condition, *model.condition_parameters()):
        assert tensor.grad.isfinite().all() and (tensor.grad != 0).any()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
