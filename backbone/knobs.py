"""Knobs: settings declared once, at their field, with name, type, default, bounds and help.

    window_frames: Annotated[int, Knob("--window", "Attention window, in latent frames.", at_least=1)] = 12

Command-line options, keys of arms files, form fields and tables in the docs are generated from the declaration, and
the dataclass validates itself against it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, fields, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from backbone.errors import FieldError


@dataclass(frozen=True)
class Knob:
    """How a field is set by users.

    Attributes:
        flag: command-line option, such as `--window`.
        help: what it does, in a sentence.
        at_least, above, at_most, below: bounds of a number; None is no bound.
        unit: unit of a number, in words: GiB, seconds, frames, pixels.
        word: a word that is also allowed instead of a number, such as `auto`; None if there is none.
        off: help of the option --no-..., which sets 0; None if there is no such option.
        was: old name of the option.
        needs_memory: whether it has no effect when memory is off.
        of_search: whether it only affects memory search.
        name, type, default: those of the field; filled in by `knobs_of`.
    """

    flag: str
    help: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    unit: str | None = None
    word: str | None = None
    off: str | None = None
    was: str | None = None
    needs_memory: bool = False
    of_search: bool = False
    name: str = ""
    type: Any = None
    default: Any = None

    @property
    def key(self) -> str:
        """The key in arms files: the option without its leading dashes."""
        return self.flag.removeprefix("--")

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values of a choice; empty if it is not a choice."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def repeats(self) -> bool:
        """Whether it holds any number of spans or strings."""
        items = get_args(self.type)
        return get_origin(self.type) is tuple and len(items) == 2 and items[1] is Ellipsis and items[0] is not int

    def check(self, value: Any) -> None:
        """Raise FieldError unless a value has the field's type and is within its bounds."""
        if (value is None and self.default is None) or (self.word is not None and value == self.word):
            return
        if self.choices:
            if value not in self.choices:
                raise FieldError(self.name, value, f"it must be one of {', '.join(self.choices)}")
        elif self.type in (int, float):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole or (self.type is float and isinstance(value, float))) or not self._is_within(value):
                raise FieldError(self.name, value, self._wanted)
        elif self.type in (bool, str) and not isinstance(value, self.type):
            raise FieldError(self.name, value, "it must be true or false" if self.type is bool else "it must be text")

    def _is_within(self, value: float) -> bool:
        return (
            (isinstance(value, int) or math.isfinite(value))
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    @property
    def _wanted(self) -> str:
        kind = "a whole number" if self.type is int else "a number"
        kind = f"{kind} of {self.unit}" if self.unit else kind
        kind = f"{self.word}, or {kind}" if self.word else kind
        low = self.at_least if self.above is None else self.above
        high = self.at_most if self.below is None else self.below
        if low is not None and high is not None:
            begin = f"above {low:g}" if self.above is not None else f"{low:g}"
            return f"it must be {kind} from {begin} to {'below ' if self.below is not None else ''}{high:g}"
        if low is None:
            return f"it must be {kind}"
        return f"it must be {kind} above {low:g}" if self.above is not None else f"it must be {kind}, {low:g} or more"


@cache
def knobs_of(config: Any) -> dict[str, Knob]:
    """The knobs of a dataclass by field name, in order."""
    hints, found = get_type_hints(config, include_extras=True), {}
    for each in fields(config):
        for fact in getattr(hints[each.name], "__metadata__", ()):
            if isinstance(fact, Knob):
                kind = _plain(get_args(hints[each.name])[0], fact.word)
                found[each.name] = replace(fact, name=each.name, type=kind, default=each.default)
    return found


def check_knobs(config: Any) -> None:
    """Raise FieldError unless every knob of a dataclass instance has its type and is within its bounds."""
    for name, declared in knobs_of(cast("Hashable", type(config))).items():
        declared.check(getattr(config, name))


def _plain(hint: Any, word: str | None) -> Any:
    """The type of a field without the alternatives None and `word`."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    others = [each for each in get_args(hint) if each is not NoneType and get_args(each) != (word,)]
    return others[0] if len(others) == 1 else hint
