"""`longlive-rag` in a process of its own that is killed at one of its file operations."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from longlive_rag.cli import session
from longlive_rag.cli.main import main
from longlive_rag.sessions.directed_take import DirectedTake
from tests.forked import context

NEVER, ANYWHERE = -1, "anywhere"
WRITES = os.O_WRONLY | os.O_RDWR
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
BLOCK_S = 0.2


def start(
    folder: Path, *arguments: object, number: int = NEVER, inside: str = ANYWHERE
) -> tuple[BaseProcess, Connection]:
    """Begin a command; what it says goes to `folder/said`, how many operations it made to `folder/operations`.

    The process is forked off one that has imported everything, so that a kill hits work.

    Args:
        folder: it runs here.
        arguments: of `longlive-rag`.
        number: it is killed before this operation. They count from 0; what counts changes something below `folder`.
        inside: a method of `DirectedTake`, within which alone they count, and after which it is killed at the latest.

    Returns:
        The process, and a pipe to its standard input.
    """
    forked = context()
    reader, writer = forked.Pipe(duplex=False)
    process = forked.Process(target=_run, args=(folder, tuple(map(str, arguments)), reader, number, inside))
    process.start()
    reader.close()
    return process, writer


def _run(folder: Path, arguments: tuple[str, ...], typed: Connection, number: int, inside: str) -> None:
    os.chdir(folder)
    sys.argv = ["longlive-rag", *arguments]
    sys.stdin = os.fdopen(typed.fileno(), closefd=False)
    sys.stdout = sys.stderr = Path("said").open("w", buffering=1)  # noqa: SIM115  # for good
    session._Screen.show = _slowly(session._Screen.show)  # type: ignore[method-assign]
    death = _Death(number, inside)
    try:
        main()
    finally:
        death.near = False
        Path("operations").write_text(str(death.operations))


def _slowly(show: Callable[..., None]) -> Callable[..., None]:
    """At a pace at which a session can be directed."""

    def paced(*arguments: object) -> None:
        show(*arguments)
        time.sleep(BLOCK_S)

    return paced


class _Death:
    """Comes before the operation of this number."""

    def __init__(self, number: int, inside: str) -> None:
        self._number, self._here = number, f"{Path.cwd()}{os.sep}"
        self.operations, self.near = 0, inside == ANYWHERE
        if inside != ANYWHERE:
            setattr(DirectedTake, inside, self._watched(getattr(DirectedTake, inside)))
        sys.addaudithook(self._hear)

    def _watched(self, method: Callable[..., object]) -> Callable[..., object]:
        def watched(*arguments: object) -> object:
            self.near = True
            following = method(*arguments)
            self.near = False
            if self._number != NEVER:
                self._die()
            return following

        return watched

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.near or not (event in CHANGES or (event == "open" and arguments[2] & WRITES)):
            return
        if not isinstance(arguments[0], int) and os.path.abspath(os.fsdecode(arguments[0])).startswith(self._here):
            if self.operations == self._number:
                self._die()
            self.operations += 1

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
