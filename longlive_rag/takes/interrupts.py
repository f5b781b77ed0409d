"""Deferring Ctrl-C while something must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uninterrupted(let_through: bool = True) -> Iterator[None]:
    """Defer Ctrl-C to the end of the `with` body; `let_through` False drops it, as when the run ends anyway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[FrameType | None] = []
    before = signal.signal(signal.SIGINT, lambda _number, frame: came.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came and let_through and callable(before):
            before(signal.SIGINT, came[0])
