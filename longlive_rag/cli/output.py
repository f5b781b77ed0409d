"""The door to the terminal: control characters are shown, not obeyed, and output that goes nowhere harms nothing."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

# All but \t, \n and \r, which our own progress bars use; and halves of characters, which can't be encoded.
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    """Text with control characters as `\\u001b`, which JSON reads as what they were."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class SafeOutput:
    """A text stream through which whatever others wrote (prompts, records, names) can be printed.

    Args:
        stream: where to.

    Attributes:
        terminal: the stream itself, for those who draw with control characters of their own.
        lost: why nothing is written any more; None while it is.
    """

    def __init__(self, stream: TextIO) -> None:
        self.terminal = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write text; once the other end is gone or full, nothing."""
        if self.lost is None:
            try:
                self.terminal.write(shown(text))
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """As of a stream."""
        if self.lost is None:
            try:
                self.terminal.flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        """What is in the buffer goes nowhere, so that the interpreter does not fail on it at the end."""
        self.lost = error
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.terminal.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)


@contextmanager
def safe_output() -> Iterator[None]:
    """Standard streams that are safe, for the `with` body.

    Raises:
        SystemExit: at the end, if what should be on standard output is not: 1.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    out, err = SafeOutput(sys.stdout), SafeOutput(sys.stderr)
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
    if out.lost is not None and out.lost.errno != errno.EPIPE:  # a reader that has seen enough is no fault
        print(f"Error: standard output can't be written: {out.lost.strerror}", file=err)
        sys.exit(1)


def _open_closed() -> None:
    """A standard stream that was closed (`<&-`) leads nowhere; a file that is opened later would take its place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                os.fstat(number)
                continue
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
