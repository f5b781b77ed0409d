"""Every second's figures over the takes of a comparison: means over prompts of means over seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from eval.drift import Floats
from eval.measures import Curve, Curves
from eval.statistics import mean_and_error
from eval.takes import Takes

DIGITS = 6


@dataclass(frozen=True)
class FirstFrame:
    """How far an arm's takes still resemble their first frames, over time.

    Attributes:
        seconds: middle of each second.
        cosine: mean over prompts of the cosine to the first frame; None if no prompt has one.
        standard_error: of that mean, over prompts; None for fewer than two.
    """

    scenario: str
    arm: str
    embedder: str
    seconds: list[float]
    cosine: Curve
    standard_error: Curve


def curves_by_story(
    takes: Takes, scenario: str, arm: str, curve: Callable[[Curves], Curve]
) -> tuple[list[float], Floats]:
    """Seconds [N] and means over seeds [stories, N]; a second counts if any seed has a figure."""
    plan, rows = takes.plan, []
    seconds: list[float] = []
    for story in (story for story in plan.stories if story.scenario == scenario):
        curves = [takes.of(arm, story.id, seed).curves for seed in range(plan.seeds)]
        seconds = curves[0].seconds
        values = np.array([curve(each) for each in curves], np.float64)
        seen = ~np.isnan(values)
        sums, counts = np.where(seen, values, 0).sum(0), seen.sum(0)
        rows.append(np.divide(sums, counts, out=np.full(len(seconds), np.nan), where=counts > 0))
    return seconds, np.array(rows)


def likeness_to_first_frames(takes: Takes) -> list[FirstFrame]:
    """The cosine to the first frame over time, by scenario, arm and embedder; only where every take has it."""
    plan, all_curves = takes.plan, [each.measures.curves for each in takes.figures.values()]
    shared = [name for name in all_curves[0].cosine if all(name in each.cosine_to_first for each in all_curves)]
    found = []
    for scenario in plan.scenarios:
        for arm in plan.arms:
            for name in shared:
                seconds, by_story = curves_by_story(takes, scenario, arm.name, partial(_to_first, name))
                mean, error = map(_plain, mean_and_error(by_story))
                found.append(FirstFrame(scenario, arm.name, name, seconds, mean, error))
    return found


def _to_first(embedder: str, curves: Curves) -> Curve:
    return curves.cosine_to_first[embedder]


def _plain(values: Floats) -> Curve:
    return [None if np.isnan(value) else round(float(value), DIGITS) for value in values]
