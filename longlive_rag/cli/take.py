"""`longlive-rag take`: inspect, export and repair a take on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from longlive_rag.cli.errors import Failed, refuse_bad_input
from longlive_rag.cli.export import export

TAKE = click.argument("folder", metavar="TAKE", type=click.Path(path_type=Path))


@click.group()
def take() -> None:
    """Inspect, export and repair takes on disk.

    \b
    Examples:
      longlive-rag take info takes/first
      longlive-rag take export takes/first --from 0:02 --to 0:06 --video clip.mp4
      longlive-rag take repair takes/first
    """


take.add_command(export)


@take.command()
@TAKE
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def info(folder: Path, as_json: bool) -> None:
    """Show what a take holds and check every stored block. Exit code 1 if a block is damaged.

    This works while the take is still being made.

    \b
    Examples:
      longlive-rag take info takes/first
      longlive-rag take info takes/first --json
    """
    from longlive_rag.takes.folder import in_shell
    from longlive_rag.takes.inspection import describe

    with refuse_bad_input():
        facts = describe(folder)
    click.echo(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else _lines(facts))
    damage = (facts["latents"] or {}).get("damage")
    if facts["video_damage"]:
        raise Failed(facts["video_damage"])
    if damage:
        raise Failed(f"{damage['message']}; `longlive-rag take repair {in_shell(folder)}` keeps the blocks before it")


@take.command()
@TAKE
@click.option("--accept-record", is_flag=True, help="Accept an edited take.json as it is, if it can be read.")
def repair(folder: Path, accept_record: bool) -> None:
    """Keep a take's blocks up to the first damaged one.

    The others are moved aside; nothing is deleted. The video and the record stay as they are; 'longlive-rag resume'
    remakes what is missing or damaged.

    \b
    Examples:
      longlive-rag take repair takes/first
      longlive-rag take repair --accept-record takes/first
    """
    from longlive_rag.takes.folder import LATENTS, TakeClaim, remove_leftovers
    from longlive_rag.takes.record import read_record, write_record
    from retrieval.store import repair as mend

    with refuse_bad_input():
        if accept_record:
            with TakeClaim(folder, resume=True):
                write_record(folder, read_record(folder, check=False))
            click.echo(f"{folder}: accepted take.json as it is")
            if not (folder / LATENTS).is_dir():
                return
        done = mend(folder / LATENTS)
        remove_leftovers(folder)
    if done.folder is None:
        click.echo(f"{folder}: all {done.kept} blocks are intact; nothing to repair")
    else:
        click.echo(f"{folder}: kept the first {done.kept} blocks; moved {len(done.set_aside)} to {done.folder}")


def _lines(facts: dict[str, Any]) -> str:
    state = " (being written now)" if facts["being_written"] else ""
    lines = [
        f"{facts['take']}: {facts['status']}{state}, {facts['frames'] / facts['fps']:g} of {facts['seconds']:g} s, "
        f"{facts['width']}x{facts['height']} at {facts['fps']} frames per second, backbone {facts['backbone']}",
        f"  prompt   {facts['prompt']}",
    ]
    lines += [f"  cue {number}    {prompt}" for number, prompt in enumerate(facts["cues"], start=1)]
    latents = facts["latents"]
    if latents is None:
        return "\n".join([*lines, "  latents  none stored"])
    width = f", embeddings of {latents['embedding_dim']}" if latents["embedding_dim"] else ""
    lines.append(
        f"  latents  {latents['blocks']} blocks, {latents['frames']} latent frames of {latents['shape']}{width}, "
        f"{latents['bytes'] / 1e6:.1f} MB"
    )
    return "\n".join(lines)
