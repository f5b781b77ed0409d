"""A take that is directed while it is made; directions become its cues, so that it can be reproduced exactly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from backbone.errors import FieldError
from longlive_rag.config import Cue, MemoryConfig, Span, Steering, SteerVerb, TakeRequest
from longlive_rag.generation.cues import cue_blocks, cut_blocks, directed_at, steering_block
from longlive_rag.generation.directions import Direction, check_policy
from longlive_rag.timecode import shown_timecode

if TYPE_CHECKING:
    from longlive_rag.generation.block import Block
    from longlive_rag.pipeline import LongLiveRAGPipeline
    from longlive_rag.takes.writer import TakeWriter


class LiveTake:
    """Owns a stream and takes directions for it. Iterate over it in one thread; the other methods are thread-safe.

    A direction applies from the next block that has not begun; the current block is kept, and nothing waits. `request`
    is what has been requested so far; streaming it makes the same blocks, bit for bit.

    Args:
        pipe: makes the blocks.
        request: the initial request; its `seconds` are the maximum length. Directions at the block of a cue that is
            still to come replace it.
        take: writes the take to disk and records the request; None keeps nothing. If it already holds blocks (of the
            same request), the take is resumed.
        keeps_length: if the take ends early, keep the requested length on its record, so that it can be resumed;
            otherwise record the length it has.
        ahead: how many finished blocks may be decoded, stored and written while the next is denoised; see
            `LongLiveRAGPipeline.stream`. With 1, a block has begun when the previous one is handed out.
        on_block: called with every block as soon as it is finished and written, possibly in another thread and before
            it is handed out.
        hold: called with the number of every new block before it begins; it may wait. Directions given meanwhile apply
            from this block on.

    Raises:
        ValueError: if the request can't be met.
    """

    def __init__(
        self,
        pipe: LongLiveRAGPipeline,
        request: TakeRequest,
        take: TakeWriter | None = None,
        keeps_length: bool = False,
        ahead: int = 0,
        on_block: Callable[[Block], None] = lambda block: None,
        hold: Callable[[int], None] = lambda block: None,
    ) -> None:
        pipe.check(request)
        self._pipe, self._take, self._keeps_length = pipe, take, keeps_length
        self._ahead, self._on_block, self._hold = ahead, on_block, hold
        self._start = request
        self._timeline = pipe.timeline(request)
        self._lock = threading.Lock()
        cues = cue_blocks(request, self._timeline)
        self._prompts = {0: request.prompt} | {block: request.cues[cue - 1].prompt for block, cue in cues.items()}
        self._cuts = cut_blocks(request, self._timeline)
        self._told: dict[int, float] = {}  # block: clock time of its direction
        self._steering = list(request.memory.steering)
        self._first_block = take.blocks if take else 0
        self._next_block = self._first_block  # the next block to begin
        self._made_frames = self._timeline.pixels_of(self._first_block - 1).stop if self._first_block else 0
        self._waited: dict[int, float] = {}
        self._cancelled, self._parked = threading.Event(), threading.Event()
        self._ended = False
        self._unsaved = False  # a direction for a later block was added or removed

    # ---- from any thread ----

    def direct(self, prompt: str, at: float | None = None, cut: bool = False) -> float:
        """Switch to another prompt.

        Args:
            prompt: the new prompt.
            at: second of the take; takes effect at the first block that begins there or later. None is the next block.
            cut: whether it begins another shot.

        Returns:
            The second at which it takes over. A later direction for the same block replaces it.

        Raises:
            ValueError: if the prompt is empty or too long, `at` has passed or is past the end, the take has ended, or
                `cut` is set at its first block.
        """
        self._pipe.check_prompt(prompt)
        with self._lock:
            block = self._block_for(at)
            if cut and not block:
                raise ValueError("the first shot begins with the take's first block; a cut must come after it")
            self._prompts[block] = prompt
            (self._cuts.add if cut else self._cuts.discard)(block)
            self._told[block] = time.perf_counter()
            self._unsaved = True
            return self._timeline.starts_at(block)

    def withdraw(self, at: float) -> None:
        """Withdraw a direction that has not taken over yet.

        Args:
            at: second at which it would take over.

        Raises:
            ValueError: if there is none, it has already taken over, the take has ended, or it is the first prompt.
        """
        with self._lock:
            block = self._block_for(at)
            if not block:
                raise FieldError("at", at, "the first prompt can only be replaced", f"{at:g} s")
            if self._prompts.pop(block, None) is None:
                raise FieldError("at", at, "no direction takes over there", f"{at:g} s")
            self._cuts.discard(block)
            self._told.pop(block, None)
            self._unsaved = True

    @property
    def asked(self) -> TakeRequest:
        """What has been requested so far, at the maximum length."""
        with self._lock:
            return self._request(self._start.seconds)

    def pin(self, span: Span) -> float:
        """Bring back a span of seconds first, from the next block on; return the second at which that begins.

        Raises:
            ValueError: if the span has not been made yet or is excluded, or the take has ended.
        """
        return self._steer_span("pin", span)

    def exclude(self, span: Span) -> float:
        """Stop bringing back a span of seconds, from the next block on; return the second at which that begins.

        Raises:
            ValueError: if the span has not been made yet or is pinned, or the take has ended.
        """
        return self._steer_span("exclude", span)

    def unpin(self, span: Span) -> float:
        """Unpin a span from the next block on; return the second at which that begins.

        Raises:
            ValueError: if it isn't pinned, or the take has ended.
        """
        return self._release("pin", span)

    def unexclude(self, span: Span) -> float:
        """Allow an excluded span again from the next block on; return the second at which that begins.

        Raises:
            ValueError: if it isn't excluded, or the take has ended.
        """
        return self._release("exclude", span)

    def establish(self, seconds: float, new_view: float | Literal["steps"] | None = None) -> float:
        """Keep only first showings in memory, from the next block on; return the second at which that begins.

        Args:
            seconds: seconds to admit of each new view; 0 admits every frame.
            new_view: what counts as new; see `MemoryConfig`. None leaves it unchanged.

        Raises:
            ValueError: if a value is invalid, or the take has ended.
        """
        with self._lock:
            at = self._timeline.starts_at(self._block_for(None))
            return self._steer(Steering(at, "establish", establish=seconds, new_view=new_view))

    def use_policy(self, name: str) -> float:
        """Use another retrieval policy from the next block on; return the second at which that begins.

        Raises:
            ValueError: if no policy of that name is installed, or the take has ended.
        """
        check_policy(replace(self._start.memory, policy=name, steering=()))
        with self._lock:
            at = self._timeline.starts_at(self._block_for(None))
            return self._steer(Steering(at, "policy", policy=name))

    def steer(self, order: Steering) -> float:
        """Apply a change to memory from the next block on; return the second at which that begins.

        Raises:
            ValueError: if it is invalid, or the take has ended.
        """
        match order.verb:
            case "establish":
                return self.establish(order.establish, order.new_view)
            case "policy":
                return self.use_policy(order.policy)
            case "pin" | "exclude":
                return self._steer_span(order.verb, (order.start, order.end))
        return self._release("pin" if order.verb == "unpin" else "exclude", (order.start, order.end))

    def cancel(self) -> None:
        """End the take after the current block."""
        self._cancelled.set()

    def park(self) -> None:
        """End the take as `cancel` does, but with a checkpoint, so that resuming does not rerun any block.

        If the current block is past the point where checkpoints are saved, the take ends after the next one.
        """
        with self._lock:
            if self._take and self._next_block > self._first_block:
                self._take.checkpoints.ask()
            self._parked.set()

    @property
    def blocks_begun(self) -> int:
        """The block from which the next direction can apply."""
        with self._lock:
            return self._next_block

    @property
    def request(self) -> TakeRequest:
        """What has been requested so far; its `seconds` are those made so far (all, before the first block)."""
        with self._lock:
            made = self._made_frames
            whole = not made or made >= self._start.pixel_frames
            return self._request(self._start.seconds if whole else made / self._timeline.fps)

    @property
    def cues(self) -> tuple[Cue, ...]:
        """The cues that have taken over, including in the current block."""
        with self._lock:
            return self._request(self._timeline.starts_at(self._next_block)).cues if self._next_block else ()

    @property
    def seconds(self) -> float:
        """The second at which the next direction can take over."""
        with self._lock:
            return self._timeline.starts_at(self._next_block)

    @property
    def waited_seconds(self) -> dict[int, float]:
        """By cue, the time from `direct` until its first block was finished."""
        with self._lock:
            return dict(self._waited)

    # ---- from one thread ----

    def __iter__(self) -> Iterator[Block]:
        """Yield each block as soon as it is finished, until cancelled. It can be iterated over only once."""
        stores = [self._take] if self._take else []
        stream = self._pipe.stream(
            self._start, stores=stores, directions=self._directions, then=self._written, ahead=self._ahead
        )
        shown = self._take.blocks_shown if self._take else 0
        try:
            with closing(stream):  # type: ignore[type-var]  # a generator
                while shown != self._first_block or not self._is_to_end:  # parked before it began a block of its own
                    block = next(stream, None)
                    shown += 1
                    if block is None:
                        break
                    yield block
        finally:
            self._end()

    def _written(self, block: Block) -> None:
        """Handle a block that has come out of the stream."""
        self._finished(block)
        if self._take:
            self._take.add(block)
        self._on_block(block)

    def _end(self) -> None:
        """Update length and request at the end: what is stored counts, which may be more than what was written."""
        with self._lock:
            self._ended = True
            if self._take and self._take.blocks:
                stored = self._timeline.pixels_of(self._take.blocks - 1).stop
                self._made_frames = max(self._made_frames, stored)
        if self._take and self._made_frames:
            request = self.asked if self._keeps_length else self.request
            self._take.update(request, self._pipe.timeline(request))

    @property
    def _is_to_end(self) -> bool:
        """Whether no further block is to begin."""
        is_parked = self._parked.is_set() and not (self._take and self._take.checkpoints.is_asked)
        return self._cancelled.is_set() or is_parked

    def _directions(self, block: int) -> Direction | None:
        """Give the stream the changes at a block, right before it begins."""
        if block >= self._first_block:
            self._hold(block)
            if self._is_to_end:
                return None
        with self._lock:
            self._next_block = max(self._next_block, block + 1)
            prompt, cut = self._prompts.get(block), block in self._cuts
            cue = sum(other <= block for other in self._prompts) - 1 if block and prompt is not None else None
            told = any(steering_block(steer, self._timeline) == block for steer in self._steering)
            memory = directed_at(self._memory(), self._timeline, block) if told else None
            asked = self._request(self._start.seconds)
            goes_on = block >= self._first_block  # otherwise the stream is only replaying
            news, self._unsaved = prompt is not None or told or self._unsaved, self._unsaved and not goes_on
        if self._take and goes_on and news:
            self._take.update(asked, self._timeline)
        return Direction(None if prompt is None else [prompt], cue, cut, memory)

    def _finished(self, block: Block) -> None:
        with self._lock:
            self._made_frames = max(self._made_frames, block.pixel_frames.stop)
            if block.cue is not None and block.index in self._told:
                self._waited[block.cue] = time.perf_counter() - self._told[block.index]

    # ---- with the lock held ----

    def _steer_span(self, verb: SteerVerb, span: Span) -> float:
        with self._lock:
            second = self._timeline.starts_at(self._block_for(None))
            if not span[0] < second:
                raise ValueError(
                    f"{verb} {shown_timecode(span[0])}-{shown_timecode(span[1])}: not made yet; the take is at "
                    f"{shown_timecode(second)}"
                )
            return self._steer(Steering(second, verb, *span))

    def _release(self, verb: Literal["pin", "exclude"], span: Span) -> float:
        with self._lock:
            second = self._timeline.starts_at(self._block_for(None))
            memory = self._memory()
            spans = getattr(memory.with_steering(memory.steering), verb)
            if span not in spans:
                state = {"pin": "pinned", "exclude": "excluded"}[verb]
                said = " and ".join(f"{start:g}-{end:g} s" for start, end in spans) or "nothing"
                claim = f"{span[0]:g}-{span[1]:g} s is not {state}"
                raise FieldError(verb, span, f"{state} so far: {said}", claim=claim)
            return self._steer(Steering(second, "unpin" if verb == "pin" else "unexclude", *span))

    def _steer(self, steer: Steering) -> float:
        steering = [*self._steering, steer]
        replace(self._start, memory=replace(self._start.memory, steering=tuple(steering)))  # validates
        self._steering = steering
        return steer.seconds

    def _block_for(self, at: float | None) -> int:
        ends = self._ended or self._cancelled.is_set() or self._parked.is_set()
        if ends or self._next_block >= self._timeline.blocks:
            raise ValueError("the take has ended and takes no more directions")
        if at is None:
            return self._next_block
        block = self._timeline.cue_block(at) if at > 0 else 0
        if not at >= 0 or block < self._next_block:
            second = self._timeline.starts_at(self._next_block)
            raise FieldError("at", at, shown=f"{at:g} s, but the take is already at {second:g} s")
        if block >= self._timeline.blocks:
            raise FieldError("at", at, f"the take ends at {self._start.seconds:g} s", f"{at:g} s")
        return block

    def _request(self, seconds: float) -> TakeRequest:
        """The request for a take of this length."""
        starts = self._timeline.starts_at
        prompts = sorted(self._prompts.items())
        cues = [Cue(starts(block), prompt, block in self._cuts) for block, prompt in prompts if block]
        return replace(
            self._start,
            prompt=self._prompts[0],
            seconds=seconds,
            cues=tuple(cue for cue in cues if cue.seconds < seconds),
            memory=_within(self._memory(), seconds),
        )

    def _memory(self) -> MemoryConfig:
        return replace(self._start.memory, steering=tuple(self._steering))


def _within(memory: MemoryConfig, seconds: float) -> MemoryConfig:
    """Remove what refers to times that were not reached, and so had no effect."""
    anchored = memory.anchor is not None and memory.anchor[0] < seconds
    return replace(
        memory,
        pin=tuple(span for span in memory.pin if span[0] < seconds),
        exclude=tuple(span for span in memory.exclude if span[0] < seconds),
        steering=tuple(steer for steer in memory.steering if steer.seconds < seconds and steer.start < seconds),
        anchor=memory.anchor if anchored else None,
        admit_above=memory.admit_above if anchored else None,
    )
