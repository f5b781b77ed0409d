"""Stage 1: a small `AutoencoderKLWan` on rendered clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor

from backbone.vae import decode_chunk, encode_chunks, fold_temporal_convs, fresh_decoder_cache
from longlive_rag.tinyworld.scripts import sample_script
from longlive_rag.tinyworld.training import Schedule, train
from longlive_rag.tinyworld.world import render

# Pixels enter as 2x2 patches, so two spatial halvings make the usual 8x8x4 compression at half the cost.
CONFIG = {
    "base_dim": 16,
    "z_dim": 16,
    "dim_mult": [1, 2, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
}
SCHEDULE = Schedule(steps=2600, learning_rate=3e-3, warm_up=60, final_fraction=0.02, ema=0.99)
CLIPS, CLIP_FRAMES = 1500, 33
# The latent is a mean with a small fixed noise: a learnt variance starts so large that colours are lost for long.
LATENT_NOISE, LATENT_LOG_VARIANCE = 0.1, -6.0
MEAN_WEIGHT, LOG_VARIANCE_WEIGHT = 1e-3, 1e-4
SQUARE_WEIGHT = 4.0
BODY_CHROMA = 0.7  # of pixels in [-1, 1]; places stay below
# (from this share of the steps on, pixel frames of a clip, clips of a batch)
STAGES = ((0.0, 17, 2), (0.6, 33, 1))


def new_vae(seed: int = 0) -> AutoencoderKLWan:
    """An untrained VAE of tiny-world's size, its convolutions folded."""
    torch.manual_seed(seed)
    return fold_temporal_convs(AutoencoderKLWan(**CONFIG))


def clips(count: int, frames: int, seed: int) -> NDArray[np.uint8]:
    """Random clips [count, frames, 64, 64, 3] uint8, each from the middle of a script of its own."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        start = int(rng.integers(0, 160))
        made.append(render(sample_script(rng, start + frames), start))
    return np.stack(made)


def to_model(pixels: NDArray[np.uint8]) -> Tensor:
    """[B, F, H, W, 3] uint8 to [B, 3, F, H, W] in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def train_vae(
    folder: Path, report: Callable[[str], None], schedule: Schedule = SCHEDULE, seed: int = 0
) -> AutoencoderKLWan:
    """Train, measure the latents' channel statistics, save under `folder/vae`; resumable."""
    vae = new_vae(seed)
    data = clips(CLIPS, CLIP_FRAMES, seed + 1)
    report(f"rendered {len(data)} clips")

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        _, frames, batch = [stage for stage in STAGES if stage[0] <= step / schedule.steps][-1]
        picked, start = rng.integers(0, len(data), batch), int(rng.integers(0, CLIP_FRAMES - frames + 1))
        return _loss(vae, to_model(data[picked, start : start + frames]))

    average = train(vae, loss_of, schedule, folder, report)
    assert isinstance(average, AutoencoderKLWan)
    _register_statistics(average, data[:60])
    average.save_pretrained(folder / "vae")
    return average


def reconstruct(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    """[B, 3, F, H, W] through the latent's mode and back."""
    mean, _ = encode_chunks(vae, pixels).chunk(2, dim=1)
    return decode_chunk(vae, mean, fresh_decoder_cache(vae))


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [-1, 1]."""
    return float(-10 * torch.log10(((a - b) / 2).square().mean()))


def reconstruction_loss(out: Tensor, pixels: Tensor) -> Tensor:
    """Absolute and squared error of pixels [B, 3, F, H, W] in [-1, 1]; characters, being saturated, weigh thrice."""
    weight = 1 + 2 * ((pixels.amax(1, keepdim=True) - pixels.amin(1, keepdim=True)) > BODY_CHROMA).float()
    error = out - pixels
    return (weight * (error.abs() + SQUARE_WEIGHT * error.square())).mean()


def _loss(vae: AutoencoderKLWan, pixels: Tensor) -> tuple[Tensor, dict[str, float]]:
    mean, log_variance = encode_chunks(vae, pixels).chunk(2, dim=1)
    latents = mean + LATENT_NOISE * torch.randn_like(mean)
    out = decode_chunk(vae, latents, fresh_decoder_cache(vae))
    spread = (log_variance - LATENT_LOG_VARIANCE).square().mean()
    prior = MEAN_WEIGHT * mean.square().mean() + LOG_VARIANCE_WEIGHT * spread
    return reconstruction_loss(out, pixels) + prior, {"psnr": round(psnr(out.detach(), pixels), 2)}


@torch.no_grad()
def _register_statistics(vae: AutoencoderKLWan, data: NDArray[np.uint8]) -> None:
    latents = torch.cat(
        [encode_chunks(vae, to_model(data[i : i + 10])).chunk(2, dim=1)[0] for i in range(0, len(data), 10)]
    )
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
