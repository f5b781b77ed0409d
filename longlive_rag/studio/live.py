"""The room in which one take at a time is made, by an engine's worker, and directed."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from pydantic import BaseModel

from longlive_rag.config import Steering, TakeRequest
from longlive_rag.engines.engine import (
    ENDED,
    BlockFacts,
    Branch,
    Engine,
    Make,
    OpenedTake,
    Order,
    SessionFacts,
    Undo,
)
from longlive_rag.media.pictures import runs
from longlive_rag.studio import schema
from longlive_rag.studio.events import Director, Hub
from longlive_rag.studio.library import (
    InUseError,
    Takes,
    UnknownTakeError,
    facts_of,
    memory_of,
    other_frames,
    segment_of,
)
from longlive_rag.takes.record import TakeRecord
from longlive_rag.timeline import Timeline
from retrieval.selection import Selection

LOST = "the process that was making it was lost; another one continues it"
PARKED = "it waited for its viewer for minutes and is now parked on disk; it continues when it is watched or directed"


class BusyError(Exception):
    """Another take is being made."""


class NotLiveError(Exception):
    """The take is not being made now."""


class Stretch:
    """The take that is being made.

    Args:
        take: its id.
        order: what is made.
        session: id of its session.
        waits: whether it begins only with the next direction, or `go_on`.

    Attributes:
        ready: its id, once it is opened; or why it can't be made.
        asked: the request so far.
        blocks: number of blocks that can be fetched.
        unsent: blocks that were made but not announced yet; they may not be in the take's video.
    """

    record: TakeRecord
    timeline: Timeline
    asked: TakeRequest

    def __init__(self, take: str, order: Order, session: str, waits: bool) -> None:
        self.id, self.order, self.folder, self.session, self.waits = take, order, order.folder, session, waits
        self.ready: Future[str] = Future()
        self.stopped = self.is_parked = False
        self.unknown: list[str] = []
        self.unsent: deque[BlockFacts] = deque()
        self.blocks, self.blocks_begun, self.restarts = 0, 0, 0
        self.notes: tuple[str, ...] = ()
        self.opened: OpenedTake | None = None
        self.block: BlockFacts | None = None
        self.last_block: int | None = None
        self._planned: dict[int, str] = {}  # block: id

    def is_made_of(self, folder: Path) -> bool:
        """Whether it still may read another take: it branches from it, or is to remember it."""
        match self.order:
            case Branch() | Undo():
                return self.order.source == folder
            case Make():
                return any(spec.startswith(f"{folder}@") for spec in self.order.request.memory.remember)
        return False

    def open(self, opened: OpenedTake) -> None:
        """Note that a worker has opened the take; after a loss, blocks at its end are shown again."""
        self.opened, self.record, self.timeline = opened, opened.record, opened.timeline
        self.blocks, self.block = opened.blocks_shown, None
        self.unsent.clear()
        self.selections = list(self.record.selections)
        self.entered: list[int] = []
        self.others = other_frames(self.record)
        unknown = [word for words in self.record.run.unknown_words.values() for word in words]
        self.unknown = list(dict.fromkeys([*unknown, *self.unknown]))

    def add(self, block: BlockFacts) -> None:
        """Note a block that was made."""
        self.block = block
        self.entered += block.entered
        if block.selection is not None:
            self.selections.append(block.selection)

    def planned_id(self, second: float) -> str:
        """The id of the direction that takes over there."""
        return self._planned.setdefault(self.timeline.cue_block(second), secrets.token_urlsafe(6))

    def second_of(self, planned_id: str) -> float:
        """The second at which a planned direction takes over; ValueError if there is no such direction."""
        for block, each in self._planned.items():
            if each == planned_id:
                return self.timeline.starts_at(block)
        raise ValueError("this planned cue no longer exists; it has taken over or was withdrawn")

    def is_cut(self, second: float) -> bool:
        """Whether another shot begins with the direction that takes over there."""
        block = self.timeline.cue_block(second)
        return any(cue.cut and self.timeline.cue_block(cue.seconds) == block for cue in self.asked.cues)

    def forget(self, second: float) -> None:
        """Forget a planned direction that was withdrawn."""
        self._planned.pop(self.timeline.cue_block(second), None)

    def admitted(self) -> list[tuple[int, int]] | None:
        """Spans of latent frames in memory, without the sink, as (first, after the last); None without memory."""
        context = self.asked.context
        if not context.memory_frames:
            return None
        before = self.record.memory.admitted or ()
        frames = {frame for span in before for frame in range(*span)} | set(self.entered)
        return runs(sorted(frame for frame in frames if frame >= context.sink_frames))

    def memory(self, selection: Selection, takes: Takes) -> schema.BlockMemory:
        """What a block remembered."""
        return memory_of(selection, self.asked.memory, self.timeline, self.others, takes)

    def cues(self) -> list[schema.CueFacts]:
        """All cues; those that can still be changed have an id."""
        found = []
        for number, cue in enumerate(self.asked.cues, start=1):
            block = self.timeline.cue_block(cue.seconds)
            second = self.timeline.starts_at(block)
            is_planned = block >= self.blocks_begun
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
    """Has takes made by an engine, one at a time.

    Args:
        takes: the library.
        hub: gets the events.
        director: whose playhead counts.
        engine: makes the takes; nobody else gives it orders.

    Attributes:
        engine: as given.
        blocks_ahead: how far a take may be ahead of the playhead; None is no limit.
    """

    def __init__(self, takes: Takes, hub: Hub, director: Director, engine: Engine) -> None:
        self._takes, self._hub, self._director, self.engine = takes, hub, director, engine
        self.blocks_ahead: int | None = None
        self._changed = threading.Condition(threading.RLock())
        self._waiting = 0  # orders that have not ended
        self._stretch: Stretch | None = None  # the last order, until it has ended
        self._playheads: dict[str, float] = {}
        self._closed = False
        self._unwatch = engine.watch(self._hear)

    # ---- from any thread ----

    @property
    def current(self) -> Stretch | None:
        """The take that is being made."""
        stretch = self._stretch
        return stretch if stretch is not None and stretch.opened is not None else None

    def live(self, take: str) -> Stretch:
        """The take that is being made, which must be this one.

        Raises:
            NotLiveError: if it isn't.
        """
        current = self.current
        if current is None or current.id != take:
            raise NotLiveError
        return current

    def begin(self, order: Callable[[], Order], after: str | None = None) -> str:
        """Make a take; returns its id when it has begun.

        Args:
            order: returns what is to be made; called once nothing else is being made. After an undo, the take waits.
            after: the take in progress, which ends with its current block.

        Raises:
            BusyError: if another take is being made.
            ValueError, OSError: if it can't be made.
        """
        with self._changed:
            current = self.current
            ended = current if after is not None and current is not None and current.id == after else None
            if self._waiting > (1 if ended else 0) or self._closed:
                raise BusyError
            self._waiting += 1
            try:
                if ended is not None:
                    self._stop(ended)
                self._changed.wait_for(lambda: self._stretch is None)
                if self._closed:
                    raise BusyError
                self._stretch = self._submitted(order())
            except BaseException:
                self._waiting -= 1
                raise
            ready = self._stretch.ready
        return ready.result()

    def _submitted(self, order: Order) -> Stretch:
        """Submit an order; with the lock held, so that no event of its session comes too early."""
        last = order.kept_blocks - 1 if isinstance(order, Undo) else None
        session = self.engine.submit(order, last_block=last)
        stretch = Stretch(self._takes.id_of(order.folder), order, session, waits=isinstance(order, Undo))
        stretch.last_block = last
        return stretch

    def direct(self, stretch: Stretch, prompt: str, at: float | None, cut: bool) -> float:
        """Let another prompt take over; see `Engine.direct`."""
        second = self.engine.direct(stretch.session, prompt, at, cut)
        self._refresh(stretch)
        return second

    def steer(self, stretch: Stretch, order: Steering) -> float:
        """Steer memory; see `Engine.steer`."""
        second = self.engine.steer(stretch.session, order)
        self._refresh(stretch)
        return second

    def withdraw(self, stretch: Stretch, second: float) -> None:
        """Withdraw a planned direction; see `Engine.withdraw`."""
        self.engine.withdraw(stretch.session, second)
        stretch.forget(second)
        self._refresh(stretch)

    def _refresh(self, stretch: Stretch) -> None:
        """Read the current request; an event of a session may be older than an answer."""
        with self._changed:
            facts = self.engine.facts(stretch.session)
            if facts.asked is not None:
                stretch.asked, stretch.blocks_begun = facts.asked, facts.blocks_begun

    def stop(self, take: str) -> None:
        """End a take after the block in progress; NotLiveError if it isn't being made."""
        with self._changed:
            self._stop(self.live(take))

    def set_aside(self, take: str) -> Path:
        """Take a take out of the library, unless it is needed here; see `Takes.set_aside`.

        Raises:
            InUseError: if it is being made, or another one is being made from it.
        """
        with self._changed:
            folder, stretch = self._takes.folder(take), self._stretch
            if stretch is not None and stretch.id == take:
                raise InUseError(f"{folder.name} is being made; stop it, then delete it")
            if stretch is not None and stretch.is_made_of(folder):
                name = stretch.folder.name
                raise InUseError(f"{name} is being made from {folder.name}; wait until it is finished, or stop it")
            return self._takes.set_aside(take)

    def say_unless_made(self, take: str, event: BaseModel) -> bool:
        """Send an event about what was read of a take, unless it is being made by now; returns whether it was sent."""
        with self._changed:
            if self._stretch is not None and self._stretch.id == take:
                return False
            self._hub.say(event)
            return True

    def go_on(self, take: str) -> None:
        """Let a waiting take begin; NotLiveError if it isn't being made."""
        with self._changed:
            self.live(take).waits = False
            self.keep_pace()

    def set_pace(self, blocks_ahead: int | None) -> None:
        """Set how far to be ahead of the playhead."""
        with self._changed:
            self.blocks_ahead = blocks_ahead
            self.keep_pace()

    def playhead(self, take: str, second: float) -> None:
        """Note the second that the director sees."""
        with self._changed:
            if self.current is not None and self.current.id == take:
                self._playheads = {take: second}
                self.keep_pace()

    def keep_pace(self) -> None:
        """Tell the engine how far it may go, for example after a viewer comes or leaves."""
        with self._changed:
            stretch = self.current
            if stretch is not None and (last := self._last_block(stretch)) != stretch.last_block:
                stretch.last_block = last
                self.engine.pace(stretch.session, last)

    def _last_block(self, stretch: Stretch) -> int | None:
        """The last block that may be begun; None is no limit."""
        if stretch.stopped:
            return None
        if stretch.waits:
            return stretch.last_block
        if self.blocks_ahead is None or not self._hub.is_watched(stretch.id, self._director.may):
            return None
        second = self._playheads.get(stretch.id, 0.0)
        frame = min(round(second * stretch.timeline.fps), stretch.timeline.pixel_frames - 1)
        return stretch.timeline.block_at(frame) + self.blocks_ahead

    def close(self, timeout_s: float = 60.0) -> None:
        """End the take in progress, and the engine; what was finished is kept."""
        with self._changed:
            self._closed = True
            if self._stretch is not None:
                self._stop(self._stretch)
                self._changed.wait_for(lambda: self._stretch is None, timeout_s)
            if self._stretch is not None and not self._stretch.ready.done():
                self._stretch.ready.set_exception(BusyError())
        self._unwatch()
        self.engine.close()

    def _stop(self, stretch: Stretch) -> None:
        stretch.stopped, stretch.waits = True, False
        self.engine.stop(stretch.session)

    # ---- in the engine's thread ----

    def _hear(self, facts: SessionFacts) -> None:
        with self._changed:
            stretch = self._stretch
            if stretch is None or facts.id != stretch.session:
                return
            try:
                self._follow(stretch, facts)
            finally:
                if facts.state in ENDED:
                    self._send_ended(stretch, facts)

    def _follow(self, stretch: Stretch, facts: SessionFacts) -> None:
        for sentence in facts.notes[len(stretch.notes) :]:
            self._hub.say(schema.NoteEvent(take=stretch.id, message=sentence))
        stretch.notes = facts.notes
        if facts.restarts > stretch.restarts and facts.state not in ENDED:
            self._hub.say(schema.NoteEvent(take=stretch.id, message=LOST))
        if facts.state == "parked" and not stretch.is_parked:
            self._hub.say(schema.NoteEvent(take=stretch.id, message=PARKED))
        stretch.restarts, stretch.is_parked = facts.restarts, facts.state == "parked"
        self._refresh(stretch)
        if facts.take is not None and facts.take is not stretch.opened:
            self._send_opened(stretch, facts.take)
        if facts.block is not None and facts.block is not stretch.block:
            stretch.add(facts.block)
            stretch.unsent.append(facts.block)
        if stretch.unsent:
            self._send_blocks(stretch)

    def _send_opened(self, stretch: Stretch, opened: OpenedTake) -> None:
        stretch.open(opened)
        self.keep_pace()
        self._hub.say(schema.CutEvent(take=stretch.id, blocks=stretch.blocks))
        self.send_facts(stretch)
        if not stretch.ready.done():
            stretch.ready.set_result(stretch.id)

    def _send_blocks(self, stretch: Stretch) -> None:
        """Announce the blocks that can be fetched: all that are in the take's video."""
        try:
            film = self._takes.film(stretch.id)
        except (UnknownTakeError, ValueError, OSError):  # it was deleted
            return
        while stretch.unsent and stretch.unsent[0].index < len(film.stamps):
            block = stretch.unsent.popleft()
            chosen = block.selection
            stretch.blocks = max(stretch.blocks, block.index + 1)
            stats = schema.Stats(
                fps=round(block.frames_per_second, 2),
                made_seconds=block.stop_frame / stretch.timeline.fps,
                pages_bytes=block.pages_bytes,
                memory_bytes=block.memory_bytes,
            )
            self._hub.say(
                schema.BlockEvent(
                    take=stretch.id,
                    segment=segment_of(stretch.id, film, block.index),
                    memory=None if chosen is None else stretch.memory(chosen, self._takes),
                    entered=list(block.entered),
                    prompt=block.prompt,
                    cue=block.cue,
                    stats=stats,
                )
            )
            if block.cue is not None:
                self._hub.say(schema.CuesEvent(take=stretch.id, cues=stretch.cues()))

    def _send_ended(self, stretch: Stretch, facts: SessionFacts) -> None:
        self._stretch = None
        self._waiting -= 1
        self._changed.notify_all()
        reason = facts.error or "it was stopped before its first block"
        if not stretch.ready.done() and facts.state == "finished":  # by a worker that was lost before it said so
            stretch.ready.set_result(stretch.id)
        if not stretch.ready.done():
            stretch.ready.set_exception(facts.refused or ValueError(reason))
            return
        if facts.state == "failed":
            self._hub.say(schema.ErrorEvent(take=stretch.id, message=f"{stretch.folder.name}: {reason}"))
        try:
            self._hub.say(schema.TakeEvent(take=self._takes.facts(stretch.id)))
        except Exception:  # nothing was finished, or it was deleted
            self._hub.say(schema.GoneEvent(take=stretch.id))

    def send_facts(self, stretch: Stretch) -> None:
        """Send the take as it is now."""
        self._hub.say(schema.TakeEvent(take=live_facts(stretch, self._takes)))


def live_facts(stretch: Stretch, takes: Takes) -> schema.TakeFacts:
    """Facts about a take that is being made."""
    frames = stretch.timeline.pixels_of(stretch.blocks - 1).stop if stretch.blocks else 0
    return schema.TakeFacts(
        **{**facts_of(stretch.record, takes), "seconds": stretch.asked.seconds, "unknown_words": stretch.unknown},
        id=stretch.id,
        name=stretch.folder.name,
        status="live",
        waiting=stretch.waits,
        frames=frames,
        made_seconds=frames / stretch.timeline.fps,
        blocks=stretch.blocks,
    )
