"""Contrastive losses: a reconstruction should say *which* sample it came from.

fMRI is noisy, and a masked autoencoder can score well by predicting what all scans share. Contrast asks for
what sets them apart. Every query must pick its own key out of the whole batch, by cosine similarity:

    InfoNCE(q, k) = -1/n sum_i log( exp(cos(q_i, k_i) / tau) / sum_j exp(cos(q_i, k_j) / tau) )

* cross-contrast: two reconstructions of one sample, from two different masks, find each other;
* self-contrast: a reconstruction finds its own unmasked original.

Enters: vectors in voxel space ``(b, num_voxels)``. Leaves: a loss in nats, shape (); guessing scores log(b).

Sources: van den Oord et al., "Representation learning with contrastive predictive coding", 2018; Sun et al.,
"Contrast, Attend and Diffuse", NeurIPS 2023, section 3.1.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def info_nce(query: Tensor, key: Tensor, temperature: float = 0.1, gather: bool = False) -> Tensor:
    """InfoNCE: every query should be nearest to its own key (van den Oord et al., 2018).

    Args:
        query: embeddings, shape (b, dim), any length; unit-normalised here.
        key: positives, same shape; row i pairs with query i, the other rows are negatives.
        temperature: on the cosine scale, above 0; small values punish the nearest wrong key most.
        gather: with several processes, take negatives from the batches of all (equally large) of them, with
            gradient, so that the loss does not depend on the number of devices. All processes must call
            together; with one process it changes nothing.

    Returns:
        Mean loss in nats, shape (). Guessing scores log(batch); a batch of one has no negatives and scores 0.

    Raises:
        ValueError: shapes differ, or the temperature is not positive.
    """
    if query.shape != key.shape or query.ndim != 2:
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} must have one shape (batch, dim); "
            "row i of one pairs with row i of the other"
        )
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} must be above 0; the paper uses 0.1")
    query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
    if gather and dist.is_available() and dist.is_initialized():
        query, key = _GatherBatch.apply(query), _GatherBatch.apply(key)
    logits = query @ key.T / temperature  # (b, b): cosine of every query with every key
    own = torch.arange(len(query), device=query.device)
    return F.cross_entropy(logits, own)


def cross_contrastive_loss(
    reconstruction1: Tensor, reconstruction2: Tensor, temperature: float = 0.1, gather: bool = False
) -> Tensor:
    """L_C: two reconstructions of one sample, seen through two masks, should find each other.

    Args:
        reconstruction1: from the first mask, shape (b, num_voxels).
        reconstruction2: from the second mask, same shape.
        temperature: see `info_nce`.
        gather: see `info_nce`.

    Returns:
        Loss in nats, shape ().
    """
    return info_nce(reconstruction1, reconstruction2, temperature, gather)


def self_contrastive_loss(
    reconstruction: Tensor, original: Tensor, temperature: float = 0.1, gather: bool = False
) -> Tensor:
    """L_S: a reconstruction should find the unmasked original it came from.

    Args:
        reconstruction: shape (b, num_voxels).
        original: the same samples before masking, same shape.
        temperature: see `info_nce`.
        gather: see `info_nce`.

    Returns:
        Loss in nats, shape ().
    """
    return info_nce(reconstruction, original, temperature, gather)


class _GatherBatch(torch.autograd.Function):
    """The rows of all processes, in order of rank; going back, a row collects its gradient from all of them.

    Every process then computes the same global loss. Averaging the parameter gradients over processes, as
    DistributedDataParallel does, gives exactly the gradient of that loss on one device.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]
