"""Stage 2b: long tuning on films that the model itself makes ("train long, test long").

A block's context is that of a take of a minute: recent frames that have drifted, and memory that holds first showings.
The target is the world's. So the model learns to trust its memory when memory and the last seconds disagree. A tenth of
the batches has no memory, so that somebody comes when called, whoever it is; two fifths are those of stage 2, which
preserve what the model had learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from longlive_rag.generation.directions import retrieval_rules
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.corpus import Corpus, CorpusSize
from longlive_rag.tinyworld.rolled import Films
from longlive_rag.tinyworld.train_backbone import (
    CONTEXT,
    REPLAY_SHARE,
    SAMPLER,
    Sample,
    TextToVideo,
    actors_of,
    flow_loss,
    layout,
    usual_loss,
)
from longlive_rag.tinyworld.training import Hardware, Schedule, train

FILMS = CorpusSize(scripts=128, blocks=80, seed=9)
"""Films of a minute each."""
SCHEDULE = Schedule(steps=5000, learning_rate=1.5e-3, warm_up=100, final_fraction=0.02, ema=0.998, batch=48)
"""For a GPU, where a step's cost is that of its many small kernels, whatever the batch."""
ROLLED, ROLL_EVERY = 64, 500
"""How many films are remade side by side, and every how many steps."""
OF_FILMS = ("recalled", "right", "forgotten")
KINDS = {"recalled": 0.3, "right": 0.2, "forgotten": 0.1, "usual": 0.4}
"""Shares of batches: memory as the policy filled it; first showings of the lead; no memory; the batches of stage 2."""
MEMORY_FRAMES = {"recalled": CONTEXT.memory_frames, "right": CONTEXT.memory_frames, "forgotten": 0}
FULL = CONTEXT.window_frames // CONTEXT.frames_per_block
"""The first block whose window is full."""
ENTRANCE_SHARE = 0.4
STEADINESS = 0.5


def tune_long(
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
    """Tune an earlier tiny-world on films; resumable. Returns the moving average.

    Args:
        films: films encoded by the earlier model's VAE, which stays unchanged.
        long, openings: what stage 2 was trained on.
        earlier: model to start from; its retrieval encoder and rules of memory choose what is recalled.
        steps: number of steps; by default that of `SCHEDULE`.

    Raises:
        ValueError: if the earlier model has no retrieval encoder.
    """
    if earlier.encoder is None:
        raise ValueError("the earlier model has no retrieval encoder; long tuning needs what memory would bring back")
    encoder = earlier.encoder.to((hardware or Hardware()).device)
    model = TextToVideo(seed)
    model.take_over(earlier.tokenizer, earlier.text_encoder, earlier.transformer)
    schedule = replace(SCHEDULE, steps=steps or SCHEDULE.steps)
    timeline = earlier.timeline(earlier.request("a red circle walks in a meadow", seconds=60))
    rules = retrieval_rules(earlier.memory, timeline, CONTEXT.window_frames)

    places: dict[str, tuple[list[Place], list[Place]]] = {}

    def roll(turn: int) -> None:
        count = len(films.corpus.scripts)
        numbers = [(turn * ROLLED + place) % count for place in range(ROLLED)]
        with torch.no_grad(), torch.autocast(model.transformer.device.type, enabled=False):
            films.roll(numbers, model.transformer, model.prompt_embeds, encoder, CONTEXT, SAMPLER, rules, seed + turn)
        places.update({kind: _places(films, kind) for kind in OF_FILMS})

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        if step % ROLL_EVERY == 0 or not films.rolled:
            roll(step // ROLL_EVERY)
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        if kind == "usual":
            return usual_loss(model, long, openings, rng, schedule.batch, REPLAY_SHARE)
        sample = _sample(films, places[kind], kind, rng, schedule.batch)
        loss, figures, _ = flow_loss(model, sample, steadiness=STEADINESS)
        return loss, figures

    average = train(model, loss_of, schedule, folder, report, betas=(0.9, 0.98), hardware=hardware)
    assert isinstance(average, TextToVideo)
    return average


Place = tuple[int, int]
"""A film and one of its blocks."""


def _places(films: Films, kind: str) -> tuple[list[Place], list[Place]]:
    """Return the blocks of rolled films whose memory is full: all of them, and those in which someone enters."""
    given = films.given.tolist()
    places = [
        (film, block)
        for film in sorted(films.rolled)
        for block in range(films.corpus.blocks)
        if not given[film][block] and block >= FULL and len(_held(films, kind, film, block)) >= MEMORY_FRAMES[kind]
    ]
    coming = sorted(set(map(tuple, films.corpus.entrances.tolist())) & set(places))
    return places, coming or places


def _sample(
    films: Films, places: tuple[list[Place], list[Place]], kind: str, rng: np.random.Generator, batch: int
) -> Sample:
    """Draw a batch of the places, with what memory holds there."""
    anywhere, coming = places
    chosen = []
    for _ in range(batch):
        pool = coming if rng.random() < ENTRANCE_SHARE else anywhere
        chosen.append(pool[int(rng.integers(len(pool)))])
    count, size = MEMORY_FRAMES[kind], CONTEXT.frames_per_block
    plan = layout("memory" if count else "native", FULL, count)
    corpus, contexts, targets, prompts = films.corpus, [], [], []
    for film, block in chosen:
        held = rng.choice(_held(films, kind, film, block), count, replace=False).tolist()
        memory, start = iter(held), block * size
        context = [
            next(memory) if offset is None else offset if place < CONTEXT.sink_frames else start + offset
            for place, offset in enumerate(plan.offsets)
        ]
        contexts.append(corpus.replay[film][:, context])
        targets.append(corpus.latents[film][:, start : start + size])
        prompts.append(corpus.prompt(film, block, rng))
    numbers, blocks = np.array(chosen).T
    actors = actors_of(corpus, numbers, blocks)
    return Sample(kind, plan, prompts, torch.stack(contexts), torch.stack(targets), actors)


def _held(films: Films, kind: str, film: int, block: int) -> Sequence[int]:
    """Return the latent frames that memory may hold at a block: those recalled, or its lead's first showing."""
    if kind == "forgotten":
        return ()
    if kind == "recalled":
        return films.recalled[film][block]
    shown, size = films.first_shown[film][block], CONTEXT.frames_per_block
    return range(shown.start * size, shown.stop * size)
