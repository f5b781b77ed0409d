"""The original Wan releases: one folder of files under their own names, opened as the libraries' classes.

    config.json, diffusion_pytorch_model.safetensors     the transformer
    Wan2.1_VAE.pth, or Wan2.2_VAE.pth                    the VAE; that of Wan2.2-TI2V-5B is a residual one
    models_t5_umt5-xxl-enc-bf16.pth, google/umt5-xxl/    the text encoder and its tokenizer

Only the transformer comes with a config. The sizes of the other two follow from their tensors' shapes; what doesn't
(normalisation of the latents, position buckets) is the same in every VAE of a release and every UMT5.
"""

from __future__ import annotations

import functools
import inspect
import math
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

VAE_FILES = ("Wan2.1_VAE.pth", "Wan2.2_VAE.pth")
TEXT_FILES = ("models_t5_umt5-xxl-enc-bf16.pth", "models_t5_umt5-xxl-enc-bf16.safetensors")
TOKENIZER = Path("google") / "umt5-xxl"

# Statistics of the Wan2.2 VAE's latents, by channel: they aren't in its file, and diffusers' class has only Wan2.1's.
# Three packages on PyPI, all Apache-2.0, have the same numbers (seen on 2026-11-27): wan22 2.2.11, the authors' own
# (wan/modules/vae2_2.py), diffsynth 2.1.12 (models/wan_video_vae.py), and vllm-omni 0.30.0
# (diffusion/models/lance/wan_vae.py).
RESIDUAL_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
RESIDUAL_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip
COLOURS = 3

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
# Fields that don't matter here (empty), or of which only these values are supported.
OTHER_FIELDS: dict[str, tuple[Any, ...]] = {
    "dim": (),
    "num_heads": (),
    "model_type": ("t2v", "ti2v"),  # one network: a start image is a clean first latent frame
    "qk_norm": (True,),
    "window_size": ([-1, -1],),
    "_class_name": (),
    "_diffusers_version": (),
}


def is_original_folder(folder: Path) -> bool:
    """Whether this is an original release, judging by the field names in its config."""
    return (folder / CONFIG).is_file() and "num_heads" in read_json(folder / CONFIG)


def transformer_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Translate the original `config.json` to the arguments of `CausalWanTransformer`.

    Raises:
        ValueError: if a field is missing, unknown, or has a value that this project doesn't support.
    """
    missing = {"dim", "num_heads", "num_layers", "ffn_dim"} - set(config)
    unknown = set(config) - set(CONFIG_FIELDS) - set(OTHER_FIELDS)
    for what, names in (("lacks", missing), ("has the unknown field", unknown)):
        if names:
            raise ValueError(f"{source} {what} {', '.join(sorted(names))}; is it a config of Wan?")
    for name, known in OTHER_FIELDS.items():
        if known and name in config and config[name] not in known:
            supported = " and ".join(map(repr, known))
            raise ValueError(f"{source}: {name} is {config[name]!r}; this project supports only {supported}")
    if config["dim"] % config["num_heads"]:
        raise ValueError(f"{source}: dim {config['dim']} is not a multiple of num_heads {config['num_heads']}")
    return {
        "num_attention_heads": config["num_heads"],
        "attention_head_dim": config["dim"] // config["num_heads"],
        **{ours: config[name] for name, ours in CONFIG_FIELDS.items() if name in config},
    }


def has_transformer(folder: Path) -> bool:
    """Whether an original folder has the transformer's weights as well as its config."""
    return any((folder / name).is_file() for name in (*INDEX, *SINGLE))


def open_transformer(folder: Path) -> CausalWanTransformer:
    """Open the transformer of an original folder, memory-mapped, in the file's dtype; on meta if it has no weights."""
    config = transformer_config(read_json(folder / CONFIG), str(folder / CONFIG))
    with torch.device("meta"):
        model = CausalWanTransformer(**config)
    if not has_transformer(folder):
        return model.eval()
    weights = read_weights(_first(folder, (*INDEX, *SINGLE)))
    load_weights(model, weights.tensors, weights.source)
    return model.eval()


def open_vae(path: Path) -> AutoencoderKLWan:
    """Open the VAE of an original file such as `Wan2.1_VAE.pth` or `Wan2.2_VAE.pth`, in the file's dtype."""
    weights = read_weights(path)
    config = vae_config({name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}, weights.source)
    with torch.device("meta"):
        model = AutoencoderKLWan(**config)
    rename = functools.partial(vae_name, residual_blocks=config["num_res_blocks"])
    load_weights(model, weights.tensors, weights.source, rename)
    return model.eval()


def open_text_encoder(path: Path) -> UMT5EncoderModel:
    """Open the text encoder of an original file such as `models_t5_umt5-xxl-enc-bf16.pth`, in the file's dtype."""
    weights = read_weights(path)
    config = text_config({name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}, weights.source)
    with torch.device("meta"):
        model = UMT5EncoderModel(UMT5Config(**config))
    load_weights(model, weights.tensors, weights.source, text_name)
    model.config.dtype = next(iter(weights.tensors.values())).dtype
    return model.eval()


def vae_config(shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, Any]:
    """Derive the arguments of `AutoencoderKLWan` from the shapes of an original VAE's tensors.

    Wan2.1's VAE numbers the layers of all stages consecutively; Wan2.2's residual one numbers them within each stage.

    Raises:
        ValueError: if they are not from a VAE of either release.
    """
    shapes = _bare(shapes)
    look = functools.partial(_shape, shapes, source, "VAE")
    is_residual = any(name.startswith("encoder.downsamples.0.downsamples.") for name in shapes)
    layer = r"\d+\.downsamples\.\d+" if is_residual else r"\d+"
    pattern = rf"encoder\.downsamples\.({layer})\.resample\.1\.weight"
    found = [m[1] for name in shapes if (m := re.fullmatch(pattern, name))]
    if not found:
        raise ValueError(f"{source} is not a Wan VAE: it has no encoder.downsamples.N.resample.1.weight")
    downsamples = sorted(found, key=lambda place: [int(number) for number in re.findall(r"\d+", place)])
    residual_blocks = int(downsamples[0].rpartition(".")[2])
    base, stages = look("encoder.conv1.weight")[0], range(len(downsamples) + 1)
    firsts = [f"{stage}.downsamples.0" if is_residual else f"{stage * (residual_blocks + 1)}" for stage in stages]
    widths = [look(f"encoder.downsamples.{first}.residual.2.weight")[0] for first in firsts]
    if any(width % base for width in widths):
        raise ValueError(f"{source}: the encoder's stages are {widths} wide, which are not all multiples of {base}")
    in_time = [f"encoder.downsamples.{place}.time_conv.weight" in shapes for place in downsamples]
    config = {
        "base_dim": base,
        "z_dim": look("conv2.weight")[0],
        "dim_mult": [width // base for width in widths],
        "num_res_blocks": residual_blocks,
        "temperal_downsample": in_time,
        "scale_factor_temporal": 2 ** sum(in_time),
        "scale_factor_spatial": 2 ** len(downsamples),
    }
    if is_residual:
        config |= _residual_config(config, look("encoder.conv1.weight"), look("decoder.head.2.weight"), source)
    channels = len(config.get("latents_mean", _vae_defaults()["latents_mean"]))
    if config["z_dim"] != channels:
        release = "Wan2.2" if is_residual else "Wan2.1"
        raise ValueError(
            f"{source} has {config['z_dim']} latent channels; the statistics of {release}'s latents are for {channels}"
        )
    return config


def _residual_config(
    config: Mapping[str, Any], first: tuple[int, ...], last: tuple[int, ...], source: str
) -> dict[str, Any]:
    """The arguments only a residual VAE has: a decoder of another width, and square patches of pixels as channels.

    Args:
        config: the arguments common to all VAEs.
        first: shape of the encoder's first convolution.
        last: shape of the decoder's last convolution.
        source: how to refer to the VAE in messages.
    """
    patch = math.isqrt(first[1] // COLOURS)
    if COLOURS * patch**2 != first[1]:
        raise ValueError(f"{source}: encoder.conv1.weight reads {first[1]} channels, which no square patch of RGB has")
    return {
        "is_residual": True,
        "decoder_base_dim": last[1] // config["dim_mult"][0],
        "in_channels": first[1],
        "out_channels": last[0],
        "patch_size": patch,
        "scale_factor_spatial": config["scale_factor_spatial"] * patch,
        "latents_mean": list(RESIDUAL_MEAN),
        "latents_std": list(RESIDUAL_STD),
    }


def text_config(shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, Any]:
    """Derive the arguments of `UMT5Config` from the shapes of an original UMT5 encoder's tensors.

    Raises:
        ValueError: if they are not from a UMT5 encoder.
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


def vae_file(folder: Path) -> Path:
    """Find the VAE's file in an original folder.

    Raises:
        ValueError: if there is none, or one of each release.
    """
    there = [name for name in VAE_FILES if (folder / name).is_file()]
    if len(there) > 1:
        raise ValueError(f"{folder} has {' and '.join(there)}; leave only that of the transformer's release there")
    if not there:
        raise ValueError(f"{folder} has no {' or '.join(VAE_FILES)}; is the download complete?")
    return folder / there[0]


def text_file(folder: Path) -> Path:
    """Find the text encoder's file in an original folder; ValueError if there is none."""
    return _first(folder, TEXT_FILES)


def _vae_defaults() -> dict[str, Any]:
    return {name: field.default for name, field in inspect.signature(AutoencoderKLWan.__init__).parameters.items()}


def _bare(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {clean: shapes[name] for name, clean in unwrapped(shapes).items()}


def _shape(shapes: Mapping[str, tuple[int, ...]], source: str, what: str, name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise ValueError(f"{source} is not a Wan {what}: it has no {name}")
    if len(shapes[name]) < 2 or 0 in shapes[name]:
        raise ValueError(f"{source} is not a Wan {what}: its {name} is {list(shapes[name])}")
    return shapes[name]


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} has no {names[-1] if names[-1] in SINGLE else names[0]}; is the download complete?")
