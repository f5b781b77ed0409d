"""Guardrails: their margins as documented, and what breaks them, by hand."""

from __future__ import annotations

import pytest

from eval.comparisons import Comparison
from eval.guardrails import GUARDRAILS, Guarded, guardrails, in_state
from eval.statistics import Paired


def comparison(outcome: str, mean: float, low=None, high=None, lower_is_better=False, **changes) -> Comparison:
    """Memory against native; `baseline_mean` is native's mean."""
    base = changes.pop("baseline_mean", 1.0)
    paired = Paired(8, mean, low, high, 0.01, 0.5, mean, 0.1)
    fields = {"scenario": "plain", "horizon_s": 10.0, "arm": "memory", "paired": paired, **changes}
    means = {"memory": base + mean, "native": base}
    return Comparison(
        outcome=outcome, label=outcome, lower_is_better=lower_is_better, baseline="native", means=means, left_out=0,
        confirmatory=False, **fields,
    )  # fmt: skip


def test_margins_are_those_of_the_documents():
    """docs/evaluation.md, under "Statistics of a comparison"."""
    assert {rail.outcome: (rail.margin, rail.share_of) for rail in GUARDRAILS} == {
        "seen.{primary}": (0.05, None),
        "opening.{primary}": (0.05, None),
        "last.{primary}": (0.0, None),
        "as_named": (0.05, None),
        "place_as_named": (0.05, None),
        "characters": (0.5, None),
        "more_than_named": (0.05, None),
        "motion": (0.05, "motion"),
        "last_motion": (0.20, "last_motion"),
        "moving": (0.20, "moving"),
        "last_moving": (0.25, "last_moving"),
        "subject_moving": (0.20, "subject_moving"),
        "last_subject_moving": (0.25, "last_subject_moving"),
        "sharpness": (0.10, "sharpness"),
        "sharpness_drift": (0.10, "sharpness"),
        "exposure_drift": (0.02, None),
        "saturation_drift": (0.02, None),
        "repetition": (0.05, None),
        "last_repetition": (0.10, None),
        "adherence": (0.01, None),
    }


@pytest.mark.parametrize(
    ("mean", "low", "high", "state", "at_most"),
    [
        (-0.02, -0.04, 0.01, "kept", 0.04),
        (-0.02, -0.05, 0.01, "kept", 0.05),  # as far as the margin
        (-0.02, -0.06, 0.01, "unclear", 0.06),
        (-0.05, -0.06, 0.01, "unclear", 0.06),  # not beyond the margin
        (-0.06, -0.07, 0.01, "broken", 0.07),
        (0.3, 0.2, 0.4, "kept", -0.2),
        (-0.02, None, None, "unclear", None),
        (-0.06, None, None, "broken", None),
    ],
)
def test_an_outcome_that_is_better_high(mean, low, high, state, at_most):
    (found,) = guardrails([comparison("seen.dino@10", mean, low, high, baseline_mean=7.0)], "dino")
    assert (found.state, found.worse_by, found.at_most, found.margin) == (state, -mean, at_most, 0.05)
    assert (found.scenario, found.arm, found.against, found.horizon_s) == ("plain", "memory", "native", 10.0)
    assert found.companion == "seen.dino@10"


@pytest.mark.parametrize(
    ("mean", "high", "state"), [(0.01, 0.02, "kept"), (0.01, 0.03, "unclear"), (0.03, 0.04, "broken")]
)
def test_an_outcome_that_is_better_low(mean, high, state):
    (found,) = guardrails([comparison("exposure_drift@10", mean, -0.5, high, lower_is_better=True)], "dino")
    assert (found.state, found.worse_by, found.at_most) == (state, mean, high)


def test_a_margin_may_be_a_share_of_the_other_arm_s_mean():
    """10 % of the sharpness of the arm that it is held against, at the same horizon, whatever its sign."""
    rows = [
        comparison("sharpness@10", 0.5, 0.4, 0.6, baseline_mean=-3.0),
        comparison("sharpness_drift@10", 0.2, 0.1, 0.3, lower_is_better=True, baseline_mean=50.0),
        comparison("sharpness@20", 0.5, 0.4, 0.6, baseline_mean=5.0, horizon_s=20.0),
        comparison("sharpness_drift@20", 0.2, 0.1, 0.3, lower_is_better=True, horizon_s=20.0),
    ]
    found = {(each.companion, each.horizon_s): each.margin for each in guardrails(rows, "dino")}
    assert found == pytest.approx(
        {
            ("sharpness@10", 10.0): 0.3, ("sharpness_drift@10", 10.0): 0.3,
            ("sharpness@20", 20.0): 0.5, ("sharpness_drift@20", 20.0): 0.5,
        }
    )  # fmt: skip


def test_what_is_no_guardrail_or_has_no_pair_is_passed_over():
    rows = [
        comparison("drift.dino@10", 1.0),
        comparison("seen.clip@10", -1.0),  # not by the primary embedder
        comparison("seen.dino@20", -1.0),  # of another horizon than it says
        comparison("adherence@10", -1.0, paired=None),
    ]
    assert guardrails(rows, "dino") == []


def test_broken_guardrails_are_those_of_the_same_contrast_and_horizon():
    def guarded(state="broken", scenario="plain", arm="memory", against="native", horizon_s=10.0) -> Guarded:
        return Guarded(scenario, arm, "motion", 0.1, 0.2, 0.3, state, against, horizon_s)

    others = [
        guarded("kept"), guarded("unclear"), guarded(scenario="walk"), guarded(arm="other"), guarded(against="other"),
        guarded(horizon_s=20.0),
    ]  # fmt: skip
    c = comparison("drift.dino@10", 0.0)
    assert in_state("broken", c, [*others, guarded()]) == [guarded()]
    assert in_state("unclear", c, [*others, guarded()]) == [guarded("unclear")]
