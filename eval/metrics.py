"""Metrics beside drift: one figure of a video up to a horizon. Ours are registered as anybody's are.

A metric is a `Metric` under the entry point group `longlive_rag.metrics`. The seven below are always measured, others
where they are named (`--metrics`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from eval.companions import Looks, first_last_change, last_motion, motion, repetition
from eval.drift import Floats
from longlive_rag.environment import plugin

ALWAYS = ("motion", "last_motion", "sharpness", "sharpness_drift", "exposure_drift", "saturation_drift", "repetition")


@dataclass(frozen=True)
class Metric:
    """One figure of a video.

    Attributes:
        label: as in reports.
        lower_is_better: which way is good.
        of: from (looks of the frames before the horizon, their seconds [T], the horizon in seconds).
    """

    label: str
    lower_is_better: bool
    of: Callable[[Looks, Floats, float], float]


MOTION = Metric("motion", False, lambda looks, seconds, horizon_s: motion(looks))
LAST_MOTION = Metric("motion in the last 5 s", False, last_motion)
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


def metrics_named(names: tuple[str, ...]) -> dict[str, Metric]:
    """Those that are always measured, and `names`.

    Raises:
        ValueError: if one is not installed, or is not a metric.
    """
    found = {name: plugin("metric", name) for name in dict.fromkeys((*ALWAYS, *names))}
    for name, metric in found.items():
        if not isinstance(metric, Metric):
            raise ValueError(f"metric {name!r} is {type(metric).__name__}; it must be an eval.metrics.Metric")
    return found
