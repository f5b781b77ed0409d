"""Outcomes that an arm must not worsen while it drifts less, so that a degraded or different video can't win.

Every contrast is checked at every horizon. A broken guardrail withholds the claim, and the verdict says so. One that is
unclear doesn't, but the verdict names it: there the arm isn't shown to be no worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval.comparisons import Comparison

State = Literal["kept", "broken", "unclear"]
PRIMARY = "{primary}"


@dataclass(frozen=True)
class Guardrail:
    """An outcome that an arm may not worsen by more than a margin.

    Attributes:
        outcome: name of the outcome, without the horizon; `{primary}` stands for the primary embedder.
        margin: how much worse is still allowed.
        share_of: the margin is a share of this outcome's mean in the other arm; None: it is in the outcome's unit.
    """

    outcome: str
    margin: float
    share_of: str | None = None


GUARDRAILS = (
    Guardrail("seen.{primary}", 0.05),
    Guardrail("opening.{primary}", 0.05),
    Guardrail("last.{primary}", 0.0),
    Guardrail("as_named", 0.05),
    Guardrail("place_as_named", 0.05),
    Guardrail("characters", 0.5),
    Guardrail("more_than_named", 0.05),
    Guardrail("motion", 0.05, "motion"),
    Guardrail("last_motion", 0.20, "last_motion"),
    Guardrail("moving", 0.20, "moving"),
    Guardrail("last_moving", 0.25, "last_moving"),
    Guardrail("subject_moving", 0.20, "subject_moving"),
    Guardrail("last_subject_moving", 0.25, "last_subject_moving"),
    Guardrail("sharpness", 0.10, "sharpness"),
    Guardrail("sharpness_drift", 0.10, "sharpness"),
    Guardrail("exposure_drift", 0.02),
    Guardrail("saturation_drift", 0.02),
    Guardrail("repetition", 0.05),
    Guardrail("last_repetition", 0.10),
    Guardrail("adherence", 0.01),
)


@dataclass(frozen=True)
class Guarded:
    """A guardrail in one contrast.

    Attributes:
        against: the other arm; None in old reports, where it is always the baseline.
        horizon_s: horizon at which it was checked; None in old reports, which only checked the longest.
        margin: how much worse is still allowed.
        worse_by: mean paired difference; positive is worse.
        at_most: the worse end of its interval; None if it has none.
        state: `broken`: the mean is beyond the margin; `kept`: the interval is within; `unclear`: neither.
    """

    scenario: str
    arm: str
    companion: str
    margin: float
    worse_by: float
    at_most: float | None
    state: State
    against: str | None = None
    horizon_s: float | None = None


def guardrails(comparisons: Sequence[Comparison], primary: str) -> list[Guarded]:
    """Check all guardrails of all contrasts, at all horizons.

    Args:
        primary: name of the primary embedder.
    """
    known = {(c.scenario, c.arm, c.baseline, c.outcome): c for c in comparisons}
    found: list[Guarded] = []
    for rail in GUARDRAILS:
        name = rail.outcome.replace(PRIMARY, primary)
        for c in comparisons:
            at = f"@{c.horizon_s:g}"
            if c.outcome != f"{name}{at}" or c.paired is None:
                continue
            whole = 1.0
            if rail.share_of is not None:
                whole = abs(known[c.scenario, c.arm, c.baseline, f"{rail.share_of}{at}"].means[c.baseline])
            found.append(_guarded(c, rail.margin * whole))
    return found


def _guarded(c: Comparison, margin: float) -> Guarded:
    assert c.paired is not None
    sign = 1 if c.lower_is_better else -1
    worse = sign * c.paired.mean
    ends = [end for end in (c.paired.low, c.paired.high) if end is not None]
    worst = max((sign * end for end in ends), default=None)
    state: State = "broken" if worse > margin else "kept" if worst is not None and worst <= margin else "unclear"
    return Guarded(c.scenario, c.arm, c.label, margin, worse, worst, state, c.baseline, c.horizon_s)


def in_state(state: State, c: Comparison, guarded: Sequence[Guarded]) -> list[Guarded]:
    """The guardrails of a comparison's contrast and horizon that are in a state."""
    where = (c.scenario, c.arm, c.baseline, c.horizon_s)
    return [g for g in guarded if g.state == state and (g.scenario, g.arm, g.against, g.horizon_s) == where]
