"""The benchmark measures what it says; its figures are not judged here."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from backbone.config import ContextConfig, SamplerConfig
from longlive_rag.diagnostics import bench
from longlive_rag.diagnostics.bench import Roofline, Shape, pipeline_subject, random_subject, run
from longlive_rag.pipeline import LongLiveRAGPipeline

TOY = Shape(48, 2, 2, 96, (4, 6), ContextConfig())


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> bench.Subject:
    monkeypatch.setitem(bench.SHAPES, "toy", TOY)
    return random_subject("toy", torch.float32, torch.device("cpu"))


def test_arms_run_interleaved_on_a_full_cache_and_memory(toy: bench.Subject) -> None:
    lines: list[str] = []
    report = run(toy, ["native", "memory"], blocks=3, progress=lines.append)
    native, memory = report.arms
    assert (native.retrieved_frames, memory.retrieved_frames) == (0, 6)
    assert set(report.ratios) == {"memory/native"}
    for arm in report.arms:
        assert arm.seconds_per_block >= arm.stages["denoise"] > arm.stages["commit"] > 0
        assert arm.stages["decode"] == 0
        assert 0 < arm.roofline_seconds < arm.seconds_per_block
        assert arm.over_roofline == pytest.approx(arm.seconds_per_block / arm.roofline_seconds)
    assert report.conditions["includes_decode"] is False
    assert report.conditions["warm_up_blocks"] == 9
    assert report.peak_memory_bytes["host_process"] > 2**20
    assert lines[-1] == "block 3 of 3"
    json.dumps(report.as_dict())


def test_a_backbone_of_single_frames_and_one_step(toy: bench.Subject) -> None:
    context = ContextConfig(window_frames=6, sink_frames=1, memory_frames=3, recency_guard_frames=2, frames_per_block=1)
    subject = replace(toy, context=context, sampler=SamplerConfig((1000,)), pixel_frames_per_block=4)
    report = run(subject, ["native", "memory", "memory-cue"], blocks=2)
    assert [arm.retrieved_frames for arm in report.arms] == [0, 3, 3]
    assert report.conditions["warm_up_blocks"] == 6 + 2 + 3 + 1
    for arm in report.arms:
        assert arm.frames_per_second == pytest.approx(4 / arm.seconds_per_block)


def test_each_block_of_a_cued_arm_recaches_and_a_remade_page_is_never_found(toy: bench.Subject) -> None:
    memory, remade, cue, both = run(toy, ["memory", "remade", "cue", "memory-cue"], blocks=2).arms
    assert [arm.stages["recache"] > 0 for arm in (memory, remade, cue, both)] == [False, False, True, True]
    assert [arm.retrieved_frames for arm in (memory, remade, cue, both)] == [6, 6, 0, 6]
    assert memory.pages
    assert remade.pages
    assert both.pages
    assert (memory.pages["remade"], remade.pages["remade"]) == (0, remade.pages["fetched"])
    assert both.pages["remade"] >= 12  # all pages of both measured blocks were stale


def test_a_pipeline_is_measured_with_its_decoder(pipe: LongLiveRAGPipeline) -> None:
    subject = pipeline_subject(pipe, "random", "a red circle walks in a meadow")
    (memory,) = run(subject, ["memory"], blocks=1).arms
    assert memory.stages["decode"] > 0
    assert memory.transformer_frames_per_second > memory.frames_per_second


def test_the_roofline_runs_the_blocks_products_and_nothing_else(toy: bench.Subject) -> None:
    from torch.profiler import ProfilerActivity, profile

    roofline = Roofline(toy, TOY.context)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        roofline.measure()
    calls = {event.key: event.count for event in recorded.key_averages()}
    layers, passes = 2, 5
    # The commit pass stops at the last layer's keys and values.
    assert calls["aten::scaled_dot_product_attention"] == 2 * (layers * passes - 1)
    assert calls["aten::linear"] == (8 * layers + 1) * passes - (6 + 1)
    assert "aten::gelu" not in calls
    assert "aten::native_layer_norm" not in calls


@pytest.mark.parametrize(("arms", "blocks"), [([], 1), (["memory", "memory"], 1), (["telepathy"], 1), (["native"], 0)])
def test_what_can_not_be_measured_is_refused(toy: bench.Subject, arms: list[str], blocks: int) -> None:
    with pytest.raises(ValueError, match=r"arms are|blocks is"):
        run(toy, arms, blocks)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "longlive_rag", *words], capture_output=True, text=True, check=False)


def test_verify_prints_a_line_a_file_and_fails_with_one() -> None:
    done = command("verify", "tests/golden/native_sink3.safetensors", "tests/golden/rag_ae.safetensors")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("ok ") and "selections equal" in line for line in lines)


def test_verify_speaks_json() -> None:
    done = command("verify", "--json", "tests/golden/rag_avgpool.safetensors")
    (verdict,) = json.loads(done.stdout)
    assert verdict["passed"] is True
    assert verdict["latent_error"] < 1e-4


@pytest.mark.parametrize(
    "words", [("verify", "nowhere.safetensors"), ("verify", "pyproject.toml"), ("bench", "--backbone", "nowhere")]
)
def test_bad_input_is_one_line_and_exit_code_2(words: tuple[str, ...]) -> None:
    done = command(*words)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert words[-1] in done.stderr
