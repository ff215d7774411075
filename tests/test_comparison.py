"""The comparison: planted methods come out as planted, what is kept is kept, and the page says all of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from typer.testing import CliRunner

from visdec_lite import cli, plotting
from visdec_lite.comparison import cells, commands, figures, fitting, methods, page, runner, scores, tables, words
from visdec_lite.comparison.cells import Cell, ComparisonSettings, plan
from visdec_lite.comparison.fitting import Fitted, Job
from visdec_lite.comparison.methods import METHODS, SETS, choose_methods, trained_for
from visdec_lite.comparison.runner import run_cells
from visdec_lite.comparison.scores import Pictures
from visdec_lite.comparison.tables import Row, Unit
from visdec_lite.datasets import simulated
from visdec_lite.files import read_json, write_json
from visdec_lite.identity import flat
from visdec_lite.presets import preset, preset_for_comparison
from visdec_lite.statistics import bootstrap_interval, ratio_interval, subject_interval

TINY = simulated.SimulationConfig(
    voxels=tuple((name, 32) for name, _ in simulated.SimulationConfig().voxels),
    num_train=64, num_val=20, num_pretrain=64, pool_subjects=0, num_test=10, num_test_seen=10, test_repeats=6,
)  # fmt: skip
COMMAND = [sys.executable, "-c", "from visdec_lite.cli import main; main()"]


# --- the registry and the plan ---


def test_every_method_builds_its_preset_and_changes_what_it_says():
    settings = ComparisonSettings()
    whole = flat(settings.preset_of(METHODS["visdec"], 0).as_dict())
    for method in METHODS.values():
        changed = flat(settings.preset_of(method, 0).as_dict())
        differing = {name: value for name, value in changed.items() if whole[name] != value}
        assert differing == {name: value for name, value in method.overrides.items() if whole[name] != value}
        assert method.group in ("ours", "comparator", "floor", "ceiling", "ablation")
        assert (method.fit is None) == (method.derived_from is not None)
    assert METHODS["dc_ldm"].overrides == {"autoencoder.weight_cross": 0.0, "autoencoder.weight_self": 0.0}


def test_the_ablation_has_the_rows_of_table_2_and_every_combination_of_terms():
    chosen = [method.name for method in choose_methods(["ablation"])]
    assert chosen[0] == "visdec" and set(chosen) == set(SETS["ablation"])
    best = METHODS["phase2_paper"].overrides
    assert best == {
        "fusion.weight_fmri": 0.25, "fusion.weight_image": 1.5,
        "fusion.fmri_mask_ratio": 0.75, "fusion.image_mask_ratio": 0.5,
    }  # fmt: skip
    combinations = {*methods.PHASE_1.values(), (True, True, True)}
    assert len(combinations) == 2**3 - 1, "all but nothing"


@pytest.mark.parametrize(("word", "near"), [("dc-ldm", "dc_ldm"), ("visdek", "visdec"), ("papers", "paper")])
def test_an_unknown_method_names_the_nearest(word, near):
    with pytest.raises(ValueError, match=f"no method is called '{word}'; did you mean '{near}'"):
        choose_methods([word])


def test_a_set_and_names_together_each_once_in_the_order_of_the_registry():
    names = [method.name for method in choose_methods(["ridge", "paper", "no_phase1", "visdec"])]
    assert names == [*SETS["paper"], "no_phase1"]
    assert [method.name for method in trained_for(choose_methods(["visdec_mean"]))] == ["visdec"]
    with pytest.raises(ValueError, match="0 methods to compare"):
        choose_methods([])


def test_the_plan_trains_what_depends_on_the_seed_for_every_seed_and_the_rest_once():
    settings = ComparisonSettings(methods=("visdec", "visdec_mean", "ridge", "mean_image"), trials=(300,))
    planned = plan(settings)
    assert len(set(planned)) == len(planned)
    count = {name: sum(cell.method == name for cell in planned) for name in ("visdec", "ridge", "mean_image")}
    assert count == {"visdec": 2 * 9, "ridge": 2 * 3, "mean_image": 3}, "fewer trials are for those that read scans"
    assert [cell.method for cell in planned[:18]] == ["visdec"] * 18, "long ones first"


def test_folds_take_the_place_of_subjects():
    planned = plan(ComparisonSettings(dataset="digits69", methods=("ridge",), seeds=(4,)))
    assert [cell.fold for cell in planned] == [(i, 10) for i in range(10)]
    assert planned[3].name == "ridge/subject1-seed4-fold3of10"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"dataset": "god"}, "no prior is shipped for 'god'"),
        ({"seeds": (0, 0)}, "expected each once"),
        ({"seeds": ()}, "seeds are"),
        ({"subjects": (0,)}, "expected a whole number from 1"),
        ({"trials": (0,)}, "trials are"),
    ],
)
def test_settings_that_cannot_be_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        ComparisonSettings(**bad)


def test_lists_come_with_commas_or_spaces():
    assert commands.whole_numbers("0,1 2", "--seeds") == (0, 1, 2) and commands.whole_numbers("", "--trials") == ()
    with pytest.raises(ValueError, match=r"--seeds '0;1': expected whole numbers parted by commas"):
        commands.whole_numbers("0;1", "--seeds")


@pytest.mark.parametrize(
    "words",
    ["--seeds 0 2 --subjects 1,3 --methods ridge mean_image", "--seeds=0,2 --subjects 1 3 --methods ridge,mean_image"],
)
def test_lists_reach_the_settings_as_one_word_or_several(words, monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(commands, "run_comparison", lambda settings, out, **rest: given.append((settings, out)))
    done = CliRunner().invoke(cli.app, ["compare", *words.split(), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    ((settings, out),) = given
    assert (settings.seeds, settings.subjects, settings.methods) == ((0, 2), (1, 3), ("ridge", "mean_image"))
    assert out == tmp_path


def test_class_has_larger_patches_in_a_comparison_and_smoke_has_not():
    quick, whole = preset_for_comparison("simulated", "class"), preset("class")
    assert quick.autoencoder.num_patches < whole.autoencoder.num_patches
    assert quick.finetuning == whole.finetuning
    assert preset_for_comparison("simulated", "class", **{"fusing.steps": 7}).fusing.steps == 7
    assert preset_for_comparison("simulated", "smoke") == preset("smoke")


# --- scores of planted pictures ---


class Referee:
    """Knows the true pictures, a category each."""

    def __init__(self, truth: np.ndarray) -> None:
        self.truth = truth.reshape(len(truth), -1).astype(float)

    def classify(self, images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1).astype(float)
        return -((flat[:, None] - self.truth) ** 2).mean(axis=-1)

    def feature_layers(self, images: np.ndarray) -> list[np.ndarray]:
        return [images.reshape(len(images), 4, 2, 4, 2, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2).astype(float)]


@pytest.fixture
def truth(rng) -> np.ndarray:
    return rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)


def planted(images: np.ndarray, truth: np.ndarray) -> dict[str, Pictures]:
    return {"test": Pictures(images, truth, np.arange(len(truth)))}


def mean_scores(images: np.ndarray, truth: np.ndarray, condition: str = "test") -> dict[str, float]:
    found = scores.score_pictures("ridge", planted(images, truth), Referee(truth), 0)["scores"]["ridge"][condition]
    return {metric: np.mean(score.get("values", score.get("value"))) for metric, score in found.items()}


def test_ceiling_above_method_above_floor(truth, rng):
    noisy = np.clip(truth[:, None] / 4 + rng.normal(100, 90, (40, 2, 8, 8, 3)), 0, 255).astype(np.uint8)
    blind = np.broadcast_to(np.rint(truth.mean(axis=0)).astype(np.uint8), truth.shape)[:, None]
    best, middle, floor = (mean_scores(images, truth) for images in (truth[:, None], noisy, blind))
    for metric in ("n_way_top1", "n_way_top5", "pairwise_pcc", "pairwise_features", "pcc", "ssim"):
        assert best[metric] > middle[metric] > floor[metric], metric
    for metric in ("mse", "lpips"):
        assert best[metric] < middle[metric], metric
    assert best["n_way_top1"] == 1 and best["pairwise_pcc"] == 1 and best["mse"] == 0
    assert floor["n_way_top1"] == pytest.approx(1 / 40), "one of them is nearest to the mean, for all scans"
    assert floor["pairwise_pcc"] == pytest.approx(0.5)
    assert best["kid"] < middle["kid"]


@pytest.mark.parametrize("kind", ["perfect", "noise", "blind"])
def test_shuffled_is_at_chance_under_every_score(truth, rng, kind):
    images = {
        "perfect": truth[:, None],
        "noise": rng.integers(0, 256, (40, 2, 8, 8, 3), dtype=np.uint8),
        "blind": np.broadcast_to(truth.mean(axis=0).astype(np.uint8), truth.shape)[:, None],
    }[kind]
    units = []
    for seed in range(8):  # eight ways to shuffle: of one, an interval in twenty would miss chance
        found = scores.score_pictures("ridge", planted(images, truth), Referee(truth), seed)["scores"]["ridge"]
        units.append(Unit("ridge", 1, seed, {"shuffled": found["shuffled"]}, {}))
    rows = tables.aggregate(units)
    assert len(rows) > 8
    for row in rows:
        assert row.value == pytest.approx(row.chance, abs=0.05), row


def test_nobody_keeps_the_own_picture_when_shuffled(truth):
    kept = scores.shuffled(Pictures(truth[:, None], truth, np.arange(40)), seed=3)
    assert np.array_equal(kept.truth, truth)
    assert not (kept.images[:, 0] == truth).all(axis=(1, 2, 3)).any()
    assert sorted(map(bytes, kept.images)) == sorted(map(bytes, truth)), "one round: every picture once"


def test_the_mean_of_samples_is_scored_as_a_method_of_its_own(truth):
    images = np.stack([truth, 255 - truth], axis=1)
    found = scores.score_pictures("visdec", planted(images, truth), Referee(truth), 0)["scores"]
    assert set(found) == {"visdec", "visdec_mean"}
    flat = np.full_like(truth, 128)[:, None]  # 127.5, rounded to even
    expected = mean_scores(flat, truth)["mse"]
    assert np.mean(found["visdec_mean"]["test"]["mse"]["values"]) == pytest.approx(expected)


def test_folds_are_pooled_before_they_are_scored(truth):
    order = np.random.default_rng(1).permutation(40)
    parts = [{"test": Pictures(truth[part][:, None], truth[part], part)} for part in np.split(order, 4)]
    together = scores.pooled(parts)["test"]
    assert np.array_equal(together.stimulus, np.arange(40)) and np.array_equal(together.truth, truth)
    with pytest.raises(ValueError, match="80 pictures of 40 stimuli"):
        scores.pooled([*parts, *parts])


def test_few_repeats_are_the_first_ones_of_every_stimulus(rng):
    dataset = simulated.load(replace(TINY, num_train=8, num_val=4, num_pretrain=4))
    few = cells.first_repeats(dataset["test"], 2)
    assert np.array_equal(np.bincount(few.stimulus), np.full(10, 2))
    assert few.trial.max() < 20, "every picture once before any a second time"
    conditions = cells.conditions(dataset, seed=0)
    assert list(conditions) == ["test", "single_trial", "test_seen", "repeats_5", "noise_1", "noise_2"]
    spread = [np.std(conditions[f"noise_{level}"].voxels - conditions["test"].voxels) for level in (1, 2)]
    assert spread == pytest.approx([1, 2], rel=0.05)


# --- aggregation ---


def unit(
    method: str, values: list[float], subject: int = 1, seed: int = 0, truth: str = "same", kinds: object = None
) -> Unit:
    score = {"chance": 0.02, "values": values}
    categories = {} if kinds is None else {"test": kinds}
    return Unit(method, subject, seed, {"test": {"n_way_top1": score}}, {"test": truth}, categories)


def test_subjects_stand_in_order_whichever_cell_is_missing():
    units = [unit("visdec", [0.2] * 2, 2, 0), unit("visdec", [0.3] * 2, 3, 0), unit("visdec", [0.1] * 2, 1, 1)]
    (row,) = tables.aggregate(units)
    assert row.by_subject == pytest.approx((0.1, 0.2, 0.3))


def test_the_interval_of_a_distance_widens_with_what_subjects_differ():
    def kid(value: float, subject: int) -> Unit:
        score = {"chance": None, "value": value, "error": 0.01, "n": 50}
        return Unit("visdec", subject, 0, {"test": {"kid": score}}, {"test": "same"})

    (alone,) = tables.aggregate([kid(0.5, 1)])
    reach = stats.t.ppf(0.975, 49) * 0.01
    assert (alone.low, alone.high) == pytest.approx((0.5 - reach, 0.5 + reach))
    (several,) = tables.aggregate([kid(0.1, 1), kid(0.9, 2), kid(0.5, 3)])
    reach = stats.t.ppf(0.975, 2) * np.sqrt((0.01**2 + 0.4**2) / 3)  # 0.4: standard deviation of the three
    assert (several.low, several.high) == pytest.approx((0.5 - reach, 0.5 + reach), rel=0.01)
    assert several.over == "3 subjects, 50 stimuli"


def test_seeds_are_averaged_first_then_stimuli_then_subjects():
    units = [
        unit("visdec", [0.0, 1.0, 1.0], 1, 0), unit("visdec", [1.0, 1.0, 1.0], 1, 1),
        unit("visdec", [0.0, 0.0, 0.0], 2, 0), unit("visdec", [0.0, 0.0, 1.0], 2, 1),
    ]  # fmt: skip
    (row,) = tables.aggregate(units)
    assert row.by_subject == pytest.approx((5 / 6, 1 / 6)) and row.value == pytest.approx(0.5)
    assert (row.n, row.subjects, row.seeds, row.chance) == (3, 2, 2, 0.02)
    spread = np.std([2 / 3, 1], ddof=1)  # and as much between 0 and 1/3
    assert row.seed_sd == pytest.approx(spread)
    assert row.low <= 1 / 3 and row.high >= 2 / 3, "two brains that differ so much leave a wide interval"
    assert row.over == "2 subjects, 3 stimuli"


def test_one_subject_gets_the_interval_over_stimuli():
    (row,) = tables.aggregate([unit("visdec", [1.0] * 50)])
    assert row.value == 1 and row.low == pytest.approx(0.025 ** (1 / 50)) and row.high == 1, "Clopper and Pearson"
    assert row.seed_sd is None and row.subjects == 1 and row.over == "50 stimuli"


KINDS = [kind for kind in range(10) for _ in range(5)]


def test_new_categories_are_what_an_interval_is_over(rng):
    values = np.clip(0.7 + 0.3 * rng.normal(size=10)[KINDS] + 0.1 * rng.normal(size=50), 0, 1)
    (alone,) = tables.aggregate([unit("visdec", values.tolist(), kinds=KINDS)])
    means = values.reshape(10, 5).mean(axis=1)
    found = bootstrap_interval(means, np.random.default_rng(0), resamples=tables.RESAMPLES)
    assert (alone.low, alone.high) == pytest.approx(found) and alone.over == "10 categories"
    assert alone.as_score()["over"] == "10 categories"

    brains = [np.clip(values + rng.normal(0, 0.1, 50), 0, 1) for _ in range(3)]
    truths = ("one", "other", "third")  # every subject sees pictures of its own of the same categories
    units = [unit("visdec", v.tolist(), s + 1, 0, truths[s], KINDS) for s, v in enumerate(brains)]
    (row,) = tables.aggregate(units)
    expected = subject_interval(np.stack(brains), clusters=np.tile(KINDS, (3, 1)), bounds=(0.0, 1.0))
    assert (row.low, row.high) == expected and row.over == "3 subjects, 10 categories"
    (seen,) = tables.aggregate([unit("visdec", v.tolist(), s + 1, 0, truths[s]) for s, v in enumerate(brains)])
    assert seen.over == "3 subjects, 150 stimuli" and seen.high - seen.low < row.high - row.low


def test_paired_tests_and_gains_flip_and_draw_categories_that_subjects_share(rng):
    ours = [np.full(50, 0.8) for _ in range(3)]
    theirs = [np.clip(0.7 + 0.05 * rng.normal(size=10)[KINDS], 0, 0.79) for _ in range(3)]
    units = [
        unit(name, values.tolist(), s + 1, 0, f"of {s}", KINDS)
        for name, brains in (("visdec", ours), ("dc_ldm", theirs))
        for s, values in enumerate(brains)
    ]
    (test,) = tables.versus(units, ["n_way_top1"])
    assert test.p_value == test.least_p == 2 / 1024, "ours leads in every category, and no p can be smaller"
    assert test.over == "10 categories"
    (gain,) = tables.relative_gains(units)
    ratio = ratio_interval(
        np.concatenate(ours), np.concatenate(theirs), np.random.default_rng(0), clusters=np.tile(KINDS, 3)
    )
    assert (gain.low + 1, gain.high + 1) == pytest.approx(ratio) and gain.units == "10 categories"


def test_floors_ceilings_and_our_own_mean_are_not_tested():
    names = ("visdec", "visdec_mean", "dc_ldm", "mean_image", "label_told", "no_phase1")
    tests = tables.versus([unit(name, [0.5, 1.0]) for name in names], ["n_way_top1"])
    assert [test.method for test in tests] == ["dc_ldm", "no_phase1"]


def test_a_distance_between_sets_has_the_interval_of_its_jackknife_and_no_chance():
    kid = {"chance": None, "value": 0.5, "error": 0.1, "n": 40}
    (row,) = tables.aggregate([Unit("ridge", 1, 0, {"test": {"kid": kid}}, {})])
    assert (row.value, row.chance, row.n) == (0.5, None, 40)
    reach = stats.t.ppf(0.975, 39) * 0.1
    assert (row.low, row.high) == pytest.approx((0.5 - reach, 0.5 + reach))


def test_a_planted_difference_is_significant_and_an_equal_method_is_not(rng):
    hits = (rng.random(50) < 0.6).astype(float).tolist()
    misses = (rng.random(50) < 0.02).astype(float).tolist()
    units = [unit("visdec", hits), unit("dc_ldm", misses), unit("ridge", hits)]
    chance, equal = tables.versus(units, ["n_way_top1"])
    assert chance.p_value < 0.001 and chance.p_holm == pytest.approx(2 * chance.p_value)
    assert chance.low > 0.3 and chance.over == "50 stimuli"
    assert equal.difference == 0 and equal.p_holm == 1


@pytest.mark.parametrize(("truths", "over"), [(("same", "same"), "3 stimuli"), (("one", "other"), "6 stimuli")])
def test_stimuli_that_subjects_share_are_flipped_together_and_others_alone(truths, over):
    units = [unit(m, [0.0, 0.5, 1.0], s, 0, truths[s - 1]) for m in ("visdec", "ridge") for s in (1, 2)]
    (test,) = tables.versus(units, ["n_way_top1"])
    assert test.over == over


def test_tests_keep_to_the_subjects_that_both_have():
    units = [unit("visdec", [1.0, 0.0]), unit("visdec", [0.0, 0.0], 2), unit("ridge", [0.0, 0.0])]
    (test,) = tables.versus(units, ["n_way_top1"])
    assert test.difference == 0.5 and test.over == "2 stimuli"
    assert tables.versus([unit("ridge", [1.0, 0.0])]) == [], "nothing to compare with"
    with pytest.raises(ValueError, match="other test pictures"):
        tables.versus([*units, unit("ridge", [0.0, 0.0], 1, 1, "others")], ["n_way_top1"])


def test_relative_gains():
    units = [unit("visdec", [0.5, 0.5]), unit("dc_ldm", [0.4, 0.4]), unit("ic_gan", [0.0, 0.0])]
    over_ldm, over_gan = tables.relative_gains(units)
    assert over_ldm.gain == pytest.approx(0.25) and (over_ldm.low, over_ldm.high) == pytest.approx((0.25, 0.25))
    assert over_ldm.paper == 0.39 and over_gan.paper == 0.67
    assert over_gan.gain is None and over_gan.ours == 0.5
    (rare,) = tables.relative_gains([unit("visdec", [0.5] * 4), unit("dc_ldm", [0.0, 0.0, 0.0, 1.0])])
    assert rare.gain == pytest.approx(1.0) and rare.high is None, "resampled, theirs is often 0"


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ([1.0] * 50, [0.0] * 50, ("visdec leads with 100.0", "IC-GAN has 0.0", "a difference (corrected p")),
        ([0.0] * 50, [1.0] * 50, ("IC-GAN leads with 100.0", "visdec has 0.0", "a difference (corrected p")),
        ([1.0, 0.0] * 25, [0.0, 1.0] * 24 + [0.0, 0.0], ("visdec leads", "too little to tell them apart", "= 1.000")),
    ],
)
def test_the_page_says_first_who_leads_and_whether_it_may_be_chance(ours, theirs, said):
    units = [unit("visdec", ours), unit("ic_gan", theirs), unit("label_told", [1.0] * 50)]
    tests = [asdict(test) for test in tables.versus(units, ["n_way_top1"])]
    (sentence,) = words.answers({"n_way": 50, "tests": tests}, tables.aggregate(units))
    assert all(part in sentence for part in (*said, "chance is 2.0 %")), sentence
    mean = unit("visdec_mean", [1.0] * 50)  # of ours, so no rival of it
    assert words.answers({"n_way": 50, "tests": tests}, tables.aggregate([*units, mean])) == [sentence]
    assert words.answers({"n_way": 50, "tests": []}, tables.aggregate([units[0], mean])) == [], "nobody to compare with"


def test_the_csv_comes_back_as_it_was(tmp_path):
    rows = [
        Row("visdec", "test", "n_way_top1", 1 / 3, 0.1, 0.5, 0.02, 50, 2, 3, 0.05, (0.3, 1 / 3), "10 categories"),
        Row("ridge", "test", "kid", -0.1, -0.2, 0.0, None, 50, 1, 1, None, (-0.1,), "50 stimuli"),
    ]
    tables.write_csv(tmp_path / "results.csv", rows)
    assert tables.read_csv(tmp_path / "results.csv") == rows


def test_stimuli_are_chosen_by_rank_and_each_once():
    values = np.array([0.5, 0.9, 0.1, 0.7, 0.3, 0.8, 0.2])
    chosen = dict(figures.rank_chosen(values, each=1))
    assert chosen == {1: "best, 1 of 7", 0: "middle, 4 of 7", 2: "worst, 7 of 7"}
    assert len(figures.rank_chosen(np.zeros(2))) == 2, "of two stimuli there are not nine"


# --- a whole comparison of planted methods ---


@pytest.fixture
def small(monkeypatch, tmp_path_factory):
    """Planted methods on a small brain; returns the list of cells that were fitted."""
    cache = tmp_path_factory.getbasetemp() / "simulated"
    monkeypatch.setattr(
        cells, "load_dataset", lambda name, subject: simulated.load(replace(TINY, subject=subject), cache=cache)
    )
    monkeypatch.setattr(plotting, "DPI", 30)  # coarse pictures are drawn sooner
    fitted: list[str] = []

    def plant(kind: str, job: Job) -> Fitted:
        fitted.append(f"{job.folder.parent.name}/{job.folder.name}")

        def paint(split, num_samples, generator):
            size = (len(split.images), num_samples, 32, 32, 3)
            if kind == "truth":
                return split.images
            return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8).numpy()

        return Fitted(paint, 12345, (f"planted {kind}: nothing tried",), {"fit": 1.5})

    kinds = {"visdec": "truth", "ridge": "truth", "dc_ldm": "noise", "prior_samples": "noise", "no_phase1": "noise"}
    for name, kind in kinds.items():
        monkeypatch.setitem(METHODS, name, replace(METHODS[name], fit=partial(plant, kind)))
    return fitted


def settings_with(**changes: object) -> ComparisonSettings:
    base = {"methods": ("visdec", "dc_ldm", "ridge"), "subjects": (1,), "seeds": (0,), "preset": "smoke"}
    return ComparisonSettings(**{**base, **changes})


def test_a_planted_comparison_comes_out_as_planted(small, tmp_path):
    settings = settings_with(methods=("visdec", "visdec_mean", "dc_ldm", "ridge", "prior_samples", "no_phase1"))
    heard: list[str] = []
    assert commands.run_comparison(settings, tmp_path, workers=0, say=heard.append) is False
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == {
        "cells", "results.csv", "results.json", "leaderboard.png", "gallery.png", "curves.png", "report.html",
    }  # fmt: skip
    found = {(row.method, row.condition, row.metric): row for row in tables.read_csv(tmp_path / "results.csv")}
    assert found["visdec", "test", "pairwise_pcc"].value == 1
    assert found["visdec", "test", "n_way_top1"].value > found["dc_ldm", "test", "n_way_top1"].high
    assert found["visdec", "shuffled", "n_way_top1"].value == 0, "ten pictures of ten categories"
    for metric in ("pairwise_pcc", "pairwise_ssim"):
        for method in ("visdec", "dc_ldm"):
            row = found[method, "shuffled", metric]
            assert row.low < 0.5 < row.high
    assert ("prior_samples", "noise_1", "pcc") not in found, "its pictures do not depend on scans"

    results = json.loads((tmp_path / "results.json").read_text())
    tests = {(test["method"], test["metric"]): test["p_holm"] for test in results["tests"]}
    assert tests["ridge", "pairwise_pcc"] == 1 and tests["dc_ldm", "pairwise_pcc"] < 0.05
    assert results["missing"] == {} and results["n_test"] == 10 and results["repeats_averaged"] == 6

    text = (tmp_path / "report.html").read_text()
    for name in results["methods"]:
        assert METHODS[name].title in text
    said = ("simulated data", "visdec leads with", "chance 50.0 %", "planted truth: nothing tried", "12,345", "+39 %")
    assert [sentence for sentence in said if sentence not in text] == []
    assert "Leaderboard: new pictures, repeats averaged" in text
    unaveraged = words.tables({**results, "repeats_averaged": 1}, list(found.values()))
    assert next(iter(unaveraged)).startswith("Leaderboard: new pictures, single trials")
    assert "With and without phases 1 and 2" in text and "Table 2 (" not in text, "no row, no table"
    assert "SIMULATED" in heard[-2]
    assert found["visdec", "test", "pairwise_pcc"].over == "10 categories"
    assert found["visdec", "test_seen", "pairwise_pcc"].over == "10 stimuli", "of categories that were learnt"
    assert "the smallest p of one test is 0.002, of all corrected ones 0.012" in text, "2 / 1024, and 6 tests"
    assert "interval over 10 categories" in heard[-2]


def test_categories_are_those_of_the_kept_pictures_or_an_error(small, tmp_path, monkeypatch):
    settings = settings_with(methods=("visdec",))
    run_cells(settings, tmp_path, workers=0)
    (unit,) = page.collect(settings, tmp_path).units
    assert set(unit.categories) == set(unit.truth) - {"test_seen"} and len(unit.categories["test"]) == 10
    dataset = settings.load(Cell("visdec", 1, 0))
    assert unit.categories["test"] == dataset["test"].average_repeats().labels.tolist()
    other = {**dataset.splits, "test": replace(dataset["test"], images=255 - dataset["test"].images)}
    monkeypatch.setattr(cells, "load_dataset", lambda name, subject: replace(dataset, splits=other))
    with pytest.raises(ValueError, match=r"test, single_trial.* are none of the data set's test pictures"):
        page.collect(settings, tmp_path)


def test_what_is_kept_is_not_done_again_and_more_may_be_asked_for(small, tmp_path):
    run_cells(settings_with(methods=("visdec",)), tmp_path, workers=0)
    kept = tmp_path / "cells" / "visdec" / "subject1-seed0" / "cell.json"
    before = kept.stat().st_mtime_ns
    heard: list[str] = []
    assert run_cells(settings_with(seeds=(0, 1)), tmp_path, workers=0, say=heard.append) == {}
    assert kept.stat().st_mtime_ns == before and small.count("visdec/subject1-seed0") == 1
    assert "1 of 5 are kept" in heard[0] and "ridge" in heard[-1] and "4/4" in heard[-1]
    assert run_cells(settings_with(seeds=(0, 1)), tmp_path, workers=0) == {} and len(small) == 5


def test_what_is_left_is_told_by_the_times_of_each_method(tmp_path):
    waiting = plan(settings_with(seeds=(0, 1, 2)))  # three cells of visdec and of dc_ldm, one of ridge
    heard: list[str] = []
    view = runner._View(tmp_path, waiting, len(waiting), 2, heard.append)
    first = {name: next(cell for cell in waiting if cell.method == name) for name in ("visdec", "dc_ldm", "ridge")}
    for name, seconds, expected in (
        ("visdec", 400.0, "about 20 min left"),  # all six others as visdec: 2400 s of two workers
        ("dc_ldm", 200.0, "about 12 min left"),  # 2 x 400 + 2 x 200, and ridge as the faster of the two
        ("ridge", 4.0, "about 10 min left"),
    ):
        view.ended(first[name], seconds, None)
        assert heard[-1].endswith(f"{seconds:.1f} s  ({expected})")


def test_other_settings_are_refused_in_words(small, tmp_path):
    run_cells(settings_with(), tmp_path, workers=0)
    with pytest.raises(ValueError, match=r"finetuning\.steps was 20, now 7.*choose another --out"):
        run_cells(settings_with(overrides={"finetuning.steps": 7}), tmp_path, workers=0)
    assert len(small) == 3


def test_a_cell_that_fails_does_not_stop_the_others(small, tmp_path, monkeypatch):
    def broken(job: Job) -> Fitted:
        raise FloatingPointError("loss is nan")

    whole = METHODS["visdec"]
    monkeypatch.setitem(METHODS, "visdec", replace(whole, fit=broken))
    heard: list[str] = []
    assert commands.run_comparison(settings_with(), tmp_path, workers=0, say=heard.append) is True
    assert small == ["dc_ldm/subject1-seed0", "ridge/subject1-seed0"]
    assert any("FAILED" in line and "visdec, subject 1, seed 0" in line and "loss is nan" in line for line in heard)
    assert "loss is nan" in (tmp_path / "report.html").read_text()
    monkeypatch.setitem(METHODS, "visdec", whole)
    assert run_cells(settings_with(), tmp_path, workers=0) == {}
    assert small[2:] == ["visdec/subject1-seed0"]


def test_nothing_finished_is_an_error_with_a_reason(small, tmp_path):
    with pytest.raises(ValueError, match=r"0 of 3 cells are finished.*99 training trials asked, simulated has 64"):
        errors = {cell: "99 training trials asked, simulated has 64" for cell in plan(settings_with())}
        page.write_results(settings_with(), tmp_path, errors)


def test_an_interrupted_comparison_goes_on(small, tmp_path, monkeypatch):
    def cut(job: Job) -> Fitted:
        raise KeyboardInterrupt

    whole = METHODS["dc_ldm"]
    monkeypatch.setitem(METHODS, "dc_ldm", replace(whole, fit=cut))
    with pytest.raises(KeyboardInterrupt, match=r"1 of 3 cells are done.*the same command goes on"):
        run_cells(settings_with(), tmp_path, workers=0)
    monkeypatch.setitem(METHODS, "dc_ldm", whole)
    assert run_cells(settings_with(), tmp_path, workers=0) == {}
    assert small == ["visdec/subject1-seed0", "dc_ldm/subject1-seed0", "ridge/subject1-seed0"]


def test_fewer_training_trials_are_drawn_and_part_of_more_and_make_a_curve(small, tmp_path):
    settings = settings_with(methods=("visdec",), trials=(16, 99))
    few, more, every = (settings.load(Cell("visdec", 1, 0, trials=t))["train"] for t in (16, 32, None))
    assert (len(few), len(more), len(every)) == (16, 32, 64)
    np.testing.assert_array_equal(few.voxels, more.voxels[:16])
    assert not np.array_equal(few.voxels, every.voxels[:16]), "a file may be sorted by category"
    known = {row.tobytes() for row in every.voxels}
    assert len({row.tobytes() for row in more.voxels} & known) == 32
    errors = run_cells(settings, tmp_path, workers=0)
    (failed,) = errors.values()
    assert "99 training trials asked, simulated has 64" in failed
    results = page.write_results(settings, tmp_path, errors)
    conditions = {row["condition"] for row in results["rows"]}
    assert "trials_16" in conditions and list(results["missing"].values()) == [failed]
    rows = tables.read_csv(tmp_path / "results.csv")
    curves = figures.curves_of(rows, repeats=6, training_trials=64)
    assert dict(curves[0].points) == {"16": "trials_16", "64": "test"}
    assert [curve.title for curve in curves][1:] == ["repeats averaged", "noise added to averaged scans"]
    assert figures.curves_of(rows, repeats=1, training_trials=64)[-1].title == "noise added to the scans"


def test_without_the_whole_cell_of_a_method_the_page_still_tells_its_trials(small, tmp_path):
    settings = settings_with(methods=("visdec", "ridge"), trials=(16,))
    run_cells(settings, tmp_path, workers=0)
    (tmp_path / "cells/visdec/subject1-seed0/cell.json").unlink()
    results = page.write_results(settings, tmp_path, {})
    assert [row["condition"] for row in results["rows"] if row["method"] == "visdec"].count("trials_16") > 0
    assert (tmp_path / "report.html").exists() and len(results["missing"]) == 1


def test_noise_differs_between_seeds_brains_and_folds_and_not_between_methods():
    cells_ = [
        Cell("visdec", subject, seed, fold)
        for subject in (1, 2)
        for seed in (0, 1)
        for fold in (None, (0, 10), (1, 10))
    ]
    assert len({cells.noise_seed(cell) for cell in cells_}) == len(cells_)
    assert cells.noise_seed(Cell("ridge", 2, 1)) == cells.noise_seed(Cell("visdec", 2, 1, trials=9))


def test_pictures_shown_side_by_side_are_of_one_brain():
    finished = [
        ("visdec", 2, 0),
        ("ic_gan", 1, 0),
        ("ic_gan", 2, 0),
        ("ic_gan", 2, 1),
        ("ridge", 1, 0),
        ("ridge", 2, 0),
    ]
    assert page._of_one_brain(finished) == [("visdec", 2, 0), ("ic_gan", 2, 0), ("ridge", 2, 0)]
    later = [("visdec", 1, 1), ("ic_gan", 1, 0), ("ic_gan", 1, 1), ("ridge", 1, 0)]
    assert page._of_one_brain(later) == [("visdec", 1, 1), ("ic_gan", 1, 1), ("ridge", 1, 0)], "ridge has one seed"
    assert page._of_one_brain(later[1:]) == [("ic_gan", 1, 0), ("ridge", 1, 0)]


def test_cells_of_other_data_are_not_compared(small, tmp_path):
    settings = settings_with()
    run_cells(settings, tmp_path, workers=0)
    path = tmp_path / "cells/ridge/subject1-seed0/cell.json"
    write_json(path, read_json(path) | {"fingerprint": "f" * 64})
    with pytest.raises(
        ValueError, match="ridge, subject 1, fold None learnt from data ffffffffffff, other methods from"
    ):
        page.write_results(settings, tmp_path, {})


@pytest.mark.parametrize("kept", [0, 50, -3])
def test_damaged_pictures_of_a_cell_are_named(tmp_path, kept):
    pictures = Pictures(np.zeros((2, 1, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8), np.arange(2))
    cells.keep_pictures(tmp_path / "pictures.npz", {"test": pictures})
    whole = (tmp_path / "pictures.npz").read_bytes()
    (tmp_path / "pictures.npz").write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"pictures\.npz cannot be read as kept pictures .*; delete .* and run"):
        cells.kept_pictures(tmp_path / "pictures.npz")


def test_methods_that_start_from_the_same_phase_1_train_it_once(small, tmp_path):
    settings = settings_with(overrides={"pretraining.steps": 2})
    jobs = {}
    for name in ("visdec", "no_phase2", "phase2_equal", "dc_ldm"):
        chosen = settings.preset_of(METHODS[name], 0)
        dataset = settings.load(Cell(name, 1, 0))
        jobs[name] = Job("simulated", dataset, chosen, 0, tmp_path / name, tmp_path / "phase1", {"progress": False})
        fitting.share_phase_1(jobs[name], jobs[name].world())
    checkpoints = (tmp_path / "phase1").glob("*/stages/*/checkpoint.safetensors")
    trained = {path: path.stat().st_mtime_ns for path in checkpoints}
    assert len(trained) == 2, "the terms of DC-LDM's phase 1 are others"
    kept = {name: (tmp_path / name / "stages" / "pretrain" / "checkpoint.safetensors").read_bytes() for name in jobs}
    assert kept["visdec"] == kept["no_phase2"] == kept["phase2_equal"] != kept["dc_ldm"]


# --- processes ---


def visdec_lite(*words: str, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=timeout)


def test_a_bad_word_is_one_sentence_and_exit_status_1(tmp_path):
    result = visdec_lite("compare", "--methods", "visdek", "--out", str(tmp_path / "out"))
    assert result.returncode == 1 and "did you mean 'visdec'" in result.stderr and "Traceback" not in result.stderr


def test_cells_run_in_processes_and_a_failure_is_exit_status_1(tmp_path):
    in_the_way = tmp_path / "cells" / "nearest_neighbour" / "subject1-seed0-trials300"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file")
    words = "compare --preset smoke --subjects 1 --seeds 0 --methods mean_image,nearest_neighbour --trials 300"
    result = visdec_lite(*words.split(), "--workers", "2", "--out", str(tmp_path))
    assert result.returncode == 1, result.stderr
    failed = "FAILED  nearest neighbour, subject 1, seed 0, 300 trials: CannotWrite: "
    assert failed in result.stdout and f"{in_the_way} is a file, and a folder is needed there" in result.stdout
    in_the_way.unlink()
    found = {(row.method, row.condition, row.metric): row for row in tables.read_csv(tmp_path / "results.csv")}
    assert found["nearest_neighbour", "test", "pairwise_pcc"].low > 0.8, "it looks up pictures alike"
    assert found["mean_image", "test", "pairwise_pcc"].value == pytest.approx(0.5)


def test_a_process_that_dies_costs_its_cell_only(small, tmp_path, monkeypatch):
    monkeypatch.setattr(runner.subprocess, "Popen", partial(_dying, subprocess.Popen))
    settings = settings_with(methods=("dc_ldm", "ridge"))
    errors = run_cells(settings, tmp_path, workers=1)
    assert len(errors) == 2 and all("exit status 3" in error for error in errors.values())


def test_a_process_that_cannot_start_costs_its_cell_and_is_told(small, tmp_path, monkeypatch):
    def refused(*words, **options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(runner.subprocess, "Popen", refused)
    errors = run_cells(settings_with(methods=("dc_ldm", "ridge")), tmp_path, workers=1)
    assert len(errors) == 2 and all("OSError" in error and "allocate" in error for error in errors.values())


def _dying(popen, words, **options):
    return popen([sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(3)"], **options)


@pytest.mark.slow
def test_a_real_comparison_is_interrupted_and_goes_on(tmp_path):
    words = ["compare", "--preset", "smoke", "--subjects", "1", "--seeds", "0", "--methods", "visdec,dc_ldm,label_told"]
    words += ["--out", str(tmp_path), "--workers", "2"]
    changes = ["--set", "finetuning.steps=300", "--set", "sampling.num_inference_steps=2"]
    process = subprocess.Popen([*COMMAND, *words, *changes], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    history = tmp_path / "cells" / "visdec" / "subject1-seed0" / "stages" / "finetune" / "history.csv"
    deadline = time.monotonic() + 200
    while not (history.exists() and history.stat().st_size > 200):
        assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "the same command goes on" in errors
    assert history.with_name("checkpoint.safetensors").exists() and not (history.parents[2] / "cell.json").exists()

    result = visdec_lite(*words, *changes, timeout=500)
    assert result.returncode == 0, result.stderr
    found = {(row.method, row.condition, row.metric): row for row in tables.read_csv(tmp_path / "results.csv")}
    told = found["label_told", "test", "n_way_top1"]
    assert told.low > 0.3 > found["dc_ldm", "test", "n_way_top1"].value
    again = visdec_lite(*words, *changes)
    assert "3 of 3 are kept" in again.stdout
    refused = visdec_lite(*words)
    assert refused.returncode == 1 and "finetuning.steps was 300, now 20" in refused.stderr


@pytest.mark.slow
def test_digits69_is_cross_validated(shared_data, tmp_path):
    path = shared_data / "digits69" / "digits69_dev.mat"
    settings = ComparisonSettings("digits69", str(path), ("ridge", "mean_image"), seeds=(0,), folds=3)
    assert run_cells(settings, tmp_path, workers=0) == {}
    results = page.write_results(settings, tmp_path, {})
    rows = {(row["method"], row["condition"], row["metric"]): row for row in results["rows"]}
    assert results["simulated"] is False and "simulated data" not in (tmp_path / "report.html").read_text().lower()
    assert rows["ridge", "test", "n_way_top1"]["chance"] == 0.5
    assert rows["ridge", "test", "n_way_top1"]["low"] > 0.5 and rows["ridge", "test", "n_way_top1"]["n"] > 80
    assert os.listdir(tmp_path / "cells" / "ridge")
