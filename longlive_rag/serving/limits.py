"""Quotas of a key: requests a minute, takes at once, seconds a day, bytes on disk."""

from __future__ import annotations

import datetime
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from longlive_rag.documents import Versioned, read_document, write_document
from longlive_rag.serving.keys import ApiKey
from retrieval.files import in_words

GIB = 2**30
REMEMBERED = 4096
BURST = 3  # a third of a minute's requests may come at once


class OverQuotaError(Exception):
    """A key has used up a quota.

    Args:
        quota: its name.
        message: one sentence.
        retry_s: seconds after which to retry; None if unknown.
    """

    def __init__(self, quota: str, message: str, retry_s: float | None = None) -> None:
        super().__init__(message)
        self.quota, self.message, self.retry_s = quota, message, retry_s


class Buckets:
    """Token buckets by name; only the most recently used are kept. Thread-safe.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._level: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name: tokens, and when

    def take(self, name: str, a_minute: int) -> float:
        """Take a token; returns 0, or the seconds until there is one.

        Args:
            a_minute: tokens added per minute.
        """
        rate, most = a_minute / 60, max(1.0, a_minute / BURST)
        with self._lock:
            now = self._clock()
            tokens, since = self._level.pop(name, (most, now))
            tokens = min(most, tokens + (now - since) * rate)
            self._level[name] = (tokens - 1 if tokens >= 1 else tokens, now)
            while len(self._level) > REMEMBERED:
                self._level.popitem(last=False)
        return 0.0 if tokens >= 1 else (1 - tokens) / rate


class UsageFile(Versioned):
    """Seconds of video that were requested on a day (UTC), by key name."""

    day: str
    seconds: dict[str, float]


@dataclass
class Usage:
    """Seconds of video requested today, by key; kept in a file, so that a restart doesn't reset them.

    Args:
        path: the file.
        today: returns the current day (UTC).
    """

    path: Path
    today: Callable[[], datetime.date] = lambda: datetime.datetime.now(datetime.UTC).date()

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._file = UsageFile(day="", seconds={})
        if self.path.is_file():
            self._file = read_document(self.path, UsageFile)

    def seconds(self, name: str) -> float:
        """Seconds that a key has used today."""
        with self._lock:
            return self._file.seconds.get(name, 0.0) if self._file.day == self.today().isoformat() else 0.0

    def charge(self, key: ApiKey, seconds: float) -> None:
        """Charge a key for seconds of video.

        Raises:
            OverQuotaError: if that exceeds what the key may have today.
            OSError: if the file can't be written; nothing is charged then.
        """
        with self._lock:
            file = self._with(key.name, seconds)
            if seconds > 0 and key.seconds_a_day is not None and file.seconds[key.name] > key.seconds_a_day:
                left = max(0.0, key.seconds_a_day - (file.seconds[key.name] - seconds))
                message = f"{key.name} may have {key.seconds_a_day:g} s of video a day, and has {left:g} s left today"
                raise OverQuotaError("seconds_a_day", message, self._until_midnight())
            write_document(self.path, file)
            self._file = file

    def give_back(self, name: str, seconds: float) -> None:
        """Refund seconds that were not made after all. If the file can't be written, the next charge writes it."""
        with self._lock:
            self._file = self._with(name, -seconds)
            with suppress(OSError):
                write_document(self.path, self._file)

    def _with(self, name: str, seconds: float) -> UsageFile:
        """Today's file with seconds added for a key, or taken off."""
        day = self.today().isoformat()
        used = dict(self._file.seconds) if self._file.day == day else {}
        return UsageFile(day=day, seconds={**used, name: max(0.0, used.get(name, 0.0) + seconds)})

    def _until_midnight(self) -> float:
        now = datetime.datetime.now(datetime.UTC)
        midnight = datetime.datetime.combine(now.date() + datetime.timedelta(1), datetime.time(), datetime.UTC)
        return (midnight - now).total_seconds()


def check_quotas(key: ApiKey, takes: int, stored_bytes: int, more_bytes: int) -> None:
    """Raise OverQuotaError if a key has as many takes in progress as it may, or no disk space for another.

    Args:
        takes: number of its takes that are queued or being made.
        stored_bytes: size of its videos, estimated for those in progress.
        more_bytes: estimated size of the new work.
    """
    if key.takes_at_once is not None and takes >= key.takes_at_once:
        message = f"{key.name} may have {key.takes_at_once} videos queued or being made, and has {takes}"
        raise OverQuotaError("takes_at_once", f"{message}; wait for one to end", 5.0)
    if key.disk_gib is not None and stored_bytes + more_bytes > key.disk_gib * GIB:
        message = f"{key.name} may have {key.disk_gib:g} GiB of videos and has {in_words(stored_bytes)}"
        raise OverQuotaError("disk_gib", f"{message}; this one needs about {in_words(more_bytes)}: delete some")
