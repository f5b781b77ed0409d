"""Line charts, and the style that all charts share, using Matplotlib.

Matplotlib is an optional extra: it is imported inside functions, and `check_charts` reports it missing before the work
begins. Figures are made without pyplot, so they need no display and leave no global state.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN, DPI = 9.2, 130
# Six colours that stay distinct with any colour blindness (Petroff 2021, arXiv 2107.02270); grey: the baseline.
BASELINE_COLOR = "#9c9ca1"
SERIES_COLORS = ("#5790fc", "#f89c20", "#e42536", "#964a8b", "#7a21dd")
DASHES = ("-", "--", ":")
TEXT, FAINT, GRID = "#1d2129", "#6b7280", "#e3e6ec"
BASELINE = -1
"""Number of the series that others are compared with."""


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        x: [N].
        y: [N]; the line breaks where a value is None or NaN.
        label: text in the legend; without one, the line is not listed.
        series: number that determines colour and dashes; or `BASELINE`.
        band: (low [N], high [N]) around the line.
        points: whether to mark each value.
        width: in points (1/72 inch).
        opacity: from 0 to 1.
    """

    x: Sequence[float] | NDArray[Any]
    y: Sequence[float | None] | NDArray[Any]
    label: str = ""
    series: int = 0
    band: tuple[NDArray[Any], NDArray[Any]] | None = None
    points: bool = False
    width: float = 2.0
    opacity: float = 1.0


def check_charts(what: str, extra: str = "eval") -> None:
    """Raise ValueError unless Matplotlib is installed, so that this does not surface after hours of work.

    Args:
        what: what needs it, in the user's terms: an option or a file.
        extra: the extra of this package that installs it.
    """
    if not importlib.util.find_spec("matplotlib"):
        raise ValueError(f"{what} needs Matplotlib, which is not installed; pip install 'longlive-rag[{extra}]'")


def series_color(series: int) -> str:
    """Return the colour of a series by its number; colours repeat with different dashes."""
    return BASELINE_COLOR if series == BASELINE else SERIES_COLORS[series % len(SERIES_COLORS)]


def new_chart(
    height_in: float, panels: int = 1, columns: int = 1, width_in: float = WIDTH_IN, grid: Literal["x", "y"] = "y"
) -> tuple[Figure, list[Axes]]:
    """Make a figure of empty panels, row by row.

    Args:
        height_in: height of one row of panels, in inches.
        panels, columns: number of panels, and how many of them side by side.
        width_in: width of the figure, in inches.
        grid: axis with grid lines.
    """
    from matplotlib.figure import Figure

    rows = -(-panels // columns)
    figure = Figure(figsize=(width_in, height_in * rows), layout="constrained", dpi=DPI, facecolor="white")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in places[panels:]:
        spare.remove()
    for axes in places[:panels]:
        _style(axes, grid)
    return figure, places[:panels]


def draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw lines with their bands into a panel."""
    for line in lines:
        color, y = series_color(line.series), np.array(line.y, np.float64)
        if line.band is not None:
            axes.fill_between(line.x, *line.band, color=color, alpha=0.16, linewidth=0)
        axes.plot(
            line.x,
            y,
            DASHES[max(0, line.series) // len(SERIES_COLORS) % len(DASHES)],
            color=color,
            alpha=line.opacity,
            linewidth=line.width,
            marker="." if line.points else None,
            label=line.label or None,
        )


def start_at_zero(axes: Axes, top: float | None = None) -> None:
    """Start both axes of a filled panel at zero, for heights that are read as amounts; `top` ends the y axis."""
    axes.set_xlim(0, axes.dataLim.xmax)
    axes.set_ylim(0, 1.1 * axes.dataLim.ymax if top is None else top)


def add_legend(figure: Figure) -> None:
    """Add a legend of the lines and points of all panels, each once, above the panels."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    legend = figure.legend(
        list(found.values()), list(found), loc="outside upper left", ncols=4, frameon=False, fontsize=9, labelcolor=TEXT
    )
    for sample in legend.legend_handles:
        if sample is not None:
            sample.set_alpha(1)  # lines may be faint because there are many of them


def png_of_chart(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def save_chart(figure: Figure, path: Path) -> None:
    """Write a figure as PNG atomically."""
    write_whole(path, png_of_chart(figure))


def _style(axes: Axes, grid: Literal["x", "y"]) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=FAINT, labelsize=8.5)
    for words in (axes.xaxis.label, axes.yaxis.label):
        words.set(color=TEXT, fontsize=9.5)
    axes.grid(axis=grid, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
