"""Folders with a `model_index.json`: pipeline folders, and diffusers' own, whose transformer is not causal."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from transformers import UMT5Config, UMT5EncoderModel

from backbone.checkpoints import check_part
from backbone.errors import refused_as
from backbone.files import CONFIG, read_config, read_json, weight_files
from backbone.tiny_decoder import TinyDecoder
from backbone.transformer import CausalWanTransformer
from longlive_rag.pipeline import COMPONENTS
from longlive_rag.presets.preset import NEEDED, TINY_DECODER, load_preset, names_our_transformer
from longlive_rag.rights.records import MODEL_INDEX
from longlive_rag.weights.findings import Finding, finding, weights_in_words
from longlive_rag.weights.layouts import SETTINGS, Layout, to_convert
from longlive_rag.weights.parts import Parts, fill, open_component, part_weights, same_name, vocabulary
from retrieval.encoder import LatentAutoencoder


def _open(folder: Path) -> Parts:
    index = read_json(folder / MODEL_INDEX)
    for part in ("transformer", "vae", "text_encoder", "tokenizer"):
        if not (folder / part).is_dir():
            raise ValueError(f"{folder} has no {part}/; is the download complete?")
    names = ["transformer", "vae", "text_encoder"]
    names += [name for name in ("encoder", TINY_DECODER) if (folder / name).is_dir()]
    origins = {name: weight_files(folder / name) for name in names}
    read_config(folder / "text_encoder" / CONFIG)
    with refused_as(str(folder / "text_encoder" / CONFIG)), torch.device("meta"):
        text_encoder = UMT5EncoderModel(UMT5Config.from_pretrained(folder / "text_encoder", local_files_only=True))
    return Parts(
        open_component(CausalWanTransformer, folder / "transformer"),
        open_component(AutoencoderKLWan, folder / "vae"),
        fill(text_encoder, part_weights(folder / "text_encoder"), same_name),
        folder / "tokenizer",
        open_component(LatentAutoencoder, folder / "encoder") if "encoder" in names else None,
        {part: dict(index[part]) for part in SETTINGS if isinstance(index.get(part), dict)},
        {**origins, "tokenizer": vocabulary(folder / "tokenizer")},
        open_component(TinyDecoder, folder / TINY_DECODER) if TINY_DECODER in names else None,
    )


def _look(folder: Path) -> tuple[list[Finding], bool]:
    try:
        ours = names_our_transformer(read_json(folder / MODEL_INDEX))
    except ValueError as error:
        return [Finding("layout", str(error), "bad")], False
    parts = [finding(part, partial(_part, folder, part)) for part in NEEDED]
    if (folder / "encoder").is_dir():
        parts.append(finding("encoder", partial(_part, folder, "encoder")))
    elif ours:
        parts.append(Finding("encoder", "none; past frames are compared by their pooled latents"))
    if (folder / TINY_DECODER).is_dir():
        parts.append(finding("tiny decoder", partial(_part, folder, TINY_DECODER)))
    if not ours:
        return [to_convert("diffusers'", folder, parts), *parts], False
    layout = Finding("layout", "a pipeline folder")
    if any(part.verdict == "bad" for part in parts):
        return [layout, *parts], False
    try:
        load_preset(str(folder))
    except ValueError as error:
        return [Finding("layout", str(error), "bad"), *parts], False
    return [layout, *parts], True


def _part(folder: Path, part: str) -> str:
    """Describe one part of a pipeline folder; ValueError if it would not load."""
    if not (folder / part).is_dir():
        raise ValueError(f"{folder / part} is missing")
    if part not in COMPONENTS:
        names = sorted(path.name for path in (folder / part).iterdir())
        if not names:
            raise ValueError(f"{folder / part} is empty")
        return ", ".join(names)
    check_part(folder / part, COMPONENTS[part])
    return weights_in_words(weight_files(folder / part)) + "; they fit their config"


DIFFUSERS = Layout("diffusers", lambda folder: (folder / MODEL_INDEX).is_file(), _look, _open)
