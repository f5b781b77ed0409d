"""The GPU report runs whole on a CPU at a toy's size; budgets, failures, processes that hang, and going on."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from backbone.config import ContextConfig
from backbone.errors import FieldError
from longlive_rag.cli.bench import make_take
from longlive_rag.diagnostics import gpu_report, gpu_steps, subjects
from longlive_rag.diagnostics.gpu_page import PUBLISHED, page_lines, speeds
from longlive_rag.diagnostics.gpu_report import Asked, Guarded, run_report
from longlive_rag.diagnostics.gpu_steps import STEPS, Step, Task, block_flop, kind_of, take_length
from longlive_rag.diagnostics.subjects import SHAPES, Shape
from tests import forked

TOY = Shape(48, 2, 2, 96, (4, 6), ContextConfig(), vae_width=4, decoder_widths=(8, 6, 4, 4))


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(subjects.SHAPES, "toy", TOY)


def asked(folder: Path, **changes: Any) -> Asked:
    settings = {"minutes": 0.2, "take_seconds": 2.0, "alone": False, **changes}
    return Asked(folder, "toy", "cpu", "a CPU", "float32", **settings)


def no_take(backbone: Path, prompt: str, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    raise AssertionError("no step that makes a take was asked for")


def stub(monkeypatch: pytest.MonkeyPatch, **steps: Step) -> None:
    """Replace all steps of the report."""
    for module in (gpu_report, gpu_steps):
        monkeypatch.setattr(module, "STEPS", steps)


@pytest.mark.slow
def test_the_whole_report_runs_on_a_cpu(tmp_path: Path) -> None:
    lines: list[str] = []
    report = run_report(asked(tmp_path / "report", minutes=30.0), make_take, lines.append)
    status = {name: step.status for name, step in report.steps.items()}
    gpu_only = {"compiled", "vae-compiled"}
    assert status == {name: "skipped" if name in gpu_only else "done" for name in STEPS}

    found = report.results
    assert [arm["arm"] for arm in found["bench"]["arms"]] == ["native", "establish", "memory"]
    assert found["vae"]["float32"]["ms_per_block"] > found["vae"]["tiny, float32"]["ms_per_block"]
    assert found["vae"]["bfloat16"]["psnr_against_float32"] > 25
    take = found["generate-memory"]
    assert (take["frames"], take["run"]["dtype"], take["run"]["decoder"]) == (32, "float32", "full")
    assert take["frames_per_second"] == pytest.approx(take["frames"] / take["made_in_s"], rel=0.01)
    assert found["generate-tiny"]["run"]["decoder"] == "tiny"
    assert found["profile"]["native"]["by_kind_s"].keys() >= {"attention", "matrix products", "elementwise"}

    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert written["steps"]["bench"]["result"]["arms"] == found["bench"]["arms"]
    page = (tmp_path / "report" / "report.md").read_text()
    assert "published" not in page  # figures of another shape
    assert (
        f"| generate-native: end to end, from its record | {found['generate-native']['frames_per_second']:.1f} |"
        in page
    )
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "block.png", "report.json", "report.md", "speed.png",
    ]  # fmt: skip


def test_it_goes_on_with_what_is_missing_and_tries_again_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def step(name: str) -> Step:
        def measure(task: Task, make: Any) -> dict[str, Any]:
            ran.append(name)
            if name == "two" and ran.count("two") == 1:
                raise torch.OutOfMemoryError("CUDA out of\nmemory")
            if name == "three" and ran.count("three") == 1:
                raise KeyboardInterrupt
            return {"ran": len(ran)}

        return Step(name, measure, 1, 1)

    stub(monkeypatch, **{name: step(name) for name in ("one", "two", "three")})
    with pytest.raises(KeyboardInterrupt):
        run_report(asked(tmp_path), no_take, lambda _: None)
    first = gpu_report.read_document(tmp_path / "report.json", gpu_report.GpuReport)
    assert {name: step.status for name, step in first.steps.items()} == {"one": "done", "two": "failed"}
    assert first.steps["two"].reason == "failed: OutOfMemoryError: CUDA out of memory"
    assert "CUDA out of memory" in (tmp_path / "report.md").read_text()

    second = run_report(asked(tmp_path), no_take, lambda _: None)
    assert ran == ["one", "two", "three", "two", "three"]
    assert {step.status for step in second.steps.values()} == {"done"}
    assert second.steps["one"] == first.steps["one"]


def test_what_no_longer_fits_is_skipped_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, float] = {}

    def measure(task: Task, make: Any) -> dict[str, Any]:
        given[str(len(given))] = task.seconds
        return {"seconds": task.seconds}

    monkeypatch.setattr(Task, "on", property(lambda _: torch.device("cpu")))
    stub(monkeypatch, small=Step("s", measure, 10, 0), large=Step("l", measure, 500, 1), last=Step("t", measure, 20, 1))
    report = run_report(replace(asked(tmp_path, minutes=2.0), device="cuda"), no_take, lambda _: None)
    assert {name: step.status for name, step in report.steps.items()} == {
        "small": "done", "large": "skipped", "last": "done",
    }  # fmt: skip
    assert report.steps["large"].reason == "skipped: it needs about 500 s, but 120 s are left"
    assert given["0"] == 10
    assert 100 < given["1"] <= 120  # the last step may have all that is left


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": ("bench", "telepathy")}, r"steps is 'telepathy'; it must be among machine, attention"),
        ({"minutes": 0}, "minutes is 0; it must be above 0"),
    ],
)
def test_what_can_not_be_reported_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(FieldError, match=words):
        run_report(asked(tmp_path / "new", **changes), no_take, lambda _: None)
    assert not (tmp_path / "new").exists()


def test_a_folder_with_a_report_of_another_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, one=Step("one", lambda *_: {}, 1, 1))
    run_report(asked(tmp_path), no_take, lambda _: None)
    with pytest.raises(FieldError, match="whose device is a CPU, not a GPU; name another folder"):
        run_report(replace(asked(tmp_path), device_name="a GPU"), no_take, lambda _: None)


def answer_twice(pipe: Connection) -> None:
    """Answers one question, ends at `die` and never answers to `hang`; for a process of its own."""
    while True:
        question = pipe.recv()
        if question == "die":
            os._exit(7)
        if question == "hang":
            time.sleep(600)
        pipe.send({"status": "done", "result": {"asked": question}})


@pytest.mark.slow
def test_a_process_that_hangs_or_dies_is_ended_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    served = importlib.import_module("tests.diagnostics.test_gpu_report").answer_twice
    hangs, dies = Guarded(served), Guarded(served)
    assert hangs.ask("a question", 300)["result"] == {"asked": "a question"}
    assert hangs.ask("hang", 0.2)["reason"] == "failed: it was ended after 0 s"
    assert not hangs._process.is_alive()
    assert dies.ask("die", 300)["reason"] == "failed: its process ended with code 7"
    dies.end()


def test_a_blocks_flop_are_those_that_were_counted() -> None:
    flop = block_flop(SHAPES["wan-1.3b"], 4680, 18720)
    assert flop["products"] == pytest.approx(58e12, rel=0.02)
    assert flop["attention"] == pytest.approx(83e12, rel=0.01)


def test_a_take_is_as_long_as_its_time_allows() -> None:
    known = {"bench": {"arms": [{"arm": "establish", "seconds_per_block": 1.0}]}}
    task = Task("wan-1.3b", "cuda", "bfloat16", 85.0, Path(), 30.0, known)
    assert take_length(replace(task, seconds=1000.0)) == 30.0
    assert take_length(task) == 30.0
    assert take_length(replace(task, seconds=45.0)) == 12.0  # 20 s of 1.2 s a block, each 0.75 s of video
    assert take_length(replace(task, seconds=10.0)) == 3.0


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128", "attention"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64>>", "attention"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_bias_TNN", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "convolution"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "elementwise"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float, float>", "elementwise"),
    ],
)
def test_kernels_are_known_by_their_names(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def test_the_page_compares_what_was_measured_with_what_was_published() -> None:
    arm = {
        "arm": "native",
        "frames_per_second": {"transformer": 30.0, "decoded": 20.0, "written": 15.0},
        "roofline_seconds": 0.25,
        "over_roofline": 1.6,
    }
    found = speeds({"bench": {"arms": [arm]}}, "wan-1.3b")
    assert found["limit: products and attention alone, measured here"] == pytest.approx(48.0)
    assert found["native: written"] == 15.0
    assert PUBLISHED.items() <= found.items()
    assert speeds({}, "wan-1.3b") == {}
    small = speeds({"bench": {"arms": [arm]}}, "bench-small")  # nobody has published anything to compare it with
    assert set(found) - set(small) == {*PUBLISHED, "limit at 635 TFLOP/s (counted)"}


def test_a_page_without_any_result_still_says_what_happened() -> None:
    step = {"status": "failed", "seconds": 3.2, "reason": "failed: a | b", "result": None}
    lines = page_lines({"shape": "wan-1.3b", "device": "H100", "dtype": "bfloat16", "steps": {"bench": step}}, {})
    assert "| bench | failed | 3 s | failed: a \\| b |" in lines


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return forked.run(["bench", *words], Path.cwd())


@pytest.mark.slow
def test_without_a_gpu_the_command_says_so_in_one_line(tmp_path: Path) -> None:
    done = command("--gpu-report", str(tmp_path / "report"), "--device", "cpu")
    assert done.returncode == 2
    assert done.stderr.strip() == "Error: --gpu-report needs a GPU; to try it on a CPU, add --shape bench-small"
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_the_command_runs_steps_in_a_process_of_their_own(tmp_path: Path) -> None:
    words = ("--gpu-report", str(tmp_path), "--device", "cpu", "--shape", "bench-small", "--minutes", "10")
    done = command(*words, "--steps", "machine,transfer")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert {name: step["status"] for name, step in report["steps"].items()} == {"machine": "done", "transfer": "done"}
    (tmp_path / "report.md").unlink()
    again = command("--gpu-report", str(tmp_path), "--device", "cpu")  # from another machine: the page alone
    assert again.returncode == 0, again.stderr
    assert "pages_of_a_block_s" in (tmp_path / "report.md").read_text()
