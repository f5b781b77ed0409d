"""Takes over the machines of a Ray cluster. Ray is an extra, imported only here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.engines import Chunk, finish_in_worker
from eval.plan import Cell, read_plan
from longlive_rag.engines.on_ray import check_reachable

LOST_WORKERS = 5  # how many workers may be lost in a row, without a finished take between them


class Worker:
    """A process on some machine of the cluster; it keeps its backbone from one take to the next.

    Args:
        run: the run's folder.
        threads: for one operation.
    """

    def __init__(self, run: Path, threads: int | None) -> None:
        self._run, self._threads = run, threads

    def finish(self, chunk: Chunk) -> None:
        """Make and measure takes; with none, say that the worker has its place."""
        if chunk:
            finish_in_worker(self._run, self._threads, chunk)


def make_on_ray(
    run: Path, chunks: Sequence[Chunk], workers: int, threads: int | None, address: str | None
) -> Iterator[Cell]:
    """Make up to `workers` chunks at once on a Ray cluster, yielding each take that is finished.

    Where the cluster has GPUs, each worker has one to itself, unless the plan's device is the CPU; workers beyond what
    the cluster has wait for a place. The run's folder must be one that all nodes share. A take whose worker or node is
    lost is made again elsewhere: takes are written whole, so that nothing of the lost one counts.

    Args:
        run: the run's folder, with its plan.
        chunks: takes that are made side by side.
        threads: of each worker, for one operation; as many CPUs are asked of the cluster for it.
        address: of the cluster; None starts one on this machine.

    Raises:
        OSError: if there is no cluster at `address`, or too many workers are lost.
        Whatever a take raises.
    """
    import ray

    check_reachable(address)
    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    gpus = int(read_plan(run).device != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1)
    actor = ray.remote(num_cpus=threads or 1, num_gpus=gpus)(Worker)
    folder, waiting, lost = run.resolve(), deque(chunks), 0
    busy: dict[Any, tuple[Any, Chunk]] = {}

    def give(worker: Any, chunk: Chunk = ()) -> None:
        busy[worker.finish.remote(chunk)] = worker, chunk

    try:
        for _ in range(min(workers, len(chunks))):
            give(actor.remote(folder, threads))
        while waiting or any(chunk for _, chunk in busy.values()):
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            worker, chunk = busy.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayActorError as error:
                lost += 1
                if lost > LOST_WORKERS:
                    raise OSError(f"{lost} workers were lost one after the other; finished takes are kept") from error
                waiting.extendleft([chunk] if chunk else [])
                give(actor.remote(folder, threads))
                continue
            lost = 0 if chunk else lost
            if waiting:
                give(worker, waiting.popleft())
            yield from chunk
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        for worker, _ in busy.values():
            ray.kill(worker)
