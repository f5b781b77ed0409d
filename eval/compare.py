"""A comparison from its plan to its report: refuse, make what is missing, say what was found."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backbone.errors import FieldError, Name
from eval.engines import make_here, make_in_processes
from eval.making import Maker, batches
from eval.plan import Cell, Plan, check_content, check_run, keep_plan
from eval.runs import is_finished
from longlive_rag.media.charts import check_charts
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets.preset import load_preset
from longlive_rag.rights.policy import enforce_place
from longlive_rag.weights.load import pick_device
from retrieval.lock import hold


@dataclass(frozen=True)
class Engine:
    """Where takes are made.

    Attributes:
        name: local or ray.
        workers: how many takes at once; 1 makes them in this process (local).
        threads: of the CPU, for each worker; None chooses by the backbone's size.
        address: of a Ray cluster; None starts one here.
        batch: how many takes of one arm each worker makes side by side: faster, but in the last bits another batch
            makes other takes.
    """

    name: str = "local"
    workers: int = 1
    threads: int | None = None
    address: str | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        for name in ("workers", "batch"):
            if getattr(self, name) < 1:
                raise FieldError(name, getattr(self, name), "it must be at least 1")
        if self.name == "local" and self.address:
            raise FieldError("address", self.address, claim=(Name("address"), " is for the engine ray"))
        if self.name == "ray" and not importlib.util.find_spec("ray"):
            shown = "'ray', but Ray is not installed"
            raise FieldError("engine", self.name, "pip install 'longlive-rag[ray]'", shown)


def compare(
    plan: Plan,
    run: Path,
    engine: Engine | None = None,
    progress: Callable[[Cell | None, int, int], None] = lambda cell, done, all_: None,
    note: Callable[[str], None] = lambda line: None,
    pipe: LongLiveRAGPipeline | None = None,
) -> dict[str, Any]:
    """Make what is missing of a comparison, measure it, write the report; returns the results.

    Args:
        plan: what is compared.
        run: its folder; a run of the same plan goes on.
        engine: where takes are made.
        progress: called with (a cell that is finished, or None at the start; cells done; all cells).
        note: called with lines for the user.
        pipe: a backbone that is loaded already, for the local engine with one worker.

    Raises:
        LicenseError: if the licence policy in force does not allow the backbone.
        ValueError: before anything is made, if the plan can't be.
        TakeStopped: on KeyboardInterrupt while a take is made; finished takes are kept.
        TakeFailed: if disk or memory run out while a take is made; finished takes are kept.
        OSError: if the disk refuses otherwise; finished takes are kept.
    """
    engine = engine or Engine()
    check_charts("the report")
    preset = load_preset(plan.backbone)
    enforce_place(preset.folder)
    plan.check(preset)
    check_run(run, plan)
    cells = plan.cells
    todo = [cell for cell in cells if not is_finished(run, cell)]
    if engine.name == "local":
        pick_device(plan.device)
    here = engine.name == "local" and engine.workers == 1
    maker = None
    if todo:  # where workers make the takes, this process looks at the plan on the CPU, and then forgets the weights
        maker = Maker(plan if here else replace(plan, device="cpu"), run, engine.threads, pipe)
        maker.check()
        words = maker.unknown_words()
        if words:
            note(f"Note: {plan.backbone} has never read {', '.join(words)}.")
        maker = maker if here else None
    note(f"Measured by {plan.embedders}.")
    run.mkdir(parents=True, exist_ok=True)
    with hold(run):
        check_content(run, plan)  # again: another process may have begun here while the backbone was loaded
        keep_plan(run, plan)
        todo = [cell for cell in todo if not is_finished(run, cell)]
        done = len(cells) - len(todo)
        progress(None, done, len(cells))
        for cell in _make(run, todo, engine, maker):
            done += 1
            progress(cell, done, len(cells))
        from eval.report import write_report

        return write_report(run, plan)


def _make(run: Path, todo: Sequence[Cell], engine: Engine, maker: Maker | None) -> Iterator[Cell]:
    if not todo:
        return iter(())
    chunks = batches(todo, engine.batch)
    if maker is not None:
        return make_here(maker, chunks)
    if engine.name == "ray":
        from eval.ray_engine import make_on_ray

        return make_on_ray(run, chunks, engine.workers, engine.threads, engine.address)
    return make_in_processes(run, chunks, engine.workers, engine.threads)
