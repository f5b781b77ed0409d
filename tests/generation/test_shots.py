"""A shot begins as a take does; of what came before only memory is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backbone.cache import KVCache
from backbone.config import ContextConfig, SamplerConfig
from backbone.transformer import CausalWanTransformer
from longlive_rag.generation.noise import PhiloxNoise
from longlive_rag.generation.rollout import FinishedBlock, Rollout
from retrieval.budgets import PageBudgets
from retrieval.encoder import MeanPoolEncoder
from retrieval.policies.look_ahead import look_ahead
from retrieval.policy import RetrievalRules

LATENT = (16, 4, 6)
TEXT = (7, 20)
CUT = 5
BLOCKS = 12


class LaterNoise:
    """The noise of a take from block `CUT` on."""

    name = "later"

    def __init__(self, seeds: Sequence[int]) -> None:
        self._noise = PhiloxNoise(seeds)

    def __call__(self, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        return self._noise(block + CUT, step, shape)


def prompts(number: int, batch: int) -> Tensor:
    draws = [
        torch.randn(1, *TEXT, generator=torch.Generator().manual_seed(10 * number + take)) for take in range(batch)
    ]
    return torch.cat(draws)


def rollout_of(
    transformer: CausalWanTransformer, seeds: Sequence[int] = (21,), noise: Any = PhiloxNoise, **settings: Any
) -> Rollout:
    names = ("window_frames", "sink_frames", "memory_frames", "recency_guard_frames", "frames_per_block", "rope")
    context = ContextConfig(**{name: settings.pop(name) for name in names if name in settings})
    encoder = MeanPoolEncoder() if context.memory_frames else None
    return Rollout(
        transformer, context, SamplerConfig(), noise(list(seeds)), LATENT, batch_size=len(seeds), encoder=encoder,
        **settings,
    )  # fmt: skip


def make(rollout: Rollout, blocks: int = BLOCKS, cuts: Sequence[int] = (CUT,), batch: int = 1) -> list[FinishedBlock]:
    finished = []
    for block in range(blocks):
        if not block or block in cuts:
            rollout.direct(prompts(block, batch), cut=block > 0)
        finished.append(rollout.next_block())
    return finished


def latents(finished: Sequence[FinishedBlock]) -> Tensor:
    return torch.cat([block.latents for block in finished], dim=1)


def test_nothing_before_the_cut_knows_of_it(transformer: CausalWanTransformer) -> None:
    cut, uncut = make(rollout_of(transformer)), make(rollout_of(transformer), cuts=())
    assert torch.equal(latents(cut[:CUT]), latents(uncut[:CUT]))
    assert [block.selections for block in cut[:CUT]] == [block.selections for block in uncut[:CUT]]
    assert not torch.allclose(cut[CUT].latents, uncut[CUT].latents)


@pytest.mark.parametrize("rope", ["relative", "absolute"])
@pytest.mark.parametrize(
    "sizes", [{}, {"sink_frames": 3}, {"frames_per_block": 1, "sink_frames": 2}, {"sink_frames": 0}]
)
def test_without_memory_a_shot_is_a_take_of_its_own_bit_for_bit(
    transformer: CausalWanTransformer, rope: str, sizes: dict[str, int]
) -> None:
    """So nothing of the shot before is in it: only noise and words are."""
    settings = {"memory_frames": 0, "rope": rope, **sizes}
    cut = make(rollout_of(transformer, **settings))
    alone = rollout_of(transformer, noise=LaterNoise, **settings)
    alone.direct(prompts(CUT, 1))
    for block in cut[CUT:]:
        assert torch.equal(block.latents, alone.next_block().latents)


def test_a_cue_within_a_shot_recaches_what_the_shot_has(transformer: CausalWanTransformer) -> None:
    rollout, alone = (rollout_of(transformer, noise=noise, memory_frames=0) for noise in (PhiloxNoise, LaterNoise))
    make(rollout, CUT)
    rollout.direct(prompts(CUT, 1), cut=True)
    alone.direct(prompts(CUT, 1))
    for block in range(7):
        if block in (1, 6):  # while the shot fits the window, and later
            rollout.direct(prompts(block, 1))
            alone.direct(prompts(block, 1))
        assert torch.equal(rollout.next_block().latents, alone.next_block().latents)


def test_the_context_of_a_shot_holds_of_earlier_shots_what_memory_brings(
    transformer: CausalWanTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid: list[tuple[list[int], list[int], list[int], list[int]]] = []
    lay_out = KVCache._lay_out

    def spy(cache: KVCache, sink, memory, local, tail, gained=None) -> None:
        frames = cache.frames
        brought = [frame for frame, _ in memory[0]] if memory else []
        laid.append(([frames[s] for s in sink], brought, [frames[s] for s in local], [frames[s] for s in tail]))
        lay_out(cache, sink, memory, local, tail, gained)

    monkeypatch.setattr(KVCache, "_lay_out", spy)
    finished = make(rollout_of(transformer, sink_frames=2))
    first = 3 * CUT
    for block, (sink, memory, local, tail) in enumerate(laid):
        start = first if block >= CUT else 0
        assert tail == list(range(3 * block, 3 * block + 3))
        assert sink == ([] if block in (0, CUT) else [start, start + 1])
        assert set(local) <= set(range(start + 2, 3 * block))
        assert memory == list(finished[block].selections[0].frames if finished[block].selections else ())
    at_cut = finished[CUT].selections[0]
    assert at_cut.candidates == first  # sink, window and guard of the shot that is over among them
    assert at_cut.frames == (0, 3, 6, 8, 11, 14)
    assert not finished[CUT - 1].selections
    candidates = [block.selections[0].candidates for block in finished[CUT:]]
    assert candidates == [first] * 5 + [first, first + 1]


def test_searched_by_the_words_alone_at_the_cut(transformer: CausalWanTransformer) -> None:
    """The third shot has the first one's words; its first block is brought frames of the first shot, whatever the
    newest frame shows, and the oldest of them first: one is as like the words as another."""
    rollout = rollout_of(transformer, rules=RetrievalRules(prompt_weight=0.3, like_words=0.5), memory_frames=3)
    selections = []
    for block in range(9):
        if block in (0, 3, 6):
            rollout.direct(prompts(block % 6, 1), cut=block > 0)
        selections.append(rollout.next_block().selections)
    assert set(selections[6][0].frames) <= set(range(9))
    assert selections[6][0].similarities == pytest.approx([0.3] * 3)
    assert selections[3] == ()  # quite other words: nothing that was made has to do with them
    assert selections[4] == ()
    assert set(selections[7][0].frames) <= {*range(9), *range(18, 21)}


def test_pins_and_exclusions_hold_at_a_cut(transformer: CausalWanTransformer) -> None:
    rules = RetrievalRules(pin=(range(7, 9),), exclude=(range(0, 6),))
    at_cut = make(rollout_of(transformer, rules=rules), CUT + 1)[CUT].selections[0]
    assert {7, 8} <= set(at_cut.frames) <= set(range(6, 15))


def test_whoever_chooses_is_asked_among_all_that_came_before(transformer: CausalWanTransformer) -> None:
    asked = {}

    def choose(take: int, block: int, candidates: Sequence[int]) -> list[int]:
        asked[block] = list(candidates)
        return list(candidates)[-2:]

    finished = make(rollout_of(transformer, choose=choose))
    assert asked[CUT] == list(range(15))
    assert (finished[CUT].selections[0].frames, finished[CUT].selections[0].similarities) == ((13, 14), (0.0, 0.0))
    assert asked[11] == [*range(15), 16]
    with pytest.raises(ValueError, match=r"out of 0\.\.14"):
        make(rollout_of(transformer, choose=lambda *_: [15]))


@pytest.mark.parametrize("memory_frames", [0, 6])
def test_a_batch_is_cut_as_each_take_alone(transformer: CausalWanTransformer, memory_frames: int) -> None:
    rules = RetrievalRules(establish_frames=4, settle_frames=12)
    both = make(rollout_of(transformer, (21, 22), rules=rules, memory_frames=memory_frames), batch=2)
    for take in range(2):
        rollout = rollout_of(transformer, (21 + take,), rules=rules, memory_frames=memory_frames)
        for block in range(BLOCKS):
            if block in (0, CUT):
                rollout.direct(prompts(block, 2)[take : take + 1], cut=block > 0)
            alone = rollout.next_block()
            torch.testing.assert_close(both[block].latents[take], alone.latents[0], rtol=1e-4, atol=1e-4)
            if alone.selections:
                assert both[block].selections[take].frames == alone.selections[0].frames


PAGE = 2 * 2 * 6 * 48 * 4
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "native": {"memory_frames": 0},
    "no pages": {"budgets": PageBudgets(host_bytes=0), "rope": "absolute"},
    "pages are kept": {"budgets": PageBudgets(host_bytes=9 * PAGE, remake_stale=False)},
    "first showings": {"rules": RetrievalRules(establish_frames=3, settle_frames=12), "sink_frames": 2},
    "by words": {"rules": RetrievalRules(prompt_weight=0.4, diversity=0.3)},
    "looking ahead": {"rules": RetrievalRules(policy=look_ahead)},
}


@pytest.mark.parametrize("case", CASES)
def test_a_take_goes_on_after_any_block_bit_for_bit(transformer: CausalWanTransformer, case: str) -> None:
    """From the state after it, and by running all again."""
    blocks, cuts = 8, (3, 6)
    whole = make(rollout_of(transformer, **CASES[case]), blocks, cuts)

    def direction(block: int) -> tuple[Tensor | None, bool]:
        return (prompts(block, 1) if not block or block in cuts else None), block in cuts

    def go_on(rollout: Rollout, done: int) -> None:
        for block in range(done, blocks):
            words, cut = direction(block)
            if words is not None:
                rollout.direct(words, cut)
            made = rollout.next_block()
            assert torch.equal(made.latents, whole[block].latents)
            assert (made.selections, made.entered) == (whole[block].selections, whole[block].entered)

    facts = [(b.latents, None if b.embeddings is None else b.embeddings.numpy(), b.selections) for b in whole]
    first, again = rollout_of(transformer, **CASES[case]), rollout_of(transformer, **CASES[case])
    for done in range(1, blocks):
        words, cut = direction(done - 1)
        for rollout in (first, again):
            if words is not None:
                rollout.direct(words, cut)
        first.next_block()
        again.replay(*facts[done - 1])
        resumed = rollout_of(transformer, **CASES[case])
        for block in range(done):
            resumed.recall(*facts[block], *direction(block))
        resumed.restore(first.state())
        go_on(resumed, done)
    go_on(again, blocks - 1)


def test_pages_made_again_from_latents_alone_are_of_the_shot(transformer: CausalWanTransformer) -> None:
    rollout = rollout_of(transformer)
    made = make(rollout, 8)
    near = rollout_of(transformer)
    for block in range(8):
        words = prompts(block, 1) if block in (0, CUT) else None
        near.recall(made[block].latents, made[block].embeddings.numpy(), made[block].selections, words, block == CUT)
    near.rebuild()
    assert near._cache.frames == rollout._cache.frames == list(range(15, 24))
    next_latents = [each.next_block().latents for each in (rollout, near)]
    difference = (next_latents[0] - next_latents[1]).norm() / next_latents[0].norm()
    assert 0 < float(difference) < 0.1
    assert np.isfinite(float(difference))
