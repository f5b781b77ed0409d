"""Writing a take to disk: a folder with the video, the record of how it was made, and two pictures."""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from longlive_rag.config import CheckpointConfig, TakeRequest
from longlive_rag.media.start_image import StartImage, read_start_image
from longlive_rag.media.sums import begin_sums, sha256_of, sums_of
from longlive_rag.media.video import VideoWriter, safe_frames
from longlive_rag.rights.policy import LicensePolicy, refuse_stricter, weaker
from longlive_rag.rights.provenance import (
    Provenance,
    beyond,
    recorded_provenance,
    refuse_other_weights,
    together,
)
from longlive_rag.rights.records import FileRights
from longlive_rag.takes.drawing import draw_pictures, save_picture
from longlive_rag.takes.facts import cue_facts, start_image_facts, video_facts
from longlive_rag.takes.folder import (
    CHECKPOINTS,
    CONTACT_SHEET,
    FILES,
    INPUTS,
    LATENTS,
    MEMORY_MAP,
    NEWEST,
    REMEMBERED,
    RESERVE,
    RESERVE_BYTES,
    START_IMAGE,
    VIDEO,
    TakeClaim,
)  # fmt: skip
from longlive_rag.takes.inspection import intact_frames
from longlive_rag.takes.interrupts import uninterrupted
from longlive_rag.takes.memory_notes import MemoryNotes
from longlive_rag.takes.newest import NewestBlock
from longlive_rag.takes.record import (
    Failure,
    HistoryEntry,
    LatentsFacts,
    Rights,
    TakeEvent,
    TakeRecord,
    TakeRun,
    TakeStatus,
    Timings,
    read_record,
    write_record,
)
from longlive_rag.timeline import Timeline
from longlive_rag.version import versions
from retrieval.budgets import PageCounters
from retrieval.selection import Selection, selection_of
from retrieval.store import BlockRecord, LatentWriter

if TYPE_CHECKING:
    from longlive_rag.generation.block import Block
    from longlive_rag.generation.rollout_memory import RememberedFrames
    from longlive_rag.takes.checkpoints import Checkpoints


class TakeWriter:
    """Writes a take as its blocks arrive.

    `append` may be called in one thread, `add` and `save` in another, and `update` in a third; call `finish` when they
    are done.

    Until the first block is added, nothing is written, and a take to be replaced is untouched.

    Construct it right before the first block is made, because the take's timing starts then.

    Args:
        folder: folder of the take; it and its parents are created.
        request: the request.
        timeline: timeline of the request.
        run: what the take is made with.
        item: index of this take in its batch.
        checkpoint: checkpoint settings.
        claim: an existing claim on the folder, which `finish` releases.
        event: what is done to the take, for its history: generated, resumed, extended or branched. All but the first
            resume an existing take; pass the writer to `stream` as its store.
        provenance: terms of the weights and labels of the output; default is from the backbone folder's records.

    Attributes:
        frames_before: number of pixel frames of an earlier run that the video keeps.

    Raises:
        ValueError: if it resumes a take that another process is writing, or that does not exist.
    """

    def __init__(
        self,
        folder: Path,
        request: TakeRequest,
        timeline: Timeline,
        run: TakeRun,
        item: int = 0,
        checkpoint: CheckpointConfig | None = None,
        claim: TakeClaim | None = None,
        event: TakeEvent = "generated",
        provenance: Provenance | None = None,
    ) -> None:
        self.folder = folder
        self._request, self._timeline, self._run, self._item = request, timeline, run, item
        self._provenance = provenance or recorded_provenance(run.folder)
        self._checkpoint = checkpoint or CheckpointConfig()
        self._event = event
        self._resumes = event != "generated"
        self._before = read_record(folder) if self._resumes else None
        self._claim = claim or (TakeClaim(folder, resume=True) if self._resumes else None)
        self._checkpoints: Checkpoints | None = None
        self._video: VideoWriter | None = None
        self._pages: PageCounters | None = None
        self._page_gpu_bytes = self._before.memory.page_gpu_bytes if self._before else None
        self._start_image: StartImage | None = None
        self._remembered: RememberedFrames | None = None
        self._begun = False
        self._lock = threading.RLock()  # guards the record's data; not held while a block is stored or encoded
        self._stage_seconds: dict[str, float] = {}
        self._first_block = self.blocks
        self._shown = self._blocks = self._find_shown()
        self.frames_before = timeline.pixels_of(self._blocks).start if self._blocks else 0
        self._notes = MemoryNotes()
        for block in range(self._blocks):
            self._add_note(block)
        self._frames_kept = self.frames_before
        self._video_sum = self._before.video.sha256 if self._before else None
        self._started_at = datetime.now(UTC)
        self._start_s = time.perf_counter()
        self._end_s: float | None = None

    # ---- used by the stream ----

    @property
    def blocks(self) -> int:
        """Number of committed blocks."""
        return self._claim.store.blocks if self._claim else 0

    @property
    def blocks_shown(self) -> int:
        """Number of blocks of an earlier run that the video keeps: up to a safe cut, and never the whole take."""
        return self._shown

    def _find_shown(self) -> int:
        if not self._resumes:
            return 0
        assert self._before is not None
        safe, every = intact_frames(self.folder, self._before), self._timeline.segment_blocks
        cuts = range(0, min(self.blocks + 1, self._timeline.blocks), every)
        return max(cut for cut in cuts if not cut or self._timeline.pixels_of(cut).start <= safe)

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints, which speed up exact resuming."""
        if self._checkpoints is None:
            from longlive_rag.takes.checkpoints import Checkpoints

            every = self._timeline.segment_blocks
            self._checkpoints = Checkpoints(self.folder / CHECKPOINTS, self._checkpoint, every)
        return self._checkpoints

    def keep_rights(self, policy: LicensePolicy, loaded: Sequence[FileRights]) -> None:
        """Record the files that the take is made with from here on, and the policy they were loaded under.

        Raises:
            LicenseError: if the take was begun under a weaker policy.
            ValueError: if it was begun with other weights.
        """
        files, rights = tuple(loaded), self._before.rights if self._before else None
        if rights is not None:
            refuse_stricter(policy, rights.license_policy, str(self.folder))
            refuse_other_weights(rights.files, loaded, self.folder)
            policy, files = weaker(policy, rights.license_policy), together(rights.files, loaded)
        policy = weaker(policy, self._provenance.policy)
        remembered = rights.remembered if rights else ()
        self._provenance = replace(self._provenance, policy=policy, files=files, remembered=remembered)

    def keep_inputs(self, start_image: StartImage | None, remembered: RememberedFrames | None) -> None:
        """Keep the take's inputs, to be written with the first block."""
        self._start_image, self._remembered = start_image, remembered
        if remembered is not None and remembered.files:
            others = beyond(remembered.files, self._provenance.files)
            self._provenance = replace(self._provenance, remembered=others)

    def keep_page_budget(self, gpu_bytes: int) -> None:
        """Keep the automatic page budget on the GPU."""
        self._page_gpu_bytes = gpu_bytes

    def kept_page_budget(self) -> int | None:
        """The automatic page budget when a resumed take was begun."""
        return self._page_gpu_bytes

    def kept_start_image(self) -> StartImage | None:
        """The start image of a resumed take."""
        path = self.folder / START_IMAGE
        if not self._resumes or not path.is_file():
            return None
        return read_start_image(path, self._request.output)

    def kept_remembered(self) -> RememberedFrames | None:
        """The frames of other takes that a resumed take remembers.

        Raises:
            BrokenSealError: if they are not as they were written.
        """
        if not self._resumes or not (self.folder / REMEMBERED).is_file():
            return None
        from longlive_rag.takes.kept_frames import read_kept

        return read_kept(self.folder / REMEMBERED)

    def record(self, block: int) -> BlockRecord:
        """Read a committed block."""
        return self._stored().record(block)

    def _stored(self) -> LatentWriter:
        if self._claim is None:
            raise ValueError(f"{self.folder} has no latents yet")
        return self._claim.store

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Time spent so far, by stage."""
        return dict(self._stage_seconds)

    @property
    def selections(self) -> tuple[Selection, ...]:
        """What the blocks so far brought back."""
        return tuple(self._notes.selections)

    def snapshot(self) -> TakeRecord:
        """The record as of now."""
        with self._lock:
            return self._record("running")

    @property
    def frames_retrieved(self) -> int:
        """Number of past frames brought back, over all blocks so far."""
        return self._notes.frames_retrieved

    def append(self, record: BlockRecord) -> None:
        """Commit a block's latents and metadata, before it is decoded; Ctrl-C is deferred meanwhile.

        Raises:
            OSError: if writing fails.
            ValueError: if another process is writing to this take.
        """
        with uninterrupted():
            with self._lock:
                self._begin()
            self._stored().append(record)

    def latents(self, frames: Sequence[int]) -> NDArray[np.float32]:
        """Latents [N, C, h, w] float32 of committed latent frames."""
        return self._stored().latents(frames)

    @property
    def pages(self) -> PageCounters | None:
        """Counters of the page cache as of the newest block; None without memory."""
        return self._pages

    def add(self, block: Block) -> None:
        """Write a finished block; Ctrl-C waits until it is done.

        Raises:
            OSError: if the disk refuses; `finish` then keeps what was written until there.
        """
        with uninterrupted():
            begin_s = time.perf_counter()
            video = self._opened()
            if block.index % self._timeline.segment_blocks == 0:
                video.cut()
            video.write(np.asarray(block.pixels[self._item]))
            found = selection_of(block.selections, self._item)
            with self._lock:
                self._notes.add(block.index, found, None if block.entered is None else block.entered[self._item])
                self._blocks += 1
                self._pages = block.pages
                self._add_seconds({**block.seconds, "write": time.perf_counter() - begin_s})

    def update(self, request: TakeRequest, timeline: Timeline) -> None:
        """Update the request; if the take has begun, the record is written at once."""
        with uninterrupted(), self._lock:
            self._request, self._timeline = request, timeline
            if self.frames_before:
                self._begin()  # the video is only cut back to `frames_before` once there is a block to add
            if self._begun and self._end_s is None:
                write_record(self.folder, self._record("running"))

    def save(self) -> None:
        """Draw the pictures and write the record as of now, while the take continues."""
        with uninterrupted():
            if self._video is not None:
                self._frames_kept = self._timeline.pixels_of(self._blocks - 1).stop
                self._draw()
                with self._lock:
                    write_record(self.folder, self._record("running"))

    def finish(self, status: TakeStatus, error: BaseException | None = None) -> TakeRecord:
        """Finish the video, draw the pictures and write the record; Ctrl-C has no effect meanwhile.

        Args:
            status: how the take ended.
            error: why it failed, if it did.

        Returns:
            The record, as in `take.json`. If no frame was kept, nothing is left on disk and its frames are 0.

        Raises:
            OSError: if there is no room even for the record; the video is safe by then. If only the pictures don't
                fit, a finished take counts as failed, with all of its video.
        """
        with uninterrupted(let_through=False):
            begin_s = time.perf_counter()
            try:
                return self._finish(status, error, begin_s)
            finally:
                if self._claim is not None:
                    self._claim.release()

    def _finish(self, status: TakeStatus, error: BaseException | None, begin_s: float) -> TakeRecord:
        if self._video is not None:
            self._frames_kept = self._video.close()
            self._video_sum = sha256_of(self.folder / VIDEO) if self._frames_kept else None
        elif self._resumes:
            self._keep_video()
        self._end_s = self._end_s or time.perf_counter()
        self._add_seconds({"write": self._end_s - begin_s})
        if not self._frames_kept and not self._resumes:
            self._remove()
            return self._record(status, error)
        if not self._begun:
            return self._record(status, error)
        try:
            if self._frames_kept:
                self._draw()
        except OSError as full:
            status, error = ("failed", full) if status == "finished" else (status, error or full)
        for name in (RESERVE, NEWEST):
            (self.folder / name).unlink(missing_ok=True)
        record = write_record(self.folder, self._record(status, error))
        begin_sums(self.folder / VIDEO)  # the record now has the checksum of the whole video
        return record

    def _keep_video(self) -> None:
        """Record the video that an earlier run left, to which no block was added."""
        assert self._before is not None
        video, timeline = self.folder / VIDEO, self._timeline
        self._frames_kept = self.frames_before = intact_frames(self.folder, self._before)
        if self._frames_kept and self._frames_kept == safe_frames(video):
            self._video_sum = sha256_of(video)
        while self._blocks < self.blocks and timeline.pixels_of(self._blocks).stop <= self._frames_kept:
            self._add_note(self._blocks)
            self._blocks += 1

    def _add_note(self, block: int) -> None:
        """Note what a block of an earlier run remembered."""
        stored = self.record(block)
        self._notes.add(block, stored.selection, stored.entered)

    def _begin(self) -> None:
        """Make the folder this take's; call with the lock held."""
        if self._begun:
            return
        if self._claim is None:
            self._claim = TakeClaim(self.folder, overwrite=True)
        try:
            (self.folder / RESERVE).unlink(missing_ok=True)
            (self.folder / RESERVE).write_bytes(bytes(RESERVE_BYTES))  # space for the record in case the disk fills up
        except OSError:
            (self.folder / RESERVE).unlink(missing_ok=True)
            raise
        self._begun = True
        if not self._resumes:
            self._replace_old()
        write_record(self.folder, self._record("running"))

    def _replace_old(self) -> None:
        """Remove the old take, blocks from the last to the first, as its record is valid until replaced.

        Its video goes as well: of a take that is killed before its first frame, that would be taken for the beginning.
        """
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        self._stored().forget()
        begin_sums(self.folder / VIDEO)
        for name in (VIDEO, CONTACT_SHEET, MEMORY_MAP, *INPUTS, NEWEST):
            (self.folder / name).unlink(missing_ok=True)
        if self._start_image is not None:
            save_picture(Image.fromarray(self._start_image.pixels), self.folder / START_IMAGE)
        if self._remembered is not None:
            from longlive_rag.takes.kept_frames import write_kept

            write_kept(self._remembered, self.folder / REMEMBERED)

    def _opened(self) -> VideoWriter:
        """The video writer, opened on the first call."""
        with self._lock:
            if self._video is None:
                self._video = self._open()
            return self._video

    def _open(self) -> VideoWriter:
        self._begin()
        output, path, kept = self._request.output, self.folder / VIDEO, self.frames_before
        block = self._timeline.frames_per_block * self._timeline.temporal_factor
        video = VideoWriter(
            path,
            width=output.width,
            height=output.height,
            fps=output.fps,
            upscale=output.upscale,
            codec=self._run.codec,
            tags=self._provenance.video_tags(self._run.backbone, self._request.seed),
            label=self._provenance.visible_text,
            keyframe_every=self._timeline.segment_blocks * block,
            sums=True,
            begin=(path, kept) if kept else None,
            on_packet=NewestBlock(self.folder, self._timeline, self._shown).on_packet,
        )
        self._video_sum = None
        return video

    def _remove(self) -> None:
        """Remove what was written if no frame is kept."""
        for name in (*FILES, *INPUTS, NEWEST, RESERVE, sums_of(Path(VIDEO)).name) if self._begun else ():
            (self.folder / name).unlink(missing_ok=True)
        if self._begun:
            shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
            for block in (self.folder / LATENTS).glob("*.h5"):
                block.unlink()

    def _draw(self) -> None:
        asked = self._timeline
        made = Timeline(self._frames_kept, asked.fps, asked.frames_per_block, asked.temporal_factor)
        draw_pictures(self.folder, self._request, made, self._run.backbone, self._notes, self._blocks)

    def _add_seconds(self, seconds: dict[str, float]) -> None:
        for stage, value in seconds.items():
            self._stage_seconds[stage] = self._stage_seconds.get(stage, 0.0) + value

    def _record(self, status: TakeStatus, error: BaseException | None = None) -> TakeRecord:
        total_s = (self._end_s or time.perf_counter()) - self._start_s
        started, before = self._started_at.isoformat(timespec="seconds"), self._before
        new_frames = self._frames_kept - self.frames_before
        request, timeline, blocks = self._request, self._timeline, self._blocks
        cues = cue_facts(request, timeline, blocks)
        image = before.start_image if before else None
        event = HistoryEntry(what=self._event, started=started, from_block=self._first_block)
        record = TakeRecord(
            format=TakeRecord.FORMAT,
            status=status,
            started=before.started if before else started,
            request=request,
            run=self._run,
            rights=Rights.of(self._provenance),
            versions=versions(),
            video=video_facts(request, timeline, self._run.codec, self._frames_kept, blocks, self._video_sum),
            cues=cues,
            memory=self._notes.facts(request, timeline, blocks, cues, self._pages, self._page_gpu_bytes),
            latents=LatentsFacts(folder=LATENTS, blocks=self.blocks) if self.blocks else None,
            checkpoints=self._checkpoints.facts() if self._checkpoints else None,
            start_image=image if self._start_image is None else start_image_facts(self._start_image),
            branched_from=before.branched_from if before else None,
            history=(*(before.history if before else ()), event),
            timings=Timings(
                seconds=round(total_s, 3),
                new_frames=new_frames,
                frames_per_second=round(new_frames / total_s, 3) if new_frames > 0 else 0.0,
                by_stage={stage: round(value, 4) for stage, value in self._stage_seconds.items()},
            ),
            selections=self.selections,
        )
        if error is None:
            return record
        trace = "".join(traceback.format_exception(error))
        return record.model_copy(update={"error": Failure(message=f"{type(error).__name__}: {error}", traceback=trace)})
