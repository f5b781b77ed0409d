"""Roughly how much memory and time a backbone takes, from its sizes alone; good to a factor of about 1.5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backbone.config import ContextConfig, SamplerConfig
from longlive_rag.config import OutputConfig
from longlive_rag.presets.catalogue import KnownBackbone
from longlive_rag.presets.geometry import BYTES, FLOAT32_BYTES, WAN_1_3B, Geometry, geometry_of, read_geometry
from longlive_rag.presets.plan import (
    TEXT_ENCODER,
    WAN_VAE_CHANNELS,
    activation_bytes,
    cache_bytes,
    decode_bytes,
    vae_channels,
    weight_bytes,
)
from longlive_rag.presets.preset import Preset

# Of Wan2.1-T2V-1.3B, where no folder is at hand.
WAN_PARAMETERS = {"transformer": 1_418_996_800, "vae": 126_892_531, TEXT_ENCODER: 5_680_910_336}
WAN_TEMPORAL_FACTOR = 4
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


def estimate_of_folder(preset: Preset, dtype: str, device: str) -> Estimate:
    """What a pipeline folder needs, by its configs.

    Args:
        preset: of the folder.
        dtype: of the transformer.
        device: `cpu` or `cuda`.
    """
    return _estimate(
        read_geometry(preset, preset.output, preset.memory.encoder),
        preset.context,
        preset.sampler,
        weight_bytes(preset, dtype),
        dtype,
        decode_bytes(vae_channels(preset), preset.temporal_factor, preset.output, device),
        preset.temporal_factor,
    )


def estimate_of_known(known: KnownBackbone, dtype: str, device: str) -> Estimate:
    """What a known backbone of Wan2.1-1.3B's size needs, without any file of it."""
    output = known.output or OutputConfig()
    bytes_each = {"transformer": BYTES[dtype], "vae": FLOAT32_BYTES, TEXT_ENCODER: BYTES["bfloat16"]}
    return _estimate(
        geometry_of(WAN_1_3B, output, embedding_dim=WAN_1_3B["in_channels"]),
        known.context or ContextConfig(),
        known.sampler or SamplerConfig(),
        {part: count * bytes_each[part] for part, count in WAN_PARAMETERS.items()},
        dtype,
        decode_bytes(WAN_VAE_CHANNELS, WAN_TEMPORAL_FACTOR, output, device),
        WAN_TEMPORAL_FACTOR,
    )


def _estimate(
    geometry: Geometry,
    context: ContextConfig,
    sampler: SamplerConfig,
    weights: Mapping[str, int],
    dtype: str,
    decoding: int,
    temporal_factor: int,
) -> Estimate:
    page = geometry.page_bytes(dtype)
    parts = {
        **{part: count for part, count in weights.items() if part != TEXT_ENCODER},
        "cache and context": cache_bytes(context, page),
        "activations": activation_bytes(geometry, context, dtype),
        "decoding": decoding,
    }
    width, tokens = geometry.width, context.frames_per_block * geometry.tokens_per_frame
    linear = 2.0 * tokens * width * (6 * width + 2 * geometry.ffn_dim)
    attended = 4.0 * tokens * width * (context.window_frames * geometry.tokens_per_frame + geometry.text_length)
    passes = len(sampler.denoising_steps) + 1
    return Estimate(
        bytes_by_part=parts,
        text_encoder_bytes=weights[TEXT_ENCODER],
        page_bytes=page,
        flops_per_block=passes * geometry.layers * (linear + attended),
        pixel_frames_per_block=temporal_factor * context.frames_per_block,
    )
