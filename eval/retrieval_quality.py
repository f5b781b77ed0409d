"""Does memory find the right frames? Precision at K on takes in which a character leaves and returns.

Two characters use the stage one after the other: A comes, stays, leaves; B comes, stays, leaves; then A is called back.
The takes are made once, without memory, so that every search method sees the same frames. What each frame shows is read
from its pixels by tiny-world's oracle. A retrieved frame is right if it shows A: the same colour, and every hidden
trait that the oracle is sure of as in A's first scene.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.retrieval_controls import SIMILAR, by_chance, newest
from eval.statistics import paired
from longlive_rag.config import Cue, TakeRequest
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.grammar import Sentence
from longlive_rag.tinyworld.measure import Value, hidden_traits, read_take
from longlive_rag.tinyworld.oracle import Sighting, read_frame
from longlive_rag.tinyworld.scripts import block_frame, draw_sentences
from longlive_rag.tinyworld.world import FPS
from retrieval.encoder import LatentEncoder
from retrieval.memory import Choose, Memory
from retrieval.policy import RetrievalRules

CUES = ((0, "A", "returns"), (4, "A", "stands"), (7, "A", "leaves"), (11, "B", "returns"), (15, "B", "stands"),
        (18, "B", "leaves"), (22, "A", "returns"))  # fmt: skip
"""Cues as (block, who, what)."""
BLOCKS, FIRST_SCENE = 26, range(5, 7)
AT_CUE, AFTER = range(22, 23), range(23, 26)
"""Blocks: at the cue the newest frame shows an empty stage; afterwards A is there or coming."""
PROMPT_WEIGHT = 0.5
SENTENCE_SEED = 90_003


@dataclass(frozen=True)
class Searched:
    """One take, and who can be seen in it.

    Attributes:
        request: the request.
        latents: [T, C, h, w] float32.
        shows_a: [T], True if a latent frame shows A with A's traits.
    """

    request: TakeRequest
    latents: Tensor
    shows_a: NDArray[np.bool_]


@dataclass(frozen=True)
class Arm:
    """A search method: an encoder and the prompt's weight in the key, or `random` or `recent` in place of a search."""

    name: str
    encoder: LatentEncoder
    prompt_weight: float = 0.0
    control: str = SIMILAR


def arms_of(encoders: dict[str, LatentEncoder]) -> list[Arm]:
    """Make arms for each encoder, alone and with the prompt, then the controls."""
    arms = []
    for name, encoder in encoders.items():
        arms += [Arm(name, encoder), Arm(f"{name} + prompt", encoder, PROMPT_WEIGHT)]
    some = next(iter(encoders.values()))
    return [*arms, Arm("random", some, control="random"), Arm("recent", some, control="recent")]


def make_takes(pipe: LongLiveRAGPipeline, takes: int, batch: int, progress: Callable[[int], None]) -> list[Searched]:
    """Make the takes and read them; a backbone always makes the same takes."""
    pairs = _casts(takes)
    found: list[Searched] = []
    for start in range(0, takes, batch):
        together = pairs[start : start + batch]
        requests = [_request(pipe, a, b, start + index) for index, (a, b) in enumerate(together)]
        made = pipe(requests)
        for pair, request, video, latents in zip(together, requests, made.frames, made.latents, strict=True):
            found.append(_read(pair, request, video, latents))
        progress(len(together))
    return found


def measure_retrieval(pipe: LongLiveRAGPipeline, takes: Sequence[Searched], arms: Sequence[Arm]) -> dict[str, Any]:
    """Measure precision at K of every arm, averaged over takes, with 95 % intervals, and compare pairs of arms.

    Takes in which the oracle never saw A before the call are left out and counted.
    """
    candidates = _candidates(pipe)
    used = [take for take in takes if take.shows_a[candidates].any()]
    if not used:
        raise ValueError("the oracle does not see the first character in any take, so nothing can be found")
    rows = {arm.name: [_precision(pipe, arm, take, number) for number, take in enumerate(used)] for arm in arms}
    figures: dict[str, Any] = {}
    for name, values in rows.items():
        figures[name] = {when: _interval([row[when] for row in values]) for when in values[0]}
    pairs = {}
    for arm in arms:
        if arm.prompt_weight:
            alone = arm.name.removesuffix(" + prompt")
            pairs[f"{arm.name} against {alone}"] = {
                when: _interval([a[when] - b[when] for a, b in zip(rows[arm.name], rows[alone], strict=True)])
                for when in rows[arm.name][0]
            }
    return {
        "arms": figures, "pairs": pairs, "takes": len(takes), "used": len(used),
        "right_among_candidates": float(np.mean([take.shows_a[candidates].mean() for take in used])),
        "memory_frames": pipe.context.memory_frames, "prompt_weight": PROMPT_WEIGHT, "cues_at_blocks": list(CUES),
        "sentence_seed": SENTENCE_SEED, "seeds": f"0..{len(takes) - 1}", "per_take": rows,
    }  # fmt: skip


def _casts(count: int) -> list[tuple[Sentence, Sentence]]:
    """Two sentences per take, with different colours and shapes, in the same place."""
    drawn = draw_sentences(SENTENCE_SEED)
    casts: list[tuple[Sentence, Sentence]] = []
    while len(casts) < count:
        a, b = next(drawn), next(drawn)
        if a.colour != b.colour and a.shape != b.shape and a.place == b.place:
            casts.append((a, b))
    return casts


def _request(pipe: LongLiveRAGPipeline, a: Sentence, b: Sentence, seed: int) -> TakeRequest:
    words = [str(replace(a if who == "A" else b, action=action)) for _, who, action in CUES]
    times = [block_frame(block) / FPS for block, _, _ in CUES]
    cues = tuple(Cue(at, prompt) for at, prompt in zip(times[1:], words[1:], strict=True))
    off = replace(pipe.memory, enabled=False)
    return pipe.request(words[0], seconds=block_frame(BLOCKS) / FPS, seed=seed, cues=cues, memory=off)


def _read(pair: tuple[Sentence, Sentence], request: TakeRequest, video: NDArray[np.uint8], latents: Tensor) -> Searched:
    scene = video[block_frame(FIRST_SCENE.start) : block_frame(FIRST_SCENE.stop)]
    traits = hidden_traits(read_take(scene))
    seen = [read_frame(video[0 if frame == 0 else 4 * frame - 2]) for frame in range(len(latents))]
    return Searched(
        request,
        latents.float().cpu(),
        np.array([any(_is(each, pair[0].colour, traits) for each in frame) for frame in seen]),
    )


def _is(seen: Sighting, colour: str, traits: dict[str, Value | None]) -> bool:
    if seen.colour.value != colour:
        return False
    answers = [(getattr(seen, name), value) for name, value in traits.items() if value is not None]
    return all(answer.value == value for answer, value in answers if answer.sure)


def _candidates(pipe: LongLiveRAGPipeline) -> range:
    """The latent frames that can be found at the cue."""
    size, context = pipe.context.frames_per_block, pipe.context
    left = AT_CUE.start * size - (context.window_frames - context.sink_frames)
    return range(context.sink_frames, left - context.recency_guard_frames)


@torch.no_grad()
def _precision(pipe: LongLiveRAGPipeline, arm: Arm, take: Searched, number: int) -> dict[str, float]:
    """The share of right frames among those retrieved, at the cue and after it."""
    context, size = pipe.context, pipe.context.frames_per_block
    memory = Memory(
        arm.encoder,
        window_frames=context.window_frames,
        sink_frames=context.sink_frames,
        memory_frames=context.memory_frames,
        recency_guard_frames=context.recency_guard_frames,
        rules=RetrievalRules(prompt_weight=arm.prompt_weight),
        choose=_control(arm.control, number, context.memory_frames),
    )
    prompts = {0: take.request.prompt} | {
        block: cue.prompt for (block, _, _), cue in zip(CUES[1:], take.request.cues, strict=True)
    }
    right: dict[int, float] = {}
    for block in range(BLOCKS):
        if block in prompts:
            memory.prompt(pipe.embed([prompts[block]]))
        for selection in memory.retrieve(block):
            right[block] = float(take.shows_a[list(selection.frames)].mean())
        memory.add(take.latents[None, block * size : (block + 1) * size])
    return {
        "at_cue": float(np.mean([right[block] for block in AT_CUE])),
        "after": float(np.mean([right[block] for block in AFTER])),
    }


def _control(name: str, number: int, memory_frames: int) -> Choose | None:
    """Make a chooser in place of the search; None is the search."""
    if name == SIMILAR:
        return None
    chooser = by_chance(number, "", memory_frames) if name == "random" else newest(memory_frames)
    return lambda take, block, candidates: chooser(block, candidates)


def _interval(values: Sequence[float]) -> dict[str, float | int | None]:
    found = asdict(paired(values, lower_is_better=False))
    return {name: found[name] for name in ("prompts", "mean", "low", "high", "p")}
