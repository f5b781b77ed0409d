"""Resuming a take: saving what that needs, and bringing a rollout and a decoder to where its blocks end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backbone.vae import TakeDecoder
from longlive_rag.generation.rollout import RememberedFrames, Rollout, RolloutState
from longlive_rag.media.start_image import StartImage
from longlive_rag.rights.policy import LicensePolicy
from longlive_rag.rights.records import FileRights
from longlive_rag.takes.checkpoints import Checkpoints
from retrieval.store import BlockRecord, BlockStore

LIGHT_WINDOWS = 2
"""`light` runs the commits of so many windows again, over pages that were made from latents."""


@runtime_checkable
class TakeStore(BlockStore, Protocol):
    """A store that is a whole take: it knows what it has shown, and keeps what resuming needs."""

    @property
    def blocks_shown(self) -> int:
        """Blocks whose pixels it has; the later ones are handed out again."""
        ...

    @property
    def checkpoints(self) -> Checkpoints:
        """Where states are kept."""
        ...

    def keep_rights(self, policy: LicensePolicy, loaded: Sequence[FileRights]) -> None:
        """Everything that the take is made with from here on, and under which policy that was loaded."""
        ...

    def keep_inputs(self, start_image: StartImage | None, remembered: RememberedFrames | None) -> None:
        """What the take was made from, to be written with its first block."""
        ...

    def keep_page_budget(self, gpu_bytes: int) -> None:
        """What its pages may take of the GPU, where nobody but the machine said so."""
        ...

    def kept_page_budget(self) -> int | None:
        """What they might when it was begun; None where that was said, or it ran on a CPU."""
        ...

    def kept_start_image(self) -> StartImage | None:
        """The picture that it began with, as it was kept."""
        ...

    def kept_remembered(self) -> RememberedFrames | None:
        """The frames of other takes that it remembers, as they were kept."""
        ...


@dataclass(frozen=True)
class DueCheckpoints:
    """Checkpoints of which one half is taken: where the rollout is, right after a block.

    Attributes:
        takes: that should save one, by take of the batch.
        state: of the rollout.
    """

    takes: Mapping[int, Checkpoints]
    state: RolloutState

    @classmethod
    def begin(cls, takes: Mapping[int, Checkpoints], rollout: Rollout) -> DueCheckpoints | None:
        """Take the rollout's half; the checkpoints of earlier blocks must be saved by now.

        A take whose budget has no room for it is left out before anything is copied; None if none is left.
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
            decoder: has decoded the same blocks.
            newest_latents: [B, T, C, h, w] of the newest block.
        """
        features = decoder.features()
        for take, checkpoints in self.takes.items():
            own = {number: feature[take : take + 1] for number, feature in features.items()}
            checkpoints.save(self.state.of_take(take), own, newest_latents[take])


def due_checkpoints(stores: Sequence[BlockStore], blocks: int) -> dict[int, Checkpoints]:
    """The checkpoints of takes that should save one after so many blocks, by take of the batch.

    Those of earlier blocks must be saved by now.
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
    """Bring a new rollout to where the blocks of `store` end.

    Args:
        prompt_at: block to the prompt [1, tokens, text_dim] that takes over there, None where none does, and whether
            another shot begins with it.

    Returns:
        How many blocks were run again.

    Raises:
        DamagedError: if a stored block is damaged.
    """
    done = store.blocks
    checkpoints = store.checkpoints if isinstance(store, TakeStore) else None
    state = None
    if checkpoints is None or checkpoints.config.mode == "exact":
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


def decode_again(
    decoder: TakeDecoder,
    store: BlockStore,
    first: int,
    frames_per_block: int,
    decode: Callable[[TakeDecoder, Tensor, bool], Tensor],
    cuts: Collection[int] = (),
) -> Iterator[tuple[BlockRecord, Tensor]]:
    """Bring a new decoder to where the blocks of `store` end, handing out what it decodes from block `first` on.

    The decoder begins at the latest of: a checkpoint, and where nothing before can change a pixel any more.

    Args:
        decode: latents [1, T, C, h, w] to pixels; whether they begin a shot.
        cuts: blocks at which shots begin.
    """
    checkpoints = store.checkpoints if isinstance(store, TakeStore) else None
    begin = max(0, first - -(-decoder.latents_carried // frames_per_block))
    found = checkpoints.newest_decoded(first, lambda block: store.record(block).latents) if checkpoints else None
    if found is not None and found[0] >= begin and found[1]:  # after one latent frame there are no features yet
        begin, features = found
        decoder.restore(features)
    for block in range(begin, store.blocks):
        record = store.record(block)
        pixels = decode(decoder, torch.from_numpy(record.latents)[None], block in cuts)
        if block >= first:
            yield record, pixels
