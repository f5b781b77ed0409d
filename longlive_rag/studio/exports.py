"""Downloads of parts of a take, and its drift: as from the command line, but without paths of this machine."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from backbone.errors import FieldError
from longlive_rag.studio import schema
from longlive_rag.takes.cue_files import read_cues, write_cues
from longlive_rag.takes.export import export_sheet, export_stills, export_video, open_excerpt
from longlive_rag.takes.folder import VIDEO
from longlive_rag.takes.inspection import check_video
from longlive_rag.takes.otio import NAMESPACE, timeline_of, timeline_of_branches
from longlive_rag.takes.record import TakeRecord
from longlive_rag.takes.rights_report import facts, page

HORIZONS_S = (30.0, 60.0, 120.0)
OWN_EYES, TINY_WORLD = "latent", "tiny-world"


def write_export(take: Path, message: schema.ExportMessage, folder: Path, takes: Sequence[Path], root: Path) -> Path:
    """Write the requested part into an empty folder; returns the file.

    Args:
        takes: folders of all takes, to find the branches of this one.
        root: folder of the library; the timeline of a tree names its videos relative to it.

    Raises:
        ValueError: if the range isn't in the take, or contains nothing of that kind.
    """
    name = take.name
    if message.what == "rights":
        target = folder / f"{name}-rights.md"
        target.write_text(page({**facts(take), "take": name}), encoding="utf-8")
        return target
    if message.what == "cues":
        target = folder / f"{name}-cues.txt"
        write_cues(target, read_cues(take, 0).schedule())
        return target
    if message.what == "otio_branch":
        return _write_timeline(timeline_of_branches(take, takes, root), folder / f"{name}-branches.otio")
    excerpt = open_excerpt(take, message.start, message.end)
    if message.what == "video":
        export_video(excerpt, folder / f"{name}.mp4")
        return folder / f"{name}.mp4"
    if message.what == "sheet":
        export_sheet(excerpt, folder / f"{name}.png")
        return folder / f"{name}.png"
    if message.what == "stills":
        export_stills(excerpt, folder / f"{name}-stills")
        return Path(shutil.make_archive(str(folder / f"{name}-stills"), "zip", folder / f"{name}-stills"))
    return _write_timeline(timeline_of(excerpt, take), folder / f"{name}.otio")  # names the video beside it


def _write_timeline(timeline: dict[str, Any], target: Path) -> Path:
    for track in timeline["tracks"]["children"]:
        clip = track["children"][-1]
        clip["metadata"][NAMESPACE]["take"] = clip["name"]
    target.write_text(json.dumps(timeline, indent=2), encoding="utf-8")
    return target


@cache
def embedders() -> tuple[schema.EmbedderFacts, ...]:
    """The embedders that can judge drift on this machine as it is."""
    from eval.embedders import at_hand

    return tuple(schema.EmbedderFacts(name=name, independent=name != OWN_EYES) for name in at_hand())


def drift_of(take: Path, record: TakeRecord, embedder: str | None) -> schema.DriftFacts:
    """Drift of a take as far as it goes, judged by an available embedder.

    Args:
        embedder: its name; None picks one that fits the take's backbone and needs nothing else.

    Raises:
        ValueError: if the take has no video, or there is no such embedder.
    """
    from eval.drift import cosine_to_reference, curve, drift_at
    from eval.embedders import EmbedderSpec
    from eval.footage import find_footage
    from eval.measure import look_at

    is_tiny_world = record.run.backbone == TINY_WORLD
    name = embedder or (TINY_WORLD if is_tiny_world else "pixels")
    fitting = [each.name for each in embedders() if is_tiny_world or each.name != TINY_WORLD]
    if name not in fitting:
        raise FieldError("embedder", name, f"for this take it must be one of {', '.join(fitting)}")
    check_video(take, record)
    footage = find_footage(take / VIDEO)
    every = max(1, round(footage.fps / 4))
    seen = look_at(footage, {name: EmbedderSpec(name).open()}, every)
    cosines = cosine_to_reference(seen.embeddings[name], seen.embedded_seconds)
    middles, means = curve(cosines, seen.embedded_seconds)
    reached = [horizon for horizon in HORIZONS_S if horizon <= footage.seconds]
    found = {f"{horizon:g}": drift_at(cosines, seen.embedded_seconds, horizon).value for horizon in reached}
    independent = name != OWN_EYES
    return schema.DriftFacts(
        embedder=name,
        label=name if independent else f"{name}: the backbone's own view, not an independent judge",
        independent=independent,
        seconds=[float(second) for second in middles],
        values=[None if math.isnan(value) else float(value) for value in means],
        D=found,
    )
