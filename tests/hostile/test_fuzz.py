"""Damaged files, some 500 of them: no traceback, no hang, nothing touched that is around, no policy passed.

`python -m tests.hostile.fuzz` does more of them, each in a process with limits.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import FrameType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longlive_rag.sessions.making import TakeJob
from tests.hostile.commands import SECONDS, fault, passed_policy, run_here, snapshot, touched
from tests.hostile.world import POLICY, TARGETS, build, damage

EACH = 22
RESUMED = ("record", "block", "video", "checkpoint", "picture of a take")
"""What these say is read while the take goes on, too."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("hostile") / "world")


@pytest.fixture
def nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is read and checked, and then somebody presses Ctrl-C."""
    run = TakeJob.run

    def stop(job: TakeJob, on_block: object) -> object:
        def stream(*_: object, **__: object) -> Iterator[object]:
            raise KeyboardInterrupt

        monkeypatch.setattr(job.pipe, "stream", stream)
        return run(job, on_block)  # type: ignore[arg-type]

    monkeypatch.setattr(TakeJob, "run", stop)
    monkeypatch.setattr("eval.compare._make", lambda _, todo, *__: iter(stopped, None) if todo else iter(()))


def stopped() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def no_longer() -> Iterator[None]:
    """What takes longer than it may is a failure."""

    def end(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"it took longer than {SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, end)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def check(world: Path, room: Path, name: str, seed: int) -> None:
    shutil.rmtree(room, ignore_errors=True)
    shutil.copytree(world, room, symlinks=True)
    work, around = room / "work", snapshot(room / "around")
    here = os.getcwd()
    os.chdir(work)
    try:
        command, what = damage(work, name, Random(seed))
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        ended = run_here(command, work)
        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        os.chdir(here)
    wrong = fault(ended) or touched(around, room / "around")
    assert not wrong, f"{what}; {' '.join(command)}: {wrong}\n{ended.err}"
    if ended.code == 0 and set(POLICY) <= set(command):
        assert not passed_policy(work / "model")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TARGETS if name not in RESUMED])
@settings(max_examples=EACH, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_whatever_a_file_holds(
    world: Path, tmp_path: Path, nothing_is_made: None, no_longer: None, name: str, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if name == "config file":
            patch.setenv("LONGLIVE_RAG_CONFIG", "config.toml")
        check(world, tmp_path / "room", name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
@settings(max_examples=EACH, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_whatever_a_take_holds(world: Path, tmp_path: Path, no_longer: None, name: str, seed: int) -> None:
    check(world, tmp_path / "room", name, seed)
