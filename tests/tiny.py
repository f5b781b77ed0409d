"""Files in the layout of taew2_1, of any width, with random tensors that make pictures of some contrast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

FRAMES = (1, 2, 2)


def random_tensors(channels: int = 16, widths: Sequence[int] = (8, 6, 4, 4), seed: int = 0) -> dict[str, Tensor]:
    """The decoder's tensors by their names in the file."""
    generator = torch.Generator().manual_seed(seed)
    named: dict[str, Tensor] = {}

    def conv(name: str, inputs: int, outputs: int, size: int = 3, bias: bool = True) -> None:
        spread = math.sqrt(1 / (inputs * size * size))
        named[f"decoder.{name}.weight"] = spread * torch.randn(outputs, inputs, size, size, generator=generator)
        if bias:
            named[f"decoder.{name}.bias"] = 0.1 * torch.randn(outputs, generator=generator)

    conv("1", channels, widths[0])
    for stage, (width, narrower) in enumerate(pairwise(widths)):
        first = 3 + 6 * stage
        for number in range(first, first + 3):
            conv(f"{number}.conv.0", 2 * width, width)
            conv(f"{number}.conv.2", width, width)
            conv(f"{number}.conv.4", width, width)
        conv(f"{first + 4}.conv", width, FRAMES[stage] * width, 1, bias=False)
        conv(str(first + 5), width, narrower, bias=False)
    conv("22", widths[-1], 3)
    named["decoder.22.bias"] += 0.4
    return named


def write_tiny(path: Path, tensors: dict[str, Tensor] | None = None, encoder: bool = True) -> Path:
    """A file as it is published: float16, with the tensors of an encoder beside the decoder's."""
    named = dict(random_tensors() if tensors is None else tensors)
    if encoder:
        named |= {"encoder.0.weight": torch.zeros(4, 3, 3, 3), "encoder.0.bias": torch.zeros(4)}
    save_file({name: tensor.half().contiguous() for name, tensor in named.items()}, path)
    return path
