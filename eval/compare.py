"""A comparison from its plan to its report: refuse, make what is missing, say what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backbone.errors import FieldError, Name
from eval.engines import make_here, make_in_processes, make_on_ray
from eval.making import Maker, batches
from eval.plan import Cell, Plan, check_content, check_run, keep_plan
from eval.results import Results
from eval.runs import is_finished
from longlive_rag.media.charts import check_charts
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets.preset import load_preset
from longlive_rag.rights.policy import enforce_place
from longlive_rag.sessions.ray_workers import Cluster, check_device, check_installed, check_share
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
        gpus_per_worker: on Ray, above 0 and at most 1; None is 1, or less for a small backbone.
        batch: how many takes of one arm each worker makes side by side: faster, but in the last bits another batch
            makes other takes.
    """

    name: str = "local"
    workers: int = 1
    threads: int | None = None
    address: str | None = None
    batch: int = 1
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "batch"):
            if getattr(self, name) < 1:
                raise FieldError(name, getattr(self, name), "it must be at least 1")
        for name in ("address", "gpus_per_worker"):
            if self.name == "local" and getattr(self, name):
                raise FieldError(name, getattr(self, name), claim=(Name(name), " is for the engine ray"))
        if self.name == "ray":
            check_installed()
            check_share(self.gpus_per_worker)

    @property
    def cluster(self) -> Cluster:
        """What is asked of a Ray cluster."""
        return Cluster(self.workers, self.threads, self.address, self.gpus_per_worker)


def compare(
    plan: Plan,
    run: Path,
    engine: Engine | None = None,
    progress: Callable[[Cell | None, int, int], None] = lambda cell, done, all_: None,
    note: Callable[[str], None] = lambda line: None,
    pipe: LongLiveRAGPipeline | None = None,
) -> Results:
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
    else:
        check_device(plan.device)
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
        return make_on_ray(run, chunks, engine.cluster)
    return make_in_processes(run, chunks, engine.workers, engine.threads)
