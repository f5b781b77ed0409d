"""The folder of a run, and which of its takes are finished."""

from __future__ import annotations

from pathlib import Path

from eval.measures import Measures
from eval.plan import Cell
from longlive_rag.documents import read_document

TAKES = "takes"
NOISE = "noise.json"
MEASURES = "measures.json"


def take_folder(run: Path, cell: Cell) -> Path:
    """The folder of a take in a run."""
    return run / TAKES / cell.name


def is_finished(run: Path, cell: Cell) -> bool:
    """Whether a take of a run is made and measured in the current format; its measures are written last."""
    try:
        read_document(take_folder(run, cell) / MEASURES, Measures)
    except ValueError:
        return False
    return True
