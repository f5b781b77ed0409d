"""Paired comparisons with the prompt as the unit; seeds are averaged within it.

Frames and clips of one take are not independent and are never resampled; nor are seeds of one prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 10_000
SIGN_FLIPS = 20_000
EXACT_SIGN_FLIPS_UP_TO = 14  # prompts, for which all 2**14 sign patterns are enumerated
CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE
LEAST_FOR_INTERVAL = 6  # prompts; with fewer, no sign flips reach 5 %
TIE = 1e-9  # relative; smaller differences are rounding errors
POWER = 0.80
_NORMAL = NormalDist()
_CHUNK = 1_000  # resamples at a time, to bound memory


@dataclass(frozen=True)
class Paired:
    """An arm compared with a baseline on one outcome, over prompts.

    Attributes:
        prompts: number of prompts that count.
        mean: mean paired difference, arm minus baseline.
        low, high: 95 % interval of the mean over prompts; None below 6 prompts.
        p: two-sided sign-flip permutation p of the mean.
        win_rate: share of prompts in which the arm is better; ties count half.
        median: median of the differences.
        deviation: standard deviation of the differences over prompts; None for one prompt.
    """

    prompts: int
    mean: float
    low: float | None
    high: float | None
    p: float
    win_rate: float
    median: float
    deviation: float | None


def paired(
    differences: Sequence[float] | Floats,
    lower_is_better: bool = True,
    seed: int = 0,
    seeds_of_shares: int | None = None,
) -> Paired:
    """Compare by differences [prompts], arm minus baseline, each averaged over a prompt's seeds.

    Args:
        differences: differences in the outcome's own unit.
        lower_is_better: which sign is better; low for drift, high for motion.
        seed: seed of the bootstrap and the sign flips.
        seeds_of_shares: number of takes per prompt, if every take has 0 or 1; else None.

    Raises:
        ValueError: if there are none, or one is not finite.
    """
    values = np.asarray(differences, np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"a paired comparison needs finite differences of one or more prompts, got {values.tolist()}")
    low, high = None, None
    if len(values) >= LEAST_FOR_INTERVAL:
        if seeds_of_shares is None:
            low, high = mean_interval(values, seed=seed)
        else:
            low, high = share_interval(values, seeds_of_shares)
    size = np.abs(values)
    better = np.where(size <= TIE * max(1.0, size.max()), 0.5, (values < 0) == lower_is_better)
    return Paired(
        prompts=len(values),
        mean=float(values.mean()),
        low=low,
        high=high,
        p=sign_flip_p(values, seed=seed),
        win_rate=float(better.mean()),
        median=float(np.median(values)),
        deviation=float(values.std(ddof=1)) if len(values) > 1 else None,
    )


def mean_interval(values: Floats, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean: on either side, the wider of Student's t and the bootstrap-t.

    Student's t is right for symmetric differences, however heavy their tails, but too short for skewed ones; for the
    bootstrap-t (equal tails; Efron & Tibshirani 1993, section 12.5; Hall 1988) it is the other way round.
    docs/evaluation.md gives the coverage of both together.

    Args:
        values: [n], one per prompt.

    Returns:
        (low, high); both are the mean if all values are equal.
    """
    values = np.asarray(values, np.float64)
    mean, n = float(values.mean()), len(values)
    if np.ptp(values) <= TIE * max(1.0, abs(mean)):
        return mean, mean
    error = float(values.std(ddof=1)) / math.sqrt(n)
    reach, studentized = _t_quantile(n - 1), _studentized(values, resamples, seed)
    if not len(studentized):
        return mean - error * reach, mean + error * reach
    below, above = np.quantile(studentized, [LEVEL / 2, 1 - LEVEL / 2])
    return mean - error * max(reach, float(above)), mean + error * max(reach, float(-below))


def _studentized(values: Floats, resamples: int, seed: int) -> Floats:
    """(resampled mean - mean) / its standard error, [resamples], without resamples whose values are all equal."""
    n, found = len(values), []
    for places in _drawn(0, n, resamples, n, seed):
        drawn = values[places]
        means = drawn.mean(axis=1, keepdims=True)
        errors = drawn.std(axis=1, ddof=1, mean=means) / np.sqrt(n)
        spread = errors > TIE * np.abs(values).max()
        found.append((means[:, 0] - values.mean())[spread] / errors[spread])
    return np.concatenate(found)


@lru_cache(maxsize=8)
def _drawn(low: int, high: int, rows: int, columns: int, seed: int) -> list[NDArray[np.int32]]:
    """Whole numbers from low up to but not including high, [rows, columns] in portions of rows.

    They are kept, because all outcomes of a comparison are tested by the same draws.
    """
    rng = np.random.default_rng(seed)
    portions = (min(_CHUNK, rows - start) for start in range(0, rows, _CHUNK))
    return [rng.integers(low, high, (count, columns)).astype(np.int32) for count in portions]


def share_interval(differences: Floats, seeds: int) -> tuple[float, float]:
    """95 % interval of a difference of two paired shares, from differences [n] of 0 or 1, averaged over seeds.

    As in Agresti & Min 2005 (Statistics in Medicine 24, 729-740), half a pair is added for each of the four outcomes of
    a pair, so that rare events don't get an interval of zero width. A prompt with several seeds counts as that many
    pairs, so fewer prompts are added. Student's t is used because the unit is the prompt.
    """
    values = np.asarray(differences, np.float64)
    added = 2 / seeds
    n = len(values) + added
    mean = values.sum() / n
    error = np.sqrt(((values**2).sum() + added / 2 - n * mean**2) / n / n)
    reach = _t_quantile(len(values) - 1) * error
    return max(-1.0, float(mean - reach)), min(1.0, float(mean + reach))


@lru_cache
def _t_quantile(freedom: int) -> float:
    from scipy.stats import t  # takes a second to import

    return float(t.ppf(1 - LEVEL / 2, freedom))


def sign_flip_p(values: Floats, flips: int = SIGN_FLIPS, seed: int = 0) -> float:
    """Two-sided p of the mean under random signs: exact for few prompts, else Monte Carlo with +1 in both counts.

    `scipy.stats.permutation_test` is not used because, when sampling, it doubles the count of one tail, which is
    noisier.
    """
    values = np.asarray(values, np.float64)
    observed = abs(values.sum()) - 1e-12 * np.abs(values).sum()
    if len(values) <= EXACT_SIGN_FLIPS_UP_TO:
        patterns = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
        sums = (1 - 2 * patterns) @ values
        return float((np.abs(sums) >= observed).mean())
    as_far = 0
    for heads in _drawn(0, 2, flips, len(values), seed):
        as_far += int((np.abs((heads * 2 - 1) @ values) >= observed).sum())
    return (as_far + 1) / (flips + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values by Holm's step-down method, in the order given (Holm 1979)."""
    order = np.argsort(p_values)
    adjusted, highest = np.empty(len(order)), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return [float(value) for value in adjusted]


def detectable_effect(prompts: int, tests: int = 1, power: float = POWER) -> float:
    """Smallest mean difference that leads to a claim with probability `power`, in standard deviations of differences.

    (z_a + z_b) / sqrt(n), at the level of Holm's first step, which applies to every test if no other is significant.
    """
    if prompts < 1 or tests < 1:
        raise ValueError(f"there are {prompts} prompts and {tests} tests; there must be at least 1 of each")
    level = LEVEL / tests
    return (_NORMAL.inv_cdf(1 - level / 2) + _NORMAL.inv_cdf(power)) / float(np.sqrt(prompts))


def prompts_for_a_claim(tests: int) -> int:
    """The fewest prompts with which sign flips can reach 5 % after Holm: if all signs agree, p = 2 / 2**n."""
    return max(LEAST_FOR_INTERVAL, math.ceil(math.log2(2 * tests / LEVEL)))


def mean_and_error(values: Floats) -> tuple[Floats, Floats]:
    """Mean curve and its standard error over prompts: their deviation (n - 1) divided by the root of n.

    Args:
        values: [prompts, N]; NaN if a prompt has no value there, which is then ignored.

    Returns:
        (mean [N], error [N]); a mean needs one prompt and an error two, else NaN.
    """
    values = np.asarray(values, np.float64)
    seen = ~np.isnan(values)
    numbers = seen.sum(axis=0)
    nothing = np.full(values.shape[1], np.nan)
    mean = np.divide(np.where(seen, values, 0.0).sum(axis=0), numbers, out=nothing.copy(), where=numbers > 0)
    squares = np.where(seen, values - mean, 0.0) ** 2
    variance = np.divide(squares.sum(axis=0), numbers - 1, out=nothing.copy(), where=numbers > 1)
    return mean, np.sqrt(variance / numbers)


def mean_band(values: Floats, seed: int = 0, resamples: int = 2_000) -> tuple[Floats, Floats]:
    """Pointwise 95 % percentile bootstrap band of a mean curve.

    Args:
        values: [prompts, N]; NaN if a prompt has no value there, which is then ignored.

    Returns:
        (low [N], high [N]); NaN where no prompt has a value.
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    seen = ~np.isnan(values)
    filled = np.where(seen, values, 0.0)
    draws = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), resamples).astype(np.float64)
    numbers = draws @ seen
    means = np.divide(draws @ filled, numbers, out=np.full(numbers.shape, np.nan), where=numbers > 0)
    low, high = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    known = seen.any(axis=0)
    if known.any():
        low[known], high[known] = np.nanquantile(means[:, known], [0.025, 0.975], axis=0)
    return low, high
