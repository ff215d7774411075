"""Ridge regression against scikit-learn's, a planted signal and chance."""

import logging

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from visdec_lite.baselines.ridge import RidgeConfig, RidgeDecoder, RidgeToImages

SHAPES = [(60, 20), (20, 60), (30, 30)]  # (trials, voxels): primal, dual, and the border


def planted(n: int, num_voxels: int, targets: int = 5, noise: float = 1.0, seed: int = 0):
    """Train and validation of y = x W + offset + noise, neither x nor y centred."""
    rng = np.random.default_rng(seed)
    weights, offset = rng.normal(size=(num_voxels, targets)), 10 * rng.normal(size=targets)
    x = rng.normal(size=(n + 40, num_voxels)) + 2.0
    y = x @ weights + offset + noise * rng.normal(size=(n + 40, targets))
    return (x[:n], y[:n], x[n:], y[n:]), weights


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 300.0])
def test_weights_and_predictions_are_scikit_learns(shape, alpha):
    (x, y, x_val, y_val), _ = planted(*shape)
    ours = RidgeDecoder(RidgeConfig(alphas=(alpha,))).fit(x, y, x_val, y_val)
    theirs = Ridge(alpha=alpha, solver="cholesky").fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_.T, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-6)
    np.testing.assert_allclose(ours.predict(x_val), theirs.predict(x_val), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_alpha_is_the_brute_force_choice(shape):
    (x, y, x_val, y_val), _ = planted(*shape, noise=5.0)
    ours = RidgeDecoder().fit(x, y, x_val, y_val)
    errors = [np.mean((Ridge(alpha=alpha).fit(x, y).predict(x_val) - y_val) ** 2) for alpha in ours.config.alphas]
    np.testing.assert_allclose(ours.validation_curve_, errors, rtol=1e-6)
    assert ours.alpha_ == ours.config.alphas[int(np.argmin(errors))]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_alpha_for_each_target_is_what_each_target_alone_would_choose(shape):
    (x, y, x_val, y_val), _ = planted(*shape, noise=5.0)
    y, y_val = (part * [0.01, 0.1, 1.0, 10.0, 1.0] for part in (y, y_val))
    rng = np.random.default_rng(1)
    y[:, 4], y_val[:, 4] = 60 * rng.normal(size=len(y)), 60 * rng.normal(size=len(y_val))  # nothing to predict
    together = RidgeDecoder(RidgeConfig(per_target=True)).fit(x, y, x_val, y_val)
    alone = [RidgeDecoder().fit(x, y[:, [k]], x_val, y_val[:, [k]]) for k in range(5)]
    np.testing.assert_array_equal(together.alpha_, [decoder.alpha_ for decoder in alone])
    assert len(set(together.alpha_)) > 1
    predicted = np.concatenate([decoder.predict(x_val) for decoder in alone], axis=1)
    np.testing.assert_allclose(together.predict(x_val), predicted, rtol=1e-9)
    assert together.validation_error_ == pytest.approx(np.mean((predicted - y_val) ** 2))
    common = RidgeDecoder().fit(x, y, x_val, y_val)
    np.testing.assert_allclose(together.validation_curve_, common.validation_curve_)
    assert together.validation_error_ < common.validation_error_ == pytest.approx(common.validation_curve_.min())


def test_a_constant_target_follows_the_others_choice(caplog):
    (x, y, x_val, y_val), _ = planted(60, 20, noise=5.0)
    flat = np.full((len(y), 9), 0.25), np.full((len(y_val), 9), 0.25)
    with caplog.at_level(logging.WARNING):
        decoder = RidgeDecoder(RidgeConfig(per_target=True)).fit(
            x, np.concatenate([y, flat[0]], axis=1), x_val, np.concatenate([y_val, flat[1]], axis=1)
        )
    common = RidgeDecoder().fit(x, y, x_val, y_val)
    assert set(decoder.alpha_[5:]) == {common.alpha_} and not caplog.records
    np.testing.assert_allclose(decoder.predict(x_val)[:, 5:], 0.25)


def test_tuning_tells_what_was_tried():
    (x, y, x_val, y_val), _ = planted(60, 20, noise=5.0)
    decoder = RidgeDecoder(RidgeConfig(alphas=(1.0, 100.0))).fit(x, y, x_val, y_val)
    tuning = decoder.tuning("pixels", len(x_val))
    assert tuning.rows == 40 and [alpha for alpha, _ in tuning.tried] == [1.0, 100.0]
    assert tuning.chosen == decoder.alpha_ and tuning.score == min(score for _, score in tuning.tried)
    assert "voxels to pixels: " in str(tuning) and "the best of 2 by mean squared error" in str(tuning)


def test_planted_signal_is_found_and_shuffled_trials_score_chance(caplog):
    (x, y, x_val, y_val), weights = planted(400, 20, noise=0.1)
    with caplog.at_level(logging.WARNING):
        found = RidgeDecoder(RidgeConfig(alphas=(1e-4, 1e-2, 1.0, 1e6))).fit(x, y, x_val, y_val)
    np.testing.assert_allclose(found.coef_, weights, atol=0.05)
    assert found.validation_curve_.min() == pytest.approx(0.01, rel=0.3)  # the noise that nobody can predict

    caplog.clear()
    order = np.random.default_rng(1).permutation(len(x))
    with caplog.at_level(logging.WARNING):
        lost = RidgeDecoder().fit(x[order], y, x_val, y_val)
    guess = np.mean((y.mean(axis=0) - y_val) ** 2)  # always saying the training mean
    assert lost.validation_curve_.min() > 0.9 * guess
    residual = lost.predict(x_val) - y.mean(axis=0)
    assert abs(np.corrcoef(residual.ravel(), (y_val - y.mean(axis=0)).ravel())[0, 1]) < 0.3


def test_warns_at_the_edge_of_the_grid_only(caplog):
    (x, y, x_val, y_val), _ = planted(60, 20, noise=5.0)
    with caplog.at_level(logging.WARNING):
        inside = RidgeDecoder().fit(x, y, x_val, y_val)
        assert 1 < inside.alpha_ < 1e6 and not caplog.records
        RidgeDecoder(RidgeConfig(alphas=(inside.alpha_,))).fit(x, y, x_val, y_val)  # a choice of one is no edge
        assert not caplog.records
        for alphas in ((1e5, 1e6), (1e-3, 1e-2)):
            caplog.clear()
            RidgeDecoder(RidgeConfig(alphas=alphas)).fit(x, y, x_val, y_val)
            assert "edge of the grid" in caplog.text


def test_refit_uses_validation_too():
    (x, y, x_val, y_val), _ = planted(60, 20)
    plain = RidgeDecoder().fit(x, y, x_val, y_val)
    refit = RidgeDecoder(RidgeConfig(refit=True)).fit(x, y, x_val, y_val)
    assert refit.alpha_ == plain.alpha_
    np.testing.assert_array_equal(refit.validation_curve_, plain.validation_curve_)
    theirs = Ridge(alpha=refit.alpha_).fit(np.concatenate([x, x_val]), np.concatenate([y, y_val]))
    np.testing.assert_allclose(refit.predict(x_val), theirs.predict(x_val), rtol=1e-6)
    assert not np.allclose(refit.coef_, plain.coef_)


def test_inputs_stay_as_found_and_float32_will_do():
    (x, y, x_val, y_val), _ = planted(30, 10)
    data = [part.astype(np.float32) for part in (x, y, x_val, y_val)]
    copies = [part.copy() for part in data]
    RidgeDecoder().fit(*data).predict(data[2])
    for part, copy in zip(data, copies, strict=True):
        np.testing.assert_array_equal(part, copy)


def pictures(n: int = 120, size: int = 8, num_voxels: int = 50, seed: int = 0):
    """Images that are a linear function of a few hidden numbers, and voxels that read those numbers."""
    rng = np.random.default_rng(seed)
    hidden = rng.uniform(-1, 1, size=(n, 4))
    images = 128 + 25 * np.einsum("nk,khwc->nhwc", hidden, rng.uniform(-1, 1, size=(4, size, size, 3)))
    voxels = hidden @ rng.normal(size=(4, num_voxels)) + 0.05 * rng.normal(size=(n, num_voxels))
    images = images.astype(np.uint8)
    return (voxels[: n // 2], images[: n // 2]), (voxels[n // 2 :], images[n // 2 :])


def test_images_come_back_from_voxels():
    train, val = pictures()
    decoder = RidgeToImages().fit_images(*train, *val)
    made = decoder.reconstruct(val[0])
    assert made.dtype == np.uint8 and made.shape == val[1].shape
    assert np.abs(made.astype(float) - val[1]).mean() < 2.0
    np.testing.assert_array_equal(made, np.rint(decoder.ridge.predict(val[0]).reshape(made.shape) * 255))


def test_pixels_are_clipped_not_wrapped():
    train, val = pictures()
    decoder = RidgeToImages().fit_images(*train, *val)
    wild = decoder.reconstruct(1e3 * val[0])
    raw = decoder.ridge.predict(1e3 * val[0]).reshape(wild.shape)
    assert (wild[raw > 1] == 255).all() and (wild[raw < 0] == 0).all() and (raw > 1).any() and (raw < 0).any()


def test_latents_pass_through_encode_and_decode():
    train, val = pictures()
    seen = []

    def encode(images: np.ndarray) -> np.ndarray:
        return images.astype(np.float32).mean(axis=3)  # "latents" of shape (n, 8, 8)

    def decode(latents: np.ndarray) -> np.ndarray:
        seen.append(latents.shape)
        return np.repeat(np.clip(latents, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)

    decoder = RidgeToImages(encode=encode, decode=decode).fit_images(*train, *val)
    made = decoder.reconstruct(val[0][:7])
    assert seen == [(7, 8, 8)] and decoder.ridge.coef_.shape == (50, 64) and made.shape == (7, 8, 8, 3)
    assert np.abs(made[..., 0] - encode(val[1][:7])).mean() < 2.0


def test_image_errors():
    (voxels, images), val = pictures()
    with pytest.raises(ValueError, match="images: float64"):
        RidgeToImages().fit_images(voxels, images / 255, *val)
    with pytest.raises(ValueError, match="both"):
        RidgeToImages(encode=lambda images: images)
    with pytest.raises(RuntimeError, match="0 images"):
        RidgeToImages().reconstruct(voxels)
    bad = RidgeToImages(encode=lambda images: images / 255.0, decode=lambda features: features)
    with pytest.raises(ValueError, match="decode returned: float64"):
        bad.fit_images(voxels, images, *val).reconstruct(voxels)


def test_errors():
    (x, y, x_val, y_val), _ = planted(30, 10)
    holed = x.copy()
    holed[3, 2] = np.nan
    for data, words in (
        ((holed, y, x_val, y_val), "train voxels hold 1 NaN or infinite values in 1 of 10"),
        ((x, y, x_val, y_val * np.inf), "validation targets hold 200"),
        ((x[:, :0], y, x_val, y_val), "nothing empty"),
        ((x[:5], y, x_val, y_val), "train has 5 voxel rows, 30 target rows"),
        ((x, y, x_val[:5], y_val), "validation has 5"),
        ((x, y, x_val[:, :9], y_val), "train 10 voxels; validation 9"),
        ((x, y, x_val, y_val[:, :3]), "train 5 targets; validation 3"),
        ((x, y[:, 0], x_val, y_val), "expected .trials, columns."),
        ((x[:1], y[:1], x_val, y_val), "at least 2"),
    ):
        with pytest.raises(ValueError, match=words):
            RidgeDecoder().fit(*data)
    for alphas in ((), (0.0, 1.0), (float("nan"),)):
        with pytest.raises(ValueError, match="alphas"):
            RidgeConfig(alphas=alphas)
    with pytest.raises(RuntimeError, match="call fit first"):
        RidgeDecoder().predict(x)
    fitted = RidgeDecoder().fit(x, y, x_val, y_val)
    with pytest.raises(ValueError, match="9 voxels, the decoder was fitted on 10"):
        fitted.predict(x[:, :9])
    with pytest.raises(ValueError, match="NaN"):
        fitted.predict(holed)
