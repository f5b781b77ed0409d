"""How much of this machine's memory is left for the pages of a take, with a backbone loaded."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan

from backbone.transformer import CausalWanTransformer
from backbone.vae_config import widest_map
from longlive_rag.config import TakeRequest
from longlive_rag.presets.geometry import geometry_of
from longlive_rag.presets.needs import bytes_for_pages, decode_maps_bytes, working_bytes
from retrieval.budgets import host_slots


def gpu_room(
    transformer: CausalWanTransformer, vae: AutoencoderKLWan, device: torch.device, request: TakeRequest, batch: int = 1
) -> int:
    """Bytes left for pages on a GPU, after everything else that the request needs.

    Args:
        device: the GPU, with the weights on it.
        batch: number of takes made side by side.
    """
    free, total = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    geometry = geometry_of(transformer.config, request.output, 0, vae.config.scale_factor_spatial)
    dtype, vae_dtype = (str(part.dtype).removeprefix("torch.") for part in (transformer, vae))
    widest, factor = widest_map(vae.config, "the VAE"), vae.config.scale_factor_temporal
    decoding = decode_maps_bytes(widest, factor, request.output, "cuda", vae_dtype)
    work = working_bytes(geometry, request.context, dtype, decoding, batch)
    return bytes_for_pages(free + unused, total, work)


def host_bytes(
    transformer: CausalWanTransformer, vae: AutoencoderKLWan, request: TakeRequest, gpu_bytes: int, past_frames: int
) -> int:
    """Bytes of host memory that a take on a GPU allocates for pages at its start.

    Args:
        gpu_bytes: budget of pages on the GPU.
        past_frames: latent frames of the whole take.
    """
    budgets = request.memory.budgets
    geometry = geometry_of(transformer.config, request.output, 0, vae.config.scale_factor_spatial)
    dtype = str(transformer.dtype).removeprefix("torch.")
    page, stored = geometry.page_bytes(dtype), geometry.stored_page_bytes(dtype, budgets.precision)
    gpu_pages = max(request.context.memory_frames, gpu_bytes // page)
    return stored * host_slots(gpu_pages, budgets.host_bytes // stored, past_frames)
