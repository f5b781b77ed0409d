"""`longlive-rag take export`: parts of a take for others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.settings import FLAGS
from longlive_rag.takes.folder import check_no_take_file

if TYPE_CHECKING:
    from longlive_rag.takes.export import Excerpt

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("folder", metavar="TAKE", type=click.Path(path_type=Path))
@click.option("--from", "start", metavar="TIMECODE", help="Start of the range.  [default: the take's]")
@click.option("--to", "end", metavar="TIMECODE", help="End of the range.  [default: the take's]")
@click.option("--video", type=FILE, metavar="FILE.mp4", help="The range as a video.")
@click.option("--frames", type=FILE, metavar="FOLDER", help="The range as pictures, numbered as in the take.")
@click.option("--stills", type=FILE, metavar="FOLDER", help="The first frame under each prompt.")
@click.option("--sheet", type=FILE, metavar="FILE.png", help="A contact sheet of the range.")
@click.option("--otio", type=FILE, metavar="FILE.otio", help="A timeline for editorial tools, with a marker a cue.")
@click.option("--cues", type=FILE, metavar="FILE", help="The whole take's cues: .txt, .jsonl, .json or .yaml.")
@click.option("--codec", type=click.Choice(["vp9", "h264"]), help="Of --video.  [default: the take's]")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def export(
    folder: Path,
    start: str | None,
    end: str | None,
    codec: str | None,
    overwrite: bool,
    as_json: bool,
    **wanted: Path | None,
) -> None:
    """Write parts of a take: a video, pictures, a contact sheet, a timeline for editing, its cues.

    Frames come from the take's video as it is. What is written says, as the video does, that it was generated, by what
    and under which terms. It may be used while the take is being made.

    \b
    Examples:
      Four seconds of it:
        longlive-rag take export takes/first --from 0:02 --to 0:06 --video clip.mp4
      The same as pictures, and a contact sheet:
        longlive-rag take export takes/first --from 2 --to 6 --frames frames --sheet sheet.png
      For an editor: a timeline, and a still at each cue:
        longlive-rag take export takes/story --otio takes/story/take.otio --stills stills
      Its cues, to change them and make another take:
        longlive-rag take export takes/story --cues story.txt
    """
    targets = {kind: path for kind, path in wanted.items() if path is not None}
    with refuse_bad_input(FLAGS):
        from longlive_rag.media.video import check_codec
        from longlive_rag.takes.export import open_excerpt
        from longlive_rag.takes.record import read_record
        from longlive_rag.timecode import parse_timecode

        if not targets:
            raise ValueError("nothing is asked for; add --video, --frames, --stills, --sheet, --otio or --cues")
        for kind, path in targets.items():
            _check_target(kind, path, overwrite)
        fps = read_record(folder).video.fps
        start_seconds = 0.0 if start is None else parse_timecode(start, fps)
        excerpt = open_excerpt(folder, start_seconds, None if end is None else parse_timecode(end, fps))
        check_codec(codec or excerpt.record.video.codec)
        order = sorted(targets, key=lambda kind: kind != "stills")  # a range may turn out to have none
        written = {kind: _write(kind, excerpt, targets[kind], codec) for kind in order}
    if as_json:
        span = {"from_frame": excerpt.frames.start, "to_frame": excerpt.frames.stop, "fps": excerpt.fps}
        click.echo(json.dumps({"take": str(folder), **span, "written": written}, indent=2, ensure_ascii=False))
        return
    for kind, facts in written.items():
        note = "".join(f", {name} {value}" for name, value in facts.items() if name != "path")
        click.echo(f"{kind:<7} {facts['path']}{note}")


def _check_target(kind: str, path: Path, overwrite: bool) -> None:
    suffixes = {"video": (".mp4",), "sheet": (".png",), "otio": (".otio",)}
    if kind in ("frames", "stills"):
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise ValueError(f"--{kind} {path} is there already; choose a new folder, or an empty one")
        return
    if path.suffix.lower() not in suffixes.get(kind, (path.suffix.lower(),)):
        raise ValueError(f"--{kind} {path}: the suffix must be {suffixes[kind][0]}")
    check_no_take_file(path)
    if path.is_dir() or (path.exists() and not overwrite):
        raise ValueError(f"--{kind} {path} is there already; choose another name, or add --overwrite")


def _write(kind: str, excerpt: Excerpt, path: Path, codec: str | None) -> dict[str, Any]:
    from longlive_rag.takes.cue_files import read_cues, write_cues
    from longlive_rag.takes.export import export_frames, export_sheet, export_stills, export_video
    from longlive_rag.takes.otio import write_timeline

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

    def sheet() -> dict[str, Any]:
        export_sheet(excerpt, path)
        return {}

    writers: dict[str, Callable[[], dict[str, Any]]] = {
        "video": video,
        "frames": lambda: {"frames": export_frames(excerpt, path)},
        "stills": lambda: {"stills": export_stills(excerpt, path)},
        "sheet": sheet,
        "otio": timeline,
        "cues": cues,
    }
    return {"path": str(path), **writers[kind]()}
