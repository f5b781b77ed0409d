"""A control that picks past frames at random. What a policy gains over it is due to its choice.

The draw is seeded by the take and the block: a remade take draws the same frames, in a batch as alone, and no two
takes share their luck.
"""

from __future__ import annotations

import numpy as np

from retrieval.policies.past import Past


def chance(past: Past) -> list[int]:
    """Pick frames uniformly at random."""
    rng, count = np.random.default_rng([past.seed, past.block]), min(past.limit, len(past.frames))
    return [past.frames[int(place)] for place in rng.choice(len(past.frames), count, replace=False)]
