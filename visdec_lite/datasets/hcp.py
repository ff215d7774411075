"""HCP: resting-state scans of about 1200 people, unlabelled, to pre-train on (Van Essen et al., 2013).

Enters: `<subject>/HCP_visual_voxel.npz`, arrays V1 to V4 of shape (frames, voxels), of one run of 1200 frames;
`hcp_prepare` makes them from the dense time series that HCP gives. Leaves: the sample contract of `base`, with the
splits `pretrain` and `val` (whole people, never windows of the same one), whose voxels stream from shards:

    regions side by side -> means of 10 frames -> z-score of each voxel in its run -> wrap-padding to a common length

This is done once; the shards are kept beside the data. Averaging and wrap-padding follow Sun et al. (2023),
arXiv:2305.17214; regions are those of Glasser et al. (2016), Nature 536.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from einops import reduce

from visdec_lite.datasets.base import BrainDataset, Split, fingerprint, trial_columns
from visdec_lite.datasets.hcp_prepare import FILE, REGIONS
from visdec_lite.datasets.hcp_prepare import prepare as prepare  # had from here too
from visdec_lite.datasets.recordings import expect_whole, reading, refuse_absurd
from visdec_lite.datasets.shards import Shards, write_shards
from visdec_lite.files import data_folder
from visdec_lite.preprocessing import ZScore, pad_voxels, valid_voxels
from visdec_lite.progress import Bar

logger = logging.getLogger(__name__)

TITLE = "HCP: resting state of about 1200 people, V1 to V4, unlabelled, for pre-training (Van Essen et al., 2013)"
MEGABYTES = 438.0  # one dense run of one person; its V1 to V4 as .npz are about 20
LICENCE = (
    "WU-Minn HCP Open Access Data Use Terms: register and accept them yourself, and never try to identify anyone; "
    "https://www.humanconnectome.org/study/hcp-young-adult/data-use-terms"
)
CITATION = (
    "Van Essen, D. C., Smith, S. M., Barch, D. M., Behrens, T. E. J., Yacoub, E., & Ugurbil, K. (2013). The WU-Minn "
    "Human Connectome Project: an overview. NeuroImage, 80, 62-79. Regions: Glasser, M. F., et al. (2016). A "
    "multi-modal parcellation of human cerebral cortex. Nature, 536, 171-178."
)
MAX_BAD = 0.1  # share of a person's voxels that may be without signal
STEPS = "1"  # raise it when the steps from .npz to shards change: old shards are then not used
WAY_OUT = "make it from the dense time series: visdec-lite download prepare hcp"


@dataclass(frozen=True)
class Recording:
    """What the headers of one person's file say."""

    subject: str
    file: Path
    frames: int
    sizes: tuple[int, ...]  # voxels of each region asked for
    mark: str  # name, length and check sum of each array asked for

    @property
    def num_voxels(self) -> int:
        return sum(self.sizes)


def found(root: Path | str | None = None) -> list[Path]:
    """The prepared files on disk, one a person, in `root` or in its folder `npz`."""
    with suppress(OSError, ValueError, RuntimeError):  # no right to look, no such path, no home folder
        place = data_folder("hcp", root)
        return sorted(file for pattern in (f"*/{FILE}", f"npz/*/{FILE}") for file in place.glob(pattern))
    return []


def load(
    root: Path | str | None = None,
    *,
    roi: str | Sequence[str] | None = None,
    subjects: Sequence[str | int] | None = None,
    frames: int = 10,
    length: int | None = None,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    cache: Path | str | None = None,
    progress: bool = True,
) -> BrainDataset:
    """Open HCP as a pool that streams; the first call converts it, which takes minutes for all 1200 people.

    Args:
        root: folder of the people's folders; None takes `hcp` in VISDEC_DATA, else in `data`.
        roi: some of V1, V2, V3 and V4, side by side in that order; None: all four.
        subjects: numbers of the people to take, such as 100307; None: all on disk.
        frames: of which one row is the mean; 10 of HCP's 0.72 s are about the time a picture is shown in GOD.
        length: voxels of a row. Shorter scans go on with their own first voxels (wrap-padding), as people may
            differ in their number of voxels; None takes the largest.
        val_fraction: share of the people set aside as `val`, at least one, from 0 (no `val`) to below 1.
        split_seed: which people.
        cache: where the folder of shards is made; None: in `root`.
        progress: show a bar while converting.

    Returns:
        Splits `pretrain` and `val` without images and labels. `rois` has each region if it is equally large in
        all people, otherwise the voxels of people do not correspond and it has "all".

    Raises:
        FileNotFoundError: no such file there; the message says how to get them.
        ValueError: a file is damaged or not in that form, or a choice does not fit it.
    """
    regions = _regions(roi)
    files = _chosen(found(root), subjects, data_folder("hcp", root))
    recordings = [_read_headers(file, regions) for file in files]
    _expect_windows(recordings, frames)
    held_out = _held_out([recording.subject for recording in recordings], val_fraction, split_seed)
    width = _common_length(recordings, length)
    mark = fingerprint("\n".join([f"{STEPS} {frames} {width}", *(recording.mark for recording in recordings)]))

    def chunks() -> Iterator[Callable[[], np.ndarray]]:
        for recording in Bar(recordings, desc="HCP to shards", unit="person", disable=not progress):
            yield partial(_rows, recording, regions, frames, width)

    pool = write_shards(
        chunks(),
        data_folder("hcp", root if cache is None else cache) / f"shards-{mark[:16]}",
        name="hcp",
        fingerprint=mark,
        licence=LICENCE,
        citation=CITATION,
        subjects=[recording.subject for recording in recordings],
    )
    in_val = np.concatenate([np.full(rows, subject in held_out) for subject, rows in pool.subjects])
    splits = {"pretrain": _split(pool, ~in_val)} | ({"val": _split(pool, in_val)} if held_out else {})
    return BrainDataset(
        name="hcp",
        splits=splits,
        category_names=(),
        rois=_masks(recordings, regions, width),
        simulated=False,
        licence=LICENCE,
        citation=CITATION,
        fingerprint=mark,
    )


def _regions(roi: str | Sequence[str] | None) -> list[str]:
    asked = list(REGIONS) if roi is None else [roi] if isinstance(roi, str) else list(roi)
    unknown = [name for name in asked if name not in REGIONS]
    if unknown or not asked:
        what = f"no region {unknown}" if unknown else "0 regions named, at least 1 is needed"
        raise ValueError(f"{what}; HCP has {list(REGIONS)}")
    return [name for name in REGIONS if name in asked]


def _chosen(files: list[Path], subjects: Sequence[str | int] | None, place: Path) -> list[Path]:
    by_name = {file.parent.name: file for file in files}
    if not files:
        raise FileNotFoundError(
            f"no {place}/<subject>/{FILE}; HCP's dense time series are had by form ({LICENCE.split('; ')[-1]}), then: "
            "visdec-lite download prepare hcp, or give root=..."
        )
    if len(by_name) < len(files):
        raise ValueError(
            f"{len(files)} files of {len(by_name)} people in {place}, expected one each; remove the copies"
        )
    asked = list(by_name) if subjects is None else [str(name) for name in subjects]
    missing = [name for name in asked if name not in by_name]
    if missing or not asked:
        what = f"no subject {missing[:5]}" if missing else "0 subjects named, at least 1 is needed"
        raise ValueError(f"{what}; {place} has {len(files)}: {', '.join(list(by_name)[:5])}, ...")
    return [by_name[name] for name in sorted(set(asked))]


def _read_headers(file: Path, regions: Sequence[str]) -> Recording:
    """Shapes and check sums from the zip directory and the array headers: nothing else is read."""
    shapes, marks = {}, [file.parent.name]
    with reading(file, ".npz", WAY_OUT), zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        for name in [name for name in regions if name in members]:
            with archive.open(members[name]) as stream:
                np.lib.format.read_magic(stream)
                shapes[name], _, dtype = np.lib.format.read_array_header_1_0(stream)
            if dtype.kind not in "fiu":
                raise ValueError(f"{name} holds {dtype}, expected numbers")
            marks.append(f"{name} {members[name].file_size} {members[name].CRC:08x}")
    if len(shapes) < len(regions):
        missing = [name for name in regions if name not in shapes]
        raise ValueError(f"{file} holds {sorted(members)}, but no {missing}; {WAY_OUT}")
    if any(len(shape) != 2 for shape in shapes.values()) or len({shape[0] for shape in shapes.values()}) != 1:
        raise ValueError(f"{file} has shapes {shapes}, expected (frames, voxels) with equally many frames; {WAY_OUT}")
    sizes = tuple(shape[1] for shape in shapes.values())
    return Recording(file.parent.name, file, next(iter(shapes.values()))[0], sizes, " ".join(marks))


def _expect_windows(recordings: Sequence[Recording], frames: int) -> None:
    if frames < 1:
        raise ValueError(f"frames is {frames}, expected 1 or more to average")
    for recording in recordings:
        if recording.frames < 2 * frames:
            raise ValueError(
                f"{recording.file} has {recording.frames} frames, at least {2 * frames} are needed for 2 windows of "
                f"{frames}; average fewer, or leave {recording.subject} out of subjects"
            )
    rest = [recording.frames % frames for recording in recordings]
    if any(rest):
        logger.info(
            "%d people: up to %d last frames fill no window and are left out", np.count_nonzero(rest), max(rest)
        )


def _held_out(subjects: Sequence[str], fraction: float, seed: int) -> set[str]:
    if not 0 <= fraction < 1:
        raise ValueError(f"val_fraction is {fraction}, expected a share from 0 to below 1")
    count = max(1, round(fraction * len(subjects))) if fraction else 0
    if count == len(subjects):
        raise ValueError(
            f"val takes {count} of {len(subjects)} people, none is left for pretrain; prepare more people, "
            "or give val_fraction=0"
        )
    return {subjects[place] for place in np.random.default_rng(seed).permutation(len(subjects))[:count]}


def _common_length(recordings: Sequence[Recording], length: int | None) -> int:
    largest = max(recordings, key=lambda recording: recording.num_voxels)
    if length is not None and length < largest.num_voxels:
        raise ValueError(
            f"length is {length}, but subject {largest.subject} has {largest.num_voxels} voxels and none are cut "
            f"away; give {largest.num_voxels} or more, or fewer regions"
        )
    length = largest.num_voxels if length is None else length
    counts = [recording.num_voxels for recording in recordings]
    if min(counts) < length:
        shorter = sum(count < length for count in counts)
        logger.info("%d people with %d voxels or more are wrap-padded to %d", shorter, min(counts), length)
    return length


def _rows(recording: Recording, regions: Sequence[str], frames: int, length: int) -> np.ndarray:
    """One person's z-scored windows, float32, shape (windows, length)."""
    expect_whole(recording.file, WAY_OUT)
    with reading(recording.file, ".npz", WAY_OUT), np.load(recording.file, allow_pickle=False) as content:
        voxels = np.concatenate([content[name] for name in regions], axis=1)
    refuse_absurd(voxels, recording.file)
    windows = average_windows(voxels, frames)
    valid = valid_voxels(windows)
    bad = int((~valid).sum())
    if bad > MAX_BAD * len(valid):
        raise ValueError(
            f"{bad} of {len(valid)} voxels of subject {recording.subject} are constant, NaN or infinite, expected at "
            f"most {MAX_BAD:.0%}; leave it out of subjects, or {WAY_OUT}"
        )
    if bad:  # not dropped: the voxels after them would no longer be those of other people
        logger.warning("subject %s: %d voxels without signal are set to 0, the mean", recording.subject, bad)
    rows = np.zeros(windows.shape, dtype=np.float32)
    rows[:, valid] = ZScore.fit(windows[:, valid]).apply(windows[:, valid])
    padded, _ = pad_voxels(rows, multiple=length)  # at most `length` wide, so one time `length`
    return padded


def average_windows(voxels: np.ndarray, frames: int) -> np.ndarray:
    """Means of `frames` frames after another, float64, shape (windows, voxels); a rest that fills no window is left."""
    whole = len(voxels) // frames * frames
    with np.errstate(invalid="ignore"):  # what is infinite is told by the caller
        return reduce(voxels[:whole].astype(np.float64), "(windows frames) v -> windows v", "mean", frames=frames)


def _split(pool: Shards, rows: np.ndarray) -> Split:
    names = [name for name, _ in pool.subjects]
    numbers = [int(name) if name.isdecimal() else place for place, name in enumerate(names, start=1)]
    parts = [trial_columns(n, number, n) for number, (_, n) in zip(numbers, pool.subjects, strict=True)]
    columns = {name: np.concatenate([part[name] for part in parts])[rows] for name in parts[0]}
    return Split(pool.subset(rows), images=None, labels=None, stimulus=np.flatnonzero(rows), **columns)


def _masks(recordings: Sequence[Recording], regions: Sequence[str], length: int) -> dict[str, np.ndarray]:
    sizes = {recording.sizes for recording in recordings}
    if len(sizes) > 1:
        logger.info(
            "the regions of %d people differ in size: voxels do not correspond, rois has only 'all'", len(recordings)
        )
        return {"all": np.ones(length, dtype=bool)}
    region_of = np.resize(np.repeat(np.arange(len(regions)), sizes.pop()), length)  # padding wraps, so does this
    return {name: region_of == place for place, name in enumerate(regions)}
