"""BOLD5000, release 2.0: four people saw 4916 photographs of scenes and things (Chang et al., 2019).

Enters, anywhere below one folder:
    CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_LHEarlyVis.npy and so on: (trials, voxels) of a region in a
        hemisphere, EarlyVis, LOC, OPA, PPA and RSC in LH and RH; one response a trial, estimated by GLMsingle
    CSI1/CSI1_sess01/CSI_sess01_run01.txt and so on: the pictures of a run, one a line, `rep_` before repeated ones
    or, if there are none of these, CSI1_imgnames.txt: all of them in one list (runs are then unknown: all are 0)
    repeated_stimuli_113_list.txt: which pictures are repeated, if it is there
Leaves: the sample contract of `base`. Trials are in the order of the lists, sessions and then runs sorted with numbers
counted as numbers (sess2 before sess10; for the published names, which have leading zeros, the alphabet gives the
same). `test` are the repeated pictures, 113 of them, most seen four times; `train` the others, seen once. CSI4 left
after 9 of 15 sessions, so some of the 113 are missing or seen once; how many is logged. Train and test share every
session, so voxels are z-scored by train as a whole, not run by run. A stimulus is numbered by its place among the
sorted names of this person's pictures. Labels are the three collections that pictures were taken from.

Written from the documented layout and from code that reads these files (mind-vis and others); no published file was
at hand to try it on.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from visdec_lite.datasets.arrays import from_arrays, refuse_copies
from visdec_lite.datasets.base import BrainDataset, fingerprint
from visdec_lite.datasets.photographs import find_photographs, read_photographs, warn_without
from visdec_lite.datasets.recordings import reading, refuse_absurd, verified
from visdec_lite.datasets.tables import read_lines
from visdec_lite.files import data_folder

logger = logging.getLogger(__name__)

TITLE = "BOLD5000: 4916 photographs from SUN, COCO and ImageNet, 4 people (Chang et al., 2019)"
MEGABYTES = 500.0  # responses of all regions and people as .npy and .mat, a guess; the photographs come on top
LICENCE = "CC0 for the recordings; the photographs stay under the terms of SUN, COCO and ImageNet"
CITATION = (
    "Chang, N., Pyles, J. A., Marcus, A., Gupta, A., Tarr, M. J., & Aminoff, E. M. (2019). BOLD5000, a public fMRI "
    "dataset while viewing 5000 visual images. Scientific Data, 6, 49."
)
SUBJECTS = ("CSI1", "CSI2", "CSI3", "CSI4")
REGIONS = ("EarlyVis", "LOC", "OPA", "PPA", "RSC")
HEMISPHERES = ("LH", "RH")
BETAS = "{subject}_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_{region}.npy"
REPEATED = 113  # pictures shown again and again
REPEATED_LIST = "repeated_stimuli_113_list.txt"
COLLECTIONS = ("COCO", "ImageNet", "Scene")
AGAIN = "get it anew: visdec-lite download get bold5000"


def found(root: Path | str | None = None) -> list[Path]:
    """Files of this data set below its folder, without the photographs."""
    patterns = [f"{subject}{end}" for subject in SUBJECTS for end in ("_GLMbetas*.npy", "/*/*.txt", "_imgnames.txt")]
    with suppress(OSError, RuntimeError):
        return [
            path for path in _tables(data_folder("bold5000", root)) if any(map(path.match, [*patterns, REPEATED_LIST]))
        ]
    return []


def load(
    root: Path | str | None = None,
    *,
    subject: str = "CSI1",
    roi: str | Sequence[str] | None = None,
    average_test: bool = False,
    stimuli: Path | str | None = None,
    image_size: int = 32,
    val_fraction: float = 0.1,
    split_seed: int = 0,
) -> BrainDataset:
    """Read one person's responses.

    Args:
        root: folder of the files, at any depth; None is `bold5000` in the folder named by VISDEC_DATA, else in `data`.
        subject: CSI1 to CSI4.
        roi: regions, such as "PPA" (both hemispheres) or "LHPPA"; None takes all five. Only their files are read.
        average_test: one row a test picture, the mean over its repeats (`Split.average_repeats`).
        stimuli: folder with the photographs as shown (Presented_Stimuli), at any depth; None goes without.
        image_size: side of the pictures in pixels: 32 for the preset "class", 256 for "paper".
        val_fraction, split_seed: training pictures set aside as `val`, see `from_arrays`.

    Returns:
        Splits `train`, `val` and `test`; regions joined ("PPA") and by hemisphere ("LHPPA"). Without photographs
        `images` is None.

    Raises:
        FileNotFoundError: no responses or no lists there, or photographs missing.
        ValueError: a file is damaged; trials and names differ in number; rows are copies; no picture is repeated.
    """
    if subject not in SUBJECTS:
        raise ValueError(f"subject is {subject!r}, expected one of {SUBJECTS}")
    parts, folder = _parts(roi), data_folder("bold5000", root)
    there = _tables(folder)
    betas = [_one(folder, there, BETAS.format(subject=subject, region=part)) for part in parts]
    lists = _lists(folder, there, subject)
    marks = [path for path in there if path.name == REPEATED_LIST][:1]
    hashes = verified([*betas, *lists, *marks], "bold5000")
    voxels, rois = _read_betas(betas, parts)
    names, run = _read_lists(lists)
    if len(names) != len(voxels):
        raise ValueError(
            f"{len(lists)} lists of {subject} ({lists[0]} to {lists[-1].name}) name {len(names)} pictures, the "
            f"responses have {len(voxels)} trials, expected as many; complete the lists: {AGAIN}"
        )
    refuse_copies(voxels, betas[0].parent)
    shown = np.array([name.removeprefix("rep_") for name in names])
    in_test = _repeated(subject, names, shown, marks)
    pictures, stimulus = np.unique(shown, return_inverse=True)
    columns = {
        "voxels": voxels,
        "labels": np.array([_collection(name) for name in pictures])[stimulus],
        "stimulus": stimulus,
        "subject": np.full(len(voxels), SUBJECTS.index(subject) + 1),
        "run": run,
        "trial": np.arange(len(voxels)),
    }
    paths: list[Path] = []
    if stimuli is None:
        way_out = "Give stimuli=FOLDER, the Presented_Stimuli of BOLD5000_Stimuli.zip"
        warn_without(f"BOLD5000 {subject}", way_out)
    else:
        paths = find_photographs(stimuli, pictures.tolist())
        columns["images"] = read_photographs(paths, image_size)[stimulus]
    dataset = from_arrays(
        {column: values[~in_test] for column, values in columns.items()},
        {column: values[in_test] for column, values in columns.items()},
        name="bold5000",
        category_names=COLLECTIONS,
        rois=rois,
        val_fraction=val_fraction,
        split_seed=split_seed,
        licence=LICENCE,
        citation=CITATION,
        fingerprint=fingerprint(*hashes, *verified(paths)),
    )
    averaged = {"test": dataset["test"].average_repeats()} if average_test else {}
    return replace(dataset, splits=dataset.splits | averaged)


def _tables(folder: Path) -> list[Path]:
    """Every .npy and .txt below a folder, in natural order, without the shadows that macOS leaves in archives."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".npy", ".txt") and not path.name.startswith("._")]
    return sorted((path for path in paths if path.is_file()), key=lambda path: _natural(str(path)))


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key: digits count as numbers, so that run2 comes before run10."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", text)]


def _one(folder: Path, there: Sequence[Path], name: str) -> Path:
    paths = [path for path in there if path.name == name]
    if len(paths) > 1:
        raise ValueError(f"{len(paths)} files are called {name} below {folder}, expected 1: give root=FOLDER of one")
    if not paths:
        raise FileNotFoundError(
            f"no {name} below {folder}; get it: visdec-lite download get bold5000, or give root=FOLDER"
        )
    return paths[0]


def _parts(roi: str | Sequence[str] | None) -> list[str]:
    """Regions by hemisphere, in the order of their files: EarlyVis -> LHEarlyVis, RHEarlyVis."""
    asked = list(REGIONS) if roi is None else [roi] if isinstance(roi, str) else list(roi)
    halves = {side + region: region for region in REGIONS for side in HEMISPHERES}
    unknown = [name for name in asked if name not in REGIONS and name not in halves]
    if unknown or not asked:
        raise ValueError(f"no region {unknown or asked}; BOLD5000 has {REGIONS}, each also with LH or RH before it")
    return [half for half, region in halves.items() if half in asked or region in asked]


def _read_betas(files: Sequence[Path], parts: Sequence[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Responses of all files side by side, float32 (trials, voxels), with masks by hemisphere and joined."""
    arrays = []
    for file in files:
        with reading(file, ".npy", AGAIN):
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            surplus = file.stat().st_size - array.offset - array.nbytes
            if surplus:
                raise ValueError(f"its header says {array.dtype} {array.shape}, {surplus} bytes more follow")
        if array.ndim != 2 or array.dtype.kind != "f" or len(array) != len(arrays[0] if arrays else array):
            raise ValueError(
                f"{file} is {array.dtype} {array.shape}, expected floats "
                f"({len(arrays[0]) if arrays else 'trials'}, voxels); {AGAIN}"
            )
        refuse_absurd(array, file)
        arrays.append(array)
    ends = np.cumsum([array.shape[1] for array in arrays])
    voxels = np.empty((len(arrays[0]), ends[-1]), dtype=np.float32)
    rois: dict[str, np.ndarray] = {}
    for part, array, end in zip(parts, arrays, ends, strict=True):
        here = slice(end - array.shape[1], end)
        voxels[:, here] = array
        for name in (part, part[2:]):
            rois.setdefault(name, np.zeros(ends[-1], dtype=bool))[here] = True
    return voxels, rois


def _lists(folder: Path, there: Sequence[Path], subject: str) -> list[Path]:
    """The presentation lists in order of time, or the one list of all."""
    lists = [path for path in there if path.match(f"{subject}/*/*.txt")]
    homes = {path.parent.parent for path in lists}
    if len(homes) > 1:
        raise ValueError(
            f"presentation lists of {subject} are in {len(homes)} folders, expected 1: "
            f"{', '.join(map(str, sorted(homes)))}; give root=FOLDER of one"
        )
    lists = lists or [path for path in there if path.name == f"{subject}_imgnames.txt"][:1]
    if not lists:
        raise FileNotFoundError(
            f"no presentation lists {subject}/*/*.txt and no {subject}_imgnames.txt below {folder}; "
            "get them: visdec-lite download get bold5000, or give root=FOLDER"
        )
    return lists


def _read_lists(lists: Sequence[Path]) -> tuple[list[str], np.ndarray]:
    """Names of the pictures, one a trial, and the number of each trial's list: its run, counted from 0."""
    names = [_names(path) for path in lists]
    return [name for run in names for name in run], np.repeat(np.arange(len(names)), [len(run) for run in names])


def _names(path: Path) -> list[str]:
    """Names of pictures, one a line."""
    names = [(line, text.strip()) for line, text in read_lines(path)]
    for line, name in names:
        if re.search(r"\s", name):
            raise ValueError(
                f"{path}, line {line}: {name[:60]!r} is no name of one picture; expected one a line: {AGAIN}"
            )
    return [name for _, name in names]


def _repeated(subject: str, names: Sequence[str], shown: np.ndarray, marks: Sequence[Path]) -> np.ndarray:
    """Which trials show a repeated picture: marked `rep_`, listed, or seen more than once; boolean."""
    listed = {name.removeprefix("rep_") for path in marks for name in _names(path)}
    seen = Counter(shown.tolist())
    repeated = {name.removeprefix("rep_") for name in names if name.startswith("rep_")}
    repeated |= (listed & seen.keys()) | {name for name, count in seen.items() if count > 1}
    if not repeated:
        raise ValueError(
            f"none of the {len(seen)} pictures of {subject} is repeated, expected {REPEATED}; the lists mark them "
            f"with rep_: {AGAIN}"
        )
    once = sum(seen[name] == 1 for name in repeated)
    level = logging.INFO if len(repeated) == REPEATED and not once else logging.WARNING
    logger.log(
        level,
        "BOLD5000 %s: %d trials; %d of %d repeated pictures are there (%d missing, %d seen only once)",
        subject,
        len(names),
        len(repeated),
        REPEATED,
        max(0, REPEATED - len(repeated)),
        once,
    )
    return np.isin(shown, sorted(repeated))


def _collection(name: str) -> int:
    """Where a picture is from, as its name says; index into COLLECTIONS."""
    if name.startswith("COCO_"):
        return 0
    return 1 if re.match(r"n\d{8}_\d+\.", name) else 2
