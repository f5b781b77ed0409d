"""Training of the retrieval encoder on latents that a backbone has generated.

The loss is reconstruction, plus *window temporal delta* (neighbours may not be more similar than 0.85), plus
*trajectory smoothing*, on chunks of consecutive latent frames. At full weight from the first step, smoothing would
quickly collapse to one embedding for everything, from which the decoder learns to draw the mean frame, and never
recover. So the weights of the two terms on embeddings ramp up over the first part of training.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from retrieval.encoder import LatentAutoencoder
from retrieval.files import appearing

OFFSETS, MARGIN, EPSILON = (1, 2, 3), 0.85, 1e-8
VALIDATION_CHUNKS = 64
CHECKPOINT, BEST, LOG, ENCODER = "checkpoint.pt", "encoder.pt", "log.jsonl", "encoder"
Progress = Callable[[int, dict[str, float]], None]


class Frames(Protocol):
    """A take's latent frames, such as a `LatentStore`."""

    @property
    def frames(self) -> int:
        """Number of latent frames."""
        ...

    def latents(self, frames: Sequence[int]) -> NDArray[np.float32]:
        """Latents [N, C, h, w] float32 of some frames."""
        ...


@dataclass(frozen=True)
class EncoderTraining:
    """How an encoder is trained; the defaults are the design's, except for the number of steps.

    Attributes:
        steps: optimiser steps.
        batch: chunks per step.
        chunk_frames: consecutive latent frames per chunk.
        learning_rate, weight_decay: settings of AdamW.
        clip: maximum norm of the gradient.
        delta_weight, smoothing_weight: weights of the two terms on embeddings.
        grow_in: share of the steps over which these weights ramp up from 0.
        hidden_dims, embedding_dim: sizes of the encoder.
        validation_share: share of the latent frames held out to select the best checkpoint.
        seed: seed for weights and batches.
    """

    steps: int = 3000
    batch: int = 128
    chunk_frames: int = 8
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    clip: float = 1.0
    delta_weight: float = 1.0
    smoothing_weight: float = 1.0
    grow_in: float = 0.5
    hidden_dims: tuple[int, ...] = (64, 128, 256)
    embedding_dim: int = 1024
    validation_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("chunk_frames", 4), ("embedding_dim", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("weight_decay", "delta_weight", "smoothing_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if not 0 <= self.grow_in <= 1:
            raise ValueError(f"grow_in is {self.grow_in}; it must be between 0 and 1")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share}; it must be between 0 and 1")
        if not self.hidden_dims or min(self.hidden_dims) < 1:
            raise ValueError(f"hidden_dims is {self.hidden_dims}; it must be widths such as 64,128,256")

    @property
    def validate_every(self) -> int:
        """Steps between validations."""
        return max(1, self.steps // 40)


class Chunks:
    """Chunks of consecutive frames for training, and held-out ones from the end of the last takes.

    Args:
        takes: at least one, all with the same latent size.
        settings: give the chunk length and the share to hold out.

    Raises:
        ValueError: if latent sizes differ, or there are too few frames to train on and to hold out.
    """

    def __init__(self, takes: Sequence[Frames], settings: EncoderTraining) -> None:
        self._takes, self._length = takes, settings.chunk_frames
        sizes = {take.latents([0]).shape[1:] for take in takes}
        if len(sizes) != 1:
            raise ValueError(f"the takes have {len(sizes)} latent sizes ({sorted(sizes)}); pass takes of one size")
        self.frame_size: tuple[int, int, int] = sizes.pop()
        held_out = math.ceil(settings.validation_share * sum(take.frames for take in takes))
        held_out = max(held_out, self._length)
        self._training: list[tuple[int, int]] = []
        self._held_out: list[tuple[int, int]] = []
        for index in reversed(range(len(takes))):
            frames = takes[index].frames
            border = max(0, frames - held_out)  # frames before it are for training
            held_out -= frames - border
            self._training += [(index, start) for start in range(border - self._length + 1)]
            self._held_out += [(index, start) for start in range(border, frames - self._length + 1)]
        if not self._training or not self._held_out:
            frames = sum(take.frames for take in takes)
            raise ValueError(
                f"{frames} latent frames are too few for training and validation: chunks have {self._length}"
            )

    def batch(self, step: int, settings: EncoderTraining) -> Tensor:
        """The chunks of a step, [batch, T, C, h, w]; always the same for the same step."""
        rng = np.random.default_rng([settings.seed, step])
        return self._read([self._training[i] for i in rng.integers(0, len(self._training), settings.batch)])

    @property
    def digest(self) -> str:
        """A hash of the takes' lengths and each take's first and last frame."""
        found = hashlib.sha256()
        for take in self._takes:
            found.update(f"{take.frames} ".encode() + take.latents([0, take.frames - 1]).tobytes())
        return found.hexdigest()

    def held_out(self) -> Tensor:
        """Chunks spread evenly over the held-out frames, [up to 64, T, C, h, w]."""
        picked = np.linspace(0, len(self._held_out) - 1, min(VALIDATION_CHUNKS, len(self._held_out))).round()
        return self._read([self._held_out[int(i)] for i in picked])

    def _read(self, places: list[tuple[int, int]]) -> Tensor:
        chunks = [self._takes[take].latents(range(start, start + self._length)) for take, start in places]
        return torch.from_numpy(np.stack(chunks))


class Held:
    """A take's latent frames in memory.

    Args:
        frames: [N, C, h, w].
    """

    def __init__(self, frames: NDArray[np.floating]) -> None:
        self._frames = frames

    @property
    def frames(self) -> int:
        """Number of latent frames."""
        return len(self._frames)

    def latents(self, frames: Sequence[int]) -> NDArray[np.float32]:
        """Latents [N, C, h, w] float32 of some frames."""
        return self._frames[list(frames)].astype(np.float32)


def window_temporal_delta(embeddings: Tensor) -> Tensor:
    """Mean over offsets k of mean(relu(cos(e_t, e_{t-k}) - 0.85)); embeddings [chunks, T, D]."""
    terms = [
        F.relu(F.cosine_similarity(embeddings[:, k:], embeddings[:, :-k], dim=-1) - MARGIN).mean() for k in OFFSETS
    ]
    return torch.stack(terms).mean()


def trajectory_smoothing(embeddings: Tensor) -> Tensor:
    """Mean of sqrt(|e_{t+1} - 2 e_t + e_{t-1}|^2 + 1e-8); embeddings [chunks, T, D]."""
    bend = embeddings[:, 2:] - 2 * embeddings[:, 1:-1] + embeddings[:, :-2]
    return (bend.square().sum(-1) + EPSILON).sqrt().mean()


def loss_terms(model: LatentAutoencoder, chunks: Tensor) -> dict[str, Tensor]:
    """`mse`, `delta` and `smoothing` of chunks [B, T, C, h, w], unweighted."""
    frames = chunks.flatten(0, 1)
    reconstruction, embeddings = model(frames)
    embeddings = embeddings.unflatten(0, chunks.shape[:2])
    return {
        "mse": F.mse_loss(reconstruction, frames),
        "delta": window_temporal_delta(embeddings),
        "smoothing": trajectory_smoothing(embeddings),
    }


def total(terms: dict[str, Tensor], settings: EncoderTraining, grown: float = 1.0) -> Tensor:
    """The weighted sum of the terms; `grown` is the share of their full weight that the terms on embeddings have."""
    on_embeddings = settings.delta_weight * terms["delta"] + settings.smoothing_weight * terms["smoothing"]
    return terms["mse"] + grown * on_embeddings


def train_encoder(
    takes: Sequence[Frames],
    folder: Path,
    settings: EncoderTraining,
    progress: Progress,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Train an encoder, or resume an earlier run in `folder` that was stopped.

    `folder` gets `checkpoint.pt` (to resume from), `encoder.pt` (the best so far, `{"model": ..., "config": ...}`),
    `encoder/` (the same as a diffusers folder, at the end) and `log.jsonl`.

    Args:
        takes: takes to train on.
        folder: folder of the run, created if missing.
        settings: training settings.
        progress: called after every step with the step's number and figures.
        device: device to train on; default is the CPU.

    Returns:
        `best_step`, `validation` (its loss terms), `seconds`, `frames`.

    Raises:
        ValueError: if the takes don't fit together, `folder` holds a run with other settings or takes, or the loss was
            never finite.
    """
    chunks = Chunks(takes, settings)
    folder.mkdir(parents=True, exist_ok=True)
    device = device or torch.device("cpu")
    torch.manual_seed(settings.seed)
    channels, height, width = chunks.frame_size
    model = LatentAutoencoder(channels, height, width, settings.hidden_dims, settings.embedding_dim).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    state = _resume(folder, settings, chunks.digest, model, optimiser)
    held_out = chunks.held_out().to(device)
    begin_s = time.monotonic() - state["seconds"]
    for step in range(state["step"], settings.steps):
        figures = _step(model, optimiser, chunks.batch(step, settings).to(device), settings, step)
        last = step == settings.steps - 1
        if last or (step + 1) % settings.validate_every == 0:
            found = _validate(model, held_out, settings)
            figures |= {f"validation_{name}": value for name, value in found.items()}
            grown_in = step + 1 >= settings.grow_in * settings.steps  # earlier losses are not comparable
            if grown_in and found["total"] < state["best"].get("total", math.inf):
                state |= {"best": found, "best_step": step + 1}
                save_atomically({"model": model.state_dict(), "config": encoder_config(model)}, folder / BEST)
            state |= {"step": step + 1, "seconds": time.monotonic() - begin_s}
            append_log(folder, {"step": step + 1, "seconds": round(state["seconds"], 1), **figures})
            weights = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
            save_atomically({**state, **weights, "settings": _plain(settings)}, folder / CHECKPOINT)
        progress(step + 1, figures)
    if not state["best"]:
        raise ValueError(f"the loss was never a finite number; learning_rate {settings.learning_rate} may be too high")
    model.load_state_dict(torch.load(folder / BEST, weights_only=True, map_location=device)["model"])
    model.save_pretrained(folder / ENCODER)
    frames = sum(take.frames for take in takes)
    return {
        "best_step": state["best_step"], "validation": state["best"], "seconds": round(state["seconds"], 1),
        "frames": frames,
    }  # fmt: skip


def encoder_config(model: LatentAutoencoder) -> dict[str, Any]:
    """The sizes of an encoder, under the names used in the original checkpoints."""
    names = ("in_channels", "latent_height", "latent_width", "hidden_dims", "embedding_dim")
    values = {name: model.config[name] for name in names}
    return {**values, "hidden_dims": list(values["hidden_dims"])}


def append_log(folder: Path, entry: dict[str, float]) -> None:
    """Append a row to the log of a run."""
    with (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def save_atomically(content: dict[str, Any], path: Path) -> None:
    """Save with `torch.save`, atomically."""
    with appearing(path) as part:
        torch.save(content, part)


def read_log(folder: Path) -> Iterator[dict[str, float]]:
    """Read the figures of a run, in order; for a step that was run twice, the later ones."""
    rows: dict[float, dict[str, float]] = {}
    for line in (folder / LOG).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows[row["step"]] = row
    yield from (rows[step] for step in sorted(rows))


def _step(
    model: LatentAutoencoder, optimiser: torch.optim.Optimizer, chunks: Tensor, settings: EncoderTraining, step: int
) -> dict[str, float]:
    model.train()
    terms = loss_terms(model, chunks)
    grown = min(1.0, step / (settings.grow_in * settings.steps)) if settings.grow_in else 1.0
    optimiser.zero_grad(set_to_none=True)
    total(terms, settings, grown).backward()
    nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    optimiser.step()
    return {name: round(term.item(), 5) for name, term in terms.items()}


@torch.no_grad()
def _validate(model: LatentAutoencoder, held_out: Tensor, settings: EncoderTraining) -> dict[str, float]:
    model.eval()
    terms = loss_terms(model, held_out)
    terms["total"] = total(terms, settings)
    return {name: term.item() for name, term in terms.items()}


def _resume(
    folder: Path, settings: EncoderTraining, takes: str, model: nn.Module, optimiser: torch.optim.Optimizer
) -> dict[str, Any]:
    path = folder / CHECKPOINT
    if not path.is_file():
        return {"step": 0, "seconds": 0.0, "best": {}, "best_step": 0, "takes": takes}
    state = torch.load(path, weights_only=True, map_location="cpu")
    if state["settings"] != _plain(settings):
        other = [name for name, value in _plain(settings).items() if state["settings"].get(name) != value]
        raise ValueError(
            f"{folder} holds a run with a different {', '.join(other)}; keep the same, or choose another folder"
        )
    if state["takes"] != takes:
        raise ValueError(f"{folder} holds a run on different takes; keep the same, or choose another folder")
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return {name: state[name] for name in ("step", "seconds", "best", "best_step", "takes")}


def _plain(settings: EncoderTraining) -> dict[str, Any]:
    return {**asdict(settings), "hidden_dims": list(settings.hidden_dims)}
