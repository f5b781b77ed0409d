"""The key/value cache of a take's window, and the context that a block attends to.

A shot begins like a take: with an empty cache, its first frames as the sink, and positions from 0.

There are two buffers of fixed size. *Pages* hold the unrotated keys and values of the newest `window` latent frames; a
slot is a place in their time order, sink first. The *context* `[sink | memory | local | block]` is assembled, with
rotated keys, once per block; each denoising step only overwrites the block's part, the tail, and attends. Each layer
has its own key and value tensors and sees only its `LayerContext`, so that the compiler can use one program for all
layers and write the tail in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from backbone.attention import AttentionCall
from backbone.config import ContextConfig
from backbone.rope import Rotation, rotation


@dataclass(frozen=True)
class CacheShape:
    """Sizes of the cached tensors.

    Attributes:
        layers, batch, heads, head_dim: sizes from the transformer and the request.
        token_grid: (height, width) of a latent frame in tokens.
        dtype, device: dtype and device of the cached tensors.
    """

    layers: int
    batch: int
    heads: int
    head_dim: int
    token_grid: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    @property
    def tokens_per_frame(self) -> int:
        """Tokens per latent frame."""
        return self.token_grid[0] * self.token_grid[1]

    @property
    def page(self) -> tuple[int, ...]:
        """Shape of one latent frame's page: [keys and values, layers, B, tokens, heads, head_dim]."""
        return (2, self.layers, self.batch, self.tokens_per_frame, self.heads, self.head_dim)


@dataclass(frozen=True)
class LayerContext:
    """What a block attends to in one layer; its own keys and values come last.

    Attributes:
        keys, values: [B, context tokens, heads, head_dim], with rotated keys; each step overwrites the tail.
        rotation: rotary positions of the tail.
        mask: [B, 1, 1, context tokens], True = attend; None attends to everything.
        pages: pages of the tail's frames, [2, B, tokens, heads, head_dim] each; empty if nothing is to be kept.
    """

    keys: Tensor
    values: Tensor
    rotation: Rotation
    mask: Tensor | None = None
    pages: tuple[Tensor, ...] = ()

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attention: AttentionCall) -> Tensor:
        """Write key and value, then attend; inputs and output are unrotated [B, tail tokens, heads, head_dim]."""
        self.write(key, value)
        return attention(self.rotation(query), self.keys, self.values, self.mask)

    def write(self, key: Tensor, value: Tensor) -> None:
        """Write key and value [B, tail tokens, heads, head_dim] to the tail and the pages of its frames."""
        self.keys[:, -key.shape[1] :] = self.rotation(key)
        self.values[:, -value.shape[1] :] = value
        for index, page in enumerate(self.pages):
            tokens = page.shape[2]
            frame = slice(index * tokens, (index + 1) * tokens)
            page.copy_(torch.stack((key[:, frame], value[:, frame])))

    @property
    def has_past(self) -> bool:
        """Whether it holds more than the tail."""
        return self.keys.shape[1] > self.rotation.turns.shape[1]

    def leave_length_open(self) -> None:
        """Tell the compiler that the number of context tokens varies."""
        for tensor in (self.keys, self.values):
            torch._dynamo.maybe_mark_dynamic(tensor, 1)


class KVCache:
    """Keys and values of the newest `window` latent frames in all layers.

    For each block, call `admit` to make room, which returns what leaves, then `assemble` to lay out the context; the
    transformer can then run any number of steps, each of which writes the block's keys and values into the tail of the
    layers' `contexts`.

    Attributes:
        frames: number in the take of the latent frame in each slot, in slot order.
    """

    def __init__(self, config: ContextConfig, shape: CacheShape) -> None:
        self.config = config
        self.shape = shape
        self.frames: list[int] = []
        slots = config.window_frames
        options: dict[str, Any] = {"dtype": shape.dtype, "device": shape.device}
        self._pages = [torch.zeros(shape.page, **options) for _ in range(slots)]
        self._page_of_slot: list[int] = []
        self._free_pages = list(range(slots))
        whole = (shape.batch, slots * shape.tokens_per_frame, shape.heads, shape.head_dim)
        self._keys = [torch.empty(whole, **options) for _ in range(shape.layers)]
        self._values = [torch.empty(whole, **options) for _ in range(shape.layers)]
        self._contexts: list[LayerContext] = []
        self._rotation = lru_cache(maxsize=2 * slots)(
            partial(_rotation_at, shape)
        )  # a cached method would keep self alive
        self._memory_tokens = slice(0)  # where the context holds memory
        self._gained: Tensor | None = None  # which tokens of memory have its gain, [B, tokens, 1, 1]; None: all
        self._laid_keys: list[Tensor] = []  # a copy of memory's keys as laid out, if their gain changes
        self._frames_done = 0
        self._shots = [0]  # first latent frame of each, increasing
        self._tail_slots = range(0)

    def admit(self, count: int) -> list[tuple[int, Tensor]]:
        """Assign the last `count` slots to the next `count` latent frames.

        Returns:
            The frames that had to leave, which are the oldest outside the sink, as (frame number, page [2, layers, B,
            tokens, heads, head_dim]). The pages are views that the next commit overwrites: copy those you keep.
        """
        excess = max(0, len(self.frames) + count - self.config.window_frames)
        leaving = range(self.config.sink_frames, self.config.sink_frames + excess)
        evicted = [(self.frames[slot], self._pages[self._page_of_slot[slot]]) for slot in leaving]
        self._free_pages += [self._page_of_slot[slot] for slot in leaving]
        del self.frames[leaving.start : leaving.stop]
        del self._page_of_slot[leaving.start : leaving.stop]

        newest = self._frames_done
        self.frames += range(newest, newest + count)
        self._page_of_slot += [self._free_pages.pop(0) for _ in range(count)]
        self._frames_done = newest + count
        return evicted

    def begin_shot(self, first: int) -> list[tuple[int, Tensor]]:
        """Empty the cache to begin another shot at `first`, the next latent frame.

        Returns:
            All frames that were cached, in the form that `admit` returns.
        """
        evicted = [(frame, self._pages[page]) for frame, page in zip(self.frames, self._page_of_slot, strict=True)]
        self._free_pages += self._page_of_slot
        self.frames, self._page_of_slot = [], []
        self._shots.append(first)
        return evicted

    def assemble(
        self, memory: Sequence[Sequence[tuple[int, Tensor]]] = (), gained: Sequence[Sequence[bool]] | None = None
    ) -> None:
        """Lay out the context of the block admitted last: `[sink | memory | local | block]`.

        Args:
            memory: for each take of the batch, (frame number, page [2, layers, tokens, heads, head_dim]) of the frames
                it remembers; if takes differ in how many, a mask hides the empty places.
            gained: which of these frames have memory's gain; all by default.
        """
        block = self.config.frames_per_block
        slots = range(len(self.frames))
        oldest_local = len(slots) - self.config.local_frames
        past = slots[:-block]
        sink = [slot for slot in past if slot < self.config.sink_frames]
        local = [slot for slot in past if slot >= max(self.config.sink_frames, oldest_local)]

        self._lay_out(sink, memory, local, slots[-block:], gained)

    def unseen(self) -> list[tuple[int, Tensor]]:
        """The cached frames that are neither sink nor local to the block admitted last, oldest first.

        Returns:
            (frame number, page [2, layers, B, tokens, heads, head_dim]) of each; the pages are views.
        """
        slots = range(self.config.sink_frames, len(self.frames) - self.config.local_frames)
        return [(self.frames[slot], self._pages[self._page_of_slot[slot]]) for slot in slots]

    def step_to(self, sigma: float) -> None:
        """Give memory's keys the gain of a noise level; they are laid out with that of noise alone."""
        change: float | Tensor = self._gain(sigma, True) / self._gain(1.0, True)
        if self._gained is not None:
            change = torch.where(self._gained, change, self._gain(sigma, False) / self._gain(1.0, False))
        for keys, laid in zip(self._keys, self._laid_keys, strict=False):
            torch.mul(laid, change, out=keys[:, self._memory_tokens])

    def assemble_refresh(self) -> range:
        """Lay out the context of a recache: the whole cache, with the frames to refresh at the tail.

        Returns:
            The frame numbers to run: all cached frames while the shot still fits the window; after that, all but the
            sink, whose pages stay as they were.
        """
        frames_left = self._frames_done - self.shot_start > self.config.window_frames
        kept = self.config.sink_frames if frames_left else 0
        tail = range(kept, len(self.frames))
        self._lay_out(range(kept), (), (), tail)
        return range(self.frames[tail.start], self.frames[-1] + 1)

    def contexts(self, keep: bool) -> list[LayerContext]:
        """The assembled context of every layer; with `keep`, writes also go to the tail's pages."""
        if not keep:
            return self._contexts
        pages = [self._pages[self._page_of_slot[slot]] for slot in self._tail_slots]
        return [
            replace(context, pages=tuple(page[:, layer] for page in pages))
            for layer, context in enumerate(self._contexts)
        ]

    @property
    def shot_start(self) -> int:
        """First latent frame of the current shot."""
        return self._shots[-1]

    def committed_position(self, frame: int) -> int:
        """The temporal position at which a past latent frame was committed; frames of other takes are below 0."""
        frame -= max((first for first in self._shots if first <= frame), default=0)
        if self.config.rope == "absolute":
            return frame
        block = self.config.frames_per_block
        place = frame % block
        frames_then = frame - place + block
        return min(frames_then, self.config.window_frames) - block + place

    # ---- checkpoints ----

    def pages(self) -> Tensor:
        """A copy of all pages, [slots in use, 2, layers, B, tokens, heads, head_dim], in slot order."""
        if not self._page_of_slot:
            return self._pages[0].new_empty((0, *self.shape.page))
        return torch.stack([self._pages[page] for page in self._page_of_slot])

    def restore(self, frames: Sequence[int], pages: Tensor, frames_done: int) -> None:
        """Restore the state saved as `frames` and `pages()` of another cache.

        Args:
            frames: number of the latent frame in each slot.
            pages: their pages, on any device.
            frames_done: latent frames committed so far.

        Raises:
            ValueError: if the pages don't have this cache's shape.
        """
        expected = (len(frames), *self.shape.page)
        if tuple(pages.shape) != expected or len(frames) > self.config.window_frames:
            raise ValueError(f"pages are {list(pages.shape)}; this cache takes {list(expected)}")
        self.frames = list(frames)
        self._page_of_slot = list(range(len(frames)))
        self._free_pages = list(range(len(frames), self.config.window_frames))
        for own, page in zip(self._pages, pages, strict=False):
            own.copy_(page)
        self._frames_done = frames_done

    # ---- laying out ----

    def _lay_out(
        self,
        sink: Sequence[int],
        memory: Sequence[Sequence[tuple[int, Tensor]]],
        local: Sequence[int],
        tail: range,
        gained: Sequence[Sequence[bool]] | None = None,
    ) -> None:
        """Copy pages into the context in this order, rotating keys to their positions, and reserve the tail."""
        counts = [len(pages) for pages in memory] or [0]
        after_memory = len(sink) + max(counts)
        self._tail_slots = tail
        self._memory_tokens = slice(len(sink) * self.shape.tokens_per_frame, after_memory * self.shape.tokens_per_frame)
        seen = (after_memory + len(local) + len(tail)) * self.shape.tokens_per_frame
        mask = None
        if min(counts) < max(counts):
            mask = self._without_empty_places(len(sink), counts, seen)

        for place, slot in [*enumerate(sink), *enumerate(local, start=after_memory)]:
            self._lay_page(self._pages[self._page_of_slot[slot]], self._position(slot), place, slice(None))
        for take, pages in enumerate(memory):
            for place, (frame, page) in enumerate(pages, start=len(sink)):
                position = 0 if self.config.rope == "relative" else frame - self.shot_start
                gain = self._gain(1.0, gained is None or gained[take][place - len(sink)])
                self._lay_page(page[:, :, None], position, place, slice(take, take + 1), gain)
        self._gained = None if gained is None or not max(counts) else self._by_token(gained, max(counts))
        if self.config.first_gain is not None:
            self._laid_keys = [keys[:, self._memory_tokens].clone() for keys in self._keys]
        turned = self._rotation(tuple(self._position(slot) for slot in tail))
        self._contexts = [
            LayerContext(keys[:, :seen], values[:, :seen], turned, mask)
            for keys, values in zip(self._keys, self._values, strict=True)
        ]

    def _without_empty_places(self, sink_frames: int, counts: Sequence[int], context_tokens: int) -> Tensor:
        """Mask memory's places for which a take has no frame, and zero them, since they might contain NaN."""
        tokens = self.shape.tokens_per_frame
        mask = torch.ones(len(counts), context_tokens, dtype=torch.bool, device=self.shape.device)
        for take, count in enumerate(counts):
            empty = slice((sink_frames + count) * tokens, (sink_frames + max(counts)) * tokens)
            mask[take, empty] = False
            for tensor in (*self._keys, *self._values):
                tensor[take, empty] = 0
        return mask[:, None, None]

    def _by_token(self, frames: Sequence[Sequence[bool]], count: int) -> Tensor:
        """What holds for each take's frames, for each token of `count` frames, [B, tokens, 1, 1]."""
        padded = torch.tensor([[*take, *[False] * (count - len(take))] for take in frames], device=self.shape.device)
        return padded.reshape(len(frames), -1).repeat_interleave(self.shape.tokens_per_frame, dim=1)[:, :, None, None]

    def _gain(self, sigma: float, gained: bool) -> float:
        """The factor on a remembered frame's keys; without the gain, it is never more than 1."""
        gain = self.config.gain_at(sigma)
        return gain if gained else min(gain, 1.0)

    def _position(self, slot: int) -> int:
        return slot if self.config.rope == "relative" else self.frames[slot] - self.shot_start

    def _lay_page(self, page: Tensor, position: int, place: int, takes: slice, gain: float = 1.0) -> None:
        """Copy a page [2, layers, takes, tokens, heads, head_dim] to its place in the context.

        Its keys are rotated and multiplied by `gain`: a token's weight in attention is exp(gain q.k).
        """
        there = slice(place * self.shape.tokens_per_frame, (place + 1) * self.shape.tokens_per_frame)
        for tensors, new in ((self._keys, self._rotation((position,), gain)(page[0])), (self._values, page[1])):
            torch._foreach_copy_([tensor[takes, there] for tensor in tensors], list(new.unbind()))


def _rotation_at(shape: CacheShape, positions: tuple[int, ...], gain: float = 1.0) -> Rotation:
    """The rotation of whole latent frames, which also multiplies by `gain`."""
    turned = rotation(torch.tensor(positions, device=shape.device), *shape.token_grid, shape.head_dim)
    return Rotation(gain * turned.turns)
