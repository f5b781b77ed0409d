"""How near a take comes to its longest part, measured: `OMP_NUM_THREADS=1 python -m tests.sessions.overlap`."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from transformers import UMT5Config, UMT5EncoderModel

from backbone.transformer import CausalWanTransformer
from longlive_rag import find_folder
from longlive_rag.diagnostics.subjects import SHAPES
from longlive_rag.generation.rollout import Rollout
from longlive_rag.media.video import VideoWriter
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.takes.record import TakeRun
from longlive_rag.tinyworld.text import new_tokenizer
from retrieval.encoder import LatentAutoencoder
from retrieval.store import LatentWriter
from tests.conftest import random_pipeline as toy_pipeline
from tests.sessions.end_to_end import EndToEnd, Overlap, compare

SPATIAL_FACTOR = 8


def random_pipeline(shape: str, vae_width: int) -> LongLiveRAGPipeline:
    """Random weights in one of the bench's shapes, with a VAE so wide."""
    torch.manual_seed(0)
    sizes, tokenizer = SHAPES[shape], new_tokenizer()
    transformer = CausalWanTransformer(
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.width // sizes.heads,
        num_layers=sizes.layers,
        ffn_dim=sizes.ffn_dim,
    ).eval()
    width = transformer.config.text_dim
    text = UMT5Config(vocab_size=len(tokenizer), d_model=width, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    height, width = sizes.latent_size
    return LongLiveRAGPipeline(
        transformer=transformer,
        vae=AutoencoderKLWan(base_dim=vae_width).eval(),
        text_encoder=UMT5EncoderModel(text).eval(),
        tokenizer=tokenizer,
        encoder=LatentAutoencoder(transformer.config.in_channels, height, width).eval(),
        output={"height": SPATIAL_FACTOR * height, "width": SPATIAL_FACTOR * width},
    )


SLOWED = {
    "denoising": (Rollout, "_denoise"),
    "storing": (LatentWriter, "append"),
    "decoding": (LongLiveRAGPipeline, "_decode"),
    "writing": (VideoWriter, "write"),
}


def slow_down(part: str, seconds: float) -> None:
    """Let a part of the work take so much longer a block, by waiting: as where another processor does it."""
    owner, name = SLOWED[part]
    work = getattr(owner, name)

    def slowly(*args: object, **settings: object) -> object:
        time.sleep(seconds)
        return work(*args, **settings)

    setattr(owner, name, slowly)


def told(name: str, take: EndToEnd) -> str:
    parts = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in take.parts.items())
    return f"{name:11} {take.seconds:6.1f} s  {take.frames_per_second:5.2f} frames per second  ({parts})"


def report(overlap: Overlap) -> None:
    for serial, overlapped in zip(overlap.serial, overlap.overlapped, strict=True):
        print(told("serial", serial))
        print(told("overlapped", overlapped))
    print(f"longest part: {overlap.longest}")
    print(f"overlapped / longest part of serial: {overlap.over_longest:.3f}")
    print(f"overlapped / serial: {overlap.over_serial:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=(*SHAPES, "tiny-world", "toy"), default="bench-small")
    parser.add_argument("--vae-width", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=9.0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument(
        "--wait", nargs=2, action="append", default=[], metavar=("PART", "SECONDS"),
        help=f"Of each block, in one of {', '.join(SLOWED)}.",
    )  # fmt: skip
    settings = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if settings.shape == "tiny-world":
        pipe = LongLiveRAGPipeline.from_pretrained(find_folder("tiny-world"))
    elif settings.shape == "toy":
        pipe = toy_pipeline()
    else:
        pipe = random_pipeline(settings.shape, settings.vae_width)
    for part, seconds in settings.wait:
        slow_down(part, float(seconds))
    request = pipe.request("a red circle walks in a meadow", seconds=settings.seconds)
    run = TakeRun(settings.shape, Path(), "cpu", "float32", torch.get_num_threads(), "philox4x64/numpy")
    print(f"{run.threads} threads, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="longlive-rag-overlap-") as folder:
        report(compare(pipe, request, run, Path(folder), settings.pairs, lambda said: print(said, flush=True)))


if __name__ == "__main__":
    main()
