"""Engines that make takes in this process, in several, or on a Ray cluster, all writing the same files."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from eval.making import Maker
from eval.plan import Cell, read_plan
from longlive_rag.presets.preset import load_preset
from longlive_rag.sessions.processes import end_with_parent
from longlive_rag.sessions.ray_workers import Cluster, work_on_ray

Chunk = tuple[Cell, ...]
"""Takes made side by side."""

BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_maker: Maker | None = None  # of a worker process


def make_here(maker: Maker, chunks: Sequence[Chunk]) -> Iterator[Cell]:
    """Make takes chunk by chunk in this process, yielding each finished one."""
    for chunk in chunks:
        maker.finish(chunk)
        yield from chunk


def make_in_processes(run: Path, chunks: Sequence[Chunk], workers: int, threads: int | None) -> Iterator[Cell]:
    """Make takes in `workers` processes, yielding each as it finishes.

    Args:
        run: folder of the run, with its plan.
        chunks: takes to make side by side.
        threads: CPU threads per operation, for each process.

    Raises:
        OSError: if a worker was killed.
        Whatever a take raises; takes that have begun are finished first.
    """
    context = multiprocessing.get_context("spawn")
    with _blas_threads(threads), ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        futures = {pool.submit(finish_in_worker, run, threads, chunk): chunk for chunk in chunks}
        try:
            for future in as_completed(futures):
                future.result()
                yield from futures[future]
        except BrokenProcessPool as error:
            raise OSError("a worker was killed; is there enough memory for this many takes at once?") from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def make_on_ray(run: Path, chunks: Sequence[Chunk], cluster: Cluster) -> Iterator[Cell]:
    """Make takes on a Ray cluster, yielding each finished one. A take whose worker is lost is made again.

    Args:
        run: folder of the run, with its plan, shared by all nodes.
        chunks: takes to make side by side.

    Raises:
        FieldError, OSError: see `work_on_ray`.
        Whatever a take raises.
    """
    plan, begin = read_plan(run), partial(_begin_on_ray, run.resolve(), cluster.threads)
    gpus = cluster.gpus_for(load_preset(plan.backbone), plan.dtype)
    for chunk in work_on_ray(cluster, plan.device, gpus, begin, chunks):
        yield from chunk


def _begin_on_ray(run: Path, threads: int | None, device: str) -> Callable[[Chunk], None]:
    """Load backbone and embedders on a worker's device and return a function that makes and measures takes there."""
    return Maker(replace(read_plan(run), device=device), run, threads).finish


@contextmanager
def _blas_threads(count: int | None) -> Iterator[None]:
    """Limit the threads of NumPy's BLAS in processes started here, unless the user has set a limit.

    By default each uses one thread per core even for tiny products, and they contend: measuring a take in two processes
    on two cores took 13.9 s instead of 5.2.
    """
    names = [name for name in BLAS_THREADS if count is not None and name not in os.environ]
    os.environ.update(dict.fromkeys(names, str(count)))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


def finish_in_worker(run: Path, threads: int | None, chunk: Chunk) -> None:
    """Make and measure takes in a worker process, which loads backbone and embedders on its first call."""
    global _maker
    if _maker is None:
        _maker = Maker(read_plan(run), run, threads)
    _maker.finish(chunk)
