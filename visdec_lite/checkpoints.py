"""Weights on disk: safetensors, with the configuration that built the model inside the file.

In: a model, its kind and its config. Out: one file, written atomically; and back, with every disagreement named.
Nothing is ever unpickled here, and nothing is loaded "as far as it fits".
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from visdec_lite.files import atomic_path


def save_weights(
    path: str | os.PathLike[str],
    model: nn.Module,
    kind: str,
    config: Mapping[str, Any],
    *,
    only: Callable[[str], bool] | None = None,
    half: bool = False,
    card: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's state.

    Args:
        path: the file, usually *.safetensors.
        model: whose state_dict is kept.
        kind: a word for what this is, such as "pretrained"; asked for when loading.
        config: what a reader must agree on; plain values.
        only: which names to keep; None keeps all.
        half: keep float16, half the size; loading gives float32 again.
        card: what made it (seed, steps, seconds, validation); for people, not checked.
    """
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items() if only is None or only(name)}
    if half:
        state = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    metadata = {"format": "visdec_lite", "kind": kind, "config": json.dumps(config), "card": json.dumps(card or {})}
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary, metadata=metadata)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """kind, config and card of a weights file.

    Raises:
        FileNotFoundError, ValueError: it is not there, or not such a file.
    """
    with _open(path) as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != "visdec_lite":
        raise ValueError(f"{path} was not written by visdec_lite: its format is {metadata.get('format')!r}")
    return {"kind": metadata["kind"], "config": json.loads(metadata["config"]), "card": json.loads(metadata["card"])}


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
        ValueError: damaged, of another kind or config, or with other names or shapes; each difference is named.
    """
    metadata = read_metadata(path)
    if metadata["kind"] != kind:
        raise ValueError(f"{path} holds {metadata['kind']!r} weights, expected {kind!r}")
    theirs, ours = metadata["config"], json.loads(json.dumps(config))
    differing = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if differing:
        words = "; ".join(f"{name} was {theirs.get(name)!r}, now {ours.get(name)!r}" for name in differing[:6])
        raise ValueError(f"{path} was made with another config: {words}. Use that config, or train these weights anew")
    wanted = {name: tensor for name, tensor in model.state_dict().items() if only is None or only(name)}
    with _open(path) as file:
        found = set(file.keys())
        missing, unexpected = sorted(set(wanted) - found), sorted(found - set(wanted))
        if missing or unexpected:
            raise ValueError(
                f"{path} does not fit: {len(missing)} names missing ({', '.join(missing[:3])}), "
                f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])}); it was written by another version"
            )
        for name, tensor in wanted.items():  # all of them before the first is copied
            shape = tuple(file.get_slice(name).get_shape())
            if shape != tuple(tensor.shape):
                raise ValueError(f"{path}: {name} is {shape}, expected {tuple(tensor.shape)}")
        with torch.no_grad():
            for name, tensor in wanted.items():
                tensor.copy_(file.get_tensor(name))
    return metadata["card"]


def _open(path: str | os.PathLike[str]) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}; train them first (visdec-lite train --help) or check the path")
    try:
        return safe_open(str(path), framework="pt", device="cpu")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); delete it and make it again") from error
