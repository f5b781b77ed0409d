"""What changes at a block: its prompts, cuts and memory rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from longlive_rag.config import SEARCH, MemoryConfig, TakeRequest
from longlive_rag.environment import plugin
from longlive_rag.generation.batch import Batch
from longlive_rag.generation.cues import cue_blocks, directed_at, steering_block
from longlive_rag.timeline import Timeline
from retrieval.policy import RetrievalRules


@dataclass(frozen=True)
class Direction:
    """What changes at a block.

    Attributes:
        prompts: the prompts from here on, one per take; None leaves them unchanged.
        cue: number of the cue (from 1) that takes over; None at the start, and if only memory changes.
        cut: whether it begins another shot.
        memory: what to pin, exclude and admit from here on, and the policy; None leaves it unchanged.
    """

    prompts: list[str] | None = None
    cue: int | None = None
    cut: bool = False
    memory: MemoryConfig | None = None


Directions = Callable[[int], Direction | None]
"""Gives the changes at a block. Called for every block right before it begins; None ends the take before that block."""


def retrieval_rules(memory: MemoryConfig, timeline: Timeline, window_frames: int) -> RetrievalRules:
    """Build the retrieval rules of a request, with spans of seconds converted to ranges of latent frames.

    A new view has settled once it fills the whole window of `window_frames`.
    """
    return RetrievalRules(
        exclude=tuple(timeline.latents_between(*span) for span in memory.exclude),
        pin=tuple(timeline.latents_between(*span) for span in memory.pin),
        prompt_weight=memory.prompt_weight,
        like_words=memory.like_words,
        anchors=timeline.latents_between(*memory.anchor) if memory.anchor else None,
        admit_above=memory.admit_above,
        diversity=memory.diversity,
        stratified=memory.spread,
        establish_frames=timeline.latents_in(memory.establish),
        settle_frames=window_frames,
        new_view=None if memory.new_view == "steps" else memory.new_view,
        policy=None if memory.policy == SEARCH else plugin("policy", memory.policy),
        retries=memory.retry,
    )


def check_policy(memory: MemoryConfig) -> None:
    """Raise ValueError unless all requested policies are installed."""
    if memory.policy != SEARCH:
        plugin("policy", memory.policy)
    for steer in memory.steering:
        if steer.policy not in ("", SEARCH):
            try:
                plugin("policy", steer.policy)
            except ValueError as error:  # a direction is not an option of the command line
                raise ValueError(f"the direction at {steer.seconds:g} s: {error}") from error


def planned(batch: Batch) -> Directions:
    """The directions given in the requests."""
    timeline, memory = batch.timeline, batch.shared.memory
    cues = cue_blocks(batch.shared, timeline)
    told = {steering_block(steer, timeline) for steer in memory.steering}

    def directions(block: int) -> Direction:
        cue = cues.get(block)
        prompts = None
        if block == 0 or cue is not None:
            prompts = [request.prompt if cue is None else request.cues[cue - 1].prompt for request in batch.requests]
        cut = cue is not None and batch.shared.cues[cue - 1].cut
        return Direction(prompts, cue, cut, directed_at(memory, timeline, block) if block and block in told else None)

    return directions


def reseed_blocks(request: TakeRequest, timeline: Timeline) -> dict[int, int]:
    """Map blocks to the seed for their noise and that of later blocks."""
    return {timeline.cue_block(reseed.seconds): reseed.seed for reseed in request.reseeds}
