"""One take on several processes: sequence parallelism as in DeepSpeed-Ulysses (Jacobs et al., arXiv 2309.14509).

Each frame's tokens are divided among the ranks. Around self-attention they are exchanged for heads: a rank attends with
its own heads over all tokens, and caches the keys and values of these alone. All else (normalisation, which is across
all heads, cross-attention, feed-forward) is worked out for a rank's own tokens. Every method that exchanges anything
is called by all ranks, in the same order.
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
"""How long a rank waits for others: as long as someone thinks about what comes next. One that ends is noticed."""
HEADS_AXIS = -2
"""Of pages and all that is kept of them."""


def check_divides(gpus: int, heads: int, tokens_per_frame: int) -> None:
    """Raise FieldError unless heads and tokens can be divided among so many ranks."""
    if heads % gpus or tokens_per_frame % gpus:
        fitting = [str(size) for size in range(1, heads + 1) if heads % size == 0 and tokens_per_frame % size == 0]
        shown = f"{gpus}, which does not divide this backbone's {heads} heads and {tokens_per_frame} tokens a frame"
        raise FieldError("gpus", gpus, f"use {', '.join(fitting)}", shown)


@dataclass(frozen=True)
class Ranks:
    """This process among those that make a take together, over the default process group of `torch.distributed`.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
    """

    rank: int
    size: int

    @classmethod
    def join(cls, rank: int, size: int, device: torch.device, store: dist.Store | None = None) -> Ranks:
        """Meet the other ranks, at `store` or where the environment says (see torchrun); returns when all are there.

        Args:
            device: of this rank. Tensors on the host go by gloo, those on GPUs by NCCL.
        """
        backend = "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        return cls(rank, size)

    def leave(self) -> None:
        """Part from the other ranks."""
        dist.destroy_process_group()

    # ---- within a pass ----

    def own_tokens(self, x: Tensor, frames: int) -> Tensor:
        """This rank's part [B, tokens / size, ...] of the tokens [B, tokens, ...] of so many frames."""
        return x.unflatten(1, (frames, self.size, -1))[:, :, self.rank].flatten(1, 2)

    def all_tokens(self, x: Tensor, frames: int) -> Tensor:
        """The tokens [B, tokens, width] of which each rank has [B, tokens / size, width]."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous())
        return torch.stack([part.unflatten(1, (frames, -1)) for part in parts], dim=2).flatten(1, 3)

    def to_heads(self, tensors: Sequence[Tensor], frames: int) -> list[Tensor]:
        """Own tokens [B, tokens / size, heads, head_dim] to own heads [B, tokens, heads / size, head_dim], each."""
        x = torch.stack(list(tensors)).unflatten(3, (self.size, -1)).movedim(3, 0)
        parts = self._exchange(x).unflatten(3, (frames, -1))  # [from, tensor, B, frame, token, head, head_dim]
        return list(parts.permute(1, 2, 3, 0, 4, 5, 6).flatten(2, 4).unbind())

    def to_tokens(self, x: Tensor, frames: int) -> Tensor:
        """Own heads [B, tokens, heads / size, head_dim] to own tokens [B, tokens / size, heads, head_dim]."""
        x = x.unflatten(1, (frames, self.size, -1)).movedim(2, 0)
        return self._exchange(x).permute(1, 2, 3, 0, 4, 5).flatten(3, 4).flatten(1, 2)

    def _exchange(self, x: Tensor) -> Tensor:
        """x[r] goes to rank r; the result's [r] comes from rank r."""
        x = x.contiguous()
        received = torch.empty_like(x)
        dist.all_to_all_single(received, x)
        return received

    def exchanging(self, contexts: Sequence[SelfContext], frames: int) -> list[SelfContext]:
        """Contexts for a rank's own tokens, from those for its own heads."""
        return [Exchanged(context, self, frames) for context in contexts]

    # ---- between passes ----

    def same(self, x: Tensor) -> Tensor:
        """Rank 0's tensor, of which each rank has one of this shape."""
        x = x.contiguous()
        dist.broadcast(x, 0)
        return x

    def check_agree(self, value: Any, what: str) -> None:
        """Raise RuntimeError unless each rank has rank 0's value, since what follows would not fit together."""
        theirs = self.tell(value)
        if theirs != value:
            raise RuntimeError(f"rank {self.rank} has other {what} than rank 0: {value} instead of {theirs}")

    def tell(self, value: Any = None) -> Any:
        """What rank 0 calls this with; other ranks wait for it."""
        told = [value]
        dist.broadcast_object_list(told, 0, device=torch.device("cpu"))
        return told[0]

    def least(self, value: int) -> int:
        """The least of all ranks' values."""
        values = torch.tensor(value)
        dist.all_reduce(values, dist.ReduceOp.MIN)
        return int(values)

    def whole_heads(self, part: Tensor) -> Tensor:
        """On rank 0 the tensor, on the host, of which each rank has its own heads; on other ranks an empty one."""
        sent = _as_bytes(part)
        received = [torch.empty_like(sent) for _ in range(self.size)] if self.rank == 0 else None
        dist.gather(sent, received, 0)
        if received is None:
            return part.new_empty(0, device="cpu")
        return torch.cat([_from_bytes(each, part.shape, part.dtype) for each in received], HEADS_AXIS)

    def own_heads(self, whole: Tensor) -> Tensor:
        """This rank's heads of rank 0's tensor; other ranks know its shape and dtype, and may have it without data."""
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
        inner: the layer's context, of the rank's own heads.
        ranks: who exchanges.
        frames: of the sequence.
    """

    inner: SelfContext
    ranks: Ranks
    frames: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attention: AttentionCall) -> Tensor:
        """As `SelfContext` says, of own tokens."""
        query, key, value = self.ranks.to_heads((query, key, value), self.frames)
        return self.ranks.to_tokens(self.inner.attend(query, key, value, attention), self.frames)

    def write(self, key: Tensor, value: Tensor) -> None:
        """As `SelfContext` says, of own tokens."""
        key, value = self.ranks.to_heads((key, value), self.frames)
        self.inner.write(key, value)


def _as_bytes(x: Tensor) -> Tensor:
    """On the host; gloo does not know every dtype."""
    return x.detach().cpu().contiguous().flatten().view(torch.uint8)


def _from_bytes(x: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return x.view(dtype).view(shape)
