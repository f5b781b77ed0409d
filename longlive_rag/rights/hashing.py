"""SHA-256 of weight files, cached so that a file of 6 GB is not read at every start."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from longlive_rag.environment import cache_folder
from retrieval.files import write_json

REMEMBERED_FROM_BYTES = 64 * 1024 * 1024


def sha256(path: Path) -> str:
    """Return a file's hex digest. Large files are cached by path, inode, size and times, which any write changes."""
    stat = path.stat()
    if stat.st_size < REMEMBERED_FROM_BYTES:
        return _digest(path)
    memory = cache_folder() / "hashes.json"
    known = _read(memory)
    key = f"{path.resolve()}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
    if key not in known:
        known[key] = _digest(path)
        with contextlib.suppress(OSError):  # a read-only home only costs time
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, known)
    return known[key]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(memory: Path) -> dict[str, str]:
    try:
        content = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
