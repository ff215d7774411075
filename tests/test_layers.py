"""Attention and the transformer block, against PyTorch's own and against closed forms."""

import pytest
import torch
from torch import nn

from visdec_lite.layers import Attention, Block, Mlp, attend, init_transformer


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def context() -> torch.Tensor:
    return torch.randn(3, 5, 20, generator=torch.Generator().manual_seed(1))


def test_self_attention_is_pytorchs(tokens):
    ours, theirs = Attention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True)
    names = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias"}
    names |= {"out_proj.weight": "proj.weight", "out_proj.bias": "proj.bias"}
    theirs.load_state_dict({name: ours.state_dict()[own] for name, own in names.items()})
    expected, weights = theirs(tokens, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(ours(tokens), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours(tokens, need_weights=True)[1], weights, atol=1e-5, rtol=0)


def test_cross_attention_is_pytorchs(tokens, context):
    ours = Attention(32, 4, context_dim=20)
    theirs = nn.MultiheadAttention(32, 4, kdim=20, vdim=20, batch_first=True)
    key, value = ours.kv.weight.chunk(2)
    weights = {"q_proj_weight": ours.q.weight, "k_proj_weight": key, "v_proj_weight": value}
    weights |= {"in_proj_bias": torch.cat([ours.q.bias, ours.kv.bias])}
    weights |= {"out_proj.weight": ours.proj.weight, "out_proj.bias": ours.proj.bias}
    theirs.load_state_dict(weights)
    expected, maps = theirs(tokens, context, context, average_attn_weights=False)
    out, own_maps = ours(tokens, context, need_weights=True)
    assert own_maps.shape == (3, 4, 7, 5)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(own_maps, maps, atol=1e-5, rtol=0)


@pytest.mark.parametrize("context_dim", [None, 20])
def test_asking_for_weights_changes_nothing(tokens, context, context_dim):
    attention = Attention(32, 4, context_dim)
    inputs = (tokens,) if context_dim is None else (tokens, context)
    out, weights = attention(*inputs, need_weights=True)
    torch.testing.assert_close(attention(*inputs), out, atol=1e-5, rtol=0)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 4, 7))
    assert weights.min() >= 0


def test_a_query_that_tells_nothing_apart_averages():
    value = torch.randn(2, 1, 6, 4, generator=torch.Generator().manual_seed(0))
    out, weights = attend(torch.zeros(2, 1, 3, 4), value, value, need_weights=True)
    torch.testing.assert_close(weights, torch.full((2, 1, 3, 6), 1 / 6))
    torch.testing.assert_close(out, value.mean(dim=2, keepdim=True).expand(2, 1, 3, 4))


def test_a_query_that_matches_one_key_picks_its_value():
    key, value = 50 * torch.eye(4).reshape(1, 1, 4, 4), torch.arange(16.0).reshape(1, 1, 4, 4)
    out, _ = attend(key, key, value)
    torch.testing.assert_close(out, value)


def test_block_is_pytorchs_pre_norm_layer(tokens):
    ours = Block(32, 4, mlp_ratio=2.0)
    theirs = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    names = {"self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1": "mlp.fc1"}
    names |= {"linear2": "mlp.fc2"}
    state = ours.state_dict()
    for their_name, our_name in names.items():
        state = {key.replace(our_name, their_name): value for key, value in state.items()}
    theirs.load_state_dict(state)
    torch.testing.assert_close(ours(tokens), theirs(tokens), atol=1e-5, rtol=0)
    out, weights = ours(tokens, need_weights=True)
    assert weights.shape == (3, 4, 7, 7)
    torch.testing.assert_close(out, ours(tokens), atol=1e-5, rtol=0)


def test_attention_has_no_order(tokens):
    """Shuffled tokens give shuffled answers: without positions a transformer sees a bag."""
    block, order = Block(32, 4), torch.tensor([3, 1, 6, 0, 2, 5, 4])
    torch.testing.assert_close(block(tokens[:, order]), block(tokens)[:, order])


def test_gradients_reach_everything(tokens, context):
    for module, inputs in [(Block(32, 4), (tokens,)), (Attention(32, 4, 20), (tokens, context))]:
        module(*inputs).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_mlp_ratio_sets_the_hidden_width():
    assert Block(32, 4, mlp_ratio=1.0).mlp.fc1.weight.shape == (32, 32)
    assert Block(32, 4, mlp_ratio=2.5).mlp.fc1.weight.shape == (80, 32)
    assert Mlp(8, 16)(torch.zeros(2, 3, 8)).shape == (2, 3, 8)


def test_initialisation_is_xavier_with_zero_bias():
    for module, fans in [(nn.Linear(200, 100), 300), (nn.Conv1d(1, 100, 16, 16), 116)]:
        module.apply(init_transformer)
        bound = (6 / fans) ** 0.5
        assert 0.9 * bound < module.weight.abs().max() <= bound
        assert module.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert (module.bias == 0).all()


def test_misuse_is_explained(tokens, context):
    with pytest.raises(ValueError, match="width 30 does not split into 4 heads"):
        Attention(30, 4)
    with pytest.raises(ValueError, match="self-attention takes no context; build it with"):
        Attention(32, 4)(tokens, context)
    with pytest.raises(ValueError, match="cross-attention needs a context"):
        Attention(32, 4, 20)(tokens)
