"""Replacements for the search: controls without retrieval, and ceilings that no search can beat.

Controls separate the effect of retrieval from that of another context: the same number of past frames, but random or
the newest; or none, with their places left empty. Ceilings separate the limits of a policy from those of the backbone:
what would perfect retrieval achieve?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eval.oracle import OracleEmbedder, open_oracle
from eval.scenarios import Story
from eval.traits import Trait
from eval.windows import DriftWindows
from longlive_rag.timeline import Timeline
from retrieval.policy import evenly_spaced, without

Retrieval = Literal["similar", "random", "recent", "nothing", "opening", "oracle"]
SIMILAR: Retrieval = "similar"
BY_ORACLE: Retrieval = "oracle"
Reading = Mapping[str, Trait]
Chooser = Callable[[int, Sequence[int]], Sequence[int]]
"""Maps (block, candidates) to the frames that one take remembers, best first."""


def check_retrieval(name: str) -> None:
    """Raise ValueError unless it is one of `Retrieval`."""
    if name not in get_args(Retrieval):
        raise ValueError(f"retrieval is {name!r}; it must be {', '.join(get_args(Retrieval)[:-1])} or {BY_ORACLE}")


def by_chance(seed: int, story: str, memory_frames: int) -> Chooser:
    """Choose candidates at random, always the same for the same story, seed and block.

    Other takes draw other frames; if all had the same luck, they would count as one.
    """

    def choose(block: int, candidates: Sequence[int]) -> list[int]:
        rng = np.random.default_rng([seed, 0, block, *story.encode()])
        return rng.choice(candidates, min(memory_frames, len(candidates)), replace=False).tolist()

    return choose


def newest(memory_frames: int) -> Chooser:
    """Choose the newest candidates: more context, but no retrieval."""
    return lambda block, candidates: list(candidates)[-memory_frames:][::-1]


def nothing(block: int, candidates: Sequence[int]) -> list[int]:
    """Choose no frame: the context of a take with memory, without what memory brings back."""
    return []


def opening_alone(story: Story, timeline: Timeline, memory_frames: int) -> Chooser:
    """Always choose evenly spaced frames of the subject's reference and opening."""
    windows = DriftWindows(story.origin_s)
    opening = timeline.latents_between(windows.reference[0], windows.opening[1])
    return lambda block, candidates: evenly_spaced([each for each in opening if each in candidates], memory_frames)


class RightFrames:
    """Chooses what a perfect memory would: the characters named in the prompt, as first seen, read by the oracle.

    Args:
        story: story of the take.
        timeline: timeline of the take.
        memory_frames: K.
        oracle: reads frames.
    """

    def __init__(self, story: Story, timeline: Timeline, memory_frames: int, oracle: OracleEmbedder) -> None:
        self._story, self._timeline, self._limit, self._oracle = story, timeline, memory_frames, oracle
        self._readings: list[Reading] = []

    def see(self, frames: NDArray[np.uint8]) -> None:
        """Read the last pixel frame [H, W, 3] of each latent frame of the next block, in order."""
        if len(frames):
            self._readings += self._oracle.trait_values(self._oracle.embed(frames))

    def __call__(self, block: int, candidates: Sequence[int]) -> list[int]:
        second = self._timeline.starts_at(block)
        prompt = [prompt for start, prompt in self._story.prompts if start <= second][-1]
        allowed = without(candidates, self._excluded(second), ())
        scores: dict[int, float] = {}
        for named in self._oracle.characters_in(prompt):
            known = self._reference(named)
            for frame in allowed:
                if named.items() <= self._readings[frame].items():
                    agree = sum(self._readings[frame].get(trait) == value for trait, value in known.items())
                    scores[frame] = agree / len(known) if known else 0.0
        order = sorted(scores, key=lambda frame: (-scores[frame], frame))
        best = [frame for frame in order if scores[frame] == scores[order[0]]]
        return evenly_spaced(best, self._limit) if len(best) >= self._limit else order[: self._limit]

    def _reference(self, named: Reading) -> dict[str, Trait]:
        """Most frequent hidden traits of a character in the second in which it is first seen as it should be.

        For the subject that is the reference second; for others, the first second that shows them.
        """
        matching = [frame for frame, reading in enumerate(self._readings) if named.items() <= reading.items()]
        start, end = DriftWindows(self._story.origin_s).reference
        window = self._timeline.latents_between(start, end)
        first = [frame for frame in matching if frame in window] if self._is_subject(named) else []
        first = first or matching[: len(window)]
        found = {}
        for trait in self._oracle.hidden:
            values = Counter(self._readings[frame][trait] for frame in first if trait in self._readings[frame])
            if values:
                found[trait] = values.most_common(1)[0][0]
        return found

    def _is_subject(self, named: Reading) -> bool:
        told = [prompt for start, prompt in self._story.prompts if start <= self._story.origin_s][-1]
        return named in self._oracle.characters_in(told)

    def _excluded(self, second: float) -> list[range]:
        """Latent frames that the story's steering excludes at a given second."""
        spans: set[tuple[float, float]] = set()
        for steer in self._story.steering:
            if steer.seconds <= second:
                (spans.add if steer.verb == "exclude" else spans.discard)((steer.start, steer.end))
        return [self._timeline.latents_between(*span) for span in spans]


def chooser_of(name: Retrieval, story: Story, seed: int, timeline: Timeline, memory_frames: int) -> Chooser | None:
    """Make the chooser of one take; None is the take's own policy."""
    check_retrieval(name)
    if name == "random":
        return by_chance(seed, story.id, memory_frames)
    if name == "recent":
        return newest(memory_frames)
    if name == "nothing":
        return nothing
    if name == "opening":
        return opening_alone(story, timeline, memory_frames)
    return RightFrames(story, timeline, memory_frames, open_oracle()) if name == BY_ORACLE else None


def last_pixels(timeline: Timeline, frames: range, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Get the last pixel frame of each latent frame of a block, as far as the block is not trimmed.

    Args:
        frames: the block's latent frames.
        pixels: [F, H, W, 3] of the block.

    Returns:
        [N, H, W, 3].
    """
    begin = round(timeline.second_of(frames.start) * timeline.fps)
    places = [round(timeline.second_of(frame + 1) * timeline.fps) - 1 - begin for frame in frames]
    return pixels[[place for place in places if place < len(pixels)]]
