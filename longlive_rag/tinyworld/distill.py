"""Stage 2c: distribution matching distillation, so that four steps draw one character instead of an average.

A model trained by flow matching predicts a mean. With four steps, whatever is still open at the last one stays an
average: half a hat, a size between two sizes. Copies of such a character are then copies of nothing in particular. So
production models are distilled, and so is this one (DMD: Yin et al., 2024, arXiv 2311.18828; with the sampler's own
steps as inputs: Yin et al., 2024, arXiv 2405.14867; on causal video: Huang et al., 2025, arXiv 2506.08009).

Three networks take part, and all begin as the earlier model. The *student* runs the sampler as a take does. Its blocks
are noised again; the frozen *teacher* says where they would be if they were the world's, and the *critic*, which is
trained on the student's blocks by flow matching, where they would be if they were the student's. The student moves by
the difference (DMD, eq. 7). All three see the same context: nothing, or sink, memory and local frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backbone.transformer import CausalWanTransformer
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.corpus import Corpus
from longlive_rag.tinyworld.train_backbone import (
    ACTOR_WEIGHT,
    CONFIG,
    CONTEXT,
    SAMPLER,
    Layout,
    TextToVideo,
    actors_of,
    degrade,
    draw_batch,
    gather,
)
from longlive_rag.tinyworld.training import Hardware, Schedule, train

SCHEDULE = Schedule(steps=6000, learning_rate=3e-4, warm_up=100, final_fraction=0.05, ema=0.998, batch=8)
CRITIC_ONLY, STUDENT_EVERY = 100, 2
"""The critic learns alone for so many steps, and is then trained so many times as often as the student."""
LAYOUTS = {"first": 0.15, "early": 0.2, "native": 0.25, "memory": 0.4}
OUTLINE_SHARE = 0.5
"""Share of the batches whose second step starts from the world's block, as films do (see `rolled`)."""
NOISE = (0.10, 0.90)
"""Noise at which teacher and critic compare: below it nothing is open, above it they see nothing."""
LEVELS = len(SAMPLER.sigmas)


class Distilled(nn.Module):
    """What is trained: the student, and the critic that learns what the student draws."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.student = TextToVideo(seed)
        self.critic = CausalWanTransformer(**CONFIG)


@dataclass(frozen=True)
class Context:
    """What a batch of blocks is drawn from.

    Attributes:
        plan: layout with one copy of the block per level.
        frames: clean context frames [B, C, F, h, w].
        embeds: prompts [B, L, D].
    """

    plan: Layout
    frames: Tensor
    embeds: Tensor

    def predict(self, network: nn.Module, noisy: Tensor, sigmas: Tensor) -> Tensor:
        """Return a network's clean blocks [B, C, n T, h, w], from n noisy ones side by side.

        Args:
            network: the transformer.
            noisy: [B, C, n T, h, w].
            sigmas: [B, n], the noise of each.
        """
        size, count = CONTEXT.frames_per_block, self.frames.shape[2]
        per_frame = sigmas.repeat_interleave(size, 1)
        times = torch.cat([per_frame.new_zeros(len(noisy), count), per_frame * SAMPLER.num_train_timesteps], 1)
        total = count + noisy.shape[2]
        flow = network(
            torch.cat([self.frames, noisy], 2),
            times,
            self.embeds,
            frame_positions=torch.tensor(self.plan.positions[:total], device=noisy.device),
            frame_mask=torch.from_numpy(self.plan.mask[:total, :total]).to(noisy.device),
        )[:, :, count:]
        return noisy - per_frame[:, None, :, None, None] * flow


def distill(
    long: Corpus,
    openings: Corpus,
    earlier: LongLiveRAGPipeline,
    folder: Path,
    report: Callable[[str], None],
    steps: int | None = None,
    seed: int = 0,
    hardware: Hardware | None = None,
) -> TextToVideo:
    """Distil an earlier tiny-world into its own four steps; resumable. Returns the moving average of the student.

    Args:
        long, openings: what stage 2 was trained on.
        earlier: the model to begin with; also the teacher.
        steps: number of steps; by default that of `SCHEDULE`.
    """
    model, teacher = Distilled(seed), TextToVideo(seed)
    for each in (model.student, teacher):
        each.take_over(earlier.tokenizer, earlier.text_encoder, earlier.transformer)
    model.critic.load_state_dict(teacher.transformer.state_dict())
    model.student.text_encoder.requires_grad_(False)
    teacher.eval().requires_grad_(False).to((hardware or Hardware()).device)
    schedule = replace(SCHEDULE, steps=steps or SCHEDULE.steps)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        kind, plan, corpus, scripts, starts = draw_batch(rng, long, openings, schedule.batch, LAYOUTS)
        prompts = [corpus.prompt(int(s), int(b), rng) for s, b in zip(scripts, starts, strict=True)]
        clean, truth = gather(corpus, plan, scripts, starts, rng, 0.5)
        device = model.student.transformer.device
        with torch.no_grad():
            embeds = model.student.prompt_embeds(prompts)
            frames = clean.to(device)
            context = Context(plan, degrade(frames) if frames.shape[2] else frames, embeds)
            outlined = rng.random() < OUTLINE_SHARE
            inputs, final = _run_sampler(model.student.transformer, context, truth.to(device), outlined)
        if outlined:
            _keep(corpus, final, scripts, starts)
        learns = step >= CRITIC_ONLY and step % STUDENT_EVERY == 0
        levels = torch.tensor(SAMPLER.sigmas, device=device).expand(len(truth), LEVELS)
        with torch.set_grad_enabled(learns):
            drawn = context.predict(model.student.transformer, inputs, levels)
        loss, figures = critic_loss(model.critic, context, drawn.detach()), {}
        figures["critic"] = round(loss.item(), 4)
        if learns:
            weight = 1 + ACTOR_WEIGHT * actors_of(corpus, scripts, starts).to(device).repeat(1, LEVELS, 1, 1)[:, None]
            own, moved = matching_loss(teacher.transformer, model.critic, context, drawn, weight)
            loss = loss + own
            figures[kind] = round(moved, 4)
        return loss, figures

    average = train(model, loss_of, schedule, folder, report, betas=(0.0, 0.99), hardware=hardware)
    assert isinstance(average, Distilled)
    return average.student


def _run_sampler(student: CausalWanTransformer, context: Context, truth: Tensor, outlined: bool) -> tuple[Tensor, Tensor]:
    """Run the sampler; return its inputs at all levels, side by side [B, C, LEVELS T, h, w], and its last output."""
    sigmas = SAMPLER.sigmas
    noisy = [torch.randn_like(truth)]
    clean = truth
    for step, sigma in enumerate(sigmas):
        if step or not outlined:
            clean = context.predict(student, noisy[step], torch.full((len(truth), 1), sigma, device=truth.device))
        if step + 1 < len(sigmas):
            noisy.append((1 - sigmas[step + 1]) * clean + sigmas[step + 1] * torch.randn_like(clean))
    return torch.cat(noisy, 2), clean


def _noised(clean: Tensor) -> tuple[Tensor, Tensor]:
    """Noise blocks [B, C, n T, h, w], each anew; also return how much, [B, n]."""
    batch, size = len(clean), CONTEXT.frames_per_block
    count = clean.shape[2] // size
    grid = [sigma for sigma in SAMPLER.sigmas if NOISE[0] <= sigma <= NOISE[1]]
    on_grid = torch.tensor(grid, device=clean.device)[torch.randint(len(grid), (batch, count), device=clean.device)]
    anywhere = NOISE[0] + (NOISE[1] - NOISE[0]) * torch.rand(batch, count, device=clean.device)
    sigmas = torch.where(torch.rand(batch, count, device=clean.device) < 0.5, on_grid, anywhere)
    level = sigmas.repeat_interleave(size, 1)[:, None, :, None, None]
    return (1 - level) * clean + level * torch.randn_like(clean), sigmas


def critic_loss(critic: nn.Module, context: Context, drawn: Tensor) -> Tensor:
    """Return the critic's flow-matching loss on the student's blocks [B, C, n T, h, w]."""
    noisy, sigmas = _noised(drawn)
    level = sigmas.repeat_interleave(CONTEXT.frames_per_block, 1)[:, None, :, None, None]
    return ((context.predict(critic, noisy, sigmas) - drawn) / level).square().mean()


def matching_loss(
    teacher: nn.Module, critic: nn.Module, context: Context, drawn: Tensor, weight: Tensor
) -> tuple[Tensor, float]:
    """Return a loss whose gradient moves the student's blocks to the teacher's distribution, and how far that is.

    Args:
        teacher, critic: who says where a noised block comes from.
        drawn: the student's blocks [B, C, n T, h, w].
        weight: what a cell counts, [B, 1, n T, h, w].
    """
    with torch.no_grad():
        noisy, sigmas = _noised(drawn)
        real, fake = context.predict(teacher, noisy, sigmas), context.predict(critic, noisy, sigmas)
        size = CONTEXT.frames_per_block
        scale = (drawn - real).abs().unflatten(2, (-1, size)).mean((1, 3, 4, 5)).repeat_interleave(size, 1)
        moved = (fake - real) / scale.clamp(min=1e-3)[:, None, :, None, None]
        goal = drawn - moved
    loss = 0.5 * (weight * (drawn - goal).square()).mean() / weight.mean()
    return loss, float((fake - real).abs().mean() / (drawn - real).abs().mean())


def _keep(corpus: Corpus, drawn: Tensor, scripts: NDArray, starts: NDArray) -> None:
    """Put the student's blocks [B, C, T, h, w] in their places in `corpus.replay`."""
    size = CONTEXT.frames_per_block
    for block, script, start in zip(drawn.cpu(), scripts, starts * size, strict=True):
        corpus.replay[script, :, start : start + size] = block
