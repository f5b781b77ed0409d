"""Where takes are made: in this process, in several, or on a Ray cluster; the files they leave are the same."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from eval.making import Maker
from eval.plan import Cell, read_plan
from longlive_rag.engines.processes import end_with_parent

Chunk = tuple[Cell, ...]
"""Takes that are made side by side."""

BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_maker: Maker | None = None  # of a worker process


def make_here(maker: Maker, chunks: Sequence[Chunk]) -> Iterator[Cell]:
    """Make takes chunk after chunk in this process, yielding each that is finished."""
    for chunk in chunks:
        maker.finish(chunk)
        yield from chunk


def make_in_processes(run: Path, chunks: Sequence[Chunk], workers: int, threads: int | None) -> Iterator[Cell]:
    """Make takes in `workers` processes, yielding each that is finished, in the order of finishing.

    Args:
        run: the run's folder, with its plan.
        chunks: takes that are made side by side.
        threads: of each process, for one operation.

    Raises:
        OSError: if a worker was killed.
        Whatever a take raises; the others that were begun are finished first.
    """
    context = multiprocessing.get_context("spawn")
    with _blas_threads(threads), ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        futures = {pool.submit(finish_in_worker, run, threads, chunk): chunk for chunk in chunks}
        try:
            for future in as_completed(futures):
                future.result()
                yield from futures[future]
        except BrokenProcessPool as error:
            raise OSError("a worker was killed; is there enough memory for so many takes at once?") from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextmanager
def _blas_threads(count: int | None) -> Iterator[None]:
    """Processes that are started here let NumPy's BLAS use so many threads, unless the user has said how many.

    Left alone, each takes a thread a core for products of a few numbers, and they wait for each other: measuring a take
    in two processes on two cores took 13.9 s instead of 5.2.
    """
    names = [name for name in BLAS_THREADS if count is not None and name not in os.environ]
    os.environ.update(dict.fromkeys(names, str(count)))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


def finish_in_worker(run: Path, threads: int | None, chunk: Chunk) -> None:
    """Make and measure takes in a worker's process, which loads backbone and embedders with its first ones."""
    global _maker
    if _maker is None:
        _maker = Maker(read_plan(run), run, threads)
    _maker.finish(chunk)
