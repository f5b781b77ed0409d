"""Knobs: a dataclass checks itself by what it declares, and says what would be right."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal

import pytest

from backbone.config import ContextConfig, SamplerConfig
from backbone.errors import FieldError
from backbone.knobs import Knob, check_knobs, knobs_of
from longlive_rag.config import CheckpointConfig, MemoryConfig, OutputConfig


@dataclass(frozen=True)
class Settings:
    """A dataclass for these tests."""

    count: Annotated[int, Knob("--count", "How many.", at_least=1)] = 3
    share: Annotated[float, Knob("--share", "Of what.", at_least=0, below=1)] = 0.5
    size: Annotated[float | None, Knob("--size", "How large.", above=0, unit="GiB")] = None
    speed: Annotated[float | Literal["full"] | None, Knob("--speed", "How fast.", at_least=0, word="full")] = None
    kind: Annotated[Literal["a", "b"], Knob("--kind", "Which.")] = "a"
    words: Annotated[tuple[str, ...], Knob("--words", "Any.")] = ()
    on: Annotated[bool, Knob("--on", "Whether.")] = True
    inner: int = 0

    def __post_init__(self) -> None:
        check_knobs(self)


def test_a_knob_knows_its_field() -> None:
    knobs = knobs_of(Settings)
    assert list(knobs) == ["count", "share", "size", "speed", "kind", "words", "on"]
    assert (knobs["size"].name, knobs["size"].type, knobs["size"].default) == ("size", float, None)
    assert (knobs["speed"].type, knobs["speed"].word) == (float, "full")
    assert knobs["kind"].choices == ("a", "b")
    assert [name for name, knob in knobs.items() if knob.repeats] == ["words"]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"count": 0}, "it must be a whole number, 1 or more"),
        ({"count": 1.5}, "it must be a whole number, 1 or more"),
        ({"count": True}, "it must be a whole number, 1 or more"),
        ({"count": "3"}, "it must be a whole number, 1 or more"),
        ({"share": 1}, "it must be a number from 0 to below 1"),
        ({"share": math.nan}, "it must be a number from 0 to below 1"),
        ({"size": 0.0}, "it must be a number of GiB above 0"),
        ({"size": math.inf}, "it must be a number of GiB above 0"),
        ({"speed": "half"}, "it must be full, or a number, 0 or more"),
        ({"size": "full"}, "it must be a number of GiB above 0"),
        ({"kind": "c"}, "it must be one of a, b"),
        ({"kind": 5}, "it must be one of a, b"),
        ({"on": 1}, "it must be true or false"),
    ],
)
def test_what_can_not_be_is_refused_by_field_and_value(changes: dict[str, Any], wanted: str) -> None:
    with pytest.raises(FieldError) as error:
        Settings(**changes)
    assert (error.value.field, error.value.wanted) == (next(iter(changes)), wanted)


def test_what_can_be_is_taken() -> None:
    assert Settings(count=1, share=0, size=2, kind="b", on=False).share == 0
    assert [Settings(speed=speed).speed for speed in ("full", 0.5, None)] == ["full", 0.5, None]


def test_every_knob_of_a_take_says_what_it_does_and_its_default_is_allowed() -> None:
    flags = []
    for config in (ContextConfig, MemoryConfig, SamplerConfig, OutputConfig, CheckpointConfig):
        declared = knobs_of(config)
        for field in fields(config):
            assert field.default is not MISSING
            if field.name in declared:
                knob = declared[field.name]
                assert knob.help.endswith(".")
                knob.check(field.default)
                flags += [knob.flag, *([knob.was] if knob.was else [])]
    assert len(flags) == len(set(flags)) >= 30
