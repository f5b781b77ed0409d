"""FAISS cosine search over one take's latent frames."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray


class FrameIndex:
    """Exact inner-product search over unit vectors, growing frame by frame; a frame's id is its number in the take.

    Args:
        embedding_dim: D of the embeddings.
    """

    def __init__(self, embedding_dim: int) -> None:
        self._index = faiss.IndexFlatIP(embedding_dim)

    def __len__(self) -> int:
        return self._index.ntotal

    def add(self, embeddings: NDArray[np.float32]) -> None:
        """Append the embeddings [T, D] of the next T latent frames; any length but zero, they are normalised here."""
        self._index.add(_unit(embeddings))

    def search(self, query: NDArray[np.float32], candidates: range, limit: int) -> list[tuple[int, float]]:
        """The `limit` candidates most similar to `query` [D].

        Returns:
            (frame, cosine similarity) pairs, best first; fewer while there are fewer candidates.
        """
        limit = min(limit, len(candidates))
        if limit == 0:
            return []
        within = faiss.IDSelectorRange(candidates.start, candidates.stop)
        only = faiss.SearchParameters(sel=within)  # type: ignore[call-arg]  # added by faiss's Python wrapper
        similarities, frames = self._index.search(_unit(query[None]), limit, params=only)
        return [(int(frame), float(value)) for frame, value in zip(frames[0], similarities[0], strict=True)]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit = np.array(vectors, dtype=np.float32, order="C")
    faiss.normalize_L2(unit)
    return unit
