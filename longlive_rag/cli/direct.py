"""`longlive-rag direct`: direct a take while it is being made."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.making import note, report
from longlive_rag.cli.settings import (
    ATTENTION_OF_NEW,
    CODEC_OF_NEW,
    COMPILE_OF_NEW,
    DECODER_OF_NEW,
    DEVICE,
    DTYPE_OF_NEW,
    FLAGS,
    GPUS,
    PROMPT_EMBEDS,
    VAE_DEVICE,
    CueSource,
    asked_opening,
    build_schedule,
    with_rights,
    with_settings,
)
from longlive_rag.environment import launched
from longlive_rag.presets.preset import DEFAULT_BACKBONE, load_preset
from longlive_rag.sessions.asking import SETTINGS, build_request, seconds_of

if TYPE_CHECKING:
    from longlive_rag.sessions.directed_take import DirectedTake
    from longlive_rag.sessions.resuming import Changes

LONGEST = "600"
OF_NEW_TAKES = ("seed", "dtype", "codec", "decoder", "compile", "attention", "deliverable", "phase", "show_label")


@click.command()
@click.argument("folder", metavar="TAKE", type=click.Path(path_type=Path))
@click.argument("prompt", required=False)
@click.option(
    "--seconds",
    metavar="TIMECODE",
    default=LONGEST,
    show_default=True,
    help="Maximum length of the take, such as 90 or 1:30.",
)
@click.option("--seed", type=int, help="Seed of a new take.  [default: 0]")
@click.option(
    "--backbone",
    metavar="NAME|FOLDER",
    help=f"A name in 'models list', or a pipeline folder.  [default: the take's, else {DEFAULT_BACKBONE}]",
)
@with_settings
@DTYPE_OF_NEW
@DEVICE
@GPUS
@VAE_DEVICE
@CODEC_OF_NEW
@DECODER_OF_NEW
@COMPILE_OF_NEW
@ATTENTION_OF_NEW
@PROMPT_EMBEDS
@with_rights
def direct(folder: Path, prompt: str | None, seconds: str, **options: Any) -> None:
    """Make a take and direct it live: at any time, type what should be seen next.

    A new take begins with PROMPT, or with the first line you type. An existing take continues from its end, with
    PROMPT if you give one. What you type takes effect at the next block and becomes a cue of the take, so the take can
    be reproduced exactly (generate --cues TAKE, with the same seed and settings). A terminal with 24-bit colour shows
    the take.

    \b
    Besides prompts, you can type:
      :pin 5-8        bring back these seconds first       :undo          go back to before the last cue
      :exclude 12-14  never bring back these seconds       :branch NAME   continue in a copy next to this take
      :establish 8    keep 8 s of each new view; or off    :quit          end the take (also Ctrl-D)
      :policy NAME    choose how memory picks frames       :save          write record and pictures now
      :cut WORDS      begin another shot with these words

    \b
    Examples:
      longlive-rag direct takes/live "a red circle walks in a meadow"
      longlive-rag direct takes/live --seconds 60
      From a script; the take runs to its full length:
        echo "a red circle jumps in a meadow" | longlive-rag direct takes/live --seconds 20
    """
    from longlive_rag.cli.session import Session
    from longlive_rag.takes.folder import RECORD, in_shell

    if not folder.name:
        raise click.UsageError("TAKE is empty; name a folder for the take, such as takes/live")
    is_old = (folder / RECORD).is_file()
    if launched() is not None and _follow(folder if is_old else None, options):
        return
    with ExitStack() as held:
        session = Session()
        if is_old:
            take = _open_old(held, folder, prompt, seconds, options)
        else:
            take = _open_new(held, folder, session.first_line() or "" if prompt is None else prompt, seconds, options)
        record, last = session.run(take, prompt if is_old else None)
    if not record.video.frames:
        click.echo("The take was ended before its first block; nothing was written.")
        return
    report(record, last.folder, as_json=False)
    again = f"longlive-rag generate --cues {in_shell(last.folder)} -o NEW --seed {last.request.seed}"
    click.echo(f"  again   {again} (and the settings of this one)")


def _follow(old: Path | None, options: dict[str, Any]) -> bool:
    """In a process that torchrun started with a rank above 0, do what rank 0 does and return True.

    Args:
        old: the take's folder, if it already exists.
    """
    from longlive_rag.sessions.resuming import open_take, opening_of
    from longlive_rag.sessions.several_gpus import follow_launched

    with refuse_bad_input(FLAGS):
        if old is None:
            preset, opening = load_preset(options["backbone"] or DEFAULT_BACKBONE), asked_opening(options)
        else:
            take = open_take(old, options["backbone"])
            preset, opening = take.preset, opening_of(take, _changes(options))
        return follow_launched(preset, opening, options["license_policy"])


def _changes(options: dict[str, Any]) -> Changes:
    """The options that may change for an existing take."""
    from longlive_rag.sessions.resuming import Changes

    return Changes(
        options["backbone"],
        options["device"],
        options["prompt_embeds"],
        license_policy=options["license_policy"],
        vae_device=options["vae_device"],
        gpus=options["gpus"],
    )


def _open_new(held: ExitStack, folder: Path, prompt: str, length: str, options: dict[str, Any]) -> DirectedTake:
    """Begin a new take."""
    from longlive_rag.sessions.directing import new_live_take
    from longlive_rag.sessions.making import NewTake
    from longlive_rag.sessions.opening import Labels

    with refuse_bad_input(FLAGS):
        preset = load_preset(options["backbone"] or DEFAULT_BACKBONE)
        schedule = build_schedule(preset, prompt, length, (), CueSource(), options)
        request = build_request(preset, schedule, options["seed"] or 0, options)
        labels = Labels(options["license_policy"], options["deliverable"], options["phase"], options["show_label"])
        return new_live_take(held, NewTake(preset, request, folder, False, asked_opening(options), labels), note)


def _open_old(held: ExitStack, folder: Path, prompt: str | None, length: str, options: dict[str, Any]) -> DirectedTake:
    """Reopen an existing take."""
    from longlive_rag.sessions.directing import resumed_live_take
    from longlive_rag.sessions.resuming import open_take

    with refuse_bad_input(FLAGS):
        given = [FLAGS.get(name, f"--{name}") for name in OF_NEW_TAKES if options[name] not in (None, False)]
        given += [setting.knob.flag for setting in SETTINGS if options[setting.key] not in (None, ())]
        if given:
            raise ValueError(
                f"{given[0]} is for new takes; {folder} already exists and keeps the settings it was started with"
            )
        changes = _changes(options)
        old = open_take(folder, changes.backbone)
        take = resumed_live_take(held, old, seconds_of(length, old.request.output.fps), changes, note)
        if prompt is not None:
            take.pipe.check_prompt(prompt)
        return take
