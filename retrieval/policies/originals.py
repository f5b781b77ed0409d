"""Originals first: of the frames that look like now, the oldest.

Idea: a generated frame is a copy of what it attended to, with an error; of frames about as relevant, the oldest has the
shortest chain of copies behind it. "About as relevant" is: among the `POOL` K most similar, which needs no threshold.
Source: this project's. Cost: one search, four times as deep.
"""

from __future__ import annotations

from retrieval.policies.past import Past
from retrieval.policy import POOL


def originals(past: Past) -> list[int]:
    """The K oldest of the `POOL` K most similar frames."""
    return sorted(frame for frame, _ in past.most_similar(POOL * past.limit))[: past.limit]
