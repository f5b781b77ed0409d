"""`longlive-rag eval`: measure identity drift of videos, and compare arms."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longlive_rag.cli.arms import read_arms, read_contrasts
from longlive_rag.cli.comparing import (
    EMBEDDERS_HELP,
    Seconds,
    asked_options,
    engine_of,
    engine_options,
    horizons_option,
    make,
    planned,
    say,
)
from longlive_rag.cli.errors import check_writable, refuse_bad_input
from longlive_rag.cli.making import load
from longlive_rag.cli.protocols import run_protocol
from longlive_rag.cli.settings import DEVICE, FLAGS, backbone_option, typed_options, with_figures
from longlive_rag.presets.preset import DEFAULT_BACKBONE, load_preset
from longlive_rag.sessions.opening import quiet_libraries

if TYPE_CHECKING:
    from eval.footage import Footage
    from eval.measures import Measures
    from eval.plan import Arm, Plan

STORIES = (
    "walk-away-and-return", "long-stare", "change-of-place", "two-characters", "long-absence", "many-characters",
    "same-words",
)  # fmt: skip


@click.group()
def eval() -> None:
    """Measure identity drift: does memory keep the character?

    \b
    Measure any video:
      longlive-rag eval drift video.mp4
    Compare arms, such as with and without memory:
      longlive-rag eval compare --help
    """


@eval.command()
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO_OR_TAKE...")
@click.option(
    "--horizons",
    type=Seconds(),
    help="Seconds at which to measure drift.  [default: those of 30,60,120 that the videos reach]",
)
@click.option("--embedders", help=EMBEDDERS_HELP)
@click.option("--embed-every", type=int, default=1, show_default=True, help="Embed every n-th frame.")
@click.option(
    "--mapping-table", type=click.Path(path_type=Path), help="VBench-Long's subject table, as JSON [[raw, mapped]]."
)
@DEVICE
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for a report (HTML, PNG, CSV and JSON).")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def drift(
    videos: tuple[str, ...],
    horizons: tuple[float, ...] | None,
    embedders: str | None,
    embed_every: int,
    mapping_table: Path | None,
    device: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure the identity drift of each VIDEO_OR_TAKE.

    That is how far its subject drifts from the first second. D(h) is the mean cosine similarity to the first second
    over seconds 1 to 5, minus the same over the last 5 s before h. It is signed; higher is worse; 0 is no drift. If
    a video is less than a second shorter than h, D is measured at its end.

    \b
    Examples:
      longlive-rag eval drift video.mp4
      longlive-rag eval drift takes/native takes/memory --horizons 30,60 -o drift-report
      longlive-rag eval drift video.mp4 --embedders dino=models/dino-vitb16,clip --json
      longlive-rag eval drift video.mp4 --embedders pixels --horizons 12
    """
    from eval.embedders import default_embedders, parse_embedders
    from eval.footage import find_footage
    from eval.measure import MeasureSettings
    from eval.protocols import MappingTable
    from eval.single import MAY_MISS_S, possible_horizons
    from longlive_rag.media.charts import check_charts
    from longlive_rag.weights.load import pick_device

    with refuse_bad_input(FLAGS):
        footage = [find_footage(Path(video)) for video in videos]
        table: dict[str, Any] = {} if mapping_table is None else {"subject_table": MappingTable.read(mapping_table)}
        asked = horizons or possible_horizons(footage)
        settings = MeasureSettings(asked, embed_every=embed_every, may_miss_s=MAY_MISS_S, **table)
        for each in footage:
            settings.check(each)
        default = default_embedders(each.backbone for each in footage)
        specs = parse_embedders(default if embedders is None else embedders)
        target = str(pick_device(device))
        if output is not None:
            check_charts("the report")
            _check_new_folder(output)
        for spec in specs:
            spec.check()
        with quiet_libraries():
            opened = {spec.kind: spec.open(target) for spec in specs}
    click.echo(f"Measured by {', '.join(spec.text for spec in specs)}.", err=True)
    measures = _measure_all(footage, opened, settings)
    command = shlex.join(["longlive-rag", *sys.argv[1:]])
    if output is not None:
        from eval.single_report import write_single_report

        with refuse_bad_input(FLAGS):
            write_single_report(output, footage, measures, command)
    figures = [each.model_dump(mode="json") for each in measures] if as_json else []
    click.echo(json.dumps(figures, indent=2) if as_json else _drift_table(measures))
    if output is not None:
        click.echo(f"  report  {output / 'drift.html'}", err=as_json)


@eval.command()
@click.option(
    "--arms",
    metavar="NAMES|FILE",
    help="native,memory[,memory-random,memory-recent,memory-empty] or a TOML file of arms.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help="Text file with a prompt per line, or JSON; see docs/evaluation.md.",
)
@click.option(
    "--scenario",
    "scenarios",
    default="plain",
    show_default=True,
    help="Scenarios, comma-separated; see docs/evaluation.md.",
)
@horizons_option("30,60,120")
@asked_options
@click.option(
    "--protocol",
    metavar="NAME",
    help="Repeat a paper's comparison (longlive-rag): its arms, prompts, lengths and embedders, one run for each of "
    "its backbones. Other options replace the protocol's.",
)
@click.option("--backbones", metavar="NAMES", help="Backbones to use instead of the protocol's, comma-separated.")
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    help="Repeat a run from its plan.json; replaces all the options above.",
)
@engine_options
def compare(
    protocol: str | None,
    backbones: str | None,
    plan_file: Path | None,
    run: Path,
    as_json: bool,
    **asked: Any,
) -> None:
    """Compare arms on the same prompts, noise and cues.

    An arm is a way to make the takes, such as without memory ('native') or with it ('memory'). The first is the
    baseline; the claim is about the second. The run's folder gets a report. Run the same command again to resume a run
    that was stopped: finished takes are not made again.

    A comparison too small to support any claim is refused: with three horizons and one scenario, a
    claim needs 7 prompts. With --exploratory it runs anyway, and claims nothing.

    \b
    Examples:
      longlive-rag eval compare --arms native,memory --prompts prompts.txt --seeds 2 -o runs/first
      longlive-rag eval compare --arms native,memory,memory-random,memory-recent --prompts subjects.json \\
        --scenario walk-away-and-return,long-stare --seeds 2 -o runs/return
      longlive-rag eval compare --arms ablation.toml --prompts two.txt --exploratory -o runs/ablation
      longlive-rag eval compare --plan runs/first/plan.json -o runs/again
      longlive-rag eval compare --protocol longlive-rag --dtype bfloat16 --engine ray --workers 8 -o runs/paper

    \b
    A TOML file of arms has a table per arm, with options of `generate` without their dashes:
      [native]
      memory = false
      [k3]
      memory-frames = 3
      [k3-random]
      memory-frames = 3
      retrieval = "random"
    Every arm is compared with the first, and the second with each of the others. To compare
    other pairs and make claims about them:
      [[contrasts]]
      arm = "k3"
      against = "k3-random"
      confirmatory = true
    """
    from eval.plan import read_plan_to_repeat

    with refuse_bad_input(FLAGS):
        if protocol is None and backbones is not None:
            raise ValueError("--backbones is for --protocol; use --backbone to name one")
        if protocol is not None:
            run_protocol(protocol, backbones, run, as_json, asked)
            return
        where = engine_of(asked)
        if plan_file:
            _refuse_beside_plan(asked)
        plan = read_plan_to_repeat(plan_file) if plan_file else _plan(**asked)
        results = make(plan, run, where)
    say(plan, run, results, as_json)


@eval.command()
@click.argument("policies", metavar="POLICIES")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    required=True,
    help="JSON file with the prompts of each scenario; see docs/evaluation.md.",
)
@click.option(
    "--stories",
    "scenarios",
    default=",".join(STORIES),
    show_default=True,
    help="Scenarios that need a memory, comma-separated.",
)
@horizons_option("120")
@click.option(
    "--ceilings/--no-ceilings",
    default=None,
    help="Include arms given the right frames.  [default: if the oracle can read the takes]",
)
@click.option(
    "--upscale", type=click.IntRange(min=1), help="Upscaling factor of the videos.  [default: the backbone's own]"
)
@asked_options
@engine_options
def policies(
    policies: str,
    ceilings: bool | None,
    upscale: int | None,
    run: Path,
    as_json: bool,
    **asked: Any,
) -> None:
    """Compare retrieval POLICIES in stories that need a memory.

    The scale runs from the backbone without memory to one that is given the right frames. POLICIES is a
    comma-separated list of installed policies ('plugins' lists them, including your own), which choose from the
    whole past; 'establishing', which admits only first showings to memory and searches those; or
    'establishing+POLICY'. The claim is about the first one; every other is compared with it.

    \b
    Examples:
      longlive-rag world subjects -o subjects.json
      longlive-rag eval policies establishing,similar,stratified,random --prompts subjects.json -o runs/policies
      longlive-rag eval policies establishing+look-ahead,establishing --prompts subjects.json \\
        --stories long-absence,many-characters --workers 2 --threads 1 --batch 8 -o runs/ahead
    """
    from eval.policies import arms_of, stages_by_arm
    from eval.tables import Found, policies_table
    from eval.takes import Takes

    with refuse_bad_input({**FLAGS, "scenario": "--stories"}):
        where, names = engine_of(asked), [name.strip() for name in policies.split(",")]

        def arms(backbone: str) -> tuple[Arm, ...]:
            known = backbone == DEFAULT_BACKBONE if ceilings is None else ceilings
            return arms_of(names, load_preset(backbone), known, upscale)

        plan = planned(arms, **asked)
        results = make(plan, run, where)
    stages = stages_by_arm(Takes.of_run(run, plan))
    tables = [f"{scenario}\n\n{policies_table(Found(plan, results, scenario), stages)}" for scenario in plan.scenarios]
    say(plan, run, results, as_json, "\n".join(tables))


@eval.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="New folder.")
def export(run: Path, output: Path) -> None:
    """Copy a finished RUN's videos into the layout of VBench.

    VBench-Long reads it as well. There is one folder per arm; files are named by prompt and seed, without underscores.

    \b
    Example:
      longlive-rag eval export runs/first -o vbench-videos
    """
    from eval.export import export_for_vbench

    with refuse_bad_input():
        count = export_for_vbench(run, output)
    click.echo(f"{count} videos in {output}")


@eval.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="New folder.")
def publish(run: Path, output: Path) -> None:
    """Copy a finished RUN's figures into a small folder.

    It is small enough to publish with a paper. It holds the plan, a table with one row per take, and the data from
    which 'recompute' derives every result, but no videos or latents.

    \b
    Example:
      longlive-rag eval publish runs/first -o published/first
    """
    from eval.published import publish as write_published

    with refuse_bad_input():
        count = write_published(run, output)
    size = sum(path.stat().st_size for path in output.iterdir())
    click.echo(f"{count} takes in {output}, {size / 2**20:.1f} MiB")


@eval.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FOLDER...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for results.json (with one FOLDER only).")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def recompute(folders: tuple[Path, ...], output: Path | None, as_json: bool) -> None:
    """Recompute all tables from published figures.

    No take is made and no model is loaded: drift is computed from the similarity of every frame, then pairs are
    formed and intervals and tests computed. The output is Markdown tables, with verdicts above them.

    \b
    Examples:
      longlive-rag eval recompute docs/drift/return
      longlive-rag eval recompute docs/drift/return docs/drift/stare > tables.md
      longlive-rag eval recompute docs/drift/return --json -o again
    """
    from eval.published import as_markdown, write_results
    from eval.published import recompute as make_again

    with refuse_bad_input():
        if output is not None and len(folders) > 1:
            raise ValueError("--output works with one folder only; name one folder, or drop --output")
        again = [make_again(folder) for folder in folders]
        if output is not None:
            write_results(output, again[0][0].results)
    if as_json:
        told = [found[0].results.model_dump(mode="json") for found in again]
        click.echo(json.dumps(told if len(told) > 1 else told[0], indent=2))
        return
    click.echo(as_markdown([found for each in again for found in each]))


def _refuse_beside_plan(asked: dict[str, Any]) -> None:
    """Refuse options given together with --plan: they would be ignored."""
    typed = [flag for name, flag in typed_options().items() if name in asked]
    if typed:
        raise ValueError(f"--plan already sets everything; drop {', '.join(typed)}")


def _plan(arms: str | None, prompts: Path | None, **rest: Any) -> Plan:
    if not arms or not prompts:
        lacking = " and ".join(flag for flag, value in (("--arms", arms), ("--prompts", prompts)) if not value)
        raise ValueError(
            f"{lacking} must be given, as in --arms native,memory --prompts prompts.txt; or --plan FILE repeats a run"
        )
    return planned(lambda backbone: read_arms(arms), prompts, contrasts=read_contrasts(arms), **rest)


def _measure_all(footage: Sequence[Footage], embedders: Any, settings: Any) -> list[Measures]:
    from tqdm import tqdm

    from eval.measure import measure

    with (
        tqdm(total=sum(each.frames for each in footage), unit=" frames", file=sys.stderr) as bar,
        refuse_bad_input(FLAGS),
    ):
        return [measure(each, embedders, settings, bar.update) for each in footage]


def _drift_table(measures: Sequence[Measures]) -> str:
    from eval.single import drift_rows, horizon_in_words

    rows = drift_rows(measures)
    lines = [f"{'video':<32} {'embedder':<10} {'h':>5} {'D(h)':>8} {'start':>7} {'end':>7} {'seen':>5} {'motion':>7}"]
    for row in rows:
        figures = ["     -" if row[name] is None else f"{row[name]:.4f}" for name in ("drift", "opening", "last")]
        lines.append(
            f"{row['video'][-32:]:<32} {row['embedder']:<10} {row['horizon_s']:>4g}s {figures[0]:>8} {figures[1]:>7} "
            f"{figures[2]:>7} {row['seen']:>5.0%} {row['motion']:>7.4f}"
        )
    short = [f"{row['video']}: {horizon_in_words(row)}" for row in rows if row["measured_at_s"] < row["horizon_s"]]
    lines += dict.fromkeys(short)
    return "\n".join(lines)


def _check_new_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} already exists; name a new folder for the report")


@eval.command()
@backbone_option("tiny-world, or a pipeline folder trained on the same world.")
@click.option("--takes", type=click.IntRange(min=1), default=32, show_default=True, help="Number of takes.")
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Takes made side by side.")
@click.option(
    "--encoder", "others", type=(str, click.Path(path_type=Path)), multiple=True, metavar="NAME FILE",
    help="Also measure the encoder.pt FILE, under this NAME. Repeat for more.",
)  # fmt: skip
@with_figures()
def retrieval(
    backbone: str, takes: int, batch: int, others: tuple[tuple[str, Path], ...], as_json: bool, output: Path | None
) -> None:
    """Measure whether memory finds the right frames.

    The figure is precision at K on takes of tiny-world, read by its oracle. A character comes and leaves, another
    one comes and leaves, then the first is called back. The right frames show the first one with its hidden traits.
    All search methods are given the same takes, which are made without memory.

    \b
    Examples:
      longlive-rag eval retrieval -o retrieval.json
      longlive-rag eval retrieval --encoder "no delta" runs/no-delta/encoder.pt
    """
    from tqdm import tqdm

    from eval.retrieval_quality import arms_of, make_takes, measure_retrieval
    from longlive_rag.weights.convert import read_encoder
    from retrieval.encoder import LatentEncoder, MeanPoolEncoder
    from retrieval.files import write_json

    with refuse_bad_input():
        check_writable(output)
        encoders: dict[str, LatentEncoder] = {name: read_encoder(path).eval() for name, path in others}
        pipe = load(backbone, "float32")
        if pipe.encoder is not None:
            encoders = {"autoencoder": pipe.encoder, **encoders}
        arms = arms_of({**encoders, "mean pool": MeanPoolEncoder()})
        with tqdm(total=takes, unit=" takes") as bar:
            figures = measure_retrieval(pipe, make_takes(pipe, takes, batch, bar.update), arms)
    if output:
        write_json(output, figures)
    click.echo(json.dumps(figures, indent=2) if as_json else "\n".join(_retrieval_lines(figures)))


def _retrieval_lines(figures: dict[str, Any]) -> list[str]:
    def cell(found: dict[str, float | None]) -> str:
        low, high = found["low"], found["high"]
        between = "" if low is None or high is None else f" ({low:+.2f} to {high:+.2f})"
        return f"{found['mean']:+.2f}{between}"

    lines = [
        f"{figures['used']} of {figures['takes']} takes; {100 * figures['right_among_candidates']:.0f} % of the frames "
        "that can be found at the cue are right",
        f"{'precision at ' + str(figures['memory_frames']):44}{'at the cue':24}{'in the blocks after'}",
    ]
    for part in ("arms", "pairs"):
        for name, found in figures[part].items():
            lines.append(f"{name:44}{cell(found['at_cue']):24}{cell(found['after'])}")
    return lines
