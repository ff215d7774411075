"""HCP on small files in its two layouts: the .npz of a person, and the dense time series they are cut from."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, LabelAxis, SeriesAxis

from visdec_lite import stages
from visdec_lite.datasets import hcp, hcp_prepare
from visdec_lite.datasets.shards import Shards
from visdec_lite.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from visdec_lite.training import TrainingConfig

SIZES = (5, 4, 3, 2)  # voxels of V1, V2, V3 and V4; HCP itself has about 4,500 together
FRAMES = 43  # 4 windows of 10 and a rest of 3; HCP itself has 1200
PEOPLE = ("100206", "100307", "100408", "100610", "101006")


def write_person(
    root: Path, name: str, sizes: Sequence[int] = SIZES, frames: int = FRAMES, **changes: np.ndarray
) -> np.ndarray:
    """One file of the published layout, with its voxels as the scanner gives them; returns these side by side."""
    rng = np.random.default_rng(int(name))
    arrays = {
        region: (9000 + 90 * rng.standard_normal((frames, size))).astype(np.float32)
        for region, size in zip(hcp.REGIONS, sizes, strict=True)
    }
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "HCP_visual_voxel.npz", **{**arrays, **changes})
    return np.concatenate(list(arrays.values()), axis=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in PEOPLE:
        write_person(tmp_path, name)
    return tmp_path


def load(root: Path, **options: object):
    return hcp.load(root, progress=False, **options)


def by_hand(voxels: np.ndarray, frames: int = 10) -> np.ndarray:
    """Means of `frames` frames, each voxel with mean 0 and spread 1."""
    windows = np.stack([
        voxels[start : start + frames].astype(np.float64).mean(axis=0)
        for start in range(0, len(voxels) - frames + 1, frames)
    ])  # fmt: skip
    return (windows - windows.mean(axis=0)) / windows.std(axis=0)


def rows_of(dataset, subject: int) -> np.ndarray:
    for split in dataset.splits.values():
        if (split.subject == subject).any():
            return split.rows(split.subject == subject).voxels
    raise AssertionError(f"no rows of {subject}")


# --- rows ---


def test_rows_are_zscored_means_of_ten_frames(root):
    dataset = load(root)
    for name in PEOPLE:
        expected = by_hand(write_person(root, name))
        np.testing.assert_allclose(rows_of(dataset, int(name)), expected, atol=1e-5)
    assert isinstance(dataset["pretrain"].voxels, Shards) and isinstance(dataset["val"].voxels, Shards)
    assert len(dataset["pretrain"]) + len(dataset["val"]) == 5 * 4


def test_frames_left_over_are_told(root, caplog):
    with caplog.at_level(logging.INFO):
        load(root)
    assert "5 people: up to 3 last frames fill no window and are left out" in caplog.text


def test_frames_is_the_width_of_a_window(root):
    dataset = load(root, frames=21)
    assert len(dataset["pretrain"]) == 4 * 2
    np.testing.assert_allclose(rows_of(dataset, 100206), by_hand(write_person(root, "100206"), 21), atol=1e-5)


def test_columns_say_whose_and_when(root):
    pretrain = load(root, val_fraction=0)["pretrain"]
    assert pretrain.subject.tolist() == [int(name) for name in PEOPLE for _ in range(4)]
    assert pretrain.trial.tolist() == [0, 1, 2, 3] * 5
    assert pretrain.run.tolist() == [0] * 20
    assert pretrain.stimulus.tolist() == list(range(20))
    assert pretrain.images is None and pretrain.labels is None


def test_people_without_numbers_are_counted(tmp_path):
    for name in ("7", "8"):
        write_person(tmp_path, name)
    (tmp_path / "8").rename(tmp_path / "sub-b")
    pretrain = load(tmp_path, val_fraction=0)["pretrain"]
    assert pretrain.subject.tolist() == [7] * 4 + [2] * 4


def test_what_is_known_of_the_data(root):
    dataset = load(root)
    assert (dataset.name, dataset.simulated, dataset.num_voxels, dataset.category_names) == ("hcp", False, 14, ())
    assert dataset.licence == hcp.LICENCE and "Van Essen" in dataset.citation and "Glasser" in dataset.citation
    assert dataset.fingerprint == load(root, val_fraction=0.4).fingerprint


# --- val ---


@pytest.mark.parametrize(("fraction", "people"), [(0.1, 1), (0.4, 2), (0.6, 3), (0.0, 0)])
def test_val_is_whole_people(root, fraction, people):
    dataset = load(root, val_fraction=fraction)
    held_out = set(dataset["val"].subject) if people else set()
    assert len(held_out) == people
    assert held_out.isdisjoint(dataset["pretrain"].subject)
    assert held_out | set(dataset["pretrain"].subject) == {int(name) for name in PEOPLE}
    assert sorted(dataset.splits) == (["pretrain", "val"] if people else ["pretrain"])


def test_the_seed_chooses_who(root):
    chosen = [set(load(root, split_seed=seed)["val"].subject).pop() for seed in range(12)]
    assert chosen[0] == set(load(root)["val"].subject).pop()
    assert len(set(chosen)) > 2


# --- regions and length ---


def test_regions_are_masks_over_the_columns(root):
    dataset = load(root)
    assert list(dataset.rois) == ["V1", "V2", "V3", "V4"]
    assert [int(mask.sum()) for mask in dataset.rois.values()] == list(SIZES)
    columns = np.arange(14)
    assert [columns[mask].tolist() for mask in dataset.rois.values()] == [
        [0, 1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11], [12, 13]]  # fmt: skip


@pytest.mark.parametrize(("roi", "columns"), [("V2", [5, 6, 7, 8]), (["V4", "V1"], [0, 1, 2, 3, 4, 12, 13])])
def test_roi_takes_regions_in_the_order_of_the_brain(root, roi, columns):
    dataset = load(root, roi=roi)
    expected = by_hand(write_person(root, "100408"))[:, columns]
    np.testing.assert_allclose(rows_of(dataset, 100408), expected, atol=1e-5)
    assert list(dataset.rois) == (["V2"] if roi == "V2" else ["V1", "V4"])


def test_shorter_scans_are_wrap_padded_and_it_is_told(root, caplog):
    voxels = write_person(root, "100610", sizes=(4, 3, 2, 1))
    with caplog.at_level(logging.INFO):
        dataset = load(root)
    expected = by_hand(voxels)
    np.testing.assert_allclose(rows_of(dataset, 100610), np.hstack([expected, expected[:, :4]]), atol=1e-5)
    assert "1 people with 10 voxels or more are wrap-padded to 14" in caplog.text
    assert "the regions of 5 people differ in size" in caplog.text
    assert {name: mask.tolist() for name, mask in dataset.rois.items()} == {"all": [True] * 14}


def test_length_pads_all_and_masks_go_along(root):
    dataset = load(root, length=16)
    rows = rows_of(dataset, 100206)
    assert rows.shape == (4, 16) and np.array_equal(rows[:, 14:], rows[:, :2])
    assert np.flatnonzero(dataset.rois["V1"]).tolist() == [0, 1, 2, 3, 4, 14, 15]
    assert dataset.fingerprint != load(root).fingerprint


# --- shards ---


def test_the_second_time_nothing_is_converted(root, monkeypatch):
    first = load(root)
    monkeypatch.setattr(hcp, "_rows", lambda *_: pytest.fail("converted again"))
    second = load(root, val_fraction=0.5, split_seed=3)
    assert first.fingerprint == second.fingerprint
    assert [path.name for path in root.glob("shards-*")] == [f"shards-{first.fingerprint[:16]}"]


@pytest.mark.parametrize("options", [{"roi": "V1"}, {"frames": 5}, {"length": 20}, {"subjects": PEOPLE[:3]}], ids=str)
def test_another_choice_has_shards_of_its_own(root, options):
    assert load(root).fingerprint != load(root, **options).fingerprint
    assert len(list(root.glob("shards-*"))) == 2


def test_another_content_has_shards_of_its_own(root):
    before = load(root).fingerprint
    write_person(root, PEOPLE[0])  # the same again, at another time
    assert load(root).fingerprint == before
    voxels = write_person(root, PEOPLE[0], V1=np.random.default_rng(1).random((FRAMES, 5), np.float32))
    dataset = load(root)
    assert dataset.fingerprint != before
    np.testing.assert_allclose(rows_of(dataset, int(PEOPLE[0]))[:, 5:], by_hand(voxels)[:, 5:], atol=1e-5)


def test_shards_can_lie_elsewhere(root, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    load(root, cache=cache)
    assert list(cache.glob("shards-*/index.json")) and not list(root.glob("shards-*"))


def test_a_cut_conversion_goes_on(root, monkeypatch):
    convert, done = hcp._rows, []

    def failing(recording: hcp.Recording, *rest: object) -> np.ndarray:
        done.append(recording.subject)
        if len(done) == 3:
            raise KeyboardInterrupt
        return convert(recording, *rest)

    monkeypatch.setattr(hcp, "write_shards", partial(hcp.write_shards, rows_per_shard=4))  # a person a shard
    monkeypatch.setattr(hcp, "_rows", failing)
    with pytest.raises(KeyboardInterrupt):
        load(root)
    dataset = load(root)
    assert done == [*PEOPLE[:3], *PEOPLE[2:]]
    for name in PEOPLE:
        np.testing.assert_allclose(rows_of(dataset, int(name)), by_hand(write_person(root, name)), atol=1e-5)


def test_pre_training_reads_it(root):
    dataset = load(root)
    torch.manual_seed(0)
    model = MaskedAutoencoder(MaskedAutoencoderConfig(
        num_voxels=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
        decoder_num_heads=2))  # fmt: skip
    pool, val = (dataset[name].voxels.padded(4) for name in ("pretrain", "val"))
    result = stages.pretrain(model, pool, val, TrainingConfig(20, 8, 1e-2), progress=False, device="cpu")
    assert result.history[-2]["loss"] < result.history[0]["loss"]


# --- what is found ---


def test_found_lists_what_is_there(root, tmp_path, monkeypatch):
    assert [file.parent.name for file in hcp.found(root)] == list(PEOPLE)
    assert hcp.found(root / "nowhere") == []
    assert hcp.found(root / "\0") == []
    monkeypatch.setenv("VISDEC_DATA", str(tmp_path / "home"))
    assert hcp.found() == []
    write_person(tmp_path / "home" / "hcp" / "npz", "100206")  # as the published collection has it
    assert len(hcp.found()) == 1 and len(hcp.load(val_fraction=0, progress=False)["pretrain"]) == 4


def test_subjects_are_taken_by_number(root):
    dataset = load(root, subjects=[100610, "100206"])
    assert {*dataset["pretrain"].subject, *dataset["val"].subject} == {100206, 100610}


# --- voxels without signal, and files that lie ---


@pytest.mark.parametrize("value", [np.nan, np.inf, 7.0])
def test_a_voxel_without_signal_is_zero_and_told(root, caplog, value):
    broken = write_person(root, PEOPLE[0])[:, :5].copy()
    broken[slice(None) if value == 7.0 else 3, 2] = value
    voxels = write_person(root, PEOPLE[0], V1=broken)
    with caplog.at_level(logging.WARNING):
        rows = rows_of(load(root), int(PEOPLE[0]))
    assert f"subject {PEOPLE[0]}: 1 voxels without signal are set to 0, the mean" in caplog.text
    assert (rows[:, 2] == 0).all()
    others = np.arange(14) != 2  # these stay where they were
    np.testing.assert_allclose(rows[:, others], by_hand(voxels)[:, others], atol=1e-5)


def test_many_voxels_without_signal_are_an_error(root):
    write_person(root, PEOPLE[1], V4=np.zeros((FRAMES, 2), np.float32))
    with pytest.raises(ValueError, match=r"2 of 14 voxels of subject 100307 .* at most 10%; leave it out of subjects"):
        load(root)
    load(root, subjects=[PEOPLE[0], PEOPLE[2]])


def drop_v4(file: Path) -> None:
    np.savez(file, **{name: np.ones((FRAMES, 2)) for name in ("V1", "V2", "V3")})


def shorten_v2(file: Path) -> None:
    np.savez(file, V1=np.ones((40, 2)), V2=np.ones((39, 2)), V3=np.ones((40, 2)), V4=np.ones((40, 2)))


def flatten(file: Path) -> None:
    np.savez(file, **{name: np.ones(40) for name in hcp.REGIONS})


def pickled(file: Path) -> None:
    np.savez(file, **{name: np.array([{"an": "object"}] * 40, dtype=object) for name in hcp.REGIONS})


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[400] ^= 1  # within the values of V1: its check sum no longer fits
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_v4, r"holds \['V1', 'V2', 'V3'\], but no \['V4'\]; make it from the dense"),
        (shorten_v2, r"shapes .*'V1': \(40, 2\), 'V2': \(39, 2\).*equally many frames; make it"),
        (flatten, r"'V1': \(40,\).*expected \(frames, voxels\)"),
        (pickled, r"cannot be read as .npz \(V1 holds object, expected numbers\); make it"),
        (cut_off, r"cannot be read as .npz \(.*zip file\); make it"),
        (flip, r"cannot be read as .npz \(Bad CRC-32 for file 'V1.npy'\); make it"),
    ],
)
def test_damaged_files_are_named(root, damage, message):
    damage(root / PEOPLE[2] / hcp.FILE)
    with pytest.raises(ValueError, match=f"{PEOPLE[2]}.*{message}"):
        load(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roi": "VC"}, r"no region \['VC'\]; HCP has \['V1', 'V2', 'V3', 'V4'\]"),
        ({"roi": []}, "0 regions named, at least 1"),
        ({"subjects": [1, 100206]}, r"no subject \['1'\]; .* has 5: 100206, 100307"),
        ({"subjects": []}, "0 subjects named"),
        ({"frames": 0}, "frames is 0, expected 1 or more"),
        ({"frames": 22}, "has 43 frames, at least 44 are needed for 2 windows of 22; average fewer, or leave 100206"),
        ({"length": 13}, "length is 13, but subject 100206 has 14 voxels and none are cut away; give 14 or more"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0, expected a share from 0 to below 1"),
        ({"val_fraction": 0.95}, "val takes 5 of 5 people, none is left for pretrain; .*val_fraction=0"),
        ({"subjects": [100206]}, "val takes 1 of 1 people"),
    ],
    ids=str,
)
def test_choices_that_do_not_fit(root, options, message):
    with pytest.raises(ValueError, match=message):
        load(root, **options)


def test_missing_files_say_how_to_get_them(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=rf"no {tmp_path}/<subject>/HCP_visual.*https.*prepare hcp, or give root="
    ):
        load(tmp_path)


def test_two_files_of_one_person_are_refused(root):
    write_person(root / "npz", PEOPLE[0])
    with pytest.raises(ValueError, match=r"6 files of 5 people .* expected one each; remove the copies"):
        load(root)


# --- from dense time series ---
# A tiny mesh of 12 vertices a side, of which 0 and 11 are medial wall (no grayordinate), and 8 voxels of thalamus.
# Vertex 1 + i has the i-th of these labels: on each side two vertices of V1 and one of each other region.

MESH = 12
LABELS_LEFT = [181, 181, 184, 185, 186, 200, 0, 0, 0, 0]
LABELS_RIGHT = [1, 1, 4, 5, 6, 20, 0, 0, 0, 0]
NAMES = {0: "???", 20: "R_LO1_ROI", 200: "L_LO1_ROI"} | {
    number: f"{side}_{region}_ROI"
    for region, pair in hcp.REGIONS.items()
    for side, number in zip("RL", pair, strict=True)
}
# columns of the series: left 0..9, right 10..19, thalamus 20..27
COLUMNS = {"V1": [0, 1, 10, 11], "V2": [2, 12], "V3": [3, 13], "V4": [4, 14]}


def cortex(mesh: int = MESH, vertices: Sequence[int] = range(1, 11)) -> BrainModelAxis:
    left, right = (
        BrainModelAxis.from_surface(np.array(vertices), mesh, name=side) for side in ("CortexLeft", "CortexRight")
    )
    return left + right


def whole_brain() -> BrainModelAxis:
    return cortex() + BrainModelAxis.from_mask(np.ones((2, 2, 2)), name="thalamus_left", affine=np.eye(4))


def write_series(file: Path, axis: BrainModelAxis | None = None, frames: int = 230) -> Path:
    """Grayordinate g of frame t is 1000 + t * 100 + g."""
    axis = whole_brain() if axis is None else axis
    values = 1000 + 100 * np.arange(frames)[:, None] + np.arange(len(axis))
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(Cifti2Image(values.astype(np.float32), (SeriesAxis(0, 0.72, frames), axis)), file)
    return file


def write_labels(
    file: Path, axis: BrainModelAxis | None = None, keys: Sequence[int] | None = None, names: dict[int, str] = NAMES
) -> Path:
    axis = cortex() if axis is None else axis  # the published file has no subcortical part
    keys = [*LABELS_LEFT, *LABELS_RIGHT] if keys is None else keys
    table = {number: (name, (0.0, 0.0, 0.0, 1.0)) for number, name in names.items()}
    values = np.zeros((1, len(axis)), np.float32)
    values[0, : len(keys)] = keys
    nibabel.save(Cifti2Image(values, (LabelAxis(["areas"], [table]), axis)), file)
    return file


@pytest.fixture
def dense(tmp_path: Path) -> tuple[list[Path], Path, Path]:
    """Two people in HCP's own folders, the labels, and where to write."""
    results = "MNINonLinear/Results/rfMRI_REST1_LR/rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii"
    files = [write_series(tmp_path / "raw" / name / results) for name in PEOPLE[:2]]
    return files, write_labels(tmp_path / "Glasser.dlabel.nii"), tmp_path / "out"


def prepare(files: Sequence[Path], out: Path, **options: object) -> list[Path]:
    return hcp.prepare(files, out, progress=False, **options)


def test_prepare_cuts_the_regions_out(dense):
    files, labels, out = dense
    made = prepare(files, out, labels=labels)
    assert made == [out / name / "HCP_visual_voxel.npz" for name in PEOPLE[:2]]
    with np.load(made[0], allow_pickle=False) as content:
        assert sorted(content) == ["V1", "V2", "V3", "V4"]
        for region, columns in COLUMNS.items():
            expected = 1000 + 100 * np.arange(230)[:, None] + np.array(columns)
            assert content[region].dtype == np.float32 and np.array_equal(content[region], expected)


def test_labels_of_the_whole_brain_give_the_same(dense, tmp_path):
    files, labels, out = dense
    everywhere = write_labels(tmp_path / "whole.dlabel.nii", whole_brain())
    one, two = prepare(files[:1], out, labels=labels), prepare(files[:1], tmp_path / "other", labels=everywhere)
    assert one[0].read_bytes() == two[0].read_bytes()


def test_the_only_labels_in_the_folder_are_taken(dense):
    files, labels, out = dense
    with pytest.raises(FileNotFoundError, match=r"0 files \*.dlabel.nii in .*out, expected one: .*balsa.*labels="):
        prepare(files, out)
    out.mkdir()
    labels.rename(out / labels.name)
    assert len(prepare(files, out)) == 2
    write_labels(out / "second.dlabel.nii")
    assert len(prepare(files, out)) == 2  # nothing is left to make
    (out / PEOPLE[0] / hcp.FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"2 files \*.dlabel.nii"):
        prepare(files, out)


def test_what_is_there_is_not_made_again(dense, monkeypatch, caplog):
    files, labels, out = dense
    cut_out, seen = hcp_prepare._Atlas.cut_out, []

    def counted(self: hcp_prepare._Atlas, file: Path) -> dict[str, np.ndarray]:
        seen.append(file)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return cut_out(self, file)

    monkeypatch.setattr(hcp_prepare._Atlas, "cut_out", counted)
    with pytest.raises(KeyboardInterrupt):
        prepare(files, out, labels=labels)
    assert [path.name for path in out.rglob("*") if path.is_file()] == [hcp.FILE]
    with caplog.at_level(logging.INFO):
        assert len(prepare(files, out, labels=labels)) == 2
    assert seen == [files[0], files[1], files[1]]
    assert "1 of 2 people are prepared already" in caplog.text


def test_half_a_file_is_never_left(dense, monkeypatch):
    files, labels, out = dense

    def half(stream, **_: np.ndarray) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(OSError, match="No space left"):
        prepare(files, out, labels=labels)
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_prepared_files_load(dense):
    files, labels, out = dense
    prepare(files, out, labels=labels)
    dataset = load(out)
    assert dataset.num_voxels == 10 and len(dataset["pretrain"]) == 23
    np.testing.assert_allclose(  # a ramp, z-scored: the same in every voxel
        dataset["val"].voxels[:], np.tile(by_hand(np.arange(230.0)[:, None]), 10), atol=1e-4)  # fmt: skip


def other_mesh(files: list[Path], labels: Path) -> None:
    write_series(files[0], cortex(mesh=20))


def fewer_vertices(files: list[Path], labels: Path) -> None:
    write_series(files[0], cortex(vertices=range(2, 11)))


def one_side(files: list[Path], labels: Path) -> None:
    write_series(files[0], BrainModelAxis.from_surface(np.arange(1, 11), MESH, name="CortexLeft"))


def other_atlas(files: list[Path], labels: Path) -> None:
    write_labels(labels, names={**NAMES, 181: "L_precuneus"})


def no_v4(files: list[Path], labels: Path) -> None:
    write_labels(labels, keys=[*LABELS_LEFT, 1, 1, 4, 5])


def no_labels(files: list[Path], labels: Path) -> None:
    write_series(labels, cortex(), frames=1)


def cut_series(files: list[Path], labels: Path) -> None:
    files[0].write_bytes(files[0].read_bytes()[:-500])


def text(files: list[Path], labels: Path) -> None:
    files[0].write_text("404 not found " * 100)


def volume(files: list[Path], labels: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(np.zeros((2, 2, 2, 5), np.float32), np.eye(4)), files[0])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            other_mesh,
            "has 20 grayordinates, .* has 20: of .*LEFT the mesh has 20 and 12 vertices.*take both in 32k_fs_LR",
        ),
        (fewer_vertices, "has 18 grayordinates, .* has 20: .* 12 and 12 vertices, and 1 of 2 in a region are not in"),
        (one_side, "has 10 grayordinates, .* has 20: of .*RIGHT the mesh has 0 and 12"),
        (other_atlas, "label 181 of .* is 'L_precuneus' on 2 vertices, expected V1 on 1 or more.*balsa"),
        (no_v4, "label 6 of .* is 'R_V4_ROI' on 0 vertices, expected V4"),
        (no_labels, "label 1 of .* is 'missing'"),
        (cut_series, "cannot be read as a series to its end .*download it anew"),
        (text, "cannot be read as CIFTI-2 .*download it anew"),
        (volume, r"is no dense CIFTI-2 file \(its shape is \(2, 2, 2, 5\)\), expected .dtseries.nii"),
    ],
)
def test_dense_files_that_do_not_fit(dense, damage: Callable[[list[Path], Path], None], message):
    files, labels, out = dense
    damage(files, labels)
    with pytest.raises(ValueError, match=message):
        prepare(files, out, labels=labels)
    assert not list(out.rglob("*.npz"))


def test_whose_scan_it_is_must_be_told_and_once(dense, tmp_path):
    files, labels, out = dense
    with pytest.raises(ValueError, match=r"2 files of subjects \['100206'\] to prepare, expected one run a person"):
        prepare([files[0], files[0].with_name("rfMRI_REST1_RL.dtseries.nii"), files[1]], out, labels=labels)
    with pytest.raises(ValueError, match="0 files to prepare"):
        prepare([], out, labels=labels)
    assert hcp_prepare._subject_of(Path("100307/100408.rfMRI_REST1_LR.dtseries.nii")) == "100408"
    with pytest.raises(
        ValueError, match=r"no subject number of 6 digits in a/20240131.dtseries.nii; put it into a folder"
    ):
        prepare([Path("a/20240131.dtseries.nii")], out, labels=labels)


def test_files_that_are_not_there(dense):
    files, labels, out = dense
    with pytest.raises(FileNotFoundError, match=r"no file 123456.dtseries.nii; give the path"):
        prepare([Path("123456.dtseries.nii")], out, labels=labels)
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere.dlabel.nii"):
        prepare(files, out, labels=labels.with_name("nowhere.dlabel.nii"))


def test_without_nibabel_the_way_out_is_told(dense, monkeypatch):
    files, labels, out = dense
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ImportError, match="nibabel, which is not installed: pip install nibabel"):
        prepare(files, out, labels=labels)


@pytest.mark.parametrize("odd", [4.5, np.nan, 1e20])
def test_labels_are_whole_numbers(dense, odd):
    files, labels, out = dense
    image = nibabel.load(labels)
    values = np.array(image.dataobj)
    values[0, 0] = odd
    nibabel.save(Cifti2Image(values, image.header), labels.with_name("odd.dlabel.nii"))
    with pytest.raises(ValueError, match=r"odd\.dlabel\.nii cannot be read as labels .*expected whole numbers"):
        prepare(files, out, labels=labels.with_name("odd.dlabel.nii"))


def test_a_flipped_bit_in_a_person_is_seen_while_converting(root):
    file = root / PEOPLE[1] / hcp.FILE
    raw = bytearray(file.read_bytes())
    raw[300] ^= 4  # a number: without its check sum it would be another one
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=rf"{PEOPLE[1]}.*cannot be read as .*(CRC-32|check sum).*V1\.npy"):
        load(root)
