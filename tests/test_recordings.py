"""A flipped bit or a cut in a recording: seen where a check sum or a recorded hash exists, said where none does."""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.sparse
import test_bold5000
import test_digits69
import test_god
import test_haxby
import test_hcp
import test_miyawaki
import test_nifti
from scipy.io import savemat

from visdec_lite.datasets import bold5000, digits69, god, haxby, hcp, miyawaki
from visdec_lite.datasets.base import BrainDataset
from visdec_lite.datasets.nifti import from_nifti
from visdec_lite.datasets.recordings import expect_whole, refuse_absurd, verified
from visdec_lite.files import LEDGER, sha256_of

PLAIN = (".npy", ".h5", ".csv", ".txt", ".tsv", ".nii")  # no check sum in these


def write_nifti(root: Path, ending: str) -> None:
    generator = np.random.default_rng(0)
    for run in range(2):
        nibabel.save(test_nifti.as_image(generator.normal(100, 1, (40, 24))), root / f"run-{run}_bold{ending}")
        rows = [f"{8 * i}\t4\t{kind}\n" for i, kind in enumerate(("face", "house", "rest", "cat", "face", "house"))]
        (root / f"run-{run}_events.tsv").write_text("onset\tduration\ttrial_type\n" + "".join(rows))
    nibabel.save(test_nifti.full_mask(), root / f"mask{ending}")


def load_nifti(root: Path) -> BrainDataset:
    bold = sorted(root.glob("run-*_bold*"))
    return from_nifti(bold, sorted(root.glob("run-*.tsv")), test_runs=[1], mask=next(root.glob("mask*")))


def write_bold5000(root: Path) -> None:
    runs = test_bold5000.presentations()
    test_bold5000.write_lists(root, runs)
    test_bold5000.write_betas(root, sum(map(len, runs)))


def write_haxby(root: Path) -> None:
    test_haxby.write_nilearn(root)


def write_god_npz(root: Path) -> None:
    test_god.write_npz(root, test_god.recording())


def load_hcp(root: Path) -> BrainDataset:
    shutil.rmtree(root / "cache", ignore_errors=True)
    return hcp.load(root, cache=root / "cache", progress=False)


def write_dense(root: Path) -> None:
    for name in test_hcp.PEOPLE[:2]:
        test_hcp.write_series(root / "raw" / name / "rfMRI.dtseries.nii")
    test_hcp.write_labels(root / "Glasser.dlabel.nii")


def load_dense(root: Path) -> BrainDataset:
    shutil.rmtree(root / "out", ignore_errors=True)
    hcp.prepare(sorted(root.glob("raw/*/*")), root / "out", labels=root / "Glasser.dlabel.nii", progress=False)
    return hcp.load(root / "out", progress=False)


FORMS: dict[str, tuple[Callable[[Path], object], Callable[[Path], BrainDataset]]] = {
    "nifti.gz": (lambda root: write_nifti(root, ".nii.gz"), load_nifti),
    "nifti": (lambda root: write_nifti(root, ".nii"), load_nifti),
    "haxby": (write_haxby, lambda root: haxby.load(root, test_runs=[3])),
    "miyawaki": (test_miyawaki.write, miyawaki.load),
    "bold5000": (write_bold5000, bold5000.load),
    "digits69": (
        lambda root: savemat(root / digits69.FILE, test_digits69.content(), do_compression=True),
        digits69.load,
    ),
    "digits69 plain": (lambda root: savemat(root / digits69.FILE, test_digits69.content()), digits69.load),
    "god h5": (lambda root: test_god.write_h5(root / "Subject3.h5", test_god.recording()), god.load),
    "god npz": (write_god_npz, god.load),
    "hcp dense": (write_dense, load_dense),
    "hcp": (lambda root: [test_hcp.write_person(root, name) for name in test_hcp.PEOPLE], load_hcp),
}


def content(dataset: BrainDataset) -> list[bytes | str]:
    """All that a data set holds, but its fingerprint."""
    found = [repr(dataset.category_names), *(f"{n}{m.tobytes()}" for n, m in dataset.rois.items())]
    for name, split in dataset.splits.items():
        columns = {**vars(split), "voxels": np.asarray(split.voxels[:])}
        found += [f"{name} {column} {None if a is None else a.tobytes()}" for column, a in columns.items()]
    return found


def damaged(raw: bytes, generator: np.random.Generator) -> bytes:
    """A bit flipped, or cut short."""
    if generator.random() < 0.3:
        return raw[: generator.integers(len(raw))]
    changed = bytearray(raw)
    changed[generator.integers(len(raw))] ^= 1 << generator.integers(8)
    return bytes(changed)


def record(root: Path) -> None:
    """What the downloader notes."""
    files = [file for file in root.rglob("*") if file.is_file() and file.name != LEDGER]
    notes = {file.relative_to(root).as_posix(): {"sha256": sha256_of(file)} for file in files}
    (root / LEDGER).write_text(json.dumps({"files": notes, "unpacked": {}, "accepted": {}}))


def outcomes(form: str, root: Path, tries: int, recorded: bool, said: Callable[[], str]) -> Counter:
    """Kind of outcome -> how often, over damaged files of a form, one at a time.

    same: as without damage; named: an error that names the file; other: an error that names what does not fit; said:
    another result, of a format without check sums, of which the log says so; silent and internal: what must not be.
    """
    write, load = FORMS[form]
    write(root)
    files = sorted(file for file in root.rglob("*") if file.is_file() and file.suffix != "" and file.name[0] != ".")
    files = [file for file in files if not (form == "bold5000" and file.suffix == ".mat")]
    good = content(load(root))
    if recorded:
        record(root)
        said()
        assert content(load(root)) == good
    generator = np.random.default_rng(0)
    found: Counter = Counter()
    for _ in range(tries):
        file = files[generator.integers(len(files))]
        raw = file.read_bytes()
        file.write_bytes(damaged(raw, generator))
        try:
            same = content(load(root)) == good
            plain = file.suffix in PLAIN or form.endswith("plain")
            told = plain and not recorded and "damage in them cannot be seen" in said()
            kind = "same" if same else "said" if told else f"silent: {file.name}"
        except Exception as error:
            named = type(error) in (ValueError, FileNotFoundError)
            kind = f"internal: {error!r}" if not named else "named" if file.name in str(error) else f"other: {error}"
        finally:
            file.write_bytes(raw)
        found[kind] += 1
    return found


def taken(caplog: pytest.LogCaptureFixture) -> str:
    """What was logged since the last time."""
    text = caplog.text
    caplog.clear()
    return text


@pytest.mark.parametrize("form", FORMS)
def test_damage_is_seen_or_said(form, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    found = outcomes(form, tmp_path, 3 if form == "miyawaki" else 30, recorded=False, said=partial(taken, caplog))
    assert not [kind for kind in found if kind.startswith(("silent", "internal"))], found
    assert found["named"] > 0, found


@pytest.mark.parametrize("form", [form for form in FORMS if form != "miyawaki"])
def test_a_recorded_hash_lets_no_damage_through(form, tmp_path, caplog):
    found = outcomes(form, tmp_path, 30, recorded=True, said=partial(taken, caplog))
    assert set(found) <= {"named", "same"}, found
    assert "cannot be seen" not in caplog.text


@pytest.mark.parametrize(("ending", "pack"), [(".nii.gz", gzip.compress), (".bz2", bz2.compress)])
def test_every_bit_of_a_check_sum_counts(tmp_path, ending, pack):
    """Of gzip the last 8 bytes are check sum and length; a reader that stops at the last voxel never sees them."""
    file, raw = tmp_path / f"a{ending}", pack(b"recording" * 1000)
    file.write_bytes(raw)
    assert verified([file]) == [sha256_of(file)]
    for byte in range(-8, 0):
        changed = bytearray(raw)
        changed[byte] ^= 1
        file.write_bytes(changed)
        if ending == ".bz2" and byte == -1:  # may be padding
            continue
        with pytest.raises(ValueError, match=rf"a{ending} cannot be read as a .* file .*get it anew"):
            verified([file])


def test_the_sums_of_a_matlab_file_count(tmp_path):
    file = tmp_path / "a.mat"
    savemat(file, {"a": np.arange(1000.0), "b": np.ones(3)}, do_compression=True)
    raw = file.read_bytes()
    end = 136 + int.from_bytes(raw[132:136], "little")  # of the first element; Adler-32 is its last 4 bytes
    for byte in range(end - 4, end):
        changed = bytearray(raw)
        changed[byte] ^= 1
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=r"a\.mat cannot be read as a \.mat file"):
            verified([file])


def test_a_plain_matlab_file_does_not_crash_python(tmp_path):
    """scipy ends the process on a part of an unknown type, or where a complex matrix has no imaginary part."""
    file = tmp_path / digits69.FILE
    savemat(file, test_digits69.content())
    raw = file.read_bytes()
    seen = 0
    for place in (*range(124, 128), *range(144, 148), *range(184, 188)):  # version, flags, type of the numbers
        for bit in range(8):
            changed = bytearray(raw)
            changed[place] ^= 1 << bit
            file.write_bytes(changed)
            try:
                digits69.load(file)
            except ValueError as error:
                seen += digits69.FILE in str(error)
    assert seen > 60


@pytest.mark.parametrize("packed", [False, True])
def test_sound_matlab_files_of_every_kind_are_sound(tmp_path, packed):
    content = {
        "floats": np.arange(5.0), "complex": np.ones((3, 4), complex), "text": "text", "none": np.zeros((0, 3)),
        "cells": np.array([1, "x", np.ones(2)], dtype=object), "struct": {"f": 1, "g": "h"}, "bool": np.array([True]),
        "bytes": np.array([1, 2], np.uint8), "sparse": scipy.sparse.eye(4).tocsc(), "a_long_name_of_it": 1,
    }  # fmt: skip
    savemat(tmp_path / "a.mat", content, do_compression=packed)
    assert expect_whole(tmp_path / "a.mat", "") is packed


def test_the_nearest_lock_file_is_asked(tmp_path, caplog):
    file = tmp_path / "bold5000" / "a" / "b.npy"
    file.parent.mkdir(parents=True)
    np.save(file, np.arange(3.0))
    with caplog.at_level(logging.INFO):
        verified([file])
    assert f"1 of 1 files have no check sum of their own and no recorded hash (first: {file})" in caplog.text
    assert caplog.records[0].levelno == logging.INFO and "download get" not in caplog.text
    caplog.clear()
    verified([file], "bold5000")
    assert "visdec-lite download get bold5000 records one" in caplog.text
    caplog.clear()
    record(tmp_path)
    verified([file], "bold5000")
    assert not caplog.text
    np.save(file, np.arange(1, 4.0))
    with pytest.raises(ValueError, match=r"b\.npy has sha256 .*, recorded when it came was .*get bold5000"):
        verified([file], "bold5000")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"files": []}', '{"files": {"a": 3}}', '{"files": {"a": {}}}'])
def test_a_damaged_lock_file_is_named(tmp_path, text):
    (tmp_path / LEDGER).write_text(text)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match=rf"{LEDGER} cannot be read as the downloader's lock file .*delete it"):
        verified([tmp_path / "a.txt"])


def test_values_no_scanner_gives_are_named(tmp_path):
    voxels = np.random.default_rng(0).normal(100, 2, (5, 4))
    refuse_absurd(voxels, tmp_path)
    refuse_absurd(np.array([np.nan, np.inf, -np.inf, 1e6]), tmp_path)  # these are for whoever knows what they mean
    refuse_absurd(np.array([2**40]), tmp_path)
    voxels[3, 2], voxels[4, 0] = -1e300, 1e7
    with pytest.raises(ValueError, match=r"2 of 20 values of .* are beyond 1e\+06 \(first: -1e\+300 at \(3, 2\)"):
        refuse_absurd(voxels, tmp_path)


def test_a_loaded_image_is_verified_while_its_voxels_are_on_disk(tmp_path):
    write_nifti(tmp_path, ".nii.gz")
    files = sorted(tmp_path.glob("run-*_bold*"))
    raw = bytearray(files[0].read_bytes())
    raw[-6] ^= 1  # in the check sum
    files[0].write_bytes(raw)
    images = [nibabel.load(file) for file in files]
    tables = sorted(tmp_path.glob("run-*.tsv"))
    with pytest.raises(ValueError, match=r"run-0_bold\.nii\.gz cannot be read as a \.gz file \(CRC"):
        from_nifti(images, tables, test_runs=[1], mask=test_nifti.full_mask())
