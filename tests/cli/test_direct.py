"""`longlive-rag direct`, driven through a pseudo-terminal and a pipe, on a random backbone."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from longlive_rag.media.video import read_frames
from longlive_rag.sessions.directing import LiveSession
from longlive_rag.takes.record import read_record
from retrieval.store import LatentStore, block_numbers
from tests import forked

ROOT = Path(__file__).parents[2]
PROMPT, OTHER = "a red circle walks in a meadow", "a blue square jumps in a desert"
COMMAND = (sys.executable, "-m", "longlive_rag")
PATIENCE_S = 400


def environment(**settings):
    return {**os.environ, "PYTHONPATH": str(ROOT), **settings}


class Driver:
    """A command in a process of its own, whose output is read and whose input is typed."""

    def __init__(self, arguments, cwd, terminal):
        self.text = ""
        if terminal:
            self._in, typed = pty.openpty()
            fcntl.ioctl(typed, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
            self._out, said = self._in, os.dup(typed)
        else:
            typed, self._in = os.pipe()
            self._out, said = os.pipe()
        env = environment(TERM="xterm-256color", COLORTERM="truecolor")
        self.process = forked.Forked(arguments, cwd, (typed, said, said), env, start_new_session=True)
        os.close(typed)
        os.close(said)

    def type(self, line):
        os.write(self._in, f"{line}\n".encode())

    def wait_for(self, pattern, after=0):
        """Read until `pattern` is there; returns the position behind it."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.compile(pattern).search(self.text, after)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.text[after:][-2000:]!r}"
            assert self._read(), f"it ended without {pattern!r}: {self.text[-2000:]!r}"
        return found.end()

    def end(self):
        while self._read():
            pass
        return self.process.wait(PATIENCE_S)

    def _read(self):
        ready, _, _ = select.select([self._out], [], [], PATIENCE_S)
        try:
            data = os.read(self._out, 65536) if ready else b""
        except OSError:  # the other side of a terminal is closed
            data = b""
        self.text += data.decode("utf-8", "replace")
        return bool(data)


def wait_for_blocks(driver, latents):
    """Until a take has some."""
    while not (latents.is_dir() and len(block_numbers(latents)) > 3):
        assert driver.process.poll() is None
        time.sleep(0.05)


def generate_again(take, target, pipeline_folder, cwd, *settings):
    words = ["generate", "--cues", take, "-o", target, "--backbone", pipeline_folder, *settings]
    done = forked.run(words, cwd)
    assert done.returncode == 0, done.stderr


def assert_same(one, other):
    """Two takes, to the bit: latents, selections, pixels."""
    first, second = LatentStore(one / "latents"), LatentStore(other / "latents")
    assert first.blocks == second.blocks
    for block in range(first.blocks):
        a, b = first.record(block), second.record(block)
        assert np.array_equal(a.latents, b.latents)
        assert (a.selection, a.prompt, a.cue) == (b.selection, b.prompt, b.cue)
    pairs = zip(read_frames(one / "video.mp4"), read_frames(other / "video.mp4"), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.slow
def test_a_session_at_a_terminal(pipeline_folder, tmp_path):
    arguments = ("direct", "live", PROMPT, "--backbone", pipeline_folder, "--seed", "5", "--seconds", "300")
    driver = Driver(arguments, tmp_path, terminal=True)
    driver.wait_for(r"block 5 ")
    newest_stored = max(block_numbers(tmp_path / "live" / "latents"))  # the terminal shows blocks later
    driver.type(OTHER)
    position = driver.wait_for(r"cue 1 took over; seen ([0-9.]+) s after it was typed")
    waited = float(re.search(r"seen ([0-9.]+) s", driver.text).group(1))
    driver.type(":pin 0-1")
    driver.type(":dance")
    position = driver.wait_for(r"Not done: ':dance' is not a command", position)
    newest = max(int(number) for number in re.findall(r"block (\d+) ", driver.text))
    driver.wait_for(rf"block ({newest + 3}|{newest + 4}) ", position)  # the pin holds by then
    driver.type(":quit")
    assert driver.end() == 0, driver.text[-2000:]
    assert "\x1b[38;2;" in driver.text
    assert "\u2580" in driver.text
    assert "Traceback" not in driver.text
    record = read_record(tmp_path / "live")
    (cue,) = record.cues
    assert (record.status, cue.prompt) == ("finished", OTHER)
    (told,) = record.request.memory.steering
    assert (told.verb, told.start, told.end) == ("pin", 0.0, 1.0)
    # what was typed while a block was made waited for that block, and for its own, recache included
    assert cue.block <= newest_stored + 3
    store = LatentStore(tmp_path / "live" / "latents")
    seconds = [sum(store.record(block).seconds.values()) for block in (cue.block - 1, cue.block)]
    assert waited <= 2 * sum(seconds) + 1
    generate_again("live", "again", pipeline_folder, tmp_path, "--seed", "5")
    assert_same(tmp_path / "live", tmp_path / "again")


@pytest.mark.slow
def test_undo_and_branch(pipeline_folder, tmp_path):
    arguments = ("direct", "takes/live", PROMPT, "--backbone", pipeline_folder, "--seconds", "300")
    driver = Driver(arguments, tmp_path, terminal=False)
    wait_for_blocks(driver, tmp_path / "takes" / "live" / "latents")
    driver.type(":undo")
    driver.type(OTHER)
    position = driver.wait_for(r"cue 1 took over")
    assert "Not done: there is no cue to undo" in driver.text
    (tmp_path / "takes" / "live" / "notes.txt").write_text("mine")
    driver.type(":undo")
    driver.type("a green triangle sleeps")
    position = driver.wait_for(r"back to before cue 1", position)
    position = driver.wait_for(r"cue 1 took over", position)
    driver.type(":branch live")
    position = driver.wait_for(r"live already exists; choose another name", position)
    driver.type(":branch other")
    driver.type("a yellow star walks")
    position = driver.wait_for(r"cue 2 took over", position)
    driver.type(":save")
    driver.wait_for(r"saved in takes/other", position)
    assert (tmp_path / "takes" / "other" / "contact_sheet.png").is_file()
    driver.type(":quit")
    assert driver.end() == 0, driver.text[-2000:]
    assert "Traceback" not in driver.text
    assert sorted(path.name for path in (tmp_path / "takes").iterdir()) == ["live", "other"]
    assert (tmp_path / "takes" / "live" / "notes.txt").read_text() == "mine"
    live, other = (tmp_path / "takes" / name for name in ("live", "other"))
    records = [read_record(take) for take in (live, other)]
    assert [record.status for record in records] == ["finished", "finished"]
    assert [[cue.prompt for cue in record.cues] for record in records] == [
        ["a green triangle sleeps"],
        ["a green triangle sleeps", "a yellow star walks"],
    ]
    for number, take in enumerate((live, other)):
        generate_again(take, f"again-{number}", pipeline_folder, tmp_path)
        assert_same(take, tmp_path / f"again-{number}")


@pytest.mark.slow
def test_a_take_is_gone_on_with_from_a_script(pipeline_folder, tmp_path):
    words = ["generate", PROMPT, "-o", "take", "--backbone", str(pipeline_folder), "--seconds", "2"]
    forked.run(words, tmp_path).check_returncode()
    done = forked.run(["direct", "take", OTHER, "--seconds", "2"], tmp_path)
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "take")
    assert [cue.prompt for cue in record.cues] == [OTHER]
    assert record.video.seconds == record.request.seconds == 2.0625 + 2
    generate_again("take", "again", pipeline_folder, tmp_path)
    assert_same(tmp_path / "take", tmp_path / "again")
    refused = forked.run(["direct", "take", "--seed", "3"], tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--seed is for new takes; take already exists" in refused.stderr


@pytest.mark.slow
def test_two_processes_are_directed_as_one_is(tmp_path):
    """By cues, through an undo and a branch, and again when the take is gone on with."""
    arguments = ("direct", "takes/live", PROMPT, "--gpus", "2", "--device", "cpu", "--seconds", "300")
    driver = Driver(arguments, tmp_path, terminal=False)
    wait_for_blocks(driver, tmp_path / "takes" / "live" / "latents")
    driver.type(OTHER)
    position = driver.wait_for(r"cue 1 took over")
    driver.type(":undo")
    driver.type("a green triangle sleeps in a forest")
    position = driver.wait_for(r"back to before cue 1", position)
    position = driver.wait_for(r"cue 1 took over", position)
    driver.type(":branch other")
    driver.wait_for(r"continuing in takes/other", position)
    driver.type(":quit")
    assert driver.end() == 0, driver.text[-2000:]
    assert "Traceback" not in driver.text
    words = ["direct", "takes/live", OTHER, "--gpus", "2", "--device", "cpu", "--seconds", "2"]
    subprocess.run([*COMMAND, *words], cwd=tmp_path, env=environment(), input="", check=True, text=True)
    for number, name in enumerate(("live", "other")):
        take = tmp_path / "takes" / name
        assert read_record(take).run.gpus == 2
        generate_again(take, f"again-{number}", "tiny-world", tmp_path, "--device", "cpu")
        assert read_record(tmp_path / f"again-{number}").run.gpus == 1
        assert_same(take, tmp_path / f"again-{number}")


def test_there_is_no_branch_before_the_first_block():
    session = LiveSession(SimpleNamespace())
    session._live = SimpleNamespace(seconds=0.0)
    session._ready.set()
    with pytest.raises(ValueError, match="there is nothing to branch from yet"):
        session.branch("other")


@pytest.mark.slow
def test_without_a_prompt_nothing_begins(pipeline_folder, tmp_path):
    words = [*COMMAND, "direct", "take", "--backbone", str(pipeline_folder)]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), input="", capture_output=True, text=True)
    assert done.returncode == 2
    assert "the prompt is empty; describe what to show" in done.stderr
    assert not list(tmp_path.iterdir())
    assert json.dumps(done.stdout) == json.dumps("Type what should be seen first.\n")


def test_a_take_that_ends_before_its_first_block_names_no_files(command, monkeypatch, tmp_path):
    from longlive_rag.cli import direct
    from longlive_rag.cli.session import Session

    nothing = SimpleNamespace(video=SimpleNamespace(frames=0))
    monkeypatch.setattr(direct, "_open_new", lambda *_: SimpleNamespace(folder=tmp_path / "live"))
    monkeypatch.setattr(Session, "_read", lambda _: None)
    monkeypatch.setattr(Session, "run", lambda self, take, prompt: (nothing, take))
    result = command("direct", tmp_path / "live", PROMPT)
    assert (result.code, result.out) == (0, "The take was ended before its first block; nothing was written.\n")
