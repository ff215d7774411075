"""GOD as MinD-Vis and others use it: sbj_N.npz, the trials z-scored by run and sorted into train and test.

Enters: the file, lists of the pictures' names beside it, if they are there, and perhaps an `images_*.npz`. Leaves: a
`Recording`. The file numbers pictures by their place in the lists; without these there are no categories.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from visdec_lite.datasets.arrays import refuse_copies
from visdec_lite.datasets.god_h5 import NUMBERS, Columns, Recording, anew
from visdec_lite.datasets.photographs import read_picture_array
from visdec_lite.datasets.recordings import reading, refuse_absurd
from visdec_lite.datasets.tables import read_lines
from visdec_lite.preprocessing import roi_mask

logger = logging.getLogger(__name__)

NAME_LISTS = (  # file names of the pictures, in the order of the npz: MinD-Vis' copies, the authors' own
    ("imagenet_training_label.csv", "imagenet_testing_label.csv"),
    ("imageID_training.csv", "imageID_test.csv"),
)


def read_npz(file: Path, regions: list[str] | None, lists: Sequence[Path] = ()) -> Recording:
    """The trials of a file, in its order, training rows first.

    Args:
        file: sbj_N.npz.
        regions: whose voxels are kept; None: all voxels.
        lists: names of the training and of the test pictures, as `name_lists` finds them; none: unknown.

    Returns:
        Splits `train` and `test`; columns `voxels`, `place` (in the list of pictures), `trial` and `stimulus`, which is
        as in the h5 if the lists are there, else another number for each picture.

    Raises:
        ValueError: the file is damaged, or is not laid out as published; a region is not in it; rows are copies.
    """
    with reading(file, ".npz", anew(file)), np.load(file, allow_pickle=False) as content:
        arrays = {key: content[key] for key in content.files if key not in ("arr_5", "arr_6")}
    missing = [f"arr_{i}" for i in range(5) if f"arr_{i}" not in arrays]
    if missing:
        raise ValueError(f"{file} holds {sorted(arrays)}, but no {missing}; {anew(file)}")
    train, test, mean, *labels = (arrays.pop(f"arr_{i}") for i in range(5))
    if {train.ndim, test.ndim, mean.ndim} != {2} or len({train.shape[1], test.shape[1], mean.shape[1]}) > 1:
        raise ValueError(
            f"arr_0, arr_1 and arr_2 of {file} are {train.shape}, {test.shape} and {mean.shape}, expected (trials, "
            f"voxels) with as many voxels; {anew(file)}"
        )
    if not (train.size and test.size and mean.size) or {train.dtype.kind, test.dtype.kind, mean.dtype.kind} - set(
        "fiu"
    ):
        raise ValueError(
            f"arr_0, arr_1 and arr_2 of {file} are {train.dtype} {train.shape}, {test.dtype} {test.shape} and "
            f"{mean.dtype} {mean.shape}, expected numbers, 1 or more trials and voxels; {anew(file)}"
        )
    rois = {key.removeprefix("ROI_"): m for key, m in arrays.items() if m.dtype == bool and m.shape == train.shape[1:]}
    keep = np.ones(train.shape[1], dtype=bool) if regions is None else roi_mask(rois, regions)
    tables: dict[str, Columns] = {}
    for split, voxels, place in (("train", train, labels[0]), ("test", test, labels[1])):
        if place.shape != (len(voxels),) or place.dtype.kind not in "iu" or place.min(initial=0) < 0:
            raise ValueError(
                f"{file} has labels {place.dtype} {place.shape} for {len(voxels)} rows of {split}, expected one place "
                f"in the list of pictures a row, counted from 0; {anew(file)}"
            )
        refuse_absurd(voxels, file)
        trial = np.arange(len(voxels)) + sum(len(table["trial"]) for table in tables.values())
        tables[split] = {"voxels": voxels[:, keep].astype(np.float32), "place": place.astype(np.int64), "trial": trial}
    _expect_means(tables["test"], mean[:, keep], file)
    refuse_copies(np.concatenate([table["voxels"] for table in tables.values()]), file)
    offset = 0
    for split, path in zip(tables, lists or (None, None), strict=True):
        place = tables[split]["place"]
        names = None if path is None else _read_names(path)
        if names is not None and place.max() >= len(names):
            raise ValueError(
                f"{file} shows picture {place.max()} in {split}, {path} lists {len(names)}, counted from 0"
            )
        tables[split]["stimulus"] = offset + place if names is None else names[place]
        offset = int(place.max()) + 1
    if not lists:
        logger.warning("%s has no list of picture names beside it, so no categories; %s", file, way_to_names(file))
    return Recording(tables, {name: m[keep] for name, m in rois.items() if m[keep].any()}, bool(lists))


def add_picture_arrays(tables: Mapping[str, Columns], file: Path, image_size: int) -> list[Path]:
    """Give train and test their pictures from an images_*.npz beside the recording, the smallest that is large enough.

    Returns:
        The file read; nothing if there is none.
    """
    names = (
        (path, re.fullmatch(r"images_([0-9]+)\.npz", path.name)) for path in sorted(file.parent.glob("images_*.npz"))
    )
    sizes = {int(name[1]): path for path, name in names if name}
    if not sizes:
        return []
    path = sizes[min((size for size in sizes if size >= image_size), default=max(sizes))]
    for split in ("train", "test"):
        pictures = read_picture_array(path, f"{split}_images", image_size)
        place = tables[split]["place"]
        if place.max() >= len(pictures):
            raise ValueError(
                f"{file} shows picture {place.max()} in {split}, {path} holds {len(pictures)}, counted from 0; they "
                "belong to different releases: get both from one"
            )
        tables[split]["images"] = pictures[place]
    return [path]


def way_to_names(file: Path) -> str:
    """The way out of missing names of pictures, for messages."""
    return (
        f"put {' and '.join(NAME_LISTS[1])} of github.com/KamitaniLab/GenericObjectDecoding, folder data, "
        f"into {file.parent}"
    )


def _expect_means(test: Columns, mean: np.ndarray, file: Path) -> None:
    """arr_2 is arr_1 averaged over repeats: if it is not, the labels belong to other rows."""
    places = np.unique(test["place"])
    if len(places) != len(mean):
        raise ValueError(f"arr_4 of {file} names {len(places)} pictures, arr_2 has {len(mean)} rows; {anew(file)}")
    own = np.stack([test["voxels"][test["place"] == place].mean(axis=0) for place in places])
    both = np.isfinite(own) & np.isfinite(mean)
    fit = np.corrcoef(own[both], mean[both])[0, 1] if both.any() else 0.0
    if fit < 0.5:
        raise ValueError(
            f"arr_4 of {file} does not fit its rows: trials averaged by it correlate {fit:.2f} with arr_2, expected 1; "
            f"{anew(file)}"
        )


def name_lists(folder: Path) -> tuple[Path, ...]:
    """The lists of training and test picture names in a folder, or nothing."""
    for pair in NAME_LISTS:
        paths = tuple(folder / name for name in pair)
        if all(path.is_file() for path in paths):
            return paths
    return ()


def _read_names(path: Path) -> np.ndarray:
    """Stimulus numbers in the order of a list whose rows are like 1518878.010042,"n01518878_10042.JPEG".

    Where a row has the number and the name, they must say the same.
    """
    lines, found = read_lines(path), []
    for line, text in lines:
        name = re.search(r"n([0-9]{8})_([0-9]{1,6})(?![0-9])", text)
        number = re.match(r"\s*([0-9]+)\.([0-9]{1,6})(?=[,\s])", text)
        stimulus = int(name[1]) * NUMBERS + int(name[2]) if name else None
        if stimulus is None or (number and int(number[1]) * NUMBERS + int(number[2].ljust(6, "0")) != stimulus):
            what = "names no picture" if name is None else f"has {number[0]} for {name[0]}"
            raise ValueError(
                f"{path}, line {line}: {text[:60]!r} {what}; {len(lines)} rows expected to be like "
                f'1518878.010042,"n01518878_10042.JPEG"; {way_to_names(path)}'
            )
        found.append(stimulus)
    return np.array(found, dtype=np.int64)
