"""Anybody's scans, as plain arrays, in the sample contract of `base`.

Enters: voxels as recorded, with what is known of each row. Leaves: a `BrainDataset`. Every loader of recorded data ends
here, so that voxels are dropped, z-scored and set aside, and leaks looked for, in one place and one way:

    regions -> val set aside -> voxels without signal in train dropped -> z-scored -> leak check
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from visdec_lite.datasets.base import BrainDataset, Split
from visdec_lite.datasets.base import fingerprint as hash_of
from visdec_lite.datasets.leaks import Leak, find_leaks, image_key
from visdec_lite.preprocessing import ZScore, roi_mask, valid_voxels, zscore_runs
from visdec_lite.validation import expect_finite, one_a_trial, region_masks, rgb_images, voxel_table

logger = logging.getLogger(__name__)

COLUMNS = ("voxels", "images", "labels", "stimulus", "subject", "run", "trial")
OWN = "not stated; whoever recorded them decides"

Columns = Mapping[str, np.ndarray]  # or lists or tensors, until `_checked`


def from_arrays(
    train: Columns,
    test: Columns,
    *,
    others: Mapping[str, Columns] | None = None,
    name: str = "mine",
    category_names: Sequence[str] | None = None,
    rois: Mapping[str, np.ndarray] | None = None,
    roi: str | Sequence[str] | None = None,
    zscore: Literal["train", "runs"] = "train",
    val_fraction: float = 0.1,
    split_seed: int = 0,
    simulated: bool = False,
    licence: str = OWN,
    citation: str = OWN,
    fingerprint: str | None = None,
) -> BrainDataset:
    """A data set from arrays.

    Args:
        train, test: column name -> array of n rows. `voxels`, float (n, num_voxels), as recorded, is needed;
            `images` uint8 (n, height, width, 3), `labels`, `stimulus`, `subject`, `run` and `trial` (integers) may be
            there, as arrays, lists or tensors. Without `stimulus`, equal images are one stimulus; without images,
            every row is its own.
        others: further splits by name, such as `pretrain` (unlabelled scans), `val` or `test_imagery`.
        category_names: names of the labels, which count from 0. None names the labels that occur by their number, and
            numbers them anew from 0, in their order, where numbers between them are missing.
        rois: region -> boolean mask over voxels; None makes one region, "all".
        roi: keep only the voxels of these regions.
        zscore: "train" fits mean and spread of each voxel on train; "runs" gives every run its own, which removes
            drift between runs and leaks nothing while no run is in two of train and test.
        val_fraction: share of the training stimuli set aside as `val`, repeats kept together, unless `others` has it.
        split_seed: which stimuli are set aside.
        simulated, licence, citation: as in `BrainDataset`.
        fingerprint: hash of the files behind the arrays; None takes the hash of the arrays.

    Returns:
        The data set. Voxels that are constant or not finite in the training rows, with those set aside as `val` or
        without, or in a run that is z-scored by itself, are left out, with their number in the log. Pictures of `test`
        that also stand in train are counted in a warning.

    Raises:
        ValueError: columns that are unknown, missing, of different lengths or of another kind; voxel counts that differ
            between splits; a run in both train and test under "runs"; nothing left to learn from; labels without names;
            pictures that are not squares of one size.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction}, expected a share from 0 to below 1")
    if zscore not in ("train", "runs"):
        raise ValueError(f"zscore is {zscore!r}, expected 'train' or 'runs'")
    tables = {
        split: _checked(split, columns) for split, columns in {"train": train, "test": test, **(others or {})}.items()
    }
    count = _voxel_count(tables)
    rois = region_masks({"all": np.ones(count, dtype=bool)} if rois is None else rois, count)
    mark = fingerprint or _hash(tables)
    if roi is not None:
        keep = roi_mask(rois, [roi] if isinstance(roi, str) else list(roi))
        tables, rois = _take(tables, rois, keep)
    _number_stimuli(tables)
    set_aside = np.zeros(len(tables["train"]["voxels"]), dtype=bool)
    if "val" not in tables and val_fraction > 0:
        set_aside = _val_rows(tables["train"]["stimulus"], tables["train"].get("labels"), val_fraction, split_seed)
    tables, rois = _drop_silent(tables, rois, ~set_aside, by_run=zscore == "runs")
    for split, table in tables.items():
        expect_finite(table["voxels"], f"voxels of {split!r}")
    if zscore == "runs":
        _refuse_shared_runs(tables)
        tables = {split: {**t, "voxels": zscore_runs(t["voxels"], _sessions(t))} for split, t in tables.items()}
    if set_aside.any():
        everything = tables["train"]
        tables["val"] = {column: values[set_aside] for column, values in everything.items()}
        tables["train"] = {column: values[~set_aside] for column, values in everything.items()}
    if zscore == "train":
        scale = ZScore.fit(tables["train"]["voxels"])
        tables = {split: {**t, "voxels": scale.apply(t["voxels"])} for split, t in tables.items()}
    if category_names is None:
        category_names = _name_labels(tables)
    splits = {split: Split(**{c: t.get(c) for c in COLUMNS}) for split, t in tables.items()}
    dataset = BrainDataset(
        name=name,
        splits=splits,
        category_names=category_names,
        rois=rois,
        simulated=simulated,
        licence=licence,
        citation=citation,
        fingerprint=mark,
    )
    _warn_of_leaks(name, splits)
    return dataset


def refuse_copies(voxels: np.ndarray, file: Path) -> None:
    """No two trials of a brain are equal in every voxel: such rows were copied, and may stand in train and test.

    Args:
        voxels: shape (trials, voxels).
        file: where they are from, for the message.
    """
    first: dict[int, int] = {}
    pairs = []
    for row, trial in enumerate(np.ascontiguousarray(voxels)):
        other = first.setdefault(hash(trial.tobytes()), row)
        if other != row and np.array_equal(trial, voxels[other], equal_nan=True):
            pairs.append((other, row))
    if pairs:
        shown = ", ".join(f"{a} = {b}" for a, b in pairs[:5]) + (", ..." if len(pairs) > 5 else "")
        raise ValueError(
            f"{len(pairs)} of {len(voxels)} rows of {file} are exact copies of others, expected 0 (rows counted from "
            f"0: {shown}); get the file anew, or leave the copies out"
        )


def _checked(split: str, columns: Columns) -> dict[str, np.ndarray]:
    """The columns of a split as arrays of the right kind, missing ones filled in where a value suggests itself."""
    unknown = [column for column in columns if column not in COLUMNS]
    if unknown or "voxels" not in columns:
        what = f"unknown columns {unknown}" if unknown else "no column 'voxels'"
        raise ValueError(f"{split!r} has {what}; a split has voxels and may have {', '.join(COLUMNS[1:])}")
    table = {column: values for column, values in columns.items() if values is not None}
    voxels = table["voxels"] = voxel_table(table["voxels"], f"voxels of {split!r}")
    if len(voxels) == 0:
        raise ValueError(f"voxels of {split!r} are {voxels.dtype} {voxels.shape}, expected at least 1 trial")
    for column, values in table.items():
        what = f"{column} of {split!r}"
        if column == "images":
            table[column] = rgb_images(values, what)
            if len(table[column]) != len(voxels):
                raise ValueError(f"{len(table[column])} {what} for {len(voxels)} rows of voxels; every trial needs one")
        elif column != "voxels":
            table[column] = one_a_trial(values, len(voxels), what)
    n = len(voxels)
    defaults = {"subject": np.ones(n, np.int64), "run": np.zeros(n, np.int64), "trial": np.arange(n, dtype=np.int64)}
    return {**defaults, **table}


def _voxel_count(tables: Mapping[str, Columns]) -> int:
    counts = {split: table["voxels"].shape[1] for split, table in tables.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"splits have different numbers of voxels: {counts}; expected the same voxels in the same order"
        )
    return counts["train"]


def _take(
    tables: Mapping[str, Columns], rois: Mapping[str, np.ndarray], keep: np.ndarray
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Only the voxels of a mask; regions that lose all of theirs go."""
    kept = {split: {**table, "voxels": table["voxels"][:, keep]} for split, table in tables.items()}
    return kept, {region: mask[keep] for region, mask in rois.items() if mask[keep].any()}


def _drop_silent(
    tables: Mapping[str, Columns], rois: Mapping[str, np.ndarray], learning: np.ndarray, by_run: bool
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Leave out voxels that have no z-score, in train or in its rows to learn from, the mask `learning`.

    What is broken in the other splits is an error, not dropped.
    """
    voxels = tables["train"]["voxels"]
    keep = valid_voxels(voxels) & valid_voxels(voxels[learning])
    if by_run:
        for table in tables.values():
            sessions = _sessions(table)
            counts = np.bincount(sessions)
            if counts.min() < 2:
                row = int(np.flatnonzero(sessions == counts.argmin())[0])
                raise ValueError(
                    f"run {table['run'][row]} of subject {table['subject'][row]} has 1 trial, z-scoring by run needs 2 "
                    "or more for a spread; leave that run out, or use zscore='train'"
                )
            for number in np.unique(sessions):
                keep &= valid_voxels(table["voxels"][sessions == number])
    lost = int((~keep).sum())
    if lost == len(keep):
        raise ValueError(
            f"all {lost} voxels are constant or not finite in the training rows; nothing is left to learn from"
        )
    if lost:
        logger.warning("left out %d of %d voxels: constant or not finite in training rows", lost, len(keep))
        return _take(tables, rois, keep)
    return {split: dict(table) for split, table in tables.items()}, dict(rois)


def _sessions(table: Columns) -> np.ndarray:
    """One number a run of a subject: two subjects' first runs are two runs."""
    return np.unique(np.stack([table["subject"], table["run"]]), axis=1, return_inverse=True)[1].ravel()


def _refuse_shared_runs(tables: Mapping[str, Columns]) -> None:
    runs = {split: set(zip(t["subject"].tolist(), t["run"].tolist(), strict=True)) for split, t in tables.items()}
    shared = runs["train"] & runs["test"]
    if shared:
        raise ValueError(
            f"{len(shared)} runs are in both train and test; z-scoring by run would carry statistics across; "
            "split by run, or use zscore='train'"
        )


def _number_stimuli(tables: dict[str, dict[str, np.ndarray]]) -> None:
    """Equal images get equal numbers, over all splits; rows without images get one each. None is a number given."""
    free = 1 + max((int(table["stimulus"].max()) for table in tables.values() if "stimulus" in table), default=-1)
    numbers: dict[object, int] = {}
    for split, table in tables.items():
        if "stimulus" in table:
            continue
        keys = (
            map(image_key, table["images"]) if "images" in table else ((split, i) for i in range(len(table["voxels"])))
        )
        table["stimulus"] = np.array([numbers.setdefault(key, free + len(numbers)) for key in keys], dtype=np.int64)


def _val_rows(stimulus: np.ndarray, labels: np.ndarray | None, fraction: float, seed: int) -> np.ndarray:
    """A share of the stimuli, spread evenly over the labels, at least one; boolean over rows."""
    stimuli, first = np.unique(stimulus, return_index=True)
    count = max(1, round(fraction * len(stimuli)))
    if count >= len(stimuli):
        raise ValueError(
            f"{len(stimuli)} training stimuli are too few to set {count} aside; give val_fraction=0 or a split 'val'"
        )
    order = np.random.default_rng(seed).permutation(len(stimuli))
    if labels is not None:  # deal like cards: the first of every label, then the second of every label, ...
        kind = labels[first][order]
        place = np.array([(kind[:i] == kind[i]).sum() for i in range(len(kind))])
        order = order[np.argsort(place, kind="stable")]
    return np.isin(stimulus, stimuli[order[:count]])


def _warn_of_leaks(name: str, splits: Mapping[str, Split]) -> None:
    """Test pictures in train, or in val, which is taken from train."""
    test, known = splits["test"], [splits[split] for split in ("train", "val") if split in splits]
    if any(split.images is None for split in (test, *known)):
        shared = np.intersect1d(np.concatenate([split.stimulus for split in known]), test.stimulus)
        if len(shared):
            logger.warning(
                "%s: %d stimuli of test are also in train; a score on them shows memory, not reading", name, len(shared)
            )
        return
    first = np.unique(test.stimulus, return_index=True)[1]
    found = [find_leaks(test.images[first], split.images) for split in known]
    exact = np.unique(np.concatenate([leak.exact for leak in found]))
    leak = Leak(exact, np.setdiff1d(np.concatenate([leak.near for leak in found]), exact))
    if len(leak):
        logger.warning(
            "%s: of %d test pictures, %s stand in train; a score on them shows memory, not reading",
            name,
            len(first),
            leak,
        )


def _name_labels(tables: dict[str, dict[str, np.ndarray]]) -> tuple[str, ...]:
    """Names of the labels that occur; labels become their places among them, so that a large one costs no more."""
    labelled = [table for table in tables.values() if "labels" in table]
    if not labelled:
        return ()
    occurring = np.unique(np.concatenate([table["labels"] for table in labelled]))
    if occurring[0] >= 0 and occurring[-1] >= len(occurring):
        for table in labelled:
            table["labels"] = np.searchsorted(occurring, table["labels"])
        logger.warning(
            "%d labels occur, from %d to %d: numbered anew, 0 to %d, and named by their old numbers",
            len(occurring),
            occurring[0],
            occurring[-1],
            len(occurring) - 1,
        )
    return tuple(f"category {label}" for label in occurring)


def _hash(tables: Mapping[str, Columns]) -> str:
    parts = [
        p
        for split, t in tables.items()
        for c, v in t.items()
        for p in (f"{split}.{c}", str(v.shape), np.ascontiguousarray(v).tobytes())
    ]
    return hash_of(*parts)
