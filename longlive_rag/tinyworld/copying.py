"""How well a tiny-world backbone copies from memory, apart from how well it drew what is in memory.

The world itself draws the past: a character comes, leaves, and is called back. From the call on the backbone goes on,
with frames of the world that show the character forced into its memory. What it then draws wrong it has copied wrong:
the traits were there to be seen, as sharp as the VAE can make them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backbone.vae import StreamingDecoder, encode_video
from longlive_rag.generation.noise import PhiloxNoise
from longlive_rag.generation.rollout import Rollout
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.evaluate import (
    RECALL_CUES,
    Figures,
    ForcedMemory,
    Keep,
    Progress,
    mean,
    unseen_sentences,
)
from longlive_rag.tinyworld.grammar import Sentence
from longlive_rag.tinyworld.measure import Value, hidden_traits, majority, read_take
from longlive_rag.tinyworld.motion import Cue
from longlive_rag.tinyworld.oracle import TRAITS, true_value
from longlive_rag.tinyworld.scripts import block_frame
from longlive_rag.tinyworld.train_vae import to_model, to_pixels
from longlive_rag.tinyworld.world import Actor, Script, render, script_for
from retrieval.selection import Selection

CALLED = RECALL_CUES[3][0]
"""The block at which the character is called back, the first that is the backbone's own."""
BLOCKS = 40
PARTS = {"arriving": range(24, 26), "later": range(37, 40)}
"""Blocks in which the character is read: as soon as it has come, and 10 s after that."""
WORLD_SEED, READ_EVERY = 1000, 2


class _AfterTheWorld(Rollout):
    """A rollout whose first `CALLED` blocks are given: `past` is [B, T, C, h, w]."""

    past: Tensor

    def _denoise(
        self, block: int, selections: tuple[Selection, ...], retry: int = 0
    ) -> tuple[Tensor, tuple[Selection, ...]]:
        if block >= CALLED:
            return super()._denoise(block, selections, retry)
        size = self._context.frames_per_block
        return self.past[:, block * size : (block + 1) * size], selections


def measure_copying(pipe: LongLiveRAGPipeline, takes: int, batch: int, progress: Progress, keep: Keep) -> Figures:
    """Measure which traits a character has after a past that the world drew, against the world's own."""
    rows: list[Figures] = []
    sentences = unseen_sentences(takes, ("returns",))
    for start in range(0, takes, batch):
        together = sentences[start : start + batch]
        scripts = [_script(sentence, WORLD_SEED + number) for number, sentence in enumerate(together, start)]
        for sentence, script, video in zip(together, scripts, _go_on(pipe, together, scripts, start), strict=True):
            keep(str(sentence), video)
            rows.append({"prompt": str(sentence), **_traits(script, video)})
        progress(len(together))
    return {
        "parts": {part: _kept(rows, part) for part in PARTS},
        "takes": rows, "cues_at_blocks": list(RECALL_CUES), "blocks": BLOCKS, "seeds": f"0..{takes - 1}",
        "world_seeds": f"{WORLD_SEED}..{WORLD_SEED + takes - 1}",
    }  # fmt: skip


def _script(sentence: Sentence, seed: int) -> Script:
    """Draw a character by the world's rules who comes, leaves and is called back."""
    script = script_for(sentence, block_frame(BLOCKS), seed)
    cues = tuple(Cue(block_frame(block), action) for block, action in RECALL_CUES)
    return replace(script, actors=(Actor(script.actors[0].character, cues),))


@torch.no_grad()
def _go_on(
    pipe: LongLiveRAGPipeline, sentences: Sequence[Sentence], scripts: Sequence[Script], first_seed: int
) -> list[NDArray[np.uint8]]:
    """Return takes that begin as the scripts do, [F, 64, 64, 3] each."""
    drawn = torch.cat([encode_video(pipe.vae, to_model(render(script)[None])) for script in scripts])
    seeds = list(range(first_seed, first_seed + len(scripts)))
    choose = ForcedMemory("right", pipe.context.memory_frames, first_seed)
    shape = (drawn.shape[1], drawn.shape[3], drawn.shape[4])
    rollout = _AfterTheWorld(
        pipe.transformer, pipe.context, pipe.sampler, PhiloxNoise(seeds), shape, len(scripts), pipe.encoder,
        choose=choose,
    )  # fmt: skip
    rollout.past = drawn.transpose(1, 2)
    blocks, told = [], dict(RECALL_CUES)
    for block in range(BLOCKS):
        if block in told:
            rollout.direct(pipe.embed([str(replace(sentence, action=told[block])) for sentence in sentences]))
        blocks.append(rollout.next_block().latents)
    return [_decoded(pipe, take) for take in torch.cat(blocks, dim=1)]


def _decoded(pipe: LongLiveRAGPipeline, latents: Tensor) -> NDArray[np.uint8]:
    """Decode latents [T, C, h, w] to frames [F, H, W, 3] uint8."""
    decoder = StreamingDecoder(pipe.vae)
    parts = latents.transpose(0, 1)[None].split(pipe.context.frames_per_block, dim=2)
    return to_pixels(torch.cat([decoder.decode(part) for part in parts], dim=2)[0])


def _traits(script: Script, video: NDArray[np.uint8]) -> dict[str, dict[str, Value | None]]:
    """Return each trait as the world has it, and as it is read for sure in each part; None if it isn't."""
    who = script.actors[0].character
    world: dict[str, Value | None] = {trait: true_value(who, trait) for trait in TRAITS}
    found = {"world": world}
    for part, blocks in PARTS.items():
        reading = read_take(video[block_frame(blocks.start) : block_frame(blocks.stop)], READ_EVERY)
        shapes = [each.shape for each in reading.protagonists() if each is not None]
        colours = [each.colour for each in reading.protagonists() if each is not None]
        found[part] = {"shape": majority(shapes), "colour": majority(colours), **hidden_traits(reading)}
    return found


def _kept(rows: Sequence[Figures], part: str) -> Figures:
    """Return the share of takes in which each trait, and all of them, are the world's."""
    right = {trait: [row[part][trait] == row["world"][trait] for row in rows] for trait in TRAITS}
    together = [all(one) for one in zip(*right.values(), strict=True)]
    return {"all": mean(together), **{trait: mean(values) for trait, values in right.items()}}
