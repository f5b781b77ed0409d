"""`generate --gpus` and torchrun, by the commands that a user types, on a CPU."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from longlive_rag.media.video import read_frames
from longlive_rag.takes.record import read_record
from retrieval.store import LatentStore
from tests import forked

PROMPT = "a red circle walks in a meadow"
GENERATE = [sys.executable, "-m", "longlive_rag", "generate", PROMPT]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--gpus", "3"),
            "--gpus is 3, which does not divide this backbone's 2 heads and 16 tokens per frame; use 1, 2",
        ),
        (("--gpus", "2", "--device", "cpu:0"), "--device is 'cpu:0'; for several GPUs it must be auto, cpu or cuda"),
        (("--gpus", "0"), "--gpus is 0; it must be a whole number, 1 or more"),
    ],
)
def test_what_can_not_be_divided_is_refused_in_one_line(command, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr("longlive_rag.weights.load.load_pipeline", None)  # nothing is loaded
    result = command("generate", PROMPT, "-o", tmp_path / "take", *words)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_torchrun_makes_the_same_take(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *GENERATE[1:]]
    options = ["-o", tmp_path / "two", "--seconds", "6"]
    subprocess.run([*torchrun, *options], check=True, timeout=300)
    forked.run(["generate", PROMPT, "-o", "one", "--seconds", "6"], tmp_path).check_returncode()
    one, two = (read_record(tmp_path / name) for name in ("one", "two"))
    assert (one.run.gpus, two.run.gpus) == (1, 2)
    assert one.selections == two.selections != ()
    assert (tmp_path / "one" / "video.mp4").read_bytes() == (tmp_path / "two" / "video.mp4").read_bytes()


@pytest.mark.slow
def test_layers_and_decoder_are_compiled_by_each_process_and_a_take_is_nearly_the_same(tmp_path):
    words = ["--seconds", "2", "--device", "cpu", "-o"]
    compiled = [*words, tmp_path / "compiled", "--gpus", "2", "--compile", "on"]
    subprocess.run([*GENERATE, *words, tmp_path / "plain"], check=True, timeout=300)
    said = subprocess.run([*GENERATE, *compiled], check=True, timeout=600, capture_output=True, text=True).stderr
    assert "compiling the transformer's layers and the VAE's decoder for" in said
    assert "compiled in" in said
    plain, run = (read_record(tmp_path / name).run for name in ("plain", "compiled"))
    assert (plain.gpus, plain.compiled, plain.compiled_decoder) == (1, False, False)
    assert (run.gpus, run.compiled, run.compiled_decoder) == (2, True, True)
    stores = [LatentStore(tmp_path / name / "latents") for name in ("plain", "compiled")]
    assert stores[0].blocks == stores[1].blocks == 3
    for block in range(3):
        one, two = (store.record(block).latents for store in stores)
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-4)
    frames = zip(*(read_frames(tmp_path / name / "video.mp4") for name in ("plain", "compiled")), strict=True)
    assert max(np.abs(one.astype(int) - two).mean() for one, two in frames) < 0.5


def begin(take: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A take that two processes have begun, and all processes that they have started."""
    made = subprocess.Popen(
        [*GENERATE, "-o", take, "--seconds", "120", "--gpus", "2"], stderr=subprocess.PIPE, text=True
    )
    blocks = take / "latents"
    while made.poll() is None and len(list(blocks.glob("*"))) < 4:  # the lock, and blocks
        time.sleep(0.1)
    return made, psutil.Process(made.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code", "message"),
    [("kill the other", 1, "process 1 of the take ended: it was killed"), ("Ctrl-C", 130, "Stopped")],
)
def test_however_a_process_ends_all_do_and_the_take_can_be_resumed(command, tmp_path, end, code, message):
    take = tmp_path / "take"
    made, others = begin(take)
    if end == "Ctrl-C":
        made.send_signal(signal.SIGINT)
    else:
        next(other for other in others if "spawn_main" in " ".join(other.cmdline())).kill()
    said = made.communicate(timeout=120)[1]
    assert made.returncode == code, said
    assert message in said
    assert f"to continue: longlive-rag resume {take}" in said
    psutil.wait_procs(others, timeout=20)
    assert not any(other.is_running() for other in others)
    kept = read_record(take).video.frames
    assert kept > 0
    assert command("branch", take, "--at", "0.5", "-o", tmp_path / "on", "--seconds", "1.5").code == 0


@pytest.mark.slow
def test_a_killed_command_leaves_no_process(tmp_path):
    made, others = begin(tmp_path / "take")
    made.kill()
    made.communicate(timeout=60)
    gone, alive = psutil.wait_procs(others, timeout=30)
    assert (len(gone) >= 1, alive) == (True, [])
