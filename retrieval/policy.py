"""What memory admits and what a block takes from it: pure functions on frame numbers and unit vectors."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
GOLDEN = (math.sqrt(5) - 1) / 2  # any number of its multiples, modulo 1, fill the unit interval evenly
NEW_VIEW_STEPS = 10.0
POOL = 4  # diversity picks from this many times the wanted number of frames


@dataclass(frozen=True)
class RetrievalRules:
    """Rules beyond picking the K most similar frames. Everything is off by default. Ranges are of latent frames.

    Attributes:
        exclude: ranges that are never brought back.
        pin: ranges to bring back first once they have left the window; they get at most half of the K places.
        prompt_weight: w in the score (1 - w) cos(latents) + w cos(prompts).
        like_words: if prompts are part of the score, frames whose prompts are less like the current one than this
            (`words_alike`) are only brought back if pinned. Otherwise memory would still fill its places, and someone
            called for the first time would turn into one of those who were there before. A prompt that is less like
            those of all that memory holds opens it, if it keeps first showings. It also makes up scenes, which their
            words call back (`retrieval.scenes`).
        anchors: frames that show what is good.
        admit_above: a frame enters memory only if its cosine similarity to some anchor is at least this.
        diversity: d in maximal marginal relevance: each place goes to the frame with the largest
            (1 - d) similarity to the query - d largest similarity to those already chosen, including pins.
        stratified: number of the K places that go to a stratified sample of the past, a different one for each block.
            The frames most like the present have drifted as far as the present; these have not.
        establish_frames: keep only first showings: admit this many frames of each new view; 0 admits every frame.
            See `FirstShowings`.
        settle_frames: if there was another view before, a new view must come about within this many frames, and this
            many of its frames are skipped before it is admitted.
        new_view: a frame is a new view if its cosine similarity to everything in memory is below this; None: if its
            distance (1 - similarity) is more than `NEW_VIEW_STEPS` times the take's median step.
        policy: picks among what is left after pins and stratified frames (`retrieval.policies`); None is the search.
        retries: how many times to remake a block that falls away from what it remembered (`falls_away`).
    """

    exclude: tuple[range, ...] = ()
    pin: tuple[range, ...] = ()
    prompt_weight: float = 0.0
    like_words: float = 0.0
    anchors: range | None = None
    admit_above: float | None = None
    diversity: float = 0.0
    stratified: int = 0
    establish_frames: int = 0
    settle_frames: int = 0
    new_view: float | None = None
    policy: Callable[[Any], Sequence[int]] | None = None
    retries: int = 0


class FirstShowings:
    """A gate that admits to memory only what has not been shown before, like establishing shots.

    A view unlike everything in memory opens the gate for a while; all frames enter until it closes again, until the
    next new view. The reason: each frame is made, with some error, from those it attends to, so that later copies
    accumulate errors that first showings don't have. The gate only sees frame numbers and similarities, so that what it
    admits is a function of its inputs.

    Drift is gradual, while a new view is sudden: it is also unlike the frame `RetrievalRules.settle_frames` (the
    window's length) before it. Its first frames are not yet clean: they were made from a window that still showed the
    previous view, and mix the two. So a view is admitted once it has settled, the same number of frames later; the
    first frame of a shot, which has no previous view, at once.

    Views may look alike to the encoder though they show somebody else. Words tell: `open` admits what a new prompt
    brings whatever it looks like, once it has settled, too.

    How far apart two views are depends on the encoder, the backbone and the story, but a take itself shows it: while
    the gate is open, each frame's distance from everything admitted before is a *step* within a view. Unless
    `RetrievalRules.new_view` sets a similarity, a view is new if it is many times the median step away.
    """

    def __init__(self) -> None:
        self._begun = False
        self._open_from = self._open_until = -math.inf
        self._steps: list[float] = []  # sorted

    def cut(self) -> None:
        """Begin a shot, whose first frame does not depend on anything before it."""
        self._begun = False
        self._open_from = self._open_until = -math.inf

    def open(self, first: int, rules: RetrievalRules) -> None:
        """Admit frames from `first` on, whatever they look like."""
        self._open_from, self._open_until = first, first + rules.establish_frames

    def admits(
        self,
        frame: int,
        rules: RetrievalRules,
        likeness: Callable[[], float],
        lately: Callable[[], float] = lambda: -math.inf,
    ) -> bool:
        """Whether a frame enters memory; must be called once for each frame, in order.

        Args:
            frame: number of the frame.
            rules: the rules at the time the frame is finished.
            likeness: returns its largest cosine similarity to frames in memory, -inf if there are none; only called if
                needed.
            lately: returns its similarity to the frame `settle_frames` before it, -inf if there is none; only called if
                needed.
        """
        is_first, self._begun = not self._begun, True
        if _within(frame, rules.pin) or not rules.establish_frames:
            return True
        if _within(frame, rules.exclude) or frame < self._open_from:
            return False
        if frame >= self._open_until:
            below, alike = self.new_below(rules.new_view), likeness()
            is_empty = math.isinf(alike)
            if alike >= below or (lately() >= below and not is_empty):
                return False
            self._open_from = frame if is_first or is_empty else frame + rules.settle_frames
            self._open_until = self._open_from + rules.establish_frames
            return frame == self._open_from
        if frame > self._open_from and rules.new_view is None and math.isfinite(alike := likeness()):
            insort(self._steps, 1 - alike)
        return True

    def new_below(self, new_view: float | None) -> float:
        """The similarity below which a view is new; by default from the steps; everything is new before the first."""
        if new_view is not None:
            return new_view
        return 1 - NEW_VIEW_STEPS * self._steps[len(self._steps) // 2] if self._steps else 1.0


def without(frames: Sequence[int], excluded: Sequence[range], refused: Collection[int]) -> Sequence[int]:
    """Remove excluded ranges and refused frames from `frames`; returns the same object if there are none."""
    if not excluded and not refused:
        return frames
    return [frame for frame in frames if frame not in refused and not _within(frame, excluded)]


def pinned_among(frames: Sequence[int], pins: Sequence[range]) -> list[int]:
    """The `frames` that are pinned."""
    return [frame for frame in frames if _within(frame, pins)] if pins else []


def pinned_places(memory_frames: int) -> int:
    """How many of K places pins may take: half of them, but at least one."""
    return max(1, memory_frames // 2)


def evenly_spaced(frames: Sequence[int], limit: int) -> list[int]:
    """Pick up to `limit` of `frames`, evenly spaced, including the first and the last."""
    if len(frames) <= limit:
        return list(frames)
    if limit <= 1:
        return list(frames[:limit])
    return [frames[round(place * (len(frames) - 1) / (limit - 1))] for place in range(limit)]


def stratified_sample(frames: Sequence[int], limit: int, turn: int) -> list[int]:
    """Pick up to `limit` of `frames`, one from each of as many equal parts, at a different place each turn.

    The place follows an additive recurrence with the golden ratio (Weyl's equidistribution), so that every frame gets
    its turn deterministically.
    """
    limit = min(limit, len(frames))
    shift = turn * GOLDEN % 1
    return [frames[int((part + shift) * len(frames) / limit)] for part in range(limit)]


def hybrid_keys(latent_units: Vectors, prompt_units: Vectors, prompt_weight: float) -> Vectors:
    """Join unit vectors [N, D] and [N, P] into unit vectors [N, D + P].

    The inner product of two such keys is (1 - w) cos(latents) + w cos(prompts), a weighted sum in one search. If a part
    is zero, it is similar to nothing; the key is then shorter and must not be normalised, or the weights would change.
    """
    a, b = math.sqrt(1 - prompt_weight), math.sqrt(prompt_weight)
    return np.concatenate([a * latent_units, b * prompt_units], axis=1).astype(np.float32)


def words_alike(one: Vectors, other: Vectors) -> float:
    """Similarity of two prompts, given unit vectors [N, P] and [M, P] of their tokens: MaxSim, -1 to 1.

    It is the mean over one prompt's tokens of the largest cosine to a token of the other (late interaction; Khattab and
    Zaharia, 2004.12832), in whichever direction is larger, since a prompt may add someone that the earlier one lacks. A
    pooled vector can't tell "a red circle walks" from "an orange square walks", as most of the words are the same.
    """
    if not len(one) or not len(other):
        return 0.0
    cosines = one @ other.T
    return float(max(cosines.max(axis=1).mean(), cosines.max(axis=0).mean()))


def admitted(latent_units: Vectors, anchor_units: Vectors, admit_above: float) -> NDArray[np.bool_]:
    """Which frames [N, D] are similar enough to one of the anchors [A, D]."""
    return (latent_units @ anchor_units.T).max(axis=1) >= admit_above


def most_diverse(
    similarities: NDArray[np.float32], units: Vectors, limit: int, diversity: float, taken: Vectors | None = None
) -> list[int]:
    """Choose by maximal marginal relevance (Carbonell and Goldstein, 1998).

    Args:
        similarities: [N], similarities to the query.
        units: [N, D] unit vectors.
        limit: how many to choose.
        diversity: 0 chooses the most similar, 1 those least like each other.
        taken: [T, D] unit vectors already chosen; None or T = 0 if there are none.

    Returns:
        Indices in 0..N-1, in the order in which they were chosen.
    """
    chosen: list[int] = []
    nearest: NDArray[np.float32] | None = None  # similarity to the most similar one already chosen
    if taken is not None and len(taken):
        nearest = (units @ taken.T).max(axis=1)
    score = (1 - diversity) * similarities
    while len(chosen) < min(limit, len(units)):
        marginal = score.copy() if nearest is None else score - diversity * nearest
        marginal[chosen] = -np.inf
        best = int(marginal.argmax())
        chosen.append(best)
        likeness = units @ units[best]
        nearest = likeness if nearest is None else np.maximum(nearest, likeness)
    return chosen


def falls_away(block_units: Vectors, trusted_units: Vectors) -> float:
    """How much less similar a block is to what it remembered than those frames are to each other, 0 if not at all.

    Each frame of the block is compared with the most similar remembered frame, and each remembered frame with the most
    similar other one; the least similar of the latter is the tolerance.

    Args:
        block_units: [T, D] unit vectors of the block.
        trusted_units: [K, D] unit vectors of the frames it remembered.
    """
    if len(trusted_units) < 2:
        return 0.0
    among = trusted_units @ trusted_units.T
    np.fill_diagonal(among, -np.inf)
    nearest = (block_units @ trusted_units.T).max(axis=1)
    return max(0.0, float(among.max(axis=1).min() - nearest.mean()))


def unit(vectors: Vectors) -> Vectors:
    """Scale vectors [..., D] to length 1; zero stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)


def _within(frame: int, ranges: Iterable[range]) -> bool:
    return any(frame in one for one in ranges)
