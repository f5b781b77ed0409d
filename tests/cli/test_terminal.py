"""The preview and the screen, on a terminal of our own that understands what it needs of the escapes."""

from __future__ import annotations

import io
import os
import re

import numpy as np

from longlive_rag.cli.session import HELP
from longlive_rag.cli.terminal import Console, half_blocks, typed_lines

CELL = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+)m\x1b\[48;2;(\d+);(\d+);(\d+)m\u2580")


class Screen(io.StringIO):
    """A terminal, as far as `isatty` goes."""

    def isatty(self) -> bool:
        return True


def test_half_blocks_are_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    lines = half_blocks(picture, 6)
    assert len(lines) == 4
    for row, line in enumerate(lines):
        cells = np.array([[int(value) for value in cell] for cell in CELL.findall(line)])
        assert np.array_equal(cells[:, :3], picture[2 * row])
        assert np.array_equal(cells[:, 3:], picture[2 * row + 1])
        assert line.endswith("\x1b[0m")


def test_pictures_keep_their_shape():
    picture = np.full((60, 104, 3), 7, np.uint8)
    lines = half_blocks(picture, 52)
    assert len(lines) == 15
    assert all(len(CELL.findall(line)) == 52 for line in lines)


def opened(monkeypatch, lines: int) -> tuple[Screen, Console]:
    """A console on a screen of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", str(lines))
    screen = Screen()
    console = Console(screen, {"TERM": "xterm", "COLORTERM": "truecolor"})
    console.open(64, 64)
    return screen, console


def test_the_screen_is_drawn_in_place_and_the_keyboard_s_part_is_left_alone(monkeypatch):
    screen, console = opened(monkeypatch, lines=40)
    assert console.wants_pictures
    top = int(re.search(r"\x1b\[(\d+);40r", screen.getvalue()).group(1))
    console.say("first\x1b[2J")
    console.show("a status " * 30, np.zeros((64, 64, 3), np.uint8))
    drawn = screen.getvalue().split("\x1b7")[-1]
    assert drawn.endswith("\x1b8")
    rows = [int(row) for row in re.findall(r"\x1b\[(\d+);1H", drawn)]
    assert rows == list(range(1, top))
    assert "first[2J" in drawn
    assert max(len(text) for text in re.findall(r"a status [a-z ]*", drawn)) == 79
    console.close()
    assert "\x1b[r" in screen.getvalue()


def test_no_terminal_gets_plain_lines():
    stream = io.StringIO()
    console = Console(stream, {"TERM": "xterm", "COLORTERM": "truecolor"})
    console.open(64, 64)
    console.show("nothing", np.zeros((64, 64, 3), np.uint8))
    console.say("a line")
    console.close()
    assert stream.getvalue() == "a line\n"
    assert not Console(Screen(), {"TERM": "xterm"}).wants_pictures


def test_lines_come_whole_whatever_the_pieces():
    reader, writer = os.pipe()
    for piece in (b"one\ntw", b"o\r\n", "dr\u00e9i".encode()[:3], "dr\u00e9i".encode()[3:]):
        os.write(writer, piece)
    os.close(writer)
    assert list(typed_lines(reader)) == ["one", "two", "dr\u00e9i"]
    os.close(reader)


def test_all_of_a_message_can_be_read_on_eighty_columns(monkeypatch):
    screen, console = opened(monkeypatch, lines=24)
    for line in HELP:
        console.say(line)
    rows = re.split(r"\x1b\[\d+;1H", screen.getvalue().split("\x1b7")[-1])
    assert [row.removesuffix("\x1b[K") for row in rows][-1 - len(HELP) : -1] == list(HELP)
    console.say("policy is 'nope'; it must be one of look-ahead, random, similar, stratified, varied; or install one")
    drawn = screen.getvalue().split("\x1b7")[-1]
    assert "install one\x1b[K" in drawn
