"""A stratified sample of the frames most similar to the present, different in every block.

Idea: the frames most similar to now are often one moment, K times, with whatever was drawn wrong in it. Here each of K
equal stretches of four times as many similar frames gives one, so that every first showing of what is there now has its
turn. Source: this project; stratified sampling among the neighbours of the query, at places that move by Weyl's
equidistribution. Cost: one search of the index. Limitation: it needs a memory that holds little but what is good, as
establishing shots do.
"""

from __future__ import annotations

from retrieval.policies.past import Past
from retrieval.policy import POOL, stratified_sample


def varied(past: Past) -> list[int]:
    """Pick one frame from each of `limit` equal parts of the most similar ones."""
    near = sorted(frame for frame, _ in past.most_similar(POOL * past.limit))
    return stratified_sample(near, past.limit, past.block)
