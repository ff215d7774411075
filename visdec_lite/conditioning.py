"""phi: from a scan to what steers the diffusion model.

In: voxels. Out: context tokens for every cross-attention of the UNet, and one vector added to its time
embedding. The fMRI encoder of phases 1 and 2 reads all patches (no mask, no CLS); a mapper turns its P tokens
into the few and narrower ones the UNet listens to; a small head condenses those into the time condition.

Source: Sun et al., NeurIPS 2023, section 3.3; time-step conditioning as in Chen et al. (MinD-Vis), CVPR 2023.
"""

from __future__ import annotations

from numbers import Integral

import torch

# `ModelMixin` must stay a name of this module: when a pipeline is loaded, diffusers looks for it beside
# FMRIConditioner to learn how that is loaded.
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visdec_lite.masked_autoencoder import FMRIEncoder, MaskedAutoencoderConfig


class FMRIConditioner(ModelMixin, ConfigMixin):
    """Encoder, mapper and time head; a diffusers model, so that it is saved and loaded with the pipeline.

    Args:
        encoder_config: fields of the MaskedAutoencoderConfig whose encoder is used.
        context_tokens: tokens handed to the UNet, 2 or more; 77 in the paper, a habit of text models.
        context_dim: their width.
        time_dim: width of the UNet's time embedding.

    Raises:
        ValueError: a number out of range, or an encoder of one patch: half of one token is none.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self, encoder_config: dict, context_tokens: int = 77, context_dim: int = 512, time_dim: int = 768
    ) -> None:
        super().__init__()
        self.encoder = FMRIEncoder(MaskedAutoencoderConfig(**encoder_config))
        patches, dim = self.encoder.config.num_patches, self.encoder.config.embed_dim
        numbers = {
            "context_tokens": (context_tokens, 2), "context_dim": (context_dim, 1), "time_dim": (time_dim, 1),
            "encoder_config: patches": (patches, 2),
        }  # fmt: skip
        for name, (value, least) in numbers.items():
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise ValueError(f"FMRIConditioner.{name} is {value!r}; expected a whole number >= {least}")
        self.token_mapper = nn.Sequential(
            nn.Conv1d(patches, patches // 2, kernel_size=1),
            nn.Conv1d(patches // 2, context_tokens, kernel_size=1),
        )
        self.to_context = nn.Linear(dim, context_dim)
        self.time_mapper = nn.Sequential(
            nn.Conv1d(context_tokens, context_tokens // 2, kernel_size=1),
            nn.Conv1d(context_tokens // 2, 1, kernel_size=1),
        )
        self.to_time = nn.Linear(context_dim, time_dim)
        self.null_context = nn.Parameter(torch.zeros(1, context_tokens, context_dim))

    @torch.no_grad()
    def start_from_labels(self, label_embedding: Tensor, voxels: Tensor) -> None:
        """Begin as a prior that was told nothing: scans then differ as much as its labels do, and mean none of them.

        A UNet that grew up with label tokens hardly hears tokens a fifth as large, which a random start gives, and a
        random time condition disturbs what it knows. Not in the paper; measured in benchmarks/RESULTS.md.

        Args:
            label_embedding: the prior's tokens, shape (num_classes + 1, context_dim), "no label" last.
            voxels: training scans to measure by, z-scored, shape (n, num_voxels), n >= 2.

        Raises:
            ValueError: the scans cannot be told apart (fewer than two, or all alike).
        """
        untold = label_embedding[-1]
        self.to_context.bias.zero_()
        tokens = self.context(voxels)
        spread = tokens.std(dim=0, correction=0).mean()
        if not spread > 0:
            raise ValueError(f"{len(voxels)} scans give tokens of spread {spread:g}; expected two or more unlike scans")
        louder = label_embedding[:-1].std(dim=0, correction=0).mean() / spread
        self.to_context.weight *= louder
        self.to_context.bias += untold - louder * tokens.mean(dim=(0, 1))
        self.null_context.copy_(untold.expand_as(self.null_context))
        self.to_time.weight.zero_()
        self.to_time.bias.zero_()

    def forward(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """Voxels (b, num_voxels) -> context (b, context_tokens, context_dim), time condition (b, time_dim)."""
        context = self.context(voxels)
        return context, self.time_condition(context)

    def context(self, voxels: Tensor) -> Tensor:
        """Encoder and mapper: voxels (b, num_voxels) -> tokens (b, context_tokens, context_dim)."""
        return self.to_context(self.token_mapper(self.encoder.tokens(voxels)))

    def time_condition(self, context: Tensor) -> Tensor:
        """The head: condense the tokens to one, then to the width of the time embedding."""
        return self.to_time(self.time_mapper(context)[:, 0])

    def null(self, batch: int) -> tuple[Tensor, Tensor]:
        """The condition that says "no scan": a learnt context, for classifier-free guidance."""
        context = self.null_context.expand(batch, -1, -1)
        return context, self.time_condition(context)

    def dropped(self, context: Tensor, drop: Tensor) -> tuple[Tensor, Tensor]:
        """Condition in which the rows of bool `drop` (b,) say "no scan"."""
        context = torch.where(drop[:, None, None], self.null_context, context)
        return context, self.time_condition(context)
