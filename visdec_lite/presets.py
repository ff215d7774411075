"""Three sizes of the same thing: smoke (does it run?), class (a laptop, live), paper (GPUs).

In: a name, and fields to change. Out: a `Preset`, every number of every stage. A field is named by its path:

    preset("class", **{"finetuning.steps": 200, "sampling.guidance_scale": 3.0})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, get_args, get_type_hints

from visdec_lite.classifier import ClassifierConfig
from visdec_lite.fields import COUNT, SIZE, WEIGHT, WORD, check_fields, of, one_of, whole
from visdec_lite.fusion import FusionConfig, ImageAutoencoderConfig
from visdec_lite.latent_diffusion import SAMPLERS, LatentDiffusionConfig
from visdec_lite.masked_autoencoder import MaskedAutoencoderConfig
from visdec_lite.stages import FinetuneConfig
from visdec_lite.training import TrainingConfig


@dataclass(frozen=True)
class SamplingConfig:
    """How pictures are drawn and shown."""

    num_samples: int = 5  # pictures a scan
    num_inference_steps: int = 20  # denoising steps
    guidance_scale: float = 2.0  # how far to follow the scan; chosen on validation
    sampler: str = "dpm++"  # ddim | pndm | dpm++

    def __post_init__(self) -> None:
        rules = {"num_samples": SIZE, "num_inference_steps": COUNT, "guidance_scale": WEIGHT}
        check_fields(self, {**rules, "sampler": one_of(*SAMPLERS)})


@dataclass(frozen=True)
class Preset:
    """Every number of the chain. `autoencoder.num_voxels` is replaced by the data set's."""

    name: str
    autoencoder: MaskedAutoencoderConfig
    image_autoencoder: ImageAutoencoderConfig
    fusion: FusionConfig
    diffusion: LatentDiffusionConfig
    classifier: ClassifierConfig
    context_tokens: int  # tokens the UNet is given for a scan
    prior_pictures: int  # pictures the prior and the referee learn from
    sampling: SamplingConfig
    tuning: FinetuneConfig
    # one TrainingConfig a stage
    first_stage: TrainingConfig
    prior: TrainingConfig
    refereeing: TrainingConfig
    image_pretraining: TrainingConfig
    pretraining: TrainingConfig
    fusing: TrainingConfig
    finetuning: TrainingConfig

    def __post_init__(self) -> None:
        kinds = get_type_hints(Preset)
        rules = {name: of(kind) for name, kind in kinds.items() if is_dataclass(kind)}
        check_fields(self, {"name": WORD, "context_tokens": whole(2, 65536), "prior_pictures": COUNT, **rules})
        for name in ("num_classes", "image_size"):
            ours, referees = getattr(self.diffusion, name), getattr(self.classifier, name)
            if ours != referees:
                raise ValueError(
                    f"diffusion.{name} is {ours} and classifier.{name} is {referees}, but the referee names what the "
                    "diffusion model paints; set both to the same"
                )
        for name in ("autoencoder", "image_autoencoder"):
            width = getattr(self, name).embed_dim
            if width % self.fusion.cross_heads:
                raise ValueError(
                    f"{name}.embed_dim {width} does not split into fusion.cross_heads {self.fusion.cross_heads}; "
                    f"choose a multiple of {self.fusion.cross_heads}"
                )
        if self.sampling.num_inference_steps > self.diffusion.num_timesteps:
            raise ValueError(
                f"sampling.num_inference_steps is {self.sampling.num_inference_steps}, more than the "
                f"diffusion.num_timesteps {self.diffusion.num_timesteps} of training; ask for fewer"
            )

    def with_voxels(self, num_voxels: int) -> MaskedAutoencoderConfig:
        """The fMRI autoencoder for a data set of so many voxels (a multiple of the patch size)."""
        return replace(self.autoencoder, num_voxels=num_voxels)

    def with_categories(self, num_categories: int) -> Preset:
        """Prior and referee for so many categories."""
        diffusion = replace(self.diffusion, num_classes=num_categories)
        return replace(self, diffusion=diffusion, classifier=replace(self.classifier, num_classes=num_categories))

    def with_seed(self, seed: int) -> Preset:
        """The same numbers, every stage seeded by `seed`."""
        return replace(self, **{name: replace(config, seed=seed) for name, config in self.trainings().items()})

    def trainings(self) -> dict[str, TrainingConfig]:
        """Stage -> the numbers of its run."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, TrainingConfig)}

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _smoke() -> Preset:
    def short(steps: int, batch: int = 16, rate: float = 1e-3) -> TrainingConfig:
        return TrainingConfig(steps=steps, batch_size=batch, learning_rate=rate, ema_decay=0.9)

    small = _class()
    return replace(
        small,
        name="smoke",
        prior_pictures=500,
        sampling=replace(small.sampling, num_samples=2, num_inference_steps=5),
        first_stage=short(30),
        prior=short(30),
        refereeing=short(60),
        image_pretraining=short(15),
        pretraining=short(15),
        fusing=short(15),
        finetuning=short(20),
    )


def _class() -> Preset:
    return Preset(
        name="class",
        autoencoder=MaskedAutoencoderConfig(
            num_voxels=1600, patch_size=32, embed_dim=128, depth=4, num_heads=4, mlp_ratio=1.0,
            decoder_embed_dim=64, decoder_depth=2, decoder_num_heads=4,
        ),
        image_autoencoder=ImageAutoencoderConfig(
            image_size=32, patch_size=4, embed_dim=128, depth=3, num_heads=4, mlp_ratio=2.0,
            decoder_embed_dim=128, decoder_depth=2, decoder_num_heads=4,
        ),
        fusion=FusionConfig(image_mask_ratio=0.9, cross_layers=2, cross_heads=4),
        diffusion=LatentDiffusionConfig(
            image_size=32, num_classes=50, codebook_size=512, vq_channels=(32, 64, 96), vq_layers=1,
            unet_channels=(64, 128), unet_attention=(True, True), unet_layers=1, attention_heads=4,
            context_dim=128, norm_groups=16,
        ),
        classifier=ClassifierConfig(num_classes=50),
        context_tokens=32,
        prior_pictures=20000,
        sampling=SamplingConfig(guidance_scale=3.0),
        tuning=FinetuneConfig(
            voxel_dropout=0.0, timestep_bias=0.5, max_loss_weight=20.0, encoder_learning_rate_scale=0.3,
            start_from_labels=True,
        ),
        first_stage=TrainingConfig(
            steps=1600, batch_size=32, learning_rate=1.5e-3, weight_decay=0.0, gradient_clip=1.0, ema_decay=0.99,
            validate_every=250, checkpoint_every=250,
        ),
        prior=TrainingConfig(
            steps=4000, batch_size=64, learning_rate=1.5e-3, weight_decay=0.01, gradient_clip=1.0, ema_decay=0.998,
            validate_every=500, checkpoint_every=500,
        ),
        refereeing=TrainingConfig(
            steps=2000, batch_size=64, learning_rate=2e-3, validate_every=500, checkpoint_every=500
        ),
        image_pretraining=TrainingConfig(
            steps=1500, batch_size=64, learning_rate=1e-3, validate_every=250, checkpoint_every=500
        ),
        pretraining=TrainingConfig(
            steps=500, batch_size=64, learning_rate=1e-3, validate_every=250, checkpoint_every=250
        ),
        fusing=TrainingConfig(
            optimizer="muon", steps=700, batch_size=32, learning_rate=3e-3, validate_every=200, checkpoint_every=200
        ),
        finetuning=TrainingConfig(
            optimizer="muon", steps=1000, batch_size=16, learning_rate=5e-3, gradient_clip=1.0, ema_decay=0.998,
            validate_every=250, checkpoint_every=250,
        ),
    )  # fmt: skip


def _paper() -> Preset:
    """METHOD's own numbers: section 2 (phase 1), 3 (phase 2), 4 (diffusion). Steps are epochs x samples / batch."""
    return Preset(
        name="paper",
        autoencoder=MaskedAutoencoderConfig(num_voxels=4656),
        image_autoencoder=ImageAutoencoderConfig(),
        fusion=FusionConfig(),
        diffusion=LatentDiffusionConfig(),
        classifier=ClassifierConfig(num_classes=1000, image_size=256),
        context_tokens=77,
        prior_pictures=1_281_167,
        sampling=SamplingConfig(num_inference_steps=250, guidance_scale=1.0, sampler="pndm"),
        tuning=FinetuneConfig(condition_dropout=0.0, voxel_dropout=0.0),
        first_stage=TrainingConfig(steps=600_000, batch_size=32, learning_rate=4.5e-6, mixed_precision="bf16"),
        prior=TrainingConfig(steps=178_000, batch_size=1200, learning_rate=1e-4, mixed_precision="bf16"),
        refereeing=TrainingConfig(steps=100_000, batch_size=1024, learning_rate=1e-3, mixed_precision="bf16"),
        image_pretraining=TrainingConfig(steps=500_000, batch_size=4096, learning_rate=2.4e-3, mixed_precision="bf16"),
        pretraining=TrainingConfig(
            steps=76_000, batch_size=250, learning_rate=2.5e-4, warmup_fraction=40 / 140, mixed_precision="bf16",
            validate_every=2000, checkpoint_every=2000, seed=2022,
        ),
        fusing=TrainingConfig(
            steps=4500, batch_size=16, learning_rate=5.3e-5, warmup_fraction=2 / 60, mixed_precision="bf16",
            validate_every=225, checkpoint_every=225, seed=2022,
        ),
        finetuning=TrainingConfig(
            steps=120_000, batch_size=5, learning_rate=5.3e-5, mixed_precision="bf16", validate_every=2400,
            checkpoint_every=2400, seed=2022,
        ),
    )  # fmt: skip


# What the shipped brain was given beyond the class preset, whose brain stages are short enough to wait for.
SHIPPED_STEPS = {"pretraining.steps": 2000, "fusing.steps": 1600, "finetuning.steps": 5000}

# What the class preset changes for a data set whose world is smaller, or whose scans are few.
FOR_DATASET: dict[str, dict[str, Any]] = {
    "digits69": {
        "prior_pictures": 8000,
        "first_stage.steps": 1000,
        "prior.steps": 1600,
        "refereeing.steps": 300,
        "refereeing.validate_every": 100,
        "image_pretraining.steps": 600,
        "autoencoder.patch_size": 160,
        "pretraining.steps": 150,
        "fusing.optimizer": "adamw",
        "fusing.steps": 150,
        "fusing.learning_rate": 1e-3,
        "fusing.validate_every": 50,
        "tuning.voxel_dropout": 0.2,
        "finetuning.optimizer": "adamw",
        "finetuning.steps": 200,
        "finetuning.learning_rate": 1e-3,
        "finetuning.validate_every": 100,
    },
}

# What a comparison changes of the class preset besides: many methods, brains and seeds share an hour on two cores.
# Larger patches make phases 1 and 2 faster; Muon, and no voxel dropout, reads shapes that AdamW leaves for later.
# Chosen on validation scans of subject 1 (benchmarks/RESULTS.md). One thread needs 40, 160 and 140 s.
FOR_COMPARISON: dict[str, dict[str, Any]] = {
    "simulated": {
        "autoencoder.patch_size": 160,
        "autoencoder.voxel_dropout": 0.0,
        "pretraining.optimizer": "muon",
        "pretraining.steps": 800,
        "pretraining.validate_every": 200,
        "fusing.steps": 1000,
    },
}

_PRESETS = {"smoke": _smoke, "class": _class, "paper": _paper}


def preset(name: str, /, **overrides: Any) -> Preset:
    """A preset by name, with fields changed.

    Args:
        name: smoke, class or paper.
        overrides: path of a field -> value; strings are read as the field's type.

    Raises:
        ValueError: no preset or no field of that name, or a value of the wrong type.
    """
    if name not in _PRESETS:
        close = get_close_matches(str(name), _PRESETS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no preset is called {name!r}; there are {', '.join(_PRESETS)}{hint}")
    if "name" in overrides:
        raise ValueError(f"a preset called {name!r} cannot be named {overrides['name']!r}; choose one by its own name")
    return override(_PRESETS[name](), overrides)


def preset_for(dataset: str, name: str, /, **overrides: Any) -> Preset:
    """A preset by name with what `FOR_DATASET` changes for a data set at class size, and then with `overrides`."""
    changes = FOR_DATASET.get(dataset, {}) if name == "class" else {}
    return preset(name, **{**changes, **overrides})


def preset_for_comparison(dataset: str, name: str, /, **overrides: Any) -> Preset:
    """`preset_for` with what `FOR_COMPARISON` changes at class size, and then with `overrides`."""
    changes = FOR_COMPARISON.get(dataset, {}) if name == "class" else {}
    return preset_for(dataset, name, **{**changes, **overrides})


def override(config: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of a (nested) config with the fields at dotted paths changed; its own checks run again.

    All changes are made at once, so fields that must fit each other can change together.
    """
    return _override(config, changes, prefix="")


def _override(config: Any, changes: Mapping[str, Any], prefix: str) -> Any:
    names = [f.name for f in fields(config)] if is_dataclass(config) else []
    new: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, _, deeper = path.partition(".")
        if name not in names:
            close = get_close_matches(name, names, n=1)
            hint = f"; did you mean {prefix + close[0]!r}?" if close else ""
            has = ", ".join(names) or "no fields"
            raise ValueError(f"no field {prefix + path!r}: {type(config).__name__} has {has}{hint}")
        if deeper:
            inner.setdefault(name, {})[deeper] = value
        else:
            new[name] = _replacement(config, name, value, prefix + name)
    for name, part in inner.items():
        new[name] = _override(new.get(name, getattr(config, name)), part, f"{prefix}{name}.")
    try:
        return replace(config, **new) if new else config
    except ValueError as error:
        raise ValueError(f"{prefix.rstrip('.')}: {error}" if prefix else str(error)) from error


def _replacement(config: Any, name: str, value: Any, path: str) -> Any:
    current = getattr(config, name)
    if is_dataclass(current):
        if isinstance(value, type(current)):
            return value
        inner = ", ".join(f"{path}.{f.name}" for f in fields(current)[:4])
        raise ValueError(f"{path!r} is a group of fields; set one of them: {inner}, ...")
    kind = get_type_hints(type(config))[name]
    try:
        return _read(value, current)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        words = kind.__name__ if isinstance(kind, type) and not get_args(kind) else kind
        raise ValueError(f"{path} takes {words}, as {current!r}; got {value!r}") from error


def _read(value: Any, like: Any) -> Any:
    """`value` as the type of `like`; text is parsed, and nothing else is converted but whole numbers to floats."""
    if isinstance(like, tuple):
        parts = [part for part in value.strip("()[] ").split(",") if part.strip()] if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            raise TypeError
        return tuple(_read(part, like[0]) for part in parts)
    if isinstance(value, str) and not isinstance(like, str):
        word = value.strip()
        return {"true": True, "false": False}[word.lower()] if isinstance(like, bool) else type(like)(word)
    if type(value) is type(like) or (type(like) is float and type(value) is int):
        return type(like)(value)
    raise TypeError
