"""Takes over the machines of a Ray cluster. Ray is an extra, imported only here."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.engines import Chunk, finish_in_worker
from eval.plan import Cell

REACHED_WITHIN_S = 10.0
LOST_WORKERS = 5  # how often one take may lose its worker before the run gives up


def make_on_ray(
    run: Path, chunks: Sequence[Chunk], workers: int, threads: int | None, address: str | None
) -> Iterator[Cell]:
    """Make up to `workers` chunks at once on a Ray cluster, yielding each take that is finished.

    The run's folder must be one that all nodes share. A take whose worker or node is lost is made again elsewhere:
    takes are written whole, so that nothing of the lost one counts. Ray keeps worker processes, and each of them keeps
    its backbone from one take to the next.

    Args:
        run: the run's folder, with its plan.
        chunks: takes that are made side by side.
        threads: of each worker, for one operation; as many CPUs are asked of the cluster for it.
        address: of the cluster; None starts one on this machine.

    Raises:
        OSError: if there is no cluster at `address`, or a take loses its worker too often.
        Whatever a take raises.
    """
    import ray

    _check_reachable(address)
    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    finish = ray.remote(num_cpus=threads or 1, max_retries=LOST_WORKERS)(finish_in_worker)
    folder, waiting = run.resolve(), iter(chunks)
    busy: dict[Any, Chunk] = {}

    def begin() -> None:
        if (chunk := next(waiting, None)) is not None:
            busy[finish.remote(folder, threads, chunk)] = chunk

    try:
        for _ in range(workers):
            begin()
        while busy:
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            chunk = busy.pop(ready)
            ray.get(ready)
            begin()
            yield from chunk
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        raise OSError(f"a take lost its worker more than {LOST_WORKERS} times; finished takes are kept") from error
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        for task in busy:
            ray.cancel(task, force=True)


def _check_reachable(address: str | None) -> None:
    """Ray itself would try for minutes, and then end the process."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():  # none, or `auto`
        return
    try:
        socket.create_connection((host, int(port)), REACHED_WITHIN_S).close()
    except OSError as error:
        raise OSError(f"there is no Ray cluster at {address}: {error.strerror or error}") from error
