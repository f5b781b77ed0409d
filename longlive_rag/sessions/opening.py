"""Opening a backbone for a request: look up its rights, load it, and check the request against it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from backbone.errors import FieldError
from backbone.files import CONFIG, read_config
from backbone.knobs import Knob, check_knobs
from longlive_rag.config import TakeRequest
from longlive_rag.presets.geometry import read_geometry
from longlive_rag.presets.precision import Precision, pick_precision
from longlive_rag.presets.preset import TINY_DECODER, Preset
from longlive_rag.rights.policy import enforce, pick_policy
from longlive_rag.rights.provenance import Provenance
from longlive_rag.rights.terms import CLEARED
from longlive_rag.sessions.speed import check_speed_fits, speed_up
from retrieval.files import in_words

if TYPE_CHECKING:
    from longlive_rag.pipeline import LongLiveRAGPipeline
    from longlive_rag.takes.record import TakeRun

DType = Literal["auto", "float32", "bfloat16"]
Codec = Literal["vp9", "h264"]
Decoder = Literal["full", "tiny"]
Compile = Literal["auto", "on", "off"]
Attention = Literal[
    "native", "native_cudnn", "native_efficient", "native_flash", "native_math", "flash", "flash_3", "xformers", "sage"
]
Note = Callable[[str], None]
"""Receives a sentence for the user."""


@dataclass(frozen=True)
class Opening:
    """How a backbone is opened.

    Attributes:
        device: device it runs on.
        dtype: precision of the transformer.
        codec: codec of the videos it will make.
        prompt_embeds: file of precomputed prompt embeddings; if given, the text encoder is not loaded.
        decoder: decoder of the latents: the VAE's (`full`) or the backbone's tiny one.
        compile: whether to compile the transformer's layers and, with `on`, the VAE's decoder.
        attention: attention backend, a key of `backbone.attention.BACKENDS`.
        vae_device: device that decodes latents.
        vae_dtype: precision of the decoder; None chooses by device and `dtype`.
        gpus: number of GPUs that make the take together.
        compile_decoder: False leaves the decoder uncompiled even if `compile` is `on`.
    """

    device: Annotated[str, Knob("--device", "auto (a GPU if there is one), cpu, cuda or cuda:N.")] = "auto"
    dtype: Annotated[
        DType,
        Knob("--dtype", "Precision of the backbone; auto is bfloat16 on a GPU (VAE included) and float32 on a CPU."),
    ] = "auto"
    codec: Annotated[
        Codec, Knob("--codec", "Video codec. h264 also plays on older devices, but its encoder is under the GPL.")
    ] = "vp9"
    prompt_embeds: Path | None = None
    decoder: Annotated[
        Decoder, Knob("--decoder", "Latent decoder. tiny is faster but less sharp; the backbone must have one.")
    ] = "full"
    compile: Annotated[
        Compile,
        Knob(
            "--compile",
            "Compile the transformer's layers and the VAE's decoder (on), or only the layers, on CUDA, for takes of "
            "150 s or more (auto).",
        ),
    ] = "auto"
    attention: Annotated[
        Attention, Knob("--attention", "Attention backend, named as in diffusers. sage is faster but less exact.")
    ] = "native"
    vae_device: Annotated[
        str, Knob("--vae-device", "Device that decodes latents: auto (the backbone's), cpu, cuda or cuda:N.")
    ] = "auto"
    vae_dtype: str | None = None
    gpus: Annotated[
        int, Knob("--gpus", "Number of GPUs for one take; its attention heads are divided among them.", at_least=1)
    ] = 1
    compile_decoder: bool = True

    def __post_init__(self) -> None:
        check_knobs(self)

    @property
    def precision(self) -> Precision:
        """The precision on its device; FieldError if the device is missing."""
        from longlive_rag.weights.load import pick_device

        return pick_precision(self.dtype, pick_device(self.device).type, self.vae_dtype)


@dataclass(frozen=True)
class Labels:
    """The licence policy and labels of a take.

    Attributes:
        license_policy: None is the policy in force.
        deliverable: label it as deliverable instead of reference.
        phase: phase of the production.
        visible: whether to show the label in the video as well.
    """

    license_policy: str | None = None
    deliverable: bool = False
    phase: str | None = None
    visible: bool = False


def provenance_of(preset: Preset, labels: Labels) -> Provenance:
    """Build the provenance of takes: the rights of the backbone's files, the licence policy and the labels.

    Raises:
        LicenseError: if the policy does not allow one of the files.
        ValueError: if the policy or the phase is invalid.
    """
    policy = pick_policy(labels.license_policy)
    files = tuple(enforce(preset.folder, policy))
    return Provenance(files, policy, "deliverable" if labels.deliverable else "reference", labels.phase, labels.visible)


def open_backbone(
    preset: Preset,
    request: TakeRequest,
    opening: Opening,
    provenance: Provenance,
    note: Note,
    pipe: LongLiveRAGPipeline | None = None,
) -> tuple[LongLiveRAGPipeline, TakeRun]:
    """Load a backbone and check a request against it; notes words that it does not know.

    Args:
        pipe: the backbone, if it is already loaded.

    Raises:
        ValueError: if it can't be loaded here, or can't meet the request.
    """
    from longlive_rag.media.video import check_codec

    check_codec(opening.codec)
    check_decoder_fits(preset, opening)
    check_cache_fits(preset, request, opening)
    check_speed_fits(preset, request, opening)
    pipe, run = load_backbone(preset, opening, provenance, pipe=pipe)
    pipe.check(request)
    speed_up(pipe, preset, request, opening, note)
    run = pipe.take_run(codec=run.codec, load_seconds=run.load_seconds)
    if (host := pipe.host_bytes_for_pages(request)) > 0:
        note(f"allocating {in_words(host)} of host memory for pages before the first block, which takes a moment")
    prompts = (request.prompt, *(cue.prompt for cue in request.cues))
    unknown = {words: found for words in prompts if (found := pipe.unknown_words(words))}
    for words, found in unknown.items():
        note(f"{preset.name} has never read {', '.join(found)} (in '{words}')")
    for file in provenance.files:
        if file.record is not None and file.record.basis not in CLEARED:
            note(f"terms of {file.file}: {file.in_words}")
    return pipe, replace(run, unknown_words=unknown)


def load_backbone(
    preset: Preset,
    opening: Opening,
    provenance: Provenance,
    threads: int | None = None,
    pipe: LongLiveRAGPipeline | None = None,
) -> tuple[LongLiveRAGPipeline, TakeRun]:
    """Load a backbone without checking a request against it.

    Args:
        threads: CPU threads per operation; None chooses by the backbone's size.
        pipe: the backbone, if it is already loaded.

    Raises:
        ValueError: if it can't be loaded here.
    """
    from longlive_rag.weights.load import load_pipeline, use_threads

    begin_s = time.perf_counter()
    if pipe is None:
        with quiet_libraries():
            pipe = load_pipeline(
                preset.name,
                opening.dtype,
                opening.device,
                provenance.policy,
                opening.prompt_embeds,
                opening.vae_dtype,
                opening.vae_device,
            )
    pipe.backbone, pipe.decoder = preset.name, opening.decoder
    use_threads(pipe, threads)
    return pipe, pipe.take_run(codec=opening.codec, load_seconds=round(time.perf_counter() - begin_s, 3))


def check_decoder_fits(preset: Preset, opening: Opening) -> None:
    """Raise FieldError if the backbone does not have the decoder, or it is for other latents."""
    from backbone.tiny_decoder import check_decoder

    if opening.decoder == "full":
        return
    path = preset.folder / TINY_DECODER / CONFIG
    tiny = read_config(path) if path.is_file() else None
    check_decoder(preset.name, tiny, read_config(preset.folder / "vae" / CONFIG))


def check_cache_fits(preset: Preset, request: TakeRequest, opening: Opening) -> None:
    """Raise FieldError if the window's keys and values alone exceed host memory; a GPU reports this itself."""
    from longlive_rag.diagnostics.doctor import free_memory
    from longlive_rag.weights.load import pick_device

    if pick_device(opening.device).type != "cpu":
        return
    page_bytes = read_geometry(preset, request.output, request.memory.encoder).page_bytes(opening.precision.dtype)
    frames, free_bytes = request.context.window_frames, free_memory()
    if frames * page_bytes > free_bytes:
        needed = f"their keys and values take {frames * page_bytes / 2**30:.1f} GiB"
        raise FieldError("window_frames", frames, f"{needed}, but {free_bytes / 2**30:.1f} GiB are free")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence progress bars and warnings of libraries in the `with` body."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
