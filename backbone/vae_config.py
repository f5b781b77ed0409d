"""Sizes from a VAE's config, read before any VAE is built; this module does not need torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Defaults of diffusers' `AutoencoderKLWan`, which are Wan2.1's.
DEFAULTS: dict[str, Any] = {"z_dim": 16, "base_dim": 96, "dim_mult": [1, 2, 4, 4]}
STATISTICS = ("latents_mean", "latents_std")


def pixels_per_latent(config: Mapping[str, Any], where: str) -> int:
    """Pixels along a side of one latent element: 8 for Wan2.1's VAE, 16 for Wan2.2's.

    Raises:
        ValueError: if the config's factor contradicts its stages and pixel patches.
    """
    stages, patch = len(_stages(config, where)), _patch(config, where)
    made = patch * 2 ** (stages - 1)
    stated = config.get("scale_factor_spatial") or 8
    if stated != made:
        raise ValueError(
            f"{where}: scale_factor_spatial is {stated}, but {stages} stages on patches of {patch} pixels make {made}"
        )
    return made


def check_channels(config: Mapping[str, Any], channels: int, where: str) -> None:
    """Raise ValueError unless a VAE's latents have `channels` channels, with a mean and a deviation for each.

    A config used only for planning may lack these statistics; a VAE's own config always has them.
    """
    made = config.get("z_dim", DEFAULTS["z_dim"])
    if made != channels:
        raise ValueError(
            f"{where}: the VAE makes latents of {made} channels, but the transformer reads {channels}; "
            "both must come from the same release"
        )
    for name in STATISTICS:
        values = config.get(name)
        if values is not None and (not isinstance(values, list | tuple) or len(values) != channels):
            raise ValueError(f"{where}: {name} must have {channels} numbers, one per channel")


def widest_map(config: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Size of the decoder's feature maps at the highest resolution: (channels, pixels along a side of one element).

    A residual decoder's last upsampling keeps its stage's channels; a plain decoder's reduces them to the last stage's.
    """
    base = config.get("decoder_base_dim") or config.get("base_dim") or DEFAULTS["base_dim"]
    stages = _stages(config, where)
    return int(base) * (stages[1] if config.get("is_residual") and len(stages) > 1 else 1), _patch(config, where)


def _stages(config: Mapping[str, Any], where: str) -> list[int]:
    stages = config.get("dim_mult", DEFAULTS["dim_mult"])
    if not isinstance(stages, list | tuple) or not stages or not all(_is_count(each) for each in stages):
        raise ValueError(f"{where}: dim_mult is {stages!r}; it must be a list of whole numbers above 0")
    return list(stages)


def _patch(config: Mapping[str, Any], where: str) -> int:
    patch = config.get("patch_size")
    if patch is not None and not _is_count(patch):
        raise ValueError(f"{where}: patch_size is {patch!r}; it must be a whole number above 0")
    return patch or 1


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0
