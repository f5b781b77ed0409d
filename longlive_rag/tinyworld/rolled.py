"""Films as the model itself makes them: what long tuning trains on.

A film is rolled out block after block in the context that inference has: sink, recent frames, and what memory brings
back under its policy, all of it the model's own. Two things keep it beside its script, so that the script still says
what comes next: the first showing of every character is the world's, as memory would have it; and every other block
begins from the world's, noised to the sampler's second level, where the outline is left and hats and bags are open (as
in SDEdit, Meng et al., 2022). Errors add up as in a long take; only nobody walks elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from backbone.config import ContextConfig, SamplerConfig
from backbone.sampler import add_noise, predict_x0
from backbone.transformer import CausalWanTransformer
from longlive_rag.generation.noise import NoiseSource, PhiloxNoise
from longlive_rag.generation.rollout import Rollout
from longlive_rag.tinyworld.corpus import Corpus
from longlive_rag.tinyworld.scripts import block_frame, block_of
from longlive_rag.tinyworld.world import FPS, Script
from retrieval.budgets import PageBudgets
from retrieval.encoder import LatentEncoder
from retrieval.policy import RetrievalRules
from retrieval.selection import Selection

Embed = Callable[[list[str]], Tensor]
FIRST_SHOWING_S = 6.0
GUIDED_FROM = 1  # of the sampler's levels


class GuidedRollout(Rollout):
    """A rollout that stays beside the truth.

    Args:
        truth: [B, T, C, h, w], the film as the world has it.
        given: [B, blocks], True where a block is the world's own.
        Others as for `Rollout`.
    """

    def __init__(
        self, transformer: CausalWanTransformer, context: ContextConfig, sampler: SamplerConfig, noise: NoiseSource,
        truth: Tensor, given: Tensor, encoder: LatentEncoder, rules: RetrievalRules,
    ) -> None:  # fmt: skip
        shape = (truth.shape[2], truth.shape[3], truth.shape[4])
        budgets = PageBudgets(remake_stale=False)
        super().__init__(transformer, context, sampler, noise, shape, len(truth), encoder, rules=rules, budgets=budgets)
        self._truth, self._given = truth, given

    @torch.no_grad()
    def direct(self, prompt_embeds: Tensor, cut: bool = False) -> None:
        """Put prompts in charge without a recache: side by side, some film has a cue at nearly every block."""
        if cut:
            raise ValueError("rolled films have no cuts")
        self._take_prompt(prompt_embeds)

    def _denoise(
        self, block: int, selections: tuple[Selection, ...], retry: int = 0
    ) -> tuple[Tensor, tuple[Selection, ...]]:
        size = self._context.frames_per_block
        truth = self._truth[:, block * size : (block + 1) * size].to(self._device)
        given = self._given[:, block].to(self._device)[:, None, None, None, None]
        if bool(given.all()):
            return truth, selections
        shape, sigmas = (size, *self._latent_shape), self._sampler.sigmas
        noisy = add_noise(truth, self._draw(block, GUIDED_FROM, shape), sigmas[GUIDED_FROM])
        for step, sigma in enumerate(sigmas[GUIDED_FROM:], GUIDED_FROM):
            times = self._timesteps(sigma, first_is_clean=False)
            frames = noisy.transpose(1, 2).to(self._dtype)
            flow = self._transformer.forward_block(frames, times, self._prompt(), self._cache).transpose(1, 2)
            clean = predict_x0(noisy, flow, sigma)
            if step + 1 < len(sigmas):
                noisy = add_noise(clean, self._draw(block, step + 1, shape), sigmas[step + 1])
        return torch.where(given, truth, clean), selections


@dataclass(frozen=True)
class Films:
    """Films, and the model's last version of each.

    Attributes:
        corpus: as the world has them; `replay` is the model's version.
        given: [N, blocks], True where a block is a first showing.
        first_shown: for each film and block, the blocks in which its lead was first shown; none while that goes on.
        recalled: for each film and block, the latent frames that memory brought back.
        rolled: films of which there is a version of the model's.
    """

    corpus: Corpus
    given: Tensor = field(init=False)
    first_shown: list[list[range]] = field(init=False)
    recalled: list[list[tuple[int, ...]]] = field(init=False)
    rolled: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        blocks, scripts = self.corpus.blocks, self.corpus.scripts
        shown = [_first_showings(script, blocks) for script in scripts]
        given = torch.zeros(len(scripts), blocks, dtype=torch.bool)
        for number, spans in enumerate(shown):
            given[number, 0] = True
            for span in spans.values():
                given[number, span.start : span.stop] = True
        object.__setattr__(self, "given", given)
        first = [
            [_shown_before(script, spans, b) for b in range(blocks)]
            for script, spans in zip(scripts, shown, strict=True)
        ]
        object.__setattr__(self, "first_shown", first)
        object.__setattr__(self, "recalled", [[() for _ in range(blocks)] for _ in scripts])

    @torch.no_grad()
    def roll(
        self, numbers: Sequence[int], transformer: CausalWanTransformer, embed: Embed, encoder: LatentEncoder,
        context: ContextConfig, sampler: SamplerConfig, rules: RetrievalRules, seed: int,
    ) -> None:  # fmt: skip
        """Make some films anew, side by side, and keep what was made and what memory brought back.

        Args:
            numbers: which films.
            embed: prompts to their embeddings.
            seed: of the noise and of the prompts' word orders.
        """
        corpus, rng = self.corpus, np.random.default_rng(seed)
        truth = corpus.latents[list(numbers)].transpose(1, 2)
        noise = PhiloxNoise([seed * 1_000 + number for number in numbers])
        rollout = GuidedRollout(transformer, context, sampler, noise, truth, self.given[list(numbers)], encoder, rules)
        size, said = context.frames_per_block, None
        for block in range(corpus.blocks):
            told = [str(corpus.scripts[number].sentence(block_frame(block))) for number in numbers]
            if told != said:
                rollout.direct(embed([corpus.prompt(number, block, rng) for number in numbers]))
                said = told
            made = rollout.next_block()
            for place, number in enumerate(numbers):
                corpus.replay[number, :, block * size : (block + 1) * size] = made.latents[place].transpose(0, 1)
                self.recalled[number][block] = made.selections[place].frames if made.selections else ()
        self.rolled.update(numbers)


def _first_showings(script: Script, blocks: int) -> dict[int, range]:
    """By actor, the blocks of its first scene, `FIRST_SHOWING_S` of them at most."""
    found: dict[int, range] = {}
    ends = [frame for frame, _ in script.leads[1:]] + [script.frames]
    for (start, actor), end in zip(script.leads, ends, strict=True):
        if actor not in found:
            stop = min(end, start + FIRST_SHOWING_S * FPS)
            found[actor] = range(block_of(start), min(blocks, block_of(stop)))
    return found


def _shown_before(script: Script, spans: Mapping[int, range], block: int) -> range:
    """The blocks in which the lead of `block` was first shown; none while that goes on."""
    frame = block_frame(block)
    lead = next(actor for start, actor in reversed(script.leads) if start <= frame)
    return spans[lead] if spans[lead].stop <= block else range(0)
