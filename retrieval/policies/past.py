"""The input of a policy, and the check of its output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.index import FrameIndex


class PolicyError(ValueError):
    """A policy picked frames that it may not pick."""


@dataclass(frozen=True)
class Past:
    """What a policy picks from, for one block of one take.

    Pinned frames have already been given places, and excluded frames removed, before a policy is called.

    Attributes:
        frames: latent frames that may be picked, increasing; those below 0 are from other takes.
        limit: number of places to fill.
        block: number of the block, from 0.
        query: [D] unit vector: the embedding of the newest finished frame, or of the block's last frame as estimated by
            the first denoising step (`looks_ahead`), joined by the current prompt's if prompts are part of the key.
        diversity: the request's diversity, from 0 to below 1.
        index: holds the keys of all frames in memory.
        pinned: frames already given places by pins.
        seed: the take's own, 0 or more, for policies that draw; the query's last bits depend on the batch.
    """

    frames: Sequence[int]
    limit: int
    block: int
    query: NDArray[np.float32]
    diversity: float
    index: FrameIndex
    pinned: Sequence[int] = ()
    seed: int = 0

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
"""Picks up to `limit` distinct `frames`. A policy with a true attribute `looks_ahead` is called after the first
denoising step, which runs with what the last block remembered and gives an estimate of the block."""


def looks_ahead(policy: Policy | None) -> bool:
    """Whether a policy wants the block's own estimate as its query."""
    return bool(getattr(policy, "looks_ahead", False))


def picked(policy: Policy, past: Past) -> list[int]:
    """Call a policy and check what it picks.

    Raises:
        PolicyError: unless it picks at most `limit` distinct frames of those it may pick.
    """
    chosen = [int(frame) for frame in policy(past)]
    allowed = past.frames if isinstance(past.frames, range) else set(past.frames)
    if len(set(chosen)) < len(chosen) or len(chosen) > past.limit or not all(frame in allowed for frame in chosen):
        name = getattr(policy, "__name__", type(policy).__name__)
        raise PolicyError(
            f"policy {name} returned {chosen} at block {past.block}; it must return at most {past.limit} "
            f"distinct frames of the {len(past.frames)} it was given"
        )
    return chosen
