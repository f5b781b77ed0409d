"""Published layouts become pipeline folders that open and compute the same."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from layouts import as_trained, original_config, original_transformer, peft_lora, write_original_folder
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

from backbone.checkpoints import load_weights, read_weights
from backbone.lora import merge, read_lora
from backbone.original import open_transformer
from backbone.transformer import CausalWanTransformer
from longlive_rag.diagnostics.verify import Golden, _transformer, replay
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.rights.records import read_records, record_terms
from longlive_rag.weights.convert import Converted, Sources, convert
from retrieval.encoder import LatentAutoencoder

GOLDEN = Path(__file__).parents[1] / "golden"
PROMPT = "a red circle walks in a meadow"


@pytest.fixture(scope="module")
def original(pipe, pipeline_folder, tmp_path_factory) -> Path:
    """The random pipeline as the original release would publish it."""
    torch.manual_seed(0)
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    text = UMT5EncoderModel(UMT5Config(vocab_size=len(pipe.tokenizer), feed_forward_proj="gated-gelu", **sizes))
    folder = tmp_path_factory.mktemp("original") / "Wan2.1-T2V"
    return write_original_folder(folder, pipe.transformer, pipe.vae, text, pipeline_folder / "tokenizer")


def flow(transformer: CausalWanTransformer) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    latents, text = torch.randn(1, 16, 2, 4, 6, generator=generator), torch.randn(1, 16, 64, generator=generator)
    with torch.no_grad():
        return transformer(latents, torch.tensor([500.0]), text)


def opened(converted: Converted) -> LongLiveRAGPipeline:
    return LongLiveRAGPipeline.from_pretrained(converted.folder)


def test_the_original_folder(pipe, original, tmp_path):
    done = convert(Sources(original), tmp_path / "made")
    again = opened(done)
    torch.testing.assert_close(flow(again.transformer), flow(pipe.transformer), rtol=1e-5, atol=1e-5)
    latents = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        same = again.vae.decode(latents).sample, pipe.vae.decode(latents).sample
    torch.testing.assert_close(*same, rtol=1e-5, atol=1e-5)
    assert (again.encoder, again.memory.encoder) == (None, "mean_pool")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]
    assert {file.standing for file in done.rights} == {"unrecorded"}


def test_a_converted_folder_makes_the_same_take(pipe, pipeline_folder, tmp_path):
    again = opened(convert(Sources(pipeline_folder), tmp_path / "made"))
    ours, theirs = (p(PROMPT, seconds=1.0, seed=2) for p in (pipe, again))
    assert torch.equal(ours.latents, theirs.latents)
    assert (ours.frames == theirs.frames).all()
    assert again.output == pipe.output


def test_a_diffusers_folder(pipe, pipeline_folder, tmp_path):
    folder = tmp_path / "diffusers"
    shutil.copytree(pipeline_folder, folder)
    shutil.rmtree(folder / "transformer")
    shutil.rmtree(folder / "encoder")
    config = {name: pipe.transformer.config[name] for name in ("num_attention_heads", "attention_head_dim", "text_dim",
              "freq_dim", "ffn_dim", "num_layers")}  # fmt: skip
    theirs = WanTransformer3DModel(**config)
    theirs.load_state_dict(pipe.transformer.state_dict())
    theirs.save_pretrained(folder / "transformer", max_shard_size="100KB")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1
    index = {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    again = opened(convert(Sources(folder), tmp_path / "made"))
    assert again.transformer.config.text_length == 512
    torch.testing.assert_close(flow(again.transformer), flow_padded(pipe.transformer), rtol=1e-4, atol=1e-5)


def flow_padded(transformer: CausalWanTransformer) -> torch.Tensor:
    """`flow` with the text padded to 512 tokens, as the library's class has it."""
    sizes = {**transformer.config, "text_length": 512}
    other = CausalWanTransformer.from_config(sizes)
    other.load_state_dict(transformer.state_dict())
    return flow(other.eval())


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True])
def test_a_training_checkpoint_with_a_lora(pipe, original, tmp_path, keep):
    weights = {name: tensor * 1.01 for name, tensor in original_transformer(pipe.transformer).items()}
    torch.save({"generator": as_trained(weights), "critic": {"x": torch.zeros(1)}, "step": 7}, tmp_path / "base.pt")
    torch.save({"generator_lora": peft_lora(pipe.transformer, rank=256)}, tmp_path / "lora.pt")
    sources = Sources(
        tmp_path / "base.pt",
        base=original,
        lora=tmp_path / "lora.pt",
        keep_lora=keep,
        preset="longlive",
        dtype="float32",
    )
    done = convert(sources, tmp_path / "made")
    assert done.left_out == ("critic", "step")
    again = opened(done)
    assert (again.context.rope, again.output.width) == ("relative", 832)
    expected = CausalWanTransformer.from_config(pipe.transformer.config)
    state = {name: tensor * 1.01 for name, tensor in pipe.transformer.state_dict().items()}
    if keep:
        expected.load_state_dict(state)
        torch.testing.assert_close(flow(again.transformer), flow(expected.eval()), rtol=1e-5, atol=1e-5)
        again.load_lora_weights(done.folder / "lora")
    merge(state, read_lora(tmp_path / "lora.pt", alpha=256))
    expected.load_state_dict(state)
    torch.testing.assert_close(flow(again.transformer), flow(expected.eval()), rtol=1e-4, atol=1e-4)


def test_the_alpha_of_a_preset_is_for_the_lora_of_its_release(pipe, original, tmp_path):
    """Alpha / rank scales the update: with another rank it is another scale."""
    torch.save({"generator": original_transformer(pipe.transformer)}, tmp_path / "base.pt")
    torch.save(peft_lora(pipe.transformer, rank=2), tmp_path / "lora.pt")
    sources = Sources(tmp_path / "base.pt", base=original, lora=tmp_path / "lora.pt", preset="longlive")
    wanted = r"lora\.pt has rank 2, but the LoRA of longlive has rank 256; give lora_alpha as used in its training"
    with pytest.raises(ValueError, match=wanted):
        convert(sources, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    assert convert(replace(sources, lora_alpha=2), tmp_path / "made").folder.is_dir()


def test_a_retrieval_autoencoder(pipe, pipeline_folder, tmp_path):
    torch.manual_seed(5)
    sizes = {"in_channels": 16, "latent_height": 4, "latent_width": 6, "hidden_dims": [8, 16], "embedding_dim": 12}
    encoder = LatentAutoencoder(**sizes)
    torch.save({"model": encoder.state_dict(), "config": {**sizes, "learning_rate": 3e-4}}, tmp_path / "ae.pt")
    again = opened(convert(Sources(pipeline_folder, encoder=tmp_path / "ae.pt"), tmp_path / "made"))
    frames = torch.randn(3, 16, 4, 6)
    torch.testing.assert_close(again.encoder.encode(frames), encoder.encode(frames), rtol=1e-5, atol=1e-5)
    torch.save({"model": encoder.state_dict()}, tmp_path / "bare.pt")
    with pytest.raises(ValueError, match="is not a retrieval autoencoder: it has no config"):
        convert(Sources(pipeline_folder, encoder=tmp_path / "bare.pt"), tmp_path / "other")
    torch.save({"model": encoder.state_dict(), "config": {**sizes, "embedding_dim": 13}}, tmp_path / "wrong.pt")
    with pytest.raises(ValueError, match=r"encoder.fc.weight is \[12, 16\], the config expects \[13, 16\]"):
        convert(Sources(pipeline_folder, encoder=tmp_path / "wrong.pt"), tmp_path / "other")
    for changes in ({"hidden_dims": "x"}, {"hidden_dims": []}, {"latent_height": -4}, {"embedding_dim": 12.0}):
        torch.save({"model": encoder.state_dict(), "config": {**sizes, **changes}}, tmp_path / "odd.pt")
        name, value = next(iter(changes.items()))
        with pytest.raises(ValueError, match=re.escape(f"is not a retrieval autoencoder: its {name} is {value!r}")):
            convert(Sources(pipeline_folder, encoder=tmp_path / "odd.pt"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


# ---- rights travel with the weights ----


def test_records_are_carried_over(pipe, original, tmp_path):
    folder = tmp_path / "Wan2.1"
    shutil.copytree(original, folder)
    record_terms(folder, "Apache-2.0", "card", "K", looked_up_on="2026-01-31")
    (tmp_path / "loras").mkdir()
    torch.save(peft_lora(pipe.transformer, rank=2), tmp_path / "loras" / "lora.pt")
    record_terms(tmp_path / "loras" / "lora.pt", "CC-BY-NC-4.0", "card", "K")
    done = convert(Sources(folder, lora=tmp_path / "loras" / "lora.pt", lora_alpha=2), tmp_path / "made")
    uses = {file.file.split("/")[0]: file.use for file in done.rights}
    assert uses == {
        "transformer": "research",
        "vae": "commercial",
        "text_encoder": "commercial",
        "tokenizer": "commercial",
    }
    record = read_records(done.folder)["transformer/diffusion_pytorch_model.safetensors"]
    assert (record.terms, record.looked_up_on) == ("Apache-2.0 AND CC-BY-NC-4.0", "2026-01-31")


# ---- what is refused, leaving nothing ----


def damaged(edit):
    def prepare(original: Path, tmp_path: Path) -> Sources:
        folder = tmp_path / "in" / "Wan2.1"
        shutil.copytree(original, folder)
        edit(folder)
        return Sources(folder)

    return prepare


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (damaged(lambda f: (f / "Wan2.1_VAE.pth").unlink()), "has no Wan2.1_VAE.pth or Wan2.2_VAE.pth; is the downl"),
        (damaged(lambda f: (f / "models_t5_umt5-xxl-enc-bf16.pth").unlink()), "has no models_t5_umt5-xxl-enc-bf16.pth"),
        (damaged(lambda f: shutil.rmtree(f / "google")), "has no google/umt5-xxl/"),
        (damaged(lambda f: (f / "diffusion_pytorch_model.safetensors").unlink()), "is the download complete"),
        (damaged(lambda f: (f / "config.json").unlink()), "has no config.json of the original release"),
        (damaged(lambda f: (f / "Wan2.1_VAE.pth").write_bytes(b"PK")), r"Wan2.1_VAE.pth is damaged"),
        (lambda o, t: Sources(o, base=o), "has everything; drop the base"),
        (lambda o, t: Sources(t / "nothing"), "nothing does not exist"),
        (lambda o, t: Sources(o / "diffusion_pytorch_model.safetensors"), "has only a transformer; name the folder"),
        (lambda o, t: Sources(o, preset="big"), "'big' is not a known backbone; known: tiny-world"),
        (lambda o, t: Sources(o, dtype="int8"), "dtype is 'int8'; it must be one of float32"),
        (lambda o, t: Sources(o, lora=o / "Wan2.1_VAE.pth", lora_alpha=1), "is not half of a LoRA pair"),
        (lambda o, t: Sources(o, section="model"), "section is 'model', but .* is a folder, which has no sections"),
        (lambda o, t: Sources(o, lora_alpha=2), "lora_alpha needs a LoRA; give lora as well"),
        (lambda o, t: Sources(o, keep_lora=True), "keep_lora needs a LoRA; give lora as well"),
        (lambda o, t: Sources(o, preset="tiny-world"), "preset is 'tiny-world'; it is part of the package"),
        (lambda o, t: Sources(o / "Wan2.1_VAE.pth", base=o), "does not fit its config"),
    ],
)
def test_refused(original, tmp_path, prepare, message):
    sources = prepare(original, tmp_path)
    with pytest.raises(ValueError, match=message):
        convert(sources, tmp_path / "made")
    assert not [path.name for path in tmp_path.iterdir() if path.name != "in"]


def test_where_it_may_be_written(original, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="already exists"):
        convert(Sources(original), tmp_path / "there")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file"):
        convert(Sources(original), tmp_path / "file" / "made")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("longlive_rag.weights.convert.shutil.disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"no space left for .*made: it needs .* kB, but 1\.0 kB are free"):
        convert(Sources(original), tmp_path / "made")


def test_what_a_killed_conversion_left_is_not_counted_as_used(original, tmp_path, monkeypatch):
    left, usage = tmp_path / ".made.part" / "transformer", shutil.disk_usage(tmp_path)
    left.mkdir(parents=True)
    free = lambda _: usage._replace(free=1000 if left.exists() else 10**9)  # noqa: E731
    monkeypatch.setattr("longlive_rag.weights.convert.shutil.disk_usage", free)
    convert(Sources(original), tmp_path / "made")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


def test_a_disk_that_fills_up_leaves_nothing(original, tmp_path, monkeypatch):
    def full(*_args: object, **_settings: object) -> None:
        (tmp_path / ".made.part").mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LongLiveRAGPipeline, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        convert(Sources(original), tmp_path / "made")
    assert not list(tmp_path.iterdir())


# ---- golden trajectories through every layout ----


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["original", "fsdp", "sharded", "lora"])
def test_golden_trajectories_survive_the_layouts(layout, original, pipe, tmp_path):
    """Golden weights, written in a layout, read back from it, replayed."""
    golden = Golden.read(GOLDEN / "rag_ae.safetensors")
    weights, model = golden.part("weights"), golden_model(golden)
    if layout == "lora":  # the weights less an update, and the update
        pairs = peft_lora(model, rank=2)
        torch.save({"generator_lora": {name: 0.1 * tensor for name, tensor in pairs.items()}}, tmp_path / "lora.pt")
        lora = read_lora(tmp_path / "lora.pt", alpha=-2.0)
        state = dict(model.state_dict())
        merge(state, lora)
        model.load_state_dict(state)
        back = dict(model.state_dict())
        merge(back, read_lora(tmp_path / "lora.pt", alpha=2.0))
    else:
        back = read_back(layout, weights, model, tmp_path)
    others = {name: tensor for name, tensor in golden.tensors.items() if not name.startswith("weights.")}
    with safe_open(golden.path, framework="pt") as file:
        metadata = file.metadata()
    named = {f"weights.{name}": tensor.contiguous() for name, tensor in back.items()}
    save_file({**others, **named}, tmp_path / "golden.safetensors", metadata)
    verdict = replay(tmp_path / "golden.safetensors")
    assert verdict.selections_equal
    assert verdict.latent_error < 1e-5


def golden_model(golden: Golden) -> CausalWanTransformer:
    return _transformer(golden)


def read_back(layout: str, weights: dict, model: CausalWanTransformer, folder: Path) -> dict:
    if layout == "original":
        (folder / "config.json").write_text(json.dumps(original_config(model)))
        save_file(weights, folder / "diffusion_pytorch_model.safetensors")
        return dict(open_transformer(folder).state_dict())
    if layout == "sharded":
        model.save_pretrained(folder / "sharded", max_shard_size="50KB")
        path = folder / "sharded" / "diffusion_pytorch_model.safetensors.index.json"
    else:
        path = folder / "model.pt"
        torch.save({"generator_ema": as_trained(weights)}, path)
    with torch.device("meta"):
        again = CausalWanTransformer.from_config(model.config)
    read = read_weights(path)
    load_weights(again, read.tensors, read.source)
    return dict(again.state_dict())
