"""Backbones by name or folder, and what their presets say, read before any model loads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.config import ContextConfig, SamplerConfig
from longlive_rag.config import MemoryConfig, OutputConfig

MODELS = Path(__file__).parent / "models"
BUILT_IN = {"tiny-world": MODELS / "tiny-world"}
DEFAULT_BACKBONE = "tiny-world"
INDEX = "model_index.json"
NEEDED = ("transformer", "vae", "text_encoder", "tokenizer")
WITH_WEIGHTS = ("transformer", "vae", "text_encoder", "encoder")
WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Preset:
    """A pipeline folder's own settings.

    Attributes:
        name: what the user typed.
        folder: the pipeline folder.
        context, sampler, memory, output: defaults of a request.
        temporal_factor: pixel frames of a latent frame after the first.
    """

    name: str
    folder: Path
    context: ContextConfig
    sampler: SamplerConfig
    memory: MemoryConfig
    output: OutputConfig
    temporal_factor: int


def load_preset(backbone: str) -> Preset:
    """Read the preset of a backbone.

    Args:
        backbone: a name in `BUILT_IN` or a pipeline folder.

    Raises:
        ValueError: if there is no such backbone or files of it are missing or unreadable; says which.
    """
    folder = find_folder(backbone)
    index = read_json(folder / INDEX)
    check_files(folder, index)
    vae = read_json(folder / "vae" / "config.json")
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


def find_folder(backbone: str) -> Path:
    """The pipeline folder of a backbone's name, or the folder itself.

    Raises:
        ValueError: if it is neither.
    """
    folder = BUILT_IN.get(backbone, Path(backbone))
    known = f"known names are: {', '.join(BUILT_IN)}"
    if backbone in BUILT_IN and not folder.is_dir():
        raise ValueError(f"backbone {backbone!r} should be in {folder}, but is not; install longlive-rag again")
    if not backbone or not folder.is_dir():
        what = "is a file, not a pipeline folder" if folder.is_file() else "is no known name and no folder"
        raise ValueError(f"backbone {backbone!r} {what}; {known}")
    if not (folder / INDEX).is_file():
        raise ValueError(f"backbone {backbone!r} is a folder without {INDEX}, so it is no pipeline folder; {known}")
    return folder


def check_files(folder: Path, index: dict[str, Any]) -> None:
    """Raise ValueError unless every part that the index names has its config and weights."""
    parts = {name for name, entry in index.items() if _names_a_class(entry)} | set(NEEDED)
    for part in sorted(parts):
        subfolder = folder / part
        if not subfolder.is_dir():
            raise ValueError(f"backbone folder {folder} has no {part}/; a pipeline folder needs {', '.join(NEEDED)}")
        if part not in WITH_WEIGHTS:
            if not any(subfolder.iterdir()):
                raise ValueError(f"{subfolder} is empty; is the backbone complete?")
            continue
        if not (subfolder / "config.json").is_file():
            raise ValueError(f"{subfolder} has no config.json; is the backbone complete?")
        if not any(file for pattern in WEIGHTS for file in subfolder.glob(pattern)):
            raise ValueError(f"{subfolder} has no weights (.safetensors); is the backbone complete?")


def _names_a_class(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(name, str) for name in entry)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; ValueError if it does not."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} can't be read: it holds a {type(content).__name__}, not an object")
    return content


def _temporal_factor(vae: dict[str, Any]) -> int:
    if "scale_factor_temporal" in vae:
        return int(vae["scale_factor_temporal"])
    return 2 ** sum(bool(halves) for halves in vae.get("temperal_downsample", (False, True, True)))
