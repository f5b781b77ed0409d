"""What tiny-world can do: figures over prompts that it never trained on, read by the classical oracle.

Four sections, each from fixed seeds: `vae` (reconstruction), `prompts` (does it show what was prompted), `drift` (is it
stable for two minutes without memory), `recall` (does it use memory when given the right frames).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backbone.config import ContextConfig
from backbone.vae import StreamingDecoder, encode_video
from longlive_rag.config import Cue, TakeRequest
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.grammar import ACTIONS, Sentence, held_out_sentences
from longlive_rag.tinyworld.measure import (
    Reading,
    agreement,
    hidden_traits,
    motion,
    read_take,
    shows_action,
    variety,
)
from longlive_rag.tinyworld.oracle import HIDDEN_TRAITS
from longlive_rag.tinyworld.scripts import STAYING, block_frame
from longlive_rag.tinyworld.train_vae import CLIP_FRAMES, clips, psnr, reconstruct, to_model
from longlive_rag.tinyworld.world import FPS, SIZE_PX, render, script_for

Figures = dict[str, Any]
Progress = Callable[[int], None]
Keep = Callable[[str, NDArray[np.uint8]], None]

VAE_CLIPS, VAE_SEED = 48, 90_001
PROMPT_SEED = 90_002
PROMPTS_S, READ_EVERY = 5.0, 2
HORIZONS_S, CURVE_BIN_S, DRIFT_READ_EVERY = (30, 60, 120), 5.0, 4
# (block, action) of the test of recall: the stage is empty at first, so that the sink never holds the character.
RECALL_CUES = ((0, "returns"), (4, "stands"), (8, "leaves"), (20, "returns"), (23, "stands"))
RECALL_BLOCKS, BEFORE, AWAY, AFTER = 26, range(5, 8), range(11, 15), range(24, 26)
RECALL_ARMS = ("native", "right", "random", "nobody")


def measure_vae(pipe: LongLiveRAGPipeline) -> Figures:
    """Measure the mean PSNR in dB of unseen clips through the VAE, and how far streaming is from decoding at once."""
    pixels = to_model(clips(VAE_CLIPS, CLIP_FRAMES, VAE_SEED))
    with torch.no_grad():
        values = [psnr(reconstruct(pipe.vae, clip[None]), clip[None]) for clip in pixels]
        latents = encode_video(pipe.vae, pixels[:1])
    streaming = StreamingDecoder(pipe.vae)
    blocks = [streaming.decode(block) for block in latents.split(pipe.context.frames_per_block, dim=2)]
    apart = torch.cat(blocks, dim=2) - StreamingDecoder(pipe.vae).decode(latents)
    return {
        "streaming_max_abs_difference": float(apart.abs().max()),
        "psnr_db": float(np.mean(values)), "worst_db": float(np.min(values)), "clips": VAE_CLIPS,
        "frames": CLIP_FRAMES, "seed": VAE_SEED,
    }  # fmt: skip


def measure_prompts(
    pipe: LongLiveRAGPipeline, takes: int, batch: int, progress: Progress, keep: Keep, memory: bool = True
) -> Figures:
    """Measure character, presence, action and hidden traits in takes of 5 s, each of another unseen prompt."""
    rows = []
    for sentence, request, video in _generate(pipe, unseen_sentences(takes), PROMPTS_S, batch, memory, progress):
        keep(request.prompt, video)
        rows.append(_prompt_figures(sentence, request, video))
    return {
        **_means(rows, ("seen", "colour_right", "shape_right", "both_right", "unsure")),
        "action_right": float(np.mean([row["action_right"] for row in rows])),
        "moving": float(np.mean([row["motion"] >= 0.5 * row["world_motion"] for row in rows])),
        "variety": variety([row["traits"] for row in rows]),
        "world_variety": variety([row["world_traits"] for row in rows]),
        "takes": rows, "seconds": PROMPTS_S, "memory": memory, "prompt_seed": PROMPT_SEED,
        "seeds": f"0..{takes - 1}",
    }  # fmt: skip


def measure_drift(
    pipe: LongLiveRAGPipeline, takes: int, batch: int, progress: Progress, keep: Keep, memory: bool = False,
    seconds: float = HORIZONS_S[-1],
) -> Figures:  # fmt: skip
    """Measure long takes of one unseen prompt each: whether a character stays, moves, and keeps its hidden traits."""
    rows = []
    sentences = unseen_sentences(takes, STAYING)
    for sentence, request, video in _generate(pipe, sentences, seconds, batch, memory, progress):
        keep(request.prompt, video)
        rows.append(_drift_figures(sentence, request, video))
    horizons = [horizon for horizon in HORIZONS_S if horizon <= seconds]
    bins = range(len(rows[0]["agreement_curve"]))
    return {
        "at": {
            str(horizon): {
                name: mean([row["at"][str(horizon)][name] for row in rows])
                for name in ("seen", "motion_of_world", "agreement")
            }
            for horizon in horizons
        },
        "agreement_curve": [mean([row["agreement_curve"][index] for row in rows]) for index in bins],
        "bin_seconds": CURVE_BIN_S, "takes": rows, "seconds": seconds, "memory": memory, "prompt_seed": PROMPT_SEED,
        "seeds": f"0..{takes - 1}",
    }  # fmt: skip


def measure_recall(pipe: LongLiveRAGPipeline, takes: int, batch: int, progress: Progress, keep: Keep) -> Figures:
    """Measure leaving and returning, with memory off or forced to return right, random or empty frames."""
    figures: Figures = {}
    for arm in RECALL_ARMS:
        rows = []
        for request, video in _recall_takes(pipe, takes, batch, arm, progress):
            keep(f"{arm}: {request.prompt}", video)
            rows.append(_recall_figures(request, video))
        figures[arm] = {
            "all_agree": float(np.mean([row["all_agree"] for row in rows])),
            "agreement": mean([value for row in rows for value in row["agreement"].values()]),
            **{name: mean([row["agreement"][name] for row in rows]) for name in HIDDEN_TRAITS},
            "seen_after": float(np.mean([row["seen_after"] for row in rows])), "takes": rows,
        }  # fmt: skip
    return {"arms": figures, "cues_at_blocks": list(RECALL_CUES), "blocks": RECALL_BLOCKS, "seeds": f"0..{takes - 1}"}


def unseen_sentences(count: int, actions: Sequence[str] = ACTIONS) -> list[Sentence]:
    """Return held-out sentences in a fixed random order."""
    sentences = [sentence for sentence in held_out_sentences() if sentence.action in actions]
    order = np.random.default_rng(PROMPT_SEED).permutation(len(sentences))
    return [sentences[order[index % len(order)]] for index in range(count)]


# ---- making takes ----


def _generate(
    pipe: LongLiveRAGPipeline, sentences: list[Sentence], seconds: float, batch: int, memory: bool, progress: Progress
) -> Iterator[tuple[Sentence, TakeRequest, NDArray[np.uint8]]]:
    settings = replace(pipe.memory, enabled=memory)
    for start in range(0, len(sentences), batch):
        together = sentences[start : start + batch]
        requests = [
            pipe.request(str(sentence), seconds=seconds, seed=start + index, memory=settings)
            for index, sentence in enumerate(together)
        ]
        yield from zip(together, requests, pipe(requests).frames, strict=True)
        progress(len(together))


def _recall_takes(
    pipe: LongLiveRAGPipeline, takes: int, batch: int, arm: str, progress: Progress
) -> Iterator[tuple[TakeRequest, NDArray[np.uint8]]]:
    sentences = unseen_sentences(takes, ("returns",))
    settings = replace(pipe.memory, enabled=arm != "native")
    for start in range(0, takes, batch):
        requests = []
        for index, sentence in enumerate(sentences[start : start + batch], start=start):
            prompts = [str(replace(sentence, action=action)) for _, action in RECALL_CUES]
            times = [block_frame(block) / FPS for block, _ in RECALL_CUES]
            cues = tuple(Cue(at, prompt) for at, prompt in zip(times[1:], prompts[1:], strict=True))
            seconds = block_frame(RECALL_BLOCKS) / FPS
            requests.append(pipe.request(prompts[0], seconds=seconds, seed=index, cues=cues, memory=settings))
        choose = None if arm == "native" else ForcedMemory(arm, pipe.context.memory_frames, start)
        yield from zip(requests, pipe(requests, choose=choose).frames, strict=True)
        progress(len(requests))


@dataclass(frozen=True)
class ForcedMemory:
    """Chooses the past frames that memory must bring back: `right` ones show the character, `nobody` ones nobody."""

    arm: str
    count: int
    first_seed: int

    def __call__(self, take: int, block: int, candidates: Sequence[int]) -> list[int]:
        if block < RECALL_CUES[3][0]:
            return []
        pool = {"right": _latents(BEFORE), "nobody": _latents(AWAY), "random": candidates}[self.arm]
        known = [frame for frame in pool if frame in candidates]
        rng = np.random.default_rng([self.first_seed + take, block])
        return sorted(rng.choice(known, min(self.count, len(known)), replace=False).tolist())


def _latents(blocks: range) -> range:
    """Return the latent frames of a range of blocks."""
    size = ContextConfig().frames_per_block
    return range(blocks.start * size, blocks.stop * size)


# ---- reading them ----


def _prompt_figures(sentence: Sentence, request: TakeRequest, video: NDArray[np.uint8]) -> Figures:
    script = script_for(sentence, len(video), request.seed)
    world = render(script)
    reading = read_take(video, READ_EVERY)
    who = reading.protagonists()
    expected = _well_inside(script.tracks()[0].x)[reading.frames]
    full = [each for each in who if each is not None and not each.cut_off]
    colour = [each.colour.value == sentence.colour for each in full]
    shape = [each.shape.value == sentence.shape for each in full]
    return {
        "prompt": request.prompt, "seed": request.seed,
        "seen": mean([each is not None for each, there in zip(who, expected, strict=True) if there]),
        "colour_right": mean(colour), "shape_right": mean(shape),
        "both_right": mean([one and other for one, other in zip(colour, shape, strict=True)]),
        "unsure": mean([not (each.colour.sure and each.shape.sure) for each in full]),
        "action_right": shows_action(sentence.action, reading),
        "motion": motion(video), "world_motion": motion(world),
        "traits": hidden_traits(reading), "world_traits": hidden_traits(read_take(world, READ_EVERY)),
    }  # fmt: skip


def _drift_figures(sentence: Sentence, request: TakeRequest, video: NDArray[np.uint8]) -> Figures:
    reading = read_take(video, DRIFT_READ_EVERY)
    world = render(script_for(sentence, round(PROMPTS_S * FPS), request.seed))
    reference = hidden_traits(read_take(video[:FPS]))
    window = round(CURVE_BIN_S * FPS)

    def kept(stop: int) -> float | None:
        values = agreement(reference, hidden_traits(reading.between(stop - window, stop))).values()
        return mean(list(values))

    def at(horizon: int) -> Figures:
        stop = horizon * FPS
        who = reading.between(stop - window, stop).protagonists()
        return {
            "seen": mean([each is not None for each in who]),
            "motion_of_world": motion(video[stop - window : stop]) / motion(world),
            "agreement": kept(stop),
        }

    return {
        "prompt": request.prompt, "seed": request.seed, "reference": reference,
        "at": {str(horizon): at(horizon) for horizon in HORIZONS_S if horizon * FPS <= len(video)},
        "agreement_curve": [kept(stop) for stop in range(window, len(video) + 1, window)],
    }  # fmt: skip


def _recall_figures(request: TakeRequest, video: NDArray[np.uint8]) -> Figures:
    def part(blocks: range) -> Reading:
        return read_take(video[block_frame(blocks.start) : block_frame(blocks.stop)], READ_EVERY)

    before, after = part(BEFORE), part(AFTER)
    kept = agreement(hidden_traits(before), hidden_traits(after))
    return {
        "prompt": request.prompt, "seed": request.seed, "before": hidden_traits(before), "after": hidden_traits(after),
        "agreement": kept, "all_agree": all(value is True for value in kept.values()),
        "seen_after": bool(np.mean([each is not None for each in after.protagonists()]) > 0.5),
    }  # fmt: skip


def _well_inside(x: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether, by frame, a character at `x` is entirely in the picture, whatever the camera does."""
    margin = SIZE_PX / 4
    return (x > margin) & (x < SIZE_PX - margin)


def mean(values: Sequence[float | bool | None]) -> float | None:
    """Return the mean of the known values; None if there are none."""
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _means(rows: list[Figures], names: Sequence[str]) -> Figures:
    return {name: mean([row[name] for row in rows]) for name in names}
