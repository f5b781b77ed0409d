"""Compilation of the transformer's layers, and of the VAE's decoder.

Only passes that a take repeats for every block are compiled: denoising steps, the commit, and decoding within a shot.
Rare ones (a shot's first block, a recache, remade pages, per-frame noise levels, masks) run uncompiled, so that nothing
is compiled in the middle of a take. The context length is dynamic, so that the same program works while the window
fills up.
"""

from __future__ import annotations

import shutil
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan

from backbone.cache import CacheShape, KVCache
from backbone.config import ContextConfig
from backbone.transformer import CausalWanTransformer
from backbone.vae import StreamingDecoder, shapes_compiled_for

# Per module: a step and a commit for each shape of latents that a process ever makes.
RECOMPILE_LIMIT = 64
BLOCKS_BEFORE = 2
"""Number of single-frame blocks to decode before the decoder has left a shot's special first steps."""


def missing_for_compiling(device: torch.device) -> str | None:
    """Say what this machine lacks to compile for `device`; None if nothing.

    Triton compiles kernels for GPUs itself, but has a C compiler build the code that launches them.
    """
    on_gpu = device.type == "cuda"
    language, programs = ("C", ("gcc", "clang")) if on_gpu else ("C++", ("g++", "clang++"))
    if on_gpu and not find_spec("triton"):
        return "the package triton is not installed"
    if not any(map(shutil.which, programs)):
        return f"there is no {language} compiler ({' or '.join(programs)})"
    if not Path(sysconfig.get_config_var("INCLUDEPY"), "Python.h").is_file():
        return "Python's headers are missing (Debian: python3-dev)"
    return None


def compile_for(
    transformer: CausalWanTransformer, context: ContextConfig, latents: tuple[int, int, int], batch: int = 1
) -> float:
    """Compile the layers for blocks of one shape, running a step and a commit to complete it.

    Args:
        transformer: ready for use: with adapters loaded, on its device, in its dtype. If it has ranks, all of them must
            call this together, and `uncompile` before they part.
        context: what a block attends to.
        latents: (C, h, w) of a latent frame.
        batch: number of takes made side by side.

    Returns:
        Seconds taken; 0 if already compiled for this shape.

    Raises:
        ValueError: if parts of the layers are moved to the device separately (sequential or group offloading).
    """
    block = (batch, latents[0], context.frames_per_block, *latents[1:])
    if block in transformer.compiled_for:
        return 0.0
    offloaded = [name for name, module in transformer.blocks.named_modules() if _is_offloaded(module)]
    if offloaded:
        raise ValueError(
            f"the transformer's layers can't be compiled: blocks.{offloaded[0]} is offloaded separately; "
            "use enable_model_cpu_offload, which moves whole models, or don't compile"
        )
    start = time.perf_counter()
    if not transformer.compiled_for:
        _allow_recompiling()
        transformer.compile_repeated_blocks(fullgraph=True)
    transformer.compiled_for |= {block}
    try:
        _run_second_block(transformer, context, block)
    except BaseException:
        uncompile(transformer)
        raise
    return time.perf_counter() - start


def uncompile(transformer: CausalWanTransformer) -> None:
    """Run the layers uncompiled again."""
    transformer.compiled_for = frozenset()
    for layer in transformer.layers:
        layer._compiled_call_impl = None


def compile_decoder_for(
    vae: AutoencoderKLWan, frames_per_block: int, latents: tuple[int, int, int], batch: int = 1
) -> float:
    """Compile the VAE's decoder for blocks of one shape within a shot, decoding one to complete it.

    Args:
        vae: ready for use: on its device, in its dtype.
        frames_per_block: latent frames per block.
        latents, batch: as for `compile_for`.

    Returns:
        Seconds taken; 0 if already compiled for this shape.
    """
    block, shapes = (batch, latents[0], frames_per_block, *latents[1:]), shapes_compiled_for(vae)
    if block in shapes:
        return 0.0
    start = time.perf_counter()
    if not shapes:
        _allow_recompiling()
        vae.decoder.compile(fullgraph=True, dynamic=False)
    vae.decoder.compiled_for = shapes | {block}
    try:
        decoder = StreamingDecoder(vae)
        for _ in range(BLOCKS_BEFORE + 1):
            decoder.decode(torch.zeros(block))
    except BaseException:
        uncompile_decoder(vae)
        raise
    return time.perf_counter() - start


def uncompile_decoder(vae: AutoencoderKLWan) -> None:
    """Run the VAE's decoder uncompiled again."""
    vae.decoder.compiled_for = frozenset()
    vae.decoder._compiled_call_impl = None


def _allow_recompiling() -> None:
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)


@torch.no_grad()
def _run_second_block(transformer: CausalWanTransformer, context: ContextConfig, block: tuple[int, ...]) -> None:
    config, batch = transformer.config, block[0]
    options = {"dtype": transformer.dtype, "device": transformer.device}
    heads = (transformer.cached_heads, config.attention_head_dim)
    grid = transformer.token_grid((block[3], block[4]))
    cache = KVCache(context, CacheShape(config.num_layers, batch, *heads, grid, **options))
    text = transformer.encode_text(torch.zeros(batch, 1, config.text_dim, **options))
    latents, steps = torch.zeros(block, **options), torch.zeros(batch, device=transformer.device)
    for _ in range(2):
        cache.admit(context.frames_per_block)
    cache.assemble()
    transformer.forward_block(latents, steps, text, cache)
    transformer.commit_block(latents, steps, text, cache)


def _is_offloaded(module: torch.nn.Module) -> bool:
    return hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook")
