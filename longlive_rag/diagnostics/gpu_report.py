"""All GPU measurements in one run: steps that each measure one thing, and a JSON file and a page that grow with them.

The steps run in a separate process. If one hangs or crashes, the process is ended, this is recorded, and the next steps
run in a fresh process. Finished steps are kept: run again with the same folder, the report continues with the rest.
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
"""A step is ended after PATIENCE times its share plus GRACE_S, or when the budget is spent."""
Say = Callable[[str], None]


class StepRecord(Document):
    """The outcome of a step: its duration and result, or why it has none."""

    status: Literal["done", "failed", "skipped"]
    reason: str | None = None
    seconds: float = 0.0
    result: dict[str, Any] | None = None


class GpuReport(Versioned):
    """All steps so far, and what they ran on."""

    shape: str
    device: str
    dtype: str
    steps: dict[str, StepRecord] = Field(default_factory=dict)

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The results by step."""
        return {name: step.result for name, step in self.steps.items() if step.result is not None}


@dataclass(frozen=True)
class Asked:
    """What to measure.

    Attributes:
        folder: the report's folder.
        shape: shape of the backbone, a key of `subjects.SHAPES`.
        device, device_name: where the transformer runs, and its name.
        dtype: of the transformer.
        minutes: budget for all steps together.
        steps: names of the steps to run; empty means all.
        take_seconds: length of the takes made end to end, if there is time for it.
        alone: whether to run the steps in a separate process.
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
    """Run the missing steps, writing the report and its page after each.

    Args:
        asked: what to measure.
        make_take: makes a take as `generate` does; a function that another process can import.
        say: called with each line of progress.

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
    """Rewrite the page of the report in a folder, such as once Matplotlib is installed; ValueError if there is none."""
    write_page(folder, read_document(folder / REPORT, GpuReport).model_dump(mode="json"))


def _begun(asked: Asked) -> GpuReport:
    """Read the report so far, or begin a new one."""
    for name in asked.steps:
        if name not in STEPS:
            raise FieldError("steps", name, f"it must be among {', '.join(STEPS)}")
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
    """Return a step's share of the time left, reserving what later steps need; never less than the step needs."""
    least = sum(STEPS[other].least_s for other in coming)
    spare = max(0.0, left_s - least)
    shares = sum(STEPS[other].share for other in coming)
    return STEPS[name].least_s + (spare * STEPS[name].share / shares if shares else spare)


def _run_step(
    name: str, task: Task, report: GpuReport, left_s: float, worker: _Worker | _InThisProcess, say: Say
) -> StepRecord:
    step = STEPS[name]
    needed_s = step.least_s if task.device != "cpu" else 0.0  # known only for a GPU
    if left_s < max(needed_s, 1.0):
        reason = f"skipped: it needs about {needed_s:.0f} s, but {max(0.0, left_s):.0f} s are left"
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
    """Run a step; return its result, or why it has none, as the fields of a `StepRecord`."""
    from longlive_rag.diagnostics.gpu_steps import NotHereError

    try:
        return {"status": "done", "result": STEPS[name].measure(task, make_take)}
    except NotHereError as error:
        return {"status": "skipped", "reason": f"skipped: {error}"}
    except Exception as error:
        traceback.print_exc()
        return {"status": "failed", "reason": f"failed: {type(error).__name__}: {_one_line(str(error))}"}


class _InThisProcess:
    """Runs steps in this process, for devices that can't hang."""

    def __init__(self, make_take: MakeTake) -> None:
        self._make_take = make_take

    def run(self, name: str, task: Task, left_s: float) -> dict[str, Any]:
        """Run a step to its end, however long it takes."""
        del left_s
        return answer_to(name, task, self._make_take)

    def end(self) -> None:
        """Do nothing: there is no process to end."""


class _Worker:
    """A process that runs step after step; it is replaced after a step that failed."""

    def __init__(self, make_take: MakeTake) -> None:
        self._make_take = make_take
        self._running: Guarded | None = None

    def run(self, name: str, task: Task, left_s: float) -> dict[str, Any]:
        """Return a step's answer or how its process ended; `left_s` seconds are left for it and all later steps."""
        begin_s = time.monotonic()
        if self._running is None:
            self._running = Guarded(partial(_serve, self._make_take))
            self._running.ask(None, limit_s=left_s)  # so that its imports don't count towards the step's time
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
    """A process that answers questions and is ended if it takes too long.

    Args:
        serve: the function it runs, given its end of a pipe; another process must be able to import it.
    """

    def __init__(self, serve: Callable[[Connection], None]) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA can't be used in a fork
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, question: Any, limit_s: float) -> dict[str, Any]:
        """Return the process's answer; a failed one if it took longer than `limit_s` or ended without one."""
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
        """End the process, whatever it is doing."""
        self._pipe.close()
        self._process.join(0.2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(make_take: MakeTake, pipe: Connection) -> None:
    """Answer requests for steps until there are no more."""
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
