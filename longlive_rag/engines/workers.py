"""What an engine needs of a kind of workers: processes of this machine, actors on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from longlive_rag.engines.messages import FromWorker, ToWorker


class WorkerLink(Protocol):
    """A worker that was started, from the engine's side."""

    def tell(self, message: ToWorker) -> None:
        """Send a message; one that is lost already takes none, without an error."""
        ...

    def messages(self) -> Iterator[FromWorker | None]:
        """What it says, None once a second where it says nothing; ends when the worker is lost."""
        ...

    def kill(self) -> None:
        """End it, now."""
        ...


class Workers(Protocol):
    """A kind of workers.

    Attributes:
        kind: its name.
        count: how many there are at most.
        idle_s: after so long without a session a worker is given back, and started again when it is needed; None
            starts all at once and keeps them.
    """

    kind: str
    count: int
    idle_s: float | None

    def start(self, number: int) -> WorkerLink:
        """Start the worker of this number; OSError if it can't be."""
        ...

    def close(self) -> None:
        """Let go of what all of them needed."""
        ...
