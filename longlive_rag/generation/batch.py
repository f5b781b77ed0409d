"""Takes that are made side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace

from longlive_rag.config import TakeRequest
from longlive_rag.timeline import Timeline


@dataclass(frozen=True)
class Batch:
    """What takes that are made side by side are asked to be.

    Attributes:
        requests: one a take; they differ in prompt, cue prompts and seed only.
        timeline: blocks and frames of each.

    Raises:
        ValueError: if they differ in more.
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
        """A request of which all but words and seed holds for every take."""
        return self.requests[0]


def _times(request: TakeRequest) -> list[tuple[float, bool]]:
    """When its cues are, and which of them are cuts."""
    return [(cue.seconds, cue.cut) for cue in request.cues]
