"""The comparators: planted signals, chance on shuffled pairs, closed forms, and knobs that turn something."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from visdec_lite import chain
from visdec_lite.baselines.base import Baseline, Tuning
from visdec_lite.baselines.floors import (
    FirstStageCeiling,
    LabelToldPrior,
    MeanImage,
    NearestTrainingNeighbour,
    PriorSamples,
)
from visdec_lite.baselines.icgan import ICGAN, ICGANConfig
from visdec_lite.baselines.instance_gan import Discriminator, InstanceGAN, InstanceGANConfig
from visdec_lite.baselines.instance_gan_training import (
    InstanceGANTraining,
    game_losses,
    nearest_neighbours,
    train_instance_gan,
)
from visdec_lite.baselines.ridge import RidgeConfig, RidgeToImages
from visdec_lite.baselines.ssae import SSAE, SSAEConfig
from visdec_lite.datasets import simulated
from visdec_lite.datasets.base import BrainDataset, Split, trial_columns
from visdec_lite.metrics import pairwise_identification
from visdec_lite.preprocessing import to_model_range
from visdec_lite.presets import preset
from visdec_lite.training import TrainingConfig
from visdec_lite.weights import load_weights, save_weights

SIZE, VOXELS = 16, 60


def painted(hidden: np.ndarray) -> np.ndarray:
    """Six hidden numbers a picture -> a smooth picture: brightness and two tints of the left and of the right half."""
    left, right = np.arange(SIZE) < SIZE // 2, np.arange(SIZE) >= SIZE // 2
    colours = np.array([[1, 1, 1], [1, 0, -1], [-0.5, 1, -0.5]])
    pictures = np.zeros((len(hidden), SIZE, SIZE, 3))
    for side, columns in ((left, slice(0, 3)), (right, slice(3, 6))):
        pictures[:, :, side] += (hidden[:, columns] @ colours)[:, None, None]
    return np.rint(np.clip(128 + 40 * pictures, 0, 255)).astype(np.uint8)


def planted(n: int, seed: int, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Voxels that read the hidden numbers, about z-scored, and pictures."""
    rng = np.random.default_rng(seed)
    hidden = rng.uniform(-1, 1, (n, 6))
    weights = np.random.default_rng(99).normal(size=(6, VOXELS)) / 1.5
    return (hidden @ weights + noise * rng.normal(size=(n, VOXELS))).astype(np.float32), painted(hidden)


def split(n: int, seed: int, images: bool = True, subject: int = 1) -> Split:
    voxels, pictures = planted(n, seed)
    columns = trial_columns(n, subject, 20)
    labels = (pictures[:, 0, 0, 0] > 128).astype(np.int64)
    if not images:
        return Split(voxels, None, None, stimulus=columns["trial"], **columns)
    return Split(voxels, pictures, labels, stimulus=columns["trial"], **columns)


def dataset(test_seed: int = 3, **more: Split) -> BrainDataset:
    splits = {"train": split(160, 1), "val": split(40, 2), "test": split(20, test_seed), **more}
    everywhere = {"all": np.ones(VOXELS, dtype=bool)}
    return BrainDataset("planted", splits, ("dark", "light"), everywhere, True, "none", "none", "0")


def short(steps: int, rate: float = 3e-3, **more: object) -> TrainingConfig:
    return TrainingConfig(steps=steps, batch_size=16, learning_rate=rate, weight_decay=0.0, **more)


SMALL_SSAE = SSAEConfig(width=8, encoder=short(80, 1e-2), decoder=short(120, 5e-3))
SMALL_GAN = InstanceGANConfig(
    image_size=SIZE, num_classes=2, feature_dim=8, noise_dim=4, eye_width=8, generator_width=16, reader_width=8
)


def brief(steps: int) -> InstanceGANTraining:
    game = short(steps, 1e-3, betas=(0.0, 0.99))
    return InstanceGANTraining(short(steps), game, short(steps), neighbours=3, discriminator_width=8)


def new_gan(config: InstanceGANConfig = SMALL_GAN, seed: int = 0) -> InstanceGAN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return InstanceGAN(config)


class KnownGAN(InstanceGAN):
    """A GAN whose inputs are the hidden numbers themselves: h the left half's, of length 1, z the right half's."""

    def __init__(self) -> None:
        super().__init__(replace(SMALL_GAN, feature_dim=3, noise_dim=3))

    def instances(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        left = _hidden_of(images[:, 0, 0])
        return left / np.linalg.norm(left, axis=1, keepdims=True)

    def noises(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        return _hidden_of(images[:, 0, -1]) * 3**0.5  # uniform in [-1, 1] has variance 1/3

    def paint(self, noise: torch.Tensor, instance: torch.Tensor, batch_size: int = 256) -> np.ndarray:
        return painted(np.concatenate([instance.numpy(), noise.numpy() / 3**0.5], axis=1))


def _hidden_of(colour: np.ndarray) -> np.ndarray:
    return (colour / 40 - 3.2) @ np.linalg.inv([[1, 1, 1], [1, 0, -1], [-0.5, 1, -0.5]])


def methods() -> dict[str, Baseline]:
    return {
        "ridge": RidgeToImages(),
        "ssae": SSAE(SMALL_SSAE, images=planted(300, 7)[1], progress=False),
        "icgan": ICGAN(KnownGAN()),
        "mean": MeanImage(),
        "neighbour": NearestTrainingNeighbour(),
        "prior": PriorSamples(
            lambda count, generator: painted(torch.rand((count, 6), generator=generator).numpy() * 2 - 1), 5
        ),
    }


READS = {"ridge": 0.97, "ssae": 0.9, "icgan": 0.9, "neighbour": 0.9}  # pairwise identification a method must reach


@pytest.mark.parametrize("name", methods())
def test_planted_signal_is_read_and_shuffled_pairs_leave_chance(name):
    data, method = dataset(), methods()[name]
    assert method.num_parameters == (5 if name == "prior" else 0)
    assert method.fit(data) is method and method.num_parameters > 0
    test = data["test"]
    made = method.reconstruct(test.voxels, num_samples=3, generator=torch.Generator().manual_seed(1))
    assert made.dtype == np.uint8
    assert made.shape == (20, 3, SIZE, SIZE, 3) if method.stochastic else test.images.shape
    hits = pairwise_identification(made, test.images).mean()
    if name not in READS:
        assert 0.35 < hits < 0.65
        return
    assert hits > READS[name]
    order = np.random.default_rng(0).permutation(160)
    train, val = data["train"], data["val"]
    lost = methods()[name].fit_images(train.voxels[order], train.images, val.voxels, val.images)
    blind = lost.reconstruct(test.voxels, num_samples=3, generator=torch.Generator().manual_seed(1))
    assert 0.3 < pairwise_identification(blind, test.images).mean() < 0.7


@pytest.mark.parametrize("name", methods())
def test_the_test_split_is_not_opened_and_a_seed_repeats(name):
    scans = planted(5, 8)[0]
    short_ssae = replace(SMALL_SSAE, encoder=short(4), decoder=short(4))

    def pictures(data: BrainDataset, seed: int | None) -> np.ndarray:
        method = SSAE(short_ssae, progress=False) if name == "ssae" else methods()[name]
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return method.fit(data).reconstruct(scans, num_samples=2, generator=generator)

    first = pictures(dataset(test_seed=3), 1)
    np.testing.assert_array_equal(first, pictures(dataset(test_seed=4), 1))
    other = pictures(dataset(), 2)
    assert np.array_equal(first, other) != methods()[name].stochastic
    np.testing.assert_array_equal(pictures(dataset(), 0), pictures(dataset(), None))  # None is seed 0


def test_every_choice_is_on_record():
    data = dataset()
    for name, knobs in (("ridge", 1), ("ssae", 2), ("icgan", 2), ("mean", 0), ("neighbour", 0), ("prior", 0)):
        method = methods()[name]
        if name == "ssae":
            method.config = replace(SMALL_SSAE, encoder=short(6, validate_every=2), decoder=short(6, validate_every=3))
        method.fit(data)
        assert len(method.tuning) == knobs
        for choice in method.tuning:
            assert isinstance(choice, Tuning) and choice.rows == 40 and str(choice)
            assert choice.score == min(score for _, score in choice.tried)
            assert choice.chosen in [setting for setting, _ in choice.tried]
    assert [step for step, _ in methods_ssae_steps(data)] == [3, 6]


def methods_ssae_steps(data: BrainDataset) -> tuple[tuple[int, float], ...]:
    config = replace(SMALL_SSAE, encoder=short(2), decoder=short(6, validate_every=3))
    return SSAE(config, progress=False).fit(data).tuning[1].tried


# --- floors and ceilings ---


def test_mean_image_and_nearest_neighbour_are_what_they_say():
    voxels, images = planted(30, 1)
    val = planted(10, 2)
    mean = MeanImage().fit_images(voxels, images, *val).reconstruct(val[0])
    np.testing.assert_array_equal(mean, np.broadcast_to(np.rint(images.mean(0)), mean.shape))
    nearest = NearestTrainingNeighbour().fit_images(voxels, images, *val)
    np.testing.assert_array_equal(nearest.reconstruct(3 * voxels - 7), images)  # correlation knows no gain or offset
    expected = [max(range(30), key=lambda row, scan=scan: np.corrcoef(scan, voxels[row])[0, 1]) for scan in val[0]]
    np.testing.assert_array_equal(nearest.reconstruct(val[0]), images[expected])
    assert nearest.reconstruct(np.ones((1, VOXELS))).shape == (1, SIZE, SIZE, 3)  # a flat scan is no error


def test_ceilings_are_told_the_truth():
    images, labels = planted(4, 1)[1], np.array([3, 1, 4, 1])
    copy = FirstStageCeiling(lambda pictures: pictures // 2).reconstruct(images, labels)
    np.testing.assert_array_equal(copy, images // 2)

    def sample(kinds: np.ndarray, generator: torch.Generator) -> np.ndarray:
        shade = 10 * kinds + torch.randint(5, (len(kinds),), generator=generator).numpy()
        return np.broadcast_to(shade[:, None, None, None], (len(kinds), SIZE, SIZE, 3)).astype(np.uint8)

    told = LabelToldPrior(sample).reconstruct(images, labels, num_samples=6)
    assert told.shape == (4, 6, SIZE, SIZE, 3)
    np.testing.assert_array_equal(told[..., 0, 0, 0] // 10, np.repeat(labels[:, None], 6, axis=1))
    assert len(np.unique(told[0])) > 1
    with pytest.raises(ValueError, match="3 labels for 4 pictures"):
        LabelToldPrior(sample).reconstruct(images, labels[:3])
    with pytest.raises(ValueError, match="painted 5 pictures, expected 4 x 1"):
        LabelToldPrior(lambda kinds, generator: np.zeros((5, 8, 8, 3), np.uint8)).reconstruct(images, labels)


# --- SS-AE ---


def networks(**changes: object) -> tuple[SSAE, torch.nn.Module, torch.nn.Module, dict[str, torch.Tensor]]:
    """An SS-AE after one step, its networks, and a batch."""
    config = replace(SMALL_SSAE, encoder=short(1), decoder=short(1), **changes)
    method = SSAE(config, progress=False).fit(dataset())
    voxels, images = planted(6, 5)
    return method, method.encoder_, method.decoder_, {"voxels": torch.tensor(voxels), "images": torch.tensor(images)}


def test_each_loss_reaches_the_networks_it_should():
    method, encoder, decoder, pairs = networks(encoder_learning_rate_scale=1.0)
    voxels, images = torch.tensor(planted(6, 11)[0]), to_model_range(planted(6, 12)[1])
    terms = method.decoder_losses(encoder, decoder, pairs, images, voxels)
    weights = SMALL_SSAE.image_cycle_weight, SMALL_SSAE.scan_cycle_weight
    expected = terms["supervised"] + weights[0] * terms["image_cycle"] + weights[1] * terms["scan_cycle"]
    torch.testing.assert_close(terms["loss"], expected)
    reached = {
        name: [
            any(g is not None and g.abs().max() > 0 for g in torch.autograd.grad(
                terms[name], list(network.parameters()), retain_graph=True, allow_unused=True))
            for network in (encoder, decoder)
        ]
        for name in ("supervised", "image_cycle", "scan_cycle")
    }  # fmt: skip
    assert reached == {"supervised": [False, True], "image_cycle": [True, True], "scan_cycle": [True, True]}
    # each cycle depends on its own kind of partnerless data and on no other
    other = method.decoder_losses(encoder, decoder, pairs, images.flip(0) * 0.5, voxels)
    assert other["image_cycle"] != terms["image_cycle"]
    torch.testing.assert_close([other["supervised"], other["scan_cycle"]], [terms["supervised"], terms["scan_cycle"]])
    other = method.decoder_losses(encoder, decoder, pairs, images, voxels + 1)
    assert other["scan_cycle"] != terms["scan_cycle"]
    torch.testing.assert_close([other["supervised"], other["image_cycle"]], [terms["supervised"], terms["image_cycle"]])


def test_cycles_are_what_their_names_say():
    method, encoder, decoder, pairs = networks()
    voxels, images = torch.tensor(planted(6, 11)[0]), to_model_range(planted(6, 12)[1])
    terms = method.decoder_losses(encoder, decoder, pairs, images, voxels)
    torch.testing.assert_close(terms["image_cycle"], method.image_loss(decoder(encoder(images)), images))
    torch.testing.assert_close(terms["scan_cycle"], method.scan_loss(encoder(decoder(voxels)), voxels))


def test_losses_in_closed_form():
    method = SSAE(SSAEConfig(cosine_weight=0.1, variation_weight=0.5))
    x = torch.randn((4, 10), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(method.scan_loss(x, x), torch.tensor(-0.1))  # no error, cosine 1
    torch.testing.assert_close(method.scan_loss(x + 0.5 * x, x), 0.25 * x.square().mean() - 0.1)
    stripes = torch.ones((1, 3, 8, 8))
    stripes[..., ::2] = -1  # neighbours across differ by 2, neighbours down by 0
    torch.testing.assert_close(method.image_loss(stripes, stripes), torch.tensor(0.5 * 2.0))
    torch.testing.assert_close(method.image_loss(-stripes, stripes), torch.tensor(4.0 + 0.5 * 2.0))
    flat = torch.zeros((1, 3, 8, 8))
    assert method.image_loss(flat, flat) == 0

    class Doubled(torch.nn.Module):
        def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [2 * images, images]

    seen = SSAE(SSAEConfig(feature_weight=0.3, variation_weight=0.0), features=Doubled())
    torch.testing.assert_close(seen.image_loss(flat + 1, flat), torch.tensor(1 + 0.3 * (2 + 1)))


def test_the_encoder_is_held_fixed_unless_asked():
    encoders = [networks(encoder_learning_rate_scale=scale)[1].state_dict() for scale in (0.0, 1.0)]
    alone = SSAE(replace(SMALL_SSAE, encoder=short(1), decoder=short(1)), progress=False).fit(dataset()).encoder_
    fixed, moved = ([torch.equal(w, encoder[n]) for n, w in alone.state_dict().items()] for encoder in encoders)
    assert all(fixed) and not any(moved)


def test_ssae_learns_one_pair_by_heart():
    voxels, images = (np.repeat(part, 8, axis=0) for part in planted(1, 1))
    config = SSAEConfig(
        width=8, image_cycle_weight=0.0, scan_cycle_weight=0.0, variation_weight=0.0,
        encoder=replace(short(60, 1e-2), batch_size=8), decoder=replace(short(150, 1e-2), batch_size=8),
    )  # fmt: skip
    method = SSAE(config, progress=False).fit_images(voxels, images, voxels, images)
    assert np.abs(method.reconstruct(voxels).astype(float) - images).mean() < 5  # of 255
    with torch.no_grad():
        scan = method.encoder_(to_model_range(images)).numpy()
    assert np.abs(scan - voxels).mean() < 0.1 * np.abs(voxels).mean()


def decoder_after(config: SSAEConfig, data: BrainDataset | None = None, **more: object) -> np.ndarray:
    method = SSAE(config, progress=False, **more).fit(data or dataset())
    return torch.cat([weight.detach().flatten() for weight in method.decoder_.parameters()]).numpy()


def test_every_ssae_knob_turns_something():
    eye, tiny = new_gan().eye, replace(SMALL_SSAE, encoder=short(3), decoder=short(3))
    base = decoder_after(tiny, features=eye)
    np.testing.assert_array_equal(base, decoder_after(tiny, features=eye))
    changes = {
        "width": 16, "image_cycle_weight": 0.0, "scan_cycle_weight": 0.0, "cosine_weight": 1.0, "feature_weight": 0.0,
        "variation_weight": 1.0, "encoder_learning_rate_scale": 1.0, "encoder": short(5), "decoder": short(5),
    }  # fmt: skip
    assert set(changes) == {f.name for f in fields(SSAEConfig)}
    for name, value in changes.items():
        assert not np.array_equal(base, decoder_after(replace(tiny, **{name: value}), features=eye)), name
    assert not np.array_equal(base, decoder_after(tiny))  # no feature loss
    assert not np.array_equal(base, decoder_after(tiny, features=eye, images=planted(300, 7)[1]))


def test_unlabelled_scans_of_the_same_person_are_used():
    tiny = replace(SMALL_SSAE, encoder=short(3), decoder=short(3))
    without = decoder_after(tiny)
    strangers = split(50, 21, images=False, subject=2)
    np.testing.assert_array_equal(without, decoder_after(tiny, dataset(pretrain=strangers)))
    assert not np.array_equal(without, decoder_after(tiny, dataset(pretrain=split(50, 21, images=False))))


def test_an_interrupted_ssae_goes_on(tmp_path):
    tiny = replace(SMALL_SSAE, encoder=short(3), decoder=short(3))
    first = decoder_after(tiny, out_dir=tmp_path)
    again = SSAE(tiny, progress=False, out_dir=tmp_path).fit(dataset())
    assert {stage: result.steps_run for stage, result in again.results_.items()} == {"encoder": 0, "decoder": 0}
    weights = torch.cat([weight.detach().flatten() for weight in again.decoder_.parameters()]).numpy()
    np.testing.assert_array_equal(first, weights)


# --- the instance-conditioned GAN ---


def test_generator_depends_on_instance_and_on_noise():
    generator = new_gan().generator
    rng = torch.Generator().manual_seed(0)
    z, h = torch.randn((2, 4), generator=rng), F.normalize(torch.randn((2, 8), generator=rng), dim=-1)
    with torch.no_grad():
        images = generator(z, h)
        assert images.shape == (2, 3, SIZE, SIZE) and images.abs().max() <= 1
        assert (generator(z.flip(0), h) - images).abs().max() > 1e-3
        assert (generator(z, h.flip(0)) - images).abs().max() > 1e-3


def players() -> tuple[InstanceGAN, Discriminator, dict[str, torch.Tensor]]:
    gan, rng = new_gan(), torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        discriminator = Discriminator(SMALL_GAN, 8)
    batch = {
        "real": to_model_range(planted(8, 1)[1]),
        "noise": torch.randn((8, 4), generator=rng),
        "instance": F.normalize(torch.randn((8, 8), generator=rng), dim=-1),
    }
    return gan, discriminator, batch


def test_each_player_feels_its_own_loss_only():
    gan, discriminator, batch = players()
    of_d, of_g = game_losses(gan.generator, discriminator, **batch)
    of_d.backward(retain_graph=True)
    assert all(weight.grad is None for weight in gan.generator.parameters())
    felt = [weight.grad.clone() for weight in discriminator.parameters()]
    of_g.backward()
    assert all(weight.grad.abs().max() > 0 for weight in gan.generator.parameters())
    for before, weight in zip(felt, discriminator.parameters(), strict=True):
        torch.testing.assert_close(before, weight.grad, rtol=0, atol=0)


def test_a_step_of_either_player_lowers_its_loss():
    for player in (0, 1):
        gan, discriminator, batch = players()
        mover = (discriminator, gan.generator)[player]
        discriminator.eval()  # the spectral norms stand still
        optimizer = torch.optim.SGD(mover.parameters(), lr=1e-3)
        before = game_losses(gan.generator, discriminator, **batch)[player]
        before.backward()
        optimizer.step()
        assert game_losses(gan.generator, discriminator, **batch)[player] < before


def test_hinge_loss_in_closed_form():
    gan, _, batch = players()

    class Verdict(torch.nn.Module):
        """Says `real` of what it was told is real, `fake` of all else."""

        def __init__(self, real: float, fake: float) -> None:
            super().__init__()
            self.answers = torch.nn.Parameter(torch.tensor([fake, real]))

        def forward(self, images: torch.Tensor, instance: torch.Tensor) -> torch.Tensor:
            return self.answers[int(images is batch["real"])].expand(len(images))

    for real, fake, of_d in ((0.0, 0.0, 2.0), (1.0, -1.0, 0.0), (5.0, -5.0, 0.0), (-1.0, 1.0, 4.0), (0.25, -0.5, 1.25)):
        losses = game_losses(gan.generator, Verdict(real, fake), **batch)
        assert [loss.item() for loss in losses] == pytest.approx([of_d, -fake])


def test_neighbours_are_the_nearest():
    h = F.normalize(torch.randn((50, 5), generator=torch.Generator().manual_seed(0)), dim=-1)
    found = nearest_neighbours(h, 4, rows_at_once=7)
    distances = torch.cdist(h.double(), h.double())
    torch.testing.assert_close(found, distances.argsort(dim=1)[:, :4])
    assert (found[:, 0] == torch.arange(50)).all()


def two_colours(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Red or blue pictures on a background of any grey, and which."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.resize([0, 1], n))
    pictures = np.broadcast_to(rng.integers(60, 200, (n, 1, 1, 1)), (n, SIZE, SIZE, 3)).copy()
    pictures[:, 4:12, 4:12] = np.where(labels[:, None] == 0, [220, 30, 30], [30, 30, 220])[:, None, None]
    return pictures.astype(np.uint8), labels


def test_trained_gan_paints_its_instances():
    images, labels = two_colours(120, 0)
    images_val, labels_val = two_colours(40, 1)
    how = replace(brief(200), eye=short(60), reader=short(60, 5e-3), discriminator_learning_rate_scale=1.0)
    gan = new_gan()
    results = train_instance_gan(gan, images, labels, images_val, labels_val, how, progress=False)
    assert set(results) == {"eye", "game", "reader"}
    assert results["eye"].history[-1]["accuracy"] == 1.0
    assert not any(weight.requires_grad for weight in gan.parameters())
    z = torch.randn((40, 4), generator=torch.Generator().manual_seed(0))
    middle = gan.paint(z, torch.from_numpy(gan.instances(images_val)))[:, 6:10, 6:10].mean((1, 2))
    redder = middle[:, 0] > middle[:, 2]
    assert (redder == (labels_val == 0)).mean() > 0.9
    assert results["reader"].best_value < 0.98  # some of the noise shows in the picture
    np.testing.assert_allclose(np.linalg.norm(gan.instances(images_val), axis=1), 1, rtol=1e-5)


def test_every_gan_knob_turns_something(tmp_path):
    data = (*two_colours(24, 0), *two_colours(16, 1))

    def weights(how: InstanceGANTraining, config: InstanceGANConfig = SMALL_GAN, **options: object) -> torch.Tensor:
        gan = new_gan(config)
        train_instance_gan(gan, *data, how, progress=False, **options)
        return torch.cat([tensor.flatten() for tensor in gan.state_dict().values()])

    base = weights(brief(2))
    torch.testing.assert_close(base, weights(brief(2), out_dir=tmp_path), rtol=0, atol=0)
    torch.testing.assert_close(base, weights(brief(2), out_dir=tmp_path), rtol=0, atol=0)  # found finished
    changes = {
        "eye": short(3), "game": short(3), "reader": short(3), "label_weight": 0.0, "contrast_weight": 0.0,
        "neighbours": 8, "discriminator_width": 16, "discriminator_learning_rate_scale": 0.1,
    }  # fmt: skip
    assert set(changes) == {f.name for f in fields(InstanceGANTraining)}
    for name, value in changes.items():
        assert not torch.equal(base, weights(replace(brief(2), **{name: value}))), name
    sizes = {
        "image_size": 8, "num_classes": 3, "feature_dim": 16, "noise_dim": 8, "eye_width": 16, "generator_width": 32,
        "reader_width": 16,
    }  # fmt: skip
    assert set(sizes) == {f.name for f in fields(InstanceGANConfig)}
    shapes = [[w.shape for w in new_gan(replace(SMALL_GAN, **{n: v})).parameters()] for n, v in sizes.items()]
    assert all(shape != [w.shape for w in new_gan().parameters()] for shape in shapes)


def test_larger_pictures_have_more_levels():
    gan = new_gan(replace(SMALL_GAN, image_size=64))
    made = gan.paint(torch.zeros((1, 4)), torch.ones((1, 8)))
    assert made.shape == (1, 64, 64, 3) and gan.noises(made).shape == (1, 4)
    assert Discriminator(gan.config, 8)(to_model_range(made), torch.ones((1, 8))).shape == (1,)


def test_gan_survives_the_way_to_disk(tmp_path):
    gan, config = new_gan(), asdict(SMALL_GAN)
    gan.eye.mean.fill_(0.25)
    images = planted(3, 1)[1]
    save_weights(tmp_path / "icgan.safetensors", gan, "icgan", config, half=True)
    back = new_gan(seed=5)
    assert not np.allclose(back.instances(images), gan.instances(images), atol=0.05)
    load_weights(tmp_path / "icgan.safetensors", back, "icgan", config)
    np.testing.assert_allclose(back.instances(images), gan.instances(images), atol=0.02)  # float16 in between
    z, h = torch.ones((1, 4)), torch.from_numpy(gan.instances(images[:1]))
    assert np.abs(back.paint(z, h).astype(int) - gan.paint(z, h)).max() <= 2
    with pytest.raises(ValueError, match="another config"):
        load_weights(tmp_path / "icgan.safetensors", back, "icgan", {**config, "noise_dim": 9})


# --- ridge into the GAN ---


def test_spread_and_read_noise():
    data = dataset()
    scans, images = data["val"].voxels, data["val"].images

    def samples(**changes: object) -> np.ndarray:
        return ICGAN(KnownGAN(), ICGANConfig(**changes)).fit(data).reconstruct(scans, num_samples=4)

    read, sure, drawn = samples(), samples(spread=0.0), samples(read_noise=False)
    right = np.s_[:, :, :, SIZE // 2 :]
    assert (sure[:, :1] == sure).all() and not (read[:, :1] == read).all()
    identified = [
        pairwise_identification(np.ascontiguousarray(made[right]), images[:, :, SIZE // 2 :]).mean()
        for made in (sure, read, drawn)
    ]
    assert identified[0] >= identified[1] > 0.8 and abs(identified[2] - 0.5) < 0.15
    left = np.s_[:, :, :, : SIZE // 2]  # h alone paints it, noise or no noise
    np.testing.assert_array_equal(read[left], drawn[left])
    other = ICGANConfig(ridge=RidgeConfig(alphas=(1e6,)))
    assert not np.array_equal(ICGAN(KnownGAN(), other).fit(data).reconstruct(scans, 4), read)


def test_the_noise_left_open_completes_what_was_read():
    """Predicted and drawn noise together have unit variance; a scan that says nothing leaves all of it open."""
    (voxels, images), (voxels_val, images_val) = planted(160, 1, noise=2.0), planted(100, 2, noise=2.0)
    method = ICGAN(KnownGAN()).fit_images(voxels, images, voxels_val, images_val)
    predicted = method.to_noise.predict(voxels_val)
    np.testing.assert_allclose(predicted.var(axis=0) + method.sigma_**2, 1.0)
    assert (method.sigma_ < 0.9).all()
    order = np.random.default_rng(0).permutation(160)
    lost = ICGAN(KnownGAN()).fit_images(voxels[order], images, voxels_val, images_val)
    assert (lost.sigma_ > 0.95).all()


# --- what ships ---


def shipped_gan(world: str = "simulated") -> InstanceGAN:
    path = chain.shipped(world) / "icgan.safetensors"
    assert path.stat().st_size < 3e6
    return chain.load_instance_gan(path.parent).requires_grad_(False)


@pytest.mark.parametrize(("world", "right", "wrong"), [("simulated", 0.5, 0.1), ("digits69", 0.95, 0.05)])
def test_shipped_gan_paints_pictures_like_the_instance(world, right, wrong):
    categories = len(chain.CATEGORIES[world])
    gan, chosen = shipped_gan(world), preset("class").with_categories(categories)
    referee = chain.load_world(chain.shipped(world), chosen).classifier
    images, labels = chain.PICTURES[world](200, seed=77, image_size=32, part="val")
    noise = torch.randn((200, gan.config.noise_dim), generator=torch.Generator().manual_seed(0))
    h = torch.from_numpy(gan.instances(images))
    painted = gan.paint(noise, h)
    named = referee.classify(painted).argmax(axis=1)
    assert (named == labels).mean() > right  # chance 0.02 and 0.5
    assert (named == (labels + 1) % categories).mean() < wrong
    again = gan.paint(torch.from_numpy(gan.noises(images)), h)  # the noise that was read places the shape
    assert pairwise_identification(again, images).mean() > pairwise_identification(painted, images).mean()


@pytest.mark.slow
def test_icgan_names_what_simulated_scans_saw():
    data = simulated.load()
    method = ICGAN(shipped_gan()).fit(data)
    referee = chain.load_world(chain.shipped("simulated"), preset("class")).classifier
    val = data["val"]
    made = method.reconstruct(val.voxels)[:, 0]
    assert (referee.classify(made).argmax(axis=1) == val.labels).mean() > 0.1  # chance 0.02


# --- errors ---


def test_errors_of_data():
    (voxels, images), val = planted(20, 1), planted(10, 2)
    for method in (MeanImage(), NearestTrainingNeighbour(), ICGAN(KnownGAN()), SSAE(progress=False)):
        for data, words in (
            ((voxels[:5], images, *val), "train has 5 scans and 20 pictures"),
            ((voxels, images, val[0], val[1][:3]), "validation has 10 scans and 3 pictures"),
            ((voxels, images / 255, *val), "images: float64"),
            ((voxels[:, :9], images, *val), "train has 9 voxels .* validation 60"),
            ((voxels * np.nan, images, *val), "train voxels hold 1200 NaN"),
        ):
            with pytest.raises(ValueError, match=words):
                method.fit_images(*data)
        with pytest.raises(RuntimeError, match="0 pictures"):
            method.reconstruct(voxels)
    fitted = MeanImage().fit_images(voxels, images, *val)
    with pytest.raises(ValueError, match="9 voxels, the method was fitted on 60"):
        fitted.reconstruct(voxels[:, :9])
    with pytest.raises(ValueError, match="0 samples asked"):
        ICGAN(KnownGAN()).fit_images(voxels, images, *val).reconstruct(voxels, num_samples=0)


def test_errors_of_data_sets():
    whole = dataset()
    without = replace(whole, splits={name: whole[name] for name in ("train", "test")})
    with pytest.raises(ValueError, match="no split val"):
        MeanImage().fit(without)
    blind = replace(whole, splits={**whole.splits, "val": split(5, 1, images=False)})
    with pytest.raises(ValueError, match="0 pictures"):
        SSAE().fit(blind)


def test_errors_of_configs_and_sizes():
    (voxels, images), val = planted(20, 1), planted(10, 2)
    with pytest.raises(ValueError, match="pictures without scans: float64"):
        SSAE(images=images / 255)
    with pytest.raises(ValueError, match=r"without partners: pictures \(8, 8\)"):
        SSAE(images=np.zeros((5, 8, 8, 3), np.uint8)).fit_images(voxels, images, *val)
    with pytest.raises(ValueError, match="9 voxels, in pairs"):
        SSAE().fit_images(voxels, images, *val, unpaired_voxels=voxels[:, :9])
    with pytest.raises(ValueError, match="divisible by 4"):
        SSAE().fit_images(voxels, images[:, :15, :15], val[0], val[1][:, :15, :15])
    with pytest.raises(ValueError, match="width is 6"):
        SSAEConfig(width=6)
    with pytest.raises(ValueError, match=r"scan_cycle_weight is -1\.0; expected a finite number >= 0"):
        SSAEConfig(scan_cycle_weight=-1.0)
    for size in (4, 24, 33):
        with pytest.raises(ValueError, match=f"image_size is {size}"):
            InstanceGANConfig(image_size=size)
    with pytest.raises(ValueError, match="one above 0"):
        InstanceGANTraining(label_weight=0.0, contrast_weight=0.0)
    with pytest.raises(ValueError, match="neighbours is 0"):
        InstanceGANTraining(neighbours=0)
    with pytest.raises(ValueError, match=r"spread is 1\.5"):
        ICGANConfig(spread=1.5)
    gan, labels = new_gan(), np.zeros(20, dtype=np.int64)
    with pytest.raises(ValueError, match="this GAN paints 16"):
        gan.instances(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="20 pictures with 19 labels"):
        train_instance_gan(gan, images, labels[1:], images, labels, brief(1))
    with pytest.raises(ValueError, match="30 neighbours wanted of 20"):
        train_instance_gan(gan, images, labels, images, labels, replace(brief(1), neighbours=30))
