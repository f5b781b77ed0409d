"""A training's figures over its steps, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

IGNORED = ("step", "seconds", "norm")
HELD_OUT = "validation_"


def draw_training(rows: Sequence[dict[str, float]], path: Path) -> bool:
    """One panel a figure, what was held out beside what was trained on.

    Args:
        rows: figures by name, each row with its `step`.
        path: of the PNG.

    Returns:
        Whether it was drawn: matplotlib is an extra (`pip install 'longlive-rag[train]'`).
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    names = list(dict.fromkeys(name.removeprefix(HELD_OUT) for row in rows for name in row if name not in IGNORED))
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for prefix, label, marker in (("", "training", None), (HELD_OUT, "held out", ".")):
            points = [(row["step"], row[prefix + name]) for row in rows if prefix + name in row]
            if points:
                panel.plot(*zip(*points, strict=True), label=label, marker=marker, linewidth=1)
        panel.set(title=name, xlabel="step")
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    figure.savefig(path, dpi=110)
    return True
