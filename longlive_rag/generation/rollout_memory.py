"""Memory in a rollout: which past frames a block sees, their pages, and how sharply it attends to them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backbone.cache import KVCache
from backbone.config import ContextConfig
from backbone.parallel import Ranks
from longlive_rag.rights.records import FileRights
from retrieval.budgets import PageBudgets, PageCounters
from retrieval.encoder import LatentEncoder
from retrieval.memory import Choose, Memory, PolicySeeds
from retrieval.pages import PageCache, PageShape, PagesHeld
from retrieval.policy import RetrievalRules
from retrieval.selection import Selection
from retrieval.store import LatentSpool

PastLatents = Callable[[int, Sequence[int]], NDArray[np.float32]]
"""Maps (take of the batch, latent frames) to latents [N, C, h, w] float32."""
Pages = list[list[tuple[int, Tensor]]]
"""For each take of the batch, (latent frame, page [2, layers, tokens, heads, head_dim]) of what a block remembers."""
Gained = list[list[bool]] | None
"""Which of these frames have memory's gain; None if all have."""


@dataclass(frozen=True)
class RememberedFrames:
    """Frames of other takes.

    Attributes:
        latents: [N, C, h, w] float32, on the host.
        prompt_units: [N, text_dim], the output of `pooled_prompts` for the frames' prompts; None if prompts are not
            part of the search.
        files: the weight files that they were made from; if there are none, what the frames may be used for is not
            known.
    """

    latents: NDArray[np.float32]
    prompt_units: NDArray[np.float32] | None = None
    files: tuple[FileRights, ...] = ()


class PastFrames:
    """Latents of the frames before a block, of this rollout and of other takes.

    Args:
        read: reads latents of committed blocks; None keeps them in a temporary file.
        remembered: frames of other takes, numbered -N..-1.
    """

    def __init__(self, read: PastLatents | None, remembered: RememberedFrames | None) -> None:
        self._spool: LatentSpool | None = None
        if read is None:
            self._spool = LatentSpool()
            read = self._spool.latents
        self._read: PastLatents = read
        self.remembered = remembered

    def add(self, latents: Tensor) -> None:
        """Keep a finished block's latents [B, T, C, h, w], unless they are kept elsewhere."""
        if self._spool is not None:
            self._spool.append(latents.cpu().numpy())

    def latents(self, take: int, frames: Sequence[int]) -> NDArray[np.float32]:
        """Latents of a take's frames, [N, C, h, w] float32."""
        own = [frame for frame in frames if frame >= 0]
        mine = dict(zip(own, self._read(take, own), strict=True)) if own else {}
        others = self.remembered.latents if self.remembered else np.empty(0, np.float32)
        return np.stack([mine[frame] if frame >= 0 else others[frame] for frame in frames])


class RolloutMemory:
    """What a rollout's blocks remember.

    `Memory` chooses frames; this fetches their pages and lays them out in the rollout's cache.

    Args:
        cache: the rollout's window.
        context, encoder: as for `Rollout`.
        past: the latents to embed again.
        remake: recomputes pages of a take's past frames, [N, 2, layers, tokens, heads, head_dim].
        may_look_ahead: whether a block has an estimate of itself before its result.
        ranks: the processes that share the heads, if there are several.
        rules, budgets, past_pages, choose, policy_seeds: as for `Rollout`.
    """

    def __init__(
        self,
        cache: KVCache,
        context: ContextConfig,
        encoder: LatentEncoder,
        past: PastFrames,
        remake: Callable[[int, Sequence[int]], Tensor],
        may_look_ahead: bool,
        ranks: Ranks | None,
        *,
        rules: RetrievalRules | None,
        budgets: PageBudgets,
        past_pages: int | None,
        choose: Choose | None,
        policy_seeds: PolicySeeds | None,
    ) -> None:
        self._cache, self._context, self._encoder, self._past, self._ranks = cache, context, encoder, past, ranks
        self._batch_size, self._device = cache.shape.batch, cache.shape.device
        self._may_look_ahead = may_look_ahead
        self._memory = Memory(
            encoder,
            window_frames=context.window_frames,
            sink_frames=context.sink_frames,
            memory_frames=context.memory_frames,
            recency_guard_frames=context.recency_guard_frames,
            rules=rules,
            choose=choose,
            policy_seeds=policy_seeds,
        )
        if past.remembered is not None:
            embeddings = self._embed(past.remembered.latents)
            self._memory.add_external(embeddings, past.remembered.prompt_units, self._batch_size)
        self._pages = self._new_pages(budgets, remake, past_pages)
        self._prompted_at = 0  # the block at which the current prompt took over
        self._foreseen: tuple[Selection, ...] | None = None
        self._selected: tuple[Selection, ...] = ()  # of the last block

    # ---- directions ----

    def prompt(self, prompt_embeds: Tensor, block: int) -> None:
        """Search by this prompt, [B, tokens, text_dim], from `block` on.

        Raises:
            NotFiniteEmbeddingError: if it is not finite.
        """
        self._prompted_at = block
        self._memory.prompt(prompt_embeds)
        self._pages.prompt_changed()
        self._foreseen = None

    def steer(self, rules: RetrievalRules) -> None:
        """Pin, exclude and admit frames by `rules` from the next block on."""
        self._memory.steer(rules, self._embed_past)
        self._foreseen = None
        self._selected = tuple(selection.without(rules.exclude) for selection in self._selected)

    def begin_shot(self) -> None:
        """Everything before the next frame may be brought back, including sink and newest frames."""
        self._memory.begin_shot(self._embed_past)

    # ---- a block ----

    @property
    def looks_ahead(self) -> bool:
        """Whether a block retrieves by its own first estimate."""
        return self._memory.looks_ahead and self._may_look_ahead

    def retrieve(self, block: int) -> tuple[Selection, ...]:
        """The selections that a block begins with; if it looks ahead, those of the last block."""
        if self.looks_ahead:
            return self._selected
        return self._memory.retrieve(block) if self._foreseen is None else self._foreseen

    def look_ahead(self, block: int, estimate: Tensor) -> tuple[Selection, ...]:
        """Retrieve again, by the block's own estimate [B, T, C, h, w], and lay out the context with the result."""
        ahead = self._encoder.encode(estimate[:, -1:])[:, 0].float().cpu().numpy()
        selections = self._memory.retrieve(block, ahead)
        self.lay_out(block, selections)
        return selections

    def lay_out(self, block: int, selections: tuple[Selection, ...]) -> None:
        """Fetch the pages of what a block remembers and assemble its context with them."""
        frames = [selection.frames for selection in selections]
        if self._ranks is not None:
            self._ranks.check_agree(frames, "memory")
        pages, gained = self._pages.get(frames), self._gained(block, selections)
        if self._context.fill_from_window:
            pages, gained = self._filled(pages, gained)
        self._cache.assemble(pages, gained)

    def leave(self, leaving: Sequence[tuple[int, Tensor]]) -> None:
        """Keep pages that leave the window if memory may bring their frames back."""
        for frame, page in leaving:
            self._pages.put(frame, page, [take for take in range(self._batch_size) if self._memory.holds(take, frame)])

    def is_settled(self, block: int) -> bool:
        """Whether the window of a block holds no frames of another prompt."""
        since = (block - self._prompted_at) * self._context.frames_per_block
        return since >= self._context.window_frames

    def falls(self, latents: Tensor, selections: tuple[Selection, ...]) -> NDArray[np.float32]:
        """How far each take's block [B, T, C, h, w] falls away from what it remembered, [B]; see `falls_away`."""
        return self._memory.falls(latents, selections)

    def add(self, latents: Tensor) -> Tensor:
        """Embed a finished block's latents [B, T, C, h, w] and remember them; returns the embeddings [B, T, D].

        Raises:
            NotFiniteEmbeddingError: if they are not finite.
        """
        self._past.add(latents)
        return self._memory.add(latents)

    def replay(self, latents: Tensor, embeddings: NDArray[np.float32]) -> None:
        """As `add`, with stored embeddings."""
        self._past.add(latents)
        self._memory.replay(embeddings)
        self._memory.entered()  # already recorded

    def entered(self) -> tuple[tuple[int, ...], ...]:
        """For each take, the frames that have entered since the last call."""
        return self._memory.entered()

    def finish(self, block: int, selections: tuple[Selection, ...]) -> None:
        """A block is finished: retrieve for the next one, to fetch its pages while this one is committed."""
        self._pages.settle()  # commit and recache overwrite pages that have left the window
        self.keep_selected(selections)
        self._foreseen = None
        if self._foresees:
            self._foreseen = self._memory.retrieve(block + 1)
            self._pages.prefetch([selection.frames for selection in self._foreseen])

    def keep_selected(self, selections: tuple[Selection, ...]) -> None:
        """The last block's selections, with which the next one begins if it looks ahead."""
        self._selected = selections

    # ---- state ----

    def counters(self) -> PageCounters:
        """Counters of the page cache."""
        return self._pages.counters()

    def contents(self, known: Collection[int]) -> PagesHeld:
        """What the page cache holds, without the tensors of `known` pages."""
        return self._pages.contents(known)

    def bytes_of(self, take: int, known: Collection[int]) -> int:
        """Bytes of the tensors that a take's `contents` would have."""
        return self._pages.bytes_of(take, known)

    def restore(self, pages: PagesHeld, block: int) -> None:
        """Continue before `block` from the page cache of another rollout."""
        self._pages.restore(pages)
        self._foreseen = self._memory.retrieve(block) if self._foresees else None

    # ---- how sharply a block attends ----

    def _gained(self, block: int, selections: tuple[Selection, ...]) -> Gained:
        """Which of the frames that a block remembers have memory's gain.

        With `gain_above`, those that are like now in the search; while the window holds frames of another prompt, when
        the block may have to show something new, those that the current prompt asks for.
        """
        above = self._context.gain_above
        if above is None or not selections:
            return None
        if self.is_settled(block):
            return [[likeness >= above for likeness in selection.similarities] for selection in selections]
        return [self._memory.asks_for(take, each.frames) for take, each in enumerate(selections)]

    def _filled(self, pages: Pages, gained: Gained) -> tuple[Pages, Gained]:
        """Give memory's spare places to the oldest frames of the window that would go unseen; they have its gain."""
        first = self._clean_from
        unseen = {frame: page for frame, page in self._cache.unseen() if frame >= first}
        if not unseen:
            return pages, gained
        pages = pages or [[] for _ in range(self._batch_size)]
        spare = [
            self._memory.unbarred(take, list(unseen))[: self._context.memory_frames - len(remembered)]
            for take, remembered in enumerate(pages)
        ]
        filled = [
            [*remembered, *((frame, unseen[frame][:, :, take]) for frame in spare[take])]
            for take, remembered in enumerate(pages)
        ]
        if self._context.gain_above is None:
            return filled, None
        gained = gained or [[] for _ in pages]
        return filled, [[*each, *[True] * len(more)] for each, more in zip(gained, spare, strict=True)]

    @property
    def _clean_from(self) -> int:
        """The first frame with little in it of what was shown before the current prompt.

        Half of the window that it was made from, or more, was made under this prompt, or there was none before.
        """
        since = self._prompted_at * self._context.frames_per_block
        return since if since == self._cache.shot_start else since + self._context.window_frames // 2

    # ---- the past ----

    @property
    def _foresees(self) -> bool:
        return self._memory.can_foresee and not self.looks_ahead

    def _embed_past(self, take: int, frames: Sequence[int]) -> NDArray[np.float32]:
        """Embeddings [N, D] of past frames, from their latents."""
        return self._embed(self._past.latents(take, frames))

    @torch.no_grad()
    def _embed(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed latents [N, C, h, w] on the host as [N, D], one block's worth at a time."""
        step = self._context.frames_per_block
        parts = [torch.from_numpy(latents[start : start + step]) for start in range(0, len(latents), step)]
        return np.concatenate([self._encoder.encode(part.to(self._device)).float().cpu().numpy() for part in parts])

    def _new_pages(
        self, budgets: PageBudgets, remake: Callable[[int, Sequence[int]], Tensor], past_pages: int | None
    ) -> PageCache:
        cache = self._cache.shape
        shape = PageShape(cache.layers, cache.tokens_per_frame, cache.heads, cache.head_dim, cache.dtype, self._device)
        fetched_pages = self._context.memory_frames * self._batch_size
        pages = PageCache(shape, remake, budgets, fetched_pages, past_pages=past_pages)
        if self._device.type == "cuda":  # pinned there; elsewhere this would only allocate it earlier
            pages.allocate()
        return pages
