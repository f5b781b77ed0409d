"""What tiny-world can: figures over prompts that it never trained on, read by the classical oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from longlive_rag.config import TakeRequest
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.grammar import Sentence, held_out_sentences
from longlive_rag.tinyworld.oracle import Reading, read_frame
from longlive_rag.tinyworld.train_vae import CLIP_FRAMES, clips, psnr, reconstruct, to_model
from longlive_rag.tinyworld.world import FPS, render, script_for

OPENING_S, LAST_S = 5.0, 1.0
VAE_CLIPS, VAE_SEED = 48, 90_001
PROMPT_SEED = 90_002
# Actions that keep the character in view; the others empty the picture, as they should.
STAYING = ("stands", "walks", "jumps", "turns")


@dataclass(frozen=True)
class TakeFigures:
    """One take.

    Attributes:
        prompt, seed: what was asked for.
        seen: share of the opening's frames in which a character is seen.
        colour_right: share of the opening's frames whose character has the prompted colour (absent counts as wrong).
        motion: mean absolute change from frame to frame in the opening, in 0..1.
        world_motion: the same of the world's own rendering of the prompt.
        at_end: whether a character is seen in most frames of the last second.
    """

    prompt: str
    seed: int
    seen: float
    colour_right: float
    motion: float
    world_motion: float
    at_end: bool


@dataclass(frozen=True)
class Evaluation:
    """All figures, with what they were made from.

    Attributes:
        vae_psnr: dB on unseen clips.
        colour_right, seen, moving, at_end: means over takes; `moving` is the share of takes with at least half the
            world's own motion.
        takes: each take.
        settings: seeds and sizes.
    """

    vae_psnr: float
    colour_right: float
    seen: float
    moving: float
    at_end: float
    takes: list[TakeFigures]
    settings: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def evaluate(
    pipe: LongLiveRAGPipeline,
    takes: int,
    seconds: float,
    memory: bool,
    batch_size: int,
    progress: Callable[[int, int], None],
    keep: Callable[[str, NDArray[np.uint8]], None] = lambda prompt, frames: None,
) -> Evaluation:
    """Generate `takes` takes of unseen prompts and read them.

    Args:
        pipe: tiny-world.
        takes: how many, each of another prompt and seed.
        seconds: length of each, at least the opening's 5 s.
        memory: with or without memory.
        batch_size: takes generated side by side.
        progress: called with (takes done, takes).
        keep: called with each prompt and its frames [F, H, W, 3].

    Raises:
        ValueError: if the takes are shorter than the opening or fewer than one.
    """
    if seconds < OPENING_S or takes < 1:
        raise ValueError(f"{takes} takes of {seconds:g} s can't be measured; ask for at least 1 of {OPENING_S:g} s")
    vae_psnr = measure_vae(pipe)
    sentences = unseen_sentences(takes)
    figures: list[TakeFigures] = []
    for start in range(0, takes, batch_size):
        batch = sentences[start : start + batch_size]
        requests = [
            pipe.request(
                str(sentence), seconds=seconds, seed=start + index, memory=replace(pipe.memory, enabled=memory)
            )
            for index, sentence in enumerate(batch)
        ]
        frames = pipe(requests).frames
        for sentence, request, video in zip(batch, requests, frames, strict=True):
            keep(str(sentence), video)
            figures.append(measure_take(sentence, request, video))
        progress(len(figures), takes)
    return Evaluation(
        vae_psnr=vae_psnr,
        colour_right=float(np.mean([take.colour_right for take in figures])),
        seen=float(np.mean([take.seen for take in figures])),
        moving=float(np.mean([take.motion >= 0.5 * take.world_motion for take in figures])),
        at_end=float(np.mean([take.at_end for take in figures])),
        takes=figures,
        settings={
            "takes": takes,
            "seconds": seconds,
            "memory": memory,
            "prompt_seed": PROMPT_SEED,
            "take_seeds": f"0..{takes - 1}",
            "vae_clips": VAE_CLIPS,
            "vae_seed": VAE_SEED,
            "torch": torch.__version__,
        },
    )


def unseen_sentences(count: int) -> list[Sentence]:
    """Held-out sentences in a fixed random order, about characters that stay in view."""
    sentences = [sentence for sentence in held_out_sentences() if sentence.action in STAYING]
    order = np.random.default_rng(PROMPT_SEED).permutation(len(sentences))
    return [sentences[order[index % len(order)]] for index in range(count)]


@torch.no_grad()
def measure_vae(pipe: LongLiveRAGPipeline) -> float:
    """PSNR in dB of unseen clips through the VAE, mean over clips."""
    pixels = to_model(clips(VAE_CLIPS, CLIP_FRAMES, VAE_SEED))
    return float(np.mean([psnr(reconstruct(pipe.vae, clip[None]), clip[None]) for clip in pixels]))


def measure_take(sentence: Sentence, request: TakeRequest, video: NDArray[np.uint8]) -> TakeFigures:
    """Read one take [F, H, W, 3]."""
    opening = video[: round(OPENING_S * FPS)]
    readings = [read_frame(frame) for frame in opening]
    ending = [read_frame(frame) for frame in video[-round(LAST_S * FPS) :]]
    truth = render(script_for(sentence, len(opening), request.seed))
    return TakeFigures(
        prompt=request.prompt,
        seed=request.seed,
        seen=_share(readings, lambda reading: reading.present),
        colour_right=_share(readings, lambda reading: reading.colour == sentence.colour),
        motion=motion(opening),
        world_motion=motion(truth),
        at_end=_share(ending, lambda reading: reading.present) > 0.5,
    )


def motion(video: NDArray[np.uint8]) -> float:
    """Mean absolute change from frame to frame of [F, H, W, 3], in 0..1."""
    return float(np.abs(np.diff(video.astype(np.float32), axis=0)).mean() / 255)


def _share(readings: list[Reading], holds: Callable[[Reading], bool]) -> float:
    return sum(holds(reading) for reading in readings) / len(readings)
