"""The session layer: a session is one take being made by a worker, and an engine owns the workers.

A session lives in a worker process (or a Ray actor) with the caches of its take, and is addressed by its id. Its
blocks are on disk, in the take's folder on storage that server and workers share, so a worker that dies is replaced
and the take is resumed, bit for bit.
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
        folder: where it goes; it must not exist yet.
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
    """A take on disk, continued until it has its requested length.

    Attributes:
        folder: folder of the take.
        backbone: where the take's backbone is; None looks for it under its name.
    """

    folder: Path
    backbone: str | None = None


@dataclass(frozen=True)
class Extend:
    """A take on disk, made longer.

    Attributes:
        folder: folder of the take.
        seconds: how much longer.
        prompt: takes over at its old end; None keeps the current one.
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
        source: folder of the take that it branches from.
        folder: where it goes; it must not exist yet.
        at: second at which it leaves the source.
        prompt: takes over there.
        seconds: length of the whole branch; None is the source's.
        seed: seed of the noise from there on; None is the source's.
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
    """A new take with the first blocks of another, without any direction that came later.

    Attributes:
        source: folder of the take that is undone, which stays as it is.
        folder: where it goes; it must not exist yet.
        kept_blocks: number of blocks that it begins with.
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
    """What a worker is about to make.

    Attributes:
        record: the take's record as of now.
        timeline: timeline of the whole requested take.
        blocks_shown: number of blocks that stay as they are on disk; later ones are shown again.
    """

    record: TakeRecord
    timeline: Timeline
    blocks_shown: int


@dataclass(frozen=True)
class BlockFacts:
    """A block that can be viewed: it is in the take's video, or in its file `.newest.mp4`.

    Attributes:
        index: its number, from 0.
        stop_frame: pixel frame after its last one.
        selection: the frames it remembered.
        entered: latent frames that have entered memory since the block before.
        prompt: the prompt it was made under.
        cue: number of the cue that takes over at it, from 1.
        pages_bytes: size of memory's pages.
        memory_bytes: memory of the worker's process after this block: of the GPU, if it has one.
        frames_per_second: end to end since the take was opened, without the time it was held.
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
    """Facts about a session that last as long as its engine.

    Attributes:
        take: as a worker last opened it; None until then.
        asked: the request so far, directions included; None until it is opened.
        blocks_begun: the first block at which a new direction can take effect, as far as is known.
        block: the last block shown; None before the first one since it was opened.
        refused: what is wrong with the order, if it failed because of that.
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
        id: the session's id.
        folder: folder of its take.
        state: `queued` until a worker is free, `running`, `parked` (its exact checkpoint is on disk and no worker holds
            it), or how it ended: `finished`, `stopped` (it can be resumed), `failed`.
        place: place in the queue, from 0; None unless it is queued.
        blocks: finished blocks, of `total_blocks`; both are 0 until the take is opened.
        seconds_made: seconds of video that are made.
        seconds_asked: seconds of video that were requested; 0 until the take is opened.
        worker: name of its worker, such as `local-0 (cpu)`; None if it has none.
        restarts: how often it was resumed on another worker because its own died.
        error: why it failed, in one line.
        stage_seconds: time spent so far by stage, as in the take's record.
        blocks_per_second: speed over the last blocks; 0 while it makes none.
        owner: on whose behalf it was submitted.
        notes: sentences for the user, such as where a cue takes effect or which words are new to the backbone.
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
        session: id of the session that it makes.
        memory_bytes: memory of its process after its newest block; see `BlockFacts`.
        pid: id of its process, on its machine.
    """

    name: str
    state: WorkerState
    session: str | None = None
    memory_bytes: int = 0
    pid: int | None = None


OnChange = Callable[[SessionFacts], None]
"""Called from a thread of the engine with every change of a session, in order: a block can be viewed, its take was
opened, or its state changed."""


class UnknownSessionError(Exception):
    """There is no session with that id."""


class QueueFullError(Exception):
    """Too many sessions are waiting."""


class Engine(Protocol):
    """Makes takes on its workers. All methods are thread-safe and none waits for a block."""

    def submit(self, order: Order, owner: str = "", last_block: int | None = None) -> str:
        """Queue a session; returns its id.

        Args:
            order: what is to be made; no other session that has not ended may have its folder.
            owner: on whose behalf. Owners take turns: next is the oldest session of the owner with the fewest running
                sessions, and among equals, of the one whose last turn was longest ago.
            last_block: see `pace`.

        Raises:
            ValueError: naming the field, the value and what would be right, as far as configs and files tell.
            QueueFullError: if too many sessions are waiting.
        """
        ...

    def facts(self, session: str) -> SessionFacts:
        """A session as of now; UnknownSessionError if there is none, as in all methods below."""
        ...

    def sessions(self) -> list[SessionFacts]:
        """All sessions, oldest first; of those that have ended, only the newest."""
        ...

    def workers(self) -> list[WorkerFacts]:
        """All workers."""
        ...

    def watch(self, on_change: OnChange) -> Callable[[], None]:
        """Call `on_change` with every change from now on, in order; returns a function that ends that."""
        ...

    def direct(self, session: str, prompt: str, at: float | None = None, cut: bool = False) -> float:
        """Let another prompt take over, as `LiveTake.direct`; returns the second at which it does.

        From then on it is stored, and survives the loss of workers and engine.

        Raises:
            ValueError: if it can't, or the session isn't making blocks now.
        """
        ...

    def steer(self, session: str, order: Steering) -> float:
        """Steer memory, as `LiveTake.steer`; returns the second at which it takes effect. Raises as `direct`."""
        ...

    def withdraw(self, session: str, at: float) -> None:
        """Withdraw a direction that has not taken effect yet, as `LiveTake.withdraw`. Raises as `direct`."""
        ...

    def pace(self, session: str, last_block: int | None) -> None:
        """Begin no block after `last_block`, until the next call; None is no limit.

        The limit applies on every worker. Directions given meanwhile take effect at the next block. A session that is
        held for minutes is parked, which frees its worker; it goes on by itself when it may, or is given a direction.
        """
        ...

    def stop(self, session: str) -> None:
        """End a session after the block in progress, or at once if it isn't running; its take can be resumed.

        A session that has ended stays as it is.
        """
        ...

    def park(self, session: str) -> None:
        """Save an exact checkpoint after the block in progress, and free the worker.

        A session that is held by its pace frees it at once, and later goes on from its last checkpoint, which takes
        longer.

        Raises:
            ValueError: if it has ended.
        """
        ...

    def wake(self, session: str) -> None:
        """Queue a parked session again; ValueError if it isn't parked."""
        ...

    def forget(self, session: str) -> None:
        """Drop a session that has ended; its take stays on disk. ValueError if it has not ended.

        The engine itself drops the oldest ones as new ones are submitted.
        """
        ...

    def close(self, seconds: float = 10.0) -> None:
        """Park the running sessions within `seconds`, and end the workers.

        The next engine on the same state folder continues them and those that waited, even if this one was killed.
        """
        ...
