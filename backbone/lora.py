"""LoRA files in peft's naming: merged exactly into the weights, or passed to diffusers' loader to stay switchable.

A low-rank pair stands for W + (alpha / rank) B A. The rank follows from the file; alpha is not in it and must be given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backbone.checkpoints import SHOWN_MISMATCHES, check_finite, read_pickled, read_weights
from backbone.errors import FieldError, Name
from backbone.files import read_json
from backbone.names import our_name, unwrapped

PEFT_CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
MAX_ALPHA = 10**6


@dataclass(frozen=True)
class Lora:
    """Low-rank updates of linear layers.

    Attributes:
        source: how to refer to it in messages.
        pairs: maps our name of a layer (without `.weight`) to (A [rank, inputs], B [outputs, rank]).
        rank: rank of all pairs.
        alpha: the update is alpha / rank times B A.
    """

    source: str
    pairs: dict[str, tuple[Tensor, Tensor]]
    rank: int
    alpha: float

    def for_diffusers(self) -> dict[str, Tensor]:
        """The tensors for a pipeline's `load_lora_weights`, which is not given alpha: B includes alpha / rank."""
        state: dict[str, Tensor] = {}
        scale = self.alpha / self.rank
        for layer, (a, b) in self.pairs.items():
            state[f"transformer.{layer}.lora_A.weight"] = a
            state[f"transformer.{layer}.lora_B.weight"] = b if scale == 1 else b * scale
        return state


def read_lora(path: Path, alpha: float | None = None) -> Lora:
    """Read a LoRA file in peft naming over original Wan names or ours, plain or in the section `generator_lora`.

    Args:
        path: a safetensors or pickled file.
        alpha: default is the value in `adapter_config.json` next to the file.

    Raises:
        ValueError: if alpha is unknown, a tensor is not half of a pair, or ranks differ.
    """
    if path.suffix == ".safetensors":
        weights = read_weights(path)
    else:
        section = "generator_lora" if "generator_lora" in read_pickled(path) else None
        weights = read_weights(path, section)
    check_finite(weights.tensors, weights.source)
    pairs = _pairs(weights.tensors, weights.source)
    rank = _one_rank(pairs, weights.source)
    alpha = _alpha(path, rank) if alpha is None else alpha
    if not abs(alpha) <= MAX_ALPHA:
        raise FieldError("lora_alpha", alpha, f"it must be a number of at most {MAX_ALPHA}")
    return Lora(weights.source, pairs, rank, alpha)


def adapter_file(place: Path, subfolder: str | None = None, name: str | None = None) -> Path:
    """Find the safetensors file of a LoRA: `place` itself, or a file in it.

    Raises:
        ValueError: if there is none, or more than one and no name.
    """
    if place.is_file():
        path = place
    elif name is not None:
        path = place / (subfolder or "") / name
    else:
        found = sorted((place / (subfolder or "")).glob("*.safetensors"))
        if len(found) != 1:
            raise ValueError(f"{place} holds {len(found)} .safetensors files; name the LoRA's file")
        path = found[0]
    if not path.is_file():
        raise ValueError(f"{path} does not exist; only local files are loaded")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is not a .safetensors file, the only format that is opened")
    return path


def merge(weights: dict[str, Tensor], lora: Lora) -> None:
    """Merge `lora` into `weights` (our names), replacing the tensors it updates; computed in float32, rounded once.

    Raises:
        ValueError: if layers are missing or have another shape (names the first; `weights` is untouched then), or if
            merged values are not finite.
    """
    problems = []
    for layer, (a, b) in lora.pairs.items():
        base, update = weights.get(f"{layer}.weight"), [b.shape[0], a.shape[1]]
        if base is None:
            problems.append(f"{layer} is not in the backbone")
        elif list(base.shape) != update:
            problems.append(f"{layer} is an update of {update}, but the weight is {list(base.shape)}")
    if problems:
        raise ValueError(f"{lora.source} does not fit the backbone: {'; '.join(problems[:SHOWN_MISMATCHES])}")
    scale = lora.alpha / lora.rank
    for layer, (a, b) in lora.pairs.items():
        base = weights[f"{layer}.weight"]
        merged = torch.addmm(base.float(), b.float(), a.float(), alpha=scale).to(base.dtype)
        if not merged.is_meta:
            check_finite({layer: merged}, f"the backbone with {lora.source}")
        weights[f"{layer}.weight"] = merged


def _pairs(tensors: Mapping[str, Tensor], source: str) -> dict[str, tuple[Tensor, Tensor]]:
    halves: dict[str, dict[str, Tensor]] = {}
    for name, bare in unwrapped(tensors).items():
        found = re.fullmatch(r"(.+)\.lora_([AB])(?:\.default)?\.weight", bare)
        if not found:
            raise ValueError(f"{source}: {name} is not half of a LoRA pair (lora_A.weight, lora_B.weight)")
        layer = found[1].removeprefix(PREFIX).removeprefix("model.").removeprefix("transformer.")
        layer = our_name(f"{layer}.weight").removesuffix(".weight")
        if found[2] in halves.setdefault(layer, {}):
            raise ValueError(f"{source} has lora_{found[2]} of {layer} twice")
        if tensors[name].ndim != 2:
            raise ValueError(f"{source}: {name} is {list(tensors[name].shape)}; only linear layers are updated")
        halves[layer][found[2]] = tensors[name]
    for layer, half in halves.items():
        if set(half) != {"A", "B"}:
            raise ValueError(f"{source} has lora_{next(iter(half))} of {layer}, but not the other half")
    return {layer: (half["A"], half["B"]) for layer, half in halves.items()}


def _one_rank(pairs: Mapping[str, tuple[Tensor, Tensor]], source: str) -> int:
    ranks: dict[int, str] = {}
    for layer, (a, b) in pairs.items():
        if a.shape[0] != b.shape[1]:
            raise ValueError(f"{source}: lora_A of {layer} has rank {a.shape[0]}, its lora_B {b.shape[1]}")
        ranks.setdefault(a.shape[0], layer)
    if 0 in ranks:
        raise ValueError(f"{source}: the update of {ranks[0]} has rank 0")
    if len(ranks) != 1:
        shown = ", ".join(f"{rank} ({layer})" for rank, layer in ranks.items())
        raise ValueError(f"{source} has several ranks: {shown}; only one rank and one alpha are supported")
    return next(iter(ranks))


def _alpha(path: Path, rank: int) -> float:
    config = path.with_name(PEFT_CONFIG)
    wanted = ("give ", Name("lora_alpha"), " as used in its training")
    if not config.is_file():
        raise FieldError("lora_alpha", None, wanted, claim=f"{path} does not state its alpha (its rank is {rank})")
    alpha = read_json(config).get("lora_alpha")
    if not isinstance(alpha, int | float):
        raise FieldError("lora_alpha", None, wanted, claim=f"{config} has no lora_alpha")
    return float(alpha)
