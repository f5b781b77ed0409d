"""The block loop (retrieve, assemble, denoise, commit), on latents and prompt embeddings only."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backbone.cache import CacheShape, KVCache
from backbone.config import ContextConfig, SamplerConfig
from backbone.errors import FieldError
from backbone.sampler import add_noise, predict_x0
from backbone.transformer import CausalWanTransformer, TextContext
from longlive_rag.generation.block import NotFiniteError
from longlive_rag.generation.noise import NoiseSource
from longlive_rag.generation.rollout_memory import PastFrames, PastLatents, RememberedFrames, RolloutMemory
from longlive_rag.generation.stopwatch import Lap, Stopwatch
from retrieval.budgets import PageBudgets, PageCounters
from retrieval.encoder import LatentEncoder
from retrieval.index import NotFiniteEmbeddingError
from retrieval.memory import Choose, PolicySeeds
from retrieval.pages import PagesHeld
from retrieval.policy import RetrievalRules
from retrieval.selection import Selection

STEPS_OF_A_TRY = 1_000
"""Offset between the noise steps of successive tries at a block."""


@dataclass(frozen=True)
class FinishedBlock:
    """One finished block.

    Attributes:
        index: number of the block, from 0.
        latents: [B, T, C, h, w] float32, on the model's device.
        embeddings: [B, T, D], or None without memory.
        selections: one per take of the batch; empty if nothing was retrieved.
        entered: for each take, the latent frames that have entered memory since the previous block was finished; None
            without memory.
        lap: time since the previous block was finished, which includes the previous block's commit.
    """

    index: int
    latents: Tensor
    embeddings: Tensor | None
    selections: tuple[Selection, ...]
    entered: tuple[tuple[int, ...], ...] | None
    lap: Lap

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of `lap` by stage. On CUDA this waits for the block, so read it only once results are needed."""
        return self.lap.read()


@dataclass(frozen=True)
class RolloutState:
    """The state that determines a rollout's next block, beyond the records of its blocks.

    Attributes:
        blocks: number of blocks committed.
        cache_frames: number of the latent frame in each slot of the window.
        cache_pages: their pages, [slots, 2, layers, B, tokens, heads, head_dim].
        pages: contents of the page cache; None without memory.
    """

    blocks: int
    cache_frames: tuple[int, ...]
    cache_pages: Tensor
    pages: PagesHeld | None

    def each_tensor(self, change: Callable[[Tensor], Tensor]) -> RolloutState:
        """Apply `change` to every tensor, in a fixed order; in all of them heads are the second-to-last dimension."""
        pages = None if self.pages is None else self.pages.each_tensor(change)
        return replace(self, cache_pages=change(self.cache_pages), pages=pages)

    def of_take(self, take: int) -> RolloutState:
        """One take's part of a batch's state, from which a rollout of this take alone can resume."""
        pages = None if self.pages is None else self.pages.of_take(take)
        return replace(self, cache_pages=self.cache_pages[:, :, :, take : take + 1], pages=pages)


class Rollout:
    """Generates one block after another and keeps what the next one needs.

    Args:
        transformer: the frozen backbone.
        context, sampler: what a block attends to and how it is sampled.
        noise: source of noise.
        latent_shape: (C, h, w) of a latent frame.
        batch_size: number of takes made side by side.
        encoder: embeds latents for memory; None is the native backbone, for which `memory_frames` must be 0.
        device: device to run on; default is the transformer's (they differ while it is offloaded).
        start: [B, C, h, w], clean latents to use as the first latent frame; None generates it from noise.
        rules: what memory admits and picks.
        budgets: budgets of the page cache.
        past: reads latents of committed blocks; None keeps them in a temporary file.
        remembered: frames of other takes, numbered -N..-1.
        past_pages: maximum number of pages there can ever be, None if unknown; on a GPU, host memory for them is
            allocated up front.
        choose, policy_seeds: pick frames in place of the search, and seed policies that draw; see `Memory`.

    Raises:
        ValueError: if the context has memory frames but there is no encoder.
    """

    def __init__(
        self,
        transformer: CausalWanTransformer,
        context: ContextConfig,
        sampler: SamplerConfig,
        noise: NoiseSource,
        latent_shape: tuple[int, int, int],
        batch_size: int = 1,
        encoder: LatentEncoder | None = None,
        device: torch.device | None = None,
        start: Tensor | None = None,
        *,
        rules: RetrievalRules | None = None,
        budgets: PageBudgets | None = None,
        past: PastLatents | None = None,
        remembered: RememberedFrames | None = None,
        past_pages: int | None = None,
        choose: Choose | None = None,
        policy_seeds: PolicySeeds | None = None,
    ) -> None:
        if context.memory_frames and encoder is None:
            shown = f"{context.memory_frames}, but there is no encoder to search memory with"
            raise FieldError("memory_frames", context.memory_frames, shown=shown)
        self._transformer = transformer
        self._ranks = transformer.ranks
        self._context = context
        self._sampler = sampler
        self._noise = noise
        self._latent_shape = latent_shape
        self._batch_size = batch_size
        self._device = device or transformer.patch_embedding.weight.device
        self._dtype = transformer.patch_embedding.weight.dtype
        self._start = None if start is None else start.to(self._device, torch.float32)
        self._cache = KVCache(context, self._cache_shape())
        self._past = PastFrames(past, remembered) if past is not None or context.memory_frames else None
        self._memory: RolloutMemory | None = None
        if encoder is not None and self._past is not None and context.memory_frames:
            self._memory = RolloutMemory(
                self._cache,
                context,
                encoder,
                self._past,
                self._remake_pages,
                may_look_ahead=len(sampler.sigmas) > 1,  # with one step, the first estimate is the result
                ranks=self._ranks,
                rules=rules,
                budgets=budgets or PageBudgets(),
                past_pages=past_pages,
                choose=choose,
                policy_seeds=policy_seeds,
            )
        self._retries = rules.retries if rules else 0
        self._recent: deque[Tensor] = deque(maxlen=context.window_frames)  # clean latent frames [B, C, h, w]
        self._text: TextContext | None = None
        self._stopwatch = Stopwatch(self._device)
        self._blocks_done = 0
        self._commit_is_due = False

    @torch.no_grad()
    def direct(self, prompt_embeds: Tensor, cut: bool = False) -> None:
        """Set the prompt for the next block; after the first block, this recaches the window under it.

        The recache replaces the last block's commit, as it recomputes every page that the commit would have made.

        Args:
            prompt_embeds: [B, up to text_length, text_dim].
            cut: begin another shot with the next block: window and sink are emptied, so that all it sees of the past is
                what memory brings back.

        Raises:
            NotFiniteError: if memory searches by prompts and they are not finite.
        """
        if cut:
            self._commit()
            leaving = self._begin_shot()
            if self._memory:
                self._memory.leave(leaving)
        with self._stopwatch.stage("recache"), self._blaming_the_model():
            self._take_prompt(prompt_embeds)
            if self._blocks_done and not cut:
                self._keep_pages(len(self._cache.assemble_refresh()))
                self._commit_is_due = False

    def steer(self, rules: RetrievalRules) -> None:
        """Pin, exclude and admit frames by `rules` from the next block on; no effect without memory."""
        if self._memory:
            self._memory.steer(rules)

    @torch.no_grad()
    def next_block(self) -> FinishedBlock:
        """Commit the previous block and generate the next one.

        Raises:
            NotFiniteError: if memory can't embed the block because it is not finite; without memory, nothing checks it.
        """
        block, watch = self._blocks_done, self._stopwatch
        self._commit()
        with watch.stage("retrieve"):
            selections = self._memory.retrieve(block) if self._memory else ()
        with watch.stage("assemble"):
            self._assemble(selections)
        with watch.stage("denoise"), self._blaming_the_model():
            latents, selections = self._denoise(block, selections)
            latents, selections = self._retried(block, latents, selections)
        latents = latents if self._ranks is None else self._ranks.same(latents)
        with watch.stage("encode"), self._blaming_the_model():
            embeddings = self._memory.add(latents) if self._memory else None
        entered = self._memory.entered() if self._memory else None
        self._finish(latents, selections)
        return FinishedBlock(block, latents, embeddings, selections, entered, watch.lap())

    # ---- resuming ----

    @torch.no_grad()
    def replay(
        self, latents: Tensor, embeddings: NDArray[np.float32] | None, selections: tuple[Selection, ...]
    ) -> None:
        """Replay a stored block as the next one: like `next_block`, but without denoising or embedding.

        Args:
            latents: [B, T, C, h, w] float32.
            embeddings: [B, T, D]; None without memory.
            selections: what the block retrieved.
        """
        block = self._blocks_done
        self._commit()
        with self._stopwatch.stage("assemble"):
            begun = self._memory.retrieve(block) if self._memory and self._memory.looks_ahead else selections
            self._assemble(begun)
            if self._memory and begun is not selections:
                self._memory.lay_out(block, selections)
            self._cache.step_to(self._sampler.sigmas[-1])
        self._recall(latents, embeddings)
        self._finish(latents.to(self._device), selections)

    def recall(
        self,
        latents: Tensor,
        embeddings: NDArray[np.float32] | None,
        selections: tuple[Selection, ...],
        prompt_embeds: Tensor | None,
        cut: bool = False,
    ) -> None:
        """Record a stored block as the next one without running it; must be followed by `restore` or `rebuild`.

        Args:
            latents, embeddings, selections: as for `replay`.
            prompt_embeds, cut: as for `direct`, if a prompt took over at this block.
        """
        if cut:
            self._begin_shot()
        if prompt_embeds is not None:
            self._take_prompt(prompt_embeds)
        self._recall(latents, embeddings)
        self._recent.extend(latents.to(self._device).unbind(1))
        if self._memory:
            self._memory.keep_selected(selections)
        self._blocks_done += 1

    @torch.no_grad()
    def state(self, known: Collection[int] = ()) -> RolloutState:
        """Everything that a new rollout needs to continue, once it has recalled the blocks so far.

        Args:
            known: serials of pages that are stored elsewhere; their tensors are left out.
        """
        self._commit()
        pages = self._memory.contents(known) if self._memory else None
        state = RolloutState(self._blocks_done, tuple(self._cache.frames), self._cache.pages().cpu(), pages)
        return state if self._ranks is None else state.each_tensor(self._ranks.whole_heads)

    def state_bytes(self, take: int, known: Collection[int] = ()) -> int:
        """Bytes of the tensors in a take's `state`, without making it; a page in both tiers counts twice."""
        window = len(self._cache.frames) * math.prod(self._cache.shape.page) * self._dtype.itemsize // self._batch_size
        own = window + (self._memory.bytes_of(take, known) if self._memory else 0)
        return own if self._ranks is None else own * self._ranks.size  # `state` has the heads of all ranks

    def restore(self, state: RolloutState) -> None:
        """Continue from the state of another rollout, whose blocks must have been recalled.

        Raises:
            ValueError: if the state belongs to other blocks or has another shape.
        """
        if state.blocks != self._blocks_done or (state.pages is None) != (self._memory is None):
            raise ValueError(f"the state is for {state.blocks} blocks, but {self._blocks_done} were recalled")
        state = state if self._ranks is None else state.each_tensor(self._ranks.own_heads)
        self._cache.restore(state.cache_frames, state.cache_pages, self._frames_done)
        if self._memory is not None and state.pages is not None:
            self._memory.restore(state.pages, state.blocks)

    @torch.no_grad()
    def rebuild(self) -> None:
        """Recompute the window's pages from the recalled latents, one frame at a time, under the current prompt.

        They are close to what was committed, but not equal.
        """
        context, first, done = self._context, self._cache.shot_start, self._frames_done
        sink = range(first, min(first + context.sink_frames, done))
        frames = [*sink, *range(max(sink.stop, done - context.window_frames + context.sink_frames), done)]
        takes = [self._remake_pages(take, frames) for take in range(self._batch_size)]
        self._cache.restore(frames, torch.stack(takes, dim=3), done)

    @property
    def _frames_done(self) -> int:
        return self._blocks_done * self._context.frames_per_block

    def page_counters(self) -> PageCounters | None:
        """Counters of the page cache; None without memory."""
        return self._memory.counters() if self._memory else None

    @contextmanager
    def _blaming_the_model(self) -> Iterator[None]:
        """Turn memory's error about an embedding into one about the block, whose values it was computed from."""
        try:
            yield
        except NotFiniteEmbeddingError as error:
            raise NotFiniteError.of_block(self._blocks_done) from error

    # ---- the steps of a block ----

    @torch.no_grad()
    def _take_prompt(self, prompt_embeds: Tensor) -> None:
        self._text = self._transformer.encode_text(prompt_embeds.to(self._device, self._dtype))
        if self._memory:
            self._memory.prompt(prompt_embeds, self._blocks_done)

    def _assemble(self, selections: tuple[Selection, ...]) -> None:
        leaving = self._cache.admit(self._context.frames_per_block)
        if self._memory is None:
            self._cache.assemble()
            return
        self._memory.lay_out(self._blocks_done, selections)
        self._memory.leave(leaving)

    def _begin_shot(self) -> list[tuple[int, Tensor]]:
        """Empty the window and return what leaves it."""
        if self._memory:
            self._memory.begin_shot()
        return self._cache.begin_shot(self._frames_done)

    def _recall(self, latents: Tensor, embeddings: NDArray[np.float32] | None) -> None:
        """Remember a stored block."""
        if self._memory is None:
            return
        if embeddings is None:
            raise ValueError("the blocks were made without memory, so there are no embeddings to search")
        self._memory.replay(latents, embeddings)

    def _finish(self, latents: Tensor, selections: tuple[Selection, ...]) -> None:
        self._recent.extend(latents.unbind(1))
        if self._memory:
            with self._stopwatch.stage("retrieve"):
                self._memory.finish(self._blocks_done, selections)
        self._blocks_done += 1
        self._commit_is_due = True

    def _commit(self) -> None:
        """Run the last block's finished latents once more for the keys and values to keep.

        This is deferred until they are needed, because a cue in between computes them under its own prompt.
        """
        if not self._commit_is_due:
            return
        with self._stopwatch.stage("commit"):
            self._keep_pages(self._context.frames_per_block)
        self._commit_is_due = False

    def _remake_pages(self, take: int, frames: Sequence[int]) -> Tensor:
        """Recompute pages of past frames under the current prompt, [N, 2, layers, tokens, heads, head_dim]."""
        if self._text is None or self._past is None:
            raise RuntimeError("there is no prompt or there are no past latents yet to remake pages from")
        latents = torch.from_numpy(self._past.latents(take, frames)).to(self._device, self._dtype)
        positions = torch.tensor([self._cache.committed_position(frame) for frame in frames], device=self._device)
        text = self._text.of_take(take)
        return self._transformer.encode_pages(latents, positions, self._sampler.context_timestep, text)

    def _denoise(
        self, block: int, selections: tuple[Selection, ...], retry: int = 0
    ) -> tuple[Tensor, tuple[Selection, ...]]:
        """Sample the block's latents [B, T, C, h, w] in a few steps; also return what it remembers at the last step.

        Args:
            retry: number of the retry, which uses other noise but the same selections; 0 is the first try.
        """
        shape, first = (self._context.frames_per_block, *self._latent_shape), retry * STEPS_OF_A_TRY
        start = self._start if block == 0 else None
        if start is not None and self._context.frames_per_block == 1:  # the start is the whole block
            self._cache.step_to(self._sampler.sigmas[-1])
            return start[:, None], selections
        noisy = _begin_with(start, self._draw(block, first, shape))
        sigmas = self._sampler.sigmas
        for step, sigma in enumerate(sigmas):
            self._cache.step_to(sigma)
            timesteps = self._timesteps(sigma, first_is_clean=start is not None)
            frames = noisy.transpose(1, 2).to(self._dtype)
            flow = self._transformer.forward_block(frames, timesteps, self._prompt(), self._cache).transpose(1, 2)
            clean = _begin_with(start, predict_x0(noisy, flow, sigma))
            if step + 1 < len(sigmas):
                noise = self._draw(block, first + step + 1, shape)
                noisy = _begin_with(start, add_noise(clean, noise, sigmas[step + 1]))
                if step == 0 and self._memory and self._memory.looks_ahead and not retry:
                    selections = self._memory.look_ahead(block, clean)
        return clean, selections

    def _retried(
        self, block: int, latents: Tensor, selections: tuple[Selection, ...]
    ) -> tuple[Tensor, tuple[Selection, ...]]:
        """Retry a block that falls away from what it remembered and keep the best try, for each take of a batch.

        There are no retries while the window holds frames of another prompt, as the block may show something new then.
        """
        memory = self._memory
        if not self._retries or memory is None or not selections or not memory.is_settled(block):
            return latents, selections
        falls, tries = memory.falls(latents, selections), np.zeros(len(selections), int)
        for retry in range(1, self._retries + 1):
            again = falls > 0
            if not again.any():
                break
            other, _ = self._denoise(block, selections, retry)
            others = memory.falls(other, selections)
            better = again & (others < falls)
            taken = torch.from_numpy(better).to(latents.device)[:, None, None, None, None]
            latents = torch.where(taken, other, latents)
            falls, tries = np.where(better, others, falls), tries + again
        counted = zip(selections, tries.tolist(), strict=True)
        return latents, tuple(replace(selection, retries=count) for selection, count in counted)

    def _timesteps(self, sigma: float, first_is_clean: bool) -> Tensor:
        """The timesteps of a noise level: [B], or [B, T] if the first frame is clean and has its own timestep."""
        steps = torch.full((self._batch_size,), sigma * self._sampler.num_train_timesteps, device=self._device)
        if first_is_clean:
            steps = steps[:, None].repeat(1, self._context.frames_per_block)
            steps[:, 0] = self._sampler.context_timestep
        return steps

    def _keep_pages(self, count: int) -> None:
        """Cache keys and values of the newest `count` clean frames, which must be the tail of the cache."""
        latents = torch.stack(list(self._recent)[-count:], dim=1)
        steps = torch.full((self._batch_size,), self._sampler.context_timestep, device=self._device)
        frames = latents.transpose(1, 2).to(self._dtype)
        self._transformer.commit_block(frames, steps, self._prompt(), self._cache)

    def _prompt(self) -> TextContext:
        if self._text is None:
            raise RuntimeError("no prompt yet: call direct(prompt_embeds) before next_block()")
        return self._text

    def _draw(self, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        return self._noise(block, step, shape).to(self._device, non_blocking=True)

    # ---- set-up ----

    def _cache_shape(self) -> CacheShape:
        config = self._transformer.config
        return CacheShape(
            layers=config.num_layers,
            batch=self._batch_size,
            heads=self._transformer.cached_heads,
            head_dim=config.attention_head_dim,
            token_grid=self._transformer.token_grid(self._latent_shape[1:]),
            dtype=self._dtype,
            device=self._device,
        )


def _begin_with(start: Tensor | None, latents: Tensor) -> Tensor:
    """Replace the first frame of latents [B, T, C, h, w] by `start` [B, C, h, w], if given."""
    return latents if start is None else torch.cat([start[:, None], latents[:, 1:]], dim=1)
