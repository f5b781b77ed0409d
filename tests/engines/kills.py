"""Workers that are killed at random moments: are the takes equal to those that nobody disturbed?

`python -m tests.engines.kills --kills 10 --seed 0` makes takes of tiny-world with `--workers` processes, kills one of
them at a time with SIGKILL, prints a line for each kill and one for each take, and exits with 1 if one is not equal.
With `--nodes` it kills nodes of a Ray cluster on this machine, each with one worker, and adds another one.

A kill's line says when it was, counted from the first take on, how far its take was, and how long the pause was until
that take's next new block.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from longlive_rag.engines.engine import ENDED, SessionFacts
from longlive_rag.engines.supervisor import Limits, Supervisor
from longlive_rag.presets.preset import find_folder
from longlive_rag.takes.record import read_record
from tests.engines.making import OTHER, engine_at, kill_worker_of, make_order, unlike_undisturbed

TAKES = 4
Kill = Callable[[Supervisor, str], bool]
LONGEST_WAIT_S = 4.0
LONGEST_BLOCK_S = 1.0
WHILE_IT_MAKES_BLOCKS = 0.8


class Nodes:
    """A Ray cluster whose workers have a node each."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self._nodes = [self._cluster.add_node(num_cpus=1) for _ in range(count)]
        self._cluster.wait_for_nodes()

    def engine(self, state: Path, limits: Limits) -> Supervisor:
        """An engine over all of them."""
        from longlive_rag.engines.on_ray import RayWorkers

        return Supervisor(RayWorkers(self._cluster.address, len(self._nodes), 0), state, limits)

    def close(self) -> None:
        """End the cluster."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()

    def kill(self, engine: Supervisor, session: str) -> bool:
        """Kill the node on which a session is made, and add another one."""
        pids = [worker.pid for worker in engine.workers() if worker.session == session]
        if not pids or not pids[0] or not psutil.pid_exists(pids[0]):
            return False
        raylet = psutil.Process(pids[0]).parent()
        node = next(each for each in self._nodes if raylet and _raylet_of(each) == raylet.pid)
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.append(self._cluster.add_node(num_cpus=1))
        return True


def _raylet_of(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


@dataclass
class Killed:
    """A kill.

    Attributes:
        session, take: that was being made.
        at_s: when, on the clock of `time.monotonic`.
        blocks, total_blocks: that the take had, and is to have.
        restarts: of the session before it.
        said: whether a direction was given just before.
        pause_s: from the kill to the next new block, which another worker has made; None as long as there is none.
    """

    session: str
    take: str
    at_s: float
    blocks: int
    total_blocks: int
    restarts: int
    said: str
    pause_s: float | None = None


class Campaign:
    """Kills workers while they make takes, and compares what comes of it.

    Args:
        engine: has the workers; the campaign closes it.
        kill: kills the worker that makes a session; False if none does.
        folder: of the takes.
        backbone, seconds: of each take.
        seed: of the moments.
    """

    def __init__(self, engine: Supervisor, kill: Kill, folder: Path, backbone: Path, seconds: float, seed: int) -> None:
        self._engine, self._kill, self._folder = engine, kill, folder
        self._backbone, self._seconds, self._chance = backbone, seconds, random.Random(seed)
        self._takes: dict[str, Path] = {}
        self._directed: list[tuple[str, float]] = []
        self._kills: list[Killed] = []
        self._most: Counter[str] = Counter()  # blocks that were seen of each session
        engine.watch(self._hear)

    def lines(self, kills: int) -> Iterator[str]:
        """Kill so many workers; a line for each kill and each take, and a last one that counts both."""
        begin_s, told = time.monotonic(), 0
        for _ in range(TAKES):
            self._submit()
        while len(self._kills) < kills or told < kills or self._are_made():
            if len(self._kills) < kills:
                self._kill_at_random()
            else:
                time.sleep(0.05)
            while told < len(self._kills) and self._is_over(self._kills[told]):
                told += 1
                yield f"kill {told}: {_line(self._kills[told - 1], begin_s)}"
        equal = 0
        for facts in self._engine.sessions():
            unlike = self._unlike(facts)
            equal += not unlike
            outcome = f"not equal: {facts.state} {', '.join(unlike)}" if unlike else "equal"
            yield f"{facts.folder.name}: {facts.restarts} times resumed, {facts.total_blocks} blocks, {outcome}"
        self._engine.close()
        yield f"{kills} kills, {equal} takes equal, {len(self._takes) - equal} not equal"

    def _submit(self) -> None:
        number = len(self._takes)
        folder = self._folder / f"take{number}"
        self._takes[self._engine.submit(make_order(self._backbone, folder, number, self._seconds))] = folder

    def _are_made(self) -> int:
        """How many takes are not at their end."""
        return sum(facts.state not in ENDED for facts in self._engine.sessions())

    def _kill_at_random(self) -> None:
        time.sleep(self._chance.uniform(0, LONGEST_WAIT_S))
        while self._are_made() < TAKES // 2:
            self._submit()
        busy = [worker.session for worker in self._engine.workers() if worker.session is not None]
        if not busy:
            return
        session = self._chance.choice(busy)
        if self._chance.random() < WHILE_IT_MAKES_BLOCKS:
            before = self._engine.facts(session).blocks
            while (facts := self._engine.facts(session)).state == "running" and facts.blocks == before:
                time.sleep(0.01)
            time.sleep(self._chance.uniform(0, LONGEST_BLOCK_S))
        try:
            self._directed.append((session, self._engine.direct(session, OTHER)))
        except ValueError:
            said = "not directed"  # its blocks have not begun, or they have ended
        else:
            said = "directed just before"
        facts, name = self._engine.facts(session), self._takes[session].name
        progress = (facts.blocks, facts.total_blocks, facts.restarts)
        self._kills.append(Killed(session, name, time.monotonic(), *progress, said))
        if not self._kill(self._engine, session):
            self._kills.pop()

    def _hear(self, facts: SessionFacts) -> None:
        """Of a session: is there a new block after a kill?"""
        now_s, shown = time.monotonic(), facts.block.index + 1 if facts.block else 0
        is_new = shown > self._most[facts.id]
        self._most[facts.id] = max(self._most[facts.id], shown)
        for kill in self._kills:
            is_next = is_new and kill.session == facts.id and facts.restarts > kill.restarts
            if is_next and kill.pause_s is None:
                kill.pause_s = now_s - kill.at_s

    def _is_over(self, kill: Killed) -> bool:
        return kill.pause_s is not None or self._engine.facts(kill.session).state in ENDED

    def _unlike(self, facts: SessionFacts) -> list[str]:
        """What a take has not in common with the undisturbed one, and directions that are not in its record."""
        if facts.state != "finished":
            return [facts.error or "it is not whole"]
        unlike = unlike_undisturbed(self._backbone, facts.folder, self._folder / f"whole-{facts.folder.name}")
        cues = {cue.seconds for cue in read_record(facts.folder).request.cues}
        lost = [at for session, at in self._directed if session == facts.id and at not in cues]
        return unlike + [f"direction at {at:g} s" for at in lost]


def _line(kill: Killed, begin_s: float) -> str:
    after = "no block was left to be made" if kill.pause_s is None else f"next block after {kill.pause_s:.1f} s"
    place = f"{kill.take} at block {kill.blocks} of {kill.total_blocks}"
    return f"at {kill.at_s - begin_s:.1f} s, {place}, {kill.said}; {after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--nodes", action="store_true", help="Kill nodes of a Ray cluster.")
    parser.add_argument("--seconds", type=float, default=10.0, help="Length of each take.")
    parser.add_argument("--backbone", default="tiny-world")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        backbone = find_folder(given.backbone)
        state, limits = Path(folder) / "state", Limits(deaths=given.kills + 1)
        nodes = Nodes(given.workers) if given.nodes else None
        engine = nodes.engine(state, limits) if nodes else engine_at(state, given.workers, limits)
        kill = nodes.kill if nodes else kill_worker_of
        campaign = Campaign(engine, kill, Path(folder), backbone, given.seconds, given.seed)
        for line in campaign.lines(given.kills):
            print(line, flush=True)
        if nodes:
            nodes.close()
    return 0 if line.endswith(" 0 not equal") else 1


if __name__ == "__main__":
    sys.exit(main())
