"""Measuring one video: all figures from one pass over its frames."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from backbone.errors import FieldError
from eval import measures, protocols
from eval.companions import Looks, LooksMeter
from eval.drift import Floats, cosine_to_reference, curve, drift_at, mean_seen
from eval.embedders import Embedder, TextEmbedder
from eval.footage import Footage, read_batches
from eval.metrics import Metric, metrics_named
from eval.oracle import OracleEmbedder
from eval.subject import MaskingEmbedder, SubjectMeter, subject_figures
from eval.traits import Trait, distinct_characters, kept_traits, more_than_named, place_as_named
from eval.windows import TOLERANCE_S, DriftWindows, end_of, within

PER_FRAME_DIGITS = 12  # drift is recomputed from them
IMAGING = ("sharpness", "exposure", "saturation")
Spans = Sequence[tuple[float, float]]
"""Requested horizons, each with the second at which it is measured."""


@dataclass(frozen=True)
class MeasureSettings:
    """What is measured.

    Attributes:
        horizons_s: seconds of the take, increasing.
        windows: where the reference, the opening and the last seconds are.
        embed_every: embed every n-th frame; above 1, the field's consistency measures, which need all, are left out.
        prompts: (second at which it takes over, prompt), the first at 0, for prompt adherence. If empty, adherence is
            not measured.
        may_miss_s: a horizon that a video falls short of by less than this is measured at the video's end.
        subject_table: VBench-Long's table for the subject's fast score.
        metrics: names of metrics besides those that are always measured.
        rival_origin_s: when another character that no prompt distinguishes from the subject is first seen; None if
            there is none.

    Raises:
        FieldError: if the horizons don't increase, or `embed_every` is below 1.
    """

    horizons_s: tuple[float, ...]
    windows: DriftWindows = field(default_factory=DriftWindows)
    embed_every: int = 1
    prompts: tuple[tuple[float, str], ...] = ()
    may_miss_s: float = 0.0
    subject_table: protocols.MappingTable = field(
        default_factory=lambda: protocols.MappingTable(protocols.PUBLISHED_KNOTS["subject"])
    )
    metrics: tuple[str, ...] = ()
    rival_origin_s: float | None = None

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.horizons_s, self.horizons_s[1:], strict=False))
        if not self.horizons_s or not rising:
            wanted = "it must be one or more increasing numbers of seconds, such as 30,60,120"
            raise FieldError("horizons", list(self.horizons_s), wanted)
        if self.embed_every < 1:
            raise FieldError("embed_every", self.embed_every, "it must be at least 1")

    def check(self, footage: Footage) -> None:
        """Raise FieldError if a video does not reach the horizons, or too few of its frames would be embedded."""
        self.windows.check(self.horizons_s, footage.seconds, 1 / footage.fps, footage.name, self.may_miss_s)
        self.check_rate(footage.fps, footage.name)

    def ends_s(self, footage: Footage) -> tuple[float, ...]:
        """Where each horizon is measured in a video that `check` accepts."""
        return tuple(end_of(horizon_s, footage.seconds, 1 / footage.fps) for horizon_s in self.horizons_s)

    def check_rate(self, fps: float, name: str) -> None:
        """Raise FieldError unless a frame of every second is embedded, as needed for curves and the reference."""
        if self.embed_every > max(1.0, fps + 1e-6):
            raise FieldError(
                "embed_every",
                self.embed_every,
                f"it must be at most {max(1, int(fps + 1e-6))}, since {name} has {fps:g} frames per second and one "
                "frame of each second must be embedded",
            )


@dataclass(frozen=True)
class Seen:
    """What one pass over a video gathers.

    Attributes:
        seconds: [T], times of all frames.
        looks: per-frame figures of all frames.
        embedded_seconds: [E], times of the embedded frames.
        embeddings: [E, D] by embedder.
        subject_moving: [E], the subject's own motion; empty if no embedder knows where it is.
        places: [E], the place that each embedded frame shows; empty if no embedder is an oracle.
        counts: [E], the number of characters in each embedded frame; empty if no embedder is an oracle.
    """

    seconds: Floats
    looks: Looks
    embedded_seconds: Floats
    embeddings: dict[str, NDArray[np.float32]]
    subject_moving: Floats
    places: list[str | None] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


def look_at(
    footage: Footage,
    embedders: Mapping[str, Embedder],
    embed_every: int = 1,
    end_s: float = float("inf"),
    progress: Callable[[int], None] = lambda frames: None,
) -> Seen:
    """Decode a video once, embedding its frames along the way.

    Args:
        end_s: frames from here on are decoded, to check that the file is intact, but not measured.
        progress: called with the number of frames of each batch.

    Raises:
        ValueError: if the file is damaged.
    """
    meter, subject, number = LooksMeter(), SubjectMeter(), 0
    masking = next((each for each in embedders.values() if isinstance(each, MaskingEmbedder)), None)
    oracle = next((each for each in embedders.values() if isinstance(each, OracleEmbedder)), None)
    places: list[str | None] = []
    counts: list[int] = []
    seconds: list[Floats] = []
    embedded_seconds: list[Floats] = []
    embeddings: dict[str, list[NDArray[np.float32]]] = {name: [] for name in embedders}
    for times, frames in read_batches(footage):
        inside = within(times, (0, end_s))
        chosen = inside & ((number + np.arange(len(times))) % embed_every == 0)
        number += len(times)
        meter.add(frames[inside])
        seconds.append(times[inside])
        embedded_seconds.append(times[chosen])
        for name, embedder in embedders.items():
            if chosen.any():
                embeddings[name].append(embedder.embed(frames[chosen]))
        if masking is not None and chosen.any():
            subject.add(frames[chosen], masking.masks(frames[chosen]))
        if oracle is not None:
            places += oracle.places(frames[chosen])
            counts += oracle.counts(frames[chosen])
        progress(len(times))
    rows = {name: np.concatenate(parts) for name, parts in embeddings.items()}
    return Seen(
        np.concatenate(seconds), meter.looks(), np.concatenate(embedded_seconds), rows, subject.moving(), places, counts
    )


def measure(
    footage: Footage,
    embedders: Mapping[str, Embedder],
    settings: MeasureSettings,
    progress: Callable[[int], None] = lambda frames: None,
) -> measures.Measures:
    """Measure one video.

    Args:
        footage: the video.
        embedders: embedders by name; the first is the primary one.
        settings: what to measure.
        progress: called with the number of frames of each batch.

    Returns:
        All figures; docs/evaluation.md lists them. Figures that can't be measured are None.

    Raises:
        ValueError: if the video is shorter than a horizon, damaged, or has no frame where one is needed.
    """
    settings.check(footage)
    ends_s = settings.ends_s(footage)
    spans = list(zip(settings.horizons_s, ends_s, strict=True))
    metrics, windows = metrics_named(settings.metrics), settings.windows
    seen = look_at(footage, embedders, settings.embed_every, ends_s[-1], progress)
    seconds = seen.embedded_seconds
    windows.check_frames(seconds, ends_s, footage.name)
    cosines = {name: cosine_to_reference(rows, seconds, windows) for name, rows in seen.embeddings.items()}
    return measures.Measures(
        video=measures.Video(footage.name, footage.width, footage.height, footage.fps, footage.frames, footage.seconds),
        horizons_s=settings.horizons_s,
        measured_at_s=ends_s,
        origin_s=windows.origin_s,
        embed_every=settings.embed_every,
        embedders={name: embedder.describe() for name, embedder in embedders.items()},
        drift={
            name: [replace(drift_at(values, seconds, end_s, windows), horizon_s=asked) for asked, end_s in spans]
            for name, values in cosines.items()
        },
        companions=[{"horizon_s": asked, **_companions(seen, end_s, metrics)} for asked, end_s in spans],
        adherence=_adherence(seen, embedders, settings.prompts, ends_s),
        traits=_traits(seen, embedders, settings, spans),
        protocols=[_protocols(seen, footage.fps, asked, end_s, settings) for asked, end_s in spans],
        curves=_curves(seen, cosines),
        per_frame=measures.PerFrame(
            [round(float(second), 6) for second in seconds],
            {name: _json_numbers(values, PER_FRAME_DIGITS) for name, values in cosines.items()},
        ),
    )


def _companions(seen: Seen, end_s: float, metrics: Mapping[str, Metric]) -> dict[str, float | None]:
    looks, seconds = _until(seen, end_s)
    means = {name: float(getattr(looks, name).mean()) for name in IMAGING}
    figures = {**means, **{name: float(metric.of(looks, seconds, end_s)) for name, metric in metrics.items()}}
    if len(seen.subject_moving):
        figures |= subject_figures(seen.subject_moving, seen.embedded_seconds, end_s)
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _until(seen: Seen, horizon_s: float) -> tuple[Looks, Floats]:
    inside = within(seen.seconds, (0, horizon_s))
    looks = seen.looks
    parts = {name: getattr(looks, name)[inside] for name in ("motion", "moving", *IMAGING, "thumbnails")}
    return Looks(**parts), seen.seconds[inside]


def _adherence(
    seen: Seen, embedders: Mapping[str, Embedder], prompts: Sequence[tuple[float, str]], ends_s: Sequence[float]
) -> dict[str, list[measures.Adherence]]:
    """Mean cosine of each prompt's frames to that prompt, by every embedder that reads prompts.

    A prompt that spans a horizon appears twice, before and after it.
    """
    found: dict[str, list[measures.Adherence]] = {}
    lasts = [*(start for start, _ in prompts[1:]), ends_s[-1]]
    spans: list[tuple[float, float, int]] = []
    for number, ((first, _), last) in enumerate(zip(prompts, lasts, strict=False)):
        cuts = [first, *(end_s for end_s in ends_s if first < end_s < last), last]
        spans += [(start, end, number) for start, end in pairwise(cuts)]
    for name, embedder in embedders.items():
        if not prompts or not isinstance(embedder, TextEmbedder):
            continue
        cosines = seen.embeddings[name] @ embedder.embed_prompts([prompt for _, prompt in prompts]).T
        found[name] = []
        for start, end, number in spans:
            inside = within(seen.embedded_seconds, (start, end))
            value = float(cosines[inside, number].mean()) if inside.any() else None
            found[name].append(measures.Adherence(start, end, prompts[number][1], value))
    return found


def _traits(
    seen: Seen, embedders: Mapping[str, Embedder], settings: MeasureSettings, spans: Spans
) -> list[measures.Traits]:
    """Traits read by the oracle at each horizon; empty if no embedder is an oracle."""
    windows, prompts = settings.windows, settings.prompts
    for name, embedder in embedders.items():
        if isinstance(embedder, OracleEmbedder):
            readings, seconds = embedder.trait_values(seen.embeddings[name]), seen.embedded_seconds
            traits, named = tuple(embedder.traits), _named(embedder, prompts, seconds)
            rival = None if settings.rival_origin_s is None else DriftWindows(settings.rival_origin_s)
            said = [(start, embedder.place_in(prompt)) for start, prompt in prompts]
            kept = [kept_traits(readings, seconds, end_s, traits, windows, named, rival) for _, end_s in spans]
            return [
                measures.Traits(
                    **{**asdict(each), "horizon_s": asked},
                    distinct_characters=distinct_characters(readings, seconds, end_s),
                    place_as_named=place_as_named(seen.places, said, seconds, end_s),
                    more_than_named=more_than_named(seen.counts, named, seconds, end_s),
                )
                for each, (asked, end_s) in zip(kept, spans, strict=True)
            ]
    return []


def _named(
    oracle: OracleEmbedder, prompts: Sequence[tuple[float, str]], seconds: Floats
) -> list[list[dict[str, Trait]]]:
    """For each frame, the shape and the colour of each character named in its prompt."""
    starts = [start for start, _ in prompts]
    said = [oracle.characters_in(prompt) for _, prompt in prompts]
    return [said[bisect_right(starts, second + TOLERANCE_S) - 1] for second in seconds] if prompts else []


def _protocols(seen: Seen, fps: float, horizon_s: float, end_s: float, settings: MeasureSettings) -> measures.Protocols:
    """The field's measures of the seconds up to `end_s`."""
    looks, _ = _until(seen, end_s)
    series = {name: _series(getattr(looks, name)) for name in IMAGING}
    seconds, rows_of = seen.embedded_seconds, seen.embeddings
    in_last = within(seconds, settings.windows.last(end_s))
    first = {name: mean_seen(protocols.cosine_to_first(rows)[in_last])[0] for name, rows in rows_of.items()}
    if settings.embed_every > 1:
        return measures.Protocols(horizon_s, {}, None, series, cosine_to_first=first)
    last = {name: protocols.last_consistency(rows, seconds, end_s) for name, rows in rows_of.items()}
    inside = within(seconds, (0, end_s))
    rows = {name: values[inside] for name, values in rows_of.items() if not np.isnan(values[inside]).any()}
    found = {
        name: measures.Consistency(protocols.consistency(values), protocols.long_consistency(values, fps))
        for name, values in rows.items()
    }
    subject = None
    if {"dino", "dinov2"} <= set(rows):
        parts = protocols.long_consistency(rows["dino"], fps, rows["dinov2"])
        subject = measures.FusedConsistency(**asdict(parts), fused=protocols.fused(parts, settings.subject_table))
    return measures.Protocols(horizon_s, found, subject, series, last, first)


def _series(values: Floats) -> measures.Series:
    return measures.Series(
        protocols.start_end_contrast(values),
        protocols.spread(values) if len(values) >= protocols.SPREAD_SEGMENTS else None,
        protocols.weighted_drift(values) if len(values) >= protocols.WEIGHTED_CHUNKS else None,
    )


def _curves(seen: Seen, cosines: Mapping[str, Floats]) -> measures.Curves:
    """Means over every second: cosine to the reference and to the first frame by embedder, and looks."""

    def by_second(series: Mapping[str, Floats]) -> dict[str, measures.Curve]:
        return {name: _json_numbers(curve(values, seen.embedded_seconds)[1]) for name, values in series.items()}

    middles, motion_curve = curve(seen.looks.motion, seen.seconds)
    to_first = {name: protocols.cosine_to_first(rows) for name, rows in seen.embeddings.items()}
    return measures.Curves(
        middles.tolist(),
        by_second(cosines),
        _json_numbers(motion_curve),
        **{name: _json_numbers(curve(getattr(seen.looks, name), seen.seconds)[1]) for name in IMAGING},
        cosine_to_first=by_second(to_first),
    )


def _json_numbers(values: Floats, digits: int = 6) -> measures.Curve:
    return [None if np.isnan(value) else round(float(value), digits) for value in values]
