"""Backbones of random weights, for measurements without a checkpoint.

They are seeded, so every run does the same work. Their pictures are noise, which takes longer to encode than a film.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from backbone.config import ContextConfig, SamplerConfig
from backbone.tiny_decoder import TinyDecoder
from backbone.transformer import CausalWanTransformer
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.text import new_tokenizer
from retrieval.encoder import LatentAutoencoder, LatentEncoder

Model = TypeVar("Model", bound=nn.Module)
PROMPT = "a red circle walks in a meadow"
SPATIAL_FACTOR = 8


@dataclass(frozen=True)
class Shape:
    """Sizes of a backbone.

    Attributes:
        width, heads, layers, ffn_dim: of the transformer.
        latent_size: (height, width) of a latent frame.
        context: the context a block sees.
        vae_width: channels of the VAE's finest layers; Wan2.1's has 96.
        decoder_widths: of the tiny decoder; taew2_1's by default.
    """

    width: int
    heads: int
    layers: int
    ffn_dim: int
    latent_size: tuple[int, int]
    context: ContextConfig
    vae_width: int = 96
    decoder_widths: tuple[int, ...] = (256, 128, 64, 64)


SHAPES = {
    "bench-small": Shape(384, 3, 6, 2240, (30, 52), ContextConfig(), vae_width=24),
    "wan-1.3b": Shape(1536, 12, 30, 8960, (60, 104), ContextConfig()),
}
"""`wan-1.3b` is Wan2.1-1.3B at 832x480; `bench-small` has a quarter of its widths and a fifth of its layers."""


@dataclass(frozen=True)
class Subject:
    """A transformer and what its rollout needs, without a decoder.

    Attributes:
        name: name of the shape.
        transformer: the backbone, on its device in its dtype.
        encoder: encoder for memory.
        prompt_embeds: [1, text tokens, text_dim].
        latent_shape: (C, h, w).
        context, sampler: the preset.
    """

    name: str
    transformer: CausalWanTransformer
    encoder: LatentEncoder
    prompt_embeds: Tensor
    latent_shape: tuple[int, int, int]
    context: ContextConfig
    sampler: SamplerConfig


def random_subject(shape: str, dtype: torch.dtype, device: torch.device) -> Subject:
    """Make a transformer of random weights in one of `SHAPES`."""
    sizes = SHAPES[shape]
    torch.manual_seed(0)
    with torch.device(device):
        transformer = _transformer(sizes)
        config = transformer.config
        encoder = LatentAutoencoder(config.in_channels, *sizes.latent_size).eval()
        embeds = torch.randn(1, config.text_length, config.text_dim)
    return Subject(
        name=shape,
        transformer=_cast(transformer, dtype),
        encoder=encoder,
        prompt_embeds=embeds,
        latent_shape=(config.in_channels, *sizes.latent_size),
        context=sizes.context,
        sampler=SamplerConfig(),
    )


def random_pipeline(
    shape: str,
    dtype: torch.dtype,
    device: torch.device,
    vae_dtype: torch.dtype = torch.float32,
    memory: Mapping[str, Any] | None = None,
) -> LongLiveRAGPipeline:
    """Make a whole pipeline of random weights in one of `SHAPES`: Wan2.1's architecture, with a one-layer text encoder.

    Args:
        shape: a key of `SHAPES`.
        dtype: of the transformer.
        device: device of all parts.
        vae_dtype: of the VAE and the tiny decoder.
        memory: fields of its `MemoryConfig`.
    """
    sizes = SHAPES[shape]
    tokenizer = new_tokenizer()
    torch.manual_seed(0)
    with torch.device(device):
        transformer = _transformer(sizes)
        pipe = LongLiveRAGPipeline(
            transformer=_cast(transformer, dtype),
            vae=_cast(AutoencoderKLWan(base_dim=sizes.vae_width), vae_dtype),
            text_encoder=_text_encoder(len(tokenizer), transformer.config.text_dim).eval(),
            tokenizer=tokenizer,
            encoder=LatentAutoencoder(transformer.config.in_channels, *sizes.latent_size).eval(),
            context=vars(sizes.context),
            memory=memory,
            output={"height": SPATIAL_FACTOR * sizes.latent_size[0], "width": SPATIAL_FACTOR * sizes.latent_size[1]},
            tiny_decoder=_cast(TinyDecoder(widths=sizes.decoder_widths), vae_dtype),
        )
    pipe.backbone = shape
    return pipe


def _transformer(sizes: Shape) -> CausalWanTransformer:
    return CausalWanTransformer(
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.width // sizes.heads,
        num_layers=sizes.layers,
        ffn_dim=sizes.ffn_dim,
    )


def _text_encoder(vocabulary: int, width: int) -> UMT5EncoderModel:
    """Make one layer of UMT5: prompts are embedded once per take, so its size hardly matters."""
    config = UMT5Config(vocab_size=vocabulary, d_model=width, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    return UMT5EncoderModel(config)


def _cast(model: Model, dtype: torch.dtype) -> Model:
    """Cast all weights to one dtype; diffusers' own `to` warns about parts that it prefers to keep."""
    nn.Module.to(model, dtype)
    return model.eval()
