"""The key/value cache of a take's window, and the context that a block attends to.

A shot begins as a take does: with an empty cache, its first frames as the sink and its positions from 0 on.

Two buffers of fixed size. *Pages* hold the unrotated keys and values of the newest `window` latent frames; a slot is
a place in their time order, sink first. The *context* `[sink | memory | local | block]` is assembled once per block,
its keys rotated then; each denoising step only overwrites the block's part, the tail, and attends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from backbone.config import ContextConfig
from backbone.rope import Rotation, rotation


@dataclass(frozen=True)
class CacheShape:
    """Sizes of what is cached.

    Attributes:
        layers, batch, heads, head_dim: of the transformer and the request.
        token_grid: (height, width) of a latent frame in tokens.
        dtype, device: of the cached tensors.
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
        """Tokens of one latent frame."""
        return self.token_grid[0] * self.token_grid[1]

    @property
    def page(self) -> tuple[int, ...]:
        """Shape of one latent frame's page: [keys and values, layers, B, tokens, heads, head_dim]."""
        return (2, self.layers, self.batch, self.tokens_per_frame, self.heads, self.head_dim)


class KVCache:
    """Keys and values of the newest `window` latent frames in all layers.

    Use, block after block: `admit` makes room and hands out what leaves; `assemble` lays out the context; the
    transformer then runs any number of steps, each of which `write`s the block's keys and values into the tail.

    Attributes:
        frames: number in the take of the latent frame in each slot, in slot order.
        tail_rotation: rotary positions of the block's own tokens.
    """

    def __init__(self, config: ContextConfig, shape: CacheShape) -> None:
        self.config = config
        self.shape = shape
        self.frames: list[int] = []
        self.tail_rotation: Rotation
        self.mask: Tensor | None = None  # [B, 1, 1, context tokens], True = see; None: all of it
        slots = config.window_frames
        keys_values, layers, batch, tokens, heads, head_dim = shape.page
        self._pages = torch.zeros((slots, *shape.page), dtype=shape.dtype, device=shape.device)
        self._page_of_slot: list[int] = []
        self._free_pages = list(range(slots))
        self._context = torch.empty(
            (keys_values, layers, batch, slots * tokens, heads, head_dim), dtype=shape.dtype, device=shape.device
        )
        self._rotation = lru_cache(maxsize=2 * slots)(partial(_rotation_at, shape))  # no method: it would own the cache
        self._frames_done = 0
        self._shots = [0]  # first latent frame of each, rising
        self._tail_slots = range(0)
        self._tail_start = 0

    def admit(self, count: int) -> list[tuple[int, Tensor]]:
        """Make the last `count` slots those of the next `count` latent frames.

        Returns:
            What had to leave: (frame number, page [2, layers, B, tokens, heads, head_dim]) of the oldest frames that
            are not in the sink. The pages are views that the next commit overwrites: copy what is to be kept.
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
        """Empty the cache: another shot begins at latent frame `first`, the next one.

        Returns:
            What had to leave, as `admit` does: all frames.
        """
        evicted = [(frame, self._pages[page]) for frame, page in zip(self.frames, self._page_of_slot, strict=True)]
        self._free_pages += self._page_of_slot
        self.frames, self._page_of_slot = [], []
        self._shots.append(first)
        return evicted

    def assemble(self, memory: Sequence[Sequence[tuple[int, Tensor]]] = ()) -> None:
        """Lay out the context of the block that was admitted last: `[sink | memory | local | block]`.

        Args:
            memory: for each take of the batch, (frame number, page [2, layers, tokens, heads, head_dim]) of the frames
                that it remembers; where some have fewer than others, `mask` leaves their empty places out.
        """
        block = self.config.frames_per_block
        slots = range(len(self.frames))
        oldest_local = len(slots) - self.config.local_frames
        past = slots[:-block]
        sink = [slot for slot in past if slot < self.config.sink_frames]
        local = [slot for slot in past if slot >= max(self.config.sink_frames, oldest_local)]

        self._lay_out(sink, memory, local, slots[-block:])

    def assemble_refresh(self) -> range:
        """Lay out the context of a recache: the whole cache, with the frames to refresh at the tail.

        Returns:
            The frame numbers to run: all cached frames while the shot still fits the window; later all but the sink,
            whose pages stay as they were.
        """
        frames_left = self._frames_done - self.shot_start > self.config.window_frames
        kept = self.config.sink_frames if frames_left else 0
        tail = range(kept, len(self.frames))
        self._lay_out(range(kept), (), (), tail)
        return range(self.frames[tail.start], self.frames[-1] + 1)

    def write(self, layer: int, key: Tensor, value: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
        """Overwrite the tail of one layer's context; with `keep`, also the pages of the tail's frames.

        Args:
            key, value: [B, tail tokens, heads, head_dim], the keys not rotated.

        Returns:
            Keys (rotated) and values of the whole context, [B, context tokens, heads, head_dim], views.
        """
        tokens = self.shape.tokens_per_frame
        start = self._tail_start * tokens
        end = start + key.shape[1]
        keys, values = self._context[0, layer], self._context[1, layer]
        keys[:, start:end] = self.tail_rotation(key)
        values[:, start:end] = value
        if keep:
            for index, slot in enumerate(self._tail_slots):
                page = self._pages[self._page_of_slot[slot]]
                page[0, layer] = key[:, index * tokens : (index + 1) * tokens]
                page[1, layer] = value[:, index * tokens : (index + 1) * tokens]
        return keys[:, :end], values[:, :end]

    @property
    def shot_start(self) -> int:
        """First latent frame of the shot that is being made."""
        return self._shots[-1]

    def committed_position(self, frame: int) -> int:
        """The temporal position of a past latent frame when it was committed; below 0 are frames of other takes."""
        frame -= max((first for first in self._shots if first <= frame), default=0)
        if self.config.rope == "absolute":
            return frame
        block = self.config.frames_per_block
        place = frame % block
        frames_then = frame - place + block
        return min(frames_then, self.config.window_frames) - block + place

    # ---- carrying it over to another process ----

    def pages(self) -> Tensor:
        """All that is kept, a copy: pages [slots in use, 2, layers, B, tokens, heads, head_dim] in slot order."""
        return self._pages[self._page_of_slot]

    def restore(self, frames: Sequence[int], pages: Tensor, frames_done: int) -> None:
        """Go on from what `frames` and `pages()` of another cache were.

        Args:
            frames: number of the latent frame in each slot.
            pages: theirs, on any device.
            frames_done: latent frames committed so far.

        Raises:
            ValueError: if the pages are of another shape than this cache's.
        """
        expected = (len(frames), *self.shape.page)
        if tuple(pages.shape) != expected or len(frames) > self.config.window_frames:
            raise ValueError(f"pages are {list(pages.shape)}; this cache takes {list(expected)}")
        self.frames = list(frames)
        self._page_of_slot = list(range(len(frames)))
        self._free_pages = list(range(len(frames), self.config.window_frames))
        self._pages[: len(frames)] = pages
        self._frames_done = frames_done

    # ---- laying out ----

    def _lay_out(
        self,
        sink: Sequence[int],
        memory: Sequence[Sequence[tuple[int, Tensor]]],
        local: Sequence[int],
        tail: range,
    ) -> None:
        """Copy pages into the context in this order, keys rotated to their positions; reserve the tail's places."""
        counts = [len(pages) for pages in memory] or [0]
        after_memory = len(sink) + max(counts)
        self._tail_slots, self._tail_start = tail, after_memory + len(local)
        self.mask = None
        if min(counts) < max(counts):
            self.mask = self._without_empty_places(len(sink), counts, self._tail_start + len(tail))

        for place, slot in [*enumerate(sink), *enumerate(local, start=after_memory)]:
            self._lay_page(self._pages[self._page_of_slot[slot]], self._position(slot), place, slice(None))
        for take, pages in enumerate(memory):
            for place, (frame, page) in enumerate(pages, start=len(sink)):
                position = 0 if self.config.rope == "relative" else frame - self.shot_start
                self._lay_page(page[:, :, None], position, place, slice(take, take + 1))
        self.tail_rotation = self._rotation(tuple(self._position(slot) for slot in tail))

    def _without_empty_places(self, sink_frames: int, counts: Sequence[int], context_frames: int) -> Tensor:
        """Hide memory's places for which a take has no frame; they are zeroed, since what is there may be NaN."""
        tokens = self.shape.tokens_per_frame
        mask = torch.ones(len(counts), context_frames * tokens, dtype=torch.bool, device=self.shape.device)
        for take, count in enumerate(counts):
            empty = slice((sink_frames + count) * tokens, (sink_frames + max(counts)) * tokens)
            mask[take, empty] = False
            self._context[:, :, take, empty] = 0
        return mask[:, None, None]

    def _position(self, slot: int) -> int:
        return slot if self.config.rope == "relative" else self.frames[slot] - self.shot_start

    def _lay_page(self, page: Tensor, position: int, place: int, takes: slice) -> None:
        tokens = self.shape.tokens_per_frame
        target = self._context[:, :, takes, place * tokens : (place + 1) * tokens]
        target[0] = self._rotation((position,))(page[0])
        target[1] = page[1]


def _rotation_at(shape: CacheShape, positions: tuple[int, ...]) -> Rotation:
    frame_positions = torch.tensor(positions, device=shape.device)
    return rotation(frame_positions, *shape.token_grid, shape.head_dim)
