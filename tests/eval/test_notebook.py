"""What a notebook shows of drift and of comparisons."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from eval.measures import Measures
from eval.results import Results
from eval.single import Drifts
from longlive_rag.documents import read_document

SAMPLES = Path(__file__).parent / "samples"
EVIL = "<script>alert(1)</script>"


def cells(page: str) -> list[str]:
    return re.findall(r"<td>(.*?)</td>", page)


def test_drift_is_shown_in_words_figures_and_curves() -> None:
    measures = read_document(SAMPLES / "measures-4.json", Measures)
    page = Drifts([measures])._repr_html_()
    name = next(iter(measures.drift))
    first = measures.drift[name][0]
    assert first.value is not None
    assert f"{first.value:+.3f}" in cells(page)
    assert page.count("<tr>") == 1 + sum(map(len, measures.drift.values()))
    assert "D(" in page
    assert page.count('src="data:image/png;base64,') == 1


def test_names_stay_names() -> None:
    measures = read_document(SAMPLES / "measures-4.json", Measures)
    named = measures.model_copy(update={"video": replace(measures.video, name="<script>.mp4")})
    page = Drifts([named])._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_comparison_shows_its_verdicts_and_what_to_know() -> None:
    results = read_document(SAMPLES / "results.json", Results)
    changed = results.model_copy(update={"verdicts": [f"no difference {EVIL}"], "warnings": [f"beware {EVIL}"]})
    page = changed._repr_html_()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 2
    primary = [
        each for each in results.comparisons if each.outcome.startswith(f"drift.{next(iter(results.embedders))}@")
    ]
    assert page.count("<tr>") == 1 + len(primary)
    assert primary[0].paired is not None
    assert f"{primary[0].paired.mean:+.3f}" in cells(page)
