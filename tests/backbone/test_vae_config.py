"""What a VAE's config says of sizes, against the VAE itself."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from five import residual_vae
from torch import Tensor, nn

from backbone.vae_config import check_channels, pixels_per_latent, widest_map

PLAIN = {"base_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}


def plain_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(**PLAIN).eval()


@torch.no_grad()
@pytest.mark.parametrize("make", [plain_vae, residual_vae])
def test_sizes_are_those_of_the_vae(make) -> None:
    vae = make()
    config, maps = vae.config, []

    def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        maps.append((output.shape[-1], output.shape[1]))

    hooks = [block.register_forward_hook(note) for block in vae.decoder.up_blocks]
    side = pixels_per_latent(config, "here")
    pixels = vae.decode(torch.zeros(1, config.z_dim, 1, 2, 3)).sample
    assert pixels.shape[-2:] == (2 * side, 3 * side)
    for hook in hooks:
        hook.remove()
    width = max(columns for columns, _ in maps)
    channels, element = widest_map(config, "here")
    assert element == pixels.shape[-1] // width
    assert channels == max(count for columns, count in maps if columns == width)
    check_channels(config, config.z_dim, "here")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch_size": 2}, "here: scale_factor_spatial is 8, but 4 stages on patches of 2 pixels make 16"),
        ({"dim_mult": [1, 2, 2], "scale_factor_spatial": 16}, "is 16, but 3 stages on patches of 1 pixels make 4"),
        ({"dim_mult": 4}, "here: dim_mult is 4; it must be a list of whole numbers above 0"),
        ({"dim_mult": []}, r"dim_mult is \[\]"),
        ({"dim_mult": [1, "2"]}, r"dim_mult is \[1, '2'\]"),
        ({"patch_size": 0}, "here: patch_size is 0; it must be a whole number above 0"),
        ({"patch_size": "two"}, "patch_size is 'two'"),
    ],
)
def test_sizes_that_cannot_be(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixels_per_latent(config, "here")


@pytest.mark.parametrize(
    ("config", "channels", "message"),
    [
        (
            {},
            48,
            "here: the VAE makes latents of 16 channels, but the transformer reads 48; both must come from the same",
        ),
        ({"z_dim": 48}, 16, "the VAE makes latents of 48 channels, but the transformer reads 16"),
        ({"z_dim": 48, "latents_mean": [0.0] * 16}, 48, "here: latents_mean must have 48 numbers, one per channel"),
        ({"z_dim": 48, "latents_mean": [0.0] * 48, "latents_std": 1.0}, 48, "latents_std must have 48 numbers"),
        ({"latents_std": [1.0] * 15}, 16, "latents_std must have 16 numbers"),
    ],
)
def test_latents_that_do_not_fit(config: dict, channels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_channels(config, channels, "here")


def test_a_vae_without_statistics_of_its_own_is_refused() -> None:
    with torch.device("meta"):
        vae = AutoencoderKLWan(**PLAIN, z_dim=48)
    check_channels({"z_dim": 48}, 48, "a config to plan with")
    with pytest.raises(ValueError, match="latents_mean must have 48 numbers"):
        check_channels(vae.config, 48, "here")
