"""Early exits of commands: one clear line on stderr and an exit code."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from backbone.errors import FieldError

FAILED = 1
STOPPED = 130
MAX_WORD = 300
KINDS = {
    "float range": ("X", "a number"),
    "float": ("X", "a number"),
    "integer range": ("N", "a whole number"),
    "integer": ("N", "a whole number"),
}
"""Click's names of types: what stands for a value in help, and what a wrong value should have been."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Refused(click.ClickException):
    """The input is invalid: exit code 2, nothing was written."""

    exit_code = 2


class Failed(click.ClickException):
    """Something failed midway: exit code 1."""

    exit_code = FAILED


class Stopped(click.ClickException):
    """The user pressed Ctrl-C: exit code 130."""

    exit_code = STOPPED


@contextmanager
def refuse_bad_input(flags: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn ValueError and OSError into `Refused`, and a full disk into `Failed`.

    Args:
        flags: maps fields to options. A `FieldError` about a field whose option the command has names that option.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise Failed(f"{in_words_of(error)}; free some space and run this again") from error
        message = error.named(_of_command(flags or {})) if isinstance(error, FieldError) else in_words_of(error)
        raise Refused(one_line(message)) from error


def in_words_of(error: Exception) -> str:
    """An error in words: for one of the operating system, what happened and to which file."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    where = error.filename2 or error.filename
    return f"{error.strerror}: {where}" if where else error.strerror


def in_plain_words(message: str) -> str:
    """A message of click, with its words for types replaced by ours."""
    for kind, (_, plain) in KINDS.items():
        message = message.replace(f"is not a valid {kind}", f"is not {plain}")
    return message


def _of_command(flags: Mapping[str, str]) -> dict[str, str]:
    """The flags that the running command has, so that an error never names another command's option."""
    context = click.get_current_context(silent=True)
    options = {option for param in context.command.params for option in param.opts} if context else flags.values()
    return {field: flag for field, flag in flags.items() if flag in options}


def check_writable(path: Path | None, overwrite: bool = True) -> None:
    """Raise ValueError unless a file can be written at `path`, before any work is done; None is always fine.

    Args:
        overwrite: whether it may replace an existing file; if not, the command must have the option --overwrite.
    """
    from longlive_rag.takes.folder import check_no_take_file

    if path is None:
        return
    check_no_take_file(path)
    if path.is_dir():
        raise ValueError(f"{path} can't be written: it is a folder")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path} can't be written: its folder does not exist")
    if not os.access(path.absolute().parent, os.W_OK):
        raise ValueError(f"{path} can't be written: its folder is read-only")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} already exists; choose another name, or add --overwrite")


def one_line(message: str) -> str:
    """Join a message into one line and shorten overlong words."""
    words = (word if len(word) <= MAX_WORD else f"{word[:40]}...{word[-20:]}" for word in message.split())
    return " ".join(words)
