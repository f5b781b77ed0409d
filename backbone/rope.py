"""3D rotary positions (Su et al., 2104.09864; axis split of Wan2.1), with interleaved pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

THETA = 10000.0


@dataclass(frozen=True)
class Rotation:
    """The rotation of the interleaved pairs in tokens' queries or keys.

    Attributes:
        turns: cosine and sine of each pair's angle, [B or 1, tokens, 1, head_dim / 2, 2], float32.
    """

    turns: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate `x` [..., tokens, heads, head_dim] into a new tensor of x's dtype.

        There are two versions of the same arithmetic: uncompiled, one complex product takes one pass over memory
        instead of seven; the compiler can't handle complex numbers but fuses the real products into one pass.
        """
        exact = x if x.dtype in (torch.float32, torch.float64) else x.float()
        pairs = exact.unflatten(-1, (-1, 2))
        if torch.compiler.is_compiling():
            turned = _turn(pairs, self.turns)
        else:
            turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(self.turns))
        return turned.flatten(-2).to(x.dtype)


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Number of a head's dimensions that rotate with time, height and width."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def rotation(frame_positions: Tensor, height: int, width: int, head_dim: int) -> Rotation:
    """Build the rotation of whole latent frames.

    Args:
        frame_positions: [F] or [B, F], temporal position of each latent frame.
        height, width: size of a latent frame in tokens.
        head_dim: dimensions of one attention head.

    Returns:
        The rotation of F * height * width tokens, time slowest. Angles are computed in float64 and rounded once.
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
    return Rotation(torch.stack((angles.cos().float(), angles.sin().float()), dim=-1))


def _turn(pairs: Tensor, turns: Tensor) -> Tensor:
    """Rotate each pair (a, b) [..., 2] to (a c - b s, b c + a s), where `turns` [..., 2] is (cosine c, sine s).

    Concatenating two halves instead would cost another pass over memory.
    """
    cosine, sine = turns[..., :1], turns[..., 1:]
    sign = torch.arange(-1, 2, 2, dtype=turns.dtype, device=turns.device)
    return pairs * cosine + pairs.flip(-1) * (sign * sine)


def _angles(positions: Tensor, dim: int) -> Tensor:
    """Compute angles [..., dim / 2] of positions [...], in float64."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
    return positions.double()[..., None] / THETA**exponents
