"""Workers on the nodes of a Ray cluster: an actor each, with a GPU. Ray is an extra, imported only here."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from backbone.errors import FieldError
from longlive_rag.engines.messages import End, FromWorker, ToWorker
from longlive_rag.engines.supervisor import Limits, Supervisor
from longlive_rag.sessions.making import reason_of
from longlive_rag.sessions.ray_workers import connect

log = logging.getLogger(__name__)

IDLE_S = 60.0
POLL_S = 1.0


def ray_engine(
    state: Path,
    address: str | None,
    workers: int | None = None,
    gpus: float | None = None,
    limits: Limits | None = None,
    license_policy: str | None = None,
) -> Supervisor:
    """An engine whose workers are actors of a Ray cluster. Takes and backbones must be on storage that all nodes share.

    Args:
        state: see `Supervisor`.
        address: address of the cluster; see `connect`.
        workers: maximum number; None is as many as the cluster has room for when it is connected to.
        gpus: GPUs per worker, less than 1 if several share one; None is 1, or 0 if the cluster has none.
        limits, license_policy: see `Supervisor`.

    Raises:
        OSError: if there is no cluster at `address`.
        ValueError: as `Supervisor`, or if `workers` is less than 1.
    """
    return Supervisor(RayWorkers(address, workers, gpus), state, limits, license_policy)


class RayWorkers:
    """Actors of a Ray cluster; see `Workers`. An idle actor releases its GPU after a while.

    Args:
        address, workers, gpus: see `ray_engine`.
        idle_s: seconds until then.

    Raises:
        OSError: if there is no cluster at `address`.
        FieldError: if `workers` is less than 1.
    """

    kind = "ray"

    def __init__(self, address: str | None, workers: int | None, gpus: float | None, idle_s: float = IDLE_S) -> None:
        if workers is not None and workers < 1:
            raise FieldError("workers", workers, "it must be at least 1")
        with _own_handler():
            connect(address)
        import ray

        # What Ray first sends makes it import Pydantic's older half. In a worker's thread that can meet another import.
        ray.put(None)
        has = ray.cluster_resources()
        self._gpus = gpus if gpus is not None else float(has.get("GPU", 0) >= 1)
        self.idle_s: float | None = idle_s
        places = int(has.get("GPU", 0) / self._gpus) if self._gpus else int(has.get("CPU", 1))
        self.count = workers or max(1, places)
        methods = {"listening": 1, "collecting": 1}  # one thread each, so that messages stay in order
        remote: Any = ray.remote
        self._actor = remote(num_cpus=1, num_gpus=self._gpus, concurrency_groups=methods)(_Actor)

    def start(self, number: int) -> RayLink:
        """Start a worker, which waits for a place on the cluster."""
        try:
            return RayLink(self._actor.remote("cuda" if self._gpus else "cpu", os.getcwd()))
        except Exception as error:  # whatever Ray runs into
            raise OSError(reason_of(error)) from error

    def close(self) -> None:
        """Do nothing: the connection ends with this process."""


@contextmanager
def _own_handler() -> Iterator[None]:
    """Keep our handler of SIGTERM: Ray, when started or joined, sets one that ends the process."""
    found = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if found is not None and threading.current_thread() is threading.main_thread():  # Ray sets none in another
            signal.signal(signal.SIGTERM, found)


class RayLink:
    """An actor; see `WorkerLink`."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._killed, self._ends = threading.Event(), False

    def tell(self, message: ToWorker) -> None:
        """Send a message."""
        self._ends = isinstance(message, End)
        with suppress(Exception):  # `messages` ends, too
            self._actor.tell.options(concurrency_group="listening").remote(message)

    def messages(self) -> Iterator[FromWorker | None]:
        """Its messages, until it is lost."""
        import ray

        pending = None
        try:
            while not self._killed.is_set():
                pending = pending or self._actor.collect.options(concurrency_group="collecting").remote(POLL_S)
                ready, _ = ray.wait([pending], timeout=POLL_S)
                if not ready:
                    yield None
                    continue
                messages, pending = ray.get(pending), None
                yield from messages or [None]
        except (Exception, SystemExit) as error:  # Ray raises whatever it runs into, and ends threads as it ends
            if not self._ends:
                log.warning("a worker is lost: %s", reason_of(error))

    def kill(self) -> None:
        """End it, now."""
        import ray

        self._killed.set()
        with suppress(Exception):  # it has ended
            ray.kill(self._actor)


class _Actor:
    """A process on some node, with a worker in it.

    Args:
        device: see `Worker`.
        place: folder that the engine's paths are relative to; on a node without it, only full paths work.
    """

    def __init__(self, device: str, place: str) -> None:
        with suppress(OSError):
            os.chdir(place)
        from longlive_rag.engines.worker import Worker

        self._outbox: queue.SimpleQueue[FromWorker] = queue.SimpleQueue()
        self._worker = Worker(device, f"{device} on {_node()}", self._outbox.put)
        self._thread = threading.Thread(target=self._worker.run, daemon=True)
        self._thread.start()

    def tell(self, message: ToWorker) -> None:
        """Pass a message to the worker."""
        self._worker.tell(message)

    def collect(self, seconds: float) -> list[FromWorker]:
        """The worker's new messages; waits up to `seconds` for the first one."""
        found: list[FromWorker] = []
        with suppress(queue.Empty):
            found.append(self._outbox.get(timeout=seconds))
            while True:
                found.append(self._outbox.get_nowait())
        if not found and not self._thread.is_alive():
            os._exit(1)
        return found


def _node() -> str:
    import ray

    return str(ray.util.get_node_ip_address())
