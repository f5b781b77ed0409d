"""`longlive-rag license`, and the policy in `generate` and in the API."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from layouts import peft_lora
from safetensors.torch import save_file
from transformers import UMT5EncoderModel, ViTConfig, ViTModel

from backbone.lora import read_lora
from eval.embedders import EmbedderSpec
from longlive_rag import environment as settings
from longlive_rag.media.video import read_tags
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.rights.policy import LicenseError
from longlive_rag.rights.records import record_released, record_terms, weights_in
from longlive_rag.rights.terms import IN_WORDS, Statement, Terms
from tests import forked

ROOT = Path(__file__).parents[2]
OLD_RECORD = ROOT / "tests" / "takes" / "samples" / "first" / "take.json"
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


@pytest.mark.parametrize("standing", ["card", "repository", "contradictory", "not seen"])
def test_each_standing_of_terms_under_commercial(command, backbone, fake_pipeline, tmp_path, standing):
    """The command that a refusal prints, run as printed with evidence, makes the same command pass."""
    fake_pipeline()
    page, day = "https://example.org/owner/name", "2026-11-25"
    by_card, by_code, other = (
        Statement(by, spdx, "where it was seen", day)
        for by, spdx in (("card", "Apache-2.0"), ("repository", "Apache-2.0"), ("card", "CC-BY-NC-SA-4.0"))
    )
    said = {"card": (by_card,), "repository": (by_code,), "contradictory": (by_code, other), "not seen": ()}[standing]
    record_released(backbone, weights_in(backbone), Terms(page, day, said), "a preset")
    shown = generate(command, backbone, tmp_path / "any")
    assert (shown.code, "terms of transformer" in shown.err) == (0, standing != "card")
    assert f"Standing: {IN_WORDS[standing]}" in command("license", "report", tmp_path / "any").out
    words = (command, backbone, tmp_path / "take", "--license-policy", "commercial")
    done = generate(*words)
    if standing == "card":
        assert done.code == 0, done.err
        return
    assert (done.code, done.err.count("\n"), page in done.err) == (2, 1, True)
    (tmp_path / "card.html").write_text("Apache 2.0")
    printed = shlex.split(done.err.partition("record it: longlive-rag ")[2])
    evidence = {"FILE": tmp_path / "card.html", "ID": "Apache-2.0"}
    recorded = command(*(evidence.get(word, word) for word in printed))
    assert recorded.code == 0, recorded.err
    assert generate(*words).code == 0


def test_the_bill_of_materials(command, backbone, fake_pipeline, tmp_path):
    """What the SPDX 2.3 schema asks of a document, and every fact of the page in it."""
    fake_pipeline()
    (tmp_path / "grant.txt").write_text("You may.")
    grant = ("--spdx", "LicenseRef-Grant-7", "--use", "commercial", "--evidence", tmp_path / "grant.txt")
    command("license", "record", backbone, "--spdx", "MIT", *WHO)
    first = min(backbone.rglob("*.safetensors"))
    command("license", "record", first, *grant, *WHO)
    assert generate(command, backbone, tmp_path / "take").code == 0
    done = command("license", "report", tmp_path / "take", "--spdx")
    document = json.loads(done.out)
    assert (document["spdxVersion"], document["dataLicense"]) == ("SPDX-2.3", "CC0-1.0")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", document["creationInfo"]["created"])
    packages = {package["SPDXID"]: package for package in document["packages"]}
    assert len(packages) == len(document["packages"])
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", id_) for id_ in packages)
    needed = {"name", "downloadLocation", "filesAnalyzed", "licenseDeclared", "copyrightText"}
    assert all(needed <= set(package) for package in packages.values())
    for relation in document["relationships"]:
        assert {relation["spdxElementId"], relation["relatedSpdxElement"]} <= {*packages, "SPDXRef-DOCUMENT"}
    related = {relation["relatedSpdxElement"] for relation in document["relationships"]}
    assert related == set(packages)
    declared = " ".join(package["licenseDeclared"] for package in packages.values())
    assert {each["licenseId"] for each in document["hasExtractedLicensingInfos"]} == {"LicenseRef-Grant-7"}
    assert "LicenseRef-Grant-7" in declared
    rights = json.loads((tmp_path / "take" / "take.json").read_text())["rights"]
    sums = {package["checksums"][0]["checksumValue"] for package in packages.values() if "checksums" in package}
    assert {file["sha256"] for file in rights["files"]} < sums
    assert packages["SPDXRef-Library-torch"]["externalRefs"][0]["referenceLocator"].startswith("pkg:pypi/torch@")
    refused = command("license", "report", tmp_path / "take", "--spdx", "--json")
    assert (refused.code, "choose one" in refused.err) == (2, True)


def test_an_unrecorded_take_says_so(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    assert generate(command, backbone, tmp_path / "take", "--deliverable").code == 0
    page = command("license", "report", tmp_path / "take").out
    assert "Not known: no valid record for " in page
    assert "labelled 'deliverable'" in page


def test_a_built_in_backbone_is_shown_by_its_name(command):
    assert "vae/diffusion_pytorch_model.safetensors: Apache-2.0" in command("license", "show", "tiny-world").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["show", "tiny-word"],
            "tiny-word does not exist; name a folder, a weight file or a backbone of 'models list'",
        ),
        (["record", "none.pt", "--spdx", "MIT", *WHO], "none.pt does not exist"),
        (["record", "w.pt", "--spdx", "Apache 2", *WHO], "'Apache 2' is not an SPDX expression"),
        (["record", "w.pt", "--spdx", "MIT", *WHO, "--on", "yesterday"], "--on is 'yesterday'"),
        (["record", "w.pt", "--spdx", "LicenseRef-A", *WHO, "--use", "commercial"], "give a file as evidence"),
        (["record", "w.pt", "--spdx", "MIT", *WHO, "--evidence", "none.pdf"], "evidence none.pdf is not a file"),
        (["record", "w.pt", "--spdx", "MIT", "--source", "", "--by", "x"], "--source is empty"),
        (["record", "notes.txt", "--spdx", "MIT", *WHO], "notes.txt is not a weight file"),
        (["report", "."], "is not a take: it has no take.json"),
        (["report", "old"], "has no rights: it was made by an older version"),
    ],
)
def test_bad_input(command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("w.pt").write_bytes(b"w")
    Path("notes.txt").write_text("")
    Path("old").mkdir()
    shutil.copy(OLD_RECORD, "old/take.json")
    before = sorted(tmp_path.rglob("*"))
    done = command("license", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def unrecorded_take(command, pipeline_folder, tmp_path):
    """A take of a backbone whose weights are on nobody's record, cut short."""
    folder = tmp_path / "backbone"
    shutil.copytree(pipeline_folder, folder)
    take = tmp_path / "take"
    assert command("generate", PROMPT, "-o", take, "--backbone", folder, "--seconds", 2).code == 0
    record = json.loads((take / "take.json").read_text())
    last = max((take / "latents").glob("*.h5"))
    last.unlink()
    del record["checksum"]
    (take / "take.json").write_text(json.dumps({**record, "status": "running"}))
    return take


@pytest.mark.parametrize("terms", [None, "CC-BY-NC-4.0"])
@pytest.mark.parametrize(
    "words",
    [
        ("generate", PROMPT, "--backbone", "backbone", "-o", "new", "--seconds", "1"),
        ("resume", "take"),
        ("extend", "take", "--seconds", "1"),
        ("branch", "take", "--at", "0.5", "-o", "new"),
        ("models", "embed-prompts", PROMPT, "--backbone", "backbone", "-o", "new.safetensors"),
        ("bench", "--backbone", "backbone", "--blocks", "1"),
        ("eval", "compare", "--arms", "native,memory", "--prompts", "prompts.txt", "--horizons", "10",
         "--backbone", "backbone", "--embedders", "pixels", "-o", "new"),
    ],
    ids=lambda words: "-".join(words[:2]).replace(" ", "-"),
)  # fmt: skip
def test_every_command_that_loads_weights_refuses(command, unrecorded_take, tmp_path, monkeypatch, words, terms):
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text(f"{PROMPT}\n")
    if terms is not None:
        record_terms(tmp_path / "backbone", terms, "x", "y")
    monkeypatch.setenv(settings.POLICY_VARIABLE, "commercial")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(AutoencoderKLWan, "from_pretrained", lambda *_, **__: pytest.fail("weights were opened"))
    monkeypatch.setattr(UMT5EncoderModel, "from_pretrained", lambda *_, **__: pytest.fail("weights were opened"))
    done = command(*words)
    assert done.code == 2, done.err
    refusal, why = "Error: license policy 'commercial' does not allow", f"its terms: {terms or 'unrecorded'}"
    if words[0] in ("resume", "extend", "branch"):  # refused for its past, before its weights are looked at
        refusal, why = "Error: take was made under license policy 'any'", "can't be used under 'commercial'"
    assert done.err.splitlines()[-1].startswith(refusal)
    assert why in done.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("words", [("new", PROMPT, "--backbone", "backbone"), ("take",)], ids=["new", "old"])
def test_direct_refuses(unrecorded_take, tmp_path, words):
    """In a process of its own: a session listens to what is typed."""
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = forked.run(["direct", *words], tmp_path, {**os.environ, settings.POLICY_VARIABLE: "commercial"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "'commercial' does not allow" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_weights_of_an_embedder_are_weights(command, tmp_path, monkeypatch):
    """Refused by name and as a folder, before anything is opened or fetched; allowed once it is on record."""
    monkeypatch.setenv(settings.POLICY_VARIABLE, "commercial")
    with pytest.raises(LicenseError, match="does not allow facebook/dino-vitb16: only local files can have"):
        EmbedderSpec("dino").check()
    dino = tmp_path / "dino"
    ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)).save_pretrained(
        dino
    )
    spec = EmbedderSpec(f"dino={dino}")
    for refuse in (spec.check, spec.open):
        with pytest.raises(LicenseError, match=r"dino/model.safetensors; its terms: unrecorded"):
            refuse()
    record_terms(dino, "Apache-2.0", "x", "y")
    spec.check()
    spec.open()


def test_the_api_enforces_too(pipeline_folder, tmp_path, monkeypatch):
    folder = tmp_path / "backbone"
    shutil.copytree(pipeline_folder, folder)
    with pytest.raises(LicenseError, match="its terms: unrecorded"):
        LongLiveRAGPipeline.from_pretrained(folder, license_policy="commercial")
    monkeypatch.setenv(settings.POLICY_VARIABLE, "commercial")
    with pytest.raises(LicenseError, match="its terms: unrecorded"):
        LongLiveRAGPipeline.from_pretrained(folder)
    with pytest.raises(LicenseError, match="it is not a local file, so it has no record"):
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
    with pytest.raises(LicenseError, match=r"a LoRA .put in from Python."):
        pipe.load_lora_weights(tensors)
    record_terms(lora, "CC-BY-NC-4.0", "x", "y")
    with pytest.raises(LicenseError, match=r"CC-BY-NC-4\.0"):
        pipe.load_lora_weights(str(lora))
    record_terms(lora, "MIT", "x", "y")
    pipe.load_lora_weights(str(lora))
    assert pipe.transformer.peft_config


@pytest.mark.parametrize("way", ["extend", "resume"])
def test_a_take_is_not_continued_under_a_stricter_policy_than_its_past(command, backbone, fake_pipeline, tmp_path, way):
    fake_pipeline()
    take = tmp_path / "take"
    assert generate(command, backbone, take).code == 0
    record_terms(backbone, "MIT", "x", "y")
    before = (take / "take.json").read_bytes()
    more = {"extend": ["--seconds", "1"], "resume": []}[way]
    refused = command(way, take, *more, "--license-policy", "commercial")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert f"{take} was made under license policy 'any' and can't be used under 'commercial'" in refused.err
    assert (take / "take.json").read_bytes() == before


def test_a_take_to_be_remembered_is_a_part_as_well(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    assert generate(command, backbone, tmp_path / "take").code == 0
    record_terms(backbone, "MIT", "x", "y")
    refused = generate(
        command, backbone, tmp_path / "new", "--remember", tmp_path / "take", "--license-policy", "commercial"
    )
    assert refused.code == 2
    assert "(to be remembered) was made under license policy 'any'" in refused.err
