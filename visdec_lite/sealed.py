"""Arrays on disk in files that know when they are damaged: safetensors with a SHA-256 of itself inside.

In: named tensors and a few words. Out: one file, whole or absent, that any safetensors reader opens; and back, after
every byte was checked. Nothing is ever unpickled. The seal is the SHA-256 of the whole file with the seal's own 64
digits written as zeros, so header and data are covered alike.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from visdec_lite.files import atomic_path

logger = logging.getLogger(__name__)

EMPTY = "0" * 64  # where the seal will stand
LONGEST_HEADER = 100_000_000  # bytes, as safetensors itself allows
ANEW = "delete it and make it again"


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], words: Mapping[str, str], previous: Path | None = None
) -> str:
    """Write tensors and words, sealed.

    Args:
        path: the file, usually *.safetensors.
        tensors: name -> tensor on any device; views are written as their values.
        words: name -> text, in the file's header.
        previous: where the file goes that was at `path` before; None gives it up.

    Returns:
        The seal: SHA-256 in 64 hexadecimal digits.

    Raises:
        CannotWrite: no room (asked before the first byte), no permission.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in whole.values())
    with atomic_path(path, size, previous) as temporary:
        try:
            save_file(whole, temporary, metadata={**words, "sha256": EMPTY})
        except SafetensorError as error:
            if found := re.search(r"os error (\d+)", str(error)):  # the system's own number, in words only
                raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
            raise
        seal, place = _digest(temporary)
        with open(temporary, "r+b") as stream:
            stream.seek(place)
            stream.write(seal.encode())
    return seal


@contextmanager
def open_tensors(path: str | os.PathLike[str]) -> Iterator[Any]:
    """A sealed file as `safetensors.safe_open` gives it; what is read counts once the block has ended without an error.

    Another thread reads every byte meanwhile, so that checking costs hardly any time: take tensors out, and use them
    after the block.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: damaged, or not sealed by `write_tensors`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"nothing is at {path}; check the path, or make the file first")
    try:
        file = safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); {ANEW}") from error
    with file, ThreadPoolExecutor(1) as other:
        seal = (file.metadata() or {}).get("sha256")
        if seal is None:
            raise ValueError(f"{path} carries no SHA-256: it was not written by this version of visdec_lite; {ANEW}")
        found = other.submit(_digest, Path(path), seal)
        try:
            yield file
        finally:  # damage is the better reason for whatever went wrong in the block
            if found.result()[0] != seal:
                raise ValueError(f"{path} is damaged: its bytes do not fit the SHA-256 that it carries; {ANEW}")


def cached(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays as an earlier call kept them at `path`, or as `make` gives them; a cache is never in the way.

    A damaged file is made anew, with a warning; a place that cannot be written costs the time, and is told once.
    """
    try:
        with open_tensors(path) as file:
            return {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError:
        pass
    except ValueError as error:
        logger.warning("the cache is made anew: %s", error)
    except OSError as error:
        logger.warning("the cache cannot be read and is made anew: %s", error)
    arrays = make()
    try:
        write_tensors(path, {name: torch.from_numpy(array) for name, array in arrays.items()}, {})
    except OSError as error:
        _tell_once(f"going on without a cache ({error}); the environment's VISDEC_CACHE may name another folder")
    return arrays


@lru_cache
def _tell_once(words: str) -> None:
    logger.warning(words)


def _digest(path: Path, seal: str = EMPTY) -> tuple[str, int]:
    """SHA-256 of a file with zeros for its seal, read piece by piece; and where the seal stands."""
    with open(path, "rb") as stream:
        length = stream.read(8)
        header = stream.read(min(int.from_bytes(length, "little"), LONGEST_HEADER))
        at = header.find(json.dumps({"sha256": seal}, separators=(",", ":"))[1:-1].encode())
        if at < 0:
            return "", 0
        at += len('"sha256":"')
        digest = hashlib.sha256(length + header[:at] + EMPTY.encode() + header[at + len(EMPTY) :])
        block = memoryview(bytearray(1 << 20))
        while count := stream.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest(), 8 + at
