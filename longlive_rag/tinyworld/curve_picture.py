"""How long hidden traits last, as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw_agreement(drift: Mapping[str, Any], path: Path) -> bool:
    """Draw the curve of `world evaluate drift`: hidden traits as in the first second, and the same take by take.

    Args:
        drift: the section's figures.
        path: of the PNG.

    Returns:
        Whether it was drawn: matplotlib is an extra (`pip install 'longlive-rag[eval]'`).
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    seconds = [drift["bin_seconds"] * (number + 1) for number in range(len(drift["agreement_curve"]))]
    for take in drift["takes"]:
        kept = [math.nan if value is None else 100 * value for value in take["agreement_curve"]]
        axes.plot(seconds, kept, color="tab:blue", alpha=0.12, linewidth=1)
    axes.plot(seconds, [100 * value for value in drift["agreement_curve"]], color="tab:blue", linewidth=2.5)
    axes.set(xlabel="seconds", ylabel="hidden traits as in\nthe first second, %", ylim=(0, 102))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    return True
