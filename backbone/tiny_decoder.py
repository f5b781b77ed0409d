"""A small decoder for the latents of Wan2.1, in the layout of taew2_1: far cheaper than the VAE's, but less sharp.

Every layer is a 2D convolution over single frames. Time enters in two ways: a `PastBlock` also sees its input at the
previous frame, and a `Grow` expands one frame into several. Latents are decoded one at a time, so streaming gives bit
for bit the decode of the whole take, whatever the block size, and memory use does not grow with the take.
"""

from __future__ import annotations

import inspect
import math
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from backbone.errors import FieldError

ENCODER_PREFIX = "encoder."
"""Prefix of the encoder in published files, which is not read here."""
BLOCKS_PER_STAGE = 3
UPSCALE = 2
PIXEL_CHANNELS = 3
LATENTS = ("z_dim", "scale_factor_spatial", "scale_factor_temporal", "latents_mean", "latents_std")
"""Entries of a VAE's config that describe its latents and how they are normalised."""


class Squash(nn.Module):
    """Limits latents smoothly to -3..3."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return 3 * torch.tanh(x / 3)


class PastBlock(nn.Module):
    """Residual block of three convolutions over each frame and the previous one.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, x: Tensor, before: Tensor | None) -> Tensor:
        """Frames [B, T, C, h, w] to [B, T, C, h, w]; `before` is the previous frame [B, C, h, w] (None: zeros)."""
        first = torch.zeros_like(x[:, :1]) if before is None else before[:, None]
        past = torch.cat([first, x[:, :-1]], dim=1)
        both = torch.cat([x, past], dim=2)
        return torch.relu(self.conv(both.flatten(0, 1)).unflatten(0, x.shape[:2]) + x)


class Grow(nn.Module):
    """Expands every frame into several, in time order.

    Args:
        width: channels.
        frames: frames made from each one.
    """

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(width, width * frames, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N * frames, C, h, w]."""
        return self.conv(x).unflatten(1, (self.frames, -1)).flatten(0, 1)


class TinyDecoder(ModelMixin, ConfigMixin):
    """Decodes normalised latents to pixels, one latent frame per call; see `StreamingTinyDecoder` for takes.

    Args:
        latent_channels: C of the latents.
        widths: channels of each stage, and of the last layers.
        frames: frames that each stage makes from one.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        widths: Sequence[int] = (256, 128, 64, 64),
        frames: Sequence[int] = (1, 2, 2),
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [Squash(), _conv(latent_channels, widths[0]), nn.ReLU()]
        for (width, narrower), made in zip(pairwise(widths), frames, strict=True):
            layers += [PastBlock(width) for _ in range(BLOCKS_PER_STAGE)]
            layers += [nn.Upsample(scale_factor=UPSCALE), Grow(width, made), _conv(width, narrower, bias=False)]
        layers += [nn.ReLU(), _conv(widths[-1], PIXEL_CHANNELS)]
        self.decoder = nn.Sequential(*layers)

    def forward(self, latent: Tensor, past: Mapping[int, Tensor]) -> tuple[Tensor, dict[int, Tensor]]:
        """Decode one latent frame.

        Args:
            latent: [B, C, h, w], normalised.
            past: the last input [B, C, h, w] of each `PastBlock`, by layer number; empty at the start of a take.

        Returns:
            Pixels [B, frames, 3, H, W] in 0..1, and `past` for the next latent frame.
        """
        x, last = latent[:, None], {}
        for number, layer in enumerate(self.decoder):
            if isinstance(layer, PastBlock):
                last[number] = x[:, -1].clone()
                x = layer(x, past.get(number))
            else:
                x = layer(x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))
        return x.clamp(0, 1), last


class StreamingTinyDecoder:
    """Decodes a take block by block, like `backbone.vae.StreamingDecoder`; bitwise equal to decoding it at once.

    Args:
        decoder: the model, which several takes may share.
    """

    def __init__(self, decoder: TinyDecoder) -> None:
        self.decoder = decoder
        self.frames_decoded = 0
        """Number of pixel frames decoded so far."""
        self._past: dict[int, Tensor] = {}

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode the next latent frames of the take.

        Args:
            latents: [B, C, T, h, w], normalised, on any device, T >= 1 in latent frames.

        Returns:
            [B, 3, F, H, W] in [-1, 1], in the decoder's dtype; F = 1 + 4 (T - 1) pixel frames in the first call, 4 T
            later: a take's first latent frame shows only its last pixel frame.
        """
        parts = []
        for latent in latents.to(self.decoder.device, self.decoder.dtype).unbind(2):
            begins = not self._past
            pixels, self._past = self.decoder(latent, self._past)
            parts.append(pixels[:, -1:] if begins else pixels)
        made = torch.cat(parts, dim=1).transpose(1, 2) * 2 - 1
        self.frames_decoded += made.shape[2]
        return made

    def begin_shot(self, latents: Tensor) -> None:
        """Discard the state carried over; see `backbone.vae.StreamingDecoder.begin_shot`."""
        frames, self._past = self.frames_decoded, {}
        self.decode(latents[:, :, :1])
        self.frames_decoded = frames

    def features(self) -> dict[int, Tensor]:
        """The state carried over, by layer number."""
        return dict(self._past)

    def restore(self, features: Mapping[int, Tensor]) -> None:
        """Continue from the `features` of another decoder."""
        device, dtype = self.decoder.device, self.decoder.dtype
        self._past = {number: feature.to(device, dtype) for number, feature in features.items()}

    @property
    def latents_carried(self) -> int:
        """Number of preceding latent frames that affect a frame's pixels; each `PastBlock` looks one frame back."""
        rate, latent_frames = 1, 0.0
        for layer in self.decoder.decoder:
            if isinstance(layer, PastBlock):
                latent_frames += 1 / rate
            elif isinstance(layer, Grow):
                rate *= layer.frames
        return math.ceil(latent_frames)


def sizes_of(shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, Any]:
    """Derive the arguments of a `TinyDecoder` from the shapes of its tensors.

    Args:
        shapes: shapes by name, such as `decoder.1.weight`.
        source: how to refer to the weights in messages.

    Raises:
        ValueError: if tensors that determine the sizes are missing; `load_weights` checks all others.
    """
    with torch.device("meta"):
        layers = TinyDecoder().decoder
    numbers = [number for number, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    growing = [number for number, layer in enumerate(layers) if isinstance(layer, Grow)]
    convs = [shapes.get(f"decoder.{number}.weight", ()) for number in numbers]
    grows = [shapes.get(f"decoder.{number}.conv.weight", ()) for number in growing]
    if any(len(shape) != 4 or 0 in shape for shape in (*convs, *grows)):
        names = [f"decoder.{number}.weight" for number in numbers]
        names += [f"decoder.{number}.conv.weight" for number in growing]
        raise ValueError(f"{source} is not a tiny decoder in the layout of taew2_1: it must have {', '.join(names)}")
    return {
        "latent_channels": convs[0][1],
        "widths": tuple(shape[0] for shape in convs[:-1]),
        "frames": tuple(max(1, shape[0] // shape[1]) for shape in grows),
    }


def misfit(tiny: Mapping[str, Any], vae: Mapping[str, Any]) -> str:
    """Say why a tiny decoder can't decode a VAE's latents; empty if it can.

    Args:
        tiny: its config; missing entries default to the published decoder's.
        vae: the VAE's config; missing entries default to Wan2.1's, as in the library.
    """
    wan = _defaults(AutoencoderKLWan)
    own, theirs = {**_defaults(TinyDecoder), **tiny}, {name: vae.get(name, wan[name]) for name in LATENTS}
    frames = math.prod(own["frames"])
    for what, made, wanted in (
        ("reads latents of {} channels", own["latent_channels"], theirs["z_dim"]),
        ("makes {} pixel frames per latent frame", frames, theirs["scale_factor_temporal"]),
        ("scales latents up by {}", UPSCALE ** len(own["frames"]), theirs["scale_factor_spatial"]),
    ):
        if made != wanted:
            return f"the tiny decoder {what.format(made)}, and this backbone's VAE has {wanted}"
    if any(list(theirs[name]) != list(wan[name]) for name in ("latents_mean", "latents_std")):
        return "the tiny decoder is for the latents of Wan2.1, and this backbone's VAE has other latents"
    return ""


def check_decoder(backbone: str, tiny: Mapping[str, Any] | None, vae: Mapping[str, Any]) -> None:
    """Check that a tiny decoder can decode a backbone's takes.

    Args:
        backbone: name of the backbone.
        tiny: config of its tiny decoder; None if it has none.
        vae: config of its VAE.

    Raises:
        FieldError: if it can't, for the field `decoder`.
    """
    reason = misfit(tiny or {}, vae)
    if reason:
        raise FieldError("decoder", "tiny", "use full", f"'tiny', but {reason}")
    if tiny is None:
        how = f"longlive-rag models convert {shlex.quote(backbone)} NEW_FOLDER --tiny-decoder FILE"
        raise FieldError("decoder", "tiny", f"use full, or add one: {how}", f"'tiny', but {backbone} has none")


def _defaults(kind: type) -> dict[str, Any]:
    """The default arguments of a model."""
    parameters = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _conv(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
