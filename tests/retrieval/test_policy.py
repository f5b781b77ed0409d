"""What memory admits and picks, each rule by itself and against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrieval.encoder import MeanPoolEncoder
from retrieval.memory import Memory, pooled_prompts
from retrieval.policy import (
    RetrievalRules,
    admitted,
    evenly_spaced,
    falls_away,
    hybrid_keys,
    most_diverse,
    pinned_among,
    pinned_places,
    stratified_sample,
    unit,
    without,
)

AXES = np.eye(6, dtype=np.float32)


def vectors(seed: int, count: int, dim: int = 6) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32))


def test_excluded_and_refused_frames_are_left_out() -> None:
    assert list(without(range(1, 10), [range(3, 5), range(8, 20)], {6})) == [1, 2, 5, 7]
    candidates = range(1, 10)
    assert without(candidates, (), set()) is candidates


def test_pins_are_those_that_are_candidates() -> None:
    assert pinned_among(range(4, 9), [range(0, 6), range(8, 9)]) == [4, 5, 8]
    assert [pinned_places(k) for k in (1, 2, 3, 6, 7)] == [1, 1, 1, 3, 3]


@given(count=st.integers(0, 50), limit=st.integers(0, 9))
def test_spread_is_even_and_different(count: int, limit: int) -> None:
    frames = list(range(100, 100 + count))
    chosen = evenly_spaced(frames, limit)
    assert len(chosen) == min(count, limit) == len(set(chosen))
    assert chosen == sorted(chosen)
    if limit > 1 and count:
        assert (chosen[0], chosen[-1]) == (frames[0], frames[-1])
        gaps = np.diff(chosen)
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@given(count=st.integers(0, 60), limit=st.integers(0, 9), turn=st.integers(0, 10**6))
def test_spreading_by_turns_takes_one_of_each_part(count: int, limit: int, turn: int) -> None:
    frames = range(100, 100 + count)
    chosen = stratified_sample(frames, limit, turn)
    parts = min(limit, count)
    assert len(chosen) == parts == len(set(chosen))
    for part, frame in enumerate(chosen):
        assert part * count / parts - 1 < frame - 100 < (part + 1) * count / parts


@given(count=st.integers(1, 60), limit=st.integers(1, 6))
def test_spreading_by_turns_gives_every_frame_its_time(count: int, limit: int) -> None:
    turns = 20 * count
    counts = np.zeros(count)
    for turn in range(turns):
        counts[stratified_sample(range(count), limit, turn)] += 1
    fair = turns * min(limit, count) / count
    assert (np.abs(counts - fair) <= 0.35 * fair).all()


@given(seed=st.integers(0, 500), weight=st.floats(0, 0.99))
def test_a_hybrid_key_is_a_weighted_sum_of_cosines(seed: int, weight: float) -> None:
    latents, prompts = vectors(seed, 5), vectors(seed + 1, 5, 4)
    keys = hybrid_keys(latents, prompts, weight)
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1, atol=1e-5)
    expected = (1 - weight) * latents @ latents.T + weight * prompts @ prompts.T
    np.testing.assert_allclose(keys @ keys.T, expected, atol=1e-5)


def test_admission_asks_for_one_similar_anchor() -> None:
    frames = unit(np.array([[1, 0.1], [0.1, 1], [-1, 0]], dtype=np.float32))
    anchors = np.array([[1, 0], [0, 1]], dtype=np.float32)
    assert admitted(frames, anchors, 0.9).tolist() == [True, True, False]
    assert admitted(frames, anchors[:1], 0.9).tolist() == [True, False, False]


@given(seed=st.integers(0, 500), limit=st.integers(1, 8))
def test_no_diversity_is_the_most_similar(seed: int, limit: int) -> None:
    units, query = vectors(seed, 12), vectors(seed + 1, 1)[0]
    similarities = units @ query
    assert most_diverse(similarities, units, limit, 0.0) == list(np.argsort(-similarities, kind="stable")[:limit])


@given(seed=st.integers(0, 300), limit=st.integers(1, 6), diversity=st.floats(0.05, 0.95))
def test_diversity_is_maximal_marginal_relevance(seed: int, limit: int, diversity: float) -> None:
    units, query = vectors(seed, 10), vectors(seed + 1, 1)[0]
    similarities = units @ query
    chosen = most_diverse(similarities, units, limit, diversity)
    for place in range(len(chosen)):
        before, rest = chosen[:place], [i for i in range(10) if i not in chosen[:place]]
        scores = {
            i: (1 - diversity) * similarities[i] - diversity * max((units[i] @ units[j] for j in before), default=0.0)
            for i in rest
        }
        assert scores[chosen[place]] == pytest.approx(max(scores.values()), abs=1e-5)


def test_copies_are_passed_over() -> None:
    units = np.stack([AXES[0], AXES[0], AXES[0], AXES[1]])
    query = unit(np.array([1, 0.5, 0, 0, 0, 0], dtype=np.float32))
    assert most_diverse(units @ query, units, 2, 0.0) == [0, 1]
    assert most_diverse(units @ query, units, 2, 0.6) == [0, 3]


@given(seed=st.integers(0, 300), taken=st.integers(1, 4), diversity=st.floats(0.05, 0.95))
def test_what_was_chosen_before_counts_from_the_first_place_on(seed: int, taken: int, diversity: float) -> None:
    units, query, before = vectors(seed, 10), vectors(seed + 1, 1)[0], vectors(seed + 2, taken)
    similarities = units @ query
    chosen = most_diverse(similarities, units, 4, diversity, before)
    for place in range(len(chosen)):
        others = [*before, *units[chosen[:place]]]
        scores = {
            i: (1 - diversity) * similarities[i] - diversity * max(units[i] @ other for other in others)
            for i in range(10)
            if i not in chosen[:place]
        }
        assert scores[chosen[place]] == pytest.approx(max(scores.values()), abs=1e-5)


# ---- in the memory of a take ----


def small_memory(k: int, rules: RetrievalRules) -> Memory:
    """Of which every frame but the newest may be retrieved."""
    return Memory(
        MeanPoolEncoder(), window_frames=1, sink_frames=0, memory_frames=k, recency_guard_frames=0, rules=rules
    )


def memory_of(kinds: list[int], k: int, rules: RetrievalRules, prompts: list[int] | None = None) -> Memory:
    """A take whose frames are one-hot latents of these kinds; every frame but the newest may be retrieved."""
    memory = small_memory(k, rules)
    for number, kind in enumerate(kinds):
        if prompts is not None:
            memory.prompt(torch.from_numpy(AXES[prompts[number]])[None, None])
        latents = 0.05 * torch.ones(1, 1, 6, 2, 2)
        latents[0, 0, kind] += 1
        memory.add(latents)
    return memory


def frames_of(memory: Memory) -> tuple[int, ...]:
    (selection,) = memory.retrieve(block=9)
    assert list(selection.similarities) == sorted(selection.similarities, reverse=True)
    return selection.frames


def test_excluded_frames_are_never_retrieved() -> None:
    kinds = [0, 0, 1, 1, 0]
    assert set(frames_of(memory_of(kinds, 2, RetrievalRules()))) == {0, 1}
    assert 0 not in frames_of(memory_of(kinds, 2, RetrievalRules(exclude=(range(0, 1),))))


def test_pinned_frames_come_first_and_take_half_at_most() -> None:
    kinds = [1, 1, 1, 0, 0, 0, 0, 0]
    chosen = frames_of(memory_of(kinds, 4, RetrievalRules(pin=(range(0, 3),))))
    assert len([frame for frame in chosen if frame < 3]) == 2
    assert len(chosen) == 4


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (RetrievalRules(), (0, 1, 2, 3)),
        (RetrievalRules(pin=(range(5, 7),)), (0, 1, 5, 6)),
        (RetrievalRules(exclude=(range(1, 3),)), (0, 3, 4, 5)),
        (RetrievalRules(stratified=4), tuple(stratified_sample(range(9), 4, turn=9))),
        (RetrievalRules(policy=lambda past: [7, 3, 5]), (3, 5, 7)),
        (RetrievalRules(pin=(range(8, 9),), policy=lambda past: [6, 2]), (2, 6, 8)),
    ],
)
def test_of_equal_frames_the_older_come_first_by_every_rule(rules: RetrievalRules, expected: tuple[int, ...]) -> None:
    assert frames_of(memory_of([0] * 10, 4, rules)) == expected


def test_a_copy_of_a_pinned_frame_is_passed_over() -> None:
    """Frames 0 to 2 show what the newest shows, frame 3 something else."""
    kinds = [0, 0, 0, 1, 0]
    pinned = {"pin": (range(0, 1),)}
    assert set(frames_of(memory_of(kinds, 2, RetrievalRules(**pinned)))) <= {0, 1, 2}
    assert frames_of(memory_of(kinds, 2, RetrievalRules(**pinned, diversity=0.6))) == (0, 3)
    excluded = RetrievalRules(**pinned, diversity=0.6, exclude=(range(3, 4),))
    assert set(frames_of(memory_of(kinds, 2, excluded))) <= {0, 1, 2}  # nothing else is there


def test_spread_frames_are_taken_whatever_they_show_and_the_search_fills_the_rest() -> None:
    kinds = [1, 2, 3, 4, 5, 1, 2, 0, 0, 0, 0]  # the newest four are alike
    assert set(frames_of(memory_of(kinds, 3, RetrievalRules()))) == {7, 8, 9}
    old = stratified_sample(range(10), 2, turn=9)
    chosen = frames_of(memory_of(kinds, 4, RetrievalRules(stratified=2)))
    assert set(chosen) == {*old, *[frame for frame in (7, 8, 9) if frame not in old][:2]}
    assert set(frames_of(memory_of(kinds, 3, RetrievalRules(stratified=3)))) == set(
        stratified_sample(range(10), 3, turn=9)
    )


def test_spread_frames_obey_the_other_rules() -> None:
    kinds = [1, 1, 1, 0, 0, 0, 0, 0]
    rules = RetrievalRules(pin=(range(0, 3),), exclude=(range(3, 5),), stratified=4)
    chosen = frames_of(memory_of(kinds, 4, rules))
    assert len([frame for frame in chosen if frame < 3]) >= 2
    assert not {3, 4} & set(chosen)
    assert len(chosen) == len(set(chosen)) == 4
    drifted = [0, 0, 3, 3, 0, 3]
    gate = RetrievalRules(anchors=range(0, 2), admit_above=0.8, stratified=3)
    assert set(frames_of(memory_of(drifted, 3, gate))) == {0, 1, 4}


def test_drifted_frames_are_not_admitted() -> None:
    kinds = [0, 0, 3, 3, 0, 3]  # the newest has drifted: it asks for drift
    gate = RetrievalRules(anchors=range(0, 2), admit_above=0.8)
    assert set(frames_of(memory_of(kinds, 2, RetrievalRules()))) == {2, 3}
    assert set(frames_of(memory_of(kinds, 3, gate))) == {0, 1, 4}


def test_a_return_cue_finds_frames_made_under_words_like_it() -> None:
    """The newest latent is an empty meadow (2); the cue speaks of the fox (prompt 0), last seen in frames 0 and 1."""
    kinds, prompts = [0, 0, 2, 2, 2], [0, 0, 5, 5, 5]
    by_latent = memory_of(kinds, 2, RetrievalRules())
    assert set(frames_of(by_latent)) == {2, 3}
    hybrid = memory_of(kinds, 2, RetrievalRules(prompt_weight=0.6), prompts)
    assert set(frames_of(hybrid)) == {2, 3}
    hybrid.prompt(torch.from_numpy(AXES[0])[None, None])
    assert set(frames_of(hybrid)) == {0, 1}


def test_what_was_made_under_other_words_is_not_brought_back_but_for_pins() -> None:
    """Prompts 0 and 1 have nothing in common; places stay empty rather than be filled with somebody else."""
    kinds, prompts = [0, 0, 2, 2, 2], [0, 0, 1, 1, 1]
    rules = RetrievalRules(prompt_weight=0.5, like_words=0.5)
    assert set(frames_of(memory_of(kinds, 4, rules, prompts))) == {2, 3}
    assert set(frames_of(memory_of(kinds, 4, replace(rules, like_words=0.0), prompts))) == {0, 1, 2, 3}
    assert set(frames_of(memory_of(kinds, 4, replace(rules, pin=(range(0, 1),)), prompts))) == {0, 2, 3}
    stranger = memory_of(kinds, 4, rules, prompts)
    stranger.prompt(torch.from_numpy(AXES[5])[None, None])
    assert stranger.retrieve(block=9) == ()


@given(seed=st.integers(0, 500), least=st.floats(0.01, 0.9))
def test_words_are_as_alike_as_their_cosine(seed: int, least: float) -> None:
    rng = np.random.default_rng(seed)
    prompts = rng.standard_normal((6, 6)).astype(np.float32)
    memory = small_memory(6, RetrievalRules(prompt_weight=0.3, like_words=least))
    for prompt in prompts:
        memory.prompt(torch.from_numpy(prompt)[None, None])
        memory.add(torch.from_numpy(rng.standard_normal((1, 1, 6, 2, 2)).astype(np.float32)))
    alike = unit(prompts) @ unit(prompts)[-1]
    found = memory.retrieve(block=9)
    assert set(found[0].frames if found else ()) == {frame for frame in range(5) if alike[frame] >= least}


@given(seed=st.integers(0, 500), weight=st.floats(0.01, 0.99))
def test_a_part_of_a_key_that_is_zero_is_like_nothing_and_leaves_the_weights(seed: int, weight: float) -> None:
    """Latents and prompts, some of them zero; the newest frame asks, under the last prompt."""
    rng = np.random.default_rng(seed)
    frames = 7
    latents, prompts = rng.standard_normal((2, frames, 6))
    latents[rng.random(frames) < 0.4] = 0
    prompts[rng.random(frames) < 0.4] = 0
    memory = small_memory(frames, RetrievalRules(prompt_weight=weight))
    for latent, prompt in zip(latents, prompts, strict=True):
        memory.prompt(torch.tensor(prompt)[None, None])
        memory.add(torch.tensor(latent)[None, None, :, None, None])

    (selection,) = memory.retrieve(block=9)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / lengths) if lengths else 0.0

    expected = [
        (1 - weight) * cosine(latents[frame], latents[-1]) + weight * cosine(prompts[frame], prompts[-1])
        for frame in selection.frames
    ]
    assert sorted(selection.frames) == list(range(frames - 1))
    np.testing.assert_allclose(selection.similarities, expected, atol=2e-5)


def test_prompts_are_pooled_over_their_words_alone() -> None:
    embeds = torch.zeros(1, 5, 3)
    embeds[0, :2] = torch.tensor([[3.0, 0, 0], [0, 4.0, 0]])
    np.testing.assert_allclose(pooled_prompts(embeds), [[0.6, 0.8, 0]], atol=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sink_frames", [0, 9])
@pytest.mark.parametrize("chooses", [False, True])
@pytest.mark.parametrize(
    "rules",
    [
        RetrievalRules(),
        RetrievalRules(establish_frames=1, new_view=0.5),
        RetrievalRules(exclude=(range(0, 99),), establish_frames=1),
        RetrievalRules(anchors=range(0, 1), admit_above=0.5, establish_frames=1),
        RetrievalRules(stratified=2),
    ],
)
def test_frames_that_are_no_numbers_are_refused_even_where_they_would_not_enter(
    broken: float, sink_frames: int, chooses: bool, rules: RetrievalRules
) -> None:
    memory = Memory(
        MeanPoolEncoder(),
        window_frames=sink_frames + 1,
        sink_frames=sink_frames,
        memory_frames=2,
        recency_guard_frames=0,
        rules=rules,
        choose=(lambda take, block, candidates: candidates[:1]) if chooses else None,
    )
    memory.add(torch.ones(1, 3, 6, 2, 2))
    latents = torch.ones(1, 3, 6, 2, 2)
    latents[0, 1, 0] = broken
    before = memory.retrieve(1)
    with pytest.raises(ValueError, match="not finite numbers"):
        memory.add(latents)
    assert memory.retrieve(1) == before


def test_a_prompt_that_is_no_number_is_refused() -> None:
    memory = memory_of([0, 1], 1, RetrievalRules(prompt_weight=0.5), [0, 1])
    with pytest.raises(ValueError, match="not finite numbers"):
        memory.prompt(torch.full((1, 2, 6), torch.nan))


def test_a_block_falls_away_by_what_it_lacks_to_the_frames_it_remembered() -> None:
    """Angles on a circle: the remembered frames lie 10 and 30 degrees apart, the block 50 degrees from the nearest."""

    def at(*degrees: float) -> np.ndarray:
        angles = np.radians(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    trusted, widest = at(0, 10, 40), np.cos(np.radians(30))
    assert falls_away(at(90), trusted) == pytest.approx(widest - np.cos(np.radians(50)), abs=1e-6)
    assert falls_away(at(90, 40), trusted) == pytest.approx(widest - (1 + np.cos(np.radians(50))) / 2, abs=1e-6)
    assert falls_away(at(0, 10, 70), trusted) == 0.0  # the mean is as near as they are to each other
    assert falls_away(at(90), trusted[:1]) == 0.0  # one frame has no spread
    assert falls_away(at(90), trusted[:0]) == 0.0
