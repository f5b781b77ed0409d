"""A terminal for directing a take: the picture above, the input below, neither disturbing the other."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TextIO

import numpy as np
from PIL import Image

MESSAGES = 6
INPUT_LINES = 3
MIN_COLUMNS = 20
MAX_COLUMNS = 64
FULL_COLOUR = ("truecolor", "24bit")

SAVE, RESTORE, CLEAR_LINE, CLEAR_ALL = "\x1b7", "\x1b8", "\x1b[K", "\x1b[2J"


def half_blocks(picture: np.ndarray, columns: int) -> list[str]:
    """Render a picture as lines of upper half blocks, two pixels per character, in 24-bit colour.

    Args:
        picture: [H, W, 3] uint8 RGB.
        columns: characters per line; a character is assumed to be twice as high as wide.
    """
    rows = max(1, round(columns * picture.shape[0] / picture.shape[1] / 2))
    small = np.asarray(Image.fromarray(picture).resize((columns, 2 * rows), Image.Resampling.BOX))
    lines = []
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        cells = (
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m\u2580"
            for a, b in zip(upper, lower, strict=True)
        )
        lines.append("".join(cells) + "\x1b[0m")
    return lines


def shows_pictures(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a stream is a terminal that reports 24-bit colour."""
    return stream.isatty() and environment.get("COLORTERM", "").lower() in FULL_COLOUR


def moves_cursor(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a stream is a terminal that can redraw lines in place."""
    return stream.isatty() and environment.get("TERM", "dumb") not in ("", "dumb")


class Console:
    """Output of a session: messages and, on a terminal, the state of the take and a preview.

    On a terminal, the upper part is drawn in place; the lower part scrolls separately and belongs to the keyboard, so
    what is being typed is never overwritten. Elsewhere, messages are written line by line. Thread-safe.

    Args:
        stream: the stream to write to; default is standard output.
        environment: environment variables, which say what the terminal can do.
    """

    def __init__(self, stream: TextIO | None = None, environment: Mapping[str, str] = os.environ) -> None:
        stream = sys.stdout if stream is None else stream
        self._stream = stream
        self._terminal: TextIO = getattr(stream, "terminal", stream)  # drawing in place needs control characters
        self._lock = threading.Lock()
        self._messages: deque[str] = deque(maxlen=MESSAGES)
        self._status = ""
        self._preview: list[str] = []
        self._in_place = moves_cursor(stream, environment)
        self._pictures = self._in_place and shows_pictures(stream, environment)
        self._picture_rows = 0
        self._open = False

    def open(self, height: int, width: int) -> None:
        """Divide the screen for pictures of this size; do nothing without a terminal."""
        if not self._in_place:
            return
        columns, lines = shutil.get_terminal_size()
        room = lines - 1 - MESSAGES - 1 - INPUT_LINES
        self._columns = min(columns - 1, MAX_COLUMNS, int(2 * room * width / height))
        if self._pictures and self._columns >= MIN_COLUMNS:
            self._picture_rows = max(1, round(self._columns * height / width / 2))
        first = self._picture_rows + 1 + MESSAGES + 1
        with self._lock:
            self._open = True
            self._place(f"{CLEAR_ALL}\x1b[{first + 1};{lines}r\x1b[{first + 1};1H")
            self._draw()

    def close(self) -> None:
        """Restore the whole screen, with the last messages on it."""
        with self._lock:
            if self._open:
                self._open = False
                self._place(f"\x1b[r\x1b[{shutil.get_terminal_size().lines};1H\n")

    def say(self, message: str) -> None:
        """Show a message to the user; one that is wider than the terminal takes several lines."""
        with self._lock:
            if self._open:
                self._messages.extend(textwrap.wrap(message, shutil.get_terminal_size().columns - 1))
                self._draw()
            else:
                self._write(message + "\n")

    def show(self, status: str, picture: np.ndarray | None = None) -> None:
        """Draw the state of the take in place, if the terminal allows it."""
        with self._lock:
            if not self._open:
                return
            self._status = status
            if picture is not None and self._picture_rows:
                self._preview = half_blocks(picture, self._columns)
            self._draw()

    @property
    def wants_pictures(self) -> bool:
        """Whether `show` would draw a picture."""
        return self._open and self._picture_rows > 0

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        blank = [""] * (self._picture_rows - len(self._preview))
        texts = [self._status, *self._messages, *[""] * (MESSAGES - len(self._messages)), "\u2500" * width]
        plain = ("".join(letter for letter in text if letter.isprintable())[:width] for text in texts)
        lines = [*self._preview, *blank, *plain]
        rows = "".join(f"\x1b[{row};1H{line}{CLEAR_LINE}" for row, line in enumerate(lines, start=1))
        self._place(SAVE + rows + RESTORE)

    def _place(self, text: str) -> None:
        self._terminal.write(text)
        self._terminal.flush()

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def typed_lines(descriptor: int) -> Iterator[str]:
    """Yield lines as they are typed, without line ends, read directly from the descriptor.

    A thread blocked in Python's buffered reader would keep the process from exiting.
    """
    rest = b""
    while True:
        try:
            data = os.read(descriptor, 4096)
        except OSError:  # the terminal was closed
            data = b""
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode("utf-8", "replace").strip() for line in lines)
        if not data:
            if rest.strip():
                yield rest.decode("utf-8", "replace").strip()
            return
