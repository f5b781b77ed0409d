"""Encoders that embed each latent frame as one vector, by which memory is searched."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol, cast

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class LatentEncoder(Protocol):
    """The encoder interface that memory needs."""

    def encode(self, latents: Tensor) -> Tensor:
        """Embed latent frames [..., C, h, w] as [..., D], one vector per frame, float32."""
        ...


class MeanPoolEncoder:
    """Spatial mean of each channel; a fallback that needs no training. D = C, not of unit length."""

    def encode(self, latents: Tensor) -> Tensor:
        """Embed latent frames [..., C, h, w] as [..., C], float32."""
        return latents.float().mean(dim=(-2, -1))


class LatentAutoencoder(ModelMixin, ConfigMixin):
    """Convolutional autoencoder of single latent frames; `encode` gives unit vectors, `forward` reconstructs.

    Args:
        in_channels: C of the latents.
        latent_height, latent_width: size of a latent frame; the decoder crops to it.
        hidden_dims: width after each stride-2 stage.
        embedding_dim: D.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        latent_height: int = 60,
        latent_width: int = 104,
        hidden_dims: Sequence[int] = (64, 128, 256),
        embedding_dim: int = 1024,
    ) -> None:
        super().__init__()
        self.encoder = _Encoder(in_channels, tuple(hidden_dims), embedding_dim)
        self.decoder = _Decoder(in_channels, (latent_height, latent_width), tuple(hidden_dims), embedding_dim)

    def encode(self, latents: Tensor) -> Tensor:
        """Embed latent frames [..., C, h, w] as unit vectors [..., D], float32."""
        frames = latents.flatten(0, -4).to(self.dtype)
        return F.normalize(self.encoder(frames).float(), dim=-1).unflatten(0, latents.shape[:-3])

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Map latent frames [N, C, h, w] to (reconstruction [N, C, h, w], unit embeddings [N, D])."""
        embeddings = F.normalize(self.encoder(latents), dim=-1)
        return self.decoder(embeddings), embeddings


class _Encoder(nn.Module):
    def __init__(self, channels: int, hidden_dims: tuple[int, ...], embedding_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for narrow, wide in zip((channels, *hidden_dims), hidden_dims, strict=False):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), _group_norm(wide), nn.SiLU(), _Residual(wide)]
        self.conv_stack = nn.Sequential(*layers)
        self.final_norm = nn.Sequential(_group_norm(hidden_dims[-1]), nn.SiLU())
        self.fc = nn.Linear(hidden_dims[-1], embedding_dim)

    def forward(self, frames: Tensor) -> Tensor:
        return self.fc(self.final_norm(self.conv_stack(frames)).mean(dim=(-2, -1)))


class _Decoder(nn.Module):
    """Decodes an embedding back to a latent frame; used in training only."""

    def __init__(
        self, channels: int, latent_size: tuple[int, int], hidden_dims: tuple[int, ...], embedding_dim: int
    ) -> None:
        super().__init__()
        self.latent_size = latent_size
        factor = 2 ** len(hidden_dims)
        self.bottleneck = (hidden_dims[-1], -(-latent_size[0] // factor), -(-latent_size[1] // factor))
        widths = tuple(reversed(hidden_dims))
        self.fc = nn.Sequential(nn.Linear(embedding_dim, self.bottleneck[0] * self.bottleneck[1] * self.bottleneck[2]))
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise(widths):
            layers += [
                _upsample(),
                nn.Conv2d(wide, narrow, 3, padding=1),
                _group_norm(narrow),
                nn.SiLU(),
                _Residual(narrow),
            ]
        self.upsample_stack = nn.Sequential(*layers)
        self.final = nn.Sequential(_upsample(), nn.Conv2d(widths[-1], channels, 3, padding=1))

    def forward(self, embeddings: Tensor) -> Tensor:
        x = F.silu(self.fc(embeddings)).unflatten(1, self.bottleneck)
        height, width = self.latent_size
        return self.final(self.upsample_stack(x))[..., :height, :width]


class _Residual(nn.Module):
    """x + block(x); the last convolution starts at zero, so that the block starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.constant_(cast(Tensor, last.bias), 0.0)
        first = nn.Conv2d(width, width, 3, padding=1)
        self.block = nn.Sequential(_group_norm(width), nn.SiLU(), first, _group_norm(width), nn.SiLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


def _upsample() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="nearest")


def _group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(next(groups for groups in (32, 16, 8, 4, 1) if width % groups == 0), width)
