"""Timecodes: how people write a time within a take.

| written | read as |
|---|---|
| `12.5` | seconds |
| `0:12.5` | minutes:seconds |
| `1:02:03.5` | hours:minutes:seconds |
| `00:00:12:08` | SMPTE, hours:minutes:seconds:frames at the take's frame rate (non-drop-frame) |
"""

from __future__ import annotations

import re
from decimal import Decimal

EXAMPLES = "12.5, 0:12.5, 1:02:03.5 or 00:00:12:08"
CLOCK = re.compile(
    r"(?:(?:(?P<hours>[0-9]{1,6}):)?(?P<minutes>[0-9]{1,6}):)?(?P<seconds>[0-9]{1,9}(?:\.[0-9]*)?|\.[0-9]+)"
)
SMPTE = re.compile(r"(?P<hours>[0-9]{1,6}):(?P<minutes>[0-9]{1,6}):(?P<seconds>[0-9]{1,6}):(?P<frames>[0-9]{1,6})")


def parse_timecode(text: str, fps: int | None = None) -> float:
    """Parse a timecode into seconds of the take.

    Args:
        text: a timecode; surrounding whitespace is ignored.
        fps: frames per second of the take, for SMPTE timecodes; None refuses them.

    Raises:
        ValueError: if it is not a timecode or one of its fields is too large; says what is expected.
    """
    word = text.strip()
    if match := SMPTE.fullmatch(word):
        if fps is None:
            raise ValueError(f"{text!r} counts frames, but the frame rate is unknown; write seconds")
        hours, minutes, whole, frames = map(int, match.groups())
        _check_field(text, "minutes", minutes, 60)
        _check_field(text, "seconds", whole, 60)
        _check_field(text, "frames", frames, fps, f" at {fps} frames per second")
        return (((hours * 60 + minutes) * 60 + whole) * fps + frames) / fps
    match = CLOCK.fullmatch(word)
    if match is None:
        raise ValueError(f"{text!r} is not a timecode; write {EXAMPLES}")
    minutes, seconds = int(match["minutes"] or 0), Decimal(match["seconds"])
    if match["hours"] is not None:
        _check_field(text, "minutes", minutes, 60)
    if match["minutes"] is not None:
        _check_field(text, "seconds", seconds, 60)
    return float(Decimal(3600 * int(match["hours"] or 0) + 60 * minutes) + seconds)


def parse_duration(text: str, fps: int | None = None) -> float:
    """Parse a length of time, a number of seconds (which may be out of range) or a timecode, into seconds.

    Args:
        text: a number as `float` reads it, or a timecode; surrounding whitespace is ignored.
        fps: as in `parse_timecode`.

    Raises:
        ValueError: as `parse_timecode` does.
    """
    try:
        return float(text)
    except ValueError:
        return parse_timecode(text, fps)


def format_timecode(seconds: float) -> str:
    """Format seconds as `0:12.5` or `1:02:03.5`, which parses back to the same float.

    Args:
        seconds: finite and not negative.
    """
    total = Decimal(repr(float(seconds)))  # the shortest decimal of this float; everything below is exact
    in_minutes, rest = divmod(total, 60)
    hours, minutes = divmod(int(in_minutes), 60)
    whole, _, fraction = f"{rest:f}".partition(".")
    tail = f"{int(whole):02d}" + (f".{digits}" if (digits := fraction.rstrip("0")) else "")
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def shown_timecode(seconds: float) -> str:
    """Format seconds for reading: like `format_timecode`, but to a tenth of a millisecond, as 1/24 s has no last digit.

    Args:
        seconds: finite and not negative.
    """
    return format_timecode(round(seconds, 4))


def format_smpte(seconds: float, fps: int) -> str:
    """Format seconds as `00:00:12:08`, rounded to the nearest frame.

    Args:
        seconds: finite and not negative.
        fps: frames per second of the take.
    """
    rest, frames = divmod(round(seconds * fps), fps)
    return f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}:{frames:02d}"


def _check_field(text: str, name: str, value: int | Decimal, limit: int, where: str = "") -> None:
    if value >= limit:
        raise ValueError(f"{text!r} is not a timecode: {value} {name}, but there are at most {limit - 1}{where}")
