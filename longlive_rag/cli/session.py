"""A live session at a terminal: what is typed directs the take that is being made."""

from __future__ import annotations

import queue
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from longlive_rag.cli.errors import Failed
from longlive_rag.cli.generate import check_finished, ending_well, kept, reason_of
from longlive_rag.cli.terminal import Console, typed_lines
from longlive_rag.config import SteerVerb, TakeRequest
from longlive_rag.sessions.live import LiveTake
from longlive_rag.takes.cue_files import read_steering
from longlive_rag.timecode import format_timecode

if TYPE_CHECKING:
    from longlive_rag.generation.block import Block
    from longlive_rag.sessions.legs import Leg
    from longlive_rag.takes.writer import TakeWriter

HELP = (
    "Type what is to be seen next; it takes over at the next block.",
    ":pin 5-8  :exclude 12-14  what memory brings back     :undo  to before the last cue",
    ":establish 8  memory keeps 8 s of each new view; :establish off  everything",
    ":branch NAME  go on in a copy     :save  record and pictures now     :quit  end the take",
)


class Session:
    """Listens to the keyboard while leg after leg is made.

    Attributes:
        console: where it speaks.
    """

    def __init__(self) -> None:
        self.console = Console()
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._live: LiveTake | None = None
        self._leg: Leg | None = None
        self._wanted: tuple[str, str] = ("", "")
        self._save = threading.Event()
        self._heard = threading.Event()  # there is a direction for a leg that waits
        self._ready = threading.Event()  # there is a take to direct
        threading.Thread(target=self._read, daemon=True).start()

    def first_line(self) -> str | None:
        """The first line that is typed; None if there is none."""
        self.console.say("Type what is to be seen first.")
        return self._lines.get()

    def run(self, leg: Leg, prompt: str | None = None) -> tuple[dict[str, Any], Leg]:
        """Make leg after leg until the take is ended or as long as it may be.

        Args:
            leg: the first.
            prompt: takes over at its first new block.

        Returns:
            The record of the last leg, and the leg.

        Raises:
            Stopped: on Ctrl-C; what was finished is kept.
            Failed: if disk or memory run out; what was finished is kept.
        """
        output = leg.request.output
        self.console.open(output.height, output.width)
        for line in HELP:
            self.console.say(line)
        threading.Thread(target=self._dispatch, daemon=True).start()
        try:
            while True:
                record, following = self._play(leg, prompt)
                if following is None:
                    return record, leg
                leg, prompt = following, None
        finally:
            self.console.close()

    # ---- what is typed ----

    def _read(self) -> None:
        for line in typed_lines(sys.stdin.fileno()):
            self._lines.put(line)
        self._lines.put(None)

    def _dispatch(self) -> None:
        while True:
            line = self._lines.get()
            self._ready.wait()
            if line is None:
                if sys.stdin.isatty():
                    self._end("quit")
                self._heard.set()
                return
            assert self._live is not None
            try:
                self._do(self._live, line)
            except ValueError as error:
                self.console.say(f"Not done: {error}")

    def _do(self, live: LiveTake, line: str) -> None:
        """One line: a direction, or a command behind a colon; ValueError if it can't be done."""
        verb, _, words = line.removeprefix(":").partition(" ")
        if not line.startswith(":"):
            if line:
                self._direct(live, line)
            self._heard.set()
        elif verb in get_args(SteerVerb):
            steer = read_steering(live.seconds, cast("SteerVerb", verb), words, live.request.output.fps)
            if not steer.is_span:
                second = live.establish(steer.establish, steer.new_view)
            else:
                second = (live.pin if verb == "pin" else live.exclude)((steer.start, steer.end))
            self.console.say(f"{format_timecode(second)}  {line}")
        elif verb == "save":
            self._save.set()
        elif verb == "help":
            for text in HELP:
                self.console.say(text)
        elif verb in ("quit", "undo", "branch"):
            self._check_end(live, verb, words.strip())
            self._end(verb, words.strip())
        else:
            raise ValueError(f"{line!r} is no command; :help lists them")

    def _direct(self, live: LiveTake, prompt: str) -> None:
        assert self._leg is not None
        self.console.say(f"{format_timecode(live.direct(prompt))}  {prompt}")
        unknown = self._leg.pipe.unknown_words(prompt)
        if unknown:
            self.console.say(f"Note: {self._leg.run.backbone} has never read {', '.join(unknown)}.")

    def _check_end(self, live: LiveTake, verb: str, words: str) -> None:
        if verb == "undo" and not live.cues:
            raise ValueError("there is no cue to go back to")
        if verb == "branch":
            if not live.seconds:
                raise ValueError("nothing is made yet to branch from; wait for the first block")
            assert self._leg is not None
            folder = self._leg.folder.parent / words
            if not words or Path(words).name != words:
                raise ValueError(f"{words!r} is no name for a take beside this one; write :branch NAME")
            if folder.exists():
                raise ValueError(f"{folder} is there already; choose another name")

    def _end(self, verb: str, words: str = "") -> None:
        """Let the leg end after the block that is being made; what is typed meanwhile is for the next one."""
        assert self._live is not None
        self._wanted = (verb, words)
        self._ready.clear()
        self._live.cancel()
        self._heard.set()

    # ---- a leg ----

    def _play(self, leg: Leg, prompt: str | None) -> tuple[dict[str, Any], Leg | None]:
        """Make a leg; returns its record and what comes after it."""
        writer = leg.writer()
        live = LiveTake(leg.pipe, leg.request, writer)
        if prompt is not None:
            live.direct(prompt)
        self._live, self._leg, self._wanted = live, leg, ("", "")
        self._heard.clear()
        self._ready.set()
        with ending_well(writer):
            if leg.waits:
                writer.update(live.request, leg.pipe.timeline(live.request))
                self.console.say("Type what comes instead; an empty line goes on as before.")
                self._heard.wait()
            self._watch(live, writer)
            self._ready.clear()
            record = writer.finish("finished")
        check_finished(record, writer.folder)
        try:
            return record, self._following(leg, live.request)
        except (OSError, ValueError) as error:
            raise Failed(f"{self._wanted[0]} failed: {reason_of(error)}; {kept(record, writer.folder)}") from error

    def _watch(self, live: LiveTake, writer: TakeWriter) -> None:
        """Make the blocks, showing each."""
        fps = live.request.output.fps
        player = _Player(self.console, fps)
        begin_s, frames = time.perf_counter(), 0
        try:
            for block in live:
                frames += len(block.pixel_frames)
                rate = frames / (time.perf_counter() - begin_s)
                now = format_timecode(block.pixel_frames.stop / fps)
                player.play(f"{now}  block {block.index}  {rate:.1f} frames a second  {block.prompt}", block)
                waited = live.waited_seconds.get(block.cue or 0)
                if waited is not None:
                    second = format_timecode(block.pixel_frames.start / fps)
                    self.console.say(f"{second}  cue {block.cue} took over; seen {waited:.1f} s after it was typed")
                if self._save.is_set():
                    self._save.clear()
                    writer.save()
                    self.console.say(f"{now}  saved in {writer.folder}")
        finally:
            player.stop()

    def _following(self, leg: Leg, made: TakeRequest) -> Leg | None:
        verb, words = self._wanted
        if verb == "branch":
            following = leg.branched(leg.folder.parent / words, made)
            self.console.say(f"{format_timecode(made.seconds)}  going on in {following.folder}; {leg.folder} ends here")
            return following
        if verb == "undo":
            following = leg.undone(made)
            self.console.say(f"back to before cue {len(made.cues)} at {format_timecode(made.cues[-1].seconds)}")
            return following
        return None


class _Player:
    """Plays blocks at their rate in a thread of its own; a block that comes early cuts the one before short."""

    def __init__(self, console: Console, fps: int) -> None:
        self._console, self._fps = console, fps
        self._blocks: queue.SimpleQueue[tuple[str, np.ndarray] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def play(self, status: str, block: Block) -> None:
        """Show a block next."""
        self._blocks.put((status, np.asarray(block.pixels[0])))

    def stop(self) -> None:
        """Show no more."""
        self._blocks.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._blocks.get()) is not None:
            status, frames = item
            for frame in frames if self._console.wants_pictures else frames[-1:]:
                self._console.show(status, frame)
                time.sleep(1 / self._fps)
                if not self._blocks.empty():
                    break
