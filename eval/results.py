"""From the measures of all takes to what can be said: paired comparisons, noise floor, guardrails, verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.drift import drift_at
from eval.plan import Cell, Plan, read_json
from eval.runs import MEASURES, NOISE, is_finished, take_folder
from eval.statistics import Paired, detectable_effect, holm, paired
from eval.windows import DriftWindows
from longlive_rag.take_folder import RECORD

RESULTS_FORMAT = 1


@dataclass(frozen=True)
class Outcome:
    """One figure of a take.

    Attributes:
        name: as in the results.
        label: as in the report.
        lower_is_better: which way is good.
        horizon_s: where it is read.
        value: from a take's measures; None where it can't be had.
    """

    name: str
    label: str
    lower_is_better: bool
    horizon_s: float
    value: Callable[[Mapping[str, Any]], float | None]


@dataclass(frozen=True)
class Guardrail:
    """A companion that an arm may not worsen by more than a margin.

    Attributes:
        outcome: name of the companion, without the horizon.
        margin: how much worse is still allowed.
        relative: whether the margin is a share of the baseline's mean, or in the outcome's own unit.
    """

    outcome: str
    margin: float
    relative: bool


GUARDRAILS = (
    Guardrail("motion", 0.05, True),
    Guardrail("sharpness", 0.10, True),
    Guardrail("exposure_drift", 0.02, False),
    Guardrail("saturation_drift", 0.02, False),
    Guardrail("repetition", 0.05, False),
    Guardrail("adherence", 0.01, False),
)
COMPANIONS = (
    ("motion", "motion", False),
    ("sharpness", "sharpness", False),
    ("sharpness_drift", "imaging drift (sharpness)", True),
    ("exposure_drift", "exposure drift", True),
    ("saturation_drift", "saturation drift", True),
    ("repetition", "repetition", True),
)


def outcomes(plan: Plan, measures: Mapping[str, Any]) -> list[Outcome]:
    """What can be compared, from the shape of one take's measures; the primary endpoint first."""
    found = []
    for number, horizon_s in enumerate(plan.horizons_s):
        at = f"@{horizon_s:g}"
        for name in measures["drift"]:
            found.append(Outcome(f"drift.{name}{at}", f"drift by {name}", True, horizon_s, _drift(name, number)))
            found.append(Outcome(f"seen.{name}{at}", f"subject seen by {name}", False, horizon_s, _seen(name, number)))
        if measures["traits"]:
            found.append(Outcome(f"traits_kept{at}", "all hidden traits kept", False, horizon_s, _kept(number)))
            found.append(
                Outcome(
                    f"characters{at}",
                    "distinct characters",
                    True,
                    horizon_s,
                    _of_list("traits", number, "distinct_characters"),
                )
            )
        for name, label, lower in COMPANIONS:
            found.append(Outcome(f"{name}{at}", label, lower, horizon_s, _of_list("companions", number, name)))
        for name in measures["protocols"][number]["consistency"]:
            found.append(
                Outcome(f"vbench.{name}{at}", f"VBench's formula by {name}", False, horizon_s, _vbench(name, number))
            )
    if measures["adherence"]:
        at = f"@{plan.horizons_s[-1]:g}"
        found.append(Outcome(f"adherence{at}", "prompt adherence", False, plan.horizons_s[-1], _mean_adherence))
    return found


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline, on one outcome, in one scenario.

    Attributes:
        scenario, outcome, label, horizon_s, arm, baseline: what is compared.
        means: mean over prompts by arm name (the two), of the pairs that count.
        paired: the comparison; None where no pair counts.
        left_out: pairs of takes in which one side has no value.
        confirmatory: whether it belongs to the tests fixed in advance.
        p_holm: Holm's adjusted p over those; None for others.
    """

    scenario: str
    outcome: str
    label: str
    lower_is_better: bool
    horizon_s: float
    arm: str
    baseline: str
    means: dict[str, float]
    paired: Paired | None
    left_out: int
    confirmatory: bool
    p_holm: float | None = None


class Takes:
    """The measures of all takes of a run.

    Raises:
        ValueError: if a take is missing: partial results are no results.
    """

    def __init__(self, run: Path, plan: Plan) -> None:
        missing = [cell for cell in plan.cells if not is_finished(run, cell)]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(plan.cells)} takes are not finished (such as {missing[0].name}); "
                "run the comparison again to go on"
            )
        self.run, self.plan = run, plan
        self.measures = {cell.name: read_json(take_folder(run, cell) / MEASURES) for cell in plan.cells}
        self.noise = {cell.name: read_json(take_folder(run, cell) / NOISE)["sha256"] for cell in plan.cells}

        for story in plan.stories:
            for seed in range(plan.seeds):
                score_on_common_frames([self.of(arm.name, story.id, seed) for arm in plan.arms])

    def of(self, arm: str, story: str, seed: int) -> dict[str, Any]:
        """Measures of one take."""
        return self.measures[f"{arm}/{story}-seed{seed}"]

    def record(self, cell: Cell) -> dict[str, Any]:
        """A take's `take.json`."""
        return read_json(take_folder(self.run, cell) / RECORD)


def score_on_common_frames(matched: Sequence[dict[str, Any]]) -> None:
    """Read the drift of matched takes again, in place, from the frames in which the subject is seen in all of them.

    A take in which the subject is rarely seen would else be judged by its best moments. Coverages stay each take's own,
    and so does the reference. Where all frames count in all takes, nothing changes.

    Args:
        matched: measures of the takes of one prompt and seed, one an arm.
    """
    windows = DriftWindows(matched[0]["origin_s"])
    for name in matched[0]["drift"]:
        cosines = [np.array(measures["per_frame"]["cosine"][name], np.float64) for measures in matched]
        missing = np.isnan(cosines).any(axis=0)
        if not missing.any():
            continue
        for measures, values in zip(matched, cosines, strict=True):
            seconds = np.array(measures["per_frame"]["seconds"])
            for drift in measures["drift"][name]:
                common = drift_at(np.where(missing, np.nan, values), seconds, drift["horizon_s"], windows)
                drift.update(value=common.value, opening=common.opening, last=common.last)


def differences(takes: Takes, outcome: Outcome, scenario: str, arm: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Arm minus baseline by story id, the mean over seeds; and the means of both arms and the pairs left out."""
    plan = takes.plan
    baseline = plan.arms[0].name
    by_story: dict[str, float] = {}
    sums: dict[str, list[float]] = {arm: [], baseline: []}
    left_out = 0
    for story in (story for story in plan.stories if story.scenario == scenario):
        pairs = []
        for seed in range(plan.seeds):
            values = [outcome.value(takes.of(name, story.id, seed)) for name in (arm, baseline)]
            if None in values:
                left_out += 1
            else:
                pairs.append(values)
        if pairs:
            mean = np.mean(np.array(pairs, np.float64), axis=0)
            by_story[story.id] = float(mean[0] - mean[1])
            sums[arm].append(float(mean[0]))
            sums[baseline].append(float(mean[1]))
    means = {name: float(np.mean(values)) for name, values in sums.items() if values}
    return by_story, {"means": means, "left_out": left_out}


def compare_all(takes: Takes) -> list[Comparison]:
    """Every arm against the baseline, on every outcome, in every scenario; Holm over the confirmatory ones."""
    plan = takes.plan
    primary = f"drift.{next(iter(takes.measures[plan.cells[0].name]['drift']))}@"
    baseline = plan.arms[0].name
    found = []
    for scenario in plan.scenarios:
        for outcome in outcomes(plan, takes.measures[plan.cells[0].name]):
            for arm in plan.arms[1:]:
                by_story, rest = differences(takes, outcome, scenario, arm.name)
                result = paired(list(by_story.values()), outcome.lower_is_better) if by_story else None
                confirmatory = arm is plan.arms[1] and outcome.name.startswith(primary)
                found.append(
                    Comparison(
                        scenario, outcome.name, outcome.label, outcome.lower_is_better, outcome.horizon_s, arm.name,
                        baseline, rest["means"], result, rest["left_out"], confirmatory,
                    )
                )  # fmt: skip
    return _with_holm(found)


def _with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    tests = [c for c in comparisons if c.confirmatory and c.paired]
    adjusted = dict(zip(map(id, tests), holm([c.paired.p for c in tests if c.paired]), strict=True))
    return [replace(c, p_holm=adjusted.get(id(c))) for c in comparisons]


def noise_floor(takes: Takes) -> list[dict[str, Any]]:
    """How far two takes of the baseline lie apart that differ in their seeds only (seed 0 minus seed 1), by outcome."""
    plan = takes.plan
    if plan.seeds < 2:
        return []
    baseline, found = plan.arms[0].name, []
    for scenario in plan.scenarios:
        for outcome in outcomes(plan, takes.measures[plan.cells[0].name]):
            pairs = [
                [outcome.value(takes.of(baseline, story.id, seed)) for seed in (0, 1)]
                for story in plan.stories
                if story.scenario == scenario
            ]
            apart = [a - b for a, b in pairs if a is not None and b is not None]
            if apart:
                result = paired(apart, outcome.lower_is_better)
                found.append(
                    {
                        "scenario": scenario, "outcome": outcome.name, "prompts": result.prompts,
                        "mean_absolute": float(np.abs(apart).mean()), "mean": result.mean,
                        "low": result.low, "high": result.high,
                    }
                )  # fmt: skip
    return found


def guardrails(takes: Takes, comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Companions of every arm at the longest horizon: `kept`, `broken`, or `unclear` (the interval says neither)."""
    last_s, found = takes.plan.horizons_s[-1], []
    for rail in GUARDRAILS:
        for c in comparisons:
            if c.outcome != f"{rail.outcome}@{last_s:g}" or c.paired is None:
                continue
            margin = rail.margin * abs(c.means[c.baseline]) if rail.relative else rail.margin
            sign = 1 if c.lower_is_better else -1
            worse = sign * c.paired.mean
            ends = [end for end in (c.paired.low, c.paired.high) if end is not None]
            worst = max((sign * end for end in ends), default=None)
            kept = "broken" if worse > margin else "kept" if worst is not None and worst <= margin else "unclear"
            found.append(
                {
                    "scenario": c.scenario, "arm": c.arm, "companion": c.label, "margin": margin, "worse_by": worse,
                    "at_most": worst, "state": kept,
                }
            )  # fmt: skip
    return found


def same_noise(takes: Takes) -> dict[str, list[str]]:
    """By arm: takes whose noise was not the baseline's of the same prompt and seed."""
    plan = takes.plan
    base = plan.arms[0]
    return {
        arm.name: [
            Cell(arm, story, seed).name
            for story in plan.stories
            for seed in range(plan.seeds)
            if takes.noise[Cell(arm, story, seed).name] != takes.noise[Cell(base, story, seed).name]
        ]
        for arm in plan.arms[1:]
    }


def verdict(comparison: Comparison) -> str:
    """One sentence about a confirmatory test (of drift), with its interval, that says what was seen, for or against."""
    c, p = comparison, comparison.paired
    where = f"On {c.scenario} at {c.horizon_s:g} s"
    if p is None:
        return f"{where}, nothing can be said: no pair of takes has a value for {c.label}."
    figures = f"mean paired difference {p.mean:+.3f}"
    if c.left_out:
        figures += f", {c.left_out} pairs left out because the subject is not seen in one of them"
    if p.low is None or p.high is None:
        return f"{where}, {c.arm} against {c.baseline}: {figures}; {p.prompts} prompts are too few for an interval."
    interval = f"{figures}, 95 % interval {p.low:+.3f} to {p.high:+.3f}, {p.prompts} prompts"
    p_value = f"p = {c.p_holm:.2g} after Holm" if c.p_holm is not None else f"p = {p.p:.2g}, not a confirmatory test"
    better = p.high < 0 if c.lower_is_better else p.low > 0
    worse = p.low > 0 if c.lower_is_better else p.high < 0
    if better or worse:
        how = "drifts less than" if better else "drifts MORE than"
        weak = ", which does not survive the correction for several tests" if c.p_holm and c.p_holm > 0.05 else ""
        return f"{where}, {c.arm} {how} {c.baseline} ({c.label}: {interval}; {p_value}{weak})."
    return f"{where}, no difference was seen between {c.arm} and {c.baseline} ({c.label}: {interval}; {p_value})."


def summarise(takes: Takes, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """All results, as plain data for JSON; `comparisons` are those of `compare_all`."""
    plan = takes.plan
    confirmatory = [c for c in comparisons if c.confirmatory]
    prompts = {name: sum(story.scenario == name for story in plan.stories) for name in plan.scenarios}
    first = takes.record(plan.cells[0])
    return {
        "format": RESULTS_FORMAT,
        "complete": True,
        "takes": len(plan.cells),
        "prompts": prompts,
        "verdicts": [verdict(c) for c in confirmatory if c.horizon_s == plan.horizons_s[-1]],
        "comparisons": [asdict(c) for c in comparisons],
        "guardrails": guardrails(takes, comparisons),
        "noise_floor": noise_floor(takes),
        "detectable_effect": {name: detectable_effect(count) for name, count in prompts.items()},
        "other_noise": same_noise(takes),
        "embedders": takes.measures[plan.cells[0].name]["embedders"],
        "conditions": {
            # A place on this machine says nothing to others; backbone_id says which weights they were.
            "run": {name: value for name, value in first["run"].items() if name != "folder"},
            "versions": first["versions"],
            "request": first["request"],
        },
    }


def _drift(embedder: str, number: int) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda measures: measures["drift"][embedder][number]["value"]


def _seen(embedder: str, number: int) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda measures: measures["drift"][embedder][number]["last_coverage"]


def _kept(number: int) -> Callable[[Mapping[str, Any]], float | None]:
    def value(measures: Mapping[str, Any]) -> float | None:
        kept = measures["traits"][number]["all_kept"]
        return None if kept is None else float(kept)

    return value


def _of_list(part: str, number: int, name: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda measures: float(measures[part][number][name])


def _vbench(embedder: str, number: int) -> Callable[[Mapping[str, Any]], float | None]:
    def value(measures: Mapping[str, Any]) -> float | None:
        found = measures["protocols"][number]["consistency"].get(embedder)
        return None if found is None else found["vbench"]

    return value


def _mean_adherence(measures: Mapping[str, Any]) -> float | None:
    values = [cue["cosine"] for cues in measures["adherence"].values() for cue in cues if cue["cosine"] is not None]
    return float(np.mean(values)) if values else None
