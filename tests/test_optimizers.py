"""Who learns by which rule, and one step of Muon at its closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from visdec_lite.optimizers import make_optimizers


class Parts(nn.Module):
    """One weight of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.conv = nn.Conv1d(4, 2, kernel_size=1)
        self.table = nn.Embedding(3, 5)


def kinds(model: nn.Module, rule: str) -> dict[str, str]:
    names = {id(weight): name for name, weight in model.named_parameters()}
    optimizers = make_optimizers(model, None, rule, 0.1, 0.05, (0.9, 0.95))
    return {
        names[id(weight)]: type(optimizer).__name__
        for optimizer in optimizers
        for group in optimizer.param_groups
        for weight in group["params"]
    }


def test_muon_has_the_matrices_and_adamw_the_rest():
    everything = {"linear.weight", "linear.bias", "conv.weight", "conv.bias", "table.weight"}
    assert kinds(Parts(), "adamw") == dict.fromkeys(everything, "AdamW")
    assert kinds(Parts(), "muon") == dict.fromkeys(everything - {"linear.weight"}, "AdamW") | {"linear.weight": "Muon"}
    assert kinds(nn.Linear(2, 2, bias=False), "muon") == {"weight": "Muon"}, "no empty optimizer"
    assert set(kinds(Parts().requires_grad_(False).linear.requires_grad_(True), "muon")) == {"weight", "bias"}


def test_decay_spares_what_has_fewer_than_two_axes_and_groups_keep_their_scale():
    model = Parts()
    groups = [
        {"params": model.linear.parameters(), "learning_rate_scale": 0.3},
        {"params": [*model.conv.parameters(), *model.table.parameters()]},
    ]
    found = {}
    for optimizer in make_optimizers(model, groups, "muon", 0.1, 0.05, (0.9, 0.95)):
        for group in optimizer.param_groups:
            for weight in group["params"]:
                found[id(weight)] = (group["weight_decay"], group["learning_rate_scale"], group["lr"])
    expected = {
        model.linear.weight: (0.05, 0.3), model.linear.bias: (0.0, 0.3), model.conv.weight: (0.05, 1.0),
        model.conv.bias: (0.0, 1.0), model.table.weight: (0.05, 1.0),
    }  # fmt: skip
    assert found == {id(weight): (*numbers, 0.1) for weight, numbers in expected.items()}


def test_one_muon_step_is_nearly_orthogonal_whatever_the_gradient():
    """The gradient has singular values 100, 10 and 1; the step has them all near rate x 0.2 sqrt(longer side)."""
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(8, 3, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    gradient = left @ torch.diag(torch.tensor([100.0, 10.0, 1.0])) @ right.T
    model = nn.Linear(3, 8, bias=False)
    before = model.weight.detach().clone()
    (muon,) = make_optimizers(model, None, "muon", 0.05, 0.0, (0.9, 0.95))
    model.weight.grad = gradient
    muon.step()
    step = (before - model.weight.detach()) / (0.05 * 0.2 * math.sqrt(8))
    in_its_own_directions = left.T @ step @ right
    assert torch.linalg.svdvals(step) == pytest.approx([1, 1, 1], abs=0.35), "Newton and Schulz, five rounds"
    off_diagonal = in_its_own_directions - torch.diag(in_its_own_directions.diagonal())
    assert off_diagonal.abs().max() < 0.05 and in_its_own_directions.diagonal().min() > 0.6
