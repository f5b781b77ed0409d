"""A take as an OpenTimelineIO timeline: one clip, and a marker where each prompt takes over.

Written as plain JSON in the library's public schema, so that making takes does not need the library.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from longlive_rag.takes.export import CueFrame, Excerpt
from longlive_rag.takes.folder import LATENTS
from longlive_rag.takes.record import plain
from longlive_rag.timecode import format_timecode
from retrieval.files import write_json
from retrieval.store import block_path

NAMESPACE = "longlive_rag"


def write_timeline(excerpt: Excerpt, path: Path) -> None:
    """Write an `.otio` file of a take's range, atomically.

    A file in the take's folder names the video beside it, so that the folder can be moved; any other names it by its
    full path.

    Raises:
        OSError: if the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, timeline_of(excerpt, path.parent))


def timeline_of(excerpt: Excerpt, folder: Path) -> dict[str, Any]:
    """The timeline as it stands in an `.otio` file in `folder`."""
    name, run = excerpt.take.resolve().name, excerpt.record.run
    facts = {
        "take": str(excerpt.take.resolve()),
        "backbone": run.backbone,
        "backbone_id": run.backbone_id,
        "seed": excerpt.seed,
        "rights": plain(rights) if (rights := excerpt.record.rights) else None,
    }
    media = {
        "OTIO_SCHEMA": "ExternalReference.1",
        "metadata": {},
        "name": name,
        "available_range": _range(range(excerpt.video_frames), excerpt.fps),
        "target_url": _url_of(excerpt.video, folder),
    }
    clip = {
        "OTIO_SCHEMA": "Clip.1",  # editorial tools in use read no newer one; the library brings it up to date
        "metadata": {NAMESPACE: facts},
        "name": name,
        "source_range": _range(excerpt.frames, excerpt.fps),
        "effects": [],
        "markers": [_marker(excerpt, cue) for cue in excerpt.cues],
        "media_reference": media,
    }
    track = {**_composition("Track.1", "Video", [clip]), "kind": "Video"}
    return {
        "OTIO_SCHEMA": "Timeline.1",
        "metadata": {},
        "name": name,
        "global_start_time": None,
        "tracks": _composition("Stack.1", "tracks", [track]),
    }


def _marker(excerpt: Excerpt, cue: CueFrame) -> dict[str, Any]:
    facts = {
        "cue": cue.number,
        "prompt": cue.prompt,
        "seed": excerpt.seed,
        "state": _state(excerpt, cue),
    }
    return {
        "OTIO_SCHEMA": "Marker.2",
        "metadata": {NAMESPACE: facts},
        "name": f"cue {cue.number}" if cue.number else "first prompt",
        "color": "CYAN" if cue.number else "GREEN",
        "marked_range": _range(range(cue.frame, cue.frame + 1), excerpt.fps),
        "comment": cue.prompt,
    }


def _state(excerpt: Excerpt, cue: CueFrame) -> dict[str, Any]:
    """Where the take's state at the cue lies: the block that the prompt takes over, and its stored latents."""
    file = block_path(Path(LATENTS), cue.block)
    stored = excerpt.take / file
    digest = hashlib.sha256(stored.read_bytes()).hexdigest() if stored.is_file() else None
    return {
        "block": cue.block,
        "timecode": format_timecode(cue.frame / excerpt.fps),
        "latents": file.as_posix() if digest else None,
        "sha256": digest,
    }


def _composition(schema: str, name: str, children: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "OTIO_SCHEMA": schema,
        "metadata": {},
        "name": name,
        "source_range": None,
        "effects": [],
        "markers": [],
        "children": children,
    }


def _range(frames: range, fps: int) -> dict[str, Any]:
    return {
        "OTIO_SCHEMA": "TimeRange.1",
        "start_time": _time(frames.start, fps),
        "duration": _time(len(frames), fps),
    }


def _time(frames: int, fps: int) -> dict[str, Any]:
    return {"OTIO_SCHEMA": "RationalTime.1", "rate": float(fps), "value": float(frames)}


def _url_of(video: Path, folder: Path) -> str:
    video, folder = video.resolve(), folder.resolve()
    return quote(os.path.relpath(video, folder)) if video.parent == folder else video.as_uri()
