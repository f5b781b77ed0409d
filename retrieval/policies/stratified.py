"""A stratified sample of the whole past: one frame from each of K equal parts, different in every block.

Idea: the past as a whole has drifted less than the present. Source: stratified sampling; the place within the parts
moves by Weyl's equidistribution. Cost: none, and prefetching still works. Limitation: it does not find rare characters.
"""

from __future__ import annotations

from retrieval.policies.past import Past
from retrieval.policy import stratified_sample


def stratified(past: Past) -> list[int]:
    """Pick one frame from each of `limit` equal parts."""
    return stratified_sample(past.frames, past.limit, past.block)
