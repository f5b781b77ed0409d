"""Many clients at once, on tiny-world: what is lost, what is mixed up, memory, and how long a status request takes.

python -m tests.serving.load --clients 20 --takes 200 --seconds 5 --workers 2
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from longlive_rag.takes.record import read_record

KEY = "a-key-for-the-figures"
SHAPES, COLOURS = ("circle", "square", "triangle"), ("red", "blue", "green", "yellow")
ACTIONS, PLACES = ("walks", "jumps", "stands"), ("a meadow", "a desert")


def prompt_of(number: int) -> str:
    """Words of the grammar, another sentence for each of 72 numbers."""
    words = []
    for choices in (COLOURS, SHAPES, ACTIONS, PLACES):
        words.append(choices[number % len(choices)])
        number //= len(choices)
    return f"a {words[0]} {words[1]} {words[2]} in {words[3]}"


class Figures:
    """What was seen."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}
        self.statuses: Counter[str] = Counter()
        self.look_s: list[float] = []
        self.memory: list[tuple[int, int]] = []


async def client(api: httpx.AsyncClient, numbers: list[int], seconds: float, figures: Figures) -> None:
    """Ask for videos one after the other, and look at each until it has ended."""
    for number in numbers:
        order = {"prompt": prompt_of(number), "seconds": seconds, "seed": number}
        answer = await api.post("/v1/videos", json=order)
        answer.raise_for_status()
        video = answer.json()["id"]
        figures.asked[video] = number
        while True:
            begin = time.perf_counter()
            found = (await api.get(f"/v1/videos/{video}")).raise_for_status().json()
            figures.look_s.append(time.perf_counter() - begin)
            if found["status"] in ("completed", "failed"):
                figures.statuses[found["status"]] += 1
                break
            await asyncio.sleep(1)


async def watch_memory(process: psutil.Process, figures: Figures) -> None:
    """Resident bytes of the server and of its workers, every 5 s."""
    while True:
        workers = sum(child.memory_info().rss for child in process.children(recursive=True))
        figures.memory.append((process.memory_info().rss, workers))
        await asyncio.sleep(5)


async def load(url: str, process: psutil.Process, clients: int, takes: int, seconds: float) -> Figures:
    """Everything at once."""
    figures = Figures()
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120, trust_env=False) as api:
        watching = asyncio.create_task(watch_memory(process, figures))
        numbers = [list(range(first, takes, clients)) for first in range(clients)]
        await asyncio.gather(*(client(api, each, seconds, figures) for each in numbers))
        watching.cancel()
    return figures


def mixed_up(takes: Path, figures: Figures) -> list[str]:
    """Videos whose records do not say what was asked for."""
    wrong = []
    for video, number in figures.asked.items():
        request = read_record(takes / "admin" / video).request
        if (request.prompt, request.seed) != (prompt_of(number), number):
            wrong.append(video)
    return wrong


@contextmanager
def served(takes: Path, workers: int) -> Iterator[tuple[str, psutil.Process]]:
    """Address and process of a server; it is ended at the end of the `with` body, which prints how long that took."""
    command = [sys.executable, "-m", "longlive_rag", "serve", "--takes", str(takes), "--port", "0"]
    environment = os.environ | {"LONGLIVE_RAG_API_KEY": KEY}
    with subprocess.Popen(
        [*command, "--workers", str(workers), "--log-level", "warning"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip().removesuffix("/v1"), psutil.Process(process.pid)
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        print(f"SIGTERM: exit code {process.wait()} after {time.monotonic() - begin:.1f} s")


def quarters(values: list[float]) -> str:
    """Means of the four quarters of a series."""
    size = max(1, -(-len(values) // 4))
    return ", ".join(f"{statistics.mean(values[first : first + size]):.0f}" for first in range(0, len(values), size))


def main() -> None:
    """Start a server, let the clients make their takes, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--takes", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begin, takes = time.monotonic(), Path(folder) / "takes"
        with served(takes, asked.workers) as (url, process):
            figures = asyncio.run(load(url, process, asked.clients, asked.takes, asked.seconds))
        wrong, minutes = mixed_up(takes, figures), (time.monotonic() - begin) / 60
    what = f"{asked.takes} takes of {asked.seconds:g} s, {asked.clients} clients, {asked.workers} workers"
    print(f"{what}: {minutes:.1f} minutes")
    lost = asked.takes - figures.statuses.total()
    print(f"ended: {dict(figures.statuses)}; lost: {lost}; mixed up: {len(wrong)}")
    looks = statistics.quantiles([1000 * seconds for seconds in figures.look_s], n=100)
    print(f"{len(figures.look_s)} status requests: median {looks[49]:.0f} ms, p95 {looks[94]:.0f}, p99 {looks[98]:.0f}")
    for place, name in enumerate(("server", "workers")):
        mib = [each[place] / 2**20 for each in figures.memory]
        print(f"resident MiB of {name}, mean of each quarter: {quarters(mib)}")


if __name__ == "__main__":
    main()
