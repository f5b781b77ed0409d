"""`longlive-rag models` and `doctor`: what they say, and what they refuse."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from hub import Hub
from layouts import write_original_folder
from transformers import UMT5Config, UMT5EncoderModel

from backbone.transformer import CausalWanTransformer
from longlive_rag.diagnostics import doctor
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets import catalogue
from longlive_rag.presets.catalogue import known_backbone, known_names
from longlive_rag.presets.embeddings import encoder_id, read_embeddings
from longlive_rag.presets.needs import estimate, weight_bytes
from longlive_rag.presets.preset import load_preset, preset_to_plan_with
from longlive_rag.rights.records import rights_of
from longlive_rag.weights.load import load_pipeline, place, text_device

ROOT = Path(__file__).parents[2]
PROMPT = "a red circle walks in a meadow"
TOKENIZER_FILES = ("special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer_config.json")
WAN = Path("Wan-AI") / "Wan2.1-T2V-1.3B"


def test_list_and_show(command):
    listed = command("models", "list")
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == known_names()
    assert known_names()[0] == "tiny-world"
    for name in known_names():
        shown = command("models", "show", name)
        assert shown.code == 0
        assert known_backbone(name).title in shown.out
        as_json = json.loads(command("models", "show", name, "--json").out)
        assert as_json["name"] == name
    refused = command("models", "show", "big")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "'big' is not a known backbone; known: tiny-world" in refused.err


def test_a_page_for_whoever_decides(command):
    """Section, alpha, positions, sizes, files with their sources, and every statement on their terms."""
    shown = command("models", "show", "longlive").out
    for fact in (
        "section generator of the checkpoint, with a LoRA of rank 256, alpha 256",
        "window frames 12, sink frames 3, memory frames 6*, recency guard frames 5*, frames per block 3",
        "positions relative",
        "latents 16 x 60 x 104",
        "names verified at: configs/longlive_inference.yaml of GitHub NVlabs/LongLive, branch v1.0",
        "terms: Apache-2.0, stated by the code repository",
        "remark: CC-BY-NC-SA-4.0 until 2025-11-01, when the code repository changed it to Apache-2.0",
        "terms on the model card not seen; read it at https://huggingface.co/Efficient-Large-Model/LongLive-1.3B",
        "commercial: refuses transformer, lora until",
    ):
        assert fact in shown, fact
    contradictory = command("models", "show", "self-forcing").out
    assert "terms: contradictory" in contradictory
    assert "CC-BY-NC-SA-4.0 by the model card (an archived, undated copy" in contradictory
    assert "Apache-2.0 by the code repository since 2025-10-08" in contradictory
    assert "commercial: loads it" in command("models", "show", "causal-forcing").out
    unseen = command("models", "show", "longlive-2").out
    assert "Not verified: the names of its base's tokenizer files: all that are in google/umt5-xxl are taken." in unseen
    assert "Wan2.2_VAE.pth, models_t5_umt5-xxl-enc-bf16.pth, google/umt5-xxl/*\n" in unseen
    assert "google/umt5-xxl/*\n    names verified at: wan22 2.2.11 on PyPI" in unseen
    assert "Apache-2.0 by the code repository (README of wan22 2.2.11 on PyPI" in unseen
    assert unseen.endswith("next: longlive-rag models fetch longlive-2\n")
    assert "commercial: refuses base, transformer until" in unseen


def test_a_damaged_description_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "CATALOGUE", tmp_path)
    (tmp_path / "mine.toml").write_text('title = "x"\nsummary = "y"\ncolour = 3\n')
    with pytest.raises(ValueError, match=r"mine\.toml: colour is not known"):
        known_backbone("mine")
    own = 'title = "x"\nsummary = "y"\n'
    files = '[[files]]\nrole = "base"\nrepo = "a/b"\nnames = []\nlooked_up_on = "2026-01-31"\n[[files.statements]]\n'
    for text, message in (
        (own + 'ours = ["windows"]\n', "mine: ours names windows, which is not a setting"),
        (own + files.partition("[[files.st")[0].replace("31", "32"), "looked_up_on is '2026-01-32'"),
        (own + files + 'by = "card"\nspdx = "MITT"\nwhere = "w"\nseen_on = "2026-01-31"\n', "'MITT' is not an SPDX"),
        (own + files + 'by = "me"\nspdx = "MIT"\nwhere = "w"\nseen_on = "2026-01-31"\n', "by is 'me'"),
    ):
        (tmp_path / "mine.toml").write_text(text)
        with pytest.raises(ValueError, match=message):
            known_backbone("mine")


# ---- fetching from a mirror ----


@pytest.fixture
def mirror(tmp_path):
    """A mirror of what self-forcing is made of, in a few bytes, with one published hash."""
    folder = tmp_path / "hub"
    wan, forcing = folder / "Wan-AI" / "Wan2.1-T2V-1.3B", folder / "gdhe17" / "Self-Forcing"
    for path in (
        wan / "config.json",
        wan / "diffusion_pytorch_model.safetensors",
        wan / "Wan2.1_VAE.pth",
        wan / "models_t5_umt5-xxl-enc-bf16.pth",
        *(wan / "google" / "umt5-xxl" / name for name in TOKENIZER_FILES),
        wan / "LICENSE.txt",
        wan / "assets" / "picture.png",
        forcing / "checkpoints" / "self_forcing_dmd.pt",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    digest = hashlib.sha256(b"self_forcing_dmd.pt").hexdigest()
    (forcing / "SHA256SUMS").write_text(f"{digest}  checkpoints/self_forcing_dmd.pt\n")
    return folder


def test_fetching_from_a_mirror(command, mirror, tmp_path):
    dest = tmp_path / "downloads"
    words = ("models", "fetch", "self-forcing", "--to", dest, "--mirror", mirror, "--no-convert")
    done = command(*words)
    assert done.code == 0, done.err
    files = sorted(path.relative_to(dest).as_posix() for path in dest.rglob("*") if path.is_file())
    assert "Wan-AI/Wan2.1-T2V-1.3B/google/umt5-xxl/tokenizer.json" in files
    assert "gdhe17/Self-Forcing/checkpoints/self_forcing_dmd.pt" in files
    assert "Wan-AI/Wan2.1-T2V-1.3B/diffusion_pytorch_model.safetensors" not in files  # the checkpoint replaces it
    assert len([file for file in files if Path(file).name != "licenses.json"]) == 9
    assert f"1 files from the mirror in {dest}/gdhe17/Self-Forcing, 1 of 1 checked against published hashes" in done.out
    assert f"next: longlive-rag models fetch self-forcing --to {dest} --mirror {mirror}\n" in done.out
    record = ("license", "record", dest / "gdhe17/Self-Forcing", "--spdx", "MIT", "--source", "card", "--by", "K")
    assert "research    checkpoints" in command("license", "show", dest / "gdhe17/Self-Forcing").out
    assert command(*record).code == 0
    assert command(*words).code == 0  # what a user has recorded stays
    assert "commercial  checkpoints" in command("license", "show", dest / "gdhe17/Self-Forcing").out
    (dest / "gdhe17/Self-Forcing/checkpoints/self_forcing_dmd.pt").write_bytes(b"damaged")
    refused = command("models", "fetch", "self-forcing", "--to", dest, "--mirror", mirror)
    assert (refused.code, refused.err.splitlines()[-1].startswith("Error: ")) == (2, True)  # no weights, in fact


def test_a_list_of_hashes_that_is_none(command, mirror, tmp_path):
    sums = mirror / "gdhe17" / "Self-Forcing" / "SHA256SUMS"
    words = ("models", "fetch", "self-forcing", "--to", tmp_path / "to", "--mirror", mirror, "--no-convert")
    digest = hashlib.sha256(b"self_forcing_dmd.pt").hexdigest()
    for text in ("abc\n", f"\n{digest}\n", "<html>\n"):
        sums.write_text(text)
        refused = command(*words)
        assert refused.code == 2
        assert f"{sums}, line {text.count(chr(10))}, is not a hash and a file name" in refused.err
    sums.write_text(f"{digest.upper()} *./checkpoints/self_forcing_dmd.pt\n\n")
    assert "1 of 1 checked against published hashes" in command(*words).out


def test_a_folder_is_not_made_twice(command, mirror, pipeline_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LONGLIVE_RAG_MODELS", str(tmp_path / "models"))
    (tmp_path / "models" / "self-forcing").mkdir(parents=True)
    words = ("models", "fetch", "self-forcing", "--to", tmp_path / "downloads", "--mirror", mirror)
    refused = command(*words)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "self-forcing already exists, but fetching self-forcing would create it; move it away first" in refused.err
    shutil.rmtree(tmp_path / "models" / "self-forcing")
    shutil.copytree(pipeline_folder, tmp_path / "models" / "self-forcing")
    done = command(*words)
    assert (done.code, "already exists" in done.out) == (0, True)
    assert not (tmp_path / "downloads").exists()
    assert load_preset("self-forcing").folder == tmp_path / "models" / "self-forcing"
    assert re.search("^self-forcing +fetched ", command("models", "list").out, re.MULTILINE)
    assert command("models", "check", "self-forcing").code == 0


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda models: models.write_text(""), "models is a file"),
        (lambda models: (models.mkdir(), (models / "self-forcing").symlink_to("gone")), "self-forcing already exists"),
    ],
)
def test_a_folder_that_can_not_be_made_is_refused_before_anything_is_fetched(
    command, mirror, tmp_path, monkeypatch, prepare, message
):
    monkeypatch.setenv("LONGLIVE_RAG_MODELS", str(tmp_path / "models"))
    prepare(tmp_path / "models")
    refused = command("models", "fetch", "self-forcing", "--to", tmp_path / "downloads", "--mirror", mirror)
    assert (refused.code, refused.err.count("\n"), message in refused.err) == (2, 1, True), refused.err
    assert not (tmp_path / "downloads").exists()


def test_a_file_that_is_not_what_was_published(command, mirror, tmp_path):
    (mirror / "gdhe17" / "Self-Forcing" / "checkpoints" / "self_forcing_dmd.pt").write_bytes(b"something else!!!!!")
    done = command("models", "fetch", "self-forcing", "--to", tmp_path / "downloads", "--mirror", mirror)
    assert done.code == 1
    assert "it was deleted, fetch it again" in done.err
    assert not list((tmp_path / "downloads").rglob("*.pt"))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("Wan-AI", "has no Wan-AI/Wan2.1-T2V-1.3B/"),
        ("Wan-AI/Wan2.1-T2V-1.3B/google", "has no google/umt5-xxl/special_tokens_map.json"),
    ],
)
def test_an_incomplete_mirror(command, mirror, tmp_path, missing, message):
    shutil.rmtree(mirror / missing)
    done = command("models", "fetch", "self-forcing", "--to", tmp_path / "downloads", "--mirror", mirror)
    assert (done.code, message in done.err) == (2, True)


def test_a_disk_that_is_full(command, mirror, tmp_path, monkeypatch):
    """What was copied before stays, the file that broke off doesn't, and the same command goes on."""
    copied, copyfile = [], shutil.copyfile

    def filling_up(source, target):
        if len(copied) == 2:
            target.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))
        copied.append(source)
        return copyfile(source, target)

    monkeypatch.setattr("longlive_rag.weights.hub.shutil.copyfile", filling_up)
    words = ("models", "fetch", "self-forcing", "--to", tmp_path / "downloads", "--mirror", mirror, "--no-convert")
    done = command(*words)
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(f"Error: No space left on device: {tmp_path / 'downloads'}")
    assert done.err.endswith("; free some space and run this again\n")
    assert len([path for path in (tmp_path / "downloads").rglob("*") if path.is_file()]) == 2
    monkeypatch.setattr("longlive_rag.weights.hub.shutil.copyfile", copyfile)
    assert command(*words).code == 0


def test_offline_says_so(command, tmp_path, monkeypatch):
    def unreachable(*_args, **_settings):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    done = command("models", "fetch", "self-forcing", "--to", tmp_path / "downloads")
    assert (done.code, (tmp_path / "downloads").exists()) == (1, False)
    assert "could not be fetched (ConnectionError: Name or service not known); check the network" in done.err
    assert "--mirror FOLDER" in done.err
    assert command("models", "fetch", "tiny-world", "--to", tmp_path / "x").code == 2


# ---- fetching from a hub: the true client, a hub on this machine ----


@pytest.fixture
def hub(mirror):
    (mirror / "Wan-AI" / "Wan2.1-T2V-1.3B" / "Wan2.1_VAE.pth").write_bytes(bytes(range(256)) * 100_000)
    with Hub(mirror) as server:
        yield server


def fetch(hub, dest, **settings):
    """`models fetch`, in a process of its own: the client reads its settings when it is imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(dest / ".hf")}
    words = [sys.executable, "-m", "longlive_rag", "models", "fetch", "self-forcing", "--to", str(dest), "--no-convert"]
    environment.update(settings)
    return subprocess.run(words, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_fetching_from_the_hub_goes_on_where_it_broke_off(hub, tmp_path):
    dest, vae = tmp_path / "downloads", hub.folder / "Wan-AI" / "Wan2.1-T2V-1.3B" / "Wan2.1_VAE.pth"
    hub.broken_after = 15_000_000  # the client writes 10 MiB at a time
    done = fetch(hub, dest)
    assert done.returncode == 0, done.stderr
    assert (dest / WAN / "Wan2.1_VAE.pth").read_bytes() == vae.read_bytes()
    ranges = [asked for _, path, asked in hub.asked if path.endswith("Wan2.1_VAE.pth") and asked]
    assert ranges
    assert all(0 < int(asked.removeprefix("bytes=").rstrip("-")) <= 15_000_000 for asked in ranges)
    assert f"base: 8 files from the hub in {dest / WAN}, 1 of 8 checked against published hashes" in done.stdout
    assert not (dest / WAN / "assets").exists()
    hub.asked.clear()
    again = fetch(hub, dest)
    assert again.returncode == 0, again.stderr
    assert not [path for method, path, _ in hub.asked if method == "GET" and path.endswith(".pth")]
    offline = fetch(hub, dest, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert f"base: 8 files from the cache in {dest / WAN}, 0 of 8 checked" in offline.stdout


@pytest.mark.slow
def test_offline_fetching_reads_the_clients_cache(hub, tmp_path):
    """What `hf download` has put there; a file that is missing there is named, and nothing is written."""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}
    code = "import sys, huggingface_hub as hub; [hub.snapshot_download(repo) for repo in sys.argv[1:]]"
    repos = [str(WAN), "gdhe17/Self-Forcing"]
    subprocess.run([sys.executable, "-c", code, *repos], env=environment, check=True, capture_output=True)
    offline, dest = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}, tmp_path / "downloads"
    done = fetch(hub, dest, **offline)
    assert done.returncode == 0, done.stderr
    assert f"transformer: 1 files from the cache in {dest / 'gdhe17/Self-Forcing'}" in done.stdout
    assert (dest / WAN / "Wan2.1_VAE.pth").read_bytes() == (hub.folder / WAN / "Wan2.1_VAE.pth").read_bytes()
    assert not (dest / WAN / "Wan2.1_VAE.pth").is_symlink()
    next((tmp_path / "hf").rglob("self_forcing_dmd.pt")).unlink()
    refused = fetch(hub, tmp_path / "others", **offline)
    assert (refused.returncode, (tmp_path / "others").exists()) == (1, False)
    assert "gdhe17/Self-Forcing" in refused.stderr.splitlines()[-1]
    assert "set HF_HUB_OFFLINE=0" in refused.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_hub_whose_file_is_not_what_it_says(hub, tmp_path):
    hub.published["Wan2.1_VAE.pth"] = "0" * 64
    done = fetch(hub, tmp_path / "downloads")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert f"but {'0' * 64} is published; it was deleted, fetch it again" in done.stderr
    assert not (tmp_path / "downloads" / WAN / "Wan2.1_VAE.pth").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("Wan-AI/Wan2.1-T2V-1.3B/Wan2.1_VAE.pth", "the repository Wan-AI/Wan2.1-T2V-1.3B has no Wan2.1_VAE.pth"),
        ("gdhe17", "gdhe17/Self-Forcing could not be fetched (RepositoryNotFoundError"),
    ],
)
def test_names_that_are_not_on_the_hub(hub, tmp_path, gone, message):
    path = hub.folder / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = fetch(hub, tmp_path / "downloads")
    assert done.returncode == 1, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


# ---- check ----


def test_check(command, pipeline_folder, tmp_path):
    done = command("models", "check", pipeline_folder)
    assert done.code == 0
    assert "ok   layout: a pipeline folder" in done.out
    for part in ("transformer", "vae", "text_encoder", "encoder"):
        assert re.search(rf"^ok   {part}: 1 file, \d+ tensors, F32, .*; they fit their config$", done.out, re.MULTILINE)
    assert "memory needed: about" in done.out
    assert "note transformer/diffusion_pytorch_model.safetensors: unrecorded" in done.out
    broken = tmp_path / "broken"
    shutil.copytree(pipeline_folder, broken)
    weights = broken / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = command("models", "check", broken)
    assert done.code == 1
    assert re.search("^BAD  vae: .* is damaged: its header describes", done.out, re.MULTILINE)
    assert "ok   transformer" in done.out
    assert "memory needed" not in done.out
    assert command("models", "check", tmp_path / "none").code == 2
    ours = command("models", "check", "tiny-world")
    assert (ours.code, "BAD" in ours.out, "note" in ours.out) == (0, False, False)


def test_the_command_that_a_check_prints_records_only_what_is_unknown(command, pipeline_folder, tmp_path):
    folder = shutil.copytree(pipeline_folder, tmp_path / "my models" / "mine")
    recorded = ("license", "record", folder / "vae", "--spdx", "MIT", "--source", "a contract", "--by", "K")
    assert command(*recorded).code == 0
    printed = shlex.split(re.search("longlive-rag (license record .*)", command("models", "check", folder).out)[1])
    words = {"ID": "Apache-2.0", "WHERE": "a card"}
    assert command(*(words.get(word, word) for word in printed)).code == 0
    assert {file.file.split("/")[0]: file.record.terms for file in rights_of(folder)} == {
        "vae": "MIT", **dict.fromkeys(("transformer", "text_encoder", "encoder", "tokenizer"), "Apache-2.0")
    }  # fmt: skip
    assert "license record" not in command("models", "check", folder).out


def test_commands_to_type_name_folders_with_spaces(command, mirror, pipeline_folder, tmp_path, monkeypatch):
    made = tmp_path / "my models" / "made"
    done = command("models", "convert", pipeline_folder, made)
    assert shlex.split(done.out.splitlines()[-1])[-1] == str(made)
    words = ("--to", str(tmp_path / "my files"), "--mirror", str(mirror))
    done = command("models", "fetch", "self-forcing", *words, "--no-convert")
    assert shlex.split(done.out.splitlines()[-1])[-4:] == list(words)
    monkeypatch.setenv("LONGLIVE_RAG_MODELS", str(tmp_path / "my models"))
    printed = re.search("longlive-rag license record (.*)", command("models", "show", "longlive").out)[1]
    assert shlex.split(printed)[0] == str(tmp_path / "my models" / "longlive" / "transformer")


def test_check_names_each_part_of_the_original_layout(command, pipe, pipeline_folder, tmp_path):
    folder = tmp_path / "Wan2.1"
    write_original_folder(folder, pipe.transformer, pipe.vae, pipe.text_encoder, pipeline_folder / "tokenizer")
    done = command("models", "check", folder)
    assert done.code == 1
    assert f"longlive-rag models convert {folder} NEW_FOLDER" in done.out
    assert "BAD" not in done.out
    (folder / "Wan2.1_VAE.pth").unlink()
    text = folder / "models_t5_umt5-xxl-enc-bf16.pth"
    text.write_bytes(text.read_bytes()[:1000])
    done = command("models", "check", folder)
    assert "layout: the original Wan release's -> get the missing files first" in done.out
    assert f"BAD  vae: {folder} has no Wan2.1_VAE.pth or Wan2.2_VAE.pth; is the download complete?" in done.out
    assert f"BAD  text_encoder: {text} is truncated" in done.out
    assert "ok   transformer: 1 file" in done.out
    assert "ok   tokenizer: " in done.out


def test_diffusers_own_folder_is_refused_with_the_way_out(command, pipeline_folder, tmp_path):
    """Its parts fit, but its transformer is not the causal one: nothing may be generated with it by mistake."""
    folder = tmp_path / "diffusers"
    shutil.copytree(pipeline_folder, folder)
    index = {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    done = command("models", "check", folder)
    assert (done.code, f"layout: diffusers' -> to use it: longlive-rag models convert {folder}" in done.out) == (
        1,
        True,
    )
    refused = command("generate", PROMPT, "-o", tmp_path / "take", "--backbone", folder)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "is a folder of diffusers' WanTransformer3DModel, which is not causal" in refused.err
    with pytest.raises(ValueError, match="which is not causal; convert it to a pipeline folder"):
        LongLiveRAGPipeline.from_pretrained(folder)
    assert command("models", "check", tmp_path).code == 1


def test_a_text_encoder_that_does_not_fit_is_refused(pipeline_folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(pipeline_folder, broken)
    config = broken / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "d_ff": 64}))
    with pytest.raises(ValueError, match=r"text_encoder does not fit its config: .*DenseReluDense"):
        load_pipeline(str(broken))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "encoder"])
@pytest.mark.parametrize("content", ["{", "[]", '{"num_layers": "two", "dim_mult": 3, "hidden_dims": 3}'])
def test_a_damaged_config_is_named(command, pipeline_folder, tmp_path, part, content):
    broken = tmp_path / "broken"
    shutil.copytree(pipeline_folder, broken)
    (broken / part / "config.json").write_text(content)
    done = command("models", "check", broken)
    assert (done.code, done.out.count("BAD ")) == (1, 1), done.out
    assert re.search(rf"^BAD  {part}: .*{part}.config.json can't be (used|read)", done.out, re.MULTILINE)
    refused = command("generate", PROMPT, "-o", tmp_path / "take", "--backbone", broken, "--seconds", 1)
    assert (refused.code, refused.err.count("\n")) == (2, 1), refused.err
    assert f"{part}{os.sep}config.json" in refused.err
    assert not (tmp_path / "take").exists()


def test_a_tokenizer_that_is_cut_off_is_named(command, pipeline_folder, tmp_path):
    broken = shutil.copytree(pipeline_folder, tmp_path / "broken")
    cut = broken / "tokenizer" / "tokenizer.json"
    cut.write_bytes(cut.read_bytes()[:200])
    assert command("models", "check", broken).code == 1
    refused = command("generate", PROMPT, "-o", tmp_path / "take", "--backbone", broken, "--seconds", 1)
    assert (refused.code, refused.err.count("\n")) == (2, 1), refused.err
    assert f"{cut} can't be read" in refused.err


def test_known_names_without_weights(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command("generate", PROMPT, "-o", tmp_path / "take", "--backbone", "longlive")
    assert done.code == 2
    assert "its weights are not in models/longlive; to get them: longlive-rag models fetch longlive" in done.err


# ---- convert, from the command line ----


def test_convert(command, pipeline_folder, tmp_path):
    done = command("models", "convert", pipeline_folder, tmp_path / "made", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["folder"] == str(tmp_path / "made")
    refused = command("models", "convert", tmp_path / "none", tmp_path / "other")
    assert (refused.code, refused.err.count("\n")) == (2, 1)


# ---- prompts embedded ahead ----


def test_embedded_prompts_replace_the_text_encoder(command, pipeline_folder, tmp_path):
    path = tmp_path / "prompts.safetensors"
    (tmp_path / "prompts.txt").write_text(f"# mine\n{PROMPT}\n\n  a blue square walks \n")
    arguments = ("--backbone", pipeline_folder, "--file", tmp_path / "prompts.txt", "-o", path)
    assert command("models", "embed-prompts", *arguments).out == f"{path}: 2 prompts\n"
    with_text = load_pipeline(str(pipeline_folder), device="cpu")
    without = load_pipeline(str(pipeline_folder), "float32", "cpu", None, path)
    assert without.text_encoder is None
    request = with_text.request(PROMPT, seconds=0.5)
    torch.testing.assert_close(without(request).latents, with_text(request).latents)
    with pytest.raises(ValueError, match="has no stored embedding"):
        without.check(with_text.request("a red circle jumps", seconds=0.5))
    assert set(read_embeddings(path, encoder_id(pipeline_folder))) == {PROMPT, "a blue square walks"}
    with pytest.raises(ValueError, match="was made by a different text encoder"):
        read_embeddings(path, "other")


def test_a_text_encoder_without_room_beside_the_rest_stays_in_host_memory(pipeline_folder):
    """`meta` stands for a GPU: what lies there has no data, so the encoder can't have been there."""
    folder, gpu, host = pipeline_folder, torch.device("meta"), torch.device("cpu")
    needs = estimate(load_preset(str(folder)), "float32", "cuda")
    both = needs.device_bytes + needs.text_encoder_bytes
    assert text_device(folder, "float32", gpu, int(both / 0.9) + 1) == gpu
    assert text_device(folder, "float32", gpu, int(both / 0.9) - 1) == host
    assert text_device(folder, "float32", host) == host
    expected = load_pipeline(str(folder), device="cpu").embed([PROMPT])
    pipe = place(LongLiveRAGPipeline.from_pretrained(folder), gpu, host)
    assert {part: pipe.components[part].device for part in ("transformer", "vae", "encoder", "text_encoder")} == {
        "transformer": gpu, "vae": gpu, "encoder": gpu, "text_encoder": host
    }  # fmt: skip
    assert pipe.device == gpu
    torch.testing.assert_close(pipe.embed([PROMPT]), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.safetensors"], "no prompts given"),
        ([PROMPT, "-o", "x.pt"], "its name must end in .safetensors"),
        ([" ", "-o", "x.safetensors"], "the prompt is empty"),
        (["red " * 40, "-o", "x.safetensors"], "is too long: this backbone reads at most 16"),
    ],
)
def test_prompts_that_cannot_be_embedded(command, pipeline_folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = command("models", "embed-prompts", *arguments, "--backbone", pipeline_folder)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err
    assert not list(tmp_path.iterdir())


# ---- doctor and estimates ----


def test_doctor(command, tmp_path):
    done = command("doctor", "--takes", tmp_path / "takes")
    assert done.code == 0
    for what in ("Python", "torch", "GPU", "FAISS", "video", "disk", "memory"):
        assert f" {what}: " in done.out
    assert all(found["verdict"] in ("ok", "note") for found in json.loads(command("doctor", "--json").out))


def test_doctor_on_a_backbone(command, monkeypatch):
    monkeypatch.setattr(doctor, "flops_per_second", lambda _: 1e11)
    monkeypatch.setattr(doctor, "device_memory", lambda: ("CPU", 4 * 10**9))
    done = command("doctor", "--backbone", "longlive", "--dtype", "bfloat16")
    assert done.code == 1
    assert "BAD  memory needed: about " in done.out
    assert "-> a smaller --window" in done.out
    assert "models embed-prompts" in done.out
    assert re.search(r"note speed: roughly \d+ s per frame", done.out)
    monkeypatch.setattr(doctor, "device_memory", lambda: ("GPU", 80 * 10**9))
    assert command("doctor", "--backbone", "longlive", "--dtype", "bfloat16").code == 0
    assert command("doctor", "--backbone", "nothing").code == 2


def test_doctor_names_what_is_broken(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (9, 0))
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    found = {finding.what: finding for finding in doctor.examine(tmp_path)}
    assert found["Python"].verdict == "bad"
    assert found["disk"].verdict == "bad"
    assert "can't be written" in found["disk"].found


def test_estimates_count_what_is_there():
    xxl = UMT5Config(vocab_size=256384, d_model=4096, d_ff=10240, num_heads=64, num_layers=24)
    with torch.device("meta"):
        real = {"transformer": CausalWanTransformer(), "vae": AutoencoderKLWan(), "text encoder": UMT5EncoderModel(xxl)}
    known = preset_to_plan_with("longlive")
    counted, bytes_each = weight_bytes(known, "bfloat16"), {"transformer": 2, "vae": 4, "text encoder": 2}
    for part, model in real.items():
        assert counted[part] == sum(parameter.numel() for parameter in model.parameters()) * bytes_each[part]
    needs = estimate(known, "bfloat16", "cuda")
    assert needs.page_bytes == 2 * 30 * 1560 * 1536 * 2 == 287_539_200
    assert needs.pixel_frames_per_block == 12
    assert needs.bytes_by_part["transformer"] == counted["transformer"]
    twice = estimate(known, "float32", "cuda")
    assert twice.page_bytes == 2 * needs.page_bytes
    one_frame = replace(known, context=replace(known.context, frames_per_block=1))
    frame_wise = estimate(one_frame, "bfloat16", "cuda")
    assert (frame_wise.page_bytes, frame_wise.pixel_frames_per_block) == (needs.page_bytes, 4)
    assert frame_wise.flops_per_block == pytest.approx(needs.flops_per_block / 3)
    one_step = replace(one_frame, sampler=replace(known.sampler, denoising_steps=(1000,)))
    assert estimate(one_step, "bfloat16", "cuda").flops_per_block == pytest.approx(frame_wise.flops_per_block * 2 / 5)
    assert needs.frames_per_second(2e14) == pytest.approx(2 * needs.frames_per_second(1e14))
