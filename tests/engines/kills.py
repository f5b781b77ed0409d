"""Workers that are killed at random moments: are the takes equal to those that nobody disturbed?

`python -m tests.engines.kills --kills 10 --seed 0` makes takes of tiny-world with `--workers` processes, kills one of
them at a time with SIGKILL, prints a line for each kill and one for each take, and exits with 1 if one is not equal.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from longlive_rag.engines.engine import ENDED
from longlive_rag.engines.supervisor import Limits
from longlive_rag.presets.preset import find_folder
from longlive_rag.takes.record import read_record
from tests.engines.making import OTHER, engine_at, kill_worker_of, make_order, unlike_undisturbed

TAKES = 4
LONGEST_WAIT_S = 4.0
LONGEST_BLOCK_S = 1.0
WHILE_IT_MAKES_BLOCKS = 0.8


def lines(folder: Path, backbone: Path, kills: int, seed: int, workers: int, seconds: float) -> Iterator[str]:
    """Kill so many workers, and compare the takes that come of it; the last line counts both."""
    chance = random.Random(seed)
    engine = engine_at(folder / "state", workers, Limits(deaths=kills + 1))
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
        if kill_worker_of(engine, session):
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
    parser.add_argument("--seconds", type=float, default=10.0, help="Length of each take.")
    parser.add_argument("--backbone", default="tiny-world")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        backbone = find_folder(given.backbone)
        for line in lines(Path(folder), backbone, given.kills, given.seed, given.workers, given.seconds):
            print(line, flush=True)
    return 0 if line.endswith(" 0 not equal") else 1


if __name__ == "__main__":
    sys.exit(main())
