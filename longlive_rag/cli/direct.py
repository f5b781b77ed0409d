"""`longlive-rag direct`: a take is made, watched and told what comes next."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.generate import open_backbone, provenance_of, report, stored_bytes
from longlive_rag.cli.settings import (
    FLAGS,
    SETTINGS,
    CueSource,
    build_request,
    build_schedule,
    with_rights,
    with_settings,
)
from longlive_rag.presets.preset import BUILT_IN, DEFAULT_BACKBONE, load_preset

if TYPE_CHECKING:
    from longlive_rag.cli.session import Session
    from longlive_rag.sessions.legs import Leg

LONGEST_SECONDS = 600.0
OF_NEW_TAKES = ("seed", "memory", "dtype", "codec", "deliverable", "phase", "show_label")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", metavar="TAKE", type=click.Path(path_type=Path))
@click.argument("prompt", required=False)
@click.option("--seconds", type=float, default=LONGEST_SECONDS, show_default=True, help="How long to go on at most.")
@click.option("--seed", type=int, help="Of a new take.  [default: 0]")
@click.option("--memory/--no-memory", default=None, help="Of a new take: retrieve past frames, or don't.")
@click.option(
    "--backbone",
    metavar="NAME|FOLDER",
    help=f"A known name ({', '.join(BUILT_IN)}) or a pipeline folder.  [default: the take's, else {DEFAULT_BACKBONE}]",
)
@with_settings
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Of a new take.  [default: float32]")
@click.option("--device", default="auto", show_default=True, help="auto (a GPU if there is one), cpu, cuda or cuda:N.")
@click.option("--codec", type=click.Choice(["vp9", "h264"]), help="Of a new take's video.  [default: vp9]")
@click.option("--prompt-embeds", type=click.Path(path_type=Path), help="Prompts embedded by 'models embed-prompts'.")
@with_rights
def direct(folder: Path, prompt: str | None, seconds: float, **options: Any) -> None:
    """Make a take and direct it meanwhile: type what is to be seen next, at any time.

    A new take begins with PROMPT, or with the first line that is typed. A take that is there goes on where it ends;
    PROMPT then takes over there. What is typed takes over at the next block and becomes a cue of the take, so that it
    can be made again exactly (generate --cues TAKE, with the same seed and settings). Where the terminal has 24-bit
    colour it shows the take.

    \b
    Besides prompts there are:
      :pin 5-8        bring back these seconds first       :undo          back to before the last cue
      :exclude 12-14  never bring back these seconds       :branch NAME   go on in a copy, beside this take
      :establish 8    keep 8 s of each new view; or off    :quit          end the take (also Ctrl-D)
      :save           write record and pictures now

    \b
    Examples:
      longlive-rag direct takes/live "a red circle walks in a meadow"
      longlive-rag direct takes/live --seconds 60
      By a script; the take is made to its length:
        echo "a red circle jumps in a meadow" | longlive-rag direct takes/live --seconds 20
    """
    from longlive_rag.cli.session import Session
    from longlive_rag.takes.folder import RECORD

    with ExitStack() as held:
        session = Session()
        is_old = (folder / RECORD).is_file()
        open_leg = _open_old if is_old else _open_new
        leg = open_leg(held, session, folder, prompt, seconds, options)
        record, last = session.run(leg, prompt if is_old else None)
    report(record, last.folder, as_json=False)
    again = f"longlive-rag generate --cues {last.folder} -o NEW --seed {last.request.seed}"
    click.echo(f"  again   {again} (and the settings of this one)")


def _open_new(
    held: ExitStack, session: Session, folder: Path, prompt: str | None, seconds: float, options: dict[str, Any]
) -> Leg:
    """A take that is begun."""
    from longlive_rag.config import CheckpointConfig
    from longlive_rag.presets.geometry import read_geometry
    from longlive_rag.sessions.legs import Leg
    from longlive_rag.takes.branch import timeline_of
    from longlive_rag.takes.folder import TakeClaim, check_take_folder
    from longlive_rag.takes.remember import find_remembered

    if prompt is None:
        prompt = session.first_line() or ""
    with refuse_bad_input(FLAGS):
        if not folder.name:
            raise ValueError("TAKE is empty; name a folder for the take, such as takes/live")
        preset = load_preset(options["backbone"] or DEFAULT_BACKBONE)
        schedule = build_schedule(preset, prompt, seconds, (), CueSource(), options)
        request = build_request(preset, schedule, options["seed"] or 0, options["memory"], options)
        labels = (options["deliverable"], options["phase"], options["show_label"])
        provenance = provenance_of(preset, options["license_policy"], *labels)
        geometry = read_geometry(preset, request.output, request.memory.encoder)
        find_remembered(request.memory.remember, preset, request.output, geometry)
        checkpoints, dtype = CheckpointConfig(), options["dtype"] or "float32"
        room = stored_bytes(request, timeline_of(request, preset), geometry, dtype, checkpoints)
        check_take_folder(folder, request, latents_bytes=room, hint="")
        claim = held.enter_context(TakeClaim(folder))
    codec, embeds = options["codec"] or "vp9", options["prompt_embeds"]
    pipe, run = open_backbone(preset, request, options["device"], dtype, codec, provenance, embeds)
    return Leg(pipe, run, folder, request, "generated", checkpoints, claim)


def _open_old(
    held: ExitStack, session: Session, folder: Path, prompt: str | None, seconds: float, options: dict[str, Any]
) -> Leg:
    """A take that is gone on with."""
    from dataclasses import replace

    from longlive_rag.cli.going_on import check_room, differences, open_take, provenance_like
    from longlive_rag.config import check_seconds
    from longlive_rag.sessions.legs import Leg
    from longlive_rag.takes.branch import checkpoint_of, timeline_of
    from longlive_rag.takes.folder import TakeClaim

    with refuse_bad_input(FLAGS):
        given = [FLAGS.get(name, f"--{name}") for name in OF_NEW_TAKES if options[name] not in (None, False)]
        given += [setting.flag for setting in SETTINGS if options[setting.key] not in (None, ())]
        if given:
            raise ValueError(f"{given[0]} is for new takes; {folder} is there already and goes on as it was begun")
        take = open_take(folder, options["backbone"])
        check_seconds(seconds, take.request.output.fps)
        request = replace(take.request, seconds=take.timeline.starts_at(take.blocks) + seconds)
        checkpoints = checkpoint_of(take.record)
        provenance = provenance_like(take, options["license_policy"])
        check_room(folder, request, timeline_of(request, take.preset), take, checkpoints)
        claim = held.enter_context(TakeClaim(folder, resume=True))
    old = take.record["run"]
    pipe, run = open_backbone(
        take.preset, request, options["device"], old["dtype"], old["codec"], provenance, options["prompt_embeds"]
    )
    for difference in differences(take.record, run):
        session.console.say(f"Note: {difference}; from here on the last bits may differ.")
    if prompt is not None:
        with refuse_bad_input():
            pipe.check_prompt(prompt)
    return Leg(pipe, run, folder, request, "extended", checkpoints, claim)
