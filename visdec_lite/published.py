"""The fMRI encoders that people publish for this method, read without running what is in the file.

In: a `.pth` file of MinD-Vis (Chen et al., 2023) or of Sun et al. (2023): a pickle of a dict with `model` (tensors) and
`config` (an object of a class in a module named `config`), phase 1 or phase 2. Out: a `MaskedAutoencoder`.

A pickle is a program. It is opened with `weights_only=True`, which builds tensors, numbers, words, lists and dicts
only; for `config.*` an empty class stands in, and any other name is refused before anything runs. Tried on files
made in the published layout; no published file was at hand.
"""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from visdec_lite.fields import is_number, is_whole
from visdec_lite.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig

logger = logging.getLogger(__name__)

SIZES = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "decoder_embed_dim", "decoder_num_heads")
DECODER = ("decoder", "mask_token")  # how names begin that are not the encoder's
PHASE_2 = ("cross_blocks.", "cross_map_in.", "cross_map_out.")  # not used when the encoder conditions a painter
POSITIONS = ("encoder.pos_embed", "decoder_pos_embed")
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name


class _Stub:
    """Takes what the file says of its config; does nothing."""


def load_published(path: str | os.PathLike[str], num_voxels: int | None = None) -> MaskedAutoencoder:
    """A published fMRI autoencoder, in evaluation mode; the cross-attention of phase 2 is left out, and said so.

    Args:
        path: the `.pth` file.
        num_voxels: of your scans, a whole number of patches (`preprocessing.pad_voxels`); None: as published. For
            another number the positions are stretched along the patches, as the authors do.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not such a file, one that is damaged or wants to run something else, tensors that are not finite
            or do not fit its config.
    """
    content = open_safely(path)
    missing = {"model", "config"} - set(content)
    if missing:
        raise ValueError(f"{path} lacks {' and '.join(sorted(missing))}: it holds {', '.join(map(str, content))}")
    tensors = _unwrapped(content["model"], path)
    left_out = [name for name in tensors if name.startswith(PHASE_2)]
    if left_out:
        logger.info("%s: %d tensors of phase 2's cross-attention are left out", path, len(left_out))
    state = {_our_name(name): tensor for name, tensor in tensors.items() if name not in left_out}
    config = _config_of(content["config"], state, path)
    if num_voxels is not None and num_voxels != config.num_voxels:
        if num_voxels % config.patch_size:
            raise ValueError(
                f"{num_voxels} voxels are no whole number of patches of {config.patch_size}; "
                f"preprocessing.pad_voxels(voxels, multiple={config.patch_size})"
            )
        for name in POSITIONS:
            state[name] = stretch_positions(state[name], num_voxels // config.patch_size)
        config = MaskedAutoencoderConfig(**{**vars(config), "num_voxels": num_voxels})
    with torch.device("meta"):  # shapes without memory, until they are known to fit
        wanted = MaskedAutoencoder(config).state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} has no place" for name in state if name not in wanted]
    problems += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{path} does not fit its own config: {'; '.join(problems[:5])}{more}")
    model = MaskedAutoencoder(config)
    model.load_state_dict(state)
    return model.eval()


def open_safely(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dict in a `.pth` file; `config.*` objects come as empty ones with the file's numbers.

    Raises:
        FileNotFoundError, ValueError: see `load_published`.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise FileNotFoundError(f"{path} {what}; give the .pth file of a published fMRI encoder")
    with open(path, "rb"):  # what the file system says against it, it may say itself
        pass
    try:
        _check_sums(path)
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception as error:  # a damaged pickle may raise anything
        raise _unreadable(path, error) from error
    strange = [name for name in names if not name.startswith("config.")]
    if strange:
        raise ValueError(
            f"{path} wants to run {', '.join(strange)}, and a published encoder needs none of these; nothing was "
            "run. Do not load it in another way"
        )
    try:
        with torch.serialization.safe_globals([(_Stub, name) for name in names]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dict with 'model' and 'config'")
    return content


def _check_sums(path: Path) -> None:
    """Compare the sums inside the file; torch does not."""
    if not zipfile.is_zipfile(path):
        raise ValueError("it does not end as what torch.save writes since 1.6")
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"check sum of {damaged} is wrong")


def _unreadable(path: Path, error: Exception) -> ValueError:
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(
        f"{path} is no checkpoint that can be opened safely, or is damaged or cut short ({words}); compare its "
        f"{path.stat().st_size} bytes with the source's, and fetch it again"
    )


def _unwrapped(tensors: Any, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Finite tensors by name, without what a wrapper put before every one."""
    sound = isinstance(tensors, Mapping) and all(isinstance(name, str) for name in tensors)
    if not sound or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError(f"{path}: 'model' is no dict of named tensors; expected a published fMRI autoencoder")
    for wrapper in (*WRAPPERS, *WRAPPERS):  # one may lie in the other
        if tensors and all(name.startswith(wrapper) for name in tensors):
            logger.info("%s: its names begin with %r, which is taken off", path, wrapper)
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    broken = [name for name, each in tensors.items() if not each.is_floating_point() or not each.isfinite().all()]
    if broken:
        raise ValueError(
            f"{path} holds NaN, infinity or no real numbers in {len(broken)} of {len(tensors)} tensors "
            f"({', '.join(broken[:3])}); its training failed or the file is damaged, take another"
        )
    return dict(tensors)


def stretch_positions(positions: Tensor, num_patches: int) -> Tensor:
    """Position codes (1, 1 + patches, d) for another number of patches, CLS first and left alone."""
    cls, patches = positions[:, :1], rearrange(positions[:, 1:], "1 n d -> 1 d n")
    stretched = F.interpolate(patches, size=num_patches, mode="linear", align_corners=False)
    return torch.cat([cls, rearrange(stretched, "1 d n -> 1 n d")], dim=1)


def _our_name(name: str) -> str:
    return name if name.startswith(DECODER) else f"encoder.{name}"


def _config_of(config: Any, state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> MaskedAutoencoderConfig:
    given = dict(config) if isinstance(config, Mapping) else dict(getattr(config, "__dict__", {}))
    absent = [name for name in SIZES if name not in given] + [name for name in POSITIONS if name not in state]
    if absent:
        raise ValueError(f"{path} does not say {', '.join(absent)}; expected a published fMRI autoencoder")
    for name in SIZES:
        kind = is_number if name == "mlp_ratio" else is_whole
        if not kind(given[name]) or not 0 < given[name] < 10**6:
            raise ValueError(f"{path}: its config says {name} is {given[name]!r}; expected a number of 1 or more")
    blocks = {part: 1 + max((int(n[1]) for n in map(re.compile(rf"{part}\.(\d+)\.").match, state) if n), default=-1)
              for part in ("encoder.blocks", "decoder_blocks")}  # fmt: skip
    if blocks["encoder.blocks"] != given["depth"]:
        raise ValueError(f"{path}: its config says depth {given['depth']}, it holds {blocks['encoder.blocks']} blocks")
    shapes = [tuple(state[name].shape) for name in POSITIONS]
    if not all(len(shape) == 3 and shape[1] > 1 for shape in shapes):
        raise ValueError(f"{path}: position codes of shapes {shapes}, expected (1, 1 + patches, width) twice")
    decoder_depth = blocks["decoder_blocks"]
    num_voxels = (shapes[0][1] - 1) * given["patch_size"]
    sizes = {name: given[name] for name in SIZES}
    try:
        return MaskedAutoencoderConfig(num_voxels=num_voxels, decoder_depth=decoder_depth, **sizes)
    except ValueError as error:
        raise ValueError(f"{path} does not fit its own config: {error}") from error
