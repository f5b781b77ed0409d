"""The memory of one take: what it has generated, searchable by what it is generating now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from retrieval.encoder import LatentEncoder
from retrieval.index import FrameIndex
from retrieval.pages import PageStore
from retrieval.selection import Selection, candidate_frames


class Memory:
    """Embeddings and pages of a batch of takes, and the rule that picks from them.

    Args:
        encoder: embeds latent frames.
        pages: where the keys and values of frames that left the window go.
        window_frames, sink_frames, memory_frames, recency_guard_frames: the context's sizes in latent frames.
    """

    def __init__(
        self,
        encoder: LatentEncoder,
        pages: PageStore,
        *,
        window_frames: int,
        sink_frames: int,
        memory_frames: int,
        recency_guard_frames: int,
    ) -> None:
        self._encoder = encoder
        self._pages = pages
        self._window_frames = window_frames
        self._sink_frames = sink_frames
        self._memory_frames = memory_frames
        self._recency_guard_frames = recency_guard_frames
        self._indexes: list[FrameIndex] = []
        self._queries: NDArray[np.float32] | None = None
        self._frames_done = 0

    def remember(self, latents: Tensor) -> Tensor:
        """Embed and index the finished latents [B, T, C, h, w] of a block; returns the embeddings [B, T, D]."""
        embeddings = self._encoder.encode(latents)
        on_host = embeddings.cpu().numpy()
        if not self._indexes:
            self._indexes = [FrameIndex(on_host.shape[-1]) for _ in on_host]
        for index, frames in zip(self._indexes, on_host, strict=True):
            index.add(frames)
        self._queries = on_host[:, -1]
        self._frames_done += latents.shape[1]
        return embeddings

    def evicted(self, frame: int, page: Tensor) -> None:
        """Keep the page [2, layers, B, tokens, heads, head_dim] of a frame that left the window."""
        self._pages.put(frame, page)

    def retrieve(self, block: int) -> tuple[Selection, ...]:
        """Choose what `block` remembers, for each take of the batch; empty while there are no candidates."""
        candidates = candidate_frames(
            self._frames_done, self._window_frames, self._sink_frames, self._recency_guard_frames
        )
        if self._queries is None or not candidates:
            return ()
        selections = []
        for index, query in zip(self._indexes, self._queries, strict=True):
            found = index.search(query, candidates, self._memory_frames)
            frames, similarities = zip(*found, strict=True)
            selections.append(Selection(block, self._frames_done - 1, len(candidates), frames, similarities))
        return tuple(selections)

    def fetch(self, selections: Sequence[Selection]) -> list[list[tuple[int, Tensor]]]:
        """For each take, (frame, page [2, layers, tokens, heads, head_dim]) of what it selected, best first."""
        return [
            [(frame, self._pages.get(frame)[:, :, take]) for frame in selection.frames]
            for take, selection in enumerate(selections)
        ]
