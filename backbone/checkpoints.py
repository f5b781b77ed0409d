"""Weights under their several names, read strictly.

Our parameters have diffusers' names. The original Wan2.1 release calls the same tensors otherwise; `ORIGINAL_NAMES`
is the whole dictionary between the two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

# Original Wan name -> ours, as regular expressions over whole parameter names, first match wins.
ORIGINAL_NAMES: tuple[tuple[str, str], ...] = (
    (r"text_embedding\.0\.(\w+)", r"condition_embedder.text_embedder.linear_1.\1"),
    (r"text_embedding\.2\.(\w+)", r"condition_embedder.text_embedder.linear_2.\1"),
    (r"time_embedding\.0\.(\w+)", r"condition_embedder.time_embedder.linear_1.\1"),
    (r"time_embedding\.2\.(\w+)", r"condition_embedder.time_embedder.linear_2.\1"),
    (r"time_projection\.1\.(\w+)", r"condition_embedder.time_proj.\1"),
    (r"head\.head\.(\w+)", r"proj_out.\1"),
    (r"head\.modulation", r"scale_shift_table"),
    (r"blocks\.(\d+)\.modulation", r"blocks.\1.scale_shift_table"),
    (r"blocks\.(\d+)\.norm3\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"blocks\.(\d+)\.ffn\.0\.(\w+)", r"blocks.\1.ffn.net.0.proj.\2"),
    (r"blocks\.(\d+)\.ffn\.2\.(\w+)", r"blocks.\1.ffn.net.2.\2"),
    (r"blocks\.(\d+)\.self_attn\.norm_([qk])\.weight", r"blocks.\1.attn1.norm_\2.weight"),
    (r"blocks\.(\d+)\.cross_attn\.norm_([qk])\.weight", r"blocks.\1.attn2.norm_\2.weight"),
    (r"blocks\.(\d+)\.self_attn\.([qkv])\.(\w+)", r"blocks.\1.attn1.to_\2.\3"),
    (r"blocks\.(\d+)\.cross_attn\.([qkv])\.(\w+)", r"blocks.\1.attn2.to_\2.\3"),
    (r"blocks\.(\d+)\.self_attn\.o\.(\w+)", r"blocks.\1.attn1.to_out.0.\2"),
    (r"blocks\.(\d+)\.cross_attn\.o\.(\w+)", r"blocks.\1.attn2.to_out.0.\2"),
)

SHOWN_MISMATCHES = 5


def our_name(name: str) -> str:
    """The parameter that the original Wan release calls `name`; names that are ours already pass through."""
    for original, ours in ORIGINAL_NAMES:
        if re.fullmatch(original, name):
            return re.sub(original, ours, name)
    return name


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Put `weights` (original or our names) into `model`, every tensor accounted for.

    The tensors become the model's own, without a copy; a model on the meta device is fine.

    Raises:
        ValueError: naming the first tensors that are missing, unknown or of another shape, with the shapes.
    """
    renamed = {our_name(name): tensor for name, tensor in weights.items()}
    refuse_mismatches(model, {name: tuple(tensor.shape) for name, tensor in renamed.items()}, source)
    model.load_state_dict(renamed, strict=True, assign=True)


def refuse_mismatches(model: nn.Module, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise ValueError naming the first tensors of `source` that keep it from filling `model`, with their shapes."""
    problems = mismatches(model, shapes)
    if problems:
        shown = "; ".join(problems[:SHOWN_MISMATCHES])
        more = f"; and {len(problems) - SHOWN_MISMATCHES} more" if len(problems) > SHOWN_MISMATCHES else ""
        raise ValueError(f"{source} does not fit its config: {shown}{more}")


def mismatches(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What keeps tensors of these names and shapes from filling `model`, a sentence each; empty if they fit."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = [f"{name} {list(shape)} is missing" for name, shape in wanted.items() if name not in shapes]
    unknown = [f"{name} {list(shape)} belongs to nothing" for name, shape in shapes.items() if name not in wanted]
    misshapen = [
        f"{name} is {list(shapes[name])}, the config wants {list(shape)}"
        for name, shape in wanted.items()
        if name in shapes and shapes[name] != shape
    ]
    return misshapen + missing + unknown


def check_folder(folder: Path, components: Mapping[str, type[ModelMixin]]) -> None:
    """Compare the safetensors files of a pipeline folder with their configs, by their headers alone.

    Args:
        folder: the pipeline folder.
        components: class of each subfolder that is to be checked; one that doesn't exist is left out.

    Raises:
        ValueError: if a subfolder has no config or weights, or they don't fit; names the first tensors and shapes.
    """
    for name, component in components.items():
        subfolder = folder / name
        if not subfolder.is_dir():
            continue
        if not (subfolder / "config.json").is_file():
            raise ValueError(f"{subfolder} has no config.json; is the backbone complete?")
        files = sorted(subfolder.glob("*.safetensors"))
        if not files:
            raise ValueError(f"{subfolder} has no .safetensors file; is the backbone complete?")
        with torch.device("meta"):
            model = component.from_config(component.load_config(subfolder))
        refuse_mismatches(model, _shapes_in(files), str(subfolder))


def _shapes_in(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                shapes.update({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    return shapes
