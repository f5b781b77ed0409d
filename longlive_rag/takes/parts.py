"""Writing one part of a take to separate files, for `take export` and other front ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from longlive_rag.takes.cue_files import read_cues, write_cues
from longlive_rag.takes.export import Excerpt, export_frames, export_sheet, export_stills, export_video
from longlive_rag.takes.folder import RECORD
from longlive_rag.takes.otio import write_branches, write_timeline


def write_part(kind: str, excerpt: Excerpt, path: Path, codec: str | None = None) -> dict[str, Any]:
    """Write one part of a take.

    Args:
        kind: `video`, `frames`, `stills`, `sheet`, `otio`, `branches` or `cues`.
        excerpt: the frames to write.
        path: path of the file, or of the folder for `frames` and `stills`.
        codec: codec of a video; None is the take's.

    Returns:
        `path`, and short facts about what was written.
    """

    def video() -> dict[str, Any]:
        copied = export_video(excerpt, path, codec)
        return {"frames": len(excerpt.frames), "encoded": "as in the take" if copied else "again"}

    def cues() -> dict[str, Any]:
        schedule = read_cues(excerpt.take, excerpt.fps).schedule()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_cues(path, schedule)
        return {"cues": len(schedule.cues)}

    def timeline() -> dict[str, Any]:
        write_timeline(excerpt, path)
        return {"markers": len(excerpt.cues)}

    def branches() -> dict[str, Any]:
        beside = [record.parent for record in sorted(excerpt.take.resolve().parent.glob(f"*/{RECORD}"))]
        return {"tracks": write_branches(excerpt.take, beside, path)}

    def sheet() -> dict[str, Any]:
        export_sheet(excerpt, path)
        return {}

    writers: dict[str, Callable[[], dict[str, Any]]] = {
        "video": video,
        "frames": lambda: {"frames": export_frames(excerpt, path)},
        "stills": lambda: {"stills": export_stills(excerpt, path)},
        "sheet": sheet,
        "otio": timeline,
        "branches": branches,
        "cues": cues,
    }
    return {"path": str(path), **writers[kind]()}
