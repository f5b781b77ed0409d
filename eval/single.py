"""Measuring single videos: which horizons they reach, and their figures as rows and sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval.embedders import default_embedders, parse_embedders
from eval.footage import Footage, find_footage
from eval.measure import IMAGING, MeasureSettings, measure
from eval.measures import Measures
from eval.windows import SHORTEST_HORIZON_S, end_of

USUAL_HORIZONS_S = (30.0, 60.0, 120.0)
MAY_MISS_S = 1.0
"""Files in the field that nominally last 30 s actually last 29.6 to 29.8 s: 120 latent frames."""


def possible_horizons(videos: Sequence[Footage]) -> tuple[float, ...]:
    """The horizons among 30, 60 and 120 s that all videos reach, or miss by less than `MAY_MISS_S`.

    If there are none, the length of the shortest video, in tenths of a second.

    Raises:
        ValueError: if a video is too short for any.
    """
    shortest = min(videos, key=lambda video: video.seconds)
    reached = tuple(h for h in USUAL_HORIZONS_S if h - end_of(h, shortest.seconds, 1 / shortest.fps) < MAY_MISS_S)
    if reached:
        return reached
    if shortest.seconds < SHORTEST_HORIZON_S:
        raise ValueError(
            f"{shortest.name} is {shortest.seconds:.2f} s long; drift needs at least {SHORTEST_HORIZON_S:g} s"
        )
    return (int(shortest.seconds * 10) / 10,)


class Drifts(tuple[Measures, ...]):
    """The figures of several videos at the same horizons; notebooks show them as sentences, a table and curves."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from eval.notebook import drifts_as_html

        return drifts_as_html(self)


def measure_videos(
    paths: Sequence[Path],
    horizons_s: Sequence[float] | None = None,
    embedders: str | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda frames: None,
) -> Drifts:
    """Measure videos, or takes in folders.

    Args:
        paths: paths of the videos or folders.
        horizons_s: seconds at which drift is measured; None is `possible_horizons`.
        embedders: comma-separated embedders, the primary one first; None chooses by the backbones of the videos.
        device: device for the embedders.
        progress: called with the number of further frames that have been processed.

    Raises:
        ValueError: if a video can't be read or is too short, or an embedder is not available.
    """
    footage = [find_footage(path) for path in paths]
    settings = MeasureSettings(tuple(horizons_s or possible_horizons(footage)), may_miss_s=MAY_MISS_S)
    for each in footage:
        settings.check(each)
    specs = parse_embedders(embedders or default_embedders(each.backbone for each in footage))
    for spec in specs:
        spec.check()
    opened = {spec.kind: spec.open(device) for spec in specs}
    return Drifts(measure(each, opened, settings, progress) for each in footage)


def drift_rows(measures: Sequence[Measures]) -> list[dict[str, Any]]:
    """One row per video, embedder and horizon, with the companions at that horizon."""
    rows, changes = [], tuple(f"{name}_drift" for name in IMAGING)
    for each in measures:
        for embedder, drifts in each.drift.items():
            figures = zip(drifts, each.measured_at_s, each.companions, each.protocols, strict=True)
            for drift, measured_at_s, companions, protocols in figures:
                consistency = protocols.consistency.get(embedder)
                rows.append(
                    {
                        "video": each.video.name, "embedder": embedder, "horizon_s": drift.horizon_s,
                        "measured_at_s": measured_at_s,
                        "drift": drift.value, "opening": drift.opening, "last": drift.last,
                        "seen": drift.last_coverage,
                        "vbench": None if consistency is None else consistency.vbench,
                        "last_consistency": protocols.last_consistency.get(embedder),
                        "cosine_to_first": protocols.cosine_to_first.get(embedder),
                        **{name: companions[name] for name in ("motion", "repetition", *changes)},
                    }
                )  # fmt: skip
    return rows


def horizon_in_words(row: dict[str, Any]) -> str:
    """Format a row's horizon, such as `30 s` or, if the video ends earlier, `30 s, measured at 29.8 s`."""
    asked = f"{row['horizon_s']:g} s"
    return asked if row["measured_at_s"] == row["horizon_s"] else f"{asked}, measured at {row['measured_at_s']:.1f} s"


def sentence(row: dict[str, Any]) -> str:
    """Format one row of `drift_rows` as a sentence."""
    name, horizon, embedder = Path(row["video"]).name, horizon_in_words(row), row["embedder"]
    if row["drift"] is None:
        return f"{name}: no subject is seen by {embedder} in the opening or before {horizon}."
    likeness = f"{row['opening']:.3f} in seconds 1 to 5, {row['last']:.3f} in the last 5 s"
    return f"{name}: D({horizon}) = {row['drift']:+.3f} by {embedder} (cosine to the first second {likeness})."
