"""Conversion of published checkpoints, in any known layout, to a pipeline folder.

Nothing is copied in memory: tensors stay mapped to their files until they are written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from backbone.checkpoints import SECTIONS, Weights, check_finite, read_pickled, read_weights
from backbone.errors import FieldError, Name, refused_as
from backbone.files import CONFIG, weight_files
from backbone.lora import Lora, merge, read_lora
from backbone.names import our_name
from backbone.tiny_decoder import ENCODER_PREFIX, TinyDecoder, misfit, sizes_of
from backbone.transformer import CausalWanTransformer
from backbone.vae_config import check_channels, pixels_per_latent
from longlive_rag.config import OutputConfig
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets.catalogue import KnownBackbone, known_backbone
from longlive_rag.presets.embeddings import read_tokenizer
from longlive_rag.presets.geometry import check_latents
from longlive_rag.presets.preset import TINY_DECODER
from longlive_rag.rights.records import FileRights, LicenseRecord, inherit, rights_of
from longlive_rag.weights.layouts import SETTINGS, open_parts
from longlive_rag.weights.parts import Parts, filled, same_name, vocabulary
from retrieval.encoder import LatentAutoencoder
from retrieval.files import in_words, part_of

LORA_FOLDER = "lora"
LORA_FILE = "pytorch_lora_weights.safetensors"
PUBLISHED = {
    record.sha256: record
    for record in (
        LicenseRecord(
            sha256="04766eac0221b5390b985ae3fdcca652cbb4b1e8b82b28ea7ff89dfad1b1a93f",
            terms="MIT",
            use="commercial",
            source="LICENSE of github.com/madebyollin/taehv, (c) 2025 Ollin Boer Bohan; SHA-256 of the file in "
            "OzzyGT/taew2_1 on the Hugging Face hub, which says that it is unmodified",
            looked_up_by="the longlive-rag authors",
            looked_up_on="2026-11-25",
        ),
    )
}
"""Terms of published files that come without a record, by their hash."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Sources:
    """The sources of a pipeline folder.

    Attributes:
        source: a folder (diffusers' layout, the original release's, a pipeline) or a file with the transformer's
            weights.
        base: for a file: the folder that has everything else.
        section: entry of a training checkpoint; None is the preset's if the file has it, else the only one.
        lora: a LoRA file with peft's names.
        lora_alpha: None is the preset's if the LoRA has the rank of its release's, or that of the `adapter_config.json`
            beside the file.
        keep_lora: whether to put the LoRA beside the transformer instead of merging it.
        encoder: a retrieval autoencoder, {"model": ..., "config": ...}.
        tiny_decoder: a safetensors file in the layout of taew2_1.
        preset: name of a known backbone, whose settings the folder gets.
        dtype: of the transformer and VAE in the new folder; None leaves them as they are.
    """

    source: Path
    base: Path | None = None
    section: str | None = None
    lora: Path | None = None
    lora_alpha: float | None = None
    keep_lora: bool = False
    encoder: Path | None = None
    tiny_decoder: Path | None = None
    preset: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Attributes:
        folder: the new pipeline folder.
        made_from: part -> files.
        left_out: entries of the checkpoint that were not read.
        rights: the rights of each new file.
    """

    folder: Path
    made_from: dict[str, list[Path]]
    left_out: tuple[str, ...]
    rights: list[FileRights]


def convert(sources: Sources, dest: Path) -> Converted:
    """Write a pipeline folder that `LongLiveRAGPipeline.from_pretrained` opens.

    Licence records of the sources are carried over: a new file has the terms of everything it was made from.

    Args:
        sources: what to make it from.
        dest: the new folder; it must not exist, and appears only once it is complete.

    Raises:
        ValueError: if a source is damaged, doesn't fit or is ambiguous; nothing is written.
        OSError: if the disk refuses; nothing is left behind.
    """
    make_way(dest)
    parts, left_out, lora = _gather(sources)
    _check_room(parts, dest)
    tokenizer = read_tokenizer(parts.tokenizer)
    with refused_as(f"the settings of {sources.source}"):
        pipe = LongLiveRAGPipeline(
            transformer=parts.transformer,
            vae=parts.vae,
            text_encoder=parts.text_encoder,
            tokenizer=tokenizer,
            encoder=parts.encoder,
            tiny_decoder=parts.tiny_decoder,
            **parts.settings,
        )
    with _appearing(dest) as folder:
        pipe.save_pretrained(folder)
        if lora is not None and sources.keep_lora:
            _save_lora(lora, folder / LORA_FOLDER)
            parts.origins[LORA_FOLDER] = [sources.lora] if sources.lora else []
        _carry_rights(parts.origins, folder)
    return Converted(dest, parts.origins, left_out, rights_of(dest))


# ---- gathering ----


def _gather(sources: Sources) -> tuple[Parts, tuple[str, ...], Lora | None]:
    preset = _known(sources.preset) if sources.preset else None
    _check_used(sources)
    if sources.dtype is not None and sources.dtype not in DTYPES:
        raise FieldError("dtype", sources.dtype, f"it must be one of {', '.join(DTYPES)}")
    left_out: tuple[str, ...] = ()
    if sources.source.is_dir():
        if sources.base is not None:
            raise ValueError(f"{sources.source} is a folder that has everything; drop the base")
        parts = open_parts(sources.source)
        if parts.transformer.device.type == "meta":
            raise ValueError(
                f"{sources.source} has no weights of a transformer; is the download complete? Without them it can only "
                "be the base of a checkpoint: --base FOLDER"
            )
        _check_latents(parts, preset, sources.source)
    else:
        parts = _open_base(sources)
        _check_latents(parts, preset, sources.base)
        weights = _transformer_weights(sources, preset.section if preset else None)
        left_out = weights.left_out
        parts.transformer = filled(CausalWanTransformer, parts.transformer.config, weights, our_name)
        parts.origins["transformer"] = [sources.source]
    lora = None
    if sources.lora is not None:
        alpha = sources.lora_alpha if sources.lora_alpha is not None or preset is None else preset.lora_alpha
        lora = read_lora(sources.lora, alpha)
        _apply(lora, parts, sources)
        if sources.lora_alpha is None and preset is not None:
            _check_rank(lora, preset)
    if sources.encoder is not None:
        parts.encoder = read_encoder(sources.encoder)
        parts.origins["encoder"] = [sources.encoder]
    if sources.tiny_decoder is not None:
        parts.tiny_decoder, unread = read_tiny_decoder(sources.tiny_decoder)
        parts.origins[TINY_DECODER] = [sources.tiny_decoder]
        left_out += unread
    _check_tiny_decoder(parts)
    if preset is not None:
        known = {part: getattr(preset, part) for part in SETTINGS}
        parts.settings.update({part: asdict(value) for part, value in known.items() if value is not None})
    if parts.encoder is not None:
        with refused_as(f"the settings of {sources.source}"):
            output = OutputConfig(**parts.settings.get("output", {}))
        _check_encoder(parts, output)
    memory = parts.settings.get("memory", {})
    parts.settings["memory"] = {**memory, "encoder": "autoencoder" if parts.encoder is not None else "mean_pool"}
    if sources.dtype is not None:
        for model in (parts.transformer, parts.vae):
            cast = {name: tensor.to(DTYPES[sources.dtype]) for name, tensor in model.state_dict().items()}
            model.load_state_dict(cast, strict=True, assign=True)
    return parts, left_out, lora


def _known(name: str) -> KnownBackbone:
    """Return a known backbone; ValueError if there is none of that name, or it is built in and has no settings."""
    preset = known_backbone(name)
    if preset.built_in is not None:
        raise FieldError("preset", name, "it is part of the package, and its settings are for its own weights only")
    return preset


def _check_used(sources: Sources) -> None:
    """Raise FieldError for a setting of something that was not given."""
    if sources.section is not None and sources.source.is_dir():
        shown = f"{sources.section!r}, but {sources.source} is a folder, which has no sections"
        raise FieldError("section", sources.section, "leave it out", shown)
    for name, value in (("lora_alpha", sources.lora_alpha), ("keep_lora", sources.keep_lora or None)):
        if value is not None and sources.lora is None:
            raise FieldError(name, value, ("give ", Name("lora"), " as well"), claim=(Name(name), " needs a LoRA"))


def _check_rank(lora: Lora, preset: KnownBackbone) -> None:
    """Raise FieldError if a LoRA is not the known backbone's, whose alpha then means another scale."""
    if preset.lora_rank is not None and lora.rank != preset.lora_rank:
        claim = f"{lora.source} has rank {lora.rank}, but the LoRA of {preset.name} has rank {preset.lora_rank}"
        raise FieldError("lora_alpha", None, ("give ", Name("lora_alpha"), " as used in its training"), claim=claim)


def _check_latents(parts: Parts, preset: KnownBackbone | None, source: Path | None) -> None:
    """Raise ValueError unless transformer, VAE and the settings of a known backbone are for the same latents."""
    where = str(source)
    channels, pixels = parts.transformer.config.in_channels, pixels_per_latent(parts.vae.config, where)
    check_channels(parts.vae.config, channels, where)
    if preset is None or preset.configs is None:
        return
    theirs, their_pixels = check_latents(preset.configs)
    if (theirs["in_channels"], their_pixels) != (channels, pixels):
        of_preset = f"{theirs['in_channels']} channels and {their_pixels}x{their_pixels} pixels per element"
        shown = f"{preset.name!r}, whose latents have {of_preset}; these have {channels} and {pixels}x{pixels}"
        raise FieldError("preset", preset.name, shown=shown)


def _open_base(sources: Sources) -> Parts:
    if not sources.source.is_file():
        raise ValueError(f"{sources.source} does not exist; give a folder or a weight file")
    if sources.base is None:
        raise ValueError(
            f"{sources.source} has only a transformer; name the folder that has the rest (VAE, text encoder) with "
            "--base FOLDER, such as Wan2.1-T2V-1.3B"
        )
    return open_parts(sources.base)


def _transformer_weights(sources: Sources, preferred: str | None) -> Weights:
    section, path = sources.section, sources.source
    if section is None and preferred is not None and path.suffix not in (".safetensors", ".json"):
        there = [name for name in SECTIONS if name in read_pickled(path)]
        if there and preferred not in there:
            why = f"{sources.preset} runs {preferred!r}; to use another, name it: "
            wanted = (why, Name("section"), f" {there[0]}")
            raise FieldError("section", None, wanted, claim=f"{path} has only the section {' and '.join(there)}")
        section = preferred if there else None
    return read_weights(path, section)


def _check_encoder(parts: Parts, output: OutputConfig) -> None:
    """Raise ValueError if the retrieval autoencoder does not read latents such as this backbone makes."""
    assert parts.encoder is not None
    config = parts.encoder.config
    factor = pixels_per_latent(parts.vae.config, "the VAE")
    made = (parts.transformer.config.in_channels, output.height // factor, output.width // factor)
    read = (config.in_channels, config.latent_height, config.latent_width)
    if read != made:
        shown = [" x ".join(map(str, size)) for size in (read, made)]
        raise ValueError(
            f"the retrieval autoencoder in {parts.origins['encoder'][0]} reads latents of {shown[0]}, but this "
            f"backbone makes {shown[1]} at {output.width}x{output.height}; use one that was trained on its latents"
        )


def _apply(lora: Lora, parts: Parts, sources: Sources) -> None:
    """Merge the LoRA, or with `keep_lora` only check that it could be merged."""
    weights: dict[str, Tensor] = dict(parts.transformer.state_dict())
    if sources.keep_lora:
        layers = {f"{layer}.weight": weights.get(f"{layer}.weight") for layer in lora.pairs}
        merge({name: tensor.to("meta") for name, tensor in layers.items() if tensor is not None}, _on_meta(lora))
        return
    merge(weights, lora)
    parts.transformer.load_state_dict(weights, strict=True, assign=True)
    assert sources.lora is not None
    parts.origins["transformer"] = [*parts.origins["transformer"], sources.lora]


def _on_meta(lora: Lora) -> Lora:
    return replace(lora, pairs={layer: (a.to("meta"), b.to("meta")) for layer, (a, b) in lora.pairs.items()})


def read_encoder(path: Path) -> LatentAutoencoder:
    """Read a retrieval autoencoder as its training saves it: {"model": tensors, "config": sizes}.

    The config's fields are `LatentAutoencoder`'s arguments; others (of the training) are ignored.

    Raises:
        ValueError: if the file is damaged or its tensors don't fit its config.
    """
    content = read_pickled(path)
    config = content.get("config")
    if not isinstance(config, Mapping):
        raise ValueError(f"{path} is not a retrieval autoencoder: it has no config beside its {SECTIONS[2]!r}")
    known = ("in_channels", "latent_height", "latent_width", "hidden_dims", "embedding_dim")
    sizes = {name: config[name] for name in known if name in config}
    for name, size in sizes.items():
        each = size if name == "hidden_dims" and isinstance(size, list | tuple) and size else [size]
        if not all(type(number) is int and number > 0 for number in each):
            raise ValueError(f"{path} is not a retrieval autoencoder: its {name} is {size!r}")
    return filled(LatentAutoencoder, sizes, read_weights(path, "model"), same_name)


def read_tiny_decoder(path: Path) -> tuple[TinyDecoder, tuple[str, ...]]:
    """Read a tiny decoder as published, taew2_1.safetensors; also return what was left out, the file's encoder.

    Raises:
        ValueError: if the file is damaged or not in this layout, naming tensors and shapes.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is not a tiny decoder: its name must end in .safetensors")
    tensors = read_weights(path).tensors
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(ENCODER_PREFIX)}
    check_finite(own, str(path))
    sizes = sizes_of({name: tuple(tensor.shape) for name, tensor in own.items()}, str(path))
    unread = len(tensors) - len(own)
    left_out = (f"the encoder of {path.name} ({unread} tensors)",) if unread else ()
    return filled(TinyDecoder, sizes, Weights(str(path), own), same_name), left_out


def _check_tiny_decoder(parts: Parts) -> None:
    reason = "" if parts.tiny_decoder is None else misfit(parts.tiny_decoder.config, parts.vae.config)
    if reason:
        raise ValueError(f"{parts.origins[TINY_DECODER][0]} can't be used: {reason}")


# ---- writing ----


def make_way(dest: Path) -> None:
    """Remove what a killed conversion to `dest` left, which would count as used space.

    Raises:
        ValueError: if a new folder can't be made there.
    """
    if dest.exists() or dest.is_symlink():
        raise ValueError(f"{dest} already exists; name a new folder")
    parent = next(folder for folder in dest.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise ValueError(f"{dest} can't be written: {parent} is a file")
    shutil.rmtree(part_of(dest), ignore_errors=True)


def _check_room(parts: Parts, dest: Path) -> None:
    optional = [part for part in (parts.encoder, parts.tiny_decoder) if part is not None]
    modules = [parts.transformer, parts.vae, parts.text_encoder, *optional]
    needed = sum(
        parameter.numel() * parameter.element_size() for module in modules for parameter in module.parameters()
    )
    parent = next(folder for folder in dest.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ValueError(f"no space left for {dest}: it needs {in_words(needed)}, but {in_words(free)} are free")


@contextmanager
def _appearing(dest: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `dest` if the `with` body succeeds and is removed otherwise."""
    dest.absolute().parent.mkdir(parents=True, exist_ok=True)
    fresh = part_of(dest)
    try:
        yield fresh
        fresh.replace(dest)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _save_lora(lora: Lora, folder: Path) -> None:
    folder.mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in lora.for_diffusers().items()}
    save_file(tensors, folder / LORA_FILE, {"format": "pt"})


def _carry_rights(origins: Mapping[str, list[Path]], folder: Path) -> None:
    known = {path: _rights_of(path) for files in origins.values() for path in files}
    made = {}
    for part, files in origins.items():
        new = weight_files(folder / part) if (folder / part / CONFIG).is_file() else _recorded_in(folder / part)
        made.update({path.relative_to(folder).as_posix(): [known[file] for file in files] for path in new})
    inherit(folder, made)


def _rights_of(path: Path) -> FileRights:
    """Return the record of a file or, if it has none, what is known about the published file with these bytes."""
    found = rights_of(path)[0]
    published = PUBLISHED.get(found.sha256)
    if found.standing != "unrecorded" or published is None:
        return found
    return replace(found, standing="recorded", use=published.use, record=published)


def _recorded_in(part: Path) -> list[Path]:
    return [*vocabulary(part), *sorted(part.glob("*.safetensors"))]
