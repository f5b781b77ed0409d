"""Errors that carry data: the field, its value and what is expected. Front ends substitute their own field names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

MAX_REASON = 200


@dataclass(frozen=True)
class Name:
    """A field's name inside a message: the only part that a front end replaces."""

    field: str


Words = str | tuple[str | Name, ...]


class FieldError(ValueError):
    """A field has an invalid value. As text: "FIELD is VALUE; WANTED".

    Args:
        field: name of the field, as in the request dataclasses.
        value: its value; None if it is missing.
        wanted: what is expected.
        shown: what follows "FIELD is", if that is more than the value, such as its unit or what is wrong with it.
        claim: what comes before WANTED, if it isn't "FIELD is VALUE".
        where: what the message is about, such as "arm 'k3'"; it comes first, with a colon.

    Attributes:
        field, value, where: as given.
    """

    def __init__(
        self,
        field: str,
        value: object,
        wanted: Words = "",
        shown: Words | None = None,
        claim: Words | None = None,
        where: str = "",
    ) -> None:
        super().__init__(field, value, wanted, shown, claim, where)  # all arguments, so that it can be pickled
        self.field, self.value, self.where = field, value, where
        self._wanted = _parts(wanted)
        shown = _in_words(value) if shown is None else shown
        self._claim = (Name(field), " is ", *_parts(shown)) if claim is None else _parts(claim)

    @property
    def wanted(self) -> str:
        """What is expected, with the fields' own names; empty if the rest of the message says it."""
        return _joined(self._wanted, {})

    @property
    def fields(self) -> tuple[str, ...]:
        """The field, and any others named in the message."""
        others = (part.field for part in (*self._claim, *self._wanted) if isinstance(part, Name))
        return tuple(dict.fromkeys((self.field, *others)))

    def named(self, names: Mapping[str, str]) -> str:
        """The message with a front end's names for fields; fields without one keep their own."""
        said = _joined(self._claim, names)
        said = f"{said}; {_joined(self._wanted, names)}" if self._wanted else said
        return f"{self.where}: {said}" if self.where else said

    def within(self, where: str) -> FieldError:
        """The same error, with `where` put in front of its context."""
        where = f"{where}: {self.where}" if self.where else where
        return FieldError(self.field, self.value, self._wanted, claim=self._claim, where=where)

    def __str__(self) -> str:
        return self.named({})


@contextmanager
def refused_as(what: str) -> Iterator[None]:
    """Turn any exception in the `with` body into a ValueError: on bad files, libraries raise all sorts.

    Args:
        what: the file or folder being read, for the message.
    """
    try:
        yield
    except (FieldError, MemoryError):
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")[:MAX_REASON]
        raise ValueError(f"{what} can't be used ({type(error).__name__}: {reason})") from error


def _parts(words: Words) -> tuple[str | Name, ...]:
    if isinstance(words, str):
        return (words,) if words else ()
    return words


def _joined(parts: tuple[str | Name, ...], names: Mapping[str, str]) -> str:
    return "".join(names.get(part.field, part.field) if isinstance(part, Name) else part for part in parts)


def _in_words(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, str):
        return repr(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
