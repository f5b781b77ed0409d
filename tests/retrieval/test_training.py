"""Training the retrieval encoder: the loss by hand, what is held out, going on after a kill, files that others read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from longlive_rag.media.training_picture import draw_training
from longlive_rag.weights.convert import read_encoder
from retrieval.encoder import LatentAutoencoder
from retrieval.training import (
    BEST,
    ENCODER,
    Chunks,
    EncoderTraining,
    Held,
    read_log,
    train_encoder,
    trajectory_smoothing,
    window_temporal_delta,
)

SMALL = EncoderTraining(steps=40, batch=4, hidden_dims=(8,), embedding_dim=16, learning_rate=3e-3, grow_in=0.25)


def quiet(_step: int, _figures: dict[str, float]) -> None:
    pass


def takes() -> list[Held]:
    """Frames that differ between takes and change slowly within one."""
    rng = np.random.default_rng(0)
    looks = rng.standard_normal((3, 1, 4, 8, 8))
    drift = rng.standard_normal((3, 40, 4, 8, 8)).cumsum(1) * 0.05
    return [Held((look + change).astype(np.float32)) for look, change in zip(looks, drift, strict=True)]


def test_losses_by_hand() -> None:
    same = torch.ones(2, 8, 4) / 2
    assert window_temporal_delta(same) == pytest.approx(0.15)
    assert trajectory_smoothing(same) == pytest.approx(1e-4)
    turning = torch.eye(8)[None]
    assert window_temporal_delta(turning) == 0
    assert trajectory_smoothing(turning) == pytest.approx(6**0.5, rel=1e-5)


def test_what_is_held_out_is_never_trained_on() -> None:
    numbered = [Held(np.full((20, 1, 1, 1), take, np.float32) + np.arange(20).reshape(20, 1, 1, 1) / 100)
                for take in range(3)]  # fmt: skip
    settings = EncoderTraining(steps=1, batch=500, validation_share=0.5)
    chunks = Chunks(numbered, settings)
    trained = set(chunks.batch(0, settings).unique().tolist())
    held_out = set(chunks.held_out().unique().tolist())
    assert not trained & held_out
    assert len(trained) + len(held_out) == 60
    assert min(held_out) == pytest.approx(1.10)  # 30 of 60 frames, from the end
    assert torch.equal(chunks.batch(7, settings), chunks.batch(7, settings))
    assert not torch.equal(chunks.batch(7, settings), chunks.batch(8, settings))


def test_an_encoder_learns_and_does_not_collapse(tmp_path: Path) -> None:
    done = train_encoder(takes(), tmp_path, replace(SMALL, steps=150), quiet)
    rows = list(read_log(tmp_path))
    assert rows[-1]["validation_mse"] < 0.8 * rows[0]["validation_mse"]
    assert done["frames"] == 120
    assert done["best_step"] in [row["step"] for row in rows]
    assert done["validation"]["total"] == pytest.approx(min(r["validation_total"] for r in rows[9:]), rel=1e-5)
    model = read_encoder(tmp_path / BEST)
    looks = model.encode(torch.from_numpy(np.stack([take.latents([5])[0] for take in takes()])))
    assert (looks @ looks.T - torch.eye(3)).max() < 0.9  # three takes, three embeddings
    assert looks.norm(dim=-1).allclose(torch.ones(3))
    again = LatentAutoencoder.from_pretrained(tmp_path / ENCODER)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    draw_training(rows, tmp_path / "training.png")
    assert (tmp_path / "training.png").stat().st_size > 10_000


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    train_encoder(takes(), tmp_path / "whole", SMALL, quiet)

    def stop(step: int, _figures: dict[str, float]) -> None:
        if step == 23:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_encoder(takes(), tmp_path / "killed", SMALL, stop)
    train_encoder(takes(), tmp_path / "killed", SMALL, quiet)
    one, other = (torch.load(tmp_path / run / BEST, weights_only=True) for run in ("whole", "killed"))
    assert one["config"] == other["config"]
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    assert [row["step"] for row in read_log(tmp_path / "killed")] == list(range(1, 41))


def test_what_can_not_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too few"):
        train_encoder([Held(np.zeros((9, 4, 8, 8), np.float32))], tmp_path / "a", SMALL, quiet)
    with pytest.raises(ValueError, match="2 latent sizes"):
        train_encoder([*takes(), Held(np.zeros((40, 4, 6, 8), np.float32))], tmp_path / "b", SMALL, quiet)
    train_encoder(takes(), tmp_path / "c", SMALL, quiet)
    with pytest.raises(ValueError, match="a different batch, seed"):
        train_encoder(takes(), tmp_path / "c", replace(SMALL, batch=5, seed=1), quiet)
    with pytest.raises(ValueError, match="holds a run on different takes; keep the same"):
        train_encoder(takes()[1:], tmp_path / "c", SMALL, quiet)
    broken = [Held(np.full((80, 4, 8, 8), np.nan, np.float32))]
    with pytest.raises(ValueError, match="the loss was never a finite number; learning_rate 0"):
        train_encoder(broken, tmp_path / "d", SMALL, quiet)
    for name, value in (("steps", 0), ("learning_rate", -1.0), ("grow_in", 2.0), ("validation_share", 1.0)):
        with pytest.raises(ValueError, match=name):
            replace(SMALL, **{name: value})
    assert json.loads(json.dumps(list(read_log(tmp_path / "c"))))[0]["step"] == 1
