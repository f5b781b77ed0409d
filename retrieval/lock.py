"""A lock that allows one writer per folder, and is released when its process ends, however it ends."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import IO

from retrieval.files import open_plain

LOCK = "lock"
TRIES, WAIT_S = 5, 0.02


def hold(folder: Path) -> IO[bytes]:
    """Lock an existing folder until the returned file is closed or the process ends.

    Raises:
        ValueError: if another process holds it, or it is not a file.
    """
    file = open_plain(folder / LOCK, "a+b")
    for _ in range(TRIES):  # another process may briefly hold it in `is_being_written`
        if _try_lock(file, shared=False) and _is_the_file_at(file, folder / LOCK):
            return file
        time.sleep(WAIT_S)
    file.close()
    raise _busy(folder)


def is_being_written(folder: Path) -> bool:
    """Whether a process holds the folder's lock; does not need write permission."""
    try:
        with open_plain(folder / LOCK) as file:
            return not _try_lock(file, shared=True)
    except (FileNotFoundError, NotADirectoryError):
        return False


def check_free(folder: Path) -> None:
    """Raise ValueError if a process holds the folder's lock."""
    if is_being_written(folder):
        raise _busy(folder)


def _busy(folder: Path) -> ValueError:
    return ValueError(f"{folder} is being written by another process; wait for it or stop it")


def _is_the_file_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one at `path`; a writer that leaves its folder empty removes its lock."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(file: IO[bytes], shared: bool) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
