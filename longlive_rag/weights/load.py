"""Opening a backbone by name or folder on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from backbone.errors import FieldError
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets.embeddings import encoder_id, read_embeddings, text_dtype
from longlive_rag.presets.needs import estimate
from longlive_rag.presets.preset import find_folder, load_preset

DTYPES = ("float32", "bfloat16")
# The operations of a smaller backbone are over before a second thread has begun: with one it is faster (tiny-world: 80
# frames a second against 68), and as soon as anything else runs on the machine, ten times faster.
SMALL_PARAMETERS = 10_000_000


def pick_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one; FieldError if what was asked for isn't there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise FieldError("device", device, "it must be auto, cpu, cuda or cuda:N") from error
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        shown = f"{device!r}, but this machine has {torch.cuda.device_count()} CUDA devices"
        raise FieldError("device", device, "try cpu", shown)
    return picked


def load_pipeline(
    backbone: str,
    dtype: str = "float32",
    device: str = "auto",
    license_policy: str | None = None,
    prompt_embeds: Path | None = None,
) -> LongLiveRAGPipeline:
    """Open a preset or a pipeline folder.

    Args:
        backbone: name of a preset, or a folder.
        dtype: of the transformer, `float32` or `bfloat16`. The VAE and the retrieval encoder stay in float32: they are
            small beside it, and what they lose could not be won back. So does a text encoder, unless it is a large
            one (UMT5-xxl: 11 GB in bfloat16).
        device: `auto`, `cpu`, `cuda` or `cuda:N`. A text encoder that does not fit a GPU beside the rest stays in host
            memory, see `text_device`.
        license_policy: `any`, `research` or `commercial`; left out, what environment or config file say, else `any`.
        prompt_embeds: a file of `longlive-rag models embed-prompts`; the text encoder is not loaded then.

    Raises:
        LicenseError: if the policy does not allow a weight file of the backbone.
        ValueError: if the backbone, dtype or device isn't there, or its weights don't fit their configs.
    """
    if dtype not in DTYPES:
        raise FieldError("dtype", dtype, f"it must be one of {', '.join(DTYPES)}")
    target = pick_device(device)
    folder = find_folder(backbone)
    dtypes = {"transformer": getattr(torch, dtype), "text_encoder": text_dtype(folder), "default": torch.float32}
    settings: dict[str, Any] = {"license_policy": license_policy, "dtype": dtypes}
    if prompt_embeds is None:
        pipe = LongLiveRAGPipeline.from_pretrained(folder, **settings)
        return place(pipe, target, text_device(folder, dtype, target))
    embeddings = read_embeddings(prompt_embeds, encoder_id(folder))
    pipe = LongLiveRAGPipeline.from_pretrained(folder, text_encoder=None, **settings).to(target)
    pipe.prompt_embeds = embeddings
    return pipe


def text_device(folder: Path, dtype: str, device: torch.device, memory_bytes: int | None = None) -> torch.device:
    """Where prompts are encoded: beside the rest if a GPU has room for both, else in host memory.

    UMT5-xxl (11 GB) and a cache of Wan2.1-1.3B at 832x480 do not fit a card of 24 GB together.

    Args:
        folder: of the pipeline.
        dtype: of the transformer.
        device: where the rest runs.
        memory_bytes: of `device`; default what it has.
    """
    if memory_bytes is None:
        if device.type != "cuda":
            return device
        memory_bytes = torch.cuda.get_device_properties(device).total_memory
    needs = estimate(load_preset(str(folder)), dtype, "cpu" if device.type == "cpu" else "cuda")
    return device if needs.has_room_for_text(memory_bytes) else torch.device("cpu")


def place(pipe: LongLiveRAGPipeline, device: torch.device, text: torch.device) -> LongLiveRAGPipeline:
    """Move a pipeline to `device`, its text encoder to `text` without ever being on `device`."""
    encoder, pipe.text_encoder = pipe.text_encoder, None
    pipe.to(device)
    pipe.text_encoder = encoder.to(text)
    return pipe


def use_threads(pipe: LongLiveRAGPipeline, threads: int | None = None) -> int:
    """Set how many CPU threads one operation of torch takes: as told, else one for a small backbone; returns it."""
    if threads is None and sum(weight.numel() for weight in pipe.transformer.parameters()) < SMALL_PARAMETERS:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()
