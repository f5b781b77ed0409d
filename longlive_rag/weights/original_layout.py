"""The layout of the original Wan releases: one folder of files with their own names; see `backbone.original`."""

from __future__ import annotations

from pathlib import Path

from backbone.files import CONFIG, INDEX, SINGLE, read_json, shards, weight_files
from backbone.original import (
    TEXT_FILES,
    TOKENIZER,
    VAE_FILES,
    has_transformer,
    is_original_folder,
    open_text_encoder,
    open_transformer,
    open_vae,
    text_file,
    transformer_config,
    vae_file,
)
from longlive_rag.weights.findings import Finding, finding, present, weights_in_words, whole
from longlive_rag.weights.layouts import Layout, to_convert
from longlive_rag.weights.parts import Parts, vocabulary


def _matches(folder: Path) -> bool:
    """Whether the folder has any of the release's files, so that missing ones can be named."""
    known = (*VAE_FILES, *TEXT_FILES, TOKENIZER)
    return any((folder / name).exists() for name in known) or _has_original_config(folder)


def _open(folder: Path) -> Parts:
    if not is_original_folder(folder):
        raise ValueError(f"{folder} has no {CONFIG} of the original release; is the download complete?")
    if not (folder / TOKENIZER).is_dir():
        raise ValueError(f"{folder} has no {TOKENIZER}/; is the download complete?")
    vae, text = vae_file(folder), text_file(folder)
    return Parts(
        open_transformer(folder),
        open_vae(vae),
        open_text_encoder(text),
        folder / TOKENIZER,
        None,
        {},
        {
            "transformer": weight_files(folder) if has_transformer(folder) else [],
            "vae": [vae],
            "text_encoder": [text],
            "tokenizer": vocabulary(folder / TOKENIZER),
        },
    )


def _look(folder: Path) -> tuple[list[Finding], bool]:
    """Look at the files' headers only."""

    def transformer() -> str:
        transformer_config(read_json(folder / CONFIG), str(folder / CONFIG))
        if not has_transformer(folder):
            return "its config only, no weights"
        index = next((folder / name for name in INDEX if (folder / name).is_file()), None)
        return weights_in_words(shards(index) if index else [present(folder, *SINGLE)])

    def tokenizer() -> str:
        if not (folder / TOKENIZER).is_dir() or not any((folder / TOKENIZER).iterdir()):
            raise ValueError(f"{folder / TOKENIZER} is missing or empty")
        return ", ".join(sorted(path.name for path in (folder / TOKENIZER).iterdir()))

    parts = [
        finding("transformer", transformer),
        finding("vae", lambda: whole(vae_file(folder))),
        finding("text_encoder", lambda: whole(present(folder, *TEXT_FILES))),
        finding("tokenizer", tokenizer),
    ]
    return [to_convert("the original Wan release's", folder, parts, not has_transformer(folder)), *parts], False


def _has_original_config(folder: Path) -> bool:
    try:
        return is_original_folder(folder)
    except ValueError:
        return False


ORIGINAL = Layout("original", _matches, _look, _open)
