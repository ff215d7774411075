"""HCP's dense time series to what its loader reads: V1 to V4 of one run a person.

Enters: `.dtseries.nii` (CIFTI-2), and the multi-modal parcellation of Glasser et al. (2016), Nature 536, as
`.dlabel.nii`. Leaves: `<subject>/HCP_visual_voxel.npz`, arrays V1 to V4, float32 (frames, voxels), left before right.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from visdec_lite.datasets.recordings import reading, refuse_absurd, verified
from visdec_lite.files import atomic_path
from visdec_lite.progress import Bar

if TYPE_CHECKING:
    from nibabel.cifti2 import BrainModelAxis, Cifti2Image

logger = logging.getLogger(__name__)

FILE = "HCP_visual_voxel.npz"
REGIONS = {"V1": (1, 181), "V2": (4, 184), "V3": (5, 185), "V4": (6, 186)}  # Glasser's label numbers, both sides
CORTEX = ("CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT")


def prepare(files: Sequence[Path], out: Path, *, labels: Path | None = None, progress: bool = True) -> list[Path]:
    """Cut V1 to V4 out of dense time series: `<out>/<subject>/HCP_visual_voxel.npz`, what `hcp.load` reads.

    Args:
        files: `.dtseries.nii` (CIFTI-2), one run a person. The person's six-digit number is taken from the file's
            name or the nearest folder that has one, as in `100307/.../rfMRI_REST1_LR_Atlas.dtseries.nii`.
        out: where the people's folders are made. What is there already is not made again.
        labels: the multi-modal parcellation of Glasser et al. (2016) as `.dlabel.nii`, on the surface mesh of the
            series; None takes the only one in `out`. It is matched by vertex, so it may lack the subcortical part.
        progress: show a bar.

    Returns:
        The files, one a person, in the order of `files`.

    Raises:
        FileNotFoundError: no labels.
        ValueError: a file is damaged, not of these kinds, or on another mesh; two runs of one person.
        ImportError: nibabel is not installed.
    """
    targets = [Path(out) / _subject_of(Path(file)) / FILE for file in files]
    doubled = [target.parent.name for target in targets if targets.count(target) > 1]
    if doubled or not targets:
        what = f"{len(doubled)} files of subjects {sorted(set(doubled))}" if doubled else "0 files"
        raise ValueError(f"{what} to prepare, expected one run a person; published: rfMRI_REST1_LR")
    todo = [(Path(file), target) for file, target in zip(files, targets, strict=True) if not target.is_file()]
    logger.info("%d of %d people are prepared already", len(targets) - len(todo), len(targets))
    if todo:
        atlas = _Atlas(Path(labels) if labels is not None else _only_labels(Path(out)))
        for file, target in Bar(todo, desc="HCP to npz", unit="person", disable=not progress):
            arrays = atlas.cut_out(file)
            with atomic_path(target) as temporary, temporary.open("wb") as stream:
                np.savez(stream, **arrays)
    return targets


def _subject_of(file: Path) -> str:
    for part in reversed(file.parts):
        number = re.search(r"(?<!\d)\d{6}(?!\d)", part)
        if number:
            return number[0]
    raise ValueError(f"no subject number of 6 digits in {file}; put it into a folder named by its number, as HCP does")


def _only_labels(out: Path) -> Path:
    candidates = sorted(out.glob("*.dlabel.nii"))
    if len(candidates) == 1:
        return candidates[0]
    raise FileNotFoundError(
        f"{len(candidates)} files *.dlabel.nii in {out}, expected one: the parcellation of Glasser et al. (2016), "
        "32k_fs_LR, from https://balsa.wustl.edu/study/RVVG; put it there, or give labels=..."
    )


class _Atlas:
    """Where V1 to V4 lie on the cortical surface."""

    def __init__(self, file: Path) -> None:
        image, self.axis = _open_cifti(file)
        self.file = file
        with reading(file, "labels", "get the parcellation anew, from https://balsa.wustl.edu/study/RVVG"):
            values = np.asarray(image.dataobj[0])
            if not ((np.abs(values) < 2**31) & (values == np.rint(values))).all():
                raise ValueError(f"its labels go from {values.min():g} to {values.max():g}, expected whole numbers")
            keys = values.astype(np.int64)
            names = getattr(image.header.get_axis(0), "label", [{}])[0]
        for region, number in [(region, number) for region, pair in REGIONS.items() for number in pair]:
            name, count = names.get(number, ("missing",))[0], int((keys == number).sum())
            if region not in re.split(r"[^A-Za-z0-9]+", name) or not count:
                raise ValueError(
                    f"label {number} of {file} is {name!r} on {count} vertices, expected {region} on 1 or more, as "
                    "numbered by Glasser et al. (2016); get their parcellation from https://balsa.wustl.edu/study/RVVG"
                )
        self.members = {region: np.isin(keys, numbers) for region, numbers in REGIONS.items()}

    def cut_out(self, file: Path) -> dict[str, np.ndarray]:
        """Region -> float32 (frames, voxels) of a dense time series, left before right."""
        image, axis = _open_cifti(file)
        with reading(file, "a series on the cortical mesh", "download it anew"):
            columns = {region: self._columns(members, axis, file) for region, members in self.members.items()}
        everywhere = np.concatenate(list(columns.values()))
        with reading(file, "a series to its end", "download it anew"):  # 100 frames at a time: a run is half a gigabyte
            starts = range(0, image.shape[0], 100)
            voxels = np.concatenate([image.dataobj[start : start + 100][:, everywhere] for start in starts])
            refuse_absurd(voxels, file)
        ends = np.cumsum([len(places) for places in columns.values()])[:-1]
        cut = np.split(voxels.astype(np.float32), ends, axis=1)
        return dict(zip(columns, cut, strict=True))

    def _columns(self, members: np.ndarray, axis: BrainModelAxis, file: Path) -> np.ndarray:
        """Columns of a time series that are the region's vertices."""
        columns = []
        for side in CORTEX:
            ours, theirs = self.axis.nvertices.get(side, 0), axis.nvertices.get(side, 0)
            column_of = np.full(max(ours, theirs), -1)
            column_of[axis.vertex[axis.name == side]] = np.flatnonzero(axis.name == side)
            places = column_of[self.axis.vertex[members & (self.axis.name == side)]]
            missing = int((places < 0).sum())
            if ours != theirs or missing:
                raise ValueError(
                    f"{file} has {len(axis)} grayordinates, {self.file} has {len(self.axis)}: of {side} the mesh has "
                    f"{theirs} and {ours} vertices, and {missing} of {len(places)} in a region are not in the series; "
                    "expected one mesh: take both in 32k_fs_LR"
                )
            columns.append(places)
        return np.concatenate(columns)


def _open_cifti(file: Path) -> tuple[Cifti2Image, BrainModelAxis]:
    """A dense CIFTI-2 file and what its columns are."""
    try:
        import nibabel
        from nibabel.cifti2 import BrainModelAxis, Cifti2Image
    except ImportError as error:
        raise ImportError(f"{file} is read with nibabel, which is not installed: pip install nibabel") from error
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}; give the path of a .dtseries.nii or .dlabel.nii")
    verified([file])
    with reading(file, "CIFTI-2", "download it anew"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Dataobj shape")  # said below, as an error
            image = nibabel.load(file)
        axes = [image.header.get_axis(i) for i in (0, 1)] if isinstance(image, Cifti2Image) else []
        if axes and image.shape != tuple(map(len, axes)):
            raise ValueError(f"it holds {image.shape} values for axes of {len(axes[0])} and {len(axes[1])}")
        axis = axes[1] if axes else None
    if not isinstance(axis, BrainModelAxis):
        raise ValueError(
            f"{file} is no dense CIFTI-2 file (its shape is {image.shape}), expected .dtseries.nii or .dlabel.nii"
        )
    return image, axis
