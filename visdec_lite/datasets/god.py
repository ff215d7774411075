"""GOD, Generic Object Decoding: five people saw photographs of 200 kinds of things (Horikawa and Kamitani, 2017).

Enters, whichever is there (the first wins):
    SubjectN.h5   the authors' table (bdpy): a row a trial; every column is explained by rows of metadata
    sbj_N.npz     the same trials as MinD-Vis and others use them: z-scored by run, sorted into train and test
Leaves: the sample contract of `base`. `train` has 1200 photographs of 150 categories, each seen once, `test` 50 of 50
other categories, each seen 35 times, and `test_imagery` (h5 only) the 50 categories imagined, without a picture.

The h5 is z-scored run by run, each with its own mean and spread; the npz, which says nothing of runs (all rows have
run 0), by the statistics of train. A stimulus is numbered wnid * 1,000,000 + image: 1518878010042 is
n01518878_10042.JPEG; image 0 is no picture. `trial` is the row in the file (npz: training rows first). The noise
ceiling and SNR of each voxel, arr_5 and arr_6 of the npz, are left alone.

Written from the documented layout and from code that reads these files (bdpy; the repositories GenericObjectDecoding,
ssfmri2im, SelfSuperReconst and mind-vis); no published file was at hand to try it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from visdec_lite.datasets.arrays import from_arrays
from visdec_lite.datasets.base import BrainDataset, fingerprint
from visdec_lite.datasets.god_h5 import NUMBERS, Columns, Recording, read_h5
from visdec_lite.datasets.god_h5 import stimulus_numbers as stimulus_numbers  # had from here too
from visdec_lite.datasets.god_npz import NAME_LISTS, add_picture_arrays, name_lists, read_npz, way_to_names
from visdec_lite.datasets.photographs import find_photographs, read_photographs, warn_without
from visdec_lite.datasets.recordings import verified
from visdec_lite.files import data_folder

TITLE = "GOD: 1200 + 50 photographs of 200 categories, 5 people (Horikawa and Kamitani, 2017)"
MEGABYTES = 124.0  # a subject as h5, reckoned from 3450 trials x 4500 columns x 8 bytes
REQUEST_FORM = "https://forms.gle/ujvA34948Xg49jdn9"
LICENCE = (
    "as stated with figshare article 7387130, not read here; the photographs only through the authors' request form, "
    f"{REQUEST_FORM}, never to be redistributed"
)
CITATION = (
    "Horikawa, T., & Kamitani, Y. (2017). Generic decoding of seen and imagined objects using hierarchical visual "
    "features. Nature Communications, 8, 15037."
)


def found(root: Path | str | None = None) -> list[Path]:
    """Files of this data set in its folder."""
    patterns = ("Subject*.h5", "sbj_*.npz", "images_*.npz", *(name for pair in NAME_LISTS for name in pair))
    with suppress(OSError, RuntimeError):
        return sorted(path for pattern in patterns for path in data_folder("god", root).glob(pattern) if path.is_file())
    return []


def load(
    root: Path | str | None = None,
    *,
    subject: int = 3,
    roi: str | Sequence[str] | None = "VC",
    average_test: bool = False,
    stimuli: Path | str | None = None,
    image_size: int = 32,
    val_fraction: float = 0.1,
    split_seed: int = 0,
) -> BrainDataset:
    """Read one person's recording.

    Args:
        root: folder of the files; None is `god` in the folder named by VISDEC_DATA, else in `data`.
        subject: 1 to 5.
        roi: regions by name (V1 to V4, LOC, FFA, PPA, LVC, HVC, VC); None takes every voxel of the file.
        average_test: one row a test picture, the mean over its 35 repeats (`Split.average_repeats`).
        stimuli: folder with the photographs, under their ImageNet names, at any depth. None goes without, unless an
            `images_*.npz` lies beside the npz.
        image_size: side of the pictures in pixels: 32 for the preset "class", 256 for "paper".
        val_fraction, split_seed: training pictures set aside as `val`, see `from_arrays`.

    Returns:
        Splits `train`, `val`, `test` and, from the h5, `test_imagery`. Categories are WordNet ids such as n01518878.
        Without photographs `images` is None. An npz without a list of its picture names has no labels either.

    Raises:
        FileNotFoundError: no recording there, or photographs missing.
        ValueError: the file is damaged, or is not laid out as published; a region is not in it; rows are copies.
    """
    file = _find(data_folder("god", root), subject)
    regions = [roi] if isinstance(roi, str) else roi
    regions = None if regions is None else [name.removeprefix("ROI_") for name in regions]
    lists = () if file.suffix == ".h5" else name_lists(file.parent)
    marks = verified([file, *lists], f"god --subject {subject}")
    recording = read_h5(file, regions) if file.suffix == ".h5" else read_npz(file, regions, lists)
    tables, pictures = recording.tables, []
    for table in tables.values():
        table["subject"] = np.full(len(table["voxels"]), subject)
    if stimuli is not None:
        pictures = _add_photographs(recording, file, stimuli, image_size)
    elif file.suffix == ".npz":
        pictures = add_picture_arrays(tables, file, image_size)
    if "images" not in tables["train"]:
        warn_without(f"GOD subject {subject}", f"Ask for the photographs at {REQUEST_FORM}, then give stimuli=FOLDER")
    names = _label(tables) if recording.named else None
    for table in tables.values():
        table.pop("place", None)
    dataset = from_arrays(
        tables.pop("train"),
        tables.pop("test"),
        others=tables,
        name="god",
        category_names=names,
        rois=recording.rois,
        zscore="runs" if file.suffix == ".h5" else "train",
        val_fraction=val_fraction,
        split_seed=split_seed,
        licence=LICENCE,
        citation=CITATION,
        fingerprint=fingerprint(*marks, *verified(pictures)),
    )
    averaged = {"test": dataset["test"].average_repeats()} if average_test else {}
    return replace(dataset, splits=dataset.splits | averaged)


def photograph_name(stimulus: int) -> str:
    """File name of a stimulus number: 1518878010042 -> n01518878_10042.JPEG."""
    wnid, image = divmod(int(stimulus), NUMBERS)
    return f"n{wnid:08d}_{image}.JPEG"


def _find(folder: Path, subject: int) -> Path:
    names = (f"Subject{subject}.h5", f"sbj_{subject}.npz")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"no {' or '.join(names)} in {folder} ({len(found(folder))} files of GOD there); get it: "
        f"visdec-lite download get god --subject {subject}, or give root=FOLDER"
    )


def _add_photographs(recording: Recording, file: Path, folder: Path | str, image_size: int) -> list[Path]:
    """Give train and test their pictures, each read once; returns the files."""
    if not recording.named:
        raise ValueError(f"{file} does not say which photograph is which; {way_to_names(file)}, or give stimuli=None")
    shown = [recording.tables[split] for split in ("train", "test")]
    numbers = np.unique(np.concatenate([table["stimulus"] for table in shown]))
    paths = find_photographs(folder, [photograph_name(number) for number in numbers])
    pictures = read_photographs(paths, image_size)
    for table in shown:
        table["images"] = pictures[np.searchsorted(numbers, table["stimulus"])]
    return paths


def _label(tables: Mapping[str, Columns]) -> list[str]:
    """Number the categories of all splits in order of their WordNet ids, which are returned."""
    wnids = np.unique(np.concatenate([table["stimulus"] for table in tables.values()]) // NUMBERS)
    for table in tables.values():
        table["labels"] = np.searchsorted(wnids, table["stimulus"] // NUMBERS)
    return [f"n{wnid:08d}" for wnid in wnids]
