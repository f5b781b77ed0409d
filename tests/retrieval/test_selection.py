"""The rule by which memory is chosen, and the search behind it, against brute force."""

from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import retrieval.index
from retrieval.encoder import LatentAutoencoder, MeanPoolEncoder
from retrieval.index import FrameIndex
from retrieval.memory import Memory
from retrieval.selection import candidate_frames


def test_candidates_of_the_default_context() -> None:
    """Window 12, sink 1, guard 5: frame 1 is the first that may come back, before block 6."""
    assert list(candidate_frames(15, 12, 1, 5)) == []
    assert list(candidate_frames(18, 12, 1, 5)) == [1]
    assert list(candidate_frames(24, 12, 1, 5)) == list(range(1, 8))


@given(done=st.integers(0, 200), sink=st.integers(0, 6), guard=st.integers(0, 12), local=st.integers(1, 12))
def test_candidates_are_what_left_the_cache_without_sink_and_guard(
    done: int, sink: int, guard: int, local: int
) -> None:
    window = sink + local
    cache: list[int] = []
    left: list[int] = []
    for frame in range(done):  # the cache, simulated frame by frame
        cache.append(frame)
        if len(cache) > window:
            left.append(cache.pop(sink))
    expected = left[: max(0, len(left) - guard)]
    assert list(candidate_frames(done, window, sink, guard)) == expected


@given(
    before=st.integers(1, 40), done=st.integers(0, 60), sink=st.integers(0, 6), guard=st.integers(0, 12),
    local=st.integers(1, 12),
)  # fmt: skip
def test_all_of_earlier_shots_are_candidates_and_of_its_own_what_left_the_cache(
    before: int, done: int, sink: int, guard: int, local: int
) -> None:
    window = sink + local
    own = [before + frame for frame in candidate_frames(done, window, sink, guard)]
    assert list(candidate_frames(before + done, window, sink, guard, before)) == [*range(before), *own]


@given(seed=st.integers(0, 1000), frames=st.integers(1, 40), limit=st.integers(0, 8))
def test_search_equals_brute_force(seed: int, frames: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((frames, 6)).astype(np.float32)
    query = rng.standard_normal(6).astype(np.float32)
    candidates = range(frames // 3, frames - frames // 4)
    index = FrameIndex(6)
    for vector in vectors:
        index.add(vector[None])
    assert len(index) == frames

    found = index.search(query, candidates, limit)

    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    best = sorted(candidates, key=lambda frame: -cosines[frame])[:limit]
    assert [frame for frame, _ in found] == best
    np.testing.assert_allclose([similarity for _, similarity in found], cosines[best], atol=1e-5)


@given(seed=st.integers(0, 10_000), dim=st.integers(2, 40), kinds=st.integers(1, 4), frames=st.integers(1, 260))
def test_of_equally_similar_frames_the_older_comes_first_by_every_path(
    seed: int, dim: int, kinds: int, frames: int
) -> None:
    """A few vectors, zero among them, many times over, searched in every way."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((kinds, dim)).astype(np.float32)
    vectors[0] = 0
    kind_of, query = rng.integers(0, kinds, frames), rng.standard_normal(dim).astype(np.float32)
    lengths = np.maximum(np.linalg.norm(vectors.astype(float), axis=1), 1e-9)
    cosines = vectors.astype(float) @ query / lengths / np.linalg.norm(query)
    assume(kinds == 1 or np.diff(np.sort(cosines)).min() > 1e-5)
    flat, inverted = FrameIndex(dim), FrameIndex(dim, approximate_from=1)
    with patch.object(retrieval.index, "PROBED", 1.0):  # what it does not look at can't be in order
        for index in (flat, inverted):
            index.add(vectors[kind_of])
    start, stop = sorted(rng.integers(0, frames + 1, 2).tolist())
    for wanted in (range(frames), range(start, stop)):
        order = sorted(wanted, key=lambda frame: (-cosines[kind_of[frame]], frame))
        shuffled = rng.permutation(list(wanted)).tolist()
        for index, candidates in product((flat, inverted), (wanted, list(wanted), shuffled)):
            for limit in {1, 6, 120, len(order)}:
                found = index.search(query, candidates, limit)
                assert [frame for frame, _ in found] == order[:limit]
                assert [value for _, value in found] == index.similarities(query, order[:limit])


def test_adding_leaves_the_callers_embeddings_alone() -> None:
    vectors = np.full((2, 3), 2.0, np.float32)
    FrameIndex(3).add(vectors)
    assert (vectors == 2.0).all()


def test_each_take_of_a_batch_searches_itself() -> None:
    memory = Memory(MeanPoolEncoder(), window_frames=4, sink_frames=1, memory_frames=1, recency_guard_frames=0)
    latents = torch.zeros(2, 8, 3, 2, 2)
    axes = torch.eye(3)
    take_a = [0, 0, 1, 2, 0, 0, 0, 1]  # newest frame looks like frame 2
    take_b = [0, 1, 0, 2, 0, 0, 0, 1]  # newest frame looks like frame 1
    for take, kinds in enumerate((take_a, take_b)):
        latents[take] = axes[kinds][..., None, None]
    memory.add(latents)
    first, second = memory.retrieve(block=3)
    assert first.frames == (2,)
    assert second.frames == (1,)
    assert first.query_frame == 7
    assert first.candidates == 4
    assert first.similarities[0] > 0.999


def test_autoencoder_shapes_and_unit_length(tmp_path) -> None:
    torch.manual_seed(0)
    model = LatentAutoencoder(16, 15, 26, (16, 24), 12).eval()
    latents = torch.randn(2, 3, 16, 15, 26)
    embeddings = model.encode(latents)
    assert embeddings.shape == (2, 3, 12)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(2, 3))
    reconstruction, flat = model(latents.flatten(0, 1))
    assert reconstruction.shape == (6, 16, 15, 26)
    torch.testing.assert_close(flat.unflatten(0, (2, 3)), embeddings)
    model.save_pretrained(tmp_path)
    again = LatentAutoencoder.from_pretrained(tmp_path)
    torch.testing.assert_close(again.encode(latents), embeddings)


def test_mean_pool_is_the_spatial_mean() -> None:
    latents = torch.arange(24, dtype=torch.float32).reshape(1, 1, 2, 3, 4)
    assert MeanPoolEncoder().encode(latents).tolist() == [[[5.5, 17.5]]]


def walks(takes: int, frames: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    paths = np.cumsum(0.2 * rng.standard_normal((takes, frames, dim)), axis=1) + rng.standard_normal((takes, 1, dim))
    return paths.reshape(takes * frames, dim).astype(np.float32)


def test_a_large_index_is_approximate_and_finds_nearly_all() -> None:
    vectors = walks(takes=40, frames=100, dim=16)
    exact, large = FrameIndex(16), FrameIndex(16, approximate_from=3000)
    for start in range(0, len(vectors), 250):
        exact.add(vectors[start : start + 250])
        large.add(vectors[start : start + 250])
    assert (exact.is_exact, large.is_exact, len(large)) == (True, False, 4000)
    np.testing.assert_allclose(large.units([5, 3999]), exact.units([5, 3999]), atol=1e-6)
    hits = 0
    for query in vectors[::37]:
        ours, truth = (index.search(query, range(4000), 6) for index in (large, exact))
        hits += len({frame for frame, _ in ours} & {frame for frame, _ in truth})
    assert hits / (6 * len(vectors[::37])) >= 0.9
    assert all(frame in range(100, 2000) for frame, _ in large.search(vectors[150], range(100, 2000), 6))


@settings(max_examples=500)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 1000), limit=st.integers(1, 6), chained=st.booleans())
def test_a_large_index_finds_as_many_as_are_allowed(
    large_and_vectors: tuple[FrameIndex, np.ndarray], seed: int, count: int, limit: int, chained: bool
) -> None:
    """Wherever they lie; the most similar ones where few are allowed."""
    large, vectors = large_and_vectors
    rng = np.random.default_rng(seed)
    start = int(rng.integers(0, len(vectors) - count))
    allowed = range(start, start + count) if chained else rng.choice(len(vectors), count, replace=False).tolist()
    like = float(rng.integers(-2, 2)) * vectors[allowed].mean(axis=0)  # near what is allowed, or far away
    query = (like + rng.standard_normal(vectors.shape[1])).astype(np.float32)
    found = large.search(query, allowed, limit)
    frames = [frame for frame, _ in found]
    assert len(set(frames)) == len(frames) == min(limit, count)
    assert set(frames) <= set(allowed)
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    np.testing.assert_allclose([value for _, value in found], cosines[frames], atol=1e-5)
    if count <= len(vectors) / 32:
        assert frames == sorted(allowed, key=lambda frame: -cosines[frame])[:limit]


@pytest.fixture(scope="module")
def large_and_vectors() -> tuple[FrameIndex, np.ndarray]:
    vectors = walks(takes=40, frames=100, dim=16)
    index = FrameIndex(16, approximate_from=3000)
    index.add(vectors)
    assert not index.is_exact
    return index, vectors


def test_frames_of_other_takes_are_numbered_below_zero() -> None:
    index = FrameIndex(3)
    index.add(np.eye(3, dtype=np.float32), range(-2, 1))
    assert [frame for frame, _ in index.search(np.array([1, 0.5, 0], np.float32), [-2, -1, 0], 3)] == [-2, -1, 0]
    assert index.similarities(np.array([0, 2, 0], np.float32), [-1, 0]) == [1.0, 0.0]


def test_search_leaves_torch_its_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        index = FrameIndex(4)
        index.add(np.eye(4, dtype=np.float32))
        index.search(np.ones(4, np.float32), range(4), 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_is_no_number_is_like_nothing_and_says_so():
    index = FrameIndex(3)
    index.add(np.eye(3, dtype=np.float32))
    broken = np.array([1, np.nan, 0], np.float32)
    for ask in (
        lambda: index.search(broken, range(3), 1),
        lambda: index.search(broken, [], 1),
        lambda: index.add(broken[None]),
        lambda: index.insert(broken[None], [7]),
        lambda: index.similarities(broken, [0]),
        lambda: index.similarities(broken, []),
    ):
        with pytest.raises(ValueError, match="not finite numbers"):
            ask()
    assert len(index) == 3
    assert [frame for frame, _ in index.search(np.array([0, 1, 0], np.float32), range(3), 1)] == [1]
