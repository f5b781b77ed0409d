"""`longlive-rag library`: list the takes in a folder, and find frames in them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.settings import FLAGS, Duration

if TYPE_CHECKING:
    from longlive_rag.takes.library import Found, Library, PromptUnits

ROOT = click.argument("root", default="takes", type=click.Path(path_type=Path))
PROMPT_WIDTH = 60


@click.group()
def library() -> None:
    """List the takes in a folder, and find frames in them.

    \b
    Examples:
      longlive-rag library list
      longlive-rag library search --text "a blue square jumps"
      longlive-rag library search --frame takes/first@0:05 -o found.png
    """


@library.command("list")
@ROOT
@click.option("--json", "as_json", is_flag=True, help="Print the takes as JSON.")
def list_takes(root: Path, as_json: bool) -> None:
    """List the takes under ROOT (default: takes).

    \b
    Examples:
      longlive-rag library list
      longlive-rag library list takes --json
    """
    from longlive_rag.takes.library import open_library

    with refuse_bad_input():
        found = open_library(root)
        facts = [take.describe() for take in found.takes]
    _say_left_out(found.left_out)
    if as_json:
        click.echo(json.dumps({"root": str(root), "takes": facts}, indent=2, ensure_ascii=False))
        return
    if not facts:
        click.echo(f"no takes in {root}")
        return
    rows = [("take", "status", "length", "size", "backbone", "cues", "prompt")]
    for take in facts:
        size = f"{take['width']}x{take['height']}"
        length = f"{take['seconds']:.1f} s"
        prompt = _short(take["prompt"])
        rows.append((take["take"], take["status"], length, size, take["backbone"], str(len(take["cues"])), prompt))
    click.echo(_table(rows))


@library.command()
@ROOT
@click.option("--text", help="Find frames made with prompts like this.")
@click.option("--frame", metavar="TAKE@TIMECODE", help="Find frames that look like this one.")
@click.option("--limit", type=click.IntRange(1, 1000), default=8, show_default=True, help="Maximum number of results.")
@click.option(
    "--apart",
    type=Duration(0),
    default=1.0,
    show_default=True,
    help="Minimum seconds between results from one take.",
)
@click.option(
    "--backbone",
    metavar="NAME|FOLDER",
    help="Backbone whose text encoder reads --text.  [default: the one most takes were made with]",
)
@click.option("--words-only", is_flag=True, help="Compare prompts by their words alone; no text encoder is loaded.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE.png", help="Write a sheet of the frames found."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def search(
    root: Path,
    text: str | None,
    frame: str | None,
    limit: int,
    apart: float,
    backbone: str | None,
    words_only: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Find frames in takes, by words or by another frame.

    ROOT is the folder of takes (default: takes). Words are compared with the prompts of the frames: half by
    embedding, half by the words themselves. A frame is compared with the stored embeddings of all frames of the
    same backbone, the ones that memory uses.

    \b
    Examples:
      longlive-rag library search --text "a blue square jumps"
      longlive-rag library search takes --frame takes/first@0:05 --limit 12 -o found.png
    Have a new take remember what was found:
      longlive-rag generate "a red circle walks in a desert" -o takes/second --remember takes/first@4-6
    """
    from longlive_rag.takes.library import open_library, search_frame, search_words

    with refuse_bad_input(FLAGS):
        if (text is None) == (frame is None):
            raise ValueError("give either --text WORDS or --frame TAKE@TIMECODE")
        if output is not None and output.suffix.lower() != ".png":
            raise ValueError(f"--output {output}: the suffix must be .png")
        takes = open_library(root)
        if frame is not None:
            folder, at, timecode = frame.rpartition("@")
            if not at:
                raise ValueError(f"--frame is {frame!r}; it must be TAKE@TIMECODE, such as takes/first@0:05")
            found = search_frame(takes, Path(folder), timecode, limit, apart)
        else:
            assert text is not None
            units = None if words_only or not takes.takes else _text_encoder(takes, backbone)
            found = search_words(takes, text, limit, units)
        if output is not None and found.hits:
            _draw(found, f"Like {frame}" if frame else f"“{text}”", output)
    _say_left_out((*takes.left_out, *found.left_out))
    hits = [hit.as_dict() for hit in found.hits]
    if as_json:
        left_out = [{"take": str(folder), "reason": reason} for folder, reason in (*takes.left_out, *found.left_out)]
        facts = {"root": str(root), "text": text, "frame": frame, "found": hits, "left_out": left_out}
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        click.echo(_hits_table(hits) if hits else f"nothing found among {len(takes.takes)} takes in {root}")
        if output is not None and hits:
            click.echo(f"  drawn   {output}")


def _text_encoder(takes: Library, backbone: str | None) -> PromptUnits:
    """Load the text encoder of `backbone`, or of the backbone that made most takes."""
    from longlive_rag.presets.preset import find_folder
    from longlive_rag.sessions.opening import quiet_libraries

    name = backbone or Counter(take.record.run.backbone for take in takes.takes).most_common(1)[0][0]
    try:
        folder = find_folder(name)
    except ValueError as error:
        if backbone is not None:
            raise
        raise ValueError(f"{error}; give the takes' backbone with --backbone, or add --words-only") from error
    with quiet_libraries():
        from longlive_rag.presets.embeddings import prompt_units_of

        return prompt_units_of(folder)


def _draw(found: Found, title: str, path: Path) -> None:
    from PIL import Image

    from longlive_rag.media.pictures import found_sheet, timecode
    from longlive_rag.media.video import read_frame
    from longlive_rag.rights.provenance import DIGITAL_SOURCE
    from longlive_rag.takes.export import save_picture

    tiles = []
    for hit in found.hits:
        video = hit.take.folder / hit.take.record.video.file
        words = f"{hit.similarity:.2f}  {hit.prompt}"
        where = f"{hit.take.folder.name} {timecode(hit.shown / hit.take.fps)}"
        tiles.append((Image.fromarray(read_frame(video, hit.shown)), where, words))
    facts = {
        "generated_by_ai": True,
        "digital_source_type": DIGITAL_SOURCE,
        "found": [hit.as_dict() for hit in found.hits],
    }
    tags = {"comment": "Generated by AI: frames of takes", "description": json.dumps(facts, ensure_ascii=False)}
    save_picture(found_sheet(tiles, title, f"{len(tiles)} frames, the most similar first"), path, tags)


def _say_left_out(left_out: Sequence[tuple[Path, str]]) -> None:
    for folder, reason in left_out:
        click.echo(f"Note: {folder} is left out: {reason}.", err=True)


def _hits_table(hits: Sequence[dict[str, Any]]) -> str:
    from longlive_rag.timecode import shown_timecode

    rows = [("similarity", "take", "from", "to", "prompt")]
    for hit in hits:
        start, end = (shown_timecode(hit[name]) for name in ("from_seconds", "to_seconds"))
        rows.append((f"{hit['similarity']:.3f}", hit["take"], start, end, _short(hit["prompt"])))
    return _table(rows)


def _short(words: str) -> str:
    line = " ".join(words.split())
    return line if len(line) <= PROMPT_WIDTH else line[: PROMPT_WIDTH - 3].rstrip() + "..."


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
