"""What the training stages share."""

from pathlib import Path

import pytest
import torch
from torch import nn

from longlive_rag.tinyworld.muon import Muon, orthogonalize
from longlive_rag.tinyworld.training import Schedule, train


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_muon_does_not_care_for_the_scale_of_the_gradient() -> None:
    def after(scale: float) -> torch.Tensor:
        weight = nn.Parameter(torch.zeros(4, 3, 3))
        weight.grad = scale * torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(1))
        Muon([weight], lr=0.1).step()
        return weight.detach()

    assert torch.allclose(after(1.0), after(1e3), atol=1e-4)
    assert after(1.0).square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.5)  # AdamW's root mean square


def test_a_killed_stage_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    schedule = Schedule(steps=12, learning_rate=1e-2, warm_up=2)

    def run(folder: Path, stop: int | None = None) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))

        def loss_of(step: int) -> tuple[torch.Tensor, dict[str, float]]:
            if step == stop:
                raise KeyboardInterrupt
            x = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))
            loss = (model(x) - x[:, :2]).square().mean()
            return loss, {"mse": loss.item()}

        return train(model, loss_of, schedule, folder, lambda line: None, checkpoint_every_s=0.0)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", stop=7)
    resumed = run(tmp_path / "killed")
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
