"""How often an interval holds the truth, by simulation.

`python -m tests.eval.coverage --runs 4000 --seed 0` prints the table of docs/evaluation.md: for each kind of paired
differences and number of prompts, the share of intervals that hold the true mean, and their mean width.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from eval.statistics import RESAMPLES, mean_interval, share_interval

Draw = Callable[[np.random.Generator, int], np.ndarray]
PROMPTS = (8, 16, 32)
SEEDS = 2
BEFORE, AFTER = 0.03, 0.12
"""Shares of takes that keep all traits, without memory and with it: rare, as in the published stories."""
CASES: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
    "lognormal, sigma 0.5": (lambda rng, n: rng.lognormal(0, 0.5, n), float(np.exp(0.125))),
    "lognormal, sigma 1": (lambda rng, n: rng.lognormal(0, 1, n), float(np.exp(0.5))),
    "heavy tails": (lambda rng, n: rng.lognormal(size=n) - rng.lognormal(size=n), 0.0),  # symmetric
}


def shares(rng: np.random.Generator, n: int, before: float, after: float) -> np.ndarray:
    """Differences of paired shares, [n], the mean over the seeds: half of the prompts are easy, half are hard."""
    ease = np.where(rng.random((n, 1)) < 0.5, 0.5, 1.5)  # of a prompt, in both arms
    values = [rng.random((n, SEEDS)) < np.minimum(1, share * ease) for share in (before, after)]
    return (values[1].astype(float) - values[0]).mean(axis=1)


SHARES = {
    "kept, 3 to 12 %": (BEFORE, AFTER),
    "kept, 10 to 40 %": (0.1, 0.4),
    "kept, 40 to 50 %": (0.4, 0.5),
}


def coverage(case: str, prompts: int, runs: int, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Share of intervals that hold the truth, and their mean width."""
    rng = np.random.default_rng([seed, prompts, sum(case.encode())])
    inside, width = 0, 0.0
    for run in range(runs):
        if case in SHARES:
            before, after = SHARES[case]
            truth = after - before
            low, high = share_interval(shares(rng, prompts, before, after), SEEDS)
        else:
            draw, truth = CASES[case]
            low, high = mean_interval(draw(rng, prompts), resamples, seed=run)
        inside += low <= truth <= high
        width += high - low
    return inside / runs, width / runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| differences | " + " | ".join(f"n = {n}" for n in PROMPTS) + " |")
    print("|---" * (len(PROMPTS) + 1) + "|")
    for case in (*CASES, *SHARES):
        found = [coverage(case, n, given.runs, given.resamples, given.seed)[0] for n in PROMPTS]
        print(f"| {case} | " + " | ".join(f"{100 * share:.1f}" for share in found) + " |", flush=True)


if __name__ == "__main__":
    main()
