"""Documents that come from outside (records, plans, arms, cues): typed models, or one sentence on what is wrong.

A model of this kind refuses unknown keys and names the nearest known one, takes no text for a number and no number for
text, and keeps the errors with data of the dataclasses inside it.
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
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


class Document(BaseModel):
    """A part of a document; frozen, and with no keys but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Versioned(Document):
    """A whole document, with the format that it is in.

    Attributes:
        format: its number; a reader of `FORMAT` reads all formats up to it.
    """

    FORMAT: ClassVar[int] = 1
    format: int = 1


class Sealed(Versioned):
    """A document that tells whether it is as it was written.

    Attributes:
        checksum: SHA-256 of everything else; older versions wrote none.
    """

    checksum: str | None = None


class BrokenChecksumError(ValueError):
    """A document was changed after it was written."""


def read_document(path: Path, model: type[Model], check: bool = True) -> Model:
    """A document from its JSON file.

    Args:
        check: its checksum, if it has one.

    Raises:
        BrokenChecksumError: if it was changed after it was written.
        ValueError: naming the file, and the key, its value and what would be right.
    """
    content = read_json(path)
    document = parse(content, model, str(path))
    if check and isinstance(document, Sealed) and document.checksum not in (None, checksum_of(content)):
        raise BrokenChecksumError(f"{path} was changed after it was written: its checksum does not match")
    return document


def write_document(path: Path, document: Written, only_set: bool = False) -> Written:
    """Write a document atomically; returns it as it was written, with its checksum if it has one.

    Args:
        only_set: leave out what was never set.

    Raises:
        OSError: if the disk refuses.
    """
    content = document.model_dump(mode="json", exclude_unset=only_set)
    if isinstance(document, Sealed):
        content |= {"format": document.format}
        document = document.model_copy(update={"checksum": checksum_of(content)})
        content["checksum"] = document.checksum
    write_json(path, content)
    return document


def checksum_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a document's plain values, whatever their order, but for its checksum."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: if it can't be read, is too large, or says a thing twice.
    """
    return _read(path, load_json)


def read_toml(path: Path) -> Any:
    """The content of a TOML file, as JSON has it: days and times as text.

    Raises:
        ValueError: if it can't be read, is too large, or says a thing twice.
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
    """Plain data, as JSON has it, into a model or a dataclass.

    Args:
        where: what the data is, such as its file; begins the message.

    Raises:
        FieldError: if it is not that; its field is the path inside the data, such as `request.seed`.
        ValueError: if it is from a newer version.
    """
    newest = getattr(model, "FORMAT", None)
    if newest is not None and isinstance(content, Mapping):
        found = content.get("format", 1)
        if isinstance(found, int) and found > newest:
            raise ValueError(
                f"{where} is of format {found}; this version reads formats up to {newest}: install a newer longlive-rag"
            )
    try:
        return cast(
            Model, _adapter(cast(Hashable, model)).validate_json(json.dumps(content), strict=True, extra="forbid")
        )
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deeply") from error
    except ValidationError as error:
        refuse_broken_text(content, where)
        raise _in_words(error, model, where) from error


def refuse_broken_text(content: Any, where: str) -> None:
    """Raise FieldError if plain data holds half of a character, which JSON can spell and no text has."""
    left: list[tuple[tuple[Part, ...], Any]] = [((), content)]
    while left:
        place, value = left.pop()
        inside = dict(enumerate(value)) if isinstance(value, list) else value if isinstance(value, dict) else {}
        for text in (value, *inside):
            if isinstance(text, str) and any("\ud800" <= letter <= "\udfff" for letter in text):
                field = dotted(place) or "it"
                raise FieldError(field, text, claim=f"{field} holds no UTF-8 text: {text!a}", where=where)
        left += [((*place, part), each) for part, each in inside.items()]


def nearest(name: str, known: Any) -> str:
    """The end of a refusal of `name`: the known name that is nearest, or all of them."""
    names = sorted(map(str, known))
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names)}"


def refuse_unknown(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """FieldError for the first of `names` that isn't known, with the nearest one that is."""
    known = list(known)
    for name in names:
        if name not in known:
            raise FieldError(name, None, nearest(name, known), claim=f"{name} is not known", where=where)


@cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def _in_words(error: ValidationError, model: Any, where: str) -> FieldError:
    """The first of the errors; what is misspelt comes before what is missing for it."""
    first = min(error.errors(include_url=False), key=lambda each: each["type"] not in UNKNOWN)
    place, kind = first["loc"], first["type"]
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
    plain = FieldError(field or "it", value, shown=shown)  # a front end's name for the field isn't the document's
    wanted = first["msg"].replace("Input should be", "it should be")
    return FieldError(plain.field, value, wanted, claim=str(plain), where=where)


def dotted(place: tuple[Part, ...]) -> str:
    """A place inside a document in words, such as `cues[2].prompt`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _names_at(model: Any, place: tuple[Part, ...]) -> list[str]:
    """The keys that are known at a place."""
    for part in place:
        options = [model] if not _parts_of(model) else _parts_of(model)
        known = [_fields(option) for option in options]
        named = next((found[part] for found in known if isinstance(part, str) and part in found), None)
        model = named if named is not None else _item_of(model)
    return sorted({name for option in (_parts_of(model) or [model]) for name in _fields(option)})


def _fields(model: Any) -> dict[str, Any]:
    """Names of a model's or a dataclass's fields, and their types."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        return {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    if isinstance(model, type) and is_dataclass(model):
        hints = get_type_hints(model)
        return {field.name: hints[field.name] for field in fields(model)}
    return {}


def _parts_of(model: Any) -> list[Any]:
    """The alternatives of a union; none where it isn't one."""
    if get_origin(model) is Annotated:
        return _parts_of(get_args(model)[0]) or [get_args(model)[0]]
    return list(get_args(model)) if get_origin(model) in (Union, types.UnionType) else []


def _item_of(model: Any) -> Any:
    """What a list, a tuple or a mapping holds."""
    for option in _parts_of(model) or [model]:
        held = [each for each in get_args(option) if each is not Ellipsis]
        if held:
            return held[-1]
    return None
