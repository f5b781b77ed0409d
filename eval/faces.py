"""Face embedders: an interface, and a check of their terms before any weights are opened.

No face model is shipped or fetched. Your own folder holds `face_embedder.py`, with `open(folder, device)` returning an
`Embedder` whose rows are NaN if no face is found, and `terms.json`:

    {"model": "...", "license": "...", "commercial_use": false, "source": "https://...", "looked_up": "2026-01-31"}

Weights whose terms do not allow commercial use, or don't say, are only opened if this is acknowledged in the
environment (LONGLIVE_RAG_NONCOMMERCIAL=yes), and never under the licence policy `commercial`. InsightFace's published
models are for non-commercial research only; SFace and YuNet are not (Apache-2.0, MIT).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longlive_rag.documents import Document, read_document
from longlive_rag.rights.policy import LicenseError, pick_policy

if TYPE_CHECKING:
    from eval.embedders import Embedder

TERMS, CODE = "terms.json", "face_embedder.py"
UNDERSTOOD = "LONGLIVE_RAG_NONCOMMERCIAL"


class Terms(Document):
    """`terms.json`; commercial use is only allowed if `commercial_use` is `true`."""

    model: str
    license: str
    commercial_use: Any
    source: str
    looked_up: str


def check_face_folder(folder: Path) -> Terms:
    """Check a face embedder's folder and return its terms.

    Raises:
        LicenseError: if the licence policy in force does not allow its terms.
        ValueError: if the folder is incomplete, or its terms are not allowed here.
    """
    for name in (TERMS, CODE):
        if not (folder / name).is_file():
            raise ValueError(f"the face embedder's folder {folder} has no {name}; see docs/evaluation.md")
    terms = read_document(folder / TERMS, Terms)
    if terms.commercial_use is not True and pick_policy() == "commercial":
        raise LicenseError(
            f"license policy 'commercial' does not allow {folder}; its terms, from {TERMS}: {terms.license}"
        )
    if terms.commercial_use is not True and os.environ.get(UNDERSTOOD) != "yes":
        raise ValueError(
            f"{terms.model} ({terms.license}) may not be used commercially, or its terms don't say; "
            f"set {UNDERSTOOD}=yes to acknowledge this"
        )
    return terms


def open_face_embedder(folder: Path, device: str) -> Embedder:
    """Open the embedder of a folder that `check_face_folder` accepts.

    Raises:
        ValueError: as `check_face_folder`, or if the folder's code fails.
    """
    check_face_folder(folder)
    spec = importlib.util.spec_from_file_location("face_embedder", folder / CODE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        embedder: Embedder = module.open(folder, device)
    except Exception as error:  # the user's own code may raise anything
        raise ValueError(f"{folder / CODE} failed: {type(error).__name__}: {error}") from error
    return embedder
