"""The benchmark measures what it says; its figures are not judged here."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from backbone.config import ContextConfig, SamplerConfig
from backbone.transformer import CausalWanTransformer
from longlive_rag.config import MemoryConfig
from longlive_rag.diagnostics import subjects
from longlive_rag.diagnostics.bench import OTHER_STAGES, Roofline, request_of, run, warm_up_blocks
from longlive_rag.diagnostics.subjects import PROMPT, SHAPES, Shape, random_pipeline
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.sessions.making import NewTake, new_take
from tests import forked
from tests.conftest import random_pipeline as tiny_pipeline

TOY = Shape(48, 2, 2, 96, (4, 6), ContextConfig(), vae_width=4, decoder_widths=(8, 6, 4, 4))
CPU = torch.device("cpu")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> LongLiveRAGPipeline:
    monkeypatch.setitem(subjects.SHAPES, "toy", TOY)
    return random_pipeline("toy", torch.float32, CPU)


def test_arms_run_interleaved_on_a_full_cache_and_memory(toy: LongLiveRAGPipeline) -> None:
    lines: list[str] = []
    report = run(toy, "toy", PROMPT, ["native", "memory"], blocks=3, progress=lines.append)
    native, memory = report.arms
    assert (native.retrieved_frames, memory.retrieved_frames) == (0, 6)
    assert set(report.ratios) == {"memory/native"}
    for arm in report.arms:
        assert arm.stages["denoise"] > arm.stages["commit"] > 0
        assert min(arm.stages[stage] for stage in ("decode", "store", "write")) > 0
        assert 0 < arm.roofline_seconds < arm.seconds_per_block
        assert arm.over_roofline < arm.seconds_per_block / arm.roofline_seconds
    assert report.conditions["warm_up_blocks"] == 9
    assert report.conditions["blocks"] == 3
    assert report.peak_memory_bytes["host_process"] > 2**20
    assert "block 3 of 3" in lines
    json.dumps(report.as_dict())


def test_frames_a_second_count_what_they_say(toy: LongLiveRAGPipeline) -> None:
    """12 frames in 10 s of transformer, 14 s with decoding, 30 s in all."""
    from longlive_rag.diagnostics import bench

    arm = object.__new__(bench._Arm)
    arm.name, arm._frames, arm.totals, arm._rooflines = "native", 12, [30.0, 30.0], [5.0, 5.0]
    stages = {"denoise": 9.0, "retrieve": 0.5, "decode": 4.0, "store": 1.0, "write": 15.0}
    arm._stages = [stages, stages]
    arm._last = next(toy.stream(PROMPT, seconds=1))
    figures = arm.figures()
    assert figures.frames_per_second == pytest.approx({"transformer": 1.2, "decoded": 12 / 14, "written": 0.4})
    assert figures.over_roofline == pytest.approx(2.0)
    assert figures.seconds_per_block == 30.0
    assert figures.over_longest is None
    overlapped = arm.overlapped(figures, 0.75)  # 16 s a block; writing alone takes 15
    assert overlapped.frames_per_second == {**figures.frames_per_second, "generate": 0.75}
    assert overlapped.over_longest == pytest.approx(16 / 15)


def test_generates_own_speed_is_of_the_whole_take(toy: LongLiveRAGPipeline) -> None:
    pytest.importorskip("longlive_rag.generation.behind")
    for arm in run(toy, "toy", PROMPT, ["memory", "cue"], blocks=2).arms:
        assert list(arm.frames_per_second) == ["transformer", "decoded", "written", "generate"]
        assert arm.frames_per_second["generate"] > 0


def test_an_arm_makes_the_take_that_generate_makes(pipeline_folder: Path, tmp_path: Path) -> None:
    """The same stages are counted, over the same frames."""
    from longlive_rag.diagnostics.bench import run_of
    from longlive_rag.presets.preset import load_preset
    from longlive_rag.rights.provenance import Provenance
    from longlive_rag.takes.writer import TakeWriter
    from longlive_rag.weights.load import load_pipeline

    pipe = load_pipeline(str(pipeline_folder))
    request = request_of(pipe, "memory", PROMPT, pipe.memory, warm_up_blocks(pipe.context))
    with new_take(NewTake(load_preset(str(pipeline_folder)), request, tmp_path / "made", pipe=pipe), print) as job:
        made = job.run(lambda *_: None)
    run_ = run_of(pipe, str(pipeline_folder))
    writer = TakeWriter(tmp_path / "benched", request, pipe.timeline(request), run_, provenance=Provenance())
    for block in pipe.stream(request, stores=[writer]):
        writer.add(block)
    benched = writer.finish("finished")
    assert made.timings.by_stage.keys() == benched.timings.by_stage.keys()
    assert made.timings.by_stage.keys() >= {"decode", "store", "write"}
    assert benched.video.frames == made.video.frames == 1 + 8 + 8 * 12


def test_every_stage_of_a_take_is_counted(pipe: LongLiveRAGPipeline) -> None:
    from longlive_rag.diagnostics.bench import STAGES

    request = request_of(pipe, "memory-cue", PROMPT, pipe.memory, 11, cued_from=4)
    seen = {stage for block in pipe.stream(request) for stage in block.seconds}
    assert seen <= set(STAGES)
    assert seen & set(OTHER_STAGES) >= {"decode", "text"}


def test_a_backbone_of_single_frames_and_one_step() -> None:
    context = ContextConfig(window_frames=6, sink_frames=1, memory_frames=3, recency_guard_frames=2, frames_per_block=1)
    pipe = tiny_pipeline(context=vars(context), sampler=vars(SamplerConfig((1000,))))
    report = run(pipe, "single", PROMPT, ["native", "memory", "memory-cue"], blocks=2)
    assert [arm.retrieved_frames for arm in report.arms] == [0, 3, 3]
    assert report.conditions["warm_up_blocks"] == 6 + 2 + 3 + 1


def test_each_block_of_a_cued_arm_recaches_and_a_remade_page_is_never_found(toy: LongLiveRAGPipeline) -> None:
    memory, remade, cue, both = run(toy, "toy", PROMPT, ["memory", "remade", "cue", "memory-cue"], blocks=2).arms
    assert [arm.stages["recache"] > 0 for arm in (memory, remade, cue, both)] == [False, False, True, True]
    assert [arm.retrieved_frames for arm in (memory, remade, cue, both)] == [6, 6, 0, 6]
    assert memory.pages
    assert remade.pages
    assert both.pages
    assert (memory.pages["remade"], remade.pages["remade"]) == (0, remade.pages["fetched"])
    assert both.pages["remade"] >= 12  # all pages of both measured blocks were stale


def test_memory_searches_every_frame_unless_the_arm_establishes(toy: LongLiveRAGPipeline) -> None:
    searched = request_of(toy, "memory", PROMPT, replace(MemoryConfig(), establish=0.0), 12).memory
    kept = request_of(toy, "establish", PROMPT, searched, 12).memory
    assert (searched.establish, kept.establish, kept.new_view) == (0.0, 2.0, 0.5)
    assert toy.timeline(request_of(toy, "establish", PROMPT, kept, 12)).latents_in(kept.establish) == 8


def test_only_the_arm_of_a_changing_gain_has_one(toy: LongLiveRAGPipeline) -> None:
    even, fading = (request_of(toy, arm, PROMPT, toy.memory, 12).context for arm in ("memory", "gain"))
    assert even == toy.context
    assert [fading.gain_at(sigma) for sigma in (1.0, 0.0)] == [0.8, 1.8]
    memory, gain = run(toy, "toy", PROMPT, ["memory", "gain"], blocks=2).arms
    assert (memory.retrieved_frames, gain.retrieved_frames) == (6, 6)


def test_a_round_that_is_too_late_is_not_begun(toy: LongLiveRAGPipeline) -> None:
    report = run(toy, "toy", PROMPT, ["native"], blocks=50, deadline_s=0.0)
    assert report.conditions["blocks"] == 1


def test_shapes_are_wans_and_their_vae_too() -> None:
    with torch.device("meta"):
        true, small = (AutoencoderKLWan(base_dim=SHAPES[name].vae_width) for name in ("wan-1.3b", "bench-small"))
        transformer = subjects._transformer(SHAPES["wan-1.3b"])
    assert {name: tensor.ndim for name, tensor in true.named_parameters()} == {
        name: tensor.ndim for name, tensor in small.named_parameters()
    }
    assert sum(tensor.numel() for tensor in true.parameters()) == 126_892_531
    assert isinstance(transformer, CausalWanTransformer)
    assert sum(tensor.numel() for tensor in transformer.parameters()) == 1_418_996_800


def test_the_roofline_runs_the_blocks_products_and_nothing_else(toy: LongLiveRAGPipeline) -> None:
    from torch.profiler import ProfilerActivity, profile

    roofline = Roofline(toy.transformer, TOY.latent_size, TOY.context, SamplerConfig())
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
def test_what_can_not_be_measured_is_refused(toy: LongLiveRAGPipeline, arms: list[str], blocks: int) -> None:
    with pytest.raises(ValueError, match=r"arms is|blocks is"):
        run(toy, "toy", PROMPT, arms, blocks)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return forked.run(words, Path.cwd())


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
