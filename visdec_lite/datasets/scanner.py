"""The simulated subject in a simulated scanner: responses in, a 4-D BOLD series on an MNI grid out.

Enters: one response a trial and voxel, with the region of each voxel. Leaves: what a real session leaves on disk, NIfTI
images, masks and events, so that nilearn is used on it exactly as on a real scan, with the right answer known:

    BOLD(t) = baseline * (1 + (sum over trials of response * (stimulus * HRF)(t) + drift(t) + noise(t)) / 100)

with responses in percent. Every region lies where its namesake does in MNI space, as a compact cluster in each
hemisphere. The cortex of `simulated` has regions but no anatomy, so the place of a voxel *within* its region means
nothing: voxel i of a region, in the data set's order, is the i-th voxel of that region's mask in nilearn's order (x
slowest, z fastest; the left hemisphere first). Nobody was scanned: whatever is made from this must be called simulated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from visdec_lite.datasets.base import BrainDataset
from visdec_lite.datasets.responses import trial_design

if TYPE_CHECKING:  # nilearn takes over a second to import: the functions that need it do so
    from nibabel import Nifti1Image
    from pandas import DataFrame

VOXEL = 3  # mm a side, as in most scans of whole brains
BASELINE = 8000  # signal of the brain at rest; its steps of 1 (images are int16) are 0.0125 %
MARGIN = 2  # voxels of other brain kept around the regions: the grid is cut to a box
REST = 16.0  # seconds after the last picture, until its answer is over

# Centre of each region in the right hemisphere, in mm of MNI space. Regions are filled in this order, each with the
# nearest voxels still free: V1 around the calcarine sulcus at the pole, V2 and V3 as shells around it.
CENTRES = {
    "V1": (9, -88, 2),
    "V2": (9, -88, 2),
    "V3": (9, -88, 2),
    "V4": (28, -72, -12),  # ventral, on the fusiform gyrus
    "LOC": (46, -72, -4),  # lateral occipital
    "other": (52, -22, 8),  # auditory cortex: sees nothing
}
EVOKED, SPREAD = 3.0, 2.0  # percent: answer to the average picture where voxels see, and one standard deviation


def voxel_positions(rois: Mapping[str, np.ndarray]) -> np.ndarray:
    """Where each voxel of the simulated subject lies, in mm of MNI space, float64 (num_voxels, 3).

    Args:
        rois: region -> boolean mask over voxels, as in `BrainDataset.rois`; every voxel in exactly one region.
    """
    cells, affine, _ = _grid(rois)
    return cells @ affine[:3, :3].T + affine[:3, 3]


def region_images(rois: Mapping[str, np.ndarray]) -> tuple[Nifti1Image, dict[str, Nifti1Image]]:
    """The brain in the box as a mask image, and a mask image for each region."""
    from nibabel import Nifti1Image

    cells, affine, brain = _grid(rois)
    images = {}
    for name, mask in rois.items():
        inside = np.zeros(brain.shape, dtype=np.uint8)
        inside[tuple(cells[mask].T)] = 1
        images[name] = Nifti1Image(inside, affine)
    return Nifti1Image(brain.astype(np.uint8), affine), images


def schedule(trials: int, spacing: float = 8.0, duration: float = 4.0, start: float = 8.0) -> DataFrame:
    """Onsets and durations in seconds of one run: a picture for `duration` every `spacing`, after `start` of rest."""
    from pandas import DataFrame

    if not 0 <= duration <= spacing:
        raise ValueError(f"pictures of {duration:g} s every {spacing:g} s; expected a duration from 0 to the spacing")
    return DataFrame({"onset": start + spacing * np.arange(trials), "duration": duration})


def scan(
    responses: np.ndarray,
    rois: Mapping[str, np.ndarray],
    events: DataFrame,
    *,
    rng: np.random.Generator,
    tr: float = 2.0,
    hrf: Literal["spm", "glover"] = "spm",
    noise: float = 0.5,
    drift: float = 1.0,
) -> Nifti1Image:
    """One run as a scanner would record it.

    Args:
        responses: percent signal change, shape (trials, num_voxels): what a picture that stays would settle at. One of
            4 s peaks at 0.6 of it. The betas of a linear model are in this unit.
        rois: region -> boolean mask over voxels.
        events: onset and duration of each trial in seconds; `schedule` makes such a table.
        rng: of noise and drift.
        tr: seconds a volume.
        hrf: canonical haemodynamic response, as nilearn names it.
        noise: standard deviation of white noise, in percent of the baseline, in every voxel of the brain.
        drift: standard deviation of slow waves (half a cycle and one cycle a run), in percent, in every voxel.

    Returns:
        int16 image, shape (x, y, z, volumes), with `tr` in its header; outside the brain it is 0.
    """
    from nibabel import Nifti1Image

    cells, affine, brain = _grid(rois)
    if not len(events):
        raise ValueError("0 events to scan, expected 1 or more; leave that run out")
    if responses.shape != (len(events), len(cells)):
        raise ValueError(
            f"responses have shape {responses.shape}, expected ({len(events)} events, {len(cells)} voxels)"
        )
    volumes = int(np.ceil((events["onset"] + events["duration"]).max() + REST) / tr)
    neural = trial_design(events, volumes, tr, hrf, high_pass=None).to_numpy()[:, : len(events)]
    cycles = 2 * np.pi * np.array([0.5, 1.0])[:, None] * np.linspace(0, 1, volumes)
    phase = rng.uniform(0, 2 * np.pi, (int(brain.sum()), 2))
    waves = np.cos(phase) @ np.cos(cycles) - np.sin(phase) @ np.sin(cycles)  # cos(cycles + phase), variance 1 in all
    percent = np.zeros((*brain.shape, volumes), dtype=np.float32)
    percent[brain] = drift * waves + noise * rng.standard_normal(waves.shape, dtype=np.float32)
    percent[tuple(cells.T)] += (neural @ responses).T
    signal = np.rint(BASELINE * (1 + percent / 100)) * brain[..., None]
    image = Nifti1Image(np.clip(signal, 0, np.iinfo(np.int16).max).astype(np.int16), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((VOXEL, VOXEL, VOXEL, tr))
    return image


def write_nifti(
    dataset: BrainDataset,
    folder: str | os.PathLike[str],
    *,
    runs: Mapping[str, Sequence[int]],
    rng: np.random.Generator,
    spacing: float = 8.0,
    duration: float = 4.0,
    **scanning: Any,
) -> dict[str, Any]:
    """Write runs of the simulated subject as files, in the manner of BIDS.

    Args:
        dataset: the simulated data set; its voxels are the responses to recover.
        folder: where to write; made if missing.
        runs: split -> numbers of its runs, such as {"train": (0, 1), "test": (0,)}; written as run-1, run-2, ...
        rng: of noise and drift.
        spacing, duration: seconds from picture to picture, and that each is shown.
        scanning: handed to `scan`: tr, hrf, noise, drift.

    Returns:
        Arguments of `nifti.from_nifti`, so that `from_nifti(**write_nifti(...))` closes the circle: bold, events, rois,
        stimuli (None without images), test_runs and simulated. `mask.nii.gz`, all brain in the box, is written too;
        without it `from_nifti` reads the voxels of the regions, which are those of the data set.
    """
    import nibabel

    if not dataset.simulated:
        raise ValueError(
            f"data set {dataset.name!r} is of real people, expected a simulated one; a scan is not made up for them"
        )
    if not isinstance(runs, Mapping) or not runs:
        raise ValueError(
            f"runs is {runs!r}, expected split -> numbers of its runs, such as {{'train': [0, 1], 'test': [0]}}"
        )
    folder = Path(folder)
    (folder / "stimuli").mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {"bold": [], "events": [], "rois": {}, "stimuli": None, "test_runs": [], "simulated": True}
    mask, regions = region_images(dataset.rois)
    nibabel.save(mask, folder / "mask.nii.gz")
    for name, image in regions.items():
        files["rois"][name] = folder / f"roi-{name}_mask.nii.gz"
        nibabel.save(image, files["rois"][name])
    evoked = np.where(dataset.rois.get("other", False), 0.0, EVOKED)
    for split, number in [(split, number) for split, numbers in runs.items() for number in numbers]:
        rows = dataset[split].rows(_rows_of(dataset, split, number))
        events = schedule(len(rows), spacing, duration)
        if rows.labels is not None:
            events["trial_type"] = [dataset.category_names[label] for label in rows.labels]
        else:
            events["trial_type"] = "picture"
        if rows.images is not None:
            events["stim_file"] = _write_pictures(rows.images, rows.stimulus, folder / "stimuli", split)
            files["stimuli"] = folder / "stimuli"
        stem = f"sub-{rows.subject[0]:02d}_task-view_run-{len(files['bold']) + 1}"
        files["test_runs"] += [len(files["bold"])] if split.startswith("test") else []
        files["bold"].append(folder / f"{stem}_bold.nii.gz")
        files["events"].append(folder / f"{stem}_events.tsv")
        image = scan(evoked + SPREAD * rows.voxels, dataset.rois, events, rng=rng, **scanning)
        nibabel.save(image, files["bold"][-1])
        events.to_csv(files["events"][-1], sep="\t", index=False)
    (folder / "README").write_text(_readme(dataset, runs), encoding="utf-8")
    return files


def _grid(rois: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cell of each voxel (num_voxels, 3), affine (4, 4) and brain mask of the box."""
    members = np.sum([mask for mask in rois.values()], axis=0)
    if not rois or (members != 1).any():
        raise ValueError(
            f"{int((np.asarray(members) != 1).sum())} voxels are in none or several of the regions {list(rois)}, "
            "expected each in exactly one"
        )
    unknown = [name for name in rois if name not in CENTRES]
    if unknown:
        raise ValueError(f"no place is known for the regions {unknown}; there are {list(CENTRES)}")
    places, affine, brain = _places(tuple((name, int(rois[name].sum())) for name in CENTRES if name in rois))
    cells = np.empty((len(members), 3), dtype=np.int64)
    for name, mask in rois.items():
        cells[mask] = places[name]
    return cells, affine, brain


@cache
def _places(sizes: tuple[tuple[str, int], ...]) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Cells of each region in nilearn's order, affine and brain mask of the smallest box around them and a margin."""
    from nilearn.datasets import load_mni152_brain_mask

    template = load_mni152_brain_mask(resolution=VOXEL)
    brain, affine = np.asarray(template.dataobj) > 0, template.affine
    cells = np.argwhere(brain)
    position = cells @ affine[:3, :3].T + affine[:3, 3]
    free, places = np.ones(len(cells), dtype=bool), {}
    for name, count in sizes:
        taken = []
        for side, share in ((-1, count - count // 2), (1, count // 2)):
            centre = np.array(CENTRES[name]) * [side, 1, 1]
            candidates = np.flatnonzero(free & (np.sign(position[:, 0]) == side))
            distance = np.linalg.norm(position[candidates] - centre, axis=1)
            taken.append(candidates[np.argsort(distance, kind="stable")[:share]])
        chosen = np.sort(np.concatenate(taken))
        if len(chosen) < count:
            raise ValueError(f"{count} voxels of {name} do not fit into a brain with {len(chosen)} free ones")
        free[chosen] = False
        places[name] = cells[chosen]
    used = np.concatenate(list(places.values()))
    low = np.maximum(used.min(axis=0) - MARGIN, 0)
    high = np.minimum(used.max(axis=0) + MARGIN + 1, brain.shape)
    box = affine.copy()
    box[:3, 3] = affine[:3, :3] @ low + affine[:3, 3]
    return {name: c - low for name, c in places.items()}, box, brain[tuple(map(slice, low, high))]


def _rows_of(dataset: BrainDataset, split: str, number: int) -> np.ndarray:
    rows, known = dataset[split].run == number, np.unique(dataset[split].run)
    if number not in known.tolist():
        raise ValueError(f"split {split!r} has no run {number!r}; it has {len(known)}: {known[0]} to {known[-1]}")
    return rows


def _write_pictures(images: np.ndarray, stimulus: np.ndarray, folder: Path, split: str) -> list[str]:
    """Save each stimulus once; the file name of each row."""
    from PIL import Image

    names = [f"{split}-{number:05d}.png" for number in stimulus]
    for name, image in dict(zip(names, images, strict=True)).items():
        Image.fromarray(image).save(folder / name)
    return names


def _readme(dataset: BrainDataset, runs: Mapping[str, Sequence[int]]) -> str:
    named = ", ".join(f"{split} {list(numbers)}" for split, numbers in runs.items())
    return (
        "SIMULATED. Nobody was scanned: these images were computed by visdec_lite (datasets.scanner).\n\n"
        f"Runs in this order: {named}, of the simulated data set {dataset.fingerprint[:16]}.\n"
        f"Grid: {VOXEL} mm, MNI152 space, cut to a box around the visual cortex.\n"
        "mask.nii.gz is the brain in that box; roi-*_mask.nii.gz are the regions; other brain voxels hold noise only.\n"
    )
