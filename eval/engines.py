"""Where takes are made: in this process, in several, or on a Ray cluster; the files they leave are the same."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from eval.making import Maker
from eval.plan import Cell, read_plan

_maker: Maker | None = None  # of a worker process


def make_here(maker: Maker, cells: Sequence[Cell]) -> Iterator[Cell]:
    """Make takes one after the other in this process, yielding each that is finished."""
    for cell in cells:
        maker.finish(cell)
        yield cell


def make_in_processes(run: Path, cells: Sequence[Cell], workers: int, threads: int | None) -> Iterator[Cell]:
    """Make takes in `workers` processes, yielding each that is finished, in the order of finishing.

    Args:
        run: the run's folder, with its plan.
        threads: of each process, for one operation.

    Raises:
        OSError: if a worker was killed.
        Whatever a take raises; the others that were begun are finished first.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        futures = {pool.submit(finish_in_worker, run, threads, cell): cell for cell in cells}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as error:
            raise OSError("a worker was killed; is there enough memory for so many takes at once?") from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def end_with_parent() -> None:
    """Let this process end when the one that started it does, however that ends.

    An orphan would go on with its take, while the run, begun again, makes the same take in the same folder.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def finish_in_worker(run: Path, threads: int | None, cell: Cell) -> None:
    """Make and measure one take in a worker's process, which loads backbone and embedders with its first one."""
    global _maker
    if _maker is None:
        _maker = Maker(read_plan(run), run, threads)
    _maker.finish(cell)
