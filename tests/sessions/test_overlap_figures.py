"""What a take's parts take, and how near the whole comes to the longest."""

from __future__ import annotations

from pathlib import Path

import pytest

from longlive_rag import LongLiveRAGPipeline
from longlive_rag.takes.record import TakeRun, read_record
from tests.sessions.end_to_end import EndToEnd, Overlap, compare, make_take


def test_a_take_is_made_with_and_without_overlap(pipeline_folder: Path, tmp_path: Path) -> None:
    opened = LongLiveRAGPipeline.from_pretrained(pipeline_folder)
    request, said = opened.request("a red circle walks", seconds=2.0), []
    overlap = compare(opened, request, opened.take_run(), tmp_path, 1, said.append)
    assert said == ["warming up", "pair 1 of 1"]
    for take, name in ((overlap.serial[0], "serial0"), (overlap.overlapped[0], "overlapped0")):
        timings = read_record(tmp_path / name).timings
        assert take.frames == 32
        assert take.frames_per_second == pytest.approx(timings.frames_per_second, rel=0.01)
        assert sum(take.parts.values()) == pytest.approx(sum(timings.by_stage.values()))
        assert set(take.parts) == {"denoising", "storing", "decoding", "writing"}
        assert min(take.parts.values()) > 0
    assert sum(overlap.serial[0].parts.values()) < overlap.serial[0].seconds


def test_ratios_are_medians_over_pairs() -> None:
    def take(seconds: float, denoising: float, writing: float) -> EndToEnd:
        return EndToEnd(seconds, 16, {"denoising": denoising, "writing": writing})

    overlap = Overlap([take(9, 6, 3), take(8, 5, 3), take(8, 2, 5)], [take(6.6, 9, 9), take(5.5, 9, 9), take(4, 9, 9)])
    assert overlap.longest == "denoising"
    assert overlap.over_longest == pytest.approx(1.1)
    assert overlap.over_serial == pytest.approx(0.6875)


def test_what_fails_is_raised(pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "_decode", lambda *_: 1 / 0)
    run = TakeRun("random", tmp_path, "cpu", "float32", 1, "philox")
    with pytest.raises(ZeroDivisionError):
        make_take(pipe, pipe.request("a red circle walks", seconds=1.0), run, tmp_path / "take")
