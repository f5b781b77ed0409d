"""What one take remembers: its index, what may enter it, and the search among what has."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.index import FrameIndex
from retrieval.policies import Past, picked
from retrieval.policies.similar import searched
from retrieval.policy import (
    FirstShowings,
    RetrievalRules,
    admitted,
    evenly_spaced,
    hybrid_keys,
    pinned_among,
    pinned_places,
    stratified_sample,
    unit,
    without,
)

Found = list[tuple[int, float]]
"""Frames and their similarities to the query, best first."""


class TakeMemory:
    """One take's index, and what it keeps out.

    Args:
        rules: rules beyond picking the most similar frames.
        sink_frames: number of first frames that every block sees, and that therefore don't enter.
    """

    def __init__(self, rules: RetrievalRules, sink_frames: int) -> None:
        self._rules = rules
        self._sink_frames = sink_frames
        self._gate = FirstShowings()
        # of the newest frames, in memory or not
        self._lately: deque[NDArray[np.float32]] = deque(maxlen=rules.settle_frames)
        self._index: FrameIndex | None = None
        self._newest: NDArray[np.float32] | None = None  # of the shot
        self._anchors: list[NDArray[np.float32]] = []
        self._refused: set[int] = set()
        self._entered: list[int] = []

    def add(self, frames: range, embeddings: NDArray[np.float32], prompt_units: NDArray[np.float32] | None) -> None:
        """Add finished frames, with embeddings [T, D] and prompts [T, P]."""
        self._newest = embeddings[-1]
        units = unit(embeddings)
        if self._rules.anchors is not None:
            self._hold_against_anchors(frames.start, units)
        if not self._rules.establish_frames:
            self.index_frames(frames, embeddings, prompt_units)
            return
        for place, frame in enumerate(frames):
            if self._enters(frame, units[place]):
                prompt = None if prompt_units is None else prompt_units[place : place + 1]
                self.index_frames([frame], embeddings[place : place + 1], prompt)
            self._lately.append(units[place])

    def steer(self, rules: RetrievalRules) -> None:
        """Follow other rules from now on."""
        self._rules = rules

    def begin_shot(self, first: int) -> list[int]:
        """Forget the newest frame, and return frames of the take's sink that have not entered memory yet."""
        self._newest = None
        self._lately.clear()
        self._gate.cut()
        self._sink_frames = min(self._sink_frames, first)
        return [frame for frame in range(self._sink_frames) if not self.holds(frame) and frame not in self._refused]

    def introduce(self, first: int, begins_shot: bool, other_words: Sequence[range]) -> None:
        """Admit what a new prompt brings if its words are unlike those of everything in memory that is not excluded.

        It holds from frame `first` on, and is admitted once it has settled; at once if it begins a shot.
        """
        rules = self._rules
        if self._index is None or not rules.establish_frames:
            return
        held = [frame for frame in without(self._index.frames, rules.exclude, ()) if frame >= 0]
        if held and not without(held, other_words, ()):
            self._gate.open(first if begins_shot else first + rules.settle_frames, rules)

    def index_frames(
        self, frames: Sequence[int], embeddings: NDArray[np.float32], prompt_units: NDArray[np.float32] | None
    ) -> None:
        """Admit frames that are newer than those in memory."""
        keys = self._keys(embeddings, prompt_units)
        self._index_for(keys).add(keys, frames)
        self._entered += [frame for frame in frames if frame >= 0]

    def insert(
        self, frames: Sequence[int], embeddings: NDArray[np.float32], prompt_units: NDArray[np.float32] | None
    ) -> None:
        """Admit frames that were kept out at first."""
        keys = self._keys(embeddings, prompt_units)
        self._index_for(keys).insert(keys, frames)
        self._entered += frames

    def pinned_outside(self, frames: range) -> list[int]:
        """The pinned `frames` that have not entered memory."""
        return [frame for frame in pinned_among(frames, self._rules.pin) if not self.holds(frame)]

    def held(self, candidates: Sequence[int]) -> Sequence[int]:
        """The candidates that have entered."""
        return self._index_here().held(candidates) if self._index is not None else ()

    def holds(self, frame: int) -> bool:
        """Whether a frame has entered."""
        return self._index is not None and frame in self._index

    def unbarred(self, frames: Sequence[int]) -> Sequence[int]:
        """Those of `frames` that are neither excluded nor refused by the anchors."""
        return without(frames, self._rules.exclude, self._refused)

    def entered(self) -> tuple[int, ...]:
        """The frames that have entered since the last call."""
        entered, self._entered = tuple(self._entered), []
        return entered

    def _enters(self, frame: int, latent_unit: NDArray[np.float32]) -> bool:
        """Whether a frame enters: not if it is in the first shot's sink, always seen, or refused by the anchors."""
        if frame < self._sink_frames or frame in self._refused:
            return False
        return self._gate.admits(
            frame, self._rules, lambda: self._likeness(latent_unit), lambda: self._likeness_lately(latent_unit)
        )

    def _likeness_lately(self, latent_unit: NDArray[np.float32]) -> float:
        """Cosine similarity to the frame `settle_frames` earlier; -inf if there is none."""
        full = len(self._lately) == self._lately.maxlen and self._lately
        return float(self._lately[0] @ latent_unit) if full else -math.inf

    def _likeness(self, latent_unit: NDArray[np.float32]) -> float:
        """Largest cosine similarity of latents to frames in memory that are not excluded; -inf if there are none."""
        if self._index is None:
            return -math.inf
        share, query = 1.0, latent_unit
        if self._rules.prompt_weight:  # latents are this share of a key
            share = math.sqrt(1 - self._rules.prompt_weight)
            query = np.zeros(self._index.dim, np.float32)
            query[: len(latent_unit)] = latent_unit
        found = self._index.search(query, without(self._index.frames, self._rules.exclude, ()), 1)
        return found[0][1] / share if found else -math.inf

    def search(
        self,
        prompt: NDArray[np.float32] | None,
        candidates: Sequence[int],
        limit: int,
        block: int,
        not_asked_for: Sequence[range] = (),
        ahead: NDArray[np.float32] | None = None,
        seed: int = 0,
    ) -> Found:
        """Find up to `limit` (frame, similarity) by the rules for this block, most similar first, ties by age.

        Args:
            not_asked_for: frames that the current prompt rules out; only pins among them are brought back.
            ahead: [D], a query in place of the newest frame's embedding.
            seed: of a policy that draws.
        """
        if not candidates:
            return []
        rules, index, query = self._rules, self._index_here(), self._query(prompt, ahead)
        allowed = self.unbarred(candidates)
        pins = pinned_among(allowed, rules.pin)
        if query is None:
            kept = evenly_spaced(pins, min(limit, pinned_places(limit)))
            kept += evenly_spaced(without(allowed, (), set(kept)), limit - len(kept))
            return [(frame, 0.0) for frame in sorted(kept)]
        found = index.search(query, pins, min(limit, pinned_places(limit))) if pins else []
        pinned = [frame for frame, _ in found]
        allowed = without(allowed, not_asked_for, set(pinned))
        evenly = stratified_sample(allowed, min(limit - len(found), rules.stratified), block)
        found += zip(evenly, index.similarities(query, evenly), strict=True)
        allowed = without(allowed, (), set(evenly))
        if len(found) < limit and allowed:
            past = Past(allowed, limit - len(found), block, query, rules.diversity, index, pinned, seed)
            if rules.policy is None:
                found += searched(past)
            else:
                chosen = picked(rules.policy, past)
                found += zip(chosen, past.similarities(chosen), strict=True)
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    def latent_units(self, frames: Sequence[int], dim: int) -> NDArray[np.float32]:
        """Unit vectors [N, dim] of the latents of frames in memory, without the prompts' part of their keys."""
        return unit(self._index_here().units(frames)[:, :dim]) if frames else np.zeros((0, dim), np.float32)

    def similarities(self, frames: Sequence[int], prompt: NDArray[np.float32] | None) -> list[float]:
        """Similarities to the newest frame; 0 while there is none."""
        query = self._query(prompt)
        return [0.0] * len(frames) if query is None else self._index_here().similarities(query, frames)

    def _hold_against_anchors(self, first: int, units: NDArray[np.float32]) -> None:
        anchors, above = self._rules.anchors, self._rules.admit_above
        assert anchors is not None
        inside = [frame in anchors for frame in range(first, first + len(units))]
        self._anchors += [one for one, is_anchor in zip(units, inside, strict=True) if is_anchor]
        if above is None or first < anchors.stop:
            return
        good = admitted(units, np.stack(self._anchors), above)
        self._refused |= {first + place for place in range(len(units)) if not good[place]}

    def _query(
        self, prompt: NDArray[np.float32] | None, ahead: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | None:
        """The query, [D] or [D + P]; None if there is nothing to search by."""
        embedding = self._newest if ahead is None else ahead
        if embedding is None and prompt is not None:  # similar to no latents
            embedding = np.zeros(self._index_here().dim - len(prompt), np.float32)
        if embedding is None:
            return None
        return self._keys(embedding[None], None if prompt is None else prompt[None])[0]

    def _keys(self, embeddings: NDArray[np.float32], prompt_units: NDArray[np.float32] | None) -> NDArray[np.float32]:
        if prompt_units is None:
            return embeddings
        return hybrid_keys(unit(embeddings), prompt_units, self._rules.prompt_weight)

    def _index_for(self, keys: NDArray[np.float32]) -> FrameIndex:
        self._index = self._index or FrameIndex(keys.shape[1], keep_short=bool(self._rules.prompt_weight))
        return self._index

    def _index_here(self) -> FrameIndex:
        assert self._index is not None
        return self._index
