"""FAISS cosine search over one take's latent frames."""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np
from numpy.typing import NDArray


class FrameIndex:
    """Exact inner-product search over unit vectors, growing frame by frame; a frame's id is its number in the take.

    It is not kept on disk: the take's embeddings are, and adding them again takes milliseconds.

    Args:
        embedding_dim: D of the embeddings.
        first_frame: number of the first frame that is added; below 0 for frames of other takes.
    """

    def __init__(self, embedding_dim: int, first_frame: int = 0) -> None:
        self._index = faiss.IndexFlatIP(embedding_dim)
        self._first_frame = first_frame

    def __len__(self) -> int:
        return self._index.ntotal

    def add(self, embeddings: NDArray[np.float32]) -> None:
        """Append the embeddings [T, D] of the next T latent frames; any length but zero, they are normalised here."""
        self._index.add(_unit(embeddings))

    def search(self, query: NDArray[np.float32], candidates: Sequence[int], limit: int) -> list[tuple[int, float]]:
        """The `limit` candidates most similar to `query` [D].

        Returns:
            (frame, cosine similarity) pairs, best first; fewer while there are fewer candidates.
        """
        limit = min(limit, len(candidates))
        if limit == 0:
            return []
        only = faiss.SearchParameters(sel=self._selector(candidates))  # type: ignore[call-arg]  # by faiss's wrapper
        similarities, places = self._index.search(_unit(query[None]), limit, params=only)
        return [
            (int(place) + self._first_frame, float(value))
            for place, value in zip(places[0], similarities[0], strict=True)
        ]

    def units(self, frames: Sequence[int]) -> NDArray[np.float32]:
        """The unit vectors [N, D] of these frames."""
        return self._index.reconstruct_batch(np.asarray(frames, dtype=np.int64) - self._first_frame)

    def similarities(self, query: NDArray[np.float32], frames: Sequence[int]) -> list[float]:
        """Cosine similarities of these frames to `query` [D]."""
        return [float(value) for value in self.units(frames) @ _unit(query[None])[0]] if frames else []

    def _selector(self, candidates: Sequence[int]) -> faiss.IDSelector:
        if isinstance(candidates, range) and candidates.step == 1:
            return faiss.IDSelectorRange(candidates.start - self._first_frame, candidates.stop - self._first_frame)
        return faiss.IDSelectorBatch(np.asarray(candidates, dtype=np.int64) - self._first_frame)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit = np.array(vectors, dtype=np.float32, order="C")
    faiss.normalize_L2(unit)
    return unit
