"""Layouts of complete model folders. A folder's layout is found by asking each known one.

A layout is a `Layout` in the entry point group `longlive_rag.checkpoint_layouts`; ours are registered there as well.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from longlive_rag.environment import plugin, plugins
from longlive_rag.weights.findings import Finding
from longlive_rag.weights.parts import Parts

SETTINGS = ("context", "sampler", "memory", "output")


@dataclass(frozen=True)
class Layout:
    """The layout of a model folder.

    Attributes:
        name: its name.
        matches: whether a folder has this layout, from names and configs alone.
        look: returns a finding for the layout and each part, from headers alone, and whether the folder can be opened
            as a pipeline folder as it is.
        open: returns its parts; raises ValueError if one is missing, damaged or doesn't fit its config.
    """

    name: str
    matches: Callable[[Path], bool]
    look: Callable[[Path], tuple[list[Finding], bool]]
    open: Callable[[Path], Parts]


def layout_of(folder: Path) -> Layout:
    """Return the layout of a folder.

    Raises:
        ValueError: if no installed layout matches.
    """
    known = {name: plugin("checkpoint layout", name) for name in sorted(plugins("checkpoint layout"))}
    for layout in known.values():
        if layout.matches(folder):
            return layout
    raise ValueError(f"{folder} is not a model folder; known layouts are: {', '.join(known)}")


def open_parts(folder: Path) -> Parts:
    """Open the parts of a folder in any known layout.

    Raises:
        ValueError: if it has none, or a part is missing, damaged or doesn't fit its config.
    """
    return layout_of(folder).open(folder)


def inventory(folder: Path) -> tuple[list[Finding], bool]:
    """Look at a model folder in any known layout, reading only headers.

    Returns:
        A finding for the layout and each part, and whether the folder can be opened as it is.
    """
    try:
        layout = layout_of(folder)
    except ValueError as error:
        how = "to make a pipeline folder: longlive-rag models convert"
        return [Finding("layout", str(error), "bad", how)], False
    return layout.look(folder)


def to_convert(layout: str, folder: Path, parts: Sequence[Finding], is_base: bool = False) -> Finding:
    """Return the finding for a folder to be converted first; `is_base` if it lacks the transformer's weights."""
    if any(part.verdict == "bad" for part in parts):
        return Finding("layout", layout, "note", "get the missing files first")
    place = shlex.quote(str(folder))
    words = f"CHECKPOINT NEW_FOLDER --base {place}" if is_base else f"{place} NEW_FOLDER"
    return Finding("layout", layout, "note", f"to use it: longlive-rag models convert {words}")
