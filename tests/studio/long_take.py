"""What the studio's server holds while a long take is made: `python -m tests.studio.long_take --minutes 20`.

The tests' small random backbone makes it as fast as it can; a window listens, fetches every block and looks at frames.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.conftest import random_pipeline
from tests.served import Forked

PROMPT = "a red circle walks in a meadow"
MIB = 2**20


@dataclass(frozen=True)
class Held:
    """What the server holds when so much of the take is made.

    Attributes:
        take_s: seconds of the take.
        memory_mib: resident.
        files: that are open.
    """

    take_s: float
    memory_mib: float
    files: int

    def __str__(self) -> str:
        return f"{self.take_s / 60:5.1f} min  {self.memory_mib:8.1f} MiB  {self.files:4} files"


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
                    yield Held(made_s, server.memory_info().rss / MIB, server.num_fds())
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
    minutes = (found[-1].take_s - found[0].take_s) / 60
    if minutes:
        growth = (found[-1].memory_mib - found[0].memory_mib) / minutes
        print(f"growth: {growth:.2f} MiB a minute of the take, from the first to the last")


if __name__ == "__main__":
    main()
