"""Takes as OpenTimelineIO timelines: one clip per shot with a marker at each prompt, or one track per branch.

They are written as plain JSON in the library's public schema, so that the library is not needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from longlive_rag.media.sums import sha256_of
from longlive_rag.media.video import count_frames, whole_frames
from longlive_rag.presets.preset import load_preset
from longlive_rag.takes.export import CueFrame, Excerpt, open_excerpt
from longlive_rag.takes.folder import LATENTS
from longlive_rag.takes.record import TakeRecord, plain, read_record
from longlive_rag.timecode import format_timecode
from longlive_rag.timeline import Timeline
from retrieval.files import write_json
from retrieval.lock import is_being_written
from retrieval.store import block_path

NAMESPACE = "longlive_rag"


def write_timeline(excerpt: Excerpt, path: Path) -> None:
    """Write an `.otio` file of a take's range, atomically.

    A file in the take's folder refers to the video next to it by name, so that the folder can be moved; any other file
    refers to it by its full path.

    Raises:
        OSError: if writing fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, timeline_of(excerpt, path.parent))


def timeline_of(excerpt: Excerpt, folder: Path) -> dict[str, Any]:
    """The content of an `.otio` file in `folder`."""
    name = excerpt.take.resolve().name
    return _timeline(name, [_track("Video", _clips(excerpt, _url_of(excerpt.video, folder)))])


def write_branches(take: Path, takes: Iterable[Path], path: Path) -> int:
    """Write an `.otio` file of a take with all its branches, atomically, and return the number of tracks.

    Args:
        take: any of the related takes.
        takes: folders of takes to look for the others in.
        path: path of the file; videos below its folder are referred to by relative path, others by full path.

    Raises:
        ValueError: if a video is damaged, or none of the takes has one.
        OSError: if writing fails.
    """
    timeline = timeline_of_branches(take, takes, path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, timeline)
    return len(timeline["tracks"]["children"])


def timeline_of_branches(take: Path, takes: Iterable[Path], folder: Path) -> dict[str, Any]:
    """The content of an `.otio` file in `folder` with a track for each take, beginning with the root.

    What a branch shares with its parent is a gap in its track. Takes without frames of their own are left out.
    """
    tracks = []
    for place, start in _tree(take, takes):
        record = read_record(place)
        video = place / record.video.file
        count = whole_frames if is_being_written(place / LATENTS) else count_frames  # it may have no header yet
        frames = count(video) if video.is_file() else 0
        if frames <= start:
            continue
        excerpt = open_excerpt(place, start / record.video.fps)
        clips = _clips(excerpt, _url_below(excerpt.video, folder))
        tracks.append(_track(place.name, [*([_gap(start, excerpt.fps)] if start else []), *clips]))
    if not tracks:
        raise ValueError(f"neither {take} nor its branches have a video yet")
    return _timeline(tracks[0]["name"], tracks)


def _tree(take: Path, takes: Iterable[Path]) -> list[tuple[Path, int]]:
    """The takes related to one, parents before their branches, each with the first frame of its own."""
    records: dict[Path, TakeRecord] = {}
    for folder in dict.fromkeys(each.resolve() for each in (take, *takes)):
        with suppress(ValueError, OSError):  # no longer a take
            records[folder] = read_record(folder)
    parents = {
        folder: Path(record.branched_from.take).resolve()
        for folder, record in records.items()
        if record.branched_from is not None
    }
    root, seen = take.resolve(), set[Path]()
    while parents.get(root) in records and root not in seen:  # edited records might form a cycle
        seen.add(root)
        root = parents[root]
    found, waiting = [(root, 0)], [root]
    while waiting:
        parent = waiting.pop(0)
        for folder in sorted(records, key=lambda each: (records[each].started, each)):
            if parents.get(folder) == parent and folder not in {each for each, _ in found}:
                found.append((folder, _fork(records[folder])))
                waiting.append(folder)
    return found


def _fork(record: TakeRecord) -> int:
    assert record.branched_from is not None
    factor = record.video.temporal_factor or load_preset(record.run.backbone).temporal_factor
    per_block = record.request.context.frames_per_block
    timeline = Timeline(record.request.pixel_frames, record.video.fps, per_block, factor)
    return timeline.pixels_of(record.branched_from.blocks).start


def _clips(excerpt: Excerpt, url: str) -> list[dict[str, Any]]:
    """One clip per shot; the only clip of a one-shot take is named after the take."""
    take = excerpt.take.resolve().name
    several = any(cue.cut for cue in excerpt.record.cues)
    return [_clip(part, f"{take} shot {number}" if several else take, url) for number, part in excerpt.shots]


def _clip(excerpt: Excerpt, name: str, url: str) -> dict[str, Any]:
    run = excerpt.record.run
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
        "name": excerpt.take.resolve().name,
        "available_range": _range(range(excerpt.video_frames), excerpt.fps),
        "target_url": url,
    }
    return {
        "OTIO_SCHEMA": "Clip.1",  # newer versions are not read by current editing tools; the library upgrades this one
        "metadata": {NAMESPACE: facts},
        "name": name,
        "source_range": _range(excerpt.frames, excerpt.fps),
        "effects": [],
        "markers": [_marker(excerpt, cue) for cue in excerpt.cues],
        "media_reference": media,
    }


def _gap(frames: int, fps: int) -> dict[str, Any]:
    return {
        "OTIO_SCHEMA": "Gap.1",
        "metadata": {},
        "name": "",
        "source_range": _range(range(frames), fps),
        "effects": [],
        "markers": [],
    }


def _track(name: str, children: list[dict[str, Any]]) -> dict[str, Any]:
    return {**_composition("Track.1", name, children), "kind": "Video"}


def _timeline(name: str, tracks: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "OTIO_SCHEMA": "Timeline.1",
        "metadata": {},
        "name": name,
        "global_start_time": None,
        "tracks": _composition("Stack.1", "tracks", tracks),
    }


def _marker(excerpt: Excerpt, cue: CueFrame) -> dict[str, Any]:
    facts = {
        "cue": cue.number,
        "prompt": cue.prompt,
        "seed": excerpt.seed,
        "state": _state(excerpt, cue),
        **({"cut": True} if cue.cut else {}),
    }
    return {
        "OTIO_SCHEMA": "Marker.2",
        "metadata": {NAMESPACE: facts},
        "name": f"{'cut' if cue.cut else 'cue'} {cue.number}" if cue.number else "first prompt",
        "color": "CYAN" if cue.number else "GREEN",
        "marked_range": _range(range(cue.frame, cue.frame + 1), excerpt.fps),
        "comment": cue.prompt,
    }


def _state(excerpt: Excerpt, cue: CueFrame) -> dict[str, Any]:
    """Where the take's state at the cue is: the block at which the prompt takes over, and its stored latents."""
    file = block_path(Path(LATENTS), cue.block)
    stored = excerpt.take / file
    digest = sha256_of(stored) if stored.is_file() else None
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


def _url_below(video: Path, folder: Path) -> str:
    video, folder = video.resolve(), folder.resolve()
    return quote(video.relative_to(folder).as_posix()) if video.is_relative_to(folder) else video.as_uri()


def _url_of(video: Path, folder: Path) -> str:
    video, folder = video.resolve(), folder.resolve()
    return quote(os.path.relpath(video, folder)) if video.parent == folder else video.as_uri()
