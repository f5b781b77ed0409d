"""Ways of laying out a model folder that has everything, found by asking each. Ours are registered as anybody's are.

A layout is a `Layout` under the entry point group `longlive_rag.checkpoint_layouts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from longlive_rag.environment import plugin, plugins
from longlive_rag.weights.findings import Finding
from longlive_rag.weights.parts import Parts

SETTINGS = ("context", "sampler", "memory", "output")


@dataclass(frozen=True)
class Layout:
    """A way of laying out a model folder.

    Attributes:
        name: what to call it.
        matches: whether a folder is laid out so, from names and configs alone.
        look: a finding for the layout and each part, from headers alone, and whether the folder can be opened as a
            pipeline folder as it is.
        open: its parts; raises ValueError if one is missing, damaged or doesn't fit its config.
    """

    name: str
    matches: Callable[[Path], bool]
    look: Callable[[Path], tuple[list[Finding], bool]]
    open: Callable[[Path], Parts]


def layout_of(folder: Path) -> Layout:
    """The layout of a folder.

    Raises:
        ValueError: if no layout that is installed matches.
    """
    known = {name: plugin("checkpoint layout", name) for name in sorted(plugins("checkpoint layout"))}
    for layout in known.values():
        if layout.matches(folder):
            return layout
    raise ValueError(f"{folder} is not a model folder; known layouts are: {', '.join(known)}")


def open_parts(folder: Path) -> Parts:
    """The parts of a folder in any layout.

    Raises:
        ValueError: if it is none, or a part is missing, damaged or doesn't fit its config.
    """
    return layout_of(folder).open(folder)


def inventory(folder: Path) -> tuple[list[Finding], bool]:
    """Look at a model folder in any layout; headers only, no weight is loaded.

    Returns:
        A finding for the layout and each part, and whether the folder can be opened as it is.
    """
    try:
        layout = layout_of(folder)
    except ValueError as error:
        how = "a pipeline folder is made by: longlive-rag models convert"
        return [Finding("layout", str(error), "bad", how)], False
    return layout.look(folder)


def to_convert(layout: str, folder: Path, parts: Sequence[Finding], is_base: bool = False) -> Finding:
    """What to say of a folder that is not a pipeline folder yet; `is_base` if it lacks the transformer's weights."""
    if any(part.verdict == "bad" for part in parts):
        return Finding("layout", layout, "note", "get the missing files first")
    words = f"CHECKPOINT NEW_FOLDER --base {folder}" if is_base else f"{folder} NEW_FOLDER"
    return Finding("layout", layout, "note", f"to use it: longlive-rag models convert {words}")
