"""Stage 1: train a small `AutoencoderKLWan` on rendered clips.

Trained end to end from scratch it learns slowly: after four minutes it is worse than the best linear code of the same
size. So training starts from that code. The principal components of the pixels of one latent cell (8x8 pixels of 4
frames) are the first *codes*: the decoder learns to draw from them and the encoder to produce them, separately. Then
both learn together, and the codes constrain the encoder lightly, so that latents stay well scaled for the backbone.

Training can also start from a VAE that was trained before, when the world looked slightly different: then both parts
learn together from the first step, and the codes are the earlier encoder's, so that a backbone trained on its latents
can continue, too.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor, nn

from backbone.vae import FRAMES_PER_LATENT, decode_chunk, encode_chunks, fold_temporal_convs, fresh_decoder_cache
from longlive_rag.tinyworld.scripts import sample_script
from longlive_rag.tinyworld.training import Hardware, Schedule, train
from longlive_rag.tinyworld.world import render

# Pixels enter as 2x2 patches, so two spatial halvings give the usual 8x8x4 compression at half the cost.
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
SCHEDULE = Schedule(steps=3400, learning_rate=3e-3, warm_up=60, final_fraction=0.02, ema=0.99)
ADAPTING = Schedule(steps=1500, learning_rate=2e-3, warm_up=30, final_fraction=0.02, ema=0.98)
"""Schedule for a VAE that was trained before."""
CLIPS, CLIP_FRAMES = 1500, 33
SHORT_FRAMES, CODE_CLIPS, CELL_PX = 17, 150, 8
# Until TAUGHT_UNTIL of the steps, encoder and decoder learn separately from the codes; the encoder every few steps.
TAUGHT_UNTIL, ENCODER_EVERY = 0.6, 3
LATENT_NOISE, LATENT_LOG_VARIANCE = 0.08, -6.0
CODE_WEIGHT, LOG_VARIANCE_WEIGHT = 0.02, 1e-4
SQUARE_WEIGHT, BODY_WEIGHT = 4.0, 2.0
BODY_CHROMA, CLOTHES_VALUE = 0.7, -0.2  # of pixels in [-1, 1]; places are below the former and above the latter

Codes = Callable[[Tensor], Tensor]
"""Maps pixels [B, 3, F, H, W] to the latents [B, C, T, h, w] that an encoder should produce."""


def new_vae(seed: int = 0) -> AutoencoderKLWan:
    """Make an untrained VAE of tiny-world's size, with folded convolutions and zeroed residual branches."""
    torch.manual_seed(seed)
    vae = fold_temporal_convs(AutoencoderKLWan(**CONFIG))
    for name, weight in vae.named_parameters():
        if ".conv2." in name or ".proj." in name:
            nn.init.zeros_(weight)
    return vae


def clips(count: int, frames: int, seed: int) -> NDArray[np.uint8]:
    """Render random clips [count, frames, 64, 64, 3] uint8, each from within its own script."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        start = int(rng.integers(0, 160))
        made.append(render(sample_script(rng, start + frames), start))
    return np.stack(made)


def to_model(pixels: NDArray[np.uint8]) -> Tensor:
    """Convert pixels [B, F, H, W, 3] uint8 to [B, 3, F, H, W] in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def to_pixels(drawn: Tensor) -> NDArray[np.uint8]:
    """Return what the decoder drew, [3, F, H, W] in -1..1, as [F, H, W, 3] uint8."""
    return ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).numpy()


class CellCode:
    """The best linear code of latent cells: principal components of their pixels, with more weight on characters.

    Args:
        clips: [N, F, 64, 64, 3] uint8, F = 1 + 4n.
        channels: number of components kept.
    """

    def __init__(self, clips: NDArray[np.uint8], channels: int) -> None:
        cells = torch.cat([self._cells(to_model(clip[None])).flatten(0, -2) for clip in clips])
        chroma = cells.unflatten(-1, (3, -1))
        weight = 1 + BODY_WEIGHT * ((chroma.amax(1) - chroma.amin(1)) > BODY_CHROMA).float().mean(-1)
        self._mean = torch.einsum("n,nd->d", weight, cells) / weight.sum()
        centred = (cells - self._mean) * (weight / weight.mean()).sqrt()[:, None]
        variance, axes = torch.linalg.eigh(centred.T @ centred / len(cells))
        # Strong components get unit variance; weak ones stay weak, so that they don't drown out the noise.
        scale = variance.flip(0)[:channels].sqrt().clamp(min=1.0)
        self._axes = axes.flip(1)[:, :channels] / scale

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map pixels [B, 3, F, H, W] in [-1, 1] to codes [B, channels, 1 + n, H/8, W/8]."""
        mean, axes = self._mean.to(pixels.device), self._axes.to(pixels.device)
        return ((self._cells(pixels) - mean) @ axes).movedim(-1, 1)

    @staticmethod
    def _cells(pixels: Tensor) -> Tensor:
        """Split pixels into cells [B, T, h, w, 3 * 4 * 8 * 8]; the first frame fills its cell alone."""
        filled = torch.cat([pixels[:, :, :1].expand(-1, -1, FRAMES_PER_LATENT - 1, -1, -1), pixels], dim=2)
        cells = filled.unfold(2, FRAMES_PER_LATENT, FRAMES_PER_LATENT).unfold(3, CELL_PX, CELL_PX)
        return cells.unfold(4, CELL_PX, CELL_PX).permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4)


def train_vae(
    folder: Path,
    report: Callable[[str], None],
    steps: int | None = None,
    seed: int = 0,
    hardware: Hardware | None = None,
    earlier: AutoencoderKLWan | None = None,
) -> AutoencoderKLWan:
    """Train, measure the latents' channel statistics, save under `folder/vae`; resumable.

    Args:
        steps: number of steps; by default that of `SCHEDULE`, or of `ADAPTING` with an earlier VAE.
        earlier: VAE to start from instead of the cells' principal components.
    """
    vae = new_vae(seed) if earlier is None else deepcopy(earlier).requires_grad_(True)
    schedule = SCHEDULE if earlier is None else ADAPTING
    schedule = replace(schedule, steps=steps or schedule.steps)
    taught_steps = TAUGHT_UNTIL * schedule.steps if earlier is None else 0
    data = clips(CLIPS, CLIP_FRAMES, seed + 1)
    code: Codes
    if earlier is None:
        code = CellCode(data[:CODE_CLIPS], vae.config.z_dim)
    else:
        code = partial(_latents, earlier.to((hardware or Hardware()).device))
    report(f"rendered {len(data)} clips")

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        taught = step < taught_steps
        frames = SHORT_FRAMES if taught else CLIP_FRAMES
        start = int(rng.integers(0, CLIP_FRAMES - frames + 1))
        pixels = to_model(data[rng.integers(0, len(data), 1), start : start + frames])
        pixels = pixels.to(vae.device)
        if taught:
            return _taught_loss(vae, code, pixels, step % ENCODER_EVERY == 0)
        return _joint_loss(vae, code, pixels)

    average = train(vae, loss_of, schedule, folder, report, hardware=hardware)
    assert isinstance(average, AutoencoderKLWan)
    _register_statistics(average, data[:60])
    average.save_pretrained(folder / "vae")
    return average


def reconstruct(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    """Encode pixels [B, 3, F, H, W] to the latent's mode and decode it."""
    mean, _ = encode_chunks(vae, pixels).chunk(2, dim=1)
    return decode_chunk(vae, mean, fresh_decoder_cache(vae))


@torch.no_grad()
def _latents(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    return encode_chunks(vae, pixels).chunk(2, dim=1)[0]


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of pixels in [-1, 1]."""
    return float(-10 * torch.log10(((a - b) / 2).square().mean()))


def reconstruction_loss(out: Tensor, pixels: Tensor, body_weight: float = BODY_WEIGHT) -> Tensor:
    """Return the absolute plus squared error of pixels [B, 3, F, H, W] in [-1, 1].

    Characters (saturated) and what they wear (dark) weigh 1 + `body_weight` times as much.
    """
    high, low = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    weight = 1 + body_weight * ((high - low > BODY_CHROMA) | (high < CLOTHES_VALUE)).float()
    error = out - pixels
    return (weight * (error.abs() + SQUARE_WEIGHT * error.square())).mean()


def _taught_loss(
    vae: AutoencoderKLWan, code: Codes, pixels: Tensor, encoder_too: bool
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of decoding the codes and, if `encoder_too`, of encoding to them."""
    codes = code(pixels)
    out = decode_chunk(vae, codes + LATENT_NOISE * torch.randn_like(codes), fresh_decoder_cache(vae))
    loss, figures = reconstruction_loss(out, pixels), {"psnr": round(psnr(out.detach(), pixels), 2)}
    if encoder_too:
        mean, log_variance = encode_chunks(vae, pixels).chunk(2, dim=1)
        error = (mean - codes).square().mean()
        loss = loss + error + _spread(log_variance)
        figures["code_error"] = round(error.item(), 4)
    return loss, figures


def _joint_loss(vae: AutoencoderKLWan, code: Codes, pixels: Tensor) -> tuple[Tensor, dict[str, float]]:
    mean, log_variance = encode_chunks(vae, pixels).chunk(2, dim=1)
    out = decode_chunk(vae, mean + LATENT_NOISE * torch.randn_like(mean), fresh_decoder_cache(vae))
    error = (mean - code(pixels)).square().mean()
    loss = reconstruction_loss(out, pixels) + CODE_WEIGHT * error + _spread(log_variance)
    return loss, {"psnr": round(psnr(out.detach(), pixels), 2), "code_error": round(error.item(), 4)}


def _spread(log_variance: Tensor) -> Tensor:
    """Return a penalty that keeps the posterior's width, which nothing here uses, near a small constant."""
    return LOG_VARIANCE_WEIGHT * (log_variance - LATENT_LOG_VARIANCE).square().mean()


@torch.no_grad()
def _register_statistics(vae: AutoencoderKLWan, data: NDArray[np.uint8]) -> None:
    latents = torch.cat(
        [encode_chunks(vae, to_model(data[i : i + 10])).chunk(2, dim=1)[0] for i in range(0, len(data), 10)]
    )
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
