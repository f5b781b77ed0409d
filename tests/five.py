"""A pipeline of random weights in the layout of Wan2.2-TI2V-5B, small enough to run in a moment.

48 latent channels, one latent element for 16x16 pixels, a residual VAE on 2x2 patches of pixels, a token for 32x32
pixels, 24 frames a second, blocks of 8 latent frames; everything else is smaller.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan

from backbone.transformer import CausalWanTransformer
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.text import TEXT_DIM, TEXT_LENGTH, new_text_encoder, new_tokenizer
from retrieval.encoder import LatentAutoencoder

CHANNELS = 48
HEIGHT, WIDTH, FPS = 64, 96, 24
FRAMES_PER_BLOCK = 8
CONTEXT = {
    "window_frames": 32,
    "sink_frames": 8,
    "memory_frames": 8,
    "recency_guard_frames": 2,
    "frames_per_block": FRAMES_PER_BLOCK,
    "rope": "relative",
}
TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "num_layers": 2,
    "ffn_dim": 96,
    "freq_dim": 32,
    "text_dim": TEXT_DIM,
}


def residual_vae(seed: int = 0) -> AutoencoderKLWan:
    """A small VAE with the stages of Wan2.2's, its latents' statistics drawn at random."""
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=6,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=16,
        latents_mean=torch.randn(CHANNELS).tolist(),
        latents_std=(torch.rand(CHANNELS) + 0.5).tolist(),
    )
    return vae.eval()


def five_pipeline(seed: int = 0, encoder: bool = True) -> LongLiveRAGPipeline:
    """The whole pipeline, 64x96 pixels; without `encoder`, memory compares pooled latents."""
    vae = residual_vae(seed)
    tokenizer = new_tokenizer()
    return LongLiveRAGPipeline(
        transformer=CausalWanTransformer(**TRANSFORMER, text_length=TEXT_LENGTH).eval(),
        vae=vae,
        text_encoder=new_text_encoder(len(tokenizer)).eval(),
        tokenizer=tokenizer,
        encoder=LatentAutoencoder(CHANNELS, HEIGHT // 16, WIDTH // 16, (16,), 8).eval() if encoder else None,
        context=CONTEXT,
        memory={"encoder": "autoencoder" if encoder else "mean_pool"},
        output={"height": HEIGHT, "width": WIDTH, "fps": FPS},
    )
