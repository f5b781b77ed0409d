"""A retrieval policy, a drift embedder, a metric and a checkpoint layout that longlive-rag knows nothing of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eval.embedders import EmbedderKind
from eval.metrics import Metric
from longlive_rag.weights.findings import Finding
from longlive_rag.weights.layouts import Layout, open_parts, to_convert


def oldest(past):
    """Retrieval policy: the oldest frames that may be remembered."""
    return list(past.frames)[: past.limit]


class Grey:
    """Drift embedder: how grey the quarters of a frame are."""

    name = "grey"

    def embed(self, frames):
        means = frames.astype(np.float32).mean(axis=3)
        height, width = means.shape[1] // 2, means.shape[2] // 2
        quarters = [means[:, y : y + height, x : x + width].mean(axis=(1, 2)) for y in (0, height) for x in (0, width)]
        return np.stack([*quarters, np.ones(len(frames))], axis=1).astype(np.float32)

    def describe(self):
        return {"embedder": self.name, "preprocessing": "mean of the quarters"}


grey = EmbedderKind("", lambda place: None, lambda place, device: Grey())

brightness = Metric("brightness", False, lambda looks, seconds, horizon_s: float(looks.exposure.mean()))


def _elsewhere(folder):
    return Path((folder / "ELSEWHERE").read_text().strip())


SHOUTING = Layout(
    "shouting",
    matches=lambda folder: (folder / "ELSEWHERE").is_file(),
    look=lambda folder: (
        [to_convert("shouting", folder, []), Finding("elsewhere", str(_elsewhere(folder)))],
        False,
    ),
    open=lambda folder: open_parts(_elsewhere(folder)),
)
"""Checkpoint layout: a folder that says where another one is."""
