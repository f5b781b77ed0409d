"""Lines of a report: what was looked at, what was found, and what to change."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backbone.files import read_header, read_headers
from retrieval.files import in_words

Verdict = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
        what: what was looked at.
        found: what was found.
        verdict: `ok`; `note` (works, could be better); `bad` (will not work).
        advice: what to change; empty if nothing.
    """

    what: str
    found: str
    verdict: Verdict = "ok"
    advice: str = ""


def finding(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, look())
    except ValueError as error:
        return Finding(what, str(error), "bad")


def present(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder / names[0]} is missing")


def whole(path: Path) -> str:
    """Return a file's name and size; ValueError if its end is missing. Pickled tensors are only read on conversion."""
    if path.suffix == ".safetensors":
        read_header(path)
    elif not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is truncated, or in the format used before torch 1.6")
    return f"{path.name}, {in_words(path.stat().st_size)}"


def weights_in_words(files: list[Path]) -> str:
    entries = read_headers(files)
    dtypes = sorted({entry.dtype for entry in entries.values()})
    size = in_words(sum(entry.size_bytes for entry in entries.values()))
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    return f"{count}, {len(entries)} tensors, {' and '.join(dtypes)}, {size}"
