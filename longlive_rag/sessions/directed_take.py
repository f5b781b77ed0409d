"""Directed takes, the segments of a live session, which end at an undo, a branch or the session's end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from longlive_rag.config import CheckpointConfig, TakeRequest
from longlive_rag.rights.provenance import Provenance
from longlive_rag.takes.branch import copy_start, cut_back, kept
from longlive_rag.takes.folder import TakeClaim
from longlive_rag.takes.record import TakeEvent, TakeRun, read_record
from longlive_rag.takes.writer import TakeWriter

if TYPE_CHECKING:
    from longlive_rag.pipeline import LongLiveRAGPipeline


@dataclass(frozen=True)
class DirectedTake:
    """A segment of a session, in one folder.

    Attributes:
        pipe, run, provenance: what makes it, and under which terms.
        folder: folder of the take.
        request: the request; its `seconds` are the maximum length.
        event: event for the take's history.
        checkpoints: checkpoints to resume it from.
        claim: claim on the folder; released by finishing the writer, or by the caller if it does not get that far.
        waits: whether it only begins with the next direction.
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
        """Make the writer of the take; its timing starts now."""
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
        """Continue in another folder; the take made so far is only read.

        Args:
            folder: the new folder, which must not exist.
            made: what was requested up to the end of this segment.

        Raises:
            OSError: if writing fails; nothing is left in `folder` then.
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
        """Continue from before the last cue; everything after it is removed for good.

        Args:
            made: what was requested up to the end of this segment, with at least one cue.

        Raises:
            OSError: if writing fails; `resume` then completes either the old take or the one without the cue.
        """
        timeline = self.pipe.timeline(made)
        kept_blocks = timeline.cue_block(made.cues[-1].seconds)
        request = replace(kept(made, timeline, kept_blocks), seconds=self.request.seconds)
        claim = TakeClaim(self.folder, resume=True)
        try:
            cut_back(self.folder, request, timeline, kept_blocks)
            claim.store.adopt()
        except BaseException:
            claim.release()
            raise
        return replace(self, request=request, event="resumed", claim=claim, waits=True)
