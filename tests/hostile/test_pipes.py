"""Pipes, devices and folders where files should be: refused in one line; nothing waits for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.commands import fault, run_in_child
from tests.hostile.world import MAKE, WORDS

PLACES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path),
}
COMPARE = ("eval", "compare", "--embedders", "pixels", "-o", "new")
READERS: dict[str, tuple[str, ...]] = {
    "cues.txt": ("generate", "--cues", "cues.txt", "-o", "new"),
    "cues.yaml": ("generate", "--cues", "cues.yaml", "-o", "new"),
    "cues.jsonl": ("generate", "--cues", "cues.jsonl", "-o", "new"),
    "picture.png": ("generate", WORDS, "--start-image", "picture.png", "-o", "new"),
    "embeds.safetensors": ("generate", WORDS, "--prompt-embeds", "embeds.safetensors", "-o", "new"),
    "prompts.txt": ("models", "embed-prompts", "--backbone", "model", "--file", "prompts.txt", "-o", "n.safetensors"),
    "subjects.txt": (*COMPARE, "--arms", "native", "--prompts", "subjects.txt"),
    "subjects.json": (*COMPARE, "--arms", "native", "--prompts", "subjects.json"),
    "arms.toml": (*COMPARE, "--arms", "arms.toml", "--prompts", "prompts"),
    "scenarios.json": (*COMPARE, "--arms", "native", "--prompts", "prompts", "--scenarios-file", "scenarios.json"),
    "plan.json": ("eval", "compare", "--plan", "plan.json", "-o", "new"),
    "video.mp4": ("eval", "drift", "video.mp4", "--embedders", "pixels"),
    "lora.safetensors": ("models", "convert", "model", "new", "--lora", "lora.safetensors", "--lora-alpha", "1"),
    "lora.pt": ("models", "convert", "model", "new", "--lora", "lora.pt", "--lora-alpha", "1"),
    "weights.pt": ("models", "convert", "weights.pt", "new", "--base", "model"),
    "encoder.pt": ("models", "convert", "model", "new", "--encoder", "encoder.pt"),
    "evidence.pdf": (
        *("license", "record", "w.safetensors", "--spdx", "LicenseRef-X", "--source", "x", "--by", "x"),
        *("--use", "commercial", "--evidence", "evidence.pdf"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", READERS)
def test_what_is_not_a_plain_file_is_refused(tmp_path: Path, pipeline_folder: Path, name: str, place: str) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "model").symlink_to(pipeline_folder)
    (tmp_path / "work" / "prompts").write_text(f"{WORDS}\n")
    (tmp_path / "work" / "w.safetensors").write_bytes(b"x")
    PLACES[place](tmp_path / "work" / name)
    ended = run_in_child(READERS[name], tmp_path / "work", tmp_path)
    assert (ended.code, fault(ended)) == (2, ""), ended
    assert ended.err.count("\n") == 1
    assert name in ended.err
    assert not (tmp_path / "work" / "new").exists()


@pytest.mark.parametrize(
    "name", ["transformer/config.json", "model_index.json", "tokenizer/tokenizer.json", "licenses.json"]
)
def test_a_pipe_in_a_model_folder_is_refused(tmp_path: Path, pipeline_folder: Path, name: str) -> None:
    shutil.copytree(pipeline_folder, tmp_path / "model")
    (tmp_path / "model" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "model" / name)
    ended = run_in_child((*MAKE, "--license-policy", "commercial"), tmp_path, tmp_path)
    assert (ended.code, fault(ended)) == (2, ""), ended


def test_a_list_of_other_files_is_not_a_video(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    ended = run_in_child(("eval", "drift", "list.mp4", "--embedders", "pixels"), tmp_path, tmp_path)
    assert (ended.code, ended.err) == (2, "Error: list.mp4 can't be read as a video: it holds none\n")
