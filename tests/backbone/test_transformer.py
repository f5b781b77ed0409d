"""The transformer against diffusers' own class, and its cached form against its uncached one."""

import pytest
import torch
from diffusers import WanTransformer3DModel

from backbone.checkpoints import load_weights
from backbone.names import ORIGINAL_NAMES, our_name
from backbone.transformer import CausalWanTransformer

SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 20,
    "freq_dim": 32,
    "ffn_dim": 96,
    "num_layers": 3,
}
TEXT_LENGTH = 7


def build(dtype: torch.dtype = torch.float32) -> CausalWanTransformer:
    torch.manual_seed(0)
    return CausalWanTransformer(**SIZES, text_length=TEXT_LENGTH).to(dtype).eval()


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "hidden_states": draw(2, 16, 3, 6, 8),
        "timestep": torch.tensor([937.5, 250.0], dtype=torch.float64),
        "encoder_hidden_states": draw(2, TEXT_LENGTH, SIZES["text_dim"]),
    }


@pytest.mark.parametrize("head_dim", [24, 48, 64])
def test_uncached_block_equals_diffusers_in_float64(inputs: dict[str, torch.Tensor], head_dim: int) -> None:
    sizes = {**SIZES, "attention_head_dim": head_dim}
    torch.manual_seed(0)
    reference = WanTransformer3DModel(**sizes).double().eval()
    ours = CausalWanTransformer(**sizes, text_length=TEXT_LENGTH).double().eval()
    load_weights(ours, reference.state_dict(), "diffusers' class")
    with torch.no_grad():
        expected = reference(**inputs).sample
        actual = ours(**inputs)
    assert (actual - expected).norm() / expected.norm() < 1e-9


def test_per_frame_timesteps_equal_one_timestep_when_they_agree(inputs: dict[str, torch.Tensor]) -> None:
    model = build(torch.float64)
    with torch.no_grad():
        one = model(**inputs)
        inputs["timestep"] = inputs["timestep"][:, None].expand(-1, 3)
        each = model(**inputs)
    torch.testing.assert_close(each, one, rtol=1e-12, atol=1e-12)


def test_masked_frames_do_not_influence_each_other(inputs: dict[str, torch.Tensor]) -> None:
    model = build(torch.float64)
    causal = torch.ones(3, 3).tril().bool()
    with torch.no_grad():
        before = model(**inputs, frame_mask=causal)
        inputs["hidden_states"][:, :, 2] += 1.0
        after = model(**inputs, frame_mask=causal)
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.allclose(before[:, :, 2], after[:, :, 2])


def test_only_differences_of_positions_matter(inputs: dict[str, torch.Tensor]) -> None:
    model = build(torch.float64)
    with torch.no_grad():
        here = model(**inputs, frame_positions=torch.tensor([0, 1, 2]))
        later = model(**inputs, frame_positions=torch.tensor([[500, 501, 502], [7, 8, 9]]))
        apart = model(**inputs, frame_positions=torch.tensor([0, 1, 5]))
    assert (here - later).norm() / here.norm() < 1e-5
    assert (here - apart).norm() / here.norm() > 1e-3


def test_every_original_name_is_translated() -> None:
    model = build()
    ours = set(model.state_dict())
    reached = set()
    for original in original_names(model.config.num_layers):
        assert our_name(original) in ours, original
        reached.add(our_name(original))
    assert ours - reached == {"patch_embedding.weight", "patch_embedding.bias"}  # the same in both
    assert len(ORIGINAL_NAMES) == 17


def original_names(layers: int) -> list[str]:
    names = ["head.modulation"]
    for stem in (
        "text_embedding.0",
        "text_embedding.2",
        "time_embedding.0",
        "time_embedding.2",
        "time_projection.1",
        "head.head",
    ):
        names += [f"{stem}.weight", f"{stem}.bias"]
    for layer in range(layers):
        names.append(f"blocks.{layer}.modulation")
        for attention in ("self_attn", "cross_attn"):
            names += [f"blocks.{layer}.{attention}.norm_{n}.weight" for n in "qk"]
            names += [f"blocks.{layer}.{attention}.{n}.{p}" for n in "qkvo" for p in ("weight", "bias")]
        names += [f"blocks.{layer}.{stem}.{p}" for stem in ("norm3", "ffn.0", "ffn.2") for p in ("weight", "bias")]
    return names


def test_weights_that_do_not_fit_are_named() -> None:
    weights = build().state_dict()
    weights["proj_out.weight"] = weights["proj_out.weight"][:, :5]
    weights["blocks.0.surprise"] = torch.zeros(3)
    del weights["blocks.1.norm2.bias"]
    with pytest.raises(ValueError, match="does not fit") as error:
        load_weights(build(), weights, "some.safetensors")
    message = str(error.value)
    assert "proj_out.weight is [64, 5], the config expects [64, 48]" in message
    assert "blocks.1.norm2.bias [48] is missing" in message
    assert "blocks.0.surprise [3] is unexpected" in message


def test_saved_and_loaded_again(tmp_path, inputs: dict[str, torch.Tensor]) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    again = CausalWanTransformer.from_pretrained(tmp_path)
    inputs = {name: tensor.float() for name, tensor in inputs.items()}
    with torch.no_grad():
        assert torch.equal(model(**inputs), again(**inputs))


def test_time_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="patch_size"):
        CausalWanTransformer(**SIZES, patch_size=(2, 2, 2))


def test_a_prompt_longer_than_the_text_length_is_refused() -> None:
    with pytest.raises(ValueError, match="text_length = 7"):
        build().encode_text(torch.zeros(1, 8, SIZES["text_dim"]))
