"""Stage 2c: distribution matching distillation, so that four steps draw one character instead of an average.

A model trained by flow matching predicts means. With four steps, much is still open at the last one, and stays an
average: half a hat, a size between two sizes. Copies of such a character are copies of nothing in particular. That is
why production models are distilled (DMD: Yin et al., 2024, arXiv 2311.18828; with inputs from the sampler's own steps:
Yin et al., 2024, arXiv 2405.14867; for causal video: Huang et al., 2025, arXiv 2506.08009).

Three networks take part, and all begin as the earlier model. The *student* draws blocks with the sampler's steps. They
are noised again, and two networks estimate the clean block: the *teacher*, which stays as it is, and the *critic*,
which learns by flow matching what the student draws. The student moves by the difference (DMD, eq. 7 and 8). All see
the same context: nothing; sink and local frames; or memory, too.

Where the context shows what comes next, the mean is right, and matching would only draw it anew in every block. So most
batches with a full context are those of stage 2, on the world's blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from backbone.sampler import add_noise
from backbone.transformer import CausalWanTransformer
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.corpus import Corpus
from longlive_rag.tinyworld.train_backbone import (
    CONFIG,
    CONTEXT,
    REPLAY_SHARE,
    SAMPLER,
    Layout,
    Origin,
    Sample,
    TextToVideo,
    actor_weight,
    degrade,
    draw_sample,
    flow_in,
    flow_loss,
)
from longlive_rag.tinyworld.training import Hardware, Schedule, train

SCHEDULE = Schedule(steps=6400, learning_rate=5e-4, warm_up=100, final_fraction=0.05, ema=0.998, batch=4)
CRITIC_ALONE, STUDENT_EVERY = 100, 2
"""For so many steps only the critic learns; afterwards, the student does in one step of so many."""
LAYOUTS = {"first": 0.15, "early": 0.2, "native": 0.25, "memory": 0.4}
"""Share of the batches in each layout."""
MATCHED = {"first": 1.0, "early": 1.0, "native": 0.5, "memory": 0.2}
"""Of those, the share in which distributions are matched; the others are trained on as in stage 2."""
GUIDED_SHARE = 0.5
"""Share of the batches whose sampler's second step starts from the world's block. Like films (see `rolled`), these
follow their script, so they are kept as context for others."""
NOISE, ON_GRID_SHARE = (0.10, 0.90), 0.5
"""Noise at which teacher and critic compare, and how often it is a level of the sampler, which the teacher knows best.
With less, nothing is open; with more, they see nothing."""
LEVELS, SIZE = len(SAMPLER.sigmas), CONTEXT.frames_per_block
STUDENT = "student."


class Distilled(nn.Module):
    """What is trained: the student, whose text encoder doesn't change, and the critic."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.student = TextToVideo(seed)
        self.student.text_encoder.requires_grad_(False)
        self.critic = CausalWanTransformer(**CONFIG)


def student_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the student's weights from those of a `Distilled`."""
    return {name.removeprefix(STUDENT): value for name, value in state.items() if name.startswith(STUDENT)}


@dataclass(frozen=True)
class Context:
    """What blocks are drawn from.

    Attributes:
        plan: layout of the sequence, with room for `LEVELS` blocks side by side that don't see each other.
        frames: context frames [B, C, F, h, w].
        prompt_embeds: [B, L, D].
    """

    plan: Layout
    frames: Tensor
    prompt_embeds: Tensor

    def predict(self, network: nn.Module, noisy: Tensor, sigmas: Tensor) -> Tensor:
        """Return a transformer's estimate of clean blocks, [B, C, n T, h, w].

        Args:
            network: the transformer.
            noisy: n blocks side by side, [B, C, n T, h, w].
            sigmas: noise level of each, [B, n].
        """
        per_frame = sigmas.repeat_interleave(SIZE, 1)
        flow = flow_in(self.plan, network, self.frames, noisy, per_frame, self.prompt_embeds)
        return noisy - _by_cell(sigmas) * flow


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
    """Distil an earlier tiny-world; resumable. Returns the student's moving average.

    Args:
        long, openings: what stage 2 was trained on, encoded by the earlier model's VAE.
        earlier: model to start from, which is also the teacher.
        steps: number of steps; by default that of `SCHEDULE`.
    """
    hardware = hardware or Hardware()
    model, teacher = Distilled(seed), earlier.transformer.eval().requires_grad_(False).to(hardware.device)
    model.student.take_over(earlier.tokenizer, earlier.text_encoder, earlier.transformer)
    model.critic.load_state_dict(earlier.transformer.state_dict())
    schedule = replace(SCHEDULE, steps=steps or SCHEDULE.steps)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        sample, origin = draw_sample(long, openings, rng, schedule.batch, REPLAY_SHARE, LAYOUTS)
        if rng.random() >= MATCHED[sample.kind]:
            loss, figures, _ = flow_loss(model.student, sample)
            return loss, figures
        context, inputs = _run_sampler(model.student, sample, rng.random() < GUIDED_SHARE, origin)
        learns = step >= CRITIC_ALONE and step % STUDENT_EVERY == 0
        levels = torch.tensor(SAMPLER.sigmas, device=inputs.device).expand(len(inputs), LEVELS)
        with torch.set_grad_enabled(learns):
            drawn = context.predict(model.student.transformer, inputs, levels)
        loss = critic_loss(model.critic, context, drawn.detach())
        figures = {"critic": round(loss.item(), 4)}
        if learns:
            weight = actor_weight(sample.actors.to(inputs.device), LEVELS)
            own, figures[sample.kind] = matching_loss(teacher, model.critic, context, drawn, weight)
            loss = loss + own
        return loss, figures

    average = train(model, loss_of, schedule, folder, report, betas=(0.0, 0.99), hardware=hardware)
    assert isinstance(average, Distilled)
    return average.student


@torch.no_grad()
def _run_sampler(student: TextToVideo, sample: Sample, guided: bool, origin: Origin) -> tuple[Context, Tensor]:
    """Return a batch's context and the sampler's inputs in it; keep what it draws if that follows the script."""
    device = student.transformer.device
    frames, truth = sample.clean.to(device), sample.target.to(device)
    context = Context(sample.plan, degrade(frames), student.prompt_embeds(sample.prompts))
    inputs = sampler_inputs(student.transformer, context, truth, guided)
    if guided:
        last = truth.new_full((len(truth), 1), SAMPLER.sigmas[-1])
        origin.keep(context.predict(student.transformer, inputs[:, :, -SIZE:], last))
    return context, inputs


@torch.no_grad()
def sampler_inputs(student: nn.Module, context: Context, truth: Tensor, guided: bool) -> Tensor:
    """Return what the sampler gives the student at each of its levels, side by side: [B, C, LEVELS * T, h, w].

    Args:
        student: the transformer.
        context: what the blocks are drawn from.
        truth: the world's blocks [B, C, T, h, w].
        guided: whether the second level's input is the world's block with noise, instead of the first estimate.
    """
    noisy, sigmas = [torch.randn_like(truth)], SAMPLER.sigmas
    for step, sigma in enumerate(sigmas[:-1]):
        at = truth.new_full((len(truth), 1), sigma)
        clean = truth if guided and not step else context.predict(student, noisy[step], at)
        noisy.append(add_noise(clean, torch.randn_like(clean), sigmas[step + 1]))
    return torch.cat(noisy, dim=2)


def critic_loss(critic: nn.Module, context: Context, drawn: Tensor) -> Tensor:
    """Return the critic's flow-matching loss on the student's blocks [B, C, n T, h, w]."""
    noisy, sigmas = _noised(drawn)
    return ((context.predict(critic, noisy, sigmas) - drawn) / _by_cell(sigmas)).square().mean()


def matching_loss(
    teacher: nn.Module, critic: nn.Module, context: Context, drawn: Tensor, weight: Tensor
) -> tuple[Tensor, float]:
    """Return a loss whose gradient moves the student's blocks to where the teacher's are (DMD, eq. 7 and 8).

    Args:
        teacher, critic: transformers that know the distribution to reach, and the one that the blocks are from.
        context: what the blocks were drawn from.
        drawn: the student's blocks [B, C, n T, h, w], with gradients.
        weight: how much each cell counts, [B, 1, n T, h, w].

    Returns:
        The loss, and how far apart teacher and critic are, as a share of how far the blocks are from the teacher's.
    """
    with torch.no_grad():
        noisy, sigmas = _noised(drawn)
        real, fake = context.predict(teacher, noisy, sigmas), context.predict(critic, noisy, sigmas)
        away = (drawn - real).abs().unflatten(2, (-1, SIZE)).mean((1, 3, 4, 5))  # [B, n]
        goal = drawn - (fake - real) / _by_cell(away.clamp(min=1e-3))
        apart = (fake - real).abs().mean() / (drawn - real).abs().mean()
    loss = 0.5 * (weight * (drawn - goal).square()).mean() / weight.mean()
    return loss, round(apart.item(), 4)


def _noised(clean: Tensor) -> tuple[Tensor, Tensor]:
    """Noise blocks [B, C, n T, h, w], each to a level of its own; also return the levels [B, n]."""
    shape, device = (len(clean), clean.shape[2] // SIZE), clean.device
    grid = torch.tensor([sigma for sigma in SAMPLER.sigmas if NOISE[0] <= sigma <= NOISE[1]], device=device)
    on_grid = grid[torch.randint(len(grid), shape, device=device)]
    anywhere = NOISE[0] + (NOISE[1] - NOISE[0]) * torch.rand(shape, device=device)
    sigmas = torch.where(torch.rand(shape, device=device) < ON_GRID_SHARE, on_grid, anywhere)
    return torch.lerp(clean, torch.randn_like(clean), _by_cell(sigmas)), sigmas


def _by_cell(values: Tensor) -> Tensor:
    """Spread a value per block [B, n] over frames: [B, 1, n T, 1, 1]."""
    return values.repeat_interleave(SIZE, 1)[:, None, :, None, None]
