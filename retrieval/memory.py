"""The memory of a batch of takes: what they have generated, searchable by what they are generating now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from retrieval.encoder import LatentEncoder
from retrieval.index import FrameIndex
from retrieval.policy import (
    POOL,
    RetrievalRules,
    admitted,
    hybrid_keys,
    most_diverse,
    pinned_among,
    pinned_places,
    spread,
    spread_by_turns,
    unit,
    without,
)
from retrieval.selection import Selection, candidate_frames

Choose = Callable[[int, int, range], Sequence[int]]
Found = list[tuple[int, float]]


class Memory:
    """Embeddings of a batch of takes, and the rules that pick from them.

    Args:
        encoder: embeds latent frames.
        window_frames, sink_frames, memory_frames, recency_guard_frames: the context's sizes in latent frames.
        rules: beyond the plain K most similar.
        choose: picks instead of the search: (take of the batch, block, candidates) to frames, best first, at most
            K and equally many for each take; a sequence of frame numbers within the candidates. Similarities
            are recorded all the same. It is asked when the block before is finished and handed out.
    """

    def __init__(
        self,
        encoder: LatentEncoder,
        *,
        window_frames: int,
        sink_frames: int,
        memory_frames: int,
        recency_guard_frames: int,
        rules: RetrievalRules | None = None,
        choose: Choose | None = None,
    ) -> None:
        self._encoder = encoder
        self._window_frames = window_frames
        self._sink_frames = sink_frames
        self._memory_frames = memory_frames
        self._recency_guard_frames = recency_guard_frames
        self._rules = rules or RetrievalRules()
        self._choose = choose
        self._takes: list[_TakeMemory] = []
        self._prompt_units: NDArray[np.float32] | None = None
        self._remembered = 0
        self._frames_done = 0

    @property
    def can_foresee(self) -> bool:
        """Whether the next block's frames may be chosen before this one is handed out."""
        return self._choose is None

    def prompt(self, prompt_embeds: Tensor) -> None:
        """The prompt in charge from now on, [B, tokens, text_dim], zero after its end."""
        if self._rules.prompt_weight:
            self._prompt_units = pooled_prompts(prompt_embeds)

    def steer(self, rules: RetrievalRules) -> None:
        """Pin and exclude what `rules` say from now on; the other rules stay what they were at the start."""
        self._rules = replace(self._rules, pin=rules.pin, exclude=rules.exclude)
        for take in self._takes:
            take.steer(self._rules)

    def bring(self, embeddings: NDArray[np.float32], prompt_units: NDArray[np.float32] | None, batch_size: int) -> None:
        """Remember frames of other takes from the start; before the first block, once.

        Args:
            embeddings: [N, D]; they become the frames -N..-1.
            prompt_units: [N, text_dim], the prompts they were made under; for a hybrid key.
            batch_size: takes that remember them.

        Raises:
            ValueError: if the key has a part for prompts and there are none.
        """
        if (prompt_units is None) != (not self._rules.prompt_weight):
            raise ValueError(f"prompt_weight is {self._rules.prompt_weight:g}; remembered frames need prompts with one")
        self._remembered = len(embeddings)
        self._takes = [_TakeMemory(self._rules, -len(embeddings)) for _ in range(batch_size)]
        for take in self._takes:
            take.index_frames(embeddings, prompt_units)

    def remember(self, latents: Tensor) -> Tensor:
        """Embed and index the finished latents [B, T, C, h, w] of a block; returns the embeddings [B, T, D]."""
        embeddings = self._encoder.encode(latents)
        self.recall(embeddings.float().cpu().numpy())
        return embeddings

    def recall(self, embeddings: NDArray[np.float32]) -> None:
        """Index the embeddings [B, T, D] of the next block's frames, made before."""
        if not self._takes:
            self._takes = [_TakeMemory(self._rules, 0) for _ in embeddings]
        first = self._frames_done
        for number, (take, frames) in enumerate(zip(self._takes, embeddings, strict=True)):
            prompts = None
            if self._prompt_units is not None:
                prompts = self._prompt_units[number][None].repeat(len(frames), axis=0)
            take.remember(first, frames, prompts)
        self._frames_done += embeddings.shape[1]

    def retrieve(self, block: int) -> tuple[Selection, ...]:
        """Choose what `block` remembers, for each take of the batch; empty while there is nothing to choose from."""
        candidates = candidate_frames(
            self._frames_done, self._window_frames, self._sink_frames, self._recency_guard_frames
        )
        if not self._takes or not (candidates or self._remembered):
            return ()
        picked = [self._pick(number, block, candidates) for number in range(len(self._takes))]
        count = min(map(len, picked))  # a context has one size: takes of a batch remember equally many
        if not count:
            return ()
        query_frame, choices = self._frames_done - 1, len(candidates) + self._remembered
        selections = []
        for found in picked:
            frames, similarities = zip(*found[:count], strict=True)
            selections.append(Selection(block, query_frame, choices, frames, similarities))
        return tuple(selections)

    def _pick(self, number: int, block: int, candidates: range) -> Found:
        take = self._takes[number]
        prompt = None if self._prompt_units is None else self._prompt_units[number]
        if self._choose is not None:
            frames = check_choice(self._choose(number, block, candidates), candidates, self._memory_frames)
            return list(zip(frames, take.similarities(frames, prompt), strict=True))
        allowed: Sequence[int] = candidates
        if self._remembered:
            allowed = [*range(-self._remembered, 0), *candidates]
        if not self._frames_done:  # nothing to search by yet
            return [(frame, 0.0) for frame in spread(allowed, self._memory_frames)]
        return take.search(prompt, allowed, self._memory_frames, block)


class _TakeMemory:
    """One take's index and what it keeps out."""

    def __init__(self, rules: RetrievalRules, first_frame: int) -> None:
        self._rules = rules
        self._first_frame = first_frame
        self._index: FrameIndex | None = None
        self._newest: NDArray[np.float32] | None = None
        self._anchors: list[NDArray[np.float32]] = []
        self._refused: set[int] = set()

    def remember(self, first: int, embeddings: NDArray[np.float32], prompt_units: NDArray[np.float32] | None) -> None:
        """The embeddings [T, D] of frames `first` and after, and their prompts' [T, P]."""
        self.index_frames(embeddings, prompt_units)
        self._newest = embeddings[-1]
        if self._rules.anchors is not None:
            self._gate(first, unit(embeddings))

    def steer(self, rules: RetrievalRules) -> None:
        self._rules = rules

    def index_frames(self, embeddings: NDArray[np.float32], prompt_units: NDArray[np.float32] | None) -> None:
        keys = self._keys(embeddings, prompt_units)
        if self._index is None:
            self._index = FrameIndex(keys.shape[1], self._first_frame)
        self._index.add(keys)

    def search(self, prompt: NDArray[np.float32] | None, candidates: Sequence[int], limit: int, block: int) -> Found:
        """Up to `limit` (frame, similarity) by the rules for this block, most similar first."""
        rules, index, query = self._rules, self._index_here(), self._query(prompt)
        allowed = without(candidates, rules.exclude, self._refused)
        pins = pinned_among(allowed, rules.pin)
        found = index.search(query, pins, min(limit, pinned_places(limit))) if pins else []
        allowed = without(allowed, (), {frame for frame, _ in found})
        evenly = spread_by_turns(allowed, min(limit - len(found), rules.spread), block)
        found += zip(evenly, index.similarities(query, evenly), strict=True)
        allowed = without(allowed, (), set(evenly))
        places = limit - len(found)
        if rules.diversity:
            pool = index.search(query, allowed, POOL * limit)
            similarities = np.array([similarity for _, similarity in pool], dtype=np.float32)
            units = index.units([frame for frame, _ in pool])
            found += [pool[place] for place in most_diverse(similarities, units, places, rules.diversity)]
        else:
            found += index.search(query, allowed, places)
        return sorted(found, key=lambda pair: -pair[1])

    def similarities(self, frames: Sequence[int], prompt: NDArray[np.float32] | None) -> list[float]:
        """To the newest frame; 0 while there is none."""
        return self._index_here().similarities(self._query(prompt), frames)

    def _gate(self, first: int, units: NDArray[np.float32]) -> None:
        anchors, above = self._rules.anchors, self._rules.admit_above
        assert anchors is not None
        inside = [frame in anchors for frame in range(first, first + len(units))]
        self._anchors += [one for one, is_anchor in zip(units, inside, strict=True) if is_anchor]
        if above is None or first < anchors.stop:
            return
        good = admitted(units, np.stack(self._anchors), above)
        self._refused |= {first + place for place in range(len(units)) if not good[place]}

    def _query(self, prompt: NDArray[np.float32] | None) -> NDArray[np.float32]:
        assert self._newest is not None
        return self._keys(self._newest[None], None if prompt is None else prompt[None])[0]

    def _keys(self, embeddings: NDArray[np.float32], prompt_units: NDArray[np.float32] | None) -> NDArray[np.float32]:
        if prompt_units is None:
            return embeddings
        return hybrid_keys(unit(embeddings), prompt_units, self._rules.prompt_weight)

    def _index_here(self) -> FrameIndex:
        assert self._index is not None
        return self._index


def pooled_prompts(prompt_embeds: Tensor) -> NDArray[np.float32]:
    """Prompt embeddings [B, tokens, text_dim], zero after their end, to unit vectors [B, text_dim]."""
    return unit(prompt_embeds.float().sum(dim=1).cpu().numpy())


def check_choice(frames: Sequence[int], candidates: range, limit: int) -> list[int]:
    """What a caller chose, as a list; ValueError unless they are different candidates, at most `limit`."""
    chosen = [int(frame) for frame in frames]
    strangers = [frame for frame in chosen if frame not in candidates]
    if strangers or len(set(chosen)) < len(chosen) or len(chosen) > limit:
        raise ValueError(
            f"choose gave {chosen}; it must give at most {limit} different frames out of "
            f"{candidates.start}..{candidates.stop - 1}"
        )
    return chosen
