"""Words in any script are drawn as letters, not as boxes, where there is a font that has them."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
from PIL import ImageFont

from longlive_rag.media import fonts
from longlive_rag.media.fonts import font_for

DEJAVU = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@pytest.fixture(autouse=True)
def one_font(monkeypatch):
    monkeypatch.setattr(fonts, "SYSTEM_FONTS", ("no-such-font.ttf", DEJAVU))
    font_for.cache_clear()
    yield
    font_for.cache_clear()


@pytest.mark.parametrize("text", ["ein Mädchen läuft", "девочка идёт", "a red circle"])
def test_every_letter_is_drawn(text):
    font = font_for(text, 26)
    box = font.getmask("\U0010ffff")
    assert all(bytes(font.getmask(letter)) != bytes(box) for letter in text)


def test_plain_words_look_as_they_did():
    assert font_for("a red circle", 26).getname() == ImageFont.load_default(26).getname()
    assert font_for("ein Mädchen", 26).getname() == ("DejaVu Sans", "Book")


def test_without_any_font_words_are_drawn_all_the_same(monkeypatch):
    monkeypatch.setattr(fonts, "SYSTEM_FONTS", ())
    assert font_for("ein Mädchen", 26).getname() == ImageFont.load_default(26).getname()
