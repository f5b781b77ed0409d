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
from eval.measure import IMAGING
from eval.report import STYLE, html_table, keep_picture, png_of, write_whole
from eval.windows import SHORTEST_HORIZON_S
from longlive_rag.take import write_json

USUAL_HORIZONS_S = (30.0, 60.0, 120.0)
REPORT, RESULTS, TABLE = "drift.html", "drift.json", "drift.csv"
CURVES_CAPTION = (
    "Likeness to the first second. Grey: the windows that D compares: seconds 1 to 5, and the last 5 s before "
)
CURVES_CAPTION += "each horizon."


def possible_horizons(videos: Sequence[Footage]) -> tuple[float, ...]:
    """Those of 30, 60 and 120 s that all videos reach; else the length of the shortest, in tenths of a second.

    Raises:
        ValueError: if a video is too short for any.
    """
    shortest = min(videos, key=lambda video: video.seconds)
    reached = tuple(h for h in USUAL_HORIZONS_S if h <= shortest.seconds + 0.5 / shortest.fps)
    if reached:
        return reached
    if shortest.seconds < SHORTEST_HORIZON_S:
        raise ValueError(
            f"{shortest.name} is {shortest.seconds:.2f} s long; drift needs at least {SHORTEST_HORIZON_S:g} s"
        )
    return (int(shortest.seconds * 10) / 10,)


def drift_rows(measures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a video, embedder and horizon, with the companions of that horizon."""
    rows, changes = [], tuple(f"{name}_drift" for name in IMAGING)
    for each in measures:
        for embedder, drifts in each["drift"].items():
            for drift, companions, protocols in zip(drifts, each["companions"], each["protocols"], strict=True):
                consistency = protocols["consistency"].get(embedder)
                rows.append(
                    {
                        "video": each["video"]["name"], "embedder": embedder, "horizon_s": drift["horizon_s"],
                        "drift": drift["value"], "opening": drift["opening"], "last": drift["last"],
                        "seen": drift["last_coverage"],
                        "vbench": None if consistency is None else consistency["vbench"],
                        **{name: companions[name] for name in ("motion", "repetition", *changes)},
                    }
                )  # fmt: skip
    return rows


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
    strip = figures.film_strip([(video.path.stem[:16], video.path) for video in videos], (0.0, *horizons_s))
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


def sentence(row: dict[str, Any]) -> str:
    """One row of `drift_rows` in words."""
    name, horizon, embedder = Path(row["video"]).name, row["horizon_s"], row["embedder"]
    if row["drift"] is None:
        return f"{name}: no subject is seen by {embedder} in the opening or before {horizon:g} s."
    likeness = f"{row['opening']:.3f} in seconds 1 to 5, {row['last']:.3f} in the last 5 s"
    return f"{name}: D({horizon:g} s) = {row['drift']:+.3f} by {embedder} (cosine to the first second {likeness})."


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
