"""Workers that are killed at random moments: are the takes equal to those that nobody disturbed?

`python -m tests.engines.kills --kills 10 --seed 0` makes takes of tiny-world with `--workers` processes, kills one of
them at a time with SIGKILL, prints a line for each kill and one for each take, and exits with 1 if one is not equal.
With `--nodes` it kills nodes of a Ray cluster on this machine, each with one worker, and adds another one.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from longlive_rag.engines.engine import ENDED
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


def lines(
    engine: Supervisor, kill: Kill, folder: Path, backbone: Path, kills: int, seed: int, seconds: float
) -> Iterator[str]:
    """Kill so many workers, and compare the takes that come of it; the last line counts both."""
    chance = random.Random(seed)
    takes: dict[str, Path] = {}
    directed: list[tuple[str, float]] = []
    states: Counter[str] = Counter()

    def submit() -> None:
        number = len(takes)
        takes[engine.submit(make_order(backbone, folder / f"take{number}", number, seconds))] = folder / f"take{number}"

    for _ in range(TAKES):
        submit()
    done = 0
    while done < kills:
        time.sleep(chance.uniform(0, LONGEST_WAIT_S))
        while sum(facts.state not in ENDED for facts in engine.sessions()) < TAKES // 2:
            submit()
        busy = [worker.session for worker in engine.workers() if worker.session is not None]
        if not busy:
            continue
        session = chance.choice(busy)
        if chance.random() < WHILE_IT_MAKES_BLOCKS:
            before = engine.facts(session).blocks
            while engine.facts(session).state == "running" and engine.facts(session).blocks == before:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, LONGEST_BLOCK_S))
        try:
            directed.append((session, engine.direct(session, OTHER)))
        except ValueError:
            said = "not directed"  # its blocks have not begun, or they have ended
        else:
            said = "directed just before"
        before = engine.facts(session)
        if kill(engine, session):
            done += 1
            yield f"kill {done}: {takes[session].name} at block {before.blocks} of {before.total_blocks}, {said}"
    while any(facts.state not in ENDED for facts in engine.sessions()):
        time.sleep(0.05)
    for facts in engine.sessions():
        found = unlike_undisturbed(backbone, facts.folder, folder / f"whole-{facts.folder.name}")
        cues = {cue.seconds for cue in read_record(facts.folder).request.cues}
        found += [f"direction at {at:g} s" for each, at in directed if each == facts.id and at not in cues]
        equal = facts.state == "finished" and not found
        states["equal" if equal else "not equal"] += 1
        said = "equal" if equal else f"not equal: {facts.state} {', '.join(found)}"
        yield f"{facts.folder.name}: {facts.restarts} times resumed, {facts.total_blocks} blocks, {said}"
    engine.close()
    yield f"{done} kills, {states['equal']} takes equal, {states['not equal']} not equal"


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
        for line in lines(engine, kill, Path(folder), backbone, given.kills, given.seed, given.seconds):
            print(line, flush=True)
        if nodes:
            nodes.close()
    return 0 if line.endswith(" 0 not equal") else 1


if __name__ == "__main__":
    sys.exit(main())
