"""`longlive-rag library`: what it lists, finds, draws and refuses."""

from __future__ import annotations

import json

import pytest
from fakes import make_request, write_take
from PIL import Image

from longlive_rag.config import OutputConfig


@pytest.fixture
def root(tmp_path):
    for name, prompt in (("one", "a red circle walks in a meadow"), ("two", "a blue square jumps in a desert")):
        write_take(tmp_path / "takes" / name, make_request(2.0, prompt=prompt))
    return tmp_path / "takes"


def test_list(command, root):
    result = command("library", "list", root)
    assert result.code == 0
    head, *rows = result.out.splitlines()
    assert head.split() == ["take", "status", "length", "size", "backbone", "cues", "prompt"]
    assert [row.split()[0] for row in rows] == [str(root / "one"), str(root / "two")]
    facts = json.loads(command("library", "list", root, "--json").out)
    assert [take["seconds"] for take in facts["takes"]] == [2.0, 2.0]


def test_search_by_words(command, root, tmp_path):
    sheet = tmp_path / "found.png"
    result = command("library", "search", root, "--text", "blue square", "--words-only", "-o", sheet)
    assert result.code == 0, result.err
    assert str(root / "two") in result.out.splitlines()[1]
    picture = Image.open(sheet)
    assert picture.width == 1280
    assert json.loads(picture.text["Description"])["generated_by_ai"] is True
    found = json.loads(command("library", "search", root, "--text", "blue square", "--words-only", "--json").out)
    assert [hit["take"] for hit in found["found"]] == [str(root / "two")]
    assert found["found"][0]["to_seconds"] == 2.0


def test_times_have_no_endless_digits(command, tmp_path):
    output = OutputConfig(height=32, width=32, fps=24, upscale=2)
    write_take(tmp_path / "film", make_request(47 / 24, output=output))
    result = command("library", "search", tmp_path, "--text", "circle", "--words-only")
    assert result.out.splitlines()[1].split()[2:4] == ["0:00", "0:01.9583"]


def test_search_by_meaning(command, root, pipeline_folder):
    found = command("library", "search", root, "--text", "a blue square", "--backbone", pipeline_folder)
    assert found.code == 0, found.err
    first, second = (row.split() for row in found.out.splitlines()[1:])
    assert first[1] == str(root / "two")
    assert float(first[0]) > float(second[0]) > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --text WORDS or --frame TAKE@TIMECODE"),
        (["--text", "a", "--frame", "b@1"], "give either --text WORDS or --frame TAKE@TIMECODE"),
        (["--text", "?", "--words-only"], "Error: --text is '?'; describe in words what to find"),
        (["--text", "circle"], "give the takes' backbone with --backbone, or add --words-only"),
        (["--text", "circle", "--backbone", "nowhere"], "backbone 'nowhere' is neither a known name nor a folder"),
        (["--frame", "takes/one"], "--frame is 'takes/one'; it must be TAKE@TIMECODE"),
        (["--frame", "nowhere@1"], "nowhere is not a take"),
        (["--frame", "takes/one@1"], "has no embedding"),
        (["--text", "circle", "--words-only", "-o", "found.jpg"], "--output found.jpg: the suffix must be .png"),
    ],
)
def test_refused(command, root, monkeypatch, words, message):
    monkeypatch.chdir(root.parent)
    result = command("library", "search", *words)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message in result.err


def test_a_folder_without_takes(command, tmp_path):
    assert command("library", "list", tmp_path).out == f"no takes in {tmp_path}\n"
    assert command("library", "search", tmp_path, "--text", "circle").out.startswith("nothing found among 0 takes")
    assert command("library", "list", tmp_path / "nowhere").code == 2
