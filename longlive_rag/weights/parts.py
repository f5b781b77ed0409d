"""The parts of a pipeline, filled with weights strictly and without a second copy in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from transformers import UMT5EncoderModel

from backbone.checkpoints import Weights, load_weights, read_weights
from backbone.errors import refused_as
from backbone.files import CONFIG, INDEX, read_config, weight_files
from backbone.names import our_name
from backbone.tiny_decoder import TinyDecoder
from backbone.transformer import CausalWanTransformer
from retrieval.encoder import LatentAutoencoder


@dataclass
class Parts:
    """The parts of a pipeline; `origins` lists the files that each was made from.

    Without weights of a transformer in the folder, it is on the meta device, to be filled from a checkpoint.
    """

    transformer: CausalWanTransformer
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel
    tokenizer: Path
    encoder: LatentAutoencoder | None
    settings: dict[str, dict[str, Any]]
    origins: dict[str, list[Path]]
    tiny_decoder: TinyDecoder | None = None


def open_component(kind: type[ModelMixin], part: Path) -> Any:
    read_config(part / CONFIG)
    config = kind.load_config(part)
    if kind is CausalWanTransformer and config.get("_class_name") == "WanTransformer3DModel":
        config = {name: value for name, value in config.items() if not name.startswith("_")}
    return filled(kind, config, part_weights(part), our_name if kind is CausalWanTransformer else same_name)


def part_weights(part: Path) -> Weights:
    index = next((part / name for name in INDEX if (part / name).is_file()), None)
    return read_weights(index or weight_files(part)[0])


def filled(kind: type[ModelMixin], config: Mapping[str, Any], weights: Weights, rename: Callable[[str], str]) -> Any:
    with refused_as(f"the config of {weights.source}"), torch.device("meta"):
        model = kind.from_config(config)
    return fill(model, weights, rename)


def fill(model: nn.Module, weights: Weights, rename: Callable[[str], str]) -> Any:
    load_weights(model, weights.tensors, weights.source, rename)
    return model.eval()


def same_name(name: str) -> str:
    return name


def vocabulary(folder: Path) -> list[Path]:
    return [folder / name for name in ("tokenizer.json", "spiece.model") if (folder / name).is_file()]
