"""Checkpoints in the layouts of the published releases, made from models at hand.

The names are written out here as the original modules nest, by walking the libraries' modules one by one: nothing is
shared with the tables in `backbone.names`, which must undo this.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, WanResidualBlock
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from backbone.transformer import CausalWanTransformer

Put = Callable[[str, nn.Module], None]


def original_transformer(model: CausalWanTransformer) -> dict[str, Tensor]:
    """Its weights under the names of the original release."""
    named: dict[str, Tensor] = {"head.modulation": model.scale_shift_table.detach()}
    put = _putter(named)
    put("patch_embedding", model.patch_embedding)
    put("text_embedding.0", model.condition_embedder.text_embedder.linear_1)
    put("text_embedding.2", model.condition_embedder.text_embedder.linear_2)
    put("time_embedding.0", model.condition_embedder.time_embedder.linear_1)
    put("time_embedding.2", model.condition_embedder.time_embedder.linear_2)
    put("time_projection.1", model.condition_embedder.time_proj)
    put("head.head", model.proj_out)
    for number, block in enumerate(model.layers):
        here = f"blocks.{number}"
        named[f"{here}.modulation"] = block.scale_shift_table.detach()
        put(f"{here}.norm3", block.norm2)
        put(f"{here}.ffn.0", block.ffn.net[0].proj)
        put(f"{here}.ffn.2", block.ffn.net[2])
        for name, attention in (("self_attn", block.attn1), ("cross_attn", block.attn2)):
            put(f"{here}.{name}.q", attention.to_q)
            put(f"{here}.{name}.k", attention.to_k)
            put(f"{here}.{name}.v", attention.to_v)
            put(f"{here}.{name}.o", attention.to_out[0])
            put(f"{here}.{name}.norm_q", attention.norm_q)
            put(f"{here}.{name}.norm_k", attention.norm_k)
    return named


def original_vae(vae: AutoencoderKLWan) -> dict[str, Tensor]:
    """Its weights under the names of the original `Wan2.1_VAE.pth`, or of `Wan2.2_VAE.pth` if it is residual."""
    named: dict[str, Tensor] = {}
    put = _putter(named)
    put("conv1", vae.quant_conv)
    put("conv2", vae.post_quant_conv)
    for name, half in (("encoder", vae.encoder), ("decoder", vae.decoder)):
        put(f"{name}.conv1", half.conv_in)
        _put_residual(put, f"{name}.middle.0", half.mid_block.resnets[0])
        put(f"{name}.middle.1.norm", half.mid_block.attentions[0].norm)
        put(f"{name}.middle.1.to_qkv", half.mid_block.attentions[0].to_qkv)
        put(f"{name}.middle.1.proj", half.mid_block.attentions[0].proj)
        _put_residual(put, f"{name}.middle.2", half.mid_block.resnets[1])
        put(f"{name}.head.0", half.norm_out)
        put(f"{name}.head.2", half.conv_out)
    if vae.config.is_residual:
        _put_stages(put, vae)
        return named
    for number, layer in enumerate(vae.encoder.down_blocks):
        _put_layer(put, f"encoder.downsamples.{number}", layer)
    row = [layer for stage in vae.decoder.up_blocks for layer in (*stage.resnets, *(stage.upsamplers or ()))]
    for number, layer in enumerate(row):
        _put_layer(put, f"decoder.upsamples.{number}", layer)
    return named


def original_text_encoder(encoder: UMT5EncoderModel) -> dict[str, Tensor]:
    """Its weights under the names of the original `models_t5_umt5-xxl-enc-bf16.pth`."""
    named: dict[str, Tensor] = {}
    put = _putter(named)
    put("token_embedding", encoder.shared)
    put("norm", encoder.encoder.final_layer_norm)
    for number, block in enumerate(encoder.encoder.block):
        here = f"blocks.{number}"
        attention, feed_forward = block.layer[0].SelfAttention, block.layer[1].DenseReluDense
        put(f"{here}.norm1", block.layer[0].layer_norm)
        put(f"{here}.norm2", block.layer[1].layer_norm)
        put(f"{here}.pos_embedding.embedding", attention.relative_attention_bias)
        for name in "qkvo":
            put(f"{here}.attn.{name}", getattr(attention, name))
        put(f"{here}.ffn.gate.0", feed_forward.wi_0)
        put(f"{here}.ffn.fc1", feed_forward.wi_1)
        put(f"{here}.ffn.fc2", feed_forward.wo)
    return named


def original_config(model: CausalWanTransformer, model_type: str = "t2v") -> dict[str, object]:
    """The `config.json` beside an original transformer."""
    config = model.config
    return {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "dim": config.num_attention_heads * config.attention_head_dim,
        "eps": config.eps,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "in_dim": config.in_channels,
        "model_type": model_type,
        "num_heads": config.num_attention_heads,
        "num_layers": config.num_layers,
        "out_dim": config.out_channels,
        "text_len": config.text_length,
        "text_dim": config.text_dim,
    }


def write_original_folder(
    folder: Path,
    transformer: CausalWanTransformer,
    vae: AutoencoderKLWan,
    text_encoder: UMT5EncoderModel,
    tokenizer_folder: Path,
) -> Path:
    """The original release's folder: Wan2.2's if the VAE is residual, else Wan2.1's."""
    folder.mkdir(parents=True)
    model_type, vae_file = ("ti2v", "Wan2.2_VAE.pth") if vae.config.is_residual else ("t2v", "Wan2.1_VAE.pth")
    (folder / "config.json").write_text(json.dumps(original_config(transformer, model_type)))
    save_file(original_transformer(transformer), folder / "diffusion_pytorch_model.safetensors")
    torch.save(original_vae(vae), folder / vae_file)
    torch.save(original_text_encoder(text_encoder), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    shutil.copytree(tokenizer_folder, folder / "google" / "umt5-xxl")
    return folder


def as_trained(weights: dict[str, Tensor], fsdp: bool = True) -> dict[str, Tensor]:
    """Names as a wrapped generator's state has them: `model._fsdp_wrapped_module.blocks.0._fsdp_wrapped_module...`."""
    wrapper = "_fsdp_wrapped_module." if fsdp else ""
    named = {}
    for name, tensor in weights.items():
        parts = name.split(".")
        inner = ".".join([*parts[:2], f"{wrapper}{parts[2]}", *parts[3:]]) if parts[0] == "blocks" else name
        named[f"model.{wrapper}{inner}"] = tensor
    return named


def peft_lora(model: CausalWanTransformer, rank: int, seed: int = 0) -> dict[str, Tensor]:
    """A random LoRA of all of a block's linear layers, in peft's naming of original names."""
    generator = torch.Generator().manual_seed(seed)
    named = {}
    for name, weight in original_transformer(model).items():
        if name.startswith("blocks.") and name.endswith(".weight") and weight.ndim == 2:
            outputs, inputs = weight.shape
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            named[f"{layer}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) / inputs
            named[f"{layer}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator)
    return named


def _putter(named: dict[str, Tensor]) -> Put:
    def put(name: str, module: nn.Module) -> None:
        for parameter, tensor in module.named_parameters(recurse=False):
            named[f"{name}.{parameter}"] = tensor.detach()

    return put


def _put_residual(put: Put, name: str, block: WanResidualBlock) -> None:
    put(f"{name}.residual.0", block.norm1)
    put(f"{name}.residual.2", block.conv1)
    put(f"{name}.residual.3", block.norm2)
    put(f"{name}.residual.6", block.conv2)
    put(f"{name}.shortcut", block.conv_shortcut)


def _put_stages(put: Put, vae: AutoencoderKLWan) -> None:
    """The stages of a residual VAE: each numbers its own layers, what changes the resolution last."""
    for number, stage in enumerate(vae.encoder.down_blocks):
        for layer, module in enumerate((*stage.resnets, *filter(None, [stage.downsampler]))):
            _put_layer(put, f"encoder.downsamples.{number}.downsamples.{layer}", module)
    for number, stage in enumerate(vae.decoder.up_blocks):
        for layer, module in enumerate((*stage.resnets, *filter(None, [stage.upsampler]))):
            _put_layer(put, f"decoder.upsamples.{number}.upsamples.{layer}", module)


def _put_layer(put: Put, name: str, layer: nn.Module) -> None:
    if isinstance(layer, WanResample):
        put(f"{name}.resample.1", layer.resample[1])
        if hasattr(layer, "time_conv"):
            put(f"{name}.time_conv", layer.time_conv)
    else:
        assert isinstance(layer, WanResidualBlock)
        _put_residual(put, name, layer)
