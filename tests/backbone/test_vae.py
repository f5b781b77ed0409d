"""Streaming decode against the library's whole decode, and folded convolutions against 3D ones."""

from collections.abc import Callable

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm
from five import residual_vae
from torch import Tensor

from backbone.vae import (
    FoldedCausalConv3d,
    ShortRMSNorm,
    StreamingDecoder,
    denormalize_latents,
    encode_video,
    fold_temporal_convs,
    latents_carried,
    normalize_latents,
)

CHANNELS = 16


def new_vae(seed: int = 0) -> AutoencoderKLWan:
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(base_dim=4, z_dim=CHANNELS, dim_mult=[1, 2, 2, 2], num_res_blocks=1)
    vae.register_to_config(
        latents_mean=torch.randn(CHANNELS).tolist(), latents_std=(torch.rand(CHANNELS) + 0.5).tolist()
    )
    return vae.eval()


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    return new_vae()


@pytest.fixture(scope="module")
def folded() -> AutoencoderKLWan:
    return fold_temporal_convs(new_vae())


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def whole(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """The library's own decode of all latent frames at once."""
    return vae.decode(denormalize_latents(vae, latents)).sample


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("blocks", [(3, 3, 3), (1, 2, 6), (9,)])
def test_streaming_equals_decoding_the_whole_take(
    vae: AutoencoderKLWan, folded: AutoencoderKLWan, batch: int, blocks: tuple[int, ...]
) -> None:
    latents = draw(batch, CHANNELS, 9, 4, 6)
    expected = whole(vae, latents)
    for model in (vae, folded):
        decoder = StreamingDecoder(model)
        parts = [decoder.decode(part) for part in latents.split(blocks, dim=2)]
        assert [part.shape[2] for part in parts] == [1 + 4 * (blocks[0] - 1), *(4 * block for block in blocks[1:])]
        assert decoder.frames_decoded == 33
        assert (torch.cat(parts, dim=2) - expected).abs().max() < 1e-4


# ---- the residual VAE on patches of pixels (Wan2.2) ----


@pytest.fixture(scope="module")
def residual() -> AutoencoderKLWan:
    return residual_vae()


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("blocks", [(8, 8), (1, 2, 5, 8), (16,)])
def test_streaming_a_residual_vae_equals_decoding_the_whole_take(
    residual: AutoencoderKLWan, fold: bool, batch: int, blocks: tuple[int, ...]
) -> None:
    latents = draw(batch, 48, 16, 2, 3)
    decoder = StreamingDecoder(fold_temporal_convs(residual_vae()) if fold else residual)
    parts = [decoder.decode(part) for part in latents.split(blocks, dim=2)]
    assert [part.shape[2] for part in parts] == [1 + 4 * (blocks[0] - 1), *(4 * block for block in blocks[1:])]
    expected = whole(residual, latents)
    assert expected.shape == (batch, 3, 61, 32, 48)
    assert (torch.cat(parts, dim=2) - expected).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_a_residual_vae_encodes_as_the_library_does(residual: AutoencoderKLWan, chunk: int) -> None:
    pixels = draw(2, 3, 17, 32, 48).clamp(-1, 1)
    expected = normalize_latents(residual, residual.encode(pixels).latent_dist.mode())
    assert expected.shape == (2, 48, 5, 2, 3)
    folded = fold_temporal_convs(residual_vae())
    torch.testing.assert_close(encode_video(folded, pixels, chunk), expected, rtol=1e-4, atol=1e-4)
    first = encode_video(folded, pixels[:, :, :1])
    torch.testing.assert_close(first, expected[:, :, :1], rtol=1e-4, atol=1e-4)


def test_a_residual_decoder_goes_on_from_anothers_features() -> None:
    vae = fold_temporal_convs(residual_vae())
    latents = draw(1, 48, 24, 2, 3)
    one, other = StreamingDecoder(vae), StreamingDecoder(vae)
    for part in latents[:, :, :16].split(8, dim=2):
        one.decode(part)
    other.restore(one.features())
    assert torch.equal(other.decode(latents[:, :, 16:]), one.decode(latents[:, :, 16:]))


@pytest.mark.parametrize("fold", [False, True])
def test_large_frames_pass_the_decoder_one_by_one(fold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a latent frame is at the decoder's last layers: 4 pixel frames of 32x48, 4 bytes a channel."""
    vae = fold_temporal_convs(new_vae()) if fold else new_vae()
    latents, lengths = draw(1, CHANNELS, 6, 4, 6), []
    monkeypatch.setattr(vae.decoder, "forward", passing(vae.decoder.forward, lengths))
    expected = StreamingDecoder(vae).decode(latents)
    assert lengths == [1, 5]
    last_layers = vae.config.base_dim * 4 * 32 * 48 * 4
    for limit, parts in ((2 * last_layers, [1, 2, 2, 1]), (1, [1] * 6)):
        lengths.clear()
        monkeypatch.setattr("backbone.vae.LARGEST_ACTIVATION_BYTES", limit)
        torch.testing.assert_close(StreamingDecoder(vae).decode(latents), expected, rtol=0, atol=1e-4)
        assert lengths == parts


def passing(forward: Callable[..., Tensor], lengths: list[int]) -> Callable[..., Tensor]:
    """`forward`, which notes how many latent frames pass."""

    def noted(x: Tensor, **settings: object) -> Tensor:
        lengths.append(x.shape[2])
        return forward(x, **settings)

    return noted


def test_independent_chunks_would_not_be_equal(vae: AutoencoderKLWan) -> None:
    """What streaming is for: without the carried cache frames are missing and seams show."""
    latents = draw(1, CHANNELS, 6, 4, 6)
    chunks = torch.cat([StreamingDecoder(vae).decode(part) for part in latents.split(3, dim=2)], dim=2)
    assert chunks.shape[2] == 18
    assert whole(vae, latents).shape[2] == 21


def test_decoders_and_the_vae_itself_do_not_disturb_each_other(folded: AutoencoderKLWan) -> None:
    latents, other = draw(1, CHANNELS, 6, 4, 6), draw(1, CHANNELS, 6, 4, 6, seed=2)
    alone = StreamingDecoder(folded)
    expected = [alone.decode(part) for part in latents.split(3, dim=2)]
    ours, theirs = StreamingDecoder(folded), StreamingDecoder(folded)
    for index, part in enumerate(latents.split(3, dim=2)):
        got = ours.decode(part)
        theirs.decode(other[:, :, 3 * index : 3 * index + 3])
        whole(folded, other)
        assert torch.equal(got, expected[index])


@torch.no_grad()
def test_folded_encoding_equals_the_library(vae: AutoencoderKLWan, folded: AutoencoderKLWan) -> None:
    pixels = draw(2, 3, 17, 32, 48).clamp(-1, 1)
    expected = normalize_latents(vae, vae.encode(pixels).latent_dist.mode())
    torch.testing.assert_close(encode_video(folded, pixels), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encode_video(folded, pixels, chunk=1), expected, rtol=1e-4, atol=1e-4)


def test_folding_keeps_names_and_weights(vae: AutoencoderKLWan, folded: AutoencoderKLWan) -> None:
    assert any(isinstance(module, FoldedCausalConv3d) for module in folded.modules())
    assert list(vae.state_dict()) == list(folded.state_dict())


def test_the_decoders_memory_does_not_grow(folded: AutoencoderKLWan) -> None:
    decoder = StreamingDecoder(folded)

    def held() -> int:
        return sum(entry.nbytes for entry in decoder._cache if isinstance(entry, Tensor))

    decoder.decode(draw(1, CHANNELS, 3, 4, 6))
    decoder.decode(draw(1, CHANNELS, 3, 4, 6))
    early = held()
    for _ in range(6):
        decoder.decode(draw(1, CHANNELS, 3, 4, 6))
    assert held() == early > 0


def test_clips_of_another_length_are_refused(folded: AutoencoderKLWan) -> None:
    with pytest.raises(ValueError, match="1 \\+ 4n pixel frames, got 16; try 13"):
        encode_video(folded, torch.zeros(1, 3, 16, 32, 32))


def test_normalising_goes_there_and_back(vae: AutoencoderKLWan) -> None:
    latents = draw(2, CHANNELS, 2, 3, 3)
    torch.testing.assert_close(denormalize_latents(vae, normalize_latents(vae, latents)), latents)


def test_a_decoder_that_starts_late_enough_is_exact() -> None:
    """No frame further back than `latents_carried` changes a bit; one much nearer does."""
    torch.manual_seed(2)
    shortcuts = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2)
    small = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True])
    for vae in (shortcuts, small, residual_vae()):
        fold_temporal_convs(vae.eval())
        blocks = -(-latents_carried(vae) // 3)
        latents = torch.randn(1, vae.config.z_dim, 3 * (blocks + 3), 2, 3)
        whole, late, too_late = (StreamingDecoder(vae) for _ in range(3))
        for block in range(blocks + 3):
            part = latents[:, :, 3 * block : 3 * block + 3]
            pixels = whole.decode(part)
            if block >= 2:
                again = late.decode(part)
            if block > 3:
                nearly = too_late.decode(part)
            if block >= blocks + 2:
                assert torch.equal(pixels, again)
            if block == 4:
                assert not torch.equal(pixels[:, :, -1], nearly[:, :, -1])


def test_a_decoder_goes_on_from_anothers_features() -> None:
    torch.manual_seed(2)
    vae = fold_temporal_convs(AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1).eval())
    latents = torch.randn(1, 16, 6, 2, 3)
    one, other = StreamingDecoder(vae), StreamingDecoder(vae)
    one.decode(latents[:, :, :1])
    assert one.features() == {}  # only the first frame has passed
    one.decode(latents[:, :, 1:3])
    other.restore(one.features())
    assert torch.equal(other.decode(latents[:, :, 3:]), one.decode(latents[:, :, 3:]))


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 3])
def test_a_shot_is_decoded_without_a_trace_of_the_one_before(vae: AutoencoderKLWan, frames: int) -> None:
    """As after a still of its first frame; what is carried can be carried on."""
    before, shot = draw(2, CHANNELS, 3, 4, 6).split(1), draw(1, CHANNELS, frames, 4, 6)
    one, other, resumed, alone = (StreamingDecoder(vae) for _ in range(4))
    for decoder, latents in zip((one, other), before, strict=True):
        decoder.decode(latents)
        decoder.begin_shot(shot)
        assert decoder.frames_decoded == 9
    pixels = one.decode(shot)
    assert pixels.shape[2] == 4 * frames
    assert torch.equal(pixels, other.decode(shot))
    expected = alone.decode(torch.cat([shot[:, :, :1], shot], dim=2))[:, :, 1:]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-4)
    resumed.restore(one.features())
    assert torch.equal(resumed.decode(shot), one.decode(shot))


@torch.no_grad()
@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_short_norm_is_the_library_s_to_the_bit(images: bool, channels_last: bool) -> None:
    norm, short = (kind(6, images=images) for kind in (WanRMS_norm, ShortRMSNorm))
    norm.gamma.copy_(draw(*norm.gamma.shape))
    short.load_state_dict(norm.state_dict())
    x = draw(2, 6, 4, 5) if images else draw(2, 6, 3, 4, 5)
    x[0, :, 0] = 0  # of no length
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last if images else torch.channels_last_3d)
    assert torch.equal(short(x), norm(x))


@torch.no_grad()
def test_a_folded_weight_follows_the_weight() -> None:
    """Loaded anew, changed in place, put in another precision and back: it is never one from before."""
    conv, folded = WanCausalConv3d(3, 5, 3, padding=1), FoldedCausalConv3d(3, 5, 3, padding=1)
    x = draw(1, 3, 4, 6, 7)

    def check() -> None:
        conv.load_state_dict(folded.state_dict())
        torch.testing.assert_close(folded(x), conv(x), rtol=1e-5, atol=1e-5)

    check()
    first = folded._folded_weight()
    assert folded._folded_weight() is first
    folded.weight.mul_(2)
    check()
    folded.to(torch.bfloat16).to(torch.float32)
    check()
    folded.load_state_dict(WanCausalConv3d(3, 5, 3, padding=1).state_dict())
    check()
    folded.weight = torch.nn.Parameter(draw(5, 3, 3, 3, 3))
    check()
    with torch.enable_grad():
        folded(x).sum().backward()
    assert folded.weight.grad is not None
    assert set(folded.state_dict()) == {"weight", "bias"}
