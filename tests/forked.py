"""`longlive-rag`, or a script, in a process of its own that is there at once, since it is forked off one that has
imported everything.

What a command imports when it starts takes longer than most tests. Where its start itself is tested, and what it reads
from the environment while it imports, a test starts a Python.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TextIO

import longlive_rag.engines.worker
import longlive_rag.pipeline
import longlive_rag.sessions.making
import longlive_rag.takes.writer
import longlive_rag.weights.load  # noqa: F401  # imported once, not in each process
from longlive_rag.cli.main import main

ROOT = Path(__file__).parents[1]
PATIENCE_S = 600.0


def context() -> ForkServerContext:
    """Whose processes are forked off one that has imported this module."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([__name__])
    with contextlib.chdir(ROOT):  # where it finds this module, whatever folder a test is in
        forkserver.ensure_running()
    return made


class Forked:
    """A command; what `subprocess.Popen` would have started.

    Args:
        words: of `longlive-rag`; or a script of Python, and its words.
        cwd: its folder.
        env: its environment; what is read while modules are imported stays that of the tests.
        streams: the file descriptors of its standard input, output and error; None is closed.
        start_new_session: whether it leads a session of its own.
    """

    def __init__(
        self,
        words: Sequence[object],
        cwd: Path,
        streams: Sequence[int | None],
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
    ) -> None:
        given = [None if number is None else Connection(os.dup(number)) for number in streams]
        arguments = (tuple(map(str, words)), cwd, dict(env or os.environ), given, start_new_session)
        self._process = context().Process(target=_run, args=arguments)
        self._process.start()
        for each in filter(None, given):
            each.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """Its exit code, when it has ended."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("longlive-rag", timeout)
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    words: Sequence[object], cwd: Path, env: Mapping[str, str] | None = None, input: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end: what `subprocess.run` would have returned."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(input.encode())
        given.seek(0)
        code = Forked(words, cwd, [each.fileno() for each in (given, out, err)], env).wait()
        said = []
        for each in (out, err):
            each.seek(0)
            said.append(each.read().decode("utf-8", "replace").replace("\r\n", "\n"))
    return subprocess.CompletedProcess(list(map(str, words)), code, *said)


def _run(
    words: tuple[str, ...], cwd: Path, env: dict[str, str], streams: list[Connection | None], start_new_session: bool
) -> None:
    if start_new_session:
        os.setsid()
    _be_given(streams)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    if words[0].endswith(".py"):
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")
    else:
        sys.argv = ["longlive-rag", *words]
        main()


def _be_given(streams: list[Connection | None]) -> None:
    """The standard streams, as a Python opens them that is started with these."""
    opened: list[TextIO | None] = []
    for number, stream in enumerate(streams):
        if stream is not None:
            os.dup2(stream.fileno(), number)
            stream.close()
            buffered = 1 if number == 2 or os.isatty(number) else -1
            opened.append(open(number, "w" if number else "r", buffered, closefd=False))  # noqa: SIM115  # for good
        else:
            os.close(number)
            opened.append(None)
    sys.stdin, sys.stdout, sys.stderr = opened  # type: ignore[assignment]
