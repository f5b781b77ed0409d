"""`longlive-rag generate`, on a stand-in for the backbone: what it writes, says and refuses."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from longlive_rag.cli.making import first_showings, of_pages, report
from longlive_rag.media.video import count_frames
from longlive_rag.takes.record import read_record
from retrieval.budgets import PageCounters
from retrieval.policies import PolicyError

PROMPT = "a red circle walks in a meadow"
TESTS = Path(__file__).parents[1]


def test_a_take_from_one_prompt(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    folder = tmp_path / "take"
    result = command("generate", PROMPT, "-o", folder, "--backbone", backbone, "--seconds", 8)
    assert result.code == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "contact_sheet.png",
        "memory.png",
        "take.json",
        "video.mp4",
    ]
    first, second, *where = result.out.splitlines()
    assert first.startswith("8 s of video (128 frames) in ")
    assert first.endswith(" frames per second end to end")
    assert second == "23 past frames retrieved in 5 of 11 blocks"
    assert str(folder / "video.mp4") in where[0]
    assert "128/128 frames" in result.err
    assert "end to end" in result.err
    assert "23 past frames retrieved" in result.err


def test_json_is_all_there_is_on_stdout(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    arguments = ("-o", tmp_path / "take", "--backbone", backbone, "--seconds", "6", "--json")
    cue = ("--cue", "3", "a green circle sings")
    result = command("generate", PROMPT, *arguments, *cue)
    report = json.loads(result.out)
    assert result.code == 0
    assert report["frames"] == 96 == count_frames(report["video"])
    assert report["frames_per_second"] > 0
    assert report["frames_retrieved"] > 0
    assert report["unknown_words"] == {"a green circle sings": ["green", "sings"]}
    assert report["cues"][0]["block"] == 5
    assert all(Path(report[name]).is_file() for name in ("video", "record", "contact_sheet", "memory_map"))
    assert "has never read green, sings (in 'a green circle sings')" in result.err
    record = json.loads(Path(report["record"]).read_text())
    assert record["run"]["unknown_words"] == report["unknown_words"]


@pytest.mark.parametrize(("parameters", "threads"), [(2_000_000, 1), (20_000_000, 2)])
def test_a_small_backbone_runs_in_one_thread(command, backbone, fake_pipeline, tmp_path, parameters, threads):
    fake_pipeline(parameters=parameters)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        command("generate", PROMPT, "-o", tmp_path / "take", "--backbone", backbone, "--seconds", "3")
        assert torch.get_num_threads() == threads
        assert json.loads((tmp_path / "take" / "take.json").read_text())["run"]["threads"] == threads
    finally:
        torch.set_num_threads(before)


def test_every_setting_reaches_the_request(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    settings = {
        "--window": ("context", "window_frames", 14),
        "--sink": ("context", "sink_frames", 2),
        "--memory-frames": ("context", "memory_frames", 4),
        "--recency-guard": ("context", "recency_guard_frames", 1),
        "--rope": ("context", "rope", "absolute"),
        "--memory-gain": ("context", "memory_gain", 1.5),
        "--first-gain": ("context", "first_gain", 0.7),
        "--gain-above": ("context", "gain_above", 0.9),
        "--fill-from-window": ("context", "fill_from_window", True),
        "--encoder": ("memory", "encoder", "mean_pool"),
        "--steps": ("sampler", "denoising_steps", [900, 300]),
        "--shift": ("sampler", "timestep_shift", 3.0),
        "--train-timesteps": ("sampler", "num_train_timesteps", 900),
        "--context-timestep": ("sampler", "context_timestep", 1.0),
        "--fps": ("output", "fps", 8),
        "--upscale": ("output", "upscale", 3),
    }
    arguments = [word for flag, (*_, value) in settings.items() for word in (flag, value) if word is not True]
    arguments[arguments.index([900, 300])] = "900,300"
    folder = tmp_path / "take"
    arguments += ["--seed", 9, "--seconds", 1, "--codec", "vp9", "--dtype", "bfloat16", "--device", "cpu"]
    assert command("generate", PROMPT, "-o", folder, "--backbone", backbone, *arguments).code == 0
    record = json.loads((folder / "take.json").read_text())
    for part, field, value in settings.values():
        assert record["request"][part][field] == value
    assert (record["request"]["seed"], record["run"]["dtype"]) == (9, "bfloat16")
    assert record["video"]["width"] == 96


def test_cuts_and_cues_are_put_in_order(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    arguments = ("-o", tmp_path / "take", "--backbone", backbone, "--seconds", 8, "--json")
    cues = ("--cut", "4", "a blue circle", "--cue", "6", "a circle walks", "--cue", "2", "a red circle jumps")
    refused = command("generate", PROMPT, *arguments, *cues)
    assert (refused.code, "put cues in order" in refused.err) == (2, True)
    result = command("generate", PROMPT, *arguments, *cues[:3], *cues[6:], *cues[3:6])
    assert [(cue["asked_seconds"], cue["cut"]) for cue in json.loads(result.out)["cues"]] == [
        (2.0, False), (4.0, True), (6.0, False),
    ]  # fmt: skip


@pytest.mark.parametrize(("length", "seconds"), [("0:02", 2), ("0:00:02.5", 2.5), ("00:00:02:08", 2.5), ("2.5", 2.5)])
def test_a_length_may_be_a_timecode(command, backbone, fake_pipeline, tmp_path, length, seconds):
    fake_pipeline()
    result = command("generate", PROMPT, "-o", tmp_path / "take", "--backbone", backbone, "--seconds", length, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["seconds"] == seconds


def test_no_memory(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    arguments = ("-o", tmp_path / "take", "--backbone", backbone, "--seconds", 6, "--no-memory")
    result = command("generate", PROMPT, *arguments)
    assert "memory was off" in result.out
    request = json.loads((tmp_path / "take" / "take.json").read_text())["request"]
    assert (request["memory"]["enabled"], request["context"]["memory_frames"]) == (False, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "-3"], "--seconds is -3; it must be from 0.0625 (one frame) to 86400 (a day)"),
        (["--seconds", "1e308"], "--seconds is 1e+308; it must be from 0.0625 (one frame) to 86400 (a day)"),
        (["--seconds", "0"], "--seconds is 0; "),
        (["--seconds", "nan"], "--seconds is nan; "),
        (["--seconds", "soon"], "--seconds: 'soon' is not a timecode; write 12.5, 0:12.5, 1:02:03.5 or 00:00:12:08"),
        (["--seconds", "1:75"], "--seconds: '1:75' is not a timecode: 75 seconds, but there are at most 59"),
        (["--seconds", "1e12"], "--seconds is 1e+12; "),
        (["--seed", "-1"], "--seed is -1; "),
        (["--memory-frames", "11"], "--sink + --memory-frames is 1 + 11 = 12, which leaves no"),
        (["--window", "9"], "the window leaves 2 local frames (--window 9"),
        (["--window", "0"], "--window is 0; it must be a whole number, 1 or more"),
        (["--sink", "-1"], "--sink is -1; it must be a whole number, 0 or more"),
        (["--steps", "500,1000"], "--steps is [500, 1000]; it must be decreasing numbers"),
        (["--height", "40"], "--height is 40; it must be a multiple of 16, such as 32"),
        (["--backbone", "nowhere"], "backbone 'nowhere' is neither a known name nor a folder"),
        (["--cut", "0", "a blue circle"], "cue 1 is at 0 s; a cut must come after the start of the first shot"),
        (["--cut", "x", "a blue circle"], "cut 1: 'x' is not a timecode"),
        (["--cue", "3", "a circle", "--cut", "3", "a blue circle"], "cue 2 is at 3 s, not after the one before it"),
        (["--cue", "3", "a circle", "--cut", "3.1", "a blue circle"], "as does cue 1; a cue waits for the next block"),
        (["--cut", "3", "a circle", "--cues", "story.txt"], "--cut and --cues are both given"),
        (["--device", "cuda:99"], "--device is 'cuda:99'"),
        (["--device", "tpu"], "--device is 'tpu'"),
        (["--cue", "5", "a"], "cue 1 is at 5 s, past the end of a 4 s take"),
        (["--cue", "3", "a", "--cue", "2", "b"], "cue 2 is at 2 s, not after the one before it at 3 s"),
        (["--cue", "2", " "], "the prompt of cue 1 is empty"),
        (["--cue", "0", "a"], "cue 1 is at 0 s; a cue must come after the start"),
        (["--cue", "3.9", "a"], "cue 1 is at 3.9 s; the last block of this 4 s take begins at"),
        (["--cue", "soon", "a"], "cue 1: 'soon' is not a timecode; write 12.5, 0:12.5"),
        (["--cues-line", "2"], "--cues-line is 2, but there is no file of cues; add --cues FILE"),
        (["--switch-every", "2"], "--switch-every is 2, but there is no file of cues"),
        (["--cues", "nowhere.txt"], "nowhere.txt is neither a file nor a take"),
        (["--cues", "nowhere.txt", "--cue", "1", "a"], "--cue and --cues are both given"),
    ],
)
def test_bad_input(command, backbone, fake_pipeline, tmp_path, arguments, message):
    if "--device" not in arguments:
        fake_pipeline()
    result = command("generate", PROMPT, "-o", tmp_path / "take", "--backbone", backbone, "--seconds", "4", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["backbone"]


def test_cues_from_a_file(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    story = tmp_path / "story.jsonl"
    story.write_text('{"prompts": ["a red circle walks", "a red circle jumps", "the blue circle walks"]}\n')
    arguments = ("-o", tmp_path / "take", "--backbone", backbone, "--cues", story, "--switch-every", "0:02")
    result = command("generate", *arguments)
    assert result.code == 0, result.err
    assert "Note: cue 1, asked for at 0:02, takes over at 0:02.0625, where the next block begins.\n" in result.err
    record = json.loads((tmp_path / "take" / "take.json").read_text())
    assert record["request"]["seconds"] == 6
    assert [cue["seconds"] for cue in record["cues"]] == [2.0625, 4.3125]
    again = command("generate", "-o", tmp_path / "again", "--backbone", backbone, "--cues", tmp_path / "take", "--json")
    assert again.code == 0, again.err
    replayed = json.loads((tmp_path / "again" / "take.json").read_text())
    assert replayed["request"] == record["request"]
    broken = tmp_path / "broken.txt"
    broken.write_text("0 one\n0:99 two\n")
    refused = command("generate", "-o", tmp_path / "new", "--backbone", backbone, "--cues", broken)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == f"Error: {broken}, line 2: '0:99' is not a timecode: 99 seconds, but there are at most 59\n"
    assert not (tmp_path / "new").exists()


def test_no_prompt(command, backbone, tmp_path):
    result = command("generate", "-o", tmp_path / "take", "--backbone", backbone)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "PROMPT is missing; describe what to show, or add --cues FILE" in result.err


def test_an_empty_folder_name(command, backbone):
    result = command("generate", PROMPT, "-o", "", "--backbone", backbone)
    assert (result.code, result.err) == (
        2,
        "Error: --output is empty; name a folder for the take, such as takes/first\n",
    )


def test_an_empty_prompt(command, backbone, tmp_path):
    result = command("generate", "  ", "-o", tmp_path / "take", "--backbone", backbone)
    assert result.code == 2
    assert result.err.startswith("Error: the prompt is empty; ")


def test_weights_that_do_not_load(command, backbone, tmp_path):
    result = command("generate", PROMPT, "-o", tmp_path / "take", "--backbone", backbone, "--seconds", "1")
    assert result.code == 2
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 1
    assert not (tmp_path / "take").exists()


def test_a_take_is_replaced_only_when_asked(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    arguments = ("generate", PROMPT, "-o", tmp_path / "take", "--backbone", backbone, "--seconds", 1)
    assert command(*arguments).code == 0
    refused = command(*arguments)
    assert refused.code == 2
    assert "already holds a take (take.json); choose another folder, or add --overwrite" in refused.err
    assert command(*arguments, "--overwrite", "--seed", 3).code == 0
    assert json.loads((tmp_path / "take" / "take.json").read_text())["request"]["seed"] == 3


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "Stopped; kept the first 2.8 s (45 frames) in "),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "Error: No space left on device; kept the first",
        ),
        (MemoryError(), 1, "Error: MemoryError; kept the first 2.8 s"),
        (PolicyError("policy mine returned [1, 1]"), 1, "Error: policy mine returned [1, 1]; kept the first 2.8 s"),
    ],
)
def test_what_was_finished_is_kept(command, backbone, fake_pipeline, tmp_path, error, code, line):
    fake_pipeline(fail_at=4, error=error)
    folder = tmp_path / "take"
    result = command("generate", PROMPT, "-o", folder, "--backbone", backbone, "--seconds", 6)
    assert (result.code, result.out) == (code, "")
    assert result.err.splitlines()[-1].startswith(line)
    assert count_frames(folder / "video.mp4") == 45
    record = json.loads((folder / "take.json").read_text())
    assert record["status"] == ("interrupted" if code == 130 else "failed")


def test_an_end_before_the_first_block_leaves_nothing(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline(fail_at=0, error=KeyboardInterrupt())
    result = command("generate", PROMPT, "-o", tmp_path / "take", "--backbone", backbone)
    assert result.code == 130
    assert result.err.splitlines()[-1] == "Stopped; nothing was finished, so nothing was written"
    assert not (tmp_path / "take").exists()


def test_ctrl_c_in_a_real_process(backbone, tmp_path):
    script = (
        "from fakes import FakePipeline\n"
        "from longlive_rag.weights import load\n"
        "from longlive_rag.cli.main import main\n"
        "load.load_pipeline = lambda *_: FakePipeline(seconds_per_block=0.05)\n"
        "main()\n"
    )
    folder = tmp_path / "take"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            script,
            "generate",
            PROMPT,
            "-o",
            folder,
            "--backbone",
            backbone,
            "--seconds",
            "600",
        ],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (folder / "video.mp4").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # an impatient user
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("Stopped; kept the first ")
    record = json.loads((folder / "take.json").read_text())
    assert record["status"] == "interrupted"
    assert count_frames(folder / "video.mp4") == record["video"]["frames"] > 0


def test_the_report_says_when_a_cue_took_over(capsys):
    take = Path(__file__).parents[1] / "takes" / "samples" / "cue"
    report(read_record(take), take, as_json=False)
    assert "cue 1 took over at 0:02.0625: a red circle jumps in a meadow\n" in capsys.readouterr().out


def test_the_progress_bar_says_how_much_pages_take_even_if_they_are_small():
    assert of_pages(None) == of_pages(PageCounters()) == ""
    assert of_pages(PageCounters(fetched=6, gpu_bytes=500_000, host_bytes=700_000)) == ", 1.2 MB of pages"
    remade = PageCounters(fetched=6, remade=2, gpu_bytes=3 * 10**9)
    assert of_pages(remade) == ", 3.0 GB of pages, 2 recomputed"


def test_what_memory_kept_is_counted_in_latent_frames():
    assert first_showings([(1, 33)], 48) == "memory kept 32 of 80 latent frames, those of 1 first showing"
    assert first_showings([(1, 33), (60, 70)], 8) == "memory kept 42 of 50 latent frames, those of 2 first showings"
