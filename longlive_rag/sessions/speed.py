"""Settings for speed: the attention backend, and whether layers and decoder are compiled.

They change only the last bits of a take, except for backends that round (sage); a take's record names them all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backbone.errors import FieldError
from longlive_rag.config import TakeRequest
from longlive_rag.environment import keep_compiled
from longlive_rag.presets.geometry import read_geometry
from longlive_rag.presets.preset import Preset

if TYPE_CHECKING:
    from collections.abc import Callable

    from longlive_rag.pipeline import LongLiveRAGPipeline
    from longlive_rag.sessions.opening import Compile, Opening
    from longlive_rag.takes.record import TakeRun

# On an H100 the layers of Wan2.1-1.3B compile in 23 s, once, and save 0.12 s of each block of 0.75 s (docs/gpu/h100). A
# first take of this length makes up for the compilation; later ones save all of it.
AUTO_SECONDS = 150.0


def check_speed_fits(preset: Preset, request: TakeRequest, opening: Opening) -> None:
    """Raise FieldError if the requested attention backend or the compiler can't be used here."""
    from longlive_rag.weights.load import pick_device

    device = pick_device(opening.device)
    decodes_on = device if opening.vae_device == "auto" else pick_device(opening.vae_device, "vae_device")
    if opening.attention != "native":
        import torch

        from backbone.attention import why_not

        geometry = read_geometry(preset, request.output, request.memory.encoder)
        reason = why_not(opening.attention, device, getattr(torch, opening.precision.dtype), geometry.head_dim)
        if reason:
            raise FieldError("attention", opening.attention, f"it can't be used here: {reason}. Use native")
    if opening.compile == "on":
        from backbone.compiling import missing_for_compiling

        missing = missing_for_compiling(device)
        if not missing and is_decoder_compiled(opening):
            missing = missing_for_compiling(decodes_on)
        if missing:
            raise FieldError("compile", "on", f"{missing}. Use off")


def as_before(opening: Opening, before: TakeRun, preset: Preset, request: TakeRequest) -> Opening:
    """Adjust `opening` to run layers and decoder as in `before`, as far as that is possible here."""
    compile: Compile = "on" if before.compiled else "off"
    compiled = replace(opening, compile=compile, compile_decoder=before.compiled_decoder)
    if not _fits(preset, request, compiled):
        compiled = replace(opening, compile="off")
    attending = replace(compiled, attention=before.attention)  # type: ignore[arg-type]
    return attending if _fits(preset, request, attending) else compiled


def _fits(preset: Preset, request: TakeRequest, opening: Opening) -> bool:
    try:
        check_speed_fits(preset, request, opening)
    except FieldError:
        return False
    return True


def is_compiled(request: TakeRequest, opening: Opening) -> bool:
    """Whether `opening` compiles the layers for a request; with `auto`, if a long take on CUDA pays for it."""
    from backbone.compiling import missing_for_compiling
    from longlive_rag.weights.load import pick_device

    if opening.compile != "auto":
        return opening.compile == "on"
    device = pick_device(opening.device)
    return device.type == "cuda" and request.seconds >= AUTO_SECONDS and missing_for_compiling(device) is None


def is_decoder_compiled(opening: Opening) -> bool:
    """Whether `opening` compiles the VAE's decoder; `auto` does not, as its gain on a GPU has not been measured."""
    return opening.compile == "on" and opening.decoder == "full" and opening.compile_decoder


def speed_up(
    pipe: LongLiveRAGPipeline, preset: Preset, request: TakeRequest, opening: Opening, note: Callable[[str], None]
) -> None:
    """Apply the speed settings of `opening` to an opened backbone; compiles now, and notes how long that took."""
    from backbone.compiling import compile_decoder_for, compile_for, uncompile, uncompile_decoder
    from backbone.vae import shapes_compiled_for
    from longlive_rag.generation.in_step import compile_on_all

    if pipe.transformer.attention_backend != opening.attention:
        pipe.transformer.set_attention_backend(opening.attention)
    layers, decoder = is_compiled(request, opening), is_decoder_compiled(opening)
    if not layers and pipe.transformer.compiled_for:
        uncompile(pipe.transformer)
    if not decoder and shapes_compiled_for(pipe.vae):
        uncompile_decoder(pipe.vae)
    if not layers:
        return
    folder = keep_compiled()
    what = "the transformer's layers" + (" and the VAE's decoder" if decoder else "")
    size = f"{request.output.width}x{request.output.height}"
    note(f"compiling {what} for {size}: a minute or two the first time; the result is kept in {folder}")
    latents = read_geometry(preset, request.output, request.memory.encoder).latent_shape
    compile_layers = compile_for if pipe.transformer.ranks is None else compile_on_all
    seconds = compile_layers(pipe.transformer, request.context, latents)
    if decoder:
        seconds += compile_decoder_for(pipe.vae, request.context.frames_per_block, latents)
    note(f"compiled in {seconds:.1f} s" if seconds else "already compiled")
