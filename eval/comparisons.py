"""Comparison of one arm with another on one outcome."""

from __future__ import annotations

from dataclasses import dataclass

from eval.statistics import Paired


@dataclass(frozen=True)
class Comparison:
    """One arm compared with another, on one outcome, in one scenario.

    Attributes:
        scenario, outcome, label, horizon_s, arm, baseline: what is compared.
        means: mean over prompts for each of the two arms, by name, over pairs that count.
        paired: the comparison; None if no pair counts.
        left_out: number of pairs in which a take has no value; for drift, pairs that share no frame of a window.
        confirmatory: whether it is one of the tests fixed in advance.
        p_holm: p adjusted by Holm over the confirmatory tests; None for others.
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
