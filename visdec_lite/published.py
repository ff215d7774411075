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
import pickle
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from visdec_lite.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig

logger = logging.getLogger(__name__)

SIZES = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "decoder_embed_dim", "decoder_num_heads")
DECODER = ("decoder", "mask_token")  # how names begin that are not the encoder's
PHASE_2 = ("cross_blocks.", "cross_map_in.", "cross_map_out.")  # not used when the encoder conditions a painter
POSITIONS = ("encoder.pos_embed", "decoder_pos_embed")


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
        ValueError: not such a file, one that wants to run something else, or tensors that do not fit its config.
    """
    content = open_safely(path)
    missing = {"model", "config"} - set(content)
    if missing:
        raise ValueError(f"{path} lacks {' and '.join(sorted(missing))}: it holds {', '.join(map(str, content))}")
    left_out = [name for name in content["model"] if name.startswith(PHASE_2)]
    if left_out:
        logger.info("%s: %d tensors of phase 2's cross-attention are left out", path, len(left_out))
    state = {_our_name(name): tensor for name, tensor in content["model"].items() if name not in left_out}
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
    model = MaskedAutoencoder(config)
    wanted = model.state_dict()
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
    model.load_state_dict(state)
    return model.eval()


def open_safely(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dict in a `.pth` file; `config.*` objects come as empty ones with the file's numbers.

    Raises:
        FileNotFoundError, ValueError: see `load_published`.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} is not there; give the .pth file of a published fMRI encoder")
    try:
        names = _names_in(path)
        strange = [name for name in names if not name.startswith("config.")]
        if strange:
            raise ValueError(
                f"{path} wants to run {', '.join(strange)}, and a published encoder needs none of these; nothing was "
                "run. Do not load it in another way"
            )
        with torch.serialization.safe_globals([(_Stub, name) for name in names]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, _NotACheckpoint) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is no checkpoint that can be opened safely: {words}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dict with 'model' and 'config'")
    return content


class _NotACheckpoint(Exception):
    """torch.save did not write this."""


def _names_in(path: str | os.PathLike[str]) -> list[str]:
    """What the pickle wants to make besides plain data; nothing is made."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError as error:
        raise _NotACheckpoint(error) from error


def stretch_positions(positions: Tensor, num_patches: int) -> Tensor:
    """Position codes (1, 1 + patches, d) for another number of patches, CLS first and left alone."""
    cls, patches = positions[:, :1], rearrange(positions[:, 1:], "1 n d -> 1 d n")
    stretched = F.interpolate(patches, size=num_patches, mode="linear", align_corners=False)
    return torch.cat([cls, rearrange(stretched, "1 d n -> 1 n d")], dim=1)


def _our_name(name: str) -> str:
    return name if name.startswith(DECODER) else f"encoder.{name}"


def _config_of(config: Any, state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> MaskedAutoencoderConfig:
    given = dict(config) if isinstance(config, Mapping) else vars(config)
    absent = [name for name in SIZES if name not in given] + [name for name in POSITIONS if name not in state]
    if absent:
        raise ValueError(f"{path} does not say {', '.join(absent)}; expected a published fMRI autoencoder")
    numbers = [re.match(r"decoder_blocks\.(\d+)\.", name) for name in state]
    decoder_depth = 1 + max((int(found[1]) for found in numbers if found), default=-1)
    num_voxels = (state["encoder.pos_embed"].shape[1] - 1) * given["patch_size"]
    sizes = {name: given[name] for name in SIZES}
    return MaskedAutoencoderConfig(num_voxels=num_voxels, decoder_depth=decoder_depth, **sizes)
