"""The page cache: keys and values of latent frames that have left the window, within byte budgets.

There are three tiers: the GPU, pinned host memory, and nothing. The latents are the truth; pages only cache what the
transformer computes from them. A page that is in no tier, or was made under an earlier prompt, is remade.

Copies run on their own stream. Two rules keep them in order with computation: before a copy starts, the copying stream
waits for everything queued on the computing stream (`_Copies.start`); before the computing stream touches pages again,
it waits for all copies (`_Copies.settle`). Before the host reads a page, it waits for them too (`_Copies.wait`). Copies
are in order among themselves.
"""

from __future__ import annotations

import math
import mmap
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from retrieval.budgets import PageBudgets, PageCounters, PagePrecision, host_slots

Key = tuple[int, int]  # (take of the batch, latent frame)
Remake = Callable[[int, Sequence[int]], Tensor]
Given = ParamSpec("Given")
Result = TypeVar("Result")
FLOAT8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class PageShape:
    """Shape of a page, [keys and values, layers, tokens, heads, head_dim], with the dtype and device it is used in."""

    layers: int
    tokens: int
    heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def sizes(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return (2, self.layers, self.tokens, self.heads, self.head_dim)

    @property
    def bytes(self) -> int:
        """Size in bytes as used by the transformer."""
        return torch.Size(self.sizes).numel() * self.dtype.itemsize

    def stored_bytes(self, precision: PagePrecision) -> int:
        """Size in bytes as stored in the host tier."""
        scales = 2 * self.layers * self.heads * torch.float32.itemsize if precision == "float8" else 0
        return torch.Size(self.sizes).numel() * self.stored_dtype(precision).itemsize + scales

    def stored_dtype(self, precision: PagePrecision) -> torch.dtype:
        """The host tier's dtype."""
        return {"same": self.dtype, "bfloat16": torch.bfloat16, "float8": FLOAT8}[precision]


@dataclass(frozen=True)
class HeldPage:
    """A page in a tier.

    Attributes:
        key: the take and latent frame it belongs to.
        serial: number of the write that put it there; pages of one cache with the same serial are equal.
        tensors: the page as stored in the tier, and its scales if it has any. Empty if only the serial is wanted.
    """

    key: Key
    serial: int
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class PagesHeld:
    """The whole state of a page cache.

    Attributes:
        prompt: number of prompts so far.
        writes: number of pages written to any tier.
        made_under: the prompt under which each resident page was made.
        gpu, host: the tiers' pages, least recently used first.
        counters: fields of `PageCounters`, for the whole batch.
    """

    prompt: int
    writes: int
    made_under: dict[Key, int]
    gpu: tuple[HeldPage, ...]
    host: tuple[HeldPage, ...]
    counters: dict[str, Any]

    def each_tensor(self, change: Callable[[Tensor], Tensor]) -> PagesHeld:
        """Apply `change` to every tensor, beginning with the GPU tier's."""
        gpu, host = (
            tuple(replace(page, tensors=tuple(map(change, page.tensors))) for page in tier)
            for tier in (self.gpu, self.host)
        )
        return replace(self, gpu=gpu, host=host)

    def of_take(self, take: int) -> PagesHeld:
        """One take's part of a batch, as take 0 of a batch of its own."""
        gpu, host = (
            tuple(replace(page, key=(0, page.key[1])) for page in tier if page.key[0] == take)
            for tier in (self.gpu, self.host)
        )
        made_under = {(0, frame): prompt for (owner, frame), prompt in self.made_under.items() if owner == take}
        return replace(self, made_under=made_under, gpu=gpu, host=host)


class PageCache:
    """Pages by take and latent frame.

    Args:
        shape: shape of every page.
        remake: maps (take, latent frames) to pages [N, 2, layers, tokens, heads, head_dim] under the current prompt. It
            is a method of the cache's owner, which the cache does not keep alive.
        budgets: budgets of the tiers.
        fetched_pages: maximum number of pages that one block fetches; on a GPU they pass through its tier.
        past_pages: maximum number of pages there can ever be; None if unknown.
        has_gpu_tier: default is whether pages are computed on a GPU.
    """

    def __init__(
        self,
        shape: PageShape,
        remake: Remake,
        budgets: PageBudgets,
        fetched_pages: int,
        has_gpu_tier: bool | None = None,
        past_pages: int | None = None,
    ) -> None:
        precision = budgets.precision
        on_gpu = shape.device.type == "cuda" if has_gpu_tier is None else has_gpu_tier
        gpu_pages = max(fetched_pages, budgets.on_gpu // shape.bytes) if on_gpu else 0
        host_pages = budgets.host_bytes // shape.stored_bytes(precision)
        self._slots_at_start = 0 if past_pages is None else host_slots(gpu_pages, host_pages, past_pages)
        self._remake = _not_owning(remake)
        self._remake_stale = budgets.remake_stale
        self._copies = _Copies(shape.device)
        self._gpu = _Tier(gpu_pages, lambda: _Slot(shape, "same", shape.device), _not_owning(self._demote))
        self._host = _Tier(host_pages, lambda: _Slot(shape, precision, torch.device("cpu")), _not_owning(self._lose))
        self._prompt = 0
        self._writes = 0
        self._made_under: dict[Key, int] = {}  # prompt of each resident page
        self._counters = PageCounters()

    def allocate(self) -> None:
        """Allocate up front the host memory that the take may need; allocating page by page would stall it."""
        self._host.allocate(self._slots_at_start)

    def prompt_changed(self) -> None:
        """Mark all pages so far as stale, because a cue took over."""
        self._prompt += 1

    def put(self, frame: int, page: Tensor, takes: Sequence[int] | None = None) -> None:
        """Keep a copy of `page` [2, layers, B, tokens, heads, head_dim] if a tier has room for it.

        Call `settle` before overwriting `page`.

        Args:
            takes: takes of the batch whose page to keep; None keeps all.
        """
        with self._copies.start():
            for take in range(page.shape[2]) if takes is None else takes:
                self._keep((take, frame), page[:, :, take])

    def settle(self) -> None:
        """Order all later computation after all copies so far."""
        self._copies.settle()

    def prefetch(self, wanted: Sequence[Sequence[int]]) -> None:
        """Start copying host pages to the GPU; `wanted` is, per take, the latent frames the next block will fetch."""
        keys = _keys(wanted)
        coming = [key for key in keys if key in self._host and key not in self._gpu and self._is_fresh(key)]
        if not self._gpu.capacity or not coming:
            return
        with self._copies.start():
            for key in coming:
                self._promote(key, keys)
        self._counters.prefetched += len(coming)

    def get(self, wanted: Sequence[Sequence[int]]) -> list[list[tuple[int, Tensor]]]:
        """Get, for each take, (frame, page [2, layers, tokens, heads, head_dim]) of the frames it wants, in that order.

        Pages are valid until the next `put`, `prefetch` or `get`.
        """
        keys = _keys(wanted)
        self._drop_stale(keys)
        self._counters.fetched += len(keys)
        self._counters.from_gpu += sum(key in self._gpu for key in keys)
        self._counters.from_host += sum(key in self._host and key not in self._gpu for key in keys)
        with self._copies.waited_for(), self._copies.start():
            pages = {key: page for key in keys if (page := self._resident(key, keys)) is not None}
        for take, frames in enumerate(wanted):
            missing = [frame for frame in dict.fromkeys(frames) if (take, frame) not in pages]
            if missing:
                pages.update(self._make_again(take, missing, keys))
        return [[(frame, pages[take, frame]) for frame in frames] for take, frames in enumerate(wanted)]

    def counters(self) -> PageCounters:
        """The counters so far; on CUDA this waits for copies to finish."""
        counters = self._counters
        counters.seconds_waited += self._copies.read_seconds_waited()
        counters.gpu_pages, counters.host_pages = len(self._gpu), len(self._host)
        counters.gpu_bytes, counters.host_bytes = self._gpu.bytes, self._host.bytes
        return replace(counters)

    # ---- checkpoints ----

    def bytes_of(self, take: int, known: Collection[int] = ()) -> int:
        """Size of a take's tensors in `contents`, without copying them."""
        return sum(
            slot.bytes
            for tier in (self._gpu, self._host)
            for key, slot in tier.slots()
            if key[0] == take and slot.serial not in known
        )

    def contents(self, known: Collection[int] = ()) -> PagesHeld:
        """A copy of the state; pages whose serial is in `known` come without their tensors."""
        self._copies.wait()
        return PagesHeld(
            prompt=self._prompt,
            writes=self._writes,
            made_under=dict(self._made_under),
            gpu=self._gpu.contents(known),
            host=self._host.contents(known),
            counters=asdict(self.counters()),
        )

    def restore(self, held: PagesHeld) -> None:
        """Restore the `contents` of another cache of the same shape; pages without room here will be remade.

        With the same budgets all pages have room, except that a GPU tier is smaller for a single take than for a batch.
        """
        self._prompt, self._writes, self._made_under = held.prompt, held.writes, dict(held.made_under)
        self._counters = PageCounters(**held.counters)
        for tier, pages in ((self._host, held.host), (self._gpu, held.gpu)):
            for page in pages:
                if slot := tier.claim(page.key, ()):
                    slot.fill(page)
        self._copies.settle()
        made_under = held.made_under.items()
        self._made_under = {key: prompt for key, prompt in made_under if key in self._gpu or key in self._host}

    # ---- internals: all but `_make_again` and `_drop_stale` run on the copying stream ----

    def _resident(self, key: Key, protected: Collection[Key]) -> Tensor | None:
        """The page on its device; None if it is in no tier."""
        if key in self._gpu:
            return self._gpu.use(key).read()
        if key not in self._host:
            return None
        return self._promote(key, protected) if self._gpu.capacity else self._host.use(key).read()

    def _promote(self, key: Key, protected: Collection[Key]) -> Tensor:
        page = self._host.use(key).read()  # keep the host's copy, so that dropping the GPU's is free
        slot = self._gpu.claim(key, protected)
        if slot is None:
            raise RuntimeError(f"the GPU tier has {self._gpu.capacity} pages, fewer than one block fetches")
        self._write(slot, page)
        return slot.read()

    def _write(self, slot: _Slot, page: Tensor) -> None:
        self._writes += 1
        self._counters.bytes_copied += slot.write(page, self._writes)

    def _keep(self, key: Key, page: Tensor, protected: Collection[Key] = ()) -> None:
        self._gpu.drop(key)
        self._host.drop(key)
        self._made_under[key] = self._prompt
        slot = self._gpu.claim(key, protected) or self._host.claim(key, protected)
        if slot is None:
            self._lose(key)
        else:
            self._write(slot, page)

    def _demote(self, key: Key, page: _Slot, protected: Collection[Key]) -> None:
        """Move a page whose GPU slot is needed to the host, unless the host already has it."""
        if key in self._host:
            return
        slot = self._host.claim(key, protected)
        if slot is None:
            self._lose(key)
        else:
            self._write(slot, page.read())

    def _lose(self, key: Key, _slot: _Slot | None = None, _protected: Collection[Key] = ()) -> None:
        """Drop a page whose host slot is needed, or that never had one."""
        if key not in self._gpu:
            self._counters.evicted += 1
            self._made_under.pop(key, None)

    def _make_again(self, take: int, frames: list[int], protected: Collection[Key]) -> dict[Key, Tensor]:
        made = self._remake(take, frames)
        self._counters.remade += len(frames)
        with self._copies.start():
            for frame, page in zip(frames, made, strict=True):
                self._keep((take, frame), page, protected)
        self._copies.settle()  # `made` must not be freed before this
        return {(take, frame): page for frame, page in zip(frames, made, strict=True)}

    def _drop_stale(self, keys: Collection[Key]) -> None:
        for key in keys:
            if key in self._made_under and not self._is_fresh(key):
                self._gpu.drop(key)
                self._host.drop(key)
                del self._made_under[key]
                self._counters.stale += 1

    def _is_fresh(self, key: Key) -> bool:
        return not self._remake_stale or self._made_under[key] == self._prompt


def _keys(wanted: Sequence[Sequence[int]]) -> dict[Key, None]:
    """All distinct (take, frame) pairs, in order."""
    return dict.fromkeys((take, frame) for take, frames in enumerate(wanted) for frame in frames)


class _Slot:
    """Room for one page in one tier, allocated once and reused."""

    def __init__(self, shape: PageShape, precision: PagePrecision, device: torch.device) -> None:
        self._shape = shape
        self.serial = 0
        is_pinned = device.type == "cpu" and shape.device.type == "cuda"
        new = _new_pinned if is_pinned else partial(torch.empty, device=device)
        self._data = new(shape.sizes, dtype=shape.stored_dtype(precision))
        self._scales: Tensor | None = None
        if precision == "float8":
            self._scales = new((2, shape.layers, 1, shape.heads, 1), dtype=torch.float32)

    @property
    def _tensors(self) -> list[Tensor]:
        return [self._data] if self._scales is None else [self._data, self._scales]

    @property
    def bytes(self) -> int:
        """Allocated bytes."""
        return sum(tensor.nbytes for tensor in self._tensors)

    def write(self, page: Tensor, serial: int) -> int:
        """Copy `page` here from any device and return the bytes written. Each write of a cache has its own serial."""
        self.serial = serial
        if self._scales is not None:
            scales = page.abs().amax(dim=(2, 4), keepdim=True).float().clamp_min(1e-12) / torch.finfo(FLOAT8).max
            self._scales.copy_(scales, non_blocking=True)
            page = (page / scales).to(FLOAT8)
        self._data.copy_(page, non_blocking=True)
        return self.bytes

    def content(self, key: Key, known: Collection[int]) -> HeldPage:
        """A copy of the stored page; without the tensors if its serial is known."""
        tensors = () if self.serial in known else tuple(tensor.detach().cpu().clone() for tensor in self._tensors)
        return HeldPage(key, self.serial, tensors)

    def fill(self, page: HeldPage) -> None:
        """Restore the content of another slot of this kind."""
        self.serial = page.serial
        for mine, theirs in zip(self._tensors, page.tensors, strict=True):
            mine.copy_(theirs)

    def read(self) -> Tensor:
        """The page on its computing device and in its computing dtype; a view if it is stored that way."""
        device, dtype = self._shape.device, self._shape.dtype
        data = self._data.to(device, non_blocking=True)
        if self._scales is None:
            return data.to(dtype)
        return (data.float() * self._scales.to(device, non_blocking=True)).to(dtype)


Leaving = Callable[[Key, _Slot, Collection[Key]], None]


class _Tier:
    """A fixed number of slots with least-recently-used eviction.

    Args:
        capacity: capacity in pages.
        new_slot: allocates a slot; called up to `capacity` times, when first needed.
        leaving: called with each evicted page, before its slot is reused, and with the pages protected meanwhile.
    """

    def __init__(self, capacity: int, new_slot: Callable[[], _Slot], leaving: Leaving) -> None:
        self.capacity = capacity
        self._new_slot, self._leaving = new_slot, leaving
        self._used: OrderedDict[Key, _Slot] = OrderedDict()
        self._free: list[_Slot] = []

    def __contains__(self, key: Key) -> bool:
        return key in self._used

    def __len__(self) -> int:
        return len(self._used)

    @property
    def bytes(self) -> int:
        """Allocated bytes, used or not."""
        return sum(slot.bytes for slot in (*self._used.values(), *self._free))

    def use(self, key: Key) -> _Slot:
        """The slot of a page, which becomes the most recently used one."""
        self._used.move_to_end(key)
        return self._used[key]

    def allocate(self, count: int) -> None:
        """Make sure that there are `count` slots, used or not, up to the capacity."""
        missing = min(count, self.capacity) - len(self._used) - len(self._free)
        self._free += [self._new_slot() for _ in range(missing)]

    def claim(self, key: Key, protected: Collection[Key]) -> _Slot | None:
        """Get a slot to write a page to; None if only protected pages could be evicted."""
        if key in self._used:
            return self.use(key)
        if self._free:
            slot = self._free.pop()
        elif len(self._used) < self.capacity:
            slot = self._new_slot()
        else:
            oldest = next((other for other in self._used if other not in protected), None)
            if oldest is None:
                return None
            slot = self._used.pop(oldest)
            self._leaving(oldest, slot, protected)
        self._used[key] = slot
        return slot

    def contents(self, known: Collection[int]) -> tuple[HeldPage, ...]:
        """Copies of its pages, least recently used first."""
        return tuple(slot.content(key, known) for key, slot in self.slots())

    def slots(self) -> Iterable[tuple[Key, _Slot]]:
        """Its pages' slots, least recently used first."""
        return self._used.items()

    def drop(self, key: Key) -> None:
        """Drop a page, if it is here."""
        if key in self._used:
            self._free.append(self._used.pop(key))


class _Copies:
    """The copying stream and its ordering with the computing stream; on a CPU everything is in order anyway."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._waits: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds_waited = 0.0

    @contextmanager
    def start(self) -> Iterator[None]:
        """Queue copies in the `with` body; they begin when all queued computation is done."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            yield

    def settle(self) -> None:
        """Make computation queued from now on wait for all copies."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def wait(self) -> None:
        """Wait for all copies so far, so that the host may read what they wrote."""
        if self._stream is not None:
            self._stream.synchronize()

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """Settle copies queued in the `with` body and before, and measure how long computation waits for them."""
        if self._stream is None:
            start_s = time.perf_counter()
            yield
            self._seconds_waited += time.perf_counter() - start_s
            return
        computing = torch.cuda.current_stream(self._stream.device)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record(computing)
        yield
        self.settle()
        end.record(computing)
        self._waits.append((start, end))

    def read_seconds_waited(self) -> float:
        """Seconds waited since the last reading."""
        for start, end in self._waits:
            end.synchronize()
            self._seconds_waited += start.elapsed_time(end) / 1000
        seconds, self._seconds_waited = self._seconds_waited, 0.0
        self._waits.clear()
        return seconds


def _not_owning(method: Callable[Given, Result]) -> Callable[Given, Result]:
    """Wrap a bound method without keeping its object alive.

    This avoids reference cycles, so that a finished take's memory is freed at once rather than at the next garbage
    collection: on a GPU, the next take may not fit next to it.
    """
    weak = weakref.WeakMethod(method)  # type: ignore[type-var]

    def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        bound = weak()
        if bound is None:
            raise RuntimeError("the page cache is used after its owner is gone")
        return bound(*args, **kwargs)

    return call


def _new_pinned(sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Allocate a page-locked host tensor; torch's pinned allocator would round its size up to a power of two.

    The system locks whole pages of memory, so the tensor shares none with anything else that may be locked.
    """
    count = math.prod(sizes) * dtype.itemsize
    room = torch.empty(count + 2 * mmap.PAGESIZE, dtype=torch.uint8)
    first = -room.data_ptr() % mmap.PAGESIZE
    tensor = room[first : first + count].view(dtype).view(sizes)
    cuda = torch.cuda.cudart()
    torch.cuda.check_error(cuda.cudaHostRegister(tensor.data_ptr(), count, 0))
    weakref.finalize(tensor, cuda.cudaHostUnregister, tensor.data_ptr())
    return tensor
