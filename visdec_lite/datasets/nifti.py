"""Anybody's scan: 4-D BOLD, events and masks in, the sample contract of `base` out.

Enters: one image a run as nibabel reads it (NIfTI), a table of events a run in BIDS form (onset and duration in
seconds, trial_type, perhaps stim_file), and a brain mask or one mask a region. Leaves: one row a trial, one column a
voxel; `responses` says how a trial's row is taken from the volumes. nilearn does the masking; voxels stand in its
order: x slowest, z fastest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from visdec_lite.datasets.arrays import from_arrays
from visdec_lite.datasets.base import BrainDataset, fingerprint
from visdec_lite.datasets.recordings import reading, verified
from visdec_lite.datasets.responses import HIGH_PASS, Model, describe_trials, read_events, trial_responses
from visdec_lite.datasets.responses import block_numbers as block_numbers  # these three too are had from here
from visdec_lite.datasets.responses import events_from_labels as events_from_labels
from visdec_lite.datasets.responses import trial_design as trial_design

if TYPE_CHECKING:  # nilearn takes over a second to import: the functions that need it do so
    from nibabel.spatialimages import SpatialImage
    from pandas import DataFrame

    Image = str | os.PathLike[str] | SpatialImage
    Table = str | os.PathLike[str] | DataFrame

logger = logging.getLogger(__name__)

MILLIMETRE = 1e-3  # affines that differ by less are the same grid


def from_nifti(
    bold: Image | Sequence[Image],
    events: Table | Sequence[Table],
    *,
    test_runs: Sequence[int],
    mask: Image | None = None,
    rois: Mapping[str, Image] | None = None,
    runs: np.ndarray | None = None,
    tr: float | None = None,
    ignore: Sequence[str] = ("rest",),
    stimuli: str | os.PathLike[str] | Mapping[str, np.ndarray] | None = None,
    image_size: int | None = None,
    subject: int = 1,
    model: Model = "lsa",
    hrf: Literal["spm", "glover"] = "spm",
    lag: int = 2,
    high_pass: float | None = HIGH_PASS,
    standardise: bool = True,
    **options: Any,
) -> BrainDataset:
    """A data set from NIfTI files.

    Args:
        bold: one 4-D image (path or nibabel) a run; or one image of all runs, with `runs`.
        events: one table a run, in the order of `bold` (of run numbers, with `runs`): path of an events.tsv or a
            data frame.
        test_runs: numbers of the runs that make `test`; the others make `train`.
        mask: brain mask, 0 and 1, on the grid of the BOLD; None takes the union of the regions.
        rois: region -> mask image; for a label atlas, `nilearn.image.math_img("img == 3", img=atlas)`.
        runs: run number of each volume of a single image, shape (volumes,); otherwise runs count from 0.
        tr: seconds a volume; None reads the header.
        ignore: trial types that are no trials.
        stimuli: folder of the files that stim_file names, or stim_file -> uint8 image (height, width, 3). None: no
            images, but trials with the same stim_file still are repeats of one stimulus.
        image_size: pixels a side to resize the stimuli to; None keeps them.
        subject: number for the `subject` column.
        model, hrf, lag, high_pass, standardise: as in `trial_responses`.
        options: handed to `from_arrays`: name, roi, zscore, val_fraction, split_seed, licence, citation, ...

    Returns:
        `train`, `val` and `test`; labels are the trial types in alphabetical order. A voxel with NaN or infinity in
        any volume is left out with the silent ones.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: grids that differ, tables and runs that do not fit, no TR: the message has the numbers; a file is
            damaged, as far as that can be seen (`recordings.verified`).
    """
    tables = [events] if isinstance(events, str | os.PathLike) or hasattr(events, "columns") else list(events)
    mark = _verify({"BOLD": bold, "events": tables, "mask": mask, "ROI": (rois or {}).values()})
    scans = _one_a_run(bold, runs)
    if len(tables) != len(scans):
        raise ValueError(f"{len(tables)} tables of events for {len(scans)} runs of BOLD; every run needs exactly one")
    test_runs = choose_runs(test_runs, scans)
    mask_image, regions = choose_voxels(next(iter(scans.values())), mask, rois)
    rows, voxels = [], []
    for (number, scan), table in zip(scans.items(), tables, strict=True):
        series = read_series(scan, mask_image)
        trials = read_events(table, ignore)
        seconds = repetition_time(scan, tr)
        try:
            voxels.append(trial_responses(series, trials, seconds, model, hrf, lag, high_pass, standardise))
        except ValueError as error:
            raise ValueError(f"run {number}: {error}") from error
        rows.append(trials.assign(run=number))
    responses = np.concatenate(voxels)
    responses[:, ~np.isfinite(responses).all(axis=0)] = np.nan  # broken in one run is broken in all
    columns, names = describe_trials(rows, stimuli, image_size, subject)
    columns["voxels"] = responses
    in_test = np.isin(columns["run"], test_runs)
    return from_arrays(
        {name: column[~in_test] for name, column in columns.items()},
        {name: column[in_test] for name, column in columns.items()},
        **{"category_names": names, "rois": regions, "fingerprint": mark, **options},
    )


def read_series(bold: Image, mask: SpatialImage, **cleaning: Any) -> np.ndarray:
    """Signal of the voxels in a mask, float32 (volumes, voxels), in nilearn's order.

    Args:
        bold: one run.
        mask: on the same grid; nilearn would resample a scan to another one without a word.
        cleaning: handed to NiftiMasker: detrend, standardize, high_pass, t_r, ...

    Returns:
        The series; a voxel that is not finite in some volume is NaN throughout.
    """
    from nilearn.maskers import NiftiMasker

    scan, mask = load_image(bold, "BOLD"), _one_volume(mask)
    if len(scan.shape) != 4 or 0 in scan.shape:
        raise ValueError(f"BOLD has shape {scan.shape}, expected 4 dimensions, each 1 or more: x, y, z, volumes")
    if cleaning and scan.shape[3] < 2:
        raise ValueError("BOLD has 1 volume, 2 or more are needed to detrend or standardise; leave that run out")
    _expect_grid("mask", mask, scan)
    data = _data(scan, "BOLD")
    broken = ~np.isfinite(data[_data(mask, "mask") > 0]).all(axis=1)
    if broken.any():
        data = np.nan_to_num(data, posinf=0.0, neginf=0.0)
    masker = NiftiMasker(mask_img=mask, reports=False, **{"standardize": None, **cleaning})
    series = masker.fit_transform(scan.__class__(data, scan.affine, scan.header)).astype(np.float32)
    series[:, broken] = np.nan
    return series


def choose_voxels(
    bold: SpatialImage, mask: Image | None, rois: Mapping[str, Image] | None
) -> tuple[SpatialImage, dict[str, np.ndarray] | None]:
    """The mask as an image, and each region as a boolean mask over its voxels (None without regions)."""
    from nibabel import Nifti1Image

    if mask is None and not rois:
        raise ValueError("0 masks given, at least 1 is needed: mask=nilearn.masking.compute_epi_mask(bold), or rois=")
    regions = {name: _read_mask(image, f"ROI {name!r}", bold) for name, image in (rois or {}).items()}
    inside = np.any(list(regions.values()), axis=0) if mask is None else _read_mask(mask, "mask", bold)
    for name, region in regions.items():
        lost = int((region & ~inside).sum())
        if lost == region.sum():
            raise ValueError(f"0 of {lost} voxels of ROI {name!r} lie in the mask; give mask=None for all regions")
        if lost:
            logger.warning("%d of %d voxels of ROI %r lie outside the mask and are left out", lost, region.sum(), name)
    image = Nifti1Image(inside.astype(np.uint8), bold.affine)
    return image, {name: region[inside] for name, region in regions.items()} or None


def choose_runs(test_runs: Sequence[int], known: Iterable[int]) -> list[int]:
    """`test_runs`, if they are some of the known runs and leave others to train on."""
    asked = list(test_runs) if isinstance(test_runs, Iterable) and not isinstance(test_runs, str) else [test_runs]
    known = sorted(known)
    if any(run not in known for run in asked) or not 0 < len(set(asked)) < len(known):
        raise ValueError(
            f"test_runs is {test_runs!r}; expected some, but not all, of the runs {known}; "
            "train and test need at least one run each"
        )
    return asked


def load_image(image: Image, what: str) -> SpatialImage:
    """An image from its path, which is verified first, or itself; `what` names it in errors."""
    if not isinstance(image, str | os.PathLike):
        return image
    if not Path(image).is_file():
        raise FileNotFoundError(f"no {what} at {image}")
    verified([image])
    return open_image(image)


def open_image(file: str | os.PathLike[str]) -> SpatialImage:
    """The image of a file that was verified."""
    import nibabel

    with reading(file, "an image"):
        return nibabel.load(file)


def repetition_time(bold: SpatialImage, tr: float | None = None) -> float:
    """Seconds from volume to volume: `tr` if given, else what the header says."""
    if tr is None:
        with reading(bold.get_filename() or "BOLD", "a scan that says its repetition time", "give tr= in seconds"):
            unit = bold.header.get_xyzt_units()[1]
            tr = float(bold.header.get_zooms()[3]) * {"msec": 1e-3, "usec": 1e-6}.get(unit, 1.0)
        source = "the header says"
    else:
        source = "given is"
    if not 0 < tr < 60:
        raise ValueError(
            f"{source} a repetition time of {tr:g} s, expected more than 0 and below 60; give tr= in seconds"
        )
    return tr


def _one_a_run(bold: Image | Sequence[Image], runs: np.ndarray | None) -> dict[int, SpatialImage]:
    """Run number -> 4-D image."""
    single = isinstance(bold, str | os.PathLike) or hasattr(bold, "affine")
    given = [bold] if single else bold
    images = [open_image(image) if isinstance(image, str | os.PathLike) else image for image in given]
    if not images:
        raise ValueError("0 images of BOLD given, expected one a run")
    if runs is None:
        return dict(enumerate(images))
    if not single:
        raise ValueError(f"runs= numbers the volumes of one image, but {len(images)} images are given; leave runs= out")
    scan, runs = images[0], np.asarray(runs)
    if runs.dtype.kind not in "iuf" or not ((runs == np.rint(runs)) & np.isfinite(runs)).all():
        raise ValueError(f"runs is {runs.dtype} {runs.ravel()[:3].tolist()}, ..., expected whole numbers, one a volume")
    if scan.shape[3:] != runs.shape:
        raise ValueError(f"{runs.size} run numbers for BOLD of shape {scan.shape}; every volume needs exactly one")
    data = _data(scan, "BOLD")
    return {int(run): scan.__class__(data[..., runs == run], scan.affine, scan.header) for run in np.unique(runs)}


def _read_mask(image: Image, what: str, bold: SpatialImage) -> np.ndarray:
    """A mask as booleans, shape (x, y, z)."""
    loaded = _one_volume(load_image(image, what))
    _expect_grid(what, loaded, bold)
    values = _data(loaded, what)
    kinds = np.unique(values)
    if len(np.setdiff1d(kinds, [0, 1])):
        raise ValueError(f"{what} holds {len(kinds)} values up to {kinds[-1]:g}, expected 0 and 1; threshold it first")
    if not values.any():
        raise ValueError(f"{what} has 0 voxels, at least 1 is needed")
    return values.astype(bool)


def _expect_grid(what: str, mask: SpatialImage, bold: SpatialImage) -> None:
    way_out = f"bring it there: nilearn.image.resample_to_img({what.split()[0]}, bold, interpolation='nearest')"
    if mask.shape != bold.shape[:3]:
        raise ValueError(f"{what} has shape {mask.shape}, BOLD {bold.shape[:3]}, expected one grid; {way_out}")
    apart = float(np.abs(mask.affine - bold.affine).max())
    if apart > MILLIMETRE:
        raise ValueError(
            f"affines of {what} and BOLD differ by up to {apart:.3g}, expected one grid (below {MILLIMETRE:g}); "
            f"{way_out}"
        )


def _data(image: SpatialImage, what: str) -> np.ndarray:
    """Values of an image, in its own type where it needs no scaling."""
    with reading(image.get_filename() or what, f"{what} of shape {image.shape}"):
        return np.asanyarray(image.dataobj)


def _one_volume(image: SpatialImage) -> SpatialImage:
    """A mask of shape (x, y, z, 1), as some programs write them, as (x, y, z); another one as it is."""
    return image.slicer[..., 0] if image.shape[3:] == (1,) else image


def _verify(groups: Mapping[str, Any]) -> str | None:
    """Verify all files; their hash if everything came from files, None lets `from_arrays` hash the arrays."""
    from nibabel import is_proxy

    files, loaded = [], 0
    for what, group in groups.items():
        single = group is None or isinstance(group, str | os.PathLike) or hasattr(group, "shape")
        for one in [group] if single else group:
            if isinstance(one, str | os.PathLike):
                if not Path(one).is_file():
                    raise FileNotFoundError(f"no {what} at {one}{'; give one events.tsv a run' * (what == 'events')}")
                files.append(one)
            elif one is not None:
                loaded += 1
                if is_proxy(getattr(one, "dataobj", None)) and one.get_filename():  # its voxels are still to be read
                    files.append(one.get_filename())
    marks = verified(files)
    return fingerprint(*marks) if not loaded else None
