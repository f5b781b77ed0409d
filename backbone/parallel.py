"""Sequence parallelism for one take on several processes, as in DeepSpeed-Ulysses (Jacobs et al., arXiv 2309.14509).

Each frame's tokens are divided among the ranks. Around self-attention, tokens are exchanged for heads: a rank attends
with its own heads over all tokens and caches only their keys and values. Everything else (normalisation, which is
across all heads, cross-attention, feed-forward) is computed for a rank's own tokens. Methods that communicate must be
called by all ranks, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from backbone.errors import FieldError

if TYPE_CHECKING:
    from backbone.attention import AttentionCall
    from backbone.transformer import SelfContext

PATIENCE = timedelta(days=30)
"""Timeout for other ranks: long, because a user may take a while to decide what comes next. A dead rank is noticed."""
HEADS_AXIS = -2
"""The heads' axis in pages and in everything stored of them."""


def check_divides(gpus: int, heads: int, tokens_per_frame: int) -> None:
    """Raise FieldError unless heads and tokens can be divided evenly among the ranks."""
    if heads % gpus or tokens_per_frame % gpus:
        fitting = [str(size) for size in range(1, heads + 1) if heads % size == 0 and tokens_per_frame % size == 0]
        shown = f"{gpus}, which does not divide this backbone's {heads} heads and {tokens_per_frame} tokens per frame"
        raise FieldError("gpus", gpus, f"use {', '.join(fitting)}", shown)


@dataclass(frozen=True)
class Ranks:
    """This process among those making a take together, over the default process group of `torch.distributed`.

    Attributes:
        rank: rank of this process, from 0.
        size: number of ranks.
    """

    rank: int
    size: int

    @classmethod
    def join(cls, rank: int, size: int, device: torch.device, store: dist.Store | None = None) -> Ranks:
        """Join the other ranks, at `store` or as set in the environment (see torchrun), and wait for all of them.

        Args:
            device: device of this rank. Tensors on the host are sent by gloo, those on GPUs by NCCL.
        """
        backend = "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        return cls(rank, size)

    def leave(self) -> None:
        """Leave the process group."""
        dist.destroy_process_group()

    # ---- within a pass ----

    def own_tokens(self, x: Tensor, frames: int) -> Tensor:
        """This rank's part [B, tokens / size, ...] of the tokens [B, tokens, ...] of `frames` frames."""
        return x.unflatten(1, (frames, self.size, -1))[:, :, self.rank].flatten(1, 2)

    def all_tokens(self, x: Tensor, frames: int) -> Tensor:
        """Gather all tokens [B, tokens, width] from each rank's [B, tokens / size, width]."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous())
        return torch.stack([part.unflatten(1, (frames, -1)) for part in parts], dim=2).flatten(1, 3)

    def to_heads(self, tensors: Sequence[Tensor], frames: int) -> list[Tensor]:
        """Exchange own tokens [B, tokens / size, heads, head_dim] for own heads [B, tokens, heads / size, head_dim]."""
        x = torch.stack(list(tensors)).unflatten(3, (self.size, -1)).movedim(3, 0)
        parts = self._exchange(x).unflatten(3, (frames, -1))  # [from, tensor, B, frame, token, head, head_dim]
        return list(parts.permute(1, 2, 3, 0, 4, 5, 6).flatten(2, 4).unbind())

    def to_tokens(self, x: Tensor, frames: int) -> Tensor:
        """Exchange own heads [B, tokens, heads / size, head_dim] for own tokens [B, tokens / size, heads, head_dim]."""
        x = x.unflatten(1, (frames, self.size, -1)).movedim(2, 0)
        return self._exchange(x).permute(1, 2, 3, 0, 4, 5).flatten(3, 4).flatten(1, 2)

    def _exchange(self, x: Tensor) -> Tensor:
        """Send x[r] to rank r; entry r of the result comes from rank r."""
        x = x.contiguous()
        received = torch.empty_like(x)
        dist.all_to_all_single(received, x)
        return received

    def exchanging(self, contexts: Sequence[SelfContext], frames: int) -> list[SelfContext]:
        """Wrap contexts for a rank's own heads as contexts for its own tokens."""
        return [Exchanged(context, self, frames) for context in contexts]

    # ---- between passes ----

    def same(self, x: Tensor) -> Tensor:
        """Replace this rank's tensor by rank 0's, which has the same shape."""
        x = x.contiguous()
        dist.broadcast(x, 0)
        return x

    def check_agree(self, value: Any, what: str) -> None:
        """Raise RuntimeError unless this rank's value equals rank 0's; otherwise ranks would diverge."""
        theirs = self.tell(value)
        if theirs != value:
            raise RuntimeError(f"rank {self.rank} differs from rank 0 in {what}: {value} instead of {theirs}")

    def tell(self, value: Any = None) -> Any:
        """Broadcast rank 0's value and return it; the other ranks wait for it."""
        told = [value]
        dist.broadcast_object_list(told, 0, device=torch.device("cpu"))
        return told[0]

    def least(self, value: int) -> int:
        """The minimum of all ranks' values."""
        values = torch.tensor(value)
        dist.all_reduce(values, dist.ReduceOp.MIN)
        return int(values)

    def whole_heads(self, part: Tensor) -> Tensor:
        """Gather the heads of all ranks into one host tensor on rank 0; other ranks get an empty tensor."""
        sent = _as_bytes(part)
        received = [torch.empty_like(sent) for _ in range(self.size)] if self.rank == 0 else None
        dist.gather(sent, received, 0)
        if received is None:
            return part.new_empty(0, device="cpu")
        return torch.cat([_from_bytes(each, part.shape, part.dtype) for each in received], HEADS_AXIS)

    def own_heads(self, whole: Tensor) -> Tensor:
        """This rank's heads of rank 0's tensor; on other ranks, `whole` only gives shape and dtype."""
        shape = list(whole.shape)
        shape[HEADS_AXIS] //= self.size
        own = torch.empty(shape, dtype=whole.dtype)
        received = _as_bytes(own)
        parts = [_as_bytes(part) for part in whole.chunk(self.size, HEADS_AXIS)] if self.rank == 0 else None
        dist.scatter(received, parts, 0)
        return _from_bytes(received, shape, whole.dtype)


@dataclass(frozen=True)
class Exchanged:
    """A layer's self-attention for a rank's own tokens.

    Attributes:
        inner: the layer's context for the rank's own heads.
        ranks: the ranks that exchange.
        frames: number of frames in the sequence.
    """

    inner: SelfContext
    ranks: Ranks
    frames: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attention: AttentionCall) -> Tensor:
        """See `SelfContext`; for own tokens."""
        query, key, value = self.ranks.to_heads((query, key, value), self.frames)
        return self.ranks.to_tokens(self.inner.attend(query, key, value, attention), self.frames)

    def write(self, key: Tensor, value: Tensor) -> None:
        """See `SelfContext`; for own tokens."""
        key, value = self.ranks.to_heads((key, value), self.frames)
        self.inner.write(key, value)


def _as_bytes(x: Tensor) -> Tensor:
    """Convert to bytes on the host, as gloo does not support every dtype."""
    return x.detach().cpu().contiguous().flatten().view(torch.uint8)


def _from_bytes(x: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return x.view(dtype).view(shape)
