"""Distillation: its gradients against closed forms, and what a run changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from longlive_rag import LongLiveRAGPipeline, find_folder
from longlive_rag.tinyworld.corpus import CorpusSize, make_corpus
from longlive_rag.tinyworld.distill import (
    LEVELS,
    SIZE,
    Context,
    critic_loss,
    distill,
    matching_loss,
    sampler_inputs,
    student_of,
)
from longlive_rag.tinyworld.train_backbone import SAMPLER, layout


class Gaussian(nn.Module):
    """The exact flow of blocks whose numbers are independent and normal, with this mean and deviation."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.mean, self.deviation = nn.Parameter(torch.tensor(mean)), deviation

    def forward(self, frames: Tensor, times: Tensor, *others: Tensor, **settings: Tensor) -> Tensor:
        sigma = (times / SAMPLER.num_train_timesteps)[:, None, :, None, None].clamp(min=1e-6)
        gain = (1 - sigma) * self.deviation**2 / (((1 - sigma) * self.deviation) ** 2 + sigma**2)
        clean = self.mean + gain * (frames - (1 - sigma) * self.mean)
        return (frames - clean) / sigma


def nothing(batch: int) -> Context:
    """The context of a first block."""
    return Context(layout("first", 0), torch.zeros(batch, 1, 0, 2, 2), torch.zeros(batch, 1, 1))


def test_blocks_move_to_the_teacher_s_distribution_and_stay_as_spread_as_it_is():
    torch.manual_seed(0)
    teacher, context = Gaussian(2.0, 0.5), nothing(64)
    noise = torch.randn(64, 1, LEVELS * SIZE, 2, 2)
    mean, spread = nn.Parameter(torch.tensor(-1.0)), nn.Parameter(torch.tensor(1.5))
    optimiser = torch.optim.Adam([mean, spread], lr=0.05)
    for _ in range(400):
        drawn = mean + spread * noise
        critic = Gaussian(mean.item(), abs(spread.item()))  # one that has learned all there is to learn
        loss, _ = matching_loss(teacher, critic, context, drawn, torch.ones(()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert mean.item() == pytest.approx(2.0, abs=0.05)
    assert abs(spread.item()) == pytest.approx(0.5, abs=0.05)  # a regression to the teacher's mean would make it 0


def test_where_critic_and_teacher_agree_nothing_moves():
    drawn = torch.randn(4, 1, LEVELS * SIZE, 2, 2, requires_grad=True)
    loss, apart = matching_loss(Gaussian(1.0, 0.5), Gaussian(1.0, 0.5), nothing(4), drawn, torch.ones(()))
    loss.backward()
    assert apart == 0.0
    assert drawn.grad is not None
    assert not drawn.grad.any()


def test_the_critic_learns_the_mean_of_what_is_drawn():
    torch.manual_seed(0)
    critic = Gaussian(0.0, 0.5)
    optimiser = torch.optim.Adam(critic.parameters(), lr=0.05)
    for _ in range(300):
        drawn = 3.0 + 0.5 * torch.randn(64, 1, LEVELS * SIZE, 2, 2)
        optimiser.zero_grad()
        critic_loss(critic, nothing(64), drawn).backward()
        optimiser.step()
    assert critic.mean.item() == pytest.approx(3.0, abs=0.05)


@pytest.fixture(scope="module")
def pipe():
    return LongLiveRAGPipeline.from_pretrained(find_folder("tiny-world"))


def test_blocks_side_by_side_are_estimated_as_each_alone(pipe):
    torch.manual_seed(0)
    plan = layout("memory", 4, 6)
    frames = torch.randn(2, 16, len(plan.offsets), 8, 8)
    context = Context(plan, frames, torch.randn(2, 16, 64))
    noisy, sigmas = torch.randn(2, 16, LEVELS * SIZE, 8, 8), torch.rand(2, LEVELS)
    with torch.no_grad():
        together = context.predict(pipe.transformer, noisy, sigmas)
        for place in range(LEVELS):
            part = slice(place * SIZE, (place + 1) * SIZE)
            alone = context.predict(pipe.transformer, noisy[:, :, part], sigmas[:, place : place + 1])
            assert torch.allclose(together[:, :, part], alone, atol=1e-4)


def test_the_sampler_s_inputs_have_its_noise_and_a_guided_batch_starts_from_the_world():
    torch.manual_seed(0)
    truth = torch.full((512, 1, SIZE, 2, 2), 7.0)
    student = Gaussian(-3.0, 1e-3)
    for guided, means in ((False, [-3.0] * 3), (True, [7.0, -3.0, -3.0])):
        inputs = sampler_inputs(student, nothing(512), truth, guided).unflatten(2, (LEVELS, SIZE))
        assert inputs[:, :, 0].std().item() == pytest.approx(1.0, abs=0.05)
        for level, sigma, mean in zip(range(1, LEVELS), SAMPLER.sigmas[1:], means, strict=True):
            assert inputs[:, :, level].mean().item() == pytest.approx((1 - sigma) * mean, abs=0.05)
            assert inputs[:, :, level].std().item() == pytest.approx(sigma, abs=0.05)


def test_only_the_student_s_transformer_changes_and_a_killed_run_goes_on(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("longlive_rag.tinyworld.distill.CRITIC_ALONE", 1)
    long = make_corpus(pipe.vae, tmp_path / "long.npy", CorpusSize(2, 8, 5), lambda line: None)
    openings = make_corpus(pipe.vae, tmp_path / "openings.npy", CorpusSize(2, 3, 6), lambda line: None)
    before = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    lines: list[str] = []
    student = distill(long, openings, pipe, tmp_path / "run", lines.append, steps=4)
    after = student.transformer.state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert all(torch.equal(value, before[name]) for name, value in pipe.transformer.state_dict().items())
    table = student.text_encoder.get_input_embeddings().weight
    assert torch.equal(table, pipe.text_encoder.get_input_embeddings().weight)
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 4
    part = student_of(saved["average"])
    assert set(part) == set(student.state_dict())
    again = distill(long, openings, pipe, tmp_path / "run", lines.append, steps=4)
    assert torch.equal(again.transformer.proj_out.weight, student.transformer.proj_out.weight)
