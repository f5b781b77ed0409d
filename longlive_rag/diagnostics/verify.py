"""Replay of golden trajectories, which measures parity instead of arguing it.

A golden file is a whole generation computed elsewhere: weights, noise and prompt embeddings in; latents, embeddings and
retrieved frames out. `tests/golden/README.md` describes the format.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from backbone.checkpoints import load_weights
from backbone.config import ContextConfig, SamplerConfig
from backbone.transformer import CausalWanTransformer
from longlive_rag.generation.rollout import FinishedBlock, Rollout
from retrieval.budgets import PageBudgets
from retrieval.encoder import LatentAutoencoder, LatentEncoder, MeanPoolEncoder

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Verdict:
    """How a replay compares with its golden file.

    Attributes:
        file: the golden file.
        blocks: number of blocks replayed.
        latent_error: largest relative error |ours - golden| / |golden| of a block's latents (2-norms).
        embedding_error: the same for the embeddings; None if the file has none.
        selections_equal: whether every block retrieved the golden frames in the golden order.
        first_difference: description of the first selection that differs; None if none does.
    """

    file: str
    blocks: int
    latent_error: float
    embedding_error: float | None
    selections_equal: bool
    first_difference: str | None

    @property
    def passed(self) -> bool:
        """Whether selections are equal and errors below 1e-3."""
        errors = [self.latent_error, self.embedding_error or 0.0]
        return self.selections_equal and all(error < TOLERANCE for error in errors)


@dataclass(frozen=True)
class Golden:
    """One golden file in memory."""

    path: Path
    scenario: dict[str, Any]
    selected: dict[int, tuple[int, ...]]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> Golden:
        """Read a golden file; ValueError if it is not a golden trajectory."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            scenario = json.loads(metadata["scenario"])
            selected = {int(k): tuple(v) for k, v in json.loads(metadata.get("selected_frames", "{}")).items()}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} can't be read as a safetensors file: {error}") from error
        except (KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a golden trajectory: its metadata has no readable 'scenario'") from error
        return cls(path, scenario, selected, tensors)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors under `prefix.`, without the prefix in their names."""
        start = prefix + "."
        return {name.removeprefix(start): tensor for name, tensor in self.tensors.items() if name.startswith(start)}


def replay(path: Path, device: str = "cpu", budgets: PageBudgets | None = None) -> Verdict:
    """Regenerate a golden trajectory in float32 and compare.

    Args:
        path: the golden file.
        device: where to replay.
        budgets: budgets of pages; by default everything is kept, as for the golden files. With less, the verdict tells
            how far recomputed pages, or pages in lower precision, deviate.

    Raises:
        ValueError: if the file can't be read, or its weights don't fit its own config.
    """
    golden = Golden.read(path)
    finished = _generate(golden, device, budgets or PageBudgets())
    return _compare(golden, finished)


def _generate(golden: Golden, device: str, budgets: PageBudgets) -> list[FinishedBlock]:
    scenario, tensors = golden.scenario, golden.tensors
    context = ContextConfig(**scenario["context"])
    prompts = tensors["prompt_embeds"]
    _, _, channels, height, width = tensors["noise"].shape
    rollout = Rollout(
        _transformer(golden).to(device),
        context,
        SamplerConfig(**{**scenario["sampler"], "denoising_steps": tuple(scenario["sampler"]["denoising_steps"])}),
        _RecordedNoise(tensors["noise"], tensors.get("renoise"), context.frames_per_block),
        latent_shape=(channels, height, width),
        encoder=_encoder(golden, device),
        budgets=budgets,
    )
    cues = {0: 0, **{frame: cue for cue, frame in enumerate(scenario["prompt_switch_frames"], start=1)}}
    finished = []
    for block in range(scenario["blocks"]):
        cue = cues.get(block * context.frames_per_block)
        if cue is not None:
            rollout.direct(prompts[cue : cue + 1])
        finished.append(rollout.next_block())
    return finished


class _RecordedNoise:
    """The noise that a golden file was made from."""

    def __init__(self, start: Tensor, fresh: Tensor | None, frames_per_block: int) -> None:
        self._start, self._fresh, self._frames = start, fresh, frames_per_block

    def __call__(self, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        if step == 0:
            return self._start[:, block * self._frames : (block + 1) * self._frames]
        if self._fresh is None:
            raise ValueError("the golden file samples in several steps but holds no 'renoise'")
        return self._fresh[block, step - 1][None]


def _transformer(golden: Golden) -> CausalWanTransformer:
    sizes = golden.scenario["backbone"]
    with torch.device("meta"):
        model = CausalWanTransformer(
            patch_size=tuple(sizes["patch_size"]),
            num_attention_heads=sizes["num_heads"],
            attention_head_dim=sizes["hidden_dim"] // sizes["num_heads"],
            in_channels=sizes["in_channels"],
            out_channels=sizes["out_channels"],
            text_dim=sizes["text_dim"],
            text_length=sizes["text_len"],
            freq_dim=sizes["freq_dim"],
            ffn_dim=sizes["ffn_dim"],
            num_layers=sizes["num_layers"],
        )
    load_weights(model, golden.part("weights"), str(golden.path))
    return model.eval()


def _encoder(golden: Golden, device: str) -> LatentEncoder | None:
    spec = golden.scenario["encoder"]
    if spec is None:
        return None
    if spec["kind"] == "mean_pool":
        return MeanPoolEncoder()
    _, _, channels, height, width = golden.tensors["noise"].shape
    with torch.device("meta"):
        model = LatentAutoencoder(channels, height, width, tuple(spec["hidden_dims"]), spec["embedding_dim"])
    load_weights(model, golden.part("ae"), str(golden.path))
    return model.eval().to(device)


def _compare(golden: Golden, finished: list[FinishedBlock]) -> Verdict:
    frames = finished[0].latents.shape[1]
    latent_errors, embedding_errors = [], []
    difference = None
    for block in finished:
        span = slice(block.index * frames, (block.index + 1) * frames)
        latent_errors.append(_relative_error(block.latents, golden.tensors["latents"][:, span]))
        if block.embeddings is not None and "embeddings" in golden.tensors:
            embedding_errors.append(_relative_error(block.embeddings, golden.tensors["embeddings"][:, span]))
        ours = block.selections[0].frames if block.selections else ()
        theirs = golden.selected.get(span.start, ())
        if ours != theirs and difference is None:
            difference = f"block {block.index} retrieved {list(ours)}, the golden file {list(theirs)}"
    return Verdict(
        file=str(golden.path),
        blocks=len(finished),
        latent_error=max(latent_errors),
        embedding_error=max(embedding_errors, default=None),
        selections_equal=difference is None,
        first_difference=difference,
    )


def _relative_error(ours: Tensor, golden: Tensor) -> float:
    golden = golden.double()
    return float((ours.cpu().double() - golden).norm() / golden.norm())
