"""A chart of a training's figures over its steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from longlive_rag.media.charts import Line, add_legend, draw_lines, new_chart, save_chart

IGNORED = ("step", "seconds", "norm")
HELD_OUT = "validation_"
MOST_COLUMNS = 4


def draw_training(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Draw one panel per figure, comparing held-out data with training data.

    Args:
        rows: figures by name, each row with its `step`.
        path: the PNG file to write.
    """
    names = list(dict.fromkeys(name.removeprefix(HELD_OUT) for row in rows for name in row if name not in IGNORED))
    columns = min(len(names), MOST_COLUMNS)
    figure, panels = new_chart(2.7, len(names), columns, width_in=3.2 * columns)
    for axes, name in zip(panels, names, strict=True):
        for series, (key, label) in enumerate(((name, "training"), (HELD_OUT + name, "held out"))):
            known = [row for row in rows if key in row]
            if known:
                steps, values = [row["step"] for row in known], [row[key] for row in known]
                draw_lines(axes, [Line(steps, values, label, series, points=key != name, width=1.2)])
        axes.set(xlabel="step", ylabel=name.replace("_", " "))
    add_legend(figure)
    save_chart(figure, path)
