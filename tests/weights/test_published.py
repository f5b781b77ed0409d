"""Names and shapes of the tensors in the published files, at their true sizes; no weights are needed.

They are held against a hash that was taken of each file: `model_hash` in configs/model_configs.py of diffsynth 2.1.12
(PyPI, Apache-2.0, seen on 2026-11-27), the MD5 of "name:shape" and "name" of all its tensors, sorted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from layouts import original_text_encoder, original_transformer, original_vae
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from backbone.names import vae_name
from backbone.original import text_config, vae_config
from backbone.transformer import CausalWanTransformer
from longlive_rag.presets.catalogue import CATALOGUE

TRANSFORMERS = {"wan2.1-1.3b": "9269f8db9040a9d860eaca435be61814", "wan2.2-5b": "1f5ab7703c6fc803fdded85ff040c316"}
VAES = {"wan2.1-1.3b": "ccc42284ea13e1ad04693284c7a09be6", "wan2.2-5b": "e1de6c02cdac79f8b739f4d3698cd216"}
TEXT_ENCODER = "9c8818c2cbea55eca56c7b447df170da"

Shapes = dict[str, tuple[int, ...]]


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def hash_of(shapes: Shapes) -> str:
    words = [word for name, shape in shapes.items() for word in (f"{name}:{'_'.join(map(str, shape))}", name)]
    return hashlib.md5(",".join(sorted(words)).encode(), usedforsecurity=False).hexdigest()


def config_of(release: str, part: str) -> dict[str, Any]:
    config = json.loads((Path(CATALOGUE) / release / part / "config.json").read_text())
    return {name: value for name, value in config.items() if not name.startswith("_")}


@pytest.mark.parametrize("release", VAES)
def test_the_transformer_of_our_config_is_the_published_one(release):
    with torch.device("meta"):
        model = CausalWanTransformer(**config_of(release, "transformer"))
    assert hash_of(shapes_of(original_transformer(model))) == TRANSFORMERS[release]


@pytest.mark.parametrize("release", VAES)
def test_the_vae_of_our_config_is_the_published_one_and_is_read_off_its_shapes(release):
    config = config_of(release, "vae")
    with torch.device("meta"):
        model = AutoencoderKLWan(**config)
    published = shapes_of(original_vae(model))
    assert hash_of(published) == VAES[release]
    read = vae_config(published, "the file")
    assert {name: model.config[name] for name in read} == read
    assert {vae_name(name, read["num_res_blocks"]): shape for name, shape in published.items()} == shapes_of(
        model.state_dict()
    )


@pytest.mark.parametrize("release", VAES)
def test_the_text_encoder_of_our_config_is_the_published_one_and_is_read_off_its_shapes(release):
    config = UMT5Config(**config_of(release, "text_encoder"))
    with torch.device("meta"):
        model = UMT5EncoderModel(config)
    published = shapes_of(original_text_encoder(model))
    assert hash_of(published) == TEXT_ENCODER
    read = text_config(published, "the file")
    assert {name: getattr(config, name) for name in read} == read
