"""Workers that are threads of this process: they can be looked into, and are there at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

from longlive_rag.engines.messages import End, FromWorker, ToWorker
from longlive_rag.engines.supervisor import Supervisor
from longlive_rag.engines.worker import Worker


class ThreadLink:
    """A worker that is a thread of this process."""

    def __init__(self) -> None:
        self._said: queue.SimpleQueue[FromWorker | None] = queue.SimpleQueue()
        self._worker = Worker("cpu", "cpu", self._said.put)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._worker.run()
        finally:
            self._said.put(None)

    def tell(self, message: ToWorker) -> None:
        self._worker.tell(message)

    def messages(self) -> Iterator[FromWorker]:
        while (said := self._said.get()) is not None:
            yield said

    def kill(self) -> None:
        self.tell(End())
        self._thread.join(60)


class ThreadWorkers:
    """So many of them."""

    kind, idle_s = "thread", None

    def __init__(self, count: int) -> None:
        self.count = count

    def start(self, number: int) -> ThreadLink:
        return ThreadLink()

    def close(self) -> None:
        """They ended."""


def thread_engine(state: Path) -> Supervisor:
    """An engine with one of them."""
    return Supervisor(ThreadWorkers(1), state)
