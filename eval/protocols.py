"""The field's own measures, from unit embeddings and per-frame series, for comparison with papers.

Every formula is written from its paper or the published description of its suite; docs/evaluation.md says where ours
differs. Figures of different protocols can't be compared: one model scores 96.8 in VBench-Long and 83.6 in VBench.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.drift import Floats, unit
from eval.windows import LAST_S, within
from longlive_rag.documents import parse, read_json

CLIP_S = 2.0
SLOW_WEIGHT = 0.5  # weight of the slow one of VBench-Long's two branches
START_END_SHARE = 0.15
SPREAD_SEGMENTS = 30
WEIGHTED_CHUNKS = 10

# The published points of VBench-Long's 101-knot tables, interpolated linearly; the full tables may differ.
PUBLISHED_KNOTS: dict[str, tuple[tuple[float, float], ...]] = {
    "subject": ((0.3, 0.8857), (0.5, 0.9327), (0.7, 0.9668), (0.8, 0.9795), (0.9, 0.9887)),
    "background": ((0.3, 0.9342), (0.5, 0.9461), (0.7, 0.9575), (0.8, 0.9642), (0.9, 0.9717)),
}


def consistency(embeddings: NDArray) -> float:
    """Compute VBench's consistency of frames (Huang et al., CVPR 2024), in 0..1.

    S = 1/(T-1) * sum over t = 2..T of (max(0, f_{t-1} . f_t) + max(0, f_1 . f_t)) / 2

    Args:
        embeddings: [T, D], T >= 2; normalised here.

    Raises:
        ValueError: if there are fewer than two frames, or no subject is seen in one of them.
    """
    rows = unit(embeddings)
    if len(rows) < 2:
        raise ValueError(f"consistency needs at least 2 frames, got {len(rows)}")
    if np.isnan(rows).any():
        raise ValueError("consistency is only defined if every frame has an embedding")
    previous = np.einsum("td,td->t", rows[:-1], rows[1:])
    first = rows[1:] @ rows[0]
    return float((np.maximum(0, previous) + np.maximum(0, first)).mean() / 2)


def last_consistency(embeddings: NDArray, seconds: Floats, end_s: float) -> float | None:
    """VBench's consistency of the last 5 s before `end_s`, taken for a video of their own.

    Args:
        embeddings: [T, D] of all frames.
        seconds: [T], times of the frames.

    Returns:
        None if fewer than two frames lie there, or one of them shows no subject.
    """
    rows = unit(embeddings)[within(seconds, (end_s - LAST_S, end_s))]
    return None if len(rows) < 2 or np.isnan(rows).any() else consistency(rows)


def cosine_to_first(embeddings: NDArray) -> Floats:
    """Cosine [T] of every frame to the first one, given [T, D]; NaN where no subject is seen in either."""
    rows = unit(embeddings)
    return rows @ rows[0]


def clip_starts(frames: int, clip_frames: int) -> list[int]:
    """First frames of 2-second clips; a short last clip is shifted back to full length, so that it overlaps."""
    if frames < clip_frames:
        return [0]
    starts = list(range(0, frames - clip_frames + 1, clip_frames))
    if starts[-1] + clip_frames < frames:
        starts.append(frames - clip_frames)
    return starts


@dataclass(frozen=True)
class LongConsistency:
    """VBench-Long's two branches, unfused.

    Attributes:
        slow: mean of S within each clip.
        fast: raw S over the first frames of all clips; None if there is only one clip.
        clips: number of clips.
    """

    slow: float
    fast: float | None
    clips: int


def long_consistency(embeddings: NDArray, fps: float, fast_embeddings: NDArray | None = None) -> LongConsistency:
    """Compute VBench-Long's scores before its mapping table.

    Args:
        embeddings: [T, D] of all frames, for the slow branch.
        fps: frames per second.
        fast_embeddings: [T, E] of another embedder for the fast branch, as in the original; default is `embeddings`.
    """
    clip_frames = max(2, round(CLIP_S * fps))
    starts = clip_starts(len(embeddings), clip_frames)
    slow = float(np.mean([consistency(embeddings[start : start + clip_frames]) for start in starts]))
    rows = embeddings if fast_embeddings is None else fast_embeddings
    fast = consistency(rows[starts]) if len(starts) > 1 else None
    return LongConsistency(slow, fast, len(starts))


class MappingTable:
    """VBench-Long's piecewise-linear table from a raw fast score to a mapped one.

    Args:
        knots: (raw, mapped) pairs, increasing in raw.

    Raises:
        ValueError: if there are fewer than two knots, or raw does not increase.
    """

    def __init__(self, knots: tuple[tuple[float, float], ...]) -> None:
        raw = [knot[0] for knot in knots]
        if len(knots) < 2 or any(a >= b for a, b in itertools.pairwise(raw)):
            raise ValueError("a mapping table needs two or more (raw, mapped) knots, increasing in raw")
        self.raw, self.mapped = np.array(knots, np.float64).T

    @classmethod
    def read(cls, path: Path) -> MappingTable:
        """Read a table from a JSON list of [raw, mapped] pairs.

        Raises:
            ValueError: if the file can't be read or holds something else.
        """
        try:
            return cls(parse(read_json(path), tuple[tuple[float, float], ...], "it"))
        except ValueError as error:
            raise ValueError(f"{path} is not a mapping table (a JSON list of [raw, mapped] pairs): {error}") from error

    def __call__(self, raw: float) -> float | None:
        """The mapped score; None outside the table, which is not extrapolated."""
        if not self.raw[0] <= raw <= self.raw[-1]:
            return None
        return float(np.interp(raw, self.raw, self.mapped))


def fused(parts: LongConsistency, table: MappingTable) -> float | None:
    """VBench-Long's final score: half slow, half mapped fast; None if the fast score is missing or off the table."""
    mapped = None if parts.fast is None else table(parts.fast)
    return None if mapped is None else SLOW_WEIGHT * parts.slow + (1 - SLOW_WEIGHT) * mapped


def start_end_contrast(values: Floats) -> float:
    """|M(first 15 %) - M(last 15 %)| of a per-frame series [T] (FramePack, arXiv 2504.12626), M the mean."""
    count = max(1, round(START_END_SHARE * len(values)))
    return abs(float(np.nanmean(values[:count]) - np.nanmean(values[-count:])))


def spread(values: Floats, segments: int = SPREAD_SEGMENTS) -> float:
    """Standard deviation over equal segments of the mean of a per-frame series [T] (Reward Forcing, 2512.04678).

    The paper's 30 segments last 2 s each, in takes of 60 s; here there are 30 whatever the length.
    """
    return float(np.std(_chunk_means(values, segments)))


def weighted_drift(values: Floats, chunks: int = WEIGHTED_CHUNKS) -> float | None:
    """sum over i = 2..N of (N-i+1) |M_i - M_1| / M_1 (BlockVid, 2511.22973): late chunks weigh least.

    Args:
        values: per-frame series [T]; M_i is its mean over the i-th of N equal chunks.

    Returns:
        None if M_1 is 0.
    """
    means = _chunk_means(values, chunks)
    if means[0] == 0:
        return None
    weights = np.arange(chunks - 1, 0, -1)
    return float((weights * np.abs(means[1:] - means[0]) / means[0]).sum())


def _chunk_means(values: Floats, chunks: int) -> Floats:
    if len(values) < chunks:
        raise ValueError(f"{len(values)} frames can't be cut into {chunks} chunks")
    return np.array([np.nanmean(part) for part in np.array_split(values, chunks)])
