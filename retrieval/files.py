"""Atomic writing of files, JSON records, and sizes in words."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

OWN_FILES = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


def write_durably(path: Path, content: bytes) -> None:
    """Write a file atomically and durably: once this returns, it survives a power failure."""
    write_whole(path, content)
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see either the old content or the new.

    Until its folder is synced, the new file may be lost in a power failure. If writing fails, nothing is left behind.
    """
    with appearing(path) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def check_plain(path: Path, folder: bool = False) -> None:
    """Raise `NotPlainError` if `path` exists but is not a plain file (or folder): a link or a pipe, for example."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not (stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)):
        what = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "not a plain file"
        raise NotPlainError(f"{path} is {what}; it must be a plain {'folder' if folder else 'file'}")


class NotPlainError(ValueError):
    """A path is a link, a pipe or a device where a plain file was expected."""


def open_plain(path: Path, mode: Literal["rb", "a+b"] = "rb") -> IO[bytes]:
    """Open a plain file, without following links or blocking.

    Raises:
        NotPlainError: if it is anything else, such as a link or a pipe.
        OSError: if it can't be opened.
    """
    check_plain(path)
    flags = os.O_RDONLY if mode == "rb" else os.O_RDWR | os.O_CREAT | os.O_APPEND
    handle = os.open(path, flags | OWN_FILES, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotPlainError(f"{path} is not a plain file")
        return os.fdopen(handle, mode)
    except BaseException:
        os.close(handle)
        raise


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which becomes `path` if the `with` body succeeds and is removed otherwise."""
    part = part_of(path)
    try:
        part.unlink(missing_ok=True)  # left by a killed process, or a link planted there
        yield part
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):  # on a read-only disk nothing can be removed, and nothing is there
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(part)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def part_of(path: Path) -> Path:
    """The temporary path of a file until it is complete."""
    return path.with_name(f".{path.name}.part")


def leftover_parts(folder: Path, *names: str) -> list[Path]:
    """Temporary files left by a killed process; `names` are patterns of the complete files."""
    parts = [part for name in names for part in folder.glob(f".{name}.part")] if not folder.is_symlink() else []
    return [part for part in parts if part.is_symlink() or part.is_file()]


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable; Windows does this by itself."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, text.encode())


def in_words(count: int) -> str:
    """Format a number of bytes, such as 3.2 MB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
