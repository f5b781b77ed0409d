"""A sample of all of the past: one frame out of each of K equal parts, others in every block, whatever they show.

Idea: the past as a whole has drifted less than now. Source: stratified sampling; the place in the parts moves by Weyl's
equidistribution. Cost: none, and no prefetch is lost. What it can't do: find somebody who is rare.
"""

from __future__ import annotations

from retrieval.policies.past import Past
from retrieval.policy import stratified_sample


def stratified(past: Past) -> list[int]:
    """One frame of each of `limit` equal parts."""
    return stratified_sample(past.frames, past.limit, past.block)
