"""A pipeline of threads: items pass through stages in order, each stage in its own thread.

The thread that puts items in also takes them out, and so decides how many are under way. The queues are unbounded, and
an item is not kept once it has been taken out.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

AHEAD = 3
"""Blocks under way so that storing, decoding and writing can each work on one, however long each of them takes."""
LIVE_AHEAD = 1
"""Blocks under way while a user directs the take: a direction takes effect at the block after the next one."""

Stage = Callable[[Any], Any]
_END = object()


@dataclass(frozen=True)
class _Failed:
    """Takes the place of the item whose stage failed, and of all items after it."""

    error: BaseException


class Behind:
    """Items on their way through stages.

    An item whose stage fails is the last one: earlier items come through, later ones skip that stage and those after
    it, and `get` raises the stage's error in its place. However the `with` body ends, all items under way come through
    before it is left, and no thread remains. If one of them fails then, its error is raised, because it was the first.

    Args:
        stages: by name; each is called with the result of the previous one.
        threads: whether stages run in threads; otherwise `put` does all the work.
    """

    def __init__(self, stages: Mapping[str, Stage], threads: bool = True) -> None:
        self._stages = tuple(stages.values())
        self._queues: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in range(len(self._stages) + 1)]
        self._threads: list[threading.Thread] = []
        self.under_way = 0
        """Number of items put in but not taken out."""
        self.has_failed = False
        """Whether `get` will eventually raise."""
        for number, name in enumerate(stages if threads else ()):
            thread = threading.Thread(target=self._work, args=(number,), name=f"longlive-rag {name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def put(self, item: Any) -> None:
        """Put the next item in; without threads, this raises a stage's error."""
        if not self._threads:
            for stage in self._stages:
                item = stage(item)
        self._queues[0 if self._threads else -1].put(item)
        self.under_way += 1

    def get(self) -> Any:
        """Wait for the oldest item under way and take it out; raises its stage's error."""
        item = self._queues[-1].get()
        self.under_way -= 1
        if not isinstance(item, _Failed):
            return item
        error = item.error
        try:
            raise error
        finally:
            del item, error  # or the traceback would refer to itself and keep everything in its frames alive

    def down_to(self, left: int) -> Iterator[Any]:
        """Take items out until at most `left` are under way, or until one raises its stage's error."""
        while self.under_way > (0 if self.has_failed else left):
            yield self.get()

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        while not self._queues[-1].empty():
            item = self._queues[-1].get()
            if isinstance(item, _Failed):
                raise item.error from error

    def _end(self) -> None:
        """End the threads; Ctrl-C is ignored meanwhile."""
        if threading.current_thread() in self._threads:  # if the garbage collector ran there
            self._queues[0].put(_END)
            return
        while any(thread.is_alive() for thread in self._threads):
            try:
                self._queues[0].put(_END)
                for thread in self._threads:
                    thread.join()
            except KeyboardInterrupt:
                continue

    def _work(self, number: int) -> None:
        """Run a stage; the body of its thread."""
        stage, source, target = self._stages[number], self._queues[number], self._queues[number + 1]
        broken = False
        while (item := source.get()) is not _END:
            if not broken:
                item = item if isinstance(item, _Failed) else self._through(stage, item)
                broken = isinstance(item, _Failed)
                target.put(item)
            del item
        if number + 1 < len(self._stages):
            target.put(_END)

    def _through(self, stage: Stage, item: Any) -> Any:
        try:
            return stage(item)
        except BaseException as error:  # of any kind, as it is raised again in `get`
            self.has_failed = True
            return _Failed(error)
