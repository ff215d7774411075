"""Rendered scenes: what is painted is what the scene's numbers say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from visdec_lite.datasets.stimuli import (
    CATEGORY_NAMES,
    COLOURS,
    NUM_CATEGORIES,
    SHAPES,
    Scenes,
    category_of,
    coverage,
    draw_scenes,
    render,
)

PAINT = np.array(list(COLOURS.values()))


def one_of_each(rng: np.random.Generator) -> Scenes:
    return draw_scenes(np.arange(NUM_CATEGORIES), rng)


def lens_area(a: float, b: float, distance: float) -> float:
    """Area that two circles of radii a and b share (their centres `distance` apart)."""
    alpha = np.arccos((distance**2 + a**2 - b**2) / (2 * distance * a))
    beta = np.arccos((distance**2 + b**2 - a**2) / (2 * distance * b))
    return a**2 * (alpha - np.sin(2 * alpha) / 2) + b**2 * (beta - np.sin(2 * beta) / 2)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return one_of_each(np.random.default_rng(0))


# --- scenes ---


def test_scenes_are_a_function_of_the_generator():
    first, again, other = (one_of_each(np.random.default_rng(seed)) for seed in (3, 3, 4))
    for name, column in vars(first).items():
        np.testing.assert_array_equal(column, getattr(again, name))
    assert not np.array_equal(first.x, other.x)
    assert not np.array_equal(first.texture_seed, other.texture_seed)


def test_labels_count_colours_within_shapes(scenes):
    assert NUM_CATEGORIES == len(SHAPES) * len(COLOURS) == 50
    np.testing.assert_array_equal(scenes.label, np.arange(50))
    np.testing.assert_array_equal(category_of(scenes.shape, scenes.colour), scenes.label)
    names = [f"{list(COLOURS)[c]} {SHAPES[s]}" for s, c in zip(scenes.shape, scenes.colour, strict=True)]
    assert names == list(CATEGORY_NAMES)


def test_places_sizes_and_slants_stay_within_what_is_documented(rng):
    scenes = draw_scenes(rng.integers(0, 50, 5000), rng)
    for name, low, high in [("x", -0.36, 0.36), ("y", -0.36, 0.36), ("size", 0.36, 0.5), ("slant", -0.35, 0.35)]:
        column = getattr(scenes, name)
        assert low <= column.min() < low + 0.01 * (high - low), name
        assert high >= column.max() > high - 0.01 * (high - low), name


@pytest.mark.parametrize("bad", [-1, 50])
def test_a_label_out_of_range_is_an_error(bad, rng):
    with pytest.raises(ValueError, match=rf"labels span .*{bad}.*, expected 0\.\.49"):
        draw_scenes(np.array([7, bad]), rng)


def test_no_labels_give_no_scenes(rng):
    none = draw_scenes(np.array([], dtype=int), rng)
    assert len(none) == 0 and render(none).shape == (0, 32, 32, 3)


# --- coverage ---


def test_the_area_is_that_of_the_disc_it_is_named_after(rng):
    """The canvas is 2 x 2, so a mean coverage of pi size^2 / 4; ring and crescent have closed forms of their own."""
    expected = dict.fromkeys(SHAPES, 1.0)
    expected["ring"] = 1.25**2 - 0.65**2  # between two circles
    expected["crescent"] = 1.22**2 - lens_area(1.22, 0.93, 0.52) / np.pi  # a disc with a bite
    scenes = draw_scenes(rng.integers(0, 50, 400), rng)
    scenes = replace(scenes, x=0 * scenes.x, y=0 * scenes.y)
    share = coverage(scenes, 64).mean((1, 2)) / (np.pi * scenes.size**2 / 4)
    for index, name in enumerate(SHAPES):
        np.testing.assert_allclose(share[scenes.shape == index], expected[name], rtol=0.02, err_msg=name)


def test_x_is_right_and_y_is_up():
    one = draw_scenes(np.array([0]), np.random.default_rng(0))  # a disc
    axis = (np.arange(32) + 0.5) / 16 - 1
    for x, y in [(0.3, 0.0), (-0.3, 0.0), (0.0, 0.3), (0.2, -0.3)]:
        disc = coverage(replace(one, x=np.array([x]), y=np.array([y])), 32)[0]
        assert (disc * axis[None, :]).sum() / disc.sum() == pytest.approx(x, abs=0.005)
        assert (disc * -axis[:, None]).sum() / disc.sum() == pytest.approx(y, abs=0.005)


def test_slant_turns_counter_clockwise():
    """An arrow points right; turned by a quarter it points up, as np.rot90 turns a picture."""
    arrow = draw_scenes(np.array([5 * SHAPES.index("arrow")]), np.random.default_rng(0))
    zero = np.zeros(1)
    flat, turned = (coverage(replace(arrow, x=zero, y=zero, slant=zero + a), 32)[0] for a in (0, np.pi / 2))
    np.testing.assert_allclose(turned, np.rot90(flat), atol=1e-9)
    assert not np.allclose(turned, np.rot90(flat, -1), atol=0.1)


# --- pictures ---


def test_pictures_are_uint8_and_repeat_bit_for_bit(scenes):
    first = render(scenes)
    assert first.shape == (50, 32, 32, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(render(scenes), first)


def test_the_paint_is_where_the_shape_is_and_the_texture_elsewhere(scenes):
    pictures, inside = render(scenes, 64) / 255, coverage(scenes, 64)
    for row, (picture, mask) in enumerate(zip(pictures, inside, strict=True)):
        painted, ground = picture[mask == 1].mean(0), picture[mask == 0].mean(0)
        hue_error = np.abs(painted / painted.sum() - PAINT[scenes.colour[row]] / PAINT[scenes.colour[row]].sum()).max()
        assert hue_error < 0.03, CATEGORY_NAMES[row]
        nearest = np.abs(painted - PAINT).sum(1).argmin()
        assert nearest == scenes.colour[row], CATEGORY_NAMES[row]
        assert np.ptp(ground) < 0.2, "the texture is nearly grey"


def test_the_texture_does_not_depend_on_what_is_painted_over_it(scenes):
    recoloured = replace(scenes, colour=(scenes.colour + 1) % 5)
    outside = coverage(scenes, 32) == 0
    np.testing.assert_array_equal(render(scenes)[outside], render(recoloured)[outside])
    other = replace(scenes, texture_seed=scenes.texture_seed + 1)
    assert (render(scenes)[outside] != render(other)[outside]).mean() > 0.9


def test_the_same_scene_looks_alike_at_any_size(scenes):
    small = render(scenes, 32).astype(float)
    large = render(scenes, 64).reshape(50, 32, 2, 32, 2, 3).mean((2, 4))
    for a, b in zip(small, large, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99


def test_a_picture_does_not_depend_on_its_neighbours(scenes):
    together = render(scenes)
    alone = np.concatenate([render(scenes.rows(np.array([row]))) for row in range(50)])
    np.testing.assert_array_equal(alone, together)


def test_pictures_beyond_one_chunk_are_the_same_pictures(rng):
    many = draw_scenes(rng.integers(0, 50, 520), rng)
    np.testing.assert_array_equal(render(many, 16)[510:], render(many.rows(slice(510, 520)), 16))


def test_a_size_too_small_for_the_shapes_is_an_error(scenes):
    with pytest.raises(ValueError, match=r"image size 15 is too small.*16 or more"):
        render(scenes, 15)
