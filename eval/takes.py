"""The takes of a comparison as figures without pictures, from a run or from a published folder.

A published folder has one compressed line of JSON per take, with everything needed to derive `results.json`, so that
anyone can recompute it without making the takes.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.drift import Drift, drift_at
from eval.measures import Curves, Measures, Noise
from eval.outcomes import outcomes
from eval.plan import Cell, Plan, read_plan
from eval.recalled import Shown, shown_by_take, timeline_of
from eval.runs import MEASURES, NOISE, is_finished, take_folder
from eval.windows import DriftWindows
from longlive_rag.documents import Document, parse, read_document
from longlive_rag.takes.record import TakeRecord, read_record
from retrieval.files import write_whole

TAKES_FILE = "takes.jsonl.xz"
CURVE_DIGITS = 6  # significant digits; curves are only plotted


class TakeFigures(Document):
    """Everything that results need from one take.

    Attributes:
        name: arm, story and seed, as in the take's folder in the run.
        noise: the noise it was made from.
        run, versions, request: from its record.
        stages: seconds per block by stage, averaged over the take; its share if made in a batch.
        shown: what memory brought back before each horizon, or None.
        measures: measures of its video.
    """

    name: str
    noise: Noise
    run: dict[str, Any]
    versions: dict[str, str]
    request: dict[str, Any]
    stages: dict[str, float]
    shown: list[Shown | None]
    measures: Measures


class Takes:
    """The takes of a comparison.

    Args:
        plan: what is compared.
        figures: figures by the cell's name.
    """

    def __init__(self, plan: Plan, figures: Mapping[str, TakeFigures]) -> None:
        self.plan, self.figures = plan, figures
        self.outcomes = outcomes(plan, [each.measures for each in figures.values()])
        self._pairs: dict[tuple[str, str, str, int], tuple[Measures, Measures]] = {}

    @classmethod
    def of_run(cls, run: Path, plan: Plan) -> Takes:
        """Read the takes in a run's folder.

        Raises:
            ValueError: if a take is missing, as partial results are not reported.
        """
        missing = [cell for cell in plan.cells if not is_finished(run, cell)]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(plan.cells)} takes are not finished (such as {missing[0].name}); "
                "run the comparison again to resume it"
            )
        return cls(plan, {cell.name: _read(run, cell) for cell in plan.cells})

    @classmethod
    def published(cls, folder: Path) -> Takes:
        """Read the takes in a folder written by `publish`.

        Raises:
            ValueError: if it holds no takes, or not all of its plan.
        """
        plan, path = read_plan(folder), folder / TAKES_FILE
        try:
            lines = lzma.decompress(path.read_bytes()).decode().splitlines()
            found = [parse(json.loads(line), TakeFigures, f"{path}, take {n}") for n, line in enumerate(lines, 1)]
        except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
        figures = {each.name: each for each in found}
        missing = [cell.name for cell in plan.cells if cell.name not in figures]
        if missing:
            raise ValueError(f"{path} lacks {len(missing)} takes of its plan, such as {missing[0]}")
        return cls(plan, figures)

    def publish(self, folder: Path) -> None:
        """Write the file of takes to a folder, with rounded curves."""
        lines = [_rounded(self.figures[cell.name]).model_dump_json() for cell in self.plan.cells]
        write_whole(folder / TAKES_FILE, lzma.compress(("\n".join(lines) + "\n").encode(), preset=9))

    def measures(self, cell: Cell) -> Measures:
        """The measures of one take."""
        return self.figures[cell.name].measures

    def of(self, arm: str, story: str, seed: int) -> Measures:
        """The measures of one take, by names."""
        return self.figures[f"{arm}/{story}-seed{seed}"].measures

    def pair(self, arm: str, against: str, story: str, seed: int) -> tuple[Measures, Measures]:
        """The measures of two arms' takes, with drift computed from frames that show the subject in both."""
        key = arm, against, story, seed
        if key not in self._pairs:
            self._pairs[key] = on_common_frames(self.of(arm, story, seed), self.of(against, story, seed))
        return self._pairs[key]


def _read(run: Path, cell: Cell) -> TakeFigures:
    folder = take_folder(run, cell)
    measures, record = read_document(folder / MEASURES, Measures), read_record(folder)
    plain = record.model_dump(mode="json")
    return TakeFigures(
        name=cell.name,
        noise=read_document(folder / NOISE, Noise),
        run={name: value for name, value in plain["run"].items() if name != "folder"},
        versions=record.versions,
        request=plain["request"],
        stages=_seconds_a_block(record),
        shown=shown_by_take(measures, record, next(iter(measures.embedders))),
        measures=measures,
    )


def _seconds_a_block(record: TakeRecord) -> dict[str, float]:
    """Seconds per block by stage; for takes made side by side, each one's share."""
    parts = timeline_of(record).blocks * record.run.batch
    return {stage: seconds / parts for stage, seconds in record.timings.by_stage.items()}


def _rounded(take: TakeFigures) -> TakeFigures:
    def shorter(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.{CURVE_DIGITS}g}")
        if isinstance(value, list):
            return [shorter(each) for each in value]
        return {name: shorter(each) for name, each in value.items()} if isinstance(value, dict) else value

    curves = Curves(**shorter(asdict(take.measures.curves)))
    video = replace(take.measures.video, name=take.name)
    return take.model_copy(update={"measures": take.measures.model_copy(update={"curves": curves, "video": video})})


def on_common_frames(arm: Measures, baseline: Measures) -> tuple[Measures, Measures]:
    """Recompute the drift of two matched takes from the frames in which the subject is seen in both.

    Otherwise a take in which the subject is rarely seen would be judged by its best moments. Coverages and references
    stay each take's own. If all frames count in both, nothing changes. Other arms have no influence.
    """
    windows = DriftWindows(arm.origin_s)
    drifts: tuple[dict[str, list[Drift]], dict[str, list[Drift]]] = ({}, {})
    for name in arm.drift:
        cosines = [np.array(each.per_frame.cosine[name], np.float64) for each in (arm, baseline)]
        missing = np.isnan(cosines).any(axis=0)
        for found, each, values in zip(drifts, (arm, baseline), cosines, strict=True):
            found[name] = each.drift[name]
            if missing.any():
                seconds, common = np.array(each.per_frame.seconds), np.where(missing, np.nan, values)
                found[name] = [
                    _with_means_of(drift, drift_at(common, seconds, drift.horizon_s, windows))
                    for drift in each.drift[name]
                ]
    return arm.model_copy(update={"drift": drifts[0]}), baseline.model_copy(update={"drift": drifts[1]})


def _with_means_of(drift: Drift, other: Drift) -> Drift:
    return replace(drift, value=other.value, opening=other.opening, last=other.last)
