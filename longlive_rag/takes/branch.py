"""Takes as documents: what a take on disk asks for, and what it asks for when it is extended or branched."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

from backbone.errors import FieldError
from longlive_rag.config import Cue, Reseed, TakeRequest
from longlive_rag.media.video import VideoWriter
from longlive_rag.presets.geometry import backbone_id
from longlive_rag.presets.preset import Preset, load_preset
from longlive_rag.takes.folder import (
    CHECKPOINT_FILES,
    CHECKPOINTS,
    CONTACT_SHEET,
    INPUTS,
    LATENTS,
    MEMORY_MAP,
    RECORD,
    VIDEO,
)  # fmt: skip
from longlive_rag.takes.inspection import intact_frames
from longlive_rag.takes.record import Origin, TakeRecord, read_record, write_record
from longlive_rag.timecode import format_timecode
from longlive_rag.timeline import Timeline
from retrieval.files import check_plain, sync_folder
from retrieval.store import LatentStore, block_numbers, block_path, copy_blocks

LARGEST_SEED = 2**64 - 1


def is_finished(take: Path, request: TakeRequest, backbone_id: str) -> bool:
    """Whether a folder holds the very take that is asked for, finished, and made by these weights.

    Raises:
        ValueError: if its record can't be read.
    """
    if not (take / RECORD).exists():
        return False
    record = read_record(take)
    return record.status == "finished" and record.run.backbone_id == backbone_id and record.request == request


def backbone_of(record: TakeRecord, take: Path, named: str | None = None) -> Preset:
    """The backbone that a take was made with, under its name, or else in the folder where it was.

    Args:
        named: where the user says that it is.

    Raises:
        ValueError: if it isn't there, or what is there are other weights.
    """
    run, found = record.run, None
    for name in [named] if named else dict.fromkeys([run.backbone, str(run.folder)]):
        try:
            found = load_preset(name)
        except ValueError as error:
            if named:
                raise
            missing = error
            continue
        if run.backbone_id in (None, backbone_id(found.folder)):
            return replace(found, name=run.backbone) if named is None else found
    if found is None:
        raise ValueError(
            f"{take} was made with the backbone {run.backbone!r}, which isn't here ({missing}); "
            "name its folder with --backbone"
        )
    raise ValueError(
        f"{take} was made with the backbone {run.backbone!r}, but the weights in {found.folder} are others; "
        "name the folder of the right ones with --backbone"
    )


def timeline_of(request: TakeRequest, preset: Preset) -> Timeline:
    """Blocks and frames of a request."""
    return Timeline(request.pixel_frames, request.output.fps, request.context.frames_per_block, preset.temporal_factor)


def extended(request: TakeRequest, seconds: float, prompt: str | None, cut: bool = False) -> TakeRequest:
    """The request of a take extended by `seconds`, under another prompt from there on if one is given.

    Args:
        cut: whether another shot begins with the prompt.

    Raises:
        ValueError: if it would be too long, or not longer by a frame.
    """
    if not seconds * request.output.fps > 0.5:
        raise FieldError("seconds", seconds, f"a take is extended by at least a frame, {1 / request.output.fps:g} s")
    cues = request.cues if prompt is None else (*request.cues, Cue(request.seconds, prompt, cut))
    return replace(request, seconds=request.seconds + seconds, cues=cues)


def branched(
    request: TakeRequest,
    timeline: Timeline,
    blocks: int,
    at_seconds: float,
    prompt: str | None = None,
    seed: int | None = None,
    seconds: float | None = None,
    cut: bool = False,
) -> tuple[TakeRequest, int]:
    """The request of a take that begins as this one and goes another way.

    Args:
        timeline: of the request.
        blocks: that the take has.
        at_seconds: where it goes another way: at the first block that begins there or later.
        prompt: takes over there; later cues are dropped. None keeps them.
        seed: of the noise from there on; left out, the take's where there is a prompt, else the next number.
        seconds: length of the new take; left out, the take's.
        cut: whether another shot begins with the prompt.

    Returns:
        The request, and how many blocks are common.

    Raises:
        ValueError: if the take does not reach so far, or nothing would be left to make.
    """
    first = timeline.cue_block(at_seconds) if 0 < at_seconds < math.inf else None
    if first is None or first > blocks:
        end = timeline.starts_at(blocks)
        wanted = f"the take can be branched after its start and up to {end:g} s"
        raise FieldError("at", at_seconds, wanted, f"{at_seconds:g} s")
    cues, reseeds = request.cues, tuple(r for r in request.reseeds if timeline.cue_block(r.seconds) < first)
    if prompt is not None:
        cues = (*(cue for cue in cues if timeline.cue_block(cue.seconds) < first), Cue(at_seconds, prompt, cut))
    if seed is None and prompt is None:
        seed = (max([request.seed, *(reseed.seed for reseed in reseeds)]) + 1) % LARGEST_SEED
    if seed is not None:
        reseeds = (*reseeds, Reseed(at_seconds, seed))
    length = request.seconds if seconds is None else seconds
    if timeline.starts_at(first) >= length:
        shown = f"{length:g}, but the new part begins at {timeline.starts_at(first):g} s"
        raise FieldError("seconds", length, "say how long the new take is to be", shown)
    return replace(request, seconds=length, cues=cues, reseeds=reseeds), first


def copy_start(
    parent: Path, record: TakeRecord, folder: Path, request: TakeRequest, timeline: Timeline, blocks: int
) -> None:
    """Make `folder` a take that holds the first blocks of another one, as files of its own, ready to be resumed.

    The other take is only read. If the process dies meanwhile, `folder` is a take with fewer blocks; where the disk
    refuses, nothing is left.

    Args:
        parent: the other take.
        record: its record.
        folder: where nothing is yet but a claim.
        request, timeline: of the new take; up to these blocks they must be the other's.
        blocks: how many.

    Raises:
        OSError: if the disk refuses.
    """
    try:
        _copy(parent, record, folder, request, timeline, blocks)
    except BaseException:
        for name in (RECORD, VIDEO, *INPUTS):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        for path in (folder / LATENTS).glob("*.h5"):
            path.unlink()
        raise


def _copy(
    parent: Path, record: TakeRecord, folder: Path, request: TakeRequest, timeline: Timeline, blocks: int
) -> None:
    for name in INPUTS:
        if (parent / name).is_file():
            shutil.copyfile(parent / name, folder / name)
    origin = Origin(take=str(parent), blocks=blocks, at=format_timecode(timeline.starts_at(blocks)))
    changes = {"status": "running", "request": request, "branched_from": origin}
    write_record(folder, record.model_copy(update=changes))
    copy_blocks(parent / LATENTS, folder / LATENTS, blocks)
    _copy_checkpoints(parent, folder, blocks)
    _copy_video(parent, record, folder, timeline, blocks)


def cut_back(take: Path, request: TakeRequest, timeline: Timeline, blocks: int) -> None:
    """Make a take, in place, one of fewer blocks that another request goes on with; whoever does it holds its claim.

    If the process dies meanwhile, or the disk refuses, it is one that lacks blocks: what it was, or the new one.

    Args:
        take: the take.
        request, timeline: that it goes on with; up to these blocks they must be the take's.
        blocks: that are left.

    Raises:
        OSError: if the disk refuses.
    """
    record = read_record(take)
    for block in reversed(block_numbers(take / LATENTS)[blocks:]):
        block_path(take / LATENTS, block).unlink()
    sync_folder(take / LATENTS)  # under the new request no old block may come back
    for path in (take / CHECKPOINTS).glob(CHECKPOINT_FILES):
        if int(path.stem) > blocks:
            path.unlink()
    for name in (CONTACT_SHEET, MEMORY_MAP):
        (take / name).unlink(missing_ok=True)
    write_record(take, record.model_copy(update={"status": "running", "request": request}))
    _copy_video(take, record, take, timeline, blocks)


def _copy_video(parent: Path, record: TakeRecord, folder: Path, timeline: Timeline, blocks: int) -> None:
    """The part of a take's video that shows its first blocks, into another folder or its own."""
    frames, output = min(timeline.pixels_of(blocks).start, intact_frames(parent, record)), record.request.output
    if frames:
        VideoWriter(
            folder / VIDEO,
            width=output.width,
            height=output.height,
            fps=output.fps,
            upscale=output.upscale,
            codec=record.run.codec,
            sums=True,
            begin=(parent / VIDEO, frames),
        ).close()


def check_latents(take: Path) -> LatentStore | None:
    """A take's stored blocks, each read and checked; None if there are none.

    Raises:
        DamagedError: if one is damaged or missing.
    """
    folder = take / LATENTS
    if not folder.is_dir() or not block_numbers(folder):
        return None
    store = LatentStore(folder)
    store.check()
    return store


def _copy_checkpoints(parent: Path, folder: Path, blocks: int) -> None:
    for path in (parent / CHECKPOINTS).glob(CHECKPOINT_FILES):
        if int(path.stem) <= blocks:
            check_plain(path)
            (folder / CHECKPOINTS).mkdir(exist_ok=True)
            shutil.copyfile(path, folder / CHECKPOINTS / path.name)
