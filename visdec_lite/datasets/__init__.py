"""Data sets by name, each in the sample contract of `base`.

Enters: a name and the options of its loader. Leaves: a `BrainDataset`, whoever recorded it, so that the rest
of the library never asks where the voxels come from.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from visdec_lite.datasets.base import BrainDataset, Split

__all__ = ["LOADERS", "BrainDataset", "Split", "load_dataset"]

# name -> module in this package; each has `load(**options) -> BrainDataset` and is imported when asked for
LOADERS = {
    "simulated": "simulated",
    "digits69": "digits69",
}


def load_dataset(name: str, **options: object) -> BrainDataset:
    """Load a data set by name.

    Args:
        name: a key of `LOADERS`.
        options: handed to the loader as they are, such as `path`; see `visdec_lite.datasets.<name>.load`.

    Raises:
        ValueError: no data set has that name.
        FileNotFoundError: it has to be downloaded first; the message says from where.
    """
    if name not in LOADERS:
        close = get_close_matches(name.lower(), LOADERS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no data set is called {name!r}; there are {sorted(LOADERS)}{hint}")
    return import_module(f"visdec_lite.datasets.{LOADERS[name]}").load(**options)
