"""Processes of this very package: whatever else is installed, lies in the working folder or is set up by the user.

In: nothing. Out: the words that start Python, and an environment in which the package is found where this file lies
and matplotlib draws as it does out of the box.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path


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
