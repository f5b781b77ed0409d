"""DINO, DINOv2, CLIP and SigLIP with random weights: preprocessing to the number, and the controls in their order."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from eval.drift import cosine_to_reference, drift_at
from eval.embedders import EmbedderSpec, parse_embedders
from eval.vision import CLIP, IMAGENET, VISION_KINDS, centre_crop, normalise, resize_shorter
from tests.eval.clips import FPS, controls

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def text_tokenizer() -> transformers.PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<unk>": 1, "red": 2, "blue": 3, "<eos>": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>"
    )


def build(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": 8, "max_position_embeddings": 6}
    if kind == "dino":
        return transformers.ViTModel(transformers.ViTConfig(**SMALL, image_size=224, patch_size=32))
    if kind == "dinov2":
        sizes = {**SMALL, "mlp_ratio": 2}
        sizes.pop("intermediate_size")
        return transformers.Dinov2Model(transformers.Dinov2Config(**sizes, image_size=518, patch_size=37))
    if kind == "clip":
        vision = {**SMALL, "image_size": 224, "patch_size": 32}
        config = transformers.CLIPConfig(
            text_config={**text, "eos_token_id": 4, "pad_token_id": 0, "bos_token_id": 2}, vision_config=vision,
            projection_dim=16,
        )  # fmt: skip
        return transformers.CLIPModel(config)
    vision = {**SMALL, "image_size": 64, "patch_size": 16}
    config = transformers.SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=vision)
    return transformers.SiglipModel(config)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("embedders")
    for kind in VISION_KINDS:
        build(kind).save_pretrained(root / kind)
        if kind in ("clip", "siglip"):
            text_tokenizer().save_pretrained(root / kind)
    return {kind: root / kind for kind in VISION_KINDS}


def test_sizes_as_the_suites_have_them():
    frames = torch.zeros(1, 3, 480, 832)
    assert resize_shorter(frames, 224, "bilinear", False).shape == (1, 3, 224, 388)
    assert resize_shorter(frames.transpose(2, 3), 224, "bilinear", False).shape == (1, 3, 388, 224)
    assert centre_crop(torch.zeros(1, 3, 224, 388), 224).shape == (1, 3, 224, 224)
    ramp = torch.arange(388).expand(1, 3, 224, 388)
    assert centre_crop(ramp, 224)[0, 0, 0, 0] == 82  # (388 - 224) / 2


def test_bilinear_without_antialias_by_hand():
    """Halving takes the mean of the two middle pixels of four columns, as sampling at half-pixel centres does."""
    row = torch.tensor([0.0, 10, 20, 30, 40, 50, 60, 70]).expand(1, 3, 8, 8)
    halved = resize_shorter(row, 4, "bilinear", antialias=False)
    assert halved[0, 0, 0].tolist() == [5.0, 25.0, 45.0, 65.0]
    quartered = resize_shorter(row, 2, "bilinear", antialias=False)
    assert quartered[0, 0, 0].tolist() == [15.0, 55.0]  # with antialias neighbours further away would count


def test_normalise_by_hand():
    white = normalise(torch.full((1, 3, 1, 1), 255.0), IMAGENET)
    assert white.flatten().tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    black = normalise(torch.zeros(1, 3, 1, 1), CLIP)
    assert black[0, 0, 0, 0] == pytest.approx(-0.48145466 / 0.26862954)


@pytest.mark.parametrize("kind", list(VISION_KINDS))
def test_embeddings_are_the_model_s_own(folders, kind):
    """As transformers gives them for the preprocessed frames, at unit length."""
    embedder = EmbedderSpec(f"{kind}={folders[kind]}").open()
    frames = controls(8.0)["fade"][::4]
    rows = embedder.embed(frames)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    model = build(kind).eval()
    pixels = embedder.preprocess(torch.from_numpy(frames).permute(0, 3, 1, 2).float())
    with torch.no_grad():
        if kind == "dino" or kind == "dinov2":
            assert pixels.shape[-1] == 224
            expected = model(pixel_values=pixels).last_hidden_state[:, 0]
        elif kind == "clip":
            expected = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        else:
            assert pixels.shape[-1] == 64
            expected = model.vision_model(pixel_values=pixels).pooler_output
    np.testing.assert_allclose(rows, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5)


@pytest.mark.parametrize("kind", list(VISION_KINDS))
def test_batch_size_and_order_do_not_matter(folders, kind):
    embedder = EmbedderSpec(f"{kind}={folders[kind]}").open()
    frames = controls(6.0)["fade"][::4]
    whole = embedder.embed(frames)
    one_by_one = np.concatenate([embedder.embed(frame[None]) for frame in frames])
    np.testing.assert_allclose(whole, one_by_one, atol=2e-6)
    np.testing.assert_allclose(whole[::-1], embedder.embed(frames[::-1]), atol=2e-6)


@pytest.mark.parametrize("kind", list(VISION_KINDS))
def test_controls_order_by_drift(folders, kind):
    """Random weights know nothing, but a freeze, a walk, a fade and a swap must still come in this order."""
    embedder = EmbedderSpec(f"{kind}={folders[kind]}").open()
    seconds = np.arange(120) * 1.0
    d = {}
    for name, clip in controls().items():
        cosines = cosine_to_reference(embedder.embed(clip[::FPS]), seconds)
        d[name] = [drift_at(cosines, seconds, horizon).value for horizon in (30.0, 60.0, 120.0)]
    assert np.abs(d["freeze"]).max() < 1e-6
    assert d["fade"][0] < d["fade"][1] < d["fade"][2] <= d["swap"][2] * 1.01
    assert abs(d["swap"][1]) < 0.1 * d["swap"][2]
    assert max(d["real"][2], d["shuffled"][2]) < 0.5 * d["fade"][2]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_prompts_are_read(folders, kind):
    rows = EmbedderSpec(f"{kind}={folders[kind]}").open().embed_prompts(["red red", "blue", "red " * 40])
    assert rows.shape[0] == 3
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert not np.allclose(rows[0], rows[1])


@pytest.mark.parametrize("kind", list(VISION_KINDS))
def test_the_record_names_the_weights(folders, kind):
    described = EmbedderSpec(f"{kind}={folders[kind]}").open().describe()
    assert described["weights"] == str(folders[kind])
    assert len(described["sha256"]) == 64


def test_truncated_weights_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["clip"], tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match="the embedder clip can't be loaded from"):
        EmbedderSpec(f"clip={folder}").open()


def test_wrong_weights_are_refused(folders, tmp_path):
    with pytest.raises(ValueError, match=r"does not hold the weights of a Dinov2Model|can't be loaded"):
        EmbedderSpec(f"dinov2={folders['clip']}").open()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        EmbedderSpec(f"dino={tmp_path / 'empty'}").check()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no weights"):
        EmbedderSpec(f"dino={tmp_path / 'empty'}").check()
    with pytest.raises(ValueError, match=r"the embedder's folder \./nowhere does not exist"):
        EmbedderSpec("dino=./nowhere").check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "name at least one of clip, dino"),
        ("resnet", "embedder is 'resnet'; it must be one of clip"),
        ("dino=", "name a place after the ="),
        ("dino,dino=there", "each kind can be used only once"),
        ("face", "embedder face needs a folder"),
    ],
)
def test_embedders_that_are_none(text, message):
    with pytest.raises(ValueError, match=message):
        parse_embedders(text)


def test_embedders_keep_their_order():
    assert [spec.kind for spec in parse_embedders("dino, pixels,clip=a/b")] == ["dino", "pixels", "clip"]
    assert parse_embedders("dino")[0].place == "facebook/dino-vitb16"
