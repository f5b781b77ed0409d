"""Real commands in processes of their own, on real models: random weights, and tiny-world.

Two of them are started as by a shell; the others are forked, since they need not import everything again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longlive_rag.media.video import count_frames, read_frames
from longlive_rag.presets.preset import BUILT_IN, load_preset
from tests import forked

ROOT = Path(__file__).parents[2]
PROMPT = "a red circle walks in a meadow"
COMMAND = (sys.executable, "-m", "longlive_rag")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

needs_tiny_world = pytest.mark.skipif(
    not (BUILT_IN["tiny-world"] / "model_index.json").is_file(), reason="tiny-world's weights are not here"
)


def longlive_rag(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return forked.run(arguments, cwd)


@pytest.mark.slow
def test_generate(pipeline_folder, tmp_path):
    arguments = (
        "--backbone",
        pipeline_folder,
        "--seconds",
        "6",
        "--seed",
        "3",
        "--cue",
        "4",
        "a blue square walks",
    )
    done = longlive_rag("generate", PROMPT, "-o", "take", *arguments, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["frames"] == 96 == len(list(read_frames(tmp_path / report["video"])))
    assert report["frames_retrieved"] > 0
    assert {"retrieve", "denoise", "commit", "encode", "decode", "recache", "write"} <= set(report["seconds_by_stage"])
    record = json.loads((tmp_path / report["record"]).read_text())
    assert record["status"] == "finished"
    assert record["selections"][0]["query_frame"] == record["selections"][0]["block"] * 3 - 1
    again = longlive_rag("generate", PROMPT, "-o", "take", *arguments, cwd=tmp_path)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_ctrl_c(pipeline_folder, tmp_path):
    arguments = ["generate", PROMPT, "-o", "take", "--backbone", str(pipeline_folder), "--seconds", "3600"]
    process = subprocess.Popen([*COMMAND, *arguments], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    video, deadline = tmp_path / "take" / "video.mp4", time.monotonic() + 300
    while not (video.exists() and video.stat().st_size > 4000) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in err
    record = json.loads((tmp_path / "take" / "take.json").read_text())
    assert record["status"] == "interrupted"
    assert count_frames(video) == record["video"]["frames"] > 0


@pytest.mark.slow
def test_weights_that_do_not_fit(pipeline_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "backbone"
    subprocess.run(["cp", "-r", pipeline_folder, folder], check=True)
    weights = next((folder / "transformer").glob("*.safetensors"))
    tensors = load_file(weights)
    name = "blocks.0.ffn.net.0.proj.weight"
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, weights, metadata={"format": "pt"})
    done = longlive_rag("generate", PROMPT, "-o", "take", "--backbone", folder, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert name in done.stderr
    assert not (tmp_path / "take").exists()


@needs_tiny_world
@pytest.mark.slow
def test_the_built_in_backbone(tmp_path):
    prompt = f"{PROMPT} quietly"
    words = [*COMMAND, "generate", prompt, "-o", "take", "--seconds", "6", "--json"]
    done = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["frames"] == 96
    assert report["unknown_words"] == {prompt: ["quietly"]}
    assert "quietly" in done.stderr
    first = next(read_frames(tmp_path / report["video"]))
    output = load_preset("tiny-world").output
    assert first.shape == (output.height * output.upscale, output.width * output.upscale, 3)


@needs_tiny_world
@pytest.mark.slow
def test_two_shots(tmp_path):
    """Made, and made again from its cues; an editor gets a clip a shot."""
    settings = ("--seconds", 4, "--seed", 3)
    cut = ("--cut", 2, "a blue square jumps in a desert")
    made = longlive_rag("generate", PROMPT, "-o", "take", *settings, *cut, "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert [(cue["cut"], cue["block"]) for cue in json.loads(made.stdout)["cues"]] == [(True, 3)]
    assert longlive_rag("take", "export", "take", "--otio", "take.otio", cwd=tmp_path).returncode == 0
    (track,) = json.loads((tmp_path / "take.otio").read_text())["tracks"]["children"]
    spans = [clip["source_range"] for clip in track["children"]]
    assert [(span["start_time"]["value"], span["duration"]["value"]) for span in spans] == [(0, 33), (33, 31)]
    assert longlive_rag("generate", "--cues", "take", "-o", "again", "--seed", 3, cwd=tmp_path).returncode == 0
    frames, again = (list(read_frames(tmp_path / name / "video.mp4")) for name in ("take", "again"))
    assert len(frames) == len(again) == 64
    assert all((a == b).all() for a, b in zip(frames, again, strict=True))
