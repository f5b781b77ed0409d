"""What the oracle's readings say about a take: which hidden traits were kept, and how many characters there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from eval.drift import Floats
from eval.windows import DriftWindows, within

Trait = str | float
LEAST_SEEN_S = 0.5  # a character seen for less time is a misreading
DISSOLVED_S = 3.0  # by then a cue to another place shows, and the window of most backbones has slid past it


@dataclass(frozen=True)
class KeptTraits:
    """Traits before a horizon, compared with those of the opening.

    A trait counts as seen in a window if it is read with certainty for at least `LEAST_SEEN_S`.

    Attributes:
        horizon_s: seconds of the take.
        known: number of traits shown in the opening.
        kept: how many of them the last 5 s show with the same value; a character that is gone has lost them.
        all_kept: whether all traits are seen in the opening and kept; a trait that is never seen counts as lost.
        known_kept: whether all traits shown in the opening are kept; None if it shows none.
        as_named: share of the last 5 s that show a character with the shape and colour named in the prompt; None if no
            prompt names any.
        opening, last: values by trait.
        right_one: whether the last 5 s are more like the subject than the rival, in the traits in which the two differ;
            None if there is no rival, or no difference.
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


def place_as_named(
    shown: Sequence[str | None], said: Sequence[tuple[float, str | None]], seconds: Floats, horizon_s: float
) -> float | None:
    """Share of frames that show the place their prompt names, 3 s or more after the place was first named.

    None if no prompt names a place that the oracle knows.

    Args:
        shown: the place read in each frame; None if that isn't sure, which counts as not shown.
        said: (second, place) of each prompt, the first at 0, if any are known; None if it names none.
        seconds: [T], times of the frames.
        horizon_s: frames from here on don't count.
    """
    right: list[bool] = []
    changes = [each for number, each in enumerate(said) if not number or each[1] != said[number - 1][1]]
    for (start, place), (end, _) in pairwise([*changes, (horizon_s, None)]):
        settled = within(seconds, (start + DISSOLVED_S, min(end, horizon_s)))
        if place is not None:
            right += [shown[frame] == place for frame in map(int, np.flatnonzero(settled))]
    return float(np.mean(right)) if right else None


def more_than_named(
    counts: Sequence[int], named: Sequence[Sequence[Mapping[str, Trait]]], seconds: Floats, horizon_s: float
) -> float | None:
    """Share of the last 5 s before the horizon that show more characters than their prompt names.

    Frames whose prompt names nobody don't count; None if there are no others.

    Args:
        counts: number of characters in each frame.
        named: for each frame, the characters named in its prompt; empty if no prompts are known.
        seconds: [T], times of the frames.
    """
    last = map(int, np.flatnonzero(within(seconds, DriftWindows().last(horizon_s))))
    more = [counts[frame] > len(named[frame]) for frame in last if named and named[frame]]
    return float(np.mean(more)) if more else None


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
        readings: one per frame, trait to value, without unsure ones.
        seconds: [T], times of the frames.
        traits: traits to keep: hidden ones, and those named in prompts.
        named: for each frame, the characters named in its prompt; empty if no prompts are known.
        rival: windows of another character that no prompt distinguishes from the subject.
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
    """Number of characters seen for at least half a second before `end_s`, distinguished by the traits in `named`."""
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
    """The most frequent value by trait, except traits seen too rarely or with a tie."""
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
