"""Strict reading of weights: every tensor is accounted for, no code is run, and there is no second copy in memory.

`read_weights` opens a file or a set of shards; `load_weights` loads the result into a model. Names are translated by
`backbone.names`.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from backbone.errors import FieldError, Name, refused_as
from backbone.files import (
    CONFIG,
    FLOAT_DTYPES,
    check_tokenizer,
    plain_size,
    read_config,
    read_header,
    read_headers,
    shard_of_tensor,
    shards,
    weight_files,
)
from backbone.names import our_name, unwrapped

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
# Entries of training checkpoints that hold the network, as opposed to critics or optimisers.
SECTIONS = ("generator", "generator_ema", "model", "generator_lora")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
SHOWN_MISMATCHES = 5
PATCH_EMBEDDING = "patch_embedding.weight"


@dataclass(frozen=True)
class Weights:
    """The tensors of one network, under the file's names.

    Attributes:
        source: how to refer to it in messages: the file, and the section in it.
        tensors: tensors by name, memory-mapped if the file format allows it.
        left_out: other entries of the same file, which were not read.
    """

    source: str
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...] = ()


def read_weights(path: Path, section: str | None = None) -> Weights:
    """Read the weights of one network from a safetensors file, a pickled file or an index of shards.

    Args:
        path: the file. Pickled files are read as weights only and refused if they hold anything else.
        section: entry of a training checkpoint, one of `SECTIONS`; optional if there is only one.

    Raises:
        ValueError: if the file is damaged, holds code or anything but floating-point tensors, or if the section is
            missing or ambiguous.
    """
    if path.suffix == ".json" or path.suffix == ".safetensors":
        if section is not None:
            raise ValueError(f"{path} has no sections; drop {section!r}")
        tensors = _read_safetensors(shards(path) if path.suffix == ".json" else [path])
        if path.suffix == ".json":
            _refuse_unlisted(path, tensors)
        return Weights(str(path), tensors)
    content = read_pickled(path)
    name = _pick_section(path, content, section)
    if name is None:
        return Weights(str(path), _only_tensors(str(path), content))
    if not isinstance(content[name], Mapping):
        raise ValueError(f"{path}: {name!r} is a {type(content[name]).__name__}, not a set of tensors")
    source = f"{path} ({name})"
    return Weights(source, _only_tensors(source, content[name]), tuple(str(key) for key in content if key != name))


def read_pickled(path: Path) -> dict[str, Any]:
    """Read a `.pt`, `.pth` or `.bin` file as weights only: nothing in it is executed.

    Raises:
        ValueError: if it is damaged, or holds code or objects other than tensors and plain values; names the first.
    """
    if path.suffix not in PICKLED:
        raise ValueError(
            f"{path} is not a weight file: it must end in .safetensors, {', '.join(PICKLED)} or .index.json"
        )
    try:
        plain_size(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    zipped = zipfile.is_zipfile(path)
    with path.open("rb") as file:
        if not zipped and file.read(2) in (b"PK", b""):
            raise ValueError(f"{path} is damaged: it is truncated after {path.stat().st_size} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, weights_only=True, mmap=zipped, map_location="cpu")
    except UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"{found[1]}, which is not a weight" if found else "something that is not a weight"
        raise ValueError(f"{path} holds {what}; it was not opened, and nothing in it was executed") from error
    except (RuntimeError, OSError, EOFError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or not a weight file: {type(error).__name__} while reading it") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a set of tensors")
    return dict(content)


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise ValueError if a tensor has values that are not finite."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{source}: {name} holds values that are not finite numbers")


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], source: str, rename: Callable[[str], str] = our_name
) -> None:
    """Load `weights` into `model`, with every tensor accounted for.

    The model takes over the tensors without a copy; it may be on the meta device.

    Args:
        model: any module; parameters that its library ties to others may be missing in the file.
        weights: tensors by the file's names; prefixes that training wrappers added are ignored.
        source: how to refer to the weights in messages.
        rename: maps the file's names to the model's.

    Raises:
        ValueError: if tensors are missing, unknown or have another shape; names the first ones, with their shapes.
    """
    names = _names_in_model(weights, source, rename)
    renamed = {names[name]: tensor for name, tensor in weights.items()}
    theirs = {ours: name for name, ours in names.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in renamed.items()}
    refuse_mismatches(model, shapes, source, theirs)
    for tied, origin in tied_names(model).items():
        if tied in renamed and not torch.equal(renamed[tied], renamed[origin]):
            raise ValueError(f"{source}: {tied} and {origin} must be the same, but differ")
        renamed[tied] = renamed[origin]
    model.load_state_dict(renamed, strict=True, assign=True)


def _names_in_model(weights: Mapping[str, Tensor], source: str, rename: Callable[[str], str]) -> dict[str, str]:
    try:
        names = {name: rename(bare) for name, bare in unwrapped(weights).items()}
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if len(set(names.values())) < len(names):
        ours = list(names.values())
        twice = [name for name in names if ours.count(names[name]) > 1]
        raise ValueError(f"{source} names one tensor twice: {' and '.join(twice[:2])}")
    return names


def tied_names(model: nn.Module) -> dict[str, str]:
    """Maps parameters that the library ties to another one to that one; files hold only the latter."""
    tied = getattr(model, "_tied_weights_keys", None)
    return dict(tied) if isinstance(tied, Mapping) else {}


def refuse_mismatches(
    model: nn.Module,
    shapes: Mapping[str, tuple[int, ...]],
    source: str,
    theirs: Mapping[str, str] | None = None,
) -> None:
    """Raise ValueError if the tensors of `source` don't fit `model`, naming the first that don't, with their shapes.

    Args:
        model: has the expected names and shapes; it may be on the meta device.
        shapes: shapes of the tensors found, by the model's names.
        source: how to refer to the weights in messages.
        theirs: maps the model's names to the file's, if they differ.
    """
    _refuse_other_transformer(model, shapes, source)
    problems = mismatches(model, shapes, theirs or {})
    if problems:
        shown = "; ".join(problems[:SHOWN_MISMATCHES])
        more = f"; and {len(problems) - SHOWN_MISMATCHES} more" if len(problems) > SHOWN_MISMATCHES else ""
        raise ValueError(f"{source} does not fit its config: {shown}{more}")


def _refuse_other_transformer(model: nn.Module, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Refuse a transformer with another width or latents by one tensor, instead of listing every tensor."""
    found, wanted = shapes.get(PATCH_EMBEDDING, ()), model.state_dict().get(PATCH_EMBEDDING)
    if wanted is None or len(found) != wanted.ndim or found[:2] == wanted.shape[:2]:
        return
    width, channels = found[:2]
    raise ValueError(
        f"{source} does not fit its config: it is a transformer of width {width} on latents of {channels} channels, "
        f"the config's has width {wanted.shape[0]} on {wanted.shape[1]}; use config and weights of the same release"
    )


def mismatches(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]], theirs: Mapping[str, str] | None = None
) -> list[str]:
    """Say why tensors with these names and shapes don't fit `model`, one sentence each; empty if they fit."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = tied_names(model)
    found = theirs or {}

    def called(name: str) -> str:
        other = found.get(name, name)
        return name if other == name else f"{name} ({other} in the file)"

    missing = [
        f"{name} {list(shape)} is missing" for name, shape in wanted.items() if name not in shapes and name not in tied
    ]
    unknown = [
        f"{found.get(name, name)} {list(shape)} is unexpected" for name, shape in shapes.items() if name not in wanted
    ]
    misshapen = [
        f"{called(name)} is {list(shapes[name])}, the config expects {list(shape)}"
        for name, shape in wanted.items()
        if name in shapes and shapes[name] != shape
    ]
    return misshapen + missing + unknown


def check_folder(folder: Path, components: Mapping[str, type[ModelMixin] | type[PreTrainedModel]]) -> None:
    """Compare the weights of a pipeline folder with their configs, reading only headers.

    Args:
        folder: the pipeline folder.
        components: class of each part to check; parts that don't exist are skipped.

    Raises:
        ValueError: if a part has no config or weights, or they don't fit; names the first tensors and shapes.
    """
    for name, component in components.items():
        if (folder / name).is_dir():
            check_part(folder / name, component)
    check_tokenizer(folder / "tokenizer")


def check_part(part: Path, component: type[ModelMixin] | type[PreTrainedModel]) -> None:
    """Compare the weights of one part of a pipeline folder with its config, reading only headers.

    Raises:
        ValueError: if config or weights are missing, damaged, not floating-point, or don't fit.
    """
    entries = read_headers(weight_files(part))
    _refuse_dtypes({name: entry.dtype for name, entry in entries.items() if entry.dtype not in FLOAT_DTYPES}, str(part))
    read_config(part / CONFIG)
    with refused_as(str(part / CONFIG)), torch.device("meta"):
        if issubclass(component, ModelMixin):
            model = component.from_config(component.load_config(part))
        else:
            model = component(component.config_class.from_pretrained(part, local_files_only=True))
    refuse_mismatches(model, {name: entry.shape for name, entry in entries.items()}, str(part))


def _read_safetensors(files: list[Path]) -> dict[str, Tensor]:
    read_headers(files)
    tensors: dict[str, Tensor] = {}
    for path in files:
        with refused_as(str(path)), safe_open(path, framework="pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    _refuse_tensors(tensors, str(files[0]))
    return tensors


def _refuse_unlisted(index: Path, tensors: Mapping[str, Tensor]) -> None:
    listed = shard_of_tensor(index)
    headers = {name: read_header(index.parent / name) for name in set(listed.values())}
    for tensor, name in listed.items():
        if tensor not in headers[name]:
            raise ValueError(f"{index} says that {tensor} is in {name}, but it is not")
    for tensor in tensors:
        if tensor not in listed:
            raise ValueError(f"{index} does not list {tensor}, which is in one of its files")


def _pick_section(path: Path, content: Mapping[str, Any], section: str | None) -> str | None:
    here = [name for name in SECTIONS if isinstance(content.get(name), Mapping)]
    if section is not None:
        if section not in here:
            there = f"it has {', '.join(here)}" if here else "it has none"
            raise ValueError(f"{path} has no section {section!r}; {there}")
        return section
    if len(here) > 1:
        claim = f"{path} has the sections {' and '.join(here)}"
        raise FieldError("section", None, ("choose one: ", Name("section"), f" {here[0]}"), claim=claim)
    return here[0] if here else None


def _only_tensors(source: str, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{source}: {name!r} is a {type(value).__name__}, not a tensor")
    if not content:
        raise ValueError(f"{source} holds no tensors")
    tensors = dict(content)
    _refuse_tensors(tensors, source)
    return tensors


def _refuse_tensors(tensors: Mapping[str, Tensor], source: str) -> None:
    _refuse_dtypes(
        {name: str(t.dtype).removeprefix("torch.") for name, t in tensors.items() if t.dtype not in FLOATS}, source
    )
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(f"{source}: {name} is not a plain tensor with data")


def _refuse_dtypes(wrong: Mapping[str, str], source: str) -> None:
    for name, dtype in wrong.items():
        raise ValueError(f"{source}: {name} is {dtype}; weights must be float32, bfloat16 or float16")
