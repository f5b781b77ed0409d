"""What is done to a block once it is denoised: it is stored, decoded and handed on, behind the one being denoised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backbone.vae import TakeDecoder
from longlive_rag.generation.block import Block, NotFiniteError
from longlive_rag.generation.directions import Direction
from longlive_rag.generation.download import Download
from longlive_rag.generation.rollout import FinishedBlock
from longlive_rag.generation.stopwatch import Lap, Stopwatch
from longlive_rag.takes.resume import DueCheckpoints, TakeStore
from longlive_rag.timeline import Timeline
from retrieval.budgets import PageCounters
from retrieval.selection import selection_of
from retrieval.store import BlockRecord, BlockStore

HOST = torch.device("cpu")
LIKELY_CAUSES = "the weights, a LoRA, the prompts' embeddings, or the precision"
Decode = Callable[[TakeDecoder, Tensor, bool], Tensor]
"""Latents [B, T, C, h, w], and whether they begin a shot, to pixels [B, F, H, W, 3] uint8 on the CPU."""
Then = Callable[[Block], None]


@dataclass(frozen=True)
class MadeBlock:
    """A block as it comes from the rollout.

    Attributes:
        finished: what was made.
        latents, embeddings: its own, on their way to the host; no embeddings without memory.
        prompts: the words in charge, one a take.
        direction: what changed with it.
        pages: what the page cache has done until now.
        lap: time spent on it beside the rollout.
        due: what of the rollout's state has to be saved once it is decoded.
    """

    finished: FinishedBlock
    latents: Download
    embeddings: Download | None
    prompts: Sequence[str]
    direction: Direction
    pages: PageCounters | None
    lap: Lap
    due: DueCheckpoints | None


class TakeStores:
    """The stores of takes made side by side; blocks on their way there are read as if they had arrived.

    One thread says what comes and reads, another one appends.

    Args:
        stores: one a take; or none, and then nothing is kept.
        frames_per_block: latent frames of a block.

    Attributes:
        stores: see there.
    """

    def __init__(self, stores: Sequence[BlockStore], frames_per_block: int) -> None:
        self.stores, self._frames_per_block = tuple(stores), frames_per_block
        self._coming: dict[int, Tensor] = {}  # by block

    @property
    def checkpoint_is_asked(self) -> bool:
        """Whether some take wants one, wherever the next block ends."""
        return any(store.checkpoints.is_asked for store in self.stores if isinstance(store, TakeStore))

    def expect(self, block: int, latents: Tensor) -> None:
        """Latents [B, T, C, h, w] of a block that will be appended."""
        if self.stores:
            self._coming[block] = latents

    def append(self, records: Sequence[BlockRecord]) -> None:
        """Keep the next block of every take; once this returns, it is kept."""
        for store, record in zip(self.stores, records, strict=True):
            store.append(record)
        self._coming.pop(records[0].block, None)

    def latents(self, take: int, frames: Sequence[int]) -> NDArray[np.float32]:
        """Latents [N, C, h, w] float32 of a take's frames, which were all expected or appended."""
        coming = dict(self._coming)  # what leaves it from here on is in the stores
        places = [divmod(frame, self._frames_per_block) for frame in frames]
        stored = [frame for frame, (block, _) in zip(frames, places, strict=True) if block not in coming]
        read = iter(self.stores[take].latents(stored)) if stored else iter(())
        return np.stack(
            [
                coming[block][take, place].float().cpu().numpy() if block in coming else next(read)
                for block, place in places
            ]
        )


class Finishing:
    """The stages that blocks pass through, in this order; each may run in a thread of its own.

    Args:
        stores: where blocks are kept.
        timeline: of the takes.
        decoder: of them all; nobody else uses it meanwhile.
        decode: uses it.
        then: called with each block.
    """

    def __init__(
        self,
        stores: TakeStores,
        timeline: Timeline,
        decoder: TakeDecoder,
        decode: Decode,
        then: Then | None,
    ) -> None:
        self._stores, self._timeline = stores, timeline
        self._decoder, self._decode_block, self._then = decoder, decode, then

    @property
    def stages(self) -> Mapping[str, Callable[[Any], Any]]:
        """By name; the first takes a `MadeBlock`, the last returns a `Block`."""
        return {"store": self._store, "decode": self._decode, "hand on": self._hand_on}

    def _store(self, made: MadeBlock) -> tuple[MadeBlock, dict[str, float]]:
        """Keep a block; returns it and its seconds by stage until here."""
        latents, watch = made.latents.wait().numpy(), Stopwatch(HOST)
        if not np.isfinite(latents).all():
            index = made.finished.index
            raise NotFiniteError(f"block {index} holds values that are not finite numbers; look at {LIKELY_CAUSES}")
        seconds = made.finished.seconds
        if self._stores.stores:
            with watch.stage("store"):
                self._stores.append(self._records(made, latents, seconds))
        return made, {**seconds, **made.lap.read(), **watch.read()}

    def _records(self, made: MadeBlock, latents: NDArray[np.float32], seconds: dict[str, float]) -> list[BlockRecord]:
        finished = made.finished
        embeddings = None if made.embeddings is None else made.embeddings.wait().numpy()
        return [
            BlockRecord(
                block=finished.index,
                latents=latents[take],
                embeddings=None if embeddings is None else embeddings[take],
                selection=selection_of(finished.selections, take),
                entered=finished.entered[take] if finished.entered is not None else None,
                prompt=made.prompts[take],
                cue=made.direction.cue,
                seconds=seconds,
            )
            for take in range(len(latents))
        ]

    def _decode(self, stored: tuple[MadeBlock, dict[str, float]]) -> Block:
        """Pixels of a block; where a checkpoint is due, with what the decoder carries after it."""
        made, seconds = stored
        finished, watch = made.finished, Stopwatch(HOST)  # who decodes waits for the pixels
        numbers = self._timeline.pixels_of(finished.index)
        with watch.stage("decode"):
            pixels = self._decode_block(self._decoder, finished.latents, made.direction.cut)[:, : len(numbers)]
        if made.due is not None:
            with watch.stage("checkpoint"):
                made.due.save(self._decoder, made.latents.wait().numpy())
        for stage, value in watch.read().items():
            seconds[stage] = seconds.get(stage, 0.0) + value
        return Block(
            index=finished.index,
            frames=self._timeline.latents_of(finished.index),
            pixel_frames=numbers,
            latents=finished.latents,
            pixels=pixels,
            selections=finished.selections,
            entered=finished.entered,
            prompt=made.prompts[0],
            cue=made.direction.cue,
            seconds=seconds,
            pages=made.pages,
        )

    def _hand_on(self, block: Block) -> Block:
        if self._then is not None:
            self._then(block)
        return block
