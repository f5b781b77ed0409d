"""Documents from outside: typed, each key once, and one sentence on what is wrong."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from backbone.errors import FieldError
from longlive_rag.config import TakeRequest
from longlive_rag.documents import Versioned, load_json, parse, read_document, write_document


class Record(Versioned):
    """A document for these tests."""

    request: TakeRequest
    words: dict[str, list[int]] = Field(default_factory=dict)
    note: str | None = None


REQUEST = TakeRequest("a red circle walks in a meadow", 5.0)


def refusal(content: Any) -> str:
    with pytest.raises(ValueError, match="take") as error:
        parse(content, Record, "take.json")
    return str(error.value)


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def changed(**changes: Any) -> dict[str, Any]:
    return {"request": json.loads(json.dumps(asdict(REQUEST))) | changes}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    record = Record(request=REQUEST, words={"a": [1, 2]}, note="ü")
    write_document(tmp_path / "record.json", record)
    assert read_document(tmp_path / "record.json", Record) == record


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(sed=1), "take.json: request.sed is not known; did you mean 'seed'?"),
        (changed(memory={"gpu_gb": 3}), "take.json: request.memory.gpu_gb is not known; did you mean 'gpu_gib'?"),
        ({"reqest": {}}, "take.json: reqest is not known; did you mean 'request'?"),
        (
            changed(cues=[{"seconds": 1.0, "zebra": "x"}]),
            "take.json: request.cues[0].zebra is not known; it has cut, prompt, seconds",
        ),
        (changed(seed="1"), "take.json: request.seed is '1'; it should be a valid integer"),
        (changed(seed=-1), "take.json, request: seed is -1; it must be a whole number from 0 to 2**64 - 1"),
        (
            changed(memory={"new_view": "x"}),
            "take.json: request.memory.new_view is 'x'; it should be a valid number or 'steps'",
        ),
        (
            changed(memory={"gpu_gib": [3]}),
            "take.json: request.memory.gpu_gib is a list; it should be a valid number or 'auto'",
        ),
        (
            changed(memory={"steering": [{"seconds": 1.0, "verb": "establish", "new_view": {}}]}),
            "take.json: request.memory.steering[0].new_view is an object; it should be a valid number or 'steps'",
        ),
        (changed(memory={"anchor": [3.0]}), "take.json: request.memory.anchor[1] is missing"),
        (changed(memory=[]), "take.json: request.memory is a list; it should be an object"),
        ({}, "take.json: request is missing"),
        ([], "take.json: it is a list; it should be an object"),
        ({"format": 2}, "take.json has format 2; this version reads formats up to 1: install a newer longlive-rag"),
        (changed() | {"words": {"a": [None]}}, "take.json: words.a[0] is null; it should be a valid integer"),
        (changed() | {"note": "\ud800"}, r"take.json: note is not valid UTF-8: '\ud800'"),
        (changed() | {"note": nested(5000)}, "take.json is nested too deeply"),
    ],
)  # fmt: skip
def test_refusals_name_the_key_its_value_and_what_would_be_right(content: Any, message: str) -> None:
    assert refusal(content) == message


def test_a_field_error_of_a_dataclass_keeps_its_data() -> None:
    with pytest.raises(FieldError) as error:
        parse(changed(memory={"gpu_gib": -1.0}), Record, "take.json")
    assert (error.value.field, error.value.value) == ("gpu_gib", -1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ('{"a": NaN}', "NaN is not a finite number"),
        ('{"a": 1e999}', "1e999 is not a finite number"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)
def test_text_that_says_too_much(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("*", ".")):
        load_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["request", "words", "prompt", "memory", "x"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(JSON)
def test_any_data_is_read_or_refused_by_a_field_error(content: Any) -> None:
    with suppress(FieldError):
        parse(content, Record, "it")
