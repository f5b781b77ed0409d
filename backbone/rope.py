"""3D rotary positions (Su et al., 2104.09864; the axis split of Wan2.1), real-valued, interleaved pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

THETA = 10000.0


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of some tokens' angles.

    Attributes:
        cos, sin: [B or 1, tokens, 1, head_dim / 2], float32.
    """

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate the interleaved pairs of `x` [..., tokens, heads, head_dim]; returns a new tensor of x's dtype."""
        rotated = torch.empty_like(x)
        self.into(x, rotated)
        return rotated

    def into(self, x: Tensor, out: Tensor) -> None:
        """Rotate `x` [..., tokens, heads, head_dim] and write the result to `out`, a tensor or view of its shape."""
        even, odd = x[..., 0::2], x[..., 1::2]
        out[..., 0::2] = even * self.cos - odd * self.sin
        out[..., 1::2] = even * self.sin + odd * self.cos


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
    return Rotation(angles.cos().float(), angles.sin().float())


def _angles(positions: Tensor, dim: int) -> Tensor:
    """[...] positions to [..., dim / 2] angles, float64."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
    return positions.double()[..., None] / THETA**exponents
