"""Backbones by name or folder, and their presets, read before any model loads."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.config import ContextConfig, SamplerConfig
from backbone.files import read_config, read_json, weight_files
from longlive_rag.config import MemoryConfig, OutputConfig
from longlive_rag.environment import models_folder
from longlive_rag.presets.catalogue import known_backbone, known_names

MODELS = Path(__file__).parents[1] / "models"
BUILT_IN = {"tiny-world": MODELS / "tiny-world"}
DEFAULT_BACKBONE = "tiny-world"
INDEX = "model_index.json"
NEEDED = ("transformer", "vae", "text_encoder", "tokenizer")
TRANSFORMER = "CausalWanTransformer"
TINY_DECODER = "tiny_decoder"
WITH_WEIGHTS = ("transformer", "vae", "text_encoder", "encoder", TINY_DECODER)


@dataclass(frozen=True)
class Preset:
    """A pipeline folder's own settings.

    Attributes:
        name: what the user typed.
        folder: the pipeline folder.
        context, sampler, memory, output: defaults of a request.
        temporal_factor: pixel frames per latent frame after the first.
        has_weights: False if the folder holds only the configs of a known backbone, which are enough to plan with.
    """

    name: str
    folder: Path
    context: ContextConfig
    sampler: SamplerConfig
    memory: MemoryConfig
    output: OutputConfig
    temporal_factor: int
    has_weights: bool = True


def load_preset(backbone: str) -> Preset:
    """Read the preset of a backbone.

    Args:
        backbone: a known name or a pipeline folder.

    Raises:
        ValueError: if there is no such backbone, or if files of it are missing or unreadable, naming them.
    """
    folder = find_folder(backbone)
    index = read_json(folder / INDEX)
    check_files(folder, index)
    vae = read_config(folder / "vae" / "config.json")
    try:
        return Preset(
            name=backbone,
            folder=folder,
            context=ContextConfig(**index.get("context", {})),
            sampler=SamplerConfig(**index.get("sampler", {})),
            memory=MemoryConfig(**index.get("memory", {})),
            output=OutputConfig(**index.get("output", {})),
            temporal_factor=_temporal_factor(vae),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"the preset in {folder / INDEX} can't be used: {error}") from error


def preset_to_plan_with(backbone: str) -> Preset:
    """Read the preset of a backbone; a known one need not be fetched, as its configs are in the package.

    Raises:
        ValueError: as `load_preset`.
    """
    known = known_backbone(backbone) if is_to_fetch(backbone) else None
    if known is None or known.configs is None:
        return load_preset(backbone)
    return Preset(
        name=backbone,
        folder=known.configs,
        context=known.context or ContextConfig(),
        sampler=known.sampler or SamplerConfig(),
        memory=known.memory or MemoryConfig(),
        output=known.output or OutputConfig(),
        temporal_factor=_temporal_factor(read_json(known.configs / "vae" / "config.json")),
        has_weights=False,
    )


def is_to_fetch(backbone: str) -> bool:
    """Whether this names a known backbone whose weights are neither inside the package nor fetched."""
    return _is_known(backbone) and not fetched_folder(backbone).is_dir()


def fetched_folder(name: str) -> Path:
    """Return the folder of a known backbone once it has been fetched."""
    return models_folder() / name


def _is_known(backbone: str) -> bool:
    """Whether this names a known backbone that must be fetched; a pipeline folder of that name takes precedence."""
    return backbone not in BUILT_IN and not (Path(backbone) / INDEX).is_file() and backbone in known_names()


def find_folder(backbone: str) -> Path:
    """Return the pipeline folder of a backbone, given by name or as a folder.

    A name is looked up inside the package, then as a pipeline folder, then where `models fetch` puts backbones.

    Raises:
        ValueError: if there is no such backbone, or it is not a pipeline folder.
    """
    folder = BUILT_IN.get(backbone, Path(backbone))
    known = f"known names are: {', '.join(BUILT_IN)}, and those of 'longlive-rag models list'"
    if backbone in BUILT_IN and not folder.is_dir():
        raise ValueError(f"backbone {backbone!r} should be in {folder}, but is missing; reinstall longlive-rag")
    if is_to_fetch(backbone):
        raise ValueError(
            f"backbone {backbone!r} is known, but its weights are not in {fetched_folder(backbone)}; to get them: "
            f"longlive-rag models fetch {backbone} (longlive-rag models show {backbone} lists them)"
        )
    if _is_known(backbone):
        folder = fetched_folder(backbone)
    if not backbone or not folder.is_dir():
        what = "is a file, not a pipeline folder" if folder.is_file() else "is neither a known name nor a folder"
        raise ValueError(f"backbone {backbone!r} {what}; {known}")
    if not (folder / INDEX).is_file():
        raise ValueError(
            f"backbone {backbone!r} is a folder without {INDEX}, so it is not a pipeline folder; {known}; "
            "convert published weights in another layout first: longlive-rag models convert"
        )
    return folder


def check_files(folder: Path, index: dict[str, Any]) -> None:
    """Raise ValueError unless every part named in the index has its config and weights."""
    refuse_other_layout(folder, index)
    parts = {name for name, entry in index.items() if _names_a_class(entry)} | set(NEEDED)
    for part in sorted(parts):
        subfolder = folder / part
        if not subfolder.is_dir():
            raise ValueError(f"backbone folder {folder} has no {part}/; a pipeline folder needs {', '.join(NEEDED)}")
        if part in WITH_WEIGHTS:
            weight_files(subfolder)
        elif not any(subfolder.iterdir()):
            raise ValueError(f"{subfolder} is empty; is the backbone complete?")
        else:
            for path in sorted(subfolder.glob("*.json")):
                read_json(path)


def refuse_other_layout(folder: Path, index: dict[str, Any]) -> None:
    """Raise ValueError if the folder is in diffusers' own layout, whose transformer is not causal."""
    if not names_our_transformer(index):
        raise ValueError(
            f"{folder} is a folder of diffusers' {index['transformer'][1]}, which is not causal; "
            f"convert it to a pipeline folder: longlive-rag models convert {shlex.quote(str(folder))} NEW_FOLDER"
        )


def names_our_transformer(index: dict[str, Any]) -> bool:
    """Whether an index names the causal transformer or none at all."""
    entry = index.get("transformer")
    return not _names_a_class(entry) or entry[1] == TRANSFORMER  # type: ignore[index]


def _names_a_class(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(name, str) for name in entry)


def _temporal_factor(vae: dict[str, Any]) -> int:
    if "scale_factor_temporal" in vae:
        return int(vae["scale_factor_temporal"])
    return 2 ** sum(bool(halves) for halves in vae.get("temperal_downsample", (False, True, True)))
