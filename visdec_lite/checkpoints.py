"""A run that can be cut anywhere: pairs of checkpoints that know what they are of, and a log of its numbers.

In: tensors and plain values, nested as a training loop has them. Out: a sealed file (`sealed`) and the one before it,
so that an unreadable last one costs only the way back to the one before. Nothing is ever unpickled.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visdec_lite.sealed import open_tensors, write_tensors

logger = logging.getLogger(__name__)

NAME = "checkpoint.safetensors"
REST = "everything but tensors"  # JSON as bytes: a header is bounded, a history is not


def previous_path(path: Path) -> Path:
    """Where the checkpoint before the last one lies: checkpoint.previous.safetensors."""
    return path.with_stem(f"{path.stem}.previous")


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values to `path`; what was there becomes `previous_path(path)`.

    Raises:
        CannotWrite: no room or no permission; the last checkpoint is still there.
    """
    tensors: dict[str, Tensor] = {}
    rest = json.dumps(_without_tensors(state, tensors))
    tensors[REST] = torch.from_numpy(np.frombuffer(rest.encode(), dtype=np.uint8).copy())
    write_tensors(path, tensors, {"format": "visdec_lite checkpoint"}, previous=previous_path(path))


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read the last checkpoint that can be read, onto the CPU; None if there is none.

    A last checkpoint that cannot be read is set aside as `<name>.broken.safetensors`, with a logged warning.

    Raises:
        ValueError: there are checkpoints and none can be read.
    """
    broken: list[str] = []
    for candidate in (path, previous_path(path)):
        if not candidate.exists():
            continue
        try:
            with open_tensors(candidate) as file:
                rest = json.loads(file.get_tensor(REST).numpy().tobytes())
                state = _with_tensors(rest, file)
        except ValueError as error:
            logger.warning("%s", error)
            broken.append(str(candidate))
            continue
        if broken:
            aside = path.with_stem(f"{path.stem}.broken")
            os.replace(path, aside)
            logger.warning("going on from %s, the one before it; the broken one is now %s", candidate, aside)
        return state
    if broken:
        raise ValueError(f"no checkpoint can be read: {', '.join(broken)}; delete them to start anew")
    return None


def _without_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON keeps it; tensors go into `tensors` and leave their number, names of any kind become pairs."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"pairs": [[key, _without_tensors(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        return [_without_tensors(inner, tensors) for inner in value]
    return value


def _with_tensors(value: Any, file: Any) -> Any:
    if isinstance(value, list):
        return [_with_tensors(inner, file) for inner in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return file.get_tensor(value["tensor"])
        return {key: _with_tensors(inner, file) for key, inner in value["pairs"]}
    return value


class HistoryFile:
    """The history as a file: history.csv with one number a line, or TensorBoard events."""

    def __init__(self, out_dir: str | os.PathLike[str] | None, kind: str, history: Sequence[Mapping[str, Any]]) -> None:
        self.file, self.board = None, None
        if out_dir is None or kind == "none":
            return
        out_dir = Path(out_dir)
        out_dir.mkdir(parents=True, exist_ok=True)
        if kind == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter  # an extra; only this choice needs it

            self.board = SummaryWriter(str(out_dir), purge_step=len(history) and history[-1]["step"] + 1)
            return
        self.file = (out_dir / "history.csv").open("w", newline="", encoding="utf-8")
        self.file.write("step,split,term,value\n")
        for row in history:  # written anew: a killed run may have logged steps that its checkpoint does not know
            self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in row.items() if name not in ("step", "split")}
        if self.board:
            for name, value in numbers.items():
                self.board.add_scalar(f"{row['split']}/{name}", value, row["step"])
        if self.file:
            lines = csv.writer(self.file, lineterminator="\n")
            lines.writerows((row["step"], row["split"], name, value) for name, value in numbers.items())
            self.file.flush()

    def __enter__(self) -> HistoryFile:
        return self

    def __exit__(self, *error: object) -> None:
        for target in (self.file, self.board):
            if target:
                target.close()
