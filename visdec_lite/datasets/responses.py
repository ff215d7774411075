"""Responses to trials: the BOLD series of one run and its events in, one row a trial out.

Enters: signal of each voxel, one row a volume, and a table of events in BIDS form (onset and duration in seconds,
trial_type, perhaps stim_file). Leaves: one row a trial, one column a voxel, and columns of what was shown. The BOLD
answer to a picture comes seconds late and lasts for many, so that trials overlap; two ways out:

* a general linear model in which every trial has its own regressor, the stimulus convolved with the canonical
  haemodynamic response; its weight, the beta, is the trial's response. "lsa" fits all trials at once, "lss" one model
  a trial, which holds up better when trials come fast (Mumford et al., 2012, NeuroImage 59);
* "lagged": the mean of the volumes `lag` later, when the blood has answered. For long blocks that is enough.

nilearn does the work: filtering, design, fit.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from visdec_lite.datasets.pictures import read_picture
from visdec_lite.datasets.tables import numbers, read_table, words
from visdec_lite.preprocessing import resize_images

if TYPE_CHECKING:  # nilearn takes over a second to import: the functions that need it do so
    from pandas import DataFrame

    Table = str | os.PathLike[str] | DataFrame

Model = Literal["lsa", "lss", "lagged"]
HIGH_PASS = 1 / 128  # Hz; slower than this is drift of the scanner, as in SPM


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
    if len(series) < 2 or not len(events):
        raise ValueError(
            f"{len(series)} volumes and {len(events)} events, expected 2 or more and 1 or more; leave that run out"
        )
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

    Then a straight line, cosines slower than `high_pass` (Hz; None: none) and a constant. Duration 0 is an impulse.
    """
    from nilearn.glm.first_level import make_first_level_design_matrix

    names = [f"trial {i:05d}" for i in range(len(events))]  # nilearn sorts by name
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Matrix is singular")  # the fit refuses it, with the numbers
        warnings.filterwarnings("ignore", "(?s).*null duration")  # an impulse, as BIDS has it
        return make_first_level_design_matrix(
            np.arange(volumes) * tr,
            events[["onset", "duration"]].assign(trial_type=names),
            hrf_model=hrf,
            drift_model="cosine" if high_pass else None,
            high_pass=high_pass or 0.0,
            add_regs=np.linspace(-1, 1, volumes)[:, None],
            add_reg_names=["line"],
        )


def events_from_labels(labels: Sequence[str], tr: float) -> DataFrame:
    """Events of one run from one label a volume: volumes in a row with the same label are one event."""
    from pandas import DataFrame

    labels = np.asarray(labels)
    if not len(labels):
        raise ValueError("0 labels given, expected one a volume; leave that run out")
    first = np.flatnonzero(np.diff(block_numbers(labels), prepend=-1))
    count = np.diff(first, append=len(labels))
    return DataFrame({"onset": first * tr, "duration": count * tr, "trial_type": labels[first]})


def block_numbers(labels: np.ndarray) -> np.ndarray:
    """Block of each volume of a run, int64 (volumes,), counted from 0: a block ends where the label changes."""
    if not len(labels):
        return np.zeros(0, dtype=np.int64)
    rows = np.asarray(labels).reshape(len(labels), -1)
    return np.cumsum(np.append(False, (rows[1:] != rows[:-1]).any(axis=1)), dtype=np.int64)


def read_events(table: Table, ignore: Sequence[str] = ("rest",)) -> DataFrame:
    """The trials of an events.tsv or data frame, as they stand: rows with a trial_type that is not in `ignore`.

    Args:
        table: path of a file, of which every word is taken as it is written (`001`, `None` and `true` are names, only
            `n/a` is missing); or a data frame.
        ignore: trial types that are no trials.

    Returns:
        One row a trial: onset and duration as float seconds, trial_type and stim_file as text; other columns as they
        stand, of a file as text.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no BIDS events, with file, line and column of what is wrong; no trials.
    """
    from pandas import DataFrame

    if isinstance(table, str | os.PathLike):
        where = str(table)
        if not Path(table).is_file():
            raise FileNotFoundError(f"no events at {where}; give one events.tsv a run")
        read = read_table(table, "\t")
        events, places = DataFrame(list(read.rows), columns=list(read.columns), dtype=object), read.places
    else:
        where, events = "the events", table.reset_index(drop=True)
        places = [f"the events, row {row}" for row in range(len(events))]
    missing = [name for name in ("onset", "duration", "trial_type") if name not in events]
    if missing:
        raise ValueError(
            f"{where} has columns {list(events.columns)}, but no {missing}; BIDS events need onset, duration and "
            "trial_type, separated by tabs"
        )

    def values(column: str) -> list[object]:
        """None, where pandas says NaN or NA."""
        cells = events[column]
        return cells.astype(object).where(cells.notna(), None).tolist()

    types = words(values("trial_type"), "trial_type", places)
    seconds = {column: numbers(values(column), column, places) for column in ("onset", "duration")}
    kept = np.array([word is not None and word not in ignore for word in types], dtype=bool)
    for column, times in seconds.items():
        lost = np.flatnonzero(kept & np.isnan(times))
        if len(lost):
            raise ValueError(
                f"{places[lost[0]]}, column {column!r}: {len(lost)} of {int(kept.sum())} trials have no {column}; BIDS "
                "gives it in seconds for every event"
            )
    if not kept.any():
        raise ValueError(f"0 of {len(events)} rows of {where} are trials, without {list(ignore)}; leave that run out")
    if "stim_file" in events:  # where nothing is shown, its cell may be empty
        files = [None if value == "" else value for value in values("stim_file")]
        events = events.assign(stim_file=words(files, "stim_file", places))
    return events.assign(**seconds, trial_type=types)[kept].reset_index(drop=True)


def describe_trials(
    rows: Sequence[DataFrame],
    stimuli: str | os.PathLike[str] | Mapping[str, np.ndarray] | None,
    image_size: int | None,
    subject: int,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """What each trial showed, and when.

    Args:
        rows: one table a run: `trial_type`, `run` and perhaps `stim_file`, one row a trial.
        stimuli, image_size, subject: as in `nifti.from_nifti`.

    Returns:
        The columns of `from_arrays` but the voxels, and the names of the categories in alphabetical order.

    Raises:
        FileNotFoundError, ValueError: a picture is missing, unnamed or of another shape than the others.
    """
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


def _picture(
    file: str, stimuli: str | os.PathLike[str] | Mapping[str, np.ndarray], image_size: int | None
) -> np.ndarray:
    if isinstance(stimuli, Mapping):
        if file not in stimuli:
            raise ValueError(f"no stimulus {file!r} among the {len(stimuli)} given; name each as in stim_file")
        image = np.asarray(stimuli[file])
    else:
        if not (Path(stimuli) / file).is_file():
            raise FileNotFoundError(f"no stimulus at {Path(stimuli) / file}; give the folder stim_file starts from")
        image = read_picture(Path(stimuli) / file)
    return image if image_size is None else resize_images(image[None], image_size)[0]
