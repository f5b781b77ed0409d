"""What an engine needs from a kind of workers: processes on this machine, or actors on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from longlive_rag.engines.messages import FromWorker, ToWorker


class WorkerLink(Protocol):
    """The engine's link to a worker that was started."""

    def tell(self, message: ToWorker) -> None:
        """Send a message; no error if the worker is lost already."""
        ...

    def messages(self) -> Iterator[FromWorker | None]:
        """Its messages, and None about once a second while there are none; ends when the worker is lost."""
        ...

    def kill(self) -> None:
        """End it, now."""
        ...


class Workers(Protocol):
    """A kind of workers.

    Attributes:
        kind: name of the kind.
        count: maximum number of workers.
        idle_s: seconds without a session after which a worker is released, to be started again when needed; None
            starts all at once and keeps them.
    """

    kind: str
    count: int
    idle_s: float | None

    def start(self, number: int) -> WorkerLink:
        """Start the worker with this number; OSError if that fails."""
        ...

    def close(self) -> None:
        """Release what all of them share."""
        ...
