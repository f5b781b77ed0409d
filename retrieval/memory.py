"""The memory of a batch of takes: past frames, searchable by what is being generated now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from retrieval.encoder import LatentEncoder
from retrieval.index import finite
from retrieval.policies import looks_ahead
from retrieval.policy import RetrievalRules, evenly_spaced, falls_away, pinned_among, unit, without
from retrieval.scenes import Script
from retrieval.selection import Selection, candidate_frames
from retrieval.take_memory import Found, TakeMemory

Choose = Callable[[int, int, Sequence[int]], Sequence[int]]
EmbedPast = Callable[[int, Sequence[int]], NDArray[np.float32]]
"""Maps (take of the batch, latent frames) to embeddings [N, D], recomputed from stored latents."""
PolicySeeds = Callable[[int], Sequence[int]]
"""Maps a block to a number for each take of the batch, which seeds policies that draw."""


class Memory:
    """Embeddings of a batch of takes, and the rules that pick from them.

    Args:
        encoder: embeds latent frames.
        window_frames, sink_frames, memory_frames, recency_guard_frames: sizes of the context, in latent frames.
        rules: rules beyond picking the K most similar frames.
        choose: picks frames in place of the search: a function of (take of the batch, block, candidates) that returns
            at most K of the candidates, best first. Candidates are increasing, and a range before the first cut.
            Similarities are still recorded. It is called once the previous block is finished and handed out, and
            chooses from the whole past: `establish_frames` of the rules has no effect.
        policy_seeds: seeds of policies that draw; 0 by default.
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
        policy_seeds: PolicySeeds | None = None,
    ) -> None:
        self._encoder = encoder
        self._window_frames = window_frames
        self._sink_frames = sink_frames
        self._memory_frames = memory_frames
        self._recency_guard_frames = recency_guard_frames
        self._choose = choose
        self._policy_seeds = policy_seeds
        self._rules = self._that_hold(rules or RetrievalRules())
        self._takes: list[TakeMemory] = []
        self._scripts: list[Script] = []  # of each take, if prompts are part of the key
        self._remembered = 0
        self._frames_done = 0
        self._shot_start = 0

    @property
    def can_foresee(self) -> bool:
        """Whether frames for the next block may be chosen before this block is handed out."""
        return self._choose is None

    @property
    def looks_ahead(self) -> bool:
        """Whether a block chooses again once it has a first estimate of itself."""
        return self._choose is None and looks_ahead(self._rules.policy)

    def prompt(self, prompt_embeds: Tensor) -> None:
        """Set the current prompt, [B, tokens, text_dim], zero after its end.

        Raises:
            NotFiniteEmbeddingError: if it is not finite.
        """
        if self._rules.prompt_weight:
            pooled = finite(pooled_prompts(prompt_embeds))
            self._scripts = self._scripts or [Script(self._rules.like_words) for _ in pooled]
            for script, prompt_unit, tokens in zip(self._scripts, pooled, token_units(prompt_embeds), strict=True):
                script.add(self._frames_done, prompt_unit, tokens)
            begins_shot = self._shot_start == self._frames_done
            for number, take in enumerate(self._takes):
                other_words = self._scripts[number].under_other_words(self._frames_done)
                take.introduce(self._frames_done, begins_shot, other_words)

    def begin_shot(self, embed_past: EmbedPast) -> None:
        """Begin a shot with the next frame: everything before it may be brought back, including sink and newest frames.

        Until a frame of the shot is finished, the newest frame shows the past shot. So the search uses the prompt only,
        if prompts are part of the key; otherwise memory is sampled evenly, whatever the policy. If the shot's words are
        unlike those of everything in memory, it is admitted from its first frame on whatever it looks like, because its
        words say that it is new.
        """
        self._shot_start = self._frames_done
        for number, take in enumerate(self._takes):
            self._admit_late(number, take.begin_shot(self._shot_start), embed_past)

    def steer(self, rules: RetrievalRules, embed_past: EmbedPast) -> None:
        """Pin, exclude, admit and pick by `rules` from now on; all other rules stay as they were at the start.

        Frames that are now pinned but were kept out enter memory; `embed_past` embeds them again.
        """
        rules = self._that_hold(rules)
        new = {name: getattr(rules, name) for name in ("pin", "exclude", "establish_frames", "new_view", "policy")}
        self._rules = replace(self._rules, **new)
        for number, take in enumerate(self._takes):
            take.steer(self._rules)
            missing = take.pinned_outside(range(self._sink_frames, self._frames_done))
            self._admit_late(number, missing, embed_past)

    def holds(self, number: int, frame: int) -> bool:
        """Whether a frame has entered the memory of a take of the batch."""
        return bool(self._takes) and self._takes[number].holds(frame)

    def unbarred(self, number: int, frames: Sequence[int]) -> Sequence[int]:
        """Those of a take's finished frames that are neither excluded nor refused by its anchors."""
        return self._takes[number].unbarred(frames)

    def entered(self) -> tuple[tuple[int, ...], ...]:
        """For each take, the frames that have entered since the last call."""
        return tuple(take.entered() for take in self._takes)

    def add_external(
        self, embeddings: NDArray[np.float32], prompt_units: NDArray[np.float32] | None, batch_size: int
    ) -> None:
        """Remember frames of other takes from the start; call at most once, before the first block.

        Args:
            embeddings: [N, D]; they become the frames -N..-1.
            prompt_units: [N, text_dim], the frames' prompts, for a hybrid key.
            batch_size: number of takes that remember them.

        Raises:
            ValueError: if prompts are part of the key but missing.
        """
        if (prompt_units is None) != (not self._rules.prompt_weight):
            raise ValueError(f"prompt_weight is {self._rules.prompt_weight:g}; give prompts if and only if it is not 0")
        self._remembered = len(embeddings)
        self._takes = [TakeMemory(self._rules, self._sink_frames) for _ in range(batch_size)]
        for take in self._takes:
            take.index_frames(range(-len(embeddings), 0), embeddings, prompt_units)

    def add(self, latents: Tensor) -> Tensor:
        """Embed and index the finished latents [B, T, C, h, w] of a block, and return the embeddings [B, T, D].

        Raises:
            NotFiniteEmbeddingError: if they are not finite, whether or not their frames would enter memory.
        """
        embeddings = self._encoder.encode(latents)
        self.replay(embeddings.float().cpu().numpy())
        return embeddings

    def replay(self, embeddings: NDArray[np.float32]) -> None:
        """Index stored embeddings [B, T, D] of the next block's frames.

        Raises:
            NotFiniteEmbeddingError: if they are not finite.
        """
        finite(embeddings)
        if not self._takes:
            self._takes = [TakeMemory(self._rules, self._sink_frames) for _ in embeddings]
        first = self._frames_done
        numbers = range(first, first + embeddings.shape[1])
        for number, (take, frames) in enumerate(zip(self._takes, embeddings, strict=True)):
            take.add(numbers, frames, self._prompts_of(number, numbers))
        self._frames_done = numbers.stop

    def retrieve(self, block: int, ahead: NDArray[np.float32] | None = None) -> tuple[Selection, ...]:
        """Choose what `block` remembers, for each take of the batch; empty while no take remembers anything.

        In the first block after a call (`Script.calls_at`) without a cut, those are only pins: whoever is called comes
        in as the words say, from one side. With frames that show them elsewhere, they often come from both.

        Args:
            ahead: [B, D], queries in place of the newest frame's embedding.
        """
        sizes = self._window_frames, self._sink_frames, self._recency_guard_frames
        candidates = candidate_frames(self._frames_done, *sizes, self._shot_start)
        if not self._takes or not (candidates or self._remembered):
            return ()
        allowed = [self._allowed(take, candidates) for take in self._takes]
        picked = [
            self._pick(number, block, candidates, frames, None if ahead is None else ahead[number])
            for number, frames in enumerate(allowed)
        ]
        if not any(picked):
            return ()
        return tuple(
            Selection(
                block,
                self._frames_done - 1,
                len(choices),
                tuple(frame for frame, _ in found),
                tuple(similarity for _, similarity in found),
            )
            for choices, found in zip(allowed, picked, strict=True)
        )

    def falls(self, latents: Tensor, selections: Sequence[Selection]) -> NDArray[np.float32]:
        """How far each take's block [B, T, C, h, w] falls away from what it remembered, [B]; see `falls_away`."""
        embeddings = self._encoder.encode(latents).float().cpu().numpy()
        return np.array(
            [
                falls_away(unit(frames), take.latent_units(selection.frames, frames.shape[1]))
                for take, frames, selection in zip(self._takes, embeddings, selections, strict=True)
            ],
            np.float32,
        )

    def _admit_late(self, number: int, frames: Sequence[int], embed_past: EmbedPast) -> None:
        """Admit finished frames of a take that were kept out at first, embedding them again."""
        if frames:
            self._takes[number].insert(frames, embed_past(number, frames), self._prompts_of(number, frames))

    def _allowed(self, take: TakeMemory, candidates: Sequence[int]) -> Sequence[int]:
        """The frames a take may remember: those of other takes, and candidates that have entered its memory."""
        own = take.held(candidates)
        return [*range(-self._remembered, 0), *own] if self._remembered else own

    def _pick(
        self,
        number: int,
        block: int,
        candidates: Sequence[int],
        allowed: Sequence[int],
        ahead: NDArray[np.float32] | None,
    ) -> Found:
        take, prompt = self._takes[number], self._prompt_unit(number)
        if self._choose is not None:
            frames = check_choice(self._choose(number, block, candidates), candidates, self._memory_frames)
            return list(zip(frames, take.similarities(frames, prompt), strict=True))
        if not self._frames_done and ahead is None:  # nothing to search by yet
            return [(frame, 0.0) for frame in evenly_spaced(allowed, self._memory_frames)]
        if self._is_call(number):
            allowed = pinned_among(allowed, self._rules.pin)
        seed = self._policy_seeds(block)[number] if self._policy_seeds else 0
        not_asked_for = self._not_asked_for(number, allowed)
        return take.search(prompt, allowed, self._memory_frames, block, not_asked_for, ahead, seed)

    def asks_for(self, number: int, frames: Sequence[int]) -> list[bool]:
        """Whether the current prompt asks for what frames of a take show (`Script.asks_for`).

        It never does if prompts are not part of the key.
        """
        return self._scripts[number].asks_for(frames) if self._scripts else [False] * len(frames)

    def _is_call(self, number: int) -> bool:
        """Whether the next block is the first one after a call, without a cut."""
        is_cut = self._shot_start == self._frames_done
        return bool(self._scripts) and not is_cut and self._scripts[number].calls_at(self._frames_done)

    def _not_asked_for(self, number: int, allowed: Sequence[int]) -> list[range]:
        """Frames of a take that the current prompt rules out.

        Those of other words and, if it calls a scene back of which memory holds something, those of other scenes.
        """
        if not self._scripts:
            return []
        script, end = self._scripts[number], self._frames_done
        elsewhere = script.in_other_scenes(end)
        if elsewhere and not without([frame for frame in self.unbarred(number, allowed) if frame >= 0], elsewhere, ()):
            elsewhere = []
        return script.under_other_words(end) + elsewhere

    def _that_hold(self, rules: RetrievalRules) -> RetrievalRules:
        return rules if self._choose is None else replace(rules, establish_frames=0)

    def _prompt_unit(self, number: int) -> NDArray[np.float32] | None:
        """The current prompt's unit vector; None if prompts are not part of the key."""
        return self._scripts[number].unit if self._scripts else None

    def _prompts_of(self, number: int, frames: Sequence[int]) -> NDArray[np.float32] | None:
        """The prompts of finished frames, [N, P]; None if prompts are not part of the key."""
        return self._scripts[number].units_of(frames) if self._scripts else None


def token_units(prompt_embeds: Tensor) -> list[NDArray[np.float32]]:
    """Split prompt embeddings [B, tokens, text_dim], zero after their end, into unit vectors [N, text_dim] each."""
    embeds = prompt_embeds.float().cpu().numpy()
    return [unit(own[np.any(own != 0, axis=-1)]) for own in embeds]


def pooled_prompts(prompt_embeds: Tensor) -> NDArray[np.float32]:
    """Pool prompt embeddings [B, tokens, text_dim], zero after their end, into unit vectors [B, text_dim]."""
    return unit(prompt_embeds.float().sum(dim=1).cpu().numpy())


def check_choice(frames: Sequence[int], candidates: Sequence[int], limit: int) -> list[int]:
    """Return a caller's choice as a list; ValueError unless it is at most `limit` distinct candidates."""
    chosen = [int(frame) for frame in frames]
    strangers = [frame for frame in chosen if frame not in candidates]
    if strangers or len(set(chosen)) < len(chosen) or len(chosen) > limit:
        among = f"{candidates[0]}..{candidates[-1]}" if candidates else "none"
        raise ValueError(f"choose returned {chosen}; it must return at most {limit} distinct frames out of {among}")
    return chosen
