"""Results of a comparison as Markdown tables, for `eval recompute` and docs/drift.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from eval.comparisons import Comparison
from eval.guardrails import GUARDRAILS, Guarded
from eval.plan import Plan
from eval.results import Results
from eval.retrieval_controls import BY_ORACLE

KEPT, KNOWN = "traits_kept", "known_traits_kept"
CHOOSING = ("retrieve", "encode")
"""Stages of a block that belong to the policy: embedding, gate and search."""
NOT_MADE = "-"
"""In a table of several stories, for an arm without takes of one of them."""
BESIDE = {
    "opening.{primary}": "likeness, opening",
    "last.{primary}": "likeness, last 5 s",
    "seen.{primary}": "seen in the last 5 s",
    "as_named": "shape and colour as named",
    "place_as_named": "place as named",
    "characters": "characters",
    "more_than_named": "more than named",
    "motion": "motion",
    "last_motion": "motion, last 5 s",
    "moving": "visible motion",
    "subject_moving": "the subject's motion",
    "repetition": "repetition",
}


class Found:
    """The results of one scenario, looked up by what was compared.

    Args:
        plan: the plan.
        results: its results.
        scenario: one of the plan's scenarios.
    """

    def __init__(self, plan: Plan, results: Results, scenario: str) -> None:
        self.plan, self.results, self.scenario = plan, results, scenario
        self.primary = next(iter(results.embedders))
        self.baseline, self.claimed, *self.others = (arm.name for arm in plan.arms)
        self._by_name = {
            (c.outcome, c.arm, c.baseline): c for c in results.comparisons if c.scenario == scenario and c.paired
        }

    def get(self, outcome: str, horizon_s: float, arm: str, against: str | None = None) -> Comparison | None:
        """Look up a comparison; None if it was not made."""
        name = f"{outcome.replace('{primary}', self.primary)}@{horizon_s:g}"
        return self._by_name.get((name, arm, against or self.baseline))

    def mean(self, outcome: str, horizon_s: float, arm: str) -> float | None:
        """An arm's mean over its pairs with the baseline; for the baseline, over its pairs with the claimed arm."""
        found = self.get(outcome, horizon_s, self.claimed if arm == self.baseline else arm)
        return None if found is None else found.means[arm]

    def whole_of(self, guarded: Guarded) -> float | None:
        """The other arm's value, of which a guardrail's margin is a share; None if it is in the outcome's own unit."""
        horizon_s, arm, against = guarded.horizon_s or self.plan.seconds, guarded.arm, guarded.against
        for rail in GUARDRAILS:
            rest = self.get(rail.outcome, horizon_s, arm, against)
            if rest is not None and rest.label == guarded.companion and rail.share_of is not None:
                share = self.get(rail.share_of, horizon_s, arm, against)
                return None if share is None else abs(share.means[share.baseline])
        return None


def kept_table(found: Found) -> str:
    """Share of takes that kept all traits, by arm and horizon, with differences to the baseline in points."""
    return _by_horizon(found, KEPT, _points, _percent)


def known_kept_table(found: Found) -> str:
    """As `kept_table`, for traits shown in the opening: a character never seen there is left out rather than lost."""
    return _by_horizon(found, KNOWN, _points, _percent)


def drift_table(found: Found) -> str:
    """D by arm and horizon, with differences to the baseline."""
    return _by_horizon(found, "drift.{primary}", _difference, lambda value: f"{value:.3f}")


def contrasts_table(found: Found) -> str:
    """The claimed arm compared with each of the others: kept traits and D."""
    rows = []
    for other in (found.baseline, *found.others):
        cells = []
        for horizon_s in found.plan.horizons_s:
            kept = found.get(KEPT, horizon_s, found.claimed, other)
            drift = found.get("drift.{primary}", horizon_s, found.claimed, other)
            cells += [_points(kept) if kept else "", _difference(drift) if drift else ""]
        rows.append([f"{found.claimed} - {other}", *cells])
    heads = [f"{what}, {horizon_s:g} s" for horizon_s in found.plan.horizons_s for what in ("kept", "D")]
    return _markdown(["", *heads], rows)


def beside_table(found: Found) -> str:
    """Companions of D at the longest horizon, by arm."""
    horizon_s = found.plan.seconds
    names = [name for name in BESIDE if found.mean(name, horizon_s, found.claimed) is not None]
    rows = []
    for arm in (found.baseline, found.claimed, *found.others):
        values = [found.mean(name, horizon_s, arm) for name in names]
        rows.append([arm, *("" if value is None else f"{value:.3g}" for value in values)])
    return _markdown(["arm", *(BESIDE[name] for name in names)], rows)


def broken_table(found: Found) -> str:
    """Guardrails broken against the baseline, at any horizon; shares are in per cent of the baseline's value."""
    rows = []
    for g in found.results.guardrails:
        if g.scenario != found.scenario or g.state != "broken" or g.against != found.baseline or g.horizon_s is None:
            continue
        whole = found.whole_of(g)
        scale, unit = (1.0, "") if whole is None else (100 / whole, " %")
        rows.append(
            [
                g.companion,
                g.arm,
                f"{g.horizon_s:g} s",
                *(f"{scale * each:.3g}{unit}" for each in (g.worse_by, g.margin)),
            ]
        )
    return _markdown(["guardrail broken", "arm", "at", "worse by", "allowed"], rows or [["none", "", "", "", ""]])


def recalled_table(found: Found) -> str:
    """What memory brought back from the last cue before each horizon on; in brackets, the whole past."""
    rows = [
        [
            row.arm, f"{row.horizon_s:g} s", _maybe(row.seen_at_cue, _percent),
            f"{_percent(row.seen)} ({_percent(row.seen_by_chance)})",
            f"{_maybe(row.likeness, '{:.3f}'.format)} ({_maybe(row.likeness_by_chance, '{:.3f}'.format)})",
        ]
        for row in found.results.recalled
        if row.scenario == found.scenario
    ]  # fmt: skip
    return _markdown(["arm", "at", "show the subject at the cue", "until the horizon", "likeness"], rows)


def policies_table(found: Found, stages: Mapping[str, Mapping[str, float]]) -> str:
    """Every arm on the scale from native to the ceiling, at the longest horizon.

    Args:
        stages: seconds per block by stage, by arm.
    """
    horizon_s = found.plan.seconds
    here = (found.scenario, horizon_s)
    recalled = {row.arm: row for row in found.results.recalled if (row.scenario, row.horizon_s) == here}
    rows = []
    for arm in (found.baseline, found.claimed, *found.others):
        kept, drift = (found.mean(name, horizon_s, arm) for name in (KEPT, "drift.{primary}"))
        motion, own = (found.mean("motion", horizon_s, each) for each in (found.baseline, arm))
        way = None if arm == found.baseline else way_to_ceiling(found, arm)
        right = found.mean("right_one", horizon_s, arm)
        row = recalled.get(arm)
        rows.append(
            [
                arm, _maybe(kept, _percent), _maybe(way, _percent),
                _maybe(drift, "{:.3f}".format), _maybe(right, _percent),
                "-" if row is None else f"{_percent(row.seen)} ({_percent(row.seen_by_chance)})",
                "-" if not motion or own is None else f"{own / motion - 1:+.0%}".replace("%", " %"),
                f"{1000 * sum(stages.get(arm, {}).get(stage, 0.0) for stage in CHOOSING):.1f}",
            ]
        )  # fmt: skip
    head = ["arm", "all traits kept", "of the way to the ceiling", "D", "right one", "frames show the subject (past)",
            "motion", "ms a block to choose"]  # fmt: skip
    return _markdown(head, rows)


def way_to_ceiling(found: Found, arm: str) -> float | None:
    """How far an arm's share of kept takes is on the way from the baseline's to that with right frames, at the end.

    None if an arm is missing, or right frames keep no more than the baseline does.
    """
    own, native, ceiling = (found.mean(KEPT, found.plan.seconds, each) for each in (arm, found.baseline, BY_ORACLE))
    if own is None or native is None or ceiling is None or ceiling <= native:
        return None
    return (own - native) / (ceiling - native)


def floor_table(found: Found) -> str:
    """The baseline compared with itself, seed 0 minus seed 1: D, and kept traits in points; mean size in brackets."""
    floors = {f.outcome: f for f in found.results.noise_floor if f.scenario == found.scenario}
    rows = []
    for outcome, label in ((f"drift.{found.primary}", "D"), (KEPT, "kept")):
        cells = []
        for horizon_s in found.plan.horizons_s:
            floor = floors.get(f"{outcome}@{horizon_s:g}")
            scale, digits = (100, 0) if outcome == KEPT else (1, 3)
            mean, size = (0.0, 0.0) if floor is None else (scale * floor.mean, scale * floor.mean_absolute)
            cells.append("" if floor is None else f"{mean:+.{digits}f} ({size:.{digits}f})")
        rows.append([label, *cells])
    return _markdown(["seed 0 - seed 1", *(f"{horizon_s:g} s" for horizon_s in found.plan.horizons_s)], rows)


TABLES: Mapping[str, Callable[[Found], str]] = {
    "kept": kept_table, "drift": drift_table, "contrasts": contrasts_table, "beside": beside_table,
    "broken": broken_table, "recalled": recalled_table, "known": known_kept_table, "floor": floor_table,
}  # fmt: skip


def verdicts(found: Found) -> str:
    """The scenario's verdicts, one per line."""
    return "".join(f"- {each}\n" for each in found.results.verdicts if each.startswith(f"On {found.scenario} at "))


def summary_table(all_found: Sequence[Found], arms: Sequence[str] = ()) -> str:
    """All traits kept and D of several stories at their longest horizon, by arm; a dash for one that has none.

    Args:
        arms: the arms to show; none is all.
    """
    arms = arms or list(dict.fromkeys(arm.name for found in all_found for arm in found.plan.arms))
    rows = [[found.scenario, *_shares(found, arms), *_drifts(found, arms)] for found in all_found]
    return _markdown(["story", *(f"{what}, {arm}" for what in ("kept", "D") for arm in arms)], rows)


def ceiling_table(all_found: Sequence[Found]) -> str:
    """As `summary_table`, of the baseline, the claimed arm and right frames, with how far the second is on the way."""
    rows = []
    for found in all_found:
        arms = (found.baseline, found.claimed, BY_ORACLE)
        way = _maybe(way_to_ceiling(found, found.claimed), _percent)
        rows.append([found.scenario, *_shares(found, arms), way, *_drifts(found, arms)])
    names = (all_found[0].baseline, all_found[0].claimed, "right frames")
    kept, drift = ([f"{what}, {name}" for name in names] for what in ("kept", "D"))
    return _markdown(["story", *kept, f"{names[1]}, of the way", *drift], rows)


def _shares(found: Found, arms: Sequence[str]) -> list[str]:
    return [_maybe(found.mean(KEPT, found.plan.seconds, arm), _percent) for arm in arms]


def _drifts(found: Found, arms: Sequence[str]) -> list[str]:
    return [_maybe(found.mean("drift.{primary}", found.plan.seconds, arm), "{:.3f}".format) for arm in arms]


def arm_rows(found: Found, outcome: str, digits: int) -> list[list[str]]:
    """One row per arm: name, and at each horizon the mean and the difference to the baseline with its interval."""
    return _arm_rows(found, outcome, lambda c: _difference(c, digits=digits), lambda value: f"{value:.{digits}f}")


def protocol_table(horizons_s: Sequence[float], rows: Sequence[Sequence[str]]) -> str:
    """Table of a paper's protocol: measure, backbone and arm, with figures at each horizon."""
    return _markdown(["measure", "backbone", "arm", *(f"{horizon_s:.4g} s" for horizon_s in horizons_s)], rows)


def _by_horizon(
    found: Found, outcome: str, difference: Callable[[Comparison], str], value: Callable[[float], str]
) -> str:
    head = ["arm", *(f"{horizon_s:g} s" for horizon_s in found.plan.horizons_s)]
    return _markdown(head, _arm_rows(found, outcome, difference, value))


def _arm_rows(
    found: Found, outcome: str, difference: Callable[[Comparison], str], value: Callable[[float], str]
) -> list[list[str]]:
    rows = []
    for arm in (found.baseline, found.claimed, *found.others):
        cells = []
        for horizon_s in found.plan.horizons_s:
            mean = found.mean(outcome, horizon_s, arm)
            compared = None if arm == found.baseline else found.get(outcome, horizon_s, arm)
            parts = ["" if mean is None else value(mean), difference(compared) if compared else ""]
            cells.append(", ".join(part for part in parts if part))
        rows.append([arm, *cells])
    return rows


def _maybe(value: float | None, text: Callable[[float], str]) -> str:
    return NOT_MADE if value is None else text(value)


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _points(c: Comparison) -> str:
    """Format a difference of shares in percentage points, with its interval."""
    return _difference(c, scale=100, digits=0)


def _difference(c: Comparison, scale: float = 1, digits: int = 3) -> str:
    assert c.paired is not None
    mean, low, high = c.paired.mean, c.paired.low, c.paired.high
    ends = "" if low is None or high is None else f" ({scale * low:+.{digits}f} to {scale * high:+.{digits}f})"
    return f"{scale * mean:+.{digits}f}{ends}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
