"""Orders, engines over processes that start fast, and the takes that nothing disturbs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from longlive_rag.config import TakeRequest
from longlive_rag.engines.engine import ENDED, Engine, Make, SessionFacts
from longlive_rag.engines.local import LocalWorkers
from longlive_rag.engines.supervisor import Limits, Supervisor
from longlive_rag.presets.preset import load_preset
from longlive_rag.sessions.making import NewTake, new_take
from longlive_rag.takes.record import read_record
from tests.cli.kills import differences
from tests.forked import context

PROMPT, OTHER = "a red circle walks in a meadow", "a blue square jumps in a desert"
PATIENCE_S = 300.0


def engine_at(state: Path, workers: int = 2, limits: Limits | None = None) -> Supervisor:
    """An engine whose workers are forked off a process that has imported everything."""
    context()  # it is the one of all forked processes
    return Supervisor(LocalWorkers(["cpu"] * workers, "forkserver"), state, limits)


def request_of(backbone: Path, seed: int, seconds: float = 4.0, prompt: str = PROMPT, **settings) -> TakeRequest:
    """A request with the backbone's preset."""
    preset = load_preset(str(backbone))
    parts = {part: getattr(preset, part) for part in ("context", "sampler", "memory", "output")}
    return TakeRequest(prompt=prompt, seconds=seconds, seed=seed, **{**parts, **settings})


def make_order(backbone: Path, folder: Path, seed: int, seconds: float = 4.0, **settings) -> Make:
    """A new take."""
    return Make(str(backbone), request_of(backbone, seed, seconds, **settings), folder)


def wait_for(engine: Engine, session: str, state: Callable[[SessionFacts], bool]) -> SessionFacts:
    """A session as soon as it is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not state(facts := engine.facts(session)):
        assert time.monotonic() < deadline, facts
        assert facts.state != "failed", facts.error
        time.sleep(0.005)
    return facts


def ended(engine: Engine, session: str) -> SessionFacts:
    """A session when it has ended well."""
    return wait_for(engine, session, lambda facts: facts.state in ENDED)


def has_blocks(count: int) -> Callable[[SessionFacts], bool]:
    """Whether a session has so many blocks."""
    return lambda facts: facts.blocks >= count


def kill_worker_of(engine: Engine, session: str) -> bool:
    """Kill the process that makes a session; False if none does."""
    for worker in engine.workers():
        if worker.session == session and worker.pid is not None:
            try:
                os.kill(worker.pid, signal.SIGKILL)
            except ProcessLookupError:  # it was killed before, and has not been missed yet
                return False
            return True
    return False


def unlike_undisturbed(backbone: Path, take: Path, whole: Path) -> list[str]:
    """What a take has not in common with one of the same request that is made here and now, without an engine."""
    request = read_record(take).request
    with new_take(NewTake(load_preset(str(backbone)), request, whole), lambda _: None) as job:
        job.run(lambda *_: None)
    return differences(take, whole)
