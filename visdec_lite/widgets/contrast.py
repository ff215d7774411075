"""Two views of the same scans, and the contrast that is to tell them apart (phase 1).

In: a data set and, if wanted, a `MaskedAutoencoder`. Out: the cosine of every first view with every second one, the
softmax of it, the InfoNCE loss beside log(batch), which is what guessing scores, and the gradient:

    d loss / d cos(q_i, k_j) = (p_ij - [i = j]) / (b tau),   p_i = softmax_j(cos(q_i, k_j) / tau)

Minus that is where a step goes: the own pair is drawn together, and every wrong one is pushed away as hard as it is
mistaken for the right one. A small temperature leaves all the push to the nearest wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from visdec_lite.contrastive import info_nce
from visdec_lite.datasets import BrainDataset
from visdec_lite.masked_autoencoder import MaskedAutoencoder
from visdec_lite.patches import random_mask, unpatchify_voxels
from visdec_lite.plotting import BLUE
from visdec_lite.widgets.base import Explorer, Pane, Report, no_report
from visdec_lite.widgets.drawing import HEAT, SIGNED, chance_line, page, panel, write
from visdec_lite.widgets.knobs import Knob, State, knob
from visdec_lite.widgets.scans import device_of, fitted


@dataclass(frozen=True)
class ContrastState(State):
    """Knobs of the ContrastExplorer."""

    temperature: float = knob(0.1, "temperature", low=0.01, high=1.0, step=0.05, log=True, help="on the cosine scale")
    batch_size: int = knob(16, "batch size", low=2, high=64, help="scans that have to tell themselves apart")
    noise: float = knob(0.5, "noise", low=0.0, high=4.0, step=0.1, help="standard deviation added to each view")
    seed: int = knob(0, "seed", low=0, high=99, help="of batch, noise and masks")


@dataclass(frozen=True)
class ContrastResult:
    """Arrays of one answer; row i is the first view of scan i, column j the second of scan j.

    Attributes:
        first, second: the views, (b, V).
        similarity: cosines, (b, b).
        probabilities: softmax of similarity / temperature over each row, (b, b).
        gradient: of the loss with respect to each cosine, (b, b).
        loss: InfoNCE, nats.
        guessing: log(b), nats.
        accuracy: share of rows whose largest cosine is their own.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray
    probabilities: np.ndarray
    gradient: np.ndarray
    loss: float
    guessing: float
    accuracy: float
    simulated: bool


class ContrastExplorer(Explorer[ContrastState, ContrastResult]):
    """Similarities of two views, the loss and its gradient.

    Args:
        model: a masked autoencoder: the views are its reconstructions through two masks (cross-contrast). None: the
            views are the scans themselves, each with noise of its own.
        dataset: its voxels, z-scored.
        split: whose scans are shown.
        options: `state`, `live`, `strict` of `Explorer`.
    """

    title = "Which two belong together?"
    State = ContrastState

    def __init__(
        self, model: MaskedAutoencoder | None, dataset: BrainDataset, split: str = "val", **options: Any
    ) -> None:
        self._model = None if model is None else model.eval()
        self._voxels, self._simulated = dataset[split].voxels, dataset.simulated
        most = min(64, len(self._voxels))
        state = options.pop("state", None) or ContrastState(batch_size=min(16, most))
        knobs = {"batch_size": Knob("batch size", low=2, high=most, help="scans that have to tell themselves apart")}
        super().__init__(state, knobs=knobs, **options)

    @torch.no_grad()
    def compute(self, state: ContrastState, report: Report = no_report) -> ContrastResult:
        first, second = self._views(state)
        batch = len(first)
        similarity = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T
        probabilities = (similarity / state.temperature).softmax(dim=-1)
        gradient = (probabilities - torch.eye(batch)) / (batch * state.temperature)
        return ContrastResult(
            first=first.numpy(),
            second=second.numpy(),
            similarity=similarity.numpy(),
            probabilities=probabilities.numpy(),
            gradient=gradient.numpy(),
            loss=float(info_nce(first, second, state.temperature)),
            guessing=math.log(batch),
            accuracy=float((similarity.argmax(1) == torch.arange(batch)).double().mean()),
            simulated=self._simulated,
        )

    def _views(self, state: ContrastState) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(state.seed)
        rows = np.sort(rng.permutation(len(self._voxels))[: state.batch_size])
        scans = np.asarray(self._voxels[rows])
        noisy = [scans + state.noise * rng.standard_normal(scans.shape, dtype=np.float32) for _ in range(2)]
        if self._model is None:
            return torch.as_tensor(noisy[0]), torch.as_tensor(noisy[1])
        config, generator = self._model.config, torch.Generator().manual_seed(state.seed)
        device = device_of(self._model)
        views = []
        for one in noisy:
            voxels = torch.as_tensor(fitted(one, config.num_voxels, config.patch_size)).to(device)
            mask = random_mask(len(voxels), config.num_patches, config.mask_ratio, generator, device)
            views.append(unpatchify_voxels(self._model.reconstruct(self._model.encode(voxels, mask), mask)).cpu())
        return views[0], views[1]

    panes: ClassVar[Mapping[str, Pane]]


def draw(result: ContrastResult) -> Figure:
    """Three matrices, and the loss beside guessing."""
    batch = len(result.similarity)
    figure, axes = page(4.3, f"{batch} scans, two views of each", result.simulated)
    pull = -result.gradient
    limit = float(np.abs(pull).max()) or 1.0
    matrices = (
        ("cosine", result.similarity, HEAT, (float(result.similarity.min()), float(result.similarity.max()) + 1e-9)),
        ("taken for the same (softmax)", result.probabilities, HEAT, (0.0, 1.0)),
        ("pulled (orange), pushed (purple)", pull, SIGNED, (-limit, limit)),
    )
    for column, (words, matrix, colours, (low, high)) in enumerate(matrices):
        labels = {"xlabel": "second view of scan", "ylabel": "first view of scan"} if column == 0 else {}
        part = panel(figure, 0.6 + 2.72 * column, 0.85, 1.95, 1.95, title=words, **labels)
        image = part.imshow(matrix, origin="upper", cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        part.set(xticks=[0, batch - 1], yticks=[0, batch - 1])
        place = part.get_position()
        bar = figure.add_axes((place.x1 + 0.008, place.y0, 0.012, place.height))
        figure.colorbar(image, cax=bar).ax.tick_params(labelsize=6.5)
    part = panel(figure, 0.6, 3.5, 4.6, 0.3, xlabel="InfoNCE loss (nats)")
    part.barh([0], [result.loss], color=BLUE)
    part.set(yticks=[], xlim=(0, 1.15 * max(result.loss, result.guessing)))
    chance_line(part, result.guessing, f"guessing: log({batch}) = {result.guessing:.2f}")
    part.legend(fontsize=7, frameon=False, loc="lower right", bbox_to_anchor=(1, 0.95))
    write(axes, 5.45, 3.68, f"loss {result.loss:.3f}, guessing {result.guessing:.3f}", weight="bold", size=9)
    write(axes, 5.45, 3.93, f"{100 * result.accuracy:.0f} % find their own (guessing {100 / batch:.0f} %)", size=9)
    return figure


def say(result: ContrastResult) -> str:
    """The finding in words."""
    batch = len(result.similarity)
    return (
        f"Cosine of {batch} first views with {batch} second views, its softmax and its gradient. The loss is "
        f"{result.loss:.3f} nats, guessing scores {result.guessing:.3f}; {100 * result.accuracy:.0f} percent of the "
        f"scans find their own second view, guessing {100 / batch:.0f} percent."
    )


ContrastExplorer.panes = {"contrast": Pane(draw, say)}
