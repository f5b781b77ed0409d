"""Documents and prompts of others: refused or left out in one line, at once; what they hold reaches no terminal raw."""

from __future__ import annotations

import json
import os
import shutil
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fakes import make_request, write_take

from eval.measures import Measures
from longlive_rag.documents import read_document, write_document
from tests.hostile.commands import CONTROLS, Ended, fault, run_here

ESCAPE = "\x1b]0;x\x07 \x9b31m"
CPU_SECONDS = 2.0
"""Of this process, so that a busy machine changes nothing; all of it takes a third of that or less."""


def refused(command: tuple[object, ...], folder: Path) -> str:
    """What a command that is refused at once says."""
    begin_s = time.process_time()
    ended = run_here(tuple(map(str, command)), folder)
    assert time.process_time() - begin_s < CPU_SECONDS
    assert ended.code == 2, ended
    assert not fault(ended)
    assert ended.err.count("\n") == 1
    return ended.err


def change(take: Path, **changes: Any) -> None:
    """Edit a record as an older version would have written it: without a checksum."""
    record = {**json.loads((take / "take.json").read_text()), **changes}
    record.pop("checksum")
    (take / "take.json").write_text(json.dumps(record))


# ---- bombs ----


@pytest.mark.parametrize("place", ["prompt", "seconds"])
def test_nested_aliases_are_not_read(tmp_path: Path, place: str) -> None:
    """A few lines of YAML that say 9**9 words, as the prompt or as the length."""
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for before, name in pairwise("abcdefghi"):
        bomb += f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    prompt, seconds = ("*i", "5") if place == "prompt" else ("a circle", "*i")
    (tmp_path / "cues.yaml").write_text(f"{bomb}seconds: {seconds}\ncues:\n- at: 0\n  prompt: {prompt}\n")
    said = refused(("generate", "--cues", "cues.yaml", "-o", "new"), tmp_path)
    assert said == "Error: cues.yaml, line 2, can't be read as YAML: aliases are not supported\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "cues.json",
            '{"seconds": ' + "9" * 400 + ', "prompts": ["a"]}',
            "99999999999999999999... has 400 digits",
        ),
        ("cues.yaml", "seconds: " + "9" * 400 + "\nprompts: [a]\n", "is not a timecode"),
        ("cues.json", '{"prompts": ["a"], "prompts": ["b"]}', "cues.json: 'prompts' occurs twice"),
        ("cues.yaml", "prompts: [a]\nprompts: [b]\n", "'prompts' occurs twice"),
        ("cues.jsonl", '{"prompts": ["a"], "times": [0], "times": [1]}', "cues.jsonl, line 1: 'times' occurs twice"),
        ("cues.json", '{"prompts": ' + "[" * 100_000, "cues.json: it is nested too deeply"),
        ("cues.yaml", "prompts: " + "[" * 5000, "cues.yaml is nested too deeply"),
        ("cues.json", '{"prompts": ["a"], "seconds": Infinity}', "Infinity is not a finite number"),
    ],
)
def test_cue_files_that_say_too_much(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    assert message in refused(("generate", "--cues", name, "-o", "new"), tmp_path)


def test_a_template_fills_in_plain_words(tmp_path: Path) -> None:
    """Python's own templates can ask for a thousand million blanks, or for the inside of objects."""
    (tmp_path / "people.json").write_text('[{"who": "a red circle"}]')
    more = ("--scenario", "leaves", "--scenarios-file", "s.json", "--embedders", "pixels", "-o", "new")
    for prompt in ("{who:>9999999999}", "{who.__class__}", "{who!r:{who}}", "{0}", "{", "{who[0]}"):
        (tmp_path / "s.json").write_text(json.dumps({"leaves": {"prompt": prompt}}))
        said = refused(("eval", "compare", "--arms", "native,memory", "--prompts", "people.json", *more), tmp_path)
        assert "s.json, leaves: " in said
        assert f"{prompt!r} is not a template" in said


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../../x"])
def test_names_in_a_plan_lead_out_of_nothing(tmp_path: Path, name: str) -> None:
    samples = Path(__file__).parents[1] / "eval" / "samples"
    plan = json.loads((samples / "plan-without-metrics.json").read_text())
    for part, key in ((plan["arms"], "name"), (plan["stories"], "id")):
        before, part[0][key] = part[0][key], name
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        said = refused(("eval", "compare", "--plan", "plan.json", "-o", "new"), tmp_path)
        assert f"is named {name!r}; use letters, digits, -, _ and . only" in said
        part[0][key] = before


# ---- one damaged take among others ----

DAMAGE: dict[str, Any] = {
    "infinite": lambda text: text.replace('"format": 1', '"format": Infinity'),
    "deep": lambda text: text.replace('"format": 1', '"format": ' + "[" * 100_000),
    "number": lambda text: json.dumps({**json.loads(text), "request": {"prompt": 5, "seconds": 2}}),
    "half": lambda text: text.replace("a red circle", "a \\ud800 circle", 1),
    "long": lambda text: text.replace('"format": 1', '"format": ' + "9" * 400),
    "empty": lambda text: "",
    "list": lambda text: "[]",
    "twice": lambda text: text.replace('"format": 1', '"format": 1, "format": 1'),
}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Two whole takes, and one of every kind of damage between them."""
    write_take(tmp_path / "takes" / "a", make_request(2.0))
    shutil.copytree(tmp_path / "takes" / "a", tmp_path / "takes" / "z")
    for name, damaged in DAMAGE.items():
        folder = tmp_path / "takes" / f"damaged-{name}"
        shutil.copytree(tmp_path / "takes" / "a", folder)
        text = damaged((folder / "take.json").read_text())
        (folder / "take.json").write_text(text)
    for name in ("pipe", "folder", "link", "gone", "device"):
        (tmp_path / "takes" / f"damaged-{name}").mkdir()
    places = {name: tmp_path / "takes" / f"damaged-{name}" / "take.json" for name in ("pipe", "link", "gone", "device")}
    os.mkfifo(places["pipe"])
    places["link"].symlink_to(places["link"])
    places["gone"].symlink_to("nowhere.json")
    places["device"].symlink_to("/dev/zero")
    return tmp_path


@pytest.mark.parametrize(
    "words", [("list",), ("list", "takes", "--json"), ("search", "--text", "red circle", "--words-only")]
)
def test_a_damaged_take_is_left_out_by_name_and_the_others_are_listed(library: Path, words: tuple[str, ...]) -> None:
    ended = run_here(("library", *words), library)
    assert ended.code == 0, ended.err
    assert not fault(ended)
    for name in ("a", "z"):
        assert f"takes/{name}" in ended.out
    for name in (*DAMAGE, "pipe", "link", "gone", "device"):
        assert f"Note: takes/damaged-{name} is left out: " in ended.err
    assert "damaged" not in ended.out


@pytest.mark.parametrize("file", ["../secret.mp4", "/etc/passwd", "", ".", "take.json"])
def test_a_record_names_no_file_but_its_own(tmp_path: Path, file: str) -> None:
    write_take(tmp_path / "take", make_request(2.0))
    record = json.loads((tmp_path / "take" / "take.json").read_text())
    change(tmp_path / "take", video={**record["video"], "file": file})
    for command in (("take", "info"), ("license", "report"), ("take", "export", "--video", "new.mp4")):
        said = refused((*command[:2], "take", *command[2:]), tmp_path)
        assert f"take/take.json: video.file is {file!r}; it should be 'video.mp4'" in said


# ---- escapes ----


def quiet(ended: Ended) -> None:
    assert ended.code == 0, ended.err
    assert not CONTROLS.search(ended.out + ended.err)


@pytest.mark.parametrize(
    "command",
    [
        ("take", "info", "take"),
        ("take", "info", "take", "--json"),
        ("library", "list", "."),
        ("library", "list", ".", "--json"),
        ("library", "search", ".", "--text", "circle", "--words-only"),
        ("library", "search", ".", "--text", "circle", "--words-only", "--json"),
        ("license", "report", "take"),
        ("license", "report", "take", "--json"),
        ("license", "report", "take", "--spdx"),
    ],
    ids=" ".join,
)
def test_escapes_of_a_record_are_shown(tmp_path: Path, command: tuple[str, ...]) -> None:
    write_take(tmp_path / "take", make_request(2.0, prompt=f"a {ESCAPE} circle", cues=[(1.0, f"b {ESCAPE} circle")]))
    ended = run_here(command, tmp_path)
    quiet(ended)
    if "--spdx" not in command:
        assert "\\u001b]0;x\\u0007 \\u009b31m" in ended.out
    if "--json" in command:
        json.loads(ended.out)


def test_escapes_in_any_text_of_a_record_are_shown(tmp_path: Path) -> None:
    write_take(tmp_path / "take", make_request(2.0))
    record = json.loads((tmp_path / "take" / "take.json").read_text())
    record["run"]["backbone"] = record["started"] = record["rights"]["phase"] = ESCAPE
    change(tmp_path / "take", **record)
    for command in (("take", "info", "take"), ("library", "list", "."), ("license", "report", "take")):
        quiet(run_here(command, tmp_path))
    said = run_here(("resume", "take"), tmp_path)
    assert said.code == 2
    assert not fault(said)


@pytest.mark.parametrize("suffix", ["txt", "json", "jsonl", "yaml"])
def test_escapes_are_not_in_what_is_exported_for_people(tmp_path: Path, suffix: str) -> None:
    prompt = f"a {ESCAPE} circle"
    write_take(tmp_path / "take", make_request(2.0, prompt=prompt))
    quiet(run_here(("take", "export", "take", "--cues", f"cues.{suffix}"), tmp_path))
    assert not CONTROLS.search((tmp_path / f"cues.{suffix}").read_text())
    from longlive_rag.takes.cue_files import read_cues

    assert read_cues(tmp_path / f"cues.{suffix}", 16).lines[0].prompt == prompt
    quiet(run_here(("license", "report", "take", "-o", "rights.md"), tmp_path))
    assert not CONTROLS.search((tmp_path / "rights.md").read_text())


def test_escapes_in_a_prompt_are_shown(tmp_path: Path, pipeline_folder: Path) -> None:
    more = ("--backbone", pipeline_folder, "--seconds", 1, "-o", "take", "--cue", "0.4", f"b {ESCAPE}")
    quiet(run_here(tuple(map(str, ("generate", f"a {ESCAPE} circle", *more))), tmp_path))
    ended = run_here(("generate", f"a {ESCAPE}", "--seconds", "0", "-o", f"a{ESCAPE}"), tmp_path)
    assert (ended.code, fault(ended)) == (2, "")


# ---- words without end ----


@pytest.mark.parametrize("letters", [2000, 5000])
def test_a_single_long_word_is_drawn_at_once(tmp_path: Path, letters: int) -> None:
    begin_s = time.process_time()
    write_take(tmp_path / "take", make_request(2.0, prompt="w" * letters, cues=[(1.0, "v" * letters)]))
    assert time.process_time() - begin_s < CPU_SECONDS
    assert (tmp_path / "take" / "contact_sheet.png").is_file()


# ---- edited figures ----


def test_edited_measures_are_noticed(tmp_path: Path) -> None:
    samples, path = Path(__file__).parents[1] / "eval" / "samples", tmp_path / "measures.json"
    write_document(path, read_document(samples / "measures-4.json", Measures))
    assert read_document(path, Measures)
    measures = json.loads(path.read_text())
    measures["embed_every"] += 1
    path.write_text(json.dumps(measures))
    with pytest.raises(ValueError, match=r"measures\.json was changed after it was written"):
        read_document(path, Measures)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "per_frame",
            lambda part: part["cosine"]["tiny-world"].pop(),
            r"per_frame.*tiny-world has \d+ figures for \d+ times",
        ),
        (
            "per_frame",
            lambda part: part["cosine"].clear(),
            "embedders are tiny-world, but per_frame has figures of none",
        ),
        ("curves", lambda part: part["motion"].append(0.5), r"curves.*motion has \d+ figures for \d+ times"),
    ],
)
def test_measures_that_lack_a_figure_are_refused(tmp_path: Path, part: str, change: Any, message: str) -> None:
    path = tmp_path / "measures.json"
    measures = json.loads((Path(__file__).parents[1] / "eval" / "samples" / "measures-4.json").read_text())
    measures.pop("checksum", None)
    change(measures[part])
    path.write_text(json.dumps(measures))
    with pytest.raises(ValueError, match=message):
        read_document(path, Measures)
