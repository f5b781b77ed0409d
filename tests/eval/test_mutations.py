"""A change of one formula in each function of the evaluator turns a test red; `mutations.py` makes all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.eval import mutations as module
from tests.eval.mutations import ROOT, TESTS, mutations


@pytest.fixture(scope="module")
def outcome() -> dict[str, Any]:
    """Of the first change in each function, in a process of its own, in which nothing of eval is loaded."""
    command = [sys.executable, "-m", "tests.eval.mutations", "--one-a-function", "--json"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_change_in_any_function_turns_a_test_red(outcome):
    assert outcome["survived"] == []
    assert {each["module"] for each in outcome["tested"]} == set(TESTS)
    assert len(outcome["tested"]) >= 90


@pytest.mark.slow
def test_without_a_change_all_tests_are_green(outcome):
    assert set(outcome["green_s"]) == set(TESTS)


def test_changes_by_hand(tmp_path, monkeypatch):
    source = '''
LIMIT_S: float = 0.5

def apart(a: int | None, b: str = "x" + "y") -> float:
    """Not 1 < 2."""
    if not a or b < 3:
        raise ValueError(f"{a + 1} is not {1 + 1}")
    return abs(a[0] - np.mean(b)) if zip(a, b, strict=True) else True
'''
    (tmp_path / "formulas.py").write_text(source)
    monkeypatch.setattr(module, "path_of", lambda name: tmp_path / f"{name}.py")
    found = mutations("formulas")
    assert [f"{each.line} {each.function}: {each.before} -> {each.after}" for each, _ in found] == [
        "2 : 0.5 -> 1.0",
        "6 apart: not a or b < 3 -> not a and b < 3",
        "6 apart: not a or b < 3 -> a or b < 3",
        "6 apart: b < 3 -> b <= 3",
        "6 apart: b < 3 -> b >= 3",
        "6 apart: b < 3 -> b < 4",
        "8 apart: abs(a[0] - np.mean(b)) -> a[0] - np.mean(b)",
        "8 apart: a[0] - np.mean(b) -> a[0] + np.mean(b)",
        "8 apart: a[0] - np.mean(b) -> np.mean(b) - a[0]",
        "8 apart: a[0] -> a[1]",
        "8 apart: np.mean(b) -> np.median(b)",
        "8 apart: abs(a[0] - np.mean(b)) if zip(a, b, strict=True) else True -> "
        "abs(a[0] - np.mean(b)) if zip(a, b, strict=True) else False",
    ]
