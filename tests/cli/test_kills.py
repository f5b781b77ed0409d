"""Commands in processes of their own, killed at random moments; `python -m tests.cli.kills` kills many."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from longlive_rag.takes.folder import VIDEO
from tests.cli.kills import Campaign, table
from tests.forked import Forked

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600


def start(*arguments: object) -> Forked:
    with open(os.devnull, "r+") as silence:
        return Forked(arguments, ROOT, [silence.fileno()] * 3)


@pytest.mark.slow
def test_killed_commands_that_are_gone_on_with_give_the_uninterrupted_takes(
    pipeline_folder: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    kills = list(Campaign(tmp_path, pipeline_folder, seed=7).kill(pytestconfig.getoption("--kills")))
    print(table(kills))
    assert not [str(kill) for kill in kills if kill.differences]


@pytest.mark.slow
def test_workers_of_a_killed_comparison_end_and_it_goes_on(command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle stands in a meadow\n")
    compare = ("eval", "compare", "--arms", "native,memory", "--prompts", prompts, "--seeds", 1, "--horizons", 30)
    compare += ("--embedders", "pixels", "--embed-every", 8, "--workers", 2, "--threads", 1, "--exploratory", "-o", run)
    first = start(*compare)
    deadline = time.monotonic() + PATIENCE_S
    while not bytes_made(run) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    second = command(*compare)  # in this process: starting one would give the first time to finish
    first.send_signal(signal.SIGKILL)
    first.wait(PATIENCE_S)
    assert second.code == 2
    assert "is being written by another process; wait for it or stop it" in second.err
    time.sleep(1)
    left = bytes_made(run)
    time.sleep(3)
    assert bytes_made(run) == left
    assert not list(run.rglob("measures.json"))
    assert start(*compare).wait(PATIENCE_S) == 0
    assert (run / "report.html").exists()


def bytes_made(run: Path) -> int:
    return sum(video.stat().st_size for video in run.glob(f"takes/*/*/{VIDEO}"))
