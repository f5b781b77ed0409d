"""The search: the frames most like now.

Idea: what is needed now looks like now. Source: LongLive-RAG. With `--diversity`, maximal marginal relevance (Carbonell
and Goldstein, 1998) among four times as many, so that copies of one moment don't take all places.
Cost: one search of the index. What it can't do: what is most like now has drifted as far as now.
"""

from __future__ import annotations

import numpy as np

from retrieval.policies.past import Past
from retrieval.policy import POOL, most_diverse


def similar(past: Past) -> list[int]:
    """The frames most like now, best first."""
    return [frame for frame, _ in searched(past)]


def searched(past: Past) -> list[tuple[int, float]]:
    """What `similar` picks, with the similarities that the search has found on the way."""
    if not past.diversity:
        return past.most_similar(past.limit)
    pool = past.most_similar(POOL * past.limit)
    frames = [frame for frame, _ in pool]
    similarities = np.array([similarity for _, similarity in pool], dtype=np.float32)
    pinned = past.units(past.pinned) if past.pinned else None
    places = most_diverse(similarities, past.units(frames), past.limit, past.diversity, pinned)
    return [pool[place] for place in places]
