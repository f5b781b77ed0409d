"""What is published of a comparison makes its results again, and the documents' tables are made from it."""

from __future__ import annotations

import csv
import json
import lzma
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner, Result

from eval.compare import compare
from eval.published import publish, recompute
from eval.results import Results
from eval.tables import TABLES, Found, policies_table, summary_table, way_to_ceiling
from longlive_rag.cli.main import cli
from longlive_rag.documents import read_document
from tests.eval.arms import DriftingPipeline, plan_of, slow_backbone


def run_eval(*words: object) -> Result:
    return CliRunner().invoke(cli, ["eval", *map(str, words)])


def as_cells(table: str) -> list[list[str]]:
    """The head and the rows of a Markdown table."""
    head, _, *rows = table.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *rows)]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A run of three arms, and what was published of it."""
    folder = tmp_path_factory.mktemp("published")
    plan = plan_of(slow_backbone(folder / "backbone"), arms="native,memory,memory-random", prompts=7, seeds=2)
    compare(plan, folder / "run", pipe=DriftingPipeline())
    publish(folder / "run", folder / "public")
    return folder / "run", folder / "public"


def test_all_results_are_made_again_from_what_is_published(published, tmp_path):
    run, public = published
    assert sorted(path.name for path in public.iterdir()) == ["plan.json", "takes.csv", "takes.jsonl.xz"]
    told = json.loads(run_eval("recompute", public, "--json", "-o", tmp_path).stdout)
    assert told == json.loads((run / "results.json").read_text())
    assert read_document(tmp_path / "results.json", Results).model_dump(mode="json") == told


def test_a_comparison_published_before_a_figure_was_added_opens_without_it(published, tmp_path):
    _, public = published
    old = tmp_path / "old"
    shutil.copytree(public, old)
    takes = [json.loads(line) for line in lzma.decompress((old / "takes.jsonl.xz").read_bytes()).decode().splitlines()]
    for take in takes:
        del take["measures"]["curves"]["cosine_to_first"]
        for each in take["measures"]["protocols"]:
            del each["cosine_to_first"], each["last_consistency"]
    (old / "takes.jsonl.xz").write_bytes(lzma.compress("\n".join(map(json.dumps, takes)).encode()))
    rows = list(csv.reader((old / "takes.csv").open()))
    kept = [place for place, name in enumerate(rows[0]) if not name.startswith(("cosine_to_first", "last_consistency"))]
    lines = [",".join(row[place] for place in kept) for row in rows]
    assert len(kept) < len(rows[0])
    (old / "takes.csv").write_text("\n".join(lines) + "\n")
    (found,) = recompute(old)
    (whole,) = recompute(public)
    assert (found.results.first_frames, found.results.verdicts) == ([], whole.results.verdicts)
    outcomes = {c.outcome for c in whole.results.comparisons} - {c.outcome for c in found.results.comparisons}
    assert {name.partition(".")[0] for name in outcomes} == {"cosine_to_first", "last_consistency"}


def test_a_table_published_before_text_was_guarded_opens(published, monkeypatch):
    _, public = published
    monkeypatch.setattr("eval.report.FORMULA", ("a ",))  # as every prompt here begins
    assert recompute(public)


def test_nothing_of_the_machine_is_published(published):
    run, public = published
    text = lzma.decompress((public / "takes.jsonl.xz").read_bytes()).decode()
    assert str(run) not in text


def test_tables_hold_the_means_of_the_takes(published):
    _, public = published
    (found,) = recompute(public)
    rows = list(csv.DictReader((public / "takes.csv").open()))
    horizon = found.plan.seconds

    def by_prompt(arm):
        values = {}
        for row in rows:
            if row["arm"] == arm:
                values.setdefault(row["prompt_id"], []).append(float(row[f"drift.pixels@{horizon:g}"]))
        return np.array([np.mean(each) for each in values.values()])

    cells = as_cells(TABLES["drift"](found))
    assert [row[0] for row in cells] == ["arm", "native", "memory", "memory-random"]
    assert cells[1][-1] == f"{by_prompt('native').mean():.3f}"
    for row in cells[2:]:
        mean = by_prompt(row[0]).mean()
        assert row[-1].startswith(f"{mean:.3f}, {mean - by_prompt('native').mean():+.3f} (")
    against = as_cells(TABLES["contrasts"](found))
    assert [row[0] for row in against[1:]] == ["memory - native", "memory - memory-random"]
    assert against[2][-1].startswith(f"{by_prompt('memory').mean() - by_prompt('memory-random').mean():+.3f} (")
    for name, table in TABLES.items():
        width = {len(row) for row in as_cells(table(found))}
        assert len(width) == 1, name


@pytest.mark.parametrize("harm", ["cut", "one take less", "another table", "no plan", "not compressed"])
def test_what_is_not_whole_is_refused(published, tmp_path, harm):
    _, public = published
    folder = tmp_path / "public"
    folder.mkdir()
    for path in public.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    takes = folder / "takes.jsonl.xz"
    if harm == "cut":
        takes.write_bytes(takes.read_bytes()[:-100])
    elif harm == "one take less":
        lines = lzma.decompress(takes.read_bytes()).decode().splitlines()
        takes.write_bytes(lzma.compress("\n".join(lines[1:]).encode()))
    elif harm == "another table":
        table = folder / "takes.csv"
        table.write_text(table.read_text().replace("0.", "0.1", 1))
    elif harm == "no plan":
        (folder / "plan.json").unlink()
    else:
        takes.write_bytes(b"[]")
    told = run_eval("recompute", folder)
    assert told.exit_code == 2
    assert told.stderr.splitlines()[-1].startswith("Error: ")
    assert str(folder) in told.stderr


def test_a_folder_that_holds_something_is_not_published_into(published, tmp_path):
    run, _ = published
    (tmp_path / "mine").write_text("mine")
    told = run_eval("publish", run, "-o", tmp_path)
    assert told.exit_code == 2
    assert "name a new folder" in told.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_policies_brought_back_is_told_story_by_story(published):
    (found,) = recompute(published[1])
    row = next(each for each in found.results.recalled if each.arm == "memory" and each.horizon_s == found.plan.seconds)
    other = replace(row, scenario="another", seen=0.125, seen_by_chance=0.5)
    both = found.results.model_copy(update={"recalled": [*found.results.recalled, other]})
    cells = {name: as_cells(policies_table(Found(found.plan, results, found.scenario), {}))
             for name, results in (("alone", found.results), ("both", both))}  # fmt: skip
    assert cells["both"] == cells["alone"]
    assert f"{row.seen:.0%}".replace("%", " %") in cells["alone"][2][5]


def story(scenario, **means):
    """A story whose arms have these means, the baseline first."""
    plan = SimpleNamespace(seconds=120.0, arms=[SimpleNamespace(name=name) for name in means])
    return SimpleNamespace(
        scenario=scenario, plan=plan, baseline=next(iter(means)), mean=lambda outcome, horizon_s, arm: means.get(arm)
    )


@pytest.mark.parametrize(
    ("means", "way"),
    [
        ({"native": 0.25, "memory": 0.5, "oracle": 0.75}, 0.5),
        ({"native": 0.25, "memory": 0.75, "oracle": 0.5}, 2.0),  # better than right frames
        ({"native": 0.25, "memory": 0.0, "oracle": 0.75}, -0.5),
        ({"native": 0.25, "memory": 0.5, "oracle": 0.25}, None),
        ({"native": 0.25, "memory": 0.5}, None),
        ({"native": 0.25, "oracle": 0.5}, None),
    ],
)
def test_a_policy_is_so_far_on_the_way_from_native_to_the_ceiling(means, way):
    assert way_to_ceiling(story("walk", **means), "memory") == way


def test_an_arm_that_was_not_made_in_a_story_has_a_dash():
    rows = summary_table([story("walk", native=0.25, memory=0.5), story("stare", native=0.75)]).splitlines()
    assert rows[2:] == ["| walk | 25 % | 50 % | 0.250 | 0.500 |", "| stare | 75 % | - | 0.750 | - |"]
