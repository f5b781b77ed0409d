"""What memory does in a take: noted as its blocks come, for its record and its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from longlive_rag.config import TakeRequest
from longlive_rag.media.pictures import runs
from longlive_rag.takes.record import CueFacts, MemoryFacts
from longlive_rag.timeline import Timeline
from retrieval.budgets import PageCounters
from retrieval.selection import Selection


class MemoryNotes:
    """What the blocks of a take remembered, and what entered memory with them.

    Attributes:
        selections: what blocks brought back, in order.
        entered: the block at which each latent frame in memory entered it; None if unknown, as in takes begun by an
            older version.
    """

    def __init__(self) -> None:
        self.selections: list[Selection] = []
        self.entered: dict[int, int] | None = {}

    def add(self, block: int, selection: Selection | None, entered: Sequence[int] | None) -> None:
        """Note a block: what it brought back, if anything, and the frames that entered memory with it, if known."""
        if selection is not None:
            self.selections.append(selection)
        if entered is None or self.entered is None:
            self.entered = None
        else:
            self.entered |= dict.fromkeys(entered, block)

    @property
    def frames_retrieved(self) -> int:
        """Number of past frames brought back, over all blocks."""
        return sum(len(selection.frames) for selection in self.selections)

    def facts(
        self,
        request: TakeRequest,
        timeline: Timeline,
        blocks: int,
        cues: Sequence[CueFacts],
        pages: PageCounters | None,
        page_gpu_bytes: int | None,
    ) -> MemoryFacts:
        """What the record says of memory.

        Args:
            blocks: number of blocks so far.
            cues: what the record says of the take's cues.
            pages: counters of the page cache; None without memory.
            page_gpu_bytes: the automatic page budget on the GPU; None if there is none.
        """
        chosen: dict[str, Any] = {} if page_gpu_bytes is None else {"page_gpu_bytes": page_gpu_bytes}
        return MemoryFacts(
            frames_retrieved=self.frames_retrieved,
            blocks_with_memory=len(self.selections),
            **self._admission(request, timeline, blocks, cues),
            **chosen,
            pages=replace(pages, seconds_waited=round(pages.seconds_waited, 4)) if pages else None,
        )

    def _admission(
        self, request: TakeRequest, timeline: Timeline, blocks: int, cues: Sequence[CueFacts]
    ) -> dict[str, Any]:
        """What entered memory and what was kept out, except the newest shot's sink; None if unknown."""
        context = request.context
        if self.entered is None or not context.memory_frames:
            return {"frames_admitted": None, "frames_kept_out": None, "admitted": None}
        made = timeline.latents_of(blocks - 1).stop if blocks else 0
        shots = [0, *(cue.block for cue in cues if cue.cut and cue.reached)]
        first = timeline.latents_of(shots[-1]).start
        sink = range(first, min(first + context.sink_frames, made))
        admitted = sorted(frame for frame in self.entered if frame < made and frame not in sink)
        return {
            "frames_admitted": len(admitted),
            "frames_kept_out": made - len(sink) - len(admitted),
            "admitted": tuple(runs(admitted)),
        }
