"""Noise from a counter-based generator, so that no draw depends on how many came before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class NoiseSource(Protocol):
    """Gaussian noise for a step of a block."""

    def __call__(self, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """Draw noise [B, *shape], float32, on the host: initial noise at step 0, fresh noise at later steps."""
        ...


class PhiloxNoise:
    """Philox 4x64 (Salmon et al., SC 2011), keyed by the seed, with its counter starting at (step, block).

    The noise is the same on every machine and device, and a 120 s take begins with the same noise as a 30 s take.

    Args:
        seeds: one per take of the batch, each in 0..2**64 - 1.
        reseeds: {block: seed from there on}, for all takes.
    """

    name = "philox4x64/numpy"

    def __init__(self, seeds: Sequence[int], reseeds: Mapping[int, int] | None = None) -> None:
        self._seeds = tuple(seeds)
        self._reseeds = dict(reseeds or {})

    def __call__(self, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        counter = _words(0, 0, step, block)
        keyed = [np.random.Philox(key=_words(seed, 0), counter=counter) for seed in self._seeds_of(block)]
        draws = [np.random.Generator(source).standard_normal(shape, dtype=np.float32) for source in keyed]
        return torch.from_numpy(np.stack(draws))

    def _seeds_of(self, block: int) -> tuple[int, ...]:
        since = max((start for start in self._reseeds if start <= block), default=None)
        return self._seeds if since is None else (self._reseeds[since],) * len(self._seeds)


def _words(*numbers: int) -> NDArray[np.uint64]:
    """Convert numbers for Philox; NumPy would turn a list with numbers of 2**63 or more into floats."""
    return np.array(numbers, np.uint64)
