"""The block loop: batches, prefixes, memory on and off, cues."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backbone.cache import KVCache
from backbone.config import ContextConfig, SamplerConfig
from backbone.parallel import Ranks
from backbone.transformer import CausalWanTransformer
from longlive_rag.environment import plugin
from longlive_rag.generation.block import NotFiniteError
from longlive_rag.generation.noise import PhiloxNoise
from longlive_rag.generation.rollout import FinishedBlock, Rollout
from longlive_rag.generation.rollout_memory import RememberedFrames
from retrieval.budgets import PageBudgets, PageCounters
from retrieval.encoder import MeanPoolEncoder
from retrieval.policies import Policy
from retrieval.policies.look_ahead import look_ahead
from retrieval.policy import RetrievalRules

LATENT = (16, 4, 6)
TEXT = (7, 20)
kinds = pytest.mark.parametrize(
    ("frames_per_block", "steps"),
    [(3, (1000, 750, 500, 250)), (1, (1000, 750, 500, 250)), (1, (1000, 500)), (1, (1000,))],
    ids=["three frames a block", "one frame a block", "one frame, two steps", "one frame, one step"],
)
sizes = pytest.mark.parametrize("frames_per_block", [3, 1], ids=["three frames a block", "one frame a block"])


def prompt(seed: int) -> Tensor:
    return torch.randn(1, *TEXT, generator=torch.Generator().manual_seed(seed))


class LaidOut:
    """What the contexts of the first take of a batch showed of memory, assembly by assembly.

    Attributes:
        frames: the frames.
        gained: which of them have memory's gain; None if all have.
    """

    def __init__(self) -> None:
        self.frames: list[list[int]] = []
        self.gained: list[list[bool] | None] = []

    @property
    def pairs(self) -> list[list[tuple[int, bool]]]:
        """Each frame with whether it has the gain."""
        return [
            list(zip(frames, gained or [], strict=True))
            for frames, gained in zip(self.frames, self.gained, strict=True)
        ]


@pytest.fixture
def laid_out(monkeypatch: pytest.MonkeyPatch) -> LaidOut:
    seen, assemble = LaidOut(), KVCache.assemble

    def spy(cache: KVCache, memory=(), gained=None) -> None:
        seen.frames.append([frame for frame, _ in memory[0]] if memory else [])
        seen.gained.append(None if gained is None else list(gained[0]))
        assemble(cache, memory, gained)

    monkeypatch.setattr(KVCache, "assemble", spy)
    return seen


def run(
    transformer: CausalWanTransformer,
    seeds: list[int],
    prompts: Tensor,
    blocks: int = 10,
    cue: tuple[int, Tensor] | None = None,
    steps: tuple[int, ...] = (1000, 750, 500, 250),
    policy: Policy | None = None,
    **context: int,
) -> list[FinishedBlock]:
    config, sampler = ContextConfig(**context), SamplerConfig(denoising_steps=steps)
    encoder, rules = MeanPoolEncoder() if config.memory_frames else None, RetrievalRules(policy=policy)
    noise = PhiloxNoise(seeds)
    rollout = Rollout(transformer, config, sampler, noise, LATENT, batch_size=len(seeds), encoder=encoder, rules=rules)
    rollout.direct(prompts)
    finished = []
    for block in range(blocks):
        if cue and block == cue[0]:
            rollout.direct(cue[1])
        finished.append(rollout.next_block())
    return finished


def remembering(
    transformer: CausalWanTransformer,
    blocks: int = 12,
    cue: int | None = None,
    batch: int = 1,
    context: ContextConfig | None = None,
    **memory: Any,
) -> tuple[list[FinishedBlock], PageCounters]:
    seeds = list(range(21, 21 + batch))
    rollout = Rollout(
        transformer,
        context or ContextConfig(),
        SamplerConfig(),
        PhiloxNoise(seeds),
        LATENT,
        batch_size=batch,
        encoder=MeanPoolEncoder(),
        **memory,
    )
    rollout.direct(torch.cat([prompt(take) for take in range(batch)]))
    finished = []
    for block in range(blocks):
        if block == cue:
            rollout.direct(torch.cat([prompt(9 + take) for take in range(batch)]))
        finished.append(rollout.next_block())
    counters = rollout.page_counters()
    assert counters is not None
    return finished, counters


def test_pages_that_are_made_again_stay_near(transformer: CausalWanTransformer) -> None:
    """Made again by one pass at timestep 0, alone: another context than at the commit, so near and not equal."""
    held, all_held = remembering(transformer)
    again, none_held = remembering(transformer, budgets=PageBudgets(host_bytes=0))
    assert (all_held.remade, none_held.remade) == (0, none_held.fetched)
    assert none_held.fetched == all_held.fetched > 20
    assert none_held.host_bytes == 0
    assert torch.equal(latents(held)[:, :18], latents(again)[:, :18])  # nothing was retrieved yet
    difference = (latents(held) - latents(again)).norm() / latents(held).norm()
    assert 0 < difference < 0.05


@sizes
def test_a_batch_makes_pages_again_as_each_take_alone(transformer: CausalWanTransformer, frames_per_block: int) -> None:
    settings = {"budgets": PageBudgets(host_bytes=0), "context": ContextConfig(frames_per_block=frames_per_block)}
    both, pages = remembering(transformer, blocks=36 // frames_per_block, batch=2, **settings)
    alone, _ = remembering(transformer, blocks=36 // frames_per_block, batch=1, **settings)
    assert pages.remade > 0
    torch.testing.assert_close(latents(both)[:1], latents(alone), rtol=1e-4, atol=1e-4)


def test_after_a_cue_pages_are_made_again_under_it(transformer: CausalWanTransformer) -> None:
    fresh, counters = remembering(transformer, cue=9)
    kept, untouched = remembering(transformer, budgets=PageBudgets(remake_stale=False), cue=9)
    assert counters.stale == counters.remade > 0
    assert (untouched.stale, untouched.remade) == (0, 0)
    assert torch.equal(latents(fresh)[:, :27], latents(kept)[:, :27])
    assert not torch.equal(latents(fresh)[:, 27:], latents(kept)[:, 27:])


def test_a_budget_between_gives_the_same_selections_of_frames_that_exist(transformer: CausalWanTransformer) -> None:
    page = transformer.config.num_layers * 2 * 6 * 48 * 4
    finished, counters = remembering(transformer, budgets=PageBudgets(host_bytes=8 * page))
    assert counters.host_pages == 8
    assert counters.host_bytes == 8 * page
    assert 0 < counters.remade < counters.fetched
    assert counters.evicted > 0
    assert all(len(block.selections[0].frames) == 6 for block in finished[8:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_pages_are_the_same_from_every_tier(transformer: CausalWanTransformer) -> None:
    model = copy.deepcopy(transformer).cuda()
    roomy, all_there = remembering(model, blocks=40, cue=30)
    tight, through_host = remembering(model, budgets=PageBudgets(gpu_bytes=0, host_bytes=2**30), blocks=40, cue=30)
    assert (all_there.from_host, all_there.remade) == (0, all_there.stale)
    assert through_host.prefetched > 0
    assert through_host.remade == through_host.stale
    assert torch.equal(latents(roomy), latents(tight))


def test_a_caller_may_choose_what_is_remembered(transformer: CausalWanTransformer) -> None:
    asked: list[tuple[int, int, range]] = []

    def oldest(take: int, block: int, candidates: range) -> list[int]:
        asked.append((take, block, candidates))
        return list(candidates[:3])

    finished, _ = remembering(transformer, choose=oldest)
    assert asked == [(0, block, range(1, 3 * block - 16)) for block in range(6, 12)]
    for block in finished[7:]:
        (selection,) = block.selections
        assert selection.frames == (1, 2, 3)
        newest = finished[block.index - 1].latents[0, -1].mean((-2, -1))
        for frame, similarity in zip(selection.frames, selection.similarities, strict=True):
            past = latents(finished)[0, frame].mean((-2, -1))
            assert similarity == pytest.approx(float(torch.cosine_similarity(past, newest, 0)), abs=1e-5)


@pytest.mark.parametrize("chosen", [[99], [1, 1], [-1], list(range(1, 8))])
def test_a_choice_that_can_not_be_is_refused(transformer: CausalWanTransformer, chosen: list[int]) -> None:
    with pytest.raises(ValueError, match="at most 6 distinct frames out of 1"):
        remembering(transformer, choose=lambda *_: chosen)


def test_frames_of_another_take_are_there_from_the_first_block(transformer: CausalWanTransformer) -> None:
    other, _ = remembering(transformer, blocks=6)
    brought = RememberedFrames(latents(other)[0].numpy())
    finished, counters = remembering(transformer, remembered=brought, blocks=9)
    assert [block.selections[0].frames for block in finished[:1]] == [(-18, -15, -11, -8, -4, -1)]
    assert counters.remade > 0
    plain, _ = remembering(transformer, blocks=1)
    assert not torch.equal(plain[0].latents, finished[0].latents)
    assert {frame < 0 for block in finished for frame in block.selections[0].frames} == {True, False}


def latents(finished: list[FinishedBlock]) -> Tensor:
    return torch.cat([block.latents for block in finished], dim=1)


@kinds
@pytest.mark.parametrize("memory_frames", [0, 6])
def test_a_batch_of_two_equals_two_singles(
    transformer: CausalWanTransformer, memory_frames: int, frames_per_block: int, steps: tuple[int, ...]
) -> None:
    prompts, later = torch.cat([prompt(0), prompt(1)]), torch.cat([prompt(2), prompt(3)])
    blocks, at = 30 // frames_per_block, 24 // frames_per_block
    settings = {"steps": steps, "memory_frames": memory_frames, "frames_per_block": frames_per_block}
    both = run(transformer, [11, 12], prompts, blocks, (at, later), **settings)
    for take, seed in enumerate((11, 12)):
        alone = run(transformer, [seed], prompts[take][None], blocks, (at, later[take][None]), **settings)
        torch.testing.assert_close(latents(both)[take], latents(alone)[0], rtol=1e-4, atol=1e-4)
        if memory_frames:
            ours = [block.selections[take].frames for block in both if block.selections]
            assert ours == [block.selections[0].frames for block in alone if block.selections]
    assert not torch.allclose(latents(both)[0], latents(both)[1])


@kinds
def test_a_longer_take_begins_with_the_shorter_one_bit_for_bit(
    transformer: CausalWanTransformer, frames_per_block: int, steps: tuple[int, ...]
) -> None:
    short, long = (
        latents(
            run(transformer, [5], prompt(0), frames // frames_per_block, steps=steps, frames_per_block=frames_per_block)
        )
        for frames in (24, 33)
    )
    assert torch.equal(long[:, : short.shape[1]], short)


@kinds
def test_memory_changes_what_is_made_only_from_the_block_that_sees_less_local(
    transformer: CausalWanTransformer, frames_per_block: int, steps: tuple[int, ...]
) -> None:
    native, memory = (
        run(
            transformer, [5], prompt(0), 30 // frames_per_block, steps=steps,
            memory_frames=memory_frames, frames_per_block=frames_per_block,
        )
        for memory_frames in (0, 6)
    )  # fmt: skip
    differs = [not torch.equal(a.latents, b.latents) for a, b in zip(native, memory, strict=True)]
    alike = 6 // frames_per_block  # the sink and five local frames are all that there is
    assert differs == [False] * alike + [True] * (len(native) - alike)
    assert [len(block.selections) for block in native] == [0] * len(native)
    counts = [len(block.selections[0].frames) if block.selections else 0 for block in memory]
    assert counts == [min(6, max(0, frames_per_block * block - 12 - 5)) for block in range(len(memory))]


@kinds
def test_selections_are_sorted_and_within_the_candidates(
    transformer: CausalWanTransformer, frames_per_block: int, steps: tuple[int, ...]
) -> None:
    blocks = run(transformer, [9], prompt(0), 36 // frames_per_block, steps=steps, frames_per_block=frames_per_block)
    assert any(block.selections for block in blocks)
    for block in blocks:
        for selection in block.selections:
            assert selection.query_frame == block.index * frames_per_block - 1
            assert list(selection.similarities) == sorted(selection.similarities, reverse=True)
            assert len(set(selection.frames)) == len(selection.frames)
            assert all(1 <= frame < selection.query_frame - 11 - 4 for frame in selection.frames)


@kinds
@pytest.mark.parametrize("memory_frames", [0, 6])
def test_a_cue_takes_effect_in_its_block_and_changes_nothing_before(
    transformer: CausalWanTransformer, memory_frames: int, frames_per_block: int, steps: tuple[int, ...]
) -> None:
    at, settings = 21 // frames_per_block, {"memory_frames": memory_frames, "frames_per_block": frames_per_block}
    plain = run(transformer, [5], prompt(0), at + 1, steps=steps, **settings)
    cued = run(transformer, [5], prompt(0), at + 1, (at, prompt(1)), steps, **settings)
    assert torch.equal(latents(plain[:at]), latents(cued[:at]))
    assert not torch.allclose(plain[at].latents, cued[at].latents)


@kinds
def test_a_block_looks_ahead_where_it_has_an_estimate_of_itself(
    transformer: CausalWanTransformer, frames_per_block: int, steps: tuple[int, ...]
) -> None:
    settings = {"steps": steps, "frames_per_block": frames_per_block}
    searched, ahead = (
        run(transformer, [5], prompt(0), 21 // frames_per_block, policy=policy, **settings)
        for policy in (None, plugin("policy", "look-ahead"))
    )
    assert torch.equal(latents(searched), latents(ahead)) == (len(steps) == 1)


@sizes
def test_a_first_block_is_denoised_but_for_the_picture_that_it_begins_with(
    transformer: CausalWanTransformer, frames_per_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, forward = [], transformer.forward_block
    monkeypatch.setattr(transformer, "forward_block", lambda *inputs: passes.append(1) or forward(*inputs))
    start = torch.randn(1, *LATENT, generator=torch.Generator().manual_seed(7)).repeat(2, 1, 1, 1)
    context, encoder = ContextConfig(frames_per_block=frames_per_block), MeanPoolEncoder()
    rollout = Rollout(
        transformer, context, SamplerConfig(), PhiloxNoise([1, 2]), LATENT, batch_size=2, encoder=encoder, start=start
    )
    rollout.direct(prompt(0).repeat(2, 1, 1))
    blocks, counts = [], []
    for _ in range(2):
        blocks.append(rollout.next_block())
        counts.append(len(passes))
    assert blocks[0].latents.shape[1] == frames_per_block
    assert torch.equal(blocks[0].latents[:, 0], start)
    assert counts == ([0, 4] if frames_per_block == 1 else [4, 8])
    assert not torch.equal(blocks[1].latents[0], blocks[1].latents[1])


def test_noise_depends_on_seed_block_and_step_alone() -> None:
    noise = PhiloxNoise([1, 2])
    first = noise(4, 2, (3, 16, 4, 6))
    noise(0, 0, (5,))
    assert torch.equal(noise(4, 2, (3, 16, 4, 6)), first)
    assert torch.equal(PhiloxNoise([2])(4, 2, (3, 16, 4, 6))[0], first[1])
    draws = [noise(block, step, (500,)) for block in range(3) for step in range(3)]
    stacked = torch.cat(draws)
    correlation = torch.corrcoef(stacked)
    assert (correlation - torch.eye(len(stacked))).abs().max() < 0.2
    assert stacked.mean().abs() < 0.05
    assert abs(stacked.std() - 1) < 0.05


@pytest.mark.parametrize("policy", [None, look_ahead], ids=["search", "look-ahead"])
def test_a_block_that_memory_can_not_embed_is_blamed_on_the_model(
    transformer: CausalWanTransformer, policy: Policy | None
) -> None:
    model, rules = copy.deepcopy(transformer), RetrievalRules(policy=policy)
    noise, encoder = PhiloxNoise([1]), MeanPoolEncoder()
    rollout = Rollout(model, ContextConfig(), SamplerConfig(), noise, LATENT, encoder=encoder, rules=rules)
    rollout.direct(prompt(0))
    for _ in range(7):
        assert not rollout.next_block().latents.isnan().any()
    torch.nn.init.constant_(model.proj_out.bias, float("nan"))
    with pytest.raises(NotFiniteError, match="block 7 holds values that are not finite numbers; look at the weights"):
        rollout.next_block()


def test_a_prompt_that_memory_can_not_search_by_is_blamed_on_the_model(transformer: CausalWanTransformer) -> None:
    rules = RetrievalRules(prompt_weight=0.3)
    rollout = Rollout(
        transformer, ContextConfig(), SamplerConfig(), PhiloxNoise([1]), LATENT, encoder=MeanPoolEncoder(), rules=rules
    )
    with pytest.raises(NotFiniteError, match=r"block 0 holds values .* the prompts' embeddings"):
        rollout.direct(prompt(0) * float("nan"))


def test_what_is_excluded_is_not_seen_even_before_a_block_looks_ahead(
    transformer: CausalWanTransformer, laid_out: LaidOut
) -> None:
    """A block that looks ahead begins with the frames of the last one, which may have been excluded since."""
    rules = RetrievalRules(policy=look_ahead)
    rollout = Rollout(
        transformer, ContextConfig(), SamplerConfig(), PhiloxNoise([1]), LATENT, encoder=MeanPoolEncoder(), rules=rules
    )
    rollout.direct(prompt(0))
    remembered = [rollout.next_block() for _ in range(9)][-1].selections[0].frames
    assert len(remembered) == 6
    before = len(laid_out.frames)
    excluded = remembered[0]
    rollout.steer(RetrievalRules(policy=look_ahead, exclude=(range(excluded, excluded + 1),)))
    rollout.next_block()
    first, second = laid_out.frames[before:]
    assert set(first) == set(remembered[1:])
    assert excluded not in second


def test_the_size_of_a_checkpoint_counts_the_heads_of_all_ranks(transformer: CausalWanTransformer) -> None:
    def size(ranks: Ranks | None) -> int:
        model = copy.deepcopy(transformer)
        model.ranks = ranks
        rollout = Rollout(
            model, ContextConfig(), SamplerConfig(), PhiloxNoise([1, 2]), LATENT, 2, encoder=MeanPoolEncoder()
        )
        rollout._cache.admit(3)
        rollout._memory._pages.put(0, torch.zeros(rollout._cache.shape.page))
        return rollout.state_bytes(take=1)

    page = 2 * 2 * 6 * 48 * 4
    assert size(None) == size(Ranks(0, 2)) == (3 + 1) * page


def test_memory_without_an_encoder_is_refused(transformer: CausalWanTransformer) -> None:
    with pytest.raises(ValueError, match="no encoder"):
        Rollout(transformer, ContextConfig(), SamplerConfig(), PhiloxNoise([0]), LATENT)


def test_a_block_before_any_prompt_is_refused(transformer: CausalWanTransformer) -> None:
    rollout = Rollout(transformer, ContextConfig(memory_frames=0), SamplerConfig(), PhiloxNoise([0]), LATENT)
    with pytest.raises(RuntimeError, match="no prompt yet"):
        rollout.next_block()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory_frames": 11}, "their sum must be below the window"),
        ({"memory_frames": 9}, "widen the window to at least 13"),
        ({"window_frames": 2, "memory_frames": 0}, "frames_per_block = 3"),
        ({"window_frames": 7, "frames_per_block": 1}, "which leaves no local frame"),
        ({"sink_frames": -1}, "sink_frames is -1"),
        ({"rope": "spiral"}, "relative, absolute"),
    ],
)
def test_contexts_that_can_not_be_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContextConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timestep_shift": 0.0}, "timestep_shift is 0; it must be a number from 0.01 to 100"),
        ({"timestep_shift": 1e-300}, "timestep_shift is 1e-300"),
        ({"num_train_timesteps": 10**400}, "it must be a whole number from 1 to 100000"),
    ],
)
def test_schedules_without_finite_noise_levels_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**settings)


@pytest.mark.parametrize("steps", [(), (0,), (1001,), (500, 500), (250, 500)])
def test_steps_that_can_not_be_are_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="denoising_steps"):
        SamplerConfig(denoising_steps=steps)


def test_sigmas_follow_the_shifted_schedule() -> None:
    assert SamplerConfig().sigmas == pytest.approx((1.0, 0.9375, 5 / 6, 0.625))


@sizes
@pytest.mark.parametrize("frames", [3, 21], ids=["the window holds the whole take", "the window has slid"])
def test_a_cue_takes_the_place_of_the_commit_before_it(
    transformer: CausalWanTransformer, frames: int, frames_per_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, blocks, context = [], frames // frames_per_block, ContextConfig(frames_per_block=frames_per_block)
    commit = transformer.commit_block
    monkeypatch.setattr(transformer, "commit_block", lambda *inputs: passes.append(1) or commit(*inputs))

    def last_block(commit_first: bool) -> tuple[Tensor, int]:
        passes.clear()
        rollout = Rollout(transformer, context, SamplerConfig(), PhiloxNoise([4]), LATENT, encoder=MeanPoolEncoder())
        rollout.direct(prompt(0))
        for _ in range(blocks):
            rollout.next_block()
        if commit_first:
            rollout.state()
        rollout.direct(prompt(1))
        return rollout.next_block().latents, len(passes)

    (committed, with_commit), (put_off, without) = last_block(True), last_block(False)
    assert torch.equal(committed, put_off)
    assert without == with_commit - 1 == blocks


def with_retries(
    transformer: CausalWanTransformer, retries: int, frames_per_block: int, seeds: tuple[int, ...] = (21, 22)
):
    """Blocks, and how far each falls away from what it remembered, by take."""
    rollout = Rollout(
        transformer, ContextConfig(frames_per_block=frames_per_block), SamplerConfig((1000, 500)), PhiloxNoise(seeds),
        LATENT, batch_size=len(seeds), encoder=MeanPoolEncoder(), rules=RetrievalRules(retries=retries),
    )  # fmt: skip
    rollout.direct(torch.cat([prompt(seed) for seed in seeds]))
    blocks, falls = [], []
    for _ in range(27 // frames_per_block):
        block = rollout.next_block()
        blocks.append(block)
        falls.append(rollout._memory.falls(block.latents, block.selections) if block.selections else None)
    return blocks, falls


@sizes
def test_a_block_that_falls_away_is_made_again_and_the_best_is_kept(
    transformer: CausalWanTransformer, frames_per_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strict(block: np.ndarray, trusted: np.ndarray) -> float:
        """As if what was remembered were all the same."""
        return max(0.0, 0.9999 - float((block @ trusted.T).max(axis=1).mean()))

    monkeypatch.setattr("retrieval.memory.falls_away", strict)
    plain, before = with_retries(transformer, 0, frames_per_block)
    retried, after = with_retries(transformer, 3, frames_per_block)
    first = next(number for number, block in enumerate(retried) if any(s.retries for s in block.selections))
    for number in range(first):
        assert torch.equal(plain[number].latents, retried[number].latents)
    for take in range(2):
        tries = retried[first].selections[take].retries
        assert (tries > 0) == (before[first][take] > 0)
        assert after[first][take] <= before[first][take]
        if not tries:
            assert torch.equal(plain[first].latents[take], retried[first].latents[take])
    again, _ = with_retries(transformer, 3, frames_per_block)
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(retried, again, strict=True))
    assert all(not s.retries for block in plain for s in block.selections)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_block_made_again_continues_with_the_gain_of_its_last_step(
    transformer: CausalWanTransformer, retries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replayed blocks are not denoised, so only their commit sees memory."""
    monkeypatch.setattr("retrieval.memory.falls_away", lambda block, trusted: 1.0 if len(trusted) else 0.0)

    def started(first_gain: float | None, memory_gain: float = 3.0) -> Rollout:
        context = ContextConfig(memory_gain=memory_gain, first_gain=first_gain)
        encoder, rules = MeanPoolEncoder(), RetrievalRules(retries=retries)
        rollout = Rollout(
            transformer, context, SamplerConfig(), PhiloxNoise([21]), LATENT, encoder=encoder, rules=rules
        )
        rollout.direct(prompt(0))
        return rollout

    rollout, again = started(0.7), started(0.7)
    blocks = [rollout.next_block() for _ in range(12)]
    assert any(bool(selection.retries) == bool(retries) for block in blocks for selection in block.selections)
    for block in blocks[:-1]:
        embeddings = None if block.embeddings is None else block.embeddings.numpy()
        again.replay(block.latents, embeddings, block.selections)
    assert torch.equal(again.next_block().latents, blocks[-1].latents)

    for other in (started(None), started(None, 0.7)):
        assert not torch.equal([other.next_block().latents for _ in range(12)][-1], blocks[-1].latents)


def test_gain_above_is_for_frames_like_now_and_not_for_those_after_a_cue(transformer: CausalWanTransformer) -> None:
    def made(memory_gain: float, first_gain: float | None, gain_above: float | None) -> list[torch.Tensor]:
        """14 blocks, with a cue at the eleventh; what is remembered before it is after the first prompt has settled."""
        context = ContextConfig(memory_gain=memory_gain, first_gain=first_gain, gain_above=gain_above)
        rollout = Rollout(transformer, context, SamplerConfig(), PhiloxNoise([21]), LATENT, encoder=MeanPoolEncoder())
        blocks = []
        for block in range(14):
            if block in (0, 10):
                rollout.direct(prompt(block))
            blocks.append(rollout.next_block())
        assert [bool(block.selections) for block in blocks[8:]] == [True] * 6
        return [block.latents for block in blocks]

    everywhere, like_now, nowhere, own = (
        made(*gains) for gains in ((3.0, 2.0, None), (3.0, 2.0, -1.0), (3.0, 2.0, 1.0), (1.0, None, None))
    )
    assert all(map(torch.equal, like_now[:10], everywhere[:10]))
    assert not torch.equal(like_now[10], everywhere[10])
    assert all(map(torch.equal, nowhere, own))
    assert not torch.equal(like_now[9], own[9])
    less, everywhere_less = made(1.0, 0.5, 1.0), made(1.0, 0.5, None)
    assert all(map(torch.equal, less, everywhere_less))  # a factor below 1 is for all frames
    assert not torch.equal(less[9], own[9])


def test_right_after_a_cue_gain_above_is_for_frames_of_the_same_words(
    transformer: CausalWanTransformer, laid_out: LaidOut
) -> None:
    """Six blocks of one prompt, six of another, then the first again: until the window has slid, its frames alone."""
    context, rules = ContextConfig(memory_gain=3.0, gain_above=-1.0), RetrievalRules(prompt_weight=0.1)
    rollout = Rollout(
        transformer, context, SamplerConfig(), PhiloxNoise([21]), LATENT, encoder=MeanPoolEncoder(), rules=rules
    )
    for block in range(17):
        if block % 6 == 0:
            rollout.direct(prompt(block % 12))
        rollout.next_block()
    after_the_cue = [pair for block in laid_out.pairs[12:16] for pair in block]
    assert {frame < 18 for frame, _ in after_the_cue} == {True, False}
    assert all(on == (frame < 18) for frame, on in after_the_cue)
    assert all(on for _, on in laid_out.pairs[16])


def test_a_scene_that_is_called_back_has_the_gain_at_once(transformer: CausalWanTransformer, laid_out: LaidOut) -> None:
    """Two prompts that are half alike, three blocks each, then six of another, then the first again."""
    there, elsewhere = prompt(0), prompt(1)
    half = TEXT[0] // 2
    later = torch.cat([there[:, :half], prompt(2)[:, half:]], dim=1)
    context = ContextConfig(memory_gain=3.0, gain_above=1.0, recency_guard_frames=0)
    rollout = Rollout(
        transformer, context, SamplerConfig(), PhiloxNoise([21]), LATENT, encoder=MeanPoolEncoder(),
        rules=RetrievalRules(prompt_weight=0.1, like_words=0.6),
    )  # fmt: skip
    for block in range(16):
        if block in (0, 3, 6, 12):
            rollout.direct({0: there, 3: later, 6: elsewhere, 12: there}[block])
        rollout.next_block()
    after_the_call = [pair for block in laid_out.pairs[12:16] for pair in block]
    frames = {frame for frame, _ in after_the_call}
    assert max(frames) < 18
    assert {frame < 9 for frame in frames} == {True, False}
    assert all(on for _, on in after_the_call)


@pytest.mark.parametrize("above", [None, 0.5])
@pytest.mark.parametrize("cut", [False, True])
def test_spare_places_of_memory_show_what_the_window_holds_of_the_prompt(
    transformer: CausalWanTransformer, laid_out: LaidOut, above: float | None, cut: bool
) -> None:
    """A window of 12, of which 5 are local: memory shows others before they leave; after a cue, from the 7th on."""
    context = ContextConfig(recency_guard_frames=0, gain_above=above, fill_from_window=True)
    rollout = Rollout(
        transformer, context, SamplerConfig(), PhiloxNoise([21]), LATENT, encoder=MeanPoolEncoder(),
        rules=RetrievalRules(prompt_weight=0.1, like_words=0.99),
    )  # fmt: skip
    for block in range(13):
        if block in (0, 8):
            rollout.direct(prompt(block), cut=cut and block > 0)
        rollout.next_block()
    given = laid_out.frames
    for frames, gained in zip(given, laid_out.gained, strict=True):
        assert gained is None or (above is not None and len(gained) == len(frames))
    assert given[:4] == [[], [], [1, 2, 3], [1, 2, 3, 4, 5, 6]]
    assert sorted(given[5][:3]) == [1, 2, 3]  # they have left the window; the spare places are filled
    assert all(len(frames) == len(set(frames)) == 6 for frames in given[3:8])
    first = list(range(25, 31))
    assert given[8:12] == ([[], [], first[:3], first] if cut else [[], [], [], [30]])
    assert sorted(given[12]) == ([*range(28, 34)] if cut else [24, *range(30, 34)])  # 24 has left the window


@pytest.mark.parametrize("late", [False, True])
def test_spare_places_do_not_show_what_is_excluded(
    transformer: CausalWanTransformer, laid_out: LaidOut, late: bool
) -> None:
    rules = RetrievalRules(exclude=(range(2, 5),))
    rollout = Rollout(
        transformer, ContextConfig(recency_guard_frames=0, fill_from_window=True), SamplerConfig(), PhiloxNoise([21]),
        LATENT, encoder=MeanPoolEncoder(), rules=RetrievalRules() if late else rules,
    )  # fmt: skip
    rollout.direct(prompt(0))
    for block in range(5):
        if late and block == 3:
            rollout.steer(rules)
        rollout.next_block()
    assert laid_out.frames == [[], [], [1, 2, 3] if late else [1], [1, 5, 6], [5, 6, 7, 8, 9]]


def test_large_seeds_have_noise_of_their_own():
    one, other = (PhiloxNoise([seed])(0, 0, (8,)) for seed in (2**63 + 1, 2**63 + 2))
    assert not torch.equal(one, other)
    whole = np.random.Philox(key=np.array([2**64 - 1, 0], np.uint64), counter=np.array([0, 0, 2, 3], np.uint64))
    expected = np.random.Generator(whole).standard_normal(8, dtype=np.float32)
    assert np.array_equal(PhiloxNoise([2**64 - 1])(3, 2, (8,))[0].numpy(), expected)
