"""Fonts for the words in pictures: the built-in one, or one of the system's where that lacks letters."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SYSTEM_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "arial.ttf", "Arial.ttf"),
    *("Arial Unicode.ttf", "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "PingFang.ttc", "msyh.ttc"),
)
"""Common fonts of Linux, macOS and Windows, in the order in which they are tried; the last ones have Chinese."""
NO_LETTER = "\U0010ffff"


@lru_cache(maxsize=128)
def font_for(text: str, size: int) -> Font:
    """The font that has most of the letters of `text`: the built-in one, unless another has more.

    Args:
        text: what is to be drawn.
        size: in pixels.
    """
    built_in = ImageFont.load_default(size)
    best, fewest = built_in, _letters_missing(built_in, text)
    for name in SYSTEM_FONTS if fewest else ():
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        missing = _letters_missing(font, text)
        if missing < fewest:
            best, fewest = font, missing
        if not fewest:
            break
    return best


def _letters_missing(font: Font, text: str) -> int:
    """How many letters of `text` the font would draw as the box that stands for a missing one."""
    letters = {letter for letter in text if not letter.isascii() and not letter.isspace()}
    if not letters:
        return 0
    box = _drawn(font, NO_LETTER)
    return sum(_drawn(font, letter) == box for letter in letters)


def _drawn(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
