"""`longlive-rag license`, and the policy in `generate` and in the API."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from layouts import peft_lora
from safetensors.torch import save_file

from backbone.lora import read_lora
from longlive_rag import settings
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.rights.policy import LicenseError
from longlive_rag.rights.records import record_terms
from longlive_rag.video import read_tags

PROMPT = "a red circle walks in a meadow"
WHO = ("--source", "https://example.org", "--by", "J. Doe")


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.delenv(settings.POLICY_VARIABLE, raising=False)
    monkeypatch.delenv(settings.CONFIG_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))


def generate(command, backbone, take, *arguments):
    return command("generate", PROMPT, "-o", take, "--backbone", backbone, "--seconds", 1, *arguments)


@pytest.mark.parametrize("way", ["flag", "environment", "config"])
def test_commercial_policy_refuses_before_anything_loads(command, backbone, tmp_path, monkeypatch, way):
    """The stand-in backbone could not be loaded: the refusal comes first."""
    if way == "environment":
        monkeypatch.setenv(settings.POLICY_VARIABLE, "commercial")
    if way == "config":
        config = settings.config_file()
        config.parent.mkdir(parents=True)
        config.write_text('license_policy = "commercial"')
    flag = ["--license-policy", "commercial"] if way == "flag" else []
    done = generate(command, backbone, tmp_path / "take", *flag)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "license policy 'commercial' does not allow" in done.err
    assert "its terms: unrecorded" in done.err
    assert "longlive-rag license record" in done.err
    assert not (tmp_path / "take").exists()


def test_from_a_refusal_to_a_report(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    take = tmp_path / "take"
    assert generate(command, backbone, take, "--license-policy", "commercial").code == 2
    recorded = command("license", "record", backbone, "--spdx", "MIT", *WHO, "--on", "2026-01-31")
    assert recorded.code == 0
    assert len(recorded.out.splitlines()) == 4
    done = generate(command, backbone, take, "--license-policy", "commercial", "--phase", "previs", "--label")
    assert done.code == 0, done.err
    rights = json.loads((take / "take.json").read_text())["rights"]
    assert (rights["license_policy"], rights["weights_allow"], rights["phase"]) == (
        "commercial",
        "commercial",
        "previs",
    )
    assert rights["visible_label"] == "AI generated - reference"
    assert "phase previs" in read_tags(take / "video.mp4")["comment"]
    page = command("license", "report", take)
    assert page.code == 0
    assert "The recorded terms of all weight files allow commercial use." in page.out
    assert "Terms MIT, stated at: https://example.org" in page.out
    assert "Looked up by J. Doe on 2026-01-31" in page.out
    assert "- torch " in page.out
    assert rights["files"][0]["sha256"] in page.out
    assert command("license", "report", take, "-o", tmp_path / "page.md").out == f"{tmp_path / 'page.md'}\n"
    assert (tmp_path / "page.md").read_text() == page.out
    assert json.loads(command("license", "report", take, "--json").out)["rights"] == rights
    shown = command("license", "show", backbone)
    assert all(line.startswith("commercial ") for line in shown.out.splitlines())


def test_an_unrecorded_take_says_so(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    assert generate(command, backbone, tmp_path / "take", "--deliverable").code == 0
    page = command("license", "report", tmp_path / "take").out
    assert "Not known: no valid record for " in page
    assert "labelled 'deliverable'" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["record", "none.pt", "--spdx", "MIT", *WHO], "none.pt is not there"),
        (["record", "w.pt", "--spdx", "Apache 2", *WHO], "'Apache 2' is no SPDX expression"),
        (["record", "w.pt", "--spdx", "MIT", *WHO, "--on", "yesterday"], "--on is 'yesterday'"),
        (["record", "w.pt", "--spdx", "LicenseRef-A", *WHO, "--use", "commercial"], "give a file as evidence"),
        (["record", "w.pt", "--spdx", "MIT", *WHO, "--evidence", "none.pdf"], "evidence none.pdf is no file"),
        (["record", "w.pt", "--spdx", "MIT", "--source", "", "--by", "x"], "--source is empty"),
        (["record", "notes.txt", "--spdx", "MIT", *WHO], "notes.txt is no weight file"),
        (["report", "."], "holds no take (take.json)"),
        (["report", "old"], "says nothing about rights: it was made by an older version"),
    ],
)
def test_bad_input(command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("w.pt").write_bytes(b"w")
    Path("notes.txt").write_text("")
    Path("old").mkdir()
    Path("old/take.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    done = command("license", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_the_api_enforces_too(pipeline_folder, tmp_path, monkeypatch):
    import shutil

    folder = tmp_path / "backbone"
    shutil.copytree(pipeline_folder, folder)
    with pytest.raises(LicenseError, match="its terms: unrecorded"):
        LongLiveRAGPipeline.from_pretrained(folder, license_policy="commercial")
    monkeypatch.setenv(settings.POLICY_VARIABLE, "commercial")
    with pytest.raises(LicenseError, match="its terms: unrecorded"):
        LongLiveRAGPipeline.from_pretrained(folder)
    with pytest.raises(LicenseError, match="only what lies here can have a record"):
        LongLiveRAGPipeline.from_pretrained("somebody/else")
    record_terms(folder, "Apache-2.0", "x", "y")
    pipe = LongLiveRAGPipeline.from_pretrained(folder)
    lora = tmp_path / "loras" / "lora.safetensors"
    lora.parent.mkdir()
    torch.save(peft_lora(pipe.transformer, 2), tmp_path / "lora.pt")
    tensors = read_lora(tmp_path / "lora.pt", alpha=2.0).for_diffusers()
    save_file(tensors, lora)
    with pytest.raises(LicenseError, match="its terms: unrecorded"):
        pipe.load_lora_weights(str(lora))
    with pytest.raises(LicenseError, match="a LoRA without a file"):
        pipe.load_lora_weights(tensors)
    record_terms(lora, "CC-BY-NC-4.0", "x", "y")
    with pytest.raises(LicenseError, match=r"CC-BY-NC-4\.0"):
        pipe.load_lora_weights(str(lora))
    record_terms(lora, "MIT", "x", "y")
    pipe.load_lora_weights(str(lora))
    assert pipe.transformer.peft_config
