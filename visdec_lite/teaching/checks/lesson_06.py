"""Checks of lesson 06: silence a region, average repeats, read a lesion, follow guidance by one step."""

from __future__ import annotations

from typing import Any

import numpy as np

from visdec_lite.teaching.verdicts import Wrong, call, close, expect, shape_of


def lesion(attempt: Any) -> str:
    """`attempt(voxels, mask)` of (n, V) and bool (V,) -> a copy, (n, V), the region at 0."""
    voxels = np.arange(1.0, 13.0, dtype=np.float32).reshape(3, 4)
    mask, before = np.array([False, True, True, False]), np.arange(1.0, 13.0).reshape(3, 4)
    found = call(attempt, voxels, mask, given="3 scans of 4 voxels and a mask of 4")
    expect(
        close(voxels, before),
        f"The scans that went in have changed: {int((voxels != before).sum())} of 12 numbers. Whoever looks at the "
        "intact brain next will find a lesion in it; work on voxels.copy().",
    )
    expect(
        getattr(found, "shape", ()) == (3, 4),
        f"3 scans of 4 voxels went in, {shape_of(found)} came out. The decoder reads every voxel at its place: "
        "silence the region, do not cut it out.",
    )
    found = np.asarray(found, dtype=float)
    expect(
        not np.isnan(found).any(),
        f"{int(np.isnan(found).sum())} numbers are NaN. A silent voxel says its mean, which is 0 after z-scoring; "
        "NaN would go through every layer and leave no picture.",
    )
    expect(not close(found, np.where(mask, before, 0)), "You kept the 2 voxels of the region and silenced all others.")
    expect(close(found[:, ~mask], before[:, ~mask]), "The 2 voxels outside the region should stay as they were.")
    expect(
        close(found[:, mask], np.zeros((3, 2))),
        f"In the region the first scan has {found[0, mask].round(2).tolist()}, expected [0, 0]: each voxel's mean over "
        "the training scans, which are z-scored.",
    )
    return "2 voxels silent, 2 as they were, and the scans that went in untouched."


def region(attempt: Any) -> str:
    """ "V1", "V4" or "LOC": which one was silenced?"""
    name = attempt.strip().upper() if isinstance(attempt, str) else attempt
    if name not in ("V1", "V4", "LOC"):
        raise Wrong(f"Give one of the 3 names 'V1', 'V4' and 'LOC'; this is {attempt!r}.")
    expect(
        name != "V4",
        "Silence V4 and the colour suffers: about 47 % right in this lesson. Here 97 % of colours are right.",
    )
    expect(
        name != "V1",
        "Silence V1 and place suffers, and V2 and V3 still tell much of it; the shape would not fall to 7 %.",
    )
    return "LOC. Shape at 7 % is at chance, 10 %, within what 30 stimuli can tell: it is gone, and colour is not."


def average_repeats(attempt: Any) -> str:
    """`attempt(voxels, stimulus)` of (trials, V), (trials,) -> (stimuli, V), in order of stimulus number."""
    voxels = np.array([[3.0, 0.0], [8.0, 1.0], [5.0, 2.0], [10.0, 4.0]])
    stimulus = np.array([7, 2, 7, 7])
    wanted = np.array([[8.0, 1.0], [6.0, 2.0]])
    found = call(attempt, voxels, stimulus, given="4 trials of 2 voxels, stimuli 7, 2, 7, 7")
    expect(
        getattr(found, "shape", ()) != (2,),
        "You average over the 2 voxels as well; the mean runs over trials, axis 0, and each voxel keeps its own.",
    )
    expect(
        getattr(found, "shape", ()) == (2, 2),
        f"4 trials of 2 stimuli and 2 voxels should give shape (2, 2), yours gives {shape_of(found)}. "
        "np.unique(stimulus) tells which stimuli there are.",
    )
    expect(
        not close(found, wanted * [[1], [3]]),
        "Stimulus 7 with first voxel 3, 5, 10 gives 18 with you: a sum. Divide by its 3 repeats: 6.",
    )
    expect(
        not close(found, wanted * [[1 / 4], [3 / 4]]),
        "Stimulus 7 with first voxel 3, 5, 10 gives 4.5 with you: divided by all 4 trials. It has 3 repeats: 6.",
    )
    expect(
        not close(found, wanted[::-1]),
        "The means are right and in the wrong order: stimulus 2 comes before 7, though 7 was shown first.",
    )
    expect(
        not close(found, [[8.0, 1.0], [5.0, 2.0]]),
        "Stimulus 7 with first voxel 3, 5, 10 gives 5 with you, the median. The mean is 6.",
    )
    expect(
        close(found, wanted),
        f"Stimulus 2 should be [8, 1] and stimulus 7 [6, 2]; yours are {np.asarray(found).round(2).tolist()}.",
    )
    return "One row a stimulus, in order, each divided by its own number of repeats."


def guided_epsilon(attempt: Any) -> str:
    """0.20 + 3 * (0.26 - 0.20)."""
    try:
        found = float(attempt)
    except (TypeError, ValueError):
        raise Wrong(f"Give one number, about 0.4; this is {attempt!r}.") from None
    expect(not close(found, 0.78), "0.78 is 3 * 0.26. Guidance multiplies the difference that the scan makes, not all.")
    expect(not close(found, 0.18), "0.18 is 3 times the difference, 0.06. You start from somewhere: add it to 0.20.")
    expect(
        not close(found, 0.44),
        "0.44 starts at the answer with the scan. Then g = 1 would already go too far: it should give 0.26, and g = 0 "
        "should give 0.20.",
    )
    expect(not close(found, 0.08), "0.08 is 0.26 minus 3 times 0.06: away from the scan. With minus without is +0.06.")
    expect(
        close(found, 0.38),
        f"You say {found:.4g}. From 0.20 go 3 times the way to 0.26; with g = 1 you would arrive at 0.26.",
    )
    return "0.20 + 3 * 0.06 = 0.38: three times as far as the scan says. Also three times its noise."
