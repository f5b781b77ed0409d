"""A live session at a terminal: what you type directs the take that is being made."""

from __future__ import annotations

import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, cast, get_args

import numpy as np

from longlive_rag.cli.making import said_as_exit_codes
from longlive_rag.cli.terminal import Console, typed_lines
from longlive_rag.config import SteerVerb
from longlive_rag.sessions.directing import LiveSession
from longlive_rag.takes.cue_files import read_steering
from longlive_rag.timecode import shown_timecode

if TYPE_CHECKING:
    from longlive_rag.generation.block import Block
    from longlive_rag.sessions.directed_take import DirectedTake
    from longlive_rag.sessions.live import LiveTake
    from longlive_rag.takes.record import TakeRecord

HELP = (
    "Type what should be seen next; it takes effect at the next block.",
    ":cut WORDS  begin another shot           :undo  go back to before the last cue",
    ":pin 5-8  :exclude 12-14  choose what memory brings back (undo: :unpin 5-8)",
    ":establish 8  keep 8 s of each new view in memory; :establish off  every frame",
    ":policy stratified  choose how memory picks frames; 'similar' is the default",
    ":branch NAME  continue in a copy  :save  write the record  :quit  end the take",
)


class Session:
    """Reads the keyboard while one segment after another is made.

    Attributes:
        console: where messages go.
    """

    def __init__(self) -> None:
        self.console = Console()
        self._screen = _Screen(self.console)
        self._session = LiveSession(self._screen)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def first_line(self) -> str | None:
        """Wait for the first line that is typed; None if input ends without one."""
        self.console.say("Type what should be seen first.")
        return self._lines.get()

    def run(self, take: DirectedTake, prompt: str | None = None) -> tuple[TakeRecord, DirectedTake]:
        """Make one segment after another until the take is ended or reaches its full length.

        Args:
            take: the first segment.
            prompt: takes effect at its first new block.

        Returns:
            The record of the last segment, and that segment.

        Raises:
            Stopped: on Ctrl-C; what is finished is kept.
            Failed: if disk or memory runs out; what is finished is kept.
        """
        output = take.request.output
        self.console.open(output.height, output.width)
        for line in HELP:
            self.console.say(line)
        threading.Thread(target=self._dispatch, daemon=True).start()
        try:
            with said_as_exit_codes():
                return self._session.run(take, prompt)
        finally:
            self._screen.close()
            self.console.close()

    # ---- what is typed ----

    def _read(self) -> None:
        for line in typed_lines(sys.stdin.fileno()):
            self._lines.put(line)
        self._lines.put(None)

    def _dispatch(self) -> None:
        while True:
            line = self._lines.get()
            live = self._session.live
            if line is None:
                if sys.stdin.isatty():
                    self._session.quit()
                self._session.go_on()
                return
            try:
                self._do(live, line)
            except ValueError as error:
                self.console.say(f"Not done: {error}")

    def _do(self, live: LiveTake, line: str) -> None:
        """Carry out one line: a prompt, or a command after a colon. Raise ValueError if that is not possible."""
        verb, _, words = line.removeprefix(":").partition(" ")
        session = self._session
        if not line.startswith(":") or verb == "cut":
            if line:
                second = session.direct(words.strip(), cut=True) if verb == "cut" else session.direct(line)
                self.console.say(f"{shown_timecode(second)}  {line}")
            session.go_on()
        elif verb in get_args(SteerVerb):
            steer = read_steering(live.seconds, cast("SteerVerb", verb), words, live.request.output.fps)
            self.console.say(f"{shown_timecode(live.steer(steer))}  {line}")
        elif verb == "branch":
            session.branch(words.strip())
        elif verb in ("save", "undo", "quit"):
            {"save": session.save, "undo": session.undo, "quit": session.quit}[verb]()
        elif verb == "help":
            for text in HELP:
                self.console.say(text)
        else:
            raise ValueError(f"{line!r} is not a command; :help lists them")


class _Screen:
    """Plays blocks at the video's frame rate, in its own thread; a new block cuts the one being played short."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._blocks: queue.SimpleQueue[tuple[str, np.ndarray, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._live: LiveTake | None = None
        self._begin_s, self._frames = 0.0, 0

    def say(self, sentence: str) -> None:
        self._console.say(sentence)

    def show(self, block: Block, live: LiveTake) -> None:
        fps = live.request.output.fps
        rate = ""  # measured from the second block on
        if live is not self._live:
            self._live, self._begin_s, self._frames = live, time.perf_counter(), 0
        else:
            self._frames += len(block.pixel_frames)
            rate = f"{self._frames / (time.perf_counter() - self._begin_s):.1f} frames per second  "
        status = f"{shown_timecode(block.pixel_frames.stop / fps)}  block {block.index}  {rate}{block.prompt}"
        self._blocks.put((status, np.asarray(block.pixels[0]), fps))
        waited = live.waited_seconds.get(block.cue or 0)
        if waited is not None:
            second = shown_timecode(block.pixel_frames.start / fps)
            self._console.say(f"{second}  cue {block.cue} took over; seen {waited:.1f} s after it was typed")

    def close(self) -> None:
        """Stop playing."""
        self._blocks.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._blocks.get()) is not None:
            status, frames, fps = item
            for frame in frames if self._console.wants_pictures else frames[-1:]:
                self._console.show(status, frame)
                time.sleep(1 / fps)
                if not self._blocks.empty():
                    break
