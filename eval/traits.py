"""What the oracle's readings say of a take: which hidden traits were kept, and how many characters there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.drift import Floats
from eval.windows import DriftWindows, within

Trait = str | float
LEAST_SEEN_S = 0.5  # a character that is seen for less is a misreading


@dataclass(frozen=True)
class KeptTraits:
    """Hidden traits before a horizon, beside those of the opening.

    Attributes:
        horizon_s: seconds of the take.
        known: how many hidden traits the opening shows.
        kept: how many of them the last 5 s show with the same value; a character that is gone has lost them.
        all_kept: whether all are; None where the opening shows none.
        opening, last: the values, by trait.
    """

    horizon_s: float
    known: int
    kept: int
    all_kept: bool | None
    opening: dict[str, Trait]
    last: dict[str, Trait]


def kept_traits(
    readings: Sequence[Mapping[str, Trait]],
    seconds: Floats,
    horizon_s: float,
    hidden: Collection[str],
    windows: DriftWindows | None = None,
) -> KeptTraits:
    """Compare the most frequent value of each hidden trait in seconds 1 to 5 and in the last 5 s before the horizon.

    Args:
        readings: one a frame, trait to value; unsure ones left out.
        seconds: [T].
        hidden: the traits that no prompt names.
    """
    windows = windows or DriftWindows()
    opening = _most_frequent(readings, within(seconds, windows.opening), hidden)
    last = _most_frequent(readings, within(seconds, windows.last(horizon_s)), hidden)
    kept = sum(last.get(trait) == value for trait, value in opening.items())
    return KeptTraits(horizon_s, len(opening), kept, kept == len(opening) if opening else None, opening, last)


def distinct_characters(
    readings: Sequence[Mapping[str, Trait]], seconds: Floats, end_s: float, named: Sequence[str] = ("shape", "colour")
) -> int:
    """How many different characters are seen for at least half a second before `end_s`, told apart by `named`."""
    inside = within(seconds, (0, end_s))
    least = LEAST_SEEN_S * inside.sum() / end_s
    seen = Counter(
        tuple(reading[trait] for trait in named)
        for reading, counts in zip(readings, inside, strict=True)
        if counts and all(trait in reading for trait in named)
    )
    return sum(bool(count >= least) for count in seen.values())


def _most_frequent(
    readings: Sequence[Mapping[str, Trait]], counts: NDArray[np.bool_], traits: Collection[str]
) -> dict[str, Trait]:
    found = {}
    for trait in traits:
        values = Counter(
            reading[trait] for reading, counted in zip(readings, counts, strict=True) if counted and trait in reading
        )
        if values:
            found[trait] = values.most_common(1)[0][0]
    return found
