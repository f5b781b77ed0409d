"""From measures to verdicts, by hand: what is subtracted from what, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from eval import results as module
from eval.comparisons import Comparison
from eval.drift import Drift
from eval.guardrails import Guarded
from eval.measures import Curves, Measures, PerFrame
from eval.outcomes import Outcome
from eval.plan import Arm, Cell, Contrast
from eval.results import (
    compare_all,
    differences,
    mixed_conditions,
    noise_floor,
    same_noise,
    summarise,
    verdict,
)
from eval.scenarios import Story
from eval.statistics import LEVEL, Paired, detectable_effect, share_interval
from eval.takes import on_common_frames
from longlive_rag.takes.record import read_record

SAMPLE = read_record(Path(__file__).parents[1] / "takes" / "samples" / "cue")
RUN = SAMPLE.model_dump(mode="json")["run"]
NATIVE, MEMORY, OTHER = Arm("native"), Arm("memory"), Arm("other")
ARMS = (NATIVE, MEMORY, OTHER)
DRIFT = Outcome("drift.eye@10", "drift by eye", True, 10.0, lambda measures: measures.drift["eye"][0].value)
CLIP = Outcome("drift.clip@10", "drift by clip", True, 10.0, lambda measures: 0.5)
MOTION = Outcome("motion@10", "motion", False, 10.0, lambda measures: measures.companions[0]["motion"])
KEPT = Outcome("traits_kept@10", "traits kept", False, 10.0, lambda measures: measures.companions[0]["kept"], True)
FRAMES = np.arange(10.0)


def stories(count: int, scenario: str = "plain") -> tuple[Story, ...]:
    return tuple(Story(f"{scenario}-{number}", scenario, f"a fox {number}") for number in range(count))


def measures(cosines: list[float | None] | None = None, drift: float | None = 0.0, **companions: float) -> Measures:
    """One frame a second for 10 s."""
    kept = Drift(10.0, drift, 0.9, 0.8, 1.0, 0.5)
    frames = PerFrame(FRAMES.tolist(), {"eye": cosines or [1.0] * 10})
    return Measures.model_construct(
        origin_s=0.0, horizons_s=(10.0,), drift={"eye": [kept]}, per_frame=frames, companions=[companions],
        embedders={"eye": {"weights": 1}}, curves=Curves([], {}, [], [], [], []),
    )  # fmt: skip


@dataclass
class Takes:
    """What a run holds, without its files."""

    by_name: dict[str, Measures]
    told: tuple[Story, ...]
    seeds: int = 1
    outcomes: tuple[Outcome, ...] = (DRIFT,)
    arms: tuple[Arm, ...] = (NATIVE, MEMORY)
    contrasts: tuple[Contrast, ...] = (Contrast("memory", "native", True),)

    def __post_init__(self) -> None:
        cells = tuple(Cell(arm, story, n) for story in self.told for n in range(self.seeds) for arm in self.arms)
        self.plan = SimpleNamespace(
            arms=self.arms, stories=self.told, seeds=self.seeds, cells=cells, all_contrasts=self.contrasts,
            scenarios=tuple(dict.fromkeys(story.scenario for story in self.told)), exploratory=False, tests=2,
            horizons_s=(10.0,),
        )  # fmt: skip
        self.figures = {
            cell.name: SimpleNamespace(
                noise=SimpleNamespace(sha256=f"{cell.story.id}-{cell.seed}"), run=RUN, versions=SAMPLE.versions,
                request={"prompt": cell.story.prompt}, shown=[None], measures=self.by_name[cell.name],
            )
            for cell in cells
        }  # fmt: skip

    def measures(self, cell: Cell) -> Measures:
        return self.by_name[cell.name]

    def of(self, arm: str, story: str, seed: int) -> Measures:
        return self.by_name[f"{arm}/{story}-seed{seed}"]

    def pair(self, arm: str, against: str, story: str, seed: int) -> tuple[Measures, Measures]:
        return on_common_frames(self.of(arm, story, seed), self.of(against, story, seed))


def takes_of(drifts: dict[str, list[list[float | None]]], told: tuple[Story, ...], **settings) -> Takes:
    """By arm: for each story, its drift by seed; motion is ten times drift."""
    found = {}
    for arm, rows in drifts.items():
        for story, row in zip(told, rows, strict=True):
            for seed, value in enumerate(row):
                more = {"motion": 10 * (value or 0), "kept": float((value or 0) > 0.5)}
                found[f"{arm}/{story.id}-seed{seed}"] = measures(drift=value, **more)
    arms = tuple(arm for arm in ARMS if arm.name in drifts)
    return Takes(found, told, seeds=len(next(iter(drifts.values()))[0]), arms=arms, **settings)


# ---- frames of both ----


def test_a_frame_that_one_take_does_not_show_counts_in_neither():
    """Seconds 1 to 4 and 5 to 9; each take has its own hole in either."""
    arm = measures([1, 0.9, None, 0.6, 0.5, 0.4, 0.3, None, 0.2, 0.1], drift=7.0)
    base = measures([1, 0.8, 0.1, 0.7, None, 0.6, None, 0.1, 0.5, 0.4], drift=8.0)
    first, second = on_common_frames(arm, base)
    assert first.drift["eye"][0] == Drift(10.0, *map(pytest.approx, (0.75 - 0.7 / 3, 0.75, 0.7 / 3)), 1.0, 0.5)
    assert second.drift["eye"][0] == Drift(10.0, *map(pytest.approx, (0.25, 0.75, 0.5)), 1.0, 0.5)
    assert arm.drift["eye"][0].value == 7.0


def test_where_all_frames_show_the_subject_nothing_changes():
    first, second = on_common_frames(measures(drift=7.0), measures(drift=8.0))
    assert (first.drift["eye"][0].value, second.drift["eye"][0].value) == (7.0, 8.0)


# ---- differences ----


def test_differences_are_arm_minus_baseline_by_story_over_seeds():
    told = (*stories(3), *stories(1, "walk"))
    drifts = {
        "memory": [[0.1, 0.2, 0.9], [0.4, None, 0.2], [None, 0.3, 0.1], [5.0] * 3],
        "native": [[0.3, 0.1, 0.2], [0.1, 0.9, 0.1], [0.2, None, None], [9.0] * 3],
    }
    found, rest = differences(takes_of(drifts, told), DRIFT, "plain", "memory", "native")
    assert found == pytest.approx({"plain-0": 0.4 - 0.2, "plain-1": 0.3 - 0.1})
    assert rest["means"] == pytest.approx({"memory": (0.4 + 0.3) / 2, "native": (0.2 + 0.1) / 2})
    assert rest["left_out"] == 4


def test_means_are_over_stories():
    told = stories(3)
    drifts = {"memory": [[0.1], [0.2], [0.9]], "native": [[0.0], [0.3], [0.9]]}
    _, rest = differences(takes_of(drifts, told), DRIFT, "plain", "memory", "native")
    assert rest["means"] == pytest.approx({"memory": 0.4, "native": 0.4})


def some_takes(**settings) -> Takes:
    told = stories(8)
    rng = np.random.default_rng(5)
    drifts = {name: rng.uniform(0, 1, (8, 2)).tolist() for name in ("native", "memory", "other")}
    drifts["memory"] = (np.array(drifts["native"]) - rng.uniform(0.1, 0.2, (8, 2))).tolist()
    contrasts = (Contrast("memory", "native", True), Contrast("other", "native"), Contrast("memory", "other", True))
    return takes_of(drifts, told, outcomes=(DRIFT, CLIP, MOTION, KEPT), contrasts=contrasts, **settings)


def test_all_contrasts_on_all_outcomes():
    """Only drift by the primary embedder is confirmatory; Holm goes over those, and over nothing else."""
    takes = some_takes()
    found = {(c.outcome, c.arm, c.baseline): c for c in compare_all(takes)}
    assert len(found) == 4 * 3
    claimed = [key for key, c in found.items() if c.confirmatory]
    assert claimed == [("drift.eye@10", "memory", "native"), ("drift.eye@10", "memory", "other")]
    p_values = sorted(found[key].paired.p for key in claimed)
    assert sorted(found[key].p_holm for key in claimed) == [2 * p_values[0], max(2 * p_values[0], p_values[1])]
    assert all(c.p_holm is None for key, c in found.items() if key not in claimed)
    drift, motion = found["drift.eye@10", "memory", "native"], found["motion@10", "memory", "native"]
    assert drift.paired.win_rate == 1.0
    assert motion.paired.win_rate == 0.0  # less of it is worse
    kept = found["traits_kept@10", "memory", "native"].paired
    by_story, _ = differences(takes, KEPT, "plain", "memory", "native")
    assert (kept.low, kept.high) == share_interval(list(by_story.values()), 2)


def test_a_contrast_without_a_pair_is_no_test():
    told = stories(2)
    takes = takes_of({"memory": [[None], [None]], "native": [[0.1], [0.2]]}, told)
    (found,) = compare_all(takes)
    assert (found.paired, found.p_holm, found.left_out, found.means) == (None, None, 2, {})


# ---- noise ----


def test_the_noise_floor_is_seed_0_minus_seed_1():
    told = (*stories(7), *stories(1, "walk"))
    native = [[0.5, 0.1], [0.1, 0.2], [0.0, 0.9], [0.4, 0.4], [0.3, 0.1], [None, 0.3], [0.2, 0.1], [1.0, 0.7]]
    takes = takes_of({"native": native, "memory": [[5.0, 0.0]] * 8}, told)
    plain, walk = noise_floor(takes)
    apart = [0.4, -0.1, -0.9, 0.0, 0.2, 0.1]
    assert (plain.scenario, plain.outcome, plain.prompts) == ("plain", "drift.eye@10", 6)
    assert plain.mean == pytest.approx(np.mean(apart))
    assert plain.mean_absolute == pytest.approx(np.mean(np.abs(apart)))
    by_t = ttest_1samp(apart, 0).confidence_interval(0.95)
    assert plain.low <= by_t.low + 1e-9
    assert plain.high >= by_t.high - 1e-9
    assert (walk.scenario, walk.prompts, walk.mean) == ("walk", 1, pytest.approx(0.3))


def test_the_noise_floor_is_read_from_frames_of_both_seeds():
    takes = takes_of({"native": [[7.0, 8.0]], "memory": [[0.0, 0.0]]}, stories(1))
    cosines = [1, 0.9, 0.9, 0.9, 0.9, 0.5, 0.5, 0.5, 0.5, 0.1]
    takes.by_name["native/plain-0-seed0"] = measures(cosines, drift=7.0)
    takes.by_name["native/plain-0-seed1"] = measures([*[1.0] * 9, None], drift=8.0)
    (floor,) = noise_floor(takes)
    assert floor.mean == pytest.approx((0.9 - 0.5) - 0.0)


def test_shares_have_their_interval_in_the_noise_floor():
    """Each pair is of single takes."""
    native = [[0.9, 0.1], [0.1, 0.2], [0.0, 0.9], [0.9, 0.4], [0.3, 0.1], [0.9, 0.3], [0.2, 0.1]]
    takes = takes_of({"native": native, "memory": native}, stories(7), outcomes=(KEPT,))
    (floor,) = noise_floor(takes)
    assert (floor.low, floor.high) == share_interval(np.array([1.0, 0, -1, 1, 0, 1, 0]), 1)


def test_one_seed_has_no_noise_floor():
    assert noise_floor(takes_of({"native": [[0.1]], "memory": [[0.1]]}, stories(1))) == []


def test_takes_of_other_noise_are_named():
    takes = some_takes()
    assert same_noise(takes) == {"memory": [], "other": []}
    takes.figures["other/plain-3-seed1"].noise.sha256 = "another"
    assert same_noise(takes) == {"memory": [], "other": ["other/plain-3-seed1"]}
    takes.figures["native/plain-2-seed0"].noise.sha256 = "another"
    assert same_noise(takes)["memory"] == ["memory/plain-2-seed0"]


# ---- what is said ----


def confirmatory(mean=-0.2, low=-0.3, high=-0.1, p_holm=0.01, left_out=0) -> Comparison:
    paired = Paired(8, mean, low, high, 0.005, 1.0, mean, 0.1)
    return Comparison(
        "plain", "drift.eye@10", "drift by eye", True, 10.0, "memory", "native", {}, paired, left_out, True, p_holm
    )


NOT_SHOWN = "no difference was shown between memory and native ({})."
SEEN = "drift by eye: mean paired difference {}, 95 % interval {} to {}, 8 prompts; p = {} after Holm"


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ((-0.2, -0.3, -0.1, 0.01), "memory drifts less than native ({})."),
        ((0.2, 0.1, 0.3, 0.01), "memory drifts MORE than native ({})."),
        ((-0.2, -0.3, -0.1, LEVEL), "memory drifts less than native ({})."),
        ((-0.2, -0.3, -0.1, 0.051), NOT_SHOWN.format("{}, which does not bear out the interval")),
        ((-0.2, -0.4, 0.1, 0.01), NOT_SHOWN),
        ((-0.2, -0.4, 0.0, 0.01), NOT_SHOWN),
        ((0.2, 0.0, 0.4, 0.01), NOT_SHOWN),
        ((0.2, -0.1, 0.4, 0.2), NOT_SHOWN),
    ],
)  # fmt: skip
def test_verdicts(figures, said):
    mean, low, high, p = figures
    seen = SEEN.format(f"{mean:+.3f}", f"{low:+.3f}", f"{high:+.3f}", f"{p:.2g}")
    assert verdict(confirmatory(*figures)) == f"On plain at 10 s, {said.format(seen)}"


def test_verdicts_that_claim_nothing():
    where = "On plain at 10 s, "
    explored = verdict(confirmatory(), exploratory=True)
    assert explored.startswith(f"{where}memory against native: drift by eye: mean paired difference -0.200, 95 %")
    assert explored.endswith("; nothing is claimed, the comparison is exploratory.")
    few = f"{where}memory against native: mean paired difference -0.200; 8 prompts are too few for an interval."
    for low, high in ((None, None), (None, 0.1), (0.1, None)):
        assert verdict(confirmatory(low=low, high=high)) == few
    none = verdict(replace(confirmatory(), paired=None))
    assert none == f"{where}nothing can be said: no pair of takes has a value for drift by eye."
    assert "-0.200, 3 pairs left out because no frame of a window" in verdict(confirmatory(left_out=3))


def test_a_broken_guardrail_withholds_a_claim_and_nothing_else():
    rail = Guarded("plain", "memory", "motion", 0.05, 0.1234, 0.2, "broken", "native", 10.0)
    said = verdict(confirmatory(), guarded=[rail, replace(rail, arm="other", companion="another")])
    withheld = "memory drifts less than native, but nothing is claimed: it is worse in motion (+0.123, 0.05 allowed) ("
    assert said.startswith(f"On plain at 10 s, {withheld}")
    for other in (replace(rail, state="kept"), replace(rail, horizon_s=20.0)):
        assert verdict(confirmatory(), guarded=[other]) == verdict(confirmatory())
    for figures in ((0.2, 0.1, 0.3), (-0.2, -0.4, 0.1), (-0.2, -0.3, -0.1, 0.06)):
        assert verdict(confirmatory(*figures), guarded=[rail]) == verdict(confirmatory(*figures))


def test_a_claim_names_what_is_unclear():
    """Its mean is within the margin and its interval isn't, so the arm isn't shown to be no worse there."""
    rail = Guarded("plain", "memory", "motion", 0.05, 0.0123, 0.0789, "unclear", "native", 10.0)
    few = replace(rail, companion="exposure", at_most=None)  # of too few prompts for an interval
    rails = [rail, replace(rail, companion="seen", state="kept"), few]
    unclear = "not shown to be no worse in motion (up to +0.0789, 0.05 allowed), exposure (no interval, 0.05 allowed)"
    assert verdict(confirmatory(), guarded=rails) == verdict(confirmatory()).replace(").", f"; {unclear}).")
    for figures in ((0.2, 0.1, 0.3), (-0.2, -0.4, 0.1), (-0.2, -0.3, -0.1, 0.06)):
        assert verdict(confirmatory(*figures), guarded=rails) == verdict(confirmatory(*figures))


def test_conditions_that_are_not_the_same_are_counted():
    takes = some_takes()
    assert mixed_conditions(takes) == {}
    names = [cell.name for cell in takes.plan.cells]
    takes.figures[names[3]].run = {**RUN, "load_seconds": 9.0, "device": "cuda"}
    takes.figures[names[5]].versions = {**SAMPLE.versions, "torch": "3"}
    takes.by_name[names[6]].embedders["eye"] = {"weights": 2}
    for name, order in ((names[7], 1), (names[8], -1)):  # the same, whatever the order
        takes.by_name[name].embedders["other"] = dict(list({"a": 1, "b": 2}.items())[::order])
    count = len(names)
    assert mixed_conditions(takes) == {
        "run.device": {'"cpu"': count - 1, '"cuda"': 1},
        "versions.torch": {f'"{SAMPLE.versions["torch"]}"': count - 1, '"3"': 1},
        "embedders.eye": {'{"weights": 1}': count - 1, '{"weights": 2}': 1},
    }


def test_a_summary_has_a_verdict_for_each_test_the_longest_horizon_first(monkeypatch):
    monkeypatch.setattr(module, "what_was_recalled", lambda plan, shown: [])
    takes = some_takes()
    takes.told = (*takes.told, *stories(1, "walk"))
    takes.plan.stories, takes.plan.scenarios = takes.told, ("plain", "walk")
    monkeypatch.setattr(module, "noise_floor", lambda takes: [])
    monkeypatch.setattr(module, "same_noise", lambda takes: {})
    rows = [confirmatory(), replace(confirmatory(), horizon_s=20.0), replace(confirmatory(), scenario="walk")]
    rows.append(replace(confirmatory(), confirmatory=False, horizon_s=30.0))
    names = [cell.name for cell in takes.plan.cells]
    takes.figures[names[1]].run = {**RUN, "device": "cuda"}
    takes.by_name[names[1]].embedders["eye"] = {"weights": 2}
    found = summarise(takes, [rows[2], *rows[:2], rows[3]])
    assert found.verdicts == [verdict(rows[1]), verdict(rows[0]), verdict(rows[2])]
    assert found.prompts == {"plain": 8, "walk": 1}
    assert found.detectable_effect == {"plain": detectable_effect(8, 2), "walk": detectable_effect(1, 2)}
    assert found.takes == len(takes.plan.cells)
    assert (
        found.conditions["run"]["device"] == SAMPLE.run.device
    )  # of the first take, as what is on record of embedders
    assert found.embedders == {"eye": {"weights": 1}}
