"""`longlive-rag train`: from prompts to an encoder, by the commands that a user types."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch

from longlive_rag.takes.folder import LATENTS
from retrieval.store import LatentStore


def prompts(folder: Path) -> Path:
    path = folder / "prompts.txt"
    path.write_text("# two of them\na red circle walks in a meadow\n\na blue square jumps in the snow\n")
    return path


@pytest.mark.slow
def test_prompts_to_encoder(command, tmp_path):
    takes, run = tmp_path / "takes", tmp_path / "run"
    asked = ("train", "corpus", prompts(tmp_path), "-o", takes, "--seconds", "4", "--no-memory", "--batch", "2")
    assert command(*asked).out == f"{takes}: 2 takes of 4 s, 0 of which already existed\n"
    assert [json.loads((takes / name / "take.json").read_text())["video"]["frames"]
            for name in ("take-0000", "take-0001")] == [64, 64]  # fmt: skip
    before = (takes / "take-0000" / "take.json").read_bytes()
    assert "2 of which already existed" in command(*asked).out
    assert (takes / "take-0000" / "take.json").read_bytes() == before

    longer = command(*asked, "--seconds", "5")
    assert (longer.code, "take-0000 holds a finished take of another request" in longer.err) == (2, True)
    assert (takes / "take-0000" / "take.json").read_bytes() == before

    sizes = ("--hidden-dims", "8", "--embedding-dim", "16", "--steps", "6", "--batch", "4", "--validation-share", "0.4")
    done = command("train", "encoder", "--latents", takes, "-o", run, *sizes, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["frames"] == 36
    saved = torch.load(run / "encoder.pt", weights_only=True)
    assert saved["config"] == {"in_channels": 16, "latent_height": 8, "latent_width": 8, "hidden_dims": [8],
                               "embedding_dim": 16}  # fmt: skip
    assert {path.name for path in run.iterdir()} == {
        "checkpoint.pt", "encoder.pt", "encoder", "log.jsonl", "training.png"
    }  # fmt: skip
    assert "best at step" in command("train", "encoder", "--latents", takes, "-o", run, *sizes).out
    other = command("train", "encoder", "--latents", takes, "-o", run, *sizes, "--seed", "3")
    assert (other.code, "a different seed" in other.err) == (2, True)


@pytest.mark.slow
def test_on_ray_the_same_takes_are_made(command, tmp_path):
    """Two workers share a GPU that Ray counts and this machine need not have."""
    ray = pytest.importorskip("ray")
    asked = ("train", "corpus", prompts(tmp_path), "--seconds", "2", "--batch", "1")
    assert command(*asked, "-o", tmp_path / "here").code == 0
    ray.init("local", num_cpus=2, num_gpus=1, log_to_driver=False)
    try:
        words = ("--engine", "ray", "--workers", "2", "--gpus-per-worker", "0.5")
        made = command(*asked, "-o", tmp_path / "ray", *words)
        refused = command(*asked, "-o", tmp_path / "other", "--engine", "ray", "--address", "127.0.0.1:1")
    finally:
        ray.shutdown()
    assert made.out == f"{tmp_path / 'ray'}: 2 takes of 2 s, 0 of which already existed\n", made.err
    for name in ("take-0000", "take-0001"):
        one, other = (read_latents(tmp_path / run / name) for run in ("here", "ray"))
        assert torch.equal(one, other), name
    assert (refused.code, "there is no Ray cluster at 127.0.0.1:1" in refused.err) == (1, True)


def read_latents(take: Path) -> torch.Tensor:
    store = LatentStore(take / LATENTS)
    return torch.from_numpy(store.latents(range(store.frames)))


@pytest.mark.slow
def test_a_full_disk_is_one_line(command, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("longlive_rag.sessions.corpus.make_corpus", full)
    result = command("train", "corpus", prompts(tmp_path), "-o", tmp_path / "takes", "--seconds", "4")
    assert (result.code, result.out) == (1, "")
    assert "No space left on device; finished takes are kept in" in result.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("encoder", "--latents", "nowhere", "-o", "run"), "nowhere is neither a take"),
        (("encoder", "--latents", "nowhere", "-o", "run", "--steps", "0"), "'--steps': 0 is not in the range x>=1"),
        (("encoder", "--latents", "nowhere", "-o", "run", "--hidden-dims", "8,x"), "not a list of whole numbers"),
        (("corpus", "nowhere.txt", "-o", "takes"), "nowhere.txt can't be read"),
        (("corpus", "empty.txt", "-o", "takes"), "holds no prompt"),
        (("corpus", "prompts.txt", "-o", "takes", "--seconds", "0"), "seconds is 0"),
        (
            ("corpus", "prompts.txt", "-o", "takes", "--workers", "2"),
            "--workers is for a Ray cluster; add --engine ray",
        ),
        (("corpus", "prompts.txt", "-o", "takes", "--engine", "ray", "--device", "cuda:1"), "on Ray it must be auto"),
        (("corpus", "prompts.txt", "-o", "takes", "--engine", "ray", "--gpus-per-worker", "2"), "at most 1"),
    ],
)
def test_what_can_not_be_trained_is_refused_in_one_line(command, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    prompts(tmp_path)
    Path("empty.txt").write_text("\n# nothing\n")
    result = command("train", *words)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"prompts.txt", "empty.txt"}
