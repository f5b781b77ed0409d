"""Commands at 24 frames a second on blocks of 8 latent frames: cues, timecodes, resuming, sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from five import five_pipeline

from longlive_rag.media.video import read_frames
from longlive_rag.takes.folder import CHECKPOINTS, LATENTS, VIDEO
from longlive_rag.weights import load
from retrieval.store import LatentStore
from tests.conftest import random_pipeline

PROMPT = "a red circle walks in a meadow"
LATER = "a blue square jumps in the snow"
WINDOW = ("--window", "18", "--sink", "2", "--memory-frames", "8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("backbones") / "five"
    five_pipeline().save_pretrained(folder)
    return folder


def test_a_take_and_how_it_is_resumed(command, folder, tmp_path):
    take, again = tmp_path / "take", tmp_path / "again"
    words = ("--seconds", "5.2", "--cue", "00:00:02:13", LATER, *WINDOW)
    made = command("generate", PROMPT, "-o", take, "--backbone", folder, *words, "--json")
    assert made.code == 0, made.err
    report = json.loads(made.out)
    assert report["frames_retrieved"] == 4  # before the last block 2 to 7 have left the window; 6 and 7 are too new
    assert [(cue["block"], cue["seconds"]) for cue in report["cues"]] == [(2, 61 / 24)]
    with av.open(take / VIDEO) as video:
        stream = video.streams.video[0]
        assert (stream.frames, stream.average_rate, stream.width, stream.height) == (125, 24, 96, 64)
    assert sorted(int(path.stem) for path in (take / CHECKPOINTS).iterdir()) == [2, 4]

    stopped(shutil.copytree(take, again), blocks=3)
    resumed = command("resume", again)
    assert resumed.code == 0, resumed.err
    ours, theirs = LatentStore(take / LATENTS), LatentStore(again / LATENTS)
    assert ours.blocks == theirs.blocks == 4
    for block in range(4):
        a, b = ours.record(block), theirs.record(block)
        assert np.array_equal(a.latents, b.latents), f"block {block}"
        assert np.array_equal(a.embeddings, b.embeddings)
        assert (a.selection, a.prompt, a.cue) == (b.selection, b.prompt, b.cue)
    assert all(np.array_equal(a, b) for a, b in zip(read_frames(take / VIDEO), read_frames(again / VIDEO), strict=True))

    otio = tmp_path / "take.otio"
    assert command("take", "export", take, "--otio", otio).code == 0
    assert '"rate": 24.0' in otio.read_text()
    assert '"rate": 16.0' not in otio.read_text()


def stopped(take: Path, blocks: int) -> None:
    """Make of a finished take what a kill leaves while block `blocks` is made."""
    for block in range(blocks, LatentStore(take / LATENTS).blocks):
        (take / LATENTS / f"{block:06d}.h5").unlink()
    for path in (take / CHECKPOINTS).iterdir():
        if int(path.stem) > blocks:
            path.unlink()
    record = json.loads((take / "take.json").read_text())
    del record["checksum"], record["video"]["sha256"]
    (take / "take.json").write_text(json.dumps({**record, "status": "running"}))


def with_config(part: str, **fields: object):
    """A change of one part's config."""

    def change(folder: Path) -> None:
        path = folder / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def with_small_vae(folder: Path) -> None:
    """The VAE of Wan2.1's layout in its place."""
    shutil.rmtree(folder / "vae")
    random_pipeline().vae.save_pretrained(folder / "vae")


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (None, ("--height", "80"), "--height is 80; it must be a multiple of 32, such as 64"),
        (None, ("--width", "104"), "--width is 104; it must be a multiple of 32, such as 96"),
        (None, ("--cue", "00:00:01:24", LATER), "24 frames, but there are at most 23 at 24 frames per second"),
        (with_small_vae, (), "the VAE makes latents of 16 channels, but the transformer reads 48"),
        (with_config("encoder", in_channels=16), (), "reads latents of 16 channels, but this backbone's have 48"),
        (with_config("vae", scale_factor_spatial=8), (), "scale_factor_spatial is 8, but 4 stages on patches of 2"),
        (with_config("transformer", patch_size=[1, 0, 2]), (), "patch_size is [1, 0, 2]; it must be three positive"),
    ],
)
def test_refused_before_anything_is_loaded(command, folder, tmp_path, monkeypatch, change, words, message):
    monkeypatch.setattr(load, "load_pipeline", lambda *_: pytest.fail("it was loaded"))
    if change is not None:
        folder = shutil.copytree(folder, tmp_path / "five")
        change(folder)
    result = command("generate", PROMPT, "-o", tmp_path / "take", "--backbone", folder, "--seconds", "2", *words)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message in result.err
    assert not (tmp_path / "take").exists()


def test_what_is_planned(command, folder):
    """Of frames of 64x96 pixels: pages of 6 tokens, and decoder maps of 12 channels on 32x48 elements."""
    planned = json.loads(command("plan", "--backbone", folder, "--seconds", "5.2", "--json").out)
    assert (planned["blocks"], planned["latent_frames"]) == (4, 32)
    assert planned["page_bytes"] == 2 * 2 * 6 * 48 * 4
    assert planned["device"]["decoding"] == 14 * 12 * 4 * 32 * 48 * 4
