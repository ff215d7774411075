"""A folder that knows its own bytes: nothing changes in it unseen, and it is whole or not there."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visdec_lite.files import sha256_of
from visdec_lite.manifest import MANIFEST, verify, whole_folder

MADE_BY = {"seed": 3, "config": {"rate": 0.5, "name": "wörter", "none": None}}


def fill(folder: Path, word: str = "one") -> None:
    (folder / "part").mkdir()
    (folder / "part" / "weights").write_bytes(bytes(range(256)))
    (folder / "part" / "config.json").write_text(word)
    (folder / "index.json").write_text(word)


@pytest.fixture
def saved(tmp_path) -> Path:
    with whole_folder(tmp_path / "saved", MADE_BY) as folder:
        fill(folder)
    return tmp_path / "saved"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_sums_are_sha256_of_every_file_and_come_with_what_made_them(saved):
    content = json.loads((saved / MANIFEST).read_text())
    assert content["files"] == {name: sha256_of(saved / name) for name in files_of(saved) if name != MANIFEST}
    assert verify(saved) == MADE_BY
    assert sorted(path.name for path in saved.parent.iterdir()) == ["saved"], "nothing is left beside it"
    assert saved.stat().st_mode == (saved / "part").stat().st_mode, "readable as any other folder"


@settings(derandomize=True, deadline=None, max_examples=200)
@given(which=st.integers(0, 3), place=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_no_flipped_bit_and_no_cut_passes(tmp_path_factory, which, place, bit, cut):
    """The manifest carries a sum of its own."""
    folder = tmp_path_factory.mktemp("try") / "saved"
    with whole_folder(folder, {}) as new:
        fill(new)
    path = folder / ["part/weights", "part/config.json", "index.json", MANIFEST][which]
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place] ^= 1 << bit
    changed = bytes(content[:place] if cut else content)
    if path.name == MANIFEST and json_or_none(changed) == json.loads(path.read_bytes()):
        return  # a space became another space
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=r"is not as it was saved: |manifest.json is damaged"):
        verify(folder)
    shutil.rmtree(folder.parent)


def json_or_none(content: bytes):
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_missing_and_foreign_files_are_named_and_notes_beside_are_free(saved):
    (saved / "README.md").write_text("notes")
    assert verify(saved) == MADE_BY
    (saved / "part" / "weights").unlink()
    (saved / "part" / "other.bin").touch()
    with pytest.raises(ValueError, match=r"part/weights is missing; part/other.bin was not saved with it.*delete mani"):
        verify(saved)


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", "3", '{"format": 1', '{"made_by": {}, "files": {}}'])
def test_damaged_manifest_is_named(saved, content):
    (saved / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged.*delete it"):
        verify(saved)


def test_no_manifest_is_said(saved, caplog):
    (saved / MANIFEST).unlink()
    assert verify(saved) is None
    assert "has no manifest.json: its files are taken as they are" in caplog.text


def test_an_error_leaves_what_was_there(saved):
    before = files_of(saved)
    for place in (saved, saved.parent / "new"):
        with pytest.raises(OSError, match="disk full"), whole_folder(place, {}) as folder:
            fill(folder, "two")
            raise OSError("disk full")
    assert files_of(saved) == before and [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_saving_again_replaces_and_keeps_notes(saved):
    (saved / "README.md").write_text("notes")
    with whole_folder(saved, {"seed": 4}) as folder:
        fill(folder, "two")
    assert verify(saved) == {"seed": 4}
    assert (saved / "index.json").read_text() == "two" and (saved / "README.md").read_text() == "notes"


@pytest.mark.parametrize("moves", [1, 2, 3])
def test_a_cut_between_two_files_of_an_old_folder_is_seen(saved, monkeypatch, moves):
    """The manifest is the last to be replaced: until then it names what is new."""
    real, done = os.replace, []

    def replace(source, target):
        if Path(target).is_relative_to(saved):
            done.append(target)
            if len(done) > moves:
                raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt), whole_folder(saved, {"seed": 4}) as folder:
        fill(folder, "two")
        (folder / "part" / "weights").write_bytes(b"two")
    monkeypatch.setattr(os, "replace", real)
    with pytest.raises(ValueError, match="holds other bytes than were saved"):
        verify(saved)


def test_what_json_cannot_hold_and_a_file_in_the_way_are_told_before_the_work(tmp_path):
    with pytest.raises(TypeError), whole_folder(tmp_path / "x", {"a": object()}):
        pytest.fail("it was at work")
    with pytest.raises(OSError, match=r"no room \(1000000000\.0 MB are"), whole_folder(tmp_path / "x", {}, 10**15):
        pytest.fail("it was at work")
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match="is a file, and a folder is needed there; choose another place"),
        whole_folder(tmp_path / "file", {}),
    ):
        pytest.fail("it was at work")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
