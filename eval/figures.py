"""Figures of a comparison: drift curves with bands, paired plots, intervals by horizon, and film strips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eval.comparisons import Comparison
from eval.footage import find_footage, read_batches
from eval.measures import Measures
from eval.over_time import FirstFrame, curves_by_story
from eval.statistics import mean_band
from eval.takes import Takes
from eval.windows import LAST_S, DriftWindows
from longlive_rag.media.charts import (
    BASELINE,
    BASELINE_COLOR,
    FAINT,
    GRID,
    TEXT,
    Line,
    add_legend,
    draw_lines,
    new_chart,
    series_color,
)
from longlive_rag.media.video import read_frame
from longlive_rag.takes.folder import VIDEO
from longlive_rag.takes.record import read_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRIP_TILE_PX = 150
ENDING_TILE_PX, ENDING_COLUMNS = 52, 16  # as wide as a report


def arm_colors(arms: Sequence[str]) -> dict[str, str]:
    """Assign a colour to each arm, grey for the baseline."""
    return {arm: series_color(series) for series, arm in enumerate(arms, BASELINE)}


def drift_curves(takes: Takes, scenario: str, embedder: str) -> Figure:
    """Plot the mean cosine to the reference over time, by arm, with 95 % bootstrap bands over prompts.

    Seconds in which fewer than half of the prompts show the subject are left out, as their mean is not representative.
    """
    plan = takes.plan
    figure, (axes,) = new_chart(4.0)
    low_edge = 1.0
    for series, arm in enumerate([arm.name for arm in plan.arms], BASELINE):
        seconds, by_story = curves_by_story(takes, scenario, arm, lambda curves: curves.cosine[embedder])
        rare = np.isnan(by_story).mean(axis=0) > 0.5
        by_story = np.where(rare, np.nan, by_story)
        mean = np.nanmean(np.where(rare, 0.0, by_story), axis=0)
        mean[rare] = np.nan
        low, high = mean_band(by_story)
        draw_lines(axes, [Line(seconds, mean, arm, series, (low, high))])
        low_edge = min([low_edge, *low[~np.isnan(low)]])
    stories = [story for story in plan.stories if story.scenario == scenario]
    origins = {story.origin_s for story in stories}
    _mark_windows(axes, plan.horizons_s, DriftWindows(origins.pop()) if len(origins) == 1 else None)
    if stories[0].cues and len({tuple(second for second, _ in story.cues) for story in stories}) == 1:
        for second, _ in stories[0].cues:
            axes.axvline(second, color=FAINT, linewidth=0.5, zorder=0)
    axes.set_xlim(0, plan.seconds)
    room = max(1 - low_edge, 1e-3)
    axes.set_ylim(1 - 1.05 * room, 1 + 0.06 * room)
    axes.set_xlabel("seconds of the take")
    axes.set_ylabel(f"cosine to the reference ({embedder})")
    add_legend(figure)
    return figure


def first_frame_curves(found: Sequence[FirstFrame]) -> Figure:
    """Plot the mean cosine to the first frame over time, one line per arm (the baseline first), and its error."""
    figure, (axes,) = new_chart(3.0)
    for series, each in enumerate(found, BASELINE):
        mean, error = (np.array(curve, np.float64) for curve in (each.cosine, each.standard_error))
        draw_lines(axes, [Line(each.seconds, mean, each.arm, series, (mean - error, mean + error))])
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds of the take")
    axes.set_ylabel(f"cosine to the first frame\n({found[0].embedder})")
    add_legend(figure)
    return figure


def paired_plot(
    takes: Takes, story_drifts: Mapping[str, Mapping[str, float]], arms: tuple[str, str], title: str
) -> Figure:
    """Plot each prompt's two drifts, sorted by their difference.

    Args:
        story_drifts: D by story id and arm name, mean over seeds.
        arms: (baseline, arm).
    """
    base, arm = arms
    order = sorted(story_drifts, key=lambda story: story_drifts[story][arm] - story_drifts[story][base])
    figure, (axes,) = new_chart(max(2.2, 0.9 + 0.2 * len(order)), grid="x")
    colors = arm_colors([each.name for each in takes.plan.arms])
    for row, story in enumerate(order):
        a, b = story_drifts[story][base], story_drifts[story][arm]
        axes.plot(
            [a, b], [row, row], color=colors[arm] if b < a else BASELINE_COLOR, linewidth=1.6, alpha=0.55, zorder=1
        )
    for name in arms:
        values = [story_drifts[story][name] for story in order]
        axes.scatter(values, range(len(order)), s=30, color=colors[name], label=name, zorder=2)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_yticks(range(len(order)), order, fontsize=7)
    axes.invert_yaxis()
    axes.margins(y=0.6 / max(1, len(order)))
    axes.set_xlabel(title)
    add_legend(figure)
    return figure


def interval_plot(comparisons: Sequence[Comparison], arms: Sequence[str]) -> Figure:
    """Plot mean paired differences with their intervals, by horizon and arm."""
    horizons = sorted({c.horizon_s for c in comparisons})
    colors, others = arm_colors(arms), list(arms[1:])
    figure, (axes,) = new_chart(1.1 + 0.34 * len(horizons) * len(others), grid="x")
    ticks, labels = [], []
    for row, (horizon, arm) in enumerate((h, a) for h in horizons for a in others):
        found = next((c for c in comparisons if c.horizon_s == horizon and c.arm == arm and c.paired), None)
        ticks.append(row)
        labels.append(f"{arm}, {horizon:g} s")
        if found is None or found.paired is None:
            continue
        if found.paired.low is not None and found.paired.high is not None:
            axes.plot([found.paired.low, found.paired.high], [row, row], color=colors[arm], linewidth=2.4)
        axes.scatter([found.paired.mean], [row], s=42, color=colors[arm], zorder=3)
    axes.axvline(0, color=FAINT, linewidth=1.0)
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.invert_yaxis()
    axes.margins(y=0.25)
    axes.set_xlabel(f"drift minus {arms[0]}'s (left: less drift; mean of paired differences, 95 % interval)")
    return figure


def single_curves(measures: Sequence[Measures]) -> Figure:
    """Plot the cosine to the reference over time, with one line per video and one panel per embedder."""
    embedders = list(measures[0].curves.cosine)
    figure, panels = new_chart(3.0, panels=len(embedders))
    first = measures[0]
    for axes, embedder in zip(panels, embedders, strict=True):
        for series, each in enumerate(measures):
            name = Path(each.video.name).name
            draw_lines(axes, [Line(each.curves.seconds, each.curves.cosine[embedder], name, series)])
        _mark_windows(axes, first.horizons_s, DriftWindows(first.origin_s))
        axes.set_ylabel(f"cosine to the first second\n({embedder})")
        axes.set_xlim(left=0)
    panels[-1].set_xlabel("seconds")
    add_legend(figure)
    return figure


def film_strip(
    videos: Sequence[tuple[str, Path]], seconds: Sequence[float], tile_px: int = STRIP_TILE_PX
) -> Image.Image:
    """Draw one row per video: its frames at these seconds (or the last one before).

    Args:
        videos: (label, take folder or video file).
    """
    font = ImageFont.load_default(15)
    rows = [[_tile(frame, tile_px) for frame in frames_at(path, seconds)] for _, path in videos]
    tile_h, label_w, head_h, gap = max(tile.height for row in rows for tile in row), 130, 26, 6
    width = label_w + len(seconds) * (tile_px + gap)
    sheet = Image.new("RGB", (width, head_h + len(rows) * (tile_h + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, second in enumerate(seconds):
        draw.text((label_w + column * (tile_px + gap), 4), f"{second:g} s", FAINT, font)
    for row, (label, _) in enumerate(videos):
        y = head_h + row * (tile_h + gap)
        draw.text((0, y + tile_h / 2 - 8), label, TEXT, font)
        for column, tile in enumerate(rows[row]):
            sheet.paste(tile, (label_w + column * (tile_px + gap), y))
    return sheet


def endings(rows: Mapping[str, Sequence[NDArray[np.uint8]]], tile_px: int = ENDING_TILE_PX) -> Image.Image:
    """Draw one column per prompt, wrapped after 16, with the rows in `rows`: label to frames [H, W, 3]."""
    font = ImageFont.load_default(12)
    tiles = {label: [_tile(frame, tile_px) for frame in frames] for label, frames in rows.items()}
    count = len(next(iter(tiles.values())))
    tile_h, label_w, gap, band_gap = max(tile.height for row in tiles.values() for tile in row), 112, 3, 18
    band_h = len(rows) * (tile_h + gap) + band_gap
    columns, bands = min(count, ENDING_COLUMNS), -(-count // ENDING_COLUMNS)
    sheet = Image.new("RGB", (label_w + columns * (tile_px + gap), bands * band_h - band_gap), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (label, row) in enumerate(tiles.items()):
        for number, tile in enumerate(row):
            band, column = divmod(number, ENDING_COLUMNS)
            y = band * band_h + place * (tile_h + gap)
            sheet.paste(tile, (label_w + column * (tile_px + gap), y))
            if not column:
                draw.text((0, y + tile_h / 2 - 7), label, TEXT, font)
    return sheet


def frame_before(take: Path, second: float) -> NDArray[np.uint8]:
    """Read the frame [H, W, 3] of a take shown right before a second, decoding only what is needed for it."""
    number = max(0, round(second * read_record(take).video.fps) - 1)
    return read_frame(take / VIDEO, number)


def frames_at(path: Path, seconds: Sequence[float]) -> list[NDArray[np.uint8]]:
    """Read the frame [H, W, 3] shown right before each of the seconds, which must not decrease; at 0 the first one."""
    found: list[NDArray[np.uint8]] = []
    shown: NDArray[np.uint8] | None = None
    for times, frames in read_batches(find_footage(path)):
        for time, frame in zip(times, frames, strict=True):
            shown = frame if shown is None else shown  # at 0 s the first frame itself
            while len(found) < len(seconds) and time >= seconds[len(found)] - 1e-6:
                found.append(shown)
            shown = frame
    assert shown is not None
    return found + [shown] * (len(seconds) - len(found))


def _mark_windows(axes: Axes, horizons_s: Sequence[float], windows: DriftWindows | None) -> None:
    """Shade the last seconds, and the opening if all stories share it."""
    if windows is not None:
        axes.axvspan(*windows.opening, color=GRID, alpha=0.75, linewidth=0, zorder=0)
    for horizon in horizons_s:
        axes.axvspan(horizon - LAST_S, horizon, color=GRID, alpha=0.75, linewidth=0, zorder=0)
        axes.annotate(
            f"{horizon:g} s", (horizon, 1), xycoords=("data", "axes fraction"), xytext=(-2, 2),
            textcoords="offset points", ha="right", fontsize=8, color=FAINT,
        )  # fmt: skip


def _tile(frame: NDArray[np.uint8], width: int) -> Image.Image:
    height = round(width * frame.shape[0] / frame.shape[1])
    return Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)
