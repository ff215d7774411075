"""Fixtures that every test file may use."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Models as small as those in tests spend their time handing work to threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def signals_are_heard() -> None:
    """In a background job of a shell, and under nohup, Ctrl-C and SIGHUP are ignored, by children too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def shared_data() -> Path:
    """Folder with recordings of real people that may not be part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}")
    return folder
