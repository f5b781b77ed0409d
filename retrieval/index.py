"""FAISS cosine search over latent frames: exact, and approximate from a million frames on."""

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

APPROXIMATE_FROM = 1_000_000  # frames; below, exact search takes milliseconds
LISTS_PER_ROOT = 1.0  # inverted lists = this times the square root of the number of frames
PROBED = 1 / 32  # share of the lists that a search of all frames looks into; of fewer frames, into as many more
TRAINED_ON_PER_LIST = 40  # vectors; FAISS asks for 39 or more
OUTSIDE_MOST = 256
ROUNDING = 1e-5  # of the length of a unit vector


@contextmanager
def _one_thread() -> Iterator[None]:
    """FAISS without threads of its own: one query gains nothing from them, and they would fight with torch's.

    Only for a while: both may share one OpenMP, and then torch would be left with one thread, too.
    """
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


class FrameIndex:
    """Inner-product search over unit vectors, growing frame by frame; frames are named by their numbers in the take.

    It is not kept on disk: the embeddings are, and adding them again takes milliseconds.

    Args:
        embedding_dim: D of the embeddings.
        approximate_from: frames from which on an inverted file is searched instead of every frame.
        keep_short: vectors shorter than 1 stay so, embeddings and queries: keys that lack a part (`hybrid_keys`), which
            then counts as like nothing, and gives no weight to the other.
    """

    def __init__(self, embedding_dim: int, approximate_from: int = APPROXIMATE_FROM, keep_short: bool = False) -> None:
        self._index: faiss.Index = faiss.IndexFlatIP(embedding_dim)
        self._frames = array("q")  # of each vector; rising
        self._approximate_from = approximate_from
        self._keep_short = keep_short
        self._lists = self._probed_lists = 0  # of an inverted file

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
        """Numbers of all that are held, rising."""
        return self._frames

    @property
    def is_exact(self) -> bool:
        """Whether every search looks at every frame."""
        return not self._probed_lists

    def add(self, embeddings: NDArray[np.float32], frames: Sequence[int] | None = None) -> None:
        """Append the embeddings [T, D] of `frames`, any length but zero; they are normalised here.

        Args:
            frames: their numbers, rising, above those that are held; None continues without a gap, from 0 on.

        Raises:
            ValueError: if they are not, or an embedding holds something else than finite numbers.
        """
        if frames is None:
            first = self._frames[-1] + 1 if self._frames else 0
            frames = range(first, first + len(embeddings))
        if len(frames) != len(embeddings) or any(a >= b for a, b in pairwise([*self._frames[-1:], *frames])):
            raise ValueError(f"frames is {list(frames)}; it must number {len(embeddings)} vectors, in rising order")
        units = self._unit(embeddings)
        self._frames.extend(frames)
        self._index.add(units)
        if self.is_exact and len(self) >= self._approximate_from:
            self._approximate()

    def insert(self, embeddings: NDArray[np.float32], frames: Sequence[int]) -> None:
        """Hold `frames` that were left out before, too, by their embeddings [N, D]; slow, since all are added anew.

        Raises:
            ValueError: as `add` does; what was held before then still is.
        """
        new = dict(zip(frames, finite(embeddings), strict=True))
        old = dict(zip(self._frames, self.units(self._frames), strict=True)) if self._frames else {}
        every = sorted({**old, **new}.items())
        self._index, self._frames, self._probed_lists = faiss.IndexFlatIP(self._index.d), array("q"), 0
        self.add(np.stack([vector for _, vector in every]), [frame for frame, _ in every])

    def held(self, candidates: Sequence[int]) -> Sequence[int]:
        """Those of `candidates` that are held; a range of which nothing was left out stays one."""
        if not isinstance(candidates, range) or candidates.step != 1:
            return [frame for frame in candidates if frame in self]
        start, stop = bisect_left(self._frames, candidates.start), bisect_left(self._frames, candidates.stop)
        return candidates if stop - start == len(candidates) else list(self._frames[start:stop])

    def search(self, query: NDArray[np.float32], candidates: Sequence[int], limit: int) -> list[tuple[int, float]]:
        """The `limit` candidates most similar to `query` [D]; all of them must be held.

        Returns:
            (frame, cosine similarity) pairs, best first, of equal ones the older first; fewer only where there are
            fewer candidates.

        Raises:
            ValueError: if the query holds something else than finite numbers.
        """
        unit = self._unit(query[None])
        limit = min(limit, len(candidates))
        if limit == 0:
            return []
        outside = len(self) - len(candidates)
        if not outside or (isinstance(candidates, range) and outside <= OUTSIDE_MOST):
            # Twice as fast as a selector, which is asked about every frame.
            found = self._search(unit, limit + outside)
            return [pair for pair in found if not outside or pair[0] in candidates][:limit]
        return self._search(unit, limit, self._selector(candidates), len(candidates) / len(self))

    def units(self, frames: Sequence[int]) -> NDArray[np.float32]:
        """The unit vectors [N, D] of these frames."""
        return self._index.reconstruct_batch(self._places(frames))

    def similarities(self, query: NDArray[np.float32], frames: Sequence[int]) -> list[float]:
        """Cosine similarities of these frames to `query` [D]."""
        query = self._unit(query[None])
        if not len(frames):
            return []
        with _one_thread():  # by the arithmetic of the search, so that what is equal there is equal here
            values, places = faiss.knn(query, self.units(frames), len(frames), metric=faiss.METRIC_INNER_PRODUCT)
        return [float(value) for value in values[0][places[0].argsort()]]

    def _unit(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of [N, D], each scaled to length 1, but zero, and what may be short."""
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
        """By a unit vector [1, D], among what `only` lets through, which is the share `allowed` of all frames.

        Returns:
            (frame, similarity), best first, of equal ones the older first.
        """
        lists = min(self._lists, math.ceil(self._probed_lists / allowed))
        found = self._best(query, limit, only, lists)
        if len(found) < limit and lists < self._lists:  # what is allowed lies far away
            return self._best(query, limit, only, self._lists)
        return found

    def _best(
        self, query: NDArray[np.float32], limit: int, only: faiss.IDSelector | None, lists: int
    ) -> list[tuple[int, float]]:
        """What `_search` gives, out of so many lists, if there are any."""
        settings = {"sel": only} if only is not None else {}
        if self.is_exact:
            parameters = faiss.SearchParameters(**settings)  # type: ignore[call-arg]  # by faiss's wrapper
        else:
            parameters = faiss.SearchParametersIVF(nprobe=lists, **settings)  # type: ignore[call-arg]  # as above
        with _one_thread():
            values, places = (rows[0] for rows in self._index.search(query, limit + 1, params=parameters))
            values, places = values[places >= 0], places[places >= 0]  # there may be fewer
            if len(values) > limit and values[limit - 1] == values[limit]:  # FAISS keeps any of the equal ones
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
        """Go over to an inverted file; later frames are added to its lists as they come."""
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
    """The vectors themselves; ValueError if they hold something else than finite numbers."""
    if not np.isfinite(vectors).all():
        raise ValueError("an embedding holds values that are not finite numbers; nothing is similar to it")
    return vectors
