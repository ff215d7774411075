"""The stages: each can learn a handful of rows by heart, changes what it should and nothing else, and resumes."""

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

from visdec_lite import stages
from visdec_lite.classifier import CategoryClassifier, ClassifierConfig
from visdec_lite.conditioning import FMRIConditioner
from visdec_lite.fusion import CrossModalFusion, FusionConfig, ImageAutoencoderConfig, ImageMaskedAutoencoder
from visdec_lite.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from visdec_lite.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from visdec_lite.preprocessing import to_model_range
from visdec_lite.stages import ConditionedDiffusion, FinetuneConfig
from visdec_lite.training import TrainingConfig, TrainingResult

DIFFUSION = LatentDiffusionConfig(
    image_size=16, num_classes=4, codebook_size=16, vq_channels=(8, 8, 16), vq_layers=1, unet_channels=(8, 16),
    unet_attention=(True, True), unet_layers=1, attention_heads=2, context_dim=16, norm_groups=4,
)  # fmt: skip
FMRI = MaskedAutoencoderConfig(
    num_voxels=128, patch_size=16, embed_dim=16, depth=2, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
    decoder_num_heads=2,
)  # fmt: skip
IMAGE = ImageAutoencoderConfig(
    image_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, mlp_ratio=2.0, decoder_embed_dim=16,
    decoder_depth=1, decoder_num_heads=2,
)  # fmt: skip
FUSION = FusionConfig(cross_layers=1, cross_heads=2)
# no weight decay: a weight without a gradient stays as it is
SHORT = TrainingConfig(steps=3, batch_size=2, learning_rate=1e-2, weight_decay=0.0, warmup_fraction=0.0)
USUAL = FinetuneConfig()
QUIET = {"progress": False, "device": "cpu"}

RNG = np.random.default_rng(0)
VOXELS = RNG.standard_normal((6, 128)).astype(np.float32)
IMAGES = RNG.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 3, 0, 1])


def build_conditioned() -> ConditionedDiffusion:
    conditioner = FMRIConditioner(asdict(FMRI), 4, DIFFUSION.context_dim, DIFFUSION.time_dim)
    return ConditionedDiffusion(conditioner, LatentDiffusion(DIFFUSION))


def build_fusion() -> CrossModalFusion:
    return CrossModalFusion(MaskedAutoencoder(FMRI), ImageMaskedAutoencoder(IMAGE), FUSION)


# stage -> its model, and the arrays it reads of each split
STAGES: dict[Callable[..., TrainingResult], tuple[Callable[[], nn.Module], tuple[np.ndarray, ...]]] = {
    stages.train_first_stage: (lambda: LatentDiffusion(DIFFUSION), (IMAGES,)),
    stages.train_prior: (lambda: LatentDiffusion(DIFFUSION), (IMAGES, LABELS)),
    stages.train_classifier: (lambda: CategoryClassifier(ClassifierConfig(4, 16, 8)), (IMAGES, LABELS)),
    stages.pretrain_images: (lambda: ImageMaskedAutoencoder(IMAGE), (IMAGES,)),
    stages.pretrain: (lambda: MaskedAutoencoder(FMRI), (VOXELS,)),
    stages.fuse: (build_fusion, (VOXELS, IMAGES)),
    stages.finetune: (build_conditioned, (VOXELS, IMAGES)),
}
each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)


def build(stage: Callable[..., TrainingResult]) -> nn.Module:
    torch.manual_seed(0)
    return STAGES[stage][0]()


def train(
    stage: Callable[..., TrainingResult], model: nn.Module, config: TrainingConfig = SHORT, **options
) -> TrainingResult:
    """On the first four rows, validated on the last three."""
    arrays = STAGES[stage][1]
    return stage(model, *(a[:4] for a in arrays), *(a[3:] for a in arrays), config=config, **QUIET, **options)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def losses(result: TrainingResult, split: str = "val", term: str = "loss") -> list[float]:
    return [row[term] for row in result.history if row["split"] == split]


# --- every stage ---


@each_stage
def test_result_and_modes(stage):
    model = build(stage).eval()
    result = train(stage, model)
    assert result.steps_run == 3 and len(losses(result, "train")) == 3 and len(losses(result)) == 1
    assert np.isfinite(losses(result, "train") + losses(result)).all()
    assert not model.training


@each_stage
def test_validation_repeats_and_knows_no_training_batch(stage):
    """Weights that (all but) stand still are scored the same, bit for bit, at every validation."""
    still = replace(SHORT, learning_rate=1e-30, validate_every=1)
    values = [losses(train(stage, build(stage), replace(still, batch_size=size, seed=size))) for size in (1, 4)]
    if stage is stages.train_first_stage:  # the seed of the run chooses where the codebook starts
        assert len(set(values[0])) == len(set(values[1])) == 1
    else:
        assert values[0] == values[1] and len(set(values[0])) == 1 and len(values[0]) == 3


@each_stage
def test_same_seed_same_weights(stage):
    ends = []
    for seed in (0, 0, 1):
        model = build(stage)
        train(stage, model, replace(SHORT, seed=seed))
        ends.append(model)
    assert not changed(weights(ends[0]), ends[1]) and changed(weights(ends[0]), ends[2])


class Accident(Exception):
    """Stands for a killed process: nothing is written on the way out."""


@pytest.mark.parametrize("stage", [stages.train_first_stage, stages.fuse, stages.finetune], ids=lambda s: s.__name__)
def test_interrupted_run_ends_bit_for_bit_as_the_whole_one(stage, tmp_path, monkeypatch):
    config = replace(SHORT, steps=7, checkpoint_every=2, validate_every=3, ema_decay=0.9)
    whole = build(stage)
    train(stage, whole, config, out_dir=tmp_path / "whole")

    cut, fit = build(stage), stages.fit

    def fit_with_accident(model, loss_fn, *arguments, **options):
        calls = iter(range(1, 100))

        def falling(*inputs):
            if next(calls) == 6:  # five steps are behind, four of them kept
                raise Accident
            return loss_fn(*inputs)

        return fit(model, falling, *arguments, **options)

    monkeypatch.setattr(stages, "fit", fit_with_accident)
    with pytest.raises(Accident):
        train(stage, cut, config, out_dir=tmp_path / "cut")
    monkeypatch.undo()

    resumed = build(stage)
    result = train(stage, resumed, config, out_dir=tmp_path / "cut")
    assert result.steps_run == 3 and len(losses(result, "train")) == 7
    assert not changed(weights(whole), resumed)


def test_validation_moves_its_rows_to_the_model():
    """On a device without memory rows have a shape only, which is enough to see where they went."""
    seen = []

    def loss_fn(model, batch, generator):
        seen.append(batch["x"].device.type)
        return {"loss": torch.zeros(())}

    stages._validator(loss_fn, {"x": np.zeros((3, 2), np.float32)})(nn.Linear(2, 2, device="meta"))
    assert seen == ["meta"]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 10])
def test_mean_over_batches_is_the_mean_over_rows(batch_size):
    data = {"x": np.arange(10, dtype=np.float32) ** 2}
    terms = stages._mean_over_batches(
        lambda batch: {"loss": batch["x"].mean()}, data, torch.device("cpu"), batch_size=batch_size
    )
    assert terms == {"loss": pytest.approx(28.5)}  # 285 / 10


# --- learnt by heart ---


def by_heart(stage: Callable[..., TrainingResult], rows: int, steps: int, rate: float, **options) -> TrainingResult:
    """Train on the first rows and validate on the same ones."""
    model, arrays = build(stage), [a[:rows] for a in STAGES[stage][1]]
    config = TrainingConfig(steps=steps, batch_size=rows, learning_rate=rate, weight_decay=0.0, validate_every=10)
    return stage(model, *arrays, *arrays, config=config, **QUIET, **options)


@pytest.mark.parametrize(
    ("stage", "steps", "rate", "fall"),
    [
        (stages.train_first_stage, 100, 1e-2, 0.6),
        (stages.train_classifier, 30, 1e-2, 0.05),
        (stages.pretrain_images, 150, 1e-2, 0.3),
        (stages.pretrain, 200, 1e-2, 0.3),
        (stages.fuse, 120, 1e-2, 0.4),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_one_sample_is_learnt_by_heart(stage, steps, rate, fall):
    result = by_heart(stage, 1, steps, rate)
    assert min(losses(result)) < fall * losses(result, "train")[0]


# --- first stage and prior ---


def test_codebook_starts_from_latents_of_real_pictures(monkeypatch):
    model = build(stages.train_first_stage)
    monkeypatch.setattr(stages, "fit", lambda *arguments, **options: TrainingResult())
    train(stages.train_first_stage, model)
    codebook, latents = model.vq.quantize.embedding.weight, model.vq.encode(to_model_range(IMAGES[:4])).latents
    vectors = latents.permute(0, 2, 3, 1).reshape(-1, 3)
    assert (codebook[:, None] == vectors).all(-1).any(1).all()
    used = model.vq.quantize(latents)[2][2].unique()
    assert len(used) == len(codebook.unique(dim=0)), "every vector is nearest to a latent"


def test_first_stage_trains_the_autoencoder_only_and_measures_its_latents():
    model = build(stages.train_first_stage)
    before = weights(model)
    result = train(stages.train_first_stage, model)
    vq = {name for name in before if name.startswith("vq.")}
    # only vectors of the codebook that a picture chose move, and the scale is measured
    assert changed(before, model) == vq | {"latent_scale"}
    torch.testing.assert_close(stages.encode_images(model, IMAGES[:4]).std(), torch.ones(()))
    picture = to_model_range(IMAGES[3:])
    with torch.no_grad():
        error = (model.vq.decode(model.vq.encode(picture).latents).sample - picture).abs().mean()
    assert losses(result, term="reconstruction") == [pytest.approx(float(error), rel=1e-5)]


def test_prior_trains_unet_and_labels_only():
    """A label is one token, and a softmax over one key is 1 whatever the query: they move by rounding, if at all."""
    model = build(stages.train_prior)
    before = weights(model)
    train(stages.train_prior, model, replace(SHORT, batch_size=4), label_dropout=0.5)
    learnt = {n for n in before if n.startswith(("unet.", "label_embedding."))}
    silent = (".attn2.to_q.", ".attn2.to_k.", "transformer_blocks.0.norm2.")
    choosing = {name for name in learnt if any(part in name for part in silent)}
    assert choosing and learnt - choosing <= changed(before, model) <= learnt


@pytest.mark.parametrize(("share", "rows"), [(0.0, {0, 1, 2, 3}), (0.5, {0, 1, 2, 3, 4}), (1.0, {4})])
def test_label_dropout_teaches_the_embedding_of_no_label(share, rows):
    """Row 4 of 4 classes says "none"."""
    model = build(stages.train_prior)
    before = model.label_embedding.weight.detach().clone()
    train(stages.train_prior, model, replace(SHORT, batch_size=4, steps=6), label_dropout=share)
    moved = (model.label_embedding.weight.detach() != before).any(1)
    assert set(moved.nonzero()[:, 0].tolist()) == rows


def test_encoded_pictures_are_those_of_the_model():
    model = build(stages.train_prior).eval()
    model.latent_scale.fill_(3.0)
    direct = model.encode(to_model_range(IMAGES))
    for batch_size in (1, 4, 128):
        latents = stages.encode_images(model, IMAGES, batch_size)
        assert latents.shape == (6, 3, 4, 4) and not latents.requires_grad
        torch.testing.assert_close(latents, direct)


# --- phase 2 ---


def test_fusing_leaves_the_image_encoder_bit_for_bit():
    model = build(stages.fuse)
    before = weights(model)
    train(stages.fuse, model)
    frozen = ("image.patch_embed.", "image.blocks.", "image.norm.", "image.cls_token")
    constant = ("pos_embed",)  # sines and cosines
    assert changed(before, model) == {n for n in before if not n.startswith(frozen) and not n.endswith(constant)}


# --- fine-tuning ---


def finetuned(how: FinetuneConfig = USUAL, config: TrainingConfig = SHORT, **options) -> nn.Module:
    model = build(stages.finetune)
    train(stages.finetune, model, config, how=how, **options)
    return model


def test_fine_tuning_changes_phi_cross_attentions_and_their_norms_only():
    model = build(stages.finetune)
    before = weights(model)
    train(stages.finetune, model, how=FinetuneConfig(condition_dropout=0.5))
    phi = {name for name in before if name.startswith("conditioner.") and not name.endswith("pos_embed")}
    attended = {n for n in before if ".transformer_blocks." in n and (".attn2." in n or ".norm2." in n)}
    assert changed(before, model) == phi | attended


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("condition_dropout", 0.5),
        ("voxel_dropout", 0.6),
        ("timestep_bias", 1.0),
        ("encoder_learning_rate_scale", 0.3),
        ("start_from_labels", True),
        ("noise_draws", 2),
    ],
)
def test_every_knob_changes_what_is_learnt(knob, value):
    assert getattr(USUAL, knob) != value
    before = weights(finetuned())
    assert "conditioner.encoder.norm.weight" in changed(before, finetuned(FinetuneConfig(**{knob: value})))


def test_without_dropped_scans_nobody_learns_what_no_scan_means():
    assert (finetuned(FinetuneConfig(condition_dropout=0.0)).conditioner.null_context == 0).all()


def test_if_all_scans_are_dropped_the_encoder_learns_nothing():
    model = build(stages.finetune)
    before = weights(model.conditioner.encoder)
    train(stages.finetune, model, how=FinetuneConfig(condition_dropout=1.0))
    assert not changed(before, model.conditioner.encoder)
    assert (model.conditioner.null_context != 0).any()


def test_if_all_voxels_are_dropped_scans_make_no_difference():
    ends = []
    for voxels in (VOXELS, -VOXELS):
        model = build(stages.finetune)
        how = FinetuneConfig(voxel_dropout=1.0)
        stages.finetune(model, voxels[:4], IMAGES[:4], VOXELS[4:], IMAGES[4:], SHORT, how, select="last", **QUIET)
        ends.append(model)
    assert not changed(weights(ends[0]), ends[1])


def test_validation_sees_every_scan_whole():
    still = replace(SHORT, learning_rate=1e-30)
    values = []
    for share in (0.0, 0.9):
        how = FinetuneConfig(condition_dropout=share, voxel_dropout=share)
        values += losses(train(stages.finetune, build(stages.finetune), still, how=how))
    assert values[0] == values[1]


@pytest.mark.parametrize("scale", [0.0, 0.25])
def test_encoder_learns_at_its_own_rate(scale):
    """The first step of Adam is the learning rate times the sign of the gradient; 0 keeps the encoder as it is."""
    one_step = replace(SHORT, steps=1, gradient_clip=float("inf"))
    start = build(stages.finetune).conditioner
    ends = [finetuned(FinetuneConfig(encoder_learning_rate_scale=s), one_step).conditioner for s in (1.0, scale)]
    for name in ("encoder.norm.weight", "encoder.patch_embed.proj.weight", "to_context.weight"):
        begin, full, scaled = (part.state_dict()[name] for part in (start, *ends))
        expected = scale if name.startswith("encoder.") else 1.0
        assert (full - begin).abs().max() == pytest.approx(1e-2, rel=1e-2)
        torch.testing.assert_close(scaled - begin, expected * (full - begin), atol=1e-6, rtol=0)
    if scale == 0.0:
        assert not changed(weights(start.encoder), ends[1].encoder)


def test_noise_draws_repeat_the_picture_and_encode_the_scan_once(monkeypatch):
    model, scans, pictures = build(stages.finetune), [], []
    encode, loss = model.conditioner.encoder.forward, model.diffusion.loss
    monkeypatch.setattr(model.conditioner.encoder, "forward", lambda v: scans.append(len(v)) or encode(v))
    monkeypatch.setattr(model.diffusion, "loss", lambda x, *rest: pictures.append(x) or loss(x, *rest))
    train(stages.finetune, model, replace(SHORT, steps=1), how=FinetuneConfig(noise_draws=3))
    assert scans[0] == 2 and len(pictures[0]) == 6
    assert torch.equal(pictures[0][:2], pictures[0][2:4]) and torch.equal(pictures[0][:2], pictures[0][4:])


def test_a_scan_learns_to_steer_the_prior():
    """The prior has only ever seen white; told by one scan, cross-attention alone must make it expect black."""
    black, white = (np.full((8, 16, 16, 3), value, np.uint8) for value in (0, 255))
    model, scan, labels = build(stages.finetune), VOXELS[:1], np.zeros(8, np.int64)
    both = np.concatenate([black[:1], white[:1]])
    first = TrainingConfig(40, 2, 1e-2, weight_decay=0.0)
    stages.train_first_stage(model.diffusion, both, both, first, **QUIET)
    prior = TrainingConfig(120, 8, 5e-3, weight_decay=0.0)
    stages.train_prior(model.diffusion, white, labels, white, labels, prior, **QUIET)
    model.diffusion.train_condition_only()
    latents = stages.encode_images(model.diffusion, black).repeat(8, 1, 1, 1)

    @torch.no_grad()
    def error(condition: tuple[torch.Tensor, torch.Tensor]) -> float:
        condition = tuple(part.expand(64, *part.shape[1:]) for part in condition)
        return float(model.diffusion.loss(latents, *condition, torch.Generator().manual_seed(0)))

    told = torch.from_numpy(scan)
    before = error(model.conditioner(told))
    how = FinetuneConfig(condition_dropout=0.0, voxel_dropout=0.0, noise_draws=8)
    tuning = TrainingConfig(160, 1, 1e-2, weight_decay=0.0)
    stages.finetune(model, scan, black[:1], scan, black[:1], tuning, how, **QUIET)
    after, untold = error(model.conditioner(told)), error(model.conditioner.null(1))
    assert after < 0.85 * before and after < 0.9 * untold
