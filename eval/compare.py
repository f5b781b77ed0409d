"""Running a comparison from its plan to its report: check it, make what is missing, summarise the results."""

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
        workers: number of workers; a single local one makes takes in this process.
        threads: CPU threads per worker; None chooses by the backbone's size.
        address: address of a Ray cluster; None starts one here.
        gpus_per_worker: GPU share on Ray, above 0 and at most 1; None is 1, or less for a small backbone.
        batch: number of takes of one arm that each worker makes side by side; larger is faster, but the last bits of
            takes depend on it.
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
                wanted, claim = ("add ", Name("engine"), " ray"), (Name(name), " is for engine ray only")
                raise FieldError(name, getattr(self, name), wanted, claim=claim)
        if self.name == "ray":
            check_installed()
            check_share(self.gpus_per_worker)

    @property
    def cluster(self) -> Cluster:
        """The workers on a Ray cluster."""
        return Cluster(self.workers, self.threads, self.address, self.gpus_per_worker)


def compare(
    plan: Plan,
    run: Path,
    engine: Engine | None = None,
    progress: Callable[[Cell | None, int, int], None] = lambda cell, done, all_: None,
    note: Callable[[str], None] = lambda line: None,
    pipe: LongLiveRAGPipeline | None = None,
) -> Results:
    """Make and measure the missing takes of a comparison, write the report and return the results.

    Args:
        plan: what is compared.
        run: folder of the run; a run of the same plan is resumed.
        engine: where takes are made.
        progress: called with (the finished cell, or None at the start; cells done; all cells).
        note: called with lines for the user.
        pipe: a backbone that is already loaded, for the local engine with one worker.

    Raises:
        LicenseError: if the licence policy in force does not allow the backbone.
        ValueError: before anything is made, if the plan is invalid.
        TakeStopped: on KeyboardInterrupt while a take is made; finished takes are kept.
        TakeFailed: if disk or memory runs out while a take is made; finished takes are kept.
        OSError: if writing fails elsewhere; finished takes are kept.
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
    if todo:  # if workers make the takes, this process checks the plan on the CPU, then frees the weights
        maker = Maker(plan if here else replace(plan, device="cpu"), run, engine.threads, pipe)
        maker.check()
        words = maker.unknown_words()
        if words:
            note(f"Note: {plan.backbone} has never read {', '.join(words)}.")
        maker = maker if here else None
    note(f"Measured by {plan.embedders}.")
    run.mkdir(parents=True, exist_ok=True)
    with hold(run):
        check_content(run, plan)  # again, as another process may have started here while the backbone was loading
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
