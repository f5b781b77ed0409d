"""The tiny decoder against its description, written out again as plainly as possible, and streaming against whole."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_tensors
from torch import Tensor

from backbone.checkpoints import load_weights
from backbone.tiny_decoder import StreamingTinyDecoder, TinyDecoder, check_decoder, misfit, sizes_of

CHANNELS, WIDTHS = 16, (8, 6, 4, 4)
PUBLISHED_BYTES, PUBLISHED_TENSORS = 22_642_902, 128


def new_decoder(tensors: dict[str, Tensor]) -> TinyDecoder:
    with torch.device("meta"):
        decoder = TinyDecoder(CHANNELS, WIDTHS)
    load_weights(decoder, tensors, "random", lambda name: name)
    return decoder.eval()


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return random_tensors(CHANNELS, WIDTHS)


@pytest.fixture(scope="module")
def decoder(tensors: dict[str, Tensor]) -> TinyDecoder:
    return new_decoder(tensors)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decoded(decoder: TinyDecoder, latents: Tensor, splits: list[int]) -> Tensor:
    streaming = StreamingTinyDecoder(decoder)
    return torch.cat([streaming.decode(part) for part in latents.split(splits, dim=2)], dim=2)


# ---- the layout ----


def test_names_and_shapes_of_the_published_size():
    with torch.device("meta"):
        state = TinyDecoder().state_dict()
    wanted = {"1.weight": (256, 16, 3, 3), "1.bias": (256,), "22.weight": (3, 64, 3, 3), "22.bias": (3,)}
    wanted |= {"8.weight": (128, 256, 3, 3), "14.weight": (64, 128, 3, 3), "20.weight": (64, 64, 3, 3)}
    wanted |= {"7.conv.weight": (256, 256, 1, 1), "13.conv.weight": (256, 128, 1, 1)}
    wanted |= {"19.conv.weight": (128, 64, 1, 1)}
    for n, numbers in {256: (3, 4, 5), 128: (9, 10, 11), 64: (15, 16, 17)}.items():
        for number in numbers:
            wanted[f"{number}.conv.0.weight"] = (n, 2 * n, 3, 3)
            wanted |= {f"{number}.conv.{part}.weight": (n, n, 3, 3) for part in (2, 4)}
            wanted |= {f"{number}.conv.{part}.bias": (n,) for part in (0, 2, 4)}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes == {f"decoder.{name}": shape for name, shape in wanted.items()}
    assert len(shapes) == PUBLISHED_TENSORS // 2  # the other half of the file is an encoder
    assert 19.6e6 < 2 * sum(map(math.prod, shapes.values())) < PUBLISHED_BYTES
    assert TinyDecoder().config["frames"] == (1, 2, 2)


def test_sizes_come_from_the_tensors(tensors):
    sizes = sizes_of({name: tuple(tensor.shape) for name, tensor in tensors.items()}, "it")
    assert sizes == {"latent_channels": CHANNELS, "widths": WIDTHS, "frames": (1, 2, 2)}


# ---- what it computes ----


def described(tensors: dict[str, Tensor], latents: Tensor) -> Tensor:
    """[T, C, h, w] -> [4T - 3, 3, 8h, 8w]: layer after layer over all frames of the take, in float64."""
    w = {name.removeprefix("decoder."): tensor.double() for name, tensor in tensors.items()}

    def conv(frame: Tensor, name: str) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.conv2d(frame[None], weight, w.get(f"{name}.bias"), padding=weight.shape[-1] // 2)[0]

    def mem(frames: list[Tensor], number: int) -> list[Tensor]:
        made = []
        for place, x in enumerate(frames):
            past = frames[place - 1] if place else torch.zeros_like(x)
            hidden = conv(torch.cat([x, past]), f"{number}.conv.0").relu()
            hidden = conv(hidden, f"{number}.conv.2").relu()
            made.append((conv(hidden, f"{number}.conv.4") + x).relu())
        return made

    def nearest(frame: Tensor) -> Tensor:
        return torch.from_numpy(frame.numpy().repeat(2, axis=1).repeat(2, axis=2))

    def grow(frames: list[Tensor], number: int, count: int) -> list[Tensor]:
        return [part for x in frames for part in conv(x, f"{number}.conv").chunk(count)]

    frames = [conv(3 * (x / 3).tanh(), "1").relu() for x in latents.double()]
    for first, count in ((3, 1), (9, 2), (15, 2)):
        for number in range(first, first + 3):
            frames = mem(frames, number)
        frames = [nearest(x) for x in frames]
        frames = grow(frames, first + 4, count)
        frames = [conv(x, str(first + 5)) for x in frames]
    return torch.stack([conv(x.relu(), "22") for x in frames])[3:].clamp(0, 1)


def test_it_computes_what_is_described(tensors, decoder):
    latents = 2 * draw(2, CHANNELS, 5, 3, 4)
    ours = decoded(decoder, latents, [5])
    assert ours.shape == (2, 3, 17, 24, 32)
    for take in range(2):
        expected = described(tensors, latents[take].transpose(0, 1)).transpose(0, 1)
        assert expected.std() > 0.1  # not all black or white
        assert 0.2 < ((expected > 0) & (expected < 1)).double().mean() < 1
        torch.testing.assert_close(ours[take].double(), 2 * expected - 1, rtol=0, atol=1e-5)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(1, 2))
def test_streaming_equals_the_whole_take_bit_for_bit(decoder, splits, batch):
    frames = sum(splits)
    latents = draw(batch, CHANNELS, frames, 2, 3, seed=frames)
    whole = decoded(decoder, latents, [frames])
    assert whole.shape == (batch, 3, 4 * frames - 3, 16, 24)
    assert torch.equal(decoded(decoder, latents, splits), whole)


def test_a_shot_shows_nothing_of_the_picture_before(decoder):
    before, shot = draw(1, CHANNELS, 5, 2, 3, seed=3), draw(1, CHANNELS, 2, 2, 3, seed=4)
    streaming = StreamingTinyDecoder(decoder)
    streaming.decode(before)
    streaming.begin_shot(shot)
    alone = decoded(decoder, torch.cat([shot[:, :, :1], shot], dim=2), [3])
    assert torch.equal(streaming.decode(shot), alone[:, :, 1:])
    assert streaming.frames_decoded == 4 * 5 - 3 + 4 * 2


def test_decoders_of_several_takes_share_one_model(decoder):
    one, other = draw(1, CHANNELS, 6, 2, 3), draw(1, CHANNELS, 6, 2, 3, seed=2)
    ours, theirs, parts = StreamingTinyDecoder(decoder), StreamingTinyDecoder(decoder), []
    for start in range(0, 6, 3):
        parts.append(ours.decode(one[:, :, start : start + 3]))
        theirs.decode(other[:, :, start : start + 3])
    assert torch.equal(torch.cat(parts, dim=2), decoded(decoder, one, [6]))
    assert ours.frames_decoded == 21


def test_what_is_carried_is_all_there_is(decoder):
    latents = draw(2, CHANNELS, 7, 2, 3)
    first, second = StreamingTinyDecoder(decoder), StreamingTinyDecoder(decoder)
    begun = first.decode(latents[:, :, :1])
    assert begun.shape[2] == 1
    second.restore(first.features())
    rest = second.decode(latents[:, :, 1:])
    assert torch.equal(torch.cat([begun, rest], dim=2), decoded(decoder, latents, [7]))
    alone = StreamingTinyDecoder(decoder)
    alone.restore({number: feature[1:] for number, feature in first.features().items()})
    torch.testing.assert_close(alone.decode(latents[1:, :, 1:]), rest[1:], rtol=0, atol=1e-5)


def test_a_decoder_that_starts_late_enough_is_exact(decoder):
    """No frame further back than `latents_carried` changes a bit; the one there does."""
    carried = StreamingTinyDecoder(decoder).latents_carried
    assert carried == 8  # three blocks at one frame a latent, three more, and three at two
    latents = draw(1, CHANNELS, carried + 4, 2, 3)
    last = decoded(decoder, latents, [carried + 4])[:, :, -4:]
    assert torch.equal(decoded(decoder, latents[:, :, 3:], [carried + 1])[:, :, -4:], last)
    assert not torch.equal(decoded(decoder, latents[:, :, 4:], [carried])[:, :, -4:], last)


def test_it_runs_in_half_precision(tensors):
    half = new_decoder({name: tensor.half() for name, tensor in tensors.items()})
    latents = draw(1, CHANNELS, 2, 2, 3)
    made, exact = decoded(half, latents, [2]), decoded(new_decoder(tensors), latents, [2])
    assert made.dtype == torch.float16
    assert (made.float() - exact).abs().max() < 0.05


# ---- what it fits ----


@pytest.mark.parametrize(
    ("tiny", "vae", "message"),
    [
        ({}, {}, ""),
        (
            {},
            {"z_dim": 16, "latents_mean": [0.0] * 16},
            "is for the latents of Wan2.1, but this backbone's VAE has other latents",
        ),
        ({}, {"z_dim": 48}, "reads latents of 16 channels, but this backbone's VAE has 48"),
        ({"latent_channels": 12}, {}, "reads latents of 12 channels, but this backbone's VAE has 16"),
        ({"frames": [1, 1, 2]}, {}, "makes 2 pixel frames per latent frame, but this backbone's VAE has 4"),
        (
            {},
            {"scale_factor_spatial": 16},
            "scales latents up by 8, but this backbone's VAE has 16",
        ),
    ],
)
def test_which_latents_it_fits(tiny, vae, message):
    assert message in misfit(tiny, vae)
    assert bool(message) == bool(misfit(tiny, vae))
    if message:
        with pytest.raises(ValueError, match=r"^decoder is 'tiny', but the tiny decoder .*; use full$"):
            check_decoder("models/wan", tiny, vae)


def test_a_backbone_without_one_is_told_how_to_get_one():
    with pytest.raises(ValueError, match="'tiny', but models/wan has none; use full, or add one: longlive-rag models"):
        check_decoder("models/wan", None, {})
