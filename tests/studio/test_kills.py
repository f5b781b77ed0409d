"""A studio that is killed at random moments: what it showed is there, and goes on to the very take that it began."""

from __future__ import annotations

import io
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import httpx
import pytest
from windows import OTHER, PROMPT

from tests.cli.kills import differences
from tests.served import Forked

KILLS = 10
LONGEST_S = 1.2
NEW = {"prompt": PROMPT, "seconds": 72.0, "seed": 5}


class Looking(threading.Thread):
    """Fetches every block that a studio announces, until it is gone.

    Attributes:
        shown: by block that is not void: its packets; None where the studio was killed before they were fetched.
    """

    def __init__(self, served: Forked) -> None:
        super().__init__(daemon=True)
        self.served, self.shown = served, dict[int, list[bytes] | None]()
        self.ready, self.made = threading.Event(), threading.Event()

    def run(self) -> None:
        try:
            with self.served.events() as socket:
                self.ready.set()
                while True:
                    self._hear(json.loads(socket.recv(60)))
        except Exception:  # it was killed
            return

    def _hear(self, event: dict) -> None:
        if event["type"] == "cut":
            self.shown = {block: data for block, data in self.shown.items() if block < event["blocks"]}
        if event["type"] == "block":
            self.made.set()
            self.shown[event["segment"]["block"]] = None
            answer = self.served.client.get(event["segment"]["url"])
            self.shown[event["segment"]["block"]] = packets_of(answer.content)


def packets_of(data: bytes) -> list[bytes]:
    with av.open(io.BytesIO(data)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def make_until_killed(
    served: Forked, take: str | None, after_block: bool, delay_s: float
) -> dict[int, list[bytes] | None]:
    """Begin a take, or go on with it; returns what was shown when the studio was killed.

    Args:
        after_block: whether `delay_s` counts from the first block that is new, or from what was asked.
    """
    looking = Looking(served)
    looking.start()
    looking.ready.wait(60)

    def ask() -> None:
        try:
            if take is None:
                answer = served.client.post("/api/takes", json=NEW)
            else:
                answer = served.client.post(f"/api/takes/{take}/commands", json={"do": "resume"})
            direction = {"do": "direct", "prompt": f"{OTHER} {delay_s:.1f} times"}
            served.client.post(f"/api/takes/{answer.json()['id']}/commands", json=direction)
        except (httpx.HTTPError, KeyError):  # it was killed
            return

    threading.Thread(target=ask, daemon=True).start()
    if after_block:
        looking.made.wait(60)
    time.sleep(delay_s)
    served.end(signal.SIGKILL)
    looking.join(60)
    return looking.shown


def check_shown(served: Forked, take: str, shown: dict[int, list[bytes] | None]) -> None:
    segments = served.client.get(f"/api/takes/{take}").json()["segments"]
    assert len(segments) > max(shown, default=-1)
    for block, packets in shown.items():
        again = packets_of(served.client.get(segments[block]["url"]).content)
        assert packets in (None, again)
    if segments:  # the last one can be decoded to its end
        last = segments[-1]["first_frame"] + segments[-1]["frames"] - 1
        assert served.client.get(f"/api/takes/{take}/frame/{last}.jpg").status_code == 200


def finished(served: Forked, take: str) -> None:
    for _ in range(600):
        status = served.client.get(f"/api/takes/{take}").json()["status"]
        if status == "finished":
            return
        time.sleep(0.1)
    raise AssertionError(f"it is {status}")


@pytest.fixture
def start(tmp_path: Path, pipeline_folder: Path) -> Iterator[Callable[[], Forked]]:
    """Starts a studio, in a process that has ended when the test has."""
    begun: list[Forked] = []

    def start() -> Forked:
        begun.append(Forked(tmp_path / "takes", pipeline_folder))
        return begun[-1]

    yield start
    for served in begun:
        served.process.kill()


@pytest.mark.slow
def test_what_was_shown_is_there_after_ten_kills(tmp_path: Path, start: Callable[[], Forked]) -> None:
    chance, announced = random.Random(0), []
    served, take = start(), None
    for _ in range(KILLS):
        shown = make_until_killed(served, take, chance.random() < 0.7, chance.uniform(0, LONGEST_S))
        announced.append(len(shown))
        served = start()
        found = served.client.get("/api/takes").json()["takes"]
        if found:
            check_shown(served, found[0]["id"], shown)
        take = found[0]["id"] if found and found[0]["status"] != "finished" else None
    print(f"blocks announced before each kill: {announced}")
    take = take or found[0]["id"]
    answer = served.client.post(f"/api/takes/{take}/commands", json={"do": "resume"})
    assert answer.status_code == 200, answer.text
    finished(served, take)
    detail = served.client.get(f"/api/takes/{take}").json()
    assert len(detail["cues"]) > 2
    cues = [{"seconds": cue["seconds"], "prompt": cue["prompt"]} for cue in detail["cues"]]
    whole = served.client.post("/api/takes", json={**NEW, "cues": cues}).json()["id"]
    finished(served, whole)
    names = [served.client.get(f"/api/takes/{each}").json()["name"] for each in (take, whole)]
    assert served.end(signal.SIGINT) == 0
    assert differences(tmp_path / "takes" / names[0], tmp_path / "takes" / names[1]) == []
