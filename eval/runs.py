"""What a run's folder holds, and which of its takes are finished."""

from __future__ import annotations

from pathlib import Path

from eval.plan import Cell

TAKES = "takes"
NOISE = "noise.json"
MEASURES = "measures.json"


def take_folder(run: Path, cell: Cell) -> Path:
    """Where a take of a run lies."""
    return run / TAKES / cell.name


def is_finished(run: Path, cell: Cell) -> bool:
    """Whether a take is made and measured: its measures are written last."""
    return (take_folder(run, cell) / MEASURES).exists()
