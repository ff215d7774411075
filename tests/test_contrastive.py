"""InfoNCE against closed forms, cross-entropy, chance, and itself on two processes."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from visdec_lite.contrastive import cross_contrastive_loss, info_nce, self_contrastive_loss


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("batch", [2, 5, 64])
def test_uninformative_embeddings_score_log_batch(batch):
    same = randn(1, 30).expand(batch, 30)
    assert info_nce(same, same).item() == pytest.approx(math.log(batch), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 1.0, 10.0])
def test_orthogonal_pairs_score_the_closed_form(temperature):
    n = 8
    pairs = 3 * torch.eye(n, 12)
    expected = -math.log(math.exp(1 / temperature) / (math.exp(1 / temperature) + n - 1))
    assert info_nce(pairs, pairs, temperature).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    opposite = -math.log(math.exp(-1 / temperature) / (math.exp(-1 / temperature) + n - 1))
    assert info_nce(pairs, -pairs, temperature).item() == pytest.approx(opposite, rel=1e-4)


def test_is_the_formula_of_the_paper():
    query, key, tau = randn(6, 20), randn(6, 20, seed=1), 0.3
    cos = F.cosine_similarity(query[:, None], key[None], dim=-1)
    brute = 0.0
    for i in range(6):
        brute -= math.log(math.exp(cos[i, i] / tau) / sum(math.exp(cos[i, j] / tau) for j in range(6))) / 6
    assert info_nce(query, key, tau).item() == pytest.approx(brute, rel=1e-5)
    torch.testing.assert_close(info_nce(query, key, tau), F.cross_entropy(cos / tau, torch.arange(6)))


def test_unrelated_embeddings_score_chance():
    loss = info_nce(randn(128, 10_000), randn(128, 10_000, seed=1), temperature=0.1)
    assert loss.item() == pytest.approx(math.log(128), abs=0.05)


def test_length_does_not_matter_and_order_does():
    query, key = randn(6, 20), randn(6, 20, seed=1)
    scale = torch.tensor([0.1, 1, 5, 20, 100, 0.5]).unsqueeze(1)
    torch.testing.assert_close(info_nce(scale * query, 7 * key), info_nce(query, key))
    paired = info_nce(query, query + 0.1 * key)
    shuffled = info_nce(query, (query + 0.1 * key).roll(1, dims=0))
    assert paired < 0.1 < math.log(6) < shuffled


def test_a_batch_of_one_has_nothing_to_tell_apart():
    assert info_nce(randn(1, 20), randn(1, 20, seed=1)) == 0


def test_gradients_are_finite_and_exact():
    query = randn(4, 6).double().requires_grad_()
    key = randn(4, 6, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(info_nce, (query, key))
    blank = torch.zeros(4, 6, requires_grad=True)  # a decoder that predicts nothing yet
    info_nce(blank, randn(4, 6)).backward()
    assert blank.grad.isfinite().all()


def test_named_losses_are_info_nce():
    first, second, original = randn(6, 20), randn(6, 20, seed=1), randn(6, 20, seed=2)
    for tau in (0.1, 0.7):
        assert cross_contrastive_loss(first, second, tau) == info_nce(first, second, tau)
        assert self_contrastive_loss(first, original, tau) == info_nce(first, original, tau)


def test_gather_on_one_process_changes_nothing():
    query, key = randn(6, 20), randn(6, 20, seed=1)
    assert info_nce(query, key, gather=True) == info_nce(query, key)


def test_misuse_is_explained():
    with pytest.raises(ValueError, match=r"query \(4, 6\) and key \(5, 6\) must have one shape"):
        info_nce(torch.zeros(4, 6), torch.zeros(5, 6))
    with pytest.raises(ValueError, match="must have one shape"):
        info_nce(torch.zeros(4, 6, 2), torch.zeros(4, 6, 2))
    with pytest.raises(ValueError, match=r"temperature 0 must be above 0; the paper uses 0\.1"):
        info_nce(torch.zeros(4, 6), torch.zeros(4, 6), temperature=0)


def towers() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"query": nn.Linear(10, 8), "key": nn.Linear(12, 8)})


class Contrast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.towers = towers()

    def forward(self, left: torch.Tensor, right: torch.Tensor, gather: bool) -> torch.Tensor:
        return info_nce(self.towers["query"](left), self.towers["key"](right), 0.2, gather)


def train_on_half(rank: int, folder: str) -> None:
    """One of two processes: half of the batch, then gradients averaged as DistributedDataParallel does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = Contrast()
    half = slice(4 * rank, 4 * rank + 4)
    loss = model(randn(8, 10)[half], randn(8, 12, seed=1)[half], gather=True)
    loss.backward()
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= 2
    alone = info_nce(randn(4, 8), randn(4, 8, seed=1), gather=False)  # speaks to nobody
    torch.save((loss.detach(), [p.grad for p in model.parameters()], alone), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one_with_the_global_batch(tmp_path: Path):
    model = Contrast()
    loss = model(randn(8, 10), randn(8, 12, seed=1), gather=False)
    loss.backward()
    torch.multiprocessing.spawn(train_on_half, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        half_loss, gradients, alone = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(half_loss, loss.detach())
        for ours, parameter in zip(gradients, model.parameters(), strict=True):
            torch.testing.assert_close(ours, parameter.grad)
        torch.testing.assert_close(alone, info_nce(randn(4, 8), randn(4, 8, seed=1)))
