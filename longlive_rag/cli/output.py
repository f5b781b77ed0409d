"""Safe output to the terminal: control characters are shown, not obeyed, and a closed stream is not an error."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

# All but \t, \n and \r, which our own progress bars use; and lone surrogates, which can't be encoded.
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    """Escape control characters as in `\\u001b`, which JSON reads back as the original characters."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class SafeOutput:
    """A text stream for untrusted text such as prompts, records and names.

    Args:
        stream: the stream to write to.

    Attributes:
        terminal: the stream itself, for callers that draw with control characters of their own.
        lost: the error after which nothing more is written; None if there was none.
    """

    def __init__(self, stream: TextIO) -> None:
        self.terminal = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write text; after an error (the reader has gone, the disk is full), do nothing."""
        if self.lost is None:
            try:
                self.terminal.write(shown(text))
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream; after an error, do nothing."""
        if self.lost is None:
            try:
                self.terminal.flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        """Redirect to the null device, so that the interpreter can flush its buffer at exit without failing."""
        self.lost = error
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.terminal.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)


@contextmanager
def safe_output() -> Iterator[None]:
    """Make the standard streams safe inside the `with` body.

    Raises:
        SystemExit: at the end, with code 1, if not everything could be written to standard output.
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
    if out.lost is not None and out.lost.errno != errno.EPIPE:  # EPIPE: the reader has seen enough
        print(f"Error: standard output can't be written: {out.lost.strerror}", file=err)
        sys.exit(1)


def _open_closed() -> None:
    """Open closed standard streams (`<&-`) on the null device; otherwise a later file would get their descriptor."""
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
