"""Memory without retrieval: as many past frames, but random or the newest. If these do as well, it was more context.

Memory searches by an encoder; a control is an encoder whose similarities say something else. So the pipeline needs to
know nothing of them, and all else (guard, budget, positions) stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from longlive_rag.pipeline import LongLiveRAGPipeline

RANDOM_DIMENSIONS = 64
FRAMES_IN_HALF_A_TURN = 2048  # latent frames that float32 cosines can order: 8 minutes at 16 frames a second


class _Keys:
    """What the pipeline asks of an encoder besides `encode`."""

    def to(self, device: torch.device) -> _Keys:
        """Keys are made on the CPU, where the index is."""
        return self

    def encode(self, latents: Tensor) -> Tensor:
        """Latent frames [..., T, C, h, w], called once a block, to unit vectors [..., T, D]."""
        raise NotImplementedError


class RandomKeys(_Keys):
    """A random unit vector for every latent frame: which are most similar is chance, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed % 2**63)

    def encode(self, latents: Tensor) -> Tensor:
        """[..., T, C, h, w] to [..., T, 64]."""
        keys = torch.randn(*latents.shape[:-3], RANDOM_DIMENSIONS, generator=self._generator)
        return torch.nn.functional.normalize(keys, dim=-1)


class RecencyKeys(_Keys):
    """Unit vectors that turn by a small angle a frame: the nearer in time, the more similar."""

    def __init__(self) -> None:
        self._frames_done = 0

    def encode(self, latents: Tensor) -> Tensor:
        """[..., T, C, h, w] to [..., T, 2]."""
        count = latents.shape[-4]
        if self._frames_done + count > FRAMES_IN_HALF_A_TURN:
            raise ValueError(f"retrieval 'recent' can order {FRAMES_IN_HALF_A_TURN} latent frames; make a shorter take")
        numbers = torch.arange(self._frames_done, self._frames_done + count, dtype=torch.float64)
        self._frames_done += count
        angles = numbers * math.pi / FRAMES_IN_HALF_A_TURN
        keys = torch.stack([angles.cos(), angles.sin()], dim=-1).float()
        return keys.expand(*latents.shape[:-4], count, 2)


@contextmanager
def retrieval_of(pipe: LongLiveRAGPipeline, retrieval: str, seed: int) -> Iterator[None]:
    """The pipeline retrieves by `retrieval` (similar, random, recent) for one take inside the `with` body."""
    if retrieval == "similar":
        yield
        return
    own = pipe.encoder
    pipe.encoder = RandomKeys(seed) if retrieval == "random" else RecencyKeys()
    try:
        yield
    finally:
        pipe.encoder = own
