"""A day at the GPU in one run: steps that each measure one thing, a JSON file and a page that grow with every step.

The steps run in a process of their own, so that one that hangs or crashes takes no other along: it is ended, what
happened is recorded, and a fresh process goes on. What is done is kept; run again with the same folder, the report
goes on with what is missing.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from backbone.errors import FieldError
from longlive_rag.diagnostics.gpu_page import write_page
from longlive_rag.diagnostics.gpu_steps import STEPS, MakeTake, Task
from longlive_rag.documents import Document, Versioned, read_document, write_document

REPORT = "report.json"
PATIENCE, GRACE_S = 1.5, 30
"""A step is ended when it has taken so many times what it was given and that long, or the budget is spent."""
Say = Callable[[str], None]


class StepRecord(Document):
    """What became of a step: how long it took and what it measured, or why it did not."""

    status: Literal["done", "failed", "skipped"]
    reason: str | None = None
    seconds: float = 0.0
    result: dict[str, Any] | None = None


class GpuReport(Versioned):
    """All steps until now, and what they were run on."""

    shape: str
    device: str
    dtype: str
    steps: dict[str, StepRecord] = Field(default_factory=dict)

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """What was measured, by step."""
        return {name: step.result for name, step in self.steps.items() if step.result is not None}


@dataclass(frozen=True)
class Asked:
    """What is to be measured.

    Attributes:
        folder: of the report.
        shape: of the backbone, a key of `subjects.SHAPES`.
        device, device_name: where the transformer runs, and what that is called.
        dtype: of the transformer.
        minutes: for all steps together.
        steps: names of those to run; empty means all.
        take_seconds: length of the takes that are made end to end, where there is time for it.
        alone: run the steps in a process of their own.
    """

    folder: Path
    shape: str
    device: str
    device_name: str
    dtype: str
    minutes: float
    steps: tuple[str, ...] = ()
    take_seconds: float = 30.0
    alone: bool = True


def run_report(asked: Asked, make_take: MakeTake, say: Say) -> GpuReport:
    """Run the steps that are missing; the report and its page are written after each.

    Args:
        make_take: makes a take as `generate` does; a function that another process can import.
        say: takes a line on what is going on.

    Raises:
        FieldError: for an unknown step, no minutes, or a folder with a report of something else.
        OSError: if the folder can't be written.
    """
    report = _begun(asked)
    chosen = asked.steps or tuple(STEPS)
    missing = [name for name in STEPS if name in chosen and not _is_done(report, name)]
    asked.folder.mkdir(parents=True, exist_ok=True)
    deadline_s = time.monotonic() + 60 * asked.minutes
    with tempfile.TemporaryDirectory(prefix="longlive-rag-report-") as work:
        worker = _Worker(make_take) if asked.alone else _InThisProcess(make_take)
        try:
            for place, name in enumerate(missing):
                left_s = deadline_s - time.monotonic()
                seconds = _seconds_for(name, missing[place:], left_s)
                task = Task(asked.shape, asked.device, asked.dtype, seconds, Path(work), asked.take_seconds)
                record = _run_step(name, task, report, left_s, worker, say)
                report = report.model_copy(update={"steps": {**report.steps, name: record}})
                _write(asked.folder, report)
                say(f"{name}: {record.reason or f'done in {record.seconds:.0f} s'}")
        finally:
            worker.end()
    _write(asked.folder, report)
    return report


def rewrite_page(folder: Path) -> None:
    """Write the page of the report in a folder again, as where Matplotlib is installed; ValueError if it isn't one."""
    write_page(folder, read_document(folder / REPORT, GpuReport).model_dump(mode="json"))


def _begun(asked: Asked) -> GpuReport:
    """The report so far."""
    for name in asked.steps:
        if name not in STEPS:
            raise FieldError("steps", name, f"it must be some of {', '.join(STEPS)}")
    if asked.minutes <= 0:
        raise FieldError("minutes", asked.minutes, "it must be above 0")
    if asked.folder.exists() and not asked.folder.is_dir():
        raise FieldError("gpu_report", str(asked.folder), "it must be a folder")
    path = asked.folder / REPORT
    fresh = GpuReport(shape=asked.shape, device=asked.device_name, dtype=asked.dtype)
    if not path.is_file():
        return fresh
    begun = read_document(path, GpuReport)
    for name in ("shape", "device", "dtype"):
        before, now = getattr(begun, name), getattr(fresh, name)
        if before != now:
            raise FieldError(
                "gpu_report", str(path), "name another folder", f"{path}, whose {name} is {before}, not {now}"
            )
    return begun


def _is_done(report: GpuReport, name: str) -> bool:
    return name in report.steps and report.steps[name].status == "done"


def _seconds_for(name: str, coming: Sequence[str], left_s: float) -> float:
    """A step's share of what is left, with what the later ones need at least set aside; never less than it needs."""
    least = sum(STEPS[other].least_s for other in coming)
    spare = max(0.0, left_s - least)
    shares = sum(STEPS[other].share for other in coming)
    return STEPS[name].least_s + (spare * STEPS[name].share / shares if shares else spare)


def _run_step(
    name: str, task: Task, report: GpuReport, left_s: float, worker: _Worker | _InThisProcess, say: Say
) -> StepRecord:
    step = STEPS[name]
    needed_s = step.least_s if task.device != "cpu" else 0.0  # known for a GPU alone
    if left_s < max(needed_s, 1.0):
        reason = f"skipped: it needs about {needed_s:.0f} s, and {max(0.0, left_s):.0f} s are left"
        return StepRecord(status="skipped", reason=reason)
    say(f"{name}: {step.about}; up to {task.seconds:.0f} s")
    begin_s = time.monotonic()
    task = task.knowing(report.results)
    answer = worker.run(name, task, left_s)
    return StepRecord(**answer, seconds=round(time.monotonic() - begin_s, 2))


def _write(folder: Path, report: GpuReport) -> None:
    write_document(folder / REPORT, report)
    write_page(folder, report.model_dump(mode="json"))


# ---- where steps run ----


def answer_to(name: str, task: Task, make_take: MakeTake) -> dict[str, Any]:
    """Run a step; what it measured, or why it did not, as the fields of a `StepRecord`."""
    from longlive_rag.diagnostics.gpu_steps import NotHereError

    try:
        return {"status": "done", "result": STEPS[name].measure(task, make_take)}
    except NotHereError as error:
        return {"status": "skipped", "reason": f"skipped: {error}"}
    except Exception as error:
        traceback.print_exc()
        return {"status": "failed", "reason": f"failed: {type(error).__name__}: {_one_line(str(error))}"}


class _InThisProcess:
    """Runs steps here, for devices that no step can hang."""

    def __init__(self, make_take: MakeTake) -> None:
        self._make_take = make_take

    def run(self, name: str, task: Task, left_s: float) -> dict[str, Any]:
        """The answer to a step, however long it takes."""
        del left_s
        return answer_to(name, task, self._make_take)

    def end(self) -> None:
        """Nothing is held."""


class _Worker:
    """A process that runs step after step; after a step that was not done, another one."""

    def __init__(self, make_take: MakeTake) -> None:
        self._make_take = make_take
        self._running: Guarded | None = None

    def run(self, name: str, task: Task, left_s: float) -> dict[str, Any]:
        """The answer to a step, or what became of its process; `left_s` are left for it and all later ones."""
        begin_s = time.monotonic()
        if self._running is None:
            self._running = Guarded(partial(_serve, self._make_take))
            self._running.ask(None, limit_s=left_s)  # its imports don't count towards the step's time
        left_s -= time.monotonic() - begin_s
        answer = self._running.ask((name, task), min(left_s, PATIENCE * task.seconds + GRACE_S))
        if answer["status"] == "failed":
            self.end()
        return answer

    def end(self) -> None:
        """End the process."""
        if self._running is not None:
            self._running.end()
            self._running = None


class Guarded:
    """A process that answers questions, and is ended when it takes too long.

    Args:
        serve: what it runs, with its end of a pipe; a function that another process can import.
    """

    def __init__(self, serve: Callable[[Connection], None]) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA can't be used in a fork
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, question: Any, limit_s: float) -> dict[str, Any]:
        """The process's answer; a failed one if it took longer than `limit_s` or ended without any."""
        if self._pipe.closed:
            return {"status": "failed", "reason": "failed: its process did not start in time"}
        try:
            self._pipe.send(question)
            if self._pipe.poll(max(0.0, limit_s)):
                answer: dict[str, Any] = self._pipe.recv()
                return answer
        except (EOFError, OSError):
            self._process.join(5)
            return {"status": "failed", "reason": f"failed: its process ended with code {self._process.exitcode}"}
        self.end()
        return {"status": "failed", "reason": f"failed: it was ended after {limit_s:.0f} s"}

    def end(self) -> None:
        """End the process, whatever it does."""
        self._pipe.close()
        self._process.join(0.2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(make_take: MakeTake, pipe: Connection) -> None:
    """Answer to steps until nobody asks."""
    while True:
        try:
            asked = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        if asked is None:
            pipe.send({"status": "done"})
            continue
        name, task = asked
        pipe.send(answer_to(name, task, make_take))


def _one_line(message: str, longest: int = 400) -> str:
    words = " ".join(message.split())
    return words if len(words) <= longest else f"{words[:longest]}..."
