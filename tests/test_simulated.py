"""The simulated cortex: a sound experiment, honest noise, and regions that know what their namesakes know."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.linear_model import RidgeClassifier, RidgeCV

from visdec_lite.datasets import load_dataset, simulated
from visdec_lite.datasets.base import BrainDataset, Split
from visdec_lite.datasets.simulated import (
    TEST_CATEGORIES,
    TRAIN_CATEGORIES,
    SimulationConfig,
    VisualCortex,
    labelled_pictures,
    load,
)
from visdec_lite.datasets.stimuli import COLOURS, SHAPES, Scenes, draw_scenes

SMALL = SimulationConfig(num_train=1200, num_val=250, num_pretrain=200, num_test_seen=12, pool_subjects=1)
TINY = SimulationConfig(
    voxels=(("V1", 8), ("V4", 8), ("LOC", 8), ("other", 8)),
    num_train=40, num_val=6, num_pretrain=12, pool_subjects=0, num_test=10, num_test_seen=4, test_repeats=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def dataset(cache: Path) -> BrainDataset:
    return load(SMALL, cache=cache)


@pytest.fixture(scope="module")
def tiny(cache: Path) -> BrainDataset:
    return load(TINY, cache=cache)


@pytest.fixture(scope="module")
def cortex() -> VisualCortex:
    return VisualCortex(SimulationConfig())


@pytest.fixture(scope="module")
def world(cortex: VisualCortex) -> tuple[Scenes, np.ndarray]:
    """1400 scenes of the training categories and what the cortex makes of them without noise."""
    rng = np.random.default_rng(5)
    scenes = draw_scenes(rng.choice(TRAIN_CATEGORIES, 1400), rng)
    return scenes, cortex.respond(scenes)


def columns(dataset: BrainDataset) -> dict[str, np.ndarray]:
    """Every array of a data set."""
    found = {f"roi/{name}": mask for name, mask in dataset.rois.items()}
    for name, split in dataset.splits.items():
        found |= {f"{name}/{column}": array for column, array in vars(split).items() if array is not None}
    return found


def changed(a: BrainDataset, b: BrainDataset) -> set[str]:
    """Names of the arrays in which two data sets differ."""
    one, two = columns(a), columns(b)
    return {name for name in one.keys() | two.keys() if not np.array_equal(one.get(name), two.get(name))}


def repeated_trials(cortex: VisualCortex, signal: np.ndarray, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """Mean of `repeats` trials a picture, each round in an order of its own, as in the scanner."""
    total = np.zeros(signal.shape)
    for order in (rng.permutation(len(signal)) for _ in range(repeats)):
        total[order] += cortex.measure(signal[order], rng)
    return total / repeats


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each column with its namesake."""
    a, b = (x - x.mean(0) for x in (a, b))
    return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


# --- the experiment ---


def test_it_keeps_the_sample_contract_and_says_that_it_is_simulated(dataset):
    assert dataset.simulated and "simulated" in dataset.citation
    assert set(dataset.splits) == {"pretrain", "train", "val", "test", "test_seen"}
    assert dataset.num_voxels == 1600 and dataset.image_size == 32 and len(dataset.category_names) == 50
    assert {name: int(mask.sum()) for name, mask in dataset.rois.items()} == dict(SMALL.voxels)
    assert (np.sum(list(dataset.rois.values()), axis=0) == 1).all(), "every voxel is in one region"
    for name, split in dataset.splits.items():
        assert split.voxels.dtype == np.float32, name
    assert dataset["pretrain"].images is None and dataset["pretrain"].labels is None


def test_test_categories_are_a_tenth_of_all_pairs_with_every_shape_and_colour():
    assert len(TRAIN_CATEGORIES) == 40 and len(TEST_CATEGORIES) == 10
    assert not np.intersect1d(TRAIN_CATEGORIES, TEST_CATEGORIES).size
    assert sorted(TEST_CATEGORIES // len(COLOURS)) == list(range(len(SHAPES)))
    assert sorted(TEST_CATEGORIES % len(COLOURS)) == sorted([*range(len(COLOURS))] * 2)


def test_categories_of_each_split(dataset):
    assert set(dataset["test"].labels) == set(TEST_CATEGORIES)
    for name in ("train", "val", "test_seen"):
        assert set(dataset[name].labels) <= set(TRAIN_CATEGORIES), name
    counts = np.bincount(dataset["train"].labels, minlength=50)[TRAIN_CATEGORIES]
    np.testing.assert_array_equal(counts, 1200 // 40)


def test_training_pictures_are_seen_once_and_test_pictures_35_times(dataset):
    for name, pictures, repeats in [("train", 1200, 1), ("val", 250, 1), ("test", 50, 35), ("test_seen", 12, 35)]:
        stimulus, counts = np.unique(dataset[name].stimulus, return_counts=True)
        assert len(stimulus) == pictures and set(counts) == {repeats}, name


def test_repeats_show_the_same_picture_and_different_stimuli_do_not(dataset):
    test = dataset["test"]
    first = {stimulus: row for row, stimulus in reversed(list(enumerate(test.stimulus)))}
    rows = np.array([first[stimulus] for stimulus in test.stimulus])
    np.testing.assert_array_equal(test.images, test.images[rows])
    np.testing.assert_array_equal(test.labels, test.labels[rows])
    assert len(np.unique(test.average_repeats().images, axis=0)) == 50


def test_every_picture_is_shown_before_any_is_shown_again(dataset):
    rounds = dataset["test"].stimulus.reshape(35, 50)
    assert (np.sort(rounds, axis=1) == np.arange(50)).all()
    assert len(np.unique(rounds, axis=0)) == 35, "each round has an order of its own"


def test_no_picture_is_in_two_splits(dataset):
    seen = [{image.tobytes() for image in dataset[name].images} for name in ("train", "val", "test", "test_seen")]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 1200 + 250 + 50 + 12


def test_voxels_are_z_scored_with_the_statistics_of_train_alone(dataset):
    train = dataset["train"].voxels.astype(np.float64)
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(train.std(0), 1, atol=1e-6)
    for name in ("val", "test", "test_seen"):
        mean, std = dataset[name].voxels.mean(0), dataset[name].voxels.std(0)
        assert 0.02 < np.abs(mean).mean() < 0.5, f"{name}: near 0, but not made 0"
        assert 0.005 < np.abs(std - 1).mean() < 0.2, f"{name}: near 1, but not made 1"


def test_trials_are_numbered_in_runs_of_one_subject(dataset):
    train = dataset["train"]
    np.testing.assert_array_equal(train.trial, np.arange(1200))
    np.testing.assert_array_equal(train.run, np.arange(1200) // SMALL.run_length)
    assert set(train.subject) == {1}


# --- the pool ---


@pytest.mark.parametrize("subject, others, expected", [(1, 2, {1, 2, 3}), (2, 1, {1, 2}), (5, 0, {5})])
def test_half_of_the_pool_is_the_subjects_own_and_the_rest_is_shared(subject, others, expected, cache):
    pool = load(replace(TINY, subject=subject, pool_subjects=others, num_pretrain=25), cache=cache)["pretrain"]
    assert set(pool.subject) == expected and len(pool) == 25
    share = 12 // others if others else 0
    counts = {person: int((pool.subject == person).sum()) for person in expected}
    assert counts == {person: 25 - others * share if person == subject else share for person in expected}


def test_each_person_in_the_pool_has_about_zero_mean_and_unit_spread(dataset):
    pool = dataset["pretrain"]
    for person in (1, 2):
        voxels = pool.voxels[pool.subject == person]
        assert np.abs(voxels.mean(0)).max() < 5 / np.sqrt(len(voxels))
        assert np.median(voxels.std(0)) == pytest.approx(1, abs=0.05)


def test_the_worlds_noise_reaches_the_other_people_of_the_pool_too(cache):
    """All noise is drift here, so that every trial of a silent voxel is like the one before, whoever was scanned."""
    slow = replace(TINY, pool_subjects=1, num_pretrain=120, shared_noise=0.0, drift=1.0, carry_over=0.0)
    pool = load(slow, cache=cache)["pretrain"]
    for person in (1, 2):
        silent = pool.voxels[pool.subject == person][:, -8:]
        assert correlation(silent[1:], silent[:-1]).min() > 0.9, person


# --- the same config, the same data ---


def test_built_twice_it_is_the_same_bit_for_bit(tiny, tmp_path):
    again = load(TINY, cache=tmp_path)
    assert changed(tiny, again) == set() and again.fingerprint == tiny.fingerprint


def test_cached_is_fresh(dataset, cache, monkeypatch):
    monkeypatch.setattr(simulated, "_simulate", lambda config: pytest.fail("built anew, though it is cached"))
    assert changed(load(SMALL, cache=cache), dataset) == set()


def test_the_cache_holds_one_whole_file_a_config(tmp_path, monkeypatch):
    monkeypatch.setenv("VISDEC_CACHE", str(tmp_path))
    for _ in range(2):
        load(TINY)
    load(**{**vars(TINY), "num_train": 41})
    assert len(list(tmp_path.iterdir())) == 2 and all(file.suffix == ".safetensors" for file in tmp_path.iterdir())


def test_it_is_loaded_by_name(tiny, cache):
    assert changed(load_dataset("simulated", config=TINY, cache=cache), tiny) == set()


VOXELS = {f"{split}/voxels" for split in ("pretrain", "train", "val", "test", "test_seen")}
IMAGES = {f"{split}/images" for split in ("train", "val", "test", "test_seen")}
RUNS = {f"{split}/run" for split in ("pretrain", "train", "val", "test", "test_seen")}


@pytest.mark.parametrize(
    "field, value, must, must_not",
    [
        ("subject", 2, VOXELS | IMAGES | {"train/subject", "pretrain/subject"}, RUNS),
        ("seed", 1, VOXELS | IMAGES, RUNS),
        ("image_size", 64, IMAGES, VOXELS),  # the retina has a size of its own
        ("voxels", (("V1", 8), ("V2", 8), ("LOC", 8), ("other", 8)), VOXELS | {"roi/V2"}, IMAGES),
        ("num_train", 41, {"train/images", "train/voxels"}, {"val/images", "test/images"}),
        ("num_val", 7, {"val/images"}, {"train/images", "train/voxels"}),
        ("num_pretrain", 13, {"pretrain/voxels"}, IMAGES | {"train/voxels"}),
        ("pool_subjects", 1, {"pretrain/subject", "pretrain/voxels"}, IMAGES | {"train/voxels"}),
        ("num_test", 11, {"test/images"}, {"train/images", "train/voxels"}),
        ("num_test_seen", 5, {"test_seen/images"}, {"train/images", "train/voxels"}),
        ("test_repeats", 3, {"test/stimulus", "test_seen/stimulus"}, {"train/voxels", "val/voxels"}),
        ("ceiling", 0.5, VOXELS, IMAGES),
        ("shared_noise", 0.5, VOXELS, IMAGES),
        ("drift", 0.3, VOXELS, IMAGES),
        ("carry_over", 0.3, VOXELS, IMAGES),
        ("run_length", 5, RUNS | VOXELS, IMAGES),
    ],
)
def test_every_field_changes_what_it_names_and_nothing_else(field, value, must, must_not, tiny, cache):
    assert getattr(TINY, field) != value
    differing = changed(tiny, load(replace(TINY, **{field: value}), cache=cache))
    assert must <= differing, f"{field} left {sorted(must - differing)} as they were"
    assert not must_not & differing, f"{field} changed {sorted(must_not & differing)}"


def test_the_fields_tested_above_are_all_there_are():
    marks = test_every_field_changes_what_it_names_and_nothing_else.pytestmark
    tested = [case[0] for mark in marks if mark.name == "parametrize" for case in mark.args[1]]
    assert sorted(tested) == sorted(f.name for f in fields(SimulationConfig))


def test_another_subject_has_another_layout_and_a_new_seed_keeps_it():
    """The seed is the experiment's; body and brain are the subject's."""
    one, same, other = (VisualCortex(config) for config in (TINY, replace(TINY, seed=9), replace(TINY, subject=2)))
    rng = np.random.default_rng(0)
    scenes = draw_scenes(rng.choice(TRAIN_CATEGORIES, 100), rng)
    np.testing.assert_array_equal(one.respond(scenes), same.respond(scenes))
    np.testing.assert_array_equal(one.noise_ceiling, same.noise_ceiling)
    theirs, mine = (brain.respond(scenes)[:, ~brain.rois["other"]] for brain in (other, one))
    assert np.median(np.abs(correlation(mine, theirs))) < 0.7
    assert not np.array_equal(one.noise_ceiling, other.noise_ceiling)


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"subject": 0}, "SimulationConfig.subject is 0, expected 1 or more"),
        ({"num_train": 0}, "SimulationConfig.num_train is 0, expected 1 or more"),
        ({"num_val": -1}, "SimulationConfig.num_val is -1, expected 1 or more"),
        ({"num_pretrain": 0}, "SimulationConfig.num_pretrain is 0"),
        ({"num_test": 0}, "SimulationConfig.num_test is 0"),
        ({"num_test_seen": 0}, "SimulationConfig.num_test_seen is 0"),
        ({"test_repeats": 0}, "SimulationConfig.test_repeats is 0"),
        ({"run_length": 0}, "SimulationConfig.run_length is 0, expected 1 or more"),
        ({"pool_subjects": -1}, "SimulationConfig.pool_subjects is -1, expected 0 or more"),
        ({"seed": -1}, "SimulationConfig.seed is -1, expected 0 or more"),
        ({"ceiling": 0.0}, r"SimulationConfig.ceiling is 0\.0, expected a correlation in \(0, 1\]"),
        ({"ceiling": 1.1}, r"SimulationConfig.ceiling is 1\.1"),
        ({"shared_noise": 0.9}, r"shares of one variance: each at least 0, together at most 1"),
        ({"drift": -0.1}, r"shares of one variance"),
    ],
)
def test_a_field_out_of_range_is_an_error(bad, words):
    with pytest.raises(ValueError, match=words):
        SimulationConfig(**bad)


def test_an_unknown_region_is_an_error():
    with pytest.raises(ValueError, match="no region is called 'FFA'; there are V1, V2, V3, V4, LOC and other"):
        VisualCortex(SimulationConfig(voxels=(("V1", 8), ("FFA", 8))))


def test_regions_may_be_left_out():
    cortex = VisualCortex(SimulationConfig(voxels=(("V4", 8),)))
    assert cortex.num_voxels == 8 and (cortex.noise_ceiling > 0).all()


def test_a_config_and_single_fields_together_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"a config or single fields, not both.*\['seed'\]"):
        load(TINY, cache=tmp_path, seed=3)


# --- signal and noise ---


def test_noise_ceilings_are_those_of_real_voxels(cortex):
    visual = cortex.noise_ceiling[~cortex.rois["other"]]
    assert 0.2 < np.median(visual) < 0.4
    assert 0.6 < np.percentile(visual, 99.5) < 0.8
    assert visual.min() > 0 and visual.max() < cortex.config.ceiling
    assert not cortex.noise_ceiling[cortex.rois["other"]].any()


def test_noiseless_responses_have_unit_spread_and_other_voxels_none(cortex, world):
    _, signal = world
    responding = ~cortex.rois["other"]
    np.testing.assert_allclose(signal[:, responding].std(0), 1, atol=0.2)
    np.testing.assert_allclose(signal[:, responding].mean(0), 0, atol=0.2)
    assert not signal[:, ~responding].any()


def test_a_trial_correlates_with_its_noiseless_response_as_the_ceiling_says(cortex, world, rng):
    _, signal = world
    visual = ~cortex.rois["other"]
    trials = cortex.measure(signal, rng)
    assert np.median(trials.std(0)) == pytest.approx(1, abs=0.02)
    difference = correlation(trials[:, visual], signal[:, visual]) - cortex.noise_ceiling[visual]
    assert abs(difference.mean()) < 0.015
    assert np.abs(difference).max() < 0.15  # 1400 trials, 1472 voxels: the furthest strays four standard errors


def test_averaging_repeats_helps_as_theory_says(cortex, world, rng):
    """Signal variance r^2 stays, noise variance (1 - r^2) / k shrinks: r_k = r / sqrt(r^2 + (1 - r^2) / k)."""
    signal, visual = world[1][:600], ~cortex.rois["other"]
    r = cortex.noise_ceiling[visual]
    for k in (4, 12):
        averaged = repeated_trials(cortex, signal, k, rng)
        found = correlation(averaged[:, visual], signal[:, visual])
        expected = r / np.sqrt(r**2 + (1 - r**2) / k)
        assert abs((found - expected).mean()) < 0.02, k
        assert np.corrcoef(found, expected)[0, 1] > 0.95, k


def test_noise_has_the_parts_it_is_said_to_have(rng):
    """With all noise of one kind, its signature is plain: silent voxels show nothing but noise."""

    def noise(n: int = 1200, **shares: float) -> np.ndarray:
        none = {"shared_noise": 0.0, "drift": 0.0, "carry_over": 0.0}
        config = SimulationConfig(voxels=(("LOC", 40), ("other", 40)), **{**none, **shares})
        return VisualCortex(config).measure(np.zeros((n, 80), dtype=np.float32), rng)[:, 40:]

    off = ~np.eye(40, dtype=bool)
    private, shared, drift = noise(), noise(shared_noise=1.0), noise(drift=1.0)
    assert np.abs(np.corrcoef(private.T)[off]).max() < 0.15
    assert np.abs(np.corrcoef(shared.T)[off]).mean() > 0.15
    assert np.linalg.matrix_rank(shared, tol=1e-2) == 12
    assert correlation(drift[1:], drift[:-1]).min() > 0.9, "slow: a trial is like the one before"
    assert np.abs(correlation(shared[1:], shared[:-1])).max() < 0.15
    for part in (private, drift):
        assert part.std(0) == pytest.approx(np.ones(40), abs=0.25)
    assert not noise(carry_over=1.0).any(), "before silence there was silence"


def test_carry_over_is_the_response_to_the_picture_before(rng):
    shares = {"shared_noise": 0.0, "drift": 0.0, "carry_over": 1.0}
    cortex = VisualCortex(SimulationConfig(voxels=(("LOC", 16), ("other", 8)), **shares))
    signal = rng.standard_normal((20, 24)).astype(np.float32)
    trials, r = cortex.measure(signal, rng), cortex.noise_ceiling
    np.testing.assert_allclose(trials[1:], r * signal[1:] + np.sqrt(1 - r**2) * signal[:-1], atol=1e-5)


# --- what each region knows ---


def decoded(dataset: BrainDataset, region: str, truth: Any) -> float:
    """Share of new pictures decoded right from single trials of one region, by a linear classifier fitted on train."""
    voxels = dataset.rois[region]
    train, val = dataset["train"], dataset["val"]
    classifier = RidgeClassifier(300.0).fit(train.voxels[:, voxels], truth(train))
    return classifier.score(val.voxels[:, voxels], truth(val))


def colour(split: Split) -> np.ndarray:
    return split.labels % len(COLOURS)


def shape(split: Split) -> np.ndarray:
    return split.labels // len(COLOURS)


def within_chance(score: float, chance: float, n: int) -> bool:
    """Inside the central 99.9 % of guessing n times."""
    low, high = binom.ppf([0.0005, 0.9995], n, chance) / n
    return low <= score <= high


def test_v4_knows_the_colour_and_not_the_shape(dataset):
    assert decoded(dataset, "V4", colour) > 0.7
    assert decoded(dataset, "V4", shape) < 0.2


def test_loc_knows_the_shape_and_something_of_the_colour(dataset):
    assert decoded(dataset, "LOC", shape) > 0.5
    assert 0.3 < decoded(dataset, "LOC", colour) < decoded(dataset, "V4", colour)


@pytest.mark.parametrize("region", ["V1", "V2", "V3"])
def test_early_areas_know_how_bright_but_not_the_hue_or_the_category(region, dataset):
    """Yellow paint is the only bright one, so lightness tells some of the colour, much less than V4 does."""
    assert decoded(dataset, region, colour) < decoded(dataset, "V4", colour) - 0.2
    assert decoded(dataset, region, lambda split: colour(split) == list(COLOURS).index("yellow")) > 0.85
    assert decoded(dataset, region, shape) < decoded(dataset, "LOC", shape) - 0.2


def test_other_voxels_know_nothing(dataset):
    n = len(dataset["val"])
    assert within_chance(decoded(dataset, "other", colour), 1 / 5, n)
    assert within_chance(decoded(dataset, "other", shape), 1 / 10, n)


def place_correlation(responses: np.ndarray, place: np.ndarray) -> float:
    """How well ridge predicts x or y of new pictures: correlation on the last 400, fitted on those before."""
    fitted = RidgeCV(np.logspace(0, 4, 9)).fit(responses[:-400], place[:-400])
    return float(np.corrcoef(fitted.predict(responses[-400:]), place[-400:])[0, 1])


@pytest.fixture(scope="module")
def averaged(cortex: VisualCortex, world: tuple[Scenes, np.ndarray]) -> np.ndarray:
    """Twelve trials a picture, averaged."""
    return repeated_trials(cortex, world[1], 12, np.random.default_rng(8))


@pytest.mark.parametrize("region, knows", [("V1", True), ("V2", True), ("V3", True), ("LOC", False), ("other", False)])
def test_early_areas_know_the_place_and_loc_does_not(region, knows, cortex, world, averaged):
    """Left or right and up or down; guessing correlates 0 +- 0.05."""
    scenes, _ = world
    found = [place_correlation(averaged[:, cortex.rois[region]], place) for place in (scenes.x, scenes.y)]
    assert min(found) > 0.3 if knows else np.abs(found).max() < 0.2, found


@pytest.mark.parametrize("region", ["V1", "V2", "V3"])
def test_the_noiseless_early_response_tells_left_from_right_and_up_from_down(region, cortex, world):
    scenes, signal = world
    for place in (scenes.x, scenes.y):
        clear = np.abs(place) > 0.12  # a centred object is neither left nor right
        train, new = np.arange(1400) < 1000, (np.arange(1400) >= 1000) & clear
        voxels = signal[:, cortex.rois[region]]
        fitted = RidgeClassifier(10.0).fit(voxels[train], place[train] > 0)
        assert fitted.score(voxels[new], place[new] > 0) > 0.8


def test_loc_responds_alike_wherever_the_object_stands(cortex, rng):
    """Mirrored to the other side, the same object gives the same response in LOC, and another one in V1."""
    scenes = draw_scenes(rng.choice(TRAIN_CATEGORIES, 40), rng)
    here, there = (cortex.respond(replace(scenes, x=sign * np.abs(scenes.x))) for sign in (1, -1))
    change = np.abs(here - there).mean(0)
    assert change[cortex.rois["LOC"]].max() < 1e-4
    assert change[cortex.rois["V1"]].mean() > 0.2


def test_similar_shapes_look_similar_to_loc(cortex, rng):
    """Graded tuning: disc and ring are closer than disc and hourglass, and no two shapes are one."""
    centred = draw_scenes(np.arange(len(SHAPES)) * len(COLOURS), rng)
    zero = np.zeros(len(SHAPES))
    loc = cortex.respond(replace(centred, x=zero, y=zero, slant=zero))[:, cortex.rois["LOC"]]
    alike = np.corrcoef(loc)
    index = {name: i for i, name in enumerate(SHAPES)}
    assert alike[index["disc"], index["square"]] > alike[index["disc"], index["hourglass"]]
    assert alike[~np.eye(len(SHAPES), dtype=bool)].max() < 0.9


def test_neighbours_in_the_vector_are_neighbours_on_the_cortex(cortex, rng):
    for region in ("V1", "V2", "V3"):
        area = cortex._respond[region]
        fields_at = np.stack([area.x, area.y], axis=1)
        shuffled = rng.permutation(fields_at)
        near, any_two = (np.linalg.norm(np.diff(at, axis=0), axis=1).mean() for at in (fields_at, shuffled))
        assert near < any_two / 2, region


def test_receptive_fields_grow_with_eccentricity_and_from_area_to_area(cortex):
    slopes = []
    for region in ("V1", "V2", "V3"):
        area = cortex._respond[region]
        slope, offset = np.polyfit(np.hypot(area.x, area.y), area.radius, 1)
        assert slope > 0 and offset > 0, region
        slopes.append((slope, offset))
    assert slopes == sorted(slopes)
    eccentricity = np.hypot(cortex._respond["V1"].x, cortex._respond["V1"].y)
    assert (eccentricity < 0.5).mean() > 0.6, "magnification: most of V1 looks at the centre, a fifth of the area"


# --- pictures for the prior ---


def test_labelled_pictures_show_every_category_equally_often():
    images, labels = labelled_pictures(120, seed=0)
    assert images.shape == (120, 32, 32, 3) and images.dtype == np.uint8
    assert set(np.bincount(labels, minlength=50)) == {2, 3}
    assert labelled_pictures(3, seed=0, image_size=64)[0].shape == (3, 64, 64, 3)


def test_labelled_pictures_repeat_with_their_seed_and_are_new_to_every_other():
    first, again, other, val = (
        labelled_pictures(60, **options)[0]
        for options in ({"seed": 0}, {"seed": 0}, {"seed": 1}, {"seed": 0, "part": "val"})
    )
    np.testing.assert_array_equal(first, again)
    known = {picture.tobytes() for picture in first}
    assert not known & {picture.tobytes() for picture in [*other, *val]}
    with pytest.raises(ValueError, match="part is 'test', expected 'train' or 'val'"):
        labelled_pictures(1, seed=0, part="test")


def test_labelled_pictures_are_new_to_every_brain(dataset):
    pictures = {picture.tobytes() for picture in labelled_pictures(200, seed=0)[0]}
    assert not pictures & {picture.tobytes() for name in ("train", "test") for picture in dataset[name].images}
