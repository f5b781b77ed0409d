"""Results as HTML for notebooks, with all user text escaped."""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.measures import Measures
from eval.report import Picture, Table, png_of, render
from eval.results import Comparison, Results
from eval.single import drift_rows, horizon_in_words, sentence


def drifts_as_html(measures: Sequence[Measures]) -> str:
    """Show the drift of videos: a sentence each by the primary embedder, a table, and curves if Matplotlib is there."""
    rows = drift_rows(measures)
    head = ["video", "by", "at", "D", "opening", "last 5 s", "frames that show the subject"]
    cells = [[Path(row["video"]).name, row["embedder"], horizon_in_words(row), *_figures(row)] for row in rows]
    curves = None
    if importlib.util.find_spec("matplotlib"):
        from eval.figures import single_curves

        curves = Picture("likeness over time", base64.b64encode(png_of(single_curves(measures))).decode())
    sentences = [sentence(row) for row in rows if row["embedder"] == rows[0]["embedder"]] if rows else []
    return render(
        "notebook.html.j2", {"sentences": sentences, "warnings": [], "table": Table(head, cells), "curves": curves}
    )


def results_as_html(results: Results) -> str:
    """Show the results of a comparison: verdicts, warnings, and drift by scenario and horizon."""
    primary = f"drift.{next(iter(results.embedders))}@"
    head = ["scenario", "horizon", "arm", "against", "difference in drift", "95 % interval", "prompts", "p after Holm"]
    cells = [_compared(each) for each in results.comparisons if each.outcome.startswith(primary)]
    contents = {
        "sentences": results.verdicts,
        "warnings": results.warnings,
        "table": Table(head, cells),
        "curves": None,
    }
    return render("notebook.html.j2", contents)


def _figures(row: dict[str, Any]) -> list[str]:
    drift = "-" if row["drift"] is None else f"{row['drift']:+.3f}"
    likeness = ["-" if row[name] is None else f"{row[name]:.3f}" for name in ("opening", "last")]
    return [drift, *likeness, f"{row['seen']:.0%}"]


def _compared(comparison: Comparison) -> list[str]:
    c, p = comparison, comparison.paired
    interval = "-" if p is None or p.low is None or p.high is None else f"{p.low:+.3f} to {p.high:+.3f}"
    difference, prompts = ("-", "0") if p is None else (f"{p.mean:+.3f}", str(p.prompts))
    holm = "-" if c.p_holm is None else f"{c.p_holm:.2g}"
    return [c.scenario, f"{c.horizon_s:g} s", c.arm, c.baseline, difference, interval, prompts, holm]
