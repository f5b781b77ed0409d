"""API keys, with their scopes and quotas."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from backbone.errors import FieldError, Name
from longlive_rag.documents import Document, Versioned, parse, read_toml

Scope = Literal["read", "make", "admin"]
SHORTEST = 16
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
SHA256 = re.compile(r"[0-9a-f]{64}")
AtLeastOne = Annotated[int, Field(ge=1)]
Above = Annotated[float, Field(gt=0)]


class ApiKey(Document):
    """A key, and what it allows.

    Attributes:
        name: its owner's name, and the name of the folder with their videos.
        key, sha256: the secret itself, or its SHA-256 in hexadecimal digits; one of them.
        scopes: `read` sees videos, `make` makes and deletes them, `admin` sees everybody's, and the metrics.
        takes_at_once: videos that are queued or being made; None is unlimited, as below.
        seconds_a_day: seconds of video per day (UTC).
        disk_gib: disk space of all its videos.
        requests_a_minute: on average; a third of them may come at once.
    """

    name: str
    key: str | None = None
    sha256: str | None = None
    scopes: tuple[Scope, ...] = ("read", "make")
    takes_at_once: AtLeastOne | None = None
    seconds_a_day: Above | None = None
    disk_gib: Above | None = None
    requests_a_minute: AtLeastOne | None = 600

    @property
    def digest(self) -> str:
        """SHA-256 of the secret, in hexadecimal digits."""
        return self.sha256 if self.key is None else digest_of(self.key)  # type: ignore[return-value]


class KeyFile(Versioned):
    """A TOML file of keys, with a table `[[keys]]` for each."""

    keys: tuple[ApiKey, ...]


class Keys:
    """All keys.

    Args:
        keys: at least one.

    Raises:
        FieldError: if there is none, one is invalid, or two have the same name or secret.
    """

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self.all = tuple(keys)
        if not self.all:
            raise FieldError("keys", None, "give --api-key KEY, or a file of keys with --keys FILE", "missing")
        for number, key in enumerate(self.all):
            _check(key, f"keys[{number}]")
        for field, values in (("name", [key.name for key in self.all]), ("key", [key.digest for key in self.all])):
            if len(set(values)) < len(values):
                raise FieldError(field, None, claim=f"two keys have the same {field}")
        self._by_digest = {key.digest: key for key in self.all}

    def of(self, secret: str) -> ApiKey | None:
        """The key with this secret, or None. It is looked up by hash, so timing reveals nothing about the secret."""
        return self._by_digest.get(digest_of(secret))


def read_keys(path: Path) -> Keys:
    """Keys from a TOML file.

    Raises:
        ValueError: naming the file, the field and what would be right.
    """
    try:
        return Keys(parse(read_toml(path), KeyFile, str(path)).keys)
    except FieldError as error:
        raise error if error.where else error.within(str(path)) from error


def digest_of(secret: str) -> str:
    """SHA-256 of a secret, in hexadecimal digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def check_secret(secret: str, field: str) -> None:
    """Raise FieldError about `field` unless a secret is long enough and can be sent in a header."""
    if len(secret) < SHORTEST or not secret.isascii() or not secret.isprintable():
        claim = (Name(field), f" has {len(secret)} characters")  # a secret is not shown
        raise FieldError(field, None, f"it must have {SHORTEST} or more, all printable ASCII", claim=claim)


def _check(key: ApiKey, where: str) -> None:
    if not NAME.fullmatch(key.name):
        wanted = "use at most 40 lowercase letters, digits, _ and -, such as team-a"
        raise FieldError(f"{where}.name", key.name, wanted)
    if (key.key is None) == (key.sha256 is None):
        raise FieldError(f"{where}.key", None, claim=f"{where} must have either a key or its sha256")
    if key.key is not None:
        check_secret(key.key, f"{where}.key")
    if key.sha256 is not None and not SHA256.fullmatch(key.sha256):
        raise FieldError(f"{where}.sha256", key.sha256, "it must be 64 hexadecimal digits")
    if not key.scopes:
        raise FieldError(f"{where}.scopes", None, "name at least one of read, make, admin", "empty")
