"""A live session is made of directed takes: stretches between an undo, a branch and the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from longlive_rag.config import CheckpointConfig, TakeRequest
from longlive_rag.rights.provenance import Provenance
from longlive_rag.takes.branch import copy_start, cut_back
from longlive_rag.takes.folder import TakeClaim
from longlive_rag.takes.record import TakeEvent, TakeRun, read_record
from longlive_rag.takes.writer import TakeWriter

if TYPE_CHECKING:
    from longlive_rag.pipeline import LongLiveRAGPipeline


@dataclass(frozen=True)
class DirectedTake:
    """A stretch of a session in one folder.

    Attributes:
        pipe, run, provenance: what makes it, and under which terms.
        folder: of the take.
        request: what is asked for; its seconds are the most that it may last.
        event: for the take's history.
        checkpoints: how it is made ready to be resumed.
        claim: of the folder; whoever finishes its writer, or does not come so far, releases it.
        waits: whether it begins with the next direction only.
    """

    pipe: LongLiveRAGPipeline
    run: TakeRun
    provenance: Provenance
    folder: Path
    request: TakeRequest
    event: TakeEvent
    checkpoints: CheckpointConfig
    claim: TakeClaim
    waits: bool = False

    def writer(self) -> TakeWriter:
        """Writes it; the take's time starts now."""
        return TakeWriter(
            self.folder,
            self.request,
            self.pipe.timeline(self.request),
            self.run,
            checkpoint=self.checkpoints,
            claim=self.claim,
            event=self.event,
            provenance=self.provenance,
        )

    def branched(self, folder: Path, made: TakeRequest) -> DirectedTake:
        """Continues in another folder, beside the take that this one has made; this one is only read.

        Args:
            folder: where nothing is yet.
            made: what was asked for until the end of this one.

        Raises:
            OSError: if the disk refuses; nothing is left in `folder` then.
        """
        request = replace(made, seconds=self.request.seconds)
        timeline = self.pipe.timeline(request)
        claim = TakeClaim(folder)
        try:
            record, blocks = read_record(self.folder), self.pipe.timeline(made).blocks
            copy_start(self.folder, record, folder, request, timeline, blocks)
            claim.store.adopt()
        except BaseException:
            claim.release()
            raise
        return replace(self, folder=folder, request=request, event="branched", claim=claim, waits=False)

    def undone(self, made: TakeRequest) -> DirectedTake:
        """Continues from before the last cue of what this one has made, which is gone for good then.

        Args:
            made: what was asked for until the end of this one, with a cue at least.

        Raises:
            OSError: if the disk refuses; `resume` then makes the take that it was, or the one without the cue.
        """
        request = without_last_cue(replace(made, seconds=self.request.seconds))
        timeline = self.pipe.timeline(request)
        claim = TakeClaim(self.folder, resume=True)
        try:
            cut_back(self.folder, request, timeline, timeline.cue_block(made.cues[-1].seconds))
            claim.store.adopt()
        except BaseException:
            claim.release()
            raise
        return replace(self, request=request, event="resumed", claim=claim, waits=True)


def without_last_cue(request: TakeRequest) -> TakeRequest:
    """A request without its last cue, and without the directions to memory from there on."""
    second = request.cues[-1].seconds
    steering = tuple(steer for steer in request.memory.steering if steer.seconds < second)
    return replace(request, cues=request.cues[:-1], memory=replace(request.memory, steering=steering))
