"""Stage 1b: more training for the VAE's decoder alone, as streaming uses it.

A take is decoded with features carried from block to block, and the carried features of a long take are unlike those
of a short clip. So each step first decodes a script from its beginning without gradients, then learns from the next
block. The encoder does not change, so neither do the latents: a backbone that was trained on them stays valid.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from backbone.vae import FRAMES_PER_LATENT, decode_chunk, denormalize_latents, fresh_decoder_cache
from longlive_rag.tinyworld.corpus import Corpus
from longlive_rag.tinyworld.train_backbone import CONTEXT
from longlive_rag.tinyworld.train_vae import LATENT_NOISE, psnr, reconstruction_loss, to_model
from longlive_rag.tinyworld.training import Hardware, Schedule, train
from longlive_rag.tinyworld.world import render

SCHEDULE = Schedule(steps=1000, learning_rate=1e-3, warm_up=30, ema=0.98)


def refine_decoder(
    vae: AutoencoderKLWan,
    corpus: Corpus,
    folder: Path,
    report: Callable[[str], None],
    schedule: Schedule = SCHEDULE,
    seed: int = 11,
    hardware: Hardware | None = None,
) -> AutoencoderKLWan:
    """Train `vae`'s decoder against its frozen encoder's latents; resumable. Also saves it under `folder/vae`."""
    vae.requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        script = int(rng.integers(len(corpus.scripts)))
        first = int(rng.integers(corpus.latents.shape[2] - CONTEXT.frames_per_block + 1))
        out, pixels = decode_block(vae, corpus, script, first)
        return reconstruction_loss(out, pixels), {"psnr": round(psnr(out.detach(), pixels), 2)}

    average = train(vae, loss_of, schedule, folder, report, hardware=hardware)
    assert isinstance(average, AutoencoderKLWan)
    average.save_pretrained(folder / "vae")
    return average


def decode_block(vae: AutoencoderKLWan, corpus: Corpus, script: int, first: int) -> tuple[Tensor, Tensor]:
    """The block from latent frame `first` of a script, decoded after all before it, and its true pixels.

    Returns:
        Both [1, 3, F, H, W] in [-1, 1].
    """
    stop = first + CONTEXT.frames_per_block
    latents = denormalize_latents(vae, corpus.latents[script][None, :, :stop].to(vae.device))
    latents = latents + LATENT_NOISE * torch.randn_like(latents)
    cache = fresh_decoder_cache(vae)
    if first:
        with torch.no_grad():
            decode_chunk(vae, latents[:, :, :first], cache)
    out = decode_chunk(vae, latents[:, :, first:], cache)
    end = 1 + FRAMES_PER_LATENT * (stop - 1)
    pixels = render(corpus.scripts[script], end - out.shape[2], end)
    return out, to_model(pixels[None]).to(vae.device)
