"""Published checkpoints, whatever their layout, as one pipeline folder.

Nothing is copied in memory: tensors stay mapped to the files that they came from until they are written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from backbone.checkpoints import SECTIONS, Weights, load_weights, read_pickled, read_weights
from backbone.errors import FieldError
from backbone.files import CONFIG, INDEX, read_json, weight_files
from backbone.lora import Lora, merge, read_lora
from backbone.names import our_name
from backbone.original import (
    TOKENIZER,
    VAE_FILE,
    is_original_folder,
    open_text_encoder,
    open_transformer,
    open_vae,
    text_file,
)
from backbone.transformer import CausalWanTransformer
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets.catalogue import known_backbone
from longlive_rag.rights.records import MODEL_INDEX, FileRights, inherit, rights_of
from retrieval.encoder import LatentAutoencoder
from retrieval.files import in_words

LORA_FOLDER = "lora"
LORA_FILE = "pytorch_lora_weights.safetensors"
SETTINGS = ("context", "sampler", "memory", "output")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Sources:
    """What a pipeline folder is to be made of.

    Attributes:
        source: a folder (diffusers', the original release's, a pipeline) or a file with the transformer's weights.
        base: for a file: the folder that has everything else.
        section: entry of a training checkpoint; left out, the preset's if the file has it, else the only one.
        lora: a LoRA file in peft's naming, merged into the transformer or, with `keep_lora`, put beside it.
        lora_alpha: left out, the preset's, or what the `adapter_config.json` beside the file says.
        encoder: a retrieval autoencoder, {"model": ..., "config": ...}.
        preset: name of a known backbone, whose settings the folder gets.
        dtype: of the transformer and VAE in the new folder; left out, as they are.
    """

    source: Path
    base: Path | None = None
    section: str | None = None
    lora: Path | None = None
    lora_alpha: float | None = None
    keep_lora: bool = False
    encoder: Path | None = None
    preset: str | None = None
    dtype: str | None = None


@dataclass
class Parts:
    """A pipeline in pieces; `origins` says which files each piece was made from."""

    transformer: CausalWanTransformer
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel
    tokenizer: Path
    encoder: LatentAutoencoder | None
    settings: dict[str, dict[str, Any]]
    origins: dict[str, list[Path]]


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        folder: the new pipeline folder.
        made_from: part -> files.
        left_out: entries of the checkpoint that were not read.
        rights: how the record of each new file stands.
    """

    folder: Path
    made_from: dict[str, list[Path]]
    left_out: tuple[str, ...]
    rights: list[FileRights]


def convert(sources: Sources, dest: Path) -> Converted:
    """Write a pipeline folder that `LongLiveRAGPipeline.from_pretrained` opens.

    Licence records of the sources are carried over: a new file has the terms of all it was made from.

    Args:
        sources: what it is made of.
        dest: the new folder; it must not exist, and appears when it is whole.

    Raises:
        ValueError: if a source is damaged, doesn't fit or leaves something open; nothing is written then.
        OSError: if the disk refuses; nothing is left behind.
    """
    _check_dest(dest)
    parts, left_out, lora = _gather(sources)
    _check_room(parts, dest)
    pipe = LongLiveRAGPipeline(
        transformer=parts.transformer,
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=AutoTokenizer.from_pretrained(parts.tokenizer, local_files_only=True),
        encoder=parts.encoder,
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
    preset = known_backbone(sources.preset) if sources.preset else None
    if sources.dtype is not None and sources.dtype not in DTYPES:
        raise FieldError("dtype", sources.dtype, f"it must be one of {', '.join(DTYPES)}")
    left_out: tuple[str, ...] = ()
    if sources.source.is_dir():
        if sources.base is not None:
            raise ValueError(f"{sources.source} is a folder and has everything itself; drop the base")
        parts = open_parts(sources.source)
    else:
        parts = _open_base(sources)
        weights = _transformer_weights(sources, preset.section if preset else None)
        left_out = weights.left_out
        parts.transformer = _filled(CausalWanTransformer, parts.transformer.config, weights, our_name)
        parts.origins["transformer"] = [sources.source]
    lora = None
    if sources.lora is not None:
        alpha = sources.lora_alpha if sources.lora_alpha is not None or preset is None else preset.lora_alpha
        lora = read_lora(sources.lora, alpha)
        _apply(lora, parts, sources)
    if sources.encoder is not None:
        parts.encoder = read_encoder(sources.encoder)
        parts.origins["encoder"] = [sources.encoder]
    if preset is not None:
        known = {part: getattr(preset, part) for part in SETTINGS}
        parts.settings.update({part: asdict(value) for part, value in known.items() if value is not None})
    memory = parts.settings.get("memory", {})
    parts.settings["memory"] = {**memory, "encoder": "autoencoder" if parts.encoder is not None else "mean_pool"}
    if sources.dtype is not None:
        for model in (parts.transformer, parts.vae):
            cast = {name: tensor.to(DTYPES[sources.dtype]) for name, tensor in model.state_dict().items()}
            model.load_state_dict(cast, strict=True, assign=True)
    return parts, left_out, lora


def _open_base(sources: Sources) -> Parts:
    if not sources.source.is_file():
        raise ValueError(f"{sources.source} is not there; give a folder or a weight file")
    if sources.base is None:
        raise ValueError(
            f"{sources.source} has a transformer only; name the folder that has the rest (VAE, text encoder): "
            "--base FOLDER, such as Wan2.1-T2V-1.3B"
        )
    return open_parts(sources.base)


def _transformer_weights(sources: Sources, preferred: str | None) -> Weights:
    section = sources.section
    if section is None and preferred is not None and sources.source.suffix not in (".safetensors", ".json"):
        section = preferred if preferred in read_pickled(sources.source) else None
    return read_weights(sources.source, section)


def _apply(lora: Lora, parts: Parts, sources: Sources) -> None:
    """Merge, or check that it could be."""
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


# ---- folders ----


def open_parts(folder: Path) -> Parts:
    """The parts of a folder in any of the layouts that have everything: the original release's, diffusers', ours.

    Raises:
        ValueError: if it is none of them, or a part is missing, damaged or doesn't fit its config.
    """
    if (folder / MODEL_INDEX).is_file():
        return _open_diffusers(folder)
    if folder.is_dir() and is_original_folder(folder):
        return _open_original(folder)
    raise ValueError(
        f"{folder} is no model folder: it has neither {MODEL_INDEX} (diffusers) nor the original release's {CONFIG}"
    )


def _open_original(folder: Path) -> Parts:
    if not (folder / TOKENIZER).is_dir():
        raise ValueError(f"{folder} has no {TOKENIZER}/; is the download complete?")
    if not (folder / VAE_FILE).is_file():
        raise ValueError(f"{folder} has no {VAE_FILE}; is the download complete?")
    text = text_file(folder)
    return Parts(
        open_transformer(folder),
        open_vae(folder / VAE_FILE),
        open_text_encoder(text),
        folder / TOKENIZER,
        None,
        {},
        {
            "transformer": weight_files(folder),
            "vae": [folder / VAE_FILE],
            "text_encoder": [text],
            "tokenizer": _vocabulary(folder / TOKENIZER),
        },
    )


def _open_diffusers(folder: Path) -> Parts:
    index = read_json(folder / MODEL_INDEX)
    for part in ("transformer", "vae", "text_encoder", "tokenizer"):
        if not (folder / part).is_dir():
            raise ValueError(f"{folder} has no {part}/; is the download complete?")
    names = ["transformer", "vae", "text_encoder"] + ["encoder"] * (folder / "encoder").is_dir()
    origins = {name: weight_files(folder / name) for name in names}
    text_config = UMT5Config.from_pretrained(folder / "text_encoder", local_files_only=True)
    with torch.device("meta"):
        text_encoder = UMT5EncoderModel(text_config)
    return Parts(
        _open_component(CausalWanTransformer, folder / "transformer"),
        _open_component(AutoencoderKLWan, folder / "vae"),
        _fill(text_encoder, _part_weights(folder / "text_encoder"), _same),
        folder / "tokenizer",
        _open_component(LatentAutoencoder, folder / "encoder") if "encoder" in names else None,
        {part: dict(index[part]) for part in SETTINGS if isinstance(index.get(part), dict)},
        {**origins, "tokenizer": _vocabulary(folder / "tokenizer")},
    )


def _open_component(kind: type[ModelMixin], part: Path) -> Any:
    config = kind.load_config(part)
    if kind is CausalWanTransformer and config.get("_class_name") == "WanTransformer3DModel":
        config = {name: value for name, value in config.items() if not name.startswith("_")}
    return _filled(kind, config, _part_weights(part), our_name if kind is CausalWanTransformer else _same)


def _part_weights(part: Path) -> Weights:
    index = next((part / name for name in INDEX if (part / name).is_file()), None)
    return read_weights(index or weight_files(part)[0])


def _filled(kind: type[ModelMixin], config: Mapping[str, Any], weights: Weights, rename: Callable[[str], str]) -> Any:
    with torch.device("meta"):
        model = kind.from_config(config)
    return _fill(model, weights, rename)


def _fill(model: nn.Module, weights: Weights, rename: Callable[[str], str]) -> Any:
    load_weights(model, weights.tensors, weights.source, rename)
    return model.eval()


def _same(name: str) -> str:
    return name


def _vocabulary(folder: Path) -> list[Path]:
    return [folder / name for name in ("tokenizer.json", "spiece.model") if (folder / name).is_file()]


def read_encoder(path: Path) -> LatentAutoencoder:
    """A retrieval autoencoder as its training saves it: {"model": tensors, "config": sizes}.

    The config's fields are `LatentAutoencoder`'s arguments; others (of the training) are left alone.

    Raises:
        ValueError: if the file is damaged or its tensors don't fit its config.
    """
    content = read_pickled(path)
    config = content.get("config")
    if not isinstance(config, Mapping):
        raise ValueError(f"{path} is no retrieval autoencoder: it has no config beside its {SECTIONS[2]!r}")
    known = ("in_channels", "latent_height", "latent_width", "hidden_dims", "embedding_dim")
    sizes = {name: config[name] for name in known if name in config}
    return _filled(LatentAutoencoder, sizes, read_weights(path, "model"), _same)


# ---- writing ----


def _check_dest(dest: Path) -> None:
    if dest.exists():
        raise ValueError(f"{dest} is there already; name a folder that is not")
    parent = next(folder for folder in dest.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise ValueError(f"{dest} can't be written: {parent} is a file")


def _check_room(parts: Parts, dest: Path) -> None:
    modules = [parts.transformer, parts.vae, parts.text_encoder, *([parts.encoder] if parts.encoder else [])]
    needed = sum(
        parameter.numel() * parameter.element_size() for module in modules for parameter in module.parameters()
    )
    parent = next(folder for folder in dest.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ValueError(f"no space left for {dest}: it needs {in_words(needed)}, {in_words(free)} are free")


@contextmanager
def _appearing(dest: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `dest` when the `with` body ends well and vanishes when it doesn't."""
    dest.absolute().parent.mkdir(parents=True, exist_ok=True)
    fresh = dest.with_name(f".{dest.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
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
    known = {path: rights_of(path)[0] for files in origins.values() for path in files}
    made = {}
    for part, files in origins.items():
        new = weight_files(folder / part) if (folder / part / CONFIG).is_file() else _recorded_in(folder / part)
        made.update({path.relative_to(folder).as_posix(): [known[file] for file in files] for path in new})
    inherit(folder, made)


def _recorded_in(part: Path) -> list[Path]:
    return [*_vocabulary(part), *sorted(part.glob("*.safetensors"))]
