"""A live session is made of directed takes: stretches between an undo, a branch and the end."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from longlive_rag.config import CheckpointConfig, TakeRequest
from longlive_rag.rights.provenance import Provenance
from longlive_rag.takes.branch import copy_start
from longlive_rag.takes.folder import CHECKPOINTS, FILES, INPUTS, LATENTS, TakeClaim
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
        claim = self._copied(folder, request, self.pipe.timeline(made).blocks)
        return replace(self, folder=folder, request=request, event="branched", claim=claim, waits=False)

    def undone(self, made: TakeRequest) -> DirectedTake:
        """Continues from before the last cue of what this one has made, which is gone for good then.

        The take is whole until its shorter self takes its place. Other files in the folder stay. What a process that
        was killed in between left in `.NAME.undone` is moved aside, never removed.

        Args:
            made: what was asked for until the end of this one, with a cue at least.

        Raises:
            OSError: if the disk refuses; the take is as it was then, or it is shorter and what it could not take along
                of other files lies in `.NAME.undone`.
        """
        blocks = self.pipe.timeline(self.request).cue_block(made.cues[-1].seconds)
        request = without_last_cue(replace(made, seconds=self.request.seconds))
        cut, old = (self.folder.with_name(f".{self.folder.name}.{name}") for name in ("cut", "undone"))
        shutil.rmtree(cut, ignore_errors=True)
        if old.exists():
            old.replace(unused_beside(old))
        self._copied(cut, request, blocks).release()
        self.folder.replace(old)
        try:
            cut.replace(self.folder)
        except BaseException:
            old.replace(self.folder)
            raise
        for other in old.iterdir():
            if other.name not in (*FILES, *INPUTS, LATENTS, CHECKPOINTS):
                other.replace(self.folder / other.name)
        shutil.rmtree(old, ignore_errors=True)
        claim = TakeClaim(self.folder, resume=True)
        return replace(self, request=request, event="resumed", claim=claim, waits=True)

    def _copied(self, folder: Path, request: TakeRequest, blocks: int) -> TakeClaim:
        claim = TakeClaim(folder)
        try:
            copy_start(self.folder, read_record(self.folder), folder, request, self.pipe.timeline(request), blocks)
            claim.store.adopt()
        except BaseException:
            claim.release()
            raise
        return claim


def unused_beside(path: Path) -> Path:
    """A name beside `path` that nothing has yet: it, and a number."""
    return next(free for number in count(1) if not (free := path.with_name(f"{path.name}-{number}")).exists())


def without_last_cue(request: TakeRequest) -> TakeRequest:
    """A request without its last cue, and without the directions to memory from there on."""
    second = request.cues[-1].seconds
    steering = tuple(steer for steer in request.memory.steering if steer.seconds < second)
    return replace(request, cues=request.cues[:-1], memory=replace(request.memory, steering=steering))
