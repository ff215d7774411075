"""Who looks at whom in phase 2: image patches at brain patches, and back.

In: a `CrossModalFusion` and a data set with pictures. Out: the attention weights of one layer and head (or the mean of
all heads), as the module itself computes them with nothing hidden, and what they look like on the picture and on the
cortex. Attention says where a layer reads from, not why, and not what would change without it: for that, lesion a
region (`BrainToImageDemo`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure

from visdec_lite.chain import for_eye
from visdec_lite.datasets import BrainDataset
from visdec_lite.fusion import CrossModalFusion
from visdec_lite.plotting import BLUE, LIGHT, ORANGE, SMALL, VERMILLION
from visdec_lite.preprocessing import to_model_range
from visdec_lite.widgets.base import Explorer, Pane, Report, no_report
from visdec_lite.widgets.drawing import HEAT, WIDTH, brain_views, page, panel, paste, region_bars, turnable_brain, write
from visdec_lite.widgets.knobs import Knob, State, knob
from visdec_lite.widgets.scans import device_of, fitted, known_positions, region_masks

DIRECTIONS = {"image": "the picture asks the brain", "brain": "the brain asks the picture"}


@dataclass(frozen=True)
class FusionState(State):
    """Knobs of the FusionExplorer; patch 0 stands for the mean over all patches that ask."""

    scan: int = knob(0, "scan", low=0)
    asks: str = knob("image", "who asks", options=DIRECTIONS, help="queries come from here, keys and values from there")
    layer: int = knob(1, "layer", low=1, help="of the cross-attention")
    head: int = knob(0, "head", low=0, help="0 is the mean of all heads")
    image_patch: int = knob(0, "picture patch that asks", low=0, help="row by row from the top left; 0 is all of them")
    brain_patch: int = knob(0, "brain patch that asks", low=0, help="in the order of the voxels; 0 is all of them")


@dataclass(frozen=True)
class FusionResult:
    """Arrays of one answer; q patches ask, k patches are looked at.

    Attributes:
        picture: uint8 (h, w, 3), at the size of the image autoencoder.
        weights: (q, k), without the CLS tokens; a row and its CLS share sum to 1.
        cls_share: (q,), what goes to the CLS token.
        looked_at: (k,), of the patch that asks, or the mean; times k, so that 1 is an even look.
        asking: number of the patch, from 1; 0 is all.
        image_map: (side, side), picture patches: looked at, or 1 for the patch that asks.
        voxel_map: (V,), voxels: looked at, or 1 for those of the patch that asks.
        region_shares: region -> share of the look at brain patches; even: share of voxels.
    """

    picture: np.ndarray
    weights: np.ndarray
    cls_share: np.ndarray
    looked_at: np.ndarray
    asks: str
    asking: int
    image_map: np.ndarray
    voxel_map: np.ndarray
    region_shares: Mapping[str, float]
    region_even: Mapping[str, float]
    region_of: tuple[str, ...]
    positions: np.ndarray | None
    patch_size: int
    simulated: bool


class FusionExplorer(Explorer[FusionState, FusionResult]):
    """Attention between brain and picture.

    Args:
        fusion: trained in phase 2.
        dataset: with pictures.
        split: whose scans are shown; repeats are averaged.
        positions: mm in MNI space, (num_voxels, 3); None: known for the simulated cortex only.
        options: `state`, `live`, `strict` of `Explorer`.
    """

    title = "Which part of the brain looks at which part of the picture?"
    State = FusionState

    def __init__(
        self,
        fusion: CrossModalFusion,
        dataset: BrainDataset,
        split: str = "val",
        positions: np.ndarray | None = None,
        **options: Any,
    ) -> None:
        self._fusion, self._dataset = fusion.eval(), dataset
        self._scans = dataset[split].average_repeats()
        if self._scans.images is None:
            raise ValueError(f"split {split!r} of {dataset.name} has no pictures; choose a split with pictures")
        self._positions = known_positions(dataset, positions)
        config = fusion.config
        knobs = {
            "scan": Knob("scan", low=0, high=len(self._scans) - 1, help=f"a stimulus of the split {split}"),
            "layer": Knob("layer", low=1, high=config.cross_layers, help="of the cross-attention"),
            "head": Knob("head", low=0, high=config.cross_heads, help="0 is the mean of all heads"),
            "image_patch": Knob(
                "picture patch that asks", low=0, high=fusion.image.config.num_patches, help="0 is all"
            ),
            "brain_patch": Knob("brain patch that asks", low=0, high=fusion.fmri.config.num_patches, help="0 is all"),
        }
        super().__init__(knobs=knobs, **options)

    @torch.no_grad()
    def compute(self, state: FusionState, report: Report = no_report) -> FusionResult:
        fusion, config, device = self._fusion, self._fusion.fmri.config, device_of(self._fusion)
        one = self._scans.rows(np.array([state.scan]))
        voxels = torch.as_tensor(fitted(one.voxels, config.num_voxels, config.patch_size)).float().to(device)
        picture = for_eye(one.images, fusion.image)
        brain, image = fusion.fmri.encode(voxels), fusion.image.encode(to_model_range(picture).to(device))
        from_image = state.asks == "image"
        _, maps = (
            fusion.image_cross(image, brain, need_weights=True)
            if from_image
            else fusion.fmri_cross(brain, image, need_weights=True)
        )
        heads = maps[state.layer - 1][0]  # (heads, 1 + q, 1 + k), CLS first
        weights = (heads[state.head - 1] if state.head else heads.mean(0))[1:].cpu().numpy()
        cls_share, weights = weights[:, 0], weights[:, 1:]
        asking = state.image_patch if from_image else state.brain_patch
        looked_at = weights[asking - 1] if asking else weights.mean(0)
        looked_at = looked_at / looked_at.sum() * len(looked_at)

        side, masks = round(fusion.image.config.num_patches**0.5), region_masks(self._dataset, config.num_voxels)
        marked = np.ones(len(weights)) if asking == 0 else np.eye(len(weights))[asking - 1]
        on_image, on_brain = (marked, looked_at) if from_image else (looked_at, marked)
        voxel_map = np.repeat(on_brain, config.patch_size)
        total = voxel_map.sum()
        return FusionResult(
            picture=picture[0],
            weights=weights,
            cls_share=cls_share,
            looked_at=looked_at,
            asks=state.asks,
            asking=asking,
            image_map=on_image.reshape(side, side),
            voxel_map=voxel_map[: self._dataset.num_voxels],
            region_shares={name: float(voxel_map[mask].sum() / total) for name, mask in masks.items()},
            region_even={name: float(mask.mean()) for name, mask in masks.items()},
            region_of=region_names(self._dataset.rois),
            positions=self._positions,
            patch_size=config.patch_size,
            simulated=self._dataset.simulated,
        )

    def cortex(self, result: FusionResult) -> Any:
        """How much each voxel's patch is looked at, or which patch asks, as a plotly figure."""
        if result.positions is None:
            return None
        label = "times even" if result.asks == "image" else "asks"
        words = [f"{region}, patch {i // result.patch_size + 1}" for i, region in enumerate(result.region_of)]
        return turnable_brain(result.positions, result.voxel_map, words, label, signed=False)

    panes: ClassVar[Mapping[str, Pane]]


def region_names(rois: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The region of every voxel, the last of several; "" for none."""
    names = np.full(len(next(iter(rois.values()))), "", dtype=object)
    for name, mask in rois.items():
        names[mask] = name
    return tuple(names)


def draw(result: FusionResult) -> Figure:
    """The picture with the look on it, the look at each region, the whole matrix; the cortex from three sides."""
    known = result.positions is not None
    who = "patches (mean)" if result.asking == 0 else f"patch {result.asking}"
    title = f"{DIRECTIONS[result.asks]}: {'all ' if result.asking == 0 else ''}{who}"
    figure, axes = page(6.3 if known else 3.4, title, result.simulated)
    from_image = result.asks == "image"
    write(axes, 0.1, 0.62, "seen", size=SMALL)
    paste(axes, result.picture, 0.1, 0.75, 1.9)
    if from_image and result.asking:
        _frame_patch(axes, result, 0.1, 0.75, 1.9)
    if not from_image:
        part = panel(figure, 2.2, 0.75, 1.9, 1.9, title="looked at (times even)")
        image = part.imshow(result.image_map, origin="upper", cmap=HEAT, vmin=0)
        part.set_axis_off()
        place = part.get_position()
        bar = figure.add_axes((place.x1 + 0.006, place.y0, 0.012, place.height))
        figure.colorbar(image, cax=bar).ax.tick_params(labelsize=7)
    else:
        names = list(result.region_shares)
        part = panel(figure, 2.85, 0.75, 1.75, 1.9, title="share of the look, by region", xlabel="| even")
        region_bars(part, names, list(result.region_shares.values()), BLUE, list(result.region_even.values()))
    labels = ("brain patch looked at", "picture patch that asks") if from_image else (
        "picture patch looked at", "brain patch that asks")  # fmt: skip
    part = panel(figure, 5.3, 0.75, WIDTH - 5.5, 1.9, title="all weights", xlabel=labels[0], ylabel=labels[1])
    part.imshow(result.weights, origin="upper", cmap=HEAT, vmin=0, aspect="auto", interpolation="nearest")
    if result.asking:
        part.axhline(result.asking - 1, color=VERMILLION, linewidth=1)
    if known:
        words = (
            "looked at, on the cortex (bright: much)" if from_image else "the patch that asks, on the cortex (bright)"
        )
        write(axes, 0.1, 3.3, words, weight="bold", size=SMALL)
        brain_views(figure, 3.65, 2.5, result.positions, result.voxel_map, signed=False)
    return figure


def _frame_patch(axes: Any, result: FusionResult, x: float, y: float, side: float) -> None:
    count = len(result.image_map)
    row, column = divmod(result.asking - 1, count)
    cell = side / count
    left, top = x + column * cell, y + row * cell
    axes.plot(
        [left, left + cell, left + cell, left, left], [top, top, top + cell, top + cell, top],
        color=ORANGE, linewidth=2.5, zorder=4,
    )  # fmt: skip
    axes.plot(
        [left, left + cell, left + cell, left, left], [top, top, top + cell, top + cell, top],
        color=LIGHT.ink, linewidth=0.8, zorder=5,
    )  # fmt: skip


def say(result: FusionResult) -> str:
    """The finding in words."""
    who = "all patches on average" if result.asking == 0 else f"patch {result.asking}"
    if result.asks == "image":
        best = max(result.region_shares, key=lambda name: result.region_shares[name] / (result.region_even[name] or 1))
        times = result.region_shares[best] / (result.region_even[best] or 1)
        finding = f"Of the regions, {best} is looked at most for its size, {times:.2f} times an even look."
    else:
        row, column = np.unravel_index(result.image_map.argmax(), result.image_map.shape)
        times = result.image_map.max()
        finding = f"The patch in row {row + 1}, column {column + 1} is looked at most, {times:.2f} times even."
    return f"Attention weights where {DIRECTIONS[result.asks]}, {who}. {finding}"


FusionExplorer.panes = {"attention": Pane(draw, say)}
