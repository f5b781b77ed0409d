"""A rollout on several processes: rank 0 owns the take and tells the other ranks to run the same steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backbone.compiling import compile_for
from backbone.config import ContextConfig
from backbone.parallel import Ranks
from backbone.transformer import CausalWanTransformer
from longlive_rag.config import TakeRequest
from longlive_rag.environment import keep_compiled
from longlive_rag.generation.rollout import FinishedBlock, Rollout, RolloutState
from retrieval.budgets import PageBudgets
from retrieval.encoder import LatentEncoder, MeanPoolEncoder
from retrieval.policy import RetrievalRules
from retrieval.selection import Selection

Result = TypeVar("Result")
Lost = Callable[[], str | None]
"""Returns why the take can't continue, if another rank has ended; called when something went wrong."""

Room = Callable[[TakeRequest, int], int]
"""Returns the bytes of a GPU available for pages, given a request and the number of takes made side by side."""


class RankLostError(OSError):
    """Another process making the take has ended. What is finished is kept."""


class SameEncoder:
    """An encoder that gives rank 0's embeddings on every rank, so that all memories are bitwise equal."""

    def __init__(self, encoder: LatentEncoder, ranks: Ranks) -> None:
        self._encoder, self._ranks = encoder, ranks

    def encode(self, latents: Tensor) -> Tensor:
        """Embed latents; all ranks must call it together."""
        return self._ranks.same(self._encoder.encode(latents))


class LeadingRollout(Rollout):
    """Rank 0's rollout, which makes the other ranks follow.

    Arguments as for `Rollout`; the other ranks keep past latents in temporary files. Budgets cover all ranks together:
    each rank holds its own heads of as many pages as a single process would hold.

    Args:
        lost: see `Lost`.

    Raises:
        ValueError: if `choose` is given, which only rank 0 could call.
    """

    def __init__(
        self,
        transformer: CausalWanTransformer,
        *given: Any,
        lost: Lost,
        encoder: LatentEncoder | None = None,
        device: torch.device | None = None,
        start: Tensor | None = None,
        budgets: PageBudgets | None = None,
        past: Any = None,
        choose: Any = None,
        **settings: Any,
    ) -> None:
        if transformer.ranks is None:
            raise ValueError("the transformer runs in one process; set its ranks first")
        if choose is not None:
            raise ValueError("choose works in a single process only; make such takes on one GPU")
        self._told, self._lost = transformer.ranks, lost
        settings["start"] = None if start is None else start.cpu()
        settings["budgets"] = _share(budgets or PageBudgets(), self._told.size)
        sent = encoder if isinstance(encoder, MeanPoolEncoder) else encoder is not None
        self._told.tell(("begin", given, {"encoder": sent, **settings}))
        settings["encoder"] = None if encoder is None else SameEncoder(encoder, self._told)
        own = {**settings, "device": device, "past": past}
        self._watched(lambda: super(LeadingRollout, self).__init__(transformer, *given, **own))

    def direct(self, prompt_embeds: Tensor, cut: bool = False) -> None:
        """As `Rollout` does, on all ranks."""
        self._do("direct", super().direct, prompt_embeds.cpu(), cut)

    def steer(self, rules: RetrievalRules) -> None:
        """As `Rollout` does, on all ranks."""
        self._do("steer", super().steer, rules)

    def next_block(self) -> FinishedBlock:
        """As `Rollout` does, on all ranks."""
        return self._do("next_block", super().next_block)

    def replay(
        self, latents: Tensor, embeddings: NDArray[np.float32] | None, selections: tuple[Selection, ...]
    ) -> None:
        """As `Rollout` does, on all ranks."""
        self._do("replay", super().replay, latents.cpu(), embeddings, selections)

    def recall(
        self,
        latents: Tensor,
        embeddings: NDArray[np.float32] | None,
        selections: tuple[Selection, ...],
        prompt_embeds: Tensor | None,
        cut: bool = False,
    ) -> None:
        """As `Rollout` does, on all ranks."""
        words = None if prompt_embeds is None else prompt_embeds.cpu()
        self._do("recall", super().recall, latents.cpu(), embeddings, selections, words, cut)

    def state(self, known: Any = ()) -> RolloutState:
        """As `Rollout` does, with the heads of all ranks, so that a single process can resume from it."""
        return self._do("state", super().state, frozenset(known))

    def restore(self, state: RolloutState) -> None:
        """As `Rollout` does, giving each rank its heads."""
        shapes = state.each_tensor(lambda tensor: tensor.to("meta"))
        self._told.tell(("restore", (shapes,), {}))
        self._watched(lambda: super(LeadingRollout, self).restore(state))

    def rebuild(self) -> None:
        """As `Rollout` does, on all ranks."""
        self._do("rebuild", super().rebuild)

    def _do(self, name: str, do: Callable[..., Result], *args: Any) -> Result:
        def tell_and_do() -> Result:
            self._told.tell((name, args, {}))
            return do(*args)

        return self._watched(tell_and_do)

    def _watched(self, do: Callable[[], Result]) -> Result:
        """Turn an error caused by a rank that ended into a `RankLostError`."""
        try:
            return do()
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or (reason := self._lost()) is None:
                raise
            raise RankLostError(reason) from error


def compile_on_all(transformer: CausalWanTransformer, context: ContextConfig, latents: tuple[int, int, int]) -> float:
    """As `compile_for`, on all ranks."""
    assert transformer.ranks is not None
    transformer.ranks.tell(("compile", (context, latents), {}))
    return compile_for(transformer, context, latents)


def room_on_all(ranks: Ranks, room: Room, request: TakeRequest, batch: int) -> int:
    """Bytes available for pages on all ranks' GPUs together: the rank with the least room sets the limit for each.

    Args:
        room: rank 0's.
    """
    ranks.tell(("room", (request, batch), {}))
    return ranks.size * ranks.least(room(request, batch))


def follow(ranks: Ranks, transformer: CausalWanTransformer, encoder: LatentEncoder | None, room: Room) -> None:
    """Do what rank 0 does, until it says that it is done.

    Args:
        transformer: the same as rank 0's.
        encoder: the backbone's own encoder, if it has one.
        room: for this rank's GPU.
    """
    rollout: Rollout | None = None
    while (told := ranks.tell()) is not None:
        name, args, settings = told
        if name == "compile":
            keep_compiled()
            compile_for(transformer, *args)
            continue
        if name == "room":
            ranks.least(room(*args))
            continue
        if name != "begin":
            getattr(rollout, name)(*args)
            continue
        rollout = None  # free its memory for the next one
        wanted = settings.pop("encoder")
        chosen = encoder if wanted is True else wanted or None
        settings["encoder"] = None if chosen is None else SameEncoder(chosen, ranks)
        rollout = Rollout(transformer, *args, **settings)


def _share(budgets: PageBudgets, size: int) -> PageBudgets:
    """A rank's share of the budgets: each rank holds the pages of its own heads."""
    on_gpu = None if budgets.gpu_bytes is None else budgets.gpu_bytes // size
    return replace(budgets, gpu_bytes=on_gpu, host_bytes=budgets.host_bytes // size)
