"""The block loop: batches, prefixes, memory on and off, cues."""

import pytest
import torch
from torch import Tensor

from backbone.config import ContextConfig, SamplerConfig
from backbone.transformer import CausalWanTransformer
from longlive_rag.noise import PhiloxNoise
from longlive_rag.rollout import FinishedBlock, Rollout
from retrieval.encoder import MeanPoolEncoder

LATENT = (16, 4, 6)
TEXT = (7, 20)


@pytest.fixture(scope="module")
def transformer() -> CausalWanTransformer:
    torch.manual_seed(3)
    return CausalWanTransformer(
        num_attention_heads=2, attention_head_dim=24, num_layers=2, ffn_dim=96, freq_dim=32, text_dim=20, text_length=7
    ).eval()


def prompt(seed: int) -> Tensor:
    return torch.randn(1, *TEXT, generator=torch.Generator().manual_seed(seed))


def run(
    transformer: CausalWanTransformer,
    seeds: list[int],
    prompts: Tensor,
    blocks: int = 10,
    cue: tuple[int, Tensor] | None = None,
    **context: int,
) -> list[FinishedBlock]:
    config = ContextConfig(**context)
    encoder = MeanPoolEncoder() if config.memory_frames else None
    rollout = Rollout(
        transformer, config, SamplerConfig(), PhiloxNoise(seeds), LATENT, batch_size=len(seeds), encoder=encoder
    )
    rollout.direct(prompts)
    finished = []
    for block in range(blocks):
        if cue and block == cue[0]:
            rollout.direct(cue[1])
        finished.append(rollout.next_block())
    return finished


def latents(finished: list[FinishedBlock]) -> Tensor:
    return torch.cat([block.latents for block in finished], dim=1)


@pytest.mark.parametrize("memory_frames", [0, 6])
def test_a_batch_of_two_equals_two_singles(transformer: CausalWanTransformer, memory_frames: int) -> None:
    prompts, later = torch.cat([prompt(0), prompt(1)]), torch.cat([prompt(2), prompt(3)])
    both = run(transformer, [11, 12], prompts, cue=(8, later), memory_frames=memory_frames)
    for take, seed in enumerate((11, 12)):
        alone = run(transformer, [seed], prompts[take][None], cue=(8, later[take][None]), memory_frames=memory_frames)
        torch.testing.assert_close(latents(both)[take], latents(alone)[0], rtol=1e-4, atol=1e-4)
        if memory_frames:
            ours = [block.selections[take].frames for block in both if block.selections]
            assert ours == [block.selections[0].frames for block in alone if block.selections]
    assert not torch.allclose(latents(both)[0], latents(both)[1])


def test_a_longer_take_begins_with_the_shorter_one_bit_for_bit(transformer: CausalWanTransformer) -> None:
    short = latents(run(transformer, [5], prompt(0), blocks=8))
    long = latents(run(transformer, [5], prompt(0), blocks=11))
    assert torch.equal(long[:, : short.shape[1]], short)


def test_memory_changes_what_is_made_only_from_the_block_that_sees_less_local(
    transformer: CausalWanTransformer,
) -> None:
    native = run(transformer, [5], prompt(0), memory_frames=0)
    memory = run(transformer, [5], prompt(0), memory_frames=6)
    assert torch.equal(native[0].latents, memory[0].latents)
    assert not torch.allclose(native[-1].latents, memory[-1].latents)
    assert [len(block.selections) for block in native] == [0] * 10
    counts = [len(block.selections[0].frames) if block.selections else 0 for block in memory]
    assert counts == [0, 0, 0, 0, 0, 0, 1, 4, 6, 6]


def test_selections_are_sorted_and_within_the_candidates(transformer: CausalWanTransformer) -> None:
    for block in run(transformer, [9], prompt(0), blocks=12):
        for selection in block.selections:
            assert list(selection.similarities) == sorted(selection.similarities, reverse=True)
            assert len(set(selection.frames)) == len(selection.frames)
            assert all(1 <= frame < selection.query_frame - 11 - 4 for frame in selection.frames)


def test_a_cue_changes_what_follows_and_nothing_before(transformer: CausalWanTransformer) -> None:
    plain = latents(run(transformer, [5], prompt(0), memory_frames=0))
    cued = latents(run(transformer, [5], prompt(0), cue=(6, prompt(1)), memory_frames=0))
    assert torch.equal(plain[:, :18], cued[:, :18])
    assert not torch.allclose(plain[:, 18:], cued[:, 18:])


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
        ({"sink_frames": -1}, "sink_frames is -1"),
        ({"rope": "spiral"}, "relative, absolute"),
    ],
)
def test_contexts_that_can_not_be_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContextConfig(**settings)


@pytest.mark.parametrize("steps", [(), (0,), (1001,), (500, 500), (250, 500)])
def test_steps_that_can_not_be_are_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="denoising_steps"):
        SamplerConfig(denoising_steps=steps)


def test_sigmas_follow_the_shifted_schedule() -> None:
    assert SamplerConfig().sigmas == pytest.approx((1.0, 0.9375, 5 / 6, 0.625))
