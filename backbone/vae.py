"""The video VAE, used as a library: only streaming, and faster ways to compute it on CPUs, are added here.

Latents outside this module are *normalised* (zero mean, unit variance per channel, by `latents_mean` and `latents_std`
of the VAE's config). The first latent frame of a take decodes to 1 pixel frame, every later one to 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm, patchify, unpatchify
from torch import Tensor

from backbone.vae_config import widest_map

FRAMES_PER_LATENT = 4
SHORTEST = 1e-12
"""As in `torch.nn.functional.normalize`."""
LARGEST_ACTIVATION_BYTES = 512 * 1024**2
"""Limit for a single tensor, which decides how many frames are computed together."""
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By a tensor's number of dimensions."""


class FoldedCausalConv3d(WanCausalConv3d):
    """`WanCausalConv3d`, computed on CPUs as one 2D convolution with the time taps concatenated along the channels.

    It is the same function of the same weights. CPU libraries have no fast 3D convolution, so this is about ten times
    faster there. Large frames are processed a few at a time. On other devices, the library's own code runs.
    """

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        """[B, C, T, H, W] to [B, O, T', H', W']; `cache_x` holds the last input frames before `x`, if any."""
        if x.device.type != "cpu":
            return super().forward(x, cache_x)
        if cache_x is None and x.shape[2] == 1:
            return self._first_frame(x)
        time_taps, time_stride = self.kernel_size[0], self.stride[0]
        missing = self._padding[4]
        before: list[Tensor] = []
        if cache_x is not None and missing > 0:
            before.append(cache_x.to(x.device))
            missing -= cache_x.shape[2]
        if missing > 0:
            before.insert(0, x.new_zeros(x.shape[0], x.shape[1], missing, *x.shape[3:]))
        x = torch.cat([*before, x], dim=2) if before else x

        frames = (x.shape[2] - time_taps) // time_stride + 1
        x = x.permute(0, 2, 3, 4, 1)  # channels last, so that the taps of one pixel lie side by side in memory
        weight = self._folded_weight()
        at_once = max(1, LARGEST_ACTIVATION_BYTES // (time_taps * x[:, :1].nbytes))
        parts = []
        for first in range(0, frames, at_once):
            last = min(first + at_once, frames) - 1
            taps = [
                x[:, tap + first * time_stride : tap + last * time_stride + 1 : time_stride] for tap in range(time_taps)
            ]
            parts.append(self._convolve(taps[0] if time_taps == 1 else torch.cat(taps, dim=-1), weight))
        x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return x.permute(0, 4, 1, 2, 3)

    def _folded_weight(self) -> Tensor:
        """The weight with its time taps along the channels; cached until the weight changes, except in training."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():  # the compiler can't trace a tensor's address
            return _fold(self.weight)
        weight = self.weight.detach()
        key = (weight.data_ptr(), weight.dtype, weight._version)
        kept = self.__dict__.get("_folded")
        if kept is None or kept[0] != key:  # the weight is kept as well, so that no other tensor can get its address
            kept = self.__dict__["_folded"] = (key, weight, _fold(weight))
        folded: Tensor = kept[2]
        return folded

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve each frame of x [B, T, H, W, C] on its own, to [B, T, H', W', O]."""
        batch, frames, height, width, channels = x.shape
        x = x.reshape(batch * frames, height, width, channels).permute(0, 3, 1, 2)
        x = F.conv2d(x, weight, self.bias, tuple(self.stride[1:]), (self._padding[2], self._padding[0]))
        return x.permute(0, 2, 3, 1).reshape(batch, frames, x.shape[2], x.shape[3], x.shape[1])

    def _first_frame(self, x: Tensor) -> Tensor:
        """The first frame of a clip: everything before it is zero, so only the last time tap counts."""
        frame = F.conv2d(
            x[:, :, 0], self.weight[:, :, -1], self.bias, tuple(self.stride[1:]), (self._padding[2], self._padding[0])
        )
        return frame[:, :, None]


def _fold(weight: Tensor) -> Tensor:
    """[O, C, taps, H, W] to [O, taps * C, H, W]."""
    return weight.permute(0, 2, 1, 3, 4).flatten(1, 2).contiguous(memory_format=torch.channels_last)


class ShortRMSNorm(WanRMS_norm):
    """`WanRMS_norm`, computed mostly in place on CPUs, to bitwise equal results; elsewhere the library's code runs."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, of any shape, along its channels."""
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not isinstance(self.bias, Tensor)
        if torch.is_grad_enabled() or not plain:
            return super().forward(x)
        length = torch.linalg.vector_norm(x, dim=1 if self.channel_first else -1, keepdim=True)
        return x.div(length.clamp_min_(SHORTEST)).mul_(self.scale).mul_(self.gamma)


FASTER: dict[type, type] = {WanCausalConv3d: FoldedCausalConv3d, WanRMS_norm: ShortRMSNorm}


def fold_temporal_convs(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Make `vae` faster on CPUs, in place, by replacing its layers as in `FASTER`; weights keep their names."""
    for module in vae.modules():
        if type(module) in FASTER:
            module.__class__ = FASTER[type(module)]
    return vae


def lay_out_vae(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """On a GPU, convert the convolutions' weights to channels last, in place: tensor cores use that layout."""
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d) and module.weight.device.type == "cuda":
            weight = module.weight
            weight.data = weight.data.contiguous(memory_format=CHANNELS_LAST[weight.ndim])
    return vae


def _channel_stats(vae: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    mean = torch.tensor(vae.config.latents_mean, device=like.device, dtype=like.dtype)
    std = torch.tensor(vae.config.latents_std, device=like.device, dtype=like.dtype)
    return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)


def normalize_latents(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Scale the VAE's own latents [B, C, T, h, w] to zero mean and unit variance per channel."""
    mean, std = _channel_stats(vae, latents)
    return (latents - mean) / std


def denormalize_latents(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Scale normalised latents [B, C, T, h, w] back to those that the VAE decodes."""
    mean, std = _channel_stats(vae, latents)
    return latents * std + mean


def encode_chunks(vae: AutoencoderKLWan, pixels: Tensor, chunk: int = 8) -> Tensor:
    """Encode pixels [B, 3, F, H, W] in [-1, 1], F = 1 + 4n, as posterior moments [B, 2C, 1 + n, h, w].

    This is the library's `encode`, but for `chunk` latent frames at a time and with its own temporal cache.

    Raises:
        ValueError: if F is not 1 + 4n.
    """
    frames = pixels.shape[2]
    if frames % FRAMES_PER_LATENT != 1:
        raise ValueError(f"a VAE clip has 1 + 4n pixel frames, got {frames}; try {frames - (frames - 1) % 4}")
    if vae.config.patch_size is not None:
        pixels = patchify(pixels, vae.config.patch_size)
    cache: list[Any] = [None] * _conv_count(vae.encoder)
    out = [vae.encoder(pixels[:, :, :1], feat_cache=cache, feat_idx=[0])]
    step = chunk * FRAMES_PER_LATENT
    for start in range(1, frames, step):
        out.append(vae.encoder(pixels[:, :, start : start + step], feat_cache=cache, feat_idx=[0]))
    return vae.quant_conv(torch.cat(out, dim=2))


def encode_video(vae: AutoencoderKLWan, pixels: Tensor, chunk: int = 8) -> Tensor:
    """Encode pixels [B, 3, F, H, W] in [-1, 1], F = 1 + 4n, as normalised latents [B, C, 1 + n, h, w] (the mode)."""
    mean, _ = encode_chunks(vae, pixels, chunk).chunk(2, dim=1)
    return normalize_latents(vae, mean)


def fresh_decoder_cache(vae: AutoencoderKLWan) -> list[Any]:
    """An empty temporal feature cache for `decode_chunk`."""
    return [None] * _conv_count(vae.decoder)


def _conv_count(module: torch.nn.Module) -> int:
    return sum(isinstance(child, WanCausalConv3d) for child in module.modules())


class TakeDecoder(Protocol):
    """Decodes a take block by block."""

    @property
    def latents_carried(self) -> int:
        """Number of preceding latent frames that affect a frame's pixels."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode the next latent frames [B, C, T, h, w], normalised, to pixels [B, 3, F, H, W] in [-1, 1]."""
        ...

    def begin_shot(self, latents: Tensor) -> None:
        """Discard the state carried over, because `latents` [B, C, T, h, w], decoded next, begin another shot."""
        ...

    def features(self) -> dict[int, Tensor]:
        """The state carried over, by layer number; each [B, ...]."""
        ...

    def restore(self, features: Mapping[int, Tensor]) -> None:
        """Continue from the `features` of another decoder."""
        ...


class StreamingDecoder:
    """Decodes a take block by block; the result equals decoding the whole take at once.

    The decoder's temporal feature cache is carried from call to call. Each object has its own, so that the decoders of
    several takes can share one VAE, and `vae.encode` and `vae.decode` may be used in between. It holds the last two
    frames at each layer, whatever the length of the take.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = vae
        self.frames_decoded = 0
        """Number of pixel frames decoded so far."""
        self._cache = fresh_decoder_cache(vae)
        self._mean, self._std = _channel_stats(vae, torch.empty(0))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode the next latent frames of the take.

        Args:
            latents: [B, C, T, h, w], normalised, on any device, T >= 1 in latent frames.

        Returns:
            [B, 3, F, H, W] in [-1, 1], in the VAE's dtype; F = 1 + 4 (T - 1) pixel frames in the first call, 4 T later.
        """
        weight = self.vae.post_quant_conv.weight  # the model's own `device` and `dtype` visit all modules
        if self._mean.device != weight.device:  # once, not every block: an upload waits for all queued work
            self._mean, self._std = self._mean.to(weight.device), self._std.to(weight.device)
        z = (latents.to(weight.device, torch.float32) * self._std + self._mean).to(weight.dtype)
        pixels = decode_chunk(self.vae, z, self._cache)
        self.frames_decoded += pixels.shape[2]
        return pixels

    @torch.no_grad()
    def begin_shot(self, latents: Tensor) -> None:
        """Discard the state carried over, so that nothing of the previous shot shows in the next one.

        The shot is decoded as if a still of its first latent frame preceded it, so that each of its latent frames gives
        4 pixel frames, like all but the first of a take.

        Args:
            latents: [B, C, T, h, w], T >= 1, the latents that are decoded next.
        """
        frames, self._cache = self.frames_decoded, fresh_decoder_cache(self.vae)
        self.decode(latents[:, :, :1])
        self.frames_decoded = frames

    def features(self) -> dict[int, Tensor]:
        """The state carried over, by number of the causal convolution; empty before the second latent frame.

        Until then, the library's cache holds marks instead of tensors, which mean that only one frame has passed.
        """
        if any(isinstance(entry, str) for entry in self._cache):
            return {}
        return {number: entry for number, entry in enumerate(self._cache) if entry is not None}

    def restore(self, features: Mapping[int, Tensor]) -> None:
        """Continue from the `features` of another decoder."""
        device, dtype = self.vae.device, self.vae.dtype
        self._cache = fresh_decoder_cache(self.vae)
        for number, feature in features.items():
            self._cache[number] = feature.to(device, dtype)

    @property
    def latents_carried(self) -> int:
        """Number of preceding latent frames that affect a frame's pixels."""
        return latents_carried(self.vae)


def latents_carried(vae: AutoencoderKLWan) -> int:
    """Number of preceding latent frames that affect a frame's pixels; a decoder starting that much earlier is exact.

    A causal convolution looks its kernel's length minus one frames back. After each upsampling in time, a frame is half
    as long.
    """
    decoder = vae.decoder
    rate, latent_frames = 1, 0.0
    for part in (decoder.conv_in, decoder.mid_block):
        latent_frames += _past_frames(part)
    for block in decoder.up_blocks:
        latent_frames += _past_frames(block) / rate  # its own time convolution comes before the rate doubles
        if any(getattr(module, "mode", None) == "upsample3d" for module in block.modules()):
            rate *= 2
    latent_frames += _past_frames(decoder.conv_out) / rate
    return math.ceil(latent_frames) + 1  # one more for the latent frame that the earliest upsampled frame is part of


def _past_frames(module: torch.nn.Module) -> int:
    return sum(conv.kernel_size[0] - 1 for conv in module.modules() if isinstance(conv, WanCausalConv3d))


def _latents_at_once(vae: AutoencoderKLWan, x: Tensor) -> int:
    """How many latent frames of x [B, C, T, h, w] to decode together.

    Small ones are faster together. For large ones, the last layers' tensors would take gigabytes: one frame needs
    0.6 GB per tensor with Wan2.1 at 832x480, and 1.8 GB with Wan2.2 at 1280x704.
    """
    batch, _, _, height, width = x.shape
    scale = 2 ** (len(vae.config.dim_mult) - 1)
    channels, _ = widest_map(vae.config, "the VAE")
    of_one = batch * channels * FRAMES_PER_LATENT * height * scale * width * scale * x.element_size()
    return max(1, LARGEST_ACTIVATION_BYTES // of_one)


def decode_chunk(vae: AutoencoderKLWan, z: Tensor, cache: list[Any]) -> Tensor:
    """Decode denormalised latents [B, C, T, h, w] to pixels in [-1, 1], which reads and updates `cache`."""
    x = vae.post_quant_conv(z)
    uncompiled = vae.decoder.forward if shapes_compiled_for(vae) else vae.decoder
    out: list[Tensor] = []
    if all(entry is None for entry in cache):  # a take's first latent frame is decoded alone, to 1 pixel frame
        out.append(uncompiled(x[:, :, :1], feat_cache=cache, feat_idx=[0], first_chunk=True))
        x = x[:, :, 1:]
    if x.shape[2]:
        parts = x.split(_latents_at_once(vae, x), dim=2)
        if _is_compiled_for(vae, z, cache):
            out += [_decode_compiled(vae, part, cache) for part in parts]
        else:
            out += [uncompiled(part, feat_cache=cache, feat_idx=[0]) for part in parts]
    pixels = torch.cat(out, dim=2) if len(out) > 1 else out[0]
    if vae.config.patch_size is not None:
        pixels = unpatchify(pixels, vae.config.patch_size)
    return pixels.clamp(-1.0, 1.0)


def _is_compiled_for(vae: AutoencoderKLWan, z: Tensor, cache: Sequence[Any]) -> bool:
    """Whether the decoder is compiled for these latents; never for a shot's first ones, while the cache has marks."""
    return tuple(z.shape) in shapes_compiled_for(vae) and not any(isinstance(entry, str) for entry in cache)


def shapes_compiled_for(vae: AutoencoderKLWan) -> frozenset[tuple[int, ...]]:
    """Shapes of latents [B, C, T, h, w] for which the decoder is compiled; see `backbone.compiling`."""
    shapes: frozenset[tuple[int, ...]] = getattr(vae.decoder, "compiled_for", frozenset())
    return shapes


def _decode_compiled(vae: AutoencoderKLWan, x: Tensor, cache: list[Any]) -> Tensor:
    """Decode with the compiled decoder, which was compiled for one memory layout, down to the strides."""
    cache[:] = [entry if entry is None else _channels_last(entry) for entry in cache]
    return vae.decoder(_channels_last(x), feat_cache=cache, feat_idx=[0])


def _channels_last(x: Tensor) -> Tensor:
    """x [B, C, T, h, w] as channels last, with its strides even for axes of length 1; copied only if needed."""
    _, channels, frames, height, width = x.shape
    row = channels * width
    strides = (frames * height * row, 1, height * row, row, channels)
    return x.contiguous(memory_format=torch.channels_last_3d).as_strided(x.shape, strides)
