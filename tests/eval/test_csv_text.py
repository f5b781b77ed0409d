"""Text in CSV files is never run as a formula by a spreadsheet."""

from __future__ import annotations

import csv
import io
from types import SimpleNamespace

import pytest

from eval.outcomes import Outcome
from eval.plan import Arm, Cell
from eval.report import csv_of, text_cell
from eval.scenarios import Story
from eval.single_report import _cell

PROMPTS = ('=HYPERLINK("http://x")', "+1+1", "-2", "@SUM(A1)", "\tx", "a fox = a fox")


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1"])
def test_what_would_run_has_an_apostrophe_before_it(text):
    assert text_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "a fox", "a = b", "'=1", " =1"])
def test_other_text_stays(text):
    assert text_cell(text) == text


def test_takes_csv_guards_text_and_no_number():
    cells = [Cell(Arm("native"), Story(f"s-{n}", "plain", prompt), 0) for n, prompt in enumerate(PROMPTS)]
    outcome = Outcome("drift.eye@10", "drift", True, 10.0, lambda measures: -0.25)
    takes = SimpleNamespace(
        outcomes=[outcome],
        plan=SimpleNamespace(cells=cells),
        measures=lambda cell: None,
        figures={cell.name: SimpleNamespace(noise=SimpleNamespace(sha256="ab")) for cell in cells},
    )
    rows = list(csv.DictReader(io.StringIO(csv_of(takes), newline="")))
    assert [row["prompt"] for row in rows] == [*(f"'{prompt}" for prompt in PROMPTS[:5]), PROMPTS[5]]
    assert {row["drift.eye@10"] for row in rows} == {"-0.25"}
    assert [row["prompt"] for row in csv.DictReader(io.StringIO(csv_of(takes, str), newline=""))] == list(PROMPTS)


def test_drift_csv_guards_text_and_no_number():
    assert [_cell(value) for value in ("-take.mp4", "take.mp4", -0.25, None)] == ["'-take.mp4", "take.mp4", -0.25, ""]
