"""What is here, what is not, and the way out."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from visdec_lite import doctor
from visdec_lite.datasets import LOADERS


def by_name() -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.examine()}


def test_a_healthy_place_has_packages_weights_and_disk():
    findings = by_name()
    for what in ("python", "packages", "device", "weights: simulated", "weights: digits69", "disk"):
        assert findings[what].well, findings[what]


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    real = doctor.version

    def version(name: str) -> str:
        if name == "pytest":
            raise PackageNotFoundError(name)
        return "0.0.1" if name == "ruff" else real(name)

    monkeypatch.setattr(doctor, "version", version)
    finding = by_name()["packages [test]"]
    assert not finding.well
    assert "pytest (missing)" in finding.found and "ruff (0.0.1)" in finding.found
    assert finding.remedy == 'pip install -e ".[test]"' and finding.remedy in str(finding)


def test_data_sets_are_found_where_visdec_data_says(monkeypatch, tmp_path):
    monkeypatch.setenv("VISDEC_DATA", str(tmp_path))
    assert not by_name()["data: digits69"].well
    (tmp_path / "digits69").mkdir()
    (tmp_path / "digits69" / "digit69_28x28.mat").touch()
    assert by_name()["data: digits69"].well
    assert "1 files here" in next(line for line in doctor.dataset_table() if line.startswith("digits69"))


def test_the_table_has_every_data_set_with_its_licence(monkeypatch, tmp_path):
    monkeypatch.setenv("VISDEC_DATA", str(tmp_path))
    table = "\n".join(doctor.dataset_table())
    for name in LOADERS:
        assert f"\n{name} " in table
    assert table.count("licence: ") == len(LOADERS)
    assert str(tmp_path) in table


def test_folders_that_cannot_be_written_are_told_with_the_variable_that_names_another(monkeypatch, tmp_path):
    for name in ("VISDEC_CACHE", "XDG_CACHE_HOME", "VISDEC_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/proc/nowhere")  # cannot be made, whoever runs this
    findings = by_name()
    assert findings["folder: data"].well and findings["folder: data"].found == str(tmp_path / "data")
    for what, variable in (("folder: cache", "VISDEC_CACHE"), ("folder: home", "MPLCONFIGDIR")):
        assert not findings[what].well and variable in findings[what].remedy, what
        assert findings[what].found.startswith("/proc/nowhere") and "cannot be written" in findings[what].found
    monkeypatch.setenv("VISDEC_CACHE", str(tmp_path / "file" / "below"))
    assert by_name()["folder: cache"].well, "it could be made"
    (tmp_path / "file").touch()
    assert not by_name()["folder: cache"].well, "a file is in its place"


def test_a_full_disk_is_told(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=5e8))
    assert str(by_name()["disk"]).splitlines()[0].endswith("0.5 GB free here") and not by_name()["disk"].well


@pytest.mark.parametrize(("megabytes", "words"), [(0.0, "-"), (2.4, "2.4 MB"), (438, "438 MB"), (1800, "1.8 GB")])
def test_sizes(megabytes, words):
    assert doctor._size(megabytes) == words


def test_nothing_is_made_or_asked(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISDEC_DATA", "nowhere")
    doctor.examine(), doctor.dataset_table()
    assert not list(Path(tmp_path).iterdir())
