"""All figures of one video, from one pass over its frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbone.errors import FieldError
from eval import protocols
from eval.companions import Looks, LooksMeter
from eval.drift import Floats, cosine_to_reference, curve, drift_at
from eval.embedders import Embedder, TextEmbedder
from eval.footage import Footage, read_batches
from eval.metrics import Metric, metrics_named
from eval.oracle import OracleEmbedder
from eval.traits import distinct_characters, kept_traits
from eval.windows import DriftWindows, end_of, within

MEASURES_FORMAT = 2
IMAGING = ("sharpness", "exposure", "saturation")


@dataclass(frozen=True)
class MeasureSettings:
    """What is measured.

    Attributes:
        horizons_s: seconds of the take, rising.
        windows: where the reference, the opening and the last seconds lie.
        embed_every: embed every n-th frame; above 1 the field's consistency measures, which need all, are left out.
        prompts: (second at which it takes over, prompt), the first at 0; for prompt adherence. Empty: none is measured.
        may_miss_s: a horizon that a video is short of by less than this is measured at the video's end.
        subject_table: VBench-Long's table for the subject's fast score.
        metrics: names of metrics beside those that are always measured.

    Raises:
        FieldError: if the horizons don't rise, or `embed_every` is below 1.
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

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.horizons_s, self.horizons_s[1:], strict=False))
        if not self.horizons_s or not rising:
            wanted = "it must be one or more rising seconds, as in 30,60,120"
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
        """Raise FieldError unless a frame of every second is embedded: curves and the reference are read by seconds."""
        if self.embed_every > max(1.0, fps + 1e-6):
            raise FieldError(
                "embed_every",
                self.embed_every,
                f"it must be at most {max(1, int(fps + 1e-6))}, since {name} has {fps:g} frames a second, and one of "
                "each second must be embedded",
            )


@dataclass(frozen=True)
class Seen:
    """What one pass over a video gathered.

    Attributes:
        seconds: [T] of every frame.
        looks: per-frame figures of every frame.
        embedded_seconds: [E] of the frames that were embedded.
        embeddings: [E, D] by embedder.
    """

    seconds: Floats
    looks: Looks
    embedded_seconds: Floats
    embeddings: dict[str, NDArray[np.float32]]


def look_at(
    footage: Footage,
    embedders: Mapping[str, Embedder],
    embed_every: int = 1,
    end_s: float = float("inf"),
    progress: Callable[[int], None] = lambda frames: None,
) -> Seen:
    """Decode a video once; embed its frames as they come.

    Args:
        end_s: frames from here on are decoded, since the file must be whole, but not looked at.
        progress: called with the number of frames of each batch.

    Raises:
        ValueError: if the file is damaged.
    """
    meter, number = LooksMeter(), 0
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
        progress(len(times))
    rows = {name: np.concatenate(parts) for name, parts in embeddings.items()}
    return Seen(np.concatenate(seconds), meter.looks(), np.concatenate(embedded_seconds), rows)


def measure(
    footage: Footage,
    embedders: Mapping[str, Embedder],
    settings: MeasureSettings,
    progress: Callable[[int], None] = lambda frames: None,
) -> dict[str, Any]:
    """Measure one video.

    Args:
        footage: the video.
        embedders: by name; the first is the primary one.
        settings: what is measured.
        progress: called with the number of frames of each batch.

    Returns:
        Plain data for JSON; docs/evaluation.md lists its fields. A figure that can't be had is None.

    Raises:
        ValueError: if the video is shorter than a horizon, damaged, or has no frame where a figure is read.
    """
    settings.check(footage)
    ends_s = settings.ends_s(footage)
    metrics = metrics_named(settings.metrics)
    seen = look_at(footage, embedders, settings.embed_every, ends_s[-1], progress)
    settings.windows.check_frames(seen.embedded_seconds, ends_s, footage.name)
    asked = partial(_with_horizons, settings.horizons_s)
    cosines = {
        name: cosine_to_reference(rows, seen.embedded_seconds, settings.windows)
        for name, rows in seen.embeddings.items()
    }
    return {
        "format": MEASURES_FORMAT,
        "video": {
            "name": footage.name, "width": footage.width, "height": footage.height,
            "fps": footage.fps, "frames": footage.frames, "seconds": footage.seconds,
        },
        "horizons_s": list(settings.horizons_s),
        "measured_at_s": list(ends_s),
        "origin_s": settings.windows.origin_s,
        "embed_every": settings.embed_every,
        "embedders": {name: embedder.describe() for name, embedder in embedders.items()},
        "drift": {
            name: asked([asdict(drift_at(values, seen.embedded_seconds, at, settings.windows)) for at in ends_s])
            for name, values in cosines.items()
        },
        "companions": asked([_companions(seen, at, metrics) for at in ends_s]),
        "adherence": _adherence(seen, embedders, settings.prompts, ends_s[-1]),
        "traits": asked(_traits(seen, embedders, settings.windows, ends_s)),
        "protocols": asked([_protocols(seen, footage.fps, at, settings) for at in ends_s]),
        "curves": _curves(seen, cosines),
        "per_frame": {
            "seconds": [round(float(second), 6) for second in seen.embedded_seconds],
            "cosine": {name: _json_numbers(values) for name, values in cosines.items()},
        },
    }  # fmt: skip


def _with_horizons(horizons_s: Sequence[float], figures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Figures under the horizons that were asked for, wherever they were measured; none if there are none."""
    return [{**each, "horizon_s": horizon_s} for each, horizon_s in zip(figures, horizons_s, strict=False)]


def _companions(seen: Seen, horizon_s: float, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    looks, seconds = _until(seen, horizon_s)
    figures = {name: metric.of(looks, seconds, horizon_s) for name, metric in metrics.items()}
    means = {name: float(getattr(looks, name).mean()) for name in IMAGING}
    return {"horizon_s": horizon_s, **means, **figures}


def _until(seen: Seen, horizon_s: float) -> tuple[Looks, Floats]:
    inside = within(seen.seconds, (0, horizon_s))
    looks = seen.looks
    parts = {name: getattr(looks, name)[inside] for name in ("motion", *IMAGING, "thumbnails")}
    return Looks(**parts), seen.seconds[inside]


def _adherence(
    seen: Seen, embedders: Mapping[str, Embedder], prompts: Sequence[tuple[float, str]], end_s: float
) -> dict[str, list[dict[str, Any]]]:
    """Mean cosine of the frames under each prompt to that prompt, by every embedder that reads prompts."""
    ends = [start for start, _ in prompts[1:]] + [end_s]
    found: dict[str, list[dict[str, Any]]] = {}
    for name, embedder in embedders.items():
        if not prompts or not isinstance(embedder, TextEmbedder):
            continue
        cosines = seen.embeddings[name] @ embedder.embed_prompts([prompt for _, prompt in prompts]).T
        found[name] = []
        for number, ((start, prompt), end) in enumerate(zip(prompts, ends, strict=True)):
            inside = within(seen.embedded_seconds, (start, end))
            value = float(cosines[inside, number].mean()) if inside.any() else None
            found[name].append({"start_s": start, "end_s": end, "prompt": prompt, "cosine": value})
    return found


def _traits(
    seen: Seen, embedders: Mapping[str, Embedder], windows: DriftWindows, horizons_s: Sequence[float]
) -> list[dict[str, Any]]:
    """The oracle's view at each horizon; empty where no embedder is an oracle."""
    for name, embedder in embedders.items():
        if isinstance(embedder, OracleEmbedder):
            readings, seconds = embedder.trait_values(seen.embeddings[name]), seen.embedded_seconds
            return [
                {
                    **asdict(kept_traits(readings, seconds, horizon_s, embedder.hidden, windows)),
                    "distinct_characters": distinct_characters(readings, seconds, horizon_s),
                }
                for horizon_s in horizons_s
            ]
    return []


def _protocols(seen: Seen, fps: float, horizon_s: float, settings: MeasureSettings) -> dict[str, Any]:
    """The field's measures of the first `horizon_s` seconds."""
    found: dict[str, Any] = {"horizon_s": horizon_s, "consistency": {}, "vbench_long_subject": None, "series": {}}
    looks, _ = _until(seen, horizon_s)
    for name in IMAGING:
        values = getattr(looks, name)
        found["series"][name] = {
            "start_end_contrast": protocols.start_end_contrast(values),
            "spread": protocols.spread(values) if len(values) >= protocols.SPREAD_SEGMENTS else None,
            "weighted_drift": protocols.weighted_drift(values) if len(values) >= protocols.WEIGHTED_CHUNKS else None,
        }
    if settings.embed_every > 1:
        return found
    inside = within(seen.embedded_seconds, (0, horizon_s))
    rows = {name: values[inside] for name, values in seen.embeddings.items() if not np.isnan(values[inside]).any()}
    for name, values in rows.items():
        parts = protocols.long_consistency(values, fps)
        found["consistency"][name] = {"vbench": protocols.consistency(values), "vbench_long": asdict(parts)}
    if {"dino", "dinov2"} <= set(rows):
        parts = protocols.long_consistency(rows["dino"], fps, rows["dinov2"])
        found["vbench_long_subject"] = {**asdict(parts), "fused": protocols.fused(parts, settings.subject_table)}
    return found


def _curves(seen: Seen, cosines: Mapping[str, Floats]) -> dict[str, Any]:
    """Means over every second: cosine to the reference by embedder, and looks."""
    middles, motion_curve = curve(seen.looks.motion, seen.seconds)
    series = {name: curve(values, seen.embedded_seconds)[1] for name, values in cosines.items()}
    looks = {name: curve(getattr(seen.looks, name), seen.seconds)[1] for name in IMAGING}
    return {
        "seconds": middles.tolist(),
        "cosine": {name: _json_numbers(values) for name, values in series.items()},
        "motion": _json_numbers(motion_curve),
        **{name: _json_numbers(values) for name, values in looks.items()},
    }


def _json_numbers(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 6) for value in values]
