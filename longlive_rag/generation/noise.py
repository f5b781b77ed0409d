"""Noise from a counter-based generator, so that no draw depends on how many came before it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class TakeSeeds:
    """The seed of each take of a batch, block by block.

    Attributes:
        seeds: one per take, each in 0..2**64 - 1.
        reseeds: {block: seed from there on}, for all takes.
    """

    seeds: tuple[int, ...]
    reseeds: Mapping[int, int] = field(default_factory=dict)

    def at(self, block: int) -> tuple[int, ...]:
        """The seeds in force at a block."""
        since = max((start for start in self.reseeds if start <= block), default=None)
        return self.seeds if since is None else (self.reseeds[since],) * len(self.seeds)


@dataclass(frozen=True)
class PolicySeeds:
    """What policies that draw are seeded by: a number for each take, from its seed at the block and its first words.

    So a take draws the same frames in a batch as alone, and other takes of one seed draw others.

    Attributes:
        takes: the takes' seeds.
        prompts: their first prompts.
    """

    takes: TakeSeeds
    prompts: tuple[str, ...]

    def __call__(self, block: int) -> tuple[int, ...]:
        """The numbers at a block, one per take."""
        own = zip(self.takes.at(block), self.prompts, strict=True)
        return tuple(
            int.from_bytes(hashlib.sha256(f"{seed} {prompt}".encode()).digest()[:8], "big") for seed, prompt in own
        )


class PhiloxNoise:
    """Philox 4x64 (Salmon et al., SC 2011), keyed by the seed, with its counter starting at (step, block).

    The noise is the same on every machine and device, and a 120 s take begins with the same noise as a 30 s take.

    Args:
        seeds: one per take of the batch, each in 0..2**64 - 1.
        reseeds: {block: seed from there on}, for all takes.
    """

    name = "philox4x64/numpy"

    def __init__(self, seeds: Sequence[int], reseeds: Mapping[int, int] | None = None) -> None:
        self._seeds = TakeSeeds(tuple(seeds), dict(reseeds or {}))

    def __call__(self, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        counter = _words(0, 0, step, block)
        keyed = [np.random.Philox(key=_words(seed, 0), counter=counter) for seed in self._seeds.at(block)]
        draws = [np.random.Generator(source).standard_normal(shape, dtype=np.float32) for source in keyed]
        return torch.from_numpy(np.stack(draws))


def _words(*numbers: int) -> NDArray[np.uint64]:
    """Convert numbers for Philox; NumPy would turn a list with numbers of 2**63 or more into floats."""
    return np.array(numbers, np.uint64)
