"""Work on a Ray cluster, where each worker has a GPU or a share of one. Ray is an optional dependency."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from backbone.errors import FieldError
from longlive_rag.environment import stated_ray_address
from longlive_rag.presets.needs import CUDA_CONTEXT_BYTES, GIB, estimate
from longlive_rag.presets.preset import Preset

REACHED_WITHIN_S = 10.0
LOST_WORKERS = 5  # how many workers may be lost in a row without a finished job between them
SMALL_BYTES = 4 * GIB
"""A worker that needs less GPU memory than this shares a GPU with others, with `SHARE` of it each."""
SHARE = 0.25

Job = TypeVar("Job")
Begin = Callable[[str], Callable[[Job], object]]
"""Given a worker's device, returns what does its jobs. It is pickled, and called in the worker at its first job."""


@dataclass(frozen=True)
class Cluster:
    """Workers on a Ray cluster.

    Attributes:
        workers: number of workers; those beyond the cluster's resources wait.
        threads: CPU threads per operation, and so the CPUs given to each worker; None is one CPU.
        address: address of the cluster; see `connect`.
        gpus: GPU share of each worker, above 0 and at most 1; None decides by the backbone's needs.
    """

    workers: int = 1
    threads: int | None = None
    address: str | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise FieldError("workers", self.workers, "it must be at least 1")
        check_share(self.gpus)

    def gpus_for(self, preset: Preset, dtype: str) -> float:
        """The GPU share of each worker: one, or `SHARE` for a small backbone."""
        if self.gpus is not None:
            return self.gpus
        return SHARE if estimate(preset, dtype, "cuda").device_bytes + CUDA_CONTEXT_BYTES < SMALL_BYTES else 1.0


def check_installed() -> None:
    """Raise FieldError if Ray is not installed."""
    if not importlib.util.find_spec("ray"):
        raise FieldError("engine", "ray", "pip install 'longlive-rag[ray]'", "'ray', but Ray is not installed")


def check_share(gpus: float | None) -> None:
    """Raise FieldError unless a worker can have this share of a GPU."""
    if gpus is not None and not 0 < gpus <= 1:
        raise FieldError("gpus_per_worker", gpus, "it must be above 0 and at most 1, such as 1 or 0.25")


def check_device(device: str) -> None:
    """Raise FieldError if a worker can't be told to use `device`."""
    if device not in ("auto", "cpu", "cuda"):
        raise FieldError("device", device, "on Ray it must be auto, cpu or cuda; Ray gives each worker its GPU")


def device_of(asked: str, gpus: Sequence[int | str], visible: str | None) -> str:
    """Find the device of a worker.

    Args:
        asked: auto, cpu or cuda.
        gpus: GPUs that Ray has assigned to the worker, by their numbers on the node.
        visible: CUDA_VISIBLE_DEVICES, which Ray usually sets to these; None if it is not set.
    """
    if asked == "cpu" or not gpus:
        return asked
    seen = [] if visible is None else visible.split(",")
    return f"cuda:{seen.index(str(gpus[0])) if seen else gpus[0]}"


class Worker(Generic[Job]):
    """A process on some machine of the cluster, which keeps what it has loaded between jobs.

    Args:
        asked: auto, cpu or cuda.
        begin: called with the worker's device.
    """

    def __init__(self, asked: str, begin: Begin[Job]) -> None:
        self._asked, self._begin = asked, begin
        self._do: Callable[[Job], object] | None = None

    def device(self) -> str:
        """The device it computes on; also called to learn when a new worker has started."""
        import ray
        import torch

        asked = "cpu" if self._asked == "auto" and not torch.cuda.is_available() else self._asked
        return device_of(asked, ray.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES"))

    def work(self, job: Job) -> None:
        """Do a job."""
        self._do = self._do or self._begin(self.device())
        self._do(job)


def work_on_ray(cluster: Cluster, asked: str, gpus: float, begin: Begin[Job], jobs: Sequence[Job]) -> Iterator[Job]:
    """Do jobs on a Ray cluster, yielding each one when it is done.

    If the cluster has GPUs, each worker gets a share `gpus` of one, unless `asked` is the CPU. A job whose worker or
    node is lost is repeated elsewhere, so its partial output must not count as a result. All nodes must share the
    folders that jobs use.

    Args:
        cluster: the cluster, and the number of workers.
        asked: the device: auto, cpu or cuda.
        gpus: GPU share of each worker.
        begin: see `Begin`.

    Raises:
        FieldError: if the cluster has no such device.
        OSError: if there is no cluster at the address, or too many workers are lost.
        Whatever a job raises.
    """
    check_device(asked)
    connect(cluster.address)
    import ray

    has_gpus = ray.cluster_resources().get("GPU", 0) >= 1
    if asked == "cuda" and not has_gpus:
        raise FieldError("device", asked, "try auto or cpu", "'cuda', but the Ray cluster has no GPU")
    actor = ray.remote(num_cpus=cluster.threads or 1, num_gpus=gpus if has_gpus and asked != "cpu" else 0)(Worker)
    waiting, lost = deque(jobs), 0
    busy: dict[Any, tuple[Any, list[Job]]] = {}  # pending reply -> its worker and job

    def hire() -> None:
        worker: Any = actor.remote(asked, begin)
        busy[worker.device.remote()] = worker, []

    try:
        for _ in range(min(cluster.workers, len(jobs))):
            hire()
        while waiting or any(given for _, given in busy.values()):
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            worker, given = busy.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayActorError as error:
                lost += 1
                if lost > LOST_WORKERS:
                    raise OSError(f"{lost} workers were lost in a row; finished takes are kept") from error
                waiting.extendleft(given)
                hire()
                continue
            lost = 0 if given else lost
            if waiting:
                job = waiting.popleft()
                busy[worker.work.remote(job)] = worker, [job]
            yield from given
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        for worker, _ in busy.values():
            ray.kill(worker)


def connect(address: str | None) -> None:
    """Connect to a Ray cluster, unless this process is already connected.

    Args:
        address: address of the cluster; None is the one that RAY_ADDRESS names, or else a new one on this machine.

    Raises:
        OSError: if there is no cluster at the address, or it can't be joined.
    """
    import ray

    address = address or stated_ray_address()
    _check_reachable(address)
    try:  # without an address, Ray would look for the cluster that was started here last, which may be gone
        ray.init(address=address or "local", ignore_reinit_error=True, log_to_driver=False)
    except ConnectionError as error:
        raise OSError(
            f"the Ray cluster at {address} can't be joined. If it requires a token, set RAY_AUTH_MODE=token and "
            f"put the head's token into ~/.ray/auth_token or RAY_AUTH_TOKEN ({error})"
        ) from error


def _check_reachable(address: str | None) -> None:
    """Raise OSError if no Ray cluster answers; Ray itself would try for minutes and then exit the process."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():  # none, or `auto`
        return
    try:
        socket.create_connection((host, int(port)), REACHED_WITHIN_S).close()
    except OSError as error:
        raise OSError(f"there is no Ray cluster at {address}: {error.strerror or error}") from error
