"""Tensors on their way from a GPU to the host, without a stall of what computes next."""

from __future__ import annotations

import torch
from torch import Tensor


class Download:
    """A copy to the host that has begun; only who needs it waits for it, in whatever thread.

    Args:
        tensor: on any device; nothing may write to it until the copy is there. One on the host is not copied.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._host, self._done = tensor, None
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor.contiguous(), non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Tensor:
        """The tensor on the host; of a GPU's it is page-locked, so keep a clone of it rather than itself."""
        if self._done is not None:
            self._done.synchronize()
        return self._host
