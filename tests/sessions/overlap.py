"""How near a take comes to its longest part, measured: `OMP_NUM_THREADS=1 python -m tests.sessions.overlap`."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from longlive_rag import find_folder
from longlive_rag.diagnostics.subjects import SHAPES, random_pipeline
from longlive_rag.generation.rollout import Rollout
from longlive_rag.media.video import VideoWriter
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.takes.record import TakeRun
from retrieval.store import LatentWriter
from tests.conftest import random_pipeline as toy_pipeline
from tests.sessions.end_to_end import EndToEnd, Overlap, compare

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
        SHAPES[settings.shape] = replace(SHAPES[settings.shape], vae_width=settings.vae_width)
        pipe = random_pipeline(settings.shape, torch.float32, torch.device("cpu"))
    for part, seconds in settings.wait:
        slow_down(part, float(seconds))
    request = pipe.request("a red circle walks in a meadow", seconds=settings.seconds)
    run = TakeRun(settings.shape, Path(), "cpu", "float32", torch.get_num_threads(), "philox4x64/numpy")
    print(f"{run.threads} threads, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="longlive-rag-overlap-") as folder:
        report(compare(pipe, request, run, Path(folder), settings.pairs, lambda said: print(said, flush=True)))


if __name__ == "__main__":
    main()
