"""`longlive-rag generate`: a take from a prompt."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longlive_rag.cli.errors import Failed, Stopped, one_line, refuse_bad_input
from longlive_rag.cli.settings import (
    FLAGS,
    CueSource,
    build_checkpoint,
    build_request,
    build_schedule,
    with_checkpoints,
    with_cue_files,
    with_rights,
    with_settings,
)
from longlive_rag.config import CheckpointConfig, CheckpointMode, TakeRequest
from longlive_rag.generation.cues import cue_blocks, snapped
from longlive_rag.presets.geometry import Geometry, backbone_id, read_geometry
from longlive_rag.presets.preset import BUILT_IN, DEFAULT_BACKBONE, Preset, load_preset
from longlive_rag.timeline import Timeline

if TYPE_CHECKING:
    from longlive_rag.pipeline import LongLiveRAGPipeline
    from longlive_rag.rights.provenance import Provenance
    from longlive_rag.takes.writer import TakeRun, TakeWriter
    from retrieval.budgets import PageCounters

PROGRESS = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} frames, {rate_noinv_fmt} end to end, "
PROGRESS += "{remaining} left{postfix}"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("prompt", required=False)
@click.option("-o", "--output", "take", required=True, metavar="FOLDER", help="Folder of the take.")
@click.option("--seconds", type=float, help="Length of the take.  [default: what --cues says, else 30]")
@click.option(
    "--cue",
    "cues",
    type=(str, str),
    multiple=True,
    metavar="TIMECODE PROMPT",
    help="Another prompt takes over then (at the next block). Repeat for more.",
)
@with_cue_files
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same take.")
@click.option(
    "--start-image",
    metavar="FILE",
    help="A PNG or JPEG that the take begins with; scaled to cover the frame and cropped to its centre.",
)
@click.option("--memory/--no-memory", default=None, help="Retrieve past frames, or don't (the native backbone).")
@click.option(
    "--backbone",
    default=DEFAULT_BACKBONE,
    show_default=True,
    metavar="NAME|FOLDER",
    help=f"A known name ({', '.join(BUILT_IN)}) or a pipeline folder.",
)
@with_settings
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto (a GPU if there is one), cpu, cuda or cuda:N.")
@click.option(
    "--codec",
    type=click.Choice(["vp9", "h264"]),
    default="vp9",
    show_default=True,
    help="Of the video. h264 plays on older devices too; its encoder is under the GPL.",
)
@click.option(
    "--prompt-embeds",
    type=click.Path(path_type=Path),
    help="Prompts embedded by 'models embed-prompts'; the text encoder is not loaded.",
)
@with_checkpoints
@with_rights
@click.option("--overwrite", is_flag=True, help="Replace the take that the folder holds.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON (progress stays on stderr).")
def generate(
    prompt: str | None,
    take: str,
    seconds: float | None,
    cues: tuple[tuple[str, str], ...],
    cue_file: Path | None,
    cues_line: int | None,
    switch_every: float | None,
    seed: int,
    start_image: str | None,
    memory: bool | None,
    backbone: str,
    dtype: str,
    device: str,
    codec: str,
    prompt_embeds: Path | None,
    checkpoint: CheckpointMode | None,
    checkpoint_gib: float | None,
    license_policy: str | None,
    deliverable: bool,
    phase: str | None,
    show_label: bool,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Make a take: a video from PROMPT that remembers what it has shown.

    The folder then holds video.mp4, take.json (how it was made), contact_sheet.png (frames at a glance) and
    memory.png (which past frames each block brought back). Ctrl-C keeps what was finished; 'longlive-rag resume' goes
    on with it.

    \b
    Examples:
      Half a minute from one sentence:
        longlive-rag generate "a red circle walks in a meadow" -o takes/first
      Another prompt takes over at 8 s, and again at 14 s:
        longlive-rag generate "a red circle walks in a meadow" -o takes/story --seconds 20 \\
          --cue 8 "a red circle jumps in a meadow" --cue 0:14 "a red circle leaves in a meadow"
      The same from a file of cues, or from the cues of a take:
        longlive-rag generate --cues story.txt -o takes/story
        longlive-rag generate --cues takes/story -o takes/again
      The same take without memory, to compare:
        longlive-rag generate "a red circle walks in a meadow" -o takes/native --no-memory
      A take that begins with a picture:
        longlive-rag generate "a red circle walks in a meadow" -o takes/picture --start-image first.png
      A backbone of your own, on a GPU, with more memory:
        longlive-rag generate "a red fox in the snow" -o takes/fox --backbone models/longlive \\
          --device cuda --dtype bfloat16 --memory-frames 8 --window 14

    Options from --window to --upscale default to the backbone's preset.
    """
    from longlive_rag.media.start_image import read_start_image
    from longlive_rag.takes.branch import timeline_of
    from longlive_rag.takes.folder import TakeClaim, check_take_folder
    from longlive_rag.takes.remember import find_remembered
    from longlive_rag.takes.writer import TakeWriter

    with ExitStack() as held:
        with refuse_bad_input(FLAGS):
            preset = load_preset(backbone)
            source = CueSource(cue_file, cues_line, switch_every)
            schedule = build_schedule(preset, prompt, seconds, cues, source, settings)
            request = build_request(preset, schedule, seed, memory, settings, start_image)
            checkpoints = build_checkpoint(CheckpointConfig(), checkpoint, checkpoint_gib)
            if not take:
                raise ValueError("--output is empty; name a folder for the take, such as takes/first")
            provenance = provenance_of(preset, license_policy, deliverable, phase, show_label)
            geometry = read_geometry(preset, request.output, request.memory.encoder)
            find_remembered(request.memory.remember, preset, request.output, geometry)
            picture = read_start_image(Path(start_image), request.output) if start_image is not None else None
            timeline = timeline_of(request, preset)
            cue_blocks(request, timeline)
            room = stored_bytes(request, timeline, geometry, dtype, checkpoints)
            check_take_folder(Path(take), request, overwrite, room)
            claim = held.enter_context(TakeClaim(Path(take), overwrite))
        for sentence in snapped(request, timeline):
            click.echo(f"Note: {sentence}.", err=True)
        if picture is not None:
            click.echo(f"Start image: {picture.in_words}.", err=True)
        pipe, run = open_backbone(preset, request, device, dtype, codec, provenance, prompt_embeds)
        writer = TakeWriter(Path(take), request, timeline, run, checkpoint=checkpoints, claim=claim)
        record = make(pipe, request, writer)
    report(record, Path(take), as_json)


def stored_bytes(
    request: TakeRequest, timeline: Timeline, geometry: Geometry, dtype: str, checkpoints: CheckpointConfig
) -> int:
    """What a take's latents and checkpoints will take of the disk, roughly."""
    from longlive_rag.presets.plan import checkpoint_bytes

    latents = timeline.latent_frames * (geometry.latent_bytes + geometry.embedding_bytes)
    return latents + checkpoint_bytes(checkpoints, timeline, request.context, geometry.page_bytes(dtype))


def open_backbone(
    preset: Preset,
    request: TakeRequest,
    device: str,
    dtype: str,
    codec: str,
    provenance: Provenance,
    prompt_embeds: Path | None = None,
) -> tuple[LongLiveRAGPipeline, TakeRun]:
    """Load the backbone and let it look at the request; reports words it has never read on stderr."""
    begin_s = time.perf_counter()
    with refuse_bad_input(FLAGS):
        from longlive_rag.generation.noise import PhiloxNoise
        from longlive_rag.media.video import check_codec
        from longlive_rag.takes.writer import TakeRun
        from longlive_rag.weights.load import load_pipeline, pick_device, use_threads

        check_codec(codec)
        check_cache_fits(preset, request, dtype, device)
        with quiet_libraries():
            pipe = load_pipeline(preset.name, dtype, device, provenance.policy, prompt_embeds)
        threads = use_threads(pipe)
        pipe.check(request)
        prompts = (request.prompt, *(cue.prompt for cue in request.cues))
        unknown = {words: found for words in prompts if (found := pipe.unknown_words(words))}
    for words, found in unknown.items():
        click.echo(f"Note: {preset.name} has never read {', '.join(found)} (in '{words}').", err=True)
    run = TakeRun(
        backbone=preset.name,
        folder=preset.folder,
        device=str(pick_device(device)),
        dtype=dtype,
        threads=threads,
        noise=PhiloxNoise.name,
        codec=codec,
        load_seconds=round(time.perf_counter() - begin_s, 3),
        unknown_words=unknown,
        provenance=provenance,
        backbone_id=backbone_id(preset.folder),
    )
    return pipe, run


def check_cache_fits(preset: Preset, request: TakeRequest, dtype: str, device: str) -> None:
    """Raise ValueError if the window's keys and values alone are more than a CPU's memory; a GPU says so itself."""
    from longlive_rag.diagnostics.doctor import free_memory
    from longlive_rag.weights.load import pick_device

    if pick_device(device).type != "cpu":
        return
    page_bytes = read_geometry(preset, request.output, request.memory.encoder).page_bytes(dtype)
    frames, free_bytes = request.context.window_frames, free_memory()
    if frames * page_bytes > free_bytes:
        raise ValueError(
            f"window_frames is {frames}; their keys and values take {frames * page_bytes / 2**30:.1f} GiB, and "
            f"{free_bytes / 2**30:.1f} GiB are free"
        )


def provenance_of(
    preset: Preset, license_policy: str | None, deliverable: bool, phase: str | None, show_label: bool
) -> Provenance:
    """The rights of the backbone's files under the policy in force, and the labels that were asked for.

    Raises:
        LicenseError: if the policy does not allow one of the files.
        ValueError: if the policy or the phase can't be what was given.
    """
    from longlive_rag.rights.policy import enforce, pick_policy
    from longlive_rag.rights.provenance import Provenance

    policy = pick_policy(license_policy)
    files = tuple(enforce(preset.folder, policy))
    return Provenance(files, policy, "deliverable" if deliverable else "reference", phase, show_label)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without the libraries' own progress bars and notes: stderr is for what the user can act on."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def make(pipe: LongLiveRAGPipeline, request: TakeRequest, take: TakeWriter) -> dict[str, Any]:
    """Generate and write block after block; returns the take's record.

    Raises:
        Stopped: on Ctrl-C; what was finished is kept.
        Failed: if disk or memory run out; what was finished is kept.
    """
    from tqdm import tqdm

    bar = tqdm(
        total=request.pixel_frames,
        initial=take.frames_before,
        unit=" frames",
        bar_format=PROGRESS,
        smoothing=0,
        mininterval=0.2 if sys.stderr.isatty() else 10,
        file=sys.stderr,
    )
    with ending_well(take):
        with bar:
            for block in pipe.stream(request, stores=[take]):
                take.add(block)
                bar.set_postfix_str(
                    f"{take.frames_retrieved} past frames retrieved{in_words(take.pages)}", refresh=False
                )
                bar.update(len(block.pixel_frames))
        record = take.finish("finished")
    return check_finished(record, take.folder)


@contextmanager
def ending_well(take: TakeWriter) -> Iterator[None]:
    """Finish the take that is made in the `with` body, should it end early.

    Raises:
        Stopped: on Ctrl-C; what was finished is kept.
        Failed: if disk or memory run out; what was finished is kept.
    """
    import torch

    try:
        yield
    except KeyboardInterrupt as error:
        raise Stopped(f"Stopped; {kept(take.finish('interrupted'), take.folder)}") from error
    except (OSError, MemoryError, torch.OutOfMemoryError) as error:
        raise Failed(f"{reason_of(error)}; {kept(finish_failed(take, error), take.folder)}") from error
    except BaseException as error:
        take.finish("failed", error)
        raise


def check_finished(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The record of a take that was made to its end; raises Failed if its last files found no room."""
    if record["status"] != "finished":
        raise Failed(f"{record['error']['message']}; {kept(record, folder)}")
    return record


def in_words(pages: PageCounters | None) -> str:
    """What the page cache holds and had to make again, for a progress line."""
    if pages is None or not pages.fetched:
        return ""
    held = f", {(pages.gpu_bytes + pages.host_bytes) / 2**30:.2f} GiB of pages"
    return f"{held}, {pages.remade} made again" if pages.remade else held


def finish_failed(take: TakeWriter, error: BaseException) -> dict[str, Any]:
    """Finish a take that gave out; raises Failed if there is no room even for its record."""
    try:
        return take.finish("failed", error)
    except OSError as later:
        raise Failed(f"{reason_of(error)}; {take.folder} has its video, but no room for its record") from later


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line."""
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def kept(record: dict[str, Any], folder: Path) -> str:
    """What there is after an early end."""
    video = record["video"]
    if not video["frames"]:
        return "nothing was finished, so nothing was written"
    there = f"kept the first {video['seconds']:.1f} s ({video['frames']} frames) in {folder / video['file']}"
    return f"{there}; to go on: longlive-rag resume {folder}" if record["latents"] else there


def report(record: dict[str, Any], folder: Path, as_json: bool) -> None:
    """Say what happened and where to look."""
    from longlive_rag.takes.folder import CONTACT_SHEET, MEMORY_MAP, RECORD

    video, timings, memory = record["video"], record["timings"], record["memory"]
    paths = {
        "video": folder / video["file"],
        "contact_sheet": folder / CONTACT_SHEET,
        "memory_map": folder / MEMORY_MAP,
        "record": folder / RECORD,
    }
    if as_json:
        result = {
            "status": record["status"],
            "take": str(folder),
            **{name: str(path) for name, path in paths.items()},
            "frames": video["frames"],
            "seconds": video["seconds"],
            "generated_in_seconds": timings["seconds"],
            "frames_per_second": timings["frames_per_second"],
            "seconds_by_stage": timings["by_stage"],
            **memory,
            "cues": record["cues"],
            "unknown_words": record["run"]["unknown_words"],
        }
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    new = timings["new_frames"]
    frames = f"{video['frames']} frames" if new == video["frames"] else f"{video['frames']} frames, {new} of them new"
    click.echo(
        f"{video['seconds']:g} s of video ({frames}) in {timings['seconds']:.1f} s: "
        f"{timings['frames_per_second']:.1f} frames per second end to end"
    )
    retrieved = f"{memory['frames_retrieved']} past frames retrieved"
    remembered = f"{retrieved} in {memory['blocks_with_memory']} of {video['blocks']} blocks"
    click.echo(remembered if record["request"]["context"]["memory_frames"] else "memory was off")
    if memory["frames_kept_out"]:
        known = memory["frames_admitted"] + memory["frames_kept_out"]
        views = len(memory["admitted"])
        click.echo(f"memory kept {memory['frames_admitted']} of {known} frames: {views} first showings")
    for cue in record["cues"]:
        click.echo(f"cue {cue['cue']} took over at {cue['seconds']:.1f} s: {cue['prompt']}")
    labels = {"watch": "video", "frames": "contact_sheet", "memory": "memory_map", "how": "record"}
    for label, name in labels.items():
        click.echo(f"  {label:<7} {paths[name]}")
