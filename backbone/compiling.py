"""The transformer's layers as one compiled program.

What is compiled are the passes that a take makes again and again: a block's denoising steps and its commit. Rare ones
(a shot's first block, a recache, pages made again, frames at noise levels of their own, masks) run as they are, so
that nothing is compiled in the middle of a take. The length of the context stays open: one program serves while the
window fills, too.
"""

from __future__ import annotations

import shutil
import time
from importlib.util import find_spec

import torch

from backbone.cache import CacheShape, KVCache
from backbone.config import ContextConfig
from backbone.transformer import CausalWanTransformer

# Of one layer's forward: a step and a commit for each shape of latents that a process ever makes.
RECOMPILE_LIMIT = 64


def missing_for_compiling(device: torch.device) -> str | None:
    """What this machine lacks to compile for `device`, in words; None if nothing."""
    if device.type == "cuda":
        return None if find_spec("triton") else "the package triton is not installed"
    return None if shutil.which("g++") or shutil.which("clang++") else "there is no C++ compiler (g++ or clang++)"


def compile_for(
    transformer: CausalWanTransformer, context: ContextConfig, latents: tuple[int, int, int], batch: int = 1
) -> float:
    """Compile the layers for blocks of one shape, and run a step and a commit, so that it is done.

    Args:
        transformer: as it will be used: adapters loaded, on its device, in its dtype.
        context: what a block sees.
        latents: (C, h, w) of a latent frame.
        batch: takes made side by side.

    Returns:
        Seconds that it took; 0 where it was compiled for this shape already.

    Raises:
        ValueError: if parts of the layers are moved to the device one by one (sequential or group offloading).
    """
    block = (batch, latents[0], context.frames_per_block, *latents[1:])
    if block in transformer.compiled_for:
        return 0.0
    offloaded = [name for name, module in transformer.blocks.named_modules() if _is_offloaded(module)]
    if offloaded:
        raise ValueError(
            f"the transformer's layers can't be compiled: blocks.{offloaded[0]} is offloaded by itself; "
            "use enable_model_cpu_offload, which moves whole models, or don't compile"
        )
    start = time.perf_counter()
    if not transformer.compiled_for:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
        transformer.compile_repeated_blocks(fullgraph=True)
    transformer.compiled_for |= {block}
    try:
        _run_second_block(transformer, context, block)
    except BaseException:
        uncompile(transformer)
        raise
    return time.perf_counter() - start


def uncompile(transformer: CausalWanTransformer) -> None:
    """Run the layers as they are again."""
    transformer.compiled_for = frozenset()
    for layer in transformer.layers:
        layer._compiled_call_impl = None


@torch.no_grad()
def _run_second_block(transformer: CausalWanTransformer, context: ContextConfig, block: tuple[int, ...]) -> None:
    config, batch = transformer.config, block[0]
    options = {"dtype": transformer.dtype, "device": transformer.device}
    heads = (config.num_attention_heads, config.attention_head_dim)
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
