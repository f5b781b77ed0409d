"""Sessions that survive a restart of the engine: a small file each, in a folder of the engine's own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from longlive_rag.documents import Versioned, read_document, write_document
from longlive_rag.engines.engine import Order, SessionState
from longlive_rag.engines.messages import Given
from retrieval.files import sync_folder
from retrieval.lock import hold

SUFFIX = ".session.json"


class KeptSession(Versioned):
    """A session as it is stored.

    Attributes:
        id: the session's id.
        number: counts sessions in the order they were submitted.
        turn: waiting sessions are sorted by it.
        owner, order, state, restarts, error, notes: as in `SessionFacts`.
        leave: how it is to end after the block in progress.
        sleeps: whether it was parked because its pace held it for long; it wakes by itself when it may go on.
        begun: whether a worker was told to make it.
        seconds_before: see `Begin`.
        given: directions that the take's record may lack.
        deaths: number of its workers lost since its newest block.
        blocks, total_blocks, seconds_made, seconds_asked, stage_seconds: as in `SessionFacts`.
    """

    id: str
    number: int
    turn: int
    owner: str = ""
    order: Order
    state: SessionState = "queued"
    leave: Literal["stopped", "parked"] | None = None
    sleeps: bool = False
    begun: bool = False
    seconds_before: float | None = None
    given: tuple[Given, ...] = ()
    restarts: int = 0
    deaths: int = 0
    error: str | None = None
    notes: tuple[str, ...] = ()
    blocks: int = 0
    total_blocks: int = 0
    seconds_made: float = 0.0
    seconds_asked: float = 0.0
    stage_seconds: dict[str, float] = Field(default_factory=dict)


class StateFolder:
    """The folder of stored sessions.

    Args:
        folder: the engine's own folder; it is made if it is missing.

    Raises:
        ValueError: if another engine has it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._lock = folder, hold(folder)

    def read(self) -> list[KeptSession]:
        """All stored sessions, oldest first.

        Raises:
            ValueError: naming the file that can't be read.
        """
        found = [read_document(path, KeptSession) for path in self._folder.glob(f"*{SUFFIX}")]
        return sorted(found, key=lambda session: session.number)

    def write(self, session: KeptSession) -> None:
        """Store a session as it is now; it is safely on disk when this returns."""
        write_document(self._path(session.id), session)
        sync_folder(self._folder)

    def remove(self, session: str) -> None:
        """Forget a session."""
        self._path(session).unlink(missing_ok=True)

    def close(self) -> None:
        """Release the folder for another engine."""
        self._lock.close()

    def _path(self, session: str) -> Path:
        return self._folder / f"{session}{SUFFIX}"
