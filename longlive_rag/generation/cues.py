"""When each cue takes effect: a cue waits for the next block."""

from __future__ import annotations

from dataclasses import dataclass, replace

from longlive_rag.config import Cue, MemoryConfig, Steering, TakeRequest
from longlive_rag.timecode import shown_timecode
from longlive_rag.timeline import Timeline


@dataclass(frozen=True)
class Schedule:
    """What a take shows, and when.

    Attributes:
        prompt: the first prompt.
        cues: prompts that take over later.
        seconds: length of the take.
        steering: changes to memory while it runs.
    """

    prompt: str
    cues: tuple[Cue, ...]
    seconds: float
    steering: tuple[Steering, ...] = ()


def cue_blocks(request: TakeRequest, timeline: Timeline) -> dict[int, int]:
    """The block at which each cue takes over: {block: number of the cue, from 1}.

    Raises:
        ValueError: if two cues fall on the same block, or a cue or a change to memory comes after the last block has
            begun.
    """
    blocks: dict[int, int] = {}
    for number, cue in enumerate(request.cues, start=1):
        block = timeline.cue_block(cue.seconds)
        if block >= timeline.blocks:
            raise _too_late(f"cue {number}", cue.seconds, request, timeline)
        if block in blocks:
            raise ValueError(
                f"cue {number} ({cue.seconds:g} s) takes over at {timeline.starts_at(block):g} s, as does cue "
                f"{blocks[block]}; a cue waits for the next block, so leave one block between them"
            )
        blocks[block] = number
    for number, steer in enumerate(request.memory.steering, start=1):
        if steering_block(steer, timeline) >= timeline.blocks:
            raise _too_late(f"change {number} to memory ({steer.verb})", steer.seconds, request, timeline)
    return blocks


def _too_late(what: str, seconds: float, request: TakeRequest, timeline: Timeline) -> ValueError:
    return ValueError(
        f"{what} is at {seconds:g} s; the last block of this {request.seconds:g} s take begins at "
        f"{timeline.starts_at(timeline.blocks - 1):g} s, so it would never take over"
    )


def cut_blocks(request: TakeRequest, timeline: Timeline) -> set[int]:
    """The blocks at which another shot begins; raises ValueError like `cue_blocks`."""
    return {block for block, number in cue_blocks(request, timeline).items() if request.cues[number - 1].cut}


def directed_at(memory: MemoryConfig, timeline: Timeline, block: int) -> MemoryConfig:
    """The memory config at a block, with all steering up to it applied."""
    return memory.with_steering(steer for steer in memory.steering if steering_block(steer, timeline) <= block)


def steered_before(memory: MemoryConfig, timeline: Timeline, block: int) -> MemoryConfig:
    """The memory config without the steering that begins with a block or after it."""
    steering = tuple(steer for steer in memory.steering if steering_block(steer, timeline) < block)
    return replace(memory, steering=steering)


def steering_block(steer: Steering, timeline: Timeline) -> int:
    """The block from which a change to memory applies."""
    return timeline.cue_block(steer.seconds) if steer.seconds else 0


def snapped(request: TakeRequest, timeline: Timeline) -> list[str]:
    """A sentence for each cue that takes over later than it was asked for."""
    sentences = []
    for number, cue in enumerate(request.cues, start=1):
        second = timeline.starts_at(timeline.cue_block(cue.seconds))
        if second > cue.seconds:
            sentences.append(
                f"cue {number}, asked for at {shown_timecode(cue.seconds)}, takes over at {shown_timecode(second)}, "
                "where the next block begins"
            )
    return sentences
