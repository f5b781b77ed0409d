"""The report of a comparison: a self-contained HTML file, with its pictures as PNG and its figures as CSV and JSON."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from eval import figures
from eval.plan import Arm, Cell, Plan
from eval.recalled import AFTER_CUE_S, SHOWN_FROM, Recalled
from eval.results import Comparison, Results, compare_all, means_by_story, summarise
from eval.runs import take_folder
from eval.scenarios import Story
from eval.takes import Takes
from eval.windows import REFERENCE_S
from longlive_rag.documents import write_document
from longlive_rag.takes.folder import MEMORY_MAP
from retrieval.files import write_whole

REPORT, RESULTS, TABLE, FIGURES = "report.html", "results.json", "takes.csv", "figures"
MOST_ENDINGS = 32
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What makes a spreadsheet run a cell of text, first in it."""

PAGES = Environment(
    loader=PackageLoader("eval"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


@dataclass(frozen=True)
class Toned:
    """A coloured cell: `tone` is better, worse, or empty for neither."""

    text: str
    tone: str


@dataclass(frozen=True)
class Table:
    """Headings and cells as plain text, which templates escape."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Toned]]


@dataclass(frozen=True)
class Picture:
    """A PNG to embed in a page; `name` is its alternative text."""

    name: str
    base64: str


def write_report(run: Path, plan: Plan) -> Results:
    """Write report, pictures, table and results to a run's folder, and return the results.

    Raises:
        ValueError: if a take is missing, as partial results are not reported.
    """
    takes = Takes.of_run(run, plan)
    comparisons = compare_all(takes)
    results = summarise(takes, comparisons)
    embedder = next(iter(results.embedders))
    (run / FIGURES).mkdir(exist_ok=True)
    contents = {
        "plan": plan, "results": results, "embedder": embedder, "after_cue_s": AFTER_CUE_S,
        "shown_from": SHOWN_FROM,
        "scenarios": [_scenario(run, takes, name, embedder, results) for name in plan.scenarios],
        "guardrails": _guardrails(results, plan), "noise_floor": _noise_floor(results),
        "facts": _conditions(plan, results),
    }  # fmt: skip
    page = render("comparison.html.j2", contents)
    write_document(run / RESULTS, results)
    write_whole(run / TABLE, csv_of(takes).encode())
    write_whole(run / REPORT, page.encode())
    return results


def render(template: str, contents: dict[str, Any]) -> str:
    """Render a page from `eval/templates`, escaping its contents."""
    return PAGES.get_template(template).render(contents) + "\n"


def _scenario(run: Path, takes: Takes, name: str, embedder: str, results: Results) -> dict[str, Any]:
    """The page's contents for one scenario."""
    plan = takes.plan
    base = plan.arms[0].name
    of_scenario = [c for c in results.comparisons if c.scenario == name]
    comparisons = [c for c in of_scenario if c.baseline == base]
    drift = [c for c in comparisons if c.outcome.startswith(f"drift.{embedder}@")]
    interval_plot = figures.interval_plot(drift, [arm.name for arm in plan.arms])
    return {
        "name": name,
        "curves": _figure(run, f"{name}-curves", figures.drift_curves(takes, name, embedder)),
        "first_frames": _first_frames(run, name, embedder, results),
        "drift": _drift_table(drift),
        "intervals": _figure(run, f"{name}-intervals", interval_plot),
        "pairs": _pairs(run, takes, name, embedder),
        "contrasts": _contrasts([c for c in of_scenario if c.baseline != base], embedder),
        "companions": _companions(comparisons, plan, embedder),
        "recalled": _recalled([row for row in results.recalled if row.scenario == name]),
    }


def _first_frames(run: Path, scenario: str, embedder: str, results: Results) -> Picture | None:
    """Cosine to the first frame over time; None if a take was measured before there was one."""
    found = [each for each in results.first_frames if (each.scenario, each.embedder) == (scenario, embedder)]
    return _figure(run, f"{scenario}-first-frame", figures.first_frame_curves(found)) if found else None


def _pairs(run: Path, takes: Takes, scenario: str, embedder: str) -> dict[str, Any] | None:
    """A paired plot, and pictures of pairs with notes; None if no pair can be compared."""
    plan = takes.plan
    drifts = _story_drifts(takes, scenario, embedder)
    if not drifts:
        return None
    label = f"D({plan.seconds:g} s) by {embedder}, mean over seeds"
    plot = figures.paired_plot(takes, drifts, (plan.arms[0].name, plan.arms[1].name), label)
    return {
        "plot": _figure(run, f"{scenario}-pairs", plot),
        "pictures": [*_strips(run, takes, scenario, drifts), _endings(run, takes, scenario, drifts)],
    }


def _story_drifts(takes: Takes, scenario: str, embedder: str) -> dict[str, dict[str, float]]:
    """D at the longest horizon by story and arm (the first two), for stories in which both have it."""
    plan = takes.plan
    outcome = next(each for each in takes.outcomes if each.name == f"drift.{embedder}@{plan.seconds:g}")
    base, arm = (each.name for each in plan.arms[:2])
    by_story, _ = means_by_story(takes, outcome, scenario, arm, base)
    return {story: dict(zip((arm, base), means, strict=True)) for story, means in by_story.items()}


def _drift_table(drift: Sequence[Comparison]) -> Table:
    rows: list[list[str | Toned]] = []
    for c in drift:
        p = c.paired
        if p is None:
            rows.append([f"{c.horizon_s:g} s", c.arm, "nothing to compare"])
            continue
        tone = "" if p.low is None or p.high is None else "better" if p.high < 0 else "worse" if p.low > 0 else ""
        rows.append(
            [
                f"{c.horizon_s:g} s", c.arm, f"{c.means[c.baseline]:.3f}", f"{c.means[c.arm]:.3f}",
                Toned(f"{p.mean:+.3f}", tone), _interval(p.low, p.high, 3), f"{p.median:+.3f}", f"{p.win_rate:.0%}",
                f"{p.p:.2g}" if c.confirmatory else "", "" if c.p_holm is None else f"{c.p_holm:.2g}", str(p.prompts),
            ]
        )  # fmt: skip
    head = ["horizon", "arm", f"D {drift[0].baseline}", "D arm", "difference", "95 % interval", "median", "wins", "p",
            "p (Holm)", "prompts"]  # fmt: skip
    return Table(head, rows)


def _contrasts(comparisons: Sequence[Comparison], embedder: str) -> Table:
    """Table of drift and kept traits for contrasts without the baseline."""
    rows = []
    for c in comparisons:
        if c.paired is None or not c.outcome.startswith((f"drift.{embedder}@", "traits_kept@")):
            continue
        rows.append(
            [
                c.label, f"{c.horizon_s:g} s", c.arm, c.baseline, f"{c.paired.mean:+.3f}",
                _interval(c.paired.low, c.paired.high, 3), "" if c.p_holm is None else f"{c.p_holm:.2g}",
            ]
        )  # fmt: skip
    return Table(["outcome", "horizon", "arm", "against", "difference", "95 % interval", "p (Holm)"], rows)


def _companions(comparisons: Sequence[Comparison], plan: Plan, primary: str) -> Table:
    """Table of everything but the primary endpoint, at the longest horizon."""
    rows = []
    for c in comparisons:
        boring = c.outcome.startswith("seen.") and all(value == 1 for value in c.means.values())
        if c.horizon_s != plan.seconds or c.outcome.startswith(f"drift.{primary}@") or c.paired is None or boring:
            continue
        rows.append(
            [
                c.label, c.arm, f"{c.means[c.baseline]:.4f}", f"{c.means[c.arm]:.4f}", f"{c.paired.mean:+.4f}",
                _interval(c.paired.low, c.paired.high, 4),
                "lower is better" if c.lower_is_better else "higher is better",
            ]
        )  # fmt: skip
    return Table(["companion", "arm", "baseline", "arm's", "difference", "95 % interval", ""], rows)


def _recalled(rows: Sequence[Recalled]) -> Table:
    """Table of what the search found, at the cue and up to the horizon."""
    cells = [
        [
            f"{row.horizon_s:g} s", row.arm, "-" if row.seen_at_cue is None else f"{row.seen_at_cue:.0%}",
            f"{row.seen:.0%}", f"{row.seen_by_chance:.0%}",
            _figure_or_dash(row.likeness), _figure_or_dash(row.likeness_by_chance), str(row.takes),
        ]
        for row in rows
    ]  # fmt: skip
    head = ["horizon", "arm", "show the subject at the cue", "until the horizon", "of all past frames",
            "likeness", "of all past frames", "takes"]  # fmt: skip
    return Table(head, cells)


def _interval(low: float | None, high: float | None, digits: int) -> str:
    return "-" if low is None or high is None else f"{low:+.{digits}f} to {high:+.{digits}f}"


def _figure_or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _strips(run: Path, takes: Takes, scenario: str, pairs: dict[str, dict[str, float]]) -> list[tuple[Picture, str]]:
    """Film strips of the pairs with the best, median and worst difference, and the median pair's memory map."""
    plan = takes.plan
    base, arm = plan.arms[0], plan.arms[1]
    order = _by_difference(plan, pairs)
    chosen = dict(zip(("best", "median", "worst"), (order[0], order[(len(order) - 1) // 2], order[-1]), strict=True))
    found = []
    for which, story_id in chosen.items():
        story = next(story for story in plan.stories if story.id == story_id)
        folders = [(each.name, take_folder(run, Cell(each, story, 0))) for each in (base, arm)]
        reference_s = (story.origin_s + REFERENCE_S,) if story.origin_s else ()  # nobody may be visible at 0 s
        strip = figures.film_strip(folders, (0.0, *reference_s, *plan.horizons_s))
        difference = pairs[story_id][arm.name] - pairs[story_id][base.name]
        note = f"The {which} pair for {arm.name}: {_told(story)} Difference in drift {difference:+.3f}; seed 0."
        found.append((_figure(run, f"{scenario}-strip-{which}", strip), note))
        map_path = folders[1][1] / MEMORY_MAP
        if which == "median" and map_path.exists():
            with Image.open(map_path) as picture:
                small = picture.convert("RGB")
                small.thumbnail((900, 700), Image.Resampling.LANCZOS)
            found.append((_figure(run, f"{scenario}-memory", small), "What the median pair's memory did."))
    return found


def _endings(run: Path, takes: Takes, scenario: str, pairs: dict[str, dict[str, float]]) -> tuple[Picture, str]:
    """The last frames of all pairs, not only the three shown in detail."""
    plan = takes.plan
    base, arm = plan.arms[0], plan.arms[1]
    by_id = {story.id: story for story in plan.stories}
    stories = [by_id[story_id] for story_id in _by_difference(plan, pairs)[:MOST_ENDINGS]]

    def frames(of: Arm, second_of: Callable[[Story], float]) -> list[Any]:
        return [figures.frame_before(take_folder(run, Cell(of, story, 0)), second_of(story)) for story in stories]

    sheet = figures.endings(
        {
            f"{base.name}, at first": frames(base, lambda story: story.origin_s + REFERENCE_S),
            f"{base.name}, {plan.seconds:g} s": frames(base, lambda story: plan.seconds),
            f"{arm.name}, {plan.seconds:g} s": frames(arm, lambda story: plan.seconds),
        }
    )
    shown = (
        f"All {len(pairs)} pairs" if len(stories) == len(pairs) else f"The best {len(stories)} of {len(pairs)} pairs"
    )
    note = f"{shown}, the best for {arm.name} first, in the order of the plot above; seed 0."
    return _figure(run, f"{scenario}-endings", sheet), note


def _by_difference(plan: Plan, pairs: dict[str, dict[str, float]]) -> list[str]:
    """Story ids, best for the arm first."""
    base, arm = (each.name for each in plan.arms[:2])
    return sorted(pairs, key=lambda story: pairs[story][arm] - pairs[story][base])


def _told(story: Story) -> str:
    cues = "".join(f" {second:g} s: {prompt}." for second, prompt in story.cues[:4])
    return f"{story.prompt}.{cues}{' ...' if len(story.cues) > 4 else ''}"


def _guardrails(results: Results, plan: Plan) -> Table:
    """Table of all guardrails at the longest horizon, and of broken ones at shorter horizons."""
    shown = [rail for rail in results.guardrails if rail.horizon_s == plan.seconds or rail.state == "broken"]
    tones = {"kept": "better", "broken": "worse"}
    rows: list[list[str | Toned]] = [
        [
            rail.companion, rail.scenario, rail.arm, rail.against or "", f"{rail.horizon_s:g} s",
            f"{rail.worse_by:+.4f}", "-" if rail.at_most is None else f"{rail.at_most:+.4f}", f"{rail.margin:.4f}",
            Toned(rail.state, tones.get(rail.state, "")),
        ]
        for rail in shown
    ]  # fmt: skip
    return Table(["guardrail", "scenario", "arm", "against", "horizon", "worse by", "at most", "margin", "state"], rows)


def _noise_floor(results: Results) -> Table:
    """Table of the baseline compared with itself; empty with one seed."""
    rows = [
        [
            floor.outcome, floor.scenario, f"{floor.mean:+.4f}", _interval(floor.low, floor.high, 4),
            f"{floor.mean_absolute:.4f}", str(floor.prompts),
        ]
        for floor in results.noise_floor
        if floor.outcome.startswith("drift.")
    ]  # fmt: skip
    return Table(["outcome", "scenario", "mean difference", "95 % interval", "mean |difference|", "prompts"], rows)


def _conditions(plan: Plan, results: Results) -> dict[str, Any]:
    run, versions = results.conditions["run"], results.conditions["versions"]
    return {
        "backbone": run["backbone"], "device": run["device"], "dtype": run["dtype"], "threads": run["threads"],
        "noise": run["noise"], "decoder": plan.decoder, "video": run["codec"],
        "embedded": f"every {plan.embed_every}. frame",
        **{f"embedder {name}": about_embedder(about) for name, about in results.embedders.items()},
        **{f"arm {arm.name}": _settings(arm) for arm in plan.arms},
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }  # fmt: skip


def about_embedder(about: dict[str, Any]) -> str:
    """Format an embedder's description, without its name."""
    return ", ".join(f"{name} {value}" for name, value in about.items() if name != "embedder")


def _settings(arm: Any) -> str:
    changes = [f"{part}.{name} = {value}" for part, fields in arm.changes.items() for name, value in fields.items()]
    return (
        ", ".join([*changes, *([] if arm.retrieval == "similar" else [f"retrieval {arm.retrieval}"])]) or "the preset"
    )


def png_of(picture: Any) -> bytes:
    """Encode a Matplotlib figure or a Pillow image as PNG."""
    buffer = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(buffer, format="PNG")
    else:
        picture.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def keep_picture(path: Path, png: bytes) -> Picture:
    """Write a PNG, and return it for embedding in a page."""
    write_whole(path, png)
    return Picture(path.stem, base64.b64encode(png).decode())


def _figure(run: Path, name: str, picture: Any) -> Picture:
    return keep_picture(run / FIGURES / f"{name}.png", png_of(picture))


def text_cell(text: str) -> str:
    """Text as a cell of a CSV file: an apostrophe before what a spreadsheet would run as a formula (OWASP's advice)."""
    return f"'{text}" if text.startswith(FORMULA) else text


def csv_of(takes: Takes, text: Callable[[str], str] = text_cell) -> str:
    """Format one row per take, with a column for every outcome at every horizon; missing values are empty.

    Args:
        text: formats cells of text; `str` leaves them as they are.
    """
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    names = [outcome.name for outcome in takes.outcomes]
    table.writerow(["scenario", "prompt_id", "prompt", "arm", "seed", "noise_sha256", *map(text, names)])
    for cell in takes.plan.cells:
        values = [outcome.value(takes.measures(cell)) for outcome in takes.outcomes]
        table.writerow(
            [
                *map(text, (cell.story.scenario, cell.story.id, cell.story.prompt, cell.arm.name)), cell.seed,
                takes.figures[cell.name].noise.sha256, *("" if value is None else f"{value:.8g}" for value in values),
            ]
        )  # fmt: skip
    return out.getvalue()
