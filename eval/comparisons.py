"""One arm against another, on one outcome."""

from __future__ import annotations

from dataclasses import dataclass

from eval.statistics import Paired


@dataclass(frozen=True)
class Comparison:
    """One arm against another, on one outcome, in one scenario.

    Attributes:
        scenario, outcome, label, horizon_s, arm, baseline: what is compared.
        means: mean over prompts by arm name (the two), of the pairs that count.
        paired: the comparison; None where no pair counts.
        left_out: pairs of takes in which one side has no value; of drift, those that share no frame of a window.
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
