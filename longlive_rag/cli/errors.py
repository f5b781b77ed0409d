"""How commands end early: one clear line on stderr and an exit code."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from re import compile as regex
from re import escape

import click

STOPPED = 130
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Refused(click.ClickException):
    """Input that can't be done: exit code 2, nothing was written."""

    exit_code = 2


class Failed(click.ClickException):
    """Something gave out midway: exit code 1."""

    exit_code = 1


class Stopped(click.ClickException):
    """The user pressed Ctrl-C: exit code 130."""

    exit_code = STOPPED


@contextmanager
def refuse_bad_input(flags: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn ValueError and OSError into `Refused`, a disk that is full into `Failed`.

    Args:
        flags: field name -> option, so that messages speak of what the user typed.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            where = error.filename2 or error.filename
            raise Failed(f"{error.strerror}{f': {where}' if where else ''}; make room, and run this again") from error
        raise Refused(with_flags(one_line(str(error)), flags or {})) from error


def check_writable(path: Path | None) -> None:
    """Raise ValueError unless a file can be written at `path`: better now than after the work; None asks nothing."""
    from longlive_rag.takes.folder import check_no_take_file

    if path is None:
        return
    check_no_take_file(path)
    if path.is_dir():
        raise ValueError(f"{path} can't be written: it is a folder")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path} can't be written: its folder is not there")


def with_flags(message: str, flags: Mapping[str, str]) -> str:
    """Name options where a message names fields: a field with an underscore anywhere, others at the start."""
    for field, flag in sorted(flags.items(), key=lambda item: -len(item[0])):
        where = rf"(?<![\w-]){escape(field)}\b" if "_" in field else rf"^{escape(field)}(?= is )"
        message = regex(where).sub(flag, message)
    return message


def one_line(message: str) -> str:
    """A message without line breaks."""
    return " ".join(message.split())
