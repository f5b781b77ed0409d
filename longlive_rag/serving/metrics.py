"""Metrics for Prometheus: the queue, speed, time by stage, memory, quotas and the drift of running takes."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from longlive_rag.engines.engine import ENDED, SessionFacts, SessionState
from longlive_rag.serving.guard import Seen
from longlive_rag.serving.keys import Keys
from longlive_rag.serving.ledger import Entry
from longlive_rag.serving.limits import GIB
from longlive_rag.serving.videos import Videos
from longlive_rag.takes.folder import LATENTS
from retrieval.store import LatentStore

STATES: tuple[SessionState, ...] = ("queued", "running", "parked")
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS")
OTHER = "other"


class Metrics:
    """Counts events; the gauges are read when Prometheus asks.

    Args:
        videos, keys: what the gauges show.
    """

    def __init__(self, videos: Videos, keys: Keys) -> None:
        self._registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter("longlive_rag_requests", "Requests answered.", ["method", "route", "status"], **make)
        self._seconds = Histogram(
            "longlive_rag_request_seconds", "Until the response was sent.", ["route"], buckets=REQUEST_SECONDS, **make
        )
        self._ended = Counter("longlive_rag_videos_ended", "Videos that ended, by how.", ["result"], **make)
        self._blocks = Counter("longlive_rag_blocks", "Blocks made.", **make)
        self._stages = Counter("longlive_rag_stage_seconds", "Time spent making blocks, by stage.", ["stage"], **make)
        self._known: dict[str, SessionFacts] = {}
        self._registry.register(Gauges(videos, keys))

    def text(self) -> bytes:
        """Everything, in Prometheus' format."""
        return generate_latest(self._registry)

    def on_request(self, seen: Seen) -> None:
        """Count a request. Labels stay for ever, so neither ids nor methods that a client made up become labels."""
        route, method = getattr(seen.scope.get("route"), "path", OTHER), seen.scope.get("method", "WS")
        self._requests.labels(method if method in METHODS else OTHER, route, seen.status).inc()
        if seen.scope["type"] == "http":
            self._seconds.labels(route).observe(seen.seconds)

    def on_facts(self, facts: SessionFacts) -> None:
        """Count what changed in a session; called from one thread."""
        before = self._known.get(facts.id)
        if before is None or before.worker != facts.worker or before.blocks > facts.blocks:
            before = facts  # new here, or restarted elsewhere: earlier work is counted already, or unknown
        self._blocks.inc(facts.blocks - before.blocks)
        for stage, seconds in facts.stage_seconds.items():
            self._stages.labels(stage).inc(max(0.0, seconds - before.stage_seconds.get(stage, 0.0)))
        self._known[facts.id] = facts
        if facts.state in ENDED:
            del self._known[facts.id]

    def on_end(self, entry: Entry) -> None:
        """Count a video that ended."""
        self._ended.labels(entry.result).inc()


class Gauges(Collector):
    """Gauges that are read when Prometheus asks."""

    def __init__(self, videos: Videos, keys: Keys) -> None:
        self._videos, self._keys = videos, keys

    def describe(self) -> list[Metric]:
        """Nothing, so that registration reads no gauge."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every gauge as of now."""
        sessions = self._videos.engine.sessions()
        by_state = Counts(facts.state for facts in sessions)
        states = GaugeMetricFamily("longlive_rag_sessions", "Sessions by state.", labels=["state"])
        for state in STATES:
            states.add_metric([state], by_state[state])
        yield states
        speed = sum(facts.blocks_per_second for facts in sessions if facts.state == "running")
        yield GaugeMetricFamily("longlive_rag_blocks_per_second", "Speed of all running sessions together.", speed)
        yield from self._memory()
        yield from self._quotas()
        yield self._drift([facts for facts in sessions if facts.state == "running"])

    def _memory(self) -> Iterator[Metric]:
        about = "Resident memory of the server, and memory of its workers: of the GPU where they have one."
        memory = GaugeMetricFamily("longlive_rag_memory_bytes", about, labels=["process"])
        memory.add_metric(["server"], psutil.Process().memory_info().rss)
        for worker in self._videos.engine.workers():
            memory.add_metric([worker.name], worker.memory_bytes)
        yield memory

    def _quotas(self) -> Iterator[Metric]:
        used = GaugeMetricFamily("longlive_rag_quota_used", "How much a key has used.", labels=["key", "quota"])
        most = GaugeMetricFamily("longlive_rag_quota_limit", "A key's quota.", labels=["key", "quota"])
        for key in self._keys.all:
            takes, stored = self._videos.taken(key)
            disk = None if key.disk_gib is None else key.disk_gib * GIB
            seconds = self._videos.usage.seconds(key.name)
            for quota, value, limit in (
                ("takes_at_once", takes, key.takes_at_once),
                ("seconds_a_day", seconds, key.seconds_a_day),
                ("disk_bytes", stored, disk),
            ):
                used.add_metric([key.name, quota], value)
                if limit is not None:
                    most.add_metric([key.name, quota], limit)
        yield used
        yield most

    def _drift(self, running: list[SessionFacts]) -> Metric:
        drift = GaugeMetricFamily(
            "longlive_rag_likeness_to_start",
            "Cosine of a running take's newest embedding to that of its start: the backbone's own view.",
            labels=["video"],
        )
        for facts in running:
            likeness = likeness_to_start(facts.folder)
            if likeness is not None:
                drift.add_metric([facts.folder.name], likeness)
        return drift


def likeness_to_start(folder: Path) -> float | None:
    """Cosine of a take's newest block's mean embedding to its first block's; None where it has none yet."""
    try:
        store = LatentStore(folder / LATENTS)
        first, newest = (store.record(block).embeddings for block in (0, store.blocks - 1))
    except (ValueError, OSError):  # nothing is made yet, or it is damaged
        return None
    if first is None or newest is None:
        return None
    one, other = first.mean(0), newest.mean(0)
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else None
