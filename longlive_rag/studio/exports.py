"""Parts of a take as downloads, and its drift: what the command line writes, without a path of this machine in it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

from longlive_rag.studio import schema
from longlive_rag.takes.cue_files import read_cues, write_cues
from longlive_rag.takes.export import export_sheet, export_stills, export_video, open_excerpt
from longlive_rag.takes.otio import timeline_of
from longlive_rag.takes.rights_report import facts, page

HORIZONS_S = (30.0, 60.0, 120.0)
OWN_EYES = "latent"


def write_export(take: Path, message: schema.ExportMessage, folder: Path) -> Path:
    """Write what is asked for into an empty folder; returns the file.

    Raises:
        ValueError: if the range isn't in the take, or has nothing of that kind.
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
    target = folder / f"{name}.otio"
    timeline = timeline_of(excerpt, take)  # names the video beside it
    timeline["tracks"]["children"][0]["children"][0]["metadata"]["longlive_rag"]["take"] = name
    target.write_text(json.dumps(timeline, indent=2), encoding="utf-8")
    return target


def drift_of(take: Path, embedder: str | None) -> schema.DriftFacts:
    """Drift of a take, judged by an embedder that is at hand.

    Args:
        embedder: its name; None is what fits the take's backbone and needs nothing else.

    Raises:
        ValueError: if the take isn't finished, or there is no such embedder.
    """
    from eval.drift import cosine_to_reference, curve, drift_at
    from eval.embedders import EmbedderSpec
    from eval.footage import find_footage
    from eval.measure import look_at

    footage = find_footage(take)
    name = embedder or ("tiny-world" if footage.backbone == "tiny-world" else "pixels")
    if "=" in name:
        raise ValueError(f"embedder {name.partition('=')[0]} is named without a place here")
    spec = EmbedderSpec(name)
    spec.check()
    every = max(1, round(footage.fps / 4))
    seen = look_at(footage, {name: spec.open()}, every)
    cosines = cosine_to_reference(seen.embeddings[name], seen.embedded_seconds)
    middles, means = curve(cosines, seen.embedded_seconds)
    reached = [horizon for horizon in HORIZONS_S if horizon <= footage.seconds]
    found = {f"{horizon:g}": drift_at(cosines, seen.embedded_seconds, horizon).value for horizon in reached}
    independent = name != OWN_EYES
    return schema.DriftFacts(
        embedder=name,
        label=name if independent else f"{name}: the backbone's own eyes, no independent judge",
        independent=independent,
        seconds=[float(second) for second in middles],
        values=[None if math.isnan(value) else float(value) for value in means],
        D=found,
    )
