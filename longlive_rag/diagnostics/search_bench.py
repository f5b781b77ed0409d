"""Latency and recall of memory's search, on embeddings that move like those of takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backbone.errors import FieldError
from retrieval.index import FrameIndex
from retrieval.policy import unit

FRAMES_PER_TAKE = 960
STEP = 0.25  # how far an embedding moves from frame to frame, as a share of its length
BATCH = 65536


@dataclass(frozen=True)
class SearchFigures:
    """Figures for one size of index.

    Attributes:
        frames, embedding_dim: size of the index.
        exact: whether every search looks at every frame.
        build_seconds: time to add all frames.
        median_ms, p99_ms: time of one search for `limit` frames.
        recall: share of the true `limit` nearest that are found; 1 if the search is exact.
    """

    frames: int
    embedding_dim: int
    exact: bool
    build_seconds: float
    median_ms: float
    p99_ms: float
    recall: float


def measure_search(
    frames: int,
    embedding_dim: int = 1024,
    limit: int = 6,
    queries: int = 200,
    progress: Callable[[str], None] = lambda _: None,
) -> SearchFigures:
    """Fill an index with embeddings of many takes, and search it one query at a time.

    Raises:
        FieldError: if there are fewer frames than a search returns.
    """
    if frames < limit:
        raise FieldError("frames", frames, f"there must be at least {limit} to search for")
    rng = np.random.default_rng(0)
    index = FrameIndex(embedding_dim)
    begin_s = time.perf_counter()
    for start in range(0, frames, BATCH):
        progress(f"{start} of {frames} frames")
        index.add(walks(rng, min(BATCH, frames - start), embedding_dim))
    build_s = time.perf_counter() - begin_s
    near = rng.choice(frames, queries)
    asked = unit(
        index.units(near.tolist()) + STEP * unit(rng.standard_normal((queries, embedding_dim)).astype(np.float32))
    )
    found, times_s = [], []
    for query in asked:
        begin_s = time.perf_counter()
        found.append({frame for frame, _ in index.search(query, range(frames), limit)})
        times_s.append(time.perf_counter() - begin_s)
    truth = found if index.is_exact else nearest(index, asked, limit)
    hits = [len(ours & theirs) for ours, theirs in zip(found, truth, strict=True)]
    return SearchFigures(
        frames=frames,
        embedding_dim=embedding_dim,
        exact=index.is_exact,
        build_seconds=build_s,
        median_ms=1000 * float(np.median(times_s)),
        p99_ms=1000 * float(np.percentile(times_s, 99)),
        recall=sum(hits) / (limit * queries),
    )


def walks(rng: np.random.Generator, frames: int, dim: int) -> NDArray[np.float32]:
    """Return unit vectors [frames, dim] of takes, each a slow random walk from its own start."""
    vectors = rng.standard_normal((frames, dim), dtype=np.float32)
    steps = unit(vectors) * STEP
    for start in range(0, frames, FRAMES_PER_TAKE):
        take = slice(start, min(start + FRAMES_PER_TAKE, frames))
        steps[start] /= STEP
        position = steps[start]
        for frame in range(take.start + 1, take.stop):
            position = position + steps[frame]
            position /= np.linalg.norm(position)
            steps[frame] = position
    return steps


def nearest(index: FrameIndex, queries: NDArray[np.float32], limit: int) -> list[set[int]]:
    """Return the true nearest frames of each query, by exhaustive search."""
    best_values = np.full((len(queries), limit), -np.inf, dtype=np.float32)
    best_frames = np.zeros((len(queries), limit), dtype=np.int64)
    for start in range(0, len(index), BATCH):
        frames = np.arange(start, min(start + BATCH, len(index)))
        values = np.concatenate([best_values, queries @ index.units(frames.tolist()).T], axis=1)
        known = np.concatenate([best_frames, np.broadcast_to(frames, (len(queries), len(frames)))], axis=1)
        order = np.argpartition(-values, limit - 1, axis=1)[:, :limit]
        best_values = np.take_along_axis(values, order, axis=1)
        best_frames = np.take_along_axis(known, order, axis=1)
    return [set(map(int, frames)) for frames in best_frames]
