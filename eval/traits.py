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
    """Traits before a horizon, beside those of the opening.

    A trait counts as seen in a window if it is read surely in at least `LEAST_SEEN_S` of its frames.

    Attributes:
        horizon_s: seconds of the take.
        known: how many traits the opening shows.
        kept: how many of them the last 5 s show with the same value; a character that is gone has lost them.
        all_kept: whether all traits are seen in the opening, and kept: what nobody sees counts as lost.
        known_kept: whether those are kept that the opening shows; None where it shows none.
        as_named: share of the last 5 s in which a character is seen that has the shape and the colour that the prompt
            names; None where no prompt names any.
        opening, last: the values, by trait.
        right_one: whether the last 5 s are more like the subject than like the rival, of the traits in which the two
            differ; None where there is no rival, or no difference.
    """

    horizon_s: float
    known: int
    kept: int
    all_kept: bool
    known_kept: bool | None
    as_named: float | None
    opening: dict[str, Trait]
    last: dict[str, Trait]
    right_one: bool | None = None


def kept_traits(
    readings: Sequence[Mapping[str, Trait]],
    seconds: Floats,
    horizon_s: float,
    traits: Collection[str],
    windows: DriftWindows | None = None,
    named: Sequence[Sequence[Mapping[str, Trait]]] = (),
    rival: DriftWindows | None = None,
) -> KeptTraits:
    """Compare the most frequent value of each trait in seconds 1 to 5 and in the last 5 s before the horizon.

    Args:
        readings: one a frame, trait to value; unsure ones left out.
        seconds: [T].
        traits: those that are to be kept: hidden ones, and those that a prompt names.
        named: for each frame, what the prompt in force says of the characters that it names; empty: no prompt is known.
        rival: the windows of another character whom no prompt can tell from the subject.
    """
    windows = windows or DriftWindows()
    opening = _most_frequent(readings, seconds, windows.opening, traits)
    last = _most_frequent(readings, seconds, windows.last(horizon_s), traits)
    kept = sum(last.get(trait) == value for trait, value in opening.items())
    known_kept = kept == len(opening) if opening else None
    as_named = _as_named(readings, named, within(seconds, windows.last(horizon_s)))
    right = _right_one(opening, _most_frequent(readings, seconds, rival.opening, traits), last) if rival else None
    return KeptTraits(horizon_s, len(opening), kept, kept == len(traits), known_kept, as_named, opening, last, right)


def _right_one(own: Mapping[str, Trait], others: Mapping[str, Trait], last: Mapping[str, Trait]) -> bool | None:
    apart = [trait for trait in own if trait in others and own[trait] != others[trait]]
    like_own = sum(last.get(trait) == own[trait] for trait in apart)
    return like_own > sum(last.get(trait) == others[trait] for trait in apart) if apart else None


def _as_named(
    readings: Sequence[Mapping[str, Trait]], named: Sequence[Sequence[Mapping[str, Trait]]], counts: NDArray[np.bool_]
) -> float | None:
    asked = [place for place in map(int, np.flatnonzero(counts)) if named and named[place]]
    right = [any(one.items() <= readings[place].items() for one in named[place]) for place in asked]
    return float(np.mean(right)) if right else None


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
    readings: Sequence[Mapping[str, Trait]], seconds: Floats, window: tuple[float, float], traits: Collection[str]
) -> dict[str, Trait]:
    """By trait; none where it is seen too rarely, or two values equally often."""
    counts = within(seconds, window)
    least = LEAST_SEEN_S * counts.sum() / (window[1] - window[0])
    found = {}
    for trait in traits:
        values = Counter(
            reading[trait] for reading, counted in zip(readings, counts, strict=True) if counted and trait in reading
        )
        (first, count), *others = [*values.most_common(2), (None, 0)]
        if first is not None and count >= least and others[0][1] < count:
            found[trait] = first
    return found
