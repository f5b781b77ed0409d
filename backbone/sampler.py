"""Few-step sampling of a flow-matching model, as one-line pure functions.

x_sigma = (1 - sigma) x0 + sigma eps; the model predicts the flow v = eps - x0 (Lipman et al., 2210.02747).
"""

from __future__ import annotations

from torch import Tensor


def predict_x0(noisy: Tensor, flow: Tensor, sigma: float) -> Tensor:
    """x0 = x_sigma - sigma v, computed in float64, in the dtype of `noisy`."""
    return (noisy.double() - sigma * flow.double()).to(noisy.dtype)


def add_noise(x0: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """x_sigma = (1 - sigma) x0 + sigma eps."""
    return (1 - sigma) * x0 + sigma * noise
