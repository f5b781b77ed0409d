"""The search: the frames most similar to the present.

Idea: what is needed now looks like now. Source: LongLive-RAG. With `--diversity`, maximal marginal relevance (Carbonell
and Goldstein, 1998) among four times as many frames keeps copies of one moment from taking all places. Cost: one search
of the index. Limitation: the frames most like the present have drifted as far as the present.
"""

from __future__ import annotations

import numpy as np

from retrieval.policies.past import Past
from retrieval.policy import POOL, most_diverse


def similar(past: Past) -> list[int]:
    """Pick the frames most similar to the query, best first."""
    return [frame for frame, _ in searched(past)]


def searched(past: Past) -> list[tuple[int, float]]:
    """Pick as `similar` does, but also return the similarities."""
    if not past.diversity:
        return past.most_similar(past.limit)
    pool = past.most_similar(POOL * past.limit)
    frames = [frame for frame, _ in pool]
    similarities = np.array([similarity for _, similarity in pool], dtype=np.float32)
    pinned = past.units(past.pinned) if past.pinned else None
    places = most_diverse(similarities, past.units(frames), past.limit, past.diversity, pinned)
    return [pool[place] for place in places]
