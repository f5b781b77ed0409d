"""`longlive-rag take export`: what it writes, says and refuses."""

from __future__ import annotations

import json
import shutil

import pytest
from fakes import make_request, write_take

from longlive_rag.media.video import count_frames


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    request = make_request(5.0, cues=[(2.0, "the red circle jumps")])
    return write_take(tmp_path_factory.mktemp("takes") / "take", request)


@pytest.fixture
def take(made, tmp_path):
    return shutil.copytree(made, tmp_path / "take")


def test_everything_at_once(command, take, tmp_path):
    out = tmp_path / "out"
    words = ["--video", out / "clip.mp4", "--frames", out / "frames", "--stills", out / "stills"]
    words += ["--sheet", out / "sheet.png", "--otio", out / "take.otio", "--cues", out / "cues.yaml"]
    words += ["--branches", out / "all.otio"]
    result = command("take", "export", take, "--from", "0:01", "--to", "00:00:03:08", *words)
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 7
    assert count_frames(out / "clip.mp4") == 40 == len(list((out / "frames").iterdir()))
    assert [path.name for path in (out / "stills").iterdir()] == ["cue_01_frame_000033.png"]
    assert (out / "cues.yaml").read_text().count("prompt:") == 2
    assert sorted(path.name for path in out.iterdir()) == [
        "all.otio", "clip.mp4", "cues.yaml", "frames", "sheet.png", "stills", "take.otio",
    ]  # fmt: skip
    report = json.loads(command("take", "export", take, "--video", out / "whole.mp4", "--json").out)
    assert report["written"]["video"] == {"path": str(out / "whole.mp4"), "frames": 80, "encoded": "as in the take"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to export; add --video, --frames,"),
        (["--video", "clip.mov"], "--video clip.mov: the suffix must be .mp4"),
        (["--video", "clip.mp4", "--from", "soon"], "'soon' is not a timecode"),
        (["--video", "clip.mp4", "--to", "9"], "the range is 0:00 to 0:09; "),
        (["--video", "clip.mp4", "--from", "3", "--to", "2"], "the range is 0:03 to 0:02; "),
        (["--stills", "stills", "--sheet", "new.png", "--from", "3"], "no cue takes over in this range"),
        (["--cues", "cues.doc"], "the suffix of a cue file must be one of"),
        (["--sheet", "here.png"], "--sheet here.png already exists; choose another name, or add --overwrite"),
        (["--frames", "full"], "--frames full already exists; choose a new or empty folder"),
        (["--frames", "here.png"], "--frames here.png already exists"),
        (["--video", "/proc/clip.mp4"], "No such file or directory: /proc/clip.mp4"),
        (["--sheet", "/proc/sheet.png"], "No such file or directory: /proc/sheet.png"),
    ],
)
def test_refused(command, take, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.png").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    result = command("take", "export", take, *words)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "here.png", "take"]


def test_what_is_there_is_replaced_only_when_asked(command, take, tmp_path):
    sheet = tmp_path / "sheet.png"
    sheet.write_text("mine")
    assert command("take", "export", take, "--sheet", sheet).code == 2
    assert sheet.read_text() == "mine"
    assert command("take", "export", take, "--sheet", sheet, "--overwrite").code == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "empty").mkdir()
    assert command("take", "export", take, "--frames", tmp_path / "empty", "--to", "0:01").code == 0
    assert len(list((tmp_path / "empty").iterdir())) == 16


def test_what_is_no_take(command, take, tmp_path):
    result = command("take", "export", tmp_path, "--sheet", tmp_path / "sheet.png")
    assert (result.code, result.err) == (2, f"Error: {tmp_path} is not a take: it has no take.json\n")
    (take / "video.mp4").unlink()
    assert "has no video yet" in command("take", "export", take, "--sheet", tmp_path / "sheet.png").err
