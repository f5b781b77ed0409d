"""Copies of tensors from a GPU to the host that don't stall later computation."""

from __future__ import annotations

import torch
from torch import Tensor


class Download:
    """A copy to the host in progress; any thread may wait for it.

    Args:
        tensor: a tensor on any device, which must not change until the copy is complete. On the host, it is not copied.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._host, self._done = tensor, None
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor.contiguous(), non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Tensor:
        """Wait for the tensor on the host. If copied from a GPU it is page-locked, so keep a clone instead."""
        if self._done is not None:
            self._done.synchronize()
        return self._host
