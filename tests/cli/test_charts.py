"""Commands that end with a chart say that Matplotlib is missing before they begin."""

from __future__ import annotations

import importlib.util

import pytest

from tests.eval.clips import character, write_clip


@pytest.fixture
def no_matplotlib(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name == "matplotlib" else find(name, package)
    )


@pytest.mark.parametrize(
    ("words", "what", "extra"),
    [
        ("footprint --seconds 1 -o {here}/x.png", "--output", "eval"),
        ("train encoder --latents {here} -o {here}/run", "training.png", "train"),
        ("world train-vae --run {here}/run", "training.png", "train"),
        ("world train-backbone --run {here}/run", "training.png", "train"),
        ("world refine-decoder --run {here}/run", "training.png", "train"),
        ("world evaluate vae drift --strips {here}/strips", "--strips of drift", "eval"),
        ("eval drift {here}/clip.mp4 --embedders pixels --horizons 12 -o {here}/report", "the report", "eval"),
        ("eval compare --arms native,memory --prompts {here}/prompts.txt --embedders pixels -o {here}/run",
         "the report", "eval"),
    ],
)  # fmt: skip
def test_a_missing_matplotlib_is_said_before_the_work(command, no_matplotlib, tmp_path, words, what, extra):
    (tmp_path / "prompts.txt").write_text("a red circle walks in a meadow\n")
    write_clip(tmp_path / "clip.mp4", character(12.0))
    result = command(*words.format(here=tmp_path).split())
    said = f"Error: {what} needs Matplotlib, which is not installed; pip install 'longlive-rag[{extra}]'\n"
    assert (result.code, result.out, result.err) == (2, "", said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "prompts.txt"]


def test_what_draws_no_chart_needs_no_matplotlib(command, no_matplotlib, tmp_path):
    video = write_clip(tmp_path / "clip.mp4", character(12.0))
    assert command("eval", "drift", video, "--embedders", "pixels", "--horizons", "12").code == 0
