"""Stage 2b: recall tuning, in which the model learns to copy characters from memory.

A sample is a block of a film, at which memory holds frames that show the block's lead in full. In half of the samples
the lead has just been called and isn't in the recent frames yet. In a share of the others' recent frames, *impostors*
play: the same script with characters of the same words and other hidden traits, as in a take that has drifted. The
target is the film's own block in every case. So nothing but memory tells how the lead looks, and the model learns to
trust it against what it has just seen. The rest of the batches are those of stage 2, which preserve what the model had
learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor

from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.corpus import Corpus, CorpusSize, encode_scripts, make_corpus
from longlive_rag.tinyworld.motion import SIZE_PX
from longlive_rag.tinyworld.scripts import block_frame, block_of, sample_film, with_impostors
from longlive_rag.tinyworld.train_backbone import (
    CONTEXT,
    REPLAY_SHARE,
    Origin,
    Sample,
    TextToVideo,
    actors_of,
    flow_loss,
    keep_predictions,
    layout,
    usual_loss,
)
from longlive_rag.tinyworld.training import Hardware, Schedule, train
from longlive_rag.tinyworld.world import Script

SIZE = CorpusSize(scripts=700, blocks=40, seed=90)
"""Films of half a minute. As many, because a model that sees few characters learns them by heart instead."""
IMPOSTORS_SEED = 91
SCHEDULE = Schedule(steps=4500, learning_rate=1.2e-3, warm_up=100, final_fraction=0.02, ema=0.998, batch=24)
FILMS_SHARE = 0.65
"""Share of the batches that are of films."""
COMING_SHARE, COMING_BLOCKS = 0.5, 3
"""Share of the samples whose lead was called so many blocks ago at most."""
IMPOSTORS_SHARE, REPLAYED_SHARE = 0.3, 0.4
"""Share of the samples whose recent frames show impostors, and of those whose context is the model's own."""
FEWER_FRAMES, FEWER_SHARE = (1, 4), 1 / 3
"""Memory is not always full."""
MIXED_SHARE = 0.25
"""Share of the samples in which memory holds other frames, too."""
STEADINESS, SPARED = 0.5, 0.5
FULL = CONTEXT.window_frames // CONTEXT.frames_per_block
"""The first block whose window is full."""
EDGE_PX = 13.0
"""A character whose middle is further inside the picture is seen in full."""

Block = tuple[int, int]
"""A film and one of its blocks."""


@dataclass(frozen=True)
class Films:
    """Films, and the same ones with impostors.

    Attributes:
        corpus: the films.
        impostors: latents of the same scripts with impostors, like `corpus.latents`.
        shown: for each block of a film that can be trained on, the latent frames that memory may hold and in which the
            block's lead is seen in full.
        coming: those of the blocks at which the lead was called a moment ago.
    """

    corpus: Corpus
    impostors: Tensor
    shown: dict[Block, NDArray[np.int64]] = field(init=False)
    coming: list[Block] = field(init=False)

    def __post_init__(self) -> None:
        blocks = self.corpus.blocks
        shown = {
            (film, block): frames
            for film, script in enumerate(self.corpus.scripts)
            for block, frames in enumerate(_shown(script, blocks))
            if block >= FULL and len(frames) >= CONTEXT.memory_frames
        }
        called = {
            (film, block_of(frame) + after)
            for film, script in enumerate(self.corpus.scripts)
            for frame, _ in script.leads
            for after in range(COMING_BLOCKS)
        }
        object.__setattr__(self, "shown", shown)
        object.__setattr__(self, "coming", sorted(called & set(shown)))


def make_films(vae: AutoencoderKLWan, folder: Path, report: Callable[[str], None], size: CorpusSize = SIZE) -> Films:
    """Render and encode films with and without impostors, or read from `folder` what an earlier run encoded."""
    corpus = make_corpus(vae, folder / "films.npy", size, report, sample_film)
    others = [
        with_impostors(script, np.random.default_rng([IMPOSTORS_SEED, number]))
        for number, script in enumerate(corpus.scripts)
    ]
    return Films(corpus, encode_scripts(vae, folder / "impostors.npy", others, report))


def tune_recall(
    films: Films,
    long: Corpus,
    openings: Corpus,
    earlier: LongLiveRAGPipeline,
    folder: Path,
    report: Callable[[str], None],
    steps: int | None = None,
    seed: int = 0,
    hardware: Hardware | None = None,
) -> TextToVideo:
    """Tune an earlier tiny-world to copy from memory; resumable. Returns the moving average.

    Args:
        films: films encoded by the earlier model's VAE, which stays unchanged.
        long, openings: what stage 2 is trained on.
        earlier: model to start from.
        steps: number of steps; by default that of `SCHEDULE`.
    """
    model = TextToVideo(seed)
    model.take_over(earlier.tokenizer, earlier.text_encoder, earlier.transformer)
    schedule = replace(SCHEDULE, steps=steps or SCHEDULE.steps)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        if rng.random() >= FILMS_SHARE:
            return usual_loss(model, long, openings, rng, schedule.batch, REPLAY_SHARE)
        sample, origin = draw_recall(films, rng, schedule.batch)
        loss, figures, predicted = flow_loss(model, sample, steadiness=STEADINESS, spared=SPARED)
        keep_predictions(origin, predicted, rng)
        return loss, figures

    average = train(model, loss_of, schedule, folder, report, betas=(0.9, 0.98), hardware=hardware)
    assert isinstance(average, TextToVideo)
    return average


def draw_recall(films: Films, rng: np.random.Generator, batch: int) -> tuple[Sample, Origin]:
    """Draw a batch of blocks of films, with their lead in memory, and say where it is from."""
    corpus, size, everywhere = films.corpus, CONTEXT.frames_per_block, list(films.shown)
    count = int(rng.choice(FEWER_FRAMES)) if rng.random() < FEWER_SHARE else CONTEXT.memory_frames
    plan = layout("memory", FULL, count)
    chosen, contexts, targets, prompts = [], [], [], []
    for _ in range(batch):
        pool = (films.coming if rng.random() < COMING_SHARE else None) or everywhere
        film, block = pool[int(rng.integers(len(pool)))]
        start = block * size
        memory = iter(_memory(films.shown[film, block], start, count, rng))
        frames = [
            next(memory) if offset is None else offset if place < CONTEXT.sink_frames else start + offset
            for place, offset in enumerate(plan.offsets)
        ]
        source = corpus.replay if rng.random() < REPLAYED_SHARE else corpus.latents
        context = source[film][:, frames]
        if rng.random() < IMPOSTORS_SHARE:
            recent = CONTEXT.sink_frames + count
            context[:, recent:] = films.impostors[film][:, frames[recent:]]
        chosen.append((film, block))
        contexts.append(context)
        targets.append(corpus.latents[film][:, start : start + size])
        prompts.append(corpus.prompt(film, block, rng))
    numbers, blocks = np.array(chosen).T
    actors = actors_of(corpus, numbers, blocks)
    sample = Sample("films", plan, prompts, torch.stack(contexts), torch.stack(targets), actors)
    return sample, Origin(corpus, numbers, blocks)


def _memory(shown: NDArray[np.int64], start: int, count: int, rng: np.random.Generator) -> list[int]:
    """Draw what memory holds at the block that begins with latent frame `start`."""
    frames = rng.choice(shown, count, replace=False)
    if count > 1 and rng.random() < MIXED_SHARE:
        others = int(rng.integers(1, count))
        frames[:others] = rng.integers(CONTEXT.sink_frames, _left_cache(start), others)
    return [int(frame) for frame in frames]


def _left_cache(start: int) -> int:
    """Return the first latent frame that is still in the cache when the block that begins with `start` is made."""
    return start - (CONTEXT.window_frames - CONTEXT.sink_frames)


def _shown(script: Script, blocks: int) -> list[NDArray[np.int64]]:
    """Return, by block, the latent frames that have left the cache and show the block's lead in full."""
    size = CONTEXT.frames_per_block
    shift = script.camera.shift_px(0, script.frames)
    x = np.stack([track.x for track in script.tracks()]) - shift
    seen = (x > EDGE_PX) & (x < SIZE_PX - EDGE_PX)
    # The latent frame number n > 0 spans the pixel frames 4 n - 3 to 4 n.
    seen = seen[:, [0, *(4 * latent - 1 for latent in range(1, blocks * size))]]
    found = []
    for block in range(blocks):
        lead = next(actor for frame, actor in reversed(script.leads) if frame <= block_frame(block))
        frames = np.flatnonzero(seen[lead, : max(0, _left_cache(block * size))])
        found.append(frames[frames >= CONTEXT.sink_frames])
    return found
