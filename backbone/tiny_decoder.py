"""A small decoder for the latents of Wan2.1, in the layout of taew2_1: far cheaper than the VAE's, and less sharp.

Every layer is a 2D convolution over single frames. Time comes in twice: a `PastBlock` sees its own input at the frame
before, and a `Grow` makes one frame several. Latents are passed through one at a time, so a streamed decode is the
decode of the whole take bit for bit, whatever the blocks, and the memory it takes does not grow with the take.
"""

from __future__ import annotations

import inspect
import math
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
"""Published files hold an encoder, too; nothing here reads it."""
BLOCKS_PER_STAGE = 3
UPSCALE = 2
PIXEL_CHANNELS = 3
LATENTS = ("z_dim", "scale_factor_spatial", "scale_factor_temporal", "latents_mean", "latents_std")
"""Of a VAE's config: what its latents are, and how they are normalised."""


class Squash(nn.Module):
    """Latents kept within -3 to 3, smoothly."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        return 3 * torch.tanh(x / 3)


class PastBlock(nn.Module):
    """Three convolutions over each frame and the one before it, added to the frame.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, x: Tensor, before: Tensor | None) -> Tensor:
        """Frames [B, T, C, h, w], and the block's input [B, C, h, w] before them (None: zeros) -> [B, T, C, h, w]."""
        first = torch.zeros_like(x[:, :1]) if before is None else before[:, None]
        past = torch.cat([first, x[:, :-1]], dim=1)
        both = torch.cat([x, past], dim=2)
        return torch.relu(self.conv(both.flatten(0, 1)).unflatten(0, x.shape[:2]) + x)


class Grow(nn.Module):
    """Makes every frame several, in time order.

    Args:
        width: channels.
        frames: made of one.
    """

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(width, width * frames, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N * frames, C, h, w]."""
        return self.conv(x).unflatten(1, (self.frames, -1)).flatten(0, 1)


class TinyDecoder(ModelMixin, ConfigMixin):
    """Normalised latents to pixels, one latent frame a call; see `StreamingTinyDecoder` for takes.

    Args:
        latent_channels: C of the latents.
        widths: channels of each stage, and of the last layers.
        frames: how many frames each stage makes of one.
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
            past: the last input [B, C, h, w] of each `PastBlock` by its layer's number; empty where a take begins.

        Returns:
            Pixels [B, frames, 3, H, W] in 0..1 and what is `past` for the next latent frame.
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
    """Decodes a take block by block, as `backbone.vae.StreamingDecoder` does; the same bits as all of it at once.

    Args:
        decoder: may serve several of these.
    """

    def __init__(self, decoder: TinyDecoder) -> None:
        self.decoder = decoder
        self.frames_decoded = 0
        """Pixel frames that this object has made."""
        self._past: dict[int, Tensor] = {}

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The next latent frames of the take.

        Args:
            latents: [B, C, T, h, w], normalised, on any device, T >= 1 in latent frames.

        Returns:
            [B, 3, F, H, W] in [-1, 1], in the decoder's dtype; F = 1 + 4 (T - 1) pixel frames in the first call, 4 T
            later: of a take's first latent frame only the last one is shown.
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
        """Forget what is carried; see `backbone.vae.StreamingDecoder.begin_shot`."""
        frames, self._past = self.frames_decoded, {}
        self.decode(latents[:, :, :1])
        self.frames_decoded = frames

    def features(self) -> dict[int, Tensor]:
        """What is carried, by number of the layer."""
        return dict(self._past)

    def restore(self, features: Mapping[int, Tensor]) -> None:
        """Go on from what `features` of another decoder were."""
        device, dtype = self.decoder.device, self.decoder.dtype
        self._past = {number: feature.to(device, dtype) for number, feature in features.items()}

    @property
    def latents_carried(self) -> int:
        """How many latent frames before one can still change its pixels: each `PastBlock` sees one of its frames."""
        rate, latent_frames = 1, 0.0
        for layer in self.decoder.decoder:
            if isinstance(layer, PastBlock):
                latent_frames += 1 / rate
            elif isinstance(layer, Grow):
                rate *= layer.frames
        return math.ceil(latent_frames)


def sizes_of(shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, Any]:
    """The arguments of the `TinyDecoder` that tensors of these names and shapes fill.

    Args:
        shapes: by name, such as `decoder.1.weight`.
        source: what to call it.

    Raises:
        ValueError: if the tensors that tell the sizes are not there; all others are for `load_weights` to check.
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
        raise ValueError(f"{source} is not a tiny decoder in the layout of taew2_1: {', '.join(names)} must be there")
    return {
        "latent_channels": convs[0][1],
        "widths": tuple(shape[0] for shape in convs[:-1]),
        "frames": tuple(max(1, shape[0] // shape[1]) for shape in grows),
    }


def misfit(tiny: Mapping[str, Any], vae: Mapping[str, Any]) -> str:
    """Why a tiny decoder can't show a VAE's latents; empty if it can.

    Args:
        tiny: its config; what is left out is the published one's.
        vae: the VAE's config; what is left out is Wan2.1's, as in the library.
    """
    wan = _defaults(AutoencoderKLWan)
    own, theirs = {**_defaults(TinyDecoder), **tiny}, {name: vae.get(name, wan[name]) for name in LATENTS}
    frames = math.prod(own["frames"])
    for what, made, wanted in (
        ("reads latents of {} channels", own["latent_channels"], theirs["z_dim"]),
        ("makes {} pixel frames of a latent one", frames, theirs["scale_factor_temporal"]),
        ("scales latents up by {}", UPSCALE ** len(own["frames"]), theirs["scale_factor_spatial"]),
    ):
        if made != wanted:
            return f"the tiny decoder {what.format(made)} where this backbone's VAE has {wanted}"
    if any(list(theirs[name]) != list(wan[name]) for name in ("latents_mean", "latents_std")):
        return "the tiny decoder is for the latents of Wan2.1, and this backbone's VAE makes others"
    return ""


def check_decoder(backbone: str, tiny: Mapping[str, Any] | None, vae: Mapping[str, Any]) -> None:
    """Refuse a backbone whose takes a tiny decoder can't decode.

    Args:
        backbone: its name.
        tiny: config of its tiny decoder; None if it has none.
        vae: config of its VAE.

    Raises:
        FieldError: of the field `decoder`.
    """
    reason = misfit(tiny or {}, vae)
    if reason:
        raise FieldError("decoder", "tiny", "use full", f"'tiny', but {reason}")
    if tiny is None:
        how = f"longlive-rag models convert {backbone} NEW_FOLDER --tiny-decoder FILE"
        raise FieldError("decoder", "tiny", f"use full, or add one: {how}", f"'tiny', but {backbone} has none")


def _defaults(kind: type) -> dict[str, Any]:
    """The arguments of a model that have a default."""
    parameters = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _conv(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
