"""Latency and recall of memory's search, on embeddings that move like those of takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
    """Figures for one size of index, and one choice of the frames that a search may return.

    Attributes:
        frames, embedding_dim: size of the index.
        allowed: how many of its frames a search may return.
        scattered: whether those lie anywhere, rather than one after the other.
        exact: whether a search of all frames looks at every one.
        build_seconds: time to add all frames.
        median_ms, p99_ms: time of one search for `limit` frames.
        recall: share of the true `limit` nearest that are found.
    """

    frames: int
    embedding_dim: int
    allowed: int
    scattered: bool
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
    allowed: Sequence[int] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> list[SearchFigures]:
    """Fill an index with embeddings of many takes, and search it one query at a time.

    Args:
        allowed: numbers of frames. For each, the searches are repeated twice: among so many frames in a row, and among
            so many scattered ones, drawn with equal chances.

    Returns:
        The figures of searching all frames, then those for `allowed`.

    Raises:
        FieldError: if there are fewer frames than a search returns, or than are allowed.
    """
    if frames < limit:
        raise FieldError("search", frames, f"it must be at least {limit}, the frames that a search finds")
    for count in allowed:
        if not limit <= count <= frames:
            raise FieldError("allowed", count, f"it must be from {limit} to the {frames} frames of the index")
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
    choices: list[Sequence[int]] = [range(frames)]
    for count in allowed:
        start = int(rng.integers(frames - count + 1))
        choices += [range(start, start + count), np.sort(rng.choice(frames, count, replace=False)).tolist()]
    return [_search_among(index, asked, limit, candidates, build_s) for candidates in choices]


def _search_among(
    index: FrameIndex, asked: NDArray[np.float32], limit: int, candidates: Sequence[int], build_s: float
) -> SearchFigures:
    """Search for each query [N, D] among some frames of an index, and compare with an exhaustive search."""
    found, times_s = [], []
    for query in asked:
        begin_s = time.perf_counter()
        found.append({frame for frame, _ in index.search(query, candidates, limit)})
        times_s.append(time.perf_counter() - begin_s)
    truth = found if index.is_exact else nearest(index, asked, limit, candidates)
    hits = [len(ours & theirs) for ours, theirs in zip(found, truth, strict=True)]
    return SearchFigures(
        frames=len(index),
        embedding_dim=index.dim,
        allowed=len(candidates),
        scattered=not isinstance(candidates, range),
        exact=index.is_exact,
        build_seconds=build_s,
        median_ms=1000 * float(np.median(times_s)),
        p99_ms=1000 * float(np.percentile(times_s, 99)),
        recall=sum(hits) / (limit * len(asked)),
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


def nearest(index: FrameIndex, queries: NDArray[np.float32], limit: int, candidates: Sequence[int]) -> list[set[int]]:
    """Return the true nearest `candidates` of each query [N, D], by exhaustive search."""
    best_values = np.full((len(queries), limit), -np.inf, dtype=np.float32)
    best_frames = np.zeros((len(queries), limit), dtype=np.int64)
    for start in range(0, len(candidates), BATCH):
        frames = np.asarray(candidates[start : start + BATCH], dtype=np.int64)
        values = np.concatenate([best_values, queries @ index.units(frames.tolist()).T], axis=1)
        known = np.concatenate([best_frames, np.broadcast_to(frames, (len(queries), len(frames)))], axis=1)
        order = np.argpartition(-values, limit - 1, axis=1)[:, :limit]
        best_values = np.take_along_axis(values, order, axis=1)
        best_frames = np.take_along_axis(known, order, axis=1)
    return [set(map(int, frames)) for frames in best_frames]
