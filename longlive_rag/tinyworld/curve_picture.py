"""A chart of how long hidden traits last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from longlive_rag.media.charts import Line, add_legend, draw_lines, new_chart, save_chart, start_at_zero


def draw_agreement(drift: Mapping[str, Any], path: Path) -> None:
    """Draw the curve of `world evaluate drift`: hidden traits as in the first second, as a mean and take by take.

    Args:
        drift: the section's figures.
        path: the PNG file to write.
    """
    figure, (axes,) = new_chart(3.0, width_in=7.0)
    mean, *takes = (
        100 * np.array(curve, np.float64)
        for curve in (drift["agreement_curve"], *(take["agreement_curve"] for take in drift["takes"]))
    )
    seconds = drift["bin_seconds"] * np.arange(1, len(mean) + 1)
    each = [Line(seconds, take, "each take", width=1, opacity=0.15) for take in takes]
    draw_lines(axes, [*each, Line(seconds, mean, "mean", width=2.5)])
    axes.set(xlabel="seconds", ylabel="hidden traits as in\nthe first second, %")
    start_at_zero(axes, top=102)
    add_legend(figure)
    save_chart(figure, path)
