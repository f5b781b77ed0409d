"""A comparison made public: small enough for a repository, and enough to make every figure of it again."""

from __future__ import annotations

from pathlib import Path

from eval.plan import PLAN, read_plan
from eval.report import RESULTS, TABLE, csv_of
from eval.results import Results, compare_all, summarise
from eval.tables import TABLES, Found, summary_table, verdicts
from eval.takes import Takes
from longlive_rag.documents import write_document
from retrieval.files import write_json, write_whole


def publish(run: Path, folder: Path) -> int:
    """Write what is public of a finished run into a folder; returns how many takes there are.

    Raises:
        ValueError: if the run is not finished, or the folder holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; name a new folder")
    plan = read_plan(run)
    takes = Takes.of_run(run, plan)
    folder.mkdir(parents=True, exist_ok=True)
    takes.publish(folder)
    write_whole(folder / TABLE, csv_of(takes).encode())
    write_json(folder / PLAN, plan.as_dict())  # last: without it, nothing is there
    return len(plan.cells)


def recompute(folder: Path) -> list[Found]:
    """Everything that a published comparison says, a scenario each, from its takes' figures.

    Raises:
        ValueError: if the folder holds none, or its table is not that of its takes.
    """
    takes = Takes.published(folder)
    table = folder / TABLE
    if not table.is_file() or table.read_text(encoding="utf-8") != csv_of(takes):
        raise ValueError(f"{table} is not the table of the takes beside it")
    results = summarise(takes, compare_all(takes))
    return [Found(takes.plan, results, scenario) for scenario in takes.plan.scenarios]


def as_markdown(all_found: list[Found]) -> str:
    """All tables of published comparisons."""
    parts = [f"## All stories\n\n{summary_table(all_found)}"] if len(all_found) > 1 else []
    for found in all_found:
        parts.append(f"## {found.scenario}\n\n{verdicts(found)}")
        parts += [f"### {name}\n\n{table(found)}" for name, table in TABLES.items()]
    return "\n".join(parts)


def write_results(folder: Path, results: Results) -> None:
    """`results.json` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_document(folder / RESULTS, results)
