"""Pages: the cached keys and values of latent frames that have left the window."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class PageStore(Protocol):
    """Keeps pages by frame number. The latents are the truth; a page can always be made again from them."""

    def put(self, frame: int, page: Tensor) -> None:
        """Keep a copy of `page` [2, layers, B, tokens, heads, head_dim] (keys not rotated)."""
        ...

    def get(self, frame: int) -> Tensor:
        """The page of `frame`, wherever it lies; KeyError if it was never put."""
        ...


class HostPages:
    """Every page in host memory, pinned when it came from a GPU."""

    def __init__(self) -> None:
        self._pages: dict[int, Tensor] = {}

    def put(self, frame: int, page: Tensor) -> None:
        """Keep a copy of `page` in host memory."""
        copy = torch.empty(page.shape, dtype=page.dtype, pin_memory=page.is_cuda)
        self._pages[frame] = copy.copy_(page)

    def get(self, frame: int) -> Tensor:
        """The page of `frame`, on the host; KeyError if it was never put."""
        return self._pages[frame]

    @property
    def bytes(self) -> int:
        """Host bytes held."""
        return sum(page.nbytes for page in self._pages.values())
