"""Every published layout opens, and gives what the model gave that it was made from; damaged ones are refused."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from five import residual_vae
from layouts import (
    as_trained,
    original_config,
    original_text_encoder,
    original_transformer,
    original_vae,
    peft_lora,
    write_original_folder,
)
from safetensors.torch import load_file, save_file
from transformers import UMT5Config, UMT5EncoderModel

from backbone.checkpoints import load_weights, read_weights
from backbone.files import weight_files
from backbone.lora import merge, read_lora
from backbone.names import our_name
from backbone.original import (
    is_original_folder,
    open_text_encoder,
    open_transformer,
    open_vae,
    transformer_config,
)
from backbone.transformer import CausalWanTransformer
from backbone.vae import StreamingDecoder, normalize_latents

SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "text_dim": 20,
    "text_length": 7,
    "freq_dim": 32,
    "ffn_dim": 96,
    "num_layers": 2,
}


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter random, so that no two tensors can be exchanged unseen (norms are born equal)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model.eval()


@pytest.fixture(scope="module")
def transformer() -> CausalWanTransformer:
    torch.manual_seed(0)
    return randomised(CausalWanTransformer(**SIZES))


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return randomised(AutoencoderKLWan(base_dim=4, dim_mult=[1, 2, 4, 4], num_res_blocks=2))


@pytest.fixture(scope="module")
def residual() -> AutoencoderKLWan:
    return randomised(residual_vae())


@pytest.fixture(scope="module")
def text_encoder() -> UMT5EncoderModel:
    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=50, d_model=24, d_kv=6, d_ff=40, num_layers=3, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return randomised(UMT5EncoderModel(config))


def flow(model: CausalWanTransformer) -> torch.Tensor:
    with torch.no_grad():
        return model(draw(1, 16, 2, 4, 6), torch.tensor([700.0]), draw(1, 7, 20, seed=2))


def blank(transformer: CausalWanTransformer) -> CausalWanTransformer:
    with torch.device("meta"):
        return CausalWanTransformer.from_config(transformer.config)


def fill(model: torch.nn.Module, path: Path) -> None:
    read = read_weights(path)
    load_weights(model, read.tensors, read.source)


# ---- the original folder ----


def test_the_original_folder_opens(transformer, vae, text_encoder, tmp_path):
    (tmp_path / "tokenizer").mkdir()
    folder = write_original_folder(tmp_path / "Wan2.1", transformer, vae, text_encoder, tmp_path / "tokenizer")
    assert is_original_folder(folder)
    opened = open_transformer(folder)
    torch.testing.assert_close(flow(opened), flow(transformer), rtol=1e-5, atol=1e-5)
    assert opened.config.rope_max_seq_len == 1024

    video = draw(1, 3, 5, 32, 48).clamp(-1, 1)
    latents = draw(1, 16, 2, 4, 6)
    opened_vae = open_vae(folder / "Wan2.1_VAE.pth")
    with torch.no_grad():
        encoded, expected = opened_vae.encode(video).latent_dist.mode(), vae.encode(video).latent_dist.mode()
        torch.testing.assert_close(encoded, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(opened_vae.decode(latents).sample, vae.decode(latents).sample, rtol=1e-5, atol=1e-5)
    for field in ("base_dim", "dim_mult", "num_res_blocks", "temperal_downsample", "latents_mean", "latents_std"):
        assert opened_vae.config[field] == vae.config[field], field

    opened_text = open_text_encoder(folder / "models_t5_umt5-xxl-enc-bf16.pth")
    ids = torch.arange(1, 41)[None] % 50
    mask = (ids > 5).long()
    with torch.no_grad():
        states = opened_text(input_ids=ids, attention_mask=mask).last_hidden_state
        expected = text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)


def test_the_residual_vae_opens(residual, tmp_path):
    """Wan2.2's: its layers are numbered by stage, and the statistics of its latents are not in the file."""
    torch.save(original_vae(residual), tmp_path / "Wan2.2_VAE.pth")
    opened = open_vae(tmp_path / "Wan2.2_VAE.pth")
    ours, theirs = ({**model.config} for model in (opened, residual))
    for config in (ours, theirs):
        mean, std = config.pop("latents_mean"), config.pop("latents_std")
        if config is ours:
            assert (len(mean), mean[0], mean[-1]) == (48, -0.2289, -0.0667)
            assert (len(std), std[0], std[-1]) == (48, 0.4765, 0.7744)
    assert ours == theirs
    pixels, latents = draw(1, 3, 13, 32, 48).clamp(-1, 1), draw(1, 48, 4, 2, 3)
    with torch.no_grad():
        encoded, expected = (vae.encode(pixels).latent_dist.mode() for vae in (opened, residual))
        torch.testing.assert_close(encoded, expected, rtol=1e-5, atol=1e-5)
        decoded, expected = (vae.decode(latents).sample for vae in (opened, residual))
        torch.testing.assert_close(decoded, expected, rtol=1e-5, atol=1e-5)
        streaming = StreamingDecoder(opened)
        parts = [streaming.decode(part) for part in normalize_latents(opened, latents).split((1, 2, 1), dim=2)]
    torch.testing.assert_close(torch.cat(parts, dim=2), expected, rtol=1e-4, atol=1e-4)


def test_a_text_and_image_model_is_read_as_a_text_model(transformer):
    ours = [transformer_config(original_config(transformer, kind), "config.json") for kind in ("t2v", "ti2v")]
    assert ours[0] == ours[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "i2v"}, "model_type is 'i2v'; this project supports only 't2v' and 'ti2v'"),
        ({"dim": 50, "num_heads": 4}, "dim 50 is not a multiple of num_heads 4"),
        ({"colour": 3}, "has the unknown field colour"),
        ({"qk_norm": False}, "qk_norm is False"),
    ],
)
def test_other_configs_are_refused(transformer, change, message):
    with pytest.raises(ValueError, match=message):
        transformer_config({**original_config(transformer), **change}, "config.json")


def test_a_config_without_its_sizes_is_refused(transformer):
    config = original_config(transformer)
    del config["ffn_dim"], config["num_layers"]
    with pytest.raises(ValueError, match="lacks ffn_dim, num_layers; is it a config of"):
        transformer_config(config, "config.json")


# ---- training checkpoints ----


@pytest.mark.parametrize("section", ["generator", "generator_ema", "model", None])
@pytest.mark.parametrize("fsdp", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_training_checkpoints(transformer, tmp_path, section, fsdp, suffix):
    weights, path = as_trained(original_transformer(transformer), fsdp), tmp_path / f"model{suffix}"
    if suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({section: weights, "step": 3} if section else weights, path)
    read = read_weights(path)
    assert read.left_out == (("step",) if section and suffix == ".pt" else ())
    model = blank(transformer)
    load_weights(model, read.tensors, read.source)
    torch.testing.assert_close(flow(model.eval()), flow(transformer), rtol=1e-5, atol=1e-5)


def test_of_two_sections_one_is_chosen(transformer, tmp_path):
    path, ours = tmp_path / "model.pt", original_transformer(transformer)
    other = {name: tensor + 1 for name, tensor in ours.items()}
    torch.save({"generator": ours, "generator_ema": other}, path)
    with pytest.raises(ValueError, match="has the sections generator and generator_ema; choose one: section generator"):
        read_weights(path)
    assert torch.equal(read_weights(path, "generator_ema").tensors["head.head.bias"], other["head.head.bias"])
    with pytest.raises(ValueError, match="has no section 'critic'; it has generator, generator_ema"):
        read_weights(path, "critic")


def test_the_old_pickle_form_is_read(transformer, tmp_path):
    torch.save(original_transformer(transformer), tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    assert len(read_weights(tmp_path / "m.pth").tensors) == len(transformer.state_dict())


def test_shards(transformer, tmp_path):
    index = write_shards(original_transformer(transformer), tmp_path)
    model = blank(transformer)
    load_weights(model, read_weights(index).tensors, "shards")
    torch.testing.assert_close(flow(model.eval()), flow(transformer), rtol=1e-5, atol=1e-5)


def write_shards(weights: dict[str, torch.Tensor], folder: Path) -> Path:
    names = sorted(weights)
    files = {"a.safetensors": names[: len(names) // 2], "b.safetensors": names[len(names) // 2 :]}
    for file, inside in files.items():
        save_file({name: weights[name] for name in inside}, folder / file)
    weight_map = {name: file for file, inside in files.items() for name in inside}
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    return index


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "b.safetensors").unlink(), "names b.safetensors, which is not in"),
        (lambda folder: save_file({"x": torch.zeros(2)}, folder / "b.safetensors"), "but it is not"),
        (lambda folder: edit_index(folder, lambda m: m.popitem()), "does not list .*, which is in one of its files"),
        (lambda folder: edit_index(folder, lambda m: m.clear()), "it has no weight_map"),
        (
            lambda folder: edit_index(folder, lambda m: m.update(x="../x.safetensors")),
            "a shard must be in the same folder as its index",
        ),
        (
            lambda folder: edit_index(folder, lambda m: m.update(x="b.data")),
            r"names the file 'b\.data'; a shard's name must end in \.safetensors",
        ),
        (lambda folder: double(folder), "which is also in another file of"),
    ],
)
def test_damaged_shards(transformer, tmp_path, damage, message):
    index = write_shards(original_transformer(transformer), tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_weights(index)


def edit_index(folder: Path, edit: Callable) -> None:
    path = folder / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(path.read_text())
    edit(content["weight_map"])
    path.write_text(json.dumps(content))


def double(folder: Path) -> None:
    both = load_file(folder / "b.safetensors")
    name, tensor = next(iter(load_file(folder / "a.safetensors").items()))
    save_file({**both, name: tensor}, folder / "b.safetensors")


def test_a_part_of_a_folder_is_whole(tmp_path, transformer):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        weight_files(tmp_path)
    write_shards(original_transformer(transformer), tmp_path)
    assert [path.name for path in weight_files(tmp_path)] == ["a.safetensors", "b.safetensors"]
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ValueError, match="is the download complete"):
        weight_files(tmp_path)


# ---- what can be wrong with a file ----


def without(name: str) -> Callable:
    return lambda weights: weights.pop(name)


def changed(name: str, edit: Callable) -> Callable:
    return lambda weights: weights.update({name: edit(weights[name])})


def renamed(name: str, to: str) -> Callable:
    return lambda weights: weights.update({to: weights.pop(name)})


MUTATIONS = {
    "a missing bias": (without("head.head.bias"), r"proj_out.bias \[64\] is missing"),
    "a missing modulation": (without("blocks.1.modulation"), r"blocks.1.scale_shift_table \[1, 6, 48\] is missing"),
    "a missing layer": (without("blocks.0.ffn.2.weight"), r"blocks.0.ffn.net.2.weight \[48, 96\] is missing"),
    "an extra tensor": (lambda w: w.update(extra=torch.zeros(3)), r"extra \[3\] is unexpected"),
    "an extra block": (
        lambda w: w.update({"blocks.2.modulation": torch.zeros(1, 6, 48)}),
        r"blocks.2.modulation \[1, 6, 48\] is unexpected",
    ),
    "an image model's tensor": (
        lambda w: w.update({"blocks.0.cross_attn.k_img.weight": torch.zeros(48, 48)}),
        r"blocks.0.cross_attn.k_img.weight \[48, 48\] is unexpected",
    ),
    "a short row": (
        changed("head.head.weight", lambda t: t[:, :5].clone()),
        r"proj_out.weight \(head.head.weight in the file\) is \[64, 5\], the config expects \[64, 48\]",
    ),
    "a transposed matrix": (
        changed("blocks.0.ffn.0.weight", lambda t: t.T.contiguous()),
        r"blocks.0.ffn.0.weight in the file\) is \[48, 96\], the config expects \[96, 48\]",
    ),
    "another patch": (changed("patch_embedding.weight", lambda t: t[..., :1].clone()), r"patch_embedding.weight is"),
    "a scalar": (changed("blocks.0.norm3.bias", lambda t: t[0].clone()), r"is \[\], the config expects \[48\]"),
    "a misnamed tensor": (renamed("head.head.bias", "head.haed.bias"), r"head.haed.bias \[64\] is unexpected"),
    "a misnamed block": (renamed("blocks.1.norm3.bias", "block.1.norm3.bias"), "blocks.1.norm2.bias .* is missing"),
    "one name twice": (
        lambda w: w.update({"proj_out.bias": torch.zeros(64)}),
        "names one tensor twice: head.head.bias and proj_out.bias",
    ),
    "whole numbers": (changed("head.head.bias", torch.Tensor.long), "head.head.bias is int64; weights must be float32"),
    "8-bit floats": (
        changed("head.head.weight", lambda t: t.to(torch.float8_e4m3fn)),
        "head.head.weight is float8_e4m3fn; weights must be",
    ),
    "doubles": (changed("head.head.bias", torch.Tensor.double), "head.head.bias is float64"),
    "truth values": (changed("head.head.bias", torch.Tensor.bool), "head.head.bias is bool"),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutated_checkpoints_are_refused(transformer, tmp_path, mutation, suffix):
    mutate, message = MUTATIONS[mutation]
    weights, path = original_transformer(transformer), tmp_path / f"weights{suffix}"
    mutate(weights)
    save_file(weights, path) if suffix == ".safetensors" else torch.save({"generator": weights}, path)
    model = blank(transformer)
    with pytest.raises(ValueError, match=message) as error:
        fill(model, path)
    assert str(path) in str(error.value)
    assert all(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_files_that_are_cut_off_are_refused(transformer, tmp_path, suffix, kept):
    weights, path = original_transformer(transformer), tmp_path / f"weights{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=rf"weights{suffix} is damaged"):
        read_weights(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_weight_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"<html>404 not found</html>" * 10)
    with pytest.raises(ValueError, match=rf"weights{suffix} (is damaged|holds something)"):
        read_weights(path)
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        read_weights(tmp_path / "weights.gguf")


def test_a_header_that_lies_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    header = json.dumps({"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match="its header can't be read"):
        read_weights(path)
    path.write_bytes((10**9).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="its header does not fit its"):
        read_weights(path)


class Trap:
    """Pickled code: touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "old", "plain pickle", "beside tensors", "as a name"])
def test_code_in_a_pickle_is_never_run(transformer, tmp_path, form):
    trap, path = Trap(tmp_path / "sprung"), tmp_path / "weights.pt"
    weights = original_transformer(transformer)
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(trap, protocol=2))
    elif form == "as a name":
        torch.save({"generator": {**weights, "step": trap}}, path)
    else:
        content = {"generator": weights, "args": trap} if form == "beside tensors" else trap
        torch.save(content, path, _use_new_zipfile_serialization=form != "old")
    with pytest.raises(ValueError, match=r"holds \w+.mkdir, which is not a weight; it was not opened, and nothing"):
        read_weights(path)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(trap))  # the trap works
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds a list, not a set of tensors"),
        ({}, "holds no tensors"),
        ({"generator": {"a": 3}}, r"\(generator\): 'a' is a int, not a tensor"),
        ({"generator": {1: torch.zeros(2)}}, "1 is a Tensor, not a tensor|1 is a"),
        ({"a": torch.zeros(2), "step": 3}, "'step' is a int, not a tensor"),
        ({"a": torch.zeros(4).to_sparse()}, "a is not a plain tensor with data"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "weights.pt")


# ---- VAE and text encoder, mutated ----


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (without("decoder.upsamples.3.time_conv.bias"), "decoder.up_blocks.0.upsamplers.0.time_conv.bias .* missing"),
        (without("encoder.conv1.weight"), "is not a Wan VAE: it has no encoder.conv1.weight"),
        (without("encoder.downsamples.3.residual.2.weight"), "it has no encoder.downsamples.3.residual.2.weight"),
        (lambda w: w.update({"model.encoder.x": torch.zeros(1)}), r"model.encoder.x \[1\] is unexpected"),
        (changed("conv2.weight", lambda t: t[:8].clone()), "has 8 latent channels"),
        (
            changed("decoder.upsamples.14.residual.6.weight", lambda t: t[:, :1].clone()),
            r"decoder.up_blocks.3.resnets.2.conv2.weight \(decoder.upsamples.14.residual.6.weight in the file\)",
        ),
        (renamed("decoder.head.0.gamma", "decoder.head.1.gamma"), r"decoder.norm_out.gamma \[4, 1, 1, 1\] is missing"),
        (lambda w: w.clear(), "holds no tensors"),
        (lambda w: [w.pop(name) for name in list(w) if "resample" in name], "it has no encoder.downsamples.N.resample"),
    ],
)
def test_mutated_vaes_are_refused(vae, tmp_path, mutate, message):
    weights = original_vae(vae)
    mutate(weights)
    torch.save(weights, tmp_path / "Wan2.1_VAE.pth")
    with pytest.raises(ValueError, match=message):
        open_vae(tmp_path / "Wan2.1_VAE.pth")


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (without("decoder.upsamples.1.upsamples.3.time_conv.bias"), "up_blocks.1.upsampler.time_conv.bias .* missing"),
        (without("encoder.downsamples.2.downsamples.1.residual.6.bias"), "down_blocks.2.resnets.1.conv2.bias .* missi"),
        (without("encoder.downsamples.3.downsamples.0.residual.2.weight"), "no encoder.downsamples.3.downsamples.0"),
        (without("decoder.head.2.weight"), "is not a Wan VAE: it has no decoder.head.2.weight"),
        (changed("encoder.conv1.weight", lambda t: t[:, :11].clone()), "reads 11 channels, which no square patch"),
        (changed("encoder.conv1.weight", lambda t: t[:0].clone()), r"its encoder.conv1.weight is \[0, 12, 3, 3, 3\]"),
        (changed("decoder.head.2.weight", lambda t: t[0, 0, 0, 0]), r"its decoder.head.2.weight is \[3\]"),
        (
            changed("encoder.conv1.weight", lambda t: t[:3].clone()),
            r"stages are \[4, 8, 16, 16\] wide, which are not all",
        ),
        (changed("conv2.weight", lambda t: t[:16].clone()), "16 latent channels; the statistics of Wan2.2's .* for 48"),
        (
            changed("decoder.upsamples.3.upsamples.0.shortcut.weight", lambda t: t[:, :1].clone()),
            r"conv_shortcut.weight \(decoder.upsamples.3.upsamples.0.shortcut.weight in the file\) is \[6, 1, ",
        ),
        (
            renamed("decoder.upsamples.0.upsamples.2.residual.0.gamma", "decoder.upsamples.0.upsamples.4.x"),
            "up_blocks.0.resnets.2.norm1.gamma .* is missing",
        ),
    ],
)
def test_mutated_residual_vaes_are_refused(residual, tmp_path, mutate, message):
    weights = original_vae(residual)
    mutate(weights)
    torch.save(weights, tmp_path / "Wan2.2_VAE.pth")
    with pytest.raises(ValueError, match=message) as refused:
        open_vae(tmp_path / "Wan2.2_VAE.pth")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (without("token_embedding.weight"), "is not a Wan UMT5 encoder: it has no token_embedding.weight"),
        (without("blocks.1.ffn.gate.0.weight"), "encoder.block.1.layer.1.DenseReluDense.wi_0.weight .* is missing"),
        (without("blocks.2.pos_embedding.embedding.weight"), "relative_attention_bias.weight .* is missing"),
        (changed("norm.weight", lambda t: t[:3].clone()), r"\(norm.weight in the file\) is \[3\], the config expects"),
        (lambda w: w.update({"head.weight": torch.zeros(2, 2)}), r"head.weight \[2, 2\] is unexpected"),
    ],
)
def test_mutated_text_encoders_are_refused(text_encoder, tmp_path, mutate, message):
    weights = original_text_encoder(text_encoder)
    mutate(weights)
    torch.save(weights, tmp_path / "t5.pth")
    with pytest.raises(ValueError, match=message):
        open_text_encoder(tmp_path / "t5.pth")


# ---- LoRA ----


@pytest.mark.parametrize("section", [None, "generator_lora"])
@pytest.mark.parametrize("names", ["plain", "default", "wrapped"])
def test_lora_is_merged_exactly(transformer, tmp_path, section, names):
    pairs, path = peft_lora(transformer, rank=3), tmp_path / "lora.pt"
    if names == "default":
        pairs = {name.replace(".weight", ".default.weight"): tensor for name, tensor in pairs.items()}
    if names == "wrapped":
        inside = "base_model.model._fsdp_wrapped_module."
        pairs = {name.replace("base_model.model.", inside): tensor for name, tensor in pairs.items()}
    torch.save({section: pairs} if section else pairs, path)
    lora = read_lora(path, alpha=6.0)
    assert (lora.rank, len(lora.pairs)) == (3, 2 * 10)
    weights = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    merge(weights, lora)
    for name, before in original_transformer(transformer).items():
        a = next((t for n, t in pairs.items() if f".{name.removesuffix('.weight')}.lora_A" in n), None)
        b = next((t for n, t in pairs.items() if f".{name.removesuffix('.weight')}.lora_B" in n), None)
        expected = before if a is None else (before.double() + 2.0 * b.double() @ a.double()).float()
        torch.testing.assert_close(weights[our_name(name)], expected, rtol=1e-6, atol=1e-6)


def test_a_switchable_lora_equals_the_merged_one(transformer, tmp_path):
    pytest.importorskip("peft")
    torch.save({"generator_lora": peft_lora(transformer, rank=3)}, tmp_path / "lora.pt")
    lora = read_lora(tmp_path / "lora.pt", alpha=6.0)
    merged = blank(transformer)
    weights = dict(transformer.state_dict())
    merge(weights, lora)
    load_weights(merged, weights, "merged")
    switchable = CausalWanTransformer.from_config(transformer.config)
    switchable.load_state_dict(transformer.state_dict())
    switchable.load_lora_adapter(lora.for_diffusers(), adapter_name="longlive", prefix="transformer")
    before, with_it = flow(transformer), flow(merged.eval())
    assert (with_it - before).norm() > 1e-2 * before.norm()
    torch.testing.assert_close(flow(switchable.eval()), with_it, rtol=1e-4, atol=1e-5)
    switchable.disable_adapters()
    torch.testing.assert_close(flow(switchable), before, rtol=1e-5, atol=1e-5)


def test_alpha_is_never_guessed(transformer, tmp_path):
    save_file(peft_lora(transformer, rank=4), tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"does not state its alpha \(its rank is 4\); give lora_alpha"):
        read_lora(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8, "r": 4}')
    assert read_lora(tmp_path / "adapter_model.safetensors").alpha == 8.0
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no lora_alpha"):
        read_lora(tmp_path / "adapter_model.safetensors")


FIRST = "base_model.model.blocks.0.self_attn.q.lora"


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (without(f"{FIRST}_B.weight"), "has lora_A of blocks.0.attn1.to_q, but not the other half"),
        (changed(f"{FIRST}_B.weight", lambda t: t[:, :2].clone()), "has rank 3, its lora_B 2"),
        (
            lambda w: (
                changed(f"{FIRST}_A.weight", lambda t: t[:2])(w),
                changed(f"{FIRST}_B.weight", lambda t: t[:, :2])(w),
            ),
            "has several ranks: 3 .*, 2 ",
        ),
        (renamed(f"{FIRST}_A.weight", f"{FIRST}_magnitude_vector"), "is not half of a LoRA pair"),
        (lambda w: w.update({f"{FIRST}_A.default.weight": w[f"{FIRST}_A.weight"]}), "has lora_A of .* twice"),
        (changed(f"{FIRST}_A.weight", lambda t: t[None]), r"is \[1, 3, 48\]; only linear layers"),
    ],
)  # fmt: skip
def test_mutated_loras_are_refused(transformer, tmp_path, mutate, message):
    pairs = peft_lora(transformer, rank=3)
    mutate(pairs)
    torch.save(pairs, tmp_path / "lora.pt")
    with pytest.raises(ValueError, match=message):
        read_lora(tmp_path / "lora.pt", alpha=3.0)


def test_a_lora_of_another_model_is_refused_and_nothing_changes(transformer, tmp_path):
    pairs = peft_lora(transformer, rank=3)
    changed(f"{FIRST}_A.weight", lambda t: t[:, :7].clone())(pairs)
    renamed("base_model.model.blocks.1.ffn.0.lora_A.weight", "base_model.model.blocks.9.ffn.0.lora_A.weight")(pairs)
    renamed("base_model.model.blocks.1.ffn.0.lora_B.weight", "base_model.model.blocks.9.ffn.0.lora_B.weight")(pairs)
    torch.save(pairs, tmp_path / "lora.pt")
    weights = dict(transformer.state_dict())
    message = r"blocks.0.attn1.to_q is an update of \[48, 7\].*; blocks.9.ffn.net.0.proj is not in the backbone"
    with pytest.raises(ValueError, match=message):
        merge(weights, read_lora(tmp_path / "lora.pt", alpha=3.0))
    assert all(torch.equal(weights[name], tensor) for name, tensor in transformer.state_dict().items())
