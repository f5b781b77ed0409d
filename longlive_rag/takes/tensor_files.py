"""Tensors and plain facts in one sealed file, written durably and refused if damaged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from retrieval.files import NotPlainError, open_plain, write_durably
from retrieval.sealed import BrokenSealError, FutureFormatError, seal, unseal

FORMAT = 1
FACTS = "facts"


def write_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors by name and plain facts, durably and atomically; OSError if writing fails.

    Args:
        path: the file.
        kind: kind of file, a word or two for its header.
        tensors: tensors on any device.
        facts: JSON-serialisable facts.
    """
    packed = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_durably(path, seal(kind, FORMAT, save({**on_host, FACTS: packed})))


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        BrokenSealError: if it is of another kind, missing, or not as it was written.
        FutureFormatError: if a newer version wrote it.
    """
    try:
        with open_plain(path) as file:
            tensors = load(unseal(path, file.read(), kind, FORMAT))
        facts = json.loads(bytes(tensors.pop(FACTS).numpy()))
    except FileNotFoundError as error:
        raise BrokenSealError(f"{path} is missing") from error
    except (SafetensorError, NotPlainError, KeyError, ValueError, RecursionError) as error:
        if isinstance(error, BrokenSealError | FutureFormatError):
            raise
        raise BrokenSealError(f"{path} is damaged: {error}") from error
    return tensors, facts
