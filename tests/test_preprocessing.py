"""Each preprocessing step against numpy, a closed form, or its own inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import zscore
from skimage.transform import downscale_local_mean

from visdec_lite.preprocessing import (
    ZScore,
    as_uint8_rgb,
    pad_images,
    pad_voxels,
    resize_images,
    roi_mask,
    select_rois,
    shift_lag,
    to_model_range,
    to_uint8,
    unpad,
    valid_voxels,
    zscore_runs,
)


def test_zscore_agrees_with_scipy_on_train(rng):
    train = rng.normal(7.0, 3.0, (50, 9))
    assert np.allclose(ZScore.fit(train).apply(train), zscore(train, axis=0), atol=1e-6)


def test_zscore_takes_its_statistics_from_train_alone(rng):
    train, test = rng.normal(size=(50, 3)), rng.normal(5.0, 1.0, (20, 3))
    fitted = ZScore.fit(train)
    scaled = fitted.apply(test)
    assert scaled.dtype == np.float32
    assert (scaled.mean(axis=0) > 3).all(), "the shift of the test trials has to survive"
    assert np.allclose(scaled[:4], fitted.apply(test[:4])), "a row may not depend on its neighbours"


def test_zscore_invert_undoes_apply_and_leaves_its_input(rng):
    voxels = rng.normal(100.0, 5.0, (30, 4)).astype(np.float32)
    before = voxels.copy()
    fitted = ZScore.fit(voxels)
    assert np.allclose(fitted.invert(fitted.apply(voxels)), before, atol=1e-3)
    assert np.array_equal(voxels, before)


def test_zscore_of_a_constant_or_broken_voxel_is_an_error_with_a_way_out(rng):
    voxels = rng.normal(size=(10, 5)).astype(np.float32)
    voxels[:, 1] = 0.1  # constant, though its computed spread is not exactly 0
    voxels[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"2 of 5 voxels .*1 hold NaN.*1 are constant \(first: column 1\)") as error:
        ZScore.fit(voxels)
    assert "valid_voxels" in str(error.value)
    mask = valid_voxels(voxels)
    assert mask.tolist() == [True, False, True, True, False]
    ZScore.fit(voxels[:, mask])


def test_zscore_errors_on_shapes(rng):
    fitted = ZScore.fit(rng.normal(size=(10, 5)))
    with pytest.raises(ValueError, match="4 voxels, but the z-scores were fitted on 5"):
        fitted.apply(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"shape \(5,\), expected \(trials, voxels\)"):
        fitted.apply(np.zeros(5))
    with pytest.raises(ValueError, match="1 trials to fit"):
        ZScore.fit(np.zeros((1, 5)))


def test_valid_voxels_keeps_small_signals_and_drops_rounding(rng):
    signal = rng.normal(size=20)
    voxels = np.stack([1e-12 * signal, 1000 + signal, 1000 + 1e-9 * signal, np.zeros(20)], axis=1)
    assert valid_voxels(voxels).tolist() == [True, True, False, False]


def test_zscore_runs_agrees_with_scipy_in_every_run(rng):
    run = np.array([2, 0, 2, 0, 0, 2, 2])
    voxels = rng.normal(size=(7, 4)) + 10.0 * run[:, None]
    scaled = zscore_runs(voxels, run)
    for number in (0, 2):
        assert np.allclose(scaled[run == number], zscore(voxels[run == number], axis=0), atol=1e-5)


def test_zscore_runs_errors(rng):
    voxels = rng.normal(size=(4, 3))
    with pytest.raises(ValueError, match="run 7 has 1 trial"):
        zscore_runs(voxels, np.array([0, 0, 0, 7]))
    with pytest.raises(ValueError, match="3 run numbers for 4 rows"):
        zscore_runs(voxels, np.zeros(3))
    voxels[:2, 2] = 5
    with pytest.raises(ValueError, match="1 of 3 voxels in run 0"):
        zscore_runs(voxels, np.array([0, 0, 1, 1]))


def test_wrap_padding_goes_on_with_the_first_voxels(rng):
    voxels = rng.normal(size=(2, 10)).astype(np.float32)
    padded, count = pad_voxels(voxels, multiple=8)
    assert padded.shape == (2, 16) and count == 10
    assert np.array_equal(padded, np.concatenate([voxels, voxels[:, :6]], axis=1))
    assert padded.dtype == np.float32


def test_zero_padding_differs_from_wrapping_and_both_undo(rng):
    voxels = rng.normal(size=(2, 10))
    zeros, count = pad_voxels(voxels, multiple=8, mode="zero")
    assert not zeros[:, 10:].any()
    for mode in ("wrap", "zero"):
        assert np.array_equal(unpad(pad_voxels(voxels, 8, mode)[0], count), voxels)
    assert np.array_equal(unpad(torch.from_numpy(zeros), count).numpy(), voxels)


@pytest.mark.parametrize(("voxels", "multiple", "expected"), [(3092, 16, 3104), (3104, 16, 3104), (3, 16, 16)])
def test_padded_length_is_the_next_multiple(voxels, multiple, expected):
    assert pad_voxels(np.ones((1, voxels)), multiple)[0].shape == (1, expected)


def test_padding_errors():
    with pytest.raises(ValueError, match="multiple is 0"):
        pad_voxels(np.ones((1, 3)), 0)
    with pytest.raises(ValueError, match="'reflect', expected 'wrap' or 'zero'"):
        pad_voxels(np.ones((1, 3)), 2, mode="reflect")
    with pytest.raises(ValueError, match="5 voxels asked of 4"):
        unpad(np.ones((1, 4)), 5)


def test_select_rois_takes_the_union_once_in_the_old_order():
    rois = {"V1": np.array([1, 0, 0, 1], bool), "VC": np.array([1, 0, 1, 1], bool), "V9": np.zeros(4, bool)}
    voxels = np.arange(8).reshape(2, 4)
    assert select_rois(voxels, rois, ["VC", "V1"]).tolist() == [[0, 2, 3], [4, 6, 7]]
    assert roi_mask(rois, "V1").tolist() == [True, False, False, True]
    with pytest.raises(ValueError, match=r"no region \['LOC'\]; this data set has \['V1'"):
        select_rois(voxels, rois, ["LOC"])
    with pytest.raises(ValueError, match="0 regions named"):
        select_rois(voxels, rois, [])
    with pytest.raises(ValueError, match=r"0 voxels in \['V9'\].*'V1': 2"):
        select_rois(voxels, rois, ["V9"])
    with pytest.raises(ValueError, match="cover 4 voxels, the scans have 6"):
        select_rois(np.ones((2, 6)), rois, ["V1"])


def test_shift_lag_finds_a_response_that_comes_late(rng):
    shown = rng.normal(size=40)
    answer = np.concatenate([np.zeros(2), shown[:-2]])  # the brain answers 2 volumes later
    volumes, labels = shift_lag(answer[:, None], shown, lag=2)
    assert volumes.shape == (38, 1)
    assert np.array_equal(volumes[:, 0], labels)
    same, all_labels = shift_lag(answer, shown, lag=0)
    assert np.array_equal(same, answer) and np.array_equal(all_labels, shown)


def test_shift_lag_errors():
    with pytest.raises(ValueError, match="lag is 5 volumes, expected 0 to 4"):
        shift_lag(np.ones(5), np.ones(5), 5)
    with pytest.raises(ValueError, match="lag is -1"):
        shift_lag(np.ones(5), np.ones(5), -1)
    with pytest.raises(ValueError, match="5 volumes and 4 labels"):
        shift_lag(np.ones(5), np.ones(4), 1)


def test_as_uint8_rgb_maps_the_stated_range():
    grey = np.array([[[-1.0, 0.0, 1.0]]])
    rgb = as_uint8_rgb(grey, value_range=(-1, 1))
    assert rgb.shape == (1, 1, 3, 3) and rgb.dtype == np.uint8
    assert rgb[0, 0].tolist() == [[0] * 3, [128] * 3, [255] * 3]
    colour = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    assert np.array_equal(as_uint8_rgb(colour, value_range=(0, 255)), colour)
    assert as_uint8_rgb(colour[..., :1], value_range=(0, 255)).shape == (1, 2, 2, 3)


def test_as_uint8_rgb_never_guesses():
    dark = np.array([[[0.0, 1.0]]])
    assert as_uint8_rgb(dark, value_range=(0, 255)).max() == 1
    assert as_uint8_rgb(dark, value_range=(0, 1)).max() == 255
    with pytest.raises(TypeError):
        as_uint8_rgb(dark)
    with pytest.raises(ValueError, match=r"span 0.0 to 1.5, the stated range is 0 to 1"):
        as_uint8_rgb(1.5 * dark, value_range=(0, 1))
    with pytest.raises(ValueError, match="span nan to nan"):
        as_uint8_rgb(np.full((1, 2, 2), np.nan), value_range=(0, 1))
    with pytest.raises(ValueError, match="black < white"):
        as_uint8_rgb(dark, value_range=(1, 1))
    with pytest.raises(ValueError, match=r"images are float64 \(1, 2, 2, 4\)"):
        as_uint8_rgb(np.ones((1, 2, 2, 4)), value_range=(0, 1))


def test_model_range_round_trip_is_exact_for_all_256_levels():
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), (1, 16, 16, 3))
    tensor = to_model_range(levels)
    assert tensor.shape == (1, 3, 16, 16) and tensor.dtype == torch.float32
    assert tensor.min() == -1 and tensor.max() == 1
    assert np.array_equal(to_uint8(tensor), levels)


def test_channels_stay_channels(rng):
    images = rng.integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    assert to_model_range(images)[1, 2, 4, 6] == pytest.approx(images[1, 4, 6, 2] / 127.5 - 1, abs=1e-6)
    assert np.array_equal(to_uint8(to_model_range(images)), images)


def test_to_uint8_clips_and_refuses_nan():
    overshoot = torch.tensor([-3.0, 3.0, 0.0]).reshape(1, 3, 1, 1).requires_grad_()
    assert to_uint8(overshoot).ravel().tolist() == [0, 255, 128]
    with pytest.raises(ValueError, match="12 of 12 pixel values are NaN or infinite"):
        to_uint8(torch.full((1, 3, 2, 2), float("nan")))
    with pytest.raises(ValueError, match=r"expected floats \(n, 3, height, width\)"):
        to_uint8(torch.zeros(1, 2, 2, 3))
    with pytest.raises(ValueError, match=r"float64.*expected uint8.*as_uint8_rgb"):
        to_model_range(np.zeros((1, 2, 2, 3)))


def test_downsizing_is_the_area_mean(rng):
    images = rng.integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    expected = np.stack([downscale_local_mean(image.astype(float), (3, 3, 1)) for image in images])
    small = resize_images(images, 4)
    assert small.shape == (2, 4, 4, 3) and small.dtype == np.uint8
    assert np.abs(small - expected).max() <= 0.51


def test_resizing_keeps_a_plain_image_plain_and_stays_in_range(rng):
    plain = np.full((1, 6, 6, 3), 200, dtype=np.uint8)
    for size in (4, 6, 15):
        assert (resize_images(plain, size) == 200).all()
    edge = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    edge[:, :, 4:] = 255  # bicubic overshoots here: uint8 has to clip, not wrap round
    large = resize_images(edge, 32)[0, 16, :, 0]
    assert large[:12].max() < 60 and large[20:].min() > 195
    same = resize_images(edge, 8)
    assert np.array_equal(same, edge) and not np.shares_memory(same, edge)


def test_resize_errors():
    with pytest.raises(ValueError, match=r"4 x 6, expected square.*pad_images\(images, size=6\)"):
        resize_images(np.zeros((1, 4, 6, 3), np.uint8), 4)
    with pytest.raises(ValueError, match="size is 0"):
        resize_images(np.zeros((1, 4, 4, 3), np.uint8), 0)


def test_pad_images_centres(rng):
    images = rng.integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
    padded = pad_images(images, 32)
    assert padded.shape == (2, 32, 32, 3)
    assert np.array_equal(padded[:, 2:-2, 2:-2], images)
    assert padded.sum() == images.sum()
    white = pad_images(images[:, :27], 32, value=255)
    assert (white[:, [0, 1, 29, 30, 31]] == 255).all() and np.array_equal(white[:, 2:29, 2:-2], images[:, :27])
    with pytest.raises(ValueError, match="28 x 28, larger than the 16"):
        pad_images(images, 16)
    with pytest.raises(ValueError, match="border value is 256"):
        pad_images(images, 32, value=256)
