"""The report of a comparison: one self-contained HTML file, its pictures as PNG, its figures as CSV and JSON."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from eval import figures
from eval.plan import Arm, Cell, Plan
from eval.recalled import AFTER_CUE_S, Recalled, what_was_recalled
from eval.results import Comparison, Takes, compare_all, summarise
from eval.runs import take_folder
from eval.scenarios import Story
from eval.windows import REFERENCE_S
from longlive_rag.takes.folder import MEMORY_MAP
from retrieval.files import write_json, write_whole

REPORT, RESULTS, TABLE, FIGURES = "report.html", "results.json", "takes.csv", "figures"
MOST_ENDINGS = 32
REPRODUCE = "longlive-rag eval compare --plan RUN/plan.json -o ANOTHER-RUN"

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1d2129; background: #f4f5f8;
  margin: 0 }
main { max-width: 1000px; margin: 0 auto; padding: 40px 24px 80px }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em }
h2 { font-size: 21px; margin: 44px 0 10px } h3 { font-size: 16px; margin: 24px 0 6px }
.faint, figcaption, caption { color: #6b7280; font-size: 14px }
.verdict { background: #fff; border-left: 5px solid #1f6fd6; border-radius: 6px; padding: 16px 20px; margin: 18px 0;
  font-size: 18px; box-shadow: 0 1px 2px #0001 }
.card, figure { background: #fff; border-radius: 8px; padding: 16px; margin: 14px 0; box-shadow: 0 1px 2px #0001;
  overflow-x: auto }
figure img { max-width: 100%; height: auto; display: block } figcaption { margin-top: 8px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px }
caption { text-align: left; padding-bottom: 6px }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid #e3e6ec; white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { color: #6b7280; font-weight: 600 }
.better { color: #0d6b3f; font-weight: 600 } .worse { color: #b3261e; font-weight: 600 }
pre { background: #1d2129; color: #e8eaee; padding: 12px 16px; border-radius: 6px; overflow-x: auto; font-size: 13px }
"""


def write_report(run: Path, plan: Plan) -> dict[str, Any]:
    """Write report, pictures, table and results into a run's folder; returns the results.

    Raises:
        ValueError: if a take is missing: partial results are no results.
    """
    takes = Takes(run, plan)
    comparisons = compare_all(takes)
    results = summarise(takes, comparisons)
    recalled = what_was_recalled(takes, next(iter(results["embedders"])))
    results["recalled"] = [asdict(row) for row in recalled]
    (run / FIGURES).mkdir(exist_ok=True)
    page = _page(takes, comparisons, recalled, results)
    write_json(run / RESULTS, results)
    write_whole(run / TABLE, _csv(takes).encode())
    write_whole(run / REPORT, page.encode())
    return results


def _page(
    takes: Takes, comparisons: Sequence[Comparison], recalled: Sequence[Recalled], results: dict[str, Any]
) -> str:
    plan = takes.plan
    arms = [arm.name for arm in plan.arms]
    embedder = next(iter(results["embedders"]))
    parts = [
        f"<h1>{escape(arms[1])} against {escape(arms[0])}</h1>",
        f'<p class="faint">{_what(plan, results)}</p>',
        *[f'<div class="verdict">{escape(verdict)}</div>' for verdict in results["verdicts"]],
        "".join(f'<div class="card worse">{escape(note)}</div>' for note in results["warnings"]),
        f"<p>Drift is <i>D(h)</i>: how much nearer the subject is to its first second in seconds 1 to 5 than in the "
        f"last 5 s before the horizon <i>h</i> (cosine of {escape(embedder)} embeddings). 0 is none; higher is worse. "
        f"Takes of one prompt and seed are made from the same noise; the unit is the prompt.</p>",
    ]
    for scenario in plan.scenarios:
        parts.append(_scenario(takes, scenario, embedder, [c for c in comparisons if c.scenario == scenario]))
        parts.append(_recalled([row for row in recalled if row.scenario == scenario]))
    parts += [_guardrails(results), _noise_floor(takes, results), _conditions(takes, results)]
    title = f"{arms[1]} against {arms[0]}: identity drift"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><main>{''.join(parts)}</main></html>\n"
    )


def _what(plan: Plan, results: dict[str, Any]) -> str:
    prompts = ", ".join(f"{count} prompts ({escape(name)})" for name, count in results["prompts"].items())
    seeds = "1 seed" if plan.seeds == 1 else f"{plan.seeds} seeds"
    arms = ", ".join(escape(arm.name) for arm in plan.arms)
    takes = f"{results['takes']} takes of {plan.seconds:g} s"
    return f"{takes}: {prompts}, {seeds}, arms {arms}; backbone {escape(plan.backbone)}"


def _scenario(takes: Takes, scenario: str, embedder: str, comparisons: Sequence[Comparison]) -> str:
    plan = takes.plan
    arms = [arm.name for arm in plan.arms]
    drift = [c for c in comparisons if c.outcome.startswith(f"drift.{embedder}@")]
    curves = _figure(takes.run, f"{scenario}-curves", figures.drift_curves(takes, scenario, embedder))
    intervals = _figure(takes.run, f"{scenario}-intervals", figures.interval_plot(drift, arms))
    pairs = _story_drifts(takes, scenario, embedder)
    parts = [
        f"<h2>{escape(scenario)}</h2>",
        f"<p>{escape(plan.about.get(scenario, ''))}</p>",
        _caption(curves, "Likeness to the reference second; mean over prompts, bands: 95 % bootstrap over prompts. "
                 "Seconds in which fewer than half of the prompts show the subject are left out. "
                 "Grey: the windows that D compares. Thin lines: cues of the first prompt."),
        _drift_table(drift),
        _caption(intervals, "Mean paired difference by horizon; an interval that touches 0 shows no difference."),
    ]  # fmt: skip
    if pairs:
        label = f"D({plan.seconds:g} s) by {embedder}, mean over seeds"
        plot = figures.paired_plot(takes, pairs, (arms[0], arms[1]), label)
        parts.append(_caption(_figure(takes.run, f"{scenario}-pairs", plot), "Each prompt, best for the arm on top."))
        parts.append(_strips(takes, scenario, pairs))
        parts.append(_endings(takes, scenario, pairs))
    parts.append(_companions(comparisons, plan, embedder))
    return "".join(parts)


def _story_drifts(takes: Takes, scenario: str, embedder: str) -> dict[str, dict[str, float]]:
    """D at the longest horizon by story and arm (the first two), of stories in which both have it."""
    plan = takes.plan
    outcome = next(each for each in takes.outcomes if each.name == f"drift.{embedder}@{plan.seconds:g}")
    base, arm = (each.name for each in plan.arms[:2])
    found: dict[str, dict[str, float]] = {}
    for story in (story for story in plan.stories if story.scenario == scenario):
        pairs = [
            [outcome.value(measures) for measures in takes.pair(arm, story.id, seed)] for seed in range(plan.seeds)
        ]
        whole = [pair for pair in pairs if None not in pair]
        if whole:
            means = [sum(value or 0.0 for value in column) / len(whole) for column in zip(*whole, strict=True)]
            found[story.id] = dict(zip((arm, base), means, strict=True))
    return found


def _drift_table(drift: Sequence[Comparison]) -> str:
    rows = []
    for c in drift:
        p = c.paired
        if p is None:
            rows.append([f"{c.horizon_s:g} s", c.arm, "nothing to compare"])
            continue
        interval = "-" if p.low is None or p.high is None else f"{p.low:+.3f} to {p.high:+.3f}"
        holm = "" if c.p_holm is None else f"{c.p_holm:.2g}"
        tone = "" if p.low is None or p.high is None else "better" if p.high < 0 else "worse" if p.low > 0 else ""
        rows.append(
            [
                f"{c.horizon_s:g} s", c.arm, f"{c.means[c.baseline]:.3f}", f"{c.means[c.arm]:.3f}",
                f'<span class="{tone}">{p.mean:+.3f}</span>', interval, f"{p.median:+.3f}", f"{p.win_rate:.0%}",
                f"{p.p:.2g}" if c.confirmatory else "", holm, str(p.prompts),
            ]
        )  # fmt: skip
    head = ["horizon", "arm", f"D {drift[0].baseline}", "D arm", "difference", "95 % interval", "median", "wins", "p",
            "p (Holm)", "prompts"]  # fmt: skip
    return html_table(
        head,
        rows,
        "D by horizon. Win: the prompt drifts less. p: sign flips, of the confirmatory tests; Holm over all of them.",
    )


def _companions(comparisons: Sequence[Comparison], plan: Plan, primary: str) -> str:
    """Everything but the primary endpoint, at the longest horizon."""
    rows = []
    for c in comparisons:
        boring = c.outcome.startswith("seen.") and all(value == 1 for value in c.means.values())
        if c.horizon_s != plan.seconds or c.outcome.startswith(f"drift.{primary}@") or c.paired is None or boring:
            continue
        p = c.paired
        interval = "-" if p.low is None or p.high is None else f"{p.low:+.4f} to {p.high:+.4f}"
        arrow = "lower is better" if c.lower_is_better else "higher is better"
        rows.append(
            [c.label, c.arm, f"{c.means[c.baseline]:.4f}", f"{c.means[c.arm]:.4f}", f"{p.mean:+.4f}", interval, arrow]
        )
    head = ["companion", "arm", "baseline", "arm's", "difference", "95 % interval", ""]
    return "<h3>Companions and other embedders</h3>" + html_table(
        head, rows, f"At {plan.seconds:g} s. Intervals only: no tests are made of these."
    )


def _recalled(rows: Sequence[Recalled]) -> str:
    """What the search found, at the moment that decides."""
    if not rows:
        return ""
    cells = [
        [
            f"{row.horizon_s:g} s", row.arm, f"{row.seen:.0%}", f"{row.seen_by_chance:.0%}",
            _figure_or_dash(row.likeness), _figure_or_dash(row.likeness_by_chance), str(row.takes),
        ]
        for row in rows
    ]  # fmt: skip
    head = ["horizon", "arm", "show the subject", "of all past frames", "likeness", "of all past frames", "takes"]
    text = (
        f"Frames brought back in the {AFTER_CUE_S:g} s after the last cue before each horizon (without cues: in the "
        "last seconds before it). Likeness: cosine to the reference, of those that show the subject."
    )
    return "<h3>What memory brought back</h3>" + html_table(head, cells, text)


def _figure_or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _strips(takes: Takes, scenario: str, pairs: dict[str, dict[str, float]]) -> str:
    """Film strips and memory maps of the pairs with the best, the median and the worst difference."""
    plan = takes.plan
    base, arm = plan.arms[0], plan.arms[1]
    order = _by_difference(plan, pairs)
    chosen = dict(zip(("best", "median", "worst"), (order[0], order[(len(order) - 1) // 2], order[-1]), strict=True))
    parts = ["<h3>What it looks like</h3>"]
    for which, story_id in chosen.items():
        story = next(story for story in plan.stories if story.id == story_id)
        folders = [(each.name, take_folder(takes.run, Cell(each, story, 0))) for each in (base, arm)]
        reference_s = (story.origin_s + REFERENCE_S,) if story.origin_s else ()  # at 0 s there may be nobody yet
        strip = figures.film_strip(folders, (0.0, *reference_s, *plan.horizons_s))
        difference = pairs[story_id][arm.name] - pairs[story_id][base.name]
        note = f"The {which} pair for {arm.name}: {_told(story)} Difference in drift {difference:+.3f}; seed 0."
        parts.append(_caption(_figure(takes.run, f"{scenario}-strip-{which}", strip), note))
        map_path = folders[1][1] / MEMORY_MAP
        if which == "median" and map_path.exists():
            with Image.open(map_path) as picture:
                small = picture.convert("RGB")
                small.thumbnail((900, 700), Image.Resampling.LANCZOS)
            parts.append(
                _caption(_figure(takes.run, f"{scenario}-memory", small), "What the median pair's memory did.")
            )
    return "".join(parts)


def _endings(takes: Takes, scenario: str, pairs: dict[str, dict[str, float]]) -> str:
    """Where all pairs ended up, not only the three that are told."""
    plan = takes.plan
    base, arm = plan.arms[0], plan.arms[1]
    by_id = {story.id: story for story in plan.stories}
    stories = [by_id[story_id] for story_id in _by_difference(plan, pairs)[:MOST_ENDINGS]]
    reference_s = stories[0].origin_s + REFERENCE_S

    def frames(of: Arm, second: float) -> list[Any]:
        return [figures.frame_before(take_folder(takes.run, Cell(of, story, 0)), second) for story in stories]

    sheet = figures.endings(
        {
            f"{base.name}, {reference_s:g} s": frames(base, reference_s),
            f"{base.name}, {plan.seconds:g} s": frames(base, plan.seconds),
            f"{arm.name}, {plan.seconds:g} s": frames(arm, plan.seconds),
        }
    )
    shown = (
        f"All {len(pairs)} pairs" if len(stories) == len(pairs) else f"The best {len(stories)} of {len(pairs)} pairs"
    )
    note = f"{shown}, the best for {arm.name} first, in the order of the plot above; seed 0."
    return _caption(_figure(takes.run, f"{scenario}-endings", sheet), note)


def _by_difference(plan: Plan, pairs: dict[str, dict[str, float]]) -> list[str]:
    """Story ids, the best for the arm first."""
    base, arm = (each.name for each in plan.arms[:2])
    return sorted(pairs, key=lambda story: pairs[story][arm] - pairs[story][base])


def _told(story: Story) -> str:
    cues = "".join(f" {second:g} s: {prompt}." for second, prompt in story.cues[:4])
    return f"{story.prompt}.{cues}{' ...' if len(story.cues) > 4 else ''}"


def _guardrails(results: dict[str, Any]) -> str:
    rows = [
        [
            rail["companion"], rail["scenario"], rail["arm"], f"{rail['worse_by']:+.4f}",
            "-" if rail["at_most"] is None else f"{rail['at_most']:+.4f}", f"{rail['margin']:.4f}",
            f'<span class="{ {"kept": "better", "broken": "worse"}.get(rail["state"], "") }">{rail["state"]}</span>',
        ]
        for rail in results["guardrails"]
    ]  # fmt: skip
    head = ["guardrail", "scenario", "arm", "worse by", "at most", "margin", "state"]
    text = (
        "Worse by: mean paired difference, positive is worse. Kept: the interval stays within the margin. Broken: the "
    )
    text += "mean is beyond it. Unclear: neither."
    return f"<h2>Guardrails</h2>{html_table(head, rows, text)}"


def _noise_floor(takes: Takes, results: dict[str, Any]) -> str:
    parts = ["<h2>What could have been seen</h2>"]
    for scenario, effect in results["detectable_effect"].items():
        count = results["prompts"][scenario]
        parts.append(
            f"<p>{escape(scenario)}: with {count} prompts, a mean difference of {effect:.2f} standard deviations (over "
            "prompts) is seen with 80 % power at 5 %.</p>"
        )
    rows = [
        [
            floor["outcome"],
            floor["scenario"],
            f"{floor['mean']:+.4f}",
            "-" if floor["low"] is None else f"{floor['low']:+.4f} to {floor['high']:+.4f}",
            f"{floor['mean_absolute']:.4f}",
            str(floor["prompts"]),
        ]
        for floor in results["noise_floor"]
        if floor["outcome"].startswith("drift.")
    ]
    if rows:
        text = (
            f"Noise floor: {takes.plan.arms[0].name} against itself, seed 0 minus seed 1, the same prompts. Mean "
            "differences between arms are to be held against the mean difference here; how far one prompt's two seeds "
            "lie apart, the mean |difference| says."
        )
        head = ["outcome", "scenario", "mean difference", "95 % interval", "mean |difference|", "prompts"]
        parts.append(html_table(head, rows, text))
    else:
        parts.append("<p>With one seed there is no noise floor.</p>")
    return "".join(parts)


def _conditions(takes: Takes, results: dict[str, Any]) -> str:
    run, versions = results["conditions"]["run"], results["conditions"]["versions"]
    facts = {
        "backbone": run["backbone"], "device": run["device"], "dtype": run["dtype"], "threads": run["threads"],
        "noise": run["noise"], "video": run["codec"], "embedded": f"every {takes.plan.embed_every}. frame",
        **{f"embedder {name}": ", ".join(f"{k} {v}" for k, v in about.items() if k != "embedder")
           for name, about in results["embedders"].items()},
        **{f"arm {arm.name}": _settings(arm) for arm in takes.plan.arms},
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }  # fmt: skip
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td style="text-align:left;white-space:normal">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    return (
        f'<h2>Conditions</h2><div class="card"><table>{rows}</table></div>'
        f"<p>To make it again (RUN is this run's folder):</p><pre>{escape(REPRODUCE)}</pre>"
    )


def _settings(arm: Any) -> str:
    changes = [f"{part}.{name} = {value}" for part, fields in arm.changes.items() for name, value in fields.items()]
    return (
        ", ".join([*changes, *([] if arm.retrieval == "similar" else [f"retrieval {arm.retrieval}"])]) or "the preset"
    )


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table on a card; the rows' cells are HTML already, heads and caption are text."""
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="card"><table><caption>{escape(caption)}</caption><tr>{heads}</tr>{body}</table></div>'


def png_of(picture: Any) -> bytes:
    """A Matplotlib figure or a Pillow image as PNG."""
    buffer = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(buffer, format="PNG", optimize=True)
    else:
        picture.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def keep_picture(path: Path, png: bytes) -> str:
    """Write a PNG, and return it as an image for inside the report."""
    write_whole(path, png)
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _figure(run: Path, name: str, picture: Any) -> str:
    return keep_picture(run / FIGURES / f"{name}.png", png_of(picture))


def _caption(image: str, text: str) -> str:
    return f"<figure>{image}<figcaption>{escape(text)}</figcaption></figure>"


def _csv(takes: Takes) -> str:
    """A row a take and outcome."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["scenario", "prompt_id", "prompt", "arm", "seed", "outcome", "horizon_s", "value", "noise_sha256"])
    for cell in takes.plan.cells:
        for outcome in takes.outcomes:
            value = outcome.value(takes.measures[cell.name])
            table.writerow(
                [
                    cell.story.scenario, cell.story.id, cell.story.prompt, cell.arm.name, cell.seed, outcome.name,
                    f"{outcome.horizon_s:g}", "" if value is None else f"{value:.8g}", takes.noise[cell.name],
                ]
            )  # fmt: skip
    return out.getvalue()
