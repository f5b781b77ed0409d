"""Precision at K, where the right frames are known by construction."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from backbone.config import ContextConfig
from eval.retrieval_quality import BLOCKS, CUES, Arm, Searched, _casts, arms_of, measure_retrieval
from retrieval.encoder import MeanPoolEncoder


class Stage:
    """A pipeline that knows prompts apart; that somebody leaves is said in words of its own."""

    context = ContextConfig()

    def embed(self, prompts: list[str]) -> torch.Tensor:
        words = {"A": [1.0, 0, 0], "B": [0, 1.0, 0], "A leaves": [0.6, 0, 0.8], "B leaves": [0, 0.6, 0.8]}
        return torch.tensor([[words[prompts[0]]]])


def take() -> Searched:
    """Frames of A, of nobody and of B, as the cues say; the newest before the cue shows nobody."""
    size = Stage.context.frames_per_block
    who = np.array(["nobody"] * BLOCKS * size, dtype=object)
    for (start, name, action), (stop, *_) in zip(CUES, [*CUES[1:], (BLOCKS, "", "")], strict=True):
        who[start * size : stop * size] = "nobody" if action == "leaves" else name
    looks = {"A": [0.4, 0.0, 1.0], "B": [0.0, 0.4, 1.0], "nobody": [0.0, 0.0, 1.0]}
    latents = torch.tensor([looks[name] for name in who])[:, :, None, None].expand(-1, -1, 2, 2).contiguous()
    told = [f"{name} leaves" if action == "leaves" else name for _, name, action in CUES]
    cues = tuple(SimpleNamespace(prompt=words) for words in told[1:])
    request = SimpleNamespace(prompt="A", cues=cues)
    return Searched(request, latents, who == "A")


def test_at_the_cue_only_the_words_find_who_is_called() -> None:
    encoder = MeanPoolEncoder()
    arms = arms_of({"mean pool": encoder})
    assert [arm.name for arm in arms] == ["mean pool", "mean pool + prompt", "random", "recent"]
    figures = measure_retrieval(Stage(), [take()] * 6, arms)
    at_cue = {name: found["at_cue"]["mean"] for name, found in figures["arms"].items()}
    assert at_cue["mean pool"] == 0  # an empty stage is most like an empty stage
    assert at_cue["mean pool + prompt"] == 1
    assert at_cue["recent"] == 0  # B's frames
    assert 0 < at_cue["random"] < 1
    after = figures["arms"]["mean pool"]["after"]["mean"]
    assert after > 0.5  # once A is seen, latents find A
    pair = figures["pairs"]["mean pool + prompt against mean pool"]["at_cue"]
    assert (pair["mean"], pair["low"], pair["high"]) == (1, 1, 1)
    assert figures["right_among_candidates"] == pytest.approx(20 / 49)


def test_takes_without_the_character_are_left_out() -> None:
    lost = take()
    lost.shows_a[:] = False
    figures = measure_retrieval(Stage(), [take(), lost], [Arm("mean pool", MeanPoolEncoder())])
    assert (figures["takes"], figures["used"]) == (2, 1)
    with pytest.raises(ValueError, match="in any take"):
        measure_retrieval(Stage(), [lost], [Arm("mean pool", MeanPoolEncoder())])


def test_casts_are_two_who_can_be_told_apart() -> None:
    assert _casts(1) == _casts(32)[:1]
    for a, b in _casts(32):
        assert a.colour != b.colour
        assert a.shape != b.shape
        assert a.place == b.place
