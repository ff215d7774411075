"""Which devices this machine has, and whether the stages of a run can use the one that was asked for.

In: a word, and the training configs of the stages. Out: nothing, or a `ValueError` before anything is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

import torch

from visdec_lite.training import TrainingConfig, check_precision


def devices() -> list[str]:
    """What may be asked for here, the best last: cpu, mps, cuda, and cuda:0, cuda:1, ... where there are several."""
    found = ["cpu"] + (["mps"] if torch.backends.mps.is_available() else [])
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return found + (["cuda"] if count else []) + [f"cuda:{number}" for number in range(count)]


def check_device(device: str | None, trainings: Iterable[TrainingConfig] = ()) -> None:
    """A device that is there, and stages that can be trained on it.

    Args:
        device: as torch spells it; None: the best there is.
        trainings: of every stage.

    Raises:
        ValueError: no such device here, or one that a stage's mixed precision cannot use.
        ImportError: a stage is to log to tensorboard, which is not installed.
    """
    there = devices()
    if device is not None and device not in there:
        raise ValueError(f"no device {device!r} here; there are {', '.join(there)}; without the word the best is taken")
    for training in trainings:
        check_precision(training, (device or there[-1]).partition(":")[0])
        if training.log == "tensorboard" and find_spec("tensorboard") is None:
            raise ImportError("log 'tensorboard' needs a package: pip install tensorboard; or log to 'csv'")
