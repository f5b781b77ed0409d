"""What the training stages share."""

from pathlib import Path

import pytest
import torch
from torch import nn

from longlive_rag.tinyworld.muon import Muon, orthogonalize
from longlive_rag.tinyworld.train_vae import CellCode, _taught_loss, clips, new_vae, to_model
from longlive_rag.tinyworld.training import Hardware, Schedule, train


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


def test_bfloat16_changes_the_arithmetic_and_not_the_weights_type(tmp_path: Path) -> None:
    seen = set()

    def run(bfloat16: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(5, 2)

        def loss_of(step: int) -> tuple[torch.Tensor, dict[str, float]]:
            out = model(torch.randn(16, 5, generator=torch.Generator().manual_seed(step)))
            seen.add((bfloat16, out.dtype))
            return out.float().square().mean(), {}

        hardware = Hardware(bfloat16=bfloat16)
        folder = tmp_path / str(bfloat16)
        train(model, loss_of, Schedule(steps=5, learning_rate=1e-2), folder, lambda _: None, hardware=hardware)
        return model.weight

    one, other = run(False), run(True)
    assert seen == {(False, torch.float32), (True, torch.bfloat16)}
    assert one.dtype == other.dtype == torch.float32
    assert not torch.equal(one, other)
    assert torch.allclose(one, other, atol=2e-2)


def test_cell_codes_are_the_best_linear_code() -> None:
    made = clips(6, 17, seed=3)
    code = CellCode(made, channels=16)
    pixels = to_model(made)
    codes = code(pixels)
    assert codes.shape == (6, 16, 5, 8, 8)
    cells = code._cells(pixels).flatten(0, -2)
    assert torch.equal(cells.view(6, 5, 8, 8, 3, 4, 8, 8)[2, 3, 4, 5, 1, 2], pixels[2, 1, 11, 32:40, 40:48])
    design = torch.cat([codes.movedim(1, -1).flatten(0, -2), torch.ones(len(cells), 1)], dim=1)
    drawn = design @ torch.linalg.lstsq(design, cells).solution
    unexplained = (drawn - cells).square().mean() / (cells - cells.mean(0)).square().mean()
    random_axes = torch.randn(768, 16, generator=torch.Generator().manual_seed(0))
    other = torch.cat([cells @ random_axes, torch.ones(len(cells), 1)], dim=1)
    worse = (other @ torch.linalg.lstsq(other, cells).solution - cells).square().mean()
    assert unexplained < 0.1
    assert (drawn - cells).square().mean() < 0.5 * worse


def test_the_decoder_learns_from_the_codes_and_the_encoder_learns_to_make_them() -> None:
    made = clips(2, 9, seed=4)
    vae, code, pixels = new_vae(), CellCode(made, channels=16), to_model(made[:1])
    loss, figures = _taught_loss(vae, code, pixels, encoder_too=False)
    loss.backward()
    assert all(weight.grad is None for weight in vae.encoder.parameters())
    assert vae.decoder.conv_out.weight.grad.abs().sum() > 0
    loss, figures = _taught_loss(vae, code, pixels, encoder_too=True)
    loss.backward()
    assert figures["code_error"] > 0
    assert vae.encoder.conv_out.weight.grad.abs().sum() > 0
