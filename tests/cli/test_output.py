"""The door to the terminal: what others wrote can be printed, and output that goes nowhere harms nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from longlive_rag.cli.output import SafeOutput, shown
from longlive_rag.cli.settings import with_figures
from tests import forked

COMMAND = f"{sys.executable} -m longlive_rag"
WORDS = '"a red circle walks in a meadow"'


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=100)


def test_control_characters_are_shown() -> None:
    assert shown("a\x1b]0;x\x07b\tc\r\n") == "a\\u001b]0;x\\u0007b\tc\r\n"
    assert shown("\x9b31m \ud800 \u202e") == "\\u009b31m \\ud800 \\u202e"
    assert shown("größe, 日本") == "größe, 日本"


def test_json_with_control_characters_stays_json() -> None:
    content = {"prompt": "a\x1b\x9b\u2028b"}
    assert json.loads(shown(json.dumps(content, ensure_ascii=False))) == content


def test_a_stream_that_is_gone_is_left_alone() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    output = SafeOutput(Gone())
    assert output.write("x") == 1
    assert output.lost is not None
    assert output.write("y") == 1


@pytest.mark.parametrize("words", [["take", "info"], ["resume"], ["library", "list"]])
def test_an_escape_in_a_name_does_not_reach_the_terminal(command, tmp_path: Path, words: list[str]) -> None:
    done = command(*words, tmp_path / "a\x1b]0;x\x07")
    assert "\x1b" not in done.out + done.err
    assert "\\u001b" in done.out + done.err


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["3>&1 1>/dev/null 2>&3 | head -c 5", "2>&- <&- >&-"])
def test_a_take_is_made_whatever_becomes_of_its_progress(tmp_path: Path, redirection: str) -> None:
    shell(f"{COMMAND} generate {WORDS} --seconds 6 -o take {redirection}", tmp_path)
    check_made(tmp_path / "take")


@pytest.mark.slow
@pytest.mark.parametrize("streams", [("null", "null", "full"), ("null", "null", "closed"), ("closed", "null", "null")])
def test_a_take_is_made_without_one_of_the_streams(tmp_path: Path, streams: tuple[str, ...]) -> None:
    with open(os.devnull, "r+") as silence, open("/dev/full", "w") as full:
        numbers = {"null": silence.fileno(), "full": full.fileno()}
        words = ["generate", "a red circle walks in a meadow", "--seconds", "6", "-o", "take"]
        forked.Forked(words, tmp_path, list(map(numbers.get, streams))).wait()
    check_made(tmp_path / "take")


def check_made(take: Path) -> None:
    record = json.loads((take / "take.json").read_text())
    assert (record["status"], record["video"]["frames"]) == ("finished", 96)


@pytest.mark.slow
def test_a_result_that_can_not_be_written_is_a_failure(tmp_path: Path) -> None:
    done = shell(f"{COMMAND} plan --json >/dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "Error: standard output can't be written: No space left on device\n",
    )
    assert shell(f"{COMMAND} --help | head -c 5", tmp_path).stderr == ""


@pytest.mark.slow
def test_directing_without_a_keyboard(tmp_path: Path) -> None:
    done = shell(f"{COMMAND} direct take {WORDS} --seconds 3 <&-", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert os.path.getsize(tmp_path / "take" / "video.mp4") > 1000


@pytest.mark.parametrize(
    ("words", "as_json", "output", "notes"),
    [
        ([], False, None, 0),
        (["--json"], True, None, 0),
        (["-o", "figures.json"], False, "figures.json", 0),
        (["--json", "-o", "figures.json"], True, "figures.json", 0),
        (["--json", "figures.json"], False, "figures.json", 1),
        (["--json=figures.json", "--output", "new.json"], False, "new.json", 1),
    ],
)
def test_figures_go_to_a_file_to_stdout_or_both(words, as_json, output, notes) -> None:
    @click.command()
    @with_figures()
    def measure(as_json: bool, output: Path | None) -> None:
        click.echo(json.dumps([as_json, None if output is None else str(output)]))

    done = CliRunner().invoke(measure, words)
    assert json.loads(done.stdout) == [as_json, output]
    note = "Note: --json FILE is now --output FILE; the old name works for one more release.\n"
    assert done.stderr == notes * note
