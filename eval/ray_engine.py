"""Takes over the machines of a Ray cluster. Ray is an extra, imported only here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.engines import finish_in_worker
from eval.plan import Cell

LOST_WORKERS = 5  # how often one take may lose its worker before the run gives up


def make_on_ray(
    run: Path, cells: Sequence[Cell], workers: int, threads: int | None, address: str | None
) -> Iterator[Cell]:
    """Make takes with up to `workers` actors, yielding each that is finished.

    The run's folder must be one that all nodes share. A take whose worker is lost is made again by another one: takes
    are written whole, so that nothing of the lost one counts.

    Raises:
        RuntimeError: if a take loses its worker too often.
        whatever a take raises.
    """
    import ray

    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    worker_class = ray.remote(num_cpus=threads or 1, max_restarts=-1, max_task_retries=0)(_Worker)
    actors = [worker_class.remote(str(run.resolve()), threads) for _ in range(min(workers, len(cells)))]
    waiting, lost = list(reversed(cells)), dict.fromkeys((cell.name for cell in cells), 0)
    busy: dict[Any, tuple[Any, Cell]] = {}
    try:
        for actor in actors:
            _begin(actor, waiting, busy)
        while busy:
            ready, _ = ray.wait(list(busy), num_returns=1)
            actor, cell = busy.pop(ready[0])
            try:
                ray.get(ready[0])
            except ray.exceptions.RayActorError as error:
                lost[cell.name] += 1
                if lost[cell.name] > LOST_WORKERS:
                    raise RuntimeError(f"{cell.name} lost its worker {lost[cell.name]} times") from error
                waiting.append(cell)
            else:
                yield cell
            _begin(actor, waiting, busy)
    finally:
        for actor in actors:
            ray.kill(actor)


class _Worker:
    """One process of the cluster, with the backbone loaded at its first take."""

    def __init__(self, run: str, threads: int | None) -> None:
        self._run, self._threads = Path(run), threads

    def finish(self, cell: Cell) -> None:
        finish_in_worker(self._run, self._threads, cell)


def _begin(actor: Any, waiting: list[Cell], busy: dict[Any, tuple[Any, Cell]]) -> None:
    if waiting:
        cell = waiting.pop()
        busy[actor.finish.remote(cell)] = (actor, cell)
