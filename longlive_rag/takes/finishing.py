"""Finishing a denoised block (store, decode, hand on) while the next one is denoised."""

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
from longlive_rag.generation.rollout import FinishedBlock, Rollout
from longlive_rag.generation.stopwatch import Lap, Stopwatch
from longlive_rag.takes.checkpoints import Checkpoints
from longlive_rag.takes.resume import DueCheckpoints, TakeStore
from longlive_rag.timeline import Timeline
from retrieval.budgets import PageCounters
from retrieval.selection import selection_of
from retrieval.store import BlockRecord, BlockStore

HOST = torch.device("cpu")
Decode = Callable[[TakeDecoder, Tensor, bool], Tensor]
"""Decodes latents [B, T, C, h, w], given whether they begin a shot, to pixels [B, F, H, W, 3] uint8 on the CPU."""
Then = Callable[[Block], None]


@dataclass(frozen=True)
class MadeBlock:
    """A block as it comes from the rollout.

    Attributes:
        finished: the block.
        latents, embeddings: the block's, being copied to the host; no embeddings without memory.
        prompts: the current prompts, one per take.
        direction: what changed with this block.
        pages: counters of the page cache so far.
        lap: time spent on the block outside the rollout.
        due: state of the rollout to save once the block is decoded.
    """

    finished: FinishedBlock
    latents: Download
    embeddings: Download | None
    prompts: Sequence[str]
    direction: Direction
    pages: PageCounters | None
    lap: Lap
    due: DueCheckpoints | None

    @classmethod
    def of(
        cls,
        finished: FinishedBlock,
        prompts: Sequence[str],
        direction: Direction,
        rollout: Rollout,
        due: Mapping[int, Checkpoints],
        watch: Stopwatch,
    ) -> MadeBlock:
        """Start a block's downloads, and collect what is only known until the next block begins."""
        latents = Download(finished.latents.float())
        embeddings = None if finished.embeddings is None else Download(finished.embeddings.float())
        half = None
        if due:
            with watch.stage("checkpoint"):
                half = DueCheckpoints.begin(due, rollout)
        return cls(finished, latents, embeddings, prompts, direction, rollout.page_counters(), watch.lap(), half)


class TakeStores:
    """The stores of takes made side by side; blocks on their way there can already be read.

    One thread announces blocks and reads; another one appends.

    Args:
        stores: one per take, or none to keep nothing.
        frames_per_block: latent frames per block.

    Attributes:
        stores: as given.
    """

    def __init__(self, stores: Sequence[BlockStore], frames_per_block: int) -> None:
        self.stores, self._frames_per_block = tuple(stores), frames_per_block
        self._coming: dict[int, Tensor] = {}  # by block

    @property
    def checkpoint_is_asked(self) -> bool:
        """Whether a checkpoint was requested for some take, whatever the next block's number."""
        return any(store.checkpoints.is_asked for store in self.stores if isinstance(store, TakeStore))

    def expect(self, block: int, latents: Tensor) -> None:
        """Announce latents [B, T, C, h, w] of a block that will be appended."""
        if self.stores:
            self._coming[block] = latents

    def append(self, records: Sequence[BlockRecord]) -> None:
        """Store the next block of every take; once this returns, it is stored."""
        for store, record in zip(self.stores, records, strict=True):
            store.append(record)
        self._coming.pop(records[0].block, None)

    def latents(self, take: int, frames: Sequence[int]) -> NDArray[np.float32]:
        """Latents [N, C, h, w] float32 of a take's frames, all of which must be announced or appended."""
        coming = dict(self._coming)  # blocks removed from it later are in the stores
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
    """The stages that blocks pass through, in order; each may run in its own thread.

    Args:
        stores: the takes' stores.
        timeline: timeline of the takes.
        decoder: decoder of all takes, which nothing else may use meanwhile.
        decode: decodes with it.
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
        """The stages by name; the first takes a `MadeBlock`, the last returns a `Block`."""
        return {"store": self._store, "decode": self._decode, "hand on": self._hand_on}

    def _store(self, made: MadeBlock) -> tuple[MadeBlock, dict[str, float]]:
        """Store a block, and return it with its seconds by stage so far."""
        latents, watch = made.latents.wait().numpy(), Stopwatch(HOST)
        if not np.isfinite(latents).all():
            raise NotFiniteError.of_block(made.finished.index)
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
        """Decode a block, and save a due checkpoint with the decoder's state after it."""
        made, seconds = stored
        finished, watch = made.finished, Stopwatch(HOST)  # decoding waits for the pixels, so host time is right
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
