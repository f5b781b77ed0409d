"""What is compared of two takes: where each figure is read, and which way is good."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from eval.drift import Drift
from eval.measures import Adherence, Consistency, LongConsistency, Measures, Protocols, Traits
from eval.metrics import ALWAYS
from eval.outcomes import SUBJECT, outcomes

BETTER_LOW = {
    "drift.dino", "characters", "sharpness_drift", "exposure_drift", "saturation_drift", "repetition",
    "last_repetition",
}  # fmt: skip

NEWER = tuple(
    f"{name}@{horizon}"
    for horizon in (10, 20)
    for name in ("last_consistency.clip", "last_consistency.dino", "cosine_to_first.dino")
)
"""Figures that takes measured before them lack."""


def consistency(value: float) -> Consistency:
    return Consistency(value, LongConsistency(0.0, None, 1))


def measures(**changes) -> Measures:
    """Figures of 10 and 20 s that all differ."""
    protocols = [Protocols(10.0, {"dino": consistency(0.81)}, None, {}), Protocols(20.0, {}, None, {})]
    fields = {
        "drift": {"dino": [Drift(10.0, 0.1, 0.9, 0.8, 1.0, 0.7), Drift(20.0, None, 0.91, None, 1.0, 0.0)]},
        "traits": [
            Traits(10.0, 2, 2, True, True, 0.6, {}, {}, distinct_characters=3),
            Traits(20.0, 0, 0, False, None, None, {}, {}, distinct_characters=4),
        ],
        "companions": [{name: base + n for n, name in enumerate((*ALWAYS, *SUBJECT))} for base in (100.0, 200.0)],
        "measured_at_s": (10.0, 20.0),
        "protocols": protocols,
        "adherence": {
            "clip": [Adherence(0, 5, "a", 0.1), Adherence(5, 10, "b", None), Adherence(10, 20, "c", 0.2)],
            "siglip": [Adherence(0, 5, "a", 0.6)],
        },
    }
    return Measures.model_construct(**{**fields, **changes})


PLAN = SimpleNamespace(horizons_s=(10.0, 20.0), metrics=())


def test_every_outcome_by_hand():
    take = measures()
    newer = Protocols(10.0, {"clip": consistency(0.5)}, None, {}, {"clip": None, "dino": 0.4}, {"dino": 0.3})
    later = measures(protocols=[newer] * 2)
    found = {each.name: each for each in outcomes(PLAN, [take, later])}
    assert next(iter(found)) == "drift.dino@10"
    values = {name: each.value(take) for name, each in found.items()}
    expected = {
        "drift.dino@10": 0.1, "seen.dino@10": 0.7, "opening.dino@10": 0.9, "last.dino@10": 0.8, "traits_kept@10": 1.0,
        "known_traits_kept@10": 1.0, "as_named@10": 0.6, "characters@10": 3.0, "vbench.dino@10": 0.81,
        "vbench.clip@10": None, **dict.fromkeys(NEWER), "drift.dino@20": None, "seen.dino@20": 0.0,
        "opening.dino@20": 0.91,
        "last.dino@20": None, "traits_kept@20": 0.0, "known_traits_kept@20": None, "as_named@20": None,
        "characters@20": 4.0, "vbench.clip@20": None,
        "adherence@10": (0.1 + 0.6) / 2, "adherence@20": (0.1 * 5 + 0.2 * 10 + 0.6 * 5) / 20,
        **{f"{name}@10": 100.0 + n for n, name in enumerate((*ALWAYS, *SUBJECT))},
        **{f"{name}@20": 200.0 + n for n, name in enumerate((*ALWAYS, *SUBJECT))},
    }  # fmt: skip
    assert values == pytest.approx(expected)
    assert found["vbench.clip@10"].value(later) == 0.5
    assert [found[name].value(later) for name in NEWER] == [None, 0.4, 0.3] * 2
    there = replace(take.traits[0], place_as_named=0.75)
    been = {each.name: each for each in outcomes(PLAN, [take, measures(traits=[there] * 2)])}
    assert {name for name in been if name not in found} == {"place_as_named@10", "place_as_named@20"}
    assert [been["place_as_named@20"].value(each) for each in (take, measures(traits=[there] * 2))] == [None, 0.75]
    alone = replace(take.traits[0], more_than_named=0.25)
    crowded = {each.name: each for each in outcomes(PLAN, [take, measures(traits=[alone] * 2)])}
    assert {name for name in crowded if name not in found} == {"more_than_named@10", "more_than_named@20"}
    assert [crowded["more_than_named@20"].value(each) for each in (take, measures(traits=[alone] * 2))] == [None, 0.25]
    assert crowded["more_than_named@20"].lower_is_better
    low = {name.partition("@")[0] for name, each in found.items() if each.lower_is_better}
    high = {name.partition("@")[0] for name, each in found.items() if not each.lower_is_better}
    assert (low, low & high) == (BETTER_LOW, set())
    assert {name for name, each in found.items() if each.is_share} == {
        f"{name}@{horizon}" for name in ("traits_kept", "known_traits_kept") for horizon in (10, 20)
    }
    assert all(name.endswith(f"@{each.horizon_s:g}") for name, each in found.items())


def test_what_no_take_has_is_no_outcome():
    companions = [dict.fromkeys(ALWAYS, 1.0)] * 2
    bare = measures(traits=[], adherence={}, protocols=[Protocols(10.0, {}, None, {})] * 2, companions=companions)
    names = {each.name.partition("@")[0] for each in outcomes(PLAN, [bare])}
    assert names == {"drift.dino", "seen.dino", "opening.dino", "last.dino", *ALWAYS}


def test_adherence_that_nobody_read_is_none():
    blind = measures(adherence={"clip": [Adherence(0, 5, "a", None)]})
    plan = SimpleNamespace(horizons_s=(10.0,), metrics=())
    (adherence,) = [each for each in outcomes(plan, [blind]) if each.name == "adherence@10"]
    assert adherence.value(blind) is None


def test_whether_the_right_one_returned_is_asked_where_there_is_a_rival():
    def take(*right):
        traits = [
            Traits(horizon, 0, 0, False, None, None, {}, {}, each, distinct_characters=1)
            for horizon, each in zip((10.0, 20.0), right, strict=True)
        ]
        return measures(traits=traits)

    nobody_could_tell, told = take(None, None), take(None, True)
    assert not [each for each in outcomes(PLAN, [nobody_could_tell]) if each.name.startswith("right_one")]
    (found,) = [each for each in outcomes(PLAN, [nobody_could_tell, told]) if each.name.startswith("right_one")]
    assert (found.name, found.is_share, found.lower_is_better) == ("right_one@20", True, False)
    assert [found.value(each) for each in (nobody_could_tell, told, take(None, False))] == [None, 1.0, 0.0]
