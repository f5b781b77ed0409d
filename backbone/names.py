"""Translation of tensor names from the original Wan releases to ours, which are diffusers' and transformers'.

Regular expressions over whole names suffice for the transformer and the text encoder; the VAE needs a little
arithmetic, because Wan2.1's numbers all of the decoder's layers consecutively and the library by stage. Wan2.2's
numbers them by stage too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Table = tuple[tuple[str, str], ...]

# Original Wan transformer name -> ours; the first match wins.
ORIGINAL_NAMES: Table = (
    (r"text_embedding\.0\.(\w+)", r"condition_embedder.text_embedder.linear_1.\1"),
    (r"text_embedding\.2\.(\w+)", r"condition_embedder.text_embedder.linear_2.\1"),
    (r"time_embedding\.0\.(\w+)", r"condition_embedder.time_embedder.linear_1.\1"),
    (r"time_embedding\.2\.(\w+)", r"condition_embedder.time_embedder.linear_2.\1"),
    (r"time_projection\.1\.(\w+)", r"condition_embedder.time_proj.\1"),
    (r"head\.head\.(\w+)", r"proj_out.\1"),
    (r"head\.modulation", r"scale_shift_table"),
    (r"blocks\.(\d+)\.modulation", r"blocks.\1.scale_shift_table"),
    (r"blocks\.(\d+)\.norm3\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"blocks\.(\d+)\.ffn\.0\.(\w+)", r"blocks.\1.ffn.net.0.proj.\2"),
    (r"blocks\.(\d+)\.ffn\.2\.(\w+)", r"blocks.\1.ffn.net.2.\2"),
    (r"blocks\.(\d+)\.self_attn\.norm_([qk])\.weight", r"blocks.\1.attn1.norm_\2.weight"),
    (r"blocks\.(\d+)\.cross_attn\.norm_([qk])\.weight", r"blocks.\1.attn2.norm_\2.weight"),
    (r"blocks\.(\d+)\.self_attn\.([qkv])\.(\w+)", r"blocks.\1.attn1.to_\2.\3"),
    (r"blocks\.(\d+)\.cross_attn\.([qkv])\.(\w+)", r"blocks.\1.attn2.to_\2.\3"),
    (r"blocks\.(\d+)\.self_attn\.o\.(\w+)", r"blocks.\1.attn1.to_out.0.\2"),
    (r"blocks\.(\d+)\.cross_attn\.o\.(\w+)", r"blocks.\1.attn2.to_out.0.\2"),
)

# Original UMT5 encoder name -> transformers'. The gate is the branch that goes through the GELU: wi_0.
TEXT_NAMES: Table = (
    (r"token_embedding\.weight", r"shared.weight"),
    (r"norm\.weight", r"encoder.final_layer_norm.weight"),
    (r"blocks\.(\d+)\.norm1\.weight", r"encoder.block.\1.layer.0.layer_norm.weight"),
    (r"blocks\.(\d+)\.norm2\.weight", r"encoder.block.\1.layer.1.layer_norm.weight"),
    (r"blocks\.(\d+)\.attn\.([qkvo])\.weight", r"encoder.block.\1.layer.0.SelfAttention.\2.weight"),
    (
        r"blocks\.(\d+)\.pos_embedding\.embedding\.weight",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    (r"blocks\.(\d+)\.ffn\.gate\.0\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wi_0.weight"),
    (r"blocks\.(\d+)\.ffn\.fc1\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wi_1.weight"),
    (r"blocks\.(\d+)\.ffn\.fc2\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wo.weight"),
)

# Original VAE name -> diffusers', except for the last parts of the name.
VAE_PLACES: Table = (
    (r"conv1\.(.+)", r"quant_conv.\1"),
    (r"conv2\.(.+)", r"post_quant_conv.\1"),
    (r"(encoder|decoder)\.conv1\.(.+)", r"\1.conv_in.\2"),
    (r"(encoder|decoder)\.head\.0\.gamma", r"\1.norm_out.gamma"),
    (r"(encoder|decoder)\.head\.2\.(.+)", r"\1.conv_out.\2"),
    (r"(encoder|decoder)\.middle\.0\.(.+)", r"\1.mid_block.resnets.0.\2"),
    (r"(encoder|decoder)\.middle\.1\.(.+)", r"\1.mid_block.attentions.0.\2"),
    (r"(encoder|decoder)\.middle\.2\.(.+)", r"\1.mid_block.resnets.1.\2"),
    (r"encoder\.downsamples\.(\d+)\.(.+)", r"encoder.down_blocks.\1.\2"),
)
# The last parts of the name, inside a residual block.
VAE_RESIDUAL: Table = (
    (r"(.+)\.residual\.0\.gamma", r"\1.norm1.gamma"),
    (r"(.+)\.residual\.2\.(\w+)", r"\1.conv1.\2"),
    (r"(.+)\.residual\.3\.gamma", r"\1.norm2.gamma"),
    (r"(.+)\.residual\.6\.(\w+)", r"\1.conv2.\2"),
    (r"(.+)\.shortcut\.(\w+)", r"\1.conv_shortcut.\2"),
)

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")


def our_name(name: str) -> str:
    """Our name of the parameter that the original Wan transformer calls `name`; our own names are unchanged."""
    return _renamed(name, ORIGINAL_NAMES)


def text_name(name: str) -> str:
    """The name in transformers' UMT5 encoder of the original encoder's `name`; other names are unchanged."""
    return _renamed(name, TEXT_NAMES)


def vae_name(name: str, residual_blocks: int) -> str:
    """The name in diffusers' `AutoencoderKLWan` of the original VAE's `name`; other names are unchanged.

    Args:
        name: name in the original release, Wan2.1's or Wan2.2's.
        residual_blocks: number per encoder stage (2 in both); a decoder stage has one more, then its upsampler.
    """
    if staged := re.fullmatch(r"(en|de)coder\.(down|up)samples\.(\d+)\.\2samples\.(\d+)\.(.+)", name):
        half, way, stage, layer, rest = staged.groups()
        blocks = residual_blocks if way == "down" else residual_blocks + 1
        place = f"resnets.{layer}" if int(layer) < blocks else f"{way}sampler"
        placed = f"{half}coder.{way}_blocks.{stage}.{place}.{rest}"
    elif upsample := re.fullmatch(r"decoder\.upsamples\.(\d+)\.(.+)", name):
        number, layer = divmod(int(upsample[1]), residual_blocks + 2)
        place = f"resnets.{layer}" if layer <= residual_blocks else "upsamplers.0"
        placed = f"decoder.up_blocks.{number}.{place}.{upsample[2]}"
    else:
        placed = _renamed(name, VAE_PLACES)
    return _renamed(placed, VAE_RESIDUAL)


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Map names written in training to names without the wrappers of FSDP, checkpointing and compiling.

    The prefix `model.` is removed as well if all names have it.

    Raises:
        ValueError: if two names become the same.
    """
    bare = {}
    for name in names:
        bare[name] = name
        for wrapper in WRAPPERS:
            bare[name] = bare[name].replace(wrapper, "")
    if bare and all(name.startswith("model.") for name in bare.values()):
        bare = {name: clean.removeprefix("model.") for name, clean in bare.items()}
    seen: dict[str, str] = {}
    for name, clean in bare.items():
        if clean in seen:
            raise ValueError(f"{seen[clean]} and {name} are both {clean}")
        seen[clean] = name
    return bare


def _renamed(name: str, table: Table) -> str:
    for theirs, ours in table:
        if re.fullmatch(theirs, name):
            return re.sub(theirs, ours, name)
    return name
