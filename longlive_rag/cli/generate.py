"""`longlive-rag generate`: make a take from a prompt."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.making import make, note, report
from longlive_rag.cli.settings import (
    ATTENTION,
    BACKBONE,
    CODEC,
    COMPILE,
    DECODER,
    DEVICE,
    DTYPE,
    FLAGS,
    GPUS,
    PROMPT_EMBEDS,
    SEED,
    VAE_DEVICE,
    CueSource,
    asked_opening,
    build_schedule,
    with_checkpoints,
    with_cue_files,
    with_rights,
    with_settings,
)
from longlive_rag.config import CheckpointConfig, CheckpointMode
from longlive_rag.presets.preset import load_preset
from longlive_rag.sessions.asking import build_request

timed_option = partial(click.option, type=(str, str), multiple=True, metavar="TIMECODE PROMPT")


@click.command()
@click.argument("prompt", required=False)
@click.option("-o", "--output", "take", required=True, metavar="FOLDER", help="Folder for the take.")
@click.option(
    "--seconds",
    metavar="TIMECODE",
    help="Length of the take, such as 90 or 1:30.  [default: from --cues, else 30]",
)
@timed_option("--cue", "cues", help="Switch to PROMPT at this time, from the next block on. Repeat for more.")
@timed_option(
    "--cut",
    "cuts",
    help="Begin another shot with PROMPT at this time, from the next block on; memory brings back what it needs from "
    "earlier shots. Repeat for more.",
)
@with_cue_files
@SEED
@click.option(
    "--start-image",
    metavar="FILE",
    help="PNG or JPEG to begin the take with; it is scaled to cover the frame and centre-cropped.",
)
@BACKBONE
@with_settings
@DTYPE
@DEVICE
@GPUS
@CODEC
@DECODER
@COMPILE
@ATTENTION
@VAE_DEVICE
@PROMPT_EMBEDS
@with_checkpoints
@with_rights
@click.option("--overwrite", is_flag=True, help="Replace an existing take in the folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON (progress stays on stderr).")
def generate(
    prompt: str | None,
    take: str,
    seconds: str | None,
    cues: tuple[tuple[str, str], ...],
    cuts: tuple[tuple[str, str], ...],
    cue_file: Path | None,
    cues_line: int | None,
    switch_every: str | None,
    seed: int,
    start_image: str | None,
    backbone: str,
    checkpoint: CheckpointMode | None,
    checkpoint_gib: float | None,
    license_policy: str | None,
    deliverable: bool,
    phase: str | None,
    show_label: bool,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a take: a video from PROMPT that remembers what it has shown.

    The folder will hold video.mp4, take.json (how the take was made), contact_sheet.png (frames at a glance) and
    memory.png (which past frames each block brought back). Ctrl-C keeps what is finished; 'longlive-rag
    resume' makes the rest.

    \b
    Examples:
      Make half a minute of video from one sentence:
        longlive-rag generate "a red circle walks in a meadow" -o takes/first
      Switch prompts at 8 s and at 14 s:
        longlive-rag generate "a red circle walks in a meadow" -o takes/story --seconds 20 \\
          --cue 8 "a red circle jumps in a meadow" --cue 0:14 "a red circle leaves in a meadow"
      Make two shots; memory brings back what the second one needs from the first:
        longlive-rag generate "a red circle walks in a meadow" -o takes/shots --seconds 20 \\
          --cut 10 "a red circle jumps in a desert"
      Read the prompts from a cue file, or from the cues of a take:
        longlive-rag generate --cues story.txt -o takes/story
        longlive-rag generate --cues takes/story -o takes/again
      Make the same take without memory, for comparison:
        longlive-rag generate "a red circle walks in a meadow" -o takes/native --no-memory
      Begin with a picture:
        longlive-rag generate "a red circle walks in a meadow" -o takes/picture --start-image first.png
      Use your own backbone, on a GPU, with more memory:
        longlive-rag generate "a red fox in the snow" -o takes/fox --backbone models/longlive \\
          --device cuda --memory-frames 8 --window 14
      Use two GPUs:
        longlive-rag generate "a red fox in the snow" -o takes/fox2 --backbone models/longlive --gpus 2

    Options from --window to --upscale default to the backbone's preset: docs/commands.md lists tiny-world's, and
    'models show NAME' another's.
    """
    from longlive_rag.sessions.making import NewTake, new_take
    from longlive_rag.sessions.opening import Labels
    from longlive_rag.sessions.several_gpus import follow_launched

    with ExitStack() as held:
        with refuse_bad_input(FLAGS):
            preset = load_preset(backbone)
            source = CueSource(cue_file, cues_line, switch_every)
            schedule = build_schedule(preset, prompt, seconds, cues, source, options, cuts)
            request = build_request(preset, schedule, seed, options, start_image)
            checkpoints = CheckpointConfig().changed(checkpoint, checkpoint_gib)
            if not take:
                raise ValueError("--output is empty; name a folder for the take, such as takes/first")
            opening = asked_opening(options)
            if follow_launched(preset, opening, license_policy):
                return
            labels = Labels(license_policy, deliverable, phase, show_label)
            asked = NewTake(preset, request, Path(take), overwrite, opening, labels, checkpoints)
            job = held.enter_context(new_take(asked, note))
        record = make(job)
    report(record, Path(take), as_json)
