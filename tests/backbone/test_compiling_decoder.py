"""The VAE's decoder, compiled: one program amid all shots, the same pixels."""

import threading

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanDecoder3d
from five import residual_vae
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from backbone import vae as vae_module
from backbone.compiling import compile_decoder_for, uncompile_decoder
from backbone.vae import StreamingDecoder, fold_temporal_convs
from tests.backbone.test_compiling import assert_close


@pytest.fixture
def decoder_counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Counts the graphs that are captured, and runs them as they are: quick, and no C++ compiler is needed."""
    torch._dynamo.reset()
    counter, compile_it = CompileCounterWithBackend("eager"), WanDecoder3d.compile

    def count(decoder: WanDecoder3d, **settings: object) -> None:
        compile_it(decoder, backend=counter, **settings)

    monkeypatch.setattr(WanDecoder3d, "compile", count)
    return counter


def new_vae(kind: str = "Wan2.1") -> AutoencoderKLWan:
    torch.manual_seed(0)
    if kind == "Wan2.2":
        return fold_temporal_convs(residual_vae())
    sizes = {"base_dim": 4, "z_dim": 16, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
    return fold_temporal_convs(AutoencoderKLWan(**sizes).eval())


def decoded_take(vae: AutoencoderKLWan, frames: int, batch: int = 1) -> list[Tensor]:
    """Two shots, the second decoded by a decoder that goes on from what the first one saved, in a thread of its own."""
    draw = torch.Generator().manual_seed(1)
    shape = (batch, vae.config.z_dim, frames, 2, 3)
    blocks = [torch.randn(shape, generator=draw) for _ in range(8)]
    one, other, made = StreamingDecoder(vae), StreamingDecoder(vae), []
    made += [one.decode(block) for block in blocks[:4]]
    saved = {number: feature.contiguous().clone() for number, feature in one.features().items()}

    def go_on() -> None:
        other.restore(saved)
        made.append(other.decode(blocks[4]))
        other.begin_shot(blocks[5])
        made.extend(other.decode(block) for block in blocks[5:])

    thread = threading.Thread(target=go_on)
    thread.start()
    thread.join()
    assert len(made) == 8
    return made


@pytest.mark.parametrize(
    ("kind", "frames", "at_once", "batch"),
    [("Wan2.1", 3, 3, 1), ("Wan2.1", 3, 1, 1), ("Wan2.1", 3, 3, 2), ("Wan2.1", 1, 1, 1), ("Wan2.2", 4, 4, 1)],
)
def test_a_decoder_is_one_graph_amid_all_shots_and_resumptions_and_decodes_the_same(
    decoder_counter: CompileCounterWithBackend,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    frames: int,
    at_once: int,
    batch: int,
) -> None:
    vae = new_vae(kind)
    monkeypatch.setattr(vae_module, "_latents_at_once", lambda *_: at_once)
    expected = decoded_take(vae, frames, batch)
    assert compile_decoder_for(vae, frames, (vae.config.z_dim, 2, 3), batch) > 0
    assert decoder_counter.frame_count == 1
    assert_close(decoded_take(vae, frames, batch), expected)
    assert decoder_counter.frame_count == 1
    assert compile_decoder_for(vae, frames, (vae.config.z_dim, 2, 3), batch) == 0


def test_blocks_of_other_shapes_are_decoded_as_they_are_until_a_decoder_is_compiled_for_them(
    decoder_counter: CompileCounterWithBackend,
) -> None:
    vae = new_vae()
    compile_decoder_for(vae, 2, (16, 2, 3))
    decoded_take(vae, 3)
    assert decoder_counter.frame_count == 1
    compile_decoder_for(vae, 3, (16, 2, 3))
    assert decoder_counter.frame_count == 2
    uncompile_decoder(vae)
    assert vae.decoder._compiled_call_impl is None
    assert compile_decoder_for(vae, 3, (16, 2, 3)) > 0


@pytest.mark.slow
def test_a_decoder_of_generated_code_decodes_the_same() -> None:
    torch._dynamo.reset()
    vae = new_vae()
    expected = decoded_take(vae, 3)
    compile_decoder_for(vae, 3, (16, 2, 3))
    made = decoded_take(vae, 3)
    assert_close(made, expected, atol=5e-5)  # random weights make more of a rounding than trained ones
    assert any(not torch.equal(one, other) for one, other in zip(made, expected, strict=True))  # it is other code
