"""Phase 1: the double-contrastive masked autoencoder (DC-MAE) of fMRI.

Learn what matters in brain activity without labels. Cut the voxels into patches, hide most of them, and
reconstruct the hidden ones from the rest: what the rest cannot tell, the reconstruction leaves out, and
that is mostly noise. Do it twice, with two different masks, and contrast the results:

    L = w_M L_M + w_C L_C + w_S L_S

* L_M, reconstruction: mean squared error on the hidden patches, averaged over the two views;
* L_C, cross-contrast: InfoNCE(v_d1, v_d2);
* L_S, self-contrast: the mean of InfoNCE(v_d1, v) and InfoNCE(v_d2, v),

with v the original voxels and v_d1, v_d2 their reconstructions through the two masks.

Enters: z-scored voxels ``(b, num_voxels)``. Leaves: a loss to minimise, and an encoder that turns voxels into
tokens ``(b, num_patches, embed_dim)`` for the later phases.

Sources: Sun et al., "Contrast, Attend and Diffuse", NeurIPS 2023, section 3.1; He et al., "Masked
autoencoders are scalable vision learners", CVPR 2022.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from visdec_lite.contrastive import cross_contrastive_loss, self_contrastive_loss
from visdec_lite.fields import (
    BELOW_ONE,
    COUNT,
    INSIDE,
    POSITIVE,
    SIZE,
    TRANSFORMER,
    WEIGHT,
    check_fields,
    check_transformer,
)
from visdec_lite.layers import Block, init_transformer
from visdec_lite.patches import (
    keep_patches,
    patchify_voxels,
    random_mask,
    restore_patches,
    sincos_positions_1d,
    unpatchify_voxels,
)


@dataclass(frozen=True)
class MaskedAutoencoderConfig:
    """Sizes and weights of the DC-MAE; the defaults are the paper's, about 164 M parameters."""

    num_voxels: int  # after padding; a multiple of patch_size
    patch_size: int = 16  # voxels per patch
    embed_dim: int = 1024  # width of the encoder
    depth: int = 24  # blocks of the encoder
    num_heads: int = 16  # attention heads of the encoder
    mlp_ratio: float = 1.0  # hidden width of each MLP over the token width
    decoder_embed_dim: int = 512  # the decoder is thrown away later, so it may be small
    decoder_depth: int = 8  # blocks of the decoder
    decoder_num_heads: int = 16  # attention heads of the decoder
    mask_ratio: float = 0.75  # share of patches hidden; high, because neighbours tell much of each other
    weight_reconstruction: float = 1.0  # w_M
    weight_cross: float = 0.5  # w_C
    weight_self: float = 1.0  # w_S
    temperature: float = 0.1  # of both contrasts, on the cosine scale
    voxel_dropout: float = 0.2  # share of input voxels set to zero while training; the target stays whole

    def __post_init__(self) -> None:
        weights = {f"weight_{name}": WEIGHT for name in ("reconstruction", "cross", "self")}
        rules = {"num_voxels": COUNT, "patch_size": SIZE, "mask_ratio": INSIDE, "temperature": POSITIVE}
        check_fields(self, {**rules, **weights, **TRANSFORMER, "voxel_dropout": BELOW_ONE})
        check_transformer(self, axes=1)
        if self.num_voxels % self.patch_size:
            raise ValueError(
                f"num_voxels={self.num_voxels} is not a multiple of patch_size={self.patch_size}; "
                f"pad first: preprocessing.pad_voxels(voxels, multiple={self.patch_size})"
            )

    @property
    def num_patches(self) -> int:
        """Patches a sample is cut into."""
        return self.num_voxels // self.patch_size


class PatchEmbed(nn.Module):
    """One token a patch: a 1-D convolution whose stride is its width, (b, n, patch_size) -> (b, n, dim)."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv1d(1, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        """Embed each patch by itself."""
        return rearrange(self.proj(rearrange(patches, "b n p -> b 1 (n p)")), "b d n -> b n d")


class FMRIEncoder(nn.Module):
    """E_F: a vision transformer that reads patches of voxels instead of patches of pixels.

    Args:
        config: the encoder's share of it is used.
    """

    def __init__(self, config: MaskedAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        dim, heads = config.embed_dim, config.num_heads
        self.patch_embed = PatchEmbed(config.patch_size, dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.register_buffer("pos_embed", positions_with_cls(config.num_patches, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, config.mlp_ratio) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim)
        self.apply(init_transformer)
        nn.init.normal_(self.cls_token, std=0.02)

    def forward(
        self, voxels: Tensor, mask: Tensor | None = None, need_weights: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Encode the patches that are not hidden; the hidden ones are dropped before anything is computed.

        Args:
            voxels: shape (b, num_voxels), z-scored.
            mask: bool, shape (b, num_patches), True = hidden; None shows every patch.
            need_weights: also return the attention weights of every block.

        Returns:
            Tokens, shape (b, n, embed_dim) with n = 1 + num_kept, CLS first, then the kept patches in order.
            With need_weights a pair: tokens, and for each block its weights (b, heads, n, n).

        Raises:
            ValueError: the number of voxels is not the one the encoder was built for.
        """
        if voxels.shape[-1] != self.config.num_voxels:
            raise ValueError(
                f"got {voxels.shape[-1]} voxels, but the encoder was built for {self.config.num_voxels}; "
                f"pad first: preprocessing.pad_voxels(voxels, multiple={self.config.patch_size}), "
                "or build an encoder for this number of voxels"
            )
        patches = patchify_voxels(voxels, self.config.patch_size)
        positions = self.pos_embed[:, 1:].expand(len(voxels), -1, -1)
        if mask is not None:
            patches, positions = keep_patches(patches, mask), keep_patches(positions, mask)
        x = self.patch_embed(patches) + positions
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([cls, x], dim=1)
        maps = []
        for block in self.blocks:
            x, weights = block(x, need_weights=True) if need_weights else (block(x), None)
            maps.append(weights)
        x = self.norm(x)
        return (x, maps) if need_weights else x

    def tokens(self, voxels: Tensor) -> Tensor:
        """Encode every patch, without CLS: (b, num_voxels) -> (b, num_patches, embed_dim)."""
        return self(voxels)[:, 1:]


class MaskedAutoencoderOutput(NamedTuple):
    """What one training step gives: the loss, and what to look at."""

    loss: Tensor  # (), the weighted sum of the terms
    terms: dict[str, Tensor]  # "reconstruction", "cross", "self": each (), not weighted
    reconstructions: Tensor  # (2, b, num_voxels), one for each view
    masks: Tensor  # bool (2, b, num_patches), True = hidden


class MaskedAutoencoder(nn.Module):
    """The DC-MAE: encoder E_F, decoder D_F, and the loss that trains both.

    Args:
        config: sizes and weights.
    """

    def __init__(self, config: MaskedAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = FMRIEncoder(config)
        dim = config.decoder_embed_dim
        self.decoder_embed = nn.Linear(config.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.register_buffer("decoder_pos_embed", positions_with_cls(config.num_patches, dim))
        self.decoder_blocks = nn.ModuleList(
            Block(dim, config.decoder_num_heads, config.mlp_ratio) for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(dim)
        self.decoder_pred = nn.Linear(dim, config.patch_size)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            part.apply(init_transformer)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, voxels: Tensor, generator: torch.Generator) -> MaskedAutoencoderOutput:
        """Reconstruct through two random masks and score the result; both views pass in one batch.

        Args:
            voxels: shape (b, num_voxels), z-scored; the originals v.
            generator: on the CPU; draws the masks and, while training, the voxel dropout.

        Returns:
            The loss, its three terms, the two reconstructions and their masks. Predicting zero scores about
            1 in the reconstruction of z-scored voxels; guessing scores log(b) in each contrast. While
            training on several devices, b is the batch of all of them together.
        """
        config = self.config
        masks = random_mask(2 * len(voxels), config.num_patches, config.mask_ratio, generator, voxels.device)
        inputs = self.drop_voxels(voxels, generator) if self.training else voxels
        tokens = self.encode(repeat(inputs, "b v -> (view b) v", view=2), masks)
        patches = self.reconstruct(tokens, masks)

        targets = repeat(patchify_voxels(voxels, config.patch_size), "b n p -> (view b) n p", view=2)
        first, second = unpatchify_voxels(patches).chunk(2)
        tau, gather = config.temperature, self.training  # in validation each process stays with its own batch
        own = [self_contrastive_loss(view, voxels, tau, gather) for view in (first, second)]
        terms = {
            "reconstruction": masked_mse(patches, targets, masks),
            "cross": cross_contrastive_loss(first, second, tau, gather),
            "self": torch.stack(own).mean(),
        }
        loss = (
            config.weight_reconstruction * terms["reconstruction"]
            + config.weight_cross * terms["cross"]
            + config.weight_self * terms["self"]
        )
        reconstructions = torch.stack([first, second])
        return MaskedAutoencoderOutput(loss, terms, reconstructions, torch.stack(masks.chunk(2)))

    def encode(self, voxels: Tensor, mask: Tensor | None = None) -> Tensor:
        """E_F: the kept patches as tokens (b, 1 + num_kept, embed_dim), CLS first."""
        return self.encoder(voxels, mask)

    def reconstruct(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """D_F: predict every patch from the tokens of the kept ones.

        Args:
            tokens: shape (b, 1 + num_kept, embed_dim), from `encode` with this mask.
            mask: bool, shape (b, num_patches), True = hidden.

        Returns:
            Patches, shape (b, num_patches, patch_size), kept and hidden alike.
        """
        tokens = self.decoder_embed(tokens)
        everywhere = restore_patches(tokens[:, 1:], mask, filler=self.mask_token)
        x = torch.cat([tokens[:, :1], everywhere], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def drop_voxels(self, voxels: Tensor, generator: torch.Generator) -> Tensor:
        """Augment: set each voxel to zero, its mean, with probability voxel_dropout; same shape, a copy."""
        return drop_voxels(voxels, self.config.voxel_dropout, generator)


def drop_voxels(voxels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A copy of voxels (b, num_voxels) in which each is zero, its mean, with probability `share`."""
    dropped = torch.rand(voxels.shape, generator=generator) < share
    return voxels.masked_fill(dropped.to(voxels.device), 0.0)


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error on the hidden patches only; a kept patch could simply be copied.

    Args:
        prediction: patches, shape (b, n, patch_size).
        target: same shape.
        mask: bool, shape (b, n), True = hidden.

    Returns:
        Mean over the hidden patches, shape (), in squared units of the target.
    """
    error = reduce((prediction - target) ** 2, "b n p -> b n", "mean")
    return (error * mask).sum() / mask.sum()


def positions_with_cls(num_patches: int, dim: int) -> Tensor:
    """Sine-cosine positions, shape (1, 1 + num_patches, dim); the CLS token stands nowhere and gets zeros."""
    return torch.cat([torch.zeros(1, dim), sincos_positions_1d(num_patches, dim)]).unsqueeze(0)
