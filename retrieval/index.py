"""FAISS cosine search over latent frames: exact up to a million frames, approximate beyond."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import faiss
import numpy as np
from numpy.typing import NDArray

APPROXIMATE_FROM = 1_000_000  # frames; below this, exact search takes milliseconds
LISTS_PER_ROOT = 1.0  # inverted lists = this times the square root of the number of frames
PROBED = 1 / 32  # share of lists probed when searching all frames; proportionally more for a subset of frames
TRAINED_ON_PER_LIST = 40  # vectors; FAISS asks for 39 or more
OUTSIDE_MOST = 256
ROUNDING = 1e-5  # tolerance in the length of a unit vector


class NotFiniteEmbeddingError(ValueError):
    """An embedding holds values that are not finite numbers, so nothing is similar to it."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run FAISS single-threaded: threads don't speed up one query and would compete with torch's.

    This is temporary because torch may share the same OpenMP runtime and would be left with one thread as well.
    """
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


class FrameIndex:
    """Inner-product search over unit vectors, growing frame by frame; frames are identified by number.

    The index is not stored: the embeddings are, and adding them again takes milliseconds.

    Args:
        embedding_dim: D of the embeddings.
        approximate_from: number of frames from which an inverted file is searched instead of every frame.
        keep_short: don't normalise embeddings and queries shorter than 1. These are keys with a missing part
            (`hybrid_keys`), which must contribute nothing to the similarity, without adding weight to the other part.
    """

    def __init__(self, embedding_dim: int, approximate_from: int = APPROXIMATE_FROM, keep_short: bool = False) -> None:
        self._index: faiss.Index = faiss.IndexFlatIP(embedding_dim)
        self._frames = array("q")  # frame number of each vector; increasing
        self._approximate_from = approximate_from
        self._keep_short = keep_short
        self._lists = self._probed_lists = 0  # of the inverted file

    def __len__(self) -> int:
        return len(self._frames)

    def __contains__(self, frame: int) -> bool:
        place = bisect_left(self._frames, frame)
        return place < len(self) and self._frames[place] == frame

    @property
    def dim(self) -> int:
        """D of the embeddings."""
        return int(self._index.d)

    @property
    def frames(self) -> Sequence[int]:
        """The numbers of all frames in the index, increasing."""
        return self._frames

    @property
    def is_exact(self) -> bool:
        """Whether every search looks at every frame."""
        return not self._probed_lists

    def add(self, embeddings: NDArray[np.float32], frames: Sequence[int] | None = None) -> None:
        """Append embeddings [T, D] of `frames`, which must not be zero; they are normalised here.

        Args:
            frames: their numbers, increasing and above those in the index; None continues without a gap, from 0.

        Raises:
            ValueError: if the numbers are invalid.
            NotFiniteEmbeddingError: if an embedding is not finite.
        """
        if frames is None:
            first = self._frames[-1] + 1 if self._frames else 0
            frames = range(first, first + len(embeddings))
        if len(frames) != len(embeddings) or any(a >= b for a, b in pairwise([*self._frames[-1:], *frames])):
            raise ValueError(f"frames is {list(frames)}; it must be {len(embeddings)} numbers in increasing order")
        units = self._unit(embeddings)
        self._frames.extend(frames)
        self._index.add(units)
        if self.is_exact and len(self) >= self._approximate_from:
            self._approximate()

    def insert(self, embeddings: NDArray[np.float32], frames: Sequence[int]) -> None:
        """Insert `frames` that were left out before, with embeddings [N, D]; slow, since the index is rebuilt.

        Raises:
            ValueError, NotFiniteEmbeddingError: as for `add`; the index is unchanged then.
        """
        new = dict(zip(frames, finite(embeddings), strict=True))
        old = dict(zip(self._frames, self.units(self._frames), strict=True)) if self._frames else {}
        every = sorted({**old, **new}.items())
        self._index, self._frames, self._probed_lists = faiss.IndexFlatIP(self._index.d), array("q"), 0
        self.add(np.stack([vector for _, vector in every]), [frame for frame, _ in every])

    def held(self, candidates: Sequence[int]) -> Sequence[int]:
        """The `candidates` that are in the index; still a range if all of a range are."""
        if not isinstance(candidates, range) or candidates.step != 1:
            return [frame for frame in candidates if frame in self]
        start, stop = bisect_left(self._frames, candidates.start), bisect_left(self._frames, candidates.stop)
        return candidates if stop - start == len(candidates) else list(self._frames[start:stop])

    def search(self, query: NDArray[np.float32], candidates: Sequence[int], limit: int) -> list[tuple[int, float]]:
        """Find the `limit` candidates most similar to `query` [D]; all candidates must be in the index.

        Returns:
            (frame, cosine similarity) pairs, best first, ties by age, oldest first; fewer than `limit` only if there
            are fewer candidates.

        Raises:
            NotFiniteEmbeddingError: if the query is not finite.
        """
        unit = self._unit(query[None])
        limit = min(limit, len(candidates))
        if limit == 0:
            return []
        outside = len(self) - len(candidates)
        if not outside or (isinstance(candidates, range) and outside <= OUTSIDE_MOST):
            # Twice as fast as a selector, which is called for every frame.
            found = self._search(unit, limit + outside)
            return [pair for pair in found if not outside or pair[0] in candidates][:limit]
        return self._search(unit, limit, self._selector(candidates), len(candidates) / len(self))

    def units(self, frames: Sequence[int]) -> NDArray[np.float32]:
        """The unit vectors [N, D] of frames."""
        return self._index.reconstruct_batch(self._places(frames))

    def similarities(self, query: NDArray[np.float32], frames: Sequence[int]) -> list[float]:
        """Cosine similarities of frames to `query` [D]."""
        query = self._unit(query[None])
        if not len(frames):
            return []
        with _one_thread():  # the same arithmetic as the search, so that results are equal
            values, places = faiss.knn(query, self.units(frames), len(frames), metric=faiss.METRIC_INNER_PRODUCT)
        return [float(value) for value in values[0][places[0].argsort()]]

    def _unit(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Copy vectors [N, D], scaled to length 1 except for zero vectors and those that may stay short."""
        unit = finite(np.array(vectors, dtype=np.float32, order="C"))
        given = unit.copy() if self._keep_short else None
        faiss.normalize_L2(unit)
        if given is None:
            return unit
        short = np.linalg.norm(given, axis=1, keepdims=True) < 1 - ROUNDING
        return np.where(short, given, unit)

    def _search(
        self, query: NDArray[np.float32], limit: int, only: faiss.IDSelector | None = None, allowed: float = 1.0
    ) -> list[tuple[int, float]]:
        """Search by a unit vector [1, D] among the frames selected by `only`, a share `allowed` of all frames.

        Returns:
            (frame, similarity) pairs, best first, ties by age, oldest first.
        """
        lists = min(self._lists, math.ceil(self._probed_lists / allowed))
        found = self._best(query, limit, only, lists)
        if len(found) < limit and lists < self._lists:  # the allowed frames are far away
            return self._best(query, limit, only, self._lists)
        return found

    def _best(
        self, query: NDArray[np.float32], limit: int, only: faiss.IDSelector | None, lists: int
    ) -> list[tuple[int, float]]:
        """Search as in `_search`, probing `lists` lists if the index is approximate."""
        settings = {"sel": only} if only is not None else {}
        if self.is_exact:
            parameters = faiss.SearchParameters(**settings)  # type: ignore[call-arg]  # by faiss's wrapper
        else:
            parameters = faiss.SearchParametersIVF(nprobe=lists, **settings)  # type: ignore[call-arg]  # as above
        with _one_thread():
            values, places = (rows[0] for rows in self._index.search(query, limit + 1, params=parameters))
            values, places = values[places >= 0], places[places >= 0]  # there may be fewer
            if len(values) > limit and values[limit - 1] == values[limit]:  # FAISS breaks ties arbitrarily
                below = float(np.nextafter(values[limit], np.float32(-np.inf)))
                _, values, places = self._index.range_search(query, below, params=parameters)
        best = np.lexsort((places, -values))[:limit]
        return [(self._frames[place], float(value)) for place, value in zip(places[best], values[best], strict=True)]

    def _selector(self, candidates: Sequence[int]) -> faiss.IDSelector:
        if isinstance(candidates, range) and candidates.step == 1:
            first = bisect_left(self._frames, candidates.start)
            return faiss.IDSelectorRange(first, first + len(candidates))
        return faiss.IDSelectorBatch(self._places(candidates))

    def _places(self, frames: Sequence[int]) -> NDArray[np.int64]:
        return np.searchsorted(np.frombuffer(self._frames, np.int64), np.asarray(frames, np.int64))

    def _approximate(self) -> None:
        """Switch to an inverted file, to whose lists later frames are added."""
        flat, dim = self._index, self._index.d
        lists = max(1, round(LISTS_PER_ROOT * math.sqrt(len(self))))
        inverted = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
        sample = np.random.default_rng(0).choice(len(self), min(len(self), TRAINED_ON_PER_LIST * lists), replace=False)
        inverted.train(flat.reconstruct_batch(np.sort(sample)))
        inverted.make_direct_map(True)  # so that vectors can be read back
        step = 65536
        for start in range(0, len(self), step):
            inverted.add(flat.reconstruct_n(start, min(step, len(self) - start)))
        self._index, self._lists, self._probed_lists = inverted, lists, max(1, round(PROBED * lists))


def finite(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the vectors unchanged; NotFiniteEmbeddingError if they are not finite."""
    if not np.isfinite(vectors).all():
        message = "an embedding holds values that are not finite numbers, so nothing is similar to it"
        raise NotFiniteEmbeddingError(message)
    return vectors
