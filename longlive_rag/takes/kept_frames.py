"""Frames of other takes, stored in the take that remembers them."""

from __future__ import annotations

from pathlib import Path

import torch

from longlive_rag.generation.rollout_memory import RememberedFrames
from longlive_rag.takes.tensor_files import read_tensors, write_tensors

KIND = "remembered"


def write_kept(remembered: RememberedFrames, path: Path) -> None:
    """Write remembered frames into the take that remembers them, so that it no longer needs the other takes."""
    tensors = {"latents": torch.from_numpy(remembered.latents)}
    if remembered.prompt_units is not None:
        tensors["prompt_units"] = torch.from_numpy(remembered.prompt_units)
    write_tensors(path, KIND, tensors, {})


def read_kept(path: Path) -> RememberedFrames:
    """Read what `write_kept` wrote.

    Raises:
        BrokenSealError: if it is not as it was written.
    """
    tensors, _ = read_tensors(path, KIND)
    units = tensors.get("prompt_units")
    return RememberedFrames(tensors["latents"].numpy(), None if units is None else units.numpy())
