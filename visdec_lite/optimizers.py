"""Which weight learns by which rule, and how fast.

In: the trainable weights of a model. Out: torch optimizers that share them, each weight in one of them.

**AdamW** (Loshchilov and Hutter, 2019) scales every number's step by the size of its own gradients. A matrix still
learns first what varies most in its input. **Muon** (Jordan et al., 2024, kellerjordan.github.io/posts/muon; torch's
own) turns the step of a whole matrix into the nearest orthogonal one: every direction of its input is learnt equally
fast, those that vary little too. A scan's tokens hold the shape of what was seen in just such directions
(benchmarks/RESULTS.md). Its steps are scaled to be as long as AdamW's (Liu et al., 2025, arXiv 2502.16982).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

Rule = Literal["adamw", "muon"]


def make_optimizers(
    model: nn.Module,
    groups: Sequence[Mapping[str, Any]] | None,
    rule: Rule,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
) -> list[torch.optim.Optimizer]:
    """Optimizers of everything in `model` that requires gradients; their groups keep `learning_rate_scale`.

    Args:
        groups: `{"params": weights, "learning_rate_scale": 1.0}` each, every trainable weight in one of them; None
            makes one of all.
        rule: how matrices learn. Vectors, convolutions and embeddings learn by AdamW in any case.
        weight_decay: of weights with two axes or more; biases and norms are spared.
        betas: of AdamW; Muon forgets as torch has it, 0.95.

    Raises:
        ValueError: nothing to train; a weight is in no group, in two, or not part of the model.
    """
    kinds: dict[str, list[dict[str, Any]]] = {"adamw": [], "muon": []}
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for group in _checked(model, groups):
        scale = group.get("learning_rate_scale", 1.0)
        halves: dict[tuple[str, float], list[nn.Parameter]] = {}
        for weight in group["params"]:
            kind = "muon" if rule == "muon" and weight.ndim == 2 and id(weight) not in embedded else "adamw"
            halves.setdefault((kind, weight_decay if weight.ndim >= 2 else 0.0), []).append(weight)
        for (kind, decay), weights in halves.items():
            kinds[kind].append({"params": weights, "weight_decay": decay, "learning_rate_scale": scale})
    made: list[torch.optim.Optimizer] = []
    if kinds["adamw"]:
        made.append(torch.optim.AdamW(kinds["adamw"], lr=learning_rate, betas=betas))
    if kinds["muon"]:
        made.append(torch.optim.Muon(kinds["muon"], lr=learning_rate, adjust_lr_fn="match_rms_adamw"))
    return made


def _checked(model: nn.Module, groups: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """The groups, their frozen weights left out."""
    names = {id(weight): name for name, weight in model.named_parameters() if weight.requires_grad}
    if not names:
        raise ValueError("0 parameters require gradients; unfreeze some: parameter.requires_grad_(True)")
    if groups is None:
        groups = [{"params": model.parameters()}]
    checked: list[dict[str, Any]] = []
    seen: set[int] = set()
    for group in groups:
        weights = [weight for weight in group["params"] if weight.requires_grad]
        for weight in weights:
            if id(weight) not in names or id(weight) in seen:
                problem = "occurs twice" if id(weight) in seen else "is not part of the model"
                raise ValueError(f"parameter_groups: {names.get(id(weight), tuple(weight.shape))} {problem}")
            seen.add(id(weight))
        checked.append({**group, "params": weights})
    missing = [name for key, name in names.items() if key not in seen]
    if missing:
        raise ValueError(
            f"{len(missing)} trainable parameters are in no parameter group ({', '.join(missing[:5])}, ...); "
            "add them to one, or freeze them: parameter.requires_grad_(False)"
        )
    return checked
