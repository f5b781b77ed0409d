"""Published comparisons: small enough for a repository, and sufficient to recompute every figure."""

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
    """Write the publishable part of a finished run to a folder, and return the number of takes.

    Raises:
        ValueError: if the run is not finished, or the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} already exists; name a new folder")
    plan = read_plan(run)
    takes = Takes.of_run(run, plan)
    folder.mkdir(parents=True, exist_ok=True)
    takes.publish(folder)
    write_whole(folder / TABLE, csv_of(takes).encode())
    write_json(folder / PLAN, plan.as_dict())  # last, because without it the folder does not count as published
    return len(plan.cells)


def recompute(folder: Path) -> list[Found]:
    """Recompute the results of a published comparison, one per scenario, from its takes' figures.

    Raises:
        ValueError: if the folder does not hold one, or its table does not match its takes.
    """
    takes = Takes.published(folder)
    table = folder / TABLE
    unguarded = csv_of(takes, str)  # as it was published before text was kept from running as formulas
    if not table.is_file() or table.read_text(encoding="utf-8") not in (csv_of(takes), unguarded):
        raise ValueError(f"{table} does not match the takes next to it")
    results = summarise(takes, compare_all(takes))
    return [Found(takes.plan, results, scenario) for scenario in takes.plan.scenarios]


def as_markdown(all_found: list[Found]) -> str:
    """Format all tables of published comparisons as Markdown."""
    parts = [f"## All stories\n\n{summary_table(all_found)}"] if len(all_found) > 1 else []
    for found in all_found:
        parts.append(f"## {found.scenario}\n\n{verdicts(found)}")
        parts += [f"### {name}\n\n{table(found)}" for name, table in TABLES.items()]
    return "\n".join(parts)


def write_results(folder: Path, results: Results) -> None:
    """Write `results.json` to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_document(folder / RESULTS, results)
