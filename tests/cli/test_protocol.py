"""`longlive-rag eval compare --protocol`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval import paper_protocols
from eval.paper_protocols import read_protocol
from eval.plan import Cell, Plan, read_plan
from eval.scenarios import Story
from longlive_rag.media.video import count_frames, read_frames
from longlive_rag.presets.preset import load_preset, preset_to_plan_with
from longlive_rag.timeline import Timeline
from tests.eval.arms import DriftingPipeline, slow_backbone
from tests.eval.clips import FPS

PAPER = read_protocol("longlive-rag")


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    return [slow_backbone(tmp_path / name) for name in ("plain", "my-causal-forcing")]


@pytest.fixture
def asked(folders, tmp_path) -> list[object]:
    """A small run on two backbones, whose takes are drawn."""
    (tmp_path / "p.txt").write_text("a red square walks\na red square jumps\n")
    return [
        "eval", "compare", "--protocol", "longlive-rag", "--backbones", ",".join(map(str, folders)), "--exploratory",
        "--prompts", tmp_path / "p.txt", "--horizons", "10,20", "--embedders", "pixels", "--device", "cpu",
        "-o", tmp_path / "out",
    ]  # fmt: skip


def test_all_backbones_are_compared_and_a_stopped_run_goes_on(command, asked, tmp_path, monkeypatch):
    pipe, out = DriftingPipeline(fail_after=5, error=KeyboardInterrupt()), tmp_path / "out"
    monkeypatch.setattr("longlive_rag.weights.load.load_pipeline", lambda *_: pipe)
    stopped = command(*asked)
    assert (stopped.code, "The same command resumes it." in stopped.err) == (130, True)
    assert not (out / "summary.md").exists()
    pipe.fail_after = 10**9
    first = command(*asked)
    assert first.code == 0, first.err
    assert len(pipe.made) == 8  # two backbones, arms and prompts each: none was made twice
    again = command(*asked, "--json")
    assert len(pipe.made) == 8
    summary = json.loads(again.out)
    assert summary == json.loads((out / "summary.json").read_text())
    assert summary["departures"] == ["backbones", "prompts", "horizons", "embedders"]
    assert (out / "summary.md").read_text() in first.out
    for name in ("plain", "my-causal-forcing"):
        results = json.loads((out / name / "results.json").read_text())
        assert summary["backbones"][name]["verdicts"] == results["verdicts"]
        drift = {c["horizon_s"]: c for c in results["comparisons"] if c["outcome"].startswith("drift.pixels@")}
        rows = [row for row in summary["rows"] if (row["measure"], row["backbone"]) == ("D by pixels", name)]
        assert [row["arm"] for row in rows] == ["native", "memory"]
        for number, horizon_s in enumerate((10.0, 20.0)):
            means = drift[horizon_s]["means"]
            assert rows[0]["figures"][number] == f"{means['native']:.3f}"
            assert rows[1]["figures"][number].startswith(f"{means['memory']:.3f}, -0.")
        unfair = "extremely unfair" in (out / name / "report.html").read_text()
        assert unfair == bool(summary["backbones"][name]["notes"]) == (name == "my-causal-forcing")
    measures = {row["measure"] for row in summary["rows"]}
    assert {"VBench consistency by pixels", "VBench-Long slow by pixels", "VBench-Long fast by pixels"} <= measures


def test_videos_for_vbench_are_cut_at_each_length(command, asked, tmp_path, monkeypatch):
    monkeypatch.setattr("longlive_rag.weights.load.load_pipeline", lambda *_: DriftingPipeline())
    assert command(*asked).code == 0
    made = tmp_path / "out" / "plain" / "takes" / "memory" / "plain-001-seed0" / "video.mp4"
    videos = tmp_path / "out" / "vbench-videos" / "plain"
    short, whole = (videos / length / "memory" / "a red square walks-0.mp4" for length in ("10s", "20s"))
    assert whole.read_bytes() == made.read_bytes()
    assert count_frames(short) == 10 * FPS
    frames = zip(read_frames(short), read_frames(made), strict=False)
    assert all(np.array_equal(one, other) for one, other in frames)


@pytest.mark.slow
def test_tiny_world_runs_the_protocol(command, tmp_path):
    assert command("world", "subjects", "-o", tmp_path / "s.json", "--count", 1).code == 0
    done = command(
        "eval", "compare", "--protocol", "longlive-rag", "--backbones", "tiny-world", "--prompts", tmp_path / "s.json",
        "--horizons", "10", "--exploratory", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "| D by tiny-world | tiny-world | memory |" in done.out
    native, memory = read_plan(tmp_path / "out" / "tiny-world").arms
    assert (native.changes["context"]["rope"], memory.changes["context"]["rope"]) == ("absolute", "relative")


def test_lengths_are_the_papers_latent_frames():
    preset = preset_to_plan_with("longlive")
    horizons_s = PAPER.horizons_s(preset)
    assert horizons_s == (477 / 16, 957 / 16, 1917 / 16)
    plan = Plan("longlive", tuple(PAPER.arms), (Story("a", "plain", "a"),), 1, horizons_s, "dino", exploratory=True)
    native, memory = (plan.request(preset, Cell(arm, plan.stories[0], 0)) for arm in plan.arms)
    assert Timeline(native.pixel_frames, 16, 3, 4).latent_frames == 480
    assert (native.context.memory_frames, native.context.rope) == (0, "absolute")
    assert (memory.context.memory_frames, memory.context.recency_guard_frames, memory.context.rope) == (
        6,
        5,
        "relative",
    )
    assert {(each.context.window_frames, each.context.sink_frames) for each in (native, memory)} == {(12, 1)}
    assert (memory.memory.encoder, memory.memory.establish, memory.memory.prompt_weight) == ("autoencoder", 0, 0)


def test_the_papers_prompts_are_found_where_they_were_fetched_to(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "downloads" / "qixinhu11" / "LongLive-RAG" / "checkpoints" / "moviegenbench_128_refined.txt"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"prompt {number}\n" for number in range(127)))
    fewer = "holds 127 prompts, but the protocol's has 128; get it again with longlive-rag"
    with pytest.raises(ValueError, match=fewer):
        PAPER.find_prompts(folders)
    path.write_text("".join(f"prompt {number}\n" for number in range(128)))
    assert PAPER.find_prompts(folders).absolute() == path
    beside = load_preset(str(folders[1])).folder / path.name
    path.rename(beside)
    assert PAPER.find_prompts(folders) == beside


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--protocol", "mine"], "--protocol is 'mine'; it must be one of longlive-rag"),
        (["--backbones", "longlive,self-forcing"], "are not fetched yet; run longlive-rag models fetch longlive; "),
        (["--backbones", "tiny-world,tiny-world"], "--backbones is tiny-world,tiny-world; name one or more, each once"),
        (["--backbones", ""], "backbone '' is neither"),
        (["--prompts", "nowhere.txt"], "nowhere.txt can't be read"),
        (["--backbone", "tiny-world"], "--backbone can't be used with --protocol; use --backbones"),
        (["--scenario", "plain"], "--scenario can't be used with --protocol"),
        (["--plan", "plan.json"], "--plan can't be used with --protocol; give one of the two"),
        (["--horizons", "3"], "horizon 3 s is too short"),
        (["--output", "p.txt"], "p.txt is a file"),
    ],
)
def test_a_protocol_refuses_in_one_line(command, asked, tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    result = command(*asked, *changes)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_prompts_it_says_how_to_get_them(command, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = asked.index("--prompts")
    result = command(*asked[:place], *asked[place + 2 :])
    assert result.code == 2
    assert "moviegenbench_128_refined.txt is neither in downloads" in result.err
    assert "get it with longlive-rag models fetch longlive-rag --no-convert, or name a file of your own" in result.err


def test_backbones_are_for_protocols(command, tmp_path):
    result = command("eval", "compare", "--backbones", "tiny-world", "-o", tmp_path / "out")
    assert (result.code, "--backbones is for --protocol; use --backbone to name one" in result.err) == (2, True)


def test_a_video_export_that_was_cut_off_is_begun_again(command, asked, tmp_path, monkeypatch):
    monkeypatch.setattr("longlive_rag.weights.load.load_pipeline", lambda *_: DriftingPipeline())
    copy = paper_protocols.export_for_vbench.__globals__["_copy"]

    def fail(*_: object) -> None:
        raise OSError("gone")

    monkeypatch.setitem(paper_protocols.export_for_vbench.__globals__, "_copy", fail)
    assert command(*asked).code == 2
    monkeypatch.setitem(paper_protocols.export_for_vbench.__globals__, "_copy", copy)
    assert command(*asked).code == 0
    assert len(list((tmp_path / "out" / "vbench-videos").rglob("*.mp4"))) == 16
