"""Paired statistics against closed forms, published figures and simulations."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import permutation_test

from eval.statistics import (
    bca_interval,
    detectable_effect,
    holm,
    mean_band,
    paired,
    sign_flip_p,
)


def some_values(name: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    return {
        "normal": rng.normal(0.3, 1, count),
        "exponential": rng.exponential(1, count) - 0.6,
        "ties": rng.integers(-2, 4, count) / 10,
    }[name]


def sign_flip_by_scipy(values: np.ndarray) -> float:
    def mean(sample: np.ndarray, axis: int) -> np.ndarray:
        return sample.mean(axis=axis)

    found = permutation_test(
        (values,), mean, permutation_type="samples", vectorized=True, n_resamples=20_000, batch=1000, rng=0
    )
    return float(found.pvalue)


def bca_by_hand(values: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """Efron 1987: quantiles of the resampled means, moved by their bias and by the jackknife's acceleration."""
    rng, normal, mean, n = np.random.default_rng(seed), NormalDist(), values.mean(), len(values)
    means = values[rng.integers(0, n, (resamples, n))].mean(axis=1)
    bias = normal.inv_cdf(((means < mean).mean() + (means <= mean).mean()) / 2)
    left_out = np.array([np.delete(values, place).mean() for place in range(n)])
    away = left_out.mean() - left_out
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    shifted = [bias + normal.inv_cdf(share) for share in (0.025, 0.975)]
    low, high = np.quantile(means, [normal.cdf(bias + z / (1 - acceleration * z)) for z in shifted])
    return low, high


@pytest.mark.parametrize("prompts", [6, 14, 32, 64])
@pytest.mark.parametrize("name", ["normal", "exponential", "ties"])
def test_bca_is_that_of_the_paper_to_the_digit(name, prompts):
    """The published reports were made by such lines of our own; scipy's, from the same seed, are the same intervals."""
    values = some_values(name, prompts)
    assert bca_interval(values, seed=prompts) == pytest.approx(bca_by_hand(values, 10_000, prompts), abs=1e-12)


@pytest.mark.parametrize("name", ["normal", "exponential"])
def test_bca_is_second_order_exact(name):
    """To order 1/n a BCa end is mean + s/sqrt(n) (z + skew/(6 sqrt n) (2 z^2 + 1)) (Hall 1992, section 3.10)."""
    rng, n = np.random.default_rng(7), 100
    values = rng.normal(size=n) if name == "normal" else rng.exponential(size=n)
    s, z = values.std(), NormalDist().inv_cdf(0.975)
    skew = ((values - values.mean()) ** 3).mean() / s**3
    expected = [
        values.mean() + s / math.sqrt(n) * (side + skew / (6 * math.sqrt(n)) * (2 * z**2 + 1)) for side in (-z, z)
    ]
    low, high = bca_interval(values, resamples=100_000)
    assert (low, high) == pytest.approx(expected, abs=0.06 * s / math.sqrt(n))


def test_bca_covers_what_it_says():
    rng = np.random.default_rng(3)
    inside = {"normal": 0, "skewed": 0}
    runs = 300
    for run in range(runs):
        for name, values, truth in (
            ("normal", rng.normal(0.3, 1, 32), 0.3),
            ("skewed", rng.exponential(1, 32) - 1, 0.0),
        ):
            low, high = bca_interval(values, resamples=1000, seed=run)
            inside[name] += low <= truth <= high
    assert 0.91 <= inside["normal"] / runs <= 0.98
    assert 0.87 <= inside["skewed"] / runs <= 0.98  # theory says a little under .95 at n = 32


def test_resampling_frames_would_have_lied():
    """Seeds of a prompt share its effect: intervals over prompts must be wider than over takes."""
    rng = np.random.default_rng(5)
    takes = np.repeat(rng.normal(size=20), 8) + 0.05 * rng.normal(size=160)
    over_prompts = bca_interval(takes.reshape(20, 8).mean(axis=1))
    over_takes = bca_interval(takes)
    assert (over_prompts[1] - over_prompts[0]) > 2 * (over_takes[1] - over_takes[0])


def test_bca_of_equal_values_is_a_point():
    assert bca_interval(np.full(9, 0.25)) == (0.25, 0.25)


def test_sign_flip_by_hand():
    """All of five differences positive: 2 of 2**5 patterns are as far out."""
    assert sign_flip_p(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == 2 / 32
    assert sign_flip_p(np.array([1.0, -1.0])) == 1.0
    assert sign_flip_p(np.zeros(4)) == 1.0
    # |sums| of 1, 2, 3 under all signs: 6, 4, 2, 0, each twice; |1 + 2 - 3| = 0 is reached by all
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert sign_flip_p(np.array([-1.0, 2.0, 3.0])) == 4 / 8


@pytest.mark.parametrize("prompts", [2, 6, 14, 32, 64])
@pytest.mark.parametrize("name", ["normal", "exponential", "ties"])
def test_sign_flip_is_that_of_scipy(name, prompts):
    values = some_values(name, prompts)
    p, other = sign_flip_p(values), sign_flip_by_scipy(values)
    error = 0.0 if prompts <= 14 else 4 * math.sqrt(3 * p * (1 - p) / 20_000)  # of ours p(1 - p), of theirs about twice
    assert p == pytest.approx(other, abs=error + 1e-4 * (prompts > 14), rel=1e-12)


def test_sign_flip_by_chance_is_near_exact():
    values = np.random.default_rng(11).normal(0.4, 1, 14)
    exact = sign_flip_p(values)
    padded = np.concatenate([values, np.zeros(4)])  # zeros don't change the sums, but make it Monte Carlo
    assert sign_flip_p(padded) == pytest.approx(exact, abs=0.012)


def test_sign_flip_is_uniform_under_the_null():
    rng = np.random.default_rng(13)
    p_values = np.array([sign_flip_p(rng.normal(size=10)) for _ in range(400)])
    for level in (0.05, 0.2, 0.5):
        assert (p_values <= level).mean() == pytest.approx(level, abs=3.5 * math.sqrt(level * (1 - level) / 400))


def test_holm_by_hand():
    """Holm 1979: .01 x 4, .013 x 3, then .03 x 2 and .04 x 1, never falling."""
    assert holm([0.03, 0.01, 0.04, 0.013]) == pytest.approx([0.06, 0.04, 0.06, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_power_as_published():
    assert detectable_effect(128) == pytest.approx(0.25, abs=0.005)
    assert detectable_effect(30) == pytest.approx(0.51, abs=0.005)
    assert detectable_effect(32) == pytest.approx(0.5, abs=0.005)
    with pytest.raises(ValueError, match="prompts is 0"):
        detectable_effect(0)


def test_power_in_a_simulation():
    rng, z = np.random.default_rng(17), NormalDist().inv_cdf(0.975)
    n = 128
    samples = rng.normal(detectable_effect(n), 1, (4000, n))
    found = np.abs(samples.mean(axis=1)) > z / math.sqrt(n)
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def test_paired_says_all_of_it():
    values = [-0.3, -0.1, -0.2, 0.1, 0.0, -0.1]
    result = paired(values)
    assert result.prompts == 6
    assert result.mean == pytest.approx(-0.1)
    assert result.median == pytest.approx(-0.1)
    assert result.win_rate == pytest.approx(4.5 / 6)
    assert paired(values, lower_is_better=False).win_rate == pytest.approx(1.5 / 6)
    assert result.low < result.mean < result.high
    single = paired([0.5])
    assert (single.low, single.high, single.deviation, single.p) == (None, None, None, 1.0)
    assert paired(values[:5]).low is None  # five prompts can't show anything at 5 %
    assert paired(values) == result  # the same every time


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [0.1, float("inf")]])
def test_paired_refuses_what_is_missing(values):
    with pytest.raises(ValueError, match="needs finite differences"):
        paired(values)


def test_band_of_a_mean():
    rng = np.random.default_rng(19)
    curves = rng.normal(size=(200, 3))
    curves[:, 1] = 2.0
    curves[:, 2] = np.nan
    low, high = mean_band(curves)
    error = 1.96 * curves[:, 0].std() / math.sqrt(200)
    assert (low[0], high[0]) == pytest.approx(
        (curves[:, 0].mean() - error, curves[:, 0].mean() + error), abs=0.2 * error
    )
    assert (low[1], high[1]) == pytest.approx((2.0, 2.0))
    assert np.isnan([low[2], high[2]]).all()
