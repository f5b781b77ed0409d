"""Timecodes, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longlive_rag.timecode import format_smpte, format_timecode, parse_duration, parse_timecode, shown_timecode

RATES = st.sampled_from([1, 8, 12, 16, 24, 25, 30, 50, 60, 120])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12.5", 12.5),
        ("12", 12.0),
        (" 12. ", 12.0),
        (".5", 0.5),
        ("3600", 3600.0),
        ("0:12.5", 12.5),
        ("90:00", 5400.0),
        ("1:02:03.5", 3723.5),
        ("00:00:12:08", 12.5),
        ("00:00:00:15", 15 / 16),
        ("10:00:00:00", 36000.0),
    ],
)
def test_what_people_write(text: str, seconds: float) -> None:
    assert parse_timecode(text, 16) == seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a timecode; write 12.5, 0:12.5, 1:02:03.5 or 00:00:12:08"),
        ("soon", "'soon' is not a timecode"),
        ("-3", "'-3' is not a timecode"),
        ("1e3", "'1e3' is not a timecode"),
        ("nan", "'nan' is not a timecode"),
        ("1,5", "'1,5' is not a timecode"),
        ("1:", "'1:' is not a timecode"),
        ("1:2:3:4:5", "is not a timecode; write"),
        ("00:00:12;08", "is not a timecode; write"),
        ("١٢", "is not a timecode; write"),
        ("9" * 400, "is not a timecode; write"),
        ("0:60", "60 seconds, but there are at most 59"),
        ("1:60:00", "60 minutes, but there are at most 59"),
        ("00:00:60:00", "60 seconds, but there are at most 59"),
        ("00:00:12:16", "16 frames, but there are at most 15 at 16 frames per second"),
    ],
)
def test_what_is_no_timecode(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="is not a timecode") as refused:
        parse_timecode(text, 16)
    assert message in str(refused.value)


@given(st.floats(min_value=0, max_value=86400), RATES)
def test_any_second_is_read_as_it_was_written(seconds: float, fps: int) -> None:
    assert parse_timecode(format_timecode(seconds), fps) == seconds


@given(st.integers(min_value=0, max_value=86400 * 16), RATES)
def test_smpte_names_every_frame(frame: int, fps: int) -> None:
    text = format_smpte(frame / fps, fps)
    assert round(parse_timecode(text, fps) * fps) == frame
    assert format_smpte(parse_timecode(text, fps), fps) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1e3", 1000), ("-3", -3), ("1:30", 90), (" 0:01:30 ", 90), ("00:01:30:08", 90.5), (".5", 0.5)],
)
def test_durations_are_numbers_or_timecodes(text: str, seconds: float) -> None:
    assert parse_duration(text, 16) == seconds


@pytest.mark.parametrize("text", ["soon", "1:60", "-1:30", "00:01:30:16", "90s", ""])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a timecode"):
        parse_duration(text, 16)


def test_how_they_are_written() -> None:
    assert [format_timecode(seconds) for seconds in (0, 12.5, 60, 3723.5)] == ["0:00", "0:12.5", "1:00", "1:02:03.5"]
    assert format_smpte(12.5, 16) == "00:00:12:08"


@pytest.mark.parametrize(("seconds", "text"), [(47 / 24, "0:01.9583"), (1 / 16, "0:00.0625"), (59.99999, "1:00")])
def test_what_is_shown_has_no_endless_digits(seconds: float, text: str) -> None:
    assert shown_timecode(seconds) == text
