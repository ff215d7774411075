"""What a result is of: everything that shaped it, as words that can be compared.

In: a model, the rows it learns from, the numbers of a run. Out: a flat dict of plain values, the same for the same run
on any machine; and sentences that name each difference between two of them. Checkpoints, weights, result tables and
lessons carry it, so that nothing is taken for what it is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # a list of data sets does not wait for torch
    from torch import Tensor, nn

BLOCK = 1 << 26  # bytes of a memory map that are read at once


def differences(found: Mapping[str, Any], asked: Mapping[str, Any], most: int = 8) -> str:
    """Each difference in words, "x was 1, now 2; y was 3, now 4"; empty if there is none.

    Args:
        found: name -> value, as it was kept.
        asked: the same, as it is wanted now.
        most: so many are named, the rest are counted.
    """
    nothing = object()
    names = [name for name in {**found, **asked} if found.get(name, nothing) != asked.get(name, nothing)]
    told = ([repr(side[name]) if name in side else "absent" for side in (found, asked)] for name in names[:most])
    words = [f"{name} was {old}, now {new}" for name, (old, new) in zip(names, told, strict=False)]
    return "; ".join(words + ([f"and {len(names) - most} more"] if len(names) > most else []))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names: {"a": {"b": 1}} -> {"a.b": 1}."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        out.update(flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return out


def configs_of(model: nn.Module) -> dict[str, Any]:
    """Every number that built a model and is not among its weights (mask ratio, temperature, heads, ...).

    Modules of this package keep theirs in `config`, a dataclass or a mapping; `layers` is a hash of the whole tree
    as it prints itself, which tells the dropout of a plain `nn.Dropout`.
    """
    out: dict[str, Any] = {}
    told: set[int] = set()  # parts of one model share its config
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        if id(config) in told:
            continue
        told.add(id(config))
        if is_dataclass(config) and not isinstance(config, type):
            config = asdict(config)
        if isinstance(config, Mapping) and type(module).__module__.startswith("visdec_lite."):
            own = {key: value for key, value in config.items() if not key.startswith("_")}
            out.update(flat(own, f"{name}.config." if name else "config."))
    return {**out, "layers": hashlib.sha256(repr(model).encode()).hexdigest()[:16]}


def fingerprint_of(rows: Any) -> str:
    """SHA-256 of an array, tensor or memory map with its type and shape; a pool on disk knows its own.

    Returns:
        Shape in words and the first 16 digits, such as "(4800, 1600) 9f3c0d5e6a7b8c9d".
    """
    if hasattr(rows, "content"):
        return f"{tuple(rows.shape)} {rows.content[:16]}"
    values = rows
    if hasattr(rows, "detach"):
        import torch

        values = rows.detach().cpu()
        values = (values.view(torch.int16) if values.dtype is torch.bfloat16 else values).numpy()
    digest = hashlib.sha256(str(rows.dtype).removeprefix("torch.").encode())
    values = values.reshape(-1) if values.ndim == 0 else values
    step = max(1, BLOCK // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):
        digest.update(np.ascontiguousarray(values[start : start + step]).reshape(-1).view(np.uint8))
    return f"{tuple(rows.shape)} {digest.hexdigest()[:16]}"


def fingerprint_of_weights(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of named tensors, in order of their names: 16 digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(named):
        digest.update(f"{name} {fingerprint_of(tensor)}\n".encode())
    return digest.hexdigest()[:16]
