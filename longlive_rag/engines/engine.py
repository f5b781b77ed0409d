"""The session layer: a session is one take being made by a worker, and an engine owns the workers.

A session lives in a worker process (or a Ray actor) with the caches of its take; whoever asks for something of it
reaches it by its id. Its blocks are on disk, in the take's folder on storage that server and workers share, so a
worker that dies is replaced and the take is resumed, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from longlive_rag.config import CheckpointConfig, Steering, TakeRequest
from longlive_rag.sessions.opening import Labels, Opening
from longlive_rag.takes.record import TakeRecord
from longlive_rag.timeline import Timeline
from retrieval.selection import Selection

SessionState = Literal["queued", "running", "parked", "finished", "stopped", "failed"]
WorkerState = Literal["waiting", "starting", "idle", "busy"]
ENDED: tuple[SessionState, ...] = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class Make:
    """A new take.

    Attributes:
        backbone: name of a preset, or a pipeline folder.
        request: what it shows.
        folder: where it goes; it must not be there yet.
        opening, labels, checkpoints: as in `NewTake`.
    """

    backbone: str
    request: TakeRequest
    folder: Path
    opening: Opening = field(default_factory=Opening)
    labels: Labels = field(default_factory=Labels)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)


@dataclass(frozen=True)
class Resume:
    """A take on disk, continued until it is as long as was asked for.

    Attributes:
        folder: of the take.
        backbone: where the take's backbone is; None looks for it under its name.
    """

    folder: Path
    backbone: str | None = None


@dataclass(frozen=True)
class Extend:
    """A take on disk, made longer.

    Attributes:
        folder: of the take.
        seconds: by how much.
        prompt: that takes over at its old end; None leaves the one in charge.
        cut: whether another shot begins there.
        backbone: as in `Resume`.
    """

    folder: Path
    seconds: float
    prompt: str | None = None
    cut: bool = False
    backbone: str | None = None


@dataclass(frozen=True)
class Branch:
    """Another ending of a take.

    Attributes:
        source: folder of the take that it shares its beginning with.
        folder: where it goes; it must not be there yet.
        at: second at which it parts.
        prompt: that takes over there.
        seconds: length of the whole branch; None is the source's.
        seed: of the noise from there on; None is the source's.
        cut: whether another shot begins there.
        backbone: as in `Resume`.
    """

    source: Path
    folder: Path
    at: float
    prompt: str | None = None
    seconds: float | None = None
    seed: int | None = None
    cut: bool = False
    backbone: str | None = None


@dataclass(frozen=True)
class Undo:
    """Another take that begins with the first blocks of one, and has nothing that was asked for later.

    Attributes:
        source: folder of the take that is undone, which stays as it is.
        folder: where it goes; it must not be there yet.
        kept_blocks: that it begins with.
        seconds: length of the whole take.
        backbone: as in `Resume`.
    """

    source: Path
    folder: Path
    kept_blocks: int
    seconds: float
    backbone: str | None = None


Order = Make | Resume | Extend | Branch | Undo


@dataclass(frozen=True)
class OpenedTake:
    """What a worker makes, before its first block.

    Attributes:
        record: of the take as of now.
        timeline: of the take as it was asked for.
        blocks_shown: at its beginning, that stay as they are on disk; those after them are shown once more.
    """

    record: TakeRecord
    timeline: Timeline
    blocks_shown: int


@dataclass(frozen=True)
class BlockFacts:
    """A block that can be seen: it is in the take's video, or in its file `.newest.mp4`.

    Attributes:
        index: its number, from 0.
        stop_frame: pixel frame after its last one.
        selection: what it remembered.
        entered: latent frames that have entered memory since the block before.
        prompt: in charge.
        cue: number of the cue that takes over at it, from 1.
        pages_bytes: of memory's pages.
        memory_bytes: that its worker's process held after it: of the GPU, if it has one.
        frames_per_second: end to end since the take was opened, without what it was held for.
    """

    index: int
    stop_frame: int
    selection: Selection | None
    entered: tuple[int, ...]
    prompt: str
    cue: int | None
    pages_bytes: int
    memory_bytes: int
    frames_per_second: float


@dataclass(frozen=True, kw_only=True)
class LiveFacts:
    """What is known of a session as long as its engine is there.

    Attributes:
        take: as a worker has opened it last; None until one has.
        asked: what was asked for so far, directions included; None until it is opened.
        blocks_begun: the block from which on the next direction can hold, as far as is known.
        block: that was shown last; None before the first one since it was opened.
        refused: what is wrong with the order, where it has failed for that.
    """

    take: OpenedTake | None = None
    asked: TakeRequest | None = None
    blocks_begun: int = 0
    block: BlockFacts | None = None
    refused: ValueError | None = None


@dataclass(frozen=True)
class SessionFacts(LiveFacts):
    """A session as of now; more attributes are in `LiveFacts`.

    Attributes:
        id: of the session.
        folder: of its take.
        state: `queued` until a worker is free, `running`, `parked` (its exact checkpoint is on disk and no worker holds
            it), or how it ended: `finished`, `stopped` (it can be resumed), `failed`.
        place: in the queue, from 0; None unless it is queued.
        blocks: finished, of `total_blocks`; both are 0 until the take is opened.
        seconds_made: of video.
        seconds_asked: of video; 0 until the take is opened.
        worker: which one makes it, such as `local-0 (cpu)`; None while none does.
        restarts: how often it was resumed on another worker because its own died.
        error: why it failed, in one line.
        stage_seconds: time spent so far by stage, as in the take's record.
        blocks_per_second: over the last blocks; 0 while it makes none.
        owner: on whose behalf it was submitted.
        notes: sentences for the user, such as where a cue takes effect or which words the backbone has never read.
    """

    id: str
    folder: Path
    state: SessionState
    place: int | None = None
    blocks: int = 0
    total_blocks: int = 0
    seconds_made: float = 0.0
    seconds_asked: float = 0.0
    worker: str | None = None
    restarts: int = 0
    error: str | None = None
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    blocks_per_second: float = 0.0
    owner: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerFacts:
    """A worker as of now.

    Attributes:
        name: such as `local-0 (cpu)`.
        state: `waiting` until it is started or has a place, `starting`, `idle` or `busy`.
        session: that it makes.
        memory_bytes: that its process held after its newest block; see `BlockFacts`.
        pid: of its process, on its machine.
    """

    name: str
    state: WorkerState
    session: str | None = None
    memory_bytes: int = 0
    pid: int | None = None


OnChange = Callable[[SessionFacts], None]
"""Called from a thread of the engine with every change of a session, in order: a block can be seen, its take is opened,
or its state is another."""


class UnknownSessionError(Exception):
    """There is no session of that id."""


class QueueFullError(Exception):
    """More sessions wait than may."""


class Engine(Protocol):
    """Makes takes on its workers. All methods may be called from any thread and none waits for a block."""

    def submit(self, order: Order, owner: str = "", last_block: int | None = None) -> str:
        """Queue a session; returns its id.

        Args:
            order: what is to be made; its folder must not be another session's that has not ended.
            owner: on whose behalf. Owners take turns: next is the oldest session of the owner who has the fewest
                running, and among equals of the one who has waited longest.
            last_block: see `pace`.

        Raises:
            ValueError: naming the field, the value and what would be right, as far as configs and files tell.
            QueueFullError: if it would have to wait behind too many.
        """
        ...

    def facts(self, session: str) -> SessionFacts:
        """A session as of now; UnknownSessionError if there is none, here and in what follows."""
        ...

    def sessions(self) -> list[SessionFacts]:
        """All sessions, oldest first, the newest of those that ended among them."""
        ...

    def workers(self) -> list[WorkerFacts]:
        """All workers."""
        ...

    def watch(self, on_change: OnChange) -> Callable[[], None]:
        """Be told of every change from now on, in order; returns what ends that."""
        ...

    def direct(self, session: str, prompt: str, at: float | None = None, cut: bool = False) -> float:
        """Let another prompt take over, as `LiveTake.direct`; returns the second at which it does.

        It is kept from then on, whatever dies.

        Raises:
            ValueError: if it can't, or the session isn't making blocks yet or any more.
        """
        ...

    def steer(self, session: str, order: Steering) -> float:
        """Give memory a direction, as `LiveTake.steer`; returns its second. Raises as `direct`."""
        ...

    def withdraw(self, session: str, at: float) -> None:
        """Take back a direction that has not taken over yet, as `LiveTake.withdraw`. Raises as `direct`."""
        ...

    def pace(self, session: str, last_block: int | None) -> None:
        """Begin no new block after this one until it is said otherwise; None holds nothing.

        It holds for whichever worker makes the session. What is asked for meanwhile takes over at the next block. A
        session that is held for minutes is parked, so that its worker is free for others; it goes on by itself when it
        may, or is asked for something.
        """
        ...

    def stop(self, session: str) -> None:
        """End a session after the block that is being made, one that isn't running at once; its take can be resumed.

        One that has ended stays as it is.
        """
        ...

    def park(self, session: str) -> None:
        """Save an exact checkpoint after the block that is being made, and give the worker back.

        One that its pace holds gives it back at once, and goes on from its last checkpoint, which takes longer.

        Raises:
            ValueError: if it has ended.
        """
        ...

    def wake(self, session: str) -> None:
        """Queue a parked session again; ValueError if it isn't parked."""
        ...

    def forget(self, session: str) -> None:
        """Drop a session that has ended, its take stays on disk; ValueError if it has not.

        The engine does so itself with the oldest ones, as new ones are submitted.
        """
        ...

    def close(self, seconds: float = 10.0) -> None:
        """Park what runs, within so many seconds, and end the workers.

        What ran or waited does so again in the next engine on the same state folder, also where this one was killed.
        """
        ...
