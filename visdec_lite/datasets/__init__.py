"""Data sets by name, each in the sample contract of `base`.

Enters: a name and the options of its loader. Leaves: a `BrainDataset`, whoever recorded it, so that the rest
of the library never asks where the voxels come from.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from inspect import Parameter, signature

from visdec_lite.datasets.base import BrainDataset, Split

__all__ = ["LOADERS", "BrainDataset", "Split", "load_dataset"]

# name -> module in this package, imported when asked for. Each has TITLE, MEGABYTES, LICENCE, CITATION,
# found(root) -> files on disk, and load(root, **options) -> BrainDataset.
LOADERS = {
    "simulated": "simulated",
    "digits69": "digits69",
    "miyawaki": "miyawaki",
    "haxby": "haxby",
    "god": "god",
    "bold5000": "bold5000",
    "hcp": "hcp",
}


def load_dataset(name: str, **options: object) -> BrainDataset:
    """Load a data set by name.

    Args:
        name: a key of `LOADERS`.
        options: handed to the loader as they are, such as `root`; see `visdec_lite.datasets.<name>.load`.

    Raises:
        ValueError: no data set has that name, or its loader takes no such option.
        FileNotFoundError: it has to be downloaded first; the message says from where.
    """
    if name not in LOADERS:
        close = get_close_matches(name.lower(), LOADERS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no data set is called {name!r}; there are {sorted(LOADERS)}{hint}")
    load = import_module(f"visdec_lite.datasets.{LOADERS[name]}").load
    taken = signature(load).parameters
    unknown = [option for option in options if option not in taken]
    if unknown and not any(p.kind is Parameter.VAR_KEYWORD for p in taken.values()):
        raise ValueError(f"{name} takes no option {', '.join(unknown)}; it takes {', '.join(taken)}")
    return load(**options)
