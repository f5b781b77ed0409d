"""Open a backbone by name or folder on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from backbone.errors import FieldError
from backbone.vae import lay_out_vae
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets.embeddings import encoder_id, read_embeddings, text_dtype
from longlive_rag.presets.needs import estimate
from longlive_rag.presets.precision import Precision, pick_precision
from longlive_rag.presets.preset import find_folder, load_preset

# A smaller backbone finishes its operations before a second thread has started: one thread is faster (tiny-world: 80
# against 68 frames per second), and ten times faster as soon as anything else runs on the machine.
SMALL_PARAMETERS = 10_000_000


def pick_device(device: str, field: str = "device") -> torch.device:
    """Return the torch device; `auto` is CUDA if available. FieldError of `field` if the device does not exist."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise FieldError(field, device, "it must be auto, cpu, cuda or cuda:N") from error
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        shown = f"{device!r}, but this machine has {torch.cuda.device_count()} CUDA devices"
        raise FieldError(field, device, "try cpu", shown)
    return picked


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the dtype that a transformer runs in on a device; see `pick_precision`."""
    picked: torch.dtype = getattr(torch, pick_precision(dtype, device.type).dtype)
    return picked


def load_pipeline(
    backbone: str,
    dtype: str = "auto",
    device: str = "auto",
    license_policy: str | None = None,
    prompt_embeds: Path | None = None,
    vae_dtype: str | None = None,
    vae_device: str = "auto",
) -> LongLiveRAGPipeline:
    """Open a preset or a pipeline folder.

    Args:
        backbone: name of a preset, or a folder.
        dtype: of the transformer, `float32`, `bfloat16` or `auto`; see `pick_precision`. The retrieval encoder stays in
            float32 because it is small. So does the text encoder, unless it is large (UMT5-xxl: 11 GB in bfloat16).
        device: `auto`, `cpu`, `cuda` or `cuda:N`. A text encoder that does not fit on a GPU beside the rest stays in
            host memory, see `text_device`.
        license_policy: `any`, `research` or `commercial`; None is that of the environment or config file, else `any`.
        prompt_embeds: a file made by `longlive-rag models embed-prompts`; if given, the text encoder is not loaded.
        vae_dtype: of the VAE and the tiny decoder; None chooses by `dtype` and `device`.
        vae_device: where latents are decoded, as for `device`; `auto` is the transformer's device.

    Raises:
        LicenseError: if the policy does not allow a weight file of the backbone.
        ValueError: if the backbone, dtype or device does not exist, or weights don't fit their configs.
    """
    target = pick_device(device)
    decodes_on = target if vae_device == "auto" else pick_device(vae_device, "vae_device")
    precision = pick_precision(dtype, target.type, vae_dtype)
    folder = find_folder(backbone)
    settings: dict[str, Any] = {"license_policy": license_policy, "dtype": _dtypes(precision, text_dtype(folder))}
    if prompt_embeds is None:
        pipe = LongLiveRAGPipeline.from_pretrained(folder, **settings)
        return place(pipe, target, text_device(folder, precision.dtype, target), decodes_on)
    embeddings = read_embeddings(prompt_embeds, encoder_id(folder))
    pipe = LongLiveRAGPipeline.from_pretrained(folder, text_encoder=None, **settings)
    pipe.prompt_embeds = embeddings
    return place(pipe, target, None, decodes_on)


def _dtypes(precision: Precision, text: torch.dtype) -> dict[str, torch.dtype]:
    """Return the dtype of each part, as diffusers' `from_pretrained` takes them."""
    dtype, vae_dtype = (getattr(torch, name) for name in precision)
    parts = {"transformer": dtype, "vae": vae_dtype, "tiny_decoder": vae_dtype, "text_encoder": text}
    return {**parts, "default": torch.float32}


def text_device(folder: Path, dtype: str, device: torch.device, memory_bytes: int | None = None) -> torch.device:
    """Decide where prompts are encoded: beside the rest if a GPU has room for both, else in host memory.

    UMT5-xxl (11 GB) and a cache of Wan2.1-1.3B at 832x480 do not fit on a card of 24 GB together.

    Args:
        folder: the pipeline folder.
        dtype: of the transformer.
        device: where the rest runs.
        memory_bytes: memory of `device`; its actual memory by default.
    """
    if memory_bytes is None:
        if device.type != "cuda":
            return device
        memory_bytes = torch.cuda.get_device_properties(device).total_memory
    needs = estimate(load_preset(str(folder)), dtype, "cpu" if device.type == "cpu" else "cuda")
    return device if needs.has_room_for_text(memory_bytes) else torch.device("cpu")


def place(
    pipe: LongLiveRAGPipeline, device: torch.device, text: torch.device | None, decoding: torch.device | None = None
) -> LongLiveRAGPipeline:
    """Move each of a pipeline's parts directly to the device it runs on.

    Args:
        device: device of all other parts.
        text: device of the text encoder; None if there is none.
        decoding: device of the VAE and the tiny decoder; None is `device`.
    """
    apart = {"text_encoder": text, "vae": decoding or device, "tiny_decoder": decoding or device}
    parts = {name: getattr(pipe, name) for name in apart}
    for name in apart:
        setattr(pipe, name, None)
    pipe.to(device)
    for name, part in parts.items():
        setattr(pipe, name, part if part is None else part.to(apart[name]))
    lay_out_vae(pipe.vae)
    return pipe


def use_threads(pipe: LongLiveRAGPipeline, threads: int | None = None) -> int:
    """Set and return the number of CPU threads per torch operation; by default one for a small backbone."""
    if threads is None and sum(weight.numel() for weight in pipe.transformer.parameters()) < SMALL_PARAMETERS:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()
