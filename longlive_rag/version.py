"""The version of longlive-rag and of the libraries that a take depends on."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"

LIBRARIES = ("torch", "diffusers", "transformers", "faiss-cpu", "faiss-gpu", "numpy", "av", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python, longlive-rag and installed libraries, by name, without importing them."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    """Read versions once per process: what is already loaded keeps its version."""
    found = {"python": platform.python_version(), "longlive-rag": __version__}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
