"""A stranger's package adds one of everything, and the command line uses it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from longlive_rag.environment import PLUGINS
from tests import forked

PACKAGE = Path(__file__).parents[1] / "plugin_package"
PROMPT = "a red circle walks in a meadow"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> dict[str, str]:
    """The environment of a machine on which the package is installed."""
    target, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source") / "package"
    shutil.copytree(PACKAGE, source)  # pip builds where the source is
    words = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", *words, "--target", target, source], check=True)
    paths = (str(target), os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(stranger: dict[str, str], cwd: Path, *words: object) -> str:
    done = forked.run(words, cwd, stranger)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_they_are_listed_beside_ours(stranger, tmp_path):
    words = [sys.executable, "-m", "longlive_rag", "plugins", "--json"]
    found = json.loads(subprocess.run(words, env=stranger, capture_output=True, text=True, check=True).stdout)
    theirs = {row["kind"]: row["name"] for row in found if row["package"] == "longlive-rag-stranger"}
    assert theirs == {
        "policy": "oldest",
        "embedder": "grey",
        "metric": "brightness",
        "checkpoint layout": "renamed",
    }
    assert {row["kind"] for row in found if row["package"] == "longlive-rag"} == set(PLUGINS)


@pytest.mark.slow
def test_a_policy(stranger, tmp_path, pipeline_folder):
    words = ["generate", PROMPT, "-o", "take", "--backbone", pipeline_folder, "--seconds", "8", "--policy", "oldest"]
    run(stranger, tmp_path, *words)
    record = json.loads((tmp_path / "take" / "take.json").read_text())
    assert record["request"]["memory"]["policy"] == "oldest"
    last = record["selections"][-1]["frames"]
    assert sorted(last) == [1, 2, 3, 4, 5, 6]
    assert "policy is 'oldest'" in refused(tmp_path, "extend", "take", "--seconds", "1")  # where it is not installed


@pytest.mark.slow
def test_an_embedder_and_a_metric(stranger, tmp_path, pipeline_folder):
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n")
    words = [
        "eval",
        "compare",
        "--arms",
        "native,memory",
        "--prompts",
        "prompts.txt",
        "--horizons",
        "10",
        "--exploratory",
    ]
    words += ["--backbone", pipeline_folder, "--embedders", "grey", "--metrics", "brightness", "-o", "run", "--json"]
    results = json.loads(run(stranger, tmp_path, *words))
    assert {"drift.grey@10", "brightness@10", "motion@10"} <= {each["outcome"] for each in results["comparisons"]}
    assert "brightness" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_a_checkpoint_layout(stranger, tmp_path, pipeline_folder):
    names = {"transformer": "generator", "vae": "decoder", "text_encoder": "text", "tokenizer": "words"}
    for part, name in names.items():
        shutil.copytree(pipeline_folder / part, tmp_path / "odd" / name)
    checked = forked.run(["models", "check", "odd"], tmp_path, stranger)
    assert "layout: renamed -> to use it: longlive-rag models convert odd" in checked.stdout
    run(stranger, tmp_path, "models", "convert", "odd", "even")
    assert (tmp_path / "even" / "model_index.json").is_file()


def refused(cwd: Path, *words: object) -> str:
    done = forked.run(words, cwd)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    return done.stderr
