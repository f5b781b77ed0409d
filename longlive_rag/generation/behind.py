"""Work that runs behind: items pass through stages in order, each stage in a thread of its own.

Whoever puts items in also takes them out, in one thread, and so decides how many are under way: nothing here waits for
room, and nothing is held but what is under way.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

AHEAD = 3
"""Blocks under way so that each of storing, decoding and writing has one, however long each of them takes."""
LIVE_AHEAD = 1
"""Blocks under way where somebody directs: what is said holds from the block after the next one on."""

Stage = Callable[[Any], Any]
_END = object()


@dataclass(frozen=True)
class _Failed:
    """Takes the place of an item, and of all that come after it."""

    error: BaseException


class Behind:
    """Items on their way through stages.

    An item that fails is the last one: those before it come through, of those after it nothing is done any more from
    that stage on, and `get` raises in its place what the stage raised. Leaving the `with` body lets all that is under
    way come through, however the body ended; then no thread is left. If an item fails meanwhile, that is raised:
    what went wrong first is what is told.

    Args:
        stages: by name; each takes what the one before returned.
        threads: whether stages run in threads; else `put` does all the work.
    """

    def __init__(self, stages: Mapping[str, Stage], threads: bool = True) -> None:
        self._stages = tuple(stages.values())
        self._queues: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in range(len(self._stages) + 1)]
        self._threads: list[threading.Thread] = []
        self.under_way = 0
        """Items that were put in and not taken out."""
        self.has_failed = False
        """Whether `get` will raise sooner or later."""
        for number, name in enumerate(stages if threads else ()):
            thread = threading.Thread(target=self._work, args=(number,), name=f"longlive-rag {name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def put(self, item: Any) -> None:
        """Hand over the next item; without threads this raises what a stage raises."""
        if not self._threads:
            for stage in self._stages:
                item = stage(item)
        self._queues[0 if self._threads else -1].put(item)
        self.under_way += 1

    def get(self) -> Any:
        """The oldest item under way, once it is through; raises what its stage raised."""
        item = self._queues[-1].get()
        self.under_way -= 1
        if not isinstance(item, _Failed):
            return item
        error = item.error
        try:
            raise error
        finally:
            del item, error  # a traceback that holds itself would hold all that its frames do

    def down_to(self, left: int) -> Iterator[Any]:
        """Items as they come through, until no more than `left` are under way."""
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
        """End the threads; Ctrl-C has no effect meanwhile."""
        if threading.current_thread() in self._threads:  # garbage is collected in any thread
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
        """A stage's thread."""
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
        except BaseException as error:  # of any kind: it is raised where the item would be taken out
            self.has_failed = True
            return _Failed(error)
