"""Takes in the geometry of Wan2.2-TI2V-5B: 48 channels, 16x16 pixels a latent element, blocks of 8 at 24 a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from five import CHANNELS, CONTEXT, five_pipeline
from PIL import Image
from torch import Tensor

from backbone.config import ContextConfig
from backbone.vae import denormalize_latents, normalize_latents
from longlive_rag import LongLiveRAGPipeline, MemoryConfig, OutputConfig
from tests.conftest import random_pipeline

PROMPT = "a red circle walks in a meadow"
NARROW = ContextConfig(**{**CONTEXT, "window_frames": 12, "sink_frames": 2, "memory_frames": 2})
TWO_BLOCKS, THREE_BLOCKS = 61 / 24, 93 / 24


@pytest.fixture(scope="module")
def five() -> LongLiveRAGPipeline:
    return five_pipeline()


def test_two_blocks_at_the_releases_own_window(five: LongLiveRAGPipeline) -> None:
    blocks = list(five.stream(PROMPT, seconds=TWO_BLOCKS, seed=3))
    assert [(block.pixel_frames, block.frames) for block in blocks] == [
        (range(29), range(8)),
        (range(29, 61), range(8, 16)),
    ]
    latents = torch.cat([block.latents for block in blocks], dim=1)
    assert latents.shape == (1, 16, CHANNELS, 4, 6)
    with torch.no_grad():
        whole = five.vae.decode(denormalize_latents(five.vae, latents.transpose(1, 2))).sample
    expected = ((whole + 1) * 127.5).permute(0, 2, 3, 4, 1)
    pixels = torch.cat([block.pixels for block in blocks], dim=1)
    assert pixels.shape == (1, 61, 64, 96, 3)
    assert (pixels - expected).abs().max() < 0.51  # rounded to whole numbers


@pytest.mark.parametrize("encoder", ["autoencoder", "mean_pool"])
def test_memory_brings_back_the_most_similar_frames(five: LongLiveRAGPipeline, encoder: str) -> None:
    """Before the third block, the window of 12 holds the sink, 0 and 1, and the newest ten; 2 to 5 have left it."""
    memory = MemoryConfig(encoder=encoder)
    context = replace(NARROW, recency_guard_frames=0)
    out = five(PROMPT, seconds=THREE_BLOCKS, context=context, memory=memory)
    (selection,) = out.selections[0]
    embed = five.encoder.encode if encoder == "autoencoder" else lambda x: x.mean(dim=(-2, -1))
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(embed(out.latents[0, :16]), dim=-1)
    likeness = (vectors @ vectors[15])[2:6]
    best = (2 + likeness.argsort(descending=True)[:2]).tolist()
    assert list(selection.frames) == best
    native = five(PROMPT, seconds=THREE_BLOCKS, context=context, memory=MemoryConfig(enabled=False))
    assert torch.equal(native.latents[:, :8], out.latents[:, :8])
    assert not torch.equal(native.latents[:, 16:], out.latents[:, 16:])


def test_a_batch_is_its_takes(five: LongLiveRAGPipeline) -> None:
    requests = [five.request(PROMPT, seconds=THREE_BLOCKS, seed=seed, context=NARROW) for seed in (1, 2)]
    batch = five(requests)
    assert batch.frames.shape == (2, 93, 64, 96, 3)
    alone = five(requests[1])
    torch.testing.assert_close(batch.latents[1:], alone.latents, rtol=1e-4, atol=1e-4)
    assert [each[1].frames for each in batch.selections] == [each[0].frames for each in alone.selections]


def test_a_start_image_is_the_first_latent_frame(five: LongLiveRAGPipeline, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "start.png")
    out = five(PROMPT, seconds=1.0, start_image=str(tmp_path / "start.png"))
    clip: Tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    with torch.no_grad():
        expected = normalize_latents(five.vae, five.vae.encode(clip).latent_dist.mode())
    torch.testing.assert_close(out.latents[:, 0], expected[:, :, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (OutputConfig(80, 96, 24), "height is 80; it must be a multiple of 32, such as 64"),
        (OutputConfig(64, 104, 24), "width is 104; it must be a multiple of 32, such as 96"),
    ],
)
def test_sides_of_no_whole_tokens(five: LongLiveRAGPipeline, output: OutputConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        five.stream(PROMPT, seconds=1, output=output)


def test_a_vae_of_another_backbone_is_refused(five: LongLiveRAGPipeline) -> None:
    parts = {**five.components, "vae": random_pipeline().vae}
    with pytest.raises(ValueError, match="the VAE makes latents of 16 channels, but the transformer reads 48; both"):
        LongLiveRAGPipeline(**{name: parts[name] for name in ("transformer", "vae", "text_encoder", "tokenizer")})
