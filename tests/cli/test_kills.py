"""`generate`, `resume` and `eval compare` in processes of their own, killed at random moments.

`pytest tests/cli/test_kills.py --kills 50` does it fifty times.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from longlive_rag.media.video import read_frames
from longlive_rag.takes.folder import LATENTS, RECORD, VIDEO
from longlive_rag.takes.record import read_record
from retrieval.store import LatentStore

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
REQUEST = ("a red circle walks in a meadow", "--seconds", "6", "--seed", "5", "--cue", "4", "a blue square jumps")
PATIENCE_S = 600


def start(*arguments: object) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "longlive_rag", *map(str, arguments)]
    return subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def seconds_of_work(process: subprocess.Popen[bytes], begun: Path, mtime: float) -> float:
    """From the moment when `begun` is written to the end of the process."""
    wait_for(process, begun, mtime)
    start_s = time.monotonic()
    assert process.wait(PATIENCE_S) == 0
    return time.monotonic() - start_s


def wait_for(process: subprocess.Popen[bytes], path: Path, mtime: float) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.stat().st_mtime > mtime:
            return
        time.sleep(0.005)


def kill_at(process: subprocess.Popen[bytes], begun: Path, mtime: float, delay_s: float) -> None:
    wait_for(process, begun, mtime)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE_S)


def assert_same(take: Path, whole: Path) -> None:
    ours, theirs = LatentStore(take / LATENTS), LatentStore(whole / LATENTS)
    assert ours.blocks == theirs.blocks
    for block in range(ours.blocks):
        assert np.array_equal(ours.record(block).latents, theirs.record(block).latents), f"block {block}"
        assert ours.record(block).selection == theirs.record(block).selection
    pairs = list(zip(read_frames(take / VIDEO), read_frames(whole / VIDEO), strict=True))
    assert len(pairs) == 96
    assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.slow
def test_killed_and_resumed_takes_are_the_uninterrupted_one(
    pipeline_folder: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    moments = random.Random(7)
    generate = ("generate", *REQUEST, "--backbone", pipeline_folder, "-o")
    whole = tmp_path / "whole"
    work_s = seconds_of_work(start(*generate, whole), whole / RECORD, 0)
    resumed = 0
    for attempt in range(pytestconfig.getoption("--kills")):
        take = tmp_path / f"take{attempt}"
        kill_at(start(*generate, take), take / RECORD, 0, moments.uniform(0, work_s))
        if moments.random() < 0.3 and (take / RECORD).exists():  # once more, while it goes on
            mtime = (take / RECORD).stat().st_mtime
            kill_at(start("resume", take), take / RECORD, mtime, moments.uniform(0, work_s / 2))
        is_take = (take / RECORD).exists()
        resumed += is_take and read_record(take).status == "running"
        last = start("resume", take) if is_take else start(*generate, take)
        assert last.wait(PATIENCE_S) == 0, attempt
        assert read_record(take).status == "finished"
        assert_same(take, whole)
    assert resumed > 0


@pytest.mark.slow
def test_workers_of_a_killed_comparison_end_and_it_goes_on(command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle stands in a meadow\n")
    compare = ("eval", "compare", "--arms", "native,memory", "--prompts", prompts, "--seeds", 1, "--horizons", 60)
    compare += ("--embedders", "pixels", "--embed-every", 8, "--workers", 2, "--threads", 1, "-o", run)
    first = start(*compare)
    deadline = time.monotonic() + PATIENCE_S
    while not bytes_made(run) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    second = command(*compare)  # in this process: starting one would give the first time to finish
    first.send_signal(signal.SIGKILL)
    first.wait(PATIENCE_S)
    assert second.code == 2
    assert "is being written by another process; wait for it, or stop it" in second.err
    time.sleep(1)
    left = bytes_made(run)
    time.sleep(3)
    assert bytes_made(run) == left
    assert not list(run.rglob("measures.json"))
    assert start(*compare).wait(PATIENCE_S) == 0
    assert (run / "report.html").exists()


def bytes_made(run: Path) -> int:
    return sum(video.stat().st_size for video in run.glob(f"takes/*/*/{VIDEO}"))
