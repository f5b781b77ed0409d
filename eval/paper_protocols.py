"""Protocols of papers as data (arms, prompts, lengths and backbones), so that a table can be reproduced in one line.

They are in `eval/paper_protocols.toml`. A protocol is one comparison per backbone, each in its own folder, and a
summary over all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from backbone.errors import FieldError, Name
from eval.export import export_for_vbench
from eval.measures import Protocols
from eval.plan import Arm, Plan, check_run
from eval.results import Results
from eval.scenarios import check_folder_name
from eval.tables import Found, arm_rows, protocol_table
from eval.takes import Takes
from longlive_rag.documents import Document, Versioned, parse, read_toml
from longlive_rag.presets.preset import Preset, is_to_fetch, load_preset
from longlive_rag.presets.prompts import read_prompts
from longlive_rag.rights.policy import enforce_place
from longlive_rag.timeline import Timeline
from retrieval.files import write_json, write_whole

BUILT_IN = Path(__file__).with_name("paper_protocols.toml")
DOWNLOADS = Path("downloads")
VBENCH, SUMMARY_TABLE, SUMMARY = "vbench-videos", "summary.md", "summary.json"
Count = Annotated[int, Field(ge=1)]


class PaperProtocol(Document):
    """What a paper compares.

    Attributes:
        title: title of the paper.
        about: what happens in a take, in words.
        backbones: names of the backbones.
        prompts: name of the file with one prompt per line.
        prompt_count: number of prompts in it.
        fetched_with: the known backbone whose files include it.
        latent_frames: lengths at which takes are measured; a take is as long as the last.
        embedders: embedders, the primary one first; tiny-world's takes are measured by its own oracle.
        arms: the baseline first, then the one the claim is about.
        notes: what a reader must know about a backbone, by a part of its name.
    """

    title: str
    about: str
    backbones: list[str]
    prompts: str
    prompt_count: Count
    fetched_with: str
    latent_frames: list[Count]
    embedders: str
    arms: list[Arm]
    notes: dict[str, str] = Field(default_factory=dict)

    def horizons_s(self, preset: Preset) -> tuple[float, ...]:
        """Seconds of video that a backbone makes from `latent_frames`, the first of which is a single pixel frame."""
        timeline = Timeline(1, preset.output.fps, preset.context.frames_per_block, preset.temporal_factor)
        return tuple(timeline.second_of(frames) for frames in self.latent_frames)

    def notes_on(self, backbone: str) -> list[str]:
        """What a reader must know about a backbone."""
        return [note for part, note in self.notes.items() if part in folder_of(backbone)]

    def find_prompts(self, backbones: Sequence[str]) -> Path:
        """Find the file of prompts where it was fetched to.

        Args:
            backbones: pipeline folders, or names that have one.

        Raises:
            ValueError: if it is missing or has another number of prompts; says how to get it.
        """
        folders = [DOWNLOADS, *(load_preset(backbone).folder for backbone in backbones)]
        found = next((path for folder in folders for path in sorted(folder.rglob(self.prompts))), None)
        get_it = f"longlive-rag models fetch {self.fetched_with} --no-convert"
        if found is None:
            wanted = (f"get it with {get_it}, or name a file of your own with ", Name("prompts"))
            claim = f"{self.prompts} is neither in {DOWNLOADS} nor in the backbones' folders"
            raise FieldError("prompts", None, wanted, claim=claim)
        count = len(read_prompts(found))
        if count != self.prompt_count:
            raise ValueError(
                f"{found} holds {count} prompts, but the protocol's has {self.prompt_count}; get it again with {get_it}"
            )
        return found


def read_protocol(name: str) -> PaperProtocol:
    """Read a protocol by name.

    Raises:
        FieldError: if there is no protocol of that name.
    """
    known = parse(read_toml(BUILT_IN), dict[str, PaperProtocol], str(BUILT_IN))
    if name not in known:
        raise FieldError("protocol", name, f"it must be one of {', '.join(known)}")
    return known[name]


def folder_of(backbone: str) -> str:
    """Name of a backbone's folder in the output; for a pipeline folder, its last part."""
    return Path(backbone).absolute().name


def check_backbones(backbones: Sequence[str]) -> None:
    """Check that backbones can be compared in one command.

    Raises:
        ValueError: if there are none, two would share a folder, or one must be fetched first; says how.
    """
    folders = [folder_of(backbone) for backbone in backbones]
    if not folders or len(set(folders)) < len(folders):
        raise FieldError("backbones", list(backbones), "name one or more, each once", ",".join(backbones) or "empty")
    for folder in folders:
        check_folder_name("backbone", folder)
    missing = [backbone for backbone in backbones if is_to_fetch(backbone)]
    if missing:
        commands = "; ".join(f"longlive-rag models fetch {backbone}" for backbone in missing)
        are = "is" if len(missing) == 1 else "are"
        raise FieldError("backbones", missing, claim=f"{', '.join(missing)} {are} not fetched yet; run {commands}")


def check_runs(plans: Mapping[str, Plan], output: Path) -> None:
    """Check all comparisons before the first begins.

    Args:
        plans: plans by the backbone's folder in `output`.

    Raises:
        LicenseError: if the licence policy in force does not allow a backbone.
        ValueError: if a plan is invalid, its folder holds something else, or backbones have different lengths.
    """
    if len({plan.horizons_s for plan in plans.values()}) > 1:
        names = ", ".join(f"{name} {plan.seconds:.4g} s" for name, plan in plans.items())
        raise FieldError("backbones", list(plans), claim=f"takes would differ in length ({names}); run them separately")
    for name, plan in plans.items():
        preset = load_preset(plan.backbone)
        enforce_place(preset.folder)
        plan.check(preset)
        check_run(output / name, plan)


def export_all(plans: Mapping[str, Plan], output: Path) -> Path:
    """Copy the videos of all comparisons for VBench, one folder per backbone, length and arm; return where they are.

    Existing folders are complete and kept.
    """
    for name, plan in plans.items():
        for horizon_s in plan.horizons_s:
            target = output / VBENCH / name / f"{horizon_s:.0f}s"
            if not target.exists():
                export_for_vbench(output / name, target, horizon_s)
    return output / VBENCH


@dataclass(frozen=True)
class BackboneFound:
    """The results of a protocol for one backbone.

    Attributes:
        run: folder of the run.
        notes: the protocol's notes on this backbone.
        verdicts, warnings: as in its results.
    """

    run: str
    notes: list[str]
    verdicts: list[str]
    warnings: list[str]


@dataclass(frozen=True)
class SummaryRow:
    """One figure of one arm on one backbone, at every horizon, as text; differences are to the first arm."""

    measure: str
    backbone: str
    arm: str
    figures: list[str]


class Summary(Versioned):
    """`summary.json`.

    Attributes:
        protocol: title of the protocol.
        departures: options that replaced the protocol's own.
        horizons_s: seconds of video at which takes are measured.
        backbones: results by the folder's name.
        rows: rows of the table.
    """

    protocol: str
    departures: list[str]
    horizons_s: tuple[float, ...]
    backbones: dict[str, BackboneFound]
    rows: list[SummaryRow]

    def as_markdown(self) -> str:
        """Format table, verdicts, notes and warnings as Markdown."""
        rows = [[row.measure, row.backbone, row.arm, *row.figures] for row in self.rows]
        parts = [f"# {self.protocol}\n"]
        if self.departures:
            parts.append(f"Changed from the protocol: {', '.join(self.departures)}.\n")
        parts.append(protocol_table(self.horizons_s, rows))
        parts.append(
            "Means over prompts; for memory also the difference to the first arm with its 95 % interval. Lower is "
            "better for D, higher for all others. Holm's correction is over the horizons of one backbone.\n"
        )
        for name, found in self.backbones.items():
            lines = [*found.notes, *found.verdicts, *found.warnings]
            parts.append(f"## {name}\n\n" + "".join(f"- {line}\n" for line in lines))
        return "\n".join(parts)


def summarise_protocol(
    protocol: PaperProtocol,
    plans: Mapping[str, Plan],
    results: Mapping[str, Results],
    output: Path,
    departures: Sequence[str],
) -> Summary:
    """Write the results for all backbones side by side to `summary.md` and `summary.json`, and return them.

    Args:
        plans, results: plans and results by the backbone's folder in `output`.
        departures: options that replaced the protocol's own.
    """
    rows: list[SummaryRow] = []
    for name, plan in plans.items():
        found = Found(plan, results[name], plan.scenarios[0])
        rows += [SummaryRow(measure, name, arm, figures) for measure, arm, figures in _rows(found, output / name)]
    order = list(dict.fromkeys(row.measure for row in rows))
    summary = Summary(
        protocol=protocol.title,
        departures=list(departures),
        horizons_s=next(iter(plans.values())).horizons_s,
        backbones={
            name: BackboneFound(
                str(output / name), protocol.notes_on(plan.backbone), results[name].verdicts, results[name].warnings
            )
            for name, plan in plans.items()
        },
        rows=sorted(rows, key=lambda row: order.index(row.measure)),
    )
    write_json(output / SUMMARY, summary.model_dump(mode="json"))
    write_whole(output / SUMMARY_TABLE, summary.as_markdown().encode())
    return summary


def _rows(found: Found, run: Path) -> list[tuple[str, str, list[str]]]:
    """Rows (measure, arm, figures by horizon) of one backbone: drift, then the field's consistency."""
    measures = [(f"D by {found.primary}", "drift.{primary}", 3)]
    measures += [(f"VBench consistency by {name}", f"vbench.{name}", 4) for name in found.results.embedders]
    rows = [
        (label, arm, figures)
        for label, outcome, digits in measures
        for arm, *figures in arm_rows(found, outcome, digits)
        if any(figures)
    ]
    takes = Takes.of_run(run, found.plan)
    for label, value in _vbench_long(found.results.embedders).items():
        for arm in found.plan.arms:
            means = _means(takes, arm, value)
            if any(mean is not None for mean in means):
                rows.append((label, arm.name, ["" if mean is None else f"{mean:.4f}" for mean in means]))
    return rows


LongValue = Callable[[Protocols], float | None]


def _vbench_long(embedders: Sequence[str] | Mapping[str, object]) -> dict[str, LongValue]:
    """VBench-Long's branches by every embedder, and its subject score, by label."""

    def branch(embedder: str, part: str) -> LongValue:
        return lambda found: (
            getattr(found.consistency[embedder].vbench_long, part) if embedder in found.consistency else None
        )

    def fused(found: Protocols) -> float | None:
        return None if found.vbench_long_subject is None else found.vbench_long_subject.fused

    parts = {f"VBench-Long {part} by {name}": branch(name, part) for name in embedders for part in ("slow", "fast")}
    return {**parts, "VBench-Long subject, fused": fused}


def _means(takes: Takes, arm: Arm, value: LongValue) -> list[float | None]:
    """An arm's mean over its takes at every horizon; None if a take lacks it, as the mean would not be comparable."""
    cells = [cell for cell in takes.plan.cells if cell.arm.name == arm.name]
    by_horizon = zip(*([value(at) for at in takes.measures(cell).protocols] for cell in cells), strict=True)
    return [None if None in values else float(np.mean(values)) for values in by_horizon]
