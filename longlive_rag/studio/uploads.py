"""Uploaded pictures for takes to begin with."""

from __future__ import annotations

import secrets
import shutil
import threading
from pathlib import Path
from typing import IO

from longlive_rag.media.start_image import decode_upload
from longlive_rag.studio.schema import UploadFacts
from retrieval.lock import LOCK, hold, is_being_written

MAX_UPLOADS = 64
HIDDEN = ".studio-"


class Uploads:
    """Pictures in a hidden folder among the takes, where workers on other machines can see them too. Thread-safe.

    The folder is made for the first picture. A new studio removes what a killed one left.

    Args:
        takes: the folder of takes.

    Attributes:
        folder: folder of the pictures.
    """

    def __init__(self, takes: Path) -> None:
        self.folder = takes / f"{HIDDEN}{secrets.token_urlsafe(9)}"
        self._lock = threading.Lock()
        self._held: IO[bytes] | None = None
        self._paths: dict[str, Path] = {}
        for left in takes.glob(f"{HIDDEN}*"):
            if (left / LOCK).is_file() and not is_being_written(left):
                shutil.rmtree(left, ignore_errors=True)

    def add(self, data: bytes) -> UploadFacts:
        """Add a picture, decoded and re-encoded; if there are too many, the oldest one is removed.

        Raises:
            FieldError: if it is not a PNG or JPEG picture, or too large.
        """
        upright = decode_upload(data)
        upload = secrets.token_urlsafe(9)
        with self._lock:
            if self._held is None:
                self.folder.mkdir(mode=0o700)
                self._held = hold(self.folder)
            path = self._paths[upload] = self.folder / f"{upload}.png"
            upright.save(path)
            while len(self._paths) > MAX_UPLOADS:
                self._paths.pop(next(iter(self._paths))).unlink(missing_ok=True)
        return UploadFacts(id=upload, width=upright.width, height=upright.height)

    def path(self, upload: str) -> Path | None:
        """The file of a picture; None if there is none (any more)."""
        return self._paths.get(upload)

    def close(self) -> None:
        """Remove all pictures."""
        if self._held is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._held.close()
