"""The gate of establishing shots: what enters memory, and that memory is never empty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrieval.encoder import MeanPoolEncoder
from retrieval.memory import Memory
from retrieval.policy import NEW_VIEW_STEPS, FirstShowings, RetrievalRules, unit

RULES = RetrievalRules(establish_frames=4, new_view=0.95)
AXES = np.eye(12, dtype=np.float32)


def memory_of(rules: RetrievalRules = RULES, sink: int = 1, **settings) -> Memory:
    return Memory(
        MeanPoolEncoder(),
        window_frames=3,
        sink_frames=sink,
        memory_frames=4,
        recency_guard_frames=0,
        rules=rules,
        **settings,
    )


def latents_of(vectors: np.ndarray) -> torch.Tensor:
    """[T, D] or [B, T, D] to latents whose mean-pooled embeddings they are."""
    vectors = torch.from_numpy(np.asarray(vectors, np.float32))
    return (vectors if vectors.dim() == 3 else vectors[None])[..., None, None].repeat(1, 1, 1, 2, 2)


def show(memory: Memory, vectors: np.ndarray, at_once: int = 1) -> list[int]:
    """Let memory see frames; returns which of them entered."""
    for start in range(0, len(vectors), at_once):
        memory.add(latents_of(vectors[start : start + at_once]))
    (entered,) = memory.entered()
    return list(entered)


def kinds(*counts: int) -> np.ndarray:
    """So many frames of the first kind, then of the second, and so on."""
    return np.concatenate([AXES[kind].repeat(count).reshape(12, count).T for kind, count in enumerate(counts)])


def by_hand(vectors: np.ndarray, rules: RetrievalRules, sink: int) -> list[int]:
    """The definition, frame by frame, over all similarities."""
    return judged(vectors, rules, sink)[0]


def margin_of(vectors: np.ndarray, rules: RetrievalRules, sink: int) -> float:
    """How close a frame came to being judged otherwise."""
    return judged(vectors, rules, sink)[1]


def judged(vectors: np.ndarray, rules: RetrievalRules, sink: int) -> tuple[list[int], float]:
    likeness = (units := unit(vectors)) @ units.T
    entered: list[int] = []
    steps: list[float] = []
    open_from, open_until, margin = -1, -1, np.inf
    for frame in range(sink, len(vectors)):
        alike = likeness[frame, entered].max() if entered else -np.inf
        below = rules.new_view
        if below is None:
            below = 1 - NEW_VIEW_STEPS * np.sort(steps)[len(steps) // 2] if steps else 1.0
        if open_from < frame < open_until:
            steps += [1 - alike] if entered else []
        elif frame >= open_until:
            settle = rules.settle_frames
            lately = likeness[frame, frame - settle] if settle and frame >= settle and entered else -np.inf
            margin = min(margin, abs(alike - below), abs(lately - below))
            if max(alike, lately) < below:
                open_from = frame + (rules.settle_frames if frame > sink else 0)
                open_until = open_from + rules.establish_frames
        if open_from <= frame < open_until:
            entered.append(frame)
    return entered, margin


def test_memory_keeps_the_first_showing_of_each_view() -> None:
    views = np.concatenate([kinds(10, 10), kinds(10, 10), kinds(0, 0, 6)])
    assert show(memory_of(), views) == [1, 2, 3, 4, 10, 11, 12, 13, 40, 41, 42, 43]


def test_a_new_view_enters_once_it_has_settled() -> None:
    rules = replace(RULES, settle_frames=3)
    views = np.concatenate([kinds(10, 10), kinds(10, 0, 9)])
    assert show(memory_of(rules), views) == [1, 2, 3, 4, 13, 14, 15, 16, 33, 34, 35, 36]


def test_a_view_that_does_not_last_until_it_has_settled_leaves_its_place_to_the_next() -> None:
    rules = replace(RULES, settle_frames=3)
    assert show(memory_of(rules), kinds(10, 2, 9)) == [1, 2, 3, 4, 13, 14, 15, 16]


@pytest.mark.parametrize(("turn_s", "enters"), [(2, True), (400, False)])
def test_what_comes_about_little_by_little_is_drift(turn_s: int, enters: bool) -> None:
    angle = np.minimum(np.arange(500) / turn_s, 1) * np.pi / 2
    angle[:40] = 0
    rules = RetrievalRules(establish_frames=4, settle_frames=12, new_view=0.95)
    entered = show(memory_of(rules), np.outer(np.cos(angle), AXES[0]) + np.outer(np.sin(angle), AXES[1]))
    assert (len(entered) > 4) == enters


def test_memory_that_was_emptied_opens_at_once() -> None:
    rules = replace(RULES, settle_frames=3)
    memory = memory_of(rules)
    assert show(memory, kinds(10)) == [1, 2, 3, 4]
    memory.steer(replace(rules, exclude=(range(0, 10),)), no_past)
    assert show(memory, kinds(6)) == [10, 11, 12, 13]


def test_mixed_frames_are_not_what_a_view_s_own_steps_are_told_from() -> None:
    gate, rules = FirstShowings(), RetrievalRules(establish_frames=4, settle_frames=2)
    alike = [-np.inf, 0.99, 0.99, 0.99, 0.2, 0.3, 0.4, 0.99, 0.99, 0.99]
    assert [gate.admits(n, rules, lambda n=n: alike[n]) for n in range(10)] == [True] * 4 + [False] * 2 + [True] * 4
    assert 1 - gate.new_below(None) == pytest.approx(NEW_VIEW_STEPS * 0.01)


@given(
    seed=st.integers(0, 400),
    frames=st.integers(1, 40),
    establish=st.integers(1, 9),
    new_view=st.floats(-0.5, 1),
    sink=st.integers(0, 3),
    at_once=st.integers(1, 4),
    settle=st.integers(0, 5),
)
def test_it_is_the_definition_whatever_the_blocks(seed, frames, establish, new_view, sink, at_once, settle) -> None:
    rng = np.random.default_rng(seed)
    vectors = np.cumsum(rng.standard_normal((frames, 12)), axis=0).astype(np.float32) + 0.01
    likeness = (units := unit(vectors)) @ units.T
    if np.abs(likeness - new_view).min() < 1e-5:
        return  # FAISS and NumPy may round to either side
    rules = RetrievalRules(establish_frames=establish, settle_frames=settle, new_view=new_view)
    assert show(memory_of(rules, sink), vectors, at_once) == by_hand(vectors, rules, sink)


@given(
    seed=st.integers(0, 400),
    jumps=st.integers(1, 6),
    spread=st.floats(0.01, 0.3),
    sink=st.integers(0, 3),
    settle=st.integers(0, 5),
)
def test_a_take_s_own_steps_say_what_is_new(seed, jumps, spread, sink, settle) -> None:
    """Whatever the scale: views whose frames wander a little, and from one view to the next a jump."""
    rng = np.random.default_rng(seed)
    views = [AXES[kind] + spread * rng.standard_normal((14, 12)) for kind in rng.permutation(12)[:jumps]]
    vectors = np.concatenate([*views, views[0]]).astype(np.float32)
    rules = RetrievalRules(establish_frames=8, settle_frames=settle)
    entered, margin = by_hand(vectors, rules, sink), margin_of(vectors, rules, sink)
    if margin > 1e-5:  # FAISS and NumPy may round to either side
        assert show(memory_of(rules, sink), vectors) == entered


@pytest.mark.parametrize("scale", [0.02, 0.2, 1.0])
def test_views_are_told_apart_at_any_scale(scale: float) -> None:
    """Three views, each wandering by a twentieth of the way between them, on an encoder that finds all alike or not."""
    rng = np.random.default_rng(0)
    common = 3 * AXES[11]
    seen = [AXES[kind] + 0.02 * rng.standard_normal((20, 12)) for kind in (0, 1, 0, 2)]
    vectors = (common + scale * np.concatenate(seen)).astype(np.float32)
    assert show(memory_of(RetrievalRules(establish_frames=8)), vectors) == [
        *range(1, 9),
        *range(20, 28),
        *range(60, 68),
    ]


@pytest.mark.parametrize("prompt_weight", [0.0, 0.3, 0.8])
def test_words_are_no_part_of_what_is_new(prompt_weight: float) -> None:
    memory = memory_of(RetrievalRules(establish_frames=4, new_view=0.95, prompt_weight=prompt_weight))
    memory.prompt(torch.from_numpy(AXES[:1])[:, None])
    assert show(memory, kinds(8)) == [1, 2, 3, 4]
    memory.prompt(torch.from_numpy(AXES[1:2])[:, None])  # a cue alone opens nothing; what it shows does
    assert show(memory, kinds(4)) == []
    assert show(memory, kinds(0, 2)) == [12, 13]


def test_an_hour_of_one_view_stays_as_small_as_its_first_seconds() -> None:
    rng = np.random.default_rng(0)
    views = AXES[:1] + 0.01 * rng.standard_normal((14_400, 12)).astype(np.float32)
    memory = memory_of()
    assert show(memory, views, at_once=3) == [1, 2, 3, 4]
    (selection,) = memory.retrieve(4800)
    assert sorted(selection.frames) == [1, 2, 3, 4]
    assert selection.candidates == 4


def test_noise_is_all_new_and_memory_holds_no_more_than_was_shown() -> None:
    noise = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
    assert show(memory_of(RetrievalRules(establish_frames=4, new_view=1.0)), noise) == list(range(1, 300))


def test_from_the_first_candidate_on_memory_is_never_empty() -> None:
    memory = memory_of(RetrievalRules(establish_frames=1, new_view=-1.0))
    for frame in range(12):
        selections = memory.retrieve(frame)
        assert bool(selections) == (frame >= 4)  # window 3, sink 1: frame 1 has left when there are 4
        memory.add(latents_of(AXES[:1]))


def test_what_is_excluded_neither_enters_nor_counts_as_shown() -> None:
    memory = memory_of(RetrievalRules(exclude=(range(0, 6),), establish_frames=4, new_view=0.95))
    assert show(memory, kinds(20)) == [6, 7, 8, 9]


def test_excluding_all_that_memory_holds_opens_it_again() -> None:
    memory = memory_of()
    assert show(memory, kinds(20)) == [1, 2, 3, 4]
    memory.steer(RetrievalRules(exclude=(range(0, 5),), establish_frames=4, new_view=0.95), no_past)
    assert memory.retrieve(7) == ()
    assert show(memory, kinds(10)) == [20, 21, 22, 23]
    (selection,) = memory.retrieve(10)
    assert set(selection.frames) == {20, 21, 22, 23}


def test_a_pin_always_enters() -> None:
    memory = memory_of(RetrievalRules(pin=(range(10, 12),), establish_frames=4, new_view=0.95))
    assert show(memory, kinds(20)) == [1, 2, 3, 4, 10, 11]


def test_a_pin_that_comes_late_brings_in_what_was_kept_out() -> None:
    views = kinds(20)
    memory = memory_of()
    show(memory, views)
    asked = []

    def embed_past(take: int, frames) -> np.ndarray:
        asked.append((take, list(frames)))
        return views[list(frames)]

    memory.steer(RetrievalRules(pin=(range(10, 12),), establish_frames=4, new_view=0.95), embed_past)
    assert asked == [(0, [10, 11])]
    assert memory.entered() == ((10, 11),)
    (selection,) = memory.retrieve(7)
    assert {10, 11} <= set(selection.frames)
    assert selection.candidates == 6


def test_a_pin_enters_where_nothing_else_has() -> None:
    gate = {"establish_frames": 4, "new_view": 0.95, "exclude": (range(0, 99),)}
    memory = memory_of(RetrievalRules(**gate))
    assert show(memory, kinds(20)) == []
    gate["exclude"] = (range(0, 10),)
    memory.steer(RetrievalRules(**gate, pin=(range(10, 12),)), lambda take, frames: kinds(20)[list(frames)])
    (selection,) = memory.retrieve(7)
    assert set(selection.frames) == {10, 11}


def test_it_can_be_turned_on_and_off_on_the_way() -> None:
    memory = memory_of(RetrievalRules())
    assert show(memory, kinds(6)) == list(range(6))
    memory.steer(RULES, no_past)
    assert show(memory, kinds(6)) == []
    assert show(memory, kinds(0, 6)) == [12, 13, 14, 15]
    memory.steer(RetrievalRules(), no_past)
    assert show(memory, kinds(3)) == [18, 19, 20]


def test_frames_of_other_takes_are_in_memory_and_count_as_shown() -> None:
    memory = memory_of()
    memory.add_external(kinds(3), None, batch_size=1)
    assert show(memory, kinds(10, 10)) == [10, 11, 12, 13]
    (selection,) = memory.retrieve(7)
    assert selection.candidates == 3 + 4


def test_frames_unlike_their_anchors_neither_enter_nor_open_it() -> None:
    rules = RetrievalRules(anchors=range(0, 2), admit_above=0.8, establish_frames=4, new_view=0.95)
    assert show(memory_of(rules), kinds(8, 8)) == [1, 2, 3, 4]


def test_each_take_of_a_batch_has_a_gate_of_its_own() -> None:
    first, second = kinds(12, 12), kinds(24)
    memory = memory_of()
    memory.add(latents_of(np.stack([first, second])))
    assert memory.entered() == ((1, 2, 3, 4, 12, 13, 14, 15), (1, 2, 3, 4))
    alone = memory_of()
    show(alone, first)
    assert memory.retrieve(8)[0] == alone.retrieve(8)[0]


def test_whoever_chooses_chooses_from_all_of_the_past() -> None:
    memory = memory_of(choose=lambda take, block, candidates: list(candidates)[-2:])
    assert show(memory, kinds(20)) == list(range(20))
    (selection,) = memory.retrieve(7)
    assert selection.frames == (16, 17)


def test_the_gate_asks_for_a_likeness_only_where_it_matters() -> None:
    gate, asked = FirstShowings(), []

    def likeness() -> float:
        asked.append(1)
        return -1.0 if len(asked) == 1 else 1.0

    entered = [gate.admits(frame, RULES, likeness) for frame in range(6)]
    assert entered == [True] * 4 + [False] * 2
    assert len(asked) == 3


def test_after_a_cut_a_new_view_is_let_in_at_once_and_the_old_sink_with_it() -> None:
    rules = replace(RULES, settle_frames=3)
    vectors = kinds(7, 12)
    within, across = memory_of(rules, sink=2), memory_of(rules, sink=2)
    assert show(within, vectors) == [2, 3, 4, 5, 10, 11, 12, 13]
    assert show(across, vectors[:7]) == [2, 3, 4, 5]
    across.begin_shot(lambda take, frames: vectors[list(frames)])
    assert show(across, vectors[7:]) == [0, 1, 7, 8, 9, 10]


def test_a_cut_closes_the_gate_and_a_view_seen_before_stays_out() -> None:
    memory, vectors = memory_of(replace(RULES, settle_frames=3)), kinds(3, 8)
    assert show(memory, vectors[:3]) == [1, 2]  # it would let in two more
    memory.begin_shot(lambda take, frames: vectors[list(frames)])
    assert show(memory, vectors[:2]) == [0]
    assert show(memory, vectors[3:]) == [8, 9, 10, 11]  # no cut: once it has settled


def test_a_shot_under_quite_other_words_is_let_in_whatever_it_looks_like() -> None:
    rules = replace(RULES, prompt_weight=0.5, like_words=0.5, settle_frames=3)
    memory = memory_of(rules)
    same, other = (torch.from_numpy(AXES[axis : axis + 1])[:, None] for axis in (0, 1))
    memory.prompt(same)
    assert show(memory, kinds(8)) == [1, 2, 3, 4]
    memory.begin_shot(lambda take, frames: kinds(8)[list(frames)])
    memory.prompt(other)
    assert show(memory, kinds(8)) == [0, 8, 9, 10, 11]  # the old sink, and the shot from its first frame on
    memory.begin_shot(lambda take, frames: kinds(8)[list(frames)])
    memory.prompt(same)  # by words that memory knows only what looks new opens it
    assert show(memory, kinds(8)) == []
    memory.prompt(other)  # within a shot as well
    assert show(memory, kinds(8)) == []


def test_within_a_shot_other_words_let_in_what_they_bring_once_it_has_settled() -> None:
    rules = replace(RULES, prompt_weight=0.5, like_words=0.5, settle_frames=3)
    memory = memory_of(rules)
    prompts = [torch.from_numpy(AXES[axis : axis + 1])[:, None] for axis in range(3)]
    memory.prompt(prompts[0])
    assert show(memory, kinds(8)) == [1, 2, 3, 4]
    memory.prompt(prompts[1])
    assert show(memory, kinds(8)) == [11, 12, 13, 14]  # all looks alike, so only the words can have opened it
    memory.prompt(prompts[0])
    assert show(memory, kinds(8)) == []
    memory.prompt(prompts[1])
    assert show(memory, kinds(8)) == []
    memory.prompt(prompts[2])
    assert show(memory, kinds(2)) == []
    memory.prompt(prompts[0])
    assert show(memory, kinds(3)) == [35, 36]  # what comes before it has settled takes its place, as with a view
    memory.prompt(prompts[2])  # so it is still new
    assert show(memory, kinds(8)) == [40, 41, 42, 43]

    unweighed = memory_of(replace(rules, like_words=0.0))
    unweighed.prompt(prompts[0])
    show(unweighed, kinds(8))
    unweighed.prompt(prompts[1])
    assert show(unweighed, kinds(8)) == []


def no_past(take: int, frames) -> np.ndarray:
    raise AssertionError("nothing is to be embedded again")
