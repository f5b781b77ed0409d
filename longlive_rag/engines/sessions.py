"""What an engine knows about each session and worker, and how a worker's messages change it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from longlive_rag.config import Cue
from longlive_rag.engines.engine import LiveFacts, SessionFacts, WorkerFacts
from longlive_rag.engines.messages import Answer, Asked, BlockMade, Direct, Given, Opened, Steer, Withdrawn
from longlive_rag.engines.state import KeptSession
from longlive_rag.engines.workers import WorkerLink

RATE_BLOCKS = 8


@dataclass(eq=False)
class Slot:
    """A place for a worker.

    Attributes:
        number: number of the place.
        worker: facts about the worker.
        link: link to the worker, if there is one.
        backbone: the backbone that it last used.
        idle_since: in seconds of `time.monotonic`.
    """

    number: int
    worker: WorkerFacts
    link: WorkerLink | None = None
    backbone: str | None = None
    idle_since: float = 0.0

    def change(self, **changes: Any) -> None:
        """Change facts about the worker."""
        self.worker = replace(self.worker, **changes)


@dataclass(eq=False)
class Session:
    """A session: what is kept across restarts, and what ends with the engine.

    Attributes:
        kept: kept across a restart.
        live: facts from its workers that aren't kept.
        last_block: see `Engine.pace`.
        goes_first: whether it is queued before others, because it had a worker.
        quiet_since: when something last happened to it, in seconds of `time.monotonic`.
        calls: directions that its worker has not answered, by number.
        awaited: number of callers that wait for it to be opened, to give it a direction.
    """

    kept: KeptSession
    live: LiveFacts = field(default_factory=LiveFacts)
    last_block: int | None = None
    goes_first: bool = False
    quiet_since: float = field(default_factory=time.monotonic)
    calls: dict[int, tuple[Asked, Future[float]]] = field(default_factory=dict)
    awaited: int = 0
    _earlier_seconds: Mapping[str, float] = field(default_factory=dict)
    _block_times: deque[float] = field(default_factory=lambda: deque(maxlen=RATE_BLOCKS + 1))

    @property
    def is_held(self) -> bool:
        """Whether its pace keeps it from beginning a block now."""
        return self.last_block is not None and self.kept.blocks > self.last_block

    def change(self, **changes: Any) -> None:
        """Change what is kept."""
        self.kept = self.kept.model_copy(update=changes)

    def facts(self, place: int | None, slot: Slot | None) -> SessionFacts:
        """The session as of now.

        Args:
            place: its place in the queue.
            slot: the slot of its worker.
        """
        kept, times = self.kept, self._block_times
        span_s = times[-1] - times[0] if len(times) > 1 and kept.state == "running" else 0.0
        return SessionFacts(
            id=kept.id,
            folder=kept.order.folder,
            state=kept.state,
            place=place,
            blocks=kept.blocks,
            total_blocks=kept.total_blocks,
            seconds_made=kept.seconds_made,
            seconds_asked=kept.seconds_asked,
            worker=slot.worker.name if slot else None,
            restarts=kept.restarts,
            error=kept.error,
            stage_seconds=dict(kept.stage_seconds),
            blocks_per_second=(len(times) - 1) / span_s if span_s else 0.0,
            owner=kept.owner,
            notes=kept.notes,
            **vars(self.live),
        )

    def begin(self) -> None:
        """Note that a worker is told to make it."""
        self.goes_first, self.quiet_since = False, time.monotonic()
        self._block_times.clear()

    def opened(self, message: Opened) -> None:
        """Note that a worker has opened its take."""
        self.quiet_since = time.monotonic()
        self._earlier_seconds = self.kept.stage_seconds
        self._block_times.append(time.monotonic())
        self.live = replace(
            self.live,
            take=message.take or self.live.take,
            asked=message.asked or self.live.asked,
            block=None,
            blocks_begun=message.blocks,
        )
        self.change(
            sleeps=False,
            blocks=message.blocks,
            total_blocks=message.total_blocks,
            seconds_made=message.seconds_made,
            seconds_asked=message.seconds_asked,
            notes=tuple(dict.fromkeys((*self.kept.notes, *message.notes))),
        )

    def block_made(self, made: BlockMade) -> None:
        """Note a block that can be viewed, perhaps again."""
        self.quiet_since = time.monotonic()
        kept, earlier = self.kept, self._earlier_seconds
        is_new = made.blocks > kept.blocks
        if is_new:
            self._block_times.append(time.monotonic())
        begun = max(self.live.blocks_begun, made.blocks_begun)
        self.live = replace(self.live, block=made.block, blocks_begun=begun)
        spent = {stage: earlier.get(stage, 0.0) + value for stage, value in made.stage_seconds.items()}
        self.change(
            blocks=made.blocks,
            seconds_made=made.seconds_made,
            stage_seconds={**earlier, **spent},
            given=tuple(each for each in kept.given if each.seconds >= made.seconds_made),
            deaths=0 if is_new else kept.deaths,
        )

    def answered(self, answer: Answer, asked: Asked) -> None:
        """Note a direction that was accepted."""
        self.quiet_since = time.monotonic()
        begun = max(self.live.blocks_begun, answer.blocks_begun)
        self.live = replace(self.live, asked=answer.asked, blocks_begun=begun)
        self.change(given=(*self.kept.given, _as_given(asked, answer.second)))

    def refuse_calls(self) -> None:
        """Refuse the directions that will not be answered any more."""
        for _, future in self.calls.values():
            future.set_exception(ValueError("the session takes no more directions now"))
        self.calls.clear()


def _as_given(asked: Asked, second: float) -> Given:
    match asked:
        case Direct():
            return Cue(second, asked.prompt, asked.cut)
        case Steer():
            return replace(asked.order, seconds=second)
    return Withdrawn(second)
