"""What a policy is given, and that it picks what it may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.index import FrameIndex


class PolicyError(ValueError):
    """A policy picked what it may not."""


@dataclass(frozen=True)
class Past:
    """What a policy picks from, for one block of one take.

    Pins have had their places and excluded frames are left out before a policy is asked.

    Attributes:
        frames: latent frames that may be picked, rising; below 0 are frames of other takes.
        limit: how many places there are.
        block: number of the block, from 0.
        query: [D] unit vector, the key of now: the embedding of the newest finished frame, or of the block's last frame
            as the first denoising step estimates it (`looks_ahead`), and the prompt's in charge where the key has a
            part for prompts.
        diversity: what the request asks for, 0 to below 1.
        index: holds the keys of all frames in memory.
        pinned: frames that pins have had places for.
    """

    frames: Sequence[int]
    limit: int
    block: int
    query: NDArray[np.float32]
    diversity: float
    index: FrameIndex
    pinned: Sequence[int] = ()

    def most_similar(self, limit: int) -> list[tuple[int, float]]:
        """Up to `limit` (frame, cosine similarity to the query), best first."""
        return self.index.search(self.query, self.frames, limit)

    def similarities(self, frames: Sequence[int]) -> list[float]:
        """Cosine similarities of frames to the query."""
        return self.index.similarities(self.query, frames)

    def units(self, frames: Sequence[int]) -> NDArray[np.float32]:
        """Keys of frames, [N, D] unit vectors."""
        return self.index.units(frames)


Policy = Callable[[Past], Sequence[int]]
"""Picks up to `limit` different ones of `frames`. One with an attribute `looks_ahead` that is true is asked once the
first denoising step, which runs with what the last block remembered, has an estimate of the block."""


def looks_ahead(policy: Policy | None) -> bool:
    """Whether a policy wants the block's own estimate as its query."""
    return bool(getattr(policy, "looks_ahead", False))


def picked(policy: Policy, past: Past) -> list[int]:
    """What a policy picks, checked.

    Raises:
        PolicyError: unless it is at most `limit` different ones of the frames.
    """
    chosen = [int(frame) for frame in policy(past)]
    allowed = past.frames if isinstance(past.frames, range) else set(past.frames)
    if len(set(chosen)) < len(chosen) or len(chosen) > past.limit or not all(frame in allowed for frame in chosen):
        name = getattr(policy, "__name__", type(policy).__name__)
        raise PolicyError(
            f"policy {name} returned {chosen} at block {past.block}; it must return at most {past.limit} "
            f"different ones of the {len(past.frames)} frames that it was shown"
        )
    return chosen
