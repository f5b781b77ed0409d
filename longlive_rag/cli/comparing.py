"""Shared by commands that make comparisons: options, the plan, and running it with a progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longlive_rag.cli.errors import Failed, Stopped
from longlive_rag.cli.settings import ADDRESS, BACKBONE, DECODER, DEVICE, DTYPE, options
from longlive_rag.sessions.opening import Opening, quiet_libraries
from longlive_rag.timecode import parse_duration

if TYPE_CHECKING:
    from tqdm import tqdm

    from eval.compare import Engine
    from eval.plan import Arm, Cell, Contrast, Plan
    from eval.results import Results

EMBEDDERS_HELP = (
    "Comma-separated, the primary one first: dino, dinov2, clip, siglip, pixels, latent, tiny-world, face, or a "
    "plug-in listed by 'plugins'; KIND=FOLDER or KIND=HUB/NAME for weights of your choice.  [default: tiny-world (its "
    "oracle) for takes of tiny-world, else dino, whose weights come from the Hugging Face hub]"
)


class Seconds(click.ParamType):
    """Comma-separated lengths of time: seconds, or timecodes that count no frames."""

    name = "s,s,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(parse_duration(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of seconds such as 30,60,120 or 0:30,1:00,2:00", param, ctx)


def horizons_option(default: str) -> Callable[[Any], Any]:
    """`--horizons` of a command that makes takes."""
    text = "Seconds at which to measure drift; takes are as long as the last one."
    return click.option("--horizons", type=Seconds(), default=default, show_default=True, help=text)


asked_options = options(
    click.option("--scenarios-file", type=click.Path(path_type=Path), help="JSON file with your own scenarios."),
    click.option("--seeds", type=int, default=1, show_default=True, help="Number of seeds per prompt, from 0 up."),
    click.option("--exploratory", is_flag=True, help="Make no claims; this allows fewer prompts than a claim needs."),
    click.option("--embedders", help=EMBEDDERS_HELP),
    click.option("--embed-every", type=int, default=1, show_default=True, help="Embed every n-th frame."),
    click.option("--metrics", metavar="NAMES", help="Additional metrics, comma-separated; 'plugins' lists them."),
    BACKBONE,
    DTYPE,
    DECODER,
    DEVICE,
)
"""Options that say how the takes of a comparison are made and measured."""

ray_options = options(
    ADDRESS,
    click.option(
        "--gpus-per-worker",
        type=float,
        metavar="SHARE",
        help="GPU share of each worker on Ray, above 0 and at most 1.  [default: 1, or 0.25 for a small backbone]",
    ),
)

ENGINE = click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Make the takes on this machine, or on a Ray cluster.",
)
engine_options = options(
    ENGINE,
    click.option("--workers", type=int, default=1, show_default=True, help="Processes that make takes."),
    click.option("--batch", type=int, default=1, show_default=True, help="Takes each worker makes side by side."),
    click.option(
        "--threads", type=click.IntRange(min=1), help="CPU threads per worker.  [default: by size of the backbone]"
    ),
    ray_options,
    click.option("-o", "--output", "run", type=click.Path(path_type=Path), required=True, help="Folder for the run."),
    click.option("--json", "as_json", is_flag=True, help="Print the results as JSON."),
)


def engine_of(asked: dict[str, Any]) -> Engine:
    """Build an `Engine` from the options of `engine_options`, which are removed from `asked`."""
    from eval.compare import Engine

    names = ("workers", "threads", "address", "batch", "gpus_per_worker")
    return Engine(asked.pop("engine"), **{name: asked.pop(name) for name in names})


def planned(
    arms: Callable[[str], tuple[Arm, ...]],
    prompts: Path,
    scenarios: str,
    scenarios_file: Path | None,
    horizons: tuple[float, ...],
    embedders: str | None,
    metrics: str | None,
    backbone: str,
    contrasts: Sequence[Contrast] = (),
    **rest: Any,
) -> Plan:
    """Build the plan that was asked for.

    Args:
        arms: gives the arms for a backbone's name.
    """
    from eval.embedders import default_embedders
    from eval.plan import Plan
    from eval.scenarios import read_scenarios, read_subjects, stories

    names = [name.strip() for name in scenarios.split(",") if name.strip()]
    if not names:
        raise ValueError("--scenario is empty; leave it out for plain prompts")
    known = read_scenarios(scenarios_file)
    told = stories(read_subjects(prompts), names, known, horizons)
    about = {name: known[name].about for name in names}
    embedders = default_embedders([backbone]) if embedders is None else embedders
    extra = tuple(name.strip() for name in (metrics or "").split(",") if name.strip())
    rest["dtype"] = Opening(rest["device"], rest["dtype"]).precision.dtype  # the same wherever the run is resumed
    return Plan(
        backbone, arms(backbone), told, horizons_s=horizons, embedders=embedders, about=about, metrics=extra,
        contrasts=tuple(contrasts), **rest,
    )  # fmt: skip


def make(plan: Plan, run: Path, engine: Engine) -> Results:
    """Run a comparison with a progress bar; if it ends early, say what was kept."""
    from eval.compare import compare
    from longlive_rag.sessions.making import TakeFailed, TakeStopped, reason_of

    bar = _Bar("take")
    try:
        with bar, quiet_libraries():
            return compare(plan, run, engine, bar.cells, lambda line: click.echo(line, err=True))
    except (KeyboardInterrupt, TakeStopped) as error:
        raise Stopped(f"Stopped; {bar.said} in {run} are kept. The same command resumes it.") from error
    except (OSError, TakeFailed) as error:
        raise Failed(f"{reason_of(error)}; {bar.said} in {run} are kept") from error


def say(plan: Plan, run: Path, results: Results, as_json: bool, table: str = "") -> None:
    """Print the results and where they are."""
    if as_json:
        click.echo(json.dumps(results.model_dump(mode="json"), indent=2))
        return
    if table:
        click.echo(table)
    for verdict in results.verdicts:
        click.echo(verdict)
    for warning in results.warnings:
        click.echo(warning)
    click.echo(f"  measured by {plan.embedders}")
    click.echo(f"  report  {run / 'report.html'}\n  figures {run / 'results.json'}, {run / 'takes.csv'}")


class _Bar:
    """Progress over the takes of a run."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._bar: tqdm[Any] | None = None  # created on the first update, so that it is not shown above an error
        self._done = self._all = 0

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def cells(self, cell: Cell | None, done: int, all_: int) -> None:
        """Report that another take is finished."""
        from tqdm import tqdm

        self._done, self._all = done, all_
        if self._bar is None:
            # takes that existed already must not count towards the estimate of the remaining time
            self._bar = tqdm(total=all_, initial=done, unit=f" {self._unit}s", file=sys.stderr, mininterval=1)
        self._bar.update(done - self._bar.n)

    @property
    def said(self) -> str:
        """How far the run got, in words."""
        return f"{self._done} of {self._all} takes" if self._all else "nothing was started; takes made before"
