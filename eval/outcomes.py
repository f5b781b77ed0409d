"""Outcomes on which two takes can be compared: drift, oracle readings, companions, the field's measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from eval.measures import Measures
from eval.metrics import metrics_named
from eval.plan import Plan
from eval.windows import TOLERANCE_S

SUBJECT = {"subject_moving": "the subject's motion", "last_subject_moving": "the subject's motion in the last 5 s"}
FIELD = {"last_consistency": "consistency of the last 5 s", "cosine_to_first": "cosine to the first frame"}
Value = Callable[[Measures], float | None]


@dataclass(frozen=True)
class Outcome:
    """One figure of a take.

    Attributes:
        name: name in the results.
        label: label in the report.
        lower_is_better: which direction is better.
        horizon_s: horizon at which it is measured.
        value: computes it from a take's measures; None if it is not available.
        is_share: whether every take has 0 or 1.
    """

    name: str
    label: str
    lower_is_better: bool
    horizon_s: float
    value: Value
    is_share: bool = False


def outcomes(plan: Plan, all_measures: Iterable[Measures]) -> list[Outcome]:
    """List the outcomes that can be compared, given the measures of all takes; the primary endpoint comes first."""
    all_measures = list(all_measures)
    measures = all_measures[0]  # takes of one plan have the same figures, except protocols
    found = []
    for number, horizon_s in enumerate(plan.horizons_s):
        at = f"@{horizon_s:g}"
        for name in measures.drift:
            found.append(Outcome(f"drift.{name}{at}", f"drift by {name}", True, horizon_s, _drift(name, number)))
            found.append(Outcome(f"seen.{name}{at}", f"subject seen by {name}", False, horizon_s, _seen(name, number)))
            for part, label in (("opening", "likeness in the opening"), ("last", "likeness in the last 5 s")):
                value = _part(name, number, part)
                found.append(Outcome(f"{part}.{name}{at}", f"{label} by {name}", False, horizon_s, value))
        if measures.traits:
            found.append(Outcome(f"traits_kept{at}", "all traits kept", False, horizon_s, _kept(number), True))
            known = _known_kept(number)
            found.append(Outcome(f"known_traits_kept{at}", "known traits kept", False, horizon_s, known, True))
            found.append(Outcome(f"as_named{at}", "shape and colour as named", False, horizon_s, _as_named(number)))
            found.append(Outcome(f"characters{at}", "distinct characters", True, horizon_s, _characters(number)))
        if any(each.traits and each.traits[number].place_as_named is not None for each in all_measures):
            named = _place_as_named(number)
            found.append(Outcome(f"place_as_named{at}", "place as named", False, horizon_s, named))
        if any(each.traits and each.traits[number].more_than_named is not None for each in all_measures):
            more = _more_than_named(number)
            found.append(Outcome(f"more_than_named{at}", "more characters than named", True, horizon_s, more))
        if any(each.traits and each.traits[number].right_one is not None for each in all_measures):
            found.append(
                Outcome(f"right_one{at}", "the right one returned", False, horizon_s, _right_one(number), True)
            )
        for name, metric in metrics_named(plan.metrics).items():
            value = _companion(name, number)
            found.append(Outcome(f"{name}{at}", metric.label, metric.lower_is_better, horizon_s, value))
        for name, label in SUBJECT.items():
            if name in measures.companions[number]:
                found.append(Outcome(f"{name}{at}", label, False, horizon_s, _companion(name, number)))
        for name in dict.fromkeys(name for each in all_measures for name in each.protocols[number].consistency):
            found.append(
                Outcome(f"vbench.{name}{at}", f"VBench's formula by {name}", False, horizon_s, _vbench(name, number))
            )
        for part, label in FIELD.items():
            for name in dict.fromkeys(name for each in all_measures for name in getattr(each.protocols[number], part)):
                value = _field(part, name, number)
                found.append(Outcome(f"{part}.{name}{at}", f"{label} by {name}", False, horizon_s, value))
        if measures.adherence:
            found.append(Outcome(f"adherence{at}", "prompt adherence", False, horizon_s, _adherence_until(number)))
    return found


def _drift(embedder: str, number: int) -> Value:
    return lambda measures: measures.drift[embedder][number].value


def _seen(embedder: str, number: int) -> Value:
    return lambda measures: measures.drift[embedder][number].last_coverage


def _part(embedder: str, number: int, part: str) -> Value:
    return lambda measures: getattr(measures.drift[embedder][number], part)


def _kept(number: int) -> Value:
    return lambda measures: float(measures.traits[number].all_kept)


def _known_kept(number: int) -> Value:
    def value(measures: Measures) -> float | None:
        kept = measures.traits[number].known_kept
        return None if kept is None else float(kept)

    return value


def _as_named(number: int) -> Value:
    return lambda measures: measures.traits[number].as_named


def _place_as_named(number: int) -> Value:
    return lambda measures: measures.traits[number].place_as_named


def _more_than_named(number: int) -> Value:
    return lambda measures: measures.traits[number].more_than_named


def _characters(number: int) -> Value:
    return lambda measures: float(measures.traits[number].distinct_characters)


def _right_one(number: int) -> Value:
    def value(measures: Measures) -> float | None:
        right = measures.traits[number].right_one
        return None if right is None else float(right)

    return value


def _companion(name: str, number: int) -> Value:
    return lambda measures: measures.companions[number][name]


def _vbench(embedder: str, number: int) -> Value:
    def value(measures: Measures) -> float | None:
        found = measures.protocols[number].consistency.get(embedder)
        return None if found is None else found.vbench

    return value


def _field(part: str, embedder: str, number: int) -> Value:
    return lambda measures: getattr(measures.protocols[number], part).get(embedder)


def _adherence_until(number: int) -> Value:
    """Mean over the seconds before a horizon, each compared with its current prompt."""

    def value(measures: Measures) -> float | None:
        end_s = measures.measured_at_s[number] + TOLERANCE_S
        parts = [each for cues in measures.adherence.values() for each in cues if each.end_s <= end_s]
        cosines = [each.cosine for each in parts if each.cosine is not None]
        lengths = [each.end_s - each.start_s for each in parts if each.cosine is not None]
        return float(np.average(cosines, weights=lengths)) if cosines else None

    return value
