"""Processes of this very package: whatever else is installed, lies in the working folder or is set up by the user.

In: nothing. Out: the words that start Python, an environment in which the package is found where this file lies and
matplotlib draws as it does out of the box, and other places for what Jupyter and others keep in a home folder.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryFile

JUPYTER_FOLDERS = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")


def python_module(name: str) -> list[str]:
    """The words that run a module with this Python; the working folder hides no module (`-P`)."""
    return [sys.executable, "-P", "-m", name]


def environment(**further: str) -> dict[str, str]:
    """Variables of a process that has to import this very package, and `further` ones.

    A package that is not installed but lies in a clone comes first on PYTHONPATH. PYTHONSTARTUP and the user's
    matplotlibrc, which could turn every picture upside down, are left behind.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONSTARTUP", "MPLBACKEND")}
    home = str(Path(__file__).resolve().parents[1])
    if home not in sysconfig.get_paths().values():
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    return {**kept, "MATPLOTLIBRC": os.devnull, **further}


def elsewhere(folder: str) -> dict[str, str]:
    """Variables that send there what Jupyter keeps for a user, and matplotlib too, if the home folder takes nothing."""
    names = JUPYTER_FOLDERS if can_write(user_home()) else (*JUPYTER_FOLDERS, "MPLCONFIGDIR")
    return dict.fromkeys(names, folder)


def user_home() -> Path:
    """The user's home folder; where there is none, as for a nameless user of a container, a path that is not there."""
    return Path(os.path.expanduser("~"))


def can_write(folder: Path) -> bool:
    """Whether a folder takes files, or could be made; tried with a file that has no name and leaves nothing."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), None)
    try:
        with TemporaryFile(dir=there):
            return True
    except OSError:
        return False
