"""Known backbones are what was seen of their releases, and each goes from a hub here to a take with memory."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from click.testing import CliRunner
from five import five_pipeline
from hub import Hub
from layouts import as_trained, original_transformer, peft_lora, write_original_folder
from safetensors.torch import load_file
from transformers import UMT5Config, UMT5EncoderModel

from backbone.transformer import CausalWanTransformer
from backbone.vae import denormalize_latents
from longlive_rag.cli.main import cli
from longlive_rag.config import OutputConfig
from longlive_rag.diagnostics.verify import Golden
from longlive_rag.environment import MODELS_VARIABLE
from longlive_rag.presets.catalogue import known_backbone, known_names
from longlive_rag.presets.geometry import read_geometry
from longlive_rag.presets.preset import BUILT_IN, preset_to_plan_with
from longlive_rag.rights.records import rights_of, weights_in
from longlive_rag.weights.convert import Sources, convert, read_encoder
from longlive_rag.weights.hub import FetchError, Listing, list_files
from longlive_rag.weights.load import load_pipeline
from longlive_rag.weights.obtain import obtain
from retrieval.encoder import LatentAutoencoder
from retrieval.files import in_words

GOLDEN = Path(__file__).parents[1] / "golden" / "rag_ae.safetensors"
PROMPT = "a red circle walks in a meadow"
ROLES = (("base",), ("transformer", "encoder"))
PLAIN, AVERAGED = 1.25, 0.75  # of the model at hand: what a checkpoint's two sections hold
WAN, WAN_5B, RAG = "Wan-AI/Wan2.1-T2V-1.3B", "Wan-AI/Wan2.2-TI2V-5B", "qixinhu11/LongLive-RAG"
LONGLIVE, CAUSAL = "Efficient-Large-Model/LongLive-1.3B", "zhuhz22/Causal-Forcing"

# name: section, LoRA alpha, window, sink, frames a block, steps, search by the autoencoder, repository, files
FACTS = {
    "longlive-rag": (
        "generator", 256, 12, 1, 3, 4, True, RAG,
        [
            "checkpoints/longlive_base.pt", "checkpoints/longlive_lora.pt", "checkpoints/ae_latent_mem.pt",
            "checkpoints/moviegenbench_128_refined.txt",
        ],
    ),
    "longlive-rag-self-forcing": (
        "generator_ema", None, 12, 1, 3, 4, True, RAG, ["checkpoints/self_forcing.pt", "checkpoints/ae_latent_mem.pt"],
    ),
    "longlive-rag-causal-forcing": (
        "generator", None, 12, 1, 3, 4, True, RAG, ["checkpoints/causal_forcing.pt", "checkpoints/ae_latent_mem.pt"],
    ),
    "longlive": ("generator", 256, 12, 3, 3, 4, False, LONGLIVE, ["models/longlive_base.pt", "models/lora.pt"]),
    "self-forcing": (
        "generator_ema", None, 12, 1, 3, 4, False, "gdhe17/Self-Forcing", ["checkpoints/self_forcing_dmd.pt"],
    ),
    "causal-forcing": ("generator", None, 12, 1, 3, 4, False, CAUSAL, ["chunkwise/causal_forcing.pt"]),
    "causal-forcing-framewise": ("generator_ema", None, 12, 1, 1, 4, False, CAUSAL, ["framewise/causal_forcing.pt"]),
    "causal-forcing-2step": (
        "generator_ema", None, 12, 1, 1, 2, False, CAUSAL, ["causal-forcing++/framewise-2step.pt"],
    ),
    "causal-forcing-1step": (
        "generator_ema", None, 12, 1, 1, 1, False, CAUSAL, ["causal-forcing++/framewise-1step.pt"],
    ),
    "longlive-2": (
        None, None, 32, 8, 8, 4, False, "Efficient-Large-Model/LongLive-2.0-5B", ["model_bf16.pt"],
    ),
}  # fmt: skip
STEPS = {4: (1000, 750, 500, 250), 2: (1000, 500), 1: (1000,)}
ON_1_3B = [name for name in FACTS if name != "longlive-2"]
STANDINGS = {
    "longlive-rag": ("repository", "Apache-2.0"),
    "longlive-rag-self-forcing": ("contradictory", "NOASSERTION"),
    "longlive-rag-causal-forcing": ("repository", "Apache-2.0"),
    "longlive": ("repository", "Apache-2.0"),
    "self-forcing": ("contradictory", "NOASSERTION"),
    "causal-forcing": ("card", "Apache-2.0"),
    "causal-forcing-framewise": ("card", "Apache-2.0"),
    "causal-forcing-2step": ("card", "Apache-2.0"),
    "causal-forcing-1step": ("card", "Apache-2.0"),
    "longlive-2": ("repository", "Apache-2.0"),
}


# ---- what the presets say ----


def test_all_presets_are_held_against_the_facts():
    assert set(known_names()) - set(BUILT_IN) == set(FACTS) == set(STANDINGS)


@pytest.mark.parametrize("name", FACTS)
def test_a_preset_is_what_was_seen_of_its_release(name):
    section, alpha, window, sink, block, steps, by_autoencoder, repo, files = FACTS[name]
    known = known_backbone(name)
    context = known.context
    assert (known.section, known.lora_alpha, known.lora_rank) == (section, alpha, alpha)
    assert (context.window_frames, context.sink_frames, context.frames_per_block) == (window, sink, block)
    assert (context.rope, context.memory_frames, context.recency_guard_frames) == ("relative", 6, 5)
    assert (known.sampler.denoising_steps, known.sampler.timestep_shift) == (STEPS[steps], 5.0)
    assert known.memory.encoder == ("autoencoder" if by_autoencoder else "mean_pool")
    assert (known.memory.establish, known.memory.new_view) == (8.0, None)
    own = [each for each in known.files if each.role != "base"]
    assert {each.repo for each in own} == {repo}
    assert [file for each in own for file in each.names] == files
    assert all(each.seen_at for each in own)
    (transformer,) = (each for each in own if each.role == "transformer")
    assert (transformer.terms.standing, transformer.terms.spdx) == STANDINGS[name]


@pytest.mark.parametrize("name", ["longlive", "self-forcing", "causal-forcing", "longlive-2"])
def test_timesteps_that_a_release_does_not_list_are_not_called_its_own(name):
    """Only LongLive-RAG's configs list any, for its three backbones."""
    known = known_backbone(name)
    if name == "longlive-2":
        assert "denoising_steps" in known.ours
    else:
        assert any("imesteps" in note and "LongLive-RAG's configs" in note for note in known.notes)


@pytest.mark.parametrize("name", FACTS)
def test_sizes_and_what_is_this_projects(name):
    known, large = known_backbone(name), name == "longlive-2"
    geometry = read_geometry(preset_to_plan_with(name), known.output, known.memory.encoder)
    sizes = (geometry.width, geometry.ffn_dim, geometry.heads, geometry.head_dim, geometry.layers)
    assert sizes == ((3072, 14336, 24, 128, 30) if large else (1536, 8960, 12, 128, 30))
    assert geometry.latent_shape == ((48, 44, 80) if large else (16, 60, 104))
    assert (geometry.text_length, geometry.text_dim) == (512, 4096)
    assert geometry.embedding_dim == (1024 if known.memory.encoder == "autoencoder" else geometry.in_channels)
    assert (known.output.width, known.output.height, known.output.fps) == ((1280, 704, 24) if large else (832, 480, 16))
    (base,) = [each for each in known.files if each.role == "base"]
    assert (base.repo, base.terms.spdx) == (WAN_5B if large else WAN, "Apache-2.0")
    assert base.terms.standing == ("repository" if large else "card")
    assert base.seen_at
    assert {"config.json", "models_t5_umt5-xxl-enc-bf16.pth", f"Wan2.{1 + large}_VAE.pth"} < set(base.names)
    assert "establish" in known.ours
    assert any("--no-establish" in note for note in known.notes)
    has_memory = name.startswith("longlive-rag")
    assert ("memory_frames" in known.ours) == (not has_memory)
    assert ("window_frames" in known.ours) == (name not in ("longlive", "longlive-2") and not has_memory)


# ---- from a hub to a take ----


@pytest.fixture(scope="module")
def releases(pipe, pipeline_folder, tmp_path_factory) -> Path:
    """Everything that the presets name, in their layouts, with few numbers in it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("releases")
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    text = UMT5EncoderModel(UMT5Config(vocab_size=len(pipe.tokenizer), feed_forward_proj="gated-gelu", **sizes))
    write_original_folder(folder / WAN, pipe.transformer, pipe.vae, text, pipeline_folder / "tokenizer")
    (folder / WAN / "LICENSE.txt").write_text("Apache License, Version 2.0")
    for name, content in (("special_tokens_map.json", "{}"), ("spiece.model", "pieces")):
        (folder / WAN / "google" / "umt5-xxl" / name).write_text(content)
    weights = original_transformer(pipe.transformer)
    plain, averaged = ({name: tensor * by for name, tensor in weights.items()} for by in (PLAIN, AVERAGED))
    both = {"generator": as_trained(plain), "generator_ema": as_trained(averaged), "critic": {"x": torch.zeros(1)}}
    sizes = {"in_channels": 16, "latent_height": 60, "latent_width": 104, "hidden_dims": [4, 4, 4]}
    encoder = LatentAutoencoder(**sizes, embedding_dim=1024)
    lora = {"generator_lora": peft_lora(pipe.transformer, rank=256)}
    content = {
        "longlive_base.pt": {"generator": as_trained(plain)},
        "ae_latent_mem.pt": {"model": encoder.state_dict(), "config": {**sizes, "embedding_dim": 1024, "lr": 3e-4}},
        "longlive_lora.pt": lora,
        "lora.pt": lora,
    }
    for *_, repo, files in (FACTS[name] for name in ON_1_3B):
        for file in files:
            (folder / repo / file).parent.mkdir(parents=True, exist_ok=True)
            torch.save(content.get(Path(file).name, both), folder / repo / file)
    write_5b(folder, pipeline_folder / "tokenizer")
    return folder


def write_5b(folder: Path, tokenizer: Path) -> None:
    """LongLive 2.0 as a checkpoint without a section, for its release is not known to have one; and its base."""
    base, trained = five_pipeline(1), five_pipeline(2).transformer
    write_original_folder(folder / WAN_5B, base.transformer, base.vae, base.text_encoder, tokenizer)
    shards = folder / WAN_5B / "diffusion_pytorch_model.safetensors"  # only its pattern was seen: nothing may need it
    shards.rename(shards.with_name("diffusion_pytorch_model-of-some-number.safetensors"))
    *_, repo, (file,) = FACTS["longlive-2"]
    (folder / repo).mkdir(parents=True)
    torch.save(as_trained(original_transformer(trained), fsdp=False), folder / repo / file)


@pytest.fixture
def hub(releases, monkeypatch, tmp_path):
    """The hub's own client, asking a hub on this machine."""
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    with Hub(releases) as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def obtained(name: str, folder: Path, said: list[str] | None = None) -> Path:
    known = known_backbone(name)
    say = [].append if said is None else said.append
    obtain(known, folder / "downloads", folder / "models" / name, dtype="float32", say=say)
    return folder / "models" / name


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_1_3B)
def test_from_a_hub_to_a_take_with_memory(name, hub, pipe, tmp_path):
    steps: list[str] = []
    folder, known = obtained(name, tmp_path, steps), known_backbone(name)
    assert [step.split(":")[0] for step in steps] == [
        *(f"fetching {files.role}" for files in known.files),
        f"converting to {folder}",
    ]
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    scale = {"generator": PLAIN, "generator_ema": AVERAGED}[FACTS[name][0]]
    torch.testing.assert_close(
        weights["patch_embedding.weight"], pipe.transformer.state_dict()["patch_embedding.weight"] * scale
    )
    opened = load_pipeline(name, device="cpu")
    assert (opened.folder, opened.context, opened.sampler) == (folder, known.context, known.sampler)
    assert opened.memory == known.memory
    request = opened.request(PROMPT, seconds=6.5, output=OutputConfig(height=32, width=48))
    blocks = list(opened.stream(request))
    assert len(blocks[1].frames) == known.context.frames_per_block
    brought = [len(selection.frames) for block in blocks for selection in block.selections if selection is not None]
    assert max(brought) == known.context.memory_frames
    check_rights(folder, *STANDINGS[name])


def check_rights(folder: Path, basis: str, terms: str) -> None:
    """The base's terms are stated by its card; the rest has the standing of its release."""
    found = {file.file.split("/")[0]: (file.record.basis, file.record.terms, file.use) for file in rights_of(folder)}
    for part in ("vae", "text_encoder", "tokenizer"):
        assert found[part] == ("card", "Apache-2.0", "commercial")
    assert found["transformer"] == (basis, terms, "commercial" if basis == "card" else "research")
    if "encoder" in found:
        assert found["encoder"] == ("repository", "Apache-2.0", "research")


@pytest.mark.slow
def test_backbones_share_their_base_and_a_second_fetch_resumes(hub, tmp_path):
    """A conversion that can't be leaves what was fetched; nothing of it is asked for again."""
    path = hub.folder / FACTS["self-forcing"][-2] / FACTS["self-forcing"][-1][0]
    whole = path.read_bytes()
    torch.save({"generator": torch.load(path)["generator"]}, path)
    try:
        with pytest.raises(ValueError, match="has only the section generator; self-forcing runs 'generator_ema'"):
            obtained("self-forcing", tmp_path)
    finally:
        path.write_bytes(whole)
    assert not (tmp_path / "models").exists()
    hub.asked.clear()
    obtained("causal-forcing", tmp_path)
    fetched = [asked for method, asked, _ in hub.asked if method == "GET" and "/resolve/" in asked]
    assert [Path(each).name for each in fetched] == ["causal_forcing.pt"]


@pytest.mark.slow
def test_one_command_from_nothing_to_a_folder(releases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(MODELS_VARIABLE, raising=False)
    fetched = CliRunner().invoke(cli, ["models", "fetch", "longlive-rag", "--mirror", str(releases)])
    assert fetched.exit_code == 0, fetched.output
    assert (
        "Note: terms of models/longlive-rag/encoder/diffusion_pytorch_model.safetensors: Apache-2.0" in fetched.stderr
    )
    assert fetched.stdout.endswith('next: longlive-rag generate "..." -o takes/first --backbone longlive-rag\n')
    words = ["generate", PROMPT, "-o", "take", "--backbone", "longlive-rag", "--seconds", "1", "--device", "cpu"]
    made = CliRunner().invoke(cli, [*words, "--height", "32", "--width", "48"])
    assert made.exit_code == 0, made.output
    assert "terms of transformer/diffusion_pytorch_model.safetensors: Apache-2.0 (commercial), stated by" in made.stderr
    refused = CliRunner().invoke(cli, [*words, "--license-policy", "commercial"])
    files = "models/longlive-rag/{}/diffusion_pytorch_model.safetensors"
    assert refused.exit_code == 2
    assert f"license record {files.format('encoder')} {files.format('transformer')} --spdx Apache-2.0" in refused.stderr


@pytest.mark.slow
def test_the_5b_preset_from_a_hub_to_a_take_with_memory(hub, tmp_path):
    """Its base's transformer is not fetched; decoded block by block, the take is what it is decoded at once."""
    steps: list[str] = []
    folder, known, name = obtained("longlive-2", tmp_path, steps), known_backbone("longlive-2"), "longlive-2"
    assert len(steps) == 3
    assert not list((tmp_path / "downloads" / WAN_5B).glob("*.safetensors"))
    opened = load_pipeline(name, device="cpu")
    assert (opened.context, opened.sampler, opened.memory) == (known.context, known.sampler, known.memory)
    trained, vae = five_pipeline(2).transformer, five_pipeline(1).vae
    torch.testing.assert_close(opened.transformer.state_dict(), trained.state_dict())
    torch.testing.assert_close(opened.vae.state_dict(), vae.state_dict())
    planned = preset_to_plan_with(name).folder / "vae" / "config.json"
    assert opened.vae.config.latents_std == json.loads(planned.read_text())["latents_std"]
    blocks = list(opened.stream(opened.request(PROMPT, seconds=221 / 24, output=OutputConfig(64, 96, 24))))
    assert len(blocks[1].frames) == known.context.frames_per_block == 8
    brought = [len(selection.frames) for block in blocks for selection in block.selections if selection is not None]
    assert max(brought) == known.context.memory_frames
    latents = torch.cat([block.latents for block in blocks], dim=1).transpose(1, 2)
    with torch.no_grad():
        whole = opened.vae.decode(denormalize_latents(opened.vae, latents)).sample
    pixels = torch.cat([block.pixels for block in blocks], dim=1)
    assert (pixels - ((whole + 1) * 127.5).permute(0, 2, 3, 4, 1)).abs().max() < 0.51  # rounded to whole numbers
    rights = {file.file.split("/")[0]: (file.record.basis, file.record.terms, file.use) for file in rights_of(folder)}
    assert set(rights.values()) == {("repository", "Apache-2.0", "research")}


def test_the_5b_preset_takes_a_base_at_hand(releases, tmp_path, monkeypatch):
    """In another layout, too; one of another geometry is refused."""
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    known, places = known_backbone("longlive-2"), (tmp_path / "downloads", tmp_path / "models" / "longlive-2")
    with pytest.raises(
        ValueError, match="whose latents have 48 channels and 16x16 pixels per element; these have 16 and 8x8"
    ):
        obtain(known, *places, base=releases / WAN, mirror=releases)
    five_pipeline(1, encoder=False).save_pretrained(tmp_path / "base")
    obtain(known, *places, base=tmp_path / "base", mirror=releases)
    assert not (tmp_path / "downloads" / WAN_5B).exists()
    opened = load_pipeline("longlive-2", device="cpu")
    assert (opened.context, opened.output.fps, opened.vae.config.scale_factor_spatial) == (known.context, 24, 16)
    torch.testing.assert_close(opened.transformer.proj_out.weight, five_pipeline(2).transformer.proj_out.weight)


def test_a_checkpoint_with_two_sections_that_the_preset_does_not_know(releases, tmp_path):
    """The command that the refusal prints converts the fetched files."""
    mirror, (*_, repo, (file,)) = tmp_path / "my hub", FACTS["longlive-2"]
    for each in (WAN_5B, repo):
        shutil.copytree(releases / each, mirror / each)
    weights = torch.load(mirror / repo / file)
    torch.save({"generator": weights, "generator_ema": weights}, mirror / repo / file)
    places = tmp_path / "my downloads", tmp_path / "models" / "longlive-2"
    with pytest.raises(ValueError, match="has the sections generator and generator_ema; choose one") as refused:
        obtain(known_backbone("longlive-2"), *places, mirror=mirror, dtype="float32")
    printed = shlex.split(str(refused.value).partition("to convert them: longlive-rag ")[2])
    done = CliRunner().invoke(cli, ["generator" if word == "SECTION" else word for word in printed])
    assert done.exit_code == 0, done.output
    assert (places[1] / "model_index.json").is_file()


def test_a_file_that_the_hub_lacks_is_named_before_anything_is_fetched(hub, tmp_path):
    known = known_backbone("self-forcing")
    (own,) = (files for files in known.files if files.role == "transformer")
    other = replace(own, names=("checkpoints/other.pt",))
    with pytest.raises(FetchError, match=r"gdhe17/Self-Forcing has no checkpoints/other.pt; nothing was fetched"):
        obtain(replace(known, files=(*known.files[:-1], other)), tmp_path / "downloads", tmp_path / "made")
    assert not (tmp_path / "downloads").exists()


def test_room_is_looked_for_before_anything_is_fetched(releases, tmp_path, monkeypatch):
    monkeypatch.setattr("longlive_rag.weights.obtain.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ValueError, match=r"no space left for longlive in .*needs another .* MB, but 1\.0 kB are free"):
        obtain(known_backbone("longlive"), tmp_path / "downloads", tmp_path / "made", mirror=releases)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("dtype", "factor"), [("bfloat16", 1), ("float32", 2)])
@pytest.mark.parametrize("has_base", [False, True])
def test_room_for_the_pipeline_folder_depends_on_precision_and_base(
    releases, tmp_path, monkeypatch, dtype, factor, has_base
):
    known, wan = known_backbone("self-forcing"), releases / WAN
    listings = list_files(known, tmp_path / "downloads", releases)
    base, own = (sum(sum(each.bytes_of.values()) for each in listings if each.files.role in role) for role in ROLES)
    in_base = sum(path.stat().st_size for path in weights_in(wan)) if has_base else base
    needed = own + (0 if has_base else base) + factor * (own + in_base)
    monkeypatch.setattr("longlive_rag.weights.obtain.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ValueError, match=f"needs another {re.escape(in_words(needed))}, but"):
        obtain(
            known,
            tmp_path / "downloads",
            tmp_path / "made",
            mirror=releases,
            base=wan if has_base else None,
            dtype=dtype,
        )


def test_room_is_not_counted_twice_for_weights_published_in_full_precision(tmp_path, monkeypatch):
    known = known_backbone("longlive")
    listings = [Listing(files, "hub", dict.fromkeys(files.names, 10**10), {}) for files in known.files]
    monkeypatch.setattr("longlive_rag.weights.obtain.list_files", lambda *_: listings)
    monkeypatch.setattr("longlive_rag.weights.obtain.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    published = 10**10 * sum(len(files.names) for files in known.files)
    folder = 4 * (1_418_996_800 + 126_892_531) + 2 * 5_680_910_336  # transformer, VAE, text encoder
    with pytest.raises(ValueError, match=f"needs another {re.escape(in_words(published + folder))}, but"):
        obtain(known, tmp_path / "downloads", tmp_path / "made", dtype="float32")


def test_what_a_killed_conversion_left_is_not_counted_as_used(releases, tmp_path, monkeypatch):
    left = tmp_path / ".made.part" / "transformer"
    left.mkdir(parents=True)
    usage = lambda _: type("Usage", (), {"free": 1000 if left.exists() else 10**9})  # noqa: E731
    monkeypatch.setattr("longlive_rag.weights.obtain.shutil.disk_usage", usage)
    obtain(known_backbone("self-forcing"), tmp_path / "downloads", tmp_path / "made", mirror=releases)
    assert (tmp_path / "made" / "model_index.json").is_file()


def test_the_trained_autoencoders_layout_gives_the_golden_embeddings(tmp_path):
    golden = Golden.read(GOLDEN)
    spec, latents = golden.scenario["encoder"], golden.tensors["latents"]
    config = {"in_channels": 16, "latent_height": 4, "latent_width": 6, "hidden_dims": spec["hidden_dims"]}
    config |= {"embedding_dim": spec["embedding_dim"], "epochs": 3}
    torch.save({"model": golden.part("ae"), "config": config}, tmp_path / "ae_latent_mem.pt")
    embeddings = read_encoder(tmp_path / "ae_latent_mem.pt").encode(latents)
    torch.testing.assert_close(embeddings, golden.tensors["embeddings"], rtol=1e-4, atol=1e-5)


# ---- files of something else ----


def small(**sizes: int) -> CausalWanTransformer:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 96, "num_layers": 2, **sizes}
    return CausalWanTransformer(**sizes, freq_dim=32, text_dim=64, text_length=16)


def of_another_base(folder: Path) -> Sources:
    model = small(in_channels=48, out_channels=48, num_attention_heads=4)
    torch.save({"generator": as_trained(original_transformer(model))}, folder / "model.pt")
    return Sources(folder / "model.pt", preset="longlive")


def wrong_section(folder: Path) -> Sources:
    torch.save({"generator": as_trained(original_transformer(small()))}, folder / "model.pt")
    return Sources(folder / "model.pt", preset="self-forcing")


def lora_of_another_base(folder: Path) -> Sources:
    torch.save({"generator": as_trained(original_transformer(small()))}, folder / "model.pt")
    torch.save({"generator_lora": peft_lora(small(num_attention_heads=4), rank=2)}, folder / "lora.pt")
    return Sources(folder / "model.pt", lora=folder / "lora.pt", preset="longlive")


def autoencoder_of_another_size(folder: Path) -> Sources:
    sizes = {"in_channels": 16, "latent_height": 44, "latent_width": 80, "hidden_dims": [4, 4, 4], "embedding_dim": 8}
    torch.save({"generator": as_trained(original_transformer(small()))}, folder / "model.pt")
    torch.save({"model": LatentAutoencoder(**sizes).state_dict(), "config": sizes}, folder / "ae.pt")
    return Sources(folder / "model.pt", encoder=folder / "ae.pt", preset="longlive")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            of_another_base,
            r"model\.pt \(generator\) does not fit its config: it is a transformer of width 96 on latents of 48 ",
        ),
        (wrong_section, r"model\.pt has only the section generator; self-forcing runs 'generator_ema'; .*: section"),
        (lora_of_another_base, r"lora\.pt \(generator_lora\) does not fit the backbone: .* is an update of \[96, 96\]"),
        (
            autoencoder_of_another_size,
            "ae.pt reads latents of 16 x 44 x 80, but this backbone makes 16 x 60 x 104 at 832x480",
        ),
    ],
)
def test_files_of_something_else_are_refused(prepare, message, releases, tmp_path):
    sources = replace(prepare(tmp_path), base=releases / WAN)
    with pytest.raises(ValueError, match=message) as refused:
        convert(sources, tmp_path / "made")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "made").exists()


def test_a_base_of_other_latents_is_refused_with_the_preset(releases, tmp_path):
    with pytest.raises(
        ValueError, match="whose latents have 48 channels and 16x16 pixels per element; these have 16 and 8x8"
    ):
        convert(Sources(releases / WAN, preset="longlive-2"), tmp_path / "made")
    assert not list(tmp_path.iterdir())
