"""`--decoder tiny`, from a published file to takes: what it makes, records, goes on with and refuses."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import copy_blocks
from tiny import random_tensors, write_tiny

from backbone.tiny_decoder import StreamingTinyDecoder
from longlive_rag.media.video import count_frames, read_frames
from longlive_rag.rights.hashing import sha256
from longlive_rag.rights.records import read_records, record_terms
from longlive_rag.takes.folder import CHECKPOINTS, LATENTS, VIDEO
from longlive_rag.takes.record import read_record, write_record
from longlive_rag.weights import convert as converting
from longlive_rag.weights.load import load_pipeline
from retrieval.store import LatentStore

PROMPT = "a red circle walks in a meadow"
LATER = "a blue square jumps in the snow"
WEIGHTS = "tiny_decoder/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def with_tiny(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random backbone with a tiny decoder of random weights."""
    folder = tmp_path_factory.mktemp("tiny")
    source = write_tiny(folder / "taew2_1.safetensors")
    record_terms(source, "MIT", "its LICENSE", "K", looked_up_on="2026-01-31")
    sources = converting.Sources(pipeline_folder, tiny_decoder=source)
    return converting.convert(sources, folder / "backbone").folder


@pytest.fixture(scope="module")
def whole(with_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished take of 2.5 s: 4 blocks."""
    from click.testing import CliRunner

    from longlive_rag.cli.main import cli

    folder = tmp_path_factory.mktemp("takes") / "whole"
    done = CliRunner().invoke(cli, arguments_of(folder, with_tiny, "--decoder", "tiny"))
    assert done.exit_code == 0, done.output
    return folder


def arguments_of(folder: Path, backbone: Path, *more: str, seconds: float = 2.5) -> list[str]:
    return ["generate", PROMPT, "-o", str(folder), "--backbone", str(backbone), "--seconds", str(seconds), *more]


def stopped(whole: Path, folder: Path, blocks: int = 3) -> Path:
    """The same take, killed while it made a block."""
    copy_blocks(whole, folder, blocks)
    record = read_record(folder)
    write_record(folder, record.model_copy(update={"status": "running"}))
    return folder


def same(take: Path, other: Path) -> bool:
    frames = zip(read_frames(take / VIDEO), read_frames(other / VIDEO), strict=True)
    return np.array_equal(latents_of(take), latents_of(other)) and all(np.array_equal(a, b) for a, b in frames)


def latents_of(take: Path) -> np.ndarray:
    store = LatentStore(take / LATENTS)
    return np.concatenate([store.record(block).latents for block in range(store.blocks)])


# ---- a folder that has one ----


def test_convert(command, pipeline_folder, tmp_path):
    source = write_tiny(tmp_path / "taew2_1.safetensors")
    done = command("models", "convert", pipeline_folder, tmp_path / "made", "--tiny-decoder", source)
    assert done.code == 0, done.err
    assert f"tiny_decoder: from {source}" in done.out
    assert "not used from the checkpoint: the encoder of taew2_1.safetensors (2 tensors)" in done.out
    checked = command("models", "check", tmp_path / "made")
    assert checked.code == 0
    assert "tiny decoder" in checked.out
    assert "64 tensors, F16" in checked.out
    pipe = load_pipeline(str(tmp_path / "made"), device="cpu")
    for name, tensor in random_tensors().items():
        assert torch.equal(pipe.tiny_decoder.state_dict()[name], tensor.half().float())
    again = command("models", "convert", tmp_path / "made", tmp_path / "again", "--json")
    assert str(tmp_path / "made" / WEIGHTS) in json.loads(again.out)["made_from"]["tiny_decoder"]


def test_terms_of_the_published_file_are_known_by_its_hash(pipeline_folder, tmp_path, monkeypatch):
    source = write_tiny(tmp_path / "taew2_1.safetensors")
    (published,) = converting.PUBLISHED.values()
    assert published.sha256 == "04766eac0221b5390b985ae3fdcca652cbb4b1e8b82b28ea7ff89dfad1b1a93f"
    sources = converting.Sources(pipeline_folder, tiny_decoder=source)
    assert WEIGHTS not in read_records(converting.convert(sources, tmp_path / "other").folder)
    monkeypatch.setattr(converting, "PUBLISHED", {sha256(source): published})
    done = converting.convert(sources, tmp_path / "made")
    record = read_records(done.folder)[WEIGHTS]
    assert (record.terms, record.use, record.source) == ("MIT", "commercial", published.source)
    assert record.made_from == (sha256(source),)
    record_terms(source, "CC-BY-NC-4.0", "a letter", "K")  # what stands beside a file counts
    again = converting.convert(sources, tmp_path / "again")
    assert read_records(again.folder)[WEIGHTS].use == "research"


def without(name: str):
    return {other: tensor for other, tensor in random_tensors().items() if other != name}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without("decoder.16.conv.2.bias"), r"does not fit its config: decoder.16.conv.2.bias \[4\] is missing"),
        (random_tensors() | {"decoder.2.bias": torch.zeros(3)}, r"decoder.2.bias \[3\] is unexpected"),
        (random_tensors() | {"step": torch.zeros(3)}, r"step \[3\] is unexpected"),
        (
            random_tensors() | {"decoder.3.conv.0.weight": torch.zeros(8, 8, 3, 3)},
            r"is \[8, 8, 3, 3\], the config",
        ),
        (random_tensors() | {"decoder.13.conv.weight": torch.zeros(13, 6, 1, 1)}, r"13.conv.weight is \[13, 6, 1, 1\]"),
        (
            without("decoder.8.weight"),
            "is not a tiny decoder in the layout of taew2_1: it must have decoder.1.weight, decoder.8",
        ),
        ({}, "is not a tiny decoder in the layout of taew2_1"),
        (random_tensors() | {"decoder.22.bias": torch.full((3,), torch.nan)}, "decoder.22.bias holds values that are"),
        (random_tensors(channels=12), "reads latents of 12 channels, and this backbone's VAE has 16"),
    ],
)
def test_files_that_are_something_else(command, pipeline_folder, tmp_path, tensors, message):
    source = write_tiny(tmp_path / "taew2_1.safetensors", tensors)
    done = command("models", "convert", pipeline_folder, tmp_path / "made", "--tiny-decoder", source)
    assert (done.code, done.err.count("\n")) == (2, 1)
    with pytest.raises(ValueError, match=message):
        raise ValueError(done.err)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["taew2_1.pth", "nothing.safetensors"])
def test_files_that_are_not_there_or_pickled(command, pipeline_folder, tmp_path, name):
    (tmp_path / "taew2_1.pth").write_bytes(b"PK")
    done = command("models", "convert", pipeline_folder, tmp_path / "made", "--tiny-decoder", tmp_path / name)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert name in done.err


# ---- takes ----


def test_a_take_has_the_latents_of_the_full_decoders_and_other_pixels(command, with_tiny, whole, tmp_path):
    full = tmp_path / "full"
    assert command(*arguments_of(full, with_tiny)).code == 0
    assert np.array_equal(latents_of(full), latents_of(whole))
    assert (full / VIDEO).read_bytes() != (whole / VIDEO).read_bytes()
    assert count_frames(whole / VIDEO) == 40
    assert (read_record(full).run.decoder, read_record(whole).run.decoder) == ("full", "tiny")


def test_the_record_has_its_terms(command, with_tiny, whole):
    (file,) = (each for each in read_record(whole).rights.files if each.file == WEIGHTS)
    assert (file.record.terms, file.record.source, file.use) == ("MIT", "its LICENSE", "commercial")
    assert file.sha256 == sha256(with_tiny / WEIGHTS)
    page = command("license", "report", whole)
    assert f"{WEIGHTS}: recorded, allows commercial use" in page.out


def test_blocks_show_what_the_decoder_makes_of_the_whole_take(with_tiny):
    pipe = load_pipeline(str(with_tiny), device="cpu")
    pipe.decoder = "tiny"
    requests = [pipe.request(PROMPT, seconds=2.0, seed=seed) for seed in (1, 2)]
    made = pipe(requests)
    pixels = StreamingTinyDecoder(pipe.tiny_decoder).decode(made.latents.transpose(1, 2))
    expected = ((pixels + 1) * 127.5).round().permute(0, 2, 3, 4, 1).numpy().astype(np.uint8)
    assert made.frames.shape == (2, 32, 32, 48, 3)
    assert np.array_equal(made.frames, expected[:, :32])
    assert made.frames.std() > 10
    alone = pipe(requests[1])
    assert np.abs(alone.frames.astype(int) - made.frames[1:]).max() <= 1


@pytest.mark.parametrize("keeps_checkpoints", [True, False])
def test_resuming_is_bit_for_bit(command, whole, tmp_path, keeps_checkpoints):
    folder = stopped(whole, tmp_path / "take")
    if not keeps_checkpoints:
        shutil.rmtree(folder / CHECKPOINTS)
    done = command("resume", folder)
    assert done.code == 0, done.err
    assert same(folder, whole)
    assert read_record(folder).run.decoder == "tiny"


def test_extend_and_branch_go_on_with_it(command, with_tiny, whole, tmp_path):
    longer, branch = shutil.copytree(whole, tmp_path / "longer"), tmp_path / "branch"
    assert command("extend", longer, "--seconds", 1).code == 0
    at_once = tmp_path / "at-once"
    assert command(*arguments_of(at_once, with_tiny, "--decoder", "tiny", seconds=3.5)).code == 0
    assert same(longer, at_once)
    assert command("branch", whole, "--at", 1.5, "--prompt", LATER, "-o", branch).code == 0
    assert [read_record(take).run.decoder for take in (longer, branch)] == ["tiny", "tiny"]


def test_directing_live(command, with_tiny, tmp_path, monkeypatch):
    with Path(os.devnull).open() as nothing_typed:
        monkeypatch.setattr("sys.stdin", nothing_typed)
        words = ["direct", tmp_path / "live", PROMPT, "--seconds", "1", "--backbone", with_tiny, "--decoder", "tiny"]
        assert command(*words).code == 0
        again = command(*words)
    assert read_record(tmp_path / "live").run.decoder == "tiny"
    assert again.code == 2
    assert "--decoder is for new takes" in again.err


def comparing(tmp_path: Path, backbone: Path | str, *more: str) -> list[object]:
    (tmp_path / "p.txt").write_text(f"{PROMPT}\n")
    return [
        "eval", "compare", "--arms", "native,memory", "--prompts", tmp_path / "p.txt", "--horizons", "10",
        "--exploratory", "--embedders", "pixels", "--backbone", backbone, "-o", tmp_path / "run", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_comparison_is_of_takes_decoded_by_it(command, with_tiny, tmp_path):
    done = command(*comparing(tmp_path, with_tiny, "--decoder", "tiny"))
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["decoder"] == "tiny"
    takes = [path.parent for path in (tmp_path / "run" / "takes").rglob("take.json")]
    assert [read_record(take).run.decoder for take in takes] == ["tiny", "tiny"]
    assert "tiny" in (tmp_path / "run" / "report.html").read_text()
    other = command(*comparing(tmp_path, with_tiny))
    assert (other.code, "holds another comparison (decoder differ)" in other.err) == (2, True)


@pytest.mark.slow
def test_the_bench_decodes_by_it(command, with_tiny):
    words = ["bench", "--backbone", with_tiny, "--blocks", "1", "--compare", "native", "--json"]
    found = [json.loads(command(*words, *more).out) for more in ((), ("--decoder", "tiny"))]
    assert [each["conditions"]["decoder"] for each in found] == ["full", "tiny"]


# ---- what is refused before a model loads ----


@pytest.fixture
def nothing_loads(monkeypatch):
    def load(*_arguments: object, **_settings: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("longlive_rag.weights.load.load_pipeline", load)


def test_a_backbone_without_one(command, pipeline_folder, tmp_path, nothing_loads):
    done = command(*arguments_of(tmp_path / "take", pipeline_folder, "--decoder", "tiny"))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"--decoder is 'tiny', but {pipeline_folder} has none; use full, or add one: longlive-rag models" in done.err
    assert not (tmp_path / "take").exists()


def test_latents_that_are_not_those_of_wan(command, tmp_path, nothing_loads):
    for words in (
        arguments_of(tmp_path / "take", Path("tiny-world")), comparing(tmp_path, "tiny-world"), ["bench"],
    ):  # fmt: skip
        done = command(*words, "--decoder", "tiny")
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "--decoder is 'tiny', but the tiny decoder is for the latents of Wan2.1, and this backbone's" in done.err
    assert not (tmp_path / "run").exists()


def test_a_take_whose_backbone_has_lost_it(command, whole, with_tiny, pipeline_folder, tmp_path, nothing_loads):
    folder = stopped(whole, tmp_path / "take")
    done = command("resume", folder, "--backbone", pipeline_folder)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "was made with different weights: tiny_decoder/" in done.err


def test_another_tiny_decoder_than_the_takes(command, whole, with_tiny, pipeline_folder, tmp_path, nothing_loads):
    source = write_tiny(tmp_path / "other.safetensors", random_tensors(seed=1))
    other = converting.convert(converting.Sources(with_tiny, tiny_decoder=source), tmp_path / "other").folder
    done = command("resume", stopped(whole, tmp_path / "take"), "--backbone", other)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "was made with different weights: tiny_decoder/" in done.err


def test_python_is_told_too(pipe):
    pipe.decoder = "tiny"
    try:
        with pytest.raises(ValueError, match=r"decoder is 'tiny', but .* has none"):
            pipe.stream(PROMPT, seconds=1.0)
    finally:
        pipe.decoder = "full"
