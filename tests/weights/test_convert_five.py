"""Checkpoints and LoRA files of a 5B backbone's layout, on Wan2.2-TI2V-5B in both its layouts; and mixed-up ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from five import CHANNELS, FPS, HEIGHT, TRANSFORMER, WIDTH, five_pipeline
from layouts import as_trained, peft_lora, write_original_folder
from layouts import original_transformer as original

from backbone.lora import read_lora
from backbone.transformer import CausalWanTransformer
from backbone.vae import denormalize_latents
from longlive_rag.config import OutputConfig
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.weights.convert import Sources, convert
from longlive_rag.weights.layouts import inventory
from retrieval.encoder import LatentAutoencoder

PROMPT = "a red circle walks in a meadow"
OUTPUT = OutputConfig(HEIGHT, WIDTH, FPS)
INDEX = {
    "_class_name": "WanPipeline",
    "boundary_ratio": None,
    "expand_timesteps": True,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": [None, None],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The base model in diffusers' layout: its own transformer class, the residual VAE, no retrieval encoder."""
    folder = tmp_path_factory.mktemp("base") / "Wan2.2-TI2V-5B-Diffusers"
    five_pipeline(encoder=False).save_pretrained(folder)
    shutil.rmtree(folder / "transformer")
    torch.manual_seed(4)
    WanTransformer3DModel(**TRANSFORMER).save_pretrained(folder / "transformer", max_shard_size="100KB")
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    return folder


@pytest.fixture(scope="module")
def trained() -> CausalWanTransformer:
    torch.manual_seed(7)
    return CausalWanTransformer(**TRANSFORMER).eval()


def test_a_base_generator_with_its_lora(base, trained, tmp_path):
    torch.save(
        {"generator": as_trained(original(trained)), "generator_ema": {"x": torch.zeros(1)}}, tmp_path / "base.pt"
    )
    torch.save({"generator_lora": peft_lora(trained, rank=128)}, tmp_path / "lora.pt")
    sources = Sources(tmp_path / "base.pt", base, "generator", lora=tmp_path / "lora.pt", lora_alpha=128)
    done = convert(sources, tmp_path / "made")
    assert done.left_out == ("generator_ema",)
    pipe = LongLiveRAGPipeline.from_pretrained(done.folder)
    lora = read_lora(tmp_path / "lora.pt", alpha=128)
    assert (lora.rank, len(lora.pairs)) == (128, 20)  # ten linear layers in each of two blocks
    expected = dict(trained.state_dict())
    for layer, (a, b) in lora.pairs.items():
        expected[f"{layer}.weight"] = expected[f"{layer}.weight"] + b @ a
    for name, tensor in pipe.transformer.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5)
    assert (pipe.vae.config.z_dim, pipe.vae.config.is_residual, pipe.vae.config.patch_size) == (48, True, 2)
    context = pipe.context.__class__(12, 2, 2, 0, 8)
    out = pipe(PROMPT, seconds=93 / 24, context=context, output=five_pipeline().output)
    assert out.frames.shape == (1, 93, 64, 96, 3)
    assert len(out.selections[0][0].frames) == 2


def test_one_merged_file_in_bfloat16(base, trained, tmp_path):
    weights = {name: tensor.bfloat16() for name, tensor in original(trained).items()}
    torch.save(weights, tmp_path / "model_bf16.pt")
    made = convert(Sources(tmp_path / "model_bf16.pt", base), tmp_path / "made").folder
    pipe = LongLiveRAGPipeline.from_pretrained(made, dtype=torch.bfloat16)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(pipe.transformer.state_dict()[name], tensor.bfloat16()), name


# ---- what does not belong together is refused, leaving nothing ----


def saved(path: Path, weights: dict) -> Path:
    torch.save(weights, path)
    return path


def with_small_vae(base: Path, pipe, folder: Path) -> Path:
    shutil.copytree(base, folder)
    shutil.rmtree(folder / "vae")
    pipe.vae.save_pretrained(folder / "vae")
    return folder


def small_encoder(folder: Path) -> Path:
    sizes = {"in_channels": 16, "latent_height": 4, "latent_width": 6, "hidden_dims": [8], "embedding_dim": 12}
    return saved(folder / "ae.pt", {"model": LatentAutoencoder(**sizes).state_dict(), "config": sizes})


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            lambda five, base, pipe, other, t: Sources(saved(t / "five.pt", {"generator": original(five)}), other),
            r"five.pt \(generator\) does not fit its config: it is a transformer of width 48 on latents of 48 "
            "channels, the config's has width 48 on 16; use config and weights of the same release",
        ),
        (
            lambda five, base, pipe, other, t: Sources(saved(t / "small.pt", original(pipe.transformer)), base),
            "it is a transformer of width 48 on latents of 16 channels, the config's has width 48 on 48",
        ),
        (
            lambda five, base, pipe, other, t: Sources(base, preset="longlive"),
            "preset is 'longlive', whose latents have 16 channels and 8x8 pixels per element; these have 48 and 16x16",
        ),
        (
            lambda five, base, pipe, other, t: Sources(with_small_vae(base, pipe, t / "mixed")),
            "mixed: the VAE makes latents of 16 channels, but the transformer reads 48; both must come from the same",
        ),
        (
            lambda five, base, pipe, other, t: Sources(
                base, lora=saved(t / "lora.pt", peft_lora(CausalWanTransformer(**{**TRANSFORMER, "ffn_dim": 80}), 2)),
                lora_alpha=2,
            ),
            "lora.pt does not fit the backbone: blocks.0.ffn.net.0.proj is an update of",
        ),
        (
            lambda five, base, pipe, other, t: Sources(base, encoder=small_encoder(t)),
            "ae.pt reads latents of 16 x .*, but this backbone makes 48 x .*; use one that was trained on its latents",
        ),
    ],
)  # fmt: skip
def test_refused(base, trained, pipe, pipeline_folder, tmp_path, prepare, message):
    with pytest.raises(ValueError, match=message) as refused:
        convert(prepare(trained, base, pipe, pipeline_folder, tmp_path), tmp_path / "made")
    assert "\n" not in str(refused.value)
    assert not [path.name for path in tmp_path.iterdir() if "made" in path.name]


# ---- the original release ----


@pytest.fixture(scope="module")
def original_folder(trained, tmp_path_factory) -> Path:
    """Wan2.2-TI2V-5B as it is published, with few numbers in it."""
    folder = tmp_path_factory.mktemp("original")
    pipe = five_pipeline()
    pipe.tokenizer.save_pretrained(folder / "tokenizer")
    return write_original_folder(folder / "Wan2.2-TI2V-5B", trained, pipe.vae, pipe.text_encoder, folder / "tokenizer")


def test_the_original_folder(original_folder, trained, tmp_path):
    """Its VAE computes what it did, on the statistics of Wan2.2's latents; a take of it, streamed, is the whole one."""
    assert [finding.verdict for finding in inventory(original_folder)[0]] == ["note", "ok", "ok", "ok", "ok"]
    pipe = LongLiveRAGPipeline.from_pretrained(convert(Sources(original_folder), tmp_path / "made").folder)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(pipe.transformer.state_dict()[name], tensor), name
    assert (pipe.vae.config.latents_mean[:2], pipe.vae.config.latents_std[:2]) == ([-0.2289, -0.0052], [0.4765, 1.0364])
    latents = torch.randn(1, CHANNELS, 3, 2, 3, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        same = pipe.vae.decode(latents).sample, five_pipeline().vae.decode(latents).sample
    torch.testing.assert_close(*same, rtol=1e-5, atol=1e-5)
    blocks = list(pipe.stream(PROMPT, seconds=61 / 24, context=pipe.context.__class__(12, 2, 2, 0, 8), output=OUTPUT))
    latents = torch.cat([block.latents for block in blocks], dim=1).transpose(1, 2)
    with torch.no_grad():
        whole = pipe.vae.decode(denormalize_latents(pipe.vae, latents)).sample
    pixels = torch.cat([block.pixels for block in blocks], dim=1)
    assert (pixels - ((whole + 1) * 127.5).permute(0, 2, 3, 4, 1)).abs().max() < 0.51  # rounded to whole numbers


def test_without_a_transformer_it_is_the_base_of_a_checkpoint(original_folder, trained, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(original_folder, folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    layout, transformer, *_ = inventory(folder)[0]
    assert layout.advice.endswith(f"models convert CHECKPOINT NEW_FOLDER --base {folder}")
    assert transformer.found == "its config only, no weights"
    with pytest.raises(ValueError, match="base has no weights of a transformer; is the download complete"):
        convert(Sources(folder), tmp_path / "made")
    checkpoint = saved(tmp_path / "five.pt", {"generator": as_trained(original(trained))})
    made = convert(Sources(checkpoint, folder), tmp_path / "made")
    assert made.made_from["transformer"] == [checkpoint]
    opened = LongLiveRAGPipeline.from_pretrained(made.folder).transformer
    torch.testing.assert_close(opened.proj_out.weight, trained.proj_out.weight)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (lambda five, small: move(small / "Wan2.1_VAE.pth", five, without="Wan2.2_VAE.pth"),
         "the VAE makes latents of 16 channels, but the transformer reads 48; both must come from the same release"),
        (lambda five, small: move(five / "Wan2.2_VAE.pth", small, without="Wan2.1_VAE.pth"),
         "the VAE makes latents of 48 channels, but the transformer reads 16; both must come from the same release"),
        (lambda five, small: move(small / "Wan2.1_VAE.pth", five, without=None),
         "has Wan2.1_VAE.pth and Wan2.2_VAE.pth; leave only that of the transformer's release there"),
    ],
)  # fmt: skip
def test_a_vae_of_the_other_release(original_folder, pipe, pipeline_folder, tmp_path, mix, message):
    small = write_original_folder(
        tmp_path / "small", pipe.transformer, pipe.vae, pipe.text_encoder, pipeline_folder / "tokenizer"
    )
    folder = mix(shutil.copytree(original_folder, tmp_path / "five"), small)
    with pytest.raises(ValueError, match=message) as refused:
        convert(Sources(folder), tmp_path / "made")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "made").exists()


def move(file: Path, folder: Path, without: str | None) -> Path:
    shutil.copy(file, folder / file.name)
    if without is not None:
        (folder / without).unlink()
    return folder


def test_the_autoencoder_of_48_channels_is_one_that_is_trained(tmp_path):
    encoder = LatentAutoencoder(CHANNELS, 44, 80)
    frames = torch.randn(2, CHANNELS, 44, 80)
    with torch.no_grad():
        reconstruction, embeddings = encoder(frames)
        assert torch.equal(encoder.encode(frames), embeddings)
    assert (reconstruction.shape, embeddings.shape) == (frames.shape, (2, 1024))
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(2))
