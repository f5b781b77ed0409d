"""What the documents say to type works as written."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import numpy as np
import pytest

from eval.results import verdict
from eval.statistics import holm
from longlive_rag.cli.main import cli
from longlive_rag.diagnostics.gpu_steps import STEPS
from longlive_rag.presets.preset import BUILT_IN
from longlive_rag.serving.keys import ApiKey, Keys

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

HAS_TINY_WORLD = (BUILT_IN["tiny-world"] / "model_index.json").is_file()
needs_tiny_world = pytest.mark.skipif(not HAS_TINY_WORLD, reason="tiny-world's weights are not here")


def commands_in(text: str) -> list[list[str]]:
    """`longlive-rag` lines of indented or fenced blocks, without redirections and variables set before them."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    shown = [re.sub(r"^(\$ |[A-Z_]+=\S+ )+", "", line.strip()) for line in lines]
    words = [shlex.split(line) for line in shown if line.startswith("longlive-rag ")]
    return [line[1 : line.index(">") if ">" in line else None] for line in words]


def commands_of(group: click.Group) -> dict[str, click.Command]:
    """By name, with those of groups as `eval drift`; groups themselves, too."""
    found: dict[str, click.Command] = {}
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": one for inner, one in commands_of(command).items()}
    return found


def all_texts() -> list[str]:
    helps = [command.help or "" for command in commands_of(cli).values()]
    return [document.read_text() for document in (*DOCUMENTS, *sorted((ROOT / "examples").glob("*.py")))] + helps


def all_commands() -> list[list[str]]:
    return [command for text in all_texts() for command in commands_in(text)]


def resolve(words: list[str]) -> None:
    """Parse a command line as click would, without running it."""
    context = click.Context(cli, info_name="longlive-rag")
    group: click.Command = cli
    while isinstance(group, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        found = group.get_command(context, name)
        assert found is not None, name
        context, group = click.Context(found, parent=context, info_name=name), found
    with contextlib.suppress(click.exceptions.Exit):  # --help
        group.make_context(context.info_name, list(words))


def script(name: str) -> ModuleType:
    """A module of docs/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reports_on_drift() -> str:
    return "".join(page.read_text() for page in sorted((ROOT / "docs").glob("drift*.md")))


def published() -> list[str]:
    """Folders of docs/drift that hold a comparison."""
    return sorted(path.parent.name for path in (ROOT / "docs" / "drift").glob("*/plan.json"))


def test_every_command_parses(capsys):
    commands = all_commands()
    assert len(commands) >= 12
    for words in commands:
        resolve(words)


def test_no_two_pages_make_the_same_folder():
    """Whoever follows two pages in one folder isn't told that something already exists."""
    refusing = ("generate", "branch", "models convert", "eval publish", "eval export")
    resuming = ("eval compare", "eval policies", "train corpus")  # the same command goes on where it stopped
    made: dict[str, list[tuple[str, list[str]]]] = {}
    for document in DOCUMENTS:
        for words in commands_in(document.read_text()):
            if any(words[: len(name.split())] == name.split() for name in (*refusing, *resuming)):
                folder = words[3] if words[0] == "models" else words[words.index("-o") + 1]
                made.setdefault(folder, []).append((document.name, words))
    assert len(made) > 30
    for folder, makers in made.items():
        pages, commands = {page for page, _ in makers}, {" ".join(words) for _, words in makers}
        may_repeat = next(iter(commands)).startswith(resuming)
        assert len(makers) == 1 or (may_repeat and min(len(pages), len(commands)) == 1), f"{folder}: {makers}"


def test_every_command_has_its_section():
    """In docs/commands.md, a command has a heading; one of a group is named below the group's."""
    text = (ROOT / "docs" / "commands.md").read_text()
    sections = {name: part for part in text.split("\n## ")[1:] for name in part.splitlines()[0].split(", ")}
    for name in commands_of(cli):
        group, _, inner = name.partition(" ")
        assert group in sections, name
        assert not inner or re.search(rf"longlive-rag {name}\s|`{inner}`", sections[group]), name


def test_every_step_of_the_gpu_report_is_in_its_list():
    text = (ROOT / "docs" / "benchmarks.md").read_text().split("## A report of one GPU")[1].split("\n## ")[0]
    listed = re.findall(r"^- (.*?): ", text, re.MULTILINE)
    assert sorted(re.findall(r"`([\w-]+)`", " ".join(listed))) == sorted(STEPS)


def test_every_extra_is_in_the_table_of_extras():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(rows) == sorted(project["optional-dependencies"])


def test_the_rooms_of_the_documents_are_those_of_the_contract():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    rooms = [room.removeprefix("longlive_rag.") for layer in contract for room in layer.split(" | ")]
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "CONTRIBUTING.md").read_text().split("| room |")[1], re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(?:longlive_rag/)?(\w+)(?:\.py)?`", row)]
    assert listed == rooms
    shape = (ROOT / "docs" / "design.md").read_text().split("## Shape of the code")[1].split("Inside")[0]
    assert sorted(re.findall(r"(\w+)(?:/|\.py)", shape)) == sorted([*rooms, "longlive_rag", "tests"])


def test_keys_of_the_documents_are_accepted():
    pattern = re.compile(r"""API_KEY=(\S+)|api_key="([^"]+)"|^ *key = "([^"]+)\"""", re.MULTILINE)
    shown = ["".join(found) for text in all_texts() for found in pattern.findall(text)]
    assert len(shown) >= 6
    for key in shown:
        Keys([ApiKey(name="anyone", key=key)])


def test_links_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            waits = target.startswith("docs/images/") and not HAS_TINY_WORLD  # pictures are made from a take of it
            assert waits or (document.parent / target).exists(), f"{document.name}: {target}"


def test_links_lead_to_headings():
    """As GitHub names them: lower case, spaces as hyphens, no other punctuation."""
    for document in DOCUMENTS:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text()):
            page = document.parent / target if target else document
            lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
            headings = {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}
            assert anchor in headings, f"{document.name}: {target}#{anchor}"


@needs_tiny_world
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "docs/python.md", "docs/memory.md", "docs/directing.md"]
)
def test_python_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "takes").mkdir()
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL):
        exec(example, names)


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """docs/tables.py; what it computes from takes, it computes once."""
    return script("tables")


@pytest.mark.parametrize(("kind", "at_least"), [("TABLE", 3), ("RESULTS", 2), ("DEVELOPMENT", 1), ("CAPACITY", 1)])
def test_tables_are_those_of_the_commands_and_of_the_takes(tables, kind, at_least):
    with_tables = [document for document in DOCUMENTS if getattr(tables, kind).search(document.read_text())]
    assert len(with_tables) >= at_least
    for document in with_tables:
        assert tables.with_tables(document.read_text()) == document.read_text(), f"{document.name}: run `make docs`"


def test_all_tables_of_the_reports_on_drift_are_made_from_takes():
    """No table there is typed by hand."""
    text = reports_on_drift()
    by_hand = re.sub(r"<!-- (?:drift|development) .*?<!-- end -->", "", text, flags=re.DOTALL)
    assert "|---" not in by_hand
    assert "| ---" not in by_hand
    assert set(published()) == set(re.findall(r"<!-- drift (\w+)(?:/[\w-]+)? kept -->", text))


def columns(folder: str, name: str, scenario: str = "") -> dict[str, np.ndarray]:
    """By arm, a column of a folder's takes.csv, [prompts, seeds], read without the evaluator."""
    found: dict[str, dict[str, list[float]]] = {}
    with (ROOT / "docs" / "drift" / folder / "takes.csv").open(newline="") as rows:
        for row in csv.DictReader(rows):
            if scenario in ("", row["scenario"]):
                found.setdefault(row["arm"], {}).setdefault(row["prompt_id"], []).append(float(row[name]))
    return {arm: np.array(list(by_prompt.values())) for arm, by_prompt in found.items()}


def shown_tables(table: str) -> list[tuple[str, str, list[str], list[list[str]]]]:
    """(folder, scenario or "", head, rows) of the tables of this name in the reports on drift."""
    pattern = rf"<!-- drift (\w+)(?:/([\w-]+))? {table} -->\n(.*?)<!-- end -->"
    found = []
    for folder, scenario, text in re.findall(pattern, reports_on_drift(), re.DOTALL):
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
        found.append((folder, scenario, head, rows))
    return found


def test_what_is_kept_is_the_mean_of_a_column():
    """As docs/drift.md says: no code of the evaluator is used here."""
    tables = shown_tables("kept")
    for folder, scenario, head, rows in tables:
        for place, horizon in enumerate(head[1:], 1):
            kept = columns(folder, f"traits_kept@{horizon.removesuffix(' s')}", scenario)
            base = kept[rows[0][0]]
            for arm, *cells in rows:
                share, _, difference = cells[place - 1].partition(", ")
                assert share == f"{kept[arm].mean():.0%}".replace("%", " %"), (folder, arm, horizon)
                expected = 100 * (kept[arm] - base).mean()
                assert arm == rows[0][0] or difference.split()[0] == f"{expected:+.0f}", (folder, arm, horizon)
    assert len(tables) > 15


def test_the_noise_floor_is_that_of_the_columns():
    tables = shown_tables("floor")
    for folder, _, head, rows in tables:
        cells = dict((name, figures) for name, *figures in rows)["kept"]
        for horizon, cell in zip(head[1:], cells, strict=True):
            apart = 100 * np.subtract(*columns(folder, f"traits_kept@{horizon.removesuffix(' s')}")["native"].T)
            assert cell == f"{apart.mean():+.0f} ({np.abs(apart).mean():.0f})"
    assert len(tables) == 2


def test_broken_guardrails_are_worse_by_what_their_columns_say():
    known = {
        "motion": "motion",
        "repetition": "repetition",
        "visible motion": "moving",
        "distinct characters": "characters",
    }
    checked = 0
    for folder, scenario, _, rows in shown_tables("broken"):
        for label, arm, at, worse, _ in rows:
            if label in known:
                by_arm = columns(folder, f"{known[label]}@{at.removesuffix(' s')}", scenario)
                apart, base = (by_arm[arm] - by_arm["native"]).mean(), by_arm["native"].mean()
                expected = -100 * apart / base if "motion" in label else apart
                assert float(worse.removesuffix(" %")) == pytest.approx(expected, rel=6e-3)
                checked += 1
    assert checked >= 15


def test_summaries_have_the_means_of_columns():
    """As above, for tables of several folders."""
    text = reports_on_drift() + (ROOT / "README.md").read_text()
    pattern = r"<!-- drift ([\w,]+) summary(?: [\w ]+)? -->\n(.*?)<!-- end -->"
    for folders, table in re.findall(pattern, text, re.DOTALL):
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        places = {arm.removeprefix("kept, "): place for place, arm in enumerate(head) if arm.startswith("kept, ")}
        for folder in folders.split(","):
            plan = json.loads((ROOT / "docs" / "drift" / folder / "plan.json").read_text())
            for scenario in dict.fromkeys(story["scenario"] for story in plan["stories"]):
                (row,) = (row for row in rows if row[0] == scenario)
                kept = columns(folder, f"traits_kept@{max(plan['horizons_s']):g}", scenario)
                for arm, place in places.items():
                    assert row[place] == (f"{kept[arm].mean():.0%}".replace("%", " %") if arm in kept else "-")


def test_every_verdict_is_in_the_reports_on_drift():
    """Whichever way it went; nothing was claimed of what was exploratory."""
    said = re.findall(r"<!-- drift (\w+)(?:/([\w-]+))? verdicts -->", reports_on_drift())
    for folder in published():
        plan = json.loads((ROOT / "docs" / "drift" / folder / "plan.json").read_text())
        for scenario in {story["scenario"] for story in plan["stories"]}:
            assert plan["exploratory"] or {(folder, ""), (folder, scenario)} & set(said), f"{folder}, {scenario}"


def test_so_many_claims_stand_with_one_correction_over_all_published_tests(tables):
    """docs/drift.md says how many. Each plan corrects for its own tests only."""
    found = [each for folder in published() for each in tables.results_of(folder) if not each.plan.exploratory]
    tests = [(c, each) for each in found for c in each.results.comparisons
             if c.confirmatory and c.scenario == each.scenario]  # fmt: skip
    assert len(tests) > 30
    parts = ("empty",)  # of a comparison that is on the page as a whole
    again = {said for folder in parts for each in tables.results_of(folder) for said in each.results.verdicts}
    claims = {}
    for (c, each), p in zip(tests, holm([c.paired.p for c, _ in tests]), strict=True):
        (said,) = [line for line in each.results.verdicts if line == verdict(c, False, each.results.guardrails)]
        if f"{c.arm} drifts less than {c.baseline} (" in said and said not in again:
            claims[said] = p
    unclear = sum("not shown to be no worse" in said for said in claims)
    standing = sum(p <= 0.05 for p in claims.values())
    page = " ".join((ROOT / "docs" / "drift.md").read_text().split())
    assert f"{unclear} of the {len(claims)} claims on this page" in page
    assert (
        f"over the {len(tests)} tests of all plans on these pages, {standing} of these {len(claims)} claims stand"
        in page
    )
    fallen = sorted(f"{p:.2f}" for p in claims.values() if p > 0.05)
    assert f"(p from {min(fallen)} to {max(fallen)})" in page, fallen


def test_who_comes_back_uncalled_is_counted_where_nobody_should_be():
    away = script("away")
    story = SimpleNamespace(prompts=((0.0, "a circle walks"), (5.0, "a circle leaves in a city"), (20.0, "it returns")))
    assert away.away(story, 30.0) == [(9.0, 20.0)]
    story.prompts += ((25.0, "it leaves in the snow"),)
    assert away.away(story, 31.0) == [(9.0, 20.0), (29.0, 31.0)]
    counted = {folder: away.lines(ROOT / "docs" / "drift" / folder) for folder in ("today", "sharp_old")}
    assert "walk-away-and-return, native: seen 0.1% of the time, in 0% of the takes" in counted["today"]
    assert "walk-away-and-return, memory: seen 3.0% of the time, in 11% of the takes" in counted["today"]
    assert "walk-away-and-return, memory: seen 13.2% of the time, in 70% of the takes" in counted["sharp_old"]


def test_the_tree_is_as_the_documents_say():
    facts = script("facts")
    assert len(facts.entries()) <= facts.MOST_ENTRIES
    assert facts.click_imports() == []
    assert len(facts.hops()) == 8
    assert facts.missing_hops() == []
    assert not facts._defines(ROOT / "backbone" / "cache.py", "KVCache.nowhere")


def test_what_was_kept_in_development_is_a_mean_over_takes(tmp_path, monkeypatch):
    tables = script("tables")
    (tmp_path / "drift").mkdir()
    rows = ["story,policy,all_kept,drift", "stare,old,1,0.1", "stare,old,0,", "walk,old,0,0.5", "stare,new,1,-0.25"]
    (tmp_path / "drift" / "few.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    assert tables.development("few.csv").splitlines()[2:] == [
        "| old | 50 %, 0.100 | 0 %, 0.500 |",
        "| new | 100 %, -0.250 | - |",
    ]


def test_who_keeps_another_one_s_traits_is_told_from_who_keeps_its_own(monkeypatch):
    """Whom the prompt names when the subject is first seen as it should be, in the opening of its last horizon."""
    cues = ((5.0, "a red circle walks"), (9.0, "a blue square walks"))
    told = (SimpleNamespace(scenario="a", origin_s=5.0, prompts=((0.0, "a blue square"), *cues)),
            SimpleNamespace(scenario="b", origin_s=0.0, prompts=((0.0, "a red circle"),)))  # fmt: skip
    red, square = {"shape": "circle", "colour": "red", "hat": "tall"}, {"shape": "square", "colour": "blue"}
    by_arm = {"native": [(True, square), (False, red)], "memory": [(True, red), (True, {"shape": "circle"})]}
    arms = {name: SimpleNamespace(name=name) for name in by_arm}
    cells = [SimpleNamespace(arm=arm, story=story, place=place) for arm in arms.values() for story in told[:1] * 2
             for place in (0, 1)]  # fmt: skip
    cells += [SimpleNamespace(arm=arm, story=told[1], place=0) for arm in arms.values()]

    def measures(cell):
        kept, opening = by_arm[cell.arm.name][cell.place]
        earlier = SimpleNamespace(all_kept=not kept, opening={})
        return SimpleNamespace(traits=[earlier, SimpleNamespace(all_kept=kept, opening=opening)])

    tables = script("tables")
    takes = SimpleNamespace(plan=SimpleNamespace(arms=tuple(arms.values()), cells=cells), measures=measures)
    monkeypatch.setattr(tables.Takes, "published", lambda folder: takes)
    assert tables.results(["some/a"], "named").splitlines()[2:] == [
        "| native | 50 % | 50 % | 0 % |",
        "| memory | 100 % | 50 % | 50 % |",
    ]


def test_who_is_new_and_what_opens_memory_are_counted():
    views = script("views")
    (story,) = views.stories(views.sample_subjects(1, views.SEED), ["many-characters"], views.read_scenarios(), (120,))
    assert views.first_shown(story) == [20, 40, 60, 80]
    rng = np.random.default_rng(0)
    units = views.unit(np.repeat(np.eye(3), 160, axis=0)[:, :, None].repeat(8, 2).reshape(480, 24) + 0.01)
    units = views.unit(units + 0.001 * rng.standard_normal(units.shape)).astype(np.float32)
    row = views.row_of(units, [39.0, 79.0])
    assert row.opened == [2, 2]
    assert row.openings == [3, 3]
    assert min(row.farthest) > 0.5
    assert row.ten_steps < 0.01
