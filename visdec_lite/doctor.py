"""What is here, what is not, and what to do about it: `visdec-lite doctor` and `visdec-lite datasets`.

Enters: nothing but this machine. Leaves: lines of text. Nothing is changed and nothing is asked of the network.
"""

from __future__ import annotations

import platform
import shutil
import textwrap
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from packaging.requirements import Requirement

from visdec_lite import chain
from visdec_lite.datasets import LOADERS
from visdec_lite.files import cache_home, data_home
from visdec_lite.own_python import can_write, user_home

LEAST_FREE_GB = 2.0  # a class run with its checkpoints takes well below this


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is well, what was found and, if it is not well, the way out."""

    what: str
    well: bool
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{'ok' if self.well else '--':3s}{self.what:24s}{self.found}"
        return line if self.well or not self.remedy else f"{line}\n{'':27s}{self.remedy}"


def examine() -> list[Finding]:
    """Python, packages, device, shipped weights, data sets, folders, disk."""
    return [_python(), *_packages(), _device(), *_weights(), *_datasets(), *_folders(), _disk()]


def dataset_table() -> list[str]:
    """A line a data set: name, size, what is on disk, what it is, licence."""
    lines = [f"data folder: {data_home().resolve()} (set VISDEC_DATA to move it)", ""]
    for name, module in _modules().items():
        files = module.found()
        here = "built in" if name == "simulated" else f"{len(files)} files here" if files else "not here"
        lines.append(f"{name:12s}{_size(module.MEGABYTES):>9s}  {here:14s}{module.TITLE}")
        lines += textwrap.wrap(f"licence: {module.LICENCE}", 80, initial_indent=" " * 37, subsequent_indent=" " * 46)
    return [*lines, "", "get one: visdec-lite download get NAME"]


def _modules() -> dict[str, object]:
    return {name: import_module(f"visdec_lite.datasets.{module}") for name, module in LOADERS.items()}


def _size(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.3g} MB" if megabytes else "-"


def _python() -> Finding:
    words = tuple(int(part) for part in platform.python_version_tuple()[:2])
    return Finding("python", words >= (3, 11), platform.python_version(), "Python 3.11 or newer is needed")


def _packages() -> list[Finding]:
    """Every extra of the package and what of it is missing or too old."""
    own = metadata("visdec-lite")
    wanted = [Requirement(text) for text in own.get_all("Requires-Dist") or []]
    findings = []
    for extra in ["", *(own.get_all("Provides-Extra") or [])]:
        named = [r for r in wanted if r.name != "visdec-lite" and _belongs(r, extra)]
        if not named:
            continue
        bad = [f"{r.name} ({_installed(r.name) or 'missing'})" for r in named if not _fits(r)]
        label = f"packages [{extra}]" if extra else "packages"
        remedy = f'pip install -e ".[{extra}]"' if extra else "pip install -e ."
        findings.append(Finding(label, not bad, ", ".join(bad) or f"{len(named)} there", remedy))
    return findings


def _belongs(requirement: Requirement, extra: str) -> bool:
    if requirement.marker is None:
        return extra == ""
    return (
        bool(extra) and requirement.marker.evaluate({"extra": extra}) and not requirement.marker.evaluate({"extra": ""})
    )


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _fits(requirement: Requirement) -> bool:
    found = _installed(requirement.name)
    return found is not None and requirement.specifier.contains(found, prereleases=True)


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", True, f"cuda: {torch.cuda.get_device_name()}")
    if torch.backends.mps.is_available():
        return Finding("device", True, "mps: Apple GPU")
    return Finding("device", True, f"cpu, {torch.get_num_threads()} threads; presets smoke and class are made for it")


def _weights() -> list[Finding]:
    findings = []
    for name in chain.PICTURES:
        files = sorted(chain.shipped(name).glob("*.safetensors"))
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        remedy = f"python benchmarks/make_assets.py --world {name}"
        findings.append(Finding(f"weights: {name}", bool(files), f"{len(files)} files, {megabytes:.0f} MB", remedy))
    return findings


def _datasets() -> list[Finding]:
    findings = []
    for name, module in _modules().items():
        if name == "simulated":
            continue
        files = module.found()
        findings.append(
            Finding(f"data: {name}", bool(files), f"{len(files)} files", f"visdec-lite download get {name} (optional)")
        )
    return findings


def _folders() -> list[Finding]:
    """Whether there is room for what is kept; without it all works, but some of it is made again every time."""
    places = {
        "folder: data": (data_home(), "set VISDEC_DATA to a folder that can be written, or give --to"),
        "folder: cache": (cache_home(), "set VISDEC_CACHE, else the simulated subject is computed at every start"),
        "folder: home": (
            user_home(),
            "set HOME or XDG_CACHE_HOME, MPLCONFIGDIR, HF_HOME and TORCH_HOME to folders that can be written; "
            "`run` and `lab` do without",
        ),
    }
    findings = []
    for what, (folder, way_out) in places.items():
        well = can_write(folder)
        findings.append(Finding(what, well, f"{folder.absolute()}{'' if well else ': cannot be written'}", way_out))
    return findings


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return Finding("disk", free > LEAST_FREE_GB, f"{free:.1f} GB free here", f"{LEAST_FREE_GB:.0f} GB are advised")
