"""What happens is said to every window that listens; one of them directs."""

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
    """A connection that events go to.

    Attributes:
        secret: of its session.
        watches: the take that it shows; None where it hasn't said.
        events: those that it has not been sent yet, as JSON.
        let_go: set when it doesn't keep up.
    """

    secret: str
    watches: str | None = None
    events: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(MAX_WAITING))
    let_go: asyncio.Event = field(default_factory=asyncio.Event)


class Hub:
    """Hands events from any thread to the windows, in order; one that doesn't keep up is let go and comes again.

    Args:
        said: a sentence as windows may read it.
    """

    def __init__(self, said: Callable[[str], str] = str) -> None:
        self._said = said
        self._windows: set[Window] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """From inside the loop that serves."""
        self._loop = asyncio.get_running_loop()

    def say(self, event: BaseModel) -> None:
        """Say something to all; from any thread."""
        if isinstance(event, NoteEvent | ErrorEvent):
            event = event.model_copy(update={"message": self._said(event.message)})
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hand_out, event.model_dump_json())

    def join(self, secret: str) -> Window | None:
        """A new window; None if there are too many."""
        if len(self._windows) >= MAX_WINDOWS:
            return None
        window = Window(secret)
        self._windows.add(window)
        return window

    def is_watched(self, take: str, counts: Callable[[str], bool]) -> bool:
        """Whether a window shows a take, or may do so, whose session counts; from any thread."""
        return any(window.watches in (None, take) and counts(window.secret) for window in list(self._windows))

    def leave(self, window: Window) -> None:
        """It is closed."""
        self._windows.discard(window)

    def _hand_out(self, event: str) -> None:
        for window in list(self._windows):
            if window.events.full():
                self._windows.discard(window)
                window.let_go.set()
            else:
                window.events.put_nowait(event)


class DirectedElsewhereError(Exception):
    """Another window directs."""


class Director:
    """Whose words count: the first session that commands, until it has been away for a while or another takes over."""

    def __init__(self, clock: Any = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._secret: str | None = None
        self._seen = 0.0
        self._windows: dict[str, int] = {}

    def claim(self, secret: str, by_force: bool = False) -> None:
        """Direct from here on; DirectedElsewhereError if somebody else does, unless `by_force`."""
        with self._lock:
            if not by_force and not self._may(secret):
                raise DirectedElsewhereError
            self._secret, self._seen = secret, self._clock()

    def may(self, secret: str) -> bool:
        """Whether nobody else directs."""
        with self._lock:
            return self._may(secret)

    def joined(self, secret: str) -> None:
        """A window of the session was opened."""
        with self._lock:
            self._windows[secret] = self._windows.get(secret, 0) + 1

    def left(self, secret: str) -> None:
        """A window of the session was closed."""
        with self._lock:
            self._windows[secret] -= 1
            if not self._windows[secret]:
                del self._windows[secret]
            if secret == self._secret:
                self._seen = self._clock()

    def _may(self, secret: str) -> bool:
        is_here = self._windows.get(self._secret or "", 0) > 0 or self._clock() - self._seen < AWAY_SECONDS
        return self._secret in (None, secret) or not is_here
