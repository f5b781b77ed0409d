"""Identity drift: how much less the subject resembles itself at a horizon than at the start.

    D(h) = mean of f_t . r over seconds 1 to 5  -  mean of f_t . r over the last 5 s before h

f_t is the unit embedding of a frame, r the normalised mean embedding of the first second. D is signed; higher is worse;
it is 0 for a video that does not change, and at most 2. A frame in which the embedder sees no subject is a row of NaN
and does not count; the share of frames that do (coverage) is reported with every figure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.windows import DriftWindows, within

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Drift:
    """D at one horizon.

    Attributes:
        horizon_s: the horizon, in seconds of the take.
        value: D(h); None if the subject is not seen in the opening or before the horizon.
        opening: mean cosine to the reference in seconds 1 to 5.
        last: mean cosine in the last 5 s before the horizon.
        opening_coverage, last_coverage: share of each window's frames in which the subject is seen.
    """

    horizon_s: float
    value: float | None
    opening: float | None
    last: float | None
    opening_coverage: float
    last_coverage: float


def unit(embeddings: NDArray) -> Floats:
    """Scale rows [T, D] to unit length, in float64; rows of NaN stay, rows of zeros become NaN."""
    rows = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.full_like(rows, np.nan), where=lengths > 0)


def cosine_to_reference(embeddings: NDArray, seconds: Floats, windows: DriftWindows | None = None) -> Floats:
    """Cosine similarity of every frame to the reference.

    Args:
        embeddings: [T, D], one row per frame, NaN if no subject is seen.
        seconds: [T], time at which each frame begins.
        windows: where the reference is taken.

    Returns:
        [T], NaN if no subject is seen or there is no reference.

    Raises:
        ValueError: if the first second has no frames.
    """
    windows = windows or DriftWindows()
    rows = unit(embeddings)
    first = within(seconds, windows.reference)
    if not first.any():
        raise ValueError(f"there is no reference frame between {windows.reference[0]:g} and {windows.reference[1]:g} s")
    seen = rows[first][~np.isnan(rows[first]).any(axis=1)]
    if not len(seen):
        return np.full(len(rows), np.nan)
    reference = seen.mean(axis=0)
    length = np.linalg.norm(reference)
    return rows @ (reference / length) if length > 0 else np.full(len(rows), np.nan)


def drift_at(cosines: Floats, seconds: Floats, horizon_s: float, windows: DriftWindows | None = None) -> Drift:
    """Compute D(h) from the cosines [T] of `cosine_to_reference` at the times [T].

    Frames after the horizon have no influence, so a prefix of a longer take gives the same figure.
    """
    windows = windows or DriftWindows()
    opening, opening_coverage = mean_seen(cosines[within(seconds, windows.opening)])
    last, last_coverage = mean_seen(cosines[within(seconds, windows.last(horizon_s))])
    value = None if opening is None or last is None else opening - last
    return Drift(horizon_s, value, opening, last, opening_coverage, last_coverage)


def curve(values: Floats, seconds: Floats, step_s: float = 1.0) -> tuple[Floats, Floats]:
    """Average over bins of `step_s`: (bin centres [N] in seconds, means [N], NaN if nothing is seen)."""
    bins = np.floor(seconds / step_s + 1e-6).astype(int)
    count = int(bins.max()) + 1
    seen = ~np.isnan(values)
    sums = np.bincount(bins[seen], values[seen], count)
    numbers = np.bincount(bins[seen], minlength=count)
    means: Floats = np.full(count, np.nan)
    np.divide(sums, numbers, out=means, where=numbers > 0)
    middles: Floats = ((np.arange(count) + 0.5) * step_s).astype(np.float64)
    return middles, means


def mean_seen(values: Floats) -> tuple[float | None, float]:
    """Mean of the values that aren't NaN, and their share; (None, 0) if there are none."""
    seen = values[~np.isnan(values)]
    if not len(values) or not len(seen):
        return None, 0.0
    return float(seen.mean()), len(seen) / len(values)
