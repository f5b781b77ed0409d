"""Sends events to every open window, and decides which window directs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from longlive_rag.studio.schema import ErrorEvent, NoteEvent

MAX_WINDOWS = 16
MAX_WAITING = 2000
AWAY_SECONDS = 10.0


@dataclass(eq=False)
class Window:
    """A connection that receives events.

    Attributes:
        secret: its session's secret.
        watches: the take that it shows; None until it is known.
        events: events that are yet to be sent, as JSON.
        dropped: set if it doesn't keep up.
    """

    secret: str
    watches: str | None = None
    events: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(MAX_WAITING))
    dropped: asyncio.Event = field(default_factory=asyncio.Event)


class Hub:
    """Sends events from any thread to the windows, in order; one that doesn't keep up is dropped, and reconnects.

    Args:
        clean: turns a message into what windows may read.
    """

    def __init__(self, clean: Callable[[str], str] = str) -> None:
        self._clean = clean
        self._windows: set[Window] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Call this in the server's event loop."""
        self._loop = asyncio.get_running_loop()

    def say(self, event: BaseModel) -> None:
        """Send an event to all windows; thread-safe."""
        if isinstance(event, NoteEvent | ErrorEvent):
            event = event.model_copy(update={"message": self._clean(event.message)})
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hand_out, event.model_dump_json())

    def join(self, secret: str) -> Window | None:
        """Add a window; None if there are too many."""
        if len(self._windows) >= MAX_WINDOWS:
            return None
        window = Window(secret)
        self._windows.add(window)
        return window

    def is_watched(self, take: str, counts: Callable[[str], bool]) -> bool:
        """Whether a window whose session counts shows a take, or may show it; thread-safe."""
        return any(window.watches in (None, take) and counts(window.secret) for window in list(self._windows))

    def leave(self, window: Window) -> None:
        """Remove a window that was closed."""
        self._windows.discard(window)

    def _hand_out(self, event: str) -> None:
        for window in list(self._windows):
            if window.events.full():
                self._windows.discard(window)
                window.dropped.set()
            else:
                window.events.put_nowait(event)


class DirectedElsewhereError(Exception):
    """Another window directs."""


class Director:
    """The session that directs: the first to give a command, until it is away for a while or another takes over."""

    def __init__(self, clock: Any = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._secret: str | None = None
        self._seen = 0.0
        self._windows: dict[str, int] = {}

    def claim(self, secret: str, by_force: bool = False) -> None:
        """Direct from now on; DirectedElsewhereError if another session directs, unless `by_force`."""
        with self._lock:
            if not by_force and not self._may(secret):
                raise DirectedElsewhereError
            self._secret, self._seen = secret, self._clock()

    def may(self, secret: str) -> bool:
        """Whether no other session directs."""
        with self._lock:
            return self._may(secret)

    def joined(self, secret: str) -> None:
        """Note that a window of the session was opened."""
        with self._lock:
            self._windows[secret] = self._windows.get(secret, 0) + 1

    def left(self, secret: str) -> None:
        """Note that a window of the session was closed."""
        with self._lock:
            self._windows[secret] -= 1
            if not self._windows[secret]:
                del self._windows[secret]
            if secret == self._secret:
                self._seen = self._clock()

    def _may(self, secret: str) -> bool:
        is_here = self._windows.get(self._secret or "", 0) > 0 or self._clock() - self._seen < AWAY_SECONDS
        return self._secret in (None, secret) or not is_here
