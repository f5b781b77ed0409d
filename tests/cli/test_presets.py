"""Backbones by name or folder, refused before anything loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from longlive_rag.environment import MODELS_VARIABLE
from longlive_rag.presets.preset import BUILT_IN, find_folder, load_preset, preset_to_plan_with


def test_a_folder_brings_its_preset(backbone):
    preset = load_preset(str(backbone))
    assert preset.folder == backbone
    assert preset.output.height == 32
    assert preset.sampler.denoising_steps == (1000, 500)
    assert preset.context.window_frames == 12  # not in the file: the design's default
    assert preset.temporal_factor == 4


def test_names_are_known_folders():
    assert find_folder.__doc__
    assert set(BUILT_IN) == {"tiny-world"}


def test_temporal_factor_comes_from_the_vae(backbone):
    (backbone / "vae" / "config.json").write_text(json.dumps({"temperal_downsample": [True, True, True]}))
    assert load_preset(str(backbone)).temporal_factor == 8
    (backbone / "vae" / "config.json").write_text(json.dumps({"scale_factor_temporal": 2}))
    assert load_preset(str(backbone)).temporal_factor == 2


def damage_index(content):
    def damage(folder):
        (folder / "model_index.json").write_text(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: shutil.rmtree(folder / "vae"),
            "has no vae/; a pipeline folder needs transformer",
        ),
        (lambda folder: (folder / "transformer/config.json").unlink(), "transformer has no config.json"),
        (
            lambda folder: (folder / "vae" / "model.safetensors").unlink(),
            r"vae has no weights \(.safetensors\)",
        ),
        (lambda folder: (folder / "tokenizer/tokenizer.json").unlink(), "tokenizer is empty"),
        (lambda folder: (folder / "model_index.json").unlink(), "is a folder without model_index.json"),
        (damage_index("{"), "model_index.json can't be read: "),
        (damage_index("[1]"), "it holds a list, not an object"),
        (damage_index('{"context": {"window": 3}}'), "model_index.json can't be used: .*'window'"),
        (
            damage_index('{"context": {"window_frames": 3}}'),
            "can't be used: sink_frames . memory_frames is 1",
        ),
        (damage_index('{"encoder": ["retrieval", "LatentAutoencoder"]}'), "has no encoder/"),
    ],
)
def test_damaged_folders_are_refused(backbone, damage, message):
    damage(backbone)
    with pytest.raises(ValueError, match=message):
        load_preset(str(backbone))


def test_a_built_in_backbone_that_is_gone(monkeypatch, tmp_path):
    monkeypatch.setitem(BUILT_IN, "tiny-world", tmp_path / "gone")
    with pytest.raises(ValueError, match=r"'tiny-world' should be in .*gone, but is missing"):
        load_preset("tiny-world")


def test_a_folder_that_is_not_a_pipeline_does_not_hide_a_known_backbone(backbone, tmp_path, monkeypatch):
    """Such as a clone of this repository, or the download, beside which one works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(MODELS_VARIABLE, raising=False)
    (tmp_path / "longlive-rag" / ".git").mkdir(parents=True)
    with pytest.raises(ValueError, match="to get them: longlive-rag models fetch longlive-rag"):
        load_preset("longlive-rag")
    assert not preset_to_plan_with("longlive-rag").has_weights
    shutil.copytree(backbone, tmp_path / "models" / "longlive-rag")
    assert load_preset("longlive-rag").folder == Path("models/longlive-rag")
    shutil.copytree(backbone, tmp_path / "longlive-rag", dirs_exist_ok=True)
    assert load_preset("longlive-rag").folder == Path("longlive-rag")


def test_unknown_backbones_are_refused(tmp_path):
    with pytest.raises(ValueError, match="backbone '' is neither a known name"):
        load_preset("")
    known = "known names are: tiny-world, and those of 'longlive-rag models list'"
    with pytest.raises(ValueError, match=f"backbone 'big' is neither a known name .*; {known}"):
        load_preset("big")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file, not a pipeline folder"):
        load_preset(str(tmp_path / "file"))
