"""Attention, and the transformer block around it.

Attention lets every token collect what it needs from others. A token asks with its *query*, every other
answers with its *key* how well it fits, and the answers, made positive and summing to one, weigh the
*values*:

    attention(q, k, v) = softmax(q k^T / sqrt(d)) v

In self-attention the tokens look at one another; in cross-attention one modality (say fMRI) looks at another
(an image). The weights can be looked at: pass ``need_weights=True``.

Enters and leaves: tokens ``(b, n, dim)``.

Sources: Vaswani et al., "Attention is all you need", NeurIPS 2017; Dosovitskiy et al., "An image is worth
16x16 words", ICLR 2021 (the pre-norm block).
"""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def attend(query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention, softmax(q k^T / sqrt(d)) v, for every head.

    Args:
        query: shape (b, heads, n, d).
        key: shape (b, heads, m, d).
        value: shape (b, heads, m, d).
        need_weights: also return the weights; slower, because they must be written down.

    Returns:
        The weighted values, shape (b, heads, n, d), and the weights, shape (b, heads, n, m), None unless
        asked for. Each row of weights sums to 1; a head that tells nothing apart has weights 1/m.
    """
    if not need_weights:
        return F.scaled_dot_product_attention(query, key, value), None
    weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
    return weights @ value, weights


class Attention(nn.Module):
    """Multi-head attention: to the tokens themselves, or to another sequence.

    ``Attention(dim, heads)`` is self-attention; ``Attention(dim, heads, context_dim)`` is cross-attention:
    queries come from the tokens, keys and values from the context.

    Args:
        dim: width of the tokens.
        heads: number of heads; each works in dim // heads dimensions.
        context_dim: width of the context; None for self-attention.

    Raises:
        ValueError: dim is not a multiple of heads.
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} does not split into {heads} heads; choose a multiple of {heads}")
        self.heads = heads
        self.is_cross = context_dim is not None
        if context_dim is None:
            self.qkv = nn.Linear(dim, 3 * dim)
        else:
            self.q = nn.Linear(dim, dim)
            self.kv = nn.Linear(context_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, context: Tensor | None = None, need_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Let each token collect from the others, or from the context.

        Args:
            x: tokens, shape (b, n, dim).
            context: shape (b, m, context_dim); required by cross-attention, refused by self-attention.
            need_weights: also return the attention weights.

        Returns:
            Tokens (b, n, dim); with need_weights a pair: tokens and weights (b, heads, n, m).

        Raises:
            ValueError: the context is missing, or there is one and nothing to read it.
        """
        if self.is_cross != (context is not None):
            raise ValueError(
                "cross-attention needs a context: call attention(x, context)"
                if self.is_cross
                else "self-attention takes no context; build it with Attention(dim, heads, context_dim)"
            )
        if context is None:
            query, key, value = self.qkv(x).chunk(3, dim=-1)
        else:
            query, (key, value) = self.q(x), self.kv(context).chunk(2, dim=-1)
        query, key, value = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in (query, key, value))
        out, weights = attend(query, key, value, need_weights)
        out = self.proj(rearrange(out, "b h n d -> b n (h d)"))
        return (out, weights) if need_weights else out


class Mlp(nn.Module):
    """Two linear layers with a GELU between, applied to each token by itself: (..., dim) -> (..., dim)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token, shape (..., dim)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block: first look around (attention), then think (MLP), each as a correction.

    Args:
        dim: width of the tokens.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over dim; the paper uses 1, most vision transformers 4.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 1.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, round(dim * mlp_ratio))

    def forward(self, x: Tensor, need_weights: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Tokens (b, n, dim) to tokens; with need_weights a pair: tokens and weights (b, heads, n, n)."""
        seen = self.attn(self.norm1(x), need_weights=need_weights)
        seen, weights = seen if need_weights else (seen, None)
        x = x + seen
        x = x + self.mlp(self.norm2(x))
        return (x, weights) if need_weights else x


def init_transformer(module: nn.Module) -> None:
    """Initialise as masked autoencoders do; use as ``model.apply(init_transformer)``.

    Linear layers, and the convolution that embeds patches (a linear layer in disguise), get Xavier-uniform
    weights and zero biases. Layer norms start as the identity, which is PyTorch's default.
    """
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.flatten(1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
