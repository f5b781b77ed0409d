"""A retrieval policy, a drift embedder, a metric and a checkpoint layout that longlive-rag knows nothing of."""

from __future__ import annotations

import numpy as np
from diffusers import AutoencoderKLWan
from transformers import UMT5EncoderModel

from backbone.files import weight_files
from backbone.transformer import CausalWanTransformer
from eval.embedders import EmbedderKind
from eval.metrics import Metric
from longlive_rag.weights.findings import finding, weights_in_words
from longlive_rag.weights.layouts import Layout, to_convert
from longlive_rag.weights.parts import Parts, open_component, vocabulary


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


FOLDERS = {"transformer": "generator", "vae": "decoder", "text_encoder": "text"}
WORDS = "words"


def look(folder):
    """A finding for the layout and each part; the folder has to be converted."""
    parts = [
        finding(part, lambda name=name: weights_in_words(weight_files(folder / name))) for part, name in FOLDERS.items()
    ]
    return [to_convert("renamed", folder, parts), *parts], False


def open_parts(folder):
    """All parts, and which files they are from."""
    for name in (*FOLDERS.values(), WORDS):
        if not (folder / name).is_dir():
            raise ValueError(f"{folder} has no {name}/; is the download complete?")
    return Parts(
        transformer=open_component(CausalWanTransformer, folder / FOLDERS["transformer"]),
        vae=open_component(AutoencoderKLWan, folder / FOLDERS["vae"]),
        text_encoder=UMT5EncoderModel.from_pretrained(folder / FOLDERS["text_encoder"], local_files_only=True),
        tokenizer=folder / WORDS,
        encoder=None,
        settings={},
        origins={part: weight_files(folder / name) for part, name in FOLDERS.items()}
        | {"tokenizer": vocabulary(folder / WORDS)},
    )


RENAMED = Layout("renamed", matches=lambda folder: (folder / "generator").is_dir(), look=look, open=open_parts)
"""Checkpoint layout: a pipeline's parts, in folders of other names."""
