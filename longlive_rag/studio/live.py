"""The room in which one take at a time is made: a thread that makes blocks, and what may be said to it meanwhile."""

from __future__ import annotations

import gc
import queue
import secrets
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from longlive_rag.generation.behind import LIVE_AHEAD
from longlive_rag.media.pictures import runs
from longlive_rag.presets.precision import Precision
from longlive_rag.presets.preset import Preset
from longlive_rag.sessions.live import LiveTake
from longlive_rag.sessions.making import TakeEnded, TakeJob, check_finished, ending_well, reason_of
from longlive_rag.sessions.opening import Note
from longlive_rag.studio import schema
from longlive_rag.studio.events import Hub
from longlive_rag.studio.library import Takes, facts_of, memory_of, other_frames, segment_of
from retrieval.selection import selection_of

if TYPE_CHECKING:
    from longlive_rag.generation.block import Block
    from longlive_rag.pipeline import LongLiveRAGPipeline

LONGEST_WAIT_S = 0.5  # between two looks at what a take waits for


class BusyError(Exception):
    """Another take is being made."""


class NotLiveError(Exception):
    """The take is not being made now."""


Loaded = Callable[[Preset, Precision, str], "LongLiveRAGPipeline | None"]
"""(backbone, its precision, licence policy) to the backbone, if it is loaded already."""
Open = Callable[[Loaded, Note], AbstractContextManager[TakeJob]]
"""Checks and opens what is to be made; it is called in the thread that makes it."""


@dataclass(frozen=True)
class Order:
    """A take to be made.

    Attributes:
        folder: of the take.
        open: see there.
        waits: it begins with the next direction, or when it is told to go on.
        ready: its id, or why it can't be made.
    """

    folder: Path
    open: Open
    waits: bool = False
    ready: Future[str] = field(default_factory=Future)


@dataclass(frozen=True)
class Made:
    """A block that was made, as far as `BlockEvent` has it before the block can be fetched."""

    block: int
    memory: schema.BlockMemory | None
    entered: list[int]
    prompt: str
    cue: int | None
    stats: schema.Stats


class Stretch:
    """The take that is made now.

    Args:
        take: its id.
        order, job: what is made.
        on_block: called with every block as soon as it is written, in the thread that writes.
    """

    def __init__(self, take: str, order: Order, job: TakeJob, on_block: Callable[[Stretch, Block], None]) -> None:
        self.id, self.folder, self.waits = take, order.folder, order.waits
        self.job = job
        self.live = LiveTake(
            job.pipe, job.request, job.writer, keeps_length=True, ahead=LIVE_AHEAD, on_block=self._written
        )
        self._on_block = on_block
        self.timeline = job.pipe.timeline(job.request)
        self.first_block = job.writer.blocks  # that is new
        self.blocks = job.writer.blocks_shown  # that can be fetched
        self.unsaid: deque[Made] = deque()
        self.entered: list[int] = []
        self.stopped = False
        self.unknown: list[str] = []
        self.made_frames, self.begun_s, self.waited_s = 0, time.perf_counter(), 0.0
        self._planned: dict[int, str] = {}  # block: id
        self.record = job.writer.snapshot()
        self.others = other_frames(self.record, None)

    def _written(self, block: Block) -> None:
        self._on_block(self, block)

    def planned_id(self, second: float) -> str:
        """Of the direction that takes over there."""
        return self._planned.setdefault(self.timeline.cue_block(second), secrets.token_urlsafe(6))

    def second_of(self, planned_id: str) -> float:
        """Where a planned direction takes over; ValueError if it is not known."""
        for block, each in self._planned.items():
            if each == planned_id:
                return self.timeline.starts_at(block)
        raise ValueError("there is no such planned cue any more; it has taken over or was withdrawn")

    def is_cut(self, second: float) -> bool:
        """Whether another shot begins with the direction that takes over there."""
        block = self.timeline.cue_block(second)
        return any(cue.cut and self.timeline.cue_block(cue.seconds) == block for cue in self.live.asked.cues)

    def forget(self, second: float) -> None:
        """A planned direction is withdrawn."""
        self._planned.pop(self.timeline.cue_block(second), None)

    def admitted(self) -> list[tuple[int, int]] | None:
        """Latent frames in memory, the sink apart, each (first, after the last); None without memory."""
        context = self.job.request.context
        if not context.memory_frames:
            return None
        before = self.record.memory.admitted or ()
        frames = {frame for span in before for frame in range(*span)} | set(self.entered)
        return runs(sorted(frame for frame in frames if frame >= context.sink_frames))

    def cues(self) -> list[schema.CueFacts]:
        """All cues; those that can still be changed have an id."""
        begun = self.live.seconds
        found = []
        for number, cue in enumerate(self.live.asked.cues, start=1):
            block = self.timeline.cue_block(cue.seconds)
            second = self.timeline.starts_at(block)
            is_planned = second >= begun
            found.append(
                schema.CueFacts(
                    number=None if is_planned else number,
                    seconds=second,
                    prompt=cue.prompt,
                    cut=cue.cut,
                    reached=block < self.blocks,
                    planned_id=self.planned_id(second) if is_planned else None,
                )
            )
        return found


class Room:
    """Makes takes, one at a time, in a thread of its own.

    Args:
        takes: where they are.
        hub: what happens is said there.

    Attributes:
        blocks_ahead: how far it may be ahead of the playhead; None is as far as it can.
    """

    def __init__(self, takes: Takes, hub: Hub) -> None:
        self._takes, self._hub = takes, hub
        self.blocks_ahead: int | None = None
        self._changed = threading.Condition()
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._waiting = 0  # orders that are not at their end
        self._current: Stretch | None = None
        self._playheads: dict[str, float] = {}
        self._loaded: tuple[tuple[Path, Precision, str], LongLiveRAGPipeline] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="studio", daemon=True)
        self._thread.start()

    # ---- from any thread ----

    @property
    def current(self) -> Stretch | None:
        """The take that is made now."""
        return self._current

    def live(self, take: str) -> Stretch:
        """The take that is made now, if it is this one.

        Raises:
            NotLiveError: if it isn't.
        """
        current = self._current
        if current is None or current.id != take:
            raise NotLiveError
        return current

    def begin(self, order: Order, after: str | None = None) -> str:
        """Make a take; returns its id when it has begun.

        Args:
            after: the take that is made now, which ends with the block that is being made.

        Raises:
            BusyError: if another take is being made.
            ValueError, OSError: if it can't be made.
        """
        with self._changed:
            ended = self._current if after is not None and self._current and self._current.id == after else None
            if self._waiting > (1 if ended else 0) or self._closed:
                raise BusyError
            self._waiting += 1
            self._orders.put(order)
            if ended is not None:
                self._stop(ended)
        return order.ready.result()

    def stop(self, take: str) -> None:
        """End a take after the block that is being made; NotLiveError if it isn't made now."""
        with self._changed:
            self._stop(self.live(take))

    def go_on(self, take: str) -> None:
        """Let a take that waits begin; NotLiveError if it isn't made now."""
        with self._changed:
            self.live(take).waits = False
            self._changed.notify_all()

    def set_pace(self, blocks_ahead: int | None) -> None:
        """How far to be ahead of the playhead."""
        with self._changed:
            self.blocks_ahead = blocks_ahead
            self._changed.notify_all()

    def playhead(self, take: str, second: float) -> None:
        """What the director sees."""
        with self._changed:
            if self._current is not None and self._current.id == take:
                self._playheads = {take: second}
                self._changed.notify_all()

    def close(self, timeout_s: float = 60.0) -> None:
        """End what is being made; what was finished is kept."""
        with self._changed:
            self._closed = True
            self._orders.put(None)
            if self._current is not None:
                self._stop(self._current)
        self._thread.join(timeout_s)

    def _stop(self, stretch: Stretch) -> None:
        stretch.stopped, stretch.waits = True, False
        stretch.live.cancel()
        self._changed.notify_all()

    # ---- in the room's thread ----

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            made: list[Stretch] = []
            try:
                self._play(order, made)
            except BaseException as error:  # whatever a take runs into, the studio goes on
                traceback.print_exc(file=sys.stderr)
                self._hub.say(schema.ErrorEvent(take=None, message=reason_of(error)))
                if not order.ready.done():
                    order.ready.set_exception(ValueError(reason_of(error)))
            with self._changed:
                self._waiting -= 1
                self._current = None
            for stretch in made:
                self._say_ended(stretch)

    def _play(self, order: Order, made: list[Stretch]) -> None:
        notes: list[str] = []
        with ExitStack() as held:
            try:
                job = held.enter_context(order.open(self._pipe, notes.append))
                stretch = self._opened(order, job)
            except Exception as error:
                order.ready.set_exception(error)
                return
            made.append(stretch)
            for sentence in notes:
                self._hub.say(schema.NoteEvent(take=stretch.id, message=sentence))
            try:
                self._make(stretch, order)
            except TakeEnded as ended:
                self._hub.say(schema.ErrorEvent(take=stretch.id, message=f"{order.folder.name}: {ended.reason}"))
                self._free_memory()

    def _pipe(self, preset: Preset, precision: Precision, policy: str) -> LongLiveRAGPipeline | None:
        key = (preset.folder, precision, policy)
        if self._loaded is not None and self._loaded[0] != key:
            self._free_memory()
        return self._loaded[1] if self._loaded else None

    def _free_memory(self) -> None:
        import torch

        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _opened(self, order: Order, job: TakeJob) -> Stretch:
        record = job.writer.snapshot()
        policy = record.rights.license_policy if record.rights else "any"
        self._loaded = ((record.run.folder, record.run.precision, policy), job.pipe)
        stretch = Stretch(self._takes.id_of(order.folder), order, job, self._say_block)
        stretch.unknown = [word for words in record.run.unknown_words.values() for word in words]
        return stretch

    def _make(self, stretch: Stretch, order: Order) -> None:
        writer = stretch.job.writer
        with ending_well(writer):
            with self._changed:
                self._current = stretch
                if self._closed:
                    self._stop(stretch)
            order.ready.set_result(stretch.id)
            self._hub.say(schema.CutEvent(take=stretch.id, blocks=stretch.blocks))
            self.say_facts(stretch)
            self._make_blocks(stretch)
            unfinished = stretch.stopped and stretch.blocks < stretch.timeline.blocks
            record = writer.finish("interrupted" if unfinished else "finished")
        check_finished(record, writer.folder)

    def _make_blocks(self, stretch: Stretch) -> None:
        if stretch.blocks >= stretch.first_block:
            self._wait_for_director(stretch)
        stretch.begun_s = time.perf_counter()
        with closing(iter(stretch.live)) as blocks:  # type: ignore[type-var]  # a generator
            for block in blocks:
                begin_s = time.perf_counter()
                if block.index + 1 >= stretch.first_block:
                    self._wait_for_director(stretch)
                self._keep_pace(stretch, max(block.index + 1, stretch.live.blocks_begun))
                stretch.waited_s += time.perf_counter() - begin_s

    def _wait_for_director(self, stretch: Stretch) -> None:
        with self._changed:
            while stretch.waits:
                self._changed.wait(LONGEST_WAIT_S)

    def _keep_pace(self, stretch: Stretch, following: int) -> None:
        with self._changed:
            while not stretch.stopped and self.blocks_ahead is not None and self._hub.is_watched(stretch.id):
                second = self._playheads.get(stretch.id, 0.0)
                frame = min(round(second * stretch.timeline.fps), stretch.timeline.pixel_frames - 1)
                if following - stretch.timeline.block_at(frame) <= self.blocks_ahead:
                    return
                self._changed.wait(LONGEST_WAIT_S)

    def _say_block(self, stretch: Stretch, block: Block) -> None:
        stretch.made_frames += len(block.pixel_frames)
        busy_s = time.perf_counter() - stretch.begun_s - stretch.waited_s
        found = selection_of(block.selections, 0)
        memory: schema.BlockMemory | None = None
        if found is not None:
            told = stretch.live.asked.memory
            memory = memory_of(found, told, stretch.timeline, stretch.others, self._takes)
        entered = list(block.entered[0]) if block.entered is not None else []
        stretch.entered += entered
        pages = block.pages
        made = Made(
            block.index,
            memory,
            entered,
            block.prompt,
            block.cue,
            schema.Stats(
                fps=round(stretch.made_frames / max(busy_s, 1e-9), 2),
                made_seconds=block.pixel_frames.stop / stretch.timeline.fps,
                pages_bytes=pages.gpu_bytes + pages.host_bytes if pages else 0,
                memory_bytes=_memory_bytes(stretch.job.pipe),
            ),
        )
        stretch.unsaid.append(made)
        self._say_made(stretch)

    def _say_made(self, stretch: Stretch) -> None:
        """Say which blocks can be fetched: all that are in the take's video."""
        film = self._takes.film(stretch.id)
        while stretch.unsaid and stretch.unsaid[0].block < len(film.stamps):
            made = stretch.unsaid.popleft()
            stretch.blocks = max(stretch.blocks, made.block + 1)
            self._hub.say(
                schema.BlockEvent(
                    take=stretch.id,
                    segment=segment_of(stretch.id, film, made.block),
                    memory=made.memory,
                    entered=made.entered,
                    prompt=made.prompt,
                    cue=made.cue,
                    stats=made.stats,
                )
            )
            if made.cue is not None:
                self._hub.say(schema.CuesEvent(take=stretch.id, cues=stretch.cues()))

    def _say_ended(self, stretch: Stretch) -> None:
        try:
            self._hub.say(schema.TakeEvent(take=self._takes.facts(stretch.id)))
        except Exception:  # nothing was finished, or it was deleted
            self._hub.say(schema.GoneEvent(take=stretch.id))

    def say_facts(self, stretch: Stretch) -> None:
        """The take as it is now."""
        self._hub.say(schema.TakeEvent(take=live_facts(stretch, self._takes)))


def live_facts(stretch: Stretch, takes: Takes) -> schema.TakeFacts:
    """A take that is being made."""
    asked, timeline = stretch.live.asked, stretch.timeline
    frames = timeline.pixels_of(stretch.blocks - 1).stop if stretch.blocks else 0
    return schema.TakeFacts(
        **{**facts_of(stretch.record, takes), "seconds": asked.seconds, "unknown_words": stretch.unknown},
        id=stretch.id,
        name=stretch.folder.name,
        status="live",
        waiting=stretch.waits,
        frames=frames,
        made_seconds=frames / timeline.fps,
        blocks=stretch.blocks,
    )


def _memory_bytes(pipe: Any) -> int:
    import torch

    if pipe.device.type == "cuda":
        return int(torch.cuda.memory_reserved(pipe.device))
    return int(psutil.Process().memory_info().rss)
