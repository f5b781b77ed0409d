"""The layout of the original Wan2.1 release: one folder of files with its own names; see `backbone.original`."""

from __future__ import annotations

from pathlib import Path

from backbone.files import CONFIG, INDEX, SINGLE, read_json, shards, weight_files
from backbone.original import (
    RESIDUAL_VAE_FILE,
    TEXT_FILES,
    TOKENIZER,
    VAE_FILE,
    is_original_folder,
    open_text_encoder,
    open_transformer,
    open_vae,
    refuse_residual_vae,
    text_file,
    transformer_config,
)
from longlive_rag.weights.findings import Finding, finding, present, weights_in_words, whole
from longlive_rag.weights.layouts import Layout, to_convert
from longlive_rag.weights.parts import Parts, vocabulary


def _matches(folder: Path) -> bool:
    """Whether the folder has any of the release's files, so that missing ones can be named."""
    known = (VAE_FILE, RESIDUAL_VAE_FILE, *TEXT_FILES, TOKENIZER)
    return any((folder / name).exists() for name in known) or _has_original_config(folder)


def _open(folder: Path) -> Parts:
    refuse_residual_vae(folder)
    if not is_original_folder(folder):
        raise ValueError(f"{folder} has no {CONFIG} of the original release; is the download complete?")
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
            "tokenizer": vocabulary(folder / TOKENIZER),
        },
    )


def _look(folder: Path) -> tuple[list[Finding], bool]:
    """Look at the files' headers only."""

    def transformer() -> str:
        transformer_config(read_json(folder / CONFIG), str(folder / CONFIG))
        index = next((folder / name for name in INDEX if (folder / name).is_file()), None)
        return weights_in_words(shards(index) if index else [present(folder, *SINGLE)])

    def vae() -> str:
        refuse_residual_vae(folder)
        return whole(present(folder, VAE_FILE))

    def tokenizer() -> str:
        if not (folder / TOKENIZER).is_dir() or not any((folder / TOKENIZER).iterdir()):
            raise ValueError(f"{folder / TOKENIZER} is missing or empty")
        return ", ".join(sorted(path.name for path in (folder / TOKENIZER).iterdir()))

    parts = [
        finding("transformer", transformer),
        finding("vae", vae),
        finding("text_encoder", lambda: whole(present(folder, *TEXT_FILES))),
        finding("tokenizer", tokenizer),
    ]
    return [to_convert("the original Wan2.1 release's", folder, parts), *parts], False


def _has_original_config(folder: Path) -> bool:
    try:
        return is_original_folder(folder)
    except ValueError:
        return False


ORIGINAL = Layout("original", _matches, _look, _open)
