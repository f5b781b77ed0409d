"""The original Wan2.1 release: one folder of files under its own names, opened as the libraries' classes.

    config.json, diffusion_pytorch_model.safetensors     the transformer
    Wan2.1_VAE.pth                                       the VAE
    models_t5_umt5-xxl-enc-bf16.pth, google/umt5-xxl/    the text encoder and its tokenizer

Of Wan2.2 (`Wan2.2_VAE.pth`) only diffusers' folder is read.

Only the transformer comes with a config. The sizes of the other two are read off their tensors' shapes; what shapes
can't say (normalisation of the latents, position buckets) is the same in every Wan2.1 and UMT5.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from transformers import UMT5Config, UMT5EncoderModel

from backbone.checkpoints import load_weights, read_weights
from backbone.files import CONFIG, INDEX, SINGLE, read_json
from backbone.names import text_name, unwrapped, vae_name
from backbone.transformer import CausalWanTransformer

VAE_FILE = "Wan2.1_VAE.pth"
RESIDUAL_VAE_FILE = "Wan2.2_VAE.pth"
TEXT_FILES = ("models_t5_umt5-xxl-enc-bf16.pth", "models_t5_umt5-xxl-enc-bf16.safetensors")
TOKENIZER = Path("google") / "umt5-xxl"

# Field of the original config -> ours.
CONFIG_FIELDS = {
    "num_layers": "num_layers",
    "ffn_dim": "ffn_dim",
    "freq_dim": "freq_dim",
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    "text_len": "text_length",
    "text_dim": "text_dim",
    "eps": "eps",
    "patch_size": "patch_size",
    "cross_attn_norm": "cross_attn_norm",
}
# Fields that don't change the function here, or that only one value is read of.
OTHER_FIELDS = {
    "dim": None,
    "num_heads": None,
    "model_type": "t2v",
    "qk_norm": True,
    "window_size": [-1, -1],
    "_class_name": None,
    "_diffusers_version": None,
}


def refuse_residual_vae(folder: Path) -> None:
    """Raise ValueError if this is the original release of Wan2.2: how its VAE is laid out is not known here."""
    if (folder / RESIDUAL_VAE_FILE).is_file():
        raise ValueError(
            f"{folder / RESIDUAL_VAE_FILE} is Wan2.2's VAE, which is read in diffusers' layout only; "
            "give diffusers' folder of the same weights (with a model_index.json)"
        )


def is_original_folder(folder: Path) -> bool:
    """Whether this looks like the original release: its config has the original field names."""
    return (folder / CONFIG).is_file() and "num_heads" in read_json(folder / CONFIG)


def transformer_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The original `config.json` in our words.

    Raises:
        ValueError: if a field is missing, unknown, or says that this is not a text-to-video model.
    """
    missing = {"dim", "num_heads", "num_layers", "ffn_dim"} - set(config)
    unknown = set(config) - set(CONFIG_FIELDS) - set(OTHER_FIELDS)
    for what, names in (("lacks", missing), ("has the unknown field", unknown)):
        if names:
            raise ValueError(f"{source} {what} {', '.join(sorted(names))}; is it a config of Wan2.1?")
    for name, only in OTHER_FIELDS.items():
        if only is not None and config.get(name, only) != only:
            raise ValueError(f"{source}: {name} is {config[name]!r}; this project supports only {only!r}")
    if config["dim"] % config["num_heads"]:
        raise ValueError(f"{source}: dim {config['dim']} is not a multiple of num_heads {config['num_heads']}")
    return {
        "num_attention_heads": config["num_heads"],
        "attention_head_dim": config["dim"] // config["num_heads"],
        **{ours: config[name] for name, ours in CONFIG_FIELDS.items() if name in config},
    }


def open_transformer(folder: Path) -> CausalWanTransformer:
    """The transformer of an original folder, memory-mapped, in the file's dtype."""
    config = transformer_config(read_json(folder / CONFIG), str(folder / CONFIG))
    path = _first(folder, (*INDEX, *SINGLE))
    with torch.device("meta"):
        model = CausalWanTransformer(**config)
    weights = read_weights(path)
    load_weights(model, weights.tensors, weights.source)
    return model.eval()


def open_vae(path: Path) -> AutoencoderKLWan:
    """The VAE of an original file such as `Wan2.1_VAE.pth`, in the file's dtype."""
    weights = read_weights(path)
    config = vae_config({name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}, weights.source)
    with torch.device("meta"):
        model = AutoencoderKLWan(**config)
    rename = functools.partial(vae_name, residual_blocks=config["num_res_blocks"])
    load_weights(model, weights.tensors, weights.source, rename)
    return model.eval()


def open_text_encoder(path: Path) -> UMT5EncoderModel:
    """The text encoder of an original file such as `models_t5_umt5-xxl-enc-bf16.pth`, in the file's dtype."""
    weights = read_weights(path)
    config = text_config({name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}, weights.source)
    with torch.device("meta"):
        model = UMT5EncoderModel(UMT5Config(**config))
    load_weights(model, weights.tensors, weights.source, text_name)
    model.config.dtype = next(iter(weights.tensors.values())).dtype
    return model.eval()


def vae_config(shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, Any]:
    """`AutoencoderKLWan`'s arguments, from the shapes of an original VAE's tensors.

    Raises:
        ValueError: if they are not a Wan2.1 VAE's.
    """
    shapes = _bare(shapes)
    look = functools.partial(_shape, shapes, source, "VAE")
    pattern = r"encoder\.downsamples\.(\d+)\.resample\.1\.weight"
    downsamples = sorted(int(m[1]) for name in shapes if (m := re.fullmatch(pattern, name)))
    if not downsamples:
        raise ValueError(f"{source} is not a Wan2.1 VAE: it has no encoder.downsamples.N.resample.1.weight")
    base, residual_blocks = look("encoder.conv1.weight")[0], downsamples[0]
    stages = range(len(downsamples) + 1)
    firsts = [look(f"encoder.downsamples.{stage * (residual_blocks + 1)}.residual.2.weight") for stage in stages]
    in_time = [f"encoder.downsamples.{layer}.time_conv.weight" in shapes for layer in downsamples]
    z_dim = look("conv2.weight")[0]
    if z_dim != len(_vae_defaults()["latents_mean"]):
        raise ValueError(f"{source} has {z_dim} latent channels; the statistics of Wan2.1's latents are for 16")
    return {
        "base_dim": base,
        "z_dim": z_dim,
        "dim_mult": [first[0] // base for first in firsts],
        "num_res_blocks": residual_blocks,
        "temperal_downsample": in_time,
        "scale_factor_temporal": 2 ** sum(in_time),
        "scale_factor_spatial": 2 ** len(downsamples),
    }


def text_config(shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, Any]:
    """`UMT5Config`'s arguments, from the shapes of an original UMT5 encoder's tensors.

    Raises:
        ValueError: if they are not a UMT5 encoder's.
    """
    shapes = _bare(shapes)
    look = functools.partial(_shape, shapes, source, "UMT5 encoder")
    vocabulary, width = look("token_embedding.weight")
    buckets, heads = look("blocks.0.pos_embedding.embedding.weight")
    layers = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": look("blocks.0.attn.q.weight")[0] // heads,
        "d_ff": look("blocks.0.ffn.fc1.weight")[0],
        "num_layers": layers,
        "num_decoder_layers": layers,
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu",
    }


def text_file(folder: Path) -> Path:
    """The text encoder's file in an original folder."""
    return _first(folder, TEXT_FILES)


def _vae_defaults() -> dict[str, Any]:
    return {name: field.default for name, field in inspect.signature(AutoencoderKLWan.__init__).parameters.items()}


def _bare(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {clean: shapes[name] for name, clean in unwrapped(shapes).items()}


def _shape(shapes: Mapping[str, tuple[int, ...]], source: str, what: str, name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise ValueError(f"{source} is not a Wan2.1 {what}: it has no {name}")
    return shapes[name]


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} has no {names[-1] if names[-1] in SINGLE else names[0]}; is the download complete?")
