"""Errors that carry data: a front end's names stand for fields, and for nothing else."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbone.config import ContextConfig
from backbone.errors import FieldError, Name, Words

FIELDS = ("pin", "rope", "window_frames", "memory_frames", "start_image")
NAMES = {field: f"<{number}>" for number, field in enumerate(FIELDS)}
TEXT = st.lists(
    st.one_of(
        st.text(max_size=5),
        st.sampled_from([*FIELDS, "{", "}", "{pin}", "{{rope}}", "%s", " is ", "; ", "takes/a/start_image.png"]),
    ),
    max_size=5,
).map("".join)
PARTS = st.lists(st.one_of(TEXT, st.sampled_from(FIELDS).map(Name)), max_size=6).map(tuple)
WORDS = st.one_of(TEXT, PARTS)


def said(words: Words, names: dict[str, str]) -> str:
    parts = (words,) if isinstance(words, str) else words
    return "".join(part if isinstance(part, str) else names.get(part.field, part.field) for part in parts)


@given(st.sampled_from(FIELDS), TEXT, WORDS)
def test_the_field_and_the_marked_ones_are_renamed_and_the_value_never_is(field, value, wanted):
    error = FieldError(field, value, wanted)
    for names in ({}, NAMES):
        end = f"; {said(wanted, names)}" if wanted else ""
        assert error.named(names) == f"{names.get(field, field)} is {value!r}{end}"
    assert str(error) == error.named({})
    assert error.wanted == said(wanted, {})
    assert (error.field, error.value) == (field, value)


@given(st.sampled_from(FIELDS), PARTS.filter(bool), PARTS, TEXT.filter(bool))
def test_so_it_is_in_any_other_sentence_and_in_its_place(field, claim, wanted, where):
    inside = FieldError(field, None, wanted, claim=claim)
    end = f"; {said(wanted, NAMES)}" if wanted else ""
    assert inside.named(NAMES) == f"{said(claim, NAMES)}{end}"
    assert inside.within(where).named(NAMES) == f"{where}: {inside.named(NAMES)}"
    assert inside.within(where).within("outside").named(NAMES) == f"outside: {where}: {inside.named(NAMES)}"
    shown = FieldError(field, None, wanted, shown=claim)
    assert shown.named(NAMES) == f"{NAMES[field]} is {said(claim, NAMES)}{end}"
    marked = {part.field for part in (*claim, *wanted) if isinstance(part, Name)}
    assert set(inside.fields) == {field, *marked}
    assert inside.fields[0] == field


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "at is missing; go on"),
        ("0:05", "at is '0:05'; go on"),
        (-3.0, "at is -3; go on"),
        (float("nan"), "at is nan; go on"),
        (7, "at is 7; go on"),
        ([3, 2], "at is [3, 2]; go on"),
        (Path("takes/at is 3.png"), "at is takes/at is 3.png; go on"),
    ],
)
def test_values_in_words(value, message):
    assert str(FieldError("at", value, "go on")) == message


def test_it_survives_the_way_between_processes():
    error = FieldError("pin", (2.0, 3.0), ("drop ", Name("exclude")), "2-3 s").within("arm 'a'")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert again.named({"exclude": "--exclude"}) == "arm 'a': pin is 2-3 s; drop --exclude"
        assert (again.field, again.value, again.where) == ("pin", (2.0, 3.0), "arm 'a'")


def test_a_sum_names_its_parts():
    with pytest.raises(FieldError) as refused:
        ContextConfig(window_frames=12, sink_frames=1, memory_frames=12)
    error = refused.value
    assert str(error) == (
        "sink_frames + memory_frames is 1 + 12 = 13, which leaves no local frame in window_frames = 12; "
        "their sum must be below the window"
    )
    assert error.fields == ("window_frames", "sink_frames", "memory_frames")
    names = {"sink_frames": "Sink", "memory_frames": "Memory", "window_frames": "Window"}
    assert error.named(names).startswith("Sink + Memory is 1 + 12 = 13, which leaves no local frame in Window = 12; ")
    with pytest.raises(FieldError) as refused:
        ContextConfig(window_frames=9)
    assert str(refused.value) == (
        "the window leaves 2 local frames (window_frames 9 - sink_frames 1 - memory_frames 6), but a block has "
        "frames_per_block = 3; widen the window to at least 10"
    )
