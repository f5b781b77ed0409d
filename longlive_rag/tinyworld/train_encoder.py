"""Stage 3: the retrieval encoder, on the latents that stage 2 was trained with.

Loss (design, section 3): reconstruction, plus *window temporal delta* (neighbours may not look alike beyond 0.85), plus
*trajectory smoothing*, on chunks of consecutive latent frames.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from longlive_rag.tinyworld.corpus import Corpus
from longlive_rag.tinyworld.training import Schedule, train
from retrieval.encoder import LatentAutoencoder

HIDDEN_DIMS, EMBEDDING_DIM = (32, 64), 256
CHUNK_FRAMES, CHUNKS = 8, 16
OFFSETS, MARGIN, EPSILON = (1, 2, 3), 0.85, 1e-8
SCHEDULE = Schedule(
    steps=900, learning_rate=2e-3, warm_up=50, final_fraction=1.0, weight_decay=1e-4, clip=1.0, ema=0.99
)


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


def train_encoder(
    corpus: Corpus, folder: Path, report: Callable[[str], None], schedule: Schedule = SCHEDULE, seed: int = 0
) -> LatentAutoencoder:
    """Train on chunks of 8 frames, 128 frames a step; resumable. Returns the moving average."""
    torch.manual_seed(seed)
    channels, frames, height, width = corpus.latents.shape[1:]
    model = LatentAutoencoder(channels, height, width, HIDDEN_DIMS, EMBEDDING_DIM)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([seed, step])
        chunks = torch.stack(
            [
                corpus.latents[rng.integers(len(corpus.scripts)), :, start : start + CHUNK_FRAMES].transpose(0, 1)
                for start in rng.integers(0, frames - CHUNK_FRAMES + 1, CHUNKS)
            ]
        )
        flat = chunks.flatten(0, 1)
        reconstruction, embeddings = model(flat)
        embeddings = embeddings.unflatten(0, (CHUNKS, CHUNK_FRAMES))
        terms = {
            "mse": F.mse_loss(reconstruction, flat),
            "delta": window_temporal_delta(embeddings),
            "smooth": trajectory_smoothing(embeddings),
        }
        return torch.stack(list(terms.values())).sum(), {name: round(term.item(), 4) for name, term in terms.items()}

    average = train(model, loss_of, schedule, folder, report)
    assert isinstance(average, LatentAutoencoder)
    return average
