"""What newcomers copy: the examples run, and the policy of CONTRIBUTING.md works as a package of one's own."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from longlive_rag.presets.preset import BUILT_IN
from longlive_rag.version import __version__
from tests import forked

ROOT = Path(__file__).parents[1]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
NOTEBOOK = ROOT / "examples" / "memory_on_and_off.ipynb"
DRIFT = ROOT / "examples" / "drift.ipynb"

needs_tiny_world = pytest.mark.skipif(
    not (BUILT_IN["tiny-world"] / "model_index.json").is_file(), reason="tiny-world's weights are not here"
)


def run(folder: Path, *words: object, path: Path = ROOT, fork: bool = True) -> str:
    """What a Python process prints that works in `folder` and finds packages in `path`; see `tests.forked`."""
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "MPLBACKEND": "Agg"}
    if fork:
        done = forked.run(words, folder, environment)
    else:
        start = [sys.executable, *map(str, words)]
        done = subprocess.run(start, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_tiny_world
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("stream_blocks", ["has nothing to remember yet", "remembers", "stream.mp4: 224 frames"]),
        ("direct_live", ["the circle is told to leave", "equal bit for bit: True", "the others differ: True"]),
        ("own_policy", ["similar", "stratified", "by_octaves"]),
    ],
)
def test_a_script_runs(name: str, says: list[str], tmp_path: Path) -> None:
    said = run(tmp_path, ROOT / "examples" / f"{name}.py", fork=name != "stream_blocks")
    assert [words for words in says if words not in said] == []


@needs_tiny_world
@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in cells))
    assert "(320, 64, 64, 3)" in run(tmp_path, script)


@needs_tiny_world
@pytest.mark.slow
def test_the_notebook_on_drift_runs_and_shows_what_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = (pytest.importorskip(name) for name in ("nbformat", "nbclient"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(DRIFT, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if output.output_type == "execute_result"]
    pages = [data["text/html"] for data in shown if "text/html" in data]
    assert [page.count("<video") for page in pages] == [1, 1, 0, 0]
    assert "a blue square walks in a desert" in pages[0]
    assert "D(16 s) = " in pages[3]
    assert set(ast.literal_eval(shown[-1]["text/plain"])) == {"native", "memory"}
    assert (tmp_path / "takes" / "drift" / "memory" / "video.mp4").is_file()


@pytest.mark.parametrize("path", [NOTEBOOK, DRIFT], ids=lambda path: path.stem)
def test_a_notebook_is_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["nbformat"] == 4
    assert [cell["outputs"] for cell in code] == [[]] * len(code)
    assert {cell["execution_count"] for cell in code} == {None}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of packages that holds the one of CONTRIBUTING.md, as an installer leaves it."""
    text = CONTRIBUTING.read_text()
    toml, python = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("toml", "python"))
    project = tomllib.loads(toml[0])["project"]
    (group, entries), *_ = project["entry-points"].items()
    facts = tmp_path / "site" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (facts / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")
    (tmp_path / "site" / "earliest.py").write_text(python[0])
    return tmp_path / "site"


@needs_tiny_world
@pytest.mark.slow
def test_the_policy_of_contributing_is_found_by_its_name(installed: Path, tmp_path: Path) -> None:
    listed = json.loads(run(tmp_path, "-m", "longlive_rag", "plugins", "--json", path=installed, fork=False))
    (ours,) = [row for row in listed if row["package"] == "longlive-rag-earliest"]
    assert (ours["kind"], ours["name"]) == ("policy", "earliest")
    command = ["generate", "a blue square walks in a desert", "-o", "take", "--seconds", "9", "--policy", "earliest"]
    run(tmp_path, *command, path=installed)
    record = json.loads((tmp_path / "take" / "take.json").read_text())
    assert record["request"]["memory"]["policy"] == "earliest"
    assert sorted(record["selections"][-1]["frames"]) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("document", [CONTRIBUTING, *sorted((ROOT / "docs" / "decisions").glob("*.md"))])
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert targets
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
