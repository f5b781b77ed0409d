"""Files of today's formats, and those of published reports, open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.measures import Measures, Noise
from eval.plan import ARMS as BUILT_IN_ARMS
from eval.plan import Cell, Plan
from eval.results import Results
from eval.runs import MEASURES, is_finished, take_folder
from eval.scenarios import Story
from longlive_rag.cli.arms import read_arms
from longlive_rag.documents import BrokenChecksumError, Versioned, read_document, write_document

SAMPLES = Path(__file__).with_name("samples")
DRIFT = Path(__file__).parents[2] / "docs" / "drift"

ARMS = [SAMPLES / "arms.toml", *DRIFT.glob("*.toml")]


def holds(found, kept) -> bool:
    """Whether all that was kept is found; today's formats have more."""
    if isinstance(kept, dict):
        return all(name in found and holds(found[name], value) for name, value in kept.items())
    if isinstance(kept, list):
        return len(found) == len(kept) and all(map(holds, found, kept))
    return found == kept


BASELINES = {"retry": "memory", "like": "memory"}
"""Of published comparisons of settings of memory; all others are with native."""


@pytest.mark.parametrize("path", [*SAMPLES.glob("plan-*.json"), *DRIFT.glob("*/plan.json")], ids=str)
def test_plans(path):
    plan, kept = read_document(path, Plan), json.loads(path.read_text())
    assert holds(plan.as_dict(), kept)
    assert plan.cells[0].arm.name == BASELINES.get(path.parent.name, "native")


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (SAMPLES / "measures-4.json", Measures),
        (SAMPLES / "noise.json", Noise),
        (SAMPLES / "results.json", Results),
        *((path, Results) for path in sorted(DRIFT.rglob("*results.json"))),
    ],
    ids=str,
)
def test_what_a_run_leaves(path: Path, model: type[Versioned]):
    found, kept = read_document(path, model).model_dump(mode="json"), json.loads(path.read_text())
    assert holds(found, kept)


@pytest.mark.parametrize("older", [1, 2, 3])
def test_measures_of_an_older_format_are_made_again(older):
    with pytest.raises(ValueError, match=f"format is {older}; it should be 4"):
        read_document(SAMPLES / f"measures-{older}.json", Measures)


@pytest.mark.parametrize("path", ARMS, ids=str)
def test_arms(path):
    assert len(read_arms(str(path))) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon_s": [30.0]}, "horizon_s is not known; did you mean 'horizons_s'"),
        ({"arms": [{"name": "a", "change": {}}]}, r"arms\[0\]\.change is not known; did you mean 'changes'"),
        ({"arms": [{"name": "a", "changes": {"memroy": {}}}]}, "arm 'a': memroy is not known; did you mean 'memory'"),
        ({"arms": [{"name": "a", "changes": {"memory": {"gpu": 1}}}]}, "gpu is not known; did you mean 'gpu_gib'"),
        ({"format": 2}, "has format 2; this version reads formats up to 1"),
    ],
)  # fmt: skip
def test_what_a_plan_does_not_know_is_refused(tmp_path, changes, message):
    content = {**json.loads((SAMPLES / "plan-with-metrics.json").read_text()), **changes}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_document(tmp_path / "plan.json", Plan)


def test_measures_that_were_edited_are_measured_again(tmp_path: Path) -> None:
    """Nobody's figures change silently."""
    measures = read_document(SAMPLES / "measures-4.json", Measures)
    cell = Cell(BUILT_IN_ARMS["native"], Story("plain-1", "plain", "a red circle walks in a meadow"), 0)
    folder = take_folder(tmp_path, cell)
    folder.mkdir(parents=True)
    write_document(folder / MEASURES, measures)
    assert is_finished(tmp_path, cell)
    text = (folder / MEASURES).read_text()
    (folder / MEASURES).write_text(text.replace('"embed_every": ', '"embed_every": 1'))
    with pytest.raises(BrokenChecksumError, match="was changed after it was written"):
        read_document(folder / MEASURES, Measures)
    assert not is_finished(tmp_path, cell)
