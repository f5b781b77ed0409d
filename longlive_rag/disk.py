"""Records on disk, and sizes in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrieval.files import write_whole


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, text.encode())


def in_words(count: int) -> str:
    """Bytes in words, such as 3.2 MB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
