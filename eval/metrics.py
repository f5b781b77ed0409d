"""Metrics besides drift, each one figure of a video up to a horizon.

A metric is a `Metric` in the entry point group `longlive_rag.metrics`; the built-in ones are registered the same way.
Those below are always measured, others if named (`--metrics`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from eval.companions import Looks, change_of, first_last_change, last_change, last_repetition, repetition
from eval.drift import Floats
from longlive_rag.environment import plugin

ALWAYS = (
    "motion", "last_motion", "moving", "last_moving", "sharpness", "sharpness_drift", "exposure_drift",
    "saturation_drift", "repetition", "last_repetition",
)  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """One figure of a video.

    Attributes:
        label: label in reports.
        lower_is_better: which direction is better.
        of: computes it from (looks of the frames before the horizon, their seconds [T], the horizon in seconds).
    """

    label: str
    lower_is_better: bool
    of: Callable[[Looks, Floats, float], float]


MOTION = Metric("motion", False, lambda looks, seconds, horizon_s: change_of(looks.motion))
LAST_MOTION = Metric(
    "motion in the last 5 s", False, lambda looks, seconds, horizon_s: last_change(looks.motion, seconds, horizon_s)
)
MOVING = Metric("visible motion", False, lambda looks, seconds, horizon_s: change_of(looks.moving))
LAST_MOVING = Metric(
    "visible motion in the last 5 s",
    False,
    lambda looks, seconds, horizon_s: last_change(looks.moving, seconds, horizon_s),
)
SHARPNESS = Metric("sharpness", False, lambda looks, seconds, horizon_s: float(looks.sharpness.mean()))
SHARPNESS_DRIFT = Metric(
    "imaging drift (sharpness)",
    True,
    lambda looks, seconds, horizon_s: first_last_change(looks.sharpness, seconds, horizon_s),
)
EXPOSURE_DRIFT = Metric(
    "exposure drift", True, lambda looks, seconds, horizon_s: first_last_change(looks.exposure, seconds, horizon_s)
)
SATURATION_DRIFT = Metric(
    "saturation drift", True, lambda looks, seconds, horizon_s: first_last_change(looks.saturation, seconds, horizon_s)
)
REPETITION = Metric("repetition", True, lambda looks, seconds, horizon_s: repetition(looks, seconds))
LAST_REPETITION = Metric("repetition in the last 5 s", True, last_repetition)


def metrics_named(names: tuple[str, ...]) -> dict[str, Metric]:
    """Load the metrics that are always measured, and `names`.

    Raises:
        ValueError: if one is not installed, or is not a metric.
    """
    found = {name: plugin("metric", name) for name in dict.fromkeys((*ALWAYS, *names))}
    for name, metric in found.items():
        if not isinstance(metric, Metric):
            raise ValueError(f"metric {name!r} is {type(metric).__name__}; it must be an eval.metrics.Metric")
    return found
