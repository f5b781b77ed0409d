"""The report on single videos, without arms or statistics: how each one develops over time."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval import figures
from eval.footage import Footage
from eval.measures import Measures
from eval.report import Table, about_embedder, keep_picture, png_of, render, text_cell
from eval.single import drift_rows, sentence
from retrieval.files import write_json, write_whole

REPORT, RESULTS, TABLE = "drift.html", "drift.json", "drift.csv"


def write_single_report(folder: Path, videos: Sequence[Footage], measures: Sequence[Measures], command: str) -> None:
    """Write drift.html, drift.json, drift.csv and curves.png to a folder.

    Args:
        measures: results of `eval.measure`, one per video.
        command: the command that was run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = drift_rows(measures)
    horizons_s = measures[0].horizons_s
    curves = png_of(figures.single_curves(measures))
    strip = figures.film_strip([(Path(video.name).stem[:16], video.path) for video in videos], (0.0, *horizons_s))
    out = io.StringIO()
    table = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows([{key: _cell(value) for key, value in row.items()} for row in rows])
    contents = {
        "count": "1 video" if len(videos) == 1 else f"{len(videos)} videos",
        "sentences": [sentence(row) for row in rows if row["embedder"] == rows[0]["embedder"]],
        "curves": keep_picture(folder / "curves.png", curves),
        "strip": keep_picture(folder / "strip.png", png_of(strip)),
        "measured": _all_rows(rows),
        "embedders": Table(
            ["embedder", "what"], [[name, about_embedder(about)] for name, about in measures[0].embedders.items()]
        ),
        "embed_every": measures[0].embed_every,
        "command": command,
    }
    write_json(folder / RESULTS, {"videos": [each.model_dump(mode="json") for each in measures], "command": command})
    write_whole(folder / TABLE, out.getvalue().encode())
    write_whole(folder / REPORT, render("drift.html.j2", contents).encode())


def _cell(value: Any) -> Any:
    return "" if value is None else text_cell(value) if isinstance(value, str) else value


def _all_rows(rows: Sequence[dict[str, Any]]) -> Table:
    cells = [
        ["-" if v is None else f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows
    ]
    return Table([name.replace("_", " ") for name in rows[0]], cells)
