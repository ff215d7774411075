"""Scores whose right answer is known beforehand: closed forms, scikit-image, torchmetrics, chance levels."""

import itertools
import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional import pearson_corrcoef
from torchmetrics.functional.image import structural_similarity_index_measure

from visdec_lite import metrics, pixels
from visdec_lite.metrics import Score, evaluate, feature_identification, n_way_top_k, pairwise_identification
from visdec_lite.perceptual import perceptual_distance
from visdec_lite.statistics import bootstrap_interval

MEASURES = ("pcc", "mse", "ssim")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def blurred(truth: np.ndarray, samples: int = 2, seed: int = 1) -> np.ndarray:
    """Reconstructions between truth and noise."""
    mixed = 0.4 * truth[:, None] + 0.6 * noise(len(truth), samples, *truth.shape[1:3], seed=seed)
    return mixed.astype(np.uint8)


def brightness_classifier(images: np.ndarray, classes: int = 60) -> np.ndarray:
    """Scores fall with the distance between an image's mean and each class's grey level."""
    levels = np.linspace(0, 255, classes)
    return -np.abs(images.mean(axis=(1, 2, 3))[:, None] - levels)


# Pixel scores against other people's code


def test_pcc_is_numpys_and_torchmetrics():
    truth = noise(3, 8, 9)
    made = blurred(truth)
    ours = metrics.pcc(made, truth)
    for i in range(3):
        pairs = [(made[i, s].ravel().astype(float), truth[i].ravel().astype(float)) for s in range(2)]
        assert ours[i] == pytest.approx(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]), abs=1e-12)
        theirs = [pearson_corrcoef(torch.tensor(a), torch.tensor(b)).item() for a, b in pairs]
        assert ours[i] == pytest.approx(np.mean(theirs), abs=1e-6)


def test_mse_is_brute_force_on_the_unit_scale():
    truth = noise(3, 8, 9)
    made = blurred(truth)
    brute = ((made / 255.0 - truth[:, None] / 255.0) ** 2).mean(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(metrics.mse(made, truth), brute, rtol=1e-12)
    black, white = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 255, np.uint8)
    assert metrics.mse(black, white) == pytest.approx([1.0])


@pytest.mark.parametrize("size", [(7, 7), (32, 32), (12, 20)])
def test_ssim_is_scikit_images(size):
    truth = noise(3, *size)
    made = blurred(truth)
    theirs = [
        np.mean([structural_similarity(a, true, data_range=255, channel_axis=-1) for a in of_one])
        for of_one, true in zip(made, truth, strict=True)
    ]
    np.testing.assert_allclose(metrics.ssim(made, truth), theirs, atol=1e-12)


def test_ssim_of_nearly_flat_images_is_scikit_images():
    """Where the variances cancel almost completely rounding would show."""
    truth = 250 + noise(2, 16, 16) % 2
    made = 250 + noise(2, 16, 16, seed=1) % 3
    theirs = [structural_similarity(a, b, data_range=255, channel_axis=-1) for a, b in zip(made, truth, strict=True)]
    np.testing.assert_allclose(metrics.ssim(made, truth), theirs, atol=1e-12)


def test_ssim_is_near_torchmetrics_and_orders_alike():
    """torchmetrics slides an 11 x 11 Gaussian and looks past the border: the numbers agree roughly."""
    truth = noise(1, 32, 32)
    made = np.stack([(w * truth + (1 - w) * noise(1, 32, 32, seed=2)).astype(np.uint8) for w in (0.9, 0.6, 0.3)])
    ours = [metrics.ssim(m, truth)[0] for m in made]
    as_torch = [torch.tensor(m / 255.0).permute(0, 3, 1, 2) for m in (*made, truth)]
    theirs = [structural_similarity_index_measure(m, as_torch[-1], data_range=1.0).item() for m in as_torch[:-1]]
    np.testing.assert_allclose(ours, theirs, atol=0.05)
    assert ours[0] > ours[1] > ours[2]


def test_ssim_of_grey_images_is_that_of_one_channel():
    truth, made = (np.repeat(noise(2, 10, 10, seed=seed)[..., :1], 3, axis=-1) for seed in (0, 1))
    theirs = [structural_similarity(a[..., 0], b[..., 0], data_range=255) for a, b in zip(made, truth, strict=True)]
    np.testing.assert_allclose(metrics.ssim(made, truth), theirs, atol=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_score_matrix_holds_every_pair_and_blocks_do_not_change_it(measure, monkeypatch):
    truth = noise(4, 9, 8)
    made = blurred(truth, samples=3)
    matrix = metrics.score_matrix(made, truth, measure)
    assert matrix.shape == (4, 3, 4)
    one_pair = getattr(metrics, measure)
    for i, s, j in itertools.product(range(4), range(3), range(4)):
        assert matrix[i, s, j] == pytest.approx(one_pair(made[i : i + 1, s], truth[j : j + 1])[0], abs=1e-12)
    monkeypatch.setattr(pixels, "BLOCK", 1)
    np.testing.assert_array_equal(metrics.score_matrix(made, truth, measure), matrix)


def test_a_flat_image_correlates_with_nothing():
    assert metrics.pcc(np.full((2, 8, 8, 3), 90, np.uint8), noise(2, 8, 8)).tolist() == [0.0, 0.0]


def test_samples_axis_is_optional_and_averaged():
    truth = noise(3, 8, 8)
    made = blurred(truth, samples=2)
    for measure in MEASURES:
        score = getattr(metrics, measure)
        np.testing.assert_array_equal(score(made[:, 0], truth), score(made[:, :1], truth))
        np.testing.assert_allclose(
            score(made, truth), (score(made[:, 0], truth) + score(made[:, 1], truth)) / 2, atol=1e-15
        )


# Identification


@pytest.mark.parametrize("measure", MEASURES)
def test_pairwise_is_brute_force(measure):
    truth = noise(5, 8, 8)
    made = blurred(truth, samples=2, seed=3) // 8 * 8
    one_pair = getattr(metrics, measure)
    sign = -1 if measure == "mse" else 1

    def wins(i: int, s: int, j: int) -> float:
        own, other = (sign * one_pair(made[i : i + 1, s], truth[k : k + 1])[0] for k in (i, j))
        return float(own > other) + 0.5 * float(own == other)

    brute = [np.mean([wins(i, s, j) for s in range(2) for j in range(5) if j != i]) for i in range(5)]
    np.testing.assert_allclose(pairwise_identification(made, truth, measure), brute, atol=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_pairwise_perfect_is_one_and_negative_is_below_chance(measure):
    truth = noise(6, 8, 8)
    assert (pairwise_identification(truth, truth, measure) == 1).all()
    assert pairwise_identification(255 - truth, truth, measure).mean() < 0.5


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("picture", ["flat", "noise"])
def test_pairwise_of_one_picture_for_all_is_exactly_half(measure, picture):
    truth = noise(7, 10, 8)
    one = noise(1, 10, 8, seed=5) if picture == "noise" else np.full((1, 10, 8, 3), 128, np.uint8)
    assert pairwise_identification(np.repeat(one, 7, axis=0), truth, measure).mean() == pytest.approx(0.5, abs=1e-15)


@pytest.mark.parametrize("measure", MEASURES)
def test_equal_true_images_tie_exactly(measure):
    truth = np.repeat(noise(1, 20, 20), 9, axis=0)
    assert (pairwise_identification(noise(9, 3, 20, 20, seed=1), truth, measure) == 0.5).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_pairwise_shuffled_is_chance(measure):
    """A stimulus is a fair draw from 0..1, so the mean of n has a standard deviation of sqrt(1 / 12 n)."""
    n = 60
    share = pairwise_identification(noise(n, 8, 8, seed=9), noise(n, 8, 8), measure).mean()
    assert abs(share - 0.5) < 3 * math.sqrt(1 / 12 / n)


# n-way top-k


def ranked(rank: int, classes: int) -> np.ndarray:
    """One stimulus of true class 0 with `rank` classes above it, shape (1, 1, classes)."""
    scores = np.concatenate([[0.0], np.where(np.arange(classes - 1) < rank, 1.0, -1.0)])
    return scores[None, None] + 1e-3 * np.arange(classes)


@pytest.mark.parametrize(("rank", "classes"), [(0, 10), (3, 10), (9, 10), (17, 60)])
def test_two_way_is_the_share_of_classes_below(rank, classes):
    accuracy = n_way_top_k(ranked(rank, classes), np.array([0]), n_way=2)
    assert accuracy == pytest.approx([(classes - 1 - rank) / (classes - 1)])


@pytest.mark.parametrize(("n_way", "top_k"), [(2, 1), (4, 1), (4, 2), (6, 3), (3, 3), (7, 2)])
def test_n_way_is_the_count_over_all_subsets(n_way, top_k):
    """Seven classes are few enough to hold every possible contest, every order of ties included."""
    probabilities = np.array([[[0.2, 0.2, 0.1, 0.3, 0.2, 0.05, 0.4], [0.5, 0.1, 0.1, 0.1, 0.6, 0.7, 0.1]]])
    expected = []
    for scores in probabilities[0]:
        contests = []
        for others in itertools.combinations(range(1, 7), n_way - 1):
            better = sum(scores[o] > scores[0] for o in others)
            equal = sum(scores[o] == scores[0] for o in others)
            contests.append(np.mean([better + ahead < top_k for ahead in range(equal + 1)]))
        expected.append(np.mean(contests))
    accuracy = n_way_top_k(probabilities, np.array([0]), n_way, top_k)
    assert accuracy == pytest.approx([np.mean(expected)], abs=1e-12)


@pytest.mark.parametrize("top_k", [1, 5])
def test_trials_converge_to_the_expectation_and_to_literal_draws(top_k):
    probabilities, true_class = rng(3).random((4, 3, 40)).round(1), np.array([0, 7, 7, 39])
    exact = n_way_top_k(probabilities, true_class, 10, top_k)
    drawn = n_way_top_k(probabilities, true_class, 10, top_k, trials=4000, generator=rng(1))
    np.testing.assert_allclose(drawn, exact, atol=4 * math.sqrt(0.25 / 4000 / 3))
    hits, generator = np.zeros(4), rng(2)
    for i, s, _ in itertools.product(range(4), range(3), range(500)):  # as the paper tells it
        others = generator.choice(np.delete(np.arange(40), true_class[i]), 9, replace=False)
        contest = probabilities[i, s][[true_class[i], *others]] + 1e-6 * generator.random(10)
        hits[i] += 0 in np.argsort(-contest)[:top_k]
    np.testing.assert_allclose(hits / 1500, exact, atol=4 * math.sqrt(0.25 / 1500))


@pytest.mark.parametrize("trials", [None, 200])
@pytest.mark.parametrize(("n_way", "top_k"), [(50, 1), (50, 5), (2, 1), (60, 5)])
def test_constant_classifier_scores_chance(n_way, top_k, trials):
    constant, true_class = np.full((20, 5, 60), 1 / 60), np.arange(20)
    accuracy = n_way_top_k(constant, true_class, n_way, top_k, trials=trials, generator=rng())
    tolerance = 1e-12 if trials is None or n_way == 60 else 4 * math.sqrt(0.25 / (20 * 5 * 200))
    assert accuracy.mean() == pytest.approx(top_k / n_way, abs=tolerance)


def test_all_classes_leave_nothing_to_draw():
    probabilities, true_class = rng().random((30, 2, 12)), np.arange(30) % 12
    right = (probabilities.argmax(-1) == true_class[:, None]).mean(axis=1)
    np.testing.assert_array_equal(n_way_top_k(probabilities, true_class, n_way=12), right)
    np.testing.assert_array_equal(n_way_top_k(probabilities, true_class, 12, trials=3, generator=rng()), right)
    assert (n_way_top_k(probabilities, true_class, 12, top_k=12) == 1).all()


def test_shuffled_is_chance_and_more_places_or_fewer_rivals_help():
    probabilities, true_class = rng().random((400, 60)), rng(1).integers(0, 60, 400)
    top1, top5, two = (n_way_top_k(probabilities, true_class, *args) for args in ((50, 1), (50, 5), (2, 1)))
    assert (top5 >= top1).all() and (two >= top1).all()
    for accuracy, chance in ((top1, 1 / 50), (top5, 5 / 50), (two, 1 / 2)):
        assert abs(accuracy.mean() - chance) < 4 * math.sqrt(chance * (1 - chance) / 400)


def test_trials_come_from_the_generator():
    probabilities, true_class = rng().random((5, 60)), np.arange(5)
    first, again, other = (
        n_way_top_k(probabilities, true_class, 5, trials=50, generator=rng(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# All together


def test_evaluate_perfect_reconstructions():
    truth = noise(8, 8, 8) // 4 + (20 * np.arange(8, dtype=np.uint8))[:, None, None, None]
    scores = evaluate(truth, truth, classify=brightness_classifier, generator=rng())
    assert list(scores) == [
        "n_way_top1", "n_way_top5", "pairwise_pcc", "pairwise_mse", "pairwise_ssim", "pcc", "mse", "ssim"
    ]  # fmt: skip
    unseen = 1 - 0.025 ** (1 / 8)  # share of stimuli that may score otherwise: 8 of 8 do not say 100 %
    for name, score in scores.items():
        assert score.value == pytest.approx(0.0 if name == "mse" else 1.0, abs=1e-12)
        assert score.n == 8
        least = -1.0 if name in ("pcc", "ssim") else 0.0
        expected = (0.0, unseen) if name == "mse" else (1 - unseen * (1 - least), 1.0)
        assert score.ci95 == pytest.approx(expected, abs=1e-12)
    assert (scores["n_way_top1"].chance, scores["n_way_top5"].chance) == (1 / 50, 5 / 50)
    assert {scores[f"pairwise_{measure}"].chance for measure in MEASURES} == {0.5}


def test_evaluate_agrees_with_its_parts_and_measures_chance_on_mismatched_pairs():
    truth = noise(6, 8, 8)
    made = blurred(truth)
    scores = evaluate(made, truth, classify=None, generator=rng())
    for measure in MEASURES:
        assert scores[measure].value == pytest.approx(getattr(metrics, measure)(made, truth).mean())
        identified = pairwise_identification(made, truth, measure).mean()
        assert scores[f"pairwise_{measure}"].value == pytest.approx(identified)
        others = [getattr(metrics, measure)(made, np.roll(truth, shift, axis=0)).mean() for shift in range(1, 6)]
        assert scores[measure].chance == pytest.approx(np.mean(others))
    assert "n_way_top1" not in scores


def channel_means(images: np.ndarray) -> list[np.ndarray]:
    """Two layers: the mean colour of each 4 x 4 block, as a map and as a vector."""
    quarter = images.reshape(len(images), images.shape[1] // 4, 4, images.shape[2] // 4, 4, 3).mean(axis=(2, 4))
    return [quarter.transpose(0, 3, 1, 2), quarter.reshape(len(images), -1)]


def test_evaluate_with_features_adds_three_scores_and_changes_none():
    truth = noise(6, 8, 8)
    made = blurred(truth)
    plain = evaluate(made, truth, classify=brightness_classifier, generator=rng())
    scores = evaluate(made, truth, classify=brightness_classifier, generator=rng(), features=channel_means)
    assert {name: scores[name] for name in plain} == plain
    assert set(scores) - set(plain) == {"lpips", "pairwise_features", "pairwise_lpips"}
    assert scores["lpips"].values == pytest.approx(perceptual_distance(made, truth, channel_means))
    others = [perceptual_distance(made, np.roll(truth, shift, axis=0), channel_means).mean() for shift in range(1, 6)]
    assert scores["lpips"].chance == pytest.approx(np.mean(others))
    identified = feature_identification(made, truth, channel_means)
    assert scores["pairwise_features"].values == pytest.approx(identified)
    assert scores["pairwise_features"].chance == scores["pairwise_lpips"].chance == 0.5
    assert scores["pairwise_lpips"].value > 0.5 and scores["lpips"].value < scores["lpips"].chance


@pytest.mark.parametrize("name", ["pairwise_lpips", "pairwise_features"])
def test_evaluate_by_features_perfect_shuffled_and_one_for_all(name):
    n = 40
    truth = noise(n, 8, 8)

    def score(made: np.ndarray) -> float:
        return evaluate(made, truth, classify=None, generator=rng(), features=channel_means)[name].value

    assert score(truth) == 1.0
    assert abs(score(noise(n, 8, 8, seed=9)) - 0.5) < 3 * math.sqrt(1 / 12 / n)
    assert score(np.repeat(truth[:1], n, axis=0)) == pytest.approx(0.5, abs=1e-12)


def test_values_of_each_stimulus_average_to_the_score_and_stay_out_of_the_file():
    truth = noise(6, 8, 8)
    scores = evaluate(blurred(truth), truth, classify=brightness_classifier, generator=rng())
    for name, score in scores.items():
        assert len(score.values) == 6 and np.mean(score.values) == pytest.approx(score.value), name
        assert set(score.as_dict()) == {"value", "ci95", "chance"}
    assert scores["pcc"].values == pytest.approx(metrics.pcc(blurred(truth), truth))
    expected = bootstrap_interval(np.array(scores["pcc"].values), rng(int(rng().integers(2**63))))
    assert scores["pcc"].ci95 == expected  # the plain percentile interval, as ever


def test_evaluate_one_picture_for_all_scores_its_own_chance():
    truth = noise(6, 8, 8)
    scores = evaluate(np.repeat(noise(1, 8, 8, seed=2), 6, axis=0), truth, classify=None, generator=rng())
    for name, score in scores.items():
        assert score.value == pytest.approx(score.chance, abs=1e-12), name


def test_evaluate_knobs_and_reproducibility():
    truth = noise(6, 8, 8)
    made = blurred(truth)

    def run(seed: int = 0, classify=brightness_classifier, **knobs):
        return evaluate(made, truth, classify=classify, generator=rng(seed), **knobs)

    base = run()
    assert base == run() != run(seed=1)
    assert run(n_way=10)["n_way_top5"].chance == 0.5
    assert run(trials=20)["n_way_top1"] == run(trials=20)["n_way_top1"] != base["n_way_top1"]
    assert run(resamples=50)["pcc"].ci95 != base["pcc"].ci95
    assert run(classify=None)["pcc"] == base["pcc"]  # leaving a score out moves no other interval


def test_evaluate_lowers_n_way_to_the_classes_there_are():
    truth = noise(6, 8, 8)
    few = evaluate(truth, truth, classify=lambda x: brightness_classifier(x, 12), generator=rng())
    assert few["n_way_top1"].chance == 1 / 12
    five = evaluate(truth, truth, classify=lambda x: brightness_classifier(x, 5), generator=rng())
    assert five["n_way_top1"].chance == 1 / 5 and "n_way_top5" not in five


def test_evaluate_takes_a_torch_classifier_and_leaves_inputs_alone():
    truth = noise(6, 8, 8)
    made = blurred(truth)
    before = made.copy(), truth.copy()

    def with_torch(images: np.ndarray) -> torch.Tensor:
        return torch.tensor(brightness_classifier(images)).requires_grad_()

    scores = evaluate(made, truth, classify=with_torch, generator=rng())
    plain = evaluate(made, truth, classify=brightness_classifier, generator=rng())
    assert scores["n_way_top1"].value == pytest.approx(plain["n_way_top1"].value)
    np.testing.assert_array_equal(made, before[0])
    np.testing.assert_array_equal(truth, before[1])


def test_score_as_it_stands_in_metrics_json():
    assert Score(0.5, (0.25, 0.75), 0.02, 8).as_dict() == {"value": 0.5, "ci95": [0.25, 0.75], "chance": 0.02}


# Errors


@pytest.mark.parametrize(
    ("made", "truth", "error", "words"),
    [
        (noise(3, 8, 8), noise(4, 8, 8), ValueError, "3 reconstructions for 4"),
        (noise(4, 8, 8) / 255, noise(4, 8, 8), ValueError, "reconstructions are float64, expected uint8"),
        (noise(4, 8, 8), noise(4, 8, 8).astype(int), ValueError, "truth are int64"),
        (noise(4, 8, 8), noise(4, 9, 8), ValueError, r"\(8, 8\) and truth \(9, 8\)"),
        (noise(4, 8, 8)[..., 0], noise(4, 8, 8), ValueError, "expected .n, samples, height, width, 3."),
        (noise(4, 8, 8)[:, None][:, :0], noise(4, 8, 8), ValueError, "samples >= 1"),
        (noise(4, 8, 8), noise(4, 8, 8)[..., :1], ValueError, "truth has shape"),
        (noise(4, 8, 8)[:0], noise(4, 8, 8)[:0], ValueError, "nothing empty"),
    ],
)
def test_image_errors(made, truth, error, words):
    for score in (metrics.pcc, pairwise_identification):
        with pytest.raises(error, match=words):
            score(made, truth)
    with pytest.raises(error, match=words):
        evaluate(made, truth, classify=None, generator=rng())


def test_other_errors():
    truth = noise(4, 8, 8)
    with pytest.raises(ValueError, match="measure is 'lpips'"):
        pairwise_identification(truth, truth, "lpips")
    with pytest.raises(ValueError, match="at least 2"):
        pairwise_identification(truth[:1], truth[:1])
    with pytest.raises(ValueError, match="6 x 8 pixels"):
        metrics.ssim(truth[:, :6], truth[:, :6])
    with pytest.raises(ValueError, match=r"\(4, 2, 3\), expected \(n, samples, n\)"):
        metrics.identification(np.zeros((4, 2, 3)))
    with pytest.raises(ValueError, match="1 of 18 scores are NaN, expected none"):
        metrics.identification(np.where(np.arange(18) == 3, np.nan, 0.5).reshape(3, 2, 3))
    with pytest.raises(ValueError, match="probabilities are complex128, expected real numbers"):
        n_way_top_k(np.ones((4, 10)) * 1j, np.arange(4), n_way=5)
    with pytest.raises(ValueError, match="NaN"):
        evaluate(truth, truth, classify=lambda x: np.full((len(x), 3), np.nan), generator=rng())
    with pytest.raises(ValueError, match=r"expected \(images, classes\)"):
        evaluate(truth, truth, classify=lambda x: np.zeros(len(x)), generator=rng())


@pytest.mark.parametrize(
    ("probabilities", "true_class", "knobs", "words"),
    [
        (np.zeros((4, 10)), np.arange(4), {}, "50-way needs 2..10 of 10 classes"),
        (np.zeros((4, 10)), np.arange(4), {"n_way": 1}, "1-way"),
        (np.zeros((4, 10)), np.arange(4), {"n_way": 5, "top_k": 6}, "expected 1..5"),
        (np.zeros((4, 10)), np.arange(3), {"n_way": 5}, "for 4 stimuli"),
        (np.zeros((4, 10)), np.arange(4.0), {"n_way": 5}, "expected 4 integers"),
        (np.zeros((4, 10)), np.arange(4) + 7, {"n_way": 5}, "7..10, expected 0..9"),
        (np.full((4, 10), np.nan), np.arange(4), {"n_way": 5}, "40 of 40 probabilities are NaN"),
        (np.zeros(4), np.arange(4), {"n_way": 5}, "expected .n, samples, classes."),
        (np.zeros((4, 10)), np.arange(4), {"n_way": 5, "trials": 10}, "generator=None"),
        (np.zeros((4, 10)), np.arange(4), {"n_way": 5, "trials": 0, "generator": rng()}, "at least 1"),
    ],
)
def test_n_way_errors(probabilities, true_class, knobs, words):
    with pytest.raises(ValueError, match=words):
        n_way_top_k(probabilities, true_class, **knobs)
