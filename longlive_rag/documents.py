"""Documents from outside (records, plans, arms, cues), parsed into typed models or refused with a one-line error.

These models refuse unknown keys and suggest the nearest known one, don't convert between text and numbers, and pass on
the `FieldError`s of dataclasses inside them.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
import types
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from backbone.errors import FieldError
from backbone.files import load_json, read_text
from retrieval.files import write_json

Model = TypeVar("Model")
Written = TypeVar("Written", bound=BaseModel)
Part = str | int
KINDS: dict[type, str] = {dict: "an object", list: "a list"}
SHOULD_BE = "Input should be "
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


class Document(BaseModel):
    """A part of a document; frozen, with no extra keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Versioned(Document):
    """A whole document, with its format version.

    Attributes:
        format: version number; a reader whose version is `FORMAT` reads all versions up to it.
    """

    FORMAT: ClassVar[int] = 1
    format: int = 1


class Sealed(Versioned):
    """A document that can tell whether it was changed after it was written.

    Attributes:
        checksum: SHA-256 of everything else; older versions did not write one.
    """

    checksum: str | None = None


class BrokenChecksumError(ValueError):
    """A document was changed after it was written."""


def read_document(path: Path, model: type[Model], check: bool = True) -> Model:
    """Read a document from a JSON file.

    Args:
        check: verify the checksum, if there is one.

    Raises:
        BrokenChecksumError: if it was changed after it was written.
        ValueError: if it is invalid; names the file, the key, its value and what is expected.
    """
    content = read_json(path)
    document = parse(content, model, str(path))
    if check and isinstance(document, Sealed) and document.checksum not in (None, checksum_of(content)):
        raise BrokenChecksumError(f"{path} was changed after it was written: its checksum does not match")
    return document


def write_document(path: Path, document: Written, only_set: bool = False) -> Written:
    """Write a document atomically and return it as written, with its checksum if it is sealed.

    Args:
        only_set: leave out fields that were never set.

    Raises:
        OSError: if it can't be written.
    """
    content = document.model_dump(mode="json", exclude_unset=only_set)
    if isinstance(document, Sealed):
        content |= {"format": document.format}
        document = document.model_copy(update={"checksum": checksum_of(content)})
        content["checksum"] = document.checksum
    write_json(path, content)
    return document


def checksum_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a document's plain values except its checksum, independent of their order."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: if it can't be read, is too large, or has a duplicate key.
    """
    return _read(path, load_json)


def read_toml(path: Path) -> Any:
    """Read a TOML file as JSON types, with dates and times as text.

    Raises:
        ValueError: if it can't be read, is too large, or has a duplicate key.
    """
    return _read(path, lambda text: load_json(json.dumps(tomllib.loads(text), default=str)))


def _read(path: Path, load: Callable[[str], Any]) -> Any:
    try:
        return load(read_text(path))
    except RecursionError as error:
        raise ValueError(f"{path} can't be read: it is nested too deeply") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} can't be read: {reason}") from error


def parse(content: Any, model: type[Model], where: str) -> Model:
    """Parse plain JSON data into a model or a dataclass.

    Args:
        where: what the data is, such as its file; error messages begin with it.

    Raises:
        FieldError: if the data is invalid; its field is the path inside the data, such as `request.seed`.
        ValueError: if it is from a newer version.
    """
    newest = getattr(model, "FORMAT", None)
    if newest is not None and isinstance(content, Mapping):
        found = content.get("format", 1)
        if isinstance(found, int) and found > newest:
            raise ValueError(
                f"{where} has format {found}; this version reads formats up to {newest}: install a newer longlive-rag"
            )
    try:
        return cast(
            Model, _adapter(cast(Hashable, model)).validate_json(json.dumps(content), strict=True, extra="forbid")
        )
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deeply") from error
    except ValidationError as error:
        refuse_broken_text(content, where)
        raise _in_words(error, content, model, where) from error


def refuse_broken_text(content: Any, where: str) -> None:
    """Raise FieldError if plain data contains a lone surrogate, which JSON can express but UTF-8 can't."""
    left: list[tuple[tuple[Part, ...], Any]] = [((), content)]
    while left:
        place, value = left.pop()
        inside = dict(enumerate(value)) if isinstance(value, list) else value if isinstance(value, dict) else {}
        for text in (value, *inside):
            if isinstance(text, str) and any("\ud800" <= letter <= "\udfff" for letter in text):
                field = dotted(place) or "it"
                raise FieldError(field, text, claim=f"{field} is not valid UTF-8: {text!a}", where=where)
        left += [((*place, part), each) for part, each in inside.items()]


def nearest(name: str, known: Any) -> str:
    """Finish the refusal of `name` with the nearest known name, or all known names."""
    names = sorted(map(str, known))
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names)}"


def refuse_unknown(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise FieldError for the first of `names` that isn't known, suggesting the nearest one that is."""
    known = list(known)
    for name in names:
        if name not in known:
            raise FieldError(name, None, nearest(name, known), claim=f"{name} is not known", where=where)


@cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def _in_words(error: ValidationError, content: Any, model: Any, where: str) -> FieldError:
    """The first of the errors in words; unknown keys first, since a misspelt key also makes one missing."""
    errors = sorted(error.errors(include_url=False), key=lambda each: each["type"] not in UNKNOWN)
    first = errors[0]
    place, kind = _place_in(content, first), first["type"]
    field = dotted(place)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        return cause.within(f"{where}, {field}" if place else where)
    if cause is not None:
        return FieldError(field, first["input"], claim=str(cause), where=f"{where}, {field}" if place else where)
    if kind in UNKNOWN:
        wanted = nearest(str(place[-1]), _names_at(model, place[:-1]))
        return FieldError(field, first["input"], wanted, claim=f"{field} is not known", where=where)
    if kind == "missing":
        return FieldError(field, None, claim=f"{field} is missing", where=where)
    value = first["input"]
    shown = None if isinstance(value, str | int | float) else KINDS.get(type(value), "null")
    plain = FieldError(
        field or "it", value, shown=shown
    )  # fixes the text now: a front end's own name for the field would not match the document
    here = [each["msg"] for each in errors if _place_in(content, each) == place]  # of each alternative of a union
    wanted = " or ".join(dict.fromkeys(message.removeprefix(SHOULD_BE) for message in here))
    wanted = f"it should be {wanted}" if first["msg"].startswith(SHOULD_BE) else wanted
    return FieldError(plain.field, value, wanted, claim=str(plain), where=where)


def _place_in(content: Any, error: Any) -> tuple[Part, ...]:
    """Where in a document an error is: pydantic's location without the alternatives of unions that it names as well."""
    place: list[Part] = []
    for number, part in enumerate(error["loc"], start=1):
        is_missing = error["type"] == "missing" and number == len(error["loc"])
        is_key = isinstance(content, Mapping) and part in content
        is_index = isinstance(content, list | tuple) and isinstance(part, int) and part < len(content)
        if is_key or is_index:
            content = content[part]
        if is_key or is_index or is_missing:
            place.append(part)
    return tuple(place)


def dotted(place: tuple[Part, ...]) -> str:
    """Format a place inside a document, such as `cues[2].prompt`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _names_at(model: Any, place: tuple[Part, ...]) -> list[str]:
    """The keys allowed at a place."""
    for part in place:
        options = [model] if not _parts_of(model) else _parts_of(model)
        known = [_fields(option) for option in options]
        named = next((found[part] for found in known if isinstance(part, str) and part in found), None)
        model = named if named is not None else _item_of(model)
    return sorted({name for option in (_parts_of(model) or [model]) for name in _fields(option)})


def _fields(model: Any) -> dict[str, Any]:
    """The field names of a model or dataclass, with their types."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        return {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    if isinstance(model, type) and is_dataclass(model):
        hints = get_type_hints(model)
        return {field.name: hints[field.name] for field in fields(model)}
    return {}


def _parts_of(model: Any) -> list[Any]:
    """The alternatives of a union; empty if it isn't one."""
    if get_origin(model) is Annotated:
        return _parts_of(get_args(model)[0]) or [get_args(model)[0]]
    return list(get_args(model)) if get_origin(model) in (Union, types.UnionType) else []


def _item_of(model: Any) -> Any:
    """The type of the items of a list, tuple or mapping."""
    for option in _parts_of(model) or [model]:
        held = [each for each in get_args(option) if each is not Ellipsis]
        if held:
            return held[-1]
    return None
