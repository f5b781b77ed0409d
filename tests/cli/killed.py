"""`longlive-rag` that is killed at one of its file operations: `python -m tests.cli.killed NUMBER INSIDE ARGUMENT...`.

What counts is what changes something below the working folder, from 0 on; a negative NUMBER never comes. INSIDE is
`anywhere`, or a method of `DirectedTake`: only within it operations count, and when it returns it is over, too. A live
session has a pace that a script can follow. At its end, how many there were is written to `operations`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from longlive_rag.cli import session
from longlive_rag.cli.main import main
from longlive_rag.sessions.directed_take import DirectedTake

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
BLOCK_S = 0.2


class Death:
    """Comes before the operation of this number."""

    def __init__(self, number: int) -> None:
        self._number, self._here = number, f"{Path.cwd()}{os.sep}"
        self.operations = 0
        self.near = False
        sys.addaudithook(self._hear)

    def inside(self, method: str) -> None:
        """Operations count within a method of `DirectedTake`."""
        original = getattr(DirectedTake, method)

        def watched(*arguments):
            self.near = True
            following = original(*arguments)
            self.near = False
            if self._number >= 0:
                self._die()
            return following

        setattr(DirectedTake, method, watched)

    def _hear(self, event: str, arguments: tuple) -> None:
        if self.near and (event in CHANGES or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            if isinstance(arguments[0], int) or not os.path.abspath(os.fsdecode(arguments[0])).startswith(self._here):
                return
            if self.operations == self._number:
                self._die()
            self.operations += 1

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


def pace(show):
    def slowly(*arguments):
        show(*arguments)
        time.sleep(BLOCK_S)

    return slowly


if __name__ == "__main__":
    number, inside = int(sys.argv[1]), sys.argv[2]
    del sys.argv[1:3]
    session._Screen.show = pace(session._Screen.show)
    death = Death(number)
    if inside == "anywhere":
        death.near = True
    else:
        death.inside(inside)
    try:
        main()
    finally:
        death.near = False
        Path("operations").write_text(str(death.operations))
