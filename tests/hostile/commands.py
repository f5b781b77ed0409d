"""Commands under test: in this process, or in a child with limits; and what must hold however they end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from longlive_rag.cli.main import main
from longlive_rag.rights.hashing import sha256
from longlive_rag.rights.records import RECORDS, weights_in

Command = tuple[str, ...]
MORE_BYTES, SECONDS, GRACE_SECONDS = 2**30, 10.0, 10.0
KEPT = re.compile("to continue: longlive-rag resume|The same command goes on")
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
TRACEBACK = 99


@dataclass(frozen=True)
class Ended:
    """How a command ended; `hung` if it was still running after `SECONDS` and had made nothing."""

    code: int
    out: str
    err: str
    hung: bool = False
    seconds: float = 0.0


def run_here(command: Command, folder: Path) -> Ended:
    """Run a command in this process, in a folder."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["longlive-rag", *command]
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = _code_of_main()
    finally:
        sys.argv = before
    return Ended(code, out.getvalue(), err.getvalue())


def _code_of_main() -> int:
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return TRACEBACK


def run_in_child(command: Command, folder: Path, streams: Path) -> Ended:
    """Run a command in a forked child, in a folder, with `MORE_BYTES` of memory more than this process has.

    After `SECONDS` it is interrupted, as by Ctrl-C: a take that is merely long is kept then.

    Args:
        streams: a folder for its output.
    """
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_child(command, folder, streams)
    code, interrupted = _wait(child, SECONDS), False
    if code is None:
        interrupted = True
        os.kill(child, signal.SIGINT)
        code = _wait(child, GRACE_SECONDS)
    if code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        code = -signal.SIGKILL
    out, err = ((streams / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    made = KEPT.search(err) or any((folder / "new").rglob("video.mp4"))
    return Ended(code, out, err, interrupted and not made, time.monotonic() - begin)


def _be_the_child(command: Command, folder: Path, streams: Path) -> None:
    try:
        os.chdir(folder)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(streams / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
        sys.argv = ["longlive-rag", *command]
        torch.set_num_threads(1)  # a pool of threads is not there any more after a fork
        limit = _data_bytes() + MORE_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = _code_of_main()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        code = TRACEBACK
    os._exit(code)


def _data_bytes() -> int:
    found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def _wait(child: int, seconds: float) -> int | None:
    """The child's exit code; None while it runs."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


# ---- what must hold ----


def fault(ended: Ended) -> str:
    """What is wrong with how a command ended; empty if nothing is."""
    if ended.hung:
        return f"hung for {SECONDS:g} s"
    if ended.code < 0 or ended.code == TRACEBACK or "Traceback (most" in ended.err + ended.out:
        return f"ended with {ended.code}: {last_line(ended.err)}"
    if "out of memory" in ended.err:
        return f"took {MORE_BYTES / 2**30:g} GiB"
    if ended.code not in (0, 1, 2, 130):
        return f"has exit code {ended.code}: {last_line(ended.err)}"
    if CONTROLS.search(ended.err + ended.out):
        return "printed control characters"
    errors = [line for line in re.split(r"[\n\r]", ended.err) if line.startswith("Error")]
    lines = [line for line in ended.err.rstrip("\n").split("\n") if not line.startswith(("Note: ", "Measured by "))]
    if ended.code == 2 and (len(errors) != 1 or not lines[-1].startswith("Error")):
        return f"did not say in one line what is wrong: {lines[-3:]}"
    return ""


def touched(before: Mapping[str, object], around: Path) -> str:
    """What a command changed in a folder that it had nothing to do with; empty if nothing."""
    now = snapshot(around)
    changed = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
    return f"touched {min(changed)} in {around}" if changed else ""


def snapshot(folder: Path) -> dict[str, object]:
    """What there is in a folder, down to the bytes."""
    found: dict[str, object] = {}
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(base, name)
            stat = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found[str(path.relative_to(folder))] = (stat.st_mode, stat.st_size, stat.st_mtime_ns, content)
    return found


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line for line in reversed(text.split("\n")) if line.strip()), "")


def passed_policy(model: Path) -> str:
    """The first weight file of a model folder whose record does not say, of these very bytes, Apache-2.0 or MIT.

    Looked up here without the code under test's reading of records; empty if there is none.
    """
    files = json.loads((model / RECORDS).read_text())["files"]
    for path in weights_in(model):
        record = files.get(path.relative_to(model).as_posix(), {})
        if record.get("sha256") != sha256(path) or record.get("terms") not in ("Apache-2.0", "MIT"):
            return str(path)
    return ""
