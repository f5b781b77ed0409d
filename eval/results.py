"""Results of a comparison from the measures of all takes: paired comparisons, noise floor, guardrails, verdicts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import Field

from eval.comparisons import Comparison
from eval.guardrails import Guarded, guardrails, in_state
from eval.outcomes import Outcome
from eval.over_time import FirstFrame, likeness_to_first_frames
from eval.plan import Cell
from eval.recalled import Recalled, what_was_recalled
from eval.statistics import LEVEL, Floats, Paired, detectable_effect, holm, paired
from eval.takes import Takes, on_common_frames
from longlive_rag.documents import Versioned

TIMINGS = ("load_seconds",)  # conditions of a take that differ between processes


@dataclass(frozen=True)
class NoiseFloor:
    """Two seeds of the baseline compared: mean of the differences and of their absolute values, over prompts."""

    scenario: str
    outcome: str
    prompts: int
    mean_absolute: float
    mean: float
    low: float | None
    high: float | None


class Results(Versioned):
    """`results.json`.

    Attributes:
        takes: number of takes.
        prompts: number of prompts, by scenario.
        verdicts: a sentence for each confirmatory test, by scenario, longest horizon first.
        detectable_effect: in standard deviations over prompts, by scenario; accounts for Holm's first step.
        other_noise: by arm, takes whose noise was not the baseline's.
        embedders: descriptions of the embedders; the first is the primary one.
        conditions: conditions of the first take: `run`, `versions`, `request`.
        mixed_conditions: by name, how many takes had which value.
        warnings: what a reader must know, one sentence each.
        recalled: what memory brought back.
        first_frames: cosine to the first frame over time; empty if a take was measured before there was one.
    """

    complete: bool = True
    takes: int
    prompts: dict[str, int]
    verdicts: list[str]
    comparisons: list[Comparison]
    guardrails: list[Guarded]
    noise_floor: list[NoiseFloor]
    detectable_effect: dict[str, float]
    other_noise: dict[str, list[str]]
    embedders: dict[str, dict[str, Any]]
    conditions: dict[str, dict[str, Any]]
    mixed_conditions: dict[str, dict[str, int]] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    recalled: list[Recalled] = Field(default_factory=list)
    first_frames: list[FirstFrame] = Field(default_factory=list)

    def _repr_html_(self) -> str:
        from eval.notebook import results_as_html

        return results_as_html(self)


def means_by_story(
    takes: Takes, outcome: Outcome, scenario: str, arm: str, baseline: str
) -> tuple[dict[str, tuple[float, float]], int]:
    """Both arms' means over the seeds whose pair has a value, by story id; also the number of pairs without one."""
    plan, found, left_out = takes.plan, dict[str, tuple[float, float]](), 0
    for story in (story for story in plan.stories if story.scenario == scenario):
        pairs = [
            [outcome.value(measures) for measures in takes.pair(arm, baseline, story.id, seed)]
            for seed in range(plan.seeds)
        ]
        whole = [pair for pair in pairs if None not in pair]
        left_out += len(pairs) - len(whole)
        if whole:
            own, other = np.mean(np.array(whole, np.float64), axis=0)
            found[story.id] = float(own), float(other)
    return found, left_out


def differences(
    takes: Takes, outcome: Outcome, scenario: str, arm: str, baseline: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """Arm minus baseline by story id, averaged over seeds; also the means of both arms and the pairs left out."""
    by_story, left_out = means_by_story(takes, outcome, scenario, arm, baseline)
    means = zip((arm, baseline), map(np.mean, zip(*by_story.values(), strict=True)), strict=False)
    rest = {"means": {name: float(mean) for name, mean in means}, "left_out": left_out}
    return {story: own - other for story, (own, other) in by_story.items()}, rest


def compare_all(takes: Takes) -> list[Comparison]:
    """Compare all contrasts of a plan on every outcome in every scenario, with Holm over the confirmatory ones."""
    plan = takes.plan
    primary = f"drift.{next(iter(takes.measures(plan.cells[0]).drift))}@"
    found = []
    for scenario in plan.scenarios:
        for outcome in takes.outcomes:
            for contrast in plan.all_contrasts:
                by_story, rest = differences(takes, outcome, scenario, contrast.arm, contrast.against)
                result = _paired(list(by_story.values()), outcome, plan.seeds) if by_story else None
                confirmatory = contrast.confirmatory and outcome.name.startswith(primary)
                found.append(
                    Comparison(
                        scenario, outcome.name, outcome.label, outcome.lower_is_better, outcome.horizon_s, contrast.arm,
                        contrast.against, rest["means"], result, rest["left_out"], confirmatory,
                    )
                )  # fmt: skip
    return _with_holm(found)


def _paired(differences: Sequence[float] | Floats, outcome: Outcome, seeds: int) -> Paired:
    return paired(differences, outcome.lower_is_better, seeds_of_shares=seeds if outcome.is_share else None)


def _with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    tests = [c for c in comparisons if c.confirmatory and c.paired]
    adjusted = dict(zip(map(id, tests), holm([c.paired.p for c in tests if c.paired]), strict=True))
    return [replace(c, p_holm=adjusted.get(id(c))) for c in comparisons]


def noise_floor(takes: Takes) -> list[NoiseFloor]:
    """How far two takes of the baseline that differ only in seed are apart (seed 0 minus seed 1), by outcome.

    They are compared as arms are: drift is computed from frames that show the subject in both.
    """
    plan = takes.plan
    if plan.seeds < 2:
        return []
    baseline, found = plan.arms[0].name, []
    for scenario in plan.scenarios:
        seeds = [
            on_common_frames(*(takes.of(baseline, story.id, seed) for seed in (0, 1)))
            for story in plan.stories
            if story.scenario == scenario
        ]
        for outcome in takes.outcomes:
            pairs = [[outcome.value(measures) for measures in pair] for pair in seeds]
            apart = [a - b for a, b in pairs if a is not None and b is not None]
            if apart:
                result = _paired(apart, outcome, 1)
                found.append(
                    NoiseFloor(
                        scenario, outcome.name, result.prompts, float(np.abs(apart).mean()), result.mean, result.low,
                        result.high,
                    )
                )  # fmt: skip
    return found


def same_noise(takes: Takes) -> dict[str, list[str]]:
    """By arm, the takes whose noise differs from the baseline's with the same prompt and seed."""
    plan = takes.plan
    base = plan.arms[0]
    return {
        arm.name: [
            Cell(arm, story, seed).name
            for story in plan.stories
            for seed in range(plan.seeds)
            if takes.figures[Cell(arm, story, seed).name].noise.sha256
            != takes.figures[Cell(base, story, seed).name].noise.sha256
        ]
        for arm in plan.arms[1:]
    }


def verdict(comparison: Comparison, exploratory: bool = False, guarded: Sequence[Guarded] = ()) -> str:
    """State the result of a confirmatory test of drift in one sentence, with its interval, whichever way it went.

    Args:
        guarded: guardrails; a broken one withholds the claim, and a claim names those that are unclear.
    """
    c, p = comparison, comparison.paired
    where = f"On {c.scenario} at {c.horizon_s:g} s"
    if p is None:
        return f"{where}, nothing can be said: no pair of takes has a value for {c.label}."
    figures = f"mean paired difference {p.mean:+.3f}"
    if c.left_out:
        figures += f", {c.left_out} pairs left out because no frame of a window shows the subject in both takes"
    if p.low is None or p.high is None:
        return f"{where}, {c.arm} against {c.baseline}: {figures}; {p.prompts} prompts are too few for an interval."
    assert c.p_holm is not None
    seen = f"{c.label}: {figures}, 95 % interval {p.low:+.3f} to {p.high:+.3f}, {p.prompts} prompts"
    seen += f"; p = {c.p_holm:.2g} after Holm"
    if exploratory:
        return f"{where}, {c.arm} against {c.baseline}: {seen}; nothing is claimed, the comparison is exploratory."
    clear, borne_out = p.low > 0 or p.high < 0, c.p_holm <= LEVEL
    if clear and borne_out and p.mean > 0:
        return f"{where}, {c.arm} drifts MORE than {c.baseline} ({seen})."
    if clear and borne_out:
        return f"{where}, {c.arm} drifts less than {c.baseline}{_guarded_claim(c, guarded, seen)}."
    but = ", which does not bear out the interval" if clear else ""
    return f"{where}, no difference was shown between {c.arm} and {c.baseline} ({seen}{but})."


def _guarded_claim(c: Comparison, guarded: Sequence[Guarded], seen: str) -> str:
    """The end of a verdict of less drift: what withholds the claim, or the claim with what is unclear about it."""
    broken, unclear = in_state("broken", c, guarded), in_state("unclear", c, guarded)
    if broken:
        named = ", ".join(f"{g.companion} ({g.worse_by:+.3g}, {g.margin:.3g} allowed)" for g in broken)
        return f", but nothing is claimed: it is worse in {named} ({seen})"
    ends = [("no interval" if g.at_most is None else f"up to {g.at_most:+.3g}", g) for g in unclear]
    named = ", ".join(f"{g.companion} ({end}, {g.margin:.3g} allowed)" for end, g in ends)
    return f" ({seen}; not shown to be no worse in {named})" if named else f" ({seen})"


def mixed_conditions(takes: Takes) -> dict[str, dict[str, int]]:
    """Conditions that differ between takes: by name, how many takes had which value.

    A run that is resumed after an upgrade, on another device or with other embedder weights is no longer a single
    experiment.
    """
    counts: dict[str, Counter[str]] = {}
    for cell in takes.plan.cells:
        take = takes.figures[cell.name]
        run = {name: value for name, value in take.run.items() if name not in TIMINGS}
        parts = {"run": run, "versions": take.versions, "embedders": take.measures.embedders}
        for part, values in parts.items():
            for name, value in values.items():
                counts.setdefault(f"{part}.{name}", Counter())[json.dumps(value, sort_keys=True)] += 1
    return {name: dict(found) for name, found in counts.items() if len(found) > 1}


def warnings(results: Results) -> list[str]:
    """What a reader must know before trusting the figures, one sentence each."""
    notes = []
    if next(iter(results.embedders)) in ("pixels", "latent"):
        notes.append("The primary embedder knows nothing of subjects: these figures are of pictures, not of identity.")
    for arm, others in results.other_noise.items():
        if others:
            notes.append(
                f"{arm}: {len(others)} takes draw other noise than the baseline, so their pairs are not matched."
            )
    for name, counts in results.mixed_conditions.items():
        found = ", ".join(f"{value} ({count})" for value, count in counts.items())
        notes.append(f"Not all takes were made under the same conditions: {name} is {found}.")
    broken = sorted({f"{g.arm} ({g.companion})" for g in results.guardrails if g.state == "broken"})
    if broken:
        notes.append(f"Guardrails broken: {', '.join(broken)}. Nothing is claimed where one is broken.")
    return notes


def summarise(takes: Takes, comparisons: Sequence[Comparison]) -> Results:
    """Collect all results; `comparisons` are those of `compare_all`."""
    plan = takes.plan
    confirmatory = sorted(
        (c for c in comparisons if c.confirmatory), key=lambda c: (plan.scenarios.index(c.scenario), -c.horizon_s)
    )
    prompts = {name: sum(story.scenario == name for story in plan.stories) for name in plan.scenarios}
    first = takes.figures[plan.cells[0].name]
    embedders = first.measures.embedders
    guarded = guardrails(comparisons, next(iter(embedders)))
    results = Results(
        takes=len(plan.cells),
        prompts=prompts,
        verdicts=[verdict(c, plan.exploratory, guarded) for c in confirmatory],
        comparisons=list(comparisons),
        guardrails=guarded,
        noise_floor=noise_floor(takes),
        detectable_effect={name: detectable_effect(count, plan.tests) for name, count in prompts.items()},
        other_noise=same_noise(takes),
        embedders=embedders,
        conditions={"run": first.run, "versions": first.versions, "request": first.request},
        mixed_conditions=mixed_conditions(takes),
        recalled=what_was_recalled(plan, {name: take.shown for name, take in takes.figures.items()}),
        first_frames=likeness_to_first_frames(takes),
    )
    return results.model_copy(update={"warnings": warnings(results)})
