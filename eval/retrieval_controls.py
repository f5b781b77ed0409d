"""Memory without retrieval: as many past frames, but random or the newest. If these do as well, it was more context."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longlive_rag import Choose

SIMILAR = "similar"


def choice_of(retrieval: str, seed: int, memory_frames: int, story: str = "") -> Choose | None:
    """What picks frames instead of the search, for `pipe.stream(..., choose=...)`; all else stays as it is.

    Args:
        retrieval: `similar` is the search itself, so None; `random` is any of the candidates, the same for the same
            story, seed and block; `recent` the newest of them.
        seed: of the take.
        memory_frames: how many.
        story: what the take is of. Others draw other frames: takes that all had the same luck would count as one.

    Raises:
        ValueError: if `retrieval` is none of them.
    """
    if retrieval == SIMILAR:
        return None
    if retrieval == "random":

        def choose(take: int, block: int, candidates: range) -> Sequence[int]:
            rng = np.random.default_rng([seed, take, block, *story.encode()])
            return rng.choice(candidates, min(memory_frames, len(candidates)), replace=False).tolist()

        return choose
    if retrieval == "recent":
        return lambda take, block, candidates: list(candidates)[-memory_frames:][::-1]
    raise ValueError(f"retrieval is {retrieval!r}; it must be similar, random or recent")
