"""Anybody's scan: 4-D BOLD, events and masks in, the sample contract of `base` out.

Enters: one image a run as nibabel reads it (NIfTI), a table of events a run in BIDS form (onset and duration in
seconds, trial_type, perhaps stim_file), and a brain mask or one mask a region. Leaves: one row a trial, one column a
voxel. The BOLD answer to a picture comes seconds late and lasts for many, so that trials overlap; two ways out:

* a general linear model in which every trial has its own regressor, the stimulus convolved with the canonical
  haemodynamic response; its weight, the beta, is the trial's response. "lsa" fits all trials at once, "lss" one model
  a trial, which holds up better when trials come fast (Mumford et al., 2012, NeuroImage 59);
* "lagged": the mean of the volumes `lag` later, when the blood has answered. For long blocks that is enough.

nilearn does the work (masking, filtering, design, fit); voxels stand in its order: x slowest, z fastest.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from visdec_lite.datasets.arrays import from_arrays
from visdec_lite.datasets.base import BrainDataset, fingerprint
from visdec_lite.preprocessing import resize_images

if TYPE_CHECKING:  # nilearn takes over a second to import: the functions that need it do so
    from nibabel.spatialimages import SpatialImage
    from pandas import DataFrame

    Image = str | os.PathLike[str] | SpatialImage
    Table = str | os.PathLike[str] | DataFrame

logger = logging.getLogger(__name__)

Model = Literal["lsa", "lss", "lagged"]
HIGH_PASS = 1 / 128  # Hz; slower than this is drift of the scanner, as in SPM
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
        ValueError: grids that differ, tables and runs that do not fit, no TR: the message has the numbers.
    """
    scans = _one_a_run(bold, runs)
    tables = [events] if isinstance(events, str | os.PathLike) or hasattr(events, "columns") else list(events)
    if len(tables) != len(scans):
        raise ValueError(f"{len(tables)} tables of events for {len(scans)} runs of BOLD; every run needs exactly one")
    unknown = sorted(set(test_runs) - set(scans))
    if unknown or not 0 < len(set(test_runs)) < len(scans):
        raise ValueError(
            f"test_runs is {list(test_runs)}; expected some, but not all, of the runs {sorted(scans)}; "
            "train and test need at least one run each"
        )
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
    columns, names = _describe(rows, stimuli, image_size, subject)
    columns["voxels"] = responses
    in_test = np.isin(columns["run"], list(test_runs))
    files = [bold, events, mask, (rois or {}).values()]
    return from_arrays(
        {name: column[~in_test] for name, column in columns.items()},
        {name: column[in_test] for name, column in columns.items()},
        **{"category_names": names, "rois": regions, "fingerprint": _fingerprint(files), **options},
    )


def trial_responses(
    series: np.ndarray,
    events: DataFrame,
    tr: float,
    model: Model = "lsa",
    hrf: Literal["spm", "glover"] = "spm",
    lag: int = 2,
    high_pass: float | None = HIGH_PASS,
    standardise: bool = True,
) -> np.ndarray:
    """One response a trial and voxel from one run.

    Args:
        series: signal, shape (volumes, voxels), any unit; volume i is taken at i * tr seconds.
        events: the run's trials, with columns onset and duration in seconds, one row a trial.
        tr: seconds a volume.
        model: "lsa", "lss" or "lagged"; see the head of this module.
        hrf: haemodynamic response of "lsa" and "lss".
        lag: volumes from what is seen to what is averaged, for "lagged"; at TR 2 s a lag of 2 is 4 s.
        high_pass: Hz; drift slower than this is taken out together with a straight line. None: the line only.
        standardise: first give every voxel's series mean 0 and spread 1 within this run; False keeps the unit of
            `series`, so that betas are in the unit of the signal.

    Returns:
        float32, shape (trials, voxels); voxels that are not finite in some volume are NaN.

    Raises:
        ValueError: an event outside the run, or trials that the volumes cannot tell apart.
    """
    from nilearn.signal import clean

    if model not in ("lsa", "lss", "lagged"):
        raise ValueError(f"model is {model!r}, expected 'lsa', 'lss' or 'lagged'")
    _expect_inside(events, len(series), tr)
    finite = np.isfinite(series).all(axis=0)
    signal = series[:, finite].astype(np.float64)
    if model == "lagged":
        drift = {"filter": "cosine", "high_pass": high_pass} if high_pass else {"filter": False}
        scale = "zscore_sample" if standardise else None
        answers = _lagged(clean(signal, detrend=True, standardize=scale, t_r=tr, **drift), events, tr, lag)
    else:
        if standardise:
            signal = clean(signal, detrend=False, standardize="zscore_sample", filter=False, t_r=tr)
        design = trial_design(events, len(series), tr, hrf, high_pass)
        _expect_answered(design, events)
        answers = (_all_at_once if model == "lsa" else _one_by_one)(signal, design, len(events))
    responses = np.full((len(events), series.shape[1]), np.nan, dtype=np.float32)
    responses[:, finite] = answers
    return responses


def trial_design(
    events: DataFrame,
    volumes: int,
    tr: float,
    hrf: Literal["spm", "glover"] = "spm",
    high_pass: float | None = HIGH_PASS,
) -> DataFrame:
    """Design matrix of one run, shape (volumes, trials + drift terms): a regressor a trial, in the order of `events`.

    Then a straight line, cosines slower than `high_pass` (Hz; None: none) and a constant.
    """
    from nilearn.glm.first_level import make_first_level_design_matrix

    names = [f"trial {i:05d}" for i in range(len(events))]  # nilearn sorts by name
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Matrix is singular")  # the fit refuses it, with the numbers
        return make_first_level_design_matrix(
            np.arange(volumes) * tr,
            events[["onset", "duration"]].assign(trial_type=names),
            hrf_model=hrf,
            drift_model="cosine" if high_pass else None,
            high_pass=high_pass or 0.0,
            add_regs=np.linspace(-1, 1, volumes)[:, None],
            add_reg_names=["line"],
        )


def _all_at_once(signal: np.ndarray, design: DataFrame, trials: int) -> np.ndarray:
    """Betas of one model with every trial ("least squares, all")."""
    from nilearn.glm.first_level import run_glm

    rank = np.linalg.matrix_rank(design.to_numpy())
    if rank < design.shape[1]:
        raise ValueError(
            f"{trials} trials and {design.shape[1] - trials} drift terms have rank {rank} over {len(signal)} volumes, "
            f"expected {design.shape[1]}: too few volumes, or trials with the same onset; leave some out, or take "
            "model='lss' or 'lagged'"
        )
    _, fits = run_glm(signal, design.to_numpy(), noise_model="ols")
    return next(iter(fits.values())).theta[:trials]


def _one_by_one(signal: np.ndarray, design: DataFrame, trials: int) -> np.ndarray:
    """Betas of one model a trial: the trial, all others as one regressor, the drift ("least squares, separate")."""
    matrix = design.to_numpy()
    own, drift = matrix[:, :trials], matrix[:, trials:]
    away = np.eye(len(matrix)) - drift @ np.linalg.pinv(drift)  # without drift on both sides the fit is the same
    own, signal = away @ own, away @ signal
    pairs = (np.stack([own[:, i], own.sum(axis=1) - own[:, i]], axis=1) for i in range(trials))
    return np.stack([np.linalg.pinv(pair)[0] @ signal for pair in pairs])


def _lagged(signal: np.ndarray, events: DataFrame, tr: float, lag: int) -> np.ndarray:
    """Mean of the volumes nearest to each event, `lag` volumes later; at least one volume an event."""
    first = np.rint(events["onset"].to_numpy() / tr).astype(int) + lag
    last = first + np.maximum(1, np.rint(events["duration"].to_numpy() / tr).astype(int))
    if lag < 0 or last.max() > len(signal):
        late = int(np.argmax(last))
        raise ValueError(
            f"with lag {lag} event {late} is averaged up to volume {last[late]}, the run has {len(signal)}; "
            "expected a lag of 0 or more and volumes after the last event: leave that event out, or a shorter lag"
        )
    return np.stack([signal[a:b].mean(axis=0) for a, b in zip(first, last, strict=True)])


def events_from_labels(labels: Sequence[str], tr: float) -> DataFrame:
    """Events of one run from one label a volume: volumes in a row with the same label are one event."""
    from pandas import DataFrame

    labels = np.asarray(labels)
    first = np.flatnonzero(np.diff(block_numbers(labels), prepend=-1))
    count = np.diff(first, append=len(labels))
    return DataFrame({"onset": first * tr, "duration": count * tr, "trial_type": labels[first]})


def block_numbers(labels: np.ndarray) -> np.ndarray:
    """Block of each volume of a run, int64 (volumes,), counted from 0: a block ends where the label changes."""
    rows = np.asarray(labels).reshape(len(labels), -1)
    return np.cumsum(np.append(False, (rows[1:] != rows[:-1]).any(axis=1)), dtype=np.int64)


def read_events(table: Table, ignore: Sequence[str] = ("rest",)) -> DataFrame:
    """The trials of an events.tsv or data frame, as they stand: rows with a trial_type that is not in `ignore`."""
    import pandas as pd

    if isinstance(table, str | os.PathLike):
        where = str(table)
        if not Path(table).is_file():
            raise FileNotFoundError(f"no events at {where}; give one events.tsv a run")
        events = pd.read_csv(table, sep="\t", na_values="n/a")
    else:
        where, events = "the events", table
    missing = [name for name in ("onset", "duration", "trial_type") if name not in events]
    if missing:
        raise ValueError(
            f"{where} has columns {list(events.columns)}, but no {missing}; BIDS events need onset, duration and "
            "trial_type, separated by tabs"
        )
    trials = events[events["trial_type"].notna() & ~events["trial_type"].isin(ignore)].reset_index(drop=True)
    if not len(trials):
        raise ValueError(f"0 of {len(events)} rows of {where} are trials, without {list(ignore)}; leave that run out")
    return trials


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

    scan = load_image(bold, "BOLD")
    if len(scan.shape) != 4:
        raise ValueError(f"BOLD has shape {scan.shape}, expected 4 dimensions: x, y, z, volumes")
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


def load_image(image: Image, what: str) -> SpatialImage:
    """An image from its path, or itself; `what` names it in errors."""
    import nibabel

    if not isinstance(image, str | os.PathLike):
        return image
    if not Path(image).is_file():
        raise FileNotFoundError(f"no {what} at {image}")
    try:
        return nibabel.load(image)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, OSError, EOFError) as error:
        raise ValueError(f"{what} {image} cannot be read as an image ({error}); get the file anew") from error


def repetition_time(bold: SpatialImage, tr: float | None = None) -> float:
    """Seconds from volume to volume: `tr` if given, else what the header says."""
    if tr is None:
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


def files_fingerprint(files: Sequence[str | os.PathLike[str]]) -> str:
    """Hash of the files' contents, in order."""
    digests = []
    for file in files:
        with open(file, "rb") as handle:
            digests.append(file_digest(handle, "sha256").hexdigest())
    return fingerprint(*digests)


def _one_a_run(bold: Image | Sequence[Image], runs: np.ndarray | None) -> dict[int, SpatialImage]:
    """Run number -> 4-D image."""
    single = isinstance(bold, str | os.PathLike) or hasattr(bold, "affine")
    if runs is None:
        return dict(enumerate(load_image(image, "BOLD") for image in ([bold] if single else bold)))
    if not single:
        raise ValueError(f"runs= numbers the volumes of one image, but {len(bold)} images are given; leave runs= out")
    scan, runs = load_image(bold, "BOLD"), np.asarray(runs)
    if scan.shape[3:] != runs.shape:
        raise ValueError(f"{runs.size} run numbers for BOLD of shape {scan.shape}; every volume needs exactly one")
    data = _data(scan, "BOLD")
    return {int(run): scan.__class__(data[..., runs == run], scan.affine, scan.header) for run in np.unique(runs)}


def _describe(
    rows: Sequence[DataFrame],
    stimuli: str | os.PathLike[str] | Mapping[str, np.ndarray] | None,
    image_size: int | None,
    subject: int,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """All columns but the voxels, and the category names."""
    import pandas as pd

    table = pd.concat(rows, ignore_index=True)
    names, labels = np.unique(table["trial_type"].astype(str), return_inverse=True)
    columns = {
        "labels": labels.astype(np.int64),
        "run": table["run"].to_numpy(np.int64),
        "trial": np.arange(len(table), dtype=np.int64),
        "subject": np.full(len(table), subject, dtype=np.int64),
    }
    if "stim_file" in table or stimuli is not None:
        unnamed = len(table) if "stim_file" not in table else int(table["stim_file"].isna().sum())
        if unnamed:
            raise ValueError(f"{unnamed} of {len(table)} trials have no stim_file; name one for each, or for none")
        files, stimulus = np.unique(table["stim_file"].astype(str), return_inverse=True)
        columns["stimulus"] = stimulus.astype(np.int64)
    if stimuli is not None:
        images = [_picture(file, stimuli, image_size) for file in files]
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise ValueError(f"stimuli have {len(shapes)} shapes, such as {sorted(shapes)[:2]}; give image_size=")
        columns["images"] = np.stack(images)[columns.pop("stimulus")]  # equal pictures are one stimulus
    return columns, tuple(names.tolist())


def _picture(
    file: str, stimuli: str | os.PathLike[str] | Mapping[str, np.ndarray], image_size: int | None
) -> np.ndarray:
    if isinstance(stimuli, Mapping):
        if file not in stimuli:
            raise ValueError(f"no stimulus {file!r} among the {len(stimuli)} given; name each as in stim_file")
        image = np.asarray(stimuli[file])
    else:
        from PIL import Image as Picture

        if not (Path(stimuli) / file).is_file():
            raise FileNotFoundError(f"no stimulus at {Path(stimuli) / file}; give the folder stim_file starts from")
        image = np.asarray(Picture.open(Path(stimuli) / file).convert("RGB"))
    return image if image_size is None else resize_images(image[None], image_size)[0]


def _expect_inside(events: DataFrame, volumes: int, tr: float) -> None:
    onset, duration = (events[name].to_numpy(dtype=float) for name in ("onset", "duration"))
    if not (np.isfinite(onset).all() and np.isfinite(duration).all() and (duration >= 0).all()):
        raise ValueError("an onset or a duration is missing or below 0; BIDS gives both in seconds for every event")
    outside = np.flatnonzero((onset < 0) | (onset + duration > volumes * tr + 0.5 * tr))
    if len(outside):
        i = outside[0]
        raise ValueError(
            f"{len(outside)} of {len(events)} events lie outside the run (first: event {i}, {onset[i]:g} to "
            f"{onset[i] + duration[i]:g} s; {volumes} volumes at TR {tr:g} s last {volumes * tr:g} s); "
            "wrong tr=, or the events of another run"
        )


def _expect_answered(design: DataFrame, events: DataFrame) -> None:
    """Each trial needs some of its answer within the run."""
    peak = np.abs(design.to_numpy()[:, : len(events)]).max(axis=0)
    late = np.flatnonzero(peak <= 1e-3 * peak.max())
    if len(late):
        raise ValueError(
            f"{len(late)} of {len(events)} trials are answered after the last of {len(design)} volumes (first: "
            f"onset {events['onset'].iloc[late[0]]:g} s); leave those out"
        )


def _read_mask(image: Image, what: str, bold: SpatialImage) -> np.ndarray:
    """A mask as booleans, shape (x, y, z)."""
    loaded = load_image(image, what)
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
    try:
        return np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError) as error:  # cut short: gzip and nibabel raise one of these
        raise ValueError(f"{what} {image.get_filename()} ends early ({error}); get the file anew") from error


def _fingerprint(groups: Sequence[Any]) -> str | None:
    """Hash of the files if everything came from files; None lets `from_arrays` hash the arrays."""
    listed = [g for g in groups if g is not None]
    flat = [f for g in listed for f in ([g] if isinstance(g, str | os.PathLike) or hasattr(g, "shape") else g)]
    return files_fingerprint(flat) if all(isinstance(f, str | os.PathLike) for f in flat) else None
