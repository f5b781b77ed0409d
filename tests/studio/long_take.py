"""What the studio's server and worker hold while a long take is made: `python -m tests.studio.long_take --minutes 20`.

The tests' small random backbone makes it as fast as it can; a window listens, fetches every block and looks at frames.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.conftest import random_pipeline
from tests.served import Forked

PROMPT = "a red circle walks in a meadow"
MIB = 2**20


@dataclass(frozen=True)
class Held:
    """What server and worker hold when so much of the take is made.

    Attributes:
        take_s: seconds of the take.
        memory_mib: resident, of both.
        pages_mib: of memory's pages, which have budgets of their own; they are part of it.
        files: that the server has open.
    """

    take_s: float
    memory_mib: float
    pages_mib: float
    files: int

    def __str__(self) -> str:
        memory = f"{self.memory_mib:8.1f} MiB, {self.pages_mib:6.1f} of them pages"
        return f"{self.take_s / 60:5.1f} min  {memory}  {self.files:4} files"


def measured(folder: Path, backbone: Path, minutes: float, times: int) -> Iterator[Held]:
    """Make a take in a server of its own; what it holds, so many times evenly over the take."""
    served = Forked(folder, backbone)
    server, following = psutil.Process(served.process.pid), 1
    try:
        with served.events() as socket:
            asked = {"prompt": PROMPT, "seconds": 60.0 * minutes}
            take = served.client.post("/api/takes", json=asked).json()["id"]
            while following <= times:
                event = json.loads(socket.recv(120))
                if event["type"] != "block":
                    continue
                served.client.get(event["segment"]["url"])
                served.client.get(f"/api/takes/{take}/frame/{event['segment']['first_frame']}.jpg?width=96")
                made_s = event["stats"]["made_seconds"]
                if made_s >= following * 60 * minutes / times:
                    pages = event["stats"]["pages_bytes"] / MIB
                    both = [server, *server.children()]
                    memory = sum(process.memory_info().rss for process in both)
                    yield Held(made_s, memory / MIB, pages, server.num_fds())
                    following += 1
    finally:
        served.end(signal.SIGKILL)


def main() -> None:
    """Print a line for each quarter of the take, and the growth between the second and the last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="of the take")
    parser.add_argument("--times", type=int, default=4, help="how often it is measured")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        backbone = Path(place) / "random"
        random_pipeline().save_pretrained(backbone)
        found = []
        for held in measured(Path(place) / "takes", backbone, given.minutes, given.times):
            found.append(held)
            print(held, flush=True)
    print(f"growth: {growth(found):.2f} MiB a minute of the take beside the pages, from the first to the last")


def growth(found: Sequence[Held]) -> float:
    """MiB a minute of the take, pages apart."""
    first, last = found[0], found[-1]
    grown = (last.memory_mib - last.pages_mib) - (first.memory_mib - first.pages_mib)
    return 60 * grown / (last.take_s - first.take_s)


if __name__ == "__main__":
    main()
