"""Checkpoints: state that makes resuming a take fast, stored in addition to its latents.

A checkpoint holds the window's keys and values, the pages in memory, and the state of the video decoder. All of it can
be recomputed from the latents by rerunning every commit of the take, so checkpoints only save time. A page is written
once, into the first checkpoint that includes it; later ones refer to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from longlive_rag.config import CheckpointConfig, checkpoint_spacing
from longlive_rag.generation.rollout import RolloutState
from longlive_rag.takes.folder import checkpoint_files
from longlive_rag.takes.record import CheckpointFacts
from longlive_rag.takes.tensor_files import read_tensors, write_tensors
from retrieval.files import in_words
from retrieval.pages import HeldPage, PagesHeld
from retrieval.sealed import BrokenSealError

Features = Mapping[int, Tensor]  # by number of the decoder's convolution
Content = TypeVar("Content")
LatentsOf = Callable[[int], NDArray[np.float32]]

KIND = "checkpoint"


class Checkpoints:
    """The checkpoints of one take. Nothing is written before the first is saved.

    Args:
        folder: folder of the checkpoints.
        config: mode and budget.
        every_blocks: checkpoints are written after multiples of this many blocks.

    Attributes:
        reruns_all: whether resuming reruns every commit since the newest checkpoint, which is exact.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, every_blocks: int) -> None:
        self.folder = folder
        self.config = config
        self.reruns_all = config.mode == "exact"
        self.stopped: str | None = None
        """Why no more are written; None while they still are."""
        self._every_blocks = every_blocks
        self._asked = False
        self._answer: int | None = None  # the block count of the requested checkpoint
        self._newest = 0
        self._place_of_page: dict[int, int] = {}  # serial -> the checkpoint that holds the page

    def numbers(self) -> list[int]:
        """Block counts after which there is a checkpoint, increasing."""
        return sorted(checkpoint_files(self.folder))

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in checkpoint_files(self.folder).values())

    def ask(self) -> None:
        """Request a checkpoint after the current block, whatever its number; may be called from any thread."""
        self._asked, self._answer = True, None

    @property
    def is_asked(self) -> bool:
        """Whether there will be a checkpoint after the current block because it was requested."""
        return self._asked and self._are_written

    @property
    def _are_written(self) -> bool:
        return self.config.mode == "exact" and self.stopped is None

    def is_due(self, blocks: int) -> bool:
        """Whether to save a checkpoint after this many blocks; if one was requested, it will be this one."""
        if self.is_asked:
            self._answer = blocks
            return True
        due = blocks % self._every_blocks == 0 and blocks - self._newest >= self._spacing(blocks)
        return self._are_written and due

    @property
    def known_pages(self) -> frozenset[int]:
        """Serials of pages that are already stored."""
        return frozenset(self._place_of_page)

    def has_room(self, new_bytes: int) -> bool:
        """Whether a checkpoint of `new_bytes` is within the budget; if not, no more are written."""
        if self.bytes + new_bytes > self.config.gib * 2**30:
            self.stopped = f"the {in_words(round(self.config.gib * 2**30))} for checkpoints are used up"
        return self.stopped is None

    def save(self, state: RolloutState, features: Features, newest_latents: NDArray[np.float32]) -> None:
        """Write a checkpoint. If writing fails, checkpoints stop but the take continues; `stopped` says why.

        Args:
            state: state of the rollout, without `known_pages`.
            features: state of the decoder, which must have decoded the same blocks.
            newest_latents: [T, C, h, w] of the newest block, to which the checkpoint is bound.
        """
        tensors = {"window": state.cache_pages}
        tensors |= {f"feature.{number}": feature for number, feature in features.items()}
        pages = {page.serial: page for page in _held(state.pages)}
        for serial, page in pages.items():
            tensors |= {f"page.{serial}.{part}": tensor for part, tensor in enumerate(page.tensors)}
        if not self.has_room(sum(tensor.nbytes for tensor in tensors.values())):
            return
        places = {serial: self._place_of_page.get(serial, state.blocks) for serial in pages}
        facts = {
            "blocks": state.blocks,
            "bound_to": _hash(newest_latents),
            "cache_frames": state.cache_frames,
            "pages": _pages_facts(state.pages, places),
        }
        try:
            self.folder.mkdir(exist_ok=True)
            write_tensors(self._path(state.blocks), KIND, tensors, facts)
        except OSError as error:
            self.stopped = error.strerror or str(error)
            return
        self._newest, self._place_of_page = state.blocks, places
        self._asked = self._asked and state.blocks != self._answer  # this one may have begun before the request

    def newest_state(self, blocks: int, latents_of: LatentsOf) -> RolloutState | None:
        """Read the newest intact checkpoint after at most `blocks` blocks, with all its pages; None if there is none.

        Args:
            blocks: number of committed blocks.
            latents_of: maps blocks to latents [T, C, h, w], to recognise checkpoints of another take.
        """
        found = self._newest_whole(blocks, lambda number: self._read_state(number, latents_of))
        if found is None:
            return None
        self._newest, (state, self._place_of_page) = found
        return state

    def newest_decoded(self, blocks: int, latents_of: LatentsOf) -> tuple[int, Features] | None:
        """Read the newest intact checkpoint after at most `blocks` blocks, without pages; None if there is none.

        Returns:
            The number of blocks before it, and the state of the decoder.
        """
        found = self._newest_whole(blocks, lambda number: self._read(number, latents_of))
        if found is None:
            return None
        number, (tensors, _) = found
        features = {
            int(name.removeprefix("feature.")): tensor
            for name, tensor in tensors.items()
            if name.startswith("feature.")
        }
        return number, features

    def _newest_whole(self, blocks: int, read: Callable[[int], Content]) -> tuple[int, Content] | None:
        """The number of the newest readable checkpoint after at most `blocks` blocks, and what was read."""
        for number in reversed(self.numbers()):
            if number <= blocks:
                with suppress(BrokenSealError):
                    return number, read(number)
        return None

    def facts(self) -> CheckpointFacts:
        """The facts for the take's record."""
        return CheckpointFacts(
            mode=self.config.mode,
            gib=self.config.gib,
            after_blocks=tuple(self.numbers()),
            bytes=self.bytes,
            stopped=self.stopped,
        )

    def _spacing(self, blocks: int) -> int:
        return checkpoint_spacing(blocks, self._every_blocks)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"

    def _read(self, number: int, latents_of: LatentsOf) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, facts = read_tensors(self._path(number), KIND)
        if facts["blocks"] != number or facts["bound_to"] != _hash(latents_of(number - 1)):
            raise BrokenSealError(f"{self._path(number)} belongs to another take")
        return tensors, facts

    def _read_state(self, number: int, latents_of: LatentsOf) -> tuple[RolloutState, dict[int, int]]:
        tensors, facts = self._read(number, latents_of)
        if facts["pages"] is None:
            return RolloutState(number, tuple(facts["cache_frames"]), tensors["window"], None), {}
        places = {int(serial): place for serial, place in facts["pages"]["places"].items()}
        for other in sorted(set(places.values()) - {number}):
            tensors |= {
                name: tensor
                for name, tensor in read_tensors(self._path(other), KIND)[0].items()
                if name.startswith("page.") and places.get(int(name.split(".")[1])) == other
            }
        pages = _pages_of(facts["pages"], tensors)
        return RolloutState(number, tuple(facts["cache_frames"]), tensors["window"], pages), places


def _hash(latents: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(latents, dtype=np.float32).tobytes()).hexdigest()


def _held(pages: PagesHeld | None) -> tuple[HeldPage, ...]:
    return () if pages is None else (*pages.gpu, *pages.host)


def _pages_facts(pages: PagesHeld | None, places: dict[int, int]) -> dict[str, Any] | None:
    if pages is None:
        return None
    return {
        "prompt": pages.prompt,
        "writes": pages.writes,
        "made_under": [[*key, prompt] for key, prompt in pages.made_under.items()],
        "gpu": [[*page.key, page.serial] for page in pages.gpu],
        "host": [[*page.key, page.serial] for page in pages.host],
        "counters": pages.counters,
        "places": places,
    }


def _pages_of(facts: dict[str, Any], tensors: Mapping[str, Tensor]) -> PagesHeld:
    def tier(entries: list[list[int]]) -> tuple[HeldPage, ...]:
        return tuple(HeldPage((take, frame), serial, parts_of(serial)) for take, frame, serial in entries)

    def parts_of(serial: int) -> tuple[Tensor, ...]:
        parts = [tensors[name] for part in range(2) if (name := f"page.{serial}.{part}") in tensors]
        if not parts:
            raise BrokenSealError(f"the page {serial} of a checkpoint is missing")
        return tuple(parts)

    return PagesHeld(
        prompt=facts["prompt"],
        writes=facts["writes"],
        made_under={(take, frame): prompt for take, frame, prompt in facts["made_under"]},
        gpu=tier(facts["gpu"]),
        host=tier(facts["host"]),
        counters=facts["counters"],
    )
