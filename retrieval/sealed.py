"""Sealed files, which begin with one line of text that tells whether the rest is complete.

The line gives the kind of file, the format version, and the length and SHA-256 of what follows it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

HEADER_BYTES = 512


class BrokenSealError(ValueError):
    """A file is not as it was written."""


class FutureFormatError(ValueError):
    """A file was written by a newer version."""


def seal(kind: str, version: int, body: bytes) -> bytes:
    """Make the content of a sealed file: `HEADER_BYTES` of header, then `body`."""
    header = {"format": version, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    return (_magic(kind) + json.dumps(header).encode() + b"\n").ljust(HEADER_BYTES, b"\0") + body


def unseal(path: Path, content: bytes, kind: str, newest: int) -> bytes:
    """Check a sealed file and return its body.

    Args:
        path: path of the file, for messages.
        content: content of the whole file.
        kind: expected kind of file.
        newest: newest format version that can be read.

    Raises:
        BrokenSealError: if it is of another kind or not as it was written.
        FutureFormatError: if a newer version wrote it.
    """
    line, end, _ = content[:HEADER_BYTES].partition(b"\n")
    try:
        if not (line.startswith(_magic(kind)) and end):
            raise ValueError("no header")
        header = json.loads(line.removeprefix(_magic(kind)))
        version = int(header["format"])
        expected_bytes, expected_hash = (0, "") if version > newest else (int(header["bytes"]), str(header["sha256"]))
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenSealError(f"{path} is damaged: it does not begin like a stored {kind}") from error
    if version > newest:
        raise FutureFormatError(
            f"{path} has format {version}; this version reads formats up to {newest}: install a newer longlive-rag"
        )
    body = content[HEADER_BYTES:]
    if len(body) != expected_bytes:
        raise BrokenSealError(f"{path} is damaged: {len(body)} bytes, but {expected_bytes} were written")
    if hashlib.sha256(body).hexdigest() != expected_hash:
        raise BrokenSealError(f"{path} is damaged: its content does not match its checksum")
    return body


def _magic(kind: str) -> bytes:
    return f"longlive-rag {kind} ".encode()
