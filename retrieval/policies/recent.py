"""A control: the newest frames that have left the window. More context, and no retrieval."""

from __future__ import annotations

from retrieval.policies.past import Past


def recent(past: Past) -> list[int]:
    """The newest frames, the newest first."""
    return list(past.frames)[-past.limit :][::-1]
