"""Seconds by stage, measured without stalling the GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

Events = Sequence[tuple[str, torch.cuda.Event, torch.cuda.Event]]


class Lap:
    """The times a stopwatch measured between two laps.

    Args:
        seconds: seconds by stage.
        events: start and end events by stage, whose times are still to be added.
    """

    def __init__(self, seconds: dict[str, float], events: Events = ()) -> None:
        self._seconds, self._events = seconds, events

    def read(self) -> dict[str, float]:
        """Seconds by stage; on CUDA this waits for the work to finish. Any thread may call it."""
        events, self._events = self._events, ()
        for name, start, end in events:
            end.synchronize()
            self._seconds[name] = self._seconds.get(name, 0.0) + start.elapsed_time(end) / 1000
        return self._seconds


class Stopwatch:
    """Adds up the time of named stages in one thread; on CUDA with events, which are waited for only when read."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside towards `name`."""
        if self._device.type == "cuda":
            stream = torch.cuda.current_stream(self._device)
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(stream)
            yield
            end.record(stream)
            self._events.append((name, start, end))
        else:
            start_s = time.perf_counter()
            yield
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start_s

    def lap(self) -> Lap:
        """The times since the last lap, without waiting for the GPU."""
        lap = Lap(self._seconds, self._events)
        self._seconds, self._events = {}, []
        return lap

    def read(self) -> dict[str, float]:
        """Seconds by stage since the last lap; on CUDA this waits for the work to finish."""
        return self.lap().read()
