"""The report of single videos: no arms, no statistics; what each of them does over time."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from eval import figures
from eval.footage import Footage
from eval.report import STYLE, html_table, keep_picture, png_of
from eval.single import drift_rows, sentence
from retrieval.files import write_json, write_whole

REPORT, RESULTS, TABLE = "drift.html", "drift.json", "drift.csv"
CURVES_CAPTION = (
    "Likeness to the first second. Grey: what D compares, seconds 1 to 5 and the last 5 s before a horizon."
)


def write_single_report(
    folder: Path, videos: Sequence[Footage], measures: Sequence[dict[str, Any]], command: str
) -> None:
    """Write drift.html, drift.json, drift.csv and curves.png into a folder.

    Args:
        measures: of `eval.measure`, one a video.
        command: that was typed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = drift_rows(measures)
    horizons_s = measures[0]["horizons_s"]
    curves = png_of(figures.single_curves(measures))
    strip = figures.film_strip([(Path(video.name).stem[:16], video.path) for video in videos], (0.0, *horizons_s))
    out = io.StringIO()
    table = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows([{key: "" if value is None else value for key, value in row.items()} for row in rows])
    count = "1 video" if len(videos) == 1 else f"{len(videos)} videos"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Identity drift</title><style>{STYLE}</style>'
        f'<main><h1>Identity drift</h1><p class="faint">{count}</p>{_cards(rows)}'
        f"<figure>{keep_picture(folder / 'curves.png', curves)}<figcaption>{CURVES_CAPTION}</figcaption></figure>"
        f"<figure>{keep_picture(folder / 'strip.png', png_of(strip))}<figcaption>The frames.</figcaption></figure>"
        f"{_all_rows(rows)}<h2>Conditions</h2>{_conditions(measures)}<pre>{escape(command)}</pre></main></html>\n"
    )
    write_json(folder / RESULTS, {"videos": list(measures), "command": command})
    write_whole(folder / TABLE, out.getvalue().encode())
    write_whole(folder / REPORT, page.encode())


def _cards(rows: Sequence[dict[str, Any]]) -> str:
    primary = rows[0]["embedder"]
    return "".join(f'<div class="verdict">{escape(sentence(row))}</div>' for row in rows if row["embedder"] == primary)


def _all_rows(rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        ["-" if v is None else f"{v:.4f}" if isinstance(v, float) else escape(str(v)) for v in row.values()]
        for row in rows
    ]
    return html_table(
        [name.replace("_", " ") for name in rows[0]], cells, "All figures; docs/evaluation.md defines them."
    )


def _conditions(measures: Sequence[dict[str, Any]]) -> str:
    first = measures[0]
    cells = [
        [escape(name), escape(", ".join(f"{k} {v}" for k, v in about.items() if k != "embedder"))]
        for name, about in first["embedders"].items()
    ]
    return html_table(["embedder", "what"], cells, f"Embedded: every {first['embed_every']}. frame.")
