"""Directing a take while it is made, including undo and branch, from any front end."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from longlive_rag.config import TakeRequest, check_seconds
from longlive_rag.generation.behind import LIVE_AHEAD
from longlive_rag.sessions.directed_take import DirectedTake
from longlive_rag.sessions.live import LiveTake
from longlive_rag.sessions.making import (
    NewTake,
    TakeFailed,
    check_finished,
    claim_new_take,
    ending_well,
    exhaust,
    reason_of,
)
from longlive_rag.sessions.opening import Note, provenance_of
from longlive_rag.sessions.resuming import (
    Changes,
    OpenTake,
    check_room,
    provenance_like,
    reopened,
)
from longlive_rag.sessions.several_gpus import opened_backbone
from longlive_rag.takes.branch import timeline_of
from longlive_rag.takes.folder import TakeClaim
from longlive_rag.timecode import shown_timecode

if TYPE_CHECKING:
    from longlive_rag.generation.block import Block
    from longlive_rag.takes.record import TakeRecord
    from longlive_rag.takes.writer import TakeWriter


class Screen(Protocol):
    """Shows a session; called from one thread at a time."""

    def say(self, sentence: str) -> None:
        """Show a message to the director."""
        ...

    def show(self, block: Block, live: LiveTake) -> None:
        """Show a finished block."""
        ...


def new_live_take(held: ExitStack, asked: NewTake, note: Note) -> DirectedTake:
    """Begin a new take.

    Args:
        held: holds the claim on its folder.
        asked: the request; its `seconds` are the maximum length.

    Raises:
        ValueError: if it is invalid; names the field, the value and what is expected. Nothing was written.
    """
    provenance = provenance_of(asked.preset, asked.labels)
    claim, _, _ = claim_new_take(asked)
    held.enter_context(claim)
    opened = opened_backbone(asked.preset, asked.request, asked.opening, provenance, note, asked.pipe)
    pipe, run = held.enter_context(opened)
    return DirectedTake(pipe, run, provenance, asked.folder, asked.request, "generated", asked.checkpoints, claim)


def resumed_live_take(held: ExitStack, take: OpenTake, seconds: float, changes: Changes, note: Note) -> DirectedTake:
    """Begin the next segment of an existing take.

    Args:
        held: holds the claim on its folder.
        seconds: maximum length of the segment.

    Raises:
        ValueError: if something is invalid; the take is unchanged.
    """
    check_seconds(seconds, take.request.output.fps)
    request = replace(take.request, seconds=take.timeline.starts_at(take.blocks) + seconds)
    checkpoints = take.record.checkpoint_config
    provenance = provenance_like(take, changes.license_policy)
    check_room(take.folder, request, timeline_of(request, take.preset), take, checkpoints)
    claim = held.enter_context(TakeClaim(take.folder, resume=True))
    pipe, run = held.enter_context(reopened(take, request, changes, provenance, note))
    return DirectedTake(pipe, run, provenance, take.folder, request, "extended", checkpoints, claim)


class LiveSession:
    """Makes the segments of a take while it is directed. Call `run` in one thread; the rest is thread-safe.

    Args:
        screen: shows the session.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._live: LiveTake | None = None
        self._take: DirectedTake | None = None
        self._wanted: tuple[str, str] = ("", "")
        self._save = threading.Event()
        self._heard = threading.Event()  # there is a direction for a waiting segment
        self._ready = threading.Event()  # there is a segment to direct

    # ---- from any thread ----

    @property
    def live(self) -> LiveTake:
        """The segment being made; between two segments, wait for the next."""
        self._ready.wait()
        assert self._live is not None
        return self._live

    def direct(self, prompt: str, cut: bool = False) -> float:
        """Switch to another prompt and return the second at which it takes over. See `LiveTake.direct`."""
        second = self.live.direct(prompt, cut=cut)
        assert self._take is not None
        unknown = self._take.pipe.unknown_words(prompt)
        if unknown:
            self._screen.say(f"Note: {self._take.run.backbone} has never read {', '.join(unknown)}.")
        return second

    def go_on(self) -> None:
        """Begin a segment that waits for a direction, with the previous prompt or the new one."""
        self._heard.set()

    def save(self) -> None:
        """Write record and pictures after the current block."""
        self._save.set()

    def undo(self) -> None:
        """Go back to before the last cue; ValueError if there is none."""
        if not self.live.cues:
            raise ValueError("there is no cue to undo")
        self._end("undo")

    def branch(self, name: str) -> None:
        """End the take here and continue in a copy next to it; ValueError if the name is not usable."""
        if not self.live.seconds:
            raise ValueError("there is nothing to branch from yet; wait for the first block")
        assert self._take is not None
        folder = self._take.folder.parent / name
        if not name or Path(name).name != name:
            raise ValueError(f"{name!r} is not a name for a take next to this one; write :branch NAME")
        if folder.exists():
            raise ValueError(f"{folder} already exists; choose another name")
        self._end("branch", name)

    def quit(self) -> None:
        """End the take after the current block."""
        self._end("quit")

    def _end(self, verb: str, words: str = "") -> None:
        """End the segment after the current block; directions given meanwhile apply to the next segment."""
        self._wanted = (verb, words)
        live = self.live
        self._ready.clear()
        live.cancel()
        self._heard.set()

    # ---- from one thread ----

    def run(self, take: DirectedTake, prompt: str | None = None) -> tuple[TakeRecord, DirectedTake]:
        """Make one segment after another until the take is ended or reaches its maximum length.

        Args:
            take: the first segment.
            prompt: takes over at its first new block.

        Returns:
            The record of the last segment, and that segment.

        Raises:
            TakeStopped: on KeyboardInterrupt; what is finished is kept.
            TakeFailed: if disk or memory runs out; what is finished is kept.
        """
        while True:
            record, following = self._play(take, prompt)
            if following is None:
                return record, take
            take, prompt = following, None

    def _play(self, take: DirectedTake, prompt: str | None) -> tuple[TakeRecord, DirectedTake | None]:
        """Make a segment, and return its record and the segment after it."""
        writer = take.writer()
        show = partial(self._show, writer)
        live = LiveTake(take.pipe, take.request, writer, ahead=LIVE_AHEAD, on_block=show)
        if prompt is not None:
            live.direct(prompt)
        self._live, self._take, self._wanted = live, take, ("", "")
        self._heard.clear()
        self._ready.set()
        with ending_well(writer):
            if take.waits:
                writer.update(live.request, take.pipe.timeline(live.request))
                self._screen.say("Type what should come instead; an empty line keeps the prompt.")
                self._heard.wait()
            exhaust(iter(live))
            self._ready.clear()
            record = writer.finish("finished")
        check_finished(record, writer.folder)
        try:
            return record, self._following(take, live.request)
        except (OSError, ValueError) as error:
            raise TakeFailed(f"{self._wanted[0]} failed: {reason_of(error)}", writer.folder, record) from error

    def _show(self, writer: TakeWriter, block: Block) -> None:
        live = self._live
        assert live is not None
        self._screen.show(block, live)
        if self._save.is_set():
            self._save.clear()
            writer.save()
            now = shown_timecode(block.pixel_frames.stop / live.request.output.fps)
            self._screen.say(f"{now}  saved in {writer.folder}")

    def _following(self, take: DirectedTake, made: TakeRequest) -> DirectedTake | None:
        verb, words = self._wanted
        if verb == "branch":
            following = take.branched(take.folder.parent / words, made)
            self._screen.say(
                f"{shown_timecode(made.seconds)}  continuing in {following.folder}; {take.folder} ends here"
            )
            return following
        if verb == "undo":
            following = take.undone(made)
            self._screen.say(f"back to before cue {len(made.cues)} at {shown_timecode(made.cues[-1].seconds)}")
            return following
        return None
