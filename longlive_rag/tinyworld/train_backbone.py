"""Stage 2: train the text encoder and the causal transformer by flow matching, in the contexts that inference uses.

A sample is one sequence `[context | copy 1 | ... | copy 4]`: clean past frames of a take at timestep 0, and the next
block, noised to each of the four levels that the sampler visits. A mask lets every copy see its context and itself, so
one pass trains four denoising steps, in the layout `[sink | memory | local | block]` or without memory.

Once the model can predict, its predictions are kept (`Corpus.replay`) and serve as context in half of the samples,
while the targets stay the world's. So it learns to continue from pictures like its own, without an extra pass.

Four steps leave little room to decide: what is undecided at the last one is drawn as an average. Three things help. The
noise levels suit a picture of 64 latents (see `SAMPLER`). Errors count more where the actors are. And the first blocks,
which depend on words alone, are trained with guidance: the target is moved by how much the prompt changes the model's
own prediction (Tang et al., 2025, "Diffusion models without classifier-free guidance").

Training can start from a model that was trained before, when the world looked slightly different; replay and guidance
then apply from the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import T5Tokenizer, UMT5EncoderModel

from backbone.config import ContextConfig, SamplerConfig
from backbone.text import masked_states, token_batch
from backbone.transformer import CausalWanTransformer
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.corpus import Corpus
from longlive_rag.tinyworld.text import TEXT_DIM, TEXT_LENGTH, new_text_encoder, new_tokenizer
from longlive_rag.tinyworld.training import Hardware, Schedule, train

CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "num_layers": 6,
    "ffn_dim": 512,
    "freq_dim": 64,
    "text_dim": TEXT_DIM,
    "text_length": TEXT_LENGTH,
}
CONTEXT = ContextConfig()
# Shift 5 suits latents of 60x104: with more redundant elements, more noise is needed to leave anything open (Esser et
# al., 2024, eq. 23). At 8x8, a character's outline would still be undecided at the last of its levels.
SAMPLER = SamplerConfig(timestep_shift=1.5)
SCHEDULE = Schedule(steps=6500, learning_rate=2e-3, warm_up=150, final_fraction=0.02, ema=0.998, batch=6)
ADAPTING = replace(SCHEDULE, learning_rate=1.2e-3)
"""Schedule for a model that was trained before."""
# Share of the batches in each layout.
LAYOUTS = {"first": 0.30, "early": 0.15, "native": 0.15, "memory": 0.40}
# Share of the samples with memory in which someone enters the picture: only memory can tell what they look like.
ENTRANCE_SHARE = 0.5
# Share of the remaining samples with a full window in which the place changes: otherwise too rare to be learned.
MOVE_SHARE = 0.25
RANDOM_SIGMA_SHARE = 0.15
# From this share of the steps on, this share of the contexts is the model's own.
REPLAY_FROM, REPLAY_SHARE = 0.25, 0.5
# Probability, by noise level, of keeping that prediction for replay; the least noisy are most like a finished block.
REPLAY_LEVELS = (0.0, 0.2, 0.3, 0.5)
# How much more a cell full of actors counts than one without.
ACTOR_WEIGHT = 3.0
# PROMPT_DROPOUT is the share of prompts withheld. From GUIDANCE_FROM of the steps on, the layouts in `GUIDED` are
# trained with guidance; a strength s moves the prediction to where guidance of scale 1 / (1 - s) would.
PROMPT_DROPOUT, GUIDED, GUIDANCE_FROM, GUIDANCE = 0.1, ("first", "early"), 0.4, 0.5


class TextToVideo(nn.Module):
    """The parts that are trained together."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.tokenizer = new_tokenizer()
        self.text_encoder: UMT5EncoderModel = new_text_encoder(len(self.tokenizer), seed)
        torch.manual_seed(seed)
        self.transformer = CausalWanTransformer(**CONFIG)
        nn.init.zeros_(self.transformer.proj_out.weight)

    def prompt_embeds(self, prompts: list[str]) -> Tensor:
        """Embed prompts, differentiably: [B, text_length, text_dim]."""
        ids, mask = token_batch(self.tokenizer, prompts, TEXT_LENGTH)
        device = self.text_encoder.device
        return masked_states(self.text_encoder, ids.to(device), mask.to(device))

    @torch.no_grad()
    def take_over(self, tokenizer: T5Tokenizer, text_encoder: UMT5EncoderModel, transformer: nn.Module) -> None:
        """Take over all weights of an earlier model, including the embeddings of words that are still known."""
        self.transformer.load_state_dict(transformer.state_dict())
        weights = text_encoder.state_dict()
        table = self.text_encoder.get_input_embeddings().weight.detach().clone()
        earlier, words = tokenizer.get_vocab(), self.tokenizer.get_vocab()
        for word, row in words.items():
            if word in earlier:
                table[row] = text_encoder.get_input_embeddings().weight[earlier[word]]
        tables = ("shared.weight", "encoder.embed_tokens.weight")
        weights |= {name: table for name in tables if name in weights}
        self.text_encoder.load_state_dict(weights)


@dataclass(frozen=True)
class Layout:
    """The frames of one sequence, relative to the next block.

    Attributes:
        offsets: number of each context frame minus the block's first; None if it is drawn from the past.
        positions: temporal position of every frame of the sequence, including the copies.
        mask: [F, F], True where the row's frame may attend to the column's.
        sink: whether the first context frame is the take's first frame.
    """

    offsets: tuple[int | None, ...]
    positions: tuple[int, ...]
    mask: NDArray[np.bool_]
    sink: bool


def layout(kind: str, block: int, memory_frames: int = 0, copies: int = 4) -> Layout:
    """Return the layout of a sequence with one kind of context.

    Args:
        kind: `first` (no context), `early` and `native` (sink and local frames), `memory` (sink, memory, local).
        block: number of the next block; its context is what the cache would hold then.
        memory_frames: number of frames that memory brings back.
        copies: number of noisy copies of the block.
    """
    size, window = CONTEXT.frames_per_block, CONTEXT.window_frames
    start = block * size
    held = min(start, window - size)  # frames in the cache beside the block
    sink = list(range(min(CONTEXT.sink_frames, held)))
    local = list(range(len(sink), held))
    seen = CONTEXT.local_frames - size if kind == "memory" else len(local)
    # Local frames need context for their own features, so keep one block more than the copies see.
    local = local[-(seen + size) :] if kind == "memory" else local
    slots = [*sink, *local]
    context = len(sink) + memory_frames + len(local)
    positions = [*sink, *([0] * memory_frames), *local, *(list(range(held, held + size)) * copies)]

    total = context + size * copies
    mask = np.zeros((total, total), bool)
    memory = slice(len(sink), len(sink) + memory_frames)
    blocks = [(slot + start - held) // size if slot >= len(sink) else -1 for slot in slots]
    plain = [index for index in range(context) if not memory.start <= index < memory.stop]
    for row, row_block in zip(plain, blocks, strict=True):
        for column, column_block in zip(plain, blocks, strict=True):
            mask[row, column] = column_block <= row_block
    mask[memory.stop : context, memory] = True  # local frames were committed with memory visible
    mask[memory, : len(sink)] = True
    for index in range(memory.start, memory.stop):
        mask[index, index] = True
    for copy in range(copies):
        rows = slice(context + size * copy, context + size * (copy + 1))
        mask[rows, rows] = True
        mask[rows, : memory.stop] = True
        mask[rows, context - min(seen, len(local)) : context] = True
    offsets = [*sink, *([None] * memory_frames), *[slot - held for slot in local]]
    return Layout(tuple(offsets), tuple(positions), mask, bool(sink))


def train_backbone(
    long: Corpus,
    openings: Corpus,
    folder: Path,
    report: Callable[[str], None],
    steps: int | None = None,
    seed: int = 0,
    hardware: Hardware | None = None,
    earlier: LongLiveRAGPipeline | None = None,
) -> TextToVideo:
    """Train text encoder and transformer together; resumable. Returns their moving average.

    Args:
        long, openings: long scripts, and short ones for the first blocks.
        steps: number of steps; by default that of `SCHEDULE`, or of `ADAPTING` with an earlier model.
        earlier: model to start from instead of random weights.
    """
    model = TextToVideo(seed)
    replay_from, guidance_from = REPLAY_FROM, GUIDANCE_FROM
    if earlier is not None:
        model.take_over(earlier.tokenizer, earlier.text_encoder, earlier.transformer)
        replay_from = guidance_from = 0.0
    schedule = SCHEDULE if earlier is None else ADAPTING
    schedule = replace(schedule, steps=steps or schedule.steps)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        replay_share = REPLAY_SHARE if step >= replay_from * schedule.steps else 0.0
        guidance = GUIDANCE if step >= guidance_from * schedule.steps else 0.0
        return usual_loss(model, long, openings, rng, schedule.batch, replay_share, guidance)

    average = train(model, loss_of, schedule, folder, report, betas=(0.9, 0.98), hardware=hardware)
    assert isinstance(average, TextToVideo)
    return average


def usual_loss(
    model: TextToVideo, long: Corpus, openings: Corpus, rng: np.random.Generator, batch: int, replay_share: float,
    guidance: float = GUIDANCE,
) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    """Return the loss of a batch of stage 2 in a random layout; those in `GUIDED` use this guidance."""
    sample, origin = draw_sample(long, openings, rng, batch, replay_share)
    loss, figures, predicted = flow_loss(model, sample, guidance if sample.kind in GUIDED else 0.0)
    if replay_share:
        _keep_predictions(origin, predicted, rng)
    return loss, figures


def draw_sample(
    long: Corpus, openings: Corpus, rng: np.random.Generator, batch: int, replay_share: float,
    shares: Mapping[str, float] = LAYOUTS,
) -> tuple[Sample, Origin]:  # fmt: skip
    """Draw a batch in a random layout, and say where it is from.

    Args:
        replay_share: share of the contexts that are the model's own.
        shares: probability of each layout.
    """
    kind, plan, block = _draw_layout(rng, shares)
    corpus = openings if block < openings.blocks else long
    scripts, starts = _draw_starts(rng, corpus, kind, block, batch)
    prompts = [corpus.prompt(int(s), int(b), rng) for s, b in zip(scripts, starts, strict=True)]
    clean, target = gather(corpus, plan, scripts, starts, rng, replay_share)
    sample = Sample(kind, plan, prompts, clean, target, actors_of(corpus, scripts, starts))
    return sample, Origin(corpus, scripts, starts)


def _draw_layout(rng: np.random.Generator, shares: Mapping[str, float]) -> tuple[str, Layout, int]:
    """Draw (kind, layout, earliest block) of one batch."""
    kind = str(rng.choice(list(shares), p=list(shares.values())))
    full = CONTEXT.window_frames // CONTEXT.frames_per_block
    if kind == "first":
        return kind, layout("first", 0), 0
    if kind == "early":
        block = int(rng.integers(1, full))
        return kind, layout(str(rng.choice(["native", "memory"])), block), block
    if kind == "memory":
        count = int(rng.choice([0, 1, 4, CONTEXT.memory_frames, CONTEXT.memory_frames, CONTEXT.memory_frames]))
        return kind, layout("memory", full, count), full
    return kind, layout("native", full), full


def _draw_starts(
    rng: np.random.Generator, corpus: Corpus, kind: str, block: int, batch: int
) -> tuple[NDArray, NDArray]:
    """Draw (script, next block) of each sample, [batch] each."""
    scripts = rng.integers(0, len(corpus.scripts), batch)
    full = CONTEXT.window_frames // CONTEXT.frames_per_block
    if block < full:
        return scripts, np.full(batch, block)
    starts = rng.integers(full, corpus.blocks, batch)
    for events, share in ((corpus.moves, MOVE_SHARE), (corpus.entrances, ENTRANCE_SHARE if kind == "memory" else 0)):
        later = events[events[:, 1] >= full]
        if len(later):
            chosen = rng.random(batch) < share
            drawn = later[rng.integers(0, len(later), batch)]
            scripts, starts = np.where(chosen, drawn[:, 0], scripts), np.where(chosen, drawn[:, 1], starts)
    return scripts, starts


@dataclass(frozen=True)
class Sample:
    """One batch to train on.

    Attributes:
        kind: name in the log.
        plan: layout of the sequence.
        prompts: [B].
        clean: context frames [B, C, context, h, w].
        target: the block that follows [B, C, T, h, w].
        actors: [B, T, h, w] in 0..1, the share of each cell that actors cover.
    """

    kind: str
    plan: Layout
    prompts: list[str]
    clean: Tensor
    target: Tensor
    actors: Tensor


@dataclass(frozen=True)
class Origin:
    """Where the blocks of a batch are from.

    Attributes:
        corpus: whose scripts they are from.
        scripts, starts: script and number of each block, [B].
    """

    corpus: Corpus
    scripts: NDArray
    starts: NDArray

    def keep(self, drawn: Tensor) -> None:
        """Keep the model's versions of the blocks, [B, C, T, h, w], as context for others."""
        size = CONTEXT.frames_per_block
        for block, script, start in zip(drawn.cpu(), self.scripts, self.starts * size, strict=True):
            self.corpus.replay[script, :, start : start + size] = block


def actors_of(corpus: Corpus, scripts: NDArray, starts: NDArray) -> Tensor:
    """Return the share of each cell that actors cover in the next blocks, [B, T, h, w]."""
    size = CONTEXT.frames_per_block
    return torch.stack([corpus.actors[s, b * size : (b + 1) * size] for s, b in zip(scripts, starts, strict=True)])


def flow_loss(
    model: TextToVideo, sample: Sample, guidance: float = 0.0, steadiness: float = 0.0
) -> tuple[Tensor, dict[str, float], Tensor]:
    """Compute the flow-matching loss of one batch, at all of the sampler's levels.

    Args:
        model: the model.
        sample: the batch.
        guidance: how far the target is moved by what the prompt changes; see `guided_goal`.
        steadiness: weight of the error's change from frame to frame; constant errors are less visible than flicker.

    Returns:
        The loss, figures for the log, and the predictions [B, C, copies * T, h, w] on the CPU.
    """
    plan, device = sample.plan, model.transformer.device
    clean, target = sample.clean.to(device), sample.target.to(device)
    context = degrade(clean)

    size = CONTEXT.frames_per_block
    copies = (len(plan.positions) - context.shape[2]) // size
    batch = len(target)
    per_frame = _draw_sigmas(batch, copies).repeat_interleave(size, 1).to(device)  # [B, copies * T]
    repeated = target.repeat(1, 1, copies, 1, 1)
    noise = torch.randn_like(repeated)
    level = per_frame[:, None, :, None, None]
    noisy = (1 - level) * repeated + level * noise

    def predict(prompt_embeds: Tensor) -> Tensor:
        return flow_in(plan, model.transformer, context, noisy, per_frame, prompt_embeds)

    told = (torch.rand(batch) >= PROMPT_DROPOUT).float().to(device)
    embeds = model.prompt_embeds(sample.prompts) * told[:, None, None]
    flow, goal = predict(embeds), noise - repeated
    if guidance:
        with torch.no_grad():
            untold = predict(torch.zeros_like(embeds))
        goal = guided_goal(goal, flow.detach(), untold, guidance * told)
    weight = actor_weight(sample.actors.to(device), copies)
    error = flow - goal
    loss = (weight * error.square()).mean() / weight.mean()
    figures = {sample.kind: round(loss.item(), 4)}
    if steadiness:
        change = error.unflatten(2, (copies, size)).diff(dim=3).square().mean()
        loss = loss + steadiness * change
        figures["change"] = round(change.item(), 4)
    return loss, figures, (noisy - level * flow).detach().cpu()


def flow_in(
    plan: Layout, transformer: nn.Module, context: Tensor, noisy: Tensor, sigmas: Tensor, prompt_embeds: Tensor
) -> Tensor:
    """Return the flow that a transformer predicts for noisy blocks in a layout, [B, C, n T, h, w].

    Args:
        plan: layout with room for at least n blocks side by side, which don't see each other.
        context: clean frames [B, C, context, h, w].
        noisy: n blocks side by side, [B, C, n T, h, w].
        sigmas: noise level of each of their frames, [B, n T].
        prompt_embeds: [B, L, D].
    """
    known = context.shape[2]
    total = known + noisy.shape[2]
    return transformer(
        torch.cat([context, noisy], dim=2),
        torch.cat([sigmas.new_zeros(len(noisy), known), sigmas * SAMPLER.num_train_timesteps], dim=1),
        prompt_embeds,
        frame_positions=torch.tensor(plan.positions[:total], device=noisy.device),
        frame_mask=torch.from_numpy(plan.mask[:total, :total]).to(noisy.device),
    )[:, :, known:]


def actor_weight(actors: Tensor, copies: int) -> Tensor:
    """Return how much each cell counts, [B, 1, copies * T, h, w], from the share that actors cover [B, T, h, w]."""
    return 1 + ACTOR_WEIGHT * actors.repeat(1, copies, 1, 1)[:, None]


def guided_goal(goal: Tensor, flow: Tensor, untold: Tensor, strength: Tensor) -> Tensor:
    """Move the target by guidance (Tang et al., 2025).

    Args:
        goal: the data's flow [B, C, T, h, w].
        flow, untold: the model's predictions with and without the prompt, of the same shape.
        strength: [B], below 1; 0 for samples whose prompt was withheld.
    """
    return goal + strength[:, None, None, None, None] * (flow - untold)


def _keep_predictions(origin: Origin, predicted: Tensor, rng: np.random.Generator) -> None:
    """Keep one of each sample's predictions [B, C, copies * T, h, w]."""
    picked = rng.choice(len(REPLAY_LEVELS), len(predicted), p=REPLAY_LEVELS)
    copies = predicted.split(CONTEXT.frames_per_block, dim=2)
    origin.keep(torch.stack([copies[copy][sample] for sample, copy in enumerate(picked)]))


def gather(
    corpus: Corpus, plan: Layout, scripts: NDArray, starts: NDArray, rng: np.random.Generator, replay_share: float
) -> tuple[Tensor, Tensor]:
    """Gather context frames [B, C, context, h, w], true or replayed, and the true next block [B, C, T, h, w]."""
    size = CONTEXT.frames_per_block
    contexts, targets = [], []
    for script, start in zip(scripts, starts * size, strict=True):
        past = _past_frames(plan, int(start), rng)
        source = corpus.replay if rng.random() < replay_share else corpus.latents
        contexts.append(source[script][:, past])
        targets.append(corpus.latents[script][:, start : start + size])
    return torch.stack(contexts), torch.stack(targets)


def _past_frames(plan: Layout, start: int, rng: np.random.Generator) -> list[int]:
    left_cache = max(2, start - (CONTEXT.window_frames - CONTEXT.sink_frames))
    wanted = sum(offset is None for offset in plan.offsets)
    drawn = iter(rng.choice(np.arange(1, max(left_cache, wanted + 1)), wanted, replace=False).tolist())
    frames = []
    for index, offset in enumerate(plan.offsets):
        is_sink = plan.sink and index < CONTEXT.sink_frames
        frames.append(next(drawn) if offset is None else offset if is_sink else start + offset)
    return frames


def _draw_sigmas(batch: int, copies: int) -> Tensor:
    """Draw noise levels [B, copies]: mostly the sampler's own, sometimes any on the shifted schedule."""
    levels = torch.tensor(SAMPLER.sigmas)
    levels = levels[torch.arange(copies) % len(levels)].expand(batch, copies)
    steps = torch.rand(batch, copies)
    anywhere = SAMPLER.timestep_shift * steps / (1 + (SAMPLER.timestep_shift - 1) * steps)
    return torch.where(torch.rand(batch, copies) < RANDOM_SIGMA_SHARE, anywhere, levels)


def degrade(context: Tensor) -> Tensor:
    """Make true frames [B, C, T, h, w] look generated, by a little noise, blur and a drift of each channel."""
    batch, channels, frames = context.shape[:3]
    if not frames:
        return context
    device = context.device
    strength = torch.rand(batch, 1, 1, 1, 1, device=device)
    blurred = F.avg_pool3d(context, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)
    mixed = torch.lerp(context, blurred, 0.35 * torch.rand(batch, 1, frames, 1, 1, device=device) * strength)
    drift = 0.08 * torch.randn(batch, channels, frames, 1, 1, device=device) * strength
    return (
        mixed + drift + 0.25 * strength * torch.rand(batch, 1, frames, 1, 1, device=device) * torch.randn_like(context)
    )
