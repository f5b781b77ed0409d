"""Look ahead: search by what the block itself is about to show.

Idea: at a cut or a cue, the newest frame shows the past; the block's first denoising estimate shows what is to come.
Source: this project; FLARE (Jiang et al., 2023) retrieves by a draft for text. Cost: pages can't be fetched while the
last block is committed, and the first step runs with what the last block remembered. A one-step sampler has no estimate
before its result; there, the search is by the newest frame.
"""

from __future__ import annotations

from retrieval.policies.past import Past
from retrieval.policies.similar import similar


def look_ahead(past: Past) -> list[int]:
    """Pick the frames most similar to the query, which is the block's own estimate once there is one."""
    return similar(past)


look_ahead.looks_ahead = True  # type: ignore[attr-defined]
