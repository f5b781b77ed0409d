"""Paired statistics against closed forms, published figures and simulations."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test, t, ttest_1samp
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from eval.statistics import (
    detectable_effect,
    holm,
    mean_band,
    mean_interval,
    paired,
    prompts_for_a_claim,
    share_interval,
    sign_flip_p,
)
from tests.eval.coverage import coverage


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


def bootstrap_t_by_hand(values: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """Efron & Tibshirani 1993, algorithm 12.1, resample by resample."""
    rng, n = np.random.default_rng(seed), len(values)
    statistics = []
    for _ in range(resamples):
        drawn = rng.choice(values, n)
        statistics.append((drawn.mean() - values.mean()) / (drawn.std(ddof=1) / math.sqrt(n)))
    below, above = np.quantile(statistics, [0.025, 0.975])
    error = values.std(ddof=1) / math.sqrt(n)
    return values.mean() - above * error, values.mean() - below * error


def bootstrap_t_of_the_same_draws(values: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """The wider of t and bootstrap-t, one resample after another; those without a spread say nothing."""
    rng, n = np.random.default_rng(seed), len(values)
    statistics = []
    for chosen in rng.integers(0, n, (resamples, n)):
        drawn = [float(values[place]) for place in chosen]
        if len(set(drawn)) > 1:
            statistics.append((np.mean(drawn) - values.mean()) / (np.std(drawn, ddof=1) / math.sqrt(n)))
    below, above = np.quantile(statistics, [0.025, 0.975])
    error = values.std(ddof=1) / math.sqrt(n)
    by_t = ttest_1samp(values, 0).confidence_interval(0.95)
    return min(by_t.low, values.mean() - above * error), max(by_t.high, values.mean() - below * error)


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 0.2, 0.2, 0.4, 0.9, 3.0],
        [-1.0, 0, 0, 0, 0, 0],
        [2.0, -1, 0.5, 1, 0, 3, -2],
        [1.0, 1, 1, 1, 1, 2],
        [0.0, *[0.1] * 6],
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_intervals_draw_by_draw(values, sign):
    values = sign * np.array(values)
    expected = bootstrap_t_of_the_same_draws(values, 1500, seed=3)
    assert mean_interval(values, 1500, seed=3) == pytest.approx(expected, rel=1e-9)


def test_what_is_drawn_if_nobody_says():
    values = np.array([0.1, 0.2, 0.2, 0.4, 0.9, 3.0, *range(1, 10)])
    assert mean_interval(values) == mean_interval(values, 10_000, 0)
    assert sign_flip_p(values - 2) == sign_flip_p(values - 2, 20_000, 0)
    found = paired(values - 2)
    assert (found.low, found.high, found.p) == (*mean_interval(values - 2), sign_flip_p(values - 2))
    assert paired(values - 2, seed=1).p == sign_flip_p(values - 2, seed=1) != found.p
    assert paired(values - 2, seed=1).low == mean_interval(values - 2, seed=1)[0]
    curves = np.random.default_rng(0).normal(size=(20, 2))
    np.testing.assert_array_equal(mean_band(curves), mean_band(curves, 0, 2_000))


@pytest.mark.parametrize("count", [15, 20])
def test_sign_flips_draw_by_draw(count):
    """From 15 prompts on they are drawn; the observed signs count as one of them."""
    values = np.random.default_rng(count).normal(0.4, 1, count)
    rng = np.random.default_rng(7)
    signs = rng.integers(0, 2, (1500, count))
    as_far = sum(
        abs(sum(v if s else -v for v, s in zip(values, row, strict=True))) >= abs(sum(values)) for row in signs
    )
    assert sign_flip_p(values, 1500, seed=7) == (as_far + 1) / 1501


def test_differences_of_zero_are_as_far_out_under_all_signs():
    with np.errstate(all="raise"):
        assert sign_flip_p(np.zeros(20), 1500) == 1.0


def test_fourteen_prompts_are_exact():
    assert sign_flip_p(np.ones(14)) == 2 / 2**14
    assert sign_flip_p(np.ones(15)) * 20_001 == pytest.approx(round(sign_flip_p(np.ones(15)) * 20_001))
    assert sign_flip_p(-np.array([1.0, 2.0, 3.0])) == 2 / 8


@pytest.mark.parametrize(
    ("largest", "small", "is_tie"),
    [(0.5, 0.9e-9, True), (0.5, 1.1e-9, False), (5.0, 4e-9, True), (5.0, 6e-9, False), (-5.0, 4e-9, True)],
)
def test_ties_are_relative_to_the_largest_difference(largest, small, is_tie):
    """`small` is worse, so it wins nothing but half of a tie."""
    win = float(largest < 0)
    assert paired([largest, small]).win_rate == (win + (0.5 if is_tie else 0.0)) / 2


@pytest.mark.parametrize(
    ("mean", "apart", "is_point"),
    [(0.25, 0.8e-9, True), (0.25, 1.2e-9, False), (5.0, 4e-9, True), (-5.0, 4e-9, True)],
)
def test_an_interval_of_values_that_are_equal_but_for_rounding_is_a_point(mean, apart, is_point):
    low, high = mean_interval(mean + apart * np.array([-0.5, 0.5, -0.5, 0.5, 0, 0]), 200)
    assert (low == high) is is_point


def test_differences_by_hand():
    """Mean 2, median 1, deviation sqrt((4 + 1 + 1 + 16 + 4 + 4) / 5)."""
    found = paired([0.0, 1, 1, 6, 4, 0])
    assert (found.mean, found.median, found.deviation) == (2.0, 1.0, pytest.approx(math.sqrt(30 / 5)))
    assert paired([1.0, 3.0]).deviation == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_an_interval_of_shares_adds_half_a_pair_of_each_kind(seeds):
    """As a weighted sample: four pairs of the weight 1 / (2 seeds), whose differences are 1, -1, 0 and 0."""
    values = np.array([1, 0.5, 0, 0, -0.5, 1, 0.5, 0.0])
    data = np.concatenate([values, [1, -1, 0, 0]])
    weights = np.concatenate([np.ones(8), np.full(4, 1 / (2 * seeds))])
    found = DescrStatsW(data, weights, ddof=0)
    reach = t.ppf(0.975, 7) * math.sqrt(found.var / weights.sum())
    assert share_interval(values, seeds) == pytest.approx((found.mean - reach, found.mean + reach))


def test_an_interval_of_shares_ends_at_one():
    low, high = share_interval(np.ones(6), 1)
    assert high == 1.0
    assert 0 < low < 1
    assert share_interval(-np.ones(6), 1) == (-1.0, -low)


def test_band_draw_by_draw():
    curves = np.array([[1.0, 2, np.nan], [2, np.nan, np.nan], [5, np.nan, np.nan], [9, 4, np.nan]])
    draws = np.random.default_rng(4).multinomial(4, [0.25] * 4, 300)
    low, high = mean_band(curves, seed=4, resamples=300)
    for column in (0, 1):
        means = []
        for draw in draws:
            drawn = [row[column] for row, count in zip(curves, draw, strict=True) for _ in range(count)]
            drawn = [value for value in drawn if not np.isnan(value)]
            means += [np.mean(drawn)] if drawn else []
        assert (low[column], high[column]) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert np.isnan([low[2], high[2]]).all()
    half = np.random.default_rng(6).normal(size=(10, 1))
    half[5:] = np.nan
    draws = np.random.default_rng(4).multinomial(10, [0.1] * 10, 2000)[:, :5]
    means = [draw @ half[:5, 0] / draw.sum() for draw in draws if draw.sum()]
    low, high = mean_band(half, seed=4, resamples=2000)
    assert (low[0], high[0]) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), rel=1e-9)
    with np.errstate(all="raise"):
        assert np.isnan(mean_band(curves[:, 2:])).all()


@pytest.mark.parametrize("prompts", [14, 32])
@pytest.mark.parametrize("name", ["normal", "exponential", "ties"])
def test_intervals_are_the_wider_of_t_and_bootstrap_t(name, prompts):
    values = some_values(name, prompts)
    by_t = ttest_1samp(values, 0).confidence_interval(0.95)
    also_t = DescrStatsW(values).tconfint_mean()
    assert (by_t.low, by_t.high) == pytest.approx(also_t)
    by_bootstrap = bootstrap_t_by_hand(values, 20_000, seed=1)
    low, high = mean_interval(values, resamples=20_000)
    error = 0.06 * values.std(ddof=1)  # of the bootstrap
    assert low == pytest.approx(min(by_t.low, by_bootstrap[0]), abs=error)
    assert high == pytest.approx(max(by_t.high, by_bootstrap[1]), abs=error)
    assert low <= by_t.low + 1e-9
    assert high >= by_t.high - 1e-9


def test_an_interval_of_shares_is_that_of_agresti_and_min():
    """Their adjusted Wald interval: half a pair more in each of the four cells, with t for the normal quantile."""
    for both, only, other, neither in ((3, 5, 1, 7), (0, 4, 0, 12), (0, 0, 0, 16)):
        n = both + only + other + neither
        differences = np.repeat([0.0, 1.0, -1.0, 0.0], [both, only, other, neither])
        b, c, total = only + 0.5, other + 0.5, n + 2
        error = math.sqrt((b + c) - (b - c) ** 2 / total) / total
        reach = t.ppf(0.975, n - 1) * error
        expected = (max(-1, (b - c) / total - reach), min(1, (b - c) / total + reach))
        assert share_interval(differences, seeds=1) == pytest.approx(expected)


def test_a_rare_event_has_no_interval_of_width_zero():
    low, high = share_interval(np.zeros(32), seeds=2)
    assert low < -0.02
    assert high > 0.02
    with_more_seeds = share_interval(np.zeros(32), seeds=8)
    assert high - low > with_more_seeds[1] - with_more_seeds[0] > 0
    assert paired(np.zeros(32), seeds_of_shares=2).low == low


@pytest.mark.parametrize(
    ("case", "prompts"), [("normal", 16), ("exponential", 32), ("heavy tails", 16), ("kept, 10 to 40 %", 32)]
)
def test_intervals_cover_what_they_say(case, prompts):
    """A short run of `python -m tests.eval.coverage`."""
    covered, _ = coverage(case, prompts, runs=400, resamples=500)
    assert 0.92 <= covered <= 0.985


def test_resampling_frames_would_have_lied():
    """Seeds of a prompt share its effect: intervals over prompts must be wider than over takes."""
    rng = np.random.default_rng(5)
    takes = np.repeat(rng.normal(size=20), 8) + 0.05 * rng.normal(size=160)
    over_prompts = mean_interval(takes.reshape(20, 8).mean(axis=1))
    over_takes = mean_interval(takes)
    assert (over_prompts[1] - over_prompts[0]) > 2 * (over_takes[1] - over_takes[0])


def test_the_interval_of_equal_values_is_a_point():
    assert mean_interval(np.full(9, 0.25)) == (0.25, 0.25)


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


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_power_as_published():
    assert detectable_effect(128) == pytest.approx(0.25, abs=0.005)
    assert detectable_effect(30) == pytest.approx(0.51, abs=0.005)
    assert detectable_effect(32) == pytest.approx(0.5, abs=0.005)
    assert detectable_effect(1) == pytest.approx(NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8))
    assert detectable_effect(9, 2, 0.9) == pytest.approx((NormalDist().inv_cdf(0.9875) + NormalDist().inv_cdf(0.9)) / 3)
    for prompts, tests in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"{prompts} prompts and {tests} tests"):
            detectable_effect(prompts, tests)


def test_power_allows_for_holm():
    assert detectable_effect(32, tests=3) == pytest.approx((2.394 + 0.842) / math.sqrt(32), abs=0.001)


def test_a_claim_needs_prompts_whose_signs_can_reach_it():
    """Six prompts, three tests: 2 / 2**6 * 3 = .094; seven: .047."""
    assert [prompts_for_a_claim(tests) for tests in (1, 2, 3, 6)] == [6, 7, 7, 8]
    for tests in range(1, 40):
        needed = prompts_for_a_claim(tests)
        assert min(1, tests * sign_flip_p(np.ones(needed))) <= 0.05
        assert needed == 6 or tests * 2 / 2 ** (needed - 1) > 0.05


def test_power_in_a_simulation():
    rng, z = np.random.default_rng(17), NormalDist().inv_cdf(0.975)
    n = 128
    samples = rng.normal(detectable_effect(n), 1, (4000, n))
    found = np.abs(samples.mean(axis=1)) > z / math.sqrt(n)
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def test_what_differs_by_rounding_alone_is_a_tie():
    values = [0.1 + 0.2 - 0.3, 0.3 - 0.1 - 0.2, 0.7 - 0.6 - 0.1, -0.2]
    assert 0 not in values
    assert paired(values).win_rate == paired(values, lower_is_better=False).win_rate + 0.25 == pytest.approx(2.5 / 4)


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


def test_differences_that_are_nearly_ties_have_the_interval_of_student():
    values = 5 + 6e-9 * np.array([-0.5, 0.5, -0.5, 0.5, 0, 0])
    low, high = mean_interval(values)
    error = values.std(ddof=1) / np.sqrt(6)
    assert (high - 5) == pytest.approx(t.ppf(0.975, 5) * error, rel=1e-4)
    assert (5 - low) == pytest.approx(high - 5, rel=1e-4)
