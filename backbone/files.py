"""Weight files on disk: which files a part of a model has, and what their headers say.

This module does not need torch, so that a bad folder can be refused before anything slow is imported.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from stat import S_ISREG
from typing import Any

# Bytes per element, by the dtype's name in safetensors headers.
DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8,
}  # fmt: skip
FLOAT_DTYPES = ("F32", "BF16", "F16")
HEADER_LIMIT_BYTES = 100_000_000
MAX_DOCUMENT_BYTES = 64 * 2**20
MAX_DIGITS = 40
LIMIT = 2**20
MAX_LIST = 512
MAX_EXTRA_TOKENS = 10_000
LIMITS = {
    "num_layers": 512, "num_hidden_layers": 512, "num_decoder_layers": 512, "num_res_blocks": 64, "text_length": 8192,
    "base_dim": 4096,
}  # fmt: skip
"""Largest values allowed in a config: far above any model of this kind, far below what would exhaust a machine."""

CONFIG = "config.json"
SINGLE = ("diffusion_pytorch_model.safetensors", "model.safetensors")
INDEX = ("diffusion_pytorch_model.safetensors.index.json", "model.safetensors.index.json")


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as described in a file's header; `dtype` is the header's name, such as BF16."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def weight_files(part: Path) -> list[Path]:
    """List the safetensors files with the weights of one part of a pipeline folder, such as `folder/vae`.

    Raises:
        ValueError: if the part has no config, no weights, or lacks a shard named by its index.
    """
    if not (part / CONFIG).is_file():
        raise ValueError(f"{part} has no {CONFIG}; is the backbone complete?")
    for name in INDEX:
        if (part / name).is_file():
            return shards(part / name)
    for name in SINGLE:
        if (part / name).is_file():
            return [part / name]
    pickled = sorted(path.name for path in part.glob("*.bin"))
    if pickled:
        raise ValueError(
            f"{part} has {pickled[0]} but no .safetensors file, the only format that is opened. "
            "Make a new folder with: longlive-rag models convert FOLDER NEW_FOLDER"
        )
    raise ValueError(f"{part} has no weights (.safetensors); is the backbone complete?")


def shards(index: Path) -> list[Path]:
    """List the files named by an index (`*.index.json`), in order.

    Raises:
        ValueError: if the index can't be read or one of its files is missing.
    """
    names = sorted(set(shard_of_tensor(index).values()))
    for name in names:
        if not (index.parent / name).is_file():
            raise ValueError(f"{index.name} names {name}, which is not in {index.parent}; is the download complete?")
    return [index.parent / name for name in names]


def shard_of_tensor(index: Path) -> dict[str, str]:
    """Read the `weight_map` of an index, which maps tensors to file names.

    Raises:
        ValueError: if it has none, or a name points outside its folder or to a file of another kind.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} is not an index of shards: it has no weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{index} names the file {name!r}; a shard must be in the same folder as its index")
        if not name.endswith(".safetensors"):  # what is not called one has no licence record
            raise ValueError(f"{index} names the file {name!r}; a shard's name must end in .safetensors")
    return weight_map


def read_headers(files: list[Path]) -> dict[str, TensorEntry]:
    """Read the headers of several safetensors files as one set of tensors.

    Raises:
        ValueError: if a file is damaged, or two files hold the same tensor.
    """
    entries: dict[str, TensorEntry] = {}
    for path in files:
        for name, entry in read_header(path).items():
            if name in entries:
                raise ValueError(f"{path} holds {name}, which is also in another file of {path.parent}")
            entries[name] = entry
    return entries


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read the header of a safetensors file, without the tensors.

    Raises:
        ValueError: if it is not a safetensors file, or is not as long as its header says.
    """
    try:
        size = plain_size(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, HEADER_LIMIT_BYTES):
            raise ValueError(f"{path} is damaged or not a safetensors file: its header does not fit its {size} bytes")
        try:
            header = load_json(file.read(length))
            entries = {name: _entry(tensor) for name, tensor in header.items() if name != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is damaged or not a safetensors file: its header can't be read") from error
    spans = sorted(tuple(header[name]["data_offsets"]) for name in entries)
    if any(before[1] != after[0] for before, after in pairwise([(0, 0), *spans])):
        raise ValueError(f"{path} is damaged: its tensors overlap or leave gaps")
    end = 8 + length + max((stop for _, stop in spans), default=0)
    if end != size:
        raise ValueError(f"{path} is damaged: its header describes {end} bytes, but the file has {size}")
    return entries


def _entry(tensor: dict[str, Any]) -> TensorEntry:
    entry = TensorEntry(tuple(tensor["shape"]), tensor["dtype"])
    begin, end = tensor["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*entry.shape, begin, end)):
        raise ValueError("a tensor's numbers are not whole numbers from 0")
    if end - begin != entry.size_bytes:
        raise ValueError("a tensor's bytes do not fit its shape")
    return entry


def read_config(path: Path) -> dict[str, Any]:
    """Read the config of a part of a model and check it, before anything is built from it.

    Raises:
        ValueError: if it can't be read, asks for quantised loading, or has a size beyond any such model.
    """
    config = read_json(path)
    if config.get("quantization_config") is not None:
        raise ValueError(f"{path} has a quantization_config; only plain weights are loaded")
    for name, value in config.items():
        if isinstance(value, list) and len(value) > MAX_LIST:
            raise ValueError(f"{path}: {name} has {len(value)} values; it can have at most {MAX_LIST}")
        for size in value if isinstance(value, list) else [value]:
            if isinstance(size, int | float) and abs(size) > LIMITS.get(name, LIMIT):
                raise ValueError(f"{path}: {name} is {size:g}; it can be at most {LIMITS.get(name, LIMIT)}")
        if name.startswith("scale_factor_") and not (isinstance(value, int) and value > 0):
            raise ValueError(f"{path}: {name} is {value!r}; it must be a whole number above 0")
    return config


def check_tokenizer(folder: Path) -> None:
    """Check a tokenizer's config before a library creates all the tokens it asks for.

    Raises:
        ValueError: if the config can't be read or asks for too many tokens.
    """
    path = folder / "tokenizer_config.json"
    extra = read_json(path).get("extra_ids") if path.exists() else None
    if isinstance(extra, int | float) and extra > MAX_EXTRA_TOKENS:
        raise ValueError(f"{path}: extra_ids is {extra:g}; it can be at most {MAX_EXTRA_TOKENS}")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; ValueError if it can't be read or doesn't."""
    try:
        content = load_json(read_text(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} can't be read: it holds a {type(content).__name__}, not an object")
    return content


def read_text(path: Path) -> str:
    """Read a text file; raises what `read_bytes` raises, and ValueError if it is not UTF-8."""
    return read_bytes(path).decode("utf-8")


def read_bytes(path: Path) -> bytes:
    """Read a whole file of limited size.

    Raises:
        OSError, ValueError: if it can't be read, is not a plain file, or is too large.
    """
    if plain_size(path) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"it is larger than {MAX_DOCUMENT_BYTES // 2**20} MiB")
    return path.read_bytes()


def plain_size(path: Path) -> int:
    """Size of a file in bytes; ValueError if it is a pipe, a device or a folder, as reading it might never end."""
    stat = path.stat()
    if not S_ISREG(stat.st_mode):
        raise ValueError("it is not a plain file")
    return stat.st_size


def load_json(text: str | bytes) -> Any:
    """Parse JSON, refusing duplicate keys, non-finite numbers and excessive nesting.

    Raises:
        ValueError: if it is refused; a `json.JSONDecodeError` if it is not JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} occurs twice")
        found[name] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{text[:20]}... has {len(text)} digits")
    return int(text)
