"""A worker: makes one session's take at a time, and hears what is said to it meanwhile."""

from __future__ import annotations

import gc
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import psutil

from longlive_rag.engines.messages import (
    Answer,
    Begin,
    BlockMade,
    Direct,
    End,
    Ended,
    FromWorker,
    Leave,
    Opened,
    Ready,
    Steer,
    ToWorker,
)
from longlive_rag.engines.orders import BackboneKey, opened, with_given
from longlive_rag.generation.behind import LIVE_AHEAD
from longlive_rag.sessions.live import LiveTake
from longlive_rag.sessions.making import TakeEnded, TakeJob, check_finished, ending_well, exhaust, reason_of
from longlive_rag.sessions.resuming import OpenTake
from longlive_rag.timeline import Timeline

if TYPE_CHECKING:
    from longlive_rag.generation.block import Block
    from longlive_rag.pipeline import LongLiveRAGPipeline

Say = Callable[[FromWorker], None]
Way = Literal["finished", "stopped", "parked"]


class Worker:
    """Makes takes on one device; it keeps its backbone from one to the next.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        place: where that is, for people.
        say: is told what happens, from several threads.
    """

    def __init__(self, device: str, place: str, say: Say) -> None:
        self._device, self._place, self._say = device, place, say
        self._begins: queue.SimpleQueue[Begin | End] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._session: str | None = None
        self._live: LiveTake | None = None
        self._leave: Leave | None = None
        self._key: BackboneKey | None = None
        self._pipe: LongLiveRAGPipeline | None = None
        self._threads: int | None = None

    # ---- from any thread ----

    def tell(self, message: ToWorker) -> None:
        """Hear a message; a direction is answered at once."""
        match message:
            case Begin() | End():
                with self._lock:
                    if isinstance(message, Begin):
                        self._session, self._leave = message.session, None
                self._begins.put(message)
            case Leave():
                with self._lock:
                    if message.session == self._session:
                        self._leave = message
                        self._leave_now()
            case Direct() | Steer():
                self._say(self._answer(message))

    def _answer(self, message: Direct | Steer) -> Answer:
        with self._lock:
            live = self._live if message.session == self._session else None
        try:
            if live is None:
                raise ValueError("the session makes no blocks yet, or no more; say it again when it does")
            if isinstance(message, Direct):
                return Answer(message.session, message.call, live.direct(message.prompt, message.at, message.cut))
            return Answer(message.session, message.call, live.steer(message.order))
        except ValueError as error:
            return Answer(message.session, message.call, error=error)

    def _leave_now(self) -> None:
        if self._live is not None and self._leave is not None:
            (self._live.park if self._leave.parked else self._live.cancel)()

    # ---- in the thread that makes takes ----

    def run(self) -> None:
        """Make takes until the end.

        Raises:
            BaseException: what nobody expected; the take that was made has failed, and the process is to end.
        """
        import torch

        import longlive_rag.weights.load  # noqa: F401  # takes seconds, in which the session could wait elsewhere

        self._threads = torch.get_num_threads()
        self._say(Ready(self._place, os.getpid()))
        while isinstance(begin := self._begins.get(), Begin):
            self._say(self._ended(begin))

    def _ended(self, begin: Begin) -> Ended:
        try:
            return Ended(begin.session, self._make(begin))
        except TakeEnded as ended:
            self._forget_backbone()
            return Ended(begin.session, "failed", ended.reason)
        except (ValueError, OSError) as error:
            return Ended(begin.session, "failed", reason_of(error))
        except BaseException as error:
            traceback.print_exc(file=sys.stderr)
            self._say(Ended(begin.session, "failed", reason_of(error), is_last=True))
            raise
        finally:
            with self._lock:
                self._session = self._live = None

    def _make(self, begin: Begin) -> Way:
        notes: list[str] = []
        with opened(begin, self._device, self._backbone, notes.append) as job:
            if isinstance(job, OpenTake):
                self._say(_opened(begin.session, job.timeline, job.blocks, notes))
                return "finished"
            self._pipe = job.pipe
            request = with_given(job.request, job.pipe.timeline(job.request), begin.given)
            say = partial(self._say_block, begin.session, job, job.writer.blocks)
            live = LiveTake(job.pipe, request, job.writer, keeps_length=True, ahead=LIVE_AHEAD, on_block=say)
            with ending_well(job.writer):
                way = self._make_blocks(begin.session, job, live, notes)
                record = job.writer.finish("finished" if way == "finished" else "interrupted")
            check_finished(record, job.writer.folder)
            return way

    def _make_blocks(self, session: str, job: TakeJob, live: LiveTake, notes: list[str]) -> Way:
        timeline = job.pipe.timeline(job.request)
        self._say(_opened(session, timeline, job.writer.blocks, notes))
        with self._lock:
            self._live = live
            self._leave_now()
        exhaust(iter(live))
        with self._lock:
            self._live, leave = None, self._leave
        if job.writer.blocks >= timeline.blocks or leave is None:
            return "finished"
        return "parked" if leave.parked else "stopped"

    def _say_block(self, session: str, job: TakeJob, first: int, block: Block) -> None:
        """In the thread that writes, as soon as the block can be seen."""
        if block.index >= first:
            self._say(
                BlockMade(
                    session,
                    block.index + 1,
                    block.pixel_frames.stop / job.request.output.fps,
                    job.writer.stage_seconds,
                    memory_bytes(job.pipe),
                )
            )

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


def _opened(session: str, timeline: Timeline, blocks: int, notes: list[str]) -> Opened:
    frames = timeline.pixels_of(blocks - 1).stop if blocks else 0
    seconds_asked = timeline.pixel_frames / timeline.fps
    return Opened(session, blocks, timeline.blocks, frames / timeline.fps, seconds_asked, tuple(notes))


def memory_bytes(pipe: Any) -> int:
    """That this process holds: of the GPU, if `pipe` is on one."""
    import torch

    if pipe.device.type == "cuda":
        return int(torch.cuda.memory_reserved(pipe.device))
    return int(psutil.Process().memory_info().rss)
