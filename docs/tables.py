"""The documents' tables: of options, from the commands themselves; of results, from the figures of their takes.

    python docs/tables.py          writes them
    python docs/tables.py --check  names the first document that differs, and fails

A table stands between `<!-- options of COMMAND -->`, with flags after the command's name if it has only those, and
`<!-- end -->`; one of results between `<!-- drift FOLDER TABLE -->`, with a folder of docs/drift and a name in
eval/tables.py, and `<!-- end -->`; `verdicts` and `named` stand there, too, and of several folders, with commas, the
`ceiling` and the `summary`, the latter of some of their arms only, if their names follow.
Means by policy and story, of a file of docs/drift with a row a take, stand between `<!-- development FILE -->` and
`<!-- end -->`. What `plan` says of serving stands between `<!-- capacity BACKBONE,BACKBONE -->` and `<!-- end -->`.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click

from eval.oracle import open_oracle
from eval.published import recompute
from eval.tables import NOT_MADE, TABLES, Found, ceiling_table, summary_table, verdicts
from eval.takes import Takes
from longlive_rag.cli.main import cli
from longlive_rag.cli.plan import plan_request, sharing, size
from longlive_rag.config import CheckpointConfig
from longlive_rag.generation.cues import Schedule
from longlive_rag.presets.needs import GIB, disk_bytes_an_hour, sessions_at_once
from longlive_rag.presets.precision import pick_precision
from longlive_rag.presets.preset import DEFAULT_BACKBONE, load_preset, preset_to_plan_with
from longlive_rag.sessions.asking import SETTINGS, build_request

DOCS = Path(__file__).parent
DOCUMENTS = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
TABLE = re.compile(
    r"(<!-- options of (?P<command>[\w ]+?)(?P<flags>(?: --[\w-]+)*) -->\n).*?(?=<!-- end -->)", re.DOTALL
)
RESULTS = re.compile(
    r"(<!-- drift (?P<folders>[\w,/-]+) (?P<table>\w+)(?P<arms>(?: \w+)*) -->\n).*?(?=<!-- end -->)", re.DOTALL
)
DEVELOPMENT = re.compile(r"(<!-- development (?P<file>[\w.-]+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
CAPACITY = re.compile(r"(<!-- capacity (?P<backbones>[\w.,-]+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
GPU_GIB, TAKE_SECONDS = (24, 48, 80), 60.0
SHORT = {"text": "TEXT", "path": "FILE", "gib": "GIB", "seconds": "SECONDS"}


def with_tables(text: str) -> str:
    """A document with its tables made anew."""
    text = TABLE.sub(lambda found: found[1] + table(found["command"].split(), found["flags"].split()), text)
    text = CAPACITY.sub(lambda found: found[1] + capacity(found["backbones"].split(",")), text)
    text = DEVELOPMENT.sub(lambda found: found[1] + development(found["file"]), text)
    return RESULTS.sub(
        lambda found: found[1] + results(found["folders"].split(","), found["table"], found["arms"].split()), text
    )


@cache
def results_of(folder: str) -> list[Found]:
    """The results of what a folder of docs/drift holds, computed again from its takes."""
    return recompute(DOCS / "drift" / folder)


def stories_of(named: str) -> list[Found]:
    """The results of FOLDER, or of one scenario of it: FOLDER/SCENARIO."""
    folder, _, scenario = named.partition("/")
    return [found for found in results_of(folder) if scenario in ("", found.scenario)]


def results(folders: list[str], name: str, arms: Sequence[str] = ()) -> str:
    """A table of results, as Markdown; a summary may be of some arms only."""
    if name == "named":
        return named(*folders)
    stories = [found for folder in folders for found in stories_of(folder)]
    if name == "summary":
        return summary_table(stories, arms)
    if name == "ceiling":
        return ceiling_table(stories)
    (found,) = stories
    return verdicts(found) if name == "verdicts" else TABLES[name](found)


def named(story: str) -> str:
    """Of each arm's takes: all traits kept, the subject as named in its opening, and both, as Markdown."""
    folder, _, scenario = story.partition("/")
    takes, oracle = Takes.published(DOCS / "drift" / folder), open_oracle()
    lines = ["| arm | all traits kept | as named in the opening | both |", "| --- | --- | --- | --- |"]
    for arm in takes.plan.arms:
        cells = [each for each in takes.plan.cells if each.arm == arm and scenario in ("", each.story.scenario)]
        found = []
        for cell in cells:
            traits = takes.measures(cell).traits[-1]
            prompt = [text for second, text in cell.story.prompts if second <= cell.story.origin_s][-1]
            is_named = any(one.items() <= traits.opening.items() for one in oracle.characters_in(prompt))
            found.append((traits.all_kept, is_named, traits.all_kept and is_named))
        shares = (f"{sum(column) / len(cells):.0%}".replace("%", " %") for column in zip(*found, strict=True))
        lines.append(f"| {arm.name} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def development(file: str) -> str:
    """What each policy kept in each story, and how much it drifted: means over takes, as Markdown."""
    with (DOCS / "drift" / file).open(newline="") as rows:
        takes = list(csv.DictReader(rows))
    cells: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for take in takes:
        cells[take["policy"], take["story"]].append(take)
    told = list(dict.fromkeys(take["story"] for take in takes))

    def cell(policy: str, story: str) -> str:
        some = cells.get((policy, story))
        if not some:
            return NOT_MADE
        kept = sum(int(take["all_kept"]) for take in some) / len(some)
        drifts = [float(take["drift"]) for take in some if take["drift"]]
        return f"{kept:.0%}, {sum(drifts) / len(drifts):.3f}".replace("%", " %")

    policies = dict.fromkeys(take["policy"] for take in takes)
    lines = [f"| policy | {' | '.join(told)} |", "| --- |" + " --- |" * len(told)]
    lines += [f"| {policy} | {' | '.join(cell(policy, story) for story in told)} |" for policy in policies]
    return "\n".join(lines) + "\n"


def capacity(backbones: list[str]) -> str:
    """Takes at once on a GPU, and disk for an hour of video, by backbone at its preset, as Markdown."""
    rows = ["| backbone | video | " + " | ".join(f"on {gib} GiB" for gib in GPU_GIB) + " | exact | light |"]
    rows.append("|---|---|" + "---|" * (len(GPU_GIB) + 2))
    for name in backbones:
        preset = preset_to_plan_with(name)
        request = sharing(build_request(preset, Schedule("a plan", (), TAKE_SECONDS), 0, {}))
        asked = (preset, request, pick_precision("auto", "cuda"), "cuda", True, CheckpointConfig())
        plans = [(gib * GIB, plan_request(*asked, gib * GIB)) for gib in GPU_GIB]
        at_once = [str(sessions_at_once(plan, there, None)) for there, plan in plans]
        plan, output = plans[0][1], request.output
        exact = disk_bytes_an_hour(plan, request.seconds)
        light = exact - round(plan.disk["checkpoints"] * 3600 / request.seconds)
        video = f"{output.width}x{output.height}, {output.fps} frames a second"
        rows.append(f"| `{name}` | {video} | {' | '.join(at_once)} | {size(exact)} | {size(light)} |")
    return "\n".join(rows) + "\n"


def table(command: list[str], flags: list[str]) -> str:
    """The options of a command, or those of them that are named, as Markdown."""
    found: Any = cli
    for name in command:
        found = found.get_command(click.Context(found), name)
    options = [each for each in found.params if isinstance(each, click.Option) and not each.hidden]
    shown = [each for each in options if not flags or set(each.opts) & set(flags)]
    rows = ["| option | what | default |", "|---|---|---|"]
    rows += [f"| {name_of(each)} | {what_of(each)} | {default_of(each)} |" for each in shown]
    return "\n".join(rows) + "\n"


def name_of(option: click.Option) -> str:
    """Its flags and what follows them."""
    names = " / ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.is_flag or option.opts[0].startswith("--no-"):
        return names
    choices = getattr(option.type, "choices", None)
    value = option.metavar or ("|".join(choices) if choices else SHORT.get(option.type.name, option.type.name.upper()))
    return f"{names[:-1]} {value}`".replace("|", r"\|")


def what_of(option: click.Option) -> str:
    """Its help, in a table's cell."""
    return re.sub(r"\s*\[default: .*?\]", "", option.help or "").replace("|", r"\|")


def default_of(option: click.Option) -> str:
    """What holds without it: of settings, what tiny-world's preset says."""
    preset = load_preset(DEFAULT_BACKBONE)
    stated = re.search(r"\[default: (.*?)\]", option.help or "")
    if stated:
        return stated[1]
    setting = next((each for each in SETTINGS if each.key == option.name), None)
    value = getattr(getattr(preset, setting.part), setting.knob.name) if setting else option.default
    if option.opts[0].startswith("--no-") or option.required or (isinstance(value, bool) and not setting):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return (
        f"{value:g}" if isinstance(value, float) else "" if value is None or "Sentinel" in repr(value) else str(value)
    )


def main() -> None:
    """Write the tables, or compare them."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        made = with_tables(text)
        if made != text and "--check" in sys.argv:
            sys.exit(f"{path.name} has an old table; run: make docs")
        path.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
