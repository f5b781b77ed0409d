"""A finished block, as passed to code that shows or stores it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from retrieval.budgets import PageCounters
from retrieval.selection import Selection

LIKELY_CAUSES = "the weights, a LoRA, the prompts' embeddings, or the precision"


class NotFiniteError(ArithmeticError):
    """The model produced values that are not finite; every frame from there on would be unusable."""

    @classmethod
    def of_block(cls, index: int) -> NotFiniteError:
        """The error that says so of a block."""
        return cls(f"block {index} holds values that are not finite numbers; look at {LIKELY_CAUSES}")


@dataclass(frozen=True)
class Block:
    """A finished block of a take, or of several takes made side by side.

    Attributes:
        index: number of the block, from 0.
        frames: its latent frames, numbered in the take.
        pixel_frames: its pixel frames, numbered in the take and trimmed to the requested length.
        latents: [B, T, C, h, w] float32, normalised as the transformer sees them.
        pixels: [B, F, H, W, 3] uint8 on the CPU.
        selections: what was retrieved, one per take; empty while there is nothing to retrieve.
        entered: for each take, the latent frames that have entered memory since the previous block; None without
            memory, and for blocks stored by an older version.
        prompt: the current prompt of the first take.
        cue: number of the cue (from 1) that takes over at this block, else None.
        seconds: time spent, by stage.
        pages: what the page cache has done since the take began; None without memory.
    """

    index: int
    frames: range
    pixel_frames: range
    latents: Tensor
    pixels: Tensor
    selections: tuple[Selection, ...]
    entered: tuple[tuple[int, ...], ...] | None
    prompt: str
    cue: int | None
    seconds: dict[str, float]
    pages: PageCounters | None = None
