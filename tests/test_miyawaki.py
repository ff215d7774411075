"""Miyawaki 2008, on small files in the published layout: voxel i is made to show square i of the pattern."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest

from visdec_lite.datasets.base import BrainDataset
from visdec_lite.datasets.miyawaki import RUNS, enlarge, found, load

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
SHAPE = (10, 10, 2)  # 200 voxels: 100 for the squares, row by row, then 100 of noise
LAG = 2
FIGURES = np.random.default_rng(9).integers(0, 2, (5, 10, 10))


def patterns_of(run: str) -> np.ndarray:
    """What was on in each volume, (volumes, 10, 10): random patterns for 3 volumes, figures for 6, rest between."""
    generator = np.random.default_rng(RUNS.index(run))
    figures = FIGURES[generator.permutation(5)] if run.startswith("figure") else generator.integers(0, 2, (6, 10, 10))
    length = 6 if run.startswith("figure") else 3
    rest = np.full((1, 10, 10), -1)
    shown = [rest] * 4
    for pattern in figures:
        shown += [pattern[None]] * length + [rest] * length
    return np.concatenate(shown)


def bold_of(run: str) -> np.ndarray:
    """Voxel 10 * row + column follows its square two volumes later, on a drift."""
    patterns = patterns_of(run)
    volumes = np.random.default_rng(100 + RUNS.index(run)).normal(0, 0.05, (len(patterns), 200))
    answers = np.maximum(patterns, 0).reshape(len(patterns), 100)
    volumes[LAG:, :100] += answers[:-LAG]
    return (5000 + 100 * (volumes + 0.02 * np.arange(len(patterns))[:, None])).T.reshape(*SHAPE, -1)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """func/data_{figure,random}_runNN.nii.gz; label/..._label.csv: 100 integers a volume, columns of the pattern one
    after another, -1 in all of them for rest; mask/mask.nii.gz and mask/{L,R}H<area>.nii.gz."""
    home = tmp_path_factory.mktemp("home")
    write(home)
    return home


def write(home: Path) -> None:
    folder = home / "miyawaki2008"
    for part in ("func", "label", "mask"):
        (folder / part).mkdir(parents=True)
    for run in RUNS:
        nibabel.save(nibabel.Nifti1Image(np.rint(bold_of(run)).astype(np.int16), AFFINE), func(folder, run))
        rows = [pattern.ravel(order="F") for pattern in patterns_of(run)]
        np.savetxt(label(folder, run), rows, fmt="%d", delimiter=",")
    place = np.indices(SHAPE)[0]
    masks = {"mask": place >= 0, "LHV1d": place == 0, "LHV1v": place == 1, "RHV1d": place == 8, "RHV1v": place == 9}
    masks |= {"LHV3A": place == 2, "RHV3": place == 3, "RHVP": place == 4, "RHV4v": place == 5, "LHlag0to1": place == 6}
    for name, inside in masks.items():
        nibabel.save(nibabel.Nifti1Image(inside.astype(np.uint8), AFFINE), folder / "mask" / f"{name}.nii.gz")


def func(folder: Path, run: str) -> Path:
    return folder / "func" / f"data_{run}.nii.gz"


def label(folder: Path, run: str) -> Path:
    return folder / "label" / f"data_{run}_label.csv"


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    """The same files, to be spoiled: links, so that writing starts with removing one."""
    for file in published.rglob("*.*"):
        if file.is_file():
            link = tmp_path / "miyawaki2008" / file.relative_to(published / "miyawaki2008")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    return tmp_path / "miyawaki2008"


def spoil(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def squares(images: np.ndarray) -> np.ndarray:
    """The 100 squares of 32 x 32 images, row by row, as 0 and 1."""
    return (images[:, 2:-1:3, 2:-1:3, 0] == 255).reshape(len(images), 100)


def test_random_patterns_train_and_figures_test(published):
    dataset = load(published, val_fraction=0)
    train, test = dataset["train"], dataset["test"]
    assert dataset.name == "miyawaki" and not dataset.simulated
    assert len(train) == 20 * 6 * 3 and len(test) == 12 * 5 * 6
    assert dataset.category_names == ("random", *(f"figure {i}" for i in range(1, 6)))
    assert set(train.labels) == {0} and set(test.labels) == {1, 2, 3, 4, 5}
    assert set(test.run) == set(range(12)) and set(train.run) == set(range(12, 32))
    assert len(np.unique(train.stimulus)) == 120 and len(np.unique(test.stimulus)) == 5
    order = [np.flatnonzero((p == FIGURES).all((1, 2)))[0] for p in patterns_of(RUNS[0])[4::12]]
    for name, figure in zip(range(1, 6), order, strict=True):
        expected = FIGURES[figure].ravel() == 1
        assert (squares(test.images[test.labels == name]) == expected).all(), "figures count as first seen"


def test_each_voxel_shows_its_own_square(published):
    """Lag, orientation and pairs at once: transposed patterns or another lag would break it."""

    def agreement(dataset: BrainDataset, turned: bool = False) -> float:
        split = dataset["test"]
        seen = squares(split.images).reshape(-1, 10, 10).astype(float)
        seen = (seen.transpose(0, 2, 1) if turned else seen).reshape(len(split), 100)
        return np.mean([np.corrcoef(split.voxels[:, i], seen[:, i])[0, 1] for i in range(100) if seen[:, i].std()])

    assert agreement(load(published)) > 0.95
    assert agreement(load(published), turned=True) < 0.4
    assert agreement(load(published, lag=1)) < agreement(load(published)) - 0.05


def test_blocks_are_averaged_on_request(published):
    volumes, blocks = load(published, val_fraction=0), load(published, val_fraction=0, average_blocks=True)
    assert len(blocks["train"]) == 120 and len(blocks["test"]) == 60
    assert len(np.unique(blocks["test"].trial)) == 60 and len(np.unique(volumes["test"].trial)) == 60
    assert [np.bincount(volumes[name].trial).max() for name in ("train", "test")] == [3, 6]
    for name in ("train", "test"):
        averages = []
        for trial, image in zip(blocks[name].trial, blocks[name].images, strict=True):
            rows = volumes[name].rows(volumes[name].trial == trial)
            assert (rows.images == image).all()
            averages.append(rows.voxels.mean(axis=0))
        for voxel in (0, 50, 199):  # the two differ by the unit of the z-score only
            assert np.corrcoef(np.array(averages)[:, voxel], blocks[name].voxels[:, voxel])[0, 1] > 0.9999


def test_regions_join_hemispheres_and_halves(published):
    dataset = load(published)
    assert {name: int(mask.sum()) for name, mask in dataset.rois.items()} == {
        "all": 200, "V1": 80, "V3A": 20, "V3": 20, "VP": 20, "V4": 20,
    }  # fmt: skip
    assert load(published, roi="V1").num_voxels == 80
    assert load(published, roi=["V3", "V4"]).num_voxels == 40


def test_images_repeat_each_square():
    patterns = np.random.default_rng(0).integers(0, 2, (3, 10, 10))
    assert enlarge(patterns, 10).shape == (3, 10, 10, 3)
    assert np.array_equal(enlarge(patterns, 10)[..., 1], 255 * patterns)
    assert np.array_equal(enlarge(patterns, 40)[:, 2::4, 1::4, 0], 255 * patterns)
    image = enlarge(patterns, 32)
    assert not image[:, 0].any() and not image[:, :, 31].any()
    assert np.array_equal(squares(image), patterns.reshape(3, 100) == 1)


def test_image_size_is_kept(published):
    assert load(published, image_size=20).image_size == 20
    with pytest.raises(ValueError, match="image_size is 9, expected 10 pixels or more"):
        load(published, image_size=9)


def test_leaked_figures_are_counted(copy, caplog):
    """As in some repackaged files: a random run that holds the figures of the test set."""
    for file in (func, label):
        path = file(copy, "random_run01")
        path.unlink()
        path.symlink_to(file(copy, "figure_run01").resolve())
    with caplog.at_level(logging.WARNING):
        load(copy, val_fraction=0)
    assert "of 5 test pictures, 5 exact and 0 near copies stand in train" in caplog.text


@pytest.mark.parametrize("run", ["figure_run03", "random_run20"])
def test_nan_in_one_run_leaves_the_voxel_out(copy, caplog, run):
    data = bold_of(run).astype(np.float32)
    data[0, 0, 1, 3] = np.nan
    func(copy, run).unlink()
    nibabel.save(nibabel.Nifti1Image(data, AFFINE), func(copy, run))
    with caplog.at_level(logging.WARNING):
        dataset = load(copy)
    assert dataset.num_voxels == 199 and dataset.rois["V1"].sum() == 79 and "left out 1 of 200 voxels" in caplog.text


def test_files_that_lie_are_refused(copy):
    path = label(copy, "random_run07")
    good = path.read_text().splitlines()
    for text, message in (
        ("\n".join(good[:-3]), r"random_run07_label.csv has 37 rows for 40 volumes; get the files anew"),
        ("\n".join(line[2:] for line in good), r"random_run07_label.csv, line 5: 99 cells, expected 100 as in line 1"),
        ("\n".join(["2" + good[0][2:], *good[1:]]), r"integers from -1 to 2, expected 100: 0 and 1, or -1 throughout"),
        ("\n".join(["0" + good[0][2:], *good[1:]]), r"expected 100: 0 and 1, or -1 throughout for rest"),
        ("a,b\nc,d\n", r"line 1, column '1': 'a' is not a whole number"),
    ):
        spoil(path, text)
        with pytest.raises(ValueError, match=message):
            load(copy)


def test_missing_files_say_how_to_get_them(copy, tmp_path, monkeypatch):
    func(copy, "figure_run02").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 65 files are missing \(first: .*data_figure_run02.nii.gz\); get"
    ):
        load(copy)
    monkeypatch.setenv("VISDEC_DATA", str(tmp_path / "empty"))
    assert found() == []
    with pytest.raises(FileNotFoundError, match=r"65 of 65 .*get miyawaki \(161 MB.*fetch=True\), or give root="):
        load()


def test_fetch_asks_nilearn(tmp_path, monkeypatch):
    calls = []

    def fetch_miyawaki2008(**options: object) -> None:
        calls.append(options)
        write(Path(options["data_dir"]))

    monkeypatch.setattr("nilearn.datasets.fetch_miyawaki2008", fetch_miyawaki2008)
    monkeypatch.setenv("VISDEC_DATA", str(tmp_path))
    load(fetch=True)
    assert calls == [{"data_dir": str(tmp_path), "verbose": 0}]
    assert len(found()) == 74 and len(found(tmp_path / "miyawaki2008")) == 74
