"""A comparison from plan to report: known drift, same noise, resumed, never partial."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from backbone.errors import FieldError
from eval.compare import Engine, compare
from eval.drift import Drift
from eval.export import export_for_vbench, vbench_name
from eval.figures import endings, frame_before, frames_at
from eval.guardrails import guardrails
from eval.making import Maker, batches
from eval.measures import Measures, PerFrame
from eval.plan import ARMS, PLAN, Arm, Contrast, check_run, read_plan, read_plan_to_repeat
from eval.report import write_report
from eval.results import compare_all, noise_floor, summarise, verdict
from eval.runs import is_finished, take_folder
from eval.scenarios import Story
from eval.takes import Takes, on_common_frames
from longlive_rag.documents import read_json
from longlive_rag.presets.preset import INDEX, load_preset
from longlive_rag.sessions.making import TakeFailed, TakeStopped
from retrieval.files import write_json
from tests.eval.arms import PROMPTS, DriftingPipeline, plan_of, slow_backbone


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    return slow_backbone(tmp_path_factory.mktemp("backbones") / "slow")


@pytest.fixture(scope="module")
def finished(backbone, tmp_path_factory):
    """(run, plan, results, pipeline) of a whole comparison."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    plan, pipe = plan_of(backbone, prompts=8), DriftingPipeline()
    return run, plan, compare(plan, run, pipe=pipe), pipe


def test_memory_that_helps_is_seen_to_help(finished):
    _, plan, results, _ = finished
    confirmatory = [c for c in results.comparisons if c.confirmatory]
    assert [c.horizon_s for c in confirmatory] == [10.0, 20.0]
    last = confirmatory[-1]
    assert last.means["memory"] < last.means["native"]
    assert last.paired.high < 0
    assert last.paired.prompts == len(plan.stories)  # not takes: seeds stay inside
    assert last.paired.p == 2 / 256
    assert last.p_holm == 4 / 256
    assert "memory drifts less than native (drift by pixels: " in verdict(last)
    withheld = "memory drifts less than native, but nothing is claimed: it is worse in motion (+0.001"
    assert withheld in results.verdicts[0]  # who changes less moves less, here


def test_the_difference_is_the_mean_over_seeds_then_prompts(finished):
    run, plan, results, _ = finished
    takes = Takes.of_run(run, plan)
    by_prompt = []
    for story in plan.stories:
        d = [
            [takes.of(arm, story.id, seed).drift["pixels"][1].value for seed in (0, 1)] for arm in ("native", "memory")
        ]
        by_prompt.append(np.mean(d[1]) - np.mean(d[0]))
    found = next(c for c in results.comparisons if c.outcome == "drift.pixels@20")
    assert found.paired.mean == pytest.approx(np.mean(by_prompt), abs=1e-12)
    floor = next(f for f in noise_floor(takes) if f.outcome == "drift.pixels@20")
    native = [[takes.of("native", s.id, k).drift["pixels"][1].value for k in (0, 1)] for s in plan.stories]
    assert floor.mean_absolute == pytest.approx(np.mean([abs(a - b) for a, b in native]), abs=1e-12)


def test_the_last_seconds_and_the_first_frame_are_compared_too(finished):
    run, plan, results, _ = finished
    names = {c.outcome for c in results.comparisons}
    assert {f"{name}.pixels@{h}" for name in ("last_consistency", "cosine_to_first") for h in (10, 20)} <= names
    assert [(each.arm, each.embedder) for each in results.first_frames] == [("native", "pixels"), ("memory", "pixels")]
    native = results.first_frames[0]
    assert len(native.seconds) == plan.seconds
    assert None not in native.standard_error
    assert (run / "figures" / "plain-first-frame.png").is_file()
    assert "standard error over prompts" in (run / "report.html").read_text()
    header = (run / "takes.csv").read_text().partition("\n")[0].split(",")
    assert {"last_consistency.pixels@20", "cosine_to_first.pixels@20"} <= set(header)


def test_both_arms_had_the_same_noise_and_seeds_another(finished):
    run, plan, results, _ = finished
    noise = {name: take.noise.sha256 for name, take in Takes.of_run(run, plan).figures.items()}
    assert results.other_noise == {"memory": []}
    assert noise["native/plain-000-seed0"] == noise["memory/plain-000-seed0"] == noise["native/plain-001-seed0"]
    assert noise["native/plain-000-seed0"] != noise["native/plain-000-seed1"]


def test_finished_takes_are_not_made_again(finished, backbone):
    run, plan, results, pipe = finished
    assert len(pipe.made) == 32
    assert compare(plan, run, pipe=DriftingPipeline(fail_after=0, error=AssertionError("made"))) == results
    assert len(list(run.rglob("video.mp4"))) == 32


@pytest.mark.parametrize(
    ("error", "raised"), [(KeyboardInterrupt(), TakeStopped), (OSError("No space left on device"), TakeFailed)]
)
def test_a_run_that_ended_goes_on_and_is_never_reported_in_part(backbone, tmp_path, error, raised):
    run, plan = tmp_path / "run", plan_of(backbone, prompts=3, seeds=1)
    with pytest.raises(raised):
        compare(plan, run, pipe=DriftingPipeline(fail_after=3, error=error))
    assert [is_finished(run, cell) for cell in plan.cells] == [True] * 3 + [False] * 3
    assert not (run / "report.html").exists()
    assert not (run / "results.json").exists()
    with pytest.raises(ValueError, match="3 of 6 takes are not finished"):
        Takes.of_run(run, plan)
    with pytest.raises(ValueError, match="3 of 6 takes are not finished"):
        export_for_vbench(run, tmp_path / "out")
    pipe = DriftingPipeline()
    results = compare(plan, run, pipe=pipe)
    assert len(pipe.made) == 3
    assert results.complete
    whole = compare(plan, tmp_path / "other", pipe=DriftingPipeline())
    assert whole.comparisons == results.comparisons


def test_a_take_that_is_made_but_not_measured_is_measured_only(finished, backbone, tmp_path):
    run, plan = tmp_path / "run", plan_of(backbone, prompts=3, seeds=1)
    compare(plan, run, pipe=DriftingPipeline())
    (run / "takes" / plan.cells[0].name / "measures.json").unlink()
    pipe = DriftingPipeline()
    compare(plan, run, pipe=pipe)
    assert pipe.made == []
    (run / "takes" / plan.cells[1].name / "measures.json").unlink()
    (run / "takes" / plan.cells[1].name / "noise.json").unlink()  # killed before its noise was written down
    compare(plan, run, pipe=pipe)
    assert len(pipe.made) == 1


def test_the_report_is_one_file_with_all_in_it(finished):
    run, plan, results, _ = finished
    page = (run / "report.html").read_text()
    assert results.verdicts[0] in page
    assert not any(word in page for word in ('src="http', "href=", "@import", "url("))
    assert page.count("data:image/png;base64,") >= 7
    recalled = [(row.arm, row.horizon_s, row.takes) for row in results.recalled]
    assert recalled == [("memory", 20.0, 16)]  # until 10 s nothing has left the window
    assert "What memory brought back" in page
    assert "eval compare --plan RUN/plan.json" in page
    names = {path.stem for path in (run / "figures").glob("*.png")}
    assert {"plain-curves", "plain-intervals", "plain-pairs", "plain-strip-best", "plain-strip-worst"} <= names
    assert "plain-endings" in names
    assert "All 8 pairs, the best for memory first" in page
    rows = list(csv.DictReader((run / "takes.csv").open()))
    assert [(row["arm"], row["prompt_id"], int(row["seed"])) for row in rows] == [
        (cell.arm.name, cell.story.id, cell.seed) for cell in plan.cells
    ]
    assert all(row["drift.pixels@20"] and len(row["noise_sha256"]) == 64 for row in rows)
    assert json.loads((run / "results.json").read_text()) == results.model_dump(mode="json")
    assert not list(run.rglob("*.part"))


def test_what_users_wrote_is_text_in_the_report(finished, tmp_path):
    run, plan, *_ = finished
    script = "<script>alert(1)</script>"
    stories = tuple(replace(story, prompt=f"{script}{story.id}", cues=((8.0, script),)) for story in plan.stories)
    write_report(copytree(run, tmp_path / "run"), replace(plan, stories=stories, about={"plain": script}))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 7  # what happens; prompt and cue of three pairs


def test_endings_have_a_column_a_prompt_and_a_row_an_arm():
    def plain(value: int) -> np.ndarray:
        return np.full((20, 20, 3), value, np.uint8)

    rows = {"native": [plain(n) for n in range(18)], "memory": [plain(100 + n) for n in range(18)]}
    sheet = np.asarray(endings(rows, tile_px=10))
    left = sheet.shape[1] - 16 * 13
    shown = [sheet[y, left + 13 * x + 5].tolist() for y in (5, 18) for x in range(16)]
    assert shown == [[n] * 3 for n in (*range(16), *range(100, 116))]
    below = 2 * 13 + 18
    assert [sheet[below + y, left + 13 * x + 5].tolist() for y in (5, 18) for x in (0, 1)] == [
        [n] * 3 for n in (16, 17, 116, 117)
    ]
    assert (sheet[below:, left + 26 :] == 255).all()


def test_a_frame_is_found_without_decoding_all(finished):
    run, plan, *_ = finished
    take = take_folder(run, plan.cells[0])
    seconds = (0.0, 6.0, plan.seconds)
    for second, expected in zip(seconds, frames_at(take, seconds), strict=True):
        assert np.array_equal(frame_before(take, second), expected)


def test_guardrails_break_for_a_frozen_arm(finished):
    run, plan, _, _ = finished
    takes = Takes.of_run(run, plan)
    for cell in plan.cells:
        if cell.arm.name == "memory":
            for companions in takes.measures(cell).companions:
                companions["motion"] *= 0.5
    assert state_of("motion", takes) == ["broken"]


def state_of(companion: str, takes: Takes) -> list[str]:
    """At the longest horizon."""
    rails = guardrails(compare_all(takes), "pixels")
    return [rail.state for rail in rails if rail.companion == companion and rail.horizon_s == takes.plan.seconds]


def test_guardrails_see_a_freeze_of_the_last_seconds_and_a_blur_that_comes(finished):
    run, plan, _, _ = finished
    takes = Takes.of_run(run, plan)
    motion = state_of("motion", takes)
    assert state_of("motion in the last 5 s", takes) == state_of("imaging drift (sharpness)", takes) == ["kept"]
    for cell in plan.cells:
        if cell.arm.name == "memory":
            for companions in takes.measures(cell).companions:
                companions["last_motion"] *= 0.5
                companions["sharpness_drift"] += 0.2 * companions["sharpness"]
    assert state_of("motion", takes) == motion
    assert state_of("motion in the last 5 s", takes) == state_of("imaging drift (sharpness)", takes) == ["broken"]


def test_no_difference_is_said_plainly(backbone, tmp_path):
    results = compare(plan_of(backbone, prompts=8, seeds=1), tmp_path / "run", pipe=DriftingPipeline(kept=0.0))
    assert "no difference was shown between memory and native" in results.verdicts[0]


def test_harm_is_said_plainly(backbone, tmp_path):
    plan = plan_of(backbone, arms="memory,native", prompts=8, seeds=1)
    results = compare(plan, tmp_path / "run", pipe=DriftingPipeline())
    assert "native drifts MORE than memory" in results.verdicts[0]


def test_few_prompts_claim_nothing(backbone, tmp_path):
    """The difference is large and of one sign, but five prompts can't show it: sign flips reach 1/16 at best."""
    with pytest.raises(FieldError, match=r"5 for scenario plain, too few to support any claim.*give 7 or more"):
        compare(plan_of(backbone, prompts=5, seeds=1, exploratory=False), tmp_path / "five", pipe=DriftingPipeline())
    assert not (tmp_path / "five").exists()
    few = compare(plan_of(backbone, prompts=5, seeds=1), tmp_path / "five", pipe=DriftingPipeline())
    assert "5 prompts are too few for an interval" in few.verdicts[0]
    again = plan_of(backbone, prompts=7, seeds=1, exploratory=True)
    explored = compare(again, tmp_path / "seven", pipe=DriftingPipeline())
    assert "nothing is claimed, the comparison is exploratory" in explored.verdicts[0]
    with pytest.raises(ValueError, match=r"another comparison \(exploratory differ\)"):
        compare(replace(again, exploratory=False), tmp_path / "seven", pipe=DriftingPipeline())
    plan = plan_of(backbone, prompts=6, seeds=1, horizons_s=(10.0, 20.0), exploratory=True)
    six = compare(plan, tmp_path / "six", pipe=DriftingPipeline())
    found = [c for c in six.comparisons if c.confirmatory][-1]
    assert found.paired.high < 0
    assert found.p_holm == 4 / 64  # of two horizons
    assert "no difference was shown" in verdict(found)
    assert "p = 0.062 after Holm, which does not bear out the interval" in verdict(found)


def test_any_arm_is_held_against_any_other(backbone, tmp_path):
    """Differences add up: (memory - random) is (memory - native) - (random - native)."""
    plan = plan_of(backbone, arms="native,memory,memory-random,memory-recent", prompts=7, seeds=1)
    pairs = [(each.arm, each.against, each.confirmatory) for each in plan.all_contrasts]
    others = [("memory-random", "native", False), ("memory-recent", "native", False)]
    against = [("memory", "memory-random", False), ("memory", "memory-recent", False)]
    assert pairs == [("memory", "native", True), *others, *against]
    claimed = (Contrast("memory", "native", True), Contrast("memory", "memory-random", True))
    plan = replace(plan, contrasts=claimed, stories=plan.stories + plan_of(backbone, prompts=8).stories[7:])
    assert [each.confirmatory for each in plan.all_contrasts] == [True, False, False, True, False]
    assert [(each.arm, each.against) for each in plan.all_contrasts] == [pair[:2] for pair in pairs]  # none is left out
    assert plan.tests == 4
    more = replace(plan, contrasts=(*claimed, Contrast("memory-recent", "memory-random"))).all_contrasts
    assert more == (*plan.all_contrasts, Contrast("memory-recent", "memory-random"))
    compare(plan, tmp_path / "run", pipe=DriftingPipeline())
    found = {
        (c.arm, c.baseline): c
        for c in compare_all(Takes.of_run(tmp_path / "run", plan))
        if c.outcome == "drift.pixels@20"
    }
    direct = found["memory", "memory-random"]
    assert direct.paired.mean == pytest.approx(
        found["memory", "native"].paired.mean - found["memory-random", "native"].paired.mean
    )
    assert direct.p_holm >= direct.paired.p
    assert "Arms against each other" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(FieldError, match="contrasts"):
        replace(plan, contrasts=(Contrast("memory", "nobody"),))


def drifts_of(comparisons):
    """D at 20 s against the baseline, by arm."""
    return {c.arm: c for c in comparisons if c.outcome == "drift.pixels@20" and c.baseline == "native"}


def test_other_arms_have_no_say_in_what_the_claim_is_about(finished, backbone, tmp_path):
    """Where a control shows no subject, native and memory are still compared there."""
    plan = plan_of(backbone, arms="native,memory,memory-random", prompts=6, seeds=1)
    compare(plan, tmp_path / "run", pipe=DriftingPipeline())
    takes, blind = Takes.of_run(tmp_path / "run", plan), Takes.of_run(tmp_path / "run", plan)
    for cell in plan.cells:
        if cell.arm.name == "memory-random":
            cosines = blind.measures(cell).per_frame.cosine["pixels"]
            cosines[-10:] = [None] * 10
    before, after = (drifts_of(compare_all(each)) for each in (takes, blind))
    assert before["memory"] == after["memory"]
    assert before["memory-random"].means != after["memory-random"].means


def test_takes_of_mixed_conditions_are_told(finished):
    run, plan, results, _ = finished
    assert results.mixed_conditions == {}
    record_path = run / "takes" / plan.cells[5].name / "take.json"
    record = json.loads(record_path.read_text())
    del record["checksum"]
    record["run"]["load_seconds"] += 1  # another process
    record_path.write_text(json.dumps(record))
    takes = Takes.of_run(run, plan)
    takes.measures(plan.cells[3]).embedders["pixels"] = {"embedder": "another"}
    found = summarise(takes, compare_all(takes))
    assert list(found.mixed_conditions["embedders.pixels"].values()) == [31, 1]
    assert any("not all takes were made under the same conditions" in each.lower() for each in found.warnings)


def test_missing_subjects_are_counted_not_hidden(finished):
    run, plan, _, _ = finished
    takes = Takes.of_run(run, plan)
    drift = takes.of("memory", "plain-002", 1).drift["pixels"]
    drift[1] = replace(drift[1], value=None)
    found = next(c for c in compare_all(takes) if c.outcome == "drift.pixels@20")
    assert found.left_out == 1
    assert found.paired.prompts == 8  # the other seed still speaks for its prompt


def test_only_frames_seen_in_both_arms_are_scored():
    """Worked by hand: native shows its subject at its best only; there memory is compared with it, and nowhere else."""

    def measures(cosines: list[float | None]) -> Measures:
        drift = Drift(10.0, 9.0, 9.0, 9.0, 1.0, 0.5)
        frames = PerFrame([float(second) for second in range(10)], {"face": cosines})
        return Measures.model_construct(horizons_s=(10.0,), origin_s=0.0, drift={"face": [drift]}, per_frame=frames)

    native = measures([1, 0.9, 0.9, 0.9, 0.9, None, None, 0.8, None, None])
    memory = measures([1, 0.9, 0.9, None, 0.7, 0.1, 0.1, 0.6, 0.1, 0.1])
    memory, native = on_common_frames(memory, native)
    assert native.drift["face"][0].value == pytest.approx(0.9 - 0.8)
    assert memory.drift["face"][0].value == pytest.approx((0.9 + 0.9 + 0.7) / 3 - 0.6)
    assert memory.drift["face"][0].last_coverage == 0.5
    whole = measures([1.0] * 10)
    whole, _ = on_common_frames(whole, measures([1.0] * 10))
    assert whole.drift["face"][0].value == 9.0  # nothing is missing, nothing is touched


def test_a_run_of_other_weights_is_refused(tmp_path):
    backbone = slow_backbone(tmp_path / "backbone")
    run, plan = tmp_path / "run", plan_of(backbone, prompts=1, seeds=1)
    compare(plan, run, pipe=DriftingPipeline())
    weights = next((backbone / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes() + b"?")
    with pytest.raises(ValueError, match=r"holds another comparison \(backbone_id differ\)"):
        check_run(run, plan)


def test_a_plan_knows_what_the_preset_said(tmp_path):
    """So the takes of a published plan can be made again once the preset says something else."""
    backbone = slow_backbone(tmp_path / "backbone")
    run, plan = tmp_path / "run", plan_of(backbone, prompts=1, seeds=1)
    compare(plan, run, pipe=DriftingPipeline())
    before = [plan.request(load_preset(str(backbone)), cell) for cell in plan.cells]
    index = json.loads((backbone / INDEX).read_text())
    index["memory"] = index.get("memory", {}) | {"policy": "random"}
    (backbone / INDEX).write_text(json.dumps(index))
    present = load_preset(str(backbone))
    assert [plan.request(present, cell) for cell in plan.cells] != before
    with pytest.raises(ValueError, match=r"holds another comparison \(preset differ\)"):
        check_run(run, plan)
    kept = read_plan_to_repeat(run / PLAN)
    assert [kept.request(present, cell) for cell in kept.cells] == before
    check_run(run, kept)
    write_json(run / PLAN, replace(kept, preset=None).as_dict())  # as older versions wrote it
    check_run(run, plan)


def test_a_run_of_another_plan_is_refused(finished, backbone, tmp_path):
    run, plan, _, _ = finished
    with pytest.raises(ValueError, match=r"holds another comparison \(seeds differ\)"):
        check_run(run, replace(plan, seeds=3))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(ValueError, match="exists but does not hold a comparison"):
        check_run(tmp_path / "full", plan)
    assert read_plan(run) == plan


def test_what_can_not_be_is_refused_before_anything_is_made(backbone, tmp_path, monkeypatch):
    run = tmp_path / "run"
    dragons = (Story("plain-1", "plain", "a dragon flies"),)
    same, native = plan_of(backbone), ARMS["native"]
    cases = [
        (lambda: plan_of(backbone, seeds=0), "seeds is 0; it must be from 1 to 10000"),
        (lambda: plan_of(backbone, arms="native"), "arms is native; it must be two or more"),
        (lambda: plan_of(backbone, arms="native,native"), "each can be used only once"),
        (lambda: plan_of(backbone, horizons_s=(5.0,)), "horizon 5 s is too short"),
        (lambda: plan_of(backbone, horizons_s=(20.0, 10.0)), "must be one or more increasing numbers of seconds"),
        (lambda: plan_of(backbone, embedders="resnet"), "embedder is 'resnet'"),
        (lambda: plan_of(backbone, embedders="dino=/nowhere"), "embedder's folder /nowhere does not exist"),
        (lambda: plan_of(backbone, stories=dragons), "is about a dragon"),
        (lambda: replace(same, arms=(*same.arms, Arm("twin", {"memory": {"enabled": True}}))), "the same settings"),
        (lambda: replace(same, arms=(native, Arm("k", {"memory": {"size": 3}}))), "memory: size is not known; it has"),
        (lambda: replace(same, arms=(native, Arm("k", {"context": {"memory_frames": 99}}))), "arm 'k'.*99"),
        (lambda: replace(same, arms=(native, Arm("k", {"output": {"fps": 8}}))), r"arms differ in fps \(4 and 8\)"),
        (lambda: replace(same, backbone="nowhere"), "backbone 'nowhere' is neither a known name nor a folder"),
    ]  # fmt: skip
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            compare(make(), run, pipe=DriftingPipeline())
        assert not run.exists(), message
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="Ray is not installed"):
        Engine("ray")
    with pytest.raises(ValueError, match="workers is 0"):
        Engine(workers=0)


def test_what_chance_does_not_read_is_refused(backbone):
    plan, preset = plan_of(backbone, prompts=1), load_preset(str(backbone))
    arm = Arm("x", {"memory": {"enabled": True, "spread": 1}}, "random")
    with pytest.raises(ValueError, match="arm 'x' has spread, which has no effect with retrieval 'random'"):
        replace(plan, arms=(ARMS["native"], arm)).check(preset)


def test_a_prompt_that_is_there_twice_is_refused(backbone):
    told = tuple(Story(f"plain-{n}", "plain", "a red square walks") for n in range(2))
    with pytest.raises(ValueError, match="the prompt 'a red square walks' occurs twice, and would count as two"):
        plan_of(backbone, stories=told)


def test_measures_of_another_version_are_made_again(backbone, tmp_path):
    run, plan = tmp_path / "run", plan_of(backbone, prompts=1, seeds=1)
    first = compare(plan, run, pipe=DriftingPipeline())
    path = run / "takes" / plan.cells[0].name / "measures.json"
    old = json.loads(path.read_text())
    del old["companions"][0]["last_motion"]
    path.write_text(json.dumps({**old, "format": 1}))
    pipe = DriftingPipeline()
    assert compare(plan, run, pipe=pipe).comparisons == first.comparisons
    assert pipe.made == []


def test_a_run_whose_video_is_gone_is_not_exported_in_part(backbone, tmp_path):
    run, plan = tmp_path / "run", plan_of(backbone, prompts=1, seeds=1)
    compare(plan, run, pipe=DriftingPipeline())
    (run / "takes" / plan.cells[1].name / "video.mp4").unlink()
    with pytest.raises(ValueError, match="the videos of 1 takes are missing, such as memory/plain-000-seed0"):
        export_for_vbench(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_control_arms_choose_instead_of_the_search(backbone, tmp_path):
    seen = []

    class Watching(DriftingPipeline):
        def stream(self, requests, *, stores, noise, then, choose=None, ahead=0):
            seen.append(None if choose is None else choose(0, 9, range(1, 44)))
            yield from super().stream(requests, stores=stores, noise=noise, then=then)

    plan = plan_of(backbone, arms="native,memory,memory-random,memory-recent,memory-empty", prompts=1, seeds=1)
    maker = Maker(plan, tmp_path, pipe=Watching())
    for cell in plan.cells:
        maker.finish((cell,))
    native, memory, chance, recent, empty = seen
    assert native is None
    assert memory is None
    assert recent[0] == 43
    assert set(chance) != set(recent)
    assert empty == []


def test_takes_made_side_by_side_are_those_made_alone(backbone, tmp_path):
    """With the stand-in, whose frames don't depend on the batch: each take gets its own noise, choices and frames."""
    plan = plan_of(backbone, arms="native,memory,memory-random")
    alone, together = tmp_path / "alone", tmp_path / "together"
    compare(plan, alone, pipe=DriftingPipeline())
    compare(plan, together, Engine(batch=3), pipe=DriftingPipeline())
    for cell in plan.cells:
        one, other = (take_folder(run, cell) for run in (alone, together))
        assert (one / "noise.json").read_text() == (other / "noise.json").read_text()
        first, second = (read_json(folder / "measures.json") for folder in (one, other))
        assert first["per_frame"] == second["per_frame"]
        assert read_json(other / "take.json")["run"]["batch"] in (2, 3)


def test_only_takes_of_one_arm_with_cues_at_the_same_times_share_a_batch(backbone):
    told = [Story(f"plain-{n}", "plain", PROMPTS[n], ((4.0 + n // 2, "a red square turns"),)) for n in range(4)]
    cells = plan_of(backbone, stories=tuple(told)).cells
    chunks = batches(cells, 3)
    assert sorted(cell.name for chunk in chunks for cell in chunk) == sorted(cell.name for cell in cells)
    assert {len(chunk) for chunk in chunks} == {1, 3}
    for chunk in chunks:
        assert len({(cell.arm.name, cell.story.cues[0][0]) for cell in chunk}) == 1


def test_takes_with_different_pictures_do_not_share_a_batch_and_a_missing_picture_is_refused(backbone, tmp_path):
    told = [Story(f"plain-{n}", "plain", PROMPTS[n], start_image=str(tmp_path / f"{n // 2}.png")) for n in range(4)]
    plan = plan_of(backbone, stories=tuple(told))
    assert all(len({cell.story.start_image for cell in chunk}) == 1 for chunk in batches(plan.cells, 4))
    with pytest.raises(ValueError, match=r"0\.png"):
        plan.check(load_preset(str(backbone)))


def test_arms_make_the_requests_that_they_say(backbone):
    plan, preset = plan_of(backbone), load_preset(str(backbone))
    native, memory = (plan.request(preset, cell) for cell in plan.cells[:2])
    assert native.context.memory_frames == 0
    assert memory.context == preset.context
    assert (native.seed, native.prompt, native.seconds) == (memory.seed, memory.prompt, 20.0)
    with pytest.raises(ValueError, match="retrieval 'random', but its memory is off"):
        replace(plan, arms=(ARMS["native"], Arm("x", {"memory": {"enabled": False}}, "random"))).check(preset)


def test_export_names_have_no_underscore(finished, tmp_path):
    run, plan, _, _ = finished
    assert export_for_vbench(run, tmp_path / "out") == len(plan.cells)
    names = sorted(path.name for path in (tmp_path / "out" / "memory").iterdir())
    assert len(names) == 16
    assert names[0] == "a red square jumps!-0.mp4"
    assert not any("_" in name for name in names)
    assert vbench_name("a/b_c: d\n") == "a b c d"
    with pytest.raises(ValueError, match="already exists"):
        export_for_vbench(run, tmp_path / "out")


def test_export_names_of_long_prompts_differ_and_fit(backbone, tmp_path):
    prompts = ("a red square walks and " + "walks and " * 20 + end for end in ("jumps", "\u8d70" * 120))
    told = tuple(Story(f"plain-{n}_b", "plain", prompt) for n, prompt in enumerate(prompts))
    plan = plan_of(backbone, stories=told, seeds=1)
    compare(plan, tmp_path / "run", pipe=DriftingPipeline())
    assert export_for_vbench(tmp_path / "run", tmp_path / "out") == 4
    names = sorted(path.name for path in (tmp_path / "out" / "memory").iterdir())
    assert [name[-15:] for name in names] == [" plain-0 b-0.mp4"[-15:], " plain-1 b-0.mp4"[-15:]]
    assert len(vbench_name("\u8d70" * 120).encode()) <= 200
