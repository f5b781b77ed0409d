"""Roughly how much memory and time a backbone takes, from its sizes alone; good to a factor of about 1.5."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backbone.config import ContextConfig, SamplerConfig
from backbone.files import CONFIG, read_headers, read_json, weight_files
from longlive_rag.catalogue import KnownBackbone
from longlive_rag.config import OutputConfig
from longlive_rag.presets import Preset

# Wan2.1-T2V-1.3B, where no folder is at hand.
WAN_1_3B: dict[str, Any] = {
    "num_attention_heads": 12, "attention_head_dim": 128, "num_layers": 30, "ffn_dim": 8960, "text_dim": 4096,
    "text_length": 512, "freq_dim": 256, "in_channels": 16, "out_channels": 16, "patch_size": (1, 2, 2),
}  # fmt: skip
WAN_TEXT_PARAMETERS = 5_680_910_336
WAN_VAE_PARAMETERS = 126_892_531
# Channels of Wan's decoder at full resolution, and how many such tensors are alive at once (on a CPU 12 to 15).
WAN_VAE_CHANNELS = 96
VAE_LIVE_TENSORS = 12
# Time beside the matrix products: normalisation, positions, softmax, launching; and what shapes cost.
TIME_OVER_PRODUCTS = 1.6


@dataclass(frozen=True)
class Estimate:
    """What a backbone needs while it generates.

    Attributes:
        bytes_by_part: on the device, beside each other.
        text_encoder_bytes: on the device while a prompt is encoded; can be freed or left to another machine.
        page_bytes: keys and values of one latent frame in all layers.
        flops_per_block: of the transformer.
        pixel_frames_per_block: after the first block.
    """

    bytes_by_part: dict[str, int]
    text_encoder_bytes: int
    page_bytes: int
    flops_per_block: float
    pixel_frames_per_block: int

    @property
    def device_bytes(self) -> int:
        """All parts together, without the text encoder."""
        return sum(self.bytes_by_part.values())

    def frames_per_second(self, flops_per_second: float) -> float:
        """Of a machine that multiplies matrices at this rate; transformer only."""
        return self.pixel_frames_per_block * flops_per_second / (self.flops_per_block * TIME_OVER_PRODUCTS)


def estimate(
    transformer: Mapping[str, Any],
    context: ContextConfig,
    sampler: SamplerConfig,
    output: OutputConfig,
    *,
    dtype_bytes: int = 2,
    spatial_factor: int = 8,
    temporal_factor: int = 4,
    vae_parameters: int = WAN_VAE_PARAMETERS,
    text_bytes: int = 2 * WAN_TEXT_PARAMETERS,
    vae_channels: int = WAN_VAE_CHANNELS,
) -> Estimate:
    """Estimate from a transformer's config and a preset.

    Args:
        transformer: fields of its config.
        context, sampler, output: of the request.
        dtype_bytes: of the transformer's weights and cache.
        spatial_factor, temporal_factor: pixels of a latent one.
        vae_parameters: run in float32.
        text_bytes: of the text encoder as it is loaded.
        vae_channels: of its decoder at full resolution.
    """
    layers, ffn = transformer["num_layers"], transformer["ffn_dim"]
    width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    patch = math.prod(transformer["patch_size"])
    tokens_per_frame = (output.height // spatial_factor) * (output.width // spatial_factor) // patch
    tokens = context.frames_per_block * tokens_per_frame
    page = 2 * layers * tokens_per_frame * width * dtype_bytes
    parts = {
        "transformer": parameters(transformer) * dtype_bytes,
        "cache and context": 2 * context.window_frames * page,
        "activations": tokens * (2 * ffn + 24 * width) * max(dtype_bytes, 2),
        "VAE": 4 * vae_parameters,
        "decoding": VAE_LIVE_TENSORS * 4 * vae_channels * temporal_factor * output.height * output.width,
    }
    linear = 2.0 * tokens * width * (6 * width + 2 * ffn)
    attended = 4.0 * tokens * width * (context.window_frames * tokens_per_frame + transformer["text_length"])
    passes = len(sampler.denoising_steps) + 1
    return Estimate(
        parts, text_bytes, page, passes * layers * (linear + attended), temporal_factor * context.frames_per_block
    )


def estimate_of_folder(preset: Preset, dtype: str) -> Estimate:
    """What a pipeline folder needs, by its configs and the sizes of its files."""
    transformer = {**WAN_1_3B, **read_json(preset.folder / "transformer" / CONFIG)}
    vae = read_json(preset.folder / "vae" / CONFIG)
    vae_tensors = read_headers(weight_files(preset.folder / "vae"))
    text = sum(path.stat().st_size for path in weight_files(preset.folder / "text_encoder"))
    return estimate(
        transformer,
        preset.context,
        preset.sampler,
        preset.output,
        dtype_bytes=4 if dtype == "float32" else 2,
        spatial_factor=int(vae.get("scale_factor_spatial", 8)),
        temporal_factor=preset.temporal_factor,
        vae_parameters=sum(math.prod(entry.shape) for entry in vae_tensors.values()),
        text_bytes=text,
        vae_channels=int(vae.get("base_dim", 96)),
    )


def estimate_of_known(known: KnownBackbone, dtype: str) -> Estimate:
    """What a known backbone of Wan2.1-1.3B's size needs, without any file of it."""
    return estimate(
        WAN_1_3B,
        known.context or ContextConfig(),
        known.sampler or SamplerConfig(),
        known.output or OutputConfig(),
        dtype_bytes=4 if dtype == "float32" else 2,
    )


def parameters(transformer: Mapping[str, Any]) -> int:
    """Parameters of a transformer with this config."""
    width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    ffn, text, freq = transformer["ffn_dim"], transformer["text_dim"], transformer["freq_dim"]
    patch = math.prod(transformer["patch_size"])
    attention = 4 * (width * width + width) + 2 * width
    block = 2 * attention + 2 * width * ffn + ffn + width + 2 * width + 6 * width
    embedders = (freq + 2) * width + width * width + (text + 2) * width + width * width
    outside = transformer["in_channels"] * patch * width + width + 6 * width * (width + 1)
    head = (width + 1) * transformer["out_channels"] * patch + 2 * width
    return transformer["num_layers"] * block + embedders + outside + head
