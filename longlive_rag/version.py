"""The version of longlive-rag, and of what a take depends on."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"

LIBRARIES = ("torch", "diffusers", "transformers", "faiss-cpu", "faiss-gpu", "numpy", "av", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python, longlive-rag and the libraries installed, by name; imports none of them."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    """As this process found them: what is loaded stays of that version."""
    found = {"python": platform.python_version(), "longlive-rag": __version__}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
