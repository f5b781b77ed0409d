"""What memory admits, and which of it a block takes: pure functions on frame numbers and unit vectors."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, fill the unit interval evenly, however many are taken
NEW_VIEW_STEPS = 10.0
POOL = 4  # diversity picks from this many times as many frames as are wanted


@dataclass(frozen=True)
class RetrievalRules:
    """Beyond the plain K most similar. Everything is off by default. Ranges are of latent frames.

    Attributes:
        exclude: never remembered.
        pin: remembered first once they have left the window; at most half of the K places are theirs.
        prompt_weight: w in the score (1 - w) cos(latents) + w cos(prompts).
        like_words: where prompts are part of the score, of what was made under a prompt less like the one in charge
            (cosine) only pins are remembered. Memory would fill its places all the same, and somebody who is called for
            the first time would become one of those who were there before.
        anchors: the frames that say what is good.
        admit_above: a frame enters memory only if its cosine similarity to some anchor is at least this.
        diversity: d in maximal marginal relevance: each place goes to the frame with the largest
            (1 - d) similarity to the query - d largest similarity to what is chosen already, pins among it.
        stratified: so many of the K places go to a stratified sample of the past, whatever it shows, another one for
            each block. What is most like now has drifted as far as now; these have not.
        establish_frames: memory keeps first showings only: a new view lets so many frames in; 0 lets every frame in.
            See `FirstShowings`.
        settle_frames: a new view must come about within so many frames, and so many of it pass before it is let in,
            where there was another view before it.
        new_view: a frame is a new view if its cosine similarity to all that memory holds is below this; None: if its
            distance (1 - similarity) is more than `NEW_VIEW_STEPS` median steps of the take itself.
        policy: picks among what is left after pins and stratified frames (`retrieval.policies`); None is the search.
        retries: how often a block is made again that falls away from what it remembered (`falls_away`).
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
    """The gate of establishing shots: lets into memory what has not been shown before.

    A view unlike all that memory holds opens it for a while; while it is open every frame enters; then it is closed
    until the next new view. A frame is made from those it attends to, with an error: later copies add their errors,
    first showings have none. It knows nothing but frame numbers and similarities, so that what it lets in is a function
    of what it was asked.

    Drift comes little by little, a new view at once: it is also unlike the frame `RetrievalRules.settle_frames` (the
    window's length) before it. Its first frames are no originals: they were made from a window that still showed the
    view before, and mix the two. So it is let in once it has settled, as many frames later; the first frame of a shot,
    which has none before it, at once.

    How far apart two views are depends on the encoder, the backbone and the story. A take shows it: while the gate is
    open, how far each frame is from all that came in before is a *step* within a view. Without a similarity of its own
    (`RetrievalRules.new_view`) a view is new if it is many times the median step away.
    """

    def __init__(self) -> None:
        self._begun = False
        self._open_from = self._open_until = -math.inf
        self._steps: list[float] = []  # sorted

    def cut(self) -> None:
        """A shot begins: its first frame was made from nothing that came before."""
        self._begun = False
        self._open_from = self._open_until = -math.inf

    def open(self, first: int, rules: RetrievalRules) -> None:
        """Let frames in from `first` on, whatever they are like."""
        self._open_from, self._open_until = first, first + rules.establish_frames

    def admits(
        self,
        frame: int,
        rules: RetrievalRules,
        likeness: Callable[[], float],
        lately: Callable[[], float] = lambda: -math.inf,
    ) -> bool:
        """Whether a frame enters memory; asked once for each, in their order.

        Args:
            frame: its number.
            rules: what holds when it is finished.
            likeness: its largest cosine similarity to what memory holds, less than any for an empty memory; asked for
                only where it matters, as is
            lately: that to the frame `settle_frames` before it; less than any where there is none.
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
        """The similarity below which a view is new; None: as the steps say, and before there are any, all is new."""
        if new_view is not None:
            return new_view
        return 1 - NEW_VIEW_STEPS * self._steps[len(self._steps) // 2] if self._steps else 1.0


def without(frames: Sequence[int], excluded: Sequence[range], refused: Collection[int]) -> Sequence[int]:
    """`frames` without those in a range and those refused; the same object where there is nothing to leave out."""
    if not excluded and not refused:
        return frames
    return [frame for frame in frames if frame not in refused and not _within(frame, excluded)]


def pinned_among(frames: Sequence[int], pins: Sequence[range]) -> list[int]:
    """Those of `frames` that are pinned."""
    return [frame for frame in frames if _within(frame, pins)] if pins else []


def pinned_places(memory_frames: int) -> int:
    """How many of K places pins may take: half, and at least one, so that the rest goes on remembering."""
    return max(1, memory_frames // 2)


def evenly_spaced(frames: Sequence[int], limit: int) -> list[int]:
    """Up to `limit` of `frames`, evenly spaced, the first and the last among them."""
    if len(frames) <= limit:
        return list(frames)
    if limit <= 1:
        return list(frames[:limit])
    return [frames[round(place * (len(frames) - 1) / (limit - 1))] for place in range(limit)]


def stratified_sample(frames: Sequence[int], limit: int, turn: int) -> list[int]:
    """Up to `limit` of `frames`: one out of each of so many equal parts, at another place in the parts each turn.

    The place is that of an additive recurrence with the golden ratio (Weyl's equidistribution), so that turn by turn
    every frame has its time, without chance.
    """
    limit = min(limit, len(frames))
    shift = turn * GOLDEN % 1
    return [frames[int((part + shift) * len(frames) / limit)] for part in range(limit)]


def hybrid_keys(latent_units: Vectors, prompt_units: Vectors, prompt_weight: float) -> Vectors:
    """[N, D] and [N, P] unit vectors to [N, D + P] unit vectors.

    The inner product of two of them is (1 - w) cos(latents) + w cos(prompts): a weighted sum in one search. A part may
    be zero, which is like nothing; then the key is shorter, and must stay so for the weights to hold.
    """
    a, b = math.sqrt(1 - prompt_weight), math.sqrt(prompt_weight)
    return np.concatenate([a * latent_units, b * prompt_units], axis=1).astype(np.float32)


def admitted(latent_units: Vectors, anchor_units: Vectors, admit_above: float) -> NDArray[np.bool_]:
    """Which of the frames [N, D] are similar enough to one of the anchors [A, D]."""
    return (latent_units @ anchor_units.T).max(axis=1) >= admit_above


def most_diverse(
    similarities: NDArray[np.float32], units: Vectors, limit: int, diversity: float, taken: Vectors | None = None
) -> list[int]:
    """Maximal marginal relevance (Carbonell and Goldstein, 1998).

    Args:
        similarities: [N] to the query.
        units: [N, D] unit vectors.
        limit: how many to choose.
        diversity: 0 is the most similar, 1 the least like each other.
        taken: [T, D] unit vectors of what was chosen before; None or T = 0 for nothing.

    Returns:
        Places in 0..N-1, in the order in which they were chosen.
    """
    chosen: list[int] = []
    nearest: NDArray[np.float32] | None = None  # similarity to the most similar chosen one
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
    """How much less a block is like what it remembered than those frames are like each other; 0 is: not at all.

    Each frame of the block is held against the remembered frame that is most like it, each of these against the most
    like of the others; the worst of these is what the remembered frames themselves allow.

    Args:
        block_units: [T, D] unit vectors of the block.
        trusted_units: [K, D] of what it remembered.
    """
    if len(trusted_units) < 2:
        return 0.0
    among = trusted_units @ trusted_units.T
    np.fill_diagonal(among, -np.inf)
    nearest = (block_units @ trusted_units.T).max(axis=1)
    return max(0.0, float(among.max(axis=1).min() - nearest.mean()))


def unit(vectors: Vectors) -> Vectors:
    """[..., D] scaled to length 1; zero stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)


def _within(frame: int, ranges: Iterable[range]) -> bool:
    return any(frame in one for one in ranges)
