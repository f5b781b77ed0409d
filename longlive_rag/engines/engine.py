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
    """

    folder: Path


@dataclass(frozen=True)
class Extend:
    """A take on disk, made longer.

    Attributes:
        folder: of the take.
        seconds: by how much.
        prompt: that takes over at its old end; None leaves the one in charge.
        cut: whether another shot begins there.
    """

    folder: Path
    seconds: float
    prompt: str | None = None
    cut: bool = False


@dataclass(frozen=True)
class Branch:
    """Another ending of a take.

    Attributes:
        source: folder of the take that it shares its beginning with.
        folder: where it goes; it must not be there yet.
        at: second at which it parts.
        prompt: that takes over there.
        seconds: length of the whole branch; None is the source's.
    """

    source: Path
    folder: Path
    at: float
    prompt: str | None = None
    seconds: float | None = None


Order = Make | Resume | Extend | Branch


@dataclass(frozen=True)
class SessionFacts:
    """A session as of now.

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
        memory_bytes: that its process held after its newest block: of the GPU, if it has one.
        pid: of its process, on its machine.
    """

    name: str
    state: WorkerState
    session: str | None = None
    memory_bytes: int = 0
    pid: int | None = None


OnChange = Callable[[SessionFacts], None]
"""Called from a thread of the engine with every change of a session: a block is finished, or its state is another."""


class UnknownSessionError(Exception):
    """There is no session of that id."""


class QueueFullError(Exception):
    """More sessions wait than may."""


class Engine(Protocol):
    """Makes takes on its workers. All methods may be called from any thread and none waits for a block."""

    def submit(self, order: Order, owner: str = "") -> str:
        """Queue a session; returns its id.

        Args:
            order: what is to be made; its folder must not be another session's that has not ended.
            owner: on whose behalf. Owners take turns: next is the oldest session of the owner who has the fewest
                running, and among equals of the one who has waited longest.

        Raises:
            ValueError: naming the field, the value and what would be right, as far as configs and files tell.
            QueueFullError: if it would have to wait behind too many.
        """
        ...

    def facts(self, session: str) -> SessionFacts:
        """A session as of now; UnknownSessionError if there is none, here and in what follows."""
        ...

    def sessions(self) -> list[SessionFacts]:
        """All sessions, oldest first; those that ended stay until they are forgotten."""
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

    def stop(self, session: str) -> None:
        """End a session after the block that is being made, one that isn't running at once; its take can be resumed.

        One that has ended stays as it is.
        """
        ...

    def park(self, session: str) -> None:
        """Save an exact checkpoint after the block that is being made, and give the worker back.

        Raises:
            ValueError: if it has ended.
        """
        ...

    def wake(self, session: str) -> None:
        """Queue a parked session again; ValueError if it isn't parked."""
        ...

    def forget(self, session: str) -> None:
        """Drop a session that has ended, its take stays on disk; ValueError if it has not."""
        ...

    def close(self, seconds: float = 10.0) -> None:
        """Park what runs, within so many seconds, and end the workers.

        What ran or waited does so again in the next engine on the same state folder, also where this one was killed.
        """
        ...
