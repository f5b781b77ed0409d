"""3D rotary positions (Su et al., 2104.09864; the axis split of Wan2.1), interleaved pairs as complex numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

THETA = 10000.0


@dataclass(frozen=True)
class Rotation:
    """Unit complex numbers that turn the interleaved pairs of some tokens' queries or keys.

    Attributes:
        turns: [B or 1, tokens, 1, head_dim / 2], complex64.
    """

    turns: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate `x` [..., tokens, heads, head_dim]; returns a new tensor of x's dtype."""
        exact = x if x.dtype in (torch.float32, torch.float64) else x.float()
        pairs = torch.view_as_complex(exact.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * self.turns).flatten(-2).to(x.dtype)


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """How many of a head's dimensions turn with time, height and width."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def rotation(frame_positions: Tensor, height: int, width: int, head_dim: int) -> Rotation:
    """Rotation of whole latent frames.

    Args:
        frame_positions: [F] or [B, F], temporal position of each latent frame.
        height, width: tokens of a latent frame along each side.
        head_dim: dimensions of one attention head.

    Returns:
        For F * height * width tokens, time slowest. Angles are computed in float64 and rounded once.
    """
    device = frame_positions.device
    if frame_positions.ndim == 1:
        frame_positions = frame_positions[None]
    batch, frames = frame_positions.shape
    t_dim, h_dim, w_dim = axis_dims(head_dim)
    grid = (batch, frames, height, width)
    angles = torch.cat(
        [
            _angles(frame_positions, t_dim)[:, :, None, None].expand(*grid, -1),
            _angles(torch.arange(height, device=device), h_dim)[None, None, :, None].expand(*grid, -1),
            _angles(torch.arange(width, device=device), w_dim)[None, None, None].expand(*grid, -1),
        ],
        dim=-1,
    ).reshape(batch, frames * height * width, 1, head_dim // 2)
    return Rotation(torch.complex(angles.cos().float(), angles.sin().float()))


def _angles(positions: Tensor, dim: int) -> Tensor:
    """[...] positions to [..., dim / 2] angles, float64."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
    return positions.double()[..., None] / THETA**exponents
