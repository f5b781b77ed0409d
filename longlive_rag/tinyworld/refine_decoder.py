"""Stage 1b: further training of only the VAE's decoder, as it is used for streaming.

A take is decoded with features carried from block to block, and those of a long take differ from those of a short clip.
So each step first decodes scripts from their beginnings without gradients, then learns from the next block. The encoder
does not change, and neither do the latents: a backbone trained on them stays valid.

Four pixel frames come from one latent frame, each by its own path, and small errors that differ between frames flicker.
So wherever the world stands still, the loss also counts every change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor

from backbone.vae import FRAMES_PER_LATENT, decode_chunk, denormalize_latents, fresh_decoder_cache
from longlive_rag.tinyworld.corpus import Corpus, render_scripts
from longlive_rag.tinyworld.train_backbone import CONTEXT
from longlive_rag.tinyworld.train_vae import LATENT_NOISE, psnr, reconstruction_loss, to_model
from longlive_rag.tinyworld.training import Hardware, Schedule, train

SCHEDULE = Schedule(steps=1000, learning_rate=1e-3, warm_up=30, ema=0.98, batch=4)
STEADINESS = 8.0
BODY_WEIGHT = 5.0
"""Places are easy at this stage, but a tint is only nine degrees of a body's hue."""


def refine_decoder(
    vae: AutoencoderKLWan,
    corpus: Corpus,
    folder: Path,
    report: Callable[[str], None],
    steps: int | None = None,
    seed: int = 11,
    hardware: Hardware | None = None,
) -> AutoencoderKLWan:
    """Train `vae`'s decoder against its frozen encoder's latents; resumable. Also saves it under `folder/vae`.

    Args:
        steps: number of steps; by default that of `SCHEDULE`.
    """
    schedule = replace(SCHEDULE, steps=steps or SCHEDULE.steps)
    vae.requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    shown = list(render_scripts(corpus.scripts))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        scripts = rng.integers(len(corpus.scripts), size=schedule.batch)
        first = int(rng.integers(corpus.latents.shape[2] - CONTEXT.frames_per_block + 1))
        out, pixels = decode_block(vae, corpus.latents[scripts], [shown[script] for script in scripts], first)
        change = flicker(out, pixels)
        loss = reconstruction_loss(out, pixels, BODY_WEIGHT) + STEADINESS * change
        return loss, {"psnr": round(psnr(out.detach(), pixels), 2), "flicker": round(change.item(), 5)}

    average = train(vae, loss_of, schedule, folder, report, hardware=hardware)
    assert isinstance(average, AutoencoderKLWan)
    average.save_pretrained(folder / "vae")
    return average


def decode_block(
    vae: AutoencoderKLWan, latents: Tensor, shown: Sequence[NDArray[np.uint8]], first: int
) -> tuple[Tensor, Tensor]:
    """Decode the block from latent frame `first` on, after all before it; also return its true pixels.

    Args:
        vae: the VAE.
        latents: normalised latents of whole scripts [B, C, T, h, w].
        shown: the frames of each script [F, 64, 64, 3].
        first: first latent frame of the block.

    Returns:
        Both [B, 3, F', H, W] in [-1, 1].
    """
    stop = first + CONTEXT.frames_per_block
    latents = denormalize_latents(vae, latents[:, :, :stop].to(vae.device))
    latents = latents + LATENT_NOISE * torch.randn_like(latents)
    cache = fresh_decoder_cache(vae)
    if first:
        with torch.no_grad():
            decode_chunk(vae, latents[:, :, :first], cache)
    out = decode_chunk(vae, latents[:, :, first:], cache)
    end = 1 + FRAMES_PER_LATENT * (stop - 1)
    pixels = np.stack([each[end - out.shape[2] : end] for each in shown])
    return out, to_model(pixels).to(vae.device)


def flicker(out: Tensor, pixels: Tensor) -> Tensor:
    """Return the mean absolute change from frame to frame of [B, 3, F, H, W] where the true picture stands still."""
    still = pixels.diff(dim=2) == 0
    return (out.diff(dim=2).abs() * still).sum() / still.sum().clamp(min=1)
