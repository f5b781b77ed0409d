"""Opening a backbone by name or folder on a device."""

from __future__ import annotations

import torch

from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets import find_folder

DTYPES = ("float32", "bfloat16")


def pick_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one; ValueError if what was asked for isn't there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}; it must be auto, cpu, cuda or cuda:N") from error
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {device!r}, but this machine has {torch.cuda.device_count()} CUDA devices; try cpu"
        )
    return picked


def load_pipeline(backbone: str, dtype: str = "float32", device: str = "auto") -> LongLiveRAGPipeline:
    """Open a preset or a pipeline folder.

    Args:
        backbone: name of a preset, or a folder.
        dtype: of the transformer, `float32` or `bfloat16`. The VAE, the text encoder and the retrieval encoder stay in
            float32: they are small beside it, and what they lose could not be won back.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ValueError: if the backbone, dtype or device isn't there, or its weights don't fit their configs.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    target = pick_device(device)
    dtypes = {"transformer": getattr(torch, dtype), "default": torch.float32}
    return LongLiveRAGPipeline.from_pretrained(find_folder(backbone), dtype=dtypes).to(target)
