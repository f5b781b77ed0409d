"""A file per video, from before it is queued until it is deleted, so that a restart loses nothing."""

from __future__ import annotations

import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from longlive_rag.config import TakeRequest
from longlive_rag.documents import Document, Sealed, read_document, write_document
from retrieval.files import sync_folder
from retrieval.lock import hold

HIDDEN = ".serve"
"""Folder among the takes that only a server writes to; listings of takes skip it."""
VIDEOS, PICTURES, TRASH, USAGE = "videos", "pictures", "trash", "usage.json"

Result = Literal["finished", "stopped", "failed"]
Count = Annotated[int, Field(ge=0)]


class MakeWork(Document):
    """A new take."""

    what: Literal["make"] = "make"
    request: TakeRequest


class BranchWork(Document):
    """Another ending of the video `source`, which it shares until second `at`."""

    what: Literal["branch"] = "branch"
    source: str
    at: float
    prompt: str
    seconds: float


class ExtendWork(Document):
    """A take extended to `seconds` in all."""

    what: Literal["extend"] = "extend"
    seconds: float
    prompt: str | None
    cut: bool


Work = Annotated[MakeWork | BranchWork | ExtendWork, Field(discriminator="what")]


class Entry(Sealed):
    """A video.

    Attributes:
        id: unguessable; its take is in a folder of this name, inside that of its owner.
        number: newer videos have larger ones.
        owner: name of the key that created it.
        payer: name of the key whose quota pays for the work, if that isn't the owner's: an admin's.
        created_at, completed_at: Unix seconds.
        model, prompt, size, seed: as clients see them.
        seconds: requested length, of which `seconds_before` need not be made.
        seconds_made: length when it ended.
        remixed_from: id of the video that it was remixed from.
        work: what is to be done, or was done if it has ended.
        result: how it ended; None while it is queued or being made.
        error: why it failed.
        bytes: size on disk; an estimate while it is being made.
    """

    id: str
    number: Count
    owner: str
    payer: str | None = None
    created_at: Count
    completed_at: int | None = None
    model: str
    prompt: str
    size: str
    seed: int
    seconds: float
    seconds_before: float = 0.0
    seconds_made: float = 0.0
    remixed_from: str | None = None
    work: Work
    result: Result | None = None
    error: str | None = None
    bytes: Count = 0


def new_id() -> str:
    """An id that nobody can guess."""
    return f"video_{secrets.token_hex(16)}"


class Ledger:
    """All entries, in memory and on disk. Only one process at a time can hold it.

    Args:
        takes: the folder of takes.

    Raises:
        ValueError: if another process holds it, or an entry can't be read.
        OSError: if the folder can't be made.
    """

    def __init__(self, takes: Path) -> None:
        self.takes = takes
        self.folder = takes / HIDDEN
        for name in (VIDEOS, PICTURES, TRASH):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._lock = hold(self.folder)
        try:
            found = [read_document(path, Entry) for path in (self.folder / VIDEOS).glob("*.json")]
        except BaseException:
            self._lock.close()
            raise
        self.entries = {entry.id: entry for entry in sorted(found, key=lambda entry: entry.number)}

    def close(self) -> None:
        """Release it for another process."""
        self._lock.close()

    def next_number(self) -> int:
        """The number of the next video."""
        return 1 + max((entry.number for entry in self.entries.values()), default=0)

    def take_folder(self, entry: Entry) -> Path:
        """The folder of a video's take, which need not exist yet."""
        return self.takes / entry.owner / entry.id

    def picture(self, video: str) -> Path:
        """The file of the picture that a video begins with."""
        return self.folder / PICTURES / f"{video}.png"

    def put(self, entry: Entry) -> Entry:
        """Write an entry, new or changed; OSError if it can't be written."""
        entry = write_document(self.folder / VIDEOS / f"{entry.id}.json", entry)
        sync_folder(self.folder / VIDEOS)
        self.entries[entry.id] = entry
        return entry

    def restore(self, entry: Entry) -> None:
        """Put back the entry from before refused work. If the disk is full, the next server may do that work."""
        self.entries[entry.id] = entry
        with suppress(OSError):
            self.put(entry)

    def remove(self, entry: Entry) -> None:
        """Forget an entry and the picture that came with it."""
        (self.folder / VIDEOS / f"{entry.id}.json").unlink(missing_ok=True)
        self.picture(entry.id).unlink(missing_ok=True)
        self.entries.pop(entry.id, None)

    def remove_leftovers(self) -> None:
        """Remove what a killed server left: takes that were to be deleted, and pictures without a video."""
        for left in (self.folder / TRASH).iterdir():
            shutil.rmtree(left, ignore_errors=True)
        for path in (self.folder / PICTURES).iterdir():
            if path.name.removesuffix(".png") not in self.entries:
                path.unlink(missing_ok=True)
