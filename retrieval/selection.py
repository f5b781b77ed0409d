"""Which past frames a block may remember, and which it did: arithmetic on frame numbers, without tensors or search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Selection:
    """What one block retrieved.

    Attributes:
        block: number of the block in the take, from 0.
        query_frame: the latent frame whose embedding was the query (the newest finished one).
        candidates: number of frames that could have been chosen.
        frames: the chosen latent frames, best first; empty if only other takes of the batch remember something.
        similarities: their cosine similarities to the query.
        retries: how many times the block was remade because it fell away from them; the best one was kept.
    """

    block: int
    query_frame: int
    candidates: int
    frames: tuple[int, ...]
    similarities: tuple[float, ...]
    retries: int = 0

    def without(self, excluded: Sequence[range]) -> Selection:
        """The selection without the frames in these ranges."""
        kept = [place for place, frame in enumerate(self.frames) if not any(frame in each for each in excluded)]
        return replace(
            self,
            frames=tuple(self.frames[place] for place in kept),
            similarities=tuple(self.similarities[place] for place in kept),
        )


def selection_of(selections: Sequence[Selection], take: int) -> Selection | None:
    """What one take of the batch retrieved; None if nothing."""
    return selections[take] if selections and selections[take].frames else None


def candidate_frames(
    frames_done: int, window_frames: int, sink_frames: int, recency_guard_frames: int, shot_start: int = 0
) -> Sequence[int]:
    """Latent frames that the next block may retrieve, increasing; a range if they have no gap.

    They include all frames of earlier shots. Those of the block's own shot have left the cache before the block begins
    (a cache of `window_frames` keeps the sink and the newest frames), are not in the sink, and are not among the
    `recency_guard_frames` that left last.

    Args:
        shot_start: first latent frame of the block's shot.
    """
    kept_local = window_frames - sink_frames
    left_cache = frames_done - kept_local
    after_sink = shot_start + sink_frames
    left = range(after_sink, max(after_sink, left_cache - recency_guard_frames))
    if not shot_start:
        return left
    return [*range(shot_start), *left] if left else range(shot_start)
