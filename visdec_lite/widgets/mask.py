"""Hide patches of a scan and see what the masked autoencoder puts in their place (phase 1).

In: a `MaskedAutoencoder` and a data set. Out: the voxels, which of them were hidden, what came back, and its error
beside that of putting in zero, the mean of every voxel. What the rest of the brain cannot tell, no model can bring
back: much of a single trial is noise, so even a good model stays not far below 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure

from visdec_lite.datasets import BrainDataset
from visdec_lite.masked_autoencoder import MaskedAutoencoder, masked_mse
from visdec_lite.patches import patchify_voxels, random_mask, unpatchify_voxels
from visdec_lite.plotting import BLUE, GREY, LIGHT, ORANGE, SMALL
from visdec_lite.widgets.base import Explorer, Pane, Report, no_report
from visdec_lite.widgets.drawing import WIDTH, page, panel, write
from visdec_lite.widgets.knobs import Knob, State, knob
from visdec_lite.widgets.scans import device_of, fitted, region_masks

OTHERS = 64  # scans that the error is averaged over, the one shown included
FEWEST = 10  # patches, so that a share from 0.1 to 0.9 hides one and keeps one


@dataclass(frozen=True)
class MaskState(State):
    """Knobs of the MaskExplorer."""

    mask_ratio: float = knob(0.75, "share hidden", low=0.1, high=0.9, step=0.05, help="share of patches hidden")
    patch_size: int = knob(0, "patch size", help="voxels hidden together; 0 is the size the model was trained with")
    scan: int = knob(0, "scan", low=0)
    seed: int = knob(0, "seed of the mask", low=0, high=99)


@dataclass(frozen=True)
class MaskResult:
    """Arrays of one answer; V voxels, n patches.

    Attributes:
        voxels: z-scored, (V,).
        mask: bool (n,), True = hidden.
        hidden: bool (V,), the same by voxel.
        reconstruction: (V,), of all patches.
        error: mean squared error on the hidden voxels, z-score units squared.
        error_zero: the same for putting in zero.
        error_all, error_all_zero: both for `others` scans of the split, each with a mask of its own.
        patch_errors: (n,), of every patch, hidden or not.
    """

    voxels: np.ndarray
    mask: np.ndarray
    hidden: np.ndarray
    reconstruction: np.ndarray
    error: float
    error_zero: float
    error_all: float
    error_all_zero: float
    others: int
    patch_errors: np.ndarray
    patch_size: int
    rois: Mapping[str, np.ndarray]
    simulated: bool


class MaskExplorer(Explorer[MaskState, MaskResult]):
    """Hide patches, see what comes back.

    Args:
        models: a masked autoencoder, or several of them by any name, of different patch sizes. Patches that are whole
            multiples of a model's own are hidden by hiding neighbours together.
        dataset: its voxels, z-scored.
        split: whose scans are shown; repeats are averaged, which leaves less noise to bring back.
        options: `state`, `live`, `strict` of `Explorer`.
    """

    title = "Hide patches of a scan"
    State = MaskState

    def __init__(
        self,
        models: MaskedAutoencoder | Mapping[Any, MaskedAutoencoder],
        dataset: BrainDataset,
        split: str = "val",
        **options: Any,
    ) -> None:
        given = models.values() if isinstance(models, Mapping) else [models]
        self._models = {model.config.patch_size: model.eval() for model in given}
        self._own = next(iter(self._models))
        scans = dataset[split]
        averaged = isinstance(scans.voxels, np.ndarray) and len(np.unique(scans.stimulus)) < len(scans)
        self._voxels, self._dataset = (scans.average_repeats() if averaged else scans).voxels, dataset
        self._sizes = self._possible_sizes()
        sizes = {0: f"the model's own: {self._own} voxels"} | {
            size: f"{size} voxels" for size in sorted(self._sizes) if size != self._own
        }
        knobs = {
            "patch_size": Knob("patch size", options=sizes, help="voxels hidden together"),
            "scan": Knob("scan", low=0, high=len(self._voxels) - 1, help=f"a row of the split {split}"),
        }
        super().__init__(knobs=knobs, **options)

    def _possible_sizes(self) -> dict[int, int]:
        """Voxels hidden together -> patch size of the model that takes it, the largest that fits."""
        found = {}
        for own, model in sorted(self._models.items()):
            patches = model.config.num_patches
            for times in (t for t in range(1, patches + 1) if patches % t == 0 and patches // t >= FEWEST):
                found[own * times] = own
            found.setdefault(own, own)
        return found

    @torch.no_grad()
    def compute(self, state: MaskState, report: Report = no_report) -> MaskResult:
        size = state.patch_size or self._own
        model = self._models[self._sizes[size]]
        own, total = model.config.patch_size, model.config.num_voxels
        rows = np.concatenate([[state.scan], np.delete(np.arange(len(self._voxels)), state.scan)[: OTHERS - 1]])
        device, generator = device_of(model), torch.Generator().manual_seed(state.seed)
        voxels = torch.as_tensor(fitted(np.asarray(self._voxels[rows]), total, own)).float().to(device)
        mask = random_mask(len(rows), total // size, state.mask_ratio, generator, device)
        model_mask = mask.repeat_interleave(size // own, dim=1)
        patches = model.reconstruct(model.encode(voxels, model_mask), model_mask)
        targets = patchify_voxels(voxels, own)
        rebuilt, zero = unpatchify_voxels(patches), torch.zeros_like(targets)
        return MaskResult(
            voxels=voxels[0].cpu().numpy(),
            mask=mask[0].cpu().numpy(),
            hidden=mask[0].repeat_interleave(size).cpu().numpy(),
            reconstruction=rebuilt[0].cpu().numpy(),
            error=float(masked_mse(patches[:1], targets[:1], model_mask[:1])),
            error_zero=float(masked_mse(zero[:1], targets[:1], model_mask[:1])),
            error_all=float(masked_mse(patches, targets, model_mask)),
            error_all_zero=float(masked_mse(zero, targets, model_mask)),
            others=len(rows),
            patch_errors=((rebuilt[0] - voxels[0]) ** 2).reshape(-1, size).mean(1).cpu().numpy(),
            patch_size=size,
            rois=region_masks(self._dataset, total),
            simulated=self._dataset.simulated,
        )

    panes: ClassVar[Mapping[str, Pane]]


def draw(result: MaskResult) -> Figure:
    """The scan, what is left of it, what comes back, and the error of every patch."""
    title = f"{result.mask.sum()} of {len(result.mask)} patches of {result.patch_size} voxels hidden"
    figure, axes = page(6.5, title, result.simulated)
    place = np.arange(len(result.voxels))
    kept = np.where(result.hidden, np.nan, result.voxels)
    rebuilt = np.where(result.hidden, result.reconstruction, np.nan)
    rows = (
        ("the scan", result.voxels, BLUE, False),
        ("what the encoder is shown", kept, BLUE, False),
        ("what the decoder puts in the hidden places (orange; grey: what was there)", rebuilt, ORANGE, True),
    )
    limit = float(np.abs(result.voxels).max()) * 1.05 + 1e-6
    for row, (words, line, colour, with_truth) in enumerate(rows):
        part = panel(figure, 0.7, 0.72 + 1.3 * row, WIDTH - 0.9, 0.85, title=words, ylabel="z-score")
        if with_truth:
            truth = np.where(result.hidden, result.voxels, np.nan)
            part.plot(place, truth, color=GREY, linewidth=0.5, alpha=0.7)
        part.plot(place, line, color=colour, linewidth=0.6)
        part.set(xlim=(0, len(place)), ylim=(-limit, limit), xticks=[])
        for name, mask in result.rois.items():
            where = np.flatnonzero(mask)
            if row == 0 and len(where):
                part.text(where.mean(), limit, name, fontsize=SMALL - 1.5, ha="center", va="top", color=LIGHT.muted)
    size = result.patch_size
    part = panel(
        figure, 0.7, 4.65, WIDTH - 0.9, 0.85, title="mean squared error of every patch (orange: hidden)",
        ylabel="squared z", xlabel="voxel, in the order of the data set",
    )  # fmt: skip
    part.bar(
        np.arange(len(result.mask)) * size + size / 2, result.patch_errors, width=0.9 * size,
        color=np.where(result.mask, ORANGE, BLUE),
    )  # fmt: skip
    part.set_xlim(0, len(place))
    words = f"hidden voxels of this scan: error {result.error:.3f}; zero, the mean, scores {result.error_zero:.3f}"
    write(axes, 0.7, 6.1, words, weight="bold", size=SMALL)
    words = f"hidden voxels of {result.others} scans: error {result.error_all:.3f}, zero {result.error_all_zero:.3f}"
    write(axes, 0.7, 6.33, words, size=SMALL)
    return figure


def say(result: MaskResult) -> str:
    """The finding in words."""
    return (
        f"A scan of {len(result.voxels)} voxels with {result.mask.sum()} of {len(result.mask)} patches hidden, and "
        f"what the autoencoder puts in their place: its mean squared error there is {result.error:.3f}, that of "
        f"putting in zero {result.error_zero:.3f}; over {result.others} scans {result.error_all:.3f} and "
        f"{result.error_all_zero:.3f}."
    )


MaskExplorer.panes = {"patches": Pane(draw, say)}
