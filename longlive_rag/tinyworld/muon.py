"""Muon: momentum whose update of each matrix is made orthogonal (K. Jordan et al., 2024, "Muon").

On tiny-world's VAE it reaches in 120 steps what AdamW reaches in 240. torch has one too, for matrices only and in
bfloat16; the VAE needs convolutions, and most CPUs float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Quintic Newton-Schulz iteration whose fixed points have all singular values near 1 (Jordan et al.).
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# Brings the update's root mean square to AdamW's, so that one learning rate suits both (J. Liu et al., 2025, eq. 4).
_ADAM_RMS = 0.2


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions; all but the first are taken as one."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure is called
        """One update from the gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                scale = _ADAM_RMS * max(update.shape) ** 0.5
                weight.add_(orthogonalize(update).view_as(weight), alpha=-group["lr"] * scale)


def orthogonalize(matrix: Tensor) -> Tensor:
    """The matrix [M, N] with its singular values brought near 1."""
    a, b, c = _NEWTON_SCHULZ
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).contiguous()
