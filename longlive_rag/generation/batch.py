"""Batches of takes made side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace

from longlive_rag.config import TakeRequest
from longlive_rag.timeline import Timeline


@dataclass(frozen=True)
class Batch:
    """The requests of takes made side by side.

    Attributes:
        requests: one per take; they may differ only in prompt, cue prompts and seed.
        timeline: the blocks and frames of each take.

    Raises:
        ValueError: if the requests differ in anything else.
    """

    requests: tuple[TakeRequest, ...]
    timeline: Timeline

    def __post_init__(self) -> None:
        first = self.shared
        for request in self.requests:
            alike = replace(request, prompt=first.prompt, seed=first.seed, cues=first.cues) == first
            if not alike or _times(request) != _times(first):
                raise ValueError("requests of one batch may differ in prompt, cue prompts and seed only")

    @property
    def shared(self) -> TakeRequest:
        """A request that applies to every take, except for its words and seed."""
        return self.requests[0]


def _times(request: TakeRequest) -> list[tuple[float, bool]]:
    """The times of the cues, and whether each is a cut."""
    return [(cue.seconds, cue.cut) for cue in request.cues]
