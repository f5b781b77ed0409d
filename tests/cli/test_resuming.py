"""`resume`, `extend` and `branch` as commands, on a pipeline of random weights: what they make, say and refuse."""

from __future__ import annotations

import errno
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes import copy_blocks
from PIL import Image

from longlive_rag.media.video import count_frames, read_frames
from longlive_rag.takes.folder import CHECKPOINTS, LATENTS, RECORD, VIDEO, TakeClaim
from longlive_rag.takes.record import read_record
from retrieval import files
from retrieval.files import part_of
from retrieval.store import LatentStore

PROMPT = "a red circle walks in a meadow"
LATER = "a blue square jumps in the snow"


@pytest.fixture(scope="module")
def whole(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished take of 4 s: 6 blocks."""
    from click.testing import CliRunner

    from longlive_rag.cli.main import cli

    folder = tmp_path_factory.mktemp("takes") / "whole"
    done = CliRunner().invoke(cli, arguments_of(folder, pipeline_folder))
    assert done.exit_code == 0, done.output
    return folder


def arguments_of(folder: Path, backbone: Path, *more: str) -> list[str]:
    return ["generate", PROMPT, "-o", str(folder), "--backbone", str(backbone), "--seconds", "4", *more]


def stopped(whole: Path, folder: Path, blocks: int = 4) -> Path:
    """The same take, killed while it made a block."""
    copy_blocks(whole, folder, blocks)
    record = json.loads((folder / "take.json").read_text())
    del record["checksum"], record["video"]["sha256"]  # as of a version that wrote none
    (folder / "take.json").write_text(json.dumps({**record, "status": "running"}))
    return folder


def same(take: Path, other: Path) -> bool:
    ours, theirs = LatentStore(take / LATENTS), LatentStore(other / LATENTS)
    latents = all(np.array_equal(ours.record(b).latents, theirs.record(b).latents) for b in range(ours.blocks))
    frames = zip(read_frames(take / VIDEO), read_frames(other / VIDEO), strict=True)
    return latents and ours.blocks == theirs.blocks and all(np.array_equal(a, b) for a, b in frames)


def test_resume(command, whole, tmp_path):
    folder = stopped(whole, tmp_path / "take")
    result = command("resume", folder)
    assert result.code == 0, result.err
    assert "4 s of video (64 frames, 31 made in this run)" in result.out
    assert same(folder, whole)
    again = command("resume", folder)
    assert (again.code, again.err) == (0, "")
    assert again.out == f"{folder} is finished; to make it longer: longlive-rag extend {folder} --seconds 10\n"


def test_what_to_type_next_can_be_typed_whatever_the_folder_s_name(command, whole, tmp_path):
    folder = tmp_path / "my take"
    shutil.copytree(whole, folder)
    finished = command("resume", folder).out.splitlines()[-1]
    assert shlex.split(finished.partition("to make it longer: ")[2]) == [
        *("longlive-rag", "extend", str(folder), "--seconds", "10")
    ]
    record = folder / RECORD
    record.write_text(record.read_text().replace(PROMPT, "another prompt"))
    edited = command("extend", folder, "--seconds", "1").err
    assert shlex.split(edited.split("`")[1])[-1] == str(folder)


@pytest.mark.parametrize("words", [["resume"], ["take", "repair"], ["extend", "--seconds", "1"]])
def test_what_a_killed_process_left_half_written_is_removed(command, whole, tmp_path, words):
    folder = shutil.copytree(whole, tmp_path / "take")
    ours = [part_of(folder / name) for name in (VIDEO, "contact_sheet.png", "memory.png", "take.json")]
    ours += [part_of(folder / LATENTS / "000003.h5"), part_of(folder / CHECKPOINTS / "000003.safetensors")]
    others = [part_of(folder / "notes.txt"), folder / LATENTS / ".mine.part", folder / "contact_sheet.png.part"]
    ours += [folder / "video.sums"] if words == ["resume"] else []
    for path in (*ours, *others):
        path.write_bytes(b"half")
    assert command(*words, folder).code == 0
    assert not [path for path in ours if path.exists()]
    assert all(path.read_bytes() == b"half" for path in others)


@pytest.mark.parametrize("left_bytes", [None, 2000])
def test_a_video_that_is_gone_or_cut_off_is_made_again(command, whole, tmp_path, left_bytes):
    folder = shutil.copytree(whole, tmp_path / "take")
    video = folder / VIDEO
    expected = video.read_bytes()
    video.unlink() if left_bytes is None else video.write_bytes(expected[:left_bytes])
    result = command("resume", folder)
    assert result.code == 0, result.err
    assert video.read_bytes() == expected
    assert same(folder, whole)


def test_extend_says_that_a_stopped_take_is_finished_first(command, whole, tmp_path):
    folder = stopped(whole, tmp_path / "take")
    result = command("extend", folder, "--seconds", "1")
    assert result.code == 0, result.err
    assert "5 s of video" in result.out
    assert f"Note: {folder} has 2.8125 of the 4 s that were asked for; the rest is made first." in result.err
    assert "asked for" not in command("extend", folder, "--seconds", "1").err  # it is finished by now


def test_extend_and_branch_say_what_they_did(command, whole, tmp_path):
    folder = tmp_path / "take"
    shutil.copytree(whole, folder)
    result = command("extend", folder, "--seconds", "0:01", "--prompt", LATER, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert (report["frames"], report["cues"][0]["prompt"], report["cues"][0]["seconds"]) == (80, LATER, 4.3125)
    target = tmp_path / "branch"
    result = command(
        "branch", folder, "--at", "00:00:02:08", "-o", target, "--seconds", "0:05", "--checkpoint", "light"
    )
    assert result.code == 0, result.err
    assert f"the first 2.8125 s are copied from {folder}" in result.err
    assert count_frames(target / VIDEO) == 80
    record = read_record(target)
    assert record.branched_from.at == "0:02.8125"
    assert record.checkpoints.mode == "light"
    assert record.history[-1].what == "branched"
    first = zip(read_frames(target / VIDEO), read_frames(folder / VIDEO), strict=True)
    assert [np.array_equal(a, b) for a, b in first].index(False) == 45


def test_a_backbone_of_single_frames_and_two_steps(command, tmp_path):
    from tests.conftest import random_pipeline

    sizes = {"window_frames": 6, "memory_frames": 3, "recency_guard_frames": 2, "frames_per_block": 1}
    backbone, whole = tmp_path / "backbone", tmp_path / "whole"
    random_pipeline(context=sizes, sampler={"denoising_steps": [1000, 500]}).save_pretrained(backbone)
    planned = command("plan", "--backbone", backbone, "--seconds", "4")
    assert "4 s of 48x32: 17 blocks, 17 latent frames" in planned.out
    made = command(*arguments_of(whole, backbone, "--cue", "2.3", LATER))
    assert made.code == 0, made.err
    assert "cue 1, asked for at 0:02.3, takes over at 0:02.3125, where the next block begins" in made.err
    record = read_record(whole)
    assert [(cue.block, cue.seconds) for cue in record.cues] == [(10, 2.3125)]
    assert [selection.block for selection in record.selections] == list(range(9, 17))
    folder = stopped(whole, tmp_path / "take", 12)
    resumed = command("resume", folder)
    assert resumed.code == 0, resumed.err
    assert same(folder, whole)
    extended = command("extend", folder, "--seconds", "1", "--prompt", PROMPT, "--json")
    assert extended.code == 0, extended.err
    report = json.loads(extended.out)
    assert (report["frames"], report["cues"][1]["seconds"]) == (80, 4.0625)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume", "nowhere"], "nowhere is not a take: it does not exist"),
        (["resume", "TAKE/take.json"], "take.json is a file; a take is a folder"),
        (["resume", "TAKE", "--backbone", "nowhere"], "backbone 'nowhere' is neither a known name nor a folder"),
        (
            ["resume", "TAKE", "--checkpoint-gib", "-1"],
            "--checkpoint-gib is -1; it must be a number of GiB from 0 to 100000",
        ),
        (["resume", "TAKE", "--checkpoint", "often"], "'often' is not one of 'exact', 'light'"),
        (["resume", "TAKE", "--device", "tpu"], "--device is 'tpu'"),
        (["extend", "TAKE", "--seconds", "0"], "--seconds is 0; it must be at least one frame"),
        (["extend", "TAKE", "--seconds", "1e308"], "--seconds is 1e+308; it must be from 0.0625 (one frame)"),
        (["extend", "TAKE", "--seconds", "nan"], "--seconds is nan"),
        (["extend", "TAKE", "--seconds", "soon"], "--seconds: 'soon' is not a timecode; write 12.5, 0:12.5"),
        (["extend", "TAKE", "--seconds", "1e9"], "--seconds is 1e+09"),
        (["extend", "TAKE", "--seconds", "2", "--prompt", " "], "the prompt of cue 1 is empty"),
        (["extend", "TAKE", "--seconds", "0.1", "--prompt", "x"], "it would never take over"),
        (["branch", "TAKE", "--at", "soon", "-o", "new"], "'soon' is not a timecode; write 12.5, 0:12.5"),
        (["branch", "TAKE", "--at", "0", "-o", "new"], "--at is 0 s; the take can be branched after its start"),
        (["branch", "TAKE", "--at", "9", "-o", "new"], "--at is 9 s; the take can be branched after its start and up"),
        (["branch", "TAKE", "--at", "2", "-o", "TAKE"], "already holds a take"),
        (["branch", "TAKE", "--at", "2", "-o", ""], "--output is empty"),
        (["branch", "TAKE", "--at", "2", "-o", "new", "--seed", "-1"], "--seed is -1"),
        (["branch", "TAKE", "--at", "2", "-o", "new", "--seconds", "2"], "--seconds is 2, but the new part begins at"),
    ],
)
def test_bad_input(command, whole, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    take = stopped(whole, tmp_path / "take")
    before = {path: path.read_bytes() for path in take.rglob("*") if path.is_file()}
    result = command(*(word.replace("TAKE", str(take)) for word in arguments))
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_damaged_block_is_found_before_anything_runs(command, whole, tmp_path):
    folder = stopped(whole, tmp_path / "take")
    path = folder / LATENTS / "000001.h5"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = command("resume", folder)
    assert result.code == 2
    assert "000001.h5 is damaged" in result.err
    assert f"`longlive-rag take repair {folder}` keeps the blocks before it" in result.err
    assert command("take", "repair", folder).code == 0
    assert command("resume", folder).code == 0
    assert same(folder, whole)


@pytest.mark.parametrize("words", [["resume"], ["extend", "--seconds", "1"]])
@pytest.mark.parametrize("where", [RECORD, f"{LATENTS}/000004.h5"])
def test_a_folder_that_can_not_be_written_is_found_before_anything_loads(
    command, whole, tmp_path, monkeypatch, words, where
):
    folder = stopped(whole, tmp_path / "take")
    in_the_way = part_of(folder / where)  # root may write to a read-only folder, but not to this one
    in_the_way.mkdir()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr("longlive_rag.weights.load.load_pipeline", lambda *_, **__: pytest.fail("it was loaded"))
        result = command(*words, folder)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result.err
    assert f"{in_the_way.parent} can't be written: " in result.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    in_the_way.rmdir()
    TakeClaim(folder, resume=True).release()


def test_a_take_of_another_backbone(command, whole, tmp_path):
    from tests.conftest import random_pipeline

    folder = stopped(whole, tmp_path / "take")
    random_pipeline(seed=5).save_pretrained(tmp_path / "other")
    result = command("resume", folder, "--backbone", tmp_path / "other")
    assert result.code == 2
    assert f"but {tmp_path / 'other'} has different weights" in result.err


def test_a_second_writer_is_refused_and_readers_are_not(command, whole, pipeline_folder, tmp_path):
    folder = stopped(whole, tmp_path / "take")
    with TakeClaim(folder, resume=True):
        for arguments in (
            ["resume", folder],
            ["extend", folder, "--seconds", "2"],
            arguments_of(folder, pipeline_folder, "--overwrite"),
        ):
            result = command(*arguments)
            assert result.code == 2
            assert "is being written by another process; wait for it or stop it" in result.err
        assert command("take", "info", folder).code == 0
        assert command("branch", folder, "--at", "2", "-o", tmp_path / "branch", "--seconds", "3").code == 0
    assert command("resume", folder).code == 0
    assert same(folder, whole)


@pytest.mark.parametrize("room_for", [1, 3, 5])
def test_a_disk_that_fills_up(command, whole, pipeline_folder, tmp_path, monkeypatch, room_for):
    folder = tmp_path / "take"
    write = files.write_whole

    def no_room_after(path: Path, content: bytes) -> None:
        if path.suffix == ".h5" and int(path.stem) >= room_for:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(files, "write_whole", no_room_after)
    result = command(*arguments_of(folder, pipeline_folder))
    assert result.code == 1
    last = result.err.splitlines()[-1]
    assert last.startswith("Error: No space left on device; kept the first")
    assert last.endswith(f"to continue: longlive-rag resume {folder}")
    assert read_record(folder).status == "failed"
    full = command("resume", folder)  # still no room
    assert full.code == 1
    assert "No space left on device" in full.err
    monkeypatch.setattr(files, "write_whole", write)
    assert command("resume", folder).code == 0
    assert same(folder, whole)


def test_no_room_for_checkpoints_ends_them_and_not_the_take(command, whole, pipeline_folder, tmp_path, monkeypatch):
    write = files.write_whole

    def no_room(path: Path, content: bytes) -> None:
        if path.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(files, "write_whole", no_room)
    assert command(*arguments_of(tmp_path / "take", pipeline_folder)).code == 0
    record = read_record(tmp_path / "take")
    assert (record.checkpoints.after_blocks, record.checkpoints.stopped) == ((), "No space left on device")
    assert same(tmp_path / "take", whole)


def test_no_room_from_the_start(command, whole, tmp_path, monkeypatch):
    folder = stopped(whole, tmp_path / "take")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    for arguments in (["resume", folder], ["extend", folder, "--seconds", "9"]):
        result = command(*arguments)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert "no space left for" in result.err


def test_a_start_image(command, pipeline_folder, tmp_path):
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    arguments = arguments_of(tmp_path / "take", pipeline_folder, "--seconds", "1")
    result = command(*arguments, "--start-image", tmp_path / "a.png")
    assert result.code == 0, result.err
    assert "Note: start image: 60x40, resized to 48x32." in result.err
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (("text.png", "which is not a PNG or JPEG picture"), ("gone.png", "which does not exist")):
        result = command(*arguments_of(tmp_path / "other", pipeline_folder), "--start-image", tmp_path / name)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert result.err.startswith(f"Error: --start-image is {tmp_path / name}, {message}")
    assert not (tmp_path / "other").exists()
