"""What changes at a block: who is in charge of what the next one shows."""

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
        prompts: the words in charge from here on, one a take; None leaves them as they are.
        cue: number of the cue (from 1) that takes over; None at the start, and where only memory is told something.
        cut: whether another shot begins with it.
        memory: what is pinned, excluded and admitted from here on, and what picks; None leaves it as it is.
    """

    prompts: list[str] | None = None
    cue: int | None = None
    cut: bool = False
    memory: MemoryConfig | None = None


Directions = Callable[[int], Direction | None]
"""What changes at a block, asked right before the block is begun, block after block; None ends the take before it."""


def retrieval_rules(memory: MemoryConfig, timeline: Timeline, window_frames: int) -> RetrievalRules:
    """The rules of a request, spans of seconds as ranges of latent frames.

    A new view has settled once the window, of `window_frames`, shows nothing else.
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
        new_view=memory.new_view,
        policy=None if memory.policy == SEARCH else plugin("policy", memory.policy),
        retries=memory.retry,
    )


def check_policy(memory: MemoryConfig) -> None:
    """Raise ValueError unless the policies that are asked for are installed here."""
    for name in (memory.policy, *(steer.policy for steer in memory.steering)):
        if name not in ("", SEARCH):
            plugin("policy", name)


def planned(batch: Batch) -> Directions:
    """What the requests say, block by block."""
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
    """{block: seed that its noise and the later blocks' is drawn from}."""
    return {timeline.cue_block(reseed.seconds): reseed.seed for reseed in request.reseeds}
