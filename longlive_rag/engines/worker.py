"""A worker: makes one session's take at a time, and handles messages meanwhile."""

from __future__ import annotations

import gc
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import psutil

from backbone.errors import FieldError
from longlive_rag.engines.engine import BlockFacts, OpenedTake
from longlive_rag.engines.messages import (
    Answer,
    Asked,
    Begin,
    BlockMade,
    Direct,
    End,
    Ended,
    FromWorker,
    Leave,
    Opened,
    Pace,
    Ready,
    Steer,
    ToWorker,
    Withdraw,
)
from longlive_rag.engines.orders import BackboneKey, opened, with_given
from longlive_rag.generation.behind import LIVE_AHEAD
from longlive_rag.sessions.live import LiveTake
from longlive_rag.sessions.making import TakeEnded, TakeJob, check_finished, ending_well, exhaust, reason_of
from longlive_rag.sessions.resuming import OpenTake
from longlive_rag.timeline import Timeline
from retrieval.selection import selection_of

if TYPE_CHECKING:
    from longlive_rag.generation.block import Block
    from longlive_rag.pipeline import LongLiveRAGPipeline

Say = Callable[[FromWorker], None]
Way = Literal["finished", "stopped", "parked"]


class Worker:
    """Makes takes on one device; its backbone stays loaded from one take to the next.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        place: where that is, for people.
        say: called with messages, from several threads.
    """

    def __init__(self, device: str, place: str, say: Say) -> None:
        self._device, self._place, self._say = device, place, say
        self._begins: queue.SimpleQueue[Begin | End] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._answering = threading.Lock()  # so that the last answer has the newest request
        self._session: str | None = None
        self._live: LiveTake | None = None
        self._leave: Leave | None = None
        self._last_block: int | None = None
        self._is_held = False
        self._key: BackboneKey | None = None
        self._pipe: LongLiveRAGPipeline | None = None
        self._threads: int | None = None

    # ---- from any thread ----

    def tell(self, message: ToWorker) -> None:
        """Handle a message; a direction is answered at once."""
        match message:
            case Begin() | End():
                with self._changed:
                    if isinstance(message, Begin):
                        self._session, self._leave, self._last_block = message.session, None, message.last_block
                self._begins.put(message)
            case Leave() | Pace():
                with self._changed:
                    if message.session == self._session:
                        self._hear(message)
            case Direct() | Steer() | Withdraw():
                with self._answering:
                    self._say(self._answer(message))

    def _hear(self, message: Leave | Pace) -> None:
        if isinstance(message, Pace):
            self._last_block = message.last_block
        else:
            self._leave = message
            self._leave_now()
        self._changed.notify_all()

    def _answer(self, message: Asked) -> Answer:
        with self._changed:
            live = self._live if message.session == self._session else None
        try:
            if live is None:
                raise ValueError("the session isn't making blocks now; try again when it is")
            second = _carry_out(live, message)
        except ValueError as error:
            return Answer(message.session, message.call, error=error)
        return Answer(message.session, message.call, second, None, live.asked, live.blocks_begun)

    def _leave_now(self) -> None:
        """End the take after its block; a held one is cancelled, since a checkpoint would need another block."""
        if self._live is not None and self._leave is not None:
            (self._live.park if self._leave.parked and not self._is_held else self._live.cancel)()

    # ---- in the thread that makes takes ----

    def run(self) -> None:
        """Make takes until `End`.

        Raises:
            BaseException: anything unexpected; the current take has failed, and the process must end.
        """
        import torch

        import longlive_rag.weights.load  # noqa: F401  # slow; better before a session is assigned

        self._threads = torch.get_num_threads()
        gc.freeze()  # modules stay, so collecting after each take can skip them
        self._say(Ready(self._place, os.getpid()))
        while isinstance(begin := self._begins.get(), Begin):
            ended = self._run(begin)
            gc.collect()  # the parts of a take form cycles: its cache and its encoder's threads would linger
            self._say(ended)

    def _run(self, begin: Begin) -> Ended:
        try:
            return Ended(begin.session, self._make(begin))
        except TakeEnded as ended:
            self._forget_backbone()
            return Ended(begin.session, "failed", ended.reason)
        except (ValueError, OSError) as error:
            refused = error if isinstance(error, FieldError) else ValueError(reason_of(error))
            return Ended(begin.session, "failed", reason_of(error), refused=refused)
        except BaseException as error:
            traceback.print_exc(file=sys.stderr)
            self._say(Ended(begin.session, "failed", reason_of(error), is_last=True))
            raise
        finally:
            with self._changed:
                self._session = self._live = None

    def _make(self, begin: Begin) -> Way:
        notes: list[str] = []
        with opened(begin, self._device, self._backbone, notes.append) as job:
            if isinstance(job, OpenTake):
                self._say(_opened(begin.session, job.timeline, job.blocks, notes))
                return "finished"
            self._pipe = job.pipe
            request = with_given(job.request, job.pipe.timeline(job.request), begin.given)
            reporter = _Reporter(begin.session, job, self._say)
            hold = partial(self._hold, reporter)
            live = LiveTake(job.pipe, request, job.writer, True, LIVE_AHEAD, on_block=reporter.block, hold=hold)
            reporter.live = live
            with ending_well(job.writer):
                way = self._make_blocks(job, live, reporter.opened(notes))
                record = job.writer.finish("finished" if way == "finished" else "interrupted")
            check_finished(record, job.writer.folder)
            return way

    def _make_blocks(self, job: TakeJob, live: LiveTake, opened: Opened) -> Way:
        with self._changed:  # directions may follow as soon as it is reported as opened
            self._live = live
            self._say(opened)
            self._leave_now()
        exhaust(iter(live))
        with self._changed:
            self._live, leave = None, self._leave
        if job.writer.blocks >= job.pipe.timeline(job.request).blocks or leave is None:
            return "finished"
        return "parked" if leave.parked else "stopped"

    def _hold(self, reporter: _Reporter, block: int) -> None:
        """Wait until this block may be begun, or the session is to end."""
        begin_s = time.perf_counter()
        with self._changed:
            self._is_held = not self._may_begin(block)
            self._changed.wait_for(lambda: self._leave or self._may_begin(block))
            self._is_held = False
        reporter.held_s += time.perf_counter() - begin_s

    def _may_begin(self, block: int) -> bool:
        return self._last_block is None or block <= self._last_block

    # ---- the backbone ----

    def _backbone(self, key: BackboneKey) -> LongLiveRAGPipeline | None:
        if self._key != key:
            self._forget_backbone()
            self._key = key
        return self._pipe

    def _forget_backbone(self) -> None:
        import torch

        self._pipe = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._threads is not None:
            torch.set_num_threads(self._threads)  # a small backbone takes one


class _Reporter:
    """Reports on a take while it is made.

    Args:
        session: id of its session.
        job: what is made.
        say: called with the messages.

    Attributes:
        live: makes the take.
        held_s: for how long its blocks were held, in seconds.
    """

    live: LiveTake

    def __init__(self, session: str, job: TakeJob, say: Say) -> None:
        self._session, self._job, self._say = session, job, say
        self._timeline, self._first = job.pipe.timeline(job.request), job.writer.blocks
        self._frames = 0
        self._begun_s, self.held_s = time.perf_counter(), 0.0

    def opened(self, notes: list[str]) -> Opened:
        """The message that the take is opened, before its first block."""
        writer = self._job.writer
        message = _opened(self._session, self._timeline, self._first, notes)
        take = OpenedTake(writer.snapshot(), self._timeline, writer.blocks_shown)
        return replace(message, take=take, asked=self.live.asked)

    def block(self, block: Block) -> None:
        """Report a block as soon as it can be viewed; called in the writer's thread."""
        self._frames += len(block.pixel_frames)
        busy_s = time.perf_counter() - self._begun_s - self.held_s
        pages, entered = block.pages, block.entered
        facts = BlockFacts(
            index=block.index,
            stop_frame=block.pixel_frames.stop,
            selection=selection_of(block.selections, 0),
            entered=entered[0] if entered is not None else (),
            prompt=block.prompt,
            cue=block.cue,
            pages_bytes=pages.gpu_bytes + pages.host_bytes if pages else 0,
            memory_bytes=memory_bytes(self._job.pipe),
            frames_per_second=self._frames / max(busy_s, 1e-9),
        )
        blocks = max(self._first, block.index + 1)
        seconds = self._timeline.pixels_of(blocks - 1).stop / self._timeline.fps
        stages = self._job.writer.stage_seconds
        self._say(BlockMade(self._session, blocks, seconds, stages, self.live.blocks_begun, facts))


def _carry_out(live: LiveTake, message: Asked) -> float:
    """Give a direction to a take; returns the second at which it takes effect."""
    match message:
        case Direct():
            return live.direct(message.prompt, message.at, message.cut)
        case Steer():
            return live.steer(message.order)
    live.withdraw(message.at)
    return message.at


def _opened(session: str, timeline: Timeline, blocks: int, notes: list[str]) -> Opened:
    frames = timeline.pixels_of(blocks - 1).stop if blocks else 0
    seconds_asked = timeline.pixel_frames / timeline.fps
    return Opened(session, blocks, timeline.blocks, frames / timeline.fps, seconds_asked, tuple(notes))


def memory_bytes(pipe: Any) -> int:
    """Memory that this process holds: of the GPU, if `pipe` is on one."""
    import torch

    if pipe.device.type == "cuda":
        return int(torch.cuda.memory_reserved(pipe.device))
    return int(psutil.Process().memory_info().rss)
