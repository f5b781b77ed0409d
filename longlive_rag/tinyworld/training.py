"""The training loop that all stages share: resumable, with a moving average, a log and a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from longlive_rag.media.charts import check_charts
from longlive_rag.media.training_picture import draw_training
from longlive_rag.tinyworld.muon import Muon
from retrieval.training import CHECKPOINT, LOG, append_log, read_log, save_atomically

# Input and output weights and tables are not matrices between layers, so they are left to AdamW.
_NOT_FOR_MUON = ("embed", "shared", "table", "modulation", "proj_out", "conv_in", "conv_out", "quant_conv", "bias")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps of the whole stage.
        learning_rate: peak, reached after `warm_up` steps, then falling along a half cosine.
        final_fraction: final learning rate as a fraction of the peak.
        weight_decay, clip: AdamW's weight decay, and the limit on the gradient's norm.
        ema: decay of the moving average of the weights.
        batch: samples per step.
    """

    steps: int
    learning_rate: float
    warm_up: int = 100
    final_fraction: float = 0.05
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999
    batch: int = 1

    def rate(self, step: int) -> float:
        """Return the learning rate at a step."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * cosine)


@dataclass(frozen=True)
class Hardware:
    """What a stage is trained on.

    Attributes:
        device: device of the weights.
        bfloat16: whether to compute matrix products in bfloat16; weights stay float32. Faster on GPUs and on CPUs with
            AMX, slower on others.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bfloat16: bool = False

    def precision(self) -> torch.autocast:
        """Return the context manager in which losses are computed."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


def train(
    model: nn.Module,
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    schedule: Schedule,
    folder: Path,
    report: Callable[[str], None],
    checkpoint_every_s: float = 120.0,
    betas: tuple[float, float] = (0.9, 0.99),
    hardware: Hardware | None = None,
) -> nn.Module:
    """Minimise `loss_of(step)`, continuing from `folder/checkpoint.pt` if it exists.

    Args:
        model: the model, trained in place.
        loss_of: returns a step's loss and figures for the log; its randomness must depend only on the step's number.
        schedule: steps and rates.
        folder: receives `checkpoint.pt` (replaced atomically), `log.jsonl` and, at the end, `training.png`.
        report: called with a line of progress from time to time.
        checkpoint_every_s: seconds between checkpoints.
        betas: AdamW's betas.
        hardware: what to train on; by default the CPU in float32.

    Returns:
        The moving average of the model, in evaluation mode, on the CPU.
    """
    check_charts("training.png", "train")
    folder.mkdir(parents=True, exist_ok=True)
    hardware = hardware or Hardware()
    model.to(hardware.device)
    optimisers = _optimisers(model, schedule, betas)
    average = deepcopy(model).eval().requires_grad_(False)
    first, spent_s = _resume(folder, model, average, optimisers)
    began = last_saved = last_logged = time.monotonic()
    for step in range(first, schedule.steps):
        model.train()
        with hardware.precision():
            loss, figures = loss_of(step)
        model.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate(step)
            optimiser.step()
        _average(average, model, min(schedule.ema, (step + 1) / (step + 10)))
        now = time.monotonic()
        if now - last_logged > 10 or step == schedule.steps - 1:
            last_logged = now
            rest_s = (now - began) / (step + 1 - first) * (schedule.steps - step - 1)
            entry = {"step": step, "seconds": round(spent_s + now - began, 1), "loss": loss.item(), "norm": norm.item()}
            append_log(folder, {**entry, **figures})
            report(f"step {step}/{schedule.steps} loss {loss.item():.4f} {figures} {rest_s / 60:.1f} min left")
        if now - last_saved > checkpoint_every_s or step == schedule.steps - 1:
            last_saved = now
            _save(folder, step + 1, spent_s + now - began, model, average, optimisers)
    if (folder / LOG).is_file():
        draw_training(list(read_log(folder)), folder / "training.png")
    return average.cpu()


def _optimisers(model: nn.Module, schedule: Schedule, betas: tuple[float, float]) -> list[torch.optim.Optimizer]:
    """Make the optimisers: Muon for matrices and kernels inside the network, AdamW for the rest."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        inside = weight.ndim >= 2 and not any(part in name for part in _NOT_FOR_MUON)
        (matrices if inside else rest).append(weight)
    rate = schedule.learning_rate
    adam = torch.optim.AdamW(rest, lr=rate, betas=betas, weight_decay=schedule.weight_decay)
    return [Muon(matrices, rate), adam]


def _average(average: nn.Module, model: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for mean, value in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)


def _save(
    folder: Path,
    step: int,
    seconds: float,
    model: nn.Module,
    average: nn.Module,
    optimisers: list[torch.optim.Optimizer],
) -> None:
    state = {
        "step": step,
        "seconds": seconds,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
    }
    save_atomically(state, folder / CHECKPOINT)


def _resume(
    folder: Path, model: nn.Module, average: nn.Module, optimisers: list[torch.optim.Optimizer]
) -> tuple[int, float]:
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    return state["step"], state["seconds"]
