"""A model's weights on disk, with the configuration that built it and all that shaped them inside the file.

In: a model, its kind and its config. Out: one sealed safetensors file (`sealed`); and back, with every disagreement
named. Nothing is loaded "as far as it fits", and no number that is not finite.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from visdec_lite.identity import differences
from visdec_lite.sealed import open_tensors, write_tensors


def save_weights(
    path: str | os.PathLike[str],
    model: nn.Module,
    kind: str,
    config: Mapping[str, Any],
    *,
    only: Callable[[str], bool] | None = None,
    half: bool = False,
    card: Mapping[str, Any] | None = None,
    identity: Mapping[str, str] | None = None,
) -> None:
    """Write a model's state.

    Args:
        path: the file, usually *.safetensors.
        model: whose state_dict is kept.
        kind: a word for what this is, such as "pretrained"; asked for when loading.
        config: what a reader must agree on; plain values.
        only: which names to keep; None keeps all.
        half: keep float16, half the size; loading gives float32 again.
        card: what came of making it (seconds, validation); for people, not checked.
        identity: all that shaped it, as `training.TrainingResult.identity` has it.

    Raises:
        ValueError: a weight is NaN or infinite, or beyond what float16 holds.
    """
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items() if only is None or only(name)}
    if half:
        state = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    for name, tensor in state.items():
        _expect_finite(tensor, f"{name} of {type(model).__name__}", "nothing was written; train with a lower rate")
    words = {"config": config, "card": card or {}, "identity": identity or {}}
    said = {"format": "visdec_lite", "kind": kind, **{name: json.dumps(value) for name, value in words.items()}}
    write_tensors(path, state, said)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """kind, config, card, identity and sha256 of a weights file, whose bytes are checked.

    Raises:
        FileNotFoundError, ValueError: it is not there, damaged, or not such a file.
    """
    with _open(path) as file:
        return _metadata_of(path, file)


def load_weights(
    path: str | os.PathLike[str],
    model: nn.Module,
    kind: str,
    config: Mapping[str, Any],
    *,
    only: Callable[[str], bool] | None = None,
) -> dict[str, Any]:
    """Read weights into `model`, in place; returns their card.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: damaged, not finite, of another kind or config, or with other names or shapes; each difference is
            named, and the model stays as it was.
    """
    wanted = {name: tensor for name, tensor in model.state_dict().items() if only is None or only(name)}
    with _open(path) as file:
        metadata = _metadata_of(path, file)
        if metadata["kind"] != kind:
            raise ValueError(f"{path} holds {metadata['kind']!r} weights, expected {kind!r}")
        if words := differences(metadata["config"], json.loads(json.dumps(config)), most=6):
            raise ValueError(f"{path} was made with another config: {words}. Use that, or train these weights anew")
        found = set(file.keys())
        missing, unexpected = sorted(set(wanted) - found), sorted(found - set(wanted))
        if missing or unexpected:
            raise ValueError(
                f"{path} does not fit: {len(missing)} names missing ({', '.join(missing[:3])}), "
                f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])}); it was written by another version"
            )
        tensors = {name: file.get_tensor(name) for name in wanted}
        for name, tensor in tensors.items():  # all of them before the first is copied
            if tensor.shape != wanted[name].shape:
                raise ValueError(f"{path}: {name} is {tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}")
            _expect_finite(tensor, f"{path}: {name}", "train these weights anew")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(tensors[name])
    return metadata["card"]


def _expect_finite(tensor: torch.Tensor, what: str, way_out: str) -> None:
    if tensor.is_floating_point() and not (finite := tensor.isfinite()).all():
        raise ValueError(f"{what} holds {int((~finite).sum())} values of NaN or infinity, expected none; {way_out}")


def _open(path: str | os.PathLike[str]) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}; train them first (visdec-lite train --help) or check the path")
    return open_tensors(path)


def _metadata_of(path: str | os.PathLike[str], file: Any) -> dict[str, Any]:
    said = file.metadata()
    if said.get("format") != "visdec_lite" or not {"kind", "config", "card", "identity"} <= said.keys():
        raise ValueError(f"{path} was not written by visdec_lite: its format is {said.get('format')!r}")
    told = {name: json.loads(said[name]) for name in ("config", "card", "identity")}
    return {"kind": said["kind"], **told, "sha256": said["sha256"]}
