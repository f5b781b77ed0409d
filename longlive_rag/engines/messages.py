"""Messages to and from a worker: plain values that any pipe can carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from longlive_rag.config import Cue, Steering, TakeRequest
from longlive_rag.engines.engine import BlockFacts, OpenedTake, Order


@dataclass(frozen=True)
class Withdrawn:
    """The direction planned for this second was withdrawn."""

    seconds: float


Given = Cue | Steering | Withdrawn
"""A direction that was given live, with the second at which it takes effect."""

# ---- to a worker ----


@dataclass(frozen=True)
class Begin:
    """Make a session's take, or the rest of it.

    Attributes:
        session: its id.
        order: what is made.
        begun: whether a worker was sent this before; it may have left a part of the take.
        seconds_before: for an `Extend`, the take's requested length before it.
        given: directions that the take's record may lack.
        license_policy: for orders that name none; None is the one in force.
        last_block: as in `Engine.pace`.
    """

    session: str
    order: Order
    begun: bool = False
    seconds_before: float | None = None
    given: tuple[Given, ...] = ()
    license_policy: str | None = None
    last_block: int | None = None


@dataclass(frozen=True)
class Direct:
    """As `Engine.direct`; the answer has the same `call`."""

    session: str
    call: int
    prompt: str
    at: float | None
    cut: bool


@dataclass(frozen=True)
class Steer:
    """As `Engine.steer`; the answer has the same `call`."""

    session: str
    call: int
    order: Steering


@dataclass(frozen=True)
class Withdraw:
    """As `Engine.withdraw`; the answer has the same `call`."""

    session: str
    call: int
    at: float


@dataclass(frozen=True)
class Pace:
    """As `Engine.pace`."""

    session: str
    last_block: int | None


@dataclass(frozen=True)
class Leave:
    """End a session after the block in progress.

    Attributes:
        session: its id.
        parked: whether to save a checkpoint there.
    """

    session: str
    parked: bool


@dataclass(frozen=True)
class End:
    """Exit: there is nothing more to do."""


Asked = Direct | Steer | Withdraw
"""Messages that get an `Answer`."""
ToWorker = Begin | Asked | Pace | Leave | End

# ---- from a worker ----


@dataclass(frozen=True)
class Ready:
    """The worker can make takes.

    Attributes:
        place: where it runs, such as `cpu`.
        pid: id of its process.
    """

    place: str
    pid: int


@dataclass(frozen=True)
class Opened:
    """A session's take is opened; attributes as in `SessionFacts`. `take` is None if nothing is left to be made."""

    session: str
    blocks: int
    total_blocks: int
    seconds_made: float
    seconds_asked: float
    notes: tuple[str, ...] = ()
    take: OpenedTake | None = None
    asked: TakeRequest | None = None


@dataclass(frozen=True)
class BlockMade:
    """A block is on disk and can be viewed. A resumed take repeats some that were finished before.

    Attributes:
        session, blocks, seconds_made, blocks_begun, block: as in `SessionFacts`.
        stage_seconds: time by stage since the take was opened.
    """

    session: str
    blocks: int
    seconds_made: float
    stage_seconds: Mapping[str, float]
    blocks_begun: int
    block: BlockFacts


@dataclass(frozen=True)
class Answer:
    """Answer to a direction: the second at which it takes effect, or an error; the others as in `SessionFacts`."""

    session: str
    call: int
    second: float = 0.0
    error: ValueError | None = None
    asked: TakeRequest | None = None
    blocks_begun: int = 0


@dataclass(frozen=True)
class Ended:
    """A session's take is on disk, and the worker is free.

    Attributes:
        session: its id.
        state: how it ended.
        error: why it failed, in one line.
        is_last: whether the worker ends too, because its state is unknown.
        refused: as in `SessionFacts`.
    """

    session: str
    state: Literal["finished", "stopped", "parked", "failed"]
    error: str | None = None
    is_last: bool = False
    refused: ValueError | None = None


FromWorker = Ready | Opened | BlockMade | Answer | Ended
