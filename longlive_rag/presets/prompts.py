"""Files of prompts, one per line."""

from __future__ import annotations

from pathlib import Path

from backbone.files import read_text


def read_prompts(path: Path) -> list[str]:
    """Read the prompts of a text file, one per line; empty lines and lines starting with # are skipped.

    Raises:
        ValueError: if it can't be read as text or holds no prompt.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read as text: {getattr(error, 'strerror', None) or error}") from error
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise ValueError(f"{path} holds no prompts; write one per line")
    return prompts
