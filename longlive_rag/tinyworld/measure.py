"""Read whole tiny-world takes with the oracle: who was seen, what they did, which traits they kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longlive_rag.tinyworld.drawing import HIDDEN_VALUES
from longlive_rag.tinyworld.grammar import MEETS
from longlive_rag.tinyworld.motion import SIZE_PX
from longlive_rag.tinyworld.oracle import HIDDEN_TRAITS, Sighting, Trait, read_frame

Value = str | float
_STILL_PX, _TRAVEL_PX, _JUMP_PX = 7.0, 12.0, 5.0


@dataclass(frozen=True)
class Reading:
    """What the oracle sees in some frames of a take.

    Attributes:
        frames: increasing pixel frame numbers.
        sightings: the characters in each, from left to right.
    """

    frames: NDArray[np.int64]
    sightings: tuple[tuple[Sighting, ...], ...]

    def between(self, start: int, stop: int) -> Reading:
        """Return the part from pixel frame `start` up to `stop`."""
        inside = (self.frames >= start) & (self.frames < stop)
        kept = tuple(seen for seen, keep in zip(self.sightings, inside, strict=True) if keep)
        return Reading(self.frames[inside], kept)

    def protagonists(self) -> list[Sighting | None]:
        """Return the largest character of each frame; None if there is none."""
        return [max(seen, key=lambda each: each.area_px, default=None) for seen in self.sightings]


def read_take(video: NDArray[np.uint8], every: int = 1) -> Reading:
    """Read every `every`-th frame of a take [F, 64, 64, 3]."""
    frames = np.arange(0, len(video), every)
    return Reading(frames, tuple(read_frame(video[frame]) for frame in frames))


def motion(video: NDArray[np.uint8]) -> float:
    """Return the mean absolute change from frame to frame of [F, H, W, 3], in 0..1."""
    return float(np.abs(np.diff(video.astype(np.float32), axis=0)).mean() / 255)


def majority(traits: Sequence[Trait]) -> Value | None:
    """Return the most frequent sure answer; None if there is none."""
    votes = Counter(trait.value for trait in traits if trait.sure)
    return votes.most_common(1)[0][0] if votes else None


def hidden_traits(reading: Reading) -> dict[str, Value | None]:
    """Return the protagonist's hidden traits, each by majority over the frames; None if the oracle is never sure."""
    seen = [each for each in reading.protagonists() if each is not None]
    return {name: majority([getattr(each, name) for each in seen]) for name in HIDDEN_TRAITS}


def variety(seen: Sequence[dict[str, Value | None]]) -> dict[str, float | None]:
    """Return how evenly the values of each hidden trait occur among characters: entropy, as a share of the largest.

    0 if one value is all that is read, 1 if each occurs as often as any other, as in the world; None if none is read.
    Few characters drawn at random have a little less than 1 (on average by (values - 1) / (2 characters log(values))).
    """
    found: dict[str, float | None] = {}
    for name, values in HIDDEN_VALUES.items():
        counts = Counter(each[name] for each in seen if each[name] is not None)
        shares = np.array(list(counts.values())) / max(1, counts.total())
        found[name] = abs(float((shares * np.log(shares)).sum())) / float(np.log(len(values))) if counts else None
    return found


def agreement(one: dict[str, Value | None], other: dict[str, Value | None]) -> dict[str, bool | None]:
    """Return, for each trait, whether both are the same; None if either is unknown."""
    return {name: None if None in (one[name], other[name]) else one[name] == other[name] for name in one}


def shows_action(action: str, reading: Reading) -> bool:
    """Whether the prompted action can be recognised from positions, presence and facing alone.

    `reading` covers the whole take. Stands: hardly moves and faces one way. Walks: travels sideways. Jumps: its height
    changes. Turns: stays in place and faces both left and right. Leaves: present at first, gone at the end. Returns:
    the reverse. Meets: two at the end.
    """
    who = reading.protagonists()
    present = np.array([each is not None for each in who])
    edge = max(1, len(who) // 8)
    at_first, at_last = present[:edge].mean() > 0.5, present[-edge:].mean() > 0.5
    if action == "leaves":
        return bool(at_first and not at_last)
    if action == "returns":
        return bool(not at_first and at_last)
    if action == MEETS:
        return bool(np.mean([len(seen) == 2 for seen in reading.sightings[-edge:]]) > 0.5)
    if present.mean() < 0.5:
        return False
    centres = np.array([each.centre for each in who if each is not None]) * SIZE_PX
    across, up = np.ptp(np.percentile(centres, (5, 95), axis=0), axis=0)
    facings = [each.facing for each in who if each is not None]
    turned = min(facings.count(-1.0), facings.count(1.0)) >= len(facings) / 8
    if action == "stands":
        return bool(across < _STILL_PX and up < _STILL_PX and not turned)
    if action == "walks":
        return bool(across >= _TRAVEL_PX)
    if action == "jumps":
        return bool(up >= _JUMP_PX)
    return bool(across < _STILL_PX and turned)
