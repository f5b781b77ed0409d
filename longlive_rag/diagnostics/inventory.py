"""What a model folder holds, part by part: what is there, what is missing, what would load."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from backbone.checkpoints import check_part
from backbone.files import CONFIG, INDEX, SINGLE, read_header, read_headers, read_json, shards, weight_files
from backbone.original import TEXT_FILES, TOKENIZER, VAE_FILE, is_original_folder, transformer_config
from longlive_rag.diagnostics.doctor import Finding
from longlive_rag.pipeline import COMPONENTS
from longlive_rag.presets.preset import INDEX as MODEL_INDEX
from longlive_rag.presets.preset import NEEDED, load_preset, names_our_transformer
from retrieval.files import in_words


def inventory(folder: Path) -> tuple[list[Finding], bool]:
    """Look at a model folder in any of the layouts that are read; headers only, no weight is loaded.

    Args:
        folder: a pipeline folder, diffusers' or the original release's.

    Returns:
        A finding for the layout and each part, and whether the folder can be opened as it is.
    """
    if (folder / MODEL_INDEX).is_file():
        return _diffusers(folder)
    if any((folder / name).exists() for name in (VAE_FILE, *TEXT_FILES, TOKENIZER)) or _has_original_config(folder):
        return _original(folder), False
    what = f"{folder} is no model folder: it has neither {MODEL_INDEX} nor the files of the original release"
    return [Finding("layout", what, "bad", "a pipeline folder is made by: longlive-rag models convert")], False


def _diffusers(folder: Path) -> tuple[list[Finding], bool]:
    try:
        ours = names_our_transformer(read_json(folder / MODEL_INDEX))
    except ValueError as error:
        return [Finding("layout", str(error), "bad")], False
    parts = [_finding(part, partial(_part, folder, part)) for part in NEEDED]
    if (folder / "encoder").is_dir():
        parts.append(_finding("encoder", partial(_part, folder, "encoder")))
    elif ours:
        parts.append(Finding("encoder", "none; past frames are compared by their pooled latents"))
    if not ours:
        return [_to_convert("diffusers'", folder, parts), *parts], False
    layout = Finding("layout", "a pipeline folder")
    if any(part.verdict == "bad" for part in parts):
        return [layout, *parts], False
    try:
        load_preset(str(folder))
    except ValueError as error:
        return [Finding("layout", str(error), "bad"), *parts], False
    return [layout, *parts], True


def _part(folder: Path, part: str) -> str:
    """What is in one part of a pipeline folder; ValueError if it would not load."""
    if not (folder / part).is_dir():
        raise ValueError(f"{folder / part} is missing")
    if part not in COMPONENTS:
        names = sorted(path.name for path in (folder / part).iterdir())
        if not names:
            raise ValueError(f"{folder / part} is empty")
        return ", ".join(names)
    check_part(folder / part, COMPONENTS[part])
    return _weights(weight_files(folder / part)) + "; they fit their config"


def _original(folder: Path) -> list[Finding]:
    def transformer() -> str:
        transformer_config(read_json(folder / CONFIG), str(folder / CONFIG))
        index = next((folder / name for name in INDEX if (folder / name).is_file()), None)
        return _weights(shards(index) if index else [_present(folder, *SINGLE)])

    def tokenizer() -> str:
        if not (folder / TOKENIZER).is_dir() or not any((folder / TOKENIZER).iterdir()):
            raise ValueError(f"{folder / TOKENIZER} is missing or empty")
        return ", ".join(sorted(path.name for path in (folder / TOKENIZER).iterdir()))

    parts = [
        _finding("transformer", transformer),
        _finding("vae", lambda: _whole(_present(folder, VAE_FILE))),
        _finding("text_encoder", lambda: _whole(_present(folder, *TEXT_FILES))),
        _finding("tokenizer", tokenizer),
    ]
    return [_to_convert("the original Wan2.1 release's", folder, parts), *parts]


def _to_convert(layout: str, folder: Path, parts: list[Finding]) -> Finding:
    if any(part.verdict == "bad" for part in parts):
        return Finding("layout", layout, "note", "first get what is missing")
    return Finding("layout", layout, "note", f"to use it: longlive-rag models convert {folder} NEW_FOLDER")


def _finding(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, look())
    except ValueError as error:
        return Finding(what, str(error), "bad")


def _present(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder / names[0]} is missing")


def _whole(path: Path) -> str:
    """A file's name and size; ValueError if its end is missing. Pickled tensors are seen when they are converted."""
    if path.suffix == ".safetensors":
        read_header(path)
    elif not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is cut off, or in the form from before torch 1.6")
    return f"{path.name}, {in_words(path.stat().st_size)}"


def _weights(files: list[Path]) -> str:
    entries = read_headers(files)
    dtypes = sorted({entry.dtype for entry in entries.values()})
    size = in_words(sum(entry.size_bytes for entry in entries.values()))
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    return f"{count}, {len(entries)} tensors, {' and '.join(dtypes)}, {size}"


def _has_original_config(folder: Path) -> bool:
    try:
        return is_original_folder(folder)
    except ValueError:
        return False
