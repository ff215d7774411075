"""Phase 2: fMRI and image explain each other (training only; decoding never sees a picture).

In: voxels and the picture seen. Out: a loss that tunes the fMRI encoder to the activity that matters for vision.
Both are cut into patches and masked, h_v = E_F(v^m) and h_u = E_I(u^m), and each is rebuilt with the other's help:

    fMRI with image guidance    v^d = D_F(h_v + CA_F(h_v, h_u))
    image with fMRI guidance    u^d = D_I(h_u + CA_I(h_u, h_v))
    L = g_F || v - v^d ||^2 + g_I || u - u^d ||^2        on the hidden patches

Query is the modality that is rebuilt, key and value are the other one (the *support*); as in the authors'
released code the support is not masked unless `support_mask_ratio` says so. The image's own encoder E_I is
pre-trained and stays frozen (at paper scale: facebook/vit-mae-base).

Sources: Sun et al., NeurIPS 2023, section 3.2 and Table 2; He et al., "Masked autoencoders are scalable vision
learners", CVPR 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from visdec_lite.fields import (
    BELOW_ONE,
    INSIDE,
    SIZE,
    SWITCH,
    TRANSFORMER,
    WEIGHT,
    check_fields,
    check_hides,
    check_transformer,
)
from visdec_lite.layers import Attention, Block, init_transformer
from visdec_lite.masked_autoencoder import MaskedAutoencoder, masked_mse
from visdec_lite.patches import (
    keep_patches,
    patchify_image,
    patchify_voxels,
    random_mask,
    restore_patches,
    sincos_positions_2d,
    unpatchify_image,
)


@dataclass(frozen=True)
class ImageAutoencoderConfig:
    """Sizes of the image masked autoencoder; the defaults are those of vit-mae-base."""

    image_size: int = 224  # pixels a side
    patch_size: int = 16  # pixels a side
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    mask_ratio: float = 0.75  # share of patches hidden while it is pre-trained

    def __post_init__(self) -> None:
        check_fields(self, {"image_size": SIZE, "patch_size": SIZE, "mask_ratio": INSIDE, **TRANSFORMER})
        check_transformer(self, axes=2)
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}; change one of them"
            )
        check_hides(self.mask_ratio, self.num_patches, "mask_ratio")

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


class ImageMaskedAutoencoder(nn.Module):
    """E_I and D_I: a masked autoencoder of pictures (He et al., 2022)."""

    def __init__(self, config: ImageAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        side, dim, width = config.image_size // config.patch_size, config.embed_dim, config.decoder_embed_dim
        self.patch_embed = nn.Linear(3 * config.patch_size**2, dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.register_buffer("pos_embed", sincos_positions_2d(side, dim)[None])
        self.blocks = nn.ModuleList(Block(dim, config.num_heads, config.mlp_ratio) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim)
        self.decoder_embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.register_buffer("decoder_pos_embed", sincos_positions_2d(side, width)[None])
        self.decoder_blocks = nn.ModuleList(
            Block(width, config.decoder_num_heads, config.mlp_ratio) for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.decoder_pred = nn.Linear(width, 3 * config.patch_size**2)
        self.apply(init_transformer)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """E_I: kept patches of images (b, 3, size, size) in [-1, 1] as tokens (b, 1 + kept, embed_dim), CLS first."""
        size = self.config.image_size
        if images.shape[1:] != (3, size, size):
            raise ValueError(
                f"images have shape {tuple(images.shape)}, the image autoencoder takes (batch, 3, {size}, {size}); "
                f"resize them first: preprocessing.resize_images(images, {size})"
            )
        patches = patchify_image(images, self.config.patch_size)
        positions = self.pos_embed.expand(len(images), -1, -1)
        if mask is not None:
            patches, positions = keep_patches(patches, mask), keep_patches(positions, mask)
        x = self.patch_embed(patches) + positions
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def reconstruct(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """D_I: every patch, (b, num_patches, 3 * patch_size ** 2), from the tokens of the kept ones."""
        x = self.decoder_embed(tokens)
        everywhere = restore_patches(x[:, 1:], mask, filler=self.mask_token) + self.decoder_pos_embed
        x = torch.cat([x[:, :1], everywhere], dim=1)
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error on hidden patches, shape (): the pre-training loss of E_I and D_I."""
        config = self.config
        mask = random_mask(len(images), config.num_patches, config.mask_ratio, generator, images.device)
        rebuilt = self.reconstruct(self.encode(images, mask), mask)
        return masked_mse(rebuilt, patchify_image(images, config.patch_size), mask)


class CrossAttentionStack(nn.Module):
    """CA(q, kv): layers of cross-attention; what they add up to is added to the query."""

    def __init__(self, dim: int, support_dim: int, heads: int, depth: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))
        self.layers = nn.ModuleList(Attention(dim, heads, context_dim=support_dim) for _ in range(depth))
        self.apply(init_transformer)

    def forward(
        self, query: Tensor, support: Tensor, need_weights: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Tokens (b, n, dim) and a support (b, m, support_dim) -> guided tokens (b, n, dim) [and weights]."""
        maps = []
        for norm, attention in zip(self.norms, self.layers, strict=True):
            seen, weights = attention(norm(query), support, need_weights=True) if need_weights else (
                attention(norm(query), support), None)  # fmt: skip
            query = query + seen
            maps.append(weights)
        return (query, maps) if need_weights else query


@dataclass(frozen=True)
class FusionConfig:
    """Phase 2; defaults are the best row of the paper's Table 2 (25.08 %)."""

    weight_fmri: float = 0.25  # g_F
    weight_image: float = 1.5  # g_I: the picture leads
    fmri_mask_ratio: float = 0.75
    image_mask_ratio: float = 0.5  # higher leaves more to be told by the brain
    support_mask_ratio: float = 0.0  # of the modality that helps; 0 as released, 0.75 as in the paper's figure
    cross_layers: int = 3
    cross_heads: int = 16
    freeze_image_encoder: bool = True  # E_I knows pictures already

    def __post_init__(self) -> None:
        rules = {"weight_fmri": WEIGHT, "weight_image": WEIGHT, "cross_layers": SIZE, "cross_heads": SIZE}
        ratios = {"fmri_mask_ratio": INSIDE, "image_mask_ratio": INSIDE, "support_mask_ratio": BELOW_ONE}
        check_fields(self, {**rules, **ratios, "freeze_image_encoder": SWITCH})
        if self.weight_fmri == self.weight_image == 0:
            raise ValueError("weight_fmri and weight_image are both 0: nothing would be learnt; raise one of them")


class FusionOutput(NamedTuple):
    loss: Tensor  # (), weighted sum
    terms: dict[str, Tensor]  # "fmri", "image": mean squared errors on hidden patches, each ()
    images: Tensor  # u^d, (b, 3, size, size)


class CrossModalFusion(nn.Module):
    """Two autoencoders, each listening to the other."""

    def __init__(self, fmri: MaskedAutoencoder, image: ImageMaskedAutoencoder, config: FusionConfig) -> None:
        super().__init__()
        self.config, self.fmri, self.image = config, fmri, image
        fmri_dim, image_dim = fmri.config.embed_dim, image.config.embed_dim
        self.fmri_cross = CrossAttentionStack(fmri_dim, image_dim, config.cross_heads, config.cross_layers)
        self.image_cross = CrossAttentionStack(image_dim, fmri_dim, config.cross_heads, config.cross_layers)
        self.choose_trainable()

    def choose_trainable(self) -> None:
        """Everything learns, but the image encoder if it is to stay frozen."""
        self.requires_grad_(True)
        if self.config.freeze_image_encoder:
            encoder = (self.image.patch_embed, self.image.blocks, self.image.norm)
            for part in encoder:
                part.requires_grad_(False)
            self.image.cls_token.requires_grad_(False)

    def forward(self, voxels: Tensor, images: Tensor, generator: torch.Generator) -> FusionOutput:
        """Rebuild each modality with the other's help.

        Args:
            voxels: z-scored, shape (b, num_voxels).
            images: what was seen, shape (b, 3, size, size) in [-1, 1].
            generator: on the CPU; draws masks and, while training, the voxel dropout.
        """
        config = self.config
        inputs = self.fmri.drop_voxels(voxels, generator) if self.training else voxels
        fmri_mask = self._mask(voxels, self.fmri.config.num_patches, config.fmri_mask_ratio, generator)
        image_mask = self._mask(images, self.image.config.num_patches, config.image_mask_ratio, generator)

        rebuilt_image = self.rebuild_image(inputs, images, image_mask, generator)
        rebuilt_fmri = self.rebuild_fmri(inputs, images, fmri_mask, generator)
        terms = {
            "fmri": masked_mse(rebuilt_fmri, patchify_voxels(voxels, self.fmri.config.patch_size), fmri_mask),
            "image": masked_mse(rebuilt_image, patchify_image(images, self.image.config.patch_size), image_mask),
        }
        loss = config.weight_fmri * terms["fmri"] + config.weight_image * terms["image"]
        return FusionOutput(loss, terms, unpatchify_image(rebuilt_image, self.image.config.patch_size))

    def rebuild_image(self, voxels: Tensor, images: Tensor, image_mask: Tensor, generator: torch.Generator) -> Tensor:
        """u^d = D_I(h_u + CA_I(h_u, h_v)), patches (b, num_patches, 3 * patch_size ** 2)."""
        support_mask = self._support_mask(voxels, self.fmri.config.num_patches, generator)
        support = self.fmri.encode(voxels, support_mask)
        return self.image.reconstruct(self.image_cross(self.image.encode(images, image_mask), support), image_mask)

    def rebuild_fmri(self, voxels: Tensor, images: Tensor, fmri_mask: Tensor, generator: torch.Generator) -> Tensor:
        """v^d = D_F(h_v + CA_F(h_v, h_u)), patches (b, num_patches, patch_size)."""
        support_mask = self._support_mask(images, self.image.config.num_patches, generator)
        support = self.image.encode(images, support_mask)
        return self.fmri.reconstruct(self.fmri_cross(self.fmri.encode(voxels, fmri_mask), support), fmri_mask)

    def _support_mask(self, like: Tensor, length: int, generator: torch.Generator) -> Tensor | None:
        ratio = self.config.support_mask_ratio
        return self._mask(like, length, ratio, generator) if ratio > 0 else None

    def _mask(self, like: Tensor, length: int, ratio: float, generator: torch.Generator) -> Tensor:
        return random_mask(len(like), length, ratio, generator, like.device)
