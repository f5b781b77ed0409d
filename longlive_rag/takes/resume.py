"""Resuming a take: saving what that requires, and bringing a rollout and a decoder to the end of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backbone.vae import TakeDecoder
from longlive_rag.generation.block import Block
from longlive_rag.generation.rollout import Rollout, RolloutState
from longlive_rag.generation.rollout_memory import RememberedFrames
from longlive_rag.generation.stopwatch import Stopwatch
from longlive_rag.media.start_image import StartImage
from longlive_rag.rights.policy import LicensePolicy
from longlive_rag.rights.records import FileRights
from longlive_rag.takes.checkpoints import Checkpoints
from longlive_rag.timeline import Timeline
from retrieval.budgets import PageCounters
from retrieval.store import BlockRecord, BlockStore

LIGHT_WINDOWS = 2
"""In mode `light`, the commits of this many windows are rerun, over pages recomputed from latents."""


@runtime_checkable
class TakeStore(BlockStore, Protocol):
    """A store of a whole take, which knows what it has shown and keeps what resuming requires."""

    @property
    def blocks_shown(self) -> int:
        """Number of blocks whose pixels it has; later ones are handed out again."""
        ...

    @property
    def checkpoints(self) -> Checkpoints:
        """The take's checkpoints."""
        ...

    def keep_rights(self, policy: LicensePolicy, loaded: Sequence[FileRights]) -> None:
        """Record the files that the take is made with from here on, and the policy they were loaded under."""
        ...

    def keep_inputs(self, start_image: StartImage | None, remembered: RememberedFrames | None) -> None:
        """Keep the take's inputs, to be written with its first block."""
        ...

    def keep_page_budget(self, gpu_bytes: int) -> None:
        """Keep the automatic budget of its pages on the GPU."""
        ...

    def kept_page_budget(self) -> int | None:
        """The automatic budget when it was begun; None if it was set, or it ran on a CPU."""
        ...

    def kept_start_image(self) -> StartImage | None:
        """The stored start image."""
        ...

    def kept_remembered(self) -> RememberedFrames | None:
        """The stored frames of other takes that it remembers."""
        ...


@dataclass(frozen=True)
class DueCheckpoints:
    """Checkpoints in progress: the rollout's state right after a block, still without the decoder's.

    Attributes:
        takes: checkpoints of takes that should save one, by take of the batch.
        state: state of the rollout.
    """

    takes: Mapping[int, Checkpoints]
    state: RolloutState

    @classmethod
    def begin(cls, takes: Mapping[int, Checkpoints], rollout: Rollout) -> DueCheckpoints | None:
        """Copy the rollout's state; the checkpoints of earlier blocks must already be saved.

        Takes without room in their budget are skipped before anything is copied; None if none is left.
        """
        due = {
            take: checkpoints
            for take, checkpoints in takes.items()
            if checkpoints.has_room(rollout.state_bytes(take, checkpoints.known_pages))
        }
        if not due:
            return None
        return cls(due, rollout.state({page for each in due.values() for page in each.known_pages}))

    def save(self, decoder: TakeDecoder, newest_latents: NDArray[np.float32]) -> None:
        """Save each take's part.

        Args:
            decoder: must have decoded the same blocks.
            newest_latents: [B, T, C, h, w] of the newest block.
        """
        features = decoder.features()
        for take, checkpoints in self.takes.items():
            own = {number: feature[take : take + 1] for number, feature in features.items()}
            checkpoints.save(self.state.of_take(take), own, newest_latents[take])


def due_checkpoints(stores: Sequence[BlockStore], blocks: int) -> dict[int, Checkpoints]:
    """The checkpoints of takes that should save one after this many blocks, by take of the batch.

    Those of earlier blocks must already be saved.
    """
    takes = {number: store.checkpoints for number, store in enumerate(stores) if isinstance(store, TakeStore)}
    return {number: checkpoints for number, checkpoints in takes.items() if checkpoints.is_due(blocks)}


def resume_rollout(
    rollout: Rollout,
    store: BlockStore,
    frames_per_block: int,
    window_frames: int,
    prompt_at: Callable[[int], tuple[Tensor | None, bool]],
) -> int:
    """Bring a new rollout to the end of the blocks in `store`.

    Args:
        prompt_at: maps a block to the prompt [1, tokens, text_dim] that takes over there, or None, and whether it
            begins another shot.

    Returns:
        The number of blocks that were rerun.

    Raises:
        DamagedError: if a stored block is damaged.
    """
    done = store.blocks
    checkpoints = store.checkpoints if isinstance(store, TakeStore) else None
    state = None
    if checkpoints is None or checkpoints.reruns_all:
        state = checkpoints.newest_state(done, lambda block: store.record(block).latents) if checkpoints else None
        known = state.blocks if state else 0
    else:
        known = max(0, done - LIGHT_WINDOWS * -(-window_frames // frames_per_block))

    def begin() -> None:
        if state is not None:
            rollout.restore(state)
        elif known:
            rollout.rebuild()

    for block in range(done):
        record, (prompt, cut) = store.record(block), prompt_at(block)
        latents = torch.from_numpy(record.latents)[None]
        embeddings = None if record.embeddings is None else record.embeddings[None]
        selections = (record.selection,) if record.selection else ()
        if block < known:
            rollout.recall(latents, embeddings, selections, prompt, cut)
            continue
        if block == known:
            begin()
        if prompt is not None:
            rollout.direct(prompt, cut)
        rollout.replay(latents, embeddings, selections)
    if known == done:
        begin()
    return done - known


def blocks_again(
    decoder: TakeDecoder,
    store: BlockStore,
    timeline: Timeline,
    decode: Callable[[TakeDecoder, Tensor, bool], Tensor],
    cuts: Collection[int],
    watch: Stopwatch,
    pages: Callable[[], PageCounters | None],
) -> Iterator[Block]:
    """Bring a new decoder to the end of the blocks in `store`, yielding those that it has not shown.

    Args:
        timeline: timeline of the take.
        decode, cuts: as for `decode_again`.
        watch: measures the time spent.
        pages: returns the counters of the page cache.
    """
    shown = min(store.blocks_shown if isinstance(store, TakeStore) else store.blocks, store.blocks)
    again = decode_again(decoder, store, shown, timeline.frames_per_block, decode, cuts)
    while True:
        with watch.stage("decode"):
            item = next(again, None)
        if item is None:
            return
        record, pixels = item
        numbers = timeline.pixels_of(record.block)
        yield Block(
            index=record.block,
            frames=timeline.latents_of(record.block),
            pixel_frames=numbers,
            latents=torch.from_numpy(record.latents)[None],
            pixels=pixels[:, : len(numbers)],
            selections=(record.selection,) if record.selection else (),
            entered=None if record.entered is None else (record.entered,),
            prompt=record.prompt,
            cue=record.cue,
            seconds=watch.read(),
            pages=pages(),
        )


def decode_again(
    decoder: TakeDecoder,
    store: BlockStore,
    first: int,
    frames_per_block: int,
    decode: Callable[[TakeDecoder, Tensor, bool], Tensor],
    cuts: Collection[int] = (),
) -> Iterator[tuple[BlockRecord, Tensor]]:
    """Bring a new decoder to the end of the blocks in `store`, yielding what it decodes from block `first` on.

    The decoder begins at the latest checkpoint, or where earlier blocks no longer affect any pixel, whichever is later.

    Args:
        decode: decodes latents [1, T, C, h, w], given whether they begin a shot.
        cuts: blocks at which shots begin.
    """
    checkpoints = store.checkpoints if isinstance(store, TakeStore) else None
    begin = max(0, first - -(-decoder.latents_carried // frames_per_block))
    found = checkpoints.newest_decoded(first, lambda block: store.record(block).latents) if checkpoints else None
    if found is not None and found[0] >= begin and found[1]:  # there is no state after one latent frame
        begin, features = found
        decoder.restore(features)
    for block in range(begin, store.blocks):
        record = store.record(block)
        pixels = decode(decoder, torch.from_numpy(record.latents)[None], block in cuts)
        if block >= first:
            yield record, pixels
